"""LocalAI: a list of nothing but ids, /readyz and /healthz, and paths that only it has.

Facts: LocalAI core/http/routes/localai.go and health.go, core/http/endpoints/openai/list.go (id and object, no created and no
owned_by), core/http/endpoints/localai/system.go, core/http/endpoints/ollama/models.go. /readyz is 503 while it starts. It is known
by /.well-known/localai.json (2026), before that by the "backends" in /system; /version is {"version"} as many others have it.
With keys, /healthz, /readyz and the well-known document stay open. Servers of 2026 have Ollama's API too (LocalaiWithTags): names
with ":latest", digests with "sha256:" in front of them, and null for a list without models."""

from .base import Server, digest_of, merge
from .ollama import OllamaCalls

VERSION = "v3.7.0 (9ecfdc593827)"


class Localai(Server):
    type, spellings, prefixes = "localai", ("localai",), ("localai",)
    health = "/readyz"
    public = ("/healthz", "/readyz", "/.well-known/localai.json")
    refusal = {"error": {"code": 401, "message": "An authentication key is required", "type": "invalid_request_error"}}

    def setup(self):
        super().setup()
        self.text("/")
        for path in ("/readyz", "/healthz"):
            self.text(path, b"OK", "text/plain")
        self.json("/version", lambda: {"version": VERSION})
        self.json("/system", lambda: {"backends": ["llama-cpp", "whisper", "stablediffusion-ggml"], "loaded_models": [
            {"id": m} for m in self.models if self.facts.get(m, {}).get("loaded")]})
        self.json("/.well-known/localai.json", lambda: {
            "capabilities": {"config_metadata": True, "config_patch": True},
            "endpoint_groups": {"openai_compatible": {"models": "/v1/models"}},
            "endpoints": {"chat_completions": "/v1/chat/completions", "embeddings": "/v1/embeddings", "models": "/v1/models"},
            "version": VERSION})

    def openai_entry(self, model):
        return {"id": model, "object": "model"}

    def with_facts(self, model, entry, known=False):
        entry = super().with_facts(model, entry, known)
        entry.pop("loaded", None)
        return entry


class LocalaiWithTags(OllamaCalls, Localai):
    version = "0.9.0"

    def setup(self):
        super().setup()
        self.ollama_calls()
        self.json("/api/tags", self.tags)

    def tags_entry(self, model):
        name = model if ":" in model else model + ":latest"
        return {"name": name, "model": name, "modified_at": "2026-05-01T12:00:00.123456789Z", "size": 2019393189,
                "digest": "sha256:" + digest_of(model), "capabilities": ["completion"],
                "details": {"parent_model": "", "format": "gguf", "family": "llama-cpp", "families": ["llama-cpp"], "parameter_size": "",
                            "quantization_level": "Q4_K_M"}}

    def tags(self):
        return merge(super().tags(), {} if self.models else {"models": None})
