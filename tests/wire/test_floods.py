"""Floods and slow peers: many connections that say little, that take nothing, or that are just many. Each time a stream runs
beside them that must not miss an event, and well-behaved clients are answered."""

import os
import resource

import pytest

from backend import Gate, OllamaBackend, OpenAIBackend, eventually
from client import dump, json_headers, request_bytes
from floods import CHAT, PAGE, PATH, PLAIN_BINARY, Crowd, Metronome, Stream, answered, pools, resident
from harness import new_id
from messages import envelope

FLOOD = 2000


@pytest.fixture
def beside(world):
    """beside(settings): a proxy with a server whose stream runs during the test, and one for the attackers (m-bad)."""
    streams, crowds = [], []

    class Site:
        def __init__(self, settings=None, **options):
            self.tick = world.backend(Metronome, "tick", ["m-tick"])
            self.bad = world.backend(OpenAIBackend, "bad", ["m-bad"])
            self.proxy = world.olla({"tick": self.tick, "bad": self.bad}, settings, **options)

        def stream(self, **options):
            streams.append(Stream(self.proxy, self.tick, **options))
            streams[-1].flows(3)
            return streams[-1]

        def crowd(self, *args, **keys):
            crowds.append(Crowd(self.proxy.port, *args, **keys))
            return crowds[-1]

        def over(self):
            for crowd in crowds:
                crowd.leave()
                assert crowd.problem is None, crowd.problem
            for stream in streams:
                stream.end()
    yield Site
    for crowd in crowds:
        crowd.leave()
    for stream in streams:
        stream.client.close()


# ---- clients that say little

def test_many_slow_heads(beside):
    """More slow heads than slots, and whoever is sent away comes again at once: streams flow, others get their turn."""
    site = beside({"server.read_header_timeout": "1s"})
    stream = site.stream()
    crowd = site.crowd(700, b"GET /internal/health HTTP/1.1\r\nX: ", b"y", 0.2, again=True)
    site.proxy.wait_log("all client slots are in use, new connections wait in the kernel")
    stream.flows()
    answered(site.proxy)
    stream.flows()
    eventually(lambda: crowd.ended >= 700, "each of them was sent away")
    answered(site.proxy)
    assert crowd.statuses() == {b"408"}
    site.over()
    answered(site.proxy)


@pytest.mark.parametrize("framing", ["length", "chunked", "pause"])
def test_many_slow_bodies(beside, framing):
    """Uploads that trickle, or stop: more of them than there are blocks for new requests."""
    site = beside({"server.read_timeout": "1s"})
    stream = site.stream()
    headers = {"Transfer-Encoding": "chunked"} if framing == "chunked" else {"Content-Length": "100000"}
    begun = b'{"model":"m-bad","x":"' + b"p" * (8000 if framing == "pause" else 0)   # those KiB would buy eight seconds
    raw = request_bytes("POST", PATH, json_headers(headers)) + (b"%x\r\n%s\r\n" % (len(begun), begun) if framing == "chunked" else begun)
    drip = {"length": b"y", "chunked": b"1\r\ny\r\n", "pause": b""}[framing]
    crowd = site.crowd(400, raw, drip, 0.2)
    stream.flows()
    answered(site.proxy)
    eventually(lambda: crowd.ended == 400, "each of them was sent away")
    assert crowd.statuses() == {b"408"} and len(crowd.replies) == 400
    assert site.bad.calls == [], "half a request is nobody's business"
    site.over()


def test_408_in_every_dialect(world):
    a = world.backend(OllamaBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, {"server.read_timeout": "500ms"})
    clients = {path: world.client(proxy) for path in (PATH, "/api/chat", "/v1/messages")}
    for path, client in clients.items():
        client.send(request_bytes("POST", path, json_headers({"Content-Length": "1000"})) + b'{"model":"m1"')
    replies = {path: client.read_response("POST") for path, client in clients.items()}
    assert [reply.status for reply in replies.values()] == [408] * 3
    assert replies[PATH].json()["error"]["message"] and isinstance(replies["/api/chat"].json()["error"], str)
    envelope(replies["/v1/messages"], 408, "timeout_error")
    for client in clients.values():
        assert client.read_eof() == b""


# ---- clients that take nothing

def gush(kind, go):
    """A handler that begins its reply and then says more than any client takes."""
    piece = {"tunnel": b"x" * 8000, "stream": b"data: %s\n\n" % (b"x" * 8000),
             "translated": b"data: %s\n\n" % dump({"choices": [{"index": 0, "delta": {"content": "x" * 8000}}]}),
             "file": b"x" * 8000}[kind]

    def talk(conn, request):
        conn.head(101, {"Upgrade": "websocket", "Connection": "Upgrade"}, "Switching Protocols")
        go.wait(30)
        try:
            while True:
                conn.send(piece)
        except OSError:
            pass

    def handler(conn, request):
        conn.start_chunked("application/octet-stream" if kind == "file" else "text/event-stream")
        conn.chunk(b": begun\n\n")
        go.wait(30)
        try:
            while True:
                conn.chunk(piece)
        except OSError:
            pass
    return talk if kind == "tunnel" else handler


@pytest.mark.parametrize("kind", ["stream", "translated", "file", "tunnel"])
def test_clients_that_never_read(beside, small, kind):
    """More of them than blocks: their servers are held back, and streams, new requests and the status page need no block of
    theirs."""
    limits = {"stream": 30, "translated": 4, "file": 30, "tunnel": 30}   # four: as many as this build can translate at a time
    site = beside({}, binary=small)
    go = Gate()
    site.bad.on("/v1/realtime" if kind == "tunnel" else CHAT, gush(kind, go))
    stream = site.stream()
    with site.proxy.client() as old:
        assert old.request("GET", "/internal/health").status == 200
        path, body = PATH, {"model": "m-bad", "stream": True}
        if kind == "translated":
            path, body = "/v1/messages", dict(body, max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        raw = request_bytes("POST", path, json_headers(), dump(body))
        if kind == "tunnel":
            raw = request_bytes("GET", "/olla/proxy/v1/realtime?model=m-bad", {"Upgrade": "websocket", "Connection": "Upgrade"})
        site.crowd(limits[kind], raw, reads=False, rcvbuf=4096)
        site.bad.wait_calls(limits[kind])
        go.open()

        def held():
            before = sum(call.conn.sent for call in site.bad.calls)
            stream.flows(20)
            return before == sum(call.conn.sent for call in site.bad.calls)
        eventually(held, "the servers are held back", 20)
        for _ in range(3):
            answered(site.proxy)
        assert pools(site.proxy, old)["buffers"]["used"] < 24
        before = site.proxy.cpu_seconds()
        stream.flows(50)
        assert site.proxy.cpu_seconds() - before < 0.4, "the loop spins for clients that take nothing"
    site.over()
    answered(site.proxy)


def test_clients_that_never_read_are_cut(beside, small):
    """With write_timeout they lose their connections, and the server is not blamed."""
    site = beside({"server.write_timeout": "1s"}, binary=small)
    go = Gate()
    site.bad.on(CHAT, gush("stream", go))
    stream = site.stream()
    mark = new_id()
    raw = request_bytes("POST", PATH, json_headers({"X-Request-ID": mark}), dump({"model": "m-bad", "stream": True}))
    site.crowd(30, raw, reads=False, rcvbuf=4096)
    site.bad.wait_calls(30)
    go.open()
    eventually(lambda: len(site.proxy.find_logs("request", request_id=mark)) == 30, "all were cut", 20)
    assert {entry["end"] for entry in site.proxy.find_logs("request", request_id=mark)} == {"cD"}
    stream.flows()
    assert site.proxy.endpoint("bad")["status"] == "healthy"
    answered(site.proxy)
    site.over()


def test_lists_that_nobody_reads(beside, small):
    """Requests for a long page, one behind the other, from clients that read none of the answers."""
    site = beside({"server.write_timeout": "1s"}, binary=small)
    stream = site.stream()
    crowd = site.crowd(40, request_bytes("GET", "/internal/status") * 2000, reads=False, rcvbuf=4096)
    stream.flows(100)
    assert crowd.problem is None
    answered(site.proxy, timeout=20)   # when those that take nothing are cut
    stream.flows()
    site.over()
    answered(site.proxy)


# ---- many connections

def need_fds():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FLOOD + 500:
        if hard != resource.RLIM_INFINITY and hard < FLOOD + 500:
            pytest.skip("this process may not open %d files" % (FLOOD + 500))
        resource.setrlimit(resource.RLIMIT_NOFILE, (FLOOD + 500, hard))


def flood(site, stream, old):
    """All slots are taken; the others wait in the kernel, or try again. What runs goes on. Then they leave."""
    crowd = site.crowd(FLOOD)

    def taken():
        return pools(site.proxy, old)["clients"]["used"] == 512
    eventually(taken, "all slots are in use")
    stream.flows()
    assert old.post(PATH, {"model": "m-tick"}).status == 200
    before = site.proxy.cpu_seconds()
    stream.flows(50)
    assert site.proxy.cpu_seconds() - before < 0.4, "the loop spins while all slots are taken"
    assert crowd.ended == 0, "connections were not left to the kernel"
    crowd.leave()
    eventually(lambda: pools(site.proxy, old)["clients"]["used"] == 2, "all slots are free again")
    answered(site.proxy)
    stream.flows()


def test_two_thousand_connections(beside):
    """Nothing is lost, and the second flood costs no memory any more: after it there is as much as before, within a page per pool."""
    need_fds()
    assert os.access(PLAIN_BINARY, os.X_OK), "memory is measured on the product itself: make %s" % PLAIN_BINARY
    site = beside({}, binary=PLAIN_BINARY)
    stream = site.stream()
    with site.proxy.client() as old:
        first = resident(site.proxy)
        flood(site, stream, old)
        before = resident(site.proxy)
        sizes = {p["name"]: p["size"] * p["max"] for p in pools(site.proxy, old).values()}
        assert before - first <= sum(sizes.values()) + 64 * PAGE, "more than what the pools' elements need"
        flood(site, stream, old)
        assert resident(site.proxy) <= before + len(sizes) * PAGE
        assert site.proxy.wait_log("all client slots are in use, new connections wait in the kernel")["level"] == "WARN"
    site.over()


def test_two_thousand_connections_of_one_client(beside):
    """With a limit for each client the flood does not reach the slots: others do not even wait."""
    need_fds()
    site = beside({"server.access.max_connections_per_client": 20}, binary=PLAIN_BINARY)
    stream = site.stream(source="127.0.0.2")
    crowd = site.crowd(FLOOD, request_bytes("GET", "/internal/health"), again=False)
    answered(site.proxy, source="127.0.0.2")
    stream.flows()
    eventually(lambda: crowd.ended >= FLOOD - 20, "they are closed at once", 20)
    with site.proxy.client(source="127.0.0.2") as other:
        status = site.proxy.status(other)
        assert status["security"]["violations"]["refused_connections"] == FLOOD - 20
        assert {p["name"]: p for p in status["pools"]}["clients"]["max"] <= 23
    site.over()
    answered(site.proxy)
