"""One long download, alone and beside a client that asks for one and never reads. nginx without buffering of replies, so
that it, too, passes on what comes."""
import contextlib
import socket
import time

import world
from table import at_least, limit

BYTES = 300_000_000 if world.QUICK else 1_000_000_000
FLAT_KIB = 64
LABEL = f"{BYTES / 1e9:g} GB"


def download(bench, process):
    run = bench.client(process, "get", process.ports["stream"], BYTES)
    return {"cpu": run["cpu"] * 1e6 / (BYTES / 1e6), "rate": BYTES / 1e6 / run["seconds"]}


@contextlib.contextmanager
def reader_that_does_not(process):
    """Asks, and takes only what the kernel takes for it."""
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(10)
        peer.connect(("127.0.0.1", process.ports["stream"]))
        peer.sendall(world.chat_request(f"X-Bench: bytes {BYTES}"))
        peer.recv(1)
        yield


def beside(bench, process):
    before = process.rss()
    with reader_that_does_not(process):
        time.sleep(0.3)
        run = download(bench, process)
        return {**run, "growth": process.rss() - before}


def measure(bench, table):
    table.section("downloads")
    with bench.proxies(*world.ALL, "direct") as proxies:
        found = world.rounds(proxies, lambda p: download(bench, p))
        table.row(f"one of {LABEL}", "MB/s", found, "rate", at_least(1))
        table.row(f"one of {LABEL}: CPU per MB", "us", world.without_direct(found), "cpu")
        found = world.rounds([p for p in proxies if p is not bench.backend], lambda p: beside(bench, p))
        table.row(f"one of {LABEL} beside a client that never reads", "MB/s", found, "rate", at_least(1))
        table.row("memory that this took in addition", "KiB", found, "growth", limit(FLAT_KIB, f"{FLAT_KIB} KiB (flat)"), compared=False)
