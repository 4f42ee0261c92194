"""Clients over TLS: the handshake, records of every size, and how connections end."""

import hashlib
import ssl
import threading

import pytest

from backend import Gate, OpenAIBackend, eventually, hold, openai_chunk, pattern
from client import Closed, dump, json_headers, request_bytes
from harness import World, new_id, rarely_probed, report
from tls import TlsClient, drip, free_port, library, over_tls, raw_connect, records

PATH = "/olla/proxy/v1/chat/completions"
STREAM = {"model": "m1", "stream": True}
LIBRARY = library()
pytestmark = pytest.mark.skipif(not LIBRARY, reason="built without TLS")
WITH_13 = bool(LIBRARY) and LIBRARY >= (3, 6)
VERSIONS = ["TLSv1_2"] + (["TLSv1_3"] if WITH_13 else [])


class Https:
    """A proxy with a plain port and one with TLS."""

    def __init__(self, certs):
        self.world, self.certs = World(), certs
        self.oai = self.world.backend(OpenAIBackend, "oai", ["m1"])
        self.tls_port = free_port()
        self.proxy = self.world.olla({"oai": rarely_probed(self.oai, **{"max_concurrent": 0})},
                                     dict(certs.server().settings(), **{"server.tls.port": self.tls_port, "proxy.breaker.open_time": "1ms",
                                                                        "proxy.breaker.max_open_time": "1ms"}))

    @property
    def proxies(self):
        return self.world.proxies

    def context(self, version=None):
        context = self.certs.context()
        if version:
            context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
        return context

    def client(self, context=None, **options):
        client = TlsClient(self.tls_port, context or self.context(), **options)
        self.world.clients.append(client)
        return client

    def served(self):
        with TlsClient(self.tls_port, self.context()) as client:
            return client.request("GET", "/internal/health").status == 200


@pytest.fixture
def https(kept, certs):
    """The shared proxy; pools and log are checked after each test."""
    site = kept(Https, certs)
    site.oai.forget()
    saved, before = dict(site.oai.routes), len(site.proxy.logs)
    yield site
    site.world.close_clients()
    site.oai.routes = saved
    site.oai.unread.clear()
    problems = site.proxy.idle_problems() if site.proxy.alive() else ["olla died: " + site.proxy.describe()]
    problems += site.world.script_failures()
    problems += ["ERROR line in the log: %r" % entry for entry in site.proxy.logs[before:] if entry.get("level") == "ERROR"]
    report(problems)


# ---- the handshake

@pytest.mark.parametrize("version", VERSIONS)
def test_versions(https, version):
    """The certificate is right, http/1.1 is agreed on, the cipher keeps what was said secret for good."""
    context = https.context(version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = https.client(context)
    assert client.engine.version() == version.replace("_", ".")
    assert client.engine.selected_alpn_protocol() == "http/1.1"
    name, _, bits = client.engine.cipher()
    assert bits >= 128 and ("GCM" in name or "POLY1305" in name), name
    assert version == "TLSv1_3" or name.startswith("ECDHE-"), name
    assert client.request("GET", "/internal/health").status == 200


def test_without_alpn_and_without_a_name(https):
    """Both are optional: old clients send neither."""
    context = https.context()
    client = https.client(context, name="127.0.0.1")  # no name is sent for an address
    assert client.engine.selected_alpn_protocol() is None
    assert client.request("GET", "/internal/health").status == 200


def test_another_protocol_is_refused(https):
    """Whoever can do HTTP/2 only must not be answered in HTTP/1.1."""
    context = https.context()
    context.set_alpn_protocols(["h2"])
    with pytest.raises(OSError):
        https.client(context)
    assert https.served()


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_are_refused(https, version):
    """The client's own library would do it: it is olla that says no, with the alert for it."""
    context = https.context(version)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version|handshake.failure"):
        https.client(context)
    assert https.served()


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES256-CCM8"])
def test_weak_ciphers_are_refused(https, cipher):
    context = https.context("TLSv1_2")
    context.set_ciphers(cipher + ":@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="(?i)handshake.failure"):
        https.client(context)
    assert https.served()


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"])
def test_rsa_certificate(world, certs, cipher):
    """Works, with a chain of forward-secret suites only: keys that the certificate's own key could open are refused."""
    proxy = world.olla({}, certs.good.leaf(kind="rsa2048").settings(), connect=over_tls(certs.context()))
    with proxy.client() as client:
        assert client.request("GET", "/internal/health").status == 200
    context = certs.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher + ":@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="(?i)handshake.failure"):
        proxy.client(context=context)


@pytest.mark.parametrize("version", VERSIONS)
def test_resumption(https, version):
    """The second connection needs no certificate; neither does one after a reload."""
    context = https.context(version)
    first = https.client(context)
    assert first.request("GET", "/internal/health").status == 200  # tickets of TLS 1.3 come with it
    session = first.engine.session
    assert not first.engine.session_reused and session.has_ticket
    second = https.client(context, session=session)
    assert second.engine.session_reused
    assert second.request("GET", "/internal/health").status == 200


def test_a_strange_ticket_is_no_obstacle(https, world, certs):
    """A ticket of another server, or of olla before its restart: a full handshake."""
    other = world.olla({}, certs.server().settings(), connect=over_tls(certs.context()))
    context = https.context("TLSv1_2")
    with TlsClient(other.port, context) as client:
        session = client.engine.session
    client = https.client(context, session=session)
    assert not client.engine.session_reused
    assert client.request("GET", "/internal/health").status == 200


def test_handshake_byte_by_byte(https):
    """Each byte of the handshake in a segment of its own."""
    client = https.client(slowly=True)
    assert client.request("GET", "/internal/health").status == 200


@pytest.mark.parametrize("garbage", range(9))
def test_garbage(https, garbage):
    """Whatever comes instead of a handshake ends this connection and no other."""
    garbage = [b"\x16\x03\x01\xff\xff" + b"\0" * 600, b"\x80\x2e\x01\x03\x01" + b"\1" * 80, bytes(300), b"\x16", b"\x16\x03\x01\x00\x05\x01\x00\x00",
               b"\x15\x03\x01\x00\x02\x02\x28", b"\x17\x03\x03\x00\x10" + b"x" * 16, pattern(5000, 7), b"get / http/1.1\r\n\r\n"][garbage]
    stream = https.client()
    gate = Gate()

    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        gate.wait()
        conn.chunk(openai_chunk("two"))
        conn.end_chunks()
    https.oai.on("/v1/chat/completions", handler)
    stream.start_post(PATH, STREAM)
    reply = stream.read_head("POST")
    sock = raw_connect(https.tls_port)
    try:
        sock.sendall(garbage)
        sock.shutdown(1)
        while sock.recv(4096):
            pass
    except OSError:
        pass
    sock.close()
    gate.open()
    assert reply.read_rest().complete and b"two" in reply.body


@pytest.mark.parametrize("request_", [request_bytes("GET", "/internal/health"), request_bytes("POST", PATH, json_headers(), dump(STREAM)),
                                      request_bytes("POST", PATH, json_headers(), b'{"x":"' + b"a" * 300000 + b'"}'), b"OPTIONS * HTTP/1.1\r\n\r\n"])
def test_plain_http_is_told_off(https, request_):
    """Somebody forgot the s: an answer in plain words, in plain HTTP."""
    with https.proxy.connect(https.tls_port) as client:
        client.try_send(request_)
        reply = client.read_response("POST")
        assert reply.status == 400 and b"https://" in reply.body
        assert reply.get("Connection") == "close" and client.read_eof() == b""
    assert not https.oai.calls


def test_plain_http_letter_by_letter(https):
    with https.proxy.connect(https.tls_port) as client:
        client.send_pieces([bytes([byte]) for byte in request_bytes("GET", "/internal/health")])
        reply = client.read_response()
        assert reply.status == 400 and b"TLS" in reply.body


# ---- bytes

def test_keep_alive_and_both_ports(https):
    """Many requests on one connection, and the plain port goes on speaking plain HTTP."""
    client = https.client()
    for _ in range(20):
        assert client.post(PATH, {"model": "m1"}).json()["served_by"] == "oai"
    assert https.proxy.post(PATH, {"model": "m1"}).status == 200
    assert len({call.conn.index for call in https.oai.calls}) < 5


def test_forwarded_proto(https):
    https.client().post(PATH, {"model": "m1"})
    https.proxy.post(PATH, {"model": "m1"})
    assert [call.get_all("X-Forwarded-Proto") for call in https.oai.wait_calls(2)] == [["https"], ["http"]]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_small_records(https, size):
    """A request in many records, each sent on its own."""
    client = https.client()
    raw = request_bytes("POST", PATH, json_headers({"X-Pad": "p" * 900}), dump({"model": "m1", "pad": "x" * 300}))
    for at in range(0, len(raw), size):
        client.sock.raw.sendall(client.sock.seal(raw[at:at + size]))
    assert client.read_response("POST").json()["served_by"] == "oai"


def test_many_records_at_once(https):
    """A hundred pipelined requests, each byte of them in a record of its own, in one go."""
    client = https.client()
    raw = request_bytes("GET", "/internal/health") * 100
    sealed = b"".join(client.sock.seal(raw[at:at + 1]) for at in range(len(raw)))
    thread = threading.Thread(target=client.sock.raw.sendall, args=(sealed,), daemon=True)
    thread.start()
    for _ in range(100):
        assert client.read_response().status == 200
    thread.join(10)


def test_records_cut_anywhere(https):
    """The bytes of one record arrive one by one."""
    client = https.client()
    drip(client.sock.raw, 0.0005)(client.sock.seal(request_bytes("POST", PATH, json_headers(), dump({"model": "m1"}))))
    assert client.read_response("POST").status == 200


@pytest.mark.parametrize("before", [0, 1, 300, 5000])
def test_one_record_larger_than_the_room(https, before):
    """What does not fit in olla's block waits in the library, and no byte that follows on the wire tells of it: a head that
    has partly come, then one record of the largest size with the rest and with many more requests."""
    raw = request_bytes("POST", PATH, json_headers({"X-Pad": "p" * 6000}), dump({"model": "m1"}))
    one = request_bytes("POST", PATH, json_headers(), dump({"model": "m1", "pad": "x" * 200}))
    count = 1 + (16384 + before - len(raw)) // len(one)
    raw += one * (count - 1)
    client = https.client()
    if before:
        client.send(raw[:before])
        https.proxy.get("/internal/health")  # olla had its turn
    sealed = client.sock.seal(raw[before:])
    assert len(records(sealed)) == 1 and len(raw) - before > 16384 - len(one)
    client.sock.raw.sendall(sealed)
    for _ in range(count):
        assert client.read_response("POST").status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_upload(https, framing):
    """Ten megabytes that are spooled, byte for byte; an answer with their hash."""
    seen = []

    def handler(conn, request):
        seen.append(hashlib.sha256(request.body).hexdigest())
        conn.reply({"ok": True})
    https.oai.on("/v1/chat/completions", handler)
    body = b'{"model":"m1","x":"' + pattern(5 << 20, 3).hex().encode() + b'"}'
    client = https.client()
    if framing == "length":
        client.send(request_bytes("POST", PATH, json_headers(), body))
    else:
        client.send(request_bytes("POST", PATH, json_headers({"Transfer-Encoding": "chunked"})))
        for at in range(0, len(body), 50000):
            piece = body[at:at + 50000]
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
    assert client.read_response("POST", 30).json() == {"ok": True}
    assert seen == [hashlib.sha256(body).hexdigest()]
    assert client.request("GET", "/internal/health").status == 200


@pytest.mark.parametrize("options", [{}, {"rcvbuf": 4096}])
def test_large_download(https, options):
    """Also by a client with next to no room: writes that are refused are taken up again where they were."""
    data = pattern(3 << 20, 5)
    https.oai.on("/v1/chat/completions", lambda conn, request: conn.reply(data, ctype="application/octet-stream"))
    client = https.client(**options)
    client.start_post(PATH, {"model": "m1"})
    reply = client.read_response("POST", 30)
    assert reply.complete and reply.body == data


def test_events_arrive_as_they_are_sent(https):
    """No event waits for the next one."""
    gates = [Gate() for _ in range(5)]

    def handler(conn, request):
        conn.start_chunked()
        for n, gate in enumerate(gates):
            gate.wait()
            conn.chunk(openai_chunk("word %d" % n))
        conn.end_chunks()
    https.oai.on("/v1/chat/completions", handler)
    client = https.client()
    client.start_post(PATH, STREAM)
    reply = client.read_head("POST")
    for n, gate in enumerate(gates):
        gate.open()
        assert b"word %d" % n in reply.read_piece()
    assert reply.read_rest().complete


def test_a_stream_while_the_client_sends_ahead(https):
    """Records that come during a reply wait, however many they are, and are answered after it."""
    gate = Gate()

    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        gate.wait()
        conn.chunk(openai_chunk("two"))
        conn.end_chunks()
    https.oai.on("/v1/chat/completions", handler)
    client = https.client()
    client.start_post(PATH, STREAM)
    reply = client.read_head("POST")
    ahead = request_bytes("GET", "/internal/health", {"X-Pad": "p" * 3000})
    thread = threading.Thread(target=client.send, args=(ahead * 60,), daemon=True)
    thread.start()
    reply.read_piece()
    gate.open()
    assert reply.read_rest().complete
    for _ in range(60):
        assert client.read_response().status == 200
    thread.join(10)


def test_slow_reader_slows_the_backend(https):
    """A client that does not read costs one buffer, and its backend waits."""
    state = {"sent": 0}
    piece = pattern(65536, 9)

    def handler(conn, request):
        conn.head(200, {"Content-Type": "application/octet-stream", "Content-Length": 600 * len(piece)})
        for _ in range(600):
            conn.send(piece)
            state["sent"] += len(piece)
    https.oai.on("/v1/chat/completions", handler)
    https.served()
    before = https.proxy.rss_kb()
    client = https.client(rcvbuf=16384)
    client.start_post(PATH, {"model": "m1"})
    reply = client.read_head("POST")
    last = [-1]

    def settled():
        last.append(state["sent"])
        return len(last) > 20 and len(set(last[-20:])) == 1
    eventually(settled, "the backend waits", 20, 0.03)
    assert state["sent"] < 24 << 20
    assert https.proxy.rss_kb() - before < 4096
    assert https.served()
    assert reply.read_rest(30).complete and reply.body == piece * 600
    assert https.proxy.rss_kb() - before < 4096


def test_chain(world, certs):
    """cert_file holds the certificates that the first one depends on, too."""
    pair = certs.good.chain(certs.between.leaf(), certs.between.file)
    proxy = world.olla({}, pair.settings(), connect=over_tls(certs.context()))
    assert proxy.get("/internal/health").status == 200


def test_idle_clients_are_let_go(world, certs):
    """Properly, also those that have said nothing after their handshake; half a head is answered first."""
    context = certs.context()
    proxy = world.olla({}, dict(certs.server().settings(), **{"server.idle_timeout": "1s", "server.read_header_timeout": "1s"}), connect=over_tls(context))
    clients = [world.client(proxy) for _ in range(3)]
    assert clients[0].request("GET", "/internal/health").status == 200
    clients[1].send(b"GET /internal/health HTT")
    assert clients[1].read_response().status == 408
    for client in clients:
        assert client.read_eof(10) == b"" and client.sock.ended == "notify"


def test_why_a_handshake_failed_is_in_the_log(world, certs):
    proxy = world.olla({}, dict(certs.server().settings(), **{"logging.level": "debug"}), connect=over_tls(certs.context()))
    with raw_connect(proxy.port) as sock:
        sock.sendall(b"\x16\x03\x01\xff\xff" + bytes(600))
        proxy.wait_log("TLS handshake failed", client="127.0.0.1")
    entry = proxy.find_logs("TLS handshake failed")[-1]
    assert entry["level"] == "DEBUG" and entry["reason"]


# ---- how connections end

@pytest.mark.parametrize("how", ["notify", "fin", "rst", "quiet fin"])
def test_client_leaves_in_mid_stream(https, how):
    """However it goes, the backend is told to stop."""
    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        hold(conn, request)
    https.oai.on("/v1/chat/completions", handler)
    client = https.client()
    client.start_post(PATH, STREAM)
    client.read_head("POST").read_piece()
    conn = https.oai.wait_calls(1)[0].conn
    if how == "notify":
        client.sock.notify()
    elif how == "fin":
        client.half_close()
    elif how == "rst":
        client.sock.raw.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: close sends a reset
        client.close()
    else:
        client.sock.notifies = False
        client.half_close()
    eventually(lambda: conn.closed_how, "the backend's connection is closed")


@pytest.mark.parametrize("notifies", [True, False])
def test_client_leaves_between_requests(https, notifies):
    """The place is free again."""
    clients = [https.client() for _ in range(5)]
    for client in clients:
        assert client.request("GET", "/internal/health").status == 200
        client.sock.notifies = notifies
        client.half_close()
    for client in clients:
        assert client.read_eof() == b""
    eventually(lambda: https.proxy.pool("tls_clients")["used"] == 0, "all engines are free")


def test_half_a_request_and_the_end(https):
    """A body that ends before its length, by close_notify or without one, is never passed on."""
    for notifies in (True, False):
        client = https.client()
        client.send(request_bytes("POST", PATH, json_headers({"Content-Length": 100}), b'{"model":"m1"'))
        client.sock.notifies = notifies
        client.half_close()
        client.read_eof()
    assert https.served() and not https.oai.calls


def test_replies_that_close_end_properly(https):
    """close_notify comes before the end of the connection: nothing was cut off."""
    client = https.client()
    reply = client.request("POST", PATH, dump({"model": "m1"}), json_headers({"Connection": "close"}))
    assert reply.status == 200 and reply.complete and client.read_eof() == b""
    assert client.sock.ended == "notify"
    client = https.client()
    client.send(b"BROKEN\r\n\r\n")
    assert client.read_response().status == 400 and client.read_eof() == b"" and client.sock.ended == "notify"


def test_old_clients_reply_ends_with_the_connection(https):
    """HTTP/1.0: only the end tells that the reply is whole, so it has to be a proper end."""
    def handler(conn, request):
        conn.start_chunked("text/plain")
        for _ in range(200):
            conn.chunk(b"0123456789" * 300)
        conn.end_chunks()
    https.oai.on("/v1/chat/completions", handler)
    client = https.client(rcvbuf=8192)
    client.send(request_bytes("POST", PATH, json_headers(), dump({"model": "m1"}), version="HTTP/1.0"))
    reply = client.read_response("POST", 20)
    assert reply.framing == "close" and reply.body == b"0123456789" * 60000 and client.sock.ended == "notify"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_reply_that_was_cut_never_looks_whole(https, version, framing, how):
    gate = Gate()
    heads = {"length": {"Content-Length": 100}, "chunked": {"Transfer-Encoding": "chunked"}, "close": {"Connection": "close"}}

    def handler(conn, request):
        conn.head(200, dict(heads[framing], **{"Content-Type": "text/plain"}))
        conn.chunk("0123456789") if framing == "chunked" else conn.send("0123456789")
        gate.wait()
        getattr(conn, how)()
    https.oai.on("/v1/chat/completions", handler)
    client = https.client()
    name = new_id()
    client.send(request_bytes("POST", PATH, json_headers({"X-Request-ID": name}), dump({"model": "m1"}), version=version))
    reply = client.read_head("POST")
    reply.read_at_least(10)
    gate.open()
    if framing == "close" and how == "fin":
        assert reply.read_rest().complete  # nobody can know better
        return
    try:
        reply.read_rest()
        client.read_eof()
    except Closed:
        pass
    assert reply.body == b"0123456789"
    looks_whole = reply.complete if reply.framing != "close" else client.sock.ended == "notify"
    assert not looks_whole, client.sock.ended
    assert https.proxy.access(name)["end"][0] == "S"


# ---- WebSocket

ASK = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
AGREE = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]


def echo(conn, request):
    conn.head(101, AGREE, "Switching Protocols")
    while True:
        if conn.buf:
            data, conn.buf = conn.buf, b""
            conn.send(data)
        conn._fill()


def test_tunnel(https):
    """Bytes both ways, also more than there is room for, until one side ends."""
    https.oai.on("/v1/realtime", echo)
    client = https.client()
    client.send(request_bytes("GET", "/v1/realtime?model=m1", ASK) + b"ahead")
    assert client.read_head().status == 101 and client.read_exact(5) == b"ahead"
    data = pattern(1 << 20, 4)
    thread = threading.Thread(target=client.send, args=(data,), daemon=True)
    thread.start()
    assert client.read_exact(len(data), 20) == data
    thread.join(5)
    client.half_close()
    assert client.read_eof() == b""
