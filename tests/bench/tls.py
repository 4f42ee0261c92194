"""The TLS listeners: handshakes with a P-256 certificate, a download, and how long handshakes keep others waiting.

TLS 1.2, one handshake after the other; nginx and HAProxy have OpenSSL. The delay of a stream's events (one each
millisecond, without TLS, through the same process) while handshakes run is what a step of a handshake holds up the rest.
"""
import os
import sys

import streams
import world

SECONDS = 0.7 if world.QUICK else 1.5
BYTES = 100_000_000 if world.QUICK else 400_000_000


def client(mode, process, amount):
    return [sys.executable, os.path.join(world.HERE, "tls_client.py"), mode, process.ports["tls"], amount]


def handshakes(bench, process, mode):
    before = process.cpu()
    run = world.figures(bench.run(client(mode, process, SECONDS)))
    spent = process.cpu() - before
    if mode == "resumed" and run["reused"] < run["handshakes"]:
        raise world.Missing(f"only {run['reused']:.0f} of {run['handshakes']:.0f} handshakes were resumed")
    return {"rate": run["handshakes"] / run["seconds"], "cpu": spent * 1e6 / run["handshakes"]}


def bulk(bench, process):
    before = process.cpu()
    run = world.figures(bench.run(client("bulk", process, BYTES)))
    return {"rate": run["bytes"] / 1e6 / run["seconds"], "cpu": (process.cpu() - before) * 1e6 / (run["bytes"] / 1e6)}


def stall(bench, process):
    child = bench.background(client("new", process, SECONDS + 1))
    try:
        return streams.streams(bench, process, 1, 1000, SECONDS)
    finally:
        child.communicate(timeout=30)


def measure(bench, table):
    table.section("TLS 1.2 (olla: mbedTLS; the others: OpenSSL), P-256, one handshake after the other")
    with bench.proxies(*world.FEW, olla=world.OLLA_TLS) as proxies:
        for mode in ("new", "resumed"):
            found = world.rounds(proxies, lambda p: handshakes(bench, p, mode))
            table.row(f"{mode} handshakes", "1/s", found, "rate")
            table.row(f"{mode} handshakes: CPU of each", "us", found, "cpu")
        found = world.rounds(proxies, lambda p: bulk(bench, p))
        table.row(f"download of {BYTES // 1_000_000} MB", "MB/s", found, "rate")
        table.row(f"download of {BYTES // 1_000_000} MB: CPU per MB", "us", found, "cpu")
        found = world.rounds(proxies, lambda p: stall(bench, p), 1)
        table.row("a stream beside new handshakes: half within", "us", found, "p50_us")
        table.row("a stream beside new handshakes: 99 % within", "us", found, "p99_us")
        table.row("a stream beside new handshakes: the latest event", "us", found, "max_us")
