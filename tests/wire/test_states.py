"""What each state of an endpoint means for requests: lost checks, loading models, servers that are not probed, rate limits,
and the time limits of a single endpoint."""

import email.utils
import time

import pytest

from backend import MARK, DeadPort, Gate, LlamaBackend, VllmBackend, eventually, hold, openai_chunk
from harness import endpoint, rarely_probed, run_cli
from servers import Ollama

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
LONG = {"check_interval": "3s", "check_timeout": "2500ms"}  # a second check that hangs keeps the endpoint `busy` for 2.5 s
PRIORITY = {"proxy.load_balancer": "priority", "proxy.sticky_sessions.enabled": False}


class Server(LlamaBackend):
    """llama.cpp-like, without the paths that tell its load. Its calls are what clients sent, whatever olla asks by itself."""

    @property
    def calls(self):
        return [call for call in super().calls if call.method == "POST" or call.has(MARK)]


def half_head(conn, request):
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    conn.fin()


def status(code, headers=()):
    return lambda conn, request: conn.reply({"status": "no"}, code, headers=headers)


LOST = {"hang": hold, "eof": lambda c, r: c.fin(), "reset": lambda c, r: c.rst(), "half-head": half_head}


class Health:
    """The health page of a server: the handlers of `script` in turn, then `then` for ever (None = all is well)."""

    def __init__(self, server):
        self.script, self.then, self.seen = [], None, []
        well = server.routes["/health"]

        def handler(conn, request):
            self.seen.append(request.when)
            (self.script.pop(0) if self.script else self.then or well)(conn, request)
        server.on("/health", handler)


def llama(world, name, models=("m1",)):
    """A llama.cpp-like server (its health page is not its list of models) and its health page."""
    server = world.backend(Server, name, list(models))
    return server, Health(server)


def ask(proxy, model="m1", headers=()):
    return proxy.post(PATH, {"model": model}, headers)


def served_by(proxy, model="m1"):
    reply = ask(proxy, model)
    return reply.json()["served_by"] if reply.status == 200 else reply.status


def changes(proxy, name):
    return [(e["from"], e["to"]) for e in proxy.find_logs("endpoint state", endpoint=name)]


def message(reply):
    return reply.json()["error"]["message"]


def seconds(reply):
    """The Retry-After of an answer, which must be there."""
    value = reply.get("Retry-After")
    assert value is not None and value.isdigit(), "no Retry-After in %r" % (reply.headers,)
    return int(value)


# ---- lost health checks

def test_lost_checks(world):
    """Wi-Fi loses a packet: taking the only machine with the model out of service for that is worse than the loss. A machine that
    hangs loses the next one too, and then it must be out of service."""
    names = ["%s-%s" % (how, times) for how in LOST for times in ("once", "always")]
    servers = {name: llama(world, name, ["m-" + name]) for name in names}
    proxy = world.olla({name: endpoint(server, **FAST) for name, (server, _) in servers.items()})
    for how in LOST:
        servers[how + "-once"][1].script = [LOST[how]]
        servers[how + "-always"][1].then = LOST[how]

    def recovered():
        for how in LOST:
            assert served_by(proxy, "m-%s-once" % how) == how + "-once", "no request may notice"
        return all(("busy", "healthy") in changes(proxy, how + "-once") for how in LOST)
    eventually(recovered, "every endpoint was busy and is healthy again", 15, 0.05)
    for how in LOST:
        name = how + "-once"
        assert changes(proxy, name)[-2:] == [("healthy", "busy"), ("busy", "healthy")], changes(proxy, name)
        assert proxy.find_logs("endpoint state", endpoint=name, to="busy")[0]["reason"]
    for how in LOST:
        name = how + "-always"
        proxy.wait_log("endpoint state", 15, endpoint=name, to="offline")
        assert changes(proxy, name)[-2:] == [("healthy", "busy"), ("busy", "offline")], changes(proxy, name)
        reply = ask(proxy, "m-" + name)
        assert reply.status == 503 and "%s (offline" % name in message(reply)


# ---- what the states mean

def test_order_of_states(world):
    """Healthy first, then those of which a check was lost, then those that load a model, whatever their priority and load. And a
    lost check is repeated soon: somebody waits for the answer, not for a whole check_interval."""
    loading, loads = llama(world, "loading", ["m1", "m2", "m3"])
    shaky, shakes = llama(world, "shaky", ["m1", "m2"])
    well, _ = llama(world, "well", ["m1"])
    proxy = world.olla({"loading": endpoint(loading, priority=300, **FAST), "shaky": endpoint(shaky, priority=200, **LONG),
                        "well": endpoint(well, priority=100)}, PRIORITY)
    assert [served_by(proxy, m) for m in ("m1", "m2", "m3")] == ["loading"] * 3
    loads.then = status(503)
    proxy.wait_state("loading", "warming")
    at = len(shakes.seen)
    shakes.script, shakes.then = [LOST["eof"]], hold
    proxy.wait_log("endpoint state", 10, endpoint="shaky", to="busy")
    seen = [served_by(proxy, m) for m in ("m1", "m2", "m3", "m1", "m2", "m3")]
    gate = Gate()
    well.on(CHAT, lambda c, r: (gate.wait(20), c.reply({"served_by": "well"})))
    clients = [world.client(proxy) for _ in range(4)]
    for client in clients:
        client.start_post(PATH, {"model": "m1"})
    well.wait_calls(6, 2)
    assert proxy.endpoint("shaky")["status"] == "busy", "the test was too slow to tell"
    assert seen == ["well", "shaky", "loading"] * 2
    gate.open()
    for client in clients:
        assert client.read_response("POST").json()["served_by"] == "well"
    eventually(lambda: len(shakes.seen) >= at + 2, "the check is repeated")
    lost, again = shakes.seen[at:at + 2]
    assert again - lost < 2, "repeated after %.1f s; within one was promised" % (again - lost)


STATES = {"s401": (401, "config_error"), "s403": (403, "config_error"), "s404": (404, "unhealthy"), "s429": (429, "rate_limited"),
          "s500": (500, "unhealthy"), "s503": (503, "warming")}


def test_states_of_health_checks(world):
    """An operator must see in one word what is wrong with a machine, and the client why nobody answers. Refused connections and
    error statuses are no lost packets: they count at once."""
    servers, health = {}, {}
    for name in list(STATES) + ["gone", "vllm"]:
        servers[name] = world.backend(VllmBackend if name == "vllm" else Server, name, ["m-" + name])
        health[name] = Health(servers[name])
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in servers.items()})
    for name, (code, _) in STATES.items():
        health[name].then = status(code)
    health["vllm"].then = status(503)  # only llama.cpp says so of a model that loads
    servers["gone"].stop()
    wanted = dict({name: state for name, (_, state) in STATES.items()}, gone="offline", vllm="unhealthy")

    def states():
        return {e["name"]: e["status"] for e in proxy.status()["endpoints"]}
    eventually(lambda: states() == wanted, "states %r" % wanted, 12, 0.1)
    for name, state in wanted.items():
        proxy.wait_log("endpoint state", endpoint=name, to=state)
        assert changes(proxy, name)[-1] == ("healthy", state)
        reply = ask(proxy, "m-" + name)
        if state == "warming":
            assert reply.status == 200, "an endpoint that loads is the last choice, not none"
            continue
        assert reply.status == 503 and reply.json()["error"]["code"] == "model_unavailable", (name, reply.body)
        told = message(reply).rpartition("; endpoints: ")[2]
        assert "%s (" % name in told, message(reply)
        if state in ("offline", "unhealthy"):
            assert "%s (%s" % (name, state) in told, message(reply)


def test_unknown_before_the_first_check(world):
    """Before anything is known the status must not claim that all is well."""
    server, health = llama(world, "a")
    gate = Gate()
    health.then = lambda c, r: (gate.wait(20), status(200)(c, r))
    proxy = world.olla({"a": endpoint(server, check_interval="20s", check_timeout="5s")}, ready=None)
    eventually(lambda: health.seen, "the first check came")
    assert proxy.endpoint("a")["status"] == "unknown"
    gate.open()
    proxy.wait_state("a", "healthy")


def test_reasons_name_every_endpoint(world):
    """`No endpoint` alone sends the operator searching: each machine and what is against it."""
    a, _ = llama(world, "a", ["m1"])
    b, _ = llama(world, "b", ["m-other"])
    proxy = world.olla({"a": rarely_probed(a), "b": b, "off": endpoint(b.url, enabled=False)}, ready=["a", "b"])
    a.stop()
    ask(proxy)
    proxy.wait_state("a", "offline")
    reply = ask(proxy)
    assert reply.status == 503
    told = message(reply).rpartition("; endpoints: ")[2]
    assert "a (offline" in told and "b (does not serve the model" in told and "off (disabled" in told, message(reply)


# ---- loading

def test_loading_from_the_start(world):
    """A server that loads its model for longer than many checks is used as soon as it has it, not after a penalty."""
    server, health = llama(world, "a")
    health.then = status(503)
    lists = server.routes["/v1/models"]
    server.on("/v1/models", status(503))
    proxy = world.olla({"a": endpoint(server, **FAST)}, ready=None)
    proxy.wait_state("a", "warming")
    eventually(lambda: len(health.seen) >= 4, "four checks", 30, 0.05)
    assert proxy.endpoint("a")["status"] == "warming"
    server.on("/v1/models", lists)
    health.then = None
    proxy.wait_state("a", "healthy", timeout=30)
    eventually(lambda: served_by(proxy) == "a", "the loaded model is served", 4, 0.05)


def test_recovery_reads_the_models_at_once(world):
    """A server that was restarted with another model: nobody waits five minutes for the next list."""
    servers = {name: llama(world, name, ["old-" + name]) for name in ("unhealthy", "warming")}
    proxy = world.olla({name: endpoint(server, **FAST) for name, (server, _) in servers.items()})
    for name, (server, health) in servers.items():
        health.then = status(500 if name == "unhealthy" else 503)
    for name, (server, health) in servers.items():
        proxy.wait_state(name, name)
        server.models = ["new-" + name]
        health.then = None
    for name in servers:
        proxy.wait_state(name, "healthy", timeout=20)
    missing = set(servers)

    def known():
        missing.difference_update([name for name in missing if served_by(proxy, "new-" + name) == name])
        return not missing
    try:
        eventually(known, "the new models are known", 3, 0.05)
    except AssertionError as error:
        raise AssertionError("after these states the list was not read anew: %s" % sorted(missing)) from error
    for name in servers:
        assert served_by(proxy, "old-" + name) == 404


# ---- passive and none

def test_not_probed(world):
    """A cloud service bills each request, a check included; its models are read all the same."""
    servers = {name: llama(world, name, ["m-" + name]) for name in ("passive", "none", "http")}
    for name in ("passive", "none"):
        servers[name][1].then = status(500)
    proxy = world.olla({name: endpoint(server, health=name, **FAST) for name, (server, _) in servers.items()})
    eventually(lambda: len(servers["http"][1].seen) >= 3, "the other one is checked", 15, 0.05)
    for name in ("passive", "none"):
        assert servers[name][1].seen == [] and proxy.endpoint(name)["status"] == "healthy"
        assert served_by(proxy, "m-" + name) == name


@pytest.mark.parametrize("health", ["passive", "none"])
def test_healthy_from_the_start(world, health):
    """Nothing is known of it, and nothing will be asked: it counts as healthy before the first request."""
    proxy = world.olla({"a": endpoint(world.keep(DeadPort()), health=health)}, ready=None)
    assert proxy.endpoint("a")["status"] == "healthy"


@pytest.mark.parametrize("health", ["passive", "none"])
def test_refused_does_not_put_it_offline(world, health):
    """Without checks nobody would ever find out that it is back."""
    server, _ = llama(world, "a")
    proxy = world.olla({"a": endpoint(server, health=health)})
    server.stop()
    assert ask(proxy).status == 502
    assert proxy.endpoint("a")["status"] == "healthy"
    server.start()
    assert served_by(proxy) == "a", "the very next request must find it"
    assert changes(proxy, "a") in ([], [("unknown", "healthy")])


def test_passive_fails_over(world):
    """Refused by a passive endpoint, a request moves on like any other."""
    a, _ = llama(world, "a")
    b, _ = llama(world, "b")
    proxy = world.olla({"a": endpoint(a, priority=200, health="passive"), "b": b}, PRIORITY)
    a.stop()
    assert [served_by(proxy) for _ in range(8)] == ["b"] * 8
    a.start()
    assert proxy.endpoint("a")["status"] == "healthy"


def test_passive_started_after_olla(world):
    """Its list could not be read at the start; the next reading must find the models."""
    server, _ = llama(world, "a")
    server.stop()
    proxy = world.olla({"a": endpoint(server, health="passive")}, {"discovery.model_discovery.interval": "1s"}, ready=None)
    assert served_by(proxy) in (404, 502, 503)
    server.start()
    eventually(lambda: served_by(proxy) == "a", "the models of the late server are known", 20, 0.1)


def test_none_has_no_breaker(world):
    """`none` means none: ten failures in a row and the eleventh request is still sent."""
    server, _ = llama(world, "a")
    proxy = world.olla({"a": endpoint(server, health="none")})
    server.on(CHAT, status(500))
    assert [ask(proxy).status for _ in range(10)] == [500] * 10
    server.on(CHAT, server.chat)
    assert served_by(proxy) == "a"


def test_auto_is_detected_without_health_checks(world):
    """The type has to be known, or requests go to paths that the server does not have."""
    server = world.backend(Ollama, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server, type="auto", health="none")})
    eventually(lambda: proxy.endpoint("a").get("detected_type") == "ollama", "the type was found")
    assert proxy.endpoint("a")["status"] == "healthy"


# ---- rate limits

@pytest.fixture
def pair(world):
    """Two servers; `a` is always asked first. Neither is probed."""
    class Pair:
        a = world.backend(Server, "a", ["m1"])
        b = world.backend(Server, "b", ["m1"])

        def start(self, settings=(), **keys):
            self.proxy = world.olla({"a": endpoint(self.a, priority=200, health="passive", **keys),
                                     "b": endpoint(self.b, priority=100, health="passive")}, dict(PRIORITY, **dict(settings)))
            return self.proxy

        def limited(self, name="a"):
            return self.proxy.endpoint(name)["limited_for_ms"]
    return Pair()


def once(server, *replies):
    """These answers first, then the usual ones."""
    left = list(replies)
    server.on(CHAT, lambda c, r: (left.pop(0) if left else server.chat)(c, r))


def limit(retry_after=None, code=429):
    return status(code, {} if retry_after is None else {"Retry-After": retry_after})


def in_http_date(ahead, form="imf"):
    when = time.time() + ahead
    if form == "imf":
        return email.utils.formatdate(when, usegmt=True)
    return time.strftime({"rfc850": "%A, %d-%b-%y %H:%M:%S GMT", "asctime": "%a %b %e %H:%M:%S %Y"}[form], time.gmtime(when))


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "imf", "rfc850", "asctime"])
def test_retry_after_is_remembered(pair, code, form):
    """A server that says when it wants to be asked again must not be asked before, and nobody else pays for it."""
    once(pair.a, limit("30" if form == "seconds" else in_http_date(30, form), code))
    proxy = pair.start()
    assert served_by(proxy) == "b", "the request moves on"
    assert 15000 < pair.limited() <= 31000
    assert proxy.endpoint("a")["status"] == "healthy", "the state stays"
    assert [served_by(proxy) for _ in range(5)] == ["b"] * 5
    assert len(pair.a.calls) == 1 and pair.limited("b") == 0


def test_429_without_retry_after(pair):
    """Left alone for a second, then asked again."""
    once(pair.a, limit())
    proxy = pair.start()
    assert served_by(proxy) == "b"
    assert 0 <= pair.limited() <= 1000
    eventually(lambda: served_by(proxy) == "a", "a is asked again", 8, 0.05)
    first, second = [call.when for call in pair.a.calls][:2]
    assert second - first > 0.9, "asked again after %.2f s" % (second - first)
    assert pair.limited() == 0


@pytest.mark.parametrize("value", ["soon", "-5", "", "1.5", "30 seconds", "Fri, 99 Foo 2026 10:00:00 GMT"])
def test_retry_after_that_nobody_understands(pair, value):
    """Nonsense must not lock a server out for long."""
    once(pair.a, limit(value))
    proxy = pair.start()
    assert served_by(proxy) == "b"
    assert pair.limited() <= 1000


def test_retry_after_in_the_past(pair):
    """The clock of the server is behind: no reason to lock it out."""
    once(pair.a, limit(in_http_date(-3600)))
    proxy = pair.start()
    assert served_by(proxy) == "b"
    assert pair.limited() <= 1000


@pytest.mark.parametrize("value", ["86400", "99999999999999999999999", "date"])
def test_retry_after_has_a_ceiling(pair, value):
    """A server (or its clock) that says `next year` is asked again after an hour."""
    once(pair.a, limit(in_http_date(400 * 86400) if value == "date" else value))
    proxy = pair.start()
    assert served_by(proxy) == "b"
    assert pair.limited() <= 3600000
    if value != "99999999999999999999999":
        assert pair.limited() > 3500000


def test_503_without_retry_after_is_no_rate_limit(pair):
    """Broken is the breaker's business: one 503 says nothing about the next request."""
    once(pair.a, limit(code=503))
    proxy = pair.start()
    assert served_by(proxy) == "b" and pair.limited() == 0
    assert served_by(proxy) == "a"


def test_limit_ends(pair):
    """When the time is over the better machine is used again."""
    once(pair.a, limit("1"))
    proxy = pair.start()
    assert served_by(proxy) == "b"
    eventually(lambda: served_by(proxy) == "a", "a is asked again", 8, 0.05)
    first, second = [call.when for call in pair.a.calls][:2]
    assert second - first > 0.9, "asked again after %.2f s" % (second - first)


def test_all_limited(pair):
    """Nobody may be asked: the client hears 429 and the shortest wait, not 503 nor a made-up answer."""
    once(pair.a, limit("40"))
    once(pair.b, limit("20"))
    proxy = pair.start()
    first = ask(proxy)
    assert (first.status, first.json(), first.get("Retry-After")) == (429, {"status": "no"}, "20"), "the last server's own reply is relayed"
    assert first.get("X-Olla-Endpoint") == "b"
    for _ in range(3):
        reply = ask(proxy)
        assert reply.status == 429 and 10 <= seconds(reply) <= 20
        told = message(reply).rpartition("; endpoints: ")[2]
        assert "a (rate limited" in told and "b (rate limited" in told, message(reply)
    assert (len(pair.a.calls), len(pair.b.calls)) == (1, 1)


def test_the_only_one_is_limited(world):
    """One server: its own 429 first, ours until its time is over, then it is asked again."""
    server, _ = llama(world, "a")
    once(server, limit("1"))
    proxy = world.olla({"a": endpoint(server, health="passive")})
    assert ask(proxy).json() == {"status": "no"}
    reply = ask(proxy)
    assert reply.status == 429 and seconds(reply) == 1 and "a (rate limited" in message(reply)
    assert len(server.calls) == 1
    eventually(lambda: served_by(proxy) == "a", "asked again", 8, 0.05)


def test_all_limited_in_the_dialect_of_ollama(world):
    """Ollama's clients read `error` as text."""
    server = world.backend(Ollama, "a", ["m1"])
    server.on("/api/chat", limit("30"))
    proxy = world.olla({"a": server})
    assert proxy.post("/api/chat", {"model": "m1"}).json() == {"status": "no"}
    reply = proxy.post("/api/chat", {"model": "m1"})
    assert reply.status == 429 and seconds(reply) and isinstance(reply.json()["error"], str)


def test_limit_survives_a_reload(pair, world):
    """A changed setting elsewhere is no reason to ask a server that wants to be left alone."""
    once(pair.a, limit("60"))
    proxy = pair.start()
    assert served_by(proxy) == "b"
    c = world.backend(Server, "c", ["m-c"])
    spec = {name: endpoint(server, priority=priority, health="passive") for name, server, priority in (("a", pair.a, 200), ("b", pair.b, 100))}
    proxy.reload(dict(spec, c=c), PRIORITY)
    proxy.wait_healthy({"c": 1})
    assert pair.limited() > 20000
    assert [served_by(proxy) for _ in range(3)] == ["b"] * 3 and len(pair.a.calls) == 1


def test_rate_limited_health_page(world):
    """429 to a check with Retry-After: left alone that long, then checked again."""
    server, page = llama(world, "a")
    proxy = world.olla({"a": endpoint(server, **FAST)})
    at, page.script = len(page.seen), [limit("2")]
    proxy.wait_state("a", "rate_limited")
    assert ask(proxy).status in (429, 503)
    proxy.wait_state("a", "healthy", timeout=20)
    assert served_by(proxy) == "a"
    asked = page.seen[at:at + 2]
    assert asked[1] - asked[0] > 1.7, "checked again after %.2f s" % (asked[1] - asked[0])


# ---- time limits of an endpoint

def test_first_byte_timeout(pair):
    """The operator said how long this machine may be silent: the next one is asked, and the silent one can stop."""
    pair.a.on(CHAT, hold)
    proxy = pair.start(first_byte_timeout="300ms")
    reply = ask(proxy, headers={"X-Request-ID": "slow"})
    assert reply.json()["served_by"] == "b"
    assert proxy.access("slow")["attempts"] == 2
    eventually(lambda: pair.a.calls[0].conn.closed_how, "the silent connection was dropped", 5)


def test_first_byte_timeout_with_nobody_else(world):
    """504 tells slow from broken."""
    server, _ = llama(world, "a")
    server.on(CHAT, hold)
    proxy = world.olla({"a": endpoint(server, first_byte_timeout="300ms")})
    reply = ask(proxy)
    assert reply.status == 504 and message(reply)
    assert proxy.endpoint("a")["status"] == "healthy", "slowness is no state"


@pytest.mark.parametrize("first", ["head", "body"])
def test_first_byte_timeout_ends_with_the_first_byte(pair, first):
    """Once it speaks it may think: a reply that has begun is not thrown away."""
    def handler(conn, request):
        conn.start_chunked()
        if first == "body":
            conn.chunk(openai_chunk("one"))
        time.sleep(0.7)
        conn.chunk(openai_chunk("two"))
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()
    pair.a.on(CHAT, handler)
    proxy = pair.start(first_byte_timeout="300ms")
    reply = proxy.post(PATH, {"model": "m1", "stream": True})
    assert reply.complete and reply.body.endswith(b"data: [DONE]\n\n") and reply.get("X-Olla-Endpoint") == "a"
    assert pair.b.calls == []


def test_first_byte_timeout_concerns_its_endpoint_only(pair):
    """A cold load on the other machine must not be killed by it."""
    pair.a.on(CHAT, hold)
    pair.b.on(CHAT, lambda c, r: (time.sleep(0.6), c.reply({"served_by": "b"})))
    proxy = pair.start(first_byte_timeout="200ms")
    assert served_by(proxy) == "b"


def test_connection_timeout_of_an_endpoint(world):
    """One box that is often off: a short limit for it, the long one for the others."""
    a, _ = llama(world, "a")
    b, _ = llama(world, "b")
    settings = dict(PRIORITY, **{"proxy.connection_timeout": "60s"})
    proxy = world.olla({"a": rarely_probed(a, priority=200, connection_timeout="300ms"), "b": b}, settings)
    a.go_silent()
    with proxy.client() as client:
        assert client.post(PATH, {"model": "m1"}, timeout=20).json()["served_by"] == "b"


def test_connection_timeout_longer_than_the_general_one(world):
    """A machine behind a slow link may take longer than the rest."""
    a, _ = llama(world, "a")
    b, _ = llama(world, "b")
    settings = dict(PRIORITY, **{"proxy.connection_timeout": "200ms"})
    proxy = world.olla({"a": rarely_probed(a, priority=200, connection_timeout="60s"), "b": b}, settings)
    a.go_silent()
    with proxy.client() as client:
        client.start_post(PATH, {"model": "m1"})
        client.expect_silence(1)
    assert b.calls == []


@pytest.mark.parametrize("of_endpoint,general,survives", [("300ms", None, False), ("20s", "300ms", True), ("0s", "300ms", False),
                                                          (None, "300ms", False)])
def test_read_timeout_of_an_endpoint(world, of_endpoint, general, survives):
    """How long a machine may pause in mid-stream is its own matter; 0 means the general limit."""
    a, _ = llama(world, "a")

    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        time.sleep(1)
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()
    a.on(CHAT, handler)
    keys = {} if of_endpoint is None else {"read_timeout": of_endpoint}
    proxy = world.olla({"a": endpoint(a, health="none", **keys)}, {} if general is None else {"proxy.read_timeout": general})
    reply = proxy.post(PATH, {"model": "m1", "stream": True})
    assert reply.complete == survives
    assert reply.body.endswith(b"data: [DONE]\n\n") == survives


# ---- settings

BAD = [("health", "sometimes"), ("first_byte_timeout", "soon"), ("connection_timeout", "-1s"), ("read_timeout", "x")]


@pytest.mark.parametrize("key,value", BAD)
def test_bad_settings(binary, tmp_path, key, value):
    """A typing error must be told with file and line, not be taken for a default."""
    path = tmp_path / "a.ini"
    path.write_text("[endpoint:a]\nurl = http://127.0.0.1:1\n%s = %s\n" % (key, value))
    code, _, err = run_cli("-t", "-c", path)
    assert code == 1 and "%s:3: " % path in err and key in err and '"%s"' % value in err, err
