"""/internal/metrics: the names and types of the reference and the further ones, the text format, and large documents."""

import json
import re
import shutil
import subprocess

import pytest

from backend import eventually
from client import request_bytes
from faults import Lan
from harness import World, endpoint, rarely_probed, report
from observe import CHAT, METRICS, MODELS, PAGES, STATUS, Document, ask, metrics, page, says
from servers import Compatible, Ollama

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
# What the reference has (its per-endpoint model metrics never get a sample, so they are left out here).
REFERENCE = dict(
    {name: GAUGE for name in (
        "olla_info", "olla_system_status", "olla_endpoints_total", "olla_endpoints_healthy", "olla_success_rate_percent", "olla_avg_latency_ms",
        "olla_total_traffic_bytes", "olla_uptime_seconds", "olla_active_connections", "olla_security_blocked_ips", "olla_security_status",
        "olla_endpoint_up", "olla_endpoint_connections", "olla_endpoint_success_rate_percent", "olla_endpoint_avg_latency_ms",
        "olla_endpoint_priority", "olla_endpoint_models_count", "olla_models_total", "olla_models_active", "olla_models_success_rate_percent",
        "olla_model_success_rate_percent", "olla_model_avg_latency_ms", "olla_model_p95_latency_ms", "olla_model_p99_latency_ms",
        "olla_model_unique_clients")},
    **{name: COUNTER for name in (
        "olla_security_violations_total", "olla_requests_total", "olla_failures_total", "olla_security_rate_limit_violations_total",
        "olla_security_size_limit_violations_total", "olla_endpoint_requests_total", "olla_endpoint_traffic_bytes",
        "olla_models_requests_total", "olla_models_traffic_bytes", "olla_model_requests_total", "olla_model_successful_requests_total",
        "olla_model_failed_requests_total", "olla_model_traffic_bytes", "olla_model_routing_hits_total", "olla_model_routing_misses_total",
        "olla_model_routing_fallbacks_total")})
FURTHER = {
    "olla_endpoint_first_byte_seconds": HISTOGRAM, "olla_endpoint_duration_seconds": HISTOGRAM, "olla_queue_waiting": GAUGE,
    "olla_queue_served_total": COUNTER, "olla_queue_timeouts_total": COUNTER, "olla_queue_refused_total": COUNTER,
    "olla_endpoint_breaker_open": GAUGE, "olla_input_tokens_total": COUNTER, "olla_output_tokens_total": COUNTER,
    "olla_endpoint_input_tokens_total": COUNTER, "olla_endpoint_output_tokens_total": COUNTER, "olla_model_input_tokens_total": COUNTER,
    "olla_model_output_tokens_total": COUNTER, "olla_key_input_tokens_total": COUNTER, "olla_key_output_tokens_total": COUNTER,
    "olla_endpoint_tokens_per_second": GAUGE, "olla_pool_used": GAUGE, "olla_pool_max_used": GAUGE, "olla_pool_size": GAUGE,
    "olla_pool_empty_total": COUNTER}
LABELS = {"olla_info": {"version", "commit", "engine", "profile", "balancer"}, "olla_endpoint_up": {"endpoint", "status"}}


def labels_of(name):
    if name in LABELS:
        return LABELS[name]
    match = re.match(r"olla_(endpoint|model|key|pool)_", name)
    return {match.group(1)} if match else set()


def test_names_and_types(world):
    server = world.backend(Compatible, "s", ["m1"])
    proxy = world.olla({"s": rarely_probed(server)}, {"key:k.secret": "sk-k-1234"})
    for asked in (False, True):
        document = metrics(proxy)
        for name, kind in dict(REFERENCE, **FURTHER).items():
            assert name in document.families and document.families[name].type == kind, name
        for name, family in document.families.items():
            assert family.samples or (name.startswith("olla_model_") and not asked), "%s has no sample" % name
            for _, labels, _ in family.samples:
                assert set(labels) - {"le"} == labels_of(name), (name, labels)
        assert ask(proxy, CHAT, {"model": "m1"}, [("Authorization", "Bearer sk-k-1234")]).status == 200
    status = page(proxy, STATUS)
    assert document.get("olla_info", version=status["system"]["version"], commit=status["system"]["commit"], **status["proxy"]) == 1
    assert (document.get("olla_system_status"), document.get("olla_security_status")) == (2, 1)
    assert set(document.values("pool")) == {p["name"] for p in status["pools"]}
    for pool in status["pools"]:
        assert document.get("olla_pool_size", pool=pool["name"]) == pool["count"]


def test_names_are_counted_as_prometheus_does():
    """The reader itself: what it must not take."""
    good = b"# HELP a x\n# TYPE a counter\na{l=\"1\"} 1\na{l=\"2\"} 1.5\n"
    assert Document(good).labelled("a", "l") == {"1": 1, "2": 1.5}
    for bad in (good[:-1], good.replace(b'"2"', b'"1"'), good.replace(b"1.5", b"1.50"), good.replace(b"1.5", b"1e3"), good + b"\n", good + good,
                good.replace(b"HELP", b"TEST"), good.replace(b'"2"', b'"\xff"'), good.replace(b'"2"', b'"\\q"'), b"a 1\n" + good,
                good.replace(b"# TYPE a counter\n", b""), good + b"b 1\n", good + b"# HELP b x\n"):
        with pytest.raises((AssertionError, UnicodeDecodeError)):
            Document(bad)
    h = b'# HELP h x\n# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{le="+Inf"} 3\nh_sum 4\nh_count 3\n'
    Document(h)
    for bad in (h.replace(b'"1"} 2', b'"1"} 4'), h.replace(b"count 3", b"count 2"), h.replace(b'h_bucket{le="+Inf"} 3\n', b""), h.replace(b"h_sum 4\n", b"")):
        with pytest.raises(AssertionError):
            Document(bad)


def test_states(world):
    """The figures of an endpoint that is away, one whose breaker is open, and one that is switched off."""
    up, away, off = (world.backend(Compatible, name, ["m1"]) for name in ("up", "away", "off"))
    away.stop()
    spec = {"up": rarely_probed(up, priority=1000000), "away": rarely_probed(away, priority=0), "off": rarely_probed(off, enabled=False)}
    proxy = world.olla(spec, {"proxy.breaker.open_time": "1m"}, ready=["up"])
    proxy.wait_state("away", "offline")
    up.on(CHAT, says(b"{}", 500))
    for _ in range(3):
        assert ask(proxy, CHAT, {"model": "m1"}).status == 500
    document = metrics(proxy)
    states = {labels["endpoint"]: (labels["status"], value) for _, labels, value in document.families["olla_endpoint_up"].samples}
    assert states == {"up": ("healthy", 1), "away": ("offline", 0), "off": ("disabled", 0)}
    assert document.labelled("olla_endpoint_breaker_open", "endpoint") == {"up": 1, "away": 0, "off": 0}
    assert document.labelled("olla_endpoint_priority", "endpoint") == {"up": 1000000, "away": 0, "off": 100}
    assert document.get("olla_system_status") == 0 and document.get("olla_success_rate_percent") == 0
    assert (document.get("olla_endpoints_total"), document.get("olla_endpoints_healthy")) == (3, 1)


@pytest.fixture(scope="module")
def crowd(kept):
    return kept(Crowd)


class Crowd:
    """As many endpoints, models and keys as there can be, with names as long as they can be and full of letters to escape."""

    ENDPOINTS, MODELS, KEYS = 32, 64, 32

    def __init__(self):
        self.world = World()
        self.server = self.world.backend(Ollama, "s", ["%03d%s" % (n, "<" * 124) for n in range(self.MODELS)])
        self.server.loaded = self.server.models[:12]
        self.server.on(CHAT, says({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}))
        names = ["%02d%s" % (n, "<\"\\" * 20) for n in range(self.ENDPOINTS)]
        spec = {name: endpoint(self.server, check_interval="60s") for name in names}
        settings = {"proxy.load_balancer": "round-robin", "proxy.sticky_sessions.enabled": False}
        for n in range(self.KEYS):
            settings["key:k%02d%s.secret" % (n, "x" * 27)] = "sk-number-%02d" % n
        self.names = names
        self.proxy = self.world.olla(spec, settings, ready={name: self.MODELS for name in names})
        for model in self.server.models:
            self.ask(model)

    def ask(self, model, times=1):
        with self.proxy.client() as client:
            for _ in range(times):
                assert ask(self.proxy, CHAT, {"model": model}, [("Authorization", "Bearer sk-number-01")], client).status == 200

    @property
    def proxies(self):
        return self.world.proxies


def check_whole(crowd, path, body):
    if path == METRICS:
        assert len(Document(body).values("model")) == crowd.MODELS
        return
    document = json.loads(body.decode("utf-8"))
    if path == STATUS:
        assert len(document["endpoints"]) == crowd.ENDPOINTS and len(document["keys"]) == crowd.KEYS and document["pools"]
    if path == MODELS:
        assert len({m["name"] for m in document["models"]}) == len(document["models"]) == crowd.MODELS


def test_large_documents(crowd):
    """They come in pieces, and are whole."""
    document = metrics(crowd.proxy)
    assert document.values("endpoint") == set(crowd.names) and document.values("model") == {m.lower() for m in crowd.server.models}
    assert len(document.values("key")) == crowd.KEYS
    for family in document.families.values():
        if family.name.startswith("olla_endpoint_") and family.type != "histogram":
            assert len(family.samples) == crowd.ENDPOINTS, family.name
        elif family.name.startswith("olla_model_"):
            assert len(family.samples) == crowd.MODELS, family.name
    assert sum(document.labelled("olla_endpoint_requests_total", "endpoint").values()) == document.get("olla_requests_total") == \
        sum(document.labelled("olla_model_requests_total", "model").values())
    for name in PAGES:
        page(crowd.proxy, name)


@pytest.fixture(scope="module")
def narrow():
    """A network whose connections hold next to nothing: a page is written into what little room there is."""
    lan = Lan(1)
    try:
        if not lan.problem:
            try:
                with lan.inside(0), open("/proc/sys/net/ipv4/tcp_wmem", "w") as file:
                    file.write("4096 4096 4096")
            except OSError as error:
                lan.problem = "the size of buffers cannot be set: %s" % error
        yield lan
    finally:
        lan.close()


@pytest.fixture(scope="module")
def cramped(narrow, binary):
    """Such a crowd in such a network; a test goes inside."""
    if narrow.problem:
        pytest.skip(narrow.problem)
    with narrow.inside(0):
        crowd = Crowd()
    yield crowd
    with narrow.inside(0):
        problems = crowd.world.close()
    report(problems)


def slowly(crowd, path, meanwhile=None):
    """Three pages in a row as a client gets them that reads a little at a time; `meanwhile` runs with parts of the first one read."""
    with crowd.proxy.client(rcvbuf=2048) as client:
        client.send(request_bytes("GET", path) * 3)
        for n in range(3):
            reply, parts = client.read_head(), 0
            while not reply.complete:
                reply.read_piece()
                parts += 1
                if meanwhile and n == 0 and parts % 3 == 0:
                    meanwhile()
            yield reply.body


def test_slow_readers(narrow, cramped):
    """Where room for a piece is short, nothing is left out."""
    with narrow.inside(0):
        eventually(lambda: all(len(e["loaded_models"]) for e in page(cramped.proxy, STATUS)["endpoints"]), "what is loaded is known", 5, 0.1)
        for path in PAGES + (METRICS,):
            for body in slowly(cramped, path):
                check_whole(cramped, path, body)


@pytest.mark.parametrize("path", [METRICS, MODELS])
def test_order_changes_meanwhile(narrow, cramped, path):
    """While a document is on its way, the last become the first: each is in it once."""
    with narrow.inside(0):
        names = [m["name"] for m in page(cramped.proxy, MODELS)["models"]]
        turns = []

        def overtake():
            if len(turns) < 20:
                turns.append(names[-1 - len(turns)])
                cramped.ask(turns[-1], len(turns) + 1)
        bodies = list(slowly(cramped, path, overtake))
        assert len(turns) > 2
        for body in bodies:
            if path == MODELS:
                models = [m["name"] for m in json.loads(body.decode("utf-8"))["models"]]
                assert len(models) == len(set(models)) == cramped.MODELS
                continue
            for family in Document(body).families.values():
                if family.name.startswith("olla_model_"):
                    assert len(family.samples) == cramped.MODELS, family.name


# ---- promtool

@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here")
def test_promtool(world):
    """`promtool check metrics` takes it. What it has to say of style may be about names that the reference has chosen only."""
    server = world.backend(Compatible, "s", ["m1", "<m\"\\>"])
    proxy = world.olla({"s \"\\": rarely_probed(server)}, {"key:k.secret": "sk-k-1234"}, ready=None)
    proxy.wait_state("s \"\\", "healthy")
    for model in ("m1", "<m\"\\>"):
        assert ask(proxy, CHAT, {"model": model}, [("Authorization", "Bearer sk-k-1234")]).status == 200
    done = subprocess.run(["promtool", "check", "metrics"], input=proxy.get(METRICS).body, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    said = done.stdout.decode("utf-8", "replace").splitlines()
    assert done.returncode in (0, 3), said
    assert not [text for text in said if text and text.split(" ")[0] not in REFERENCE], said
