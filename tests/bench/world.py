"""What the benchmark is made of: the programs, started and ended; their configurations; facts from /proc; the settings of a run.

Every program runs on loopback, on ports that were free, in one temporary folder. The proxies get the last processor for
themselves, the backend and the clients the others, if there are two at least (BENCH_PIN=0: the system decides). Nothing
outlives the run.
"""
import atexit
import contextlib
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")
ONLY = [word for word in os.environ.get("BENCH_ONLY", "").split(",") if word]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "0")) or (1 if QUICK else 3)
START_TIMEOUT = 15.0
# HAProxy is left out of what takes long when the time is short: nginx is the yardstick.
ALL = ("olla", "nginx", "haproxy")
FEW = ALL[:2] if QUICK else ALL
KEY = "benchmark-key-0123456789"

PROCESSORS = sorted(os.sched_getaffinity(0))
PINNED = len(PROCESSORS) > 1 and os.environ.get("BENCH_PIN", "1") != "0"
PROXY_PROCESSOR = {PROCESSORS[-1]} if PINNED else set(PROCESSORS)
LOAD_PROCESSOR = {PROCESSORS[0]} if PINNED else set(PROCESSORS)
BACKEND_PROCESSOR = ({PROCESSORS[1]} if len(PROCESSORS) > 2 else {PROCESSORS[0]}) if PINNED else set(PROCESSORS)

CHAT_PATH = "/v1/chat/completions"
CHAT = ('{"model":"bench-model","messages":[{"role":"user","content":"'
        'Write one short sentence about small boxes."}],"temperature":0.7,"max_tokens":32}')
CHAT += " " * (150 - len(CHAT))

NGINX = """
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on; # these two as in Debian's own configuration
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_max_body_size 100m;
    client_body_temp_path {folder}/n1;
    proxy_temp_path {folder}/n2;
    fastcgi_temp_path {folder}/n3;
    uwsgi_temp_path {folder}/n4;
    scgi_temp_path {folder}/n5;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream backend {{
        server 127.0.0.1:{backend};
        keepalive 1100;
        keepalive_requests 1000000000;
    }}
    server {{ # the defaults
        listen 127.0.0.1:{plain} backlog=4096;
        location / {{ proxy_pass http://backend; }}
    }}
    server {{ # with its access log
        listen 127.0.0.1:{full} backlog=4096;
        access_log {folder}/nginx-access.log;
        location / {{ proxy_pass http://backend; }}
    }}
    server {{ # for streams
        listen 127.0.0.1:{stream} backlog=4096;
        location / {{ proxy_pass http://backend; proxy_buffering off; proxy_read_timeout 600s; }}
    }}
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_session_cache shared:S:10m;
    server {{
        listen 127.0.0.1:{tls} ssl backlog=4096;
        location / {{ proxy_pass http://backend; }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 8192
    log stdout format raw local0 info
    tune.ssl.default-dh-param 2048
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 600s
    http-reuse always
frontend plain
    bind 127.0.0.1:{plain} backlog 4096
    default_backend backend
frontend stream
    bind 127.0.0.1:{stream} backlog 4096
    option http-no-delay
    default_backend backend
frontend full
    bind 127.0.0.1:{full} backlog 4096
    option httplog
    log global
    default_backend backend
frontend tls
    bind 127.0.0.1:{tls} ssl crt {folder}/both.pem backlog 4096
    default_backend backend
backend backend
    server backend 127.0.0.1:{backend}
"""

OLLA = """
[server]
host = 127.0.0.1
port = {plain}

[proxy]
spool_dir = {folder}

[logging]
level = warn

[endpoint:backend]
url = http://127.0.0.1:{backend}
type = openai-compatible
"""

OLLA_TLS = OLLA + """
[server.tls]
enabled = true
cert_file = {folder}/cert.pem
key_file = {folder}/key.pem
port = {tls}
"""

# Three endpoints, one of them without the model; keys; a conversation in each request; every request in the log.
OLLA_FULL = """
[server]
host = 127.0.0.1
port = {plain}

[proxy]
spool_dir = {folder}

[logging]
level = info
output = file
file = {folder}/olla-access.log

[key:bench]
secret = {key}
models = bench-*

[model_aliases]
fast = bench-model

[endpoint:one]
url = http://127.0.0.1:{backend}
type = openai-compatible

[endpoint:two]
url = http://127.0.0.1:{second}
type = openai-compatible

[endpoint:other]
url = http://127.0.0.1:{third}
type = openai-compatible
"""


class Missing(Exception):
    """Something this needs is not there or does not start; the text says what."""


def note(text):
    """For whoever watches; the table is on the other output."""
    print(text, file=sys.stderr, flush=True)


def olla_path():
    path = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OLLA_BIN") or os.path.join(TOP, "build", "olla"))
    if not os.access(path, os.X_OK):
        raise Missing(f"there is no {path} (make builds it)")
    return path


def find(program):
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        raise Missing(f"{program} is not installed (tests/deps.sh bench installs it)")
    return path


def compiler_version():
    """Which and what, without the name it was called by: it is the same compiler as cc and as gcc."""
    command = shlex.split(os.environ.get("CC", "cc"))
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10, check=False)
    name, _, rest = done.stdout.splitlines()[0].partition(" ")
    return ("gcc " + rest if name in ("cc", "gcc") else done.stdout.splitlines()[0]).strip()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def chat_request(*headers):
    lines = "".join(header + "\r\n" for header in headers)
    return (f"POST {CHAT_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"{lines}Content-Length: {len(CHAT)}\r\n\r\n{CHAT}").encode()


def ask(port, request):
    """One exchange on a fresh connection: the status, 0 when nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as peer:
            peer.sendall(request)
            return int(peer.recv(64).split()[1])
    except (OSError, ValueError, IndexError):
        return 0


# Facts from /proc

def family(pid):
    """The process and its living children, as nginx's worker or a resolver child."""
    pids = [pid]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == pid:
                        pids.append(int(entry))
    return pids


def cpu_of(pid):
    """Seconds on a processor, of all threads: exact where the kernel counts nanoseconds, else in its ticks."""
    try:
        total = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="utf-8") as file:
                total += int(file.read().split()[0])
        return total / 1e9
    except FileNotFoundError:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_of(pid):
    """KiB of resident memory; smaps_rollup counts exactly where the other files are some pages late."""
    for name, key in (("smaps_rollup", "Rss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/{name}", encoding="utf-8") as file:
                for line in file:
                    if line.startswith(key):
                        return int(line.split()[1])
    return 0


# Processes

def prepared(processors):
    def run():
        os.sched_setaffinity(0, processors)
    return run


def clean_environment(**more):
    """Settings of the caller's shell must not reach what is measured."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("OLLA_")}
    env.update(more)
    return env


class Process:
    """A program in the background: started, waited for, ended by its pid. `ports` has a port for each kind of work."""

    def __init__(self, name, command, ports, folder, processors):
        self.name = name
        self.ports = ports
        self.log = os.path.join(folder, name + ".out")
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                                          env=clean_environment(), start_new_session=True, preexec_fn=prepared(processors))
        self.pid = self.child.pid
        self.members = [self.pid]
        atexit.register(self.stop)

    def wait_ready(self, port, request):
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until and self.child.poll() is None:
            if ask(port, request) == 200:
                self.members = family(self.pid)
                return self
            time.sleep(0.05)
        with open(self.log, encoding="utf-8", errors="replace") as log:
            said = " | ".join(log.read().strip().splitlines()[-3:])
        ended = self.child.poll()
        self.stop()
        how = f"ended with status {ended}" if ended is not None else f"did not answer within {START_TIMEOUT:.0f} s"
        raise Missing(f"{self.name} {how}: {said or 'it said nothing'}")

    def cpu(self):
        return sum(cpu_of(pid) for pid in self.members)

    def rss(self):
        """KiB, of the largest of its processes: what they share is not counted twice."""
        return max(rss_of(pid) for pid in self.members)

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                # Killing nginx's master would leave its worker behind.
                for pid in family(self.pid)[::-1]:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                self.child.wait()
        atexit.unregister(self.stop)


class World:
    """The folder, the two programs of ours, the backend, and whatever proxies a group of rows asks for."""

    def __init__(self):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16384) if most != resource.RLIM_INFINITY else 16384, most))
        self.folder = tempfile.mkdtemp(prefix="olla-bench-")
        os.chmod(self.folder, 0o755)
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.load = self.compile("load")
        self.missing = set()
        self.certificate()
        ports = [free_port() for _ in range(3)]
        self.backend = Process("direct", [self.compile("backend"), *map(str, ports)], {}, self.folder, BACKEND_PROCESSOR)
        self.backend.wait_ready(ports[0], chat_request())
        self.backend.ports = dict.fromkeys(("plain", "full", "stream", "tls"), ports[0])
        self.backend_ports = dict(zip(("backend", "second", "third"), ports))

    def compile(self, name):
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if shutil.which(compiler[0]) is None:
            raise Missing(f"no C compiler ({compiler[0]})")
        program = os.path.join(self.folder, name)
        built = subprocess.run(compiler + ["-O2", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-o", program,
                                           os.path.join(HERE, name + ".c")], capture_output=True, text=True, timeout=120, check=False)
        if built.returncode != 0:
            raise Missing(f"{name}.c does not compile: {built.stderr.strip()[:300]}")
        return program

    def build(self, name, flags, variable="CPPFLAGS"):
        """An olla with other limits, in a folder of its own that the next run finds."""
        folder = os.path.join(TOP, "build", "bench", name)
        note(f"building olla with {flags}")
        done = subprocess.run(["make", "-s", "-C", TOP, f"-j{len(PROCESSORS)}", f"BUILD={os.path.relpath(folder, TOP)}", f"{variable}={flags}",
                               os.path.relpath(folder, TOP) + "/olla"], capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise Missing(f"olla does not build with {flags}: {done.stderr.strip()[-300:]}")
        return os.path.join(folder, "olla")

    def build_blind(self):
        """An olla that neither reads tokens nor counts requests: see blind.c."""
        source = os.path.join(HERE, "blind.c")
        with open(source, encoding="utf-8") as file:
            names = re.findall(r"^\S.*\b__wrap_(\w+)\(.*;$", file.read(), re.M)
        folder = os.path.join(TOP, "build", "bench")
        os.makedirs(folder, exist_ok=True)
        left_out = os.path.join(folder, "blind.o")
        built = subprocess.run(shlex.split(os.environ.get("CC", "cc")) + ["-O2", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-c", "-o", left_out, source],
                               capture_output=True, text=True, timeout=120, check=False)
        if built.returncode != 0:
            raise Missing(f"blind.c does not compile: {built.stderr.strip()[:300]}")
        return self.build("blind", " ".join([f"-Wl,--wrap={name}" for name in names] + [left_out]), "LDFLAGS")

    def certificate(self):
        key, cert = os.path.join(self.folder, "key.pem"), os.path.join(self.folder, "cert.pem")
        subprocess.run([find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
        with open(os.path.join(self.folder, "both.pem"), "w", encoding="utf-8") as both:
            for name in (cert, key):
                with open(name, encoding="utf-8") as part:
                    both.write(part.read())

    def start_nginx(self):
        ports = {kind: free_port() for kind in ("plain", "full", "stream", "tls")}
        conf = write(self.folder, "nginx.conf", NGINX.format(folder=self.folder, user="user root;" if os.getuid() == 0 else "",
                                                             **ports, **self.backend_ports))
        command = [find("nginx"), "-c", conf, "-p", self.folder, "-e", self.folder + "/nginx.log"]
        return Process("nginx", command, ports, self.folder, PROXY_PROCESSOR).wait_ready(ports["plain"], chat_request())

    def start_haproxy(self):
        ports = {kind: free_port() for kind in ("plain", "full", "stream", "tls")}
        conf = write(self.folder, "haproxy.cfg", HAPROXY.format(folder=self.folder, **ports, **self.backend_ports))
        command = [find("haproxy"), "-q", "-db", "-f", conf]
        return Process("haproxy", command, ports, self.folder, PROXY_PROCESSOR).wait_ready(ports["plain"], chat_request())

    def start_olla(self, text=OLLA, program=None, name="olla"):
        """Ready when it serves the model: its first probes are over then."""
        ports = {kind: free_port() for kind in ("plain", "tls")}
        conf = write(self.folder, f"{name}.ini", text.format(folder=self.folder, key=KEY, **ports, **self.backend_ports))
        ports["full"] = ports["stream"] = ports["plain"]
        process = Process(name, [program or olla_path(), "-c", conf], ports, self.folder, PROXY_PROCESSOR)
        return process.wait_ready(ports["plain"], chat_request(f"Authorization: Bearer {KEY}"))

    @contextlib.contextmanager
    def proxies(self, *names, olla=OLLA, program=None):
        """The proxies of these names; one that is missing or does not start is told of and left out."""
        starters = {"olla": lambda: self.start_olla(olla, program), "blind": lambda: self.start_olla(olla, self.build_blind(), "blind"), "nginx": self.start_nginx, "haproxy": self.start_haproxy}
        running = []
        try:
            for name in names:
                if name == "direct":
                    running.append(self.backend)
                    continue
                try:
                    running.append(starters[name]())
                except Missing as error:
                    if name == "olla":
                        raise
                    if name not in self.missing:
                        note(f"without {name}: {error}")
                    self.missing.add(name)
            yield running
        finally:
            for process in running:
                if process is not self.backend:
                    process.stop()

    def run(self, command, timeout=60, processors=None, **environment):
        """A client on its processor: what it printed."""
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False,
                              env=clean_environment(**environment), preexec_fn=prepared(processors or LOAD_PROCESSOR))
        return done.stdout + done.stderr

    def background(self, command, **environment):
        """A client that works while something else is measured; its output is a pipe."""
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=clean_environment(**environment),
                                preexec_fn=prepared(LOAD_PROCESSOR))

    def client(self, process, *words, timeout=60, **environment):
        """load.c in one of its modes: its figures as {name: number}, and the proxy's seconds of CPU meanwhile."""
        before = process.cpu()
        said = self.run([self.load, *words], timeout, **environment)
        return {"cpu": process.cpu() - before, **figures(said)}


def without_direct(found):
    return {name: runs for name, runs in found.items() if name != "direct"}


def beyond_direct(found, key):
    """{proxy: [{key: what it adds to the direct figure of the same round}]}"""
    return {name: [{key: run[key] - base[key]} for run, base in zip(runs, found.get("direct", []))]
            for name, runs in without_direct(found).items()}


def figures(said):
    lines = said.splitlines()
    for line in lines:
        if line.startswith("figures ") and not any(other.startswith("error ") for other in lines):
            return {name: float(value) for name, value in (word.split("=") for word in line.split()[1:])}
    raise Missing(f"no figures: {said.strip()[-300:]}")


def rounds(processes, measure, count=ROUNDS):
    """{name: [figures]}: each once per round, in turn, so that a slow moment of the machine hits all of them."""
    results = {process.name: [] for process in processes}
    for number in range(count):
        at = number % len(processes)
        for process in processes[at:] + processes[:at]:
            try:
                results[process.name].append(measure(process))
            except (Missing, subprocess.TimeoutExpired, OSError) as error:
                note(f"{process.name}: {error}")
    return {name: runs for name, runs in results.items() if runs}
