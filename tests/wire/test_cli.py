"""The command line: options, validation messages, environment, search order."""

import os
import re
import signal
import subprocess

import pytest

from backend import bind_port
from harness import BINARY, build_config, clean_env, ini, run_cli

pytestmark = pytest.mark.usefixtures("binary")


def check(tmp_path, text, env=None, name="my.ini"):
    path = tmp_path / name
    path.write_text(text)
    code, out, err = run_cli("-t", "-c", path, env=env, cwd=tmp_path)
    return code, out, err, path


def valid(tmp_path, text, env=None):
    code, out, err, path = check(tmp_path, text, env)
    assert code == 0, err
    assert out.splitlines()[-1] == "olla: configuration %s is valid" % path
    return err


def invalid(tmp_path, text, line, key, value=None, allowed=None, env=None):
    """The message must name file, line, key and value; returns it."""
    code, out, err, path = check(tmp_path, text, env)
    assert code == 1, "accepted: %s" % text
    assert out.splitlines()[-1] == "olla: configuration %s is not valid" % path
    prefix = "%s:%d: " % (path, line)
    found = [part.partition(prefix)[2] for part in err.splitlines() if prefix in part]
    assert found, "no message for line %d in:\n%s" % (line, err)
    message = found[0]
    assert key in message, message
    if value is not None:
        assert '"%s"' % value in message, message
    for word in allowed or ():
        assert word in message, message
    return message


def test_version_is_bare():
    """Packaging scripts compare this text."""
    code, out, err = run_cli("--version")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1 and out.strip().count(".") == 2 and out.strip()[0].isdigit()


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option):
    """Help that was asked for goes to stdout, so that it can be piped."""
    code, out, err = run_cli(option)
    assert (code, err) == (0, "")
    for word in ("-c", "--config", "-t", "--validate-config", "-m", "--version", "--print-settings"):
        assert word in out


@pytest.mark.parametrize("args", [["--nonsense"], ["-x"], ["-c"], ["--config"], ["--versionx"]])
def test_bad_option(args):
    """A mistyped option must not start a proxy with defaults."""
    code, out, err = run_cli(*args)
    assert code == 2 and out == "" and err
    if "nonsense" in args[0]:
        assert "--config" in err, "the usage helps to find the right name"


@pytest.mark.parametrize("args", [["--validate-config", "--config"], ["-t", "-c"]])
def test_option_spellings(tmp_path, args):
    """Long and short forms are the same."""
    path = tmp_path / "a.ini"
    path.write_text("[server]\nport = 5\n")
    code, out, _ = run_cli(*args, path)
    assert code == 0 and out.endswith("olla: configuration %s is valid\n" % path)


def test_config_with_equals_sign(tmp_path):
    """--config=FILE is how unit files write it."""
    path = tmp_path / "a.ini"
    path.write_text("[server]\nport = x\n")
    assert run_cli("-t", "--config=%s" % path)[0] == 1


@pytest.mark.parametrize("option", ["-t", "-m", None])
def test_missing_file(tmp_path, option):
    """A file that was named must exist: silently using defaults would open other ports."""
    args = ([option] if option else []) + ["-c", tmp_path / "none.ini"]
    code, _, err = run_cli(*args, timeout=5)
    assert code == 1 and "none.ini" in err


def test_directory_as_file(tmp_path):
    """A directory is not a configuration."""
    code, _, err = run_cli("-t", "-c", tmp_path)
    assert code == 1 and str(tmp_path) in err


def test_settings_reference_is_valid(tmp_path):
    """The printed reference must be a valid configuration itself, with every key it knows."""
    code, text, err = run_cli("--print-settings")
    assert (code, err) == (0, "")
    for key in ("max_body_size", "load_balancer", "response_header_timeout", "spool_dir", "on_status", "check_interval", "preserve_path", "root_api"):
        assert key in text
    assert "warning" not in valid(tmp_path, text).lower()


POOLS = {"clients", "exchanges", "upstreams", "buffers", "body_blocks"}


def test_memory_plan(tmp_path):
    """The promise that memory is bounded is checked by adding up this list."""
    path = tmp_path / "a.ini"
    path.write_text("[server]\nport = 5\n")
    code, out, _ = run_cli("-m", "-c", path)
    assert code == 0
    total, lines = 0, {}
    for line in out.splitlines():
        found = re.match(r"(.+?) +(\d+) x +(\d+) = +(\d+)\b", line)
        if found:
            name, size, count, product = found.group(1), int(found.group(2)), int(found.group(3)), int(found.group(4))
            assert size * count == product, line
            lines[name] = count
            total += product
            assert "when empty:" in line or name not in POOLS
    assert lines["clients"] == 512 and POOLS <= set(lines)
    assert str(total) in out.splitlines()[-1] and "total" in out.splitlines()[-1].lower()


# ---- what is accepted

GOOD = {
    "empty": "",
    "comments": "# one\n; two\n\n[server]\n; three\nport = 1 ; four\nread_timeout = 5s # five\n",
    "sections": "[server]\nport = 1\n[server.request_limits]\nmax_body_size = 5MB\n",
    "dotted": "[server]\nrequest_limits.max_body_size = 5MB\n[proxy]\nretry.enabled = false\nretry.on_status = 500, 503\n",
    "indented": "[server]\n    host = 127.0.0.1\n\tport = 1\n",
    "spaces": "[server]\n  port   =   1   \n",
    "quotes": "[server]\nhost = \"127.0.0.1\"\n[proxy]\nspool_dir = '/tmp'\n",
    "empty-host": "[server]\nhost = \"\"\n",
    "crlf": "[server]\r\nport = 1\r\nread_timeout = 5s\r\n",
    "bom": "\ufeff[server]\nport = 1\n",
    "no-last-newline": "[server]\nport = 1",
    "durations": "[server]\nread_timeout = 1h30m\nread_header_timeout = 1.5h\nwrite_timeout = 0\nidle_timeout = 500ms\nshutdown_timeout = 1s500ms\n",
    "sizes": "[server.request_limits]\nmax_body_size = 2.5GB\nmax_header_size = 8 KiB\n",
    "plain-size": "[server.request_limits]\nmax_body_size = 1000000\n",
    "booleans": "[server]\nrequest_logging = yes\nroot_api = off\n[proxy.retry]\nenabled = 1\non_connection_lost = False\n",
    "inert": "[proxy]\nmax_retries = 3\nretry_backoff = 500ms\nresponse_timeout = 15m\nstream_buffer_size = 8192\n[discovery]\nrefresh_interval = 5m\n"
             "[discovery.model_discovery]\nretry_attempts = 3\nretry_backoff = 1s\n[discovery.health_check]\ninitial_delay = 1s\n",
    "sherpa": "[proxy]\nengine = sherpa\nload_balancer = priority\n",
    "types": "".join("[endpoint:e%d]\nurl = http://h:1\ntype = %s\n" % (n, t) for n, t in enumerate(
        ["ollama", "llamacpp", "llama-cpp", "llama_cpp", "vllm", "lm-studio", "lmstudio", "lm_studio", "openai-compatible", "openai", "OLLAMA", "Vllm", "auto"])),
    "endpoint": "[endpoint:a b]\nurl = http://192.168.1.5:8080/base/\ntype = vllm\npriority = 0\nenabled = no\nhealth_check_url = /h\nmodel_url = /m\n"
                "check_interval = 2s\ncheck_timeout = 1s\npreserve_path = true\n",
    "absolute-probe-url": "[endpoint:a]\nurl = http://h:1\ntype = vllm\nhealth_check_url = http://x:2/health\n",
    "ipv6": "[endpoint:a]\nurl = http://[::1]:8080\ntype = ollama\n",
    "status-list-repeated": "[proxy.retry]\non_status = 500\non_status = 503, 504\n",
    "upper-case-scheme": "[endpoint:a]\nurl = HTTP://h:1\ntype = ollama\n",
}


@pytest.mark.parametrize("name", list(GOOD))
def test_valid(tmp_path, name):
    """Forms people write, and files carried over by hand, must be taken without a warning."""
    assert valid(tmp_path, GOOD[name]).strip() == ""


@pytest.mark.parametrize("kind", ["auto", "ollama", "vllm", "lm-studio", "openai", "house", "HOUSE"])
def test_url_with_v1(tmp_path, kind):
    """A base URL as clients want it: every health check would fail, and its message would send the user after the type."""
    own = "[profile:house]\nhealth_check_path = /v1/models\n"
    err = valid(tmp_path, own + "[endpoint:a]\nurl = http://h:1/v1/\ntype = %s\n" % kind)
    assert err.splitlines() == ['%s:3: endpoint "a": the url ends in /v1: "http://h:1/v1/" (olla adds /v1 itself: leave it off, unless the '
                                "server answers at /v1/v1)" % (tmp_path / "my.ini")]
    for path in ("", "/", "/v1x", "/xv1", "/v1/x"):
        assert valid(tmp_path, own + "[endpoint:a]\nurl = http://h:1%s\ntype = %s\n" % (path, kind)) == ""
    assert valid(tmp_path, own + "[endpoint:a]\nurl = http://h:1/v1\ntype = %s\nmodel_url = /models\nhealth_check_url = /models\n" % kind) == ""
    own += "model_discovery_path = /models\n"
    assert (valid(tmp_path, own + "[endpoint:a]\nurl = http://h:1/v1\ntype = %s\n" % kind) == "") == (kind.lower() == "house")


def test_unknown_keys_are_warnings(tmp_path):
    """Files carried over from the reference contain keys of later steps: warn, with the line, and start."""
    err = valid(tmp_path, "[server]\nport = 1\nprot = 2\n\n[nonsense]\nx = 1\n[endpoint:a]\nurl = http://h:1\ntype = ollama\ncolour = red\n")
    path = tmp_path / "my.ini"
    for lines, key in (((3,), "server.prot"), ((5, 6), "nonsense"), ((10,), "colour")):
        assert any("%s:%d: " % (path, n) in part and key in part for n in lines for part in err.splitlines()), err


EP = "[endpoint:a]\nurl = http://h:1\ntype = ollama\n"
WRONG = {
    # name: (text, line, key, value, allowed)
    "port-text": ("[server]\nport = http\n", 2, "server.port", "http", None),
    "port-range": ("[server]\n\nport = 70000\n", 3, "server.port", "70000", ["65535"]),
    "port-zero": ("[server]\nport = 0\n", 2, "server.port", "0", None),
    "port-negative": ("[server]\nport = -1\n", 2, "server.port", "-1", None),
    "port-junk": ("[server]\nport = 80x\n", 2, "server.port", "80x", None),
    "port-overflow": ("[server]\nport = 4294967376\n", 2, "server.port", "4294967376", None),
    "duration-unitless": ("[server]\nread_timeout = 30\n", 2, "server.read_timeout", "30", None),
    "duration-space": ("[server]\nread_timeout = 5 m\n", 2, "server.read_timeout", "5 m", None),
    "duration-unit": ("[server]\nread_timeout = 1d\n", 2, "server.read_timeout", "1d", None),
    "duration-case": ("[server]\nread_timeout = 5M\n", 2, "server.read_timeout", "5M", None),
    "duration-text": ("[proxy]\nconnection_timeout = soon\n", 2, "proxy.connection_timeout", "soon", None),
    "duration-only-unit": ("[proxy]\nconnection_timeout = s\n", 2, "proxy.connection_timeout", "s", None),
    "duration-negative": ("[proxy]\nread_timeout = -5s\n", 2, "proxy.read_timeout", "-5s", None),
    "duration-overflow": ("[proxy]\nread_timeout = 99999999999999999999h\n", 2, "proxy.read_timeout", None, None),
    "size": ("[server.request_limits]\nmax_body_size = 10XB\n", 2, "server.request_limits.max_body_size", "10XB", None),
    "size-negative": ("[server.request_limits]\nmax_body_size = -1\n", 2, "max_body_size", "-1", None),
    "size-two-units": ("[server.request_limits]\nmax_body_size = 10BB\n", 2, "max_body_size", "10BB", None),
    "bool": ("[proxy.retry]\nenabled = maybe\n", 2, "proxy.retry.enabled", "maybe", ["true", "false"]),
    "balancer": ("[proxy]\nload_balancer = random\n", 2, "proxy.load_balancer", "random", ["least-connections", "round-robin", "priority"]),
    "engine": ("[proxy]\nengine = fast\n", 2, "proxy.engine", "fast", ["olla", "sherpa"]),
    "log-level": ("[logging]\nlevel = loud\n", 2, "logging.level", "loud", ["info"]),
    "log-format": ("[logging]\nformat = xml\n", 2, "logging.format", "xml", ["json", "text"]),
    "status-list": ("[proxy.retry]\non_status = 503, abc\n", 2, "proxy.retry.on_status", None, None),
    "status-range": ("[proxy.retry]\non_status = 503, 99\n", 2, "proxy.retry.on_status", None, None),
    "attempts": ("[proxy.retry]\nmax_attempts = many\n", 2, "proxy.retry.max_attempts", "many", None),
    "set-twice": ("[server]\nport = 1\nhost = x\nport = 2\n", 4, "server.port", None, None),
    "set-twice-dotted": ("[server]\nrequest_limits.max_body_size = 1\n[server.request_limits]\nmax_body_size = 2\n", 4, "max_body_size", None, None),
    "type": ("[endpoint:a]\nurl = http://h:1\ntype = olama\n", 3, "type", "olama", ["ollama", "vllm"]),
    "no scheme": ("[endpoint:a]\nurl = //h:1\ntype = ollama\n", 2, "url", "//h:1", ("http://", "https://")),
    "url-scheme": ("[endpoint:a]\nurl = ftp://h:1\n", 2, "url", "ftp://h:1", ["http://"]),
    "url-no-scheme": ("[endpoint:a]\nurl = 127.0.0.1:8080\n", 2, "url", "127.0.0.1:8080", None),
    "url-port": ("[endpoint:a]\nurl = http://h:99999\n", 2, "url", "http://h:99999", None),
    "url-port-text": ("[endpoint:a]\nurl = http://h:abc\n", 2, "url", "http://h:abc", None),
    "url-no-host": ("[endpoint:a]\nurl = http://:80\n", 2, "url", "http://:80", None),
    "url-space": ("[endpoint:a]\nurl = http://h:1/a b\n", 2, "url", None, None),
    "url-empty": ("[endpoint:a]\nurl =\ntype = ollama\n", 2, "url", None, None),
    "url-missing": ("[server]\nport = 1\n[endpoint:a]\ntype = ollama\n", 3, "url", None, None),
    "priority": (EP + "priority = -1\n", 4, "priority", "-1", None),
    "priority-text": (EP + "priority = high\n", 4, "priority", "high", None),
    "interval-short": (EP + "check_interval = 500ms\ncheck_timeout = 100ms\n", 4, "check_interval", "500ms", ["1s"]),
    "timeout-long": (EP + "check_interval = 60s\ncheck_timeout = 31s\n", 5, "check_timeout", "31s", ["30s"]),
    "endpoint-twice": (EP + "[endpoint:a]\nurl = http://h:2\ntype = ollama\n", 4, "endpoint:a", None, None),
    "endpoint-no-name": ("[endpoint:]\nurl = http://h:1\n", 1, "endpoint", None, None),
    "line-too-long": ("[server]\nhost = " + "x" * 400 + "\n", 2, "", None, None),
    "section-not-closed": ("[server]\nport = 1\n[proxy\nengine = olla\n", 3, "", None, None),
    "no-equals": ("[server]\nport 1\n", 2, "", None, None),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_invalid(tmp_path, name):
    """A wrong value must be refused with file, line, key, value and what is allowed: never guessed."""
    text, line, key, value, allowed = WRONG[name]
    invalid(tmp_path, text, line, key, value, allowed)


def test_message_format(tmp_path):
    """Editors jump to `FILE:LINE:` at the start of a line; text in front of it defeats them."""
    _, _, err, path = check(tmp_path, "[server]\nport = x\ncolour = red\n")
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("%s:2: server.port: " % path)], err
    assert [line for line in lines if line.startswith("%s:3: server.colour: " % path)], err


def test_check_timeout_against_interval(tmp_path):
    """A probe that outlasts its interval overlaps with the next one."""
    for timeout in ("2s", "3s"):
        code, _, err, path = check(tmp_path, EP + "check_interval = 2s\ncheck_timeout = %s\n" % timeout)
        assert code == 1 and "check_timeout" in err and str(path) in err
    valid(tmp_path, EP + "check_interval = 2s\ncheck_timeout = 1999ms\n")


def test_credentials_in_a_url_are_not_echoed(tmp_path):
    """A password in a URL is refused, and must not end up in a terminal log."""
    code, out, err, path = check(tmp_path, "[endpoint:a]\nurl = http://me:hunter2@h:1\ntype = ollama\n")
    assert code == 1 and "%s:2: " % path in err and "url" in err, err
    assert "hunter2" not in err + out


def test_every_fault_is_named(tmp_path):
    """One message per run makes fixing a file a guessing game."""
    code, _, err, path = check(tmp_path, "[server]\nport = x\nread_timeout = 5\n[proxy]\nengine = y\n")
    assert code == 1
    assert all("%s:%d: " % (path, n) in err for n in (2, 3, 5)), err


def test_too_many_endpoints(tmp_path):
    """More endpoints than fit are an error, not silently left out."""
    code, _, err, _ = check(tmp_path, "".join("[endpoint:e%d]\nurl = http://h:%d\ntype = ollama\n" % (n, n + 1) for n in range(40)))
    assert code == 1 and "32" in err
    valid(tmp_path, "".join("[endpoint:e%d]\nurl = http://h:%d\ntype = ollama\n" % (n, n + 1) for n in range(32)))


def test_start_with_a_bad_file(tmp_path):
    """The same messages at start, exit 1, and no listener."""
    path = tmp_path / "bad.ini"
    path.write_text("[server]\nport = x\n")
    code, _, err = run_cli("-c", path, timeout=5)
    assert code == 1 and "%s:2: " % path in err and "server.port" in err


def test_garbage_file(tmp_path):
    """A binary file given by mistake."""
    path = tmp_path / "bin.ini"
    path.write_bytes(bytes(range(256)) * 50)
    code, _, err = run_cli("-t", "-c", path)
    assert code == 1 and "%s:" % path in err


# ---- environment and search order

def test_environment_overrides(tmp_path):
    """Containers configure by environment: it wins over the file and is checked like it."""
    text = "[server]\nport = x\n"
    assert valid(tmp_path, "[server]\nport = 1\n", {"OLLA_SERVER_PORT": "2", "OLLA_PROXY_LOAD_BALANCER": "priority"}) is not None
    code, _, err, _ = check(tmp_path, "[server]\nport = 1\n", {"OLLA_SERVER_PORT": "70000"})
    assert code == 1 and "OLLA_SERVER_PORT" in err and "70000" in err
    code, _, err, _ = check(tmp_path, "[server]\nport = 1\n", {"OLLA_PROXY_LOAD_BALANCER": "random"})
    assert code == 1 and "OLLA_PROXY_LOAD_BALANCER" in err and "random" in err
    assert check(tmp_path, text, {"OLLA_SERVER_PORT": "5"})[0] == 1, "a wrong file stays wrong"


def test_environment_that_does_not_parse(tmp_path):
    """Empty means unset; nonsense is ignored (as in the reference) or refused by name, never half used."""
    valid(tmp_path, "[server]\nport = 1\n", {"OLLA_SERVER_PORT": ""})
    code, out, err, path = check(tmp_path, "[server]\nport = 1\n", {"OLLA_SERVER_PORT": "80abc"})
    if code == 0:
        assert out.endswith("%s is valid\n" % path)
    else:
        assert code == 1 and "OLLA_SERVER_PORT" in err and "80abc" in err


def test_environment_takes_effect(world):
    """Not only checked but used."""
    sock = bind_port()
    port = sock.getsockname()[1]
    sock.close()
    from harness import Olla
    text = build_config(1, {}, {"server.read_timeout": "20s"})
    proxy = Olla(text, port, env={"OLLA_SERVER_PORT": str(port), "OLLA_PROXY_ENGINE": "sherpa", "OLLA_PROXY_LOAD_BALANCER": "round-robin",
                                  "OLLA_SERVER_MAX_BODY_SIZE": "1KB", "OLLA_LOGGING_LEVEL": "debug"})
    world.proxies.append(proxy)
    proxy.wait_listening()
    status = proxy.status()["proxy"]
    assert (status["engine"], status["balancer"]) == ("sherpa", "round-robin")
    with proxy.client() as client:
        client.try_send(b"POST /olla/proxy/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n")
        assert client.read_response("POST").status == 413


ORDER = ["config/config.local.ini", "config/config.ini", "config.ini", "default.ini", "olla.ini"]


def test_search_order(tmp_path):
    """The first file found in the documented order is used; nothing is merged."""
    (tmp_path / "config").mkdir()
    for name in ORDER:
        (tmp_path / name).write_text("[server]\nport = 1\n")
    for name in ORDER:
        code, out, _ = run_cli("-t", cwd=tmp_path)
        assert code == 0 and out.splitlines()[-1] == "olla: configuration %s is valid" % name
        (tmp_path / name).unlink()
    if not os.path.exists("/etc/olla.ini"):
        assert run_cli("-t", cwd=tmp_path)[0] == 0, "built-in defaults are valid"


def test_config_file_variable(tmp_path):
    """OLLA_CONFIG_FILE beats the search, -c beats both; a named file must exist."""
    for name in ("olla.ini", "env.ini", "flag.ini"):
        (tmp_path / name).write_text("[server]\nport = 1\n")
    env = {"OLLA_CONFIG_FILE": str(tmp_path / "env.ini")}
    assert str(tmp_path / "env.ini") in run_cli("-t", cwd=tmp_path, env=env)[1]
    assert str(tmp_path / "flag.ini") in run_cli("-t", "-c", tmp_path / "flag.ini", cwd=tmp_path, env=env)[1]
    code, _, err = run_cli("-t", cwd=tmp_path, env={"OLLA_CONFIG_FILE": str(tmp_path / "gone.ini")})
    assert code == 1 and "gone.ini" in err


def test_default_endpoint(tmp_path):
    """Without any endpoint section there is one: the local Ollama."""
    sock = bind_port()
    port = sock.getsockname()[1]
    sock.close()
    path = tmp_path / "olla.ini"
    path.write_text(ini({"server": {"host": "127.0.0.1", "port": port}}))
    from client import Client
    from backend import eventually
    process = subprocess.Popen([BINARY], cwd=tmp_path, env=clean_env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def status():
            try:
                with Client(port, timeout=2) as client:
                    return client.request("GET", "/internal/status").json()
            except OSError:
                return None
        document = eventually(status, "the proxy answers")
        assert [(e["name"], e["url"], e["priority"]) for e in document["endpoints"]] == [("localhost", "http://localhost:11434", 100)]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
