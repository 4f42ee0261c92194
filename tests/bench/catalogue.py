"""What a large catalogue costs running streams.

32 endpoints with 200 models each (1,000 distinct names) are read anew every second and listed in every format, over and
over, while a stream with an event each millisecond runs; the delays of its events are the figures.
"""
import http.server
import json
import multiprocessing
import os
import socket
import threading
import time

import streams
import world

ENDPOINTS, MODELS, NAMES = 32, 200, 1000
SECONDS = 1 if world.QUICK else 8
LISTS = ("/v1/models", "/api/tags", "/olla/models", "/olla/models?format=vllm", "/internal/status/models?detailed=true&group=family")
OLLA = """
[server]
host = 127.0.0.1
port = {plain}

[logging]
level = warn

[discovery.model_discovery]
interval = 1s
concurrent_workers = 32

[endpoint:stream]
url = http://127.0.0.1:{backend}
type = openai-compatible
"""


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """olla ends while it is still being answered: nothing to tell."""


def serve_lists(ports):
    """The backends with the models: in a process of its own, with the last place at the processor."""
    os.sched_setaffinity(0, world.LOAD_PROCESSOR)
    os.nice(19)

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
    servers = [Server(("127.0.0.1", 0), handler(n)) for n in range(ENDPOINTS - 1)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports.send([server.server_address[1] for server in servers])
    ports.recv()  # until the parent ends


def fetch_lists(port, stop):
    os.sched_setaffinity(0, world.LOAD_PROCESSOR)
    os.nice(19)
    while not stop.is_set():
        for path in LISTS:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
                peer.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                while peer.recv(65536):
                    pass


def measure(bench, table):
    pipe, child_pipe = multiprocessing.Pipe()
    lists = multiprocessing.Process(target=serve_lists, args=(child_pipe,), daemon=True)
    lists.start()
    stop = multiprocessing.Event()
    try:
        text = OLLA + "".join(f"\n[endpoint:list-{n}]\nurl = http://127.0.0.1:{port}\ntype = vllm\n" for n, port in enumerate(pipe.recv()))
        with bench.proxies("olla", olla=text) as (olla,):
            time.sleep(1.5)
            fetcher = multiprocessing.Process(target=fetch_lists, args=(olla.ports["plain"], stop), daemon=True)
            fetcher.start()
            before, begun = olla.cpu(), time.monotonic()
            found = {"olla": [streams.streams(bench, olla, 1, 1000, SECONDS)]}
            busy = (olla.cpu() - before) / (time.monotonic() - begun) * 100
            found["direct"] = [streams.streams(bench, bench.backend, 1, 1000, SECONDS)]
            stop.set()
            fetcher.join(10)
    finally:
        pipe.send("end")
        lists.join(10)
    table.section(f"{ENDPOINTS} endpoints with {MODELS} models each read every second, lists fetched without a pause")
    table.row("a stream beside it: half of its events within", "us", found, "p50_us")
    table.row("a stream beside it: 99 % within", "us", found, "p99_us")
    table.row("a stream beside it: the latest event", "us", found, "max_us")
    table.single("a processor's share meanwhile", "%", busy)
