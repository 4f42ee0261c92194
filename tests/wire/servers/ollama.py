"""Ollama: "Ollama is running" at /, the lists /api/tags (on disk) and /api/ps (in memory), /api/version, /api/show, its own
chat, generate and embed calls, and the OpenAI and Messages APIs below /v1.

Facts: ollama docs/api.md and api/types.go (ListModelResponse, ProcessModelResponse, ShowResponse). A digest is 64 hex digits
with nothing in front of them: all imitations of /api/tags write "sha256:" there. details.context_length, .embedding_length
and capabilities are in the lists of servers of 2026 only; remote_model and remote_host only in those of cloud models;
families may be null. context_length in /api/ps is the window that the model was loaded with."""

from .base import Server, body_of, digest_of, merge

MODIFIED = "2024-09-25T12:00:00.123-07:00"
TIMES = {"total_duration": 885095291, "load_duration": 3753500, "prompt_eval_count": 26, "prompt_eval_duration": 328493000,
         "eval_count": 12, "eval_duration": 552222000}


class OllamaCalls:
    """The calls of Ollama's API. Imitations have them as well."""

    version = "0.12.6"
    window = 4096  # of a model that is loaded

    def ollama_calls(self):
        self.loaded = []  # names of self.models, or whole entries of /api/ps
        self.json("/api/version", lambda: {"version": self.version})
        self.json("/api/ps", self.ps)
        self.on("/api/show", self.show)
        self.on("/api/chat", lambda c, r: self.native(c, r, {"message": {"role": "assistant", "content": "hello"}}))
        self.on("/api/generate", lambda c, r: self.native(c, r, {"response": "hello", "context": [1, 2, 3]}))
        self.on("/api/embed", self.embed)
        self.on("/api/embeddings", lambda c, r: self.say(c, r, {"embedding": [0.5670403838157654, -0.00175]}))

    def tags_entry(self, model):
        return {"name": model, "model": model, "modified_at": MODIFIED, "size": 2019393189, "digest": digest_of(model),
                "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B",
                            "quantization_level": "Q4_K_M", "context_length": 131072, "embedding_length": 3072},
                "capabilities": ["completion", "tools"]}

    def tags(self):
        return {"models": [self.with_facts(m, self.tags_entry(m)) for m in self.models]}

    def ps_entry(self, model):
        entry = self.with_facts(model, self.tags_entry(model))
        kept = {key: entry[key] for key in ("name", "model", "size", "digest", "details") if key in entry}
        return dict(kept, expires_at="2024-09-25T12:05:00.123-07:00", size_vram=entry.get("size", 0), context_length=self.window)

    def ps(self):
        return {"models": [merge(self.ps_entry(m.get("name")), m) if isinstance(m, dict) else self.ps_entry(m) for m in self.loaded]}

    def model_of(self, request):
        """The entry of the model that a request names, or None."""
        name = body_of(request).get("model") or body_of(request).get("name")
        found = [m for m in self.models if m == name or m == "%s:latest" % name]
        return self.with_facts(found[0], self.tags_entry(found[0])) if found else None

    def show(self, conn, request):
        entry = self.model_of(request)
        if not entry:
            return conn.reply({"error": "model not found"}, 404, self.ctype)
        details = dict(entry.get("details") or {})
        family, window = details.get("family") or "llama", details.pop("context_length", 131072)
        width = details.pop("embedding_length", 3072)
        conn.reply({"license": "a licence", "modelfile": "FROM " + entry["name"], "parameters": "num_ctx                        4096",
                    "template": "{{ .Prompt }}", "details": details, "model_info": {
                        "general.architecture": family, "general.file_type": 15, "general.parameter_count": 3212749888,
                        family + ".block_count": 28, family + ".context_length": window, family + ".embedding_length": width,
                        "tokenizer.ggml.tokens": None},
                    "capabilities": entry.get("capabilities", []), "modified_at": entry.get("modified_at")}, ctype=self.ctype)

    def say(self, conn, request, body, ctype=None):
        conn.reply(dict(body, served_by=self.name, path=request.path), ctype=ctype or self.ctype)

    def native(self, conn, request, said):
        """One line that is the whole answer. Without "stream" in the request it is a stream of such lines."""
        body = body_of(request)
        line = dict({"model": body.get("model", ""), "created_at": MODIFIED}, **said, done=True, done_reason="stop", **TIMES)
        self.say(conn, request, line, None if body.get("stream") is False else "application/x-ndjson")

    def embed(self, conn, request):
        body = body_of(request)
        given = body.get("input", "")
        self.say(conn, request, {"model": body.get("model", ""), "embeddings": [[0.010071029, -0.0017]] * (
            len(given) if isinstance(given, list) else 1), "total_duration": 14143917, "load_duration": 1019500, "prompt_eval_count": 8})


class Ollama(OllamaCalls, Server):
    type = "ollama"
    spellings, prefixes = ("ollama",), ("ollama",)
    health, lists, owner = "/", {"/api/tags": "tags", "/v1/models": "openai_list"}, "library"
    messages = "/v1/messages"
    extras = ("/api/version", "/api/ps")
    ctype = "application/json; charset=utf-8"

    def setup(self):
        super().setup()
        self.text("/", b"Ollama is running", "text/plain; charset=utf-8")
        self.ollama_calls()
