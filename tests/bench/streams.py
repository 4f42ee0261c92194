"""Many server-sent-event streams, 20 events a second each, spread evenly in time: what an event costs and how late it comes.

One stream with an event each millisecond shows whether events that arrived apart leave together.
"""
import world
from table import Goal, at_most

GAP_US = 50000
SECONDS = 1 if world.QUICK else 2.5
CURVE = (50, 200) if world.QUICK else (1, 10, 50, 100, 200, 500, 1000)
CPU_GOALS = {200: at_most(1), 500: at_most(1.5), 1000: at_most(1.5)}
ADDED_US = 1000
# More than the default build takes; a client and an upstream for each stream and some to spare, as many buffers as that needs.
DEFAULT_MOST = 400
LARGE = "-DOLLA_MAX_CLIENTS=1100 -DOLLA_MAX_BUFS=1400"


def streams(bench, process, count, gap=GAP_US, seconds=SECONDS, **environment):
    """CPU and memory are read inside the time that is measured: neither opening nor closing is in it."""
    child = bench.background([bench.load, "streams", process.ports["stream"], count, seconds, gap], **environment)
    before = spent = rss = 0
    said = ""
    try:
        for line in child.stdout:
            if line.startswith("begin"):
                before = process.cpu()
            elif line.startswith("figures"):
                spent = process.cpu() - before
                rss = process.rss()
            said += line
    finally:
        child.stdout.close()
        child.wait(60)
    run = world.figures(said)
    if run["ended"] > 0 or f"ready streams={count} " not in said:
        raise world.Missing(f"not all of {count} streams lived: {said.strip()}")
    return {**run, "rss": rss, "cpu": spent * 1e6 / max(run["events"], 1), "apart": run["merged"] / max(run["events"], 1) * 100}


def measure(bench, table):
    large = None
    table.section("server-sent events: streams with 20 events a second each" + (f" (*: olla built with {LARGE})" if max(CURVE) > DEFAULT_MOST else ""))
    for count in CURVE:
        program = None
        if count > DEFAULT_MOST:
            large = large or bench.build("large", LARGE)
            program = large
        with bench.proxies(*world.FEW, "direct", program=program) as proxies:
            found = world.rounds(proxies, lambda p: streams(bench, p, count), world.ROUNDS if count in CPU_GOALS else 1)
        label = f"{count} stream{'s' if count > 1 else ''}{' *' if program else ''}"
        table.row(f"{label}: CPU per event", "us", world.without_direct(found), "cpu", CPU_GOALS.get(count))
        table.row(f"{label}: half of them within", "us", found, "p50_us")
        table.row(f"{label}: 99 % of them within", "us", found, "p99_us")
        if count in CPU_GOALS:
            table.row(f"{label}: 99 %, beyond the direct ones", "us", world.beyond_direct(found, "p99_us"), "p99_us",
                      Goal("< 1 ms", lambda value, _: value < ADDED_US) if count == 200 else None, compared=False)
            table.row(f"{label}: events that came with another", "%", found, "apart", Goal("0", lambda value, _: value == 0), compared=False)
    with bench.proxies(*world.FEW, "direct") as proxies:
        found = world.rounds(proxies, lambda p: streams(bench, p, 1, 1000, 1))
    table.row("one stream, 1,000 events/s: came with another", "%", found, "apart", compared=False)
    table.row("one stream, 1,000 events/s: 99 % of them within", "us", found, "p99_us")
