"""How long a download bears a bad network: what is tried again, after how long, and when it is enough.

Every wait has a bound. A connection that gives nothing for :attr:`Patience.silence` seconds, has not begun to answer
after :attr:`Patience.answer`, or brings less than :attr:`Patience.least` bytes in :attr:`Patience.window`, is given up
and begun anew; a download ends after
:attr:`Patience.tries` connections in a row that brought it no further, or if it would wait longer than
:attr:`Patience.longest` seconds for the next ones together.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Statuses that pass: too slow, too early, too many requests, and servers in trouble.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOST_DOUBLINGS = 4
# A wait that a person notices is told.
_NOTICED_SECONDS = 2.0
_RATE_LIMIT = re.compile(r"\br\s*=\s*0\b.*?\bt\s*=\s*(\d+)")


@dataclass(frozen=True)
class Patience:
    """Bounds, in seconds and bytes.

    Attributes:
        silence: for a connection and for each answer or piece of one.
        window, least: a connection that brings fewer bytes in this time stands still.
        tries: connections in a row that bring nothing new.
        wait: before the second of them, doubled for each further one; a fifth of it after one that did bring something.
        longest: all waits in a row together, also those that a server asks for.
        enough: this many new bytes, or half of what is missing, are progress.
        sleep, clock: for tests.
    """

    silence: float = 10.0
    window: float = 20.0
    least: int = 20_000
    tries: int = 5
    wait: float = 1.0
    longest: float = 300.0
    enough: int = 1000
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @property
    def answer(self) -> float:
        """Seconds from a request to the end of the answer's headers, whatever comes in between: also redirects."""
        return 3 * self.silence


class Trouble(Exception):
    """Something that may pass.

    Attributes:
        after: seconds that the server asks to wait; None if it does not say.
        ranges: whether asking for the rest, from where it broke, is worth another try.
    """

    def __init__(self, reason: str, *, after: float | None = None, ranges: bool = True) -> None:
        super().__init__(reason)
        self.after, self.ranges = after, ranges


class EnoughError(Exception):
    """It is tried no more; the text says why.

    Attributes:
        asked: seconds that the server asked to wait, if that was too long.
    """

    def __init__(self, reason: str, *, asked: float | None = None) -> None:
        super().__init__(reason)
        self.asked = asked


class Tries:
    """Waits after each failure, or says that it is enough."""

    def __init__(self, patience: Patience, note: Callable[[str], None]) -> None:
        """Begin.

        Args:
            patience: the bounds.
            note: told why it waits, and how long.
        """
        self._patience, self._note = patience, note
        self._row, self._waited = 0, 0.0

    def failed(self, trouble: Trouble, *, progress: bool = False) -> None:
        """Wait until it is time to try again.

        Args:
            trouble: what went wrong.
            progress: it did bring something, so that what failed before does not count any more.

        Raises:
            EnoughError: it has failed too often, or would wait too long.
        """
        if progress:
            self._row, self._waited = 0, 0.0
            wait = self._patience.wait / 5
        else:
            self._row += 1
            wait = self._patience.wait * 2 ** min(self._row - 1, _MOST_DOUBLINGS)
        wait = wait if trouble.after is None else trouble.after
        if trouble.after is not None and self._waited + wait > self._patience.longest:
            raise EnoughError(f"{trouble}, and asks to wait {duration(wait)}", asked=wait)
        if self._row >= self._patience.tries or self._waited + wait > self._patience.longest:
            raise EnoughError(f"{trouble}, {self._row} times in a row")
        if wait >= _NOTICED_SECONDS:
            self._note(f"{trouble}; trying again in {duration(wait)}")
        self._patience.sleep(wait)
        self._waited += wait


class Pace:
    """Whether a connection brings anything."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._begun, self._nbytes = patience.clock(), 0

    def add(self, nbytes: int) -> None:
        """Count bytes that came in.

        Raises:
            Trouble: there were too few of them for too long.
        """
        self._nbytes += nbytes
        if (now := self._patience.clock()) - self._begun < self._patience.window:
            return
        if self._nbytes < self._patience.least:
            raise Trouble(f"the connection has brought {self._nbytes} bytes in {duration(now - self._begun)}")
        self._begun, self._nbytes = now, 0


def asked_wait(headers: Mapping[str, str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Seconds that a server asks to wait, by ``Retry-After`` (RFC 9110: seconds, or a date) or ``RateLimit``.

    Args:
        headers: of the answer; names in any case.
        now: the time of day.

    Returns:
        None if it does not say, or says no time.
    """
    named = {name.lower(): value.strip() for name, value in headers.items()}
    after = named.get("retry-after", "")
    if after.isascii() and after.isdigit():
        return float(after[:18])
    try:
        return max(0.0, (parsedate_to_datetime(after) - now()).total_seconds())
    except (TypeError, ValueError, OverflowError):  # no date, a date without a zone, or one out of range
        pass
    limit = _RATE_LIMIT.search(named.get("ratelimit", ""))
    return float(limit[1][:18]) if limit else None


def duration(seconds: float) -> str:
    """Seconds for people: ``4 s``, ``5 minutes``, ``3 hours``, ``11 days``."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
