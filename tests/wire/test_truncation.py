"""An answer that was cut off must never look like a complete one."""

import gzip
import json
import time

import pytest

from backend import Gate, eventually, hold, openai_chunk
from client import dump, json_headers, request_bytes
from harness import new_id

PATH = "/olla/proxy/v1/chat/completions"


def cut(site, head, body, how="fin", path="/v1/chat/completions"):
    """The backend sends head and body, waits until the client has the body, then dies."""
    gate = Gate()

    def handler(conn, request):
        conn.send(head + body)
        gate.wait()
        getattr(conn, how)()
    for server in site.servers:
        server.on(path, handler)
    return gate


def head(ctype, framing=b"Transfer-Encoding: chunked", extra=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n%s\r\n" % (ctype, framing, extra)


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def run(site, gate, wait_for, target=PATH, model="m-oai", **options):
    client = site.client()
    name = new_id()
    client.send(request_bytes("POST", target, json_headers({"X-Request-ID": name}), dump({"model": model, "stream": True}), **options))
    reply = client.read_head("POST")
    reply.read_at_least(wait_for)
    gate.open()
    reply.read_rest()
    assert client.read_eof(5) == b""
    return reply, site.proxy.access(name)


def still_works(site):
    for server in site.servers:
        server.routes.pop("/v1/chat/completions", None)
    assert site.proxy.get("/internal/health").status == 200


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_short_content_length(site, how):
    """Ten bytes of a hundred: the client's own length check must fail."""
    gate = cut(site, head(b"application/json", b"Content-Length: 100"), b'{"a":"0123', how)
    reply, entry = run(site, gate, 10)
    assert not reply.complete and reply.body == b'{"a":"0123'
    assert reply.get("Content-Length") == "100"
    assert (entry["end"], entry["status"], entry["bytes_out"]) == ("SD", 200, 10)
    still_works(site)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("ctype", [b"application/json", b"text/plain"])
def test_chunked_without_end(site, how, ctype):
    """The reference writes a normal final chunk here: half an answer passes for a whole one."""
    gate = cut(site, head(ctype), chunk(b'{"done": true}'), how)
    reply, entry = run(site, gate, 14)
    assert reply.framing == "chunked" and not reply.complete
    assert reply.body == b'{"done": true}'
    assert entry["end"] == "SD"


def test_cut_inside_a_chunk(site):
    """A chunk announced as 100 bytes that ends after 5."""
    gate = cut(site, head(b"text/plain"), b"64\r\nhello")
    reply, entry = run(site, gate, 5)
    assert not reply.complete and reply.body == b"hello" and entry["end"] == "SD"


@pytest.mark.parametrize("rest", [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\nabc",
                                  b"-3\r\nabc\r\n", b"0x3\r\nabc\r\n0\r\n\r\n"],
                         ids=["not-hex", "too-long", "overflow", "minus", "0x"])
def test_garbled_chunks(site, rest):
    """Broken framing in mid-stream is a truncation too."""
    gate = Gate()

    def handler(conn, request):
        conn.send(head(b"text/plain") + chunk(b"good"))
        gate.wait()
        conn.send(rest)
        conn.wait_close(10)
    site.oai.on("/v1/chat/completions", handler)
    reply, entry = run(site, gate, 4)
    assert not reply.complete and reply.body.startswith(b"good") and entry["end"] == "SD"
    assert b"def" not in reply.body


def sse_events(body):
    return [part for part in body.split(b"\n\n") if part]


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_sse_gets_an_error_event(site, how):
    """Chat clients ignore a missing final chunk; an error event is what they show to the user."""
    sent = openai_chunk("Hel") + openai_chunk("lo")
    gate = cut(site, head(b"text/event-stream"), chunk(sent), how)
    reply, entry = run(site, gate, len(sent))
    assert not reply.complete
    assert reply.body.startswith(sent)
    tail = reply.body[len(sent):]
    assert tail.endswith(b"\n\n")
    found = sse_events(tail)
    assert len(found) == 1 and found[0].startswith(b"data: ")
    error = json.loads(found[0][6:])["error"]
    assert error["message"] and "type" in error and "code" in error
    assert b"[DONE]" not in reply.body and b"127.0.0.1" not in tail
    assert entry["end"] == "SD"


@pytest.mark.parametrize("partial", [b'data: {"choices":[{"del', b"data", b"event: x\n", b'data: {"a":1}\n'],
                         ids=["in-json", "in-field", "after-event-field", "after-one-newline"])
def test_sse_cut_inside_an_event(site, partial):
    """The error event must be an event of its own, not the rest of a broken line."""
    sent = openai_chunk("Hel") + partial
    gate = cut(site, head(b"text/event-stream; charset=utf-8"), chunk(sent))
    reply, _ = run(site, gate, len(sent))
    assert not reply.complete and reply.body.startswith(sent)
    last = sse_events(reply.body)[-1].lstrip(b"\n")
    assert last.startswith(b"data: "), reply.body
    assert json.loads(last[6:])["error"]["message"]


@pytest.mark.parametrize("sent", [dump({"n": 1}) + b"\n", dump({"n": 1}) + b"\n" + b'{"n":', b""], ids=["whole-line", "half-line", "nothing"])
def test_ndjson_gets_an_error_line(site, sent):
    """Ollama clients parse line by line: the error must be a line of its own in Ollama's form."""
    gate = cut(site, head(b"application/x-ndjson"), chunk(sent) if sent else b"", path="/api/chat")
    reply, entry = run(site, gate, len(sent), "/olla/ollama/api/chat", "m-oll")
    assert not reply.complete and reply.body.startswith(sent)
    assert reply.body.endswith(b"\n")
    last = reply.body.rstrip(b"\n").rsplit(b"\n", 1)[-1]
    assert isinstance(json.loads(last)["error"], str) and json.loads(last)["error"]
    assert entry["end"] == "SD"


def test_sse_cut_before_the_first_event(site):
    """Head only, then nothing: not an empty success."""
    gate = cut(site, head(b"text/event-stream"), b"")
    reply, entry = run(site, gate, 0)
    assert not reply.complete
    assert json.loads(sse_events(reply.body)[-1][6:])["error"] and entry["end"] == "SD"


def test_sse_with_content_length_cut(site):
    """With a fixed length there is no room for an event; the short body is the only truth left."""
    sent = openai_chunk("Hel")
    gate = cut(site, head(b"text/event-stream", b"Content-Length: 5000"), sent)
    reply, entry = run(site, gate, len(sent))
    assert not reply.complete and reply.body.startswith(sent) and entry["end"] == "SD"


def test_compressed_stream_gets_no_plain_text(site):
    """Plain text inside a gzip stream corrupts what did arrive."""
    packed = gzip.compress(openai_chunk("Hello") * 50)[:60]
    gate = cut(site, head(b"text/event-stream", extra=b"Content-Encoding: gzip\r\n"), chunk(packed))
    reply, _ = run(site, gate, len(packed))
    assert not reply.complete and reply.body == packed


def test_json_gets_no_error_text(site):
    """Text added to half a JSON document would only make it worse."""
    gate = cut(site, head(b"application/json"), chunk(b'{"a":'))
    reply, _ = run(site, gate, 5)
    assert not reply.complete and reply.body == b'{"a":'


def test_reset_of_a_close_delimited_reply(site):
    """A close-delimited reply that ends in a reset is not complete, and must not get a final chunk."""
    gate = cut(site, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n", b"hello", "rst")
    reply, entry = run(site, gate, 5)
    assert reply.framing == "chunked" and not reply.complete and reply.body == b"hello"
    assert entry["end"] == "SD"


def test_http10_client_sees_a_cut_stream(site):
    """Close-delimited to the client: the error event for the user, the reset for the program."""
    sent = openai_chunk("Hel")
    gate = cut(site, head(b"text/event-stream"), chunk(sent))
    reply, entry = run(site, gate, len(sent), version="HTTP/1.0")
    assert b'"error"' in reply.body[len(sent):] and entry["end"] == "SD"
    assert reply.framing == "close" and not reply.complete


@pytest.mark.parametrize("framing,how", [("chunked", "fin"), ("chunked", "rst"), ("close", "rst")])
def test_http10_client_sees_a_cut_reply(site, framing, how):
    """An HTTP/1.0 client takes the end of the connection for the end of the answer: behind half of one it must be a reset."""
    body = b'{"a":'
    if framing == "chunked":
        gate = cut(site, head(b"application/json"), chunk(body), how)
    else:
        gate = cut(site, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n", body, how)
    reply, entry = run(site, gate, len(body), version="HTTP/1.0")
    assert reply.framing == "close" and reply.body == body
    assert not reply.complete and reply.client.was_reset
    assert entry["end"] == "SD"


def test_http10_client_sees_a_stalled_reply(world):
    """The same when the backend falls silent instead of closing."""
    from backend import OpenAIBackend
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    backend.on("/v1/chat/completions", lambda c, r: (c.start_chunked("application/json"), c.chunk(b'{"a":'), hold(c, r)))
    proxy = world.olla({"a": backend}, {"proxy.read_timeout": "1s"})
    client = world.client(proxy)
    client.send(request_bytes("POST", PATH, json_headers(), dump({"model": "m1"}), version="HTTP/1.0"))
    reply = client.read_response("POST")
    assert reply.body == b'{"a":' and not reply.complete and client.was_reset


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("ctype", [b"text/event-stream", b"application/x-ndjson"])
def test_events_of_a_given_length_get_no_error(site, ctype, how):
    """An error event inside a body of announced length fills the gap: what was cut passes for whole."""
    sent = openai_chunk("Hel") if b"event" in ctype else b'{"n":1}\n'
    gate = cut(site, head(ctype, b"Content-Length: %d" % (len(sent) + 60)), sent, how)
    reply, entry = run(site, gate, len(sent))
    assert not reply.complete and reply.body == sent
    assert entry["end"] == "SD" and entry["bytes_out"] == len(sent)


def test_complete_stream_gets_no_error(site):
    """The counter-proof: a stream that ended well has nothing added."""
    reply = site.proxy.post(PATH, {"model": "m-oai", "stream": True})
    assert reply.complete and b"error" not in reply.body


def test_complete_body_then_reset(site):
    """A reset behind the last byte of a complete answer hurts nobody."""
    def handler(conn, request):
        conn.reply({"n": 1})
        time.sleep(0.05)
        conn.rst()
    site.oai.on("/v1/chat/completions", handler)
    name = new_id()
    reply = site.proxy.post(PATH, {"model": "m-oai"}, {"X-Request-ID": name})
    assert reply.complete and reply.json() == {"n": 1}
    assert site.proxy.access(name)["end"] == "--"


@pytest.mark.parametrize("ctype", ["text/event-stream", "application/x-ndjson", "application/json"])
def test_stalled_stream(world, ctype):
    """A backend that falls silent in mid-stream for longer than read_timeout is cut, visibly."""
    from backend import OllamaBackend
    backend = world.backend(OllamaBackend, "a", ["m1"])

    def handler(conn, request):
        conn.start_chunked(ctype)
        conn.chunk("data: 1\n\n" if "event" in ctype else '{"n":1}\n')
        hold(conn, request)
    backend.on("/api/chat", handler)
    proxy = world.olla({"a": backend}, {"proxy.read_timeout": "1s"})
    client = world.client(proxy)
    client.start_post("/api/chat", {"model": "m1"}, {"X-Request-ID": "stall"})
    reply = client.read_response("POST")
    assert not reply.complete
    assert (b"error" in reply.body) == (ctype != "application/json")
    assert proxy.access("stall")["end"] == "sD"
    eventually(lambda: backend.calls[0].conn.closed_how == "rst", "the stalled connection is reset", 3)


def test_slow_but_steady_stream_is_not_cut(world):
    """read_timeout is the gap between reads, not the length of the whole stream."""
    from backend import OpenAIBackend
    backend = world.backend(OpenAIBackend, "a", ["m1"])

    def handler(conn, request):
        conn.start_chunked()
        for n in range(8):
            conn.chunk("data: %d\n\n" % n)
            time.sleep(0.4)
        conn.end_chunks()
    backend.on("/v1/chat/completions", handler)
    proxy = world.olla({"a": backend}, {"proxy.read_timeout": "2s"})
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.complete and reply.body.count(b"data: ") == 8


def test_counters_tell_failures(world):
    """A cut stream that counts as a success hides a failing server from its operator."""
    from backend import OpenAIBackend
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": backend})
    proxy.post(PATH, {"model": "m1"})
    gate = Gate()
    gate.open()
    backend.on("/v1/chat/completions", lambda c, r: (c.send(head(b"text/plain") + chunk(b"x")), c.fin()))
    proxy.post(PATH, {"model": "m1"})
    status = proxy.status()
    assert status["system"]["total_requests"] == 2 and status["system"]["total_failures"] == 1
    assert status["endpoints"][0]["requests"] == 2 and status["endpoints"][0]["success_rate"] == "50.0%"
