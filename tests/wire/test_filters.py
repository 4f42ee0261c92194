"""model_filter: which models of an endpoint exist at all."""

import re

import pytest

from backend import LmStudioBackend, OllamaBackend, OpenAIBackend, eventually
from harness import endpoint, run_cli

CHAT = "/v1/chat/completions"


def filtered(server, include=None, exclude=None, **keys):
    spec = endpoint(server, **keys)
    spec.update({"model_filter." + key: value for key, value in (("include", include), ("exclude", exclude)) if value is not None})
    return spec


def listed(proxy, path="/v1/models"):
    return {entry["id"] for entry in proxy.get(path).json()["data"]}


VECTORS = {
    # name: (include, exclude, accepted, refused)
    "none": (None, None, ["any", "x*y"], []),
    "prefix-any-case": ("LLAMA*", None, ["llama3", "Llama-2", "LLAMA"], ["codellama", "llam"]),
    "equal": ("llama3", None, ["Llama3"], ["llama3.1", "xllama3"]),
    "all-but": ("*", "deepseek*", ["phi", "my-deepseek"], ["deepseek-coder", "DeepSeek"]),
    "exclude-only": (None, "*embed*", ["phi", "embe-d"], ["nomic-embed-text", "Embed", "mxbai-EMBED", "embed-x"]),
    "exclude-wins": ("llama*", "llama-uncensored", ["llama-2"], ["llama-uncensored", "phi"]),
    "suffix": ("*-7b", None, ["llama-7b", "x-7B"], ["llama-70b", "llama-7b-chat", "7b"]),
    "several": ("llama*, *coder*", "*-base", ["llama1", "qwen-coder-x"], ["phi3", "llama1-base"]),
    "star-among-others": ("phi*, *", None, ["phi9", "whatever"], []),
    "exclude-all": (None, "*", [], ["one-a", "two-b"]),
    "empty-include": ("", None, ["one-c"], []),
    "list-as-yaml": ('["llama*", "mistral*"]', None, ["llama7", "mistral7"], ["gemma7"]),
    "repeated-key": (["llama*", "mistral*"], ["*x", "*y"], ["llama8", "mistral8"], ["gemma8", "llama8x", "mistral8y"]),
    "odd-names": ("org/*, *:latest", None, ["org/name:1", "a?b:latest"], ["norg/name"]),
    "no-other-wildcards": ("a?c, [ab]d, e.g", None, ["a?c"], ["abc", "bd", "exg"]),
    "utf8": ("g\u00fcte*", None, ["g\u00fcte-1"], ["gute-1"]),
}

def test_vectors(world):
    """A filter that lets one model too many through serves what the operator did not want served."""
    spec, models = {}, {}
    for name, (include, exclude, accepted, refused) in VECTORS.items():
        server = world.backend(OpenAIBackend, name, [])
        server.models = models[name] = accepted + refused
        spec[name] = filtered(server, include, exclude)
    proxy = world.olla(spec, ready={name: len(VECTORS[name][2]) for name in VECTORS})
    problems, everything = [], set()
    eventually(lambda: all(e["models"]["last_updated"] for e in proxy.status()["endpoints"]), "all lists were read")
    for name in VECTORS:
        _, _, accepted, refused = VECTORS[name]
        everything |= set(accepted)
        entry = proxy.endpoint(name)
        if (entry["status"], entry["models"]["count"]) != ("healthy", len(accepted)):
            problems.append((name, entry["status"], entry["models"]["count"], accepted))
        for model in accepted:
            reply = proxy.post(CHAT, {"model": model})
            if reply.status != 200 or (reply.get("X-Olla-Endpoint") != name and model != "phi"):
                problems.append((name, model, reply.status, reply.get("X-Olla-Endpoint")))
    for name in VECTORS:
        for model in VECTORS[name][3]:
            reply = proxy.post(CHAT, {"model": model})
            if model.lower() not in {m.lower() for m in everything} and (
                    reply.status, reply.get("X-Olla-Routing-Reason")) != (404, "model_not_found"):
                problems.append((name, model, reply.status))
    assert not problems
    assert {m.lower() for m in listed(proxy)} == {m.lower() for m in everything}, "a list shows a name once, in one spelling"


@pytest.mark.parametrize("kind", [OllamaBackend, LmStudioBackend, OpenAIBackend], ids=lambda kind: kind.type)
def test_filtered_is_unknown(world, kind):
    """A filtered model is in no list and behind no path: 404, not 503, and no hint by its name."""
    a = world.backend(kind, "a", ["keep-1", "secret-1", "KEEP-2"])
    proxy = world.olla({"a": filtered(a, "keep*, secret*", "*Secret*")})
    for path in ("/v1/models", "/olla/proxy/v1/models", "/olla/openai/v1/models"):
        assert listed(proxy, path) == {"keep-1", "KEEP-2"}
    if kind is OllamaBackend:
        assert {m["name"] for m in proxy.get("/api/tags").json()["models"]} == {"keep-1", "KEEP-2"}
    for path in (CHAT, "/olla/proxy" + CHAT, "/olla/openai" + CHAT, "/v1/embeddings"):
        reply = proxy.post(path, {"model": "secret-1"})
        assert (reply.status, reply.get("X-Olla-Routing-Reason")) == (404, "model_not_found")
        assert "keep" in reply.json()["error"]["message"] or "did you mean" not in reply.json()["error"]["message"]
    assert a.calls == []
    assert proxy.endpoint("a")["models"]["count"] == 2


def test_filter_of_one_endpoint_only(world):
    """The same model on two machines: the filter of one says nothing about the other."""
    a, b = world.backend(OpenAIBackend, "a", ["m1", "m2"]), world.backend(OpenAIBackend, "b", ["m1", "m2"])
    proxy = world.olla({"a": filtered(a, "m1"), "b": filtered(b, exclude="m1")})
    for _ in range(4):
        assert proxy.post(CHAT, {"model": "m1"}).get("X-Olla-Endpoint") == "a"
        assert proxy.post(CHAT, {"model": "m2"}).get("X-Olla-Endpoint") == "b"


def test_all_filtered(world):
    """With nothing left the endpoint is still healthy and serves requests that name no model."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    a.on("/v1/x", lambda c, r: c.reply({"ok": 1}))
    proxy = world.olla({"a": filtered(a, "nothing-here")}, ready={"a": 0})
    assert proxy.post(CHAT, {"model": "m1"}).status == 404
    assert proxy.endpoint("a")["status"] == "healthy" and listed(proxy) == set()
    assert proxy.post("/olla/proxy/v1/x", {}).json() == {"ok": 1}


def test_aliases_see_what_is_left(world):
    """An alias must not lead around the filter."""
    a, b = world.backend(OpenAIBackend, "a", ["big", "small"]), world.backend(OpenAIBackend, "b", ["small"])
    proxy = world.olla({"a": filtered(a, exclude="big"), "b": b}, {"model_aliases.x": "big, small", "model_aliases.y": "big"})
    for _ in range(4):
        assert proxy.post(CHAT, {"model": "x"}).status == 200
    assert {call.json()["model"] for call in a.calls + b.calls} == {"small"}
    assert proxy.post(CHAT, {"model": "y"}).status == 404


def test_reload_changes_a_filter(world):
    """The list is read every five minutes: a changed filter must not wait for that."""
    a = world.backend(OpenAIBackend, "a", ["m1", "m2", "m3"])
    proxy = world.olla({"a": a}, ready={"a": 3})
    steps = ((("m1", None), {"m1"}), ((None, "m1"), {"m2", "m3"}), (("m*", "*3"), {"m1", "m2"}), ((None, None), {"m1", "m2", "m3"}))
    for (include, exclude), left in steps:
        proxy.reload({"a": filtered(a, include, exclude)})
        eventually(lambda: listed(proxy) == left, "only %r are listed" % left, 4, 0.02)
        for model in a.models:
            assert proxy.post(CHAT, {"model": model}).status == (200 if model in left else 404)
    states = [e["to"] for e in proxy.find_logs("endpoint state", endpoint="a")]
    assert states == ["healthy"], "a filter is no reason to take the endpoint out of service"


def test_new_models_are_filtered_too(world):
    """The filter counts for every list, not only for the first one."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": filtered(a, exclude="bad*")}, {"discovery.model_discovery.interval": "1s"})
    a.models = ["bad-1", "m1", "new-1"]
    eventually(lambda: "new-1" in listed(proxy), "the new model is listed", 4, 0.02)
    assert listed(proxy) == {"m1", "new-1"}
    a.models = ["bad-1", "bad-2"]
    eventually(lambda: listed(proxy) == set(), "the old ones are gone", 4, 0.02)


@pytest.mark.parametrize("pattern", ["a*b", "**", "***", "a**", "**a", "*a*b", "a*b*", "*a*b*", "a*b*c"])
@pytest.mark.parametrize("key", ["include", "exclude"])
def test_bad_patterns(tmp_path, binary, pattern, key):
    """The reference logs it and then serves every model: a filter that does not filter. Refused at start instead."""
    path = tmp_path / "my.ini"
    path.write_text("[endpoint:a]\nurl = http://h:1\ntype = ollama\nmodel_filter.%s = good*, %s\n" % (key, pattern))
    code, _, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert code == 1
    said = [line for line in err.splitlines() if line.startswith("%s:4: " % path)]
    assert said and "model_filter." + key in said[0] and '"%s"' % pattern in said[0], err


def test_good_patterns(tmp_path, binary):
    """What is right must not be refused or warned about."""
    path = tmp_path / "my.ini"
    path.write_text("[endpoint:a]\nurl = http://h:1\ntype = ollama\nmodel_filter.include = *, a, a*, *a, *a*, [a], a?b, org/x:y\n"
                    "model_filter.include = more*\nmodel_filter.exclude =\n")
    code, _, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert (code, err.strip()) == (0, "")


def test_a_bad_pattern_in_a_reload_changes_nothing(world):
    """With a typo in the new file the old filter must stay in force."""
    a = world.backend(OpenAIBackend, "a", ["m1", "m2"])
    proxy = world.olla({"a": filtered(a, "m1")})
    proxy.allowed_errors = True
    proxy.reload({"a": filtered(a, "m*2*")})
    eventually(lambda: [e for e in proxy.logs if e.get("level") in ("ERROR", "WARN")], "the refusal is logged", 5, 0.02)
    assert listed(proxy) == {"m1"}
    assert proxy.post(CHAT, {"model": "m2"}).status == 404


def test_printed_settings_show_the_filter(tmp_path, binary):
    """Who copies the two keys from the printed reference, with a name for NAME, must get a filter."""
    out = run_cli("--print-settings")[1]
    section, taken = None, {}
    for line in out.splitlines():
        header = re.match(r";?\[(.+)\]$", line)
        section = header.group(1) if header else section
        key = re.match(r";([a-z_.]*(?:include|exclude)) =", line)
        if key:
            taken.setdefault(section, []).append(key.group(1))
    assert len(taken) == 1 and len(next(iter(taken.values()))) == 2, taken
    path = tmp_path / "my.ini"
    section = next(iter(taken)).replace("NAME", "a")
    path.write_text("[endpoint:a]\nurl = http://h:1\ntype = ollama\n" + ("" if section == "endpoint:a" else "[%s]\n" % section)
                    + "".join("%s = a*b\n" % key for key in taken[next(iter(taken))]))
    code, _, err = run_cli("-t", "-c", path, cwd=tmp_path)
    assert code == 1 and err.count('"a*b"') == 2, "ignored: " + err
