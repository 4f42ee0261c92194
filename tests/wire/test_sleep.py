"""The idle hook: machines are sent to sleep when nobody needs them, and never while somebody does; what sleeps is remembered
through a restart."""

import signal
import time

import pytest

from backend import OpenAIBackend, OllamaBackend, eventually, hold
from harness import endpoint
from test_hooks import Scripts, facts
from test_wake import CHAT, MAC, PATH, STICKY, Listener, Machine, chat, send, wait_waiting, wake


class Sleeper(Machine):
    """... that can be sent to sleep by a program: as soon as a file named NAME.off is there."""

    def __init__(self, world, scripts, linger=0.0, **more):
        super().__init__(world, **more)
        self.off = scripts.path / (self.server.name + ".off")
        self.linger = linger

    def watch(self):
        eventually(self.off.exists, "%s is sent to sleep" % self.server.name, 20)
        self.off.unlink()
        time.sleep(self.linger)
        self.server.stop()


@pytest.fixture
def scripts(tmp_path):
    return Scripts(tmp_path)


def idle_settings(scripts, after="1s", extra="", **more):
    program = scripts.noting("idle", extra + '\ntouch "%s/$OLLA_ENDPOINT.off"' % scripts.path)
    return dict(STICKY, **{"hooks.idle": program, "hooks.idle_after": after}, **more)


def gate(scripts):
    """A part of a program that waits until open() is called, and that."""
    file = scripts.path / "gate"
    return "while [ ! -e %s ]; do sleep 0.05; done" % file, file.touch


def test_an_idle_machine_is_sent_to_sleep_and_woken_again(world, scripts):
    machine = Sleeper(world, scripts)
    proxy = world.olla({"gpu": machine.keys()}, idle_settings(scripts))
    assert proxy.post(PATH, chat()).status == 200
    machine.watch()
    proxy.wait_state("gpu", "asleep")
    told = scripts.wait("idle")[0]
    assert facts(told) == {"OLLA_EVENT": "idle", "OLLA_ENDPOINT": "gpu", "OLLA_URL": machine.server.url, "OLLA_MAC": MAC,
                           "OLLA_STATE": "healthy", "OLLA_REASON": "has had nothing to do for hooks.idle_after"}
    assert not [e for e in proxy.logs if e["level"] in ("WARN", "ERROR")]
    assert not machine.card.heard
    assert proxy.post(PATH, chat()).status == 200
    assert machine.card.heard and len(scripts.runs("idle")) == 1


def test_not_while_it_works(world, scripts):
    machine = Sleeper(world, scripts)
    machine.server.on(CHAT, hold)
    proxy = world.olla({"gpu": machine.keys()}, idle_settings(scripts))
    client = send(world, proxy)
    machine.server.wait_calls(1)
    time.sleep(2.5)
    assert not scripts.runs("idle")
    client.close()
    machine.watch()


def test_not_while_somebody_else_gives_it_work(world, scripts):
    """llama.cpp tells that its slots are busy, with requests that did not come through olla."""
    from servers import Llamacpp
    machine = Sleeper(world, scripts, kind=Llamacpp)
    other = world.backend(OpenAIBackend, "other", ["m2"])
    machine.server.on("/slots", lambda c, r: c.reply([{"id": 0, "is_processing": machine.busy}]))
    machine.busy = True
    proxy = world.olla({"gpu": machine.keys(), "other": endpoint(other)}, idle_settings(scripts, "1500ms"))
    time.sleep(4)
    assert not scripts.runs("idle")
    machine.busy = False
    machine.watch()
    proxy.wait_state("gpu", "asleep")


def test_nothing_is_sent_while_the_hook_runs(world, scripts):
    wait, open_gate = gate(scripts)
    machine = Sleeper(world, scripts)
    proxy = world.olla({"gpu": machine.keys()}, idle_settings(scripts, extra=wait))
    eventually(lambda: wake(proxy)["state"] == "suspending", "the hook runs")
    before = len(machine.server.connections)
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    time.sleep(2.5)  # two health checks were due
    assert len(machine.server.connections) == before and not machine.card.heard
    assert wake(proxy)["waiting"] == 1
    open_gate()
    machine.watch()
    assert client.read_response().status == 200
    assert machine.card.heard and wake(proxy)["wakes"] == 1


def test_one_that_still_answers_is_not_believed(world, scripts):
    """It takes two seconds to fall asleep. A request that comes meanwhile must not go down with it."""
    machine = Sleeper(world, scripts, linger=2.0)

    def slow(conn, request):
        time.sleep(2.5)
        conn.reply({"served_by": "gpu"})
    machine.server.on(CHAT, slow)
    proxy = world.olla({"gpu": machine.keys()}, idle_settings(scripts))
    eventually(lambda: proxy.endpoint("gpu")["status"] == "asleep", "its hook has ended", 20)
    client = send(world, proxy)
    machine.watch()
    assert client.read_response(timeout=30).json()["served_by"] == "gpu"
    assert len(machine.server.calls) == 1


@pytest.mark.parametrize("text, log", [("exit 1", "hook failed"), ("sleep 60", "hook took too long and was ended")])
def test_a_hook_that_fails_leaves_the_machine_up(world, scripts, text, log):
    wait, open_gate = gate(scripts)
    program = scripts.make("bad", wait + "\n" + text + "\n")
    machine = Machine(world, boot=None)
    proxy = world.olla({"gpu": machine.keys()}, dict(STICKY, **{"hooks.idle": program, "hooks.idle_after": "1s",
                                                               "hooks.timeout": "2s"}))
    eventually(lambda: wake(proxy)["state"] == "suspending", "the hook runs")
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    open_gate()
    assert client.read_response().json()["served_by"] == "gpu"
    assert proxy.wait_log(log)["event"] == "idle"
    assert not proxy.find_logs("endpoint state", to="asleep")
    # It has its time, and then it is tried again.
    eventually(lambda: len(proxy.find_logs("idle")) >= 2, "another try", 15)


def test_two_servers_on_one_machine(world, scripts):
    """The machine works as long as one of them does; and it is sent to sleep once."""
    card = world.keep(Listener())
    one = Sleeper(world, scripts, name="gpu", models=["big"], card=card)
    two = Machine(world, name="gpu2", models=["large"], card=card)
    two.server.on(CHAT, hold)
    proxy = world.olla({"gpu": one.keys(), "gpu2": two.keys()}, idle_settings(scripts))
    client = send(world, proxy, chat("large"))
    two.server.wait_calls(1)
    time.sleep(2.5)
    assert not scripts.runs("idle")
    client.close()
    one.watch()
    two.server.stop()
    eventually(lambda: [proxy.endpoint(n)["status"] for n in ("gpu", "gpu2")] == ["asleep"] * 2, "both sleep")
    assert len(scripts.wait("idle")) == 1


def test_machines_without_an_address_are_left_alone(world, scripts):
    server = world.backend(OpenAIBackend, "a", ["m1"])
    world.olla({"a": endpoint(server)}, idle_settings(scripts, "100ms"))
    time.sleep(1.5)
    assert not scripts.runs("idle")


def test_a_reload_while_the_hook_runs(world, scripts):
    """The endpoint that the hook was started for is gone; its machine's other one goes on."""
    wait, open_gate = gate(scripts)
    card = world.keep(Listener())
    one = Machine(world, name="gpu", card=card)
    two = Machine(world, name="gpu2", models=["large"], card=card)
    settings = idle_settings(scripts, extra=wait)
    proxy = world.olla({"gpu": one.keys(), "gpu2": two.keys()}, settings)
    eventually(lambda: wake(proxy)["state"] == "suspending", "the hook runs")
    proxy.reload({"gpu2": two.keys()}, dict(settings, **{"hooks.idle_after": "0s"}))
    proxy.wait_log("configuration reloaded")
    open_gate()
    eventually(lambda: wake(proxy, "gpu2")["state"] != "suspending", "it has ended")
    proxy.wait_state("gpu2", "healthy", timeout=15)  # it did not fall asleep after all


# ---- wake.state_file -----------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, type_", [(OpenAIBackend, "openai-compatible"), (OllamaBackend, "auto")])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_knows_what_sleeps(world, tmp_path, kind, type_, how):
    file = tmp_path / "machines"
    settings = dict(STICKY, **{"wake.state_file": str(file)})
    machine = Machine(world, kind)
    keys = machine.keys(type=type_)
    first = world.olla({"gpu": keys}, settings)
    if how == "kill":
        eventually(lambda: file.exists() and b"big" in file.read_bytes(), "the file is written", 15)
        first.process.kill()
        first.process.wait(5)
        world.proxies.remove(first)
        first.kill()
    else:
        first.signal(signal.SIGTERM)
        assert first.wait_exit() == 0
    assert not (tmp_path / "machines.tmp").exists()
    machine.server.stop()
    proxy = world.olla({"gpu": keys}, settings, ready=None)
    proxy.wait_state("gpu", "asleep")
    assert [m["id"] for m in proxy.get("/v1/models").json()["data"]] == ["big"]
    assert proxy.post(PATH, chat()).json()["served_by"] == "gpu"
    assert wake(proxy)["wakes"] == 1


def test_a_request_right_after_the_restart(world, tmp_path):
    """Nobody knows yet whether the machine sleeps."""
    file = tmp_path / "machines"
    machine = Machine(world, boot=0.5)
    file.write_text("olla machines 1\ngpu\t%s\topenai-compatible\tbig\n" % MAC)
    machine.server.stop()
    proxy = world.olla({"gpu": machine.keys()}, dict(STICKY, **{"wake.state_file": str(file)}), ready=None)
    assert proxy.post(PATH, chat()).json()["served_by"] == "gpu"


def test_a_file_that_cannot_be_written_is_said(world, tmp_path):
    machine = Machine(world)
    proxy = world.olla({"gpu": machine.keys()}, dict(STICKY, **{"wake.state_file": str(tmp_path / "no" / "file")}))
    proxy.wait_log("wake.state_file cannot be written", level="WARN")
    assert proxy.post(PATH, chat()).status == 200
