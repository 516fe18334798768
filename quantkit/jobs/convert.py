"""``quantkit convert``: a checkpoint and its adapters as GGUF, or an adapter by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.engine.device import choose_workers, processor_workers
from quantkit.files.workspace import workspace
from quantkit.ggml.types import UNQUANTIZED
from quantkit.hub.adapter_source import AdapterLike
from quantkit.hub.fetch import fetch, folders_here
from quantkit.hub.source import Source
from quantkit.jobs.run_stream import merger, stream_files
from quantkit.model.lora_file import plan_adapter_file
from quantkit.model.opened import open_model
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.system.progress import Reporter


def convert(
    model: Source,
    out: Path,
    *,
    adapters: Sequence[AdapterLike] = (),
    outtype: str = "f16",
    split_max_size: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write a checkpoint, merged with its adapters, as one unquantized GGUF file.

    Args:
        model: the checkpoint's folder, or a hub's id of it.
        out: the file to write.
        adapters: PEFT folders or ids, or such with a weight, merged in this order.
        outtype: ``f16``, ``bf16`` or ``f32``.
        split_max_size: bytes of weights in a file at most; more become files of their own beside it, named
            ``NAME-00001-of-00002.gguf``. None for one file.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: workers; default one a core.
        overwrite: replace *out* if it exists.
        fsync: flush to disk before the rename.
        reporter: told of the progress.

    Returns:
        The file, or its first part.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    reporter = reporter or Reporter()
    inputs = folders_here([model, *adapters])
    with (
        workspace(out, overwrite=overwrite, inputs=inputs, file=True, fsync=fsync) as work,
        open_model(*fetch(model, adapters, reporter)) as opened,
    ):
        vocabulary = opened.vocabulary()
        for note in (*opened.notes, *vocabulary.notes):
            reporter.note(note)
        tensors = opened.tensors(UNQUANTIZED[outtype])
        metadata = opened.metadata(out.stem, vocabulary, vocabulary.chat_template)
        outputs = unquantized_outputs(work.final.name, outtype, metadata, tensors, split_max_size)
        return stream_files(tensors, outputs, merger(opened), work, choose_workers(device, threads), reporter)


def convert_adapter(
    model: Source,
    out: Path,
    *,
    adapter: AdapterLike,
    outtype: str = "f32",
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write an adapter by itself as a LoRA file for llama.cpp, as ``convert_lora_to_gguf.py`` does.

    Args:
        model: the base's folder or id.
        out: the file to write.
        adapter: PEFT folder or id.
        outtype: ``f32``, ``f16`` or ``bf16``.
        threads, overwrite, fsync, reporter: as in :func:`convert`.

    Raises:
        QuantkitError: by name, whatever is wrong, and what such a file cannot carry.
    """
    reporter = reporter or Reporter()
    inputs = folders_here([model, adapter])
    with (
        workspace(out, overwrite=overwrite, inputs=inputs, file=True, fsync=fsync) as work,
        open_model(*fetch(model, [adapter], reporter)) as opened,
    ):
        planned = plan_adapter_file(opened, opened.adapters[0], work.final.name, outtype)
        for note in (*opened.notes, *planned.notes):
            reporter.note(note)
        return stream_files(
            planned.tensors, [planned.output], planned.source, work, processor_workers(threads), reporter
        )
