"""usage.file: tokens by key and model, appended once in an interval, and when olla stops or reads another configuration."""

import json
import os
import stat

import pytest

from backend import eventually
from harness import endpoint
from observe import CHAT, ask, bearer, says
from servers import Compatible

ALICE, BOB = "sk-alice-file", "sk-bob-file"
USAGE = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
FIELDS = {"time", "seconds", "key", "model", "requests", "failed_requests", "input_tokens", "output_tokens", "estimated_requests", "bytes"}


class Place:
    def __init__(self, world, path, **settings):
        self.path = path
        self.c = world.backend(Compatible, "c", ["m1", "M-Two"])
        self.c.on(CHAT, says({"model": "m1", "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": USAGE}))
        self.spec = {"c": endpoint(self.c, health="none", check_interval="120s")}
        self.settings = dict({"usage.file": path, "key:alice.secret": ALICE, "key:bob.secret": BOB}, **settings)
        self.proxy = world.olla(self.spec, self.settings, ready={"c": 2})

    def spend(self, key=ALICE, model="m1", times=1):
        for _ in range(times):
            assert ask(self.proxy, CHAT, {"model": model, "messages": []}, bearer(key)).status == 200

    def stop(self):
        self.proxy.signal()
        assert self.proxy.wait_exit() == 0

    def lines(self, path=None):
        path = path or self.path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def sums(self, path=None):
        found = {}
        for line in self.lines(path):
            assert set(line) == FIELDS and line["time"].endswith("Z")
            old = found.get((line["key"], line["model"]), (0, 0, 0))
            found[line["key"], line["model"]] = (old[0] + line["requests"], old[1] + line["input_tokens"], old[2] + line["output_tokens"])
        return found


@pytest.fixture
def place(world, tmp_path):
    return lambda **settings: Place(world, tmp_path / "used.jsonl", **settings)


def test_written_when_olla_stops(place):
    """Not before: an hour is not over."""
    p = place()
    p.spend(times=3)
    p.spend(BOB)
    p.spend(model="m-two")
    assert not p.path.exists()
    p.stop()
    assert p.sums() == {("alice", "m1"): (3, 90, 30), ("bob", "m1"): (1, 30, 10), ("alice", "M-Two"): (1, 30, 10)}
    assert stat.S_IMODE(p.path.stat().st_mode) == 0o600


def test_once_in_an_interval(place):
    p = place(**{"usage.interval": "1s"})
    p.path.write_text('{"mine": 1}\n')
    p.spend(times=2)
    eventually(lambda: len(p.lines()) == 2, "written", 10)
    p.spend(times=4)
    eventually(lambda: len(p.lines()) == 3, "written again", 10)
    first, second, third = p.lines()
    assert first == {"mine": 1} and (second["requests"], third["requests"]) == (2, 4) and 1 <= third["seconds"] <= 5


def test_reload_writes_to_the_old_file(place):
    p = place()
    other = p.path.with_name("other")
    p.spend()
    p.proxy.reload(p.spec, dict(p.settings, **{"usage.file": other}))
    p.proxy.wait_log("configuration reloaded")
    p.spend(times=2)
    p.stop()
    assert p.sums() == {("alice", "m1"): (1, 30, 10)} and p.sums(other) == {("alice", "m1"): (2, 60, 20)}


@pytest.mark.parametrize("obstacle", ["directory", "link", "pipe"])
def test_what_cannot_be_written_is_kept(place, obstacle):
    """Said once in a while; when the way is free again everything is there."""
    p = place(**{"usage.interval": "1s"})
    if obstacle == "directory":
        p.path.mkdir()
    elif obstacle == "link":
        p.path.symlink_to(p.path.with_name("elsewhere"))
    else:
        os.mkfifo(p.path)
    p.spend(times=2)
    entry = p.proxy.wait_log("usage.file cannot be written, what was counted is kept", 10)
    assert entry["file"] == str(p.path) and entry["error"]
    p.spend()
    p.path.rmdir() if obstacle == "directory" else p.path.unlink()
    eventually(lambda: p.path.exists() and p.sums() == {("alice", "m1"): (3, 90, 30)}, "all of it", 10)
    assert not p.path.with_name("elsewhere").exists()


def test_alias(place):
    """It counts for what it stands for."""
    p = place(**{"model_aliases.swift": "m1"})
    p.spend(model="swift", times=3)
    p.stop()
    assert p.sums() == {("alice", "m1"): (3, 90, 30)}


def test_off(world, tmp_path):
    p = Place(world, tmp_path / "used", **{"usage.file": ""})
    p.spend()
    p.stop()
    assert list(tmp_path.iterdir()) == []
