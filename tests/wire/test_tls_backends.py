"""Backends over TLS: sessions, kept connections, records, how replies end, and what happens when there are too many."""

import hashlib
import json
import signal
import socket
import ssl
import threading
import time

import pytest

from backend import Gate, LlamaBackend, OllamaBackend, OpenAIBackend, eventually, openai_chunk, pattern
from client import dump, json_headers, request_bytes
from harness import World, endpoint, new_id, report
from tls import drip, library, limited, over_tls, secure, tls_backend, trusted, with_little_room

PATH = "/olla/proxy/v1/chat/completions"
LIBRARY = library()
pytestmark = pytest.mark.skipif(not LIBRARY, reason="built without TLS")
WITH_13 = bool(LIBRARY) and LIBRARY >= (3, 6)


class Fleet:
    """One backend with TLS, behind a plain port."""

    def __init__(self, certs):
        self.world, self.certs = World(), certs
        self.a = with_little_room(secure(self.world, certs))
        self.proxy = self.world.olla({"a": trusted(certs, self.a)}, {"proxy.breaker.open_time": "1ms", "proxy.breaker.max_open_time": "1ms",
                                                                     "proxy.retry.max_attempts": 1})

    @property
    def proxies(self):
        return self.world.proxies

    def client(self, **options):
        return self.world.client(self.proxy, **options)


@pytest.fixture
def fleet(kept, certs):
    site = kept(Fleet, certs)
    site.a.forget()
    site.a.shaken, site.a.refused = [], []
    saved, before = dict(site.a.routes), len(site.proxy.logs)
    yield site
    site.world.close_clients()
    site.a.routes = saved
    site.a.unread.clear()
    problems = site.proxy.idle_problems() if site.proxy.alive() else ["olla died: " + site.proxy.describe()]
    problems += site.world.script_failures()
    problems += ["ERROR line in the log: %r" % entry for entry in site.proxy.logs[before:] if entry.get("level") == "ERROR"]
    report(problems)


# ---- sessions and kept connections

@pytest.mark.parametrize("version", ["TLSv1_2"] + (["TLSv1_3"] if WITH_13 else []))
def test_sessions_are_resumed(world, certs, version):
    """One handshake in full, then short ones."""
    backend = secure(world, certs, context=limited(certs.server_context(), version))
    proxy = world.olla({"a": trusted(certs, backend)}, {"proxy.engine": "sherpa"})
    for _ in range(10):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert len(backend.shaken) >= 10
    assert backend.shaken[0] is False and backend.shaken.count(False) <= 2, backend.shaken


def test_without_sessions(world, certs):
    """A backend that forgets everything: each handshake in full."""
    context = limited(certs.server_context(), "TLSv1_2")
    context.options |= ssl.OP_NO_TICKET
    backend = secure(world, certs, context=context)
    proxy = world.olla({"a": trusted(certs, backend)}, {"proxy.engine": "sherpa"})
    for _ in range(5):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
        backend.context = limited(certs.server_context(), "TLSv1_2")
        backend.context.options |= ssl.OP_NO_TICKET


def test_new_keys_at_the_backend(world, certs):
    """The backend restarts with another certificate of the same authority: tickets of the old one do no harm."""
    backend = secure(world, certs)
    proxy = world.olla({"a": trusted(certs, backend)}, {"proxy.engine": "sherpa"})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    backend.context = certs.server_context(certs.good.leaf("second"))
    for _ in range(3):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
    backend.context = certs.server_context(certs.bad.leaf())
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.status == 502


def test_connections_are_kept(fleet):
    """One connection for many requests."""
    for _ in range(20):
        assert fleet.proxy.post(PATH, {"model": "m1"}).status == 200
    assert len({call.conn.index for call in fleet.a.calls}) == 1 and fleet.proxy.status()["idle_upstreams"] == 1


@pytest.mark.parametrize("notifies", [True, False])
def test_backend_closes_a_kept_connection(fleet, notifies):
    """Noticed at once, or by the request that comes too late: the client notices nothing."""
    for _ in range(5):
        assert fleet.proxy.post(PATH, {"model": "m1"}).status == 200
        conn = fleet.a.calls[-1].conn
        conn.sock.notifies = notifies
        conn.fin()
    eventually(lambda: fleet.proxy.status()["idle_upstreams"] == 0, "no connection is kept")


def test_only_close_notify_on_a_kept_connection(fleet):
    """The backend says that it will send nothing more, but leaves the connection open."""
    assert fleet.proxy.post(PATH, {"model": "m1"}).status == 200
    fleet.a.calls[-1].conn.sock.notify()
    eventually(lambda: fleet.proxy.status()["idle_upstreams"] == 0, "no connection is kept")
    assert fleet.proxy.post(PATH, {"model": "m1"}).status == 200


def test_bytes_nobody_asked_for(fleet):
    """What comes behind a reply, in the same record or later, is nobody's answer."""
    def handler(conn, request):
        body = b'{"good":1}'
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
    fleet.a.on("/v1/chat/completions", handler)
    for _ in range(10):
        assert fleet.proxy.post(PATH, {"model": "m1"}).body == b'{"good":1}'


# ---- how replies end

@pytest.mark.parametrize("notifies", [True, False])
def test_complete_by_length(fleet, notifies):
    """What was announced has come: how the connection ends then does not matter."""
    def handler(conn, request):
        conn.sock.notifies = notifies
        conn.reply(b"0123456789", headers={"Connection": "close"})
        conn.fin()
    fleet.a.on("/v1/chat/completions", handler)
    reply = fleet.proxy.post(PATH, {"model": "m1"})
    assert reply.complete and reply.body == b"0123456789"


@pytest.mark.parametrize("notifies", [True, False])
@pytest.mark.parametrize("ctype", ["text/plain", "text/event-stream"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_read_until_close(fleet, notifies, ctype, version):
    """close_notify: that was all of it. Without one anybody may have cut it off, and the client must see that."""
    def handler(conn, request):
        conn.sock.notifies = notifies
        conn.head(200, {"Content-Type": ctype, "Connection": "close"})
        conn.send(b"data: 0123456789\n\n")
        conn.fin()
    fleet.a.on("/v1/chat/completions", handler)
    client, name = fleet.client(), new_id()
    client.send(request_bytes("POST", PATH, json_headers({"X-Request-ID": name}), dump({"model": "m1"}), version=version))
    reply = client.read_head("POST")
    reply.read_rest()
    assert reply.body.startswith(b"data: 0123456789\n\n")
    entry = fleet.proxy.access(name)
    if notifies:
        assert reply.complete and reply.body == b"data: 0123456789\n\n" and entry["end"] == "--"
    else:
        assert entry["end"] == "SD" and not reply.complete


def test_probe_reply_without_close_notify(world, certs):
    """A list that was cut off is no list."""
    backend = secure(world, certs)
    cut = [True]

    def models(conn, request):
        conn.sock.notifies = not cut[0]
        conn.head(200, {"Content-Type": "application/json", "Connection": "close"})
        conn.send(dump(backend.model_list()))
        conn.fin()
    backend.on("/v1/models", models)
    proxy = world.olla({"a": endpoint(backend, **{"tls.ca_file": certs.good.file, "check_interval": "1s", "check_timeout": "500ms"})}, ready=None)
    eventually(lambda: backend.probes, "probed")
    cut[0] = False
    proxy.wait_healthy({"a": 1}, 20)


# ---- bytes

def test_events_arrive_as_they_are_sent(fleet):
    gates = [Gate() for _ in range(5)]

    def handler(conn, request):
        conn.start_chunked()
        for n, gate in enumerate(gates):
            gate.wait()
            conn.chunk(openai_chunk("word %d" % n))
        conn.end_chunks()
    fleet.a.on("/v1/chat/completions", handler)
    client = fleet.client()
    client.start_post(PATH, {"model": "m1", "stream": True})
    reply = client.read_head("POST")
    for n, gate in enumerate(gates):
        gate.open()
        assert b"word %d" % n in reply.read_piece()
    assert reply.read_rest().complete


@pytest.mark.parametrize("size", [1, 100, 16384])
def test_reply_in_records_of_every_size(fleet, size):
    """Head and body cut anywhere, all records sent at once; behind the last one nothing comes that could wake olla."""
    data = pattern(40000, 6)
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nX-Pad: %s\r\n\r\n" % (len(data), b"p" * 3000) + data
    raw = raw if size > 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

    def handler(conn, request):
        conn.sock.raw.sendall(b"".join(conn.sock.seal(raw[at:at + size]) for at in range(0, len(raw), size)))
    fleet.a.on("/v1/chat/completions", handler)
    client = fleet.client(rcvbuf=4096)
    for _ in range(5):
        client.start_post(PATH, {"model": "m1"})
        assert client.read_response("POST").body == raw.partition(b"\r\n\r\n")[2]


def test_large_reply_to_a_slow_client(fleet):
    data = pattern(4 << 20, 8)
    fleet.a.on("/v1/chat/completions", lambda conn, request: conn.reply(data, ctype="application/octet-stream"))
    client = fleet.client(rcvbuf=4096)
    client.start_post(PATH, {"model": "m1"})
    reply = client.read_head("POST")
    time.sleep(0.3)
    assert reply.read_rest(30).body == data


@pytest.mark.parametrize("size", [3000, 200000, 4 << 20])
def test_upload_to_a_slow_backend(fleet, size):
    """Writes that were refused are taken up with the same bytes: what arrives is what was sent, several at the same time."""
    seen, lock = {}, threading.Lock()

    def handler(conn, request):
        time.sleep(0.2)  # until then nothing can be written any more
        request.read_body()
        with lock:
            seen[request.get("X-Number")] = hashlib.sha256(request.body).hexdigest()
        conn.reply({"ok": True})
    fleet.a.on("/v1/chat/completions", handler, read_body=False)
    bodies = {str(n): b'{"model":"m1","x":"' + pattern(size // 2, n).hex().encode() + b'"}' for n in range(4)}
    clients = {n: fleet.client() for n in bodies}

    def upload(n):
        clients[n].send(request_bytes("POST", PATH, json_headers({"X-Number": n}), bodies[n]))
    threads = [threading.Thread(target=upload, args=(n,), daemon=True) for n in bodies]
    for thread in threads:
        thread.start()
    for n, client in clients.items():
        assert client.read_response("POST", 30).json() == {"ok": True}
    for thread in threads:
        thread.join(5)
    assert seen == {n: hashlib.sha256(body).hexdigest() for n, body in bodies.items()}


@pytest.mark.parametrize("how", ["stays", "fin"])
def test_answer_before_the_upload_is_over(fleet, how):
    """A backend that answers without having read all: its answer reaches the client, also when it then closes."""
    done = Gate()

    def handler(conn, request):
        conn.reply({"error": {"message": "image too large"}}, 413, headers={"Connection": "close"})
        if how == "fin":
            conn.sock.shutdown(socket.SHUT_WR)
        done.wait(20)
    fleet.a.on("/v1/chat/completions", handler, read_body=False)
    client = fleet.client()
    body = b'{"model":"m1","x":"' + b"a" * (8 << 20) + b'"}'
    thread = threading.Thread(target=client.try_send, args=(request_bytes("POST", PATH, json_headers(), body),), daemon=True)
    thread.start()
    reply = client.read_response("POST", 15)
    thread.join(10)
    done.open()
    assert reply.status == 413 and reply.json()["error"]["message"] == "image too large"


def test_answer_that_waits_when_writing_fails(fleet):
    """The backend's answer came before it reset the connection, and the next write fails: the answer counts, as without TLS."""
    def handler(conn, request):
        fleet.proxy.signal(signal.SIGSTOP)
        conn.reply({"error": {"message": "image too large"}}, 413, headers={"Connection": "close"})
        conn.sock.raw.close()  # unread bytes of the request make this a reset
        fleet.proxy.signal(signal.SIGCONT)
    fleet.a.on("/v1/chat/completions", handler, read_body=False)
    body = b'{"model":"m1","x":"' + b"a" * (4 << 20) + b'"}'
    for _ in range(5):
        client = fleet.client()
        client.try_send(request_bytes("POST", PATH, json_headers(), body))
        assert client.read_response("POST", 15).status == 413


def test_both_sides(world, certs):
    """Ten megabytes up and down, with TLS on both sides."""
    backend = secure(world, certs)
    data = pattern(10 << 20, 1)

    def handler(conn, request):
        conn.reply(data if hashlib.sha256(request.body).hexdigest() == hashlib.sha256(body).hexdigest() else b"wrong", ctype="application/octet-stream")
    backend.on("/v1/chat/completions", handler)
    proxy = world.olla({"a": trusted(certs, backend)}, certs.server().settings(), connect=over_tls(certs.context()))
    body = b'{"model":"m1","x":"' + pattern(5 << 20, 3).hex().encode() + b'"}'
    with proxy.client() as client:
        client.send(request_bytes("POST", PATH, json_headers(), body))
        assert client.read_response("POST", 30).body == data


# ---- everything else over https

@pytest.mark.parametrize("kind", [OllamaBackend, LlamaBackend])
def test_other_types(world, certs, kind):
    backend = secure(world, certs, kind=tls_backend(kind))
    proxy = world.olla({"a": trusted(certs, backend)})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert [m["id"] for m in proxy.get("/olla/proxy/v1/models").json()["data"]] == ["m1"]


def test_detection(world, certs):
    """type = auto over https."""
    backend = secure(world, certs, kind=tls_backend(OllamaBackend))
    proxy = world.olla({"a": trusted(certs, backend, type="auto")})
    assert proxy.endpoint("a")["detected_type"] == "ollama"


def test_health_check_on_another_host(world, certs):
    """It has its own name to be believed by; tls.server_name is the main host's."""
    backend = secure(world, certs, pair=certs.good.leaf(san="DNS:llm.internal.test"))
    health = secure(world, certs, "health", [], named="localhost", pair=certs.good.leaf(san="DNS:localhost"))
    keys = {"tls.server_name": "llm.internal.test", "health_check_url": health.url + "/health", "check_interval": "1s", "check_timeout": "500ms"}
    proxy = world.olla({"a": trusted(certs, backend, **keys)})
    assert proxy.post(PATH, {"model": "m1"}).status == 200 and health.probes
    health.context = certs.server_context(certs.good.leaf(san="DNS:llm.internal.test"))
    health.context.options |= ssl.OP_NO_TICKET
    eventually(lambda: "another name" in json.dumps(proxy.endpoint("a")), "the health host is no longer believed", 10, 0.05)


def test_messages_over_https(world, certs):
    """Anthropic's API in front of an OpenAI backend that speaks TLS."""
    backend = secure(world, certs)
    words = ["over", " the", " wire"]

    def handler(conn, request):
        conn.start_chunked()
        for word in words:
            conn.chunk(openai_chunk(word))
        conn.chunk(b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()
    backend.on("/v1/chat/completions", handler)
    proxy = world.olla({"a": trusted(certs, backend)})
    reply = proxy.post("/olla/anthropic/v1/messages", {"model": "m1", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
    assert reply.status == 200 and reply.complete
    assert b"".join(word.encode() for word in words) == b"".join(
        json.loads(line[6:])["delta"]["text"].encode() for line in reply.body.split(b"\n") if line.startswith(b"data: ") and b"text_delta" in line)
    assert b"message_stop" in reply.body


ASK = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
AGREE = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]


@pytest.mark.parametrize("both", [False, True])
def test_tunnel(world, certs, both):
    """Bytes both ways, with TLS on the backend's side or on both."""
    def echo(conn, request):
        conn.head(101, AGREE, "Switching Protocols")
        while True:
            if conn.buf:
                data, conn.buf = conn.buf, b""
                conn.send(data)
            conn._fill()
    backend = secure(world, certs)
    backend.on("/v1/realtime", echo)
    settings = certs.server().settings() if both else {}
    proxy = world.olla({"a": trusted(certs, backend)}, settings, **({"connect": over_tls(certs.context())} if both else {}))
    client = world.client(proxy)
    client.send(request_bytes("GET", "/v1/realtime?model=m1", ASK) + b"ahead")
    assert client.read_head().status == 101 and client.read_exact(5) == b"ahead"
    data = pattern(1 << 20, 4)
    thread = threading.Thread(target=client.send, args=(data,), daemon=True)
    thread.start()
    assert client.read_exact(len(data), 20) == data
    thread.join(5)
    backend.calls[-1].conn.fin()
    assert client.read_eof() == b""
    assert not both or client.sock.ended == "notify"


@pytest.mark.skipif(not WITH_13, reason="this library has no TLS 1.3")
def test_tickets_while_writing_waits(world, certs):
    """TLS 1.3: the tickets come when what olla sends has filled every buffer on its way. The library has to finish the record
    it was writing in order to read them, and no byte may be lost or sent twice for that. (They come byte by byte, because
    each of them makes olla try to write, until really nothing more can be written.)"""
    backend = with_little_room(secure(world, certs, context=limited(certs.server_context(), "TLSv1_3")))
    text = pattern(6 << 20, 2).hex()

    def handler(conn, request):
        time.sleep(0.7)  # until then nothing can be written any more
        tickets = conn.sock.tickets
        assert len(tickets) > 100
        drip(conn.sock.raw, 0.003)(tickets)
        request.read_body()
        assert request.json()["messages"][0]["content"] == text
        OpenAIBackend.chat(backend, conn, request)
    backend.on("/v1/chat/completions", handler, read_body=False)
    proxy = world.olla({"a": trusted(certs, backend)}, {"proxy.engine": "sherpa"})
    backend.keeps_tickets = True
    for _ in range(2):
        reply = proxy.post("/olla/anthropic/v1/messages", {"model": "m1", "max_tokens": 9, "messages": [{"role": "user", "content": text}]})
        assert reply.status == 200, reply.body


# ---- more of them than engines

def test_more_than_there_are_engines(world, certs):
    """OLLA_MAX_TLS_UPSTREAMS connections at one time; who comes on top gets a 503 with Retry-After. The endpoint is not to
    blame: it stays healthy, also when it is probed meanwhile."""
    backend = secure(world, certs)
    gate = Gate()

    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        gate.wait(30)
        conn.end_chunks()
    backend.on("/v1/chat/completions", handler)
    proxy = world.olla({"a": endpoint(backend, **{"tls.ca_file": certs.good.file, "check_interval": "1s", "check_timeout": "900ms"})},
                       {"proxy.retry.max_attempts": 1})
    limit = proxy.pool("tls_upstreams")["count"]
    clients = [world.client(proxy) for _ in range(limit + 40)]
    for client in clients:
        client.start_post(PATH, {"model": "m1", "stream": True})
    heads = [client.read_head("POST", 20) for client in clients]
    codes = [head.status for head in heads]
    assert set(codes) == {200, 503}, {code: codes.count(code) for code in codes}
    assert codes.count(200) >= limit - 8
    refused = heads[codes.index(503)]
    assert refused.has("Retry-After") and b"no free connection" in refused.read_rest().body
    probed = len(backend.probes)
    proxy_state = [proxy.endpoint("a")["status"]]
    time.sleep(2.5)
    proxy_state.append(proxy.endpoint("a")["status"])
    gate.open()
    for head in heads:
        assert head.read_rest(20).complete
    assert proxy_state == ["healthy", "healthy"], (proxy.endpoint("a"), len(backend.probes) - probed)
    assert proxy.post(PATH, {"model": "m1"}).status == 200


def test_idle_connections_make_room(world, certs):
    """All engines are idle connections to one endpoint: another one is served."""
    backend, other = secure(world, certs), secure(world, certs, "b", ["m2"])
    gate = Gate()

    def handler(conn, request):
        gate.wait(30)
        conn.reply({"ok": True})
    backend.on("/v1/chat/completions", handler)
    proxy = world.olla({"a": trusted(certs, backend), "b": trusted(certs, other)})
    pool = proxy.pool("tls_upstreams")
    clients = [world.client(proxy) for _ in range(pool["count"] - 8)]
    for client in clients:
        client.start_post(PATH, {"model": "m1"})
    backend.wait_calls(len(clients), 20)
    gate.open()
    for client in clients:
        assert client.read_response("POST").status == 200
    for n in range(12):
        reply = proxy.post(PATH, {"model": "m2"})
        assert reply.status == 200
        backend.on("/v1/chat/completions", lambda c, r: c.reply({"ok": True}))
    proxy.reload({})
    eventually(lambda: proxy.pool("tls_upstreams")["used"] == 0, "all engines are free")
