"""Faults that a review of the routing found. Each must stay away: loops without end or purpose, trials that block a machine, replies of
a machine that a reload has replaced, and answers that come in another form than asked for."""

import json
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import harness
from backend import Gate, OpenAIBackend, eventually, hold, openai_chunk
from client import WAIT, Client, dump, json_headers, request_bytes
from harness import endpoint, rarely_probed
from servers import Ollama
from test_breaker import Script, ask, bad, good, llama, open_it, settings, state, wait_for_trial
from test_heartbeat import ANTHROPIC, OLLAMA, OPENAI, THREE, beats, cut_off, start
from test_upgrade import ASK, silent

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
INTERVAL = {"proxy.heartbeat.interval": "150ms"}
PRIORITY = {"proxy.load_balancer": "priority"}
UNHURRIED = 0.5  # seconds of CPU per second: a loop that never waits takes all of one


def cpu_per_second(proxy):
    """Measured over one second."""
    before, since = proxy.cpu_seconds(), time.monotonic()
    time.sleep(1)
    return (proxy.cpu_seconds() - before) / (time.monotonic() - since)


def reload(proxy, endpoints, more=()):
    """The new configuration is in force when this returns."""
    before = len(proxy.find_logs("configuration reloaded"))
    proxy.reload(endpoints, dict(more))
    eventually(lambda: len(proxy.find_logs("configuration reloaded")) > before, "the reload is done", 5)


# ---- loops that take all of the CPU

def blocks_in_use(proxy):
    """Told by the log: while blocks are short nobody gets a status page."""
    before = len(proxy.find_logs(name="buffers"))
    proxy.signal(signal.SIGUSR1)
    eventually(lambda: len(proxy.find_logs(name="buffers")) > before, "the pools are in the log")
    return proxy.find_logs(name="buffers")[-1]["used"]


@pytest.mark.parametrize("profile,ctype", [("auto", "application/octet-stream"), ("standard", "text/plain")])
def test_no_block_for_a_reply_that_is_gathered(world, profile, ctype):
    """Waiting requests and half heads hold every block there is for backend bytes. A reply that is sent in large pieces has to wait for
    one, and must let the others go on meanwhile: otherwise nobody's leaving is seen, and no block ever comes back."""
    server = world.backend(OpenAIBackend, "a", ["m1"])
    more, halves = Gate(), Gate()

    def handler(conn, request):
        if request.json().get("stream"):
            conn.start_chunked(ctype)
            conn.chunk(b"x" * 100)
            more.wait(30)
            conn.chunk(b"x" * 60000)
            conn.end_chunks()
            return
        halves.wait(30)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")
        conn.wait_close(30)
    server.on(CHAT, handler)
    proxy = world.olla({"a": rarely_probed(server)}, {"proxy.profile": profile, "proxy.queue.timeout": "60s"})
    size = proxy.pool("buffers")["count"]
    reserved = size // 6 + 2  # OLLA_RESERVED_BUFS; backend bytes leave half of that
    streaming = proxy.client()
    try:
        streaming.start_post(PATH, {"model": "m1", "stream": True})
        reply = streaming.read_head("POST")
        reply.read_at_least(100)
        one = request_bytes("POST", PATH, json_headers(), dump({"model": "m1"}))
        waiting = [world.client(proxy) for _ in range(size - reserved + 10)]
        for client in waiting:
            client.send(one + one[:60])  # what is behind a request keeps its block in use
        eventually(lambda: blocks_in_use(proxy) >= size - reserved, "new work has its share of the blocks", pause=0.1)
        halves.open()
        eventually(lambda: blocks_in_use(proxy) >= size - reserved // 2, "backend bytes have theirs", pause=0.1)
        more.open()
        time.sleep(0.2)
        assert cpu_per_second(proxy) < UNHURRIED
        world.close_clients()
        with proxy.client() as client:
            assert client.request("GET", "/internal/health", timeout=5).status == 200
        assert reply.read_rest().complete and len(reply.body) == 60100
        assert cpu_per_second(proxy) < UNHURRIED
    finally:
        streaming.close()


class Narrow(Client):
    """A connection that is full after some KB: small segments make for small buffers on both sides."""

    def __init__(self, port):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self.sock.settimeout(WAIT)
        self.sock.connect(("127.0.0.1", port))
        self.buf, self.at_eof, self.was_reset = b"", False, False


def test_heartbeats_to_a_full_socket(world):
    """Slow (10 s). A client that does not read (a laptop that sleeps) takes no heartbeats either: nothing is to be done until it does."""
    server = world.backend(Ollama, "a", ["m1"])
    server.on("/v1/messages", hold)
    proxy = world.olla({"a": rarely_probed(server)}, {"proxy.heartbeat.interval": "1ms"})
    clients = [Narrow(proxy.port) for _ in range(5)]
    world.clients += clients
    for client in clients:
        client.start_post("/v1/messages", ANTHROPIC.body)
    server.wait_calls(len(clients))

    def all_full():
        """Each holds the block with its request, and one with the heartbeat that does not fit; the kernel may still find some room for it."""
        for _ in range(10):
            if proxy.pool("buffers")["used"] < 2 * len(clients):
                return False
            time.sleep(0.1)
        return True
    eventually(all_full, "all sockets are full, and stay so", 60, 0.1)
    assert cpu_per_second(proxy) < UNHURRIED
    reply = clients[0].read_head("POST")
    reply.read_at_least(20000)
    assert reply.body == ANTHROPIC.beat * (len(reply.body) // len(ANTHROPIC.beat)), "and go on when it reads again"


# ---- a reload that puts another machine behind a name

@pytest.mark.parametrize("health", ["http", "passive", "none"])
def test_reload_to_another_machine(world, health):
    """The very first request goes to the new machine, whatever is known about its health; models of the old one are forgotten."""
    old, new = world.backend(OpenAIBackend, "old", ["m1", "m-old"]), world.backend(OpenAIBackend, "new", ["m1", "m-new"])
    proxy = world.olla({"a": rarely_probed(old, health=health)}, {"proxy.connection_keep_alive": "60s"}, ready={"a": 2})
    for _ in range(2):
        assert proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "old"
    reload(proxy, {"a": rarely_probed(new, health=health)}, {"proxy.connection_keep_alive": "60s"})
    if health == "http":
        proxy.wait_healthy({"a": 1})
    assert proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "new"
    proxy.wait_healthy({"a": 2})
    assert sorted(m["id"] for m in proxy.get("/v1/models").json()["data"]) == ["m-new", "m1"]
    assert proxy.post(PATH, {"model": "m-new"}).json()["served_by"] == "new"
    assert proxy.post(PATH, {"model": "m-old"}).status == 404
    eventually(lambda: all(conn.closed_how for conn in old.connections), "connections to the old machine are closed", 5)
    assert len(old.calls) == 2


class Moved:
    """Requests run on the old machine, while a reload puts a new one behind the same name."""

    def __init__(self, world, then, count=1, headers=(), more=None, **keys):
        self.old, self.new = llama(world, "old"), llama(world, "new")
        self.gate = Gate()
        self.old.on(CHAT, lambda c, r: (self.gate.wait(20), then(c, r)))
        self.new.on(CHAT, good)
        more = {name: rarely_probed(server) for name, server in (more or {}).items()}
        proxy = self.proxy = world.olla(dict({"a": rarely_probed(self.old, **keys)}, **more), PRIORITY)
        self.clients = [world.client(proxy) for _ in range(count)]
        for client in self.clients:
            client.start_post(PATH, {"model": "m1", "stream": True}, headers)
        self.old.wait_calls(count)
        reload(proxy, dict({"a": rarely_probed(self.new, **keys)}, **more), PRIORITY)
        proxy.wait_healthy({"a": 1})

    def replies(self):
        self.gate.open()
        return [client.read_head("POST").read_rest() for client in self.clients]


@pytest.mark.parametrize("health", ["http", "passive"])
def test_limit_of_the_old_machine(world, health):
    """`Retry-After: 600` was said by a machine that is not in use any more; the new one is not to stand idle for ten minutes."""
    moved = Moved(world, lambda c, r: c.reply({"error": "busy"}, 429, headers={"Retry-After": "600"}), health=health)
    assert moved.replies()[0].status == 429
    for _ in range(3):
        reply = moved.proxy.post(PATH, {"model": "m1"})
        assert (reply.status, reply.body) == (200, b'{"served_by":"new"}')
    assert moved.proxy.endpoint("a")["limited_for_ms"] == 0


def broken_stream(conn, _):
    conn.start_chunked()
    conn.chunk(openai_chunk("half"))
    conn.rst()


@pytest.mark.parametrize("how", ["500", "broken-stream", "reset"])
def test_failures_of_the_old_machine(world, how):
    """It was switched off, of course its requests failed. That says nothing about its successor."""
    then = {"500": bad, "broken-stream": broken_stream, "reset": lambda c, r: c.rst()}[how]
    moved = Moved(world, then, 4, health="passive")
    for reply in moved.replies():
        assert reply.status >= 500 or not reply.complete
    seen = moved.proxy.endpoint("a")
    assert (seen["breaker"]["state"], seen["breaker"]["failures"], seen["status"]) == ("closed", 0, "healthy"), seen
    assert moved.proxy.post(PATH, {"model": "m1"}).json()["served_by"] == "new"


def test_session_of_the_old_machine(world):
    """The conversation is in the cache of a machine that has gone: the new one is not its home because it bears the same name."""
    other = llama(world, "other")
    headers = {"X-Olla-Session-ID": "talk"}
    moved = Moved(world, good, 1, headers, {"b": other}, priority=200)
    reply = moved.replies()[0]
    assert (reply.json()["served_by"], reply.get("X-Olla-Sticky-Session")) == ("old", "miss")
    words = [moved.proxy.post(PATH, {"model": "m1"}, headers).get("X-Olla-Sticky-Session") for _ in range(2)]
    assert words == ["miss", "hit"]


# ---- trials of the breaker

def start_trial(world, reply, open_time="300ms"):
    """(proxy, server, script): the breaker of `a` has opened, its time is over, and the fourth request will get `reply`."""
    server = llama(world, "a")
    script = Script(server, bad, bad, bad, reply)
    proxy = world.olla({"a": endpoint(server, health="passive")}, settings(open_time=open_time))
    open_it(proxy)
    wait_for_trial(proxy)
    return proxy, server, script


@pytest.mark.parametrize("when", ["during", "afterwards"])
@pytest.mark.parametrize("reply", [good, bad], ids=["good", "bad"])
@pytest.mark.parametrize("how", ["sherpa", "none"])
def test_trial_under_a_reload(world, how, reply, when):
    """A configuration without breakers comes and goes while a trial runs: who else should end it? Without an end the machine is lost."""
    gate = Gate()
    proxy, server, _ = start_trial(world, lambda c, r: (gate.wait(20), reply(c, r)))
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1"})
    server.wait_calls(4)
    with_breaker = {"a": endpoint(server, health="passive")}, settings(open_time="300ms")
    if how == "sherpa":
        reload(proxy, with_breaker[0], dict(with_breaker[1], **{"proxy.engine": "sherpa"}))
    else:
        reload(proxy, {"a": endpoint(server, health="none")}, with_breaker[1])
    assert ask(proxy).status == 200, "without a breaker everybody goes"
    if when == "afterwards":
        reload(proxy, *with_breaker)
    gate.open()
    assert client.read_response("POST").status == (200 if reply is good else 500)
    if when == "during":
        reload(proxy, *with_breaker)
    eventually(lambda: ask(proxy).status == 200, "the machine is in use again", 5, 0.05)
    assert state(proxy) == "closed"


def long_stream(gate, end):
    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        gate.wait(20)
        end(conn)
    return handler


def test_trial_that_streams(world):
    """An answer may take ten minutes. That it has begun shows that the machine works; nobody has to wait for its end."""
    gate = Gate()
    proxy, server, _ = start_trial(world, long_stream(gate, lambda conn: conn.end_chunks()))
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1", "stream": True})
    reply = client.read_head("POST")
    reply.read_at_least(10)
    assert [ask(proxy).status for _ in range(3)] == [200] * 3
    assert state(proxy) == "closed" and not reply.complete
    gate.open()
    assert reply.read_rest().complete and state(proxy) == "closed"
    assert len(server.calls) == 7


def test_trial_that_tunnels(world):
    """A WebSocket lasts as long as a conversation: all day."""
    proxy, server, _ = start_trial(world, good)
    server.on("/v1/realtime", silent)
    client = world.client(proxy)
    client.send(request_bytes("GET", "/v1/realtime?model=m1", ASK))
    assert client.read_head().status == 101
    assert [ask(proxy).status for _ in range(3)] == [200] * 3
    assert state(proxy) == "closed" and proxy.endpoint("a")["connections"] == 1


def test_trial_that_breaks_off(world):
    """A head alone is not enough: the machine that breaks off in the middle is left alone again."""
    gate = Gate()
    proxy, _, script = start_trial(world, long_stream(gate, lambda conn: conn.rst()))
    script.then = bad
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1", "stream": True})
    reply = client.read_head("POST")
    reply.read_at_least(10)
    times = len(proxy.find_logs("breaker", state="open"))
    gate.open()
    assert not reply.read_rest().complete
    eventually(lambda: len(proxy.find_logs("breaker", state="open")) > times, "it is open again", 5)


def test_two_trials(world):
    """One streams, the next one fails: the machine does not work for all, and is left alone until its time has come again."""
    gate = Gate()
    proxy, server, script = start_trial(world, long_stream(gate, lambda conn: conn.end_chunks()), "1s")
    script.then = bad
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1", "stream": True})
    reply = client.read_head("POST")
    reply.read_at_least(10)
    assert [ask(proxy).status for _ in range(3)] == [500, 503, 503] and len(server.calls) == 5
    gate.open()
    assert reply.read_rest().complete


# ---- behind a heartbeat

def fleet(world, count):
    servers = [world.backend(Ollama, "ab"[n], ["m1"]) for n in range(count)]
    return servers, world.olla({s.name: rarely_probed(s, health="none") for s in servers}, INTERVAL)


def without_beats(reply, dialect):
    tail = re.sub(b"^(?:%s)+" % re.escape(dialect.beat), b"", reply.body)
    assert tail != reply.body, "heartbeats first"
    return tail


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "several"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [9000, 20000, 300000])
def test_document_instead_of_a_stream(world, size, framing, count):
    """A server that knows no streams answers with one document, however long and prettily printed. The client gets it all as one event."""
    document = {"id": "c1", "choices": [{"message": {"content": 'two\nlines "\\ \u00e4'}}], "pad": ["x" * 50] * (size // 55)}
    text = json.dumps(document, indent=1).replace("\n", "\n" if framing == "length" else "\r\n").encode()
    assert len(text) >= size
    gate = Gate()

    def handler(conn, _):
        gate.wait(20)
        if framing == "length":
            conn.reply(text)
            return
        conn.start_chunked("application/json")
        for at in range(0, len(text), 7001):
            conn.chunk(text[at:at + 7001])
        conn.end_chunks()
    servers, proxy = fleet(world, count)
    for server in servers:
        for dialect in THREE:
            server.on(dialect.server_path, handler)
    clients = [start(world, proxy, dialect) for dialect in THREE]
    replies = [beats(client, dialect, 1) for client, dialect in zip(clients, THREE)]
    gate.open()
    for reply, dialect in zip(replies, THREE):
        assert reply.read_rest(5).complete, "the answer is whole, and so is the stream"
        form = rb"([^\r\n]+)\n" if dialect is OLLAMA else rb"data: ([^\r\n]+)\n\n"
        found = re.fullmatch(form, without_beats(reply, dialect))
        assert found, (dialect, reply.body[:200], reply.body[-200:])
        assert json.loads(found.group(1)) == document
        entry = proxy.access(reply.get("X-Olla-Request-ID"))
        assert (entry["status"], entry["end"], entry["attempts"]) == (200, "--", 1), entry


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "several"])
@pytest.mark.parametrize("body", [dump({"error": {"message": "out of memory", "type": "x"}, "trace": ["line"] * 2800}), b"out of memory\n" * 1500],
                         ids=["json", "text"])
def test_long_error_instead_of_a_stream(world, body, count):
    """A stack trace of 20 KB is an error all the same: told as one, and not like an answer that is complete."""
    assert len(body) >= 19000
    gate = Gate()
    servers, proxy = fleet(world, count)
    for server in servers:
        for dialect in THREE:
            server.on(dialect.server_path, lambda c, r: (gate.wait(20), c.reply(body, 500)))
    clients = [start(world, proxy, dialect) for dialect in THREE]
    replies = [beats(client, dialect, 1) for client, dialect in zip(clients, THREE)]
    gate.open()
    for client, reply, dialect in zip(clients, replies, THREE):
        assert cut_off(client, reply, dialect)


@pytest.mark.parametrize("ending", ["reset", "eof"])
def test_document_that_breaks_off(world, ending):
    """Half a document in an event, then the truth in another one of its own; never the end of a whole answer."""
    gate = Gate()

    def handler(conn, _):
        gate.wait(20)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"half\":\"of")
        time.sleep(0.1)
        getattr(conn, {"reset": "rst", "eof": "fin"}[ending])()
    servers, proxy = fleet(world, 1)
    servers[0].on(CHAT, handler)
    client = start(world, proxy, OPENAI)
    reply = beats(client, OPENAI, 1)
    gate.open()
    assert not reply.read_rest().complete
    first, _, rest = without_beats(reply, OPENAI).partition(b"\n\n")
    assert first == b'data: {"half":"of'
    assert OPENAI.error_of(rest)


def test_books_of_a_retry_behind_a_heartbeat(world):
    """The first machine failed, the second one served: that is what log and statistics say, although 200 was sent before either."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    gate = Gate()
    a.on(CHAT, lambda c, r: (gate.wait(20), c.reply({"error": "loading"}, 503)))
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": rarely_probed(b)}, dict(PRIORITY, **INTERVAL))
    client = start(world, proxy, OPENAI)
    reply = beats(client, OPENAI, 1)
    gate.open()
    reply.read_rest()
    assert reply.complete and reply.body.endswith(b"data: [DONE]\n\n")
    entry = proxy.access(reply.get("X-Olla-Request-ID"))
    assert (entry["status"], entry["end"], entry["endpoint"], entry["attempts"]) == (200, "--", "b", 2), entry
    assert [proxy.endpoint(name)["success_rate"] for name in "ab"] == ["0%", "100%"]
    assert [proxy.endpoint(name)["requests"] for name in "ab"] == [1, 1]


# ---- the waiting line

def test_full_line_beside_an_idle_machine(world):
    """The line is full of requests for a model that only `a` has. `a` gets free in the same turn in which requests come that `b` can
    serve as well: the place is taken by who waited, and `b` is there for the others. No one is sent away."""
    a, b = world.backend(OpenAIBackend, "a", ["m1", "m2"]), world.backend(OpenAIBackend, "b", ["m1"])
    gates, lock = {}, threading.Lock()

    def gate(tag):
        with lock:
            return gates.setdefault(tag, Gate())
    a.on(CHAT, lambda c, r: (gate(r.json()["tag"]).wait(20), c.reply({"served_by": "a"})))
    proxy = world.olla({"a": rarely_probed(a, max_concurrent=1, priority=200), "b": rarely_probed(b, max_concurrent=5)},
                       dict(PRIORITY, **{"proxy.queue.max_waiting": 1, "proxy.sticky_sessions.enabled": False}), ready={"a": 2, "b": 1})
    for n in range(10):
        runs, waits = proxy.client(), proxy.client()
        others = [proxy.client() for _ in range(4)]
        world.clients += [runs, waits] + others
        runs.start_post(PATH, {"model": "m2", "tag": "runs-%d" % n})
        a.wait_calls(2 * n + 1)
        waits.start_post(PATH, {"model": "m2", "tag": "waits-%d" % n})
        eventually(lambda: proxy.status()["queue"]["waiting"] == 1, "the line is full")
        proxy.signal(signal.SIGSTOP)
        try:
            gate("runs-%d" % n).open()
            time.sleep(0.02)
            for client in others:
                client.start_post(PATH, {"model": "m1", "tag": "other"})
            time.sleep(0.02)
        finally:
            proxy.signal(signal.SIGCONT)
        for client in others:
            reply = client.read_response("POST")
            assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, "b"), reply.body
        gate("waits-%d" % n).open()
        assert [client.read_response("POST").status for client in (runs, waits)] == [200, 200]


# ---- names

@pytest.mark.parametrize("health", ["passive", "none"])
def test_name_that_gets_its_address_later(world, tmp_path, monkeypatch, health):
    """Slow (5 s). The machine is switched on after olla, and only then known to the name server: no probe will find that out."""
    hosts, switch, start_it = tmp_path / "hosts", tmp_path / "nsswitch.conf", tmp_path / "start"
    hosts.write_text("127.0.0.1 localhost\n")
    switch.write_text("hosts: files\n")
    start_it.write_text('#!/bin/sh\nexec unshare --mount sh -c \'mount --bind "%s" /etc/hosts && mount --bind "%s" /etc/nsswitch.conf && '
                        'exec "$@"\' sh "%s" "$@"\n' % (hosts, switch, harness.BINARY))
    start_it.chmod(0o755)
    try:
        works = subprocess.run([start_it, "-h"], capture_output=True, timeout=10).returncode == 0
    except OSError:
        works = False
    if not works:
        pytest.skip("no mount namespace with a hosts file of its own here")
    server = world.backend(OpenAIBackend, "a", ["m1"])
    monkeypatch.setattr(harness, "BINARY", str(start_it))
    spec = dict(rarely_probed(server, health=health), url="http://later.test:%d" % server.port)
    proxy = world.olla({"a": spec}, ready=None)
    eventually(lambda: "no address" in proxy.endpoint("a")["reason"], "the name is asked for in vain")
    assert proxy.post(PATH, {"model": "m1"}).status >= 400
    hosts.write_text("127.0.0.1 localhost later.test\n")
    eventually(lambda: proxy.post(PATH, {"model": "m1"}).status == 200, "the machine is in use", 20, 0.1)
    assert proxy.endpoint("a")["status"] == "healthy"
