"""ModelScope repositories, through the ``modelscope`` package (an optional extra).

The package resumes by range, also what a killed run left, and checks sizes and sha256 itself. It bears a failure of a
file a few times, however much came in between; here it is called again as long as each call brings something.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from quantkit.errors import HubError
from quantkit.hub.files import Kind, require_inside, small_files, weight_files
from quantkit.hub.outgoing import harmless_line
from quantkit.hub.patience import Patience
from quantkit.hub.source import HubId
from quantkit.system.progress import Reporter
from quantkit.system.shell import installation
from quantkit.system.units import size

PATIENCE = Patience()
# Errors of the package, or of a file, that another try does not change, by name.
_LASTING = frozenset({"NotExistError", "PermissionDeniedError", "AuthenticationError", "FileIntegrityError"})


def _bound_waits() -> None:
    """Bounds of the package, which it reads when it is imported: a silent server would cost six minutes, and nobody
    would be told. What the user has set stays."""
    for name, seconds in (
        ("MODELSCOPE_DOWNLOAD_TIMEOUT", PATIENCE.silence),
        ("MODELSCOPE_DOWNLOAD_LOW_SPEED_WINDOW_SECONDS", PATIENCE.window),
        ("MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS", PATIENCE.longest / 10),
    ):
        os.environ.setdefault(name, f"{seconds:.0f}")


def download(source: HubId, kind: Kind, reporter: Reporter) -> Path:
    """The snapshot's folder in modelscope's cache, with all files that are needed.

    Raises:
        HubError: the package is not installed, or the files cannot be downloaded.
    """
    _bound_waits()
    try:
        from modelscope.hub.api import HubApi
        from modelscope.hub.errors import HubError as ClientError
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError:
        raise HubError(f"{source}: needs the package modelscope", hint=installation("modelscope")) from None

    revision = source.revision or None

    def get(names: Sequence[str], advance: Callable[[int], None] = lambda amount: None) -> Path:
        arrived = _Arrived(advance)
        while True:
            before = arrived.nbytes
            try:
                return Path(
                    snapshot_download(
                        source.repo,
                        revision=revision,
                        allow_patterns=list(names),
                        progress_callbacks=[arrived.callback()],
                    )
                )
            except (ClientError, OSError) as error:
                if arrived.nbytes < before + PATIENCE.enough or not _may_pass(error):
                    raise
                name, cause = _cause(error)
                reporter.note(f"{name}: {harmless_line(cause)}; trying again")
                PATIENCE.sleep(PATIENCE.wait)

    try:
        listed = HubApi().get_model_files(source.repo, revision=revision, recursive=True)
        sizes = {str(file["Path"]): int(file["Size"] or 0) for file in listed}
        for name in sizes:
            require_inside(source, name)
        small = small_files(source, sizes, kind)
        weights = weight_files(source, sizes, kind, lambda name: get([name]) / name)
        # Only the configuration file shows where the folder is, and so which files are already there.
        folder = get(small[:1])
        missing = [name for name in (*small, *weights) if not _is_there(folder / name, sizes[name])]
        if missing:
            total = sum(sizes[name] for name in missing)
            reporter.note(f"downloading {source}: {len(missing)} files, {size(total)}")
            with reporter.phase(f"downloading {source.name}", total, "bytes") as advance:
                # Small files first: if the download is interrupted, no folder looks complete with half a tokenizer.
                for part in ([name for name in missing if name in small], [n for n in missing if n in weights]):
                    if part:
                        folder = get(part, advance)
        return folder
    except ConnectionError as error:
        try:
            folder = Path(snapshot_download(source.repo, revision=revision, local_files_only=True))
        except (ClientError, OSError, ValueError):
            raise HubError(
                f"{source}: the hub cannot be reached ({harmless_line(error)}), and its cache does not have the model",
                hint="check the network, or download the model another way and give its folder",
            ) from None
        reporter.note(f"{source}: the hub cannot be reached; using {folder} from the cache")
        return folder
    except (ClientError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        name, cause = _cause(error)
        hint = f"check the id at https://modelscope.cn/models/{source.repo}; private models need: modelscope login"
        if name and _may_pass(error):
            hint = "run the command again: what has arrived is kept"
        elif name and type(cause).__name__ == "FileIntegrityError":
            hint = "run the command again to download the file again"
        raise HubError(
            f"{source}: {f'{name} ' if name else ''}cannot be downloaded ({harmless_line(cause)})", hint=hint
        ) from None


def _cause(error: Exception) -> tuple[str, BaseException]:
    """The first file that could not be downloaded, with its error; "" and the error itself if it is of no file."""
    failed: dict[str, BaseException] = getattr(error, "failed_files", None) or {"": error}
    return next(iter(failed.items()))


def _may_pass(error: Exception) -> bool:
    name, cause = _cause(error)
    return bool(name) and not {kind.__name__ for kind in type(cause).__mro__} & _LASTING


def _is_there(path: Path, nbytes: int) -> bool:
    return path.is_file() and path.stat().st_size == nbytes


class _Arrived:
    """Counts what has arrived of several files, from several threads and in several calls: of a file that is reported
    anew, only what is more than before."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.nbytes = 0
        self._advance = advance
        self._files: dict[str, int] = {}
        self._lock = Lock()

    def reach(self, name: str, nbytes: int) -> None:
        """Report that so many bytes of a file are there."""
        with self._lock:
            new = nbytes - self._files.get(name, 0)
            if new <= 0:
                return
            self._files[name] = nbytes
            self.nbytes += new
        self._advance(new)

    def callback(self) -> type[Any]:
        """A class like ``modelscope.hub.callback.ProgressCallback``; one object is made per file."""
        reach = self.reach

        class Callback:
            def __init__(self, filename: str, file_size: int) -> None:
                self.filename, self.file_size, self._here = filename, file_size, 0

            def update(self, size: int) -> None:
                self._here += size
                reach(self.filename, self._here)

            def end(self) -> None:
                pass

        return Callback
