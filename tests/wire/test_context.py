"""Requests go where they fit: by the length of their prompt, and by what a machine is there for."""

import pytest

from backend import MARK, eventually
from client import chunked, dump, full_body, json_headers, request_bytes
from harness import World, endpoint, rarely_probed, report, run_cli
from servers import Compatible, Llamacpp, LmStudio, Ollama, Sglang, Vllm
from servers.llamacpp import LlamacppRouter
from test_multipart import form

CHAT = "/v1/chat/completions"
SETTINGS = {"proxy.load_balancer": "priority", "proxy.sticky_sessions.enabled": False}
FAST = {"check_interval": "1s", "check_timeout": "500ms"}


def plain(conn, request):
    conn.reply({"served_by": conn.backend.name, "path": request.path})


def text(tokens):
    """A prompt of about so many tokens: four bytes each."""
    return "abcd" * tokens


def chat(tokens, model="m1", **more):
    return dict({"model": model, "messages": [{"role": "user", "content": text(tokens)}]}, **more)


def goes_to(proxy, body, path=CHAT, tries=1, headers=()):
    """The endpoint that gets the request, or the endpoints."""
    seen = set()
    for _ in range(tries):
        reply = proxy.post(path, body, headers)
        assert reply.status == 200, reply.body
        seen.add(reply.get("X-Olla-Endpoint"))
    return seen.pop() if tries == 1 else seen


def posts(server):
    return [call for call in server.calls if call.method == "POST"]


class Sizes:
    """A small machine that is preferred, and a large one. They have everybody's API."""

    def __init__(self):
        self.world = World()
        self.small, self.big = self.world.backend(Ollama, "small", ["m1"]), self.world.backend(Ollama, "big", ["m1"])
        for server in (self.small, self.big):
            server.on("*", plain)
        self.proxy = self.world.olla({"small": endpoint(self.small, priority=200, max_context=100), "big": endpoint(self.big, max_context=100000)},
                                     SETTINGS)

    @property
    def proxies(self):
        return self.world.proxies


def after(site):
    site.world.close_clients()
    report(site.proxy.idle_problems() + site.world.script_failures())


@pytest.fixture
def site(kept):
    site = kept(Sizes)
    yield site
    after(site)


# ---- the length of the prompt

FORMS = {
    "chat": (CHAT, lambda t: {"messages": [{"role": "user", "content": t}]}),
    "chat-in-turns": (CHAT, lambda t: {"messages": [{"role": "user", "content": t[n:n + 20]} for n in range(0, len(t), 20)]}),
    "chat-in-blocks": (CHAT, lambda t: {"messages": [{"role": "user", "content": [{"type": "text", "text": t}]}]}),
    "prefix": ("/olla/openai" + CHAT, lambda t: {"messages": [{"role": "user", "content": t}]}),
    "completions": ("/v1/completions", lambda t: {"prompt": t}),
    "responses": ("/v1/responses", lambda t: {"input": t}),
    "responses-list": ("/v1/responses", lambda t: {"input": [{"role": "user", "content": t}]}),
    "embeddings": ("/v1/embeddings", lambda t: {"input": t}),
    "messages": ("/v1/messages", lambda t: {"max_tokens": 1, "messages": [{"role": "user", "content": t}]}),
    "ollama-chat": ("/api/chat", lambda t: {"stream": False, "messages": [{"role": "user", "content": t}]}),
    "ollama-generate": ("/api/generate", lambda t: {"stream": False, "prompt": t}),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_long_prompts_avoid_the_small_one(site, name):
    """A prompt that does not fit is cut by Ollama without a word, or refused by others: another machine could have taken it."""
    path, make = FORMS[name]
    for where in ({"model": "m1"}, {}):
        for tokens, wanted in ((20, "small"), (400, "big"), (20, "small"), (5000, "big")):
            body = dict(where, **make(text(tokens)))
            body.setdefault("model", "m1")
            assert goes_to(site.proxy, body, path) == wanted, tokens


def test_about_four_bytes_each(site):
    """The estimate must be neither so strict that half of the window is wasted nor so loose that it is of no use."""
    for tokens, wanted in ((60, "small"), (85, "small"), (130, "big")):
        assert goes_to(site.proxy, {"model": "m1", "prompt": text(tokens)}, "/v1/completions") == wanted, tokens


def test_only_the_prompt_counts(site):
    """Schemas, metadata and a suffix of parameters are not the conversation."""
    assert goes_to(site.proxy, chat(20, metadata={"x": text(2000)}, user=text(500))) == "small"
    assert goes_to(site.proxy, {"model": "m1", "x": {"messages": text(900), "prompt": text(900)}, "prompt": "hi"}) == "small"


def test_megabytes(site):
    """A body that went to the spool has a length as well."""
    for body in (chat(500000), {"messages": [{"role": "user", "content": text(20)}], "model": "m1", "pad": text(500000)}):
        with site.proxy.client() as client:
            client.send(request_bytes("POST", CHAT, json_headers({"Transfer-Encoding": "chunked"})) + chunked(dump(body), 50021))
            reply = client.read_response("POST")
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, "small")  # 500,000 are too many for both: the better tier


def test_named_endpoint(site):
    """Who names a machine has reasons of its own: the estimate may be wrong."""
    assert goes_to(site.proxy, chat(5000), headers={"X-Olla-Endpoint": "small"}) == "small"


def test_nobody_has_room(site):
    """An estimate is no proof: the request is served, and the server may say what it thinks."""
    assert goes_to(site.proxy, chat(400000)) in ("small", "big")


def test_rotation_among_those_that_fit(world):
    """Whoever has room shares the load; a machine that says nothing is taken to have room."""
    group = {name: world.backend(Compatible, name, ["m1"]) for name in "abc"}
    spec = {"a": endpoint(group["a"], max_context=64), "b": endpoint(group["b"], max_context=100000), "c": endpoint(group["c"])}
    proxy = world.olla(spec, {"proxy.load_balancer": "round-robin", "proxy.sticky_sessions.enabled": False})
    assert goes_to(proxy, chat(5), tries=9) == {"a", "b", "c"}
    assert goes_to(proxy, chat(1000), tries=9) == {"b", "c"}
    assert goes_to(proxy, chat(5), tries=9) == {"a", "b", "c"}


def test_the_large_one_is_away(world):
    """With the only one that fits switched off, the small one is better than nothing."""
    small, big = world.backend(Compatible, "small", ["m1"]), world.backend(Compatible, "big", ["m1"])
    proxy = world.olla({"small": endpoint(small, max_context=64), "big": endpoint(big, max_context=100000, **FAST)}, SETTINGS)
    assert goes_to(proxy, chat(1000)) == "big"
    big.stop()
    proxy.wait_down("big")
    assert goes_to(proxy, chat(1000)) == "small"


def test_conversation_grows_out(world):
    """A conversation that no longer fits leaves its machine, cache or not."""
    small, big = world.backend(Compatible, "small", ["m1"]), world.backend(Compatible, "big", ["m1"])
    proxy = world.olla({"small": endpoint(small, max_context=100, priority=200), "big": endpoint(big, max_context=100000)},
                       {"proxy.load_balancer": "priority"})
    for tokens, wanted in ((10, "small"), (50, "small"), (300, "big"), (500, "big")):
        assert goes_to(proxy, chat(tokens), headers={"X-Olla-Session-ID": "talk"}) == wanted


# ---- windows that servers tell themselves

class LoadedOllama(Ollama):
    """The model is in memory with a window of its own."""
    def setup(self):
        super().setup()
        self.loaded = list(self.models)


WINDOW = 512
TELLING = {
    # model: (kind, how a small one looks, how a large one does)
    "vllm": (Vllm, lambda s: s.facts.update(vllm={"max_model_len": WINDOW}), lambda s: None),
    "sglang": (Sglang, lambda s: s.facts.update(sglang={"max_model_len": WINDOW}), lambda s: None),
    "llama": (Llamacpp, lambda s: s.facts.update(llama={"meta": {"n_ctx": WINDOW}}), lambda s: None),
    "props": (Llamacpp, lambda s: (s.facts.update(props={"meta": {"n_ctx": ..., "n_ctx_train": 32768}}),
                                   s.props.update(default_generation_settings={"n_ctx": WINDOW})), lambda s: None),
    "router": (LlamacppRouter, lambda s: s.facts.update(router={"status": {"value": "loaded"}, "meta": {"n_ctx": WINDOW}}),
               lambda s: s.facts.update(router={"status": {"value": "loaded"}})),
    "lms": (LmStudio, lambda s: s.facts.update(lms={"state": "loaded", "loaded_context_length": WINDOW}),
            lambda s: s.facts.update(lms={"state": "loaded", "loaded_context_length": 32768})),
    "ollama": (LoadedOllama, lambda s: setattr(s, "window", WINDOW), lambda s: setattr(s, "window", 32768)),
}


class Windows:
    """For each kind of server a small one, which is preferred, and a large one."""

    def __init__(self):
        self.world = World()
        spec = {}
        for model, (kind, small, big) in TELLING.items():
            for size, change, priority in (("small", small, 200), ("big", big, 100)):
                server = self.world.backend(kind, "%s-%s" % (model, size), [model])
                change(server)
                spec[server.name] = endpoint(server, priority=priority, **FAST)
        for model, told, max_context in (("told-less", WINDOW, 100000), ("told-more", 100000, WINDOW)):
            server = self.world.backend(Vllm, model, [model])
            server.facts[model] = {"max_model_len": told}
            spec[model] = endpoint(server, priority=200, max_context=max_context)
            self.other(spec, model)
        for model, kind, facts in (("lms-on-disk", LmStudio, {"max_context_length": WINDOW}),
                                   ("ollama-on-disk", Ollama, {"details": {"context_length": WINDOW}})):
            server = self.world.backend(kind, model, [model])
            server.facts[model] = facts
            spec[model] = endpoint(server, priority=200)
            self.other(spec, model)
        self.proxy = self.world.olla(spec, SETTINGS)

    def other(self, spec, model):
        """A second endpoint for the model, with room by its setting."""
        server = self.world.backend(Compatible, model + "-other", [model])
        spec[server.name] = endpoint(server, max_context=100000)

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def windows(kept):
    site = kept(Windows)
    yield site
    after(site)


@pytest.mark.parametrize("model", list(TELLING))
def test_windows_of_servers(windows, model):
    """What the server tells is worth more than what an operator forgot to write down."""
    proxy = windows.proxy
    eventually(lambda: goes_to(proxy, chat(4000, model)) == model + "-big", "the long prompt goes to the machine with room for it", 8, 0.05)
    assert goes_to(proxy, chat(20, model)) == model + "-small"
    assert goes_to(proxy, chat(4000, model)) == model + "-big"


def test_setting_before_telling(windows):
    """The operator's word is the last."""
    assert goes_to(windows.proxy, chat(4000, "told-less")) == "told-less"
    assert goes_to(windows.proxy, chat(4000, "told-more")) == "told-more-other"
    assert goes_to(windows.proxy, chat(20, "told-more")) == "told-more"


@pytest.mark.parametrize("model", ["lms-on-disk", "ollama-on-disk"])
def test_window_of_the_model(windows, model):
    """It is not loaded, so nobody knows how it will be; more than the model can is never."""
    assert goes_to(windows.proxy, chat(4000, model)) == model + "-other"
    assert goes_to(windows.proxy, chat(20, model)) == model


# ---- what a machine is there for

KINDS = {
    "chat": ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/api/chat", "/api/generate",
             "/olla/ollama/v1/chat/completions", "/olla/proxy/api/chat", "/olla/openai/v1/completions"],
    "embeddings": ["/v1/embeddings", "/api/embed", "/api/embeddings", "/olla/proxy/v1/embeddings", "/olla/ollama/api/embed"],
    "audio": ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/olla/openai/v1/audio/speech"],
    "images": ["/v1/images/generations", "/v1/images/edits", "/olla/proxy/v1/images/variations"],
    "rerank": ["/v1/rerank", "/olla/proxy/v1/rerank", "/olla/ollama/rerank", "/olla/ollama/v2/rerank"],
}


class Split:
    """One machine for each kind of request, all with m1 and with every API."""

    def __init__(self):
        self.world = World()
        self.servers = {kind: self.world.backend(Ollama, kind, ["m1", "only-" + kind]) for kind in KINDS}
        for server in self.servers.values():
            server.routes = {path: handler for path, handler in server.routes.items() if path in server.probe_paths or path == "/api/ps"}
            server.on("*", plain)
        self.proxy = self.world.olla({kind: endpoint(server, serves=kind) for kind, server in self.servers.items()},
                                     {"proxy.sticky_sessions.enabled": False}, ready={kind: 2 for kind in KINDS})

    @property
    def proxies(self):
        return self.world.proxies


@pytest.fixture
def split(kept):
    site = kept(Split)
    for server in site.servers.values():
        server.forget()
    yield site
    after(site)


@pytest.mark.parametrize("kind,path", [(kind, path) for kind, paths in KINDS.items() for path in paths], ids=str)
def test_kinds_by_path(split, kind, path):
    """A machine that was set aside for embeddings must not be slowed down by a chat, nor a chat wait behind transcriptions."""
    body = full_body(path, {"model": "m1", "stream": False})
    assert goes_to(split.proxy, body, path, tries=4) == {kind}
    assert goes_to(split.proxy, body, path + "?x=/v1/embeddings", tries=2) == {kind}
    assert [len(posts(server)) for name, server in split.servers.items() if name != kind] == [0] * (len(KINDS) - 1)


def test_kind_of_an_upload(split):
    """Forms go by their path as well."""
    body, ctype = form(b"m1")
    for _ in range(3):
        reply = split.proxy.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": ctype})
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, "audio")


@pytest.mark.parametrize("method,path", [("POST", "/v1/moderations"), ("POST", "/api/show"), ("GET", "/olla/proxy/v1/files/chat"), ("POST", "/v1/files")])
def test_other_requests_are_of_no_kind(split, method, path):
    """`serves` splits inference; everything else is not its business."""
    seen = set()
    for _ in range(15):
        reply = split.proxy.request(method, path, None if method == "GET" else b'{"model":"m1"}', json_headers({MARK: "1"}))
        assert reply.status == 200, reply.body
        seen.add(reply.get("X-Olla-Endpoint"))
    assert len(seen) >= 3


def endpoints_of(message):
    """{name: reason} from the end of a message."""
    _, found, tail = message.partition("; endpoints: ")
    assert found, message
    return dict(part.rstrip(")").split(" (", 1) for part in tail.split("), "))


def test_nobody_serves_it(split):
    """The model is there, but not for this: 503 with the reason, where `not found` would be a riddle."""
    reply = split.proxy.post("/v1/embeddings", {"model": "only-chat", "input": "x"})
    assert reply.status == 503 and reply.get("X-Olla-Routing-Decision") == "rejected"
    error = reply.json()["error"]
    assert error["code"] == "model_unavailable" and "only-chat" in error["message"]
    reasons = endpoints_of(error["message"])
    assert reasons["chat"] == "does not serve this kind" and reasons["embeddings"] == "does not serve the model"
    assert set(reasons) == set(KINDS)
    assert goes_to(split.proxy, {"model": "only-chat"}) == "chat"
    assert [posts(server) for name, server in split.servers.items() if name != "chat"] == [[]] * (len(KINDS) - 1)


def test_unknown_model_is_unknown(split):
    """A name that nobody has stays a 404, whatever the kind."""
    reply = split.proxy.post("/v1/embeddings", {"model": "nobodys", "input": "x"})
    assert reply.status == 404 and reply.json()["error"]["code"] == "model_not_found"
    assert set(endpoints_of(reply.json()["error"]["message"])) == set(KINDS)


def test_named_endpoint_of_another_kind(split):
    """The operator closed that door; naming the machine does not open it."""
    reply = split.proxy.post(CHAT, {"model": "m1"}, {"X-Olla-Endpoint": "embeddings"})
    assert reply.status == 503 and "does not serve this kind" in reply.json()["error"]["message"]
    assert posts(split.servers["embeddings"]) == []


def test_listings_show_all(split):
    """Menus show the models wherever they are."""
    ids = {entry["id"] for entry in split.proxy.get("/v1/models").json()["data"]}
    assert ids == {"m1"} | {"only-" + kind for kind in KINDS}


def test_several_kinds_and_none(world):
    """A list of kinds is a list, and nothing at all is everything."""
    group = {name: world.backend(Compatible, name, ["m1"]) for name in ("two", "all")}
    for server in group.values():
        server.on("*", plain)
    proxy = world.olla({"two": endpoint(group["two"], serves="chat, embeddings", priority=200), "all": endpoint(group["all"], serves="")}, SETTINGS)
    assert [goes_to(proxy, {"model": "m1"}, path) for path in (CHAT, "/v1/embeddings", "/v1/audio/speech", "/v1/rerank")] == ["two", "two", "all", "all"]


def test_no_retry_on_another_kind(world):
    """A failed chat is not tried on the machine for embeddings."""
    chatty, embeds = world.backend(Compatible, "chatty", ["m1"]), world.backend(Compatible, "embeds", ["m1"])
    chatty.on(CHAT, lambda c, r: c.rst())
    proxy = world.olla({"chatty": rarely_probed(chatty, serves="chat"), "embeds": endpoint(embeds, serves="embeddings")}, SETTINGS)
    assert proxy.post(CHAT, {"model": "m1"}).status == 502
    assert posts(embeds) == []


@pytest.mark.parametrize("line", ["serves = chat, cooking", "serves = all", "max_context = -1", "max_context = much", "weight = 0", "weight = 1001"])
def test_wrong_settings(tmp_path, binary, line):
    """A misspelt kind would close a machine for everything: said at start, with its place."""
    path = tmp_path / "my.ini"
    path.write_text("[endpoint:a]\nurl = http://h:1\n%s\n" % line)
    code, _, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert code == 1 and "%s:3: " % path in err, err
