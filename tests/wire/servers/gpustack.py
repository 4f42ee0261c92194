"""GPUStack: the OpenAI API at /v1 and, as it used to be, at /v1-openai, with the models that have a running instance.

Facts: gpustack gpustack/routes/openai.py (list_models), routes.py, probes.py, and its documentation. `meta` is null unless
?with_meta=true is asked for. /healthz and /readyz are the JSON text "ok", with its quotes; /version has a git_commit. Those three are
open, all of /v1 always wants a key (tests that want that call require_key())."""

from .base import Server


class Gpustack(Server):
    type, spellings, prefixes, owner = "gpustack", ("gpustack",), ("gpustack",), "gpustack"
    health = "/healthz"
    public = ("/healthz", "/readyz", "/version")
    refusal = {"error": {"code": 401, "type": "Unauthorized", "message": "Invalid authentication credentials"}}
    headers = (("server", "uvicorn"),)

    def setup(self):
        super().setup()
        for path in ("/healthz", "/readyz"):
            self.json(path, lambda: b'"ok"')
        self.json("/version", lambda: {"version": "v2.0.3", "git_commit": "651f6ce"})
        self.json("/v1-openai/models", self.openai_list)
        for path in ("/chat/completions", "/completions", "/embeddings"):
            self.on("/v1-openai" + path, self.answer)

    def openai_entry(self, model):
        return dict(super().openai_entry(model), meta=None)

    def openai_list(self):
        listed = super().openai_list()
        return {"data": listed["data"], "object": listed["object"]}
