"""POST /internal/endpoints/NAME/ACTION: what scripts announce and operators do by hand, and who may."""

import time

import pytest

from backend import OpenAIBackend, eventually, openai_chunk
from harness import endpoint, rarely_probed
from test_wake import CHAT, PATH, STICKY, Machine, chat, send, sleeping, wait_waiting, wake


def act(proxy, name, action, headers=(), method="POST"):
    return proxy.request(method, "/internal/endpoints/%s/%s" % (name, action), b"" if method == "POST" else None, headers)


@pytest.fixture
def pair(world):
    """Two servers with the same model, and a proxy."""
    servers = [world.backend(OpenAIBackend, name, ["m1"]) for name in "ab"]
    return servers, world.olla({s.name: endpoint(s) for s in servers}, STICKY)


def served_by(proxy, count=6):
    return {proxy.post(PATH, chat("m1")).json()["served_by"] for _ in range(count)}


# ---- check -----------------------------------------------------------------------------------------

def test_check_asks_at_once(world):
    """A server that is asked every two minutes comes up, and a script says so."""
    server = world.backend(OpenAIBackend, "a", ["m1"])
    server.stop()
    proxy = world.olla({"a": rarely_probed(server)}, ready=None)
    proxy.wait_state("a", "offline")
    server.start()
    reply = act(proxy, "a", "check")
    assert reply.status == 200 and reply.json()["endpoint"] == "a"
    proxy.wait_state("a", "healthy")
    assert proxy.wait_log("by hand", action="check")["endpoint"] == "a"


def test_check_goes_on_while_the_machine_boots(world):
    """The lease comes before the server: one question would be too early."""
    server = world.backend(OpenAIBackend, "a", ["m1"])
    server.stop()
    proxy = world.olla({"a": rarely_probed(server)}, ready=None)
    proxy.wait_state("a", "offline")
    assert act(proxy, "a", "check").status == 200
    time.sleep(1)
    server.start()
    proxy.wait_state("a", "healthy")


def test_check_finds_out_that_it_is_gone(world):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": rarely_probed(server)})
    server.stop()
    assert act(proxy, "a", "check").status == 200
    proxy.wait_state("a", "offline")


# ---- by hand ----------------------------------------------------------------------------------------

def test_disable_and_enable(pair):
    (a, b), proxy = pair
    reply = act(proxy, "a", "disable")
    assert reply.status == 200 and reply.json()["status"] == "disabled"
    a.forget()
    assert served_by(proxy) == {"b"} and not a.requests
    assert proxy.endpoint("a")["status"] == "disabled"
    assert act(proxy, "a", "check").status == 409
    assert act(proxy, "a", "enable").status == 200
    proxy.wait_healthy({"a": 1})
    assert served_by(proxy) == {"a", "b"}


def test_disabled_by_hand_stays_so_through_a_reload(pair, world):
    (a, b), proxy = pair
    act(proxy, "a", "disable")
    proxy.reload({"a": endpoint(a, priority=3), "b": endpoint(b)}, STICKY)
    proxy.wait_log("configuration reloaded")
    assert proxy.endpoint("a")["status"] == "disabled" and served_by(proxy) == {"b"}
    act(proxy, "a", "enable")
    proxy.wait_healthy({"a": 1})


def test_what_is_disabled_in_the_configuration_stays_so(world):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server, enabled=False)}, ready=None)
    reply = act(proxy, "a", "enable")
    assert reply.status == 409 and "configuration" in reply.text()
    assert not server.requests


def test_drain_lets_run_what_runs(pair, world):
    (a, b), proxy = pair
    act(proxy, "b", "drain")

    def slow(conn, request):
        conn.start_chunked()
        conn.chunk(openai_chunk("first"))
        eventually(lambda: a.done, "the test goes on")
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()
    a.done = False
    a.on(CHAT, slow)
    client = send(world, proxy, chat("m1", stream=True))
    reply = client.read_head("POST")
    reply.read_at_least(5)
    assert act(proxy, "a", "drain").json()["draining"] is True
    assert proxy.endpoint("a")["draining"] is True
    refused = proxy.post(PATH, chat("m1"))
    assert refused.status == 503 and "a (draining)" in refused.text() and "b (draining)" in refused.text()
    act(proxy, "b", "enable")
    assert served_by(proxy) == {"b"}
    a.done = True
    assert b"[DONE]" in reply.read_rest().body and reply.complete


def test_a_draining_conversation_goes_elsewhere(world):
    servers = {name: world.backend(OpenAIBackend, name, ["m1"]) for name in "ab"}
    proxy = world.olla({name: endpoint(s) for name, s in servers.items()})
    first = proxy.post(PATH, chat("m1")).json()["served_by"]
    assert proxy.post(PATH, chat("m1")).json()["served_by"] == first
    act(proxy, first, "drain")
    assert proxy.post(PATH, chat("m1")).json()["served_by"] != first


def test_wake_by_hand(world):
    proxy, machine = sleeping(world, boot=0.2)
    reply = act(proxy, "gpu", "wake")
    assert reply.status == 200 and reply.json()["wake"] == "waking"
    proxy.wait_state("gpu", "healthy")
    eventually(lambda: wake(proxy)["state"] == "awake", "awake")
    assert act(proxy, "gpu", "wake").json()["wake"] == "awake"  # nothing to do
    assert wake(proxy)["wakes"] == 1


def test_wake_of_one_that_cannot_be_woken(pair):
    assert act(pair[1], "a", "wake").status == 409


def test_disabling_one_that_is_waited_for(world):
    proxy, machine = sleeping(world, boot=None)
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    act(proxy, "gpu", "disable")
    assert client.read_response().status in (404, 503)


@pytest.mark.parametrize("name", ["nobody", "", "a/b", "%2e%2e", "a%00"])
def test_unknown_names(pair, name):
    assert act(pair[1], name, "check").status in (400, 404)


def test_names_with_blanks(world):
    server = world.backend(OpenAIBackend, "x", ["m1"])
    proxy = world.olla({"my box/2": endpoint(server)}, ready=None)
    assert act(proxy, "my%20box/2", "check").json()["endpoint"] == "my box/2"


def test_unknown_actions_and_methods(pair):
    proxy = pair[1]
    assert act(proxy, "a", "explode").status == 404
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        assert act(proxy, "a", "disable", method=method).status == 405
    assert proxy.get("/internal/endpoints/").status == 404
    assert proxy.endpoint("a")["status"] == "healthy"


# ---- who may --------------------------------------------------------------------------------------------

def own(proxy, **more):
    return dict({"Host": "127.0.0.1:%d" % proxy.port, "Origin": "http://127.0.0.1:%d" % proxy.port}, **more)


def test_pages_of_others_may_not(pair):
    proxy = pair[1]
    port = proxy.port
    bad = [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Origin": "http://127.0.0.1:1"},
           {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Referer": "https://evil.example/x"},
           own(proxy, Referer="https://evil.example/x"),
           # A foreign name that was made to lead to this machine (DNS rebinding).
           {"Host": "evil.example:%d" % port, "Origin": "http://evil.example:%d" % port},
           {"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"}]
    for headers in bad:
        assert act(proxy, "a", "disable", headers).status == 403, headers
    assert proxy.endpoint("a")["status"] == "healthy"
    for good in (own(proxy), own(proxy, **{"Sec-Fetch-Site": "same-origin", "Referer": own(proxy)["Origin"] + "/internal/ui/"}),
                 {"Host": "localhost:%d" % port, "Origin": "http://localhost:%d" % port},
                 {"Host": "[::1]:%d" % port, "Origin": "http://[::1]:%d" % port}):
        assert act(proxy, "a", "drain", good).status == 200, good


def test_what_a_proxy_brings_may_not(pair):
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        assert act(pair[1], "a", "disable", {name: "192.0.2.1"}).status == 403


KEYS = {"key:boss.secret": "sk-boss-secret", "key:guest.secret": "sk-guest-secret", "key:guest.models": "m*"}


def test_keys(world):
    """Behind a proxy, where the address says nothing, the key decides."""
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server)}, dict(STICKY, **KEYS), ready=None)
    eventually(lambda: proxy.endpoint("a")["status"] == "healthy", "healthy")
    via = {"Via": "1.1 front"}

    def with_key(secret, **more):
        return act(proxy, "a", "drain", dict(via, Authorization="Bearer " + secret, **more)).status
    assert with_key("sk-boss-secret") == 200
    assert with_key("sk-guest-secret") == 403
    assert with_key("sk-wrong-secret") == 401
    assert act(proxy, "a", "drain", via).status == 401
    assert act(proxy, "a", "drain", {"Authorization": "Bearer sk-wrong-secret"}).status == 401
    assert act(proxy, "a", "drain").status == 200  # from this machine
    assert with_key("sk-boss-secret", Origin="http://evil.example") == 403
    # With a key that no foreign page can know, olla's own name may be any.
    assert with_key("sk-boss-secret", Host="olla.lan", Origin="http://olla.lan") == 200
