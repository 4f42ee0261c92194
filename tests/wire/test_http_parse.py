"""Message framing from the client's side: what smuggling attacks send. A message is
refused and the connection closed, or forwarded as exactly one unambiguous request."""

import pytest

from backend import eventually
from client import Client, chunked, dump, request_bytes

PATH = "/olla/proxy/v1/chat/completions"
BODY = dump({"model": "m-oai"})
SIZE = b"%d" % len(BODY)
HIDDEN = b"GET /olla/proxy/v1/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
LINE = b"POST " + PATH.encode() + b" HTTP/1.1"
HOST = b"Host: x"
JSON = b"Content-Type: application/json"
CL = b"Content-Length: " + SIZE
TE = b"Transfer-Encoding: chunked"
CHUNKS = chunked(BODY)
BAD = {400}
CODING = {400, 501}


def head(*lines, eol=b"\r\n"):
    return eol.join(lines) + eol + eol


def message(*headers, body=BODY, line=LINE, host=HOST):
    return head(*[part for part in (line, host, JSON) if part] + list(headers)) + body


def chunk_message(body):
    return message(TE, body=body)


def value_message(value):
    return message(b"X-Test: " + value, CL)


REFUSED = {
    # -- Content-Length
    "two-different-lengths": (message(CL, b"Content-Length: 5"), BAD),
    "two-different-lengths-small-first": (message(b"Content-Length: 5", CL), BAD),
    "two-equal-lengths": (message(CL, CL), BAD),
    "length-list": (message(CL + b", " + SIZE), BAD),
    "length-list-different": (message(CL + b", 3"), BAD),
    "length-plus": (message(b"Content-Length: +" + SIZE), BAD),
    "length-minus": (message(b"Content-Length: -1"), BAD),
    "length-minus-zero": (message(b"Content-Length: -0", body=b""), BAD),
    "length-hex": (message(b"Content-Length: 0x11"), BAD),
    "length-empty": (message(b"Content-Length:"), BAD),
    "length-fraction": (message(b"Content-Length: 17.0"), BAD),
    "length-two-numbers": (message(b"Content-Length: 1 7"), BAD),
    "length-junk-after": (message(CL + b"a"), BAD),
    "length-semicolon": (message(CL + b";"), BAD),
    "length-underscore": (message(b"Content-Length: 1_7"), BAD),
    "length-quoted": (message(b'Content-Length: "17"'), BAD),
    "length-wraps-64-bits": (message(b"Content-Length: 18446744073709551633"), {400, 413}),
    "length-wraps-32-bits": (message(b"Content-Length: 4294967313"), {400, 413}),
    "length-vertical-tab": (message(b"Content-Length: \x0b17"), BAD),
    "length-space-before-colon": (message(b"Content-Length : " + SIZE), BAD),
    "length-tab-before-colon": (message(b"Content-Length\t: " + SIZE), BAD),
    # -- Content-Length with Transfer-Encoding
    "length-and-chunked": (message(CL, TE, body=CHUNKS), BAD),
    "chunked-and-length": (message(TE, CL, body=CHUNKS), BAD),
    "length-zero-and-chunked": (message(b"Content-Length: 0", TE, body=CHUNKS), BAD),
    "length-and-unknown-coding": (message(CL, b"Transfer-Encoding: x"), CODING),
    "length-and-empty-coding": (message(CL, b"Transfer-Encoding:"), CODING),
    # -- Transfer-Encoding
    "chunked-not-last": (message(b"Transfer-Encoding: chunked, identity", body=CHUNKS), CODING),
    "chunked-not-last-two-lines": (message(TE, b"Transfer-Encoding: identity", body=CHUNKS), CODING),
    "chunked-twice": (message(b"Transfer-Encoding: chunked, chunked", body=CHUNKS), CODING),
    "chunked-twice-two-lines": (message(TE, TE, body=CHUNKS), CODING),
    "identity": (message(b"Transfer-Encoding: identity"), CODING),
    "unknown-coding": (message(b"Transfer-Encoding: xchunked", body=CHUNKS), {501}),
    "gzip-chunked": (message(b"Transfer-Encoding: gzip, chunked", body=CHUNKS), {501}),
    "coding-parameter": (message(b"Transfer-Encoding: chunked;q=1", body=CHUNKS), CODING),
    "coding-vertical-tab": (message(b"Transfer-Encoding: \x0bchunked", body=CHUNKS), CODING),
    "coding-vertical-tab-after": (message(b"Transfer-Encoding: chunked\x0b", body=CHUNKS), CODING),
    "coding-nul-after": (message(b"Transfer-Encoding: chunked\x00", body=CHUNKS), CODING),
    "coding-quoted": (message(b'Transfer-Encoding: "chunked"', body=CHUNKS), CODING),
    "coding-space-inside": (message(b"Transfer-Encoding: chun ked", body=CHUNKS), CODING),
    "coding-space-before-colon": (message(b"Transfer-Encoding : chunked", body=CHUNKS), BAD),
    "coding-high-byte": (message(b"Transfer-Encoding: chunked\xff", body=CHUNKS), CODING),
    # -- line structure
    "obs-fold": (message(b"X-Test: a", b" b", CL), BAD),
    "obs-fold-tab": (message(b"X-Test: a", b"\tb", CL), BAD),
    "obs-fold-coding": (message(b"Transfer-Encoding:", b" chunked", body=CHUNKS), BAD),
    "obs-fold-first": (head(LINE, b" X-Test: a", HOST, CL) + BODY, BAD),
    "bare-cr-in-value": (value_message(b"a\rContent-Length: 3"), BAD),
    "bare-cr-then-lf-lines": (message(b"X-Test: a\r\rb", CL), BAD),
    "bare-lf-in-head": (message(b"X-Test: a\nX-Other: b", CL), BAD),
    "bare-lf-everywhere": (head(LINE, HOST, CL, eol=b"\n") + BODY, BAD),
    "bare-lf-ends-head": (b"\r\n".join([LINE, HOST, CL]) + b"\n\n" + BODY, BAD),
    "lf-cr": (message(b"X-Test: a\n\rX-Other: b", CL), BAD),
    "nul-in-value": (value_message(b"a\0b"), BAD),
    "nul-in-name": (message(b"X-Te\0st: a", CL), BAD),
    "control-in-value": (value_message(b"a\x01b"), BAD),
    "delete-in-value": (value_message(b"a\x7fb"), BAD),
    "no-colon": (message(b"NoColonHere", CL), BAD),
    "empty-name": (message(b": value", CL), BAD),
    "space-in-name": (message(b"Foo Bar: x", CL), BAD),
    "separator-in-name": (message(b"Foo(): x", CL), BAD),
    "high-byte-in-name": (message(b"Fo\xe9: x", CL), BAD),
    "name-starts-with-space": (message(b"X-Test: a", CL) .replace(b"Host: x", b" Host: x"), BAD),
    # -- Host
    "no-host": (message(CL, host=None), BAD),
    "two-hosts": (message(b"Host: y", CL), BAD),
    "two-equal-hosts": (message(b"Host: x", CL), BAD),
    "host-with-space": (message(CL, host=b"Host: a b"), BAD),
    "host-with-slash": (message(CL, host=b"Host: a/b"), BAD),
    "host-with-at": (message(CL, host=b"Host: a@b"), BAD),
    # -- request line
    "double-space": (message(CL, line=b"POST  " + PATH.encode() + b" HTTP/1.1"), BAD),
    "double-space-before-version": (message(CL, line=b"POST " + PATH.encode() + b"  HTTP/1.1"), BAD),
    "tab-separated": (message(CL, line=b"POST\t" + PATH.encode() + b"\tHTTP/1.1"), BAD),
    "leading-space": (message(CL, line=b" " + LINE), BAD),
    "trailing-space": (message(CL, line=LINE + b" "), {400, 505}),
    "space-in-target": (message(CL, line=b"POST /olla/proxy/v1/a b HTTP/1.1"), {400, 505}),
    "control-in-target": (message(CL, line=b"POST /olla/proxy/v1/a\x01b HTTP/1.1"), BAD),
    "nul-in-target": (message(CL, line=b"POST /olla/proxy/v1/a\x00b HTTP/1.1"), BAD),
    "delete-in-target": (message(CL, line=b"POST /olla/proxy/v1/a\x7fb HTTP/1.1"), BAD),
    "bare-cr-in-line": (message(CL, line=b"POST /olla/proxy/v1/a\rb HTTP/1.1"), BAD),
    "bad-percent": (message(CL, line=b"POST /olla/proxy/v1/%zz HTTP/1.1"), BAD),
    "cut-percent": (message(CL, line=b"POST /olla/proxy/v1/a% HTTP/1.1"), BAD),
    "target-without-slash": (message(CL, line=b"POST olla/proxy/v1/x HTTP/1.1"), BAD),
    "no-target": (message(CL, line=b"POST HTTP/1.1"), BAD),
    "no-version": (message(CL, line=b"POST " + PATH.encode()), {400, 505}),
    "only-method": (message(CL, line=b"POST"), BAD),
    "version-lower-case": (message(CL, line=b"POST " + PATH.encode() + b" http/1.1"), {400, 505}),
    "version-2": (message(CL, line=b"POST " + PATH.encode() + b" HTTP/2.0"), {505}),
    "version-3": (message(CL, line=b"POST " + PATH.encode() + b" HTTP/3.0"), {505}),
    "version-0.9": (message(CL, line=b"POST " + PATH.encode() + b" HTTP/0.9"), {400, 505}),
    "version-two-digits": (message(CL, line=b"POST " + PATH.encode() + b" HTTP/1.10"), {400, 505}),
    "version-short": (message(CL, line=b"POST " + PATH.encode() + b" HTTP/1"), {400, 505}),
    "version-other": (message(CL, line=b"POST " + PATH.encode() + b" FTTP/1.1"), {400, 505}),
    "method-not-a-token": (message(CL, line=b"PO(ST " + PATH.encode() + b" HTTP/1.1"), BAD),
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "tls-hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 64 + b"\r\n\r\n", BAD),
    # -- chunks
    "chunk-size-not-hex": (chunk_message(b"g\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-empty": (chunk_message(b"\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-minus": (chunk_message(b"-5\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-plus": (chunk_message(b"+5\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-0x": (chunk_message(b"0x5\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-leading-space": (chunk_message(b" 5\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-underscore": (chunk_message(b"0_5\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-wraps-64-bits": (chunk_message(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), {400, 413}),
    "chunk-size-huge": (chunk_message(b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"), {400, 413}),
    "chunk-size-bare-lf": (chunk_message(b"5\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-size-cr-only": (chunk_message(b"5\rhello\r\n0\r\n\r\n"), BAD),
    "chunk-too-short": (chunk_message(b"5\r\nhelloworld\r\n0\r\n\r\n"), BAD),
    "chunk-too-long": (chunk_message(b"5\r\nhel\r\n0\r\n\r\n"), BAD),
    "chunk-data-bare-lf": (chunk_message(b"5\r\nhello\n0\r\n\r\n"), BAD),
    "chunk-extension-lf": (chunk_message(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-extension-cr": (chunk_message(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-extension-nul": (chunk_message(b"5;a\0b\r\nhello\r\n0\r\n\r\n"), BAD),
    "chunk-extension-endless": (chunk_message(b"5;" + b"a" * 40000 + b"\r\nhello\r\n0\r\n\r\n"), {400, 413, 431}),
    "chunk-trailer-bare-lf": (chunk_message(b"0\r\nX: a\nY: b\r\n\r\n"), BAD),
    "chunk-trailer-endless": (chunk_message(b"0\r\n" + b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 2000), {400, 413, 431}),
    # -- size
    "too-many-headers": (message(*[b"X-%d: a" % i for i in range(200)] + [CL]), {431}),
    "head-too-long": (message(b"X-Test: " + b"a" * 20000, CL), {431}),
    "many-connection-options": (message(CL, b"Connection: " + b",".join(b"x-%d" % i for i in range(1000))), BAD),
    "many-empty-connection-options": (message(CL, b"Connection: x" + b"," * 12000), BAD),
    "many-connection-lines": (message(*[b"Connection: a, b"] * 60 + [CL]), BAD),
    "line-too-long": (message(CL, line=b"POST /olla/proxy/" + b"a" * 20000 + b" HTTP/1.1"), {400, 414, 431}),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_and_closed(site, name):
    """An ambiguous message that is answered and kept open, or reaches the backend, lets a
    second request hide inside the first."""
    raw, statuses = REFUSED[name]
    client = site.client()
    client.try_send(raw + HIDDEN)
    reply = client.read_response("POST")
    assert reply.status in statuses, reply.raw_head
    assert reply.complete
    assert (reply.get("Connection") or "").lower() == "close"
    rest = client.read_eof()
    assert rest == b"", "a second answer on a connection that must be dead: %r" % rest
    assert [call.line for call in site.calls] == []


FORWARDED = {
    # name: (raw bytes, body the backend must get)
    "plain": (message(CL), BODY),
    "length-leading-zeros": (message(b"Content-Length: 00" + SIZE), BODY),
    "length-with-spaces": (message(b"Content-Length: \t " + SIZE + b" \t"), BODY),
    "length-without-space": (message(b"content-length:" + SIZE), BODY),
    "chunked": (message(TE, body=CHUNKS), BODY),
    "chunked-any-case": (message(b"TRANSFER-ENCODING: ChunKed", body=CHUNKS), BODY),
    "chunked-one-byte-chunks": (message(TE, body=chunked(BODY, 1)), BODY),
    "chunked-extension": (message(TE, body=b"%x;name=value\r\n%s\r\n0;last\r\n\r\n" % (len(BODY), BODY)), BODY),
    "chunked-extension-quoted": (message(TE, body=b'%x;n="a b"\r\n%s\r\n0\r\n\r\n' % (len(BODY), BODY)), BODY),
    "chunked-zeros": (message(TE, body=b"000%X\r\n%s\r\n000\r\n\r\n" % (len(BODY), BODY)), BODY),
    "chunked-trailer": (message(TE, b"Trailer: X-Sum", body=CHUNKS[:-2] + b"X-Sum: 1\r\n\r\n"), BODY),
    "chunked-trailer-frames": (message(TE, body=CHUNKS[:-2] + b"Content-Length: 3\r\n\r\n"), BODY),
    "chunked-empty": (message(TE, body=b"0\r\n\r\n"), b""),
    "length-zero": (message(b"Content-Length: 0", body=b""), b""),
    "no-body": (message(body=b""), b""),
    "empty-line-first": (b"\r\n" + message(CL), BODY),
    "odd-but-legal-name": (message(b"!#$%&'*+-.^_`|~9: x", CL), BODY),
    "high-byte-in-value": (message(b"X-Test: caf\xc3\xa9 \xff", CL), BODY),
    "empty-value": (message(b"X-Test:", CL), BODY),
    "twenty-connection-options": (message(CL, b"Connection: " + b", ".join(b"x-%d" % i for i in range(20))), BODY),
    "absolute-form": (message(CL, line=b"POST http://other:99" + PATH.encode() + b" HTTP/1.1"), BODY),
}


@pytest.mark.parametrize("name", list(FORWARDED))
def test_forwarded_as_one_request(site, name):
    """A strict parser that refuses legal messages breaks real clients; a forwarded one must
    carry exactly one framing header and nothing behind its body."""
    raw, body = FORWARDED[name]
    client = site.client()
    client.send(raw)
    reply = client.read_response("POST")
    assert reply.status == 200, reply.raw_head + reply.body
    calls = site.calls
    assert len(calls) == 1
    call = calls[0]
    assert call.line == "POST /v1/chat/completions HTTP/1.1"
    assert call.get_all("Content-Length") == ["%d" % len(body)] or (name == "no-body" and not call.has("Content-Length"))
    assert not call.has("Transfer-Encoding") and not call.has("Trailer") and not call.has("X-Sum")
    assert call.body == body
    assert len(call.get_all("Host")) == 1
    assert bytes(call.conn.raw).endswith(call.raw_head + body)
    # the connection is still in step
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().body == b'{"status":"healthy"}'


EITHER = {
    "http10-chunked": message(TE, body=CHUNKS, line=LINE[:-1] + b"0"),
    "non-ascii-target": message(CL, line=b"POST /olla/proxy/v1/caf\xc3\xa9 HTTP/1.1"),
    "fragment-in-target": message(CL, line=b"POST " + PATH.encode() + b"#frag HTTP/1.1"),
    "encoded-nul-in-target": message(CL, line=b"POST /olla/proxy/v1/%00x HTTP/1.1"),
    "encoded-crlf-in-target": message(CL, line=b"POST /olla/proxy/v1/%0d%0aX-Evil:%201 HTTP/1.1"),
    "version-1.2": message(CL, line=LINE[:-1] + b"2"),
    "chunk-size-trailing-space": message(TE, body=b"%x \r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "coding-empty-element": message(b"Transfer-Encoding: , chunked", body=CHUNKS),
    "coding-trailing-comma": message(b"Transfer-Encoding: chunked,", body=CHUNKS),
    "get-with-body": message(CL, line=b"GET " + PATH.encode() + b" HTTP/1.1"),
    "connection-names-length": message(b"Connection: content-length, host", CL),
    "connection-names-coding": message(b"Connection: transfer-encoding", TE, body=CHUNKS),
    "host-empty": message(CL, host=b"Host:"),
    "unknown-expectation": message(b"Expect: tea", CL),
    "method-lower-case": message(CL, line=b"post " + PATH.encode() + b" HTTP/1.1"),
    "long-method": message(CL, line=b"A" * 300 + b" " + PATH.encode() + b" HTTP/1.1"),
    "backslash-in-target": message(CL, line=b"POST /olla/proxy/v1\\..\\x HTTP/1.1"),
    "underscore-length": message(b"Content_Length: 3", CL),
    "underscore-coding": message(b"Transfer_Encoding: chunked", CL),
}


@pytest.mark.parametrize("name", list(EITHER))
def test_refused_or_one_request(site, name):
    """Where the RFC leaves a choice, both sides must still agree where the message ends."""
    client = site.client()
    client.send(EITHER[name])
    reply = client.read_response("POST")
    calls = site.calls
    if reply.status in (400, 417, 431, 501, 505):
        assert calls == []
        if reply.status != 417:
            assert client.read_eof() == b""
        return
    assert reply.status in (200, 404) and len(calls) == 1, reply.raw_head
    call = calls[0]
    assert call.get_all("Content-Length") == ["%d" % len(BODY)] and not call.has("Transfer-Encoding")
    assert call.body == BODY
    assert len(call.get_all("Host")) == 1 and call.get("Host") == "127.0.0.1:%d" % call.conn.backend.port
    assert not call.has("X-Evil") and "\0" not in call.line
    assert bytes(call.conn.raw).endswith(call.raw_head + BODY)


@pytest.mark.parametrize("raw", [request_bytes("POST", PATH, {"Content-Type": "application/json"}, BODY),
                                 message(TE, body=chunked(BODY, 5))], ids=["length", "chunked"])
def test_byte_by_byte(site, raw):
    """A parser that expects a whole head in one read breaks on slow links."""
    client = site.client()
    client.send_pieces([raw[i:i + 1] for i in range(len(raw))], 0.0005)
    assert client.read_response("POST").status == 200
    assert site.calls[0].body == BODY


def test_every_split_point(site):
    """A parser that loses state at one particular byte fails only there."""
    raw = message(TE, body=chunked(BODY, 7) [:-2] + b"X-Sum: 1\r\n\r\n")
    client = site.client()
    for at in range(1, len(raw)):
        client.send_pieces([raw[:at], raw[at:]], 0.001)
        reply = client.read_response("POST")
        assert reply.status == 200, "split at %d: %r" % (at, reply.raw_head)
    assert len(site.calls) == len(raw) - 1
    assert {call.body for call in site.calls} == {BODY}


def test_second_request_hidden_in_a_body(site):
    """A body that looks like a request must stay a body."""
    body = dump({"model": "m-oai", "x": HIDDEN.decode()})
    client = site.client()
    reply = client.request("POST", PATH, body, {"Content-Type": "application/json"})
    assert reply.status == 200
    assert [call.body for call in site.calls] == [body]
    client.send(request_bytes("GET", "/internal/health"))
    assert client.read_response().status == 200


def test_connect_and_asterisk(site):
    """CONNECT must not open a tunnel; OPTIONS * is about the server itself."""
    client = site.client()
    client.send(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n")
    assert client.read_response("CONNECT").status in (400, 404, 405, 501)
    reply = site.client().request("OPTIONS", "*")
    assert (reply.status, reply.body) == (200, b"")
    assert site.calls == []


def test_errors_before_routing_are_plain(site):
    """Protocol errors come before any route: they carry no X-Olla headers and a readable text."""
    client = site.client()
    client.send(message(CL, CL))
    reply = client.read_response("POST")
    assert reply.get("Content-Type", "").startswith("text/plain")
    assert reply.body.startswith(b"400 Bad Request")
    assert not reply.has("X-Olla-Endpoint")


def test_refusals_are_logged(site):
    """A refused message that leaves no trace cannot be diagnosed."""
    before = len(site.proxy.find_logs("request", status=400))
    client = site.client()
    client.send(message(b"Content-Length: 1 7"))
    assert client.read_response("POST").status == 400
    eventually(lambda: len(site.proxy.find_logs("request", status=400)) > before, "the refusal is in the log", 5)
    assert site.proxy.find_logs("request", status=400)[-1]["end"] == "PR"


def test_garbage_flood(site):
    """Random bytes must cost one answer and one closed connection, never the process."""
    from backend import pattern
    for seed in range(30):
        client = Client(site.proxy.port)
        client.try_send(pattern(3000, seed))
        client.half_close()
        client.read_eof()
        client.close()
    assert site.proxy.get("/internal/health").status == 200
    assert site.calls == []
