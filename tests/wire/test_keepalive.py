"""Several requests on one connection: reuse, pipelining, HTTP/1.0, HEAD, 100-continue."""

import time

import pytest

from backend import BlackHole, Gate, OpenAIBackend, eventually
from client import chunked, dump, json_headers, request_bytes
from harness import endpoint, new_id

PATH = "/olla/proxy/v1/chat/completions"
HEALTH = request_bytes("GET", "/internal/health")


def post_bytes(obj, headers=(), target=PATH, **options):
    return request_bytes("POST", target, json_headers(headers), dump(obj), **options)


def numbered(site):
    """The backend answers with the number it was asked for."""
    site.oai.on("/v1/chat/completions", lambda c, r: c.reply({"n": r.json()["n"]}))


def ask(n, headers=(), **options):
    return post_bytes({"model": "m-oai", "n": n}, headers, **options)


def test_many_requests_on_one_connection(site):
    """State left over from one request breaks the next, or every request opens a new backend connection."""
    numbered(site)
    client = site.client()
    ids = set()
    for n in range(200):
        client.send(ask(n))
        reply = client.read_response("POST")
        assert (reply.status, reply.json()) == (200, {"n": n})
        ids.add(reply.get("X-Olla-Request-ID"))
    assert len(ids) == 200
    assert len({call.conn.index for call in site.calls}) == 1, "backend connections are not reused"


def test_mixed_requests_on_one_connection(site):
    """Local answers, errors and proxied answers in turn must leave the connection in step."""
    numbered(site)
    client = site.client()
    for n in range(10):
        client.send(ask(n))
        assert client.read_response("POST").json() == {"n": n}
        assert client.request("GET", "/internal/health").body == b'{"status":"healthy"}'
        assert client.request("GET", "/nowhere").status == 404
        assert client.post(PATH, {"model": "no-such-model"}).status == 404
        for target, status in (("/nowhere", 404), ("/internal/health", 200)):
            reply = client.request("POST", target, b"x" * 3000)
            assert reply.status == status
            if (reply.get("Connection") or "").lower() == "close":  # allowed with an unwanted body, when it is said
                assert client.read_eof() == b""
                client = site.client()


def test_pipelining_in_order(site):
    """Answers in the wrong order, or lost requests, when a client sends ahead."""
    gate = Gate()

    def handler(conn, request):
        n = request.json()["n"]
        if n == 0:
            gate.wait()
        conn.reply({"n": n})
    site.oai.on("/v1/chat/completions", handler)
    client = site.client()
    client.send(ask(0) + HEALTH + ask(1) + request_bytes("GET", "/nowhere") + ask(2) + HEALTH)
    client.expect_silence(0.3)  # nothing may overtake the slow first one
    gate.open()
    assert client.read_response("POST").json() == {"n": 0}
    assert client.read_response().body == b'{"status":"healthy"}'
    assert client.read_response("POST").json() == {"n": 1}
    assert client.read_response().status == 404
    assert client.read_response("POST").json() == {"n": 2}
    assert client.read_response().body == b'{"status":"healthy"}'
    assert [call.json()["n"] for call in site.calls] == [0, 1, 2]


def test_pipelining_streams(site):
    """A stream followed by a pipelined request: the second answer starts only after the final chunk."""
    client = site.client()
    client.send(post_bytes({"model": "m-oai", "stream": True}) + post_bytes({"model": "m-oai"}))
    first = client.read_response("POST")
    assert first.framing == "chunked" and first.complete and first.body.endswith(b"data: [DONE]\n\n")
    assert client.read_response("POST").json()["served_by"] == "oai"


def test_pipelining_many(site):
    """More pipelined bytes than one buffer: the rest must be read later, not dropped."""
    client = site.client()
    client.send(HEALTH * 1000)  # 45 KB
    for _ in range(1000):
        assert client.read_response().body == b'{"status":"healthy"}'


def test_pipelining_local_answers_in_order(site):
    """Local answers that take turns with other connections must not be swapped, lost or left lying."""
    client = site.client()
    targets = [("/internal/health", 200), ("/nowhere", 404), ("/version", 200), ("/v1/models", 200)] * 16
    names = [new_id("p%d" % n) for n in range(64)]
    client.send(b"".join(request_bytes("GET", target, {"X-Request-ID": name}) for name, (target, _) in zip(names, targets)))
    for name, (target, status) in zip(names, targets):
        reply = client.read_response("GET", 3)
        assert (reply.status, reply.complete, reply.get("X-Olla-Request-ID")) == (status, True, name), target
    client.expect_silence(0.05)


def test_pipelining_bodies_over_one_buffer(site):
    """Pipelined bodies cut by buffer ends must be put together again."""
    numbered(site)
    client = site.client()
    blob = "x" * 9000
    client.send(b"".join(post_bytes({"model": "m-oai", "n": n, "pad": blob}) for n in range(12)))
    for n in range(12):
        assert client.read_response("POST").json() == {"n": n}
    assert all(call.json()["pad"] == blob for call in site.calls)


def test_nothing_is_served_after_connection_close(site):
    """A request behind `Connection: close` must not be carried out."""
    numbered(site)
    client = site.client()
    client.send(ask(1, {"Connection": "close"}) + ask(2))
    reply = client.read_response("POST")
    assert reply.json() == {"n": 1} and reply.get("Connection").lower() == "close"
    assert client.read_eof() == b""
    assert [call.json()["n"] for call in site.calls] == [1]


@pytest.mark.parametrize("value", ["close", "Close", "foo, close", "close,foo", "keep-alive, close"])
def test_connection_close_spellings(site, value):
    """A client that asks for close and waits for the end hangs when the proxy misses it."""
    client = site.client()
    reply = client.request("GET", "/internal/health", headers={"Connection": value})
    assert reply.status == 200
    assert client.read_eof(5) == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("target", ["/internal/health", "/version", "/v1/models", "/nowhere", "/olla/proxy"])
def test_unread_body_ends_the_connection(site, target, framing):
    """The rest of a body nobody reads would be taken for a request: the connection ends, and the answer says so."""
    headers = {"Content-Length": "100000"} if framing == "length" else {"Transfer-Encoding": "chunked"}
    client = site.client()
    client.send(request_bytes("GET", target, headers) + b"5\r\nhello\r\n")
    reply = client.read_response("GET", 3)
    assert reply.status in (200, 301, 302, 307, 308, 404)
    assert (reply.get("Connection") or "").lower() == "close", reply.raw_head
    client.half_close()
    assert client.read_eof(5) == b""
    assert site.calls == []


def test_backend_close_does_not_close_the_client(site):
    """`Connection: close` of a backend is between it and the proxy only."""
    site.oai.on("/v1/chat/completions", lambda c, r: (c.reply({"n": 1}, headers={"Connection": "close"}), c.fin()))
    client = site.client()
    for _ in range(3):
        reply = client.post(PATH, {"model": "m-oai"})
        assert reply.json() == {"n": 1}
        assert "close" not in (reply.get("Connection") or "").lower()
    assert len({call.conn.index for call in site.calls}) == 3


# ---- HTTP/1.0

def test_http10_closes(site):
    """An HTTP/1.0 client waits for the close when it did not ask for keep-alive."""
    client = site.client()
    client.send(post_bytes({"model": "m-oai"}, version="HTTP/1.0"))
    reply = client.read_response("POST")
    assert reply.json()["served_by"] == "oai"
    assert client.read_eof(5) == b""


def test_http10_keep_alive(site):
    """ab and nginx ask for keep-alive in HTTP/1.0; it needs an explicit yes and a length."""
    client = site.client()
    for _ in range(3):
        client.send(post_bytes({"model": "m-oai"}, {"Connection": "keep-alive"}, version="HTTP/1.0"))
        reply = client.read_response("POST")
        assert reply.json()["served_by"] == "oai" and reply.framing == "length"
        assert reply.get("Connection", "").lower() == "keep-alive"


@pytest.mark.parametrize("connection", [(), {"Connection": "keep-alive"}])
def test_http10_stream_is_close_delimited(site, connection):
    """nginx in front of us speaks HTTP/1.0 by default and does not understand chunks."""
    client = site.client()
    client.send(post_bytes({"model": "m-oai", "stream": True}, connection, version="HTTP/1.0"))
    reply = client.read_head("POST")
    assert reply.framing == "close" and not reply.has("Transfer-Encoding")
    reply.read_rest()
    assert reply.complete and reply.body.endswith(b"data: [DONE]\n\n")


def test_http10_without_host(site):
    """HTTP/1.0 knows no Host; refusing its absence locks out old monitors."""
    client = site.client()
    client.send(b"GET /internal/health HTTP/1.0\r\n\r\n")
    assert client.read_response().status == 200
    assert client.read_eof() == b""


def test_http10_local_listing(site):
    """Local documents written in pieces must not be chunked for HTTP/1.0."""
    client = site.client()
    client.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
    reply = client.read_response()
    assert reply.framing in ("length", "close") and reply.json()["object"] == "list"


# ---- HEAD and other methods

@pytest.mark.parametrize("target", ["/internal/health", "/version", "/internal/status", "/v1/models", "/api/tags",
                                    "/api/version", "/olla/proxy/v1/models", "/olla/ollama/api/tags", "/nowhere"])
def test_head_has_no_body(site, target):
    """A body after HEAD is read by the client as the next answer."""
    client = site.client()
    get = client.request("GET", target)
    client.send(request_bytes("HEAD", target) + HEALTH)
    head = client.read_response("HEAD")
    assert head.status == get.status
    assert head.get("Content-Type") == get.get("Content-Type")
    assert client.read_response().body == b'{"status":"healthy"}'


def test_methods_pass_through(site):
    """Methods are the backend's business: DELETE, PUT, PATCH and OPTIONS must arrive as sent."""
    site.oll.on("/api/delete-x", lambda c, r: c.reply({"method": r.method}))
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
        reply = site.proxy.request(method, "/olla/ollama/api/delete-x")
        assert reply.json() == {"method": method}


def test_delete_with_a_body(site):
    """Ollama's DELETE carries a body; proxies that drop it break model removal."""
    site.oll.on("/api/delete-x", lambda c, r: c.reply({"got": r.body.decode()}))
    reply = site.proxy.request("DELETE", "/olla/ollama/api/delete-x", b'{"name":"m-oll"}', json_headers())
    assert reply.json() == {"got": '{"name":"m-oll"}'}


# ---- Expect: 100-continue

def expect_head(size, target=PATH, version="HTTP/1.1"):
    return request_bytes("POST", target, json_headers({"Expect": "100-continue", "Content-Length": str(size)}), version=version)


def test_100_continue(site):
    """curl and cpp-httplib wait for 100 before they send a body; without it they stall a second each time."""
    body = dump({"model": "m-oai", "pad": "x" * 5000})
    client = site.client()
    client.send(expect_head(len(body)))
    interim = client.read_head("POST", 3)
    assert interim.status == 100 and interim.headers == []
    client.send(body)
    assert client.read_response("POST").status == 200
    assert site.calls[0].body == body
    assert not site.calls[0].has("Expect")


def test_100_continue_any_case(site):
    """The token is case-insensitive."""
    body = dump({"model": "m-oai"})
    client = site.client()
    client.send(expect_head(len(body)).replace(b"100-continue", b"100-Continue"))
    assert client.read_head("POST", 3).status == 100
    client.send(body)
    assert client.read_response("POST").status == 200


def test_100_continue_chunked(site):
    """The same for bodies without a length."""
    client = site.client()
    client.send(request_bytes("POST", PATH, json_headers({"Expect": "100-continue", "Transfer-Encoding": "chunked"})))
    assert client.read_head("POST", 3).status == 100
    client.send(chunked(dump({"model": "m-oai"}), 5))
    assert client.read_response("POST").status == 200


def test_100_continue_body_already_there(site):
    """A client that does not wait gets one final answer; an extra 100 is allowed before it only."""
    client = site.client()
    body = dump({"model": "m-oai"})
    client.send(expect_head(len(body)) + body + HEALTH)
    reply = client.read_head("POST")
    if reply.status == 100:
        reply = client.read_head("POST")
    assert reply.read_rest().status == 200
    assert client.read_response().body == b'{"status":"healthy"}'


def test_100_continue_is_not_for_http10(site):
    """An HTTP/1.0 client would take the 100 for the answer."""
    body = dump({"model": "m-oai"})
    client = site.client()
    client.send(expect_head(len(body), version="HTTP/1.0"))
    time.sleep(0.2)
    client.send(body)
    assert client.read_response("POST").status == 200


def test_100_continue_to_a_local_path(site):
    """A body nobody needs: a final answer at once, or 100 and then the answer; never a stall."""
    client = site.client()
    client.send(expect_head(10, "/internal/health"))
    reply = client.read_head("POST", 3)
    if reply.status == 100:
        client.send(b"0123456789")
        reply = client.read_head("POST", 3)
        assert reply.read_rest().status == 200
        client.send(HEALTH)
        assert client.read_response().status == 200
    else:
        assert reply.read_rest().status == 200


# ---- idle connections

def test_idle_connection_is_closed(world):
    """Idle clients that are kept for ever use up all slots."""
    proxy = world.olla({}, {"server.idle_timeout": "1s"}, ready=None)
    client = world.client(proxy)
    assert client.request("GET", "/internal/health").status == 200
    started = time.monotonic()
    assert client.read_eof(8) == b"", "an idle connection is closed without a word"
    assert time.monotonic() - started > 0.5


def test_idle_timeout_defaults_to_read_timeout(world):
    """idle_timeout unset means read_timeout, as in the reference."""
    proxy = world.olla({}, {"server.read_timeout": "1s"}, ready=None)
    client = world.client(proxy)
    assert client.request("GET", "/internal/health").status == 200
    assert client.read_eof(8) == b""


def test_idle_timeout_does_not_cut_a_running_request(world):
    """A model that thinks longer than idle_timeout must not lose its client."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    backend.on("/v1/chat/completions", lambda c, r: (time.sleep(2.5), c.reply({"n": 1})))
    proxy = world.olla({"a": backend}, {"server.idle_timeout": "1s", "server.read_timeout": "1s",
                                        "server.read_header_timeout": "1s"})
    client = world.client(proxy)
    assert client.post(PATH, {"model": "m1"}).json() == {"n": 1}


def test_upstream_keep_alive_is_bounded(world):
    """uvicorn closes idle connections after 5 s: one reused near that age dies under the request."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(backend, type="vllm", check_interval="60s")})
    client = world.client(proxy)
    assert client.post(PATH, {"model": "m1"}).status == 200
    assert client.post(PATH, {"model": "m1"}).status == 200
    time.sleep(4.5)
    assert client.post(PATH, {"model": "m1"}).status == 200
    used = [call.conn.index for call in backend.calls]
    assert used[0] == used[1] and used[2] != used[1]


def test_keep_alive_header_of_the_backend(world):
    """`Keep-Alive: timeout=1` announces the close; a request sent after it meets a dead connection."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    backend.on("/v1/chat/completions", lambda c, r: c.reply({"n": 1}, headers={"Keep-Alive": "timeout=1", "Connection": "keep-alive"}))
    proxy = world.olla({"a": endpoint(backend, type="ollama", health_check_url="/health", model_url="/v1/models")}, ready={"a": 0})
    client = world.client(proxy)
    assert client.post("/olla/proxy/v1/chat/completions", {}).json() == {"n": 1}
    time.sleep(1.2)
    assert client.post("/olla/proxy/v1/chat/completions", {}).json() == {"n": 1}
    assert len({call.conn.index for call in backend.calls}) == 2, "reused after its announced end"


def test_sherpa_uses_fresh_connections(world):
    """engine = sherpa is the plain mode for backends that misbehave on reuse."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": backend}, {"proxy.engine": "sherpa"})
    client = world.client(proxy)
    for _ in range(4):
        assert client.post(PATH, {"model": "m1"}).status == 200
    assert len({call.conn.index for call in backend.calls}) == 4
    eventually(lambda: all(call.conn.closed_how for call in backend.calls), "fresh connections are closed after use", 3)


def test_many_clients_at_once(site):
    """Answers of concurrent requests must not be mixed up."""
    numbered(site)
    clients = [site.client() for _ in range(60)]
    for n, client in enumerate(clients):
        client.send(ask(n))
    for n, client in enumerate(clients):
        assert client.read_response("POST").json() == {"n": n}


def test_request_ids_are_adopted_only_when_sane(site):
    """A request id with blanks or of endless length would break log lines; a good one must be kept."""
    good = new_id()
    reply = site.proxy.get("/internal/health", {"X-Request-ID": good})
    assert reply.get("X-Olla-Request-ID") == good
    for bad in ("with space", "x" * 129, "caf\xe9"):
        reply = site.proxy.get("/internal/health", {"X-Request-ID": bad})
        assert reply.status == 200 and reply.get("X-Olla-Request-ID") not in (None, "", bad)


def test_a_black_hole_blocks_nobody(world):
    """One endpoint that never accepts must not delay requests to another."""
    hole = world.keep(BlackHole())
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"hole": endpoint(hole), "a": backend}, ready=["a"])
    client = world.client(proxy)
    for _ in range(20):
        started = time.monotonic()
        assert client.post(PATH, {"model": "m1"}).status == 200
        assert time.monotonic() - started < 2
