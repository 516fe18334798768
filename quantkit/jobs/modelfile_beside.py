"""Notes on a Modelfile that lies beside a checkpoint or an adapter: trainers write one, and a build makes its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.hub.source import source_name
from quantkit.ollama.read_modelfile import read_modelfile
from quantkit.package.spec import PackageSpec
from quantkit.system.shell import command

_NAME = "Modelfile"
_LONGEST = 200


def modelfile_notes(folders: Sequence[Path], spec: PackageSpec) -> list[str]:
    """A note for each Modelfile whose system prompt or parameters the package does not have.

    Args:
        folders: of the model and the adapters.
        spec: the package.
    """
    notes = []
    for folder in folders:
        path = folder / _NAME
        if not path.is_file():
            continue
        name = f"{source_name(folder)}/{_NAME}"
        try:
            commands = read_modelfile(path)
        except QuantkitError as error:
            notes.append(f"{name}: not used, and cannot be read ({str(error).partition(': ')[2] or error})")
            continue
        system = next((one.value for one in reversed(commands) if one.keyword == "SYSTEM" and one.value), None)
        have = {*spec.parameters, ("num_ctx", str(spec.num_ctx)), *(("stop", stop) for stop in spec.stops)}
        parameters = [(one.key, one.value) for one in commands if one.keyword == "PARAMETER"]
        options = [] if system in (None, spec.system_text) else ["--system", str(system)]
        options += [
            word for key, value in parameters if (key, value) not in have for word in ("--param", f"{key}={value}")
        ]
        if not options:
            continue
        shown = command(*options)
        notes.append(
            f"{name}: its SYSTEM and PARAMETER lines are not used; to have them, pass "
            + (shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}...")
        )
    return notes
