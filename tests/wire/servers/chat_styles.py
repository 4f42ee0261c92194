"""Chat completions in the words of Ollama, llama.cpp, vLLM, SGLang and LM Studio. A test says what the model produces; each
server tells it in its own way, whole or as a stream, and checks the request that asked for it.

    a = world.backend(ChatVllm, "a", ["m1"])
    a.turns = [Turn(think="Hm.", text="Hello there."), Failure(429, "too many", headers={"Retry-After": "1"})]

One turn per request; the last one stays. `turns` may also be a function of the request's JSON. A request that the server
would not understand is a failure of the script (a.failures), and is answered with a 400 that says what was wrong.

Facts. Ollama: middleware/openai.go, openai/openai.go. The role and a content are in every chunk, a call comes whole and all
calls have index 0, a call makes any finish reason `tool_calls`, usage is a chunk of its own and only on demand, content is
null only together with tool_calls, images are data: URLs of jpeg, jpg, png, webp. An error after the first byte is lost in
the conversion: an empty chunk without a model, and the reply ends as if that were all (`late = "line"`: a bare JSON line).
llama.cpp: build b11669 as it answered. content is null in the first chunk, id and name come with the first piece of the
arguments, usage is a chunk of its own and on demand, with `timings` in it or in the last chunk; an error in a stream is a
data line, in 2025 a field line (`late = "field"`), and nothing follows it.
vLLM: entrypoints/openai/chat_completion/serving.py. tool_calls is [] where there are none, the finish reason of a named tool
is `stop`, the matched stop text is `stop_reason`, [DONE] follows an error. In older ones (`old = True`) reasoning was
`reasoning_content` and errors were flat. It refuses stream_options without stream, and tool_choice without tools.
SGLang: srt/entrypoints/openai/serving_chat.py, sse_utils.py. Null fields everywhere, matched_stop is a token or a text,
errors are flat, inside a stream one level deeper, and usage and [DONE] may follow.
LM Studio: documentation, lmstudio-bug-tracker 237, 670, 2322. Ids of nine digits, an error of a stream is a 200 with
`event: error`, otherwise a 400 with a text; tool_choice is a word, never an object (670)."""

import itertools
import json
import re
import typing

from backend import sse
from client import dump

from .chat_checks import KEYS, Unfit, check_framing, check_messages, check_parameters, check_tools, need, parse
from .llamacpp import Llamacpp
from .lm_studio import LmStudio
from .ollama import Ollama
from .sglang import Sglang
from .vllm import Vllm

DONE = b"data: [DONE]\n\n"
ENDED, CUT = "ended", "cut"  # how a reply may stop in its middle: the body just ends; the connection does


class Call(typing.NamedTuple):
    """A tool call: the arguments are an object, or the text that the model wrote in its place."""

    name: str
    arguments: object = {}

    @property
    def text(self):
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


class Failure(typing.NamedTuple):
    status: int
    message: str
    headers: object = ()


class Turn(typing.NamedTuple):
    """What the model says in one reply. A text may be given as the list of its pieces."""

    text: object = ""
    think: object = ""
    calls: tuple = ()
    finish: object = None  # instead of what follows from the rest
    stop: object = None  # the stop text that ended it
    prompt: int = 37
    cached: int = 0
    tokens: int = 14
    broken: object = None  # in a stream, after all of the above and instead of its end: a Failure, ENDED or CUT
    hold: object = None  # hold(conn) is called before the first frame and between all frames


def pieces(text):
    """The pieces in which a model produces a text: words with the blanks in front of them."""
    return list(text) if isinstance(text, (list, tuple)) else re.findall(r"\s*\S+\s*?|\s+$", text)


def whole(text):
    return text if isinstance(text, str) else "".join(text)


def fragments(text):
    """The arguments of a call as they come: not at the borders of values."""
    size = max(6, len(text) // 40)
    return [text[at:at + size] for at in range(0, len(text), size)]


class Chat:
    """What the five have in common; it stands before a server class in the list of bases."""

    extra = frozenset()  # keys of a request beside KEYS that this server knows
    image_types = frozenset(("jpeg", "jpg", "png", "webp", "gif"))
    remote_images = True
    reasoning = "reasoning_content"  # the field's name
    reports_cached = True  # tokens of the prompt that were in memory, in usage
    system = None  # system_fingerprint
    late = None  # how an error in the middle of a stream looks, where there are several ways
    old = False  # the forms of older versions
    size = None  # the stream goes out in pieces of so many bytes; None = frame by frame
    as_json = False  # a request for a stream is answered with the whole reply

    def setup(self):
        super().setup()
        self.turns = [Turn(text="Hello.")]
        self.counter = itertools.count(1)
        self.on(self.base + "/chat/completions", self.chat)

    @property
    def asked(self):
        """The JSON of the chat requests so far."""
        return [parse(call.body) for call in self.calls if call.path == self.base + "/chat/completions"]

    # ---- one request

    def chat(self, conn, request):
        body = {}
        try:
            body = self.check(request)
        except Unfit as error:
            self.failures.append("%s cannot take this request: %s" % (self.name, error))
            return self.refuse(conn, Failure(400, str(error)), body)
        turn = self.next_turn(body)
        if isinstance(turn, Failure):
            self.refuse(conn, turn, body)
        elif body.get("stream") and not self.as_json:
            self.stream(conn, turn, body)
        else:
            conn.reply(self.whole_reply(turn, body), ctype=self.ctype)

    def next_turn(self, body):
        if callable(self.turns):
            return self.turns(body)
        with self.lock:
            return self.turns[0] if len(self.turns) == 1 else self.turns.pop(0)

    def check(self, request):
        check_framing(request)
        body = parse(request.body)
        need(isinstance(body, dict), "the body is %r", type(body))
        need(body.get("model") in self.models, "the model %r: here are %r", body.get("model"), self.models)
        unknown = set(body) - KEYS - self.extra
        need(not unknown, "unknown keys %r", sorted(unknown))
        check_parameters(body)
        check_tools(body)
        need(isinstance(body.get("messages"), list) and body["messages"], "messages %r", body.get("messages"))
        check_messages(body["messages"], self.image_types, self.remote_images)
        return body

    # ---- the parts of a reply; kinds say what differs

    def new_id(self):
        return "chatcmpl-%d" % next(self.counter)

    def call_id(self, number):
        return "call_%s%02d" % (self.name, number)

    def usage(self, turn):
        out = {"prompt_tokens": turn.prompt, "completion_tokens": turn.tokens, "total_tokens": turn.prompt + turn.tokens}
        return dict(out, prompt_tokens_details={"cached_tokens": turn.cached}) if self.reports_cached else out

    def finish_reason(self, turn, body):
        return turn.finish or ("tool_calls" if turn.calls else "stop")

    def call_entry(self, number, call):
        return {"id": self.call_id(next(self.counter)), "type": "function", "function": {"name": call.name, "arguments": call.text}}

    def message(self, turn, body):
        out = {"role": "assistant", "content": whole(turn.text)}
        if turn.think:
            out[self.reasoning] = whole(turn.think)
        if turn.calls:
            out["tool_calls"] = [self.call_entry(n, call) for n, call in enumerate(turn.calls)]
        return out

    def ending(self, turn):
        """Further fields of a choice that has its finish reason."""
        return {}

    def head(self, kind, body):
        out = {"id": self.new_id(), "object": kind, "created": 1754535984, "model": body["model"]}
        return dict(out, system_fingerprint=self.system) if self.system else out

    def whole_reply(self, turn, body):
        choice = dict({"index": 0, "message": self.message(turn, body), "finish_reason": self.finish_reason(turn, body)},
                      **self.ending(turn))
        return dict(self.head("chat.completion", body), choices=[choice], usage=self.usage(turn))

    # ---- a stream

    def choice(self, delta, finish=None, **more):
        return dict({"index": 0, "delta": delta, "finish_reason": finish}, **more)

    def opening(self, turn):
        """The deltas before the model said anything."""
        return [{"role": "assistant", "content": ""}]

    def think_delta(self, piece):
        return {self.reasoning: piece}

    def text_delta(self, piece):
        return {"content": piece}

    def call_deltas(self, number, call):
        entry = self.call_entry(number, call)
        yield {"tool_calls": [dict(entry, index=number, function={"name": call.name, "arguments": ""})]}
        for piece in fragments(call.text):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}

    def deltas(self, turn):
        yield from self.opening(turn)
        for piece in pieces(turn.think):
            yield self.think_delta(piece)
        for piece in pieces(turn.text):
            yield self.text_delta(piece)
        for number, call in enumerate(turn.calls):
            yield from self.call_deltas(number, call)

    def last_delta(self):
        return {}

    def usage_chunk(self, turn):
        return {"choices": [], "usage": self.usage(turn)}

    def chunks(self, turn, body):
        """All chunks without the fields that are the same in each."""
        for delta in self.deltas(turn):
            yield {"choices": [self.choice(delta)]}
        if turn.broken:
            return
        yield {"choices": [self.choice(self.last_delta(), self.finish_reason(turn, body), **self.ending(turn))]}
        if (body.get("stream_options") or {}).get("include_usage"):
            yield self.usage_chunk(turn)

    def frames(self, turn, body):
        head = self.head("chat.completion.chunk", body)
        for chunk in self.chunks(turn, body):
            yield sse(dict(head, **chunk))
        if isinstance(turn.broken, Failure):
            yield from self.late_failure(turn.broken, body)
        elif not turn.broken:
            yield DONE

    def stream(self, conn, turn, body):
        conn.start_chunked("text/event-stream")
        if self.size:
            data = b"".join(self.frames(turn, body))
            for at in range(0, len(data), self.size):
                conn.chunk(data[at:at + self.size])
        else:
            for frame in self.frames(turn, body):
                if turn.hold:
                    turn.hold(conn)
                conn.chunk(frame)
        if turn.broken == CUT:
            conn.fin()
        else:
            conn.end_chunks()

    # ---- errors

    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    kind = "api_error"

    def error(self, failure):
        """The JSON of an error reply."""
        return {"error": {"message": failure.message, "type": self.kinds.get(failure.status, self.kind), "param": None,
                          "code": failure.status}}

    def refuse(self, conn, failure, body):
        conn.reply(self.error(failure), failure.status, self.ctype, failure.headers)

    def late_failure(self, failure, body):
        yield sse(self.error(failure))


class ChatOllama(Chat, Ollama):
    extra = frozenset(("reasoning_effort",))
    image_types = frozenset(("jpeg", "jpg", "png", "webp"))
    remote_images = False
    reasoning = "reasoning"
    reports_cached = False
    system = "fp_ollama"
    late = "silence"  # or "line"

    def call_id(self, number):
        return "call_%08x" % (0xa1b2c3 + 7919 * number)

    def call_entry(self, number, call):
        entry = super().call_entry(number, call)
        entry["function"]["arguments"] = json.dumps(parse(call.text.encode()), separators=(",", ":"), ensure_ascii=False)
        return dict(entry, index=0)

    def finish_reason(self, turn, body):
        return "tool_calls" if turn.calls else super().finish_reason(turn, body)

    def opening(self, turn):
        return []

    def think_delta(self, piece):
        return {"role": "assistant", "content": "", "reasoning": piece}

    def text_delta(self, piece):
        return {"role": "assistant", "content": piece}

    def call_deltas(self, number, call):
        entry = self.call_entry(number, call)
        if self.old:
            del entry["index"]
        yield {"role": "assistant", "content": "", "tool_calls": [entry]}

    def last_delta(self):
        return {"role": "assistant", "content": ""}

    def error(self, failure):
        return {"error": dict(super().error(failure)["error"], code=None)}

    def late_failure(self, failure, body):
        if self.late == "line":
            yield dump({"error": failure.message}) + b"\n"
        else:
            yield sse(dict(self.head("chat.completion.chunk", {"model": ""}), choices=[self.choice(self.last_delta())]))


class ChatLlamacpp(Chat, Llamacpp):
    extra = frozenset(("top_k", "reasoning_effort", "chat_template_kwargs"))
    system = "b11669-Debian"
    late = "data"  # or "field"
    kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 501: "not_supported_error",
             503: "unavailable_error"}
    kind = "server_error"
    timings = {"cache_n": 0, "prompt_n": 37, "prompt_ms": 1.091, "predicted_n": 14, "predicted_ms": 0.619}

    def call_id(self, number):
        return "9qRk2WvX%04dTjEmBh4ZcNd6yLs8pGf1" % number

    def whole_reply(self, turn, body):
        return dict(super().whole_reply(turn, body), timings=self.timings)

    def opening(self, turn):
        return [{"role": "assistant", "content": None}]

    def call_deltas(self, number, call):
        first, rest = call.text[:1], fragments(call.text[1:])
        entry = self.call_entry(number, call)
        yield {"tool_calls": [{"index": number, "id": entry["id"], "type": "function",
                               "function": {"name": call.name, "arguments": first}}]}
        for piece in rest:
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}

    def usage_chunk(self, turn):
        return dict(super().usage_chunk(turn), timings=self.timings)

    def chunks(self, turn, body):
        for chunk in super().chunks(turn, body):
            last = chunk["choices"] and chunk["choices"][0]["finish_reason"]
            yield dict(chunk, timings=self.timings) if last and "stream_options" not in body else chunk

    def error(self, failure):
        if re.search("exceeds the available context size", failure.message):
            return {"error": {"code": 400, "message": failure.message, "type": "exceed_context_size_error",
                              "n_prompt_tokens": 160022, "n_ctx": 8192}}
        kind = self.kinds.get(failure.status, self.kind)
        return {"error": {"code": failure.status, "message": failure.message, "type": kind}}

    def late_failure(self, failure, body):
        error = self.error(failure)
        yield b"error: " + dump(error["error"]) + b"\n\n" if self.late == "field" else sse(error)


class ChatVllm(Chat, Vllm):
    extra = frozenset(("top_k", "reasoning_effort", "chat_template_kwargs"))
    kinds = {400: "BadRequestError", 404: "NotFoundError", 422: "UnprocessableEntityError"}
    kind = "InternalServerError"

    @property
    def reasoning(self):
        return "reasoning_content" if self.old else "reasoning"

    def new_id(self):
        return "chatcmpl-%032x" % next(self.counter)

    def call_id(self, number):
        return "chatcmpl-tool-%032x" % (0x5eed + number)

    def usage(self, turn):
        return dict(super().usage(turn), prompt_tokens_details={"cached_tokens": turn.cached} if turn.cached else None)

    def finish_reason(self, turn, body):
        named = isinstance(body.get("tool_choice"), dict)
        return turn.finish or ("tool_calls" if turn.calls and not named else "stop")

    def ending(self, turn):
        return {"logprobs": None, "stop_reason": turn.stop, "token_ids": None}

    def message(self, turn, body):
        forced = body.get("tool_choice") not in (None, "auto", "none")
        out = {"role": "assistant", "content": whole(turn.text) or ("" if forced or not turn.calls else None), "refusal": None,
               "annotations": None, "audio": None, "function_call": None, "tool_calls": [], "reasoning": None}
        return dict(out, **{key: value for key, value in super().message(turn, body).items() if key != "content"})

    def whole_reply(self, turn, body):
        return dict(super().whole_reply(turn, body), service_tier=None, system_fingerprint=None, prompt_logprobs=None,
                    prompt_token_ids=None, kv_transfer_params=None)

    def choice(self, delta, finish=None, **more):
        return super().choice(delta, finish, **dict({"logprobs": None}, **more))

    def call_deltas(self, number, call):
        entry = self.call_entry(number, call)
        yield {"tool_calls": [{"id": entry["id"], "type": "function", "index": number, "function": {"name": call.name}}]}
        for piece in fragments(call.text):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}

    def last_delta(self):
        return {"content": ""}

    def error(self, failure):
        nested = super().error(failure)
        return dict(nested["error"], object="error") if self.old else nested

    def late_failure(self, failure, body):
        yield sse({"error": self.error(failure)} if self.old else self.error(failure))
        yield DONE


class ChatSglang(Chat, Sglang):
    extra = frozenset(("top_k", "reasoning_effort", "chat_template_kwargs"))
    kinds = {400: "BadRequestError", 404: "NotFoundError"}
    kind = "InternalServerError"

    def new_id(self):
        return "%032x" % next(self.counter)

    def call_id(self, number):
        return "call_%024x" % (0xbeef + number)

    def usage(self, turn):
        details = {"cached_tokens": turn.cached} if turn.cached else None
        return dict(super().usage(turn), prompt_tokens_details=details, reasoning_tokens=0)

    def ending(self, turn):
        return {"logprobs": None, "matched_stop": turn.stop or (None if turn.finish else 151645)}

    def message(self, turn, body):
        return dict({"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": None},
                    **super().message(turn, body))

    def call_entry(self, number, call):
        return dict(super().call_entry(number, call), index=number)

    def whole_reply(self, turn, body):
        return dict(super().whole_reply(turn, body), metadata={"weight_version": "default"})

    def choice(self, delta, finish=None, **more):
        full = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None}
        return super().choice(dict(full, **delta), finish, **dict({"logprobs": None, "matched_stop": None}, **more))

    def call_deltas(self, number, call):
        entry = self.call_entry(number, call)
        yield {"tool_calls": [dict(entry, function={"name": call.name, "arguments": ""})]}
        for piece in fragments(call.text):
            yield {"tool_calls": [{"id": None, "index": number, "type": "function",
                                   "function": {"name": None, "arguments": piece}}]}

    def chunks(self, turn, body):
        for chunk in super().chunks(turn, body):
            yield dict({"usage": None}, **chunk)

    def error(self, failure):
        return dict(super().error(failure)["error"], object="error")

    def late_failure(self, failure, body):
        yield sse({"error": self.error(failure)})
        if (body.get("stream_options") or {}).get("include_usage"):
            yield sse(dict(self.head("chat.completion.chunk", body), **self.usage_chunk(Turn())))
        yield DONE


class ChatLmStudio(Chat, LmStudio):
    extra = frozenset(("top_k", "reasoning_effort"))
    reasoning = "reasoning"
    reports_cached = False
    choice_error = "Invalid tool_choice type: 'object'. Supported string values: none, auto, required"

    def chat(self, conn, request):
        try:
            body = parse(request.body)
        except Unfit:
            body = {}
        if isinstance(body, dict) and isinstance(body.get("tool_choice"), dict):
            return self.refuse(conn, Failure(400, self.choice_error), {})
        return super().chat(conn, request)

    def call_id(self, number):
        return "%09d" % (365174485 + 1000003 * number)

    def head(self, kind, body):
        return dict(super().head(kind, body), system_fingerprint=body["model"])

    def ending(self, turn):
        return {"logprobs": None}

    def whole_reply(self, turn, body):
        return dict(super().whole_reply(turn, body), stats={})

    def choice(self, delta, finish=None, **more):
        return super().choice(delta, finish, **dict({"logprobs": None}, **more))

    def opening(self, turn):
        return []

    def think_delta(self, piece):
        return {"role": "assistant", self.reasoning: piece}

    def text_delta(self, piece):
        return {"role": "assistant", "content": piece}

    def call_deltas(self, number, call):
        entry = self.call_entry(number, call)
        yield {"role": "assistant", "tool_calls": [dict(entry, index=number, function={"name": call.name, "arguments": ""})]}
        for piece in fragments(call.text):
            yield {"tool_calls": [{"index": number, "type": "function", "function": {"arguments": piece}}]}

    def error(self, failure):
        return {"error": failure.message}

    def event(self, failure):
        return b"event: error\ndata: " + dump({"error": {"message": failure.message}}) + b"\n\n"

    def refuse(self, conn, failure, body):
        if not body.get("stream"):
            return super().refuse(conn, failure, body)
        conn.start_chunked("text/event-stream", headers=failure.headers)
        conn.chunk(self.event(failure))
        return conn.end_chunks()

    def late_failure(self, failure, body):
        yield self.event(failure)


STYLES = (ChatOllama, ChatLlamacpp, ChatVllm, ChatSglang, ChatLmStudio)
