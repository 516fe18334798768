"""Chromium without a window, told what to do over its own protocol (CDP) on two pipes: nothing to install beside it.

Messages are JSON, each ended by a NUL.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0  # seconds for anything; two busy cores take more than twenty to start a browser

_KEY_CODES = {"Backspace": 8, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40}
_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # it refuses to run as root with one; the only pages it opens are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--lang=en",
    "about:blank",
)


def find_browser() -> str | None:
    """The program, None if there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser refuses, or does not answer."""


class Browser:
    """A running Chromium with one tab."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._held = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Do *method* and return its result; what happens meanwhile is in ``events``."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._held:
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BrowserError("the browser does not answer")
            part = os.read(self._from, 1 << 16)
            if not part:
                raise BrowserError("the browser has ended")
            self._held += part
        message, _, self._held = self._held.partition(b"\0")
        return dict(json.loads(message))

    def open(self, url: str) -> None:
        """Load a page."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        assert self.wait_for_events("Page.loadEventFired", 1), f"{url} does not load"

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is; a promise is awaited."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise BrowserError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Its value, as soon as it is true."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := self.value(expression):
                return value
            time.sleep(0.02)
        raise BrowserError(f"never true: {expression}")

    def wait_for_events(self, method: str, count: int) -> list[dict[str, Any]]:
        """The first *count* events of a name since the page was opened, as soon as they are there."""
        deadline = time.monotonic() + PATIENCE
        while len(self.happened(method)) < count and time.monotonic() < deadline:
            self.value("0")
            time.sleep(0.02)
        return self.happened(method)[:count]

    def click(self, selector: str) -> None:
        """Click the middle of an element, as a mouse does."""
        box = self.value(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2, r.width * r.height]; })()"
        )
        assert box[2] > 0, f"{selector} is not to be seen"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Put text in where the cursor is, as an input method does."""
        self.call("Input.insertText", text=text)

    def press_enter(self, *, shift: bool = False, code: int = 13) -> None:
        """Press the Enter key; *code* is what browsers report for it."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def press(self, key: str, *, ctrl: bool = False, alt: bool = False, shift: bool = False) -> None:
        """Press a key that puts nothing in, such as ``Escape``, or one with modifiers."""
        code = _KEY_CODES.get(key) or ord(key.upper())
        held = {"key": key, "windowsVirtualKeyCode": code, "modifiers": alt | ctrl << 1 | shift << 3}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **held)
        self.call("Input.dispatchKeyEvent", type="keyUp", **held)

    def screenshot(self, path: Path) -> None:
        """Save what is to be seen, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def happened(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of a name since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]


@contextlib.contextmanager
def running_browser(program: str, profile: Path) -> Iterator[Browser]:
    """Start *program* with an empty profile, and end it.

    One that does not come up is started once more: on two busy cores it sometimes hangs.
    """
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(_started(program, profile))
        except BrowserError:
            browser = stack.enter_context(_started(program, profile.with_name(profile.name + "-again")))
        yield browser


@contextlib.contextmanager
def _started(program: str, profile: Path) -> Iterator[Browser]:
    (read, to_browser), (from_browser, write) = os.pipe(), os.pipe()
    # Chromium wants them as 3 and 4; copies far from there make that safe.
    high_read, high_write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (read, write))
    pid = os.posix_spawn(
        program,
        [program, f"--user-data-dir={profile}", *_FLAGS],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, high_read, 3),
            (os.POSIX_SPAWN_DUP2, high_write, 4),
            (os.POSIX_SPAWN_OPEN, 2, str(profile.with_suffix(".log")), os.O_CREAT | os.O_WRONLY, 0o600),
        ],
        setpgroup=0,
    )
    for fd in (read, write, high_read, high_write):
        os.close(fd)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(to_browser)
        os.close(from_browser)
