"""llama.cpp's llama-server: one model, listed at /v1/models and /models in Ollama's form and in OpenAI's at once, /props,
/slots, /health.

Facts: llama.cpp tools/server README (/health, /props, /slots, /v1/models) and tools/server/server-context.cpp, server-models.cpp.
The id is the alias, else the name of the repository, else that of the file. meta.n_ctx is the window of one slot, n_ctx_train
that of the model; meta.size counts bytes. In /props the object default_generation_settings comes first and in it n_ctx after
all sampling parameters; chat_template is by far the longest member and comes before build_info. While a model is loaded every
path answers 503. With a key all but /health and /v1/health want it (before August 2026 /v1/models and /models did not).

Servers of May 2025 to April 2026 answered /api/tags and /api/show too (LlamacppWithTags). Without a model on the command line
the server is a router (LlamacppRouter): no models[], data[] before object, status.value of each model, a dummy /props with
"role":"router"; GET /props?model=x loads that model unless autoload=false is there."""

from .base import CREATED, Server, merge

PARAMS = {"seed": 4294967295, "temperature": 0.800000011920929, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "top_k": 40,
          "top_p": 0.949999988079071, "min_p": 0.05000000074505806, "top_n_sigma": -1.0, "xtc_probability": 0.0,
          "xtc_threshold": 0.10000000149011612, "typical_p": 1.0, "repeat_last_n": 64, "repeat_penalty": 1.0, "presence_penalty": 0.0,
          "frequency_penalty": 0.0, "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1,
          "dry_sequence_breakers": ["\n", ":", "\"", "*"], "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.10000000149011612,
          "stop": [], "max_tokens": -1, "n_predict": -1, "n_keep": 0, "n_discard": 0, "ignore_eos": False, "stream": True,
          "logit_bias": [], "n_probs": 0, "min_keep": 0, "grammar": "", "grammar_lazy": False, "grammar_triggers": [],
          "preserved_tokens": [], "chat_format": "Content-only", "reasoning_format": "deepseek", "reasoning_in_content": False,
          "thinking_forced_open": False, "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc",
                                                      "temperature"],
          "speculative.n_max": 16, "speculative.n_min": 0, "speculative.p_min": 0.75, "timings_per_token": False,
          "post_sampling_probs": False, "lora": []}

TEMPLATE = "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n" + "".join(
    "    {%%- for message in messages[%d:] %%}{{ \"n_ctx\": \"\\u00e9\" }}\t<|im_end|>\\n{%%- endfor %%}\n" % n for n in range(260))


class Llamacpp(Server):
    type = "llamacpp"
    spellings, prefixes = ("llamacpp", "llama-cpp", "llama_cpp"), ("llamacpp",)
    owner, lists = "llamacpp", {"/v1/models": "both"}
    messages = "/v1/messages"
    extras = ("/props", "/slots")
    ctype = "application/json; charset=utf-8"
    headers = (("Server", "llama.cpp"),)
    public = ("/health", "/v1/health")
    refusal = {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
    slots = 4

    def setup(self):
        super().setup()
        self.props = {}  # merged into the reply of /props
        first = next(iter(self.lists.values()))
        self.json("/v1/health", lambda: {"status": "ok"})
        self.json("/models", lambda: getattr(self, first)())
        self.json("/props", self.props_reply)
        self.json("/slots", self.slots_reply)

    def models_entry(self, model):
        return {"name": model, "model": model, "modified_at": "", "size": "", "digest": "", "type": "model", "description": "",
                "tags": [""], "capabilities": ["completion"], "parameters": "", "details": {
                    "parent_model": "", "format": "gguf", "family": "", "families": [""], "parameter_size": "", "quantization_level": ""}}

    def data_entry(self, model):
        return dict(self.openai_entry(model), aliases=[model], tags=[], meta={
            "vocab_type": 2, "n_vocab": 151936, "n_ctx": 16384, "n_ctx_train": 32768, "n_embd": 896, "n_params": 494032768,
            "size": 491400192, "ftype": "Q4_K - Medium"})

    def listed_data(self, model):
        """Of the facts, those that belong to the other half of the list are left out."""
        entry, other = self.data_entry(model), self.models_entry(model)
        return merge(entry, {k: v for k, v in self.facts.get(model, {}).items() if k in entry or k not in other})

    def both(self):
        return {"models": [self.with_facts(m, self.models_entry(m), True) for m in self.models],
                "object": "list", "data": [self.listed_data(m) for m in self.models]}

    def window(self):
        meta = self.listed_data(self.models[0]).get("meta") if self.models else None
        return (meta or {}).get("n_ctx", 0)

    def props_reply(self):
        model = self.models[0] if self.models else ""
        capabilities = self.with_facts(model, self.models_entry(model), True)["capabilities"]
        return merge({
            "default_generation_settings": {"params": PARAMS, "n_ctx": self.window()}, "total_slots": self.slots, "model_alias": model,
            "model_ftype": "Q4_K - Medium", "model_path": "/models/%s.gguf" % model,
            "modalities": {"vision": "multimodal" in capabilities, "video": False, "audio": False}, "media_marker": "<__media__>",
            "endpoint_slots": True, "endpoint_props": False, "endpoint_metrics": False, "ui": True, "ui_settings": {},
            "chat_template": TEMPLATE, "chat_template_caps": {"supports_tools": True, "supports_system_role": True},
            "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "build_info": "b8681-465e49b9", "is_sleeping": False,
            "cors_proxy_enabled": False}, self.props)

    def slots_reply(self):
        return [{"id": n, "id_task": -1, "n_ctx": self.window(), "speculative": False, "is_processing": False} for n in range(self.slots)]


class LlamacppWithTags(Llamacpp):
    """Those before April 2026 answer /api/tags too, with the same document, and /api/show. No key is needed for the lists."""
    lists = {"/v1/models": "both", "/api/tags": "both"}
    public = Llamacpp.public + ("/v1/models", "/models", "/api/tags")

    def setup(self):
        super().setup()
        self.json("/api/show", lambda: {"template": TEMPLATE, "model_info": {"llama.context_length": self.window()}, "modelfile": "",
                                        "parameters": "", "details": self.models_entry("")["details"], "capabilities": ["completion"]})


class LlamacppRouter(Llamacpp):
    """Many models, loaded on demand: facts["m"] = {"status": {"value": "loaded"}}. Only a running one has a meta."""
    lists = {"/v1/models": "router_list"}

    def data_entry(self, model):
        entry = {"id": model, "aliases": [], "tags": [], "object": "model", "owned_by": self.owner, "created": CREATED,
                 "status": {"value": "unloaded", "args": ["llama-server", "--host", "127.0.0.1", "--port", "0", "--ctx-size", "8192",
                                                          "--alias", model], "preset": "[%s]\nctx-size = 8192\n" % model},
                 "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]}, "source": "cache", "can_remove": True}
        if self.facts.get(model, {}).get("status", {}).get("value") in ("loaded", "sleeping"):
            entry["meta"] = super().data_entry(model)["meta"]
        return entry

    def router_list(self):
        return {"data": [self.listed_data(m) for m in self.models], "object": "list"}

    def props_reply(self):
        return merge({"role": "router", "max_instances": 4, "models_autoload": True, "model_alias": "llama-server", "model_path": "none",
                      "default_generation_settings": {"params": None, "n_ctx": 0}, "ui_settings": {}, "build_info": "b8681-465e49b9",
                      "cors_proxy_enabled": False}, self.props)
