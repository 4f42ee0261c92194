"""Fixtures: `world` (one per test), `kept` (what a module shares), `site` (a running proxy shared by a module) and `certs`."""

import pathlib
import resource

import pytest

from backend import LlamaBackend, OllamaBackend, OpenAIBackend
from faults import WallClock
from floods import small_binary
from harness import BINARY, World, have_binary, report
from tls import Certificates


def pytest_configure(config):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for name in ("world", "site"):
            holder = item.funcargs.get(name)
            for proxy in getattr(holder, "proxies", []):
                report.sections.append(("olla on port %d" % proxy.port, proxy.describe()))


@pytest.fixture(scope="session")
def binary():
    if not have_binary():
        pytest.fail("no program at %s: build it first or set OLLA_BIN" % BINARY)
    return BINARY


@pytest.fixture(scope="session")
def small():
    """The program with limits that a handful of connections reaches."""
    return small_binary()


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    """Certificates and their authorities, made with the openssl command."""
    return Certificates(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def world(binary):
    """Servers and proxies of one test; at its end pools, log and exit code are checked."""
    world = World()
    try:
        yield world
    finally:
        problems = world.close()
    report(problems)


@pytest.fixture(scope="module")
def kept(binary):
    """kept(Class, ...) is the one object made of these arguments in this module: made when it is first asked for, and
    anew when its proxy died. At the module's end their worlds are closed."""
    found, problems = {}, []

    def keep(make, *args, **keys):
        key = make, args, frozenset(keys.items())
        if key in found and not found[key].proxy.alive():
            problems.extend(found.pop(key).world.close())
        if key not in found:
            found[key] = make(*args, **keys)
        return found[key]
    yield keep
    for thing in found.values():
        problems += thing.world.close()
    report(problems)


class Site:
    """A proxy in front of one Ollama-like (m-oll), one OpenAI-like (m-oai) and one
    llama.cpp-like (m-lla) backend. All three also have m-all."""

    def __init__(self):
        self.world = World()
        self.oll = self.world.backend(OllamaBackend, "oll", ["m-oll", "m-all"])
        self.oai = self.world.backend(OpenAIBackend, "oai", ["m-oai", "m-all"])
        self.lla = self.world.backend(LlamaBackend, "lla", ["m-lla", "m-all"])
        # Tests make these servers fail again and again: that is no reason to leave them alone.
        self.proxy = self.world.olla({"oll": self.oll, "oai": self.oai, "lla": self.lla},
                                     {"proxy.breaker.open_time": "1ms", "proxy.breaker.max_open_time": "1ms"})

    @property
    def proxies(self):
        return self.world.proxies

    @property
    def servers(self):
        return (self.oll, self.oai, self.lla)

    @property
    def calls(self):
        return [call for server in self.servers for call in server.calls]

    def client(self, **options):
        return self.world.client(self.proxy, **options)


@pytest.fixture
def site(kept):
    """The shared proxy, with its records emptied; pools and log are checked after each test."""
    site = kept(Site)
    for server in site.servers:
        server.forget()
    saved = [dict(server.routes) for server in site.servers]
    before = len(site.proxy.logs)
    try:
        yield site
    finally:
        site.world.close_clients()
        for server, routes in zip(site.servers, saved):
            server.routes = routes
            server.unread.clear()
    problems = site.proxy.idle_problems() if site.proxy.alive() else ["olla died: " + site.proxy.describe()]
    problems += site.world.script_failures()
    problems += ["ERROR line in the log: %r" % entry for entry in site.proxy.logs[before:] if entry.get("level") == "ERROR"]
    if problems:
        problems.append(site.proxy.describe())
    report(problems)


@pytest.fixture
def clock(tmp_path):
    """A wall clock that can be moved for a proxy."""
    clock = WallClock(tmp_path, pathlib.Path(__file__).parent / "clock_jump.c")
    if clock.problem:
        pytest.skip(clock.problem)
    return clock
