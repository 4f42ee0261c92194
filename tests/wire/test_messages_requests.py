"""The Messages API in front of servers without it: what a client asks for is what the server is asked for, and what cannot
be said in its words is refused."""

import hashlib
import json
import re
import time

import pytest

from client import chunked, dump, json_headers, request_bytes
from messages import CHAT, COUNT, OWN, ROOT, USER, Bench, Fleet, ask, chat_path, envelope, message, posts, send, shared
from servers import KINDS
from test_messages_replies import ESCAPES, MEANT


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    spool = str(tmp_path_factory.mktemp("spool"))
    return lambda: Bench({"proxy.spool_dir": spool, "translators.anthropic.max_message_size": "64MB"})


@pytest.fixture
def site(kept, roomy):
    """One server of type openai-compatible: nothing is sent there that not everybody knows."""
    with shared(kept, roomy) as site:
        yield site


def translated():
    return Fleet({"translators.anthropic.passthrough_enabled": False})


@pytest.fixture
def fleet(kept):
    """All types, and all of them are translated for."""
    with shared(kept, translated) as fleet:
        yield fleet


def user(*blocks):
    return {"role": "user", "content": blocks[0] if len(blocks) == 1 and isinstance(blocks[0], str) else list(blocks)}


def assistant(*blocks):
    return dict(user(*blocks), role="assistant")


def system(*blocks):
    return dict(user(*blocks), role="system")


def text(value, **more):
    return dict({"type": "text", "text": value}, **more)


def use(ident, name, *given):
    return dict({"type": "tool_use", "id": ident, "name": name}, **({"input": given[0]} if given else {}))


def result(ident, *content, **more):
    return dict({"type": "tool_result", "tool_use_id": ident}, **dict({"content": content[0]} if content else {}, **more))


def called(ident, name, arguments):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_message(ident, content):
    return {"role": "tool", "tool_call_id": ident, "content": content}


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://a.test/x.jpg?a=1&b=2"}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
LINKED_PART = {"type": "image_url", "image_url": {"url": "https://a.test/x.jpg?a=1&b=2"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}}
F = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": F["input_schema"]}}
EMPTY = {"type": "object", "properties": {}}
BILLING = "x-anthropic-billing-header: cc_version=2.1.0; cc_entrypoint=cli; cch=a1b2c;"


def tidy(messages):
    """Adjacent text parts are one: how many there are says nothing."""
    out = []
    for entry in messages:
        if isinstance(entry.get("content"), list):
            parts = []
            for part in entry["content"]:
                if part["type"] == "text" and parts and parts[-1]["type"] == "text":
                    parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
                else:
                    parts.append(part)
            entry = dict(entry, content=parts)
        out.append(entry)
    return out


def plain(**changes):
    """What the server gets for ask(): nothing but this."""
    out = dict({"model": "m1", "max_tokens": 50, "stream": False, "messages": USER}, **changes)
    return {key: value for key, value in out.items() if value is not ...}


def said(call):
    """The request that the server got, as an object; how it was framed is checked."""
    assert call.method == "POST" and not call.query, call.line
    assert call.get_all("Content-Length") == [str(len(call.body))] and not call.has("Transfer-Encoding")
    assert call.get_all("Accept-Encoding") == ["identity"] and call.get("Content-Type", "").startswith("application/json")
    return call.json()


# ---- the fields at the top

# name: (what the request has in addition, what the server gets in addition)
FIELDS = {
    "nothing": ({}, {}),
    "stream": ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    "stream-false": ({"stream": False}, {}),
    "stream-null": ({"stream": None}, {}),
    "numbers": ({"temperature": 0, "top_p": 0.9}, {"temperature": 0, "top_p": 0.9}),
    "limits": ({"temperature": 2, "top_p": 1, "max_tokens": 1}, {"temperature": 2, "top_p": 1, "max_tokens": 1}),
    "nulls": ({"temperature": None, "top_p": None, "top_k": None, "stop_sequences": None, "system": None, "tools": None, "tool_choice": None,
               "metadata": None, "thinking": None, "output_config": None}, {}),
    "stop": ({"stop_sequences": ["a", "b\n\u00e4"]}, {"stop": ["a", "b\n\u00e4"]}),
    "stop-empty": ({"stop_sequences": []}, {}),
    "dropped": ({"top_k": 4, "metadata": {"user_id": "u"}, "service_tier": "auto", "container": "c", "context_management": {"edits": []},
                 "mcp_servers": [{"type": "url"}], "cache_control": {"type": "ephemeral"}, "inference_geo": "eu", "unheard-of": {"model": "x"},
                 "thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "high"}}, {}),
    "adaptive": ({"thinking": {"type": "adaptive", "display": "summarized"}}, {}),
    "golden": ({"temperature": 0, "top_p": 0.9, "top_k": 4, "stop_sequences": ["a", "b"], "metadata": {}, "thinking": {"type": "disabled"},
                "service_tier": "auto", "output_config": {}}, {"temperature": 0, "top_p": 0.9, "stop": ["a", "b"]}),
    "system": ({"system": "be brief"}, {"messages": [system("be brief")] + USER}),
    "system-empty": ({"system": ""}, {}),
    "system-no-blocks": ({"system": []}, {}),
    "system-empty-block": ({"system": [text("")]}, {}),
    "system-blocks": ({"system": [text("a", cache_control={"type": "ephemeral"}), text("b")]}, {"messages": [system("ab")] + USER}),
    "billing-block": ({"system": [text(BILLING), text("You are", cache_control={"type": "ephemeral"}), text(" nice")]},
                      {"messages": [system("You are nice")] + USER}),
    "billing-line": ({"system": [text(BILLING + "\nYou are\nnice")]}, {"messages": [system("You are\nnice")] + USER}),
    "billing-string": ({"system": BILLING + "\nYou are"}, {"messages": [system("You are")] + USER}),
    "billing-only": ({"system": [text(BILLING)]}, {}),
    "billing-second": ({"system": [text("You are"), text(BILLING), text(" nice")]}, {"messages": [system("You are nice")] + USER}),
    "billing-inside": ({"system": "see " + BILLING + "\nx"}, {"messages": [system("see " + BILLING + "\nx")] + USER}),
    "billing-of-a-user": ({"messages": [user(BILLING + "\nx")]}, {"messages": [user(BILLING + "\nx")]}),
    # tools
    "tools": ({"tools": [F]}, {"tools": [FUNCTION]}),
    "tools-empty": ({"tools": [], "tool_choice": {"type": "any"}}, {}),
    "choice-without-tools": ({"tool_choice": {"type": "auto"}}, {}),
    "tool-bare": ({"tools": [{"name": "f"}]}, {"tools": [{"type": "function", "function": {"name": "f", "parameters": EMPTY}}]}),
    "tool-nulls": ({"tools": [{"name": "f", "description": None, "input_schema": None, "type": None}]},
                   {"tools": [{"type": "function", "function": {"name": "f", "parameters": EMPTY}}]}),
    "tool-custom": ({"tools": [dict(F, type="custom", cache_control={"type": "ephemeral"}, defer_loading=True, input_examples=[{}],
                                    allowed_callers=["direct"], eager_input_streaming=True)]}, {"tools": [FUNCTION]}),
    "tool-strict": ({"tools": [dict(F, strict=True)]}, {"tools": [dict(FUNCTION, function=dict(FUNCTION["function"], strict=True))]}),
    "tool-not-strict": ({"tools": [dict(F, strict=False)]}, {"tools": [FUNCTION]}),
    "two-tools": ({"tools": [F, {"name": "g"}]}, {"tools": [FUNCTION, {"type": "function", "function": {"name": "g", "parameters": EMPTY}}]}),
}
for given, wanted in (("auto", "auto"), ("any", "required"), ("none", "none")):
    for form in (given, {"type": given}, {"name": None, "type": given}, {"type": given, "disable_parallel_tool_use": False}):
        FIELDS["choice-%s-%d" % (given, len(FIELDS))] = ({"tools": [F], "tool_choice": form}, {"tools": [FUNCTION], "tool_choice": wanted})
FIELDS["choice-tool"] = ({"tools": [F], "tool_choice": {"type": "tool", "name": "f"}},
                         {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}})
FIELDS["choice-null"] = ({"tools": [F], "tool_choice": None}, {"tools": [FUNCTION]})
for kind, wanted in (("auto", "auto"), ("any", "required")):
    FIELDS["not-parallel-" + kind] = ({"tools": [F], "tool_choice": {"type": kind, "disable_parallel_tool_use": True}},
                                      {"tools": [FUNCTION], "tool_choice": wanted, "parallel_tool_calls": False})


@pytest.mark.parametrize("name", FIELDS)
def test_fields(site, name):
    """All of the request, and nothing else: an unknown key is a 400 on some servers."""
    given, wanted = FIELDS[name]
    call = site.asked(ask(**given))
    assert said(call) == plain(**wanted)
    keys = list(call.json())
    assert keys[:3] == ["model", "max_tokens", "stream"], keys
    order = [key for key in keys if key in ("messages", "tools", "tool_choice")]
    assert order == ["messages", "tools", "tool_choice"][:len(order)], keys


@pytest.mark.parametrize("path", [ROOT, OWN, ROOT + "?beta=true", OWN + "?beta=true&x=1"])
def test_path_of_the_server(site, path):
    """The query is Anthropic's and means nothing to others."""
    assert said(site.asked(ask(), path=path)) == plain() and posts(site.a)[0].target == CHAT


@pytest.mark.parametrize("number", ["0.70", "1e0", "0", "1.0", "0.1E+1"])
def test_numbers_as_written(site, number):
    """Numbers are not read and written again."""
    body = b'{"model":"m1","max_tokens":0050,"messages":[{"role":"user","content":"hi"}],"temperature":%s,"top_p":%s}'
    body = body.replace(b"0050", b"50") % (number.encode(), number.encode())
    call = site.asked(body)
    assert b'"temperature":%s' % number.encode() in call.body and b'"top_p":%s' % number.encode() in call.body
    said(call)


SCHEMA = ('{ "type":"object" ,\n\t"properties":{"zebra":{"type":"string","description":"%s <b>&"},"alpha":{"enum":[1.0,1e2,null,12345678901234567890]},'
          '"zebra2":{}}, "required":["zebra"],"$defs":{"x/y":{}} }' % ESCAPES)


def test_copied_byte_for_byte(site):
    """Models see the order of the properties, and a number that was rewritten is another one."""
    body = ('{"model":"m1","max_tokens":50,"messages":[{"role":"user","content":"hi"}],"stop_sequences":[ "\\u0041", "b" ],"tools":[{"input_schema":%s,'
            '"name":"f"}],"output_config":{"format":{"type":"json_schema","schema":%s}}}' % (SCHEMA, SCHEMA)).encode()
    call = site.asked(body)
    document = said(call)
    assert call.body.count(SCHEMA.encode()) == 2, call.body
    assert b'[ "\\u0041", "b" ]' in call.body
    assert list(document["tools"][0]["function"]["parameters"]["properties"]) == ["zebra", "alpha", "zebra2"]
    assert document["response_format"]["type"] == "json_schema"
    assert document["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA) and document["response_format"]["json_schema"]["name"]


@pytest.mark.parametrize("given", [{"output_config": {"format": {"type": "json_schema", "schema": EMPTY}}},
                                   {"output_format": {"type": "json_schema", "schema": EMPTY}},
                                   {"output_config": {"effort": "low", "format": {"schema": EMPTY, "type": "json_schema"}}}],
                         ids=["config", "format", "behind"])
def test_output_format(site, given):
    """Structured output has another name there."""
    document = said(site.asked(ask(**given)))
    form = document.pop("response_format")
    assert document == plain() and form["type"] == "json_schema" and form["json_schema"]["schema"] == EMPTY
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", form["json_schema"]["name"])


# ---- what only some types know

KNOWS = {
    "top_k": ("llamacpp", "vllm", "vllm-mlx", "sglang", "lm-studio", "lmdeploy"),
    "reasoning_content": ("llamacpp", "sglang", "lmdeploy"),
    "reasoning": ("vllm", "vllm-mlx", "ollama", "lm-studio"),
    "effort": ("ollama", "llamacpp", "vllm", "sglang", "litellm", "lm-studio"),
    "template": ("llamacpp", "vllm", "sglang"),
}


@pytest.mark.parametrize("kind", [k.type for k in KINDS])
def test_by_type(fleet, kind):
    """Each server gets what it knows, at the path that it has; with pass-through off none is asked at its own Messages API."""
    server, model = fleet.by_type[kind], "m-" + kind
    turn = {"type": "thinking", "thinking": "hm\u00e4", "signature": "s"}
    conversation = [user("a"), assistant(turn, text("b"), use("t1", "f", {})), user(result("t1", "ok"))]

    def ask_it(**more):
        server.forget()
        call = fleet.asked(ask(model=model, **more), server)
        assert call.path == chat_path(server)
        document = said(call)
        assert document.pop("model") == model
        return document
    base = {key: value for key, value in plain().items() if key != "model"}
    assert ask_it(top_k=7) == dict(base, **({"top_k": 7} if kind in KNOWS["top_k"] else {}))
    for given, wanted in (("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high"), ("max", "high")):
        assert ask_it(output_config={"effort": given}) == dict(base, **({"reasoning_effort": wanted} if kind in KNOWS["effort"] else {}))
    off = {"chat_template_kwargs": {"enable_thinking": False}} if kind in KNOWS["template"] else {"reasoning_effort": "none"} if kind == "ollama" else {}
    assert ask_it(thinking={"type": "disabled"}) == dict(base, **off)
    assert ask_it(thinking={"type": "enabled", "budget_tokens": 1024}) == base
    wanted = {"role": "assistant", "content": "b", "tool_calls": [called("t1", "f", "{}")]}
    for key in ("reasoning_content", "reasoning"):
        if kind in KNOWS[key]:
            wanted[key] = "hm\u00e4"
    assert ask_it(messages=conversation)["messages"] == [user("a"), wanted, tool_message("t1", "ok")]
    silent = ask_it(messages=[user("a"), assistant(use("t1", "f", {})), user(result("t1", "ok"))])["messages"][1]
    assert silent == {"role": "assistant", "content": "" if kind == "llamacpp" else None, "tool_calls": [called("t1", "f", "{}")]}


@pytest.mark.parametrize("kind", ["vllm", "docker-model-runner"])
def test_translated_message_of_a_native_type(fleet, kind):
    """With pass-through off a server that speaks Messages is one like any other."""
    reply = send(fleet.proxy, ask(model="m-" + kind), OWN)
    assert message(reply, "m-" + kind)["content"] == [text("hello")]
    assert (reply.get("X-Olla-Mode"), reply.get("X-Olla-Endpoint")) == ("translation", kind)


# ---- conversations

# name: (messages, what the server gets; or both with a system prompt)
TURNS = {
    "blocks": ([user(text("a"), text("b"))], [user("ab")]),
    "one-object": ([{"role": "user", "content": text("single")}], [user("single")]),
    "empty-user": ([user(""), assistant("x"), user("y")], [assistant("x"), user("y")]),
    "three": ([user("a"), assistant("b"), user("c")], [user("a"), assistant("b"), user("c")]),
    "prefill": ([user("a"), assistant("b")], [user("a"), assistant("b")]),
    "cache-control": ([user(text("a", cache_control={"type": "ephemeral"}, citations=None))], [user("a")]),
    # system messages
    "system-first": ([system("S"), user("a")], [system("S"), user("a")]),
    "system-first-blocks": ([system(text("S"), text("T")), user("a")], [system("ST"), user("a")]),
    "system-later": ([user("a"), assistant("x"), system("S"), user("b")], [user("a"), assistant("x"), user("S\n\nb")]),
    "system-later-blocks": ([user("a"), assistant("x"), system(text("S")), user(text("b"))], [user("a"), assistant("x"), user("S\n\nb")]),
    "system-behind": ([user("a"), system("S"), assistant("x"), user("b")], [user("a\n\nS"), assistant("x"), user("b")]),
    "system-last": ([user("a"), assistant("x"), system("S")], [user("a"), assistant("x"), user("S")]),
    # the same role twice
    "two-users": ([user("a"), user("b")], [user("a\n\nb")]),
    "three-users": ([user("a"), user(text("b"), text("c")), user("d")], [user("a\n\nbc\n\nd")]),
    "two-assistants": ([user("a"), assistant("b"), assistant("c")], [user("a"), assistant("b\n\nc")]),
    "two-assistants-call": ([user("a"), assistant(text("b"), use("t", "f", {})), assistant("c")],
                            [user("a"), dict(assistant("b\n\nc"), tool_calls=[called("t", "f", "{}")])]),
    "dropped-between": ([user("a"), assistant({"type": "redacted_thinking", "data": "x"}), user("b")], [user("a\n\nb")]),
    # images
    "image": ([user(PNG, text("what"))], [user(PNG_PART, text("what"))]),
    "only-image": ([user(PNG)], [user(PNG_PART)]),
    "image-url": ([user(text("see"), LINKED)], [user(text("see"), LINKED_PART)]),
    "images-and-texts": ([user(text("a"), text("b"), PNG, text("c"), LINKED)], [user(text("ab"), PNG_PART, text("c"), LINKED_PART)]),
    "image-types": ([user({"type": "image", "source": {"data": "R0lG", "media_type": "image/webp", "type": "base64"}, "cache_control": {}})],
                    [user({"type": "image_url", "image_url": {"url": "data:image/webp;base64,R0lG"}})]),
    # documents
    "document-text": ([user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "D\n"}})], [user("D\n")]),
    "document-content": ([user({"type": "document", "source": {"type": "content", "content": "D"}})], [user("D")]),
    "document-one-block": ([user({"type": "document", "source": {"type": "content", "content": [text("D")]}})], [user("D")]),
    # calls
    "call": ([user("a"), assistant(use("t1", "f", {"b": 1, "a": "<x>"}))],
             [user("a"), dict(assistant(), content=None, tool_calls=[called("t1", "f", '{"b":1,"a":"<x>"}')])]),
    "odd-inputs": ([assistant(*[use("t%d" % n, "f", *given) for n, given in enumerate([(), (None,), ("x",), ([1],), (7,), ({},)])])],
                   [dict(assistant(), content=None, tool_calls=[called("t%d" % n, "f", "{}") for n in range(6)])]),
    "composite": ([assistant({"type": "thinking", "thinking": "hmm", "signature": "sig"}, text("A"), use("t1", "f", {"b": 1, "a": "<x>"}), text("B"),
                             use("t2", "g", {}), use("t3", "h")),
                   user(result("t1", "ok"), text("next"), result("t2", [text("r1"), text("r2")]), result("t3", "bad", is_error=True),
                        result("t4", "ERROR: x", is_error=True))],
                  [dict(assistant("AB"), tool_calls=[called("t1", "f", '{"b":1,"a":"<x>"}'), called("t2", "g", "{}"), called("t3", "h", "{}")]),
                   tool_message("t1", "ok"), tool_message("t2", "r1\nr2"), tool_message("t3", "Error: bad"), tool_message("t4", "ERROR: x"), user("next")]),
    # results
    "result-nothing": ([user(result("t"), result("u", None), result("v", ""), result("w", []))], [tool_message(i, "") for i in "tuvw"]),
    "result-null-error": ([user(result("t", "x", is_error=None), result("u", "y", is_error=False))], [tool_message("t", "x"), tool_message("u", "y")]),
    "result-error-blocks": ([user(result("t", [text("a"), text("b")], is_error=True), result("u", "Error: c", is_error=True))],
                            [tool_message("t", "Error: a\nb"), tool_message("u", "Error: c")]),
    "result-image": ([user(result("t", [PNG]))], [tool_message("t", "(image)"), user(PNG_PART)]),
    "result-text-and-image": ([user(result("t", [text("a"), PNG, text("b")]))], [tool_message("t", "a\nb"), user(PNG_PART)]),
    "results-with-images": ([user(result("t", [PNG]), result("u", [LINKED, text("b")]), text("and"))],
                            [tool_message("t", "(image)"), tool_message("u", "b"), user(PNG_PART, LINKED_PART, text("and"))]),
    "result-reference": ([user(result("t", [{"type": "tool_reference", "tool_name": "grep"}]))], [tool_message("t", "grep")]),
    "result-document": ([user(result("t", [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "D"}}]))],
                        [tool_message("t", "D")]),
    "results-in-two": ([user(result("t", "a")), user(result("u", "b")), user("c")], [tool_message("t", "a"), tool_message("u", "b"), user("c")]),
    "text-before-result": ([user(text("x"), result("t", "a"))], [tool_message("t", "a"), user("x")]),
    # what only its writer can read
    "redacted": ([user("a"), assistant({"type": "redacted_thinking", "data": "zzz"}, text("b")), user("c")], [user("a"), assistant("b"), user("c")]),
    "server-tools": ([user("a"), assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                                           {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, text("b")), user("c")],
                     [user("a"), assistant("b"), user("c")]),
    "thinking": ([user("a"), assistant({"type": "thinking", "thinking": "x", "signature": "y"}, text("b")), user("c")],
                 [user("a"), assistant("b"), user("c")]),
}


@pytest.mark.parametrize("name", TURNS)
def test_turns(site, name):
    """A conversation in OpenAI's words."""
    given, wanted = TURNS[name]
    assert tidy(said(site.asked(ask(messages=given)))["messages"]) == wanted


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


SPELLINGS = {
    "indented": lambda body: json.dumps(body, indent=3).encode(),
    "tabs": lambda body: b"\r\n\t " + json.dumps(body, indent="\t", separators=(" ,\r\n", " :\t")).encode() + b" \r\n",
    "utf8": lambda body: json.dumps(body, ensure_ascii=False).encode(),
    "reversed": lambda body: dump(reversed_keys(body)),
    "reversed-indented": lambda body: json.dumps(reversed_keys(body), indent=1).encode(),
    "escaped-letters": lambda body: re.sub(r'"(role|content|type|text|name|input|id|source|data|user|assistant|tool_use|tool_result)"',
                                           lambda m: '"\\u%04x%s"' % (ord(m.group(1)[0]), m.group(1)[1:]), json.dumps(body)).encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_spelling(site, spelling):
    """`model` last, `system` behind `messages`, `role` behind `content`, `type` behind all else; blanks anywhere."""
    everything = [turn for name, (given, _) in TURNS.items() if not name.startswith("system") for turn in given]
    body = {"model": "m1", "max_tokens": 50, "system": [text("S"), text("T")], "messages": everything, "tools": [F, dict(F, name="g", strict=True)],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}, "stop_sequences": ["a"], "temperature": 1,
            "output_config": {"format": {"type": "json_schema", "schema": EMPTY}}}
    usual = said(site.asked(dump(body)))
    assert len(usual["messages"]) > 20 and usual["messages"][0] == system("ST") and usual["parallel_tool_calls"] is False
    site.a.forget()
    other = said(site.asked(SPELLINGS[spelling](body)))
    for document in (usual, other):
        for entry in document["messages"]:
            for one in entry.get("tool_calls", ()):
                one["function"]["arguments"] = json.loads(one["function"]["arguments"])
    assert other == usual


@pytest.mark.parametrize("where", ["before", "alone"])
def test_system_messages_in_front(site, where):
    """Parts of the one system message; what stands between them is nobody's business."""
    messages = said(site.asked(ask(**({"system": "T"} if where == "before" else {}), messages=[system("S"), system("U"), user("a")])))["messages"]
    assert [m["role"] for m in messages] == ["system", "user"]
    assert re.fullmatch("%sS\\s*U" % ("T\\s*" if where == "before" else ""), messages[0]["content"])


@pytest.mark.parametrize("block,line,rest", [
    ({"type": "document", "title": "Title", "source": {"type": "text", "media_type": "text/plain", "data": "one\ntwo"}}, ("Title",), "one\ntwo"),
    ({"type": "document", "title": "Title", "source": {"type": "content", "content": "one"}}, ("Title",), "one"),
    ({"type": "search_result", "source": "https://a.test/x", "title": "Title", "content": [text("one")]}, ("Title", "https://a.test/x"), "one"),
], ids=["text", "content", "search"])
@pytest.mark.parametrize("inside", [False, True], ids=["block", "result"])
def test_titles(site, block, line, rest, inside):
    """The title, and where it is from, in a line before the text."""
    messages = said(site.asked(ask(messages=[user(result("t", [block]) if inside else block)])))["messages"]
    first, _, behind = messages[0]["content"].partition("\n")
    assert all(part in first for part in line) and behind.rstrip("\n") == rest and len(messages) == 1


@pytest.mark.parametrize("place", ["system", "user", "block", "assistant", "result", "input", "description", "name", "ident"])
def test_texts_survive(site, place):
    """Quotes, controls, characters outside the first plane, HTML, halves of surrogates: as the client meant them."""
    for raw, meant in ((ESCAPES, MEANT), ("\\ud83d", None), ("\\udc00x\\ud83d", None), ("\\u0000", "\0"), ("</script>&<", "</script>&<"), ("", ""), (" ", " ")):
        if (raw == "" and place != "input") or (place in ("name", "ident") and raw != ESCAPES):
            continue
        body = {"system": ask(system="@"), "user": ask(messages=[user("@")]), "block": ask(messages=[user(text("@"), text("."))]),
                "assistant": ask(messages=[user("a"), assistant("@")]), "result": ask(messages=[user(result("t", [text("@")]))]),
                "input": ask(messages=[assistant(use("t", "f", {"@": ["@"]}))]), "description": ask(tools=[dict(F, description="@")]),
                "name": ask(messages=[assistant(use("t", "@", {}))]), "ident": ask(messages=[user(result("@", "x"))])}[place]
        site.a.forget()
        document = said(site.asked(dump(body).replace(b"@", raw.encode())))
        last = document["messages"][-1]
        seen = {"system": lambda: document["messages"][0]["content"], "block": lambda: last["content"][:-1], "ident": lambda: last["tool_call_id"],
                "input": lambda: last["tool_calls"][0]["function"]["arguments"], "name": lambda: last["tool_calls"][0]["function"]["name"],
                "description": lambda: document["tools"][0]["function"]["description"]}.get(place, lambda: last["content"])()
        wanted = meant if meant is not None else json.loads('"%s"' % raw)
        if place == "input":
            seen, wanted = json.loads(seen), {wanted: [wanted]}
        assert seen in ((wanted,) if meant is not None else (wanted, json.loads(re.sub(r"\\ud[89a-f]..", r"\\ufffd", json.dumps(wanted))))), (raw, seen)


# ---- what cannot be translated

def cannot(where, kind, source=None):
    return re.compile(re.escape("%s: a block of type \"%s\"%s cannot be translated for this backend"
                                % (where, kind, ' with a source of type "%s"' % source if source else "")) + r"\Z")


# name: (the request, the message)
REFUSED = {
    "system-image": ({"system": [{"type": "text", "text": "x"}, {"type": "image", "source": {"type": "url", "url": "http://x/"}}]},
                     'system.1: a block of type "image" cannot be translated for this backend'),
    "no-object": ({"messages": USER + ["x"]}, "messages.1: content is missing"),
    "no-content": ({"messages": USER + [assistant("b"), {"role": "user"}]}, "messages.2: content is missing"),
    "content-null": ({"messages": [{"role": "user", "content": None}]}, "messages.0: content is missing"),
    "pdf": ({"messages": USER + [assistant("b"), user(PDF)]}, cannot("messages.2.content.0", "document", "base64")),
    "pdf-url": ({"messages": [user(text("a"), {"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}})]},
                cannot("messages.0.content.1", "document", "url")),
    "image-file": ({"messages": [user({"type": "image", "source": {"type": "file", "file_id": "x"}})]}, cannot("messages.0.content.0", "image", "file")),
    "unknown-block": ({"messages": [user(text("a"), {"type": "container_upload", "file_id": "x"})]}, cannot("messages.0.content.1", "container_upload")),
    "pdf-in-result": ({"messages": [user(result("t", [PDF]))]}, re.compile(r"messages\.0\.content\.0.*a block of type \"document\" with a source of type "
                                                                           r"\"base64\" cannot be translated for this backend\Z")),
    "use-without-id": ({"messages": [assistant({"type": "tool_use", "name": "f", "input": {}})]}, "messages.0.content.0: tool_use needs an id and a name"),
    "use-without-name": ({"messages": USER + [assistant(text("a"), {"type": "tool_use", "id": "t", "input": {}})]},
                         "messages.1.content.1: tool_use needs an id and a name"),
    "result-without-id": ({"messages": [user({"type": "tool_result", "content": "x"})]}, re.compile(r"messages\.0\.content\.0: tool_result needs ")),
    "role": ({"messages": USER + [{"role": "tool", "content": "x"}]}, "messages.1: unknown role"),
    "role-case": ({"messages": [{"role": "User", "content": "x"}]}, "messages.0: unknown role"),
    "no-role": ({"messages": [{"content": "x"}]}, "messages.0: unknown role"),
    "server-tool": ({"tools": [F, {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
                    'tools.1: the tool "web_search_20250305" works only with a backend that speaks the Anthropic API'),
    "client-tool": ({"tools": [{"name": "bash", "type": "bash_20250124"}]},
                    'tools.0: the tool "bash_20250124" works only with a backend that speaks the Anthropic API'),
    "tool-without-name": ({"tools": [F, {"description": "x"}]}, "tools.1: name is missing"),
    "choice-without-name": ({"tools": [F], "tool_choice": {"type": "tool"}}, re.compile("tool_choice: ")),
    "choice-unknown": ({"tools": [F], "tool_choice": {"type": "sometimes"}}, re.compile("tool_choice: ")),
    "choice-unknown-text": ({"tools": [F], "tool_choice": "sometimes"}, re.compile("tool_choice: ")),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(site, name, streamed):
    """Said with the place where it is; nothing is dropped in silence, and no server is troubled."""
    more, wanted = REFUSED[name]
    envelope(send(site.proxy, ask(stream=streamed, **more)), 400, "invalid_request_error", wanted)
    assert posts(site.a) == []


@pytest.mark.parametrize("name", REFUSED)
def test_refused_then_served(site, name):
    """The connection goes on after a refusal."""
    client = site.client()
    for body, status in ((ask(**REFUSED[name][0]), 400), (ask(), 200)):
        client.send(request_bytes("POST", ROOT, json_headers(), dump(body)))
        assert client.read_response("POST").status == status


def test_quoted_in_a_refusal(site):
    """What a client wrote is in the message: it must not break the JSON, however it was written."""
    for kind in ('a"b\\', "\u00e4\n", "x" * 3000, "<&>", "\0"):
        error = envelope(send(site.proxy, ask(tools=[{"type": kind, "name": "n"}])), 400, "invalid_request_error")
        assert error["message"].startswith("tools.0: ") and len(error["message"]) < 8000
        envelope(send(site.proxy, ask(messages=[user({"type": kind})])), 400, "invalid_request_error")


# ---- what is checked in any case

NOT_JSON, NO_MODEL = "invalid request: the body is not a JSON object", "model field is required (body may not be valid JSON)"
MISSING, NOT_ARRAY = "invalid request: at least one message is required", "invalid request: messages must be an array"
RAW = b'{"model":"m1","max_tokens":5,"messages":[{"role":"user","content":"hi"}]'
# name: (the body, the message)
CHECKED = {
    "empty": (b"", "empty request body"),
    "no-json": (b"not json", NOT_JSON), "blank": (b"  \n", NOT_JSON), "array": (b"[1]", NOT_JSON), "string": (b'"x"', NOT_JSON), "null": (b"null", NOT_JSON),
    "half": (RAW, NOT_JSON), "junk-behind": (RAW + b"} x", NOT_JSON), "comma": (RAW + b",}", NOT_JSON), "two": (RAW + b"}" + RAW + b"}", NOT_JSON),
    "control": (RAW + b',"x":"\n"}', NOT_JSON), "bad-escape": (RAW + b',"x":"\\q"}', NOT_JSON), "bad-number": (RAW + b',"x":01}', NOT_JSON),
    "deep": (RAW + b',"x":' + b"[" * 128 + b"]" * 128 + b"}", NOT_JSON), "deep-objects": (RAW + b',"x":' + b'{"a":' * 128 + b"1" + b"}" * 128 + b"}", NOT_JSON),
    "very-deep": (RAW + b',"x":' + b"[" * 100000, NOT_JSON),
    "no-model": (dump(ask(model=...)), NO_MODEL), "inner-model": (dump(ask(model=..., metadata={"model": "m1"})), NO_MODEL),
    "model-number": (dump(ask(model=5)), "model field must be a string, got Number"), "model-true": (dump(ask(model=True)), "model field must be a string, got True"),
    "model-false": (dump(ask(model=False)), "model field must be a string, got False"), "model-null": (dump(ask(model=None)), re.compile("model field ")),
    "model-object": (dump(ask(model={"a": 1})), "model field must be a string, got JSON"),
    "model-array": (dump(ask(model=["m1"])), "model field must be a string, got JSON"), "model-empty": (dump(ask(model="")), "model field must not be empty"),
    "messages-missing": (dump(ask(messages=...)), MISSING), "messages-null": (dump(ask(messages=None)), MISSING), "messages-empty": (dump(ask(messages=[])), MISSING),
    "messages-object": (dump(ask(messages={})), NOT_ARRAY), "messages-string": (dump(ask(messages="x")), NOT_ARRAY), "messages-0": (dump(ask(messages=0)), NOT_ARRAY),
    "max-missing": (dump(ask(max_tokens=...)), "invalid request: max_tokens must be at least 1, got 0"),
    "max-null": (dump(ask(max_tokens=None)), "invalid request: max_tokens must be at least 1, got 0"),
    "max-0": (dump(ask(max_tokens=0)), "invalid request: max_tokens must be at least 1, got 0"),
    "max-negative": (dump(ask(max_tokens=-5)), "invalid request: max_tokens must be at least 1, got -5"),
}
for key, bad, words in (("max_tokens", (50.5, "50", True, [], {}), "an integer"), ("top_k", (1.5, "5", False, []), "an integer"),
                        ("temperature", ("1", True, [1], {}), "a number"), ("top_p", ("1", False, []), "a number"),
                        ("stream", ("true", 1, 0, [], {}), "a boolean"), ("stop_sequences", ("a", {}, 1, True), "an array"),
                        ("tools", ({}, "x", 1), "an array"), ("metadata", ("x", [], 1, True), "an object")):
    for number, value in enumerate(bad):
        CHECKED["%s-type-%d" % (key, number)] = (dump(ask(**{key: value})), "invalid request: %s must be %s" % (key, words))
for key, bad, words in (("temperature", (-0.1, 2.0001, 3, -1e300, 1e300), "between 0 and 2"), ("top_p", (-0.1, 1.1, 5), "between 0 and 1"),
                        ("top_k", (-1,), "non-negative")):
    for number, value in enumerate(bad):
        CHECKED["%s-range-%d" % (key, number)] = (dump(ask(**{key: value})), re.compile("invalid request: %s must be %s" % (key, words)))


@pytest.mark.parametrize("name", CHECKED)
def test_checked(site, name):
    """The status, the type and the very words, on both paths, with the id of the request three times."""
    body, wanted = CHECKED[name]
    for path, headers in ((ROOT, {}), (OWN + "?beta=true", {"X-Request-ID": "my-own-id"})):
        reply = send(site.proxy, body, path, headers)
        envelope(reply, 400, "invalid_request_error", wanted)
        assert not headers or reply.get("request-id") == "my-own-id"
    assert posts(site.a) == []


@pytest.mark.parametrize("name", ["no-json", "max-missing", "temperature-range-0", "messages-empty", "stream-type-0", "deep"])
def test_checked_before_the_choice(fleet, name):
    """... for every endpoint, and for models that nobody has."""
    for model in ("m-vllm", "m-sglang", "nobody-has-it"):
        body, wanted = CHECKED[name]
        envelope(send(fleet.proxy, body.replace(b'"m1"', b'"%s"' % model.encode())), 400, "invalid_request_error", wanted)


def test_allowed(site):
    """Just inside the limits."""
    for body in (RAW + b',"x":' + b"[" * 127 + b"]" * 127 + b"}", RAW + b',"x":' + b'{"a":' * 127 + b"1" + b"}" * 127 + b"}", b" \n" + RAW + b"} \r\n\t",
                 dump(ask(temperature=2, top_p=0, top_k=0)), dump(ask(max_tokens=1)), dump(ask(max_tokens=10 ** 9)), dump(ask(stop_sequences=["x"] * 500))):
        assert send(site.proxy, body).status == 200, body[:200]


def test_counting_checks_less(site):
    """count_tokens wants an object and nothing else."""
    for body in ({}, {"messages": []}, ask(max_tokens=...), ask(model=...), {"messages": None, "system": None}):
        reply = send(site.proxy, body, ROOT + COUNT)
        assert reply.status == 200 and reply.json()["input_tokens"] >= 1, (body, reply.body)
    for name in ("empty", "no-json", "array", "half", "junk-behind", "deep"):
        envelope(send(site.proxy, CHECKED[name][0], OWN + COUNT), 400, "invalid_request_error")


# ---- sizes and pieces

def test_too_large(world):
    """One byte more than allowed is too much, in either framing; as much as allowed is not."""
    bench = Bench({"translators.anthropic.max_message_size": 2000}, world=world)
    fits = dump(ask(system="s" * 1000))
    fits = fits.replace(b"s" * 1000, b"s" * (1000 + 2000 - len(fits)))
    assert len(fits) == 2000
    for path in (ROOT, OWN, ROOT + COUNT, OWN + COUNT):
        assert send(bench.proxy, fits, path).status == 200
        for size in (2001, 5000, 300000):
            body = fits.replace(b"sss", b"sss" + b"s" * (size - 2000), 1)
            assert len(body) == size
            for raw in (request_bytes("POST", path, json_headers(), body),
                        request_bytes("POST", path, json_headers({"Transfer-Encoding": "chunked"})) + chunked(body, 700)):
                with bench.proxy.client() as client:
                    client.try_send(raw)
                    envelope(client.read_response("POST"), 413, "request_too_large")
    assert len(posts(bench.a)) == 2


def test_ten_megabytes(site):
    """Screenshots: the body goes through the spool, and every byte arrives."""
    pictures = [hashlib.sha512(b"%d" % n).hexdigest() * 20000 for n in range(4)]  # 2.56 MB each
    blocks = []
    for picture in pictures:
        blocks += [text("next"), {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}}]
    body = ask(messages=[user(*blocks), assistant("nice"), user(result("t", [blocks[1]]), text("end"))], system="S")
    assert len(dump(body)) > 10000000
    began = time.monotonic()
    messages = tidy(said(site.asked(body))["messages"])
    assert time.monotonic() - began < 10
    urls = [part["image_url"]["url"] for entry in messages if isinstance(entry["content"], list) for part in entry["content"] if part["type"] == "image_url"]
    assert urls == ["data:image/png;base64," + p for p in pictures + pictures[:1]]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "user"] and messages[-1]["content"][-1] == text("end")


def test_a_text_of_megabytes(site):
    """One string, all escapes; the same as an input."""
    long = "\n\"\u00e4\\" * 500000
    assert said(site.asked(ask(messages=[user(long)])))["messages"] == [user(long)]
    site.a.forget()
    call = said(site.asked(ask(messages=[assistant(use("t", "f", {"a": long}))])))["messages"][0]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"a": long}


@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunked"])
def test_two_thousand_messages(site, chunks):
    """A session of a whole day, with tools all the way."""
    given, wanted = [], []
    for n in range(500):
        given += [user("do %d" % n), assistant(text("calling"), use("t%d" % n, "f", {"n": n, "s": "\u00e4" * 50})),
                  user(result("t%d" % n, [text("r%d" % n)])), assistant("done %d" % n)]
        wanted += [user("do %d" % n), dict(assistant("calling"), tool_calls=[called("t%d" % n, "f", None)]), tool_message("t%d" % n, "r%d" % n),
                   assistant("done %d" % n)]
    body = dump(ask(messages=given + [user("end")], tools=[dict(F, name="f%d" % n) for n in range(200)]))
    if chunks:
        client = site.client()
        client.send(request_bytes("POST", ROOT, json_headers({"Transfer-Encoding": "chunked"})) + chunked(body, 4093))
        assert client.read_response("POST").status == 200
        document = said(posts(site.a)[0])
    else:
        document = said(site.asked(body))
    for n, entry in enumerate(document["messages"]):
        for one in entry.get("tool_calls", ()):
            assert json.loads(one["function"]["arguments"]) == {"n": n // 4, "s": "\u00e4" * 50}
            one["function"]["arguments"] = None
    assert document["messages"] == wanted + [user("end")] and len(document["tools"]) == 200


def test_byte_by_byte(site):
    """A slow line: the body comes in pieces of one byte."""
    body = dump(ask(system=[text(BILLING + "\nS")], messages=[user(text("\u00e4\""), PNG)], tools=[F]))
    client = site.client()
    client.send(request_bytes("POST", ROOT, json_headers({"Content-Length": str(len(body))})))
    client.send_pieces([body[n:n + 1] for n in range(len(body))], 0.0005)
    assert client.read_response("POST").status == 200
    document = said(posts(site.a)[0])
    assert tidy(document["messages"]) == [system("S"), user(text("\u00e4\""), PNG_PART)] and document["tools"] == [FUNCTION]


@pytest.mark.parametrize("size", [4096, 8192, 14848, 16384, 32768, 65536, 131072])
def test_around_the_sizes_of_buffers(site, size):
    """Something stands at every border once: a key, an escape, a character of several bytes, a number."""
    tail = [text("\u00e4\n\""), PNG]
    body = dump(ask(messages=[user(text("@"), *tail)], tools=[F], temperature=0.5))
    at = body.index(b"@")
    client = site.client()
    for n in range(size - len(body) - 1, size - at, 17):
        site.a.forget()
        client.send(request_bytes("POST", ROOT, json_headers(), body.replace(b"@", b"x" * n)))
        assert client.read_response("POST").status == 200
        document = said(posts(site.a)[0])
        assert tidy(document["messages"]) == [user(text("x" * n + "\u00e4\n\""), PNG_PART)], n
        assert document["tools"] == [FUNCTION] and document["temperature"] == 0.5


def test_client_leaves_in_the_middle_of_the_body(site):
    """Half a request is none."""
    body = dump(ask(system="s" * 100000))
    for part in (10, 50000, len(body) - 1):
        client = site.client()
        client.send(request_bytes("POST", ROOT, json_headers(), body)[:-(len(body) - part)])
        client.close()
    assert send(site.proxy, ask()).status == 200 and len(posts(site.a)) == 1


def test_expect_continue(site):
    """curl and others wait for a 100 before a large body."""
    body = dump(ask(system="s" * 5000))
    client = site.client()
    client.send(request_bytes("POST", ROOT, json_headers({"Expect": "100-continue", "Content-Length": str(len(body))})))
    assert client.read_until(b"\r\n\r\n", 5).startswith(b"HTTP/1.1 100")
    client.send(body)
    assert client.read_response("POST").status == 200
