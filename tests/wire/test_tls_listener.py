"""Clients over TLS: the handshake, records of every size, how connections end, and reloads of the certificate."""

import hashlib
import json
import shutil
import signal
import ssl
import threading

import pytest

from backend import Gate, OpenAIBackend, eventually, hold, openai_chunk, pattern
from client import Closed, dump, json_headers, request_bytes
from harness import World, endpoint, new_id, rarely_probed, report
from tls import Pair, TlsClient, drip, free_port, library, over_tls, raw_connect, records

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
    proxy = world.olla({}, certs.good.leaf(kind="rsa").settings(), connect=over_tls(certs.context()))
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


# ---- one port, keys, limits

def test_one_port_speaks_tls(world, certs):
    """server.tls.port = 0: the whole surface over TLS, status included."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": backend}, certs.server().settings(), connect=over_tls(certs.context()))
    assert proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "a"
    assert proxy.wait_log("listening")["protocol"] == "https"


def test_keys_over_tls(world, certs):
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    secret = "sk-olla-" + "k" * 32
    proxy = world.olla({"a": backend}, dict(certs.server().settings(), **{"key:alice.secret": secret}), ready=None, connect=over_tls(certs.context()))
    proxy.check_idle_at_end = False  # the status wants a key, too
    assert proxy.post(PATH, {"model": "m1"}).status == 401
    eventually(lambda: proxy.post(PATH, {"model": "m1"}, {"Authorization": "Bearer " + secret}).status == 200, "the key opens")


def test_connections_per_client(world, certs):
    """Half-open handshakes count, too."""
    port = free_port()
    proxy = world.olla({}, dict(certs.server().settings(), **{"server.tls.port": port, "server.access.max_connections_per_client": 4}))
    eventually(lambda: proxy.pool("clients")["used"] == 1, "nobody but the question is connected")
    idle = [raw_connect(port) for _ in range(3)]
    world.clients += idle
    with TlsClient(port, certs.context()) as client:
        assert client.request("GET", "/internal/health").status == 200
        with pytest.raises(OSError):
            TlsClient(port, certs.context())
    for sock in idle:
        sock.close()

    def gone():
        try:
            return proxy.pool("tls_clients")["used"] == 0
        except (OSError, Closed):
            return False  # they have not left yet, and the question is one too many
    eventually(gone, "all engines are free")


def test_addresses_that_may_not_connect(world, certs):
    """They are not even given a handshake."""
    proxy = world.olla({}, dict(certs.server().settings(), **{"server.access.allowed_cidrs": "10.0.0.0/8"}), listen=False)
    proxy.check_idle_at_end = False
    proxy.wait_log("listening")
    with pytest.raises(OSError):
        TlsClient(proxy.port, certs.context())
    proxy.wait_log("connection closed, its peer may not connect", client="127.0.0.1")


# ---- reload

def common_name(port, context):
    with TlsClient(port, context) as client:
        assert client.request("GET", "/internal/health").status == 200
        return dict(part[0] for part in client.engine.getpeercert()["subject"])["commonName"]


class Served:
    """Two files that a test puts other certificates into."""

    def __init__(self, world, certs, folder, **settings):
        self.certs, self.pair = certs, Pair(folder / "cert.pem", folder / "key.pem")
        self.put(certs.good.leaf("first"))
        self.port = free_port()
        self.settings = dict(self.pair.settings(), **dict({"server.tls.port": self.port}, **settings))
        self.backend = world.backend(OpenAIBackend, "a", ["m1"])
        self.endpoints = {"a": rarely_probed(self.backend)}
        self.proxy = world.olla(self.endpoints, self.settings)

    def put(self, pair):
        shutil.copy(pair.cert, self.pair.cert)
        shutil.copy(pair.key, self.pair.key)

    def reload(self, refused=False):
        msg = "reload refused, the old configuration stays in force" if refused else "configuration reloaded"
        before = len(self.proxy.find_logs(msg))
        self.proxy.signal(signal.SIGHUP)
        eventually(lambda: len(self.proxy.find_logs(msg)) > before, msg)

    def name(self):
        return common_name(self.port, self.certs.context())


def test_reload_of_the_certificate(world, certs, tmp_path):
    """New connections get the new one at once; a stream goes on with the old one, and so does a kept connection."""
    served = Served(world, certs, tmp_path)
    gate = Gate()

    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        gate.wait()
        conn.chunk(openai_chunk("two"))
        conn.end_chunks()
    served.backend.on("/v1/chat/completions", handler)
    context = certs.context()
    stream, kept = TlsClient(served.port, context), TlsClient(served.port, context)
    world.clients += [stream, kept]
    stream.start_post(PATH, STREAM)
    reply = stream.read_head("POST")
    assert kept.request("GET", "/internal/health").status == 200
    assert served.name() == "first"
    for n in range(6):  # more of them than certificates are kept at one time
        served.put(certs.good.leaf("number %d" % n))
        served.reload()
        assert served.name() == "number %d" % n
    gate.open()
    assert reply.read_rest().complete and b"two" in reply.body
    assert kept.request("GET", "/internal/health").status == 200


def test_reload_with_too_many_old_ones_in_use(world, certs, tmp_path):
    """Each certificate still has its stream: the reload says so, and works when some have ended."""
    served = Served(world, certs, tmp_path)
    served.proxy.allowed_errors = True
    clients, refused = [], False
    for n in range(8):
        client = TlsClient(served.port, certs.context())
        assert client.request("GET", "/internal/health").status == 200
        clients.append(client)
        served.put(certs.good.leaf("number %d" % n))
        before = len(served.proxy.find_logs("configuration reloaded"))
        served.proxy.signal(signal.SIGHUP)
        eventually(lambda: len(served.proxy.find_logs("configuration reloaded")) > before or
                   served.proxy.find_logs("reload refused, the old configuration stays in force"), "an end of the reload")
        refused = bool(served.proxy.find_logs("reload refused, the old configuration stays in force"))
        if refused:
            break
    assert refused and n >= 2
    assert any("earlier certificates" in json.dumps(entry) for entry in served.proxy.logs)
    for client in clients:
        assert client.request("GET", "/internal/health").status == 200
        client.close()
    eventually(lambda: served.proxy.pool("tls_clients")["used"] == 0, "they have left")
    served.reload()
    assert served.name() == "number %d" % n


@pytest.mark.parametrize("what", ["no cert", "garbage", "other key", "no key", "empty", "half"])
def test_broken_certificate_at_reload(world, certs, tmp_path, what):
    """The reload is refused with a sentence, the old one goes on being served."""
    served = Served(world, certs, tmp_path)
    served.proxy.allowed_errors = True
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    if what == "no cert":
        cert.unlink()
    elif what == "garbage":
        cert.write_text("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")
    elif what == "other key":
        shutil.copy(certs.good.leaf("second").key, key)
    elif what == "no key":
        key.unlink()
    elif what == "empty":
        cert.write_text("")
    else:
        cert.write_text(cert.read_text()[:300])
    served.reload(refused=True)
    assert any(entry["level"] == "ERROR" and ("cert_file" in json.dumps(entry) or "key_file" in json.dumps(entry)) for entry in served.proxy.logs)
    assert served.name() == "first"
    served.put(certs.good.leaf("second"))
    served.reload()
    assert served.name() == "second"


@pytest.mark.parametrize("what", ["missing", "no key", "other key"])
def test_broken_certificate_at_start(world, certs, tmp_path, what):
    """It does not start, and says why."""
    pair = certs.server()
    settings = {"missing": Pair(tmp_path / "none.pem", pair.key).settings(), "no key": {"server.tls.enabled": True, "server.tls.cert_file": pair.cert},
                "other key": Pair(pair.cert, certs.good.leaf("second").key).settings()}[what]
    proxy = world.olla({}, settings, listen=False, expect_exit=2)
    proxy.check_log_at_end = False
    assert proxy.wait_exit() != 0
    proxy.expect_exit = proxy.process.returncode
    said = proxy.stderr() + json.dumps(proxy.logs)
    assert {"missing": "cert_file", "no key": "key_file", "other key": "key_file"}[what] in said


def test_toggling_tls_by_reload(world, certs):
    """The same port: plain, then TLS, then plain; what is connected stays connected."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    endpoints = {"a": rarely_probed(backend)}
    proxy = world.olla(endpoints)
    plain = world.client(proxy)
    assert plain.request("GET", "/internal/health").status == 200

    def reload(settings):
        before = len(proxy.find_logs("configuration reloaded"))
        proxy.reload(endpoints, settings)
        eventually(lambda: len(proxy.find_logs("configuration reloaded")) > before, "reloaded")
    reload(certs.server().settings())
    secure = TlsClient(proxy.port, certs.context())
    world.clients.append(secure)
    assert secure.request("GET", "/internal/health").status == 200
    assert plain.request("GET", "/internal/health").status == 200
    with world.client(proxy) as other:
        assert other.request("GET", "/internal/health").status == 400
    reload({})
    assert proxy.get("/internal/health").status == 200
    assert secure.request("GET", "/internal/health").status == 200


def test_second_port_comes_and_goes_by_reload(world, certs):
    proxy = world.olla({})
    ports = free_port(), free_port()
    for port in ports:
        before = len(proxy.find_logs("configuration reloaded"))
        proxy.reload({}, dict(certs.server().settings(), **{"server.tls.port": port}))
        eventually(lambda: len(proxy.find_logs("configuration reloaded")) > before, "reloaded")
        assert common_name(port, certs.context()) == "server"
        assert proxy.get("/internal/health").status == 200
    with pytest.raises(ConnectionRefusedError):
        raw_connect(ports[0])
    proxy.reload({}, {})
    eventually(lambda: len(proxy.find_logs("configuration reloaded")) == 3, "reloaded")
    with pytest.raises(ConnectionRefusedError):
        raw_connect(ports[1])


# ---- stop

def test_stop_lets_streams_end(world, certs):
    """SIGTERM: the stream goes on to its proper end, who has no request is let go, and nobody new comes in."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    gate = Gate()

    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        gate.wait()
        conn.chunk(openai_chunk("two"))
        conn.end_chunks()
    backend.on("/v1/chat/completions", handler)
    context = certs.context()
    proxy = world.olla({"a": backend}, certs.server().settings(), connect=over_tls(context))
    stream, idle, half = world.client(proxy), world.client(proxy), raw_connect(proxy.port)
    assert idle.request("GET", "/internal/health").status == 200
    stream.start_post(PATH, STREAM)
    reply = stream.read_head("POST")
    reply.read_piece()
    proxy.signal()
    assert idle.read_eof() == b"" and idle.sock.ended == "notify"
    assert half.recv(100) == b""
    half.close()
    with pytest.raises(OSError):
        proxy.client()
    gate.open()
    assert reply.read_rest().complete and b"two" in reply.body
    assert stream.read_eof() == b"" and stream.sock.ended == "notify"
    assert proxy.wait_exit() == 0


def test_stop_cuts_what_does_not_end(world, certs):
    """A stream that is cut must not look complete."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])

    def handler(conn, request):
        conn.head(200, {"Content-Type": "text/plain"})
        conn.send("0123456789")
        hold(conn, request)
    backend.on("/v1/chat/completions", handler)
    proxy = world.olla({"a": backend}, dict(certs.server().settings(), **{"server.shutdown_timeout": "1s"}), connect=over_tls(certs.context()))
    client = world.client(proxy)
    client.send(request_bytes("POST", PATH, json_headers(), dump({"model": "m1"}), version="HTTP/1.0"))
    reply = client.read_head("POST")
    reply.read_at_least(10)
    proxy.signal()
    client.read_eof()
    assert client.sock.ended != "notify"
    proxy.expect_exit = proxy.wait_exit()
    assert proxy.expect_exit != 0
