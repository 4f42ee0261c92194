"""One scripted server per backend type, with the paths and replies that its documentation shows
(profiles-models.md 1.3 and 2.3-2.7) and nothing else: what it does not have is 404."""

from backend import Backend

CHAT_ID = {"id": "c1", "object": "chat.completion"}


class Server(Backend):
    """A kind is: its spellings, its prefixes below /olla/, its paths, and how its list looks."""

    spellings = ()
    prefixes = ()
    health = "/health"
    lists = {"/v1/models": "openai_list"}  # the first is the one that olla reads
    base = "/v1"  # where its OpenAI API is
    messages = None  # the path of its Messages API
    owner = "us"
    probe_paths = ("/", "/health", "/health/liveliness", "/healthz", "/readyz", "/v1/models", "/api/tags", "/api/v0/models",
                   "/api/v1/models", "/api/v1/health", "/engines/v1/models", "/up", "/list", "/own/models")

    def setup(self):
        self.routes = {}
        self.on(self.health, lambda c, r: c.reply({"status": "ok"}))
        for path, form in self.lists.items():
            self.on(path, lambda c, r, form=form: c.reply(getattr(self, form)()))
        for path in ("/chat/completions", "/completions", "/embeddings"):
            self.on(self.base + path, self.answer)
        if self.messages:
            self.on(self.messages, self.answer)

    def become(self, kind, models):
        """Another program is started on the same port."""
        self.__class__, self.models = kind, list(models)
        self.setup()

    def answer(self, conn, request):
        conn.reply(dict(CHAT_ID, served_by=self.name, path=request.path))

    def openai_entry(self, model):
        return {"id": model, "object": "model", "created": 1754535984, "owned_by": self.owner}

    def openai_list(self):
        return {"object": "list", "data": [self.openai_entry(m) for m in self.models]}

    @property
    def listed(self):
        """The list requests that came so far."""
        return [r for r in self.probes if r.path == next(iter(self.lists))]


class Ollama(Server):
    type = "ollama"
    spellings, prefixes = ("ollama",), ("ollama",)
    health, lists, owner = "/", {"/api/tags": "tags", "/v1/models": "openai_list"}, "library"
    messages = "/v1/messages"

    def setup(self):
        super().setup()
        self.on("/", lambda c, r: c.reply(b"Ollama is running", ctype="text/plain; charset=utf-8"))
        self.on("/api/chat", self.answer)

    def tags(self):
        return {"models": [{"name": m, "model": m, "modified_at": "2024-09-25T12:00:00.123-07:00", "size": 2019393189,
                            "digest": "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72",
                            "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
                                        "parameter_size": "3.2B", "quantization_level": "Q4_K_M"}} for m in self.models]}


class Llamacpp(Server):
    type = "llamacpp"
    spellings, prefixes = ("llamacpp", "llama-cpp", "llama_cpp"), ("llamacpp",)
    owner, lists = "llamacpp", {"/v1/models": "both"}
    messages = "/v1/messages"

    def both(self):
        return {"models": [{"name": m, "model": m, "modified_at": "", "size": "", "digest": "", "type": "model", "description": "",
                            "tags": [""], "capabilities": ["completion"], "parameters": "", "details": {
                                "parent_model": "", "format": "gguf", "family": "", "families": [""], "parameter_size": "",
                                "quantization_level": ""}} for m in self.models],
                "object": "list", "data": [dict(self.openai_entry(m), meta={
                    "vocab_type": 2, "n_vocab": 151936, "n_ctx_train": 32768, "n_embd": 896, "n_params": 494032768,
                    "size": 491400192}) for m in self.models]}


class LlamacppWithTags(Llamacpp):
    """Current ones answer /api/tags too, with the same document."""
    lists = {"/v1/models": "both", "/api/tags": "both"}


class Vllm(Server):
    type, spellings, prefixes, owner = "vllm", ("vllm",), ("vllm",), "vllm"
    messages = "/v1/messages"

    def openai_entry(self, model):
        return dict(super().openai_entry(model), root=model, parent=None, max_model_len=131072, permission=[
            {"id": "modelperm-1", "object": "model_permission", "created": 1, "organization": "*", "group": None}])


class VllmMlx(Server):
    type, spellings, prefixes, owner = "vllm-mlx", ("vllm-mlx", "vllmmlx"), ("vllm-mlx",), "vllm-mlx"
    messages = "/v1/messages"


class Omlx(Server):
    type, spellings, prefixes, owner = "omlx", ("omlx",), ("omlx",), "omlx"
    messages = "/v1/messages"


class Sglang(Server):
    type, spellings, prefixes, owner = "sglang", ("sglang",), ("sglang",), "sglang"

    def setup(self):
        super().setup()
        self.on("/health", lambda c, r: c.reply(b""))

    def openai_entry(self, model):
        return dict(super().openai_entry(model), root=model, parent=None, max_model_len=131072)


class Lmdeploy(Server):
    type, spellings, prefixes, owner = "lmdeploy", ("lmdeploy",), ("lmdeploy",), "lmdeploy"

    def openai_entry(self, model):
        return dict(super().openai_entry(model), root=model, parent=None, permission=[])


class LmStudio(Server):
    type = "lm-studio"
    spellings, prefixes = ("lm-studio", "lmstudio", "lm_studio"), ("lmstudio", "lm-studio", "lm_studio")
    health, owner = "/v1/models", "organization_owner"
    lists = {"/api/v0/models": "native_list", "/v1/models": "openai_list"}
    messages = "/v1/messages"

    def native_list(self):
        return {"object": "list", "data": [{"id": m, "object": "model", "type": "llm", "publisher": "lmstudio-community", "arch": "qwen2",
                                            "compatibility_type": "gguf", "quantization": "Q4_K_M", "state": "not-loaded",
                                            "max_context_length": 32768} for m in self.models]}


class LmStudioSaysYes(LmStudio):
    """It answers 200 with an error text to any path it does not know."""

    def setup(self):
        super().setup()
        self.on("*", lambda c, r: c.reply({"error": "Unexpected endpoint or method. (%s %s)" % (r.method, r.path)}))


class Lemonade(Server):
    type, spellings, prefixes, owner = "lemonade", ("lemonade",), ("lemonade",), "lemonade"
    health, lists, base = "/api/v1/health", {"/api/v1/models": "openai_list"}, "/api/v1"

    def openai_entry(self, model):
        return dict(super().openai_entry(model), checkpoint="amd/Qwen2.5-0.5B-Instruct-quantized_int4-float16-cpu-onnx",
                    recipe="oga-cpu", downloaded=True)


class Litellm(Server):
    """GET /health runs a paid completion on every model: whoever calls it makes the test fail."""
    type, spellings, prefixes, owner = "litellm", ("litellm",), ("litellm",), "openai"
    health = "/health/liveliness"

    def setup(self):
        super().setup()
        self.on("/health/liveliness", lambda c, r: c.reply(b'"I\'m alive!"'))
        self.on("/health", self.costly)

    def costly(self, conn, request):
        self.failures.append("GET /health of LiteLLM was called: it sends a completion to every model")
        conn.reply({"healthy_endpoints": []})


class Dmr(Server):
    type = "docker-model-runner"
    spellings, prefixes, owner = ("docker-model-runner", "dmr"), ("dmr",), "docker"
    health, lists, base = "/engines/v1/models", {"/engines/v1/models": "openai_list"}, "/engines/v1"
    messages = "/anthropic/v1/messages"

    def setup(self):
        super().setup()
        self.on("/", lambda c, r: c.reply(b"Docker Model Runner is running", ctype="text/plain"))


class Localai(Server):
    type, spellings, prefixes = "localai", ("localai",), ("localai",)
    health = "/readyz"

    def setup(self):
        super().setup()
        self.on("/readyz", lambda c, r: c.reply(b"OK", ctype="text/plain"))

    def openai_entry(self, model):
        return {"id": model, "object": "model"}


class Gpustack(Server):
    type, spellings, prefixes, owner = "gpustack", ("gpustack",), ("gpustack",), "gpustack"
    health = "/healthz"


class Compatible(Server):
    type = "openai-compatible"
    spellings, prefixes = ("openai-compatible", "openai"), ("openai", "openai-compatible")
    health = "/v1/models"


KINDS = (Ollama, Llamacpp, Vllm, VllmMlx, Omlx, Sglang, Lmdeploy, LmStudio, Lemonade, Litellm, Dmr, Localai, Gpustack, Compatible)
