"""Any other server with the OpenAI API: a list, chat, completions, embeddings and no health path.

Facts: OpenAI API reference, models (id, object, created, owned_by)."""

from .base import Server


class Compatible(Server):
    type = "openai-compatible"
    spellings, prefixes = ("openai-compatible", "openai"), ("openai", "openai-compatible")
    health = "/v1/models"
