"""SGLang: one model at /v1/models with max_model_len, /health without a body, /get_model_info, /server_info.

Facts: sglang srt/entrypoints/openai/protocol.py (ModelCard), srt/entrypoints/http_server.py, srt/entrypoints/ollama. Servers of
2026 answer part of Ollama's API too (SglangWithTags): a /api/tags whose digest starts with "sha256:sglang", and no /api/version."""

from .base import Server
from .ollama import OllamaCalls


class Sglang(Server):
    type, spellings, prefixes, owner = "sglang", ("sglang",), ("sglang",), "sglang"
    public = ("/health",)
    extras = ("/metrics",)

    def setup(self):
        super().setup()
        self.on("/health", lambda c, r: c.reply(b""))
        self.json("/get_model_info", lambda: {"model_path": (self.models or [""])[0], "tokenizer_path": (self.models or [""])[0],
                                              "is_generation": True, "preferred_sampling_params": None, "weight_version": "default"})
        self.json("/server_info", lambda: {"model_path": (self.models or [""])[0], "context_length": None, "max_total_num_tokens": 442368,
                                           "version": "0.5.6", "internal_states": []})

    def openai_entry(self, model):
        return dict(super().openai_entry(model), root=model, parent=None, max_model_len=131072)


class SglangWithTags(OllamaCalls, Sglang):
    lists = {"/v1/models": "openai_list", "/api/tags": "tags"}

    def setup(self):
        super().setup()
        self.ollama_calls()
        for path in ("/api/version", "/api/ps", "/api/embed", "/api/embeddings"):
            del self.routes[path]
        self.json("/", lambda: b'"SGLang is running"')

    def tags_entry(self, model):
        return {"name": model, "model": model, "modified_at": "2026-02-03T12:00:00.123Z", "size": 0, "digest": "sha256:sglang" + "0" * 58,
                "details": {"format": "sglang", "family": model.rpartition("/")[2], "parameter_size": "unknown"}}
