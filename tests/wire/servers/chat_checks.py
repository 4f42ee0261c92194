"""What a server wants of a chat completions request: the checks of chat_styles.py."""

import base64
import json
import re

ROLES = {"system", "user", "assistant", "tool"}
KEYS = {"model", "messages", "max_tokens", "stream", "stream_options", "temperature", "top_p", "stop", "tools", "tool_choice",
        "parallel_tool_calls", "response_format"}  # any of them knows these
NEVER = re.compile(r"anthropic-.*|x-api-key|authorization|cookie|expect")


class Unfit(AssertionError):
    """The request is none that this server understands."""


def need(condition, what, *arguments):
    if not condition:
        raise Unfit(what % arguments if arguments else what)


def no_repetition(pairs):
    keys = [key for key, _ in pairs]
    need(len(keys) == len(set(keys)), "a key twice in one object: %r", keys)
    return dict(pairs)


def no_constant(name):
    raise Unfit("%s is not JSON" % name)


def parse(data):
    """Strict: UTF-8, no key twice, no NaN, nothing behind the end."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=no_repetition, parse_constant=no_constant)
    except ValueError as error:
        raise Unfit("the body is not JSON: %s: %r" % (error, data[:200])) from None


def check_framing(request):
    need(request.method == "POST", "method %s", request.method)
    need(len(request.get_all("Content-Length")) == 1, "Content-Length %r", request.get_all("Content-Length"))
    need(int(request.get("Content-Length")) == len(request.body), "the body has another length than Content-Length")
    need(not request.has("Transfer-Encoding"), "Transfer-Encoding %r", request.get("Transfer-Encoding"))
    need((request.get("Content-Type") or "").startswith("application/json"), "Content-Type %r", request.get("Content-Type"))


def check_translated(request):
    """What a request translated from the Messages API must not have kept: for tests, as other clients may send these."""
    need(not request.query, "the query %r", request.query)
    kept = [name for name, _ in request.headers if NEVER.fullmatch(name.lower())]
    need(not kept, "the headers %r", kept)
    coding = request.get("Accept-Encoding", "identity")
    need(coding == "identity", "Accept-Encoding %r for a reply that has to be read", coding)
    messages = parse(request.body).get("messages", [])
    roles = [message["role"] for message in messages]
    need("system" not in roles[1:], "a system message that is not the first: %r", roles)
    for before, role in zip(roles, roles[1:]):
        need(before != role or role == "tool", "two turns of the same role: %r", roles)
    text = json.dumps(messages)
    for word in ("cache_control", "tool_use_id", "input_schema", "redacted_thinking"):
        need('"%s"' % word not in text, "%s in the messages", word)


def check_image(part, types, remote):
    need(isinstance(part.get("image_url"), dict) and isinstance(part["image_url"].get("url"), str), "image_url in %r", part)
    url = part["image_url"]["url"]
    match = re.match(r"data:image/([a-z]+);base64,", url)
    if not match:
        need(remote and re.match(r"https?://", url), "the image %r", url[:80])
        return
    need(match.group(1) in types, "an image of the type %r", match.group(1))
    try:
        need(base64.b64decode(url[match.end():], validate=True), "an empty image")
    except ValueError as error:
        raise Unfit("the image is not base64: %s" % error) from None


def check_calls(calls):
    """The ids of an assistant's calls."""
    need(isinstance(calls, list) and calls, "tool_calls %r", calls)
    for call in calls:
        need(isinstance(call, dict) and call.get("type") == "function", "the call %r", call)
        need(isinstance(call.get("id"), str) and call["id"], "a call without an id: %r", call)
        function = call.get("function")
        need(isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"], "the call %r", call)
        need(isinstance(function.get("arguments"), str), "arguments that are no text: %r", call)
        need(isinstance(parse(function["arguments"].encode()), dict), "arguments that are no object: %r", call)
    ids = [call["id"] for call in calls]
    need(len(ids) == len(set(ids)), "an id twice in one turn: %r", ids)
    return ids


def check_messages(messages, image_types, remote_images):
    """Every call has its results directly behind it, in any order."""
    waiting = set()
    for message in messages:
        need(isinstance(message, dict) and message.get("role") in ROLES, "the message %r", message)
        if message["role"] == "tool":
            need(message.get("tool_call_id") in waiting, "a result for no call of the turn before it: %r", message)
            waiting.remove(message["tool_call_id"])
        else:
            need(not waiting, "calls without results: %r before %r", waiting, message)
        if message["role"] == "assistant" and "tool_calls" in message:
            waiting = set(check_calls(message["tool_calls"]))
        check_content(message, image_types if message["role"] == "user" else None, remote_images)
    need(not waiting, "the conversation ends with calls: %r", waiting)


def check_content(message, image_types, remote_images):
    """image_types: those that a user's message may have, None for other messages."""
    content = message.get("content")
    if content is None:
        need("tool_calls" in message, "a message without content: %r", message)
        return
    if isinstance(content, str):
        return
    need(isinstance(content, list) and content, "the content %r", content)
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url" and image_types is not None:
            check_image(part, image_types, remote_images)
        else:
            need(kind == "text" and isinstance(part.get("text"), str), "a part of %s that is %r", message["role"], part)


def check_tools(body):
    tools = body.get("tools")
    if tools is None:
        need("tool_choice" not in body and "parallel_tool_calls" not in body, "tool_choice without tools")
        return
    need(isinstance(tools, list) and tools, "tools %r", tools)
    names = []
    for tool in tools:
        need(isinstance(tool, dict) and tool.get("type") == "function", "the tool %r", tool)
        function = tool.get("function")
        need(isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"], "the tool %r", tool)
        need(isinstance(function.get("parameters"), dict), "parameters that are no schema: %r", tool)
        need(isinstance(function.get("description", ""), str), "the description of %r", tool)
        need(set(function) <= {"name", "description", "parameters", "strict"}, "keys of a tool: %r", sorted(function))
        names.append(function["name"])
    need(len(names) == len(set(names)), "a tool twice: %r", names)
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        need(choice.get("type") == "function" and choice["function"]["name"] in names, "tool_choice %r", choice)
    else:
        need(choice in ("auto", "none", "required"), "tool_choice %r", choice)


def check_parameters(body):
    for key, kind in (("max_tokens", int), ("top_k", int), ("stream", bool), ("parallel_tool_calls", bool),
                      ("chat_template_kwargs", dict), ("reasoning_effort", str)):
        need(key not in body or type(body[key]) is kind, "%s %r", key, body.get(key))
    for key in ("temperature", "top_p"):
        need(type(body.get(key, 0)) in (int, float), "%s %r", key, body.get(key))
    need(body.get("max_tokens", 1) >= 1, "max_tokens %r", body.get("max_tokens"))
    need("stream_options" not in body or body.get("stream"), "stream_options without stream")
    stop = body.get("stop", ["x"])
    need(isinstance(stop, str) or isinstance(stop, list) and stop and all(isinstance(s, str) for s in stop), "stop %r", stop)
    form = body.get("response_format", {"type": "text"})
    need(form.get("type") in ("text", "json_schema"), "response_format %r", form)
    if form["type"] == "json_schema":
        need(isinstance(form["json_schema"].get("schema"), dict) and form["json_schema"].get("name"), "response_format %r", form)
