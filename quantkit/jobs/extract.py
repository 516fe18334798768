"""``quantkit extract``: a LoRA adapter out of a fine-tuned checkpoint and its base."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Unpack

from quantkit.checkpoint.folder import Checkpoint, open_checkpoint
from quantkit.errors import ArchitectureError, QuantkitError
from quantkit.extract.adapter_folder import EXTRACTED_MARK, AdapterWriter, Extracted
from quantkit.extract.pairs import Way, pairs
from quantkit.files.json_file import SCHEMA
from quantkit.files.workspace import workspace
from quantkit.hub.fetch import folders_here, local_folder
from quantkit.hub.source import source_name
from quantkit.hub.tokenizer_files import TOKENIZER_FILES, matching
from quantkit.jobs.argument_kinds import COUNT
from quantkit.jobs.arguments import PathInput, SourceInput, read_path, read_source
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.model.tied_embeddings import find_tie
from quantkit.system.processors import usable_processors

RANK = 64
"""The rank where neither a rank nor an error is asked for."""


@dataclass(frozen=True)
class Extraction:
    """An adapter that was extracted.

    Attributes:
        folder: of the adapter.
        tensors: what changed, in the base's order.
        size: bytes of its weights.
    """

    folder: Path
    tensors: tuple[Extracted, ...]
    size: int

    @property
    def worst(self) -> Extracted:
        """The matrix of which most is left."""
        return max(self.tensors, key=lambda tensor: tensor.error)

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        tensors = [tensor.to_json() for tensor in self.tensors]
        return {"schema": SCHEMA, "folder": str(self.folder), "size": self.size, "tensors": tensors}


def extract(
    tuned: SourceInput,
    out: PathInput,
    *,
    base: SourceInput,
    rank: int | None = None,
    error: float | None = None,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Extraction:
    """Make a PEFT adapter from the difference between a fine-tuned checkpoint and its base.

    Linear layers become LoRA: the difference is decomposed in float32 (see :mod:`quantkit.extract.factors`). Norms,
    embeddings and biases that changed are in the adapter in full (``modules_to_save``, ``bias``).

    Args:
        tuned: the checkpoint's folder, or its hub id.
        out: the folder to write.
        base: the checkpoint that the training began with.
        rank: of every matrix at most; None for 64, if *error* is not given either.
        error: what may be left of each matrix's difference, relative, in the Frobenius norm: the rank of each follows.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; *device* has no effect.

    Raises:
        QuantkitError: the two are not one model in two states, something changed that an adapter cannot change, or
            nothing did.
    """
    from quantkit.extract.changed import changed_tensors

    run = run_options(run, **keywords)
    sources, folder = [read_source("tuned", tuned), read_source("base", base)], read_path("out", out)
    most = _limits(rank, error)
    with workspace(
        folder, overwrite=run.overwrite, inputs=folders_here(sources), fsync=run.fsync, mark=EXTRACTED_MARK
    ) as work:
        after, before = (local_folder(source, "model", run.reporter) for source in sources)
        with open_checkpoint(before) as old, open_checkpoint(after) as new:
            for note in (*old.notes, *new.notes):
                run.reporter.note(note)
            wanted = pairs(old, new, _kinds(before, old, run))
            total = sum(prod(old.tensors[pair.name].shape) for pair in wanted)
            with (
                closing(AdapterWriter(work.path, work.scratch(), new, 1 if most is None else most)) as writer,
                run.reporter.phase("comparing", total) as advance,
            ):
                workers = run.threads or usable_processors()
                for changed in changed_tensors(
                    old, new, wanted, rank=most, error=error, workers=workers, advance=advance
                ):
                    writer.add(changed)
                writer.finish(wanted, source_name(sources[1]), source_name(sources[0]), find_tie(old))
        _copy_tokenizer(before, after, work.path, run)
        for note in _notes(writer.tensors):
            run.reporter.note(note)
        size = (work.path / "adapter_model.safetensors").stat().st_size
        return Extraction(work.publish(), tuple(writer.tensors), size)


def _limits(rank: int | None, error: float | None) -> int | None:
    """The rank; None if it follows from the error.

    Raises:
        QuantkitError: both are given, or a value is out of range.
    """
    if rank is not None and error is not None:
        raise QuantkitError("rank and error are both given", hint="give one: the other follows from it")
    from quantkit.extract.factors import LEAST_ERROR

    if error is None:
        most: int = RANK if rank is None else COUNT.read("rank", rank)
        return most
    if not isinstance(error, int | float) or not LEAST_ERROR <= error < 1:
        raise QuantkitError(
            f"error is {error!r}; it must be from {LEAST_ERROR:g} to below 1", hint="write 0.1 for a tenth"
        )
    return None


def _kinds(folder: Path, base: Checkpoint, run: RunOptions) -> dict[str, str] | None:
    """The class of each module as transformers has it; None if it does not know the model."""
    from quantkit.prove.judge import module_classes

    try:
        kinds = module_classes(folder)
    except ArchitectureError as error:
        run.reporter.note(f"{error}: linear layers are recognised by the names of their tensors")
        return None
    unknown = {name.rpartition(".")[0] for name in base.tensors} - kinds.keys()
    if unknown:
        run.reporter.note(
            f"{len(unknown)} modules of the checkpoint have other names in transformers ({min(unknown)}): PEFT may not "
            "find them, quantkit build --adapter does"
        )
    return kinds


def _copy_tokenizer(base: Path, tuned: Path, folder: Path, run: RunOptions) -> None:
    """Put the trained model's tokenizer into the adapter where it is another one, as trainers do."""
    files = list(matching(tuned, TOKENIZER_FILES))
    differing = [
        file.name
        for file in files
        if not (base / file.name).is_file() or (base / file.name).read_bytes() != file.read_bytes()
    ]
    if differing:
        for file in files:
            shutil.copyfile(file, folder / file.name)
        run.reporter.note(f"the tokenizer of {tuned.name} differs ({', '.join(differing)}) and goes with the adapter")


def _notes(tensors: list[Extracted]) -> list[str]:
    """What a user should know of the result."""
    notes = []
    if full := [tensor.name for tensor in tensors if tensor.way == Way.FULL]:
        notes.append(
            f"{len(full)} tensors that are not linear layers changed; they are in the adapter in full: {full[0]}"
        )
    return notes
