"""What the tests of floods and of hostile servers share: a stream that has to keep flowing, and many raw connections
that one thread drives."""

import errno
import pathlib
import selectors
import socket
import subprocess
import threading
import time

from backend import OpenAIBackend, eventually
from client import WAIT, Client

REPO = pathlib.Path(__file__).resolve().parents[2]
PLAIN_BINARY = REPO / "build" / "olla"   # the product itself: memory is measured on it
PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
PAGE = 4096


def small_binary():
    """The build whose every limit is low; made if it is not there or not new."""
    made = subprocess.run(["make", "-s", "-C", str(REPO), "small"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert made.returncode == 0, made.stdout.decode("utf-8", "replace")[-3000:]
    return REPO / "build" / "small" / "test" / "olla"


def resident(proxy):
    """Bytes of memory of its own that it has touched; not the pages of the program's file."""
    for line in open("/proc/%d/status" % proxy.pid):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def pools(proxy, client=None):
    return {pool["name"]: pool for pool in proxy.status(client)["pools"]}


class Metronome(OpenAIBackend):
    """A server whose streams are numbered events, one every few milliseconds, until they are stopped."""

    gap = 0.01

    def setup(self):
        super().setup()
        self.stop_streams = threading.Event()
        self.on(CHAT, self.tick)

    def tick(self, conn, request):
        if not request.json().get("stream"):
            conn.reply({"served_by": self.name})
            return
        conn.start_chunked()
        n = 0
        while not self.stop_streams.is_set():
            conn.chunk(b"data: %d\n\n" % n)
            n += 1
            time.sleep(self.gap)
        conn.end_chunks()


class Stream:
    """One client of a Metronome that reads what comes. Every event has to come, in order."""

    def __init__(self, proxy, server, model="m-tick", **options):
        self.server = server
        self.client = Client(proxy.port, **options)
        self.client.start_post(PATH, {"model": model, "stream": True})
        self.reply = self.client.read_head("POST")
        assert self.reply.status == 200, self.reply.read_rest().body
        self.count, self.problem = 0, None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        rest = b""
        try:
            while not self.reply.complete:
                rest += self.reply.read_piece(30)
                self.reply.body = b""
                *events, rest = rest.split(b"\n\n")
                for event in events:
                    if event != b"data: %d" % self.count:
                        self.problem = "event %r instead of %d" % (event, self.count)
                        return
                    self.count += 1
            if rest:
                self.problem = "half an event at the end: %r" % rest
        except (AssertionError, OSError) as error:
            self.problem = repr(error)

    def flows(self, events=20, timeout=WAIT):
        """So many further events come."""
        wanted = self.count + events
        eventually(lambda: self.count >= wanted or self.problem, "the stream flows: %d further events" % events, timeout)
        assert self.problem is None, self.problem

    def end(self):
        """It ends properly, and nothing was lost on the way."""
        self.flows(3)
        self.server.stop_streams.set()
        self.reader.join(WAIT)
        self.server.stop_streams.clear()
        self.client.close()
        assert self.problem is None and self.reply.complete, self.problem or "the stream did not end"


class Crowd:
    """Many connections to one port that say `raw` and then a little of `drip` each `pause` seconds. What comes is kept
    per connection (unless it does not read at all); one that ends begins anew if `again`."""

    def __init__(self, port, count, raw=b"", drip=b"", pause=0.1, again=False, reads=True, source=None, rcvbuf=0):
        self.port, self.raw, self.drip, self.pause = port, raw, drip, pause
        self.again, self.reads, self.source, self.rcvbuf = again, reads, source, rcvbuf
        self.ended, self.replies, self.problem = 0, [], None
        self.lock = threading.Lock()
        self.open = {}
        self.selector = selectors.DefaultSelector()
        self.stopping = threading.Event()
        for _ in range(count):
            self._start()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _start(self):
        sock = socket.socket()
        sock.setblocking(False)
        if self.rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.rcvbuf)
        if self.source:
            sock.bind((self.source, 0))
        error = sock.connect_ex(("127.0.0.1", self.port))
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            self.problem = "connect: %s" % errno.errorcode.get(error, error)
            return
        self.open[sock] = [self.raw, b""]   # still to be sent; got
        self.selector.register(sock, selectors.EVENT_WRITE | (selectors.EVENT_READ if self.reads else 0))

    def _end(self, sock):
        self.selector.unregister(sock)
        raw, got = self.open.pop(sock)
        sock.close()
        self.ended += 1
        if got:
            self.replies.append(got)
        if self.again and not self.stopping.is_set():
            self._start()

    def _event(self, sock, mask):
        state = self.open[sock]
        try:
            if mask & selectors.EVENT_WRITE and state[0]:
                state[0] = state[0][sock.send(state[0]):]
            if mask & selectors.EVENT_WRITE and not state[0]:
                self.selector.modify(sock, selectors.EVENT_READ) if self.reads else self.selector.unregister(sock)
            if mask & selectors.EVENT_READ:
                data = sock.recv(65536)
                state[1] = (state[1] + data)[:4096]
                if not data:
                    self._end(sock)
        except BlockingIOError:
            pass
        except OSError:
            if sock in self.selector.get_map():
                self._end(sock)

    def _run(self):
        next_drip = time.monotonic() + self.pause
        while not self.stopping.is_set():
            for key, mask in self.selector.select(0.02):
                with self.lock:
                    self._event(key.fileobj, mask)
            if self.drip and time.monotonic() >= next_drip:
                next_drip = time.monotonic() + self.pause
                with self.lock:
                    for sock, state in list(self.open.items()):
                        if state[0]:
                            continue   # not even connected
                        try:
                            sock.send(self.drip)
                        except BlockingIOError:
                            pass
                        except OSError:
                            self._end(sock)

    def statuses(self):
        return {got.split(b" ", 2)[1] if got.startswith(b"HTTP/1.1 ") else got for got in list(self.replies)}

    def leave(self):
        """All connections are reset."""
        self.stopping.set()
        self.thread.join(WAIT)
        for sock in list(self.open):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        self.open = {}
        self.selector.close()


def answered(proxy, model="m-tick", source=None, timeout=WAIT):
    """A well-behaved request of a new client gets its answer."""
    with Client(proxy.port, timeout=timeout, source=source) as client:
        reply = client.post(PATH, {"model": model}, timeout=timeout)
    assert reply.status == 200, (reply.status, reply.body)
