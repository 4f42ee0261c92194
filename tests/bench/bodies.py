"""Long requests whose model is named at their end, so that they have to be kept until then; and the first byte of a short one.

nginx keeps request bodies, too (its default); HAProxy passes them on as they come.
"""
import world
from table import at_most

SIZES = (("200 KB", 200_000), ("5 MB", 5_000_000))
SECONDS = 0.5 if world.QUICK else 1
REQUESTS, SILENCE_US = (200, 2000) if world.QUICK else (400, 3000)


def post(bench, process, size):
    run = bench.client(process, "post", process.ports["plain"], size, SECONDS)
    return {**run, "cpu": run["cpu"] * 1e6 / (run["bytes"] / 1e6), "rate": run["bytes"] / 1e6 / run["seconds"]}


def first(bench, process):
    return bench.client(process, "first", process.ports["plain"], REQUESTS, SILENCE_US)


def measure(bench, table):
    with bench.proxies(*world.ALL, "direct") as proxies:
        table.section("one request after the other on one connection")
        found = world.rounds(proxies, lambda p: first(bench, p))
        table.row("short, with silence between: first byte, median", "us", found, "p50_us")
        table.row("short, with silence between: median, beyond the direct", "us", world.beyond_direct(found, "p50_us"), "p50_us", at_most(1))
        for label, size in SIZES:
            found = world.rounds(proxies, lambda p: post(bench, p, size))
            table.row(f"body of {label}, model last: CPU per MB", "us", world.without_direct(found), "cpu", at_most(1.2))
            table.row(f"body of {label}, model last", "MB/s", found, "rate")
