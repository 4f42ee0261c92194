#!/usr/bin/python3
"""Measures olla beside nginx and HAProxy: same machine, same run, same backend.

    bench.py [PATH]     about three minutes: 32 and 256 connections, median of 3 alternating rounds;
                        PATH is the olla to measure, else OLLA_BIN, else build/olla
    BENCH_QUICK=1       about one minute: 32 connections, shorter rounds

Each proxy has one worker, reuses its upstream connections and writes no log. wrk sends 150-byte chat requests over
keep-alive connections; the scripted backend (backend.c) answers about 300 bytes at once. The CPU time is the proxy's
own, with its children, per request; requests/s depend on how the machine's cores are shared, so compare CPU first.
A part that is missing or does not start is named and left out; the exit status is 0 whatever the figures are.
"""
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
PROGRAM = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OLLA_BIN") or os.path.join(TOP, "build", "olla")
QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")
ROUNDS = 3
SECONDS = 4 if QUICK else 6
CONNECTIONS = (32,) if QUICK else (32, 256)
RSS_CONNECTIONS = 32
RSS_STEPS = (1000, 100000)
START_TIMEOUT = 15.0
CPU_GOAL, IDLE_GOAL_KIB, GROWTH_GOAL_KIB = 1.3, 2560, 16  # times nginx; 2.5 MB; four pages
TICK = os.sysconf("SC_CLK_TCK")

BODY = ('{"model":"bench-model","messages":[{"role":"user","content":"'
        'Write one short sentence about small boxes."}],"temperature":0.7,"max_tokens":32}')
BODY += " " * (150 - len(BODY))
TARGET = "/v1/chat/completions"

WRK_SCRIPT = f"""
wrk.method = "POST"
wrk.path = "{TARGET}"
wrk.body = [[{BODY}]]
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("FIGURES %d %d %d %d %d\\n", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99)))
end
"""

NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/n1;
    proxy_temp_path {folder}/n2;
    fastcgi_temp_path {folder}/n3;
    uwsgi_temp_path {folder}/n4;
    scgi_temp_path {folder}/n5;
    upstream backend {{
        server 127.0.0.1:{backend};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend bench
    bind 127.0.0.1:{port} backlog 1024
    default_backend backend
backend backend
    server backend 127.0.0.1:{backend}
"""

OLLA = """
[server]
host = 127.0.0.1
port = {port}
rate_limits.per_ip_requests_per_minute = 0

[logging]
level = warn

[endpoint:backend]
url = http://127.0.0.1:{backend}
type = openai-compatible
"""

# Ends the load after so many replies (wrk still waits for its time to pass, and itself knows times only).
COUNT_SCRIPT = """
local count = 0
response = function()
    count = count + 1
    if count >= {count} then
        wrk.thread:stop()
    end
end
"""


class Missing(Exception):
    """Something this needs is not there or does not start; the text says what."""


def say(text=""):
    print(text, flush=True)


def find(program):
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        raise Missing(f"{program} is not installed (tests/deps.sh bench installs it)")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def ask(port, request):
    """One exchange on a fresh connection: the status, 0 when nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as peer:
            peer.sendall(request)
            return int(peer.recv(64).split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def chat_request(connection="keep-alive"):
    return (f"POST {TARGET} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Connection: {connection}\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}").encode()


# Facts from /proc

def stat_fields(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def family(pid):
    """The process and its living children, as nginx's worker or a resolver child."""
    pids = [pid]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int(stat_fields(entry)[1]) == pid:
                    pids.append(int(entry))
    return pids


def cpu_seconds(pid):
    ticks = 0
    for member in family(pid):
        with contextlib.suppress(OSError, IndexError):
            fields = stat_fields(member)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICK


def rss_kib(pid):
    """Resident memory; smaps_rollup counts exactly where the other files are some pages late."""
    for name, key in (("smaps_rollup", "Rss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/{name}", encoding="utf-8") as file:
                for line in file:
                    if line.startswith(key):
                        return int(line.split()[1])
    return 0


# Processes

class Process:
    """A program in the background: started, waited for, ended by its pid."""

    def __init__(self, name, command, port, folder):
        self.name = name
        self.port = port
        self.log = os.path.join(folder, name + ".out")
        # Settings of the caller's shell must not reach the olla that is measured.
        env = {key: value for key, value in os.environ.items() if not key.startswith("OLLA_")}
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                                          env=env, start_new_session=True)
        self.pid = self.child.pid

    def wait_ready(self, request):
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until:
            if self.child.poll() is not None:
                break
            if ask(self.port, request) == 200:
                return self
            time.sleep(0.1)
        with open(self.log, encoding="utf-8", errors="replace") as log:
            said = " | ".join(log.read().strip().splitlines()[-3:])
        ended = self.child.poll()
        self.stop()
        how = f"ended with status {ended}" if ended is not None else f"did not answer within {START_TIMEOUT:.0f} s"
        raise Missing(f"{self.name} {how}: {said or 'it said nothing'}")

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


def start_backend(folder, stream=()):
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        raise Missing(f"no C compiler ({compiler[0]}) for the backend")
    program = os.path.join(folder, "backend")
    built = subprocess.run(
        compiler + ["-O2", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-o", program, os.path.join(HERE, "backend.c")],
        capture_output=True, text=True, timeout=120, check=False)
    if built.returncode != 0:
        raise Missing(f"the backend does not compile: {built.stderr.strip()[:300]}")
    port = free_port()
    return Process("backend", [program, str(port), *stream], port, folder).wait_ready(chat_request("close"))


def start_nginx(folder, backend):
    port = free_port()
    text = NGINX.format(folder=folder, port=port, backend=backend, user="user root;" if os.getuid() == 0 else "")
    conf = write(folder, "nginx.conf", text)
    return Process("nginx", [find("nginx"), "-c", conf, "-p", folder, "-e", folder + "/nginx.log"], port, folder)


def start_haproxy(folder, backend):
    port = free_port()
    conf = write(folder, "haproxy.cfg", HAPROXY.format(port=port, backend=backend))
    return Process("haproxy", [find("haproxy"), "-q", "-db", "-f", conf], port, folder)


def start_olla(folder, backend):
    program = os.path.abspath(PROGRAM)
    if not os.access(program, os.X_OK):
        raise Missing(f"there is no {program} (make builds it)")
    port = free_port()
    conf = write(folder, "olla.ini", OLLA.format(port=port, backend=backend))
    return Process("olla", [program, "-c", conf], port, folder)


STARTERS = (("nginx", start_nginx), ("haproxy", start_haproxy), ("olla", start_olla))


# Load

def run_wrk(wrk, script, port, connections, seconds):
    """(requests, seconds, errors, p50 ms, p99 ms)"""
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", script,
               f"http://127.0.0.1:{port}{TARGET}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("FIGURES "):
            requests, micros, errors, p50, p99 = (int(float(word)) for word in line.split()[1:])
            return requests, micros / 1e6, errors, p50 / 1e3, p99 / 1e3
    raise Missing(f"wrk gave no figures: {(done.stderr or done.stdout).strip()[:300]}")


def measure(wrk, script, process, connections):
    before = cpu_seconds(process.pid)
    requests, seconds, errors, p50, p99 = run_wrk(wrk, script, process.port, connections, SECONDS)
    spent = cpu_seconds(process.pid) - before
    return {"rate": requests / seconds, "cpu": spent * 1e6 / max(requests, 1), "p50": p50, "p99": p99,
            "errors": errors, "requests": requests}


def run_rounds(wrk, script, processes, connections):
    """Each proxy once per round, so that a slow moment of the machine hits all of them."""
    results = {process.name: [] for process in processes}
    for number in range(ROUNDS):
        order = processes[number % len(processes):] + processes[:number % len(processes)]
        for process in order:
            try:
                results[process.name].append(measure(wrk, script, process, connections))
            except (Missing, subprocess.TimeoutExpired) as error:
                say(f"  {process.name}: {error}")
    return {name: runs for name, runs in results.items() if runs}


def print_table(connections, results):
    say()
    say(f"{connections} keep-alive connections, 150-byte request, 300-byte reply; "
        f"median of {ROUNDS} rounds of {SECONDS} s")
    say(f"  {'':10}{'requests/s':>12}{'CPU us/req':>12}{'p50 ms':>9}{'p99 ms':>9}{'errors':>9}"
        f"{'req/s : nginx':>16}{'CPU : nginx':>14}")
    middle = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
              for name, runs in results.items()}
    base = middle.get("nginx")
    for name, row in middle.items():
        errors = sum(run["errors"] for run in results[name])
        proxy = name != "backend"
        cpu = f"{row['cpu']:.1f}" if proxy else "-"
        ratios = (f"{row['rate'] / base['rate']:.2f}", f"{row['cpu'] / base['cpu']:.2f}") \
            if base and proxy and base["cpu"] else ("-", "-")
        say(f"  {name if proxy else '(direct)':10}{row['rate']:12.0f}{cpu:>12}{row['p50']:9.2f}{row['p99']:9.2f}"
            f"{errors:9d}{ratios[0]:>16}{ratios[1]:>14}")
    if base and "olla" in middle and base["cpu"]:
        ratio = middle["olla"]["cpu"] / base["cpu"]
        say(f"  olla's CPU time per request is {ratio:.2f} times nginx's; the aim is {CPU_GOAL} at most: "
            f"{'met' if ratio <= CPU_GOAL else 'NOT met'}")


def measure_memory(wrk, folder, backend):
    """A fresh olla: resident memory idle and after two numbers of requests over the same number of connections."""
    try:
        process = start_olla(folder, backend)
        process.wait_ready(b"GET /internal/health HTTP/1.0\r\n\r\n")
    except Missing as error:
        say(f"memory of olla: not measured: {error}")
        return
    try:
        time.sleep(1.5)
        idle, whole = rss_kib(process.pid), sum(rss_kib(pid) for pid in family(process.pid))
        rows = [("idle, after its first probes", idle)]
        process.wait_ready(chat_request("close"))
        total = errors = 0
        for step in RSS_STEPS:
            until = time.monotonic() + 120
            while total < step and time.monotonic() < until:
                script = write(folder, "count.lua", WRK_SCRIPT + COUNT_SCRIPT.format(count=step - total))
                run = run_wrk(wrk, script, process.port, RSS_CONNECTIONS, 1 if step == RSS_STEPS[0] else 4)
                total += run[0]
                errors += run[2]
            time.sleep(0.5)
            rows.append((f"after {total:,} requests" + (f", {errors} errors" if errors else ""), rss_kib(process.pid)))
        say()
        say(f"resident memory of olla, {RSS_CONNECTIONS} connections (with its children when idle: {whole} KiB, "
            "shared pages counted twice)")
        for name, value in rows:
            say(f"  {name:42}{value:8d} KiB")
        growth = rows[2][1] - rows[1][1]
        say(f"  idle at most {IDLE_GOAL_KIB} KiB: {'met' if idle <= IDLE_GOAL_KIB else 'NOT met'}; no growth after "
            f"{RSS_STEPS[0]:,} requests ({growth:+d} KiB; {GROWTH_GOAL_KIB} allowed for late code pages): "
            f"{'met' if growth <= GROWTH_GOAL_KIB else 'NOT met'}")
    except (Missing, subprocess.TimeoutExpired) as error:
        say(f"memory of olla: not measured to the end: {error}")
    finally:
        process.stop()


def bench(folder):
    wrk = find("wrk")
    script = write(folder, "chat.lua", WRK_SCRIPT)
    running = []
    try:
        backend = start_backend(folder)
        running.append(backend)
        processes = [backend]
        for name, start in STARTERS:
            try:
                process = start(folder, backend.port)
                running.append(process)
                process.wait_ready(chat_request("close"))
                processes.append(process)
            except Missing as error:
                say(f"without {name}: {error}")
        for connections in CONNECTIONS:
            print_table(connections, run_rounds(wrk, script, processes, connections))
        for process in running[1:]:
            process.stop()
        measure_memory(wrk, folder, backend.port)
    finally:
        for process in reversed(running):
            process.stop()


def stop(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, stop)
    say(f"olla beside nginx and HAProxy ({os.cpu_count()} cores, {'quick run' if QUICK else 'full run'})")
    with tempfile.TemporaryDirectory(prefix="olla-bench-") as folder:
        os.chmod(folder, 0o755)
        try:
            bench(folder)
        except Missing as error:
            say(f"nothing was measured: {error}")
        except KeyboardInterrupt:
            say("interrupted")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
