"""Two olla without a word between them: what they agree on, what they do not, and HAProxy in front of them as docs/two.md has it."""

import re
import shutil
import subprocess

import pytest

from backend import Gate, OpenAIBackend, bind_port, eventually
from client import Client, dump, json_headers
from harness import REPO, endpoint

CHAT = "/v1/chat/completions"
PROGRAM = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
needs_haproxy = pytest.mark.skipif(not PROGRAM, reason="no haproxy here")


class Two:
    """Two olla with one configuration and three machines that are alike."""

    def __init__(self, world):
        self.machines = {name: world.backend(OpenAIBackend, name, ["m1"]) for name in ("north", "south", "west")}
        spec = {name: endpoint(machine, check_interval="120s") for name, machine in self.machines.items()}
        self.one, self.two = world.olla(spec), world.olla(spec)

    def hold(self, proxy, machine):
        """A request that machine works on for proxy. Returns (client, gate)."""
        gate, server = Gate(), self.machines[machine]
        plain = server.routes[CHAT]

        def wait(conn, request):
            if request.has("X-Hold"):
                gate.wait()
            plain(conn, request)
        server.on(CHAT, wait)
        client = Client(proxy.port)
        client.start_post(CHAT, {"model": "m1"}, {"X-Olla-Endpoint": machine, "X-Hold": "1"})
        eventually(lambda: proxy.endpoint(machine)["connections"] == 1, "the request is held")
        return client, gate


def turn(port, session, n=1, name="X-Olla-Session-ID", **more):
    """Where one turn of a conversation went."""
    with Client(port) as client:
        headers = {name: session} if name else {}
        reply = client.post(CHAT, {"model": "m1", "messages": [{"role": "user", "content": session}] + n * [
            {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]}, dict(headers, **more))
        assert reply.status == 200 and reply.complete, reply.body
        return reply.get("X-Olla-Endpoint")


def served(*proxies):
    """Conversations' turns that they have answered."""
    return sum(len([e for e in proxy.find_logs("request", path=CHAT) if e["status"] == 200]) for proxy in proxies)


def wait_served(both, count):
    """Their lines come a moment after the replies."""
    eventually(lambda: served(both.one, both.two) >= count, "%d lines of requests" % count)
    assert served(both.one, both.two) == count
    return served(both.one), served(both.two)


@pytest.mark.parametrize("name", ["X-Olla-Session-ID", None], ids=["session", "beginning"])
def test_idle_ones_agree(world, name):
    """The hash has no seed of the process: whichever is asked first, the other one finds the same machine."""
    both = Two(world)
    homes = {}
    for i in range(24):
        session = "conversation-%d" % i
        ports = (both.one.port, both.two.port)[::1 if i % 2 else -1]
        seen = {turn(port, session, n, name) for n, port in enumerate(ports * 2)}
        assert len(seen) == 1, (session, seen)
        homes[session] = seen.pop()
    assert set(homes.values()) == set(both.machines), "all of them are used"


def test_under_load_they_do_not(world):
    """Which is why something in front must keep a conversation at one of them: olla that is busy places elsewhere."""
    both = Two(world)
    home = turn(both.two.port, "talk-of-the-two")
    client, gate = both.hold(both.one, home)
    assert turn(both.one.port, "talk-of-the-two") != home
    assert turn(both.two.port, "talk-of-the-two") == home
    gate.open()
    assert client.read_response("POST").status == 200
    client.close()


# ---- HAProxy

class Haproxy:
    """The n-th block for it of docs/two.md, with the ports of this test."""

    def __init__(self, folder, n, one, two):
        text = re.findall(r"^```haproxy\n(.*?)^```$", (REPO / "docs" / "two.md").read_text(), re.M | re.S)[n]
        with bind_port() as sock:
            self.port = sock.getsockname()[1]
        for old, new in (("bind :40114", "bind 127.0.0.1:%d" % self.port), ("192.168.1.2:40114", "127.0.0.1:%d" % one.port),
                         ("192.168.1.3:40114", "127.0.0.1:%d" % two.port), ("inter 2s", "inter 100ms")):
            assert old in text, old
            text = text.replace(old, new)
        file = folder / "haproxy.cfg"
        file.write_text(text)
        self.process = subprocess.Popen([PROGRAM, "-db", "-f", str(file)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        eventually(self.answers, "haproxy answers for both", 15)

    def answers(self):
        assert self.process.poll() is None, self.process.stdout.read().decode()
        try:
            with Client(self.port) as client:
                return client.request("GET", "/internal/health").status == 200
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()


@needs_haproxy
def test_both_in_use(world, tmp_path):
    """Conversations are spread over both, and each stays at its olla, and so at its machine, whatever the load is."""
    both = Two(world)
    sessions = ["conversation-%d" % i for i in range(25)]  # an odd number: who only takes turns would be found out
    with Haproxy(tmp_path, 1, both.one, both.two) as front:
        homes = {session: turn(front.port, session) for session in sessions}
        assert min(wait_served(both, len(sessions))) > 3
        held = both.hold(both.one, "north"), both.hold(both.one, "south"), both.hold(both.two, "west")
        for n in range(2, 4):
            assert {session: turn(front.port, session, n) for session in sessions} == homes
        for client, gate in held:
            gate.open()
            assert client.read_response("POST").status == 200
            client.close()


@needs_haproxy
@pytest.mark.parametrize("name", ["X-Claude-Code-Session-Id", "X-Session-Id", "Authorization", "x-api-key", None])
def test_what_tells_a_conversation(world, tmp_path, name):
    """Each of these keeps it at one olla; without any of them the address does."""
    both = Two(world)
    before = 0, 0
    used = set()
    with Haproxy(tmp_path, 1, both.one, both.two) as front:
        for i in range(12):
            for n in range(3):
                turn(front.port, "long-enough-%d" % i, n, name)
            after = wait_served(both, sum(before) + 3)
            assert after[0] == before[0] or after[1] == before[1]
            used.add(after[0] == before[0])
            before = after
    assert len(used) == (2 if name else 1), "they are told apart"


@needs_haproxy
def test_one_of_both_stops(world, tmp_path):
    """Nobody is refused, and who was at the other one stays there."""
    both = Two(world)
    sessions, homes = ["conversation-%d" % i for i in range(24)], {}
    with Haproxy(tmp_path, 1, both.one, both.two) as front:
        for i, session in enumerate(sessions):
            before = served(both.two)
            place = turn(front.port, session)
            if wait_served(both, i + 1)[1] > before:
                homes[session] = place
        assert 3 < len(homes) < len(sessions) - 3
        both.one.signal()
        both.one.wait_exit()
        client, gate = both.hold(both.two, "north")  # so that only a pin explains what follows
        for session in sessions:
            place = turn(front.port, session)
            assert session not in homes or place == homes[session]
        gate.open()
        assert client.read_response("POST").status == 200
        client.close()


@needs_haproxy
def test_one_in_use(world, tmp_path):
    """The second gets nothing until the first is gone. A stream passes piece by piece."""
    both = Two(world)
    gate = Gate()

    def slow(conn, request):
        conn.start_chunked("text/event-stream")
        conn.chunk(b"data: {\"choices\":[{\"delta\":{\"content\":\"first\"}}]}\n\n")
        gate.wait()
        conn.chunk(b"data: [DONE]\n\n")
        conn.end_chunks()
    with Haproxy(tmp_path, 0, both.one, both.two) as front:
        for i in range(8):
            turn(front.port, "conversation-%d" % i)
        assert wait_served(both, 8) == (8, 0)
        for machine in both.machines.values():
            machine.on("/v1/completions", slow)
        with Client(front.port) as client:
            client.start_post("/v1/completions", {"model": "m1", "stream": True, "prompt": "x"})
            reply = client.read_head("POST")
            assert b"first" in reply.read_piece()
            gate.open()
            assert reply.read_rest().complete
        both.one.signal()
        both.one.wait_exit()
        for i in range(8):
            turn(front.port, "conversation-%d" % i)
        assert wait_served(both, 16) == (8, 8)


@needs_haproxy
def test_the_client_before_it(world, tmp_path):
    """With `option forwardfor` and the setting of docs/two.md the log is about the client."""
    machine = world.backend(OpenAIBackend, "a", ["m1"])
    settings = {"server.rate_limits.trust_proxy_headers": "true", "server.rate_limits.trusted_proxy_cidrs": "127.0.0.1/32"}
    one, two = world.olla({"a": machine}, settings), world.olla({"a": machine}, settings)
    with Haproxy(tmp_path, 0, one, two) as front, Client(front.port, source="127.0.0.7") as client:
        assert client.request("POST", CHAT, dump({"model": "m1"}), json_headers()).status == 200
        one.wait_log("request", path=CHAT, client="127.0.0.7")
        assert client.request("GET", "/internal/status").status == 404 and not one.find_logs("request", path="/internal/status", client="127.0.0.7")
