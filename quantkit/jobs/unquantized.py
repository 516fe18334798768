"""The unquantized file of a build that calibrates or chooses: written once, and used for all that needs it.

Every other file is encoded from its values in any case, so where it is kept, they are read from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantkit.engine.file_source import FileSource
from quantkit.engine.gguf_source import open_source
from quantkit.files.workspace import Workspace
from quantkit.gguf.model import read_model
from quantkit.jobs.prepare import PlannedBuild
from quantkit.jobs.run_stream import run_stream
from quantkit.jobs.vocabulary_file import unquantized_output
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.plan.values import Output


@dataclass(frozen=True)
class Unquantized:
    """The file, among the intermediate files of the workspace.

    Attributes:
        path: where it is.
        output: what it is.
        digests: sha256 by tensor.
        effects: what the adapters changed.
    """

    path: Path
    output: Output
    digests: Mapping[str, str]
    effects: tuple[AdapterEffect, ...]

    def among(self, outputs: Sequence[Output]) -> Output | None:
        """The output that has the bytes of this file."""
        return next((output for output in outputs if output.header == self.output.header), None)


def write_unquantized(prepared: PlannedBuild, work: Workspace) -> Unquantized:
    """Merge and round, into a file beside the package.

    Raises:
        QuantkitError: by name, whatever is wrong with the weights.
    """
    output, folder = unquantized_output(prepared, f"whole-{prepared.recipe.outtype}.gguf"), work.scratch()
    plan, source, reporter = prepared.plan, prepared.subject.source, prepared.run.reporter
    digests = run_stream(plan.tensors, [output], source, work, prepared.workers, reporter, folder=folder)
    seeing, merged = prepared.subject.projector, prepared.subject.adapters
    if seeing is not None and merged:  # the build writes it again: here, only what adapters change of it is measured
        run_stream(seeing.tensors, [seeing.output], source, work, prepared.workers, reporter, folder=folder)
        (folder / seeing.output.file).unlink()
    return Unquantized(folder / output.file, output, digests[output.file], prepared.subject.effects())


def stream_build(
    prepared: PlannedBuild,
    outputs: Sequence[Output],
    work: Workspace,
    written: Unquantized | None,
    loaded: Callable[[], None],
    ray: str | None = None,
) -> tuple[dict[str, dict[str, str]], tuple[AdapterEffect, ...]]:
    """Write the outputs of a build into its workspace.

    Args:
        prepared: the build.
        outputs: its files, and what else is wanted of the same pass.
        work: its workspace.
        written: its unquantized file, if there is one already. It is used up.
        loaded: called when the encoders are compiled and loaded.
        ray: address of the cluster whose nodes do the work; None for this machine.

    Returns:
        By file, by tensor: sha256; and what the adapters changed.
    """
    if ray is not None:
        from quantkit.jobs.spread import spread_stream

        loaded()
        return spread_stream(ray, prepared, outputs, work), prepared.subject.effects()
    kept = None if written is None else written.among(outputs)
    if written is not None and kept is None:
        written.path.unlink()  # there may be no room for it beside the outputs
    others = [output for output in outputs if output is not kept]
    with _source(prepared, written if kept else None) as source:
        digests = run_stream(
            *(prepared.plan.tensors, others, source, work, prepared.workers, prepared.run.reporter),
            loaded=loaded,
            origin=prepared.subject.source,
            keep=prepared.recipe.via_llama_cpp is None,
        )
    if written is None or kept is None:
        return digests, prepared.subject.effects()
    os.replace(written.path, work.path / kept.file)
    return digests | {kept.file: dict(written.digests)}, written.effects


@contextmanager
def _source(prepared: PlannedBuild, written: Unquantized | None) -> Iterator[FileSource]:
    if written is None:
        yield prepared.subject.source
        return
    with open_source(read_model(written.path)) as source:
        yield source
