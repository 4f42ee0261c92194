"""What somebody sees who opens /internal/ui/: everything, on a phone and on a desk, in light and in dark, with keys only and
read aloud; what happens while it is open; and that no name can do anything but be read."""

import json
import signal
import threading

import pytest

from backend import DeadPort, Gate, eventually
from client import dump, json_headers
from harness import REPO, endpoint, new_id
from servers import Ollama
from servers.chat_styles import ChatLlamacpp, ChatOllama, ChatVllm

PICTURES = REPO / "build" / "screenshots"
SIZES = {"phone": (360, 740), "desk": (1440, 900)}
CHAT = "/v1/chat/completions"
ALICE, BOB = "sk-alice-5f1c0de", "sk-bob-77aa88bb"
LONG = 120.0  # seconds; a request that is kept waiting while somebody looks
QUICK = {"check_interval": "1s", "check_timeout": "500ms"}

HOSTILE = ["<img src=x onerror=alert(1)>", "\"><script>alert(1)</script>", "</td></table><h1>gone</h1>", "__proto__", "constructor",
           "javascript:alert(1)", "' onmouseover='alert(1)", "\u202eevil\u2066", "x" * 120, "&lt;b&gt;", "{{7*7}}", "${7*7}"]


def url(proxy):
    return "http://127.0.0.1:%d/internal/ui/" % proxy.port


def look(browser, proxy, **how):
    """Opens the page, and waits until it shows endpoints and models."""
    page = browser.page(**how)
    page.open(url(proxy))
    page.until("document.querySelectorAll('.box').length > 0 && document.querySelectorAll('#t-models tbody tr').length > 0", "it shows the fleet")
    return page


def box(name):
    return "[...document.querySelectorAll('.box')].find(b => b.querySelector('h3').textContent === %s)" % json.dumps(name)


def state(page, name, wanted):
    page.until("%s.querySelector('.state').textContent === %s" % (box(name), json.dumps(wanted)), "%s is %s" % (name, wanted))


def ask(proxy, model, key=None, wait=True, path=CHAT):
    """A request; the status, or the thread that waits for it."""
    headers = json_headers({"Authorization": "Bearer " + key} if key else {})

    def run():
        return proxy.request("POST", path, dump({"model": model, "messages": [{"role": "user", "content": "hi"}]}), headers, timeout=LONG).status
    if wait:
        return run()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def no_complaint(page, but=()):
    found = [c for c in page.complaints if not any(part in c for part in but)]
    assert not found, found


class Fleet:
    """Three machines with names of models that say something, an alias, two keys; one request runs, one waits, one failed."""

    def __init__(self, world):
        self.world = world
        self.tower = world.backend(ChatVllm, "gpu-tower", ["qwen3-coder:30b"])
        self.nas = world.backend(ChatOllama, "nas", ["llama3.2:3b", "nomic-embed-text:v1.5", "hf.co/unsloth/DeepSeek-R1-Distill-Qwen-32B-GGUF:Q4_K_M"])
        self.mini = world.backend(ChatLlamacpp, "mini-pc", ["gemma-3-12b-it-Q4_K_M.gguf"])
        self.nas.loaded = ["llama3.2:3b"]
        self.spec = {"gpu-tower": endpoint(self.tower, priority=100, **QUICK), "nas": endpoint(self.nas, priority=50, **QUICK),
                     "mini-pc": endpoint(self.mini, priority=20, max_concurrent=1, **QUICK)}
        settings = {"key:alice.secret": ALICE, "key:alice.tokens_per_day": 200, "key:night-batch.secret": BOB, "model_aliases.fast": "llama3.2:3b",
                    "proxy.queue.timeout": "120s"}
        self.proxy = world.olla(self.spec, settings, ready={"gpu-tower": 1, "nas": 3, "mini-pc": 1})
        for _ in range(4):
            assert ask(self.proxy, "fast", ALICE) == 200
            assert ask(self.proxy, "qwen3-coder:30b", BOB) == 200
        self.tower.on("/v1/completions", lambda conn, request: conn.rst())
        assert ask(self.proxy, "qwen3-coder:30b", BOB, path="/v1/completions") == 502
        self.gate = Gate()
        self.mini.on(CHAT, lambda conn, request: (self.gate.wait(LONG), conn.reply({"choices": []})))
        self.waiting = [ask(self.proxy, "gemma-3-12b-it-Q4_K_M.gguf", BOB, wait=False) for _ in range(2)]
        eventually(lambda: self.proxy.status()["queue"]["waiting"] == 1, "one runs and one waits")

    def close(self):
        self.gate.open()
        for thread in self.waiting:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def fleet(world):
    fleet = Fleet(world)
    yield fleet
    fleet.close()


# ---- how it looks

# Each piece of text against what is behind it, as WCAG measures it: 4.5 is what small text needs.
CONTRAST = """(() => {
    const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = node => {
        let color = [0, 0, 0, 0];
        for (; node; node = node.parentElement) {
            const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor), rest = 1 - color[3];
            color = [color[0] + r * a * rest, color[1] + g * a * rest, color[2] + b * a * rest, color[3] + a * rest];
            if (color[3] > .99) return color;
        }
        return [255, 255, 255];
    };
    const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walk.nextNode());) {
        const parent = node.parentElement;
        if (!node.data.trim() || !parent.checkVisibility() || parent.closest('.skip, .hidden, caption, noscript')) continue;
        const a = light(parse(getComputedStyle(parent).color)), b = light(behind(parent));
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) found.push(node.data + ': ' + ratio.toFixed(2));
    }
    return found;
})()"""
# Against the width that was asked for: a telephone zooms out to show what is too wide, and innerWidth grows with it.
WIDE = """[...document.querySelectorAll('body *')].filter(n => n.checkVisibility() && !n.closest('.skip, .hidden, caption, thead'))
    .filter(n => n.getBoundingClientRect().right > document.documentElement.clientWidth + .5 || n.getBoundingClientRect().left < -.5).map(n => n.outerHTML.slice(0, 120))"""
CUT = """[...document.querySelectorAll('.big, h3, .chip, dd, td, th')].filter(n => n.checkVisibility() && n.scrollWidth > n.clientWidth + 1 && n.clientWidth > 1
    && getComputedStyle(n).display !== 'inline').map(n => n.outerHTML.slice(0, 120))"""
SMALL_TARGETS = """[...document.querySelectorAll('nav a, summary, input')].filter(n => n.getBoundingClientRect().height < 32).map(n => n.outerHTML)"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_look(browser, fleet, size, dark):
    width, height = SIZES[size]
    page = look(browser, fleet.proxy, width=width, height=height, dark=dark)
    page.until("document.getElementById('points').innerText.includes('waits in line')")
    page.until("document.querySelector('#boxes .line[d^=M]') !== null", "there is a curve")
    page.js("document.querySelector('details').open = true")
    page.until("document.querySelectorAll('.facts > div').length > 8")
    page.screenshot(PICTURES / ("%s-%s.png" % (size, "dark" if dark else "light")))
    assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "it can be scrolled sideways"
    assert page.js(WIDE) == []
    assert page.js(CUT) == []
    assert page.js(CONTRAST) == []
    paper = [int(v) for v in page.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")[:3]]
    assert max(paper) < 60 if dark else min(paper) > 220
    if size == "phone":
        assert page.js(SMALL_TARGETS) == []
        assert page.js("document.querySelector('#tiles').getBoundingClientRect().bottom < innerHeight"), "the fleet does not fit on the first screen"
    no_complaint(page)


def test_widths_between(browser, fleet):
    page = look(browser, fleet.proxy)
    for width in (320, 400, 520, 703, 704, 800, 979, 980, 1024, 1280, 1920):
        page.resize(width, 800)
        assert page.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(document.documentElement.scrollWidth <= document.documentElement.clientWidth))))"), width
        assert page.js(WIDE) == [], width
    no_complaint(page)


def test_what_it_says(browser, fleet):
    """Which machine is slow, which model is where, who used what."""
    page = look(browser, fleet.proxy)
    page.until("document.getElementById('points').innerText.includes('1 request waits in line')")
    assert page.text("#verdict") == "All 3 endpoints are well"
    assert page.js("document.title") == "All 3 endpoints are well - olla"
    row = page.js("[...document.querySelectorAll('#t-models tbody tr')].map(r => r.innerText)")
    assert len(row) == 5
    llama = next(r for r in row if r.startswith("llama3.2:3b"))
    assert "nas in memory" in llama and "also fast" in llama and "128k" in llama
    page.until("[...document.querySelectorAll('#t-models tbody tr')].some(r => r.innerText.startsWith('qwen3-coder:30b') && /\\n?5\\n.*tokens/.test(r.innerText))",
               "use of the model is shown")
    keys = page.text("#t-keys")
    assert "alice" in keys and "night-batch" in keys and " of 200" in keys
    errors = page.text("#t-errors")
    assert "qwen3-coder:30b" in errors and "the server failed before an answer (SH), status 502" in errors and "127.0.0.1" in errors and "gpu-tower" in errors
    assert fleet.proxy.status()["recent_errors"][0]["request_id"] in errors
    mini = page.js(box("mini-pc") + ".innerText")
    assert "1 of 1" in mini and "full" in mini
    assert "llama3.2:3b" in page.js(box("nas") + ".innerText")
    assert "MB in use" in page.text("#memory")
    no_complaint(page)


def test_live_rates(browser, world):
    server = world.backend(ChatOllama, "o", ["m1"])
    proxy = world.olla({"o": endpoint(server)})
    page = look(browser, proxy)
    tile = "document.querySelector('#tiles .big').textContent"
    assert page.js(tile) == "0/s"
    for _ in range(5):
        assert ask(proxy, "m1") == 200
    page.until(tile + " !== '0/s'", "the rate of requests moves")
    page.until("document.querySelector('#tiles > div:nth-child(2) .big').textContent !== '0/s'", "the rate of tokens moves")
    page.until(tile + " === '0/s'", "and comes to rest", timeout=40)
    assert "5 in all" in page.text("#tiles")
    no_complaint(page)


# ---- what happens while it is open

def test_an_endpoint_dies_and_comes_back(browser, world):
    a, b = world.backend(Ollama, "a", ["m-a"]), world.backend(Ollama, "b", ["m-b"])
    proxy = world.olla({"a": endpoint(a, **QUICK), "b": endpoint(b, **QUICK)})
    page = look(browser, proxy)
    page.js("window.same = true")
    state(page, "a", "well")
    page.js(box("a") + ".querySelector('summary').focus()")
    a.stop()
    state(page, "a", "down")
    page.until("document.getElementById('verdict').innerText === '1 of 2 endpoints is out'")
    assert page.js("document.title") == "1 of 2 endpoints is out - olla"
    points = page.text("#points")
    assert "a is down: " in points and proxy.endpoint("a")["reason"] in points
    assert page.js("document.getElementById('verdict').getAttribute('role')") == "status"
    assert page.js(box("a") + ".querySelector('h3 .icon path').getAttribute('d') !== " + box("b") + ".querySelector('h3 .icon path').getAttribute('d')"), "only a colour tells"
    page.until("document.querySelector('#t-models').innerText.includes('a down')", "the models tell it, too")
    page.screenshot(PICTURES / "down.png")
    a.start()
    state(page, "a", "well")
    page.until("document.getElementById('verdict').innerText === 'All 2 endpoints are well' && document.getElementById('points').children.length === 0")
    assert page.js("window.same === true"), "it was loaded anew"
    assert page.js("document.activeElement.closest('.box') === " + box("a")), "the focus was lost"
    no_complaint(page)


def test_machines_and_models_come_and_go(browser, world):
    a, b = world.backend(Ollama, "a", ["m-a"]), world.backend(Ollama, "b", ["m-b"])
    proxy = world.olla({"a": endpoint(a, **QUICK)})
    page = look(browser, proxy)
    proxy.reload({"a": endpoint(a, **QUICK), "b": endpoint(b, priority=200, **QUICK)})
    page.until("[...document.querySelectorAll('.box h3')].map(h => h.textContent).join() === 'b,a'", "b is there, and first")
    page.until("document.querySelector('#t-models').innerText.includes('m-b')")
    proxy.reload({"b": endpoint(b, **QUICK)})
    page.until("[...document.querySelectorAll('.box h3')].map(h => h.textContent).join() === 'b'", "a is gone")
    no_complaint(page)


def test_old_data_look_old(browser, world):
    """olla stops to answer, and goes on."""
    server = world.backend(Ollama, "o", ["m1"])
    proxy = world.olla({"o": endpoint(server)})
    page = look(browser, proxy)
    assert page.js("document.getElementById('alert').hidden") and page.text("#beat") == "live"
    plain = page.js("getComputedStyle(document.querySelector('#tiles')).opacity")
    proxy.signal(signal.SIGSTOP)
    try:
        page.until("document.body.classList.contains('stale')", timeout=30)
        page.until("!document.getElementById('alert').hidden && document.getElementById('alert').innerText.startsWith('olla does not answer')")
        page.until("/ s old$/.test(document.getElementById('beat').innerText)")
        assert page.js("document.title") == "No answer - olla"
        assert float(page.js("getComputedStyle(document.querySelector('#tiles')).opacity")) < float(plain)
        assert "grayscale" in page.js("getComputedStyle(document.querySelector('#boxes')).filter")
        assert page.js("document.getElementById('alert').getAttribute('role')") == "alert"
        page.screenshot(PICTURES / "stale.png")
    finally:
        proxy.signal(signal.SIGCONT)
    page.until("!document.body.classList.contains('stale') && document.getElementById('alert').hidden", timeout=60)
    assert page.text("#beat") == "live" and page.js("document.title") == "The endpoint is well - olla"
    no_complaint(page, ["Failed to load resource"])


def test_asks_seldom_while_it_fails(browser, world):
    proxy = world.olla({"o": endpoint(world.keep(DeadPort()))}, {}, ready=None)
    page = browser.page()
    page.open(url(proxy))
    page.until("document.getElementById('verdict').innerText === 'The only endpoint is out'")
    page.until("document.querySelector('#t-models .empty').innerText === 'None.'")
    assert [page.js("pause(%d)" % n) for n in range(7)] == [2000, 2000, 4000, 8000, 16000, 30000, 30000]
    no_complaint(page)


def test_asks_for_changes_only(browser, world):
    """Nothing but its files and its JSON, and that with If-None-Match."""
    server = world.backend(Ollama, "o", ["m1"])
    proxy = world.olla({"o": endpoint(server)})
    page = look(browser, proxy)
    asked = lambda: [r for r in page.requests if r["url"].endswith("/internal/status")]
    eventually(lambda: page.js("1") and len(asked()) > 4, "it asks again", 30)
    assert all("If-None-Match" in r["headers"] for r in asked()[1:]) and "If-None-Match" not in asked()[0]["headers"]
    assert {r["method"] for r in page.requests} == {"GET"}
    base = "http://127.0.0.1:%d" % proxy.port
    assert {r["url"] for r in page.requests if not r["url"].startswith("data:")} == {base + path for path in (
        "/internal/ui/", "/internal/ui/olla.js", "/internal/ui/olla.css", "/internal/status", "/internal/status/models?detailed=true&group=family",
        "/internal/stats/models")}
    no_complaint(page)


# ---- names

def test_names_are_text(browser, world):
    server = world.backend(Ollama, "o", HOSTILE)
    server.version = "<i>1</i>"
    server.loaded = HOSTILE[:3]
    other = world.backend(Ollama, "other", [])  # what is in memory is asked only if there is a choice
    name = '<b onclick="alert(1)">o</b>'
    proxy = world.olla({name: endpoint(server, **QUICK), "other": endpoint(other)}, {"key:<u>k</u>.secret": ALICE}, ready={name: len(HOSTILE), "other": 0})
    bad = new_id("<script>alert(1)</script>")
    server.on(CHAT, lambda conn, request: conn.rst())
    assert proxy.request("POST", CHAT, dump({"model": HOSTILE[0]}), json_headers({"X-Request-ID": bad, "Authorization": "Bearer " + ALICE})).status == 502
    page = look(browser, proxy, width=360, height=740)
    page.until("document.querySelectorAll('#t-models tbody tr').length === %d" % len(HOSTILE), "all models are listed")
    shown = page.js("[...document.querySelectorAll('#t-models tbody th b')].map(n => n.textContent)")
    assert sorted(shown) == sorted(HOSTILE)
    page.until("[...document.querySelectorAll('.box .chip')].map(n => n.textContent).sort().join('\\n') === %s" % json.dumps("\n".join(sorted(HOSTILE[:3]))), "what is in memory")
    assert bad in page.text("#t-errors") and "<u>k</u>" in page.text("#t-keys")
    assert "<i>1</i>" in page.js("document.querySelector('.box small').textContent")
    assert page.js("document.querySelectorAll('img, i, u, script:not([src]), [onerror], [onload], [onclick], [onmouseover], main h1').length") == 0
    assert page.js("document.querySelectorAll('b').length === document.querySelectorAll('th b').length")
    assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth") and page.js(WIDE) == []
    page.screenshot(PICTURES / "names.png")
    no_complaint(page)


def test_markup_cannot_be_made(browser, world):
    """Should a later change try: the policy of the page forbids it."""
    proxy = world.olla({"o": endpoint(world.backend(Ollama, "o", ["m1"]))})
    page = look(browser, proxy)
    for attempt in ("document.body.innerHTML = '<b>x</b>'", "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')", "eval('1')"):
        assert page.js("(() => { try { %s; return 'done'; } catch (error) { return error.name; } })()" % attempt) in ("TypeError", "EvalError"), attempt
    page.js("document.body.append(Object.assign(document.createElement('p'), {id: 'p'})); document.getElementById('p').setAttribute('style', 'color: red')")
    assert page.js("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"


# ---- without a mouse, without a screen

def test_keyboard(browser, fleet):
    page = look(browser, fleet.proxy, height=600)
    page.tab()
    assert page.js("document.activeElement.className") == "skip"
    page.until("document.activeElement.getBoundingClientRect().left >= 0", "the link is to be seen")
    page.key("Enter", 13, "\r")
    page.until("document.activeElement.id === 'main'", "main has the focus")
    wanted = page.js("[...document.querySelectorAll('main a, main summary, main input')].filter(n => n.checkVisibility()).length")
    reached = []
    for _ in range(wanted):
        page.tab()
        assert page.js("document.activeElement.matches('a, summary, input')")
        assert page.js("getComputedStyle(document.activeElement).outlineStyle") != "none", "the focus is not to be seen"
        assert page.js("(r => r.top >= document.querySelector('header').getBoundingClientRect().bottom - 1 && r.bottom <= innerHeight + 1)"
                       "(document.activeElement.getBoundingClientRect())"), "the focus is out of sight"
        reached.append(page.js("document.activeElement.tagName + (document.activeElement.getAttribute('href') || document.activeElement.textContent)"))
    assert len(set(reached)) == wanted
    page.js("document.querySelector('.box summary').focus()")
    page.key("Enter", 13, "\r")
    page.until("document.querySelector('.box details').open && document.querySelector('.box .facts').innerText.includes('http://127.0.0.1')")
    page.js("document.getElementById('find').focus()")
    page.type("GPU-tow")
    page.until("[...document.querySelectorAll('#t-models tbody tr')].map(r => r.querySelector('b').textContent).join() === 'qwen3-coder:30b'")
    page.type("x")
    page.until("document.querySelector('#t-models .empty').checkVisibility() && !document.querySelector('#t-models table').checkVisibility()")
    no_complaint(page)


@pytest.mark.parametrize("size", SIZES)
def test_read_aloud(browser, fleet, size):
    """What a screen reader gets: landmarks, headings, tables that are tables on a phone as well, a name for everything."""
    width, height = SIZES[size]
    page = look(browser, fleet.proxy, width=width, height=height)
    page.until("document.querySelectorAll('#t-errors tbody tr').length > 0 && document.querySelectorAll('#t-keys tbody tr').length > 0")
    nodes = [n for n in page.call("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
    roles = {}
    for node in nodes:
        roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert len(roles["main"]) == len(roles["banner"]) == len(roles["contentinfo"]) == 1
    assert roles["navigation"] == ["Parts of this page"] and roles["status"] and roles["searchbox"] == ["Find a model or machine"]
    assert {"olla", "Endpoints", "Models", "Keys", "Recent errors", "gpu-tower", "nas", "mini-pc"} <= set(roles["heading"])
    assert {"Models", "Use by key", "Recent errors"} <= set(roles["table"])
    assert len(roles["row"]) == 3 + 5 + 2 + 1 and "llama3.2:3b" in " ".join(roles["rowheader"]) and roles["columnheader"].count("Requests") == 2
    images = roles.get("image", []) + roles.get("img", []) + roles.get("graphics-document", [])
    assert len(images) == 6 + 2 * 3 and all(", last " in name for name in images), images
    # This browser takes them for tables anyway, others do not.
    assert page.js("document.querySelectorAll('table:not([role=table]), tr:not([role=row]), thead th:not([role=columnheader]), tbody th:not([role=rowheader]), td:not([role=cell])').length") == 0
    for role in ("link", "searchbox", "table", "meter", "DisclosureTriangle", "region"):
        assert roles[role] and all(roles[role]), role
    assert page.js("document.documentElement.lang") == "en"
    assert page.js("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1]).every((n, i, all) => i === 0 ? n === 1 : n <= all[i - 1] + 1)")


# ---- much, and unseen

def test_many_models(browser, world):
    """The first are shown, the others are found."""
    server = world.backend(Ollama, "o", ["model-%03d" % i for i in range(130)])
    proxy = world.olla({"o": endpoint(server)}, ready={"o": 130})
    page = look(browser, proxy, width=360, height=740)
    page.until("document.querySelectorAll('#t-models tbody tr').length === 60 && document.getElementById('rest').innerText === '70 more models'")
    page.js("document.getElementById('find').focus()")
    page.type("EL-12")
    page.until("[...document.querySelectorAll('#t-models tbody b')].map(b => b.textContent).join() === %s"
               % json.dumps(",".join("model-12%d" % i for i in range(10))))
    page.until("document.getElementById('rest').innerText === ''")
    no_complaint(page)


def test_asks_seldom_while_nobody_looks(browser, world):
    server = world.backend(Ollama, "o", ["m1"])
    proxy = world.olla({"o": endpoint(server)})
    page = look(browser, proxy)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    page.js(hide % "true")
    assert page.js("pause(0)") == 15000 and page.js("pause(1)") == 2000
    seen = page.js("askedAt")
    page.until("askedAt > %s" % seen, "the question that was due", 30)  # from now on it waits long
    before = page.js("askedAt")
    page.js(hide % "false")
    page.until("askedAt > %s" % before, "asked at once when somebody looks", 10)
    no_complaint(page)
