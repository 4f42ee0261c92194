"""Machines that sleep: the magic packet byte by byte, requests that wait for the machine and lose nothing, and what is told when
it does not come."""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from backend import BlackHole, LlamaBackend, OllamaBackend, OpenAIBackend, bind_port, eventually, events, openai_chunk
from client import dump, json_headers
from harness import endpoint, rarely_probed, run_cli

PATH = "/olla/proxy/v1/chat/completions"
CHAT = "/v1/chat/completions"
MAC = "1c:69:7a:0b:c4:2e"
PACKET = b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) * 16
STICKY = {"proxy.sticky_sessions.enabled": False}


class Listener:
    """The network card of a machine that sleeps: it hears datagrams, whatever they are."""

    def __init__(self, host="127.0.0.1", packet=PACKET):
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.port = self.sock.getsockname()[1]
        self.heard, self.packet, self.on_packet = [], packet, None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            self.heard.append((time.monotonic(), data))
            if data == self.packet and self.on_packet:
                self.on_packet()

    @property
    def packets(self):
        return [data for _, data in self.heard]

    def wait(self, count=1, timeout=10):
        eventually(lambda: len(self.heard) >= count, "%d packets; heard %d" % (count, len(self.heard)), timeout)

    def stop(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class Machine:
    """A server on a machine that boots `boot` seconds after the first magic packet; None: it never does."""

    def __init__(self, world, kind=OpenAIBackend, name="gpu", models=("big",), boot=0.0, mac=MAC, host="127.0.0.1", card=None):
        self.server = world.backend(kind, name, list(models))
        self.card = card or world.keep(Listener(host))
        self.card.on_packet = self.power_on
        self.mac, self.boot, self.host = mac, boot, host
        self.booting, self.lock = False, threading.Lock()

    def power_on(self):
        with self.lock:
            if self.booting or self.boot is None or self.server.listener is not None:
                return
            self.booting = True
        if self.boot:
            threading.Timer(self.boot, self.boot_now).start()
        else:
            self.boot_now()

    def boot_now(self):
        self.server.start()
        self.booting = False

    def keys(self, **more):
        return endpoint(self.server, **dict({"wake.mac": self.mac, "wake.broadcast": self.host, "wake.port": self.card.port,
                                             "check_interval": "1s"}, **{k.replace("__", "."): v for k, v in more.items()}))

    def fall_asleep(self, proxy, name="gpu"):
        self.server.stop()
        proxy.wait_state(name, "asleep")


def chat(model="big", **more):
    return dict({"model": model, "messages": [{"role": "user", "content": "hi"}]}, **more)


def wake(proxy, name="gpu"):
    return proxy.endpoint(name)["wake"]


def wait_waiting(proxy, count, name="gpu"):
    eventually(lambda: wake(proxy, name)["waiting"] == count, "%d requests wait; %r" % (count, wake(proxy, name)))


def sleeping(world, settings=(), kind=OpenAIBackend, boot=0.0, others=(), models=("big",), **keys):
    """A proxy with one machine that was seen and fell asleep: (proxy, machine)."""
    machine = Machine(world, kind, models=models, boot=boot)
    spec = dict({"gpu": machine.keys(**keys)}, **dict(others))
    proxy = world.olla(spec, dict(STICKY, **dict(settings)))
    machine.fall_asleep(proxy)
    return proxy, machine


def send(world, proxy, obj=None, headers=(), path=PATH):
    client = world.client(proxy)
    client.start_post(path, obj or chat(), headers)
    return client


# ---- the wake ------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [OpenAIBackend, OllamaBackend, LlamaBackend])
def test_a_request_wakes_the_machine_and_waits_for_it(world, kind):
    proxy, machine = sleeping(world, kind=kind, boot=1.0)
    assert not machine.card.heard  # nothing is woken without need
    response = proxy.post(PATH, chat())
    assert response.status == 200 and response.json()["served_by"] == "gpu"
    assert machine.card.packets[0] == PACKET and len(machine.card.packets[0]) == 102
    assert set(machine.card.packets) == {PACKET}
    state = wake(proxy)
    assert (state["state"], state["waiting"], state["left_ms"], state["wakes"], state["failures"]) == ("awake", 0, 0, 1, 0)
    assert state["last_took_ms"] >= 1000
    assert proxy.post(PATH, chat()).status == 200
    assert wake(proxy)["wakes"] == 1
    assert proxy.wait_log("request", path=PATH)["wake_ms"] >= 1000


@pytest.mark.parametrize("stream", [False, True])
def test_the_anthropic_api_wakes_too(world, stream):
    """... with a body that is told in other words when the machine is up."""
    proxy, machine = sleeping(world, {"proxy.heartbeat.interval": "200ms"}, boot=0.7)
    response = proxy.post("/v1/messages", chat(max_tokens=5, stream=stream))
    assert response.status == 200 and b"gpu" in response.body and response.complete
    assert (b"event: ping" in response.body) == stream
    assert machine.server.calls[0].path == CHAT


def test_what_is_shown_while_it_sleeps_and_wakes(world):
    proxy, machine = sleeping(world, boot=None)
    shown = proxy.endpoint("gpu")
    assert shown["status"] == "asleep" and shown["issues"] in ("", "low success rate")
    assert (shown["wake"]["state"], shown["wake"]["waiting"], shown["wake"]["left_ms"]) == ("asleep", 0, 0)
    assert proxy.status()["system"]["status"] == "healthy"  # that it sleeps is nobody's fault
    send(world, proxy)
    wait_waiting(proxy, 1)
    state = wake(proxy)
    assert state["state"] == "waking" and 0 < state["left_ms"] <= 120000 and state["since_ms"] < 60000
    metrics = proxy.get("/internal/metrics").text()
    assert 'olla_endpoint_asleep{endpoint="gpu"} 1' in metrics
    assert 'olla_endpoint_wakes_total{endpoint="gpu"} 1' in metrics
    assert "\nolla_wake_waiting 1\n" in metrics
    assert 'status="asleep"' in metrics
    proxy.wait_log("waking", endpoint="gpu")
    assert not proxy.find_logs(level="WARN")
    world.close_clients()
    wait_waiting(proxy, 0)


def test_ten_clients_at_once_cause_one_wake(world):
    proxy, machine = sleeping(world, boot=0.7)
    clients = [send(world, proxy) for _ in range(10)]
    wait_waiting(proxy, 10)
    for client in clients:
        response = client.read_response()
        assert response.status == 200 and response.json()["served_by"] == "gpu"
    assert wake(proxy)["wakes"] == 1 and len(proxy.find_logs("waking")) == 1
    # One packet at once, the next after a second: not one for each client.
    assert len(machine.card.heard) <= 3


def test_packets_are_repeated_less_and_less_often(world):
    proxy, machine = sleeping(world, boot=None)
    send(world, proxy)
    machine.card.wait(3)
    at = [when for when, _ in machine.card.heard]
    assert at[1] - at[0] > 0.8 and at[2] - at[1] > at[1] - at[0] + 0.5
    world.close_clients()


def test_a_client_that_leaves_frees_its_place_and_does_not_stop_the_wake(world):
    proxy, machine = sleeping(world, boot=None)
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    client.close()
    wait_waiting(proxy, 0)
    assert not [p for p in [proxy.pool("exchanges")] if p["used"] > 1]
    assert wake(proxy)["state"] == "waking"
    machine.boot_now()
    proxy.wait_state("gpu", "healthy")
    eventually(lambda: wake(proxy)["state"] == "awake", "awake")
    assert not machine.server.calls


def test_a_machine_that_does_not_come_is_told_with_504(world):
    proxy, machine = sleeping(world, boot=None, wake__timeout="1500ms")
    response = proxy.post(PATH, chat())
    assert response.status == 504
    message = response.text()
    assert "gpu" in message and "wake.timeout" in message and "2 magic packets" in message and "cannot be connected" in message
    assert proxy.wait_log("request", status=504)["end"] == "sC"
    proxy.wait_log("machine did not wake up", level="WARN", endpoint="gpu")
    state = wake(proxy)
    assert (state["state"], state["failures"], state["waiting"]) == ("failed", 1, 0)
    machine.boot = 0
    assert proxy.post(PATH, chat()).status == 200  # the next one tries anew
    assert (wake(proxy)["failures"], wake(proxy)["wakes"]) == (1, 2)


@pytest.mark.parametrize("path, key", [(PATH, "error"), ("/v1/messages", "error"), ("/api/chat", "error")])
def test_the_timeout_speaks_the_dialect_of_the_client(world, path, key):
    proxy, machine = sleeping(world, kind=OllamaBackend, boot=None, wake__timeout="1s")
    response = proxy.post(path, chat(stream=False, max_tokens=1))
    assert response.status == 504 and key in response.json()


def test_one_that_comes_late_waits_its_own_time(world):
    proxy, machine = sleeping(world, boot=None, wake__timeout="2s")
    first = send(world, proxy)
    wait_waiting(proxy, 1)
    time.sleep(1.2)
    late = send(world, proxy)
    wait_waiting(proxy, 2)
    assert first.read_response().status == 504
    assert wake(proxy)["state"] == "waking" and wake(proxy)["waiting"] == 1
    machine.boot_now()
    assert late.read_response().status == 200
    assert wake(proxy)["wakes"] == 1


def test_heartbeats_keep_a_waiting_stream_alive(world):
    proxy, machine = sleeping(world, {"proxy.heartbeat.interval": "100ms"}, boot=None)
    client = send(world, proxy, chat(stream=True))
    response = client.read_head("POST")
    assert response.status == 200
    assert b": olla" in response.read_piece()
    assert wake(proxy)["waiting"] == 1
    machine.boot_now()
    response.read_rest()
    assert events(response.body)[-1] == b"[DONE]"


def test_heartbeats_and_then_no_machine_is_told_in_the_stream(world):
    proxy, machine = sleeping(world, {"proxy.heartbeat.interval": "100ms"}, boot=None, wake__timeout="1s")
    client = send(world, proxy, chat(stream=True))
    response = client.read_head("POST")
    assert response.status == 200
    response.read_rest()
    assert not response.complete and b"wake.timeout" in response.body and b"[DONE]" not in response.body


def test_a_server_that_loads_is_not_ready(world):
    """llama.cpp answers 503 while it loads: who waits for the machine waits for that, too."""
    proxy, machine = sleeping(world, kind=LlamaBackend, boot=None)
    loaded = threading.Event()
    real = dict(machine.server.routes)

    def loading(conn, request):
        if loaded.is_set():
            real[request.path](conn, request)
        else:
            conn.reply({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503)
    for path in ("/health", "/v1/models", CHAT):
        machine.server.on(path, loading)
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    machine.boot_now()
    proxy.wait_state("gpu", "warming")
    assert wake(proxy)["waiting"] == 1
    loaded.set()
    assert client.read_response().status == 200
    assert len(machine.server.calls) == 1


def test_a_model_that_is_gone_when_it_wakes(world):
    proxy, machine = sleeping(world, boot=None)
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    machine.server.models = ["other"]
    machine.boot_now()
    assert client.read_response().status == 404


def test_bodies_wait_where_they_are(world):
    """Inline, in a block, and in the spool: all arrive whole."""
    proxy, machine = sleeping(world, boot=None)
    texts = ["x" * 10, "y" * 40000, "z" * 300000]
    clients = [send(world, proxy, chat(messages=[{"role": "user", "content": text}])) for text in texts]
    wait_waiting(proxy, 3)
    machine.boot_now()
    for client in clients:
        assert client.read_response().status == 200
    got = sorted(len(call.json()["messages"][0]["content"]) for call in machine.server.calls)
    assert got == [10, 40000, 300000]


def test_too_many_that_wait_are_refused(world):
    proxy, machine = sleeping(world, {"proxy.queue.max_waiting": 2}, boot=None)
    clients = [send(world, proxy) for _ in range(2)]
    wait_waiting(proxy, 2)
    assert proxy.post(PATH, chat()).status == 429
    machine.boot_now()
    assert [client.read_response().status for client in clients] == [200, 200]


def test_after_the_wake_the_limit_of_the_machine_holds(world):
    proxy, machine = sleeping(world, boot=None, max_concurrent=1)
    lock, running, most = threading.Lock(), [0], [0]

    def slow(conn, request):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        conn.reply({"served_by": "gpu"})
    machine.server.on(CHAT, slow)
    clients = [send(world, proxy) for _ in range(5)]
    wait_waiting(proxy, 5)
    machine.boot_now()
    assert [client.read_response().status for client in clients] == [200] * 5
    assert most[0] == 1


def test_a_silent_machine_is_asleep_as_well(world):
    """Off is not refused: there is nobody who could refuse."""
    machine = Machine(world, boot=None)
    proxy = world.olla({"gpu": machine.keys(check_timeout="300ms")}, STICKY)
    machine.server.go_silent()
    proxy.wait_state("gpu", "asleep")
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    machine.card.wait(1)
    machine.server.stop()
    machine.boot_now()
    assert client.read_response().status == 200


def test_a_request_that_finds_it_asleep_wakes_it(world):
    """Nobody has noticed yet that it sleeps: the connection is refused, and the request waits instead of failing."""
    machine = Machine(world, boot=0.3)
    proxy = world.olla({"gpu": machine.keys(check_interval="60s")}, STICKY)
    machine.server.stop()
    response = proxy.post(PATH, chat())
    assert response.status == 200 and response.json()["served_by"] == "gpu"
    assert len(machine.card.heard) >= 1
    shown = proxy.endpoint("gpu")
    assert (shown["requests"], shown["failed_requests"], shown["breaker"]["failures"]) == (1, 0, 0)


def test_it_is_not_waited_for_again_and_again(world):
    """It wakes, tells its models, and is gone again when the request comes: an error, not another wake."""
    proxy, machine = sleeping(world, boot=0.0)
    server = machine.server

    def last_words(conn, request):
        if "Discovery" in request.get("User-Agent"):
            machine.boot = None
            server.stopping.set()
            server.listener.shutdown(socket.SHUT_RDWR)
            server.listener.close()
            server.listener = None
        conn.reply(server.model_list())
    server.on("/v1/models", last_words)
    response = proxy.post(PATH, chat())
    assert response.status == 502
    assert wake(proxy)["wakes"] == 1


# ---- who is woken ----------------------------------------------------------------------------------

def test_nobody_is_woken_while_somebody_else_can_serve(world):
    pi = world.backend(OpenAIBackend, "pi", ["big"])
    proxy, machine = sleeping(world, others={"pi": endpoint(pi)})
    assert proxy.post(PATH, chat()).json()["served_by"] == "pi"
    assert not machine.card.heard


def test_prefer_serves_elsewhere_and_wakes_for_the_next_time(world):
    pi = world.backend(OpenAIBackend, "pi", ["big"])
    proxy, machine = sleeping(world, {"proxy.load_balancer": "priority"}, boot=0.3, wake__policy="prefer", priority=200,
                              others={"pi": endpoint(pi, priority=50)})
    assert proxy.post(PATH, chat()).json()["served_by"] == "pi"
    machine.card.wait(1)
    assert machine.card.packets[0] == PACKET
    proxy.wait_state("gpu", "healthy")
    eventually(lambda: wake(proxy)["state"] == "awake", "awake")
    assert proxy.post(PATH, chat()).json()["served_by"] == "gpu"


def test_prefer_does_not_wake_a_lower_tier(world):
    pi = world.backend(OpenAIBackend, "pi", ["big"])
    proxy, machine = sleeping(world, {"proxy.load_balancer": "priority"}, wake__policy="prefer", priority=10,
                              others={"pi": endpoint(pi, priority=50)})
    assert proxy.post(PATH, chat()).json()["served_by"] == "pi"
    assert not machine.card.heard


def test_prefer_alone_says_come_back(world):
    proxy, machine = sleeping(world, boot=None, wake__policy="prefer")
    response = proxy.post(PATH, chat())
    assert response.status == 503 and "being woken" in response.text() and int(response.get("Retry-After")) >= 1
    machine.card.wait(1)
    machine.boot_now()
    eventually(lambda: wake(proxy)["state"] == "awake", "awake")
    assert proxy.post(PATH, chat()).status == 200


def test_prefer_does_not_try_a_dead_machine_again_and_again(world):
    pi = world.backend(OpenAIBackend, "pi", ["big"])
    proxy, machine = sleeping(world, boot=None, wake__policy="prefer", wake__timeout="1s", others={"pi": endpoint(pi)})
    assert proxy.post(PATH, chat()).json()["served_by"] == "pi"
    eventually(lambda: wake(proxy)["state"] == "failed", "it did not come")
    assert proxy.post(PATH, chat()).json()["served_by"] == "pi"
    assert wake(proxy)["wakes"] == 1


def test_of_two_sleepers_the_one_that_may_be_waited_for(world):
    first = Machine(world, name="first", boot=None)
    second = Machine(world, name="second", boot=0.0, mac="02:00:00:00:00:01")
    second.card.packet = b"\xff" * 6 + bytes.fromhex("020000000001") * 16
    proxy = world.olla({"first": first.keys(wake__policy="prefer"), "second": second.keys()}, STICKY)
    first.fall_asleep(proxy, "first")
    second.fall_asleep(proxy, "second")
    assert proxy.post(PATH, chat()).json()["served_by"] == "second"
    assert wake(proxy, "second")["wakes"] == 1


def test_never(world):
    proxy, machine = sleeping(world, wake__policy="never")
    response = proxy.post(PATH, chat())
    assert response.status == 503 and "gpu (asleep)" in response.text()
    assert proxy.post(PATH, chat(), {"X-Olla-Wake": "require"}).status == 503  # a header cannot raise it
    assert not machine.card.heard


@pytest.mark.parametrize("word, status, packets", [("never", 503, False), ("PREFER", 503, True)])
def test_the_header_lowers_it(world, word, status, packets):
    proxy, machine = sleeping(world, boot=None)
    response = proxy.post(PATH, chat(), {"X-Olla-Wake": word})
    assert response.status == status
    if packets:
        machine.card.wait(1)
    assert bool(machine.card.heard) == packets


def test_the_header_cannot_raise_it(world):
    proxy, machine = sleeping(world, boot=None, wake__policy="prefer")
    assert proxy.post(PATH, chat(), {"X-Olla-Wake": "require"}).status == 503


def test_a_sleeper_that_has_the_model_is_worth_more_than_a_fallback(world):
    pi = world.backend(OpenAIBackend, "pi", ["small"])
    settings = {"model_registry.routing_strategy.type": "optimistic",
                "model_registry.routing_strategy.options.fallback_behavior": "all"}
    proxy, machine = sleeping(world, settings, others={"pi": endpoint(pi)})
    assert proxy.post(PATH, chat()).json()["served_by"] == "gpu"


def test_an_alias_wakes_too(world):
    proxy, machine = sleeping(world, {"model_aliases.best": "none-such, big"})
    response = proxy.post(PATH, chat("best"))
    assert response.json()["served_by"] == "gpu"
    assert machine.server.calls[0].json()["model"] == "big"


def test_an_unknown_model_wakes_nobody(world):
    proxy, machine = sleeping(world)
    assert proxy.post(PATH, chat("other")).status == 404
    assert not machine.card.heard


def test_looking_around_wakes_nobody(world):
    proxy, machine = sleeping(world, kind=OllamaBackend)
    for path in ("/v1/models", "/api/tags", "/api/ps", "/olla/models", "/internal/status", "/olla/proxy/some/page",
                 "/internal/metrics", "/olla/ollama/api/version"):
        proxy.get(path)
    assert not machine.card.heard


def test_a_named_machine_is_woken(world):
    pi = world.backend(OllamaBackend, "pi", ["big"])
    proxy, machine = sleeping(world, kind=OllamaBackend, others={"pi": endpoint(pi)})
    response = proxy.get("/api/version", {"X-Olla-Endpoint": "gpu"})
    assert response.status == 200 and response.json()["served_by"] == "gpu"


def test_models_of_a_sleeper_stay_listed_and_marked(world):
    proxy, machine = sleeping(world)
    assert [m["id"] for m in proxy.get("/v1/models").json()["data"]] == ["big"]
    assert proxy.get("/v1/models/big").status == 200
    entry = proxy.get("/olla/models").json()["data"][0]
    assert entry["olla"]["availability"] == [{"endpoint": "gpu", "state": "asleep"}]


def test_two_servers_on_one_machine_are_one_wake(world):
    card = world.keep(Listener())
    one = Machine(world, name="gpu", models=["big"], boot=0.5, card=card)
    two = Machine(world, name="gpu2", models=["large"], boot=0.5, card=card)
    card.on_packet = lambda: (one.power_on(), two.power_on())
    proxy = world.olla({"gpu": one.keys(), "gpu2": two.keys()}, STICKY)
    one.fall_asleep(proxy)
    two.fall_asleep(proxy, "gpu2")
    clients = [send(world, proxy, chat(model)) for model in ("big", "large", "big", "large")]
    assert [c.read_response().json()["served_by"] for c in clients] == ["gpu", "gpu2", "gpu", "gpu2"]
    assert len(card.heard) <= 2  # and not one for each server


def test_one_that_failed_lately_is_not_woken_first(world):
    dead = Machine(world, name="dead", boot=None)
    good = Machine(world, name="good", boot=0.0, mac="02:00:00:00:00:01")
    good.card.packet = b"\xff" * 6 + bytes.fromhex("020000000001") * 16
    proxy = world.olla({"dead": dead.keys(wake__timeout="1s"), "good": good.keys()}, STICKY)
    dead.fall_asleep(proxy, "dead")
    good.fall_asleep(proxy, "good")
    assert proxy.post(PATH, chat()).status == 504
    assert not good.card.heard  # one machine is enough
    assert proxy.post(PATH, chat()).json()["served_by"] == "good"


# ---- packets -----------------------------------------------------------------------------------------

def test_packets_over_ipv6(world):
    try:
        card = world.keep(Listener("::1"))
    except OSError:
        pytest.skip("no IPv6 on this machine")
    machine = Machine(world, card=card, host="::1")
    proxy = world.olla({"gpu": machine.keys()}, STICKY)
    machine.fall_asleep(proxy)
    assert proxy.post(PATH, chat()).status == 200
    assert card.packets[0] == PACKET


LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


class Networks:
    """Network namespaces: this thread, and what it starts, moves between them."""

    def __init__(self):
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.all = [self.home]

    def new(self):
        """Another one, with a loopback interface; this thread is in it then. Needs root."""
        if LIBC.unshare(CLONE_NEWNET) != 0:
            pytest.skip("no network namespaces: " + os.strerror(ctypes.get_errno()))
        self.all.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        self.ip("link", "set", "lo", "up")
        return self.all[-1]

    def enter(self, fd):
        assert LIBC.setns(fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True, timeout=20)

    def close(self):
        self.enter(self.home)
        for fd in self.all:
            os.close(fd)


@pytest.fixture
def networks():
    if not shutil.which("ip"):
        pytest.skip("no program ip")
    made = Networks()
    try:
        yield made
    finally:
        made.close()


def test_packets_reach_all_networks_of_this_machine(networks, world):
    """The default address: on a machine with two networks and no route to anywhere, as a router has them. The one that sleeps
    is in the second of them."""
    machines = networks.new()
    router = networks.new()
    for number in (1, 2):
        networks.ip("link", "add", "lan%d" % number, "type", "veth", "peer", "name", "far%d" % number)
        networks.ip("link", "set", "far%d" % number, "netns", "/proc/%d/fd/%d" % (os.getpid(), machines))
        networks.ip("addr", "add", "10.77.%d.1/24" % number, "broadcast", "10.77.%d.255" % number, "dev", "lan%d" % number)
        networks.ip("link", "set", "lan%d" % number, "up")
    networks.enter(machines)
    for number in (1, 2):
        networks.ip("addr", "add", "10.77.%d.2/24" % number, "broadcast", "10.77.%d.255" % number, "dev", "far%d" % number)
        networks.ip("link", "set", "far%d" % number, "up")
    card = world.keep(Listener("0.0.0.0"))
    server = world.keep(OpenAIBackend("gpu", ["big"], "10.77.2.2"))
    card.on_packet = server.start
    networks.enter(router)
    keys = endpoint(server, **{"wake.mac": MAC, "wake.port": card.port, "check_interval": "1s"})
    proxy = world.olla({"gpu": keys}, STICKY)
    server.stop()
    proxy.wait_state("gpu", "asleep")
    assert proxy.post(PATH, chat()).json()["served_by"] == "gpu"
    assert card.packets[0] == PACKET and 1 <= len(card.heard) <= 2  # one for each network
    world.close()


def test_a_network_that_cannot_be_reached_is_said_once(networks, world):
    networks.new()
    machine = Machine(world, boot=None)
    keys = machine.keys(wake__timeout="1500ms")
    keys["wake.broadcast"] = "192.0.2.255"
    proxy = world.olla({"gpu": keys}, STICKY)
    machine.fall_asleep(proxy)
    assert proxy.post(PATH, chat()).status == 504
    proxy.wait_log("machine did not wake up")
    assert len(proxy.find_logs("magic packet cannot be sent", endpoint="gpu")) == 1
    world.close()


def test_a_reload_keeps_the_wake(world):
    proxy, machine = sleeping(world, boot=None)
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    proxy.reload({"gpu": machine.keys(priority=7)}, STICKY)
    proxy.wait_log("configuration reloaded")
    assert wake(proxy)["state"] == "waking" and wake(proxy)["waiting"] == 1
    machine.boot_now()
    assert client.read_response().status == 200


def test_a_reload_that_takes_the_machine_away(world):
    pi = world.backend(OpenAIBackend, "pi", ["small"])
    proxy, machine = sleeping(world, boot=None, others={"pi": endpoint(pi)})
    client = send(world, proxy)
    wait_waiting(proxy, 1)
    proxy.reload({"pi": endpoint(pi)}, STICKY)
    assert client.read_response().status == 404


def test_stopping_ends_those_who_wait(world):
    proxy, machine = sleeping(world, {"server.shutdown_timeout": "300ms"}, boot=None)
    proxy.expect_exit = 3
    send(world, proxy)
    wait_waiting(proxy, 1)
    proxy.signal()
    assert proxy.wait_exit() == 3


@pytest.mark.parametrize("value", ["1c:69:7a:0b:c4", "1c:69:7a:0b:c4:2e:00", "1c:69:7a:0b:c4:2g", "00:00:00:00:00:00",
                                   "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "1c:69-7a:0b:c4:2e", "1c697a0bc42"])
def test_wrong_addresses_of_cards_are_refused(tmp_path, value):
    path = tmp_path / "olla.ini"
    path.write_text("[endpoint:a]\nurl = http://x\nwake.mac = %s\n" % value)
    code, out, err = run_cli("-t", "-c", path)
    assert code == 1 and "wake.mac" in err and ":3:" in err
