"""Start, reload, drain, signals, and a log that nobody reads."""

import signal
import socket
import threading
import time

import pytest

from backend import Gate, OllamaBackend, OpenAIBackend, eventually, hold, openai_chunk
from client import Client, Closed, dump, json_headers, request_bytes
from harness import build_config, endpoint, rarely_probed

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"


class Stream:
    """A stream that goes on until the test lets it end."""

    def __init__(self, backend):
        self.end = Gate()
        self.more = Gate()
        backend.on(CHAT, self.handler)

    def handler(self, conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        self.more.wait(20)
        conn.chunk(openai_chunk("two"))
        self.end.wait(20)
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()

    def begin(self, world, proxy, request_id="stream"):
        client = world.client(proxy)
        client.start_post(PATH, {"model": "m1", "stream": True}, {"X-Request-ID": request_id})
        reply = client.read_head("POST")
        reply.read_at_least(len(openai_chunk("one")))
        return client, reply

    def finish(self, reply):
        self.more.open()
        self.end.open()
        reply.read_rest()
        return reply


@pytest.fixture
def one(world):
    class One:
        backend = world.backend(OpenAIBackend, "a", ["m1"])

        def start(self, settings=None, **options):
            self.proxy = world.olla({"a": self.backend}, settings, **options)
            return self.proxy
    return One()


def refuses(proxy):
    try:
        proxy.client(timeout=1).close()
        return False
    except OSError:
        return True


# ---- end

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_stop(world, one, number):
    """An idle proxy must end at once, open keep-alive connections or not."""
    proxy = one.start()
    clients = [world.client(proxy) for _ in range(5)]
    for client in clients[:3]:
        assert client.post(PATH, {"model": "m1"}).status == 200
    started = time.monotonic()
    proxy.signal(number)
    assert proxy.wait_exit(5) == 0
    assert time.monotonic() - started < 3
    for client in clients:
        assert client.read_eof(2) == b""


def test_stop_before_anything(world):
    """A stop right after the start, with the first probes still out."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    backend.on("/v1/models", hold)
    proxy = world.olla({"a": backend}, ready=None)
    proxy.signal()
    assert proxy.wait_exit(5) == 0


def test_drain_lets_streams_finish(world, one):
    """An update of the proxy must not cut the answers that are being written."""
    proxy = one.start({"proxy.response_header_timeout": "30s"})
    stream = Stream(one.backend)
    _, reply = stream.begin(world, proxy)
    proxy.signal()
    eventually(lambda: refuses(proxy), "the listener is closed", 3)
    time.sleep(0.3)
    assert proxy.alive()
    assert stream.finish(reply).complete and reply.body.endswith(b"data: [DONE]\n\n")
    assert proxy.wait_exit(3) == 0
    assert proxy.find_logs("request", request_id="stream")[0]["end"] == "--"


def test_drain_covers_requests_without_a_head_yet(world, one):
    """A request waiting for its first token is in flight too."""
    proxy = one.start()
    gate = Gate()
    one.backend.on(CHAT, lambda c, r: (gate.wait(), c.reply({"ok": 1})))
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1"})
    one.backend.wait_calls(1)
    proxy.signal()
    time.sleep(0.3)
    gate.open()
    reply = client.read_response("POST")
    assert reply.json() == {"ok": 1}
    assert client.read_eof(3) == b"", "no further request is taken during the drain"
    assert proxy.wait_exit(3) == 0


def test_drain_takes_no_pipelined_request(world, one):
    """A request that waits behind a running one at shutdown is not started."""
    proxy = one.start()
    gate = Gate()
    one.backend.on(CHAT, lambda c, r: (gate.wait(), c.reply({"n": r.json()["n"]})))
    client = world.client(proxy)
    for n in range(2):
        client.start_post(PATH, {"model": "m1", "n": n})
    one.backend.wait_calls(1)
    proxy.signal()
    time.sleep(0.2)
    gate.open()
    assert client.read_response("POST").json() == {"n": 0}
    rest = client.read_eof(3)
    assert rest == b"" or b'{"n":1}' in rest, "either answered or not begun"
    assert proxy.wait_exit(3) == 0


def test_shutdown_timeout_cuts(world, one):
    """A stream that never ends must not hold up the shutdown: cut, visibly, and reported by the exit code."""
    proxy = one.start({"server.shutdown_timeout": "1s"})
    proxy.expect_exit = 3
    stream = Stream(one.backend)
    client, reply = stream.begin(world, proxy)
    started = time.monotonic()
    proxy.signal()
    assert proxy.wait_exit(6) == 3
    assert time.monotonic() - started > 0.7
    reply.read_rest(3)
    assert not reply.complete
    entry = proxy.find_logs("request", request_id="stream")[0]
    assert entry["end"] == "KD"
    stream.more.open()
    stream.end.open()
    eventually(lambda: one.backend.calls[0].conn.closed_how, "the backend connection died", 3)


def test_shutdown_cuts_http10_visibly(world, one):
    """A close-delimited answer cut by the shutdown must end with a reset, a plain close would say it is whole."""
    proxy = one.start({"server.shutdown_timeout": "1s"})
    proxy.expect_exit = 3
    one.backend.on(CHAT, lambda c, r: (c.start_chunked("application/json"), c.chunk(b'{"a":'), hold(c, r)))
    client = world.client(proxy)
    client.send(request_bytes("POST", PATH, json_headers(), dump({"model": "m1"}), version="HTTP/1.0"))
    reply = client.read_head("POST")
    reply.read_at_least(5)
    proxy.signal()
    assert proxy.wait_exit(6) == 3
    reply.read_rest(3)
    assert reply.framing == "close" and reply.body == b'{"a":'
    assert not reply.complete and client.was_reset


def test_second_signal_ends_at_once(world, one):
    """Ctrl-C twice means now."""
    proxy = one.start({"server.shutdown_timeout": "60s"})
    proxy.expect_exit = 3
    stream = Stream(one.backend)
    stream.begin(world, proxy)
    proxy.signal()
    time.sleep(0.3)
    assert proxy.alive()
    proxy.signal()
    assert proxy.wait_exit(3) == 3
    stream.more.open()
    stream.end.open()


def test_drain_with_a_client_that_left(world, one):
    """The drain ends when the last client has gone, not only when streams end well."""
    proxy = one.start({"server.shutdown_timeout": "60s"})
    stream = Stream(one.backend)
    client, _ = stream.begin(world, proxy)
    proxy.signal()
    time.sleep(0.2)
    client.close()
    assert proxy.wait_exit(4) == 0
    stream.more.open()
    stream.end.open()


def test_access_lines_survive_the_exit(world, one):
    """The last lines before the exit are the ones people look for."""
    proxy = one.start()
    for n in range(20):
        proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": "last-%d" % n})
    proxy.signal()
    assert proxy.wait_exit(5) == 0
    proxy.reader.join(5)
    assert all(len(proxy.find_logs("request", request_id="last-%d" % n)) == 1 for n in range(20))


# ---- start

def test_port_in_use(world, one):
    """A second start on the same port must say so and fail."""
    first = one.start()
    from harness import Olla
    second = Olla(build_config(first.port, {}, {}), first.port, expect_exit=1)
    try:
        assert second.wait_exit(5) == 1
        text = second.stderr() + repr(second.logs)
        assert str(first.port) in text and "in use" in text.lower()
    finally:
        second.kill()
    assert first.get("/internal/health").status == 200


def test_restart_on_the_same_port(world, one):
    """After a stop with open connections the port must be usable at once (SO_REUSEADDR)."""
    from harness import Olla
    proxy = one.start()
    clients = [world.client(proxy) for _ in range(3)]
    for client in clients:
        assert client.request("GET", "/internal/health").status == 200
    proxy.signal()
    assert proxy.wait_exit(5) == 0
    second = Olla(proxy.config.read_text(), proxy.port)
    world.proxies.append(second)
    second.wait_listening(5)
    assert second.get("/internal/health").status == 200


# ---- reload

def test_reload_keeps_streams_and_connections(world, one):
    """A new configuration must not drop a byte of what is running."""
    proxy = one.start()
    stream = Stream(one.backend)
    idle = world.client(proxy)
    assert idle.request("GET", "/internal/health").status == 200
    client, reply = stream.begin(world, proxy)
    other = world.backend(OpenAIBackend, "b", ["m2"])
    proxy.reload({"a": one.backend, "b": other}, {"proxy.load_balancer": "round-robin"})
    proxy.wait_healthy({"a": 1, "b": 1})
    assert proxy.status()["proxy"]["balancer"] == "round-robin"
    stream.more.open()
    reply.read_at_least(len(openai_chunk("one") + openai_chunk("two")))
    assert idle.post(PATH, {"model": "m2"}).get("X-Olla-Endpoint") == "b", "the idle connection is still good"
    assert stream.finish(reply).complete
    one.backend.routes[CHAT] = one.backend.chat
    assert client.post(PATH, {"model": "m1"}).status == 200, "and so is the stream's"


def test_reload_keeps_endpoint_state(world, one):
    """Endpoints that did not change stay healthy, keep counters and models: no gap in service."""
    proxy = one.start()
    for _ in range(4):
        proxy.post(PATH, {"model": "m1"})
    probes = len(one.backend.probes)
    other = world.backend(OpenAIBackend, "b", ["m2"])
    stop, failed = threading.Event(), []

    def traffic():
        with proxy.client() as client:
            while not stop.is_set():
                status = client.post(PATH, {"model": "m1"}).status
                if status != 200:
                    failed.append(status)
    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        for n in range(6):
            proxy.reload({"a": one.backend, "b": other} if n % 2 == 0 else {"a": one.backend})
            time.sleep(0.15)
    finally:
        stop.set()
        thread.join(15)
    assert failed == [] and not thread.is_alive()
    assert proxy.endpoint("a")["requests"] >= 4 and proxy.endpoint("a")["models"]["count"] == 1
    assert probes >= 1


def test_reload_removes_an_endpoint(world, one):
    """Its running stream finishes; new requests do not go there; its models are gone."""
    other = world.backend(OpenAIBackend, "b", ["m1", "m-b"])
    proxy = world.olla({"a": one.backend, "b": endpoint(other, priority=500)}, {"proxy.load_balancer": "priority"})
    stream = Stream(other)
    client, reply = stream.begin(world, proxy)
    proxy.reload({"a": one.backend}, {"proxy.load_balancer": "priority"})
    eventually(lambda: [e["name"] for e in proxy.status()["endpoints"]] == ["a"], "b has gone from the status")
    for _ in range(4):
        assert proxy.post(PATH, {"model": "m1"}).get("X-Olla-Endpoint") == "a"
    assert proxy.post(PATH, {"model": "m-b"}).status == 404
    assert stream.finish(reply).complete and reply.body.endswith(b"data: [DONE]\n\n")
    eventually(lambda: all(c.closed_how for c in other.connections), "no connection to the removed endpoint is kept", 5)
    entry = proxy.access("stream")
    assert (entry["endpoint"], entry["end"]) == ("b", "--")


def test_reload_while_waiting_then_failover(world, one):
    """A request of the old configuration whose endpoint vanishes and then fails must still end properly."""
    other = world.backend(OpenAIBackend, "b", ["m1"])
    gate = Gate()
    other.on(CHAT, lambda c, r: (gate.wait(), c.rst()))
    proxy = world.olla({"b": endpoint(other, priority=500), "a": one.backend}, {"proxy.load_balancer": "priority"})
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1"})
    other.wait_calls(1)
    proxy.reload({"a": one.backend}, {"proxy.load_balancer": "priority"})
    eventually(lambda: [e["name"] for e in proxy.status()["endpoints"]] == ["a"], "b has gone from the status")
    gate.open()
    reply = client.read_response("POST")
    assert reply.status in (200, 502)
    if reply.status == 200:
        assert reply.get("X-Olla-Endpoint") == "a"


def test_reload_while_the_body_comes(world, one):
    """A request that began before the reload and is sent after it."""
    proxy = one.start()
    body = dump({"pad": "x" * 50000, "model": "m1"})
    raw = request_bytes("POST", PATH, json_headers(), body)
    client = world.client(proxy)
    client.send(raw[:30000])
    time.sleep(0.1)
    proxy.reload({"renamed": one.backend})
    proxy.wait_healthy({"renamed": 1})
    client.send(raw[30000:])
    reply = client.read_response("POST")
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "renamed"


def test_reload_changes_an_address(world, one):
    """Same name, new URL: requests go to the new machine, connections to the old one are closed."""
    proxy = one.start()
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    moved = world.backend(OpenAIBackend, "moved", ["m1"])
    proxy.reload({"a": moved})
    eventually(lambda: proxy.endpoint("a")["url"] == moved.url and proxy.endpoint("a")["status"] == "healthy", "the new address is in use")
    assert proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "moved"
    eventually(lambda: all(c.closed_how for c in one.backend.connections), "old connections are closed", 5)


def test_reload_changes_an_address_under_a_request(world, one):
    """The connection of a request that runs during the reload leads to the old machine: it must not serve the next one."""
    gate = Gate()
    one.backend.on(CHAT, lambda c, r: (gate.wait(), c.reply({"served_by": "old"})))
    proxy = world.olla({"a": rarely_probed(one.backend)}, ready=["a"])
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1"})
    one.backend.wait_calls(1)
    moved = world.backend(OpenAIBackend, "moved", ["m1"])
    proxy.reload({"a": rarely_probed(moved)})
    eventually(lambda: proxy.endpoint("a")["url"] == moved.url, "the new address is in force")
    proxy.wait_healthy({"a": 1})
    gate.open()
    assert client.read_response("POST").json()["served_by"] == "old"
    for _ in range(2):
        assert client.post(PATH, {"model": "m1"}).json()["served_by"] == "moved"
    eventually(lambda: all(c.closed_how for c in one.backend.connections), "old connections are closed", 5)


def reaches(proxy, host):
    try:
        with Client(proxy.port, host, timeout=2) as client:
            return client.request("GET", "/internal/health").status == 200
    except (OSError, Closed):  # refused, or not yet accepted when the listener was closed
        return False


@pytest.mark.parametrize("host", ['""', "0.0.0.0"])
def test_reload_widens_the_listener(world, one, host):
    """The old address is in the way of the wider one on the same port; running connections must not pay for it."""
    proxy = one.start()
    stream = Stream(one.backend)
    client, reply = stream.begin(world, proxy)
    idle = world.client(proxy)
    assert idle.request("GET", "/internal/health").status == 200
    assert not reaches(proxy, "127.0.0.2")
    for wanted, there in ((host, True), ("127.0.0.1", False)):
        proxy.reload({"a": one.backend}, {"server.host": wanted})
        eventually(lambda: reaches(proxy, "127.0.0.2") == there, "host = %s is in force" % wanted, 5, 0.05)
        assert reaches(proxy, "127.0.0.1")
        assert idle.request("GET", "/internal/health").status == 200
    assert stream.finish(reply).complete
    assert client.request("GET", "/internal/health").status == 200


def test_reload_to_an_impossible_address(world, one):
    """An address this machine does not have must not cost the listener that works."""
    proxy = one.start()
    proxy.allowed_errors = True
    for n in (1, 2):
        proxy.reload({"a": one.backend}, {"server.host": "192.0.2.1"})
        eventually(lambda: len([e for e in proxy.logs if e["msg"].startswith("reload refused")]) == n, "the reload was refused", 5)
        assert proxy.post(PATH, {"model": "m1"}).status == 200
    proxy.reload({"a": one.backend}, {"proxy.load_balancer": "round-robin"})
    eventually(lambda: proxy.status()["proxy"]["balancer"] == "round-robin", "a good reload works again")


BAD = {
    "syntax": "[server\nport = 1\n",
    "bad value": "[server]\nread_timeout = never\n",
    "bad endpoint": "[endpoint:x]\ntype = ollama\n",
    "unknown type": "[endpoint:x]\nurl = http://127.0.0.1:1\ntype = nonsense\n",
    "twice": "[server]\nread_timeout = 1s\nread_timeout = 2s\n",
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_reload_keeps_the_old_configuration(world, one, name):
    """A typo saved in a hurry must not take the service down, nor be applied by half."""
    proxy = one.start()
    proxy.allowed_errors = True
    good = proxy.config.read_text()
    lines = good.count("\n")
    proxy.config.write_text(good + "\n[proxy]\nload_balancer = priority\n" + BAD[name])
    proxy.signal(signal.SIGHUP)
    entry = proxy.wait_error()
    assert "%s:" % proxy.config.name in str(entry), "the message names the file"
    assert any(str(n) in str(entry) for n in range(lines + 1, lines + 10)), "and the line: %r" % entry
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert proxy.status()["proxy"]["balancer"] == "least-connections"
    # the next good one is taken
    proxy.reload({"a": one.backend}, {"proxy.load_balancer": "round-robin"})
    eventually(lambda: proxy.status()["proxy"]["balancer"] == "round-robin", "a good reload works again")


def test_reload_without_a_file(world, one):
    """An editor that replaces the file leaves a moment without one."""
    proxy = one.start()
    proxy.allowed_errors = True
    proxy.config.unlink()
    proxy.signal(signal.SIGHUP)
    proxy.wait_error()
    assert proxy.post(PATH, {"model": "m1"}).status == 200


def test_many_reloads(world, one):
    """Signals in quick succession, under load, must neither leak nor lose the listener."""
    proxy = one.start()
    client = world.client(proxy)
    before = proxy.rss_kb()
    for n in range(60):
        proxy.signal(signal.SIGHUP)
        if n % 3 == 0:
            assert client.post(PATH, {"model": "m1"}).status == 200
    time.sleep(0.3)
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert proxy.rss_kb() - before < 4096


def test_reload_to_no_endpoints_and_back(world, one):
    """The tables must survive being emptied and filled."""
    proxy = one.start()
    spare = world.backend(OllamaBackend, "spare", ["m9"])
    for n in range(6):
        proxy.reload({"spare%d" % n: spare})
        proxy.wait_healthy({"spare%d" % n: 1})
        assert proxy.post(PATH, {"model": "m9"}).get("X-Olla-Endpoint") == "spare%d" % n
        assert [m["id"] for m in proxy.get("/v1/models").json()["data"]] == ["m9"]
    proxy.reload({"a": one.backend})
    proxy.wait_healthy({"a": 1})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert [m["id"] for m in proxy.get("/v1/models").json()["data"]] == ["m1"]


# ---- other signals and the log

def test_usr1_logs_the_pools(one):
    """Pool figures on demand, without stopping anything."""
    proxy = one.start()
    before = len(proxy.logs)
    proxy.signal(signal.SIGUSR1)
    eventually(lambda: any("clients" in str(e) and "buffers" in str(e) or e.get("name") in ("clients", "buffers") or e.get("pool") in ("clients", "buffers")
                           for e in proxy.logs[before:]), "the pools are in the log", 5)
    assert proxy.post(PATH, {"model": "m1"}).status == 200


def test_unread_log_does_not_stall(world, one):
    """A log pipe nobody reads (a stuck journald) must cost log lines, never requests."""
    proxy = one.start()
    proxy.log_gate.clear()
    client = world.client(proxy)
    raw = request_bytes("GET", "/internal/health", {"X-Pad": "x" * 100})
    for _ in range(30):
        client.send(raw * 50)
        for _ in range(50):
            assert client.read_response("GET", 5).status == 200
    assert client.post(PATH, {"model": "m1"}).status == 200
    proxy.log_gate.set()


def test_closed_stdout_does_not_kill(world, one):
    """`olla | head` must not end the proxy with SIGPIPE."""
    proxy = one.start()
    import os
    read_end = proxy.process.stdout
    proxy.log_gate.clear()
    # the reader thread is parked behind the gate after its next line; replace the pipe's read end
    proxy.get("/internal/health")
    time.sleep(0.4)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, read_end.fileno())
    os.close(null)
    for _ in range(20):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
        time.sleep(0.02)
    assert proxy.alive()
    proxy.log_gate.set()


def test_log_levels(one):
    """level = error must be quiet about ordinary requests; request_logging = false drops access lines only."""
    proxy = one.start({"server.request_logging": False})
    proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": "quiet"})
    time.sleep(0.5)
    assert proxy.find_logs("request") == [] and proxy.find_logs("endpoint state")


def test_text_log(world):
    """logging.format = text is for people: no JSON."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": backend}, {"logging.format": "text"})
    proxy.check_log_at_end = False
    proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": "plain"})
    eventually(lambda: any(b"plain" in line for line in proxy.stray_output), "the access line", 5)
    assert proxy.logs == [] and any(b"listening" in line for line in proxy.stray_output)


def test_hostile_text_in_the_log(site):
    """Paths and ids of a request must not be able to write log lines of their own."""
    client = site.client()
    client.send(b"GET /\"}\\n{\"level\":\"ERROR\" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.read_response().status in (400, 404)
    site.proxy.get("/x%0a%22%7d", {"User-Agent": 'a"b\\c'})
    time.sleep(0.4)
    assert site.proxy.stray_output == []


def test_no_growth_over_many_requests(world, one):
    """Memory must not grow with traffic."""
    proxy = one.start()
    client = world.client(proxy)
    raw = request_bytes("POST", PATH, json_headers(), dump({"model": "m1"}))
    for _ in range(200):
        client.send(raw)
        client.read_response("POST")
    before, fds = proxy.rss_kb(), proxy.open_fds()
    for _ in range(1500):
        client.send(raw)
        assert client.read_response("POST").status == 200
    assert proxy.rss_kb() - before < 1024
    assert proxy.open_fds() <= fds + 1


def test_descriptors_are_closed(world, one):
    """After a busy time only the listener, idle connections and the log remain open."""
    proxy = one.start()
    first = proxy.open_fds()
    socks = []
    for _ in range(40):
        sock = socket.create_connection(("127.0.0.1", proxy.port), 5)
        sock.sendall(request_bytes("POST", PATH, json_headers(), dump({"model": "m1"})))
        socks.append(sock)
    for sock in socks:
        sock.recv(100)
        sock.close()
    eventually(lambda: proxy.open_fds() <= first + proxy.status()["idle_upstreams"] + 2, "descriptors are closed", 5, 0.05)
