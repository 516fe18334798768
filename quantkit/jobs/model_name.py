"""The name of what is built, which names its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from quantkit.checkpoint.folder import require_folder
from quantkit.errors import QuantkitError
from quantkit.hub.source import Source, source_name
from quantkit.package.file_names import NOT_ON_WINDOWS

_NOT_IN_NAMES = r"/\\:*?\"<>|\x00-\x1f\ud800-\udfff"
_NAME = re.compile(rf"[^\s.{_NOT_IN_NAMES}-][^{_NOT_IN_NAMES}]*")
_LONGEST = 200  # bytes


def model_name(given: str, model: Source, adapters: Sequence[Source]) -> str:
    """The name that was given, else the names of model and adapters.

    Raises:
        QuantkitError: it cannot be part of a file's name on every system; or, where none was given, *model* is no
            model's folder, which is then why.
    """
    name = given or "-".join(map(source_name, (model, *adapters)))
    # surrogates stand for bytes of a folder's name that are not UTF-8
    short = len(name.encode(errors="replace")) <= _LONGEST
    if short and _NAME.fullmatch(name) and not NOT_ON_WINDOWS.fullmatch(name):
        return name
    if not given and isinstance(model, Path):
        require_folder(model)
    raise QuantkitError(
        f"name {name[:80]!r} cannot be part of a file name",
        hint=f"pass --name with letters, digits, - and _, of at most {_LONGEST} bytes",
    )
