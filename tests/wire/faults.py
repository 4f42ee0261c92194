"""The fault layer: a relay between two TCP peers that passes bytes on until it is told to do something worse, the wall clock of a
program, and a network of its own whose machines can vanish without a word."""

import contextlib
import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

from backend import bind_port, eventually

LIBC = ctypes.CDLL(None, use_errno=True)
LIFE = 90.0  # no link lives longer


class Fault:
    """What happens to a connection, and where. `up` and `down` count bytes from the request that carries the mark on (up = towards
    the server): a number, or a text behind whose first occurrence it happens. 0 = as soon as something comes, before it is passed on;
    neither = at the request's first byte.

    reset    RST to both sides
    fin      the connecting side gets a clean end, the server a reset
    half     one way ends cleanly, the other goes on: side = "down" ends what comes from the server, "up" what goes to it
    stall    nothing is moved any more (side = "up", "down" or "both") and nothing is closed, until resume()
    dribble  from here on `size` bytes at a time, `gap` seconds apart
    """

    def __init__(self, do, up=None, down=None, side="both", size=1, gap=0.0, times=None):
        self.do, self.side, self.size, self.gap, self.times = do, side, size, gap, times
        self.at = {"up": 0 if up is None and down is None else up, "down": down}


class Way:
    """One direction of a link."""

    def __init__(self, name, source, sink):
        self.name, self.source, self.sink = name, source, sink
        self.count = self.base = 0   # bytes passed on; of them before the marked request
        self.tail = b""
        self.piece = self.gap = 0
        self.go = threading.Event()
        self.go.set()


class Link:
    """One relayed connection. near = who connected, far = the server."""

    def __init__(self, relay, near, far):
        self.relay, self.near, self.far = relay, near, far
        self.up, self.down = Way("up", near, far), Way("down", far, near)
        self.fault, self.struck = None, []
        self.over, self.guard = threading.Event(), threading.Lock()
        self.left = 2
        self.deadline = time.monotonic() + LIFE
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(1.0)
        self.threads = [threading.Thread(target=self._pump, args=(way,), daemon=True) for way in (self.up, self.down)]
        with relay.lock:
            relay.links.append(self)
        for thread in self.threads:
            thread.start()

    # ---- what tests say

    def reset(self, *sockets):
        """RST, from any thread: dissolving a connection (connect to AF_UNSPEC) sends it at once and wakes who waits in recv()."""
        with self.guard:  # nobody closes it meanwhile: its number could be another connection's by then
            for sock in sockets or (self.near, self.far):
                if sock.fileno() >= 0:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    LIBC.connect(sock.fileno(), bytes(16), 16)
        if not sockets:
            self.over.set()

    def fin(self):
        with contextlib.suppress(OSError):
            self.near.shutdown(socket.SHUT_WR)
        self.reset(self.far)

    def half(self, side):
        with contextlib.suppress(OSError):
            (self.near if side == "down" else self.far).shutdown(socket.SHUT_WR)

    def stall(self, side="both"):
        for way in (self.up, self.down):
            if side in (way.name, "both"):
                way.go.clear()

    def resume(self):
        self.up.go.set()
        self.down.go.set()

    def is_open(self):
        return not self.over.is_set()

    # ---- moving bytes

    def _pump(self, way):
        try:
            while not self.over.is_set() and time.monotonic() < self.deadline:
                if not way.go.wait(0.2):
                    continue
                try:
                    data = way.source.recv(1 << 16)
                except socket.timeout:
                    continue
                if not data:
                    with contextlib.suppress(OSError):
                        way.sink.shutdown(socket.SHUT_WR)
                    break
                self._feed(way, data)
        except OSError:  # a reset goes through
            self.reset()
        with self.relay.lock:
            self.left -= 1
            last = self.left == 0
        if last or self.over.is_set() or time.monotonic() >= self.deadline:
            self.over.set()
            with self.guard:
                for sock in (self.near, self.far):
                    with contextlib.suppress(OSError):
                        sock.close()

    def _feed(self, way, data):
        fault = self.relay._find(data) if way is self.up else None
        if fault:
            self.fault = fault
            for each in (self.up, self.down):
                each.base, each.tail = each.count, b""
        while data and not self.over.is_set():
            part, hit = self._cut(way, data)
            self._send(way, part)
            data = data[len(part):]
            if hit:
                self._strike()

    def _cut(self, way, data):
        """(the bytes that still pass, whether the fault comes then)."""
        fault = self.fault
        at = fault.at[way.name] if fault else None
        if at is None:
            return data, False
        if isinstance(at, bytes):
            seen = way.tail + data
            found = seen.find(at)
            if found < 0:
                way.tail = seen[-len(at):]
                return data, False
            return data[:found + len(at) - len(way.tail)], True
        left = at - (way.count - way.base)
        return (data[:left], True) if left <= len(data) else (data, False)

    def _send(self, way, data):
        at = 0
        while at < len(data):
            while not way.go.wait(0.2):
                if self.over.is_set() or time.monotonic() > self.deadline:
                    return
            piece = data[at:at + way.piece] if way.piece else data[at:]
            way.count += len(piece)   # before the other side can answer
            try:
                sent = way.sink.send(piece)
            except socket.timeout:
                sent = 0
                if self.over.is_set() or time.monotonic() > self.deadline:
                    return
            at += sent
            way.count -= len(piece) - sent
            if way.gap:
                time.sleep(way.gap)

    def _strike(self):
        fault, self.fault = self.fault, None
        self.struck.append(fault.do)
        if fault.do == "reset":
            self.reset()
        elif fault.do == "fin":
            self.fin()
        elif fault.do == "half":
            self.half(fault.side)
        elif fault.do == "stall":
            self.stall(fault.side)
        elif fault.do == "dribble":
            for way in (self.up, self.down):
                if fault.side in (way.name, "both"):
                    way.piece, way.gap = fault.size, fault.gap
        else:
            raise AssertionError("no such fault: %r" % fault.do)


class Relay:
    """A port whose connections go on to another one."""

    def __init__(self, target):
        self.target = target
        self.type = getattr(target, "type", "openai-compatible")
        self.faults, self.links, self.mute = {}, [], []
        self.greeting = []   # for the next connections: "reset", "fin" or "mute" at once
        self.lock = threading.Lock()
        self.listener = bind_port()
        self.port = self.listener.getsockname()[1]
        self.url = "http://127.0.0.1:%d" % self.port
        self.open = False
        self.reopen()

    def arm(self, mark, fault):
        """Requests whose first bytes hold the mark (which must be theirs alone) meet the fault."""
        with self.lock:
            self.faults[mark.encode()] = fault

    def _find(self, data):
        with self.lock:
            for mark, fault in self.faults.items():
                if mark in data and fault.times != 0:
                    fault.times = fault.times - 1 if fault.times else fault.times
                    return fault
        return None

    def refuse(self):
        """Connections are refused; the port stays ours."""
        self.open = False
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bound():
            try:
                self.listener.bind(("127.0.0.1", self.port))
                return True
            except OSError:
                return False
        eventually(bound, "port %d is free again" % self.port)

    def reopen(self):
        self.listener.listen(128)
        self.open = True
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener):
        for _ in range(100000):
            try:
                near, _ = listener.accept()
            except OSError:
                return
            greeting = self.greeting.pop(0) if self.greeting else None
            if greeting == "mute":
                self.mute.append(near)
                continue
            if greeting:
                if greeting == "reset":
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
                continue
            far = socket.socket()
            far.settimeout(5)
            try:
                far.connect(("127.0.0.1", self.target.port))
            except OSError:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
                continue
            Link(self, near, far)

    def struck(self, what):
        """Links that met this fault."""
        return [link for link in list(self.links) if what in link.struck]

    def resume(self):
        for link in list(self.links):
            link.resume()

    def all_over(self):
        return all(not link.is_open() for link in self.links)

    def forget(self):
        with self.lock:
            self.faults.clear()
            self.links = [link for link in self.links if link.is_open() and not link.struck]

    def stop(self):
        self.open = False
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for link in list(self.links):
            link.resume()
            link.reset()
        for sock in self.mute:
            sock.close()


# ---- the wall clock

class WallClock:
    """Moves CLOCK_REALTIME of a program that is started with env(). CLOCK_MONOTONIC goes on as it is."""

    def __init__(self, folder, source):
        self.library, self.path = str(folder / "clock_jump.so"), str(folder / "offset")
        self.problem = None
        cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if not cc:
            self.problem = "no C compiler for the clock shim"
            return
        done = subprocess.run([cc, "-std=gnu99", "-O1", "-shared", "-fPIC", "-o", self.library, str(source)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60)
        assert done.returncode == 0, done.stdout.decode("utf-8", "replace")
        self.jump(0)

    def jump(self, seconds):
        """The clock shows that much more than the machine's."""
        self.offset = int(seconds)
        with open(self.path, "r+b" if os.path.exists(self.path) else "w+b") as file:
            os.pwrite(file.fileno(), struct.pack("=q", self.offset), 0)

    def now(self):
        return time.time() + self.offset

    def env(self):
        asan = "exitcode=97:detect_leaks=1:allocator_may_return_null=1:verify_asan_link_order=0"
        return {"LD_PRELOAD": self.library, "CLOCK_JUMP_FILE": self.path, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", asan) +
                ("" if "verify_asan_link_order" in os.environ.get("ASAN_OPTIONS", asan) else ":verify_asan_link_order=0")}


# ---- a network of its own

CLONE_NEWNET = 0x40000000
OURS, NOWHERE = "10.77.0.1", "02:00:00:00:00:99"


class Lan:
    """Two network namespaces with a cable between them: ours (10.77.0.1), and one of other machines (10.77.0.2 and up)."""

    def __init__(self, machines=8):
        self.problem, self.holders, self.machines = None, [], ["10.77.0.%d" % (n + 2) for n in range(machines)]
        if not all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip")):
            self.problem = "no unshare, nsenter or ip"
            return
        try:
            for _ in range(2):
                self.holders.append(subprocess.Popen(["unshare", "--net", "sleep", "300"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            mine = os.stat("/proc/self/ns/net").st_ino
            for holder in self.holders:
                eventually(lambda h=holder: os.stat("/proc/%d/ns/net" % h.pid).st_ino != mine, "a namespace of its own", 5)
            ours, theirs = self.holders
            self._ip(ours, "link add lan0 address 02:00:00:00:00:01 type veth peer name lan1 address 02:00:00:00:00:02 netns %d" % theirs.pid)
            self._ip(ours, "link set lo up", "addr add %s/24 dev lan0" % OURS, "link set lan0 up")
            self._ip(theirs, "link set lo up", *["addr add %s/24 dev lan1" % address for address in self.machines])
            self._ip(theirs, "link set lan1 up", "neigh replace %s lladdr 02:00:00:00:00:01 dev lan1 nud permanent" % OURS)
            for address in self.machines:
                self.come_back(address)
            with self.inside(0):
                pass
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            self.problem = "no network namespaces here: %s" % error

    @staticmethod
    def _ip(holder, *commands):
        for command in commands:
            done = subprocess.run(["nsenter", "-t", str(holder.pid), "-n", "ip"] + command.split(), stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=10)
            if done.returncode != 0:
                raise OSError("ip %s: %s" % (command, done.stdout.decode("utf-8", "replace").strip()))

    @contextlib.contextmanager
    def inside(self, which):
        """This thread, and what it starts, lives in our (0) or the others' (1) network."""
        with open("/proc/%d/ns/net" % self.holders[which].pid, "rb") as there:
            before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            try:
                if LIBC.setns(there.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                yield
            finally:
                assert LIBC.setns(before, CLONE_NEWNET) == 0, "the way back is lost"
                os.close(before)

    def vanish(self, address):
        """From now on nothing passes between us and that machine: no FIN, no RST, no ICMP, no carrier lost."""
        self._ip(self.holders[0], "neigh replace %s lladdr %s dev lan0 nud permanent" % (address, NOWHERE))
        self._ip(self.holders[1], "rule add from %s blackhole" % address)

    def come_back(self, address):
        self._ip(self.holders[0], "neigh replace %s lladdr 02:00:00:00:00:02 dev lan0 nud permanent" % address)
        for _ in range(4):
            try:
                self._ip(self.holders[1], "rule del from %s blackhole" % address)
            except OSError:
                break   # there is none any more

    def we_vanish(self):
        """The same for all that the other machines send to us."""
        self._ip(self.holders[1], "neigh replace %s lladdr %s dev lan1 nud permanent" % (OURS, NOWHERE))

    def we_come_back(self):
        self._ip(self.holders[1], "neigh replace %s lladdr 02:00:00:00:00:01 dev lan1 nud permanent" % OURS)

    def close(self):
        for holder in self.holders:
            holder.kill()
            holder.wait(5)
