"""Message framing from the backend's side: replies that lie about their length or shape."""

import pytest

from backend import Backend
from client import dump, request_bytes
from harness import new_id

PATH = "/olla/proxy/v1/chat/completions"
OK = b"HTTP/1.1 200 OK\r\n"


def script(site, raw, close=True):
    """The next calls on the OpenAI-like backend answer exactly these bytes."""
    def handler(conn, request):
        conn.send(raw)
        if close:
            conn.fin()
    site.oai.on("/v1/chat/completions", handler)


def ask(site, client=None):
    client = client or site.client()
    name = new_id()
    client.start_post(PATH, {"model": "m-oai"}, {"X-Request-ID": name})
    return client, name


GARBLED = {
    "two-different-lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "length-list-different": OK + b"Content-Length: 2, 3\r\n\r\nabc",
    "length-and-chunked": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "length-minus": OK + b"Content-Length: -3\r\n\r\nabc",
    "length-text": OK + b"Content-Length: abc\r\n\r\nabc",
    "length-wraps": OK + b"Content-Length: 18446744073709551619\r\n\r\nabc",
    "unknown-coding": OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "chunked-not-last": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\nabc",
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "version-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-text": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "status-two-digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status-four-digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status-zero": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "no-colon": OK + b"Nonsense\r\nContent-Length: 0\r\n\r\n",
    "space-before-colon": OK + b"Content-Length : 0\r\n\r\n",
    "nul-in-head": OK + b"X-Test: a\0b\r\nContent-Length: 0\r\n\r\n",
    "bare-cr-in-head": OK + b"X-Test: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "head-too-long": OK + b"X-Test: " + b"a" * 20000 + b"\r\nContent-Length: 0\r\n\r\n",
    "too-many-headers": OK + b"".join(b"X-%d: a\r\n" % i for i in range(300)) + b"Content-Length: 0\r\n\r\n",
    "many-connection-options": OK + b"Connection: x" + b"," * 12000 + b"\r\nContent-Length: 0\r\n\r\n",
    "many-connection-lines": OK + b"Connection: a, b\r\n" * 60 + b"Content-Length: 0\r\n\r\n",
    "switching-protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
}


@pytest.mark.parametrize("name", list(GARBLED))
def test_garbled_reply_is_502(site, name):
    """A reply of unclear length that is passed on lets the backend's bytes be read as another answer."""
    script(site, GARBLED[name])
    client, request_id = ask(site)
    reply = client.read_response("POST")
    assert reply.status == 502, reply.raw_head
    assert reply.json()["error"]["message"]
    assert b"127.0.0.1" not in reply.body, "backend addresses do not belong in error texts"
    entry = site.proxy.access(request_id)
    assert entry["end"] == "SH" and entry["status"] == 502
    # the client's connection survives a backend's fault
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


@pytest.mark.parametrize("raw,body", [
    (OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    (OK + b"X-Test: a\r\n b\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", b"abc"),
    (b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    (b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    (b"HTTP/1.1 299 Odd \xe9 reason\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
], ids=["equal-lengths", "obs-fold", "bare-lf", "no-reason", "empty-reason", "odd-reason"])
def test_sloppy_reply_is_clean_or_502(site, raw, body):
    """Sloppiness of a backend may be repaired or refused, but never handed to the client as it is."""
    script(site, raw)
    client, _ = ask(site)
    reply = client.read_response("POST")  # the client's parser is strict
    assert reply.status in (200, 299, 502)
    if reply.status != 502:
        assert reply.body == body and reply.complete
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


def test_missing_reason_phrase_is_accepted(site):
    """Servers that omit the reason phrase are common; refusing them breaks working setups."""
    script(site, b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc")
    client, _ = ask(site)
    reply = client.read_response("POST")
    assert (reply.status, reply.body) == (200, b"abc")


def test_reply_byte_by_byte(site):
    """A backend whose packets are cut anywhere must still be understood."""
    raw = (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Transfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
           b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 1\r\n\r\n")

    def handler(conn, request):
        for at in range(len(raw)):
            conn.send(raw[at:at + 1])
    site.oai.on("/v1/chat/completions", handler)
    client, _ = ask(site)
    reply = client.read_response("POST")
    assert (reply.status, reply.body, reply.complete) == (200, b"abcdefg", True)


def test_reply_head_and_body_split_anywhere(site):
    """Chunk headers that straddle two reads are where decoders break."""
    import time
    raw = OK + b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n10\r\nabcdefghijklmnop\r\n0\r\n\r\n"
    splits = list(range(1, len(raw)))

    def handler(conn, request):
        at = splits.pop()
        conn.send(raw[:at])
        time.sleep(0.001)
        conn.send(raw[at:])
    site.oai.on("/v1/chat/completions", handler)
    client = site.client()
    while splits:
        at = splits[-1]
        reply = ask(site, client)[0].read_response("POST")
        assert reply.body == b"0123456789abcdefghijklmnop" and reply.complete, "split at %d" % at


def test_bytes_after_the_reply_are_not_the_next_reply(site):
    """Junk behind a reply, left in a reused connection, would answer somebody else's request."""
    junk = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
    script(site, OK + b"Content-Length: 3\r\n\r\nabc" + junk, close=False)
    client, _ = ask(site)
    reply = client.read_response("POST")
    assert reply.body == b"abc"
    site.oai.on("/v1/chat/completions", Backend.not_found)
    for _ in range(3):
        reply = ask(site, client)[0].read_response("POST")
        assert reply.status == 404 and b"stolen" not in reply.body
    first = site.calls[0].conn
    assert len(first.requests) == 1, "a connection with unasked bytes was reused"


def test_unasked_bytes_on_an_idle_connection(site):
    """A backend that speaks on an idle connection (a late 408, a second answer) must not be believed."""
    import time

    def handler(conn, request):
        conn.reply({"n": 1})
        time.sleep(0.1)
        conn.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 6\r\n\r\nstolen")
    site.oai.on("/v1/chat/completions", handler)
    client, _ = ask(site)
    assert client.read_response("POST").json() == {"n": 1}
    time.sleep(0.4)
    site.oai.on("/v1/chat/completions", lambda c, r: c.reply({"n": 2}))
    assert ask(site, client)[0].read_response("POST").json() == {"n": 2}


@pytest.mark.parametrize("status", [204, 304])
def test_bodyless_statuses(site, status):
    """204 and 304 have no body whatever their headers say; a proxy that waits for one hangs."""
    script(site, b"HTTP/1.1 %d X\r\nETag: \"a\"\r\nX-Test: y\r\n\r\n" % status, close=False)
    client, _ = ask(site)
    reply = client.read_response("POST")
    assert (reply.status, reply.body, reply.get("X-Test")) == (status, b"", "y")
    assert not reply.has("Transfer-Encoding")
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


def test_head_reply_with_length(site):
    """A HEAD reply announces a length but has no body; waiting for it hangs the client."""
    for server in site.servers:
        server.on("/v1/files", lambda c, r: c.head(200, {"Content-Length": "1000", "X-Test": "y"}))
    client = site.client()
    client.send(request_bytes("HEAD", "/olla/openai/v1/files"))
    reply = client.read_response("HEAD")
    assert (reply.status, reply.get("Content-Length")) == (200, "1000")
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


@pytest.mark.parametrize("lines,value", [(b"Content-Length: 5, 5\r\n", "5"), (b"Content-Length: 5\r\nContent-Length: 5\r\n", "5"),
                                         (b"Content-Length: 05\r\n", "5"), (b"Content-Length: 5, 6\r\n", None),
                                         (b"Content-Length: five\r\n", None)], ids=["list", "lines", "zero", "different", "text"])
def test_head_reply_with_an_odd_length(site, lines, value):
    """A length that is copied unread from a HEAD reply is read as another one by the next hop."""
    for server in site.servers:
        server.on("/v1/files", lambda c, r: c.send(OK + lines + b"\r\n"))
    client = site.client()
    client.send(request_bytes("HEAD", "/olla/openai/v1/files"))
    reply = client.read_response("HEAD")
    assert reply.status == 502 or (value and reply.get_all("Content-Length") == [value]), reply.raw_head
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


def test_endless_1xx(site):
    """A backend that sends interim replies for ever must not occupy memory or time without bound."""
    def handler(conn, request):
        for _ in range(2000):
            conn.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        conn.reply({"n": 1})
    site.oai.on("/v1/chat/completions", handler)
    client, _ = ask(site)
    assert client.read_response("POST").status in (200, 502)


def test_error_statuses_are_relayed_as_they_are(site):
    """A 4xx or 500 of the backend is the client's business: status, body and headers unchanged."""
    for status in (400, 401, 404, 418, 422, 500):
        site.oai.on("/v1/chat/completions", lambda c, r, s=status: c.reply(
            {"error": {"message": "own words"}}, s, headers={"X-Test": "y"}))
        reply = site.proxy.post(PATH, {"model": "m-oai"})
        assert (reply.status, reply.get("X-Test")) == (status, "y")
        assert reply.body == dump({"error": {"message": "own words"}})
        assert reply.get("X-Olla-Endpoint") == "oai"


def test_large_reply_head_under_the_limit(site):
    """A head of 12 KB (cookies, CSP) is legal and must pass with our headers added."""
    site.oai.on("/v1/chat/completions", lambda c, r: c.reply({"n": 1}, headers=[("X-%d" % i, "v" * 100) for i in range(100)]))
    reply = site.proxy.post(PATH, {"model": "m-oai"})
    assert reply.status == 200 and reply.get("X-99") == "v" * 100 and reply.get("X-Olla-Endpoint") == "oai"


