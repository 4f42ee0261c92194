"""Tokens: what each kind of server tells is read as it passes, from plain replies and from streams, and is the same in the
access line, the status, the statistics, the metrics and for the key; the client gets the very bytes that the server sent."""

import gzip
import json

import pytest

from client import dump
from harness import World, endpoint, new_id, report
from messages import ask as message_body
from messages import completion
from observe import CHAT, MODELS, STATUS, ask, bearer, by_name, event, line, metrics, page, says, streams
from servers import Compatible, Llamacpp, LmStudio, Ollama, Vllm

SECRET = "sk-tokens-1"
SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"
DONE = b"data: [DONE]\n\n"
KINDS = {"o": Ollama, "v": Vllm, "c": Compatible, "l": Llamacpp, "s": LmStudio}
OLLAMA_END = {"model": "m-o", "done": True, "done_reason": "stop", "total_duration": 885095291, "load_duration": 3753500,
              "prompt_eval_count": 26, "prompt_eval_duration": 328493000, "eval_count": 12, "eval_duration": 552222000}
WORDS = dump({"usage": {"prompt_tokens": 9000, "completion_tokens": 9000, "total_tokens": 18000}, "prompt_eval_count": 9000, "eval_count": 9000,
              "timings": {"prompt_n": 9000}, "model": "their words"}).decode()


def chunk(text="x", **more):
    return event(dict({"object": "chat.completion.chunk", "model": "m-c", "choices": [{"index": 0, "delta": {"content": text}}]}, **more))


def usage(prompt, completed, **more):
    return dict({"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed}, **more)


class Case:
    """What a server (by the letter of its kind) answers on a path, and what olla reads from it. told: input and output, or None.
    rate: tokens_per_sec; model: what the server calls the model, if that is news."""

    def __init__(self, name, at, path, reply, told, ctype=JSON, total=None, rate=None, model=None, cached=None, status=200, headers=(),
                 cut=0, body=None, serves=None, same=True, end=True):
        self.name, self.at, self.path, self.told, self.rate, self.model = name, at, path, told, rate, model
        self.cached, self.status, self.same, self.serves = cached, status, same, serves or path
        self.total = total if total is not None or told is None else sum(told)
        self.body = body or {"model": "m-" + at, "messages": [{"role": "user", "content": "hi"}], "stream": ctype != JSON}
        if isinstance(reply, list):
            self.raw = b"".join(reply)
            pieces = [self.raw[i:i + cut] for i in range(0, len(self.raw), cut)] if cut else reply
            self.handler = streams(pieces, ctype, headers=headers)
        else:
            self.raw = reply if isinstance(reply, bytes) else dump(reply)
            self.handler = says(self.raw, status, ctype, headers)


def anthropic(**figures):
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-v", "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn", "stop_sequence": None, "usage": figures}


def anthropic_stream():
    start = dict(anthropic(input_tokens=472, cache_read_input_tokens=28, output_tokens=2), content=[], stop_reason=None)
    return [event({"type": "message_start", "message": start}, "message_start"), event({"type": "ping"}, "ping"),
            event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, "content_block_start"),
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": WORDS}}, "content_block_delta"),
            event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 89}}, "message_delta"),
            event({"type": "message_stop"}, "message_stop")]


WHOLE = completion("hello", usage=usage(21, 8))
STREAM = [chunk("a"), chunk("b", usage=None), event({"choices": [], "usage": usage(21, 8)}), DONE]
MESSAGE = message_body(model="m-c")
CASES = [
    Case("openai", "c", CHAT, dict(WHOLE, model="m-c"), (21, 8)),
    Case("openai-details", "c", CHAT, {"model": "other-name", "usage": usage(21, 80, prompt_tokens_details={"cached_tokens": 16}, completion_tokens_details={
        "reasoning_tokens": 64})}, (21, 80), cached=16, model="other-name"),
    Case("openai-total-is-larger", "c", CHAT, {"usage": dict(usage(21, 8), total_tokens=40)}, (21, 8), total=40),
    Case("openai-charset", "c", CHAT, {"usage": usage(3, 4)}, (3, 4), ctype="Application/JSON; charset=utf-8", body={"model": "m-c", "messages": []}),
    Case("openai-spaced", "c", CHAT, json.dumps({"choices": [], "usage": usage(3, 4)}, indent=2).encode(), (3, 4)),
    Case("openai-stream", "c", CHAT, STREAM, (21, 8), SSE),
    Case("openai-stream-bytewise", "c", CHAT, STREAM, (21, 8), SSE, cut=1),
    Case("openai-stream-crlf", "c", CHAT, [piece.replace(b"\n", b"\r\n") for piece in STREAM], (21, 8), SSE),
    Case("openai-usage-each-chunk", "v", CHAT, [chunk("a", usage=usage(7, 1)), chunk("b", usage=usage(7, 2)), chunk("c", usage=usage(7, 3)), DONE],
         (7, 3), SSE, model="m-c"),
    Case("openai-completions", "v", "/v1/completions", {"object": "text_completion", "usage": usage(5, 16)}, (5, 16), body={"model": "m-v", "prompt": "x"}),
    Case("embeddings", "c", "/v1/embeddings", {"data": [{"embedding": [0.25] * 99}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}, (8, 0),
         body={"model": "m-c", "input": "hello"}),
    Case("rerank", "v", "/v1/rerank", {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 56}}, (56, 0),
         body={"model": "m-v", "query": "q", "documents": ["d"]}),
    Case("responses", "c", "/v1/responses", {"object": "response", "model": "m-c", "usage": {
        "input_tokens": 36, "input_tokens_details": {"cached_tokens": 10}, "output_tokens": 87, "output_tokens_details": {"reasoning_tokens": 50},
        "total_tokens": 123}}, (36, 87), cached=10, body={"model": "m-c", "input": "hi"}),
    Case("responses-stream", "c", "/v1/responses", [
        event({"type": "response.created", "response": {"model": "m-c", "usage": None}}, "response.created"),
        event({"type": "response.output_text.delta", "delta": WORDS}, "response.output_text.delta"),
        event({"type": "response.completed", "response": {"model": "m-c", "output": [{"usage": usage(9, 9)}], "usage": {
            "input_tokens": 37, "output_tokens": 11, "total_tokens": 48}}}, "response.completed")], (37, 11), SSE,
        body={"model": "m-c", "input": "hi", "stream": True}),
    Case("ollama-chat", "o", "/api/chat", dict(OLLAMA_END, message={"role": "assistant", "content": WORDS}), (26, 12), rate="21.7",
         body={"model": "m-o", "messages": [], "stream": False}),
    Case("ollama-chat-stream", "o", "/api/chat", [line({"model": "m-o", "message": {"content": WORDS}, "done": False})] * 3 + [line(OLLAMA_END)],
         (26, 12), NDJSON, rate="21.7"),
    Case("ollama-chat-stream-bytewise", "o", "/api/chat", [line({"model": "m-o", "message": {"content": "hi"}, "done": False}), line(OLLAMA_END)],
         (26, 12), NDJSON, rate="21.7", cut=1),
    Case("ollama-generate-stream", "o", "/api/generate", [line({"model": "m-o", "response": "a"}), line(dict(OLLAMA_END, context=[1, 2, 3]))],
         (26, 12), NDJSON, rate="21.7", body={"model": "m-o", "prompt": "hi"}),
    Case("ollama-cached-prompt", "o", "/api/generate", [line({"model": "m-o", "done": True, "eval_count": 5, "eval_duration": 1000000000})], (0, 5), NDJSON,
         rate="5.0", body={"model": "m-o", "prompt": "hi"}),
    Case("ollama-embed", "o", "/api/embed", {"model": "m-o", "embeddings": [[0.5]], "prompt_eval_count": 8}, (8, 0), body={"model": "m-o", "input": "hi"}),
    Case("ollama-openai", "o", CHAT, {"model": "m-o", "usage": usage(9, 2)}, (9, 2)),
    Case("llamacpp-completion", "l", "/olla/llamacpp/completion", {"content": WORDS, "model": "m-l", "tokens_evaluated": 11, "tokens_predicted": 6, "timings": {
        "prompt_n": 11, "prompt_ms": 20.5, "predicted_n": 6, "predicted_ms": 120.0, "predicted_per_second": 50.0}}, (11, 6), rate="50.0",
        serves="/completion", body={"model": "m-l", "prompt": "hi"}),
    Case("llamacpp-timings-only", "l", CHAT, [chunk("a"), event({"choices": [], "timings": {
        "cache_n": 10, "prompt_n": 5, "predicted_n": 7, "predicted_ms": 165.6, "predicted_per_second": 42.27}}), DONE], (15, 7), SSE, rate="42.3", cached=10,
        model="m-c"),
    Case("llamacpp-usage-and-timings", "l", CHAT, {"usage": usage(15, 7), "timings": {"cache_n": 10, "prompt_n": 5, "predicted_n": 7,
                                                                                     "predicted_per_second": 9.97}}, (15, 7), rate="10.0", cached=10),
    Case("lm-studio-stats", "s", CHAT, {"usage": usage(24, 53), "stats": {"tokens_per_second": 51.43709, "time_to_first_token": 0.111}}, (24, 53), rate="51.4"),
    Case("anthropic", "v", "/v1/messages", anthropic(input_tokens=5, output_tokens=3, cache_read_input_tokens=7, cache_creation_input_tokens=2), (14, 3),
         cached=7, body=message_body(model="m-v")),
    Case("anthropic-stream", "v", "/v1/messages", anthropic_stream(), (500, 89), SSE, cached=28, body=message_body(model="m-v", stream=True)),
    Case("anthropic-translated", "c", "/v1/messages", dict(WHOLE, model="m-c"), (21, 8), body=MESSAGE, serves=CHAT, same=False),
    Case("anthropic-translated-stream", "c", "/v1/messages", [
        chunk("a"), event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), event({"choices": [], "usage": usage(21, 8)}), DONE],
        (21, 8), SSE, body=dict(MESSAGE, stream=True), serves=CHAT, same=False),
    Case("words-are-no-usage", "c", CHAT, {"model": "m-c", "choices": [{"message": {"content": WORDS, "usage": usage(1, 1), "tool_calls": [
        {"function": {"arguments": WORDS}}]}}], "x": {"usage": usage(2, 2)}, "metadata": [{"usage": usage(3, 3)}], "usage": usage(4, 5)}, (4, 5)),
    Case("words-in-a-stream", "c", CHAT, [chunk(WORDS), chunk("\n\ndata: " + WORDS + "\n\n"), event({"usage": usage(4, 5)}), DONE], (4, 5), SSE),
    Case("a-comment-is-no-event", "c", CHAT, [b": " + WORDS.encode() + b"\n\n", chunk("a", usage=usage(4, 5)), DONE], (4, 5), SSE),
    Case("large", "c", CHAT, {"model": "m-c", "choices": [{"message": {"content": "x" * 300000}}], "usage": usage(4, 75000)}, (4, 75000)),
    # what is not told
    Case("gzip", "c", CHAT, gzip.compress(dump({"usage": usage(21, 8)})), None, headers=[("Content-Encoding", "gzip")]),
    Case("gzip-stream", "c", CHAT, [gzip.compress(b"".join(STREAM))], None, SSE, headers=[("Content-Encoding", "gzip")]),
    Case("other-type", "c", CHAT, dump({"usage": usage(21, 8)}), None, ctype="text/plain", body={"model": "m-c", "messages": []}),
    Case("refused", "c", CHAT, {"error": {"message": WORDS}}, None, status=400),
    Case("count-tokens", "l", "/v1/messages/count_tokens", {"input_tokens": 77}, None, body=message_body(model="m-l", max_tokens=...)),
    Case("not-inference", "l", "/olla/llamacpp/tokenize", {"tokens": [1, 2, 3]}, None, serves="/tokenize", body={"model": "m-l", "content": "hi"}),
]


class Fleet:
    """One server of each kind, and one key."""

    def __init__(self):
        self.world = World()
        self.servers = {name: self.world.backend(kind, name, ["m-" + name]) for name, kind in KINDS.items()}
        self.proxy = self.world.olla({name: endpoint(s, health="none", check_interval="120s") for name, s in self.servers.items()}, {
            "key:k.secret": SECRET, "key:idle.secret": "sk-tokens-2"})

    @property
    def proxies(self):
        return self.world.proxies

    def figures(self, at):
        """Input, output and estimated, everywhere."""
        status, model, m = page(self.proxy, STATUS), "m-" + at, metrics(self.proxy)
        entries = {"endpoint": by_name(status["endpoints"])[at], "system": status["system"], "key": by_name(status["keys"])["k"],
                   "model": by_name(page(self.proxy, MODELS)["models"]).get(model, {})}
        out = {where: tuple(e.get(k, 0) for k in ("input_tokens", "output_tokens", "estimated_requests")) for where, e in entries.items()}
        out["today"] = entries["key"]["tokens_today"]
        for where, family, label in (("metrics endpoint", "olla_endpoint_", "endpoint"), ("metrics model", "olla_model_", "model"),
                                     ("metrics key", "olla_key_", "key")):
            name = {"endpoint": at, "model": model, "key": "k"}[label]
            out[where] = tuple(int(m.labelled(family + k + "_total", label).get(name, 0)) for k in ("input_tokens", "output_tokens"))
        out["metrics"] = tuple(int(m.get("olla_%s_total" % k)) for k in ("input_tokens", "output_tokens", "estimated_requests"))
        assert by_name(status["keys"])["idle"]["tokens_today"] == 0
        return out


@pytest.fixture
def fleet(kept):
    fleet = kept(Fleet)
    yield fleet
    fleet.world.close_clients()
    report(fleet.proxy.idle_problems() + fleet.world.script_failures())


def moved(before, after, tokens, estimated=0):
    """Everything has grown by that, and by nothing else."""
    for where, value in after.items():
        wanted = tokens[0] + tokens[1] if where == "today" else tuple(tokens) + (estimated,) if len(value) == 3 else tuple(tokens)
        grown = value - before[where] if where == "today" else tuple(a - b for a, b in zip(value, before[where]))
        assert grown == wanted, (where, grown, wanted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_told(fleet, case):
    fleet.servers[case.at].on(case.serves, case.handler)
    before, ident = fleet.figures(case.at), new_id()
    reply = ask(fleet.proxy, case.path, case.body, bearer(SECRET), ident=ident)
    assert reply.status == case.status and reply.complete, reply.body
    assert reply.get("X-Olla-Endpoint") == case.at
    assert not case.same or reply.body == case.raw, "the client gets what the server sent"
    entry = fleet.proxy.access(ident)
    told = case.told or (0, 0)
    for key, wanted in (("input_tokens", told[0]), ("output_tokens", told[1]), ("total_tokens", case.total), ("cached_tokens", case.cached),
                        ("tokens_per_sec", case.rate), ("provider_model", case.model)):
        if case.told is None or wanted is None:
            assert key not in entry, entry
        else:
            assert entry[key] == wanted and type(entry[key]) is type(wanted), (key, entry)
    assert "tokens" not in entry and type(entry["ttft_ms"]) is int and 0 <= entry["ttft_ms"] <= entry["duration_ms"], entry
    moved(before, fleet.figures(case.at), told)


PROMPT = "0123456789" * 40


@pytest.mark.parametrize("name,path,reply,ctype,output", [
    ("stream", CHAT, [chunk(word) for word in "abcdefgh"] + [DONE], SSE, (8, 9)),
    ("ndjson", "/api/chat", [line({"model": "m-o", "message": {"content": "x"}, "done": n == 7}) for n in range(8)], NDJSON, (8, 8)),
    ("plain", CHAT, completion("x" * 4000, usage=...), JSON, (1000, 1100)),
    ("null", CHAT, dict(completion("x" * 4000, usage=...), usage=None), JSON, (1000, 1100)),
    ("negative", CHAT, dict(completion("x" * 4000, usage=...), usage={"prompt_tokens": -5, "completion_tokens": "7"}), JSON, (1000, 1100)),
    ("vectors", "/v1/embeddings", {"data": [{"embedding": [0.123456] * 5000}]}, JSON, (0, 0)),
    ("ollama-vectors", "/api/embeddings", {"embedding": [0.123456] * 5000}, JSON, (0, 0)),
    ("images", "/v1/images/generations", {"data": [{"b64_json": "x" * 50000}]}, JSON, (0, 0)),
], ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "")
def test_estimated(fleet, name, path, reply, ctype, output):
    """Of a prompt four bytes, of a stream one event, of a text four bytes are about a token; what is no text is none."""
    at = "o" if path.startswith("/api") else "c"
    fleet.servers[at].on(path, streams(reply, ctype) if isinstance(reply, list) else says(reply, ctype=ctype))
    before, ident = fleet.figures(at), new_id()
    asked = {"model": "m-" + at, "stream": ctype != JSON, "messages": [{"role": "user", "content": PROMPT}]}
    if path != CHAT and path != "/api/chat":
        asked = {"model": "m-" + at, "input": PROMPT, "prompt": PROMPT}
    got = ask(fleet.proxy, path, asked, bearer(SECRET), ident=ident)
    assert got.status == 200 and got.body == (b"".join(reply) if isinstance(reply, list) else dump(reply))
    entry = fleet.proxy.access(ident)
    assert entry["tokens"] == "estimated", entry
    told = entry.get("input_tokens", 0), entry.get("output_tokens", 0)
    assert output[0] <= told[1] <= output[1] and 100 <= told[0] <= 260, entry
    assert entry["total_tokens"] == sum(told) and "tokens_per_sec" not in entry
    moved(before, fleet.figures(at), told, 1)


def test_rate_of_an_endpoint(fleet):
    """What it told last, smoothed; the same in the metrics."""
    fleet.servers["o"].on("/api/chat", says(OLLAMA_END))
    for _ in range(12):
        assert ask(fleet.proxy, "/api/chat", {"model": "m-o", "messages": [], "stream": False}, bearer(SECRET)).status == 200
    rate = by_name(page(fleet.proxy, STATUS)["endpoints"])["o"]["tokens_per_second"]
    assert abs(rate - 21.73) < 1
    assert metrics(fleet.proxy).labelled("olla_endpoint_tokens_per_second", "endpoint")["o"] == rate


def test_a_failed_attempt_costs_nothing(fleet):
    """Tokens in the reply of an endpoint that was given up are not the client's."""
    fleet.servers["c"].on(CHAT, says({"usage": usage(500, 500)}, 500))
    before = fleet.figures("c")
    assert ask(fleet.proxy, CHAT, {"model": "m-c", "messages": []}, bearer(SECRET)).status == 500
    after = fleet.figures("c")
    told = after["key"][0] - before["key"][0], after["key"][1] - before["key"][1]
    assert told in ((0, 0), (500, 500)), "what a server tells is told, but nothing is estimated"
    moved(before, after, told)
