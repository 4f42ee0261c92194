#!/usr/bin/python3
"""The YAML configuration of the Go program as an olla.ini:

    package/yaml2ini.py config.yaml > olla.ini && olla -t -c olla.ini

Section and key together are the path in the YAML file; endpoints and aliases get sections of their own. What olla has not, and what
is only the Go program's default where olla's own is better, becomes a comment. Notes go to standard error; the exit status is 1 when
something could not be written down. Comments of the YAML file are lost. Needs PyYAML (python3-yaml).
"""
import re
import sys

import yaml

LINE = 190  # most bytes of a line of olla.ini
ENDPOINTS = "discovery.static.endpoints"
NOT_HERE = ("proxy.tls_handshake_timeout", "model_registry.type", "model_registry.enable_unifier", "model_registry.unification.", "engineering.")
# Values that the Go program comes with, in files that were made from its own.
ITS_DEFAULTS = {"proxy.connection_timeout": "60s", "proxy.response_header_timeout": "30s", "server.request_limits.max_header_size": "1048576",
                "proxy.sticky_sessions.max_sessions": "10000", "proxy.sticky_sessions.prefix_hash_bytes": "512",
                "translators.anthropic.max_message_size": "10485760"}


class Ini:
    def __init__(self):
        self.sections, self.failed = {}, False

    def note(self, text, failed=False):
        self.failed = self.failed or failed
        print("yaml2ini: " + text, file=sys.stderr)

    def add(self, section, key, value, comment=False):
        line = "%s%s = %s" % (";" if comment else "", key, value)
        if "\n" in value or len(line.encode()) > LINE:
            self.note("[%s] %s: longer than a line of olla.ini; if it is a secret, put it into a file of its own" % (section, key), True)
            line = ";%s =" % key
        self.sections.setdefault(section, []).append(line)

    def text(self):
        return "\n".join("[%s]\n%s\n" % (name, "\n".join(lines)) for name, lines in self.sections.items())


def plain(node):
    """The text of a scalar, quoted where it has to be; None for null."""
    if node.style is None and node.value in ("", "~", "null", "Null", "NULL"):
        return None
    if node.value == "" or node.value != node.value.strip() or node.value[0] in "\"'" or re.search(r"\s[;#]", node.value):
        return "'%s'" % node.value if '"' in node.value else '"%s"' % node.value
    return node.value


def pairs(node):
    return [(key.value, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def put_list(ini, section, key, node):
    """As many lines as it takes: the key once more goes on."""
    items = [plain(item) for item in node.value if isinstance(item, yaml.ScalarNode)]
    if len(items) < len(node.value) or any(item is None or "," in item for item in items):
        ini.note("[%s] %s: an element that a list of olla.ini cannot hold" % (section, key), True)
        items = [item for item in items if item and "," not in item]
    line = ""
    for item in items:
        longer = line + (", " if line else "") + item
        if line and len(("%s = %s" % (key, longer)).encode()) > LINE:
            ini.add(section, key, line)
            longer = item
        line = longer
    ini.add(section, key, line)


def put(ini, section, key, node):
    """One value below a section: a scalar, a list, or a map, whose keys are joined with dots."""
    path = "%s.%s" % (section, key)
    if isinstance(node, yaml.MappingNode):
        for name, value in pairs(node):
            put(ini, section, "%s.%s" % (key, name), value)
    elif isinstance(node, yaml.SequenceNode):
        put_list(ini, section, key, node)
    elif plain(node) is not None:
        its_own, absent = ITS_DEFAULTS.get(path) == node.value, path.startswith(NOT_HERE)
        if its_own or absent:
            ini.note("%s = %s %s" % (path, node.value, "is not there in olla" if absent else "is the Go program's default; left to olla's own"))
        ini.add(section, key, plain(node), its_own or absent)


def put_endpoints(ini, node):
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        ini.add("discovery.static", "endpoints", "")
        return
    taken = set()
    for i, one in enumerate(node.value, 1):
        keys = dict(pairs(one))
        name = keys.pop("name").value if "name" in keys else ""
        usable = re.fullmatch(r"[\w.-]{1,39}", name) and name not in taken
        section = "endpoint:" + (name if usable else "endpoint-%d" % i)
        if name in taken:
            ini.note("a second endpoint has the name %s; this one is endpoint-%d now" % (name, i))
        elif name and not usable:
            ini.add(section, "name", name)
        taken.add(name)
        for key, value in keys.items():
            put(ini, section, key, value)


def walk(ini, path, node):
    if path == ENDPOINTS:
        put_endpoints(ini, node)
    elif path == "model_aliases":
        for name, models in pairs(node):
            odd = re.search(r"[:=\s;#\[]", name)
            put_list(ini, "model_alias:" + name if odd else path, "models" if odd else name, models)
    elif isinstance(node, yaml.MappingNode):
        for key, value in pairs(node):
            walk(ini, path + "." + key if path else key, value)
    else:
        put(ini, *path.rpartition(".")[::2], node)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: yaml2ini.py config.yaml > olla.ini")
    ini = Ini()
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            root = yaml.compose(file, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        sys.exit("yaml2ini: %s" % error)
    if root is not None and not isinstance(root, yaml.MappingNode):
        sys.exit("yaml2ini: %s: not a configuration" % sys.argv[1])
    walk(ini, "", root or yaml.MappingNode("", []))
    sys.stdout.write(ini.text())
    sys.exit(1 if ini.failed else 0)


if __name__ == "__main__":
    main()
