"""Limits: each has a defined answer, and reaching one harms nobody else."""

import glob
import os
import resource
import signal
import socket
import threading
import time

import pytest

from backend import Gate, OpenAIBackend, eventually, hold, openai_chunk
from client import Client, chunked, dump, json_headers, request_bytes
from harness import new_id

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"


@pytest.fixture
def launch(world):
    def start(settings=None, **options):
        backend = world.backend(OpenAIBackend, "a", ["m1"])
        return backend, world.olla({"a": backend}, settings, **options)
    return start


def body_of(size):
    body = b'{"model":"m1","pad":""}'
    return body[:-2] + b"p" * (size - len(body)) + body[-2:]


# ---- size of the body

def test_content_length_over_the_limit(launch):
    """A body that is too large is refused before it is read, in the caller's dialect."""
    backend, proxy = launch({"server.request_limits.max_body_size": "10KB"})
    with proxy.client() as client:
        client.send(request_bytes("POST", PATH, json_headers({"Content-Length": "10241", "X-Request-ID": "big"})))
        reply = client.read_response("POST", 3)
        assert reply.status == 413 and reply.json()["error"]["message"]
    assert proxy.access("big")["end"] == "PR"
    assert backend.calls == []


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_exact_limit(launch, framing):
    """The limit itself is allowed, one byte more is not."""
    backend, proxy = launch({"server.request_limits.max_body_size": "100KB"})
    for size, status in ((102400, 200), (102401, 413)):
        with proxy.client() as client:
            if framing == "length":
                client.try_send(request_bytes("POST", PATH, json_headers(), body_of(size)))
            else:
                client.try_send(request_bytes("POST", PATH, json_headers({"Transfer-Encoding": "chunked"})) + chunked(body_of(size), 5000))
            assert client.read_response("POST").status == status
    assert [len(call.body) for call in backend.calls] == [102400]


def test_413_with_expect(launch):
    """The point of `Expect`: the refusal comes instead of 100, before the body is sent."""
    _, proxy = launch({"server.request_limits.max_body_size": "10KB"})
    with proxy.client() as client:
        client.send(request_bytes("POST", PATH, json_headers({"Content-Length": "1000000", "Expect": "100-continue"})))
        assert client.read_head("POST", 3).status == 413


def test_413_reaches_a_client_that_keeps_sending(launch):
    """Most clients send the whole body first: closing at once would give them a reset instead of the reason."""
    _, proxy = launch({"server.request_limits.max_body_size": "10KB"})
    for _ in range(3):
        with proxy.client() as client:
            client.try_send(request_bytes("POST", PATH, json_headers(), body_of(1 << 20)))
            assert client.read_response("POST", 5).status == 413


def test_endless_chunked_body(launch):
    """A chunked body without end must stop at the limit, not fill the disk."""
    backend, proxy = launch({"server.request_limits.max_body_size": "200KB"})
    with proxy.client() as client:
        client.send(request_bytes("POST", PATH, json_headers({"Transfer-Encoding": "chunked"})))
        for _ in range(2000):
            if not client.try_send(b"1000\r\n" + b"x" * 4096 + b"\r\n", 5):
                break
        try:
            assert client.read_response("POST", 5).status == 413
        except AssertionError:
            assert client.was_reset  # sent on long after the answer
    assert backend.calls == []


def test_413_on_local_paths_keeps_order(launch):
    """A body for a local path may be skipped or refused, but never taken for the next request."""
    _, proxy = launch({"server.request_limits.max_body_size": "10KB"})
    with proxy.client() as client:
        client.try_send(request_bytes("POST", "/internal/health", {}, b"GET /internal/status HTTP/1.1\r\nHost: x\r\n\r\n" * 1000))
        if client.read_response("POST", 5).status == 413:
            assert client.read_eof(5) == b""
        else:
            client.expect_silence(0.3)


# ---- spool

def test_no_spool(launch):
    """Without a spool directory larger bodies are a clear 413, smaller ones work."""
    backend, proxy = launch({"proxy.spool_dir": '""'})
    assert proxy.request("POST", PATH, body_of(12000), json_headers()).status == 200
    with proxy.client() as client:
        client.try_send(request_bytes("POST", PATH, json_headers(), body_of(300000)))
        reply = client.read_response("POST")
        assert reply.status == 413 and "spool" in reply.json()["error"]["message"]
    assert len(backend.calls) == 1


def test_spool_leaves_no_files(launch, tmp_path):
    """Spool files are unlinked at once: a crash must not leave prompts on disk."""
    backend, proxy = launch({"proxy.spool_dir": str(tmp_path)})
    seen = []

    def handler(conn, request):
        seen.append((len(request.body), glob.glob(str(tmp_path / "*")) + glob.glob(str(tmp_path / ".*"))))
        conn.reply({})
    backend.on(CHAT, handler)
    assert proxy.request("POST", PATH, body_of(1 << 20), json_headers()).status == 200
    assert seen == [(1 << 20, [])]


def test_full_spool(launch, tmp_path):
    """A full disk is 507, and small requests go on."""
    backend, proxy = launch({"proxy.spool_dir": str(tmp_path)}, limits={resource.RLIMIT_FSIZE: 300000}, ignore=(signal.SIGXFSZ,))
    proxy.allowed_errors = True
    name = new_id()
    with proxy.client() as client:
        client.try_send(request_bytes("POST", PATH, json_headers({"X-Request-ID": name}), body_of(2 << 20)))
        reply = client.read_response("POST")
        assert reply.status == 507 and reply.json()["error"]["message"]
    assert proxy.access(name)["end"][0] == "R"
    assert backend.calls == []
    assert proxy.request("POST", PATH, body_of(5000), json_headers()).status == 200
    assert proxy.request("POST", PATH, body_of(200000), json_headers()).status == 200


def test_missing_spool_directory(launch, tmp_path):
    """A spool directory that vanished: large bodies get an error, the rest works."""
    gone = tmp_path / "spool"
    gone.mkdir()
    _, proxy = launch({"proxy.spool_dir": str(gone)})
    proxy.allowed_errors = True
    gone.rmdir()
    with proxy.client() as client:
        client.try_send(request_bytes("POST", PATH, json_headers(), body_of(1 << 20)))
        assert client.read_response("POST").status in (413, 500, 503, 507)
    assert proxy.request("POST", PATH, body_of(5000), json_headers()).status == 200


def test_more_large_bodies_than_blocks(launch):
    """Sixty bodies at once with sixteen blocks: the others go to the spool, none fails, none is mixed up."""
    backend, proxy = launch()
    go = Gate()

    def handler(conn, request):
        go.wait(20)
        conn.reply({"n": request.json()["n"], "size": len(request.body)})
    backend.on(CHAT, handler)
    clients = [proxy.client() for _ in range(60)]
    sent = []
    for n, client in enumerate(clients):
        body = dump({"model": "m1", "n": n, "pad": chr(97 + n % 26) * (30000 + n * 3000)})
        sent.append(len(body))
        client.send(request_bytes("POST", PATH, json_headers(), body))
    backend.wait_calls(60)
    go.open()
    for n, client in enumerate(clients):
        assert client.read_response("POST").json() == {"n": n, "size": sent[n]}
        client.close()


# ---- size of the head

@pytest.mark.parametrize("what", ["header", "many", "target"])
def test_head_limit_is_configurable(launch, what):
    """max_header_size counts the whole head."""
    _, proxy = launch({"server.request_limits.max_header_size": "4096"})
    big = {"header": request_bytes("GET", "/internal/health", {"X-Test": "a" * 6000}),
           "many": request_bytes("GET", "/internal/health", [("X-%d" % n, "a" * 90) for n in range(60)]),
           "target": request_bytes("GET", "/internal/health?" + "a" * 6000)}[what]
    with proxy.client() as client:
        client.try_send(big)
        reply = client.read_response()
        assert reply.status in ((414, 431) if what == "target" else (431,))
        if (reply.get("Connection") or "").lower() == "close":
            assert client.read_eof() == b""
        else:
            assert client.request("GET", "/internal/health").status == 200
    assert proxy.request("GET", "/internal/health", headers={"X-Test": "a" * 3000}).status == 200


def test_head_near_the_limit(launch):
    """A head just under the limit must fit together with the headers we add."""
    backend, proxy = launch()
    backend.on("/v1/x", lambda c, r: c.reply({"ok": 1}))
    for size in (12000, 13500, 14000, 14500):
        with proxy.client() as client:
            raw = request_bytes("GET", "/olla/proxy/v1/x", {"X-Test": ""})
            raw = raw.replace(b"X-Test: ", b"X-Test: " + b"a" * (size - len(raw)))
            client.try_send(raw)
            reply = client.read_response()
            assert reply.status == 200, (size, reply.raw_head)
    assert len(backend.calls[-1].get("X-Test")) > 14000


def test_head_limit_with_a_large_body_behind(launch):
    """The limit is for the head; a body in the same packet must not count."""
    backend, proxy = launch()
    raw = request_bytes("POST", PATH, json_headers({"X-Test": "a" * 10000}), body_of(60000))
    with proxy.client() as client:
        client.send(raw)
        assert client.read_response("POST").status == 200
    assert backend.calls[0].body == body_of(60000)


# ---- time

def test_slow_head(launch):
    """A client that sends its head one byte at a time must not hold a slot for ever (slowloris)."""
    _, proxy = launch({"server.read_header_timeout": "1s", "server.read_timeout": "20s"})
    with proxy.client() as client:
        client.send(b"GET /internal/health HTTP/1.1\r\n")
        started = time.monotonic()
        while time.monotonic() - started < 6 and client.try_send(b"X"):
            try:
                client._fill(time.monotonic() + 0.2)
                break
            except TimeoutError:
                pass
        assert client.read_response("GET", 3).status == 408
        assert client.read_eof(5) == b""
        assert 0.5 < time.monotonic() - started < 6


@pytest.mark.parametrize("what", ["head", "body"])
def test_408_is_readable(launch, what):
    """A reset right behind a 408 can destroy it on its way: the client reads of a lost connection, not of the reason."""
    _, proxy = launch({"server.read_header_timeout": "1s", "server.read_timeout": "1s"})
    raw = request_bytes("POST", PATH, json_headers({"Content-Length": "100"})) + b"{"
    with proxy.client() as client:
        client.send(raw if what == "body" else raw[:40])
        reply = client.read_response("POST", 6)
        assert reply.status == 408 and reply.get("Connection").lower() == "close"
        assert client.read_eof(5) == b"" and not client.was_reset
        for _ in range(3):  # what comes late is swallowed, not answered with a reset
            assert client.try_send(b"x" * 10)
            time.sleep(0.02)


def test_silent_connection_gets_no_408(launch):
    """A connection on which nothing was sent is closed without a word: browsers open them in advance."""
    _, proxy = launch({"server.read_header_timeout": "1s", "server.read_timeout": "1s"})
    with proxy.client() as client:
        assert client.read_eof(6) == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_slow_body(launch, framing):
    """A body that stops coming gives its memory back."""
    backend, proxy = launch({"server.read_timeout": "1s"})
    headers = {"Content-Length": "100"} if framing == "length" else {"Transfer-Encoding": "chunked"}
    with proxy.client() as client:
        client.send(request_bytes("POST", PATH, json_headers(dict(headers, **{"X-Request-ID": "slow"}))) + b"5\r\nhe")
        reply = client.read_response("POST", 6)
        assert reply.status == 408
        assert client.read_eof(5) == b""
    assert proxy.access("slow")["end"] == "cR"
    assert backend.calls == []


def test_write_timeout(launch):
    """With write_timeout a client that stops reading is cut, and its backend freed."""
    backend, proxy = launch({"server.write_timeout": "1s"})

    def handler(conn, request):
        conn.start_chunked("application/octet-stream")
        while True:
            conn.chunk(b"x" * 65536)
    backend.on(CHAT, handler)
    name = new_id()
    with proxy.client(rcvbuf=4096) as client:
        client.start_post(PATH, {"model": "m1"}, {"X-Request-ID": name})
        client.read_head("POST")
        eventually(lambda: backend.calls[0].conn.closed_how, "the backend connection is closed", 10)
        assert proxy.access(name)["end"] in ("cD", "cL")


def test_lost_backend_of_a_client_that_does_not_read(launch):
    """Reply bytes wait for a client that does not read and their backend is dead: the loop must not spin
    on the dead connection, and the client's time must run out all the same."""
    backend, proxy = launch({"server.write_timeout": "2s"})
    dead = Gate()

    def handler(conn, request):
        conn.start_chunked("text/plain")
        conn.sock.settimeout(0.5)
        try:
            while True:
                conn.chunk(b"x" * 30000)
        except OSError:
            conn.rst()
        dead.open()
    backend.on(CHAT, handler)
    name = new_id()
    with proxy.client(rcvbuf=4096) as client:
        client.start_post(PATH, {"model": "m1"}, {"X-Request-ID": name})
        dead.wait()
        before = proxy.cpu_seconds()
        time.sleep(0.8)
        assert proxy.cpu_seconds() - before < 0.4, "the loop spins on the dead connection"
        entry = proxy.access(name, 6)
        assert entry["end"] == "cD" and entry["duration_ms"] < 6000


def test_write_timeout_spares_readers(launch):
    """A steady but slow stream to a reading client is not cut by write_timeout."""
    backend, proxy = launch({"server.write_timeout": "1s"})

    def handler(conn, request):
        conn.start_chunked()
        for _ in range(6):
            conn.chunk(openai_chunk("word"))
            time.sleep(0.5)
        conn.end_chunks()
    backend.on(CHAT, handler)
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.complete and reply.body == openai_chunk("word") * 6


# ---- connections

def need_fds(count):
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and soft < count:
        pytest.skip("needs %d file descriptors" % count)


def test_more_clients_than_slots(launch):
    """Six hundred clients with 512 slots: the late ones wait in the kernel and are served when others leave."""
    need_fds(1500)
    _, proxy = launch(limits={resource.RLIMIT_NOFILE: 2048})
    early = []
    for _ in range(600):
        early.append(Client(proxy.port))
    time.sleep(0.3)
    late = Client(proxy.port)
    late.send(request_bytes("GET", "/internal/health"))
    with pytest.raises(TimeoutError):
        late.read_response("GET", 0.5)
    before = proxy.cpu_seconds()
    time.sleep(1)
    assert proxy.cpu_seconds() - before < 0.6, "the loop spins while all slots are taken"
    for client in early[:200]:
        client.reset()
    assert late.read_response("GET", 5).status == 200
    for client in early[200:]:
        client.send(request_bytes("GET", "/internal/health"))
    for client in early[200:]:
        assert client.read_response("GET", 5).status == 200
        client.close()
    late.close()
    assert proxy.pool("clients")["max"] == 512


def test_running_streams_survive_a_crowd(launch):
    """Streams that run must go on when every slot and buffer is taken by newcomers."""
    need_fds(1500)
    backend, proxy = launch({"server.read_header_timeout": "3s"}, limits={resource.RLIMIT_NOFILE: 2048})
    stop = threading.Event()

    def handler(conn, request):
        conn.start_chunked()
        n = 0
        while not stop.is_set():
            conn.chunk(b"data: %d\n\n" % n)
            n += 1
            time.sleep(0.02)
        conn.end_chunks()
    backend.on(CHAT, handler)
    stream = Client(proxy.port)
    stream.start_post(PATH, {"model": "m1", "stream": True})
    reply = stream.read_head("POST")
    crowd = []
    for _ in range(520):
        client = Client(proxy.port)
        client.send(b"POST " + PATH.encode() + b" HTTP/1.1\r\nX: " + b"y" * 500)
        crowd.append(client)
    for _ in range(60):
        assert reply.read_piece(3), "the running stream starved"
    # those without a whole head are sent away in time, and newcomers are served
    late = Client(proxy.port)
    late.send(request_bytes("GET", "/internal/health"))
    assert late.read_response("GET", 10).status == 200
    stop.set()
    reply.read_rest()
    assert reply.complete
    for client in crowd + [late, stream]:
        client.close()


def test_out_of_file_descriptors(launch):
    """EMFILE: no spin, no crash, and service again as soon as descriptors are free."""
    backend, proxy = launch(limits={resource.RLIMIT_NOFILE: 64})
    proxy.allowed_errors = True
    clients = []
    for _ in range(120):
        client = Client(proxy.port)
        client.send(b"GET /internal/health HTTP/1.1\r\n")
        clients.append(client)
    time.sleep(0.3)
    before = proxy.cpu_seconds()
    time.sleep(1)
    assert proxy.cpu_seconds() - before < 0.6, "the loop spins on accept"
    assert proxy.alive() and proxy.open_fds() <= 64
    for client in clients:
        client.reset()
    assert proxy.get("/internal/health").status == 200
    for _ in range(5):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert len(proxy.logs) < 400, "a log line per failed accept"


def test_no_descriptor_for_the_backend(launch):
    """With descriptors for clients but none for the backend the client gets an answer, and later service."""
    backend, proxy = launch(limits={resource.RLIMIT_NOFILE: 64})
    proxy.allowed_errors = True
    backend.on(CHAT, lambda c, r: (time.sleep(0.3), c.reply({"ok": 1})))
    clients = [Client(proxy.port) for _ in range(50)]
    for client in clients:
        client.start_post(PATH, {"model": "m1"})
    statuses = [client.read_response("POST", 20).status for client in clients]
    assert set(statuses) <= {200, 502, 503}, statuses
    for client in clients:
        client.close()
    eventually(lambda: proxy.post(PATH, {"model": "m1"}).status == 200, "service again", 15, 0.2)


def test_many_concurrent_requests(launch):
    """Two hundred requests in flight through one endpoint: no hidden limit makes them wait."""
    need_fds(1500)
    backend, proxy = launch(limits={resource.RLIMIT_NOFILE: 2048})
    go = Gate()
    backend.on(CHAT, lambda c, r: (go.wait(20), c.reply({"n": r.json()["n"]})))
    clients = [Client(proxy.port) for _ in range(200)]
    for n, client in enumerate(clients):
        client.start_post(PATH, {"model": "m1", "n": n})
    backend.wait_calls(200)
    go.open()
    for n, client in enumerate(clients):
        assert client.read_response("POST").json() == {"n": n}
        client.close()
    eventually(lambda: proxy.status()["idle_upstreams"] <= 64, "idle connections per endpoint are bounded", 5)


def test_many_heads_in_two_pieces(launch):
    """Two hundred replies whose heads come in two pieces: every half takes a block, and nobody may wait for
    a block that is only given back when he goes on himself."""
    need_fds(1500)
    backend, proxy = launch(limits={resource.RLIMIT_NOFILE: 2048})
    go = Gate()

    def handler(conn, request):
        go.wait(20)
        body = dump({"n": request.json()["n"]})
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Le")
        time.sleep(0.2)
        conn.send(b"ngth: %d\r\n\r\n" % len(body) + body)
    backend.on(CHAT, handler)
    clients = [Client(proxy.port) for _ in range(200)]
    for n, client in enumerate(clients):
        client.start_post(PATH, {"model": "m1", "n": n})
    backend.wait_calls(200)
    go.open()
    for n, client in enumerate(clients):
        reply = client.read_response("POST")
        assert reply.complete and reply.json() == {"n": n}
        client.close()


PADDED = request_bytes("GET", "/internal/health", {"X-Pad": "p" * 400})
CROWDS = {"empty line": (300, b"\r\n", PADDED), "half a head": (400, PADDED[:300], PADDED[300:])}


@pytest.mark.parametrize("name", list(CROWDS))
def test_crowd_with_next_to_nothing_sent(launch, name):
    """Connections that sent an empty line or half a head must not hold a block each until nobody else is served."""
    need_fds(1500)
    count, first, rest = CROWDS[name]
    _, proxy = launch(limits={resource.RLIMIT_NOFILE: 2048})
    crowd = [Client(proxy.port) for _ in range(count)]
    for client in crowd:
        client.send(first)
    time.sleep(0.2)
    with proxy.client() as other:
        other.send(request_bytes("GET", "/internal/health"))
        assert other.read_response("GET", 3).status == 200
        other.start_post(PATH, {"model": "m1"})
        assert other.read_response("POST", 3).status == 200
    for client in crowd:  # and what they began can be ended
        client.send(rest)
    for client in crowd:
        assert client.read_response("GET", 5).body == b'{"status":"healthy"}'
        client.close()


def test_pipelined_errors_delay_nobody(world):
    """A 404 that looks for similar names among a thousand is dear: hundreds at once must not stop the others."""
    stem = "organisation-%03d/" + "x" * 90
    backend = world.backend(OpenAIBackend, "a", [stem % (n % 7) + "%06d" % n for n in range(1000)])
    proxy = world.olla({"a": backend})
    raw = request_bytes("POST", PATH, json_headers(), dump({"model": stem % 3 + "none"}))
    crowd = [world.client(proxy) for _ in range(8)]
    for client in crowd:
        client.send(raw * 60)
    with proxy.client() as other:
        other.send(request_bytes("GET", "/internal/health"))
        assert other.read_response("GET", 2).status == 200
    for client in crowd:
        for _ in range(60):
            assert client.read_response("POST").status == 404


def test_listen_address(world):
    """host decides who can connect: loopback only must not be all interfaces."""
    proxy = world.olla({}, {"server.host": "127.0.0.1"}, ready=None)
    rows = [line.split() for name in ("tcp", "tcp6") if os.path.exists("/proc/net/" + name) for line in open("/proc/net/" + name)]
    listening = [row[1] for row in rows if len(row) > 3 and row[3] == "0A" and row[1].endswith(":%04X" % proxy.port)]
    assert listening == ["0100007F:%04X" % proxy.port]


def test_listen_on_all(world):
    """An empty host means every interface, IPv6 included where there is one."""
    proxy = world.olla({}, {"server.host": '""'}, ready=None)
    assert proxy.get("/internal/health").status == 200
    if socket.has_ipv6:
        try:
            with Client(proxy.port, "::1") as client:
                assert client.request("GET", "/internal/health").status == 200
        except OSError:
            pass  # no IPv6 here


def test_hold_is_bounded(launch):
    """A client slot held by a silent backend is freed with the client (guards the tests above)."""
    backend, proxy = launch()
    backend.on(CHAT, hold)
    with proxy.client() as client:
        client.start_post(PATH, {"model": "m1"})
        backend.wait_calls(1)
        assert proxy.pool("clients")["used"] == 2
    eventually(lambda: proxy.pool("clients")["used"] == 1, "the slot is free again", 3)
