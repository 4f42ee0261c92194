"""A house full of uneven machines under load: what holds for one request must hold for two thousand at once.

All choices come from SEED; only the order in which threads run differs from run to run."""

import collections
import random
import signal
import threading
import time

from backend import OpenAIBackend, eventually, openai_chunk
from client import Client, Closed, Framing, dump, json_headers, request_bytes
from harness import endpoint

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"

N = 2000  # requests of the storm
CLIENTS = 60
LIMIT = 15.0  # no new request after so many seconds
SEED = 20261

Kind = collections.namedtuple("Kind", "weight cap seconds health")
MACHINES = {"a": Kind(4, 8, 0.010, "http"), "b": Kind(4, 6, 0.015, "passive"), "c": Kind(3, 4, 0.025, "passive"), "d": Kind(3, 4, 0.030, "http"),
            "e": Kind(2, 3, 0.040, "passive"), "f": Kind(2, 2, 0.050, "passive"), "g": Kind(1, 1, 0.075, "none"), "h": Kind(1, 1, 0.100, "passive")}


def chance(*what):
    """A number from 0 to 1 that belongs to these things, always the same."""
    return random.Random("%d %r" % (SEED, what)).random()


def is_stream(number):
    return chance("stream", number) < 0.4


class Machine(OpenAIBackend):
    """Answers at its own speed, counts what runs at once, and fails as fate wants."""

    def setup(self):
        super().setup()
        self.count = threading.Lock()
        self.kind, self.fails = MACHINES[self.name], False
        self.running = self.most = 0
        self.events = []  # (when, number of the request, what)

    def note(self, number, what, step=0):
        with self.count:
            self.running += step
            self.most = max(self.most, self.running)
            self.events.append((time.monotonic(), number, what))

    def fate(self, number, stream):
        """Of the requests that come here: 3 in 100 are reset, 2 get 503, 2 of the streams break."""
        luck = chance("fate", self.name, number) if self.fails else 1
        return "reset" if luck < 0.03 else "503" if luck < 0.05 else "broken" if luck < 0.07 and stream else "good"

    def chat(self, conn, request):
        body = request.json()
        number, stream = body["number"], body["stream"]
        fate = self.fate(number, stream)
        self.note(number, "arrived", +1)
        time.sleep(self.kind.seconds * (0.5 + chance("speed", self.name, number)))
        # what ends here is taken from `running` before the byte that tells olla so
        if fate == "reset":
            self.note(number, "reset", -1)
            conn.rst()
        elif fate == "503":
            self.note(number, "503", -1)
            conn.reply({"error": "busy"}, 503)
        elif not stream:
            self.note(number, "began", -1)
            conn.reply({"number": number, "served_by": self.name})
        else:
            self.note(number, "began")
            conn.start_chunked()
            conn.chunk(openai_chunk("<%d>" % number))
            self.note(number, "ended", -1)
            if fate == "broken":
                conn.rst()
            else:
                conn.chunk(b"data: [DONE]\n\n")
                conn.end_chunks()


class House:
    def __init__(self, world, settings, caps=True):
        self.machines = {name: world.backend(Machine, name, ["m1"]) for name in MACHINES}
        self.settings = dict({"proxy.sticky_sessions.enabled": False}, **settings)
        self.spec = {}
        for name, kind in MACHINES.items():
            self.spec[name] = endpoint(self.machines[name], weight=kind.weight, health=kind.health, check_interval="1s", check_timeout="500ms")
            if caps:
                self.spec[name]["max_concurrent"] = kind.cap
        self.proxy = world.olla(self.spec, self.settings)

    def events_of(self):
        """{number: [(when, machine, what)] in order}"""
        found = collections.defaultdict(list)
        for name, machine in self.machines.items():
            for when, number, what in list(machine.events):
                found[number].append((when, name, what))
        return {number: sorted(events) for number, events in found.items()}


class Crowd:
    """Clients in threads that take numbers until there are none left."""

    def __init__(self, proxy, count, clients, limit):
        self.proxy, self.count, self.limit = proxy, count, limit
        self.results = collections.defaultdict(list)
        self.next, self.lock = 0, threading.Lock()
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(clients)]

    def run(self):
        self.deadline = time.monotonic() + self.limit
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join(self.limit + 60)
        assert not [t for t in self.threads if t.is_alive()], "a client still waits for its answer"
        return self.results

    def take(self):
        with self.lock:
            if self.next == self.count or time.monotonic() > self.deadline:
                return None
            self.next += 1
            return self.next - 1

    def work(self):
        client = None
        while True:
            number = self.take()
            if number is None:
                break
            client = client or Client(self.proxy.port)
            outcome = self.ask(client, number)
            with self.lock:
                self.results[number].append(outcome)
            if outcome[0] in ("broken", "lost"):
                client.close()
                client = None
        if client:
            client.close()

    @staticmethod
    def ask(client, number):
        """(kind, detail): good, broken (a truncated stream that says so), error, lost, wrong."""
        stream = is_stream(number)
        headers = {"X-Request-ID": "n%d" % number, "X-Olla-Priority": random.Random("%d class %d" % (SEED, number)).choice(["high", "normal", "low"])}
        body = dump({"model": "m1", "number": number, "stream": stream, "pad": "x" * int(3000 * chance("pad", number))})
        try:
            client.send(request_bytes("POST", PATH, json_headers(headers), body))
            reply = client.read_response("POST", 40)
        except (Closed, Framing, TimeoutError, OSError) as error:
            return "lost", repr(error)
        if client.buf:
            return "wrong", "more than one answer: %r" % client.buf[:200]
        if reply.status != 200:
            return "error", (reply.status, reply.body[:300])
        if not reply.complete:
            told = b'"error"' in reply.body and b"[DONE]" not in reply.body
            return ("broken" if stream and told else "wrong"), reply.get("X-Olla-Endpoint")
        if stream:
            right = reply.body.count(b"<%d>" % number) == 1 and reply.body.count(b"data:") == 2 and reply.body.endswith(b"data: [DONE]\n\n")
        else:
            right = reply.json() == {"number": number, "served_by": reply.get("X-Olla-Endpoint")}
        return ("good" if right else "wrong"), reply.get("X-Olla-Endpoint")


def kinds(results):
    return collections.Counter(outcome[0] for outcomes in results.values() for outcome in outcomes)


def test_calm_day(world):
    """With nothing going wrong each machine gets the share that its weight promises, whatever its speed."""
    house = House(world, {"proxy.load_balancer": "round-robin"}, caps=False)
    results = Crowd(house.proxy, 600, 16, LIMIT).run()
    assert kinds(results) == {"good": len(results)} and len(results) >= 200, kinds(results)
    total = sum(kind.weight for kind in MACHINES.values())
    got = collections.Counter(outcomes[0][1] for outcomes in results.values())
    for name, kind in MACHINES.items():
        fair = len(results) * kind.weight / total
        assert abs(got[name] - fair) <= max(2, 0.1 * fair), (name, fair, got)


def test_storm(world):
    """Failures, a long line and reloads at once: no request is lost, none is carried out twice after its answer began, and no machine
    is asked for more than it can do."""
    house = House(world, {"proxy.load_balancer": "least-connections", "proxy.breaker.open_time": "200ms", "proxy.breaker.max_open_time": "1s"})
    for machine in house.machines.values():
        machine.fails = True
    done = threading.Event()

    def reloads():
        while not done.wait(0.2):
            house.proxy.signal(signal.SIGHUP)  # nothing has changed, and nothing may be felt
    thread = threading.Thread(target=reloads, daemon=True)
    thread.start()
    most_waiting = []

    def watch():
        while not done.wait(0.05):
            most_waiting.append(house.proxy.status()["queue"]["waiting"])
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        results = Crowd(house.proxy, N, CLIENTS, LIMIT).run()
    finally:
        done.set()
        thread.join(5)
        watcher.join(5)
    seen = kinds(results)
    examples = [(n, o) for n, outcomes in results.items() for o in outcomes if o[0] not in ("good", "broken")][:5]
    assert len(results) >= N // 4, "only %d requests in %.0f s" % (len(results), LIMIT)

    # each request has exactly one answer, and it is a good one unless the machine broke its stream
    assert set(map(len, results.values())) == {1} and set(seen) <= {"good", "broken"}, (seen, examples)
    events = house.events_of()
    for number, ((kind, name),) in results.items():
        mine, stream = events[number], is_stream(number)
        began = [(when, machine) for when, machine, what in mine if what == "began"]
        assert len(began) == 1, "request %d was answered by %r" % (number, mine)
        when, machine = began[0]
        assert (machine, house.machines[machine].fate(number, stream)) == (name, kind), (number, mine)
        assert not [e for e in mine if e[2] == "arrived" and e[0] > when], "request %d went on after its answer began: %r" % (number, mine)
        for each, times in collections.Counter(m for _, m, what in mine if what == "arrived").items():
            # once more only on a fresh connection, when a kept one died under it
            limit = 2 if house.machines[each].fate(number, stream) == "reset" else 1
            assert times <= limit, "request %d came to %s %d times: %r" % (number, each, times, mine)
    assert set(events) == set(results)
    happened = collections.Counter(what for mine in events.values() for _, _, what in mine)
    assert min(happened["reset"], happened["503"], seen["broken"]) > 0, "nothing went wrong: %r" % happened

    # the limits held, and were reached
    for name, machine in house.machines.items():
        assert machine.most <= machine.kind.cap and machine.running == 0, (name, machine.most, machine.running)
    assert sum(machine.most == machine.kind.cap for machine in house.machines.values()) >= 6
    assert max(most_waiting) > 0, "nobody ever waited: the storm was a breeze"

    # and afterwards all is quiet
    status = house.proxy.status()
    assert status["queue"]["waiting"] == 0 and {e["connections"] for e in status["endpoints"]} == {0}
    assert status["queue"]["refused"] == status["queue"]["timed_out"] == status["queue"]["left"] == 0

    def logged():
        return collections.Counter(e["request_id"] for e in house.proxy.find_logs("request") if e["request_id"][0] == "n" and e["method"] == "POST")
    eventually(lambda: len(logged()) == len(results), "an access line for each request; have %d of %d" % (len(logged()), len(results)))
    assert set(logged().values()) == {1}


RANK = {"high": 0, "normal": 1, "low": 2}


def test_order_of_a_long_line(world):
    """A hundred and fifty arrivals, ends and departures at one machine, against a list kept by the test: who is next is never a surprise."""
    dice = random.Random(SEED)
    server = world.backend(OpenAIBackend, "a", ["m1"])
    order, gates = [], collections.defaultdict(threading.Event)

    def handler(conn, request):
        number = request.json()["number"]
        gate = gates[number]
        order.append(number)
        gate.wait(30)
        conn.reply({"number": number})
    server.on(CHAT, handler)
    proxy = world.olla({"a": endpoint(server, max_concurrent=1)}, {"proxy.sticky_sessions.enabled": False, "proxy.queue.max_waiting": 64})
    clients, waiting, running, expected = {}, [], None, []
    status = world.client(proxy)

    def settled():
        return proxy.status(status)["queue"]["waiting"] == len(waiting) and order == expected

    number = 0
    for step in range(150):
        what = dice.random()
        if what < 0.55 and len(waiting) < 30:  # somebody comes
            how = dice.choice(list(RANK))
            clients[number] = world.client(proxy)
            clients[number].start_post(PATH, {"model": "m1", "number": number}, {"X-Olla-Priority": how})
            if running is None:
                running = number
                expected.append(number)
            else:
                waiting.append((RANK[how], number))
            number += 1
        elif what < 0.7 and waiting:  # somebody in the line leaves
            leaver = dice.choice(waiting)
            waiting.remove(leaver)
            getattr(clients.pop(leaver[1]), dice.choice(["close", "reset"]))()
        elif running is not None:  # the one who runs is done
            gates[running].set()
            reply = clients.pop(running).read_response("POST")
            assert reply.json() == {"number": running}
            running = None
            if waiting:
                first = min(waiting)
                waiting.remove(first)
                running = first[1]
                expected.append(running)
        eventually(settled, "step %d: %d wait and %r ran; olla has %r and %r" % (
            step, len(waiting), expected[-5:], proxy.status(status)["queue"], order[-5:]), 5, 0.002)
    while running is not None:
        gates[running].set()
        assert clients.pop(running).read_response("POST").json() == {"number": running}
        running = None
        if waiting:
            first = min(waiting)
            waiting.remove(first)
            running = first[1]
            expected.append(running)
        eventually(settled, "the rest of the line in order; expected %r, have %r" % (expected[-5:], order[-5:]), 5, 0.002)
    assert order == expected and len(order) > 40
