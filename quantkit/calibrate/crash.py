"""What is said when llama.cpp ends the process that computes importances."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.system.child_process import ChildError
from quantkit.system.shell import command


def calibration_crash(gguf: Path, error: ChildError) -> QuantkitError:
    """How the process ended, and in which call."""
    return QuantkitError(
        f"{gguf}: llama.cpp ended with {error.how} while it computed importances"
        + (f", in {error.call}" if error.call else ""),
        hint=error.hint(f"check the file: {command('quantkit', 'smoke', gguf)}"),
    )
