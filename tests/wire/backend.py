"""Scripted backends on raw sockets: a test says which bytes are sent when and how
a connection ends, and afterwards sees exactly which bytes arrived."""

import ctypes
import json
import random
import re
import socket
import threading
import time

from client import WAIT, Headers, dump

LIBC = ctypes.CDLL(None)
MARK = "X-Test-Call"  # sent by tests on GET requests that look like probes


def eventually(check, what, timeout=WAIT, pause=0.01):
    """Poll until check() is true; its value is returned."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("did not happen within %.1f s: %s" % (timeout, what))
        time.sleep(pause)


def bind_port(host="127.0.0.1"):
    """A bound socket outside the ephemeral range, so that outgoing connections of
    the machine cannot take the port while a test restarts a server on it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(400):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, random.randrange(15000, 32000)))
            return sock
        except OSError:
            sock.close()
    raise AssertionError("no free port")


class Gate:
    """A bounded event: the backend waits, the test opens (or the other way round)."""

    def __init__(self):
        self.event = threading.Event()

    def open(self):
        self.event.set()

    def wait(self, timeout=WAIT):
        if not self.event.wait(timeout):
            raise AssertionError("gate was not opened within %.1f s" % timeout)

    def is_open(self):
        return self.event.is_set()


class Request(Headers):
    def __init__(self, conn, raw_head):
        lines = raw_head[:-4].decode("latin-1").split("\r\n")
        pairs = [tuple(part.strip() for part in line.partition(":")[::2]) for line in lines[1:]]
        super().__init__(pairs)
        self.conn = conn
        self.raw_head = raw_head
        self.line = lines[0]
        self.method, self.target, self.version = (lines[0].split(" ", 2) + ["", ""])[:3]
        self.path = self.target.partition("?")[0]
        self.query = self.target.partition("?")[2]
        self.body = b""
        self.when = time.monotonic()

    def json(self):
        return json.loads(self.body.decode("utf-8"))

    def read_body(self):
        """Reads the body as this backend understands the framing."""
        if "chunked" in (self.get("Transfer-Encoding") or "").lower():
            while True:
                size = int(self.conn.read_until(b"\r\n").split(b";")[0], 16)
                self.body += self.conn.read_exact(size)
                self.conn.read_exact(2)
                if not size:
                    break
        else:
            self.body = self.conn.read_exact(int(self.get("Content-Length") or 0))
        return self.body


class Conn:
    """One accepted connection."""

    def __init__(self, backend, sock, index):
        self.backend, self.sock, self.index = backend, sock, index
        self.raw = bytearray()  # everything that ever arrived
        self.buf = b""
        self.requests = []
        self.closed_how = None  # "fin" or "rst" by the peer, "us" by the script
        self.sent = 0

    # ---- receiving

    def _fill(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError
        if len(self.raw) < (1 << 20):
            self.raw += data
        self.buf += data

    def read_until(self, marker):
        while marker not in self.buf:
            self._fill()
        at = self.buf.index(marker) + len(marker)
        out, self.buf = self.buf[:at], self.buf[at:]
        return out

    def read_exact(self, size):
        parts, have = [self.buf], len(self.buf)
        self.buf = b""
        while have < size:
            self._fill()
            parts.append(self.buf)
            have += len(self.buf)
            self.buf = b""
        data = b"".join(parts)
        self.buf = data[size:]
        return data[:size]

    def read_request(self):
        request = Request(self, self.read_until(b"\r\n\r\n"))
        self.requests.append(request)
        return request

    def wait_close(self, timeout=WAIT):
        """Waits until the peer closes; "fin", "rst" or None. Bytes that still come are kept in raw."""
        self.sock.settimeout(timeout)
        deadline = time.monotonic() + timeout
        try:
            while time.monotonic() < deadline:
                self._fill()
        except EOFError:
            self.closed_how = self.closed_how or "fin"
        except socket.timeout:
            pass
        except OSError:
            self.closed_how = self.closed_how or "rst"
        return self.closed_how

    # ---- sending

    def send(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.sock.sendall(data)
        self.sent += len(data)

    def head(self, status=200, headers=(), reason="OK"):
        pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
        lines = ["HTTP/1.1 %d %s" % (status, reason)] + ["%s: %s" % pair for pair in pairs]
        self.send("\r\n".join(lines) + "\r\n\r\n")

    def reply(self, body=b"", status=200, ctype="application/json", headers=()):
        """A complete reply with Content-Length, in one send."""
        if not isinstance(body, bytes):
            body = body.encode() if isinstance(body, str) else dump(body)
        pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
        lines = ["HTTP/1.1 %d Status" % status, "Content-Type: " + ctype, "Content-Length: %d" % len(body)]
        lines += ["%s: %s" % pair for pair in pairs]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def start_chunked(self, ctype="text/event-stream", status=200, headers=()):
        pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
        self.head(status, [("Content-Type", ctype), ("Transfer-Encoding", "chunked")] + pairs)

    def chunk(self, data):
        data = data.encode() if isinstance(data, str) else data
        self.send(b"%x\r\n" % len(data) + data + b"\r\n")

    def end_chunks(self):
        self.send(b"0\r\n\r\n")

    # ---- closing

    def fin(self):
        self.closed_how = self.closed_how or "us"
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self.sock.close()

    def rst(self):
        """Reset, from any thread. A plain close() would not do: while the serving thread sleeps in
        poll() the kernel keeps the connection open. Dissolving it (connect to AF_UNSPEC) sends the
        reset at once and wakes that thread."""
        self.closed_how = self.closed_how or "us"
        if self.sock.fileno() >= 0:
            LIBC.connect(self.sock.fileno(), bytes(16), 16)
        self.sock.close()


class Backend:
    """A server with one handler per path: handler(conn, request). A handler that
    returns normally keeps the connection open for the next request."""

    type = "openai-compatible"
    probe_paths = ("/v1/models", "/health", "/", "/api/tags", "/api/v0/models", "/api/version", "/props",
                   "/api/ps", "/slots", "/metrics")

    def __init__(self, name="a", models=("m1",), host="127.0.0.1"):
        self.name, self.models, self.host = name, list(models), host
        self.routes = {}
        self.unread = set()  # paths whose body the handler reads itself
        self.on_accept = None  # on_accept(conn): the raw script of a connection
        self.connections = []
        self.failures = []
        self.fillers = []
        self.lock = threading.Lock()
        self.listener = None
        self.stopping = threading.Event()
        self.setup()
        self._reserve()
        self.start()

    def setup(self):
        """Presets register their routes here."""

    def _reserve(self):
        sock = bind_port(self.host)
        self.port = sock.getsockname()[1]
        self.listener = sock

    @property
    def url(self):
        host = "[%s]" % self.host if ":" in self.host else self.host
        return "http://%s:%d" % (host, self.port)

    # ---- life

    def start(self):
        if self.listener is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            eventually(lambda: not self._try_bind(sock), "port %d is free again" % self.port)
            self.listener = sock
        self.listener.listen(128)
        self.stopping = threading.Event()
        threading.Thread(target=self._accept, args=(self.listener, self.stopping), daemon=True).start()

    def _try_bind(self, sock):
        try:
            sock.bind((self.host, self.port))
            return None
        except OSError as error:
            return error

    def stop(self):
        """Close the listener and every connection: what a pulled plug or kill -9 looks like."""
        self.stopping.set()
        if self.listener is not None:
            try:
                self.listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.listener.close()
            self.listener = None
        for sock in self.fillers:
            sock.close()
        for conn in list(self.connections):
            if conn.sock.fileno() >= 0:
                conn.rst()

    def go_silent(self):
        """From now on the machine swallows connection attempts: neither accepted nor refused."""
        self.stop()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        eventually(lambda: not self._try_bind(sock), "port %d is free again" % self.port)
        sock.listen(0)
        self.listener = sock
        self.fillers = fill_backlog(self.port)

    def _accept(self, listener, stopping):
        while not stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(60)
            with self.lock:
                conn = Conn(self, sock, len(self.connections))
                self.connections.append(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        try:
            if self.on_accept is not None and self.on_accept(conn) is not True:
                return
            while conn.sock.fileno() >= 0:
                request = conn.read_request()
                if request.path not in self.unread:
                    request.read_body()
                handler = self.routes.get(request.path) or self.routes.get("*") or Backend.not_found
                handler(conn, request)
        except EOFError:
            conn.closed_how = conn.closed_how or "fin"
        except (ConnectionError, BrokenPipeError):
            conn.closed_how = conn.closed_how or "rst"
        except OSError:
            conn.closed_how = conn.closed_how or "us"
        except Exception as error:  # a fault of the script: the test must fail
            if not self.stopping.is_set() and conn.closed_how is None:
                self.failures.append("%s: %r" % (self.name, error))
        finally:
            try:
                conn.sock.close()
            except OSError:
                pass

    # ---- script

    def on(self, path, handler, read_body=True):
        self.routes[path] = handler
        if not read_body:
            self.unread.add(path)
        return self

    @staticmethod
    def not_found(conn, request):
        conn.reply({"error": "no such path"}, 404)

    # ---- what was seen

    @property
    def requests(self):
        return [r for c in list(self.connections) for r in list(c.requests)]

    @property
    def calls(self):
        """Requests of clients, in order of arrival: everything but olla's own probes."""
        found = [r for r in self.requests
                 if r.has(MARK) or not (r.method in ("GET", "HEAD") and r.path in self.probe_paths)]
        return sorted(found, key=lambda r: r.when)

    @property
    def probes(self):
        return [r for r in self.requests if not r.has(MARK) and r.method in ("GET", "HEAD")]

    def wait_calls(self, count, timeout=WAIT):
        eventually(lambda: len(self.calls) >= count, "backend %s got %d calls (has %r)"
                   % (self.name, count, [c.line for c in self.calls]), timeout)
        return self.calls

    def forget(self):
        """Drop what was recorded so far."""
        for conn in self.connections:
            conn.requests = []
            conn.raw = bytearray()


def sse(obj):
    return b"data: " + dump(obj) + b"\n\n"


def openai_chunk(text, model="m1"):
    return sse({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model,
                "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


class OpenAIBackend(Backend):
    """/v1/models, /v1/chat/completions (SSE and JSON), /v1/completions, /v1/embeddings, /health."""

    def setup(self):
        self.on("/health", lambda c, r: c.reply({"status": "ok"}))
        self.on("/v1/models", lambda c, r: c.reply(self.model_list()))
        self.on("/v1/chat/completions", self.chat)
        self.on("/v1/completions", self.chat)
        self.on("/v1/embeddings", lambda c, r: c.reply({"object": "list", "data": [], "served_by": self.name}))

    def model_list(self):
        return {"object": "list", "data": [{"id": m, "object": "model", "created": 1700000000, "owned_by": "us"}
                                           for m in self.models]}

    def chat(self, conn, request):
        try:
            body = request.json()
        except ValueError:
            body = {}
        if isinstance(body, dict) and body.get("stream"):
            conn.start_chunked("text/event-stream")
            for word in ("from", self.name, "done"):
                conn.chunk(openai_chunk(word))
            conn.chunk(b"data: [DONE]\n\n")
            conn.end_chunks()
        else:
            conn.reply({"id": "c1", "object": "chat.completion", "served_by": self.name, "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "from " + self.name}, "finish_reason": "stop"}]})


class LlamaBackend(OpenAIBackend):
    type = "llamacpp"


class VllmBackend(OpenAIBackend):
    type = "vllm"


class LmStudioBackend(OpenAIBackend):
    type = "lm-studio"

    def setup(self):
        super().setup()
        self.on("/api/v0/models", lambda c, r: c.reply(
            {"object": "list", "data": [{"id": m, "object": "model", "type": "llm", "publisher": "us", "arch": "llama",
                                         "quantization": "Q4_K_M", "state": "loaded", "max_context_length": 4096}
                                        for m in self.models]}))


class OllamaBackend(OpenAIBackend):
    """Also speaks /, /api/tags, /api/chat and /api/generate (NDJSON and JSON)."""

    type = "ollama"

    def setup(self):
        super().setup()
        self.on("/", lambda c, r: c.reply(b"Ollama is running", ctype="text/plain; charset=utf-8"))
        self.on("/api/version", lambda c, r: c.reply({"version": "0.9.9", "served_by": self.name}))
        self.on("/api/tags", lambda c, r: c.reply(self.tags()))
        self.on("/api/chat", self.ndjson)
        self.on("/api/generate", self.ndjson)

    def tags(self):
        return {"models": [{"name": m, "model": m, "modified_at": "2026-01-02T03:04:05.678+01:00", "size": 4661224676,
                            "digest": "%064x" % (abs(hash(m)) % (1 << 200)),
                            "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
                                        "parameter_size": "8.0B", "quantization_level": "Q4_0"}} for m in self.models]}

    def ndjson(self, conn, request):
        body = request.json()
        if body.get("stream", True):
            conn.start_chunked("application/x-ndjson")
            for word in ("from", self.name):
                conn.chunk(dump({"model": body.get("model"), "message": {"role": "assistant", "content": word},
                                 "done": False}) + b"\n")
            conn.chunk(dump({"model": body.get("model"), "done": True, "done_reason": "stop"}) + b"\n")
            conn.end_chunks()
        else:
            conn.reply({"model": body.get("model"), "served_by": self.name, "done": True,
                        "message": {"role": "assistant", "content": "from " + self.name}})


def fill_backlog(port):
    socks = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        socks.append(sock)
    time.sleep(0.05)
    return socks


class BlackHole:
    """A listening port whose backlog is full: connecting neither succeeds nor fails."""

    def __init__(self):
        self.listener = bind_port()
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.url = "http://127.0.0.1:%d" % self.port
        self.fillers = fill_backlog(self.port)

    def stop(self):
        for sock in self.fillers:
            sock.close()
        self.listener.close()


class DeadPort:
    """A port that refuses: bound, so that nobody else gets it, but not listening."""

    def __init__(self):
        self.sock = bind_port()
        self.port = self.sock.getsockname()[1]
        self.url = "http://127.0.0.1:%d" % self.port

    def stop(self):
        self.sock.close()


def hold(conn, request):
    """Never answers; ends when the peer closes. conn.closed_how tells how."""
    conn.wait_close(30)


def pattern(size, seed=1):
    """`size` reproducible bytes in which every position is recognisable."""
    return random.Random(seed).randbytes(size)


def split_at(data, *points):
    edges = [0] + list(points) + [len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:])]


def events(body):
    """The data payloads of an SSE body."""
    return [m.group(1) for m in re.finditer(rb"(?m)^data: ?(.*)$", body)]
