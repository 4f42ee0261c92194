"""The machines of `make test-real`: llama-servers, scripted Ollama samples, a LiteLLM, and olla in front of them all.

prepare.sh has put the programs into OLLA_REAL_DIR; run.sh starts pytest in the Python made there. Every process is
started here, ended by its own pid, and every wait has an end.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing
import urllib.request

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
REAL = os.path.abspath(os.environ.get("OLLA_REAL_DIR") or os.path.join(TOP, "build", "real"))
OLLA = os.path.abspath(os.environ.get("OLLA_BIN") or os.path.join(TOP, "build", "olla"))
SAMPLE_SERVER = os.path.join(TOP, "tests", "samples", "sample_server.py")
START_TIMEOUT = 60.0

# The client libraries are not to look for a proxy on the way to 127.0.0.1, nor for keys; nor is olla to read settings of
# this shell.
for name in [key for key in os.environ if key.startswith(("OLLA_", "ANTHROPIC_")) or key.lower().endswith("_proxy")]:
    if name not in ("OLLA_BIN", "OLLA_REAL_DIR"):
        del os.environ[name]


def _interrupt(*_):
    raise KeyboardInterrupt


# The time limit of run.sh: pytest ends as by Ctrl-C, so the servers are stopped.
signal.signal(signal.SIGTERM, _interrupt)

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get_json(url, timeout=5):
    with _direct.open(url, timeout=timeout) as answer:
        return json.loads(answer.read())


def wait_for(what, check, timeout=START_TIMEOUT, step=0.1):
    """Until check() is true; an exception in it counts as not yet. The failure says what was waited for."""
    until = time.monotonic() + timeout
    last = None
    while time.monotonic() < until:
        try:
            value = check()
            if value:
                return value
            last = value
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(step)
    raise AssertionError(f"waited {timeout:.0f} s for {what}; last seen: {last!r}")


class Machine:
    """A server process on a fixed port that can be killed and started again."""

    def __init__(self, name, command, port, health, folder, env=None):
        self.name = name
        self.command = command
        self.env = env
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.health = self.url + health
        self.log = os.path.join(folder, name + ".log")
        self.child = None

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                                          cwd=self.folder)
        return self

    def wait(self):
        def answers():
            if self.child.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.child.returncode}: {self.tail()}")
            return get_json(self.health)

        wait_for(f"{self.name} to answer on {self.health}", answers)
        return self

    def kill(self):
        """Pulls the plug."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(10)

    def stop(self):
        if self.child is None or self.child.poll() is not None:
            return
        self.child.terminate()
        try:
            self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self, lines=15):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])


def in_system(*words):
    """A command inside the prepared system, whose pid is the program's own."""
    system = os.path.join(REAL, "sid")
    if os.geteuid() == 0:
        chroot = shutil.which("chroot", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        return [chroot, system, *words]
    return ["unshare", "--map-root-user", "--root", system, *words]


def llama(name, models, folder):
    """Four slots with so many tokens that a long stream takes some seconds."""
    port = free_port()
    model, = models
    command = in_system("llama-server", "-m", f"/models/{model}.gguf", "--host", "127.0.0.1", "--port", str(port),
                        "-c", str(4 * CONTEXT[model]), "-np", "4", "-t", "1", "--alias", model, "--offline",
                        "--no-webui", "--slots")
    return Machine(name, command, port, "/health", folder)


def sample(name, models, folder):
    port = free_port()
    command = [sys.executable, SAMPLE_SERVER, "--port", str(port), "--name", name, "--dialect", "ollama",
               "--models", ",".join(models), "--delay", "0.05"]
    return Machine(name, command, port, "/api/version", folder)


def litellm(name, _models, folder):
    """Nothing of this shell's environment, which may hold LiteLLM's settings, and no key, because olla has none to
    send. The price list is the one it brought, so that it asks the internet for nothing."""
    port = free_port()
    command = [os.path.join(REAL, "litellm", "bin", "litellm"), "--config", os.path.join(HERE, "litellm.yaml"),
               "--host", "127.0.0.1", "--port", str(port)]
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "LITELLM_LOCAL_MODEL_COST_MAP": "True",
           "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    return Machine(name, command, port, "/health/liveliness", folder, env)


class Endpoint(typing.NamedTuple):
    name: str
    type: str
    on: object  # what makes its machine, or the endpoint whose machine it is on too
    models: tuple


CONTEXT = {"tiny-a": 8192, "tiny-b": 5120}  # tokens per slot; both models were made for 8192
ENDPOINTS = (
    Endpoint("llama-a1", "llamacpp", llama, ("tiny-a",)),
    Endpoint("llama-a2", "openai-compatible", llama, ("tiny-a",)),
    Endpoint("llama-b", "auto", llama, ("tiny-b",)),
    Endpoint("ollama-1", "ollama", sample, ("sample-chat",)),
    Endpoint("ollama-2", "ollama", sample, ("sample-chat", "sample-embed")),
    Endpoint("litellm-1", "litellm", litellm, ("lite/chat", "lite/embed")),
    Endpoint("litellm-2", "auto", "litellm-1", ("lite/chat", "lite/embed")),
)
SERVERS = {model: {one.name for one in ENDPOINTS if model in one.models} for row in ENDPOINTS for model in row.models}


class House:
    """All machines and olla. `machines[name]` is the one olla knows as endpoint `name`."""

    def __init__(self, folder):
        self.folder = folder
        self.machines = {}
        self.asked = 0
        for one in ENDPOINTS:
            shared = isinstance(one.on, str)
            self.machines[one.name] = self.machines[one.on] if shared else one.on(one.name, one.models, folder)
        port = free_port()
        self.olla = Machine("olla", [OLLA, "-c", self.write_ini(port)], port, "/internal/health", folder)
        self.url = self.olla.url

    def write_ini(self, port):
        # Round-robin, so that a test sees both servers of a model take turns.
        text = f"[server]\nhost = 127.0.0.1\nport = {port}\nrate_limits.per_ip_requests_per_minute = 0\n\n[proxy]\nload_balancer = round-robin\n"
        for one in ENDPOINTS:
            text += (f"\n[endpoint:{one.name}]\nurl = {self.machines[one.name].url}\ntype = {one.type}\n"
                     "check_interval = 1s\ncheck_timeout = 900ms\n")
        path = os.path.join(self.folder, "olla.ini")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def distinct_machines(self):
        return list(dict.fromkeys(self.machines.values()))

    def start(self):
        for machine in self.distinct_machines():
            machine.start()
        for machine in self.distinct_machines():
            machine.wait()
        self.olla.start().wait()
        self.wait_whole()

    def get(self, path):
        return get_json(self.url + path)

    def endpoint(self, name):
        """What olla thinks of it."""
        return next(one for one in self.get("/internal/status")["endpoints"] if one["name"] == name)

    def ask(self, model, only=None):
        """The endpoint that answers a minimal request: the beginning of a new conversation, or it would stay where it was."""
        self.asked += 1
        body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": f"hi {self.asked}"}]}
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json", **({"X-Olla-Endpoint": only} if only else {})})
        with _direct.open(request, timeout=20) as answer:
            answer.read()
            return answer.headers.get("X-Olla-Endpoint")

    def wait_whole(self):
        """Until olla uses every endpoint (again). Each is asked for by name: of two equal ones, the one that has the
        model in memory would get every request."""
        for one in ENDPOINTS:
            wait_for(f"olla to use {one.name}", lambda one=one: self.ask(one.models[0], one.name) == one.name, 30, 0.2)

    def repair(self):
        """Starts again what a test killed."""
        dead = [machine for machine in self.distinct_machines() if machine.child.poll() is not None]
        for machine in dead:
            machine.start().wait()
        if dead:
            self.wait_whole()

    def stop(self):
        self.olla.stop()
        for machine in self.distinct_machines():
            machine.stop()


@pytest.fixture(scope="session")
def whole_house(tmp_path_factory):
    if not os.access(OLLA, os.X_OK):
        pytest.exit(f"there is no program {OLLA}: build it, or name another by OLLA_BIN", 1)
    house = House(str(tmp_path_factory.mktemp("house")))
    try:
        house.start()
        yield house
    finally:
        house.stop()
    assert house.olla.child.returncode == 0, f"olla ended with {house.olla.child.returncode}: {house.olla.tail()}"


@pytest.fixture
def house(whole_house, request):
    yield whole_house
    assert whole_house.olla.child.poll() is None, f"olla died: {whole_house.olla.tail()}"
    whole_house.repair()


@pytest.fixture(scope="session")
def whole_fleet(tmp_path_factory):
    from fleet import Fleet
    if not os.access(OLLA, os.X_OK):
        pytest.exit(f"there is no program {OLLA}: build it, or name another by OLLA_BIN", 1)
    fleet = Fleet(str(tmp_path_factory.mktemp("fleet")))
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()
    for machine in fleet.ollas.values():
        assert machine.child.returncode == 0, f"{machine.name} ended with {machine.child.returncode}: {machine.tail()}"


@pytest.fixture
def fleet(whole_fleet):
    yield whole_fleet
    whole_fleet.check()
    whole_fleet.repair()


def pytest_generate_tests(metafunc):
    """A test with a `place` is done for every scripted server behind either olla, or for the `styles` it is marked with."""
    if "place" in metafunc.fixturenames:
        from fleet import OLLAS, STYLES
        mark = metafunc.definition.get_closest_marker("styles")
        metafunc.parametrize("place", [(olla, style) for style in (mark.args if mark else STYLES) for olla in OLLAS], ids="-".join,
                             indirect=True)


def pytest_configure(config):
    config.addinivalue_line("markers", "styles(names): the scripted servers that a test with a place is done for")


@pytest.fixture
def place(fleet, request):
    from fleet import Place
    one = Place(fleet, *request.param)
    before = set(vars(one.server))
    yield one
    for name in set(vars(one.server)) - before:
        delattr(one.server, name)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the last lines of olla's log."""
    report = (yield).get_result()
    funcargs = getattr(item, "funcargs", {})
    ollas = [funcargs["whole_house"].olla] if "whole_house" in funcargs else []
    ollas += funcargs["whole_fleet"].ollas.values() if "whole_fleet" in funcargs else []
    for olla in ollas:
        if report.failed and os.path.exists(olla.log):
            report.sections.append((f"end of the log of {olla.name}", olla.tail(25)))


class Node:
    """client.mjs, or another script, at work: its lines of JSON as they come."""

    def __init__(self, *words, script="client.mjs"):
        env = dict(os.environ, NODE_NO_WARNINGS="1")
        self.child = subprocess.Popen(
            ["node", script, *(str(word) for word in words)], cwd=os.path.join(REAL, "node"), env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def line(self):
        """The next line; the test as a whole is bounded by finish() and the library's own timeout."""
        text = self.child.stdout.readline()
        assert text, f"the client said nothing: {self.child.stderr.read()}"
        return json.loads(text)

    def finish(self, timeout=60):
        try:
            out, err = self.child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.communicate()
            raise AssertionError(f"the client did not end within {timeout} s") from None
        lines = out.strip().splitlines()
        assert lines, f"the client said nothing: {err}"
        return json.loads(lines[-1])


@pytest.fixture
def node():
    started = []

    def run(*arguments, **options):
        started.append(Node(*arguments, **options))
        return started[-1]

    yield run
    for one in started:
        if one.child.poll() is None:
            one.child.kill()
            one.child.communicate()
