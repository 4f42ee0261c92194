"""oMLX: /v1/models with max_model_len, /v1/models/status with what is in memory, a /health that counts models.

Facts: omlx omlx/api/openai_models.py (ModelInfo) and omlx/server.py (/health, /v1/models, /v1/models/status). Older ones have no
max_model_len. All of /v1 wants the key when one is set."""

from .base import Server


class Omlx(Server):
    type, spellings, prefixes, owner = "omlx", ("omlx",), ("omlx",), "omlx"
    messages = "/v1/messages"
    public = ("/health",)

    def setup(self):
        super().setup()
        self.json("/health", lambda: {"status": "healthy", "default_model": (self.models or [None])[0], "engine_pool": {
            "model_count": len(self.models), "loaded_count": 0, "max_model_memory": 103079215104, "current_model_memory": 0}, "mcp": None})
        self.json("/v1/models/status", lambda: {"models": [{"id": m, "loaded": False, "estimated_size": 4294967296, "pinned": False,
                                                            "max_context_window": 32768, "max_tokens": 8192} for m in self.models]})

    def openai_entry(self, model):
        return dict(super().openai_entry(model), max_model_len=32768)
