#!/usr/bin/python3
"""Measures what a large catalogue costs running streams.

    catalogue.py [PATH]     about 15 seconds; PATH as in bench.py

32 endpoints with 200 models each (1,000 distinct names) are read anew every second and listed in every format, over and
over, while one stream runs through olla and a second one, as yardstick, directly from the same backend: an event each
millisecond. The gaps between events, as one reader sees both, are the figures; the difference is what olla adds.
"""
import http.server
import json
import multiprocessing
import os
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time

import bench

ENDPOINTS, MODELS, NAMES = 32, 200, 1000
EVENTS, PAUSE_MS = 8000, 1
LISTS = ("/v1/models", "/api/tags", "/olla/models", "/olla/models?format=vllm", "/internal/status/models?detailed=true&group=family")
GOAL_MS = 10.0
OLLA = """
[server]
host = 127.0.0.1
port = {port}
rate_limits.per_ip_requests_per_minute = 0

[logging]
level = warn

[discovery.model_discovery]
interval = 1s
concurrent_workers = 32

[endpoint:stream]
url = http://127.0.0.1:{stream}
type = openai-compatible
"""


def serve_lists(ports):
    """The backends with the models: in a process of its own, so that they do not disturb the reader."""
    def handler(number):
        names = [f"org-{(number * 31 + i) % NAMES % 17}/model-{(number * 31 + i * 5) % NAMES:04d}-7B-Instruct" for i in range(MODELS)]
        body = json.dumps({"object": "list", "data": [
            {"id": name, "object": "model", "created": 1700000000, "owned_by": "vllm", "root": name, "parent": None,
             "max_model_len": 32768, "permission": []} for name in names]}).encode()

        class Lists(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                data = body if self.path == "/v1/models" else b"{}"
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass
        return Lists
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(n)) for n in range(ENDPOINTS - 1)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports.send([server.server_address[1] for server in servers])
    ports.recv()  # until the parent ends


def open_stream(port):
    peer = socket.create_connection(("127.0.0.1", port), timeout=10)
    peer.sendall(bench.chat_request("close"))
    return peer


def read_streams(peers):
    """{name: arrival times of data}"""
    seen = {name: [] for name in peers}
    with selectors.DefaultSelector() as waiting:
        for name, peer in peers.items():
            waiting.register(peer, selectors.EVENT_READ, name)
        until = time.monotonic() + EVENTS * PAUSE_MS / 1000 * 3 + 10
        while waiting.get_map() and time.monotonic() < until:
            for key, _ in waiting.select(1):
                data = key.fileobj.recv(65536)
                seen[key.data].append(time.monotonic())
                if not data:
                    waiting.unregister(key.fileobj)
    return seen


def fetch_lists(port, stop):
    while not stop.is_set():
        for path in LISTS:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
                peer.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                while peer.recv(65536):
                    pass


def gaps(times):
    steps = sorted((b - a) * 1000 for a, b in zip(times, times[1:]))
    return statistics.median(steps), steps[int(len(steps) * 0.99)], steps[-1]


def measure(folder):
    pipe, child_pipe = multiprocessing.Pipe()
    lists = multiprocessing.Process(target=serve_lists, args=(child_pipe,), daemon=True)
    lists.start()
    ports = pipe.recv()
    stream = bench.start_backend(folder, [str(EVENTS), str(PAUSE_MS)])
    port = bench.free_port()
    text = OLLA.format(port=port, stream=stream.port)
    text += "".join(f"\n[endpoint:list-{n}]\nurl = http://127.0.0.1:{p}\ntype = vllm\n" for n, p in enumerate(ports))
    conf = bench.write(folder, "catalogue.ini", text)
    olla = bench.Process("olla", [os.path.abspath(bench.PROGRAM), "-c", conf], port, folder)
    try:
        olla.wait_ready(b"GET /internal/health HTTP/1.0\r\n\r\n")
        time.sleep(2.5)
        stop = multiprocessing.Event()
        fetcher = multiprocessing.Process(target=fetch_lists, args=(port, stop), daemon=True)
        before = bench.cpu_seconds(olla.pid)
        fetcher.start()
        begun = time.monotonic()
        seen = read_streams({"through olla": open_stream(port), "directly": open_stream(stream.port)})
        seconds = time.monotonic() - begun
        stop.set()
        fetcher.join(5)
        bench.say(f"one event each {PAUSE_MS} ms while {ENDPOINTS} endpoints with {MODELS} models each ({NAMES} names) are read "
                  f"every second and listed without a pause")
        bench.say(f"  {'':14}{'events':>8}{'median gap ms':>15}{'99 % ms':>10}{'longest ms':>12}")
        for name, times in seen.items():
            middle, most, longest = gaps(times)
            bench.say(f"  {name:14}{len(times):8d}{middle:15.2f}{most:10.2f}{longest:12.2f}")
        added = gaps(seen["through olla"])[2] - gaps(seen["directly"])[2]
        bench.say(f"  olla's CPU: {(bench.cpu_seconds(olla.pid) - before) / seconds * 100:.0f} %; longest gap beyond the direct one "
                  f"{added:+.2f} ms; the aim is {GOAL_MS:.0f} ms at most: {'met' if added <= GOAL_MS else 'NOT met'}")
    finally:
        olla.stop()
        stream.stop()
        pipe.send("end")
        lists.join(5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="olla-bench-") as directory:
        try:
            measure(directory)
        except (bench.Missing, OSError) as error:
            bench.say(f"catalogue: not measured: {error}")
    sys.exit(0)
