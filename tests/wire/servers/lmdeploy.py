"""LMDeploy's api_server: /v1/models without a window, /health without a body.

Facts: lmdeploy lmdeploy/serve/openai/protocol.py (ModelCard, ModelPermission) and api_server.py (/health)."""

from .base import CREATED, Server


class Lmdeploy(Server):
    type, spellings, prefixes, owner = "lmdeploy", ("lmdeploy",), ("lmdeploy",), "lmdeploy"
    public = ("/health",)

    def setup(self):
        super().setup()
        self.on("/health", lambda c, r: c.reply(b""))

    def openai_entry(self, model):
        return dict(super().openai_entry(model), root=model, parent=None, permission=[
            {"id": "modelperm-1", "object": "model_permission", "created": CREATED, "allow_create_engine": False, "allow_sampling": True,
             "allow_logprobs": True, "allow_search_indices": True, "allow_view": True, "allow_fine_tuning": False, "organization": "*",
             "group": None, "is_blocking": False}])
