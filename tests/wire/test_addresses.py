"""A name with several addresses (quirk Q20). Needs to change /etc/hosts, in a mount namespace of its own."""
import json
import os
import subprocess
import urllib.request

import pytest
from backend import OpenAIBackend, bind_port, eventually
from harness import BINARY


def test_every_address_of_a_name_is_tried(world, tmp_path):
    """`localhost` is ::1 first on many machines, where nothing listens: the next address must be tried, and kept."""
    hosts, config = tmp_path / "hosts", tmp_path / "olla.ini"
    hosts.write_text("::1 twofold\n127.0.0.1 localhost\n127.0.0.1 twofold\n")
    private = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" /etc/hosts && shift && exec "$@"', "sh", str(hosts)]
    try:
        found = subprocess.run(private + ["getent", "ahosts", "twofold"], capture_output=True, text=True, timeout=10).stdout
    except OSError:
        found = ""
    if "::1" not in found or "127.0.0.1" not in found:
        pytest.skip("no mount namespace with a hosts file of its own here")
    a = world.backend(OpenAIBackend, "a", ["m1"])
    sock = bind_port()
    port = sock.getsockname()[1]
    sock.close()
    config.write_text("[server]\nhost = 127.0.0.1\nport = %d\n[endpoint:a]\nurl = http://twofold:%d\ntype = openai\n" % (port, a.port))
    proxy = subprocess.Popen(private + [BINARY, "-c", str(config)], stdout=subprocess.DEVNULL, env=dict(os.environ))
    try:
        def ask():
            request = urllib.request.Request("http://127.0.0.1:%d/v1/chat/completions" % port, b'{"model":"m1"}',
                                             {"Content-Type": "application/json"})
            try:
                return json.load(urllib.request.urlopen(request, timeout=5))["served_by"] == "a"
            except OSError:
                return False
        eventually(ask, "a request is served over the address that works", 10)
        assert all(ask() for _ in range(3))
    finally:
        proxy.terminate()
        assert proxy.wait(10) == 0
