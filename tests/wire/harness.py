"""Starts the real binary with a generated configuration, reads its log, and checks
after each test that nothing leaked and nothing went wrong unseen."""

import json
import os
import pathlib
import pwd
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid

import pytest

from backend import Backend, bind_port, eventually
from client import WAIT, Client, json_headers, dump

REPO = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("OLLA_BIN") or str(REPO / "build" / "test" / "olla")
IDLE_BOUND = 3.0  # pools must be back at rest within this many seconds


def have_binary():
    return os.access(BINARY, os.X_OK)


def report(problems):
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def clean_env(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("OLLA_")}
    env.setdefault("ASAN_OPTIONS", "exitcode=97:detect_leaks=1:allocator_may_return_null=1")
    env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:exitcode=98:print_stacktrace=1")
    env.update(extra or {})
    return {k: v for k, v in env.items() if v is not None}


def run_cli(*args, env=None, cwd=None, timeout=20):
    """Run the binary to its end: (exit code, stdout, stderr)."""
    done = subprocess.run([BINARY] + [str(a) for a in args], env=clean_env(env), cwd=cwd,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def ini(sections):
    """{"section": {"key": value}} as text; a list value repeats the key."""
    lines = []
    for section, keys in sections.items():
        lines.append("[%s]" % section)
        for key, value in keys.items():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, bool):
                    item = "true" if item else "false"
                lines.append("%s = %s" % (key, item))
        lines.append("")
    return "\n".join(lines)


def endpoint(target, **keys):
    """The keys of one [endpoint:NAME] section for a backend (or black hole, dead port, url)."""
    out = {"url": target if isinstance(target, str) else target.url, "type": getattr(target, "type", "openai-compatible")}
    out.update(keys)
    return out


def rarely_probed(backend, **keys):
    """An endpoint that is probed once and then left alone: what happens to it later only the
    request path can find out."""
    return endpoint(backend, **dict({"check_interval": "120s"}, **keys))


def build_config(port, endpoints, settings):
    sections = {"server": {"host": "127.0.0.1", "port": port}}
    for path, value in (settings or {}).items():
        section, _, key = path.rpartition(".")
        sections.setdefault(section, {})[key] = value
    for name, spec in endpoints.items():
        sections["endpoint:" + name] = spec if isinstance(spec, dict) else endpoint(spec)
    return ini(sections)


class Olla:
    """One running proxy."""

    def __init__(self, text, port, env=None, cwd=None, limits=None, ignore=(), expect_exit=0, user=None, under=(),
                 binary=None, connect=Client):
        """user: who runs it, a name; under: a command in front of it."""
        self.port, self.expect_exit = port, expect_exit
        self.connect = connect     # connect(port, ...) makes a client
        self.allowed_errors = []   # parts of ERROR lines that this test expects; True = any
        self.check_idle_at_end = True
        self.check_log_at_end = True
        self.logs, self.stray_output = [], []
        self.log_gate = threading.Event()
        self.log_gate.set()
        self.dir = tempfile.TemporaryDirectory(prefix="olla-wire-")
        self.config = pathlib.Path(self.dir.name) / "olla.ini"
        self.config.write_text(text)
        self.stderr_path = pathlib.Path(self.dir.name) / "stderr"
        self.stderr_file = open(self.stderr_path, "wb")

        def prepare():
            for what, value in (limits or {}).items():
                resource.setrlimit(what, (value, value))
            for number in ignore:
                signal.signal(number, signal.SIG_IGN)

        program, who = str(binary or BINARY), {}
        if user:
            os.chmod(self.dir.name, 0o755)
            program = shutil.copy(program, self.dir.name)  # the tree may lie where that user cannot go
            who = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        self.process = subprocess.Popen([*under, program, "-c", str(self.config)], env=clean_env(env),
                                        cwd=cwd or self.dir.name, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.stderr_file, preexec_fn=prepare if limits or ignore else None, **who)
        self.pid = self.process.pid
        self.reader = threading.Thread(target=self._read_logs, daemon=True)
        self.reader.start()

    def _read_logs(self):
        for line in self.process.stdout:
            try:
                entry = json.loads(line)
                assert isinstance(entry, dict)
                self.logs.append(entry)
            except (ValueError, AssertionError):
                self.stray_output.append(line)
            self.log_gate.wait(60)

    # ---- state of the process

    def alive(self):
        return self.process.poll() is None

    def stderr(self):
        return self.stderr_path.read_text(errors="replace") if self.stderr_path.exists() else ""

    def describe(self):
        tail = "\n".join(json.dumps(entry) for entry in self.logs[-40:])
        return "exit code %r\n-- stderr\n%s\n-- last log lines\n%s" % (self.process.poll(), self.stderr()[-6000:], tail)

    def rss_kb(self):
        for line in open("/proc/%d/status" % self.pid):
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def cpu_seconds(self):
        fields = open("/proc/%d/stat" % self.pid).read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_fds(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    # ---- starting and stopping

    def wait_listening(self, timeout=WAIT):
        def up():
            assert self.alive(), "olla ended at start: " + self.describe()
            try:
                self.connect(self.port, timeout=1).close()
                return True
            except OSError:
                return False
        eventually(up, "olla listens on port %d" % self.port, timeout)
        return self

    def wait_healthy(self, wanted, timeout=WAIT):
        """wanted: {endpoint name: least number of models}."""
        with self.connect(self.port) as client:
            def ready():
                assert self.alive(), self.describe()
                seen = {e["name"]: e for e in self.status(client)["endpoints"]}
                return all(n in seen and seen[n]["status"] == "healthy" and seen[n]["models"]["count"] >= k
                           for n, k in wanted.items())
            eventually(ready, "endpoints healthy with their models: %r" % wanted, timeout, 0.02)
        return self

    def wait_state(self, name, *states, timeout=WAIT):
        eventually(lambda: self.endpoint(name)["status"] in states, "%s becomes %s" % (name, "/".join(states)),
                   timeout, 0.05)

    def wait_down(self, name, timeout=WAIT):
        eventually(lambda: self.endpoint(name)["status"] != "healthy", "%s is no longer healthy" % name, timeout, 0.05)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait_exit(self, timeout=WAIT):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError("olla did not end within %.0f s: %s" % (timeout, self.describe())) from None

    def kill(self):
        self.log_gate.set()
        if self.alive():
            self.process.kill()
            self.process.wait(5)
        self.reader.join(2)
        self.process.stdout.close()
        self.stderr_file.close()
        self.dir.cleanup()

    def finish(self):
        """The end of a test: idle check, clean stop, exit code, log."""
        problems = []
        self.log_gate.set()
        try:
            if self.alive():
                if self.check_idle_at_end:
                    problems += self.idle_problems()
                self.signal()
                try:
                    self.process.wait(15)
                except subprocess.TimeoutExpired:
                    problems.append("did not end within 15 s of SIGTERM")
                    self.process.kill()
            code = self.process.wait(5)
            self.reader.join(5)
            if code != self.expect_exit:
                problems.append("exit code %r, expected %r" % (code, self.expect_exit))
            if self.check_log_at_end:
                problems += self.log_problems()
            if problems:
                problems.append(self.describe())
        finally:
            self.kill()
        return problems

    def log_problems(self):
        problems = []
        if self.allowed_errors is not True:
            for entry in self.logs:
                if entry.get("level") == "ERROR" and not any(part in json.dumps(entry) for part in self.allowed_errors):
                    problems.append("ERROR line in the log: %s" % json.dumps(entry))
        if self.stray_output:
            problems.append("stdout lines that are not JSON objects: %r" % self.stray_output[:5])
        for entry in self.logs:
            if not {"timestamp", "level", "msg"} <= set(entry):
                problems.append("log line without timestamp, level or msg: %r" % entry)
                break
        if not any(entry.get("msg") == "listening" for entry in self.logs):
            problems.append("no `listening` line in the log")
        return problems

    # ---- pools

    def idle_problems(self, timeout=IDLE_BOUND):
        """What is still in use after `timeout` seconds although every client left."""
        deadline = time.monotonic() + timeout
        wrong = ["status was never answered"]
        try:
            with self.connect(self.port, timeout=5) as client:
                while True:
                    wrong = self._not_idle(self.status(client))
                    if not wrong or time.monotonic() > deadline:
                        break
                    time.sleep(0.02)
        except (OSError, AssertionError) as error:
            wrong = ["idle check failed: %r" % error]
        return ["not idle after the test: " + w for w in wrong]

    def _not_idle(self, status):
        pools = {p["name"]: p for p in status["pools"]}
        wrong = []
        for name, check in (("clients", lambda n: n == 1), ("exchanges", lambda n: n == 1),
                            ("upstreams", lambda n: n == status["idle_upstreams"]),
                            ("tls_clients", lambda n: n == (self.connect is not Client)),
                            ("tls_upstreams", lambda n: n <= status["idle_upstreams"]),
                            ("body_blocks", lambda n: n == 0), ("buffers", lambda n: n <= 2)):
            if name not in pools:
                wrong.append("no pool named %s in %r" % (name, sorted(pools)))
            elif not check(pools[name]["used"]):
                wrong.append("pool %s has %d in use (idle upstreams %d)"
                             % (name, pools[name]["used"], status["idle_upstreams"]))
        return wrong

    def pool(self, name):
        return next(p for p in self.status()["pools"] if p["name"] == name)

    # ---- requests

    def client(self, **options):
        return self.connect(self.port, **options)

    def request(self, method, target, body=None, headers=(), **options):
        with self.connect(self.port) as client:
            return client.request(method, target, body, headers, **options)

    def get(self, target, headers=()):
        return self.request("GET", target, None, headers)

    def post(self, target, obj, headers=()):
        return self.request("POST", target, dump(obj), json_headers(headers))

    def status(self, client=None):
        response = client.request("GET", "/internal/status") if client else self.get("/internal/status")
        assert response.status == 200, response.body
        return response.json()

    def endpoint(self, name):
        return next(e for e in self.status()["endpoints"] if e["name"] == name)

    # ---- log

    def find_logs(self, msg=None, **fields):
        return [e for e in list(self.logs) if (msg is None or e.get("msg") == msg)
                and all(e.get(k) == v for k, v in fields.items())]

    def wait_log(self, msg=None, timeout=5.0, **fields):
        eventually(lambda: self.find_logs(msg, **fields), "log line msg=%r %r; have %r"
                   % (msg, fields, [e for e in self.logs if e.get("msg") == msg][-5:]), timeout, 0.02)
        return self.find_logs(msg, **fields)[0]

    def access(self, request_id, timeout=5.0):
        """The one access line of a request."""
        entry = self.wait_log("request", timeout, request_id=request_id)
        lines = self.find_logs("request", request_id=request_id)
        assert len(lines) == 1, "a request must be logged exactly once: %r" % lines
        return entry

    def wait_error(self, timeout=5.0):
        eventually(lambda: [e for e in self.logs if e.get("level") == "ERROR"], "an ERROR line", timeout, 0.02)
        return [e for e in self.logs if e.get("level") == "ERROR"][0]

    # ---- reload

    def rewrite(self, endpoints, settings=None):
        self.config.write_text(build_config(self.port, endpoints, settings))

    def reload(self, endpoints, settings=None):
        self.rewrite(endpoints, settings)
        self.signal(signal.SIGHUP)


def new_id(prefix="t"):
    return "%s-%s" % (prefix, uuid.uuid4().hex[:16])


class World:
    """Everything a test starts, and its orderly end."""

    def __init__(self):
        self.backends, self.proxies, self.clients = [], [], []

    def backend(self, kind=Backend, *args, **keys):
        return self.keep(kind(*args, **keys))

    def keep(self, server):
        self.backends.append(server)
        return server

    def olla(self, endpoints=None, settings=None, ready=True, listen=True, **options):
        """Start the proxy. ready: True = wait until every endpoint is healthy and has models,
        a list of names, {name: least number of models}, or None = only the listener."""
        endpoints = endpoints or {}
        for attempt in range(3):
            sock = bind_port()
            port = sock.getsockname()[1]
            sock.close()
            proxy = Olla(build_config(port, endpoints, settings), port, **options)
            if not listen:
                break
            try:
                proxy.wait_listening()
                break
            except AssertionError:
                taken = "in use" in proxy.stderr() + json.dumps(proxy.logs)
                proxy.kill()
                if attempt == 2 or not taken:
                    raise
        self.proxies.append(proxy)
        if listen and ready:
            wanted = ready if isinstance(ready, dict) else {}
            for name in () if wanted else endpoints if ready is True else ready:
                spec = endpoints[name]
                wanted[name] = min(1, len(spec.models)) if isinstance(spec, Backend) else 1
            proxy.wait_healthy(wanted)
        return proxy

    def client(self, proxy, **options):
        client = proxy.client(**options)
        self.clients.append(client)
        return client

    # ---- end of a test

    def close_clients(self):
        for client in self.clients:
            client.close()
        self.clients = []

    def script_failures(self):
        found = [failure for server in self.backends for failure in getattr(server, "failures", [])]
        for server in self.backends:
            if hasattr(server, "failures"):
                server.failures = []
        return ["backend script failed: " + failure for failure in found]

    def close(self):
        self.close_clients()
        problems = []
        for proxy in self.proxies:
            problems += proxy.finish()
        self.proxies = []
        problems += self.script_failures()
        for server in self.backends:
            server.stop()
        return problems
