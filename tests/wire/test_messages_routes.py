"""The Messages API: its paths, its errors, who gets a request, and in which of the two ways."""

import json
import re
import threading
import time

import pytest

from backend import Gate, eventually
from client import dump, json_headers, request_bytes
from harness import endpoint, rarely_probed
from messages import (CHAT, COUNT, HELLO, NATIVE, NATIVE_EVENTS, OWN, PRIORITY, ROOT, USER, Bench, Fleet, ask, chat_path, completion,
                      delta, envelope, events, message, native, posts, prepare, send, shared, start, stream)
from servers import KINDS, Compatible, Dmr, Llamacpp, Lmdeploy, Lemonade, LmStudio, Ollama, Sglang, Vllm, VllmMlx

NATIVES = ("ollama", "llamacpp", "vllm", "lm-studio", "docker-model-runner")
TRANSLATED = ("sglang", "openai-compatible", "lmdeploy", "lemonade")
COUNTING = ("llamacpp", "docker-model-runner", "vllm-mlx")
SECRETS = {"Authorization": "Bearer client-key", "X-Api-Key": "client-key", "Cookie": "a=client-key", "Proxy-Authorization": "Basic client-key"}
SPOKEN = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14"}
MODE = "X-Olla-Mode"
# Blanks, an escape, a duplicate, numbers as no writer would write them: nothing of it may change.
ODD = b'{ "max_tokens" :5.0e1,"messages":[ {"role":"user","content":"\\u0068i", "x":[{}]} ],\r\n"unknown":{"model":"y"}, "model": "%s" }\n'
ODD = ODD.replace(b"5.0e1", b"50")
BOTH = pytest.mark.parametrize("path", [ROOT, OWN])


@pytest.fixture
def fleet(kept):
    """A server of every type."""
    with shared(kept, Fleet) as fleet:
        yield fleet


@pytest.fixture
def site(kept):
    """One that is translated for."""
    with shared(kept, Bench) as site:
        yield site


# ---- the two ways

@BOTH
@pytest.mark.parametrize("kind", NATIVES)
def test_native(fleet, kind, path):
    """As it came: every byte of the body, the query, the headers of the API; the client's credentials stay here."""
    server, body = fleet.by_type[kind], ODD.replace(b"%s", b"m-" + kind.encode())
    reply = send(fleet.proxy, body, path + "?beta=true", dict(SPOKEN, **SECRETS))
    assert (reply.status, reply.body, reply.get(MODE), reply.get("X-Olla-Endpoint")) == (200, NATIVE, "passthrough", kind)
    assert len(posts(server)) == 1
    call = posts(server)[0]
    assert call.target == server.messages + "?beta=true" and call.body == body
    for name, value in SPOKEN.items():
        assert call.get_all(name) == [value]
    assert b"client-key" not in call.raw_head, call.raw_head


@BOTH
@pytest.mark.parametrize("kind", NATIVES)
def test_native_stream(fleet, kind, path):
    """Not one byte of the events is touched."""
    reply = send(fleet.proxy, ask(model="m-" + kind, stream=True), path)
    assert (reply.status, reply.body, reply.complete, reply.get(MODE)) == (200, NATIVE_EVENTS, True, "passthrough")


@BOTH
@pytest.mark.parametrize("kind", TRANSLATED)
def test_translated(fleet, kind, path):
    """Another path, another body, no query, a length; identity, for what is packed cannot be read."""
    server = fleet.by_type[kind]
    for streamed in (False, True):
        server.forget()
        headers = dict(SPOKEN, **dict(SECRETS, **{"Accept-Encoding": "gzip, deflate, br, zstd"}))
        reply = send(fleet.proxy, ask(model="m-" + kind, stream=streamed), path + "?beta=true", headers)
        assert (reply.status, reply.get(MODE), reply.get("X-Olla-Endpoint")) == (200, "translation", kind)
        assert reply.get("X-Olla-Backend-Type") == kind and reply.get("X-Olla-Model") == "m-" + kind
        assert events(reply.body).text == "hello" if streamed else message(reply, "m-" + kind)["content"] == [{"type": "text", "text": "hello"}]
        assert len(posts(server)) == 1
        call = posts(server)[0]
        assert (call.method, call.target) == ("POST", chat_path(server))
        assert call.get_all("Content-Length") == [str(len(call.body))] and not call.has("Transfer-Encoding")
        assert call.get_all("Accept-Encoding") == ["identity"] and b"client-key" not in call.raw_head
        assert call.json()["messages"] == USER and call.json()["model"] == "m-" + kind


def test_chunked_uploads(fleet):
    """They go up with a length in both ways."""
    for kind in ("vllm", "sglang"):
        body = dump(ask(model="m-" + kind))
        raw = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        client = fleet.client()
        client.send(request_bytes("POST", ROOT, json_headers({"Transfer-Encoding": "chunked"})) + raw)
        assert client.read_response("POST").status == 200
        call = posts(fleet.by_type[kind])[0]
        assert call.get_all("Content-Length") == [str(len(call.body))] and not call.has("Transfer-Encoding")


@pytest.mark.parametrize("ctype", ["text/plain", "application/octet-stream", None])
def test_content_type_does_not_matter(fleet, ctype):
    """The path says what the body is."""
    for kind in ("vllm", "sglang"):
        headers = [("Content-Type", ctype)] if ctype else []
        reply = fleet.proxy.request("POST", OWN, dump(ask(model="m-" + kind)), headers)
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, kind), reply.body


@pytest.mark.parametrize("kind,spelling", [(LmStudio, "lmstudio"), (LmStudio, "lm_studio"), (Llamacpp, "llama-cpp"), (Dmr, "dmr"), (Dmr, "docker")])
def test_synonyms_are_native(world, kind, spelling):
    """In the reference a synonym has no profile, so that everything is translated."""
    a = prepare(world.backend(kind, "a", ["m1"]))
    proxy = world.olla({"a": endpoint(a, type=spelling)})
    reply = send(proxy, ask())
    assert (reply.status, reply.body, reply.get(MODE)) == (200, NATIVE, "passthrough") and posts(a)[0].path == kind.messages


def test_own_profile(world):
    """messages_path makes a type native, an empty one takes it away."""
    a, b = prepare(world.backend(Compatible, "a", ["m-a"])), prepare(world.backend(Vllm, "b", ["m-b"]))
    a.on("/x/v1/messages", lambda c, r: c.reply(NATIVE))
    proxy = world.olla({"a": endpoint(a, type="mine"), "b": b}, {"profile:mine.messages_path": "/x/v1/messages", "profile:vllm.messages_path": '""'})
    assert send(proxy, ask(model="m-a")).body == NATIVE and posts(a)[0].path == "/x/v1/messages"
    reply = send(proxy, ask(model="m-b"))
    assert message(reply, "m-b") and reply.get(MODE) == "translation" and posts(b)[0].path == CHAT


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("path", ["", "/v1/messages"])
def test_servers_without_openai(world, path, passed):
    """Nobody is told what it cannot understand: below its prefix a server gets the request as it is, elsewhere none."""
    a = prepare(world.backend(Vllm, "a", ["m1"]))
    proxy = world.olla({"a": endpoint(a, type="own-api", health="none")}, {
        "profile:own-api.openai_compatible": False, "profile:own-api.messages_path": path or '""',
        "translators.anthropic.passthrough_enabled": passed})
    reply = send(proxy, ask(), "/olla/own-api/v1/messages")
    assert (reply.status, reply.body, reply.get(MODE)) == (200, NATIVE, "passthrough")
    reply = send(proxy, ask())
    assert reply.status == (200 if path and passed else 503)
    assert {call.path for call in posts(a)} == {ROOT}


def test_passthrough_disabled(world):
    """Then it is translated for all, whatever they speak."""
    fleet = Fleet({"translators.anthropic.passthrough_enabled": False}, [Ollama, Vllm, Dmr, Sglang], world)
    for kind, server in fleet.by_type.items():
        for path in (ROOT, OWN):
            server.forget()
            reply = send(fleet.proxy, ask(model="m-" + kind), path)
            assert message(reply, "m-" + kind) and reply.get(MODE) == "translation"
            assert [call.path for call in posts(server)] == [chat_path(server)]


def test_native_errors_as_they_are(fleet):
    """Whatever a native server says is its own word."""
    for status, body in ((400, b'{"type":"error","error":{"type":"invalid_request_error","message":"x"}}'), (404, b'{"error":"no such model"}'), (500, b"oops")):
        fleet.by_type["vllm"].on(ROOT, lambda c, r: c.reply(body, status, headers={"x-should-retry": "false"}))
        reply = send(fleet.proxy, ask(model="m-vllm"))
        assert (reply.status, reply.body, reply.get("x-should-retry")) == (status, body, "false")


# ---- one list of candidates

class Pair:
    """A native and a translated server with the same model; the one named first is preferred."""

    def __init__(self, world, first, settings=None, models=("m1", "m1"), **keys):
        self.native = prepare(world.backend(Vllm, "native", [models[0]]))
        self.other = prepare(world.backend(Sglang, "other", [models[1]]))
        spec = {s.name: rarely_probed(s, priority=200 if s.name == first else 100, **keys) for s in (self.native, self.other)}
        self.proxy = world.olla(spec, dict(PRIORITY, **(settings or {})))


def refused(server, path):
    server.stop()


def busy(server, path):
    server.on(path, lambda c, r: c.reply({"error": {"message": "loading"}}, 503))


def lost(server, path):
    server.on(path, lambda c, r: c.fin())


FAILURES = pytest.mark.parametrize("fails", [refused, busy, lost])


@FAILURES
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_native_fails_over_to_translated(world, fails, streamed):
    """One request, first as it came, then in other words."""
    pair = Pair(world, "native")
    fails(pair.native, ROOT)
    reply = send(pair.proxy, ask(stream=streamed), ROOT + "?beta=true")
    assert (reply.status, reply.get("X-Olla-Endpoint"), reply.get(MODE)) == (200, "other", "translation"), reply.body
    assert events(reply.body).text == "hello" if streamed else message(reply)
    assert posts(pair.other)[0].target == CHAT and posts(pair.other)[0].json()["messages"] == USER
    assert fails is refused or len(posts(pair.native)) >= 1


@FAILURES
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_translated_fails_over_to_native(world, fails, streamed):
    """... and back: the native server gets the client's bytes, not the translation."""
    pair = Pair(world, "other")
    fails(pair.other, CHAT)
    body = ODD.replace(b"%s", b"m1").replace(b'"x":', b'"stream":1,"x":')
    body = body.replace(b'{ "max', b'{ "stream":true,"max') if streamed else body
    reply = send(pair.proxy, body, ROOT + "?beta=true", SPOKEN)
    assert (reply.status, reply.get("X-Olla-Endpoint"), reply.get(MODE)) == (200, "native", "passthrough"), reply.body
    assert reply.body == (NATIVE_EVENTS if streamed else NATIVE)
    call = posts(pair.native)[0]
    assert call.body == body and call.target == ROOT + "?beta=true" and call.get("anthropic-version") == "2023-06-01"


def test_large_request_fails_over(world, tmp_path):
    """Also when the body is in the spool: it is read a second time, from its beginning."""
    for first in ("native", "other"):
        pair = Pair(world, first, {"proxy.spool_dir": str(tmp_path)})
        refused(pair.native if first == "native" else pair.other, None)
        body = dump(ask(messages=[{"role": "user", "content": "".join("%07d " % n for n in range(400000))}]))
        assert send(pair.proxy, body).status == 200
        if first == "native":
            assert posts(pair.other)[0].json()["messages"] == json.loads(body)["messages"]
        else:
            assert posts(pair.native)[0].body == body


def test_untranslatable_fails_over_nowhere_wrong(world):
    """What only a native server understands goes there, and is a 400 only where it had to be translated."""
    pair = Pair(world, "native")
    body = ask(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert send(pair.proxy, body).body == NATIVE
    pair.native.stop()
    envelope(send(pair.proxy, body), None, "invalid_request_error", re.compile(r"tools\.0: "))
    assert posts(pair.other) == []


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_all_fail(world, streamed):
    """An error in Anthropic's form, never an empty message with a 200."""
    pair = Pair(world, "native")
    pair.native.stop()
    pair.other.stop()
    reply = send(pair.proxy, ask(stream=streamed))
    assert reply.status in (502, 503, 504)
    envelope(reply, kind={502: "api_error", 503: "overloaded_error", 504: "timeout_error"}[reply.status])


def test_aliases(world):
    """Each server by its own name, in both ways; the client by its."""
    pair = Pair(world, "native", {"model_aliases.Big": "n/Large, their-large", "proxy.load_balancer": "round-robin",
                                   "proxy.sticky_sessions.enabled": False}, ("n/Large", "their-large"))
    body = ODD.replace(b"%s", b"Big")
    seen = set()
    for _ in range(6):
        reply = send(pair.proxy, body)
        seen.add(reply.get("X-Olla-Endpoint"))
        assert reply.status == 200 and reply.get("X-Olla-Model") == "Big"
        assert reply.get(MODE) == "passthrough" or message(reply, "Big")
    assert seen == {"native", "other"}
    assert {call.body for call in posts(pair.native)} == {body.replace(b'"Big"', b'"n/Large"')}
    assert {call.json()["model"] for call in posts(pair.other)} == {"their-large"}


def test_spelling_of_models(world):
    """The server's spelling goes up, the client's comes down."""
    pair = Pair(world, "other", models=("Qwen3:8B", "Qwen3:8B"))
    reply = send(pair.proxy, ask(model="qwen3:8b"))
    assert message(reply, "qwen3:8b") and posts(pair.other)[0].json()["model"] == "Qwen3:8B"


@pytest.mark.parametrize("passed", [True, False], ids=["mixed", "translated"])
@pytest.mark.parametrize("key", [{"metadata": {"user_id": "user_1_account__session_abcdef01"}}, None], ids=["metadata", "header"])
def test_sticky(world, key, passed):
    """The turns of a conversation go to the machine that has its beginning in memory, translated or not."""
    pair = Pair(world, "none", {"proxy.load_balancer": "round-robin", "translators.anthropic.passthrough_enabled": passed})
    headers = {} if key else {"X-Claude-Code-Session-Id": "abcdef01-2345-6789-abcd-ef0123456789"}
    seen, words = set(), []
    for n in range(6):
        reply = send(pair.proxy, ask(messages=USER + [{"role": "assistant", "content": "x"}] * n, **(key or {})), OWN, headers)
        assert reply.status == 200
        seen.add(reply.get("X-Olla-Endpoint"))
        words.append(reply.get("X-Olla-Sticky-Session"))
    assert len(seen) == 1 and words == ["miss"] + ["hit"] * 5, (seen, words)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_max_concurrent(world, streamed):
    """A place in the line is given back when the translated answer has ended, and not before."""
    bench = Bench(world=world, max_concurrent=1)
    gates, order = [Gate(), Gate()], []

    def handler(conn, request):
        order.append(request.json()["messages"][0]["content"])
        gates[len(order) - 1].wait()
        stream(conn) if streamed else conn.reply(completion())
    bench.says(handler)
    clients = []
    for n in range(2):
        clients.append(start(world.client(bench.proxy), ask(stream=streamed, messages=[{"role": "user", "content": "c%d" % n}])))
        bench.a.wait_calls(1)
        time.sleep(0.2)
    assert order == ["c0"]
    gates[0].open()
    assert clients[0].read_response("POST").status == 200
    bench.a.wait_calls(2)
    gates[1].open()
    assert clients[1].read_response("POST").status == 200 and order == ["c0", "c1"]


def test_model_that_nobody_serves(fleet):
    """Without a model there is nothing to do; the endpoints are left alone."""
    for path in (ROOT, OWN):
        for streamed in (False, True):
            envelope(send(fleet.proxy, ask(model="nobody-has-it", stream=streamed), path), 404, "not_found_error")
    assert [call for server in fleet.servers for call in posts(server)] == []


# ---- paths

def test_other_methods(fleet):
    """405 for all but POST, with a body or without; nobody is asked."""
    for path in (ROOT, OWN, ROOT + "?beta=true", ROOT + COUNT, OWN + COUNT):
        for method in ("GET", "DELETE", "PUT", "PATCH"):
            for body in (None, dump(ask(model="m-vllm"))):
                reply = fleet.proxy.request(method, path, body, json_headers() if body else ())
                envelope(reply, 405, "invalid_request_error")
    assert [call for server in fleet.servers for call in server.calls if "messages" in call.path] == []


@pytest.mark.parametrize("path", ["/", "/olla/anthropic", "/olla/anthropic/", ROOT, OWN])
def test_head(fleet, path):
    """Claude Code looks whether somebody is there. Any answer will do, a quick one."""
    began = time.monotonic()
    reply = fleet.proxy.request("HEAD", path)
    assert time.monotonic() - began < 1 and reply.status < 500 and reply.body == b""
    assert [call for server in fleet.servers for call in server.calls if call.method == "HEAD" and "messages" in call.path] == []


@pytest.mark.parametrize("path", ["/olla/anthropic/v1/message", "/olla/anthropic/v1/messages/", "/olla/anthropic/v1/messages/batches",
                                  "/olla/anthropic/v1/complete", "/olla/anthropic/v1/chat/completions", "/olla/anthropic/messages"])
def test_paths_that_are_none(fleet, path):
    """Nothing below the prefix leads to a server by accident."""
    assert send(fleet.proxy, ask(model="m-sglang"), path).status in (404, 405)
    assert posts(fleet.by_type["sglang"]) == []


def test_disabled(world):
    """Without the translator the API is that of the servers that have it."""
    fleet = Fleet({"translators.anthropic.enabled": False}, [Vllm, Sglang], world)
    for path in (OWN, OWN + COUNT):
        for kind in ("vllm", "sglang"):
            assert send(fleet.proxy, ask(model="m-" + kind), path).status == 404
    assert fleet.proxy.get("/olla/anthropic/v1/models").status == 404
    assert send(fleet.proxy, ask(model="m-vllm")).body == NATIVE
    reply = send(fleet.proxy, ask(model="m-sglang"))
    assert reply.status >= 400 and posts(fleet.by_type["sglang"]) == []
    assert fleet.proxy.get("/internal/stats/translators").status == 200


def test_without_root_api(world):
    """server.root_api takes the paths at the root away, and only those."""
    bench = Bench({"server.root_api": False}, world=world)
    assert send(bench.proxy, ask()).status == 404 and send(bench.proxy, ask(), ROOT + COUNT).status == 404
    assert message(send(bench.proxy, ask(), OWN)) and send(bench.proxy, ask(), OWN + COUNT).status == 200


def test_largest_request_by_default(site):
    """Anthropic's own limit is 32 MB, and clients rely on it."""
    body = dump(ask(system="s" * 30000000))
    assert send(site.proxy, body).status == 200 and len(posts(site.a)[0].body) > 30000000
    with site.proxy.client() as client:
        client.try_send(request_bytes("POST", OWN, json_headers(), body.replace(b"sss", b"s" * 4000003, 1)))
        envelope(client.read_response("POST"), 413, "request_too_large")


# ---- models

@pytest.mark.parametrize("path,headers", [("/olla/anthropic/v1/models", {}), ("/olla/anthropic/v1/models?limit=1000", {}),
                                          ("/olla/anthropic/v1/models", SPOKEN), ("/v1/models", SPOKEN), ("/v1/models?limit=1000", SPOKEN)])
def test_models(fleet, path, headers):
    """In the shape of Anthropic's list."""
    reply = fleet.proxy.get(path, headers)
    assert reply.status == 200 and reply.get("Content-Type").startswith("application/json")
    document = reply.json()
    assert set(document) == {"data", "has_more", "first_id", "last_id"}
    names = [entry["id"] for entry in document["data"]]
    assert {"m-" + kind.type for kind in KINDS} <= set(names) and len(set(names)) == len(names)
    assert (document["has_more"], document["first_id"], document["last_id"]) == (False, names[0], names[-1])
    for entry in document["data"]:
        assert entry["type"] == "model" and entry["display_name"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", entry["created_at"]), entry


def test_models_in_the_other_shape(fleet):
    """Everybody else gets the list as it was."""
    document = fleet.proxy.get("/v1/models").json()
    assert document["object"] == "list" and {"m-" + kind.type for kind in KINDS} <= {e["id"] for e in document["data"]}


def test_no_models(world):
    """An empty list is one too."""
    a = world.backend(Compatible, "a", [])
    proxy = world.olla({"a": a}, {"model_aliases.x": "y"})
    document = proxy.get("/olla/anthropic/v1/models").json()
    assert document == {"data": [], "has_more": False, "first_id": None, "last_id": None}


# ---- errors of servers, in translation

TYPES = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
         405: "invalid_request_error", 408: "timeout_error", 409: "invalid_request_error", 413: "request_too_large", 415: "invalid_request_error",
         418: "api_error", 422: "invalid_request_error", 429: "rate_limit_error", 431: "invalid_request_error", 500: "api_error",
         501: "invalid_request_error", 502: "api_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error", 599: "api_error"}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", TYPES)
def test_statuses(site, status, streamed):
    """The status is the server's own, the type is what Anthropic's libraries know for it."""
    site.replies({"error": {"message": "WORDS", "type": "their_type", "code": "their_code"}}, status)
    reply = send(site.proxy, ask(stream=streamed), headers={"X-Request-ID": "id-%d" % status})
    envelope(reply, status, TYPES[status], "WORDS")
    assert reply.get("request-id") == "id-%d" % status and reply.get("X-Olla-Endpoint") == "a"


FORMS = {
    "object": ({"error": {"message": "WORDS"}}, "WORDS"), "text": ({"error": "WORDS"}, "WORDS"), "message": ({"message": "WORDS"}, "WORDS"),
    "vllm": ({"object": "error", "message": "WORDS", "type": "BadRequestError", "param": None, "code": 400}, "WORDS"),
    "detail": ({"detail": "WORDS"}, "WORDS"), "details": ({"detail": [{"loc": ["body"], "msg": "WORDS", "type": "x"}]}, re.compile(".*WORDS", re.S)),
    "anthropic": ({"type": "error", "error": {"type": "x", "message": "WORDS"}}, "WORDS"), "plain": (b"WORDS", "WORDS"),
    "plain-line": (b"WORDS\n", re.compile(r"WORDS\s*\Z")), "html": (b"<html><body>WORDS</body>", "Bad Request"),
    "json-string": (b'"WORDS"', re.compile('"?WORDS')), "empty": (b"", re.compile(".")), "null": (b"null", re.compile(".")), "nothing": ({}, re.compile(".")),
    "no-message": ({"error": {"code": 7}}, re.compile(".")), "null-message": ({"error": {"message": None}}, re.compile(".")),
    "empty-message": ({"error": {"message": ""}}, re.compile(".")), "number": ({"error": 7}, re.compile(".")), "half": (b'{"error":{"message":"WO', re.compile(".")),
    "quotes": ({"error": {"message": 'say "x" \\ \n\t\u00e4\U0001f600'}}, 'say "x" \\ \n\t\u00e4\U0001f600'),
    "plain-quotes": (b'say "x" \\ <b>', 'say "x" \\ <b>'), "binary": (bytes(range(256)), re.compile(".", re.S)),
    "long": (b"WORDS " * 200000, re.compile("WORDS WORDS ")), "long-json": ({"pad": "x" * 200000, "error": {"message": "WORDS"}}, re.compile(".")),
    "first": ({"message": "second", "detail": "third", "error": {"message": "WORDS"}}, "WORDS"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_forms_of_errors(site, form, streamed):
    """The words of the server reach the user, whatever they are wrapped in."""
    body, wanted = FORMS[form]
    for ctype in ("application/json", "text/plain; charset=utf-8", "text/html", "text/event-stream"):
        for chunks in (False, True):
            raw = body if isinstance(body, bytes) else dump(body)
            site.says(lambda c, r: (c.start_chunked(ctype, 400), raw and c.chunk(raw), c.end_chunks()) if chunks else c.reply(raw, 400, ctype))
            error = envelope(send(site.proxy, ask(stream=streamed)), 400, "invalid_request_error", wanted)
            assert len(error["message"]) < 20000


OVERFLOWS = {
    "llama.cpp": (400, {"error": {"code": 400, "message": "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                                  "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}}),
    "llama.cpp-2025": (400, {"error": {"code": 400, "message": "the request exceeds the available context size. try increasing the context size or enable "
                                       "context shift", "type": "invalid_request_error"}}),
    "vllm": (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens (8000 in the "
                   "messages, 1000 in the completion). Please reduce the length of the messages or completion.", "type": "BadRequestError", "code": 400}),
    "vllm-new": (400, {"error": {"message": "This model's maximum context length is 4096 tokens. However, your request has 9000 input tokens. Please reduce "
                                 "the length of the input messages.", "type": "BadRequestError", "param": "input_tokens", "code": 400}}),
    "lm-studio": (400, {"error": "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with context length of only "
                        "4096 tokens, which is not enough. Try to load the model with a larger context length, or provide a shorter input"}),
    "with-500": (500, {"error": {"code": 500, "message": "the request exceeds the available context size, try increasing it", "type": "server_error"}}),
    "with-413": (413, {"object": "error", "message": "This model's maximum context length is 4096 tokens."}),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", OVERFLOWS)
def test_prompt_too_long(site, name, streamed):
    """Clients compact their conversation when they read this, and give up on anything else."""
    status, body = OVERFLOWS[name]
    site.replies(body, status)
    envelope(send(site.proxy, ask(stream=streamed)), 400, "invalid_request_error", re.compile("prompt is too long: ."))


@pytest.mark.parametrize("words", ["context is missing", "unknown field max_tokens", "tool call context invalid", "the length of the name is wrong"])
def test_not_too_long(site, words):
    """A client that compacts for nothing loses its conversation."""
    site.replies({"error": {"message": words}}, 400)
    envelope(send(site.proxy, ask()), 400, message=words)


@pytest.mark.parametrize("status", [429, 503, 500])
def test_retry_headers(world, status):
    """When to come back, and whether: client libraries obey both."""
    bench = Bench(world=world)
    bench.replies({"error": {"message": "WORDS"}}, status, headers={"Retry-After": "7", "x-should-retry": "false", "Set-Cookie": "a=b", "X-Olla-Model": "evil"})
    reply = send(bench.proxy, ask())
    envelope(reply, status, TYPES[status], "WORDS")
    assert reply.get_all("Retry-After") == ["7"] and reply.get_all("x-should-retry") == ["false"]
    assert not reply.has("Set-Cookie") and reply.get_all("X-Olla-Model") == ["m1"]


def test_headers_of_a_message(site):
    """Once each; nothing of the server's that is no longer true."""
    for streamed in (False, True):
        site.says(lambda c, r: c.start_chunked(headers={"Set-Cookie": "a=b", "ETag": "x"}) or [c.chunk(p) for p in HELLO] and c.end_chunks() if streamed
                  else c.reply(completion(), headers={"Set-Cookie": "a=b", "Content-Language": "en"}))
        reply = send(site.proxy, ask(stream=streamed), headers={"X-Request-ID": "one"})
        assert reply.status == 200 and reply.get_all("X-Olla-Request-ID") == ["one"] and not reply.has("Set-Cookie")
        for name in ("X-Olla-Endpoint", "X-Olla-Model", "X-Olla-Backend-Type", "X-Olla-Routing-Strategy", MODE, "Content-Type"):
            assert len(reply.get_all(name)) == 1, (name, reply.headers)
        assert reply.framing == ("chunked" if streamed else reply.framing)
        entry = site.proxy.find_logs("request", request_id="one")
        assert not entry or entry[0]["status"] == 200


# ---- counting

NINE = {"messages": [{"role": "user", "content": "Hello world"}]}
VECTORS = {
    "hello": (NINE, 2),
    "nothing": ({}, 1), "no-messages": ({"messages": []}, 1),
    "system": ({"system": "s" * 28, "messages": [{"role": "user", "content": "u" * 20}]}, 12),
    "system-blocks": ({"system": [{"type": "text", "text": "s" * 10}, {"type": "text", "text": "t" * 10}], "messages": []}, 5),
    "tool": ({"tools": [{"name": "abcd", "description": "efgh", "input_schema": {"type": "object"}}], "messages": [{"role": "user", "content": "abcd"}]}, 7),
    "tool-with-blanks": (b'{"tools":[{"name":"abcd","description":"efgh","input_schema": { "type" :\n "object" } }],"messages":[{"role":"user","content":"abcd"}]}', 7),
    "call": ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x" * 99, "name": "abcd", "input": {"a": "bcdefgh"}}]}]}, 4),
    "result": ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x" * 99, "content": [
        {"type": "text", "text": "12345678"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4000}}]}]}]}, 2),
    "result-text": ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "12345678"}]}]}, 2),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4000}}]}]}, 1),
    "bytes": ({"messages": [{"role": "user", "content": "\u00f6" * 4}]}, 2),
    "thinking": ({"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s" * 400}]}]}, 1),
    "blocks": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "abcd"}, {"type": "text", "text": "efgh"}]}]}, 2),
    "a-megabyte": ({"messages": [{"role": "user", "content": "x" * 1000000}]}, 250000),
}


@pytest.mark.parametrize("name", VECTORS)
def test_estimates(site, name):
    """The bytes of what the model reads, divided by four."""
    body, wanted = VECTORS[name]
    body = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() if not isinstance(body, bytes) else body
    for path in (ROOT + COUNT, OWN + COUNT + "?beta=true"):
        for model in (None, "m1", "nobody-has-it"):
            sent = body if model is None else body.replace(b"{", b'{"model":"%s"%s' % (model.encode(), b"," if body != b"{}" else b""), 1)
            reply = send(site.proxy, sent, path)
            assert reply.status == 200 and reply.json() == {"input_tokens": wanted}, reply.body
            assert reply.get("Content-Type").startswith("application/json")
    assert posts(site.a) == []


@pytest.mark.parametrize("kind", COUNTING)
@BOTH
def test_asked_of_who_counts(fleet, kind, path):
    """They have the model's own tokenizer."""
    server = fleet.by_type[kind]
    server.on(server.messages + COUNT, lambda c, r: c.reply({"input_tokens": 77}))
    body = ODD.replace(b"%s", b"m-" + kind.encode())
    reply = send(fleet.proxy, body, path + COUNT + "?beta=true", SPOKEN)
    assert (reply.status, reply.json()["input_tokens"]) == (200, 77)
    calls = posts(server)
    assert [call.path for call in calls] == [server.messages + COUNT] and calls[0].body == body
    assert calls[0].get("anthropic-version") == "2023-06-01"


@pytest.mark.parametrize("kind", [k.type for k in KINDS if k.type not in COUNTING])
def test_not_asked_of_others(fleet, kind):
    """A 404 in the log for each turn of each client is no use."""
    reply = send(fleet.proxy, dict(NINE, model="m-" + kind), ROOT + COUNT)
    assert (reply.status, reply.json()) == (200, {"input_tokens": 2}) and posts(fleet.by_type[kind]) == []


OLDER = {"ollama": (404, "404 page not found", "text/plain"), "fastapi": (404, {"detail": "Not Found"}, "application/json"),
         "llamacpp": (404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, "application/json"),
         "method": (405, {"detail": "Method Not Allowed"}, "application/json"), "nothing": (501, "", "text/plain")}


def in_two(conn, words, status, ctype):
    """A reply whose body comes a little later than its head, as many servers write it."""
    body = words.encode() if isinstance(words, str) else dump(words)
    conn.head(status, [("Content-Type", ctype), ("Content-Length", str(len(body)))])
    time.sleep(0.05)
    conn.send(body)


@BOTH
@pytest.mark.parametrize("form", OLDER)
def test_older_servers(world, form, path):
    """A type that has the API, a version that has it not: found out once, and again when the server was away."""
    status, words, ctype = OLDER[form]
    a = prepare(world.backend(Vllm, "a", ["m1"]))
    a.on(ROOT, lambda c, r: in_two(c, words, status, ctype) if path == OWN else c.reply(words, status, ctype))
    proxy = world.olla({"a": endpoint(a, check_interval="1s", check_timeout="500ms")})
    for stream in (False, True, False):
        reply = send(proxy, ask(stream=stream), path)
        assert (reply.status, reply.get(MODE)) == (200, "translation"), reply.body
        assert events(reply.body).text == "hello" if stream else message(reply)["content"] == [{"type": "text", "text": "hello"}]
    assert [call.path for call in posts(a)] == [ROOT, CHAT, CHAT, CHAT]
    if form != "ollama" or path != ROOT:
        return
    a.on(ROOT, native)
    a.stop()
    eventually(lambda: proxy.endpoint("a")["status"] not in ("healthy", "busy"), "an endpoint that is away", 10)
    a.start()
    eventually(lambda: proxy.endpoint("a")["status"] == "healthy", "an endpoint that is back", 10)
    assert send(proxy, ask(), path).get(MODE) == "passthrough"


def test_unknown_to_a_server(world):
    """A 404 about the model is the server's answer."""
    a = prepare(world.backend(Vllm, "a", ["m1"]))
    words = {"type": "error", "error": {"type": "not_found_error", "message": "Model 'm1' not found"}}
    a.on(ROOT, lambda c, r: c.reply(words, 404))
    reply = send(world.olla({"a": a}), ask())
    assert (reply.status, reply.get(MODE), reply.json()) == (404, "passthrough", words) and len(posts(a)) == 1


PAGES = {"limit=3": ("m1 m2 m3", True), "limit=3&after_id=m3": ("m4 m5 m6", True), "limit=3&after_id=m6": ("m7 nick", False),
         "after_id=nick": ("", False), "before_id=m3": ("m1 m2", False), "before_id=m5&limit=2": ("m3 m4", True), "before_id=m1": ("", False),
         "limit=1000": ("m1 m2 m3 m4 m5 m6 m7 nick", False), "limit=8": ("m1 m2 m3 m4 m5 m6 m7 nick", False), "after_id=M2&limit=1": ("m3", True),
         "after_id=nobody": ("", False), "limit=0&after_id=m6": ("m7 nick", False)}


def test_pages_of_models(world):
    """As client libraries ask for them, at both addresses; one model by its id."""
    a = prepare(world.backend(Sglang, "a", ["m%d" % n for n in range(7, 0, -1)]))
    proxy = world.olla({"a": a}, {"model_aliases.nick": "m1"})
    for query, (wanted, more) in PAGES.items():
        for path, headers in (("/olla/anthropic/v1/models", {}), ("/v1/models", {"anthropic-version": "2023-06-01"})):
            page = proxy.get(path + "?" + query, headers=headers).json()
            ids = [model["id"] for model in page["data"]]
            assert (ids, page["has_more"]) == (wanted.split(), more), query
            assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None)), query
    one = proxy.get("/olla/anthropic/v1/models/m3")
    assert (one.status, one.json()["id"], one.json()["type"]) == (200, "m3", "model")
    envelope(proxy.get("/olla/anthropic/v1/models/m9"), 404, "not_found_error")


@pytest.mark.parametrize("how", ["404", "500", "503", "400", "page", "empty", "lost", "refused"])
def test_counting_fails(world, how):
    """Counting always answers."""
    a = prepare(world.backend(Llamacpp, "a", ["m1"]))
    proxy = world.olla({"a": rarely_probed(a)})
    if how == "refused":
        a.stop()
    else:
        a.on(ROOT + COUNT, {"page": lambda c, r: c.reply(b"<html>", ctype="text/html"), "empty": lambda c, r: c.reply(b""), "lost": lambda c, r: c.fin()}.get(
            how, lambda c, r: c.reply({"error": {"message": "no"}}, int(how))))
    reply = send(proxy, dict(NINE, model="m1"), ROOT + COUNT)
    assert reply.status == 200 and reply.json() == {"input_tokens": 2}, reply.body


def test_counting_is_slow(world):
    """Slow (5 s): nobody waits long for a number."""
    gate = Gate()
    a = prepare(world.backend(Llamacpp, "a", ["m1"]))
    a.on(ROOT + COUNT, lambda c, r: gate.wait(30))
    proxy = world.olla({"a": rarely_probed(a)})
    try:
        reply = send(proxy, dict(NINE, model="m1"), ROOT + COUNT)
    finally:
        gate.open()
    assert reply.status == 200 and reply.json() == {"input_tokens": 2}


def test_counting_of_another_model(world):
    """Only an endpoint that serves the model can count for it."""
    a, b = prepare(world.backend(Llamacpp, "a", ["m-a"])), prepare(world.backend(Sglang, "b", ["m-b"]))
    a.on(ROOT + COUNT, lambda c, r: c.reply({"input_tokens": 77}))
    proxy = world.olla({"a": a, "b": b}, {"model_aliases.both": "m-a, m-b"})
    for model, wanted in (("m-a", 77), ("m-b", 2), ("nobody", 2), ("both", 77)):
        assert send(proxy, dict(NINE, model=model), OWN + COUNT).json() == {"input_tokens": wanted}, model
    assert [call.json()["model"] for call in posts(a)] == ["m-a", "m-a"] and posts(b) == []


def test_counting_without_passthrough(world):
    """Then nobody is asked in words of the Messages API."""
    a = prepare(world.backend(Llamacpp, "a", ["m1"]))
    a.on(ROOT + COUNT, lambda c, r: c.reply({"input_tokens": 77}))
    proxy = world.olla({"a": a}, {"translators.anthropic.passthrough_enabled": False})
    reply = send(proxy, dict(NINE, model="m1"), ROOT + COUNT)
    assert reply.status == 200 and reply.json()["input_tokens"] == 2 and posts(a) == []


def test_counting_many(world):
    """A vllm-mlx that is preferred, and others with the same model: those that count are asked."""
    a, b = prepare(world.backend(Vllm, "a", ["m1"])), prepare(world.backend(VllmMlx, "b", ["m1"]))
    b.on(ROOT + COUNT, lambda c, r: c.reply({"input_tokens": 77}))
    proxy = world.olla({"a": endpoint(a, priority=200), "b": b}, PRIORITY)
    for _ in range(4):
        assert send(proxy, dict(NINE, model="m1"), ROOT + COUNT).json()["input_tokens"] == 77
    assert posts(a) == []


# ---- statistics

COUNTERS = ("total_requests", "successful_requests", "failed_requests", "passthrough_requests", "translation_requests", "streaming_requests",
            "non_streaming_requests")
FALLBACKS = ("fallback_no_compatible_endpoints", "fallback_translator_does_not_support_passthrough", "fallback_cannot_passthrough")
SUMMARY = {"overall_success_rate", "overall_passthrough_rate", "total_translators", "active_translators", "total_requests", "total_passthrough",
           "total_translations", "total_streaming", "total_non_streaming"}
PERCENT = re.compile(r"0%|100%|[1-9]?[0-9]\.[0-9]%")


def stats(proxy):
    reply = proxy.get("/internal/stats/translators")
    assert reply.status == 200 and reply.get("Content-Type").startswith("application/json")
    document = reply.json()
    assert set(document) == {"timestamp", "translators", "summary"} and set(document["summary"]) == SUMMARY
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", document["timestamp"])
    for entry in document["translators"]:
        assert set(entry) == {"translator_name", "success_rate", "passthrough_rate", "average_latency"} | set(COUNTERS) | set(FALLBACKS)
        assert PERCENT.fullmatch(entry["success_rate"]) and PERCENT.fullmatch(entry["passthrough_rate"])
        assert re.fullmatch(r"[0-9]{1,3}ms|[0-9]+\.[0-9]s", entry["average_latency"]), entry
    return document


def test_statistics(world):
    """What was asked, in which way, and how it went. A failure is one whoever made it."""
    fleet = Fleet(None, [Vllm, Sglang], world)
    document = stats(fleet.proxy)
    assert document["translators"] == []
    assert {document["summary"][key] for key in SUMMARY if key.startswith(("total_re", "total_pa", "total_s", "total_n"))} == {0}
    assert document["summary"]["overall_success_rate"] == document["summary"]["overall_passthrough_rate"] == "0%"
    sglang = fleet.by_type["sglang"]

    def counted(**wanted):
        def done():
            entry = (stats(fleet.proxy)["translators"] or [{}])[0]
            return all(entry.get(key) == value for key, value in wanted.items())
        eventually(done, "%r in %r" % (wanted, stats(fleet.proxy)), 3, 0.05)
    assert send(fleet.proxy, ask(model="m-vllm")).status == 200
    counted(total_requests=1, successful_requests=1, passthrough_requests=1, translation_requests=0, success_rate="100%", passthrough_rate="100%")
    assert send(fleet.proxy, ask(model="m-sglang"), OWN).status == 200
    assert send(fleet.proxy, ask(model="m-sglang", stream=True)).status == 200
    counted(total_requests=3, successful_requests=3, failed_requests=0, translation_requests=2, streaming_requests=1, non_streaming_requests=2,
            passthrough_rate="33.3%", fallback_cannot_passthrough=2)
    sglang.on(CHAT, lambda c, r: c.reply({"error": {"message": "x"}}, 500))
    assert send(fleet.proxy, ask(model="m-sglang")).status == 500
    counted(total_requests=4, successful_requests=3, failed_requests=1, success_rate="75.0%")
    sglang.on(CHAT, lambda c, r: stream(c, [delta(content="x")]))
    assert not send(fleet.proxy, ask(model="m-sglang", stream=True)).complete
    counted(total_requests=5, successful_requests=3, failed_requests=2, streaming_requests=2, success_rate="60.0%")
    fleet.by_type["vllm"].on(ROOT, lambda c, r: c.reply(b"oops", 500))
    assert send(fleet.proxy, ask(model="m-vllm")).status == 500
    counted(total_requests=6, successful_requests=3, failed_requests=3, passthrough_requests=2, translation_requests=4, success_rate="50.0%")
    assert send(fleet.proxy, NINE, ROOT + COUNT).status == 200
    document = stats(fleet.proxy)
    entry, summary = document["translators"][0], document["summary"]
    assert entry["translator_name"] == "anthropic" and entry["total_requests"] == 6, "counting is not counted"
    assert (summary["total_requests"], summary["total_passthrough"], summary["total_translations"], summary["total_streaming"],
            summary["total_non_streaming"], summary["total_translators"], summary["active_translators"]) == (6, 2, 4, 2, 4, 1, 1)
    assert summary["overall_success_rate"] == "50.0%" and summary["overall_passthrough_rate"] == entry["passthrough_rate"] == "33.3%"


def test_statistics_of_refusals(world):
    """Refused requests are requests that failed."""
    bench = Bench(world=world)
    for body, status in ((b"", 400), (ask(model="nobody"), 404), (ask(max_tokens=0), 400), (ask(tools=[{"type": "bash_1", "name": "b"}]), 400)):
        assert send(bench.proxy, body).status == status
    entry = eventually(lambda: stats(bench.proxy)["translators"], "it is counted", 3)[0]
    assert entry["successful_requests"] == 0 and entry["failed_requests"] == entry["total_requests"] >= 1 and entry["success_rate"] == "0%"


# ---- all at once

def test_mixed_load(fleet):
    """Native and translated, whole and streams, counting and refusals, from many sides: nobody gets another's answer."""
    wrong = []

    def worker(number):
        kinds = [kind.type for kind in KINDS]
        with fleet.proxy.client() as client:
            for n in range(20):
                kind = kinds[(number * 7 + n) % len(kinds)]
                streamed = n % 3 == 0
                client.send(request_bytes("POST", (ROOT, OWN)[n % 2], json_headers(), dump(ask(model="m-" + kind, stream=streamed, max_tokens=n or 0))))
                reply = client.read_response("POST")
                wanted = 400 if n == 0 else 200
                right = reply.status == wanted and (n == 0 or reply.get("X-Olla-Endpoint") == kind)
                if right and n and reply.get(MODE) == "translation":
                    right = events(reply.body).start["model"] == "m-" + kind if streamed else reply.json()["model"] == "m-" + kind
                elif right and n:
                    right = reply.body == (NATIVE_EVENTS if streamed else NATIVE)
                if not right:
                    wrong.append((kind, n, reply.status, reply.body[:300]))
    threads = [threading.Thread(target=worker, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads), wrong[:3]


def test_reload(world):
    """The settings of the translator are taken over by a reload."""
    a, b = prepare(world.backend(Vllm, "a", ["m-a"])), prepare(world.backend(Lmdeploy, "b", ["m-b"]))
    proxy = world.olla({"a": a, "b": b})
    assert send(proxy, ask(model="m-a")).get(MODE) == "passthrough"
    proxy.reload({"a": a, "b": b}, {"translators.anthropic.passthrough_enabled": False})
    eventually(lambda: send(proxy, ask(model="m-a")).get(MODE) == "translation", "the setting is in force", 5, 0.05)
    proxy.reload({"a": a, "b": b}, {"translators.anthropic.enabled": False})
    eventually(lambda: send(proxy, ask(model="m-b"), OWN).status == 404, "the setting is in force", 5, 0.05)


def test_base_path(world):
    """An endpoint below a path keeps it in both ways."""
    a = world.backend(Lemonade, "a", ["m-a"])
    b = world.backend(Vllm, "b", ["m-b"])
    for server in (prepare(a), prepare(b)):
        for path, handler in list(server.routes.items()):
            server.on("/below" + path, handler)
    proxy = world.olla({s.name: endpoint(s, url=s.url + "/below", preserve_path=True) for s in (a, b)})
    assert send(proxy, ask(model="m-b")).body == NATIVE and posts(b)[0].path == "/below" + ROOT
    assert message(send(proxy, ask(model="m-a")), "m-a") and posts(a)[0].path == "/below" + chat_path(a)
