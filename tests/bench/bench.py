#!/usr/bin/python3
"""Measures olla beside nginx and HAProxy: same machine, same run, same backend, in turns.

    bench.py [PATH]          about ten minutes; PATH is the olla to measure, else OLLA_BIN, else build/olla
    BENCH_QUICK=1            about one minute: fewer connections and streams, shorter rounds
    BENCH_ONLY=chat,streams  these groups of rows only
    BENCH_ROUNDS=5           so often each; the median counts
    BENCH_PIN=0              the system chooses the processors
    BENCH_WRITE=1            what is printed replaces the block of figures in docs/performance.md, too

The table goes to the standard output, what is being done to the other one. nginx and HAProxy have one worker or thread,
reuse their upstream connections and write no log where nothing else is said. CPU is what the proxy's processes have used,
with the kernel's work for them. The exit status is 0 whatever the figures are: this measures, it does not judge.
"""
import os
import platform
import re
import signal
import subprocess
import sys
import time

import anthropic
import bodies
import catalogue
import chat
import instructions
import memory
import streams
import tls
import transfer
import world
from table import Table

DOCUMENT = os.path.join(world.TOP, "docs", "performance.md")
MARK = "<!-- BENCH_WRITE=1 make bench writes the block that follows -->"
GROUPS = {"chat": chat, "bodies": bodies, "streams": streams, "transfer": transfer, "tls": tls, "memory": memory,
          "anthropic": anthropic, "catalogue": catalogue,
          "instructions": instructions}


def version(*command):
    try:
        done = subprocess.run([world.find(command[0]), *command[1:]], capture_output=True, text=True, timeout=10, check=False)
    except world.Missing:
        return f"{os.path.basename(command[0])}: none"
    return (done.stdout + done.stderr).strip().splitlines()[0].replace("nginx version: ", "").split(" (Library")[0]


def processor():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        found = re.search(r"^(?:model name|Model|Hardware)\s*: (.*)$", file.read(), re.M)
    return found.group(1) if found else platform.machine()


def machine():
    """The lines that tell where the figures come from."""
    olla = subprocess.run([world.olla_path(), "--version"], capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    commit = subprocess.run(["git", "-C", world.TOP, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False).stdout.strip()
    wrk = version("wrk", "-v").split("[")[0].strip()
    where = "proxies alone on the last one, backend and clients on the first" if world.PINNED else "shared by all"
    print(f"date       {time.strftime('%Y-%m-%d', time.gmtime())}; load of the machine before: {os.getloadavg()[0]:.1f}")
    chosen = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("BENCH_") and name != "BENCH_WRITE"]
    print(f"command    {' '.join([*chosen, 'make bench'])}")
    print(f"machine    {processor()}, {len(world.PROCESSORS)} processors ({where}); {platform.system()} {platform.release()}")
    print(f"olla       {olla}{', commit ' + commit if commit else ''}; {world.compiler_version()}")
    print(f"beside it  {version('nginx', '-v')}; {version('haproxy', '-v').split(' - ')[0]}; {wrk}; {version('openssl', 'version')}")
    often = f"the median of {world.ROUNDS} rounds" if world.ROUNDS > 1 else "one round"
    print(f"figures    {often}, the proxies in turns; CPU: all processes of a proxy, with the kernel's work for them", flush=True)


def run():
    bench = world.World()
    machine()
    print()
    table = Table()
    table.head()
    for name, group in GROUPS.items():
        if world.ONLY and name not in world.ONLY:
            continue
        begun = time.monotonic()
        try:
            group.measure(bench, table)
        except (world.Missing, OSError, subprocess.SubprocessError) as error:
            print(f"  {name}: not measured to the end: {error}", flush=True)
        world.note(f"{name}: {time.monotonic() - begun:.0f} s")
    bench.backend.stop()


class Copy:
    """The standard output, and what went there."""

    def __init__(self, stream):
        self.stream = stream
        self.text = ""

    def write(self, text):
        self.text += text
        return self.stream.write(text)

    def flush(self):
        self.stream.flush()


def keep(text):
    with open(DOCUMENT, encoding="utf-8") as file:
        before, start, rest = file.read().partition(MARK + "\n```\n")
    _, end, after = rest.partition("\n```\n")
    if not start or not end:
        raise world.Missing(f"{DOCUMENT} has no block of figures")
    with open(DOCUMENT, "w", encoding="utf-8") as file:
        file.write(before + start + text.strip() + end + after)


def stop(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, stop)
    unknown = [name for name in world.ONLY if name not in GROUPS]
    if unknown:
        sys.exit(f"BENCH_ONLY: there is {', '.join(GROUPS)}")
    sys.stdout = Copy(sys.stdout)
    try:
        run()
        if os.environ.get("BENCH_WRITE", "") not in ("", "0"):
            keep(sys.stdout.text)
    except world.Missing as error:
        print(f"nothing was measured: {error}")
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
