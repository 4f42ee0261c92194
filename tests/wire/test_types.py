"""Every backend type: its spellings, its probes, its routes, and the paths that reach the server."""

import pytest

from backend import Gate, eventually
from client import dump, full_body, json_headers
from harness import World, endpoint, run_cli
from messages import NATIVE, ROOT, chat_path, message, posts, prepare
from servers import (KINDS, Compatible, Dmr, Lemonade, Litellm, LmStudio, LmStudioSaysYes, Ollama, Vllm)

CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
SPELLINGS = [(kind, spelling) for kind in KINDS for spelling in kind.spellings]


def mixed(text):
    return "".join(c.upper() if n % 2 else c for n, c in enumerate(text))


class Fleet:
    """A proxy with one server per spelling; each has a model of its own, and all have m-all."""

    def __init__(self, change, settings=None):
        self.world = World()
        self.servers, spec = {}, {}
        for kind, spelling in SPELLINGS:
            name = change(spelling)
            server = self.world.backend(kind, name, ["m-" + spelling, "m-all"])
            server.loaded = list(server.models)  # none is better than the others
            server.facts = {model: {"state": "loaded"} for model in server.models} if isinstance(server, LmStudio) else {}
            self.servers[name] = server
            spec[name] = endpoint(server, type=name)
        self.proxy = self.world.olla(spec, settings, ready={name: 2 for name in spec})

    @property
    def proxies(self):
        return self.world.proxies

    def names(self, *kinds):
        return {name for name, server in self.servers.items() if isinstance(server, kinds)}

    def asked(self, target, model, tries=1):
        """The endpoints that a request was sent to."""
        return {self.proxy.post(target, full_body(target, {"model": model})).get("X-Olla-Endpoint") for _ in range(tries)}


class Talking(Fleet):
    """Those with the Messages API answer in its words, the others with chat completions that can be translated."""

    def __init__(self, translator):
        super().__init__(str.lower, {"translators.anthropic.enabled": translator, "proxy.sticky_sessions.enabled": False})
        for server in self.servers.values():
            prepare(server)

    @property
    def having(self):
        """Those that have the API."""
        return {name for name, server in self.servers.items() if own_messages(server)}


@pytest.fixture
def site(kept):
    return kept(Fleet, str.lower)


@pytest.fixture
def talking(kept):
    return kept(Talking, True)


def own_messages(server):
    """Where it has the Messages API: None for those that are translated for."""
    return server.messages or (ROOT if server.type == "litellm" else None)


def check_messages(server, reply, call, model, translator=True):
    """The reply and what the server got are those of a message: one that came as it was, or one in other words."""
    if own_messages(server):
        assert (reply.status, reply.body, call.path) == (200, NATIVE, own_messages(server)), (server.name, call.line, reply.body)
    else:
        assert translator and message(reply, model) and call.path == chat_path(server), (server.name, call.line)
    mode = "passthrough" if own_messages(server) else "translation"
    assert reply.get_all("X-Olla-Mode") == ([mode] if translator else []), server.name


def ids(reply):
    assert reply.status == 200, reply.body
    return {entry["id"] for entry in reply.json()["data"]}


@pytest.mark.parametrize("change", [str.lower, str.upper, mixed], ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind,spelling", SPELLINGS, ids=[s for _, s in SPELLINGS])
def test_spelling(kept, kind, spelling, change):
    """The reference takes `dmr` or `lmstudio` and then probes, reads and routes them as something else (1.5)."""
    fleet = kept(Fleet, change)
    name, model = change(spelling), "m-" + spelling
    server = fleet.servers[name]
    entry = fleet.proxy.endpoint(name)
    assert (entry["type"], entry["detected_type"], entry["status"]) == (name, kind.type, "healthy")
    must, seen = {kind.health, next(iter(kind.lists))}, {r.path for r in server.probes}
    assert must <= seen <= must | set(kind.extras)
    for route in ["", "/olla/proxy", "/olla/openai"] + ["/olla/" + prefix for prefix in kind.prefixes]:
        for call in ("/chat/completions", "/completions", "/embeddings"):
            reply = fleet.proxy.post(route + "/v1" + call, {"model": model})
            assert reply.status == 200, (route + call, reply.body)
            assert reply.json()["path"] == kind.base + call
            assert (reply.get("X-Olla-Endpoint"), reply.get("X-Olla-Backend-Type")) == (name, name)


@pytest.mark.parametrize("kind", KINDS, ids=[k.type for k in KINDS])
def test_provider_routes(site, kind):
    """/olla/<prefix>/ must reach every spelling of its type and no other type, by its own paths too."""
    for prefix in kind.prefixes:
        allowed = set(site.servers) if kind is Compatible else site.names(kind)
        assert site.asked("/olla/%s%s" % (prefix, CHAT), "m-all", 2 * len(allowed)) == allowed
        native = "/olla/%s%s/chat/completions" % (prefix, kind.base)
        assert site.proxy.post(native, {"model": "m-" + kind.spellings[0]}).json()["path"] == kind.base + "/chat/completions"
        listed = ids(site.proxy.get("/olla/%s/v1/models" % prefix))
        assert listed == {"m-" + name for name in allowed} | {"m-all"}


@pytest.mark.parametrize("path,kind", [("/olla/lemonade/api/v1/models", Lemonade), ("/olla/dmr/engines/v1/models", Dmr),
                                       ("/olla/lmstudio/api/v1/models", LmStudio), ("/olla/lm-studio/api/v0/models", LmStudio),
                                       ("/olla/lm_studio/api/v0/models", LmStudio), ("/olla/lmstudio/api/v0/models", LmStudio)])
def test_own_listing_routes(site, path, kind):
    """The reference answers 500 on the paths that its documentation names (8.3, number 9)."""
    assert ids(site.proxy.get(path)) == {"m-" + name for name in site.names(kind)} | {"m-all"}
    assert site.proxy.get(path).json()["object"] == "list"


def test_lm_studio_facts(site):
    """`type: lmstudio` loses quantisation, context and architecture in the reference."""
    entries = {e["id"]: e for e in site.proxy.get("/olla/lmstudio/api/v0/models").json()["data"]}
    for spelling in LmStudio.spellings:
        entry = entries["m-" + spelling]
        assert (entry["quantization"], entry["arch"], entry["max_context_length"]) == ("Q4_K_M", "qwen2", 32768)


def test_shared_listing(site):
    """One list of everything, whatever the type and wherever the server keeps its own."""
    for path in ("/v1/models", "/olla/proxy/v1/models", "/olla/openai/v1/models"):
        assert ids(site.proxy.get(path)) == {"m-" + spelling for _, spelling in SPELLINGS} | {"m-all"}


@pytest.mark.parametrize("route", ["/olla/proxy", "", "/olla/openai"], ids=["proxy", "root", "openai"])
@pytest.mark.parametrize("path,kind", [("/api/v1/chat/completions", Lemonade), ("/engines/v1/chat/completions", Dmr),
                                       ("/engines/llama.cpp/v1/chat/completions", Dmr), ("/api/chat", Ollama),
                                       ("/api/v0/chat/completions", LmStudio)])
def test_native_paths_on_shared_routes(site, route, path, kind):
    """A native path that is sent to a server of another type is an error that depends on the balancer."""
    if route == "" and path.startswith("/engines"):
        assert site.proxy.post(path, {"model": "m-all"}).status == 404
        return
    assert site.asked(route + path, "m-all", 25) <= site.names(kind)
    assert site.asked(route + path, "m-" + kind.spellings[0]) == {kind.spellings[0]}
    reply = site.proxy.post(route + path, {"model": "m-sglang"})
    assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (404, "model_unavailable")
    error = reply.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert 'model "m-sglang" is not served through this API: the endpoints that have it speak OpenAI\'s (/v1/...)' in message


messages_routes = pytest.mark.parametrize("route", ["", "/olla/proxy", "/olla/openai"], ids=["root", "proxy", "openai"])


@messages_routes
def test_messages_path(talking, route):
    """Docker Model Runner has the Messages API elsewhere; servers without it would answer 404, and get chat completions."""
    path = route + ROOT
    for name, server in talking.servers.items():
        server.forget()
        reply = talking.proxy.post(path, full_body(path, {"model": "m-" + name}))
        assert reply.get("X-Olla-Endpoint") == name and len(posts(server)) == 1
        check_messages(server, reply, posts(server)[0], "m-" + name)
    seen = set()
    for _ in range(3 * len(talking.servers)):
        reply = talking.proxy.post(path, full_body(path, {"model": "m-all"}))
        name = reply.get("X-Olla-Endpoint")
        check_messages(talking.servers[name], reply, posts(talking.servers[name])[-1], "m-all")
        seen.add(name)
    assert seen == set(talking.servers), "with or without the API, all are candidates"


@messages_routes
def test_messages_path_without_the_translator(kept, route):
    """Then it is a path like any other: bodies are not looked at, and servers without it answer 404 to everybody."""
    fleet = kept(Talking, False)
    for server in fleet.servers.values():
        server.forget()
    for name in fleet.having:
        server = fleet.servers[name]
        reply = fleet.proxy.post(route + ROOT, {"model": "m-" + name})
        assert reply.get("X-Olla-Endpoint") == name and len(posts(server)) == 1
        check_messages(server, reply, posts(server)[0], "m-" + name, translator=False)
    assert fleet.asked(route + ROOT, "m-all", 3 * len(fleet.servers)) == fleet.having
    without = set(fleet.servers) - fleet.having
    assert without == fleet.names(Lemonade, *(k for k in KINDS if k.type in ("sglang", "lmdeploy", "openai-compatible", "localai", "gpustack")))
    for name in without:
        reply = fleet.proxy.post(route + ROOT, full_body(ROOT, {"model": "m-" + name}))
        assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (404, "model_unavailable")
        assert "speak OpenAI's (/v1/...)" in reply.json()["error"]["message"]
        assert name + " (wrong type)" in reply.json()["error"]["message"]
        assert posts(fleet.servers[name]) == []


def test_messages_path_below_the_prefix(site, talking):
    """The same by provider route, and the server's own path as it is."""
    for path in ("/olla/dmr/v1/messages", "/olla/dmr/anthropic/v1/messages"):
        reply = site.proxy.post(path, full_body(path, {"model": "m-dmr"}))
        assert reply.status == 200 and reply.json()["path"] == "/anthropic/v1/messages"
    reply = site.proxy.post("/olla/dmr/anthropic/v1/messages", {"model": "m-dmr"})
    assert reply.json()["path"] == "/anthropic/v1/messages" and not reply.has("X-Olla-Mode"), "not looked at"
    reply = site.proxy.post("/olla/vllm/v1/messages", full_body(ROOT, {"model": "m-vllm"}))
    assert reply.json()["path"] == "/v1/messages"
    for name, server in talking.servers.items():
        for prefix in server.prefixes:
            server.forget()
            reply = talking.proxy.post("/olla/" + prefix + ROOT, full_body(ROOT, {"model": "m-" + name}))
            assert reply.get("X-Olla-Endpoint") == name and len(posts(server)) == 1
            check_messages(server, reply, posts(server)[0], "m-" + name)


@pytest.mark.parametrize("prefix,base,name", [("lemonade", "/api", "lemonade"), ("dmr", "/engines", "dmr")])
def test_query_stays(site, prefix, base, name):
    """A path that is moved must keep its query, and a longer one must not be moved twice."""
    server = site.servers[name]
    server.on("*", lambda c, r: c.reply({"target": r.target}))
    try:
        for sent, arrives in (("/v1/x?a=1&b=/v1/", "/v1/x?a=1&b=/v1/"), (base + "/v1/x?y", "/v1/x?y"), ("/v1/", "/v1/")):
            reply = site.proxy.post("/olla/%s%s" % (prefix, sent), {"model": "m-" + name})
            assert reply.json()["target"] == base + arrives
        assert site.proxy.post("/olla/%s/v2/x" % prefix, {"model": "m-" + name}).json()["target"] == "/v2/x"
        assert site.proxy.post("/olla/%s/v1x" % prefix, {"model": "m-" + name}).json()["target"] == "/v1x"
    finally:
        del server.routes["*"]


def test_other_engine_of_docker(site):
    """Paths of one engine, its list included, are the server's own business."""
    for server in (site.servers["dmr"], site.servers["docker-model-runner"]):
        for path in ("/engines/llama.cpp/v1/chat/completions", "/engines/llama.cpp/v1/models"):
            server.on(path, lambda c, r: c.reply({"path": r.path}))
    path = "/engines/llama.cpp/v1/chat/completions"
    assert site.proxy.post("/olla/dmr" + path, {"model": "m-dmr"}).json() == {"path": path}
    assert site.proxy.get("/olla/dmr/engines/llama.cpp/v1/models").json() == {"path": "/engines/llama.cpp/v1/models"}


@pytest.mark.parametrize("prefix", ["docker-model-runner", "llama-cpp", "llama_cpp", "auto", "vllm_mlx", "vllmmlx", "DMR"])
def test_no_such_prefix(site, prefix):
    """Only registered prefixes have routes (1.5): a guess must not reach a server."""
    reply = site.proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "m-all"})
    assert (reply.status, reply.body) == (404, b"404 page not found\n")


@pytest.mark.parametrize("value", ["nonsense", "ollamas", "lm.studio", "llama", "vllm-", "openai-compatible-x", "http://h"])
def test_unknown_type(tmp_path, binary, value):
    """A typo that is taken for some type probes the wrong paths for ever: an error with its place instead."""
    path = tmp_path / "my.ini"
    path.write_text("[endpoint:a]\nurl = http://h:1\n\ntype = %s\n" % value)
    code, _, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert code == 1
    said = [line for line in err.splitlines() if line.startswith("%s:4: " % path)]
    assert len(said) == 1 and '"%s"' % value in said[0], err
    for kind in KINDS:
        assert kind.type in said[0], "all that would be right are named"
    assert "auto" in said[0]


@pytest.mark.parametrize("first,second", [(Vllm, Dmr), (Dmr, Vllm), (Lemonade, Dmr), (Lemonade, Compatible)],
                         ids=lambda kind: kind.type)
def test_failover_between_types(world, first, second):
    """The second server keeps the API at another path than the first: the target is made anew for each."""
    a, b = world.backend(first, "a", ["m1"]), world.backend(second, "b", ["m1"])
    a.on(a.base + "/chat/completions", lambda c, r: c.rst())
    proxy = world.olla({"a": endpoint(a, priority=200), "b": b}, {"proxy.load_balancer": "priority"})
    body = dump({"model": "m1", "messages": []})
    reply = proxy.request("POST", CHAT + "?q=1", body, json_headers())
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "b"
    assert a.calls[-1].target == first.base + "/chat/completions?q=1"
    assert b.calls[-1].target == second.base + "/chat/completions?q=1"
    assert a.calls[-1].body == b.calls[-1].body == body


def test_empty_docker(world):
    """Docker Model Runner has no models before the first pull and is well all the same (2.5)."""
    a = world.backend(Dmr, "a", [])
    proxy = world.olla({"a": endpoint(a, **FAST)}, {"discovery.model_discovery.interval": "1s"}, ready={"a": 0})
    assert proxy.endpoint("a")["status"] == "healthy"
    assert proxy.post(CHAT, {"model": "ai/smollm2"}).status == 404
    a.models = ["ai/smollm2"]
    eventually(lambda: proxy.post(CHAT, {"model": "ai/smollm2"}).status == 200, "the pulled model is served", 5, 0.1)


def test_litellm_is_never_asked_for_health(world):
    """/health of LiteLLM costs money on every call: not at start, not when it fails, not when it comes back."""
    a = world.backend(Litellm, "a", ["gpt-4"])
    alive = a.routes["/health/liveliness"]
    proxy = world.olla({"a": endpoint(a, **FAST)}, {"discovery.model_discovery.interval": "1s"})
    a.on("/health/liveliness", lambda c, r: c.reply({"error": "down"}, 500))
    proxy.wait_down("a", 4)
    a.on("/health/liveliness", alive)
    proxy.wait_state("a", "healthy", timeout=8)
    assert {r.path for r in a.probes} == {"/health/liveliness", "/v1/models"}


def test_lm_studio_that_says_yes(world):
    """It answers 200 to any path: with another program's list missing, that must not count as well."""
    a = world.backend(LmStudioSaysYes, "a", ["m1"])
    good = a.routes.pop("/v1/models")
    proxy = world.olla({"a": endpoint(a, **FAST)}, ready=None)
    proxy.wait_state("a", "unhealthy")
    assert proxy.endpoint("a")["reason"]
    a.on("/v1/models", good)
    proxy.wait_healthy({"a": 1}, 8)


def test_explicit_probe_paths(world):
    """health_check_url and model_url win over what the type says."""
    kinds = (Lemonade, Dmr, Litellm, LmStudio)
    spec = {}
    for kind in kinds:
        server = world.backend(kind, kind.type, ["m-" + kind.type])
        server.on("/up", lambda c, r: c.reply({"data": []}))
        server.on("/list", server.routes[next(iter(kind.lists))])
        spec[kind.type] = endpoint(server, health_check_url="/up", model_url="/list")
    proxy = world.olla(spec, ready={name: 1 for name in spec})
    for server in world.backends:
        assert {r.path for r in server.probes} - ({"/api/v0/models"} if isinstance(server, LmStudio) else set()) == {"/up", "/list"}
        assert proxy.post(CHAT, {"model": "m-" + server.type}).json()["path"] == server.base + "/chat/completions"


def test_routes_while_the_only_server_is_away(world):
    """With its server down a prefix has no endpoints: 404 with the name, and 200 when it is back."""
    gate = Gate()
    a, b = world.backend(Dmr, "a", ["m1"]), world.backend(Vllm, "b", ["m1"])
    listing = a.routes["/engines/v1/models"]
    a.on("/engines/v1/models", lambda c, r: listing(c, r) if gate.is_open() else c.reply({"error": "x"}, 500))
    proxy = world.olla({"a": endpoint(a, **FAST), "b": b}, ready=["b"])
    proxy.wait_state("a", "unhealthy")
    reply = proxy.post("/olla/dmr" + CHAT, {"model": "m1"})
    assert reply.status == 404 and "No docker-model-runner endpoints available" in reply.json()["error"]["message"]
    assert ids(proxy.get("/olla/dmr/v1/models")) == set()
    gate.open()
    proxy.wait_healthy({"a": 1}, 8)
    assert proxy.post("/olla/dmr" + CHAT, {"model": "m1"}).get("X-Olla-Endpoint") == "a"
