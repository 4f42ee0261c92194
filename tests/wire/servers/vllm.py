"""vLLM: /v1/models with max_model_len, the window that requests have; /health without a body, /version.

Facts: vllm entrypoints/openai protocol.py (ModelCard, ModelPermission) and api_server (/health, /version). An adapter has an
entry of its own with `parent` set to its base model and max_model_len null."""

from .base import CREATED, Server


class Vllm(Server):
    type, spellings, prefixes, owner = "vllm", ("vllm",), ("vllm",), "vllm"
    messages = "/v1/messages"
    public = ("/health", "/version")
    extras = ("/metrics",)
    refusal = {"error": "Unauthorized"}

    def setup(self):
        super().setup()
        self.on("/health", lambda c, r: c.reply(b""))
        self.json("/version", lambda: {"version": "0.11.2"})

    def openai_entry(self, model):
        return dict(super().openai_entry(model), root=model, parent=None, max_model_len=131072, permission=[
            {"id": "modelperm-1", "object": "model_permission", "created": CREATED, "allow_create_engine": False, "allow_sampling": True,
             "allow_logprobs": True, "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False, "organization": "*",
             "group": None, "is_blocking": False}])
