"""Content over a bad network: the right bytes or one error, in bounded time, and what has arrived is continued."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfFileMetadata, close_session, constants
from huggingface_hub.errors import HfHubHTTPError

from quantkit.errors import HubError
from quantkit.hub import hub_file, huggingface
from quantkit.hub.blobs import DamagedError, bring, bytes_here, part_path
from quantkit.hub.hub_client import bounded_waits
from quantkit.hub.hub_errors import explained
from quantkit.hub.in_time import LateError, in_time
from quantkit.hub.patience import EnoughError, Patience, Tries, Trouble, asked_wait, duration
from quantkit.hub.remote_file import RemoteFile
from quantkit.hub.source import HubId
from quantkit.hub.transfer import Place, RefusedError, TransportError
from quantkit.system.progress import Reporter
from tests.support import hub_troubles as net
from tests.support.hub_client import REPOSITORY, hub_environment
from tests.support.hub_server import HubServer, Repo
from tests.support.patience import PATIENCE, wait_for

NAME, COMMIT = "model.safetensors", Repo(Path()).commit
DATA, OTHER = random.Random(1).randbytes(300_000), random.Random(2).randbytes(300_000)
FILE = RemoteFile(NAME, len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        close_session()
        yield running
    close_session()


class Line:
    """A repository with one file behind a bad line, and a cache."""

    def __init__(self, server: HubServer, root: Path) -> None:
        self.server, self.cache = server, root / "blobs"
        server.requests.clear()
        (root / "repo").mkdir()
        (root / "repo" / NAME).write_bytes(DATA)
        self.repo = server.repos["org/tiny"] = Repo(root / "repo")
        self.notes: list[str] = []
        self.slept: list[float] = []
        self.reached: list[int] = []
        self.patience = Patience(sleep=self.slept.append)

    def endure(self, kind: str) -> None:
        """Wait as long as a kind of trouble needs, and no longer."""
        ticks = count()
        if kind.startswith(("silent", "no answer", "slow headers")):
            self.patience = replace(self.patience, silence=0.2)
        if kind.startswith("slow headers"):
            self.patience = replace(self.patience, tries=2)
        if kind.startswith("a byte"):
            self.patience = replace(self.patience, clock=lambda: float(next(ticks)))

    def bring(self, trouble: net.Trouble | None = None, **headers: str) -> bytes:
        """Fetch the file; sleeps take no time."""
        self.repo.trouble = {NAME: trouble} if trouble is not None else {}
        place = Place(f"{self.server.endpoint}/org/tiny/cdn/{COMMIT}/{NAME}", headers)
        bring(
            FILE, self.cache, lambda: place, reach=self.reached.append, note=self.notes.append, patience=self.patience
        )
        return (self.cache / FILE.digest).read_bytes()

    def ranges(self) -> list[str | None]:
        return [request.range for request in self.server.asked_for(NAME)]


@pytest.fixture
def line(server: HubServer, tmp_path: Path) -> Line:
    return Line(server, tmp_path)


def half(then: Callable[[net.Asked], None]) -> net.Trouble:
    """The connection breaks in the middle; what follows is bad."""
    return net.first(net.times(1, net.Cuts(150_000, 150_000)), net.always(then))


once, always = (lambda trouble: net.times(1, trouble)), net.always
Make = Callable[[], net.Trouble]
RIGHT: dict[str, Make] = {
    "cut 30 times": lambda: net.times(30, net.Cuts(2_000, 15_000)),
    "silent in the middle": lambda: once(net.silent),
    "no answer": lambda: once(net.no_answer),
    "a byte now and then": lambda: net.times(2, net.trickle(0.0005)),
    "slow headers": lambda: once(net.slow_headers),
    "429": lambda: once(net.status(429)),
    "429, seconds": lambda: once(net.status(429, after="7")),
    "429, a date": lambda: once(net.status(429, after="Wed, 21 Oct 2015 07:28:00 GMT")),
    "429, nonsense": lambda: net.times(2, net.status(429, after="-5")),
    "503": lambda: once(net.status(503)),
    "500": lambda: once(net.status(500)),
    "no length": lambda: always(net.length(lambda nbytes: None)),
    "a length that is too short, once": lambda: once(net.length(lambda nbytes: str(nbytes // 2))),
    "all again": lambda: half(net.whole),
    "another range": lambda: half(net.other_range),
    "a part without a range": lambda: half(net.no_range),
    "no such range": lambda: net.first(
        net.times(1, net.Cuts(150_000, 150_000)), net.times(1, net.status(416)), lambda asked: False
    ),
    "compressed": lambda: always(net.zipped),
    "compressed in the middle": lambda: half(net.zipped),
    "another file in the middle": lambda: net.first(
        net.times(1, net.Cuts(150_000, 150_000)), net.times(1, net.of_other(OTHER))
    ),
    "a page, once": lambda: once(net.page),
}
WRONG: dict[str, tuple[Make, type[Exception], str]] = {
    "silent": (lambda: always(net.no_answer), EnoughError, "no answer for 0 s, 5 times in a row"),
    "a byte now and then": (lambda: always(net.trickle(0.0005)), EnoughError, "\\d bytes in 20 s, 5 times in a row"),
    "slow headers": (lambda: always(net.slow_headers), EnoughError, "answer has not begun after 1 s, 2 times in a row"),
    "429 for days": (lambda: always(net.status(429, after="999999")), EnoughError, "status 429, .* wait 12 days"),
    "429 for ever": (lambda: always(net.status(429, after="9" * 400)), EnoughError, "asks to wait"),
    "503": (lambda: always(net.status(503)), EnoughError, "HTTP status 503, 5 times in a row"),
    "short": (lambda: always(net.length(lambda nbytes: "150000")), EnoughError, "has 150.00 kB, and the file 300"),
    "long": (lambda: always(net.length(lambda nbytes: "301000", hang_up=False)), EnoughError, "has 301.00 kB"),
    "negative": (lambda: always(net.length(lambda nbytes: "-1")), EnoughError, "the connection failed"),
    "refused": (lambda: half(net.status(403)), RefusedError, "403"),
    "proxy": (lambda: always(net.status(407)), RefusedError, "407"),
    "no such range": (lambda: half(net.status(416)), RefusedError, "416"),
    "other bytes": (lambda: always(net.of_other(OTHER)), DamagedError, "^$"),
    "other bytes in the middle": (lambda: half(net.of_other(OTHER)), DamagedError, "^$"),
    "redirects in a circle": (
        lambda: always(net.redirect(lambda asked: asked.handler.path)), TransportError, "redirects",
    ),
    "endless": (lambda: always(net.endless), DamagedError, "^$"),
    "a page": (lambda: always(net.page), EnoughError, "is a web page in place of the file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_what_passes_ends_with_the_right_bytes(line: Line, kind: str) -> None:
    line.endure(kind)
    assert line.bring(RIGHT[kind]()) == DATA
    assert os.listdir(line.cache) == [FILE.digest]
    assert max(line.reached) == len(DATA)
    if kind == "429, seconds":
        assert line.slept == [7.0]
        assert line.notes == ["the server answered with HTTP status 429; trying again in 7 s"]
    if kind == "cut 30 times":
        assert len(line.ranges()) > 25
        assert None not in line.ranges()[1:]
        assert line.notes == []  # what goes on is not told


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_pass_ends_with_one_error(line: Line, kind: str) -> None:
    """With nothing wrong under a final name; the next run continues what is of use."""
    trouble, error, message = WRONG[kind]
    line.endure(kind)
    with pytest.raises(error, match=message):
        line.bring(trouble())
    assert len(line.ranges()) <= 24
    assert sum(line.slept) <= 300
    assert not (line.cache / FILE.digest).exists()
    assert max(line.reached) <= len(DATA)  # nothing is written beyond
    here = bytes_here(line.cache, FILE)
    assert here < len(DATA)
    assert len(os.listdir(line.cache)) == (here > 0)
    line.server.requests.clear()
    line.patience = Patience(sleep=line.slept.append)  # a busy machine may be silent for as long as the others wait
    assert line.bring() == DATA
    assert line.ranges() == [f"bytes={here}-" if here else None]


def test_the_hub_s_own_answers_begin_in_time(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of a file is asked for again, its list of files may be in the cache; what comes late is closed."""
    come, dropped = threading.Event(), threading.Event()

    def waits(*args: object, **options: object) -> None:
        come.wait(PATIENCE)

    monkeypatch.setattr(hub_file, "get_hf_file_metadata", waits)
    silent = replace(line.patience, silence=0.01, sleep=lambda seconds: None)
    with pytest.raises(HubError, match=f"{NAME}: the answer has not begun after 0 s, 5 times in a row"):
        hub_file.get_file(
            HubId("org/tiny"), COMMIT, FILE, advance=lambda n: None, note=line.notes.append, patience=silent
        )
    monkeypatch.setattr(huggingface, "HfApi", lambda: SimpleNamespace(model_info=waits))
    monkeypatch.setattr(huggingface, "PATIENCE", replace(silent, longest=0.01))
    with pytest.raises(TransportError, match="has not ended after 0 s"):
        huggingface._patient_listing(HubId("org/tiny"), Reporter())
    with pytest.raises(LateError):
        in_time(lambda: come.wait(PATIENCE), 0.01, drop=lambda value: dropped.set())
    come.set()
    assert dropped.wait(PATIENCE)


def test_what_has_arrived_is_checked_with_the_rest(line: Line) -> None:
    """A power cut, or a page that looked like the file: it is fetched again, once."""
    line.cache.mkdir()
    part_path(line.cache, FILE).write_bytes(bytes(100_000))
    assert line.bring() == DATA
    assert line.ranges() == ["bytes=100000-", None]
    assert "all of it is fetched again" in line.notes[0]


@pytest.mark.parametrize("nbytes", [len(DATA), len(DATA) + 5])
def test_a_part_that_is_whole_or_too_long(line: Line, nbytes: int) -> None:
    line.cache.mkdir()
    part_path(line.cache, FILE).write_bytes((DATA + b"12345")[:nbytes])
    assert line.bring() == DATA
    assert line.ranges() == ([] if nbytes == len(DATA) else [None])


def test_where_nobody_can_be_kept_out_each_has_its_own_part(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.hub.blobs.lock_folder", lambda *args, **options: None)
    with pytest.raises(RefusedError):
        line.bring(half(net.status(403)))
    assert os.listdir(line.cache) == []
    part_path(line.cache, FILE).touch()  # of another process
    assert line.bring() == DATA


def test_the_token_goes_to_the_hub_only(line: Line) -> None:
    token = "Bearer hf_secret"
    away = net.redirect(lambda asked: line.server.endpoint.replace("127.0.0.1", "localhost") + asked.handler.path)
    assert line.bring(once(away), Authorization=token) == DATA
    assert [one.token for one in line.server.asked_for(NAME)] == [token, ""]
    for location, kept in (("https://cdn.example/x", False), ("https://huggingface.co/x", True), ("http://a/x", False)):
        metadata = HfFileMetadata(commit_hash=COMMIT, etag="e", location=location, size=1, xet_file_data=None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hub_file, "build_hf_headers", lambda: {"Authorization": token, "user-agent": "x"})
            assert ("Authorization" in hub_file._place("https://a/x", metadata).headers) == kept


def test_xet_that_fails_is_replaced(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said; a full disk is not taken for that."""
    told: list[str] = []
    progress = hub_file.FileProgress(1, lambda amount: None)

    def fails(error: Exception) -> None:
        def download(*args: object, **options: object) -> str:
            raise error

        monkeypatch.setattr(hub_file, "hf_hub_download", download)

    fails(RuntimeError("CAS: no route?X-Sig=secret"))
    assert hub_file._by_xet(HubId("org/tiny"), COMMIT, FILE, progress, told.append) is None
    assert told == ["cannot be fetched by Xet (CAS: no route?X-Sig=secret); fetched over plain HTTP"]
    fails(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        hub_file._by_xet(HubId("org/tiny"), COMMIT, FILE, progress, told.append)


# How long


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"Retry-After": "Tue, 01 Jan 2030 00:01:30 GMT"}, 90.0),
        ({"Retry-After": "Mon, 31 Dec 2029 00:00:00 GMT"}, 0.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=3;t=55'}, None),
        *(({"Retry-After": text}, None) for text in ("-5", "soon", "", "1.5", "٣", "Tue, 99 Jan 2030 00:01:30 GMT")),
        ({}, None),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, lambda: datetime(2030, 1, 1, tzinfo=UTC)) == seconds


def test_waits_grow_and_end() -> None:
    slept: list[float] = []
    notes: list[str] = []
    tries = Tries(Patience(sleep=slept.append), notes.append)
    for progress in (True, False, False, True, False, False, False, False):
        tries.failed(Trouble("x"), progress=progress)
    assert slept == [0.2, 1, 2, 0.2, 1, 2, 4, 8]
    assert notes == ["x; trying again in 2 s", *(f"x; trying again in {seconds} s" for seconds in (2, 4, 8))]
    with pytest.raises(EnoughError, match="x, 5 times in a row"):
        tries.failed(Trouble("x"))
    tries = Tries(Patience(sleep=slept.append), notes.append)
    tries.failed(Trouble("x", after=200))
    with pytest.raises(EnoughError, match="x, and asks to wait 3 minutes") as caught:
        tries.failed(Trouble("x", after=200))
    assert caught.value.asked == 200
    assert [duration(seconds) for seconds in (0.4, 90, 150, 10_000, 999_999)] == [
        *("0 s", "90 s", "2 minutes", "3 hours", "12 days"),
    ]


def test_the_client_does_not_sleep_for_days(line: Line) -> None:
    from huggingface_hub import get_session

    line.repo.trouble = {NAME: always(net.status(429, after="999999"))}
    url = f"{line.server.endpoint}/org/tiny/cdn/{COMMIT}/{NAME}"
    with bounded_waits():
        assert "Retry-After" not in get_session().get(url).headers
    assert get_session().get(url).headers["Retry-After"] == "999999"


# The whole way


def test_a_killed_download_is_continued(server: HubServer, line: Line, tmp_path: Path) -> None:
    (line.repo.folder / "config.json").write_bytes(b"{}")
    line.repo.trouble = {NAME: net.times(1, net.silent)}
    words = [sys.executable, "-m", "tests.support.hub_client", "org/tiny", "model"]
    environment = hub_environment(server.endpoint, tmp_path / "home", HF_HUB_DISABLE_SYMLINKS="1")
    killed = subprocess.Popen(words, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    home = tmp_path / "home"
    wait_for(lambda: any(path.stat().st_size == len(DATA) // 2 for path in home.rglob("*.incomplete")), killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = subprocess.run(
        words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert line.ranges()[-2:] == [None, f"bytes={len(DATA) // 2}-"]
    (file,) = (tmp_path / "home").rglob(NAME)
    assert str(file.parent) in done.stdout
    assert file.read_bytes() == DATA
    assert list((tmp_path / "home").rglob("blobs/*")) == []  # without links nothing is there twice


# The list of files


def answered(status: int, **headers: str) -> HfHubHTTPError:
    response = SimpleNamespace(status_code=status, headers=headers, request=None)
    return HfHubHTTPError(f"HTTP {status}", response=response)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answers", "expected", "slept"),
    [
        ([answered(429, **{"Retry-After": "9"}), answered(503), ("c", {})], ("c", {}), [9.0, 2.0]),
        ([answered(429)] * 3, EnoughError, [1.0, 2.0]),
        ([answered(429, **{"Retry-After": "999999"})], EnoughError, []),
        ([answered(503)] * 3, HfHubHTTPError, [1.0, 2.0]),  # the cache may have it
        ([answered(407)], HfHubHTTPError, []),
        ([ValueError("Expecting value: line 1 column 1 (char 0)")], HubError, []),
        ([TypeError("must be a mapping, not list")], HubError, []),
    ],
)
def test_a_hub_that_is_busy_or_is_none(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], expected: Any, slept: list[float]
) -> None:
    waits: list[float] = []
    left = list(answers)

    def listing(source: HubId) -> Any:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(huggingface, "listing", listing)
    monkeypatch.setattr(huggingface, "PATIENCE", Patience(sleep=waits.append))
    reporter = Reporter()
    if isinstance(expected, tuple):
        assert huggingface._patient_listing(HubId("org/tiny"), reporter) == expected
        assert reporter.notes[0] == "org/tiny: the server answered with HTTP status 429; trying again in 9 s"
    else:
        with pytest.raises(expected):
            huggingface._patient_listing(HubId("org/tiny"), reporter)
    assert (waits, left) == (slept, [])


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (EnoughError("busy, and asks to wait 12 days", asked=999_999), "a.bin: busy", "in 12 days, or after hf auth"),
        (EnoughError("no answer, 5 times in a row"), "a.bin: no answer", "what has arrived is kept"),
        (RefusedError(403), "HTTP status 403", "a token that may read org/tiny"),
        (RefusedError(407), "HTTP status 407", "set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT"),
        (answered(407), "HTTP status 407", "set HTTPS_PROXY"),
        (DamagedError(), "a.bin was damaged", "download the file again"),
        (OSError(122, "Disk quota exceeded"), "is full", "HF_HOME"),
    ],
)
def test_errors_say_what_to_do(error: Exception, message: str, hint: str) -> None:
    with pytest.raises(HubError, match=message) as caught, explained(HubId("org/tiny"), replace(FILE, name="a.bin")):
        raise error
    assert hint in caught.value.hint
