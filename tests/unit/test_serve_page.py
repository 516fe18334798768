"""The page of ``quantkit serve``, in a real browser: nothing from outside, nothing a model says runs, Chinese works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_gguf import ANSWER, ENDLESS, Tiny, write_tiny_gguf

from quantkit.serve.page.assets import POLICY, read_assets
from tests.support.browser import PROGRAMS, Browser
from tests.support.chat_page import IDLE, TURNS, ask, browsing, common_window, conversations, opened
from tests.support.served import Server, running_server

ROOT = Path(__file__).parent.parent.parent
SYSTEM = "你是一个乐于助人的助手。"
MARKUP = "<img src=q>"


def test_the_set_up_for_tests_takes_the_browsers_that_tests_take() -> None:
    (known,) = re.findall(r"^if ! command -v (.*) >", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(known.split()) == PROGRAMS


def serving(folder: Path, tiny: Tiny, *arguments: object) -> Iterator[Server]:
    path = write_tiny_gguf(folder / "tiny.gguf", tiny)
    # One thread: others would wait for each other at every step while the tests beside this one work.
    with running_server(folder / "log.txt", path, "--threads", 1, "--param", "temperature=0", *arguments) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serving(tmp_path_factory.mktemp("tiny"), Tiny(), "--system", SYSTEM)


@pytest.fixture(scope="module")
def markup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serving(tmp_path_factory.mktemp("markup"), Tiny(answer=MARKUP))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("endless")
    yield from serving(folder, Tiny(stop="", context=ENDLESS), "--api-key", "geheim")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from browsing(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def browser(running: Browser) -> Browser:
    return common_window(running)


def test_a_conversation(browser: Browser, server: Server, tmp_path: Path) -> None:
    opened(browser, server)
    assert browser.value("[document.title, document.querySelector('h1').textContent]") == ["tiny", "tiny"]
    assert ask(browser, "你好") == ["你好", ANSWER]
    assert ask(browser, "hello") == ["你好", ANSWER, "hello", ANSWER]
    system = {"role": "system", "content": SYSTEM}
    question, answer = {"role": "user", "content": "你好"}, {"role": "assistant", "content": ANSWER}
    assert conversations(browser) == [
        [system, question],
        [system, question, answer, {"role": "user", "content": "hello"}],
    ]
    assert browser.value("document.activeElement.id") == "message"
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_comes_from_outside(browser: Browser, server: Server) -> None:
    opened(browser, server)
    ask(browser, "hello")
    urls = [event["request"]["url"] for event in browser.happened("Network.requestWillBeSent")]
    assert len(urls) >= 3
    assert all(url.startswith((f"{server.url}/", "data:")) for url in urls)
    # The policy blocked nothing, and no script failed.
    assert [event["entry"] for event in browser.happened("Log.entryAdded") if event["entry"]["level"] == "error"] == []
    assert browser.happened("Runtime.exceptionThrown") == []


def test_the_answer_streams(browser: Browser, endless: Server) -> None:
    """And a server's key is asked for, Stop stops, and the next question is answered."""
    opened(browser, endless)
    assert browser.value("document.querySelector('#error').textContent") == "the API key is missing or wrong"
    browser.click("#key")
    browser.type("geheim")
    browser.press_enter()
    browser.wait_for("document.title === 'tiny'")
    browser.click("#message")
    browser.type("hello")
    browser.click("#send")
    browser.wait_for(f"({TURNS})[1]?.length > 20")
    assert browser.value(f"[{IDLE}, document.querySelector('#log').ariaBusy]") == [False, "true"]
    browser.click("#stop")
    browser.wait_for(IDLE)
    stopped = browser.value(TURNS)
    assert browser.value("document.querySelector('.assistant .note').textContent") == "Stopped."
    assert 20 <= len(stopped[1]) < ENDLESS  # JavaScript counts an emoji as two
    # A new chat ends the answer too, and forgets what was said.
    browser.type("hello")
    browser.press_enter()
    browser.wait_for(f"({TURNS})[3]?.length > 20")
    browser.click("#new")
    browser.wait_for(f"{IDLE} && !document.querySelector('.turn')")
    browser.type("again")
    browser.press_enter()
    browser.wait_for(f"({TURNS})[1]?.length > 20")
    browser.click("#stop")
    browser.wait_for(IDLE)
    # Nobody waits for the rest, so the server stops.
    assert [event["canceled"] for event in browser.wait_for_events("Network.loadingFailed", 3)] == [True] * 3
    said = conversations(browser)
    assert [len(messages) for messages in said] == [2, 4, 2]
    assert said[1][2]["content"] == stopped[1], "what was said before the stop is part of the conversation"


def test_what_is_said_is_text(browser: Browser, markup: Server) -> None:
    opened(browser, markup)
    script = "<script>document.title = 'taken'</script>"
    assert ask(browser, script) == [script, MARKUP]
    assert browser.value("document.querySelectorAll('#log img, #log script').length") == 0
    assert browser.value("document.title") == "tiny"


def test_the_policy_holds(browser: Browser, server: Server) -> None:
    """If something slipped through all the same: no markup from text, no request elsewhere, not even for a picture."""
    opened(browser, server)
    violated = """(async () => {
        const violated = new Set();
        document.addEventListener("securitypolicyviolation", (event) => violated.add(event.effectiveDirective));
        try { document.body.innerHTML = "<b>"; } catch {}
        try { await fetch("http://127.0.0.1:9/"); } catch {}
        const picture = new Image();
        document.body.append(picture);
        await new Promise((done) => { picture.onerror = done; picture.src = "http://127.0.0.1:9/"; });
        document.body.setAttribute("style", "display: none");
        await new Promise((done) => setTimeout(done, 50));
        return [...violated].sort();
    })()"""
    assert browser.value(violated) == ["connect-src", "img-src", "require-trusted-types-for", "style-src-attr"]
    assert browser.value("!!document.querySelector('form') && !document.querySelector('b')")


def test_enter_that_ends_a_composition_does_not_send(browser: Browser, server: Server) -> None:
    opened(browser, server)
    browser.click("#message")
    # Pinyin is being typed; Enter takes it as it is.
    browser.call("Input.imeSetComposition", text="nihao", selectionStart=5, selectionEnd=5)
    browser.press_enter()
    assert browser.value(TURNS) == []
    browser.type("nihao")
    browser.press_enter(code=229)  # how Safari tells of it, when the composition has ended already
    assert browser.value(TURNS) == []
    browser.value("document.querySelector('#message').value = ''")
    # A word is chosen.
    browser.call("Input.imeSetComposition", text="ni hao", selectionStart=6, selectionEnd=6)
    browser.type("你好")
    assert browser.value("document.querySelector('#message').value") == "你好"
    browser.press_enter(shift=True)
    browser.type("hello")
    assert browser.value(TURNS) == []
    browser.press_enter()
    browser.wait_for(IDLE)
    assert browser.value(TURNS) == ["你好\nhello", ANSWER]


def test_the_system_prompt(browser: Browser, server: Server) -> None:
    opened(browser, server)
    browser.click("#open-settings")
    assert browser.value("document.querySelector('#system').value") == SYSTEM
    browser.value("document.querySelector('#system').select()")
    browser.type("Sing.")
    browser.press("Escape")
    ask(browser, "hello")
    assert conversations(browser)[-1][0] == {"role": "system", "content": "Sing."}


def test_an_error_gives_the_question_back(browser: Browser, server: Server) -> None:
    opened(browser, server)
    long = "字" * 600
    assert ask(browser, long) == []
    assert "the context holds 512" in browser.value("document.querySelector('#error').textContent")
    assert browser.value("document.querySelector('#message').value") == long
    browser.value("document.querySelector('#message').value = ''")
    assert ask(browser, "hello") == ["hello", ANSWER]
    assert browser.value("document.querySelector('#error').textContent") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_and_dark_screens(browser: Browser, server: Server, scheme: str) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Emulation.setDeviceMetricsOverride", width=320, height=568, deviceScaleFactor=2, mobile=True)
    opened(browser, server)
    ask(browser, "hello" * 40)
    assert browser.value("document.documentElement.scrollWidth") == 320
    assert browser.value("document.documentElement.scrollHeight") == 568
    assert browser.value("document.querySelector('#log').scrollWidth") <= 320
    colours = browser.value(
        "['color', 'backgroundColor'].map((name) =>"
        " getComputedStyle(document.body)[name].match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0))"
    )
    assert (colours[0] < 150, colours[1] > 600) == ((scheme == "light",) * 2)


def test_names_for_screen_readers(browser: Browser, server: Server) -> None:
    opened(browser, server)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    names = {(node["role"]["value"], node["name"]["value"]) for node in tree if node.get("name")}
    assert {
        ("main", "Conversation"),
        ("textbox", "Message"),
        ("button", "Settings"),
        ("button", "Send"),
        ("button", "New chat"),
        ("log", "Conversation"),
        ("heading", "tiny"),
    } <= names


def test_the_key_guards_what_renders_but_not_the_page(endless: Server) -> None:
    key = {"authorization": "Bearer geheim"}
    for path, kind in {"/": "text/html", "/page/main.js": "text/javascript", "/page/style.css": "text/css"}.items():
        found = endless.request("GET", path)
        assert (found.status, found.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert found.headers["content-security-policy"] == POLICY
        assert found.headers["x-content-type-options"] == "nosniff"
    for path in ("/page/none.js", "/page/..%2fassets.py", "/page/assets.py", "/page/"):
        assert endless.request("GET", path).status == 404, path
    assert endless.request("POST", "/render", {"content": "*a*"}).status == 401
    assert endless.request("POST", "/render", {"content": "*a*"}, key).json == {
        "nodes": [["p", {}, [["em", {}, ["a"]]]]]
    }
    assert endless.request("POST", "/render", {"content": "a" * 65_537}, key).status == 413
    assert endless.request("POST", "/render", {"content": 1}, key).error["message"] == "content must be a valid string"


def test_the_files_stand_alone() -> None:
    """Without a browser: no address but the name of the SVG format, no inline style or script, nothing parses HTML."""
    for name, text in read_assets().items():
        assert set(re.findall(r"\b\w+://[^'\"\s]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|DOMParser|document\.write|\beval\b", text), name
        assert " style=" not in text, name
        assert text.count("\n") < 300, name
    page = read_assets()["index.html"]
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]
    assert "<style" not in page
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in POLICY


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of ``#rrggbb``."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(scheme: str) -> None:
    """At least 4.5 to 1 (WCAG AA), the colours of code too."""
    style, answer = (
        text.partition("@media (prefers-color-scheme: dark)")[2 * (scheme == "dark")].split("@media")[0]
        for text in (read_assets()["style.css"], read_assets()["answer.css"])
    )
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", style))
    code = re.findall(r"\.code \.(?:\w+|\w+, \.code \.\w+) \{ color: (#\w{6})", answer)
    assert len(code) == 8
    pairs = [("text", "page"), ("text", "card"), ("text", "mine"), ("text", "code"), ("on-accent", "accent")]
    pairs += [("quiet", name) for name in ("page", "card", "mine", "code")] + [("bad", "page"), ("accent", "card")]
    for front, back in [(colours[a], colours[b]) for a, b in pairs] + [(one, colours["code"]) for one in code]:
        low, high = sorted((luminance(front), luminance(back)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


def test_the_oldest_exchanges_are_left_out_when_the_context_is_full(browser: Browser, server: Server) -> None:
    """And the page says which, instead of a dead end."""
    opened(browser, server)
    long = "hello " * 40
    for _ in range(8):
        said = ask(browser, long)
    assert len(said) == 16
    assert browser.value("document.querySelector('#error').textContent") == ""
    assert browser.value("document.querySelectorAll('.left-out').length") == 1
    left = browser.value(
        "[...document.querySelector('.left-out').parentElement.children].filter((e) => !e.hidden)"
        ".findIndex((e) => e.className === 'left-out')"
    )
    assert left > 1
    assert len(conversations(browser)[-1]) < 16
    assert re.fullmatch(r"\d+ of 512 tokens", browser.value("document.querySelector('#used').textContent"))
    browser.value("document.querySelector('#new').click()")
    assert browser.value("document.querySelectorAll('.left-out, .turn').length") == 0
