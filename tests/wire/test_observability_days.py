"""tokens_per_day: what a key has used up is refused until midnight, local time, in the caller's words."""

import time

import pytest

from backend import eventually
from client import request_bytes
from harness import endpoint, new_id
from messages import ask as message_body
from observe import CHAT, STATUS, ask, bearer, by_name, event, line, metrics, page, says, streams
from servers import Compatible, Ollama
from test_keys import check_anthropic, check_ollama, check_openai, check_plain
from test_upgrade import ASK, REALTIME

ALICE, BOB, CAROL = "sk-alice-days", "sk-bob-days", "sk-carol-days"
DAY = 86400
USAGE = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
DIALECTS = [(CHAT, check_openai), ("/v1/embeddings", check_openai), ("/api/chat", check_ollama), ("/v1/messages", check_anthropic),
            ("/olla/proxy/completion", check_plain)]


def limited(most, **more):
    return dict({"key:alice.secret": ALICE, "key:alice.tokens_per_day": most, "key:bob.secret": BOB, "key:carol.secret": CAROL,
                 "key:carol.tokens_per_day": 10 * most}, **more)


@pytest.fixture
def launch(world):
    def start(settings, **more):
        world.c = world.backend(Compatible, "c", ["m1"])
        world.o = world.backend(Ollama, "o", ["m-o"])
        for path in (CHAT, "/v1/embeddings"):
            world.c.on(path, says({"model": "m1", "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": USAGE}))
        world.spec = {"c": endpoint(world.c, health="none", check_interval="120s"), "o": endpoint(world.o, health="none", check_interval="120s")}
        world.proxy = world.olla(world.spec, settings, **more)
        return world.proxy
    return start


def spend(proxy, key=ALICE, path=CHAT, **more):
    return ask(proxy, path, message_body(**dict({"model": "m1"}, **more)), bearer(key))


def key_of(proxy, name):
    return by_name(page(proxy, STATUS)["keys"])[name]


def to_midnight(now):
    at = time.localtime(now)
    return DAY - at.tm_hour * 3600 - at.tm_min * 60 - at.tm_sec


def used_up(reply, now, check=None):
    """A refusal that says until when, give or take what the clocks move meanwhile (and an hour of summer time)."""
    assert reply.status == 429, (reply.status, reply.body)
    wait = int(reply.get("Retry-After"))
    assert any(abs(wait - to_midnight(now) - shift) <= 15 for shift in (0, DAY, -DAY, 3600, -3600)) and 0 < wait <= DAY + 1, wait
    assert "tokens" in reply.text() and "today" in reply.text()
    if check:
        check(reply, "rate_limit_error", "rate_limit_exceeded")


def test_refused_in_each_dialect(launch, world):
    """The request that goes over the limit is served, the next is not. Others go on."""
    proxy = launch(limited(50))
    for n in (1, 2):
        assert spend(proxy).status == 200
        key = key_of(proxy, "alice")
        assert (key["tokens_today"], key["tokens_per_day"]) == (40 * n, 50)
    for path, check in DIALECTS:
        ident = new_id()
        reply = ask(proxy, path, message_body(model="m1"), bearer(ALICE), ident=ident)
        used_up(reply, time.time(), check)
        entry = proxy.access(ident)
        assert (entry["status"], entry["end"], entry["key"]) == (429, "PR", "alice") and "endpoint" not in entry
    with proxy.client() as client:
        client.send(request_bytes("GET", REALTIME, list(dict(ASK).items()) + bearer(ALICE)))
        assert client.read_head().status == 429, "nor through a WebSocket"
    assert len(world.c.calls) == 2
    assert proxy.get("/v1/models", bearer(ALICE)).status == 200, "lists cost nothing"
    key = key_of(proxy, "alice")
    assert (key["requests"], key["failed_requests"], key["tokens_today"]) == (2, 0, 80), "refusals are no requests"
    document = metrics(proxy)
    assert document.get("olla_key_tokens_today", key="alice") == 80 and document.get("olla_key_tokens_per_day", key="alice") == 50
    assert document.get("olla_key_tokens_per_day", key="bob") == 0
    for other in (BOB, CAROL):
        assert spend(proxy, other).status == 200
    assert key_of(proxy, "carol")["tokens_today"] == 40


@pytest.mark.parametrize("how", ["plain", "stream", "estimated", "broken", "left", "ollama", "anthropic", "translated"])
def test_every_kind_of_reply_counts(launch, world, how):
    proxy = launch(limited(8))
    chunks = [event({"choices": [{"index": 0, "delta": {"content": word}}]}) for word in "abcdefghijkl"]
    path, model, more = CHAT, "m1", {}
    if how == "stream":
        world.c.on(CHAT, streams(chunks + [event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n"]))
        more = {"stream": True}
    elif how == "estimated":
        world.c.on(CHAT, streams(chunks + [b"data: [DONE]\n\n"]))
        more = {"stream": True}
    elif how == "broken":
        world.c.on(CHAT, streams(chunks, end=lambda conn: conn.rst()))
        more = {"stream": True}
    elif how == "ollama":
        path, model = "/api/chat", "m-o"
        world.o.on(path, streams([line({"model": "m-o", "done": True, "prompt_eval_count": 5, "eval_count": 5})], "application/x-ndjson"))
    elif how == "anthropic":
        path, model = "/v1/messages", "m-o"
        world.o.on(path, says({"type": "message", "usage": {"input_tokens": 5, "output_tokens": 4}}))
    elif how == "translated":
        path = "/olla/anthropic/v1/messages"
    if how == "left":
        world.c.on(CHAT, lambda conn, request: (conn.start_chunked(), [conn.chunk(c) for c in chunks], conn.wait_close()))
        client = world.client(proxy)
        client.start_post(CHAT, message_body(model="m1", stream=True), bearer(ALICE))
        client.read_head("POST").read_at_least(len(b"".join(chunks)))
        client.reset()
        eventually(lambda: key_of(proxy, "alice")["requests"] == 1, "it is counted")
    else:
        reply = spend(proxy, path=path, model=model, **more)
        assert reply.status == 200 and reply.complete == (how != "broken")
    assert key_of(proxy, "alice")["tokens_today"] >= 9
    used_up(spend(proxy), time.time())


def test_what_costs_nothing(launch, world):
    """Failures without a reply, refusals, unknown models, and replies that tell zero."""
    proxy = launch(limited(1))
    world.c.on(CHAT, says({"error": {"message": "x"}}, 500))
    assert [spend(proxy).status for _ in range(3)] == [500] * 3
    world.c.on(CHAT, says({"error": {"message": "x"}}, 400))
    assert [spend(proxy).status for _ in range(3)] == [400] * 3
    assert spend(proxy, model="nobody").status == 404
    assert ask(proxy, "/v1/messages", b"{}".decode(), bearer(ALICE)).status == 400
    world.c.on(CHAT, says({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}))
    assert [spend(proxy).status for _ in range(3)] == [200] * 3
    assert key_of(proxy, "alice")["tokens_today"] == 0
    world.c.stop()
    assert spend(proxy).status == 502
    assert key_of(proxy, "alice")["tokens_today"] == 0


def test_reload(launch, world):
    """A key is its secret: a new name, and a new limit, do not give it a new day. A new secret does."""
    proxy = launch(limited(50))
    assert [spend(proxy).status for _ in range(3)] == [200, 200, 429]
    renamed = {"key:z.secret": ALICE, "key:z.tokens_per_day": 50}
    proxy.reload(world.spec, renamed)
    eventually(lambda: "z" in by_name(page(proxy, STATUS)["keys"]), "the new file", 5, 0.05)
    assert key_of(proxy, "z")["tokens_today"] == 80
    used_up(spend(proxy), time.time())
    proxy.reload(world.spec, dict(renamed, **{"key:z.tokens_per_day": 100}))
    eventually(lambda: key_of(proxy, "z")["tokens_per_day"] == 100, "the new limit", 5, 0.05)
    assert [spend(proxy).status for _ in range(2)] == [200, 429]
    proxy.reload(world.spec, dict(renamed, **{"key:z.tokens_per_day": 0}))
    eventually(lambda: key_of(proxy, "z")["tokens_per_day"] == 0, "no limit", 5, 0.05)
    assert spend(proxy).status == 200
    proxy.reload(world.spec, {"key:z.secret": ALICE + "-new", "key:z.tokens_per_day": 50})
    eventually(lambda: key_of(proxy, "z")["tokens_per_day"] == 50, "the new secret", 5, 0.05)
    assert key_of(proxy, "z")["tokens_today"] == key_of(proxy, "z")["requests"] == 0
    assert spend(proxy).status == 401 and spend(proxy, ALICE + "-new").status == 200


def test_reload_while_it_runs(launch, world):
    """A request of a key that is gone when it ends is nobody's."""
    proxy = launch(limited(50))
    world.c.on(CHAT, lambda conn, request: (conn.start_chunked(), conn.chunk(event({"usage": USAGE})), conn.wait_close()))
    client = world.client(proxy)
    client.start_post(CHAT, message_body(model="m1", stream=True), bearer(ALICE))
    client.read_head("POST").read_at_least(10)
    proxy.reload(world.spec, {"key:bob.secret": BOB})
    eventually(lambda: [k["name"] for k in page(proxy, STATUS)["keys"]] == ["bob"], "the new file", 5, 0.05)
    client.reset()
    eventually(lambda: page(proxy, STATUS)["system"]["total_requests"] == 1, "it is counted")
    assert key_of(proxy, "bob")["tokens_today"] == key_of(proxy, "bob")["requests"] == 0


def test_requests_per_minute_is_another_thing(launch):
    """Who has no tokens left uses up no requests, and the other way round."""
    proxy = launch(limited(50, **{"key:alice.requests_per_minute": 3}))
    assert [spend(proxy).status for _ in range(2)] == [200, 200]
    for _ in range(5):
        reply = spend(proxy)
        used_up(reply, time.time())
    proxy_key = key_of(proxy, "alice")
    assert proxy_key["requests"] == 2
    few = launch({"key:alice.secret": ALICE, "key:alice.tokens_per_day": 1000, "key:alice.requests_per_minute": 1})
    assert spend(few).status == 200
    reply = spend(few)
    assert reply.status == 429 and "minute" in reply.text() and int(reply.get("Retry-After")) <= 60


# ---- midnight

def shows(proxy, clock):
    """Skips where the program cannot be shown another clock."""
    if "clock_jump.so" not in open("/proc/%d/maps" % proxy.pid).read() or \
            abs(time.mktime(time.strptime(page(proxy, STATUS)["timestamp"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - clock.now()) > 7300:
        pytest.skip("this program does not take the clock of the shim")


@pytest.mark.parametrize("zone", ["UTC0", "XXX-13:45", "YYY+11"])
def test_midnight(launch, clock, zone, monkeypatch):
    """By the local date: one minute before midnight it is refused for a minute, and then it is a new day."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        now = time.time()
        clock.jump(to_midnight(now) - 60)
        proxy = launch(limited(50), env=dict(clock.env(), TZ=zone))
        shows(proxy, clock)
        assert [spend(proxy).status for _ in range(3)] == [200, 200, 429]
        reply = spend(proxy)
        assert 20 <= int(reply.get("Retry-After")) <= 61, "until midnight"
        clock.jump(to_midnight(now) + 5)
        key = key_of(proxy, "alice")
        assert (key["tokens_today"], key["requests"]) == (0, 2), "a new day, the same life"
        assert [spend(proxy).status for _ in range(3)] == [200, 200, 429]
        used_up(spend(proxy), clock.now())
        key = key_of(proxy, "alice")
        assert (key["tokens_today"], key["requests"], key["input_tokens"]) == (80, 4, 120)
        assert metrics(proxy).get("olla_key_tokens_today", key="alice") == 80
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clock_that_is_set_back(launch, clock):
    """A wrong clock must lock nobody out: another date is another day, whichever comes first."""
    proxy = launch(limited(50), env=clock.env())
    shows(proxy, clock)
    assert [spend(proxy).status for _ in range(3)] == [200, 200, 429]
    for days in (-40 * 365, 3, -1):
        clock.jump(days * DAY)
        assert key_of(proxy, "alice")["tokens_today"] == 0
        assert [spend(proxy).status for _ in range(3)] == [200, 200, 429], days
        used_up(spend(proxy), clock.now())


def test_compressed_replies_are_not_asked_for(launch, world):
    """Nothing can be counted in them, so a client could go around its limit; who has none gets what it asks for."""
    proxy = launch(limited(50))
    for key, arrives in ((ALICE, []), (BOB, ["gzip, br"])):
        world.c.forget()
        headers = bearer(key) + [("Accept-Encoding", "gzip, br")]
        assert proxy.post(CHAT, message_body(model="m1"), headers).status == 200
        assert world.c.calls[-1].get_all("Accept-Encoding") == arrives
