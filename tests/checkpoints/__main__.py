"""Write every bad input into a folder of its own: ``python -m tests.checkpoints FOLDER``.

Each folder has the broken checkpoint, adapter and GGUF file, and ``command.txt``: what to run there, and what it says.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.checkpoints import BASES, DEFECTS
from tests.checkpoints.sound import copy_of, make_sound
from tests.support.checkpoints import KINDS, make_checkpoint
from tests.support.vocabularies import write_vocabulary


def main(out: Path) -> None:
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="quantkit-") as name:
        root = Path(name)

        def checkpoint(kind: str, **options: Any) -> Path:
            folder = root / f"checkpoint-{len(list(root.iterdir()))}"
            vocabulary = write_vocabulary(folder / "vocabulary", KINDS[kind].vocabulary, small=True)
            return make_checkpoint(folder / "model", kind, vocabulary=vocabulary, **options)

        sound = {}
        for index, base in enumerate(BASES):
            (root / f"sound-{index}").mkdir()
            sound[repr(base)] = make_sound(root / f"sound-{index}", base, checkpoint)
        for defect in DEFECTS:
            case = copy_of(sound[repr(defect.base)], out / defect.id)
            defect.breaks(case)
            says = ", ".join(case.fill(text) for text in defect.error)
            command = shlex.join(["quantkit", *case.arguments(defect.command)])
            (case.root / "command.txt").write_text(f"{command}\nerror: {says}\n", encoding="utf-8")
    print(f"{len(DEFECTS)} folders in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.checkpoints FOLDER")
    main(Path(sys.argv[1]))
