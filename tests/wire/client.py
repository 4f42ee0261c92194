"""A raw HTTP/1.1 client: every byte sent is chosen by the test, every byte
received stays visible (chunk frames, what came after the end, how it closed).
All waits are bounded."""

import json
import re
import socket
import struct
import time

WAIT = 10.0  # the bound of one blocking step, generous for slow machines


class Closed(AssertionError):
    """The peer closed (or reset) while more bytes were needed."""


class Framing(AssertionError):
    """The peer sent bytes that are not a well-formed HTTP message."""


def dump(obj):
    return json.dumps(obj, separators=(",", ":")).encode()


def full_body(path, body):
    """The body, and what it lacks for this path: a request for a message is checked before an endpoint is chosen."""
    if not path.partition("?")[0].endswith("/v1/messages"):
        return body
    least = {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    return dict(body, **{key: value for key, value in least.items() if key not in body})


def request_bytes(method, target, headers=(), body=None, host="olla.test", version="HTTP/1.1"):
    """The bytes of one request. A body given as bytes gets a Content-Length unless
    the headers frame it already; host=None leaves the Host header out."""
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    names = {name.lower() for name, _ in pairs}
    lines = ["%s %s %s" % (method, target, version)]
    if host is not None and "host" not in names:
        lines.append("Host: " + host)
    lines += ["%s: %s" % pair for pair in pairs]
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append("Content-Length: %d" % len(body))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def chunked(data, size=1000):
    """data as a complete chunked body with chunks of `size` bytes."""
    out = []
    for at in range(0, len(data), size):
        piece = data[at:at + size]
        out.append(b"%x\r\n" % len(piece) + piece + b"\r\n")
    return b"".join(out) + b"0\r\n\r\n"


def parse_head(raw):
    """(start line, [(name, value)]) of a head that must be strictly formed."""
    if not raw.endswith(b"\r\n\r\n"):
        raise Framing("head does not end with an empty line: %r" % raw[-80:])
    lines = raw[:-4].split(b"\r\n")
    headers = []
    for line in lines[1:]:
        match = re.match(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*\Z", line, re.S)
        if not match or re.search(rb"[\r\n\0]", line):
            raise Framing("bad header line %r" % line)
        headers.append((match.group(1).decode("latin-1"), match.group(2).decode("latin-1")))
    return lines[0].decode("latin-1"), headers


class Headers:
    def __init__(self, pairs):
        self.headers = pairs

    def get(self, name, default=None):
        values = self.get_all(name)
        return values[0] if values else default

    def get_all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def has(self, name):
        return bool(self.get_all(name))


class Response(Headers):
    """One response. `complete` tells whether the framing said it ended."""

    def __init__(self, client, raw_head, method):
        line, pairs = parse_head(raw_head)
        super().__init__(pairs)
        match = re.match(r"HTTP/1\.([01]) (\d{3})(?: (.*))?\Z", line, re.S)
        if not match:
            raise Framing("bad status line %r" % line)
        self.client = client
        self.raw_head = raw_head
        self.version = "HTTP/1." + match.group(1)
        self.status = int(match.group(2))
        self.reason = match.group(3) or ""
        self.body = b""
        self.chunks = []
        self.complete = False
        self.left = 0
        codings = self.get_all("Transfer-Encoding")
        lengths = self.get_all("Content-Length")
        if codings and lengths:
            raise Framing("both Transfer-Encoding and Content-Length: %r" % raw_head)
        if len(lengths) > 1 or len(codings) > 1:
            raise Framing("repeated framing header: %r" % raw_head)
        if method == "HEAD" or self.status in (204, 304) or self.status < 200:
            self.framing, self.complete = "none", True
        elif codings:
            if codings[0].lower() != "chunked":
                raise Framing("unknown transfer coding %r" % codings[0])
            self.framing = "chunked"
        elif lengths:
            if not re.match(r"[0-9]+\Z", lengths[0]):
                raise Framing("bad Content-Length %r" % lengths[0])
            self.framing, self.left = "length", int(lengths[0])
            self.complete = self.left == 0
        else:
            self.framing = "close"

    def json(self):
        return json.loads(self.body.decode("utf-8"))

    def text(self):
        return self.body.decode("utf-8")

    def read_piece(self, timeout=WAIT):
        """The next piece of the body as it arrives: one chunk, or whatever came.
        b"" at the proper end. Raises Closed when the connection ended too early."""
        if self.complete:
            return b""
        if self.framing == "chunked":
            piece = self._read_chunk(timeout)
        elif self.framing == "length":
            piece = self.client.read_some(self.left, timeout)
            if not piece:
                raise Closed("closed with %d bytes of the body missing" % self.left)
            self.left -= len(piece)
            self.complete = self.left == 0
        else:
            piece = self.client.read_some(1 << 16, timeout)
            self.complete = not piece and not self.client.was_reset
            if not piece and self.client.was_reset:
                raise Closed("reset in a close-delimited body")
        self.body += piece
        return piece

    def _read_chunk(self, timeout):
        line = self.client.read_until(b"\r\n", timeout)[:-2]
        if not re.match(rb"[0-9a-fA-F]+\Z", line):
            raise Framing("bad chunk size line %r" % line)
        size = int(line, 16)
        data = self.client.read_exact(size, timeout)
        if self.client.read_exact(2, timeout) != b"\r\n":
            raise Framing("chunk is not followed by CRLF (a trailer?) after %r" % line)
        if size == 0:
            self.complete = True
        else:
            self.chunks.append(data)
        return data

    def read_at_least(self, size, timeout=WAIT):
        """Read pieces until the body has at least `size` bytes."""
        deadline = time.monotonic() + timeout
        while len(self.body) < size:
            piece = self.read_piece(max(0.01, deadline - time.monotonic()))
            if not piece:
                raise Closed("body ended at %d of %d bytes" % (len(self.body), size))
        return self.body

    def read_rest(self, timeout=WAIT):
        """Read the body to its end. complete stays False when it was cut."""
        pieces, self.body = [self.body], b""
        try:
            while not self.complete:
                self.read_piece(timeout)
                pieces.append(self.body)
                self.body = b""
        except Closed:
            pieces.append(self.client.take_rest() if self.framing == "chunked" else b"")
        self.body = b"".join(pieces)
        return self


class Client:
    """One TCP connection."""

    def __init__(self, port, host="127.0.0.1", timeout=WAIT, rcvbuf=0, source=None):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            self.sock.bind((source, 0))
        self.sock.settimeout(timeout)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = b""
        self.at_eof = False
        self.was_reset = False

    # ---- sending

    def send(self, data, timeout=30.0):
        self.sock.settimeout(timeout)
        self.sock.sendall(data)

    def try_send(self, data, timeout=30.0):
        """Send; False when the peer has already closed."""
        try:
            self.send(data, timeout)
            return True
        except (ConnectionError, socket.timeout):
            return False

    def send_pieces(self, pieces, pause=0.002):
        for piece in pieces:
            self.send(piece)
            time.sleep(pause)

    # ---- receiving

    def _fill(self, deadline):
        if self.at_eof:
            return False
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("nothing more arrived; have %r" % self.buf[-200:])
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(1 << 18)
        except socket.timeout:
            raise TimeoutError("nothing more arrived; have %r" % self.buf[-200:]) from None
        except ConnectionError:
            self.was_reset = True
            data = b""
        if not data:
            self.at_eof = True
            return False
        self.buf += data
        return True

    def read_until(self, marker, timeout=WAIT):
        deadline = time.monotonic() + timeout
        start = 0
        while True:
            at = self.buf.find(marker, start)
            if at >= 0:
                out, self.buf = self.buf[:at + len(marker)], self.buf[at + len(marker):]
                return out
            start = max(0, len(self.buf) - len(marker))
            if not self._fill(deadline):
                raise Closed("closed before %r; have %r" % (marker, self.buf[-300:]))

    def read_exact(self, size, timeout=WAIT):
        deadline = time.monotonic() + timeout
        parts, have = [self.buf], len(self.buf)
        self.buf = b""
        while have < size:
            if not self._fill(deadline):
                self.buf = b"".join(parts)
                raise Closed("closed %d bytes early" % (size - have))
            parts.append(self.buf)
            have += len(self.buf)
            self.buf = b""
        data = b"".join(parts)
        self.buf = data[size:]
        return data[:size]

    def read_some(self, limit, timeout=WAIT):
        """Up to `limit` bytes, at least one; b"" at the end."""
        if not self.buf:
            self._fill(time.monotonic() + timeout)
        out, self.buf = self.buf[:limit], self.buf[limit:]
        return out

    def take_rest(self):
        out, self.buf = self.buf, b""
        return out

    def read_eof(self, timeout=WAIT):
        """Everything until the peer closes."""
        deadline = time.monotonic() + timeout
        while self._fill(deadline):
            pass
        return self.take_rest()

    def expect_silence(self, seconds):
        """Nothing may arrive and the connection must stay open for that long."""
        assert not self.buf, "unexpected bytes %r" % self.buf
        try:
            if self._fill(time.monotonic() + seconds):
                raise AssertionError("unexpected bytes %r" % self.buf)
            raise AssertionError("connection was closed")
        except TimeoutError:
            pass

    # ---- messages

    def read_head(self, method="GET", timeout=WAIT):
        return Response(self, self.read_until(b"\r\n\r\n", timeout), method)

    def read_response(self, method="GET", timeout=WAIT):
        return self.read_head(method, timeout).read_rest(timeout)

    def request(self, method, target, body=None, headers=(), timeout=WAIT, **options):
        self.send(request_bytes(method, target, headers, body, **options))
        return self.read_response(method, timeout)

    def post(self, target, obj, headers=(), timeout=WAIT):
        return self.request("POST", target, dump(obj), json_headers(headers), timeout)

    def start_post(self, target, obj, headers=()):
        """Send a JSON request; the caller reads the answer."""
        self.send(request_bytes("POST", target, json_headers(headers), dump(obj)))

    # ---- closing

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def json_headers(headers=()):
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    if not any(name.lower() == "content-type" for name, _ in pairs):
        pairs.append(("Content-Type", "application/json"))
    return pairs
