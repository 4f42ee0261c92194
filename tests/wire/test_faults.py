"""Faults of networks and machines: connections that break, stall, dribble or vanish at every point of a request, clocks that jump and
a machine that sleeps. What must not happen: a request carried out twice, half an answer that looks whole, one fault that others feel."""

import collections
import contextlib
import hashlib
import json
import os
import re
import signal
import time

import pytest

from backend import Gate, LlamaBackend, OllamaBackend, eventually, hold, openai_chunk, pattern
from client import Client, Closed, dump, json_headers, request_bytes
from faults import OURS, Fault, Lan, Relay
from harness import World, endpoint, new_id, rarely_probed, report

CHAT = "/v1/chat/completions"
PRIORITY = {"proxy.load_balancer": "priority", "proxy.sticky_sessions.enabled": False}
# No breaker opens here (a good request comes first), but all of them count.
COUNTS = dict(PRIORITY, **{"proxy.breaker.consecutive_failures": 0, "proxy.breaker.failure_percent": 100, "proxy.breaker.window": 32})
CLOSE = [("Connection", "close")]


# ---- what is asked and answered

class Kind:
    """One form of reply: how it is asked for and what it consists of."""

    def __init__(self, name, path, body, ctype, parts, middle, last):
        self.name, self.path, self.body, self.ctype, self.parts = name, path, body, ctype, parts
        self.middle, self.last = middle, last   # behind these texts there is more of the reply to come; the last: only its end
        self.chunked = len(parts) > 1
        self.whole = b"".join(parts)
        self.end = b"\r\n0\r\n\r\n" if self.chunked else parts[0][-10:]

    def __repr__(self):
        return self.name

    def send(self, conn, headers=()):
        if not self.chunked:
            conn.reply(self.whole, ctype=self.ctype, headers=headers)
            return
        conn.start_chunked(self.ctype, headers=headers)
        for part in self.parts:
            conn.chunk(part)
        conn.end_chunks()

    def check_tail(self, body):
        """A reply that was cut: what came of it is genuine, and behind it stands the truth, where there is room for it."""
        if self.ctype == "text/event-stream":
            last = [event for event in body.split(b"\n\n") if event][-1].lstrip(b"\n")
            assert last.startswith(b"data: ") and body.endswith(b"\n\n"), body
            assert json.loads(last[6:])["error"]["message"], body
            body = body[:body.rindex(last)]
        elif self.ctype == "application/x-ndjson":
            last = body.rstrip(b"\n").rsplit(b"\n", 1)[-1]
            assert body.endswith(b"\n") and isinstance(json.loads(last)["error"], str), body
            body = body[:body.rindex(last)]
        assert self.whole.startswith(body) or self.whole.startswith(body.rstrip(b"\n")), body


def line(word, **more):
    return dump(dict({"model": "m", "message": {"role": "assistant", "content": word}, "done": False}, **more)) + b"\n"


SSE = Kind("sse", CHAT, {"stream": True}, "text/event-stream", [openai_chunk("Hel"), openai_chunk("lo"), b"data: [DONE]\n\n"],
           b"Hel", b"[DONE]\n\n")
NDJSON = Kind("ndjson", "/api/chat", {}, "application/x-ndjson", [line("Hel"), line("lo"), line("", done=True, done_reason="stop")],
              b"Hel", b'"done_reason":"stop"}\n')
WHOLE = Kind("whole", CHAT, {}, "application/json", [dump({"pad": "x" * 3000, "half": 1, "rest": "y" * 3000, "end": 1})], b'"half"', b'"end":1')
KINDS = (SSE, NDJSON, WHOLE)
kinds = pytest.mark.parametrize("kind", KINDS, ids=repr)


class Phase:
    """A point of the transaction. begun: bytes of the reply have gone down; runs: the backend has the whole request."""

    def __init__(self, name, where, begun=False, runs=True, done=False):
        self.name, self.where, self.begun, self.runs, self.done = name, where, begun, runs, done

    def __repr__(self):
        return self.name

    def fault(self, do, kind, **keys):
        return Fault(do, **dict(self.where(kind), **keys))


PHASES = (Phase("no-byte", lambda k: {"up": 0}, runs=False),
          Phase("request-head", lambda k: {"up": 10}, runs=False),
          Phase("request-body", lambda k: {"up": 60000}, runs=False),
          Phase("before-reply", lambda k: {"down": 0}),
          Phase("reply-head", lambda k: {"down": 12}),
          Phase("after-head", lambda k: {"down": b"\r\n\r\n"}, begun=True),
          Phase("in-body", lambda k: {"down": k.middle}, begun=True),
          Phase("before-end", lambda k: {"down": k.last}, begun=True),
          Phase("after-end", lambda k: {"down": k.end}, begun=True, done=True))
phases = pytest.mark.parametrize("phase", PHASES, ids=repr)


class Server(OllamaBackend):
    """Answers as the request says; counts what it carries out."""

    def setup(self):
        super().setup()
        self.done, self.bodies, self.keeps = collections.Counter(), {}, False
        self.on(CHAT, self.answer)
        self.on("/api/chat", self.answer)

    def answer(self, conn, request):
        self.done[request.query] += 1
        self.bodies[request.query] = request.body
        kind = next(k for k in KINDS if k.name == request.json()["kind"])
        kind.send(conn, () if self.keeps else CLOSE)


def marked(mark):
    return "f=" + mark


class Bench:
    """`one` alone has m-one; m-two is at `a` (always asked first) and `b`. Each behind a relay; nobody is probed."""

    def __init__(self, health="passive", **settings):
        self.world = World()
        self.servers = {name: self.world.backend(Server, name, ["m-one" if name == "one" else "m-two"]) for name in ("one", "a", "b")}
        self.relays = {name: self.world.keep(Relay(server)) for name, server in self.servers.items()}
        self.proxy = self.world.olla({name: endpoint(relay, health=health, priority=200 if name == "a" else 100)
                                      for name, relay in self.relays.items()}, dict(COUNTS, **settings))
        self.front = self.world.keep(Relay(self.proxy))
        self.ends = []   # what the access lines must say; looked at when the test is over, because lines wait for company

    @property
    def proxies(self):
        return self.world.proxies

    def start(self, kind, model="m-two", port=None, pad=70000, mark=None, **keys):
        """(client, mark) of a request that has been sent. pad: makes its body longer than what is taken at once."""
        mark = mark or new_id("f")
        client = Client(port or self.proxy.port, **keys)
        self.world.clients.append(client)
        client.sent = dump(dict(kind.body, model=model, kind=kind.name, pad="p" * pad))
        client.send(request_bytes("POST", kind.path + "?" + marked(mark), json_headers({"X-Request-ID": mark}), client.sent))
        return client, mark

    def fault(self, kind, phase, do, model="m-two", **keys):
        """The same; it will meet the fault on the way to its (first) server."""
        mark = new_id("f")
        self.relays["one" if model == "m-one" else "a"].arm(marked(mark), phase.fault(do, kind, **keys))
        return self.start(kind, model, mark=mark)

    def ran(self, name, mark):
        return self.servers[name].done[marked(mark)]

    def failures(self, name):
        return self.proxy.endpoint(name)["breaker"]["failures"]

    def well(self, *models, kind=WHOLE):
        """A request without a fault is answered whole, at the first place."""
        for model in models or ("m-one", "m-two"):
            client, mark = self.start(kind, model, pad=10)
            reply = client.read_response("POST")
            client.close()
            assert reply.status == 200 and reply.complete and reply.body == kind.whole, reply.body
            assert self.ran("one" if model == "m-one" else "a", mark) == 1

    def look_at_log(self):
        for mark, wanted in self.ends:
            entry = self.proxy.access(mark)
            assert {key: entry.get(key) for key in wanted} == wanted, entry
        self.ends = []

    def at_rest(self):
        self.world.close_clients()
        problems = self.proxy.idle_problems() + self.world.script_failures()
        assert not problems, "\n".join(problems + [self.proxy.describe()])


@contextlib.contextmanager
def used(kept, **settings):
    bench = kept(Bench, **settings)
    seen = len(bench.proxy.logs)
    bench.well()
    bench.ends = []
    yield bench
    bench.look_at_log()
    for relay in list(bench.relays.values()) + [bench.front]:
        relay.resume()
        relay.forget()
    assert bench.proxy.alive(), bench.proxy.describe()
    bench.well()
    assert (bench.failures("one"), bench.failures("a")) == (0, 0)
    bench.at_rest()
    assert [e for e in bench.proxy.logs[seen:] if e.get("level") == "ERROR"] == []


@pytest.fixture
def bench(kept):
    """Limits of minutes: nothing ends because of time."""
    with used(kept) as bench:
        yield bench


@pytest.fixture
def storm(kept):
    """Without a breaker: nobody is left alone because of many faults."""
    with used(kept, health="none") as bench:
        yield bench


QUICK = 1.5   # seconds


@pytest.fixture
def hasty(kept):
    """Limits of a second and a half for everything."""
    with used(kept, **dict({"proxy.response_header_timeout": "%gms" % (QUICK * 1000), "proxy.read_timeout": "%gms" % (QUICK * 1000)},
                           **{"server." + key: "%gms" % (QUICK * 1000)
                              for key in ("read_timeout", "read_header_timeout", "idle_timeout")})) as bench:
        yield bench


def whole(bench, client, kind, by, mark, timeout=10.0, attempts=None):
    reply = client.read_response("POST", timeout)
    assert reply.status == 200 and reply.complete and reply.body == kind.whole, (reply.status, reply.body)
    assert reply.get("X-Olla-Endpoint") == by
    assert bench.servers[by].bodies[marked(mark)] == client.sent, "the request arrived as it was sent"
    bench.ends.append((mark, dict({"end": "--"}, **{"attempts": attempts} if attempts else {})))


def cut(bench, client, kind, mark, end="SD", timeout=10.0, attempts=1):
    reply = client.read_response("POST", timeout)
    assert reply.status == 200 and not reply.complete, "half a reply must not end like a whole one"
    if kind.chunked:
        assert reply.framing == "chunked"
    else:
        assert int(reply.get("Content-Length")) == len(kind.whole) > len(reply.body)
    kind.check_tail(reply.body)
    assert client.read_eof(5) == b""
    bench.ends.append((mark, {"end": end, "status": 200, "attempts": attempts}))


def refused(bench, client, kind, mark, status, end):
    reply = client.read_response("POST")
    assert reply.status == status and reply.complete, reply.body
    error = reply.json()["error"]
    assert isinstance(error, str) if kind is NDJSON else error["message"]
    bench.ends.append((mark, {"end": end, "status": status}))


# ---- between olla and its servers: connections that break

@kinds
@phases
def test_breaks(bench, phase, kind):
    """The whole table: before the reply the next server gets the request, once; after its first byte nobody does, and the client learns
    that something is missing; the server's breaker hears of it; nothing else does."""
    for servers, do in [(servers, do) for servers in ("one", "two") for do in ("reset", "fin", "half")]:
        model, name = ("m-one", "one") if servers == "one" else ("m-two", "a")
        side = {"side": "down"} if do == "half" else {}
        client, mark = bench.fault(kind, phase, do, model, **side)
        if phase.done:
            whole(bench, client, kind, name, mark, attempts=1)
        elif phase.begun:
            cut(bench, client, kind, mark)
        elif servers == "one":
            refused(bench, client, kind, mark, 502, "SH")
        else:
            whole(bench, client, kind, "b", mark, attempts=2)
        eventually(lambda n=name, d=do: bench.relays[n].struck(d), "%s happened" % do, 2)
        bench.relays[name].forget()
        if do != "half" or phase.runs:  # what was sent before a mere half close may be carried out
            wanted = 1 if phase.runs else 0
            eventually(lambda m=mark, w=wanted: bench.ran(name, m) == w, "%s: %s carried it out %d times" % (do, name, wanted), 2)
        assert bench.ran(name, mark) <= 1, do
        assert bench.ran("b", mark) == (1 if servers == "two" and not phase.begun else 0), do
        assert bench.failures(name) == (0 if phase.done else 1), "%s: the breaker counts broken replies and nothing else" % do
        assert (bench.failures("b"), bench.proxy.endpoint(name)["status"]) == (0, "healthy"), do
        bench.well(model)
        assert bench.failures(name) == 0, "the next request works"


@pytest.mark.parametrize("phase", PHASES[3:8], ids=repr)
def test_breaks_of_a_kept_connection(bench, phase):
    """A kept connection that ends without a byte may have been closed before the request came: tried once anew. With a byte of the
    reply it was not."""
    for server in bench.servers.values():
        server.keeps = True
    try:
        for kind, do in [(kind, do) for kind in KINDS for do in ("reset", "fin")]:
            bench.well()
            client, mark = bench.fault(kind, phase, do, times=1)
            if phase.begun:
                cut(bench, client, kind, mark)
                assert (bench.ran("a", mark), bench.ran("b", mark), bench.failures("a")) == (1, 0, 1), (kind, do)
            elif phase.name == "before-reply":
                whole(bench, client, kind, "a", mark, attempts=1)
                assert (bench.ran("b", mark), bench.failures("a")) == (0, 0), (kind, do)
            else:
                whole(bench, client, kind, "b", mark, attempts=2)
                assert (bench.ran("a", mark), bench.ran("b", mark), bench.failures("a")) == (1, 1, 1), (kind, do)
            assert bench.relays["a"].struck(do)[-1].up.base > 0, "it was not a kept connection"
    finally:
        for server in bench.servers.values():
            server.keeps = False
        bench.well("m-one", "m-two")  # replies with `Connection: close` from here on


@pytest.mark.parametrize("greeting", ["reset", "fin"])
@pytest.mark.parametrize("servers", ["one", "two"])
def test_closed_at_once(bench, greeting, servers):
    """Accepted and closed before a byte: a server that is full, or a forwarder whose target is gone."""
    model, name = ("m-one", "one") if servers == "one" else ("m-two", "a")
    bench.relays[name].greeting = [greeting]
    client, mark = bench.start(SSE, model)
    if servers == "two":
        whole(bench, client, SSE, "b", mark)
    else:
        reply = client.read_response("POST")
        assert reply.status == 502 and bench.proxy.access(mark)["end"] in ("SH", "SC")
    assert bench.relays[name].greeting == [] and bench.ran(name, mark) == 0 and bench.failures(name) == 1


@kinds
@pytest.mark.parametrize("servers", ["one", "two"])
def test_refused_and_back(bench, servers, kind):
    """The port is closed and opened again: the very next request finds it."""
    model, name = ("m-one", "one") if servers == "one" else ("m-two", "a")
    bench.relays[name].refuse()
    try:
        for n in range(2):
            client, mark = bench.start(kind, model)
            if servers == "two":
                whole(bench, client, kind, "b", mark)
            else:
                refused(bench, client, kind, mark, 502, "SC")
            assert bench.failures(name) == n + 1
    finally:
        bench.relays[name].reopen()
    bench.well(model, kind=kind)
    assert bench.failures(name) == 0


def test_both_break(bench):
    """The second server fails as well, later: each was asked once, and the client gets the truth about the second."""
    for phase in PHASES[3:8]:
        mark = new_id("f")
        bench.relays["a"].arm(marked(mark), PHASES[3].fault("reset", SSE))
        bench.relays["b"].arm(marked(mark), phase.fault("reset", SSE))
        client, mark = bench.start(SSE, mark=mark)
        if phase.begun:
            cut(bench, client, SSE, mark, attempts=2)
        else:
            refused(bench, client, SSE, mark, 502, "SH")
        assert (bench.ran("a", mark), bench.ran("b", mark)) == (1, 1)
        bench.well()


# ---- servers that stall

STALLS = [(phase, kind, model) for phase in PHASES for kind in KINDS for model in ("m-one", "m-two")]


def test_stalls_and_goes_on(bench):
    """Slowness alone moves nothing: all of these wait, at every point, and none is sent to another server or carried out twice."""
    cases = [(phase, kind, model) + bench.fault(kind, phase, "stall", model) for phase, kind, model in STALLS]
    stalled = ("one", "a")

    def all_stalled():
        return sum(len(bench.relays[name].struck("stall")) for name in stalled) == len(cases)
    eventually(all_stalled, "all connections have stalled")
    time.sleep(0.3)
    assert not any(bench.ran("b", case[4]) for case in cases)
    # Others are served meanwhile, through the same servers.
    bench.well(kind=SSE)
    assert all(case[4] not in {e.get("request_id") for e in bench.proxy.find_logs("request")} for case in cases if not case[0].done)
    for name in stalled:
        bench.relays[name].resume()
    for phase, kind, model, client, mark in cases:
        name = "one" if model == "m-one" else "a"
        whole(bench, client, kind, name, mark, 20)
        assert (bench.ran(name, mark), bench.ran("b", mark)) == (1, 0), (phase, kind, model)


def test_stalls_for_ever(hasty):
    """Cut after the configured time, with the truth: 504 before the reply, an open end inside it. Another server is not asked."""
    before = {name: hasty.failures(name) for name in ("one", "a")}
    assert before == {"one": 0, "a": 0}
    cases = [(phase, kind, model) + hasty.fault(kind, phase, "stall", model) for phase, kind, model in STALLS if not phase.done]
    for phase, kind, model, client, mark in cases:
        name = "one" if model == "m-one" else "a"
        if phase.begun:
            cut(hasty, client, kind, mark, "sD", 20)
        else:
            refused(hasty, client, kind, mark, 504, "sH")
        assert hasty.ran("b", mark) == 0 and hasty.ran(name, mark) == (1 if phase.runs else 0), (phase, kind, model)
    each = len(cases) // 2
    assert (hasty.failures("one"), hasty.failures("a"), hasty.failures("b")) == (each, each, 0), "the breaker counts stalls"


def test_the_end_does_not_wait_for_the_close(hasty):
    """A reply that is complete is complete, even when the connection behind it stalls."""
    for kind in KINDS:
        client, mark = hasty.fault(kind, PHASES[-1], "stall")
        whole(hasty, client, kind, "a", mark, QUICK)
        eventually(lambda n=KINDS.index(kind): len(hasty.relays["a"].struck("stall")) == n + 1, "it stalled")
        assert hasty.ran("a", mark) == 1


def test_server_that_never_reads(hasty):
    """Full windows in the middle of a large request: no byte moves, nobody else is asked, and others go on."""
    mark = new_id("f")
    hasty.relays["a"].arm(marked(mark), Fault("stall", up=0, side="up"))
    client, mark = hasty.start(WHOLE, pad=16 << 20, mark=mark)
    eventually(lambda: hasty.relays["a"].struck("stall"), "the server reads no more")
    hasty.well(kind=SSE)
    refused(hasty, client, WHOLE, mark, 504, "sH")
    assert hasty.ran("a", mark) + hasty.ran("b", mark) == 0 and hasty.failures("a") == 1


def test_mute_from_the_accept_on(hasty):
    """A forwarder that accepts and does nothing looks like a slow server: the request is not moved, and the client told."""
    hasty.relays["a"].greeting = ["mute"]
    client, mark = hasty.start(NDJSON)
    refused(hasty, client, NDJSON, mark, 504, "sH")
    assert hasty.ran("b", mark) == 0 and hasty.failures("a") == 1


def test_first_byte_timeout_moves_a_stalled_request(world):
    """The one setting that lets slowness move a request, and only while no byte of a reply has come."""
    a, b = world.backend(Server, "a", ["m1"]), world.backend(Server, "b", ["m1"])
    relay = world.keep(Relay(a))
    proxy = world.olla({"a": endpoint(relay, health="passive", priority=200, first_byte_timeout="500ms", read_timeout="20s"), "b": b}, COUNTS)
    cases = []
    for phase in PHASES[3:8]:
        mark, client = new_id("f"), world.client(proxy)
        relay.arm(marked(mark), phase.fault("stall", SSE))
        client.start_post(CHAT + "?" + marked(mark), {"model": "m1", "stream": True, "kind": "sse"}, {"X-Request-ID": mark})
        cases.append((phase, client, mark))
    heads = [client.read_head("POST") for _, client, _ in cases]
    time.sleep(0.3)
    relay.resume()
    for (phase, _, mark), reply in zip(cases, heads):
        reply.read_rest()
        assert reply.complete and reply.body == SSE.whole and reply.get("X-Olla-Endpoint") == ("a" if phase.begun else "b"), phase
        assert (a.done[marked(mark)], b.done[marked(mark)]) == (1, 0 if phase.begun else 1), phase


def test_break_behind_heartbeats(world):
    """Signs of life are no bytes of a reply: the request still moves on. Bytes of a reply end that, heartbeats or not."""
    a, b = world.backend(Server, "a", ["m1"]), world.backend(Server, "b", ["m1"])
    relay = world.keep(Relay(a))
    proxy = world.olla({"a": endpoint(relay, health="passive", priority=200), "b": b}, dict(COUNTS, **{"proxy.heartbeat.interval": "150ms"}))
    for n, phase in enumerate(PHASES[1:8], 1):
        mark = new_id("f")
        relay.arm(marked(mark), phase.fault("stall", SSE))
        client = world.client(proxy)
        client.start_post(CHAT + "?" + marked(mark), {"model": "m1", "stream": True, "kind": "sse", "pad": "p" * 70000}, {"X-Request-ID": mark})
        reply = client.read_head("POST")
        if phase.name in ("in-body",):   # in the middle of an event there is no place for them
            reply.read_at_least(1)
        else:
            eventually(lambda: (reply.read_piece(), b": olla\n" in reply.body)[1], "a sign of life in %s" % phase)
        eventually(lambda: len(relay.struck("stall")) == n, "the stall in %s" % phase)  # what it let through may be here before
        relay.struck("stall")[-1].reset()
        reply.read_rest()
        assert reply.complete == (not phase.begun), phase
        if phase.begun:
            SSE.check_tail(reply.body.replace(b": olla\n", b""))
        else:
            assert reply.body.replace(b": olla\n", b"") == SSE.whole, phase
        assert (a.done[marked(mark)], b.done[marked(mark)]) == (1 if phase.runs else 0, 0 if phase.begun else 1), phase


# ---- dribbles

@pytest.mark.parametrize("size", [1, 7, 1000])
@kinds
def test_dribbled(bench, kind, size):
    """However the bytes are cut, on both sides and in both directions, request and reply arrive whole, identical, and once."""
    mark = new_id("f")
    drip = dict(up=0, size=size, gap=0.0005 if size > 1 else 0)
    bench.front.arm(marked(mark), Fault("dribble", **drip))
    bench.relays["a"].arm(marked(mark), Fault("dribble", **drip))
    client, mark = bench.start(kind, port=bench.front.port, pad=20 * size, mark=mark)
    whole(bench, client, kind, "a", mark, 30)
    assert bench.front.struck("dribble") and bench.relays["a"].struck("dribble")
    assert (bench.ran("a", mark), bench.ran("b", mark)) == (1, 0)


# ---- between clients and olla

@pytest.mark.parametrize("phase", PHASES[1:8], ids=repr)
@pytest.mark.parametrize("do", ["reset", "half"])
def test_client_breaks(bench, do, phase):
    """A client that goes: the server is told at once, is not blamed, and nobody carries the request out again. (A client that ends its
    side has gone, too.)"""
    for kind in KINDS:
        client_breaks(bench, kind, do, phase)


def client_breaks(bench, kind, do, phase):
    server, conns = bench.servers["a"], []
    arrives = phase.runs

    def handler(conn, request):
        server.done[request.query] += 1
        conns.append(conn)
        if phase.begun:
            conn.start_chunked(kind.ctype)
            conn.chunk(kind.parts[0][:-20])
        hold(conn, request)
    server.on(kind.path, handler)
    mark = new_id("f")
    try:
        if not arrives:
            bench.front.arm(marked(mark), Fault(do, side="up", **phase.where(kind)))
        client, mark = bench.start(kind, port=bench.front.port, mark=mark)
        if arrives:
            eventually(lambda: conns, "the server has the request")
            if phase.begun:
                client.read_head("POST").read_at_least(1 if phase.name == "after-head" else len(kind.parts[0]) - 20)
            link = [link for link in bench.front.links if link.is_open()][-1]
            if do == "reset":
                link.reset()
            else:
                link.half("up")
            eventually(lambda: conns[0].closed_how, "the server is told (%s)" % kind, 5)
            assert conns[0].closed_how == "rst"
            bench.ends.append((mark, {"end": "CD" if phase.begun else "CH", "attempts": 1}))
        else:
            eventually(lambda: bench.front.struck(do), "the fault came")
            eventually(lambda: bench.proxy.pool("clients")["used"] <= 1, "the connection is given back (%s)" % kind, 5)
        assert (bench.ran("a", mark), bench.ran("b", mark)) == (1 if arrives else 0, 0), kind
        assert bench.failures("a") == 0, "the server is not blamed"
    finally:
        server.on(kind.path, server.answer)
        bench.world.close_clients()


def test_stalled_client_stalls_nobody(bench):
    """A client that reads nothing of a large reply: its server is held back, nobody else is, and in the end it has every byte."""
    size, seed = 48 << 20, hashlib.sha256()
    piece = pattern(1 << 16)
    conns = []

    def large(conn, request):
        conns.append(conn)
        conn.head(200, [("Content-Type", "text/plain"), ("Content-Length", str(size))])
        for _ in range(size // len(piece)):
            conn.send(piece)
    bench.servers["a"].on("/v1/x", large)
    mark = new_id("f")
    bench.front.arm(marked(mark), Fault("stall", down=100000, side="down"))
    client = Client(bench.front.port)
    bench.world.clients.append(client)
    client.send(request_bytes("POST", "/olla/proxy/v1/x?" + marked(mark), json_headers({"X-Request-ID": mark}), dump({"model": "m-two"})))
    eventually(lambda: bench.front.struck("stall"), "the client reads no more")
    seen = [0]

    def held():
        before, seen[0] = seen[0], conns[0].sent
        time.sleep(0.1)
        return before == seen[0]
    eventually(held, "the server is held back")
    assert conns[0].sent < size, "the whole reply lies somewhere"
    for n in range(10):
        bench.well(kind=KINDS[n % 3])
    assert bench.proxy.pool("buffers")["used"] <= 6
    bench.front.resume()
    reply = client.read_head("POST")
    reply.read_rest(30)
    for _ in range(size // len(piece)):
        seed.update(piece)
    assert reply.complete and len(reply.body) == size and hashlib.sha256(reply.body).digest() == seed.digest()
    assert bench.proxy.access(mark)["end"] == "--" and len(conns) == 1


def test_clients_that_stall_in_their_requests(hasty):
    """Half a head, half a body: the others are served, these get their slots taken away after the configured time."""
    clients = []
    for phase in PHASES[:3]:
        mark = new_id("f")
        fault = phase.fault("stall", SSE)
        hasty.front.arm(marked(mark), fault)
        if phase.name == "no-byte":
            client = Client(hasty.front.port)   # says nothing at all
            hasty.world.clients.append(client)
            clients.append((phase, client, mark))
        else:
            clients.append((phase,) + hasty.start(SSE, port=hasty.front.port, mark=mark))
    for n in range(6):
        hasty.well(kind=KINDS[n % 3])

    def given_back():
        return hasty.proxy.pool("clients")["used"] == 1
    eventually(given_back, "the slots of stalled clients are free again", 8, 0.1)
    for phase, _, mark in clients:
        assert hasty.ran("a", mark) + hasty.ran("b", mark) == 0, phase
    assert hasty.failures("a") == 0


def test_slots_of_faults_are_given_back(storm):
    """Hundreds of faults of all kinds at once, and the pools are as empty as before."""
    fds = storm.proxy.open_fds()
    cases = [(phase, kind, do) for phase in PHASES for kind in KINDS for do in ("reset", "fin", "stall")]
    started = []
    for phase, kind, do in cases:
        started.append((phase, do) + storm.fault(kind, phase, do))
    for phase, do, client, mark in started:
        if do == "stall" and not phase.done:
            client.reset()
        else:
            try:
                assert client.read_response("POST", 20).status == 200
            except Closed as error:
                raise AssertionError("no answer at all: %r" % storm.proxy.access(mark)) from error
    for phase, do, client, mark in started:
        assert storm.ran("a", mark) <= 1 and (storm.ran("b", mark) == 0 or not phase.begun) and storm.ran("b", mark) <= 1
        if do == "stall":
            assert storm.ran("b", mark) == 0
    storm.world.close_clients()
    eventually(lambda: storm.proxy.open_fds() <= fds + 4, "descriptors are given back; had %d" % fds, 5)
    for relay in storm.relays.values():
        relay.resume()
    eventually(lambda: storm.relays["a"].all_over(), "olla holds none of the connections", 5)


# ---- peers that vanish

@pytest.fixture(scope="module")
def lan_holder():
    lan = Lan()
    try:
        yield lan
    finally:
        lan.close()


@pytest.fixture
def lan(lan_holder, binary):
    """A proxy on one side of a cable, machines that can vanish on the other."""
    if lan_holder.problem:
        pytest.skip(lan_holder.problem)
    lan_holder.we_come_back()
    for address in lan_holder.machines:
        lan_holder.come_back(address)
    with lan_holder.inside(0):
        world = World()
        lan_holder.world = world

        def machine(number, model):
            with lan_holder.inside(1):
                return world.backend(Quiet, "v%d" % number, [model], host=lan_holder.machines[number])
        lan_holder.machine = machine
        try:
            yield lan_holder
        finally:
            problems = []
            for address in lan_holder.machines:
                lan_holder.come_back(address)
            lan_holder.we_come_back()
            world.close_clients()
            for proxy in world.proxies:
                problems += proxy.idle_problems(20)   # probes to a machine that vanished take their time
                proxy.check_idle_at_end = False
            problems += world.close()
    report(problems)


class Quiet(LlamaBackend):
    """Begins what it is asked for and says no more; the test lets the machine vanish."""

    def setup(self):
        super().setup()
        self.begun = []
        self.on(CHAT, self.work)

    def work(self, conn, request):
        body = request.json()
        self.begun.append(body.get("how"))
        if body.get("how") == "whole":
            conn.reply({"served_by": self.name})
            return
        if body.get("how") == "stream":
            conn.start_chunked()
            conn.chunk(openai_chunk("first"))
        hold(conn, request)


def ask(world, proxy, model, how, mark=None):
    mark = mark or new_id("v")
    client = world.client(proxy)
    client.start_post(CHAT, {"model": model, "stream": how == "stream", "how": how}, {"X-Request-ID": mark})
    return client, mark


def test_machines_that_vanish_are_noticed_by_keep_alive(lan):
    """The plug is pulled: no FIN, no RST. TCP keep-alive finds out; before the reply the request moves on, inside it the client is told."""
    waits, streams, both, reboots = (lan.machine(n, "m%d" % n) for n in range(4))
    spare = lan.machine(4, "m2")
    servers = {"waits": waits, "streams": streams, "both": both, "reboots": reboots}
    proxy = lan.world.olla(dict({name: endpoint(server, health="passive", priority=200) for name, server in servers.items()},
                                spare=endpoint(spare, health="passive", priority=100)),
                           dict(COUNTS, **{"proxy.connection_keep_alive": "1s", "proxy.heartbeat.interval": "0s"}))
    spare.on(CHAT, lambda c, r: c.reply({"served_by": "spare"}))
    asked = {"waits": ask(lan.world, proxy, "m0", "silent"), "streams": ask(lan.world, proxy, "m1", "stream"),
             "both": ask(lan.world, proxy, "m2", "silent"), "reboots": ask(lan.world, proxy, "m3", "stream")}
    started = time.monotonic()
    heads = {name: asked[name][0].read_head("POST") for name in ("streams", "reboots")}
    for reply in heads.values():
        reply.read_at_least(10)
    for server in servers.values():
        eventually(lambda s=server: s.begun, "%s has its request" % server.name)
    time.sleep(0.3)  # everything is acknowledged
    for number in range(4):
        lan.vanish(lan.machines[number])
    reboots.stop()   # nobody hears of it
    time.sleep(0.2)
    lan.come_back(lan.machines[3])
    for name in ("reboots", "streams"):
        reply = heads[name].read_rest(20)
        assert not reply.complete and reply.body.startswith(openai_chunk("first")) and b'"error"' in reply.body, (name, reply.body)
        assert proxy.access(asked[name][1])["end"] == "SD", name
    reply = asked["waits"][0].read_response("POST", 20)
    assert reply.status == 502 and proxy.access(asked["waits"][1])["end"] == "SH"
    reply = asked["both"][0].read_response("POST", 20)
    assert reply.status == 200 and reply.json()["served_by"] == "spare"
    assert time.monotonic() - started < 25, "something else has noticed it: the machines give up after 30 s by themselves"
    for name in servers:
        assert proxy.endpoint(name)["breaker"]["failures"] == 1, name
    assert proxy.endpoint("spare")["breaker"]["failures"] == 0
    # Back on the net, the next request works.
    lan.come_back(lan.machines[0])
    client, _ = ask(lan.world, proxy, "m0", "whole")
    assert client.read_response("POST", 20).json()["served_by"] == waits.name


def test_machines_that_vanish_are_noticed_by_time_limits(lan):
    """Without the help of TCP: connection_timeout before, response_header_timeout and read_timeout in the middle."""
    waits, streams, gone = (lan.machine(n, "m%d" % n) for n in range(3))
    spare = lan.machine(4, "m2")
    spare.on(CHAT, lambda c, r: c.reply({"served_by": "spare"}))
    proxy = lan.world.olla({"waits": endpoint(waits, health="passive"), "streams": endpoint(streams, health="passive"),
                            "gone": endpoint(gone, health="passive", priority=200), "spare": endpoint(spare, health="passive")},
                           dict(COUNTS, **{"proxy.connection_timeout": "1s", "proxy.response_header_timeout": "2s", "proxy.read_timeout": "2s"}))
    lan.vanish(lan.machines[2])
    asked = {"waits": ask(lan.world, proxy, "m0", "silent"), "streams": ask(lan.world, proxy, "m1", "stream"),
             "gone": ask(lan.world, proxy, "m2", "whole")}
    reply = asked["streams"][0].read_head("POST")
    reply.read_at_least(10)
    eventually(lambda: waits.begun, "it waits")
    lan.vanish(lan.machines[0])
    lan.vanish(lan.machines[1])
    assert not reply.read_rest(20).complete and b'"error"' in reply.body and proxy.access(asked["streams"][1])["end"] == "sD"
    reply = asked["waits"][0].read_response("POST", 20)
    assert reply.status == 504 and proxy.access(asked["waits"][1])["end"] == "sH"
    reply = asked["gone"][0].read_response("POST", 20)
    assert reply.json()["served_by"] == "spare" and proxy.access(asked["gone"][1])["attempts"] == 2
    assert gone.begun == []
    for name in ("waits", "streams", "gone"):
        assert proxy.endpoint(name)["breaker"]["failures"] == 1, name


def test_request_into_a_kept_connection_of_a_vanished_machine(lan):
    """The commonest case: the GPU machine went to sleep between two requests. The kept connection looks well, the request goes into
    the void. No keep-alive probe is sent while bytes wait for their acknowledgement, so something else must notice, in a time like
    that of connection_keep_alive (twice as long and a bit), not after response_header_timeout (10 minutes)."""
    sleepy, spare = lan.machine(0, "m0"), lan.machine(4, "m0")
    proxy = lan.world.olla({"sleepy": endpoint(sleepy, health="passive", priority=200), "spare": endpoint(spare, health="passive")},
                           dict(COUNTS, **{"proxy.connection_keep_alive": "1s", "proxy.connection_timeout": "1s"}))
    client, _ = ask(lan.world, proxy, "m0", "whole")
    assert client.read_response("POST").json()["served_by"] == sleepy.name
    assert proxy.status()["idle_upstreams"] == 1
    lan.vanish(lan.machines[0])
    client, mark = ask(lan.world, proxy, "m0", "whole")
    try:
        reply = client.read_response("POST", 10)
    except TimeoutError:
        raise AssertionError("10 s with connection_keep_alive = 1s: nobody notices that the machine is gone") from None
    assert reply.json()["served_by"] == spare.name and len(sleepy.begun) == 1


def test_clients_that_vanish(lan):
    """A laptop is shut: its slot, and its server, are not held for ever. Those that wait for bytes are found out by time limits; other
    clients notice nothing."""
    server = lan.world.backend(Quiet, "a", ["m0"])   # on our side
    proxy = lan.world.olla({"a": endpoint(server, health="passive")},
                           dict(COUNTS, **{"server.host": "0.0.0.0", "server.write_timeout": "2s", "server.read_timeout": "2s",
                                           "server.read_header_timeout": "2s", "server.idle_timeout": "2s"}))
    conns = []

    def endless(conn, request):
        conns.append(conn)
        conn.start_chunked()
        for _ in range(200000):
            conn.chunk(openai_chunk("x" * 4000))
    server.on("/v1/x", endless)
    with lan.inside(1):
        idle, half, reading = (Client(proxy.port, host=OURS) for _ in range(3))
    lan.world.clients += [idle, half, reading]
    assert idle.request("GET", "/internal/health").status == 200
    half.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    reading.start_post("/olla/proxy/v1/x", {"model": "m0", "stream": True}, {"X-Request-ID": "gone"})
    reply = reading.read_head("POST")
    reply.read_at_least(100000)
    lan.we_vanish()   # what they acknowledge reaches us no more
    eventually(lambda: proxy.pool("clients")["used"] == 1, "their slots are free again", 20, 0.1)
    assert proxy.access("gone")["end"] == "cD"
    lan.we_come_back()
    eventually(lambda: conns[0].closed_how, "the server was told", 10)
    client, _ = ask(lan.world, proxy, "m0", "whole")
    assert client.read_response("POST").status == 200 and proxy.endpoint("a")["breaker"]["failures"] == 0


# ---- the wall clock jumps

DAY = 86400
YEAR = 365 * DAY


def since_1970():
    """To the first of January 1970, 00:02: where boards without a battery begin."""
    return 120 - int(time.time())


def has_effect(proxy, clock):
    """Skips where the program cannot be shown another clock (static, or a sanitizer that lets nobody before it)."""
    kept, libraries = clock.offset, open("/proc/%d/maps" % proxy.pid).read()
    clock.jump(5 * DAY)
    date = header_date(proxy.get("/internal/health"))
    clock.jump(kept)
    if "clock_jump.so" not in libraries or abs(date - time.time() - 5 * DAY) > DAY:
        pytest.skip("this program does not take the clock of the shim")


def header_date(reply):
    return calendar_seconds(reply.get("Date"), "%a, %d %b %Y %H:%M:%S GMT")


def calendar_seconds(text, form):
    import calendar
    return calendar.timegm(time.strptime(text, form))


def iso(text):
    """Seconds since 1970 of 2026-01-02T03:04:05.678Z or +01:00."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{3}(Z|([+-])(\d\d):(\d\d))\Z", text)
    assert match, "not a time: %r" % text
    shift = 0 if match.group(2) == "Z" else (int(match.group(4)) * 60 + int(match.group(5))) * 60 * (-1 if match.group(3) == "-" else 1)
    return calendar_seconds(match.group(1), "%Y-%m-%dT%H:%M:%S") - shift


def numbers(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, path + "." + key)
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from numbers(inner, "%s[%d]" % (path, n))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def sane(proxy, clock, lived=120):
    """Nothing in the status is negative, huge or of another time; Date and the log follow the clock."""
    reply = proxy.get("/internal/status", {"X-Request-ID": "sane%d" % time.monotonic_ns()})
    status = reply.json()
    for path, value in numbers(status):
        assert 0 <= value < 1e10, "%s = %r" % (path, value)
    uptime = status["system"]["uptime"]
    match = re.match(r"(\d+)(s|m)\Z", uptime)
    assert match and int(match.group(1)) * (60 if match.group(2) == "m" else 1) <= lived, "uptime %r" % uptime
    now = clock.now()
    assert abs(header_date(reply) - now) < 30, (reply.get("Date"), now)
    assert abs(iso(status["timestamp"]) - now) < 30, (status["timestamp"], now)
    for e in status["endpoints"]:
        assert abs(iso(e["health_check_at"]) - now) < lived if "health_check_at" in e else True, e
        assert abs(iso(e["next_check_at"]) - now) < lived or e["next_check"] == "unknown" if "next_check_at" in e else True, e
        assert re.match(r"never\Z|\d+(\.\d+)?(s|ms|m) ago\Z|just now\Z", e["last_check"]), e["last_check"]
        assert re.match(r"unknown\Z|now\Z|in \d+(\.\d+)?(s|ms|m)\Z", e["next_check"]), e["next_check"]
        assert "-" not in e["avg_latency"] and e["max_latency_ms"] < lived * 1000
    name = new_id("log")
    proxy.get("/olla/proxy/v1/models?log", {"X-Request-ID": name})
    entry = proxy.access(name)
    assert abs(iso(entry["timestamp"]) - now) < 30, entry
    assert all(0 <= value < lived * 1000 for key, value in entry.items() if key.endswith("ms") and isinstance(value, (int, float))), entry
    return {e["name"]: e for e in status["endpoints"]}


class Timers:
    """A proxy in which every clock of olla is running: a stream, the line, an open breaker, limits in both forms, a session, heartbeats,
    checks, idle connections on both sides."""

    def __init__(self, world, clock, after, settings):
        self.world, self.clock, self.gates = world, clock, {}
        self.servers = {name: world.backend(LlamaBackend, name, ["m-" + name])
                        for name in ("stream", "line", "broken", "seconds", "date", "sticky", "beats", "checked", "kept")}
        self.servers["other"] = world.backend(LlamaBackend, "other", ["m-sticky"])
        self.checks = []
        self.servers["checked"].on("/health", lambda c, r: (self.checks.append(time.monotonic()), c.reply({"status": "ok"})))
        self.servers["stream"].on(CHAT, self.stream)
        self.servers["line"].on(CHAT, self.wait)
        self.servers["beats"].on(CHAT, self.wait)
        self.servers["broken"].on(CHAT, lambda c, r: c.reply({}, 500))
        spec = {name: endpoint(server, health="passive") for name, server in self.servers.items()}
        spec["line"] = endpoint(self.servers["line"], health="passive", max_concurrent=1)
        spec["checked"] = endpoint(self.servers["checked"], check_interval="1s", check_timeout="900ms")
        self.proxy = world.olla(spec, dict({"proxy.retry.on_status": ""}, **settings), env=clock.env())
        has_effect(self.proxy, clock)
        self.after = after   # seconds that a server says in Retry-After

    def stream(self, conn, request):
        gate = self.gates.setdefault("stream", Gate())
        conn.start_chunked()
        for _ in range(1000):
            conn.chunk(openai_chunk("tick"))
            if gate.event.wait(0.1):
                break
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()

    def wait(self, conn, request):
        self.gates.setdefault(conn.backend.name, Gate()).wait(60)
        conn.reply({"served_by": conn.backend.name})

    def begin(self, model, stream=False, headers=()):
        client = self.world.client(self.proxy)
        client.start_post(CHAT, {"model": "m-" + model, "stream": stream}, headers)
        return client

    def answer(self, model, headers=()):
        client = self.begin(model, headers=headers)
        reply = client.read_response("POST")
        client.close()
        return reply

    @staticmethod
    def refuse_once(server, retry_after):
        left = [retry_after]
        server.on(CHAT, lambda c, r: c.reply({}, 429, headers={"Retry-After": left.pop()}) if left else server.chat(c, r))

    def limit(self):
        """Both are limited now, by the clock that olla has now."""
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self.clock.now() + self.after + 1))
        for name, value in (("seconds", str(self.after)), ("date", date)):
            self.refuse_once(self.servers[name], value)
            assert self.answer(name).status == 429

    def start(self):
        for _ in range(3):
            assert self.answer("broken").status == 500
        self.limit()
        self.kept = self.world.client(self.proxy)
        assert self.kept.post(CHAT, {"model": "m-kept"}).status == 200
        self.home = self.answer("sticky", {"X-Olla-Session-ID": "s1"}).get("X-Olla-Endpoint")
        self.streaming = self.begin("stream", True)
        self.reply = self.streaming.read_head("POST")
        self.reply.read_at_least(10)
        self.runs = self.begin("line")
        self.servers["line"].wait_calls(1)
        self.waits = self.begin("line")
        eventually(lambda: self.proxy.status()["queue"]["waiting"] == 1, "one waits")
        self.beating = self.begin("beats", True)
        self.servers["beats"].wait_calls(1)

    def finish(self):
        for gate in self.gates.values():
            gate.open()


def test_clock_jumps_let_nothing_fire_early(world, clock):
    """NTP, a battery that ran out, summer time done wrong: olla's own times go by the clock that never jumps."""
    timers = Timers(world, clock, 300, {"proxy.breaker.open_time": "10m", "proxy.breaker.max_open_time": "10m", "proxy.queue.timeout": "10m",
                                        "proxy.heartbeat.interval": "300ms", "server.idle_timeout": "10m", "server.read_timeout": "10m"})
    timers.start()
    proxy, limits = timers.proxy, {"seconds": 301000, "date": 302000}
    beats = timers.beating.read_head("POST")
    for jump in (DAY, -DAY, -40 * YEAR, since_1970(), 0):
        beats.read_at_least(1)
        seen, beats.body, ticks = len(timers.checks), b"", len(timers.reply.body)
        started = time.monotonic()
        clock.jump(jump)
        for _ in range(4):
            timers.reply.read_at_least(len(timers.reply.body) + 1)
        with contextlib.suppress(TimeoutError):
            while time.monotonic() - started < 0.7:
                beats.read_piece(max(0.05, started + 0.7 - time.monotonic()))
        spent = time.monotonic() - started
        assert len(timers.reply.body) > ticks
        assert 1 <= beats.body.count(b": olla\n") <= spent / 0.3 + 2, "heartbeats in %.1f s: %r" % (spent, beats.body)
        assert len(timers.checks) - seen <= spent / 0.9 + 2, "health checks in %.1f s: %d" % (spent, len(timers.checks) - seen)
        seen = sane(proxy, clock)
        assert proxy.status()["queue"]["waiting"] == 1
        assert seen["broken"]["breaker"]["state"] == "open" and 500000 < seen["broken"]["breaker"]["open_for_ms"] <= 600000
        assert timers.answer("broken").status == 503 and len(timers.servers["broken"].calls) == 3
        for name, left in limits.items():
            assert 200000 < seen[name]["limited_for_ms"] <= left, (name, seen[name]["limited_for_ms"])
            limits[name] = seen[name]["limited_for_ms"]
            assert timers.answer(name).status == 429 and len(timers.servers[name].calls) == 1
        told = timers.answer("sticky", {"X-Olla-Session-ID": "s1"})
        assert (told.get("X-Olla-Endpoint"), told.get("X-Olla-Sticky-Session")) == (timers.home, "hit")
        assert timers.kept.post(CHAT, {"model": "m-kept"}).status == 200, "the kept connection is kept"
        assert seen["checked"]["status"] == "healthy"
    assert len(timers.checks) >= 4, "health checks go on"
    timers.finish()
    assert timers.reply.read_rest().complete and timers.reply.body.endswith(b"data: [DONE]\n\n")
    assert timers.runs.read_response("POST").status == 200 and timers.waits.read_response("POST").status == 200
    assert beats.read_rest().complete and beats.status == 200
    changed = [e for e in proxy.find_logs("endpoint state") if e["from"] == "healthy"]
    assert changed == [], "no endpoint was ever in doubt"


@pytest.mark.parametrize("jump", ["+1d", "-1d", "-40y", "from-1970"])
def test_clock_jumps_let_nothing_fire_late(world, clock, jump):
    """The same, for what must end: a clock set back by years must not lock a server, a session or a waiting request in for years."""
    clock.jump(since_1970() if jump == "from-1970" else 0)
    timers = Timers(world, clock, 1, {"proxy.breaker.open_time": "1500ms", "proxy.breaker.max_open_time": "1500ms", "proxy.queue.timeout": "1500ms",
                                      "proxy.heartbeat.interval": "10m", "server.idle_timeout": "1500ms",
                                      "proxy.sticky_sessions.idle_ttl_seconds": "1"})
    timers.start()
    proxy = timers.proxy
    clock.jump({"+1d": DAY, "-1d": -DAY, "-40y": -40 * YEAR, "from-1970": 0}[jump])
    reply = timers.waits.read_response("POST", 15)
    assert reply.status == 503, "the line's time is over"
    assert timers.kept.read_eof(15) == b"", "the idle connection is closed"
    for name in ("seconds", "date"):
        eventually(lambda n=name: timers.answer(n).status == 200, "the limit of %s ends" % name, 15, 0.1)
        assert len(timers.servers[name].calls) == 2
    timers.servers["broken"].on(CHAT, timers.servers["broken"].chat)
    eventually(lambda: timers.answer("broken").status == 200, "the breaker lets a trial through", 15, 0.1)
    assert timers.answer("sticky", {"X-Olla-Session-ID": "s1"}).get("X-Olla-Sticky-Session") == "miss", "the session is forgotten"
    count = len(timers.checks)
    eventually(lambda: len(timers.checks) > count, "health checks go on", 10)
    # Limits that are named after the jump are read by the clock of then.
    timers.after = 300
    timers.limit()
    seen = sane(proxy, clock)
    for name in ("seconds", "date"):
        assert 200000 < seen[name]["limited_for_ms"] <= 302000, (name, seen[name]["limited_for_ms"])
    timers.finish()
    assert timers.reply.read_rest().complete and timers.runs.read_response("POST").status == 200
    assert timers.beating.read_response("POST").status == 200


# ---- the machine sleeps

def test_suspended_for_three_seconds(world):
    """The program stands still while the world goes on: what came meanwhile counts as having come in time, nothing is made up for in a
    burst, and requests in flight go on."""
    streams, slow, capped, checked = (world.backend(LlamaBackend, name, ["m-" + name]) for name in ("streams", "slow", "capped", "checked"))
    gate, checks, told = Gate(), [], []

    def stream(conn, request):
        conn.start_chunked()
        for n in range(1000):
            conn.chunk(openai_chunk("tick %d." % n))
            told.append(n)
            if gate.event.wait(0.05):
                break
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()

    def wait(conn, request):
        gate.wait(60)
        conn.reply({"served_by": conn.backend.name})
    streams.on(CHAT, stream)
    slow.on(CHAT, wait)
    capped.on(CHAT, wait)
    checked.on("/health", lambda c, r: (checks.append(time.monotonic()), c.reply({"status": "ok"})))
    proxy = world.olla({"streams": rarely_probed(streams), "slow": rarely_probed(slow), "capped": rarely_probed(capped, max_concurrent=1),
                        "checked": endpoint(checked, check_interval="1s", check_timeout="900ms")},
                       {"proxy.read_timeout": "2s", "proxy.heartbeat.interval": "400ms", "proxy.queue.timeout": "60s"})
    clients = {}
    for name, model, more in (("streams", "streams", True), ("slow", "slow", False), ("runs", "capped", False), ("waits", "capped", False)):
        clients[name] = world.client(proxy)
        clients[name].start_post(CHAT, {"model": "m-" + model, "stream": more}, {"X-Request-ID": name})
        if name == "runs":
            capped.wait_calls(1)
    reply = clients["streams"].read_head("POST")
    reply.read_at_least(10)
    slow.wait_calls(1)
    eventually(lambda: proxy.status()["queue"]["waiting"] == 1, "one waits")
    late = world.client(proxy)
    late.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")   # the rest comes while it sleeps
    time.sleep(0.1)
    os.kill(proxy.pid, signal.SIGSTOP)
    try:
        began = len(told)
        time.sleep(1)
        body = dump({"model": "m-streams", "stream": True})
        late.send(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        asleep = world.client(proxy)   # the kernel accepts
        asleep.send(request_bytes("GET", "/internal/health"))
        time.sleep(2)
        assert len(told) > began, "the backend went on"
    finally:
        os.kill(proxy.pid, signal.SIGCONT)
    woke = time.monotonic()
    assert asleep.read_response().status == 200
    size = len(reply.body)
    reply.read_at_least(size + 3000)
    assert late.read_head("POST").read_at_least(10)
    status = proxy.status()
    assert status["queue"]["waiting"] == 1 and proxy.find_logs("request", request_id="streams") == []
    assert all(0 <= value < 1e10 for _, value in numbers(status))
    proxy.wait_healthy({"checked": 1})
    time.sleep(max(0.0, woke + 1.0 - time.monotonic()))
    after = len([at for at in checks if at > woke])
    assert after <= (time.monotonic() - woke) / 0.9 + 2, "%d checks at once" % after
    gate.open()
    reply.read_rest()
    assert reply.complete
    ticks = [int(n) for n in re.findall(rb"tick (\d+)\.", reply.body)]
    assert ticks == list(range(len(ticks))) and len(ticks) > 40, "every event, once, in order"
    for name in ("slow", "runs", "waits"):
        assert clients[name].read_response("POST").status == 200, name
    assert (len(slow.calls), len(capped.calls)) == (1, 2)
    late.close()
