"""What all scripted servers have in common: the OpenAI API at some base path, a health path, one list or more, and facts
of single models that a test can set.

    a.facts["m1"] = {"digest": "sha256:1", "details": {"family": "qwen2"}, "size": ...}

Here `details` is merged into the entry's own, and `size` is taken out of it: `...` stands for a field that is not there."""

import hashlib

from backend import Backend

CHAT_ID = {"id": "c1", "object": "chat.completion"}
CREATED = 1754535984


def merge(entry, facts):
    """A copy of the entry with the facts in it; objects are merged, `...` removes a field."""
    out = dict(entry)
    for key, value in facts.items():
        if value is ...:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out


def digest_of(model):
    """64 hex digits: the same on all servers that have the model."""
    return hashlib.sha256(model.encode()).hexdigest()


def body_of(request):
    """The JSON object that a request carries, or an empty one."""
    try:
        body = request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


class Server(Backend):
    """A kind is: its spellings, its prefixes below /olla/, its paths, and how its list looks."""

    spellings = ()
    prefixes = ()
    health = "/health"
    lists = {"/v1/models": "openai_list"}  # the first is the one that olla reads
    base = "/v1"  # where its OpenAI API is
    messages = None  # the path of its Messages API
    extras = ()  # paths that olla may ask in addition when it discovers the server
    owner = "us"
    ctype = "application/json"  # as the server writes it
    headers = ()  # of replies that are not to chat requests
    public = ()  # paths that need no key when the server has one
    refusal = {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}
    probe_paths = ("/", "/health", "/health/liveliness", "/healthz", "/readyz", "/v1/models", "/api/tags", "/api/v0/models",
                   "/api/v1/models", "/api/v1/health", "/engines/v1/models", "/up", "/list", "/own/models",
                   "/props", "/api/version", "/version", "/system", "/.well-known/localai.json", "/v1-openai/models",
                   "/health/readiness", "/live", "/api/ps", "/slots", "/metrics")

    def __init__(self, *args, **kwargs):
        self.facts = {}
        super().__init__(*args, **kwargs)

    def setup(self):
        self.routes = {}
        self.json(self.health, lambda: {"status": "ok"})
        for path, form in self.lists.items():
            self.json(path, lambda form=form: getattr(self, form)())
        for path in ("/chat/completions", "/completions", "/embeddings"):
            self.on(self.base + path, self.answer)
        if self.messages:
            self.on(self.messages, self.answer)

    def json(self, path, make):
        """A path that answers what make() returns: an object, or bytes that are JSON already."""
        self.on(path, lambda c, r: c.reply(make(), ctype=self.ctype, headers=self.headers))

    def text(self, path, body=b"<!doctype html><title>a web interface</title>", ctype="text/html; charset=utf-8"):
        self.on(path, lambda c, r: c.reply(body, ctype=ctype, headers=self.headers))

    def become(self, kind, models):
        """Another program is started on the same port."""
        self.__class__, self.models = kind, list(models)
        self.setup()

    def require_key(self, key):
        """From now on all paths but the public ones want this key, as a Bearer token."""
        for path, handler in list(self.routes.items()):
            if path not in self.public:
                self.on(path, lambda c, r, handler=handler: handler(c, r) if r.get("Authorization") == "Bearer " + key
                        else c.reply(self.refusal, 401, self.ctype))

    def answer(self, conn, request):
        conn.reply(dict(CHAT_ID, served_by=self.name, path=request.path))

    def with_facts(self, model, entry, known=False):
        """The entry of a model with its facts; known = only those that the entry has a field for."""
        return merge(entry, {k: v for k, v in self.facts.get(model, {}).items() if not known or k in entry})

    def openai_entry(self, model):
        return {"id": model, "object": "model", "created": CREATED, "owned_by": self.owner}

    def openai_list(self):
        known = next(iter(self.lists.values())) != "openai_list"  # the server has a list of its own that says more
        return {"object": "list", "data": [self.with_facts(m, self.openai_entry(m), known) for m in self.models]}

    @property
    def listed(self):
        """The list requests that came so far."""
        return [r for r in self.probes if r.path == next(iter(self.lists))]
