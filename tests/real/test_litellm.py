"""OpenAI's official client libraries through olla to a real LiteLLM, which is two endpoints: the configuration tells
the type of one, that of the other has to be detected."""
import re

import openai
import pytest
from clients import ASK, openai_client, openai_stream, pieces
from conftest import SERVERS, wait_for

TEXT = "LiteLLM made this reply up: the sea is wet."  # as in litellm.yaml
VECTOR = [0.25, -0.5, 1.0]
MODELS = {"lite/chat", "lite/embed"}
ENDPOINTS = SERVERS["lite/chat"]
PATHS = ("/v1", "/olla/proxy/v1", "/olla/litellm/v1")


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS))
def test_litellm_type(house, endpoint):
    assert house.endpoint(endpoint)["detected_type"] == "litellm"


@pytest.mark.parametrize("path", PATHS)
def test_litellm_list(house, path):
    client = openai_client(house, path)
    ids = [model.id for model in client.models.list()]
    assert MODELS <= set(ids)
    assert len(ids) == len(set(ids))
    assert path != "/olla/litellm/v1" or set(ids) == MODELS


def test_litellm_one_model(house):
    """Its name has a slash, as most names in a LiteLLM have."""
    assert openai_client(house).models.retrieve("lite/chat").id == "lite/chat"
    shown = house.get("/olla/models/lite/chat")
    assert (shown["id"], set(shown["endpoints"])) == ("lite/chat", ENDPOINTS)


@pytest.mark.parametrize("path", PATHS)
def test_litellm_whole_reply(house, path):
    seen = set()
    for number in range(20):
        new = [{"role": "user", "content": f"hi {number}"}]  # the same conversation would stay where it is
        raw = openai_client(house, path).chat.completions.with_raw_response.create(model="lite/chat", messages=new)
        reply = raw.parse()
        seen.add(raw.headers.get("X-Olla-Endpoint"))
        assert raw.headers.get("x-litellm-version")
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (TEXT, "stop")
        assert reply.usage.completion_tokens > 0
    assert seen == ENDPOINTS


@pytest.mark.parametrize("path", PATHS)
def test_litellm_stream(house, path):
    endpoint, chunks = openai_stream(house, "lite/chat", 100, path)
    facts = pieces(chunks)
    assert endpoint in ENDPOINTS
    assert "".join(facts["texts"]) == TEXT
    assert len(facts["texts"]) > 5
    assert facts["finish"] == "stop"
    assert facts["usage"] > 0


@pytest.mark.parametrize("path", PATHS)
def test_litellm_embeddings(house, path):
    reply = openai_client(house, path).embeddings.create(model="lite/embed", input=["the sea"])
    assert reply.data[0].embedding == VECTOR


def test_litellm_refusal_arrives(house):
    """LiteLLM takes no chat without messages; what it says about that reaches the library."""
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client(house).post("/chat/completions", body={"model": "lite/chat"}, cast_to=object)
    assert "'messages'" in caught.value.message
    assert caught.value.response.headers.get("X-Olla-Endpoint") in ENDPOINTS


def test_node_openai_with_litellm(house, node):
    for mode in ("whole", "stream"):
        result = node("openai", mode, house.url + "/v1", "lite/chat", 100).finish()
        assert result["end"] == "complete", result
        assert (result["text"], result["finish"]) == (TEXT, "stop")
        assert result["endpoint"] in ENDPOINTS


def test_litellm_is_never_asked_for_its_health_page(house):
    """/health makes LiteLLM send a completion to every model it has, which costs money; /health/liveliness does not."""
    log = house.machines["litellm-1"].log

    def paths():
        with open(log, encoding="utf-8", errors="replace") as file:
            return re.findall(r'"[A-Z]+ (/[^ ?]*)', file.read())

    before = paths().count("/health/liveliness")
    wait_for("olla's next health checks", lambda: paths().count("/health/liveliness") >= before + 4, 15)
    asked = set(paths())
    assert not asked & {"/health", "/health/"}
    assert "/v1/models" in asked
