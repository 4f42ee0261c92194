"""Model aliases: one name for what every server calls differently. The body is changed in one place and nowhere else."""

import pytest

from backend import OllamaBackend, OpenAIBackend, VllmBackend, eventually
from client import chunked, dump, json_headers, request_bytes
from harness import World, endpoint, rarely_probed, run_cli

CHAT = "/v1/chat/completions"
PRIORITY = {"proxy.load_balancer": "priority"}
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
ROUTING = ("Strategy", "Decision", "Reason")


def routing(reply):
    return tuple(reply.get("X-Olla-Routing-" + name) for name in ROUTING)


def aliases(**lists):
    return {"model_aliases." + name: value for name, value in lists.items()}


def listed(proxy, path="/v1/models"):
    document = proxy.get(path).json()
    return [entry["id"] for entry in document["data"]] if "data" in document else [entry["name"] for entry in document["models"]]


def stop(proxy, server, model):
    """The server dies, and a request finds that out before the next probe does."""
    server.stop()
    proxy.post(CHAT, {"model": model})
    proxy.wait_down(server.name)


class Trio:
    """Three servers: A-Big (Ollama), b/big (vLLM), and both m-all and B-small on the third."""

    def __init__(self, world, settings=None, **keys):
        self.a = world.backend(OllamaBackend, "a", ["A-Big:latest", "m-all"])
        self.b = world.backend(VllmBackend, "b", ["b/big", "m-all"])
        self.c = world.backend(OpenAIBackend, "c", ["B-small", "m-all"])
        self.spec = {s.name: endpoint(s, **keys) for s in (self.a, self.b, self.c)}
        self.proxy = world.olla(self.spec, settings)

    @property
    def calls(self):
        return [call for server in (self.a, self.b, self.c) for call in server.calls]


# ---- who gets it, and what is said about it

def test_every_endpoint_by_its_own_name(world):
    """What the alias is for: each server is asked for the model by the name that this server has for it."""
    trio = Trio(world, dict(aliases(big="a-big:LATEST, B/Big, b-SMALL"), **{"proxy.load_balancer": "round-robin"}))
    own = {"a": "A-Big:latest", "b": "b/big", "c": "B-small"}
    seen = {}
    for _ in range(6):
        reply = trio.proxy.post(CHAT, {"messages": [], "model": "big", "n": 1})
        assert reply.status == 200
        assert routing(reply) == ("alias", "routed", 'alias "big" resolved to 3 endpoint(s)')
        assert reply.get("X-Olla-Model") == "big", "the client's word"
        seen[reply.get("X-Olla-Endpoint")] = True
    assert set(seen) == set(own)
    for server in (trio.a, trio.b, trio.c):
        for call in server.calls:
            assert call.body == dump({"messages": [], "model": own[server.name], "n": 1})
            assert call.get_all("Content-Length") == [str(len(call.body))]


def test_first_listed_target_wins(world):
    """A server that has two of the targets gets the one that was listed first, not the one it lists first."""
    a, b = world.backend(OpenAIBackend, "a", ["t1", "t2"]), world.backend(OpenAIBackend, "b", ["t2", "t3"])
    proxy = world.olla({"a": a, "b": b}, dict(aliases(up="t1, t2, t3", down="t3, t2, t1"), **{"proxy.load_balancer": "round-robin"}))
    for name, wanted in (("up", {"a": "t1", "b": "t2"}), ("down", {"a": "t2", "b": "t3"})):
        a.forget(), b.forget()
        for _ in range(4):
            assert routing(proxy.post(CHAT, {"model": name}))[2] == 'alias "%s" resolved to 2 endpoint(s)' % name
        assert {s.name: {call.json()["model"] for call in s.calls} for s in (a, b)} == {k: {v} for k, v in wanted.items()}


@pytest.mark.parametrize("key,asked", [("MyLlama", "myllama"), ("myllama", "MYLLAMA"), ("MYLLAMA", "MyLlama"), ("MyLlama", "MyLlama")])
def test_any_case(world, key, asked):
    """In the reference an alias with a capital letter never matches (issue 181)."""
    a = world.backend(OpenAIBackend, "a", ["Qwen2.5-CPU"])
    proxy = world.olla({"a": a}, aliases(**{key: "qwen2.5-cpu"}))
    reply = proxy.post(CHAT, {"model": asked})
    assert reply.status == 200 and reply.get("X-Olla-Model") == asked
    assert routing(reply)[:2] == ("alias", "routed") and routing(reply)[2].lower() == 'alias "myllama" resolved to 1 endpoint(s)'
    assert a.calls[0].body == b'{"model":"Qwen2.5-CPU"}'


def test_names_that_are_no_keys(world):
    """`llama3:8b` and names with dots, blanks or slashes cannot all be keys of an INI file: a section of its own."""
    a = world.backend(OpenAIBackend, "a", ["real"])
    names = ("llama3:8b", "a:b:c", "gpt-3.5", "two words", "org/name", "x = y", "g\u00fcte", "[x")
    text = "".join("[model_alias:%s]\nmodels = nothing-here, real\n" % name for name in names)
    proxy = world.olla({"a": a}, {"server.shutdown_timeout": "5s\n" + text + "[server]"})
    for name in names:
        reply = proxy.post(CHAT, {"model": name})
        assert reply.status == 200, (name, reply.body)
        assert routing(reply)[0] == "alias"
        assert a.calls[-1].json() == {"model": "real"}
    assert set(listed(proxy)) == set(names) | {"real"}


def test_alias_beats_the_model_of_that_name(world):
    """An operator who redirects a name means it, unless the list says that the real one is good as well."""
    a, b = world.backend(OpenAIBackend, "a", ["m1", "m2"]), world.backend(OpenAIBackend, "b", ["m2", "other"])
    proxy = world.olla({"a": a, "b": b}, aliases(m1="other", m2="m2, other"))
    for _ in range(4):
        assert proxy.post(CHAT, {"model": "m1"}).get("X-Olla-Endpoint") == "b"
    assert {call.json()["model"] for call in b.calls} == {"other"} and a.calls == []
    b.forget()
    for _ in range(4):
        assert routing(proxy.post(CHAT, {"model": "m2"})) == ("alias", "routed", 'alias "m2" resolved to 2 endpoint(s)')
    assert {call.json()["model"] for call in a.calls + b.calls} == {"m2"} and a.calls and b.calls


def test_no_chains(world):
    """A target is a model name, never another alias: two aliases that name each other must not make a circle."""
    a = world.backend(OpenAIBackend, "a", ["real"])
    proxy = world.olla({"a": a}, aliases(one="two", two="one", three="four", four="real"))
    for name in ("one", "two", "three"):
        reply = proxy.post(CHAT, {"model": name})
        assert (reply.status, routing(reply)) == (404, ("strict", "rejected", "model_not_found"))
    assert proxy.post(CHAT, {"model": "four"}).status == 200


def test_prefix_narrows_an_alias(world):
    """/olla/<prefix>/ is a hard boundary for aliases too."""
    trio = Trio(world, aliases(big="A-Big, b/big, B-small", only="B-small"))
    for prefix, name in (("ollama", "a"), ("vllm", "b")):
        for _ in range(3):
            reply = trio.proxy.post("/olla/%s%s" % (prefix, CHAT), {"model": "big"})
            assert reply.get("X-Olla-Endpoint") == name and routing(reply)[2] == 'alias "big" resolved to 1 endpoint(s)'
    reply = trio.proxy.post("/olla/vllm" + CHAT, {"model": "only"})
    assert (reply.status, routing(reply)[1:]) == (503, ("rejected", "model_unavailable"))
    for path in ("/api/chat", "/olla/ollama/api/chat"):
        trio.a.forget()
        assert trio.proxy.post(path, {"model": "big"}).get("X-Olla-Endpoint") == "a"
        assert trio.a.calls[0].json() == {"model": "A-Big:latest"}


def test_targets_known_but_down(world):
    """503 and not 404: the name is right, the machine is off."""
    trio = Trio(world, aliases(x="b/big"), **FAST)
    stop(trio.proxy, trio.b, "x")
    reply = trio.proxy.post(CHAT, {"model": "x"})
    assert reply.status == 503 and reply.json()["error"]["code"] == "model_unavailable"
    assert routing(reply)[1:] == ("rejected", "model_unavailable")
    assert int(reply.get("Retry-After")) >= 1
    assert trio.a.calls == trio.c.calls == []
    trio.b.start()
    trio.proxy.wait_healthy({"b": 1})
    assert trio.proxy.post(CHAT, {"model": "x"}).status == 200


def test_no_target_known(world):
    """Nobody has any of them: the name is an ordinary one again, with or without a model behind it."""
    trio = Trio(world, aliases(x="nope, neither", **{"m-all": "nope"}))
    reply = trio.proxy.post(CHAT, {"model": "x"})
    assert (reply.status, routing(reply)) == (404, ("strict", "rejected", "model_not_found"))
    assert "x" in reply.json()["error"]["message"] and trio.calls == []
    reply = trio.proxy.post(CHAT, {"model": "m-all"})
    assert (reply.status, routing(reply)) == (200, ("strict", "routed", "model_found"))
    assert trio.calls[0].body == b'{"model":"m-all"}'


# ---- the body

BIG = b'{"content":"' + b"x" * 1200000 + b'"}'
BODIES = {
    "only": b'{"model":"NAME"}',
    "first": b'{"model":"NAME","messages":[{"role":"user","content":"say \\"model\\""}],"t":1.50e+1}',
    "last": b'{"messages":[{"model":"NAME"}],"x":{"model":"NAME"},"s":"\\"model\\":\\"NAME\\"","model":"NAME"}',
    "blanks": b'\r\n {\t"a" : [ 1 ,2 ] ,\n"model"\t:\r\n  "NAME"  , "z" : "\\u00e4" }\n\n',
    "middle": b'{"n":1e400,"b":-0.0,"model":"NAME","dup":1,"dup":2,"u":"\xc3\xa4\xe2\x82\xac","n2":12345678901234567890}',
    "bom": b'\xef\xbb\xbf{"model":"NAME","a":1}',
    "escaped-key": b'{"\\u006dodel":"NAME","a":1}',
    "after-a-megabyte": b'{"messages":[' + BIG + b'],"model":"NAME"}',
    "before-a-megabyte": b'{"model":"NAME","messages":[' + BIG + b"]}",
    "spooled": b'{"messages":[' + b",".join([BIG] * 3) + b'],"model":"NAME","end":[]}',
    "at-a-block": b'{"m":"' + b"y" * (65536 - 20) + b'","model":"NAME","z":"' + b"y" * 200000 + b'"}',
    "at-a-buffer": b'{"m":"' + b"y" * (16384 - 30) + b'","model":"NAME","z":1}',
}
OWN = "Some/Own-Name_that.is:longer"


class Splice:
    def __init__(self, spool):
        self.world = World()
        self.a = self.world.backend(OpenAIBackend, "a", [OWN, "s"])
        self.a.on(CHAT, lambda c, r: c.reply({"ok": 1}))
        self.proxy = self.world.olla({"a": self.a}, dict(aliases(short=OWN.lower(), **{"a-much-longer-alias-name": "S"}),
                                                         **{"proxy.spool_dir": str(spool)}))


@pytest.fixture(scope="module")
def splice(kept, tmp_path_factory):
    return kept(Splice, tmp_path_factory.mktemp("spool"))


@pytest.mark.parametrize("how", ["length", "chunked", "small-chunks"])
@pytest.mark.parametrize("name", list(BODIES))
def test_only_the_value_changes(splice, name, how):
    """Re-writing the whole JSON loses order, blanks and digits: one value is spliced, all other bytes stay."""
    if how == "small-chunks" and len(BODIES[name]) > 1 << 20:
        pytest.skip("a million chunks")
    for alias, own in (("short", OWN), ("a-much-longer-alias-name", "s")):
        body = BODIES[name].replace(b'"NAME"', b'"' + alias.encode() + b'"')
        splice.a.forget()
        with splice.proxy.client() as client:
            if how == "length":
                client.send(request_bytes("POST", CHAT, json_headers(), body))
            else:
                client.send(request_bytes("POST", CHAT, json_headers({"Transfer-Encoding": "chunked"})))
                client.send(chunked(body, 30000 if how == "chunked" else 7))
            reply = client.read_response("POST")
        assert reply.status == 200, reply.body
        at = body.rindex(alias.encode()) if name == "last" else None
        if name == "last":  # the others are text
            wanted = body[:at] + own.encode() + body[at + len(alias):]
        else:
            wanted = body.replace(b'"' + alias.encode() + b'"', b'"' + own.encode() + b'"')
        call = splice.a.calls[0]
        assert len(call.body) == len(wanted) and call.body == wanted
        assert call.get_all("Content-Length") == [str(len(wanted))] or call.get_all("Transfer-Encoding") == ["chunked"]
        assert not (call.has("Content-Length") and call.has("Transfer-Encoding"))


@pytest.mark.parametrize("value", [b'"sho\\u0072t"', b'"SHORT"', b'"\\u0073\\u0068ort"'])
def test_spelled_otherwise(splice, value):
    """The alias written with escapes or in capitals is the alias all the same, and is replaced whole."""
    splice.a.forget()
    reply = splice.proxy.request("POST", CHAT, b'{"a":' + value + b',"model":' + value + b',"b":' + value + b"}", json_headers())
    assert reply.status == 200 and reply.get("X-Olla-Model").lower() == "short"
    call = splice.a.calls[0]
    assert call.body == b'{"a":' + value + b',"model":"' + OWN.encode() + b'","b":' + value + b"}"
    assert call.get_all("Content-Length") == [str(len(call.body))]


def test_pipelined_on_one_connection(splice):
    """A length that is off by some bytes poisons the next request on the same connection to the server."""
    splice.a.forget()
    with splice.proxy.client() as client:
        for n in range(10):
            body = dump({"n": n, "model": ("short", "s", "a-much-longer-alias-name", OWN)[n % 4]})
            client.send(request_bytes("POST", CHAT, json_headers(), body))
            assert client.read_response("POST").json() == {"ok": 1}
    assert [call.json() for call in splice.a.calls] == [{"n": n, "model": (OWN, "s", "s", OWN)[n % 4]} for n in range(10)]


@pytest.mark.parametrize("own", ['quo"te', "back\\slash", "org/m<o>d&el", "g\u00fc\u20ac\U0001f600", "a'b", "x" * 127])
def test_own_name_is_escaped(world, own):
    """A server's spelling goes into JSON: a quote in it must not end the string."""
    a = world.backend(OpenAIBackend, "a", [own, "m2"])
    proxy = world.olla({"a": a}, aliases(x=own))
    assert proxy.post(CHAT, {"model": "x", "stream": False}).status == 200
    assert a.calls[0].json() == {"model": own, "stream": False}
    assert a.calls[0].get_all("Content-Length") == [str(len(a.calls[0].body))]


@pytest.mark.parametrize("size", [0, 100000, 3 << 20], ids=["small", "blocks", "spooled"])
def test_failover_rewrites_anew(world, tmp_path, size):
    """The second server has another name for the model: it must get the original body with that name."""
    a, b, c = (world.backend(OpenAIBackend, name, models) for name, models in
               (("a", ["first-name-of-it"]), ("b", ["two"]), ("c", ["alias"])))
    a.on(CHAT, lambda conn, r: conn.rst())
    b.on(CHAT, lambda conn, r: conn.reply({"error": "busy"}, 503))
    proxy = world.olla({"a": rarely_probed(a, priority=300), "b": rarely_probed(b, priority=200), "c": rarely_probed(c, priority=100)},
                       dict(PRIORITY, **dict(aliases(alias="First-Name-Of-It, two, alias"), **{"proxy.spool_dir": str(tmp_path)})))
    body = b'{"messages":["' + b"x" * size + b'"], "model" :"alias" ,"z":0}'
    reply = proxy.request("POST", CHAT, body, json_headers())
    assert reply.status == 200 and reply.get("X-Olla-Endpoint") == "c" and reply.get("X-Olla-Model") == "alias"
    for server, own in ((a, b"first-name-of-it"), (b, b"two"), (c, b"alias")):
        call = server.calls[-1]
        assert call.body == body.replace(b'"alias"', b'"' + own + b'"'), server.name
        assert call.get_all("Content-Length") == [str(len(call.body))]


# ---- listings

def test_listed_while_they_resolve(world):
    """Clients choose from the list: an alias that leads nowhere must not be there, one that works must."""
    trio = Trio(world, aliases(big="A-Big, b/big", only="b/big", none="nope", **{"m-all": "b/big", "B-SMALL": "b/big"}), **FAST)
    proxy = trio.proxy
    models = ["A-Big:latest", "B-small", "b/big", "m-all"]

    def names(path="/v1/models"):
        found = listed(proxy, path)
        assert len(found) == len(set(n.lower() for n in found)), "no name twice: %r" % found
        return set(found)
    for path in ("/v1/models", "/olla/proxy/v1/models", "/olla/openai/v1/models"):
        assert names(path) == set(models) | {"big", "only"}
    assert names("/api/tags") == names("/olla/ollama/api/tags") == {"A-Big:latest", "m-all", "big"}, "only Ollama servers speak that API"
    assert names("/olla/vllm/v1/models") - {"B-SMALL"} == {"b/big", "m-all", "big", "only"}
    entry = next(e for e in proxy.get("/v1/models").json()["data"] if e["id"] == "big")
    assert entry["object"] == "model"
    stop(proxy, trio.b, "b/big")
    assert names() == set(models) - {"b/big"} | {"big"}
    stop(proxy, trio.a, "A-Big:latest")
    assert names() == {"B-small", "m-all"} and names("/api/tags") == set()
    trio.b.start()
    proxy.wait_healthy({"b": 1})
    assert names() == {"B-small", "b/big", "m-all", "big", "only"}


def test_many_models_and_aliases_in_one_listing(world):
    """The list is sent in parts: none may be lost or doubled where one part ends."""
    models = ["model-%03d-%s" % (n, "x" * 80) for n in range(300)]
    a = world.backend(OpenAIBackend, "a", models)
    wanted = {"alias-%02d" % n: models[n] for n in range(30)}
    proxy = world.olla({"a": a}, aliases(**wanted), ready={"a": 300})
    assert sorted(listed(proxy)) == sorted(models + list(wanted))


# ---- configuration

LISTS = {
    # name: (text, line, what the message names)
    "empty-list": ("[model_aliases]\ngood = m1\nempty =\n", 3, "empty"),
    "only-commas": ("[model_aliases]\nempty = , ,\n", 2, "empty"),
    "empty-section": ("[model_alias:llama3:8b]\n\n[server]\nport = 1\n", 1, "llama3:8b"),
    "empty-models": ("[model_alias:x]\nmodels =\n", 1, "x"),
    "no-name": ("[model_alias:]\nmodels = m1\n", 1, "model_alias"),
    "blank-name": ("[model_alias:  ]\nmodels = m1\n", 1, "model_alias"),
    "no-key": ("[server]\nport = 1\n[model_aliases]\n = m1\n", 4, ""),
    "too-many": ("[model_aliases]\n" + "".join("a%d = m1\n" % n for n in range(33)), 34, "OLLA_MAX_ALIASES"),
    "too-many-sections": ("".join("[model_alias:a%d]\nmodels = m1\n" % n for n in range(33)), 65, "OLLA_MAX_ALIASES"),
    "too-many-models": ("[model_alias:x]\n" + "models = a, b, c, d, e, f, g, h, i\n" * 2, 3, "OLLA_MAX_LIST_ITEMS"),
}


@pytest.mark.parametrize("name", list(LISTS))
def test_wrong_aliases(tmp_path, binary, name):
    """An alias that can never work is a mistake: said at start, with its place."""
    text, line, word = LISTS[name]
    path = tmp_path / "my.ini"
    path.write_text(text)
    code, out, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert code == 1, "accepted"
    said = [part for part in err.splitlines() if part.startswith("%s:%d: " % (path, line))]
    assert said and word in said[0], err


RIGHT = ("[model_aliases]\n" + "".join("a%d = m1, m2\n" % n for n in range(29)) + "y = [\"m1\", 'm2']\n"
         "[model_alias:llama3:8b]\nmodels = a\nmodels = b\n[model_alias:two words]\nmodels = org/name:tag\n")


@pytest.mark.parametrize("text", [RIGHT + "[endpoint:a]\nurl = http://h:1\ntype = vllm\n", RIGHT, "[model_aliases]\nx = m1\n",
                                  "[model_alias:x]\nmodels = m1\n"],
                         ids=["whole-file", "no-endpoint", "nothing-else", "nothing-else-section"])
def test_right_aliases(tmp_path, binary, text):
    """As many as there is room for, lists over several lines, names with blanks, brackets as YAML has them; and in a
    file without endpoints, where the built-in one is used."""
    path = tmp_path / "my.ini"
    path.write_text(text)
    code, out, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert (code, err.strip()) == (0, ""), err


def test_reload(world):
    """Aliases are what operators change most: no restart for that, and a bad list changes nothing."""
    trio = Trio(world, aliases(x="b/big", gone="b/big"))
    proxy = trio.proxy
    assert proxy.post(CHAT, {"model": "x"}).get("X-Olla-Endpoint") == "b"
    proxy.reload(trio.spec, aliases(x="B-small", new="A-Big"))
    eventually(lambda: proxy.post(CHAT, {"model": "new"}).status == 200, "the new alias works", 5, 0.02)
    reply = proxy.post(CHAT, {"model": "x"})
    assert reply.get("X-Olla-Endpoint") == "c" and trio.c.calls[-1].json() == {"model": "B-small"}
    assert proxy.post(CHAT, {"model": "gone"}).status == 404
    assert set(listed(proxy)) == {"A-Big:latest", "b/big", "B-small", "m-all", "x", "new"}
    proxy.allowed_errors = True
    proxy.reload(trio.spec, aliases(x="", other="A-Big"))
    eventually(lambda: [e for e in proxy.logs if e.get("level") in ("ERROR", "WARN")], "the refusal is logged", 5, 0.02)
    assert proxy.post(CHAT, {"model": "x"}).get("X-Olla-Endpoint") == "c"
    assert proxy.post(CHAT, {"model": "other"}).status == 404
    proxy.reload(trio.spec)
    eventually(lambda: proxy.post(CHAT, {"model": "x"}).status == 404, "without aliases", 5, 0.02)


def test_reload_while_the_body_comes(world):
    """The alias of a request that is half here changes: either meaning is fine, a mixture is not."""
    trio = Trio(world, aliases(x="b/big"))
    client = world.client(trio.proxy)
    body = dump({"pad": "y" * 100000, "model": "x"})
    raw = request_bytes("POST", CHAT, json_headers(), body)
    client.send(raw[:-20])
    trio.proxy.reload(trio.spec, aliases(new="A-Big", x="B-small"))
    eventually(lambda: trio.proxy.post(CHAT, {"model": "new"}).status == 200, "the reload is done", 5, 0.02)
    client.send(raw[-20:])
    reply = client.read_response("POST")
    assert reply.status == 200
    server, own = {"b": (trio.b, "b/big"), "c": (trio.c, "B-small")}[reply.get("X-Olla-Endpoint")]
    assert server.calls[-1].json() == {"pad": "y" * 100000, "model": own}


def test_other_apis(world):
    """Embeddings, completions, messages and Ollama's own calls name the model the same way."""
    trio = Trio(world, aliases(big="A-Big, b/big"))
    for path in ("/v1/completions", "/v1/embeddings", "/olla/proxy/v1/completions", "/olla/ollama/api/generate", "/olla/openai/v1/embeddings"):
        reply = trio.proxy.post(path, {"model": "big", "prompt": "big"})
        assert reply.status == 200 and routing(reply)[0] == "alias", path
    for call in trio.calls:
        assert call.json()["model"] in ("A-Big:latest", "b/big") and call.json()["prompt"] == "big"
    name = trio.proxy.post(CHAT, {"model": "big"}).get("X-Olla-Request-ID")
    assert trio.proxy.access(name)["model"] == "big", "the log has the client's word"
