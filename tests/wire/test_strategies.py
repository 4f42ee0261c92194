"""model_registry.routing_strategy: what happens to a request for a model that no healthy endpoint has."""

import threading
import time

import pytest

from backend import Gate, OllamaBackend, OpenAIBackend, VllmBackend, eventually
from client import dump
from harness import endpoint, rarely_probed, run_cli

CHAT = "/v1/chat/completions"
PATH = "/olla/proxy/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
BASE = "model_registry.routing_strategy."


def strategy(how, fallback=None, refresh=None, timeout=None, **more):
    keys = {BASE + "type": how}
    for name, value in (("fallback_behavior", fallback), ("discovery_refresh_on_miss", refresh), ("discovery_timeout", timeout)):
        if value is not None:
            keys[BASE + "options." + name] = value
    return dict(keys, **more)


def routing(reply):
    return tuple(reply.get("X-Olla-Routing-" + name) for name in ("Strategy", "Decision", "Reason"))


def lists(server):
    return len([r for r in server.probes if r.path == "/v1/models" and "Discovery" in (r.get("User-Agent") or "")])


def stop(proxy, server, model):
    """The server dies, and a request finds that out before the next probe does."""
    server.stop()
    proxy.post(PATH, {"model": model})
    proxy.wait_down(server.name)


def delay(server, seconds):
    """From now on its list takes so long."""
    quick = server.routes["/v1/models"]
    server.on("/v1/models", lambda c, r: (time.sleep(seconds), quick(c, r)))


def held(server, gate):
    """From now on its list comes when the gate opens."""
    quick = server.routes["/v1/models"]
    server.on("/v1/models", lambda c, r: (gate.wait(20), quick(c, r)))


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()


NOT_FOUND = (404, "rejected", "model_not_found")
CASES = {
    # (strategy, fallback, refresh): (found, known but down, unknown) as (status, decision, reason)
    ("strict", None, None): ("model_found", (503, "rejected", "model_unavailable"), NOT_FOUND),
    ("strict", "all", True): ("model_found", (503, "rejected", "model_unavailable"), NOT_FOUND),
    ("optimistic", None, None): ("model_found", (503, "rejected", "model_unavailable_compatible_only"), NOT_FOUND),
    ("optimistic", "compatible_only", True): ("model_found", (503, "rejected", "model_unavailable_compatible_only"), NOT_FOUND),
    ("optimistic", "none", None): ("model_found", (503, "rejected", "model_unavailable_no_fallback"), NOT_FOUND),
    ("optimistic", "all", None): ("model_found", (200, "fallback", "all_healthy_fallback"), (200, "fallback", "model_not_found_fallback")),
    ("discovery", None, None): ("model_found_no_refresh", (503, "rejected", "model_unavailable_no_refresh"), NOT_FOUND),
    ("discovery", "none", False): ("model_found_no_refresh", (503, "rejected", "model_unavailable_no_refresh"), NOT_FOUND),
    ("discovery", "all", False): ("model_found_no_refresh", (503, "rejected", "model_unavailable_no_refresh"), NOT_FOUND),
    ("discovery", "compatible_only", True): ("model_found_no_refresh", (503, "rejected", "model_unavailable_after_discovery"), NOT_FOUND),
    ("discovery", "none", True): ("model_found_no_refresh", (503, "rejected", "model_unavailable_after_discovery"), NOT_FOUND),
    ("discovery", "all", True): ("model_found_no_refresh", (200, "fallback", "all_healthy_after_discovery"),
                                 (200, "fallback", "all_healthy_after_discovery")),
}


@pytest.mark.parametrize("case", list(CASES), ids=lambda case: "-".join(str(part) for part in case))
def test_words(world, case):
    """Scripts and dashboards tell by status, decision and reason why a request went where it went, or nowhere."""
    found, down, unknown = CASES[case]
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m-down"])
    proxy = world.olla({"a": rarely_probed(a), "b": endpoint(b, **FAST)}, strategy(*case))
    reply = proxy.post(PATH, {"model": "m1"})
    assert (reply.status, routing(reply)) == (200, (case[0], "routed", found))
    stop(proxy, b, "m-down")
    for model, wanted in (("m-down", down), ("m-unknown", unknown)):
        a.forget()
        body = dump({"x": 1, "model": model})
        reply = proxy.request("POST", PATH, body, {"Content-Type": "application/json"})
        assert (reply.status,) + routing(reply)[1:] == wanted, model
        assert routing(reply)[0] == case[0]
        if wanted[1] == "fallback":
            assert reply.get("X-Olla-Endpoint") == "a" and reply.get("X-Olla-Model") == model
            assert [call.body for call in a.calls] == [body], "the body goes out as it came"
        else:
            assert a.calls == [] and not reply.has("X-Olla-Endpoint")
            assert reply.json()["error"]["code"] == wanted[2] and model in reply.json()["error"]["message"]


@pytest.mark.parametrize("how,fallback", [("strict", None), ("optimistic", "all"), ("discovery", "all")])
def test_requests_without_a_model(world, how, fallback):
    """No model, no decision: no strategy has a say in it."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on("/v1/x", lambda c, r: c.reply({"ok": 1}))
    proxy = world.olla({"a": a}, strategy(how, fallback, True))
    reply = proxy.post("/olla/proxy/v1/x", {"messages": []})
    assert reply.status == 200 and routing(reply) == (None, None, None)


@pytest.mark.parametrize("how,refresh", [("optimistic", None), ("discovery", True), ("discovery", False)])
@pytest.mark.parametrize("model", ["m1", "m-unknown"])
def test_nothing_healthy(world, how, refresh, model):
    """`all` with no healthy endpoint: 503 at once. 404 would say that the model does not exist (6.5)."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, **FAST)}, strategy(how, "all", refresh, "2s"))
    stop(proxy, a, "m1")
    started = time.monotonic()
    reply = proxy.post(PATH, {"model": model})
    assert reply.status == 503, reply.body
    assert time.monotonic() - started < 1


def test_fallback_stays_on_the_route(world):
    """`all` means all that can serve this route and this API, not the whole house."""
    oll, vl, oai = (world.backend(kind, name, [m]) for kind, name, m in
                    ((OllamaBackend, "oll", "m1"), (VllmBackend, "vl", "m2"), (OpenAIBackend, "oai", "m3")))
    proxy = world.olla({"oll": oll, "vl": vl, "oai": oai}, strategy("optimistic", "all"))

    def ask(path):
        return {proxy.post(path, {"model": "m-unknown"}).get("X-Olla-Endpoint") for _ in range(9)}
    assert ask(PATH) == {"oll", "vl", "oai"}
    assert ask("/olla/vllm" + CHAT) == {"vl"}
    assert ask("/api/chat") == {"oll"} and ask("/olla/proxy/api/chat") == {"oll"}
    reply = proxy.post("/olla/vllm" + CHAT, {"model": "m1"})
    assert (reply.status, routing(reply)[1:]) == (200, ("fallback", "all_healthy_fallback"))
    reply = proxy.post("/olla/lmstudio" + CHAT, {"model": "m1"})
    assert reply.status == 404 and routing(reply)[1] is None


def test_fallback_retries(world):
    """A fallback that fails goes on to the next endpoint like any other request."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m2"])
    a.on(CHAT, lambda c, r: c.rst())
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": rarely_probed(b)},
                       strategy("optimistic", "all", **{"proxy.load_balancer": "priority"}))
    reply = proxy.post(PATH, {"model": "m-unknown"})
    assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, "b") and len(a.calls) == 1
    assert routing(reply)[1:] == ("fallback", "model_not_found_fallback")


def test_alias_without_targets_falls_back(world):
    """An alias that leads nowhere is an ordinary unknown name: with `all` it goes out unchanged (4.2)."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, strategy("optimistic", "all", **{"model_aliases.x": "nope"}))
    reply = proxy.post(PATH, {"model": "x"})
    assert (reply.status, routing(reply)) == (200, ("optimistic", "fallback", "model_not_found_fallback"))
    assert a.calls[0].json() == {"model": "x"}


# ---- discovery with refresh

@pytest.mark.parametrize("fallback", ["compatible_only", "none", "all"])
def test_model_added_after_start(world, fallback):
    """The first request for a model that was just pulled must find it, on the server that has it."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m2"])
    proxy = world.olla({"a": endpoint(a, priority=200), "b": b}, strategy("discovery", fallback, True, **{"proxy.load_balancer": "priority"}))
    delay(a, 0.05), delay(b, 0.15)
    for n in range(3):
        b.models.append("pulled-%d" % n)
        reply = proxy.post(PATH, {"model": "Pulled-%d" % n})
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, "b"), reply.body
        assert routing(reply) == ("discovery", "routed", "model_found")
        assert b.calls[-1].json() == {"model": "pulled-%d" % n}
        reply = proxy.post(PATH, {"model": "pulled-%d" % n})
        assert routing(reply) == ("discovery", "routed", "model_found_no_refresh"), "now it is known"
    assert lists(a) == lists(b) == 4, "once at start and once for each miss"


def test_not_asked_without_a_miss(world):
    """A known model costs no list request, and neither does a miss when the option is off."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, strategy("discovery", refresh=True))
    for _ in range(5):
        assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert lists(a) == 1
    proxy.reload({"a": a}, strategy("discovery", refresh=False))
    eventually(lambda: lists(a) == 2, "a reload reads the list again", 4)
    a.models.append("m2")
    assert proxy.post(PATH, {"model": "m2"}).status == 404
    assert lists(a) == 2


def test_model_removed_and_moved(world):
    """The refresh replaces the lists: a model that moved to another machine is found there and not where it was."""
    a, b = world.backend(OpenAIBackend, "a", ["m1", "moving"]), world.backend(OpenAIBackend, "b", ["m2"])
    proxy = world.olla({"a": a, "b": b}, strategy("discovery", refresh=True))
    assert proxy.post(PATH, {"model": "moving"}).get("X-Olla-Endpoint") == "a"
    a.models.remove("moving")
    b.models += ["moving", "other"]
    assert proxy.post(PATH, {"model": "other"}).get("X-Olla-Endpoint") == "b"
    for _ in range(3):
        assert proxy.post(PATH, {"model": "moving"}).get("X-Olla-Endpoint") == "b"


def test_alias_target_added_after_start(world):
    """The refresh counts for aliases as well."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, strategy("discovery", refresh=True, **{"model_aliases.x": "Pulled"}))
    a.models.append("pulled")
    reply = proxy.post(PATH, {"model": "x"})
    assert (reply.status, routing(reply)) == (200, ("alias", "routed", 'alias "x" resolved to 1 endpoint(s)'))
    assert a.calls[0].json() == {"model": "pulled"}


def test_prefix_and_refresh(world):
    """A model that turns up on a server of another type is there, but not for this prefix."""
    vl, oai = world.backend(VllmBackend, "vl", ["m1"]), world.backend(OpenAIBackend, "oai", ["m2"])
    proxy = world.olla({"vl": vl, "oai": oai}, strategy("discovery", refresh=True))
    oai.models.append("pulled")
    reply = proxy.post("/olla/vllm" + CHAT, {"model": "pulled"})
    assert (reply.status, routing(reply)) == (503, ("discovery", "rejected", "model_unavailable_after_discovery"))
    vl.models.append("pulled-2")
    assert proxy.post("/olla/vllm" + CHAT, {"model": "pulled-2"}).get("X-Olla-Endpoint") == "vl"


@pytest.mark.parametrize("same", [True, False], ids=["one-name", "many-names"])
def test_concurrent_misses(world, same):
    """A client that retries an unknown name from twenty threads must not become twenty list requests per server."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m2"])
    proxy = world.olla({"a": a, "b": b}, strategy("discovery", refresh=True, timeout="5s"))
    delay(a, 0.3), delay(b, 0.3)
    before = lists(a), lists(b)
    b.models.append("new-0")
    answers = []

    def ask(n):
        reply = proxy.post(PATH, {"model": "new-0" if same else "new-%d" % n})
        answers.append((n, reply.status, routing(reply)[2]))
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 20
    assert lists(a) - before[0] <= 3 and lists(b) - before[1] <= 3, "one refresh serves all that wait for it"
    for n, status, reason in answers:
        assert (status, reason) in ([(200, "model_found"), (200, "model_found_no_refresh")] if same or n == 0 else [(404, "model_not_found")])


def quiet(server, **keys):
    """A server whose health page is not its list, and that is looked at once."""
    return rarely_probed(server, type="llamacpp", **keys)


@pytest.mark.parametrize("fallback,status", [("compatible_only", (404, 503)), ("none", (404, 503)), ("all", (200,))])
def test_slow_list(world, gate, fallback, status):
    """The answer to a typo must not take as long as the slowest machine: discovery_timeout bounds it, for every miss.
    Before that nobody knows, so `all` may not fall back yet."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m2"])
    proxy = world.olla({"a": quiet(a), "b": quiet(b)}, strategy("discovery", fallback, True, "500ms"))
    held(b, gate)
    took = []
    for _ in range(2):
        started = time.monotonic()
        reply = proxy.post(PATH, {"model": "m-unknown"})
        took.append(time.monotonic() - started)
        assert reply.status in status, reply.body
        for model in ("m1", "m2"):
            started = time.monotonic()
            assert proxy.post(PATH, {"model": model}).status == 200
            assert time.monotonic() - started < 0.3, "what is known is served meanwhile"
    assert 0.3 < took[0] < 1.2 and took[1] < 1.2, took
    assert lists(b) <= 3


def test_quick_list_beside_a_slow_one(world, gate):
    """One machine hangs with its list: a model that was pulled on the other is found, without waiting, every time."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m2"])
    proxy = world.olla({"a": quiet(a), "b": quiet(b)}, strategy("discovery", "compatible_only", True, "2s"))
    held(b, gate)
    for n in range(3):
        a.models.append("pulled-%d" % n)
        started = time.monotonic()
        reply = proxy.post(PATH, {"model": "pulled-%d" % n})
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, "a"), "%d: %r" % (n, reply.body)
        assert time.monotonic() - started < 0.5, n
    b.models.append("late")
    gate.open()
    assert proxy.post(PATH, {"model": "late"}).get("X-Olla-Endpoint") == "b"


def test_broken_list(world):
    """A server whose list fails on the refresh: the truth about the others, and its old models stay."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m2"])
    proxy = world.olla({"a": quiet(a), "b": quiet(b)}, strategy("discovery", refresh=True, timeout="5s"))
    for broken in (lambda c, r: c.rst(), lambda c, r: c.reply(b"<html>", ctype="text/html"), lambda c, r: c.reply({"error": "x"}, 500)):
        b.on("/v1/models", broken)
        started = time.monotonic()
        assert proxy.post(PATH, {"model": "m-unknown"}).status in (404, 503)
        assert time.monotonic() - started < 2
        assert proxy.post(PATH, {"model": "m2"}).get("X-Olla-Endpoint") == "b"


def test_client_leaves_during_the_refresh(world, gate):
    """A client that gives up while the lists are read leaves nothing behind."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": quiet(a)}, strategy("discovery", refresh=True, timeout="20s"))
    held(a, gate)
    for _ in range(5):
        client = world.client(proxy)
        client.start_post(PATH, {"model": "m-unknown"})
        client.close()
    eventually(lambda: proxy.pool("exchanges")["used"] == proxy.pool("clients")["used"] == 1,
               "no client is left although the list is still awaited", 2)
    gate.open()
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert proxy.post(PATH, {"model": "m-unknown"}).status == 404


# ---- configuration

@pytest.mark.parametrize("key,value,allowed", [
    ("type", "lenient", ("strict", "optimistic", "discovery")), ("options.fallback_behavior", "al", ("compatible_only", "none", "all")),
    ("options.discovery_timeout", "soon", ("duration",)), ("options.discovery_timeout", "-1s", ("duration",)),
    ("options.discovery_refresh_on_miss", "maybe", ("true", "false"))])
def test_wrong_values(tmp_path, binary, key, value, allowed):
    """In the reference a typo in fallback_behavior means `all`: every unknown model goes anywhere."""
    section, _, name = (BASE + key).rpartition(".")
    path = tmp_path / "my.ini"
    path.write_text("[server]\nport = 1\n[%s]\n%s = %s\n" % (section, name, value))
    code, _, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert code == 1
    said = [line for line in err.splitlines() if line.startswith("%s:4: %s%s" % (path, BASE, key))]
    assert said and '"%s"' % value in said[0] and all(word in said[0] for word in allowed), err


def test_reload_changes_the_strategy(world):
    """The strategy of the next request is the one of the new file."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a})
    assert proxy.post(PATH, {"model": "m-unknown"}).status == 404
    proxy.reload({"a": a}, strategy("optimistic", "all"))
    eventually(lambda: routing(proxy.post(PATH, {"model": "m-unknown"})) == ("optimistic", "fallback", "model_not_found_fallback"),
               "the fallback is used", 4, 0.02)
    proxy.reload({"a": a}, strategy("strict"))
    eventually(lambda: proxy.post(PATH, {"model": "m-unknown"}).status == 404, "strict again", 4, 0.02)
