"""What the page of ``quantkit serve`` keeps and undoes, in a real browser; the model says what it is told to say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import Tiny, write_tiny_gguf

from quantkit.errors import QuantkitError
from quantkit.run.transcript import load_conversation, save_conversation
from quantkit.serve.page.assets import read_assets
from tests.support.browser import Browser
from tests.support.chat_page import (
    ERROR,
    IDLE,
    STATUS,
    TURNS,
    ask,
    browsing,
    common_window,
    conversations,
    opened,
    reloaded,
    requests,
)
from tests.support.scripted import scripted
from tests.support.served import Server, running_server

MARKDOWN = "# Title\n\n```python\ndef f(x):\n    return x\n```\n\n| a |\n|---|\n| 1 |\n\n[link](https://example.org/)"
HOSTILE = (
    '<img src=x onerror="document.title = 1"> <script>document.title = 2</script> [x](javascript:document.title=3)'
    " ![x](http://127.0.0.1:9/x.png) <svg onload=alert(4)> &lt;script&gt;alert(5)&lt;/script&gt;"
)
LONG = "long"
ANSWERS = {
    "markdown": [("text", MARKDOWN)],
    "riddle": [("thought", "Hm <b>hm</b>."), ("text", "Nine.")],
    "nothing": [],
    LONG: [("text", "word ", 400_000)],  # minutes: it is stopped before its end, however late
}
CHATS = "[...document.querySelectorAll('.chat')].map((chat) => chat.textContent)"
EXPORTED = """(async () => {
    const { toFile } = await import('./page/transcript.js');
    const { chat } = await import('./page/chats.js');
    return toFile(chat.record, 'tiny');
})()"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tiny")
    path = write_tiny_gguf(folder / "tiny.gguf", Tiny())
    script = scripted(ANSWERS, pause=0.004)
    with running_server(folder / "log.txt", path, "--param", "top_k=7", script=script) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from browsing(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def browser(running: Browser, server: Server) -> Browser:
    """The browser with the page, as for the first time."""
    return opened(common_window(running), server)


def click(browser: Browser, selector: str, number: int = 0) -> None:
    browser.value(f"document.querySelectorAll({json.dumps(selector)})[{number}].click()")


def imported(browser: Browser, name: str, content: str) -> None:
    """Drop a file on the page."""
    browser.value(
        f"""(() => {{
            const transfer = new DataTransfer();
            transfer.items.add(new File([{json.dumps(content)}], {json.dumps(name)}));
            const event = new DragEvent('drop', {{ dataTransfer: transfer, bubbles: true, cancelable: true }});
            if (document.body.dispatchEvent(event)) throw new Error('the browser would open the file');
            document.querySelector('#status').textContent = document.querySelector('#error').textContent = '';
        }})()"""
    )
    browser.wait_for(f"{STATUS} || {ERROR}")


def test_an_answer_is_markdown_with_copy_buttons(browser: Browser) -> None:
    ask(browser, "markdown")
    found = "(selector) => document.querySelector('.assistant .said').querySelectorAll(selector).length"
    for selector in ("h1", ".code .keyword", "table td", "a[rel='noopener noreferrer'][href^='https:']"):
        assert browser.value(f"({found})({json.dumps(selector)})") == 1 + (selector == ".code .keyword"), selector
    assert browser.value("document.querySelector('.assistant .note').textContent") == "6 tokens, 40.0 tokens/s"
    assert browser.value("document.querySelector('#used').textContent") == "16 of 512 tokens"
    copied = """(() => {
        window.copies = [];
        Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => copies.push(text) } });
    })()"""
    browser.value(copied)
    for selector in (".code button", ".assistant .copy", ".user .copy"):
        click(browser, selector)
    browser.wait_for(f"copies.length === 3 && {STATUS} === 'Copied.'")
    assert browser.value("copies") == ["def f(x):\n    return x\n", MARKDOWN, "markdown"]


def test_thoughts_are_folded_and_sent_back(browser: Browser) -> None:
    ask(browser, "riddle")
    assert browser.value("document.querySelector('.thought').open") is False
    assert browser.value("document.querySelector('.thought div').textContent") == "Hm <b>hm</b>."
    ask(browser, "again")
    answer = {"role": "assistant", "content": "Nine.", "reasoning_content": "Hm <b>hm</b>."}
    assert conversations(browser)[-1][2] == answer


def test_what_is_hostile_stays_text(browser: Browser, server: Server) -> None:
    """From the model, as a title, from a file, and after a reload."""
    assert ask(browser, HOSTILE)[0] == HOSTILE
    ask(browser, "second")
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
    name = "<img src=x onerror=alert(1)>.json"
    imported(browser, name, json.dumps({"schema": 1, "model": HOSTILE, "messages": messages}))
    assert browser.value(STATUS) == f"“{name}” was imported."
    browser.value(
        f"(() => {{ const title = document.querySelector('#title'); title.value = {json.dumps(HOSTILE)};"
        "title.dispatchEvent(new Event('change')); })()"
    )
    for _ in range(2):
        browser.wait_for(IDLE)
        assert browser.value(CHATS)[0] == HOSTILE
        strange = (
            "document.querySelectorAll('img, svg, script:not([src]), .said [onerror], a[href^=javascript]').length"
        )
        assert browser.value(strange) == 0
        assert browser.value("document.title") == "tiny"
        urls = [event["request"]["url"] for event in browser.happened("Network.requestWillBeSent")]
        assert all(url.startswith((f"{server.url}/", "data:")) for url in urls)
        reloaded(browser, server)


def test_conversations_survive_a_reload(browser: Browser, server: Server) -> None:
    ask(browser, "first")
    browser.press("O", ctrl=True, shift=True)
    browser.wait_for("!document.querySelector('.turn')")
    ask(browser, "second")
    browser.type("a draft")
    reloaded(browser, server)
    browser.wait_for(IDLE)
    assert browser.value(CHATS) == ["second", "first"]
    assert browser.value(TURNS) == ["second", "second"]
    assert browser.value("document.querySelector('#message').value") == "a draft"
    browser.press("ArrowDown", alt=True)
    browser.wait_for(f"({TURNS})[0] === 'first'")
    browser.value("document.querySelector('#message').value = ''")
    ask(browser, "more")
    assert [message["content"] for message in conversations(browser)[-1]] == ["", "first", "first", "more"]
    browser.press("K", ctrl=True)
    browser.type("SECO")
    assert browser.value(CHATS) == ["second"]
    browser.type("x")
    assert browser.value("document.querySelector('#none').textContent") == "No conversation contains this."


def test_edit_regenerate_delete_and_undo(browser: Browser) -> None:
    ask(browser, "one")
    ask(browser, "two")
    browser.press("ArrowUp")
    assert browser.value("document.querySelector('#message').value") == "two"
    assert browser.value("document.querySelectorAll('.edited').length") == 1
    browser.press("Escape")
    assert browser.value("[document.querySelector('#message').value, document.querySelector('#editing').hidden]") == [
        "",
        True,
    ]
    click(browser, ".user .edit")
    browser.value("document.querySelector('#message').select()")
    assert ask(browser, "three") == ["three", "three"]
    assert conversations(browser)[-1][1:] == [{"role": "user", "content": "three"}]
    assert browser.value(STATUS) == "The question was replaced."
    click(browser, "#undo")
    browser.wait_for(f"({TURNS}).length === 4")
    click(browser, ".assistant .regenerate")
    browser.wait_for(f"{STATUS} === 'The answer was replaced.' && {IDLE}")
    assert browser.value(TURNS) == ["one", "one"]
    click(browser, "#undo")
    browser.wait_for(f"({TURNS}).length === 4")
    browser.value("document.querySelector('.user .delete').focus()")
    click(browser, ".user .delete")
    browser.wait_for(f"({TURNS}).length === 2")
    assert browser.value(TURNS) == ["two", "two"]
    assert browser.value("document.querySelector('#used').textContent") == ""
    assert browser.value("document.activeElement.id") == "undo"
    click(browser, "#undo")
    browser.wait_for(f"({TURNS}).length === 4")
    browser.press("Backspace", ctrl=True, shift=True)
    browser.wait_for(f"{STATUS} === '“one” was deleted.'")
    assert browser.value("document.querySelectorAll('.chat, .turn').length") == 0
    click(browser, "#undo")
    browser.wait_for(f"({TURNS}).length === 4 && ({CHATS}).length === 1")


def test_what_fails_brings_back_what_was_there(browser: Browser) -> None:
    ask(browser, "one")
    click(browser, ".user .edit")
    browser.value("document.querySelector('#message').select()")
    assert ask(browser, "nothing") == ["one", "one"]
    assert browser.value(ERROR) == "The model's answer was empty."
    assert browser.value("document.querySelector('#message').value") == "nothing"


def test_escape_stops_and_what_was_said_stays(browser: Browser, server: Server) -> None:
    """Even if the page is left while the answer comes."""
    browser.type(LONG)
    browser.press_enter()
    browser.wait_for(f"({TURNS})[1]?.length > 100")
    browser.press("Escape")
    browser.wait_for(IDLE)
    assert browser.value(STATUS) == "Stopped."
    first = browser.value(TURNS)
    assert 100 < len(first[1]) < 2_000_000
    browser.type(LONG)
    browser.press_enter()
    browser.wait_for(f"({TURNS})[3]?.length > 100")
    browser.wait_for("import('./page/store.js').then((store) => store.all()).then((all) => all[0].turns.length === 4)")
    reloaded(browser, server)
    browser.wait_for(IDLE)
    assert browser.value(TURNS)[:2] == first
    assert len(browser.value(TURNS)) == 4
    assert browser.value("document.querySelectorAll('.assistant .note')[1].textContent") == "Stopped."


def test_a_cut_answer_goes_on(browser: Browser, server: Server) -> None:
    """Where it ended, as one answer; the button is there for the last answer alone, and only while that is cut."""
    shown = "[...document.querySelectorAll('.continue')].map((button) => button.checkVisibility())"
    browser.type(LONG)
    browser.press_enter()
    browser.wait_for(f"({TURNS})[1]?.length > 100")
    browser.press("Escape")
    browser.wait_for(IDLE)
    assert browser.value(shown) == [True]
    first = browser.value("import('./page/chats.js').then(({ chat }) => chat.record.turns[1].content)")
    click(browser, ".continue")
    browser.wait_for(f"({TURNS})[1].length > {len(first) + 100}")
    browser.press("Escape")
    browser.wait_for(IDLE)
    request = requests(browser)[-1]
    assert request["continue_final_message"] is True
    assert request["messages"][1:] == [{"role": "user", "content": LONG}, {"role": "assistant", "content": first}]
    reloaded(browser, server)
    browser.wait_for(IDLE)
    longer = browser.value("import('./page/chats.js').then(({ chat }) => chat.record.turns[1].content)")
    # The scripted model begins again where a real one goes on.
    assert longer.startswith(first + first[:100])
    assert browser.value(shown) == [True]
    assert ask(browser, "one")[2:] == ["one", "one"]
    assert browser.value(shown) == [False, False]


def test_another_tab_sees_the_change(browser: Browser) -> None:
    ask(browser, "one")
    other = """(async () => {
        const { all, put } = await import('./page/store.js');
        const [record] = await all();
        record.turns.push({ role: 'user', content: 'elsewhere' }, { role: 'assistant', content: 'answered' });
        await put(record);
        new BroadcastChannel('quantkit').postMessage(record.id);
    })()"""
    browser.value(other)
    browser.wait_for(f"({TURNS})[3] === 'answered'")


def test_full_storage_is_told(browser: Browser, server: Server) -> None:
    browser.call("Storage.overrideQuotaForOrigin", origin=server.url, quotaSize=1)
    try:
        assert ask(browser, "one " * 2000)[1].startswith("one")
        browser.wait_for(f"{ERROR}.startsWith('The browser\\'s storage is full')")
        assert browser.value(TURNS)
    finally:
        browser.call("Storage.overrideQuotaForOrigin", origin=server.url)


def test_files_are_those_of_the_terminal(browser: Browser, tmp_path: Path) -> None:
    """Each side reads what the other writes, to the byte."""
    messages = [
        {"role": "system", "content": "你好"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "🙂", "reasoning_content": "Hm."},
    ]
    imported(browser, "x.json", json.dumps({"schema": 1, "model": "m", "messages": messages}))
    path = tmp_path / "exported.json"
    path.write_text(browser.value(EXPORTED), encoding="utf-8")
    loaded = load_conversation(path)
    assert loaded.messages == messages
    save_conversation(tmp_path / "saved.json", loaded, "tiny")
    assert path.read_bytes() == (tmp_path / "saved.json").read_bytes()
    ask(browser, "next")
    assert conversations(browser)[-1] == [*messages, {"role": "user", "content": "next"}]


def talk(*roles: str, **fields: Any) -> dict[str, Any]:
    return {"schema": 1, "messages": [{"role": role, "content": "x"} for role in roles], **fields}


def test_both_refuse_the_same_files(browser: Browser, tmp_path: Path) -> None:
    thought = {"reasoning_content": "x"}
    question, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
    files: list[Any] = [
        talk("user", "assistant"),
        talk("system", "user", "assistant"),
        talk("system"),
        talk(),
        talk("user"),
        talk("assistant"),
        talk("user", "user"),
        talk("user", "assistant", "system", "user"),
        talk("system", "system", "user", "assistant"),
        talk("user", "tool"),
        talk("user", "assistant", schema=2),
        talk("user", "assistant", schema="1"),
        talk("user", "assistant", extra=1),
        {"messages": []},
        {"schema": 1},
        {"schema": 1, "messages": {}},
        [],
        None,
        1,
        talk(messages=[question, {**answer, "name": "x"}]),
        talk(messages=[question, {**answer, "content": 1}]),
        talk(messages=[question, {**answer, "content": "\ud800"}]),
        talk(messages=[question, {**answer, **thought}]),
        talk(messages=[question, {**answer, "reasoning_content": ""}]),
        talk(messages=[question, {**answer, "reasoning_content": 1}]),
        talk(messages=[{**question, **thought}, answer]),
        talk(messages=[question, None]),
        talk(messages=[question, [answer]]),
        talk(messages=[{"role": "user"}, answer]),
    ]
    texts = [json.dumps(file) for file in files] + ["", "{", '{"schema": 1, "messages": [']
    mine, page = [], []
    for text in texts:
        path = tmp_path / "file.json"
        path.write_text(text, encoding="utf-8")
        try:
            load_conversation(path)
            mine.append(True)
        except QuantkitError:
            mine.append(False)
        read = f"import('./page/transcript.js').then((transcript) => transcript.fromFile({json.dumps(text)}, 'x'))"
        page.append(browser.value(f"{read}.then(() => true, (error) => error.constructor !== Error && String(error))"))
    assert page == mine
    assert True in mine


def test_a_file_that_is_not_utf8_is_refused_as_it_is_by_the_terminal(browser: Browser, tmp_path: Path) -> None:
    """Not read with other characters in the place of wrong bytes; a byte order mark is no character of the text."""
    text = json.dumps(talk("user", "assistant")).replace("x", "中")
    mine, page = [], []
    for encoding in ("utf-8", "utf-8-sig", "gbk", "utf-16"):
        path = tmp_path / "file.json"
        path.write_bytes(text.encode(encoding))
        mine.append(True)
        try:
            load_conversation(path)
        except QuantkitError:
            mine[-1] = False
        read = f"readFile(new File([new Uint8Array({[*path.read_bytes()]})], 'x'))"
        call = f"import('./page/transcript.js').then((transcript) => transcript.{read})"
        page.append(browser.value(f"{call}.then(() => true, (error) => error.constructor !== Error && String(error))"))
    assert page == mine == [True, True, False, False]


def test_a_schema_that_is_no_number_is_told_in_a_few_words(browser: Browser) -> None:
    """Also one that is nested deeper than the browser writes again."""
    nested = "'['.repeat(200000) + ']'.repeat(200000)"
    texts = (
        f"'{{\"messages\": [], \"schema\": ' + {nested} + '}}'",
        "'{\"messages\": [], \"schema\": \"' + 'x'.repeat(9999) + '\"}'",
    )
    for text in texts:
        read = f"import('./page/transcript.js').then((transcript) => transcript.fromFile({text}, 'x'))"
        assert len(browser.value(f"{read}.catch((error) => error.constructor === Error && error.message)")) < 200


def test_the_settings(browser: Browser, server: Server) -> None:
    click(browser, "#open-settings")
    for name, value in {"temperature": "0.8", "top_k": "7", "seed": "random", "max_tokens": "no limit"}.items():
        assert browser.value(f"document.getElementById('{name}').placeholder") == value
    assert browser.value("document.querySelector('#thinks').hidden") is True
    for name, value in (("temperature", "0.25"), ("seed", "3"), ("top_p", "7")):
        browser.value(f"document.getElementById('{name}').select()")
        browser.value(f"document.getElementById('{name}').focus()")
        browser.type(value)
        browser.value("document.activeElement.blur()")
    assert (
        browser.value("document.querySelector('#settings-error').textContent") == "Top-p: this value is not possible."
    )
    browser.press("Escape")
    ask(browser, "one")
    extra = {"stream", "stream_options", "truncation", "messages"}
    assert {name: value for name, value in requests(browser)[-1].items() if name not in extra} == {
        "temperature": 0.25,
        "seed": 3,
    }
    reloaded(browser, server)
    assert browser.value("document.querySelector('#open-settings').ariaLabel") == "Settings (changed)"
    browser.press(",", ctrl=True)
    click(browser, "#defaults")
    browser.press("Escape")
    ask(browser, "two")
    assert set(requests(browser)[-1]) == extra


def test_what_fails_a_request_is_said_by_the_server(browser: Browser) -> None:
    """A stored value that the server does not take, because it is another one now."""
    browser.value("localStorage.setItem('quantkit.parameters', JSON.stringify({ top_p: 7 }))")
    assert ask(browser, "one") == []
    assert "top_p" in browser.value(ERROR)


def strings() -> dict[str, dict[str, str]]:
    text = read_assets()["strings.js"]
    found: dict[str, dict[str, str]] = json.loads(text[text.index("{") :].rstrip().removesuffix(";"))
    return found


def test_each_language_says_the_same() -> None:
    """The same keys and values in each, all of them used, and none missing."""
    languages = strings()
    assert list(languages) == ["en", "zh"]
    assert list(languages["en"]) == list(languages["zh"])
    for key, text in languages["en"].items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", languages["zh"][key])), key
        assert text.strip(), key
    pages = read_assets()
    used = set(re.findall(r'data-(?:say|label|tip|placeholder)="(\w+)"', pages["index.html"]))
    code = "\n".join(text for name, text in pages.items() if name.endswith(".js") and name != "strings.js")
    said = set(re.findall(r'"(\w+)"', code)) | set(re.findall(r"^  (\w+): \{ m", code, re.MULTILINE))
    assert used <= set(languages["en"])
    assert set(re.findall(r'say\("(\w+)"', code)) <= set(languages["en"])
    assert set(languages["en"]) <= used | said


def test_chinese(browser: Browser, server: Server) -> None:
    agent = browser.value("navigator.userAgent")
    browser.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="fr,zh-CN,en")
    try:
        reloaded(browser, server)
        assert browser.value("document.documentElement.lang") == "zh-CN"
        assert browser.value("document.querySelector('#send').textContent") == "发送"
        click(browser, "#open-settings")
        ask(browser, "x")
        texts = browser.value("document.body.innerText")
        english = {text for text in strings()["en"].values() if len(text) > 6 and "{" not in text and text[:3] != "Top"}
        assert {text for text in english if text in texts} == set()
    finally:
        browser.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="en")


def test_keys_are_listed(browser: Browser) -> None:
    browser.press("/", ctrl=True)
    assert browser.value("document.querySelector('#shortcuts').open") is True
    assert browser.value("document.querySelectorAll('#keys dt').length") == 12
    browser.call("Emulation.setDeviceMetricsOverride", width=320, height=568, deviceScaleFactor=2, mobile=True)
    shortcuts = "document.querySelector('#shortcuts')"
    assert browser.value(f"{shortcuts}.scrollWidth - {shortcuts}.clientWidth") == 0
    browser.press("Escape")
    assert browser.value("document.querySelector('#shortcuts').open") is False


@pytest.mark.parametrize("phone", [False, True])
def test_everything_has_a_name_and_fits(browser: Browser, phone: bool) -> None:
    if phone:
        browser.call("Emulation.setDeviceMetricsOverride", width=320, height=568, deviceScaleFactor=2, mobile=True)
    ask(browser, "markdown")
    click(browser, "#open-settings")
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in tree if not node.get("ignored")]
    for role in ("button", "textbox", "spinbutton", "searchbox", "combobox"):
        assert [node for node in shown if node["role"]["value"] == role and not node["name"]["value"]] == [], role
    assert sum(node["role"]["value"] == "spinbutton" for node in shown) == 11
    wide = "[document.documentElement, ...document.querySelectorAll('dialog[open], #scroller')]"
    assert browser.value(f"{wide}.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.id)") == []
    browser.press("Escape")
    if phone:
        assert browser.value("document.querySelector('#search').checkVisibility()") is False
        browser.click("#open-chats")
        assert browser.value("document.querySelector('#search').checkVisibility()") is True
        browser.click(".chat")
        browser.wait_for("!document.querySelector('#search').checkVisibility()")
