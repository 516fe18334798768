"""Publishes several files again and again, each time killed at another of its steps, and lets the next run go on.

Run as ``python -m tests.support.killed_renames FOLDER``; prints a JSON list of what is wrong. A process of its own,
because it forks: nothing is cleaned up by a run that ends with ``os._exit``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from quantkit.errors import OutputError
from quantkit.files import workspace as module
from quantkit.files.journal import JournalWriter, Record, journal_path
from quantkit.files.workspace import workspace

NAMES = ("out-1.gguf", "out-2.gguf", "out-3.gguf")
STEPS = ("rename", "replace", "unlink", "rmdir")
# Whether older files are replaced, the disk exchanges names, and the next run continues.
MODES = ((False, True, True), (False, True, False), (True, True, True), (True, False, True), (True, False, False))


def make(place: Path, text: str, *, overwrite: bool, resume: bool) -> list[str]:
    """Make the files, with journals; the parts that were there before."""
    with workspace(place / "out.gguf", overwrite=overwrite, file=True, resume=resume) as work:
        found = [name for name in NAMES if (part := work.part(name)) is not None and part.journals]
        work.reserve(NAMES)
        for name in NAMES:
            (work.path / name).write_text(f"{text} {name}", encoding="utf-8")
            JournalWriter(journal_path(work.path / name), {"plan": text}, [Record("t", 3, "00")]).close()
        work.publish_files(NAMES)
    return found


def killed_at(step: int, place: Path, *, overwrite: bool, exchanges: bool) -> bool:
    """Run until a step is reached; whether it was."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    left = [step]

    def counted(function: Any, real: bool = True) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            return function(*arguments, **options) if real else False

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    module.exchange = counted(module.exchange, exchanges)
    try:
        make(place, "new", overwrite=overwrite, resume=False)
    finally:
        os._exit(0)


def names(place: Path) -> list[str]:
    return sorted(os.listdir(place))


def texts(place: Path) -> set[str]:
    """What the files are whose names are seen: ``old``, ``new``, or both."""
    return {path.read_text(encoding="utf-8").split()[0] for path in place.glob("*.gguf")}


def judge(place: Path, *, overwrite: bool, resume: bool) -> str:
    """What is wrong after the next run; "" if nothing is."""
    complete = texts(place) == {"new"} and len(list(place.glob("*.gguf"))) == len(NAMES)
    try:
        make(place, "next", overwrite=overwrite, resume=resume)
    except OutputError as error:
        if complete and not overwrite and "already exists" in str(error):
            return "" if names(place) == list(NAMES) else f"left: {names(place)}"
        asked = "a run that was killed has finished" in str(error) and not (resume or overwrite)
        seen = sorted(path.name for path in place.glob("*.gguf"))
        return "" if asked and not seen else f"refused ({error}), with {names(place)}"
    found = [] if names(place) == list(NAMES) else [f"left: {names(place)}"]
    return "; ".join(found + ([] if texts(place) == {"next"} else [f"mixed: {texts(place)}"]))


def main(folder: str) -> None:
    place, wrong, kills = Path(folder) / "place", [], 0
    for overwrite, exchanges, resume in MODES:
        step = 0
        while True:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            if overwrite:
                for name in NAMES:
                    (place / name).write_text(f"old {name}", encoding="utf-8")
            if not killed_at(step, place, overwrite=overwrite, exchanges=exchanges):
                break
            kills += 1
            if problem := judge(place, overwrite=overwrite, resume=resume):
                wrong.append([overwrite, exchanges, resume, step, problem])
            step += 1
    print(json.dumps({"kills": kills, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
