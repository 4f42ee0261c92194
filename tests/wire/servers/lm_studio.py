"""LM Studio: its list /api/v0/models, its newer one /api/v1/models (0.4), and OpenAI's at /v1/models.

Facts: LM Studio documentation, REST API v0 and v1, OpenAI compatibility, API changelog. In v0 `type` is llm, vlm or embeddings,
`state` is loaded or not-loaded, loaded_context_length is there for a loaded model only, capabilities is [] or ["tool_use"]. v1 has
models[] with `key`, no data[] and no id: type llm or embedding, loaded_instances[] instead of the state. There is no health path.
Facts of a model are those of v0; the v1 entry follows from them. Unknown paths get 200 with an error text (LmStudioSaysYes)."""

from .base import Server


class LmStudio(Server):
    type = "lm-studio"
    spellings, prefixes = ("lm-studio", "lmstudio", "lm_studio"), ("lmstudio", "lm-studio", "lm_studio")
    health, owner = "/v1/models", "organization_owner"
    lists = {"/api/v0/models": "native_list", "/v1/models": "openai_list", "/api/v1/models": "newer_list"}
    messages = "/v1/messages"
    ctype = "application/json; charset=utf-8"
    headers = (("X-Powered-By", "Express"),)

    def openai_entry(self, model):
        return {"id": model, "object": "model", "owned_by": self.owner}

    def native_entry(self, model):
        entry = self.with_facts(model, {
            "id": model, "object": "model", "type": "llm", "publisher": "lmstudio-community", "arch": "qwen2", "compatibility_type": "gguf",
            "quantization": "Q4_K_M", "state": "not-loaded", "max_context_length": 32768, "capabilities": ["tool_use"]})
        if entry.get("state") == "loaded":
            entry.setdefault("loaded_context_length", 4096)
        return entry

    def native_list(self):
        return {"object": "list", "data": [self.native_entry(m) for m in self.models]}

    def newer_entry(self, model):
        e = self.native_entry(model)
        instances = [{"id": model, "config": {"context_length": e.get("loaded_context_length"), "eval_batch_size": 512,
                                              "flash_attention": False, "offload_kv_cache_to_gpu": True}}]
        embeds = e.get("type") == "embeddings"
        entry = {"type": "embedding" if embeds else "llm", "publisher": e.get("publisher"), "key": model, "display_name": model,
                 "architecture": e.get("arch"), "quantization": {"name": e.get("quantization"), "bits_per_weight": 4},
                 "size_bytes": 4683073888, "params_string": "7B",
                 "loaded_instances": instances if e.get("state") == "loaded" else [],
                 "max_context_length": e.get("max_context_length"), "format": e.get("compatibility_type")}
        if embeds:
            del entry["architecture"]
            return entry
        return dict(entry, capabilities={"vision": e.get("type") == "vlm", "trained_for_tool_use": "tool_use" in e.get("capabilities", [])},
                    description=None)

    def newer_list(self):
        return {"models": [self.newer_entry(m) for m in self.models]}


class LmStudioSaysYes(LmStudio):
    """It answers 200 with an error text to any path it does not know."""

    def setup(self):
        super().setup()
        self.on("*", lambda c, r: c.reply({"error": "Unexpected endpoint or method. (%s %s)" % (r.method, r.path)}))
