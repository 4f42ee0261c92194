"""What translating the Anthropic Messages API costs.

The same requests go through olla to the same backend twice: to an endpoint that speaks Messages, so that the bytes only
pass, and to one that needs them in OpenAI's words. Then streams, with their events passed and translated.
"""
import base64
import json
import os
import socket

import streams
import world

MEGABYTES = 15 if world.QUICK else 60
EVENTS = 20000 if world.QUICK else 100_000
PACED = 32  # fewer than OLLA_MAX_MESSAGES
OLLA = """
[server]
host = 127.0.0.1
port = {plain}

[logging]
level = warn

[proxy]
spool_dir = {folder}

[endpoint:passed]
url = http://127.0.0.1:{backend}
type = vllm

[endpoint:translated]
url = http://127.0.0.1:{second}
type = openai-compatible
"""
QUESTION = {"model": "bench-model", "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "hi"}]}


def conversation(turns, size):
    text = ('Line one of a "file"\n\tindented \\ code, naïve 水\n' * (size // 45 + 1))[:size]
    messages = []
    for n in range(turns):
        messages.append({"role": "user", "content": [{"type": "text", "text": text}] if n == 0 else
                         [{"type": "tool_result", "tool_use_id": f"toolu_{n - 1}", "content": [{"type": "text", "text": text}]}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text[:size // 4]}, {
            "type": "tool_use", "id": f"toolu_{n}", "name": "read", "input": {"path": "/a/b", "text": text[:size // 4]}}]})
    return messages + [{"role": "user", "content": "go on"}]


def images(megabytes):
    data = base64.b64encode(os.urandom(750 * 1024)).decode()
    return [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
                                         for _ in range(megabytes)] + [{"type": "text", "text": "what is it"}]}]


def exchange(peer, data):
    peer.sendall(data)
    reply = b""
    while b"\r\n\r\n" not in reply:
        more = peer.recv(65536)
        if not more:
            raise OSError(f"closed: {reply[:200]!r}")
        reply += more
    head, _, rest = reply.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(f"{head[:100]!r} {rest[:300]!r}")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(rest) < length:
        rest += peer.recv(65536)


def cost(process, body, endpoint):
    """Milliseconds of CPU per MB."""
    data = (f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Olla-Endpoint: {endpoint}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    times = max(2, int(MEGABYTES * 1e6 / len(body)))
    with socket.create_connection(("127.0.0.1", process.ports["plain"]), timeout=60) as peer:
        exchange(peer, data)
        before = process.cpu()
        for _ in range(times):
            exchange(peer, data)
        return (process.cpu() - before) * 1000 / (times * len(body) / 1e6)


def drain(bench, process, setting):
    run = bench.client(process, "drain", process.ports["plain"], EVENTS, **setting)
    return {"cpu": run["cpu"] * 1e6 / run["events"]}


def measure(bench, table):
    table.section("Anthropic Messages: olla alone")
    bodies = {"2,000 short messages": conversation(1000, 400), "40 long messages": conversation(20, 40000), "10 images": images(10)}
    with bench.proxies("olla", olla=OLLA) as (olla,):
        for name, messages in bodies.items():
            body = json.dumps({"model": "bench-model", "max_tokens": 100, "messages": messages}, ensure_ascii=False).encode()
            passed, translated = cost(olla, body, "passed"), cost(olla, body, "translated")
            table.single(f"{name}, {len(body) / 1e6:.1f} MB: CPU per MB, passed", "ms", passed)
            table.single(f"{name}, {len(body) / 1e6:.1f} MB: CPU per MB, translated", "ms", translated)
        for endpoint in ("passed", "translated"):
            setting = {"BENCH_PATH": "/v1/messages", "BENCH_BODY": json.dumps(QUESTION), "BENCH_HEADER": f"X-Olla-Endpoint: {endpoint}"}
            table.row(f"stream as fast as it comes: CPU per event, {endpoint}", "us", world.rounds([olla], lambda p: drain(bench, p, setting)), "cpu")
            found = world.rounds([olla], lambda p: streams.streams(bench, p, PACED, **setting))
            table.row(f"{PACED} streams, 20 events/s each: CPU per event, {endpoint}", "us", found, "cpu")
