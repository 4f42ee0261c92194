"""WebSocket upgrades: routed by ?model=, then a tunnel of bytes in both directions until one side closes."""

import threading
import time
from urllib.parse import parse_qsl

import pytest

from backend import Gate, eventually, pattern
from client import dump, json_headers, request_bytes
from harness import World, endpoint, new_id, rarely_probed, report
from servers import Compatible, Dmr, Vllm

REALTIME = "/v1/realtime"
CHAT = "/v1/chat/completions"
ASK = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
AGREE = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)]
OWN = "Org/Big-Model:7b"


def accept(conn, more=()):
    conn.head(101, AGREE + list(more), "Switching Protocols")


def echo(conn, request):
    """Agrees and sends back whatever comes, until the other side closes."""
    accept(conn)
    pump(conn)
    conn.fin()


def pump(conn):
    while True:
        if conn.buf:
            data, conn.buf = conn.buf, b""
            conn.send(data)
        conn._fill()


def silent(conn, request):
    """Agrees and keeps what comes in conn.buf."""
    accept(conn)
    conn.wait_close(30)


def is_plain(call):
    """Nothing of an upgrade was asked of the backend."""
    return not call.has("Upgrade") and "upgrade" not in (call.get("Connection") or "").lower()


class Fleet:
    """a and b have m1; only a has the model with the long name, only v (vLLM) has m-v, d keeps its API at /engines/v1."""

    def __init__(self):
        self.world = World()
        self.a = self.world.backend(Compatible, "a", ["m1", "only-a", OWN])
        self.b = self.world.backend(Compatible, "b", ["m1"])
        self.v = self.world.backend(Vllm, "v", ["m-v"])
        self.d = self.world.backend(Dmr, "d", ["ai/m-d"])
        self.proxy = self.world.olla({s.name: rarely_probed(s) for s in self.servers},
                                     {"model_aliases.voice": OWN.lower(), "model_aliases.both": "only-a, m-v"},
                                     ready={"a": 3, "b": 1, "v": 1, "d": 1})

    @property
    def servers(self):
        return (self.a, self.b, self.v, self.d)

    @property
    def proxies(self):
        return self.world.proxies

    @property
    def calls(self):
        return [call for server in self.servers for call in server.calls]

    def open(self, target=REALTIME + "?model=only-a", headers=ASK, behind=b"", wanted=101, **options):
        client = self.world.client(self.proxy, **options)
        client.send(request_bytes("GET", target, headers) + behind)
        reply = client.read_head()
        assert reply.status == wanted, (reply.status, client.buf)
        return client, reply


@pytest.fixture
def site(kept):
    """The shared fleet, all agreeing to /v1/realtime; pools are checked after each test."""
    site = kept(Fleet)
    saved = []
    for server in site.servers:
        server.forget()
        saved.append((server, dict(server.routes)))
        server.on(REALTIME, echo)
    site.d.on("/engines/v1/realtime", echo)
    yield site
    site.world.close_clients()
    for server, routes in saved:
        server.routes = routes
    problems = site.proxy.idle_problems() if site.proxy.alive() else ["olla died: " + site.proxy.describe()]
    report(problems + site.world.script_failures())


def both_ways(client, data=b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"):
    client.send(data)
    assert client.read_exact(len(data)) == data


# ---- the handshake

def test_upgrade(site):
    """The backend sees the request for an upgrade, the client sees the agreement, then bytes go both ways."""
    client, reply = site.open(headers=ASK + [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
                                             ("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.sk-123"), ("Origin", "http://page")])
    assert (reply.version, reply.reason) == ("HTTP/1.1", "Switching Protocols")
    assert (reply.get("Upgrade"), reply.get("Connection").lower(), reply.get("Sec-WebSocket-Accept")) == ("websocket", "upgrade", ACCEPT)
    assert not reply.has("Content-Length") and not reply.has("Transfer-Encoding")
    assert reply.get("X-Olla-Endpoint") == "a" and reply.has("X-Olla-Request-ID")
    both_ways(client)
    call = site.a.calls[0]
    assert (call.method, call.target, call.version) == ("GET", REALTIME + "?model=only-a", "HTTP/1.1")
    assert call.get_all("Upgrade") == ["websocket"] and "upgrade" in call.get("Connection").lower()
    for name, value in ASK[2:] + [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
                                  ("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.sk-123")]:
        assert call.get_all(name) == [value]
    assert call.get("Host") == "127.0.0.1:%d" % site.a.port
    assert not call.has("Content-Length") and not call.has("Transfer-Encoding")
    both_ways(client, pattern(10000))


def test_chosen_protocol_comes_back(site):
    """A browser refuses the connection when the protocol that it asked for is not confirmed."""
    def agree(conn, request):
        accept(conn, [("Sec-WebSocket-Protocol", "realtime"), ("Sec-WebSocket-Extensions", "permessage-deflate"), ("X-Own", "1")])
        pump(conn)
    site.a.on(REALTIME, agree)
    client, reply = site.open(headers=ASK + [("Sec-WebSocket-Protocol", "realtime, key.abc")])
    assert reply.get_all("Sec-WebSocket-Protocol") == ["realtime"] and reply.get_all("Sec-WebSocket-Extensions") == ["permessage-deflate"]
    assert reply.get("X-Own") == "1"
    both_ways(client)


@pytest.mark.parametrize("headers", [
    [("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")], [("connection", "upgrade"), ("upgrade", "WebSocket")],
    [("Connection", "Upgrade,Keep-Alive"), ("Keep-Alive", "timeout=5"), ("Upgrade", "websocket")],
    [("Connection", "keep-alive"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]], ids=["firefox", "small", "glued", "two-lines"])
def test_spellings(site, headers):
    """Clients write it in many ways."""
    client, reply = site.open(headers=headers + ASK[2:])
    assert reply.get("Connection").lower() == "upgrade"
    assert site.a.calls[0].get("Upgrade").lower() == "websocket" and not site.a.calls[0].has("Keep-Alive")
    both_ways(client)


@pytest.mark.parametrize("base", ["", "/olla/proxy", "/olla/openai", "/olla/openai-compatible"])
def test_all_routes(site, base):
    """At the root and below the prefixes."""
    client, reply = site.open(base + REALTIME + "?model=only-a&x=1")
    assert reply.get("X-Olla-Endpoint") == "a" and site.a.calls[0].target == REALTIME + "?model=only-a&x=1"
    both_ways(client)


def test_provider_prefix(site):
    """A prefix is a hard boundary here too, and a server that keeps its API elsewhere is asked there."""
    client, reply = site.open("/olla/vllm" + REALTIME + "?model=m-v")
    assert reply.get("X-Olla-Endpoint") == "v"
    both_ways(client)
    for model in ("only-a", "nobody"):
        client, reply = site.open("/olla/vllm%s?model=%s" % (REALTIME, model), wanted=503 if model == "only-a" else 404)
        assert reply.read_rest().complete
    client, reply = site.open(REALTIME + "?model=ai%2Fm-d")
    assert reply.get("X-Olla-Endpoint") == "d" and site.d.calls[0].path == "/engines/v1/realtime"
    both_ways(client)


def test_endpoint_by_name(site):
    """X-Olla-Endpoint counts for upgrades as for everything that is proxied."""
    for name in ("b", "a", "b"):
        client, reply = site.open(REALTIME + "?model=m1", headers=ASK + [("X-Olla-Endpoint", name)])
        assert reply.get("X-Olla-Endpoint") == name
        both_ways(client)
    assert not any(call.has("X-Olla-Endpoint") for call in site.calls)


def test_balanced(site):
    """Open tunnels are load: the second one goes to the other server."""
    seen = {site.open(REALTIME + "?model=m1")[1].get("X-Olla-Endpoint") for _ in range(2)}
    assert seen == {"a", "b"}


# ---- the model

def arrived(call):
    return parse_qsl(call.query, keep_blank_values=True, strict_parsing=True)


@pytest.mark.parametrize("query,wanted", [
    ("model=only-a", [("model", "only-a")]),
    ("model=ONLY-A&x=%26model%3D", [("model", "only-a"), ("x", "&model=")]),
    ("a=1&model=only%2Da&b=%C3%A4", [("a", "1"), ("model", "only-a"), ("b", "\u00e4")]),
    ("model=Org%2FBig-Model%3A7b", [("model", OWN)]),
    ("model=org/big-model:7B&z", [("model", OWN), ("z", "")]),
    ("model=voice", [("model", OWN)]),
    ("xmodel=no&model=VOICE&modelx=no", [("xmodel", "no"), ("model", OWN), ("modelx", "no")]),
    ("intent=transcription&model=vo%69ce", [("intent", "transcription"), ("model", OWN)]),
], ids=str)
def test_model_in_the_query(site, query, wanted):
    """Found in any spelling, given in the server's own; all other parameters stay as they are, in their order."""
    client, reply = site.open(REALTIME + "?" + query)
    assert reply.get("X-Olla-Endpoint") == "a"
    call = site.a.calls[0]
    if query.endswith("&z"):
        assert call.query.endswith("&z")
    assert [(k, v) for k, v in parse_qsl(call.query, keep_blank_values=True)] == wanted
    both_ways(client)


def test_other_parameters_byte_by_byte(site):
    """Decoding and encoding again changes what was signed."""
    client, _ = site.open(REALTIME + "?sig=a%2fb%2B+c;d&model=voice&e=%7e&&f==")
    before, _, after = site.a.calls[0].query.partition("model=")
    assert before == "sig=a%2fb%2B+c;d&" and after.endswith("&e=%7e&&f==")
    assert parse_qsl("model=" + after.partition("&")[0]) == [("model", OWN)]
    both_ways(client)


def test_alias_of_several(site):
    """Each server is asked by its own name."""
    for name, own in (("a", "only-a"), ("v", "m-v")):
        client, reply = site.open(REALTIME + "?model=both", headers=ASK + [("X-Olla-Endpoint", name)])
        assert reply.get("X-Olla-Endpoint") == name
        assert arrived(getattr(site, name).calls[0]) == [("model", own)]
    client, reply = site.open(REALTIME + "?model=Both")
    assert (reply.get("X-Olla-Routing-Strategy"), reply.get("X-Olla-Model")) == ("alias", "Both")
    both_ways(client)


def test_unknown_model(site):
    """404 in OpenAI's dialect, and the connection can be used for a better name."""
    client, reply = site.open(REALTIME + "?model=nob%6Fdy", wanted=404)
    error = reply.read_rest().json()["error"]
    assert error["code"] == "model_not_found" and "nobody" in error["message"] and set(error) == {"message", "type", "code", "param"}
    assert not reply.has("Upgrade") and (reply.get("Connection") or "").lower() != "upgrade"
    assert site.calls == []
    client.send(request_bytes("GET", REALTIME + "?model=only-a", ASK))
    assert client.read_head().status == 101
    both_ways(client)


def test_without_a_model(site):
    """No model named: any server, as for other requests."""
    client, reply = site.open(REALTIME)
    assert reply.get("X-Olla-Endpoint") in "abvd" and not reply.has("X-Olla-Model")
    both_ways(client)


# ---- bytes

def test_bytes_right_behind_the_request(site):
    """A client in a hurry sends its first frame without waiting: it belongs to the tunnel, not to the next request."""
    first = b"GET /internal/health HTTP/1.1\r\nHost: x\r\n\r\n" + pattern(3000)
    client, _ = site.open(behind=first)
    assert client.read_exact(len(first)) == first
    both_ways(client)


def test_bytes_right_behind_the_agreement(site):
    """The backend's first frame comes in one packet with the 101."""
    first = pattern(5000)
    head = "HTTP/1.1 101 Switching Protocols\r\n" + "".join("%s: %s\r\n" % pair for pair in AGREE) + "\r\n"

    def agree(conn, request):
        conn.send(head.encode() + first)
        pump(conn)
    site.a.on(REALTIME, agree)
    client, _ = site.open()
    assert client.read_exact(len(first)) == first
    both_ways(client)


def test_agreement_byte_by_byte(site):
    """A head in single bytes, then frames: none is taken for the other."""
    head = "HTTP/1.1 101 Switching Protocols\r\n" + "".join("%s: %s\r\n" % pair for pair in AGREE) + "\r\n"

    def agree(conn, request):
        for byte in head.encode():
            conn.send(bytes([byte]))
        conn.send(b"\x00\x00\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
        pump(conn)
    site.a.on(REALTIME, agree)
    client, _ = site.open()
    assert client.read_exact(25) == b"\x00\x00\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    both_ways(client, b"0\r\n\r\n")


def test_single_bytes_and_odd_sizes(site):
    """Every size arrives whole and in order."""
    client, _ = site.open()
    for size in (1, 2, 3, 125, 126, 127, 1000, 16383, 16384, 16385, 65535, 65536, 65537, 100001):
        both_ways(client, pattern(size, size))
    for n in range(50):
        both_ways(client, bytes([n]))


def test_large_volumes_both_ways(site):
    """Twelve megabytes in each direction at the same time; the one that is read slower does not hold the other one up for ever."""
    up, down = pattern(12 << 20, 1), pattern(12 << 20, 2)
    got = []

    def exchange(conn, request):
        accept(conn)
        sender = threading.Thread(target=conn.send, args=(down,), daemon=True)
        sender.start()
        got.append(conn.read_exact(len(up)))
        sender.join(30)
        conn.send(b"end")
        conn.wait_close()
    site.a.on(REALTIME, exchange)
    client, _ = site.open()
    sender = threading.Thread(target=client.sock.sendall, args=(up,), daemon=True)
    client.sock.settimeout(30)
    sender.start()
    parts = [client.take_rest()]
    have = len(parts[0])
    while have < len(down) + 3:
        data = client.sock.recv(1 << 16)
        assert data, "closed after %d bytes" % have
        parts.append(data)
        have += len(data)
    sender.join(30)
    assert b"".join(parts) == down + b"end"
    assert got == [up]


@pytest.mark.parametrize("slow", ["client", "backend"])
def test_back_pressure(site, slow):
    """A side that does not read stops the other side; memory does not grow, and nothing is lost when it reads again."""
    total, read_on, sent = 64 << 20, Gate(), []
    block = pattern(1 << 16)

    def produce(send):
        for _ in range(total // len(block)):
            send(block)
            sent.append(len(block))

    def script(conn, request):
        accept(conn)
        if slow == "client":
            produce(conn.send)
        else:
            read_on.wait(30)
            for _ in range(total // len(block)):
                assert conn.read_exact(len(block)) == block
            conn.send(b"all")
        conn.wait_close()
    site.a.on(REALTIME, script)
    client, _ = site.open(rcvbuf=1 << 16)
    before = site.proxy.rss_kb()
    client.sock.settimeout(60)
    if slow == "backend":
        sender = threading.Thread(target=produce, args=(client.sock.sendall,), daemon=True)
        sender.start()
    last = -1
    for _ in range(200):  # until nothing moves any more
        time.sleep(0.1)
        if last == len(sent) > 0:
            break
        last = len(sent)
    assert sum(sent) < total, "everything was swallowed although nobody reads"
    assert site.proxy.rss_kb() - before < 4096
    assert site.proxy.get("/internal/health").status == 200
    assert site.proxy.post(CHAT, {"model": "m-v"}).status == 200
    read_on.open()
    if slow == "client":
        for _ in range(total // len(block)):
            assert client.read_exact(len(block), 30) == block
    else:
        assert client.read_exact(3, 60) == b"all"


def test_many_tunnels(site):
    """Each has bytes of its own."""
    open_ones = [site.open(REALTIME + "?model=m1")[0] for _ in range(30)]
    for n, client in enumerate(open_ones):
        client.send(pattern(20000, n))
    for n, client in enumerate(open_ones):
        assert client.read_exact(20000) == pattern(20000, n)
    assert sum(e["connections"] for e in site.proxy.status()["endpoints"]) == 30
    for client in open_ones:
        client.close()
    eventually(lambda: sum(e["connections"] for e in site.proxy.status()["endpoints"]) == 0, "all are gone")


# ---- the end

@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_client_closes(site, how):
    """The backend must learn at once that the client is gone."""
    client, _ = site.open()
    both_ways(client)
    conn = site.a.calls[0].conn
    if how == "half":
        client.half_close()
    else:
        client.close() if how == "close" else client.reset()
    eventually(lambda: conn.closed_how, "the backend sees the end")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_backend_closes(site, how):
    """The client must learn it too."""
    def agree(conn, request):
        accept(conn)
        conn.read_exact(4)
        conn.fin() if how == "close" else conn.rst()
    site.a.on(REALTIME, agree)
    client, _ = site.open()
    client.send(b"quit")
    assert client.read_eof() == b""


def test_last_words_of_the_backend(site):
    """All that was sent before the end arrives, also when the client reads slowly."""
    last = pattern(3 << 20)

    def agree(conn, request):
        accept(conn)
        conn.send(last)
        conn.fin()
    site.a.on(REALTIME, agree)
    client, _ = site.open(rcvbuf=1 << 14)
    time.sleep(0.3)
    data = client.read_eof(30)
    assert len(data) == len(last) and data == last


def test_last_words_of_the_client(site):
    """A frame that says good-bye, and then the end: the frame arrives."""
    last, got = pattern(300000), []

    def agree(conn, request):
        accept(conn)
        time.sleep(0.3)
        got.append(conn.read_exact(len(last)))
        conn.wait_close()
    site.a.on(REALTIME, agree)
    client, _ = site.open()
    client.send(last)
    client.half_close()
    eventually(lambda: got, "all bytes arrive")
    assert got[0] == last


def test_closed_right_after_the_agreement(site):
    """101 and the end in one packet."""
    site.a.on(REALTIME, lambda c, r: (accept(c), c.fin()))
    client, _ = site.open()
    assert client.read_eof() == b""


def test_client_leaves_before_the_agreement(site):
    """The backend thinks about it, the client goes away: the connection is closed, nothing stays in use."""
    site.a.on(REALTIME, lambda c, r: c.wait_close())
    client = site.world.client(site.proxy)
    client.send(request_bytes("GET", REALTIME + "?model=only-a", ASK))
    site.a.wait_calls(1)
    client.close()
    eventually(lambda: site.a.calls[0].conn.closed_how, "the backend sees the end")


def test_one_line_in_the_log(site):
    """A tunnel is one request: 101, the endpoint and the bytes of both directions."""
    request_id = new_id()
    client, _ = site.open(headers=ASK + [("X-Request-ID", request_id)])
    both_ways(client, pattern(5000))
    assert not site.proxy.find_logs("request", request_id=request_id), "it still runs"
    client.close()
    line = site.proxy.access(request_id)
    assert (line["status"], line["endpoint"], line["method"]) == (101, "a", "GET")
    assert line["model"] == "only-a" and line["bytes_out"] >= 5000


# ---- no tunnel

@pytest.mark.parametrize("status,ctype,body", [(401, "application/json", b'{"error":{"message":"no key"}}'), (400, "text/plain", b"bad"),
                                               (404, "application/json", b"{}"), (426, "text/plain", b"no"), (200, "text/html", b"<p>a page</p>")])
def test_backend_refuses(site, status, ctype, body):
    """An ordinary reply is relayed like any other, and both connections go on."""
    site.a.on(REALTIME, lambda c, r: c.reply(body, status, ctype, [("X-Why", "because")]))
    client, reply = site.open(wanted=status)
    assert reply.read_rest().body == body and (reply.get("Content-Type"), reply.get("X-Why")) == (ctype, "because")
    assert reply.get("X-Olla-Endpoint") == "a" and not reply.has("Upgrade")
    assert client.post(CHAT, {"model": "only-a"}).status == 200
    assert client.request("GET", "/internal/health").status == 200
    site.a.on(REALTIME, echo)
    client.send(request_bytes("GET", REALTIME + "?model=only-a", ASK))
    assert client.read_head().status == 101
    both_ways(client)


def test_refusal_in_chunks(site):
    """A long refusal without a length."""
    def refuse(conn, request):
        conn.start_chunked("text/plain", 403)
        for _ in range(50):
            conn.chunk(b"x" * 1000)
        conn.end_chunks()
    site.a.on(REALTIME, refuse)
    client, reply = site.open(wanted=403)
    assert reply.read_rest().body == b"x" * 50000 and reply.complete
    assert client.request("GET", "/internal/health").status == 200


def test_bytes_behind_a_request_that_is_refused(site):
    """The first frame of a client in a hurry must not be read as its next request and then do something."""
    site.a.on(REALTIME, lambda c, r: c.reply({"error": "no"}, 403))
    client, reply = site.open(behind=b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", wanted=403)
    assert reply.read_rest().json() == {"error": "no"}
    assert len(site.calls) == 1


@pytest.mark.parametrize("why", ["down", "reset", "503", "closes"])
def test_failover(world, why):
    """The first server is away or busy: the second one is asked before the client hears anything, by its own name."""
    a, b = world.backend(Compatible, "a", ["First-Name"]), world.backend(Compatible, "b", ["second/name"])
    b.on(REALTIME, echo)
    a.on(REALTIME, {"reset": lambda c, r: c.rst(), "503": lambda c, r: c.reply({"error": "busy"}, 503), "closes": lambda c, r: c.fin(),
                    "down": lambda c, r: c.rst()}[why])
    proxy = world.olla({"a": rarely_probed(a, priority=200), "b": rarely_probed(b)},
                       {"proxy.load_balancer": "priority", "model_aliases.x": "first-name, second/name"})
    if why == "down":
        a.stop()
    client = world.client(proxy)
    client.send(request_bytes("GET", REALTIME + "?q=1&model=x", ASK, None))
    reply = client.read_head()
    assert reply.status == 101 and reply.get("X-Olla-Endpoint") == "b"
    assert arrived(b.calls[0]) == [("q", "1"), ("model", "second/name")]
    if why != "down":
        assert arrived(a.calls[0]) == [("q", "1"), ("model", "First-Name")]
        assert a.calls[0].get("Upgrade") == "websocket"
    both_ways(client, pattern(30000))


def test_nobody_is_there(world):
    """The only server is gone: an error in OpenAI's dialect."""
    a = world.backend(Compatible, "a", ["m1"])
    proxy = world.olla({"a": rarely_probed(a)})
    a.stop()
    with proxy.client() as client:
        client.send(request_bytes("GET", REALTIME + "?model=m1", ASK))
        reply = client.read_response()
        assert reply.status in (502, 503) and reply.json()["error"]["message"]
        assert client.request("GET", "/internal/health").status == 200


def test_h2c_is_ignored(site):
    """Java's client asks for HTTP/2 with every request: it gets HTTP/1.1 and the backend never hears of it."""
    headers = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")]
    site.a.on("/v1/x", lambda c, r: c.reply({"ok": 1}))
    client = site.world.client(site.proxy)
    for _ in range(2):
        reply = client.request("GET", "/v1/x?model=only-a", None, headers + [("X-Olla-Endpoint", "a")])
        assert reply.status == 200 and not reply.has("Upgrade")
    reply = client.request("POST", CHAT, dump({"model": "only-a"}), json_headers(headers))
    assert reply.status == 200
    assert len(site.a.calls) == 3 and all(is_plain(call) and not call.has("HTTP2-Settings") for call in site.a.calls)


def test_http_1_0_cannot_upgrade(site):
    """RFC 9110: Upgrade in an HTTP/1.0 request is ignored."""
    for server in site.servers:
        for path in (REALTIME, "/engines" + REALTIME):
            server.on(path, lambda c, r: c.reply({"plain": is_plain(r)}))
    client = site.world.client(site.proxy)
    client.send(request_bytes("GET", REALTIME + "?model=only-a", ASK, version="HTTP/1.0"))
    reply = client.read_response()
    assert reply.status == 200 and reply.json() == {"plain": True}
    assert client.read_eof() == b""


def test_post_cannot_upgrade(site):
    """A POST with Upgrade is an ordinary request: its body names the model and arrives."""
    client = site.world.client(site.proxy)
    body = dump({"model": "voice", "messages": []})
    reply = client.request("POST", CHAT + "?model=m-v", body, json_headers(ASK))
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "a"
    call = site.a.calls[0]
    assert is_plain(call) and call.body == dump({"model": OWN, "messages": []})
    assert client.request("GET", "/internal/health").status == 200


def test_local_paths_do_not_upgrade(site):
    """Documents of olla stay documents."""
    client = site.world.client(site.proxy)
    for path in ("/internal/health", "/v1/models", "/olla/models"):
        reply = client.request("GET", path, None, ASK)
        assert reply.status == 200 and not reply.has("Upgrade")
    assert client.request("GET", "/nowhere", None, ASK).status == 404
    assert site.calls == []


@pytest.mark.parametrize("headers", [(), [("Connection", "Upgrade"), ("Upgrade", "h2c")]], ids=["plain", "h2c"])
def test_agreement_that_nobody_asked_for(site, headers):
    """101 to an ordinary request is nonsense: an error, never an open tunnel."""
    site.a.on("/v1/x", lambda c, r: (accept(c), c.wait_close(5)))
    client = site.world.client(site.proxy)
    reply = client.request("GET", "/v1/x", None, list(headers) + [("X-Olla-Endpoint", "a")])
    assert reply.status == 502
    eventually(lambda: site.a.calls[0].conn.closed_how, "the backend's connection is closed")


# ---- the process

def test_stop_with_an_open_tunnel(world):
    """A tunnel has no end of its own: at shutdown it gets its time and is then cut, and the exit code says so."""
    a = world.backend(Compatible, "a", ["m1"])
    a.on(REALTIME, echo)
    proxy = world.olla({"a": a}, {"server.shutdown_timeout": "500ms"}, expect_exit=3)
    client = world.client(proxy)
    client.send(request_bytes("GET", REALTIME + "?model=m1", ASK))
    assert client.read_head().status == 101
    proxy.signal()
    both_ways(client)
    assert proxy.wait_exit() == 3
    assert client.read_eof() == b""


def test_reload_with_an_open_tunnel(world):
    """A reload cuts nothing, not even when the endpoint is no longer there."""
    a, b = world.backend(Compatible, "a", ["m1"]), world.backend(Compatible, "b", ["m1"])
    a.on(REALTIME, echo)
    proxy = world.olla({"a": a})
    client = world.client(proxy)
    client.send(request_bytes("GET", REALTIME + "?model=m1", ASK))
    assert client.read_head().status == 101
    for spec in ({"a": endpoint(a), "b": endpoint(b)}, {"b": endpoint(b)}):
        proxy.reload(spec)
        eventually(lambda: {e["name"] for e in proxy.status()["endpoints"]} == set(spec), "reloaded", 5, 0.02)
        both_ways(client, pattern(40000))
