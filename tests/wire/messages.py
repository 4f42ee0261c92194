"""What the tests of the Messages API share: a strict reader of event streams, servers that say what a test wants, and a
proxy in front of them that one test file uses."""

import contextlib
import json
import re

from client import dump, json_headers, request_bytes
from harness import World, endpoint, eventually, report
from servers import KINDS, Compatible

ROOT, OWN = "/v1/messages", "/olla/anthropic/v1/messages"
COUNT = "/count_tokens"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]
DONE = b"data: [DONE]\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
MESSAGE_ID = re.compile(r"msg_01[1-9A-HJ-NP-Za-km-z]{10,}\Z")
REASONS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"}
PRIORITY = {"proxy.load_balancer": "priority"}
# These servers fail again and again: that is no reason to leave them alone.
PATIENT = {"proxy.breaker.open_time": "1ms", "proxy.breaker.max_open_time": "1ms"}


def ask(**more):
    """A request body; keys with ... are left out."""
    body = dict({"model": "m1", "max_tokens": 50, "messages": USER}, **more)
    return {key: value for key, value in body.items() if value is not ...}


def send(proxy, body, path=ROOT, headers=(), method="POST"):
    """One request on a connection of its own; body: bytes, or an object."""
    return proxy.request(method, path, body if isinstance(body, bytes) else dump(body), json_headers(headers))


# ---- errors

def envelope(reply, status=None, kind=None, message=None):
    """The error of a reply, strictly checked. message: the text, or a compiled pattern that must fit from the start."""
    assert status is None or reply.status == status, (reply.status, reply.body)
    assert reply.status >= 400 and reply.complete, (reply.status, reply.body)
    assert (reply.get("Content-Type") or "").startswith("application/json"), reply.headers
    document = reply.json()
    assert set(document) == {"type", "error", "request_id"} and document["type"] == "error", document
    assert set(document["error"]) == {"type", "message"}, document
    assert reply.get_all("request-id") == [document["request_id"]] == reply.get_all("X-Olla-Request-ID"), (document, reply.headers)
    assert document["request_id"]
    error = document["error"]
    assert isinstance(error["message"], str) and error["message"], error
    assert kind is None or error["type"] == kind, error
    if isinstance(message, str):
        assert error["message"] == message, error
    elif message is not None:
        assert message.match(error["message"]), (message.pattern, error)
    return error


# ---- event streams

FRAME = re.compile(rb"event: ([a-z_]+)\ndata: ([^\r\n]+)\Z")
DELTAS = {"text": {"text_delta": "text"}, "tool_use": {"input_json_delta": "partial_json"},
          "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"}}


def frames(raw):
    """[(name, object)]: every frame is `event: NAME`, one line of data with that type, an empty line, and nothing else."""
    if not raw:
        return []
    assert raw.endswith(b"\n\n"), "a frame without end: %r" % raw[-200:]
    out = []
    for block in raw[:-2].split(b"\n\n"):
        match = FRAME.match(block)
        assert match, "not a frame: %r" % block[:300]
        obj = json.loads(match.group(2).decode("utf-8"))
        assert isinstance(obj, dict) and obj.get("type") == match.group(1).decode(), block[:300]
        out.append((obj["type"], obj))
    return out


class Told:
    """What a stream said. content: finished and unfinished blocks; error: of the last event, or None."""

    def __init__(self):
        self.start, self.usage, self.error = None, {}, None
        self.content, self.names = [], []
        self.stop_reason, self.stop_sequence, self.ended = None, None, False

    @property
    def pings(self):
        return self.names.count("ping")

    @property
    def text(self):
        return "".join(block["text"] for block in self.content if block["type"] == "text")


def count_of(value):
    assert isinstance(value, int) and not isinstance(value, bool) and value >= 0, value
    return value


def events(raw, broken=False, early_pings=False):
    """The stream as a client library takes it; everything such a library relies on is asserted.
    broken: it must end in an error event; else it must be whole. early_pings: heartbeats before message_start are fine."""
    told = Told()
    opened, parts, signed = None, [], 0
    for name, obj in frames(raw):
        assert told.error is None, "%s after an error" % name
        assert not told.ended, "%s after message_stop" % name
        told.names.append(name)
        if name == "ping":
            assert obj == {"type": "ping"} and (told.start or early_pings), "ping before message_start"
            continue
        if name == "error":
            assert set(obj) <= {"type", "error", "request_id"} and set(obj["error"]) == {"type", "message"}, obj
            told.error = obj["error"]
            continue
        if name == "message_start":
            assert told.start is None, "a second message_start"
            told.start = message = obj["message"]
            assert MESSAGE_ID.match(message["id"]), message
            assert (message["type"], message["role"], message["content"]) == ("message", "assistant", []), message
            assert message["stop_reason"] is None and message["stop_sequence"] is None, message
            assert isinstance(message["model"], str) and message["model"], message
            assert count_of(message["usage"]["input_tokens"]) >= 1 and count_of(message["usage"]["output_tokens"]) >= 0
            told.usage.update(message["usage"])
            continue
        assert told.start is not None, "%s before message_start" % name
        if name == "content_block_start":
            assert opened is None, "a block starts inside another"
            assert told.stop_reason is None, "a block after message_delta"
            assert obj["index"] == len(told.content), "indices count from 0: %r" % obj
            block = opened = dict(obj["content_block"])
            assert block["type"] in DELTAS, block
            if block["type"] == "tool_use":
                assert block["input"] == {} and block["id"] and block["name"], block
                assert isinstance(block["id"], str) and isinstance(block["name"], str)
                assert block["id"] not in [b.get("id") for b in told.content], "two calls with one id"
            else:
                assert block[block["type"]] == "", block
            told.content.append(block)
            parts, signed = [], 0
        elif name == "content_block_delta":
            assert opened is not None and obj["index"] == len(told.content) - 1, obj
            kinds = DELTAS[opened["type"]]
            kind = obj["delta"]["type"]
            assert kind in kinds, "%s in a %s block" % (kind, opened["type"])
            value = obj["delta"][kinds[kind]]
            assert isinstance(value, str), obj
            if kind == "signature_delta":
                assert value, "an empty signature"
                signed += 1
            else:
                assert not signed, "thinking after its signature"
                parts.append(value)
        elif name == "content_block_stop":
            assert opened is not None and obj["index"] == len(told.content) - 1, obj
            close_block(opened, parts, signed)
            opened = None
        elif name == "message_delta":
            assert opened is None, "message_delta inside a block"
            assert told.stop_reason is None, "a second message_delta"
            assert set(obj["delta"]) >= {"stop_reason", "stop_sequence"}, obj
            told.stop_reason, told.stop_sequence = obj["delta"]["stop_reason"], obj["delta"]["stop_sequence"]
            assert told.stop_reason in REASONS, obj
            count_of(obj["usage"]["output_tokens"])
            told.usage.update({key: count_of(value) for key, value in obj["usage"].items()})
        elif name == "message_stop":
            assert told.stop_reason is not None and obj == {"type": "message_stop"}, obj
            told.ended = True
        else:
            raise AssertionError("unknown event %s" % name)
    if broken:
        assert told.error is not None, "no error event: %r" % raw[-300:]
        assert told.stop_reason is None and not told.ended, "an end before the error"
    else:
        assert told.error is None and told.ended, "no proper end: %r" % raw[-300:]
    if opened is not None:
        close_block(opened, parts, 1, False)
    return told


def close_block(block, parts, signed, whole=True):
    text = "".join(parts)
    if block["type"] == "tool_use":
        block["raw"] = text
        if whole:
            block["input"] = json.loads(text) if text else {}
            assert isinstance(block["input"], dict), text
    else:
        block[block["type"]] = text
        if block["type"] == "thinking":
            assert signed == 1, "a thinking block needs one signature"


ANY = type("Any", (), {"__eq__": lambda s, o: isinstance(o, str) and bool(o), "__repr__": lambda s: "<any>", "__hash__": None})()


def text(value):
    return {"type": "text", "text": value}


def thinking(value):
    return {"type": "thinking", "thinking": value}


def tool(name, value, ident=ANY):
    return {"type": "tool_use", "id": ident, "name": name, "input": value}


def bare(content):
    """Blocks without what means nothing."""
    out = []
    for block in content:
        if block["type"] == "thinking":
            assert set(block) - {"raw"} <= {"type", "thinking", "signature"}
        out.append({key: value for key, value in block.items() if key not in ("signature", "raw")})
    return out


def message(reply, model="m1"):
    """A whole message of the translation, strictly checked."""
    assert (reply.status, reply.complete) == (200, True), (reply.status, reply.body[:500])
    assert (reply.get("Content-Type") or "").startswith("application/json"), reply.headers
    document = reply.json()
    assert MESSAGE_ID.match(document["id"]), document
    assert (document["type"], document["role"], document["model"]) == ("message", "assistant", model), document
    assert document["stop_reason"] in REASONS and "stop_sequence" in document, document
    assert isinstance(document["content"], list)
    idents = set()
    for block in document["content"]:
        assert block["type"] in DELTAS, block
        if block["type"] == "tool_use":
            assert isinstance(block["input"], dict) and block["name"] and block["id"], block
            assert block["id"] not in idents, "two calls with one id"
            idents.add(block["id"])
        else:
            assert isinstance(block[block["type"]], str) and block[block["type"]], block
        if block["type"] == "thinking":
            assert isinstance(block["signature"], str) and block["signature"], block
    for key in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        count_of(document["usage"][key])
    return document


# ---- what OpenAI-like servers say

def completion(content="hello", finish="stop", usage=(37, 14), choice=None, **more):
    """A chat completion. more: further keys of its message; usage: a pair, an object, or ... for none."""
    out = {"id": "c1", "object": "chat.completion", "created": 1, "model": "their-name", "choices": [
        dict({"index": 0, "message": dict({"role": "assistant", "content": content}, **more), "finish_reason": finish}, **(choice or {}))]}
    if usage is not ...:
        out["usage"] = usage if not isinstance(usage, tuple) else \
            {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return out


def data(obj):
    return b"data: " + (obj if isinstance(obj, bytes) else json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode()) + b"\n\n"


def delta(_finish=None, **keys):
    """One chunk; as short as it can be, for every byte of it is a place to cut."""
    choice = {"delta": keys}
    if _finish:
        choice["finish_reason"] = _finish
    return data({"choices": [choice]})


def finish(reason="stop", **choice):
    return data({"choices": [dict({"delta": {}, "finish_reason": reason}, **choice)]})


def usage(prompt, completed, **more):
    return data({"choices": [], "usage": dict({"prompt_tokens": prompt, "completion_tokens": completed}, **more)})


def call(arguments=None, index=None, ident=None, name=None, **more):
    """A chunk with one fragment of a tool call."""
    return delta(tool_calls=[entry(arguments, index, ident, name)], **more)


def entry(arguments=None, index=None, ident=None, name=None):
    out = {}
    if index is not None:
        out["index"] = index
    if ident is not None:
        out["id"] = ident
    function = {}
    if name is not None:
        function["name"] = name
    if arguments is not None:
        function["arguments"] = arguments
    if function:
        out["function"] = function
    return out


HELLO = (delta(role="assistant", content=""), delta(content="hel"), delta(content="lo"), finish(), usage(37, 14), DONE)


def stream(conn, pieces=HELLO, end=True):
    conn.start_chunked()
    for piece in pieces:
        conn.chunk(piece)
    if end:
        conn.end_chunks()


def chat(conn, request):
    """An obedient server."""
    if request.json().get("stream"):
        stream(conn)
    else:
        conn.reply(completion())


NATIVE_EVENTS = b"".join(b"event: %s\ndata: %s\n\n" % (obj["type"].encode(), dump(obj)) for obj in (
    {"type": "message_start", "message": {"id": "msg_native", "type": "message", "role": "assistant", "model": "x", "content": [],
                                          "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"}))
NATIVE = b'{"id":"msg_native", "type":"message","role":"assistant","model":"x","content":[],"stop_reason":"end_turn","usage":{}}\n'


def native(conn, request):
    """A server that speaks Messages itself."""
    if request.json().get("stream"):
        conn.start_chunked("text/event-stream")
        conn.chunk(NATIVE_EVENTS)
        conn.end_chunks()
    else:
        conn.reply(NATIVE)


def prepare(server):
    server.on(server.base + "/chat/completions", chat)
    if server.messages or server.type == "litellm":  # newer ones of LiteLLM speak it too
        server.on(server.messages or ROOT, native)
    return server


def chat_path(server):
    return server.base + "/chat/completions"


def posts(server):
    return [call for call in server.calls if call.method == "POST" and not call.path.startswith("/api/show")]


# ---- proxies that a test file shares

class Bench:
    """One server that speaks chat completions only, and what it was asked."""

    def __init__(self, settings=None, kind=Compatible, world=None, **keys):
        self.world = world or World()
        self.a = prepare(self.world.backend(kind, "a", ["m1"]))
        self.proxy = self.world.olla({"a": endpoint(self.a, health="none", **keys)}, dict(PATIENT, **(settings or {})))
        self.servers = [self.a]

    @property
    def proxies(self):
        return self.world.proxies

    def rest(self):
        """How long, in ms, a server still gets no requests because of what it answered before."""
        return max([e.get("limited_for_ms", 0) for e in self.proxy.status()["endpoints"]])

    def client(self, **options):
        return self.world.client(self.proxy, **options)

    def says(self, handler):
        self.a.on(CHAT, handler)
        return self

    def replies(self, *args, **keys):
        return self.says(lambda conn, request: conn.reply(*args, **keys))

    def streams(self, pieces, end=True):
        return self.says(lambda conn, request: stream(conn, pieces, end))

    def asked(self, body, server=None, **keys):
        """What the server got for this request."""
        reply = send(self.proxy, body, **keys)
        assert reply.status == 200, reply.body
        calls = posts(server or self.a)
        assert len(calls) == 1, [c.line for c in calls]
        return calls[0]

    def stream_of(self, **more):
        """(reply, body) of a request for a stream."""
        reply = send(self.proxy, ask(stream=True, **more))
        return reply


class Fleet(Bench):
    """One server of every type; m-TYPE is on that one only."""

    def __init__(self, settings=None, kinds=KINDS, world=None):
        self.world = world or World()
        self.by_type = {}
        for kind in kinds:
            self.by_type[kind.type] = prepare(self.world.backend(kind, kind.type, ["m-" + kind.type]))
        self.servers = list(self.by_type.values())
        self.proxy = self.world.olla({name: endpoint(s, health="none") for name, s in self.by_type.items()},
                                     dict(PATIENT, **(settings or {})))


@contextlib.contextmanager
def shared(kept, make):
    """For a fixture: the object that `make` makes, shared by the file, as new; settled afterwards."""
    site = kept(make)
    if site.rest() > 2000:
        site.world.close()  # then it is made anew
        site = kept(make)
    eventually(lambda: site.rest() == 0, "servers that take requests again", 5)
    for server in site.servers:
        server.forget()
    saved = [dict(server.routes) for server in site.servers]
    before = len(site.proxy.logs)
    try:
        yield site
    finally:
        site.world.close_clients()
        for server, routes in zip(site.servers, saved):
            server.routes = routes
    problems = site.proxy.idle_problems() if site.proxy.alive() else ["olla died: " + site.proxy.describe()]
    problems += site.world.script_failures()
    report(problems + ["ERROR line in the log: %r" % e for e in site.proxy.logs[before:] if e.get("level") == "ERROR"])


def start(client, body, path=ROOT, headers=()):
    client.send(request_bytes("POST", path, json_headers(headers), body if isinstance(body, bytes) else dump(body)))
    return client
