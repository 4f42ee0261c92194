"""Every route, walked: local documents, redirects, pages that do not exist, everything below a prefix,
and the native paths of every backend type."""

import pytest

from backend import MARK, eventually
from client import dump, json_headers
from harness import World, endpoint, report
from servers import KINDS, Compatible, Dmr, Lemonade, Litellm, LmStudio, Ollama

CHAT = "/v1/chat/completions"
PREFIXES = [(prefix, kind) for kind in KINDS for prefix in kind.prefixes]
IDS = [prefix for prefix, _ in PREFIXES]
PROBED = {MARK: "1"}  # a request that must not be taken for one of olla's own


def plain(conn, request):
    """Answers any path, with any method, and says what arrived."""
    body = dump({"target": request.target, "method": request.method, "served_by": conn.backend.name})
    conn.head(200, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    if request.method != "HEAD":
        conn.send(body)


class Fleet:
    """One server of every kind, each with a model of its own; all have m-all."""

    def __init__(self):
        self.world = World()
        self.servers = {kind.type: self.world.backend(kind, kind.type, ["m-" + kind.type, "m-all"]) for kind in KINDS}
        for server in self.servers.values():
            server.on("*", plain)
        self.servers["litellm"].on("/health", plain)  # here it is the client who asks for it
        spec = {name: endpoint(server) for name, server in self.servers.items()}
        self.proxy = self.world.olla(spec, {"model_aliases.nick": "m-vllm"}, ready={name: 2 for name in spec})

    @property
    def proxies(self):
        return self.world.proxies

    @property
    def calls(self):
        return [call for server in self.servers.values() for call in server.calls]

    def asked(self, method, target, model=None, tries=1):
        """The endpoints that a request went to."""
        found = set()
        for _ in range(tries):
            body = None if method == "GET" else dump({"model": model} if model else {})
            reply = self.proxy.request(method, target, body, json_headers(PROBED))
            assert reply.status in (200, 404), (target, reply.status, reply.body)
            found.add(reply.get("X-Olla-Endpoint") or reply.status)
        return found


@pytest.fixture
def site(kept):
    site = kept(Fleet)
    for server in site.servers.values():
        server.forget()
    yield site
    report(site.proxy.idle_problems() + site.world.script_failures())


# ---- answered here

EVERYTHING = {"m-" + kind.type for kind in KINDS} | {"m-all", "nick"}


def having(kind):
    if kind is Compatible:
        return EVERYTHING
    return {"m-" + kind.type, "m-all"} | ({"nick"} if kind.type == "vllm" else set())


def listing(wanted):
    return lambda document: document["object"] == "list" and {e["id"] for e in document["data"]} == wanted and "type" not in document["data"][0]


def tags(document):
    return {e["name"] for e in document["models"]} == having(Ollama) and all(e["digest"] for e in document["models"])


def lm_studio(document):
    return {e["id"]: e["state"] for e in document["data"]} == {"m-lm-studio": "not-loaded", "m-all": "not-loaded"}


def lemonade(document):
    return {e["id"] for e in document["data"]} == having(Lemonade) and all("checkpoint" in e and "recipe" in e for e in document["data"])


def anthropic(document):
    return {e["id"] for e in document["data"]} == EVERYTHING and document["has_more"] is False


LOCAL = {
    "/internal/health": lambda d: d == {"status": "healthy"},
    "/internal/status": lambda d: len(d["endpoints"]) == len(KINDS) and d["system"]["endpoints_up"] == "%d/%d" % (len(KINDS), len(KINDS)),
    "/internal/status/models": lambda d: d["total_endpoints"] == len(KINDS) and d["total_models"] == len(KINDS) + 1,
    "/version": lambda d: d["name"] == "Olla",
    "/olla/models": lambda d: {e["id"] for e in d["data"]} == EVERYTHING and all("olla" in e for e in d["data"]),
    "/olla/models/m-all": lambda d: d["id"] == "m-all" and set(d["endpoints"]) == {kind.type for kind in KINDS},
    "/olla/models/nick": lambda d: d["endpoints"] == ["vllm"],
    "/olla/anthropic/v1/models": anthropic,
    "/api/version": lambda d: d == {"version": "0.12.6"},
    "/olla/proxy/api/version": lambda d: d == {"version": "0.12.6"},
    "/olla/ollama/api/version": lambda d: d == {"version": "0.12.6"},
    "/api/tags": tags, "/olla/proxy/api/tags": tags, "/olla/ollama/api/tags": tags,
    "/v1/models": listing(EVERYTHING), "/olla/proxy/v1/models": listing(EVERYTHING),
    "/v1/models/m-all": lambda d: d["id"] == "m-all", "/olla/proxy/v1/models/nick": lambda d: d["id"] == "nick",
    "/olla/lemonade/api/v1/models": lemonade, "/olla/dmr/engines/v1/models": listing(having(Dmr)),
}
for _prefix, _kind in PREFIXES:
    LOCAL["/olla/%s/v1/models" % _prefix] = listing(having(_kind))
for _prefix in LmStudio.prefixes:
    LOCAL["/olla/%s/api/v1/models" % _prefix] = listing(having(LmStudio))
    LOCAL["/olla/%s/api/v0/models" % _prefix] = lm_studio


@pytest.mark.parametrize("path", list(LOCAL))
def test_local(site, path):
    """Answered by olla itself, with any method, with and without a query, and never sent on."""
    for method in ("GET", "POST", "PUT", "DELETE"):
        for target in (path, path + "?x=%2F"):
            reply = site.proxy.request(method, target, None if method == "GET" else b"{}", PROBED)
            assert reply.status == 200 and reply.get("Content-Type") == "application/json", (method, reply.status, reply.body)
            assert LOCAL[path](reply.json()), (method, reply.body)
            assert reply.has("X-Olla-Request-ID") and not reply.has("X-Olla-Endpoint") and not reply.has("Via")
    with site.proxy.client() as client:
        head = client.request("HEAD", path, None, PROBED)
        assert (head.status, head.get("Content-Type")) == (200, "application/json")
        assert LOCAL[path](client.request("GET", path, None, PROBED).json()), "the connection goes on behind a HEAD"
    assert site.calls == []


MANAGEMENT = ("pull", "push", "create", "copy", "delete", "blobs/sha256:00ff")


@pytest.mark.parametrize("base", ["", "/olla/ollama", "/olla/proxy"], ids=["root", "ollama", "proxy"])
def test_management_stubs(site, base):
    """One machine of many cannot be meant without being named: 501, and how to name it."""
    for method in ("POST", "DELETE", "GET"):
        for path in MANAGEMENT:
            body = None if method == "GET" else b'{"model":"m-ollama"}'
            reply = site.proxy.request(method, "%s/api/%s" % (base, path), body, PROBED)
            assert reply.status == 501 and set(reply.json()) == {"error"}, (method, path, reply.status, reply.body)
            assert "X-Olla-Endpoint" in reply.json()["error"]
        reply = site.proxy.request(method, base + "/api/list", None, PROBED)
        assert reply.status == 501
        assert "running models list not supported in multi-instance proxy" in reply.json()["error"]
        assert len(reply.json()["error"]) > len("running models list not supported in multi-instance proxy") + 10, "and what to do instead"
    for path in MANAGEMENT + ("list",):
        reply = site.proxy.request("HEAD", "%s/api/%s" % (base, path), None, PROBED)
        assert (reply.status, reply.body) == (501, b"")
    assert site.calls == []


# ---- what does not exist, and what has moved

NOWHERE = ["/olla", "/olla/", "/internal", "/internal/", "/favicon.ico", "/version/", "/internal/health/", "/internal/status/",
           "/internal/status/model", "/internal/status/models/", "/internal/statuses", "/versions", "/olla/modelsx", "/olla/Models",
           "/olla/MODELS/m-all", "/olla/anthropic/", "/olla/anthropic/v1/other", "/olla/anthropic/v1/", "/olla/unknown/x", "/olla/Ollama/api/chat",
           "/olla/llama-cpp" + CHAT, "/olla/llama_cpp" + CHAT, "/olla/vllmmlx" + CHAT, "/olla/docker-model-runner" + CHAT, "/olla/auto" + CHAT,
           "/olla/openai_compatible" + CHAT, "/olla/proxyx" + CHAT, "/engines/v1/models", "/rerank", "/tokenize", "/props"]


@pytest.mark.parametrize("path", NOWHERE)
def test_nowhere(site, path):
    """The text of the reference, for every method; nothing of it reaches a server."""
    for method in ("GET", "POST", "DELETE"):
        reply = site.proxy.request(method, path, b'{"model":"m-all"}' if method == "POST" else None, PROBED)
        assert (reply.status, reply.body) == (404, b"404 page not found\n"), method
        assert reply.get("Content-Type") == "text/plain; charset=utf-8" and reply.get("X-Content-Type-Options") == "nosniff"
    head = site.proxy.request("HEAD", path, None, PROBED)
    assert (head.status, head.body) == (404, b"")
    assert site.calls == []


@pytest.mark.parametrize("prefix", IDS + ["proxy"])
def test_redirect(site, prefix):
    """A prefix without its slash, with any method, query kept."""
    path = "/olla/" + prefix
    with site.proxy.client() as client:
        for method in ("GET", "HEAD", "POST", "DELETE"):
            for query in ("", "?a=1&b=%2F"):
                reply = client.request(method, path + query, b"{}" if method == "POST" else None, PROBED)
                assert (reply.status, reply.get("Location")) == (301, path + "/" + query), method
        assert client.request("GET", "/internal/health").status == 200
    assert site.calls == []


# ---- below the prefixes

@pytest.mark.parametrize("prefix,kind", PREFIXES, ids=IDS)
def test_subtree(site, prefix, kind):
    """Whatever is not answered here goes to a server of that type, path and query as they are, with any method."""
    allowed = set(site.servers) if kind is Compatible else {kind.type}
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for rest in ("/x/y%20z?q=1&r=%2F", "/olla/proxy/x", "/internal/status", "/deep/er/and/deeper/"):
            for server in site.servers.values():
                server.forget()
            body = dump({"n": 1}) if method in ("POST", "PUT", "PATCH") else None
            reply = site.proxy.request(method, "/olla/%s%s" % (prefix, rest), body, json_headers(PROBED))
            assert reply.status == 200, (method, rest, reply.body)
            assert reply.get("X-Olla-Endpoint") in allowed
            assert reply.get("X-Olla-Backend-Type") == reply.get("X-Olla-Endpoint"), "named after their types here"
            calls = site.calls
            assert [(c.method, c.target, c.body) for c in calls] == [(method, rest, body or b"")]


@pytest.mark.parametrize("prefix,kind", PREFIXES, ids=IDS)
def test_root_of_a_prefix(site, prefix, kind):
    """/olla/<prefix>/ is the front page of one server."""
    allowed = set(site.servers) if kind is Compatible else {kind.type}
    reply = site.proxy.get("/olla/%s/" % prefix, PROBED)
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") in allowed
    assert [call.target for call in site.calls] == ["/"]


@pytest.mark.parametrize("prefix,kind", PREFIXES, ids=IDS)
def test_model_counts_below_a_prefix(site, prefix, kind):
    """Paths that no table knows skip the model in the reference: any server gets what only one can answer."""
    for path in ("/odd/path", CHAT, "/v1/audio/speech"):
        target = "/olla/%s%s" % (prefix, path)
        assert site.asked("POST", target, "m-" + kind.type) == {kind.type}
        assert site.asked("POST", target, "no-such-model") == {404}
        if kind is Compatible:
            assert site.asked("POST", target, "m-sglang") == {"sglang"}
        else:
            reply = site.proxy.post(target, {"model": "m-openai-compatible"})
            assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (503, "model_unavailable")


def test_subtree_of_the_shared_route(site):
    """/olla/proxy/ takes any path to any server, the model decides."""
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
        reply = site.proxy.request(method, "/olla/proxy/some/where?x=1", b"{}" if method == "POST" else None, PROBED)
        assert reply.status == 200 and reply.has("X-Olla-Endpoint")
    assert [call.target for call in site.calls] == ["/some/where?x=1"] * 5
    for kind in KINDS:
        assert site.asked("POST", "/olla/proxy/some/where", "m-" + kind.type) == {kind.type}
        assert site.asked("POST", "/olla/proxy" + CHAT, "m-" + kind.type) == {kind.type}


# ---- native paths

NATIVE = {}
for _types, _paths in (
        ("vllm", "POST /rerank /v2/rerank /v1/tokenize /v1/detokenize"), ("vllm", "GET /get_tokenizer_info"), ("omlx vllm", "POST /v1/rerank"),
        ("llamacpp vllm", "POST /tokenize /detokenize"), ("llamacpp", "POST /completion /embedding /infill"),
        ("sglang vllm", "GET /metrics /version"),
        ("lmdeploy sglang", "POST /generate"), ("sglang", "POST /batch /extend /v1/chat/completions/vision"),
        ("lmdeploy", "POST /v1/encode /pooling"), ("lmdeploy", "GET /is_sleeping"),
        ("litellm", "POST /chat/completions /completions /embeddings"), ("litellm", "GET /models /health/readiness /health/liveness"),
        ("litellm lmdeploy omlx sglang vllm vllm-mlx", "GET /health"), ("litellm ollama", "GET /"),
        ("ollama", "POST /api/chat /api/generate /api/embeddings /api/embed /api/show"), ("lm-studio", "GET /api/v0/models"),
        ("lemonade", "POST /api/v1/chat/completions /api/v1/completions /api/v1/embeddings /api/v1/pull /api/v1/load /api/v1/unload /api/v1/delete"),
        ("lemonade", "GET /api/v1/health /api/v1/stats /api/v1/system-info /api/v1/models"),
        ("docker-model-runner", "POST " + " ".join("/engines/%sv1/%s" % (engine, call) for engine in ("", "llama.cpp/", "vllm/")
                                                   for call in ("chat/completions", "completions", "embeddings"))),
        ("docker-model-runner", "GET /engines/v1/models /engines/llama.cpp/v1/models /engines/vllm/v1/models")):
    for _path in _paths.split()[1:]:
        NATIVE[_path] = (_paths.split()[0], _types.split())
EXTRA = {"/health": {"llamacpp"}, "/pooling": {"vllm"}, "/is_sleeping": {"vllm"}, "/metrics": {"llamacpp"}, "/rerank": {"llamacpp"},
         "/v1/rerank": {"llamacpp", "litellm", "localai", "gpustack", "sglang"}, "/version": {"localai", "gpustack"}}  # they have it too
HARD = ("/api/", "/engines/")  # an API of its own, which other types cannot answer


@pytest.mark.parametrize("path", list(NATIVE))
def test_native_path_on_the_shared_route(site, path):
    """A path that only some types have goes to those types, and among them by the model."""
    method, types = NATIVE[path]
    allowed = set(types) | EXTRA.get(path, set())
    target = "/olla/proxy" + path
    assert site.asked(method, target, None, 2 * len(allowed) + 2) <= allowed
    if method == "GET":
        return
    assert set(types) <= site.asked(method, target, "m-all", 2 * len(allowed) + 2) <= allowed
    for name in types:
        assert site.asked(method, target, "m-" + name) == {name}
        assert site.servers[name].calls[-1].target == path
    assert site.asked(method, target, "no-such-model") == {404}
    if not path.startswith(HARD):
        for name in ("openai-compatible", "gpustack"):
            assert site.asked(method, target, "m-" + name) == {name}, "nobody else has the model: it decides"


@pytest.mark.parametrize("path", list(NATIVE))
def test_native_path_below_its_prefixes(site, path):
    """The same path on the routes of its own types: it arrives as it is."""
    method, types = NATIVE[path]
    for name in types:
        server = site.servers[name]
        for prefix in server.prefixes:
            if "/olla/%s%s" % (prefix, path) in LOCAL:
                continue
            server.forget()
            model = None if method == "GET" else "m-" + name
            assert site.asked(method, "/olla/%s%s" % (prefix, path), model) == {name}
            assert [r.target for r in server.requests if r.has(MARK)] == [path]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/audio/transcriptions",
                                  "/v1/images/generations", "/v1/rerank", "/v1/anything"])
@pytest.mark.parametrize("base", ["", "/olla/proxy", "/olla/openai", "/olla/openai-compatible"], ids=["root", "proxy", "openai", "compatible"])
def test_openai_paths_by_model(site, base, path):
    """Whatever the path is, the model named in the body leads to the server that has it, at the place where that one keeps the API."""
    for kind in KINDS:
        server = site.servers[kind.type]
        assert site.asked("POST", base + path, "m-" + kind.type) == {kind.type}
        assert server.calls[-1].target == kind.base + path[len("/v1"):]


@pytest.mark.parametrize("base", ["", "/olla/ollama", "/olla/proxy"], ids=["root", "ollama", "proxy"])
def test_ollama_paths(site, base):
    """Ollama's own API, at the three places where it is one machine."""
    for path in ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"):
        assert site.asked("POST", base + path, "m-ollama") == {"ollama"}
        assert site.asked("POST", base + path, "m-all") == {"ollama"}
        assert site.servers["ollama"].calls[-1].target == path
        reply = site.proxy.post(base + path, {"model": "nothing"})
        assert reply.status == 404 and set(reply.json()) == {"error"}
    assert site.proxy.get(base + "/api/ps").json() == {"models": [], "olla": {"missing": []}}


def test_litellm_is_not_asked_for_health_on_its_own(site):
    """A client may ask it; olla never does."""
    assert isinstance(site.servers["litellm"], Litellm)
    assert site.asked("GET", "/olla/litellm/health") == {"litellm"}
    assert not [r for r in site.servers["litellm"].probes if r.path == "/health"]


# ---- nobody there

def test_prefixes_without_servers(world):
    """A prefix whose type is not there says so by the type's name, whatever is asked; lists are empty, not errors."""
    other = world.backend(Lemonade, "other", ["m1"])
    proxy = world.olla({"other": other})
    for prefix, kind in PREFIXES:
        if kind in (Lemonade, Compatible):
            continue
        for method, path, body in (("POST", CHAT, b'{"model":"m1"}'), ("POST", CHAT, b'{"model":"nothing"}'), ("GET", "/x", None),
                                   ("GET", "/", None)):
            reply = proxy.request(method, "/olla/" + prefix + path, body, json_headers(PROBED))
            assert reply.status == 404 and "No %s endpoints available" % kind.type in reply.text(), (prefix, reply.body)
            assert reply.has("X-Olla-Request-ID") and not reply.has("X-Olla-Endpoint")
        assert proxy.get("/olla/%s/v1/models" % prefix).json() == {"object": "list", "data": []}
    for prefix in Compatible.prefixes:
        assert proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "m1"}).status == 200
    assert proxy.get("/olla/ollama/api/tags").json() == {"models": []}
    assert proxy.get("/olla/lmstudio/api/v0/models").json() == {"object": "list", "data": []}


def test_no_server_at_all(world):
    """Nobody healthy: 503 on the shared routes, in the reference's words."""
    a = world.backend(Compatible, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, check_interval="1s", check_timeout="500ms")})
    a.stop()
    proxy.wait_down("a")
    for target in ("/olla/proxy/x", "/olla/proxy/", "/olla/proxy/v1/x", "/v1/x"):
        reply = proxy.get(target, PROBED)
        assert reply.status == 503 and "no healthy endpoints available" in reply.text(), (target, reply.body)
    reply = proxy.post("/olla/proxy" + CHAT, {"model": "m1"})
    assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (503, "model_unavailable")
    a.start()
    eventually(lambda: proxy.get("/olla/proxy/v1/x", PROBED).status == 404, "it is back and answers by itself", 10, 0.1)
