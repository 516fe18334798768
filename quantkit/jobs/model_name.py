"""The name of what is built, which names its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from quantkit.checkpoint.folder import require_folder
from quantkit.errors import QuantkitError
from quantkit.hub.source import Source, source_name

_NOT_IN_NAMES = r"/\\:*?\"<>|\x00-\x1f\ud800-\udfff"
_NAME = re.compile(rf"[^\s.{_NOT_IN_NAMES}-][^{_NOT_IN_NAMES}]*")
_LONGEST = 200  # bytes
# Devices of Windows, whatever the suffix; and it leaves out a dot or a blank at the end of a folder's name.
_NOT_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*[. ]", re.IGNORECASE | re.DOTALL)


def model_name(given: str, model: Source, adapters: Sequence[Source]) -> str:
    """The name that was given, else the names of model and adapters.

    Raises:
        QuantkitError: it cannot be part of a file's name on every system; or, where none was given, *model* is no
            model's folder, which is then why.
    """
    name = given or "-".join(map(source_name, (model, *adapters)))
    # surrogates stand for bytes of a folder's name that are not UTF-8
    short = len(name.encode(errors="replace")) <= _LONGEST
    if short and _NAME.fullmatch(name) and not _NOT_ON_WINDOWS.fullmatch(name):
        return name
    if not given and isinstance(model, Path):
        require_folder(model)
    raise QuantkitError(
        f"name {name[:80]!r} cannot be part of a file name",
        hint=f"pass --name with letters, digits, - and _, of at most {_LONGEST} bytes",
    )
