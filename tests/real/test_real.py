"""Official client libraries through olla to real llama-servers; the plug of every kind of server is pulled."""
import concurrent.futures
import threading

import openai
import pytest
from clients import ASK, ENDLESS, ollama_client, openai_client, openai_stream, pieces
from conftest import CONTEXT, SERVERS, get_json, wait_for

LONG = 8000  # tokens: some seconds of streaming from the tiny model
MODELS = ("tiny-a", "tiny-b")


# Lists

def test_openai_lists_the_models_of_all_servers(house):
    ids = [model.id for model in openai_client(house).models.list()]
    assert set(SERVERS) <= set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("endpoint, kind", (("llama-a1", "llamacpp"), ("llama-a2", "openai-compatible"),
                                            ("llama-b", "llamacpp")))
def test_type_of_a_llama_server(house, endpoint, kind):
    """Detected on llama-b, which has `type = auto`."""
    assert house.endpoint(endpoint)["detected_type"] == kind


@pytest.mark.parametrize("model", MODELS)
def test_context_length_of_a_llama_server(house, model):
    """What a slot was started with, not what the model was made for."""
    listed = {entry["id"]: entry["olla"] for entry in house.get("/olla/models")["data"]}
    assert listed[model]["max_context_length"] == CONTEXT[model]
    assert {place["endpoint"] for place in listed[model]["availability"]} == SERVERS[model]
    assert house.get("/olla/models/" + model)["max_context_length"] == CONTEXT[model]


# OpenAI's library for Python

@pytest.mark.parametrize("model", MODELS)
def test_openai_whole_reply(house, model):
    raw = openai_client(house).chat.completions.with_raw_response.create(
        model=model, messages=ASK, max_tokens=12, extra_body=ENDLESS)
    reply = raw.parse()
    assert raw.headers.get("X-Olla-Endpoint") in SERVERS[model]
    assert raw.headers.get("X-Olla-Request-ID")
    assert reply.model == model
    assert reply.usage.completion_tokens == 12
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content


@pytest.mark.parametrize("path", ("/v1", "/olla/proxy/v1", "/olla/llamacpp/v1"))
@pytest.mark.parametrize("model", MODELS)
def test_openai_stream(house, model, path):
    endpoint, chunks = openai_stream(house, model, 40, path)
    facts = pieces(chunks)
    assert endpoint in SERVERS[model]
    assert len(facts["texts"]) > 10
    assert facts["finish"] == "length"
    assert facts["usage"] == 40


def test_openai_old_completions(house):
    client = openai_client(house)
    whole = client.completions.create(model="tiny-b", prompt="The sea", max_tokens=8, extra_body=ENDLESS)
    assert whole.usage.completion_tokens == 8
    stream = client.completions.create(model="tiny-b", prompt="The sea", max_tokens=8, stream=True, extra_body=ENDLESS)
    last = list(stream)[-1]
    assert last.choices[0].finish_reason == "length"


def test_openai_unknown_model_is_not_found(house):
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client(house).chat.completions.create(model="tiny-c", messages=ASK)
    assert caught.value.code == "model_not_found"
    assert "tiny-c" in caught.value.message


def test_openai_large_request_passes(house):
    """Far more than one block; the server counts its tokens and refuses, and the refusal arrives as the server's."""
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client(house).chat.completions.create(
            model="tiny-a", messages=[{"role": "user", "content": "the sea " * 100000}], max_tokens=4)
    assert "context" in str(caught.value)


def test_both_servers_of_a_model_take_turns(house):
    assert {house.ask("tiny-a") for _ in range(40)} == SERVERS["tiny-a"]


def turn(house, messages):
    """(endpoint, tokens of the prompt that were in its memory already); the reply is added to the messages."""
    raw = openai_client(house).chat.completions.with_raw_response.create(
        model="tiny-a", messages=messages, max_tokens=12, extra_body=dict(ENDLESS, cache_prompt=True))
    reply = raw.parse()
    messages.append({"role": "assistant", "content": reply.choices[0].message.content})
    messages.append({"role": "user", "content": f"And then, in part {len(messages)}?"})
    return raw.headers.get("X-Olla-Endpoint"), reply.model_extra["timings"]["cache_n"]


def test_a_conversation_stays_where_its_beginning_is_in_memory(house):
    """Six turns without any setting: all on one server, which has more and more of it; when that one dies, the other goes on."""
    messages = [{"role": "system", "content": "You are a sailor."}, {"role": "user", "content": "Tell me about six storms."}]
    turns = [turn(house, messages) for _ in range(6)]
    home = turns[0][0]
    assert [endpoint for endpoint, _ in turns] == [home] * 6
    cached = [tokens for _, tokens in turns[1:]]
    assert cached == sorted(set(cached)) and cached[0] > 0, cached
    house.machines[home].kill()
    after = [turn(house, messages) for _ in range(3)]
    other = after[0][0]
    assert other in SERVERS["tiny-a"] - {home} and [endpoint for endpoint, _ in after] == [other] * 3
    assert after[1][1] > cached[-1]


def test_many_streams_at_the_same_time(house):
    def one(number):
        model = MODELS[number % 2]
        return pieces(openai_stream(house, model, 200)[1])["usage"]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(one, range(24), timeout=120)) == [200] * 24


def test_client_that_leaves_stops_the_server(house):
    endpoint, chunks = openai_stream(house, "tiny-b", LONG)
    for _, _ in zip(range(5), chunks):
        pass
    slots = house.machines[endpoint].url + "/slots"
    assert any(slot["is_processing"] for slot in get_json(slots))
    chunks.close()
    wait_for("all slots to be idle", lambda: not any(slot["is_processing"] for slot in get_json(slots)), 1.0, 0.05)


# The libraries for JavaScript

@pytest.mark.parametrize("model", MODELS)
def test_node_openai(house, node, model):
    for mode in ("whole", "stream"):
        result = node("openai", mode, house.url + "/v1", model, 30).finish()
        assert result["end"] == "complete", result
        assert result["endpoint"] in SERVERS[model]
        assert (result["finish"], result["usage"]) == ("length", 30)
        assert result["pieces"] == 1 if mode == "whole" else result["pieces"] > 5


def test_node_unknown_model_is_not_found(house, node):
    for library, path in (("openai", "/v1"), ("ollama", "")):
        result = node(library, "whole", house.url + path, "tiny-c", 5).finish()
        assert (result["end"], result["status"]) == ("error", 404), result


# The plug

def take_all(chunks, after_first):
    """Reads a stream to its end, calls after_first in between; returns the exception it ended with, or None."""
    count = 0
    try:
        for _ in chunks:
            count += 1
            if count == 3:
                after_first()
    except Exception as error:  # whatever the library throws: that it throws is the point
        return error
    return None


def test_openai_stream_of_a_killed_server_is_broken(house):
    endpoint, chunks = openai_stream(house, "tiny-a", LONG)
    error = take_all(chunks, house.machines[endpoint].kill)
    assert error is not None, "the broken stream ended like a complete one"
    other, chunks = openai_stream(house, "tiny-a", 20)
    assert other in SERVERS["tiny-a"] - {endpoint}
    assert pieces(chunks)["usage"] == 20


def test_openai_requests_before_the_failure_is_known_succeed(house):
    """All of them at once right after the plug was pulled: those that would have gone to the dead server too."""
    house.machines["llama-a1"].kill()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda _: openai_stream(house, "tiny-a", 10), range(8), timeout=60))
    assert {endpoint for endpoint, _ in ends} == {"llama-a2"}
    assert [pieces(chunks)["usage"] for _, chunks in ends] == [10] * 8


def test_other_streams_do_not_notice_a_killed_server(house):
    _, chunks = openai_stream(house, "tiny-b", 4000)
    done = {}
    reader = threading.Thread(target=lambda: done.update(pieces(chunks)), daemon=True)
    reader.start()
    house.machines["llama-a1"].kill()
    house.machines["ollama-1"].kill()
    reader.join(60)
    assert done.get("usage") == 4000


def test_model_without_a_server_is_unavailable(house):
    house.machines["llama-b"].kill()

    def unavailable():
        try:
            openai_client(house).chat.completions.create(model="tiny-b", messages=ASK, max_tokens=1)
        except openai.APIStatusError as error:
            return error.status_code == 503 and error.code == "model_unavailable"
        return False

    wait_for("503 model_unavailable", unavailable, 15)


def test_ollama_stream_of_a_killed_server_is_broken(house):
    seen = []
    client = ollama_client(house, "", seen)
    parts = client.chat(model="sample-chat", messages=ASK, stream=True)
    error = take_all(parts, lambda: house.machines[seen[0]].kill())
    assert error is not None, "the broken stream ended like a complete one"
    assert client.chat(model="sample-chat", messages=ASK).done
    assert set(seen[1:]) == SERVERS["sample-chat"] - {seen[0]}


@pytest.mark.parametrize("library, path, model", (("openai", "/v1", "tiny-a"), ("ollama", "", "sample-chat")))
def test_node_stream_of_a_killed_server_is_broken(house, node, library, path, model):
    # Node's fetch takes the end of a connection for the end of the body, chunked or not, when the reply's head said
    # `Connection: close`; then only the error event inside the stream tells the caller.
    client = node(library, "stream", house.url + path, model, LONG)
    endpoint = client.line()["first"]
    house.machines[endpoint].kill()
    result = client.finish()
    assert result["end"] == "error", f"the broken stream ended like a complete one: {result}"
    result = node(library, "stream", house.url + path, model, 100).finish()
    assert result["end"] == "complete", result
    assert result["endpoint"] in SERVERS[model] - {endpoint}


def test_killed_server_is_used_again_when_it_is_back(house):
    house.machines["llama-a2"].kill()
    house.ask("tiny-a")
    house.repair()
    assert {house.ask("tiny-a") for _ in range(40)} == SERVERS["tiny-a"]
