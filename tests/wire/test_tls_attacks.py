"""Handshakes as a weapon: half of them, thousands of them, slow ones, broken ones. Streams flow on, new work waits, and
afterwards everything is as it was."""

import os
import pathlib
import re
import signal
import socket
import threading
import time

import pytest

import harness
from backend import OpenAIBackend, eventually, openai_chunk, pattern
from harness import rarely_probed
from tls import TlsClient, free_port, hello, library, openssl_process, raw_connect, tls_backend

PATH = "/olla/proxy/v1/chat/completions"
RELEASE = str(pathlib.Path(harness.BINARY).resolve().parents[1] / "olla")
pytestmark = pytest.mark.skipif(not library(), reason="built without TLS")


class Stream:
    """A stream over TLS whose events the test lets go one by one; each has to arrive before the next one."""

    def __init__(self, world, backend, port, context):
        self.turn = threading.Semaphore(0)
        self.count, self.over = 0, False

        def handler(conn, request):
            conn.start_chunked()
            conn.chunk(openai_chunk("begin"))
            n = 0
            while self.turn.acquire(timeout=30) and not self.over:
                n += 1
                conn.chunk(openai_chunk("word %d." % n))
            conn.end_chunks()
        backend.on("/v1/chat/completions", handler)
        self.client = TlsClient(port, context)
        world.clients.append(self.client)
        self.client.start_post(PATH, {"model": "m1", "stream": True})
        self.reply = self.client.read_head("POST")
        assert b"begin" in self.reply.read_piece()

    def flows(self, events=5):
        for _ in range(events):
            self.count += 1
            self.turn.release()
            assert b"word %d." % self.count in self.reply.read_piece()

    def end(self):
        self.over = True
        self.turn.release()
        assert self.reply.read_rest().complete


class Target:
    def __init__(self, world, certs, **settings):
        self.world, self.certs, self.port = world, certs, free_port()
        self.backend = world.backend(OpenAIBackend, "a", ["m1"])
        self.settings = dict(certs.server().settings(), **dict({"server.tls.port": self.port, "server.read_header_timeout": "2s"}, **settings))
        self.endpoints = {"a": rarely_probed(self.backend)}
        self.proxy = world.olla(self.endpoints, self.settings)
        self.limit = self.proxy.pool("tls_clients")["count"]

    def served(self, timeout=10):
        with TlsClient(self.port, self.certs.context(), timeout=timeout) as client:
            return client.request("GET", "/internal/health").status == 200

    def half_open(self, count):
        """Every third one says nothing, half a hello, a whole hello and nothing after it."""
        first = hello(self.certs.context())
        socks = []
        for n in range(count):
            sock = raw_connect(self.port)
            sock.sendall(first[:len(first) * (n % 3) // 2])
            socks.append(sock)
        return socks


def test_flood_of_half_open_handshakes(world, certs):
    """More of them than there are engines: the stream flows, the plain port answers, a new TLS client waits and is served
    when the time of the others is over."""
    target = Target(world, certs)
    stream = Stream(world, target.backend, target.port, certs.context())
    flood = target.half_open(target.limit + 40)
    stream.flows()
    eventually(lambda: target.proxy.pool("tls_clients")["used"] == target.limit, "all engines are taken")
    assert target.proxy.post(PATH, {"model": "nothing"}).status == 404
    with pytest.raises(OSError):  # it waits in the kernel
        TlsClient(target.port, certs.context(), timeout=0.3)
    target.proxy.wait_log("all TLS connections are in use, new ones wait in the kernel", limit="OLLA_MAX_TLS_CLIENTS")
    stream.flows()
    assert target.served(15)
    stream.flows()
    stream.end()
    for sock in flood:
        sock.close()
    eventually(lambda: target.proxy.pool("tls_clients")["used"] <= 1, "all engines are free again")
    assert target.served()


def test_all_engines_at_work(world, certs):
    """As many TLS clients as there may be: one more waits until one of them leaves."""
    target = Target(world, certs, **{"server.read_header_timeout": "20s"})
    context = certs.context()
    clients = []
    for _ in range(target.limit):
        clients.append(TlsClient(target.port, context))
        world.clients.append(clients[-1])
        assert clients[-1].request("GET", "/internal/health").status == 200
    served = []
    thread = threading.Thread(target=lambda: served.append(target.served(20)), daemon=True)
    thread.start()
    for client in clients[1:]:
        assert client.request("GET", "/internal/health").status == 200
    assert not served and target.proxy.get("/internal/health").status == 200
    clients[0].close()
    thread.join(20)
    assert served == [True]


def test_flood_does_not_spin(world, certs):
    """Waiting for engines and for handshakes costs no computing."""
    target = Target(world, certs, **{"server.read_header_timeout": "20s"})
    flood = target.half_open(target.limit + 40)
    eventually(lambda: target.proxy.pool("tls_clients")["used"] == target.limit, "all engines are taken")
    time.sleep(0.5)
    before = target.proxy.cpu_seconds()
    time.sleep(1.5)
    assert target.proxy.cpu_seconds() - before < 0.75
    for sock in flood:
        sock.close()
    assert target.served()


def test_reload_without_tls_in_a_flood(world, certs):
    """All engines are taken and the port turns to plain HTTP: no engine is needed for that."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    endpoints = {"a": rarely_probed(backend)}
    proxy = world.olla(endpoints)
    limit = proxy.pool("tls_clients")["count"]

    def reload(settings):
        before = len(proxy.find_logs("configuration reloaded"))
        proxy.reload(endpoints, dict(settings, **{"server.read_header_timeout": "60s"}))
        eventually(lambda: len(proxy.find_logs("configuration reloaded")) > before, "reloaded")
    plain = world.client(proxy)
    reload(certs.server().settings())
    flood = [raw_connect(proxy.port) for _ in range(limit)]
    world.clients += flood
    eventually(lambda: {p["name"]: p["used"] for p in proxy.status(plain)["pools"]}["tls_clients"] == limit, "all engines are taken")
    proxy.wait_log("all TLS connections are in use, new ones wait in the kernel")
    reload({})
    assert proxy.get("/internal/health").status == 200


def test_slow_handshake_is_cut(world, certs):
    """It makes progress all the time, but read_header_timeout is for all of it."""
    target = Target(world, certs, **{"server.read_header_timeout": "1s"})
    sock = raw_connect(target.port)
    ended = False
    for byte in hello(certs.context())[:300]:
        try:
            sock.sendall(bytes([byte]))
        except ConnectionError:
            ended = True
            break
        time.sleep(0.02)
    sock.close()
    assert ended
    assert target.served()


def test_storm_of_whole_handshakes(world, certs):
    """Hundreds of clients at once: one step in a turn, so the stream has its turn, too, and all are served."""
    target = Target(world, certs, **{"server.read_header_timeout": "20s"})
    stream = Stream(world, target.backend, target.port, certs.context())
    context = certs.context()
    results = []

    def visit():
        for _ in range(15):
            with TlsClient(target.port, context, timeout=20) as client:
                results.append(client.request("GET", "/internal/health").status)
    threads = [threading.Thread(target=visit, daemon=True) for _ in range(10)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        stream.flows(1)
    assert results == [200] * 150
    stream.end()


def test_renegotiation_is_refused(world, certs):
    """A client that wants to shake hands again and again gets one handshake."""
    target = Target(world, certs)
    with openssl_process("s_client", "-connect", "127.0.0.1:%d" % target.port, "-CAfile", certs.good.file, "-tls1_2", "-quiet", "-ign_eof") as process:
        process.stdin.write(b"R\n")
        process.stdin.flush()
        try:
            for _ in range(20):
                process.stdin.write(b"R\n")
                process.stdin.flush()
        except OSError:
            pass
        assert target.served()
    assert target.served()


# ---- memory

def heap_kb(pid):
    maps = pathlib.Path("/proc/%d/smaps" % pid).read_text()
    return int(re.search(r"\[heap\]\n(?:.*\n)*?Rss: +(\d+)", maps).group(1))


def leave(target):
    """Whole handshakes, a request, and gone."""
    for _ in range(80):
        with TlsClient(target.port, target.context) as client:
            client.request("GET", "/internal/health")


def half(target):
    flood = target.half_open(target.limit + 20)
    eventually(lambda: target.proxy.pool("tls_clients")["used"] == target.limit, "all engines are taken")
    for sock in flood:
        sock.close()


def broken(target):
    first = hello(target.context)
    for n in range(300):
        sock = raw_connect(target.port)
        try:
            sock.sendall(first if n % 2 else pattern(3000, n))
            sock.sendall(b"\x16\x03\x03\x00\x20" + bytes(32))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except OSError:
            pass
        sock.close()


def abort(target):
    """All engines at work, then everybody resets."""
    clients = []
    for _ in range(target.limit):
        clients.append(TlsClient(target.port, target.context))
        clients[-1].start_post(PATH, {"model": "m1", "stream": True})
    for client in clients:
        client.read_head("POST")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()


@pytest.mark.skipif(not os.access(RELEASE, os.X_OK), reason="needs the build without sanitizers")
@pytest.mark.parametrize("attack", [leave, half, broken, abort])
def test_memory_after_an_attack(world, certs, monkeypatch, attack):
    """The library's buffers stay after the first time; after that, each attack costs nothing. olla itself allocates nothing, so
    the heap is the library's."""
    monkeypatch.setattr(harness, "BINARY", RELEASE)
    target = Target(world, certs)
    target.context = certs.context()
    seen = []
    for _ in range(4):
        attack(target)
        eventually(lambda: target.proxy.pool("tls_clients")["used"] == 0 and target.proxy.pool("clients")["used"] == 1, "everybody has left")
        seen.append((heap_kb(target.proxy.pid), target.proxy.rss_kb()))
    pools = len(target.proxy.status()["pools"])
    assert 0 < seen[-1][0] <= seen[1][0] + 4 * pools, seen
    assert seen[-1][1] <= seen[1][1] + 512, seen


def test_report_after_an_attack(world, certs):
    """SIGUSR1: no engine is in use."""
    target = Target(world, certs)
    target.context = certs.context()
    half(target)
    broken(target)
    eventually(lambda: target.proxy.pool("tls_clients")["used"] == 0, "everybody has left")
    target.proxy.signal(signal.SIGUSR1)
    entry = target.proxy.wait_log("pool", name="tls_clients")
    assert (entry["used"], entry["max"]) == (0, target.limit)


def test_backends_that_break_handshakes(world, certs):
    """Hundreds of them: no engine stays behind."""
    backend = world.backend(tls_backend(OpenAIBackend), "a", ["m1"], context=certs.server_context())
    proxy = world.olla({"a": rarely_probed(backend, **{"tls.ca_file": certs.good.file, "health": "none"})}, {"proxy.breaker.open_time": "1ms", "proxy.breaker.max_open_time": "1ms",
                                                                                            "proxy.retry.max_attempts": 1, "proxy.engine": "sherpa"})
    bad = certs.server_context(certs.bad.leaf())
    good = backend.context
    for n in range(100):
        backend.context = bad if n % 2 else good
        backend.before = (lambda sock: sock.recv(100) and True) if n % 3 == 0 else None
        proxy.post(PATH, {"model": "m1"})
    backend.context, backend.before = good, None
    eventually(lambda: proxy.post(PATH, {"model": "m1"}).status == 200, "served again")
    eventually(lambda: proxy.pool("tls_upstreams")["used"] == proxy.status()["idle_upstreams"], "no engine stays behind")
