"""What is loaded and who is busy: asked where a server can tell, and a preference, never a condition."""

import time

import pytest

from backend import Gate, eventually, hold
from harness import World, endpoint
from servers import Compatible, Litellm, Llamacpp, LmStudio, Ollama, Sglang, Vllm

CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
NO_STICKY = {"proxy.sticky_sessions.enabled": False}
PATIENCE = 12  # until an answer of a poll has been asked for, and counts
POLLS = ("/api/ps", "/slots", "/metrics", "/props", "/api/v0/models", "/v1/models/status")


def ask(proxy, model="m1", **headers):
    reply = proxy.post(CHAT, {"model": model}, headers)
    assert reply.status == 200, reply.body
    return reply.get("X-Olla-Endpoint")


def all_to(proxy, name, model="m1"):
    """Wait until all requests go to one endpoint; balanced ones never would."""
    seen = []

    def check():
        seen[:] = [ask(proxy, model) for _ in range(4)]
        return seen == [name] * 4
    try:
        eventually(check, "all requests go to " + name, PATIENCE, 0.05)
    except AssertionError:
        raise AssertionError("requests went to %r, not all to %s" % (seen, name)) from None


def all_over(proxy, names, model="m1"):
    """Wait until requests are balanced over these endpoints and no others."""
    eventually(lambda: {ask(proxy, model) for _ in range(2 * len(names) + 2)} == set(names), "requests go to all of %r" % (names,), PATIENCE, 0.05)


def asked(server, path):
    return [r for r in server.requests if r.method == "GET" and r.path == path]


# ---- each type

def test_ollama_loaded(world):
    """A machine that must load 40 GB first answers minutes later than the one next to it that has them in memory."""
    group = {name: world.backend(Ollama, name, ["m1", "m2"]) for name in "abc"}
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, NO_STICKY)
    all_over(proxy, "abc")
    group["b"].loaded = ["m1"]
    group["c"].loaded = ["m2"]
    all_to(proxy, "b")
    all_to(proxy, "c", "m2")
    group["b"].loaded, group["a"].loaded = [], ["m1"]
    all_to(proxy, "a")
    group["c"].loaded = ["m2", "m1"]
    all_over(proxy, "ac")
    assert ask(proxy, **{"X-Olla-Endpoint": "b"}) == "b", "a preference: who names a machine gets it"


def test_ollama_spellings(world):
    """`m1` is `m1:latest` there, and capitals differ: it is loaded all the same."""
    group = {name: world.backend(Ollama, name, ["Org/M1:latest"]) for name in "ab"}
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, dict(NO_STICKY, **{"model_aliases.nick": "org/m1"}))
    group["b"].loaded = [{"name": "Org/M1:latest", "model": "Org/M1:latest"}]
    for model in ("Org/M1:latest", "org/m1", "nick"):
        all_to(proxy, "b", model)


def test_ollama_loaded_and_busy(world):
    """Behind three others the loaded machine is slower than an idle one that loads; when all are busy it is the better one again."""
    group = {name: world.backend(Ollama, name, ["m1"]) for name in "ab"}
    gate = Gate()
    for server in group.values():
        server.on("/api/chat", lambda c, r: (gate.wait(30), c.reply({})))
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, NO_STICKY)
    group["a"].loaded = ["m1"]
    all_to(proxy, "a")
    held = []

    def add(name, count):
        for _ in range(count):
            client = world.client(proxy)
            client.start_post("/api/chat", {"model": "m1", "stream": False}, {"X-Olla-Endpoint": name})
            held.append(client)
        eventually(lambda: proxy.endpoint(name)["connections"] == count, "%s is busy" % name)
    add("a", 4)
    assert [ask(proxy) for _ in range(3)] == ["b"] * 3
    add("b", 4)
    assert [ask(proxy) for _ in range(3)] == ["a"] * 3
    gate.open()
    for client in held:
        assert client.read_response("POST").status == 200
    all_to(proxy, "a")


class Slots(Llamacpp):
    """llama-server whose slots are taken by others."""
    taken = 0

    def slots_reply(self):
        return [{"id": n, "id_task": 7 if n < self.taken else -1, "n_ctx": 16384, "speculative": False, "is_processing": n < self.taken,
                 "params": {"is_processing": True, "stop": ["is_processing\":true"]}, "next_token": [{"has_next_token": True, "n_remain": -1}]}
                for n in range(self.slots)]


def test_llamacpp_slots(world):
    """All slots taken by somebody who does not come through olla: the request would wait there, and not next door."""
    group = {name: world.backend(Slots, name, ["m1"]) for name in "ab"}
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, NO_STICKY)
    all_over(proxy, "ab")
    group["a"].taken = 4
    all_to(proxy, "b")
    group["a"].taken, group["b"].taken = 0, 4
    all_to(proxy, "a")
    group["a"].taken = 4
    all_over(proxy, "ab")


METRICS = {
    Vllm: ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    Sglang: ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
}
NOISE = "".join("# HELP m%d a histogram\n# TYPE m%d histogram\n" % (n, n) + "".join(
    'm%d_bucket{le="%d.0",model_name="m1",note="a \\"quoted\\" } \\\\ value 9"} %d.0\n' % (n, b, b * 7) for b in range(20)) for n in range(60))


def metrics(server, running, waiting, template="%s{model_name=\"m1\"} %s\n", noise=NOISE):
    """The page as the server writes it: much else, comments, and names that only begin alike."""
    names = METRICS[type(server)]
    lines = noise
    for name, value in zip(names, (running, waiting)):
        lines += "# HELP %s Number of requests 77.\n# TYPE %s gauge\n" % (name, name)
        lines += template % (name, value)
        lines += "%s_total{model_name=\"m1\"} 99.0\n%s_by_reason{reason=\"capacity\"} 55.0\nx_%s{} 44\n" % (name, name, name)
    lines += noise
    server.on("/metrics", lambda c, r: c.reply(lines, ctype="text/plain; version=0.0.4; charset=utf-8"))


def test_metrics(world):
    """A vLLM that works for a batch job at night is full, though olla sent nothing there."""
    pairs = {kind.type: [world.backend(kind, kind.type + n, ["m-" + kind.type]) for n in "12"] for kind in METRICS}
    for server in sum(pairs.values(), []):
        metrics(server, "0.0", "0.0")
    proxy = world.olla({server.name: endpoint(server, **FAST) for server in sum(pairs.values(), [])}, NO_STICKY)
    for name, pair in pairs.items():
        all_over(proxy, [server.name for server in pair], "m-" + name)
        metrics(pair[0], "64.0", "12.0")
    for name, pair in pairs.items():
        all_to(proxy, pair[1].name, "m-" + name)
        metrics(pair[0], "0.0", "0.0", '%s{engine="0",model_name="a} 50 \\" b"} %s\n')
        metrics(pair[1], "6.4e+01", "1.2e+01", '%s{engine="0",model_name="m1"} %s\n')
    for name, pair in pairs.items():
        all_to(proxy, pair[0].name, "m-" + name)
        metrics(pair[1], "0", "0", "%s %s\n")
    for name, pair in pairs.items():
        all_over(proxy, [server.name for server in pair], "m-" + name)


def test_metrics_with_times(world):
    """The format allows a time behind the value; a collector in between writes it."""
    group = {name: world.backend(Vllm, name, ["m1"]) for name in "ab"}
    for server, running in zip(group.values(), ("64.0", "0.0")):
        metrics(server, running, running, '%s{model_name="m1"} %s 1700000000000\n')
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, NO_STICKY)
    all_to(proxy, "b")


def test_lm_studio_state(world):
    """LM Studio says in its list what is loaded."""
    group = {name: world.backend(LmStudio, name, ["m1", "m2"]) for name in "ab"}
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, NO_STICKY)
    group["b"].facts["m1"] = {"state": "loaded"}
    all_to(proxy, "b")
    group["a"].facts["m1"] = {"state": "loaded"}
    group["b"].facts["m1"] = {"state": "not-loaded"}
    all_to(proxy, "a")
    all_over(proxy, "ab", "m2")


# ---- the order among different types

def test_order(world):
    """Loaded and idle, idle, loaded and busy: in this order, over all types."""
    llama, ollama = world.backend(Slots, "llama", ["m1"]), world.backend(Ollama, "ollama", ["m1"])
    proxy = world.olla({"ollama": endpoint(ollama, **FAST), "llama": endpoint(llama, **FAST)}, NO_STICKY)
    all_to(proxy, "llama")  # always loaded, and idle
    llama.taken = 4
    all_to(proxy, "ollama")  # idle before loaded and busy
    llama.taken = 0
    all_to(proxy, "llama")
    ollama.loaded = ["m1"]
    all_over(proxy, ["llama", "ollama"])
    llama.taken = 4
    all_to(proxy, "ollama")


def test_tier_before_loaded(world):
    """The operator's order of machines stands above what happens to be in their memory."""
    fast, slow = world.backend(Ollama, "fast", ["m1"]), world.backend(Ollama, "slow", ["m1"])
    other = world.backend(Ollama, "other", ["m1"])
    proxy = world.olla({"fast": endpoint(fast, priority=200, **FAST), "slow": endpoint(slow, **FAST), "other": endpoint(other, priority=200, **FAST)},
                       dict(NO_STICKY, **{"proxy.load_balancer": "priority"}))
    slow.loaded = other.loaded = ["m1"]
    all_to(proxy, "other")  # inside the tier it counts
    other.loaded = []
    all_over(proxy, ["fast", "other"])
    assert eventually(lambda: len(asked(slow, "/api/ps")) >= 2, "slow was asked", PATIENCE)
    assert "slow" not in {ask(proxy) for _ in range(6)}


@pytest.mark.parametrize("balancer", ["round-robin", "priority"])
def test_every_balancer(world, balancer):
    """The preference is the same whatever distributes the rest."""
    group = {name: world.backend(Ollama, name, ["m1"]) for name in "abc"}
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, dict(NO_STICKY, **{"proxy.load_balancer": balancer}))
    group["c"].loaded = ["m1"]
    all_to(proxy, "c")
    group["c"].stop()
    assert ask(proxy) in "ab", "and no condition"


# ---- what it looks like

def loaded(proxy, model="m1"):
    """The endpoints that are said to have the model in memory."""
    entry = next(e for e in proxy.get("/olla/models").json()["data"] if e["id"] == model)
    states = {a["endpoint"]: a["state"] for a in entry["olla"]["availability"]}
    assert set(states.values()) <= {"loaded", "not-loaded", "available"}, states
    return {name for name, state in states.items() if state == "loaded"}


def test_state_is_shown(world):
    """The catalogue says where a model is in memory."""
    a, b = world.backend(Ollama, "a", ["m1", "m2"]), world.backend(Ollama, "b", ["m1"])
    a.loaded = ["m1"]
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)})
    eventually(lambda: loaded(proxy) == {"a"}, "a has it in memory, b on disk", PATIENCE, 0.05)
    assert loaded(proxy, "m2") == set()
    assert [e["id"] for e in proxy.get("/olla/models?available=true").json()["data"]] == ["m1"]
    assert proxy.get("/olla/models/m1").json()["loaded_endpoints"] == ["a"]
    a.loaded, b.loaded = ["m2"], ["m1"]
    eventually(lambda: (loaded(proxy), loaded(proxy, "m2")) == ({"b"}, {"a"}), "they have changed", PATIENCE, 0.05)


# ---- gently

def test_asked_only_where_it_helps(world):
    """No type is asked for what it does not have (LiteLLM would log every 404), and one machine alone is not asked at all."""
    kinds = {"ollama": (Ollama, "/api/ps"), "llama": (Slots, "/slots"), "vllm": (Vllm, "/metrics"), "sglang": (Sglang, "/metrics"),
             "compat": (Compatible, None), "litellm": (Litellm, None), "lms": (LmStudio, "/api/v0/models")}
    group = {name: world.backend(kind, name, ["m1"]) for name, (kind, _) in kinds.items()}
    for name in ("vllm", "sglang"):
        metrics(group[name], "0.0", "0.0")
    lone = {name: world.backend(kind, name, ["m1"]) for name, kind in (("ollama", Ollama), ("llama", Slots), ("vllm", Vllm))}
    single = [world.olla({name: endpoint(server, **FAST)}) for name, server in lone.items()]
    proxy = world.olla({name: endpoint(server, **FAST) for name, server in group.items()}, NO_STICKY)
    before = {name: len(asked(server, kinds[name][1])) for name, server in group.items() if kinds[name][1]}
    for name, count in before.items():
        eventually(lambda: len(asked(group[name], kinds[name][1])) >= count + 2, "%s is asked for %s again and again" % (name, kinds[name][1]), PATIENCE)
    for name, server in group.items():
        got = {path for path in POLLS if asked(server, path)}
        assert got <= {kinds[name][1], {"llama": "/props"}.get(name)}, name
        assert all(r.body == b"" for r in server.probes)
    for name, server in lone.items():
        assert asked(server, kinds[name][1]) == [], name
    assert len(single) == 3 and proxy.alive()


def test_asked_without_words_of_clients(world):
    """The polls are olla's own: no key or cookie of a client goes with them."""
    a, b = world.backend(Ollama, "a", ["m1"]), world.backend(Ollama, "b", ["m1"])
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)}, NO_STICKY)
    for _ in range(4):
        ask(proxy, **{"Authorization": "Bearer secret", "Cookie": "a=b"})
    polls = eventually(lambda: asked(a, "/api/ps"), "a is asked", PATIENCE)
    assert not any(r.has("Authorization") or r.has("Cookie") for r in polls)


# ---- failures

def refuse_key(conn, request):
    conn.reply({"error": {"message": "no key"}}, 401)


BROKEN = {
    "501": lambda c, r: c.reply({"error": {"code": 501, "message": "This server does not support slots endpoint. Start it with `--slots`",
                                           "type": "not_supported_error"}}, 501),
    "404": lambda c, r: c.reply(b"not here", 404, "text/plain"), "500": lambda c, r: c.reply(b"", 500), "401": refuse_key,
    "reset": lambda c, r: c.rst(), "silent": hold, "html": lambda c, r: c.reply(b"<html>", ctype="text/html"),
    "half": lambda c, r: c.reply(b'[{"id":0,"is_processing":tr'), "other": lambda c, r: c.reply({"slots": "many", "models": 5}),
    "numbers": lambda c, r: c.reply(b"[1,2,[3]]"), "null": lambda c, r: c.reply(b"null"), "empty": lambda c, r: c.reply(b""),
    "binary": lambda c, r: c.reply(bytes(range(256)) * 40), "deep": lambda c, r: c.reply(b"[" * 100000),
    "no-slots": lambda c, r: c.reply(b"[]"), "huge": lambda c, r: c.reply(b'[' + b'{"x":"' + b"y" * 3000000 + b'"}]'),
}


class Trouble:
    """Servers that answer the poll wrongly, each in its own way, and are well otherwise."""

    def __init__(self, kind, path):
        self.world, self.path = World(), path
        self.servers = {name: self.world.backend(kind, name, ["m1"]) for name in BROKEN}
        for name, server in self.servers.items():
            server.on(path, BROKEN[name])
        self.proxy = self.world.olla({name: endpoint(server, **FAST) for name, server in self.servers.items()}, NO_STICKY)


@pytest.mark.parametrize("kind,path", [(Llamacpp, "/slots"), (Ollama, "/api/ps"), (Vllm, "/metrics")], ids=["llamacpp", "ollama", "vllm"])
def test_failures_change_nothing(binary, kind, path):
    """An extra question that is answered badly must not make a good machine a bad one."""
    site = Trouble(kind, path)
    try:
        for name, server in site.servers.items():
            eventually(lambda: len(asked(server, path)) >= (1 if name == "silent" else 2), "%s is asked again" % name, PATIENCE)
        time.sleep(0.6)  # the silent one has used up its time
        seen = {e["name"]: e["status"] for e in site.proxy.status()["endpoints"]}
        assert set(seen.values()) == {"healthy"}, seen
        everyone = [ask(site.proxy) for _ in range(2 * len(BROKEN))]
        assert set(everyone) == set(BROKEN), "all are candidates, and none before the others"
        assert all(e["breaker"]["failures"] == 0 for e in site.proxy.status()["endpoints"])
    finally:
        problems = site.world.close()
    assert not problems, "\n".join(problems)
