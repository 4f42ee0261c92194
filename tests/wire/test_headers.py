"""Headers in both directions: what is added, kept and dropped."""

import re
import time

import pytest

from backend import OpenAIBackend, VllmBackend
from client import chunked, dump, json_headers, request_bytes
from harness import endpoint, new_id, run_cli

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def version():
    return run_cli("--version")[1].strip()


def send(site, headers, model="m-oai", **options):
    """The request as the backend got it."""
    reply = site.proxy.request("POST", PATH, dump({"model": model}), json_headers(headers), **options)
    assert reply.status == 200, reply.body
    return site.calls[-1]


# ---- towards the backend

def test_host_is_the_backends(site):
    """Ollama refuses a foreign Host; virtual hosts pick the wrong site."""
    call = send(site, [], host="proxy.example:40114")
    assert call.get_all("Host") == ["127.0.0.1:%d" % site.oai.port]
    assert call.get_all("X-Forwarded-Host") == ["proxy.example:40114"]


def test_absolute_form_does_not_choose_the_host(site):
    """The host of an absolute target must neither be contacted nor forwarded."""
    client = site.client()
    client.send(request_bytes("POST", "http://evil.example" + PATH, json_headers(), dump({"model": "m-oai"})))
    assert client.read_response("POST").status == 200
    assert site.calls[0].target == CHAT
    assert site.calls[0].get("Host") == "127.0.0.1:%d" % site.oai.port


def test_forwarding_headers(site, version):
    """What the backend may want to know about the client, when the client said nothing."""
    call = send(site, [])
    assert call.get_all("X-Forwarded-For") == ["127.0.0.1"]
    assert call.get_all("X-Real-IP") == ["127.0.0.1"]
    assert call.get_all("X-Forwarded-Proto") == ["http"]
    assert call.get_all("X-Forwarded-Host") == ["olla.test"]
    assert call.get_all("X-Proxied-By") == ["Olla/" + version]
    assert call.get_all("Via") == ["1.1 olla/" + version]
    assert call.get_all("X-Model") == ["m-oai"]


def test_forwarding_headers_are_extended(site, version):
    """Behind another proxy: the peer is appended (the reference repeats the first element instead)."""
    call = send(site, {"X-Forwarded-For": "10.1.2.3, 10.4.5.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "chat.example",
                       "Via": "1.1 nginx", "X-Real-IP": "10.1.2.3"})
    assert ", ".join(call.get_all("X-Forwarded-For")) == "10.1.2.3, 10.4.5.6, 127.0.0.1"
    assert call.get_all("X-Forwarded-Proto") == ["https"]
    assert call.get_all("X-Forwarded-Host") == ["chat.example"]
    assert call.get_all("X-Real-IP") == ["10.1.2.3"]
    assert ", ".join(call.get_all("Via")) == "1.1 nginx, 1.1 olla/" + version


def test_two_forwarded_for_lines(site):
    """A list may be spread over lines; no element may get lost or change place."""
    call = send(site, [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2")])
    assert ", ".join(call.get_all("X-Forwarded-For")) == "10.0.0.1, 10.0.0.2, 127.0.0.1"


def test_hop_by_hop_headers_are_dropped(site):
    """Headers of one hop that reach the backend change how it treats our connection."""
    call = send(site, {"Connection": "keep-alive, X-Drop-Me ,x-drop-me-too", "Keep-Alive": "timeout=5", "TE": "trailers",
                       "Proxy-Connection": "keep-alive", "X-Drop-Me": "1", "X-Drop-Me-Too": "2", "X-Keep-Me": "3",
                       "Proxy-Authenticate": "x", "Proxy-Authorization": "Basic eA=="})
    for name in ("Keep-Alive", "TE", "Proxy-Connection", "X-Drop-Me", "X-Drop-Me-Too", "Proxy-Authenticate", "Proxy-Authorization"):
        assert not call.has(name), name
    assert "x-drop-me" not in (call.get("Connection") or "").lower()
    assert call.get("X-Keep-Me") == "3"


def test_connection_cannot_remove_what_we_add(site):
    """`Connection: X-Forwarded-For` is a known trick to remove a proxy's own headers."""
    call = send(site, {"Connection": "close, X-Forwarded-For, Host, Content-Length, Content-Type, X-Real-IP, Via"})
    assert call.get("X-Forwarded-For") == "127.0.0.1" and call.get("X-Real-IP") == "127.0.0.1"
    assert call.get("Host") == "127.0.0.1:%d" % site.oai.port
    assert call.get_all("Content-Length") == [str(len(call.body))] and call.body == dump({"model": "m-oai"})
    assert call.has("Via")


def test_h2c_upgrade_is_stripped(site):
    """Java's HttpClient offers h2c with every request; LM Studio then never answers."""
    call = send(site, {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"})
    assert not call.has("Upgrade") and not call.has("HTTP2-Settings")
    assert "upgrade" not in (call.get("Connection") or "").lower()


def test_credentials_are_dropped(site):
    """Keys meant for the proxy must not be handed to every backend of the house."""
    call = send(site, {"Authorization": "Bearer secret", "Cookie": "a=b", "X-Api-Key": "secret", "X-Auth-Token": "secret", "x-API-key": "secret"})
    assert b"secret" not in call.raw_head and not call.has("Cookie")


def test_browser_headers_are_dropped_for_ollama(site):
    """Ollama answers 403 to an Origin it does not know."""
    call = send(site, {"Origin": "http://chat.example", "Referer": "http://chat.example/x", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}, "m-oll")
    assert call.conn.backend is site.oll
    for name in ("Origin", "Referer", "Sec-Fetch-Mode", "Sec-Fetch-Site"):
        assert not call.has(name), name


def test_ordinary_headers_pass(site):
    """Everything else is the business of client and backend: name, value, order and repeats."""
    wanted = [("User-Agent", "client/1"), ("Accept", "text/event-stream"), ("Accept-Encoding", "gzip, br, zstd"), ("X-A", "1"), ("X-B", "two  words"),
              ("X-A", "2"), ("anthropic-beta", "a,b"), ("OpenAI-Organization", "o"), ("X-Olla-Session-ID", "s1"), ("X-Empty", ""), ("X-A", "3")]
    call = send(site, wanted)
    names = {name.lower() for name, _ in wanted}
    assert [(n, v) for n, v in call.headers if n.lower() in names] == wanted
    assert call.get("Content-Type") == "application/json"


def test_request_id(site):
    """A client's id passes through; one we made is for our own log and must not be sent."""
    name = new_id()
    assert send(site, {"X-Request-ID": name}).get_all("X-Request-ID") == [name]
    call = send(site, [])
    assert not call.has("X-Request-ID") and not call.has("X-Olla-Request-ID")


def test_client_cannot_forge_our_headers(site, version):
    """X-Model and X-Proxied-By tell the backend what we found, not what the client claims."""
    call = send(site, {"X-Model": "forged", "X-Proxied-By": "forged", "x-model": "forged2"})
    assert call.get_all("X-Model") == ["m-oai"] and call.get_all("X-Proxied-By") == ["Olla/" + version]


@pytest.mark.parametrize("method,body,length", [("POST", b"", "0"), ("PUT", b"", "0"), ("GET", None, None), ("DELETE", None, None), ("POST", b"abc", "3")])
def test_body_framing(site, method, body, length):
    """vLLM and small servers see an empty body when it comes in chunks: always a Content-Length."""
    for server in site.servers:
        server.on("/v1/x", lambda c, r: c.reply(b"ok"))
    assert site.proxy.request(method, "/olla/proxy/v1/x", body, {"X-Test-Call": "1"}).status == 200
    call = site.calls[0]
    assert call.get("Content-Length") in ((length,) if length else (None, "0"))
    assert not call.has("Transfer-Encoding") and call.version == "HTTP/1.1" and call.body == (body or b"")


def test_chunked_body_gets_a_length(site):
    """Node sends chunks when it does not know the length; llama.cpp hung on a copied Transfer-Encoding."""
    body = dump({"model": "m-oai", "x": "y" * 3000})
    client = site.client()
    client.send(request_bytes("POST", PATH, json_headers({"Transfer-Encoding": "chunked", "Trailer": "X-Sum"})) + chunked(body, 100))
    assert client.read_response("POST").status == 200
    call = site.calls[0]
    assert call.get_all("Content-Length") == [str(len(body))] and call.body == body
    assert not call.has("Transfer-Encoding") and not call.has("Trailer")


def test_head_that_does_not_fit_any_more(world):
    """A request refused because our own headers make it too long was never sent: it is no success of the endpoint."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    backend.on(CHAT, lambda c, r: (time.sleep(0.06), c.reply({})))
    proxy = world.olla({"a": backend})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    for _ in range(3):
        reply = proxy.post(PATH, {"model": "m1"}, {"X-Forwarded-For": "1" * 13500})
        assert reply.status == 431, reply.status
    status = proxy.status()
    entry = status["endpoints"][0]
    assert entry["requests"] == 1 and entry["connections"] == 0 and entry["success_rate"] == "100%"
    assert entry["min_latency_ms"] >= 50 and entry["avg_latency_ms"] >= 50
    assert status["system"]["total_requests"] == 1 and len(backend.calls) == 1


def test_user_agent_is_not_invented(site):
    """A client without User-Agent is rare but legal; the request must still be well-formed."""
    call = send(site, [])
    assert len(call.get_all("User-Agent")) <= 1 and len(call.get_all("Accept")) == 0


# ---- towards the client

def test_added_response_headers(site, version):
    """The headers dashboards and scripts of the reference read."""
    name = new_id()
    reply = site.proxy.post(PATH, {"model": "M-OAI"}, {"X-Request-ID": name})
    assert reply.get_all("X-Olla-Request-ID") == [name]
    assert reply.get_all("X-Olla-Endpoint") == ["oai"]
    assert reply.get_all("X-Olla-Backend-Type") == ["openai-compatible"]
    assert reply.get_all("X-Olla-Model") == ["M-OAI"]
    assert re.match(r"[0-9]+ms\Z", reply.get("X-Olla-Response-Time"))
    assert reply.get_all("X-Served-By") == ["Olla/" + version]
    assert reply.get_all("Via") == ["1.1 olla/" + version]
    assert reply.get_all("X-Olla-Routing-Reason") == ["model_found"]


def test_added_headers_on_streams(site):
    """Streams carry the same headers."""
    reply = site.proxy.post(PATH, {"model": "m-oai", "stream": True})
    for name in ("Request-ID", "Endpoint", "Backend-Type", "Model", "Response-Time", "Routing-Strategy"):
        assert len(reply.get_all("X-Olla-" + name)) == 1, name


def test_backend_type_as_configured(world):
    """`type` is reported as the operator wrote it."""
    a = world.backend(VllmBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, type="openai", health_check_url="/health")})
    assert proxy.post(PATH, {"model": "m1"}).get("X-Olla-Backend-Type") == "openai"


def test_response_headers_dropped(site):
    """Secrets, cookies and hop-by-hop headers of a backend must stay inside."""
    dropped = {"Authorization": "x", "Proxy-Authorization": "x", "X-Api-Key": "x", "X-Auth-Token": "x", "Set-Cookie": "a=b",
               "X-Olla-Endpoint": "forged", "X-Olla-Anything": "forged", "Keep-Alive": "timeout=5", "Connection": "keep-alive, X-Hop",
               "X-Hop": "1", "Proxy-Connection": "keep-alive", "Proxy-Authenticate": "Basic", "Upgrade": "h2c", "TE": "trailers", "Trailer": "X-T"}
    site.oai.on(CHAT, lambda c, r: c.reply({"n": 1}, headers=dict(dropped, **{"X-Kept": "y"})))
    reply = site.proxy.post(PATH, {"model": "m-oai"})
    assert reply.get("X-Kept") == "y" and reply.get_all("X-Olla-Endpoint") == ["oai"]
    for name in dropped:
        if name not in ("X-Olla-Endpoint", "Connection"):
            assert not reply.has(name), name
    assert "x-hop" not in (reply.get("Connection") or "").lower()


def test_response_headers_kept(site):
    """Date, Server, encodings, caching, rate limits and repeated headers are the backend's own words."""
    kept = [("Date", "Thu, 01 Jan 2026 00:00:00 GMT"), ("Server", "uvicorn"), ("Content-Encoding", "br"), ("ETag", '"x"'), ("Cache-Control", "no-store"),
            ("X-RateLimit-Remaining-Tokens", "5"), ("Access-Control-Allow-Origin", "*"), ("X-Multi", "1"), ("X-Multi", "2"), ("Vary", "Origin"),
            ("openai-processing-ms", "12"), ("Retry-After", "3"), ("Location", "/x")]
    site.oai.on(CHAT, lambda c, r: c.reply(b"\x00\x01\x02", ctype="application/octet-stream", headers=kept))
    reply = site.proxy.post(PATH, {"model": "m-oai"})
    for name in {name for name, _ in kept}:
        assert reply.get_all(name) == [v for n, v in kept if n == name], name
    assert reply.body == b"\x00\x01\x02" and reply.get_all("Content-Length") == ["3"]
    assert reply.get_all("Content-Type") == ["application/octet-stream"]


def test_upstream_via_is_kept(site, version):
    """A chain of proxies shows every hop."""
    site.oai.on(CHAT, lambda c, r: c.reply({}, headers={"Via": "1.1 litellm", "X-Served-By": "gpu-1"}))
    reply = site.proxy.post(PATH, {"model": "m-oai"})
    vias = ", ".join(reply.get_all("Via"))
    assert "1.1 litellm" in vias and "1.1 olla/" + version in vias
    served = ", ".join(reply.get_all("X-Served-By"))
    assert "gpu-1" in served and "Olla/" + version in served


def test_connection_named_framing_of_the_backend(site):
    """`Connection: content-length` from a backend must not take the length away from the client."""
    site.oai.on(CHAT, lambda c, r: c.reply(b"12345", ctype="text/plain", headers={"Connection": "content-length, content-type"}))
    client = site.client()
    reply = client.post(PATH, {"model": "m-oai"})
    assert reply.complete and reply.body == b"12345" and reply.framing in ("length", "chunked")
    assert client.request("GET", "/internal/health").status == 200


def test_content_type_is_untouched(site):
    """A changed charset or a guessed type breaks strict clients."""
    for ctype in ("application/json; charset=utf-8", "Text/Event-Stream;charset=UTF-8", "audio/mpeg"):
        site.oai.on(CHAT, lambda c, r, t=ctype: c.reply(b"{}", ctype=t))
        assert site.proxy.post(PATH, {"model": "m-oai"}).get_all("Content-Type") == [ctype]


def test_local_answers_have_an_id_and_a_type(site):
    """Local documents carry a request id like relayed ones, and name no endpoint."""
    for target, ctype in (("/internal/health", "application/json"), ("/version", "application/json"), ("/internal/status", "application/json"),
                          ("/v1/models", "application/json"), ("/api/tags", "application/json"), ("/api/version", "application/json")):
        reply = site.proxy.get(target)
        assert reply.status == 200 and reply.get("Content-Type").startswith(ctype), target
        assert len(reply.get_all("X-Olla-Request-ID")) == 1 and not reply.has("X-Olla-Endpoint")
        assert reply.framing in ("length", "chunked")


def test_bad_gateway_names_no_secrets(site):
    """A 502 carries the id for the log, and no address of the backend."""
    site.oai.on(CHAT, lambda c, r: c.fin())
    reply = site.proxy.post(PATH, {"model": "m-oai"})
    assert reply.status == 502 and reply.has("X-Olla-Request-ID")
    assert str(site.oai.port).encode() not in reply.body


def test_date_is_there_once(site):
    """Two Date headers, ours and the backend's, confuse caches."""
    site.oai.on(CHAT, lambda c, r: c.reply({}, headers={"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}))
    assert len(site.proxy.post(PATH, {"model": "m-oai"}).get_all("Date")) == 1
    assert len(site.proxy.get("/internal/health").get_all("Date")) <= 1


def test_reply_header_values_survive(site):
    """Odd but legal values: blanks inside, high bytes, an empty value, 4000 bytes."""
    values = {"X-Blanks": "a  b\tc", "X-High": "caf\xc3\xa9", "X-Empty": "", "X-Long": "v" * 4000}

    def handler(conn, request):
        head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + "".join("%s: %s\r\n" % pair for pair in values.items())
        conn.send((head + "\r\n").encode("latin-1"))
    site.oai.on(CHAT, handler)
    reply = site.proxy.post(PATH, {"model": "m-oai"})
    assert {name: reply.get(name) for name in values} == values
