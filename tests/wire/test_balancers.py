"""The three balancers: order, rotation and tiers exactly as configured."""

import threading
import time

import pytest

from backend import Gate, OpenAIBackend, eventually
from harness import endpoint

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"


def servers(world, names, models=("m1",)):
    return {name: world.backend(OpenAIBackend, name, models) for name in names}


def ask(proxy, model="m1", client=None):
    reply = (client or proxy).post(PATH, {"model": model})
    assert reply.status == 200, reply.body
    return reply.get("X-Olla-Endpoint")


def is_rotation(seen, order):
    start = order.index(seen[0])
    return seen == [order[(start + n) % len(order)] for n in range(len(seen))]


def test_round_robin_in_configuration_order(world):
    """The reference picks at random here; a real rotation spreads load evenly and can be predicted."""
    order = ["delta", "alpha", "charlie", "bravo"]
    proxy = world.olla(servers(world, order), {"proxy.load_balancer": "round-robin"})
    seen = [ask(proxy) for _ in range(13)]
    assert is_rotation(seen, order), seen


def test_round_robin_on_one_connection(world):
    """Every request is balanced, not every connection."""
    order = ["a", "b", "c"]
    proxy = world.olla(servers(world, order), {"proxy.load_balancer": "round-robin"})
    client = world.client(proxy)
    seen = [ask(proxy, client=client) for _ in range(9)]
    assert is_rotation(seen, order), seen


def test_round_robin_skips_those_without_the_model(world):
    """Only candidates rotate; the others must not cause a skew so large that one is never asked."""
    group = servers(world, ["a", "b", "c"])
    other = world.backend(OpenAIBackend, "x", ["m-other"])
    proxy = world.olla({"a": group["a"], "x": other, "b": group["b"], "c": group["c"]}, {"proxy.load_balancer": "round-robin"})
    seen = [ask(proxy) for _ in range(12)]
    assert {name: seen.count(name) for name in seen} == {"a": 4, "b": 4, "c": 4}
    # alternating models must not lock two endpoints into step with the counter
    seen = []
    for _ in range(12):
        seen.append(ask(proxy))
        assert ask(proxy, "m-other") == "x"
    assert all(seen.count(name) >= 2 for name in "abc"), seen


def test_round_robin_after_a_failure(world):
    """A dead member leaves the rotation to the others without a gap."""
    group = servers(world, ["a", "b", "c"])
    proxy = world.olla({n: endpoint(s, check_interval="1s", check_timeout="500ms") for n, s in group.items()},
                       {"proxy.load_balancer": "round-robin"})
    group["b"].stop()
    for _ in range(6):
        assert ask(proxy) in ("a", "c")
    proxy.wait_down("b")
    seen = [ask(proxy) for _ in range(6)]
    assert is_rotation(seen, ["a", "c"]), seen


def test_least_connections(world):
    """Requests that run long must push new ones to idle servers."""
    group = servers(world, ["a", "b", "c"])
    gates = {name: Gate() for name in group}
    for name, server in group.items():
        server.on(CHAT, lambda c, r, name=name: (gates[name].wait(20), c.reply({"served_by": name})))
    proxy = world.olla(group, {"proxy.load_balancer": "least-connections"})
    held = []
    for n in range(3):
        client = world.client(proxy)
        client.start_post(PATH, {"model": "m1"})
        held.append(client)
        eventually(lambda: sum(len(s.calls) for s in group.values()) == n + 1, "request %d arrived" % n)
    assert {name: len(s.calls) for name, s in group.items()} == {"a": 1, "b": 1, "c": 1}
    gates["b"].open()  # only b is free again
    eventually(lambda: proxy.endpoint("b")["connections"] == 0, "b is idle")
    seen = []
    for _ in range(4):
        client = world.client(proxy)
        seen.append(ask(proxy, client=client))
    assert seen == ["b"] * 4
    assert [proxy.endpoint(n)["connections"] for n in "abc"] == [1, 0, 1]
    for gate in gates.values():
        gate.open()
    assert sorted(client.read_response("POST").get("X-Olla-Endpoint") for client in held) == ["a", "b", "c"]


def test_least_connections_ties_rotate(world):
    """With all idle, a fixed tie-break sends everything to the first server."""
    order = ["a", "b", "c"]
    proxy = world.olla(servers(world, order), {"proxy.load_balancer": "least-connections"})
    seen = [ask(proxy) for _ in range(12)]
    assert {name: seen.count(name) for name in order} == {"a": 4, "b": 4, "c": 4}, seen


def test_least_connections_is_the_default(world):
    """The default must be the documented one."""
    proxy = world.olla(servers(world, ["a"]))
    assert proxy.status()["proxy"]["balancer"] == "least-connections"


def test_least_connections_counts_streams_to_their_end(world):
    """A stream is a running request until its last byte, not until its head."""
    group = servers(world, ["a", "b"])
    gate = Gate()

    def stream(conn, request):
        conn.start_chunked()
        conn.chunk("data: 1\n\n")
        gate.wait(20)
        conn.end_chunks()
    group["a"].on(CHAT, stream)
    proxy = world.olla({"a": group["a"], "b": group["b"]})
    client = None
    for _ in range(2):  # the rotation may start with b
        client = world.client(proxy)
        client.start_post(PATH, {"model": "m1"})
        head = client.read_head("POST")
        if head.get("X-Olla-Endpoint") == "a":
            break
        head.read_rest()
    assert head.get("X-Olla-Endpoint") == "a"
    head.read_piece()
    assert [ask(proxy) for _ in range(5)] == ["b"] * 5
    gate.open()
    head.read_rest()
    assert head.complete
    eventually(lambda: proxy.endpoint("a")["connections"] == 0, "the stream is no longer counted", 3)


def test_connection_count_after_failures(world):
    """Counts that are not taken back after errors and cancels starve a server for ever."""
    group = servers(world, ["a"])
    proxy = world.olla(group)
    group["a"].on(CHAT, lambda c, r: c.rst())
    for _ in range(5):
        proxy.post(PATH, {"model": "m1"})
    group["a"].on(CHAT, lambda c, r: c.wait_close(10))
    for _ in range(5):
        client = world.client(proxy)
        client.start_post(PATH, {"model": "m1"})
        time.sleep(0.03)
        client.reset()
    eventually(lambda: proxy.endpoint("a")["connections"] == 0, "the count is back at zero", 3)


def test_priority_tiers(world):
    """The best machine gets everything while it lives; the next tier only when it does not."""
    group = servers(world, ["low", "high", "mid"])
    fast = {"check_interval": "1s", "check_timeout": "500ms"}
    proxy = world.olla({"low": endpoint(group["low"], priority=0, **fast), "high": endpoint(group["high"], priority=200, **fast),
                        "mid": endpoint(group["mid"], **fast)}, {"proxy.load_balancer": "priority"})
    assert [ask(proxy) for _ in range(5)] == ["high"] * 5
    group["high"].stop()
    assert [ask(proxy) for _ in range(5)] == ["mid"] * 5
    group["mid"].stop()
    assert [ask(proxy) for _ in range(5)] == ["low"] * 5
    group["high"].start()
    proxy.wait_state("high", "healthy", timeout=20)
    assert [ask(proxy) for _ in range(5)] == ["high"] * 5


def test_priority_spreads_within_a_tier(world):
    """Equal machines share: the reference piles all load on one (issue 92)."""
    group = servers(world, ["a", "b", "spare"])
    proxy = world.olla({"a": endpoint(group["a"], priority=50), "b": endpoint(group["b"], priority=50),
                        "spare": endpoint(group["spare"], priority=10)}, {"proxy.load_balancer": "priority"})
    seen = [ask(proxy) for _ in range(10)]
    assert {name: seen.count(name) for name in seen} == {"a": 5, "b": 5}, seen


@pytest.mark.parametrize("balancer", ["round-robin", "least-connections", "priority"])
def test_concurrent_requests_spread(world, balancer):
    """Thirty requests at once over three equal servers: none may get none or nearly all."""
    group = servers(world, ["a", "b", "c"])
    for server in group.values():
        server.on(CHAT, lambda c, r: (time.sleep(0.1), c.reply({"served_by": c.backend.name})))
    proxy = world.olla(group, {"proxy.load_balancer": balancer})
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(ask(proxy))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(seen) == 30
    assert all(5 <= seen.count(name) <= 15 for name in "abc"), {name: seen.count(name) for name in "abc"}
