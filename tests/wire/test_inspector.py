"""The inspector: what is said through the Messages API, in files; all of it, for nobody else, and no secrets."""

import datetime
import json
import os
import pathlib
import re
import shutil
import stat
import tempfile
import threading
import time

import pytest

from backend import Gate, eventually
from client import dump
from harness import endpoint, report
from messages import (CHAT, COUNT, DONE, NATIVE, NATIVE_EVENTS, ROOT, Bench, ask, completion, delta, envelope, events,
                      finish, message, send, start, stream, text)
from servers import Vllm

INSPECTOR = "translators.anthropic.inspector."
MODES = ["native", "translated"]
KEY = "sk-ant-api03-" + "k" * 40
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")


class Recorded(Bench):
    """One server, a proxy with an inspector in front of it, and what that wrote. native: the server speaks Messages."""

    def __init__(self, native=False, settings=None, **keys):
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="olla-inspector-"))
        self.dir = self.top / "deep" / "er"
        self.native = native
        on = {INSPECTOR + "enabled": True, INSPECTOR + "output_dir": self.dir}
        super().__init__(dict(on, **(settings or {})), *([Vllm] if native else []), **keys)

    def files(self):
        return sorted(str(f.relative_to(self.dir)) for f in self.dir.rglob("*") if f.is_file())

    def lines(self, session="default"):
        """All entries of a session, strictly read."""
        found = [f for f in self.dir.rglob(session + ".jsonl")]
        raw = b"".join(f.read_bytes() for f in sorted(found))
        assert raw == b"" or raw.endswith(b"\n")
        out = []
        for line in raw.decode("utf-8").split("\n")[:-1]:
            entry = json.loads(line)
            assert STAMP.match(entry["ts"]) and entry["type"] in ("request", "response") and entry["request_id"], entry
            out.append(entry)
        return out

    def wait(self, wanted, session="default"):
        """Until so many lines are complete: a reader may come while one is written."""
        def there():
            raw = b"".join(f.read_bytes() for f in self.dir.rglob(session + ".jsonl"))
            return raw.count(b"\n") >= wanted and raw.endswith(b"\n")
        eventually(there, "%d entries of %s" % (wanted, session), 5)

    def pair(self, session="default"):
        """Of one request: its entry, and that of its reply, which is written when the exchange is over."""
        self.wait(2, session)
        lines = self.lines(session)
        assert [e["type"] for e in lines] == ["request", "response"], lines
        assert lines[0]["request_id"] == lines[1]["request_id"]
        return lines

    def forget(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def answers(self, handler):
        self.a.on(self.a.messages if self.native else CHAT, handler)


@pytest.fixture
def record(binary):
    """record(...) makes a Recorded."""
    made = []

    def make(*args, **keys):
        made.append(Recorded(*args, **keys))
        return made[-1]
    try:
        yield make
        problems = [p for site in made for p in site.world.close()]
    finally:
        for site in made:
            shutil.rmtree(site.top, ignore_errors=True)
    report(problems)


@pytest.fixture(params=MODES)
def site(record, request):
    return record(native=request.param == "native")


# ---- what is written

def test_whole(site):
    body = ask(system="be brief")
    reply = send(site.proxy, dump(body).replace(b",", b" \r\n, "), headers={"X-Request-ID": "one"})
    asked, said = site.pair("one")
    assert set(asked) == {"type", "ts", "request_id", "model", "body"} and asked["model"] == "m1"
    assert asked["body"] == body
    assert set(said) == {"type", "ts", "request_id", "status", "endpoint", "complete", "body"}
    assert (said["status"], said["endpoint"], said["complete"]) == (200, "a", True)
    assert said["body"] == reply.json() and asked["request_id"] == "one"
    assert site.files() == [datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d") + "/one.jsonl"]


def test_bytes_are_kept(site):
    """Numbers and escapes are those of the client, and of the backend that speaks the API itself."""
    raw = b'{"model":"m1","max_tokens":50,\n"big":12345678901234567890, "f":1.0,"s":"\\u00e4\\n\xc3\xa4","messages":' + dump(ask()["messages"]) + b"}\n"
    send(site.proxy, raw)
    site.pair()
    lines = next(site.dir.rglob("*.jsonl")).read_bytes().split(b"\n")
    assert raw.replace(b"\n", b" ") in lines[0]
    if site.native:
        assert NATIVE.replace(b"\n", b" ") in lines[1]


def test_stream(site):
    """As the client got it."""
    reply = send(site.proxy, ask(stream=True))
    asked, said = site.pair()
    assert asked["body"]["stream"] is True
    assert said["text"] == reply.body.decode() and "body" not in said and said["complete"] is True
    assert events(said["text"].encode()).ended if not site.native else NATIVE_EVENTS.decode() in said["text"]


def test_error_of_the_backend(site):
    site.answers(lambda conn, request: conn.reply({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, 400))
    reply = send(site.proxy, ask())
    asked, said = site.pair()
    assert (said["status"], said["complete"], said["body"]) == (400, True, reply.json())


def test_unknown_model(site):
    reply = send(site.proxy, ask(model="nobody"))
    asked, said = site.pair()
    assert envelope(reply, 404) and said["body"] == reply.json() and said["status"] == 404 and said["complete"] is True
    assert "endpoint" not in said and asked["model"] == "nobody"


def test_text_is_no_object(site):
    """A page, and bytes that are no characters."""
    if not site.native:
        pytest.skip("translated replies are always JSON")
    page = b"<p>\"\\\n\xff\xc3\xa4\xe2\x82"
    site.answers(lambda conn, request: conn.reply(page, 500, ctype="text/html"))
    send(site.proxy, ask())
    asked, said = site.pair()
    assert said["text"] == "<p>\"\\\n\ufffd\u00e4\ufffd\ufffd" and said["status"] == 500


def test_no_utf8_in_json(site):
    site.answers(lambda conn, request: conn.reply(NATIVE if site.native else completion()))
    send(site.proxy, dump(ask(system="SYSTEM")).replace(b"SYSTEM", b"a\xff\xc3\xa4\xe2\x82"))
    asked, said = site.pair()
    assert asked["body"]["system"] == "a\ufffd\u00e4\ufffd\ufffd" and said["complete"] is True


def test_compressed(record):
    """Nobody could read it, and secrets could not be found in it."""
    site = record(native=True)
    site.answers(lambda conn, request: conn.reply(b"\x1f\x8b" + os.urandom(50), headers=[("Content-Encoding", "gzip")]))
    send(site.proxy, ask(), headers={"Accept-Encoding": "gzip"})
    asked, said = site.pair()
    assert said["encoding"] == "gzip" and "text" not in said and "body" not in said and said["complete"] is True


def test_broken_stream(site):
    def handler(conn, request):
        conn.start_chunked("text/event-stream")
        conn.chunk(NATIVE_EVENTS[:120] if site.native else delta(content="hel"))
        conn.fin()
    site.answers(handler)
    reply = send(site.proxy, ask(stream=True))
    asked, said = site.pair()
    assert said["complete"] is False and said["text"] == reply.body.decode() and "event: error" in said["text"]


def test_client_leaves(site):
    """What it got until then."""
    gate = Gate()
    def handler(conn, request):
        conn.start_chunked("text/event-stream")
        conn.chunk(NATIVE_EVENTS[:300] if site.native else delta(content="hel"))
        gate.wait()
    site.answers(handler)
    client = start(site.client(), ask(stream=True))
    head = client.read_head("POST")
    head.read_at_least(50)
    client.close()
    asked, said = site.pair()
    gate.open()
    assert said["complete"] is False and said["status"] == 200 and said["text"].startswith(head.body.decode()[:50])


def test_client_leaves_before_the_reply(site):
    gate = Gate()
    site.answers(lambda conn, request: gate.wait())
    client = start(site.client(), ask())
    eventually(lambda: [c for c in site.a.calls if c.method == "POST"], "the request is there", 5)
    client.close()
    asked, said = site.pair()
    gate.open()
    assert (said["status"], said["complete"], said["text"]) == (499, False, "")


def test_heartbeats(record):
    """Errors after the first sign of life go down as an event; they are the reply then."""
    site = record(settings={"proxy.heartbeat.interval": "100ms"})
    def handler(conn, request):
        time.sleep(0.4)
        conn.reply({"error": {"message": "no such thing"}}, 400)
    site.answers(handler)
    reply = send(site.proxy, ask(stream=True))
    asked, said = site.pair()
    assert said["text"] == reply.body.decode() and "no such thing" in said["text"]
    assert said["status"] == 200 and said["complete"] is False


@pytest.mark.parametrize("body", [b"", b"{", b"[]", dump(ask(messages=...)), dump(ask(max_tokens=0)), dump(ask(model=...))])
def test_refused_requests_are_not_recorded(record, body):
    site = record()
    assert send(site.proxy, body).status == 400
    assert site.files() == []


def test_only_messages(record):
    """Not what is counted, nor other APIs."""
    site = record(native=True)
    assert send(site.proxy, ask(), ROOT + COUNT).status == 200
    site.proxy.post(CHAT, {"model": "m1", "messages": []})
    assert site.files() == []


# ---- large bodies

def test_a_megabyte(site):
    """With characters of several bytes across every border of what is kept."""
    long = "\u00e4b\u20ac\U0001f600\"\\\n" * 110000
    if site.native:
        site.answers(lambda conn, request: conn.reply(dump({"type": "message", "content": [text(long)]})))
    else:
        site.replies(completion(long))
    for size in (1, 7, 20):
        site.forget()
        reply = send(site.proxy, dump(ask(system="x" * size + long)))
        asked, said = site.pair()
        assert asked["body"] == ask(system="x" * size + long)
        assert said["body"] == reply.json() and said["body"]["content"] == [text(long)]


def test_a_megabyte_of_stream(site):
    piece = "\u00e4\u20ac\U0001f600" * 1000
    def handler(conn, request):
        conn.start_chunked("text/event-stream")
        for n in range(200):
            conn.chunk(b"event: x\ndata: {\"t\":\"%s\"}\n\n" % piece.encode() if site.native else delta(content=piece))
        if not site.native:
            conn.chunk(finish() + DONE)
        conn.end_chunks()
    site.answers(handler)
    reply = send(site.proxy, ask(stream=True))
    asked, said = site.pair()
    assert len(reply.body) > 1000000 and said["text"] == reply.body.decode() and said["complete"] is True


def test_no_room(record):
    """Without a spool the recorder takes what fits, and the client gets everything."""
    site = record(native=True, settings={"proxy.spool_dir": '""'})
    long = "x" * 500000
    site.answers(lambda conn, request: conn.reply(dump({"type": "message", "content": [text(long)]})))
    reply = send(site.proxy, ask())
    assert reply.json()["content"] == [text(long)]
    asked, said = site.pair()
    assert said["truncated"] is True and "body" not in said and said["complete"] is True
    assert reply.body.decode().startswith(said["text"]) and len(said["text"]) > 10000


# ---- sessions

@pytest.mark.parametrize("headers,session,warned", [
    ({}, "default", False),
    ({"X-Session-ID": "abc_DEF-9"}, "abc_DEF-9", False),
    ({"x-session-id": "s", "X-Request-ID": "r"}, "s", False),
    ({"X-Request-ID": "r"}, "r", False),
    ({"X-Session-ID": "", "X-Request-ID": "r"}, "r", False),
    ({"X-Session-ID": "a" * 64}, "a" * 64, False),
    ({"X-Session-ID": "a" * 65}, "default", True),
    ({"X-Session-ID": "../../etc"}, "default", True),
    ({"X-Session-ID": "../../etc", "X-Request-ID": "r"}, "default", True),
    ({"X-Session-ID": "a/b"}, "default", True),
    ({"X-Session-ID": "a.b"}, "default", True),
    ({"X-Session-ID": ".."}, "default", True),
    ({"X-Session-ID": "a b"}, "default", True),
    ({"X-Session-ID": "a%2fb"}, "default", True),
    ({"X-Session-ID": "\u00e4"}, "default", True),
    ({"X-Request-ID": "a.b"}, "default", True),
    ({"X-Session-ID": KEY}, "default", True),
])
def test_session(record, headers, session, warned):
    site = record(native=True)
    send(site.proxy, ask(), headers=headers)
    site.pair(session)
    assert [os.path.basename(f) for f in site.files()] == [session + ".jsonl"]
    site.proxy.wait_log("request")
    warnings = site.proxy.find_logs("no name for a session of the inspector, taken as default")
    assert len(warnings) == warned and KEY not in json.dumps(warnings)


def test_session_header(record):
    site = record(settings={INSPECTOR + "session_header": "X-Mine"})
    send(site.proxy, ask(), headers={"X-Mine": "mine", "X-Session-ID": "other"})
    site.pair("mine")
    assert len(site.files()) == 1


def test_two_sessions_at_once(site):
    """Streams side by side; each in its own file, each whole."""
    def handler(conn, request):
        seen = request.json()
        tag = (seen.get("system") or seen["messages"][0]["content"]).encode()
        conn.start_chunked("text/event-stream")
        for n in range(50):
            conn.chunk(b"event: x\ndata: {\"t\":\"%s\"}\n\n" % tag if site.native else delta(content=tag.decode()))
            time.sleep(0.002)
        if not site.native:
            conn.chunk(finish() + DONE)
        conn.end_chunks()
    site.answers(handler)
    replies = {}
    def one(tag):
        replies[tag] = send(site.proxy, ask(stream=True, system=tag), headers={"X-Session-ID": tag})
    threads = [threading.Thread(target=one, args=(tag,)) for tag in ("left", "right", "third")]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for tag, reply in replies.items():
        asked, said = site.pair(tag)
        assert asked["body"]["system"] == tag and said["text"] == reply.body.decode() and said["text"].count(tag) == 50


def test_entries_are_appended(record):
    site = record(native=True)
    with site.client() as client:
        for n in range(20):
            assert client.post(ROOT, ask(system=str(n))).status == 200
    site.wait(40)
    lines = site.lines()
    assert [e["body"]["system"] for e in lines[::2]] == [str(n) for n in range(20)]
    assert [e["request_id"] for e in lines[::2]] == [e["request_id"] for e in lines[1::2]]


# ---- secrets

SECRETS = {
    KEY: "sk-[removed]",
    "ghp_" + "a1" * 18: "ghp_[removed]",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_123": "eyJ[removed]",
    "Bearer abcdefghijklmnop0123": "Bearer [removed]",
    "basic dXNlcjpwYXNzd29yZA==": "basic [removed]",
    "AKIAIOSFODNN7EXAMPLE": "AKIA[removed]",
}


def test_secrets(site):
    """In requests, in replies, in arguments within arguments; headers are not written at all."""
    told = "\n".join("%s\t\"%s\"" % (s, s) for s in SECRETS)
    wanted = told
    for secret, left in SECRETS.items():
        wanted = wanted.replace(secret, left)
    deep = json.dumps({"a": json.dumps({"b": told})})
    if site.native:
        site.answers(lambda conn, request: conn.reply({"type": "message", "content": [text(told), {"type": "x", "x": deep}]}))
    else:
        site.replies(completion(told + deep))
    reply = send(site.proxy, ask(system=told, metadata={"deep": deep}), headers={"x-api-key": KEY, "Authorization": "Bearer " + KEY})
    assert told in reply.json()["content"][0]["text"], "the client gets all of it"
    asked, said = site.pair()
    assert asked["body"]["system"] == wanted and wanted in said["body"]["content"][0]["text"]
    assert json.loads(json.loads(asked["body"]["metadata"]["deep"])["a"])["b"] == wanted
    raw = next(site.dir.rglob("*.jsonl")).read_bytes()
    for secret in SECRETS:
        assert secret.split(" ")[-1].encode() not in raw


def test_secrets_in_a_stream(site):
    """Also where a stream is text in a string."""
    told = "KEY=\n" + KEY + "\n"
    def handler(conn, request):
        if site.native:
            conn.start_chunked("text/event-stream")
            conn.chunk(b"event: x\ndata: " + dump({"t": told, "deep": json.dumps({"k": told})}) + b"\n\n")
            conn.end_chunks()
        else:
            stream(conn, [delta(content=told), delta(content=json.dumps({"k": told})), finish(), DONE])
    site.answers(handler)
    reply = send(site.proxy, ask(stream=True))
    asked, said = site.pair()
    assert KEY in reply.body.decode()
    assert said["text"] == reply.body.decode().replace(KEY, "sk-[removed]")


def test_secrets_in_names(record):
    site = record(native=True)
    send(site.proxy, ask(model=KEY), headers={"X-Request-ID": KEY, "X-Session-ID": "s"})
    asked, said = site.pair("s")
    assert asked["model"] == "sk-[removed]" and asked["request_id"] == "sk-[removed]"
    assert KEY.encode() not in next(site.dir.rglob("*.jsonl")).read_bytes()


def test_pictures_survive(site):
    """Base64 of a megabyte is one run, or many; nothing is taken out of it but what begins like a key."""
    picture = "iVBORw0KGgo" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo" * 30000 + "=="
    body = ask(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}}]}])
    send(site.proxy, body)
    asked, said = site.pair()
    assert asked["body"] == body


# ---- files

def test_permissions(record):
    site = record(native=True)
    send(site.proxy, ask())
    site.pair()
    for found in [site.top / "deep", site.dir] + list(site.dir.rglob("*")):
        assert stat.S_IMODE(found.stat().st_mode) == (0o600 if found.is_file() else 0o700), found


def fds(site):
    return [os.readlink("/proc/%d/fd/%s" % (site.proxy.pid, n)) for n in os.listdir("/proc/%d/fd" % site.proxy.pid)]


def test_nothing_stays_open(site):
    send(site.proxy, ask())
    site.pair()
    eventually(lambda: not [path for path in fds(site) if "olla-inspector" in path], "closed")


@pytest.mark.parametrize("obstacle", ["file", "link", "pipe", "directory"])
def test_cannot_write(site, obstacle):
    """Whatever stands in the way: a warning, and the client gets its reply."""
    today = site.dir / datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    target = site.top / "target"
    target.write_text("")
    if obstacle == "file":
        site.dir.parent.mkdir()
        site.dir.write_text("")
    else:
        today.mkdir(parents=True)
        path = today / "default.jsonl"
        {"link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path), "directory": path.mkdir}[obstacle]()
    for streamed in (False, True):
        assert send(site.proxy, ask(stream=streamed)).status == 200
    entry = site.proxy.wait_log("the inspector cannot write an entry")
    assert entry["level"] == "WARN" and entry["output_dir"] == str(site.dir) and entry["error"]
    assert len(site.proxy.find_logs("the inspector cannot write an entry")) == 1
    assert target.read_text() == ""
    if not streamed:
        message(send(site.proxy, ask()))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(record):
    site = record(native=True)
    site.dir.mkdir(parents=True)
    site.dir.chmod(0o500)
    assert send(site.proxy, ask()).status == 200
    assert "ermission" in site.proxy.wait_log("the inspector cannot write an entry")["error"]


def test_full_disk(record):
    """Half a line would spoil the file: it goes away again."""
    site = record(native=True)
    send(site.proxy, ask())
    site.pair()
    import resource
    size = next(site.dir.rglob("*.jsonl")).stat().st_size
    resource.prlimit(site.proxy.pid, resource.RLIMIT_FSIZE, (size + 20000, resource.RLIM_INFINITY))
    assert send(site.proxy, ask(system="x" * 40000)).status == 200
    site.proxy.wait_log("the inspector cannot write an entry")
    resource.prlimit(site.proxy.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lines = site.lines()
    assert [e["type"] for e in lines] == ["request", "response", "response"] and lines[2]["status"] == 200


# ---- on and off

def test_warning_at_start_and_reload(record):
    words = "the inspector is on: everything that is said through the Messages API is written to disk"
    site = record(native=True)
    entry = site.proxy.wait_log(words)
    assert entry["level"] == "WARN" and entry["output_dir"] == str(site.dir)
    servers = {"a": endpoint(site.a, health="none")}
    site.proxy.reload(servers, {INSPECTOR + "enabled": True, INSPECTOR + "output_dir": site.dir / "other"})
    eventually(lambda: len(site.proxy.find_logs(words)) == 2, "a second warning", 5)
    send(site.proxy, ask())
    site.pair()
    assert all(f.startswith("other/") for f in site.files())
    site.proxy.reload(servers)
    eventually(lambda: len(site.proxy.find_logs("configuration reloaded")) == 2, "the second reload", 5)
    site.forget()
    send(site.proxy, ask())
    assert site.files() == [] and len(site.proxy.find_logs(words)) == 2


def test_off(record):
    """Nothing is written, and nothing said."""
    site = record(native=True, settings={INSPECTOR + "enabled": False})
    for streamed in (False, True):
        assert send(site.proxy, ask(stream=streamed)).status == 200
    assert not site.dir.exists() and not [e for e in site.proxy.logs if "inspector" in e["msg"]]


def test_off_while_a_reply_runs(record):
    site = record(native=True)
    gate = Gate()
    def handler(conn, request):
        conn.start_chunked("text/event-stream")
        conn.chunk(NATIVE_EVENTS[:100])
        gate.wait()
        conn.chunk(NATIVE_EVENTS[100:])
        conn.end_chunks()
    site.answers(handler)
    client = start(site.client(), ask(stream=True))
    head = client.read_head("POST")
    head.read_at_least(50)
    site.proxy.reload({"a": endpoint(site.a, health="none")})
    site.proxy.wait_log("configuration reloaded")
    gate.open()
    assert head.read_rest().body == NATIVE_EVENTS
    site.proxy.wait_log("request")
    assert [e["type"] for e in site.lines()] == ["request"]
