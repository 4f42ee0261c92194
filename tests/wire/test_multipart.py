"""Audio and image uploads name their model in a form field."""
from backend import OpenAIBackend

PATH = "/v1/audio/transcriptions"


def form(model, size=1000, model_first=False, boundary="----form7MA4YWxkTrZu0gW"):
    file_part = (b'--%s\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
                 b"Content-Type: audio/wav\r\n\r\n" % boundary.encode()) + b"\r\n--x" * (size // 5) + b"\r\n"
    model_part = b'--%s\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n' % (boundary.encode(), model)
    parts = model_part + file_part if model_first else file_part + model_part
    return parts + b"--%s--\r\n" % boundary.encode(), "multipart/form-data; boundary=" + boundary


def send(proxy, body, ctype):
    return proxy.request("POST", PATH, body, headers={"Content-Type": ctype})


def servers(world, settings=None):
    a, b = world.backend(OpenAIBackend, "a", ["chat-1"]), world.backend(OpenAIBackend, "b", ["Whisper-1"])
    for server in (a, b):
        server.on(PATH, lambda c, r: c.reply({"text": "hello"}))
    return a, b, world.olla({"a": a, "b": b}, settings)


def test_routed_by_the_form_field(world):
    """An upload without routing lands on a server that cannot hear."""
    a, b, proxy = servers(world)
    for size in (100, 20000, 300000):
        for first in (True, False):
            body, ctype = form(b"Whisper-1", size, first)
            reply = send(proxy, body, ctype)
            assert (reply.status, reply.get("X-Olla-Endpoint"), reply.get("X-Olla-Model")) == (200, "b", "Whisper-1")
            assert b.calls[-1].body == body
    assert a.calls == []


def test_unknown_model_in_a_form(world):
    """The error must name the model like any other."""
    _, _, proxy = servers(world)
    reply = send(proxy, *form(b"whisper-9"))
    assert reply.status == 404 and "whisper-9" in reply.json()["error"]["message"]


def test_alias_in_a_form(world):
    """The field is rewritten plainly, without JSON's quotes; all else stays as it was."""
    _, b, proxy = servers(world, {"model_aliases.ears": "whisper-1"})
    for size in (100, 300000):
        body, ctype = form(b"ears", size)
        assert send(proxy, body, ctype).status == 200
        assert b.calls[-1].body == form(b"Whisper-1", size)[0]


def test_two_models_in_a_form(world):
    """Two fields of that name are as ambiguous as two keys."""
    _, _, proxy = servers(world)
    body, ctype = form(b"Whisper-1")
    assert send(proxy, body[:-len("------form7MA4YWxkTrZu0gW--\r\n")] + form(b"chat-1")[0], ctype).status == 400
