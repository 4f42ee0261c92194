"""TLS for the tests: certificates made with the openssl command, sockets on which a test decides about every record and about
how the connection ends, a client and backends that use them."""

import contextlib
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time

from backend import Conn, OpenAIBackend, bind_port
from client import WAIT, Client
from harness import rarely_probed, run_cli

CA_CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
unique_subject = no
copy_extensions = none
[any]
commonName = supplied
[req]
distinguished_name = subject
prompt = no
[subject]
CN = {common}
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = CA:FALSE
subjectAltName = {san}
{more}
"""
ALL_NAMES = "DNS:localhost, DNS:olla.test, IP:127.0.0.1, IP:::1"
NOW = ("20200101000000Z", "20991231235959Z")
PAST = ("20200101000000Z", "20210101000000Z")
FUTURE = ("20980101000000Z", "20991231235959Z")


def library():
    """(3, 6) for "mbedTLS 3.6.2", or None: this olla has no TLS."""
    found = re.search(r"mbedTLS (\d+)\.(\d+)", run_cli("-V")[1])
    return found and (int(found.group(1)), int(found.group(2)))


def openssl(*args, data=b"", timeout=20):
    done = subprocess.run(["openssl"] + [str(a) for a in args], input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")
    return done.stdout


@contextlib.contextmanager
def openssl_process(*args, cwd=None):
    """A client or server that runs beside the test."""
    process = subprocess.Popen(["openssl"] + [str(a) for a in args], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        try:
            process.stdin.close()
        except OSError:
            pass


class Pair:
    """A certificate and its key: two files."""

    def __init__(self, cert, key):
        self.cert, self.key = str(cert), str(key)

    def settings(self):
        return {"server.tls.enabled": True, "server.tls.cert_file": self.cert, "server.tls.key_file": self.key}


class Authority:
    """Signs certificates. Each is made once for each set of arguments."""

    def __init__(self, folder, common, above=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        (self.folder / "index.txt").touch()
        (self.folder / "serial").write_text("01\n")
        self.made, self.lock = {}, threading.Lock()
        self.file = ""
        if above:
            root = above.sign(self._ask("root", common, "", "ec", ""), self.folder / "root.pem", NOW, "root")
        else:
            root = self._make("root", common, "", NOW, "ec", "root", own=True)
        self.file = root.cert

    def _ask(self, name, common, san, kind, more):
        """A key and what asks to have it signed: the path of its files without their ends."""
        path = self.folder / name
        path.with_suffix(".conf").write_text(CA_CONFIG.format(folder=self.folder, common=common, san=san or "DNS:none.test", more=more))
        algorithm = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if kind == "ec" else ["rsa:" + kind[3:]]
        openssl("req", "-config", path.with_suffix(".conf"), "-new", "-nodes", "-newkey", *algorithm, "-keyout", path.with_suffix(".key"),
                "-out", path.with_suffix(".csr"))
        return path

    def sign(self, path, cert, dates, section, own=False, signer=None):
        """signer: a pair that does it although it is not its business."""
        key = path.with_suffix(".key")
        by = ["-selfsign", "-keyfile", key] if own else ["-cert", signer.cert if signer else self.file, "-keyfile",
                                                         signer.key if signer else self.folder / "root.key"]
        openssl("ca", "-config", self._config(path), "-batch", "-notext", "-extensions", section, "-startdate", dates[0], "-enddate", dates[1],
                "-in", path.with_suffix(".csr"), "-out", cert, *by)
        return Pair(cert, key)

    def _config(self, path):
        """The sections of the request, with the files of this authority."""
        config = path.with_suffix(".sign")
        config.write_text(path.with_suffix(".conf").read_text().replace(str(path.parent), str(self.folder)))
        return config

    def _make(self, name, common, san, dates, kind, section, own=False, more="", signer=None):
        path = self._ask(name, common, san, kind, more)
        return self.sign(path, path.with_suffix(".pem"), dates, section, own, signer)

    def leaf(self, common="server", san=ALL_NAMES, dates=NOW, kind="ec", own=False, more="", signer=None):
        what = common, san, dates, kind, own, more, signer
        with self.lock:
            if what not in self.made:
                self.made[what] = self._make("leaf%d" % len(self.made), common, san, dates, kind, "leaf", own, more, signer)
            return self.made[what]

    def chain(self, *certs):
        """The pair of the first one, with the certificates of the others behind its own."""
        path = self.folder / ("chain%d.pem" % len(list(self.folder.glob("chain*"))))
        path.write_text("".join(open(getattr(cert, "cert", cert)).read() for cert in certs))
        return Pair(path, certs[0].key)


class Certificates:
    """What the tests trust, and what they do not."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.good = Authority(self.folder / "good", "Good Test CA")
        self._bad = self._between = None

    @property
    def bad(self):
        self._bad = self._bad or Authority(self.folder / "bad", "Other Test CA")
        return self._bad

    @property
    def between(self):
        """An authority that the good one has signed."""
        self._between = self._between or Authority(self.folder / "between", "Between Test CA", self.good)
        return self._between

    def server(self):
        return self.good.leaf()

    def context(self, ca=None):
        """Of a client that trusts the authority; sessions can be resumed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca or self.good.file)
        return context

    def server_context(self, pair=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # what is weak is olla's to refuse
        pair = pair or self.server()
        context.load_cert_chain(pair.cert, pair.key)
        return context


class TlsSocket:
    """TLS over a connected socket, with as much of a socket's interface as clients and scripted backends use. Reading and
    writing may be done by two threads. `ended` tells how the peer's bytes ended: "notify", "fin" or "rst"."""

    def __init__(self, raw, context, server=False, name=None, session=None):
        self.raw = raw
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.engine = context.wrap_bio(self.incoming, self.outgoing, server, None if server else name, session)
        self.lock, self.write_lock = threading.Lock(), threading.Lock()
        self.ended = None
        self.notifies = True  # at its end
        self.keeps_tickets, self.tickets = False, b""  # of a TLS 1.3 server: what it says last in the handshake

    # ---- the handshake

    def shake(self, send=None):
        """send(bytes): how they are sent."""
        while True:
            try:
                with self.lock:
                    self.engine.do_handshake()
                if self.keeps_tickets:
                    self.tickets = self.outgoing.read()
                self.flush(send)
                return self
            except ssl.SSLWantReadError:
                self.flush(send)
                self._more()
            except ssl.SSLError:
                self.flush(send)  # the alert
                raise

    def flush(self, send=None):
        data = self.outgoing.read()
        if data:
            (send or self.raw.sendall)(data)

    def _more(self):
        """Takes what comes off the wire. False at its end."""
        try:
            data = self.raw.recv(1 << 16)
        except ConnectionError:
            self.ended = "rst"
            raise
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return bool(data)

    # ---- bytes

    def seal(self, data):
        """data in records, not sent yet."""
        with self.lock:
            for at in range(0, len(data), 16384):
                self.engine.write(data[at:at + 16384])
            return self.outgoing.read()

    def sendall(self, data):
        with self.write_lock:
            for at in range(0, len(data), 1 << 18):
                self.raw.sendall(self.seal(data[at:at + (1 << 18)]))

    def recv(self, size):
        while True:
            try:
                with self.lock:
                    data = self.engine.read(size)
                self.ended = self.ended if data else "notify"
                return data
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self.ended = "notify"
                return b""
            except ssl.SSLEOFError:
                self.ended = self.ended or "fin"
                return b""
            if not self._more() and not self.ended:
                self.ended = "fin"

    # ---- the end

    def notify(self):
        """close_notify and nothing else: reading goes on."""
        with self.write_lock:
            with self.lock:
                try:
                    self.engine.unwrap()
                except ssl.SSLError:
                    pass  # the peer's is not there yet
                data = self.outgoing.read()
            self.raw.sendall(data)

    def shutdown(self, how):
        if self.notifies:
            try:
                self.notify()
            except OSError:
                pass
        try:
            self.raw.shutdown(how)
        except OSError:
            pass  # the peer was quicker

    def close(self):
        self.raw.close()

    # ---- as a socket

    def settimeout(self, seconds):
        self.raw.settimeout(seconds)

    def setsockopt(self, *args):
        self.raw.setsockopt(*args)

    def fileno(self):
        return self.raw.fileno()


class TlsClient(Client):
    """One connection to a TLS listener; `sock` is a TlsSocket."""

    def __init__(self, port, context, name="localhost", session=None, slowly=False, **options):
        super().__init__(port, **options)
        raw = self.sock
        self.sock = TlsSocket(raw, context, name=name, session=session)
        try:
            self.sock.shake(drip(raw, 0.0005) if slowly else None)
        except BaseException:
            self.close()
            raise

    @property
    def engine(self):
        return self.sock.engine


def over_tls(context, **options):
    """For Olla's `connect`: a function that makes clients."""
    return lambda port, **more: TlsClient(port, **dict({"context": context}, **dict(options, **more)))


def tls_backend(kind):
    """The kind of backend with TLS in front: keys context, named (the host in its url)."""

    class Secure(kind):
        def __init__(self, *args, context, named=None, **keys):
            self.context, self.named = context, named
            self.shaken, self.refused = [], []  # was it resumed?; why not
            self.before = None  # before(raw socket): instead of the handshake, if it returns True
            self.keeps_tickets = False
            super().__init__(*args, **keys)

        @property
        def url(self):
            host = "[%s]" % self.host if ":" in self.host else self.host
            return "https://%s:%d" % (self.named or host, self.port)

        def _serve(self, conn: Conn):
            if self.before and self.before(conn.sock):
                conn.sock.close()
                return
            secure = TlsSocket(conn.sock, self.context, server=True)
            secure.keeps_tickets = self.keeps_tickets
            try:
                secure.shake()
            except OSError as error:
                self.refused.append(str(error))
                conn.sock.close()
                return
            conn.sock = secure
            self.shaken.append(secure.engine.session_reused)
            super()._serve(conn)

        @property
        def live(self):
            return [conn for conn in self.connections if conn.sock.fileno() >= 0]

    Secure.__name__ = "Secure" + kind.__name__
    return Secure


def free_port():
    sock = bind_port()
    port = sock.getsockname()[1]
    sock.close()
    return port


def hello(context, name="localhost"):
    """The first message of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = context.wrap_bio(incoming, outgoing, False, name)
    try:
        engine.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def raw_connect(port, timeout=WAIT):
    return socket.create_connection(("127.0.0.1", port), timeout)


def records(data):
    """The records that data is made of."""
    found = []
    while data:
        size = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def drip(sock, pause=0.001):
    """send(bytes) that sends them one by one."""
    def send(data):
        for at in range(len(data)):
            sock.sendall(data[at:at + 1])
            time.sleep(pause)
    return send


Secure = tls_backend(OpenAIBackend)


def secure(world, certs, name="a", models=("m1",), pair=None, kind=Secure, context=None, **keys):
    return world.backend(kind, name, list(models), context=context or certs.server_context(pair), **keys)


def trusted(certs, backend, **keys):
    return rarely_probed(backend, **dict({"tls.ca_file": certs.good.file}, **keys))


def with_little_room(backend):
    """Its connections take few bytes unread: writes of olla are refused soon."""
    backend.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    return backend


def limited(context, version):
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    return context
