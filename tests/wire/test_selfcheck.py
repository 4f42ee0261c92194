"""The harness against itself, without the proxy: a tool that lies makes every test worthless."""

import socket
import threading
import time

import pytest

from backend import (BlackHole, DeadPort, Gate, OllamaBackend, OpenAIBackend, events, eventually, hold, pattern)
from client import Client, Closed, Framing, chunked, parse_head, request_bytes
from harness import build_config, endpoint, ini


@pytest.fixture
def backend():
    server = OpenAIBackend("a", ["m1"])
    yield server
    server.stop()
    assert not server.failures


def test_json_and_keep_alive(backend):
    """A backend that closes after each reply would hide every reuse fault."""
    with Client(backend.port) as client:
        for _ in range(3):
            reply = client.post("/v1/chat/completions", {"model": "m1"})
            assert (reply.status, reply.framing, reply.complete) == (200, "length", True)
            assert reply.json()["served_by"] == "a"
    assert len(backend.connections) == 1 and len(backend.calls) == 3
    assert backend.calls[0].json() == {"model": "m1"}


def test_stream_chunks_are_visible(backend):
    """If the client merged chunks, tests of event timing could not fail."""
    with Client(backend.port) as client:
        reply = client.post("/v1/chat/completions", {"model": "m1", "stream": True})
    assert reply.complete and len(reply.chunks) == 4
    assert events(reply.body)[-1] == b"[DONE]"


def test_chunked_request_is_decoded(backend):
    """A backend blind to chunked bodies would report an empty body as the proxy's fault."""
    data = pattern(5000)
    with Client(backend.port) as client:
        client.send(request_bytes("POST", "/v1/completions", {"Transfer-Encoding": "chunked"}) + chunked(data, 777))
        assert client.read_response().status == 200
    assert backend.calls[0].body == data


@pytest.mark.parametrize("cut", ["fin", "rst"])
def test_truncation_is_seen(backend, cut):
    """A client that takes a cut chunked body for a complete one would miss faked endings."""
    def handler(conn, request):
        conn.start_chunked()
        conn.chunk(b"data: 1\n\n")
        time.sleep(0.05)
        getattr(conn, cut)()
    backend.on("/cut", handler)
    with Client(backend.port) as client:
        client.start_post("/cut", {})
        reply = client.read_head()
        assert reply.read_piece() == b"data: 1\n\n"
        reply.read_rest()
        assert not reply.complete
        assert client.was_reset == (cut == "rst")


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_backend_sees_how_the_peer_left(backend, leave):
    """Cancel tests rely on telling FIN from RST."""
    backend.on("/hold", hold)
    client = Client(backend.port)
    client.start_post("/hold", {})
    conn = backend.wait_calls(1)[0].conn
    getattr(client, leave)()
    eventually(lambda: conn.closed_how, "the backend saw the end")
    assert conn.closed_how == ("fin" if leave == "close" else "rst")


def test_stop_resets_idle_connections(backend):
    """A stopped backend whose idle connections stay open in the kernel would look like a hanging one."""
    clients = [Client(backend.port) for _ in range(20)]
    for client in clients:
        assert client.request("GET", "/health").status == 200
    backend.stop()
    for client in clients:
        assert client.read_eof(2) == b"" and client.was_reset
        client.close()


def test_stop_and_start_on_the_same_port(backend):
    """Recovery tests need a backend that comes back where it was."""
    port = backend.port
    backend.stop()
    with pytest.raises(ConnectionRefusedError):
        Client(port, timeout=1)
    backend.start()
    assert Client(port).request("GET", "/health").status == 200


def test_black_hole_and_dead_port():
    """A black hole that answers, or a dead port that hangs, would test nothing."""
    hole, dead = BlackHole(), DeadPort()
    sock = socket.socket()
    sock.settimeout(0.5)
    with pytest.raises(socket.timeout):
        sock.connect(("127.0.0.1", hole.port))
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", dead.port), 1)
    hole.stop()
    dead.stop()


def test_client_rejects_sloppy_messages():
    """The client must notice bare LF, both framings, and junk after a chunk."""
    with pytest.raises(Framing):
        parse_head(b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n")
    for head, rest in ((b"Transfer-Encoding: chunked\r\nContent-Length: 3", b""),
                       (b"Transfer-Encoding: chunked", b"3\r\nabcX\r\n"),
                       (b"Transfer-Encoding: chunked", b"3 \r\nabc\r\n0\r\n\r\n"),
                       (b"Transfer-Encoding: chunked", b"0\r\nTrailer: x\r\n\r\n")):
        ours, theirs = socket.socketpair()
        client = Client.__new__(Client)
        client.sock, client.buf, client.at_eof, client.was_reset = ours, b"", False, False
        theirs.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + rest)
        with pytest.raises(Framing):
            client.read_response()
        ours.close()
        theirs.close()


def test_silence_is_checked(backend):
    """expect_silence must fail on data and on a close, and pass on neither."""
    gate = Gate()
    backend.on("/wait", lambda conn, request: (gate.wait(), conn.reply({})))
    with Client(backend.port) as client:
        client.start_post("/wait", {})
        client.expect_silence(0.1)
        gate.open()
        with pytest.raises(AssertionError):
            client.expect_silence(5)
        client.read_response()
    backend.stop()
    with pytest.raises((AssertionError, OSError)):
        Client(backend.port, timeout=1).expect_silence(1)


def test_script_errors_are_kept():
    """An exception in a handler must fail the test, not vanish in a thread."""
    server = OllamaBackend("o")
    server.on("/bad", lambda conn, request: 1 // 0)
    with Client(server.port) as client:
        client.start_post("/bad", {})
        with pytest.raises(Closed):
            client.read_head()
    eventually(lambda: server.failures, "the failure was kept")
    server.stop()


def test_many_connections_in_parallel(backend):
    """Load tests need a backend that serves more than one connection."""
    done = []

    def one():
        with Client(backend.port) as client:
            done.append(client.post("/v1/chat/completions", {"model": "m1"}).status)
    threads = [threading.Thread(target=one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert done == [200] * 40


def test_ini_text():
    """A malformed generated configuration would be blamed on the program."""
    assert ini({"a": {"b": True, "c": ["x", "y"]}}) == "[a]\nb = true\nc = x\nc = y\n"
    text = build_config(5, {"e": endpoint("http://h:1", type="vllm")}, {"proxy.retry.enabled": False})
    assert "[server]\nhost = 127.0.0.1\nport = 5\n" in text
    assert "[proxy.retry]\nenabled = false\n" in text
    assert "[endpoint:e]\nurl = http://h:1\ntype = vllm\n" in text
