"""The manual pages and olla.ini against the program: nothing that it knows is missing, nothing is invented."""

import re
import subprocess

import pytest

from harness import REPO, run_cli

pytestmark = pytest.mark.usefixtures("binary")
PROGRAM, FILE = REPO / "docs" / "olla.8", REPO / "docs" / "olla.ini.5"
EXAMPLE = "\n[endpoint:local-"  # where the reference file ends and its example begins


def reference(text):
    """{(section, key): default} of a file like olla.ini, commented out or not."""
    found, section = {}, None
    for line in text.partition(EXAMPLE)[0].splitlines():
        header = re.fullmatch(r";?\[(.+)\]", line)
        key = re.fullmatch(r";?([A-Za-z_.]+) =(?: (.*))?", line)
        if header:
            section = header.group(1)
        elif key:
            assert (section, key.group(1)) not in found, line
            found[section, key.group(1)] = key.group(2) or ""
    return found


def described():
    """The same of the manual page."""
    found, section = {}, None
    text = FILE.read_text().partition('.\\" settings begin\n')[2].partition('.\\" settings end\n')[0]
    for line in text.splitlines():
        header = re.fullmatch(r"\.Ss \[(.+)\]\\&", line)
        key = re.fullmatch(r'\.It Ic (\S+)(?: No = Li "(.*)")?', line)
        assert header or key or not line.startswith((".Ss", ".It")), line
        if header:
            section = header.group(1)
        elif key:
            assert (section, key.group(1)) not in found, line
            found[section, key.group(1)] = key.group(2) or ""
    return found


def test_the_reference_file_has_every_setting():
    table = reference(run_cli("--print-settings")[1])
    assert len(table) > 100
    assert reference((REPO / "olla.ini").read_text()) == table


def test_the_manual_has_every_setting():
    """make reference writes both files; this fails when somebody forgot it."""
    assert described() == reference(run_cli("--print-settings")[1])


def test_the_manual_says_what_the_reference_says():
    """With the help, what is allowed, and the variables."""
    made = subprocess.run(["awk", "-f", str(REPO / "docs" / "settings.awk"), "-v", "page=%s" % FILE],
                          input=run_cli("--print-settings")[1].encode(), stdout=subprocess.PIPE, timeout=30, check=True)
    assert made.stdout.decode() == FILE.read_text(), "run make reference"


def test_the_program_knows_what_the_manual_says(tmp_path):
    """Every key can be written. The file is read without an unknown one."""
    needs = {"endpoint:NAME": "url = http://127.0.0.1:1", "key:NAME": "secret = 0123456789abcdef0123456789abcdef"}
    lists = {"url", "name", "secret", "secret_file", "secret_sha256"}
    lines = []
    for section in dict.fromkeys(section for section, _ in described()):
        lines += ["[%s]" % section, needs.get(section, "")]
        lines += ["%s = %s" % (key, value) for (place, key), value in described().items()
                  if place == section and key not in lists and not key.startswith(("auth.", "headers."))]
    path = tmp_path / "all.ini"
    path.write_text("\n".join(lines) + "\n")
    code, out, err = run_cli("-t", "-c", path)
    assert code == 0 and "unknown" not in err, err
    path.write_text("[endpoint:a]\nurl = http://127.0.0.1:1\nauth.nonsense = 1\n")
    assert "unknown" in run_cli("-t", "-c", path)[2], "this is how it says so"


def test_variables():
    """Each has a setting, and is written with it."""
    said = re.findall(r"; Environment: (\S+)", run_cli("--print-settings")[1])
    assert said and said == re.findall(r"\.Ev (\S+)", FILE.read_text())


def test_options():
    """Those of --help, and no others."""
    usage = run_cli("--help")[1].partition("Signals:")[0]
    known = set(re.findall(r"(?<![\w-])(--?[A-Za-z][\w-]*)", usage))
    page = PROGRAM.read_text().partition("Options:")[2].partition(".Sh LIMITS")[0]
    said = set()
    for line in re.findall(r"^\.It (.*)", page, re.M):
        said |= {"-" + name.replace("Fl ", "-") for name in re.findall(r"Fl ((?:Fl )?[\w-]+)", line)}
    assert said == known


def test_sections_and_exit_codes():
    page = PROGRAM.read_text()
    for name in ("SIGNALS", "EXIT STATUS", "FILES", "LIMITS", "ENVIRONMENT", "EXAMPLES", "SECURITY CONSIDERATIONS"):
        assert ".Sh %s\n" % name in page
    codes = dict(re.findall(r"OLLA_EXIT_(\w+) = (\d+)", (REPO / "olla.h").read_text()))
    status = page.partition(".Sh EXIT STATUS")[2].partition(".Sh EXAMPLES")[0]
    assert sorted(codes.values()) == re.findall(r"^\.It (\d+)$", status, re.M)


def test_limits():
    """The figures are those of olla.h."""
    limits = dict(re.findall(r"#define (OLLA_\w+) +(\d+)", (REPO / "olla.h").read_text()))
    page = PROGRAM.read_text()
    for text, value in (("client connections", limits["OLLA_MAX_CLIENTS"]), ("endpoints", limits["OLLA_MAX_ENDPOINTS"]),
                        ("names of models", limits["OLLA_MAX_MODELS"]), ("keys", limits["OLLA_MAX_KEYS"]),
                        ("conversations remembered", limits["OLLA_MAX_SESSIONS"]),
                        ("requests of the Anthropic API at one time", limits["OLLA_MAX_MESSAGES"]),
                        ("head of a request or reply", int(limits["OLLA_BUF_SIZE"]) - int(limits["OLLA_HEAD_RESERVE"]))):
        assert re.search(r"\.It %s Ta %s\b" % (text, value), page), text


def test_limits_in_the_readme():
    """The figures are those of olla.h, and the sum is what olla -m prints."""
    limits = dict(re.findall(r"#define (OLLA_\w+) +(\d+)", (REPO / "olla.h").read_text()))
    text = (REPO / "README.md").read_text()
    limits["OLLA_BUF_SIZE"] = int(limits["OLLA_BUF_SIZE"]) - int(limits["OLLA_HEAD_RESERVE"])  # what a head may have
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+)(?: bytes)? \| `-D(OLLA_\w+)=`", text, re.M)
    assert len(rows) >= 10
    for said, name in rows:
        assert int(said.replace(",", "")) == int(limits[name]), name
    total = int(re.search(r"^total (\d+)", run_cli("-m")[1], re.M).group(1))
    pools = int(re.search(r"^\| `make` \| [^|]+ \| ([\d,]+) KB", text, re.M).group(1).replace(",", ""))
    assert pools == pytest.approx(total / 1000, rel=0.01), "see make size"
