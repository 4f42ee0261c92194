"""The catalogue of all models: its merged form, its flat forms, one model of it, and the model status."""

import json
import re
import threading
import time
from datetime import datetime
from urllib.parse import quote

import pytest

from backend import Gate, eventually
from client import dump
from harness import World, endpoint, report
from servers import Compatible, Dmr, Lemonade, Llamacpp, Lmdeploy, LmStudio, Localai, Ollama, Sglang, Vllm, VllmMlx

CHAT = "/v1/chat/completions"
FAST = {"check_interval": "1s", "check_timeout": "500ms"}
LISTS = {"discovery.model_discovery.interval": "1s"}
CREATED = 1754535984  # what the scripted servers say
FORMATS = ("openai", "vllm", "sglang", "lmdeploy", "llamacpp", "lemonade", "docker-model-runner", "vllm-mlx")
SHOWS_ALL = ["/olla/models?format=" + name for name in FORMATS] + ["/v1/models", "/olla/proxy/v1/models", "/olla/openai/v1/models",
                                                                   "/olla/openai-compatible/v1/models", "/olla/anthropic/v1/models"]


def digest(letter):
    return letter * 56 + "0123456" + letter


ONE, TWO, THREE = digest("a"), digest("b"), digest("c")


def names_of(document):
    return [entry["name"] for entry in document["models"]] if "data" not in document else [entry["id"] for entry in document["data"]]


def names(proxy, path="/v1/models"):
    reply = proxy.get(path)
    assert reply.status == 200, (path, reply.body)
    return names_of(reply.json())


def unified(proxy, query=""):
    reply = proxy.get("/olla/models" + query)
    assert reply.status == 200, (query, reply.body)
    return {entry["id"]: entry for entry in reply.json()["data"]}


def chosen(proxy, query):
    return set(unified(proxy, query))


def one(proxy, name):
    reply = proxy.get("/olla/models/" + quote(name, safe=""))
    assert reply.status == 200, (name, reply.body)
    return reply.json()


def in_order(found, aliases=()):
    """By name without regard to case, the configured aliases behind the models."""
    lower = {a.lower() for a in aliases}
    models = [n for n in found if n.lower() not in lower]
    assert found == sorted(models, key=str.lower) + sorted((n for n in found if n.lower() in lower), key=str.lower)


def fields(entry, required, optional=()):
    required, optional = set(required.split()), set(optional.split() if optional else ())
    assert required <= set(entry) <= required | optional, sorted(entry)


def size_text(size):
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            break
        size /= 1024
    return "%d B" % size if unit == "B" else "%.2f %s" % (size, unit)


class Fleet:
    """Servers of many kinds with one model in several spellings, copies, and tags that differ from machine to machine."""

    aliases = {"chat": "mistral:7b", "Fast": "nothing, qwen2.5-7b-instruct", "zoo": "ai/smollm2", "gone": "nothing"}
    working = ("chat", "Fast", "zoo")

    def __init__(self):
        self.world = World()
        kinds = (("lms", LmStudio, ["qwen2.5-7b-instruct", "pixel-1", "text-embedding-x"]),
                 ("oll-a", Ollama, ["mistral:7b", "llama3.2:3b", "copy-of-llama:latest"]),
                 ("oll-b", Ollama, ["Mistral:7b", "my-llama:latest"]),
                 ("vl", Vllm, ["Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "LLAMA3.2:3b"]),
                 ("lla", Llamacpp, ["/models/phi-4.gguf"]),
                 ("lem", Lemonade, ["Tiny-Instruct-CPU"]),
                 ("dmr", Dmr, ["ai/smollm2"]),
                 ("loc", Localai, ["gpt-4o", "mistral-7b-instruct"]),
                 ("sg", Sglang, ["deepseek-ai/DeepSeek-R1"]),
                 ("lmd", Lmdeploy, ["internlm/internlm2_5-7b-chat"]),
                 ("mlx", VllmMlx, ["mlx-community/Llama-3.2-3B-4bit"]),
                 ("oai", Compatible, ["plain"]))
        self.servers = {name: self.world.backend(kind, name, models) for name, kind, models in kinds}
        self.servers["lms"].facts = {
            "qwen2.5-7b-instruct": {"state": "loaded"},
            "pixel-1": {"type": "vlm", "quantization": "4bit", "arch": "pixel"},
            "text-embedding-x": {"type": "embeddings", "state": "loaded", "arch": "nomic-bert", "max_context_length": 2048,
                                 "loaded_context_length": 2048}}
        details = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama", "clip"], "parameter_size": "8.0B",
                   "quantization_level": "Q5_K_S"}
        self.servers["oll-a"].facts = {
            "llama3.2:3b": {"digest": ONE}, "copy-of-llama:latest": {"digest": ONE},
            "mistral:7b": {"digest": TWO, "size": 1000, "modified_at": "2025-02-03T04:05:06Z", "details": details}}
        self.servers["oll-b"].facts = {"my-llama:latest": {"digest": ONE}, "Mistral:7b": {"digest": THREE}}
        self.spec = {name: endpoint(server) for name, server in self.servers.items()}
        self.settings = {"model_aliases." + name: value for name, value in self.aliases.items()}
        self.proxy = self.world.olla(self.spec, self.settings, ready={name: len(models) for name, _, models in kinds})

    @property
    def proxies(self):
        return self.world.proxies

    # every name once, in the spelling of the endpoint that is configured first
    flat = ["/models/phi-4.gguf", "ai/smollm2", "copy-of-llama:latest", "deepseek-ai/DeepSeek-R1", "gpt-4o", "internlm/internlm2_5-7b-chat",
            "llama3.2:3b", "meta-llama/Llama-3.1-8B-Instruct", "mistral-7b-instruct", "mistral:7b", "mlx-community/Llama-3.2-3B-4bit",
            "my-llama:latest", "pixel-1", "plain", "qwen2.5-7b-instruct", "text-embedding-x", "Tiny-Instruct-CPU", "chat", "Fast", "zoo"]
    merged = [n for n in flat if n not in ("llama3.2:3b", "my-llama:latest")]
    other_mistral = "Mistral:7b-" + THREE[-8:]


@pytest.fixture
def site(kept):
    site = kept(Fleet)
    yield site
    report(site.proxy.idle_problems())


# ---- the merged form

def test_merged_entries(site):
    """One model in several spellings, or under several names on one machine, is one entry; a tag that means two
    models is two. The reference lists the second name of a copy nowhere."""
    found = unified(site.proxy)
    assert set(found) == set(site.merged) | {site.other_mistral}
    for name, spellings, where in (
            ("qwen2.5-7b-instruct", ["qwen2.5-7b-instruct", "Qwen2.5-7B-Instruct"], {"lms", "vl"}),
            ("copy-of-llama:latest", ["copy-of-llama:latest", "llama3.2:3b", "LLAMA3.2:3b", "my-llama:latest"], {"oll-a", "oll-b", "vl"}),
            ("mistral:7b", ["mistral:7b"], {"oll-a"}), (site.other_mistral, ["Mistral:7b"], {"oll-b"}),
            ("meta-llama/Llama-3.1-8B-Instruct", ["meta-llama/Llama-3.1-8B-Instruct"], {"vl"})):
        olla = found[name]["olla"]
        assert [a.lower() for a in olla["aliases"]] == [a.lower() for a in spellings], name
        assert set(olla["aliases"]) == set(spellings), name
        assert {a["endpoint"] for a in olla["availability"]} == where and len(olla["availability"]) == len(where), name


def test_first_of_the_aliases_is_the_id(site):
    """Who prints the first alias, as the reference does, prints the id."""
    for name, entry in unified(site.proxy).items():
        if name != site.other_mistral:
            assert entry["olla"]["aliases"][0] == name
        rest = entry["olla"]["aliases"][1:]
        assert rest == sorted(rest, key=str.lower) and len(set(entry["olla"]["aliases"])) == len(rest) + 1


def test_unified_fields(site):
    """Exactly the shape that clients of the reference read."""
    reply = site.proxy.get("/olla/models")
    assert reply.status == 200 and reply.get("Content-Type") == "application/json" and reply.body.endswith(b"}\n")
    document = reply.json()
    fields(document, "object data")
    assert document["object"] == "list"
    for entry in document["data"]:
        fields(entry, "id object owned_by created olla")
        assert (entry["object"], entry["owned_by"]) == ("model", "olla") and type(entry["created"]) is int and entry["created"] > 0
        fields(entry["olla"], "family variant parameter_size quantization aliases availability capabilities",
               "max_context_length prompt_template_id")
        for key in ("family", "variant", "parameter_size", "quantization"):
            assert isinstance(entry["olla"][key], str)
        for place in entry["olla"]["availability"]:
            fields(place, "endpoint state")
        assert entry["olla"]["availability"] and entry["olla"]["aliases"]
    assert site.proxy.get("/olla/models?format=unified").body == reply.body


def test_unified_order(site):
    """By id without regard to case, a name with a suffix behind the one without, aliases last."""
    in_order(names_of(site.proxy.get("/olla/models").json()), site.working)


def test_facts_of_an_entry(site):
    """What one server does not know, another one of the same model may."""
    found = {name: entry["olla"] for name, entry in unified(site.proxy).items()}
    qwen, llama, mistral = (found[n] for n in ("qwen2.5-7b-instruct", "copy-of-llama:latest", "mistral:7b"))
    assert (qwen["family"], qwen["quantization"]) == ("qwen2", "q4km")
    assert qwen["variant"] == llama["variant"] == "", "a family that one server says has no variant that was guessed at another"
    assert qwen["max_context_length"] in (32768, 131072)
    states = {a["endpoint"]: a["state"] for a in qwen["availability"]}
    assert states == {"lms": "loaded", "vl": "unknown"}
    assert (llama["family"], llama["parameter_size"], llama["quantization"]) == ("llama", "3.2b", "q4km")
    assert llama["max_context_length"] == 131072, "Ollama's list does not say it, vLLM's does"
    assert {a["state"] for a in llama["availability"] if a["endpoint"].startswith("oll")} == {"available"}
    assert (mistral["parameter_size"], mistral["quantization"]) == ("8b", "q5ks")
    assert found[site.other_mistral]["quantization"] == "q4km", "another model has its own facts"
    assert found["Tiny-Instruct-CPU"]["availability"] == [{"endpoint": "lem", "state": "available"}]
    assert "max_context_length" not in found["gpt-4o"]


def test_configured_aliases_have_facts(site):
    """An alias is chosen from a menu like a model: it shows what the first target that is there shows."""
    found = {name: entry["olla"] for name, entry in unified(site.proxy).items()}
    for alias, target in (("chat", "mistral:7b"), ("Fast", "qwen2.5-7b-instruct"), ("zoo", "ai/smollm2")):
        for key in ("family", "parameter_size", "quantization", "capabilities", "max_context_length"):
            assert found[alias].get(key) == found[target].get(key), (alias, key)
        assert found[alias]["availability"], alias
    tags = {m["name"]: m for m in site.proxy.get("/api/tags").json()["models"]}
    for key in ("digest", "size", "modified_at", "details"):
        assert tags["chat"][key] == tags["mistral:7b"][key]
    v0 = {m["id"]: m for m in site.proxy.get("/olla/lmstudio/api/v0/models").json()["data"]}
    assert v0["Fast"]["state"] == "loaded" and v0["Fast"]["quantization"] == "Q4_K_M"


# ---- the flat forms

@pytest.mark.parametrize("path", SHOWS_ALL)
def test_flat_lists(site, path):
    """Every name once, in a fixed order, in the spelling of the first endpoint, aliases last."""
    assert names(site.proxy, path) == site.flat


OWNERS = {"qwen2.5-7b-instruct": "qwen2.5", "meta-llama/Llama-3.1-8B-Instruct": "meta-llama", "ai/smollm2": "ai", "gpt-4o": None,
          "mistral:7b": None, "mistral-7b-instruct": "mistral", "plain": None, "deepseek-ai/DeepSeek-R1": "deepseek-ai"}
SHAPES = {
    # format: (default owner, required beside the common four, optional)
    "openai": ("olla", "", ""),
    "vllm": ("vllm", "root permission", "max_model_len parent"),
    "sglang": ("sglang", "root", "max_model_len parent supports_vision radix_cache_size spec_decoding frontend_enabled"),
    "lmdeploy": ("lmdeploy", "permission", ""),
    "llamacpp": ("llamacpp", "", ""),
    "lemonade": ("lemonade", "checkpoint recipe downloaded", ""),
    "docker-model-runner": ("docker", "", ""),
    "vllm-mlx": ("vllm-mlx", "", ""),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_shape(site, name):
    """The exact fields of every OpenAI-like form; programs written for one backend read them by name."""
    owner, required, optional = SHAPES[name]
    document = site.proxy.get("/olla/models?format=" + name).json()
    assert document.pop("models", None) is None
    fields(document, "object data")
    assert document["object"] == "list"
    found = {entry["id"]: entry for entry in document["data"]}
    for model, entry in found.items():
        fields(entry, "id object owned_by created " + required, optional)
        assert entry["object"] == "model" and type(entry["created"]) is int
        if "root" in required:
            assert entry["root"] == model
        if "permission" in required:
            assert len(entry["permission"]) == 1
            allow = dict(entry["permission"][0])
            assert (allow.pop("id"), allow.pop("object")) == ("modelperm-olla-" + model.replace("/", "-"), "model_permission")
            assert type(allow.pop("created")) is int
            assert allow == {"allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False,
                             "allow_view": True, "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False}
        if name == "lemonade":
            assert isinstance(entry["checkpoint"], str) and isinstance(entry["recipe"], str) and isinstance(entry["downloaded"], bool)
    for model, said in OWNERS.items():
        assert found[model]["owned_by"] == ("olla" if name == "openai" else said or owner), model
    if "max_model_len" in optional:
        assert found["meta-llama/Llama-3.1-8B-Instruct"]["max_model_len"] == 131072 and "max_model_len" not in found["gpt-4o"]
    if name == "lemonade":
        lem = found["Tiny-Instruct-CPU"]
        assert (lem["checkpoint"], lem["recipe"]) == ("amd/Qwen2.5-0.5B-Instruct-quantized_int4-float16-cpu-onnx", "oga-cpu")
        assert (found["plain"]["checkpoint"], found["plain"]["recipe"]) == ("", "")


def test_ollama_shape(site):
    """Ollama clients show size, digest and details: exactly what the machine said, and nothing of other types."""
    for path in ("/api/tags", "/olla/ollama/api/tags", "/olla/proxy/api/tags", "/olla/models?format=ollama"):
        document = site.proxy.get(path).json()
        fields(document, "models")
        assert names_of(document) == ["copy-of-llama:latest", "llama3.2:3b", "mistral:7b", "my-llama:latest", "chat"], path
        said = {m["name"]: m for server in ("oll-b", "oll-a") for m in site.servers[server].tags()["models"]}
        for entry in document["models"]:
            fields(entry, "name model modified_at digest size details")
            assert entry["model"] == entry["name"]
            source = said["mistral:7b" if entry["name"] == "chat" else entry["name"]]
            for key in ("modified_at", "digest", "size"):
                assert entry[key] == source[key], (path, entry["name"], key)
            fields(entry["details"], "format family families parameter_size quantization_level", "parent_model")
            assert {k: v for k, v in source["details"].items() if k in entry["details"]} == entry["details"]
    assert names(site.proxy, "/olla/ollama/v1/models") == names(site.proxy, "/api/tags")


def test_lm_studio_shape(site):
    """LM Studio's own list, with its kinds: in the reference every `type` is `model`."""
    paths = ["/olla/%s/api/v0/models" % prefix for prefix in LmStudio.prefixes] + ["/olla/models?format=lmstudio"]
    documents = [site.proxy.get(path).json() for path in paths]
    assert all(document == documents[0] for document in documents)
    fields(documents[0], "object data")
    found = {entry["id"]: entry for entry in documents[0]["data"]}
    assert names_of(documents[0]) == ["pixel-1", "qwen2.5-7b-instruct", "text-embedding-x", "Fast"]
    for entry in found.values():
        fields(entry, "id object type state", "publisher arch quantization max_context_length")
        assert entry["object"] == "model" and entry["publisher"] == "lmstudio-community"
    assert {n: (e["type"], e["state"]) for n, e in found.items()} == {
        "pixel-1": ("vlm", "not-loaded"), "qwen2.5-7b-instruct": ("llm", "loaded"), "text-embedding-x": ("embeddings", "loaded"),
        "Fast": ("llm", "loaded")}
    assert (found["pixel-1"]["quantization"], found["pixel-1"]["arch"]) == ("4bit", "pixel")
    assert (found["text-embedding-x"]["max_context_length"], found["qwen2.5-7b-instruct"]["arch"]) == (2048, "qwen2")


def test_anthropic_shape(site):
    """Anthropic's libraries page through this list by first_id, last_id and has_more."""
    replies = [site.proxy.get("/olla/anthropic/v1/models"), site.proxy.get("/v1/models", {"anthropic-version": "2023-06-01"})]
    assert replies[0].body == replies[1].body
    document = replies[0].json()
    fields(document, "data has_more first_id last_id")
    for entry in document["data"]:
        fields(entry, "type id display_name created_at")
        assert entry["type"] == "model" and entry["display_name"] == entry["id"]
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\Z", entry["created_at"]), entry["created_at"]
    assert (document["has_more"], document["first_id"], document["last_id"]) == (False, site.flat[0], site.flat[-1])
    assert "first_id" not in site.proxy.get("/v1/models").json()


def test_provider_lists(site):
    """A prefix lists what servers of its type have, and the aliases that lead there."""
    for prefix, wanted in (("vllm", {"qwen2.5-7b-instruct", "meta-llama/llama-3.1-8b-instruct", "llama3.2:3b", "fast"}),
                           ("llamacpp", {"/models/phi-4.gguf"}), ("lemonade", {"tiny-instruct-cpu"}), ("dmr", {"ai/smollm2", "zoo"}),
                           ("localai", {"gpt-4o", "mistral-7b-instruct"}), ("sglang", {"deepseek-ai/deepseek-r1"}),
                           ("lmdeploy", {"internlm/internlm2_5-7b-chat"}), ("vllm-mlx", {"mlx-community/llama-3.2-3b-4bit"}),
                           ("lmstudio", {"qwen2.5-7b-instruct", "pixel-1", "text-embedding-x", "fast"}), ("litellm", set())):
        found = names(site.proxy, "/olla/%s/v1/models" % prefix)
        assert {n.lower() for n in found} == wanted and len(found) == len(wanted), prefix
        in_order(found, site.working)
    for entry in site.proxy.get("/olla/lemonade/api/v1/models").json()["data"]:
        fields(entry, "id object owned_by created checkpoint recipe downloaded")
    for entry in site.proxy.get("/olla/dmr/engines/v1/models").json()["data"]:
        fields(entry, "id object owned_by created")
    assert names(site.proxy, "/olla/lm_studio/api/v1/models") == names(site.proxy, "/olla/lmstudio/v1/models")


def test_created(site):
    """The backend's own figure; where there is none, one that does not change with every call."""
    for path in ("/v1/models", "/olla/models", "/olla/models?format=vllm"):
        found = {entry["id"]: entry["created"] for entry in site.proxy.get(path).json()["data"]}
        assert found["plain"] == found["meta-llama/Llama-3.1-8B-Instruct"] == CREATED
        assert abs(found["gpt-4o"] - time.time()) < 600 and abs(found["pixel-1"] - time.time()) < 600


def test_nothing_listed_that_cannot_be_used(site):
    """A name in a menu that is then `model not found` is worse than no menu."""
    everything = set()
    for path in SHAPES_AND_LISTS:
        everything |= set(names(site.proxy, path))
    for entry in unified(site.proxy).values():
        everything |= set(entry["olla"]["aliases"])
    for name in everything:
        reply = site.proxy.post(CHAT, {"model": name})
        assert reply.status == 200, (name, reply.body)


SHAPES_AND_LISTS = SHOWS_ALL + ["/olla/models?format=ollama", "/olla/models?format=lmstudio", "/api/tags", "/olla/vllm/v1/models",
                                "/olla/lmstudio/api/v0/models", "/olla/lemonade/api/v1/models", "/olla/dmr/engines/v1/models"]


def test_head_and_other_methods(site):
    """A local list answers every method as it answers GET; HEAD without the body."""
    for path in SHAPES_AND_LISTS + ["/olla/models", "/olla/models/plain", "/internal/status/models"]:
        with site.proxy.client() as client:
            get = client.request("GET", path)
            head = client.request("HEAD", path)
            assert (head.status, head.get("Content-Type")) == (200, get.get("Content-Type")), path
            post = client.request("POST", path, b"{}")
            assert post.status == 200 and set(post.json()) == set(get.json()), path


def test_the_order_does_not_change(site):
    """In the reference menus jump about with every call."""
    paths = SHAPES_AND_LISTS + ["/olla/models"]
    first = {path: site.proxy.get(path).body for path in paths}
    for _ in range(6):
        for path in paths:
            assert site.proxy.get(path).body == first[path], path
    for balancer in ("round-robin", "least-connections"):
        site.proxy.reload(site.spec, dict(site.settings, **{"proxy.load_balancer": balancer}))
        eventually(lambda: site.proxy.status()["proxy"]["balancer"] == balancer, "the reload is done", 5, 0.02)
        for path in paths:
            assert site.proxy.get(path).body == first[path], (path, balancer)


# ---- filters of /olla/models

def test_filter_by_endpoint(site):
    """What does this machine have? An unknown name is an empty answer, not everything."""
    assert chosen(site.proxy, "?endpoint=vl") - {"Fast"} == {"qwen2.5-7b-instruct", "copy-of-llama:latest", "meta-llama/Llama-3.1-8B-Instruct"}
    assert chosen(site.proxy, "?endpoint=oll-b") - {"chat"} == {"copy-of-llama:latest", site.other_mistral}
    assert chosen(site.proxy, "?endpoint=nobody") == set()
    assert site.proxy.get("/olla/models?endpoint=nobody").json() == {"object": "list", "data": []}
    assert set(names(site.proxy, "/olla/models?format=openai&endpoint=lms")) == {"qwen2.5-7b-instruct", "pixel-1", "text-embedding-x", "Fast"}


def test_filter_by_family(site):
    """Exact and case-sensitive, from the backend's word or from the name."""
    assert chosen(site.proxy, "?family=qwen2") == {"qwen2.5-7b-instruct", "Fast"}
    assert chosen(site.proxy, "?family=Qwen2") == chosen(site.proxy, "?family=qwen") == set()
    assert chosen(site.proxy, "?family=internlm") == {"internlm/internlm2_5-7b-chat"}
    assert chosen(site.proxy, "?family=nomic-bert") == {"text-embedding-x"}


def test_filter_by_type(site):
    """`type=embeddings` is always empty in the reference, and plain names are no `llm` there."""
    everything = chosen(site.proxy, "")
    assert chosen(site.proxy, "?type=embeddings") == {"text-embedding-x"}
    assert chosen(site.proxy, "?type=vlm") == {"pixel-1"}
    assert chosen(site.proxy, "?type=llm") == everything - {"text-embedding-x"}
    for word, kind in (("vision", "vlm"), ("multimodal", "vlm"), ("embedding", "embeddings"), ("embeddings", "embeddings"),
                       ("vector_search", "embeddings"), ("chat", "llm"), ("text_generation", "llm"), ("completion", "llm")):
        wanted = chosen(site.proxy, "?type=" + kind)
        assert chosen(site.proxy, "?capability=" + word) == wanted, word
        assert chosen(site.proxy, "?type=vlm&capability=" + word) == wanted, "capability wins"
    assert chosen(site.proxy, "?capability=juggling") == everything
    assert set(names(site.proxy, "/olla/models?format=openai&type=embeddings")) == {"text-embedding-x"}


def test_filter_by_availability(site):
    """true = some server says that it is loaded."""
    loaded = {"qwen2.5-7b-instruct", "text-embedding-x", "Fast"}
    assert chosen(site.proxy, "?available=true") == loaded
    assert chosen(site.proxy, "?available=false") == chosen(site.proxy, "") - loaded


def test_filters_together(site):
    """All of them must hold, whatever the format and the order of the parameters."""
    assert chosen(site.proxy, "?endpoint=lms&available=true&type=embeddings") == {"text-embedding-x"}
    assert chosen(site.proxy, "?type=llm&endpoint=lms&available=true") == {"qwen2.5-7b-instruct", "Fast"}
    assert chosen(site.proxy, "?family=llama&endpoint=vl") == {"copy-of-llama:latest", "meta-llama/Llama-3.1-8B-Instruct"}
    assert chosen(site.proxy, "?endpoint=oll%2Da&unknown=1&family=ll%61ma") - {"chat"} == {"copy-of-llama:latest", "mistral:7b"}
    assert names(site.proxy, "/olla/models?format=lmstudio&available=false") == ["pixel-1"]
    assert names(site.proxy, "/olla/models?available=true&format=ollama") == []


@pytest.mark.parametrize("query,words", [
    ("format=nonsense", ("invalid query parameter format=nonsense: unsupported format. Supported formats: ", "docker-model-runner")),
    ("format=OpenAI", ("invalid query parameter format=OpenAI: unsupported format. Supported formats: ", "unified")),
    ("available=maybe", ("invalid value for 'available' parameter. Use 'true' or 'false'",)),
    ("available=True", ("invalid value for 'available' parameter. Use 'true' or 'false'",)),
    ("format=%3Cb%3E%0d%0aX-Evil:1", ("unsupported format",))])
def test_bad_parameters(site, query, words):
    """A typo must not look like an answer."""
    reply = site.proxy.get("/olla/models?" + query)
    assert reply.status == 400 and reply.get("Content-Type") == "text/plain; charset=utf-8"
    assert not reply.has("X-Evil")
    for word in words:
        assert word in reply.text()
    if query.startswith("format=n"):
        for name in FORMATS + ("unified", "ollama", "lmstudio"):
            assert name in reply.text()


# ---- one model

def test_one_model(site):
    """By id, by any spelling in any case, by configured alias; names with slashes and colons plain and encoded."""
    for name, wanted in (("mistral:7b", "mistral:7b"), ("MISTRAL:7B", "mistral:7b"), (site.other_mistral, site.other_mistral),
                         ("qwen2.5-7B-instruct", "qwen2.5-7b-instruct"), ("Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
                         ("llama3.2:3b", "copy-of-llama:latest"), ("copy-of-llama", "copy-of-llama:latest"), ("My-Llama", "copy-of-llama:latest"),
                         ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"), ("AI/smollm2", "ai/smollm2")):
        forms = {name, quote(name, safe=""), quote(name, safe="/"), "".join("%%%02x" % b for b in name.encode())}
        for form in forms:
            reply = site.proxy.get("/olla/models/" + form)
            assert reply.status == 200, (form, reply.body)
            assert reply.json()["id"] == wanted, form
    assert site.proxy.get("/olla/models/plain?x=1").json()["id"] == "plain"
    for alias in ("chat", "fast", "ZOO"):
        assert one(site.proxy, alias)["endpoints"], alias


def test_one_model_with_a_path_as_its_name(site):
    """llama.cpp's id is the path of the file when it has no alias: with its first slash."""
    assert one(site.proxy, "/models/phi-4.gguf")["id"] == "/models/phi-4.gguf"
    assert site.proxy.get("/v1/models/" + quote("/models/phi-4.gguf", safe="")).json()["id"] == "/models/phi-4.gguf"


def test_disk_size(site):
    """A model that has two names on one machine lies there once."""
    assert one(site.proxy, "copy-of-llama")["total_disk_size"] == size_text(2 * 2019393189)
    assert one(site.proxy, "mistral:7b")["total_disk_size"] == "1000 B"
    assert one(site.proxy, "gpt-4o")["total_disk_size"] == "0 B"


def test_fields_of_one_model(site):
    """The shape of the reference, with sums over the machines that have it."""
    llama, qwen = one(site.proxy, "copy-of-llama"), one(site.proxy, "qwen2.5-7b-instruct")
    for entry in (llama, qwen, one(site.proxy, "gpt-4o"), one(site.proxy, "Fast")):
        fields(entry, "id family variant parameter_size quantization format total_disk_size last_seen aliases endpoints loaded_endpoints"
               " capabilities parameter_count", "max_context_length")
        assert re.match(r"(\d+[smhd] ago|never)\Z", entry["last_seen"])
        assert type(entry["parameter_count"]) is int
    assert (llama["family"], llama["parameter_size"], llama["quantization"], llama["format"]) == ("llama", "3.2b", "q4km", "gguf")
    assert llama["parameter_count"] == 3200000000
    assert sorted(llama["endpoints"]) == ["oll-a", "oll-b", "vl"] and llama["loaded_endpoints"] == []
    assert sorted(a.lower() for a in llama["aliases"]) == ["copy-of-llama:latest", "llama3.2:3b", "llama3.2:3b", "my-llama:latest"]
    assert (sorted(qwen["endpoints"]), qwen["loaded_endpoints"]) == (["lms", "vl"], ["lms"])


@pytest.mark.parametrize("path", ["nothing", "mistral", "meta-llama", "meta-llama%2F", "plain/x", "gone", "x" * 3000, "%70lai"])
def test_no_such_model(site, path):
    """The exact text; and a part of a name is no name."""
    reply = site.proxy.get("/olla/models/" + path)
    assert (reply.status, reply.body) == (404, b"Model not found\n")
    assert reply.get("Content-Type") == "text/plain; charset=utf-8"


def test_no_name_at_all(site):
    """The exact text of the reference."""
    reply = site.proxy.get("/olla/models/")
    assert (reply.status, reply.body) == (400, b"Model ID or alias required\n")


def test_one_model_in_openai_form(site):
    """Client libraries ask for one model at /v1/models/NAME: it must agree with the list."""
    entries = {e["id"]: e for e in site.proxy.get("/v1/models").json()["data"]}
    for name in ("plain", "meta-llama/Llama-3.1-8B-Instruct", "Fast", "llama3.2:3b"):
        assert site.proxy.get("/v1/models/" + quote(name, safe="")).json() == entries[name]


# ---- the model status

def status_models(proxy, query=""):
    reply = proxy.get("/internal/status/models" + query)
    assert reply.status == 200 and reply.get("Content-Type") == "application/json"
    return reply.json()


def test_status_document(site):
    """What every server said, by its own names."""
    document = status_models(site.proxy)
    fields(document, "timestamp total_models total_families total_endpoints models_by_family recent_models")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", document["timestamp"])
    every = {m for server in site.servers.values() for m in server.models}
    assert document["total_models"] == len(every) and document["total_endpoints"] == len(site.servers)
    families = document["models_by_family"]
    assert document["total_families"] in (len(families), len(set(families) - {"unknown"}))
    assert {m for group in families.values() for m in group} == every
    assert all(group == sorted(group, key=str.lower) and group for group in families.values())
    assert {"copy-of-llama:latest", "llama3.2:3b"} <= set(families["llama"]) and families["nomic-bert"] == ["text-embedding-x"]
    assert len(document["recent_models"]) == 10
    seen = [(datetime.fromisoformat(entry["last_seen_at"]), entry["name"]) for entry in document["recent_models"]]
    for (newer, name), (older, next_name) in zip(seen, seen[1:]):
        assert newer > older or (newer == older and name.lower() <= next_name.lower()), "newest first, then by name"


def test_status_fields(site):
    """Names, sizes and places as the servers gave them, not in normal form."""
    document = status_models(site.proxy, "?detailed=true&group=family")
    found = {m["name"]: m for group in document["model_groups"] for m in group["models"]}
    assert set(found) == {m for server in site.servers.values() for m in server.models}
    ids = {e["name"]: e["id"] for e in site.proxy.status()["endpoints"]}
    for entry in found.values():
        fields(entry, "name last_seen last_seen_at endpoints", "type family size params quant max_context_length endpoint_ids aliases capabilities")
        assert entry["endpoints"] == sorted(entry["endpoints"]) and entry["endpoints"]
        assert entry["endpoint_ids"] == [ids[name] for name in entry["endpoints"]]
        assert re.match(r"\d+[smhd] ago\Z", entry["last_seen"])
    llama, mistral = found["llama3.2:3b"], found["mistral:7b"]
    assert "type" not in llama and (llama["family"], llama["params"], llama["quant"]) == ("llama", "3.2B", "Q4_K_M")
    assert llama["endpoints"] == ["oll-a"] and found["LLAMA3.2:3b"]["endpoints"] == ["vl"], "merged by exact name only"
    assert mistral["quant"] == "Q5_K_S"
    for name, kind in (("plain", "model"), ("qwen2.5-7b-instruct", "model"), ("Qwen2.5-7B-Instruct", "vllm"), ("ai/smollm2", "docker-model-runner"),
                       ("Tiny-Instruct-CPU", "lemonade"), ("/models/phi-4.gguf", "llamacpp"), ("deepseek-ai/DeepSeek-R1", "sglang"),
                       ("internlm/internlm2_5-7b-chat", "lmdeploy"), ("mlx-community/Llama-3.2-3B-4bit", "vllm-mlx")):
        assert found[name]["type"] == kind, name
    assert {"vision", "multimodal"} <= set(found["pixel-1"]["capabilities"])
    assert set(found["text-embedding-x"]["capabilities"]) == {"embeddings", "vector_search"}
    assert set(found["qwen2.5-7b-instruct"]["capabilities"]) == {"text_generation", "chat"}
    assert "long_context" in found["meta-llama/Llama-3.1-8B-Instruct"]["capabilities"]


def test_status_sizes(site):
    """Two decimals, rounded as everywhere else: 1.88 GB."""
    document = status_models(site.proxy, "?detailed=true&group=family")
    found = {m["name"]: m for group in document["model_groups"] for m in group["models"]}
    assert (found["llama3.2:3b"]["size"], found["mistral:7b"]["size"]) == ("1.88 GB", "1000 B") == (size_text(2019393189), size_text(1000))
    assert "size" not in found["plain"]


def test_status_groups(site):
    """Both parameters together add the groups; one alone does not."""
    for query in ("?detailed=true", "?group=family", "?detailed=1&group=family", "?detailed=true&group=Family", "?detailed=false&group=family"):
        assert "model_groups" not in status_models(site.proxy, query), query
    document = status_models(site.proxy, "?group=family&detailed=true")
    fields(document, "timestamp total_models total_families total_endpoints models_by_family recent_models model_groups")
    groups = document["model_groups"]
    for group in groups:
        fields(group, "family models endpoints model_count")
        listed = [m["name"] for m in group["models"]]
        assert listed == sorted(listed, key=str.lower) == document["models_by_family"][group["family"]] and group["model_count"] == len(listed)
        assert group["endpoints"] == sorted({e for m in group["models"] for e in m["endpoints"]})
    known = [g["family"] for g in groups]
    assert set(known) == set(document["models_by_family"])
    if "unknown" in known:
        assert known[-1] == "unknown"


def test_status_at_several_endpoints(world):
    """One exact name on several machines is one entry with all of them, also when one of them is down."""
    a, b = world.backend(Ollama, "z-first", ["m1", "m2"]), world.backend(Ollama, "a-second", ["m1"])
    proxy = world.olla({"z-first": endpoint(a, **FAST), "a-second": endpoint(b, **FAST)})
    find = {m["name"]: m["endpoints"] for m in status_models(proxy)["recent_models"]}
    assert find == {"m1": ["a-second", "z-first"], "m2": ["z-first"]}
    a.stop()
    proxy.wait_down("z-first")
    find = {m["name"]: m["endpoints"] for m in status_models(proxy)["recent_models"]}
    assert find == {"m1": ["a-second", "z-first"], "m2": ["z-first"]}


STATUS = ("/internal/status/models", "/internal/status/models?detailed=true&group=family", "/internal/status")


@pytest.mark.parametrize("path", STATUS)
def test_etag(site, path):
    """A dashboard that polls every second must get 304 until something changes, although `last_seen` and uptime move on."""
    reply = site.proxy.get(path)
    tag = reply.get("ETag")
    assert re.match(r'W/"[0-9a-zA-Z]+"\Z', tag)
    assert (reply.get("Cache-Control"), reply.get("Vary")) == ("private, no-cache", "Accept-Encoding")
    assert not reply.has("Content-Encoding")
    bare = tag[2:]
    for sent in (tag, bare, "*", '"x", ' + tag, tag + ', "y"', '"a",W/"b" , %s,"c"' % bare):
        for method in ("GET", "HEAD"):
            again = site.proxy.request(method, path, None, {"If-None-Match": sent})
            assert (again.status, again.body) == (304, b""), (method, sent)
            assert (again.get("ETag"), again.get("Cache-Control"), again.get("Vary")) == (tag, "private, no-cache", "Accept-Encoding")
            assert again.has("X-Olla-Request-ID") and not again.has("Content-Type") and not again.has("Content-Encoding")
    for sent in ('"x"', "", bare.strip('"'), '"%s' % bare, bare[:-2] + '"', ", ".join('"%d"' % n for n in range(300)) + ", " + tag):
        again = site.proxy.get(path, {"If-None-Match": sent})
        assert again.status == 200 and again.get("ETag") == tag and again.body, sent[:50]
    with site.proxy.client() as client:
        for _ in range(3):  # a 304 has no body: the connection goes on
            assert client.request("GET", path, None, {"If-None-Match": tag}).status == 304
        assert client.request("GET", path, None, {"If-None-Match": tag, "Accept-Encoding": "gzip"}).status == 304
        assert not client.request("GET", path, None, {"Accept-Encoding": "gzip"}).has("Content-Encoding")


def test_etags_differ(site):
    """Two documents with one tag would be mixed up in a cache; one tag per document and state."""
    tags = {path: site.proxy.get(path).get("ETag") for path in STATUS}
    assert len(set(tags.values())) == len(STATUS)
    assert not site.proxy.get("/internal/health").has("ETag")


def test_etag_changes_with_the_models(world):
    """A tag that stays when a model is gone shows it for ever."""
    a = world.backend(Compatible, "a", ["m1", "m2"])
    proxy = world.olla({"a": endpoint(a, **FAST)}, LISTS, ready={"a": 2})
    tag = proxy.get(STATUS[0]).get("ETag")
    a.models = ["m1", "m3"]
    eventually(lambda: "m3" in names(proxy), "the new list is read", 5, 0.02)
    reply = proxy.get(STATUS[0], {"If-None-Match": tag})
    assert reply.status == 200 and reply.get("ETag") != tag
    before = proxy.get(STATUS[2]).get("ETag")
    a.stop()
    proxy.wait_down("a")
    assert proxy.get(STATUS[2], {"If-None-Match": before}).status == 200


# ---- facts derived from names and words (appendix A)

FAMILIES = """
llama3.2:3b|llama|3.2
llama3:latest|llama|3
Meta-Llama-3.1-8B-Instruct||
meta-llama/Meta-Llama-3.1-8B-Instruct||
mistral:7b|mistral|:7b
mistral-7b-instruct|mistral|7b-instruct
mixtral:8x7b|mixtral|:8x7b
mistralai/Mistral-7B-Instruct-v0.3|mistral|ai/mistral-7b-instruct-v0.3
Qwen/Qwen2.5-7B-Instruct|qwen|2.5
qwen3:8b|qwen|3
phi4:14b|phi|4
gemma2:9b|gemma|2
deepseek-r1:8b|deepseek|r1:8b
deepseek-coder-v2:16b|deepseek-coder-v2|
deepseek-ai/DeepSeek-R1|deepseek|ai/deepseek-r1
codellama:13b|codellama|
starcoder2:3b|starcoder|2
gpt-oss:120b|gpt-oss|120b
openai/gpt-oss-20b||
gpt-4o|gpt|
gpt2|gpt|2
kimi-k2|kimi|
glm-4.5-air|glm|4.5
command-r:35b|command-r|35b
devstral:24b|devstral|24b
yi:34b|yi|
yi-34b|yi|34b
smollm2:135m|smollm|2
ai/smollm2|smollm|2
granite3.1-dense:8b|granite|3.1
internlm/internlm2_5-7b-chat|internlm|2
opt-125m|opt|
llava:7b||
tinyllama:1.1b||
nomic-embed-text:latest||
bge-m3||
"""
BASE = {"text-generation"}
CODE = {"code-generation", "programming", "code-completion"}
CHATTY = {"instruction-following", "chat"}
VISION = {"vision", "multimodal", "image-understanding"}
CAPABLE = {
    "any-7b": set(), "Star-CODE-1": CODE, "x-instruct": CHATTY, "y-Chat": CHATTY, "my-assistant": CHATTY, "reasoning-1": {"reasoning", "logic"},
    "Thinker": {"reasoning", "logic"}, "math-9": {"mathematics", "problem-solving"}, "a-vision": VISION, "b-vlm": VISION, "LLaVA-1": VISION,
    "code-chat-llava-math-think": CODE | CHATTY | VISION | {"mathematics", "problem-solving", "reasoning", "logic"}, "embed-1": set(),
}
CONTEXTS = {31999: set(), 32000: {"extended-context"}, 99999: {"extended-context"}, 100000: {"long-context"}, 999999: {"long-context"},
            1000000: {"long-context", "ultra-long-context"}}
QUANTS = """Q4_K_M q4km|Q4_0 q4|Q4_1 q4_1|Q5_0 q5|Q5_1 q5_1|Q8_0 q8|Q6_K q6k|Q2_K q2k|Q4_K_XL q4kxl|Q3_K_XL q3|Q3_K q3|IQ4_XS q4|IQ3_M q3
|UD-Q4_K_XL q4|Q5_K_L q5kl|Q2_K_S q2ks|TQ1_0 q1|F16 f16|fp16 f16|BF16 bf16|FP8 f8|F32 f32|FP32 f32|MXFP4 mxfp4|NVFP4 nvfp4|4bit 4bit|awq awq
|AWQ_4BIT awq4|AWQ-4BIT awq4|GPTQ-4BIT gptq4|GPTQ_4BIT gptq4|INT8 int8|INT4 int4|W4A16 w4a16|unknown unknown|Q4_K_S q4ks|Q3_K_L q3kl|Q3_K_M q3km
|Q3_K_S q3ks|Q5_K_M q5km|Q5_K_S q5ks"""
QUANTS = [tuple(part.split()) for part in QUANTS.replace("\n", "").split("|")]
PARAMETERS = """3.2B 3.2b 3200000000|7b 7b 7000000000|8.0B 8b 8000000000|12.25B 12.2b 12250000000|494.03M 494m 494030000|137M 137m 137000000
|1543.7M 1.5b 1543700000|1000M 1b 1000000000|999.6M 1000m 999600000|13 13b 13000000000|7_B 7b 7000000000|8x7B 8x7B 0|1.05T 1.05T 0"""
PARAMETERS = [tuple(part.split()) for part in PARAMETERS.replace("\n", "").split("|")]


class Words:
    """One proxy in front of servers whose lists are made of the vectors."""

    def __init__(self):
        self.world = World()
        self.families = [line.split("|") for line in FAMILIES.split()]
        names_only = self.world.backend(Compatible, "names", [name for name, _, _ in self.families] + list(CAPABLE))
        lengths = self.world.backend(Vllm, "lengths", ["context-%d" % n for n in CONTEXTS])
        lengths.facts = {"context-%d" % n: {"max_model_len": n} for n in CONTEXTS}
        words = self.world.backend(Ollama, "words", ["quant-%02d" % n for n in range(len(QUANTS))] +
                                   ["param-%02d" % n for n in range(len(PARAMETERS))] + ["bare"])
        base = {"parent_model": "", "format": "gguf", "family": "own-family", "families": None, "parameter_size": "", "quantization_level": ""}
        words.facts = {m: {"digest": "%064x" % (n + 1), "size": 0, "details": dict(base)} for n, m in enumerate(words.models)}
        for n, (word, _) in enumerate(QUANTS):
            words.facts["quant-%02d" % n]["details"]["quantization_level"] = word
        for n, (word, _, _) in enumerate(PARAMETERS):
            words.facts["param-%02d" % n]["details"]["parameter_size"] = word.replace("_", " ")
        words.facts["bare"]["details"]["family"] = ""
        self.words = words
        self.proxy = self.world.olla({s.name: endpoint(s) for s in (names_only, lengths, words)},
                                     ready={s.name: len(s.models) for s in (names_only, lengths, words)})
        self.found = {name: entry["olla"] for name, entry in unified(self.proxy).items()}


@pytest.fixture
def words(kept):
    return kept(Words)


def test_families_from_names(words):
    """The vectors of the reference."""
    got = {name: (words.found[name]["family"], words.found[name]["variant"]) for name, _, _ in words.families}
    assert got == {name: (family, variant) for name, family, variant in words.families}


def test_capabilities_from_names(words):
    """Words in the name, in any case, and nothing else."""
    for name, wanted in CAPABLE.items():
        got = words.found[name]["capabilities"]
        assert set(got) == BASE | wanted and len(got) == len(set(got)), name
    for length, wanted in CONTEXTS.items():
        entry = words.found["context-%d" % length]
        assert set(entry["capabilities"]) == BASE | wanted and entry["max_context_length"] == length
    assert chosen(words.proxy, "?type=embeddings") == {"embed-1", "nomic-embed-text:latest"}
    assert chosen(words.proxy, "?type=vlm") == {"a-vision", "b-vlm", "LLaVA-1", "llava:7b", "code-chat-llava-math-think"}


def test_quantisation(words):
    """The vectors of the reference; where it loses the digits they are kept."""
    got = {word: words.found["quant-%02d" % n]["quantization"] for n, (word, _) in enumerate(QUANTS)}
    assert got == dict(QUANTS)
    assert words.found["param-00"]["quantization"] == ""
    shown = {m["name"]: m["details"]["quantization_level"] for m in words.proxy.get("/api/tags").json()["models"]}
    assert [shown["quant-%02d" % n] for n in range(len(QUANTS))] == [word for word, _ in QUANTS], "as it was said"


def test_parameters(words):
    """The vectors of the reference."""
    for n, (word, text, count) in enumerate(PARAMETERS):
        entry = one(words.proxy, "param-%02d" % n)
        assert (entry["parameter_size"], entry["parameter_count"]) == (text, int(count)), word
    assert one(words.proxy, "bare")["parameter_size"] == ""


def test_what_ollama_says_wins_over_the_name(words):
    """A family that the backend names is not guessed again."""
    assert (words.found["quant-00"]["family"], words.found["quant-00"]["variant"]) == ("own-family", "")


def test_kinds_of_lm_studio(site):
    """The reference reads the wrong field, so that its kinds never count."""
    found = {name: set(entry["olla"]["capabilities"]) for name, entry in unified(site.proxy).items()}
    assert VISION | BASE <= found["pixel-1"]
    assert {"embeddings", "vector_search"} <= found["text-embedding-x"] and "text-generation" not in found["text-embedding-x"]
    assert not found["qwen2.5-7b-instruct"] & (VISION | {"embeddings"})
    assert BASE | CHATTY <= found["qwen2.5-7b-instruct"]


# ---- llama.cpp

def llama(world, name, models, props=None, **facts):
    server = world.backend(Llamacpp, name, models)
    server.facts = {m: dict(facts) for m in models} if facts else {}
    if props is not None:
        server.on("/props", lambda c, r: c.reply(props) if isinstance(props, (dict, bytes)) else c.reply({"error": "no"}, props))
    return server


def test_facts_of_llamacpp(world):
    """What the list's `meta` and the one extra question tell."""
    meta = {"vocab_type": 2, "n_ctx": ..., "n_ctx_train": 40000, "n_params": 494032768, "size": 491400192}
    props = {"default_generation_settings": {"n_ctx": 150000}, "total_slots": 4, "modalities": {"vision": True, "audio": False}}
    servers = {
        "meta": llama(world, "meta", ["by-meta"], 404, meta=meta), "props": llama(world, "props", ["by-props"], props, meta=meta),
        "two": llama(world, "two", ["router-1", "router-2"], props), "null": llama(world, "null", ["loading"], 503, meta=None),
        "junk": llama(world, "junk", ["junk"], b"<html>"),
        "deep": llama(world, "deep", ["deep"], b'{"x":' * 3000 + b"1" + b"}" * 3000),
        "blind": llama(world, "blind", ["blind"], {"default_generation_settings": {"n_ctx": "many"}, "modalities": {"vision": False}}),
    }
    proxy = world.olla({name: endpoint(s) for name, s in servers.items()}, ready={name: len(s.models) for name, s in servers.items()})

    def seen():
        return {name: entry["olla"] for name, entry in unified(proxy).items()}
    eventually(lambda: seen()["by-props"].get("max_context_length") == 150000, "the answer to /props counts", 5, 0.05)
    found = seen()
    assert found["by-meta"]["max_context_length"] == 40000 and "extended-context" in found["by-meta"]["capabilities"]
    assert VISION | {"long-context"} <= set(found["by-props"]["capabilities"])
    assert not VISION & set(found["by-meta"]["capabilities"]) and not VISION & set(found["blind"]["capabilities"])
    for name in ("router-1", "router-2"):
        assert not VISION & set(found[name]["capabilities"]), "a router's /props says nothing about its models"
        assert found[name].get("max_context_length") != 150000
    entry = one(proxy, "by-meta")
    assert (entry["parameter_count"], entry["total_disk_size"], entry["format"]) == (494032768, size_text(491400192), "gguf")
    for name in servers:
        assert proxy.endpoint(name)["status"] == "healthy", "the extra question is no health check"


def test_multimodal_llamacpp(world):
    """`capabilities` of the list itself says it too."""
    a = world.backend(Llamacpp, "a", ["seeing"])

    def both(conn, request):
        document = a.both()
        document["models"][0]["capabilities"] = ["completion", "multimodal"]
        conn.reply(document)
    a.on("/v1/models", both)
    proxy = world.olla({"a": a})
    assert VISION <= set(unified(proxy)["seeing"]["olla"]["capabilities"])
    assert chosen(proxy, "?type=vlm") == {"seeing"}


# ---- merging by configuration order

@pytest.mark.parametrize("first", ["a", "b"])
def test_the_first_endpoint_names_it(world, first):
    """Which list came first is chance; which section stands first is not."""
    gate = Gate()
    servers = {"a": world.backend(Vllm, "a", ["Foo/Bar"]), "b": world.backend(Ollama, "b", ["foo/bar"])}
    late = servers[first]
    path = next(iter(late.lists))
    reply = late.routes[path]
    late.on(path, lambda c, r: (gate.wait(), reply(c, r)))
    order = ["a", "b"] if first == "a" else ["b", "a"]
    other = order[1]
    proxy = world.olla({name: endpoint(servers[name], check_timeout="4s") for name in order}, ready=[other])
    assert names(proxy) == servers[other].models, "alone it has its own name"
    gate.open()
    proxy.wait_healthy({first: 1})
    wanted = servers[first].models[0]
    assert names(proxy) == [wanted] and list(unified(proxy)) == [wanted]
    assert unified(proxy)[wanted]["olla"]["aliases"] == [wanted, servers[other].models[0]]
    assert one(proxy, "FOO/bar")["id"] == wanted


def test_copies_over_three_machines(world):
    """Equal digests tie names together, also by way of a third machine; different ones keep a name apart."""
    servers = {name: world.backend(Ollama, name, models) for name, models in
               (("a", ["b-name", "x"]), ("b", ["c-name", "X"]), ("c", ["C-NAME", "z"]))}
    for name, facts in (("a", {"b-name": ONE, "x": TWO}), ("b", {"c-name": ONE, "X": THREE}), ("c", {"C-NAME": ONE, "z": TWO})):
        servers[name].facts = {model: {"digest": value} for model, value in facts.items()}
    proxy = world.olla(servers)
    found = {name: (set(e["olla"]["aliases"]), {a["endpoint"] for a in e["olla"]["availability"]}) for name, e in unified(proxy).items()}
    assert found == {"b-name": ({"b-name", "c-name", "C-NAME"}, {"a", "b", "c"}), "x": ({"x", "z"}, {"a", "c"}),
                     "X-" + THREE[-8:]: ({"X"}, {"b"})}
    assert names(proxy) == ["b-name", "c-name", "x", "z"]
    assert names(proxy, "/api/tags") == ["b-name", "c-name", "x", "z"]
    assert one(proxy, "Z")["id"] == "x" and one(proxy, "x-" + THREE[-8:])["id"] == "X-" + THREE[-8:]
    for name in ("x", "X"):
        assert {proxy.post(CHAT, {"model": name}).status for _ in range(3)} == {200}


def test_digest_and_none(world):
    """A server that tells no digest merges by name; a short one is used whole."""
    a, b, c = (world.backend(kind, name, ["same"]) for kind, name in ((Ollama, "a"), (Compatible, "b"), (Ollama, "c")))
    a.facts = {"same": {"digest": "abc"}}
    c.facts = {"same": {"digest": "def"}}
    proxy = world.olla({"a": a, "b": b, "c": c})
    found = {name: {p["endpoint"] for p in e["olla"]["availability"]} for name, e in unified(proxy).items()}
    assert set(found) == {"same", "same-def"} and "c" in found["same-def"] and {"a", "b"} <= found["same"]
    assert names(proxy) == ["same"]


# ---- what changes while it runs

def test_order_of_the_servers_list_does_not_matter(world):
    """Servers sort their lists by last use: the menu must not follow."""
    a = world.backend(Ollama, "a", ["b-1", "A-2", "c-3", "a-1", "B-0"])
    a.facts = {m: {"digest": digest(str(n))} for n, m in enumerate(a.models)}
    proxy = world.olla({"a": endpoint(a, **FAST)}, LISTS, ready={"a": 5})
    wanted = ["a-1", "A-2", "B-0", "b-1", "c-3"]
    assert names(proxy) == wanted == list(unified(proxy)) == names(proxy, "/api/tags")
    a.models.reverse()
    seen = len(a.listed)
    eventually(lambda: len(a.listed) >= seen + 2, "the list was read again", 6, 0.02)
    assert names(proxy) == wanted == list(unified(proxy)) == names(proxy, "/api/tags")


def test_removed_models_disappear(world):
    """In the reference a model that was deleted stays listed, and routed, until the restart."""
    a, b = world.backend(Ollama, "a", ["keep", "drop", "old-name"]), world.backend(Compatible, "b", ["drop", "own"])
    a.facts = {m: {"digest": d} for m, d in (("keep", ONE), ("drop", TWO), ("old-name", THREE), ("new-name", THREE), ("copy", ONE))}
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)}, dict(LISTS, **{"model_aliases.x": "old-name, own"}),
                       ready={"a": 3, "b": 2})
    assert set(unified(proxy)) == {"keep", "drop", "old-name", "own", "x"}
    a.models = ["keep", "new-name", "copy"]
    eventually(lambda: "new-name" in names(proxy), "the new list is read", 5, 0.02)
    assert names(proxy) == ["copy", "drop", "keep", "new-name", "own", "x"]
    assert set(unified(proxy)) == {"copy", "drop", "new-name", "own", "x"}, "keep and its copy are one"
    assert names(proxy, "/api/tags") == ["copy", "keep", "new-name"]
    assert unified(proxy)["drop"]["olla"]["availability"] == [{"endpoint": "b", "state": "unknown"}]
    assert proxy.get("/olla/models/old-name").status == 404
    assert proxy.post(CHAT, {"model": "old-name"}).status == 404
    assert "old-name" not in {n for group in status_models(proxy)["models_by_family"].values() for n in group}
    b.models = []
    eventually(lambda: "own" not in names(proxy), "an empty list empties", 5, 0.02)
    assert names(proxy) == ["copy", "keep", "new-name"], "the alias has no target any more"
    assert proxy.get("/olla/models/x").status == 404


def test_down_and_back(world):
    """What nobody can serve now is not offered, unless it is asked for."""
    a, b = world.backend(Ollama, "a", ["only-a", "Both"]), world.backend(LmStudio, "b", ["only-b", "both"])
    a.facts = {"only-a": {"digest": ONE}, "Both": {"digest": TWO}}
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)}, {"model_aliases.x": "only-a", "model_aliases.y": "only-a, only-b"})
    everything = ["Both", "only-a", "only-b", "x", "y"]
    assert names(proxy) == everything
    a.stop()
    proxy.wait_down("a")
    assert [n.lower() for n in names(proxy)] == ["both", "only-b", "y"]
    assert {n.lower() for n in unified(proxy)} == {"both", "only-b", "y"}
    assert names(proxy, "/api/tags") == names(proxy, "/olla/models?format=ollama") == names(proxy, "/olla/ollama/v1/models") == []
    assert proxy.get("/olla/models/only-a").status in (200, 404)
    assert proxy.post(CHAT, {"model": "only-a"}).status == 503
    for query in ("?include_unavailable=true", "?format=openai&include_unavailable=true"):
        found = [n.lower() for n in names(proxy, "/olla/models" + query)]
        assert {"both", "only-a", "only-b"} <= set(found) and len(found) == len(set(found))
    assert names(proxy, "/olla/models?format=ollama&include_unavailable=true")[:2] == ["Both", "only-a"]
    for value in ("True", "1", "false", ""):
        assert "only-a" not in unified(proxy, "?include_unavailable=" + value)
    fields(next(iter(unified(proxy, "?include_unavailable=true").values())), "id object owned_by created olla")
    a.start()
    eventually(lambda: names(proxy) == everything, "the models are back", 20, 0.1)


def test_nothing_at_all(world):
    """No models is an empty list in every form, never null and never an error."""
    proxy = world.olla({"a": endpoint(world.backend(Compatible, "a", []))}, ready={"a": 0})
    for path in ["/olla/models", "/v1/models"] + ["/olla/models?format=" + f for f in FORMATS + ("unified", "lmstudio")]:
        document = proxy.get(path).json()
        assert document.pop("models", None) is None
        assert document == {"object": "list", "data": []}, path
    assert proxy.get("/olla/models?format=ollama").json() == proxy.get("/api/tags").json() == {"models": []}
    assert proxy.get("/olla/anthropic/v1/models").json() == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    document = status_models(proxy, "?detailed=true&group=family")
    assert (document["total_models"], document["total_families"], document["total_endpoints"]) == (0, 0, 0)
    assert (document["models_by_family"], document["recent_models"], document["model_groups"]) == ({}, [], [])


# ---- lists that are not as they should be

GOOD = {"id": "good", "object": "model", "created": CREATED, "owned_by": "us"}
BAD = [None, 5, "text", [], [{"id": "inner"}], {}, {"id": None}, {"id": ""}, {"id": 5}, {"id": {"id": "inner"}}, {"id": ["inner"]},
       {"id": "x" * 5000}, {"object": "model"}]
ODD = [{"id": "odd-created", "created": 1754535984.5}, {"id": "odd-length", "max_model_len": "much"}, {"id": "odd-owner", "owned_by": 7},
       {"id": "odd-negative", "created": -1, "max_model_len": -5}, {"id": "odd-huge", "created": 10 ** 30, "max_model_len": 1e300},
       {"id": "odd-deep", "meta": {"a": [[[[{"id": "inner"}]]]]}}, {"ID": "odd-key"}, {"id": "odd-parent", "parent": {}, "root": []}]


@pytest.mark.parametrize("kind", [Compatible, Vllm, Llamacpp, Lemonade, Dmr, Sglang], ids=lambda kind: kind.type)
def test_bad_entries(world, kind):
    """The reference refuses the whole list for one odd field. One bad entry costs one entry."""
    a = world.backend(kind, "a", ["good"])
    path = next(iter(a.lists))
    a.on(path, lambda c, r: c.reply({"object": "list", "data": [x for pair in zip(BAD, ODD + BAD) for x in pair] + [GOOD]}))
    proxy = world.olla({"a": a})
    wanted = {"good"} | {e["id"] for e in ODD if "id" in e}
    found = set(names(proxy))
    assert wanted <= found <= wanted | {"odd-key"}
    assert set(unified(proxy)) == found
    for name in wanted:
        assert proxy.post(CHAT, {"model": name}).status == 200
    assert all(type(e["created"]) is int for e in proxy.get("/v1/models").json()["data"])


@pytest.mark.parametrize("kind", [Ollama, LmStudio], ids=lambda kind: kind.type)
def test_bad_native_entries(world, kind):
    """The same for the lists with details."""
    a = world.backend(kind, "a", ["good"])
    key, path = ("name", "/api/tags") if kind is Ollama else ("id", "/api/v0/models")
    odd = [{"size": "big"}, {"size": -1}, {"size": 1e30}, {"digest": 5}, {"digest": ""}, {"details": None}, {"details": "x"}, {"details": [1]},
           {"details": {"family": 5, "families": "x", "parameter_size": 7, "quantization_level": {}}}, {"modified_at": 5}, {"modified_at": ""},
           {"type": 5}, {"type": "hologram"}, {"state": None}, {"max_context_length": "x"}, {"quantization": []}, {"arch": {}}]
    entries = [dict({key: "odd-%02d" % n}, **extra) for n, extra in enumerate(odd)]
    bad = [{key: e["id"]} if isinstance(e, dict) and "id" in e else e for e in BAD]
    wrapped = "models" if kind is Ollama else "data"
    a.on(path, lambda c, r: c.reply({wrapped: bad + entries + [{key: "good"}] + bad}))
    proxy = world.olla({"a": a})
    wanted = {"good"} | {e[key] for e in entries}
    for listing in ("/v1/models", "/olla/models", "/olla/models?format=%s" % ("ollama" if kind is Ollama else "lmstudio")):
        assert set(names(proxy, listing)) == wanted, listing
    for entry in proxy.get("/api/tags").json()["models"]:
        assert isinstance(entry["size"], int) and isinstance(entry["digest"], str) and isinstance(entry["details"], dict)


def test_double_ids(world):
    """One name twice in one list is one model."""
    a = world.backend(Compatible, "a", ["m1", "m2", "m1", "M1", "m2"])
    proxy = world.olla({"a": a})
    assert [n.lower() for n in names(proxy)] == ["m1", "m2"] and {n.lower() for n in unified(proxy)} == {"m1", "m2"}
    for name in ("m1", "M1", "m2"):
        assert proxy.post(CHAT, {"model": name}).status == 200
    places = unified(proxy)[names(proxy)[0]]["olla"]["availability"]
    assert [p["endpoint"] for p in places] == ["a"], "one place, not one per mention"


def test_ten_megabytes(world):
    """Lists with templates and licences in them are large: read as they come, not kept."""
    a = world.backend(Compatible, "a", ["big-%03d" % n for n in range(800)])
    raw = dump({"object": "list", "data": [dict(GOOD, id=m, licence="x" * 12700, tags=[{"id": "no-model"}] * 5) for m in a.models]})
    assert 10000000 < len(raw) < 10 << 20
    a.on("/v1/models", lambda c, r: c.reply(raw))
    a.on("/up", lambda c, r: c.reply({}))
    proxy = world.olla({"a": endpoint(a, health_check_url="/up", check_timeout="4s")}, ready={"a": 800})
    assert names(proxy) == list(unified(proxy)) == a.models
    assert proxy.rss_kb() < 200 << 10


def test_one_more_than_fits(world):
    """The table of names is full: said in the log, by the constant that changes it; what fits is served, and room is used again."""
    models = ["name-%04d" % n for n in range(1025)]
    a, b = world.backend(Compatible, "a", models), world.backend(Compatible, "b", ["name-0000"])
    proxy = world.olla({"a": endpoint(a, **FAST), "b": endpoint(b, **FAST)}, LISTS, ready={"a": 1000, "b": 1})
    eventually(lambda: [e for e in proxy.logs if e["level"] == "WARN" and "OLLA_MAX_MODELS" in json.dumps(e)], "the warning", 5, 0.02)
    found = names(proxy)
    assert len(found) == 1024 and set(found) < set(models) and len(set(found)) == 1024
    assert list(unified(proxy)) == found
    for name in found[:2] + found[-2:]:
        assert proxy.post(CHAT, {"model": name}).status == 200
    left_out = (set(models) - set(found)).pop()
    assert proxy.post(CHAT, {"model": left_out}).status == 404
    a.models = models[:5] + [left_out, "new"]
    b.models = ["other", "name-0000"]
    wanted = sorted(set(models[:5]) | {left_out, "new", "other"})
    eventually(lambda: names(proxy) == wanted, "the room is used again", 6, 0.05)


def test_thirty_two_endpoints_while_a_stream_runs(world):
    """6,400 entries are read and merged in the one loop that also moves the tokens: neither may lose anything."""
    def listed_at(n):
        return ["model-%03d" % ((n * 200 + k) % 1000) for k in range(200)]
    servers = [world.backend(Compatible, "e%02d" % n, listed_at(n)) for n in range(32)]
    stop = threading.Event()
    sent = []

    def stream(conn, request):
        conn.start_chunked()
        for n in range(200000):
            if stop.is_set():
                break
            piece = b"data: {\"n\":%d,\"pad\":\"%s\"}\n\n" % (n, b"x" * (n % 700))
            conn.chunk(piece)
            sent.append(piece)
            if n % 5 == 0:
                time.sleep(0.002)
        conn.chunk(b"data: [DONE]\n\n")
        sent.append(b"data: [DONE]\n\n")
        conn.end_chunks()
    servers[0].on("/v1/stream", stream)
    proxy = world.olla({"e00": servers[0]}, ready={"e00": 200})
    client = world.client(proxy)
    client.start_post("/olla/proxy/v1/stream", {"model": "model-000", "stream": True})
    reply = client.read_head("POST")
    reader = threading.Thread(target=lambda: reply.read_rest(60), daemon=True)
    reader.start()
    try:
        proxy.reload({s.name: endpoint(s) for s in servers})
        proxy.wait_healthy({s.name: 200 for s in servers}, 30)
        wanted = ["model-%03d" % n for n in range(1000)]
        assert names(proxy) == wanted
        places = {name: {p["endpoint"] for p in e["olla"]["availability"]} for name, e in unified(proxy).items()}
        assert list(places) == wanted
        assert places == {name: {s.name for s in servers if name in s.models} for name in wanted}
        assert status_models(proxy)["total_models"] == 1000 and status_models(proxy)["total_endpoints"] == 32
    finally:
        stop.set()
        reader.join(60)
    assert not reader.is_alive() and reply.complete
    assert reply.body == b"".join(sent), "%d of %d bytes" % (len(reply.body), sum(map(len, sent)))


def test_names_with_odd_characters(world):
    """Percent signs, blanks, quotes and letters of all kinds, in paths and in documents."""
    odd = ["100%", "a%2Fb", "two words", 'q"uote', "back\\slash", "a<b>&c", "caf\u00e9", "\u4e2d\u6587:7b", "a+b", "a?b#c",
           "hf.co/org/name:Q4_K_M", "~x"]
    a = world.backend(Compatible, "a", odd)
    proxy = world.olla({"a": a}, ready={"a": len(odd)})
    assert set(names(proxy)) == set(unified(proxy)) == set(odd)
    for name in odd:
        assert one(proxy, name)["id"] == name
        assert proxy.post(CHAT, {"model": name}).status == 200, name
    assert {n for group in status_models(proxy)["models_by_family"].values() for n in group} == set(odd)


def test_a_list_that_is_no_list(world):
    """Another shape, garbage or an error page: what was known stays, and the next good list counts."""
    a, b = world.backend(Compatible, "a", ["m1"]), world.backend(Compatible, "b", ["m2"])
    good = a.routes["/v1/models"]
    a.on("/up", lambda c, r: c.reply({}))
    proxy = world.olla({"a": endpoint(a, health_check_url="/up", **FAST), "b": b}, LISTS)
    for body in (b"<html>no</html>", b'{"data":[{"id":"m1"},{"id":"m9"}', b'{"object":"list","data":[{"id":"m9"},{"id":'):
        a.on("/v1/models", lambda c, r, body=body: c.reply(body))
        seen = len(a.listed)
        eventually(lambda: len(a.listed) > seen, "the list is asked for again", 6, 0.02)
        assert "m9" not in names(proxy) and "m2" in names(proxy), body
    a.models = ["m1", "m3"]
    a.on("/v1/models", good)
    eventually(lambda: names(proxy) == ["m1", "m2", "m3"], "the good list counts", 10, 0.05)
