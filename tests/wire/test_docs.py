"""The documents against the program: every configuration in them is valid, every setting, variable and path that they name
exists, every link leads somewhere.

An `ini` block with an [endpoint:NAME] is a whole configuration; any other is a part of one, and is tried together with an
endpoint. Files below /etc/olla and /var/lib/olla are made here.
"""

import fnmatch
import json
import re
import shutil
import subprocess

import pytest

from backend import OllamaBackend
from harness import REPO, run_cli
from tls import library, openssl

pytestmark = pytest.mark.usefixtures("binary")
PAGES = sorted((REPO / "docs").glob("*.md")) + [REPO / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md",
                                                                       "package/README.md")]
MINE = [page for page in PAGES if page.parent.name == "docs" or page == REPO / "README.md"]
FOREIGN = {"differences.md"}  # speaks of the settings of another program
ITS_OWN = {"discovery.static.endpoints", "proxy.tls_handshake_timeout", "model_registry.type", "model_registry.enable_unifier"}
NEEDS_ENDPOINT = "\n[endpoint:part]\nurl = http://127.0.0.1:1\n"
SECRET = "0123456789abcdef0123456789abcdef"


def blocks(page, language):
    """(line, text) of each fenced block."""
    text = page.read_text()
    return [(text.count("\n", 0, found.start()) + 1, found.group(1))
            for found in re.finditer(r"^```%s\n(.*?)^```$" % language, text, re.M | re.S)]


def prose(page):
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def quoted(page):
    """What stands between back quotes in it."""
    return re.findall(r"`([^`\n]+)`", prose(page))


INI = [pytest.param(text, id="%s:%d" % (page.name, line)) for page in MINE for line, text in blocks(page, "ini")]


@pytest.fixture(scope="module")
def etc(tmp_path_factory):
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("etc")
    if shutil.which("openssl"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650", "-subj",
                "/CN=olla.home", "-keyout", folder / "olla.key", "-out", folder / "olla.pem")
        shutil.copy(folder / "olla.pem", folder / "home-ca.pem")
    (folder / "sleep").write_text("#!/bin/sh\n")
    (folder / "sleep").chmod(0o755)
    return folder


def here(text, folder):
    """The same with files that exist."""
    for name in re.findall(r"/etc/olla/([\w.-]+\.(?:key|token))$", text, re.M):
        if not (folder / name).exists():
            (folder / name).write_text(SECRET + name + "\n")
    text = text.replace("user = olla\n", "user = nobody\n")
    return re.sub(r"/(?:etc|var/lib)/olla(?=/)", str(folder), text)


@pytest.mark.parametrize("text", INI)
def test_configurations(text, etc, tmp_path):
    """Without a fault and without a warning."""
    if "[server.tls]" in text or "https://" in text:
        if not library() or not shutil.which("openssl"):
            pytest.skip("no TLS here")
    whole = "[endpoint:" in text
    path = tmp_path / "olla.ini"
    path.write_text(here(text, etc) + ("" if whole else NEEDS_ENDPOINT))
    code, out, err = run_cli("-t", "-c", path, env={"CLOUD_TOKEN": SECRET})
    assert code == 0 and err == "", err
    assert "is valid" in out


def test_there_are_configurations():
    """The blocks are found, and a fault in one would be."""
    assert len(INI) > 10
    assert len([block for block in blocks(REPO / "docs" / "examples.md", "ini") if "[endpoint:" in block[1]]) >= 5


def test_a_wrong_setting_is_noticed(tmp_path):
    path = tmp_path / "olla.ini"
    path.write_text("[server]\nprot = 1\n" + NEEDS_ENDPOINT)
    assert "unknown" in run_cli("-t", "-c", path)[2]


# ---- what the pages name

def settings():
    """Full names of all settings; those of endpoints, keys and profiles without their section."""
    names, section = set(), ""
    for line in run_cli("--print-settings")[1].splitlines():
        header = re.fullmatch(r";?\[(.+)\]", line)
        key = re.match(r";?([A-Za-z_.]+) =", line)
        if header:
            section = header.group(1)
        elif key:
            names.add(key.group(1) if ":" in section else section + "." + key.group(1))
    return names


def test_settings_exist():
    """`proxy.queue.max_waiting` and the like, in the text."""
    known = settings()
    groups = {name.partition(".")[0] for name in known if "." in name}
    sections = {name.rpartition(".")[0] for name in known if "." in name}
    seen, wrong = set(), []
    for page in MINE:
        for word in [] if page.name in FOREIGN else quoted(page):
            found = re.match(r"([a-z_]+(?:\.[a-z_]+)+)(?= = |$)", word)
            if not found or found.group(1).partition(".")[0] not in groups:
                continue
            name = found.group(1)
            seen.add(name)
            if name not in known | sections | ITS_OWN and not re.search(r"\.(?:ini|md|py|pem|c|h)$", name):
                wrong.append("%s: %s" % (page.name, name))
    assert len(seen) > 30
    assert not wrong, wrong


def test_variables_exist():
    """OLLA_... in the text is a variable of the environment, of hooks, or a limit of the build."""
    known = set(re.findall(r"OLLA_\w+", run_cli("--print-settings")[1] + (REPO / "olla.h").read_text()))
    known |= {"OLLA_CONFIG_FILE", "OLLA_LOG_DIR", "OLLA_BIN", "OLLA_MAC", "OLLA_OVERRIDE_SRCDIR"}
    wrong = [(page.name, word) for page in MINE if page.name not in FOREIGN
             for word in re.findall(r"\bOLLA_[A-Z_]*[A-Z]\b", page.read_text()) if word not in known]
    assert not wrong, wrong


def test_paths_exist(world):
    """Pages of olla that the documents send somebody to."""
    proxy = world.olla({"gpu": world.backend(OllamaBackend, "gpu", ["m1"])})
    paths = {}
    for page in MINE:
        for path in re.findall(r"(?<![\w.])(/internal/[a-z/-]*[a-z/]|/olla/models|/version)\b/?", page.read_text()):
            if page.name not in FOREIGN:
                paths.setdefault(path, page.name)
    assert len(paths) > 8
    for path, page in paths.items():
        path = path.rstrip("/") + "/" * (path.rstrip("/") == "/internal/ui")
        if path in ("/internal", "/internal/endpoints", "/internal/stats"):
            continue  # what is below them
        assert proxy.get(path, {"Host": "localhost"}).status == 200, (page, path)


def test_rooms():
    """The table of docs/architecture.md has every file, at the level that tests/check-layers.sh allows it."""
    table, levels = {}, {}
    for level, names in re.findall(r"^\| ([\d, ]+) \| (`.*?`) \|", prose(REPO / "docs" / "architecture.md"), re.M):
        table.update({name: set(level.split(", ")) for name in re.findall(r"`([\w*.]+)`", names)})
    for names, level in re.findall(r"^    ([\w| *.]+)\) echo (\d) ;;", (REPO / "tests" / "check-layers.sh").read_text(), re.M):
        levels.update({name: level for name in names.split(" | ")})
    files = [REPO / "olla.c"] + [path for folder in ("src", "platform") for path in sorted((REPO / folder).glob("*.[ch]"))]
    assert len(files) > 100 and len(levels) > 70
    for path in files:
        told = [table[name] for name in table if fnmatch.fnmatch(path.name, name) or fnmatch.fnmatch(path.stem, name)]
        kept = {levels[name] for name in levels if fnmatch.fnmatch(path.stem, name)}
        assert told and kept <= set.union(*told), (path.name, told, kept)


# ---- links

def anchors(page):
    """As forges make them of the headings."""
    return {re.sub(r"[^\w -]", "", title.strip().lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", prose(page), re.M)}


def test_links():
    wrong, seen = [], 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", target):
                continue
            seen += 1
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append("%s: %s" % (page.relative_to(REPO), target))
    assert seen > 20
    assert not wrong, wrong


def test_every_page_can_be_found():
    """From the README."""
    linked = set(re.findall(r"\]\(docs/([\w.]+)", (REPO / "README.md").read_text()))
    assert {page.name for page in MINE if page.parent.name == "docs"} <= linked


def test_other_blocks():
    """What is to be pasted can be read by whom it is for."""
    for page in MINE:
        for line, text in blocks(page, "python"):
            compile(text, "%s:%d" % (page.name, line), "exec")
        for line, text in blocks(page, "json"):
            json.loads(text)


def test_yaml_blocks():
    yaml = pytest.importorskip("yaml")
    for page in MINE:
        for line, text in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(text), dict), (page.name, line)


def test_shell_blocks():
    """They are at least shell."""
    for page in MINE:
        for line, text in blocks(page, "sh"):
            done = subprocess.run(["sh", "-n"], input=text.encode(), stderr=subprocess.PIPE, timeout=20)
            assert done.returncode == 0, (page.name, line, done.stderr)


# ---- from YAML

def convert(text, folder):
    """(exit code, INI, notes) of package/yaml2ini.py."""
    pytest.importorskip("yaml")
    path = folder / "config.yaml"
    path.write_text(text)
    done = subprocess.run(["/usr/bin/python3", str(REPO / "package" / "yaml2ini.py"), str(path)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=30)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_migration_example(tmp_path):
    """The INI in the document is what the program makes of the YAML beside it."""
    page = REPO / "docs" / "migration.md"
    (_, source), = blocks(page, "yaml")
    (_, result), = blocks(page, "ini")
    code, made, notes = convert(source, tmp_path)
    assert (code, made) == (0, result)
    assert "response_header_timeout" in notes and "enable_unifier" in notes and len(notes.splitlines()) == 2


def test_migration_of_odd_values(tmp_path):
    """Quotes, nulls, long lists, names that no section line can hold: what arrives is what was meant."""
    models = ["a-model-with-a-long-name-number-%d:7b" % i for i in range(14)]
    code, made, notes = convert("""
server: {host: "", port: 1234, write_timeout: ~, read_timeout:, cors: {enabled: yes, allowed_origins: ["https://a.example", 'http://b.example']}}
discovery:
  static:
    endpoints:
      - {name: "it; and ]", url: "http://127.0.0.1:1", headers: {X-A: "a ; b", X-B: ' # ', X-C: '"q"'}}
      - {name: twice, url: "http://127.0.0.1:2"}
      - {name: twice, url: "http://127.0.0.1:3", type: null}
      - {url: "http://127.0.0.1:4", model_filter: {include: %s}}
model_aliases:
  plain: [a, b]
  "with:colon": [a]
  empty: []
""" % models, tmp_path)
    assert code == 0 and "twice" in notes
    for line in ('host = ""', "port = 1234", "enabled = yes", "allowed_origins = https://a.example, http://b.example", 'headers.X-A = "a ; b"',
                 'headers.X-B = " # "', "headers.X-C = '\"q\"'", "[endpoint:twice]", "[endpoint:endpoint-3]", "[endpoint:endpoint-4]",
                 "plain = a, b", "[model_alias:with:colon]"):
        assert line in made.splitlines(), (line, made)
    assert "timeout" not in made and "type" not in made
    lines = [line for line in made.splitlines() if line.startswith("model_filter.include = ")]
    assert len(lines) > 1 and ", ".join(line.partition(" = ")[2] for line in lines) == ", ".join(models)
    path = tmp_path / "olla.ini"
    path.write_text(made.replace("empty = \n", ""))
    code, _, err = run_cli("-t", "-c", path)
    assert code == 0 and not err, err


def test_what_is_not_here(tmp_path):
    """Those that docs/migration.md names are warned about, and what does nothing in the Go program is not."""
    path = tmp_path / "olla.ini"
    path.write_text("[proxy]\ntls_handshake_timeout = 10s\nmax_retries = 3\n[model_registry]\ntype = memory\nenable_unifier = true\n"
                    "[model_registry.unification]\nstale_threshold = 24h\n[engineering]\nshow_nerdstats = false\n" + NEEDS_ENDPOINT)
    code, _, err = run_cli("-t", "-c", path)
    warned = [re.search(r"tls_handshake_timeout|model_registry\.(?:type|enable_unifier|unification)|engineering", line).group()
              for line in err.splitlines()]
    assert code == 0 and warned == ["tls_handshake_timeout", "model_registry.type", "model_registry.enable_unifier",
                                    "model_registry.unification", "engineering"]


def test_migration_of_nothing(tmp_path):
    assert convert("", tmp_path) == (0, "", "")
    assert convert("discovery: {static: {endpoints: []}}", tmp_path)[1] == "[discovery.static]\nendpoints = \n"
    assert convert("a: [", tmp_path)[0] == 1
    assert convert("- a", tmp_path)[0] == 1


def test_migration_of_what_does_not_fit(tmp_path):
    """It is told, not cut."""
    code, made, notes = convert("discovery: {static: {endpoints: [{name: a, url: 'http://127.0.0.1:1', auth: {type: bearer, token: %s}}]}}"
                                % ("t" * 300), tmp_path)
    assert code == 1 and ";auth.token =" in made and "auth.token" in notes and "ttt" not in notes + made


# ---- messages

def said_by_olla():
    """All texts in the sources, those put together that stand next to each other."""
    text = "\n".join(path.read_text() for folder in ("src", "platform") for path in sorted((REPO / folder).glob("*.c")))
    return re.sub(r'"\s*\n\s*"', "", text)


def test_messages_exist():
    """What docs/troubleshooting.md quotes is what the program says."""
    said, seen, wrong = said_by_olla(), 0, []
    for row in re.findall(r"^\|.*\|$", prose(REPO / "docs" / "troubleshooting.md"), re.M):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for quote in re.findall(r"`([^`]+)`", cells[1] if len(cells) > 2 else cells[0]):
            if quote.count(" ") < 2:
                continue  # a setting, or a state
            for part in re.split(r"\.\.\.|; (?=did|endpoints)", quote):
                part = part.strip().replace('"', '\\"')
                seen += 1
                if part not in said:
                    wrong.append(quote)
    assert seen > 70
    assert not wrong, wrong
