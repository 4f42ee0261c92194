"""Resident memory of the process that does the work, in its default build, and the time from its start to its first reply."""
import time

import chat
import streams
import world
from table import limit

REQUESTS = 100_000 if world.QUICK else 1_000_000
STREAMS = 256
CONNECTIONS = 32
STARTS = 5 if world.QUICK else 15
DEAD = 16
IDLE_KIB, STREAMS_KIB, GROWTH_KIB, START_US = 2560, 8192, 0, 10_000

OLLA_DEAD = """
[server]
host = 127.0.0.1
port = {plain}

[logging]
level = error
"""


def memory(bench, process):
    time.sleep(1)
    idle = process.rss()
    return {"idle": idle, "streams": streams.streams(bench, process, STREAMS, seconds=1)["rss"]}


def growth(bench, process):
    script = chat.script(bench)
    chat.wrk(bench, process, script, "plain", CONNECTIONS, 1)
    before, total = process.rss(), 0
    until = time.monotonic() + 120
    while total < REQUESTS and time.monotonic() < until:
        total += chat.wrk(bench, process, script, "plain", CONNECTIONS, 1 if world.QUICK else 4)["requests"]
    return {"before": before, "after": process.rss(), "growth": process.rss() - before}


def starts(bench):
    """Each a fresh process on a fresh port; the processors are its own."""
    times = []
    dead = "".join(f"\n[endpoint:dead-{n}]\nurl = http://127.0.0.1:{world.free_port()}\ntype = openai-compatible\n" for n in range(DEAD))
    for _ in range(STARTS):
        port = world.free_port()
        conf = world.write(bench.folder, "dead.ini", OLLA_DEAD.format(plain=port) + dead)
        times.append(world.figures(bench.run([bench.load, "start", port, world.olla_path(), "-c", conf], processors=set(world.PROCESSORS))))
    return {"olla": times}


def measure(bench, table):
    table.section("memory of the process that does the work; start")
    with bench.proxies(*world.FEW) as proxies:
        found = world.rounds(proxies, lambda p: memory(bench, p), 1)
        table.row("idle, after the first probes", "KiB", found, "idle", limit(IDLE_KIB, "2.5 MB"))
        table.row(f"{STREAMS} streams active", "KiB", found, "streams", limit(STREAMS_KIB, "8 MB"))
        found = world.rounds([p for p in proxies if p.name == "olla"], lambda p: growth(bench, p), 1)
        table.row(f"{CONNECTIONS} connections, before many requests", "KiB", found, "before")
        table.row(f"{CONNECTIONS} connections, after {REQUESTS:,} requests", "KiB", found, "after")
        table.row("growth in these", "KiB", found, "growth", limit(GROWTH_KIB, "0"))
    found = starts(bench)
    table.row(f"start with {DEAD} dead endpoints, to the first connection", "us", found, "connected_us")
    table.row(f"start with {DEAD} dead endpoints, to the first reply", "us", found, "answered_us", limit(START_US, "10 ms"))
