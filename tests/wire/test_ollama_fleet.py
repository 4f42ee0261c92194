"""Several Ollama machines behave as one: what is loaded anywhere, one version, management on a machine that is named."""

import json
import time

import pytest

from backend import MARK, Gate, eventually, hold, pattern
from client import dump, json_headers, request_bytes
from harness import World, endpoint, report, run_cli
from servers import Ollama, Vllm

FAST = {"check_interval": "1s", "check_timeout": "500ms"}
BASES = pytest.mark.parametrize("base", ["", "/olla/ollama", "/olla/proxy"], ids=["root", "ollama", "proxy"])
MISSING = {"missing": []}


def pin(name):
    return {"X-Olla-Endpoint": name}


def entry(name, **more):
    """One entry of /api/ps in the form of the API's documentation."""
    return dict({"name": name, "model": name, "size": 5137025024, "digest": "2ae6f6dd7a3dd734790bbbf58b8909a606e0e7e97e94b7604e0aa7ae4490e6d8",
                 "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "7.2B",
                             "quantization_level": "Q4_0"},
                 "expires_at": "2024-06-04T14:38:31.83753-07:00", "size_vram": 5137025024}, **more)


def says(server, body, path="/api/ps", **options):
    server.on(path, lambda c, r: c.reply(body, **options))


def by_machine(document):
    """The entries in the order of the configuration, whatever the order of the answers was."""
    return sorted(document["models"], key=lambda entry: entry["endpoint"])


def asked(server, path="/api/ps"):
    return [r for r in server.requests if r.path == path]


class Fleet:
    """Three Ollama machines, a, b and c in this order, and a vLLM server between them."""

    def __init__(self, world=None, **keys):
        self.world = world = world or World()
        self.a, self.b, self.c = (world.backend(Ollama, n, ["m-" + n, "m-all", "tagged-%s:latest" % n]) for n in "abc")
        self.v = world.backend(Vllm, "v", ["m-v", "m-all"])
        self.keys = dict({"check_timeout": "1s"}, **keys)
        self.spec = {s.name: endpoint(s, **self.keys) for s in (self.a, self.v, self.b, self.c)}
        self.proxy = world.olla(self.spec)

    @property
    def servers(self):
        return (self.a, self.b, self.c, self.v)

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def site(kept):
    """The shared fleet, as it was made; pools are checked after each test."""
    site = kept(Fleet)
    saved = []
    for server in site.servers:
        server.forget()
        saved.append((server, dict(server.routes)))
    site.a.loaded, site.b.loaded, site.c.loaded = [], [], []
    yield site
    site.world.close_clients()
    for server, routes in saved:
        server.routes = routes
        server.unread.clear()
    report(site.proxy.idle_problems() + site.world.script_failures())


# ---- what is loaded

@BASES
def test_ps_of_all_machines(site, base):
    """The entries of every machine, each as it was sent, with the machine's name in front."""
    says(site.a, {"models": [entry("m-a"), entry("m-all", own="x")]})
    says(site.b, {"models": []})
    says(site.c, {"models": [entry("m-all", size_vram=0)]})
    for method in ("GET", "POST"):
        reply = site.proxy.request(method, base + "/api/ps", b"{}" if method == "POST" else None)
        assert reply.status == 200 and reply.get("Content-Type").startswith("application/json")
        document = reply.json()
        assert set(document) == {"models", "olla"} and document["olla"] == MISSING
        assert by_machine(document) == [dict(entry("m-a"), endpoint="a"), dict(entry("m-all", own="x"), endpoint="a"),
                                        dict(entry("m-all", size_vram=0), endpoint="c")]
        for found in dict(json.loads(reply.body, object_pairs_hook=list))["models"]:
            assert found[0][0] == "endpoint", "in front"
            assert [key for key, _ in found[1:]] == [key for key in entry("x", own="x") if key in dict(found)], "in their order"
    assert asked(site.v) == [], "only Ollama machines are asked"


def test_ps_as_the_scripted_servers_say_it(site):
    """With the replies that the servers make by themselves."""
    site.a.loaded, site.c.loaded = ["m-a"], ["m-c", "m-all"]
    document = site.proxy.get("/api/ps").json()
    assert [(m["endpoint"], m["name"]) for m in by_machine(document)] == [("a", "m-a"), ("c", "m-c"), ("c", "m-all")]
    assert by_machine(document)[0]["context_length"] == site.a.window
    assert document["olla"] == MISSING


def test_ps_order_does_not_change(site):
    """A table that is drawn anew every second must not jump about: the order is that of the configuration, not of the answers."""
    gates = {server.name: Gate() for server in (site.a, site.b, site.c)}
    for server in (site.a, site.b, site.c):
        server.on("/api/ps", lambda c, r: (gates[c.backend.name].wait(), c.reply({"models": [entry("m-" + c.backend.name)]})))
    client = site.world.client(site.proxy)
    client.send(request_bytes("GET", "/api/ps"))
    for server in (site.c, site.b, site.a):
        eventually(lambda: asked(server), "%s is asked" % server.name)
        gates[server.name].open()
        time.sleep(0.05)
    assert [m["endpoint"] for m in client.read_response().json()["models"]] == ["a", "b", "c"]


RAW = [
    b'{"name":"x","n":1.50e+1,"big":12345678901234567890,"z":-0.0,"u":"\\u00e4\xc3\xa4\\/","a":[ 1 , {"b" : [ ] } ],"name":"y"}',
    b'{ "name" : "x" }', b'{\r\n\t"name":"a\\"b\\\\"\n}', b'{"endpoint":"liar","name":"x"}', b'{}', b'{"deep":' + b'[' * 20 + b']' * 20 + b'}',
]


def loose(raw):
    return json.loads(raw, object_pairs_hook=list, parse_float=str, parse_int=str)


def test_ps_changes_nothing_in_the_entries(site):
    """Digits, order, doubled members and escapes arrive as they were sent."""
    says(site.b, b'{"more":1,"models":[' + b" , ".join(RAW) + b'],"models2":[{"name":"not-this"}]}')
    body = site.proxy.get("/api/ps").body
    found = dict(loose(body))["models"]
    assert found == [[("endpoint", "b")] + loose(raw) for raw in RAW]
    assert b"not-this" not in body and b"1.50e+1" in body and b"12345678901234567890" in body


def test_ps_names_machines_safely(world):
    """A name from the configuration goes into JSON."""
    a = world.backend(Ollama, "a", ["m1"])
    says(a, {"models": [entry("m1")]})
    name = 'wei\u00df "x" \\ box'
    proxy = world.olla({name: endpoint(a)}, ready={name: 1})
    assert proxy.get("/api/ps").json()["models"] == [dict(entry("m1"), endpoint=name)]


@pytest.mark.parametrize("how", ["chunked", "tiny-chunks", "close", "large"])
def test_ps_framings(site, how):
    """Go sends short replies with a length and longer ones in chunks."""
    many = {"models": [entry("m-%03d" % n) for n in range(400 if how == "large" else 20)]}
    raw = dump(many)

    def reply(conn, request):
        if how == "close":
            conn.head(200, [("Content-Type", "application/json"), ("Connection", "close")])
            conn.send(raw)
            return conn.fin()
        conn.start_chunked("application/json")
        size = 3 if how == "tiny-chunks" else 4000
        for at in range(0, len(raw), size):
            conn.chunk(raw[at:at + size])
        conn.end_chunks()
    site.b.on("/api/ps", reply)
    site.a.loaded = ["m-a"]
    document = site.proxy.get("/api/ps").json()
    assert [m["name"] for m in by_machine(document)] == ["m-a"] + [m["name"] for m in many["models"]]
    assert document["olla"] == MISSING


def test_ps_with_many_from_everywhere(site):
    """All three at once with lists larger than a buffer: none is cut or mixed with another."""
    for server in (site.a, site.b, site.c):
        says(server, {"models": [entry("%s-%03d" % (server.name, n)) for n in range(300)]})
    for _ in range(3):
        document = site.proxy.get("/api/ps").json()
        assert [m["name"] for m in by_machine(document)] == ["%s-%03d" % (n, k) for n in "abc" for k in range(300)]
        assert all(m["endpoint"] == m["name"][0] for m in document["models"]) and document["olla"] == MISSING


@pytest.mark.parametrize("status,body", [(500, b'{"error":"no"}'), (404, b"404 page not found"), (200, b"<html>"), (200, b""),
                                         (200, b'{"models":5}'), (200, b'{"models":[{"name":"half"},'), (200, b'[{"name":"x"}]')])
def test_ps_of_a_confused_machine(site, status, body):
    """One odd answer must not spoil the others, nor look like `nothing loaded` without a word."""
    site.a.loaded = site.c.loaded = ["m-all"]
    says(site.b, body, status=status)
    reply = site.proxy.get("/api/ps")
    document = reply.json()
    assert reply.status == 200
    assert [m["endpoint"] for m in by_machine(document) if m["endpoint"] != "b"] == ["a", "c"]
    assert document["olla"]["missing"] == ["b"]
    assert site.proxy.endpoint("b")["status"] == "healthy", "a question on the side is no health check"


@pytest.mark.parametrize("how", ["reset", "close", "cut"])
def test_ps_of_a_machine_that_breaks_off(site, how):
    """A connection that is lost is an answer that did not come."""
    def breaks(conn, request):
        if how == "cut":
            conn.head(200, [("Content-Type", "application/json"), ("Content-Length", "100000")])
            conn.send(b'{"models":[{"name":"half"},')
        return conn.fin() if how == "close" else conn.rst()
    site.a.loaded = site.c.loaded = ["m-all"]
    site.b.on("/api/ps", breaks)
    document = site.proxy.get("/api/ps").json()
    assert {m["endpoint"] for m in document["models"]} - {"b"} == {"a", "c"} and document["olla"] == {"missing": ["b"]}


def test_ps_with_a_hanging_machine(site):
    """Who does not answer within check_timeout is named, and the others are shown."""
    site.a.loaded = site.c.loaded = ["m-all"]
    site.b.on("/api/ps", hold)
    document = site.proxy.get("/api/ps").json()
    assert [m["endpoint"] for m in by_machine(document)] == ["a", "c"] and document["olla"] == {"missing": ["b"]}
    call = asked(site.b)[-1]
    eventually(lambda: call.conn.closed_how, "the question is given up")
    site.b.on("/api/ps", lambda c, r: c.reply({"models": [entry("m-b")]}))
    document = site.proxy.get("/api/ps").json()
    assert [m["endpoint"] for m in by_machine(document)] == ["a", "b", "c"] and document["olla"] == MISSING


def test_ps_with_everyone_hanging(site):
    """Nobody answers: an empty list that says so, not an error and not silence."""
    for server in (site.a, site.b, site.c):
        server.on("/api/ps", hold)
    document = site.proxy.get("/api/ps").json()
    assert document["models"] == [] and sorted(document["olla"]["missing"]) == ["a", "b", "c"]


def test_many_ask_at_once_while_one_hangs(site):
    """No slot may stay taken by a question that was given up, and probes must go on."""
    site.a.loaded = ["m-a"]
    site.b.on("/api/ps", hold)
    clients = [site.world.client(site.proxy) for _ in range(20)]
    for client in clients:
        client.send(request_bytes("GET", "/api/ps"))
    for client in clients:
        document = client.read_response(timeout=20).json()
        assert [m["name"] for m in document["models"]][:1] in (["m-a"], [])
        assert "b" in document["olla"]["missing"]
    assert site.proxy.get("/internal/health").status == 200
    site.b.on("/api/ps", lambda c, r: c.reply({"models": [entry("m-b")]}))
    document = site.proxy.get("/api/ps").json()
    assert [m["name"] for m in by_machine(document)] == ["m-a", "m-b"] and document["olla"] == MISSING


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_leaves_while_answers_are_gathered(site, how):
    """The questions are dropped with the client; nothing stays in use (the pools are looked at after each test)."""
    site.b.on("/api/ps", hold)
    clients = [site.world.client(site.proxy) for _ in range(10)]
    for client in clients:
        client.send(request_bytes("GET", "/api/ps"))
    eventually(lambda: asked(site.b), "somebody is asked")
    for client in clients:
        client.close() if how == "close" else client.reset()
    eventually(lambda: all(r.conn.closed_how for r in asked(site.b)), "the questions are dropped")
    site.b.on("/api/ps", lambda c, r: c.reply({"models": [entry("m-b")]}))
    assert [m["name"] for m in site.proxy.get("/api/ps").json()["models"]] == ["m-b"]


def test_next_request_behind_ps(site):
    """Pipelined behind a question that takes a while: in order, none lost."""
    gate = Gate()
    site.b.on("/api/ps", lambda c, r: (gate.wait(), c.reply({"models": [entry("m-b")]})))
    client = site.world.client(site.proxy)
    client.send(request_bytes("GET", "/api/ps") + request_bytes("GET", "/internal/health") + request_bytes("HEAD", "/api/ps"))
    eventually(lambda: asked(site.b), "b is asked")
    gate.open()
    assert [m["name"] for m in client.read_response().json()["models"]] == ["m-b"]
    assert client.read_response().body == b'{"status":"healthy"}'
    assert client.read_response("HEAD").status == 200


def test_probes_go_on_after_hanging_questions(world):
    """With every slot lost to a hanging machine the fleet would be judged by its past for ever."""
    fleet = Fleet(world, **FAST)
    fleet.b.on("/api/ps", hold)
    assert fleet.proxy.get("/api/ps").json()["olla"] == {"missing": ["b"]}
    seen = {s.name: len(s.probes) for s in fleet.servers}
    eventually(lambda: all(len([r for r in s.probes if r.path != "/api/ps"]) > seen[s.name] for s in fleet.servers), "all are probed again", 6)
    assert {e["status"] for e in fleet.proxy.status()["endpoints"]} == {"healthy"}
    fleet.a.stop()
    fleet.proxy.wait_down("a")
    fleet.c.loaded = ["m-c"]
    document = fleet.proxy.get("/api/ps").json()
    assert [m["endpoint"] for m in document["models"]] == ["c"] and "b" in document["olla"]["missing"] and "c" not in document["olla"]["missing"]


def test_ps_without_machines(world):
    """Nobody to ask."""
    proxy = world.olla({"v": world.backend(Vllm, "v", ["m1"])})
    for base in ("", "/olla/ollama", "/olla/proxy"):
        assert proxy.get(base + "/api/ps").json() == {"models": [], "olla": MISSING}


def test_stop_while_answers_are_gathered(world):
    """A drain waits for the answer, as for any other request."""
    fleet = Fleet(world)
    gate = Gate()
    fleet.b.on("/api/ps", lambda c, r: (gate.wait(), c.reply({"models": [entry("m-b")]})))
    client = world.client(fleet.proxy)
    client.send(request_bytes("GET", "/api/ps"))
    eventually(lambda: fleet.proxy.status()["system"]["active_connections"] >= 2, "the request runs")
    fleet.proxy.check_idle_at_end = False
    fleet.proxy.signal()
    gate.open()
    assert [m["name"] for m in client.read_response().json()["models"]] == ["m-b"]
    assert fleet.proxy.wait_exit() == 0


def test_reload_while_answers_are_gathered(world):
    """The machine that is being asked is taken out of the configuration meanwhile: an answer with it or without it, but an answer."""
    fleet = Fleet(world)
    gate = Gate()
    fleet.b.on("/api/ps", lambda c, r: (gate.wait(), c.reply({"models": [entry("m-b")]})))
    fleet.a.loaded = ["m-a"]
    client = world.client(fleet.proxy)
    client.send(request_bytes("GET", "/api/ps"))
    eventually(lambda: asked(fleet.b), "b is asked")
    fleet.proxy.reload({k: v for k, v in fleet.spec.items() if k != "b"}, {"proxy.load_balancer": "priority"})
    eventually(lambda: fleet.proxy.status()["proxy"]["balancer"] == "priority", "reloaded", 5, 0.02)
    gate.open()
    document = client.read_response().json()
    assert [m["name"] for m in document["models"] if m["endpoint"] == "a"] == ["m-a"]
    assert set(document) == {"models", "olla"}
    assert [m["endpoint"] for m in fleet.proxy.get("/api/ps").json()["models"]] == ["a"]


# ---- the version

def versions(world, said, **keys):
    """A fleet whose machines say these versions."""
    spec = {}
    for n, version in enumerate(said):
        server = world.backend(Ollama, "o%d" % n, ["m%d" % n])
        if isinstance(version, str):
            server.version = version
        else:
            server.on("/api/version", version)
        spec[server.name] = endpoint(server, **dict(FAST, **keys))
    return spec, world.olla(spec)


def version_of(proxy, base=""):
    document = proxy.get(base + "/api/version").json()
    assert set(document) == {"version"}
    return document["version"]


@pytest.mark.parametrize("said", ["0.9.6 0.12.6 0.11.10", "0.11.9 0.11.10", "0.99.99 1.0.0", "0.5.13-rc1 0.12.0", "0.6.0"])
@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_lowest_version(world, said, order):
    """What a client may rely on is what the oldest machine can; numbers are compared as numbers."""
    lowest = said.split()[0]
    spec, proxy = versions(world, said.split()[::order])
    eventually(lambda: version_of(proxy) == lowest, "the lowest version is told", 5, 0.05)
    for base in ("/olla/ollama", "/olla/proxy"):
        assert version_of(proxy, base) == lowest
    for server in world.backends:
        server.forget()
    assert version_of(proxy) == lowest
    assert not [r for server in world.backends for r in server.requests if r.path == "/api/version" and r.has(MARK)]


def test_version_of_healthy_machines_only(world):
    """The oldest machine is switched off, and on again."""
    spec, proxy = versions(world, ["0.12.6", "0.9.6"])
    eventually(lambda: version_of(proxy) == "0.9.6", "both are known", 5, 0.05)
    old = next(s for s in world.backends if s.version == "0.9.6")
    old.stop()
    proxy.wait_down(old.name)
    assert version_of(proxy) == "0.12.6"
    old.start()
    eventually(lambda: version_of(proxy) == "0.9.6", "it is back", 10, 0.05)


@pytest.mark.parametrize("odd", ["hangs", "404", "garbage", "number", "empty", "resets"])
def test_machine_without_a_version(world, odd):
    """A machine that does not tell its version is healthy all the same and does not count."""
    handler = {"hangs": hold, "404": lambda c, r: c.reply({"error": "no"}, 404), "garbage": lambda c, r: c.reply(b"<html>"),
               "number": lambda c, r: c.reply({"version": 1}), "empty": lambda c, r: c.reply({"version": ""}), "resets": lambda c, r: c.rst()}[odd]
    spec, proxy = versions(world, ["0.12.6", handler])
    eventually(lambda: version_of(proxy) == "0.12.6", "the other one is told", 5, 0.05)
    assert proxy.endpoint("o1")["status"] == "healthy"
    assert proxy.post("/api/chat", {"model": "m1", "stream": False}).get("X-Olla-Endpoint") == "o1"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_root(world, method):
    """`ollama list` and the like ask for / before anything else, and go no further without a 200."""
    reply = world.olla().request(method, "/")
    assert (reply.status, reply.get("Content-Type")) == (200, "text/plain; charset=utf-8")
    assert reply.body == (b"olla is running\n" if method == "GET" else b"") and reply.get("Content-Length") == "16"
    assert world.olla({}, {"server.root_api": False}).request(method, "/").status == 404


def test_own_version_without_machines(world):
    """No Ollama: olla's own."""
    own = run_cli("--version")[1].strip()
    proxy = world.olla({"v": world.backend(Vllm, "v", ["m1"])})
    assert version_of(proxy) == version_of(proxy, "/olla/ollama") == version_of(proxy, "/olla/proxy") == own


def test_version_after_an_upgrade(world):
    """A machine that comes back with another version is asked anew."""
    spec, proxy = versions(world, ["0.9.6"])
    eventually(lambda: version_of(proxy) == "0.9.6", "the first version", 5, 0.05)
    server = world.backends[0]
    server.stop()
    proxy.wait_down("o0")
    assert version_of(proxy) == run_cli("--version")[1].strip()
    server.version = "0.13.0"
    server.start()
    eventually(lambda: version_of(proxy) == "0.13.0", "the new version", 10, 0.05)


# ---- management

CALLS = {
    # name: (method, path, body)
    "pull": ("POST", "/api/pull", {"model": "brand-new:1b"}), "pull-name": ("POST", "/api/pull", {"name": "brand-new:1b", "stream": False}),
    "push": ("POST", "/api/push", {"model": "me/own:1b"}), "create": ("POST", "/api/create", {"model": "mario", "from": "nothing-here"}),
    "copy": ("POST", "/api/copy", {"source": "m-b", "destination": "other-name"}), "delete": ("DELETE", "/api/delete", {"model": "m-c"}),
    "delete-name": ("DELETE", "/api/delete", {"name": "nobody-knows"}), "blob-there": ("HEAD", "/api/blobs/sha256:29fdb92e", None),
    "blob": ("POST", "/api/blobs/sha256:29fdb92e", pattern(300000)),
}


@BASES
@pytest.mark.parametrize("name", list(CALLS))
def test_management_on_a_named_machine(site, base, name):
    """The named machine gets it as it is, also for a model that nobody has yet, or that only another one has."""
    method, path, body = CALLS[name]
    sent = body if isinstance(body, bytes) else None if body is None else dump(body)
    ctype = {"Content-Type": "application/octet-stream"} if isinstance(body, bytes) else {}

    def done(conn, request):
        if request.method == "HEAD":
            return conn.head(200, [("Content-Length", "0")])
        conn.reply({"status": "success", "by": conn.backend.name})
    for server in (site.a, site.b, site.c):
        server.on(path, done)
    for machine in (site.b, site.c, site.a):
        reply = site.proxy.request(method, base + path, sent, json_headers(dict(pin(machine.name), **ctype)))
        assert reply.status == 200, reply.body
        assert reply.get("X-Olla-Endpoint") == machine.name and (method == "HEAD" or reply.json()["by"] == machine.name)
        call = machine.calls[-1]
        assert (call.method, call.target, call.body) == (method, path, sent or b"")
        assert not call.has("X-Olla-Endpoint")
    assert len(site.a.calls) == len(site.b.calls) == len(site.c.calls) == 1
    for server in site.servers:
        server.forget()
    reply = site.proxy.request(method, base + path, sent, json_headers(ctype))
    assert reply.status == 501 and not any(server.calls for server in site.servers)
    assert method == "HEAD" or "X-Olla-Endpoint" in reply.json()["error"]


def test_progress_of_a_pull(site):
    """A pull is a stream that lasts for minutes: every line at once, and the end is the end."""
    gate = Gate()

    def pull(conn, request):
        conn.start_chunked("application/x-ndjson")
        conn.chunk(b'{"status":"pulling manifest"}\n')
        gate.wait()
        conn.chunk(b'{"status":"success"}\n')
        conn.end_chunks()
    site.c.on("/api/pull", pull)
    client = site.world.client(site.proxy)
    client.start_post("/api/pull", {"model": "brand-new"}, pin("c"))
    reply = client.read_head("POST")
    assert reply.read_at_least(20) == b'{"status":"pulling manifest"}\n'
    gate.open()
    assert reply.read_rest().complete and reply.body.endswith(b'{"status":"success"}\n')


def test_client_leaves_during_a_pull(site):
    """The machine learns at once that nobody waits for it any more."""
    def pull(conn, request):
        conn.start_chunked("application/x-ndjson")
        conn.chunk(b'{"status":"pulling manifest"}\n')
        conn.wait_close()
    site.c.on("/api/pull", pull)
    client = site.world.client(site.proxy)
    client.start_post("/api/pull", {"model": "brand-new"}, pin("c"))
    client.read_head("POST").read_at_least(5)
    client.close()
    eventually(lambda: site.c.calls[-1].conn.closed_how, "the connection to c is closed")


@BASES
def test_pinned_ps(site, base):
    """What runs on this machine: its own reply, as it is."""
    site.a.loaded, site.c.loaded = ["m-a"], ["m-c"]
    reply = site.proxy.get(base + "/api/ps", pin("c"))
    assert reply.get("X-Olla-Endpoint") == "c" and reply.json() == site.c.ps() and asked(site.a) == []


@BASES
def test_pinned_calls(site, base):
    """Everything that is proxied follows the name."""
    for path in ("/api/chat", "/api/generate", "/api/show", "/api/embed", "/api/embeddings", "/v1/chat/completions"):
        for name in "cab":
            reply = site.proxy.post(base + path, {"model": "m-all", "stream": False}, pin(name))
            assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, name), path


def test_wrong_pins(site):
    """A name that is unknown or of another type: told, and never somebody else instead."""
    assert site.proxy.post("/api/pull", {"model": "x"}, pin("nobody")).status == 404
    assert site.proxy.get("/api/ps", pin("nobody")).status == 404
    reply = site.proxy.post("/olla/ollama/api/chat", {"model": "m-all"}, pin("v"))
    assert reply.status in (400, 404, 503) and set(reply.json()) == {"error"}
    assert site.proxy.post("/api/pull", {"model": "x"}, pin("")).status in (404, 501)
    assert not any(server.calls for server in site.servers)
    reply = site.proxy.post("/api/chat", {"model": "m-a", "stream": False}, pin("b"))
    assert reply.get("X-Olla-Endpoint") == "b" if reply.status == 200 else reply.status in (404, 503), "b itself, or nobody"
    assert not site.a.calls


def test_pin_of_a_machine_that_is_down(world):
    """The wanted one is away: 503, also for what would otherwise be gathered or refused."""
    fleet = Fleet(world, **FAST)
    fleet.b.stop()
    fleet.proxy.wait_down("b")
    for method, path, body in (("GET", "/api/ps", None), ("POST", "/api/pull", {"model": "x"}), ("POST", "/api/chat", {"model": "m-all"})):
        reply = fleet.proxy.request(method, path, dump(body) if body else None, json_headers(pin("b")))
        assert reply.status == 503 and set(reply.json()) == {"error"}, (path, reply.body)
    assert not any(server.calls for server in fleet.servers)


# ---- by model

@BASES
def test_calls_by_model(site, base):
    """Each machine is asked for what it has; a name without a tag means `:latest`."""
    for path in ("/api/show", "/api/chat", "/api/generate", "/api/embed", "/api/embeddings"):
        for server in (site.a, site.b, site.c):
            for model in ("m-" + server.name, "tagged-%s" % server.name, "tagged-%s:latest" % server.name, "M-" + server.name.upper()):
                reply = site.proxy.post(base + path, {"model": model, "stream": False})
                assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, server.name), (path, model, reply.body)
                assert server.calls[-1].target == path
        reply = site.proxy.post(base + path, {"model": "m-nothing"})
        assert reply.status == 404 and "m-nothing" in reply.json()["error"] and set(reply.json()) == {"error"}


@BASES
def test_show(site, base):
    """The reference refuses it; the machine that has the model knows the answer. Older clients say `name`."""
    for key in ("model", "name"):
        for server in (site.a, site.b, site.c):
            reply = site.proxy.post(base + "/api/show", {key: "m-" + server.name})
            assert reply.status == 200 and reply.get("X-Olla-Endpoint") == server.name
            assert reply.json()["modelfile"] == "FROM m-" + server.name
    seen = {site.proxy.post(base + "/api/show", {"model": "m-all"}).get("X-Olla-Endpoint") for _ in range(9)}
    assert seen == {"a", "b", "c"}, "machines of another type do not speak this API"


def test_tags_are_answered_here(site):
    """The list of all machines, without asking any of them."""
    for base in ("", "/olla/ollama", "/olla/proxy"):
        document = site.proxy.get(base + "/api/tags", {MARK: "1"}).json()
        assert [m["name"] for m in document["models"]] == ["m-a", "m-all", "m-b", "m-c", "tagged-a:latest", "tagged-b:latest", "tagged-c:latest"]
    assert not any(server.calls for server in site.servers)
