"""`make test-browser`: the dashboard in a real browser, before a real olla and scripted servers (tests/wire)."""

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "wire")]

from chromium import Browser, find  # noqa: E402
from harness import World, have_binary, report  # noqa: E402


@pytest.fixture(scope="session")
def browser():
    if not find():
        pytest.fail("no chromium: tests/deps.sh browser installs it")
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def world(browser):
    assert have_binary(), "build olla first"
    world = World()
    try:
        yield world
    finally:
        for page in list(browser.pages.values()):
            page.close()
        problems = world.close()
    report(problems)
