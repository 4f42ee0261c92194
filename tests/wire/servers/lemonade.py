"""Lemonade Server: its API at /api/v1, where the list says what is downloaded and the health which models are loaded.

Facts: lemonade docs/api/openai.md (GET /v1/models), docs/api/lemonade.md (GET /v1/health, GET /live), docs/api/ollama.md. `size`
counts GB; max_context_window is what the model can do, context_length what it is loaded or configured with, and both may be
missing. Servers of 2026 answer every path below /api/v0, /v1 and /v0 as well, LM Studio's /api/v0/models included, and Ollama's
API with a digest of nothing but zeros (LemonadeWithTags)."""

from .base import Server
from .ollama import OllamaCalls


class Lemonade(Server):
    type, spellings, prefixes, owner = "lemonade", ("lemonade",), ("lemonade",), "lemonade"
    health, lists, base = "/api/v1/health", {"/api/v1/models": "openai_list"}, "/api/v1"
    public = ("/live",)

    def setup(self):
        super().setup()
        self.json("/api/v1/health", self.health_reply)
        self.text("/")
        self.json("/live", lambda: {"status": "ok"})

    def health_reply(self):
        """Loaded are the models with a fact loaded=True: the only place where the server tells."""
        loaded = [m for m in self.models if self.facts.get(m, {}).get("loaded")]
        kinds = ("transcription", "embedding", "image", "llm", "reranking", "tts")
        return {"status": "ok", "version": "10.0.0", "websocket_port": 9000, "model_loaded": (loaded or [None])[-1], "all_models_loaded": [
            {"model_name": m, "checkpoint": self.openai_entry(m)["checkpoint"], "last_use": 1732123456.789, "type": "llm", "device": "cpu",
             "pinned": False, "recipe": self.openai_entry(m)["recipe"], "pid": 12345, "recipe_options": {"ctx_size": 4096},
             "backend_url": "http://127.0.0.1:8001/v1"} for m in loaded],
            "pinned_models": dict.fromkeys(kinds, 0), "max_models": dict.fromkeys(kinds, 1), "telemetry": {"enabled": False},
            "update_check_done": True}

    def openai_entry(self, model):
        return dict(super().openai_entry(model), checkpoint="amd/Qwen2.5-0.5B-Instruct-quantized_int4-float16-cpu-onnx",
                    recipe="oga-cpu", size=0.77, max_context_window=32768, context_length=4096, downloaded=True, suggested=True,
                    update_available=False, labels=["chat", "reasoning"])

    def with_facts(self, model, entry, known=False):
        entry = super().with_facts(model, entry, known)
        entry.pop("loaded", None)
        return entry


class LemonadeWithTags(OllamaCalls, Lemonade):
    version = "0.16.1"

    def setup(self):
        super().setup()
        for path, handler in list(self.routes.items()):
            if path.startswith("/api/v1/"):
                for prefix in ("/api/v0/", "/v1/", "/v0/"):
                    self.on(prefix + path[len("/api/v1/"):], handler)
        self.ollama_calls()
        self.json("/api/tags", self.tags)

    def tags_entry(self, model):
        return {"name": model + ":latest", "model": model + ":latest", "modified_at": "2024-01-01T00:00:00Z", "size": 382252089,
                "digest": "sha256:" + "0" * 64,
                "details": {"parent_model": "", "format": "gguf", "family": "oga-cpu", "families": ["oga-cpu"], "parameter_size": "0.5B",
                            "quantization_level": ""}}
