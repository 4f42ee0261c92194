"""[profile:NAME]: a backend type of one's own, or another idea of a built-in one, without writing code."""

import re
import time

import pytest

from backend import MARK, eventually
from client import dump, full_body, json_headers
from harness import World, endpoint, report, run_cli
from messages import ROOT, completion, message, posts
from servers import Compatible, Lemonade, Litellm, Llamacpp, LmStudio, Ollama, Server, Vllm

CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
LISTS = {"discovery.model_discovery.interval": "1s"}
PROBED = {MARK: "1"}


def profile(name, **keys):
    """The settings of one [profile:NAME] section."""
    return {"profile:%s.%s" % (name, key): value for key, value in keys.items()}


def names(proxy, path="/v1/models"):
    reply = proxy.get(path)
    assert reply.status == 200, (path, reply.body)
    document = reply.json()
    return [e["name"] for e in document["models"]] if "data" not in document else [e["id"] for e in document["data"]]


def complete(conn, request):
    """A chat completion that also tells the path."""
    conn.reply(dict(completion(), served_by=conn.backend.name, path=request.path))


class Moved(Server):
    """A server that keeps everything at places of its own. Its list has the form that `form` says."""

    forms = {"openai": Compatible, "ollama": Ollama, "lm-studio": LmStudio, "llamacpp": Llamacpp, "lemonade": Lemonade}
    methods = {"openai": "openai_list", "ollama": "tags", "lm-studio": "native_list", "llamacpp": "both", "lemonade": "openai_list"}
    form = "openai"

    def setup(self):
        self.routes = {}
        self.on("/is/up", lambda c, r: c.reply(b"yes", ctype="text/plain"))
        self.on("/what/is/there", lambda c, r: c.reply(self.document()))
        for path in ("/completions", "/embeddings", "/messages"):
            self.on("/deep/api/v1" + path, self.answer)
        self.on("/deep/api" + CHAT, complete)
        self.on("/anthropic-api/v1/messages", self.answer)

    def document(self):
        kind = self.forms[self.form]
        helper = kind.__new__(kind)  # only its words are wanted, not another server
        helper.models, helper.facts, helper.name = self.models, self.facts, self.name
        return getattr(helper, self.methods[self.form])()


EXTRA = {"/api/version", "/api/ps", "/props"}  # questions that go with the form of a list
KEYS = {"health_check_path": "/is/up", "model_discovery_path": "/what/is/there", "openai_base": "/deep/api"}
FORMS = list(Moved.forms)


class Fleet:
    """One server per form behind a profile of its own (form-FORM), one with everything left out, and one that is not compatible."""

    def __init__(self):
        self.world = World()
        self.servers, self.settings = {}, {"proxy.sticky_sessions.enabled": False}
        for form in FORMS:
            server = self.servers[form] = self.world.backend(Moved, form, ["m-" + form, "Shared"])
            server.form, server.type = form, "form-" + form
            self.settings.update(profile("form-" + form, response_format=form, prefixes="%s-1, %s-two" % (form, form), **KEYS))
        self.settings.update(profile("form-openai", messages_path="/anthropic-api/v1/messages"))
        self.servers["bare"] = self.world.backend(Compatible, "bare", ["m-bare"]).on(CHAT, complete)
        self.settings.update(profile("Nothing-Said", prefixes="Nothing-Said"))
        self.servers["own"] = self.world.backend(Moved, "own", ["m-own"])
        self.settings.update(profile("own-api", openai_compatible=False, **KEYS))
        self.servers["vllm"] = self.world.backend(Vllm, "vllm", ["m-vllm"])
        self.servers["bare"].type, self.servers["own"].type = "nothing-said", "own-api"
        self.spec = {name: endpoint(server) for name, server in self.servers.items()}
        self.proxy = self.world.olla(self.spec, self.settings, ready={name: len(s.models) for name, s in self.servers.items()})

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def site(kept):
    site = kept(Fleet)
    yield site
    report(site.proxy.idle_problems() + site.world.script_failures())


# ---- end to end

@pytest.mark.parametrize("form", FORMS)
def test_paths_and_form(site, form):
    """Probed where the profile says and nowhere else, the list read in its form."""
    server = site.servers[form]
    paths = {r.path for r in server.requests if not r.has(MARK) and r.method in ("GET", "HEAD")}
    assert paths - (EXTRA if form in ("ollama", "llamacpp") else set()) == {"/is/up", "/what/is/there"}
    entry = site.proxy.endpoint(form)
    assert (entry["type"], entry["status"], entry["models"]["count"]) == ("form-" + form, "healthy", 2)
    olla = next(e["olla"] for e in site.proxy.get("/olla/models").json()["data"] if e["id"] == "m-" + form)
    wanted = {"ollama": ("3.2b", "q4km"), "lm-studio": ("", "q4km")}.get(form)
    if wanted:
        assert (olla["parameter_size"], olla["quantization"]) == wanted
    if form == "lm-studio":
        assert olla["max_context_length"] == 32768 and olla["availability"] == [{"endpoint": form, "state": "not-loaded"}]
    if form == "lemonade":
        assert olla["availability"] == [{"endpoint": form, "state": "available"}]


@pytest.mark.parametrize("form", FORMS)
def test_routes_of_a_profile(site, form):
    """Its prefixes lead to its servers and to no other; /v1/ is moved to where they keep it."""
    for base in ("", "/olla/proxy", "/olla/openai", "/olla/%s-1" % form, "/olla/%s-two" % form):
        for call in ("/chat/completions", "/completions", "/embeddings"):
            reply = site.proxy.post(base + "/v1" + call + "?q=1", {"model": "m-" + form})
            assert reply.status == 200, (base, reply.body)
            assert reply.json()["path"] == "/deep/api/v1" + call
            assert (reply.get("X-Olla-Endpoint"), reply.get("X-Olla-Backend-Type")) == (form, "form-" + form)
    for prefix in (form + "-1", form + "-two"):
        seen = {site.proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "shared"}).get("X-Olla-Endpoint") for _ in range(6)}
        assert seen == {form}
        assert site.proxy.post("/olla/%s/deep/api%s" % (prefix, CHAT), {"model": "m-" + form}).json()["path"] == "/deep/api" + CHAT
        reply = site.proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "m-vllm"})
        assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (503, "model_unavailable")
        assert sorted(names(site.proxy, "/olla/%s/v1/models" % prefix)) == ["Shared", "m-" + form]
        reply = site.proxy.get("/olla/" + prefix)
        assert (reply.status, reply.get("Location")) == (301, "/olla/%s/" % prefix)
        assert site.proxy.get("/olla/%s/no/such/path" % prefix, PROBED).get("X-Olla-Endpoint") == form
    reply = site.proxy.post("/olla/form-%s%s" % (form, CHAT), {"model": "m-" + form})
    assert (reply.status, reply.body) == (404, b"404 page not found\n"), "with prefixes of its own the name is none"


def test_own_list_path_is_answered_here(site):
    """The path where a server keeps its list is answered with the list of all servers of the type, as for built-in types."""
    site.servers["openai"].forget()
    for prefix in ("openai-1", "openai-two"):
        reply = site.proxy.get("/olla/%s/what/is/there" % prefix, PROBED)
        assert reply.status == 200 and {e["id"] for e in reply.json()["data"]} == {"m-openai", "Shared"}
        assert not reply.has("X-Olla-Endpoint")
    assert not [r for r in site.servers["openai"].requests if r.has(MARK)]


def test_defaults(site):
    """A section with a name and nothing else is an OpenAI-compatible server whose prefix is that name."""
    server = site.servers["bare"]
    assert {r.path for r in server.probes} == {"/v1/models"}
    for base in ("/olla/Nothing-Said", "/olla/proxy", ""):
        reply = site.proxy.post(base + CHAT, {"model": "m-bare"})
        assert reply.status == 200 and reply.json()["path"] == CHAT
        assert reply.get("X-Olla-Backend-Type") == "nothing-said", "as the endpoint spells it"
    assert names(site.proxy, "/olla/Nothing-Said/v1/models") == ["m-bare"]
    reply = site.proxy.post(ROOT, full_body(ROOT, {"model": "m-bare"}))
    assert message(reply, "m-bare") and reply.get("X-Olla-Mode") == "translation", "no Messages API unless its path is given"
    assert posts(server)[-1].path == CHAT and ROOT not in {call.path for call in server.requests}


def test_prefix_is_the_name(world):
    """Without `prefixes` the name is the one."""
    a = world.backend(Compatible, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, type="my.box-2")}, {"profile:my.box-2.idle_timeout": "4s"})
    assert proxy.post("/olla/my.box-2" + CHAT, {"model": "m1"}).status == 200
    assert proxy.post("/olla/my.box" + CHAT, {"model": "m1"}).status == 404


def test_not_openai_compatible(site):
    """Such a server is none of the /olla/openai/ pool, and in none of its lists; its own prefix is."""
    for prefix in ("openai", "openai-compatible"):
        assert "m-own" not in names(site.proxy, "/olla/%s/v1/models" % prefix)
        reply = site.proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "m-own"})
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (503, None)
    assert "m-own" in names(site.proxy, "/olla/models")
    reply = site.proxy.post("/olla/own-api/deep/api" + CHAT, {"model": "m-own"})
    assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, "own")
    assert names(site.proxy, "/olla/own-api/what/is/there") == ["m-own"]


def test_messages_path(site):
    """The Messages API is where the profile says, for those who have one; for the others it is translated, to where they have chats."""
    for base in ("", "/olla/proxy", "/olla/openai-1"):
        reply = site.proxy.post(base + ROOT, full_body(ROOT, {"model": "m-openai"}))
        assert reply.status == 200 and reply.json()["path"] == "/anthropic-api/v1/messages", (base, reply.body)
        assert reply.get("X-Olla-Mode") == "passthrough"
    seen = set()
    for _ in range(3 * len(FORMS)):
        reply = site.proxy.post(ROOT, full_body(ROOT, {"model": "Shared"}))
        form = reply.get("X-Olla-Endpoint")
        if form == "openai":
            assert (reply.json()["path"], reply.get("X-Olla-Mode")) == ("/anthropic-api/v1/messages", "passthrough")
        else:
            assert message(reply, "Shared") and reply.get("X-Olla-Mode") == "translation", form
            assert posts(site.servers[form])[-1].path == "/deep/api" + CHAT
        seen.add(form)
    assert seen == set(FORMS)
    for base in ("", "/olla/proxy", "/olla/openai"):
        reply = site.proxy.post(base + ROOT, full_body(ROOT, {"model": "m-own"}))
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (503, None), "neither this API nor the one to translate to"


def test_messages_path_without_the_translator(world):
    """Then it is for those who have one."""
    a, b = world.backend(Moved, "a", ["m-a", "Shared"]), world.backend(Moved, "b", ["m-b", "Shared"])
    settings = dict(profile("with", messages_path="/anthropic-api/v1/messages", **KEYS), **profile("without", **KEYS))
    proxy = world.olla({"a": endpoint(a, type="with"), "b": endpoint(b, type="without")},
                       dict(settings, **{"translators.anthropic.enabled": False, "proxy.sticky_sessions.enabled": False}), ready={"a": 2, "b": 2})
    for base in ("", "/olla/proxy", "/olla/with"):
        for body in ({"model": "m-a"}, full_body(ROOT, {"model": "m-a"})):  # it is not looked at
            reply = proxy.post(base + ROOT, body)
            assert reply.status == 200 and reply.json()["path"] == "/anthropic-api/v1/messages", (base, reply.body)
            assert not reply.has("X-Olla-Mode")
    assert {proxy.post(ROOT, full_body(ROOT, {"model": "Shared"})).get("X-Olla-Endpoint") for _ in range(10)} == {"a"}
    reply = proxy.post(ROOT, full_body(ROOT, {"model": "m-b"}))
    assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (404, "model_unavailable") and posts(b) == []


def test_listed_with_the_others(site):
    """In every list of all models."""
    everything = sorted(["m-" + form for form in FORMS] + ["Shared", "m-bare", "m-own", "m-vllm"], key=str.lower)
    assert names(site.proxy, "/olla/models") == everything
    assert set(everything) - {"m-own"} <= set(names(site.proxy))
    document = site.proxy.get("/internal/status/models").json()
    assert document["total_models"] == len(everything) and document["total_endpoints"] == len(site.servers)


def test_idle_timeout(world):
    """A connection that was idle for longer than the server keeps it must not be used again."""
    a, b = world.backend(Compatible, "a", ["m-a"]), world.backend(Compatible, "b", ["m-b"])
    proxy = world.olla({"a": endpoint(a, type="short", check_interval="120s"), "b": endpoint(b, type="long", check_interval="120s")},
                       dict(profile("short", idle_timeout="300ms"), **profile("long", idle_timeout="60s")))
    for _ in range(2):
        for server in (a, b):
            assert proxy.post(CHAT, {"model": "m-" + server.name}).status == 200
        time.sleep(0.7)
    assert a.calls[0].conn is not a.calls[1].conn
    assert b.calls[0].conn is b.calls[1].conn


def test_endpoint_settings_win(world):
    """health_check_url and model_url of one endpoint are nearer than its profile."""
    a = world.backend(Moved, "a", ["m1"])
    a.on("/other/up", a.routes["/is/up"])
    a.on("/other/list", a.routes["/what/is/there"])
    proxy = world.olla({"a": endpoint(a, type="mine", health_check_url="/other/up", model_url="/other/list")}, profile("mine", **KEYS))
    assert {r.path for r in a.requests} == {"/other/up", "/other/list"}
    assert proxy.post(CHAT, {"model": "m1"}).json()["path"] == "/deep/api" + CHAT


@pytest.mark.parametrize("spelled", ["My-Type", "my-type", "MY-TYPE"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_where_the_section_stands(tmp_path, binary, spelled, before):
    """In the file a profile may stand before or behind the endpoints that use it; a type is found in any case."""
    own, user = "[profile:my-type]\nhealth_check_path = /up\n", "[endpoint:a]\nurl = http://h:1\ntype = %s\n" % spelled
    path = tmp_path / "my.ini"
    path.write_text(own + user if before else user + own)
    code, _, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert (code, err.strip()) == (0, "")


# ---- built-in types

def test_changed_built_in(world):
    """Only what is said changes; all else stays as it was: list, form, prefixes, Messages API."""
    a, b = world.backend(Ollama, "a", ["m-a"]), world.backend(Vllm, "b", ["m-b"])
    a.on("/up", lambda c, r: c.reply(b"ok"))
    proxy = world.olla({"a": a, "b": b}, dict(profile("ollama", health_check_path="/up"), **profile("vllm", prefixes="vllm, gpu")))
    assert {r.path for r in a.probes} - EXTRA == {"/up", "/api/tags"} and {r.path for r in b.probes} - {"/metrics"} == {"/health", "/v1/models"}
    assert names(proxy, "/olla/ollama/api/tags") == ["m-a"] and proxy.post("/api/chat", {"model": "m-a"}).status == 200
    for model in ("m-a", "m-b"):
        reply = proxy.post(ROOT, full_body(ROOT, {"model": model}))
        assert reply.status == 200 and (reply.json()["path"], reply.get("X-Olla-Mode")) == (ROOT, "passthrough")
    for prefix in ("vllm", "gpu"):
        assert proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "m-b"}).status == 200
        assert names(proxy, "/olla/%s/v1/models" % prefix) == ["m-b"]
    assert proxy.get("/api/tags").json()["models"][0]["details"]["parameter_size"] == "3.2B"


def test_moved_prefix_of_a_built_in(world):
    """Other prefixes instead: the old one is free, also for somebody else."""
    a, b = world.backend(Vllm, "a", ["m-a"]), world.backend(Compatible, "b", ["m-b"])
    proxy = world.olla({"a": a, "b": endpoint(b, type="mine")}, dict(profile("vllm", prefixes="gpu"), **profile("mine", prefixes="vllm")))
    assert proxy.post("/olla/gpu" + CHAT, {"model": "m-a"}).get("X-Olla-Endpoint") == "a"
    assert proxy.post("/olla/vllm" + CHAT, {"model": "m-b"}).get("X-Olla-Endpoint") == "b"
    assert names(proxy, "/olla/vllm/v1/models") == ["m-b"] and names(proxy, "/olla/gpu/v1/models") == ["m-a"]


def test_built_in_with_everything_changed(world):
    """Every key of a built-in type; LiteLLM's health path among them, which then is the operator's own decision."""
    a = world.backend(Moved, "a", ["m1"])
    a.form = "ollama"
    everything = dict(KEYS, prefixes="lite", response_format="ollama", messages_path="/anthropic-api/v1/messages", openai_compatible=False,
                      idle_timeout="1s")
    proxy = world.olla({"a": endpoint(a, type="litellm")}, profile("litellm", **everything))
    assert {r.path for r in a.probes} - EXTRA == {"/is/up", "/what/is/there"}
    reply = proxy.post("/olla/lite" + ROOT, full_body(ROOT, {"model": "m1"}))
    assert (reply.json()["path"], reply.get("X-Olla-Mode")) == ("/anthropic-api/v1/messages", "passthrough")
    assert proxy.post("/olla/openai" + CHAT, {"model": "m1"}).status != 200
    assert proxy.post("/olla/litellm" + CHAT, {"model": "m1"}).body == b"404 page not found\n"
    assert not set(Litellm.public) & {r.path for r in a.probes}


# ---- reload

def test_reload_changes_a_profile(world):
    """Paths, prefixes and base of a profile in use: no restart, and the endpoint stays in service."""
    a = world.backend(Moved, "a", ["m1"])
    a.on("/new/up", a.routes["/is/up"])
    a.on("/new/list", lambda c, r: c.reply({"object": "list", "data": [{"id": "m1"}, {"id": "m2"}]}))
    a.on("/elsewhere" + CHAT, a.answer)
    spec = {"a": endpoint(a, type="mine", **FAST)}
    proxy = world.olla(spec, dict(LISTS, **profile("mine", **KEYS)))
    assert proxy.post("/olla/mine" + CHAT, {"model": "m1"}).json()["path"] == "/deep/api" + CHAT
    proxy.reload(spec, dict(LISTS, **profile("mine", prefixes="ours", health_check_path="/new/up", model_discovery_path="/new/list",
                                             openai_base="/elsewhere")))
    eventually(lambda: "m2" in names(proxy), "the new list is read", 6, 0.05)
    assert proxy.post("/olla/ours" + CHAT, {"model": "m2"}).json()["path"] == "/elsewhere" + CHAT
    reply = proxy.post("/olla/mine" + CHAT, {"model": "m1"})
    assert (reply.status, reply.body) == (404, b"404 page not found\n")
    a.forget()
    eventually(lambda: [r for r in a.probes if r.path == "/new/up"], "the new health path is asked", 5, 0.05)
    assert "/is/up" not in {r.path for r in a.probes}
    assert {e["to"] for e in proxy.find_logs("endpoint state", endpoint="a")} == {"healthy"}


def test_reload_adds_and_removes_a_profile(world):
    """A type that no longer exists is an error as long as somebody uses it; then its prefix is gone."""
    a, b = world.backend(Compatible, "a", ["m-a"]), world.backend(Vllm, "b", ["m-b"])
    proxy = world.olla({"b": b})
    proxy.allowed_errors = True
    assert proxy.post("/olla/mine" + CHAT, {"model": "m-a"}).status == 404
    both = {"a": endpoint(a, type="mine"), "b": endpoint(b)}
    proxy.reload(both, profile("mine", idle_timeout="2s"))
    eventually(lambda: proxy.post("/olla/mine" + CHAT, {"model": "m-a"}).status == 200, "the new type works", 6, 0.05)
    proxy.reload(both)
    eventually(lambda: [e for e in proxy.logs if e["msg"].startswith("reload refused")], "the reload is refused", 5, 0.02)
    assert proxy.post("/olla/mine" + CHAT, {"model": "m-a"}).status == 200
    proxy.reload({"b": b}, {"proxy.load_balancer": "round-robin"})
    eventually(lambda: proxy.status()["proxy"]["balancer"] == "round-robin", "reloaded", 5, 0.02)
    reply = proxy.post("/olla/mine" + CHAT, {"model": "m-a"})
    assert (reply.status, reply.body) == (404, b"404 page not found\n")
    assert names(proxy) == ["m-b"]


def test_reload_restores_a_built_in(world):
    """With the section taken out again a built-in type is what it was."""
    a = world.backend(Vllm, "a", ["m1"])
    a.on("/up", lambda c, r: c.reply(b"ok"))
    spec = {"a": endpoint(a, **FAST)}
    proxy = world.olla(spec, profile("vllm", prefixes="gpu", health_check_path="/up"))
    assert proxy.post("/olla/gpu" + CHAT, {"model": "m1"}).status == 200
    assert proxy.post("/olla/vllm" + CHAT, {"model": "m1"}).status == 404
    proxy.reload(spec)
    eventually(lambda: proxy.post("/olla/vllm" + CHAT, {"model": "m1"}).status == 200, "the old prefix is back", 6, 0.05)
    assert proxy.post("/olla/gpu" + CHAT, {"model": "m1"}).status == 404
    a.forget()
    eventually(lambda: [r for r in a.probes if r.path == "/health"], "the old health path is asked", 5, 0.05)


def test_bad_reload_changes_nothing(world):
    """With a mistake in a profile the old one stays in force."""
    a = world.backend(Moved, "a", ["m1"])
    spec = {"a": endpoint(a, type="mine")}
    proxy = world.olla(spec, profile("mine", **KEYS))
    proxy.allowed_errors = True
    proxy.reload(spec, profile("mine", prefixes="proxy, a/b", response_format="nonsense", health_check_path="up"))
    eventually(lambda: [e for e in proxy.logs if e["msg"].startswith("reload refused")], "the reload is refused", 5, 0.02)
    assert proxy.post("/olla/mine" + CHAT, {"model": "m1"}).json()["path"] == "/deep/api" + CHAT


def test_reload_while_a_request_runs(world):
    """The profile of a request that is on its way changes under it."""
    a = world.backend(Moved, "a", ["m1"])
    first = a.routes["/deep/api" + CHAT]
    spec = {"a": endpoint(a, type="mine")}
    proxy = world.olla(spec, profile("mine", **KEYS))

    def slow(conn, request):
        proxy.reload(spec, dict(profile("mine", prefixes="ours", **KEYS), **{"proxy.load_balancer": "round-robin"}))
        eventually(lambda: proxy.status()["proxy"]["balancer"] == "round-robin", "reloaded", 5, 0.02)
        first(conn, request)
    a.on("/deep/api" + CHAT, slow)
    reply = proxy.post("/olla/mine" + CHAT, {"model": "m1"})
    assert reply.status == 200 and reply.json()["served_by"] == "a"


# ---- the configuration file

def check(tmp_path, text):
    path = tmp_path / "my.ini"
    path.write_text(text)
    code, out, err = run_cli("-t", "-c", path, cwd=tmp_path)
    return code, err, str(path)


TWO = "[profile:first]\nprefixes = one, two\n[profile:second]\n"
WRONG = {
    # name: (text, line, what the message names)
    "format": ("[profile:x]\nresponse_format = opneai\n", 2,
               ('"opneai"', "response_format", "openai", "ollama", "lm-studio", "llamacpp", "lemonade")),
    "format-that-is-a-type": ("[profile:x]\nprefixes = y\nresponse_format = vllm\n", 3, ('"vllm"', "lemonade")),
    "slash-in-a-prefix": ("[profile:x]\nprefixes = good, a/b\n", 2, ('"a/b"',)),
    "slash-before-a-prefix": ("[profile:x]\nprefixes = /x\n", 2, ('"/x"',)),
    "prefix-with-odd-characters": ("[profile:x]\nprefixes = a%b\n", 2, ('"a%b"',)),
    "prefix-of-a-built-in": ("[profile:x]\nprefixes = y, vllm\n", 2, ("vllm",)),
    "prefix-of-lm-studio": ("[profile:x]\nprefixes = lm_studio\n", 2, ("lm_studio",)),
    "prefix-of-another": (TWO + "prefixes = three, two\n", 4, ("two", "first")),
    "prefix-that-is-a-route": ("[profile:x]\nprefixes = proxy\n", 2, ("proxy",)),
    "prefix-that-is-the-catalogue": ("[profile:x]\nprefixes = models\n", 2, ("models",)),
    "prefix-that-is-a-translator": ("[profile:x]\nprefixes = anthropic\n", 2, ("anthropic",)),
    "health-without-slash": ("[profile:x]\nhealth_check_path = up\n", 2, ('"up"', "health_check_path")),
    "list-without-slash": ("[profile:x]\nmodel_discovery_path = v1/models\n", 2, ('"v1/models"', "model_discovery_path")),
    "base-without-slash": ("[profile:x]\nopenai_base = api\n", 2, ('"api"', "openai_base")),
    "messages-without-slash": ("[profile:x]\n\nmessages_path = v1/messages\n", 3, ('"v1/messages"', "messages_path")),
    "boolean": ("[profile:x]\nopenai_compatible = perhaps\n", 2, ('"perhaps"', "openai_compatible")),
    "duration": ("[profile:x]\nidle_timeout = soon\n", 2, ('"soon"', "idle_timeout")),
    "no-name": ("[server]\nport = 1\n[profile:]\nhealth_check_path = /up\n", 4, ("profile",)),
    "twice": ("[profile:x]\nhealth_check_path = /a\nhealth_check_path = /b\n", 3, ("health_check_path",)),
    "type-of-nobody": ("[profile:x]\nprefixes = y\n[endpoint:a]\nurl = http://h:1\ntype = z\n", 5, ('"z"', "x", "vllm")),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_mistakes(tmp_path, binary, name):
    """A mistake is told with its place and with what would be right."""
    text, line, words = WRONG[name]
    code, err, path = check(tmp_path, text)
    assert code == 1, "accepted"
    lines = text.splitlines()
    places = {line} | {n for n in range(1, len(lines) + 1) if lines[n - 1].startswith("[profile:")}  # the key, or the section it is in
    said = [part for part in err.splitlines() if re.match(re.escape(path) + ":(%s): " % "|".join(map(str, places)), part)]
    assert said, err
    for word in words:
        assert word in said[0], (word, said[0])


def test_too_many(tmp_path, binary):
    """More than there is room for: said at the first one that does not fit, with the constant that changes it."""
    code, err, path = check(tmp_path, "".join("[profile:p%d]\nhealth_check_path = /up\n" % n for n in range(300)))
    assert code == 1
    said = [part for part in err.splitlines() if re.match(re.escape(path) + r":\d+: ", part)]
    assert said and "OLLA_MAX_" in said[0], err
    line = int(said[0][len(path) + 1:].partition(":")[0])
    fits = (line - 1) // 2
    assert fits >= 4, "room for some"
    code, err, _ = check(tmp_path, "".join("[profile:p%d]\nhealth_check_path = /up\n" % n for n in range(fits)))
    assert (code, err.strip()) == (0, ""), "one less fits"


def test_too_many_prefixes(tmp_path, binary):
    """The same for the prefixes of one profile."""
    code, err, path = check(tmp_path, "[profile:x]\n" + "".join("prefixes = p%d\n" % n for n in range(100)))
    assert code == 1 and re.search(re.escape(path) + r":\d+: .*(OLLA_MAX_|prefixes)", err), err


@pytest.mark.parametrize("key", ["helth_check_path", "type", "url", "prefix", "api.paths", "characteristics.timeout"])
def test_unknown_key(tmp_path, binary, key):
    """A typing error is a warning with its place; the rest counts."""
    code, err, path = check(tmp_path, "[profile:x]\nhealth_check_path = /up\n%s = 1\n[endpoint:a]\nurl = http://h:1\ntype = x\n" % key)
    assert code == 0, err
    said = [part for part in err.splitlines() if part.startswith("%s:3: " % path)]
    assert said and key in said[0], err


RIGHT = """[profile:everything]
prefixes = one, two
prefixes = three
health_check_path = /
model_discovery_path = /v2/list
response_format = llamacpp
openai_compatible = no
openai_base = /a/b
messages_path = /m/v1/messages
idle_timeout = 1m30s
[profile:empty-ones]
openai_base =
messages_path = ""
[profile:ollama]
idle_timeout = 10s
[profile:lm-studio]
prefixes = lmstudio, lm-studio, lm_studio, studio
response_format = openai
[endpoint:a]
url = http://h:1
type = everything
[endpoint:b]
url = http://h:2
type = EMPTY-ones
"""


def test_all_that_is_right(tmp_path, binary):
    """Every key, lists over several lines, empty values, built-in types."""
    code, err, _ = check(tmp_path, RIGHT)
    assert (code, err.strip()) == (0, ""), err
    for form in FORMS:
        code, err, _ = check(tmp_path, "[profile:x]\nresponse_format = %s\n" % form)
        assert (code, err.strip()) == (0, ""), err


def test_printed_settings(tmp_path, binary):
    """Who looks for it in the printed reference finds every key with its default."""
    out = run_cli("--print-settings")[1]
    section, found = None, {}
    said = ""
    for line in out.splitlines():
        header = re.match(r";?\[(.+)\]$", line)
        section = header.group(1) if header else section
        said = said + line if line else ""
        key = re.match(r";?([a-z_.]+) =", line)
        if key and section and section.startswith("profile:"):
            found[key.group(1)] = said
    assert set(found) == {"prefixes", "health_check_path", "model_discovery_path", "response_format", "openai_compatible", "openai_base",
                          "messages_path", "idle_timeout"}
    for key, default in (("health_check_path", "/v1/models"), ("model_discovery_path", "/v1/models"), ("response_format", "openai"),
                         ("openai_compatible", "true"), ("idle_timeout", "4s"), ("prefixes", "NAME")):
        assert default in found[key], found[key]
    for form in FORMS:
        assert form in found["response_format"]


def test_reply_headers_name_the_type(world):
    """X-Olla-Backend-Type is what the operator wrote."""
    a = world.backend(Compatible, "a", ["m1"])
    proxy = world.olla({"a": endpoint(a, type="MyOwn")}, profile("myown", prefixes="x1"))
    reply = proxy.request("POST", "/olla/x1" + CHAT, dump({"model": "m1"}), json_headers())
    assert (reply.status, reply.get("X-Olla-Backend-Type")) == (200, "MyOwn")
    reply = proxy.post("/olla/MyOwn" + CHAT, {"model": "m1"})
    assert reply.status == 404
