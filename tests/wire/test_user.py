"""server.user: rights that are given up at start stay given up, and what olla can do without is gone in any case."""

import grp
import os
import pathlib
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from backend import OpenAIBackend, bind_port, eventually
from harness import Olla, build_config, endpoint

pytestmark = pytest.mark.usefixtures("binary")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

PATH = "/olla/proxy/v1/chat/completions"
# Whoever has given up rights cannot be traced by himself, which is how leaks are looked for.
NO_LEAK_CHECK = {"ASAN_OPTIONS": "exitcode=97:detect_leaks=0:allocator_may_return_null=1"}
SOMEBODY = "nobody"


def low_port(*hosts):
    """A port for root alone that is free at all of these addresses."""
    for port in range(1023, 600, -1):
        socks = []
        try:
            for host in hosts:
                socks.append(socket.socket())
                socks[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                socks[-1].bind((host, port))
            return port
        except OSError:
            pass
        finally:
            for sock in socks:
                sock.close()
    raise AssertionError("no free port below 1024")


def free_port():
    with bind_port() as sock:
        return sock.getsockname()[1]


def start(world, named, backend=None, port=None, settings=None, env=None, **options):
    """A proxy whose configuration names that user; from it, unlike world.olla, an error at start can be read."""
    settings = dict({"server.user": named} if named else {}, **(settings or {}))
    endpoints = {"a": endpoint("http://localhost:%d" % backend.port, type="openai-compatible")} if backend else {}
    port = port or free_port()
    proxy = Olla(build_config(port, endpoints, settings), port, env=dict(NO_LEAK_CHECK, **(env or {})), **options)
    world.proxies.append(proxy)
    return proxy


def refused(proxy, code=1):
    """The messages of a start that came to nothing."""
    proxy.expect_exit = code
    proxy.check_log_at_end = False
    assert proxy.wait_exit() == code, proxy.describe()
    proxy.reader.join(5)
    return proxy.stderr(), proxy.logs


def status_of(pid):
    return dict(line.split(":\t", 1) for line in open("/proc/%d/status" % pid).read().splitlines() if ":\t" in line)


def children(pid):
    return [int(n) for n in open("/proc/%d/task/%d/children" % (pid, pid)).read().split()]


def resolver(proxy):
    assert len(children(proxy.pid)) == 1
    return children(proxy.pid)[0]


def check_identity(pid, uid, gid, groups):
    seen = status_of(pid)
    assert seen["Uid"].split() == [str(uid)] * 4, "real, effective, saved and of the file system"
    assert seen["Gid"].split() == [str(gid)] * 4
    assert sorted(map(int, seen["Groups"].split())) == sorted(groups)
    assert [int(seen[which], 16) for which in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [0] * 4


def other_group():
    mine = os.getgrouplist(SOMEBODY, pwd.getpwnam(SOMEBODY).pw_gid)
    return next(g for g in grp.getgrall() if g.gr_gid not in mine and g.gr_gid != 0)


def forms():
    if os.geteuid() != 0:
        return []
    who, other = pwd.getpwnam(SOMEBODY), other_group()
    return [
        (SOMEBODY, who.pw_uid, who.pw_gid, os.getgrouplist(SOMEBODY, who.pw_gid)),
        ("%d" % who.pw_uid, who.pw_uid, who.pw_gid, os.getgrouplist(SOMEBODY, who.pw_gid)),
        ("%s:%s" % (SOMEBODY, other.gr_name), who.pw_uid, other.gr_gid, os.getgrouplist(SOMEBODY, other.gr_gid)),
        ("%d:%d" % (who.pw_uid, other.gr_gid), who.pw_uid, other.gr_gid, os.getgrouplist(SOMEBODY, other.gr_gid)),
        ("54321:54322", 54321, 54322, [54322]),
    ]


# ---- root's rights go

@needs_root
@pytest.mark.parametrize("form", range(5))
def test_root_becomes_somebody(world, form):
    """On a port that is root's, and nothing of root is left, in the resolver neither."""
    user, uid, gid, groups = forms()[form]
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = start(world, user, backend, low_port("127.0.0.1")).wait_listening().wait_healthy({"a": 1})
    for pid in (proxy.pid, resolver(proxy)):
        check_identity(pid, uid, gid, groups)
        assert status_of(pid)["NoNewPrivs"] == "1"
    assert proxy.post(PATH, {"model": "m1", "x": "y" * 1000000}).status == 200, "a body in the spool"
    proxy.wait_log("running as another user", user=user)


def test_the_two_processes_have_names_of_their_own(world):
    """`pkill -HUP -x olla` and whoever looks at ps mean the one that serves."""
    def name(pid):
        with open("/proc/%d/comm" % pid) as comm:
            return comm.read().strip()
    proxy = world.olla({"a": world.backend(OpenAIBackend, "a", ["m1"])})
    eventually(lambda: name(resolver(proxy)) == "olla-resolver", "the resolver says what it is")
    assert name(proxy.pid) == "olla"


@needs_root
def test_the_next_resolver_is_nobody_either(world):
    """A resolver that dies is replaced by one with the rights of that time."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = start(world, SOMEBODY, backend).wait_listening().wait_healthy({"a": 1})
    first = resolver(proxy)
    os.kill(first, signal.SIGKILL)
    proxy.wait_log("the resolver process has ended, starting another")
    eventually(lambda: children(proxy.pid) not in ([first], []), "a new resolver")
    _, uid, gid, groups = forms()[0]
    check_identity(resolver(proxy), uid, gid, groups)


def test_what_nobody_needs_is_gone(world):
    """Whoever starts it: no core file, no new rights, files for the owner alone."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    proxy = world.olla({"a": backend}, limits={resource.RLIMIT_CORE: most}, env={"ASAN_OPTIONS": "disable_coredump=0"})
    for pid in (proxy.pid, *children(proxy.pid)):
        assert status_of(pid)["NoNewPrivs"] == "1"
        assert status_of(pid)["Umask"] == "0077"
        assert re.search(r"^Max core file size +0 ", open("/proc/%d/limits" % pid).read(), re.M)


# ---- what cannot be

def test_no_such_user(world):
    """Said at once, with the line; going on as root would be the worst answer."""
    for user, what in (("nobody-of-that-name", "no such user"), (":", "no such user"), ("0:no-such-group", "no such group")):
        proxy = start(world, user)
        err, logs = refused(proxy)
        assert "%s:4: server.user: there is %s" % (proxy.config, what) in err and '"%s"' % user in err, err
        assert "NAME:GROUP" in err and not logs, "nothing was opened"


def test_check_names_the_user(tmp_path):
    """olla -t finds it, too."""
    from harness import run_cli
    path = tmp_path / "olla.ini"
    path.write_text("[server]\nuser = nobody-of-that-name\n")
    code, out, err = run_cli("-t", "-c", path)
    assert code == 1 and "%s:2: server.user: there is no such user" % path in err and "not valid" in out
    path.write_text("[server]\nuser = root\n")
    assert run_cli("-t", "-c", path)[0] == 0, "whether one may become it only the start can tell"


@needs_root
def test_only_root_can_become_another(world):
    """Not to be what was asked for is an error, and it says what to do."""
    for user in ("root", "0:0", "%s:%s" % (SOMEBODY, other_group().gr_name)):
        _, logs = refused(start(world, user, user=SOMEBODY))
        found = [entry for entry in logs if entry["level"] == "ERROR"]
        assert len(found) == 1 and "server.user" in found[0]["msg"] and found[0]["user"] == user
        assert "only root" in found[0]["error"] and "as root" in found[0]["remedy"]


@needs_root
def test_rights_that_would_come_back(world):
    """Root that keeps its rights whoever it is: then it must not go on as if they were gone."""
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv here")
    _, logs = refused(start(world, SOMEBODY, under=["setpriv", "--securebits=+no_setuid_fixup"]))
    assert [entry["error"] for entry in logs if entry["level"] == "ERROR"] == ["root's rights would not go away"]


@needs_root
def test_root_without_the_right_to_change(world):
    """As in a container that took it away."""
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv here")
    _, logs = refused(start(world, SOMEBODY, under=["setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid"]))
    found = [entry for entry in logs if entry["level"] == "ERROR"]
    assert len(found) == 1 and "not permitted" in found[0]["error"]


def test_who_one_is_already(world):
    """A service manager may have done it: no error, no root needed, and no warning at a reload."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    for user in (pwd.getpwuid(os.getuid()).pw_name, "%d:%d" % (os.getuid(), os.getgid())):
        proxy = start(world, user, backend).wait_listening().wait_healthy({"a": 1})
        assert status_of(proxy.pid)["Uid"].split()[0] == str(os.getuid())


@needs_root
def test_who_somebody_is_already(world):
    """The same without root."""
    who = pwd.getpwnam(SOMEBODY)
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    for user in (SOMEBODY, "%d:%d" % (who.pw_uid, who.pw_gid)):
        proxy = start(world, user, backend, user=SOMEBODY).wait_listening().wait_healthy({"a": 1})
        check_identity(proxy.pid, who.pw_uid, who.pw_gid, [])


# ---- reload

def rewrite(proxy, backend, settings, port=None):
    proxy.config.write_text(build_config(port or proxy.port, {"a": endpoint(backend)}, settings))
    proxy.signal(signal.SIGHUP)


@needs_root
def test_a_change_needs_a_restart(world):
    """A reload cannot give rights back, and says so as often as the file says otherwise."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = start(world, SOMEBODY, backend).wait_listening().wait_healthy({"a": 1})
    os.chmod(proxy.dir.name, 0o755)
    for n, (settings, warnings) in enumerate([({"server.user": "root"}, 1), ({}, 2), ({"server.user": SOMEBODY}, 2)], 1):
        rewrite(proxy, backend, settings)
        eventually(lambda: len(proxy.find_logs("configuration reloaded")) == n, "the reload")
        found = proxy.find_logs("server.user has changed: that needs a restart")
        assert len(found) == warnings and found[-1]["level"] == "WARN" and found[-1]["at_start"] == SOMEBODY
    _, uid, gid, groups = forms()[0]
    check_identity(proxy.pid, uid, gid, groups)
    assert proxy.post(PATH, {"model": "m1"}).status == 200


def test_a_change_without_root(world):
    """The warning does not ask who olla is."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = start(world, None, backend).wait_listening().wait_healthy({"a": 1})
    rewrite(proxy, backend, {"server.user": "root"})
    assert proxy.wait_log("server.user has changed: that needs a restart")["now"] == "root"


def first_free_for_all():
    try:
        return int(open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read())
    except OSError:
        return 1024


@needs_root
@pytest.mark.skipif(first_free_for_all() < 1024, reason="ports below 1024 are for everybody here")
def test_a_port_of_root_is_not_lost(world):
    """A listener that could not be opened again must not be closed for one that cannot be opened either."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    port = low_port("127.0.0.1", "127.0.0.2")
    proxy = start(world, SOMEBODY, backend, port).wait_listening().wait_healthy({"a": 1})
    os.chmod(proxy.dir.name, 0o755)
    proxy.allowed_errors = ["cannot listen", "reload refused"]
    with bind_port() as busy:  # what is taken by others is no better reason to close it
        busy.listen()
        taken = busy.getsockname()[1]
        for n, (host, to) in enumerate([("127.0.0.2", port), ("\"\"", port), ("192.0.2.1", port), ("127.0.0.1", port - 1),
                                        ("127.0.0.1", taken), ("192.0.2.1", taken)], 1):
            rewrite(proxy, backend, {"server.user": SOMEBODY, "server.host": host}, to)
            eventually(lambda: len(proxy.find_logs("reload refused, the old configuration stays in force")) == n, "refused")
            assert proxy.get("/internal/health").status == 200
    denied = [entry for entry in proxy.find_logs("cannot listen") if entry["error"] == "Permission denied"]
    assert len(denied) >= 3 and all("restart olla" in entry["remedy"] for entry in denied)
    assert not proxy.find_logs("configuration reloaded")
    # The way down is open, the way back is not.
    high = free_port()
    rewrite(proxy, backend, {"server.user": SOMEBODY}, high)
    proxy.wait_log("configuration reloaded")
    low, proxy.port = proxy.port, high
    assert proxy.get("/internal/health").status == 200
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", low), 1)
    rewrite(proxy, backend, {"server.user": SOMEBODY}, low)
    eventually(lambda: len(proxy.find_logs("reload refused, the old configuration stays in force")) == 7, "refused")
    assert proxy.get("/internal/health").status == 200


@needs_root
def test_files_that_only_root_can_read(world, tmp_path):
    """At the start they are read by root; a reload that cannot read them changes nothing and names what it cannot."""
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    secret = "sk-only-for-root-1234"
    (tmp_path / "secret.key").write_text(secret)
    os.chmod(tmp_path / "secret.key", 0o600)
    proxy = start(world, SOMEBODY, backend, settings={"key:k.secret_file": "secret.key"}, cwd=tmp_path).wait_listening()
    asked = {"Authorization": "Bearer " + secret}
    eventually(lambda: proxy.post(PATH, {"model": "m1"}, asked).status == 200, "the key is known")
    assert proxy.post(PATH, {"model": "m1"}).status == 401
    proxy.allowed_errors = ["reload refused", "secret_file", "olla.ini"]
    assert proxy.wait_log(level="WARN")["msg"].startswith("reloads will fail"), "nobody may look into that folder"
    for n, (mode, named) in enumerate([(0o700, "olla.ini"), (0o755, "secret_file")], 1):
        os.chmod(proxy.dir.name, mode)
        proxy.signal(signal.SIGHUP)
        eventually(lambda: len(proxy.find_logs("reload refused, the old configuration stays in force")) == n, "refused")
        assert [e for e in proxy.logs if e["level"] == "ERROR" and named in e["msg"] and "Permission denied" in e["msg"]]
        assert proxy.post(PATH, {"model": "m1"}, asked).status == 200
    assert secret not in str(proxy.logs)


# ---- what it writes

# Whatever can make, change or take away a name.
WRITES = ("open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,"
          "unlinkat,rmdir,mknod,mknodat,truncate,chmod,fchmodat,chown,lchown,fchownat,utimensat")


@pytest.fixture
def open_folder():
    """Unlike tmp_path where others may go, too."""
    with tempfile.TemporaryDirectory(prefix="olla-user-") as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


def can_trace():
    try:
        return subprocess.run(["strace", "-o", "/dev/null", "true"], timeout=20).returncode == 0
    except OSError:
        return False


@needs_root
@pytest.mark.skipif(not can_trace(), reason="strace cannot be had here")
def test_writes_nothing_but_its_spool(world, open_folder):
    """As nobody in particular, in a directory that is not its own, without a home: a whole life leaves nothing behind,
    and on the way nothing is opened for writing but the spool."""
    who = pwd.getpwnam(SOMEBODY)
    spool, cwd, trace = open_folder / "spool", open_folder / "cwd", open_folder / "trace"
    for folder in (spool, cwd):
        folder.mkdir()
    os.chown(spool, who.pw_uid, who.pw_gid)
    trace.touch()
    os.chown(trace, who.pw_uid, who.pw_gid)
    backend = world.backend(OpenAIBackend, "a", ["m1"])
    proxy = start(world, None, backend, settings={"proxy.spool_dir": spool}, user=SOMEBODY, cwd=cwd, env={"HOME": None},
                  under=["strace", "-D", "-f", "-o", str(trace), "-e", "trace=" + WRITES])
    proxy.wait_listening(30).wait_healthy({"a": 1}, 30)
    before = sorted(os.listdir(proxy.dir.name))
    assert proxy.post(PATH, {"model": "m1", "x": "y" * 1000000}).status == 200
    proxy.signal(signal.SIGHUP)
    proxy.wait_log("configuration reloaded")
    proxy.signal(signal.SIGUSR1)
    proxy.wait_log("totals")
    assert proxy.post(PATH, {"model": "m1"}).status == 200
    proxy.signal()
    assert proxy.wait_exit() == 0
    end = r"^%d +\+\+\+ exited with 0 " % proxy.pid  # short numbers are padded
    eventually(lambda: re.search(end, trace.read_text(), re.M), "the end of the trace")
    calls = [line for line in trace.read_text().splitlines() if re.match(r"\d+ +[a-z]\w*\(", line)]
    changes = [line for line in calls if not re.match(r"\d+ +open(at)?\(.*\bO_RDONLY\b", line) or "O_CREAT" in line]
    own = [line for line in changes if re.search(r'\((AT_FDCWD, )?"%s/\.olla-\w{6}"' % re.escape(str(spool)), line)]
    assert any("O_CREAT|O_EXCL" in line for line in own) and any(" unlink" in line for line in own), "the body was spooled"
    rest = [line for line in changes if line not in own and '"/dev/null", O_RDWR' not in line]
    assert not rest, "\n".join(rest)
    assert os.listdir(spool) == os.listdir(cwd) == []
    assert sorted(os.listdir(proxy.dir.name)) == before
