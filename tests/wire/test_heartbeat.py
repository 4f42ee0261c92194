"""Silence: a client that waits for minutes is kept alive by bytes that mean nothing, and learns the truth when it comes."""

import gzip
import json
import re
import threading
import time

import pytest

from backend import Gate, eventually, hold, openai_chunk, sse
from client import chunked, dump, full_body, json_headers, request_bytes
from harness import World, endpoint, new_id, rarely_probed, report
from servers import Ollama

CHAT = "/v1/chat/completions"
INTERVAL = {"proxy.heartbeat.interval": "150ms"}
SILENT = 0.6  # four intervals
PRIORITY = {"proxy.load_balancer": "priority"}
CALM = {"proxy.breaker.consecutive_failures": 1000, "proxy.breaker.failure_percent": 100}
USER = [{"role": "user", "content": "hello"}]


def named(kind, obj):
    return b"event: " + kind + b"\ndata: " + dump(obj) + b"\n\n"


class Dialect:
    """What a stream looks like: the request, the heartbeat, the events of a good answer, and how an error is told."""

    def __init__(self, name, path, body, ctype, beat, events):
        self.name, self.path, self.body, self.ctype, self.beat, self.events = name, path, dict({"model": "m1"}, **body), ctype, beat, events

    def __repr__(self):
        return self.name

    @property
    def server_path(self):
        return re.sub(r"^/olla/[a-z]+", "", self.path).partition("?")[0]

    def error_of(self, tail):
        """The message of the one error event that `tail` consists of."""
        if self.beat == b" ":
            lines = [line for line in tail.split(b"\n") if line]
            assert len(lines) == 1 and tail.endswith(b"\n"), tail
            error = json.loads(lines[0])
            assert set(error) == {"error"} and isinstance(error["error"], str), tail
            return error["error"]
        assert tail.endswith(b"\n\n") and b"\n\n" not in tail[:-2], "one event and no more: %r" % tail
        lines = tail[:-2].split(b"\n")
        if self.beat.startswith(b"event"):
            assert lines[0] == b"event: error" and len(lines) == 2, tail
            error = json.loads(lines[1][len(b"data: "):])
            assert error["type"] == "error" and error["error"]["type"], tail
        else:
            assert len(lines) == 1 and lines[0].startswith(b"data: "), tail
            error = json.loads(lines[0][len(b"data: "):])
            assert isinstance(error["error"], dict) and "message" in error["error"], tail
        return error["error"]["message"]


OPENAI_EVENTS = [openai_chunk("Hel"), openai_chunk("lo"), b"data: [DONE]\n\n"]
ANTHROPIC_EVENTS = [named(b"message_start", {"type": "message_start", "message": {"id": "m"}}),
                    named(b"content_block_delta", {"type": "content_block_delta", "delta": {"text": "hello"}}),
                    named(b"message_stop", {"type": "message_stop"})]
OLLAMA_EVENTS = [dump({"model": "m1", "message": {"content": word}, "done": word == "!"}) + b"\n" for word in ("Hel", "lo", "!")]
PING = b'event: ping\ndata: {"type":"ping"}\n\n'

OPENAI = Dialect("openai", CHAT, {"stream": True, "messages": USER}, "text/event-stream", b": olla\n", OPENAI_EVENTS)
ANTHROPIC = Dialect("anthropic", "/v1/messages?beta=true", {"stream": True, "max_tokens": 9, "messages": USER}, "text/event-stream", PING,
                    ANTHROPIC_EVENTS)
OLLAMA = Dialect("ollama", "/api/chat", {"messages": USER}, "application/x-ndjson", b" ", OLLAMA_EVENTS)
THREE = (OPENAI, ANTHROPIC, OLLAMA)
MORE = (Dialect("openai-prefix", "/olla/ollama/v1/completions", {"stream": True, "prompt": "x"}, "text/event-stream", b": olla\n", OPENAI_EVENTS),
        Dialect("responses", "/v1/responses", {"stream": True, "input": "x"}, "text/event-stream", b": olla\n",
                [named(b"response.created", {"type": "response.created"}), named(b"response.completed", {"type": "response.completed"})]),
        Dialect("ollama-generate", "/olla/ollama/api/generate", {"prompt": "x"}, "application/x-ndjson", b" ", OLLAMA_EVENTS),
        Dialect("ollama-says-so", "/olla/proxy/api/chat", {"messages": USER, "stream": True}, "application/x-ndjson", b" ", OLLAMA_EVENTS),
        Dialect("anthropic-proxy", "/olla/proxy/v1/messages", ANTHROPIC.body, "text/event-stream", PING, ANTHROPIC_EVENTS),
        Dialect("behind-megabytes", CHAT, {"messages": [{"role": "user", "content": "x" * 3000000}], "stream": True}, "text/event-stream",
                b": olla\n", OPENAI_EVENTS))
dialects = pytest.mark.parametrize("dialect", THREE, ids=repr)


class Beat:
    """One server with all three APIs, without a breaker, behind a proxy whose heart beats fast."""

    def __init__(self):
        self.world = World()
        self.a = self.world.backend(Ollama, "a", ["m1"])
        self.proxy = self.world.olla({"a": endpoint(self.a, health="none")}, INTERVAL)

    @property
    def proxies(self):
        return self.world.proxies

    def client(self, **options):
        return self.world.client(self.proxy, **options)


@pytest.fixture
def site(kept):
    site = kept(Beat)
    site.a.forget()
    saved = dict(site.a.routes)
    yield site
    site.world.close_clients()
    site.a.routes = saved
    report(site.proxy.idle_problems() + site.world.script_failures())


def posts(server):
    return [call for call in server.calls if call.method == "POST"]


def answer(conn, dialect, events=None, **headers):
    """The whole stream."""
    conn.start_chunked(dialect.ctype, headers=headers)
    for event in dialect.events if events is None else events:
        conn.chunk(event)
    conn.end_chunks()


def streams(server, gate=None, every=THREE):
    """The server answers in each dialect, when the gate is open."""
    for dialect in every:
        server.on(dialect.server_path, lambda c, r, d=dialect: (gate and gate.wait(20), answer(c, d)))


def start(world, proxy, dialect, **options):
    """A client that has asked."""
    client = world.client(proxy)
    client.send(request_bytes("POST", dialect.path, json_headers({"X-Request-ID": new_id(dialect.name)}), dump(dialect.body), **options))
    return client


def beats(client, dialect, count=2):
    """Wait for the head and `count` heartbeats while nobody has answered yet."""
    reply = client.read_head("POST")
    assert (reply.status, reply.get("Content-Type")) == (200, dialect.ctype)
    assert [n for n, _ in reply.headers if n.lower().startswith("x-olla-")] in ([], ["X-Olla-Request-ID"]), reply.headers
    assert reply.get("X-Olla-Request-ID", "").startswith(dialect.name)
    reply.read_at_least(count * len(dialect.beat))
    assert reply.body == dialect.beat * (len(reply.body) // len(dialect.beat))
    return reply


def begun(site, path, body, first=b""):
    """A request whose answer has begun with `first`. On a slow machine a heartbeat may come before it: then once more."""
    for _ in range(20):
        client = site.client()
        client.start_post(path, full_body(path, dict({"model": "m1"}, **body)))
        reply = client.read_head("POST")
        if reply.has("X-Olla-Endpoint"):
            reply.read_at_least(len(first))
            if reply.body == first:
                return client, reply
        client.close()
    raise AssertionError("the answer never began before the first heartbeat")


def in_between(dialect, events=None):
    """The events in order, heartbeats only around them."""
    beat = b"(?:%s)*" % re.escape(dialect.beat)
    return re.compile(beat + b"".join(re.escape(event) + beat for event in (dialect.events if events is None else events)))


def whole(reply, dialect, events=None, least=1):
    """The reply is complete, unchanged but for heartbeats, and no parser sees an event that is none."""
    assert reply.complete, reply.body
    assert in_between(dialect, events).fullmatch(reply.body), reply.body
    assert reply.body.count(dialect.beat) >= least
    parsed(reply.body, dialect)


def parsed(body, dialect):
    """As the client libraries do it: the lenient ones drop events without data, the others choke on them."""
    if dialect.beat == b" ":
        for line in body.removesuffix(b"\n").split(b"\n"):
            assert isinstance(json.loads(line), dict)
        return
    for block in re.split(rb"\r?\n\r?\n", body)[:-1]:
        data = [line for line in re.split(rb"\r?\n", block) if line.startswith(b"data:")]
        assert data, "an event without data: %r" % block
        for line in data:
            assert line == b"data: [DONE]" or isinstance(json.loads(line[5:]), dict)


# ---- before the answer

@pytest.mark.parametrize("dialect", THREE + MORE, ids=repr)
def test_while_the_server_thinks(site, dialect):
    """Minutes of prefill without a byte: timers of the client, of nginx and of undici all fire. The bytes are exactly these."""
    gate = Gate()
    streams(site.a, gate, [dialect])
    client = start(site.world, site.proxy, dialect)
    reply = beats(client, dialect, 3)
    assert reply.framing == "chunked" and reply.get("X-Accel-Buffering") == "no"
    assert len(site.a.calls) == 1
    gate.open()
    reply.read_rest()
    whole(reply, dialect, least=3)
    entry = site.proxy.access(reply.get("X-Olla-Request-ID"))
    assert (entry["status"], entry["end"], entry["attempts"], entry["endpoint"]) == (200, "--", 1, "a")
    assert len(site.a.calls) == 1 and site.a.calls[0].body == dump(dialect.body)
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200, "the connection goes on"


def test_quick_answers_have_none(world):
    """The counter-proof: with the default of 15 s whoever answers in time is relayed with all headers."""
    a = world.backend(Ollama, "a", ["m1"])
    streams(a)
    proxy = world.olla({"a": a})
    for dialect in THREE:
        reply = proxy.post(dialect.path, dialect.body)
        assert reply.complete and reply.body == b"".join(dialect.events)
        assert reply.get("X-Olla-Endpoint") == "a" and reply.has("X-Olla-Sticky-Session")


def test_while_connecting(world):
    """A machine that swallows connections: the client is kept alive until the next one is found."""
    a, b = world.backend(Ollama, "a", ["m1"]), world.backend(Ollama, "b", ["m1"])
    streams(b)
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": b},
                       dict(PRIORITY, **{"proxy.connection_timeout": "1s", "proxy.heartbeat.interval": "150ms"}))
    a.go_silent()
    clients = [start(world, proxy, dialect) for dialect in THREE]
    for client, dialect in zip(clients, THREE):
        reply = beats(client, dialect, 2)
        whole(reply.read_rest(), dialect, least=2)
    assert len(posts(b)) == 3


@dialects
def test_http10(site, dialect):
    """nginx asks with HTTP/1.0: no chunks, the end of the connection is the end of the answer."""
    gate = Gate()
    streams(site.a, gate)
    client = start(site.world, site.proxy, dialect, version="HTTP/1.0")
    reply = beats(client, dialect)
    assert reply.framing == "close"
    gate.open()
    reply.read_rest()
    whole(reply, dialect, least=2)


def test_in_the_queue(world):
    """Whoever waits in line has the longest silence of all; what fails there is told as well."""
    a = world.backend(Ollama, "a", ["m1"])
    gate = Gate()
    streams(a)
    proxy = world.olla({"a": endpoint(a, max_concurrent=1)}, dict(INTERVAL, **{"proxy.queue.timeout": "2s"}))
    a.on("/v1/embeddings", lambda c, r: (gate.wait(20), c.reply({})))

    def fill():
        holder = world.client(proxy)
        holder.start_post("/v1/embeddings", {"model": "m1"})
        eventually(lambda: proxy.endpoint("a")["connections"] == 1, "the only place is taken")
        return holder
    holder = fill()
    for client, dialect in [(start(world, proxy, dialect), dialect) for dialect in THREE]:
        reply = beats(client, dialect).read_rest()
        assert not reply.complete and client.read_eof() == b""
        tail = re.sub(b"^(?:%s)+" % re.escape(dialect.beat), b"", reply.body)
        assert dialect.error_of(tail)
        if dialect is OPENAI:
            assert json.loads(tail[6:])["error"]["code"] == "queue_timeout"
    assert len(a.calls) == 1
    waiting = [(start(world, proxy, dialect), dialect) for dialect in THREE]
    replies = [(beats(client, dialect, 1), dialect) for client, dialect in waiting]
    gate.open()
    assert holder.read_response("POST").status == 200
    for reply, dialect in replies:
        whole(reply.read_rest(), dialect)


def test_session_behind_a_heartbeat(world):
    """The first turn took minutes to load the model: the second one must go to the machine that has it now."""
    group = {name: world.backend(Ollama, name, ["m1"]) for name in "abcd"}
    gate = Gate()
    for server in group.values():
        streams(server, gate, [OPENAI])
    proxy = world.olla(group, INTERVAL)
    client = world.client(proxy)
    client.start_post(CHAT, OPENAI.body, {"X-Olla-Session-ID": "talk", "X-Request-ID": "openai-1"})
    reply = beats(client, OPENAI)
    gate.open()
    whole(reply.read_rest(), OPENAI)
    home = proxy.access("openai-1")["endpoint"]
    for _ in range(3):
        reply = proxy.post("/v1/embeddings", {"model": "m1"}, {"X-Olla-Session-ID": "talk"})
        assert (reply.get("X-Olla-Endpoint"), reply.get("X-Olla-Sticky-Session")) == (home, "hit")


# ---- in the middle of it

@dialects
def test_between_events(site, dialect):
    """A model that calls a tool is silent in the middle of its answer, too."""
    gates = [Gate() for _ in dialect.events[:-1]]

    def handler(conn, request):
        conn.start_chunked(dialect.ctype)
        for event, gate in zip(dialect.events, gates):
            conn.chunk(event)
            gate.wait(20)
        conn.chunk(dialect.events[-1])
        conn.end_chunks()
    site.a.on(dialect.server_path, handler)
    _, reply = begun(site, dialect.path, dialect.body, dialect.events[0])
    size = 0
    for event, gate in zip(dialect.events, gates):
        size += len(event)
        reply.read_at_least(size + 2 * len(dialect.beat))
        assert reply.body.endswith(dialect.beat * 2)
        size = len(reply.body)
        gate.open()
    reply.read_rest()
    whole(reply, dialect, least=2 * len(gates))


PACKED = gzip.compress(b"".join(OPENAI_EVENTS) * 20)
PARTS = {
    # name: (path, content type, further headers, what comes first, the rest, whether heartbeats may come in between)
    "in-a-value": (CHAT, "text/event-stream", {}, b'data: {"a', b'":1}\n\n', False),
    "in-a-field-name": (CHAT, "text/event-stream", {}, b"data: {}\n\nda", b"ta: {}\n\n", False),
    "before-the-blank-line": (CHAT, "text/event-stream", {}, b'data: {"a":1}\n', b"\n", False),
    "behind-the-event-field": (CHAT, "text/event-stream", {}, b"event: x\n", b"data: {}\n\n", False),
    "behind-an-id": (CHAT, "text/event-stream", {}, b"data: {}\n\nid: 7\r\n", b"data: {}\r\n\r\n", False),
    "between-data-lines": (CHAT, "text/event-stream", {}, b'data: {"a":\n', b'data: 1}\n\n', False),
    "in-a-comment": (CHAT, "text/event-stream; charset=utf-8", {}, b": keep", b"-alive\n\ndata: {}\n\n", False),
    "in-an-anthropic-event": ("/v1/messages", "text/event-stream", {}, b"event: message_start\n", b"data: {}\n\n", False),
    "in-a-line": ("/api/chat", "application/x-ndjson", {}, b'{"a":1}\n{"done":', b"true}\n", False),
    "in-one-json-document": (CHAT, "application/json", {}, b'{"id":', b'"1"}', False),
    "in-plain-text": (CHAT, "text/plain", {}, b"one\n\n", b"two", False),
    "compressed": (CHAT, "text/event-stream", {"Content-Encoding": "gzip"}, PACKED[:90], PACKED[90:], False),
    "compressed-behind-a-newline": ("/api/chat", "application/x-ndjson", {"Content-Encoding": "zstd"}, b"\x28\xb5\x2f\xfd\n", b"\x00\n", False),
    "behind-an-event": (CHAT, "text/event-stream", {}, b"data: {}\n\n", b"data: {}\n\n", True),
    "behind-crlf": (CHAT, "text/event-stream;charset=UTF-8", {}, b"data: {}\r\n\r\n", b"data: {}\r\n\r\n", True),
    "behind-a-line": ("/api/chat", "application/x-ndjson", {}, b'{"a":1}\n', b'{"done":true}\n', True),
}


def test_never_inside_an_event(site):
    """A heartbeat in the middle of a line breaks the very stream that it should keep alive."""
    gate = Gate()

    def handler(conn, request):
        _, ctype, headers, first, rest, _ = PARTS[request.json()["part"]]
        conn.start_chunked(ctype, headers=headers)
        for piece in (first[:3], first[3:]):
            conn.chunk(piece) if piece else None
        gate.wait(20)
        conn.chunk(rest)
        conn.end_chunks()
    running = {}
    for name, (path, _, _, first, _, _) in PARTS.items():
        site.a.on(path, handler)
        running[name] = begun(site, path, {"stream": True, "part": name}, first)
    time.sleep(SILENT)
    for name, (client, reply) in running.items():
        if PARTS[name][5]:
            reply.read_at_least(len(PARTS[name][3]) + 1)
        else:
            try:
                client.expect_silence(0.01)
            except AssertionError as error:
                raise AssertionError("%s: %s" % (name, error)) from None
    gate.open()
    for name, (client, reply) in running.items():
        path, _, headers, first, rest, allowed = PARTS[name]
        reply.read_rest()
        assert reply.complete and reply.get("Content-Encoding") == headers.get("Content-Encoding"), name
        if allowed:
            assert re.fullmatch(re.escape(first) + (b" +" if path == "/api/chat" else b"(: olla\n)+") + re.escape(rest), reply.body), reply.body
        else:
            assert reply.body == first + rest, name


def test_boundary_in_two_pieces(site):
    """The blank line that ends an event may come alone: then a heartbeat may follow, and not before."""
    gates = [Gate(), Gate()]

    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(b"data: {}\n")
        gates[0].wait(20)
        conn.chunk(b"\n")
        gates[1].wait(20)
        conn.end_chunks()
    site.a.on(CHAT, handler)
    client, reply = begun(site, CHAT, OPENAI.body, b"data: {}\n")
    client.expect_silence(SILENT)
    gates[0].open()
    reply.read_at_least(10 + 14)
    gates[1].open()
    reply.read_rest()
    assert reply.complete and re.fullmatch(rb"data: \{\}\n\n(: olla\n){2,}", reply.body), reply.body


def test_event_stream_of_a_given_length(site):
    """Bytes added to a body whose length was announced would push its end out of it."""
    gate = Gate()
    body = b"".join(OPENAI_EVENTS)

    def handler(conn, request):
        conn.head(200, {"Content-Type": "text/event-stream", "Content-Length": str(len(body))})
        conn.send(OPENAI_EVENTS[0])
        gate.wait(20)
        conn.send(body[len(OPENAI_EVENTS[0]):])
    site.a.on(CHAT, handler)
    client, reply = begun(site, CHAT, OPENAI.body, OPENAI_EVENTS[0])
    time.sleep(SILENT)
    gate.open()
    whole(reply.read_rest(), OPENAI, least=0)
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


@pytest.mark.parametrize("accept", ["gzip", "gzip, deflate, br, zstd"])
def test_compressed_reply_behind_heartbeats(site, accept):
    """The head has gone down without Content-Encoding: compressed bytes behind it are rubbish to the client."""
    gate = Gate()
    text = b"".join(OPENAI_EVENTS)

    def handler(conn, request):
        gate.wait(20)
        if "gzip" in (request.get("Accept-Encoding") or ""):
            conn.start_chunked(headers={"Content-Encoding": "gzip"})
            conn.chunk(gzip.compress(text))
            conn.end_chunks()
        else:
            answer(conn, OPENAI)
    site.a.on(CHAT, handler)
    client = site.client()
    client.start_post(CHAT, OPENAI.body, {"Accept-Encoding": accept})
    opener = threading.Timer(SILENT, gate.open)
    opener.start()
    reply = client.read_response("POST")
    opener.join()
    if reply.get("Content-Encoding") == "gzip":
        assert reply.complete and gzip.decompress(reply.body) == text
    elif reply.complete:
        whole(reply, OPENAI, least=0)
    else:
        assert OPENAI.error_of(reply.body.replace(b": olla\n", b""))


# ---- who gets none

ASKED = {
    "openai-no-word": (CHAT, {"messages": USER}), "openai-false": (CHAT, {"messages": USER, "stream": False}),
    "openai-null": (CHAT, {"messages": USER, "stream": None}), "nested": (CHAT, {"options": {"stream": True}, "messages": [{"stream": True}]}),
    "text": (CHAT, {"messages": [{"role": "user", "content": '"stream":true'}]}), "embeddings": ("/v1/embeddings", {"input": "x"}),
    "ollama-false": ("/api/chat", {"messages": USER, "stream": False}), "ollama-generate-false": ("/api/generate", {"stream": False}),
    "ollama-embed": ("/api/embed", {"input": "x"}), "ollama-show": ("/api/show", {}), "anthropic-no-word": ("/v1/messages", {"messages": USER}),
}


def test_not_for_single_answers(site):
    """A program that waits for one JSON document gets that document, with its status and its length."""
    gate = Gate()
    clients = {}
    for name, (path, body) in ASKED.items():
        site.a.on(path, lambda c, r: (gate.wait(20), c.reply({"fine": True}, 201 if "show" not in r.path else 200)))
        clients[name] = site.client()
        clients[name].start_post(path, full_body(path, dict(body, model="m1")))
    site.a.wait_calls(len(ASKED))
    time.sleep(SILENT)
    for name, client in clients.items():
        try:
            client.expect_silence(0.01)
        except AssertionError as error:
            raise AssertionError("%s: %s" % (name, error)) from None
    gate.open()
    for name, client in clients.items():
        reply = client.read_response("POST")
        assert (reply.framing, reply.body, reply.get("X-Olla-Endpoint")) == ("length", b'{"fine":true}', "a"), name
        assert reply.status == (200 if "show" in name else 201)


@pytest.mark.parametrize("interval", ["0", "1h"])
def test_switched_off(world, interval):
    """interval = 0: not a byte is invented; a long one is not a short one."""
    a = world.backend(Ollama, "a", ["m1"])
    gate = Gate()
    streams(a, gate)
    proxy = world.olla({"a": a}, {"proxy.heartbeat.interval": interval})
    clients = [start(world, proxy, dialect) for dialect in THREE]
    a.wait_calls(3)
    time.sleep(SILENT / 2)
    for client in clients:
        client.expect_silence(0.01)
    gate.open()
    for client, dialect in zip(clients, THREE):
        reply = client.read_response("POST")
        assert reply.complete and reply.body == b"".join(dialect.events) and reply.get("X-Olla-Endpoint") == "a"


# ---- failure behind the first heartbeat

def reset(conn, request):
    conn.rst()


FAILURES = {"reset": reset, "eof": lambda c, r: c.fin(), "503": lambda c, r: c.reply({"error": {"message": "overloaded"}}, 503),
            "half-a-head": lambda c, r: (c.send(b"HTTP/1.1 200 OK\r\nContent-"), time.sleep(0.05), c.fin())}


@pytest.mark.parametrize("how", list(FAILURES))
def test_failover_behind_a_heartbeat(world, how):
    """Nothing of an answer has gone down yet: the next machine may still give it, and the client notices nothing."""
    a, b = world.backend(Ollama, "a", ["m1"]), world.backend(Ollama, "b", ["m1"])
    gate = Gate()
    for dialect in THREE:
        a.on(dialect.server_path, lambda c, r: (gate.wait(20), FAILURES[how](c, r)))
    streams(b)
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": b}, dict(PRIORITY, **dict(INTERVAL, **CALM)))
    clients = [start(world, proxy, dialect) for dialect in THREE]
    replies = [beats(client, dialect) for client, dialect in zip(clients, THREE)]
    assert len(posts(a)) == 3 and posts(b) == []
    gate.open()
    for reply, dialect in zip(replies, THREE):
        whole(reply.read_rest(), dialect, least=2)
        entry = proxy.access(reply.get("X-Olla-Request-ID"))
        assert (entry["endpoint"], entry["attempts"], entry["end"]) == ("b", 2, "--")
    assert sorted(call.body for call in posts(b)) == sorted(dump(dialect.body) for dialect in THREE)


def cut_off(client, reply, dialect):
    """The message of a stream that ended with an error event, and not like a complete one."""
    reply.read_rest()
    assert client.read_eof(5) == b"" and not reply.complete
    tail = re.sub(b"^(?:%s)+" % re.escape(dialect.beat), b"", reply.body)
    assert tail != reply.body, "heartbeats first"
    message = dialect.error_of(tail)
    assert message and "127.0.0.1" not in message and b"[DONE]" not in tail
    return message


@pytest.mark.parametrize("how", ["reset", "eof", "half-a-head", "garbage"])
def test_all_failed_behind_a_heartbeat(site, how):
    """The status is 200 and cannot be taken back: the truth comes as an event, and the end is not the end of a whole answer."""
    gate = Gate()
    fail = FAILURES.get(how) or (lambda c, r: (c.send(b"SSH-2.0-OpenSSH_9.2\r\n"), c.fin()))
    clients = []
    for dialect in THREE:
        site.a.on(dialect.server_path, lambda c, r: (gate.wait(20), fail(c, r)))
        clients.append(start(site.world, site.proxy, dialect))
    replies = [beats(client, dialect) for client, dialect in zip(clients, THREE)]
    gate.open()
    for client, reply, dialect in zip(clients, replies, THREE):
        cut_off(client, reply, dialect)
        entry = site.proxy.access(reply.get("X-Olla-Request-ID"))
        assert entry["end"][0] == "S", entry


WORDS = 'context of 4096 "tokens" exceeded\nby 7 \\ \u00e4'
ERRORS = {
    "400-json": (400, {"error": {"message": WORDS, "type": "invalid_request_error", "code": 400}}),
    "400-pretty": (400, json.dumps({"error": {"message": WORDS, "type": "x"}}, indent=2)),
    "404-ollama": (404, {"error": WORDS}),
    "500-anthropic": (500, {"type": "error", "error": {"type": "api_error", "message": WORDS}}),
}


@pytest.mark.parametrize("how", list(ERRORS))
def test_error_status_behind_a_heartbeat(site, how):
    """`Prompt too long` is what the user must read, not `error 400`, nor an answer that looks complete."""
    status, body = ERRORS[how]
    gate = Gate()
    clients = []
    for dialect in THREE:
        site.a.on(dialect.server_path, lambda c, r: (gate.wait(20), c.reply(body, status)))
        clients.append(start(site.world, site.proxy, dialect))
    replies = [beats(client, dialect, 1) for client, dialect in zip(clients, THREE)]
    gate.open()
    for client, reply, dialect in zip(clients, replies, THREE):
        assert WORDS in cut_off(client, reply, dialect)


@pytest.mark.parametrize("body,ctype", [(b"CUDA out of memory", "text/plain"), (b"", "text/plain"), (b'{"detail":"Not Found"}', "application/json"),
                                        (b"<html>\r\n<h1>Bad \"Gateway\"</h1>\n\n", "text/html"), (b"{" * 200000, "application/json"),
                                        (b"\xff\xfe\x00 binary", "application/octet-stream")],
                         ids=["plain", "empty", "detail", "html", "huge", "binary"])
def test_odd_error_bodies_behind_a_heartbeat(site, body, ctype):
    """Servers say what went wrong in many ways; the event must be well-formed whatever they say."""
    gate = Gate()
    clients = []
    for dialect in THREE:
        site.a.on(dialect.server_path, lambda c, r: (gate.wait(20), c.reply(body, 500, ctype)))
        clients.append(start(site.world, site.proxy, dialect))
    replies = [beats(client, dialect, 1) for client, dialect in zip(clients, THREE)]
    gate.open()
    for client, reply, dialect in zip(clients, replies, THREE):
        message = cut_off(client, reply, dialect)
        if ctype == "text/plain" and body:
            assert body.decode() in message
        if b"detail" in body:
            assert "Not Found" in message


def test_failure_to_an_http10_client(site):
    """Close-delimited: the event for the user, the reset for the program."""
    gate = Gate()
    site.a.on(CHAT, lambda c, r: (gate.wait(20), c.rst()))
    client = start(site.world, site.proxy, OPENAI, version="HTTP/1.0")
    reply = beats(client, OPENAI)
    gate.open()
    reply.read_rest()
    assert not reply.complete and client.was_reset
    assert OPENAI.error_of(reply.body.replace(b": olla\n", b""))


def test_break_between_heartbeats_in_mid_stream(site):
    """Events, heartbeats, then the server dies: one error event, no final chunk."""
    gate = Gate()

    def handler(conn, request):
        conn.start_chunked(OLLAMA.ctype if "chat" == request.path[-4:] else OPENAI.ctype)
        conn.chunk(OLLAMA_EVENTS[0] if "chat" == request.path[-4:] else OPENAI_EVENTS[0])
        gate.wait(20)
        conn.rst()
    running = []
    for dialect in (OPENAI, OLLAMA):
        site.a.on(dialect.server_path, handler)
        client, reply = begun(site, dialect.path, dialect.body, dialect.events[0])
        reply.read_at_least(len(dialect.events[0]) + 2 * len(dialect.beat))
        running.append((client, reply, dialect))
    gate.open()
    for client, reply, dialect in running:
        reply.read_rest()
        assert not reply.complete
        match = re.match(re.escape(dialect.events[0]) + b"(?:%s)*" % re.escape(dialect.beat), reply.body)
        assert dialect.error_of(reply.body[match.end():])


@dialects
def test_client_leaves_behind_a_heartbeat(site, dialect):
    """The GPU must stop for a client that hung up while it was kept alive."""
    site.a.on(dialect.server_path, hold)
    client = start(site.world, site.proxy, dialect)
    reply = beats(client, dialect, 1)
    client.reset()
    site.world.clients.remove(client)
    eventually(lambda: site.a.calls[0].conn.closed_how, "the request to the server is cancelled", 5)
    assert site.proxy.access(reply.get("X-Olla-Request-ID"))["end"][0] == "C"


def test_stalled_upload_gets_none(site):
    """A request that has not come in is not waiting for anybody but its own client."""
    client = site.client()
    raw = request_bytes("POST", CHAT, json_headers(), dump(OPENAI.body))
    client.send(raw[:-10])
    client.expect_silence(SILENT)
    streams(site.a)
    client.send(raw[-10:])
    whole(client.read_response("POST"), OPENAI, least=0)


# ---- blanks in front of one JSON document

class Blank(Beat):
    def __init__(self):
        self.world = World()
        self.a = self.world.backend(Ollama, "a", ["m1"])
        self.proxy = self.world.olla({"a": endpoint(self.a, health="none")}, dict({"proxy.heartbeat.json": True}, **INTERVAL))


@pytest.fixture
def blank(kept):
    site = kept(Blank)
    saved = dict(site.a.routes)
    yield site
    site.world.close_clients()
    site.a.routes = saved
    report(site.proxy.idle_problems() + site.world.script_failures())


SINGLE = {"openai": (CHAT, {"messages": USER}), "openai-false": ("/olla/proxy" + CHAT, {"stream": False}),
          "embeddings": ("/v1/embeddings", {"input": "x"}), "ollama": ("/api/chat", {"stream": False}), "anthropic": ("/v1/messages", {"max_tokens": 1, "messages": USER})}


def waiting(site, answer_with, framed=request_bytes):
    """Requests for one document each, that have got at least two blanks."""
    gate = Gate()
    running = {}
    for name, (path, body) in SINGLE.items():
        site.a.on(path.replace("/olla/proxy", ""), lambda c, r: (gate.wait(20), answer_with(c, r)))
        client = site.client()
        client.send(framed("POST", path, json_headers({"X-Request-ID": name}), dump(dict(body, model="m1"))))
        running[name] = client
    replies = {}
    for name, client in running.items():
        reply = replies[name] = client.read_head("POST")
        assert (reply.status, reply.get("Content-Type")) == (200, "application/json"), name
        assert [n for n, _ in reply.headers if n.lower().startswith("x-olla-")] == ["X-Olla-Request-ID"]
        reply.read_at_least(2)
        assert set(reply.body) == {0x20}, reply.body
    gate.open()
    return replies


def test_blanks_before_a_document(blank):
    """JSON allows white space in front: it ends undici's 300 s and nginx's 60 s."""
    document = {"id": "c1", "text": "  x  " * 5000}
    for name, reply in waiting(blank, lambda c, r: c.reply(document)).items():
        reply.read_rest()
        assert reply.complete and reply.framing == "chunked", name
        assert re.fullmatch(b" {2,}" + re.escape(dump(document)), reply.body), name
        assert reply.json() == document


def test_blanks_before_a_document_in_chunks(blank):
    """The same when the server does not know the length before."""
    def handler(conn, request):
        conn.start_chunked("application/json; charset=utf-8")
        for piece in (b'{"a":', b"1", b"}"):
            conn.chunk(piece)
        conn.end_chunks()
    for name, reply in waiting(blank, handler).items():
        assert reply.read_rest().complete and reply.json() == {"a": 1}, name


def test_error_status_behind_blanks(blank):
    """The status is gone; the body still says what is wrong, as JSON."""
    for name, reply in waiting(blank, lambda c, r: c.reply({"error": {"message": WORDS, "type": "x"}}, 400)).items():
        reply.read_rest()
        error = reply.json()["error"]
        assert WORDS in (error if isinstance(error, str) else error["message"]), name


def test_failure_behind_blanks(blank):
    """Nobody is left: a JSON error in the caller's dialect, not an empty document."""
    for name, reply in waiting(blank, reset).items():
        reply.read_rest()
        error = reply.json()
        if name == "ollama":
            assert set(error) == {"error"} and error["error"]
        elif name == "anthropic":
            assert error["type"] == "error" and error["error"]["message"]
        else:
            assert set(error["error"]) == {"message", "type", "code", "param"} and error["error"]["message"]
        assert b"127.0.0.1" not in reply.body


def test_break_behind_blanks(blank):
    """Half a document behind blanks is half a document."""
    def handler(conn, request):
        conn.start_chunked("application/json")
        conn.chunk(b'{"a":')
        time.sleep(0.05)
        conn.rst()
    for name, reply in waiting(blank, handler).items():
        reply.read_rest()
        assert not reply.complete and reply.body.strip(b" ") == b'{"a":', name


def test_no_blanks_where_they_hurt(blank):
    """Quick answers keep status and headers; streams have their own heartbeats; sound is no JSON; forms and other calls are left alone."""
    eventually(lambda: blank.proxy.post(CHAT, {"model": "m1"}).get("X-Olla-Endpoint") == "a", "a quick answer has its headers", 5)
    gate = Gate()
    streams(blank.a, gate)
    stream = start(blank.world, blank.proxy, OPENAI)
    sound, show, upload = blank.client(), blank.client(), blank.client()
    blank.a.on("/v1/audio/speech", lambda c, r: (gate.wait(20), c.reply(b"RIFF sound", ctype="audio/wav")))
    blank.a.on("/api/show", lambda c, r: (gate.wait(20), c.reply({"ok": 1})))
    blank.a.on("/v1/audio/transcriptions", lambda c, r: (gate.wait(20), c.reply(b"just text", ctype="text/plain")))
    sound.start_post("/v1/audio/speech", {"model": "m1", "input": "x"})
    show.start_post("/api/show", {"model": "m1"})
    upload.send(request_bytes("POST", "/v1/audio/transcriptions", {"Content-Type": "multipart/form-data; boundary=b"},
                              b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm1\r\n--b--\r\n'))
    reply = beats(stream, OPENAI)
    time.sleep(SILENT)
    for client in (sound, show, upload):
        client.expect_silence(0.01)
    gate.open()
    whole(reply.read_rest(), OPENAI)
    for client, body in ((sound, b"RIFF sound"), (show, b'{"ok":1}'), (upload, b"just text")):
        assert client.read_response("POST").body == body


def test_blanks_to_http10(blank):
    """No chunks: the document ends with the connection."""
    def ask(method, path, headers, body):
        return request_bytes(method, path, headers, body, version="HTTP/1.0")
    for name, reply in waiting(blank, lambda c, r: c.reply({"a": 1}), ask).items():
        assert reply.framing == "close" and reply.read_rest().complete and reply.json() == {"a": 1}, name


def test_chunked_request(site):
    """A streamed upload is a stream request as well."""
    gate = Gate()
    streams(site.a, gate)
    client = site.client()
    client.send(request_bytes("POST", CHAT, json_headers({"Transfer-Encoding": "chunked", "X-Request-ID": "openai-chunked"}))
                + chunked(json.dumps(dict(OPENAI.body, model="m1"), indent=1).encode(), 11))
    reply = beats(client, OPENAI)
    gate.open()
    whole(reply.read_rest(), OPENAI, least=2)


def test_first_event_behind_heartbeats_is_intact(site):
    """The first token after minutes of silence is the one that everybody waits for: sent at once, byte for byte."""
    gates = [Gate(), Gate()]
    first = sse({"first": 1})

    def handler(conn, request):
        gates[0].wait(20)
        conn.start_chunked()
        conn.chunk(first)
        gates[1].wait(20)
        conn.end_chunks()
    site.a.on(CHAT, handler)
    client = start(site.world, site.proxy, OPENAI)
    reply = beats(client, OPENAI, 1)
    gates[0].open()
    pattern = re.compile(rb"(: olla\n)+" + re.escape(first) + rb"(: olla\n)*")
    for _ in range(200):
        if first in reply.body:
            break
        reply.read_piece()
    assert pattern.fullmatch(reply.body), reply.body
    gates[1].open()
    whole(reply.read_rest(), OPENAI, [first])
