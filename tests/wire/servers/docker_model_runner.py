"""Docker Model Runner: the OpenAI API at /engines/v1, the Messages API at /anthropic, its own list at /models.

Facts: docker/model-runner pkg/inference/models/api.go and http_handler.go, pkg/routing/router.go, pkg/ollama/http_handler.go, and the
DMR REST API documentation. The list is empty before the first pull. /models is an array, and its ids are digests: names are in
tags. Newer ones answer /v1 as they do /engines/v1, and Ollama's API with digests that start with "sha256:" (DmrWithTags)."""

from .base import CREATED, Server, digest_of
from .ollama import OllamaCalls


class Dmr(Server):
    type = "docker-model-runner"
    spellings, prefixes, owner = ("docker-model-runner", "dmr"), ("dmr",), "docker"
    health, lists, base = "/engines/v1/models", {"/engines/v1/models": "openai_list"}, "/engines/v1"
    messages = "/anthropic/v1/messages"

    def setup(self):
        super().setup()
        self.text("/", b"Docker Model Runner\n\nThe service is running.\n", "text/plain")
        self.json("/models", lambda: [{"id": "sha256:" + digest_of(m), "tags": [m], "created": CREATED, "config": {
            "format": "gguf", "quantization": "IQ2_XXS/Q4_K_M", "parameters": "361.82 M", "architecture": "llama", "size": "256.35 MiB"}}
            for m in self.models])


class DmrWithTags(OllamaCalls, Dmr):
    version = "0.1.0"

    def setup(self):
        super().setup()
        for path, handler in list(self.routes.items()):
            if path.startswith("/engines/v1/"):
                self.on(path[len("/engines"):], handler)
        self.ollama_calls()
        self.json("/api/tags", self.tags)

    def tags_entry(self, model):
        return {"name": model, "model": model, "modified_at": "2025-08-07T03:06:24Z", "size": 0, "digest": "sha256:" + digest_of(model),
                "details": {"format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "361.82 M",
                            "quantization_level": "IQ2_XXS/Q4_K_M"}}
