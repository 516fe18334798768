"""The vocabulary of a planned model as a GGUF file, before any weight is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantkit.files.workspace import Workspace
from quantkit.jobs.prepare import PlannedBuild
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.plan.values import Output


def unquantized_output(prepared: PlannedBuild, file: str) -> Output:
    """The unquantized file of a build, under another name."""
    plan = prepared.plan
    (output,) = unquantized_outputs(file, prepared.recipe.outtype, plan.metadata, plan.tensors)
    return output


@contextmanager
def vocabulary_file(prepared: PlannedBuild, work: Workspace) -> Iterator[Path]:
    """A file that has the model's vocabulary and holes for its weights; removed at the end.

    With it, data that cannot be tokenized or rendered is refused before any weight is read.
    """
    output = unquantized_output(prepared, f"vocabulary-{prepared.recipe.outtype}.gguf")
    path = work.scratch() / output.file
    try:
        path.write_bytes(output.header)
        os.truncate(path, output.nbytes)
        yield path
    finally:
        path.unlink(missing_ok=True)
