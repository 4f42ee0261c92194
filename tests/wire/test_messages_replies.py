"""The Messages API in front of servers without it: what they say comes back as a message, whole or as a stream."""

import json
import re
import threading
import time

import pytest

from backend import Gate, eventually, hold
from client import chunked, dump
from messages import (CHAT, COUNT, DONE, HELLO, OWN, PING, ROOT, Bench, ask, bare, call, completion, data, delta, entry, envelope,
                      events, finish, message, posts, send, shared, start, stream, text, thinking, tool, usage)

HEARTBEAT = {"proxy.heartbeat.interval": "300ms"}
ESCAPES = "\\u00e4\\ud83d\\ude00\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001<>&\u2028\u00e4\U0001f600"
MEANT = json.loads('"%s"' % ESCAPES)


def nicknamed():
    return Bench({"model_aliases.nick": "m1"})


@pytest.fixture
def site(kept):
    with shared(kept, nicknamed) as site:
        yield site


# ---- whole messages

def calls(*arguments):
    return [dict(entry(value, None, "t%d" % n, "f%d" % n), type="function") for n, value in enumerate(arguments)]


# name: (the completion, content, stop_reason)
WHOLE = {
    "text": (completion("Hi"), [text("Hi")], "end_turn"),
    "empty": (completion(""), [], "end_turn"),
    "null": (completion(None), [], "end_turn"),
    "a-blank": (completion(" "), [text(" ")], "end_turn"),
    "parts": (completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), [text("ab")], "end_turn"),
    "refusal": (completion(None, "stop", refusal="no"), [text("no")], "refusal"),
    "refusal-null": (completion("yes", "stop", refusal=None), [text("yes")], "end_turn"),
    "content-filter": (completion("x", "content_filter"), [text("x")], "refusal"),
    "reasoning-content": (completion("ans", reasoning_content="think"), [thinking("think"), text("ans")], "end_turn"),
    "reasoning": (completion("ans", reasoning="think"), [thinking("think"), text("ans")], "end_turn"),
    "both-reasonings": (completion("ans", reasoning_content="second", reasoning="first"), [thinking("first"), text("ans")], "end_turn"),
    "empty-reasoning": (completion("ans", reasoning="", reasoning_content="think"), [thinking("think"), text("ans")], "end_turn"),
    "null-reasoning": (completion("ans", reasoning=None, reasoning_content=None), [text("ans")], "end_turn"),
    "only-reasoning": (completion("", "length", reasoning_content="think"), [thinking("think")], "max_tokens"),
    "length": (completion("x", "length"), [text("x")], "max_tokens"),
    "finish-null": (completion("x", None), [text("x")], "end_turn"),
    "finish-unknown": (completion("x", "eos"), [text("x")], "end_turn"),
    "finish-function-call": (completion("x", "function_call"), [text("x")], "tool_use"),
    "finish-tool-calls-without": (completion("x", "tool_calls"), [text("x")], "tool_use"),
    "call": (completion(None, "tool_calls", tool_calls=calls('{"a":1}')), [tool("f0", {"a": 1}, "t0")], "tool_use"),
    "call-no-string": (completion(None, "tool_calls", tool_calls=calls([1], 7, True, None)),
                       [tool("f0", {"_raw": [1]}), tool("f1", {"_raw": 7}), tool("f2", {"_raw": True}), tool("f3", {})], "tool_use"),
    "call-stop": (completion("t", "stop", tool_calls=calls('{"a":[{"b":null}]}')), [text("t"), tool("f0", {"a": [{"b": None}]}, "t0")], "tool_use"),
    "call-null-finish": (completion(None, None, tool_calls=calls("{}")), [tool("f0", {}, "t0")], "tool_use"),
    "call-length": (completion(None, "length", tool_calls=calls("{}")), [tool("f0", {}, "t0")], "max_tokens"),
    "no-calls": (completion("x", tool_calls=[]), [text("x")], "end_turn"),
    "calls-null": (completion("x", tool_calls=None), [text("x")], "end_turn"),
    "all": (completion("b", "tool_calls", reasoning="a", tool_calls=calls("{}", '{"x":"y"}')),
            [thinking("a"), text("b"), tool("f0", {}, "t0"), tool("f1", {"x": "y"}, "t1")], "tool_use"),
    "arguments": (completion(None, "tool_calls", tool_calls=calls("", "not json", "[1]", '"s"', '{"a":', " {} ", '{"a":1}x')),
                  [tool("f0", {}), tool("f1", {"_raw": "not json"}), tool("f2", {"_raw": "[1]"}), tool("f3", {"_raw": '"s"'}),
                   tool("f4", {"_raw": '{"a":'}), tool("f5", {}), tool("f6", {"_raw": '{"a":1}x'})], "tool_use"),
    "arguments-object": (completion(None, "tool_calls", tool_calls=calls({"a": {"b": 1}})), [tool("f0", {"a": {"b": 1}})], "tool_use"),
    "arguments-missing": (completion(None, "tool_calls", tool_calls=calls(None)), [tool("f0", {})], "tool_use"),
    "arguments-unicode": (completion(None, "tool_calls", tool_calls=calls(json.dumps({"k\u00e9y": MEANT}))), [tool("f0", {"k\u00e9y": MEANT})], "tool_use"),
    "no-id": (completion(None, "tool_calls", tool_calls=[entry("{}", None, None, "f"), entry("{}", None, "", "f"), entry("{}", None, None, "g")]),
              [tool("f", {}), tool("f", {}), tool("g", {})], "tool_use"),
    "second-choice": (dict(completion("first"), choices=completion("first")["choices"] + completion("second")["choices"]), [text("first")], "end_turn"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole(site, name):
    """What is in a completion is in the message, in the order that clients expect."""
    given, content, reason = WHOLE[name]
    site.replies(given)
    reply = send(site.proxy, ask())
    document = message(reply)
    assert bare(document["content"]) == content and document["stop_reason"] == reason
    assert document["stop_sequence"] is None and reply.get("X-Olla-Mode") == "translation"


def test_whole_in_pieces(site):
    """The document may come in any pieces, in chunks, or until the connection ends."""
    given = dump(completion(MEANT, "tool_calls", reasoning=MEANT, tool_calls=calls('{"a":"%s"}' % ESCAPES)))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    wanted = [thinking(MEANT), text(MEANT), tool("f0", {"a": MEANT})]

    def trickle(conn, framed, end):
        for n in range(0, len(framed), 7):
            conn.send(framed[n:n + 7])
            if n % 70 == 0:
                time.sleep(0.001)
        end()
    for framed, close in ((head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(given, 3), False), (head + b"\r\n" + given + b"\n \r\n", True),
                          (head + b"Content-Length: %d\r\n\r\n" % len(given) + given, False)):
        site.says(lambda c, r: trickle(c, framed, c.fin if close else lambda: None))
        assert bare(message(send(site.proxy, ask()))["content"]) == wanted


def test_numbers_and_escapes_survive(site):
    """Numbers are not read and written again: 1.0 stays, and so do twenty digits."""
    given = '{"x":1.0,"big":12345678901234567890,"e":1E+2,"u":"%s"}' % ESCAPES
    site.replies(completion(None, "tool_calls", tool_calls=calls(given)))
    reply = send(site.proxy, ask())
    assert message(reply)["content"][0]["input"] == json.loads(given)
    for part in (b"12345678901234567890", b"1.0", b"1E+2"):
        assert part in reply.body, reply.body
    raw = dump(completion("TEXT")).replace(b'"TEXT"', b'"%s"' % ESCAPES.encode())
    site.replies(raw)
    assert message(send(site.proxy, ask()))["content"] == [text(MEANT)]


def test_half_a_surrogate(site):
    """Models that are cut inside a character say such things; the client must not see broken JSON."""
    site.replies(dump(completion("TEXT")).replace(b'"TEXT"', b'"a\\ud83d"'))
    assert message(send(site.proxy, ask()))["content"][0]["text"] in ("a\ud83d", "a\ufffd")
    site.replies(dump(completion("TEXT")).replace(b'"TEXT"', b'"a\xff\xfe\xc3"'))
    reply = send(site.proxy, ask())
    assert reply.status in (200, 502) and json.loads(reply.body.decode("utf-8", "replace"))


@pytest.mark.parametrize("given,wanted", [
    ((37, 14), (37, 14, 0)),
    ({"prompt_tokens": 37, "completion_tokens": 14, "prompt_tokens_details": {"cached_tokens": 30}}, (7, 14, 30)),
    ({"prompt_tokens": 37, "completion_tokens": 14, "prompt_tokens_details": None}, (37, 14, 0)),
    ({"prompt_tokens": 37, "completion_tokens": 14, "prompt_tokens_details": {"cached_tokens": None}}, (37, 14, 0)),
    ({"prompt_tokens": 37, "completion_tokens": 14, "prompt_tokens_details": {"cached_tokens": 37}}, (0, 14, 37)),
    ({"completion_tokens_details": {"prompt_tokens": 5, "completion_tokens": 6}, "prompt_tokens": 37, "completion_tokens": 0}, (37, 0, 0)),
], ids=["plain", "cached", "no-details", "null-cached", "all-cached", "decoys"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_usage(site, given, wanted, streamed):
    """input_tokens does not contain what came from the cache: clients add the two."""
    if not isinstance(given, dict):
        given = {"prompt_tokens": given[0], "completion_tokens": given[1], "total_tokens": sum(given)}
    if streamed:
        site.streams([delta(content="x"), finish(), data({"choices": [], "usage": given}), DONE])
        seen = events(site.stream_of().body).usage
    else:
        site.replies(completion("x", usage=given))
        seen = message(send(site.proxy, ask()))["usage"]
    assert (seen["input_tokens"], seen["output_tokens"], seen["cache_read_input_tokens"]) == wanted
    assert seen["cache_creation_input_tokens"] == 0


@pytest.mark.parametrize("missing", [..., None], ids=["missing", "null"])
def test_no_usage(site, missing):
    """Estimates then, the same that count_tokens gives: a 0 makes clients believe that the context is empty."""
    body = ask(system="s" * 400, messages=[{"role": "user", "content": "x" * 1000}])
    counted = send(site.proxy, body, ROOT + COUNT).json()["input_tokens"]
    assert counted == 350
    site.replies(completion("y" * 400, usage=missing))
    seen = message(send(site.proxy, body))["usage"]
    assert seen["input_tokens"] == 350 and seen["output_tokens"] == 100
    site.streams([delta(content="y" * 100)] * 4 + [finish(), DONE])
    told = events(send(site.proxy, dict(body, stream=True)).body)
    assert told.start["usage"]["input_tokens"] == 350 and told.usage["output_tokens"] == 100
    site.streams([call("{%s" % (" " * 198), 0, "t", "f"), call(" " * 199 + "}", 0), finish("tool_calls"), DONE])
    assert events(send(site.proxy, dict(body, stream=True)).body).usage["output_tokens"] >= 50, "arguments are output too"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("choice,wanted", [({"stop_reason": "END"}, "END"), ({"matched_stop": "END"}, "END"), ({"stop_reason": None}, None),
                                           ({"matched_stop": 151645}, None), ({"stop_reason": 7}, None)])
def test_stop_sequence(site, choice, wanted, streamed):
    """vLLM and SGLang say which text ended the reply, or the number of a token, which is none of the client's texts."""
    if streamed:
        site.streams([delta(content="x"), finish("stop", **choice), DONE])
        told = events(site.stream_of(stop_sequences=["STOP", "END"]).body)
        seen = told.stop_reason, told.stop_sequence
    else:
        site.replies(completion("x", choice=choice))
        document = message(send(site.proxy, ask(stop_sequences=["STOP", "END"])))
        seen = document["stop_reason"], document["stop_sequence"]
    assert seen == (("stop_sequence", wanted) if wanted else ("end_turn", None))


def test_name_and_id(site):
    """The model is what the client called it, never the file name on some server; no two messages have one id."""
    seen = set()
    for asked in ("m1", "nick", "M1"):
        for streamed in (False, True):
            reply = send(site.proxy, ask(model=asked, stream=streamed))
            document = events(reply.body).start if streamed else message(reply, asked)
            assert document["model"] == asked
            seen.add(document["id"])
    assert len(seen) == 6


BAD = {
    "204": lambda c, r: c.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "empty": lambda c, r: c.reply(b""),
    "no-choices": lambda c, r: c.reply({"choices": []}),
    "choices-missing": lambda c, r: c.reply({"id": "x"}),
    "choices-null": lambda c, r: c.reply({"choices": None}),
    "choice-no-object": lambda c, r: c.reply({"choices": [7]}),
    "no-message": lambda c, r: c.reply({"choices": [{"index": 0, "finish_reason": "stop"}]}),
    "message-null": lambda c, r: c.reply({"choices": [{"message": None}]}),
    "half": lambda c, r: c.reply(dump(completion("x"))[:-9]),
    "oops": lambda c, r: c.reply(b"{oops"),
    "html": lambda c, r: c.reply(b"<!doctype html><p>hello", ctype="text/html"),
    "array": lambda c, r: c.reply(b"[1,2]"),
    "text-behind": lambda c, r: c.reply(dump(completion("x")) + b" and so on"),
    "binary": lambda c, r: c.reply(bytes(range(256))),
    "cut": lambda c, r: (c.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n" + dump(completion("x"))), c.fin()),
    "cut-chunks": lambda c, r: (c.start_chunked("application/json"), c.chunk(dump(completion("x"))[:30]), c.fin()),
    "reset": lambda c, r: (c.start_chunked("application/json"), c.chunk(dump(completion("x"))[:30]), time.sleep(0.05), c.rst()),
}


@pytest.mark.parametrize("name", BAD)
def test_no_completion(site, name):
    """A 502 that clients retry, never an empty message that they believe."""
    site.says(BAD[name])
    envelope(send(site.proxy, ask()), 502, "api_error")


def test_error_with_status_200(site):
    """Some servers say 200 whatever happens."""
    site.replies({"error": {"message": "the GPU is gone", "code": 500}})
    assert "the GPU is gone" in envelope(send(site.proxy, ask()))["message"]


def test_long_message(site):
    """Megabytes of text, as an escape per character and plain."""
    for long, raw in (("x" * 3000000, b"x" * 3000000), ("\u00e9" * 400000, b"\\u00e9" * 400000), ("\n\"" * 300000, b'\\n\\"' * 300000)):
        site.replies(dump(completion("TEXT")).replace(b"TEXT", raw))
        assert message(send(site.proxy, ask()))["content"] == [text(long)]
        arguments = json.dumps({"a": long})
        site.replies(completion(None, "tool_calls", tool_calls=calls(arguments)))
        assert message(send(site.proxy, ask()))["content"] == [tool("f0", {"a": long})]


# ---- streams: every one of these is also cut at every byte

END = [finish(), DONE]
CALLED = [finish("tool_calls"), DONE]
# name: (pieces, content, stop_reason)
STREAMS = {
    "text": ([delta(role="assistant", content=""), delta(content="Hel"), delta(content="w\u00f6rld"), finish(), usage(37, 14), DONE],
             [text("Helw\u00f6rld")], "end_turn"),
    "escapes": ([data(b'{"choices":[{"delta":{"content":"%s"}}]}' % ESCAPES.encode())] + END, [text(MEANT)], "end_turn"),
    "blanks": ([delta(content=" "), delta(content="\n"), delta(content="a ")] + END, [text(" \na ")], "end_turn"),
    "nothing": ([delta(role="assistant", content=None)] + END, [], "end_turn"),
    "only-done": ([DONE], [], "end_turn"),
    "no-done": ([delta(content="x"), finish("length")], [text("x")], "max_tokens"),
    "no-finish": ([delta(content="x"), DONE], [text("x")], "end_turn"),
    "finish-with-text": ([delta("stop", content="x"), DONE], [text("x")], "end_turn"),
    "filtered": ([delta("content_filter", content="x"), DONE], [text("x")], "refusal"),
    "refusal": ([delta(refusal="n"), delta(refusal="o")] + END, [text("no")], "refusal"),
    "parts": ([delta(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])] + END, [text("ab")], "end_turn"),
    "usage-everywhere": ([data({"choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
                          data({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None}), DONE], [text("x")], "end_turn"),
    "odd-chunks": ([data({}), data({"choices": []}), data({"choices": None}), data({"choices": [{}]}), data({"choices": [{"delta": None}]}),
                    delta(content="x")] + END, [text("x")], "end_turn"),
    "reasoning": ([delta(reasoning_content="a"), delta(reasoning="b"), delta(content="c"), finish("length"), DONE],
                  [thinking("ab"), text("c")], "max_tokens"),
    "reasoning-null": ([delta(reasoning_content=None, content="a"), delta(reasoning_content="", content="b")] + END, [text("ab")], "end_turn"),
    "reasoning-later": ([delta(reasoning="a"), delta(content="b"), delta(reasoning="c"), delta(content="d")] + END,
                        [thinking("a"), text("b"), thinking("c"), text("d")], "end_turn"),
    "reasoning-only": ([delta(reasoning="a")] + END, [thinking("a")], "end_turn"),
    "one-chunk": ([delta("tool_calls", reasoning="a", content="b", tool_calls=[entry("{}", 0, "t", "f")]), DONE],
                  [thinking("a"), text("b"), tool("f", {}, "t")], "tool_use"),
    "call": ([call("", 0, "t", "f"), call('{"a":', 0), call("1}", 0)] + CALLED, [tool("f", {"a": 1}, "t")], "tool_use"),
    "call-at-once": ([call('{"a":1}', 0, "t", "f")] + CALLED, [tool("f", {"a": 1}, "t")], "tool_use"),
    "call-stop": ([delta(content="x"), call('{"a":1}', 0, "t", "f")] + END, [text("x"), tool("f", {"a": 1}, "t")], "tool_use"),
    "call-length": ([call('{"a":1}', 0, "t", "f"), finish("length"), DONE], [tool("f", {"a": 1}, "t")], "max_tokens"),
    "call-without-arguments": ([call(None, 0, "t", "f")] + CALLED, [tool("f", {}, "t")], "tool_use"),
    "call-escapes": ([call('{"a":"\\"\\\\', 0, "t", "f"), call('\\u00e4<\u00e4"}', 0)] + CALLED, [tool("f", {"a": '"\\\u00e4<\u00e4'}, "t")], "tool_use"),
    "two-calls": ([call('{"x":', 0, "A", "f"), call("1}", 0), call("", 1, "B", "g"), call('{"y":2}', 1)] + CALLED,
                  [tool("f", {"x": 1}, "A"), tool("g", {"y": 2}, "B")], "tool_use"),
    "index-always-0": ([call('{"x":1}', 0, "A", "f"), call('{"y":2}', 0, "B", "f"), call("{}", 0, "C", "f")] + CALLED,
                       [tool("f", {"x": 1}, "A"), tool("f", {"y": 2}, "B"), tool("f", {}, "C")], "tool_use"),
    "no-index": ([call('{"x":1}', None, "A", "f"), call('{"y":2}', None, "B", "g")] + CALLED,
                 [tool("f", {"x": 1}, "A"), tool("g", {"y": 2}, "B")], "tool_use"),
    "no-index-fragments": ([call("", None, "A", "f"), call('{"x":'), call("1}")] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "from-one": ([call('{"x":1}', 1, "A", "f"), call('{"y":2}', 2, "B", "g")] + CALLED,
                 [tool("f", {"x": 1}, "A"), tool("g", {"y": 2}, "B")], "tool_use"),
    "sparse": ([call("", 7, "A", "f"), call('{"x":1}', 7), call('{"y":2}', 3, "B", "g")] + CALLED,
               [tool("f", {"x": 1}, "A"), tool("g", {"y": 2}, "B")], "tool_use"),
    "in-one-chunk": ([delta(tool_calls=[entry('{"x":1}', 0, "A", "f"), entry('{"y":2}', 1, "B", "g")])] + CALLED,
                     [tool("f", {"x": 1}, "A"), tool("g", {"y": 2}, "B")], "tool_use"),
    "interleaved": ([call('{"x":', 0, "A", "f"), call('{"y":', 1, "B", "g"), call("1}", 0), call("2}", 1)] + CALLED,
                    [tool("f", {"x": 1}, "A"), tool("g", {"y": 2}, "B")], "tool_use"),
    "interleaved-three": ([delta(tool_calls=[entry("", n, "ABC"[n], "fgh"[n]) for n in range(3)]), call('{"z":', 2), call('{"x":', 0), call('{"y":', 1),
                           call("3}", 2), call("2}", 1), call("1}", 0)] + CALLED,
                          [tool("f", {"x": 1}, "A"), tool("g", {"y": 2}, "B"), tool("h", {"z": 3}, "C")], "tool_use"),
    "id-then-name": ([call(None, 0, "A"), call(None, 0, None, "f"), call('{"x":1}', 0)] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "no-ids": ([call('{"x":', 0, None, "f"), call("1}", 0), call('{"y":2}', 1, None, "f")] + CALLED,
               [tool("f", {"x": 1}), tool("f", {"y": 2})], "tool_use"),
    "empty-ids": ([call('{"x":', 0, "A", "f"), call("1}", 0, "", "")] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "repeated": ([call('{"x":', 0, "A", "f"), call("1", 0, "A", "f"), call("}", 0, "A", "f")] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "whole-again": ([call('{"x"', 0, "A", "f"), call(":1}", 0), call('{"x":1}', 0, "A", "f")] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "arguments-first": ([call('{"x":', 0), call(None, 0, "A", "f"), call("1}", 0)] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "arguments-object": ([call({"x": 1}, 0, "A", "f")] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "blank-between": ([call('{"x":', 0, "A", "f"), delta(content="\n"), delta(content=""), call("1}", 0)] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "empty-beside": ([delta(content="", tool_calls=[entry('{"x":1}', 0, "A", "f")]), delta(content="")] + CALLED, [tool("f", {"x": 1}, "A")], "tool_use"),
    "text-between": ([call('{"x":', 0, "A", "f"), delta(content="hm"), call("1}", 0)] + CALLED, [tool("f", {"x": 1}, "A"), text("hm")], "tool_use"),
}


def finished(pieces):
    """The stream as one text."""
    return b"".join(pieces)


def check(body, name):
    _, content, reason = STREAMS[name]
    told = events(body)
    assert bare(told.content) == content, (name, body)
    assert told.stop_reason == reason and told.stop_sequence is None, name
    return told


@pytest.mark.parametrize("name", STREAMS)
def test_stream(site, name):
    """A chunk of HTTP per event, as servers do it."""
    site.streams(STREAMS[name][0])
    reply = site.stream_of()
    assert (reply.status, reply.complete, reply.framing) == (200, True, "chunked")
    assert reply.get("Content-Type").startswith("text/event-stream") and reply.get("X-Olla-Mode") == "translation"
    told = check(reply.body, name)
    assert told.names[:2] == ["message_start", "ping"] and told.start["model"] == "m1"


def test_stream_usage(site):
    """The numbers of the server are in message_delta, not the estimates."""
    site.streams(STREAMS["text"][0])
    told = events(site.stream_of().body)
    assert (told.usage["input_tokens"], told.usage["output_tokens"]) == (37, 14)


def test_deltas_come_one_by_one(site):
    """A token is shown when it is there."""
    gates = [Gate() for _ in range(4)]
    pieces = [delta(content="a"), delta(content="b"), call('{"x":', 0, "t", "f"), call("1}", 0)]

    def handler(conn, request):
        conn.start_chunked()
        for piece, gate in zip(pieces, gates):
            conn.chunk(piece)
            gate.wait()
        for piece in CALLED:
            conn.chunk(piece)
        conn.end_chunks()
    site.says(handler)
    reply = start(site.client(), ask(stream=True)).read_head("POST")
    for gate, part in zip(gates, (b'"a"', b'"b"', b'{\\"x\\":', b'1}"')):
        while part not in reply.body:
            assert reply.read_piece(3), reply.body
        gate.open()
    told = events(reply.read_rest().body)
    assert bare(told.content) == [text("ab"), tool("f", {"x": 1}, "t")]
    assert told.names.count("content_block_delta") == 4


def insert(raw, what):
    """what before every event, and in front of the first line of each."""
    return what + raw.replace(b"\n\n", b"\n\n" + what)


VARIANTS = {
    "crlf": lambda raw: raw.replace(b"\n", b"\r\n"),
    "no-space": lambda raw: raw.replace(b"data: ", b"data:"),
    "comments": lambda raw: insert(raw, b": keep-alive\n\n:\n"),
    "fields": lambda raw: insert(raw, b"event: message\nid: 7\nretry: 10\n"),
    "data-lines": lambda raw: raw.replace(b"data: {", b"data: {\ndata:").replace(b"}\n\n", b"\ndata: }\n\n"),
    "crlf-lines": lambda raw: raw.replace(b"data: {", b"data: {\ndata:").replace(b"\n", b"\r\n"),
    "blank-lines": lambda raw: b"\n\n" + raw.replace(b"\n\n", b"\n\n\n\n"),
    "last-line-open": lambda raw: raw[:-1],
    "last-line-cut": lambda raw: raw[:-2],
    "charset": lambda raw: raw,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_spelling_of_streams(site, variant):
    """All that the standard of event streams allows."""
    ctype = "text/event-stream; charset=utf-8" if variant == "charset" else "text/event-stream"
    client = site.client()
    for name in STREAMS:
        if variant.startswith("last-line") and not name.startswith(("text", "call", "two")):
            continue
        raw = VARIANTS[variant](finished(STREAMS[name][0]))
        site.says(lambda c, r: (c.start_chunked(ctype), c.chunk(raw), c.end_chunks()))
        start(client, ask(stream=True))
        check(client.read_response("POST").body, name)


@pytest.mark.parametrize("framing", ["close", "length", "http10", "one-send", "bytes"])
def test_framing_of_streams(site, framing):
    """However the bytes are framed."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    for name in ("text", "escapes", "interleaved", "no-done", "one-chunk"):
        raw = finished(STREAMS[name][0])
        whole = {"close": head + b"\r\n" + raw, "length": head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw,
                 "http10": head.replace(b"1.1", b"1.0") + b"\r\n" + raw, "one-send": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(raw, 9999),
                 "bytes": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(raw, 1)}[framing]
        site.says(lambda c, r: (c.send(whole), c.fin() if framing in ("close", "http10") else None))
        check(site.stream_of().body, name)


WORKERS = 3


def test_cut_at_every_byte(site):
    """Every stream of the table, in two pieces, the cut at each place once."""
    pieces = {name: finished(STREAMS[name][0]) for name in STREAMS}

    def handler(conn, request):
        name, _, at = request.json()["messages"][-1]["content"].partition(":")
        raw, at = pieces[name], int(at)
        conn.start_chunked()
        conn.chunk(raw[:at])
        time.sleep(0.0003)
        conn.chunk(raw[at:])
        conn.end_chunks()
    site.says(handler)
    ends = [finished(END), finished(CALLED)]  # the same for most of them: three streams are enough there
    work = [(name, at) for name, raw in pieces.items() for at in range(1, len(raw))
            if name in ("text", "escapes", "call") or not any(raw.endswith(end) and at > len(raw) - len(end) for end in ends)]
    wrong = []

    def worker(mine):
        with site.proxy.client() as client:
            for name, at in mine:
                try:
                    start(client, ask(stream=True, messages=[{"role": "user", "content": "%s:%d" % (name, at)}]))
                    check(client.read_response("POST").body, name)
                except Exception as error:
                    wrong.append((name, at, repr(error)[:600]))
                    return
    threads = [threading.Thread(target=worker, args=(work[n::WORKERS],)) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(t.is_alive() for t in threads), wrong[:3]


def test_a_line_that_is_no_json(site):
    """Either it is skipped, or the stream is broken and says so; never a message that looks whole and is not."""
    site.streams([delta(content="a"), b"data: {oops\n\n", delta(content="b")] + END)
    reply = site.stream_of()
    if b"event: error" in reply.body:
        assert not reply.complete and events(reply.body, broken=True)
    else:
        assert bare(events(reply.body).content) == [text("ab")]


@pytest.mark.parametrize("what", ["arguments", "text", "escapes", "reasoning", "many-fragments", "waiting"])
def test_huge_lines(site, what):
    """300 KB of arguments in one chunk, 3 MB of text in one line, 1 MB for a call that is not open."""
    big = "x" * 300000
    raw = {"arguments": [call(json.dumps({"a": big}), 0, "A", "f")], "text": [delta(content="x" * 3000000)],
           "escapes": [data(b'{"choices":[{"delta":{"content":"%s"}}]}' % (b"\\u00e9\\n\\\"" * 100000))], "reasoning": [delta(reasoning="x" * 2000000)],
           "many-fragments": [call('{"a":"', 0, "A", "f")] + [call("x" * 100, 0) for _ in range(3000)] + [call('"}', 0)],
           "waiting": [call('{"a":"', 0, "A", "f")] + [call('{"b":"', 1, "B", "g")] + [call("y" * 50000, 1) for _ in range(20)]
           + [call(big, 0), call('"}', 1), call('"}', 0)]}[what]
    called = what in ("arguments", "many-fragments", "waiting")
    site.streams(raw + (CALLED if called else END))
    told = events(site.stream_of().body)
    wanted = {"arguments": [tool("f", {"a": big})], "text": [text("x" * 3000000)], "escapes": [text("\u00e9\n\"" * 100000)],
              "reasoning": [thinking("x" * 2000000)], "many-fragments": [tool("f", {"a": big}, "A")],
              "waiting": [tool("f", {"a": big}, "A"), tool("g", {"b": "y" * 1000000}, "B")]}[what]
    assert bare(told.content) == wanted and told.stop_reason == ("tool_use" if called else "end_turn")


def test_many_blocks(site):
    """More calls than any table has room for at first sight; and text and reasoning by turns."""
    site.streams([call('{"n":%d}' % n, n, "id%d" % n, "f%d" % n) for n in range(40)] + CALLED)
    assert bare(events(site.stream_of().body).content) == [tool("f%d" % n, {"n": n}, "id%d" % n) for n in range(40)]
    site.streams([delta(reasoning="r") if n % 2 else delta(content="t") for n in range(200)] + END)
    assert [b["type"] for b in events(site.stream_of().body).content] == ["text", "thinking"] * 100


# ---- what goes wrong

def as_error(obj):
    return data({"error": obj})


ERRORS = {
    "object": as_error({"message": "WORDS", "type": "server_error", "code": None}),
    "with-code": as_error({"code": 500, "message": "WORDS", "type": "server_error"}),
    "text": as_error("WORDS"),
    "object-error": data({"object": "error", "message": "WORDS", "type": "BadRequestError", "param": None, "code": 400}),
    "error-message": data({"error_type": "x", "error_message": "WORDS"}),
    "event": b"event: error\n" + as_error({"message": "WORDS"}),
    "event-bare": b'event: error\ndata: {"message":"WORDS"}\n\n',
    "crlf-event": b'event: error\r\ndata: {"error":{"message":"WORDS"}}\r\n\r\n',
    "field": b'error: {"code":500,"message":"WORDS","type":"server_error"}\n\n',
    "raw-json": b'{"error":{"message":"WORDS"}}\n',
    "then-done": as_error({"message": "WORDS"}) + DONE,
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_first(site, name):
    """Nothing was said yet: a real status, which client libraries understand and retry."""
    site.streams([b": hello\n\n", ERRORS[name]])
    error = envelope(site.stream_of())
    assert "WORDS" in error["message"]


@pytest.mark.parametrize("name", ERRORS)
def test_error_later(site, name):
    """Something was said: an error event, nothing after it, and no proper end of the body."""
    site.streams([delta(content="par"), ERRORS[name]])
    reply = site.stream_of()
    told = events(reply.body, broken=True)
    assert reply.status == 200 and not reply.complete, "a broken stream must not look whole"
    assert "WORDS" in told.error["message"] and told.error["type"] and bare(told.content) == [text("par")]


@pytest.mark.parametrize("words", ["request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                                   "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."])
def test_overflow_first(site, words):
    """LM Studio and others tell it in the stream."""
    for frame in (as_error({"message": words}), b"event: error\n" + as_error({"message": words}), data({"object": "error", "message": words, "code": 400})):
        site.streams([frame])
        envelope(site.stream_of(), 400, "invalid_request_error", re.compile("prompt is too long: "))


def cut(conn, how):
    if how == "eof":
        conn.end_chunks()
    elif how == "fin":
        conn.fin()
    else:
        time.sleep(0.05)
        conn.rst()


@pytest.mark.parametrize("how", ["eof", "fin", "rst"])
@pytest.mark.parametrize("said", [[delta(content="par")], [call('{"x":', 0, "t", "f")], [delta(reasoning="par")], [delta(role="assistant")],
                                  [delta(content="par"), b'data: {"choices":[{"del']], ids=["text", "call", "thinking", "role", "half-a-line"])
def test_cut_stream(site, said, how):
    """No finish_reason and no [DONE]: the answer is not whole, and the client must see that."""
    site.says(lambda c, r: (stream(c, said, False), cut(c, how)))
    reply = site.stream_of()
    told = events(reply.body, broken=True)
    assert not reply.complete and told.error["type"] == "api_error"


@pytest.mark.parametrize("how", ["eof", "fin", "rst", "204"])
def test_cut_before_the_first_frame(site, how):
    """Then it is an error like any other: the fake message without content is what clients take for an answer."""
    site.says((lambda c, r: c.send(b"HTTP/1.1 204 No Content\r\n\r\n")) if how == "204" else lambda c, r: (stream(c, [b": x\n\n"], False), cut(c, how)))
    envelope(site.stream_of(), 502, "api_error")


def test_cut_after_the_finish(site):
    """A connection that dies after finish_reason has said all."""
    site.says(lambda c, r: (stream(c, [delta(content="x"), finish()], False), c.end_chunks()))
    assert bare(events(site.stream_of().body).content) == [text("x")]


@pytest.mark.parametrize("status", [400, 429, 500])
def test_status_of_a_stream(site, status):
    """The status of the server decides first, whatever was asked for."""
    site.replies({"error": {"message": "WORDS"}}, status)
    envelope(site.stream_of(), status, message="WORDS")


def test_no_server_no_stream(world):
    """Nobody could be reached: an error, no empty message with a 200."""
    bench = Bench(world=world)
    bench.a.stop()
    reply = send(bench.proxy, ask(stream=True))
    assert reply.status >= 502 and envelope(reply)


def test_json_to_a_stream_request(site):
    """A server that cannot stream answers all the same; the client gets the events that it waits for."""
    for name, (given, content, reason) in WHOLE.items():
        site.replies(given)
        reply = site.stream_of()
        assert reply.get("Content-Type").startswith("text/event-stream"), name
        told = events(reply.body)
        assert bare(told.content) == content and told.stop_reason == reason, name
        assert (told.usage["input_tokens"], told.usage["output_tokens"]) == (37, 14)
    site.replies({"error": {"message": "WORDS"}})
    assert "WORDS" in envelope(site.stream_of())["message"]
    site.replies({"choices": []})
    envelope(site.stream_of(), 502, "api_error")


def test_done_and_still_open(site):
    """[DONE] is the end. Servers that keep the connection open must not keep the client waiting."""
    closed = []

    def handler(conn, request):
        stream(conn, HELLO, False)
        closed.append(conn.wait_close(5))
    site.says(handler)
    client = site.client()
    began = time.monotonic()
    reply = start(client, ask(stream=True)).read_response("POST")
    assert time.monotonic() - began < 2 and reply.complete and events(reply.body).text == "hello"
    site.says(lambda c, r: stream(c))
    reply = start(client, ask(stream=True)).read_response("POST")
    assert events(reply.body).text == "hello", "the client's connection goes on"
    eventually(lambda: closed and closed[0], "the connection to the server is closed", 3)


def test_bytes_after_done(site):
    """They are nobody's business, and not the beginning of the next answer."""
    client = site.client()
    for _ in range(3):
        site.streams(list(HELLO) + [data({"choices": [{"delta": {"content": "late"}}]}), b"junk"])
        assert events(start(client, ask(stream=True)).read_response("POST").body).text == "hello"


def test_slow_first_frame(site):
    """Slow (6 s): a long prompt. After five seconds the client is told that the message has begun."""
    gate = Gate()
    site.says(lambda c, r: (c.start_chunked(), gate.wait(20), [c.chunk(p) for p in HELLO], c.end_chunks()))
    client = site.client()
    began = time.monotonic()
    reply = start(client, ask(stream=True)).read_head("POST", 9)
    took = time.monotonic() - began
    while reply.body.count(b"\n\n") < 2:
        assert reply.read_piece(2)
    assert 3.5 < took < 8, took
    assert [name for name in re.findall(rb"event: (\w+)", reply.body)][:2] == [b"message_start", b"ping"]
    gate.open()
    assert events(reply.read_rest().body).text == "hello" and reply.complete


def impatient():
    return Bench(HEARTBEAT)


@pytest.fixture
def beat(kept):
    with shared(kept, impatient) as beat:
        yield beat


def test_pings_before_and_during(beat):
    """Silence in front of the answer, and in its middle."""
    def handler(conn, request):
        time.sleep(1.1)
        conn.start_chunked()
        conn.chunk(delta(content="a"))
        time.sleep(1.1)
        conn.chunk(delta(content="b"))
        time.sleep(0.7)
        for piece in END:
            conn.chunk(piece)
        conn.end_chunks()
    beat.says(handler)
    client = beat.client()
    began = time.monotonic()
    reply = start(client, ask(stream=True)).read_head("POST")
    reply.read_at_least(len(PING), 3)
    assert time.monotonic() - began < 1.0, "a sign of life before the server said anything"
    reply.read_rest()
    told = events(reply.body, early_pings=True)
    assert told.text == "ab" and reply.complete
    where = [n for n, name in enumerate(told.names) if name == "content_block_delta"]
    assert told.names[:where[0]].count("ping") >= 2 and told.names[where[0]:where[1]].count("ping") >= 2
    assert told.names[where[1]:].count("ping") >= 1


def test_errors_behind_pings(beat):
    """The 200 is gone: the error is an event, with the words of the server."""
    for answer in (lambda c: c.reply({"error": {"message": "WORDS"}}, 400), lambda c: stream(c, [as_error({"message": "WORDS"})])):
        beat.says(lambda c, r: (time.sleep(0.8), answer(c)))
        reply = beat.stream_of()
        told = events(reply.body, broken=True, early_pings=True)
        assert reply.status == 200 and not reply.complete and "WORDS" in told.error["message"]


def test_no_pings_in_whole_messages(beat):
    """Who asked for one document gets one document."""
    beat.says(lambda c, r: (time.sleep(0.8), c.reply(completion("x"))))
    assert message(send(beat.proxy, ask()))["content"] == [text("x")]


# ---- clients that leave, and slow ones

@pytest.mark.parametrize("when", ["before", "head", "middle", "whole"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_leaves(site, when, how):
    """The GPU must stop at once."""
    gone, ready = Gate(), Gate()

    def handler(conn, request):
        if when == "head":
            conn.start_chunked()
        elif when == "middle":
            stream(conn, [delta(content="a")], False)
        ready.open()
        if conn.wait_close(8):
            gone.open()
    site.says(handler)
    client = start(site.client(), ask(stream=when != "whole"))
    ready.wait()
    if when == "middle":
        reply = client.read_head("POST")
        while b'"a"' not in reply.body:
            reply.read_piece()
    else:
        time.sleep(0.1)
    client.reset() if how == "reset" else client.close()
    gone.wait(2)


def test_client_leaves_a_flood(site):
    """... also when the server writes faster than anybody reads."""
    gone = Gate()

    def handler(conn, request):
        conn.start_chunked()
        try:
            for _ in range(100000):
                conn.chunk(delta(content="x" * 1000))
        except OSError:
            gone.open()
            raise
    site.says(handler)
    client = site.client(rcvbuf=4096)
    reply = start(client, ask(stream=True)).read_head("POST")
    reply.read_at_least(100)
    client.close()
    gone.wait(5)


def test_slow_reader(site):
    """Megabytes for a client that takes its time: nothing is lost, and memory stays bounded."""
    words = ["%05d" % n + "x" * 995 for n in range(12000)]
    site.streams([delta(content=word) for word in words] + END)
    client = site.client(rcvbuf=8192)
    before = site.proxy.rss_kb()
    reply = start(client, ask(stream=True)).read_head("POST")
    for _ in range(20):
        reply.read_piece()
        time.sleep(0.02)
    assert site.proxy.rss_kb() - before < 6000, "what nobody reads must wait at the server"
    assert events(reply.read_rest(30).body).text == "".join(words)


def test_slow_reader_of_a_long_line(site):
    """One line of 3 MB has to be somewhere; it comes down whole."""
    long = "".join("%06d " % n for n in range(400000))
    site.streams([delta(content=long)] + END)
    client = site.client(rcvbuf=8192)
    reply = start(client, ask(stream=True)).read_head("POST")
    for _ in range(10):
        reply.read_piece()
        time.sleep(0.02)
    assert events(reply.read_rest(30).body).text == long


def test_http10_client(site):
    """Without chunks: until the connection ends."""
    for streamed in (True, False):
        with site.proxy.client() as client:
            reply = client.request("POST", ROOT, dump(ask(stream=streamed)), [("Content-Type", "application/json")], version="HTTP/1.0")
            assert (events(reply.body).text if streamed else message(reply)["content"][0]["text"]) == "hello"


def test_pipelined(site):
    """Two requests at once, a stream and a message: two answers, in order, on one connection."""
    client = site.client()
    for _ in range(3):
        start(client, ask(stream=True))
        start(client, ask(), OWN)
        assert events(client.read_response("POST").body).text == "hello"
        assert message(client.read_response("POST"))["content"] == [text("hello")]
    assert len(posts(site.a)) == 6


def test_many_at_once(site):
    """Thirty streams side by side, each with words of its own: nothing is mixed."""
    def handler(conn, request):
        word = request.json()["messages"][0]["content"]
        conn.start_chunked()
        for n in range(20):
            conn.chunk(delta(content="%s-%d " % (word, n)))
            time.sleep(0.002)
        conn.chunk(finish() + DONE)
        conn.end_chunks()
    site.says(handler)
    clients = [start(site.client(), ask(stream=True, messages=[{"role": "user", "content": "w%d" % n}])) for n in range(30)]
    for n, client in enumerate(clients):
        assert events(client.read_response("POST").body).text == "".join("w%d-%d " % (n, k) for k in range(20))


def test_server_never_answers(site):
    """A request that is given up leaves nothing behind (the fixture looks)."""
    site.a.on(CHAT, hold)
    client = start(site.client(), ask(stream=True))
    site.a.wait_calls(1)
    client.close()


# ---- the checker itself

GOOD = (b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_01abcdefghijkm","type":"message","role":"assistant","model":"m",'
        b'"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":0}}}\n\n' + PING +
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}\n\n'
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_checker_accepts_the_protocol():
    told = events(GOOD)
    assert told.text == "x" and told.pings == 1 and told.usage["output_tokens"] == 2
    assert events(GOOD[:GOOD.index(b"event: content_block_stop")] +
                  b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"m"}}\n\n', broken=True).error["message"] == "m"


@pytest.mark.parametrize("old,new", [
    (b"event: ping\n", b""), (b"\n\n", b"\n"), (b"data: ", b"data:"), (b'"index":0', b'"index":1'), (b"text_delta", b"thinking_delta"),
    (b'"text":""}', b'"x":1}'), (GOOD[-60:], b""), (b"event: message_stop", b"event: message_end"), (b'"output_tokens":2', b'"x":2'),
    (GOOD, GOOD + PING), (GOOD, GOOD[:GOOD.index(PING)] + GOOD), (GOOD, PING + GOOD), (b"end_turn", b"stop"), (b"\n\n", b"\r\n\r\n"),
    (b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n', b""), (b'"content":[]', b'"content":null'),
    (b"event: message_stop", b": comment\n\nevent: message_stop"), (b'"text":"x"}', b'"text":"x"}} '), (GOOD, GOOD.rstrip())])
def test_checker_refuses_the_rest(old, new):
    with pytest.raises((AssertionError, KeyError, ValueError)):
        events(GOOD.replace(old, new))


