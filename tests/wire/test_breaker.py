"""The circuit breaker: an endpoint that keeps failing is left alone, tried again with one request at a time, and never blamed for
what is not its fault."""

import threading
import time

import pytest

from backend import MARK, Gate, LlamaBackend, eventually, hold, openai_chunk
from harness import endpoint, rarely_probed, run_cli
from servers import Ollama

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
QUIET = {"proxy.sticky_sessions.enabled": False}
PRIORITY = dict(QUIET, **{"proxy.load_balancer": "priority"})


class Server(LlamaBackend):
    """llama.cpp-like, without the paths that tell its load. Its calls are what clients sent, whatever olla asks by itself."""

    @property
    def calls(self):
        return [call for call in super().calls if call.method == "POST" or call.has(MARK)]


def settings(**keys):
    """proxy.breaker.KEY = value"""
    return dict(PRIORITY, **{"proxy.breaker." + key: value for key, value in keys.items()})


def good(conn, request):
    conn.reply({"served_by": conn.backend.name})


def bad(conn, request):
    conn.reply({"from": conn.backend.name}, 500)


def status(code, headers=()):
    return lambda conn, request: conn.reply({"from": conn.backend.name}, code, headers=headers)


def broken_stream(conn, request):
    conn.start_chunked()
    conn.chunk(openai_chunk("half"))
    conn.rst()


def short_body(conn, request):
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"half\":")
    conn.fin()


def garbled(conn, request):
    conn.send(b"nonsense\r\n\r\n")
    conn.fin()


class Script:
    """The replies of a server to chat requests, one after the other, then `then` for ever."""

    def __init__(self, server, *replies, then=good):
        self.left, self.then = list(replies), then
        server.on(CHAT, self.handler)

    def handler(self, conn, request):
        (self.left.pop(0) if self.left else self.then)(conn, request)


def llama(world, name, models=("m1",)):
    return world.backend(Server, name, list(models))


def ask(proxy, model="m1", headers=(), **more):
    return proxy.post(PATH, dict({"model": model}, **more), headers)


def breaker(proxy, name="a"):
    return proxy.endpoint(name)["breaker"]


def state(proxy, name="a"):
    return breaker(proxy, name)["state"]


def message(reply):
    return reply.json()["error"]["message"]


def seconds(reply):
    value = reply.get("Retry-After")
    assert value is not None and value.isdigit(), "no Retry-After in %r" % (reply.headers,)
    return int(value)


@pytest.fixture
def single(world):
    """One server that is not probed: nothing but requests counts."""
    class Single:
        server = llama(world, "a")

        def start(self, *replies, then=good, health="passive", keys=(), **options):
            self.script = Script(self.server, *replies, then=then)
            self.proxy = world.olla({"a": endpoint(self.server, health=health, **dict(keys))}, settings(**options))
            return self.proxy

        def asked(self):
            return len(self.server.calls)
    return Single()


@pytest.fixture
def pair(world):
    """`a` is preferred, `b` is always well."""
    class Pair:
        a, b = llama(world, "a"), llama(world, "b")

        def start(self, *replies, then=good, **options):
            self.script = Script(self.a, *replies, then=then)
            self.proxy = world.olla({"a": endpoint(self.a, priority=200, health="passive"), "b": endpoint(self.b, priority=100)}, settings(**options))
            return self.proxy
    return Pair()


def open_it(proxy, failures=3):
    """The breaker of the only endpoint is opened by so many failing requests."""
    for _ in range(failures):
        assert ask(proxy).status >= 500
    assert state(proxy) in ("open", "half_open")  # the latter when the open time is short and this machine slow


# ---- opening

def test_opens_after_failures_in_a_row(single):
    """A server that fails everything must not go on spoiling requests; the client is told why and for how long."""
    proxy = single.start(then=bad, open_time="30s")
    assert breaker(proxy)["state"] == "closed" and breaker(proxy)["failures"] == 0
    for n in range(3):
        assert breaker(proxy)["failures"] == n and state(proxy) == "closed"
        reply = ask(proxy)
        assert (reply.status, reply.json()) == (500, {"from": "a"}), "each failure is relayed as it is"
    seen = breaker(proxy)
    assert seen["state"] == "open" and 15000 < seen["open_for_ms"] <= 30000, seen
    for _ in range(5):
        reply = ask(proxy)
        assert reply.status == 503 and 1 <= seconds(reply) <= 30
        assert "a (breaker open" in message(reply).rpartition("; endpoints: ")[2], message(reply)
    assert single.asked() == 3


def test_number_of_failures_is_configurable(single):
    """An operator who knows his machine says how patient olla is."""
    proxy = single.start(then=bad, consecutive_failures=5)
    for _ in range(4):
        assert ask(proxy).status == 500
    assert state(proxy) == "closed"
    open_it(proxy, 1)
    assert ask(proxy).status == 503 and single.asked() == 5


def test_a_success_ends_the_row(single):
    """Two failures now and two an hour later are no outage."""
    proxy = single.start(bad, bad, good, bad, bad, good)
    assert [ask(proxy).status for _ in range(6)] == [500, 500, 200, 500, 500, 200]
    assert state(proxy) == "closed" and single.asked() == 6


@pytest.mark.parametrize("code", [400, 401, 404, 409, 413, 422])
def test_client_errors_are_no_failures(single, code):
    """One client with a wrong request must not take the machine from all others."""
    proxy = single.start(then=status(code))
    assert [ask(proxy).status for _ in range(12)] == [code] * 12
    assert state(proxy) == "closed" and single.asked() == 12


def test_client_errors_are_successes(single):
    """A machine that can say 400 works: the row of failures ends."""
    proxy = single.start(bad, bad, status(400), bad, bad, status(404))
    for _ in range(6):
        ask(proxy)
    assert state(proxy) == "closed"


FAILURES = {"500": status(500), "501": status(501), "502": status(502), "503": status(503), "504": status(504), "529": status(529),
            "reset": lambda c, r: c.rst(), "eof": lambda c, r: c.fin(), "garbled": garbled, "broken-stream": broken_stream, "short-body": short_body}


@pytest.mark.parametrize("how", list(FAILURES))
def test_what_counts_as_a_failure(single, how):
    """Whatever way a machine fails, the fourth request must not be wasted on it; a stream that breaks is a failure although it began well."""
    proxy = single.start(then=FAILURES[how])
    for _ in range(3):
        assert state(proxy) == "closed"
        with proxy.client() as client:
            client.start_post(PATH, {"model": "m1", "stream": True})
            client.read_head("POST").read_rest()
    eventually(lambda: state(proxy) == "open", "the breaker is open", 3)
    asked = single.asked()
    assert ask(proxy).status == 503 and single.asked() == asked


def test_refused_is_a_failure(single):
    """A passive endpoint that is off: three requests find out, the rest are told at once."""
    proxy = single.start(open_time="60s")
    single.server.stop()
    assert [ask(proxy).status for _ in range(5)] == [502, 502, 502, 503, 503]
    assert state(proxy) == "open" and proxy.endpoint("a")["status"] == "healthy"


@pytest.mark.parametrize("keys,general", [({}, {"proxy.response_header_timeout": "200ms"}), ({"first_byte_timeout": "200ms"}, {})],
                         ids=["head", "first-byte"])
def test_timeouts_are_failures(world, keys, general):
    """A machine that takes requests and never answers makes everybody wait: worse than one that refuses."""
    server = llama(world, "a")
    server.on(CHAT, hold)
    proxy = world.olla({"a": endpoint(server, health="passive", **keys)}, dict(settings(), **general))
    assert [ask(proxy).status for _ in range(4)] == [504, 504, 504, 503]
    assert state(proxy) == "open" and len(server.calls) == 3


def test_rate_limits_count_nothing(single):
    """429 is an answer of a machine that works; it neither opens the breaker nor ends a row of failures."""
    busy = status(429, {"Retry-After": "1"})
    proxy = single.start(bad, busy, bad, busy, bad, open_time="60s")

    def ask_when_allowed():
        eventually(lambda: proxy.endpoint("a")["limited_for_ms"] == 0, "the limit is over", 5)
        return ask(proxy).status
    assert [ask_when_allowed() for _ in range(4)] == [500, 429, 500, 429]
    assert (breaker(proxy)["state"], breaker(proxy)["failures"]) == ("closed", 2)
    assert ask_when_allowed() == 500
    assert state(proxy) == "open"


@pytest.mark.parametrize("when", ["before", "stream"])
@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
def test_clients_that_leave_count_nothing(world, single, when, how):
    """Five impatient users must not take the machine from the patient ones (in the reference they do)."""
    def begin(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        hold(conn, request)
    leavers = [hold if when == "before" else begin] * 5
    proxy = single.start(bad, bad, *(leavers + [bad]), open_time="60s")
    assert [ask(proxy).status for _ in range(2)] == [500, 500]
    for n in range(5):
        client = world.client(proxy)
        client.start_post(PATH, {"model": "m1", "stream": True})
        single.server.wait_calls(3 + n)
        if when == "stream":
            client.read_head("POST").read_at_least(10)
        getattr(client, how)()
        eventually(lambda: proxy.endpoint("a")["connections"] == 0, "the request has ended")
    seen = breaker(proxy)
    assert (seen["state"], seen["failures"]) == ("closed", 2), seen
    assert ask(proxy).status == 500
    assert state(proxy) == "open", "nor do they end a row of failures"


# ---- the window

def test_half_of_the_window(single):
    """A machine that fails every other request never fails three in a row, and is unusable all the same."""
    proxy = single.start(good, bad, good, bad, good, bad, good, bad, open_time="60s")
    for _ in range(7):
        ask(proxy)
        assert state(proxy) == "closed", "seven outcomes are too few to judge"
    assert ask(proxy).status == 500
    assert state(proxy) == "open" and ask(proxy).status == 503


def test_below_the_percentage(single):
    """One in three is bad, but better than nothing: not more than half."""
    proxy = single.start(*([good, good, bad] * 10))
    assert [ask(proxy).status for _ in range(30)] == [200, 200, 500] * 10
    assert state(proxy) == "closed"


def test_window_and_percentage_are_configurable(single):
    """A window of four is full after four outcomes, and a quarter of it is one."""
    proxy = single.start(good, bad, good, good, bad, window=4, failure_percent=25, open_time="60s")
    assert [ask(proxy).status for _ in range(2)] == [200, 500]
    assert state(proxy) == "closed", "two outcomes are too few"
    for _ in range(3):
        ask(proxy)
    assert state(proxy) == "open" and single.asked() <= 5


def test_percentage_of_the_default(single):
    """The same outcomes with the default settings are no reason to act."""
    proxy = single.start(good, bad, good, good, bad)
    for _ in range(5):
        ask(proxy)
    assert state(proxy) == "closed" and single.asked() == 5


def test_old_outcomes_leave_the_window(single):
    """What happened twenty requests ago is over."""
    proxy = single.start(*([bad, good, good, bad] + [good] * 8 + [bad, good, good, bad] + [good] * 8), window=8, failure_percent=50)
    for _ in range(24):
        ask(proxy)
        assert state(proxy) == "closed"
    assert single.asked() == 24


def test_small_window_opens(single):
    """With a window of two, two of two are enough."""
    proxy = single.start(good, bad, bad, consecutive_failures=9, window=2, failure_percent=100, open_time="60s")
    assert [ask(proxy).status for _ in range(2)] == [200, 500]
    assert state(proxy) == "closed"
    assert ask(proxy).status == 500
    assert state(proxy) == "open"


class Checks:
    """Lets a test wait for the next health check."""

    def __init__(self, server):
        self.count = 0
        page = server.routes["/health"]

        def handler(conn, request):
            page(conn, request)
            self.count += 1
        server.on("/health", handler)

    def wait(self):
        count = self.count
        eventually(lambda: self.count > count, "a health check", 10)
        time.sleep(0.15)  # and olla has read its answer


def test_a_good_health_check_does_not_hide_failing_requests(single):
    """The health page of a stuck server still says yes: it must not pay for three failures in a row."""
    checks = Checks(single.server)
    proxy = single.start(then=bad, health="http", keys={"check_interval": "1s", "check_timeout": "500ms"}, open_time="60s")
    for _ in range(2):
        assert ask(proxy).status == 500
        checks.wait()
    assert state(proxy) == "closed"
    assert ask(proxy).status == 500
    seen = breaker(proxy)
    assert seen["state"] == "open" and proxy.endpoint("a")["status"] == "healthy", "probes and requests disagree, and both can be seen"
    checks.wait()
    assert state(proxy) == "open", "nor do good checks close it before its time"
    assert ask(proxy).status == 503 and single.asked() == 3


def test_a_lost_check_does_not_close_it(single):
    """A check is lost and the next one is fine: no recovery, for the requests failed, not the machine's network."""
    page, lost = single.server.routes["/health"], []
    single.server.on("/health", lambda c, r: lost.pop()(c, r) if lost else page(c, r))
    proxy = single.start(then=bad, health="http", keys={"check_interval": "1s", "check_timeout": "500ms"}, open_time="60s")
    open_it(proxy)
    lost.append(lambda c, r: c.fin())
    proxy.wait_log("endpoint state", 10, endpoint="a", **{"from": "busy", "to": "healthy"})
    assert state(proxy) == "open" and ask(proxy).status == 503 and single.asked() == 3


def test_health_checks_count_in_the_window(single):
    """With a check between any two failures at most half of the window are failures."""
    checks = Checks(single.server)
    proxy = single.start(then=bad, health="http", keys={"check_interval": "1s", "check_timeout": "500ms"},
                         consecutive_failures=20, window=2, failure_percent=100, open_time="60s")
    for _ in range(2):
        checks.wait()
        assert ask(proxy).status == 500
        assert state(proxy) == "closed"
    # two without a check between them; a check may come between by chance, but not each time
    for _ in range(6):
        if ask(proxy).status == 503:
            break
    assert state(proxy) == "open"


def test_coming_back_after_an_outage(single):
    """A machine that was off is used as soon as a check finds it: the failed checks of the night are no reason to wait on."""
    proxy = single.start(health="http", keys={"check_interval": "1s", "check_timeout": "500ms"}, open_time="60s", window=2, failure_percent=100)
    single.server.stop()
    for _ in range(5):
        assert ask(proxy).status in (502, 503)
    proxy.wait_state("a", "offline")
    time.sleep(1.5)  # more than one check fails: the whole window is failures
    single.server.start()
    proxy.wait_state("a", "healthy", timeout=20)
    eventually(lambda: ask(proxy).status == 200, "it is used again", 5, 0.05)


# ---- the point of it

@pytest.mark.parametrize("balancer", ["least-connections", "round-robin", "priority"])
@pytest.mark.parametrize("code", [500, 503])
def test_a_fast_error_does_not_attract_traffic(world, balancer, code):
    """A server stuck in instant errors is always idle: least-connections sends it everything (issue 144)."""
    servers = {name: llama(world, name) for name in "abc"}
    servers["a"].on(CHAT, status(code))
    for name in "bc":
        servers[name].on(CHAT, lambda c, r: (time.sleep(0.01), good(c, r)))
    proxy = world.olla({name: rarely_probed(server) for name, server in servers.items()},
                       dict(QUIET, **{"proxy.load_balancer": balancer, "proxy.breaker.open_time": "60s"}))
    got = []

    def run():
        with proxy.client() as client:
            for _ in range(10):
                got.append(client.post(PATH, {"model": "m1"}).status)
    for _ in range(12):  # one after the other until the breaker has seen enough
        ask(proxy)
    assert state(proxy) == "open" and len(servers["a"].calls) == 3
    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == [200] * 60
    assert len(servers["a"].calls) == 3 and len(servers["b"].calls) > 15 and len(servers["c"].calls) > 15


def test_open_before_priority(pair):
    """The preferred machine is broken: the other one serves, and no client notices after the third."""
    proxy = pair.start(then=bad, open_time="60s")
    assert [ask(proxy).status for _ in range(3)] == [500] * 3
    assert [ask(proxy).json()["served_by"] for _ in range(6)] == ["b"] * 6
    assert len(pair.a.calls) == 3 and breaker(proxy, "b") == {"state": "closed", "failures": 0, "open_for_ms": 0}


def test_all_open(world):
    """503 with the time until the first may be tried, and every machine by its name."""
    a, b = llama(world, "a"), llama(world, "b")
    for server in (a, b):
        server.on(CHAT, bad)
    proxy = world.olla({"a": endpoint(a, priority=200, health="passive"), "b": endpoint(b, health="passive")}, settings(open_time="20s"))
    assert [ask(proxy).status for _ in range(6)] == [500] * 6
    for _ in range(3):
        reply = ask(proxy)
        assert reply.status == 503 and 5 <= seconds(reply) <= 20
        told = message(reply).rpartition("; endpoints: ")[2]
        assert "a (breaker open" in told and "b (breaker open" in told, message(reply)
    assert (len(a.calls), len(b.calls)) == (3, 3)


def test_retry_after_is_at_least_one_second(single):
    """`Retry-After: 0` makes clients ask in a tight loop."""
    proxy = single.start(then=bad, open_time="300ms", max_open_time="300ms")
    open_it(proxy)
    reply = ask(proxy)
    if reply.status == 503:  # a slow machine may be past the 300 ms
        assert seconds(reply) >= 1


def test_open_and_another_limited(pair):
    """Nobody is left, each for a reason of its own: an answer at once, with the time to come back."""
    pair.b.on(CHAT, status(429, {"Retry-After": "30"}))
    proxy = pair.start(then=bad, open_time="60s")
    assert [ask(proxy).status for _ in range(3)] == [500] * 3
    assert ask(proxy).status == 429, "b's own"
    reply = ask(proxy)
    assert reply.status in (429, 503) and 1 <= seconds(reply) <= 60
    told = message(reply).rpartition("; endpoints: ")[2]
    assert "a (breaker open" in told and "b (rate limited" in told, message(reply)


def test_pin_to_an_open_endpoint(pair):
    """Who names a machine gets that machine or the truth, not another one."""
    proxy = pair.start(then=bad, open_time="60s")
    for _ in range(3):
        ask(proxy)
    reply = ask(proxy, headers={"X-Olla-Endpoint": "a"})
    assert reply.status == 503 and seconds(reply) and "a (breaker open" in message(reply)
    assert len(pair.a.calls) == 3 and pair.b.calls == []


def test_all_open_in_the_dialect_of_ollama(world):
    """Ollama's clients read `error` as text."""
    server = world.backend(Ollama, "a", ["m1"])
    server.on("/api/chat", bad)
    proxy = world.olla({"a": endpoint(server, health="passive")}, settings(open_time="60s"))
    for _ in range(3):
        assert proxy.post("/api/chat", {"model": "m1"}).status == 500
    reply = proxy.post("/api/chat", {"model": "m1"})
    assert reply.status == 503 and seconds(reply) and "a (breaker open" in reply.json()["error"]


# ---- half open

def wait_for_trial(proxy, name="a"):
    """Until the endpoint may be tried (or is being tried)."""
    eventually(lambda: breaker(proxy, name)["open_for_ms"] == 0, "the open time of %s is over" % name)


def test_a_good_trial_closes(single):
    """One good answer and the machine is back for everybody."""
    proxy = single.start(bad, bad, bad, open_time="300ms")
    open_it(proxy)
    wait_for_trial(proxy)
    assert ask(proxy).status == 200
    assert breaker(proxy) == {"state": "closed", "failures": 0, "open_for_ms": 0}
    assert [ask(proxy).status for _ in range(5)] == [200] * 5


def test_open_time_is_kept(single):
    """Not one request earlier: clients that ask in a loop must not find a gap."""
    proxy = single.start(bad, bad, bad, open_time="700ms")
    open_it(proxy)
    with proxy.client() as client:
        eventually(lambda: client.post(PATH, {"model": "m1"}).status == 200, "it is tried again", 10)
    calls = single.server.calls
    assert calls[3].when - calls[2].when > 0.65, "tried after %.2f s" % (calls[3].when - calls[2].when)


def test_exactly_one_trial(single):
    """Twenty clients wait for the machine to come back: one is risked, the others are told at once."""
    gate = Gate()
    proxy = single.start(bad, bad, bad, lambda c, r: (gate.wait(20), good(c, r)), open_time="300ms")
    open_it(proxy)
    wait_for_trial(proxy)
    statuses = []
    lock = threading.Lock()

    def run():
        with proxy.client() as client:
            reply = client.post(PATH, {"model": "m1"}, timeout=20)
            with lock:
                statuses.append((reply.status, reply.status == 503 and seconds(reply) >= 1))
    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(statuses) == 19, "19 were told; have %r" % statuses)
    assert statuses == [(503, True)] * 19
    assert single.asked() == 4 and state(proxy) == "half_open"
    assert ask(proxy).status == 503 and single.asked() == 4
    gate.open()
    for thread in threads:
        thread.join(20)
    assert statuses[19:] == [(200, False)] and state(proxy) == "closed"


def test_others_are_served_during_the_trial(pair):
    """With a second machine nobody has to hear of the trial."""
    gate = Gate()
    proxy = pair.start(bad, bad, bad, lambda c, r: (gate.wait(20), good(c, r)), open_time="300ms")
    for _ in range(3):
        assert ask(proxy).status == 500
    wait_for_trial(proxy)
    with proxy.client() as client:
        client.start_post(PATH, {"model": "m1"})
        pair.a.wait_calls(4)
        for _ in range(10):
            assert ask(proxy).json()["served_by"] == "b"
        assert len(pair.a.calls) == 4
        gate.open()
        assert client.read_response("POST").json()["served_by"] == "a"
    assert state(proxy) == "closed" and ask(proxy).json()["served_by"] == "a"


def test_a_failing_trial_costs_the_client_nothing(pair):
    """The trial request moves on like any other when the machine is still broken."""
    proxy = pair.start(then=status(503), open_time="300ms")
    for _ in range(3):
        assert ask(proxy).json()["served_by"] == "b"
    wait_for_trial(proxy)
    assert ask(proxy).json()["served_by"] == "b"
    assert len(pair.a.calls) == 4 and state(proxy) == "open"


def test_open_time_doubles_to_a_ceiling(single):
    """A machine that stays broken is asked ever more rarely, but never forgotten."""
    proxy = single.start(then=bad, open_time="200ms", max_open_time="600ms")
    open_it(proxy)
    with proxy.client() as client:
        for n in range(5):
            eventually(lambda: client.post(PATH, {"model": "m1"}).status == 500, "trial %d" % n, 15, 0.02)
    when = [call.when for call in single.server.calls]
    assert len(when) == 8
    gaps = [later - earlier for earlier, later in zip(when[2:], when[3:])]
    for gap, least in zip(gaps, (0.18, 0.38, 0.58, 0.58, 0.58)):
        assert gap > least, gaps
    assert gaps[4] < 2.4, "3.2 s without a ceiling: %r" % gaps


def test_open_time_starts_anew_after_a_recovery(single):
    """The outage of last week must not make today's longer."""
    proxy = single.start(bad, bad, bad, bad, good, bad, bad, bad, open_time="400ms", max_open_time="60s")
    open_it(proxy)
    wait_for_trial(proxy)
    assert ask(proxy).status == 500
    wait_for_trial(proxy)
    assert ask(proxy).status == 200 and state(proxy) == "closed"
    open_it(proxy)
    assert breaker(proxy)["open_for_ms"] <= 400


def test_recovery_empties_the_window(single):
    """What led to the outage must not count towards the next."""
    proxy = single.start(bad, bad, bad, good, bad, good, bad, good, bad, window=8, open_time="200ms")
    open_it(proxy)
    wait_for_trial(proxy)
    assert [ask(proxy).status for _ in range(6)] == [200, 500, 200, 500, 200, 500]
    assert state(proxy) == "closed", "six outcomes since, three of them good"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["before", "stream"])
def test_a_trial_whose_client_leaves(world, single, when, how):
    """It decides nothing, and above all it does not hold the trial's place for ever."""
    def begin(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("one"))
        hold(conn, request)
    proxy = single.start(bad, bad, bad, hold if when == "before" else begin, open_time="300ms", max_open_time="60s")
    open_it(proxy)
    wait_for_trial(proxy)
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1", "stream": True})
    single.server.wait_calls(4)
    if when == "stream":
        client.read_head("POST").read_at_least(10)
    getattr(client, how)()
    eventually(lambda: proxy.endpoint("a")["connections"] == 0, "the trial has ended")
    assert state(proxy) != "closed"
    assert ask(proxy).status == 200, "the next request is the next trial"
    assert state(proxy) == "closed" and single.asked() == 5


def test_a_trial_that_breaks_in_the_stream(single):
    """A good head is not yet a good answer."""
    proxy = single.start(bad, bad, bad, broken_stream, open_time="300ms", max_open_time="60s")
    open_it(proxy)
    wait_for_trial(proxy)
    with proxy.client() as client:
        client.start_post(PATH, {"model": "m1", "stream": True})
        reply = client.read_head("POST").read_rest()
    assert reply.status == 200 and not reply.complete
    eventually(lambda: state(proxy) == "open", "the breaker is open again", 3)


def test_a_rate_limited_trial_is_not_stuck(single):
    """429 decides nothing; the next trial must still come."""
    proxy = single.start(bad, bad, bad, status(429, {"Retry-After": "1"}), open_time="200ms", max_open_time="500ms")
    open_it(proxy)
    wait_for_trial(proxy)
    assert ask(proxy).status == 429
    eventually(lambda: ask(proxy).status == 200, "the machine is used again", 10, 0.05)
    assert state(proxy) == "closed"


def test_requests_from_before_the_outage(world, single):
    """Long requests that began while all was well and end during the outage: no trial is stuck, nothing is counted twice."""
    gates = [Gate(), Gate()]
    proxy = single.start(lambda c, r: (gates[0].wait(20), good(c, r)), lambda c, r: (gates[1].wait(20), c.rst()), bad, bad, bad, open_time="300ms",
                         max_open_time="1s")
    clients = [world.client(proxy) for _ in range(2)]
    for n, client in enumerate(clients):
        client.start_post(PATH, {"model": "m1"})
        single.server.wait_calls(n + 1)
    open_it(proxy)
    gates[0].open()
    assert clients[0].read_response("POST").status == 200
    gates[1].open()
    assert clients[1].read_response("POST").status in (200, 502)
    eventually(lambda: ask(proxy).status == 200, "the machine is used again", 10, 0.05)
    assert state(proxy) == "closed"
    assert [ask(proxy).status for _ in range(3)] == [200] * 3


# ---- where it does not apply, and reload

def test_sherpa_has_none(world):
    """The plain engine asks every time: the operator chose it for a backend that misbehaves."""
    server = llama(world, "a")
    server.on(CHAT, bad)
    proxy = world.olla({"a": endpoint(server, health="passive")}, dict(settings(), **{"proxy.engine": "sherpa"}))
    assert [ask(proxy).status for _ in range(10)] == [500] * 10
    assert len(server.calls) == 10
    assert proxy.endpoint("a").get("breaker", {"state": "closed"})["state"] == "closed"


def test_reload_keeps_it(world, single):
    """A changed setting elsewhere must not send traffic to a broken machine."""
    proxy = single.start(then=bad, open_time="60s")
    open_it(proxy)
    other = llama(world, "b", ["m-b"])
    proxy.reload({"a": endpoint(single.server, health="passive"), "b": other}, settings(open_time="60s"))
    proxy.wait_healthy({"b": 1})
    seen = breaker(proxy)
    assert seen["state"] == "open" and 0 < seen["open_for_ms"] <= 60000
    assert ask(proxy).status == 503 and single.asked() == 3


def test_reload_keeps_the_row(world, single):
    """Two failures before the reload and one after it are three."""
    proxy = single.start(then=bad, open_time="60s")
    assert [ask(proxy).status for _ in range(2)] == [500, 500]
    other = llama(world, "b", ["m-b"])
    proxy.reload({"a": endpoint(single.server, health="passive"), "b": other}, settings(open_time="60s"))
    proxy.wait_healthy({"b": 1})
    open_it(proxy, 1)


def test_reload_during_a_trial(world, single):
    """The trial that runs meanwhile still decides."""
    gate = Gate()
    proxy = single.start(bad, bad, bad, lambda c, r: (gate.wait(20), good(c, r)), open_time="200ms")
    open_it(proxy)
    wait_for_trial(proxy)
    client = world.client(proxy)
    client.start_post(PATH, {"model": "m1"})
    single.server.wait_calls(4)
    other = llama(world, "b", ["m-b"])
    proxy.reload({"a": endpoint(single.server, health="passive"), "b": other}, settings(open_time="200ms"))
    proxy.wait_healthy({"b": 1})
    assert ask(proxy).status == 503 and single.asked() == 4, "still one at a time"
    gate.open()
    assert client.read_response("POST").status == 200
    assert state(proxy) == "closed" and ask(proxy).status == 200


BAD = [("consecutive_failures", "x"), ("consecutive_failures", "-1"), ("window", "0"), ("window", "33"), ("failure_percent", "101"),
       ("failure_percent", "half"), ("open_time", "soon"), ("max_open_time", "-1s")]


@pytest.mark.parametrize("key,value", BAD)
def test_bad_settings(binary, tmp_path, key, value):
    """A typing error must be told with file and line, not be taken for a default."""
    path = tmp_path / "a.ini"
    path.write_text("[endpoint:a]\nurl = http://127.0.0.1:1\n[proxy.breaker]\n%s = %s\n" % (key, value))
    code, _, err = run_cli("-t", "-c", path)
    assert code == 1 and "%s:4: " % path in err and key in err and '"%s"' % value in err, err
