"""Ollama's official client libraries through olla to two scripted samples, which speak as Ollama's documentation says.

ollama-1 has sample-chat; ollama-2 has it too, and sample-embed. Through olla they look like one Ollama.
"""
import urllib.error

import ollama
import pytest
from clients import ASK, ollama_client
from conftest import SERVERS

PATHS = ("", "/olla/ollama", "/olla/proxy")
OLLAMAS = ("ollama-1", "ollama-2")
SAMPLES = {"sample-chat", "sample-embed"}
REFUSED = {
    "pull": lambda client: client.pull("sample-new"),
    "pull, streaming": lambda client: list(client.pull("sample-new", stream=True)),
    "push": lambda client: client.push("sample-chat"),
    "create": lambda client: client.create("sample-new", from_="sample-chat"),
    "create_blob": lambda client: client.create_blob(__file__),
    "copy": lambda client: client.copy("sample-chat", "sample-new"),
    "delete": lambda client: client.delete("sample-chat"),
}


def load(house, endpoint, model, keep_alive=None):
    """An empty prompt loads a model; with keep_alive = 0 it unloads it."""
    reply = ollama_client(house, endpoint=endpoint).generate(model=model, prompt="", keep_alive=keep_alive)
    assert reply.done_reason == ("load" if keep_alive is None else "unload")


def running(house, path=""):
    """{(endpoint, model)}, and the endpoints that did not tell."""
    body = house.get(path + "/api/ps")
    return {(entry["endpoint"], entry["model"]) for entry in body["models"]}, body["olla"]["missing"]


# The library for Python

@pytest.mark.parametrize("path", PATHS)
def test_ollama_whole_reply(house, path):
    seen = []
    client = ollama_client(house, path, seen)
    reply = client.chat(model="sample-chat", messages=ASK)
    assert reply.done and "scripted sample" in reply.message.content
    assert client.generate(model="sample-chat", prompt="The sea").response.endswith("The sea")
    assert set(seen) <= SERVERS["sample-chat"]


@pytest.mark.parametrize("path", PATHS)
def test_ollama_stream(house, path):
    parts = list(ollama_client(house, path).chat(model="sample-chat", messages=ASK, stream=True))
    assert len(parts) > 10
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert "scripted sample" in "".join(part.message.content for part in parts)


def test_ollama_unknown_model_is_not_found(house):
    with pytest.raises(ollama.ResponseError) as caught:
        ollama_client(house).chat(model="sample-nothing", messages=ASK)
    assert caught.value.status_code == 404
    assert "sample-nothing" in caught.value.error


@pytest.mark.parametrize("path", PATHS[:2])
def test_ollama_list(house, path):
    """The models that the other calls of this API can use, each once."""
    entries = ollama_client(house, path).list().models
    assert sorted(entry.model for entry in entries) == sorted(SAMPLES)
    for entry in entries:
        assert len(entry.digest) == 64
        assert entry.size == 1
        assert entry.modified_at
        assert (entry.details.format, entry.details.family, entry.details.families) == ("sample", "sample", ["sample"])
        assert (entry.details.parameter_size, entry.details.quantization_level) == ("0", "none")


@pytest.mark.parametrize("path", PATHS)
def test_ollama_show(house, path):
    for model in SAMPLES:
        seen = []
        shown = ollama_client(house, path, seen).show(model)
        assert set(seen) <= SERVERS[model]
        assert shown.modelinfo["sample.context_length"] == 4096
        assert "completion" in shown.capabilities
        assert shown.details.family == "sample"
    with pytest.raises(ollama.ResponseError) as caught:
        ollama_client(house, path).show("sample-nothing")
    assert caught.value.status_code == 404


@pytest.mark.parametrize("path", PATHS)
def test_ollama_embeddings(house, path):
    seen = []
    client = ollama_client(house, path, seen)
    sea, land = client.embed(model="sample-embed", input=["the sea", "the land"]).embeddings
    assert len(sea) == len(land) == 8
    assert sea != land
    assert list(client.embed(model="sample-embed", input="the sea").embeddings) == [sea]
    assert client.embeddings(model="sample-embed", prompt="the land").embedding == land
    assert set(seen) == {"ollama-2"}


@pytest.mark.parametrize("path", PATHS)
def test_ollama_ps_shows_the_models_of_all_machines(house, path):
    for endpoint in OLLAMAS:
        load(house, endpoint, "sample-chat")
    load(house, "ollama-2", "sample-embed")
    entries = ollama_client(house, path).ps().models
    assert sorted(entry.model for entry in entries) == ["sample-chat", "sample-chat", "sample-embed"]
    assert all(entry.expires_at and entry.context_length == 4096 for entry in entries)
    assert running(house, path) == ({("ollama-1", "sample-chat"), ("ollama-2", "sample-chat"),
                                     ("ollama-2", "sample-embed")}, [])
    load(house, "ollama-2", "sample-chat", keep_alive=0)
    assert running(house, path) == ({("ollama-1", "sample-chat"), ("ollama-2", "sample-embed")}, [])


def test_ollama_ps_of_one_machine(house):
    for endpoint in OLLAMAS:
        load(house, endpoint, "sample-chat")
        seen = []
        assert "sample-chat" in {entry.model for entry in ollama_client(house, "", seen, endpoint).ps().models}
        assert seen == [endpoint]


def test_ollama_ps_without_a_killed_machine(house):
    for endpoint in OLLAMAS:
        load(house, endpoint, "sample-chat")
    house.machines["ollama-1"].kill()
    models, missing = running(house)
    assert {endpoint for endpoint, _ in models} == {"ollama-2"}
    assert set(missing) <= {"ollama-1"}  # nobody misses it once it is known to be dead


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("call", REFUSED)
def test_ollama_management_wants_the_name_of_a_machine(house, path, call):
    with pytest.raises(ollama.ResponseError) as caught:
        REFUSED[call](ollama_client(house, path))
    assert caught.value.status_code == 501
    assert "X-Olla-Endpoint" in caught.value.error


@pytest.mark.parametrize("path", PATHS)
def test_ollama_management_of_a_named_machine(house, path):
    """The request arrives there, and the sample says that it cannot do it."""
    seen = []
    with pytest.raises(ollama.ResponseError) as caught:
        ollama_client(house, path, seen, "ollama-2").pull("sample-new")
    assert (caught.value.status_code, seen) == (404, ["ollama-2"])
    assert "sample server" in caught.value.error


@pytest.mark.parametrize("path", PATHS[:2])
def test_ollama_version(house, path):
    assert house.get(path + "/api/version")["version"] == "0.0.0-sample"


def test_list_of_running_models_by_its_old_name(house):
    with pytest.raises(urllib.error.HTTPError) as caught:
        house.get("/olla/ollama/api/list")
    with caught.value as answer:
        assert answer.code == 501


# The library for JavaScript

@pytest.mark.parametrize("path", PATHS[:2])
def test_node_ollama(house, node, path):
    for mode in ("whole", "stream"):
        result = node("ollama", mode, house.url + path, "sample-chat", 100).finish()
        assert result["end"] == "complete", result
        assert result["endpoint"] in SERVERS["sample-chat"]
        assert result["finish"] == "stop"
        assert "scripted sample" in result["text"]


@pytest.mark.parametrize("path", PATHS[:2])
def test_node_ollama_all_calls(house, node, path):
    load(house, "ollama-1", "sample-chat")
    result = node("ollama", "tour", house.url + path, "sample-embed", 0).finish()
    assert result["end"] == "complete", result
    tour = result["tour"]
    assert sorted(tour["list"]) == sorted(SAMPLES)
    assert tour["context"] == 4096
    assert tour["generate"].endswith("The sea")
    assert tour["embed"] == [8, 8]
    assert tour["embeddings"] == 8
    assert {"sample-chat", "sample-embed"} <= set(tour["ps"])
    assert tour["version"] == "0.0.0-sample"
    assert tour["pull"]["status"] == 501
    assert "X-Olla-Endpoint" in tour["pull"]["message"]
