"""The status pages themselves: every field with its type, order, tags (ETag, 304), the last errors, and what a key may see."""

import re

import pytest

from backend import Gate, eventually
from client import json_headers, request_bytes
from harness import endpoint, new_id, rarely_probed
from messages import ask as message_body
from messages import delta, send
from observe import (AGO, BYTES, CHAT, ENDPOINTS, ID, LATENCY, METRICS, MODELS, PAGES, PERCENT, PROCESS, RATIO, STATUS, STATUS_MODELS,
                     STICKY, TAGGED, TIME, TRANSLATORS, UNTIL, UPTIME, VERSION, ask, bearer, by_name, endpoint_id, event, fits, metrics,
                     one_of, page, says, streams)
from servers import Compatible, Ollama
from test_upgrade import ASK, echo

ZERO = "0001-01-01T00:00:00Z"
STATES = one_of("healthy", "busy", "offline", "warming", "unhealthy", "unknown", "config_error", "rate_limited", "disabled")
PERCENTILES = {"p50": int, "p95": int, "p99": int}
MODEL = {"name": str, "type?": str, "family?": str, "size?": BYTES, "params?": str, "quant?": str, "last_seen": AGO, "last_seen_at?": TIME,
         "endpoints": [str], "endpoint_ids?": [ID], "aliases?": [str], "capabilities?": [str],
         "max_context_length?": int}
SHAPES = {
    STATUS: {
        "timestamp": TIME, "proxy": {"engine": one_of("olla", "sherpa"), "profile": one_of("auto", "streaming", "standard"),
                                     "balancer": one_of("least-connections", "round-robin", "priority")},
        "endpoints": [{
            "name": str, "status": STATES, "priority": int, "connections": int, "requests": int, "success_rate": PERCENT,
            "avg_latency": LATENCY, "traffic": BYTES, "last_check": AGO, "next_check": UNTIL, "issues": str,
            "models": {"last_updated": TIME, "count": int}, "url": str, "id": ID, "min_latency_ms": int, "max_latency_ms": int,
            "avg_latency_ms?": int, "health_check_at?": TIME, "next_check_at?": TIME,
            # and what the reference does not tell
            "type": str, "detected_type": str, "reason": str, "version?": str, "weight": int, "max_concurrent": int, "serving": int,
            "limited_for_ms": int, "breaker": {"state": one_of("closed", "open", "half_open"), "failures": int, "open_for_ms": int},
            "failed_requests": int, "input_tokens": int, "output_tokens": int, "estimated_requests": int, "tokens_per_second": float,
            "latency_ms": PERCENTILES, "ttft_ms": PERCENTILES, "loaded_models": [str], "latency_sum_ms": int}],
        "security": {"status": one_of("normal", "elevated"), "blocked_ips": int, "violations": {
            "rate_limits": int, "size_limits": int, "refused_peers": int, "refused_connections": int}},
        "system": {"status": one_of("healthy", "degraded", "critical"), "endpoints_up": RATIO,
                   "success_rate": re.compile("N/A|" + PERCENT.pattern), "avg_latency": LATENCY, "total_traffic": BYTES, "uptime": UPTIME,
                   "start_time": TIME, "version": str, "commit": str, "active_connections": int, "security_violations": int,
                   "total_requests": int, "total_failures": int, "has_traffic": bool, "input_tokens": int, "output_tokens": int,
                   "estimated_requests": int, "rss_bytes": int},
        "queue": {"waiting": int, "max": int, "served": int, "timed_out": int, "refused": int, "left": int}, "idle_upstreams": int,
        "pools": [{"name": str, "size": int, "count": int, "used": int, "max": int, "failed": int}],
        "keys": [{"name": str, "requests": int, "failed_requests": int, "input_tokens": int, "output_tokens": int, "estimated_requests": int,
                  "tokens_today": int, "tokens_per_day": int}],
        "recent_errors": [{"time": TIME, "request_id": str, "status": int, "end": re.compile("[A-Z-][A-Z-]"), "endpoint": str, "model": str,
                           "path": str, "client": str, "message": str}]},
    ENDPOINTS: {
        "timestamp": TIME, "total_count": int, "healthy_count": int, "routable_count": int, "endpoints": [{
            "name": str, "type": str, "status": STATES, "id": ID, "url": str, "priority": int, "model_count": int, "request_count": int,
            "success_rate": re.compile("N/A|" + PERCENT.pattern), "health_check": re.compile("|%s ago" % r"[0-9]+[smhd]"),
            "active_connections": int, "min_latency_ms": int, "max_latency_ms": int, "avg_latency_ms?": int, "response_time?": LATENCY,
            "issues?": one_of("unavailable", "unstable", "low success rate"), "last_model_sync?": AGO, "last_model_sync_at?": TIME,
            "health_check_at?": TIME, "next_check_at?": TIME}]},
    MODELS: {
        "timestamp": TIME, "models": [{
            "name": str, "success_rate": PERCENT, "total_traffic": BYTES, "average_latency": LATENCY, "p95_latency": LATENCY,
            "p99_latency": LATENCY, "last_requested": AGO, "total_requests": int, "successful_requests": int, "failed_requests": int,
            "unique_clients": int, "routing_hits": int, "routing_misses": int, "routing_fallbacks": int, "input_tokens": int,
            "output_tokens": int, "estimated_requests": int}],
        "endpoints": {}, "summary": {
            "total_models": int, "active_models": int, "total_requests": int, "overall_success_rate": PERCENT, "total_traffic": BYTES,
            "most_popular_model": str, "least_popular_model": str}},
    STATUS_MODELS + "?detailed=true&group=family": {
        "timestamp": TIME, "total_models": int, "total_families": int, "total_endpoints": int, "models_by_family": dict,
        "recent_models": [MODEL], "model_groups": [{"family": str, "models": [MODEL], "endpoints": [str], "model_count": int}]},
    STICKY: {"enabled": True, "active_sessions": int, "insertions": int, "hits": int, "misses": int, "evictions": int, "max_sessions": int,
             "idle_ttl_seconds": int},
    TRANSLATORS: {"timestamp": TIME, "translators": list, "summary": dict},
    PROCESS: {
        "timestamp": TIME, "memory": {
            "heap_alloc": BYTES, "heap_sys": BYTES, "heap_inuse": BYTES, "heap_released": BYTES, "stack_inuse": BYTES, "total_alloc": BYTES,
            "memory_pressure": one_of("LOW", "MEDIUM", "HIGH"), "rss_bytes": int},
        "garbage_collection": {"last_gc": str, "total_gc_time": str, "avg_gc_pause": str, "gc_cpu_fraction": float, "num_gc_cycles": int},
        "goroutines": {"health_status": one_of("HEALTHY", "NORMAL", "ELEVATED", "CONCERNING"), "count": int, "cgo_calls": int},
        "runtime": {"uptime": str, "go_version": str, "num_cpu": int, "gomaxprocs": int},
        "allocations": {"total_mallocs": int, "total_frees": int, "net_objects": int}},
    VERSION: {
        "name": "Olla", "version": str, "edition": str, "description": str,
        "build": {"commit": str, "date": str, "go_version": str, "platform": re.compile(r"[a-z0-9]+/[a-z0-9_]+")}, "capabilities": [str],
        "capabilities_experimental": [str], "supported_backends": [str],
        "api": {"version": "v1", "endpoints": {"health": "/internal/health", "metrics": METRICS, "status": STATUS, "process": PROCESS,
                                               "version": VERSION}},
        "links": {"homepage": str, "documentation": str, "releases": str}},
}


def steady(server, **keys):
    """An endpoint that fails as often as it likes: neither probes nor a breaker judge it."""
    return endpoint(server, health="none", check_interval="120s", **keys)


@pytest.fixture
def fleet(world):
    """Four machines whose names tell their place: one is away, one is switched off."""
    servers = {name: world.backend(Compatible if name != "d-ollama" else Ollama, name, ["m-" + name, "m-all"])
               for name in ("c-low", "a-away", "b-top", "d-ollama", "e-off")}
    spec = {name: rarely_probed(server, priority=priority) for (name, server), priority in
            zip(servers.items(), (0, 70, 100, 70, 100))}
    spec["e-off"]["enabled"] = False
    world.spec = spec
    servers["a-away"].stop()
    world.servers = servers
    world.proxy = world.olla(spec, {"model_aliases.nick": "m-b-top", "key:k.secret": "sk-k-1234", "proxy.breaker.open_time": "1m"},
                             ready=["c-low", "b-top", "d-ollama"])
    world.proxy.wait_state("a-away", "offline")
    return world


def test_shapes_without_traffic(fleet):
    for path, shape in SHAPES.items():
        fits(page(fleet.proxy, path), shape, path)
    status = page(fleet.proxy, STATUS)
    assert [e["name"] for e in status["endpoints"]] == ["b-top", "e-off", "d-ollama", "a-away", "c-low"], \
        "priority, then the healthy ones, then the name"
    assert [e["name"] for e in page(fleet.proxy, ENDPOINTS)["endpoints"]] == [e["name"] for e in status["endpoints"]]
    for entry in status["endpoints"]:
        assert entry["id"] == endpoint_id(fleet.servers[entry["name"]].url) and entry["url"] == fleet.servers[entry["name"]].url
        assert (entry["success_rate"], entry["avg_latency"], entry["traffic"], entry["requests"]) == ("0%", "0ms", "0 B", 0)
        assert "avg_latency_ms" not in entry and entry["min_latency_ms"] == entry["max_latency_ms"] == 0
    entries = by_name(status["endpoints"])
    assert entries["e-off"]["status"] == "disabled" and "health_check_at" not in entries["e-off"] and entries["e-off"]["last_check"] == "never"
    assert entries["a-away"]["status"] == "offline" and entries["a-away"]["issues"] == "unavailable" and entries["a-away"]["reason"]
    assert entries["a-away"]["models"] == {"last_updated": ZERO, "count": 0}
    assert entries["b-top"]["issues"] == "" and entries["b-top"]["models"]["count"] == 2
    entries = by_name(page(fleet.proxy, ENDPOINTS)["endpoints"])
    assert entries["a-away"]["issues"] == "unavailable" and "issues" not in entries["b-top"]
    assert entries["e-off"]["health_check"] == "" and "response_time" not in entries["e-off"] and "last_model_sync" not in entries["e-off"]
    assert {e["success_rate"] for e in entries.values()} == {"N/A"}
    assert status["system"]["success_rate"] == "N/A" and status["system"]["has_traffic"] is False
    assert status["system"]["endpoints_up"] == "3/5" and status["system"]["status"] == "degraded"
    assert page(fleet.proxy, MODELS)["summary"]["most_popular_model"] == ""


def test_shapes_with_traffic(fleet):
    for _ in range(2):
        assert ask(fleet.proxy, CHAT, {"model": "m-b-top"}, bearer("sk-k-1234")).status == 200
    assert ask(fleet.proxy, "/v1/messages", message_body(model="m-c-low"), bearer("sk-k-1234")).status in (200, 502)
    fleet.servers["b-top"].on(CHAT, says(b"{}", 500))
    assert ask(fleet.proxy, CHAT, {"model": "m-b-top"}, bearer("sk-k-1234")).status == 500
    for path, shape in SHAPES.items():
        fits(page(fleet.proxy, path), shape, path)
    entry = by_name(page(fleet.proxy, STATUS)["endpoints"])["b-top"]
    assert entry["success_rate"] == "66.7%" and "avg_latency_ms" in entry and "health_check_at" in entry and "next_check_at" in entry
    assert set(entry["health_check_at"]) and entry["breaker"] == {"state": "closed", "failures": 1, "open_for_ms": 0}


def test_ends_and_escapes(fleet):
    """The three status pages end without a line's end, the others with one; markup is escaped."""
    for path in PAGES:
        body = fleet.proxy.get(path).body
        assert body.endswith(b"}") if path in TAGGED else body.endswith(b"}\n"), path
        assert not re.search(rb"[<>&]", body), path


def test_same_urls(world):
    """Two endpoints at one address are still two."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({name: rarely_probed(server) for name in ("z", "y")})
    wanted = endpoint_id(server.url)
    for path in (STATUS, ENDPOINTS):
        assert {e["name"]: e["id"] for e in page(proxy, path)["endpoints"]} == {"y": wanted + "-0", "z": wanted + "-1"}
    model, = page(proxy, STATUS_MODELS)["recent_models"]
    assert (model["endpoints"], model["endpoint_ids"]) == (["y", "z"], [wanted + "-0", wanted + "-1"])


def test_issues(world):
    """Each word when its rule says so, in this order."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": steady(server)})
    for _ in range(8):
        assert ask(proxy, CHAT, {"model": "m1"}).status == 200
    server.on(CHAT, says(b"{}", 500))
    for n, issue in ((1, ""), (2, ""), (3, "low success rate")):
        assert ask(proxy, CHAT, {"model": "m1"}).status == 500
        entry, = page(proxy, STATUS)["endpoints"]
        assert (entry["requests"], entry["failed_requests"], entry["issues"]) == (8 + n, n, issue), entry
        entry, = page(proxy, ENDPOINTS)["endpoints"]
        assert entry.get("issues", "") == issue


# ---- tags

def tag_of(reply):
    tag, = reply.get_all("ETag")
    assert re.fullmatch(r'W/"[0-9a-z]+"', tag), tag
    assert reply.get_all("Cache-Control") == ["private, no-cache"] and reply.get_all("Vary") == ["Accept-Encoding"]
    assert reply.has("X-Olla-Request-ID")
    return tag


@pytest.mark.parametrize("path", TAGGED)
def test_304(fleet, path):
    with fleet.proxy.client() as client:
        client.request("GET", path)
        whole = client.request("GET", path)
        tag = tag_of(whole)
        bare = tag[2:]
        for value in (tag, bare, "*", '"x", %s' % tag, '%s,"y"' % bare, 'W/"1" , W/"2",%s ' % tag, '"%s",%s' % ("x" * 900, tag)):
            reply = client.request("GET", path, headers=[("If-None-Match", value)])
            assert (reply.status, reply.body) == (304, b""), value
            assert tag_of(reply) == tag and not reply.has("Content-Type") and not reply.has("Content-Encoding"), reply.headers
        for value in ('"x"', bare.strip('"'), bare[:-2] + '"', '"%s",%s' % ("x" * 1024, tag), ""):
            reply = client.request("GET", path, headers=[("If-None-Match", value)])
            assert reply.status == 200 and reply.body and tag_of(reply) == tag, value
        head = client.request("HEAD", path)
        assert (head.status, head.body) == (200, b"") and tag_of(head) == tag and head.get("Content-Type") == "application/json"
        head = client.request("HEAD", path, headers=[("If-None-Match", tag)])
        assert head.status == 304 and tag_of(head) == tag
        assert client.request("GET", path).status == 200, "the connection goes on"


def test_other_pages_have_no_tags(fleet):
    for path in set(PAGES) - set(TAGGED) | {METRICS}:
        reply = fleet.proxy.get(path, [("If-None-Match", "*")])
        assert reply.status == 200 and not reply.has("ETag") and not reply.has("Cache-Control"), path
        head = fleet.proxy.request("HEAD", path)
        assert (head.status, head.body, head.get("Content-Type")) == (200, b"", reply.get("Content-Type")), path


def test_tag_changes_with_what_is_seen(fleet):
    """Stable while nothing happens, another one with everything that does."""
    proxy = fleet.proxy
    client = proxy.client()
    fleet.clients.append(client)

    def tags():
        return {path: tag_of(client.request("GET", path)) for path in TAGGED}

    def settled():
        return tags() == tags()

    def step(what, do, changed, kept=()):
        eventually(settled, "the pages are at rest", 5, 0.05)
        before = tags()
        do()
        eventually(lambda: all(tags()[path] != before[path] for path in changed), "%s is seen on %r" % (what, changed), 8, 0.05)
        for path in kept:
            assert tags()[path] == before[path], (what, path)

    def request(status, model="m-b-top"):
        return lambda: [ask(proxy, CHAT, {"model": model}, bearer("sk-k-1234")).status == status or pytest.fail(status)]
    step("a request", request(200), (STATUS, ENDPOINTS), (STATUS_MODELS,))
    step("a refused request", request(404, "nobody"), (), (STATUS_MODELS, ENDPOINTS))
    fleet.servers["b-top"].on(CHAT, says(b"{}", 500))
    step("a failure", request(500), (STATUS, ENDPOINTS), (STATUS_MODELS,))
    fleet.servers["c-low"].stop()
    step("an endpoint that is gone", lambda: request(502, "m-c-low")(), (STATUS, ENDPOINTS))
    fleet.spec["b-top"] = rarely_probed(fleet.servers["b-top"], priority=99)
    step("a new priority", lambda: proxy.reload(fleet.spec, {"key:k.secret": "sk-k-1234"}), (STATUS, ENDPOINTS))


def test_tag_tells_of_the_breaker(world):
    """That time passes is no news; that an endpoint is tried again is."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": rarely_probed(server)}, {"proxy.breaker.open_time": "1500ms"})
    client = world.client(proxy)
    server.on(CHAT, says(b"{}", 500))
    for _ in range(3):
        assert ask(proxy, CHAT, {"model": "m1"}, client=client).status == 500
    client.request("GET", STATUS)
    reply = client.request("GET", STATUS)
    tag, first = reply.get("ETag"), reply.json()["endpoints"][0]["breaker"]
    assert first["state"] == "open" and first["open_for_ms"] > 0
    seen = []

    def over():
        """Looks again; the tag is another one as soon as the state is, and not before."""
        reply = client.request("GET", STATUS)
        seen.append(reply.json()["endpoints"][0]["breaker"])
        assert (reply.get("ETag") == tag) == (seen[-1]["state"] == "open"), seen[-1]
        return seen[-1]["state"] != "open"
    eventually(over, "it is tried again", 5)
    assert [b for b in seen if 0 < b["open_for_ms"] < first["open_for_ms"]], "time has passed"
    assert client.request("GET", STATUS, headers=[("If-None-Match", tag)]).status == 200


# ---- the last errors

def test_recent_errors(world):
    server = world.backend(Compatible, "s", ["m1", "m2"])
    proxy = world.olla({"s": steady(server)})
    assert page(proxy, STATUS)["recent_errors"] == []
    server.on(CHAT, says(b"{}", 418))
    assert ask(proxy, CHAT, {"model": "m1"}).status == 418
    assert ask(proxy, CHAT, {"model": "nobody"}).status == 404
    assert page(proxy, STATUS)["recent_errors"] == [], "what the client did wrong is none"
    server.on(CHAT, says(b"{}", 500))
    sent = []
    for n in range(23):
        sent.append(new_id())
        assert ask(proxy, CHAT + "?q=secret", {"model": "m%d" % (1 + n % 2)}, ident=sent[-1]).status == 500
        errors = page(proxy, STATUS)["recent_errors"]
        assert [e["request_id"] for e in errors] == sent[::-1][:20], "the last one first"
    fits(page(proxy, STATUS), SHAPES[STATUS])
    error, times = errors[0], [e["time"] for e in errors]
    assert times == sorted(times, reverse=True)
    assert {k: v for k, v in error.items() if k != "time"} == {
        "request_id": sent[-1], "status": 500, "end": "--", "endpoint": "s", "model": "m1", "path": CHAT, "client": "127.0.0.1", "message": ""}
    server.stop()
    assert ask(proxy, CHAT, {"model": "m2"}).status == 502
    error = page(proxy, STATUS)["recent_errors"][0]
    assert (error["status"], error["end"], error["model"]) == (502, "SC", "m2") and error["message"]


def test_broken_streams_say_why(world):
    """The words are olla's own: those of a server are gone when the page is asked for."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": steady(server)})
    words = "the engine died " + "x" * 60
    server.on(CHAT, streams([delta(content="hi"), event({"error": {"message": words, "code": 500}})]))
    reply = send(proxy, message_body(stream=True))
    assert words in reply.text()
    server.on(CHAT, streams([event({"choices": []})], end=lambda conn: conn.rst()))
    assert not ask(proxy, CHAT, {"model": "m1", "stream": True}).complete
    broken, told = page(proxy, STATUS)["recent_errors"]
    for error, end in ((broken, "SD"), (told, "SD")):
        assert error["end"] == end and error["status"] == 200, error
        assert re.fullmatch(r"the backend[ -~]+", error["message"]), error


GUESSING = {"model_registry.routing_strategy.type": "optimistic", "model_registry.routing_strategy.options.fallback_behavior": "all"}
HOSTILE = "<m&>\"\\\u00e9\u20ac\U0001f600\u2028"
WORSE = HOSTILE + "\n\t\r\u0001\u007f"  # no server may call a model so, but a client may


def test_hostile_names(world):
    """Names of models, paths and ids of all bytes there are: the pages stay JSON, and the metrics what they have to be."""
    server = world.backend(Compatible, "s", ["m1", HOSTILE])
    proxy = world.olla({"s\"\\<é": steady(server)}, GUESSING, ready=None)
    eventually(lambda: page(proxy, STATUS)["endpoints"][0]["models"]["count"] == 2, "both models")
    name, = [e["name"] for e in page(proxy, STATUS)["endpoints"]]
    assert name == "s\"\\<é"
    server.on(CHAT, says(b"{}", 500))
    assert ask(proxy, CHAT, {"model": HOSTILE}).status == 500
    assert ask(proxy, CHAT, {"model": WORSE}).status == 500
    errors = page(proxy, STATUS)["recent_errors"]
    assert [e["model"] for e in errors] == [HOSTILE + 5 * "?", HOSTILE] and errors[0]["endpoint"] == name
    server.on("/v1/%C3%A9\"<\\", says(b"{}", 500))
    server.on("*", says(b"{}", 500))
    path = "/olla/proxy/v1/%C3%A9\"<\\" + "é" * 200
    ident = "<id>\"\\&" + "x" * 100
    raw = ("POST %s HTTP/1.1\r\nHost: x\r\nX-Request-ID: %s\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"model\":\"m1\"}"
           % (path, ident)).encode()
    with proxy.client() as client:
        client.send(raw)
        client.read_response("POST")
    for model in (b'"\xff\xfe"', b'"m\xc3"', b'"\xed\xa0\x80"', b'"\\u0000"', b'"\\ud800"', b'"a\\u0000b"', b'"' + b"\xe2\x82\xac" * 42 + b'"',
                  b'"' + b"<" * 127 + b'"', b'"' + b"<" * 500 + b'"'):
        with proxy.client() as client:
            client.request("POST", CHAT, b'{"model":%s,"messages":[]}' % model, json_headers())
            client.request("POST", CHAT, b'{"model":%s,"messages":[]}' % model, json_headers({"X-Olla-Endpoint": "s"}))
    status = proxy.get(STATUS)
    assert not re.search(rb"[<>&\0-\x1f]", status.body)
    fits(status.json(), SHAPES[STATUS])
    assert [e for e in status.json()["recent_errors"] if e["request_id"] == ident or e["path"].startswith("/olla/proxy/v1/")]
    for path in PAGES:
        page(proxy, path)
    document = metrics(proxy)
    assert document.values("endpoint") == {name} and {HOSTILE, "m1"} <= document.values("model")


def test_names_that_cannot_be_text(world):
    """With a strategy that lets unknown models through, bytes that are no UTF-8 must not spoil the documents."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": rarely_probed(server)}, GUESSING)
    for model in (b"\xff\xfe", b"m\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"):
        with proxy.client() as client:
            assert client.request("POST", CHAT, b'{"model":"%s","messages":[]}' % model, json_headers()).status in (200, 400)
    names = metrics(proxy).values("model")
    for path in PAGES:
        page(proxy, path)
    assert {m["name"] for m in page(proxy, MODELS)["models"]} == names == {"??", "m?", "???", "????"}, "what looks the same is the same"


# ---- what a key may see

def test_narrow_keys(world):
    """From elsewhere, a key for certain models sees no other models, no keys, nobody's errors."""
    server = world.backend(Ollama, "s", ["llama-1", "llama-2", "qwen:7b"])
    server.loaded = ["llama-1", "qwen:7b"]
    other = world.backend(Compatible, "o", ["phi-1"])  # one machine alone is not asked what it has loaded
    proxy = world.olla({"s": endpoint(server, check_interval="1s", priority=200), "o": rarely_probed(other)}, {
        "key:all.secret": "sk-all-of-it", "key:narrow.secret": "sk-narrow-1", "key:narrow.models": "llama*", "key:other.secret": "sk-other-1",
        "key:other.models": "phi*", "server.rate_limits.trust_proxy_headers": True, "server.rate_limits.trusted_proxy_cidrs": "127.0.0.0/8"}, ready={"s": 3, "o": 1})
    far = [("X-Forwarded-For", "10.1.2.3")]
    for model in ("qwen:7b", "llama-2"):
        assert ask(proxy, CHAT, {"model": model}, bearer("sk-all-of-it")).status == 200
    server.on(CHAT, says(b"{}", 500))
    assert ask(proxy, CHAT, {"model": "qwen:7b"}, bearer("sk-all-of-it")).status == 500
    eventually(lambda: page(proxy, STATUS)["endpoints"][0]["loaded_models"], "what is loaded is known")
    everything = {"llama-1", "llama-2", "qwen:7b"}
    for path in PAGES + (METRICS,):
        assert proxy.get(path, far).status == 401, path
    for key, models, all_of_it in (("sk-all-of-it", everything, True), ("sk-narrow-1", {"llama-1", "llama-2"}, False), ("sk-other-1", set(), False)):
        headers = far + bearer(key)
        status = page(proxy, STATUS, headers)
        fits(status, SHAPES[STATUS])
        assert [k["name"] for k in status["keys"]] == (["all", "narrow", "other"] if all_of_it else [])
        assert len(status["recent_errors"]) == (1 if all_of_it else 0)
        assert set(status["endpoints"][0]["loaded_models"]) == {"llama-1", "qwen:7b"} & models
        assert {m["name"] for m in page(proxy, MODELS, headers)["models"]} == {"llama-2", "qwen:7b"} & models
        summary = page(proxy, MODELS, headers)["summary"]
        assert summary["total_models"] == len({"llama-2", "qwen:7b"} & models)
        assert summary["most_popular_model"] in models | {""} and summary["least_popular_model"] in models | {""}
        document = metrics(proxy, headers)
        assert document.values("model") == {"llama-2", "qwen:7b"} & models
        assert document.values("key") == ({"all", "narrow", "other"} if all_of_it else set())
        for path in PAGES + (METRICS, STATUS_MODELS + "?detailed=true&group=family"):
            body = proxy.get(path, headers).body
            assert not [name for name in everything - models if name.encode() in body], path
            assert all_of_it or not re.search(rb'"(all|narrow|other)"', body), path
    tag = proxy.get(STATUS, far + bearer("sk-all-of-it")).get("ETag")
    assert proxy.get(STATUS, far + bearer("sk-narrow-1") + [("If-None-Match", tag)]).status == 200, "a page is not taken for another key's"


# ---- counts that need more than one endpoint

def test_misses(world):
    """A model that is known, but whose machine is away."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": rarely_probed(server)})
    assert ask(proxy, CHAT, {"model": "m1"}).status == 200
    server.stop()
    assert ask(proxy, CHAT, {"model": "m1"}).status == 502
    assert ask(proxy, CHAT, {"model": "M1"}).status == 503
    entry, = page(proxy, MODELS)["models"]
    assert (entry["total_requests"], entry["routing_hits"], entry["routing_misses"]) == (2, 2, 1)
    assert page(proxy, STATUS)["system"]["total_requests"] == 2


def test_lost_and_then_refused(world):
    """One machine fails, the other has no room: that is one request, and it failed."""
    a, b = world.backend(Compatible, "a", ["m1"]), world.backend(Compatible, "b", ["m1", "m2"])
    spec = {"a": endpoint(a, priority=100, health="none", check_interval="120s"), "b": rarely_probed(b, priority=50, max_concurrent=1)}
    proxy = world.olla(spec, {"proxy.load_balancer": "priority", "proxy.queue.timeout": "200ms"})
    a.stop()
    gate = Gate()

    def handler(conn, request):
        gate.wait()
        conn.reply(b"{}")
    b.on(CHAT, handler)
    client = world.client(proxy)
    client.start_post(CHAT, {"model": "m2"})
    b.wait_calls(1)
    assert ask(proxy, CHAT, {"model": "m1"}).status == 503
    status = page(proxy, STATUS)
    entries = by_name(status["endpoints"])
    assert (entries["a"]["requests"], entries["a"]["failed_requests"]) == (1, 1)
    assert (entries["b"]["requests"], entries["b"]["connections"], entries["b"]["serving"]) == (0, 1, 1)
    assert (status["system"]["total_requests"], status["system"]["total_failures"], status["system"]["active_connections"]) == (1, 1, 2)
    model, = page(proxy, MODELS)["models"]
    assert (model["name"], model["total_requests"], model["failed_requests"]) == ("m1", 1, 1)
    assert status["queue"]["timed_out"] == 1 and status["queue"]["waiting"] == 0
    gate.open()
    assert client.read_response("POST").status == 200
    assert page(proxy, STATUS)["system"]["total_requests"] == 2


def test_counts_survive_a_reload(world):
    a = world.backend(Compatible, "a", ["m1"])
    spec = {"a": rarely_probed(a)}
    proxy = world.olla(spec, {"key:k.secret": "sk-k-1234"})
    assert ask(proxy, CHAT, {"model": "m1"}, bearer("sk-k-1234")).status == 200
    proxy.reload(spec, {"key:new-name.secret": "sk-k-1234", "key:second.secret": "sk-2-1234"})
    eventually(lambda: [k["name"] for k in page(proxy, STATUS)["keys"]] == ["new-name", "second"], "the keys of the new file", 5, 0.05)
    status = page(proxy, STATUS)
    assert [k["requests"] for k in status["keys"]] == [1, 0], "a key is its secret, whatever it is called"
    assert status["endpoints"][0]["requests"] == status["system"]["total_requests"] == 1
    assert metrics(proxy).labelled("olla_key_requests_total", "key") == {"new-name": 1, "second": 0}


def test_waiting_line(world):
    """Who waits, who was served, who found the line full."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": rarely_probed(server, max_concurrent=1)}, {"proxy.queue.max_waiting": 1})
    gates = [Gate(), Gate()]

    def handler(conn, request):
        gates[int(request.get("X-Test-Number"))].wait()
        conn.reply(b"{}")
    server.on(CHAT, handler)
    clients = [world.client(proxy) for _ in gates]
    clients[0].start_post(CHAT, {"model": "m1"}, {"X-Test-Number": "0"})
    server.wait_calls(1)
    clients[1].start_post(CHAT, {"model": "m1"}, {"X-Test-Number": "1"})
    eventually(lambda: page(proxy, STATUS)["queue"]["waiting"] == 1, "it waits")
    assert ask(proxy, CHAT, {"model": "m1"}).status == 429
    status, document = page(proxy, STATUS), metrics(proxy)
    assert status["queue"] == {"waiting": 1, "max": 1, "served": 0, "timed_out": 0, "refused": 1, "left": 0}
    assert (status["system"]["active_connections"], status["endpoints"][0]["serving"], status["system"]["total_requests"]) == (3, 1, 0)
    assert (document.get("olla_queue_waiting"), document.get("olla_queue_refused_total"), document.get("olla_endpoint_serving", endpoint="s"),
            document.get("olla_active_connections")) == (1, 1, 1, 3)
    for gate, client in zip(gates, clients):
        gate.open()
        assert client.read_response("POST").status == 200
    status, document = page(proxy, STATUS), metrics(proxy)
    assert status["queue"] == {"waiting": 0, "max": 1, "served": 1, "timed_out": 0, "refused": 1, "left": 0}
    assert (document.get("olla_queue_waiting"), document.get("olla_queue_served_total"), document.get("olla_queue_timeouts_total")) == (0, 1, 0)
    assert status["system"]["total_requests"] == status["endpoints"][0]["requests"] == document.get("olla_requests_total") == 2
    assert status["endpoints"][0]["connections"] == 0


def test_security(world):
    """Each request that a limit stops is one violation, by its kind; the word changes behind the hundredth."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": rarely_probed(server)}, {
        "server.rate_limits.per_ip_requests_per_minute": 1, "server.rate_limits.burst_size": 1, "server.rate_limits.global_requests_per_minute": 0})
    assert ask(proxy, CHAT, {"model": "m1"}).status == 200
    for violations, word in ((0, "normal"), (1, "normal"), (100, "normal"), (101, "elevated")):
        for _ in range(violations - page(proxy, STATUS)["security"]["violations"]["rate_limits"]):
            assert ask(proxy, CHAT, {"model": "m1"}).status == 429
        status, document = page(proxy, STATUS), metrics(proxy)
        assert status["security"] == {"status": word, "blocked_ips": min(violations, 1), "violations": {
            "rate_limits": violations, "size_limits": 0, "refused_peers": 0, "refused_connections": 0}}
        assert status["system"]["security_violations"] == violations and status["system"]["total_requests"] == 1
        assert document.get("olla_security_violations_total") == document.get("olla_security_rate_limit_violations_total") == violations
        assert document.get("olla_security_blocked_ips") == min(violations, 1)
        assert document.get("olla_security_status") == (1 if word == "normal" else 0)


def test_other_protocols(world):
    """What went through a WebSocket is one request, with its bytes."""
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": rarely_probed(server)})
    server.on("/v1/realtime", echo)
    with proxy.client() as client:
        client.send(request_bytes("GET", "/v1/realtime?model=m1", ASK))
        assert client.read_head().status == 101
        client.send(b"x" * 1000)
        assert client.read_exact(1000) == b"x" * 1000
        assert page(proxy, STATUS)["endpoints"][0]["connections"] == 1
    entry = eventually(lambda: [e for e in page(proxy, STATUS)["endpoints"] if e["requests"]], "it is counted")[0]
    assert (entry["requests"], entry["failed_requests"], entry["traffic"], entry["connections"]) == (1, 0, "1000 B", 0)
    assert page(proxy, MODELS)["models"][0]["name"] == "m1" and entry["estimated_requests"] == 0
