"""Documents answered by the proxy itself."""

import re
import time

import pytest

from backend import DeadPort, LlamaBackend, OllamaBackend, OpenAIBackend, VllmBackend, eventually
from client import request_bytes
from harness import endpoint, run_cli

FAST = {"check_interval": "1s", "check_timeout": "500ms"}


def ids(proxy, target="/v1/models"):
    reply = proxy.get(target)
    assert reply.status == 200 and reply.complete, target
    document = reply.json()
    assert document["object"] == "list"
    return [entry["id"] for entry in document["data"]]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "FOO"])
def test_health(site, method):
    """Load balancers compare this body byte by byte; any method is answered."""
    reply = site.proxy.request(method, "/internal/health", b"ignored" if method != "GET" else None)
    assert (reply.status, reply.body) == (200, b'{"status":"healthy"}')
    assert reply.get("Content-Type") == "application/json"


def test_health_with_a_query(site):
    """Monitors add ?t=... to defeat caches."""
    assert site.proxy.get("/internal/health?t=1").body == b'{"status":"healthy"}'
    assert site.proxy.get("/version?x").status == 200


def test_version(site):
    """Scripts read name, version and the supported backends here."""
    document = site.proxy.get("/version").json()
    assert document["name"] == "Olla" and document["version"] == run_cli("--version")[1].strip()
    assert "load_balancing" in document["capabilities"]
    assert {"ollama", "llamacpp", "vllm", "lm_studio", "openai_compatible"} <= set(document["supported_backends"])
    assert document["api"]["endpoints"]["health"] == "/internal/health"
    assert document["build"]["platform"]


def test_version_names_all_types(site, tmp_path):
    """In the reference's spelling; which there are is what the program says to one that it does not know."""
    (tmp_path / "x.ini").write_text("[endpoint:a]\nurl = http://h:1\ntype = nope\n")
    known = re.search(r"allowed are (.+)", run_cli("-t", "-c", tmp_path / "x.ini")[2]).group(1).split(", ")
    known.remove("auto")
    told = site.proxy.get("/version").json()["supported_backends"]
    assert {"lm_studio", "openai_compatible"} <= set(told)
    assert sorted(name.replace("_", "-") for name in told) == sorted(known)


def test_ollama_version(site):
    """Ollama clients ask for a version before anything else."""
    document = site.proxy.get("/api/version").json()
    assert set(document) == {"version"} and document["version"]
    assert site.oll.calls == []


def test_status_fields(site):
    """The dashboard of the reference reads these fields by name."""
    for _ in range(3):
        site.proxy.post("/olla/proxy/v1/chat/completions", {"model": "m-oai"})
    status = site.proxy.status()
    assert status["proxy"] == {"engine": "olla", "profile": "auto", "balancer": "least-connections"}
    entries = {e["name"]: e for e in status["endpoints"]}
    assert list(entries) and set(entries) == {"oll", "oai", "lla"}
    oai = entries["oai"]
    assert set(oai) >= {"name", "status", "priority", "connections", "requests", "success_rate", "avg_latency", "traffic", "last_check",
                        "next_check", "issues", "models", "url", "id", "min_latency_ms", "max_latency_ms"}
    assert oai["status"] == "healthy" and oai["priority"] == 100 and oai["connections"] == 0
    assert oai["url"] == site.oai.url and re.match(r"[0-9a-z]+\Z", oai["id"])
    assert oai["models"]["count"] == 2 and not oai["models"]["last_updated"].startswith("0001")
    assert re.match(r"[0-9.]+ (B|KB|MB|GB)\Z", oai["traffic"]) and re.match(r"[0-9.]+%\Z", oai["success_rate"])
    assert set(status["system"]) >= {"status", "endpoints_up", "success_rate", "uptime", "version", "active_connections", "total_requests",
                                     "total_failures", "has_traffic"}
    assert status["system"]["endpoints_up"] == "3/3"
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", status["timestamp"])
    for pool in status["pools"]:
        assert set(pool) >= {"name", "size", "count", "used", "max", "failed"}
        assert 0 <= pool["used"] <= pool["max"] <= pool["count"] and pool["size"] > 0


def test_status_counts_once(world):
    """The reference counts every request twice when its model is known."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a})
    assert proxy.status()["system"]["success_rate"] == "N/A" and proxy.status()["endpoints"][0]["success_rate"] == "0%"
    for _ in range(5):
        assert proxy.post("/olla/proxy/v1/chat/completions", {"model": "m1"}).status == 200
    proxy.post("/olla/proxy/v1/chat/completions", {"model": "no-such"})
    status = proxy.status()
    assert status["endpoints"][0]["requests"] == 5 and status["endpoints"][0]["success_rate"] == "100%"
    assert status["system"]["total_requests"] == 5 and status["system"]["total_failures"] == 0


def test_status_of_sick_endpoints(world):
    """The system state follows the share of healthy endpoints."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    dead = world.keep(DeadPort())
    proxy = world.olla({"a": a, "d1": endpoint(dead), "d2": endpoint(dead)}, ready=["a"])
    eventually(lambda: proxy.endpoint("d1")["status"] != "unknown" and proxy.endpoint("d2")["status"] != "unknown", "probed")
    status = proxy.status()
    assert (status["system"]["endpoints_up"], status["system"]["status"]) == ("1/3", "critical")
    assert "unavailable" in next(e for e in status["endpoints"] if e["name"] == "d1")["issues"]


# ---- model lists

def test_openai_list(site):
    """Clients fill their model menu from here: one entry per model, however many servers have it."""
    for target in ("/v1/models", "/olla/proxy/v1/models", "/olla/openai/v1/models", "/olla/openai-compatible/v1/models"):
        found = ids(site.proxy, target)
        assert sorted(found) == ["m-all", "m-lla", "m-oai", "m-oll"], target
    entry = site.proxy.get("/v1/models").json()["data"][0]
    assert entry["object"] == "model" and entry["owned_by"] == "olla"
    assert entry["created"] == 1700000000, "what the backend said: a menu that is sorted by date must not jump about"
    assert site.calls == []


def test_list_order_is_stable(site):
    """The order of the reference changes at random: menus jump about."""
    first = ids(site.proxy)
    assert all(ids(site.proxy) == first for _ in range(5))


def test_provider_lists(site):
    """A provider prefix lists only what servers of that kind have."""
    assert sorted(ids(site.proxy, "/olla/ollama/v1/models")) == ["m-all", "m-oll"]
    assert sorted(ids(site.proxy, "/olla/llamacpp/v1/models")) == ["m-all", "m-lla"]
    for prefix in ("vllm", "lmstudio", "lm-studio", "lm_studio"):
        assert ids(site.proxy, "/olla/%s/v1/models" % prefix) == []
    assert site.proxy.get("/olla/nosuch/v1/models").status == 404


def test_ollama_list(site):
    """The Ollama form, at the root and under the prefix."""
    for target in ("/api/tags", "/olla/ollama/api/tags"):
        models = {m["name"]: m for m in site.proxy.get(target).json()["models"]}
        assert {"m-all", "m-oll"} <= set(models)
        model = models["m-oll"]
        assert model["model"] == "m-oll" and model["size"] == 4661224676 and re.match(r"[0-9a-f]{12,}", model["digest"])
        assert re.match(r"\d{4}-\d\d-\d\dT", model["modified_at"])
        assert model["details"]["parameter_size"] and model["details"]["quantization_level"]
    assert set(m["name"] for m in site.proxy.get("/olla/ollama/api/tags").json()["models"]) == {"m-all", "m-oll"}


def test_lists_follow_health(world):
    """A model that nobody can serve now must not be offered, and must come back with its server."""
    a, b = world.backend(OllamaBackend, "a", ["m-a", "m-both"]), world.backend(OllamaBackend, "b", ["m-b", "m-both"])
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)})
    assert sorted(ids(proxy)) == ["m-a", "m-b", "m-both"]
    a.stop()
    proxy.wait_down("a")
    assert sorted(ids(proxy)) == ["m-b", "m-both"]
    assert {m["name"] for m in proxy.get("/api/tags").json()["models"]} == {"m-b", "m-both"}
    a.start()
    eventually(lambda: sorted(ids(proxy)) == ["m-a", "m-b", "m-both"], "the models are back", 20, 0.1)


def test_empty_lists(world):
    """No models is an empty list, not null and not an error."""
    proxy = world.olla({"a": endpoint(world.keep(DeadPort()))}, ready=None)
    assert proxy.get("/v1/models").json() == {"object": "list", "data": []}
    assert proxy.get("/olla/ollama/v1/models").json() == {"object": "list", "data": []}
    assert proxy.get("/api/tags").json() == {"models": []}


def test_same_model_in_other_case_is_one(world):
    """Two servers spell one model differently: the menu shows it once."""
    a, b = world.backend(OpenAIBackend, "a", ["Phi-4"]), world.backend(OpenAIBackend, "b", ["phi-4"])
    proxy = world.olla({"a": a, "b": b})
    found = ids(proxy)
    assert {name.lower() for name in found} == {"phi-4"} and len(found) in (1, 2)
    seen = {proxy.post("/olla/proxy/v1/chat/completions", {"model": "PHI-4"}).get("X-Olla-Endpoint") for _ in range(6)}
    assert seen == {"a", "b"}


def test_names_are_escaped(world):
    """Quotes, markup and control characters in names must not break the document."""
    names = ['q"uote', "back\\slash", "a<b>&c", "tab\there", "caf\u00e9", "\u4e2d\u6587", "emoji\U0001f600", "org/model:tag", "\u007f"]
    a = world.backend(OllamaBackend, "a", names)
    proxy = world.olla({"a": a})
    found = ids(proxy)
    assert set(found) <= set(names) and set(names) - {"tab\there", "\u007f"} <= set(found)
    assert {m["name"] for m in proxy.get("/api/tags").json()["models"]} == set(found)
    for name in found:
        assert proxy.post("/olla/proxy/v1/chat/completions", {"model": name}).status == 200, name


@pytest.fixture
def thousand(world):
    a = world.backend(OllamaBackend, "a", ["organisation/some-rather-long-model-name-%04d:q4_K_M" % n for n in range(900)])
    return a, world.olla({"a": a})


def test_list_larger_than_a_buffer(thousand):
    """A list that does not fit one buffer must still be whole, for every kind of client."""
    a, proxy = thousand
    for target in ("/v1/models", "/olla/ollama/v1/models"):
        assert sorted(ids(proxy, target)) == sorted(a.models)
    assert sorted(m["name"] for m in proxy.get("/api/tags").json()["models"]) == sorted(a.models)
    with proxy.client() as client:
        client.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert len(client.read_response().json()["data"]) == 900
        assert client.read_eof() == b""
    with proxy.client(rcvbuf=2048) as client:  # a client that takes its time
        client.send(request_bytes("GET", "/v1/models"))
        reply = client.read_head()
        time.sleep(0.5)
        assert len(reply.read_rest().json()["data"]) == 900
        client.send(request_bytes("HEAD", "/v1/models") + request_bytes("GET", "/internal/health"))
        assert client.read_response("HEAD").status == 200
        assert client.read_response().body == b'{"status":"healthy"}'
    with proxy.client(rcvbuf=2048) as client:  # pipelined
        client.send(request_bytes("GET", "/v1/models") * 5)
        for _ in range(5):
            assert len(client.read_response().json()["data"]) == 900


def test_head_of_a_long_list(thousand):
    """`Content-Length: 0` for a document too long to be counted says that there is none."""
    _, proxy = thousand
    with proxy.client() as client:
        for target in ("/v1/models", "/api/tags", "/version", "/internal/health"):
            get = client.request("GET", target)
            head = client.request("HEAD", target)
            assert (head.status, head.get("Content-Type")) == (200, get.get("Content-Type"))
            assert get.body and head.get("Content-Length") in (None, "%d" % len(get.body)), head.raw_head
            assert head.get("Transfer-Encoding") in (None, get.get("Transfer-Encoding"))


def test_clients_that_never_read_a_list(thousand):
    """Local answers obey back-pressure too."""
    _, proxy = thousand
    before = proxy.rss_kb()
    clients = [proxy.client(rcvbuf=2048) for _ in range(50)]
    for client in clients:
        client.send(request_bytes("GET", "/v1/models") * 100)
    time.sleep(0.5)
    assert proxy.get("/internal/health").status == 200
    assert proxy.rss_kb() - before < 8192
    for client in clients:
        client.reset()


def test_list_of_every_kind(world):
    """All supported kinds of servers at once."""
    from backend import LmStudioBackend
    servers = {"o": world.backend(OllamaBackend, "o", ["m-o"]), "v": world.backend(VllmBackend, "v", ["m-v"]),
               "c": world.backend(LlamaBackend, "c", ["m-c"]), "s": world.backend(LmStudioBackend, "s", ["m-s"]),
               "g": world.backend(OpenAIBackend, "g", ["m-g"])}
    proxy = world.olla(servers)
    assert sorted(ids(proxy)) == ["m-c", "m-g", "m-o", "m-s", "m-v"]
    assert ids(proxy, "/olla/lm_studio/v1/models") == ["m-s"] and ids(proxy, "/olla/vllm/v1/models") == ["m-v"]
