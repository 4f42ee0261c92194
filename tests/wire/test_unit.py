"""The service for systemd: what it says about olla must be true of olla. What systemd makes of it, tests/lint.sh asks systemd."""

import re
import signal

import pytest

from backend import bind_port
from harness import REPO, build_config, run_cli

pytestmark = pytest.mark.usefixtures("binary")
UNIT = REPO / "package" / "systemd" / "olla.service"
PROGRAM, CONFIG = "/usr/sbin/olla", "/etc/olla.ini"


def settings():
    """{name: values} of all sections, as systemd reads them: a name may come again."""
    found = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def commands():
    return [words.split() for name, values in settings().items() if name.startswith("Exec") for words in values]


def exit_codes(name):
    return {int(code) for code in settings()[name][0].split()}


def listening():
    """Something that holds a port."""
    sock = bind_port()
    sock.listen()
    return sock


def test_files_are_where_make_puts_them():
    """Makefile replaces these two by what PREFIX and SYSCONFDIR say."""
    ours = [words for words in commands() if words[0].endswith("olla")]
    assert len(ours) >= 2 and all(words[0] == PROGRAM and CONFIG in words for words in ours)
    assert "s|%s|$(SBINDIR)/olla|g; s|%s|$(SYSCONFDIR)/olla.ini|g" % (PROGRAM, CONFIG) in (REPO / "Makefile").read_text()


def test_the_check_before_a_reload(tmp_path):
    """With a file that has faults the command fails, so that systemd does not come to the next one."""
    config = tmp_path / "olla.ini"
    check, tell = [value.split() for value in settings()["ExecReload"]]
    assert check[0] == PROGRAM and tell[0] == "/bin/kill"
    args = [config if word == CONFIG else word for word in check[1:]]
    for text, code in (("[server]\nport = 5\n", 0), ("[server]\nport = x\n", 1)):
        config.write_text(text)
        assert run_cli(*args, timeout=20)[0] == code


def test_start_and_reload(world):
    """The service's own words start a proxy, and its signal reloads one."""
    start, = [value.split() for value in settings()["ExecStart"]]
    assert start == [PROGRAM, "-c", CONFIG], "as the harness starts it"
    proxy = world.olla()
    tell = settings()["ExecReload"][-1].split()
    assert tell[-1] == "$MAINPID"
    proxy.signal(getattr(signal, "SIG" + tell[1].lstrip("-")))
    proxy.wait_log("configuration reloaded")


def test_exit_codes(world, tmp_path):
    """What a restart cannot mend must not be tried again; a stop that cut requests is no failure."""
    never, fine = exit_codes("RestartPreventExitStatus"), exit_codes("SuccessExitStatus")
    config = tmp_path / "olla.ini"
    config.write_text("[server]\nport = x\n")
    assert run_cli("-c", config)[0] in never
    assert run_cli("--no-such-option")[0] in never
    with listening() as taken:
        port = taken.getsockname()[1]
        config.write_text(build_config(port, {}, {}))
        assert run_cli("-c", config)[0] in never
    names = dict(re.findall(r"(OLLA_EXIT_\w+) = (\d+)", (REPO / "olla.h").read_text()))
    assert {int(names["OLLA_EXIT_CUT"])} == fine and never == {int(names["OLLA_EXIT_CONF"]), int(names["OLLA_EXIT_USAGE"])}


def test_room_for_all_clients(tmp_path):
    """The limit of descriptors is enough for what olla asks for."""
    code, out, _ = run_cli("-m", cwd=tmp_path)
    pools = dict(re.findall(r"^(\w+) +\d+ x +(\d+) =", out, re.M))
    assert code == 0 and int(settings()["LimitNOFILE"][0]) > int(pools["clients"]) * 5 // 4 + int(pools["upstreams"]) + 100
