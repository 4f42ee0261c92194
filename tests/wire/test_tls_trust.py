"""Backends over TLS: who is believed and who is not, what a refusal says, and handshakes that fail."""

import json
import signal
import socket
import time

import pytest

from backend import Gate, OpenAIBackend, eventually
from harness import endpoint, ini, new_id, rarely_probed, run_cli
from tls import FUTURE, PAST, library, limited, secure, trusted

PATH = "/olla/proxy/v1/chat/completions"
pytestmark = pytest.mark.skipif(not library(), reason="built without TLS")


# ---- who is believed

GOOD = {
    "by address": ({}, {}),
    "by name": ({"named": "localhost"}, {}),
    "by a name in capitals": ({"named": "LOCALHOST"}, {}),
    "by another name": ({"san": "DNS:llm.internal.test"}, {"tls.server_name": "llm.internal.test"}),
    "by a pattern": ({"san": "DNS:*.internal.test"}, {"tls.server_name": "llm.internal.test"}),
    "name in capitals": ({"san": "DNS:LLM.Internal.Test"}, {"tls.server_name": "llm.internal.test"}),
    "rsa": ({"kind": "rsa2048"}, {}),
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
    "authority between is missing": (lambda certs: certs.between.leaf(), {}, "no trusted authority"),
    "signed by a server": (lambda certs: certs.good.chain(certs.good.leaf("two", signer=certs.server()), certs.server()), {}, "no trusted authority"),
    "of a client": (lambda certs: certs.good.leaf(more="extendedKeyUsage = clientAuth"), {}, "not for servers"),
    "weak key": (lambda certs: certs.good.leaf(kind="rsa1024"), {}, "weak key"),
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
    eventually(lambda: backend.refused, "the backend was told")


def test_chain(world, certs):
    """The authority between comes from the server."""
    backend = secure(world, certs, pair=certs.good.chain(certs.between.leaf(), certs.between.file))
    proxy = world.olla({"a": trusted(certs, backend)})
    assert proxy.post(PATH, {"model": "m1"}).status == 200


def test_ipv6_address(world, certs):
    try:
        backend = secure(world, certs, host="::1")
    except (OSError, AssertionError):
        pytest.skip("no IPv6 here")
    proxy = world.olla({"a": trusted(certs, backend)})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    for conn in backend.connections:
        conn.rst()
    backend.context = certs.server_context(certs.good.leaf(san="IP:127.0.0.1, IP:::2, DNS:localhost"))
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.status == 502 and "another name" in reply.json()["error"]["message"]


def test_authorities_change_again_and_again(world, certs, tmp_path):
    """Every reload finds other contents in the file, connections of before are kept: no set of authorities stays behind."""
    backend = secure(world, certs)
    ca = tmp_path / "ca.pem"
    ca.write_text(open(certs.good.file).read())
    proxy = world.olla({"a": rarely_probed(backend, **{"tls.ca_file": ca})})
    for n in range(20):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
        ca.write_text(open(certs.good.file).read() + "\n" * n)
        proxy.signal(signal.SIGHUP)
        eventually(lambda: len(proxy.find_logs("configuration reloaded")) == n + 1, "reloaded")


def test_too_many_authorities(world, certs, tmp_path):
    """A sentence, not a crash; one fewer is fine."""
    backends = [secure(world, certs, chr(97 + n), ["m%d" % n]) for n in range(8)]
    endpoints = {}
    for n, backend in enumerate(backends):
        ca = tmp_path / ("%d.pem" % n)
        ca.write_text(open(certs.good.file).read())
        endpoints[backend.name] = rarely_probed(backend, **{"tls.ca_file": ca})
    config = tmp_path / "olla.ini"
    config.write_text(ini({"endpoint:" + name: keys for name, keys in endpoints.items()}))
    code, out, err = run_cli("-t", "-c", config)
    assert code != 0 and "OLLA_MAX_TRUSTS" in out + err
    endpoints.pop("h")
    proxy = world.olla(endpoints)
    for n in range(7):
        assert proxy.post(PATH, {"model": "m%d" % n}).status == 200


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


def test_client_leaves_during_the_handshake(world, certs):
    """Nobody waits for it any more: the connection and its engine are free long before connection_timeout."""
    backend = secure(world, certs)
    proxy = world.olla({"a": trusted(certs, backend)}, {"proxy.connection_timeout": "60s"})
    for conn in backend.connections:
        conn.rst()
    eventually(lambda: proxy.status()["idle_upstreams"] == 0, "the kept connection is gone")
    seen, gone = Gate(), Gate()

    def before(sock):
        seen.open()
        sock.settimeout(20)
        try:
            while sock.recv(4096):
                pass
        except OSError:
            pass
        gone.open()
        return True
    backend.before = before
    with proxy.client() as client:
        client.start_post(PATH, {"model": "m1"})
        seen.wait()
    gone.wait()
    eventually(lambda: proxy.pool("tls_upstreams")["used"] == 0, "the engine is free")
    assert proxy.endpoint("a")["status"] == "healthy"
