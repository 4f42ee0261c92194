"""Anthropic's official client library for Python, and the one for JavaScript, through olla to five scripted chat servers:
every request is translated, and every server answers in its own words. What the servers thought of the requests is looked
at after each test."""
import asyncio
import base64
import json
import threading
import time

import anthropic
import pydantic
import pytest
from fleet import ASK, CITY, CLOCK, OLLAS, PREFIXES, STYLES, TOOLS, WAYS, WEATHER, Place, kinds, raised, result, usage
from servers.chat_styles import Call, Failure, Turn

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(64))).decode()
ODD = "Quotes \" and \\, tabs\t, \x07\x1b, \u2028, naïve 水 🌊, </script> & {\"json\": [1]}\n\n  indented \n"
REPLAYED = {"ollama": "reasoning", "llamacpp": "reasoning_content", "vllm": "reasoning", "sglang": "reasoning_content",
            "lm-studio": "reasoning"}  # the field of a message in which a server reads what the model thought


def image(kind="png", data=PNG):
    return {"type": "image", "source": {"type": "base64", "media_type": "image/" + kind, "data": data}}


# Texts

@pytest.mark.parametrize("way", WAYS)
def test_text(place, way):
    place.say(Turn(text="The sea is wet.", cached=7))
    reply = place.ask(way)
    assert [(block.type, block.text) for block in reply.content] == [("text", "The sea is wet.")]
    assert (reply.type, reply.role, reply.model) == ("message", "assistant", place.model)
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    assert usage(reply) == place.usage(7)
    assert reply.id.startswith("msg_")
    assert place.asked()["messages"] == ASK
    assert place.asked().get("stream_options") == (None if way == "whole" else {"include_usage": True})


@pytest.mark.parametrize("prefix", PREFIXES)
def test_addresses(place, prefix):
    """Both ways, with the headers of a reply."""
    client = place.fleet.client(place.olla, prefix)
    raw = client.messages.with_raw_response.create(model=place.model, max_tokens=9, messages=ASK)
    assert raw.headers["x-olla-endpoint"] == place.style
    assert raw.headers["request-id"] == raw.headers["x-olla-request-id"]
    assert raw.parse()._request_id == raw.headers["request-id"]
    with place.open(client=client) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["x-olla-endpoint"] == place.style
        assert stream.request_id == stream.response.headers["x-olla-request-id"]
        assert stream.get_final_text() == "Hello."


def test_stream_is_text_in_pieces(place):
    place.say(Turn(text="One two three four."))
    with place.open() as stream:
        parts = list(stream.text_stream)
    assert parts == ["One", " two", " three", " four."]


def test_raw_events(place):
    place.say(Turn(think="Hm. Well.", text="It is wet.", calls=(Call("get_weather", {"city": "Oslo"}),)))
    events = list(place.create(stream=True, tools=TOOLS))
    assert kinds(events) == [
        "message_start", "start thinking", "thinking_delta", "signature_delta", "content_block_stop", "start text", "text_delta",
        "content_block_stop", "start tool_use", "input_json_delta", "content_block_stop", "message_delta", "message_stop"]
    assert [event.index for event in events if event.type == "content_block_start"] == [0, 1, 2]
    assert events[-2].usage.output_tokens == 14


def test_stream_is_as_fast_as_the_server(place):
    """The server goes on when the client has seen the first piece."""
    seen, frames = threading.Event(), []

    def hold(_conn):
        frames.append(time.monotonic())
        if len(frames) == 4:
            assert seen.wait(10), "the first piece did not arrive before the fourth was sent"

    place.say(Turn(text="One two three four.", hold=hold))
    with place.open() as stream:
        for _ in stream.text_stream:
            seen.set()
    assert stream.get_final_text() == "One two three four."


@pytest.mark.parametrize("way", WAYS)
def test_odd_characters(place, way):
    question = "Say: " + ODD
    place.say(Turn(text=["x" + ODD, ODD], think=[ODD], calls=(Call("get_weather", {"city": ODD}),)))
    reply = place.ask(way, [{"role": "user", "content": question}], tools=TOOLS, system=ODD)
    thought, text, call = reply.content
    assert (thought.thinking, text.text, call.input) == (ODD, "x" + ODD + ODD, {"city": ODD})
    assert [message["content"] for message in place.asked()["messages"]] == [ODD, question]


@pytest.mark.parametrize("size", (1, 7, 4000))
def test_stream_cut_anywhere(place, size):
    place.server.size = size
    place.say(Turn(text=ODD, think="Hm.", calls=(Call("get_weather", {"city": "Åre"}), Call("get_time"))))
    reply = place.ask("stream", tools=TOOLS)
    assert [block.type for block in reply.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert reply.content[1].text == ODD
    assert [block.input for block in reply.content[2:]] == [{"city": "Åre"}, {}]


@pytest.mark.parametrize("way", WAYS)
def test_large(place, way):
    """Far more than a buffer, up and down, in one line."""
    text, question = "sea " * 60000, "wave " * 100000
    place.say(Turn(text=[text], calls=(Call("get_weather", {"city": "o" * 90000}),)))
    reply = place.ask(way, [{"role": "user", "content": question}], tools=TOOLS)
    assert (reply.content[0].text, reply.content[1].input) == (text, {"city": "o" * 90000})
    assert place.asked()["messages"][0]["content"] == question


@pytest.mark.parametrize("way", WAYS)
def test_nothing(place, way):
    place.say(Turn())
    reply = place.ask(way)
    assert (reply.content, reply.stop_reason) == ([], "end_turn")


@pytest.mark.parametrize("way", WAYS)
def test_end_at_the_limit(place, way):
    place.say(Turn(text="The sea", finish="length"))
    reply = place.ask(way, max_tokens=2)
    assert reply.stop_reason == "max_tokens"
    assert place.asked()["max_tokens"] == 2


@pytest.mark.parametrize("way", WAYS)
def test_refusal(place, way):
    place.say(Turn(text="No.", finish="content_filter"))
    reply = place.ask(way)
    assert (reply.content[0].text, reply.stop_reason) == ("No.", "refusal")


@pytest.mark.parametrize("way", WAYS)
def test_stop_sequences(place, way):
    """vLLM and SGLang tell which one it was."""
    place.say(Turn(text="The sea", stop="END"))
    reply = place.ask(way, stop_sequences=["END", "\n\n"])
    told = place.style in ("vllm", "sglang")
    assert (reply.stop_reason, reply.stop_sequence) == (("stop_sequence", "END") if told else ("end_turn", None))
    assert place.asked()["stop"] == ["END", "\n\n"]


def test_json_instead_of_a_stream(place):
    place.server.as_json = True
    place.say(Turn(think="Hm.", text="It is wet.", calls=(Call("get_weather", {"city": "Oslo"}),)))
    reply = place.ask("stream", tools=TOOLS)
    assert [block.type for block in reply.content] == ["thinking", "text", "tool_use"]
    assert (reply.content[1].text, reply.content[2].input, reply.stop_reason) == ("It is wet.", {"city": "Oslo"}, "tool_use")
    assert usage(reply) == place.usage()


# What goes up

def test_system(place):
    """Blocks with marks for a cache; the line that differs in every request of one client is left out."""
    place.create(system=[{"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=a1b2c;\n"},
                         {"type": "text", "text": "You are a sailor.", "cache_control": {"type": "ephemeral"}},
                         {"type": "text", "text": " Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
                 messages=[{"role": "user", "content": [{"type": "text", "text": "Hi.", "cache_control": {"type": "ephemeral"}}]}])
    assert place.asked()["messages"] == [{"role": "system", "content": "You are a sailor. Be brief."},
                                         {"role": "user", "content": "Hi."}]


def test_parameters(place):
    place.create(extra_body={"temperature": 0.25, "top_p": 0.5, "top_k": 20}, metadata={"user_id": "me"}, service_tier="auto",
                 output_config={"effort": "max"})
    body = place.asked()
    assert (body["temperature"], body["top_p"], body["stream"]) == (0.25, 0.5, False)
    assert body.get("top_k") == (20 if place.own and place.style != "ollama" else None)
    assert body.get("reasoning_effort") == ("high" if place.own else None)


def test_thinking_switched_off(place):
    place.create(thinking={"type": "disabled"})
    body = place.asked()
    template = place.own and place.style in ("llamacpp", "vllm", "sglang")
    assert body.get("chat_template_kwargs") == ({"enable_thinking": False} if template else None)
    assert body.get("reasoning_effort") == ("none" if place.own and place.style == "ollama" else None)


def test_images(place):
    place.create([{"role": "user", "content": [{"type": "text", "text": "Which is larger?"}, image(), image("jpeg")]}])
    text, first, second = place.asked()["messages"][0]["content"]
    assert text == {"type": "text", "text": "Which is larger?"}
    assert first == {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PNG}}
    assert second["image_url"]["url"] == "data:image/jpeg;base64," + PNG


def test_documents(place):
    place.create([{"role": "user", "content": [
        {"type": "document", "title": "Log", "source": {"type": "text", "media_type": "text/plain", "data": "Day 1: storm."}},
        {"type": "text", "text": "Sum it up."}]}])
    content = place.asked()["messages"][0]["content"]
    assert "Log" in content and "Day 1: storm." in content and content.endswith("Sum it up.")
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}}
    error = raised(anthropic.BadRequestError, lambda: place.create([{"role": "user", "content": [pdf]}]))
    assert error.body["error"]["message"].startswith("messages.0.content.0: ")


def test_turns_of_one_role(place):
    place.create([{"role": "user", "content": "One."}, {"role": "user", "content": "Two."},
                  {"role": "assistant", "content": "Three."}, {"role": "assistant", "content": [{"type": "text", "text": "Four."}]},
                  {"role": "user", "content": "Five."}])
    assert [(message["role"], message["content"]) for message in place.asked()["messages"]] == [
        ("user", "One.\n\nTwo."), ("assistant", "Three.\n\nFour."), ("user", "Five.")]


def test_beta(place):
    """The library's beta half adds ?beta=true and headers, which are not for chat servers."""
    reply = place.client.beta.messages.create(model=place.model, max_tokens=9, messages=ASK, betas=["context-management-2025-06-27"],
                                              context_management={"edits": [{"type": "clear_tool_uses_20250919"}]})
    assert reply.content[0].text == "Hello."


# Thinking

@pytest.mark.parametrize("way", WAYS)
def test_thinking(place, way):
    place.say(Turn(think="The sea. It\nis wet.", text="Wet."))
    reply = place.ask(way, max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1024})
    thought, text = reply.content
    assert (thought.type, thought.thinking, text.text) == ("thinking", "The sea. It\nis wet.", "Wet.")
    assert thought.signature
    # The blocks go back as they are.
    again = ASK + [{"role": "assistant", "content": reply.content}, {"role": "user", "content": "Why?"}]
    place.ask(way, again, max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1024})
    told = {"role": "assistant", "content": "Wet."}
    if place.own:
        told[REPLAYED[place.style]] = "The sea. It\nis wet."
    assert place.asked()["messages"][1] == told


def test_thinking_events(place):
    place.say(Turn(think="The sea. It is wet.", text="Wet."))
    seen = {"thinking": "", "text": "", "signature": 0}
    with place.open() as stream:
        for event in stream:
            if event.type == "thinking":
                seen["thinking"] += event.thinking
            elif event.type == "text":
                seen["text"] += event.text
            elif event.type == "signature":
                seen["signature"] += 1
    assert seen == {"thinking": "The sea. It is wet.", "text": "Wet.", "signature": 1}


def test_strange_thinking_goes_up(place):
    """From another server, without a signature, and encrypted."""
    content = [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "redacted_thinking", "data": "AAAA"},
               {"type": "text", "text": "Wet."}]
    place.create(ASK + [{"role": "assistant", "content": content}, {"role": "user", "content": "Why?"}])
    assert place.asked()["messages"][1]["content"] == "Wet."


# Tools

@pytest.mark.parametrize("way", WAYS)
def test_tool_round_trip(place, way):
    place.say(Turn(text="I look.", calls=(Call("get_weather", {"city": "Åre", "days": 3}),)), Turn(text="It rains."))
    reply = place.ask(way, tools=TOOLS)
    text, call = reply.content
    assert (text.text, call.type, call.name, call.input) == ("I look.", "tool_use", "get_weather", {"city": "Åre", "days": 3})
    assert (reply.stop_reason, usage(reply)) == ("tool_use", place.usage())
    asked = place.asked()
    assert [tool["function"] for tool in asked["tools"]] == [
        {"name": "get_weather", "description": "The weather of a city", "parameters": CITY},
        {"name": "get_time", "parameters": CLOCK["input_schema"]}]
    assert "tool_choice" not in asked
    answer = place.ask(way, ASK + [{"role": "assistant", "content": reply.content},
                                   {"role": "user", "content": [result(call, "rain")]}], tools=TOOLS)
    assert (answer.content[0].text, answer.stop_reason) == ("It rains.", "end_turn")
    _, told, heard = place.asked()["messages"]
    assert told["content"] == "I look."
    assert [(one["id"], one["function"]["name"], json.loads(one["function"]["arguments"])) for one in told["tool_calls"]] == [
        (call.id, "get_weather", {"city": "Åre", "days": 3})]
    assert heard == {"role": "tool", "tool_call_id": call.id, "content": "rain"}


@pytest.mark.parametrize("way", WAYS)
def test_parallel_tools(place, way):
    calls = (Call("get_weather", {"city": "Oslo"}), Call("get_time"), Call("get_weather", {"city": "Rome", "days": 2}))
    place.say(Turn(think="Three things.", calls=calls), Turn(text="Fine."))
    reply = place.ask(way, tools=TOOLS)
    thought, *blocks = reply.content
    assert thought.thinking == "Three things."
    assert [(block.name, block.input) for block in blocks] == [tuple(call) for call in calls]
    assert len({block.id for block in blocks}) == 3
    assert reply.stop_reason == "tool_use"
    oslo, clock, rome = blocks
    place.ask(way, ASK + [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [
        result(rome, [{"type": "text", "text": "sun"}, {"type": "text", "text": "30 degrees"}]), {"type": "text", "text": "And?"},
        result(clock, "no clock", is_error=True), result(oslo, [{"type": "text", "text": "see"}, image()])]}], tools=TOOLS)
    _, told, *heard = place.asked()["messages"]
    # Without a text: null, but llama.cpp writes "" itself.
    assert told["content"] == ("" if place.own and place.style == "llamacpp" else None)
    assert told.get(REPLAYED[place.style]) == ("Three things." if place.own else None)
    assert heard[:3] == [{"role": "tool", "tool_call_id": rome.id, "content": "sun\n30 degrees"},
                         {"role": "tool", "tool_call_id": clock.id, "content": "Error: no clock"},
                         {"role": "tool", "tool_call_id": oslo.id, "content": "see"}]
    assert len(heard) == 4 and heard[3]["role"] == "user"
    assert sorted(part["type"] for part in heard[3]["content"]) == ["image_url", "text"]


@pytest.mark.parametrize("way", WAYS)
def test_forced_tool(place, way):
    """vLLM says `stop` then; LM Studio refuses an object, which olla can know by its type only."""
    place.say(Turn(calls=(Call("get_time"),)))
    forced = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "get_time"}}
    if place.style == "lm-studio" and not place.own:
        error = raised(anthropic.APIStatusError, lambda: place.ask(way, **forced))
        assert place.server.choice_error in error.body["error"]["message"]
        return
    reply = place.ask(way, **forced)
    assert [(block.type, block.name, block.input) for block in reply.content] == [("tool_use", "get_time", {})]
    assert reply.stop_reason == "tool_use"
    assert place.asked()["tool_choice"] in ("required", {"type": "function", "function": {"name": "get_time"}})


@pytest.mark.parametrize("choice, sent, parallel", (
    ({"type": "any"}, "required", None), ({"type": "none"}, "none", None), ({"type": "auto"}, "auto", None),
    ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False)), ids=str)
def test_tool_choice(place, choice, sent, parallel):
    place.create(tools=TOOLS, tool_choice=choice)
    assert place.asked()["tool_choice"] == sent
    assert place.asked().get("parallel_tool_calls") == parallel


@pytest.mark.styles("llamacpp", "vllm", "sglang", "lm-studio")
def test_arguments_that_are_no_json(place):
    """Ollama parses them itself."""
    place.say(Turn(calls=(Call("get_weather", "Oslo, please"),)))
    assert place.create(tools=TOOLS).content[0].input == {"_raw": "Oslo, please"}


def test_tool_of_the_server(place):
    error = raised(anthropic.BadRequestError, lambda: place.create(tools=[
        WEATHER, {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]))
    assert error.body["error"]["message"] == (
        'tools.1: the tool "web_search_20250305" works only with a backend that speaks the Anthropic API')


@anthropic.beta_tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"rain in {city}"


def run_tools(place, **more):
    """The library's own loop: it calls the functions and asks again until there is a text."""
    place.say(Turn(text="I look.", calls=(Call("get_weather", {"city": "Oslo"}), Call("get_weather", {"city": "Rome"}))),
              Turn(think="Hm.", calls=(Call("get_weather", {"city": "Åre"}),)), Turn(text="It rains."))
    last = place.client.beta.messages.tool_runner(model=place.model, max_tokens=100, messages=ASK, tools=[get_weather],
                                                  **more).until_done()
    assert last.content[0].text == "It rains."
    assert [message["content"] for message in place.asked()["messages"] if message["role"] == "tool"] == [
        "rain in Oslo", "rain in Rome", "rain in Åre"]


def test_tool_runner(place):
    run_tools(place, thread=False)


def test_tool_runner_that_wants_a_thread(place):
    """Left to itself the library asks the server to keep the conversation, and sends only what is new from then on. It
    sends all of it when it is told that this cannot be."""
    error = raised(anthropic.BadRequestError, lambda: place.client.beta.messages.create(
        model=place.model, max_tokens=9, messages=ASK, thread={"type": "create"}))
    assert error.body["error"]["details"]["error_code"] == "thread_unsupported_request"
    run_tools(place)


# Structured output

class Storm(pydantic.BaseModel):
    name: str
    knots: int


def test_structured_output(place):
    place.say(Turn(text='{"name": "Ylva", "knots": 55}'))
    reply = place.client.messages.parse(model=place.model, max_tokens=100, messages=ASK, output_format=Storm)
    assert reply.parsed_output == Storm(name="Ylva", knots=55)
    form = place.asked()["response_format"]
    assert form["type"] == "json_schema"
    assert set(form["json_schema"]["schema"]["properties"]) == {"name", "knots"}
    with place.open(output_format=Storm) as stream:
        assert stream.get_final_message().parsed_output == Storm(name="Ylva", knots=55)


# Lists and numbers

def test_models(place):
    page = place.client.models.list()
    assert {server.models[0] for server in place.fleet.servers.values()} | set(place.fleet.llamas) <= {one.id for one in page}
    one = next(one for one in page if one.id == place.model)
    assert (one.type, one.display_name) == ("model", place.model)
    assert one.created_at.year >= 2024
    assert page.has_more is False


def test_count_tokens(place):
    """An estimate: a quarter of the bytes."""
    def count(**more):
        return place.client.messages.count_tokens(model=place.model, **more).input_tokens

    assert count(messages=[{"role": "user", "content": "Hello world"}]) == 2
    assert count(messages=[{"role": "user", "content": "öööö"}], system="four") == 3
    assert count(messages=ASK, tools=TOOLS) > count(messages=ASK)


# Many at once, and older servers

@pytest.mark.parametrize("olla", OLLAS)
def test_many_at_the_same_time(fleet, olla):
    """Streams of all servers mixed, by the library's asynchronous half."""
    for style in STYLES:
        place = Place(fleet, olla, style)
        place.create()  # after failures one request is tried before there are many again
        place.say(Turn(think="Hm.", text=[f"{style} "] * 30, calls=(Call("get_time"), Call("get_time"))))

    async def one(client, number):
        style = list(STYLES)[number % len(STYLES)]
        async with client.messages.stream(model="m-" + style, max_tokens=9, messages=ASK, tools=TOOLS) as stream:
            final = await stream.get_final_message()
        assert final.content[1].text == f"{style} " * 30
        return [block.type for block in final.content]

    async def run():
        async with anthropic.AsyncAnthropic(base_url=fleet.ollas[olla].url, api_key="none", max_retries=0, timeout=30) as client:
            return await asyncio.gather(*(one(client, number) for number in range(40)))

    assert asyncio.run(run()) == [["thinking", "text", "tool_use", "tool_use"]] * 40


@pytest.mark.styles("vllm", "ollama")
@pytest.mark.parametrize("way", WAYS)
def test_older_servers(place, way):
    place.server.old = True
    place.say(Turn(think="Hm.", text="It is wet.", calls=(Call("get_weather", {"city": "Oslo"}), Call("get_time"))))
    reply = place.ask(way, tools=TOOLS)
    assert [block.type for block in reply.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in reply.content[2:]] == [{"city": "Oslo"}, {}]
    place.say(Failure(400, "the mast is broken"))
    error = raised(anthropic.BadRequestError, lambda: place.ask(way))
    assert error.body["error"]["message"] == "the mast is broken"
    place.say(Turn(text="One", broken=Failure(500, "the mast is broken")))
    raised(anthropic.APIStatusError, lambda: place.ask("stream"))


# The library for JavaScript

def by_question(body):
    """The turn that a question asks for; anything that comes back from a tool gets an answer."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Turn(text=f"You said {last['content']}.")
    text = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    return {
        "text": Turn(text="The sea is wet.", cached=7),
        "think": Turn(think="Hm. Well.", text="Wet."),
        "image": Turn(text="A small one."),
        "tools": Turn(text="I look.", calls=(Call("get_weather", {"city": "Åre", "days": 3}), Call("get_time"))),
        "storm": Turn(text='{"name": "Ylva", "knots": 55}'),
        "refuse": Failure(400, "the mast is broken"),
        "overloaded": Failure(529, "too many ships"),
        "break": Turn(text="One two", broken=Failure(500, "the mast is broken")),
    }[text]


def test_node(place, node):
    place.server.turns = by_question
    tour = node(place.fleet.ollas[place.olla].url + place.prefix, place.model, script="anthropic.mjs").finish()
    assert tour["end"] == "complete", tour
    for way in WAYS:
        one = tour["text " + way]
        assert (one["text"], one["stop"], one["usage"]) == ("The sea is wet.", "end_turn", list(place.usage(7)))
        assert one["endpoint"] == place.style and one["id"]
        think = tour["think " + way]
        assert (think["types"], think["thinking"], think["text"]) == (["thinking", "text"], "Hm. Well.", "Wet.")
        assert think["again"] == "The sea is wet."
        tools = tour["tools " + way]
        assert tools["inputs"] == [["get_weather", {"city": "Åre", "days": 3}], ["get_time", {}]]
        assert (tools["stop"], tools["answer"]) == ("tool_use", "You said noon.")
        assert tour["image " + way]["text"] == "A small one."
    assert tour["text stream"]["pieces"] == ["The", " sea", " is", " wet."]
    assert tour["text stream"]["kinds"] == ["message_start", "content_block_start", "content_block_delta", "content_block_stop",
                                            "message_delta", "message_stop"]
    assert tour["runner"] == "You said noon."
    assert tour["storm"] == {"name": "Ylva", "knots": 55}
    assert tour["count"] == 2
    assert place.model in tour["models"]
    unknown, refused, overloaded, broken = (tour[name] for name in ("unknown", "refused", "overloaded", "broken"))
    assert (unknown["name"], unknown["status"], unknown["type"]) == ("NotFoundError", 404, "not_found_error")
    assert (refused["name"], refused["status"]) == ("BadRequestError", 400) and "the mast is broken" in refused["message"]
    assert (overloaded["status"], overloaded["type"]) == (529, "overloaded_error")
    assert all(error["id"] for error in (unknown, refused, overloaded))
    assert broken["name"] and broken["seen"] == "One two" and broken["complete"] is False
