"""What the tests of the status pages and of the metrics share: the value formats of the pages, shapes of documents, and a
reader of Prometheus' text format that takes nothing that is only nearly right."""

import re

from client import dump, json_headers

CHAT = "/v1/chat/completions"
STATUS, ENDPOINTS, STATUS_MODELS = "/internal/status", "/internal/status/endpoints", "/internal/status/models"
MODELS, TRANSLATORS, STICKY = "/internal/stats/models", "/internal/stats/translators", "/internal/stats/sticky"
PROCESS, METRICS, VERSION = "/internal/process", "/internal/metrics", "/version"
TAGGED = (STATUS, ENDPOINTS, STATUS_MODELS)
PAGES = TAGGED + (MODELS, TRANSLATORS, STICKY, PROCESS, VERSION)


def bearer(secret):
    return [("Authorization", "Bearer " + secret)]


# ---- values

PERCENT = re.compile(r"0%|100%|(100|[1-9]?[0-9])\.[0-9]%")
LATENCY = re.compile(r"[0-9]{1,3}ms|[0-9]+\.[0-9]s")
BYTES = re.compile(r"(0|[1-9][0-9]{0,3}) B|(0|[1-9][0-9]*)\.[0-9][0-9] [KMGTP]B")
SPAN = r"([0-5]?[0-9]s|[0-9]+m|[0-9]+h|[0-9]+d)"
AGO = re.compile(r"never|%s ago" % SPAN)
UNTIL = re.compile(r"unknown|now|in %s" % SPAN)
UPTIME = re.compile(r"[0-9]+s|[0-9]+m|[0-9]+h [0-9]+m|[0-9]+d [0-9]+h")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
RATIO = re.compile(r"[0-9]+/[0-9]+")
ID = re.compile(r"[0-9a-z]{1,7}(-[0-9]+)?")


def percent_is(text, part, whole):
    """The text is that part in percent: the ends exactly, else rounded to one digit."""
    if part == 0 or whole == 0:
        return text == "0%"
    if part == whole:
        return text == "100%"
    return bool(PERCENT.fullmatch(text)) and text not in ("0%", "100%") and abs(float(text[:-1]) - 100 * part / whole) <= 0.0500001


def bytes_text(n):
    if n < 1024:
        return "%d B" % n
    for unit in ("KB", "MB", "GB", "TB", "PB"):
        n /= 1024
        if n < 1024 or unit == "PB":
            return "%.2f %s" % (n, unit)


def latency_text(ms):
    return "%dms" % ms if ms < 1000 else "%.1fs" % (ms / 1000)


def endpoint_id(url):
    """Base 36 of FNV-1a with 32 bits."""
    h = 2166136261
    for byte in url.encode():
        h = (h ^ byte) * 16777619 & 0xffffffff
    digits = ""
    while h or not digits:
        h, digit = divmod(h, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


# ---- shapes

def fits(value, form, where=""):
    """form: a type, a pattern for the whole of a string, a function, a value, [form of all elements], or {key: form}; a key
    that ends in ? may be missing, and all others, and no further ones, must be there."""
    if isinstance(form, dict):
        assert isinstance(value, dict), (where, value)
        must = {key for key in form if not key.endswith("?")}
        may = {key.rstrip("?") for key in form}
        assert must <= set(value), "%s lacks %r" % (where, must - set(value))
        assert set(value) <= may, "%s has %r" % (where, set(value) - may)
        for key, one in form.items():
            if key.rstrip("?") in value:
                fits(value[key.rstrip("?")], one, "%s.%s" % (where, key.rstrip("?")))
    elif isinstance(form, list):
        assert isinstance(value, list), (where, value)
        for i, one in enumerate(value):
            fits(one, form[0], "%s[%d]" % (where, i))
    elif form is int:
        assert type(value) is int and value >= 0, (where, value)
    elif form is float:
        assert type(value) in (int, float) and value >= 0, (where, value)
    elif isinstance(form, type):
        assert type(value) is form, (where, value)
    elif isinstance(form, re.Pattern):
        assert isinstance(value, str) and form.fullmatch(value), (where, value)
    elif callable(form):
        assert form(value), (where, value)
    else:
        assert value == form, (where, value)


def one_of(*words):
    return lambda value: value in words


# ---- Prometheus

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"')
VALUE = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]{0,5}[1-9])?")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def unescape(text):
    return re.sub(r"\\(.)", lambda match: "\n" if match.group(1) == "n" else match.group(1), text)


def read_labels(text):
    """{name: value} of what stands between the braces."""
    out, at = {}, 0
    while at < len(text):
        match = LABEL.match(text, at)
        assert match, "not a label at %r" % text[at:]
        assert match.group(1) not in out, "a label twice: %r" % text
        out[match.group(1)] = unescape(match.group(2))
        at = match.end()
        if at < len(text):
            assert text[at] == "," and at + 1 < len(text), "no comma: %r" % text[at:]
            at += 1
    return out


class Family:
    def __init__(self, name, text):
        self.name, self.help, self.type = name, text, None
        self.samples = []  # (name, labels, value)
        self.seen = set()


class Document:
    """A whole document, strictly read: one HELP, then one TYPE, then all samples of a family; no empty lines, no comments,
    nothing twice, and histograms that add up."""

    def __init__(self, raw):
        text = raw.decode("utf-8")
        assert text.endswith("\n"), "the last line has no end: %r" % text[-80:]
        assert not re.search(r"[\0\r\t\v\f]", text), "control characters"
        self.families = {}
        current = None
        for line in text[:-1].split("\n"):
            current = self._line(line, current)
        assert current is None or current.type, "a family without TYPE at the end"
        for family in self.families.values():
            if family.type == "histogram":
                self._histograms(family)

    def _line(self, line, current):
        word, _, rest = line.partition(" ")
        if word == "#":
            kind, name, text = (rest.split(" ", 2) + ["", ""])[:3]
            assert NAME.fullmatch(name) and text, line
            if kind == "HELP":
                assert current is None or current.type, "HELP after HELP: %r" % line
                assert name not in self.families, "a family twice, or torn apart: %r" % line
                assert re.fullmatch(r"(?:[^\\\n]|\\\\|\\n)*", text), line
                self.families[name] = Family(name, text)
                return self.families[name]
            assert kind == "TYPE", "a comment: %r" % line
            assert current is not None and current.name == name and current.type is None, "TYPE of another family: %r" % line
            assert text in ("counter", "gauge", "histogram"), line
            current.type = text
            return current
        match = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)", line, re.S)
        assert match, "not a sample: %r" % line
        name, labels, value = match.group(1), read_labels(match.group(2) or ""), match.group(3)
        assert match.group(2) != "", "empty braces: %r" % line
        assert VALUE.fullmatch(value), "not a number as it has to be: %r" % line
        assert current is not None and current.type, "a sample before its TYPE: %r" % line
        names = [current.name + suffix for suffix in SUFFIXES.get(current.type, ("",))]
        assert name in names, "%r in the family %s" % (line, current.name)
        key = name, tuple(sorted(labels.items()))
        assert key not in current.seen, "a sample twice: %r" % line
        current.seen.add(key)
        number = float(value)
        assert current.type == "gauge" or number >= 0, line
        current.samples.append((name, labels, number))
        return current

    @staticmethod
    def _histograms(family):
        groups, order = {}, []
        for name, labels, value in family.samples:
            rest = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
            if rest not in groups:
                groups[rest] = {"buckets": [], "sum": None, "count": None}
            if not order or order[-1] != rest:
                order.append(rest)
            if name.endswith("_bucket"):
                groups[rest]["buckets"].append((float(labels["le"]), value))
            else:
                assert "le" not in labels, labels
                groups[rest][name.rpartition("_")[2]] = value
        assert len(order) == len(groups), "the parts of a histogram are mixed: %s" % family.name
        for rest, h in groups.items():
            bounds, counts = [b for b, _ in h["buckets"]], [n for _, n in h["buckets"]]
            assert bounds == sorted(set(bounds)) and bounds and bounds[-1] == float("inf"), (family.name, rest, bounds)
            assert counts == sorted(counts), "buckets are cumulative: %r" % counts
            assert all(n == int(n) for n in counts)
            assert h["count"] == counts[-1] and h["sum"] is not None, (family.name, rest, h)
            assert h["count"] > 0 or h["sum"] == 0, (family.name, rest, h)

    def get(self, name, **labels):
        """The value of a sample."""
        for family in self.families.values():
            if name.startswith(family.name):
                for found, has, value in family.samples:
                    if found == name and has == labels:
                        return value
        raise AssertionError("no sample %s%r" % (name, labels))

    def labelled(self, name, label):
        """{label: value} of a family."""
        return {labels[label]: value for _, labels, value in self.families[name].samples}

    def values(self, label):
        """All values of a label, anywhere."""
        return {labels[label] for family in self.families.values() for _, labels, _ in family.samples if label in labels}


def metrics(proxy, headers=()):
    reply = proxy.get(METRICS, headers)
    assert (reply.status, reply.complete) == (200, True), reply.body[:300]
    assert reply.get_all("Content-Type") == ["text/plain; version=0.0.4; charset=utf-8"]
    return Document(reply.body)


def page(proxy, path, headers=()):
    reply = proxy.get(path, headers)
    assert (reply.status, reply.complete) == (200, True), reply.body[:300]
    assert reply.get_all("Content-Type") == ["application/json"]
    return reply.json()


def by_name(entries, key="name"):
    out = {entry[key]: entry for entry in entries}
    assert len(out) == len(entries), "a name twice: %r" % [entry[key] for entry in entries]
    return out


# ---- replies of backends

def says(body, status=200, ctype="application/json", headers=()):
    """A handler with one whole reply."""
    return lambda conn, request: conn.reply(body, status, ctype, headers)


def streams(pieces, ctype="text/event-stream", end=True, headers=()):
    """... with a chunked one, a chunk for each piece. end: True, or how the connection breaks."""
    def handler(conn, request):
        conn.start_chunked(ctype, headers=headers)
        for piece in pieces:
            conn.chunk(piece)
        if end is True:
            conn.end_chunks()
        else:
            end(conn)
    return handler


def event(obj, name=None):
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + (obj if isinstance(obj, bytes) else dump(obj)) + b"\n\n"


def line(obj):
    return dump(obj) + b"\n"


def ask(proxy, path, body, headers=(), client=None, ident=None):
    headers = json_headers(list(headers) + ([("X-Request-ID", ident)] if ident else []))
    if client:
        return client.request("POST", path, dump(body), headers)
    return proxy.request("POST", path, dump(body), headers)
