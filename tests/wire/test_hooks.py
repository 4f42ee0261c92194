"""Programs that are run on events: what they are told, and that none of them, however it behaves, holds anything up."""

import os
import signal
import time

import pytest

from backend import OpenAIBackend, eventually, hold
from harness import endpoint
from test_wake import CHAT, MAC, PATH, STICKY, chat, send, sleeping

RUN = {"check_interval": "1s"}


class Scripts:
    """Programs for hooks in a directory of their own, and what they have written there."""

    def __init__(self, path):
        self.path = path

    def make(self, name, text):
        file = self.path / name
        file.write_text("#!/bin/sh\n" + text)
        file.chmod(0o755)
        return str(file)

    def noting(self, name="note", extra=""):
        """One that writes its environment to a file of its own for each run."""
        return self.make(name, "env > %s/run.$$.tmp\n%s\nmv %s/run.$$.tmp %s/run.$$\n" % (self.path, extra, self.path, self.path))

    def runs(self, event=None):
        found = []
        for file in sorted(self.path.glob("run.*"), key=lambda f: f.stat().st_mtime_ns):
            if not file.name.endswith(".tmp"):
                env = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
                if event in (None, env.get("OLLA_EVENT")):
                    found.append(env)
        return found

    def wait(self, event, count=1):
        eventually(lambda: len(self.runs(event)) >= count, "%d runs for %s; have %r" % (count, event, self.runs()))
        return self.runs(event)


@pytest.fixture
def scripts(tmp_path):
    return Scripts(tmp_path)


def facts(env):
    return {key: value for key, value in env.items() if key.startswith("OLLA_")}


def processes(part):
    """Process ids whose command line has that part."""
    found = []
    for pid in os.listdir("/proc"):
        try:
            if pid.isdigit() and part.encode() in open("/proc/%s/cmdline" % pid, "rb").read():
                found.append(int(pid))
        except OSError:
            pass
    return found


# ---- what they are told ------------------------------------------------------------------------------

def test_up_and_down(world, scripts):
    note = scripts.noting()
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server, **RUN)}, {"hooks.up": note, "hooks.down": note})
    up = scripts.wait("up")[0]
    assert facts(up) == {"OLLA_EVENT": "up", "OLLA_ENDPOINT": "a", "OLLA_URL": server.url, "OLLA_REASON": "answers",
                         "OLLA_STATE": "healthy", "OLLA_MAC": ""}
    server.stop()
    down = scripts.wait("down")[0]
    assert (down["OLLA_STATE"], down["OLLA_REASON"]) == ("offline", "cannot be connected to")
    server.start()
    assert len(scripts.wait("up", 2)) == 2
    assert len(scripts.runs("down")) == 1
    assert proxy.get("/internal/metrics").text().count("\nolla_hooks_started_total 3\n") == 1


def test_a_machine_that_sleeps_and_is_woken(world, scripts):
    note = scripts.noting()
    proxy, machine = sleeping(world, {"hooks.down": note, "hooks.wake": note, "hooks.up": note}, boot=0.2)
    assert scripts.wait("down")[0]["OLLA_STATE"] == "asleep"
    assert proxy.post(PATH, chat()).status == 200
    woken = scripts.wait("wake")[0]
    assert (woken["OLLA_ENDPOINT"], woken["OLLA_MAC"], woken["OLLA_STATE"]) == ("gpu", MAC, "asleep")
    scripts.wait("up", 2)
    assert len(scripts.runs("wake")) == 1


def test_queue_full_is_told_once(world, scripts):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    server.on(CHAT, hold)
    proxy = world.olla({"a": endpoint(server, max_concurrent=1)},
                       dict(STICKY, **{"proxy.queue.max_waiting": 0, "hooks.queue_full": scripts.noting()}))
    send(world, proxy, chat("m1"))
    server.wait_calls(1)
    assert [proxy.post(PATH, chat("m1")).status for _ in range(3)] == [429] * 3
    assert "max_waiting" in scripts.wait("queue_full")[0]["OLLA_REASON"]
    time.sleep(0.3)
    assert len(scripts.runs("queue_full")) == 1


def test_arguments_are_passed_as_they_are(world, scripts, tmp_path):
    """No shell reads them, and no argument can become another one."""
    program = scripts.make("args", 'for a in "$@"; do echo "<$a>"; done > %s/args.tmp; mv %s/args.tmp %s/args.out\n'
                           % ((tmp_path,) * 3))
    server = world.backend(OpenAIBackend, "a", ["m1"])
    world.olla({"a": endpoint(server)}, {"hooks.up": program + "  one $(touch /tmp/no)  a;b 'x y' *"})
    out = tmp_path / "args.out"
    eventually(out.exists, "the program has run")
    assert out.read_text().split("\n")[:-1] == ["<one>", "<$(touch>", "</tmp/no)>", "<a;b>", "<'x>", "<y'>", "<*>"]


def test_names_cannot_run_anything(world, scripts):
    name = "a b $(reboot) `x` \"'"
    server = world.backend(OpenAIBackend, "a", ["m1"])
    world.olla({name: endpoint(server)}, {"hooks.up": scripts.noting()}, ready=None)
    assert scripts.wait("up")[0]["OLLA_ENDPOINT"] == name


def test_secrets_of_the_environment_stay_here(world, scripts):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    keys = endpoint(server, **{"auth.type": "bearer", "auth.token": "${MY_SECRET_TOKEN}"})
    world.olla({"a": keys}, {"hooks.up": scripts.noting()}, env={"MY_SECRET_TOKEN": "hush", "OLLA_LOGGING_LEVEL": "debug"})
    seen = scripts.wait("up")[0]
    assert "hush" not in seen.values() and "OLLA_LOGGING_LEVEL" not in seen
    assert "PATH" in seen


def test_no_descriptor_is_inherited(world, scripts, tmp_path):
    program = scripts.make("fds", "ls -l /proc/self/fd > %s/fds.tmp; mv %s/fds.tmp %s/fds.out\n" % ((tmp_path,) * 3))
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server)}, {"hooks.up": program}, ready=None)
    out = tmp_path / "fds.out"
    eventually(out.exists, "the program has run")
    text = out.read_text()
    assert "socket" not in text and "/dev/null" in text, text
    assert proxy.alive()


def test_output_is_logged(world, scripts):
    program = scripts.make("talk", 'echo "hello \\"world\\""\nprintf "to stderr\\001" >&2\n')
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server)}, {"hooks.up": program})
    assert proxy.wait_log("hook says", line='hello "world"')["endpoint"] == "a"
    eventually(lambda: any(e["line"].startswith("to stderr") for e in proxy.find_logs("hook says")), "the other line")


# ---- how they may behave --------------------------------------------------------------------------------

def run_one(world, program, **settings):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    return world.olla({"a": endpoint(server)}, dict({"hooks.up": program}, **{"hooks." + k: v for k, v in settings.items()}))


@pytest.mark.parametrize("text, reason", [("exit 3", "ended with code 3"), ("kill -SEGV $$", "ended by signal 11")])
def test_one_that_fails_is_told(world, scripts, text, reason):
    proxy = run_one(world, scripts.make("bad", text + "\n"))
    assert proxy.wait_log("hook failed", level="WARN")["reason"] == reason
    assert "olla_hooks_failed_total 1\n" in proxy.get("/internal/metrics").text()


def test_how_it_ended_is_known_even_where_children_are_ignored(world, scripts):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server)}, {"hooks.up": scripts.make("bad", "exit 3\n")}, ignore=[signal.SIGCHLD])
    assert proxy.wait_log("hook failed", level="WARN")["reason"] == "ended with code 3"


@pytest.mark.parametrize("what", ["missing", "no program", "a directory"])
def test_one_that_cannot_be_started_is_told(world, scripts, tmp_path, what):
    path = tmp_path / "x"
    if what == "no program":
        path.write_text("text")
    if what == "a directory":
        path.mkdir()
    proxy = run_one(world, str(path))
    assert "cannot be started" in proxy.wait_log("hook says")["line"]
    assert proxy.wait_log("hook failed")["reason"] == "ended with code 127"


def test_one_that_hangs_is_ended_with_all_it_has_started(world, scripts):
    mark = "29.%06d" % (os.getpid() % 1000000)
    program = scripts.make("hang", "trap '' TERM\n(trap '' TERM; sleep %s) &\nwhile :; do sleep %s; done\n" % (mark, mark))
    proxy = run_one(world, program, timeout="500ms")
    eventually(lambda: processes(mark), "it runs")
    assert proxy.post(PATH, chat("m1")).status == 200  # nobody waits for it
    proxy.wait_log("hook took too long and was ended", timeout=10)
    eventually(lambda: not processes(mark), "all of it has ended; %r" % processes(mark))
    assert not processes(program)


def test_what_it_leaves_behind_holds_nothing_up(world, scripts):
    """A program in the background has the pipe still open."""
    mark = "28.%06d" % (os.getpid() % 1000000)
    proxy = run_one(world, scripts.make("leave", "sleep %s &\necho gone\n" % mark))
    proxy.wait_log("hook says", line="gone")
    try:
        eventually(lambda: "\nolla_hooks_running 0\n" in proxy.get("/internal/metrics").text(), "it counts as ended")
    finally:
        for pid in processes(mark):
            os.kill(pid, 9)


def test_one_that_never_stops_talking(world, scripts):
    program = scripts.make("flood", "while :; do echo flood flood flood flood; done\n")
    proxy = run_one(world, program, timeout="1s")
    for _ in range(20):
        assert proxy.post(PATH, chat("m1")).status == 200
    proxy.wait_log("hook took too long and was ended", timeout=10)
    assert len(proxy.find_logs("hook says")) <= 51


def test_a_line_without_an_end(world, scripts):
    proxy = run_one(world, scripts.make("long", "head -c 100000 /dev/zero | tr '\\0' x\n"))
    proxy.wait_log("hook says")
    eventually(lambda: "\nolla_hooks_running 0\n" in proxy.get("/internal/metrics").text(), "it has ended")
    assert all(len(e["line"]) <= 256 for e in proxy.find_logs("hook says"))


def test_only_some_run_at_one_time(world, scripts, tmp_path):
    """Twelve events, four programs; the others wait, and none is lost."""
    gate = tmp_path / "gate"
    note = scripts.noting(extra="while [ ! -e %s ]; do sleep 0.05; done" % gate)
    servers = [world.backend(OpenAIBackend, "s%d" % n, ["m1"]) for n in range(12)]
    proxy = world.olla({s.name: endpoint(s) for s in servers}, {"hooks.up": note})
    eventually(lambda: "\nolla_hooks_running 4\n" in proxy.get("/internal/metrics").text(), "four run")
    assert len(list(tmp_path.glob("run.*.tmp"))) <= 4
    gate.touch()
    assert sorted(r["OLLA_ENDPOINT"] for r in scripts.wait("up", 12)) == sorted(s.name for s in servers)


def test_events_that_find_no_room_are_told(world, scripts):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    spec = {"e%02d" % n: endpoint(server.url, type="openai-compatible") for n in range(30)}
    program = scripts.make("slow", "sleep 27.5\n")
    proxy = world.olla(spec, {"hooks.up": program, "hooks.down": program}, ready=None)
    eventually(lambda: all(e["status"] == "healthy" for e in proxy.status()["endpoints"]), "all are up")
    server.stop()
    proxy.wait_log("hook not run: too many wait already", timeout=20)
    assert "\nolla_hooks_running 4\n" in proxy.get("/internal/metrics").text()


def test_olla_does_not_wait_for_them_when_it_stops(world, scripts):
    mark = "26.%06d" % (os.getpid() % 1000000)
    proxy = run_one(world, scripts.make("stay", "exec sleep %s\n" % mark))
    eventually(lambda: processes(mark), "it runs")
    proxy.signal()
    assert proxy.wait_exit(5) == 0
    eventually(lambda: not processes(mark), "it has ended, too")


def test_a_reload_takes_other_programs(world, scripts):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": endpoint(server, **RUN)})
    proxy.reload({"a": endpoint(server, **RUN)}, {"hooks.down": scripts.noting()})
    proxy.wait_log("configuration reloaded")
    server.stop()
    assert len(scripts.wait("down")) == 1
