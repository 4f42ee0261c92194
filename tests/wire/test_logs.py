"""Where log lines go and what is in them: files that are renamed and full, a system's log that comes and goes, a pipe
that nobody reads; nobody can forge a line, no line holds a secret, each tells its request, and limits have names."""

import json
import os
import re
import resource
import signal
import socket

import pytest

from backend import OpenAIBackend, eventually, hold
from client import Client, dump, json_headers, request_bytes
from harness import Olla, build_config, endpoint, new_id, rarely_probed, run_cli

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
BODY = {"model": "m1"}
REFUSED = "reload refused, the old configuration stays in force"
AGAIN = "the log could not be written for a while"
TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO |WARN |ERROR) \S")


def entries(path):
    """The lines of a log file; each has to be whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n"), data[-200:]
    return [json.loads(line) for line in data.splitlines()]


def has(path, msg, **fields):
    if not path.exists() or not path.read_bytes().endswith(b"\n"):
        return False
    return any(e["msg"] == msg and all(e.get(k) == v for k, v in fields.items()) for e in entries(path))


@pytest.fixture
def one(world):
    class One:
        backend = world.backend(OpenAIBackend, "a", ["m1"])

        def start(self, settings=None, **options):
            self.proxy = world.olla({"a": self.backend}, settings, **options)
            if (settings or {}).get("logging.output", "stdout") != "stdout":
                self.proxy.check_log_at_end = False
            return self.proxy

        def ask(self):
            name = new_id("log")
            assert self.proxy.post(PATH, BODY, {"X-Request-ID": name}).status == 200
            return name

        def reload(self, settings):
            self.proxy.reload({"a": self.backend}, settings)
    return One()


# ---- files

def test_file_and_rotation(one, tmp_path):
    """What logrotate does: the old file is complete, the new one goes on, and standard output stays empty."""
    log, old = tmp_path / "olla.log", tmp_path / "olla.log.1"
    proxy = one.start({"logging.output": "file", "logging.file": log})
    first = one.ask()
    eventually(lambda: has(log, "request", request_id=first), "the first request is in the file")
    assert has(log, "listening") and log.stat().st_mode & 0o7777 == 0o600
    os.rename(log, old)
    between = one.ask()
    proxy.signal(signal.SIGHUP)
    eventually(lambda: has(log, "configuration reloaded"), "the new file is used")
    last = one.ask()
    eventually(lambda: has(log, "request", request_id=last), "the last request is in the new file")
    assert has(old, "request", request_id=first) and has(old, "request", request_id=between)
    assert not has(log, "request", request_id=first) and not has(log, "request", request_id=between)
    assert proxy.logs == [] and proxy.stray_output == []
    proxy.signal()
    assert proxy.wait_exit() == 0
    assert entries(log)[-1]["msg"] == "stopped"


def test_rotation_with_a_wrong_configuration(one, tmp_path):
    """logrotate must not fill a disk with a file that has no name any more because somebody mistyped a setting."""
    log, old = tmp_path / "olla.log", tmp_path / "olla.log.1"
    settings = {"logging.output": "file", "logging.file": log}
    proxy = one.start(settings)
    os.rename(log, old)
    one.reload(dict(settings, **{"proxy.load_balancer": "luck"}))
    eventually(lambda: has(log, REFUSED), "the new file tells")
    name = one.ask()
    eventually(lambda: has(log, "request", request_id=name), "and is used")
    assert proxy.alive() and not has(old, REFUSED)


def test_file_goes_on_after_a_restart(one, world, tmp_path):
    log = tmp_path / "olla.log"
    log.write_text('{"msg":"from before"}\n')
    os.chmod(log, 0o640)
    one.start({"logging.output": "file", "logging.file": log})
    name = one.ask()
    eventually(lambda: has(log, "request", request_id=name), "the request is in the file")
    assert entries(log)[0]["msg"] == "from before" and log.stat().st_mode & 0o7777 == 0o640


def test_default_file(one, tmp_path):
    """As the reference: logs/olla.log, or in OLLA_LOG_DIR."""
    one.start({"logging.output": "file"}, cwd=tmp_path)
    eventually(lambda: has(tmp_path / "logs" / "olla.log", "listening"), "the file is there")
    one.start({"logging.output": "file"}, env={"OLLA_LOG_DIR": str(tmp_path / "mine")})
    eventually(lambda: has(tmp_path / "mine" / "olla.log", "listening"), "the other file is there")


@pytest.mark.parametrize("where, reason", [("", "Is a directory"), ("/a/b/olla.log", "No such file or directory")])
def test_no_start_without_the_file(world, binary, tmp_path, where, reason):
    """Better no start than a log that nobody will ever find; and it says why."""
    proxy = Olla(build_config(1, {}, {"logging.output": "file", "logging.file": str(tmp_path) + where}), 1, expect_exit=1)
    proxy.check_log_at_end = False
    world.proxies.append(proxy)
    assert proxy.wait_exit() == 1
    proxy.reader.join(5)
    line = proxy.find_logs("the log file cannot be opened")[0]
    assert line["level"] == "ERROR" and line["error"] == reason and line["file"] == str(tmp_path) + where


def test_check_of_the_configuration_makes_no_file(binary, tmp_path):
    (tmp_path / "olla.ini").write_text(build_config(1, {}, {"logging.output": "file", "logging.file": tmp_path / "x"}))
    assert run_cli("-t", "-c", tmp_path / "olla.ini")[0] == 0
    assert not (tmp_path / "x").exists()


def test_reload_to_other_sinks(one, tmp_path):
    """A sink that cannot be had refuses the reload, and nothing is lost on the way from one to another."""
    log = tmp_path / "olla.log"
    proxy = one.start()
    proxy.allowed_errors = ["the log file cannot be opened", REFUSED]
    one.reload({"logging.output": "file", "logging.file": tmp_path, "server.request_logging": False})
    assert proxy.wait_log("the log file cannot be opened")["error"] == "Is a directory"
    proxy.wait_log(REFUSED)
    assert proxy.access(one.ask()), "the old configuration, and the old sink"
    names = [one.ask()]
    one.reload({"logging.output": "file", "logging.file": log})
    eventually(lambda: has(log, "configuration reloaded"), "the file is used")
    names.append(one.ask())
    eventually(lambda: has(log, "request", request_id=names[1]), "the second request is in the file")
    assert proxy.find_logs("request", request_id=names[0]) and not has(log, "request", request_id=names[0])
    one.reload({})
    proxy.wait_log("configuration reloaded")
    names.append(one.ask())
    assert proxy.access(names[2])
    assert has(log, "request", request_id=names[1]) and not proxy.find_logs("request", request_id=names[1])


def test_full_disk(one, tmp_path):
    """A full disk costs lines, never requests; when there is room again, one line tells what is missing."""
    log, old = tmp_path / "olla.log", tmp_path / "full"
    proxy = one.start({"logging.output": "file", "logging.file": log}, limits={resource.RLIMIT_FSIZE: 40000})
    client = proxy.client()
    names = [new_id("full") for _ in range(600)]
    for name in names:
        assert client.post(PATH, BODY, {"X-Request-ID": name}).status == 200
    client.close()
    eventually(lambda: log.stat().st_size == 40000, "the file is full")
    os.rename(log, old)
    proxy.signal(signal.SIGHUP)
    eventually(lambda: has(log, AGAIN), "it tells when it can be written again", 10)
    last = one.ask()
    eventually(lambda: has(log, "request", request_id=last), "and goes on")
    gap = [e for e in entries(log) if e["msg"] == AGAIN]
    assert len(gap) == 1 and gap[0]["level"] == "WARN" and gap[0]["error"] == "File too large"
    kept = [json.loads(line) for line in old.read_bytes().split(b"\n")[:-1]] + entries(log)
    ids = [e["request_id"] for e in kept if e["msg"] == "request" and e["request_id"].startswith("full-")]
    assert ids == sorted(set(ids), key=names.index), "in order, none twice"
    assert 0 < len(names) - len(ids) <= gap[0]["dropped"]


def test_unread_pipe_is_counted(one):
    """Nobody reads standard output: requests go on, and later one line tells how many are missing."""
    proxy = one.start()
    proxy.log_gate.clear()
    names = [new_id("pipe") for _ in range(1500)]
    client = proxy.client()
    for name in names:
        assert client.request("GET", "/internal/health", None, {"X-Request-ID": name}).status == 200
    client.close()
    proxy.log_gate.set()
    told = proxy.wait_log("log lines dropped, the sink is too slow")
    last = one.ask()
    assert proxy.access(last)
    seen = {e["request_id"] for e in proxy.find_logs("request")}
    assert 0 < len([n for n in names if n not in seen]) <= told["dropped"]


# ---- the system's log

class Daemon:
    """What listens at /dev/log."""

    def __init__(self, path):
        self.path = str(path)
        self.lines = []
        self.sock = None

    def start(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.sock.setblocking(False)

    def stop(self, unlink=True):
        self.read()
        self.sock.close()
        if unlink:
            os.unlink(self.path)

    def read(self):
        while True:
            try:
                self.lines.append(self.sock.recv(65536).decode())
            except BlockingIOError:
                return self.lines

    def has(self, *parts):
        return [line for line in self.read() if all(part in line for part in parts)]


def test_syslog(one, tmp_path):
    """A daemon that comes late, goes and comes back; what it misses it hears of, as far as there is room."""
    daemon = Daemon(tmp_path / "log")
    settings = {"logging.output": "syslog", "logging.syslog_socket": daemon.path}
    proxy = one.start(settings)
    first = one.ask()
    for _ in range(40):
        one.ask()  # more than may wait for company: the first attempt to send has failed
    daemon.start()
    eventually(lambda: daemon.has(first) and daemon.has(AGAIN, "dropped=0"), "it hears what it missed", 10)
    form = re.compile(r"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d olla\[%d\]: (DEBUG|INFO |WARN |ERROR) \S[^\n]*\Z" % proxy.pid)
    for line in daemon.lines:
        match = form.match(line)
        assert match and {"30": "INFO ", "28": "WARN "}[match.group(1)] == match.group(2), line
    daemon.stop(unlink=False)  # a socket that nobody answers any more
    away = one.ask()
    os.unlink(daemon.path)
    daemon.start()
    eventually(lambda: daemon.has(away), "it hears it after its restart", 10)
    daemon.stop()
    for _ in range(400):
        one.ask()
    daemon.start()
    eventually(lambda: [line for line in daemon.has(AGAIN, "error=") if "dropped=0" not in line], "it is told", 10)
    last = one.ask()
    eventually(lambda: daemon.has(last), "and all goes on", 10)
    assert proxy.logs == [] and proxy.stray_output == []


def test_slow_syslog(one, tmp_path):
    """A daemon that does not read is full soon: that must not hold up anybody."""
    daemon = Daemon(tmp_path / "log")
    daemon.start()
    proxy = one.start({"logging.output": "syslog", "logging.syslog_socket": daemon.path, "logging.format": "json"})
    for _ in range(500):
        one.ask()
    eventually(lambda: daemon.has("log lines dropped, the sink is too slow"), "it is told", 20)
    for line in daemon.lines:
        assert "msg" in json.loads(line.partition("]: ")[2])
    assert proxy.alive()


def test_no_daemon_at_the_end(one, tmp_path):
    """Nobody listens: stopping must not take longer for it."""
    proxy = one.start({"logging.output": "syslog", "logging.syslog_socket": tmp_path / "nobody"})
    one.ask()
    proxy.signal()
    assert proxy.wait_exit(5) == 0


# ---- what is in a line

HOSTILE = ["\n", "\r\n2026-01-01 00:00:00.000 ERROR forged", "\"", "\\", "\x00", "\x1b[31m", "\x7f", "\x85", "\x9b31m", "é\U0001f999",
           "\"}\n{\"level\":\"ERROR\"", "%s%n", " msg=x"]


def hostile_requests(proxy):
    """Requests with hostile text wherever a client can put some. The number of those that were answered."""
    sent = 0
    for text in HOSTILE:
        quoted = "".join("%%%02x" % b for b in text.encode())
        raw = "".join(c for c in text if c >= " " and c not in "\r\n\x7f").encode("utf-8").decode("latin-1")
        for target in ("/olla/" + quoted, "/internal/health?" + quoted, "/olla/ollama/" + quoted + "?token=" + quoted):
            assert proxy.get(target).status in (200, 400, 404)
            sent += 1
        for name in ("User-Agent", "X-Request-ID", "X-Forwarded-For", "X-Session-ID", "X-Olla-Endpoint"):
            assert proxy.get("/internal/health", {name: "x" + raw}).status == 200
            sent += 1
        reply = proxy.post(PATH, {"model": text, "user": text})
        assert reply.status in (200, 400, 404)
        sent += 1
    for raw in (b"GET /\xff\xfe\x9b HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n",
                b"\x1b\x9b\x00\r\n\r\n", b"G\"E\\T / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /\"\\ HTTP/1.1\r\nHost: \x9b\r\n\r\n"):
        with Client(proxy.port) as client:
            client.send(raw)
            assert client.read_response().status in (200, 400, 404)
        sent += 1
    return sent


def test_hostile_text_in_json_lines(one, tmp_path):
    log = tmp_path / "olla.log"
    proxy = one.start({"logging.output": "file", "logging.file": log, "logging.level": "debug"})
    sent = hostile_requests(proxy)
    eventually(lambda: log.read_bytes().count(b'"msg":"request"') >= sent, "all requests are logged", 10)
    assert one.ask()
    data = log.read_bytes()
    text = data.decode("utf-8")  # and nothing else
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), "no command for a terminal"
    seen = [json.loads(line) for line in text.splitlines() if line]
    assert all({"timestamp", "level", "msg"} <= set(e) and e["level"] != "ERROR" for e in seen)
    models = [e.get("model") for e in seen if e["msg"] == "request" and e["path"] == PATH]
    for name in ("\"", "\\", "\x9b31m", "é\U0001f999", "%s%n"):
        assert name in models, "and it says truly what came: %r" % name


def test_hostile_text_in_text_lines(one, tmp_path):
    log = tmp_path / "olla.log"
    proxy = one.start({"logging.output": "file", "logging.file": log, "logging.level": "debug", "logging.format": "text"})
    sent = hostile_requests(proxy)
    eventually(lambda: log.read_bytes().count(b" INFO  request ") >= sent, "all requests are logged", 10)
    text = log.read_bytes().decode("utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), "no command for a terminal"
    lines = text.split("\n")[:-1]
    assert all(TEXT_LINE.match(line) for line in lines), [line for line in lines if not TEXT_LINE.match(line)]
    assert not any(TEXT_LINE.match(line).group(1) == "ERROR" for line in lines)
    assert r'model="\u009b31m"' in text and 'model="é' in text


SECRETS = ["api_key", "token", "access_token", "key", "password", "secret", "auth", "API_KEY", "x-goog-signature", "client%5fsecret"]


def test_queries_without_secrets(site):
    """The query is in the access line, for it tells what was asked; values that are secrets are not, in whatever way they came."""
    for name in SECRETS:
        request_id = new_id("secret")
        site.proxy.post("%s?a=1&%s=s3cret%%2fs3cret/s3cret&b=2" % (PATH, name), {"model": "m-oai"}, {"X-Request-ID": request_id})
        assert site.proxy.access(request_id)["query"] == "a=1&%s=[REDACTED]&b=2" % name
    for target in ("/v1/models;token=s3cret", "/v1/models%3Ftoken=s3cret", "/v1/models%3ftoken%3ds3cret", "/bot/sk-s3cret7890123456/x",
                   "/nowhere?next=%2F%3Fkey%3Ds3cret", "http://x/nowhere?q=eyJs3cret01234567890.s3cret"):
        request_id = new_id("secret")
        site.proxy.get(target, {"X-Request-ID": request_id})
        entry = site.proxy.access(request_id)
        assert "s3cret" not in json.dumps(entry) and ("REDACTED" in json.dumps(entry) or "[removed]" in json.dumps(entry)), entry
    request_id = new_id("plain")
    site.proxy.get("/internal/health?" + "x" * 500, {"X-Request-ID": request_id})
    assert site.proxy.access(request_id)["query"] == "x" * 126, "what is too long is cut"
    request_id = new_id("plain")
    site.proxy.get("/internal/health", {"X-Request-ID": request_id})
    assert "query" not in site.proxy.access(request_id)
    assert "s3cret" not in json.dumps(site.proxy.logs)


def test_every_line_about_a_request_tells_its_id(world):
    """Whatever a request sets off can be found by its id."""
    a, b = (world.backend(OpenAIBackend, name, ["m1"]) for name in "ab")
    a.on(CHAT, lambda conn, request: conn.sock.close())

    def broken(conn, request):
        conn.start_chunked()
        conn.chunk(b"data: {}\n\n")
        conn.sock.close()
    b.on(CHAT, broken)
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": rarely_probed(b)},
                       {"logging.level": "debug", "proxy.load_balancer": "priority", "proxy.breaker.consecutive_failures": 1})
    client = world.client(proxy)
    client.start_post(PATH, dict(BODY, stream=True), {"X-Request-ID": "broken"})
    client.read_head("POST").read_rest()
    proxy.access("broken")
    assert proxy.find_logs("attempt failed", request_id="broken", endpoint="a")
    assert proxy.find_logs("breaker", request_id="broken", endpoint="a", state="open")
    assert proxy.find_logs("reply broken off", request_id="broken", endpoint="b")
    with Client(proxy.port) as other:
        assert other.request("GET", "/internal/health", None, {"X-Request-ID": "next"}).status == 200
    assert proxy.access("next")
    for msg in ("listening", "models", "pool"):
        assert not any("request_id" in e for e in proxy.find_logs(msg)), "and nothing else has one"


def test_refused_heads_have_an_id(site):
    """A client that complains about a 400 can tell which."""
    with Client(site.proxy.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost x\r\n\r\n")
        reply = client.read_response()
    assert reply.status == 400
    entry = site.proxy.access(reply.get("X-Olla-Request-ID"))
    assert entry["status"] == 400 and entry["method"] == "-"


# ---- limits

def too_large(proxy, n):
    return proxy.request("POST", PATH, b"x" * 2000, json_headers({"X-Request-ID": "limit-%d" % n})).status


def long_head(proxy, n):
    return proxy.get("/internal/health", {"X-Request-ID": "limit-%d" % n, "X-Pad": "x" * 2000}).status


def many_lines(proxy, n):
    return proxy.get("/internal/health", [("X-Pad", "x")] * 200).status


def huge_head(proxy, n):
    with Client(proxy.port) as client:
        client.try_send(request_bytes("GET", "/", {"X-Pad": "x" * 30000}))
        return client.read_response().status


def plain(proxy, n):
    return proxy.post(PATH, BODY, {"X-Request-ID": "limit-%d" % n, "Authorization": "Bearer k3y-alice-1", "X-Olla-Session-ID": "s%d" % n}).status


LIMITS = {
    "body": ({"server.request_limits.max_body_size": 1000}, too_large, 413, "server.request_limits.max_body_size", 1000),
    "no-spool": ({"proxy.spool_dir": '""'}, lambda p, n: p.request("POST", PATH, b"x" * 300000, json_headers()).status, 413,
                 "OLLA_BODY_BLOCK, OLLA_MAX_BODY_BLOCKS (proxy.spool_dir is not set)", 4 * 65536),
    "head": ({"server.request_limits.max_header_size": 1024}, long_head, 431, "server.request_limits.max_header_size", 1024),
    "lines": ({}, many_lines, 431, "OLLA_MAX_HEADERS", 128),
    "huge-head": ({}, huge_head, 431, "OLLA_MAX_HEAD", 14848),
    "sessions": ({"proxy.sticky_sessions.max_sessions": 1}, plain, 200, "proxy.sticky_sessions.max_sessions", 1),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limits_are_named(one, case):
    """Who meets a limit wants to know which; a line for each time would be one more way to do harm."""
    settings, ask, status, limit, value = LIMITS[case]
    proxy = one.start(settings)
    assert {ask(proxy, n) for n in range(20)} == {status}
    assert proxy.access(one.ask())
    lines = proxy.find_logs(limit=limit)
    assert len(lines) in (1, 2), "one in five seconds: %r" % lines
    assert lines[0]["level"] == "WARN" and lines[0]["value"] == value and lines[0]["times"] == 1
    assert lines[0]["request_id"]


def test_key_and_line_limits_are_named(one, world):
    """The waiting line and the limit of a key, the same way."""
    proxy = world.olla({"a": endpoint(one.backend, max_concurrent=1)},
                       {"proxy.queue.max_waiting": 0, "key:alice.secret": "k3y-alice-1", "key:alice.requests_per_minute": 4})
    one.backend.on(CHAT, hold)
    client = world.client(proxy)
    client.start_post(PATH, BODY, {"Authorization": "Bearer k3y-alice-1"})
    one.backend.wait_calls(1)
    assert [plain(proxy, n) for n in range(8)] == [429] * 8
    full = proxy.wait_log(limit="proxy.queue.max_waiting")
    assert full["value"] == 0 and full["times"] == 1 and full["request_id"] == "limit-0"
    key = proxy.wait_log(limit="requests_per_minute")
    assert key["key"] == "alice" and key["request_id"] == "limit-3"
    client.close()


def test_pools_are_named(world):
    """All blocks for bodies are in use: those that follow go to disk, and it is said which constant would change it."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on(CHAT, hold)
    proxy = world.olla({"a": a})
    body = dump(dict(BODY, text="x" * 30000))
    clients = [world.client(proxy) for _ in range(12)]
    for client in clients:
        client.send(request_bytes("POST", PATH, json_headers(), body))
    a.wait_calls(12)
    line = proxy.wait_log("a pool is empty", pool="body_blocks")
    assert line["limit"] == "OLLA_MAX_BODY_BLOCKS" and line["value"] == 8 and line["times"] >= 1 and "spool" in line["outcome"]
    for client in clients:
        client.close()
