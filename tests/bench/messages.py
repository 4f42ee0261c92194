#!/usr/bin/python3
"""Measures what translating the Anthropic Messages API costs.

    messages.py [PATH]     about 20 seconds; PATH as in bench.py

The same requests go through olla to the same backend twice: to an endpoint that speaks Messages, so that the bytes only
pass, and to one that needs them in OpenAI's words. CPU time is olla's own. Then streams of a backend that sends as fast as
it can, with the chunks relayed and with them translated.
"""
import base64
import json
import os
import socket
import sys
import tempfile
import time

import bench

REPEAT = 6 if bench.QUICK else 20
EVENTS = 20000 if bench.QUICK else 100000
OLLA = """
[server]
host = 127.0.0.1
port = {port}
rate_limits.per_ip_requests_per_minute = 0

[logging]
level = warn

[proxy]
spool_dir = {folder}

[discovery.model_discovery]
enabled = false

[endpoint:native]
url = http://127.0.0.1:{backend}
type = vllm
health = none

[endpoint:translated]
url = http://127.0.0.1:{backend}
type = openai-compatible
health = none
"""


def conversation(turns, size):
    text = ('Line one of a "file"\n\tindented \\ code, naïve 水\n' * (size // 45 + 1))[:size]
    messages = []
    for n in range(turns):
        messages.append({"role": "user", "content": [{"type": "text", "text": text}] if n == 0 else
                         [{"type": "tool_result", "tool_use_id": "toolu_%d" % (n - 1), "content": [{"type": "text", "text": text}]}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text[:size // 4]}, {
            "type": "tool_use", "id": "toolu_%d" % n, "name": "read", "input": {"path": "/a/b", "text": text[:size // 4]}}]})
    return messages + [{"role": "user", "content": "go on"}]


def images(megabytes):
    data = base64.b64encode(os.urandom(750 * 1024)).decode()
    return [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
                                         for _ in range(megabytes)] + [{"type": "text", "text": "what is it"}]}]


BODIES = {"2,000 short messages": conversation(1000, 400), "40 long messages": conversation(20, 40000), "10 images": images(10)}


def request(body, path, endpoint):
    return (f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Olla-Endpoint: {endpoint}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def exchange(peer, data):
    peer.sendall(data)
    reply = b""
    while b"\r\n\r\n" not in reply:
        more = peer.recv(65536)
        if not more:
            raise OSError("closed: %r" % reply[:200])
        reply += more
    head, _, rest = reply.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError("%r %r" % (head[:100], rest[:300]))
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(rest) < length:
        rest += peer.recv(65536)


def cost(olla, data, times):
    """(seconds of CPU, of waiting) for each request"""
    with socket.create_connection(("127.0.0.1", olla.port), timeout=60) as peer:
        exchange(peer, data)
        before, begun = bench.cpu_seconds(olla.pid), time.monotonic()
        for _ in range(times):
            exchange(peer, data)
        return (bench.cpu_seconds(olla.pid) - before) / times, (time.monotonic() - begun) / times


def read_all(port, data):
    size = 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
        peer.sendall(data.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost", 1))
        while True:
            more = peer.recv(1 << 20)
            if not more:
                return size
            size += len(more)


def start(folder, backend):
    port = bench.free_port()
    conf = bench.write(folder, "messages.ini", OLLA.format(port=port, backend=backend.port, folder=folder))
    olla = bench.Process("olla", [os.path.abspath(bench.PROGRAM), "-c", conf], port, folder)
    return olla.wait_ready(b"GET /internal/health HTTP/1.0\r\n\r\n")


def measure_requests(folder):
    backend = bench.start_backend(folder)
    olla = start(folder, backend)
    try:
        bench.say(f"requests of the Messages API, passed and translated ({REPEAT} of each)")
        bench.say(f"  {'':22}{'MB':>6}{'passed':>22}{'translated':>22}{'translating':>16}")
        for name, messages in BODIES.items():
            body = json.dumps({"model": "bench-model", "max_tokens": 100, "messages": messages}, ensure_ascii=False).encode()
            megabytes = len(body) / 1e6
            times = max(3, int(REPEAT * 3 / megabytes))
            figures = [cost(olla, request(body, "/v1/messages", endpoint), times) for endpoint in ("native", "translated")]
            bench.say(f"  {name:22}{megabytes:6.1f}" + "".join(f"{cpu * 1000:9.1f} ms CPU {wait * 1000:5.0f} ms" for cpu, wait in figures) +
                      f"{(figures[1][0] - figures[0][0]) / megabytes * 1000:9.1f} ms/MB")
    finally:
        olla.stop()
        backend.stop()


def measure_streams(folder):
    backend = bench.start_backend(folder, [str(EVENTS), "0"])
    olla = start(folder, backend)
    body = json.dumps({"model": "bench-model", "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    try:
        bench.say(f"a stream of {EVENTS:,} chunks, each sent by itself")
        for name, endpoint in (("passed", "native"), ("translated", "translated")):
            before, begun = bench.cpu_seconds(olla.pid), time.monotonic()
            size = read_all(olla.port, request(body, "/v1/messages", endpoint))
            seconds = time.monotonic() - begun
            cpu = bench.cpu_seconds(olla.pid) - before
            bench.say(f"  {name:12}{cpu / EVENTS * 1e6:7.2f} us CPU/event{EVENTS / seconds:12,.0f} events/s{size / 1e6:8.1f} MB down")
    finally:
        olla.stop()
        backend.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="olla-bench-") as directory:
        try:
            measure_requests(directory)
            measure_streams(directory)
        except (bench.Missing, OSError) as error:
            bench.say(f"messages: not measured: {error}")
    sys.exit(0)
