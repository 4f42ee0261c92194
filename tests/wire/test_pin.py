"""X-Olla-Endpoint picks the machine; one model of the catalogue by its name."""
from backend import OllamaBackend, OpenAIBackend

CHAT = "/v1/chat/completions"


def two(world):
    a, b = world.backend(OllamaBackend, "a", ["m1", "org/M-Two:7b"]), world.backend(OllamaBackend, "b", ["m1"])
    return a, b, world.olla({"a": a, "b": b})


def test_pin_wins_over_balancing(world):
    """A request that names its machine must never go to another one, however idle that is."""
    _, _, proxy = two(world)
    for name in ("b", "b", "a", "a", "b"):
        reply = proxy.post(CHAT, {"model": "m1"}, headers={"X-Olla-Endpoint": name})
        assert (reply.status, reply.get("X-Olla-Endpoint")) == (200, name)


def test_pin_is_not_forwarded(world):
    """The header is for olla; a backend has no use for it."""
    a, _, proxy = two(world)
    assert proxy.post(CHAT, {"model": "m1"}, headers={"x-olla-endpoint": "a"}).status == 200
    assert [call.get("X-Olla-Endpoint") for call in a.calls] == [None]


def test_unknown_pin(world):
    """A misspelt name must be told, not be taken for 'any'."""
    _, _, proxy = two(world)
    reply = proxy.post(CHAT, {"model": "m1"}, headers={"X-Olla-Endpoint": "c"})
    assert reply.status == 404 and "X-Olla-Endpoint" in reply.json()["error"]["message"]


def test_pin_of_a_dead_machine(world):
    """Another machine would be the wrong one: 503 says that the wanted one is away."""
    a, b, proxy = two(world)
    b.stop()
    for _ in range(2):  # the first may find out by itself that it is gone
        reply = proxy.post(CHAT, {"model": "m1"}, headers={"X-Olla-Endpoint": "b"})
        assert reply.status in (502, 503)
    assert reply.status == 503 and a.calls == []


def test_management_needs_a_pin(world):
    """Pulling a model on whichever machine is idle helps nobody; on a named one it is fine."""
    a, b, proxy = two(world)
    b.on("/api/pull", lambda c, r: c.reply({"status": "success"}))
    for path in ("/api/pull", "/olla/ollama/api/pull", "/api/blobs/sha256:00"):
        reply = proxy.post(path, {"name": "new:1b"})
        assert reply.status == 501 and "X-Olla-Endpoint" in reply.json()["error"]
    reply = proxy.post("/api/pull", {"name": "new:1b"}, headers={"X-Olla-Endpoint": "b"})
    assert (reply.status, reply.json()) == (200, {"status": "success"})
    assert a.calls == [] and [call.path for call in b.calls] == ["/api/pull"]


def test_one_model(world):
    """Client libraries retrieve one model by name; names hold slashes, colons and capitals."""
    _, _, proxy = two(world)
    for path, name in (("/v1/models/m1", "m1"), ("/v1/models/org/M-Two:7b", "org/M-Two:7b"),
                       ("/v1/models/org%2FM-Two%3A7b", "org/M-Two:7b"), ("/v1/models/ORG/m-two:7b", "org/M-Two:7b"),
                       ("/olla/proxy/v1/models/m1", "m1")):
        reply = proxy.get(path)
        assert (reply.status, reply.json()["id"], reply.json()["object"]) == (200, name, "model"), path
    reply = proxy.get("/v1/models/none")
    assert reply.status == 404 and reply.json()["error"]["code"] == "model_not_found"


def test_one_alias(world):
    """An alias that can be used must be found like a model."""
    a = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = world.olla({"a": a}, {"model_aliases.fast": "m1", "model_aliases.gone": "nothing"})
    assert proxy.get("/v1/models/FAST").json()["id"] == "fast"
    assert proxy.get("/v1/models/gone").status == 404
