"""A client that leaves: the backend must stop at once, and nothing may be left behind."""

import random
import time

import pytest

from backend import Gate, OpenAIBackend, eventually, hold, openai_chunk
from client import Client, chunked, dump, json_headers, request_bytes
from harness import endpoint, new_id, rarely_probed

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
SOON = 2.0  # "within 50 ms" on a good day; the tests only tell soon from never
LEAVE = ["close", "reset", "half_close"]


def leave(client, how):
    getattr(client, how)()


def died(conn, how="rst"):
    eventually(lambda: conn.closed_how, "the backend saw the connection die", SOON)
    assert conn.closed_how == how, "an aborted request must be reset, so that the backend notices at once"


def start(site, obj=None, headers=()):
    name = new_id()
    client = site.client()
    client.start_post(PATH, obj or {"model": "m-oai", "stream": True}, dict(headers, **{"X-Request-ID": name}))
    return client, name


def left(site, name, end):
    entry = site.proxy.access(name)
    assert entry["end"] == end, entry
    return entry


def answers_again(site):
    """The endpoint is still in use and the next answer is its own."""
    site.oai.routes[CHAT] = site.oai.chat
    assert site.proxy.post(PATH, {"model": "m-oai"}).json()["served_by"] == "oai"
    assert site.proxy.endpoint("oai")["status"] == "healthy", "a client that leaves is no fault of the endpoint"


@pytest.mark.parametrize("how", LEAVE)
def test_before_the_response_head(site, how):
    """The time before the first token is the longest: an abandoned prompt must not keep the GPU busy."""
    site.oai.on(CHAT, hold)
    client, name = start(site)
    conn = site.oai.wait_calls(1)[0].conn
    leave(client, how)
    died(conn)
    assert left(site, name, "CH")["status"] == 499
    answers_again(site)


@pytest.mark.parametrize("how", LEAVE)
def test_in_mid_stream(site, how):
    """A closed browser tab must stop the generation."""
    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("Hel"))
        hold(conn, request)
    site.oai.on(CHAT, handler)
    client, name = start(site)
    reply = client.read_head("POST")
    reply.read_piece()
    leave(client, how)
    died(site.oai.calls[0].conn)
    assert left(site, name, "CD")["status"] == 200
    answers_again(site)


@pytest.mark.parametrize("how", LEAVE)
def test_in_a_busy_stream(site, how):
    """The same while bytes are flowing: the write error must be taken for the client's, not the backend's."""
    def handler(conn, request):
        conn.start_chunked()
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            conn.chunk(openai_chunk("word ") * 20)
            time.sleep(0.002)
    site.oai.on(CHAT, handler)
    client, name = start(site)
    client.read_head("POST").read_at_least(10000)
    leave(client, how)
    eventually(lambda: site.oai.calls[0].conn.closed_how, "the stream was stopped", SOON)
    assert left(site, name, "CD")["attempts"] == 1
    assert len(site.calls) == 1
    answers_again(site)


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1000, 300000])
def test_while_sending_the_body(site, how, framing, size):
    """Half a body must not be sent to a backend, and its memory and spool must be given back."""
    client = site.client()
    name = new_id()
    headers = json_headers({"X-Request-ID": name})
    body = b'{"model":"m-oai","pad":"' + b"x" * size + b'"}'
    if framing == "length":
        raw = request_bytes("POST", PATH, headers, body)
    else:
        raw = request_bytes("POST", PATH, headers + [("Transfer-Encoding", "chunked")]) + chunked(body, 4000)
    client.send(raw[:len(raw) - 500])
    time.sleep(0.1)
    leave(client, how)
    left(site, name, "CR")
    assert site.calls == []


@pytest.mark.parametrize("how", LEAVE)
def test_in_the_request_head(site, how):
    """A client that hangs up in its first line costs nothing."""
    client = site.client()
    client.send(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHos")
    time.sleep(0.05)
    leave(client, how)
    if how == "half_close":
        client.read_eof(3)
    assert site.calls == []


def test_while_connecting(world):
    """A client gone while the connect hangs: the attempt is dropped, not carried on."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": rarely_probed(a)}, {"proxy.connection_timeout": "30s"})
    a.go_silent()
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1"}, {"X-Request-ID": "hang"})
    time.sleep(0.3)
    assert proxy.pool("upstreams")["used"] == proxy.status()["idle_upstreams"] + 1
    client.close()
    entry = proxy.access("hang", 3)
    assert (entry["end"], entry["status"]) == ("CC", 499)
    assert entry["duration_ms"] < 10000


def test_in_the_second_attempt(world):
    """After a failover it is the second backend that must be told."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    a.on(CHAT, lambda c, r: c.rst())
    b.on(CHAT, hold)
    proxy = world.olla({"a": endpoint(a, priority=200), "b": b}, {"proxy.load_balancer": "priority"})
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1"}, {"X-Request-ID": "second"})
    conn = b.wait_calls(1)[0].conn
    client.close()
    died(conn)
    entry = proxy.access("second")
    assert (entry["end"], entry["attempts"]) == ("CH", 2)
    assert len(a.calls) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
def test_with_a_pipelined_request_behind(site, how):
    """Bytes read ahead must not hide that the client has gone."""
    site.oai.on(CHAT, hold)
    client, name = start(site)
    client.send(request_bytes("POST", PATH, json_headers(), dump({"model": "m-oai", "n": 2})))
    conn = site.oai.wait_calls(1)[0].conn
    time.sleep(0.05)
    leave(client, how)
    died(conn)
    left(site, name, "CH")
    time.sleep(0.2)
    assert len(site.calls) == 1, "a request of a client that left was carried out"


BUFFER = 16384


def filling(buffers, name):
    """A request whose last byte fills the buffer, which has room for its head and part of the body, for the n-th time."""
    def raw(pad):
        return request_bytes("POST", PATH, json_headers({"X-Request-ID": name}), b'{"model":"m-oai","p":"' + b"x" * pad + b'"}')
    sample = raw(10000)  # the length has five digits here as there
    head = sample.index(b"\r\n\r\n") + 4
    out = raw(buffers * (BUFFER - head) - len(sample) + head + 10000)
    assert len(out) == head + buffers * (BUFFER - head)
    return out


# how often the buffer is filled (6 times: more than is kept in memory), bytes sent behind the request, how the client
# leaves (a FIN behind bytes that were not read cannot be seen)
FULL = [(1, 0, "close"), (1, 0, "reset"), (3, 0, "close"), (3, 0, "reset"), (6, 0, "close"), (6, 0, "reset"),
        (1, 40000, "reset"), (6, 40000, "reset")]


@pytest.mark.parametrize("buffers,ahead,how", FULL)
def test_with_a_full_buffer(site, buffers, ahead, how):
    """Without room to read ahead a hang-up is easily missed, or seen over and over again by a loop that spins."""
    site.oai.on(CHAT, hold)
    name = new_id()
    raw = filling(buffers, name)
    client = site.client()
    client.send(raw + request_bytes("GET", "/internal/health", {"X-Pad": "p" * 900}) * (ahead // 1000))
    conn = site.oai.wait_calls(1)[0].conn
    before = site.proxy.cpu_seconds()
    time.sleep(0.15)
    leave(client, how)
    died(conn)
    assert left(site, name, "CH")["status"] == 499
    time.sleep(0.15)
    assert site.proxy.cpu_seconds() - before < 0.2, "the loop spins"


def test_a_client_that_never_reads_and_leaves(site):
    """A full socket must not keep the proxy from seeing the reset."""
    def handler(conn, request):
        conn.start_chunked("application/octet-stream")
        while True:
            conn.chunk(b"x" * 65536)
    site.oai.on(CHAT, handler)
    name = new_id()
    client = site.client(rcvbuf=8192)
    client.start_post(PATH, {"model": "m-oai"}, {"X-Request-ID": name})
    client.read_head("POST")
    time.sleep(0.5)
    client.reset()
    eventually(lambda: site.oai.calls[0].conn.closed_how, "the stream was stopped", SOON)
    left(site, name, "CD")


def test_while_the_backend_takes_the_body(site):
    """A backend that reads slowly, a client that leaves meanwhile."""
    go = Gate()

    def handler(conn, request):
        conn.read_exact(10000)
        go.wait()
        hold(conn, request)
    site.oai.on(CHAT, handler, read_body=False)
    name = new_id()
    client = site.client()
    client.send(request_bytes("POST", PATH, json_headers({"X-Request-ID": name}), b'{"model":"m-oai","p":"' + b"x" * (12 << 20) + b'"}'))
    conn = site.oai.wait_calls(1)[0].conn
    client.close()
    entry = site.proxy.access(name)
    assert entry["end"] in ("CH", "CC", "CR") and entry["status"] == 499
    go.open()
    died(conn)


def test_the_cancelled_connection_is_not_reused(site):
    """Half an answer left in a reused connection would be given to somebody else."""
    gate = Gate()

    def handler(conn, request):
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nfirst-half")
        gate.wait()
        conn.send(b"other-half")
    site.oai.on(CHAT, handler)
    client, _ = start(site)
    client.read_head("POST").read_at_least(10)
    client.close()
    time.sleep(0.1)
    gate.open()
    site.oai.on(CHAT, lambda c, r: c.reply({"n": 2}))
    for _ in range(3):
        assert site.proxy.post(PATH, {"model": "m-oai"}).json() == {"n": 2}


def test_leaving_after_the_answer_is_no_abort(site):
    """A client that got everything and closed is a success."""
    name = new_id()
    client = Client(site.proxy.port)
    client.start_post(PATH, {"model": "m-oai"}, {"X-Request-ID": name})
    assert client.read_response("POST").complete
    client.close()
    entry = site.proxy.access(name)
    assert (entry["end"], entry["status"]) == ("--", 200)


def test_cancel_during_a_local_answer(site):
    """A monitor that hangs up while the status is written must leave nothing behind."""
    for _ in range(20):
        client = Client(site.proxy.port)
        client.send(request_bytes("GET", "/internal/status") * 20)
        client.reset()
    assert site.proxy.get("/internal/health").status == 200


def test_storm_of_leaving_clients(site):
    """A hundred clients that leave at every point: no slot, buffer or backend connection may be lost."""
    rng = random.Random(5)

    def handler(conn, request):
        conn.start_chunked()
        for n in range(10):
            conn.chunk(openai_chunk("w%d" % n))
            time.sleep(0.01)
        conn.end_chunks()
    site.oai.on(CHAT, handler)
    raw = request_bytes("POST", PATH, json_headers(), dump({"model": "m-oai", "stream": True, "pad": "x" * 500}))
    clients = []
    for n in range(150):
        client = Client(site.proxy.port)
        client.send(raw[:rng.randrange(len(raw))] if n % 3 == 0 else raw * rng.randrange(1, 3))
        clients.append(client)
        if n % 2:
            gone = clients.pop(rng.randrange(len(clients)))
            leave(gone, rng.choice(["close", "reset"]))
    time.sleep(0.05)
    for client in clients:
        leave(client, rng.choice(["close", "reset"]))
    answers_again(site)


def test_connections_that_say_nothing(site):
    """Port scanners and TCP health checks: connect, wait, close."""
    clients = [Client(site.proxy.port) for _ in range(100)]
    for n, client in enumerate(clients):
        leave(client, "reset" if n % 2 else "close")
    assert site.proxy.get("/internal/health").status == 200


def test_half_open_backend_connection_after_cancel(site):
    """A backend that ignores the reset and goes on must not be read as somebody's answer."""
    def handler(conn, request):
        time.sleep(0.2)
        try:
            for _ in range(40):
                conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale")
                time.sleep(0.02)
        except OSError:
            pass
    site.oai.on(CHAT, handler)
    client, _ = start(site)
    site.oai.wait_calls(1)
    client.close()
    answers_again(site)
