"""Probes and model lists: one sick server must never disturb another, nor the listener."""

import json
import time

import pytest

from backend import BlackHole, DeadPort, Gate, LlamaBackend, OllamaBackend, OpenAIBackend, VllmBackend, eventually, hold
from client import dump
from harness import endpoint, run_cli

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}


def served_by(proxy, model="m1"):
    reply = proxy.post(PATH, {"model": model})
    return reply.get("X-Olla-Endpoint") if reply.status == 200 else reply.status


def test_dead_machines_do_not_delay_the_start(world):
    """The reference probes before it listens: one machine that is off keeps the whole house waiting."""
    good = world.backend(OpenAIBackend, "good", ["m1"])
    spec = {"hole%d" % n: endpoint(world.keep(BlackHole())) for n in range(3)}
    spec["dead"] = endpoint(world.keep(DeadPort()))
    mute = world.backend(OpenAIBackend, "mute", ["m2"])
    mute.on_accept = lambda conn: conn.wait_close(30)
    spec.update(mute=mute, good=good)
    started = time.monotonic()
    proxy = world.olla(spec, ready=None)
    assert time.monotonic() - started < 3
    assert proxy.get("/internal/health").status == 200
    proxy.wait_healthy({"good": 1}, 3)
    assert served_by(proxy) == "good"
    entry = proxy.wait_log("listening")
    assert entry["port"] == proxy.port and entry["address"]
    assert time.monotonic() - started < 6


def test_listening_comes_before_the_first_probe_result(world):
    """Scripts wait for `listening`; it must not depend on any backend."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a})
    names = [e["msg"] for e in proxy.logs]
    proxy.wait_log("listening")
    states = [n for n, e in enumerate(proxy.logs) if e["msg"] == "endpoint state"]
    assert names.count("listening") <= 1
    assert not states or min(states) > [e["msg"] for e in proxy.logs].index("listening")


def test_death_and_recovery(world):
    """A machine that is switched off and on again must be used again, with one log line per change."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1", "m2"])
    proxy = world.olla({"a": endpoint(a, priority=200, **FAST), "b": endpoint(b, **FAST)}, {"proxy.load_balancer": "priority"})
    assert served_by(proxy) == "a"
    a.stop()
    proxy.wait_down("a")
    assert served_by(proxy) == "b"
    time.sleep(2.5)  # several more probes fail
    a.start()
    proxy.wait_state("a", "healthy", timeout=20)
    assert served_by(proxy) == "a"
    time.sleep(0.3)
    changes = [(e["from"], e["to"]) for e in proxy.find_logs("endpoint state", endpoint="a")]
    leaving = [c for c in changes if c[0] == "healthy"]
    assert len(leaving) == 1, changes
    assert changes[-1][1] == "healthy" and changes.count(changes[-1]) == 1
    assert all(x[1] == y[0] for x, y in zip(changes, changes[1:])), changes
    assert all(e["reason"] for e in proxy.find_logs("endpoint state", endpoint="a", **{"from": "healthy"}))
    assert [c for c in ((e["from"], e["to"]) for e in proxy.find_logs("endpoint state", endpoint="b")) if c[0] == "healthy"] == []


def test_recovery_reads_the_models_again(world):
    """A restarted server may come back with other models."""
    a = world.backend(OpenAIBackend, "a", ["m-old"])
    proxy = world.olla({"a": endpoint(a, **FAST)})
    a.stop()
    proxy.wait_down("a")
    a.models = ["m-new"]
    a.start()
    eventually(lambda: served_by(proxy, "m-new") == "a", "the new model is known", 20, 0.1)
    assert served_by(proxy, "m-old") == 404


def test_model_list_is_refreshed(world):
    """A model pulled while the proxy runs must be found without a restart."""
    a = world.backend(OllamaBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, {"discovery.model_discovery.interval": "1s"})
    assert served_by(proxy, "m-new") == 404
    a.models.append("m-new")
    eventually(lambda: served_by(proxy, "m-new") == "a", "the new model is known", 10, 0.1)
    a.models.remove("m1")
    eventually(lambda: served_by(proxy, "m1") == 404, "the removed model is forgotten", 10, 0.1)
    counts = [e["count"] for e in proxy.find_logs("models", endpoint="a")]
    assert counts[0] == 1 and 2 in counts
    time.sleep(1.5)
    assert len(proxy.find_logs("models", endpoint="a")) <= len(counts) + 1, "a line per probe instead of per change"


def test_discovery_can_be_off(world):
    """Without discovery no list is fetched and requests are not judged by model."""
    a = world.backend(VllmBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a)}, {"discovery.model_discovery.enabled": False}, ready=None)
    proxy.wait_state("a", "healthy")
    time.sleep(0.3)
    assert {r.path for r in a.probes} == {"/health"}


def test_probe_format(world):
    """Operators find probes in backend logs by their User-Agent; a probe must look like one."""
    a = world.backend(LlamaBackend, "a", ["m1"])
    world.olla({"a": endpoint(a, **FAST)})
    eventually(lambda: len([r for r in a.probes if r.path == "/health"]) >= 2, "two probes", 6)
    version = run_cli("--version")[1].strip()
    for probe in a.probes:
        if probe.path == "/health":
            assert probe.get_all("User-Agent") == ["olla-HealthChecker/" + version]
        assert probe.method == "GET" and probe.version == "HTTP/1.1"
        assert probe.get_all("Host") == ["127.0.0.1:%d" % a.port]
        assert probe.has("Accept") and not probe.has("X-Forwarded-For") and not probe.has("Transfer-Encoding")


def test_probe_interval_is_per_endpoint(world):
    """The reference wakes every 30 s whatever check_interval says."""
    a, b = world.backend(LlamaBackend, "a", ["m1"]), world.backend(LlamaBackend, "b", ["m1"])
    world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, check_interval="30s")})
    time.sleep(4.2)
    fast = [r for r in a.probes if r.path == "/health"]
    slow = [r for r in b.probes if r.path == "/health"]
    assert 3 <= len(fast) <= 8 and len(slow) == 1
    gaps = [y.when - x.when for x, y in zip(fast, fast[1:])]
    assert min(gaps) > 0.6, gaps


def test_default_probe_paths(world):
    """Each kind of server has its own health and model path."""
    kinds = {"ollama": (OllamaBackend, {"/", "/api/tags", "/api/version"}),
             "llamacpp": (LlamaBackend, {"/health", "/v1/models", "/props"}),
             "vllm": (VllmBackend, {"/health", "/v1/models"}), "openai-compatible": (OpenAIBackend, {"/v1/models"})}
    servers = {name.replace("-", ""): world.backend(kind, name, ["m1"]) for name, (kind, _) in kinds.items()}
    world.olla(servers)
    for name, (_, paths) in kinds.items():
        seen = {r.target for r in servers[name.replace("-", "")].probes}
        assert paths <= seen <= paths | {"/api/ps", "/slots", "/metrics"}, name


def test_custom_probe_urls(world):
    """health_check_url and model_url may be relative or absolute."""
    a = world.backend(OllamaBackend, "a", ["m1"])
    a.on("/up", lambda c, r: c.reply(b"up", ctype="text/plain"))
    a.on("/list", a.routes["/api/tags"])
    proxy = world.olla({"a": endpoint(a, health_check_url=a.url + "/up", model_url="/list")})
    assert {r.target for r in a.probes} == {"/list", "/up", "/api/version"}
    assert served_by(proxy) == "a"


def test_probe_url_on_another_host(world):
    """The reference uses an absolute URL as it is: a side-car may answer for the server, and a query is kept."""
    a, h = world.backend(OllamaBackend, "a", ["m1"]), world.backend(OpenAIBackend, "h", ["unused"])
    h.on("/up", lambda c, r: c.reply(b"up", ctype="text/plain"))
    proxy = world.olla({"a": endpoint(a, health_check_url=h.url + "/up?x=1")})
    assert {r.target for r in a.probes} == {"/api/tags", "/api/version"} and {r.target for r in h.probes} == {"/up?x=1"}
    assert served_by(proxy) == "a"


def test_health_status(world):
    """A server whose health page says no must not get requests, and gets them again when it says yes."""
    bad = {status: world.backend(LlamaBackend, "s%d" % status, ["m1"]) for status in (301, 400, 401, 404, 429, 500, 503)}
    good = world.backend(LlamaBackend, "good", ["m1"])
    for status, server in bad.items():
        server.on("/health", lambda c, r, s=status: c.reply({"status": "no"}, s))
    spec = {server.name: endpoint(server, **FAST) for server in bad.values()}
    proxy = world.olla(dict(spec, good=good), ready=["good"])

    def states():
        return {e["name"]: e["status"] for e in proxy.status()["endpoints"] if e["name"] != "good"}
    eventually(lambda: "unknown" not in states().values(), "all were probed", 5)
    assert [name for name, state in states().items() if state == "healthy"] == []
    assert {served_by(proxy) for _ in range(10)} == {"good"}
    for server in bad.values():
        server.on("/health", good.routes["/health"])
    # 429 asks to be left alone for half a minute
    eventually(lambda: all(state == "healthy" for name, state in states().items() if name != "s429"), "all have recovered", 20, 0.1)


BROKEN_HEALTH = {
    "not-http": lambda c, r: (c.send(b"+OK POP3 ready\r\n"), c.fin()),
    "eof": lambda c, r: c.fin(),
    "reset": lambda c, r: c.rst(),
    "hang": hold,
    "half-head": lambda c, r: (c.send(b"HTTP/1.1 200 OK\r\n"), hold(c, r)),
    "drip": lambda c, r: drip(c),
    "endless-head": lambda c, r: (c.send(b"HTTP/1.1 200 OK\r\n"), flood(c, b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")),
    "binary": lambda c, r: (c.send(bytes(range(256)) * 20), c.fin()),
}


def drip(conn):
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\nok":
        conn.send(bytes([byte]))
        time.sleep(0.3)


def flood(conn, data, limit=64 << 20):
    while conn.sent < limit:
        conn.send(data * 1000)


@pytest.mark.parametrize("name", list(BROKEN_HEALTH))
def test_broken_health_page(world, name):
    """Garbage, silence or a flood from one server: not healthy, and the neighbour is not disturbed."""
    a, b = world.backend(LlamaBackend, "a", ["m1"]), world.backend(LlamaBackend, "b", ["m1"])
    a.on("/health", BROKEN_HEALTH[name])
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)}, ready=["b"])
    eventually(lambda: proxy.endpoint("a")["status"] not in ("unknown", "healthy"), "a is not healthy", 6)
    started = time.monotonic()
    assert {served_by(proxy) for _ in range(10)} == {"b"}
    assert time.monotonic() - started < 2
    assert proxy.endpoint("b")["status"] == "healthy"


def test_endless_health_body(world):
    """A health page that streams for ever must not hold a probe slot, nor memory."""
    a, b = world.backend(LlamaBackend, "a", ["m1"]), world.backend(LlamaBackend, "b", ["m1"])
    a.on("/health", lambda c, r: (c.start_chunked("text/plain"), flood(c, b"5\r\nhello\r\n")))
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)}, ready=["b"])
    before = proxy.rss_kb()
    time.sleep(2)
    assert proxy.rss_kb() - before < 2048
    assert "b" in {served_by(proxy) for _ in range(6)}
    assert proxy.endpoint("b")["status"] == "healthy"


def many_deep(depth):
    return b'{"data":' + b"[" * depth + b"]" * depth + b"}"


LISTS = {
    "html": (200, b"<html><body>Welcome</body></html>"), "empty": (200, b""), "null": (200, b"null"), "number": (200, b"7"),
    "list": (200, b"[]"), "data-null": (200, b'{"data":null}'), "data-object": (200, b'{"data":{"id":"x"}}'),
    "data-string": (200, b'{"data":"x"}'), "no-data": (200, b'{"error":"loading"}'), "cut": (200, b'{"data":[{"id":"x"'),
    "cut-string": (200, b'{"data":[{"id":"x'), "deep": (200, many_deep(200000)), "deep-objects": (200, b'{"a":' * 50000 + b"1" + b"}" * 50000),
    "binary": (200, bytes(range(256)) * 100), "nul": (200, b'{"data":[{"id":"a\0b"}]}'), "bad-escape": (200, b'{"data":[{"id":"\\ud800\\x"}]}'),
    "trailing-junk": (200, b'{"data":[]}garbage'), "404": (404, b'{"error":"no"}'), "500": (500, b"oops"), "204": (204, b""),
    "unclosed": (200, b"{" * 100), "commas": (200, b'{"data":[,,,{}]}'), "bom": (200, b"\xef\xbb\xbf{}"),
}


def test_garbage_model_lists(world):
    """In the reference one bad list aborts the discovery of all others; here it concerns its own server only."""
    good = world.backend(LlamaBackend, "good", ["m1"])
    bad = {}
    for name, (status, body) in LISTS.items():
        server = bad[name] = world.backend(LlamaBackend, name, ["m-" + name])
        server.on("/v1/models", lambda c, r, s=status, b=body: c.head(204) if s == 204 else c.reply(b, s))
    spec = {name: endpoint(server, **FAST) for name, server in bad.items()}
    proxy = world.olla(dict(spec, good=good), {"discovery.model_discovery.interval": "1s"}, ready=["good"])
    for name, server in bad.items():
        eventually(lambda: [r for r in server.probes if r.path == "/v1/models"], "the list of %s was asked for" % name, 10)
    time.sleep(0.3)
    assert served_by(proxy) == "good"
    assert proxy.endpoint("good")["models"]["count"] == 1
    # what half-readable lists may contribute is nothing but the names in them
    assert {m["id"] for m in proxy.get("/v1/models").json()["data"]} - {"x", "a", "a\0b"} == {"m1"}
    for server in bad.values():
        server.on("/v1/models", lambda c, r: c.reply(c.backend.model_list()))
    for name in bad:
        eventually(lambda: served_by(proxy, "m-" + name) == name, "the good list of %s is taken over" % name, 15, 0.1)


def test_list_with_bad_entries(world):
    """One nameless entry must not make the others vanish."""
    good = ["good-1", "org/good:2", "g\u00fcte-3", "good-4", 'quo"te', "x" * 127]
    entries = [{"id": good[0]}, {}, {"id": None}, {"id": 5}, {"id": ""}, None, 7, "name", [], {"id": good[1], "x": {"id": "inner"}},
               {"id": "y" * 128}, {"id": "z" * 5000}, {"id": {"id": "nested"}}, {"name": "other-field", "id": good[2]}, {"id": good[3]},
               {"id": good[3]}, {"id": good[4], "y": [{"id": "inner2"}]}, {"id": good[5]}]
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on("/v1/models", lambda c, r: c.reply({"object": "list", "data": entries, "extra": [{"id": "outside"}]}))
    proxy = world.olla({"a": a})
    listed = [m["id"] for m in proxy.get("/v1/models").json()["data"]]
    assert sorted(listed) == sorted(good)
    for name in good:
        assert served_by(proxy, name) == "a"
    for name in ("inner", "inner2", "nested", "outside", "5", "name"):
        assert served_by(proxy, name) == 404


def test_ollama_list_with_bad_entries(world):
    """The same for Ollama's form of list, where `name` or `model` may be missing."""
    a = world.backend(OllamaBackend, "a", ["m1"])
    a.on("/api/tags", lambda c, r: c.reply({"models": [{"name": "both:1", "model": "both:1"}, {"name": "name:1"}, {"model": "model:1"},
                                                       {"digest": "x"}, None, {"name": "ok:1", "details": None, "size": "big"}]}))
    proxy = world.olla({"a": a})
    names = {m["name"] for m in proxy.get("/api/tags").json()["models"]}
    assert {"both:1", "name:1", "ok:1"} <= names <= {"both:1", "name:1", "ok:1", "model:1"}


def test_ten_megabyte_list(world):
    """Lists with templates and licences in every entry are large; they must be read in bounded memory."""
    filler = "t" * 9000
    a, b = world.backend(OpenAIBackend, "a"), world.backend(OpenAIBackend, "b", ["m1"])
    body = dump({"data": [{"id": "big-%d" % n, "template": filler, "x": n} for n in range(1000)]})
    assert 9 << 20 > len(body) > 8 << 20
    a.on("/v1/models", lambda c, r: c.reply(body))
    proxy = world.olla({"a": a, "b": b}, ready=["b"])
    proxy.wait_healthy({"a": 1000}, 20)
    assert served_by(proxy, "big-999") == "a" and served_by(proxy, "big-0") == "a"
    assert proxy.rss_kb() < 80000


def test_list_without_end(world):
    """A list beyond every limit is given up, and nobody else notices."""
    a, b = world.backend(LlamaBackend, "a"), world.backend(LlamaBackend, "b", ["m1"])

    def endless(conn, request):
        conn.start_chunked("application/json")
        conn.chunk(b'{"data":[')
        while conn.sent < 64 << 20:
            conn.chunk(b'{"id":"same","template":"' + b"t" * 60000 + b'"},')
    a.on("/v1/models", endless)
    proxy = world.olla({"a": a, "b": b}, ready=["b"])
    before = proxy.rss_kb()
    eventually(lambda: [c for c in a.connections if c.closed_how and c.sent > 1 << 20], "the endless list was given up", 15)
    assert all(c.sent < 40 << 20 for c in a.connections)
    assert served_by(proxy) == "b" and proxy.rss_kb() - before < 8192


def test_more_models_than_room(world):
    """Thousands of models: a warning, not a crash, and the small neighbour keeps its own."""
    a, b = world.backend(OpenAIBackend, "a", ["many-%04d" % n for n in range(3000)]), world.backend(OpenAIBackend, "b", ["m1"])
    gate = Gate()
    wait = a.routes["/v1/models"]
    a.on("/v1/models", lambda c, r: (gate.wait(), wait(c, r)))
    proxy = world.olla({"a": a, "b": b}, ready=["b"])
    gate.open()
    proxy.wait_healthy({"a": 500})
    assert served_by(proxy) == "b" and served_by(proxy, "many-0000") == "a"
    assert 500 <= len(proxy.get("/v1/models").json()["data"]) <= 3001


def test_slow_list_disturbs_nobody(world):
    """A list that comes byte by byte occupies one probe, nothing else."""
    a, b = world.backend(LlamaBackend, "a", ["m-a"]), world.backend(LlamaBackend, "b", ["m1"])
    a.on("/v1/models", lambda c, r: drip(c))
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)}, {"discovery.model_discovery.timeout": "1s"}, ready=["b"])
    time.sleep(1.5)
    assert served_by(proxy) == "b"
    assert len([r for r in b.probes if r.path == "/health"]) >= 2


def test_many_mute_servers_leave_probe_slots(world):
    """More hanging servers than probe slots: the healthy one must still be probed in time."""
    spec = {}
    for n in range(12):
        mute = world.backend(LlamaBackend, "mute%d" % n)
        mute.on_accept = lambda conn: conn.wait_close(30)
        spec["mute%d" % n] = endpoint(mute, check_interval="2s", check_timeout="1500ms")
    good = world.backend(LlamaBackend, "good", ["m1"])
    spec["good"] = endpoint(good, **FAST)
    proxy = world.olla(spec, ready=None)
    proxy.wait_healthy({"good": 1}, 8)
    assert served_by(proxy) == "good"


def test_addresses_of_a_name(world):
    """`localhost` is ::1 first on many machines while the server listens on 127.0.0.1 only."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint("http://localhost:%d" % a.port)}, ready=["a"])
    for _ in range(3):
        assert served_by(proxy) == "a"
    assert a.calls[0].get("Host") == "localhost:%d" % a.port


def test_ipv6_backend(world):
    """A server on ::1 only, by name and by bracketed address."""
    try:
        a = world.backend(OpenAIBackend, "a", ["m1"], "::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    proxy = world.olla({"a": endpoint(a)}, ready=["a"])
    assert served_by(proxy) == "a"
    assert a.calls[0].get("Host") == "[::1]:%d" % a.port


def test_name_that_does_not_resolve(world):
    """An unknown host name must not block the loop while it is looked up."""
    b = world.backend(OpenAIBackend, "b", ["m1"])
    proxy = world.olla({"a": endpoint("http://no-such-host.invalid:1"), "b": b}, ready=["b"])
    started = time.monotonic()
    assert [served_by(proxy) for _ in range(10)] == ["b"] * 10
    assert time.monotonic() - started < 3
    assert proxy.endpoint("a")["status"] != "healthy"


def test_model_url_that_does_not_resolve(world):
    """A list on a host nobody knows is no fault of the server itself: it must not be taken out of service for it."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, model_url="http://no-such-host.invalid/v1/models", **FAST)}, ready=None)
    proxy.wait_log("model list cannot be read", 20, endpoint="a")
    proxy.wait_state("a", "healthy")
    time.sleep(1.2)  # one more probe
    assert [(e["from"], e["to"]) for e in proxy.find_logs("endpoint state", endpoint="a")] == [("unknown", "healthy")]
    a.on("/v1/x", lambda c, r: c.reply({"ok": 1}))
    assert proxy.post("/olla/proxy/v1/x", {}).json() == {"ok": 1}
    started = time.monotonic()
    assert served_by(proxy, "nobody-has-it") == 404
    assert time.monotonic() - started < 1.5, "waited for a list that will not come"


def test_connect_that_fails_at_once(world):
    """A connect that fails within the call leaves no event to go on from: the next probe must come all the same."""
    spec = endpoint("http://255.255.255.255:9", check_interval="1s", check_timeout="500ms")
    proxy = world.olla({"e": spec}, listen=False)
    proxy.wait_log("endpoint state", endpoint="e", to="offline")
    time.sleep(7.8)  # untouched, a request would wake it: probes after 1, 3 and 7 s
    entry = proxy.endpoint("e")
    assert "consecutive failures" in entry["issues"], entry


def test_probes_leak_no_connections(world):
    """A probe that leaves its connection open each time exhausts the backend."""
    a = world.backend(LlamaBackend, "a", ["m1"])
    world.olla({"a": endpoint(a, **FAST)}, {"discovery.model_discovery.interval": "1s"})
    eventually(lambda: len(a.probes) >= 8, "eight probes", 10)
    assert len([c for c in a.connections if not c.closed_how]) <= 3


def test_status_document_stays_readable(world):
    """Whatever state the endpoints are in, the status is valid JSON with every endpoint in it."""
    a = world.backend(OpenAIBackend, "a", ['m "q" \u00e9'])
    proxy = world.olla({"a": a, "dead": endpoint(world.keep(DeadPort())), "hole": endpoint(world.keep(BlackHole()))}, ready=["a"])
    raw = proxy.get("/internal/status").body
    assert {e["name"] for e in json.loads(raw)["endpoints"]} == {"a", "dead", "hole"}
