"""What Anthropic's official client library makes of errors: olla's own, those of five scripted chat servers, and replies that
break off."""
import threading
import time

import anthropic
import pytest
from fleet import ASK, OLLAS, TOOLS, WAYS, Place, raised
from servers.chat_styles import CUT, ENDED, Call, Failure, Turn

OVERFLOW = {
    "ollama": "the input length exceeds the context length",
    "llamacpp": "request (160022 tokens) exceeds the available context size (8192 tokens), try increasing it",
    "vllm": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, 1000 in "
            "the completion). Please reduce the length of the messages or completion.",
    "sglang": "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "lm-studio": "Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded with context length "
                 "of only 4096 tokens, which is not enough. Try to load the model with a larger context length, or provide a shorter "
                 "input",
}


def test_unknown_model(place):
    for call in (lambda: place.create(model="m-nothing"), lambda: list(place.create(model="m-nothing", stream=True))):
        error = raised(anthropic.NotFoundError, call)
        assert error.body["error"]["type"] == "not_found_error"
        assert "m-nothing" in error.body["error"]["message"]
        assert error.request_id == error.body["request_id"] == error.response.headers["x-olla-request-id"]


@pytest.mark.parametrize("more, message", (
    ({"max_tokens": 0}, "invalid request: max_tokens must be at least 1, got 0"),
    ({"messages": []}, "invalid request: at least one message is required"),
    ({"extra_body": {"temperature": 3}}, "invalid request: temperature must be between 0 and 2"),
    ({"extra_body": {"top_k": -1}}, "invalid request: top_k must be non-negative"),
    ({"model": ""}, "model field must not be empty"),
    ({"messages": [{"role": "pirate", "content": "Arr."}]}, "messages.0: unknown role"),
    ({"messages": ASK + [{"role": "assistant", "content": None}]}, "messages.1: content is missing"),
), ids=str)
def test_bad_request(place, more, message):
    error = raised(anthropic.BadRequestError, lambda: place.create(**more))
    assert (error.body["error"]["type"], error.body["error"]["message"]) == ("invalid_request_error", message)
    assert error.request_id


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status, kind", (
    (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"), (404, "not_found_error"),
    (422, "invalid_request_error"), (500, "api_error"), (503, "overloaded_error"), (529, "overloaded_error")))
def test_error_of_the_server(place, way, status, kind):
    place.say(Failure(status, "the mast is broken"))
    error = raised(anthropic.APIStatusError, lambda: place.ask(way))
    assert "the mast is broken" in error.body["error"]["message"]
    assert error.request_id == error.body["request_id"]
    if way == "stream" and place.style == "lm-studio":
        assert error.status_code >= 400  # LM Studio says 200 and tells no status
        return
    assert (error.status_code, error.body["error"]["type"]) == (status, kind)
    expected = {400: anthropic.BadRequestError, 401: anthropic.AuthenticationError, 404: anthropic.NotFoundError,
                500: anthropic.InternalServerError}
    assert isinstance(error, expected.get(status, anthropic.APIStatusError))


@pytest.mark.parametrize("way", WAYS)
def test_prompt_is_too_long(place, way):
    place.say(Failure(400, OVERFLOW[place.style]))
    error = raised(anthropic.BadRequestError, lambda: place.ask(way))
    assert error.body["error"]["message"].startswith("prompt is too long: ")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("olla", OLLAS)
def test_patience(fleet, olla, way):
    """429 with Retry-After: the library waits as long as the server says, and gives up when it has tried enough."""
    place = Place(fleet, olla, "busy")
    place.say(Failure(429, "too many ships", {"Retry-After": "1"}), Turn(text="Now."))
    began = time.monotonic()
    reply = place.ask(way, client=place.client.with_options(max_retries=2))
    assert (reply.content[0].text, len(place.server.asked)) == ("Now.", 2)
    assert time.monotonic() - began >= 1
    place.say(Failure(429, "too many ships", {"Retry-After": "1"}))
    error = raised(anthropic.RateLimitError, lambda: place.ask(way))
    assert (error.response.headers["retry-after"], error.body["error"]["type"]) == ("1", "rate_limit_error")
    assert "too many ships" in error.body["error"]["message"]
    time.sleep(1.1)  # olla lets the endpoint rest as long


def test_retried_by_the_library(place):
    place.say(Failure(503, "loading"), Turn(text="Here."))
    reply = place.create(client=place.client.with_options(max_retries=2))
    assert (reply.content[0].text, len(place.server.asked)) == ("Here.", 2)


def test_no_retry(place):
    """x-should-retry of a server reaches the library, which obeys."""
    place.say(Failure(500, "no", {"x-should-retry": "false"}), Turn(text="Here."))
    raised(anthropic.InternalServerError, lambda: place.create(client=place.client.with_options(max_retries=2)))
    assert len(place.server.asked) == 1


BROKEN = {"error": Failure(500, "the mast is broken"), "end": ENDED, "cut": CUT}


def read_broken(place, broken):
    """What came before has arrived; then the library raises, and the next request is as any other."""
    place.say(Turn(text="One two three.", broken=broken), Turn(text="Here."))
    seen = []

    def read():
        with place.open() as stream:
            for text in stream.text_stream:
                seen.append(text)

    error = raised(anthropic.APIError, read)
    assert "".join(seen) == "One two three."
    assert isinstance(error, anthropic.APIStatusError), "the end of the connection is all that the client got"
    assert error.body["type"] == "error"
    assert place.create().content[0].text == "Here."
    return error.body["error"]["message"]


@pytest.mark.parametrize("how", BROKEN)
def test_broken_stream(place, how):
    message = read_broken(place, BROKEN[how])
    if how == "error" and place.style != "ollama":  # Ollama loses what it wanted to say
        assert "the mast is broken" in message


@pytest.mark.styles("ollama", "llamacpp")
def test_broken_stream_in_another_form(place):
    place.server.late = {"ollama": "line", "llamacpp": "field"}[place.style]
    assert "the mast is broken" in read_broken(place, BROKEN["error"])


def test_broken_in_a_call(place):
    place.say(Turn(calls=(Call("get_weather", {"city": "Oslo"}),), broken=Failure(500, "the mast is broken")))
    raised(anthropic.APIStatusError, lambda: place.ask("stream", tools=TOOLS))


def test_client_that_leaves(place):
    """The server's connection is closed at once."""
    left, ended = threading.Event(), threading.Event()

    def hold(conn):
        time.sleep(0.01)
        if left.is_set():
            conn.wait_close(5)
            ended.set()
            raise EOFError

    place.say(Turn(text=["word "] * 300, hold=hold))
    with place.open() as stream:
        next(iter(stream.text_stream))
        left.set()
    assert ended.wait(2)
