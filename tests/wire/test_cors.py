"""CORS: what a browser is told about pages of other origins; and that nothing is told, and nothing changed, while it is off."""

import json

import pytest

from backend import Gate, OpenAIBackend, eventually
from client import dump, json_headers, request_bytes
from harness import World, build_config, endpoint, report, run_cli
from messages import CHAT, USER, ask, prepare
from servers import Compatible, Ollama
from test_upgrade import ASK, REALTIME, echo

PAGE = "https://chat.example.com"
OTHER = "https://evil.example.net"
ON = {"server.cors.enabled": True}
SOME = dict(ON, **{"server.cors.allowed_origins": "%s, http://localhost:*, https://*.home.test" % PAGE,
                   "server.cors.allow_credentials": True, "server.cors.max_age": 60,
                   "server.cors.allowed_methods": "GET, POST, DELETE", "server.cors.allowed_headers": "authorization, X-Mine",
                   "server.cors.exposed_headers": "X-Olla-Model, X-Two"})
KEYED = dict(ON, **{"key:alice.secret": "sk-alice-5f1c0de"})
ALLOW = "Access-Control-Allow-Origin"
EXPOSE = "Access-Control-Expose-Headers"
CREDENTIALS = "Access-Control-Allow-Credentials"
PREFLIGHT_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
OWN = ["X-Olla-" + name for name in ("Request-ID", "Endpoint", "Backend-Type", "Model", "Response-Time", "Routing-Strategy", "Routing-Decision",
                                     "Routing-Reason", "Mode", "Sticky-Session", "Sticky-Key-Source", "Session-ID")]
THEIRS = [(ALLOW, "https://backend.example"), (EXPOSE, "X-Backend"), (CREDENTIALS, "false"), ("access-control-max-age", "9"), ("Vary", "Accept")]
CHAT_BODY = dump({"model": "m1", "messages": [{"role": "user", "content": "hi"}]})


class Site:
    """A proxy with these settings; its server, an Ollama and one that is translated for send CORS headers of their own."""

    def __init__(self, *settings):
        self.world = World()
        self.o = self.world.backend(Ollama, "o", ["m1"])
        self.t = prepare(self.world.backend(Compatible, "t", ["m-t"]))
        for path in (CHAT, "/v1/embeddings"):
            self.o.on(path, lambda conn, request: conn.reply({"model": "m1"}, headers=THEIRS))
        self.proxy = self.world.olla({"o": endpoint(self.o), "t": endpoint(self.t)}, dict(settings))

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def on(kept):
    yield from sites(kept, ON)


@pytest.fixture
def some(kept):
    yield from sites(kept, SOME)


@pytest.fixture
def off(kept):
    yield from sites(kept, {})


@pytest.fixture
def keyed(kept):
    yield from sites(kept, KEYED)


def sites(kept, settings):
    site = kept(Site, *settings.items())
    site.o.forget()
    site.t.forget()
    yield site
    report(site.proxy.idle_problems() + site.world.script_failures())


def cors_of(reply):
    """All that is said to a browser."""
    return {name.lower(): value for name, value in reply.headers if name.lower().startswith("access-control-")}


def vary(reply):
    return [item.strip() for line in reply.get_all("Vary") for item in line.split(",")]


def preflight(site, origin=PAGE, method="POST", wanted=None, target="/v1/chat/completions", more=()):
    headers = [("Access-Control-Request-Method", method)] + list(more)
    headers += [("Origin", origin)] if origin else []
    headers += [("Access-Control-Request-Headers", wanted)] if wanted else []
    reply = site.proxy.request("OPTIONS", target, None, headers)
    assert (reply.status, reply.body) == (204, b""), reply.raw_head
    assert reply.get_all("Vary") == [PREFLIGHT_VARY]
    assert not reply.has("Content-Length") and not reply.has("Transfer-Encoding") and not reply.has("Content-Type")
    assert site.o.calls == [] and site.t.calls == []
    return cors_of(reply)


def allowed(reply, origin="*", exposed=OWN, credentials=False):
    """The reply says this and nothing else, each once."""
    wanted = {ALLOW.lower(): origin, EXPOSE.lower(): ", ".join(exposed)}
    wanted.update({CREDENTIALS.lower(): "true"} if credentials else {})
    assert cors_of(reply) == wanted, reply.raw_head
    assert all(len(reply.get_all(name)) == 1 for name in wanted)
    assert "Origin" in vary(reply)


def unseen(reply):
    assert cors_of(reply) == {} and "Origin" in vary(reply), reply.raw_head


# ---- preflights

@pytest.mark.parametrize("target", ["/v1/chat/completions", "/api/chat", "/v1/messages", "/olla/models", "/internal/status", "/nowhere", "/",
                                    "/olla/proxy", "/olla/ollama/api/pull", "*"])
def test_preflight_everywhere(on, target):
    """A browser asks before every request with JSON in it; one path that forgets is one client that does not work."""
    assert preflight(on, target=target, wanted="content-type,authorization") == {
        ALLOW.lower(): "*", "access-control-allow-methods": "POST", "access-control-allow-headers": "content-type, authorization",
        "access-control-max-age": "300"}


def test_preflight_before_keys(keyed):
    """Browsers send no key with it: with a 401 here no page could ever send one."""
    assert preflight(keyed, wanted="authorization")[ALLOW.lower()] == "*"
    assert preflight(keyed, target="*")[ALLOW.lower()] == "*"
    # what is no preflight needs one
    reply = keyed.proxy.request("OPTIONS", "/v1/chat/completions", None, {"Origin": PAGE})
    assert reply.status == 401
    allowed(reply)


def test_preflight_without_headers(on):
    assert preflight(on, method="GET") == {ALLOW.lower(): "*", "access-control-allow-methods": "GET", "access-control-max-age": "300"}
    assert preflight(on, method="OPTIONS")["access-control-allow-methods"] == "OPTIONS"


@pytest.mark.parametrize("origin,method,wanted", [
    (None, "POST", None), ("", "POST", None), (PAGE, "PUT", None), (PAGE, "post", None), (PAGE, "GET, POST", None), (PAGE, "*", None),
    ("https://a b", "GET", None), ("https://caf\xe9", "GET", None), ("x" * 301, "GET", None),
    (PAGE, "POST", "x" * 2100), (PAGE, "POST", "a b"), (PAGE, "POST", "caf\xe9")])
def test_preflight_refused(on, origin, method, wanted):
    """Not allowed is told by silence; whatever is odd is not echoed."""
    assert preflight(on, origin, method, wanted) == {}


def test_preflight_of_some(some):
    assert preflight(some, wanted="AUTHORIZATION , ,x-mine,") == {
        ALLOW.lower(): PAGE, CREDENTIALS.lower(): "true", "access-control-allow-methods": "POST",
        "access-control-allow-headers": "AUTHORIZATION, x-mine", "access-control-max-age": "60"}
    assert preflight(some, method="DELETE")["access-control-allow-methods"] == "DELETE"
    assert preflight(some, method="PUT") == {}
    assert preflight(some, wanted="x-mine, content-type") == {}
    assert preflight(some, wanted="x-mine", more=[("Access-Control-Request-Headers", "x-other")]) == {}
    assert preflight(some, OTHER) == {}
    assert preflight(some, PAGE, more=[("Origin", OTHER)]) == {}, "two origins"


def test_preflight_keeps_the_connection(on):
    """One more connection for each would be the price of a page."""
    with on.proxy.client() as client:
        head = [("Origin", PAGE), ("Access-Control-Request-Method", "POST")]
        for _ in range(3):
            assert client.request("OPTIONS", CHAT, None, head).status == 204
            assert client.request("POST", CHAT, CHAT_BODY, json_headers({"Origin": PAGE})).status == 200
        # with a body it is answered at once, and what is left is not taken for a request
        client.send(request_bytes("OPTIONS", CHAT, head + [("Content-Length", "40")], None) + b"GET /olla/proxy/v1/x HTTP/1.1\r\n\r\n")
        assert client.read_response("OPTIONS").status == 204
        assert client.read_eof() == b""
    assert [call.method for call in on.o.calls] == ["POST"] * 3


def test_empty_lists(world):
    """They stand for the least that makes sense."""
    site = world.backend(OpenAIBackend)
    proxy = world.olla({"a": site}, dict(ON, **{"server.cors.allowed_methods": "", "server.cors.allowed_headers": "",
                                                "server.cors.max_age": 0}))

    def asked(method, wanted):
        return cors_of(proxy.request("OPTIONS", CHAT, None, [("Origin", PAGE), ("Access-Control-Request-Method", method),
                                                             ("Access-Control-Request-Headers", wanted)]))
    assert asked("HEAD", "Accept, content-type, X-Requested-With") == {
        ALLOW.lower(): "*", "access-control-allow-methods": "HEAD",
        "access-control-allow-headers": "Accept, content-type, X-Requested-With"}
    assert asked("GET", "authorization") == {} and asked("DELETE", "accept") == {}


# ---- origins

@pytest.mark.parametrize("origin", [PAGE, "HTTPS://Chat.Example.Com", "http://localhost:3000", "https://a.home.test", "https://a.b-c.home.test"])
def test_matching_origins(some, origin):
    reply = some.proxy.request("GET", "/internal/health", None, {"Origin": origin})
    allowed(reply, origin, ["X-Olla-Model", "X-Two"], True)


@pytest.mark.parametrize("origin", [
    OTHER, "null", "*", "https://chat.example.com.evil.net", "https://chat.example.com:444", "http://chat.example.com", "https://home.test",
    "https://.home.test", "https://evil.net/.home.test", "https://evil.net#.home.test", "https://u@evil.net?.home.test", "http://localhost:",
    "http://localhost", "https://%s.home.test" % ("a" * 300), PAGE + ", " + OTHER, PAGE + "/"])
def test_other_origins_are_served_unseen(some, origin):
    """The server never blocks; the browser does."""
    reply = some.proxy.request("GET", "/internal/health", None, {"Origin": origin})
    assert reply.status == 200
    unseen(reply)


def test_null_origin(on):
    """Pages from a file have it."""
    allowed(on.proxy.request("GET", "/internal/health", None, {"Origin": "null"}))


# ---- every kind of reply

def test_without_origin(on):
    """A cache must not give this reply to a page."""
    for target in ("/v1/models", "/internal/status", "/nowhere"):
        unseen(on.proxy.get(target))
    unseen(on.proxy.post(CHAT, json.loads(CHAT_BODY)))


def test_method_that_is_not_listed(on):
    """Served, unseen."""
    reply = on.proxy.request("PUT", "/olla/ollama/v1/embeddings", b"", {"Origin": PAGE})
    assert reply.status == 200
    unseen(reply)
    unseen(on.proxy.request("HEAD", "/v1/models", None, {"Origin": PAGE}))
    assert on.o.calls[0].method == "PUT"


@pytest.mark.parametrize("method,target,body,status", [
    ("GET", "/v1/models", None, 200), ("GET", "/api/tags", None, 200), ("GET", "/internal/status", None, 200), ("GET", "/nowhere", None, 404),
    ("GET", "/olla/proxy", None, 301), ("POST", "/api/pull", b"{}", 501), ("POST", CHAT, b'{"model":"none"}', 404),
    ("POST", "/v1/messages", b"{", 400), ("GET", "/olla/proxy/%zz", None, 400), ("OPTIONS", "*", None, 200), ("POST", CHAT, CHAT_BODY, 200),
    ("POST", "/v1/messages", dump(ask(model="m-t")), 200), ("POST", "/v1/messages", dump(ask(model="m-t", stream=True)), 200)])
def test_own_pages_errors_and_replies(on, method, target, body, status):
    """Whatever the answer is, a page must be able to read it: else each error is "Failed to fetch"."""
    headers = json_headers({"Origin": PAGE}) if body else {"Origin": PAGE}
    reply = on.proxy.request(method, target, body, headers)
    assert reply.status == status, reply.body
    allowed(reply)


def test_what_the_backend_says_is_replaced(on, off):
    """Two Allow-Origin lines are an error for browsers, and a backend knows nothing of olla's settings."""
    reply = on.proxy.request("POST", CHAT, CHAT_BODY, json_headers({"Origin": PAGE}))
    allowed(reply)
    assert vary(reply) == ["Origin", "Accept"]
    assert cors_of(on.proxy.request("POST", CHAT, CHAT_BODY, json_headers())) == {}
    reply = off.proxy.request("POST", CHAT, CHAT_BODY, json_headers({"Origin": PAGE}))
    assert [pair for pair in reply.headers if pair in THEIRS] == THEIRS, "off: left alone"


def test_304(on):
    page = on.proxy.request("GET", "/internal/status/models", None, {"Origin": PAGE})
    reply = on.proxy.request("GET", "/internal/status/models", None, {"Origin": PAGE, "If-None-Match": page.get("ETag")})
    assert reply.status == 304
    allowed(reply)


def test_heads_that_are_too_large(world):
    """431 is told like everything else when the head could be read at all."""
    proxy = world.olla({"a": world.backend(OpenAIBackend)}, dict(ON, **{"server.request_limits.max_header_size": 1024}))
    reply = proxy.request("GET", "/v1/models", None, {"Origin": PAGE, "X-Fill": "x" * 2000})
    assert reply.status == 431
    allowed(reply)


def test_head_that_is_refused(on):
    """Nothing of it was understood, an origin neither."""
    with on.proxy.client() as client:
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: https://chat.example.com\r\nbad name: y\r\n\r\n")
        reply = client.read_response()
    assert reply.status == 400
    unseen(reply)


def test_backend_that_is_gone(world):
    a = world.backend(Compatible, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, health="passive")}, dict(ON, **{"proxy.heartbeat.interval": "0s"}))
    a.stop()
    reply = proxy.request("POST", CHAT, CHAT_BODY, json_headers({"Origin": PAGE}))
    assert reply.status == 502
    allowed(reply)


@pytest.mark.parametrize("target,model", [(CHAT, "m1"), ("/api/chat", "m1"), ("/v1/messages", "m1"), ("/v1/messages", "m-t")])
def test_after_a_sign_of_life(world, target, model):
    """The head goes down before the backend has said a word."""
    o, t, gate = world.backend(Ollama, "o", ["m1"]), prepare(world.backend(Compatible, "t", ["m-t"])), Gate()

    def late(conn, request):
        gate.wait()
        conn.reply({"error": {"message": "no luck"}}, 500, headers=THEIRS)
    for server in (o, t):
        for path in (CHAT, "/api/chat", "/v1/messages"):
            server.on(path, late)
    proxy = world.olla({"o": endpoint(o, health="none"), "t": endpoint(t, health="none")}, dict(SOME, **{"proxy.heartbeat.interval": "100ms"}))
    client = world.client(proxy)
    client.send(request_bytes("POST", target, json_headers({"Origin": PAGE}),
                              dump({"model": model, "stream": True, "max_tokens": 9, "messages": USER})))
    reply = client.read_head("POST")
    allowed(reply, PAGE, ["X-Olla-Model", "X-Two"], True)
    gate.open()
    reply.read_rest()
    assert b"no luck" in reply.body


def test_upgrade(world):
    """A tunnel opens as before."""
    a = world.backend(Compatible, "a", ["m1"])
    a.on(REALTIME, echo)
    proxy = world.olla({"a": a}, ON)
    client = world.client(proxy)
    client.send(request_bytes("GET", REALTIME + "?model=m1", ASK + [("Origin", PAGE)]))
    reply = client.read_head()
    assert reply.status == 101
    allowed(reply)
    client.close()


# ---- off, and settings

def test_off_changes_nothing(off):
    """OPTIONS is a method like any other, and no header speaks of origins."""
    head = [("Origin", PAGE), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x")]
    for target in ("/v1/models", "/internal/status", "/nowhere"):
        reply = off.proxy.request("GET", target, None, {"Origin": PAGE})
        assert cors_of(reply) == {} and "Origin" not in vary(reply)
    assert off.proxy.request("OPTIONS", "/internal/health", None, head).status == 200
    reply = off.proxy.request("OPTIONS", "/olla/ollama/v1/embeddings", None, head)
    assert reply.status == 200 and off.o.calls[-1].method == "OPTIONS"
    assert off.o.calls[-1].get("Access-Control-Request-Method") == "POST"


def test_reload(world):
    """The settings are live, and a wrong one changes nothing."""
    spec = {"a": world.backend(OpenAIBackend)}
    proxy = world.olla(spec)
    proxy.reload(spec, SOME)
    proxy.wait_log("CORS enabled", origins="%s, http://localhost:*, https://*.home.test" % PAGE, credentials="true")
    allowed(proxy.request("GET", "/v1/models", None, {"Origin": PAGE}), PAGE, ["X-Olla-Model", "X-Two"], True)
    proxy.allowed_errors = ["server.cors.allow_credentials", "reload refused"]
    proxy.reload(spec, dict(ON, **{"server.cors.allow_credentials": True}))
    proxy.wait_log("reload refused, the old configuration stays in force")
    allowed(proxy.request("GET", "/v1/models", None, {"Origin": PAGE}), PAGE, ["X-Olla-Model", "X-Two"], True)
    proxy.reload(spec)
    eventually(lambda: not proxy.request("GET", "/v1/models", None, {"Origin": PAGE}).has(ALLOW), "CORS is off again", 5)


@pytest.mark.parametrize("settings,word", [
    ({"server.cors.allow_credentials": True}, "allow_credentials"), ({"server.cors.allowed_origins": ""}, "allowed_origins"),
    ({"server.cors.max_age": -1}, "max_age"), ({"server.cors.allowed_origins": "http://*.*"}, "more than one *"),
    ({"server.cors.exposed_headers": "a:b"}, "exposed_headers")])
def test_wrong_settings(tmp_path, settings, word):
    path = tmp_path / "olla.ini"
    path.write_text(build_config(1, {"a": "http://127.0.0.1:9"}, dict(ON, **settings)))
    code, out, err = run_cli("-t", "-c", path)
    assert code == 1 and word in out + err
