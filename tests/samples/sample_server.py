#!/usr/bin/python3
"""A scripted sample server: it speaks like an inference server and says on every occasion that it is none.

    sample_server.py --port N --name NAME [--models a,b] [--dialect ollama|openai] [--delay SECONDS]

`make run` starts two of these when no real server answers, and the tests use it where a server with Ollama's API is
wanted. Both dialects have OpenAI's routes; `ollama` has Ollama's besides, in the shapes of its API documentation. Every
reply is one fixed text with the caller's words repeated, sent word by word; an embedding is a few numbers made from a
hash of the text. A model counts as loaded (/api/ps) from its first use on. Standard library only; listens on 127.0.0.1;
ends on SIGTERM or when the process that started it is gone. Port 0 takes a free one; the line "listening on PORT" on
stdout tells which.
"""
import argparse
import base64
import hashlib
import http.server
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

VERSION = "0.0.0-sample"
MAX_BODY = 64 * 1024 * 1024
MAX_ECHO_WORDS = 20
CONTEXT_LENGTH = 4096
KEEP_LOADED = 300  # seconds, as Ollama does when the request has no keep_alive


class BadRequest(Exception):
    """The request cannot be served: status and text for the caller."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status
        self.text = text


def stamp(ahead=0):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ahead))


def embedding_of(text):
    """Eight numbers, the same for the same text, with length 1 as those of real models."""
    numbers = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:8]]
    length = sum(number * number for number in numbers) ** 0.5
    return [round(number / length, 6) for number in numbers]


def texts_of(value):
    """An `input` is a text or a list of texts."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadRequest(400, "sample server: input has to be a text or a list of texts")
    return texts


def text_of(content):
    """A message's content is a text, or OpenAI's list of parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 75

    def log_message(self, *args):
        pass

    def version_string(self):
        return "olla-sample-server"

    # Requests

    def do_GET(self):
        self.dispatch("GET")

    def do_HEAD(self):
        self.dispatch("GET")

    def do_POST(self):
        self.dispatch("POST")

    def do_DELETE(self):
        self.dispatch("DELETE")

    def dispatch(self, method):
        self.started = time.monotonic()
        self.in_body = False
        self.path_only = self.path.partition("?")[0]
        try:
            body = self.read_body()
            handler = self.server.routes.get((method, self.path_only))
            if handler is None:
                known = any(path == self.path_only for _, path in self.server.routes)
                raise BadRequest(405 if known else 404, f"sample server: no route {self.command} {self.path_only}")
            handler(self, body)
        except BadRequest as error:
            self.send_problem(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def read_body(self):
        """The body as an object; always read to its end, so that the connection can be used again."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            raw = self.read_chunks()
        else:
            length = self.headers.get("Content-Length", "0")
            if not length.isdigit() or int(length) > MAX_BODY:
                self.close_connection = True
                raise BadRequest(400, "sample server: bad Content-Length")
            raw = self.rfile.read(int(length))
            if len(raw) < int(length):
                raise ConnectionError("the client left")
        if not raw:
            return {}
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise BadRequest(400, "sample server: the body is not a JSON object")
        return body

    def read_chunks(self):
        raw = b""
        while True:
            try:
                size = int(self.rfile.readline(1024).partition(b";")[0], 16)
            except ValueError:
                self.close_connection = True
                raise BadRequest(400, "sample server: bad chunk size") from None
            if len(raw) + size > MAX_BODY:
                self.close_connection = True
                raise BadRequest(413, "sample server: body too large")
            raw += self.rfile.read(size)
            if size == 0:
                while self.rfile.readline(65536) not in (b"\r\n", b"\n", b""):
                    pass
                return raw
            self.rfile.readline(1024)

    def pick_model(self, body):
        """The model as this server spells it; a name without a tag means `:latest`."""
        wanted = body.get("model") or body.get("name")
        if not isinstance(wanted, str):
            raise BadRequest(400, "sample server: model is required")
        for model in self.server.models:
            if wanted == model or wanted + ":latest" == model or wanted == model + ":latest":
                return model
        raise BadRequest(404, f"sample server {self.server.name}: model '{wanted}' not found")

    def use_model(self, body):
        """A used model is loaded; `keep_alive` 0 unloads it."""
        model = self.pick_model(body)
        if body.get("keep_alive") in (0, "0", "0s"):
            self.server.loaded.pop(model, None)
        else:
            self.server.loaded[model] = stamp(KEEP_LOADED)
        return model

    def script(self, said, limit):
        """The words of the reply, each but the first with the blank before it."""
        text = (f"I am a scripted sample server named {self.server.name}, not a language model. "
                "This text is fixed and arrives word by word, so that you can watch it stream.")
        words = said.split()
        if words:
            more = " ..." if len(words) > MAX_ECHO_WORDS else ""
            text += f" You said: {' '.join(words[:MAX_ECHO_WORDS])}{more}"
        words = text.split(" ")
        finish = "stop"
        if isinstance(limit, int) and 0 < limit < len(words):
            words = words[:limit]
            finish = "length"
        return [words[0]] + [" " + word for word in words[1:]], finish

    def paced(self, words):
        for word in words:
            yield word
            time.sleep(self.server.delay)

    # Answers

    def send_head(self, status, kind, length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Sample-Server", self.server.name)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_whole(self, body, kind="application/json", status=200):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_head(status, kind, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_problem(self, error):
        if self.path_only.startswith("/api/"):
            self.send_whole({"error": error.text}, status=error.status)
        else:
            kind = "not_found_error" if error.status == 404 else "invalid_request_error"
            self.send_whole({"error": {"message": error.text, "type": kind, "code": None, "param": None}},
                            status=error.status)

    def send_stream(self, kind, pieces):
        """Pieces of text in chunks; HTTP/1.0 knows no chunks and gets them up to the end of the connection."""
        chunked = self.request_version != "HTTP/1.0"
        if chunked:
            self.send_head(200, kind)
        else:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Connection", "close")
            self.end_headers()
        for piece in pieces:
            data = piece.encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    # Ollama's routes

    def ollama_details(self):
        return {"parent_model": "", "format": "sample", "family": "sample", "families": ["sample"],
                "parameter_size": "0", "quantization_level": "none"}

    def ollama_entry(self, model):
        # As with real files: the same name on two servers has the same digest, two names have two.
        return {"name": model, "model": model, "size": 1, "digest": hashlib.sha256(model.encode()).hexdigest(),
                "details": self.ollama_details()}

    def ollama_root(self, _body):
        self.send_whole(f"Ollama is running? No: this is the scripted sample server {self.server.name}.\n".encode(),
                        "text/plain; charset=utf-8")

    def ollama_version(self, _body):
        self.send_whole({"version": VERSION})

    def ollama_tags(self, _body):
        self.send_whole({"models": [{**self.ollama_entry(model), "modified_at": self.server.since}
                                    for model in self.server.models]})

    def ollama_ps(self, _body):
        self.send_whole({"models": [{**self.ollama_entry(model), "expires_at": until, "size_vram": 0,
                                     "context_length": CONTEXT_LENGTH}
                                    for model, until in sorted(self.server.loaded.items()) if until > stamp()]})

    def ollama_show(self, body):
        model = self.pick_model(body)
        self.send_whole({"modelfile": f"# {model}: a scripted sample, not a model", "parameters": "", "template": "",
                         "license": "sample", "details": self.ollama_details(),
                         "model_info": {"general.architecture": "sample", "sample.context_length": CONTEXT_LENGTH},
                         "capabilities": ["completion", "embedding"], "modified_at": self.server.since})

    def ollama_chat(self, body):
        messages = body.get("messages") or []
        said = text_of(messages[-1].get("content")) if messages and isinstance(messages[-1], dict) else ""
        self.ollama_answer(body, said, bool(messages), lambda word: {"message": {"role": "assistant", "content": word}})

    def ollama_generate(self, body):
        said = text_of(body.get("prompt"))
        self.ollama_answer(body, said, bool(said), lambda word: {"response": word})

    def ollama_answer(self, body, said, asked, wrap):
        model = self.use_model(body)
        options = body.get("options") if isinstance(body.get("options"), dict) else {}
        if asked:
            words, finish = self.script(said, options.get("num_predict"))
        else:
            words, finish = [], "load" if model in self.server.loaded else "unload"
        streaming = body.get("stream", True) is not False

        def frame(word, **more):
            return {"model": model, "created_at": stamp(), **wrap(word), "done": False, **more}

        def last(word):
            spent = int((time.monotonic() - self.started) * 1e9)
            return frame(word, done=True, done_reason=finish, total_duration=spent, load_duration=0,
                         prompt_eval_count=len(said.split()), prompt_eval_duration=0, eval_count=len(words),
                         eval_duration=spent)

        def lines():
            for word in self.paced(words):
                yield json.dumps(frame(word)) + "\n"
            yield json.dumps(last("")) + "\n"

        if streaming:
            self.send_stream("application/x-ndjson", lines())
        else:
            self.send_whole(last("".join(self.paced(words))), "application/json; charset=utf-8")

    def ollama_embed(self, body):
        model = self.use_model(body)
        texts = texts_of(body.get("input"))
        spent = int((time.monotonic() - self.started) * 1e9)
        self.send_whole({"model": model, "embeddings": [embedding_of(text) for text in texts], "total_duration": spent,
                         "load_duration": 0, "prompt_eval_count": sum(len(text.split()) for text in texts)})

    def ollama_embeddings(self, body):
        """The older form: one text in, one embedding out."""
        self.use_model(body)
        self.send_whole({"embedding": embedding_of(text_of(body.get("prompt")))})

    # OpenAI's routes

    def openai_models(self, _body):
        self.send_whole({"object": "list", "data": [
            {"id": model, "object": "model", "created": 0, "owned_by": "sample"} for model in self.server.models]})

    def openai_health(self, _body):
        self.send_whole({"status": "ok", "server": f"scripted sample server {self.server.name}"})

    def openai_chat(self, body):
        messages = body.get("messages") or []
        said = text_of(messages[-1].get("content")) if messages and isinstance(messages[-1], dict) else ""
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        self.openai_answer(
            body, said, limit, "chat.completion", "chat.completion.chunk",
            lambda word: {"delta": {"content": word}},
            lambda text: {"message": {"role": "assistant", "content": text}},
            {"delta": {"role": "assistant", "content": ""}}, {"delta": {}})

    def openai_completion(self, body):
        prompt = body.get("prompt")
        said = prompt if isinstance(prompt, str) else " ".join(p for p in prompt or [] if isinstance(p, str))
        self.openai_answer(body, said, body.get("max_tokens"), "text_completion", "text_completion",
                           lambda word: {"text": word}, lambda text: {"text": text}, None, {"text": ""})

    def openai_embeddings(self, body):
        model = self.use_model(body)
        texts = texts_of(body.get("input"))
        vectors = [embedding_of(text) for text in texts]
        if body.get("encoding_format") == "base64":  # what OpenAI's own libraries ask for
            vectors = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode() for one in vectors]
        count = sum(len(text.split()) for text in texts)
        self.send_whole({"object": "list", "model": model, "usage": {"prompt_tokens": count, "total_tokens": count},
                         "data": [{"object": "embedding", "index": index, "embedding": one}
                                  for index, one in enumerate(vectors)]})

    def openai_answer(self, body, said, limit, kind, chunk_kind, wrap_word, wrap_text, opening, closing):
        model = self.use_model(body)
        words, finish = self.script(said, limit)
        options = body.get("stream_options") if isinstance(body.get("stream_options"), dict) else {}
        usage = {"prompt_tokens": len(said.split()), "completion_tokens": len(words),
                 "total_tokens": len(said.split()) + len(words)}
        base = {"id": f"sample-{self.server.next_number()}", "created": int(time.time()), "model": model,
                "system_fingerprint": f"sample-server-{self.server.name}"}

        def choice(part, reason=None):
            return {"index": 0, **part, "logprobs": None, "finish_reason": reason}

        def event(choices, **more):
            return "data: " + json.dumps({**base, "object": chunk_kind, "choices": choices, **more}) + "\n\n"

        def events():
            if opening:
                yield event([choice(opening)])
            for word in self.paced(words):
                yield event([choice(wrap_word(word))])
            yield event([choice(closing, finish)])
            if options.get("include_usage"):
                yield event([], usage=usage)
            yield "data: [DONE]\n\n"

        if body.get("stream") is True:
            self.send_stream("text/event-stream", events())
        else:
            text = "".join(self.paced(words))
            self.send_whole({**base, "object": kind, "choices": [choice(wrap_text(text), finish)], "usage": usage})


OPENAI_ROUTES = {
    ("GET", "/health"): Handler.openai_health,
    ("GET", "/v1/models"): Handler.openai_models,
    ("POST", "/v1/chat/completions"): Handler.openai_chat,
    ("POST", "/v1/completions"): Handler.openai_completion,
    ("POST", "/v1/embeddings"): Handler.openai_embeddings,
}
OLLAMA_ROUTES = {
    ("GET", "/"): Handler.ollama_root,
    ("GET", "/api/version"): Handler.ollama_version,
    ("GET", "/api/tags"): Handler.ollama_tags,
    ("GET", "/api/ps"): Handler.ollama_ps,
    ("POST", "/api/show"): Handler.ollama_show,
    ("POST", "/api/chat"): Handler.ollama_chat,
    ("POST", "/api/generate"): Handler.ollama_generate,
    ("POST", "/api/embed"): Handler.ollama_embed,
    ("POST", "/api/embeddings"): Handler.ollama_embeddings,
}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, options):
        super().__init__(("127.0.0.1", options.port), Handler)
        self.name = options.name
        self.models = [model.strip() for model in options.models.split(",") if model.strip()]
        self.delay = options.delay
        self.since = stamp()
        self.loaded = {}  # model: when it would be unloaded
        self.number = 0
        self.lock = threading.Lock()
        self.routes = dict(OPENAI_ROUTES)
        if options.dialect == "ollama":
            self.routes.update(OLLAMA_ROUTES)

    def server_bind(self):
        # The inherited method also asks the resolver for this machine's name, which may take long.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def next_number(self):
        with self.lock:
            self.number += 1
            return self.number

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def end_with_parent(parent):
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(0)


def main():
    # Read first: a parent that dies while this starts has to be noticed too.
    parent = os.getppid()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--models", default="sample-small,sample-large")
    parser.add_argument("--dialect", choices=("ollama", "openai"), default="openai")
    parser.add_argument("--delay", type=float, default=0.06, help="seconds between two words")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    try:
        server = Server(options)
    except OSError as error:
        sys.exit(f"sample server {options.name}: port {options.port}: {error.strerror}")
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    print(f"sample server {options.name} ({options.dialect} dialect, a script, no language model): "
          f"listening on {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
