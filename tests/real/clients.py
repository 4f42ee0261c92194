"""The official client libraries for Python, pointed at olla."""
import ollama
import openai

ASK = [{"role": "user", "content": "Tell me about the sea."}]
# Random weights would end a text at any moment.
ENDLESS = {"ignore_eos": True}


def openai_client(house, path="/v1"):
    return openai.OpenAI(base_url=house.url + path, api_key="none", max_retries=0, timeout=60)


def ollama_client(house, path="", seen=None, endpoint=None):
    """seen gets the endpoint of every reply; endpoint is the one that has to answer."""
    def note(response):
        if seen is not None:
            seen.append(response.headers.get("X-Olla-Endpoint"))

    headers = {"X-Olla-Endpoint": endpoint} if endpoint else {}
    return ollama.Client(host=house.url + path, timeout=60, event_hooks={"response": [note]}, headers=headers)


def openai_stream(house, model, limit, path="/v1", **more):
    """(endpoint, iterator of chunks)"""
    raw = openai_client(house, path).chat.completions.with_raw_response.create(
        model=model, messages=ASK, max_tokens=limit, stream=True, stream_options={"include_usage": True},
        extra_body=ENDLESS, **more)
    return raw.headers.get("X-Olla-Endpoint"), raw.parse()


def pieces(chunks):
    """The texts of a stream; finish reason and usage are in the dictionary."""
    facts = {"texts": [], "finish": None, "usage": None}
    for chunk in chunks:
        if chunk.usage:
            facts["usage"] = chunk.usage.completion_tokens
        for choice in chunk.choices:
            if choice.delta.content:
                facts["texts"].append(choice.delta.content)
            facts["finish"] = choice.finish_reason or facts["finish"]
    return facts
