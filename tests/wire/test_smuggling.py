"""Request smuggling: one message that two parsers read differently. Whatever a client sends, olla refuses it and closes, or
forwards it so that a strict and a very lax parser see one and the same request; nothing hidden in it becomes a request.
What each refusal says is checked in test_http_parse.py."""

import re

import pytest

from backend import Backend, eventually
from client import Closed, chunked, request_bytes
from harness import World, endpoint, report
from test_http_parse import BODY, CHUNKS, CL, HIDDEN, HOST, JSON, LINE, PATH, TE, head, message

TARGET = PATH[len("/olla/proxy"):]
UPGRADE = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
ABSOLUTE = b"POST http://%s" + PATH.encode() + b" HTTP/1.1"


class Recorder(Backend):
    """Answers everything with 200 and keeps each byte."""

    def setup(self):
        self.on("*", lambda conn, request: conn.reply({"ok": True}))
        self.on("/v1/refused", lambda conn, request: conn.reply({}, 426, headers={"Upgrade": "websocket"}))

    def streams(self):
        return [bytes(conn.raw) for conn in self.connections if conn.raw]


class Site:
    """No probes, and a head or a body that never comes to its end is given up soon."""

    def __init__(self):
        self.world = World()
        self.a = self.world.backend(Recorder, "a", ["m-oai"])
        self.proxy = self.world.olla({"a": endpoint(self.a, health="none")}, {
            "discovery.model_discovery.enabled": False, "server.read_timeout": "400ms", "server.read_header_timeout": "2s", "server.idle_timeout": "30s",
            "model_registry.routing_strategy.type": "optimistic", "model_registry.routing_strategy.options.fallback_behavior": "all"}, ready=None)

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def site(kept):
    site = kept(Site)
    site.a.forget()
    yield site
    report((site.proxy.idle_problems() if site.proxy.alive() else ["olla died: " + site.proxy.describe()]) + site.world.script_failures())


# ---- the two parsers: each takes all bytes of a connection and returns [(method, target, host, body)]

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"


def strictly(raw):
    """To the letter of RFC 9112; anything else is an error."""
    found = []
    while raw:
        top, empty, raw = raw.partition(b"\r\n\r\n")
        assert empty, "a head without an end: %r" % top
        lines = top.split(b"\r\n")
        line = re.fullmatch(rb"(%s) (/[!-~]*|\*) HTTP/1\.1" % TOKEN, lines[0])
        assert line, "request line %r" % lines[0]
        fields = [re.fullmatch(rb"(%s):[ \t]*([!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?[ \t]*" % TOKEN, one) for one in lines[1:]]
        assert all(fields), "header lines %r" % lines
        named = {}
        for one in fields:
            named.setdefault(one.group(1).lower(), []).append(one.group(2) or b"")
        assert len(named.get(b"host", [])) == 1, top
        assert b"transfer-encoding" not in named, "olla forwards lengths"
        lengths = named.get(b"content-length", [b"0"])
        assert len(lengths) == 1 and re.fullmatch(rb"0|[1-9][0-9]*", lengths[0]), lengths
        size = int(lengths[0])
        assert len(raw) >= size, "%d of %d bytes of a body" % (len(raw), size)
        found.append((line.group(1), line.group(2), named[b"host"][0], raw[:size]))
        raw = raw[size:]
    return found


def lax_chunks(raw):
    """Sizes as strtol() reads them, any line end, no check of what follows the data."""
    body = b""
    while raw:
        line, _, raw = raw.partition(b"\n")
        size = re.match(rb"\s*[+-]?(?:0[xX])?([0-9a-fA-F]*)", line).group(1)
        size = int(size or b"0", 16)
        if size == 0:
            _, _, raw = re.split(rb"(\A\r?\n|\n\r?\n)", raw, maxsplit=1) if re.search(rb"\A\r?\n|\n\r?\n", raw) else (b"", b"", b"")
            break
        body, raw = body + raw[:size], raw[size:].lstrip(b"\r\n")
    return body, raw


def laxly(raw, last=True):
    """Guesses like the worst of servers: bare CR and LF end lines, folded lines go on, blanks and underscores in names do not matter, all that
    Unicode takes for a blank is one, the last (or first) Content-Length and any mention of "chunked" count."""
    found = []
    raw = raw.lstrip(b"\r\n")
    while raw:
        end = re.search(rb"\r\n\r\n|\n\r?\n|\r\r", raw) or re.search(rb"\Z", raw)
        lines = re.split(rb"\r\n|\r|\n", re.sub(rb"(?:\r\n|\r|\n)[ \t]+", b" ", raw[:end.start()]))
        raw = raw[end.end():]
        words = [word.encode("latin-1") for word in lines[0].decode("latin-1").split()] + [b"", b""]
        size, codings, host = None, b"", b""
        for one in lines[1:]:
            name, _, value = one.partition(b":")
            name, value = re.sub(rb"[^a-z-]", b"", name.strip().lower().replace(b"_", b"-")), value.strip()
            if name == b"content-length" and (last or size is None):
                size = (re.search(rb"[0-9]+", value) or [b"0"])[0]
            host = value if name == b"host" else host
            codings += value.lower() if name == b"transfer-encoding" else b""
        if b"chunk" in codings:
            body, raw = lax_chunks(raw)
        else:
            body, raw = raw[:int(size or 0)], raw[int(size or 0):]
        found.append((words[0], words[1], host, body))
        raw = raw.lstrip(b"\r\n")
    return found


def test_the_lax_parser_can_be_fooled():
    """Else it proves nothing."""
    hidden = (b"GET", b"/olla/proxy/v1/hidden", b"x", b"")
    for raw in (message(b"Transfer-Encoding: xchunked", CL, body=b"0\r\n\r\n" + HIDDEN), message(b"Content_Length: 0", body=HIDDEN),
                message(CL, b"X: a\nContent-Length: 0", body=HIDDEN), message(TE, body=b"0x0;\n\n" + HIDDEN),
                message(CL, b"X: a\r\n\rContent-Length: 0", body=HIDDEN)):
        assert hidden in laxly(raw) + laxly(raw, False), laxly(raw)
    plain = message(CL)
    assert laxly(plain) == laxly(plain, False) == strictly(plain) == [(b"POST", PATH.encode(), b"x", BODY)]
    assert laxly(message(CL, line=LINE.replace(b"chat", b"a\x85b")))[0][1] == b"/olla/proxy/v1/a"


# ---- the table

def by_chunks(*lines, **more):
    """A reader of chunks sees the hidden request, a reader of Content-Length a body."""
    body = b"0\r\n\r\n" + HIDDEN
    return message(b"Content-Length: %d" % len(body), *lines, body=body, **more)


def by_length(*lines, **more):
    """The other way round."""
    size = b"%x\r\n" % len(HIDDEN)
    return message(b"Content-Length: %d" % len(size), *lines, body=size + HIDDEN + b"\r\n0\r\n\r\n", **more)


CODINGS = {
    "plain": b"Transfer-Encoding: chunked", "odd-case": b"tRANSFER-eNCODING: cHUNKED", "no-blank": b"Transfer-Encoding:chunked",
    "tab": b"Transfer-Encoding:\tchunked", "blank-before-colon": b"Transfer-Encoding : chunked", "tab-before-colon": b"Transfer-Encoding\t: chunked",
    "other-word": b"Transfer-Encoding: xchunked", "part-of-word": b"Transfer-Encoding: chunk",
    "identity-first": b"Transfer-Encoding: identity, chunked",
    "identity-last": b"Transfer-Encoding: chunked, identity", "gzip-first": b"Transfer-Encoding: gzip, chunked", "twice": TE + b"\r\n" + TE,
    "then-other": TE + b"\r\nTransfer-Encoding: x", "other-first": b"Transfer-Encoding: x\r\n" + TE, "quoted": b"Transfer-Encoding: 'chunked'",
    "vertical-tab": b"Transfer-Encoding: \x0bchunked", "form-feed": b"Transfer-Encoding: chunked\x0c", "nul": b"Transfer-Encoding: chunked\0",
    "high-blank": b"Transfer-Encoding: \xa0chunked", "next-line": b"Transfer-Encoding: x\x85chunked", "folded": b"Transfer-Encoding:\r\n chunked",
    "folded-name": b"Transfer-Encoding\r\n : chunked", "folded-in": b"X: y\r\n Transfer-Encoding: chunked",
    "after-lf": b"X: y\nTransfer-Encoding: chunked",
    "after-cr": b"X: y\rTransfer-Encoding: chunked", "after-cr-cr": b"X: y\r\r\nTransfer-Encoding: chunked",
    "underscore": b"Transfer_Encoding: chunked",
    "no-colon": b"Transfer-Encoding chunked", "semicolon": b"Transfer-Encoding; chunked", "empty-item": b"Transfer-Encoding: ,chunked",
    "parameter": b"Transfer-Encoding: chunked;a=b", "named-by-connection": TE + b"\r\nConnection: transfer-encoding", "te": b"TE: chunked, trailers",
    "empty-then": b"Transfer-Encoding:\r\n" + TE, "empty": b"Transfer-Encoding: ",
}

# @ is the header, # the number: the hidden request is the body, or behind it.
LENGTHS = {
    "twice": b"Content-Length: 0\r\n@", "twice-reversed": b"@\r\nContent-Length: 0", "same": b"@\r\n@", "list": b"@, 0", "list-same": b"@, #",
    "plus": b"Content-Length: +0\r\n@", "minus": b"@\r\nContent-Length: -0", "blank-inside": b"Content-Length: 0 #", "hex": b"Content-Length: 0x0",
    "octal": b"Content-Length: 0#", "huge": b"@0000000000000000000", "wraps": b"Content-Length: 18446744073709551616",
    "negative-wrap": b"Content-Length: -18446744073709551615", "underscore": b"@\r\nContent_Length: 0", "underscore-first": b"Content_Length: 0\r\n@",
    "blank-name": b"@\r\nContent-Length : 0", "blank-in-name": b"@\r\nContent Length: 0", "folded": b"Content-Length:\r\n 0\r\n@",
    "folded-more": b"@\r\n 0", "after-lf": b"@\r\nX: y\nContent-Length: 0", "after-cr": b"@\r\nX: y\rContent-Length: 0",
    "nul": b"Content-Length: 0\0#",
    "comma": b"@,", "point": b"@.0", "exponent": b"Content-Length: 0e#", "other-digits": b"Content-Length: \xd9\xa0#",
    "named-by-connection": b"@\r\nConnection: close, content-length", "next-line": b"@\r\nX: y\x85Content-Length: 0",
}


def lengths(form):
    size = b"%d" % len(HIDDEN)
    return message(form.replace(b"@", b"Content-Length: " + size).replace(b"#", size), body=HIDDEN)


def hidden_body(*lines, method=b"POST"):
    return message(b"Content-Length: %d" % len(HIDDEN), *lines, body=HIDDEN, line=LINE.replace(b"POST", method))


def chunks(body, *lines, **more):
    return message(TE, *lines, body=body, **more)


HEX = b"%x" % len(BODY)
CHUNK_BODIES = {
    "plus": b"+0\r\n\r\n", "minus": b"-0\r\n\r\n", "hex": b"0x0\r\n\r\n", "blank-first": b" 0\r\n\r\n", "tab-first": b"\t0\r\n\r\n",
    "blank-last": b"0 \r\n\r\n",
    "quoted": b'"0"\r\n\r\n', "empty-size": b"\r\n\r\n", "lf": b"0\n\n", "lf-crlf": b"0\n\r\n", "crlf-lf": b"0\r\n\n", "cr": b"0\r\r",
    "cr-crlf": b"0\r\r\n\r\n",
    "overflow": b"10000000000000000\r\n\r\n", "overflow-more": b"f0000000000000000\r\n", "many-zeros": b"0" * 40 + b"\r\n\r\n",
    "negative-wrap": b"ffffffffffffffff\r\n", "large": b"7fffffffffffffff\r\n", "extension-lf": b"0;a\n\r\n\r\n", "extension-cr": b"0;a\rb\r\n\r\n",
    "extension-nul": b"0;\0\r\n\r\n", "extension-hides-size": b"1;\r\na\r\n0;\n\r\n\r\n", "comma": b"0,0\r\n\r\n",
    "data-longer": b"1\r\nabc\r\n0\r\n\r\n", "data-shorter": b"8\r\nabc\r\n0\r\n\r\n", "data-lf": b"1\r\na\n0\r\n\r\n",
    "data-cr": b"1\r\na\r0\r\n\r\n",
    "data-no-end": b"1\r\na0\r\n\r\n", "data-two-ends": b"1\r\na\r\n\r\n0\r\n\r\n", "trailer-lf": b"0\r\nX: a\n\r\n",
    "trailer-no-name": b"0\r\n: a\r\n\r\n",
    "trailer-no-colon": b"0\r\nX\r\n\r\n", "trailer-blank-name": b"0\r\nX : a\r\n\r\n", "trailer-folded": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer-nul": b"0\r\nX: \0\r\n\r\n",
    "trailer-cr": b"0\r\nX: a\rb\r\n\r\n", "trailer-request": b"0\r\n" + HIDDEN, "trailer-starts-blank": b"0\r\n X: a\r\n\r\n",
}
CHUNK_BODIES = {name: body + HIDDEN for name, body in CHUNK_BODIES.items()}
CHUNK_BODIES.update({
    "trailer-frames": HEX + b"\r\n" + BODY + b"\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\r\n",
    "extension-request": HEX + b";a=GET /olla/proxy/v1/hidden HTTP/1.1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "size-line-request": b"GET /olla/proxy/v1/hidden HTTP/1.1\r\n\r\n0\r\n\r\n",
})

FORMS = {
    # -- Host
    "two-hosts": message(CL, b"Host: evil"), "host-then-lf": message(CL, host=b"Host: x\nHost: evil"), "host-underscore": message(CL, b"HOST_: evil"),
    "host-blank-colon": message(CL, b"Host : evil"), "host-list": message(CL, host=b"Host: x, evil"), "host-at": message(CL, host=b"Host: x@evil"),
    "host-blank": message(CL, host=b"Host: x evil"), "host-cr": message(CL, host=b"Host: x\revil"), "host-port": message(CL, host=b"Host: x:80:81"),
    "host-folded": message(CL, host=b"Host:\r\n x"), "absolute-other": message(CL, line=ABSOLUTE % b"evil:1"),
    "absolute-user": message(CL, line=ABSOLUTE % b"u:p@evil"), "absolute-empty": message(CL, line=ABSOLUTE % b""),
    "absolute-no-host": message(CL, line=ABSOLUTE % b"evil", host=None), "absolute-two-hosts": message(CL, b"Host: y", line=ABSOLUTE % b"x"),
    "absolute-https": message(CL, line=LINE.replace(b" /", b" https://evil/", 1)),
    "absolute-ftp": message(CL, line=LINE.replace(b" /", b" ftp://evil/", 1)),
    "authority-form": message(CL, line=b"POST evil:80 HTTP/1.1"), "two-slashes": message(CL, line=LINE.replace(b" /", b" //evil/", 1)),
    # -- request line
    "method-lower": message(CL, line=LINE.replace(b"POST", b"post")), "method-odd": message(CL, line=LINE.replace(b"POST", b"GE!T")),
    "method-colon": message(CL, line=LINE.replace(b"POST", b"PO:ST")), "method-nul": message(CL, line=LINE.replace(b"POST", b"PO\0ST")),
    "method-two": message(CL, line=b"GET " + LINE), "version-1.2": message(CL, line=LINE[:-1] + b"2"),
    "version-01.1": message(CL, line=LINE[:-3] + b"01.1"),
    "version-plus": message(CL, line=LINE[:-3] + b"+1.1"), "version-blank": message(CL, line=LINE[:-3] + b" 1.1"),
    "version-tail": message(CL, line=LINE + b"x"),
    "version-tab": message(CL, line=LINE.replace(b" HTTP", b"\tHTTP")), "version-0.9": message(CL, line=LINE[:-3] + b"0.9"),
    "version-none": message(CL, line=LINE[:-9]), "version-hidden": message(CL, line=LINE[:-9] + b" HTTP/1.1 HTTP/1.1"),
    "simple": b"GET /olla/proxy/v1/x\r\n",
    "simple-then-request": b"GET /olla/proxy/v1/x\r\n\r\n" + HIDDEN, "target-crlf": message(CL, line=LINE.replace(b"chat", b"%0d%0aX:%20y%0d%0a")),
    "target-encoded-request": message(CL, line=b"POST /olla/proxy/v1/x%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0aGET%20/olla/proxy/v1/hidden HTTP/1.1"),
    "query-crlf": message(CL, line=LINE.replace(b" HTTP", b"?a=%0d%0aX:y HTTP")),
    "query-high": message(CL, line=LINE.replace(b" HTTP", b"?a=\xff\xa0\x85 HTTP")),
    "target-high": message(CL, line=LINE.replace(b"chat", b"\xe2\x80\xa8\xa0")), "target-lf": message(CL, line=LINE.replace(b"chat", b"a\nb")),
    "target-cr": message(CL, line=LINE.replace(b"chat", b"a\rb")), "line-cr-cr-lf": message(CL, line=LINE + b"\r"),
    "line-starts-cr": b"\r" + message(CL), "line-starts-lf": b"\n" + message(CL), "line-starts-nul": b"\0" + message(CL),
    # -- the head
    "first-line-folded": head(LINE, b" X: y", HOST, JSON, CL) + BODY, "first-line-no-colon": head(LINE, b"junk", HOST, JSON, CL) + BODY,
    "line-of-blanks": message(b"X: y", b" ", CL), "line-of-cr": message(b"X: y\r\n\r", CL),
    "head-ends-lf": head(LINE, HOST, JSON, CL)[:-2] + b"\n" + BODY,
    "head-ends-lf-lf": b"\r\n".join([LINE, HOST, JSON, CL]) + b"\n\n" + BODY, "lf-cr": message(CL, b"X: y\n\r" + HIDDEN[:-4]),
    "name-nul": message(CL, b"X\0: y"), "name-high": message(CL, b"X\xa0: y"), "name-request": message(CL, b"GET / HTTP/1.1"),
    "value-request": message(CL, b"X: a\x0b\x0cGET / HTTP/1.1"), "value-high": message(CL, b"X: a\x85\xe2\x80\xa8Content-Length: 0"),
    # -- versions and methods with bodies: the hidden request is all of the body
    "1.0-chunked": chunks(CHUNKS + HIDDEN, line=LINE[:-1] + b"0"), "1.0-both": by_chunks(TE, line=LINE[:-1] + b"0"),
    "1.0-keep-alive-chunked": chunks(CHUNKS + HIDDEN, b"Connection: keep-alive", line=LINE[:-1] + b"0"),
    "get-length": hidden_body(method=b"GET"),
    "get-chunked": chunks(chunked(HIDDEN), line=LINE.replace(b"POST", b"GET")), "head-length": hidden_body(method=b"HEAD"),
    "delete-length": hidden_body(method=b"DELETE"),
    "options-length": hidden_body(method=b"OPTIONS"),
    "trace-length": hidden_body(method=b"TRACE"),
    "post-length": hidden_body(), "post-chunked": chunks(chunked(HIDDEN)),
    "post-chunks": chunks(chunked(HIDDEN, 1)), "body-looks-chunked": message(b"Content-Length: %d" % len(CHUNKS), body=CHUNKS),
    # -- expectations and upgrades
    "expect": message(CL, b"Expect: 100-continue"), "expect-other": message(CL, b"Expect: 100-continue, x"),
    "expect-twice": message(CL, b"Expect: 100-continue", b"Expect: y"),
    "expect-length": by_chunks(TE, b"Expect: 100-continue"), "expect-get": hidden_body(b"Expect: 100-continue", method=b"GET"),
    "expect-blank": message(CL, b"Expect : 100-continue"), "expect-empty": message(CL, b"Expect:"),
    "upgrade-h2c": message(CL, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    "upgrade-tls": message(CL, b"Connection: Upgrade", b"Upgrade: TLS/1.0"), "upgrade-unnamed": message(CL, b"Upgrade: websocket"),
    "upgrade-list": message(CL, b"Connection: Upgrade", b"Upgrade: websocket, h2c"),
    "upgrade-post": message(CL, *UPGRADE),
    "upgrade-get-body": message(CL, *UPGRADE, line=LINE.replace(b"POST", b"GET")),
    "upgrade-chunked": chunks(chunked(HIDDEN), *UPGRADE, line=LINE.replace(b"POST", b"GET")),
    "connection-drops-all": message(CL, b"Connection: host, content-length, content-type, x-forwarded-for, via, close"),
    "proxy-connection": message(CL, b"Proxy-Connection: keep-alive, host", b"Keep-Alive: timeout=9"),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN, "connect": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
}

TABLE = {}
for _name, _line in CODINGS.items():
    TABLE["length-and-coding-" + _name] = by_chunks(_line)
    if _name != "te":  # says nothing of the body: what follows is a second request in the open
        TABLE["coding-and-length-" + _name] = by_length(_line)
TABLE.update({"length-" + name: lengths(form) for name, form in LENGTHS.items()})
TABLE.update({"chunks-" + name: chunks(body) for name, body in CHUNK_BODIES.items()})
TABLE.update({"form-" + name: raw for name, raw in FORMS.items()})


def seen(site):
    """What both parsers see at the backend; they must agree."""
    strict = [one for raw in site.a.streams() for one in strictly(raw)]
    for last in (True, False):
        assert strict == [one for raw in site.a.streams() for one in laxly(raw, last)], "two readings of %r" % site.a.streams()
    host = b"127.0.0.1:%d" % site.a.port
    assert all(one[2] == host and not one[1].startswith(b"/olla/") for one in strict), strict
    return strict


@pytest.mark.parametrize("name", list(TABLE))
def test_refused_or_one_request(site, name):
    with site.proxy.client() as client:
        client.try_send(TABLE[name])
        method = re.match(rb"\s*(\S*)", TABLE[name]).group(1).decode("latin-1")
        reply = client.read_response(method)
        if reply.status in (400, 408, 413, 431, 501, 505):
            assert (reply.get("Connection") or "").lower() == "close", reply.raw_head
            assert client.read_eof() == b"", "something answered behind a refusal"
            assert site.a.streams() == []
            return
        found = seen(site)
        assert (reply.status, len(found)) in ((200, 1), (404, 0)), found
        assert not found or found[0][1] != b"/v1/hidden"
        if (reply.get("Connection") or "").lower() == "close":
            assert client.read_eof() == b""
        else:  # in step
            client.send(request_bytes("GET", "/internal/health"))
            assert client.read_response().body == b'{"status":"healthy"}'
    assert len(seen(site)) == len(found)


PIPELINED = {
    # name: (bytes, what the backend gets)
    "get-then-get": (b"GET /olla/proxy/v1/a HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN, [b"/v1/a", b"/v1/hidden"]),
    "length-zero": (message(b"Content-Length: 0", body=HIDDEN), [TARGET.encode(), b"/v1/hidden"]),
    "after-body": (message(CL) + HIDDEN, [TARGET.encode(), b"/v1/hidden"]),
    "after-chunks": (chunks(CHUNKS) + HIDDEN, [TARGET.encode(), b"/v1/hidden"]),
    "after-trailer": (chunks(CHUNKS[:-2] + b"X: y\r\n\r\n") + HIDDEN, [TARGET.encode(), b"/v1/hidden"]),
    "after-empty-line": (message(CL) + b"\r\n" + HIDDEN, [TARGET.encode(), b"/v1/hidden"]),
    "after-close": (message(CL, b"Connection: close") + HIDDEN, [TARGET.encode()]),
    "after-1.0": (message(CL, line=LINE[:-1] + b"0") + HIDDEN, [TARGET.encode()]),
    "after-upgrade-that-was-refused": (b"GET /olla/proxy/v1/refused HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n"
                                       + HIDDEN, [b"/v1/refused", b"/v1/hidden"]),
    "after-h2c": (b"GET /olla/proxy/v1/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n" + HIDDEN,
                  [b"/v1/a", b"/v1/hidden"]),
    "after-open-quote": (chunks(b'0;a="\r\n\r\n') + HIDDEN, [TARGET.encode(), b"/v1/hidden"]),  # no quote goes on behind the end of its line
    "after-bad": (message(CL) + message(CL, CL) + HIDDEN, [TARGET.encode()]), "bad-length-behind": (message(CL) + BODY + HIDDEN, [TARGET.encode()]),
}


@pytest.mark.parametrize("name", list(PIPELINED))
def test_pipelined(site, name):
    """A second request in the open is one: read by olla, never passed on as bytes."""
    raw, targets = PIPELINED[name]
    with site.proxy.client() as client:
        client.send(raw)
        for _ in targets:
            assert client.read_response().status in (200, 426)
        if name.startswith(("after-close", "after-1.0")):
            assert client.read_eof() == b""
        elif len(targets) == 1:
            assert client.read_response().status >= 400
            assert client.read_eof() == b""
        else:
            client.expect_silence(0.05)
    eventually(lambda: len(seen(site)) == len(targets), "all of them arrived", 3)
    assert [one[1] for one in seen(site)] == targets or sorted(one[1] for one in seen(site)) == sorted(targets)
