"""Inbound keys: who gets in, in every dialect and every way of bringing a key; what a key is for; and that no key is ever seen
behind olla, in its log, its pages or its errors."""

import hashlib
import json
import signal
import socket
import subprocess
import time

import pytest

from backend import Gate, LlamaBackend, OpenAIBackend, eventually, openai_chunk
from client import Client, chunked, dump, json_headers, request_bytes
from harness import BINARY, World, build_config, clean_env, endpoint, new_id, rarely_probed, report, run_cli
from servers import Compatible, Ollama
from test_queue import Line, Turns
from test_upgrade import ASK, REALTIME, both_ways, echo

ALICE, BOB, CAROL, DAVE = "sk-alice-5f1c0de", "sk-bob-77aa88bb", "sk-carol-0badcafe", "sk-dave-00112233"
WRONG = "sk-mallory-666"
SECRETS = (ALICE, BOB, CAROL, DAVE, WRONG)
CHAT = "/v1/chat/completions"
BODY = {"model": "llama-1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


def bearer(secret):
    return [("Authorization", "Bearer " + secret)]


def hexed(secret):
    return hashlib.sha256(secret.encode()).hexdigest()


class Fleet:
    """An Ollama with llama-1, llama-2 and qwen:7b in memory, and a server of OpenAI's kind with gpt-x. Alice may do everything, Bob
    llama*, his alias and voices, Carol (by digest) gpt-x, Dave's key is in a file."""

    def __init__(self, tmp):
        self.world = World()
        self.o = self.world.backend(Ollama, "o", ["llama-1", "llama-2", "qwen:7b"])
        self.c = self.world.backend(Compatible, "c", ["gpt-x"])
        self.o.loaded = ["llama-1", "qwen:7b"]
        self.secret_file = tmp / "dave"
        self.secret_file.write_text("\n  %s \r\n\n" % DAVE)
        self.settings = {
            "key:alice.secret": ALICE, "key:bob.secret": '"%s"' % BOB, "key:bob.models": "llama*, swift",
            "key:carol.secret_sha256": hexed(CAROL).upper(), "key:carol.models": "GPT*",
            "key:dave.secret_file": self.secret_file,
            "model_aliases.swift": "qwen:7b", "model_aliases.other": "llama-2"}
        self.spec = {"o": rarely_probed(self.o), "c": rarely_probed(self.c)}
        self.proxy = self.world.olla(self.spec, self.settings, ready={"o": 3, "c": 1})

    @property
    def proxies(self):
        return self.world.proxies

    @property
    def calls(self):
        return self.o.calls + self.c.calls

    def ask(self, headers=(), model="llama-1", path=CHAT, **more):
        return self.proxy.post(path, dict(BODY, model=model, **more), list(headers))

    def leaks(self):
        """Where a key can be read."""
        found = []
        seen = {"backend %s" % s.name: b"".join(bytes(conn.raw) for conn in s.connections) for s in (self.o, self.c)}
        seen["log"] = json.dumps(self.proxy.logs).encode() + b"".join(self.proxy.stray_output) + self.proxy.stderr().encode()
        for path in ("/internal/status", "/internal/status/models", "/internal/stats/sticky", "/internal/stats/translators"):
            seen[path] = self.proxy.get(path).body
        for where, data in seen.items():
            found += ["%s holds %s" % (where, s) for s in SECRETS if s.encode() in data or hexed(s).encode() in data.lower()]
        return found


@pytest.fixture(scope="module")
def kept_tmp(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def site(kept, kept_tmp):
    site = kept(Fleet, kept_tmp)
    site.o.forget()
    site.c.forget()
    yield site
    site.world.close_clients()
    problems = site.proxy.idle_problems() if site.proxy.alive() else ["olla died: " + site.proxy.describe()]
    report(problems + site.leaks() + site.world.script_failures())


def names(reply):
    document = reply.json()
    return [m.get("id") or m.get("name") for m in document.get("data", document.get("models"))]


# ---- the dialects of a refusal

def check_openai(reply, kind, code):
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "code", "param"} and (error["type"], error["code"]) == (kind, code)


def check_anthropic(reply, kind, code):
    document = reply.json()
    assert document["type"] == "error" and document["error"]["type"] == kind and document["request_id"]


def check_ollama(reply, kind, code):
    assert set(reply.json()) == {"error"} and isinstance(reply.json()["error"], str)


def check_plain(reply, kind, code):
    assert reply.get("Content-Type").startswith("text/plain") and reply.text().endswith("\n") and "{" not in reply.text()


DIALECTS = [
    ("POST", CHAT, check_openai), ("POST", "/olla/openai" + CHAT, check_openai), ("POST", "/olla/proxy" + CHAT, check_openai),
    ("GET", "/v1/models", check_openai), ("GET", "/v1/models/llama-1", check_openai),
    ("POST", "/api/chat", check_ollama), ("POST", "/olla/ollama/api/generate", check_ollama), ("GET", "/api/tags", check_ollama),
    ("GET", "/api/ps", check_ollama), ("POST", "/api/pull", check_ollama),
    ("POST", "/v1/messages", check_anthropic), ("POST", "/olla/anthropic/v1/messages", check_anthropic),
    ("POST", "/v1/messages/count_tokens", check_anthropic), ("GET", "/olla/anthropic/v1/models", check_anthropic),
    ("GET", "/olla/models", check_plain), ("GET", "/olla/models/llama-1", check_plain), ("GET", "/nowhere", check_plain),
    ("GET", "/", check_plain), ("GET", "/olla/proxy", check_plain), ("OPTIONS", "*", check_plain), ("POST", "/olla/proxy/x", check_plain),
]


@pytest.mark.parametrize("method,target,check", DIALECTS, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("headers", [[], bearer(WRONG), bearer(ALICE) + bearer(BOB)], ids=["none", "wrong", "two"])
def test_refused(site, method, target, check, headers):
    """401 in the caller's words, before anything else is looked at, and nothing reaches a server."""
    request_id = new_id()
    body = dump(BODY) if method == "POST" else None
    reply = site.proxy.request(method, target, body, json_headers(headers + [("X-Request-ID", request_id)]))
    assert (reply.status, reply.reason) == (401, "Unauthorized")
    check(reply, "authentication_error", "invalid_api_key")
    assert reply.get_all("WWW-Authenticate") == ['Bearer realm="olla"']
    assert not any(s in reply.text() for s in SECRETS)
    assert not site.calls
    line = site.proxy.access(request_id)
    assert (line["status"], line["end"]) == (401, "PR") and "key" not in line and "model" not in line


@pytest.mark.parametrize("headers,wanted", [
    (bearer(ALICE), "alice"), ([("authorization", "bearer " + ALICE)], "alice"), ([("AUTHORIZATION", "BEARER   " + BOB)], "bob"),
    ([("x-api-key", BOB)], "bob"), ([("X-Api-Key", DAVE)], "dave"), (bearer(DAVE), "dave"),
    (bearer(ALICE) + [("x-api-key", WRONG)], "alice"), ([("Authorization", "Basic eDp5"), ("x-api-key", BOB)], "bob"),
    (bearer(WRONG) + [("x-api-key", ALICE)], None), ([("Authorization", ALICE)], None), ([("Authorization", "Basic " + ALICE)], None),
    ([("api-key", ALICE)], None), ([("Cookie", "key=" + ALICE)], None), ([("X-Auth-Token", ALICE)], None),
    ([("Sec-WebSocket-Protocol", "olla-api-key." + ALICE)], None), ([("x-api-key", ALICE), ("x-api-key", ALICE)], None),
    ([("x-api-key", ALICE.upper())], None), ([("x-api-key", ALICE[:-1])], None), ([("x-api-key", ALICE + "0")], None),
    ([("x-api-key", hexed(ALICE))], None)], ids=str)
def test_ways_to_bring_a_key(site, headers, wanted):
    request_id = new_id()
    reply = site.ask(headers + [("X-Request-ID", request_id)])
    assert reply.status == (200 if wanted else 401), reply.body
    line = site.proxy.access(request_id)
    assert line.get("key") == wanted
    assert len(site.calls) == (1 if wanted else 0)
    for call in site.calls:
        assert not call.has("Authorization") and not call.has("X-Api-Key") and not call.has("X-Auth-Token")


def test_not_in_the_query(site):
    """A key in a URL ends in histories and logs: it opens nothing."""
    for query in ("?key=", "?api_key=", "?api-key=", "?access_token="):
        assert site.proxy.post(CHAT + query + WRONG, BODY).status == 401
        assert site.proxy.get("/v1/models" + query + ALICE).status == 401


def test_key_by_digest(site):
    reply = site.ask(bearer(CAROL), "gpt-x")
    assert reply.status == 200 and len(site.c.calls) == 1


@pytest.mark.parametrize("path", ["/internal/health", "/internal/status", "/internal/status/models", "/internal/stats/sticky", "/version"])
def test_open_on_this_machine(site, path):
    assert site.proxy.get(path).status == 200
    assert site.proxy.get(path, bearer(WRONG)).status == 200
    assert site.proxy.get("/internal/../v1/models").status == 401
    assert site.proxy.get("/internal/%2e%2e/v1/models").status == 401
    assert site.proxy.get("/internalx").status == 401


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            address = sock.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    return None if address.startswith("127.") else address


@pytest.mark.skipif(own_address() is None, reason="this machine has no address but its own")
def test_from_the_network(world):
    """Others need a key for everything but the health page, which shows nothing."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": backend}, {"server.host": "0.0.0.0", "key:alice.secret": ALICE, "key:alice.models": "m*"})
    for path in ("/internal/status", "/internal/status/models", "/internal/stats/sticky", "/version", "/v1/models", "/internal/x"):
        with Client(proxy.port, host=own_address()) as client:
            assert client.request("GET", path).status == 401
            assert client.request("POST", "/internal/health", b"").status == 401
            assert client.request("GET", "/internal/health").status == 200
            assert client.request("HEAD", "/internal/health").status == 200
            assert client.request("GET", path, headers=bearer(ALICE)).status == (404 if path == "/internal/x" else 200)


# ---- connections

def test_keep_alive_without_a_body(site):
    """A refused request without a body does not cost the connection."""
    client = site.world.client(site.proxy)
    for _ in range(3):
        reply = client.request("GET", "/v1/models")
        assert reply.status == 401 and not reply.has("Connection")
        assert client.request("GET", "/v1/models", headers=bearer(ALICE)).status == 200
    assert client.request("POST", CHAT, b"").status == 401
    assert client.request("GET", REALTIME, headers=ASK).status == 401
    assert client.request("GET", "/v1/models", headers=bearer(ALICE)).status == 200


@pytest.mark.parametrize("how", ["whole", "part", "huge", "chunked"])
def test_body_is_not_read(site, how):
    """Refused at the head: nobody fills the memory who may not come in, and the rest is not taken for a request."""
    inner = request_bytes("GET", "/v1/models", bearer(ALICE))
    client = site.world.client(site.proxy)
    if how == "whole":
        client.send(request_bytes("POST", CHAT, json_headers(), inner))
    elif how == "part":
        client.send(request_bytes("POST", CHAT, json_headers([("Content-Length", "5000")])) + b"{")
    elif how == "huge":
        client.send(request_bytes("POST", CHAT, json_headers([("Content-Length", "90000000")])))
    else:
        client.send(request_bytes("POST", CHAT, json_headers([("Transfer-Encoding", "chunked")]), chunked(inner)))
    reply = client.read_response("POST")
    assert reply.status == 401 and reply.get("Connection") == "close"
    assert client.read_eof() == b""
    assert not site.calls


def test_no_100_before_401(site):
    """Who waits to be asked for the body is told before he sends it; with a key he is asked."""
    client = site.world.client(site.proxy)
    headers = json_headers([("Expect", "100-continue"), ("Content-Length", str(len(dump(BODY))))])
    client.send(request_bytes("POST", CHAT, headers))
    assert client.read_response("POST").status == 401
    client = site.world.client(site.proxy)
    client.send(request_bytes("POST", CHAT, headers + bearer(ALICE)))
    assert client.read_head("POST").status == 100
    client.send(dump(BODY))
    assert client.read_response("POST").status == 200


def test_pipelined_requests_with_different_keys(site):
    """Each request is judged by its own key."""
    client = site.world.client(site.proxy)
    asked = [(ALICE, 4), (BOB, 3), (WRONG, None), (CAROL, 1), (None, None), (ALICE, 4)]
    client.send(b"".join(request_bytes("GET", "/v1/models", bearer(key) if key else []) for key, _ in asked))
    for key, count in asked:
        reply = client.read_response()
        assert reply.status == (401 if count is None else 200)
        if key == ALICE:
            assert names(reply) == ["gpt-x", "llama-1", "llama-2", "qwen:7b", "swift", "other"]
        elif count is not None:
            assert len(names(reply)) == count


# ---- models

@pytest.mark.parametrize("path,check", [(CHAT, check_openai), ("/api/chat", check_ollama), ("/v1/messages", check_anthropic),
                                        ("/olla/anthropic/v1/messages", check_anthropic), ("/olla/proxy" + CHAT, check_openai),
                                        ("/olla/proxy/generate", check_plain)], ids=lambda v: v if isinstance(v, str) else "")
def test_model_that_the_key_is_not_for(site, path, check):
    request_id = new_id()
    client = site.world.client(site.proxy)
    reply = client.post(path, dict(BODY, model="qwen:7b"), bearer(BOB) + [("X-Request-ID", request_id)])
    assert reply.status == 403, reply.body
    check(reply, "permission_error", "model_not_allowed")
    assert "bob" in reply.text() and "qwen:7b" in reply.text()
    assert not site.calls
    line = site.proxy.access(request_id)
    assert (line["status"], line["end"], line["key"]) == (403, "PR", "bob")
    assert client.post(CHAT, BODY, bearer(BOB)).status == 200  # the body was read, so the connection goes on


@pytest.mark.parametrize("model,status", [("llama-1", 200), ("LLAMA-2", 200), ("swift", 200), ("Swift", 200), ("other", 403),
                                          ("gpt-x", 403), ("qwen:7b", 403), ("", 403), ("llama-9", 404), ("nobody", 403)])
def test_globs_and_aliases(site, model, status):
    """The name that is asked for counts: an alias opens what it stands for, and only by its own name."""
    assert site.ask(bearer(BOB), model).status == status
    assert site.ask(bearer(BOB), model, "/api/chat").status == status


def test_no_hint_of_other_models(site):
    """The names that are like the one that is not found may be none of theirs."""
    reply = site.ask(bearer(BOB), "llama-3")
    assert reply.status == 404 and "mean" not in reply.text()
    assert "did you mean" in site.ask(bearer(ALICE), "llama-3").text()


def test_requests_without_a_model(site):
    """A server would take its own: a key for certain models is not enough."""
    body = {k: v for k, v in BODY.items() if k != "model"}
    for key, status in ((ALICE, 200), (BOB, 403)):
        assert site.proxy.post(CHAT, body, bearer(key)).status == status
        assert site.proxy.request("POST", CHAT, b"x=" + dump(BODY), bearer(key) + [("Content-Type", "text/plain")]).status == status
        assert (site.proxy.request("POST", "/v1/files", dump(BODY), bearer(key) + [("Content-Type", "text/plain")]).status == 403) == (status == 403)
    for extra in ('"Model":"qwen:7b"', '"mod\\u0065l":"qwen:7b"', '"MODEL":["qwen:7b"]'):
        raw = ('{"model":"llama-1",%s,"messages":[]}' % extra).encode()
        assert site.proxy.request("POST", CHAT, raw, json_headers(bearer(BOB))).status == 400
    assert site.proxy.post("/api/show", {"name": "qwen:7b"}, bearer(BOB)).status == 403
    assert site.proxy.post("/api/show", {"name": "llama-1"}, bearer(BOB)).status == 200


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("ctype", [FORM, FORM + "; a=application/json", None, "text/plain", "multipart/form-data", "application/json; charset=utf-8"])
def test_json_that_is_called_something_else(site, ctype):
    """It is judged as JSON, and as JSON the server hears it: read as a form, the same bytes may name another model."""
    def ask(path, body):
        site.o.forget()
        return site.proxy.request("POST", path, body, bearer(BOB) + ([("Content-Type", ctype)] if ctype else []))
    both = dict(BODY, x="&model=qwen:7b&y=")
    for path in (CHAT, "/api/chat", "/v1/messages"):
        assert ask(path, dump(dict(both, model="llama-1"))).status == 200
        called = site.o.calls[-1].get_all("Content-Type")
        if path == "/v1/messages":  # the server's own, or told anew
            assert len(called) == 1 and called[0].startswith("application/json")
        else:
            assert called == [ctype if ctype and ctype.startswith("application/json") else "application/json"]
        for body in (dict(both, model="qwen:7b"), {"messages": BODY["messages"], "max_tokens": 5}):
            assert ask(path, dump(body)).status in (400, 403) and not site.o.calls, path
        if path != "/v1/messages":
            for raw in (b"model=llama-1", b"model=qwen:7b", b'x={"model":"llama-1"}', b'&{"model":"llama-1"}&model=qwen:7b'):
                assert ask(path, raw).status == 403 and not site.o.calls, raw
            assert ask(path, b'{"model":"llama-1","Model":"qwen:7b"}').status == 400 and not site.o.calls


@pytest.mark.parametrize("method,path,body", [
    ("GET", "/api/tags", None), ("GET", "/api/tags", {"model": "llama-1"}), ("GET", "/api/ps", None),
    ("POST", "/api/copy", {"source": "qwen:7b", "destination": "llama-1", "model": "llama-1"}),
    ("POST", "/api/pull", {"model": "llama-1"}), ("DELETE", "/api/delete", {"model": "llama-1"}),
    ("POST", "/olla/ollama/api/copy", {"source": "qwen:7b", "destination": "x"})], ids=str)
def test_one_machine_by_name(site, method, path, body):
    """What is asked of one machine is about all its models: a key for certain models is not enough, whatever the body says."""
    def ask(key):
        headers = bearer(key) + [("X-Olla-Endpoint", "o")]
        return site.proxy.request(method, path, dump(body) if body else b"", json_headers(headers) if body else headers)
    reply = ask(BOB)
    if reply.status == 200:  # olla's own list, which holds what the key is for
        assert not site.o.calls and "qwen" not in reply.text() and "llama-2" not in reply.json().get("models", [])
    else:
        assert reply.status == 403 and not site.calls
    assert ask(ALICE).status not in (401, 403) and ask(DAVE).status not in (401, 403)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_body_of_another_method(site, method):
    """Servers throw the body of a GET away, or not: the model in it tells nothing."""
    reply = site.proxy.request(method, "/olla/proxy/v1/files/1", dump(BODY), json_headers(bearer(BOB)))
    assert reply.status in (403, 405) and not site.calls
    assert site.proxy.request(method, "/olla/proxy/v1/files/1", dump(BODY), json_headers(bearer(ALICE))).status not in (401, 403)


def test_preamble_of_a_form(site):
    """Some servers take what stands in front of the first boundary for a part."""
    site.c.on("/v1/audio/transcriptions", lambda c, r: c.reply({"text": "x"}))
    part = "Content-Disposition: form-data; name=\"model\"\r\n\r\n%s\r\n"
    for front, status in (("", 200), ("\r\n", 200), ("x\r\n", 403), (part % "llama-1", 403), (" ", 403)):
        site.c.forget()
        reply = site.proxy.request("POST", "/v1/audio/transcriptions", (front + "--B\r\n" + part % "gpt-x" + "--B--\r\n").encode(),
                                   bearer(CAROL) + [("Content-Type", "multipart/form-data; boundary=B")])
        assert (reply.status, len(site.c.calls)) == (status, int(status == 200)), front


@pytest.mark.parametrize("query", ["model=gpt-x&model=llama-1", "model=gpt-x&m%6fdel=llama-1", "m%6Fdel=gpt-x", "%6dodel=llama-1&model=gpt-x",
                                   "model&model=gpt-x", "x=1&model=gpt-x&y=2&model=gpt-x"])
def test_two_models_in_the_query(site, query):
    site.c.on(REALTIME, echo)
    for key in (CAROL, ALICE):
        reply = site.world.client(site.proxy).request("GET", REALTIME + "?" + query, headers=ASK + bearer(key))
        assert reply.status == 400 and "twice" in reply.text() and not site.calls


def test_form(site):
    def form(model):
        return ("--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n%s\r\n--B\r\nContent-Disposition: form-data; "
                "name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--B--\r\n" % model).encode()
    site.c.on("/v1/audio/transcriptions", lambda c, r: c.reply({"text": "x"}))
    for key, model, status in ((CAROL, "gpt-x", 200), (CAROL, "llama-1", 403), (BOB, "gpt-x", 403)):
        reply = site.proxy.request("POST", "/v1/audio/transcriptions", form(model),
                                   bearer(key) + [("Content-Type", "multipart/form-data; boundary=B")])
        assert reply.status == status, reply.body


LISTS = ["/v1/models", "/api/tags", "/olla/models", "/olla/proxy/v1/models", "/olla/ollama/v1/models", "/olla/ollama/api/tags",
         "/olla/openai/v1/models", "/olla/anthropic/v1/models", "/olla/models?format=ollama", "/olla/models?format=lmstudio"]


@pytest.mark.parametrize("path", LISTS)
def test_listings(site, path):
    everything = names(site.proxy.get(path, bearer(ALICE)))
    allowed = {BOB: ("llama-1", "llama-2", "swift"), CAROL: ("gpt-x",), DAVE: tuple(everything)}
    for key, wanted in allowed.items():
        reply = site.proxy.get(path, bearer(key))
        assert reply.status == 200 and names(reply) == [n for n in everything if n in wanted]
        if key == BOB:
            aliases = [a for m in reply.json().get("data", []) for a in (m.get("olla") or {}).get("aliases", [])]
            assert "qwen:7b" not in aliases and "other" not in aliases
            assert "gpt-x" not in reply.text()


def test_anthropic_pages(site):
    seen, after = [], ""
    while True:
        page = site.proxy.get("/olla/anthropic/v1/models?limit=1" + after, bearer(BOB)).json()
        seen += [m["id"] for m in page["data"]]
        if not page["has_more"]:
            break
        after = "&after_id=" + page["last_id"]
    assert seen == ["llama-1", "llama-2", "swift"] and page["first_id"] == "swift"


@pytest.mark.parametrize("name,status", [("llama-1", 200), ("swift", 200), ("other", 404), ("qwen:7b", 404), ("gpt-x", 404)])
def test_one_model(site, name, status):
    for path in ("/v1/models/", "/olla/models/"):
        assert site.proxy.get(path + name, bearer(ALICE)).status == 200
        reply = site.proxy.get(path + name, bearer(BOB))
        assert reply.status == status and "qwen" not in reply.text()


def test_running_models(site):
    assert [m["name"] for m in site.proxy.get("/api/ps", bearer(ALICE)).json()["models"]] == ["llama-1", "qwen:7b"]
    assert [m["name"] for m in site.proxy.get("/api/ps", bearer(BOB)).json()["models"]] == ["llama-1"]
    assert site.proxy.get("/api/ps", bearer(CAROL)).json() == {"models": [], "olla": {"missing": []}}


@pytest.mark.skipif(own_address() is None, reason="this machine has no address but its own")
def test_status_of_models(world):
    """From the network a key sees its own models; families without any are left out; a page is not taken for another key's."""
    backend = world.backend(Ollama, "o", ["llama-1", "qwen:7b", "phi:2b"])
    backend.loaded = []
    proxy = world.olla({"o": rarely_probed(backend)}, {"server.host": "0.0.0.0", "key:a.secret": ALICE, "key:b.secret": BOB,
                                                       "key:b.models": "llama*, phi*", "key:c.secret": CAROL, "key:c.models": "x"},
                       ready={"o": 3})
    path = "/internal/status/models?detailed=true&group=family"
    with Client(proxy.port, host=own_address()) as client:
        for key, wanted in ((ALICE, {"llama-1", "qwen:7b", "phi:2b"}), (BOB, {"llama-1", "phi:2b"}), (CAROL, set())):
            reply = client.request("GET", path, headers=bearer(key))
            document = reply.json()
            assert {m for family in document["models_by_family"].values() for m in family} == wanted
            assert all(document["models_by_family"].values())
            assert {m["name"] for m in document["recent_models"]} == wanted
            assert {m["name"] for g in document["model_groups"] for m in g["models"]} == wanted
            assert document["total_models"] == len(wanted) and document["total_families"] == len(document["models_by_family"])
            for other in (ALICE, BOB, CAROL):
                again = client.request("GET", path, headers=bearer(other) + [("If-None-Match", reply.get("ETag"))])
                assert again.status == (304 if other == key else 200)


# ---- WebSocket

@pytest.mark.parametrize("offered,arrives", [
    ("realtime, openai-insecure-api-key.%s, openai-beta.realtime-v1", ["realtime, openai-beta.realtime-v1"]),
    ("olla-api-key.%s,realtime", ["realtime"]), ("olla-api-key.%s", []),
    (" ,, realtime ,olla-api-key.%s, , x ", ["realtime, x"])])
def test_key_in_the_subprotocol(site, offered, arrives):
    """Browsers can send no header with a WebSocket. The key goes no further."""
    site.c.on(REALTIME, echo)
    client = site.world.client(site.proxy)
    client.send(request_bytes("GET", REALTIME + "?model=gpt-x", ASK + [("Sec-WebSocket-Protocol", offered % CAROL)]))
    assert client.read_head().status == 101
    both_ways(client)
    assert site.c.calls[0].get_all("Sec-WebSocket-Protocol") == arrives


def test_subprotocol_of_two_lines_and_more_keys(site):
    """Whatever looks like a key stays here, also if another one let the request in."""
    site.c.on(REALTIME, echo)
    client = site.world.client(site.proxy)
    client.send(request_bytes("GET", REALTIME + "?model=gpt-x", ASK + bearer(ALICE) + [
        ("Sec-WebSocket-Protocol", "realtime"), ("sec-websocket-protocol", "openai-insecure-api-key." + WRONG + ", two")]))
    assert client.read_head().status == 101
    both_ways(client)
    assert site.c.calls[0].get_all("Sec-WebSocket-Protocol") == ["realtime", "two"]


@pytest.mark.parametrize("model,protocol,status", [("gpt-x", WRONG, 401), ("llama-1", CAROL, 403), (None, CAROL, 403), ("gpt-x", "", 401)])
def test_upgrade_refused(site, model, protocol, status):
    """Refused as any request, and the connection can be used again."""
    client = site.world.client(site.proxy)
    target = REALTIME + ("?model=" + model if model else "")
    reply = client.request("GET", target, headers=ASK + [("Sec-WebSocket-Protocol", "realtime, olla-api-key." + protocol)])
    assert reply.status == status and not reply.has("Upgrade")
    assert client.request("GET", "/v1/models", headers=bearer(ALICE)).status == 200
    assert not site.calls


def test_without_keys_the_subprotocol_passes(world):
    """Where olla has no keys it is the server's business, as before."""
    backend = world.backend(Compatible, "c", ["gpt-x"])
    backend.on(REALTIME, echo)
    proxy = world.olla({"c": rarely_probed(backend)})
    client = world.client(proxy)
    offered = "realtime, olla-api-key.abc,openai-insecure-api-key.def"
    client.send(request_bytes("GET", REALTIME + "?model=gpt-x", ASK + [("Sec-WebSocket-Protocol", offered)]))
    assert client.read_head().status == 101
    assert backend.calls[0].get_all("Sec-WebSocket-Protocol") == [offered]
    assert proxy.post(CHAT, dict(BODY, model="gpt-x")).status == 200
    assert proxy.get("/v1/models", bearer("whatever")).status == 200


# ---- classes

def test_classes_in_the_waiting_line(world):
    """The key's class is the place in line; a request may ask for a lower one only."""
    line = Line(world)
    turns = line.server()
    keys = {"key:%s.%s" % (name, what): value for name, key in (("high", ALICE), ("normal", BOB), ("low", CAROL))
            for what, value in (("secret", key), ("class", name))}
    line.start(keys)
    try:
        line.hold(headers=dict(bearer(ALICE)))
        for tag, key, how in (("low-1", CAROL, None), ("low-2", CAROL, "high"), ("normal-1", BOB, "high"), ("normal-2", BOB, None),
                              ("low-3", BOB, "low"), ("high-1", ALICE, None), ("low-4", ALICE, "low"), ("normal-3", ALICE, "Normal"),
                              ("high-2", ALICE, "urgent!"), ("high-3", ALICE, "high")):
            line.wait_in_line(tag, how=how, headers=dict(bearer(key)))
    finally:
        turns.release_all()
    line.served(*line.clients)
    assert turns.order == ["hold", "high-1", "high-2", "high-3", "normal-1", "normal-2", "normal-3", "low-1", "low-2", "low-3", "low-4"]


# ---- requests per minute

def limited(world, rate, **more):
    backend = world.backend(Ollama, "o", ["m1"])
    return world.olla({"o": rarely_probed(backend)}, dict({"key:a.secret": ALICE, "key:a.requests_per_minute": rate,
                                                           "key:b.secret": BOB}, **more)), backend


@pytest.mark.parametrize("path,check", [(CHAT, check_openai), ("/api/chat", check_ollama), ("/v1/messages", check_anthropic),
                                        ("/olla/proxy/other", check_plain)], ids=lambda v: v if isinstance(v, str) else "")
def test_requests_per_minute(world, path, check):
    """As many at once as a minute has; then 429 with the time until the next one. Lists cost nothing, other keys neither."""
    proxy, backend = limited(world, 3)
    for n in range(3):
        assert proxy.get("/v1/models", bearer(ALICE)).status == 200
        assert proxy.post(CHAT, dict(BODY, model="m1"), bearer(ALICE)).status == 200
    request_id = new_id()
    reply = proxy.post(path, dict(BODY, model="m1"), bearer(ALICE) + [("X-Request-ID", request_id)])
    assert reply.status == 429
    check(reply, "rate_limit_error", "rate_limit_exceeded")
    assert 18 <= int(reply.get("Retry-After")) <= 20
    line = proxy.access(request_id)
    assert (line["status"], line["end"], line["key"]) == (429, "PR", "a")
    assert proxy.get("/v1/models", bearer(ALICE)).status == 200
    assert proxy.post(CHAT, dict(BODY, model="m1"), bearer(BOB)).status == 200
    assert len(backend.calls) == 4


def test_rate_comes_back(world):
    """After Retry-After it works again; a reload gives nothing away."""
    proxy, backend = limited(world, 60)
    statuses = [proxy.post(CHAT, dict(BODY, model="m1"), bearer(ALICE)).status for _ in range(75)]
    assert statuses[:60] == [200] * 60 and 429 in statuses
    proxy.signal(signal.SIGHUP)
    proxy.wait_log("configuration reloaded")
    eventually(lambda: proxy.post(CHAT, dict(BODY, model="m1"), bearer(ALICE)).status == 429, "none is left", 5)
    reply = proxy.post(CHAT, dict(BODY, model="m1"), bearer(ALICE))
    while reply.status != 429:
        reply = proxy.post(CHAT, dict(BODY, model="m1"), bearer(ALICE))
    assert reply.get("Retry-After") == "1"
    time.sleep(1.05)
    assert proxy.post(CHAT, dict(BODY, model="m1"), bearer(ALICE)).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/olla/models", "/api/tags", "/v1/models/m1", CHAT])
def test_trying_keys_is_limited(world, path):
    """Wrong keys count against the address on every path, right ones and no key only where they make work."""
    proxy, backend = limited(world, 0, **{"server.rate_limits.per_ip_requests_per_minute": 3,
                                          "server.rate_limits.burst_size": 3})
    if path != CHAT:
        assert [proxy.get(path, bearer(BOB)).status for _ in range(9)] == [200] * 9
        assert [proxy.get(path).status for _ in range(9)] == [401] * 9
    method = "POST" if path == CHAT else "GET"
    guesses = [proxy.request(method, path, b"", bearer(WRONG + str(n))).status for n in range(9)]
    assert guesses[:3] == [401] * 3 and 429 in guesses and guesses[-1] == 429
    if path != CHAT:
        assert proxy.get(path, bearer(BOB)).status == 200
    assert not backend.calls


# ---- reload

def test_key_removed_while_a_stream_runs(world):
    """What runs goes on to its end, under its name; the next request is refused, on the same connection too."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    gate = Gate()

    def stream(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        gate.wait(20)
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()
    backend.on(CHAT, stream)
    spec = {"a": rarely_probed(backend)}
    proxy = world.olla(spec, {"key:alice.secret": ALICE, "key:bob.secret": BOB})
    client, request_id = world.client(proxy), new_id()
    client.start_post(CHAT, {"model": "m1", "stream": True}, bearer(ALICE) + [("X-Request-ID", request_id)])
    reply = client.read_head("POST")
    reply.read_at_least(10)
    proxy.reload(spec, {"key:bob.secret": BOB})
    proxy.wait_log("configuration reloaded")
    assert proxy.get("/v1/models", bearer(ALICE)).status == 401
    assert proxy.get("/v1/models", bearer(BOB)).status == 200
    gate.open()
    assert reply.read_rest().complete and reply.body.endswith(b"data: [DONE]\n\n")
    assert proxy.access(request_id)["key"] == "alice"
    assert client.request("GET", "/v1/models", headers=bearer(ALICE)).status == 401


def test_key_removed_while_the_body_comes(world):
    """What has begun goes on; but the list of a key that is gone is gone, too, and then no model is on it."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    spec = {"a": rarely_probed(backend)}
    proxy = world.olla(spec, {"key:alice.secret": ALICE, "key:bob.secret": BOB, "key:bob.models": "m*"})
    body, clients = dump(dict(BODY, model="m1")), []
    for key in (ALICE, BOB):
        clients.append(world.client(proxy))
        clients[-1].send(request_bytes("POST", CHAT, json_headers(bearer(key) + [("Content-Length", str(len(body)))])) + body[:5])
    eventually(lambda: proxy.pool("exchanges")["used"] == 3, "the requests have begun")
    proxy.reload(spec, {"key:carol.secret": CAROL})
    proxy.wait_log("configuration reloaded")
    for client, status in zip(clients, (200, 403)):
        client.send(body[5:])
        assert client.read_response("POST").status == status
    assert len(backend.calls) == 1


def test_reload_opens_and_closes(world, tmp_path):
    """Keys come and go; a new secret in the same file counts after a reload; a bad one changes nothing."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    secret, spec = tmp_path / "secret", {"a": rarely_probed(backend)}
    settings = {"key:a.secret_file": secret}
    secret.write_text(ALICE)
    proxy = world.olla(spec)
    assert proxy.get("/v1/models").status == 200
    proxy.reload(spec, settings)
    eventually(lambda: proxy.get("/v1/models").status == 401, "a key is needed")
    assert proxy.get("/v1/models", bearer(ALICE)).status == 200
    secret.write_text(BOB + "\n")
    assert proxy.get("/v1/models", bearer(BOB)).status == 401
    proxy.reload(spec, settings)
    eventually(lambda: proxy.get("/v1/models", bearer(BOB)).status == 200, "the new secret is in force")
    assert proxy.get("/v1/models", bearer(ALICE)).status == 401
    secret.unlink()
    proxy.allowed_errors = ["secret_file", "reload refused"]
    proxy.reload(spec, settings)
    proxy.wait_log("reload refused, the old configuration stays in force")
    assert proxy.get("/v1/models", bearer(BOB)).status == 200 and proxy.get("/v1/models").status == 401
    proxy.reload(spec)
    eventually(lambda: proxy.get("/v1/models").status == 200, "open again")
    assert not [s for s in (ALICE, BOB) if s in json.dumps(proxy.logs)]


# ---- who listens to the network without keys

def warnings(proxy):
    return [entry for entry in proxy.find_logs(level="WARN") if "anybody" in entry["msg"]]


def test_warning_of_an_open_door(world):
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    spec, wide = {"a": rarely_probed(backend)}, {"server.host": "0.0.0.0"}
    proxy = world.olla(spec, wide)
    eventually(lambda: warnings(proxy), "the warning")
    assert len(warnings(proxy)) == 1 and "[key:NAME]" in warnings(proxy)[0]["remedy"] and "server.host" in warnings(proxy)[0]["remedy"]
    proxy.reload(spec, wide)
    eventually(lambda: len(proxy.find_logs("configuration reloaded")) == 1, "reloaded")
    proxy.reload(spec, dict(wide, **{"key:a.secret": ALICE}))
    eventually(lambda: proxy.get("/v1/models").status == 401, "closed")
    assert len(warnings(proxy)) == 1
    proxy.reload(spec, wide)
    eventually(lambda: len(warnings(proxy)) == 2, "said again: it is open again")
    for closed in (world.olla(spec), world.olla(spec, dict(wide, **{"key:a.secret": ALICE}))):
        closed.signal(signal.SIGHUP)
        closed.wait_log("configuration reloaded")  # whatever the start has to say was said before
        assert not warnings(closed)


# ---- the command line

def hash_key(data):
    done = subprocess.run([BINARY, "--hash-key"], input=data, env=clean_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("data", [ALICE.encode(), ALICE.encode() + b"\n", ALICE.encode() + b"\r\nmore\n", b"  " + ALICE.encode() + b" \n"])
def test_hash_key(binary, data):
    assert hash_key(data) == (0, hexed(ALICE).encode() + b"\n", b"")


@pytest.mark.parametrize("data", [b"", b"\n", b"  \n", b"two words\n", b"\x00\n", "sk-\u00e4\u00f6\u00fc-123".encode(), b"x" * 5000])
def test_hash_key_refuses(binary, data):
    code, out, err = hash_key(data)
    assert (code, out) == (2, b"") and err.startswith(b"olla: --hash-key: ") and err.count(b"\n") == 1


def test_hash_key_short(binary):
    code, out, err = hash_key(b"abc\n")
    assert (code, out) == (0, hexed("abc").encode() + b"\n") and b"guess" in err


def test_help_names_it(binary):
    assert "--hash-key" in run_cli("--help")[1]


@pytest.mark.parametrize("keys,where,what", [
    ({"key:a.models": "x"}, 5, "no secret"),
    ({"key:a.secret": ALICE, "key:a.secret_sha256": hexed(BOB)}, 7, "a second secret"),
    ({"key:a.secret": ALICE, "key:b.secret": ALICE}, 8, "the same secret as that of the key in line 5"),
    ({"key:a.secret": ALICE, "key:b.secret_sha256": hexed(ALICE)}, 8, "the same secret as that of the key in line 5"),
    ({"key:a.secret": ALICE + " x"}, 6, "blanks"),
    ({"key:a.secret_sha256": ALICE}, 6, "64 hex digits"),
    ({"key:a.secret_file": "/nonexistent/key"}, 6, "No such file"),
    ({"key:a.secret": ALICE, "key:a.class": "first"}, 7, "high, normal, low"),
], ids=str)
def test_errors_of_configuration(binary, tmp_path, keys, where, what):
    """File, line, key and remedy, but never the secret."""
    path = tmp_path / "my.ini"
    path.write_text(build_config(1, {}, keys))
    code, out, err = run_cli("-t", "-c", path)
    assert code == 1
    assert any(("%s:%d: key:" % (path, where)) in text and what in text for text in err.splitlines()), err
    assert not any(s in out + err for s in SECRETS)


def test_short_secret_is_a_warning(binary, tmp_path):
    path = tmp_path / "my.ini"
    path.write_text(build_config(1, {}, {"key:a.secret": "1234567"}))
    code, out, err = run_cli("-t", "-c", path)
    assert code == 0 and "%s:6: key:a.secret: easy to guess" % path in err and "1234567" not in err
