"""Backends over TLS: who is believed and who is not, what a refusal says, sessions, records, and how replies end."""

import hashlib
import json
import signal
import socket
import ssl
import threading
import time

import pytest

from backend import Backend, Gate, LlamaBackend, OllamaBackend, OpenAIBackend, eventually, openai_chunk, pattern
from client import Closed, dump, json_headers, request_bytes
from harness import World, endpoint, ini, new_id, rarely_probed, report, run_cli
from messages import events as message_events
from tls import FUTURE, PAST, drip, library, over_tls, tls_backend

PATH = "/olla/proxy/v1/chat/completions"
LIBRARY = library()
pytestmark = pytest.mark.skipif(not LIBRARY, reason="built without TLS")
WITH_13 = bool(LIBRARY) and LIBRARY >= (3, 6)
Secure = tls_backend(OpenAIBackend)


def secure(world, certs, name="a", models=("m1",), pair=None, kind=Secure, context=None, **keys):
    return world.backend(kind, name, list(models), context=context or certs.server_context(pair), **keys)


def trusted(certs, backend, **keys):
    return rarely_probed(backend, **dict({"tls.ca_file": certs.good.file}, **keys))


def with_little_room(backend):
    """Its connections take few bytes unread: writes of olla are refused soon."""
    backend.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    return backend


def limited(context, version):
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    return context


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


# ---- who is believed

GOOD = {
    "by address": ({}, {}),
    "by name": ({"named": "localhost"}, {}),
    "by another name": ({"san": "DNS:llm.internal.test"}, {"tls.server_name": "llm.internal.test"}),
    "by a pattern": ({"san": "DNS:*.internal.test"}, {"tls.server_name": "llm.internal.test"}),
    "name in capitals": ({"san": "DNS:LLM.Internal.Test"}, {"tls.server_name": "llm.internal.test"}),
    "rsa": ({"kind": "rsa"}, {}),
}


@pytest.mark.parametrize("case", GOOD)
def test_believed(world, certs, case):
    leaf, keys = dict(GOOD[case][0]), GOOD[case][1]
    named = leaf.pop("named", None)
    names = []
    context = certs.server_context(certs.good.leaf(**leaf))
    context.sni_callback = lambda engine, name, _: names.append(name)
    backend = secure(world, certs, context=context, named=named)
    proxy = world.olla({"a": trusted(certs, backend, **keys)})
    assert proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "a"
    assert set(names) == {keys.get("tls.server_name") or named}  # none for an address


REFUSED = {
    "unknown authority": (lambda certs: certs.bad.leaf(), {}, "no trusted authority"),
    "wrong name": (lambda certs: certs.good.leaf(san="DNS:other.test"), {"named": "localhost"}, "another name"),
    "wrong server_name": (lambda certs: certs.good.leaf(), {"tls.server_name": "llm.internal.test"}, "another name"),
    "part of the name": (lambda certs: certs.good.leaf(san="DNS:ost, DNS:local, DNS:localhost.test, DNS:*.localhost"), {"named": "localhost"}, "another name"),
    "pattern too wide": (lambda certs: certs.good.leaf(san="DNS:*.test"), {"tls.server_name": "llm.internal.test"}, "another name"),
    "address not in it": (lambda certs: certs.good.leaf(san="DNS:localhost, IP:127.0.0.2"), {}, "another name"),
    "address as a name": (lambda certs: certs.good.leaf("127.0.0.1", san="DNS:127.0.0.1"), {}, "another name"),
    "address of the other kind": (lambda certs: certs.good.leaf(san="IP:::ffff:127.0.0.1"), {}, "another name"),
    "expired": (lambda certs: certs.good.leaf(dates=PAST), {}, "expired"),
    "not valid yet": (lambda certs: certs.good.leaf(dates=FUTURE), {}, "not valid yet"),
    "self-signed": (lambda certs: certs.good.leaf(own=True), {}, "no trusted authority"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_not_believed(world, certs, case):
    """The reason is in the state of the endpoint and in the answer, and not one byte of the request went out."""
    leaf, keys, words = REFUSED[case]
    keys = dict(keys)
    backend = secure(world, certs, pair=leaf(certs), named=keys.pop("named", None))
    other = world.backend(OpenAIBackend, "b", ["m1"])
    proxy = world.olla({"a": trusted(certs, backend, **keys), "b": rarely_probed(other)}, ready=["b"])
    proxy.wait_state("a", "offline")
    assert words in json.dumps(proxy.endpoint("a")), proxy.endpoint("a")
    assert proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "b"
    reply = proxy.post(PATH, {"model": "m1"}, {"X-Olla-Endpoint": "a"})
    assert reply.status in (502, 503) and not backend.requests and not backend.shaken
    assert backend.refused


def test_certificate_goes_bad_while_running(world, certs):
    """Found by a request, not by a probe: another endpoint serves it; when there is none the client reads why."""
    backends = [secure(world, certs, name) for name in "ab"]
    backends[0].models = ["m1", "only-a"]
    proxy = world.olla({b.name: trusted(certs, b) for b in backends}, {"proxy.retry.max_attempts": 3, "proxy.load_balancer": "priority"})
    bad = certs.server_context(certs.bad.leaf())
    for conn in backends[0].connections:
        conn.rst()
    backends[0].context = bad
    for _ in range(3):
        assert proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "b"
    assert "no trusted authority" in json.dumps(proxy.endpoint("a"))


def test_the_only_endpoint_is_not_believed(world, certs):
    """502, and the sentence names endpoint, reason and setting."""
    backend = secure(world, certs)
    proxy = world.olla({"a": trusted(certs, backend)})
    for conn in backend.connections:
        conn.rst()
    backend.context = certs.server_context(certs.bad.leaf())
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.status == 502
    message = reply.json()["error"]["message"]
    assert 'endpoint "a"' in message and "no trusted authority" in message and "tls.ca_file" in message
    assert proxy.endpoint("a")["status"] != "healthy"


def test_self_signed_is_its_own_authority(world, certs):
    pair = certs.good.leaf(own=True)
    backend = secure(world, certs, pair=pair)
    proxy = world.olla({"a": rarely_probed(backend, **{"tls.ca_file": pair.cert})})
    assert proxy.post(PATH, {"model": "m1"}).status == 200


def test_insecure_is_said_aloud(world, certs, tmp_path):
    """It works with any certificate, and with a warning, also from -t."""
    backend = secure(world, certs, pair=certs.bad.leaf(dates=PAST, san="DNS:nobody.test"))
    keys = rarely_probed(backend, **{"tls.insecure": True})
    proxy = world.olla({"a": keys})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    path = tmp_path / "olla.ini"
    path.write_text(ini({"endpoint:a": keys}))
    code, out, err = run_cli("-t", "-c", path)
    assert code == 0 and "tls.insecure" in out + err and "reads and changes" in out + err
    path.write_text(ini({"endpoint:a": dict(keys, **{"tls.insecure": False, "tls.ca_file": certs.good.file})}))
    code, out, err = run_cli("-t", "-c", path)
    assert code == 0 and "tls.insecure" not in out + err


def test_one_insecure_endpoint_does_not_weaken_another(world, certs):
    """Two endpoints of the same machine, one of them believes everybody: the other one must not, nor resume its session."""
    backend = secure(world, certs, pair=certs.bad.leaf())
    proxy = world.olla({"a": rarely_probed(backend, **{"tls.insecure": True}), "b": trusted(certs, backend)}, ready=["a"])
    proxy.wait_state("b", "offline")
    for _ in range(3):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert not proxy.post(PATH, {"model": "m1"}, {"X-Olla-Endpoint": "b"}).status == 200


def test_reload_takes_trust_away(world, certs):
    """Kept connections, sessions and insecure go with the reload; giving trust back works, too."""
    backend = secure(world, certs, pair=certs.bad.leaf())
    proxy = world.olla({"a": rarely_probed(backend, **{"tls.insecure": True})})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    proxy.reload({"a": trusted(certs, backend)})
    eventually(lambda: "no trusted authority" in json.dumps(proxy.endpoint("a")), "trust is gone")
    assert proxy.post(PATH, {"model": "m1"}).status in (502, 503, 404)
    proxy.reload({"a": rarely_probed(backend, **{"tls.ca_file": certs.bad.file})})
    proxy.wait_state("a", "healthy")
    eventually(lambda: proxy.post(PATH, {"model": "m1"}).status == 200, "served again")


def test_reload_reads_the_authorities_anew(world, certs, tmp_path):
    """The same file name with other contents: the next connection is judged by these."""
    backend = secure(world, certs)
    ca = tmp_path / "ca.pem"
    ca.write_text(open(certs.good.file).read())
    proxy = world.olla({"a": rarely_probed(backend, **{"tls.ca_file": ca})})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    ca.write_text(open(certs.bad.file).read())
    proxy.signal(signal.SIGHUP)
    proxy.wait_log("configuration reloaded")
    for conn in list(backend.connections):
        conn.rst()
    eventually(lambda: proxy.status()["idle_upstreams"] == 0, "the kept connection is gone")
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.status == 502 and "no trusted authority" in reply.json()["error"]["message"]


@pytest.mark.parametrize("what", ["missing", "empty", "no certificate"])
def test_authorities_that_cannot_be_read(world, certs, tmp_path, what):
    """Refused at start and by -t; by a reload, which leaves things as they were."""
    path, backend = tmp_path / "ca.pem", secure(world, certs)
    if what != "missing":
        path.write_text("" if what == "empty" else open(certs.server().key).read())
    bad = rarely_probed(backend, **{"tls.ca_file": path})
    config = tmp_path / "olla.ini"
    config.write_text(ini({"endpoint:a": bad}))
    code, out, err = run_cli("-t", "-c", config)
    assert code != 0 and "tls.ca_file" in out + err
    proxy = world.olla({"a": trusted(certs, backend)})
    proxy.allowed_errors = ["tls.ca_file", "reload refused"]
    proxy.reload({"a": bad})
    proxy.wait_log("reload refused, the old configuration stays in force")
    assert proxy.post(PATH, {"model": "m1"}).status == 200


def test_system_authorities_from_the_environment(world, certs):
    """No tls.ca_file: SSL_CERT_FILE names the system's."""
    backend, other = secure(world, certs), secure(world, certs, "b", ["m2"], pair=certs.bad.leaf())
    proxy = world.olla({"a": rarely_probed(backend), "b": rarely_probed(other)}, env={"SSL_CERT_FILE": certs.good.file}, ready=["a"])
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    proxy.wait_state("b", "offline")


# ---- servers that are not what the url says

def test_plain_server_behind_https(world, certs):
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    backend.on_accept = lambda conn: conn._fill() or conn.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") or conn.fin()
    proxy = world.olla({"a": endpoint(backend.url.replace("http:", "https:"), **{"type": "openai-compatible", "tls.ca_file": certs.good.file,
                                                                                 "check_interval": "120s"})}, ready=[])
    proxy.wait_state("a", "offline")
    assert "does not speak TLS" in json.dumps(proxy.endpoint("a"))


def test_tls_server_behind_http(world, certs):
    """No plain request is answered by it; the reason is somewhere to be read."""
    backend = secure(world, certs)
    proxy = world.olla({"a": endpoint("http://127.0.0.1:%d" % backend.port, **{"type": "openai-compatible", "check_interval": "120s"})}, ready=[])
    eventually(lambda: proxy.endpoint("a")["status"] not in ("healthy", "unknown"), "not healthy")
    assert not backend.requests


def test_silence_in_the_handshake(world, certs):
    """connection_timeout covers it, and another endpoint serves the request."""
    backend, other = secure(world, certs), secure(world, certs, "b")
    proxy = world.olla({"a": trusted(certs, backend, priority=1), "b": trusted(certs, other, priority=200)}, {"proxy.connection_timeout": "1s"})
    for conn in backend.connections:
        conn.rst()
    backend.before = lambda sock: time.sleep(4) or True
    started = time.monotonic()
    replies = [proxy.post(PATH, {"model": "m1"}) for _ in range(3)]
    assert [reply.json()["served_by"] for reply in replies] == ["b"] * 3 and time.monotonic() - started < 12
    reply = proxy.post(PATH, {"model": "m1"}, {"X-Olla-Endpoint": "a"})
    assert reply.status in (502, 503, 504)


@pytest.mark.parametrize("how", ["at once", "after the hello", "reset", "half an answer", "alert", "tls 1.0"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_handshake_breaks_off(world, certs, how):
    """502 with a reason, and the endpoint is known to be down."""
    backend = secure(world, certs)
    proxy = world.olla({"a": trusted(certs, backend)})

    def before(sock):
        if how == "at once":
            return True
        data = sock.recv(4096)
        assert data[0] == 22
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how == "half an answer":
            sock.sendall(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")
        elif how == "alert":
            sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
        return True
    for conn in backend.connections:
        conn.rst()
    if how == "tls 1.0":
        backend.context = limited(certs.server_context(), "TLSv1")
        backend.context.set_ciphers("ALL:@SECLEVEL=0")
    else:
        backend.before = before
    eventually(lambda: proxy.status()["idle_upstreams"] == 0, "the kept connection is gone")
    name = new_id()
    reply = proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": name})
    assert reply.status == 502
    message = reply.json()["error"]["message"]
    assert {"alert": "refused the TLS handshake", "tls 1.0": "TLS"}.get(how, "closed the connection") in message, message
    assert proxy.access(name)["end"] == "SC" and not backend.calls
    assert proxy.endpoint("a")["status"] != "healthy"


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
