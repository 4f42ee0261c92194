"""Other people's TLS: openssl, curl, Python's and Node's own HTTP clients, and openssl's server."""

import http.client
import json
import shutil
import subprocess
import urllib.request

import pytest

from backend import OpenAIBackend, eventually, pattern
from client import dump, request_bytes
from harness import World, clean_env, endpoint, rarely_probed, report
from tls import free_port, library, openssl_process, over_tls, raw_connect

PATH = "/olla/proxy/v1/chat/completions"
pytestmark = pytest.mark.skipif(not library(), reason="built without TLS")
STREAM = {"model": "m1", "stream": True}


def wants(program):
    return pytest.mark.skipif(not shutil.which(program), reason="no %s here" % program)


class Https:
    def __init__(self, certs):
        self.world, self.ca = World(), certs.good.file
        self.a = self.world.backend(OpenAIBackend, "a", ["m1"])
        self.proxy = self.world.olla({"a": rarely_probed(self.a)}, certs.server().settings(), connect=over_tls(certs.context()))
        self.url = "https://localhost:%d" % self.proxy.port


@pytest.fixture
def https(kept, certs):
    site = kept(Https, certs)
    yield site
    report(site.proxy.idle_problems() + site.world.script_failures())


def run(*args, data=b"", env=None, code=0):
    done = subprocess.run([str(a) for a in args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, env=clean_env(env))
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


# ---- openssl s_client

def s_client(site, *args, data=b"", code=0):
    return run("openssl", "s_client", "-connect", "127.0.0.1:%d" % site.proxy.port, "-CAfile", site.ca, "-verify_return_error", "-ign_eof", *args, data=data, code=code)


def test_openssl_client(https):
    """The chain is fine, the reply is whole, and the end is a proper one (otherwise it fails with an error)."""
    said = s_client(https, "-servername", "localhost", "-verify_hostname", "localhost", data=request_bytes("GET", "/internal/health", {"Connection": "close"}))
    assert b"HTTP/1.1 200" in said and b"Verify return code: 0 (ok)" in said and b"closed" in said


def test_openssl_client_resumes(https, tmp_path):
    ask = request_bytes("GET", "/internal/health", {"Connection": "close"})
    assert b"New, " in s_client(https, "-sess_out", tmp_path / "session", data=ask)
    assert b"Reused, " in s_client(https, "-sess_in", tmp_path / "session", data=ask)


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_openssl_client_with_old_versions(https, option):
    s_client(https, option, "-cipher", "ALL:@SECLEVEL=0", code=1)


@pytest.mark.parametrize("size", [512, 1000, 16384])
def test_openssl_client_with_other_record_sizes(https, size):
    """Records of at most that many bytes from the client; the reply is right, too."""
    body = dump({"model": "m1", "pad": "x" * 50000})
    ask = request_bytes("POST", PATH, {"Connection": "close", "Content-Type": "application/json"}, body)
    assert b'"served_by":"a"' in s_client(https, "-max_send_frag", size, data=ask)


@pytest.mark.parametrize("size", [512, 4096])
def test_small_records_are_asked_for(https, size):
    """max_fragment_length (RFC 6066): small devices ask for it."""
    ask = request_bytes("GET", "/olla/models", {"Connection": "close"})
    assert b"HTTP/1.1 200" in s_client(https, "-maxfraglen", size, data=ask)


# ---- curl

@wants("curl")
def test_curl(https, tmp_path):
    curl = ["curl", "-sS", "--fail", "--cacert", https.ca]
    assert json.loads(run(*curl, https.url + "/v1/models"))["data"][0]["id"] == "m1"
    assert b"[DONE]" in run(*curl, "-N", "-d", json.dumps(STREAM), "-H", "Content-Type: application/json", https.url + PATH)
    assert b"[DONE]" in run(*curl, "--http1.0", "-N", "-d", json.dumps(STREAM), "-H", "Content-Type: application/json", https.url + PATH)
    big = tmp_path / "big.json"
    big.write_bytes(b'{"model":"m1","x":"' + pattern(1 << 20, 2).hex().encode() + b'"}')
    assert json.loads(run(*curl, "--data-binary", "@%s" % big, "-H", "Expect: 100-continue", https.url + PATH))["served_by"] == "a"
    run(*curl[:-2], https.url + "/v1/models", code=60)  # nobody it knows has signed that
    run(*curl, https.url.replace("localhost", "127.0.0.1") + "/internal/health", https.url + "/internal/health")


@wants("curl")
def test_curl_forgets_the_s(https):
    said = run("curl", "-sS", https.url.replace("https:", "http:") + "/internal/health")
    assert b"https://" in said


# ---- the clients of Python and Node

def test_python_clients(https, certs):
    connection = http.client.HTTPSConnection("localhost", https.proxy.port, context=certs.context(), timeout=10)
    for _ in range(5):
        connection.request("POST", PATH, dump({"model": "m1"}), {"Content-Type": "application/json"})
        assert json.loads(connection.getresponse().read())["served_by"] == "a"
    connection.close()
    ask = urllib.request.Request(https.url + PATH, dump(STREAM), {"Content-Type": "application/json"})
    with urllib.request.urlopen(ask, timeout=10, context=certs.context()) as reply:
        assert b"[DONE]" in reply.read()


NODE = """
const https = require('https');
const agent = new https.Agent({keepAlive: true});
async function main() {
    for (let i = 0; i < 5; i++) {
        const reply = await fetch(process.argv[2] + '%s', {method: 'POST', headers: {'Content-Type': 'application/json'},
                                  body: JSON.stringify({model: 'm1', stream: i %% 2 == 1})});
        const text = await reply.text();
        if (reply.status != 200 || !text.includes(i %% 2 ? '[DONE]' : 'served_by')) throw new Error(text);
    }
    for (let i = 0; i < 5; i++) {
        await new Promise((done, fail) => https.get(process.argv[2] + '/v1/models', {agent}, reply => {
            reply.resume(); reply.on('end', () => reply.complete ? done() : fail(new Error('cut')));
        }).on('error', fail));
    }
    agent.destroy();
    console.log('fine');
}
main().catch(error => { console.error(error); process.exit(1); });
""" % PATH


@wants("node")
def test_node_clients(https, tmp_path):
    script = tmp_path / "client.js"
    script.write_text(NODE)
    assert b"fine" in run("node", script, https.url, env={"NODE_EXTRA_CA_CERTS": https.ca})


# ---- openssl s_server

@pytest.mark.parametrize("options", [[], ["-no_ticket"], ["-no_cache", "-no_ticket"], ["-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], ["-max_send_frag", "512"]])
def test_openssl_server(world, certs, tmp_path, options):
    """Files over HTTP/1.0: each reply ends with close_notify."""
    (tmp_path / "v1").mkdir()
    models = {"object": "list", "data": [{"id": "m1", "object": "model", "created": 1, "owned_by": "us"}]}
    (tmp_path / "v1" / "models").write_text(json.dumps(models))
    (tmp_path / "v1" / "big.txt").write_bytes(b"0123456789abcde\n" * 20000)
    pair, port = certs.server(), free_port()
    with openssl_process("s_server", "-accept", port, "-cert", pair.cert, "-key", pair.key, "-WWW", "-quiet", *options, cwd=tmp_path):
        eventually(lambda: connects(port), "s_server listens")
        proxy = world.olla({"a": endpoint("https://localhost:%d" % port, **{"tls.ca_file": certs.good.file, "check_interval": "120s",
                                                                            "health_check_url": "/v1/models"})})
        for _ in range(5):
            reply = proxy.get("/olla/proxy/v1/big.txt", {"X-Olla-Endpoint": "a"})
            assert reply.status == 200 and reply.complete and reply.body == b"0123456789abcde\n" * 20000


def test_openssl_status_page(world, certs):
    pair, port = certs.server(), free_port()
    with openssl_process("s_server", "-accept", port, "-cert", pair.cert, "-key", pair.key, "-www", "-quiet"):
        eventually(lambda: connects(port), "s_server listens")
        proxy = world.olla({"a": endpoint("https://127.0.0.1:%d" % port, **{"tls.ca_file": certs.good.file, "check_interval": "120s",
                                                                            "health_check_url": "/"})}, ready=[])
        proxy.wait_state("a", "healthy")
        reply = proxy.get("/olla/proxy/v1/anything", {"X-Olla-Endpoint": "a"})
        assert reply.status == 200 and b"TLSv1." in reply.body


def connects(port):
    try:
        raw_connect(port, 1).close()
        return True
    except OSError:
        return False
