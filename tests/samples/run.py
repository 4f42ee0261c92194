#!/usr/bin/python3
"""Runs olla for a first try: run.py PATH_TO_OLLA, started by tests/run.sh in the top folder.

Looks on the usual local ports for inference servers. With olla.ini (or the file named by OLLA_CONFIG_FILE) as the base:
  - it names servers of the operator's own, or covers every server found: it is used as it is;
  - it misses some of the servers found: a temporary copy gets a section for each of these;
  - no server answers and it names none but the usual local ones: a temporary copy with two sample servers instead.
Then olla runs until Ctrl-C, and a command to paste is printed as soon as it lists a model.
"""
import ctypes
import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

USUAL = (  # port, name, type
    (11434, "ollama", "ollama"),
    (1234, "lm-studio", "lm-studio"),
    (8000, "vllm", "vllm"),
    (8080, "llamacpp", "llamacpp"),
)
SAMPLES = (  # name, dialect, type, models
    ("sample-a", "ollama", "ollama", "sample-small,sample-large"),
    ("sample-b", "openai", "openai-compatible", "sample-large,sample-other"),
)
LOCAL = ("localhost", "127.0.0.1", "::1", "[::1]")
PROBE_TIMEOUT = 1.0
MODELS_TIMEOUT = 20.0
STOP_TIMEOUT = 15.0

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def say(text=""):
    print(f"run: {text}" if text else "", flush=True)


def list_models(host, port, timeout=PROBE_TIMEOUT):
    """The model names on /v1/models, or None where something else or nothing answers. All the usual servers have it."""
    host = f"[{host}]" if ":" in host else host
    try:
        with direct.open(f"http://{host}:{port}/v1/models", timeout=timeout) as answer:
            entries = json.loads(answer.read(16 * 1024 * 1024))["data"] or []
        return [entry["id"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, urllib.error.URLError):
        return None


def find_servers():
    """All ports are asked at the same time, so that this takes one timeout at most."""
    found = {}

    def look(server):
        models = list_models("localhost", server[0])
        if models is not None:
            found[server[0]] = models

    threads = [threading.Thread(target=look, args=(server,), daemon=True) for server in USUAL]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PROBE_TIMEOUT * 2)
    return [server for server in USUAL if server[0] in found]


class Base:
    """The configuration file this starts from: as much of it as has to be known here."""

    def __init__(self, path):
        self.path = path
        self.lines = []
        self.host = "localhost"
        self.port = 40114
        self.urls = []
        self.names = []
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self.lines = file.read().splitlines()
        self.read()
        self.host = os.environ.get("OLLA_SERVER_HOST", self.host)
        port = os.environ.get("OLLA_SERVER_PORT") or str(self.port)
        if not port.isdigit() or not 0 < int(port) < 65536:
            sys.exit(f"run: the port is \"{port}\"; it has to be a number from 1 to 65535")
        self.port = int(port)

    def read(self):
        section = ""
        for line in self.lines:
            line = line.strip()
            if line.startswith("["):
                section = line.strip("[] ")
                if self.is_endpoint(line):
                    self.names.append(section.partition(":")[2].strip() or section.partition(" ")[2].strip('" '))
                continue
            match = re.match(r"([\w.]+)\s*[=:]\s*(.*)", line)
            if not match:
                continue
            key, value = match.group(1), re.sub(r"\s[;#].*", "", match.group(2)).strip().strip("\"'")
            if self.is_endpoint(f"[{section}]") and key == "url":
                self.urls.append(value)
            elif f"{section}.{key}" == "server.port":
                self.port = value
            elif f"{section}.{key}" == "server.host":
                self.host = value

    @staticmethod
    def is_endpoint(line):
        return re.match(r"\s*\[endpoint[:\s]", line) is not None

    def covered_ports(self):
        """Ports of this machine that the file's endpoints name; with no endpoint at all olla takes Ollama's."""
        if not self.names:
            return {11434}
        found = (re.match(r"https?://(\[[^]]*\]|[^:/]*):(\d+)", url) for url in self.urls)
        return {int(match.group(2)) for match in found if match and match.group(1) in LOCAL}

    def is_own(self):
        """Names a server that is not one of the usual local ones."""
        usual = {str(server[0]) for server in USUAL}
        for url in self.urls:
            match = re.match(r"http://(\[[^]]*\]|[^:/]*):(\d+)", url)
            if not match or match.group(1) not in LOCAL or match.group(2) not in usual:
                return True
        return False

    def without_endpoints(self):
        kept, skip = [], False
        for line in self.lines:
            if line.lstrip().startswith("["):
                skip = self.is_endpoint(line)
            if not skip:
                kept.append(line)
        return kept

    def free_name(self, name):
        while name in self.names:
            name = "found-" + name
        return name


def section(name, url, kind):
    return ["", f"[endpoint:{name}]", f"url = {url}", f"type = {kind}"]


def write_ini(folder, lines):
    path = os.path.join(folder, "olla.ini")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


def is_port_taken(host, port):
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
    return False


class Run:
    """The children and their end: samples by themselves when this process goes, olla by a signal."""

    def __init__(self):
        self.olla = None
        self.samples = []
        self.stopping = False

    def start_sample(self, name, dialect, models):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sample_server.py")
        child = subprocess.Popen(
            [sys.executable, script, "--port", "0", "--name", name, "--dialect", dialect, "--models", models],
            stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.samples.append(child)
        port = child.stdout.readline().strip().rpartition(" ")[2]
        if not port.isdigit():
            self.stop_samples()
            sys.exit(f"run: the sample server {name} did not start")
        return int(port)

    def start_olla(self, path, ini):
        # A group of its own: Ctrl-C at the terminal arrives here only, and is passed on once.
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None

        def prepare():
            os.setpgrp()
            if libc:
                libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: not to outlive this process

        self.olla = subprocess.Popen([path, "-c", ini], preexec_fn=prepare)

    def on_signal(self, *_):
        """The first one asks olla to finish what it has, the second one ends it; sending it twice means just that."""
        if self.olla is None:
            sys.exit(1)
        if not self.stopping:
            self.stopping = True
            threading.Thread(target=self.insist, daemon=True).start()
        if self.olla.poll() is None:
            self.olla.send_signal(signal.SIGTERM)

    def insist(self):
        time.sleep(STOP_TIMEOUT)
        if self.olla.poll() is None:
            self.olla.kill()

    def stop_samples(self):
        for child in self.samples:
            child.terminate()
        for child in self.samples:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def print_hint(run, host, port, wanted):
    """Waits for the list of models, then prints what to paste. Host is what a client on this machine has to use."""
    address = host if host not in ("", "0.0.0.0", "::") else "localhost"
    until = time.monotonic() + MODELS_TIMEOUT
    models = None
    while time.monotonic() < until and run.olla.poll() is None and not run.stopping:
        models = list_models(address, port)
        # Right after the start the servers are still being asked, so the list may be short at first.
        if models and (not wanted or wanted in models):
            break
        time.sleep(0.2)
    if run.olla.poll() is not None or run.stopping:
        return
    if not models:
        say(f"olla lists no model yet; see its messages above and http://{address}:{port}/internal/status")
        return
    model = wanted if wanted in models else models[0]
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    say()
    say(f"olla listens on http://{address}:{port} and lists: {', '.join(models[:8])}{' ...' if models[8:] else ''}")
    say("paste this into another terminal to see a reply stream:")
    print(f"\n  curl -N http://{address}:{port}/v1/chat/completions -H 'Content-Type: application/json' "
          f"-d {shlex.quote(body)}\n", flush=True)
    say("Ctrl-C ends olla" + (" and the sample servers." if run.samples else "."))


def choose(base, run, folder):
    """The configuration file to use and the model for the hint."""
    if base.is_own():
        say(f"{base.path} names servers of your own: olla runs with it.")
        return base.path, None
    servers = find_servers()
    for port, name, _ in servers:
        say(f"found a server on port {port} (the usual port of {name}).")
    missing = [server for server in servers if server[0] not in base.covered_ports()]
    if servers and not missing and base.lines:
        say(f"olla runs with {base.path}.")
        return base.path, None
    lines = base.without_endpoints()
    if servers:
        # With no endpoint section the built-in one goes as soon as there is any, so all found ones are written.
        if base.names:
            lines = base.lines
        else:
            missing = servers
        for port, name, kind in missing:
            lines = lines + section(base.free_name(name), f"http://localhost:{port}", kind)
        say("olla runs with a temporary copy of the configuration that names what was found.")
        return write_ini(folder, lines), None
    say("no inference server answers on the usual local ports "
        f"({', '.join(f'{port} {name}' for port, name, _ in USUAL)}).")
    say("So that there is something to try, two SAMPLE servers start: scripts with a fixed text, no language models.")
    for name, dialect, kind, models in SAMPLES:
        port = run.start_sample(name, dialect, models)
        say(f"  {name}: port {port}, {dialect} dialect, models {models.replace(',', ', ')}")
        lines = lines + section(name, f"http://127.0.0.1:{port}", kind)
    say(f"For your own servers write [endpoint:NAME] sections into {base.path}.")
    return write_ini(folder, lines), "sample-small"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = Run()
    signal.signal(signal.SIGINT, run.on_signal)
    signal.signal(signal.SIGTERM, run.on_signal)
    signal.signal(signal.SIGHUP, run.on_signal)
    base = Base(os.environ.get("OLLA_CONFIG_FILE") or "olla.ini")
    if is_port_taken(base.host, base.port):
        sys.exit(f"run: port {base.port} is taken by another program, perhaps by an olla that runs already.\n"
                 f"run: end it, or choose another port: OLLA_SERVER_PORT={base.port + 1} make run")
    with tempfile.TemporaryDirectory(prefix="olla-run-") as folder:
        try:
            ini, wanted = choose(base, run, folder)
            run.start_olla(sys.argv[1], ini)
            threading.Thread(target=print_hint, args=(run, base.host, base.port, wanted), daemon=True).start()
            status = run.olla.wait()
        finally:
            run.stop_samples()
    if not run.stopping and status != 0:
        say(f"olla ended with status {status}")
    return 0 if run.stopping and status in (0, 3) else max(status, 1) if status else 0


if __name__ == "__main__":
    sys.exit(main())
