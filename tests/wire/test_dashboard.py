"""The page for browsers at /internal/ui/: its routes, its headers, who may open it, and what is in its files."""

import hashlib
import re

import pytest

from backend import OpenAIBackend, eventually
from client import Client, request_bytes
from harness import REPO, World, endpoint, rarely_probed, report, run_cli

KEY = "sk-alice-5f1c0de"
PAGE, SCRIPT, STYLE = "/internal/ui/", "/internal/ui/olla.js", "/internal/ui/olla.css"
FILES = {PAGE: ("index.html", "text/html; charset=utf-8"), SCRIPT: ("olla.js", "text/javascript; charset=utf-8"),
         STYLE: ("olla.css", "text/css; charset=utf-8")}
NETS, HOSTS = "dashboard.access_policy.allowed_cidrs", "dashboard.access_policy.allowed_hosts"
ADVICE = "Adjust dashboard.access_policy.allowed_hosts (or allowed_cidrs) in your config.\n"
MOST = 30000  # bytes of all files together


class Site:
    def __init__(self, *settings):
        self.world = World()
        self.backend = self.world.backend(OpenAIBackend, "b", ["m1"])
        self.proxy = self.world.olla({"b": endpoint(self.backend)}, dict(settings), ready=None)
        self.proxy.key = dict(settings).get("key:alice.secret")
        self.proxy.wait_healthy({"b": 1})

    @property
    def proxies(self):
        return self.world.proxies

    def ask(self, path, method="GET", headers=(), host="localhost", body=None):
        return self.proxy.request(method, path, body, headers, host=host)


@pytest.fixture
def plain(kept):
    yield from sites(kept)


@pytest.fixture
def keyed(kept):
    yield from sites(kept, ("key:alice.secret", KEY))


@pytest.fixture
def elsewhere(kept):
    """Nobody who asks here may look; with a key."""
    yield from sites(kept, ("key:alice.secret", KEY), (NETS, "192.0.2.0/24"))


def sites(kept, *settings):
    site = kept(Site, *settings)
    before = len(site.proxy.logs)
    yield site
    report(site.proxy.idle_problems() + ["ERROR in the log: %r" % e for e in site.proxy.logs[before:] if e["level"] == "ERROR"])


def policy(reply):
    """The parts of its Content-Security-Policy."""
    values = reply.get_all("Content-Security-Policy")
    assert len(values) == 1
    return dict(part.strip().partition(" ")[::2] for part in values[0].split(";"))


def check_guard(reply):
    assert reply.get_all("X-Content-Type-Options") == ["nosniff"]
    assert reply.get_all("X-Frame-Options") == ["DENY"]
    assert reply.get_all("Referrer-Policy") == ["no-referrer"]
    csp = policy(reply)
    assert csp["default-src"] == csp["frame-ancestors"] == csp["base-uri"] == csp["form-action"] == csp["trusted-types"] == "'none'"
    assert csp["script-src"] == csp["style-src"] == csp["connect-src"] == "'self'"
    assert csp["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in reply.get("Content-Security-Policy")


def check_text(reply, status, text):
    assert (reply.status, reply.text()) == (status, text)
    assert reply.get("Content-Type") == "text/plain; charset=utf-8"
    check_guard(reply)


# ---- what is there

@pytest.mark.parametrize("path", FILES)
def test_files(plain, path):
    reply = plain.ask(path)
    assert reply.status == 200 and reply.framing == "length"
    assert reply.get("Content-Type") == FILES[path][1]
    assert reply.get("Cache-Control") == "no-cache"
    assert reply.get("ETag") == '"%s"' % hashlib.sha256(reply.body).hexdigest()[:32]
    assert reply.has("Last-Modified") and reply.has("X-Olla-Request-ID")
    check_guard(reply)
    source = (REPO / "src" / "ui" / FILES[path][0]).read_text("ascii")
    lines = [line.strip(" ") for line in source.split("\n")]
    lines = [line for line in lines if line and not re.match(r"//|/\*.*\*/$|<!-- .* -->$", line)]
    wanted = "\n".join(lines) + "\n"
    for where, pattern in ((STYLE, r" *([{};:,]) *"), (SCRIPT, r" ([+=]=*>*) ")):
        wanted = re.sub(pattern, r"\1", wanted) if path == where else wanted
    assert reply.text() == wanted


def test_all_of_it_is_small(plain):
    assert sum(len(plain.ask(path).body) for path in FILES) <= MOST


def test_nothing_is_inline_or_from_elsewhere(plain):
    page = plain.ask(PAGE).text()
    assert re.findall(r"<(script|style)\b[^>]*>([^<]*)", page) == [("script", "")]
    assert not re.search(r"\s(style|on\w+)=", page)
    assert re.findall(r'(?:src|href)="(?!/internal/|#|data:image/svg)([^"]*)"', page) == []
    for path in (SCRIPT, STYLE):
        text = plain.ask(path).text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|[\"'`]//|@import|url\(", text), path
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\('(style|on)", text), path


def test_what_looks_like_no_file_is_the_page(plain):
    page = plain.ask(PAGE)
    for path in (PAGE + "index.html", PAGE + "models", PAGE + "a/b", PAGE + "a.b/c", PAGE + "?x=1"):
        reply = plain.ask(path)
        assert (reply.status, reply.body) == (200, page.body), path
        check_guard(reply)
    for path in ("x.js", "assets/x", "assets/", "a/olla.js", "olla.js.map", "%2e.js", ".x"):
        check_text(plain.ask(PAGE + path), 404, "404 page not found\n")


def test_slash_is_added(plain):
    for path in ("/internal/ui", "/internal/ui?x=1"):
        reply = plain.ask(path)
        assert reply.status == 307 and reply.get("Location") == PAGE
        check_guard(reply)


@pytest.mark.parametrize("path", [PAGE, SCRIPT, "/internal/ui", PAGE + "no.js"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_only_shows(plain, path, method):
    reply = plain.ask(path, method, body=b"abc")
    check_text(reply, 405, "method not allowed\n")
    assert reply.get("Allow") == "GET, HEAD"


@pytest.mark.parametrize("path", [PAGE, SCRIPT, STYLE, PAGE + "no.js", "/internal/ui"])
def test_head(plain, path):
    whole, reply = plain.ask(path), plain.ask(path, "HEAD")
    assert (reply.status, reply.body) == (whole.status, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Location"):
        assert reply.get(name) == whole.get(name), name
    check_guard(reply)


def test_a_connection_serves_all_files(plain):
    with Client(plain.proxy.port) as client:
        for path in (SCRIPT, STYLE, PAGE, SCRIPT):
            assert client.request("GET", path, host="localhost").status == 200
            assert client.request("HEAD", path, host="localhost").status == 200


def test_a_slow_reader_gets_it_whole(plain):
    whole = plain.ask(SCRIPT).body
    with Client(plain.proxy.port, rcvbuf=2048) as client:
        client.send(request_bytes("GET", SCRIPT, host="localhost") * 12)
        for _ in range(12):
            assert client.read_response().body == whole


def test_not_sent_twice(plain):
    for path in FILES:
        first = plain.ask(path)
        tag, date = first.get("ETag"), first.get("Last-Modified")
        for headers in ({"If-None-Match": tag}, {"If-None-Match": "W/" + tag}, {"If-None-Match": '"x", ' + tag}, {"If-None-Match": "*"},
                        {"If-Modified-Since": date}, {"If-None-Match": tag, "If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}):
            reply = plain.ask(path, headers=headers)
            assert (reply.status, reply.body, reply.get("ETag")) == (304, b"", tag), headers
            assert not reply.has("Content-Type") and reply.get("Cache-Control") == "no-cache"
            check_guard(reply)
        for headers in ({"If-None-Match": '"x"'}, {"If-None-Match": '"x"', "If-Modified-Since": date}, {"If-Modified-Since": "yesterday"}):
            assert plain.ask(path, headers=headers).status == 200, headers


# ---- who may look

@pytest.mark.parametrize("host", ["localhost", "LocalHost", "localhost:40114", "127.0.0.1", "127.0.0.1:80", "192.168.1.9:40114", "[::1]", "[::1]:40114", "[fd00::7]"])
def test_hosts_that_are_known(plain, host):
    assert plain.ask(PAGE, host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil.example:40114", "localhostx", "127.0.0.1.evil.example", "[::1", "1.2.3", ""])
@pytest.mark.parametrize("path", [PAGE, SCRIPT, "/internal/ui", PAGE + "no.js"])
def test_hosts_that_are_not(plain, path, host):
    """A page of evil.example whose name suddenly has the address of this machine."""
    reply = plain.ask(path, host=host)
    if reply.status == 400:
        assert host in ("[::1", "")  # no Host at all
        return
    check_text(reply, 403, "403 forbidden: host not accepted (ip=127.0.0.1, host=%s). %s" % (host, ADVICE))


def test_a_host_is_not_repeated_without_end(plain):
    reply = plain.ask(PAGE, host="x" * 5000)
    check_text(reply, 403, "403 forbidden: host not accepted (ip=127.0.0.1, host=%s). %s" % ("x" * 200, ADVICE))


def test_hosts_of_the_configuration(world):
    proxy = world.olla({}, {HOSTS: "box.home, Pi"}, ready=None)
    for host, status in (("box.home:1", 200), ("pi", 200), ("PI:40114", 200), ("localhost", 403), ("10.0.0.1", 200)):
        assert proxy.request("GET", PAGE, host=host).status == status, host


def test_peers_that_may_not(elsewhere):
    """The address of the connection counts, nothing that a header says; not even a key helps."""
    said = "403 forbidden: ip not in allowed range (ip=127.0.0.1, host=localhost). " + ADVICE
    for path in (PAGE, SCRIPT, "/internal/ui", PAGE + "no.js"):
        for headers in ((), {"X-Forwarded-For": "192.0.2.7"}, {"Forwarded": "for=192.0.2.7"}, {"X-Real-IP": "192.0.2.7"}, {"Authorization": "Bearer " + KEY}):
            check_text(elsewhere.ask(path, headers=headers), 403, said)
    line = elsewhere.proxy.wait_log("dashboard access denied", level="WARN")
    assert (line["reason"], line["config_key"], line["client_ip"], line["host"]) == ("ip not in allowed range", NETS, "127.0.0.1", "localhost")
    lines = elsewhere.proxy.find_logs("request", path=PAGE)
    assert lines and {entry["end"] for entry in lines} == {"PR"} and {entry["status"] for entry in lines} == {403}


def test_off(world):
    """Without a page the paths are like any that is not there; the setting below it is not looked at."""
    proxy = world.olla({}, {"dashboard.enabled": False, NETS: ""}, ready=None)
    nowhere = proxy.get("/internal/nowhere")
    for path in (PAGE, "/internal/ui", SCRIPT):
        for method in ("GET", "POST"):
            reply = proxy.request(method, path, host="localhost")
            assert (reply.status, reply.body, reply.get("Content-Type")) == (404, nowhere.body, nowhere.get("Content-Type"))
            assert not reply.has("Content-Security-Policy")


def test_reload_changes_it(world):
    proxy = world.olla({}, {}, ready=None)
    assert proxy.request("GET", PAGE, host="localhost").status == 200
    for settings, status in (({NETS: "192.0.2.0/24"}, 403), ({"dashboard.enabled": False}, 404), ({}, 200)):
        proxy.reload({}, settings)
        eventually(lambda: proxy.request("GET", PAGE, host="localhost").status == status, "status %d for %r" % (status, settings))


# ---- keys: who may see the page may see what it shows

def test_the_page_and_its_data_need_no_key_here(keyed):
    for path in (PAGE, SCRIPT, STYLE, "/internal/status", "/internal/status/models", "/internal/stats/models", "/version"):
        assert keyed.ask(path).status == 200, path
    for path in ("/v1/models", "/olla/models", "/olla/proxy/v1/models"):
        assert keyed.ask(path).status == 401, path


def test_nor_elsewhere_without_one(elsewhere):
    for path in ("/internal/status", "/internal/status/models", "/internal/stats/models", "/version", "/internal/nowhere"):
        assert elsewhere.ask(path).status == 401, path
    assert elsewhere.ask("/internal/status", headers={"Authorization": "Bearer " + KEY}).status == 200
    assert elsewhere.ask("/internal/health").status == 200


def test_peers_of_the_policy_are_let_in(world):
    """Not this machine's other addresses: just those that are named."""
    proxy = world.olla({}, {"key:alice.secret": KEY, NETS: "127.0.0.1/32"}, ready=None)
    assert proxy.get("/internal/status").status == 200
    proxy.reload({}, {"key:alice.secret": KEY, NETS: "127.0.0.2/32", "dashboard.enabled": False})
    eventually(lambda: proxy.get("/internal/status").status == 401, "closed for 127.0.0.1")
    proxy.key = KEY


def test_behind_a_proxy_that_is_believed(world):
    """Whom it asks for is somebody else: neither the page nor its data without a key."""
    proxy = world.olla({}, {"key:alice.secret": KEY, "server.rate_limits.trust_proxy_headers": True}, ready=None)
    told = {"X-Forwarded-For": "203.0.113.9"}
    for path in (PAGE, "/internal/status"):
        assert proxy.request("GET", path, None, told, host="localhost").status == 401, path
        assert proxy.request("GET", path, None, dict(told, Authorization="Bearer " + KEY), host="localhost").status == 200, path
        assert proxy.request("GET", path, host="localhost").status == 200, path


# ---- settings

@pytest.mark.parametrize("lines, told", [
    ("allowed_cidrs =\n", "dashboard.access_policy.allowed_cidrs: empty while dashboard.enabled = true"),
    ("allowed_cidrs = 10.0.0.1\n", "dashboard.access_policy.allowed_cidrs: not a range of addresses"),
    ("allowed_hosts = a b\n", "dashboard.access_policy.allowed_hosts: not visible ASCII"),
])
def test_settings_that_cannot_be(tmp_path, lines, told):
    path = tmp_path / "olla.ini"
    path.write_text("[dashboard.access_policy]\n" + lines)
    code, out, err = run_cli("-t", "-c", path)
    assert code == 1 and ":2: " + told in out + err


# ---- the JSON that it reads

def test_models_tell_their_context_and_their_names_in_the_configuration(world):
    from servers import Ollama
    server = world.backend(Ollama, "o", ["llama3.2:3b", "qwen2.5:7b"])
    settings = {"model_aliases.fast": "nothing, LLAMA3.2:3b", "model_aliases.other": "absent", "model_alias:llama3.2:3b.models": "llama3.2:3b"}
    spec = {"o": rarely_probed(server)}
    proxy = world.olla(spec, settings)
    path = "/internal/status/models?detailed=true&group=family"

    def model():
        reply = proxy.get(path)
        return reply.get("ETag"), next(m for g in reply.json()["model_groups"] for m in g["models"] if m["name"] == "llama3.2:3b")
    tag, found = model()
    server.stop()
    listed = proxy.endpoint("o")["models"]
    assert found["aliases"] == ["fast"] and found["max_context_length"] == 131072
    proxy.reload(spec, dict(settings, **{"model_aliases.other": "llama3.2:3b"}))
    eventually(lambda: sorted(model()[1]["aliases"]) == ["fast", "other"], "the new alias is told")
    assert model()[0] != tag and proxy.endpoint("o")["models"] == listed, "the alias alone is new"


def test_time_of_requests_is_a_sum(plain):
    before = plain.proxy.endpoint("b")
    for _ in range(3):
        assert plain.proxy.post("/v1/chat/completions", {"model": "m1", "messages": []}).status == 200
    after = plain.proxy.endpoint("b")
    assert after["requests"] == before["requests"] + 3
    assert after["latency_sum_ms"] >= before["latency_sum_ms"] + 3 * after["min_latency_ms"]
    assert after["latency_sum_ms"] // after["requests"] == after["avg_latency_ms"]
