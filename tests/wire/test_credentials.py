"""Credentials and custom headers of endpoints: what a backend sees, what nobody else ever sees."""

import base64
import json
import os
import signal
import time

import pytest

from backend import BlackHole, LlamaBackend, OllamaBackend, OpenAIBackend, eventually
from client import request_bytes
from harness import build_config, endpoint, run_cli
from messages import ROOT, ask, prepare, send
from servers import Compatible

CHAT = "/v1/chat/completions"
PATH = "/olla/proxy/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
SECRETS = ("s3cret-token", "s3cret-key", "s3cret-pass", "s3cret-header", "s3cret-file", "s3cret-env")
ASK = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
AGREE = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]
BASIC = base64.b64encode(b"alice:s3cret-pass").decode()
CLIENTS_OWN = {"Authorization": "Bearer clients-own", "X-Api-Key": "clients-own", "Cookie": "a=clients-own", "X-Auth-Token": "clients-own",
               "Proxy-Authorization": "Basic clients-own"}

KINDS = {
    "bearer": ({"auth.type": "bearer", "auth.token": "s3cret-token"}, "Authorization", "Bearer s3cret-token"),
    "api_key": ({"auth.type": "api_key", "auth.key": "s3cret-key"}, "X-Api-Key", "s3cret-key"),
    "api_key in another header": ({"auth.type": "api_key", "auth.key": "s3cret-key", "auth.header": "X-My-Key"}, "X-My-Key", "s3cret-key"),
    "basic": ({"auth.type": "basic", "auth.username": "alice", "auth.password": "s3cret-pass"}, "Authorization", "Basic " + BASIC),
    "headers": ({"headers.X-Tenant": "s3cret-header"}, "X-Tenant", "s3cret-header"),
}


def agree(conn, request):
    conn.head(101, AGREE, "Switching Protocols")
    conn.wait_close(30)


def holders(server):
    """Everything the server was ever asked, by olla or through it."""
    return sorted(server.requests, key=lambda r: r.when)


def search(proxy, more=()):
    """No secret is in any log line, status page or error reply."""
    time.sleep(0.2)
    texts = [json.dumps(list(proxy.logs)), proxy.stderr(), repr(proxy.stray_output)]
    for target in ("/internal/status", "/internal/status/models", "/internal/health", "/internal/process", "/olla/models", "/v1/models", "/version",
                   "/nothing", "/v1/nothing"):
        reply = proxy.get(target)
        texts.append(repr(reply.raw_head) + repr(reply.body))
    texts += [repr(r.raw_head) + repr(r.body) for r in more]
    for secret in SECRETS + (BASIC, base64.b64encode(b"s3cret").decode()[:7]):
        for text in texts:
            assert secret not in text, secret


# ---- every request of an endpoint carries them

@pytest.mark.parametrize("kind", KINDS)
def test_every_request_carries_them(world, kind):
    """Proxied and translated requests, upgrades, health checks, lists and questions about load; a client's own never get there."""
    keys, name, value = KINDS[kind]
    a = world.backend(LlamaBackend, "a", ["m1"])
    b = world.backend(LlamaBackend, "b", ["m2"])  # load is asked for only when there is a choice
    c = prepare(world.backend(Compatible, "c", ["m3"]))
    for server in (a, b, c):
        server.on("/props", lambda conn, r: conn.reply({}))
        server.on("/slots", lambda conn, r: conn.reply([{"id": 0, "is_processing": False}]))
        server.on("/v1/realtime", agree)
    proxy = world.olla({"a": endpoint(a, **FAST, **keys), "b": endpoint(b, **FAST), "c": endpoint(c, **FAST, **keys)})
    replies = [proxy.post(PATH, {"model": "m1"}, CLIENTS_OWN), proxy.post("/v1/chat/completions", {"model": "m1", "stream": True}, CLIENTS_OWN),
               send(proxy, ask(model="m3"), ROOT, CLIENTS_OWN), send(proxy, ask(model="m3", stream=True), ROOT, CLIENTS_OWN)]
    assert [r.status for r in replies] == [200] * 4, [r.body for r in replies]
    assert replies[2].get("X-Olla-Mode") == "translation"
    client = world.client(proxy)
    client.send(request_bytes("GET", "/v1/realtime?model=m1", ASK + list(CLIENTS_OWN.items())))
    assert client.read_head().status == 101
    client.close()
    eventually(lambda: {"/health", "/v1/models", "/props", "/slots", CHAT, "/v1/realtime"} <= {r.path for r in a.requests}, "all kinds of questions")
    for server in (a, c):
        for request in holders(server):
            assert request.get_all(name) == [value], (request.line, request.headers)
            assert b"clients-own" not in request.raw_head
            assert request.get_all("Host") == ["127.0.0.1:%d" % server.port]
    for request in holders(b):
        assert not request.has(name) and b"s3cret" not in request.raw_head, request.line
    search(proxy, replies)


@pytest.mark.parametrize("kind", ["bearer", "headers"])
def test_detection_carries_them(world, kind):
    """Servers that want a key for everything are detected with it."""
    keys, name, value = KINDS[kind]
    a = world.backend(OllamaBackend, "a", ["m1"])
    for path, handler in list(a.routes.items()):
        a.on(path, lambda c, r, handler=handler: handler(c, r) if r.get(name) == value else c.reply({"error": "no"}, 401))
    proxy = world.olla({"a": endpoint(a, type="auto", **FAST, **keys)})
    assert proxy.endpoint("a")["detected_type"] == "ollama"
    assert all(r.get_all(name) == [value] for r in holders(a))


def test_lists_of_all_machines_carry_them(world):
    """/api/ps asks every Ollama; the path stands below the base path."""
    servers = [world.backend(OllamaBackend, name, ["m-" + name]) for name in "ab"]
    for server in servers:
        server.on("/api/ps", lambda c, r: c.reply({"models": []}))
    proxy = world.olla({s.name: endpoint(s, **KINDS["bearer"][0]) for s in servers})
    assert proxy.get("/api/ps").status == 200
    for server in servers:
        asked = [r for r in server.requests if r.path == "/api/ps"]
        assert asked and all(r.get_all("Authorization") == ["Bearer s3cret-token"] for r in asked)


# ---- who wins

@pytest.mark.parametrize("keys, wanted", [
    ({"headers.Authorization": "Bearer h", "auth.type": "bearer", "auth.token": "e"}, ["Bearer e"]),
    ({"headers.authorization": "Bearer h"}, ["Bearer h"]),
    ({"headers.X-Other": "1"}, [])])
def test_auth_beats_headers_beats_the_client(world, keys, wanted):
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, **keys)})
    assert proxy.post(PATH, {"model": "m1"}, {"Authorization": "Bearer c"}).status == 200
    assert a.calls[0].get_all("Authorization") == wanted
    assert all(r.get_all("Authorization") == wanted for r in a.probes)


def test_headers_replace_all_others(world):
    """What clients send, what olla adds, what it drops: a configured header is there once, with its own value."""
    own = {"X-Forwarded-For": "own", "via": "own", "X-Proxied-By": "own", "X-Real-IP": "own", "X-Model": "own", "User-Agent": "own", "Cookie": "own",
           "X-Two": "own", "Accept": "own", "X-Olla-Endpoint": "own", "X-Empty": '""'}
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, **{"headers." + name: value for name, value in own.items()})})
    reply = proxy.request("POST", PATH, b'{"model":"m1"}', [("Content-Type", "application/json"), ("X-Two", "1"), ("x-two", "2"), ("Cookie", "c"),
                                                           ("Via", "1.1 x"), ("X-Empty", "1"), ("X-Kept", "k"), ("User-Agent", "c")])
    assert reply.status == 200
    call = a.calls[0]
    for request in [call] + a.probes:
        for name, value in own.items():
            assert request.get_all(name) == ["" if value == '""' else value], (name, request.headers)
    assert call.get("X-Kept") == "k" and call.json() == {"model": "m1"} and call.get("X-Forwarded-Proto") == "http"
    assert reply.get_all("X-Olla-Endpoint") == ["a"]


def test_values_come_from_the_environment(world):
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, **{"auth.type": "bearer", "auth.token": "${MY_TOKEN}", "headers.X-A": "p-${MY_A:-d}-${MY_B:-d}"})},
                       env={"MY_TOKEN": "s3cret-env", "MY_B": "b"})
    assert all(r.get_all("Authorization") == ["Bearer s3cret-env"] and r.get_all("X-A") == ["p-d-b"] for r in holders(a))
    search(proxy)


def test_failover_gives_each_its_own(world):
    """The next endpoint gets its own credentials and none of the first."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    a.on(CHAT, lambda c, r: c.reply({"error": "busy"}, 503))
    proxy = world.olla({"a": endpoint(a, priority=200, **KINDS["bearer"][0], **KINDS["headers"][0]),
                        "b": endpoint(b, priority=100, **KINDS["api_key"][0])}, {"proxy.load_balancer": "priority"})
    reply = proxy.post(PATH, {"model": "m1"})
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "b"
    assert a.calls[0].get("Authorization") and a.calls[0].get("X-Tenant") and not a.calls[0].has("X-Api-Key")
    assert b.calls[0].get("X-Api-Key") and not b.calls[0].has("Authorization") and not b.calls[0].has("X-Tenant")


# ---- replies

def test_replies_lose_the_names(world):
    """A backend that says back what it was sent tells no client."""
    keys = {"auth.type": "api_key", "auth.key": "s3cret-key", "auth.header": "X-My-Key", "headers.X-Tenant": "s3cret-header", "headers.Date": "x"}
    a = world.backend(OpenAIBackend, "a", ["m1"])
    said = {"x-my-key": "s3cret-key", "X-TENANT": "s3cret-header", "X-Kept": "k", "Date": "s3cret-header"}
    a.on(CHAT, lambda c, r: c.reply({"n": 1}, headers=said))
    a.on("/v1/embeddings", lambda c, r: c.reply({"n": 1}, 400, headers=said))
    a.on("/v1/realtime", lambda c, r: (c.head(101, AGREE + list(said.items()), "Switching Protocols"), c.wait_close(30)))
    proxy = world.olla({"a": endpoint(a, **keys)})
    replies = [proxy.post(PATH, {"model": "m1"}), proxy.post("/v1/embeddings", {"model": "m1"})]
    client = world.client(proxy)
    client.send(request_bytes("GET", "/v1/realtime?model=m1", ASK))
    replies.append(client.read_head())
    client.close()
    for reply, status in zip(replies, (200, 400, 101)):
        assert reply.status == status and reply.get("X-Kept") == "k"
        assert not reply.has("X-My-Key") and not reply.has("X-Tenant")
        assert len(reply.get_all("Date")) == 1 and b"s3cret" not in reply.raw_head


# ---- other hosts

def test_other_hosts_get_nothing(world):
    """health_check_url and model_url may name other hosts; they are asked without credentials, also while a type is found out."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    keys = {**KINDS["bearer"][0], **KINDS["headers"][0]}
    proxy = world.olla({"a": endpoint(a, health_check_url=b.url + "/health", model_url=b.url + "/v1/models", **FAST, **keys),
                        "c": endpoint(a, type="auto", model_url=b.url + "/v1/models", **FAST, **keys)})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    eventually(lambda: {"/health", "/v1/models"} <= {r.path for r in b.requests}, "probes at the other host")
    for request in b.requests:
        assert not request.has("Authorization") and not request.has("X-Tenant") and b"s3cret" not in request.raw_head
    assert a.calls[0].get("Authorization")


def test_own_host_written_out_is_no_other(world):
    a = world.backend(OpenAIBackend, "a", ["m1"])
    world.olla({"a": endpoint(a, health_check_url=a.url + "/health", **KINDS["bearer"][0])})
    assert all(r.get("Authorization") for r in a.requests)


def test_redirects_are_not_followed(world):
    """A backend cannot send them elsewhere."""
    a, b = world.backend(OpenAIBackend, "a", ["m1"]), world.backend(OpenAIBackend, "b", ["m1"])
    for path in ("/health", CHAT):
        a.on(path, lambda c, r: c.reply(b"", 302, headers={"Location": b.url + r.path}))
    proxy = world.olla({"a": endpoint(a, type="llamacpp", **FAST, **KINDS["bearer"][0]), "d": endpoint(a, **KINDS["bearer"][0])}, ready=["d"])
    proxy.wait_state("a", "unhealthy")
    assert proxy.post(PATH, {"model": "m1"}).status == 302
    assert not b.requests


# ---- a backend that wants other credentials

@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_a_config_error(world, status):
    """The reason says what to do, and nothing of the credentials."""
    a = world.backend(LlamaBackend, "a", ["m1"])
    a.on("/health", lambda c, r: c.reply({"error": "s3cret"}, status))
    proxy = world.olla({"none": endpoint(a, **FAST), "wrong": endpoint(a, **FAST, **KINDS["bearer"][0]),
                        "other": endpoint("http://127.0.0.1:1", type="llamacpp", health_check_url=a.url + "/health", **FAST, **KINDS["bearer"][0])},
                       ready=None)
    for name, text in (("none", "auth.type"), ("wrong", "other credentials"), ("other", "another host of health_check_url")):
        proxy.wait_state(name, "config_error")
        assert str(status) in proxy.endpoint(name)["reason"] and text in proxy.endpoint(name)["reason"]
        proxy.wait_log("endpoint state", endpoint=name, to="config_error")
    search(proxy, [proxy.post(PATH, {"model": "m1"})])


def test_list_that_wants_other_credentials(world):
    a = world.backend(LlamaBackend, "a", ["m1"])
    a.on("/v1/models", lambda c, r: c.reply({"error": "no"}, 401))
    proxy = world.olla({"a": endpoint(a, **FAST, **KINDS["bearer"][0])}, ready={"a": 0})
    assert "other credentials" in proxy.wait_log("model list cannot be read", endpoint="a")["reason"]


# ---- reload

def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def reload_and_wait(proxy, count):
    proxy.signal(signal.SIGHUP)
    eventually(lambda: len(proxy.find_logs("configuration reloaded")) == count, "reload %d" % count)


def test_changed_file_is_used_after_a_reload(world, tmp_path):
    """The connection that was kept is used again, with what the file says now."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    secret = write(tmp_path / "token", "  s3cret-file-1\r\n\n")
    proxy = world.olla({"a": endpoint(a, check_interval="120s", **{"auth.type": "bearer", "auth.token_file": secret})})
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    write(secret, "s3cret-file-2${HOME}")
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    reload_and_wait(proxy, 1)
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert [c.get("Authorization") for c in a.calls] == ["Bearer s3cret-file-1"] * 2 + ["Bearer s3cret-file-2${HOME}"]
    assert a.calls[2].conn is a.calls[1].conn
    search(proxy)


def test_new_credentials_are_tried_at_once(world, tmp_path):
    """An endpoint that refused the old ones does not wait for its next turn."""
    a = world.backend(LlamaBackend, "a", ["m1"])
    a.on("/health", lambda c, r: c.reply({"status": "ok"}, 200 if r.get("Authorization") == "Bearer s3cret-file-2" else 401))
    secret = write(tmp_path / "token", "s3cret-file-1")
    proxy = world.olla({"a": endpoint(a, check_interval="60s", check_timeout="1s", **{"auth.type": "bearer", "auth.token_file": secret})}, ready=None)
    proxy.wait_state("a", "config_error")
    write(secret, "s3cret-file-2")
    reload_and_wait(proxy, 1)
    proxy.wait_healthy({"a": 1}, 5)


@pytest.mark.parametrize("damage", ["gone", "empty", "two lines", "too long", "fifo"])
def test_bad_file_at_a_reload_changes_nothing(world, tmp_path, damage):
    a = world.backend(OpenAIBackend, "a", ["m1"])
    secret = write(tmp_path / "token", "s3cret-file-1")
    proxy = world.olla({"a": endpoint(a, **{"auth.type": "bearer", "auth.token_file": secret})})
    secret.unlink()
    if damage == "fifo":
        os.mkfifo(secret)
    elif damage != "gone":
        write(secret, {"empty": " \n", "two lines": "s3cret-file\r\nX-Evil: 1", "too long": "s3cret-file" * 200}[damage])
    proxy.allowed_errors = True
    proxy.signal(signal.SIGHUP)
    proxy.wait_log("reload refused, the old configuration stays in force")
    told = [e["msg"] for e in proxy.logs if e["level"] == "ERROR"][0]
    assert "endpoint:a.auth.t" in told and ".ini:" in told, told
    assert str(secret) in told or damage not in ("gone", "fifo")
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    assert a.calls[0].get_all("Authorization") == ["Bearer s3cret-file-1"] and not a.calls[0].has("X-Evil")
    search(proxy)


def test_new_credentials_do_not_go_to_the_old_machine(world):
    """A connection was being made when a reload put another machine in the endpoint's place."""
    b, hole = world.backend(OpenAIBackend, "b", ["m1"]), world.keep(BlackHole())
    old = endpoint(hole.url, type="openai-compatible", health="none", connection_timeout="20s", **{"auth.type": "bearer", "auth.token": "s3cret-token"})
    new = endpoint(b, health="none", **{"auth.type": "bearer", "auth.token": "s3cret-key"})
    proxy = world.olla({"a": old}, {"discovery.model_discovery.enabled": False}, ready=None)
    proxy.wait_state("a", "healthy")
    client = world.client(proxy)
    client.start_post(PATH, {"messages": []})
    eventually(lambda: proxy.endpoint("a")["connections"] == 1, "the request waits for its connection")
    proxy.reload({"a": new}, {"discovery.model_discovery.enabled": False})
    eventually(lambda: proxy.find_logs("configuration reloaded"), "reload")
    hole.listener.settimeout(8)
    seen = b""
    for sock in hole.fillers:
        sock.close()
    try:
        while not b.calls:
            sock, _ = hole.listener.accept()
            sock.settimeout(2)
            try:
                seen += sock.recv(1 << 16)
            except OSError:
                pass
            sock.close()
    except OSError:
        pass
    assert client.read_response("POST", 10).status == 200
    assert b"s3cret" not in seen and b"POST" not in seen
    assert b.calls[0].get_all("Authorization") == ["Bearer s3cret-key"]


# ---- what is refused

REFUSED = {
    "unknown type": ({"auth.type": "oauth2", "auth.token": "s3cret-token"}, "auth.type"),
    "both": ({"auth.type": "bearer", "auth.token": "s3cret-token", "auth.token_file": "/dev/null"}, "auth.token_file"),
    "neither": ({"auth.type": "basic", "auth.password": "s3cret-pass"}, "auth.username"),
    "forbidden": ({"auth.type": "bearer", "auth.token": "s3cret-token", "auth.key": "s3cret-key"}, "auth.key"),
    "unset variable": ({"auth.type": "bearer", "auth.token": "s3cret-token-${NOT_THERE}"}, "auth.token"),
    "two lines": ({"auth.type": "bearer", "auth.token": "${TWO_LINES}"}, "auth.token"),
    "two lines in a header": ({"headers.X-A": "s3cret-header ${TWO_LINES}"}, "headers.X-A"),
    "line end and user": ({"auth.type": "basic", "auth.username": "${TWO_LINES}", "auth.password": "s3cret-pass"}, "auth.username"),
    "name with a blank": ({"auth.type": "api_key", "auth.key": "s3cret-key", "auth.header": "X A"}, "auth.header"),
    "name of another header": ({"auth.type": "api_key", "auth.key": "s3cret-key", "auth.header": "X-A: 1, X-B"}, "auth.header"),
    "Host": ({"headers.Host": "s3cret-header"}, "headers.Host"),
    "Transfer-Encoding": ({"headers.Transfer-Encoding": "s3cret-header"}, "headers.Transfer-Encoding"),
    "too long": ({"headers.X-A": "${LONG}"}, "headers.X-A"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_check_of_the_configuration(binary, tmp_path, case):
    """`olla -t` names file, line, endpoint and key, and no value."""
    keys, key = REFUSED[case]
    text = build_config(1234, {"gpu": endpoint("http://127.0.0.1:1", **keys)}, {})
    line = 1 + [n for n, l in enumerate(text.split("\n")) if l.startswith((key if key != "auth.username" or key in keys else "auth.type") + " =")][0]
    path = write(tmp_path / "olla.ini", text)
    code, out, err = run_cli("-t", "-c", path, env={"TWO_LINES": "s3cret-env\r\nX-Evil: 1", "LONG": "s3cret-env" * 110})
    assert code == 1 and "s3cret" not in out + err, err
    assert err.startswith("%s:%d: endpoint:gpu.%s: " % (path, line, key)), err


def test_valid_configuration_shows_nothing(binary, tmp_path):
    secret = write(tmp_path / "token", "s3cret-file")
    path = write(tmp_path / "olla.ini", build_config(1234, {
        "a": endpoint("http://127.0.0.1:1", **{"auth.type": "bearer", "auth.token_file": secret}),
        "b": endpoint("http://127.0.0.1:1", **KINDS["basic"][0], **KINDS["headers"][0])}, {}))
    code, out, err = run_cli("-t", "-c", path)
    assert code == 0 and "s3cret" not in out + err and err == ""
    code, out, err = run_cli("--print-settings", env={"OLLA_CONFIG_FILE": str(path)})
    assert code == 0 and "s3cret" not in out + err


# ---- logs and room

def test_queries_are_not_logged(world):
    """A client that puts its key into the query finds it in no log line."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on("/v1/realtime", agree)
    proxy = world.olla({"a": a}, {"logging.level": "debug"})
    for name in ("api_key", "token", "access_token", "key", "password", "secret", "auth"):
        proxy.post("%s?%s=s3cret-token" % (PATH, name), {"model": "m1"})
        proxy.get("/v1/models?%s=s3cret-token" % name)
        proxy.get("/nowhere?%s=s3cret-token" % name)
    client = world.client(proxy)
    client.send(request_bytes("GET", "/v1/realtime?model=m1&api_key=s3cret-token", ASK))
    assert client.read_head().status == 101
    client.close()
    eventually(lambda: len(proxy.find_logs("request", endpoint="a")) == 8, "all requests are logged")
    assert "s3cret" not in json.dumps(list(proxy.logs))


def test_largest_head_with_the_largest_headers(world):
    """What fits goes through whole; what does not is a 431, and nobody's memory is touched."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, **{"headers.X-Long": "${LONG}"})}, env={"LONG": "v" * (1024 - len("X-Long: \r\n"))})
    seen = set()
    for size in list(range(13000, 14800, 150)) + [14600]:
        reply = proxy.request("POST", PATH, b'{"model":"m1"}', [("Content-Type", "application/json"), ("X-Fill", "f" * size)])
        seen.add(reply.status)
        if reply.status == 200:
            assert a.calls[-1].get("X-Fill") == "f" * size and len(a.calls[-1].get("X-Long")) == 1014
    assert 200 in seen and seen <= {200, 431}, seen
