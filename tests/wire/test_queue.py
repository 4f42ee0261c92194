"""The waiting line: when every machine that could answer is at its limit, requests wait in order, and none is lost, forgotten or
carried out after its client has gone."""

import threading
import time

import pytest

from backend import MARK, LlamaBackend, OpenAIBackend, eventually, openai_chunk
from client import dump, full_body, json_headers, request_bytes
from harness import endpoint, run_cli
from servers import Llamacpp, Ollama

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
PAUSE = 0.3  # so long something is given to go wrong


class Server(LlamaBackend):
    """llama.cpp-like, without the paths that tell its load. Its calls are what clients sent, whatever olla asks by itself."""

    @property
    def calls(self):
        return [call for call in super().calls if call.method == "POST" or call.has(MARK)]


class Turns:
    """Replies of a server wait until the test lets them go; what arrived, in which order, and how much ran at once is kept."""

    def __init__(self, server, paths=(CHAT,)):
        self.server, self.lock = server, threading.Lock()
        self.order, self.gates, self.replies = [], {}, {}
        self.running = self.most = 0
        self.all = False
        for path in paths:
            server.on(path, self.handler)

    def handler(self, conn, request):
        body = request.json()
        tag = body.get("tag")
        with self.lock:
            self.order.append(tag)
            self.running += 1
            self.most = max(self.most, self.running)
            gate = self.gates.setdefault(tag, threading.Event())
        if body.get("stream") and tag not in self.replies:
            conn.start_chunked()
            conn.chunk(openai_chunk("first"))
        if not self.all and not gate.wait(30):
            raise AssertionError("%r was never released" % tag)
        with self.lock:
            self.running -= 1  # before the last byte, which lets the next one in
        reply = self.replies.get(tag) or self.replies.get("*")
        if reply:
            reply(conn, request)
        elif body.get("stream"):
            conn.chunk(b"data: [DONE]\n\n")
            conn.end_chunks()
        else:
            conn.reply({"tag": tag, "served_by": self.server.name})

    def release(self, *tags):
        for tag in tags:
            with self.lock:
                gate = self.gates.setdefault(tag, threading.Event())
            gate.set()

    def release_all(self):
        self.all = True
        with self.lock:
            gates = list(self.gates.values())
        for gate in gates:
            gate.set()

    def wait(self, *tags):
        """Until these have arrived, in this order, and nothing else."""
        eventually(lambda: len(self.order) >= len(tags), "%s got %r; has %r" % (self.server.name, tags, self.order))
        assert self.order == list(tags)


class Line:
    """Servers with limits, a proxy in front, and requests by tag."""

    def __init__(self, world):
        self.world, self.turns, self.clients, self.spec = world, {}, {}, {}

    def server(self, name="a", cap=1, models=("m1",), kind=Server, paths=(CHAT,), **keys):
        server = self.world.backend(kind, name, list(models))
        self.turns[name] = Turns(server, paths)
        self.spec[name] = endpoint(server, **dict({"max_concurrent": cap} if cap else {}, **keys))
        return self.turns[name]

    @staticmethod
    def settings(**keys):
        """proxy.queue.KEY = value"""
        return dict({"proxy.sticky_sessions.enabled": False}, **{"proxy.queue." + key: value for key, value in keys.items()})

    def start(self, more=(), **keys):
        self.proxy = self.world.olla(self.spec, dict(self.settings(**keys), **dict(more)))
        return self.proxy

    def send(self, tag, how=None, path=PATH, model="m1", headers=(), **body):
        client = self.clients[tag] = self.world.client(self.proxy)
        headers = dict(headers, **{"X-Request-ID": tag})
        if how:
            headers["X-Olla-Priority"] = how
        client.start_post(path, full_body(path, dict({"model": model, "tag": tag}, **body)), headers)
        return client

    def queue(self):
        return self.proxy.status()["queue"]

    def wait_waiting(self, count):
        eventually(lambda: self.queue()["waiting"] == count, "%d requests wait; have %r" % (count, self.queue()))

    def wait_in_line(self, *tags, **keys):
        """Send one after the other; each is in the line before the next is sent."""
        before = self.queue()["waiting"]
        for n, tag in enumerate(tags):
            self.send(tag, **keys)
            self.wait_waiting(before + n + 1)

    def hold(self, tag="hold", name="a", **keys):
        """A request that runs until it is released."""
        before = len(self.turns[name].order)
        self.send(tag, **keys)
        eventually(lambda: len(self.turns[name].order) > before, "%r runs on %s" % (tag, name))

    def answer(self, tag, timeout=10.0):
        return self.clients[tag].read_response("POST", timeout)

    def served(self, *tags):
        for tag in tags:
            reply = self.answer(tag)
            assert reply.status == 200 and reply.json()["tag"] == tag, (tag, reply.status, reply.body)


@pytest.fixture
def line(world):
    line = Line(world)
    yield line
    for turns in line.turns.values():
        turns.release_all()


def message(reply):
    return reply.json()["error"]["message"]


def seconds(reply):
    value = reply.get("Retry-After")
    assert value is not None and value.isdigit() and int(value) >= 1, "no Retry-After in %r" % (reply.headers,)
    return int(value)


# ---- order

@pytest.mark.parametrize("engine", ["olla", "sherpa"])
def test_first_come_first_served(line, engine):
    """Six requests for a machine that does one at a time (issue 92: the sixth stalls for good): all are answered, in order."""
    turns = line.server()
    line.start({"proxy.engine": engine})
    line.hold()
    tags = ["w%d" % n for n in range(6)]
    line.wait_in_line(*tags)
    assert turns.order == ["hold"]
    for n, tag in enumerate(["hold"] + tags):
        turns.wait(*(["hold"] + tags)[:n + 1])
        turns.release(tag)
        line.served(tag)
    assert turns.most == 1
    seen = line.queue()
    assert (seen["waiting"], seen["served"], seen["timed_out"], seen["refused"], seen["left"]) == (0, 6, 0, 0, 0), seen


@pytest.mark.parametrize("cap", [2, 5])
def test_limit_of_several(line, cap):
    """The limit is used up to the last place, and never exceeded."""
    turns = line.server(cap=cap)
    line.start()
    for n in range(cap):
        line.hold("h%d" % n)
    line.wait_in_line(*["w%d" % n for n in range(2 * cap)])
    assert turns.running == cap
    turns.release_all()
    line.served(*line.clients)
    assert turns.most == cap and len(turns.order) == 3 * cap


def test_classes(line):
    """The person at the keyboard goes before the batch job; within a class the first is first. Case and nonsense do no harm."""
    turns = line.server()
    line.start()
    line.hold()
    for tag, how in (("low-1", "low"), ("normal-1", "normal"), ("high-1", "high"), ("low-2", "LOW"), ("none", None), ("high-2", "High"),
                     ("bad", "urgent!"), ("empty", ""), ("normal-2", "NORMAL")):
        line.wait_in_line(tag, how=how)
    turns.release_all()
    line.served(*line.clients)
    assert turns.order == ["hold", "high-1", "high-2", "normal-1", "none", "bad", "empty", "normal-2", "low-1", "low-2"]


def test_slow_ageing(line):
    """Slow (16 s): a batch job must not wait for ever behind people; each 15 s lift it by one class."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line("low", how="low")
    time.sleep(15.5)
    line.wait_in_line("normal")
    line.wait_in_line("low-new", how="low")
    line.wait_in_line("high", how="high")
    turns.release_all()
    line.served(*line.clients)
    assert turns.order == ["hold", "high", "low", "normal", "low-new"]


def test_new_requests_do_not_overtake(line):
    """A place that gets free belongs to the one who waited, not to the one who comes in that moment."""
    turns = line.server()
    line.start()
    line.hold("r0")
    line.wait_in_line("r1", "r2", "r3")
    for n in range(12):
        turns.release("r%d" % n)
        line.send("r%d" % (n + 4))
        line.served("r%d" % n)
        line.wait_waiting(3)
    turns.release_all()
    line.served(*["r%d" % n for n in range(12, 16)])
    assert turns.order == ["r%d" % n for n in range(16)] and turns.most == 1


def test_no_overtaking_on_the_same_connection(line):
    """The client whose request just ended has the next one in the pipe: it must go to the end of the line all the same."""
    turns = line.server()
    line.start()
    raw = [request_bytes("POST", PATH, json_headers(), dump({"model": "m1", "tag": tag})) for tag in ("p1", "p2")]
    client = line.world.client(line.proxy)
    client.send(raw[0])
    turns.wait("p1")
    client.send(raw[1])
    line.wait_in_line("w1", "w2")
    turns.release_all()
    assert [client.read_response("POST").json()["tag"] for _ in range(2)] == ["p1", "p2"]
    line.served("w1", "w2")
    assert turns.order == ["p1", "w1", "w2", "p2"]


# ---- who waits for whom

def test_others_are_not_held_up(line):
    """A full machine must not delay requests for another model."""
    line.server("a", models=["m-a"])
    line.server("b", models=["m-b"]).release_all()
    line.start()
    line.hold(model="m-a")
    line.wait_in_line("w1", "w2", model="m-a")
    for n in range(5):
        line.send("b%d" % n, model="m-b")
        line.served("b%d" % n)
    assert line.queue()["waiting"] == 2


def test_the_head_of_the_line_blocks_nobody(line):
    """The first in the line waits for a; when b gets free, the one behind it that wants b goes."""
    a, b = line.server("a", models=["m-a"]), line.server("b", models=["m-b"])
    line.start()
    line.hold("h-a", "a", model="m-a")
    line.hold("h-b", "b", model="m-b")
    line.wait_in_line("w-a", model="m-a")
    line.wait_in_line("w-b", model="m-b")
    b.release_all()
    line.served("h-b", "w-b")
    assert line.queue()["waiting"] == 1 and a.order == ["h-a"]
    a.release_all()
    line.served("h-a", "w-a")


def test_whoever_gets_free_first(line):
    """With two machines the line is one line: the next place on either is for the first in it."""
    a, b = line.server("a"), line.server("b")
    line.start()
    for tag in ("h1", "h2"):
        line.send(tag)
    eventually(lambda: a.order and b.order, "both run one")
    line.wait_in_line("w1", "w2", "w3")
    for n, turns in enumerate((b, b, a)):
        before = len(turns.order)
        turns.release(turns.order[-1])
        eventually(lambda: len(turns.order) > before, "the next one runs on %s" % turns.server.name)
        assert turns.order[-1] == "w%d" % (n + 1)
    a.release_all()
    b.release_all()
    line.served(*line.clients)
    assert a.most == b.most == 1


def test_no_waiting_while_a_place_is_free(line):
    """Waiting is for when all are full: the less preferred machine is better than the line."""
    a, b = line.server("a", cap=1, priority=200), line.server("b", cap=2, priority=100)
    line.start({"proxy.load_balancer": "priority"})
    line.hold("x1", "a")
    line.hold("x2", "b")
    line.hold("x3", "b")
    line.wait_in_line("x4")
    assert (a.order, b.order) == (["x1"], ["x2", "x3"])
    a.release_all()
    b.release_all()
    line.served(*line.clients)


def test_a_loading_endpoint_is_better_than_waiting(line):
    """Every candidate counts, the last choice too: only when all are full somebody waits."""
    well, loading = line.server("well"), line.server("loading", cap=0, check_interval="1s", check_timeout="500ms")
    line.start()
    loading.server.on("/health", lambda c, r: c.reply({}, 503))
    line.proxy.wait_state("loading", "warming")
    line.hold(name="well")
    line.hold("x1", "loading")
    assert line.queue()["waiting"] == 0
    well.release_all()
    loading.release_all()
    line.served("hold", "x1")


def test_an_endpoint_without_limit_never_waits(line):
    """No limit means none, also beside one that has."""
    a, b = line.server("a", cap=1), line.server("b", cap=0)
    line.start()
    for n in range(20):
        line.send("r%d" % n)
    eventually(lambda: len(a.order) + len(b.order) == 20, "all run")
    assert len(a.order) == 1 and line.queue()["waiting"] == 0
    a.release_all()
    b.release_all()
    line.served(*line.clients)


def test_pins_wait(line):
    """Who names a machine waits for that machine, even while another one is idle; the limit holds for him too."""
    a, b = line.server("a"), line.server("b")
    line.start()
    line.hold("x1", "a", headers={"X-Olla-Endpoint": "a"})
    line.wait_in_line("x2", headers={"X-Olla-Endpoint": "a"})
    time.sleep(PAUSE)
    assert (a.order, b.order) == (["x1"], [])
    a.release_all()
    line.served("x1", "x2")
    assert a.most == 1


def test_a_retry_waits(line):
    """The first machine failed and the second is full: better to wait than to fail."""
    a, b = line.server("a", cap=0, priority=200, models=["m1", "m-a"]), line.server("b", cap=1, models=["m1", "m-b"])
    a.replies["*"] = lambda c, r: c.reply({"from": "a"}, 503)
    a.release_all()
    line.start({"proxy.load_balancer": "priority"})
    line.hold(name="b", model="m-b")
    line.wait_in_line("w1", pad="x" * 100000)
    assert a.order == ["w1"] and line.proxy.endpoint("a")["connections"] == 0
    b.release_all()
    line.served("hold", "w1")
    assert line.proxy.access("w1")["attempts"] == 2
    assert b.server.calls[1].body == a.server.calls[0].body


def test_a_retry_that_waits_too_long(line):
    """Nor may it wait longer than others; the client hears why."""
    a, b = line.server("a", cap=0, priority=200, models=["m1"]), line.server("b", cap=1, models=["m1", "m-b"])
    a.replies["*"] = lambda c, r: c.reply({"from": "a"}, 503)
    a.release_all()
    line.start({"proxy.load_balancer": "priority"}, timeout="400ms")
    line.hold(name="b", model="m-b")
    line.send("w1")
    reply = line.answer("w1")
    assert reply.status == 503 and reply.json().get("error", {}).get("code") == "queue_timeout", reply.body
    told = message(reply).rpartition("; endpoints: ")[2]
    assert "a (already tried" in told and "b (at its limit of requests" in told, message(reply)
    assert b.order == ["hold"]


# ---- the end of patience

def test_timeout(line):
    """A place that does not come: 503 in time, and the request is never sent afterwards."""
    turns = line.server()
    line.start(timeout="500ms")
    line.hold()
    for tag in ("w1", "w2"):
        line.send(tag)
    for tag in ("w1", "w2"):
        reply = line.answer(tag)
        assert reply.status == 503 and seconds(reply) and reply.json()["error"]["code"] == "queue_timeout"
        assert "a (at its limit of requests" in message(reply).rpartition("; endpoints: ")[2], message(reply)
    assert line.queue()["timed_out"] == 2 and line.queue()["waiting"] == 0
    turns.release("hold")
    line.served("hold")
    time.sleep(PAUSE)
    assert turns.order == ["hold"]
    # the connection is still good
    line.clients["w1"].start_post(PATH, {"model": "m1", "tag": "again"})
    turns.release("again")
    assert line.answer("w1").json()["tag"] == "again"


def test_timeout_is_for_waiting_only(line):
    """The time in the line ends with the place: a long answer is not cut by it."""
    turns = line.server()
    line.start(timeout="700ms")
    line.hold()
    line.wait_in_line("w1")
    turns.release("hold")
    eventually(lambda: "w1" in turns.order, "w1 runs")
    time.sleep(1)
    turns.release("w1")
    line.served("hold", "w1")
    assert line.queue()["timed_out"] == 0


@pytest.mark.parametrize("room", [0, 1, 3])
def test_full(line, room):
    """When the line is full it is better to say so at once; those who wait keep their place."""
    turns = line.server()
    line.start(max_waiting=room)
    line.hold()
    waiting = ["w%d" % n for n in range(room)]
    line.wait_in_line(*waiting)
    for n in range(2):
        line.send("late%d" % n, how="high")
        reply = line.answer("late%d" % n)
        assert reply.status == 429 and seconds(reply) and reply.json()["error"]["code"] == "queue_full"
        assert "a (at its limit of requests" in message(reply).rpartition("; endpoints: ")[2], message(reply)
    seen = line.queue()
    assert (seen["refused"], seen["waiting"]) == (2, room)
    turns.release_all()
    line.served("hold", *waiting)
    assert turns.order == ["hold"] + waiting


def test_default_size(line):
    """64 wait, the 65th hears 429."""
    turns = line.server()
    line.start()
    line.hold()
    waiting = ["w%02d" % n for n in range(64)]
    for tag in waiting:
        line.send(tag)
    line.wait_waiting(64)
    line.send("late")
    assert line.answer("late").status == 429
    turns.release_all()
    line.served("hold", *waiting)
    assert turns.most == 1 and sorted(turns.order[1:]) == waiting


def test_dialects(line):
    """Each client library reads errors in its own form."""
    line.server("o", kind=Ollama, models=["m-o"], paths=("/api/chat", CHAT))
    line.server("l", kind=Llamacpp, models=["m-l"], paths=("/v1/messages", CHAT))
    line.start(max_waiting=0)
    line.hold("h-o", "o", path="/api/chat", model="m-o", stream=False)
    line.hold("h-l", "l", path="/v1/messages", model="m-l")
    replies = {}
    for tag, path, model in (("o", "/api/chat", "m-o"), ("a", "/v1/messages", "m-l"), ("c", "/v1/chat/completions", "m-l")):
        line.send(tag, path=path, model=model)
        replies[tag] = line.answer(tag)
        assert replies[tag].status == 429 and seconds(replies[tag])
    assert "at its limit of requests" in replies["o"].json()["error"]
    assert replies["a"].json()["type"] == "error" and replies["a"].json()["error"]["type"] == "rate_limit_error"
    assert "at its limit of requests" in replies["a"].json()["error"]["message"]
    assert replies["c"].json()["error"]["code"] == "queue_full"


# ---- clients that leave

@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
def test_leaving_the_line(line, how):
    """Who closes his browser tab while he waits frees his place at once, and no machine ever hears of him."""
    turns = line.server()
    line.start(max_waiting=3)
    line.hold()
    line.wait_in_line("w1", "w2", "w3")
    getattr(line.clients["w2"], how)()
    line.wait_waiting(2)
    entry = line.proxy.access("w2")
    assert entry["status"] == 499 and entry["end"][0] == "C", entry
    assert line.queue()["left"] == 1
    line.wait_in_line("w4")  # there is room again
    turns.release_all()
    line.served("hold", "w1", "w3", "w4")
    assert turns.order == ["hold", "w1", "w3", "w4"]
    assert line.queue()["served"] == 3


@pytest.mark.parametrize("which", ["w1", "w3"])
def test_leaving_at_either_end(line, which):
    """First and last are special in every list."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line("w1", "w2", "w3")
    line.clients[which].reset()
    line.wait_waiting(2)
    line.wait_in_line("w4")
    rest = [tag for tag in ("w1", "w2", "w3", "w4") if tag != which]
    turns.release_all()
    line.served("hold", *rest)
    assert turns.order == ["hold"] + rest


def test_all_leave(line):
    """A crowd that gives up must leave nothing behind."""
    turns = line.server()
    line.start()
    line.hold()
    tags = ["w%02d" % n for n in range(40)]
    for tag in tags:
        line.send(tag)
    line.wait_waiting(40)
    for n, tag in enumerate(tags):
        getattr(line.clients[tag], "reset" if n % 2 else "close")()
    line.wait_waiting(0)
    turns.release("hold")
    line.served("hold")
    line.send("next")
    turns.release("next")
    line.served("next")
    assert turns.order == ["hold", "next"] and line.queue()["left"] == 40


def test_leaving_while_running_lets_the_next_in(line):
    """The place of a running request whose client leaves is free at once, not when the machine notices."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line("w1")
    line.clients["hold"].reset()
    eventually(lambda: turns.order == ["hold", "w1"], "w1 runs", 3)
    turns.release_all()
    line.served("w1")


def test_leaving_in_mid_stream_lets_the_next_in(line):
    """The same for a stream that has begun."""
    turns = line.server()
    line.start()
    line.hold(stream=True)
    line.clients["hold"].read_head("POST").read_at_least(10)
    line.wait_in_line("w1")
    line.clients["hold"].close()
    eventually(lambda: turns.order == ["hold", "w1"], "w1 runs", 3)
    turns.release_all()
    line.served("w1")


def test_a_stream_keeps_its_place_to_the_end(line):
    """A stream is a running request until its last byte."""
    turns = line.server()
    line.start()
    line.hold(stream=True)
    reply = line.clients["hold"].read_head("POST")
    reply.read_at_least(10)
    line.wait_in_line("w1")
    time.sleep(PAUSE)
    assert turns.order == ["hold"]
    turns.release_all()
    assert reply.read_rest().complete
    line.served("w1")


def test_failures_give_the_place_back(line):
    """A limit that counts failed requests for ever locks the machine up."""
    turns = line.server(health="none", first_byte_timeout="500ms")
    ends = {"reset": lambda c, r: c.rst(), "eof": lambda c, r: c.fin(), "500": lambda c, r: c.reply({}, 500),
            "garbled": lambda c, r: (c.send(b"nonsense\r\n\r\n"), c.fin()),
            "short": lambda c, r: (c.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"), c.fin())}
    turns.replies.update(ends)
    line.start(timeout="2s")
    turns.release(*ends)
    for tag in ends:
        with line.proxy.client() as client:
            client.start_post(PATH, {"model": "m1", "tag": tag})
            client.read_head("POST").read_rest()
    line.send("slow")
    assert line.answer("slow").status == 504
    turns.release_all()
    line.send("last")
    line.served("last")


def test_a_large_body_waits(line):
    """A request with pictures in it waits like others and arrives whole."""
    turns = line.server()
    line.start()
    line.hold()
    pads = {tag: chr(97 + n) * size for n, (tag, size) in enumerate((("w1", 9000), ("w2", 70000), ("w3", 2 << 20)))}
    for tag, pad in pads.items():
        line.wait_in_line(tag, pad=pad)
    turns.release_all()
    line.served("hold", *pads)
    assert {call.json()["tag"]: call.json().get("pad") for call in turns.server.calls} == dict(pads, hold=None)


def test_idle_while_waiting(line):
    """A line that stands still must not keep the processor of a small router busy."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line(*["w%d" % n for n in range(10)])
    before = line.proxy.cpu_seconds()
    time.sleep(0.6)
    assert line.proxy.cpu_seconds() - before < 0.3, "waiting is done in a loop"
    turns.release_all()
    line.served(*line.clients)


# ---- what counts

V1 = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/rerank", "/v1/images/generations",
      "/v1/audio/speech", "/v1/audio/transcriptions"]
API = ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"]


@pytest.mark.parametrize("kind,paths", [(Llamacpp, V1), (Ollama, API + V1[:3])], ids=["v1", "ollama"])
def test_inference_of_all_kinds_counts(line, kind, paths):
    """Embeddings of a whole library fill a machine as surely as chats do: each kind takes a place, and each waits for one."""
    turns = line.server(kind=kind, paths=paths)
    line.start()
    for n, path in enumerate(paths):
        first, second = "%d-first" % n, "%d-second" % n
        line.hold(first, path="/olla/proxy" + path, stream=False)
        line.wait_in_line(second, path="/olla/proxy" + path, stream=False)
        turns.release(first, second)
        line.served(first, second)
    assert turns.most == 1 and len(turns.order) == 2 * len(paths)


def test_root_and_prefixed_paths_count(line):
    """The limit is the machine's, not the route's."""
    turns = line.server(kind=Ollama, paths=("/api/chat", CHAT))
    line.start()
    line.hold(path="/v1/chat/completions")
    line.wait_in_line("w1", path="/olla/proxy/v1/chat/completions")
    line.wait_in_line("w2", path="/olla/ollama/v1/chat/completions")
    line.wait_in_line("w3", path="/api/chat", stream=False)
    line.wait_in_line("w4", path="/olla/ollama/api/chat", stream=False)
    turns.release_all()
    line.served(*line.clients)
    assert turns.order == ["hold", "w1", "w2", "w3", "w4"] and turns.most == 1


def test_other_requests_pass(line):
    """Menus, token counts and details must not wait for a long answer, nor take a place (a web interface's .css did, in another proxy)."""
    turns = line.server()
    server = turns.server
    for path in ("/v1/x", "/tokenize", "/apply-template", "/style.css"):
        server.on(path, lambda c, r: c.reply({"path": r.path}))
    line.start(max_waiting=0)
    line.hold()
    proxy = line.proxy
    for path in ("/tokenize", "/apply-template", "/v1/x"):
        reply = proxy.post("/olla/llamacpp" + path, {"model": "m1"})
        assert (reply.status, reply.json()) == (200, {"path": path})
    for path in ("/v1/x", "/style.css"):
        reply = proxy.get("/olla/llamacpp" + path)
        assert (reply.status, reply.json()) == (200, {"path": path})
    for path in ("/v1/models", "/internal/status", "/internal/health"):
        assert proxy.get(path).status == 200
    assert line.queue()["refused"] == 0


def test_other_requests_take_no_place(line):
    """Ten slow downloads on the same machine: the chat still runs at once."""
    turns = line.server()
    gate = threading.Event()
    turns.server.on("/v1/x", lambda c, r: (gate.wait(20), c.reply({})))
    line.start(max_waiting=0)
    others = [line.world.client(line.proxy) for _ in range(3)]
    for client in others:
        client.send(request_bytes("GET", "/olla/llamacpp/v1/x", {MARK: "1"}))
    turns.server.wait_calls(3)
    line.hold()
    gate.set()
    turns.release_all()
    line.served("hold")
    for client in others:
        assert client.read_response().status == 200


# ---- trouble while many wait

def test_the_only_endpoint_dies(line):
    """Pull the plug with five in the line: each hears the truth at once, not after a minute of waiting for nothing."""
    turns = line.server()
    line.start()
    line.hold()
    tags = ["w%d" % n for n in range(5)]
    line.wait_in_line(*tags)
    turns.server.stop()
    for tag in ["hold"] + tags:
        reply = line.answer(tag)
        assert reply.status in (502, 503) and message(reply), (tag, reply.status, reply.body)
    assert line.queue()["waiting"] == 0 and turns.order[0] == "hold"


def test_one_of_two_dies(line):
    """The other one takes all of them over: six requests, six good answers."""
    a, b = line.server("a"), line.server("b")
    line.start()
    tags = ["r%d" % n for n in range(6)]
    for tag in tags[:2]:
        line.send(tag)
    eventually(lambda: a.order and b.order, "both run one")
    line.wait_in_line(*tags[2:])
    a.server.stop()
    b.release_all()
    for tag in tags:
        assert line.answer(tag).json() == {"tag": tag, "served_by": "b"}
    assert sorted(b.order) == tags and b.most == 1


def test_an_endpoint_comes_back(line):
    """The line is served by a machine that was off when the requests came, as soon as it is there."""
    a, b = line.server("a", check_interval="1s", check_timeout="500ms"), line.server("b", models=["m1", "m-b"])
    line.start()
    a.server.stop()
    line.proxy.post(PATH, {"model": "m1", "tag": "finds-out"}, {"X-Olla-Endpoint": "a"})
    line.proxy.wait_down("a")
    line.hold(name="b", model="m-b")
    line.wait_in_line("w1", "w2")
    a.server.start()
    eventually(lambda: "w1" in a.order, "w1 runs on the machine that is back", 20)
    a.release_all()
    line.served("w1", "w2")
    assert b.order == ["hold"]
    b.release_all()
    line.served("hold")


def test_a_limit_ends_while_they_wait(line):
    """Nothing happens at the machine they wait for, but another one may be asked again: that must wake them."""
    a, b = line.server("a", cap=0, priority=200, health="passive"), line.server("b", models=["m1", "m-b"])
    a.replies["first"] = lambda c, r: c.reply({}, 429, headers={"Retry-After": "1"})
    a.release("first")
    line.start({"proxy.load_balancer": "priority"})
    line.hold(name="b", model="m-b")
    line.wait_in_line("first")  # refused by a, waits for b
    line.wait_in_line("w1", "w2")
    assert (a.order, b.order) == (["first"], ["hold"])
    eventually(lambda: len(a.order) == 3, "both run on a", 8)
    assert sorted(a.order) == ["first", "w1", "w2"] and b.order == ["hold"] and line.queue()["waiting"] == 1
    a.release_all()
    b.release_all()
    line.served("hold", "first", "w1", "w2")


def test_a_trial_from_the_line(line):
    """The open time of a machine ends while they wait for another one: one of them is the trial, and when it goes well the others follow."""
    a, b = line.server("a", cap=0, priority=200, health="passive"), line.server("b", models=["m1", "m-b"])
    for tag in ("f1", "f2", "f3"):
        a.replies[tag] = lambda c, r: c.reply({}, 500)
        a.release(tag)
    line.start({"proxy.load_balancer": "priority", "proxy.breaker.open_time": "1s"})
    line.hold(name="b", model="m-b")
    for tag in ("f1", "f2", "f3"):
        line.send(tag)
        assert line.answer(tag).status == 500
    line.wait_in_line("w1", "w2", "w3")
    eventually(lambda: len(a.order) > 3, "a is tried", 8)
    time.sleep(PAUSE)
    assert a.order[3:] == ["w1"] and b.order == ["hold"] and line.queue()["waiting"] == 2
    a.release("w1")
    line.served("w1")
    eventually(lambda: len(a.order) == 6, "the others run on a")
    assert sorted(a.order[3:]) == ["w1", "w2", "w3"]
    a.release_all()
    b.release_all()
    line.served("hold", "w2", "w3")


def test_a_failing_trial_from_the_line(line):
    """It moves on and waits like the others; the line goes on being served by the machine that works."""
    a, b = line.server("a", cap=0, priority=200, health="passive"), line.server("b", models=["m1", "m-b"])
    a.replies["*"] = lambda c, r: c.reply({}, 503)
    a.release_all()
    line.start({"proxy.load_balancer": "priority", "proxy.breaker.open_time": "300ms", "proxy.breaker.consecutive_failures": 1})
    line.hold(name="b", model="m-b")
    line.wait_in_line("w1", "w2", "w3")
    eventually(lambda: len(a.order) >= 3, "a is tried with one after the other", 8)
    assert a.order[:3] == ["w1", "w2", "w3"] and line.queue()["waiting"] == 3
    b.release_all()
    line.served("hold", "w1", "w2", "w3")
    assert sorted(b.order) == ["hold", "w1", "w2", "w3"] and b.most == 1


def test_the_breaker_opens(line):
    """The machine fails everything it gets from the line: after three the rest is told, not tried one by one."""
    turns = line.server(health="passive")
    turns.replies["*"] = lambda c, r: c.reply({"from": "a"}, 500)
    line.start({"proxy.breaker.open_time": "60s"})
    line.hold()
    tags = ["w%d" % n for n in range(6)]
    line.wait_in_line(*tags)
    turns.release_all()
    replies = [line.answer(tag) for tag in ["hold"] + tags]
    assert [reply.status for reply in replies] == [500] * 3 + [503] * 4
    for reply in replies[3:]:
        assert seconds(reply) <= 60 and "a (breaker open" in message(reply)
    assert turns.order == ["hold", "w0", "w1"]


def test_the_endpoint_wants_to_be_left_alone(line):
    """429 with Retry-After while others wait for the same machine: they hear it too."""
    turns = line.server(health="passive")
    turns.replies["hold"] = lambda c, r: c.reply({"from": "a"}, 429, headers={"Retry-After": "30"})
    line.start()
    line.hold()
    line.wait_in_line("w1", "w2")
    turns.release("hold")
    assert line.answer("hold").json() == {"from": "a"}
    for tag in ("w1", "w2"):
        reply = line.answer(tag)
        assert reply.status == 429 and 15 <= seconds(reply) <= 30
    assert turns.order == ["hold"]


def test_status_while_waiting(line):
    """A long line is what the status page is for."""
    turns = line.server()
    line.start(max_waiting=7)
    line.hold()
    line.wait_in_line("w1", "w2")
    seen = line.queue()
    assert set(seen) >= {"waiting", "max", "served", "timed_out", "refused", "left"} and all(isinstance(v, int) for v in seen.values()), seen
    assert (seen["waiting"], seen["served"]) == (2, 0) and seen["max"] in (2, 7)
    assert line.proxy.endpoint("a")["connections"] == 1, "those who wait are not connected"
    turns.release_all()
    line.served(*line.clients)


# ---- reload

def reload(line, **keys):
    """A reload that is in force when this returns: an endpoint without traffic comes with it and shows that."""
    line.spec["mark"] = endpoint(line.world.backend(OpenAIBackend, "mark", ["m-mark"]))
    line.proxy.reload(line.spec, line.settings(**keys))
    eventually(lambda: "mark" in [e["name"] for e in line.proxy.status()["endpoints"]], "the reload is in force")


def test_reload_raises_the_limit(line):
    """The operator allows more: those who wait must not wait for the next end."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line("w1", "w2", "w3", "w4")
    line.spec["a"]["max_concurrent"] = 3
    reload(line)
    eventually(lambda: turns.running == 3, "three run at once")
    time.sleep(PAUSE)
    # the two start at once, each on its connection: who arrives first is the machine's affair
    assert sorted(turns.order) == ["hold", "w1", "w2"] and line.queue()["waiting"] == 2
    turns.release_all()
    line.served(*line.clients)
    assert turns.most == 3 and sorted(turns.order) == ["hold", "w1", "w2", "w3", "w4"]


def test_reload_lowers_the_limit(line):
    """What runs goes on; the next starts only when fewer run than are allowed now."""
    turns = line.server(cap=3)
    line.start()
    for n in range(3):
        line.hold("h%d" % n)
    line.wait_in_line("w1", "w2")
    line.spec["a"]["max_concurrent"] = 1
    reload(line)
    for tag in ("h0", "h1"):
        turns.release(tag)
        line.served(tag)
        time.sleep(PAUSE)
        assert turns.order == ["h0", "h1", "h2"]
    turns.release("h2")
    line.served("h2")
    eventually(lambda: turns.order[3:] == ["w1"], "w1 runs")
    time.sleep(PAUSE)
    assert turns.order[3:] == ["w1"] and turns.running == 1
    turns.release_all()
    line.served("w1", "w2")


def test_reload_removes_the_limit(line):
    """No limit any more: all that wait go at once."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line("w1", "w2", "w3", "w4")
    del line.spec["a"]["max_concurrent"]
    reload(line)
    eventually(lambda: turns.running == 5, "all run at once")
    turns.release_all()
    line.served(*line.clients)


def test_reload_sets_a_limit(line):
    """Where there was none: what runs counts from the start."""
    turns = line.server(cap=0)
    line.start()
    for n in range(3):
        line.hold("h%d" % n)
    line.spec["a"]["max_concurrent"] = 2
    reload(line)
    line.wait_in_line("w1")
    turns.release("h0")
    line.served("h0")
    time.sleep(PAUSE)
    assert len(turns.order) == 3
    turns.release("h1")
    line.served("h1")
    eventually(lambda: turns.order[3:] == ["w1"], "w1 runs")
    turns.release_all()
    line.served("h2", "w1")


def test_reload_removes_the_endpoint(line):
    """The machine is gone from the file: what runs there ends well, who waits hears at once that nobody has the model."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line("w1", "w2", "w3")
    del line.spec["a"]
    reload(line)
    for tag in ("w1", "w2", "w3"):
        reply = line.answer(tag)
        assert reply.status in (404, 503) and message(reply), (reply.status, reply.body)
    turns.release_all()
    line.served("hold")
    assert turns.order == ["hold"]


def test_reload_removes_one_of_two(line):
    """Who waits is served by the one that is left."""
    a, b = line.server("a"), line.server("b")
    line.start()
    for tag in ("h1", "h2"):
        line.send(tag)
    eventually(lambda: a.order and b.order, "both run one")
    line.wait_in_line("w1", "w2", "w3")
    del line.spec["a"]
    reload(line)
    a.release_all()
    line.served(a.order[0])
    time.sleep(PAUSE)
    assert len(b.order) == 1
    b.release_all()
    line.served(b.order[0], "w1", "w2", "w3")
    assert len(a.order) == 1 and b.order[1:] == ["w1", "w2", "w3"] and b.most == 1


def test_reload_shortens_the_line(line):
    """Nobody is thrown out who already waits; new ones are refused."""
    turns = line.server()
    line.start()
    line.hold()
    line.wait_in_line("w1", "w2", "w3")
    reload(line, max_waiting=1)
    line.send("late")
    assert line.answer("late").status == 429
    turns.release_all()
    line.served("hold", "w1", "w2", "w3")


# ---- the end of olla

def test_sigterm_while_waiting(line):
    """A stop in an orderly way: every client gets one whole answer, whichever it is."""
    turns = line.server()
    line.start({"server.shutdown_timeout": "10s"})
    line.hold()
    tags = ["w1", "w2", "w3"]
    line.wait_in_line(*tags)
    line.proxy.signal()
    time.sleep(PAUSE)
    turns.release_all()
    line.served("hold")
    for tag in tags:
        reply = line.answer(tag)
        assert reply.complete and (reply.status == 503 or reply.json()["tag"] == tag), (reply.status, reply.body)
    assert line.proxy.wait_exit(10) == 0


def test_sigterm_with_a_line_that_stands_still(line):
    """The running request never ends: olla does, in time, and says that something was cut."""
    line.server()
    line.start({"server.shutdown_timeout": "700ms"})
    line.proxy.expect_exit = 3
    line.hold()
    line.wait_in_line("w1", "w2")
    line.proxy.signal()
    assert line.proxy.wait_exit(10) == 3
    for tag in ("hold", "w1", "w2"):
        line.clients[tag].read_eof(5)
    assert line.turns["a"].order == ["hold"]


# ---- settings

BAD = [("endpoint:a", "max_concurrent", "-1"), ("endpoint:a", "max_concurrent", "some"), ("proxy.queue", "max_waiting", "-1"),
       ("proxy.queue", "max_waiting", "many"), ("proxy.queue", "timeout", "soon")]


@pytest.mark.parametrize("section,key,value", BAD)
def test_bad_settings(binary, tmp_path, section, key, value):
    """A typing error must be told with file and line, not be taken for `no limit`."""
    path = tmp_path / "a.ini"
    more = "url = http://127.0.0.1:2\n" if ":" in section else ""
    path.write_text("[endpoint:b]\nurl = http://127.0.0.1:1\n[%s]\n%s = %s\n%s" % (section, key, value, more))
    code, _, err = run_cli("-t", "-c", path)
    assert code == 1 and "%s:4: " % path in err and key in err and '"%s"' % value in err, err
