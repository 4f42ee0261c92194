"""The status pages against a scripted load: every request moves exactly the figures that it should, by one, on every page."""

import collections

import pytest

from backend import Gate, OpenAIBackend, hold
from client import dump, json_headers, request_bytes
from harness import World, endpoint, new_id, report
from messages import ask as message_body
from observe import (CHAT, ENDPOINTS, MODELS, STATUS, TRANSLATORS, ask, bearer, by_name, bytes_text, event, latency_text, line, metrics, page,
                     percent_is, says, streams)
from servers import Compatible, Ollama, Vllm

ALICE, BOB, CAROL = "sk-alice-1", "sk-bob-2", "sk-carol-3"
USAGE = {"prompt_tokens": 21, "completion_tokens": 8, "total_tokens": 29}


class Sums:
    """What has been asked of one thing."""

    def __init__(self):
        self.requests = self.failed = self.bytes = self.input = self.output = self.estimated = 0
        self.began = 0  # replies with a first byte
        self.latencies = []

    @property
    def served(self):
        return self.requests - self.failed


class Load:
    """A fleet in the order of `priority`, three keys, and a book of what must have been counted.

    a: vLLM with m-a; dead: was a server with m-f and m-d; b: chat completions only, m-b, m-f; o: an Ollama with m-o."""

    def __init__(self):
        self.world = World()
        self.a = self.world.backend(Vllm, "a", ["m-a", "m-all"])
        self.b = self.world.backend(Compatible, "b", ["m-b", "m-f", "m-all"])
        self.o = self.world.backend(Ollama, "o", ["m-o:7b"])
        self.dead = self.world.backend(OpenAIBackend, "dead", ["m-f", "m-d"])
        quiet = {"check_interval": "120s", "health": "none"}
        self.spec = {"o": endpoint(self.o, priority=1, **quiet), "b": endpoint(self.b, priority=50, **quiet),
                     "dead": endpoint(self.dead, priority=70, **quiet), "a": endpoint(self.a, priority=100, **quiet)}
        self.proxy = self.world.olla(self.spec, {
            "proxy.load_balancer": "priority", "proxy.sticky_sessions.enabled": False, "model_aliases.nick": "m-b",
            "server.request_limits.max_body_size": "64KB", "key:alice.secret": ALICE, "key:bob.secret": BOB,
            "key:bob.models": "m-b*, nick, m-gone", "key:carol.secret": CAROL, "key:carol.requests_per_minute": 1},
            ready={"a": 2, "b": 3, "o": 1, "dead": 2})
        self.dead.stop()
        self.all, self.endpoints = Sums(), {name: Sums() for name in self.spec}
        self.models, self.keys = collections.defaultdict(Sums), {name: Sums() for name in ("alice", "bob", "carol")}
        self.translator = collections.Counter()
        self.size_limits = self.errors = 0
        self.misses = collections.Counter()

    @property
    def proxies(self):
        return self.world.proxies

    def book(self, ident, at, model, key="alice", failed=False, size=0, tokens=(0, 0), estimated=False, began=True, lost=(), error=False):
        """One request: it ended on the endpoint `at`; `lost`: those that failed before. Figures of time come from its line."""
        access = self.proxy.access(ident)
        assert access["endpoint"] == at and access["bytes_out"] == size, access
        assert ("ttft_ms" in access) == began, access
        for thing in (self.all, self.endpoints[at], self.models[model], self.keys[key]):
            thing.requests += 1
            thing.failed += failed
            thing.bytes += size
            thing.input += tokens[0]
            thing.output += tokens[1]
            thing.estimated += estimated
            thing.began += began
            if not failed:
                thing.latencies.append(access["duration_ms"])
        for name in lost:
            self.endpoints[name].requests += 1
            self.endpoints[name].failed += 1
        self.errors += error
        return access

    def translated(self, native, failed=False, stream=False, nowhere=False):
        t = self.translator
        t.update(total_requests=1, failed_requests=int(failed), successful_requests=int(not failed), passthrough_requests=int(native),
                 translation_requests=int(not native), streaming_requests=int(stream), non_streaming_requests=int(not stream),
                 fallback_no_compatible_endpoints=int(nowhere), fallback_cannot_passthrough=int(not native and not nowhere))


@pytest.fixture(scope="module")
def load(kept):
    return kept(Load)


@pytest.fixture
def settled(load):
    yield load
    load.world.close_clients()
    report(load.proxy.idle_problems() + load.world.script_failures())


# ---- the pages against the book

def sums_fit(sums, entry, where):
    assert {key: entry[key] for key in ("input_tokens", "output_tokens", "estimated_requests")} == {
        "input_tokens": sums.input, "output_tokens": sums.output, "estimated_requests": sums.estimated}, where


def check_status(load):
    document = page(load.proxy, STATUS)
    assert [e["name"] for e in document["endpoints"]] == ["a", "dead", "b", "o"], "by priority"
    for entry in document["endpoints"]:
        sums, name = load.endpoints[entry["name"]], entry["name"]
        assert (entry["requests"], entry["failed_requests"]) == (sums.requests, sums.failed), name
        assert percent_is(entry["success_rate"], sums.served, sums.requests), entry
        assert entry["traffic"] == bytes_text(sums.bytes), name
        sums_fit(sums, entry, name)
        times = sums.latencies
        assert ("avg_latency_ms" in entry) == bool(times), entry
        assert (entry["min_latency_ms"], entry["max_latency_ms"]) == ((min(times), max(times)) if times else (0, 0)), entry
        average = sum(times) // len(times) if times else 0
        assert entry.get("avg_latency_ms", 0) == average and entry["avg_latency"] == latency_text(average), entry
        p = entry["latency_ms"]
        assert p["p50"] <= p["p95"] <= p["p99"] <= max(times, default=0), entry
        assert entry["connections"] == entry["serving"] == 0
    system, sums = document["system"], load.all
    assert (system["total_requests"], system["total_failures"]) == (sums.requests, sums.failed)
    assert system["has_traffic"] is (sums.requests > 0)
    assert system["success_rate"] == "N/A" if not sums.requests else percent_is(system["success_rate"], sums.served, sums.requests)
    assert system["total_traffic"] == bytes_text(sums.bytes)
    assert system["avg_latency"] == latency_text(sum(sums.latencies) // len(sums.latencies) if sums.latencies else 0)
    assert system["active_connections"] == 1, "this one"
    assert system["security_violations"] == load.size_limits == document["security"]["violations"]["size_limits"]
    sums_fit(sums, system, "system")
    rate = 100 * sums.served // sums.requests if sums.requests else 100
    assert system["endpoints_up"] == "4/4" and system["status"] == ("critical" if rate < 90 else "degraded" if rate < 95 else "healthy")
    keys = by_name(document["keys"])
    assert set(keys) == set(load.keys)
    for name, sums in load.keys.items():
        assert (keys[name]["requests"], keys[name]["failed_requests"]) == (sums.requests, sums.failed), name
        sums_fit(sums, keys[name], name)
        assert keys[name]["tokens_today"] == sums.input + sums.output and keys[name]["tokens_per_day"] == 0, name
    assert len(document["recent_errors"]) == load.errors


def check_endpoints(load):
    document = page(load.proxy, ENDPOINTS)
    assert (document["total_count"], document["healthy_count"], document["routable_count"]) == (4, 4, 4)
    assert [e["name"] for e in document["endpoints"]] == ["a", "dead", "b", "o"]
    for entry in document["endpoints"]:
        sums = load.endpoints[entry["name"]]
        assert entry["request_count"] == sums.requests
        assert entry["success_rate"] == "N/A" if not sums.requests else percent_is(entry["success_rate"], sums.served, sums.requests), entry
        assert ("avg_latency_ms" in entry) == bool(sums.latencies) and entry["active_connections"] == 0


def check_models(load):
    document = page(load.proxy, MODELS + "?include_endpoints=true&include_summary=true")
    entries = by_name(document["models"])
    assert set(entries) == set(load.models)
    assert [m["name"] for m in document["models"]] == sorted(load.models, key=lambda name: (-load.models[name].requests, name))
    for name, sums in load.models.items():
        entry = entries[name]
        assert (entry["total_requests"], entry["successful_requests"], entry["failed_requests"]) == (sums.requests, sums.served, sums.failed), name
        assert percent_is(entry["success_rate"], sums.served, sums.requests) and entry["total_traffic"] == bytes_text(sums.bytes)
        assert entry["average_latency"] == latency_text(sum(sums.latencies) // len(sums.latencies) if sums.latencies else 0), name
        assert entry["unique_clients"] == 1 and entry["routing_hits"] == sums.requests
        assert (entry["routing_misses"], entry["routing_fallbacks"]) == (load.misses[name], 0), name
        sums_fit(sums, entry, name)
    summary, alls = document["summary"], load.models.values()
    requests, failed = sum(s.requests for s in alls), sum(s.failed for s in alls)
    assert summary["total_models"] == summary["active_models"] == len(load.models)
    assert summary["total_requests"] == requests and percent_is(summary["overall_success_rate"], requests - failed, requests)
    assert summary["total_traffic"] == bytes_text(sum(s.bytes for s in alls))
    names = [m["name"] for m in document["models"]] or [""]
    assert (summary["most_popular_model"], summary["least_popular_model"]) == (names[0], names[-1])


def check_translators(load):
    document, t = page(load.proxy, TRANSLATORS), load.translator
    if not t["total_requests"]:
        assert document["translators"] == [] and document["summary"]["total_translators"] == 0
        return
    entry, = document["translators"]
    assert {key: entry[key] for key in t} == dict(t)
    assert percent_is(entry["success_rate"], t["successful_requests"], t["total_requests"])
    assert percent_is(entry["passthrough_rate"], t["passthrough_requests"], t["total_requests"])
    assert document["summary"]["total_requests"] == t["total_requests"]


def check_metrics(load):
    document = metrics(load.proxy)
    value, sums = document.get, load.all
    assert (value("olla_requests_total"), value("olla_failures_total")) == (sums.requests, sums.failed)
    assert value("olla_total_traffic_bytes") == sums.bytes and value("olla_active_connections") == 1
    assert (value("olla_input_tokens_total"), value("olla_output_tokens_total"), value("olla_estimated_requests_total")) == (
        sums.input, sums.output, sums.estimated)
    rate = 100 * sums.served / sums.requests if sums.requests else 0
    assert abs(value("olla_success_rate_percent") - rate) <= 0.05
    assert value("olla_avg_latency_ms") == (sum(sums.latencies) // len(sums.latencies) if sums.latencies else 0)
    assert value("olla_security_size_limit_violations_total") == value("olla_security_violations_total") == load.size_limits
    assert (value("olla_endpoints_total"), value("olla_endpoints_healthy")) == (4, 4)
    assert value("olla_messages_passed_through_total") == load.translator["passthrough_requests"]
    assert value("olla_messages_translated_total") == load.translator["translation_requests"]
    for name, sums in load.endpoints.items():
        def of(what, **more):
            return value("olla_endpoint_" + what, endpoint=name, **more)
        assert of("up", status="healthy") == 1
        assert (of("requests_total"), of("failures_total"), of("traffic_bytes")) == (sums.requests, sums.failed, sums.bytes), name
        assert (of("input_tokens_total"), of("output_tokens_total")) == (sums.input, sums.output), name
        assert abs(of("success_rate_percent") - (100 * sums.served / sums.requests if sums.requests else 0)) <= 0.05
        assert of("first_byte_seconds_count") == sums.began and of("duration_seconds_count") == sums.served, name
        assert of("duration_seconds_sum") == round(sum(sums.latencies) / 1000, 3), name
        assert of("avg_latency_ms") == (sum(sums.latencies) // len(sums.latencies) if sums.latencies else 0), name
        assert of("connections") == of("serving") == of("breaker_open") == 0
        for bound in (0.008, 0.512, 1.024, float("inf")):
            counted = [v for n, l, v in document.families["olla_endpoint_duration_seconds"].samples
                       if n.endswith("_bucket") and l["endpoint"] == name and float(l["le"]) == bound]
            assert counted == [sum(ms <= bound * 1000 for ms in sums.latencies)], (name, bound)
    assert document.labelled("olla_endpoint_priority", "endpoint") == {"a": 100, "dead": 70, "b": 50, "o": 1}
    assert document.labelled("olla_endpoint_models_count", "endpoint") == {"a": 2, "dead": 2, "b": 3, "o": 1}
    alls = load.models.values()
    assert value("olla_models_total") == value("olla_models_active") == len(load.models)
    assert value("olla_models_requests_total") == sum(s.requests for s in alls)
    assert value("olla_models_traffic_bytes") == sum(s.bytes for s in alls)
    assert document.values("model") == set(load.models)
    for name, sums in load.models.items():
        def of(what):
            return value("olla_model_" + what, model=name)
        assert (of("requests_total"), of("successful_requests_total"), of("failed_requests_total"), of("traffic_bytes")) == (
            sums.requests, sums.served, sums.failed, sums.bytes), name
        assert (of("input_tokens_total"), of("output_tokens_total")) == (sums.input, sums.output), name
        assert (of("routing_hits_total"), of("routing_misses_total"), of("routing_fallbacks_total"), of("unique_clients")) == (
            sums.requests, load.misses[name], 0, 1), name
        assert of("p95_latency_ms") <= of("p99_latency_ms") <= max(sums.latencies, default=0)
    assert document.values("key") == set(load.keys)
    for name, sums in load.keys.items():
        def of(what):
            return value("olla_key_" + what, key=name)
        assert (of("requests_total"), of("failures_total"), of("input_tokens_total"), of("output_tokens_total"), of("tokens_today")) == (
            sums.requests, sums.failed, sums.input, sums.output, sums.input + sums.output), name


def check(load):
    for one in (check_status, check_endpoints, check_models, check_translators, check_metrics):
        one(load)


# ---- the script; each step does one thing, and then everything is looked at

def body(model, text="hi", **more):
    return dict({"model": model, "messages": [{"role": "user", "content": text}]}, **more)


def nothing(load):
    pass


def plain(load):
    load.a.on(CHAT, says({"model": "m-a", "choices": [], "usage": USAGE}))
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("M-A"), bearer(ALICE), ident=ident)
    assert reply.status == 200
    load.book(ident, "a", "m-a", size=len(reply.body), tokens=(21, 8))


def alias_stream(load):
    load.b.on(CHAT, streams([event({"choices": []}), event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n"]))
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("nick", stream=True), bearer(BOB), ident=ident)
    assert reply.status == 200 and reply.complete
    load.book(ident, "b", "m-b", key="bob", size=len(reply.body), tokens=(21, 8))


def relayed_500(load):
    load.a.on(CHAT, says({"error": {"message": "out of memory"}}, 500))
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("m-a"), bearer(ALICE), ident=ident)
    assert reply.status == 500
    load.book(ident, "a", "m-a", failed=True, size=len(reply.body), error=True)


def relayed_400(load):
    load.a.on(CHAT, says({"error": {"message": "too long"}}, 400))
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("m-a"), bearer(ALICE), ident=ident)
    assert reply.status == 400
    load.book(ident, "a", "m-a", size=len(reply.body))


def refused_then_served(load):
    load.b.on(CHAT, says({"choices": [], "usage": USAGE}))
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("m-f"), bearer(CAROL), ident=ident)
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "b"
    load.book(ident, "b", "m-f", key="carol", size=len(reply.body), tokens=(21, 8), lost=["dead"])


def too_often(load):
    """Carol has had her one request of this minute."""
    reply = ask(load.proxy, CHAT, body("m-b"), bearer(CAROL))
    assert reply.status == 429


def busy_then_served(load):
    load.a.on(CHAT, says({"error": "loading"}, 503))
    load.b.on(CHAT, says({"choices": [], "usage": USAGE}))
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("m-all"), bearer(ALICE), ident=ident)
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "b"
    load.book(ident, "b", "m-all", size=len(reply.body), tokens=(21, 8), lost=["a"])


def all_dead(load):
    """What olla says then is no traffic of the endpoint."""
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("m-d"), bearer(ALICE), ident=ident)
    assert reply.status == 502 and reply.body
    access = load.proxy.access(ident)
    assert access["bytes_out"] == len(reply.body)
    for sums in (load.all, load.endpoints["dead"], load.models["m-d"], load.keys["alice"]):
        sums.requests += 1
        sums.failed += 1
    load.errors += 1


def unknown_model(load):
    assert ask(load.proxy, CHAT, body("m-nowhere"), bearer(ALICE)).status == 404


def forbidden_model(load):
    """That is no question of routing either."""
    assert ask(load.proxy, CHAT, body("m-a"), bearer(BOB)).status == 403


def no_key(load):
    assert ask(load.proxy, CHAT, body("m-a"), bearer("sk-wrong")).status == 401


def too_large(load):
    assert ask(load.proxy, CHAT, body("m-a", "x" * 70000), bearer(ALICE)).status == 413
    load.size_limits += 1


def lists_and_stubs(load):
    assert load.proxy.get("/v1/models", bearer(ALICE)).status == 200
    assert load.proxy.get("/api/tags", bearer(ALICE)).status == 200
    assert load.proxy.get("/nowhere", bearer(ALICE)).status == 404
    assert load.proxy.request("POST", "/api/pull", dump({"model": "m-o:7b"}), json_headers(bearer(ALICE))).status == 501
    load.errors += 1


def client_left(load, path, model, at, first, wanted, key="alice"):
    """The client goes away after so many bytes of the body."""
    gate, ident = Gate(), new_id()

    def handler(conn, request):
        conn.start_chunked("text/event-stream")
        for piece in first:
            conn.chunk(piece)
        conn.wait_close()
        gate.open()
    {"a": load.a, "b": load.b}[at].on(path, handler)
    client = load.world.client(load.proxy)
    client.send(request_bytes("POST", path, json_headers(bearer(ALICE if key == "alice" else BOB) + [("X-Request-ID", ident)]),
                              dump(body(model, stream=True))))
    reply = client.read_head("POST")
    if wanted:
        reply.read_at_least(wanted)
    client.reset()
    gate.wait()
    return ident


def left_in_stream(load):
    first = [event({"choices": [{"delta": {"content": word}}]}) for word in ("a", "b", "c")]
    size = sum(map(len, first))
    ident = client_left(load, CHAT, "m-a", "a", first, size)
    access = load.proxy.access(ident)
    assert access["end"][0] == "C" and access["tokens"] == "estimated" and access["output_tokens"] == 3, access
    load.book(ident, "a", "m-a", size=size, tokens=(access.get("input_tokens"), 3), estimated=True)


def left_before_the_head(load):
    gate, ident = Gate(), new_id()

    def handler(conn, request):
        gate.open()
        hold(conn, request)
    load.a.on(CHAT, handler)
    client = load.world.client(load.proxy)
    client.send(request_bytes("POST", CHAT, json_headers(bearer(ALICE) + [("X-Request-ID", ident)]), dump(body("m-a"))))
    gate.wait()
    client.reset()
    access = load.book(ident, "a", "m-a", began=False)
    assert access["end"][0] == "C" and access["status"] == 499, access


def left_in_an_error(load):
    """The server's 500 is the server's, even if nobody read it to its end."""
    gate, ident = Gate(), new_id()

    def handler(conn, request):
        conn.start_chunked("application/json", 500)
        conn.chunk(b'{"error":')
        conn.wait_close()
        gate.open()
    load.a.on(CHAT, handler)
    client = load.world.client(load.proxy)
    client.send(request_bytes("POST", CHAT, json_headers(bearer(ALICE) + [("X-Request-ID", ident)]), dump(body("m-a"))))
    client.read_head("POST").read_at_least(9)
    client.reset()
    gate.wait()
    load.book(ident, "a", "m-a", failed=True, size=9, error=True)


def broken_stream(load):
    first = event({"choices": [{"delta": {"content": "a"}}]})
    load.b.on(CHAT, streams([first, event({"usage": USAGE})], end=lambda conn: conn.rst()))
    ident = new_id()
    reply = ask(load.proxy, CHAT, body("m-b", stream=True), bearer(BOB), ident=ident)
    assert not reply.complete and reply.body.startswith(first)
    access = load.proxy.access(ident)
    assert access["end"] == "SD"
    told = access.get("input_tokens", 0), access.get("output_tokens", 0)
    load.book(ident, "b", "m-b", key="bob", failed=True, size=access["bytes_out"], tokens=told, estimated="tokens" in access, error=True)


def ollama_stream(load):
    load.o.on("/api/chat", streams([line({"model": "m-o:7b", "message": {"content": "hi"}, "done": False}), line(
        {"model": "m-o:7b", "done": True, "prompt_eval_count": 26, "eval_count": 12, "eval_duration": 500000000})], "application/x-ndjson"))
    ident = new_id()
    reply = ask(load.proxy, "/api/chat", body("m-o:7b"), bearer(ALICE), ident=ident)
    assert reply.status == 200
    load.book(ident, "o", "m-o:7b", size=len(reply.body), tokens=(26, 12))


def message_passed(load):
    whole = dict(NATIVE_REPLY, usage={"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 7})
    load.a.on("/v1/messages", says(whole))
    ident = new_id()
    reply = ask(load.proxy, "/v1/messages", message_body(model="m-a"), bearer(ALICE), ident=ident)
    assert reply.status == 200 and reply.json() == whole
    load.book(ident, "a", "m-a", size=len(reply.body), tokens=(12, 3))
    load.translated(True)


NATIVE_REPLY = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-a", "content": [], "stop_reason": "end_turn"}


def message_told(load):
    """Bytes are those that the client gets, tokens those that the server tells."""
    load.b.on(CHAT, streams([event({"choices": [{"index": 0, "delta": {"content": "hi"}}]}),
                             event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
                             event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n"]))
    ident = new_id()
    reply = ask(load.proxy, "/olla/anthropic/v1/messages", message_body(model="nick", stream=True), bearer(BOB), ident=ident)
    assert reply.status == 200 and reply.complete
    load.book(ident, "b", "m-b", key="bob", size=len(reply.body), tokens=(21, 8))
    load.translated(False, stream=True)


def message_refused(load):
    assert ask(load.proxy, "/v1/messages", message_body(model="m-nowhere"), bearer(ALICE)).status == 404
    load.translated(False, failed=True, nowhere=True)


def message_counted(load):
    """No endpoint is asked, nothing was missed."""
    counted = message_body(model="m-b", max_tokens=...)
    reply = ask(load.proxy, "/v1/messages/count_tokens", counted, bearer(BOB))
    assert reply.status == 200 and reply.json()["input_tokens"] > 0


STEPS = [nothing, plain, alias_stream, relayed_500, relayed_400, refused_then_served, too_often, busy_then_served, all_dead, unknown_model,
         forbidden_model, no_key, too_large, lists_and_stubs, left_in_stream, left_before_the_head, left_in_an_error, broken_stream,
         ollama_stream, message_passed, message_told, message_refused, message_counted]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_step(settled, step):
    step(settled)
    check(settled)
