"""Servers that answer whatever does harm: without end, too slowly, too deep, packed, at the wrong time. The client is told in its
dialect, memory stays as it was, a stream of another server misses nothing, and the next request is answered."""

import gzip
import time

import pytest

from backend import LlamaBackend, LmStudioBackend, OllamaBackend, OpenAIBackend, VllmBackend, eventually, hold
from floods import CHAT, PATH, PLAIN_BINARY, Metronome, Stream, answered, resident
from harness import World, endpoint, new_id
from messages import PATIENT, completion, envelope

MOST = 48 << 20       # what such a server says if nobody stops it
GROWTH = 1 << 20      # ... and what olla may need for it
DEEP = 100000
OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BEGUN = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"x"}}]}\n\n'
LIMITS = {"proxy.response_header_timeout": "1s", "proxy.read_timeout": "1s", "proxy.retry.enabled": False}
ASKS = {"openai": (PATH, {"model": "m-bad"}), "ollama": ("/olla/ollama/api/chat", {"model": "o-bad", "stream": False}),
        "anthropic": ("/v1/messages", {"model": "m-bad", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})}


def flood(conn, data, before=b""):
    """data again and again, until the other side closes."""
    conn.send(before)
    many = data * max(1, 65536 // len(data))
    while conn.sent < MOST:
        conn.send(many)


def drip(conn, data, gap):
    for at in range(len(data)):
        conn.send(data[at:at + 1])
        if conn.sock.fileno() < 0:
            return
        time.sleep(gap)


class Site:
    """Servers that a test makes hostile, beside one whose stream runs all the time."""

    def __init__(self, binary=None):
        self.world = World()
        self.plain = binary is not None
        self.tick = self.world.backend(Metronome, "tick", ["m-tick"])
        self.bad = self.world.backend(OpenAIBackend, "bad", ["m-bad"])
        self.ollama = self.world.backend(OllamaBackend, "ollama", ["o-bad"])
        spec = {"tick": self.tick, "bad": endpoint(self.bad, health="none"), "ollama": endpoint(self.ollama, health="none")}
        self.proxy = self.world.olla(spec, dict(PATIENT, **LIMITS), binary=binary)
        for _ in range(3):
            for path, body in ASKS.values():
                assert self.proxy.post(path, body).status == 200
            answered(self.proxy)
        self.memory = resident(self.proxy)

    def answers(self, handler):
        """handler(conn) is what the hostile servers do from now on."""
        for server, path in ((self.bad, CHAT), (self.ollama, "/api/chat")):
            server.on(path, lambda conn, request: handler(conn))

    def settled(self):
        """The next request is answered, and olla is as large as it was."""
        self.bad.setup()
        self.ollama.setup()
        for path, body in ASKS.values():
            assert self.proxy.post(path, body).status == 200
        if self.plain:
            assert resident(self.proxy) - self.memory < GROWTH

    def start(self, dialect, **more):
        path, body = ASKS[dialect]
        client, mark = self.world.client(self.proxy), new_id()
        client.start_post(path, dict(body, **more), {"X-Request-ID": mark})
        return client, mark

    def end(self, client, mark):
        reply = client.read_response("POST")
        client.close()
        return reply, self.proxy.access(mark)

    def ask(self, dialect, **more):
        client, _ = self.start(dialect, **more)
        reply = client.read_response("POST")
        client.close()
        return reply

    def ask_logged(self, dialect, **more):
        return self.end(*self.start(dialect, **more))


@pytest.fixture(scope="module", params=["checked", "plain"])
def shared(request, binary):
    """Once with the program that checks itself, and once with the product, whose memory can be measured."""
    site = Site(PLAIN_BINARY if request.param == "plain" else None)
    yield site
    problems = site.world.close()
    assert not problems, "\n".join(problems)


@pytest.fixture
def site(shared):
    stream = Stream(shared.proxy, shared.tick)
    seen = len(shared.proxy.logs)
    yield shared
    stream.flows(5)
    stream.end()
    shared.settled()
    problems = shared.proxy.idle_problems() + shared.world.script_failures()
    problems += ["ERROR line in the log: %r" % e for e in shared.proxy.logs[seen:] if e["level"] == "ERROR"]
    assert not problems, "\n".join(problems)


def told(reply, status, dialect):
    assert reply.status == status and reply.complete, (reply.status, reply.body)
    if dialect == "anthropic":
        envelope(reply, status, {502: "api_error", 504: "timeout_error"}[status])
    elif dialect == "ollama":
        assert set(reply.json()) == {"error"} and isinstance(reply.json()["error"], str)
    else:
        assert reply.json()["error"]["message"] and reply.json()["error"]["code"] == {502: "backend_error", 504: "backend_timeout"}[status]
    assert b"127.0.0.1" not in reply.body


# ---- heads

HEADS = {
    "endless-headers": (502, lambda conn: flood(conn, b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", OK)),
    "endless-same-line": (502, lambda conn: flood(conn, b"aaaaaaaa", OK + b"X-Filler: ")),
    "ten-megabyte-line": (502, lambda conn: conn.send(OK + b"X-Filler: " + b"a" * (10 << 20) + b"\r\nContent-Length: 2\r\n\r\nok")),
    "endless-status-line": (502, lambda conn: flood(conn, b"very ", b"HTTP/1.1 200 ")),
    "endless-1xx": (502, lambda conn: flood(conn, b"HTTP/1.1 102 Processing\r\n\r\n")),
    "endless-large-1xx": (502, lambda conn: flood(conn, b"HTTP/1.1 103 Early Hints\r\nLink: " + b"l" * 9000 + b"\r\n\r\n")),
    "endless-blank-lines": (502, lambda conn: flood(conn, b"\r\n")),
    "nul-bytes": (502, lambda conn: flood(conn, b"\0")),
    "a-byte-now-and-then": (504, lambda conn: drip(conn, OK * 10, 0.2)),
    "1xx-now-and-then": (504, lambda conn: [conn.send(b"HTTP/1.1 102 Processing\r\n\r\n") or time.sleep(0.2) for _ in range(10)]),
    "never": (504, lambda conn: hold(conn, None)),
}


@pytest.mark.parametrize("name", HEADS)
def test_head(site, name):
    """502 for what is no reply, 504 for what does not come: a byte now and then buys no time."""
    status, handler = HEADS[name]
    site.answers(handler)
    started = [(dialect, site.start(dialect)) for dialect in ASKS]
    for dialect, (client, mark) in started:
        reply, entry = site.end(client, mark)
        told(reply, status, dialect)
        assert (entry["end"], entry["status"]) == ("SH" if status == 502 else "sH", status)
    for conn in site.bad.connections[-2:]:
        assert conn.sent < MOST // 2


def test_answers_before_the_question(site):
    """A server that speaks first: its words are a 502 or the answer to the one request that met them, never to another one."""
    stolen = OK + b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n\"too soon\"\n"[:-1]
    early = site.world.backend(OpenAIBackend, new_id(), [])
    early.on_accept = lambda conn: conn.send(stolen * 2) or conn.wait_close(10)
    proxy = site.world.olla({"early": endpoint(early, health="none"), "tick": site.tick}, dict(PATIENT, **LIMITS), ready=["tick"])
    for _ in range(3):
        with proxy.client() as client:
            reply = client.post("/v1/completions", {"prompt": "x"}, [("X-Olla-Endpoint", "early")])
            assert reply.status in (200, 502) and reply.complete
            assert client.post(PATH, {"model": "m-tick"}).json() == {"served_by": "tick"}
    assert all(len(conn.raw) < 2000 and conn.raw.count(b"POST ") <= 1 for conn in early.connections), "such a connection was used again"


# ---- bodies

BODIES = {
    "endless-extension": SSE + b"%x\r\n%s\r\n" % (len(BEGUN), BEGUN) + b"5;",
    "endless-size": SSE + b"%x\r\n%s\r\n" % (len(BEGUN), BEGUN) + b"0",
    "endless-trailers": SSE + b"%x\r\n%s\r\n0\r\n" % (len(BEGUN), BEGUN),
}
AGAIN = {"endless-extension": b"x", "endless-size": b"0", "endless-trailers": b"X-Sum: 123456789\r\n"}


@pytest.mark.parametrize("name", BODIES)
def test_framing_without_end(site, name):
    """What is no data but never ends either breaks the reply, visibly: an error event, and no proper end."""
    site.answers(lambda conn: flood(conn, AGAIN[name], BODIES[name]))
    for dialect in ("openai", "anthropic"):
        reply, entry = site.ask_logged(dialect, stream=True)
        if dialect == "anthropic" and reply.status == 502:   # nothing of it was told yet
            envelope(reply, 502, "api_error")
            continue
        assert reply.status == 200 and not reply.complete and entry["end"] == "SD"
        assert b'"error"' in reply.body and b"[DONE]" not in reply.body and b"message_stop" not in reply.body
    assert max(conn.sent for conn in site.bad.connections) < MOST // 2


NUL = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"a\0b"},"finish_reason":"stop"}]}'


def test_nul_bytes(site):
    """They pass as they are; in what has to be understood they are no JSON."""
    site.answers(lambda conn: conn.reply(NUL))
    assert site.ask("openai").body == NUL
    told(site.ask("anthropic"), 502, "anthropic")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_document_without_end(site, stream):
    """A reply, or a line of one, that has to be kept to be told in other words is kept up to 32 MB, not until the disk is full."""
    head = (b'data: {"choices":[{"index":0,"delta":{"content":"' if stream else b'{"choices":[{"index":0,"message":{"content":"')
    sent = []

    def handler(conn):
        conn.start_chunked("text/event-stream" if stream else "application/json")
        conn.chunk(head)
        sent.append(conn)
        piece = b"%x\r\n%s\r\n" % (60000, b"x" * 60000)
        while conn.sent < 4 * MOST:
            conn.send(piece)
    site.answers(handler)
    reply, entry = site.ask_logged("anthropic", stream=stream)
    told(reply, 502, "anthropic")
    assert entry["end"][0] == "S" and sent[0].sent < MOST


# ---- gzip bombs

BOMB = gzip.compress(b'{"data":[' + b" " * (20 << 20) + b"]}")


def test_bomb_is_passed_on(site):
    """Nothing is unpacked: the client gets what was sent, and may look at it as it likes."""
    for kind in ("application/json", "text/event-stream"):
        site.answers(lambda conn: conn.reply(BOMB, ctype=kind, headers={"Content-Encoding": "gzip"}))
        for dialect in ("openai", "ollama"):
            reply, entry = site.ask_logged(dialect)
            assert reply.status == 200 and reply.body == BOMB and reply.get("Content-Encoding") == "gzip"
            assert entry["bytes_out"] == len(BOMB) < 100000


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_bomb_that_had_to_be_understood(site, kind):
    """A reply that is to be told in other words and comes packed, although nobody asked for that: an error."""
    site.answers(lambda conn: conn.reply(BOMB, ctype=kind, headers={"Content-Encoding": "gzip"}))
    for stream in (False, True):
        told(site.ask("anthropic", stream=stream), 502, "anthropic")
    call = site.bad.calls[-1]
    assert (call.get("Accept-Encoding") or "identity") == "identity"


# ---- depth

def deep(kind):
    """JSON that is deeper than any stack."""
    return {"lists": b"[" * DEEP + b"]" * DEEP, "objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP, "open": b'[{"a":' * DEEP}[kind]


@pytest.mark.parametrize("kind", ["lists", "objects", "open"])
def test_deep_replies(site, kind):
    """Untouched where nobody has to understand it; elsewhere an error, wherever it stands in the reply."""
    nest = deep(kind)
    wholes = (b'{"choices":[{"index":0,"message":{"content":%s}}]}', b'{"choices":%s}', b'{"usage":%s,"choices":[]}', b"%s")
    for whole in wholes:
        body = whole.replace(b"%s", nest)
        site.answers(lambda conn: conn.reply(body))
        for dialect in ("openai", "ollama"):
            assert site.ask(dialect).body == body
        told(site.ask("anthropic"), 502, "anthropic")
        line = b"data: " + body + b"\n\n"
        site.answers(lambda conn: (conn.start_chunked(), conn.chunk(line), conn.chunk(b"data: [DONE]\n\n"), conn.end_chunks()))
        assert site.ask("openai", stream=True).body == line + b"data: [DONE]\n\n"
        reply = site.ask("anthropic", stream=True)
        assert reply.status == 502 or b"event: error" in reply.body or b'"content":[]' in reply.body, reply.body[:300]
        assert b"[[[" not in reply.body and b'{"a":{"a"' not in reply.body


def test_deep_errors(site):
    """An error of the server whose words are at the bottom of a well."""
    for kind in ("lists", "objects", "open"):
        body = b'{"error":{"message":%s}}' % deep(kind)
        site.answers(lambda conn: conn.reply(body, 500))
        assert site.ask("openai").body == body
        reply = site.ask("anthropic")
        envelope(reply, 500, "api_error")
        assert len(reply.body) < 4000


def test_deep_text_is_a_text(site):
    """Arguments of a tool are a string, however deep what it says: they are no object then, and pass as a text."""
    nest = deep("lists").decode()
    reply = completion(None, finish="tool_calls", choice=None)
    reply["choices"][0]["message"]["tool_calls"] = [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": nest}}]
    site.answers(lambda conn: conn.reply(reply))
    told_reply = site.ask("anthropic")
    assert told_reply.status == 200 and told_reply.json()["content"][-1]["input"] == {"_raw": nest}


# ---- what olla asks for itself

PAGES = ("/health", "/v1/models", "/api/tags", "/api/ps", "/api/version", "/api/v0/models", "/slots", "/props", "/metrics", "/version", "/")
KINDS = (OllamaBackend, LlamaBackend, VllmBackend, LmStudioBackend)
TEN = 10 << 20
PROBES = {
    "bomb": lambda conn: conn.reply(BOMB, headers={"Content-Encoding": "gzip"}),
    "deep": lambda conn: conn.reply(b'{"data":%s,"models":%s}' % (deep("lists"), deep("objects"))),
    "open": lambda conn: conn.reply(b'{"data":[' + deep("open")),
    "ten-megabytes": lambda conn: conn.reply(b'{"data":[' + b",".join([b'{"id":"same","x":"%s"}' % (b"y" * 9000)] * (TEN // 9020)) + b"]}"),
    "ten-megabytes-of-one": lambda conn: conn.reply(b'{"data":[{"id":"%s"}]}' % (b"x" * TEN)),
    "endless-1xx": lambda conn: flood(conn, b"HTTP/1.1 102 Processing\r\n\r\n"),
    "endless-trailers": lambda conn: flood(conn, b"X-Sum: 123456789\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"),
    "ten-megabyte-line": lambda conn: conn.send(OK + b"X-Filler: " + b"a" * TEN + b"\r\n\r\n"),
    "too-long": lambda conn: (conn.send(OK + b"Content-Length: 99999999999\r\n\r\n{}"), hold(conn, None)),
    "too-short": lambda conn: conn.send(OK + b"Content-Length: 5\r\n\r\n" + b'{"data":[{"id":"behind-the-end"}]}' * 1000),
    "overflow": lambda conn: conn.send(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}"),
    "two": lambda conn: conn.send((OK + b"Content-Length: 2\r\n\r\n{}") * 1000),
    "nul": lambda conn: conn.reply(b'{"data":[{"id":"a\0b"},{"id":"' + b"\0" * 100000 + b'"}],"models":[{"name":"a\0b"}]}'),
}


@pytest.mark.parametrize("names", [("bomb", "deep", "open", "overflow", "nul", "two"), ("ten-megabytes", "ten-megabytes-of-one", "too-long"),
                                   ("endless-1xx", "endless-trailers", "ten-megabyte-line", "too-short")], ids=["odd", "large", "endless"])
def test_probes(world, names):
    """Health checks, lists of models, details and loads: every page of every type says it. Nobody else notices, and when the servers
    are sane again, so is what olla knows of them."""
    spec, nasty = {}, []
    for kind in KINDS:
        for name in names:
            server = world.backend(kind, "%s-%s" % (kind.type, name), ["m-%s-%s" % (kind.type, name)])
            server.sane = dict(server.routes)
            for page in PAGES:
                server.on(page, lambda conn, request, n=name: PROBES[n](conn))
            spec[server.name] = endpoint(server, check_interval="1s", check_timeout="500ms")
            nasty.append(server)
    tick = world.backend(Metronome, "tick", ["m-tick"])
    proxy = world.olla(dict(spec, tick=tick), {"discovery.model_discovery.interval": "1s", "discovery.model_discovery.timeout": "1s"},
                       binary=PLAIN_BINARY, ready=["tick"])
    stream = Stream(proxy, tick)
    answered(proxy)
    before = resident(proxy)
    eventually(lambda: all(len(server.requests) >= 2 for server in nasty), "all were asked", 20)
    stream.flows(50)
    for page in ("/api/ps", "/v1/models", "/api/tags", "/olla/models", "/internal/status"):
        reply = proxy.get(page)
        assert reply.status == 200 and isinstance(reply.json(), dict)
        assert b"behind-the-end" not in reply.body
    answered(proxy)
    assert resident(proxy) - before < GROWTH
    assert proxy.endpoint("tick")["status"] == "healthy"
    for server in nasty:
        server.routes = server.sane
        for conn in server.connections:
            if conn.sock.fileno() >= 0:
                conn.rst()
    # the catalogue may have been full of their names; they are gone with the next lists
    proxy.wait_healthy({server.name: 1 for server in nasty}, 20)
    answered(proxy, nasty[-1].models[0])
    stream.end()
