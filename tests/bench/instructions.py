"""Instructions and system calls of a fixed exchange: the same on a busy machine as on a quiet one.

olla runs under valgrind (callgrind), then under strace, with a client and a backend that are one thread here and take turns:
nothing arrives that was not waited for. Each kind of work is done LESS and MORE times; the difference is its cost, so that
the start does not count. tests/bench/baseline keeps the figures; `make bench-baseline` writes them anew. They depend on
the compiler, and a little on the processor, whose fastest copying the C library takes.
"""
import concurrent.futures
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import time

import anthropic
import world

BASELINE = os.path.join(world.HERE, "baseline")
MORE = 1000
START = 10
PATIENCE = 60
OLLA = """
[server]
host = 127.0.0.1
port = {plain}

[proxy]
spool_dir = {folder}

[endpoint:one]
url = http://127.0.0.1:{backend}
type = openai-compatible
health = none
"""
QUIET = OLLA + """
[logging]
level = warn
"""
# A key, a conversation, the access log.
FULL = OLLA + """
[logging]
level = info
output = file
file = {folder}/{name}.log

[key:bench]
secret = {key}
"""
FULL_HEADERS = f"\r\nAuthorization: Bearer {world.KEY}\r\nX-Session-ID: conversation-17"
MODELS = b'{"object":"list","data":[{"id":"bench-model","object":"model"}]}'
REPLY = (b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench-model","choices":[{"index":0,'
         b'"message":{"role":"assistant","content":"This is the fixed reply."},"finish_reason":"stop"}],'
         b'"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}')
EVENT = (b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"bench-model","choices":[{"index":0,'
         b'"delta":{"content":" word"},"finish_reason":null}]}\n\n')
END = b"data: [DONE]\n\n"
MESSAGES = {"model": "bench-model", "max_tokens": 100, "messages": anthropic.conversation(10, 400)}


def message(start, body):
    return (f"{start}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def receive(peer, enough):
    data = b""
    while not enough(data):
        more = peer.recv(65536)
        if not more:
            raise OSError(f"closed after {data[-200:]!r}")
        data += more
    return data


def complete(data):
    """A message with a Content-Length, or without a body, is all there."""
    head, blank, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(blank) and len(body) >= (int(length.group(1)) if length else 0)


class Exchange:
    """One olla, one connection of a client to it, one of olla's to its backend."""

    def __init__(self, port, listener, headers):
        self.listener = listener
        self.headers = headers
        self.known = selectors.DefaultSelector()
        self.known.register(listener, selectors.EVENT_READ)
        self.upstream = None
        self.serve_lists(port)
        self.client = self.connect(port)

    @staticmethod
    def connect(port):
        peer = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return peer

    def serve_lists(self, port):
        """Answers the questions of the start, until a request for the model comes through."""
        until = time.monotonic() + PATIENCE
        asking, quiet = None, 0
        while quiet < 3:
            if time.monotonic() > until:
                raise world.Missing("olla does not serve the model")
            if self.take_request(0.3, message("HTTP/1.1 200 OK", MODELS)):
                quiet = 0
                continue
            quiet += 1
            if quiet == 3:
                try:
                    asking = self.connect(port)
                    asking.sendall(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close{self.headers}\r\n\r\n".encode())
                    quiet = 3 if b"bench-model" in receive(asking, complete) else 0
                except OSError:
                    quiet = 0
                finally:
                    if asking is not None:
                        asking.close()

    def take_request(self, patience, reply=None):
        """The next request at the backend, on whatever connection; that connection, or None."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            for key, _ in self.known.select(max(until - time.monotonic(), 0)):
                if key.fileobj is self.listener:
                    peer, _ = self.listener.accept()
                    peer.settimeout(PATIENCE)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.known.register(peer, selectors.EVENT_READ)
                    continue
                try:
                    receive(key.fileobj, complete)
                except OSError:
                    self.known.unregister(key.fileobj)
                    key.fileobj.close()
                    continue
                if reply is not None:
                    key.fileobj.sendall(reply)
                return key.fileobj
        return None

    def ask(self, request):
        self.client.sendall(request)
        peer = self.take_request(PATIENCE)
        if peer is None:
            raise world.Missing("the request does not get to the backend")
        return peer

    def requests(self, path, body, count):
        request = message(f"POST {path} HTTP/1.1\r\nHost: x{self.headers}", body)
        for _ in range(count):
            self.ask(request).sendall(message("HTTP/1.1 200 OK", REPLY))
            answer = receive(self.client, complete)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise world.Missing(f"{answer[:200]!r}")

    def events(self, path, body, count):
        """Each event goes out when the one before it has come down."""
        peer = self.ask(message(f"POST {path} HTTP/1.1\r\nHost: x{self.headers}", body))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(count):
            peer.sendall(chunk(EVENT))
            receive(self.client, lambda data: b" word" in data and data.endswith(b"\n\n\r\n"))
        peer.sendall(chunk(END) + b"0\r\n\r\n")
        receive(self.client, lambda data: data.endswith(b"0\r\n\r\n"))

    def run(self, counts):
        self.requests("/v1/chat/completions", world.CHAT.encode(), counts["request"] + counts["full request"])
        self.events("/v1/chat/completions", json.dumps({**json.loads(world.CHAT), "stream": True}).encode(), counts["event"])
        self.requests("/v1/messages", json.dumps(MESSAGES).encode(), counts["translated request"])
        self.events("/v1/messages", json.dumps(anthropic.QUESTION).encode(), counts["translated event"])
        self.client.close()


KINDS = {"request": "chat request", "full request": "chat request with key, session, access log", "event": "event of a stream", "translated request": f"Anthropic request of {len(json.dumps(MESSAGES)) / 1000:.0f} KB, translated",
         "translated event": "event, translated"}
REPEATED = {"request": MORE, "full request": MORE, "event": MORE, "translated request": MORE // 20, "translated event": MORE}


def one_run(folder, more, full, tool, count):
    """What the tool has counted, for the fixed start and `more` of one kind."""
    name = f"{count.__name__}-{more.replace(' ', '-')}-{full:d}"
    counts = {kind: START + (REPEATED[kind] if kind == more else 0) for kind in KINDS}
    port = world.free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        conf = world.write(folder, f"{name}.ini", (FULL if full else QUIET).format(
            plain=port, folder=folder, name=name, key=world.KEY, backend=listener.getsockname()[1]))
        out = os.path.join(folder, name + ".count")
        child = subprocess.Popen([*tool(out), world.olla_path(), "-c", conf], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, cwd=folder, env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"})
        try:
            Exchange(port, listener, FULL_HEADERS if full else "").run(counts)
        finally:
            pids = world.family(child.pid)
            # strace keeps such signals for itself: the program is its child.
            os.kill(pids[1] if os.path.basename(tool(out)[0]) == "strace" and len(pids) > 1 else child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
            if child.poll() is None:
                child.kill()
                child.wait()
    with open(out, encoding="utf-8", errors="replace") as file:
        return count(file.read())


def callgrind(out):
    return [world.find("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={out}"]


def callgrind_count(text):
    found = re.findall(r"Collected : (\d+)", text)
    if not found:
        raise world.Missing(f"callgrind counted nothing: {text[-200:]}")
    return int(found[0])


def strace(out):
    return [world.find("strace"), "-c", "-U", "calls,name", "-o", out]


def strace_count(text):
    found = re.search(r"^ *(\d+) total", text, re.M)
    if not found:
        raise world.Missing(f"strace counted nothing: {text[-200:]}")
    return int(found.group(1))


def count_all(bench, tool, count):
    with concurrent.futures.ThreadPoolExecutor(len(world.PROCESSORS)) as pool:
        fulls = {kind: kind == "full request" for kind in KINDS}
        bases = {full: pool.submit(one_run, bench.folder, "", full, tool, count) for full in (False, True)}
        runs = {kind: pool.submit(one_run, bench.folder, kind, fulls[kind], tool, count) for kind in KINDS}
        return {kind: (runs[kind].result() - bases[fulls[kind]].result()) / REPEATED[kind] for kind in KINDS}


def baseline_read():
    """({name: figure}, the tools that they were counted with)"""
    kept, tools = {}, ""
    with contextlib.suppress(FileNotFoundError):
        with open(BASELINE, encoding="utf-8") as file:
            for line in file:
                name, _, value = line.strip().rpartition(": ")
                if line.startswith("# counted with "):
                    tools = line[len("# counted with "):].strip()
                elif name and not line.startswith("#"):
                    kept[name] = float(value)
    return kept, tools


def tools_now():
    valgrind = subprocess.run([world.find("valgrind"), "--version"], capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    return f"{world.compiler_version()}, {valgrind}, {os.uname().machine}"


def measure(bench, table):
    kept, tools = baseline_read()
    now = tools_now()
    table.section("a fixed exchange, counted (client and backend take turns); beside what tests/bench/baseline keeps")
    if tools and tools != now:
        print(f"  those were counted with {tools}; this is {now}: the change may be the tools'", flush=True)
    found = {}
    for unit, tool, count in (("instr.", callgrind, callgrind_count), ("sys.calls", strace, strace_count)):
        try:
            for kind, value in count_all(bench, tool, count).items():
                name = f"{KINDS[kind]}: {'instructions' if unit == 'instr.' else 'system calls'}"
                found[name] = value
                table.change(name, unit, value, kept.get(name))
        except (world.Missing, OSError, subprocess.SubprocessError) as error:
            print(f"  {unit} not counted: {error}", flush=True)
    if os.environ.get("BENCH_BASELINE") == "write":
        with open(BASELINE, "w", encoding="utf-8") as file:
            file.write(f"# What a fixed exchange costs; `make bench-baseline` writes this file, `make bench` compares.\n# counted with {now}\n")
            file.writelines(f"{name}: {value:.1f}\n" for name, value in found.items())
        world.note("tests/bench/baseline is written")
