"""One file over HTTP, whatever a network does in between: what has arrived stays, and the rest is asked for by range.

Nothing that an answer says of itself is trusted but what fits the file that is wanted: its size, and where a range
begins. The hash of the whole decides; that is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library

from quantkit.files.fileio import write_at
from quantkit.hub.in_time import LateError, in_time
from quantkit.hub.outgoing import harmless_line
from quantkit.hub.patience import PASSING, Pace, Patience, Tries, Trouble, asked_wait, duration
from quantkit.system.units import size

_T = TypeVar("_T")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Errors of the HTTP library that do not pass, by name, because the library is the hub client's affair.
_LASTING = frozenset({"TooManyRedirects", "UnsupportedProtocol", "ProxyError", "InvalidURL"})
_TIMEOUTS = frozenset({"ReadTimeout", "ConnectTimeout", "WriteTimeout", "PoolTimeout"})


@dataclass(frozen=True)
class Place:
    """Where content is: its address, and the headers to send there."""

    url: str
    headers: Mapping[str, str]


class RefusedError(Exception):
    """The server refuses the content, and would refuse it again."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


@dataclass(frozen=True)
class Received:
    """How a file came in: whether in one piece, from one answer that nothing had come before."""

    whole: bool


def receive(
    fd: int,
    begun: int,
    nbytes: int,
    locate: Callable[[], Place],
    *,
    reach: Callable[[int], None],
    note: Callable[[str], None],
    patience: Patience,
) -> Received:
    """Receive the rest of a file.

    Args:
        fd: the file, open for writing.
        begun: bytes of it that are there, from its beginning.
        nbytes: its size.
        locate: says where it is; asked before each connection, because addresses expire.
        reach: told how many bytes are there.
        note: told why it waits.
        patience: the bounds.

    Raises:
        EnoughError: the network has failed too often.
        RefusedError: the server refuses.
        TransportError: what does not pass: a proxy that wants a password, redirects in a circle.
        OSError: the disk is full or has an error.
    """
    tries = Tries(patience, note)
    at, connections, ranges = begun, 0, True
    reach(at)
    while at < nbytes:
        start = at if ranges else 0
        reached = start

        def arrived(end: int) -> None:
            nonlocal reached
            reached = end
            reach(end)

        connections += 1
        try:
            _connect(fd, start, nbytes, locate, arrived, patience)
            at = max(at, reached)
        except Trouble as trouble:
            new, missing = reached - at, nbytes - at
            at, ranges = max(at, reached), ranges and trouble.ranges
            tries.failed(trouble, progress=new > 0 and new >= min(patience.enough, missing // 2))
    return Received(whole=begun == 0 and connections <= 1)


def _connect(
    fd: int, start: int, nbytes: int, locate: Callable[[], Place], arrived: Callable[[int], None], patience: Patience
) -> None:
    """Write what one connection brings.

    Raises:
        Trouble: it broke off before the end, or did not begin.
    """
    try:
        place = locate()
        headers = {**place.headers, "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with closing(_answer(place.url, headers, patience)) as response:
            offset, end = _part(response, start, nbytes)
            pace = Pace(patience)
            for data in response.iter_bytes():
                piece = memoryview(data)[: end - offset]
                write_at(fd, piece, offset)
                offset += len(piece)
                arrived(offset)
                if offset == nbytes:
                    return
                pace.add(len(piece))
            raise Trouble("the answer ended too early")
    except TransportError as error:
        raise passing(error, patience) from None


def _answer(url: str, headers: Mapping[str, str], patience: Patience) -> Any:
    """An answer, of which only the headers are there."""
    session = get_session()
    request = session.build_request("GET", url, headers=headers, timeout=patience.silence)
    return begun(
        lambda: session.send(request, stream=True, follow_redirects=True),
        patience,
        drop=lambda response: response.close(),
    )


def begun(call: Callable[[], _T], patience: Patience, *, drop: Callable[[_T], object] = lambda value: None) -> _T:
    """The value of a call that waits for headers.

    Raises:
        Trouble: they have not ended in time.
        Exception: what the call raises.
    """
    try:
        return in_time(call, patience.answer, drop=drop)
    except LateError:
        raise Trouble(f"the answer has not begun after {duration(patience.answer)}") from None


def passing(error: Exception, patience: Patience) -> Exception:
    """An error of the HTTP library or the hub client as a Trouble, or as it is: it does not pass, or is one already."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, Trouble):
        return error
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return _status(status, error.response.headers) if status in PASSING else error
    if names & _LASTING or "CERTIFICATE_VERIFY_FAILED" in str(error):
        return error
    if names & _TIMEOUTS:
        return Trouble(f"no answer for {duration(patience.silence)}")
    return Trouble(f"the connection failed ({harmless_line(error)})")


def _status(status: int, headers: Mapping[str, str]) -> Trouble:
    return Trouble(f"the server answered with HTTP status {status}", after=asked_wait(headers))


def _part(response: Any, start: int, nbytes: int) -> tuple[int, int]:
    """The part of the file that an answer has: where it begins and ends.

    Raises:
        Trouble: it is no part of this file that is of use.
        RefusedError: the server refuses.
    """
    status, headers = response.status_code, response.headers
    if status in PASSING:
        raise _status(status, headers)
    if status == 416 and start:
        raise Trouble("the server has no rest of the file (HTTP status 416)", ranges=False)
    if status not in (200, 206):
        raise RefusedError(status)
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise Trouble("the answer is a web page in place of the file")
    if status == 206 and (start or "Content-Range" in headers):
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        fits = found is not None and int(found[1]) == start and found[3] in ("*", str(nbytes))
        if found is None or not fits or "Content-Encoding" in headers:
            raise Trouble("the answer is another part of the file than was asked for", ranges=False)
        return start, min(int(found[2]) + 1, nbytes)
    announced = headers.get("Content-Length", "")
    if "Content-Encoding" not in headers and announced and announced != str(nbytes):
        raise Trouble(f"the answer has {size(int(announced))}, and the file {size(nbytes)}")
    return 0, nbytes
