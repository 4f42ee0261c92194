"""A name with several addresses, or with none. Needs to change /etc/hosts, in a mount namespace of its own."""
import json
import os
import subprocess
import urllib.request

import pytest
from backend import OpenAIBackend, bind_port, eventually
from client import Client
from harness import BINARY, Olla, build_config


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


def test_localhost_that_is_in_no_file(world, tmp_path):
    """A small system may have no /etc/hosts, and localhost is where olla listens unless told otherwise."""
    (tmp_path / "hosts").write_text("")
    (tmp_path / "switch").write_text("hosts: files\n")
    private = ["unshare", "--mount", "sh", "-c", 'mount --bind "%s" /etc/hosts && mount --bind "%s" /etc/nsswitch.conf && exec "$@"'
               % (tmp_path / "hosts", tmp_path / "switch"), "sh"]
    try:
        works = (subprocess.run(private + ["true"], timeout=10).returncode == 0 and
                 subprocess.run(private + ["getent", "ahosts", "localhost"], stdout=subprocess.DEVNULL, timeout=10).returncode != 0)
    except OSError:
        works = False
    if not works:
        pytest.skip("no mount namespace with a hosts file of its own here, or localhost is known without one")
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": {"url": "http://LocalHost:%d" % a.port, "type": "openai"}}, {"server.host": "localhost"}, under=private)
    assert proxy.post("/v1/chat/completions", {"model": "m1"}).status == 200
    proxy.wait_log("listening", address="127.0.0.1")
    for line in proxy.find_logs("listening"):
        with Client(proxy.port, host=line["address"]) as client:
            assert client.request("GET", "/internal/health").status == 200


def test_host_that_nobody_knows(world):
    """The remedy is about the name: no other port would help."""
    proxy = Olla(build_config(1, {}, {}), 1, env={"OLLA_SERVER_HOST": "a" * 254}, expect_exit=1)
    proxy.check_log_at_end = False
    world.proxies.append(proxy)
    assert proxy.wait_exit() == 1
    proxy.reader.join(5)
    remedy = proxy.find_logs("cannot listen")[0]["remedy"]
    assert "server.host" in remedy and "name" in remedy and "port" not in remedy and "stop" not in remedy
