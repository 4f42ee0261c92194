"""LiteLLM's proxy: a list that says "openai" of every model, and a liveness path that names the product by its text.

Facts: litellm proxy/proxy_server.py (model_list), proxy/utils.py (create_model_info_response), proxy/health_endpoints, and the
documentation of the health checks. created and owned_by of an entry are constants; servers of 2026 add max_input_tokens and
max_output_tokens where they are known. /health/liveliness is a JSON text, with its quotes. The x-litellm-* headers are on
replies of models only, not on lists. With a master key everything but the health paths for probes is 401 without it."""

from .base import Server


class Litellm(Server):
    """GET /health runs a paid completion on every model: whoever calls it makes the test fail."""
    type, spellings, prefixes, owner = "litellm", ("litellm",), ("litellm",), "openai"
    health = "/health/liveliness"
    public = ("/health/liveliness", "/health/liveness", "/health/readiness")
    refusal = {"error": {"message": "Authentication Error, No api key passed in.", "type": "auth_error", "param": "None", "code": "401"}}
    headers = (("server", "uvicorn"),)

    def setup(self):
        super().setup()
        for path in ("/health/liveliness", "/health/liveness"):
            self.json(path, lambda: b'"I\'m alive!"')
        self.json("/health/readiness", lambda: {"status": "healthy", "db": "Not connected", "cache": None, "litellm_version": "1.88.0",
                                                "success_callbacks": []})
        self.json("/models", self.openai_list)
        self.json("/v1/model/info", lambda: {"data": [{"model_name": m, "litellm_params": {"model": "openai/" + m}, "model_info": {
            "id": m, "db_model": False, "key": m, "max_tokens": 16384, "max_input_tokens": 128000}} for m in self.models]})
        self.on("/health", self.costly)

    def openai_entry(self, model):
        return {"id": model, "object": "model", "created": 1677610602, "owned_by": self.owner, "max_input_tokens": 128000,
                "max_output_tokens": 16384}

    def openai_list(self):
        listed = super().openai_list()
        return {"data": listed["data"], "object": listed["object"]}

    def costly(self, conn, request):
        self.failures.append("GET /health of LiteLLM was called: it sends a completion to every model")
        conn.reply({"healthy_endpoints": []})
