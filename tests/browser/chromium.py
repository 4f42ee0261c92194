"""A headless Chromium, driven over its debugging pipe: no driver program, no module beyond Python's own.

Commands and events are JSON objects, each ended by a NUL, on descriptors 3 and 4 of the browser (--remote-debugging-pipe).
Everything that a page complains about is kept: exceptions, the console, what it may not load.
"""

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

START = 60.0   # seconds; the first start on a cold machine takes a while
WAIT = 20.0
FLAGS = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-default-apps",
         "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost", "--hide-scrollbars",
         "--mute-audio", "--password-store=basic", "--lang=en-GB"]


def find():
    return os.environ.get("CHROMIUM") or next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


class Gone(AssertionError):
    """The browser ended, or does not answer."""


class Browser:
    def __init__(self):
        self.dir = tempfile.TemporaryDirectory(prefix="olla-browser-", ignore_cleanup_errors=True)
        to_read, self.out = os.pipe()
        self.inp, to_write = os.pipe()
        flags = FLAGS + ["--user-data-dir=" + self.dir.name]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # it refuses root otherwise

        self.stderr = open(os.path.join(self.dir.name, "stderr"), "wb")
        # The two pipes have to be where the browser looks for them; all other descriptors close by themselves.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_read, to_write)]
        self.process = subprocess.Popen(
            [find(), *flags, "about:blank"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.stderr, close_fds=False,
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)), start_new_session=True,
            env=dict(os.environ, HOME=self.dir.name, LC_ALL="C.UTF-8", TZ="UTC"))
        for fd in ends:
            os.close(fd)
        os.close(to_read)
        os.close(to_write)
        self.buffer, self.last, self.answers, self.pages = b"", 0, {}, {}
        self.call("Browser.getVersion", timeout=START)

    def close(self):
        """The browser and its children are one session of processes, made above."""
        try:
            self.call("Browser.close", timeout=5)
            self.process.wait(10)
        except (Gone, subprocess.TimeoutExpired, OSError):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)
        for fd in (self.inp, self.out):
            os.close(fd)
        self.stderr.close()
        self.dir.cleanup()

    # ---- messages

    def call(self, method, params=None, session=None, timeout=WAIT):
        self.last += 1
        number = self.last
        message = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        try:
            os.write(self.out, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise Gone(self.told()) from None
        deadline = time.monotonic() + timeout
        while number not in self.answers:
            self.take(deadline, method)
        answer = self.answers.pop(number)
        assert "error" not in answer, "%s: %s" % (method, answer["error"])
        return answer["result"]

    def take(self, deadline, what):
        """Reads what has come; events go to their pages."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.inp], [], [], left)[0]:
            raise Gone("no answer to %s\n%s" % (what, self.told()))
        data = os.read(self.inp, 1 << 16)
        if not data:
            raise Gone("it ended\n" + self.told())
        *whole, self.buffer = (self.buffer + data).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self.answers[message["id"]] = message
            elif message.get("sessionId") in self.pages:
                self.pages[message["sessionId"]].event(message["method"], message["params"])

    def told(self):
        return pathlib.Path(self.stderr.name).read_text(errors="replace")[-3000:]

    def page(self, **look):
        return Page(self, **look)


class Page:
    """One tab, with connections of its own that end with it. dark: the colour scheme; width, height in CSS pixels."""

    def __init__(self, browser, width=1440, height=900, dark=False):
        self.browser, self.complaints, self.requests = browser, [], []
        self.context = browser.call("Target.createBrowserContext")["browserContextId"]
        self.target = browser.call("Target.createTarget", {"url": "about:blank", "browserContextId": self.context})["targetId"]
        self.session = browser.call("Target.attachToTarget", {"targetId": self.target, "flatten": True})["sessionId"]
        browser.pages[self.session] = self
        for domain in ("Page", "Runtime", "Log", "Network", "Audits", "DOM", "Accessibility"):
            self.call(domain + ".enable")
        self.resize(width, height)
        self.scheme(dark)

    def close(self):
        del self.browser.pages[self.session]
        self.browser.call("Target.disposeBrowserContext", {"browserContextId": self.context})

    def call(self, method, params=None, timeout=WAIT):
        return self.browser.call(method, params, self.session, timeout)

    def event(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"].get("exception", params["exceptionDetails"]).get("description") or str(params))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append("console: %s" % params["args"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append("%(source)s: %(text)s" % params["entry"] + " " + params["entry"].get("url", ""))
        elif method == "Audits.issueAdded" and params["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.complaints.append("CSP: %s" % params["issue"]["details"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"])

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})

    def scheme(self, dark):
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def open(self, url):
        self.call("Page.navigate", {"url": url})
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'", "the page is loaded")

    def js(self, expression):
        """The value of an expression, as JSON has it."""
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True,
                                              "allowUnsafeEvalBlockedByCSP": False})
        assert "exceptionDetails" not in answer, "%s: %s" % (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, expression, what=None, timeout=WAIT):
        deadline = time.monotonic() + timeout
        while True:
            value = self.js(expression)
            if value:
                return value
            assert time.monotonic() < deadline, "%s did not come true; the page says:\n%s" % (what or expression, self.text()[:3000])
            time.sleep(0.05)

    def text(self, selector="body"):
        return self.js("(document.querySelector(%s) || {}).innerText || ''" % json.dumps(selector))

    def key(self, name, code=0, text="", modifiers=0):
        event = {"key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", dict(event, type="keyDown", **({"text": text} if text else {})))
        self.call("Input.dispatchKeyEvent", dict(event, type="keyUp"))

    def tab(self):
        self.key("Tab", 9)

    def type(self, text):
        self.call("Input.insertText", {"text": text})

    def screenshot(self, path, whole=True):
        """The whole page, as long as it is."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        params = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            params.update(captureBeyondViewport=True, clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1})
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", params)["data"]))
        return path
