"""vLLM-MLX: the shortest list of all, and a /health that says whether a model is loaded.

Facts: vllm-mlx vllm_mlx/api/models.py (ModelInfo: id, object, created, owned_by "vllm-mlx") and server.py (/health)."""

from .base import Server


class VllmMlx(Server):
    type, spellings, prefixes, owner = "vllm-mlx", ("vllm-mlx", "vllmmlx"), ("vllm-mlx",), "vllm-mlx"
    messages = "/v1/messages"
    public = ("/health",)

    def setup(self):
        super().setup()
        self.json("/health", lambda: {"status": "healthy", "model_loaded": bool(self.models), "model_name": (self.models or [None])[0],
                                      "model_type": "llm", "engine_type": "batched", "mcp": None})
