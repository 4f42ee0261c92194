"""The TLS listener and everything else: one port or two, keys, limits, reloads of the certificate, stopping."""

import json
import shutil
import signal

import pytest

from backend import Gate, OpenAIBackend, eventually, hold, openai_chunk
from client import Closed, dump, json_headers, request_bytes
from harness import rarely_probed
from tls import Pair, TlsClient, free_port, library, over_tls, raw_connect

PATH = "/olla/proxy/v1/chat/completions"
STREAM = {"model": "m1", "stream": True}
pytestmark = pytest.mark.skipif(not library(), reason="built without TLS")


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
    idle, clients = [raw_connect(port) for _ in range(2)], []
    world.clients += idle
    with pytest.raises(OSError):
        for _ in range(5):
            clients.append(TlsClient(port, certs.context()))
            world.clients.append(clients[-1])
    assert 1 <= len(clients) <= 2  # some other connection may not have ended yet
    assert clients[0].request("GET", "/internal/health").status == 200
    world.close_clients()

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
