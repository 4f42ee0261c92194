"""`type = auto`, or none at all: what kind of server is there is found out, and found out anew after an outage."""

import time

import pytest

from backend import Gate, OllamaBackend, eventually
from client import full_body
from harness import World
from messages import ROOT, posts, prepare
from servers import (Compatible, Dmr, Gpustack, Lemonade, Litellm, Llamacpp, LlamacppWithTags, LmStudio, LmStudioSaysYes, Localai,
                     Lmdeploy, Ollama, Omlx, Server, Sglang, Vllm, VllmMlx)
from servers.docker_model_runner import DmrWithTags
from servers.lemonade import LemonadeWithTags
from servers.llamacpp import LlamacppRouter
from servers.localai import LocalaiWithTags
from servers.sglang import SglangWithTags
from test_types import check_messages, own_messages

CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
UNNAMED = (Compatible, Litellm, Localai)  # nothing in their lists tells what they are: other paths do, if any
LISTS = {"discovery.model_discovery.interval": "1s"}


class LlamacppTagsWithoutDigest(Llamacpp):
    """An imitation of /api/tags in which there is no digest at all."""
    lists = {"/v1/models": "both", "/api/tags": "bare"}

    def bare(self):
        return {"models": [{k: v for k, v in entry.items() if k != "digest"} for entry in self.both()["models"]]}


FOUND = (Ollama, Llamacpp, LlamacppWithTags, LlamacppTagsWithoutDigest, LmStudio, LmStudioSaysYes, Vllm, Sglang, Lmdeploy, VllmMlx, Omlx,
         Lemonade, Dmr, Gpustack, LlamacppRouter, SglangWithTags, LemonadeWithTags, DmrWithTags, LocalaiWithTags) + UNNAMED


def auto(server, how="auto", **keys):
    """An endpoint section with `type = auto`, or without a type."""
    spec = dict({"url": server.url, "type": how}, **dict(FAST, **keys))
    if how is None:
        del spec["type"]
    return spec


class Fleet:
    """One server of every kind behind `auto`."""

    def __init__(self, how):
        self.how, self.world = how, World()
        self.servers = {kind.__name__: self.world.backend(kind, kind.__name__, ["M-" + kind.__name__, "m-all"]) for kind in FOUND}
        self.proxy = self.world.olla({name: auto(server, how) for name, server in self.servers.items()},
                                     ready={name: 2 for name in self.servers})

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture(scope="module", params=["Auto", None], ids=["auto", "omitted"])
def site(kept, request):
    return kept(Fleet, request.param)


@pytest.mark.parametrize("kind", FOUND, ids=lambda kind: kind.__name__)
def test_detected(site, kind):
    """The reference takes every server for an Ollama without models (1.9): nothing behind `auto` can be reached."""
    name = kind.__name__
    entry = site.proxy.endpoint(name)
    assert (entry["status"], entry["detected_type"], entry["models"]["count"]) == ("healthy", kind.type, 2), entry
    if site.how:
        assert entry["type"] == site.how
    model = "M-" + name
    for route in ("", "/olla/proxy", "/olla/openai"):
        reply = site.proxy.post(route + CHAT, {"model": model})
        assert reply.status == 200 and reply.json() == {"id": "c1", "object": "chat.completion", "served_by": name,
                                                        "path": kind.base + "/chat/completions"}
        if site.how:
            assert reply.get("X-Olla-Backend-Type") == site.how
    for prefix in kind.prefixes:
        assert site.proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": model}).get("X-Olla-Endpoint") == name
        assert model in {m["id"] for m in site.proxy.get("/olla/%s/v1/models" % prefix).json()["data"]}
    other = "vllm" if kind is not Vllm else "sglang"
    reply = site.proxy.post("/olla/%s%s" % (other, CHAT), {"model": model})
    assert reply.status == 503, "only servers of that type belong to a prefix"


def test_native_paths(site):
    """What was detected decides about paths that only some servers have."""
    for path, name in (("/api/chat", "Ollama"), ("/olla/proxy/api/v1/chat/completions", "Lemonade"),
                       ("/olla/proxy/engines/v1/chat/completions", "Dmr")):
        kind = {n for n in site.servers if n.startswith(name)}  # with its variant
        assert {site.proxy.post(path, {"model": "m-all"}).get("X-Olla-Endpoint") for _ in range(20)} == kind
    reply = site.proxy.post(ROOT, full_body(ROOT, {"model": "M-Dmr"}))
    assert (reply.json()["path"], reply.get("X-Olla-Mode")) == ("/anthropic/v1/messages", "passthrough")


def test_messages_path(site):
    """... and about the Messages API: who has it gets requests as they came, the others get chat completions at their path."""
    saved = {name: dict(server.routes) for name, server in site.servers.items()}
    try:
        for name, server in site.servers.items():
            prepare(server)
            before = len(posts(server))
            reply = site.proxy.post(ROOT, full_body(ROOT, {"model": "M-" + name}))
            assert reply.get("X-Olla-Endpoint") == name and len(posts(server)) == before + 1
            check_messages(server, reply, posts(server)[-1], "M-" + name)
    finally:
        for name, server in site.servers.items():
            server.routes = saved[name]
    assert {own_messages(server) for server in site.servers.values()} == {None, ROOT, "/anthropic/v1/messages"}


def test_the_answer_is_remembered(site):
    """Asking a server at six wrong paths every few seconds fills its log with errors."""
    if not site.how:
        pytest.skip("once is enough")
    servers = [server for server in site.servers.values() if not isinstance(server, UNNAMED + (Ollama, LmStudio))]
    eventually(lambda: all(len([r for r in s.probes if r.path == s.health]) >= 2 for s in servers), "two health checks of each", 6)
    for server in servers:
        seen = [r.path for r in server.probes]
        for path in ("/api/tags", "/api/v0/models"):
            assert seen.count(path) <= 1, (server.name, seen)
        if server.health == "/health":
            assert seen.count("/v1/models") <= 2, "once to detect, once as its list: %r" % seen


def test_requests_wait_for_detection(world):
    """A request in the first moments must not be told that its model is unknown."""
    gate = Gate()
    a = world.backend(Dmr, "a", ["m1"])
    a.on("/api/tags", lambda c, r: (gate.wait(), c.reply({"error": "no"}, 404)))
    proxy = world.olla({"a": auto(a, check_timeout="900ms")}, ready=None)
    client = world.client(proxy)
    client.start_post(CHAT, {"model": "m1"})
    time.sleep(0.2)
    gate.open()
    reply = client.read_response("POST")
    assert reply.status == 200 and reply.json()["path"] == "/engines/v1/chat/completions"


PAIRS = ((Ollama, Vllm), (Vllm, Ollama), (Llamacpp, LmStudioSaysYes), (LmStudioSaysYes, Dmr), (Dmr, Compatible), (Compatible, Sglang))


def start_pairs(world, pairs):
    servers = {kind.__name__: world.backend(kind, kind.__name__, ["m-" + kind.__name__]) for kind, _ in pairs}
    proxy = world.olla({name: auto(server) for name, server in servers.items()}, LISTS)
    for before, _ in pairs:
        name = before.__name__
        assert proxy.post(CHAT, {"model": "m-" + name}).json()["path"] == before.base + "/chat/completions"
    return proxy, servers


def check_pairs(proxy, pairs):
    for before, after in pairs:
        name, model = before.__name__, "after-" + before.__name__
        eventually(lambda: proxy.endpoint(name)["detected_type"] == after.type, "%s is detected as %s" % (name, after.type), 6, 0.05)
        eventually(lambda: proxy.post(CHAT, {"model": model}).status == 200, "%s is served" % model, 5, 0.05)
        assert proxy.post(CHAT, {"model": model}).json()["path"] == after.base + "/chat/completions"
        assert proxy.post(CHAT, {"model": "m-" + name}).status == 404
    assert {m["id"] for m in proxy.get("/v1/models").json()["data"]} == {"after-" + before.__name__ for before, _ in pairs}


def test_another_server_after_an_outage(world):
    """Another program is started on the port: with the old type its paths and its list would stay wrong."""
    proxy, servers = start_pairs(world, PAIRS)
    for server in servers.values():
        server.stop()
    for before, after in PAIRS:
        proxy.wait_down(before.__name__)
        servers[before.__name__].become(after, ["after-" + before.__name__])
    for server in servers.values():
        server.start()
    check_pairs(proxy, PAIRS)


def test_another_server_between_two_probes(world):
    """A quick restart: the port never refused, only the old health path is 404 now. The type is remembered until
    the endpoint goes unhealthy (1.9); remembered longer, the endpoint is lost until somebody restarts olla."""
    pairs = ((Vllm, Ollama), (Ollama, Dmr), (Llamacpp, Lemonade))
    proxy, servers = start_pairs(world, pairs)
    for before, after in pairs:
        server = servers[before.__name__]
        server.become(after, ["after-" + before.__name__])
        if before is Ollama:
            server.on("/", Server.not_found)
    check_pairs(proxy, pairs)


NO_LIST = {
    "404": lambda c, r: c.reply({"error": "no such path"}, 404),
    "html": lambda c, r: c.reply(b"<html><body>Welcome to nginx!</body></html>", ctype="text/html"),
    "empty": lambda c, r: c.reply(b"", ctype="text/plain"),
    "json": lambda c, r: c.reply({"status": "ok"}),
    "null-lists": lambda c, r: c.reply({"data": None, "models": None}),
    "text": lambda c, r: c.reply({"error": "Unexpected endpoint or method. (GET %s)" % r.path}),
    "401": lambda c, r: c.reply({"error": "key"}, 401),
    "503": lambda c, r: c.reply({"error": {"message": "Loading model"}}, 503),
    "redirect": lambda c, r: c.head(302, {"Location": "/login", "Content-Length": "0"}),
    "cut": lambda c, r: (c.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"data":'), c.fin()),
}


def test_server_without_a_list(world):
    """The reference calls it healthy with no models: requests without a model would go there."""
    spec = {}
    for name, handler in NO_LIST.items():
        server = world.backend(Server, name, ["m-" + name])
        server.routes = {"*": handler}
        spec[name] = auto(server)
    proxy = world.olla(spec, ready=None)
    states = {}

    def settled():
        states.update({e["name"]: e for e in proxy.status()["endpoints"]})
        return all(e["status"] != "unknown" for e in states.values())
    eventually(settled, "all were looked at", 8, 0.05)
    time.sleep(1.2)  # and once more
    settled()
    for name, entry in states.items():
        assert entry["status"] not in ("healthy", "unknown"), name
        assert entry["reason"], name
        assert entry["models"]["count"] == 0
    assert not [e for e in proxy.find_logs("endpoint state") if e["to"] == "healthy"]
    assert proxy.get("/olla/proxy/v1/x").status == 503
    for server in world.backends:
        server.become(Vllm, server.models)
    proxy.wait_healthy({name: 1 for name in spec}, 15)
    assert {e["detected_type"] for e in proxy.status()["endpoints"]} == {"vllm"}


def test_empty_list(world):
    """A fresh server has a list with nothing in it. That is a list: the type is known, and the first model is found."""
    servers = {kind.__name__: world.backend(kind, kind.__name__, []) for kind in (Ollama, Dmr, LmStudio, Lemonade)}
    proxy = world.olla({name: auto(server) for name, server in servers.items()}, LISTS, ready=None)
    proxy.wait_healthy({name: 0 for name in servers})
    for name, server in servers.items():
        assert proxy.endpoint(name)["detected_type"] == server.type
        assert proxy.post(CHAT, {"model": "m-" + name}).status == 404
        server.models = ["m-" + name]
    for name, server in servers.items():
        eventually(lambda: proxy.post(CHAT, {"model": "m-" + name}).status == 200, "the first model is served", 5, 0.05)
        assert proxy.endpoint(name)["detected_type"] == server.type


@pytest.mark.parametrize("kind", [Ollama, Vllm], ids=lambda kind: kind.__name__)
def test_explicit_probe_paths(world, kind):
    """Paths that were configured are the ones that are asked, whatever is detected."""
    a = world.backend(kind, "a", ["m1"])
    a.on("/up", lambda c, r: c.reply(b"up", ctype="text/plain"))
    a.on("/list", lambda c, r: c.reply(getattr(a, next(iter(kind.lists.values())))()))
    proxy = world.olla({"a": auto(a, health_check_url="/up", model_url="/list")}, LISTS)
    assert proxy.endpoint("a")["detected_type"] == kind.type
    assert [r for r in a.probes if r.path == "/list"], "the list comes from model_url"
    a.forget()
    eventually(lambda: {"/up", "/list"} <= {r.path for r in a.probes}, "both are asked again", 5)
    assert {r.path for r in a.probes} <= {"/up", "/list"} | set(kind.extras)


def test_the_only_list_is_at_model_url(world):
    """A list at a path of its own is what model_url is for: it decides the type as well."""
    a = world.backend(Compatible, "a", ["m1"])
    a.on("/own/models", a.routes.pop("/v1/models"))
    a.on("/up", lambda c, r: c.reply(b"up", ctype="text/plain"))
    proxy = world.olla({"a": auto(a, health_check_url="/up", model_url="/own/models")}, ready=None)
    proxy.wait_healthy({"a": 1}, 5)
    assert proxy.endpoint("a")["detected_type"] == "openai-compatible"
    assert proxy.post(CHAT, {"model": "m1"}).status == 200


def test_base_path(world):
    """Detection looks below the path of the url, as the probes of a known type do."""
    a = world.backend(Vllm, "a", ["m1"])
    for path in ("/v1/models", "/health", CHAT):
        a.on("/base" + path, a.routes.pop(path))
    proxy = world.olla({"a": auto(a, url=a.url + "/base/", preserve_path=True)})
    assert proxy.endpoint("a")["detected_type"] == "vllm"
    assert {r.path.startswith("/base/") for r in a.requests} == {True}
    assert proxy.post(CHAT, {"model": "m1"}).status == 200


def test_loading_llamacpp(world):
    """While it loads, llama.cpp answers /v1/models (meta is null) and 503 at /health: warming, not dead."""
    a = world.backend(Llamacpp, "a", ["m1"])
    whole, ready = a.both, a.routes["/health"]
    a.both = lambda: dict(whole(), data=[dict(entry, meta=None) for entry in whole()["data"]])
    a.on("/health", lambda c, r: c.reply({"error": {"code": 503, "message": "Loading model"}}, 503))
    proxy = world.olla({"a": auto(a)}, ready=None)
    proxy.wait_log("endpoint state", 5, endpoint="a", to="warming")
    deadline = time.monotonic() + 1.3
    while time.monotonic() < deadline:
        assert proxy.endpoint("a")["status"] != "healthy"
        time.sleep(0.1)
    a.both = whole
    a.on("/health", ready)
    proxy.wait_healthy({"a": 1}, 10)
    assert proxy.endpoint("a")["detected_type"] == "llamacpp"


def test_reload_keeps_what_was_detected(world):
    """A reload that does not touch the endpoint must not take it out of service to look again."""
    a = world.backend(Lemonade, "a", ["m1"])
    spec = {"a": auto(a, check_interval="60s")}
    proxy = world.olla(spec)
    count = len([r for r in a.probes if r.path == "/api/tags"])
    proxy.reload(spec, {"proxy.load_balancer": "round-robin"})
    for _ in range(20):
        assert proxy.post(CHAT, {"model": "m1"}).status == 200
    eventually(lambda: proxy.status()["proxy"]["balancer"] == "round-robin", "the reload is done")
    assert proxy.post(CHAT, {"model": "m1"}).status == 200
    assert len([r for r in a.probes if r.path == "/api/tags"]) == count == 1


def test_reload_from_auto_to_a_type_and_back(world):
    """The type was detected, then written down: the endpoint goes on, and `auto` again finds the same."""
    a = world.backend(Lemonade, "a", ["m1"])
    proxy = world.olla({"a": auto(a)})
    for how in ("lemonade", "auto", "openai", "auto"):
        if how == "openai":
            a.become(Compatible, ["m1"])
        proxy.reload({"a": auto(a, how)})
        eventually(lambda: proxy.endpoint("a")["type"] == how, "the reload is done")
        proxy.wait_healthy({"a": 1})
        assert proxy.post(CHAT, {"model": "m1"}).json()["path"] == a.base + "/chat/completions"
        assert proxy.endpoint("a")["detected_type"] == a.type


def test_detection_disturbs_nobody(world):
    """Servers that swallow the questions occupy their own probes, not the neighbour's."""
    spec = {}
    for n in range(9):
        mute = world.backend(Server, "mute%d" % n)
        mute.on_accept = lambda conn: conn.wait_close(30)
        spec["mute%d" % n] = auto(mute)
    good = world.backend(OllamaBackend, "good", ["m1"])
    spec["good"] = auto(good)
    proxy = world.olla(spec, ready=None)
    proxy.wait_healthy({"good": 1}, 6)
    assert proxy.endpoint("good")["detected_type"] == "ollama"
    assert proxy.post(CHAT, {"model": "m1"}).get("X-Olla-Endpoint") == "good"
    eventually(lambda: proxy.endpoint("mute8")["status"] == "offline", "the mute ones are offline", 8, 0.1)
    assert proxy.endpoint("good")["status"] == "healthy"
