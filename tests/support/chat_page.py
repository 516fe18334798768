"""The page of ``quantkit serve`` in a real browser, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import PROGRAMS, Browser, find_browser, running_browser
from tests.support.served import Server

IDLE = "!document.querySelector('#send').hidden && !document.querySelector('.turn.raw')"
"""Whether no answer is coming, and all are rendered."""

TURNS = "[...document.querySelectorAll('.turn .said')].map((said) => said.textContent)"
"""All that was said."""

ERROR = "document.querySelector('#error').textContent"
STATUS = "document.querySelector('#status').textContent"

_READY = f"document.title !== 'quantkit' && document.querySelector('#title').value || {ERROR}"


def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile; the test is skipped where there is none."""
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser here (none of {', '.join(PROGRAMS)}): install Debian's package chromium")
    with running_browser(program, folder / "profile") as browser:
        yield browser


def common_window(browser: Browser) -> Browser:
    """Give the browser a window of common size."""
    browser.call("Emulation.setDeviceMetricsOverride", width=900, height=640, deviceScaleFactor=1, mobile=False)
    return browser


def opened(browser: Browser, server: Server) -> Browser:
    """Open the page as for the first time."""
    browser.call("Storage.clearDataForOrigin", origin=server.url, storageTypes="all")
    browser.open(f"{server.url}/")
    browser.value("sessionStorage.clear()")
    return reloaded(browser, server)


def reloaded(browser: Browser, server: Server) -> Browser:
    """Open the page again, in the same tab."""
    browser.open(f"{server.url}/")
    browser.wait_for(_READY)
    return browser


def ask(browser: Browser, text: str) -> list[str]:
    """Type a question, press Enter and wait for the end of the answer; all that was said."""
    browser.value("document.querySelector('#message').focus()")
    browser.type(text)
    browser.press_enter()
    browser.wait_for(IDLE)
    return list(browser.value(TURNS))


def requests(browser: Browser, path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    """The bodies of the requests that the page has sent since it was opened."""
    sent = [event["request"] for event in browser.happened("Network.requestWillBeSent")]
    return [json.loads(one["postData"]) for one in sent if one["method"] == "POST" and one["url"].endswith(path)]


def conversations(browser: Browser) -> list[list[dict[str, str]]]:
    """The messages of those requests."""
    return [request["messages"] for request in requests(browser)]
