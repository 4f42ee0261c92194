"""What test_anthropic*.py share: five scripted chat servers inside this process, three llama-servers with the tiny model, and
two ollas in front of all of them.

    own         every endpoint has its own type, and translators.anthropic.passthrough_enabled is off: all is translated, for
                each server in the way that its type wants
    compatible  default settings: the scripted servers are only openai-compatible, so they are translated too; llama-servers
                get Messages as they come

The llama-servers: `talk` says words, `tools` calls a tool whenever it has to and says nothing otherwise, `think` never stops
thinking. Letters only: llama-server's own Messages API leaves message_start out when the first token is not yet a character.
"""
import collections
import os
import sys

import anthropic
import pytest
from conftest import HERE, OLLA, TOP, Machine, free_port, get_json, in_system, wait_for

sys.path.append(os.path.join(TOP, "tests", "wire"))
from servers import chat_checks, chat_styles  # noqa: E402

TILDE, END = 3 + ord("~"), 2  # tokens of the tiny model, see tiny_model.py
LETTERS = ("--grammar", "root ::= [a-z .]+", "--logit-bias", f"{END}-100")
LLAMAS = {
    "talk": LETTERS,
    "think": LETTERS + ("--chat-template", "think.jinja"),
    "tools": ("--logit-bias", f"{TILDE}+100", "--logit-bias", f"{END}+200", "--chat-template", "tools.jinja"),
}
STYLES = {kind.type: kind for kind in chat_styles.STYLES}
PREFIXES = ("", "/olla/anthropic")
OLLAS = ("own", "compatible")

ASK = [{"role": "user", "content": "Tell me about the sea."}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather of a city", "input_schema": CITY}
CLOCK = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
TOOLS = [WEATHER, CLOCK]
WAYS = ("whole", "stream")


def template(word):
    if not word.endswith(".jinja"):
        return word
    with open(os.path.join(HERE, word), encoding="utf-8") as file:
        return file.read()


def llama(name, folder):
    """Enough tokens that a stream takes some seconds; the model is the name."""
    port = free_port()
    command = in_system("llama-server", "-m", "/models/tiny-a.gguf", "--host", "127.0.0.1", "--port", str(port), "-c", "32768",
                        "-np", "4", "-t", "1", "--alias", name, "--offline", "--no-webui", "--slots",
                        *(template(word) for word in LLAMAS[name]))
    return Machine(name, command, port, "/health", folder)


class Fleet:
    def __init__(self, folder):
        self.folder = folder
        # `busy` is for the tests that make a server ask for patience: olla lets it rest then.
        self.servers = {name: kind(name, ["m-" + name]) for name, kind in STYLES.items()}
        self.servers["busy"] = chat_styles.ChatVllm("busy", ["m-busy"])
        self.llamas = {name: llama(name, folder) for name in LLAMAS}
        self.ollas = {}
        for name in OLLAS:
            port = free_port()
            self.ollas[name] = Machine("olla-" + name, [OLLA, "-c", self.write_ini(name, port)], port, "/internal/health", folder)
        self.clients = {}

    def write_ini(self, name, port):
        # Failures are what these servers are for: no reason to leave them alone.
        text = (f"[server]\nhost = 127.0.0.1\nport = {port}\nrate_limits.per_ip_requests_per_minute = 0\n"
                "\n[proxy.breaker]\nopen_time = 1ms\nmax_open_time = 1ms\n")
        if name == "own":
            text += "\n[translators.anthropic]\npassthrough_enabled = false\n"
        for one, server in self.servers.items():
            text += (f"\n[endpoint:{one}]\nurl = {server.url}\ncheck_interval = 5s\n"
                     f"type = {server.type if name == 'own' else 'openai-compatible'}\n")
        for one, machine in self.llamas.items():
            text += f"\n[endpoint:{one}]\nurl = {machine.url}\ntype = llamacpp\ncheck_interval = 1s\ncheck_timeout = 900ms\n"
        path = os.path.join(self.folder, name + ".ini")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def start(self):
        for machine in self.llamas.values():
            machine.start()
        for machine in self.llamas.values():
            machine.wait()
        for machine in self.ollas.values():
            machine.start().wait()
        self.wait_whole()

    def wait_whole(self):
        """Until both ollas know the models of all servers."""
        def missing():
            return [(name, one["name"]) for name, machine in self.ollas.items()
                    for one in get_json(machine.url + "/internal/status")["endpoints"]
                    if one["status"] != "healthy" or not one["models"]["count"]]
        wait_for("both ollas to use all servers", lambda: not missing(), 30)

    def repair(self):
        dead = [machine for machine in self.llamas.values() if machine.child.poll() is not None]
        for machine in dead:
            machine.start().wait()
        if dead:
            self.wait_whole()

    def client(self, olla, prefix="", **options):
        """One client for each of olla's addresses, that tries once."""
        if (olla, prefix) not in self.clients:
            self.clients[olla, prefix] = anthropic.Anthropic(base_url=self.ollas[olla].url + prefix, api_key="none", max_retries=0,
                                                             timeout=30)
        client = self.clients[olla, prefix]
        return client.with_options(**options) if options else client

    def check(self):
        """What the servers thought of the requests that olla made since the last look."""
        problems = collections.Counter()
        for server in self.servers.values():
            problems.update(server.failures)
            for call in server.calls:
                if call.path.endswith("/count_tokens"):
                    continue  # some types count
                if call.path != server.base + "/chat/completions":
                    problems[f"{server.name} was asked for {call.line}"] += 1
                    continue
                try:
                    chat_checks.check_translated(call)
                except chat_checks.Unfit as error:
                    problems[f"{server.name} got what belongs to the other API: {error}"] += 1
            server.failures = []
            server.forget()
        assert not problems, "\n".join(problems)
        for machine in self.ollas.values():
            assert machine.child.poll() is None, f"{machine.name} ended with {machine.child.returncode}: {machine.tail()}"

    def stop(self):
        for machine in (*self.ollas.values(), *self.llamas.values()):
            machine.stop()
        for server in self.servers.values():
            server.stop()


class Place:
    """One scripted server behind one of the ollas, seen through one of its addresses."""

    def __init__(self, fleet, olla, style):
        self.fleet, self.olla, self.style = fleet, olla, style
        self.own = olla == "own"
        self.server = fleet.servers[style]
        self.model = self.server.models[0]
        self.prefix = PREFIXES[(list(fleet.servers).index(style) + self.own) % 2]
        self.client = fleet.client(olla, self.prefix)
        self.say(chat_styles.Turn(text="Hello."))

    def say(self, *turns):
        self.server.turns = list(turns)

    def create(self, messages=ASK, client=None, **more):
        return (client or self.client).messages.create(**dict({"model": self.model, "max_tokens": 100, "messages": messages}, **more))

    def open(self, messages=ASK, client=None, **more):
        return (client or self.client).messages.stream(**dict({"model": self.model, "max_tokens": 100, "messages": messages}, **more))

    def ask(self, way, messages=ASK, **more):
        """The message, as a whole or put together by the library."""
        if way == "whole":
            return self.create(messages, **more)
        with self.open(messages, **more) as stream:
            return stream.get_final_message()

    def asked(self):
        return self.server.asked[-1]

    def usage(self, cached=0):
        """(new, from memory, written): what is made of 37 tokens."""
        cached = cached if self.server.reports_cached else 0
        return 37 - cached, cached, 14


def usage(message):
    return message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens


def kinds(events):
    """The kinds of the events; deltas of the same kind in a row count once."""
    out = []
    for event in events:
        name = event.type
        if name == "content_block_start":
            name = "start " + event.content_block.type
        elif name == "content_block_delta":
            name = event.delta.type
        if event.type != "content_block_delta" or out[-1] != name:
            out.append(name)
    return out


def result(block, content="fine", **more):
    return dict({"type": "tool_result", "tool_use_id": block.id, "content": content}, **more)


def raised(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value
