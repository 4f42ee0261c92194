"""server.rate_limits and server.access: how much one address may send, whose address it is behind proxies, who may connect."""

import time

import pytest

from backend import OpenAIBackend, eventually
from client import Client, Closed, dump, json_headers, request_bytes
from harness import build_config, new_id, rarely_probed, run_cli
from servers import Ollama
from test_keys import BODY, CHAT, check_anthropic, check_ollama, check_openai, check_plain
from test_upgrade import ASK, REALTIME

PER_IP, GLOBAL = "server.rate_limits.per_ip_requests_per_minute", "server.rate_limits.global_requests_per_minute"
BURST = "server.rate_limits.burst_size"
TRUST, PROXIES = "server.rate_limits.trust_proxy_headers", "server.rate_limits.trusted_proxy_cidrs"
ALLOWED, MOST = "server.access.allowed_cidrs", "server.access.max_connections_per_client"
HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


@pytest.fixture
def launch(world):
    def start(settings, **more):
        backend = world.backend(Ollama, "o", ["llama-1"])
        backend.loaded = ["llama-1"]
        world.spec = {"o": rarely_probed(backend)}
        return backend, world.olla(world.spec, settings, **more)
    return start


def strict(burst=1, rate=1, **more):
    return dict({PER_IP: rate, GLOBAL: 0, BURST: burst}, **more)


def figures(reply):
    values = [reply.get_all(name) for name in HEADERS]
    assert all(len(v) == 1 for v in values), values
    limit, remaining, reset = (int(v[0]) for v in values)
    assert abs(reset - (time.time() + 60)) <= 5
    return limit, remaining


def security(proxy):
    status = proxy.status()
    return status["security"], status["system"]["security_violations"]


def ask(proxy, headers=(), path=CHAT, host="127.0.0.1"):
    with Client(proxy.port, host=host) as client:
        return client.post(path, BODY, list(headers))


def calls(backend):
    """Those of clients: what olla asks by itself is told by its path."""
    return [c for c in backend.calls if c.target.split("?")[0] not in ("/", "/api/tags", "/api/ps", "/api/version", "/api/show")]


# ---- each limit

@pytest.mark.parametrize("method,path,check", [
    ("POST", CHAT, check_openai), ("POST", "/olla/openai" + CHAT, check_openai), ("POST", "/olla/proxy" + CHAT, check_openai),
    ("POST", "/v1/embeddings", check_openai), ("GET", "/v1/files", check_openai),
    ("POST", "/api/chat", check_ollama), ("POST", "/olla/ollama/api/generate", check_ollama), ("POST", "/api/embed", check_ollama),
    ("POST", "/v1/messages", check_anthropic), ("POST", "/olla/anthropic/v1/messages", check_anthropic),
    ("POST", "/v1/messages/count_tokens", check_anthropic), ("POST", "/olla/proxy/x", check_plain)],
    ids=lambda v: v if isinstance(v, str) else "")
def test_over_the_limit(launch, method, path, check):
    """429 in the caller's words, on every route that leads to a server; nothing of it arrives there."""
    backend, proxy = launch(strict())
    assert ask(proxy).status == 200
    seen = len(calls(backend))
    request_id = new_id()
    reply = proxy.request(method, path, dump(BODY) if method == "POST" else None, json_headers([("X-Request-ID", request_id)]))
    assert (reply.status, reply.reason) == (429, "Too Many Requests")
    check(reply, "rate_limit_error", "rate_limit_exceeded")
    assert "per_ip_requests_per_minute" in reply.text()
    assert len(reply.get_all("Retry-After")) == 1 and 50 <= int(reply.get("Retry-After")) <= 61
    assert figures(reply) == (1, 0)
    assert reply.get("X-Olla-Request-ID") == request_id
    line = proxy.access(request_id)
    assert (line["status"], line["end"], line["client"]) == (429, "PR", "127.0.0.1")
    assert len(calls(backend)) == seen
    proxy.wait_log("requests over server.rate_limits are answered with 429", client="127.0.0.1", limit="per_ip_requests_per_minute")


def test_pages_and_lists_are_free(launch):
    """As in the reference: only what goes to a server counts."""
    _, proxy = launch(strict())
    assert ask(proxy).status == 200
    assert ask(proxy).status == 429
    for path, status in (("/internal/health", 200), ("/internal/status", 200), ("/internal/status/models", 200), ("/version", 200),
                         ("/v1/models", 200), ("/api/tags", 200), ("/olla/models", 200), ("/olla/anthropic/v1/models", 200),
                         ("/api/version", 200), ("/olla/ollama/v1/models", 200), ("/nowhere", 404), ("/api/pull", 501), ("/olla/proxy", 301)):
        for _ in range(3):
            reply = proxy.get(path)
            assert reply.status == status and not any(reply.has(h) for h in HEADERS), path
    assert ask(proxy).status == 429


def test_burst_and_return(launch):
    """All of the burst at once, then one by one at the rate."""
    _, proxy = launch(strict(3, 120))
    left = []
    for n in range(3):
        reply = ask(proxy)
        assert reply.status == 200
        left.append(figures(reply))
    assert left == [(120, 119), (120, 118), (120, 117)]
    reply = ask(proxy)
    assert reply.status == 429 and reply.get("Retry-After") == "1" and figures(reply) == (120, 117)
    began = time.monotonic()
    eventually(lambda: ask(proxy).status == 200, "a request comes back", 3, 0.05)
    assert time.monotonic() - began < 1.5


def test_limit_of_all(launch):
    """One limit for all clients together."""
    _, proxy = launch({PER_IP: 100, GLOBAL: 2, BURST: 2, TRUST: True})
    for n in range(2):
        reply = ask(proxy, [("X-Forwarded-For", "192.0.2.%d" % n)])
        assert reply.status == 200 and figures(reply) == (100, 99)
    reply = ask(proxy, [("X-Forwarded-For", "192.0.2.9")])
    assert reply.status == 429 and figures(reply) == (100, 0) and "global_requests_per_minute" in reply.text()
    assert 20 <= int(reply.get("Retry-After")) <= 31


def test_zero_is_no_limit(launch):
    """Nothing is limited, and nothing shows that there could be limits."""
    backend, proxy = launch({BURST: 1})
    backend.on(CHAT, lambda c, r: c.reply({"ok": 1}, headers=[("X-RateLimit-Limit", "7"), ("X-RateLimit-Remaining-Tokens", "5")]))
    with Client(proxy.port) as client:
        for _ in range(300):
            reply = client.post(CHAT, BODY)
            assert reply.status == 200
            assert reply.get_all("X-RateLimit-Limit") == ["7"] and not reply.has("X-RateLimit-Remaining")
    assert security(proxy)[0]["violations"]["rate_limits"] == 0


def test_global_limit_alone(launch):
    """It holds without one for each address; then the headers tell of it."""
    _, proxy = launch({GLOBAL: 60, BURST: 3})
    statuses = []
    for n in range(4):
        reply = ask(proxy)
        statuses.append(reply.status)
        assert figures(reply) == (60, max(0, 2 - n))
    assert statuses == [200, 200, 200, 429] and reply.get("Retry-After") == "1"


def test_backends_own_headers(launch):
    """Those of the same names would contradict ours; others are the backend's own words."""
    backend, proxy = launch(strict(5, 50))
    backend.on(CHAT, lambda c, r: c.reply({"ok": 1}, headers=[
        ("x-ratelimit-limit", "7"), ("X-RateLimit-Remaining", "6"), ("X-RateLimit-Reset", "5"), ("X-RateLimit-Remaining-Tokens", "4")]))
    reply = ask(proxy)
    assert reply.status == 200 and figures(reply) == (50, 49) and reply.get("X-RateLimit-Remaining-Tokens") == "4"


def test_headers_on_errors(launch):
    """Whatever the answer to a request that counts: it says what is left."""
    _, proxy = launch({PER_IP: 100, GLOBAL: 0, BURST: 50, "server.request_limits.max_body_size": "1KB"})
    with Client(proxy.port) as client:
        assert figures(client.post(CHAT, dict(BODY, model="nobody"))) == (100, 99)
        assert figures(client.post("/v1/messages", {"x": 1})) == (100, 98)
        reply = client.post(CHAT, dict(BODY, x="y" * 2000))
        assert reply.status == 413 and figures(reply) == (100, 97)
    reply = proxy.post("/olla/sglang" + CHAT, BODY)
    assert reply.status == 404 and figures(reply) == (100, 96)


def test_upgrade_counts(launch):
    """A tunnel is one request."""
    _, proxy = launch(strict())
    assert ask(proxy).status == 200
    with Client(proxy.port) as client:
        reply = client.request("GET", REALTIME, headers=ASK)
        assert reply.status == 429 and figures(reply) == (1, 0)


@pytest.mark.parametrize("how", ["whole", "part", "expect"])
def test_body_is_not_read(launch, how):
    """Refused at the head; what follows is not taken for a request."""
    backend, proxy = launch(strict())
    assert ask(proxy).status == 200
    seen = len(calls(backend))
    with Client(proxy.port) as client:
        if how == "whole":
            client.send(request_bytes("POST", CHAT, json_headers(), request_bytes("GET", "/internal/health")))
        elif how == "part":
            client.send(request_bytes("POST", CHAT, json_headers([("Content-Length", "5000000")])) + b"{")
        else:
            client.send(request_bytes("POST", CHAT, json_headers([("Content-Length", "50"), ("Expect", "100-continue")])))
        reply = client.read_response("POST")
        assert reply.status == 429 and reply.get("Connection") == "close"
        assert client.read_eof() == b""
    assert len(calls(backend)) == seen


def test_connection_goes_on_without_a_body(launch):
    _, proxy = launch(strict())
    with Client(proxy.port) as client:
        statuses = [client.request("GET", "/v1/files").status for _ in range(3)]
        assert statuses[1:] == [429, 429] and client.request("GET", "/internal/health").status == 200


def test_wrong_keys_count(launch):
    """Who tries keys shall not try many; the right one has to wait as well then."""
    key = "sk-alice-5f1c0de"
    _, proxy = launch(strict(3, **{"key:alice.secret": key}))
    statuses = [proxy.post(CHAT, BODY, [("x-api-key", k)]).status for k in ("wrong-key-1", "wrong-key-2", key, key, "wrong-key-3")]
    assert statuses == [401, 401, 200, 429, 429]


def test_once_for_a_request(world):
    """Attempts at other endpoints are not requests."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    for one in (a, b):
        one.on(CHAT, lambda c, r: c.reply({"error": "no"}, status=503))
    proxy = world.olla({"a": rarely_probed(a), "b": rarely_probed(b)}, strict(5, 50))
    reply = proxy.post(CHAT, {"model": "m1"})
    assert reply.status == 503 and figures(reply) == (50, 49) and len(a.calls) + len(b.calls) >= 2


# ---- figures and reload

def test_status_page(launch):
    _, proxy = launch(strict(2, **{TRUST: True}))
    assert security(proxy) == ({"status": "normal", "blocked_ips": 0, "violations": {
        "rate_limits": 0, "size_limits": 0, "refused_peers": 0, "refused_connections": 0}}, 0)
    for client in range(12):
        for n in range(4):
            assert ask(proxy, [("X-Forwarded-For", "192.0.2.%d" % client)]).status == (200 if n < 2 else 429)
    seen, violations = security(proxy)
    assert seen["blocked_ips"] == 12 and seen["violations"]["rate_limits"] == 24 == violations
    assert seen["status"] == "elevated"  # more than ten of them
    warnings = proxy.find_logs("requests over server.rate_limits are answered with 429")
    assert 1 <= len(warnings) <= 3  # not one for each


def test_reload(world, launch):
    backend, proxy = launch(strict())
    with Client(proxy.port) as client:
        assert client.request("GET", "/v1/files").status != 429
        assert client.request("GET", "/v1/files").status == 429
        for n, (settings, limited) in enumerate([({PER_IP: 0}, False), (strict(), True), (strict(1, 60000), False)]):
            proxy.reload(world.spec, settings)
            eventually(lambda: len(proxy.find_logs("configuration reloaded")) == n + 1, "reloaded", 5, 0.02)
            if settings.get(PER_IP) == 1:
                client.request("GET", "/v1/files")  # while there was no limit its minute came back, or not
            time.sleep(0.05)
            assert (client.request("GET", "/v1/files").status == 429) == limited


# ---- behind proxies

def spoof(address):
    return [("X-Forwarded-For", address), ("X-Real-IP", address)]


@pytest.mark.parametrize("settings", [{}, {TRUST: False}, {TRUST: True, PROXIES: "10.0.0.0/8"}, {TRUST: True, PROXIES: ""}], ids=str)
def test_nobody_is_believed(launch, settings):
    """What a client says of itself opens nothing."""
    _, proxy = launch(strict(2, **settings))
    request_id = new_id()
    assert ask(proxy, spoof("192.0.2.1") + [("X-Request-ID", request_id)]).status == 200
    assert ask(proxy, spoof("192.0.2.2")).status == 200
    assert ask(proxy, spoof("192.0.2.3")).status == 429
    assert proxy.access(request_id)["client"] == "127.0.0.1"


@pytest.mark.parametrize("headers,client", [
    ([("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
    ([("X-Forwarded-For", "198.51.100.7, 192.0.2.1, 127.0.0.9")], "192.0.2.1"),
    ([("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
    ([("X-Forwarded-For", "2001:DB8::1")], "2001:db8::1"),
    ([("X-Real-IP", "192.0.2.4")], "192.0.2.4"),
    (spoof("192.0.2.5"), "192.0.2.5"),
    ([("X-Forwarded-For", "192.0.2.1, nonsense")], "127.0.0.1"),
    ([("X-Real-IP", "nonsense")], "127.0.0.1"),
    ([], "127.0.0.1")], ids=str)
def test_a_trusted_proxy_is_believed(launch, headers, client):
    """The log says who it was, the limit is his, and the backend hears the truth."""
    backend, proxy = launch(strict(1, **{TRUST: True, PROXIES: "127.0.0.0/8"}))
    request_id = new_id()
    assert ask(proxy, headers + [("X-Request-ID", request_id)]).status == 200
    assert proxy.access(request_id)["client"] == client
    assert ask(proxy, headers).status == 429
    assert ask(proxy, [("X-Forwarded-For", "203.0.113.99")]).status == 200
    call = calls(backend)[0]
    told = [v for k, v in headers if k == "X-Forwarded-For"]
    assert ", ".join(call.get_all("X-Forwarded-For")) == ", ".join(told + ["127.0.0.1"])
    assert call.get_all("X-Real-IP") == [client]


def test_backends_hear_no_spoofed_address(launch):
    """With trust_proxy_headers on, what others say is not passed on."""
    backend, proxy = launch(strict(5, **{TRUST: True, PROXIES: "10.0.0.0/8"}))
    assert ask(proxy, spoof("192.0.2.1")).status == 200
    call = calls(backend)[0]
    assert call.get_all("X-Forwarded-For") == ["127.0.0.1"] and call.get_all("X-Real-IP") == ["127.0.0.1"]


def test_clients_of_one_connection(launch):
    """A proxy brings many clients on one connection: each has a limit of its own."""
    _, proxy = launch(strict(2, **{TRUST: True}))
    with Client(proxy.port) as client:
        for n in range(3):
            for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
                reply = client.request("GET", "/v1/files", headers=[("X-Forwarded-For", address)])
                assert (reply.status == 429) == (n == 2)
        assert client.request("GET", "/v1/files", headers=[("X-Forwarded-For", "2001:db8::2")]).status == 429  # the same network
        assert client.request("GET", "/v1/files", headers=[("X-Forwarded-For", "2001:db8:0:1::2")]).status != 429


def test_sticky_by_address(world):
    """Two clients behind one proxy are two."""
    backends = {name: world.backend(OpenAIBackend, name, ["m1"]) for name in "ab"}
    proxy = world.olla({n: rarely_probed(b) for n, b in backends.items()}, {
        TRUST: True, "proxy.load_balancer": "round-robin", "proxy.sticky_sessions.key_sources": "ip"})
    seen = []
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1"):
        reply = ask_model(proxy, address)
        seen.append((reply.get("X-Olla-Sticky-Session"), reply.get("X-Olla-Endpoint")))
    assert [s for s, _ in seen] == ["miss", "miss", "hit", "hit", "hit"]
    assert seen[0][1] == seen[2][1] == seen[4][1] and seen[1][1] == seen[3][1]


def ask_model(proxy, address):
    reply = proxy.post(CHAT, {"model": "m1", "messages": []}, [("X-Forwarded-For", address)])
    assert reply.status == 200
    return reply


def test_own_pages_are_not_open_through_a_proxy(launch):
    """With keys, /internal/ is open on this machine: what a proxy here brings comes from elsewhere."""
    _, proxy = launch({TRUST: True, "key:alice.secret": "sk-alice-5f1c0de"})
    assert proxy.get("/internal/status").status == 200
    assert proxy.get("/internal/health", [("X-Forwarded-For", "192.0.2.1")]).status == 200
    for address in ("192.0.2.1", "127.0.0.1", "::1"):
        assert proxy.get("/internal/status", [("X-Forwarded-For", address)]).status == 401
        assert proxy.get("/internal/status", [("X-Real-IP", address)]).status == 401


# ---- connections

def has_ipv6(proxy):
    try:
        Client(proxy.port, host="::1").close()
        return True
    except OSError:
        return False


def test_ipv6(launch):
    """Both families have limits of their own on one machine."""
    _, proxy = launch(strict(**{"server.host": '""'}))
    if not has_ipv6(proxy):
        pytest.skip("no IPv6 loopback here")
    request_id = new_id()
    assert ask(proxy).status == 200 and ask(proxy).status == 429
    assert ask(proxy, [("X-Request-ID", request_id)], host="::1").status == 200
    assert ask(proxy, host="::1").status == 429
    assert proxy.access(request_id)["client"] == "::1"


def refused(proxy):
    try:
        with Client(proxy.port) as client:
            return client.request("GET", "/internal/health").status != 200
    except (ConnectionError, Closed):
        return True


def test_who_may_connect(world, launch):
    """Others are closed at once, whatever they would ask for; counted, and said once in a while."""
    _, proxy = launch({"server.host": "0.0.0.0", ALLOWED: "127.0.0.1/32, 10.0.0.0/8"})
    kept = world.client(proxy)
    assert kept.request("GET", "/internal/health").status == 200
    proxy.reload(world.spec, {"server.host": "0.0.0.0", ALLOWED: ["127.0.0.2/32", "10.0.0.0/8"]})
    proxy.wait_log("configuration reloaded")
    for _ in range(5):
        assert refused(proxy)
    assert kept.request("GET", "/internal/health").status == 200  # who is in stays
    seen = proxy.status(kept)["security"]
    assert seen["violations"]["refused_peers"] == 5 and seen["status"] == "normal"
    entry = proxy.wait_log("connection closed, its peer may not connect", client="127.0.0.1", setting="server.access.allowed_cidrs")
    assert entry["level"] == "WARN" and len(proxy.find_logs("connection closed, its peer may not connect")) <= 2
    proxy.reload(world.spec, {"server.host": "0.0.0.0", ALLOWED: ""})
    eventually(lambda: not refused(proxy), "everybody may connect", 5, 0.05)


def test_no_warning_about_strangers(world):
    """Who says who may connect need not be told that everybody could."""
    for settings, said in (({}, 1), ({ALLOWED: "127.0.0.0/8"}, 0)):
        proxy = world.olla({}, dict({"server.host": "0.0.0.0"}, **settings), ready=None)
        assert proxy.get("/internal/health").status == 200
        eventually(lambda: len([e for e in proxy.logs if e["msg"].startswith("anybody on the network")]) == said, "warned or not", 2)


def test_connections_of_one_client(world, launch):
    _, proxy = launch({MOST: 3})
    first = world.client(proxy)
    eventually(lambda: next(p["used"] for p in proxy.status(first)["pools"] if p["name"] == "clients") == 1, "alone", 5)
    clients = [first, world.client(proxy), world.client(proxy)]
    for client in clients:
        assert client.request("GET", "/internal/health").status == 200
    for _ in range(4):
        assert refused(proxy)
    assert proxy.status(first)["security"]["violations"]["refused_connections"] == 4
    proxy.wait_log("connection closed, its peer has too many", client="127.0.0.1", setting="server.access.max_connections_per_client")
    clients[1].close()
    eventually(lambda: not refused(proxy), "one may come again", 5, 0.05)
    proxy.reload(world.spec, {MOST: 0})
    eventually(lambda: all(not refused(proxy) for _ in range(5)), "any number", 5, 0.05)


# ---- configuration

@pytest.mark.parametrize("key,value", [(ALLOWED, "10.0.0.0/8, 10.0.0.300/8"), (PROXIES, "127.0.0.1"), (PROXIES, "::1/129")], ids=str)
def test_bad_ranges_are_errors(tmp_path, key, value):
    path = tmp_path / "olla.ini"
    path.write_text(build_config(1, {}, {key: value}))
    code, _, err = run_cli("-t", "-c", path)
    assert code == 1 and "%s:6: %s: not a range of addresses: " % (path, key) in err, err
