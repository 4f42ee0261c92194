"""Short chat requests over keep-alive connections, by wrk: with the defaults, and with everything on."""
import os

import world
from table import at_least, at_most, limit

SECONDS = 1 if world.QUICK else 3
SEEING_ROUNDS = 1 if world.QUICK else 7
SEEING_MOST = 3
CONNECTIONS = (32,) if world.QUICK else (32, 256)

# Without a function for each request or reply wrk costs the least.
SCRIPT = """
wrk.method = "POST"
wrk.path = "{path}"
wrk.body = [[{body}]]
wrk.headers["Content-Type"] = "application/json"
{headers}
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("figures requests=%d us=%d errors=%d p50_us=%d p99_us=%d\\n", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99)))
end
"""
FULL_HEADERS = f'wrk.headers["Authorization"] = "Bearer {world.KEY}"\nwrk.headers["X-Session-ID"] = "conversation-17"\n'
# Its name, and its headers; to which port of which olla.
LOADS = (("", "", "plain", world.OLLA), (", everything on", FULL_HEADERS, "full", world.OLLA_FULL))


def wrk(bench, process, script, kind, connections, seconds=SECONDS):
    before = process.cpu()
    said = bench.run([world.find("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", script,
                      f"http://127.0.0.1:{process.ports[kind]}{world.CHAT_PATH}"], timeout=seconds + 60)
    spent = process.cpu() - before
    run = world.figures(said)
    if run["errors"] > 0:
        world.note(f"{process.name}: {run['errors']:.0f} of wrk's requests failed")
    return {**run, "rate": run["requests"] / run["us"] * 1e6, "cpu": spent * 1e6 / max(run["requests"], 1)}


def script(bench, headers=""):
    return world.write(bench.folder, "chat.lua", SCRIPT.format(path=world.CHAT_PATH, body=world.CHAT, headers=headers))


def seeing(bench, table):
    """What it costs to read tokens from replies and to count: beside an olla that does neither."""
    for name, headers, kind, config in LOADS:
        with bench.proxies("olla", "blind", olla=config) as proxies:
            text = script(bench, headers)
            found = world.rounds(proxies, lambda p: wrk(bench, p, text, kind, 32), SEEING_ROUNDS)
        shares = [(1 - without["cpu"] / whole["cpu"]) * 100 for whole, without in zip(found["olla"], found["blind"])]
        table.row(f"32 connections{name}: of the CPU, to read tokens and to count", "%", {"olla": [{"share": share} for share in shares]},
                  "share", limit(SEEING_MOST, f"{SEEING_MOST} %"))


def measure(bench, table):
    table.section("chat requests of 150 bytes, replies of 300, keep-alive (wrk)")
    for (name, headers, kind, config), goal in zip(LOADS, (0.95, 1.15)):
        with bench.proxies(*world.ALL, *(["direct"] if not headers else []), olla=config) as proxies:
            for connections in CONNECTIONS:
                text = script(bench, headers)
                found = world.rounds(proxies, lambda p: wrk(bench, p, text, kind, connections))
                label = f"{connections} connections{name}"
                table.row(f"{label}: CPU per request", "us", world.without_direct(found), "cpu", at_most(goal))
                table.row(f"{label}: requests", "1/s", found, "rate", None if headers else at_least(1))
                table.row(f"{label}: 99 % of them within", "us", found, "p99_us", None if headers else at_most(1))
        for log in ("nginx-access.log", "olla-access.log", "haproxy.out"):
            if os.path.exists(os.path.join(bench.folder, log)):
                os.remove(os.path.join(bench.folder, log))
    seeing(bench, table)
