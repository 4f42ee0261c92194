"""Bytes go down the moment they arrive, unchanged, whatever their size and shape."""

import hashlib
import socket
import threading
import time

import pytest

from backend import Gate, OllamaBackend, OpenAIBackend, eventually, openai_chunk, pattern, split_at, sse
from client import chunked, dump, json_headers, request_bytes

PATH = "/olla/proxy/v1/chat/completions"
PROMPT = 5.0  # an event must arrive within this time although the next one waits for it


def step_stream(site, ctype, pieces, framing="chunked"):
    """The backend sends one piece, then waits until the client has it. A proxy that gathers
    bytes never lets the client get there. Returns the gates in order."""
    gates = [Gate() for _ in pieces]

    def handler(conn, request):
        if framing == "chunked":
            conn.start_chunked(ctype)
        elif framing == "length":
            conn.head(200, {"Content-Type": ctype, "Content-Length": str(sum(map(len, pieces)))})
        else:
            conn.head(200, {"Content-Type": ctype, "Connection": "close"})
        for piece, gate in zip(pieces, gates):
            gate.wait()
            (conn.chunk if framing == "chunked" else conn.send)(piece)
        if framing == "chunked":
            conn.end_chunks()
        elif framing == "close":
            conn.fin()
    site.oai.on("/v1/chat/completions", handler)
    return gates


def follow(client, reply, pieces, gates):
    for n, (piece, gate) in enumerate(zip(pieces, gates)):
        gate.open()
        reply.read_at_least(sum(map(len, pieces[:n + 1])), PROMPT)
        assert reply.body == b"".join(pieces[:n + 1]), "event %d" % n
    reply.read_rest()
    assert reply.complete and reply.body == b"".join(pieces)


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@pytest.mark.parametrize("ctype", ["text/event-stream", "application/x-ndjson", "application/json", "text/plain"])
def test_each_piece_at_once(site, ctype, framing):
    """A proxy that waits for a full buffer turns a stream of tokens into one late lump."""
    pieces = [sse({"n": n}) for n in range(5)]
    gates = step_stream(site, ctype, pieces, framing)
    client = site.client()
    client.start_post(PATH, {"model": "m-oai", "stream": True})
    reply = client.read_head("POST", PROMPT)  # the head comes before the first event
    assert reply.get("Content-Type") == ctype
    assert reply.framing == ("length" if framing == "length" else "chunked")
    follow(client, reply, pieces, gates)
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


def test_each_piece_at_once_http10(site):
    """The same for nginx in front of us, which speaks HTTP/1.0."""
    pieces = [sse({"n": n}) for n in range(4)]
    gates = step_stream(site, "text/event-stream", pieces)
    client = site.client()
    client.send(request_bytes("POST", PATH, json_headers(), dump({"model": "m-oai"}), version="HTTP/1.0"))
    reply = client.read_head("POST", PROMPT)
    assert reply.framing == "close"
    follow(client, reply, pieces, gates)


def test_single_bytes_at_once(site):
    """Even one byte is worth sending: a half token may be all a slow model has."""
    pieces = [b"%d" % (n % 10) for n in range(20)]
    gates = step_stream(site, "text/event-stream", pieces)
    client = site.client()
    client.start_post(PATH, {"model": "m-oai"})
    follow(client, client.read_head("POST"), pieces, gates)


def test_no_buffering_in_front(site):
    """nginx buffers event streams unless it is told not to."""
    reply = site.proxy.post(PATH, {"model": "m-oai", "stream": True})
    assert reply.get("X-Accel-Buffering") == "no"


def raw_reply(site, pieces, pause=0.002):
    def handler(conn, request):
        for piece in pieces:
            conn.send(piece)
            time.sleep(pause)
    site.oai.on("/v1/chat/completions", handler)
    site.oll.on("/api/chat", handler)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_ndjson_split_and_joined(site):
    """Ollama lines may be cut in the middle or come several at once: the bytes must not change."""
    lines = b"".join(dump({"n": n, "text": "x" * n}) + b"\n" for n in range(40))
    body = chunked(lines, 37)
    raw_reply(site, [HEAD % b"application/x-ndjson"] + split_at(body, 1, 2, 3, 50, 51, 700, 1500))
    reply = site.proxy.post("/olla/ollama/api/chat", {"model": "m-oll"})
    assert reply.complete and reply.body == lines
    assert reply.get("Content-Type") == "application/x-ndjson"


def test_ndjson_without_last_newline_and_error_line(site):
    """An error line after 200 and a last line without newline are Ollama's own words: relay them."""
    lines = dump({"n": 1}) + b"\n" + dump({"error": "model runner has died"})
    raw_reply(site, [HEAD % b"application/x-ndjson" + chunked(lines, 9)])
    reply = site.proxy.post("/api/chat", {"model": "m-oll"})
    assert reply.complete and reply.body == lines


def test_non_streaming_reply_in_chunks(site):
    """Ollama sends long non-stream answers in chunks; they are still one JSON document."""
    document = dump({"message": {"content": "y" * 100000}, "done": True})
    raw_reply(site, [HEAD % b"application/json" + chunked(document, 4096)])
    reply = site.proxy.post("/olla/ollama/api/chat", {"model": "m-oll", "stream": False})
    assert reply.complete and reply.body == document


@pytest.mark.parametrize("body", [b"", b"x", b"0\r\n\r\n", b"\r\n" * 50], ids=["empty", "one", "like-chunks", "crlf"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_odd_small_bodies(site, framing, body):
    """Bodies that look like framing, or are empty, must arrive as they are."""
    heads = {"chunked": HEAD % b"text/plain" + chunked(body, 1), "close": b"HTTP/1.0 200 OK\r\n\r\n" + body,
             "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body}

    def handler(conn, request):
        conn.send(heads[framing])
        if framing == "close":
            conn.fin()
    site.oai.on("/v1/chat/completions", handler)
    client = site.client()
    reply = client.post(PATH, {"model": "m-oai"})
    assert (reply.status, reply.body, reply.complete) == (200, body, True)
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


def test_interim_replies_are_skipped(site):
    """A 100 or 103 of the backend taken for the answer shifts every later answer by one."""
    raw_reply(site, [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\n"
                     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Test: y\r\n\r\nabc"])
    client = site.client()
    reply = client.post(PATH, {"model": "m-oai"})
    assert (reply.status, reply.body, reply.get("X-Test"), reply.get("Link")) == (200, b"abc", "y", None)
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


def test_trailers_are_dropped(site):
    """Trailers are announced by headers we remove; passing them on breaks strict clients."""
    raw_reply(site, [b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
                     b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"])
    client = site.client()
    reply = client.post(PATH, {"model": "m-oai"})  # the client is strict about the final chunk
    assert reply.complete and reply.body == b"abc" and not reply.has("Trailer")
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


# ---- large bodies

BIG = 20 * 1024 * 1024


@pytest.fixture(scope="module")
def big():
    return pattern(BIG, 7)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_upload(site, big, framing):
    """Images make bodies of many megabytes; one lost or doubled block corrupts them."""
    seen = {}
    body = b'{"x":"' + big.hex().encode()[:BIG - 40] + b'","model":"m-oai"}'

    def handler(conn, request):
        seen["digest"] = hashlib.sha256(request.body).hexdigest()
        seen["length"] = request.get_all("Content-Length")
        conn.reply({"n": len(request.body)})
    site.oai.on("/v1/chat/completions", handler)
    client = site.client()
    if framing == "length":
        client.send(request_bytes("POST", PATH, json_headers(), body))
    else:
        client.send(request_bytes("POST", PATH, json_headers({"Transfer-Encoding": "chunked"})) + chunked(body, 65521))
    assert client.read_response("POST", 30).json() == {"n": len(body)}
    assert seen == {"digest": hashlib.sha256(body).hexdigest(), "length": [str(len(body))]}


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_large_download(site, big, framing):
    """The way back, with every framing a backend may use."""
    def handler(conn, request):
        if framing == "length":
            conn.reply(big, ctype="application/octet-stream")
        elif framing == "chunked":
            conn.start_chunked("application/octet-stream")
            for at in range(0, BIG, 100003):
                conn.chunk(big[at:at + 100003])
            conn.end_chunks()
        else:
            conn.head(200, {"Connection": "close", "Content-Type": "application/octet-stream"})
            conn.send(big)
            conn.fin()
    site.oai.on("/v1/chat/completions", handler)
    client = site.client()
    client.start_post(PATH, {"model": "m-oai"})
    reply = client.read_response("POST", 30)
    assert reply.complete
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(big).digest()


@pytest.mark.parametrize("size", [1, 1000, 14000, 15000, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 200000])
def test_body_sizes_around_the_buffers(site, size):
    """Off-by-one faults sit exactly at buffer and block ends."""
    body = dump({"model": "m-oai", "pad": ""})
    body = body[:-2] + b"p" * max(0, size - len(body)) + body[-2:]
    site.oai.on("/v1/chat/completions", lambda c, r: c.reply(r.body[::-1]))
    client = site.client()
    for _ in range(2):
        reply = client.request("POST", PATH, body, json_headers())
        assert reply.status == 200 and reply.body == body[::-1]


# ---- back-pressure

def throttle_backend(backend, total=None):
    """An endless (or total-sized) stream of numbered lines; counts what could be sent."""
    state = {"sent": 0, "done": False, "error": None}

    def handler(conn, request):
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        conn.start_chunked("text/event-stream")
        n = 0
        try:
            while total is None or state["sent"] < total:
                block = b"".join(b"data: %012d\n\n" % (n + i) for i in range(2000))
                n += 2000
                conn.chunk(block)
                state["sent"] += len(block)
            conn.end_chunks()
            state["done"] = True
        except OSError as error:
            state["error"] = error
            raise
    backend.on("/v1/chat/completions", handler)
    return state


def settled(state):
    """The amount sent once it has not grown for 0.7 s."""
    deadline = time.monotonic() + 10
    last, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        if state["sent"] != last:
            last, since = state["sent"], time.monotonic()
        elif time.monotonic() - since > 0.7:
            return last
        time.sleep(0.05)
    raise AssertionError("the backend was never throttled: %d bytes sent" % state["sent"])


def test_slow_reader_throttles_the_backend(world):
    """One client that never reads must cost one buffer, not the machine's memory, and must not stop others."""
    slow = world.backend(OpenAIBackend, "slow", ["m-slow"])
    other = world.backend(OpenAIBackend, "other", ["m-other"])
    total = 40 * 1024 * 1024
    state = throttle_backend(slow, total)
    proxy = world.olla({"slow": slow, "other": other})
    for _ in range(20):
        proxy.post(PATH, {"model": "m-other"})
    before = proxy.rss_kb()
    client = world.client(proxy, rcvbuf=16384)
    client.start_post(PATH, {"model": "m-slow", "stream": True})
    reply = client.read_head("POST")
    sent = settled(state)
    assert sent < 24 * 1024 * 1024, "the stream ran on without a reader"
    quick = world.client(proxy)
    for _ in range(50):
        assert quick.post(PATH, {"model": "m-other"}).status == 200
    assert proxy.rss_kb() - before < 4096, "memory grew by %d KB" % (proxy.rss_kb() - before)
    # the reader wakes up and gets everything, in order
    reply.read_rest(60)
    assert reply.complete and state["done"]
    lines = reply.body.split(b"\n\n")
    assert lines[0] == b"data: %012d" % 0 and lines[-1] == b""
    assert [int(line[6:]) for line in lines[:-1]] == list(range(len(lines) - 1))
    assert proxy.rss_kb() - before < 4096


def test_many_slow_readers(world):
    """With as many slow readers as there are buffers others must still be served."""
    slow = world.backend(OpenAIBackend, "slow", ["m-slow"])
    other = world.backend(OpenAIBackend, "other", ["m-other"])
    throttle_backend(slow)
    proxy = world.olla({"slow": slow, "other": other})
    clients = [world.client(proxy, rcvbuf=8192) for _ in range(40)]
    for client in clients:
        client.start_post(PATH, {"model": "m-slow", "stream": True})
    for client in clients:
        assert client.read_head("POST", 20).status == 200
    time.sleep(0.5)
    for _ in range(10):
        assert proxy.post(PATH, {"model": "m-other"}).status == 200
    for client in clients:
        client.reset()
    world.clients = []
    eventually(lambda: all(call.conn.closed_how for call in slow.calls), "every slow stream was cancelled", 10)


def test_busy_spin_while_throttled(world):
    """A stalled stream must not make the loop spin."""
    slow = world.backend(OpenAIBackend, "slow", ["m-slow"])
    state = throttle_backend(slow)
    proxy = world.olla({"slow": slow})
    client = world.client(proxy, rcvbuf=8192)
    client.start_post(PATH, {"model": "m-slow"})
    client.read_head("POST")
    settled(state)
    before = proxy.cpu_seconds()
    time.sleep(1.5)
    assert proxy.cpu_seconds() - before < 0.75


def test_upload_to_a_backend_that_does_not_read(site):
    """The upload waits in the spool; the answer that comes early must reach the client."""
    done = Gate()

    def handler(conn, request):
        conn.reply({"error": {"message": "image too large"}}, 400)
        done.wait(20)
        conn.rst()
    site.oai.on("/v1/chat/completions", handler, read_body=False)
    body = b'{"model":"m-oai","x":"' + b"a" * (8 << 20) + b'"}'
    client = site.client()
    client.send(request_bytes("POST", PATH, json_headers(), body))
    reply = client.read_response("POST", 15)
    assert reply.status == 400 and reply.json()["error"]["message"] == "image too large"
    done.open()


def test_many_streams_interleaved(site):
    """Bytes of one stream in another one are the worst fault a proxy can have."""
    start = Gate()

    def handler(conn, request):
        name = request.json()["name"]
        conn.start_chunked()
        start.wait(20)
        for n in range(30):
            conn.chunk(openai_chunk("%s-%d" % (name, n)))
        conn.end_chunks()
    site.oai.on("/v1/chat/completions", handler)
    clients = [site.client() for _ in range(40)]
    for n, client in enumerate(clients):
        client.start_post(PATH, {"model": "m-oai", "name": "c%d" % n, "stream": True})
    heads = [client.read_head("POST") for client in clients]
    start.open()
    for n, reply in enumerate(heads):
        reply.read_rest()
        assert reply.complete
        assert reply.body == b"".join(openai_chunk("c%d-%d" % (n, i)) for i in range(30))


def test_long_silence_is_not_a_fault(world):
    """Models think for minutes before the first token; a silent backend is not a dead one."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    backend.on("/v1/chat/completions", lambda c, r: (time.sleep(4), c.reply({"n": 1})))
    proxy = world.olla({"a": backend}, {"server.read_timeout": "1s", "proxy.connection_timeout": "1s", "proxy.read_timeout": "1s"})
    assert proxy.post(PATH, {"model": "m1"}).json() == {"n": 1}
    assert len(backend.calls) == 1, "a slow POST must not be sent twice"


def test_log_of_a_complete_stream(world):
    """Sizes and codes in the log are what operators count with."""
    backend = world.backend(OllamaBackend, "a", ["m1"])
    proxy = world.olla({"a": backend})
    body = {"model": "m1", "stream": True}
    reply = proxy.post("/olla/ollama/api/chat", body, {"X-Request-ID": "log-1"})
    entry = proxy.access("log-1")
    assert (entry["method"], entry["path"], entry["status"], entry["end"]) == ("POST", "/olla/ollama/api/chat", 200, "--")
    assert (entry["endpoint"], entry["model"], entry["attempts"]) == ("a", "m1", 1)
    assert (entry["bytes_in"], entry["bytes_out"]) == (len(dump(body)), len(reply.body))
    assert entry["client"].startswith("127.0.0.1")
    assert 0 <= entry["wait_ms"] <= entry["duration_ms"] < 10000


def test_readers_of_different_speed(site):
    """A slow and a fast reader of the same endpoint: the fast one finishes first."""
    data = pattern(6 << 20, 3)

    def handler(conn, request):
        conn.start_chunked("application/octet-stream")
        for at in range(0, len(data), 65536):
            conn.chunk(data[at:at + 65536])
        conn.end_chunks()
    site.oai.on("/v1/chat/completions", handler)
    slow = site.client(rcvbuf=8192)
    slow.start_post(PATH, {"model": "m-oai"})
    slow_reply = slow.read_head("POST")
    results = []
    fast = threading.Thread(target=lambda: results.append(site.proxy.post(PATH, {"model": "m-oai"})))
    fast.start()
    fast.join(20)
    assert results and results[0].complete and results[0].body == data
    slow_reply.read_rest(30)
    assert slow_reply.complete and slow_reply.body == data
