"""Uneven machines: `weight` in all three balancers, over time and at once, and no burst for a machine that comes back."""

import pytest

from backend import MARK, Gate, LlamaBackend, OpenAIBackend, eventually
from harness import endpoint, run_cli

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
BALANCERS = ["round-robin", "least-connections", "priority"]
FAST = {"check_interval": "1s", "check_timeout": "500ms"}


class Server(LlamaBackend):
    """llama.cpp-like, without the paths that tell its load. Its calls are what clients sent, whatever olla asks by itself."""

    @property
    def calls(self):
        return [call for call in super().calls if call.method == "POST" or call.has(MARK)]


def settings(balancer, **more):
    return dict({"proxy.load_balancer": balancer, "proxy.sticky_sessions.enabled": False}, **more)


class Fleet:
    """Servers a, b, c... with these weights."""

    def __init__(self, world, weights, models=None, **keys):
        self.world, self.keys = world, keys
        self.weights = dict(zip("abcdefgh", weights))
        self.servers = {name: world.backend(Server, name, (models or {}).get(name, ["m1"])) for name in self.weights}

    def spec(self, **extra):
        """Their endpoint sections; extra: {name: more keys of that section}."""
        return {name: endpoint(server, **dict({"weight": self.weights[name]}, **dict(self.keys, **extra.get(name, {}))))
                for name, server in self.servers.items()}

    def start(self, balancer, **extra):
        self.proxy = self.world.olla(self.spec(**extra), settings(balancer))
        self.client = self.world.client(self.proxy)
        return self.proxy

    def ask(self, model="m1"):
        reply = self.client.post(PATH, {"model": model})
        assert reply.status == 200, reply.body
        return reply.get("X-Olla-Endpoint")

    def run(self, count, model="m1"):
        return [self.ask(model) for _ in range(count)]

    def calls(self):
        return {name: len(server.calls) for name, server in self.servers.items()}


def counts(seen):
    return {name: seen.count(name) for name in sorted(set(seen))}


def longest_run(seen, name):
    best = run = 0
    for one in seen:
        run = run + 1 if one == name else 0
        best = max(best, run)
    return best


def is_rotation(seen, order):
    start = order.index(seen[0])
    return seen == [order[(start + n) % len(order)] for n in range(len(seen))]


# ---- shares over time

@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("weights", [(3, 1, 1), (1, 3, 1), (1, 1, 3)], ids=str)
def test_shares_follow_the_weights(world, balancer, weights):
    """A machine three times as fast, wherever it stands in the file, gets three times as many requests."""
    fleet = Fleet(world, weights)
    fleet.start(balancer)
    seen = fleet.run(60)
    for name, weight in fleet.weights.items():
        assert abs(seen.count(name) - 12 * weight) <= 2, counts(seen)
    # evenly: in each stretch of ten, about as many as in any other
    for start in range(0, 50):
        stretch = seen[start:start + 10]
        for name, weight in fleet.weights.items():
            assert abs(stretch.count(name) - 2 * weight) <= 1, (start, seen)


@pytest.mark.parametrize("balancer", BALANCERS)
def test_uneven_pair(world, balancer):
    """3:1 is A A B A or the like, over and over."""
    fleet = Fleet(world, (3, 1))
    fleet.start(balancer)
    seen = fleet.run(40)
    assert abs(seen.count("b") - 10) <= 1, seen
    assert longest_run(seen, "b") == 1 and longest_run(seen[4:], "a") <= 3, seen


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("weight", [1, 2, 1000])
def test_equal_weights_rotate(world, balancer, weight):
    """Equal is equal: a b c, not a thousand times a first."""
    fleet = Fleet(world, (weight,) * 3)
    fleet.start(balancer)
    seen = fleet.run(15)
    assert is_rotation(seen, ["a", "b", "c"]), seen


def test_default_weight_is_one(world):
    """An endpoint without the setting is a machine like any other."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    proxy = world.olla({"a": endpoint(a, weight=2), "b": b}, settings("round-robin"))
    seen = [proxy.post(PATH, {"model": "m1"}).get("X-Olla-Endpoint") for _ in range(12)]
    assert counts(seen) == {"a": 8, "b": 4}, seen


@pytest.mark.parametrize("balancer", BALANCERS)
def test_extreme_weights(world, balancer):
    """1000:1 starves nobody for ever and overflows nothing."""
    fleet = Fleet(world, (1000, 1))
    fleet.start(balancer)
    seen = fleet.run(100)
    assert seen.count("a") >= 98, counts(seen)


def test_weights_do_not_cross_tiers(world):
    """Priority comes first: a weight of 1000 lifts nobody into a better tier."""
    fleet = Fleet(world, (1, 3, 1000))
    fleet.start("priority", a={"priority": 200}, b={"priority": 200}, c={"priority": 100})
    seen = fleet.run(40)
    assert "c" not in seen and abs(seen.count("b") - 30) <= 1, counts(seen)


@pytest.mark.parametrize("balancer", BALANCERS)
def test_shares_of_the_rest(world, balancer):
    """With one machine gone the others share by their own weights."""
    fleet = Fleet(world, (5, 3, 1))
    fleet.start(balancer)
    fleet.run(9)
    fleet.servers["a"].stop()
    fleet.run(3)
    fleet.proxy.wait_down("a")
    seen = fleet.run(40)
    assert abs(seen.count("b") - 30) <= 2 and abs(seen.count("c") - 10) <= 2, counts(seen)


def test_pins_ignore_weights(world):
    """Who names a machine gets it, however light it is."""
    fleet = Fleet(world, (1000, 1))
    proxy = fleet.start("round-robin")
    for _ in range(10):
        assert proxy.post(PATH, {"model": "m1"}, {"X-Olla-Endpoint": "b"}).get("X-Olla-Endpoint") == "b"


@pytest.mark.parametrize("balancer", BALANCERS)
def test_reload_changes_weights(world, balancer):
    """New weights hold from the reload on."""
    fleet = Fleet(world, (1, 1))
    proxy = fleet.start(balancer)
    assert counts(fleet.run(10)) == {"a": 5, "b": 5}
    fleet.weights = {"a": 1, "b": 4}
    other = world.backend(OpenAIBackend, "x", ["m-x"])
    proxy.reload(dict(fleet.spec(), x=other), settings(balancer))
    proxy.wait_healthy({"a": 1, "b": 1, "x": 1})
    seen = fleet.run(50)
    assert abs(seen.count("b") - 40) <= 2, counts(seen)


# ---- requests that run at once

@pytest.mark.parametrize("balancer", BALANCERS)
def test_concurrent_shares(world, balancer):
    """Ten long requests: the big machine works on six, the small ones on two each; and on the way there nobody is ahead of his share."""
    fleet = Fleet(world, (3, 1, 1))
    gate = Gate()
    for server in fleet.servers.values():
        server.on(CHAT, lambda c, r: (gate.wait(20), c.reply({"served_by": c.backend.name})))
    proxy = fleet.start(balancer)
    clients = [world.client(proxy) for _ in range(10)]
    for n, client in enumerate(clients):
        client.start_post(PATH, {"model": "m1"})
        eventually(lambda: sum(fleet.calls().values()) == n + 1, "request %d arrived" % n)
        if n == 4 and balancer != "round-robin":
            assert fleet.calls() == {"a": 3, "b": 1, "c": 1}
    assert fleet.calls() == {"a": 6, "b": 2, "c": 2}
    gate.open()
    for client in clients:
        assert client.read_response("POST").status == 200


@pytest.mark.parametrize("balancer", ["least-connections", "priority"])
def test_running_requests_by_weight(world, balancer):
    """With two on the big machine of weight four, an idle small one is next: 0 is less than 2/4. With one on the small one it
    is the big one's turn: 2/4 is less than 1/1."""
    fleet = Fleet(world, (4, 1))
    gate = Gate()
    proxy = fleet.start(balancer)
    for server in fleet.servers.values():
        server.on(CHAT, lambda c, r: (gate.wait(20), c.reply({"served_by": c.backend.name})))
    clients = []

    def hold(pin=None):
        client = world.client(proxy)
        clients.append(client)
        before = sum(fleet.calls().values())
        client.start_post(PATH, {"model": "m1"}, {"X-Olla-Endpoint": pin} if pin else {})
        eventually(lambda: sum(fleet.calls().values()) == before + 1, "the request arrived")
    hold("a")
    hold("a")
    hold()
    assert fleet.calls() == {"a": 2, "b": 1}
    hold()
    hold()
    assert fleet.calls() == {"a": 4, "b": 1}
    gate.open()
    for client in clients:
        assert client.read_response("POST").status == 200


def test_least_connections_goes_on_by_load_after_an_end(world):
    """Shares are of what runs now, not of what was sent before: the machine that gets free is next, whatever its weight."""
    fleet = Fleet(world, (3, 1, 1))
    gates = {name: Gate() for name in "abc"}
    proxy = fleet.start("least-connections")
    for server in fleet.servers.values():
        server.on(CHAT, lambda c, r: (gates[c.backend.name].wait(20), c.reply({"served_by": c.backend.name})))
    clients = [world.client(proxy) for _ in range(5)]
    for n, client in enumerate(clients):
        client.start_post(PATH, {"model": "m1"})
        eventually(lambda: sum(fleet.calls().values()) == n + 1, "request %d arrived" % n)
    gates["c"].open()
    eventually(lambda: proxy.endpoint("c")["connections"] == 0, "c is idle")
    assert fleet.run(4) == ["c"] * 4
    for gate in gates.values():
        gate.open()
    for client in clients:
        assert client.read_response("POST").status == 200


# ---- coming back

@pytest.mark.parametrize("balancer", BALANCERS)
def test_no_burst_after_a_limit(world, balancer):
    """A machine that could not be asked for a while owes nothing: everything at once would put it out of breath again."""
    weights = (3, 2, 1)
    fleet = Fleet(world, weights, health="passive")
    server = fleet.servers["b"]
    replies = [lambda c, r: c.reply({}, 429, headers={"Retry-After": "1"})]
    server.on(CHAT, lambda c, r: (replies.pop() if replies else server.chat)(c, r))
    proxy = fleet.start(balancer)
    fleet.run(4 * sum(weights))  # b refuses its first one
    assert len(server.calls) == 1, "the test was too slow, or b was asked although it is limited"
    fleet.run(60)
    eventually(lambda: proxy.endpoint("b")["limited_for_ms"] == 0, "the limit is over", 8)
    seen = fleet.run(4 * sum(weights))
    assert longest_run(seen, "b") <= 2, seen
    assert abs(seen.count("b") - 4 * weights[1]) <= 2, counts(seen)


def test_no_burst_after_an_outage(world):
    """The same for a machine that was switched off for a hundred requests."""
    fleet = Fleet(world, (1, 1, 1), **FAST)
    proxy = fleet.start("round-robin")
    fleet.run(3)
    fleet.servers["b"].stop()
    fleet.run(3)
    proxy.wait_down("b")
    fleet.run(100)
    fleet.servers["b"].start()
    proxy.wait_state("b", "healthy", timeout=20)
    seen = fleet.run(12)
    assert counts(seen) == {"a": 4, "b": 4, "c": 4} and longest_run(seen, "b") == 1, seen


@pytest.mark.parametrize("balancer", BALANCERS)
def test_no_burst_after_requests_for_other_models(world, balancer):
    """A machine that lacks a model was not passed over: it has nothing to make up for."""
    fleet = Fleet(world, (1, 1, 1), {"a": ["m1", "m2"], "b": ["m1", "m2"], "c": ["m1"]})
    fleet.start(balancer)
    fleet.run(60, "m2")
    seen = fleet.run(12)
    assert all(3 <= seen.count(name) <= 5 for name in "abc") and longest_run(seen, "c") <= 2, seen


@pytest.mark.parametrize("balancer", BALANCERS)
def test_no_burst_for_a_new_endpoint(world, balancer):
    """An endpoint added by a reload takes its share, not the whole traffic."""
    fleet = Fleet(world, (1, 1, 1))
    spec = fleet.spec()
    first = {name: spec[name] for name in "ab"}
    proxy = world.olla(first, settings(balancer))
    fleet.proxy, fleet.client = proxy, world.client(proxy)
    fleet.run(60)
    proxy.reload(spec, settings(balancer))
    proxy.wait_healthy({"a": 1, "b": 1, "c": 1})
    seen = fleet.run(12)
    assert all(3 <= seen.count(name) <= 5 for name in "abc") and longest_run(seen, "c") <= 2, seen


@pytest.mark.parametrize("balancer", BALANCERS)
def test_two_models_share_fairly(world, balancer):
    """Requests for two models in turn: neither may be locked in step with one machine."""
    fleet = Fleet(world, (2, 1), {"a": ["m1", "m2"], "b": ["m1", "m2"]})
    fleet.start(balancer)
    seen = [(model, fleet.ask(model)) for _ in range(30) for model in ("m1", "m2")]
    total = [name for _, name in seen]
    assert abs(total.count("a") - 40) <= 2, counts(total)


# ---- settings

@pytest.mark.parametrize("value", ["0", "1001", "many", "-1", "1.5", "3:1"])
def test_bad_weights(binary, tmp_path, value):
    """Nought is `enabled = false`, not a weight; a typing error must be told with file and line."""
    path = tmp_path / "a.ini"
    path.write_text("[server]\nport = 5\n\n[endpoint:a]\nurl = http://127.0.0.1:1\nweight = %s\n" % value)
    code, out, err = run_cli("-t", "-c", path)
    assert code == 1 and out.splitlines()[-1].endswith("is not valid")
    assert "%s:6: " % path in err and "weight" in err and '"%s"' % value in err and "1000" in err, err


@pytest.mark.parametrize("value", ["1", "1000"])
def test_good_weights(binary, tmp_path, value):
    """The limits themselves are allowed."""
    path = tmp_path / "a.ini"
    path.write_text("[endpoint:a]\nurl = http://127.0.0.1:1\nweight = %s\n" % value)
    code, _, err = run_cli("-t", "-c", path)
    assert code == 0 and "weight" not in err, err


def test_bad_weight_ends_the_start(binary, tmp_path):
    """Not only the check: the program itself must refuse to run with it."""
    path = tmp_path / "a.ini"
    path.write_text("[endpoint:a]\nurl = http://127.0.0.1:1\nweight = 0\n")
    code, _, err = run_cli("-c", path, timeout=10)
    assert code == 1 and "%s:3: " % path in err
