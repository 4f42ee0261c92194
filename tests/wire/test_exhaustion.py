"""Every pool and table driven to its limit from outside, with a build whose limits are low (make small). Each time a stream
goes on that ran before, new work gets the answer that is written down, and afterwards everything is as it was."""

import re
import signal
import subprocess

import pytest

from backend import Gate, OllamaBackend, OpenAIBackend, eventually, hold
from client import Client, json_headers, request_bytes
from floods import CHAT, PATH, Metronome, Stream, answered, pools
from harness import endpoint
from messages import delta, envelope

CLIENTS, UPSTREAMS, BUFFERS, BODIES, MESSAGES, PROBES, MODELS, SESSIONS, RATES = 48, 36, 24, 2, 4, 2, 8, 4, 4
RESERVED = BUFFERS // 6 + 2
OLLAMA, ANTHROPIC = "/olla/ollama/api/chat", "/v1/messages"
PING = [{"role": "user", "content": "hi"}]


class Site:
    """A stream that runs, a connection that was there before, and servers for what comes."""

    def __init__(self, world, binary, settings=None, **spec):
        self.world = world
        self.tick = world.backend(Metronome, "tick", ["m-tick"])
        self.a = world.backend(OpenAIBackend, "a", ["m-a"])
        self.o = world.backend(OllamaBackend, "o", ["m-o"])
        for server in (self.a, self.o):
            server.on("/v1/messages", server.not_found)
        spec = dict({"tick": endpoint(self.tick, check_interval="1s"), "a": self.a, "o": self.o}, **spec)
        self.proxy = world.olla(spec, settings, binary=binary, ready=["tick", "a", "o"])
        self.stream = Stream(self.proxy, self.tick)
        self.old = world.client(self.proxy)
        answered(self.proxy)
        eventually(lambda: self.used()["clients"] == 2, "nobody else is there")
        self.before = self.used()
        self.clients = []

    def used(self):
        status = self.proxy.status(self.old)
        figures = {p["name"]: p["used"] for p in status["pools"]}
        figures["upstreams"] -= status["idle_upstreams"]
        return figures

    def start(self, path, body, **keys):
        """A request of a new client; nobody reads its answer yet."""
        client = Client(self.proxy.port)
        self.clients.append(client)
        client.start_post(path, body, **keys)
        return client

    def begun(self, count, words=b": begun\n\n"):
        """So many streams that have begun and say no more: each has a connection to a server, none has a block."""
        def handler(conn, request):
            conn.start_chunked()
            conn.chunk(words)
            hold(conn, request)
        self.a.on(CHAT, handler)
        for _ in range(count):
            assert self.start(PATH, {"model": "m-a", "stream": True}).read_head("POST").status == 200

    def leave(self):
        for client in self.clients:
            client.close()
        self.clients = []

    def over(self):
        """Everybody is gone: all is as before, and work goes on."""
        self.leave()
        for server in (self.a, self.o):
            server.setup()
        eventually(lambda: self.used() == self.before, "all pools are as before: %r; now %r" % (self.before, self.used()), 5, 0.05)
        self.stream.flows()
        for path, body in ((PATH, {"model": "m-a"}), (OLLAMA, {"model": "m-o", "stream": False})):
            assert self.proxy.post(path, body).status == 200
        assert self.proxy.endpoint("a")["status"] == self.proxy.endpoint("o")["status"] == "healthy"
        self.stream.end()


@pytest.fixture
def site(world, small):
    made = []

    def make(*args, **keys):
        made.append(Site(world, small, *args, **keys))
        return made[-1]
    yield make
    for one in made:
        one.leave()
        one.stream.client.close()


def refused(reply, status, code, dialect="openai"):
    """The answer in the caller's dialect."""
    assert reply.status == status and reply.complete, (reply.status, reply.body)
    if dialect == "anthropic":
        envelope(reply, status, {413: "request_too_large", 429: "rate_limit_error", 502: "api_error", 503: "overloaded_error"}[status])
    elif dialect == "ollama":
        assert set(reply.json()) == {"error"} and isinstance(reply.json()["error"], str)
    else:
        assert reply.json()["error"]["code"] == code and reply.json()["error"]["message"]


def test_limits_of_this_build(small):
    """What the numbers above stand on; olla -m lists each pool with what happens when it is empty."""
    out = subprocess.run([str(small), "-m"], stdout=subprocess.PIPE, timeout=20).stdout.decode()
    count = {m.group(1): (int(m.group(2)), m.group(3)) for m in re.finditer(r"(?m)^(\w[\w ]*?) +\d+ x +(\d+) = +\d+(?:  \(when empty: (.+)\))?$", out)}
    wanted = {"clients": CLIENTS, "exchanges": CLIENTS, "upstreams": UPSTREAMS, "buffers": BUFFERS, "body_blocks": BODIES, "messages": MESSAGES,
              "probes": PROBES, "models": MODELS,
              "tls_clients": CLIENTS, "tls_upstreams": UPSTREAMS}  # these are for test_tls_listener.py and test_tls_backends.py
    assert {name: n for name, (n, empty) in count.items() if empty} == wanted, "a pool without a test here?"
    assert count["conversations"][0] == SESSIONS and count["rate limits"][0] == RATES


def test_clients_and_exchanges(site):
    """All slots busy with requests: the next one waits in the kernel and has its turn when one leaves."""
    site = site()
    site.begun(UPSTREAMS - 1)
    for _ in range(CLIENTS - UPSTREAMS - 1):   # half requests need no server
        client = Client(site.proxy.port)
        site.clients.append(client)
        client.send(request_bytes("POST", PATH, json_headers({"Content-Length": "100"})) + b"{")
    eventually(lambda: site.used()["exchanges"] == CLIENTS, "all exchanges are in use")
    late = site.start(PATH, {"model": "m-tick"})
    site.stream.flows()
    late.expect_silence(0.2)
    assert site.used()["clients"] == CLIENTS
    site.proxy.wait_log("all client slots are in use, new connections wait in the kernel", value=CLIENTS)
    site.clients[0].close()
    assert late.read_response("POST").status == 200
    site.over()


def test_upstreams(site):
    """Idle connections go first. Then 503 out_of_connections, in every dialect; no server is blamed for it."""
    site = site()
    for _ in range(3):
        assert site.proxy.post(OLLAMA, {"model": "m-o", "stream": False}).status == 200   # leaves an idle connection
    assert site.proxy.status(site.old)["idle_upstreams"] >= 1
    site.begun(UPSTREAMS - 1)
    status = site.proxy.status(site.old)
    assert status["idle_upstreams"] == 0 and site.used()["upstreams"] == UPSTREAMS
    asked = len(site.o.calls)
    for path, body, dialect in ((PATH, {"model": "m-o"}, "openai"), (OLLAMA, {"model": "m-o"}, "ollama"),
                                (ANTHROPIC, {"model": "m-o", "max_tokens": 9, "messages": PING}, "anthropic")):
        reply = site.proxy.post(path, body)
        refused(reply, 503, "out_of_connections", dialect)
        assert reply.get("Retry-After") == "1"
    assert len(site.o.calls) == asked and site.proxy.endpoint("o")["status"] == "healthy"
    assert site.proxy.get("/internal/health").status == 200 and site.proxy.get("/v1/models").status == 200
    site.stream.flows()
    site.clients[0].close()
    eventually(lambda: site.used()["upstreams"] == UPSTREAMS - 1, "its connection is given up")
    assert site.proxy.post(OLLAMA, {"model": "m-o", "stream": False}).status == 200
    assert pools(site.proxy, site.old)["upstreams"]["failed"] >= 3
    site.over()


@pytest.mark.parametrize("what", ["heads", "bodies"])
def test_buffers(site, what):
    """Newcomers may use all blocks but those for work that runs: it goes on, others wait, and are read when there is room again.
    A health check that finds no block is no failed one."""
    site = site({"server.read_timeout": "20s"})
    text = request_bytes("POST", PATH, json_headers({"X": "y" * 1000, "Content-Length": "3000"}))
    raw = text[:900] if what == "heads" else text + b'{"model":"m-a","x":"'
    for _ in range(BUFFERS - RESERVED):
        client = Client(site.proxy.port)
        site.clients.append(client)
        client.send(raw)
    late = site.start(PATH, {"model": "m-tick"})
    late.expect_silence(0.3)
    checks = len(site.tick.probes)
    site.stream.flows(100)
    before = site.proxy.cpu_seconds()
    site.stream.flows(50)
    assert site.proxy.cpu_seconds() - before < 0.4, "the loop spins without a block"
    for client in site.clients[:2]:
        client.close()
    assert late.read_response("POST").status == 200
    assert pools(site.proxy, site.old)["buffers"]["max"] <= BUFFERS
    eventually(lambda: len(site.tick.probes) > checks, "it is checked again")
    assert [e for e in site.proxy.find_logs("endpoint state") if e["to"] not in ("healthy",)] == []
    site.over()


@pytest.mark.parametrize("spool", [True, False], ids=["spool", "no-spool"])
def test_body_blocks(site, tmp_path, spool):
    """More bodies of 30 KB than blocks: to the spool, or 503 out_of_buffers, in every dialect; short ones need none."""
    site = site({"proxy.spool_dir": str(tmp_path) if spool else '""'})
    go = Gate()
    for server, path in ((site.a, CHAT), (site.o, "/api/chat")):
        server.on(path, lambda conn, request: (go.wait(), conn.reply({"size": len(request.body)})))
    long = "p" * 30000
    held = [site.start(PATH, {"model": "m-a", "x": long}) for _ in range(BODIES)]
    site.a.wait_calls(BODIES)
    assert site.used()["body_blocks"] == BODIES
    tries = ((PATH, {"model": "m-a", "x": long}, "openai"), (OLLAMA, {"model": "m-o", "stream": False, "x": long}, "ollama"),
             (ANTHROPIC, {"model": "m-a", "max_tokens": 9, "messages": PING, "x": long}, "anthropic"))
    if spool:
        more = [site.start(path, body) for path, body, dialect in tries[:2]]
        site.a.wait_calls(BODIES + 1)
        site.o.wait_calls(1)
        held += more
    else:
        for path, body, dialect in tries:
            refused(site.proxy.post(path, body), 503, "out_of_buffers", dialect)
    answered(site.proxy)
    site.stream.flows()
    go.open()
    for client in held:
        reply = client.read_response("POST")
        assert reply.status == 200 and reply.json()["size"] > 30000
    assert list(tmp_path.iterdir()) == []
    site.over()


def test_messages(site):
    """One more of the Anthropic API than there is room for: 503 with overloaded_error, which client libraries try again. Other
    APIs do not notice."""
    site = site()
    site.a.on(CHAT, hold)
    body = {"model": "m-a", "max_tokens": 9, "messages": PING, "stream": True}
    for _ in range(MESSAGES):
        site.start(ANTHROPIC, body)
    site.a.wait_calls(MESSAGES)
    for path in (ANTHROPIC, ANTHROPIC + "/count_tokens"):
        reply = site.proxy.post(path, body)
        refused(reply, 503, "out_of_messages", "anthropic")
        assert reply.get("Retry-After") == "1"
    assert len(site.a.calls) == MESSAGES
    answered(site.proxy)
    assert site.proxy.post(OLLAMA, {"model": "m-o", "stream": False}).status == 200
    site.stream.flows()
    site.clients[0].close()
    eventually(lambda: site.used()["messages"] == MESSAGES - 1, "one place is free")
    assert site.proxy.post(ANTHROPIC + "/count_tokens", dict(body, model="m-tick", stream=False)).status == 200
    site.over()


def test_stores_of_replies(site):
    """A reply that has to be kept to be told in other words, and neither a block for it nor a spool: an error that says so."""
    site = site({"proxy.spool_dir": '""'})
    go = Gate()

    def handler(conn, request):
        if b"ppp" in request.body:
            go.wait()
            conn.reply({})
            return
        conn.start_chunked()
        conn.chunk(delta(content="x" * 200000))
        conn.end_chunks()
    site.a.on(CHAT, handler)
    held = [site.start(PATH, {"model": "m-a", "x": "p" * 30000}) for _ in range(BODIES)]
    site.a.wait_calls(BODIES)
    for stream in (True, False):
        reply = site.proxy.post(ANTHROPIC, {"model": "m-a", "max_tokens": 9, "messages": PING, "stream": stream})
        refused(reply, 502, None, "anthropic")
    site.stream.flows()
    go.open()
    for client in held:
        assert client.read_response("POST").status == 200
    assert site.used()["messages"] == 0
    site.over()


def test_probes(site, world):
    """More servers that never answer than checks at a time: the others are checked, in their turn, and serve."""
    mute = {}
    for n in range(2 * PROBES):
        server = world.backend(OpenAIBackend, "mute%d" % n, [])
        server.on_accept = lambda conn: conn.wait_close(30)
        mute[server.name] = endpoint(server, check_interval="2s", check_timeout="500ms")
    site = site(None, **mute)
    eventually(lambda: pools(site.proxy, site.old)["probes"]["max"] == PROBES, "all probes are in use")
    checks = len(site.tick.probes)
    for _ in range(3):
        answered(site.proxy)
        site.stream.flows()
    for name in mute:
        site.proxy.wait_state(name, "offline")
    assert site.proxy.endpoint("tick")["status"] == "healthy" and checks > 0
    eventually(lambda: site.used()["probes"] == 0, "a time without checks", 10, 0.005)
    site.stream.end()


def test_models(site, world):
    """The catalogue is full: a warning, what is in it stays, and what did not fit comes when there is room."""
    many = world.backend(OpenAIBackend, "many", [])
    site = site({"discovery.model_discovery.interval": "1s"}, many=many)
    many.models = ["x%d" % n for n in range(2 * MODELS)]   # later: who comes first has the room
    entry = site.proxy.wait_log("the model catalogue is full, models are missing", endpoint="many")
    assert entry["level"] == "WARN" and entry["value"] == MODELS
    listed = {m["id"] for m in site.proxy.get("/v1/models").json()["data"]}
    assert {"m-tick", "m-a", "m-o"} <= listed and len(listed) == MODELS
    missing = sorted(set(many.models) - listed)
    reply = site.proxy.post(PATH, {"model": missing[0]})
    assert reply.status == 404 and reply.json()["error"]["code"] == "model_not_found"
    answered(site.proxy)
    site.stream.flows()
    many.models = missing[:3]
    eventually(lambda: {m["id"] for m in site.proxy.get("/v1/models").json()["data"]} == {"m-tick", "m-a", "m-o"} | set(missing[:3]),
               "those that fit now are listed", 10, 0.1)
    assert site.proxy.post(PATH, {"model": missing[0]}).status == 200
    assert site.used()["models"] == 6
    site.stream.end()


def test_conversations(site):
    """The one that was idle longest is forgotten; it is served all the same."""
    site = site()
    for n in range(SESSIONS + 2):
        reply = site.proxy.post(PATH, {"model": "m-a"}, [("X-Olla-Session-ID", "s%d" % n)])
        assert reply.status == 200 and reply.get("X-Olla-Sticky-Session") == "miss"
    stats = site.proxy.get("/internal/stats/sticky").json()
    assert stats["active_sessions"] == SESSIONS and stats["evictions"] >= 2
    outcome = [site.proxy.post(PATH, {"model": "m-a"}, [("X-Olla-Session-ID", "s%d" % n)]).get("X-Olla-Sticky-Session")
               for n in (SESSIONS + 1, SESSIONS, 0)]
    assert outcome == ["hit", "hit", "miss"]
    site.over()


def test_rate_limited_addresses(world, small):
    """More addresses than are counted: everybody gets what is due to him, and who was seen last is still counted."""
    a = world.backend(OpenAIBackend, "a", ["m-a"])
    proxy = world.olla({"a": a}, {"server.rate_limits.per_ip_requests_per_minute": 1, "server.rate_limits.burst_size": 1}, binary=small)

    def ask(n):
        with proxy.client(source="127.0.1.%d" % n) as client:
            return client.post(PATH, {"model": "m-a"}).status
    assert [ask(1), ask(1)] == [200, 429]
    assert [ask(n) for n in range(2, 2 + 3 * RATES)] == [200] * (3 * RATES)
    assert ask(1 + 3 * RATES) == 429, "the newest one is counted"
    assert ask(1) == 200, "the oldest one was forgotten"
    assert ask(1) == 429


def test_everything_at_once(site):
    """All of it together, twice; SIGUSR1's report and the status page agree that nothing is left."""
    site = site({"server.read_timeout": "20s"})
    for _ in range(2):
        site.a.on(CHAT, hold)
        for _ in range(MESSAGES + 2):
            site.start(ANTHROPIC, {"model": "m-a", "max_tokens": 9, "messages": PING})
        for _ in range(BODIES + 2):
            site.start(PATH, {"model": "m-a", "x": "p" * 30000})
        for _ in range(CLIENTS):
            client = Client(site.proxy.port)
            site.clients.append(client)
            client.send(request_bytes("POST", PATH, json_headers({"X": "y" * 1000, "Content-Length": "3000"}))[:1100])
        site.stream.flows(50)
        for client in site.clients:
            client.reset()
        site.clients = []
        eventually(lambda: site.used() == site.before, "all pools are as before: %r" % site.before, 10, 0.05)
    seen = len(site.proxy.logs)
    site.proxy.signal(signal.SIGUSR1)

    def reported():
        return {e["name"]: e["used"] for e in site.proxy.logs[seen:] if e["msg"] == "pool"}
    eventually(lambda: set(site.before) <= set(reported()), "every pool is in the report")
    report = reported()
    assert report["messages"] == report["body_blocks"] == 0 and report["clients"] <= 3, report
    site.over()
