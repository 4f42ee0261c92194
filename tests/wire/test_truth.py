"""When nothing can serve a request, the reply says who was considered and why each was not."""

import json
import re

import pytest

from backend import Gate, eventually
from client import Client, dump, full_body, json_headers, request_bytes
from harness import World, endpoint, new_id, rarely_probed, report
from servers import Compatible, Ollama, Vllm

CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
SECRET = "sk-" + "secret" * 5
OFFLINE, UNHEALTHY, NO_MODEL, WRONG_TYPE, OPEN = "offline", "unhealthy", "does not serve the model", "wrong type", "breaker open"
LIMITED, FULL, WRONG_KIND, TRIED, DISABLED = "rate limited", "at its limit of requests", "does not serve this kind", "already tried", "disabled"
CREDENTIALS = {"Authorization": "Bearer " + SECRET, "x-api-key": SECRET, "Cookie": SECRET}

DIALECTS = {"openai": CHAT, "ollama": "/api/chat", "anthropic": "/v1/messages", "text": "/olla/proxy/completion"}
dialects = pytest.mark.parametrize("dialect", list(DIALECTS))


def ask(proxy, dialect, headers=(), **body):
    """The answer to a request in this dialect."""
    return proxy.post(DIALECTS[dialect], full_body(DIALECTS[dialect], body), headers)


def said(reply, dialect="openai"):
    """The message, from a well-formed error of the dialect."""
    if dialect == "text":
        assert reply.get("Content-Type") == "text/plain; charset=utf-8"
        return reply.text().rstrip("\n")
    assert reply.get("Content-Type").startswith("application/json")
    document = reply.json()
    if dialect == "ollama":
        assert set(document) == {"error"} and isinstance(document["error"], str)
        return document["error"]
    if dialect == "anthropic":
        assert document["type"] == "error"
        wanted = {404: "not_found_error", 429: "rate_limit_error"}.get(reply.status)
        assert document["error"]["type"] == (wanted or document["error"]["type"]), document
        return document["error"]["message"]
    assert set(document["error"]) == {"message", "type", "code", "param"}
    return document["error"]["message"]


def reasons(message):
    """{name: reason} from the end of a message, in the order in which they are said."""
    match = re.search(r"; endpoints: (.*)\Z", message, re.S)
    assert match, message
    found = re.findall(r"(.+?) \(([^()]*)\)(?:, |\Z)", match.group(1))
    assert ", ".join("%s (%s)" % pair for pair in found) == match.group(1), message
    assert len(dict(found)) == len(found), "a name twice: %s" % message
    return dict(found)


def discreet(reply, *servers):
    """Names only: no addresses, no ports, nothing that the client sent in confidence."""
    text = reply.raw_head.decode() + reply.text()
    for word in ("127.0.0.1", "localhost", "http:", SECRET) + tuple(":%d" % server.port for server in servers):
        assert word not in text, word
    assert not any(str(server.port) in reply.text() for server in servers)


def retry_after(reply):
    assert re.fullmatch(r"[1-9][0-9]*", reply.get("Retry-After", "")), reply.headers
    return int(reply.get("Retry-After"))


# ---- all reasons at once

class Fleet:
    """Machines that cannot, each for its own reason, and one that has another model."""

    def __init__(self):
        self.world = World()
        self.servers = {name: self.world.backend(Vllm, name, ["m1"]) for name in ("off", "sick", "ears", "broken", "retired")}
        self.servers["other"] = self.world.backend(Ollama, "other", ["m-other"])
        spec = {name: endpoint(server, **FAST) for name, server in self.servers.items()}
        spec["ears"]["serves"] = "audio"
        spec["broken"] = rarely_probed(self.servers["broken"])
        spec["retired"]["enabled"] = False
        self.proxy = self.world.olla(spec, {"proxy.breaker.consecutive_failures": 2, "proxy.breaker.open_time": "5m", "proxy.breaker.max_open_time": "10m",
                                            "model_aliases.nick": "m1"}, ready=[name for name in spec if name != "retired"])
        self.servers["broken"].on(CHAT, lambda c, r: c.reply({}, 500))
        for _ in range(2):
            assert self.proxy.post(CHAT, {"model": "m1"}, {"X-Olla-Endpoint": "broken"}).status == 500
        eventually(lambda: self.proxy.endpoint("broken")["breaker"]["state"] == "open", "the breaker of `broken` is open")
        self.servers["off"].stop()
        self.servers["sick"].on("/health", lambda c, r: c.reply({}, 500))
        self.proxy.wait_state("off", "offline")
        self.proxy.wait_state("sick", "unhealthy")
        for server in self.servers.values():
            server.forget()

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def fleet(kept):
    fleet = kept(Fleet)
    yield fleet
    problems = fleet.proxy.idle_problems() + fleet.world.script_failures()
    problems += ["a request went to %s" % name for name, server in fleet.servers.items() if [c for c in server.calls if c.method == "POST"]]
    report(problems)


WHY = {"off": OFFLINE, "sick": UNHEALTHY, "ears": WRONG_KIND, "broken": OPEN, "retired": DISABLED,
       "other": NO_MODEL}


@dialects
def test_unavailable(fleet, dialect):
    """`503` alone sends the user through the house from machine to machine; one line says where to go."""
    reply = ask(fleet.proxy, dialect, CREDENTIALS, model="m1")
    message = said(reply, dialect)
    assert "m1" in message
    found = reasons(message)
    assert list(found) == list(fleet.servers), "in the order of the configuration"
    if dialect == "ollama":  # those that have it speak another API, whatever ails them: trying again is no use, another path is
        assert all(found[name] in (word, WRONG_TYPE) for name, word in WHY.items()), found
        assert reply.status == 404 and not reply.has("Retry-After")
        assert message.startswith('model "m1" is not served through this API: the endpoints that have it speak OpenAI\'s (/v1/...), '
                                  "Anthropic's (/v1/messages); endpoints: "), message
    else:
        assert found == WHY and reply.status == 503
        retry_after(reply)
    discreet(reply, *fleet.servers.values())


def test_alias_unavailable(fleet):
    """What an alias stands for is away: the same list, under the name that was asked for."""
    reply = fleet.proxy.post(CHAT, {"model": "nick"})
    assert reply.status == 503 and "nick" in said(reply) and reasons(said(reply)) == WHY


@dialects
def test_unknown(fleet, dialect):
    """A misspelt model: nobody has it, and who was asked is said."""
    reply = ask(fleet.proxy, dialect, CREDENTIALS, model="m-othre")
    assert reply.status == 404
    message = said(reply, dialect)
    assert "m-othre" in message
    found = reasons(message)
    assert list(found) == list(fleet.servers) and found["other"] == NO_MODEL
    assert found["retired"] in (DISABLED, WRONG_TYPE if dialect == "ollama" else DISABLED)
    discreet(reply, *fleet.servers.values())


def test_wrong_type(fleet):
    """/olla/ollama/ is a hard boundary: the message tells that the others would have been of another kind."""
    reply = fleet.proxy.post("/olla/ollama" + CHAT, {"model": "m1"})
    assert reply.status == 503
    found = reasons(said(reply))
    assert found["other"] == NO_MODEL
    assert found["broken"] == found["ears"] == WRONG_TYPE
    reply = fleet.proxy.post("/olla/lmstudio" + CHAT, {"model": "m1"})
    assert reply.status == 404 and "No lm-studio endpoints available" in said(reply)
    assert reasons(said(reply))["other"] == WRONG_TYPE


def test_pinned(fleet):
    """The machine that was named is away: why is what the caller wants to know."""
    for name, word in (("off", OFFLINE), ("sick", UNHEALTHY), ("broken", OPEN), ("retired", DISABLED)):
        reply = fleet.proxy.post(CHAT, {"model": "m1"}, {"X-Olla-Endpoint": name})
        assert reply.status in ((404, 503) if name == "retired" else (503,)) and reasons(said(reply))[name] == word


def test_hostile_model_names(fleet):
    """The list stands behind whatever the client called its model."""
    for model in ('x"; endpoints: evil (fine)', "a\\b\n\r\tc", "\u00e4\u20ac\U0001f600", "x" * 120):
        for dialect in ("openai", "anthropic"):
            reply = ask(fleet.proxy, dialect, model=model)
            assert reply.status == 404
            tail = said(reply, dialect).rpartition("; endpoints: ")[2]
            assert tail.startswith("off (") and tail.endswith(")") and "evil" not in tail


# ---- one reason each

def test_nobody_is_healthy(world):
    """No model was named, and no machine is up."""
    a, b = world.backend(Compatible, "a", ["m1"]), world.backend(Compatible, "b", ["m1"])
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)})
    a.stop()
    b.stop()
    proxy.wait_state("a", "offline")
    proxy.wait_state("b", "offline")
    reply = proxy.get("/olla/proxy/v1/x")
    assert reply.status == 503
    message = said(reply) if reply.get("Content-Type").startswith("application/json") else said(reply, "text")
    assert "no healthy endpoints available" in message and reasons(message) == {"a": OFFLINE, "b": OFFLINE}
    retry_after(reply)
    discreet(reply, a, b)


@dialects
def test_rate_limited(world, dialect):
    """All have said `later`: so does olla, and for how long."""
    group = {name: world.backend(Ollama if dialect != "text" else Compatible, name, ["m1"]) for name in "ab"}
    path = DIALECTS[dialect].replace("/olla/proxy", "")
    for name, seconds in (("a", 300), ("b", 200)):
        group[name].on(path, lambda c, r, s=seconds: c.reply({"error": "own words"}, 429, headers={"Retry-After": str(s)}))
    proxy = world.olla({name: rarely_probed(server) for name, server in group.items()})
    reply = ask(proxy, dialect, model="m1")
    assert (reply.status, reply.json()) == (429, {"error": "own words"}) and reply.get("Retry-After") in ("200", "300")
    reply = ask(proxy, dialect, CREDENTIALS, model="m1")
    assert reply.status == 429 and 100 < retry_after(reply) <= 200, "the least of them"
    assert reasons(said(reply, dialect)) == {"a": LIMITED, "b": LIMITED}
    discreet(reply, *group.values())
    assert [len([c for c in server.calls if c.method == "POST"]) for server in group.values()] == [1, 1]


def test_breaker_open(world):
    """A machine that only fails is left alone: the caller learns for how long."""
    a = world.backend(Compatible, "a", ["m1"])
    a.on(CHAT, lambda c, r: c.reply({"error": "own words"}, 500))
    proxy = world.olla({"a": rarely_probed(a)}, {"proxy.breaker.consecutive_failures": 2, "proxy.breaker.open_time": "50s"})
    for _ in range(2):
        assert proxy.post(CHAT, {"model": "m1"}).json() == {"error": "own words"}
    reply = proxy.post(CHAT, {"model": "m1"})
    assert reply.status == 503 and 1 <= retry_after(reply) <= 50
    assert reasons(said(reply)) == {"a": OPEN}


def hold_one(world, proxy, path=CHAT):
    client = world.client(proxy)
    client.start_post(path, {"model": "m1", "hold": True})
    eventually(lambda: sum(e["connections"] for e in proxy.status()["endpoints"]) == 1, "a request is running")
    return client


@dialects
def test_line_is_full(world, dialect):
    """No line at all: who comes too early is told so at once, and by whom it was kept out."""
    a, b = world.backend(Ollama, "a", ["m1"]), world.backend(Vllm, "b", ["m-other"])
    gate = Gate()
    a.on("*", lambda c, r: (gate.wait(20), c.reply({})))
    a.on(CHAT, a.routes["*"])
    proxy = world.olla({"a": endpoint(a, max_concurrent=1), "b": b}, {"proxy.queue.max_waiting": 0})
    client = hold_one(world, proxy)
    reply = ask(proxy, dialect, CREDENTIALS, model="m1")
    assert reply.status == 429
    retry_after(reply)
    message = said(reply, dialect)
    found = reasons(message)
    assert found["a"] == FULL and found["b"] in (NO_MODEL, WRONG_TYPE)
    if dialect == "openai":
        assert reply.json()["error"]["code"] == "queue_full"
    if dialect == "text":
        assert "queue_full" in message
    discreet(reply, a, b)
    gate.open()
    assert client.read_response("POST").status == 200


def test_waited_too_long(world):
    """Queued in vain: 503, and at whose door."""
    a = world.backend(Compatible, "a", ["m1"])
    gate = Gate()
    a.on(CHAT, lambda c, r: (gate.wait(20), c.reply({})))
    proxy = world.olla({"a": endpoint(a, max_concurrent=1)}, {"proxy.queue.timeout": "1s"})
    client = hold_one(world, proxy)
    reply = proxy.post(CHAT, {"model": "m1"}, CREDENTIALS)
    assert reply.status == 503 and reply.json()["error"]["code"] == "queue_timeout"
    assert reasons(said(reply)) == {"a": FULL}
    retry_after(reply)
    discreet(reply, a)
    gate.open()
    assert client.read_response("POST").status == 200


def test_already_tried(world):
    """One failed, the other one is full until the patience ends: both are told, the first as tried."""
    a, b = world.backend(Compatible, "a", ["m1"]), world.backend(Compatible, "b", ["m1"])
    gate = Gate()
    a.on(CHAT, lambda c, r: c.fin())
    b.on(CHAT, lambda c, r: (gate.wait(20), c.reply({})))
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": rarely_probed(b, max_concurrent=1)},
                       {"proxy.load_balancer": "priority", "proxy.queue.timeout": "1s"})
    client = world.client(proxy)
    client.start_post(CHAT, {"model": "m1"}, {"X-Olla-Endpoint": "b"})
    b.wait_calls(1)
    reply = proxy.post(CHAT, {"model": "m1"})
    assert reply.status == 503
    assert reasons(said(reply)) == {"a": TRIED, "b": FULL}
    assert len(b.calls) == 1
    gate.open()
    assert client.read_response("POST").status == 200


def test_names_with_odd_letters(world):
    """Names are the operator's: quotes and umlauts in them must not break the JSON that a client reads."""
    names = ['rack "2"', "k\u00fcche", "back\\slash", "a/b:c"]
    group = {name: world.backend(Compatible, name, ["m1"]) for name in names}
    proxy = world.olla(group)
    reply = proxy.post(CHAT, {"model": "none"})
    assert reply.status == 404
    assert reasons(said(reply)) == {name: NO_MODEL for name in names}


def test_many_endpoints(world):
    """A whole rack is listed to its last machine, in the order of the configuration."""
    names = ["machine-%02d" % n for n in range(32)]
    server = world.backend(Compatible, "all", ["m1"])
    proxy = world.olla({name: endpoint(server) for name in names})
    for dialect in DIALECTS:
        reply = ask(proxy, dialect, model="none")
        assert reply.status == 404
        assert list(reasons(said(reply, dialect))) == names


def test_near_names_stay(world):
    """The list comes last: what the user may have meant is still said before it."""
    a = world.backend(Compatible, "a", ["llama3.2:3b"])
    proxy = world.olla({"a": a})
    message = said(proxy.post(CHAT, {"model": "llama3.2"}))
    before, _, _ = message.partition("; endpoints: ")
    assert "llama3.2:3b" in before and reasons(message) == {"a": NO_MODEL}


def test_in_a_stream(world):
    """A refusal that comes before the first byte is a status, not an event, also for who asked for a stream."""
    a = world.backend(Ollama, "a", ["m1"])
    proxy = world.olla({"a": a}, {"proxy.heartbeat.interval": "200ms"})
    for dialect in ("openai", "ollama", "anthropic"):
        reply = ask(proxy, dialect, model="none", stream=True)
        assert reply.status == 404 and set(reasons(said(reply, dialect))) == {"a"}


def test_reasons_behind_a_heartbeat(world):
    """Committed to a stream already: the truth comes as an event, as complete as it would have been."""
    a = world.backend(Ollama, "a", ["m1"])
    gate = Gate()
    a.on("/v1/embeddings", lambda c, r: (gate.wait(20), c.reply({})))
    proxy = world.olla({"a": endpoint(a, max_concurrent=1)}, {"proxy.queue.timeout": "1s", "proxy.heartbeat.interval": "200ms"})
    client = hold_one(world, proxy, "/v1/embeddings")
    with Client(proxy.port) as other:
        other.send(request_bytes("POST", CHAT, json_headers(dict(CREDENTIALS, **{"X-Request-ID": new_id()})), dump({"model": "m1", "stream": True})))
        reply = other.read_response("POST")
    assert reply.status == 200 and not reply.complete
    error = json.loads(re.search(rb"data: (.*)\n\n\Z", reply.body).group(1))["error"]
    assert error["code"] == "queue_timeout" and reasons(error["message"]) == {"a": FULL}
    discreet(reply, a)
    gate.open()
    assert client.read_response("POST").status == 200
