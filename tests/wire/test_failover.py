"""Failure before the first byte went down: the request moves on, exactly once per endpoint, unchanged."""

import time

import pytest

from backend import Gate, OpenAIBackend, eventually, hold
from client import chunked, dump, json_headers, request_bytes
from harness import endpoint, new_id, rarely_probed

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
PRIORITY = {"proxy.load_balancer": "priority"}


@pytest.fixture
def pair(world):
    """Two endpoints with the same model; `a` is always asked first."""
    class Pair:
        a = world.backend(OpenAIBackend, "a", ["m1"])
        b = world.backend(OpenAIBackend, "b", ["m1"])

        def start(self, **settings):
            self.proxy = world.olla({"a": endpoint(self.a, priority=200), "b": endpoint(self.b, priority=100)},
                                    dict(PRIORITY, **settings))
            return self.proxy

        def ask(self, obj=None, headers=()):
            name = new_id()
            reply = self.proxy.post(PATH, obj or {"model": "m1"}, dict(headers, **{"X-Request-ID": name}))
            return reply, self.proxy.access(name)
    return Pair()


def drop(conn, request):
    conn.rst()


def leave(conn, request):
    conn.fin()


def half_head(conn, request):
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    time.sleep(0.05)
    conn.fin()


def half_head_reset(conn, request):
    conn.send(b"HTTP/1.1 200 OK\r\n")
    time.sleep(0.05)
    conn.rst()


def only_interim(conn, request):
    conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    time.sleep(0.05)
    conn.fin()


BREAKS = {"reset": drop, "eof": leave, "half-head-eof": half_head, "half-head-reset": half_head_reset,
          "interim-then-eof": only_interim}


@pytest.mark.parametrize("how", list(BREAKS))
def test_connection_lost_before_the_head(pair, how):
    """A server that dies before it answered must cost the client nothing."""
    pair.a.on(CHAT, BREAKS[how])
    pair.start()
    reply, entry = pair.ask()
    assert reply.status == 200 and reply.json()["served_by"] == "b"
    assert reply.get("X-Olla-Endpoint") == "b"
    assert len(pair.b.calls) == 1
    assert (entry["endpoint"], entry["attempts"], entry["end"]) == ("b", 2, "--")


def test_reset_on_accept(pair):
    """A crashing server may accept and reset before it read a byte."""
    pair.start()
    pair.a.on_accept = lambda conn: conn.rst()
    for conn in pair.a.connections:
        conn.rst()
    reply, _ = pair.ask()
    assert reply.json()["served_by"] == "b"


@pytest.mark.parametrize("how", ["stop", "go_silent"])
def test_cannot_connect(world, how):
    """Refused, or no answer to connect within connection_timeout: the next endpoint is asked."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": endpoint(b)},
                       dict(PRIORITY, **{"proxy.connection_timeout": "1s"}))
    getattr(a, how)()
    reply = proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": "cc"})
    assert reply.json()["served_by"] == "b"
    assert proxy.access("cc")["attempts"] == 2


def test_killed_server(pair):
    """Pull the plug: the very next request succeeds elsewhere, with idle connections to the dead one in the pool."""
    pair.start()
    client = pair.proxy.client()
    assert client.post(PATH, {"model": "m1"}).json()["served_by"] == "a"
    pair.a.stop()
    assert client.post(PATH, {"model": "m1"}).json()["served_by"] == "b"
    for _ in range(5):
        assert client.post(PATH, {"model": "m1"}).status == 200
    client.close()


@pytest.mark.parametrize("status", [429, 502, 503, 504, 529])
def test_retried_statuses(pair, status):
    """A server that says busy or broken is passed over while another one can answer."""
    pair.a.on(CHAT, lambda c, r: c.reply({"error": "busy"}, status))
    pair.start()
    reply, entry = pair.ask()
    assert (reply.status, reply.json()["served_by"], entry["attempts"]) == (200, "b", 2)
    assert len(pair.a.calls) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 500, 501])
def test_other_statuses_are_final(pair, status):
    """A request that is wrong is wrong everywhere: asking again doubles load and hides the cause."""
    pair.a.on(CHAT, lambda c, r: c.reply({"error": "own words"}, status))
    pair.start()
    reply, entry = pair.ask()
    assert (reply.status, reply.json(), reply.get("X-Olla-Endpoint")) == (status, {"error": "own words"}, "a")
    assert len(pair.b.calls) == 0 and entry["attempts"] == 1 and entry["end"] == "--"


def test_last_status_is_relayed(pair):
    """When all are busy the client must see the last real answer with its Retry-After, not an invented one."""
    pair.a.on(CHAT, lambda c, r: c.reply({"from": "a"}, 503))
    pair.b.on(CHAT, lambda c, r: c.reply({"from": "b"}, 429, headers={"Retry-After": "7"}))
    pair.start()
    reply, entry = pair.ask()
    assert (reply.status, reply.json(), reply.get("Retry-After")) == (429, {"from": "b"}, "7")
    assert reply.get("X-Olla-Endpoint") == "b"
    assert (len(pair.a.calls), len(pair.b.calls), entry["attempts"]) == (1, 1, 2)


def test_status_then_dead(pair):
    """The first said 503, the second is gone: an error must come, and it must not be an empty 200."""
    pair.a.on(CHAT, lambda c, r: c.reply({"from": "a"}, 503))
    pair.b.on(CHAT, drop)
    pair.start()
    reply, _ = pair.ask()
    assert reply.status in (502, 503) and reply.body


def test_all_dead(pair):
    """With nobody left the client gets a 502 in its own dialect, without addresses of the house."""
    pair.a.on(CHAT, drop)
    pair.b.on(CHAT, leave)
    pair.start()
    reply, entry = pair.ask()
    assert reply.status == 502
    error = reply.json()["error"]
    assert set(error) >= {"message", "type", "code", "param"} and error["param"] is None
    assert b"127.0.0.1" not in reply.body
    assert reply.get("X-Olla-Request-ID") == entry["request_id"]
    assert entry["end"][0] == "S" and entry["status"] == 502 and entry["attempts"] == 2
    # a stale kept-alive connection may be tried once more; nothing is asked more than twice
    assert 1 <= len(pair.a.calls) <= 2 and 1 <= len(pair.b.calls) <= 2


def test_each_endpoint_once(world):
    """A loop over failing endpoints must end, and in configuration order of priority."""
    order = []
    servers = {}
    for n, name in enumerate("abcd"):
        server = servers[name] = world.backend(OpenAIBackend, name, ["m1"])
        server.on(CHAT, lambda c, r, name=name: (order.append(name), c.reply({"from": name}, 503)))
    proxy = world.olla({name: endpoint(server, priority=100 - n) for n, (name, server) in enumerate(servers.items())}, PRIORITY)
    reply = proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": "once"})
    assert order == ["a", "b", "c", "d"]
    assert (reply.status, reply.json()) == (503, {"from": "d"})
    assert proxy.access("once")["attempts"] == 4


def test_max_attempts(world):
    """An operator's limit of attempts must hold."""
    servers = {name: world.backend(OpenAIBackend, name, ["m1"]) for name in "abc"}
    for server in servers.values():
        server.on(CHAT, lambda c, r: c.reply({"from": c.backend.name}, 503))
    proxy = world.olla({n: endpoint(s, priority=p) for (n, s), p in zip(servers.items(), (30, 20, 10))},
                       dict(PRIORITY, **{"proxy.retry.max_attempts": 2}))
    assert proxy.post(PATH, {"model": "m1"}).json() == {"from": "b"}
    assert [len(s.calls) for s in servers.values()] == [1, 1, 0]


def test_retry_disabled(pair):
    """An operator who says no retry means it."""
    pair.a.on(CHAT, lambda c, r: c.reply({"from": "a"}, 503))
    pair.start(**{"proxy.retry.enabled": False})
    reply, _ = pair.ask()
    assert (reply.status, reply.json()) == (503, {"from": "a"})
    pair.a.on(CHAT, drop)
    reply, _ = pair.ask()
    assert reply.status == 502
    assert pair.b.calls == []


def test_on_connection_lost_off(pair):
    """Switched off, a lost connection is a 502 (the request may have been carried out)."""
    pair.a.on(CHAT, leave)
    pair.start(**{"proxy.retry.on_connection_lost": False})
    reply, entry = pair.ask()
    assert reply.status == 502 and pair.b.calls == [] and entry["end"] == "SH"


@pytest.mark.parametrize("method,body", [("GET", None), ("POST", b""), ("DELETE", None)])
def test_on_connection_lost_off_without_a_body(pair, method, body):
    """A request without a body may have been carried out just as well: no byte sent of a body says nothing."""
    pair.a.on("/v1/x", leave)
    pair.start(**{"proxy.retry.on_connection_lost": False})
    reply = pair.proxy.request(method, "/olla/proxy/v1/x", body, {"X-Request-ID": "lost"})
    assert reply.status == 502 and len(pair.a.calls) == 1 and pair.b.calls == []
    entry = pair.proxy.access("lost")
    assert (entry["end"], entry["attempts"]) == ("SH", 1)


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                                 b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n"], ids=["no-http", "bad-length", "no-colon"])
def test_garbled_reply_is_final(pair, raw):
    """A server that answers nonsense has taken the request: asked again elsewhere, it is carried out twice."""
    pair.a.on(CHAT, lambda c, r: (c.send(raw), c.fin()))
    pair.start()
    reply, entry = pair.ask()
    assert reply.status == 502 and len(pair.a.calls) == 1 and pair.b.calls == []
    assert (entry["end"], entry["attempts"]) == ("SH", 1)


def test_on_status_is_configurable(pair):
    """The list replaces the default: 500 moves on, 503 no longer does."""
    pair.start(**{"proxy.retry.on_status": "500, 418"})
    for status, served in ((500, "b"), (418, "b"), (503, None)):
        pair.a.on(CHAT, lambda c, r, s=status: c.reply({"from": "a"}, s))
        reply, _ = pair.ask()
        if served:
            assert reply.json().get("served_by") == served
        else:
            assert (reply.status, reply.json()) == (503, {"from": "a"})


# ---- the body is replayed

@pytest.mark.parametrize("how", ["reset", "status"])
@pytest.mark.parametrize("size", [10, 12000, 60000, 66000, 3 << 20])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_is_replayed_exactly(pair, how, size, framing):
    """The second endpoint must get every byte of the body again, from memory or spool."""
    pair.a.on(CHAT, drop if how == "reset" else lambda c, r: c.reply({}, 503))
    pair.start()
    body = b'{"pad":"' + bytes(65 + i % 26 for i in range(size)) + b'","model":"m1"}'
    client = pair.proxy.client()
    if framing == "length":
        client.send(request_bytes("POST", PATH, json_headers(), body))
    else:
        client.send(request_bytes("POST", PATH, json_headers({"Transfer-Encoding": "chunked"})) + chunked(body, 8191))
    reply = client.read_response("POST", 20)
    client.close()
    assert reply.json()["served_by"] == "b"
    assert pair.a.calls[0].body == body and pair.b.calls[0].body == body
    assert pair.b.calls[0].get_all("Content-Length") == [str(len(body))]


def test_break_while_the_body_is_sent(pair):
    """The first endpoint dies with half the body read: the next one gets all of it."""
    pair.a.on(CHAT, lambda c, r: (c.read_exact(100000), c.rst()), read_body=False)
    pair.start()
    body = b'{"pad":"' + b"x" * (6 << 20) + b'","model":"m1"}'
    client = pair.proxy.client()
    client.send(request_bytes("POST", PATH, json_headers(), body))
    assert client.read_response("POST", 20).json()["served_by"] == "b"
    client.close()
    assert pair.b.calls[0].body == body


def test_query_and_headers_are_replayed(pair):
    """Not only the body: line and headers of the second attempt must equal the first but for Host."""
    pair.a.on("/v1/x", lambda c, r: c.reply({}, 503))
    pair.b.on("/v1/x", lambda c, r: c.reply({"ok": 1}))
    pair.start()
    reply = pair.proxy.post("/olla/proxy/v1/x?a=1&b=%20", {"model": "m1"}, {"X-Test": "y"})
    assert reply.json() == {"ok": 1}
    first, second = pair.a.calls[0], pair.b.calls[0]
    assert first.line == second.line == "POST /v1/x?a=1&b=%20 HTTP/1.1"
    strip = [h for h in first.headers if h[0].lower() != "host"]
    assert strip == [h for h in second.headers if h[0].lower() != "host"]
    assert second.get("Host") == "127.0.0.1:%d" % pair.b.port


def test_large_error_body_is_not_mixed_in(pair):
    """The body of the passed-over 503 must be thrown away, not sent, and must not stall the retry."""
    pair.a.on(CHAT, lambda c, r: c.reply(b"e" * 3000000, 503))
    pair.start()
    for _ in range(3):
        reply, _ = pair.ask()
        assert reply.json()["served_by"] == "b"


def test_endless_error_body(pair):
    """A 503 whose body never ends must not hold up the retry."""
    pair.a.on(CHAT, lambda c, r: (c.start_chunked("text/plain", 503), c.chunk("x"), hold(c, r)))
    pair.start()
    started = time.monotonic()
    reply, _ = pair.ask()
    assert reply.json()["served_by"] == "b" and time.monotonic() - started < 3
    eventually(lambda: pair.a.calls[0].conn.closed_how, "the first connection was dropped", 5)


# ---- no failover once it would be wrong

@pytest.mark.parametrize("method", ["POST", "GET"])
def test_never_after_the_first_byte(pair, method):
    """Appending a second server's answer to half of the first one's makes nonsense that looks whole."""
    gate = Gate()

    def handler(conn, request):
        conn.start_chunked("text/plain")
        conn.chunk("first half")
        gate.wait()
        conn.rst()
    pair.a.on("/v1/x", handler)
    pair.b.on("/v1/x", lambda c, r: c.reply({"served_by": "b"}))
    pair.start()
    client = pair.proxy.client()
    client.send(request_bytes(method, "/olla/proxy/v1/x", json_headers({"X-Request-ID": "half"}),
                              dump({"model": "m1"}) if method == "POST" else None))
    reply = client.read_head(method)
    reply.read_at_least(10)
    gate.open()
    reply.read_rest()
    assert not reply.complete and reply.body == b"first half"
    client.close()
    assert pair.b.calls == []
    assert pair.proxy.access("half")["end"] == "SD"


def test_header_timeout_is_504_without_failover(pair):
    """A slow model asked twice is twice as slow: slowness alone never moves a request."""
    pair.a.on(CHAT, hold)
    pair.start(**{"proxy.response_header_timeout": "1s"})
    reply, entry = pair.ask()
    assert reply.status == 504
    assert reply.json()["error"]["message"]
    assert (entry["end"], entry["attempts"], entry["status"]) == ("sH", 1, 504)
    assert pair.b.calls == []
    eventually(lambda: pair.a.calls[0].conn.closed_how == "rst", "the slow connection is reset", 3)


def test_connect_timeout_with_one_endpoint_is_504(world):
    """No answer to connect and nobody else: a timeout says so."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": rarely_probed(a)}, {"proxy.connection_timeout": "1s"})
    a.go_silent()
    reply = proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": "ct"})
    assert reply.status == 504
    assert proxy.access("ct")["end"] == "sC"


def test_refused_with_one_endpoint_is_502(world):
    """Refused is not a timeout."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": rarely_probed(a)})
    a.stop()
    reply = proxy.post(PATH, {"model": "m1"}, {"X-Request-ID": "cr"})
    assert reply.status == 502
    assert proxy.access("cr")["end"] == "SC"


# ---- stale kept-alive connections

@pytest.fixture
def single(world):
    class Single:
        a = world.backend(OpenAIBackend, "a", ["m1"])

        def start(self, **settings):
            self.proxy = world.olla({"a": self.a}, settings)
            self.client = world.client(self.proxy)

        def ask(self):
            return self.client.post(PATH, {"model": "m1"})
    return Single()


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_stale_connection_is_retried_on_a_fresh_one(single, how):
    """The keep-alive race: the server closes just when the next request is on its way."""
    def handler(conn, request):
        if len(conn.requests) > 1:
            getattr(conn, how)()  # dies with the request read and no byte answered
        else:
            conn.reply({"served_by": "a"})
    single.a.on(CHAT, handler)
    single.start()
    for _ in range(6):
        assert single.ask().json() == {"served_by": "a"}
    assert len([c for c in single.a.connections if c.requests and c.requests[0].path == CHAT]) >= 4


def test_closed_idle_connection_is_noticed(single):
    """A connection that the server closed while idle must not be used at all."""
    single.a.on(CHAT, lambda c, r: (c.reply({"served_by": "a"}), c.fin()))
    single.start()
    for _ in range(5):
        assert single.ask().json() == {"served_by": "a"}
        time.sleep(0.05)
    assert len(single.a.calls) == 5, "a request was sent into a closed connection"


def test_stale_large_body(single):
    """A stale connection may break while megabytes are sent; all of them must go again."""
    def handler(conn, request):
        if len(conn.requests) > 1:
            conn.read_exact(50000)
            conn.rst()
        else:
            request.read_body()
            conn.reply({"got": len(request.body)})
    single.a.on(CHAT, handler, read_body=False)
    single.start()
    body = b'{"model":"m1","pad":"' + b"x" * 3000000 + b'"}'
    for _ in range(3):
        assert single.client.request("POST", PATH, body, json_headers(), 20).json() == {"got": len(body)}


def test_stale_retry_happens_once(single):
    """A server that drops every connection must not be asked for ever."""
    single.start()
    assert single.ask().status == 200
    single.a.on(CHAT, drop)
    reply = single.ask()
    assert reply.status == 502
    assert len(single.a.calls) == 3  # the good one, the stale one, the fresh one


def test_partial_answer_on_a_reused_connection_is_no_stale_one(single):
    """With bytes of an answer received the server did take the request: not a stale connection."""
    single.start()
    assert single.ask().status == 200
    single.a.on(CHAT, half_head)
    assert single.ask().status == 502
    assert len(single.a.calls) == 2


def test_fresh_connection_dies_with_one_endpoint(single):
    """A first connection that dies is a failure, not a stale connection."""
    single.a.on(CHAT, leave)
    single.start()
    assert single.ask().status == 502
    assert len(single.a.calls) == 1


def test_failover_of_a_stream(pair):
    """Streaming requests move on like others while nothing was sent."""
    pair.a.on(CHAT, drop)
    pair.start()
    reply, _ = pair.ask({"model": "m1", "stream": True})
    assert reply.complete and reply.body.endswith(b"data: [DONE]\n\n") and reply.get("X-Olla-Endpoint") == "b"


def test_failover_on_the_root_api_and_ollama_dialect(world):
    """The root routes take the same path through the code."""
    from backend import OllamaBackend
    a, b = world.backend(OllamaBackend, "a", ["m1"]), world.backend(OllamaBackend, "b", ["m1"])
    proxy = world.olla({"a": endpoint(a, priority=200), "b": b}, PRIORITY)
    a.on("/api/chat", drop)
    reply = proxy.post("/api/chat", {"model": "m1"})
    assert reply.complete and b'"done":true' in reply.body and reply.get("X-Olla-Endpoint") == "b"
    b.on("/api/chat", drop)
    reply = proxy.post("/api/chat", {"model": "m1"})
    assert reply.status in (502, 503) and isinstance(reply.json()["error"], str)
