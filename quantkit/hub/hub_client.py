"""Manners of the hub's client: it is quiet, its progress is ours, and a server does not make it sleep for days."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.utils import logging as client_log
from huggingface_hub.utils.tqdm import tqdm as client_tqdm

from quantkit.hub.patience import asked_wait
from quantkit.hub.remote_file import FileProgress

# The client sleeps, and says nothing, as long as an answer asks it to, up to five times.
_MOST_ASKED = 30.0


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off the client's own warnings: anything important is raised as an error."""
    before = client_log.get_verbosity()
    client_log.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        client_log.set_verbosity(before)


@contextmanager
def bounded_waits() -> Iterator[None]:
    """The client does not see a request to wait for longer than it should: then it waits as long as it thinks fit."""
    hooks = get_session().event_hooks["response"]
    hooks.append(_forget_long_waits)
    try:
        yield
    finally:
        with suppress(ValueError):
            hooks.remove(_forget_long_waits)


def _forget_long_waits(response: Any) -> None:
    if (asked_wait(response.headers) or 0.0) > _MOST_ASKED:
        for name in ("Retry-After", "RateLimit"):
            response.headers.pop(name, None)


class Silent(client_tqdm):
    """A progress bar that is not drawn."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


def bar_class(progress: FileProgress) -> type[Silent]:
    """A class of progress bars for the client, which report to *progress*."""

    class Bar(Silent):
        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            progress.reach(self.n)

    return Bar
