"""ModelScope repositories, through the ``modelscope`` package (an optional extra), which checks sha256 itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quantkit.errors import HubError
from quantkit.hub.files import Kind, small_files, weight_files
from quantkit.hub.source import HubId
from quantkit.system.progress import Reporter
from quantkit.system.shell import installation
from quantkit.system.units import size


def download(source: HubId, kind: Kind, reporter: Reporter) -> Path:
    """The snapshot's folder in modelscope's cache, with all files that are needed.

    Raises:
        HubError: the package is not installed, or the files cannot be downloaded.
    """
    try:
        from modelscope.hub.api import HubApi
        from modelscope.hub.errors import HubError as ClientError
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError:
        raise HubError(f"{source}: needs the package modelscope", hint=installation("modelscope")) from None

    revision = source.revision or None

    def get(names: Sequence[str], advance: Callable[[int], None] = lambda amount: None) -> Path:
        progress = [_callback(advance)]
        return Path(
            snapshot_download(source.repo, revision=revision, allow_patterns=list(names), progress_callbacks=progress)
        )

    try:
        listed = HubApi().get_model_files(source.repo, revision=revision, recursive=True)
        sizes = {str(file["Path"]): int(file["Size"] or 0) for file in listed}
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
                f"{source}: the hub cannot be reached ({_first_line(error)}), and its cache does not have the model",
                hint="check the network, or download the model another way and give its folder",
            ) from None
        reporter.note(f"{source}: the hub cannot be reached; using {folder} from the cache")
        return folder
    except (ClientError, OSError, ValueError) as error:
        raise HubError(
            f"{source}: cannot be downloaded ({_first_line(error)})",
            hint=f"check the id at https://modelscope.cn/models/{source.repo}; private models need: modelscope login",
        ) from None


def _is_there(path: Path, nbytes: int) -> bool:
    return path.is_file() and path.stat().st_size == nbytes


def _callback(advance: Callable[[int], None]) -> type[Any]:
    """A class like ``modelscope.hub.callback.ProgressCallback``; one object is made per file."""

    class Callback:
        def __init__(self, filename: str, file_size: int) -> None:
            self.filename, self.file_size = filename, file_size

        def update(self, size: int) -> None:
            advance(size)

        def end(self) -> None:
            pass

    return Callback


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
