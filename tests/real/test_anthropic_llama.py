"""Anthropic's official client library through olla to real llama-servers: `native`, in their own Messages API, and
`translated`, as chat completions. A client cannot tell the one from the other by the kinds of events and their order."""
import concurrent.futures
import typing

import anthropic
import pydantic
import pytest
from conftest import get_json, wait_for
from fleet import ASK, PREFIXES, kinds, raised, result

NATIVE, TRANSLATED = "compatible", "own"  # the ollas
WEATHER = {"name": "get_weather", "description": "The weather of a city", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"]}}
ONE_CALL = {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
BOTH = pytest.mark.parametrize("olla", (NATIVE, TRANSLATED), ids=("native", "translated"))
EVERY_PREFIX = pytest.mark.parametrize("prefix", PREFIXES, ids=("root", "olla"))
CASES = {
    "text": ("talk", {"max_tokens": 20}, ["start text", "text_delta", "content_block_stop"]),
    "thinking": ("think", {"max_tokens": 20}, ["start thinking", "thinking_delta", "signature_delta", "content_block_stop"]),
    "call": ("tools", {"max_tokens": 1000, **ONE_CALL}, ["start tool_use", "input_json_delta", "content_block_stop"]),
    "nothing": ("tools", {"max_tokens": 20}, []),
}


def create(fleet, olla, model, prefix="", messages=ASK, **more):
    return fleet.client(olla, prefix).messages.create(**dict({"model": model, "max_tokens": 20, "messages": messages}, **more))


def total(message):
    """Tokens of the prompt: how many of them were in memory depends on what was asked before."""
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


@EVERY_PREFIX
@pytest.mark.parametrize("case", CASES)
def test_kinds_of_events(fleet, prefix, case):
    model, more, blocks = CASES[case]
    seen = {olla: kinds(create(fleet, olla, model, prefix, stream=True, **more)) for olla in (NATIVE, TRANSLATED)}
    assert seen[NATIVE] == ["message_start", *blocks, "message_delta", "message_stop"]
    assert seen[TRANSLATED] == seen[NATIVE]


@EVERY_PREFIX
@pytest.mark.parametrize("case", CASES)
def test_whole_replies(fleet, prefix, case):
    model, more, _ = CASES[case]
    native, translated = (create(fleet, olla, model, prefix, **more) for olla in (NATIVE, TRANSLATED))
    assert native.id.startswith("chatcmpl") and translated.id.startswith("msg_")  # which shows who wrote it
    assert [block.type for block in translated.content] == [block.type for block in native.content]
    assert (translated.stop_reason, translated.model, total(translated)) == (native.stop_reason, native.model, total(native))
    if case != "call":
        assert translated.usage.output_tokens == native.usage.output_tokens


@BOTH
@pytest.mark.parametrize("case", CASES)
def test_final_message(fleet, olla, case):
    model, more, _ = CASES[case]
    with fleet.client(olla).messages.stream(**dict({"model": model, "messages": ASK}, **more)) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == {"text": "max_tokens", "thinking": "max_tokens", "call": "tool_use", "nothing": "end_turn"}[case]
    if case == "call":
        assert final.content[0].input["city"] in ("Oslo", "Rome")
    elif case != "nothing":
        assert final.usage.output_tokens == 20


@BOTH
def test_tool_round_trip(fleet, olla):
    """The result goes back, and random weights can only call again."""
    first, = create(fleet, olla, "tools", max_tokens=1000, **ONE_CALL).content
    again = ASK + [{"role": "assistant", "content": [first]}, {"role": "user", "content": [result(first, "rain")]}]
    second, = create(fleet, olla, "tools", messages=again, max_tokens=1000, **ONE_CALL).content
    assert (second.type, second.name) == ("tool_use", "get_weather")
    assert second.id != first.id
    assert create(fleet, olla, "tools", messages=again, tools=[WEATHER], tool_choice={"type": "none"}).content == []


@pytest.mark.parametrize("olla", (NATIVE, TRANSLATED), ids=("native", "translated"))
def test_forced_tool(fleet, olla):
    """Its chat completions take a tool_choice that is an object for `auto`, so olla says it in another way."""
    call, = create(fleet, olla, "tools", max_tokens=1000, tools=[WEATHER],
                   tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}).content
    assert call.input["city"] in ("Oslo", "Rome")


def test_thinking_back_and_off(fleet):
    """llama-server's own Messages API has no way to switch it off."""
    thought, = create(fleet, TRANSLATED, "think").content
    again = ASK + [{"role": "assistant", "content": [thought, {"type": "text", "text": "Wet."}]}, {"role": "user", "content": "Why?"}]
    with_thought = create(fleet, TRANSLATED, "think", messages=again)
    again[1]["content"] = "Wet."
    assert total(with_thought) > total(create(fleet, TRANSLATED, "think", messages=again))
    block, = create(fleet, TRANSLATED, "think", thinking={"type": "disabled"}).content
    assert block.type == "text"


class Port(pydantic.BaseModel):
    city: typing.Literal["Oslo", "Rome"]
    deep: bool


def test_structured_output(fleet):
    """llama-server's own Messages API ignores it."""
    reply = fleet.client(TRANSLATED).messages.parse(model="talk", max_tokens=2000, messages=ASK, output_format=Port)
    assert isinstance(reply.parsed_output, Port)


@BOTH
def test_stop_sequence(fleet, olla):
    reply = create(fleet, olla, "talk", max_tokens=500, stop_sequences=["e"])
    assert not any("e" in block.text for block in reply.content)
    assert reply.stop_reason in ("end_turn", "stop_sequence")


@BOTH
@EVERY_PREFIX
def test_count_tokens(fleet, olla, prefix):
    counted = fleet.client(olla, prefix).messages.count_tokens(model="talk", messages=ASK, system="You are a sailor.").input_tokens
    if olla == NATIVE:
        assert counted == total(create(fleet, olla, "talk", system="You are a sailor."))
    assert counted > 5


@BOTH
def test_prompt_is_too_long(fleet, olla):
    long = [{"role": "user", "content": "the sea " * 20000}]
    error = raised(anthropic.BadRequestError, lambda: create(fleet, olla, "talk", messages=long))
    words = {NATIVE: "exceeds the available context size", TRANSLATED: "prompt is too long: "}
    assert words[olla] in error.body["error"]["message"]


@BOTH
def test_image_for_a_model_without_eyes(fleet, olla):
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    error = raised(anthropic.InternalServerError, lambda: create(fleet, olla, "talk", messages=[{"role": "user", "content": [picture]}]))
    assert "image input is not supported" in error.body["error"]["message"]


@BOTH
def test_killed_server(fleet, olla):
    """The library raises in the middle, gets an error while the server is away, and goes on when it is back."""
    count = 0

    def read():
        nonlocal count
        with fleet.client(olla).messages.stream(model="talk", max_tokens=8000, messages=ASK) as stream:
            for _ in stream.text_stream:
                count += 1
                if count == 5:
                    fleet.llamas["talk"].kill()

    raised(anthropic.APIError, read)
    assert count >= 5
    assert raised(anthropic.APIStatusError, lambda: create(fleet, olla, "talk")).status_code >= 500
    fleet.repair()
    assert create(fleet, olla, "talk").usage.output_tokens == 20


@BOTH
def test_client_that_leaves_stops_the_server(fleet, olla):
    slots = fleet.llamas["talk"].url + "/slots"
    with fleet.client(olla).messages.stream(model="talk", max_tokens=8000, messages=ASK) as stream:
        for _, _ in zip(range(5), stream.text_stream):
            pass
        assert any(slot["is_processing"] for slot in get_json(slots))
    wait_for("all slots to be idle", lambda: not any(slot["is_processing"] for slot in get_json(slots)), 1.0, 0.05)


@BOTH
def test_many_streams_at_the_same_time(fleet, olla):
    def one(_):
        with fleet.client(olla).messages.stream(model="talk", max_tokens=200, messages=ASK) as stream:
            return stream.get_final_message().usage.output_tokens

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16), timeout=60)) == [200] * 16
