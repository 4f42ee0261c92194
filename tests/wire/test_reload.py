"""Reloads that replace the listener."""
import signal

import pytest
from backend import OpenAIBackend
from client import request_bytes


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
def test_reload_of_the_address_keeps_waiting_connections(world, host):
    """Connections the kernel has accepted and olla has not must not be reset because the listener is replaced."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": backend})
    proxy.allowed_errors = True
    proxy.signal(signal.SIGSTOP)
    clients = [world.client(proxy) for _ in range(5)]
    for client in clients:
        client.send(request_bytes("GET", "/internal/health"))
    proxy.reload({"a": backend}, {"server.host": host})
    proxy.signal(signal.SIGCONT)
    for client in clients:
        assert client.read_response("GET", 5).status == 200
