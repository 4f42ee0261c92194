"""Which endpoint gets a request: the model in the body, prefixes, balancers, errors that name the reason."""

import pytest

from backend import (MARK, DeadPort, Gate, LlamaBackend, LmStudioBackend, OllamaBackend, OpenAIBackend, VllmBackend,
                     eventually)
from client import dump, full_body, request_bytes
from harness import endpoint

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"


def raw_post(proxy, body, target=PATH, ctype="application/json"):
    return proxy.request("POST", target, body, {"Content-Type": ctype})


# ---- where the model sits

MESSAGES = [{"role": "user", "content": "hello \"model\": \"m-lla\" {\"model\":\"m-lla\"}"}]

BODIES = {
    "first": b'{"model":"m-oai","messages":[]}',
    "last": dump({"messages": MESSAGES, "stream": False, "model": "m-oai"}),
    "only": b'{"model":"m-oai"}',
    "blanks": b' \r\n\t{ "messages" : [ ] , \n "model"\t:\r\n "m-oai" } \n',
    "nested-before": b'{"a":{"model":"m-lla"},"b":[{"model":"m-lla"}],"model":"m-oai"}',
    "nested-after": b'{"model":"m-oai","a":{"model":"m-lla"},"b":[[{"model":"m-lla"}]]}',
    "in-a-string": b'{"x":"\\"model\\":\\"m-lla\\"","model":"m-oai"}',
    "after-escaped-quote": b'{"x":"\\\\","y":"\\"","model":"m-oai"}',
    "as-a-value": b'{"x":"model","y":["model","m-lla"],"model":"m-oai"}',
    "escaped-value": b'{"model":"m\\u002doai"}',
    "escaped-key": b'{"\\u006dodel":"m-oai"}',
    "longer-key": b'{"models":"m-lla","model_x":"m-lla","xmodel":"m-lla","model":"m-oai"}',
    "bom": b'\xef\xbb\xbf{"model":"m-oai"}',
    "deep": b'{"x":' + b"[" * 60 + b"]" * 60 + b',"model":"m-oai"}',
    "very-deep": b'{"x":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b',"model":"m-oai"}',
    "after-numbers": b'{"n":-1.5e+10,"t":true,"f":false,"z":null,"model":"m-oai"}',
    "braces-in-strings": b'{"x":"}}}]]","y":"{{[[","model":"m-oai"}',
    "after-a-megabyte": b'{"messages":[{"content":"' + b"x" * 1200000 + b'"}],"model":"m-oai"}',
    "unicode-before": '{"x":"\u00e4\u20ac\U0001f600","model":"m-oai"}'.encode(),
    "surrogates-before": b'{"x":"\\ud83d\\ude00 \\ud800","model":"m-oai"}',
    "charset": b'{"model":"m-oai"}',
}


@pytest.mark.parametrize("name", list(BODIES))
def test_model_position(site, name):
    """Official clients put `model` behind megabytes of messages; a scanner that guesses picks the wrong server."""
    ctype = "Application/JSON; charset=utf-8" if name == "charset" else "application/json"
    body = BODIES[name]
    site.oai.on(CHAT, lambda c, r: c.reply({"ok": 1}))
    reply = raw_post(site.proxy, body, ctype=ctype)
    assert reply.status == 200, reply.body
    assert reply.get("X-Olla-Endpoint") == "oai"
    assert reply.get("X-Olla-Model").lower() == "m-oai"
    plain = body.replace(b"m\\u002doai", b"m-oai")  # a name spelled with escapes may be written plainly
    assert [call.body for call in site.calls] in ([body], [plain]), "the body must be forwarded unchanged"


def test_model_in_another_case(site):
    """Found in spite of its case: the body goes out as it is, or with the server's own spelling, and still framed right."""
    body = b'{"a":"M-OAI","model":"M-OAI","b":"M-OAI"}'
    reply = raw_post(site.proxy, body)
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "oai" and reply.get("X-Olla-Model") == "M-OAI"
    call = site.calls[0]
    assert call.body in (body, b'{"a":"M-OAI","model":"m-oai","b":"M-OAI"}')
    assert call.get_all("Content-Length") == [str(len(call.body))]


@pytest.mark.parametrize("second", [b'"model":"m-lla"', b'"model":"m-oai"', b'"\\u006dodel":"m-lla"', b'"model":null'],
                         ids=["different", "equal", "escaped", "null"])
def test_two_models_are_refused(site, second):
    """Two `model` keys: the proxy would route by one and the backend answer for the other."""
    reply = raw_post(site.proxy, b'{"model":"m-oai","x":1,' + second + b"}")
    assert reply.status == 400
    assert "model" in reply.json()["error"]["message"]
    assert site.calls == []


@pytest.mark.parametrize("body,ctype", [(b'{"messages":[]}', "application/json"), (b"", "application/json"),
                                        (b"[]", "application/json"), (b'"model"', "application/json"),
                                        (b'{"model":null}', "application/json"), (b"not json at all", "application/json"),
                                        (b'{"model":', "application/json"), (b'[{"model":"nope"}]', "application/json"),
                                        (b"binary\0\xff", "application/octet-stream"), (b"plain", "text/plain")],
                         ids=["none", "empty", "list", "string", "null", "garbage", "cut", "in-list", "binary", "text"])
def test_without_a_model(site, body, ctype):
    """No model, or no JSON at all, is not ours to judge: any healthy endpoint gets the body as it is."""
    for server in site.servers:
        server.on("/v1/anything", lambda c, r: c.reply(b"ok", ctype="text/plain"))
    reply = raw_post(site.proxy, body, "/olla/proxy/v1/anything", ctype)
    assert (reply.status, reply.body) == (200, b"ok")
    assert not reply.has("X-Olla-Model") and not reply.has("X-Olla-Routing-Decision")
    assert [call.body for call in site.calls] == [body]


@pytest.mark.parametrize("name", ["x" * 128, "x" * 5000, "x" * 100000, "", " ", "m-oai\0", "m-oai\nx", "m oai", "'; --", "\u00fc" * 70])
def test_odd_model_names(site, name):
    """Names that are too long, or nothing but blanks, must be told apart from those that exist."""
    reply = site.proxy.post(PATH, {"model": name})
    if name.strip():
        assert reply.status in (400, 404) and site.calls == []
        assert len(reply.body) < 2000, "the whole endless name is echoed"
        assert reply.json()["error"]["message"]
    else:
        assert reply.status in (200, 400, 404)


@pytest.mark.parametrize("value", [b"5", b"true", b"[]", b'{"model":"m-oai"}', b'["m-oai"]'])
def test_model_of_another_type(site, value):
    """A `model` that is no string has no meaning here: the backend's own error, or ours, but no crash."""
    reply = raw_post(site.proxy, b'{"model":' + value + b"}")
    assert reply.status in (200, 400)
    assert len(site.calls) == (1 if reply.status == 200 else 0)


# ---- strict routing

def test_unknown_model(site):
    """A typo must be answered with 404 and a hint, not sent to a server that does not have the model."""
    reply = site.proxy.post(PATH, {"model": "m-oaj"})
    assert reply.status == 404
    error = reply.json()["error"]
    assert error["code"] == "model_not_found" and error["param"] is None and error["type"]
    assert "m-oaj" in error["message"] and "m-oai" in error["message"], "near names help"
    assert reply.get("X-Olla-Routing-Strategy") == "strict"
    assert reply.get("X-Olla-Routing-Decision") == "rejected"
    assert reply.get("X-Olla-Routing-Reason") == "model_not_found"
    assert reply.has("X-Olla-Request-ID") and not reply.has("X-Olla-Endpoint")
    assert site.calls == []


def test_known_model(site):
    """The three routing headers tell why a server was chosen."""
    reply = site.proxy.post(PATH, {"model": "m-oai"})
    assert [reply.get("X-Olla-Routing-" + n) for n in ("Strategy", "Decision", "Reason")] == ["strict", "routed", "model_found"]


def test_known_but_unavailable(world):
    """A model whose only server is down is unavailable (503), not unknown (404)."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m2"])
    proxy = world.olla({"a": endpoint(a, check_interval="1s", check_timeout="500ms"), "b": b})
    a.stop()
    proxy.wait_down("a")
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.status == 503
    assert reply.json()["error"]["code"] == "model_unavailable" and "m1" in reply.json()["error"]["message"]
    assert reply.get("X-Olla-Routing-Decision") == "rejected"
    assert reply.get("X-Olla-Routing-Reason") == "model_unavailable"
    assert int(reply.get("Retry-After")) >= 1
    assert b.calls == []


def test_unknown_while_starting(world):
    """While a server has not yet been asked for its models, `unknown` would be a lie: try again."""
    gate = Gate()
    slow = world.backend(OpenAIBackend, "slow", ["m-late"])
    for path in ("/v1/models", "/health"):
        handler = slow.routes[path]
        slow.on(path, lambda c, r, handler=handler: (gate.wait(20), handler(c, r)))
    quick = world.backend(OpenAIBackend, "quick", ["m1"])
    proxy = world.olla({"slow": endpoint(slow, check_timeout="4s"), "quick": quick}, ready=["quick"])
    reply = proxy.post(PATH, {"model": "m-late"})
    assert (reply.status, reply.get("Retry-After")) == (503, "1")
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    gate.open()
    proxy.wait_healthy({"slow": 1})
    assert proxy.post(PATH, {"model": "m-late"}).get("X-Olla-Endpoint") == "slow"
    assert proxy.post(PATH, {"model": "m-never"}).status == 404


def test_case_and_tags(world):
    """Clients vary case and leave out `:latest`; an exact name must still win."""
    upper, lower = world.backend(OpenAIBackend, "upper", ["Qwen/Foo"]), world.backend(OpenAIBackend, "lower", ["qwen/foo"])
    oll = world.backend(OllamaBackend, "oll", ["llama3:latest", "phi:3b"])
    proxy = world.olla({"upper": upper, "lower": lower, "oll": oll})

    def ask(model):
        reply = proxy.post(PATH, {"model": model})
        return reply.get("X-Olla-Endpoint") if reply.status == 200 else reply.status
    assert {ask("Qwen/Foo") for _ in range(4)} == {"upper"}
    assert {ask("qwen/foo") for _ in range(4)} == {"lower"}
    assert {ask("QWEN/FOO") for _ in range(6)} == {"upper", "lower"}
    assert ask("llama3") == ask("LLAMA3") == ask("llama3:latest") == "oll"
    assert ask("phi:3B") == "oll"
    assert ask("phi") == 404 and ask("llama3:8b") == 404 and ask("foo") == 404
    reply = proxy.post(PATH, {"model": "LLAMA3:Latest"})
    assert reply.get("X-Olla-Model") == "LLAMA3:Latest", "the client's spelling is kept"


def test_disabled_endpoint(world):
    """enabled = false takes a machine out without deleting its section."""
    a, b = world.backend(OpenAIBackend, "a", ["m1", "m-a"]), world.backend(OpenAIBackend, "b", ["m1"])
    proxy = world.olla({"a": endpoint(a, enabled=False), "b": b}, ready=["b"])
    for _ in range(4):
        assert proxy.post(PATH, {"model": "m1"}).get("X-Olla-Endpoint") == "b"
    assert proxy.post(PATH, {"model": "m-a"}).status == 404
    assert a.requests == []


# ---- prefixes and paths

def test_provider_prefixes(world):
    """/olla/<prefix>/ is a hard boundary: only servers of that kind may answer."""
    servers = {"oll": world.backend(OllamaBackend, "oll", ["m1", "m-oll"]), "vl": world.backend(VllmBackend, "vl", ["m1"]),
               "lla": world.backend(LlamaBackend, "lla", ["m1"]), "lm": world.backend(LmStudioBackend, "lm", ["m1"]),
               "oai": world.backend(OpenAIBackend, "oai", ["m1"])}
    proxy = world.olla(servers)
    wanted = {"ollama": {"oll"}, "vllm": {"vl"}, "llamacpp": {"lla"}, "lmstudio": {"lm"}, "lm-studio": {"lm"},
              "lm_studio": {"lm"}, "openai": set(servers), "openai-compatible": set(servers), "proxy": set(servers)}
    for prefix, names in wanted.items():
        seen = {proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "m1"}).get("X-Olla-Endpoint") for _ in range(12)}
        assert seen == names, prefix
    assert all(call.path == CHAT for server in servers.values() for call in server.calls)
    # a model that only another kind of server has
    reply = proxy.post("/olla/vllm" + CHAT, {"model": "m-oll"})
    assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (503, "model_unavailable")
    # an unknown path under a provider prefix is routed by its model too
    for server in servers.values():
        server.on("/odd/path", lambda c, r: c.reply({"served_by": c.backend.name}))
    assert {proxy.post("/olla/openai/odd/path", {"model": "m-oll"}).json()["served_by"] for _ in range(5)} == {"oll"}


def test_provider_without_endpoints(site):
    """No server of that kind: say so, whatever the model."""
    for prefix, name in (("vllm", "vllm"), ("lmstudio", "lm-studio"), ("lm_studio", "lm-studio")):
        for model in ("m-oll", "no-such"):
            reply = site.proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": model})
            assert reply.status == 404
            assert "No %s endpoints available" % name in reply.json()["error"]["message"]
    assert site.calls == []


@pytest.mark.parametrize("path", ["/olla", "/olla/", "/internal", "/internal/", "/favicon.ico", "/version/", "/internal/health/",
                                  "/olla/unknown/x", "/olla/Ollama/api/chat", "/olla/PROXY/v1/x", "/v2/x", "/apix", "/v1x/models",
                                  "/Internal/Health", "/olla/ollamax/api/chat", "/olla/proxyx"])
def test_not_found_pages(site, path):
    """Unknown paths must not leak to a backend."""
    for method in ("GET", "POST"):
        reply = site.proxy.request(method, path, b"{}" if method == "POST" else None, {MARK: "1"})
        assert (reply.status, reply.body) == (404, b"404 page not found\n")
        assert reply.get("Content-Type") == "text/plain; charset=utf-8"
        assert reply.get("X-Content-Type-Options") == "nosniff"
        assert not reply.has("X-Olla-Endpoint")
    assert site.calls == []


def test_not_found_page_and_redirect_have_no_olla_headers(site):
    """Scripts of the reference tell a page nobody serves from a rejected request by these headers."""
    for path in ("/nowhere", "/olla/proxy"):
        reply = site.proxy.get(path)
        ours = [name.lower() for name, _ in reply.headers if name.lower().startswith("x-olla-")]
        assert ours in ([], ["x-olla-request-id"]), path  # the ID finds the log line; the reference leaves it out


@pytest.mark.parametrize("path", ["/olla/proxy", "/olla/ollama", "/olla/lm_studio", "/olla/openai"])
def test_slash_redirect(site, path):
    """A prefix without its slash is redirected, query kept."""
    for method in ("GET", "POST"):
        reply = site.proxy.request(method, path + "?a=1&b=%2F")
        assert (reply.status, reply.get("Location")) == (301, path + "/?a=1&b=%2F")
    client = site.client()
    assert client.request("GET", path).get("Location") == path + "/"
    assert client.request("GET", "/internal/health").status == 200


@pytest.mark.parametrize("sent,arrives", [
    ("/olla/openai/v1/x?q=1&r=a%20b+c&s=%2F", "/v1/x?q=1&r=a%20b+c&s=%2F"),
    ("/olla/openai/v1/x?", ("/v1/x", "/v1/x?")),
    ("/olla/openai/v1/", "/v1/"),
    ("/olla/openai/", "/"),
    ("/olla/openai/olla/x", "/olla/x"),
    ("/olla/openai/a%20b", "/a%20b"),
    ("/olla/openai/caf%C3%A9", "/caf%C3%A9"),
    ("/olla/openai/a%3Fb", "/a%3Fb"),
    ("/olla/openai/a%25b", "/a%25b"),
    ("/olla/openai/a%2Fb", ("/a/b", "/a%2Fb")),
    ("/olla/openai/a+b;c=d:e@f,g~h!i$j'k(l)m*n", "/a+b;c=d:e@f,g~h!i$j'k(l)m*n"),
    ("/olla/openai/models/org/name:tag", "/models/org/name:tag"),
    ("/olla/proxy/v1/x", "/v1/x"),
    ("/olla/lm_studio/v1/x", None),
    ("/v1/x?y=z", "/v1/x?y=z"),
    ("/api/x/y", "/api/x/y"),
], ids=str)
def test_forwarded_paths(site, sent, arrives):
    """A path that arrives changed asks for something else."""
    for server in site.servers:
        for path in ("*", "/"):
            server.on(path, lambda c, r: c.reply({"target": r.target}))
    reply = site.proxy.get(sent, {MARK: "1"})
    if arrives is None:
        assert reply.status in (301, 400, 404) and site.calls == []
    else:
        assert reply.status == 200, reply.body
        assert reply.json()["target"] in ((arrives,) if isinstance(arrives, str) else arrives)


@pytest.mark.parametrize("path", ["/../x", "/%2e%2e/x", "/%2E%2e/%2e/x", "/a/../../x", "/a/..%2f..%2fx", "/..%2fx", "/%252e%252e/x", "/.."])
def test_no_way_out_of_a_base_path(world, path):
    """Dot segments must not climb out of the base path of an endpoint."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on("*", lambda c, r: c.reply({"target": r.target}))
    proxy = world.olla({"a": endpoint(a.url + "/base/dir", preserve_path=True, health_check_url=a.url + "/health",
                                      model_url=a.url + "/v1/models")})
    client = world.client(proxy)
    client.send(request_bytes("GET", "/olla/openai" + path, {MARK: "1"}))
    reply = client.read_response()
    for call in a.calls:
        assert call.target.startswith("/base/dir"), call.target
        plain = call.target.lower().replace("%2e", ".").replace("%2f", "/")
        assert "/../" not in plain + "/", call.target
    assert reply.status in (200, 301, 400, 404)


@pytest.mark.parametrize("base,preserve,sent,arrives", [
    ("/engines/llama.cpp", True, "/v1/x", "/engines/llama.cpp/v1/x"),
    ("/engines/llama.cpp/", True, "/v1/x", "/engines/llama.cpp/v1/x"),
    ("/engines/llama.cpp", True, "/v1/x?y=//z", "/engines/llama.cpp/v1/x?y=//z"),
    ("/engines/llama.cpp", False, "/v1/x", "/v1/x"),
    ("/", True, "/v1/x", "/v1/x"),
    ("", True, "/v1/x", "/v1/x"),
    ("/", False, "/v1/x", "/v1/x"),
])
def test_base_paths(world, base, preserve, sent, arrives):
    """Docker Model Runner lives below a path: it must survive, without doubled slashes."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on("/v1/x", lambda c, r: c.reply({"target": r.target}))
    a.on("/engines/llama.cpp/v1/x", a.routes["/v1/x"])
    a.on("/engines/llama.cpp/v1/models", a.routes["/v1/models"])
    proxy = world.olla({"a": endpoint(a.url + base, preserve_path=preserve)})
    assert proxy.get("/olla/openai" + sent).json() == {"target": arrives}


def test_probes_keep_the_base_path(world):
    """Health and model list live below the base path whatever preserve_path says."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on("/base/v1/models", a.routes.pop("/v1/models"))
    proxy = world.olla({"a": endpoint(a.url + "/base")})
    assert {r.target for r in a.requests} == {"/base/v1/models"}
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert a.requests[-1].target == CHAT


@pytest.mark.parametrize("sent", ["/olla/nowhere/../proxy/v1/x", "/olla//proxy/v1/x", "/olla/./proxy/v1/x", "//v1/x", "/internal/../v1/x"])
def test_unclean_paths(site, sent):
    """Dots and doubled slashes in front of a route: redirected, refused or cleaned, never forwarded as they are."""
    for server in site.servers:
        server.on("*", lambda c, r: c.reply({"target": r.target}))
    reply = site.proxy.get(sent, {MARK: "1"})
    if reply.status == 200:
        assert reply.json()["target"] == "/v1/x"
    else:
        assert reply.status in (301, 308, 400, 404) and site.calls == []
        if reply.status in (301, 308):
            assert "//" not in reply.get("Location") and ".." not in reply.get("Location")


def test_root_api_off(world):
    """An operator who wants only /olla/ must get only /olla/."""
    a = world.backend(OllamaBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, {"server.root_api": False})
    for method, path in (("POST", CHAT), ("POST", "/api/chat"), ("GET", "/v1/models"), ("GET", "/api/tags"), ("GET", "/api/version")):
        reply = proxy.request(method, path, b"{}" if method == "POST" else None)
        assert (reply.status, reply.body) == (404, b"404 page not found\n"), path
    assert proxy.post(PATH, {"model": "m1"}).status == 200


# ---- dialects

@pytest.mark.parametrize("target,form", [
    (PATH, "openai"), (CHAT, "openai"), ("/olla/openai/v1/embeddings", "openai"), ("/olla/ollama/v1/chat/completions", "openai"),
    ("/v1/completions", "openai"), ("/api/chat", "ollama"), ("/api/generate", "ollama"), ("/api/embed", "ollama"),
    ("/olla/ollama/api/chat", "ollama"), ("/olla/proxy/api/chat", "ollama"), ("/v1/messages", "anthropic"), ("/v1/messages?beta=true", "anthropic"),
    ("/olla/proxy/v1/messages", "anthropic"), ("/olla/proxy/completion", "text"), ("/olla/llamacpp/infill", "text")])
def test_errors_speak_the_callers_dialect(site, target, form):
    """A client library that cannot parse our error shows `unknown error`."""
    reply = site.proxy.post(target, full_body(target, {"model": "no-such-model"}))
    assert reply.status == 404
    if form == "text":
        assert reply.get("Content-Type") == "text/plain; charset=utf-8" and b"model_not_found" in reply.body
        return
    assert reply.get("Content-Type").startswith("application/json")
    error = reply.json()
    if form == "openai":
        assert set(error) == {"error"} and set(error["error"]) == {"message", "type", "code", "param"}
        assert "no-such-model" in error["error"]["message"]
    elif form == "ollama":
        assert set(error) == {"error"} and "no-such-model" in error["error"]
    else:
        assert error["type"] == "error" and error["error"]["type"] == "not_found_error"
        assert "no-such-model" in error["error"]["message"]


def test_hostile_names_in_errors(site):
    """A model name goes into JSON and headers: quotes, control characters and CRLF must not break out."""
    for name in ('a"b\\c', "a\r\nX-Evil: 1", "a\x00b", "\x1b[31m", "\u2028<script>"):
        reply = site.proxy.post(PATH, {"model": name})
        assert reply.status in (400, 404) and reply.json()["error"]["message"]
        assert not reply.has("X-Evil")
    assert site.calls == []


def test_no_endpoint_at_all(world):
    """Nothing healthy and no model named: 503, not a hang and not a 404."""
    dead = world.keep(DeadPort())
    proxy = world.olla({"a": endpoint(dead)}, ready=None)
    eventually(lambda: proxy.endpoint("a")["status"] not in ("unknown", "healthy"), "the first probe has failed")
    reply = proxy.get("/olla/proxy/v1/x")
    assert reply.status == 503 and b"no healthy endpoints available" in reply.body


def test_raw_body_with_wrong_type_still_forwards(site):
    """curl -d sends a form type with JSON inside: the body must arrive unchanged, whatever server gets it."""
    for server in site.servers:
        server.on("/v1/anything", lambda c, r: c.reply(r.body))
    body = dump({"model": "m-all"})
    reply = site.proxy.request("POST", "/olla/proxy/v1/anything", body, {"Content-Type": "application/x-www-form-urlencoded"})
    assert (reply.status, reply.body) == (200, body)


FORM = "application/x-www-form-urlencoded"  # what curl -d says of everything


@pytest.mark.parametrize("ctype", [FORM, FORM + "; charset=utf-8", None, "text/plain", "application/octet-stream", "multipart/form-data"])
@pytest.mark.parametrize("target,owner,model", [(CHAT, "oai", "m-oai"), ("/v1/embeddings", "oai", "m-oai"), ("/api/generate", "oll", "m-oll"),
                                                ("/api/embed", "oll", "m-oll"), ("/api/show", "oll", "m-oll")])
def test_json_that_is_called_something_else(site, target, owner, model, ctype):
    """`curl -d` without a header, as in Ollama's manual: servers read it as JSON, so its model counts; bytes and type stay as they were."""
    server = next(s for s in site.servers if s.name == owner)
    server.on(target, lambda c, r: c.reply({"ok": 1}))
    body = b'{ "messages": [], "model": "%s" }' % model.encode()
    for _ in range(4):
        reply = site.proxy.request("POST", target, body, {"Content-Type": ctype} if ctype else {})
        assert (reply.status, reply.get("X-Olla-Endpoint"), reply.get("X-Olla-Model")) == (200, owner, model)
    assert [(call.body, call.get("Content-Type")) for call in site.calls] == 4 * [(body, ctype)]
    reply = site.proxy.request("POST", target, b'{"model":"nobody-has-it"}', {"Content-Type": ctype} if ctype else {})
    assert reply.status == 404 and "nobody-has-it" in reply.text()


def test_form_on_a_path_of_models(site):
    """A real form, or anything that is no JSON, names no model and goes on as it is."""
    for server in site.servers:
        server.on(CHAT, lambda c, r: c.reply({"ok": 1}))
    for body in (b"model=nobody", b"--x\r\n\r\n", b"RIFF\x00\xff", b'"model":"nobody"', b""):
        reply = site.proxy.request("POST", CHAT, body, {"Content-Type": FORM})
        assert reply.status == 200 and not reply.has("X-Olla-Model"), body


def test_form_on_a_page_of_our_own(site):
    """Nobody reads it there, so it names nothing."""
    for target in ("/v1/models", "/internal/health", "/nowhere", "/api/pull"):
        reply = site.proxy.request("POST", target, b'{"model":"m-oai"}', {"Content-Type": FORM})
        assert not reply.has("X-Olla-Model"), target


def test_upload_that_looks_like_a_request(site):
    """A file for one machine is its bytes, whatever stands in them: no name in it is a model, and none is spelled anew."""
    site.oll.on("/api/blobs/", lambda c, r: c.reply(b"", 201))
    site.oll.on("/api/blobs/sha256:1", lambda c, r: c.reply(b"", 201))
    for body in (b'{"model":"M-OLL"}', b'{"model":"a","model":"b"}', b'{"model":"%s"}' % (b"x" * 5000)):
        reply = site.proxy.request("POST", "/api/blobs/sha256:1", body,
                                   {"Content-Type": "application/octet-stream", "X-Olla-Endpoint": "oll"})
        assert reply.status == 201
        assert site.calls[-1].body == body
