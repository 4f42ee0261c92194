"""Sticky sessions: a conversation stays on the machine that has it in its cache, and leaves it only for a reason."""

import json
import socket
import time

import pytest

from backend import Gate, OpenAIBackend, eventually
from client import Client, chunked, dump, full_body, json_headers, request_bytes
from harness import World, endpoint, new_id, rarely_probed, report
from servers import Ollama
from test_multipart import form

CHAT = "/v1/chat/completions"
PRIORITY = {"proxy.load_balancer": "priority"}
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
WORD, SOURCE, ECHO = "X-Olla-Sticky-Session", "X-Olla-Sticky-Key-Source", "X-Olla-Session-ID"
FIELDS = ("enabled", "active_sessions", "insertions", "hits", "misses", "evictions", "max_sessions", "idle_ttl_seconds")


def sticky_settings(**keys):
    return {"proxy.sticky_sessions." + key: value for key, value in keys.items()}


def word_of(reply):
    """hit, miss, repin or disabled; one word, said once."""
    words = reply.get_all(WORD)
    assert len(words) == 1 and words[0] in ("hit", "miss", "repin", "disabled"), (reply.status, reply.headers)
    assert len(reply.get_all(SOURCE)) == (0 if words[0] == "disabled" else 1), reply.headers
    return words[0]


def ask(proxy, body=None, headers=(), path=CHAT, method="POST"):
    """(word, source) of one request. body: bytes, or an object that gets a model if it has none."""
    if not isinstance(body, bytes):
        body = dump(dict(body or {}) if "model" in (body or {}) else dict(body or {}, model="m1"))
    reply = proxy.request(method, path, body, json_headers(headers))
    assert reply.status == 200, reply.body
    return word_of(reply), reply.get(SOURCE)


def say(proxy, key, model="m1", headers=(), path=CHAT):
    """(endpoint, word) of one turn of the session `key`."""
    reply = proxy.post(path, {"model": model}, dict(headers, **{ECHO: key}))
    assert reply.status == 200, reply.body
    return reply.get("X-Olla-Endpoint"), word_of(reply)


def stats(proxy):
    reply = proxy.get("/internal/stats/sticky")
    assert reply.status == 200 and reply.get("Content-Type") == "application/json"
    document = reply.json()
    return {field: document.get(field) for field in FIELDS}


# ---- the key: one server with everybody's API, shared by all tests of this part

class Keys:
    def __init__(self):
        self.world = World()
        self.a = self.world.backend(Ollama, "a", ["m1", "m2"])
        self.a.on("*", lambda c, r: c.reply({"path": r.path}))
        self.proxy = self.world.olla({"a": self.a}, {"model_aliases.Nick": "m1"}, ready={"a": 2})

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def site(kept):
    site = kept(Keys)
    yield site
    report(site.proxy.idle_problems() + site.world.script_failures())


class Rung:
    """One header or body field that names a session."""

    def __init__(self, name, wrap=None, least=8):
        self.name, self.wrap, self.least = name, wrap, least

    def __repr__(self):
        return self.name

    def request(self, value, rest=None, headers=None):
        """(body, headers) of a request that has the value here."""
        if self.wrap:
            return dict(rest or {}, **self.wrap(value)), dict(headers or {})
        return dict(rest or {}), dict(headers or {}, **{self.name: value})


LADDER = [Rung(ECHO, least=1), Rung("X-Claude-Code-Session-Id"), Rung("metadata.user_id", lambda v: {"metadata": {"user_id": v}}),
          Rung("session-id"), Rung("session_id"), Rung("X-Session-Id"), Rung("X-Session-Affinity"), Rung("X-Litellm-Session-Id"),
          Rung("X-Amp-Thread-Id"), Rung("prompt_cache_key", lambda v: {"prompt_cache_key": v}),
          Rung("conversation_id", lambda v: {"conversation_id": v}), Rung("conversation", lambda v: {"conversation": v})]
BODY_RUNGS = [rung for rung in LADDER if rung.wrap]
each_rung = pytest.mark.parametrize("rung", LADDER, ids=repr)
each_field = pytest.mark.parametrize("rung", BODY_RUNGS, ids=repr)


@each_rung
def test_every_rung(site, rung):
    """Clients name their sessions each in its own way; one that is not read costs them the whole prompt on every turn."""
    value = new_id("Session")
    body, headers = rung.request(value)
    assert ask(site.proxy, body, headers) == ("miss", "session_header")
    assert ask(site.proxy, body, headers) == ("hit", "session_header")
    assert ask(site.proxy, dict(body, temperature=0.5, stream=False), headers) == ("hit", "session_header")
    for other in (value + "x", value[:-1], "x" + value, value.lower()):  # equal, not similar
        assert ask(site.proxy, *rung.request(other)) == ("miss", "session_header"), other
    if not rung.wrap:
        assert ask(site.proxy, body, {rung.name.lower(): value}) == ("hit", "session_header")
        assert ask(site.proxy, body, {rung.name.upper(): value}) == ("hit", "session_header")


@each_rung
def test_only_the_first_is_echoed(site, rung):
    """X-Olla-Session-ID comes back to whoever sent it, and nobody else's session is told."""
    body, headers = rung.request(new_id("echo"))
    for _ in range(2):
        reply = site.proxy.post(CHAT, dict(body, model="m1"), headers)
        assert reply.get_all(ECHO) == ([headers[ECHO]] if ECHO in headers else [])


@each_rung
def test_short_values(site, rung):
    """`1` or `default` is no name of a session: all conversations would share one machine."""
    auth = {"Authorization": "Bearer " + new_id("auth")}
    body, headers = rung.request("x" * (rung.least - 1), headers=auth)
    assert ask(site.proxy, body, headers)[1] == "auth_header"
    body, headers = rung.request(new_id()[-rung.least:] if rung.least > 1 else "~", headers=auth)
    assert ask(site.proxy, body, headers)[1] == "session_header"
    assert ask(site.proxy, body, headers) == ("hit", "session_header")


def test_short_value_falls_to_the_next_rung(site):
    """A value that does not count must not hide one that does."""
    value = new_id("long")
    assert ask(site.proxy, {"metadata": {"user_id": "me"}}, {"X-Claude-Code-Session-Id": "1234567", "X-Session-Id": value})[0] == "miss"
    assert ask(site.proxy, None, {"X-Session-Id": value}) == ("hit", "session_header")
    value = new_id("key")
    assert ask(site.proxy, {"prompt_cache_key": value}, {ECHO: "", "X-Amp-Thread-Id": ""}) == ("miss", "session_header")
    assert ask(site.proxy, {"prompt_cache_key": value}) == ("hit", "session_header")


PAIRS = list(zip(LADDER[:-2], LADDER[1:-1])) + [(LADDER[-3], LADDER[-1])]  # the last two are one rung


@pytest.mark.parametrize("upper,lower", PAIRS, ids=repr)
def test_order_of_the_ladder(site, upper, lower):
    """A client behind a router sends several of them; on every turn the same one must count."""
    one, two = new_id("upper"), new_id("lower")
    body, headers = lower.request(two, *upper.request(one))
    assert ask(site.proxy, body, headers) == ("miss", "session_header")
    assert ask(site.proxy, *upper.request(one)) == ("hit", "session_header")
    assert ask(site.proxy, *lower.request(two)) == ("miss", "session_header")
    if upper.wrap and lower.wrap:  # the order in the body is of no account
        assert ask(site.proxy, dict(reversed(list(body.items())), model="m1"))[0] == "hit"


@pytest.mark.parametrize("lower", [rung for rung in LADDER if rung.name in ("prompt_cache_key", "conversation_id", "conversation")], ids=repr)
@pytest.mark.parametrize("first", ["user_id", "cache_key"])
def test_user_id_before_the_other_fields(site, lower, first):
    """Body fields are met in any order while the body comes in: the first of the ladder counts, not the first of the body."""
    one, two = new_id("upper"), new_id("lower")
    pair = [("metadata", {"user_id": one})] + list(lower.request(two)[0].items())
    body = dict(pair if first == "user_id" else reversed(pair), model="m1")
    assert ask(site.proxy, body)[0] == "miss"
    assert ask(site.proxy, {"metadata": {"user_id": one}}) == ("hit", "session_header")


def test_session_part_of_the_user_id(site):
    """Claude Code's user_id names account and session: what stands behind `session_` is the conversation."""
    session = new_id()
    long = "user_%s_account_%s_session_" % ("5e" * 32, "c0ffee00-1111-2222-3333-444455556666")
    for n, account in enumerate(("user_1_account_2_session_", "user_3_account_4_session_", "session_", long)):
        word = ask(site.proxy, {"metadata": {"user_id": account + session}})
        assert word == ("hit" if n else "miss", "session_header"), account
    for account in ("user_1_account_2_session_", long):
        assert ask(site.proxy, {"metadata": {"user_id": account + new_id()}})[0] == "miss"
    # its newer form is JSON in a string
    ids = [json.dumps({"device_id": "d" * 64, "account_uuid": "c0ffee00-1111-2222-3333-444455556666", "session_id": new_id()}) for _ in range(2)]
    assert [ask(site.proxy, {"metadata": {"user_id": value}})[0] for value in ids + ids] == ["miss", "miss", "hit", "hit"]
    # without the word all of it counts
    whole = new_id("whole")
    assert [ask(site.proxy, {"metadata": {"user_id": value}})[0] for value in (whole, whole, whole + "2")] == ["miss", "hit", "miss"]


WRONG = {"number": 123456789, "null": None, "true": True, "object": {"id": "conv_12345678"}, "list": ["conv_12345678"], "empty": ""}


@each_field
@pytest.mark.parametrize("kind", list(WRONG))
def test_fields_that_are_no_strings(site, rung, kind):
    """Taken for a key they would tie strangers together."""
    auth = new_id("auth")
    for _ in range(2):
        assert ask(site.proxy, rung.wrap(WRONG[kind]), {"Authorization": auth})[1] == "auth_header"


DECOYS = {
    "in-messages": {"messages": [{"role": "assistant", "prompt_cache_key": "decoy-12345", "metadata": {"user_id": "decoy-12345"}}]},
    "in-an-object": {"x": {"prompt_cache_key": "decoy-12345", "conversation_id": "decoy-12345", "conversation": "decoy-12345"}},
    "deeper-metadata": {"metadata": {"x": {"user_id": "decoy-12345"}}, "a": {"metadata": {"user_id": "decoy-12345"}}},
    "user-id-on-top": {"user_id": "decoy-12345", "user": "decoy-12345", "session_id": "decoy-12345"},
    "metadata-list": {"metadata": [{"user_id": "decoy-12345"}], "tools": [[{"prompt_cache_key": "decoy-12345"}]]},
    "in-text": {"text": '"prompt_cache_key":"decoy-12345","metadata":{"user_id":"decoy-12345"}', "text2": '\\","conversation":"decoy-12345'},
    "other-names": {"prompt_cache_key2": "decoy-12345", "xprompt_cache_key": "decoy-12345", "Conversations": "decoy-12345"},
    "metadata-string": {"metadata": "user_id-12345", "meta": {"user_id": "decoy-12345"}},
    "below-user-id": {"metadata": {"user_id": {"user_id": "decoy-12345"}}},
}


@pytest.mark.parametrize("name", list(DECOYS))
def test_decoys(site, name):
    """Only the field itself counts, not its name somewhere in a prompt."""
    for _ in range(2):
        assert ask(site.proxy, DECOYS[name], {"Authorization": new_id("auth")})[1] != "session_header"
    value = new_id("true")
    body = dict(DECOYS[name], prompt_cache_key=value)
    assert ask(site.proxy, body) == ("miss", "session_header")
    assert ask(site.proxy, {"prompt_cache_key": value}) == ("hit", "session_header")


@each_field
def test_escapes(site, rung):
    """The same text in another spelling of JSON is the same session; a quote inside does not end it."""
    value = new_id("esc")
    plain = dump(dict(rung.wrap(value), model="m1"))
    assert ask(site.proxy, plain)[0] == "miss"
    assert ask(site.proxy, plain.replace(value.encode(), b"\\u00%02x" % ord(value[0]) + value[1:].encode())) == ("hit", "session_header")
    for tail in ('"a', '"b', "\\", "\\\\", "\nx", "\tx", "\u00e4", "\U0001f600", "/"):
        body = rung.wrap(value + tail)
        assert [ask(site.proxy, body)[0] for _ in range(2)] == ["miss", "hit"], tail
    spaced = plain.replace(b":", b" \t:\r\n ").replace(b"{", b"{ ").replace(b",", b" ,\n")
    assert ask(site.proxy, spaced) == ("hit", "session_header")


def test_escaped_names(site):
    """A key may be escaped as well as a value."""
    value = new_id("name").encode()
    assert ask(site.proxy, b'{"prompt_cache_key":"' + value + b'","model":"m1"}')[0] == "miss"
    assert ask(site.proxy, b'{"prompt\\u005fcache_key":"' + value + b'","model":"m1"}') == ("hit", "session_header")


BULK = {"messages": [{"role": "user", "content": "x" * 1000} for _ in range(3000)]}


@each_field
def test_around_megabytes(site, rung):
    """Official clients send what they know behind megabytes of messages, or before them."""
    fields = rung.wrap(new_id("big"))
    before, after = dump(dict(fields, model="m1", **BULK)), dump(dict(BULK, model="m1", **fields))
    assert ask(site.proxy, before) == ("miss", "session_header")
    assert ask(site.proxy, after) == ("hit", "session_header")
    with site.proxy.client() as client:
        client.send(request_bytes("POST", CHAT, json_headers({"Transfer-Encoding": "chunked"})) + chunked(after, 30011))
        reply = client.read_response("POST")
    assert (reply.status, word_of(reply)) == (200, "hit")


def test_in_single_bytes(site):
    """A key that is cut anywhere on its way must be the same key."""
    value = new_id("cut")
    body = dump({"metadata": {"user_id": "user_1_session_" + value}, "messages": [{"role": "user", "content": "hello"}], "model": "m1"})
    assert ask(site.proxy, body)[0] == "miss"
    for size in (1, 2, 3, 7, 50):
        with site.proxy.client() as client:
            client.send(request_bytes("POST", CHAT, json_headers({"Transfer-Encoding": "chunked"})) + chunked(body, size))
            assert word_of(client.read_response("POST")) == "hit", size


def test_long_values(site):
    """Two long names that differ only at their end are two sessions; the echo is whole."""
    long = new_id("long") + "x" * 3000
    for value in (long + "1", long + "2"):
        for word in ("miss", "hit"):
            reply = site.proxy.post(CHAT, {"model": "m1"}, {ECHO: value})
            assert (word_of(reply), reply.get(ECHO)) == (word, value)
        for word in ("miss", "hit"):
            assert ask(site.proxy, {"prompt_cache_key": "key " + value}) == (word, "session_header")


def test_twice_the_same_name(site):
    """Which of two counts is nobody's business, but it must be the same one every time."""
    a, b = new_id("one"), new_id("two")
    body = b'{"prompt_cache_key":"' + a.encode() + b'","model":"m1","prompt_cache_key":"' + b.encode() + b'"}'
    assert [ask(site.proxy, body) for _ in range(2)] == [("miss", "session_header"), ("hit", "session_header")]
    body = b'{"messages":[{"role":"user","content":"' + a.encode() + b'"}],"model":"m1","messages":[{"role":"user","content":"' + b.encode() + b'"}]}'
    assert [ask(site.proxy, body) for _ in range(2)] == [("miss", "prefix_hash"), ("hit", "prefix_hash")]
    headers = [("X-Session-Id", a), ("X-Session-Id", b)]
    assert [ask(site.proxy, None, headers) for _ in range(2)] == [("miss", "session_header"), ("hit", "session_header")]


def test_no_key(site):
    """Nothing to go by: `disabled`, and no source that would only confuse."""
    for body in ({}, {"messages": []}, {"messages": None}, {"x": [1, 2]}):
        reply = site.proxy.post(CHAT, dict(body, model="m1"))
        assert (reply.status, word_of(reply)) == (200, "disabled")
        assert not reply.has(SOURCE) and not reply.has(ECHO)


@pytest.mark.parametrize("method,path", [("GET", "/olla/proxy/v1/x"), ("GET", "/olla/proxy" + CHAT), ("POST", "/api/show"), ("POST", "/v1/other"),
                                         ("POST", "/olla/ollama/api/copyx"), ("DELETE", "/v1/files/1"), ("PUT", CHAT)], ids=str)
def test_not_for_other_requests(site, method, path):
    """Management calls and GETs are no conversation and must not push one out of the table."""
    before = stats(site.proxy)
    value = new_id("other")
    for _ in range(2):
        body = None if method == "GET" else dump({"model": "m1", "prompt_cache_key": value})
        reply = site.proxy.request(method, path, body, json_headers({ECHO: value, "X-Test-Call": "1"}))
        assert reply.status == 200, reply.body
        assert word_of(reply) == "disabled" and not reply.has(ECHO)
    assert stats(site.proxy) == before


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/rerank", "/v1/audio/speech",
                                  "/v1/images/generations", "/api/chat", "/api/generate", "/api/embed", "/api/embeddings",
                                  "/olla/proxy" + CHAT, "/olla/ollama/api/chat", "/olla/openai" + CHAT])
def test_for_all_kinds_of_inference(site, path):
    """Whatever loads a model profits from the machine that has it."""
    value = new_id("kind")
    for word, query in (("miss", ""), ("hit", "?beta=true")):
        assert ask(site.proxy, full_body(path, {"stream": False}), {ECHO: value}, path + query) == (word, "session_header")


def test_uploads(site):
    """A form has no fields that we read but the model; its headers count all the same."""
    body, ctype = form(b"m1")
    for word in ("miss", "hit"):
        reply = site.proxy.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": ctype, "X-Session-Id": "upload-123"})
        assert (reply.status, word_of(reply), reply.get(SOURCE)) == (200, word, "session_header")


def test_scope(site):
    """Another model is another cache; case and route are not."""
    value = new_id("scope")
    assert say(site.proxy, value, "m1")[1] == "miss"
    assert say(site.proxy, value, "m2")[1] == "miss"
    assert say(site.proxy, value, "nick")[1] == "miss"
    for model in ("m1", "M1", "m2", "nick", "NICK", "Nick"):
        for path in (CHAT, "/olla/proxy" + CHAT, "/olla/ollama" + CHAT):
            assert say(site.proxy, value, model, path=path)[1] == "hit", (model, path)
    key = {"messages": [{"role": "user", "content": value}]}
    assert [ask(site.proxy, dict(key, model=model))[0] for model in ("m1", "m2", "nick", "M1", "m2", "NICK")] == ["miss"] * 3 + ["hit"] * 3


def test_session_ids_are_not_prompts(site):
    """The same text as session, as conversation and as key of a user are three things."""
    value = new_id("text")
    assert ask(site.proxy, {"prompt": value}) == ("miss", "prefix_hash")
    assert ask(site.proxy, None, {ECHO: value}) == ("miss", "session_header")
    assert ask(site.proxy, None, {"Authorization": value}) == ("miss", "auth_header")


# ---- the key: the start of the conversation

def conversation(turns, text, system=None, answer="answer", **more):
    messages = [{"role": "system", "content": system}] if system else []
    for n in range(turns):
        messages += [{"role": "user", "content": "%s, question %d" % (text, n)}, {"role": "assistant", "content": "%s %d" % (answer, n)}]
    return dict({"model": "m1", "messages": messages[:-1]}, **more)


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/v1/messages", "/olla/proxy" + CHAT])
@pytest.mark.parametrize("system", [None, "You are " + "very " * 500 + "helpful."], ids=["plain", "system"])
def test_every_turn_has_the_same_key(site, path, system):
    """The reference hashes a fixed number of bytes and changes its mind on the second turn."""
    text = new_id("turns")
    for turns in range(1, 7):
        body = conversation(turns, text, system, answer="a long answer " * turns, stream=False, max_tokens=turns, seed=turns)
        assert ask(site.proxy, body, path=path) == ("hit" if turns > 1 else "miss", "prefix_hash"), turns
    other = conversation(1, new_id("turns"), system, stream=False, max_tokens=1)
    assert ask(site.proxy, other, path=path)[0] == "miss", "another first question"


def test_where_the_messages_are(site):
    """Fields before, behind and between change nothing; a temperature is not part of the conversation."""
    text = new_id("where")
    assert ask(site.proxy, conversation(1, text))[0] == "miss"
    messages = conversation(3, text)["messages"]
    tools = [{"type": "function", "function": {"name": "f%d" % n, "description": "messages: " * 200}} for n in range(40)]
    for body in ({"messages": messages, "model": "m1"}, {"temperature": 1, "tools": tools, "messages": messages, "model": "m1"},
                 {"model": "m1", "tools": tools, "messages": messages, "stop": ["\n"]}, {"x": {"messages": [1]}, "messages": messages, "model": "m1"}):
        assert ask(site.proxy, body) == ("hit", "prefix_hash")


def test_system_prompt_of_openai(site):
    """It is the first of the messages: another one is another prefix in the cache."""
    text = new_id("sys")
    words = [ask(site.proxy, conversation(1, text, system))[0] for system in ("one", "two", None, "one", "two", None)]
    assert words == ["miss"] * 3 + ["hit"] * 3


def test_system_prompt_of_anthropic(site):
    """Claude Code writes a line for the bill into `system` that is new on every request: it must not move the conversation."""
    text = new_id("bill")
    for turns in range(1, 5):
        bill = "x-anthropic-billing-header: cc_version=2.1; cch=%s;" % new_id()
        system = [{"type": "text", "text": bill}, {"type": "text", "text": "You are helpful."}]
        body = conversation(turns, text, system=None, max_tokens=9)
        assert ask(site.proxy, dict({"system": system}, **body), path="/v1/messages") == ("hit" if turns > 1 else "miss", "prefix_hash")
        assert ask(site.proxy, dict(body, system=system), path="/v1/messages")[0] == "hit"


def test_content_in_blocks(site):
    """Content may be a list of blocks, with roles and messages of its own inside."""
    inner = {"type": "text", "role": "user", "text": '{"role":"user"}', "messages": [{"role": "user"}]}
    first = {"role": "system", "content": [inner]}
    texts = [new_id("block") for _ in range(2)]
    for word in ("miss", "hit"):
        for text in texts:  # if the inner role ended the key, the second would find the first
            messages = [first, {"content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "data:" + "A" * 70000}}],
                                "role": "user"}]
            if word == "hit":
                messages += [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "x"}, messages[1]]
            assert ask(site.proxy, {"model": "m1", "messages": messages}) == (word, "prefix_hash")


def test_roles_before_the_user(site):
    """Only the role `user` ends the start: an assistant that speaks first, a developer, or text about users does not."""
    for first in ({"role": "assistant", "content": "user"}, {"role": "developer", "content": '"role":"user"'}, {"role": "users", "content": "x"},
                  {"content": "user", "name": "user", "role": "system"}, {"role": "system", "content": "", "x": {"role": "user"}}):
        texts = [new_id("role") for _ in range(2)]
        words = [ask(site.proxy, {"model": "m1", "messages": [first, {"role": "user", "content": text}]})[0] for text in texts]
        assert words == ["miss", "miss"], first


def test_white_space(site):
    """The bytes are hashed as they came. Two programs that write JSON differently are two conversations, that is all."""
    text = new_id("white")
    tight, loose = dump(conversation(1, text)), json.dumps(conversation(1, text)).encode()
    assert [ask(site.proxy, body)[0] for body in (tight, loose, tight, loose)] == ["miss", "miss", "hit", "hit"]
    outside = tight.replace(b'{"model"', b'  {\r\n "model"').replace(b',"messages":', b' ,\n\t"messages" :  ')[:-1] + b"  }\n"
    assert ask(site.proxy, outside)[0] == "hit", "white space around the messages is not part of them"


def test_long_first_message(site):
    """A document of megabytes as first message: all of it counts, and it stays the start of the conversation."""
    text = new_id("long") + "x" * (3 << 20)
    for turns in (1, 2):
        for tail, word in (("1", "miss"), ("2", "miss")) if turns == 1 else (("1", "hit"), ("2", "hit")):
            assert ask(site.proxy, conversation(turns, text + tail)) == (word, "prefix_hash")


def test_in_pieces(site):
    """The key does not depend on how the network cut the body."""
    body = dump(conversation(2, new_id("piece"), "system \\\" \u00e4 ] } \\u005d"))
    assert ask(site.proxy, body)[0] == "miss"
    for size in (1, 2, 5, 64):
        with site.proxy.client() as client:
            client.send(request_bytes("POST", CHAT, json_headers({"Transfer-Encoding": "chunked"})) + chunked(body, size))
            assert word_of(client.read_response("POST")) == "hit", size


@pytest.mark.parametrize("field,path", [("prompt", "/v1/completions"), ("prompt", "/api/generate"), ("input", "/v1/embeddings"), ("input", "/api/embed"),
                                        ("input", "/v1/responses")])
def test_plain_text(site, field, path):
    """A prompt that is one string counts as a whole."""
    text = new_id("plain") + ' {"role":"user"} \\" '
    words = [ask(site.proxy, {field: value, "stream": False}, path=path) for value in (text, text, text + "more", text)]
    assert words == [("miss", "prefix_hash"), ("hit", "prefix_hash"), ("miss", "prefix_hash"), ("hit", "prefix_hash")]


def test_list_of_inputs(site):
    """The Responses API has the conversation in `input`; embeddings have a list of texts there."""
    text = new_id("list")
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]
    for turns in range(3):
        assert ask(site.proxy, {"input": items, "stream": False}, path="/v1/responses") == ("hit" if turns else "miss", "prefix_hash")
        items = items + [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": "a"}, items[0]]
    texts = [[text, "a"], [text, "b"], [text, "a"]]
    assert [ask(site.proxy, {"input": value}, path="/v1/embeddings")[0] for value in texts] == ["miss", "miss", "hit"]
    tokens = [[1, 2, 3], [1, 2, 4], [1, 2, 3]]
    assert [ask(site.proxy, {"prompt": value + [hash(text) % 1000003]}, path="/v1/completions")[0] for value in tokens] == ["miss", "miss", "hit"]


def test_messages_before_prompt(site):
    """Where both are there, the messages are the conversation."""
    one, two = new_id("both"), new_id("both")
    for n, body in enumerate(({"prompt": one, "messages": [{"role": "user", "content": two}]},
                              {"messages": [{"role": "user", "content": two}], "prompt": "other", "input": "x"})):
        assert ask(site.proxy, body) == ("hit" if n else "miss", "prefix_hash")


def test_no_user_at_all(site):
    """A conversation without a user has some key or none, the same one each time."""
    for messages in ([{"role": "system", "content": new_id()}], [{"content": new_id()}], [new_id()], [[{"role": "user"}], new_id()]):
        seen = [ask(site.proxy, {"messages": messages}) for _ in range(2)]
        assert seen in ([("miss", "prefix_hash"), ("hit", "prefix_hash")], [("disabled", None)] * 2), messages


def test_prefix_hash_bytes(world):
    """An operator who lets many users share one long system prompt can cut the key behind it, or before."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, sticky_settings(prefix_hash_bytes=100))
    system = "s" * 200
    assert ask(proxy, conversation(1, new_id(), system)) == ("miss", "prefix_hash")
    assert ask(proxy, conversation(1, new_id(), system)) == ("hit", "prefix_hash"), "equal in the first 100 bytes of the messages"
    assert ask(proxy, dict({"tools": ["t" * 500]}, **conversation(3, new_id(), system)))[0] == "hit", "of the messages, not of the body"
    assert ask(proxy, conversation(1, new_id(), "t" + system))[0] == "miss"
    # a shorter start is not made longer by what follows it
    short = {"role": "user", "content": "hi"}
    assert ask(proxy, {"messages": [short]})[0] == "miss"
    assert ask(proxy, {"messages": [short, {"role": "assistant", "content": "x" * 200}, short]})[0] == "hit"
    assert [ask(proxy, {"prompt": text})[0] for text in ("p" * 150, "p" * 160, "p" * 50)] == ["miss", "hit", "miss"]


# ---- the key: who asks

def test_auth_header(site):
    """One user of many behind a program that says nothing else."""
    one, two = "Bearer " + new_id(), "Basic " + new_id()
    words = [ask(site.proxy, None, {"Authorization": value}) for value in (one, two, one, two)]
    assert words == [("miss", "auth_header")] * 2 + [("hit", "auth_header")] * 2
    assert ask(site.proxy, None, {"Authorization": one.replace("Bearer", "Token")})[0] == "miss", "the whole value counts"


def ask_from(proxy, address, headers=()):
    client = Client.__new__(Client)
    client.sock = socket.create_connection(("127.0.0.1", proxy.port), 10, (address, 0))
    client.buf, client.at_eof, client.was_reset = b"", False, False
    with client:
        reply = client.post(CHAT, {"model": "m1"}, headers)
    assert reply.status == 200
    return word_of(reply), reply.get(SOURCE)


def test_ip(world):
    """The peer's address as key, whatever it says about others in front of it."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, sticky_settings(key_sources="ip"))
    assert ask_from(proxy, "127.0.0.1") == ("miss", "ip")
    assert ask_from(proxy, "127.0.0.2") == ("miss", "ip")
    assert ask_from(proxy, "127.0.0.1", {"X-Forwarded-For": "127.0.0.3"}) == ("hit", "ip")
    assert ask_from(proxy, "127.0.0.2", {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}) == ("hit", "ip")
    assert ask_from(proxy, "127.0.0.3", {ECHO: "a-session", "Authorization": "x"}) == ("miss", "ip")


@pytest.mark.parametrize("order,expected", [
    ("session_header, prefix_hash, auth_header, ip", "session_header"), ("ip, session_header", "ip"), ("prefix_hash,session_header", "prefix_hash"),
    ("auth_header, prefix_hash", "auth_header"), ("auth_header", "auth_header"), ("prefix_hash", "prefix_hash"), ("session_header", "session_header")])
def test_key_sources(world, order, expected):
    """The operator's order is the order, and what is not in it does not count."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, sticky_settings(key_sources=order))
    headers = {"X-Session-Id": new_id("session"), "Authorization": "Bearer " + new_id()}
    body = conversation(1, new_id(), prompt_cache_key=new_id())
    assert [ask(proxy, body, headers) for _ in range(2)] == [("miss", expected), ("hit", expected)]
    if order.count(",") == 0 and expected != "session_header":
        headers.pop("Authorization")
        body = {} if expected == "prefix_hash" else body
        assert ask(proxy, body, headers) == ("disabled", None)
    elif order == "session_header":
        assert ask(proxy, conversation(1, new_id()), {"Authorization": "Bearer x"}) == ("disabled", None)


# ---- where a conversation goes

def servers(world, names, models=("m1",), **keys):
    """Servers, and a gate at which requests with "hold" wait."""
    group = {name: world.backend(OpenAIBackend, name, models) for name in names}
    gate = Gate()

    def chat(conn, request):
        if request.json().get("hold"):
            gate.wait(30)
        conn.reply({"served_by": conn.backend.name})
    for server in group.values():
        server.on(CHAT, chat)
    spec = {name: endpoint(server, **keys) for name, server in group.items()}
    return group, gate, spec


class Held:
    """Requests that keep an endpoint busy until they are let go."""

    def __init__(self, world, proxy, gate):
        self.world, self.proxy, self.gate, self.clients = world, proxy, gate, []

    def add(self, name, count=1):
        before = self.proxy.endpoint(name)["connections"]
        for _ in range(count):
            client = self.world.client(self.proxy)
            client.start_post(CHAT, {"model": "m1", "hold": True}, {"X-Olla-Endpoint": name})
            self.clients.append(client)
        eventually(lambda: self.proxy.endpoint(name)["connections"] == before + count, "%s has %d more requests" % (name, count))

    def release(self):
        self.gate.open()
        for client in self.clients:
            assert client.read_response("POST").status == 200
        eventually(lambda: all(e["connections"] == 0 for e in self.proxy.status()["endpoints"]), "all is idle again")


BALANCERS = pytest.mark.parametrize("balancer", ["least-connections", "round-robin", "priority"])


@BALANCERS
def test_conversations_stay(world, balancer):
    """Thirty conversations in turn over three machines: each finds its own cache again, every time."""
    _, _, spec = servers(world, "abc")
    proxy = world.olla(spec, {"proxy.load_balancer": balancer})
    homes = {}
    for turn in range(4):
        for n in range(30):
            name, word = say(proxy, "conversation %d" % n)
            assert word == ("hit" if turn else "miss")
            assert homes.setdefault(n, name) == name
        assert proxy.post(CHAT, {"model": "m1"}).status == 200  # others in between
    assert set(homes.values()) == set("abc"), "and they are spread"


def test_all_instances_agree(world):
    """Two routers in front of the same machines share no state: they must put a conversation on the same one."""
    _, _, spec = servers(world, "abcd")
    one, two = world.olla(spec), world.olla(spec, {"proxy.load_balancer": "round-robin"})
    for _ in range(7):
        two.post(CHAT, {"model": "m1"})  # what went before must not matter
    homes = {n: say(one, "shared %d" % n)[0] for n in range(60)}
    for n in reversed(range(60)):
        assert say(two, "shared %d" % n) == (homes[n], "miss"), n
    bodies = [conversation(1, "prefix %d" % n) for n in range(20)]
    for body in bodies:
        assert one.post(CHAT, body).get("X-Olla-Endpoint") == two.post(CHAT, dict(body, temperature=1)).get("X-Olla-Endpoint")
    # without d only d's conversations go elsewhere
    three = world.olla({name: spec[name] for name in "cab"})
    for n, home in homes.items():
        name, _ = say(three, "shared %d" % n)
        assert name == home or home == "d", n
    assert "d" in homes.values()


def test_even_spread(world):
    """Many conversations over equal machines: no favourites."""
    _, _, spec = servers(world, "abc")
    proxy = world.olla(spec)
    seen = [say(proxy, "conversation %d" % n)[0] for n in range(300)]
    assert all(65 <= seen.count(name) <= 140 for name in "abc"), {name: seen.count(name) for name in "abc"}


@BALANCERS
def test_spread_by_weight(world, balancer):
    """A machine of three times the weight gets three times the conversations."""
    _, _, spec = servers(world, "ab")
    spec["a"]["weight"], spec["b"]["weight"] = 30, 10
    proxy = world.olla(spec, {"proxy.load_balancer": balancer})
    seen = [say(proxy, "weighted conversation %d" % n)[0] for n in range(240)]
    assert 150 <= seen.count("a") <= 208, seen.count("a")
    assert [say(proxy, "weighted conversation %d" % n) for n in range(240)] == [(name, "hit") for name in seen]


def home_of(proxy, key):
    name, word = say(proxy, key)
    assert word == "miss"
    return name, {"a": "b", "b": "a"}[name]


@BALANCERS
def test_load_slack(world, balancer):
    """A cache is worth a short wait, not a long one: three more than the other is too much. One spike does not move the conversation."""
    _, gate, spec = servers(world, "ab")
    proxy = world.olla(spec, {"proxy.load_balancer": balancer})
    home, other = home_of(proxy, "talk")
    held = Held(world, proxy, gate)
    held.add(home, 2)
    assert say(proxy, "talk") == (home, "hit")
    held.add(home, 1)
    for _ in range(3):
        name, word = say(proxy, "talk")
        assert word == "miss"
        assert name == other or balancer == "round-robin"
    held.add(other, 1)
    assert say(proxy, "talk") == (home, "hit"), "it is the difference that counts"
    held.release()
    for _ in range(3):
        assert say(proxy, "talk") == (home, "hit")
    assert stats(proxy)["insertions"] == 1 and stats(proxy)["active_sessions"] == 1


def test_load_slack_of_none(world):
    """load_slack = 0: never wait behind anybody while another one is idle."""
    _, gate, spec = servers(world, "ab")
    proxy = world.olla(spec, sticky_settings(load_slack=0))
    home, other = home_of(proxy, "talk")
    assert say(proxy, "talk") == (home, "hit")
    held = Held(world, proxy, gate)
    held.add(home)
    assert say(proxy, "talk") == (other, "miss")
    held.release()
    assert say(proxy, "talk") == (home, "hit")


def test_pin_at_its_limit(world):
    """A machine that takes no more requests is passed over, and found again afterwards."""
    _, gate, spec = servers(world, "ab", max_concurrent=1)
    proxy = world.olla(spec, sticky_settings(load_slack=50))
    home, other = home_of(proxy, "talk")
    held = Held(world, proxy, gate)
    held.add(home)
    assert say(proxy, "talk") == (other, "miss")
    held.release()
    assert say(proxy, "talk") == (home, "hit")


def test_new_conversations_go_where_it_is_quiet(world):
    """The hash decides among equals only: a new conversation does not queue up behind a busy machine."""
    _, gate, spec = servers(world, "ab")
    oracle, proxy = world.olla(spec), world.olla(spec)
    homes = {n: say(oracle, "talk %d" % n)[0] for n in range(8)}
    assert set(homes.values()) == {"a", "b"}
    held = Held(world, proxy, gate)
    held.add("a")
    for n in homes:
        assert say(proxy, "talk %d" % n) == ("b", "miss")
    held.release()
    assert all(say(proxy, "talk %d" % n) == ("b", "hit") for n in homes)


@pytest.mark.parametrize("noticed_by", ["request", "probe"])
def test_repin_on_failure(world, noticed_by):
    """The machine of a conversation dies: the next turn is answered elsewhere, and it stays there, also when the old one is back."""
    group, _, spec = servers(world, "ab", **(FAST if noticed_by == "probe" else {"check_interval": "120s"}))
    proxy = world.olla(spec)
    home, other = home_of(proxy, "talk")
    assert say(proxy, "talk") == (home, "hit")
    group[home].stop()
    if noticed_by == "probe":
        proxy.wait_down(home)
    assert say(proxy, "talk") == (other, "repin")
    assert say(proxy, "talk") == (other, "hit")
    numbers = stats(proxy)
    assert (numbers["hits"], numbers["misses"], numbers["insertions"], numbers["active_sessions"]) == (2, 1, 1, 1)
    if noticed_by == "probe":
        group[home].start()
        proxy.wait_healthy({home: 1})
        for _ in range(3):
            assert say(proxy, "talk") == (other, "hit")


@pytest.mark.parametrize("how", ["reset", "503"])
def test_repin_within_one_request(world, how):
    """The pinned machine fails under the request: the answer of the next one says so and is remembered."""
    group, _, spec = servers(world, "ab", check_interval="120s")
    proxy = world.olla(spec, {"proxy.breaker.consecutive_failures": 1000})
    home, other = home_of(proxy, "talk")
    group[home].on(CHAT, lambda c, r: c.rst() if how == "reset" else c.reply({"error": "busy"}, 503))
    assert say(proxy, "talk") == (other, "repin")
    assert say(proxy, "talk") == (other, "hit")


def test_first_choice_fails(world):
    """A new conversation whose first choice fails is still new; it belongs to who answered."""
    group, _, spec = servers(world, "ab", check_interval="120s")
    proxy = world.olla(spec, {"proxy.breaker.consecutive_failures": 1000, "proxy.breaker.failure_percent": 100})
    group["a"].on(CHAT, lambda c, r: c.reply({"error": "broken"}, 502))
    for n in range(6):
        assert say(proxy, "talk %d" % n) == ("b", "miss")
    assert 0 < len(group["a"].calls) <= 6, "some had a for their first choice"
    assert all(say(proxy, "talk %d" % n) == ("b", "hit") for n in range(6))
    assert stats(proxy)["insertions"] == stats(proxy)["misses"] == 6


def test_errors_do_not_pin(world):
    """A machine that answers 500 must not collect conversations; one that answers 404 is well."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": rarely_probed(a)}, {"proxy.breaker.consecutive_failures": 1000, "proxy.breaker.failure_percent": 100})

    def turn(status):
        a.on(CHAT, lambda c, r: c.reply({}, status))
        reply = proxy.post(CHAT, {"model": "m1"}, {ECHO: "talk"})
        assert reply.status == status
        return word_of(reply)
    assert [turn(500), turn(500)] == ["miss", "miss"] and stats(proxy)["active_sessions"] == 0
    assert [turn(404), turn(200)] == ["miss", "hit"]
    assert [turn(500), turn(200)] == ["hit", "hit"], "and a 500 does not loosen what is pinned"
    assert stats(proxy)["insertions"] == 1


def test_not_on_our_own_replies(world):
    """Nothing was chosen: nothing is said about the choice."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a})
    for model, headers in (("none", {}), ("m1", {"X-Olla-Endpoint": "nobody"})):
        reply = proxy.post(CHAT, {"model": model}, dict(headers, **{ECHO: "talk"}))
        assert reply.status == 404
        assert not reply.has(WORD) and not reply.has(SOURCE) and not reply.has(ECHO)
    assert proxy.get("/v1/models", {ECHO: "talk"}).get(WORD) is None
    assert (stats(proxy)["insertions"], stats(proxy)["active_sessions"]) == (0, 0)


def test_headers_of_a_backend(world):
    """Another olla behind us says words of its own; the client must get ours only."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on(CHAT, lambda c, r: c.reply({}, headers={WORD: "hit", SOURCE: "ip", ECHO: "theirs"}))
    proxy = world.olla({"a": a})
    reply = proxy.post(CHAT, {"model": "m1"}, {ECHO: "mine"})
    assert (reply.get_all(WORD), reply.get_all(SOURCE), reply.get_all(ECHO)) == (["miss"], ["session_header"], ["mine"])
    reply = proxy.post(CHAT, {"model": "m1"})
    assert (reply.get_all(WORD), reply.get_all(SOURCE), reply.get_all(ECHO)) == (["disabled"], [], [])


def test_better_tier_is_back(world):
    """Under `priority` a conversation that had to leave the fast machine returns to it with its next turn."""
    group, _, spec = servers(world, "abc", **FAST)
    spec["a"]["priority"] = 200
    proxy = world.olla(spec, PRIORITY)
    assert [say(proxy, "talk") for _ in range(2)] == [("a", "miss"), ("a", "hit")]
    group["a"].stop()
    proxy.wait_down("a")
    name, word = say(proxy, "talk")
    assert name in "bc" and word == "repin"
    assert [say(proxy, "talk") for _ in range(3)] == [(name, "hit")] * 3, "within the tier it holds"
    group["a"].start()
    proxy.wait_healthy({"a": 1})
    back, word = say(proxy, "talk")
    assert back == "a" and word != "hit"
    assert say(proxy, "talk") == ("a", "hit")


def test_named_endpoint_wins(world):
    """Who names a machine gets it; the conversation itself stays where it is."""
    _, _, spec = servers(world, "ab")
    proxy = world.olla(spec)
    home, other = home_of(proxy, "talk")
    for _ in range(2):
        reply = proxy.post(CHAT, {"model": "m1"}, {ECHO: "talk", "X-Olla-Endpoint": other})
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, other)
    assert say(proxy, "talk") == (home, "hit")


# ---- the table

def test_statistics(world):
    """The numbers an operator judges the cache by must be true to the last one."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a})
    numbers = {"enabled": True, "active_sessions": 0, "insertions": 0, "hits": 0, "misses": 0, "evictions": 0, "max_sessions": 1024,
               "idle_ttl_seconds": 600}
    assert stats(proxy) == numbers
    for key in ("k1", "k1", "k2", "k1", "k1"):
        say(proxy, key)
    for _ in range(2):
        assert ask(proxy) == ("disabled", None)
    proxy.get("/olla/proxy/v1/x", {ECHO: "k1", "X-Test-Call": "1"})
    proxy.post(CHAT, {"model": "none"}, {ECHO: "k1"})
    assert stats(proxy) == dict(numbers, active_sessions=2, insertions=2, hits=3, misses=2)


def test_idle_sessions_end(world):
    """A conversation that nobody continues frees its place; one that goes on does not, however old it is."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, sticky_settings(idle_ttl_seconds=2))
    for attempt in range(4):
        key, words, gap = "talk %d" % attempt, [say(proxy, "talk %d" % attempt)[1]], 0
        for _ in range(3):
            start = time.monotonic()
            time.sleep(0.9)
            words.append(say(proxy, key)[1])
            gap = max(gap, time.monotonic() - start)
        if gap < 1.8:
            break
    assert words == ["miss", "hit", "hit", "hit"]
    before = stats(proxy)
    assert (before["idle_ttl_seconds"], before["active_sessions"]) == (2, before["insertions"] - before["evictions"])
    time.sleep(2.3)
    assert say(proxy, key)[1] == "miss"
    after = stats(proxy)
    assert (after["active_sessions"], after["insertions"]) == (1, before["insertions"] + 1)
    assert after["evictions"] == before["insertions"]


def test_sessions_without_an_end(world):
    """idle_ttl_seconds = 0: only the number of places counts."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, sticky_settings(idle_ttl_seconds=0))
    assert say(proxy, "talk")[1] == "miss"
    time.sleep(0.3)
    assert say(proxy, "talk")[1] == "hit"
    assert stats(proxy)["idle_ttl_seconds"] == 0 and stats(proxy)["evictions"] == 0


def test_longest_unused_leaves_first(world):
    """A full table forgets who has been silent longest, not who came first."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, sticky_settings(max_sessions=3))
    assert [say(proxy, key)[1] for key in ("k1", "k2", "k3", "k1", "k4")] == ["miss", "miss", "miss", "hit", "miss"]
    assert {key: stats(proxy)[key] for key in ("active_sessions", "evictions", "max_sessions")} == {
        "active_sessions": 3, "evictions": 1, "max_sessions": 3}
    assert [say(proxy, key)[1] for key in ("k3", "k1", "k4")] == ["hit"] * 3
    assert say(proxy, "k2")[1] == "miss"  # pushes k3 out, the longest unused of three
    assert [say(proxy, key)[1] for key in ("k1", "k4", "k2", "k3")] == ["hit", "hit", "hit", "miss"]
    assert stats(proxy)["evictions"] == 3 and stats(proxy)["insertions"] == 6


def test_table_is_bounded(world):
    """Memory is fixed: more sessions than the build has places for are not promised, and never taken."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, sticky_settings(max_sessions=1000000))
    with proxy.client() as client:
        for n in range(1100):
            assert word_of(client.post(CHAT, {"model": "m1"}, {ECHO: "session %d" % n})) == "miss"
        for n in (1099, 76, 500):
            assert word_of(client.post(CHAT, {"model": "m1"}, {ECHO: "session %d" % n})) == "hit"
        for n in (0, 75):
            assert word_of(client.post(CHAT, {"model": "m1"}, {ECHO: "session %d" % n})) == "miss"
    assert stats(proxy) == {"enabled": True, "active_sessions": 1024, "insertions": 1102, "hits": 3, "misses": 1102, "evictions": 78,
                            "max_sessions": 1024, "idle_ttl_seconds": 600}


def test_disabled(world):
    """Switched off it must leave no trace in replies, and requests are balanced one by one."""
    _, _, spec = servers(world, "ab")
    proxy = world.olla(spec, sticky_settings(enabled=False))
    seen = []
    for _ in range(6):
        reply = proxy.post(CHAT, conversation(1, "same"), {ECHO: "talk", "X-Session-Id": "talk-12345"})
        assert reply.status == 200
        assert not reply.has(WORD) and not reply.has(SOURCE) and not reply.has(ECHO)
        seen.append(reply.get("X-Olla-Endpoint"))
    assert sorted(seen) == ["a"] * 3 + ["b"] * 3
    assert proxy.get("/internal/stats/sticky").json() == {"enabled": False}


def test_reload_keeps_sessions(world):
    """A change of the configuration must not throw every conversation out of its cache, nor mix up who has it."""
    group, _, spec = servers(world, "ab")
    proxy = world.olla(spec)
    homes = {n: say(proxy, "talk %d" % n)[0] for n in range(12)}
    assert set(homes.values()) == {"a", "b"}
    group["z"] = world.backend(OpenAIBackend, "z", ["m1"])
    proxy.reload({"z": endpoint(group["z"]), "b": spec["b"], "a": spec["a"]}, {"proxy.load_balancer": "round-robin"})
    eventually(lambda: [e["name"] for e in proxy.status()["endpoints"] if e["status"] == "healthy"] and proxy.status()["proxy"]["balancer"]
               == "round-robin", "the new configuration is in force")
    proxy.wait_healthy({"z": 1, "a": 1, "b": 1})
    for n, home in homes.items():
        assert say(proxy, "talk %d" % n) == (home, "hit"), "the name counts, not the place in the file"
    proxy.reload({"b": spec["b"]})
    eventually(lambda: len(proxy.status()["endpoints"]) == 1, "only b is left")
    for n, home in homes.items():
        assert say(proxy, "talk %d" % n) == ("b", "hit" if home == "b" else "repin")
    assert stats(proxy)["insertions"] == 12
