"""The single steps, each a stream of its own: checkpoint to GGUF, GGUF to GGUF, adapters into a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from quantkit.engine.device import Workers, choose_workers, processor_workers
from quantkit.engine.gguf_source import check_requantizing, gguf_tensors, open_source
from quantkit.engine.stream import RowSource, stream
from quantkit.errors import OutputError
from quantkit.files.workspace import Workspace, workspace
from quantkit.ggml.types import BASE_TYPES, ftype_name
from quantkit.gguf.model import read_whole_model
from quantkit.hub import Source, fetch, folders_here
from quantkit.hub.adapter_source import AdapterLike
from quantkit.model.hf_folder import hf_notes, hf_tensors, safetensors_outputs, write_beside
from quantkit.model.lora_file import plan_adapter_file
from quantkit.model.merger import Merger
from quantkit.model.opened import MergedCheckpoint, open_merged, open_model
from quantkit.plan.gguf_outputs import base_outputs, choose_mixtures, quantized_outputs
from quantkit.plan.imatrix import read_imatrix
from quantkit.plan.quantize_notes import quantization_notes
from quantkit.plan.type_choices import NO_CHOICES, TypeChoices
from quantkit.plan.values import Output, PlannedTensor, count_elements
from quantkit.system.progress import Reporter
from quantkit.system.units import size


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
        tensors = opened.tensors(BASE_TYPES[outtype])
        metadata = opened.metadata(out.stem, vocabulary, vocabulary.chat_template)
        outputs = base_outputs(work.final.name, outtype, metadata, tensors, split_max_size)
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


def quantize(
    gguf: Path,
    out: Path,
    *,
    quant: str,
    imatrix: Path | None = None,
    choices: TypeChoices = NO_CHOICES,
    allow_requantize: bool = False,
    split_max_size: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Quantize a GGUF file, as ``llama-quantize`` does.

    Args:
        gguf: the file to read, or the first part of a split model.
        out: the file to write.
        quant: the type, by llama-quantize's name.
        imatrix: importance matrix file.
        choices: of types for single tensors.
        allow_requantize: tensors that are quantized already may be quantized again, which costs quality.
        split_max_size, threads, overwrite, fsync, reporter: as in :func:`convert`.

    Returns:
        The file, or its first part.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    label = ftype_name(quant)
    model = read_whole_model(gguf)
    tensors = gguf_tensors(model)
    importance = read_imatrix(imatrix) if imatrix else {}
    inputs = (*model.files, imatrix) if imatrix else model.files
    with (
        workspace(out, overwrite=overwrite, inputs=inputs, file=True, fsync=fsync) as work,
        open_source(model) as source,
    ):
        metadata = list(model.header.metadata.values())
        mixtures = choose_mixtures([label], metadata, tensors, importance, choices)
        outputs = quantized_outputs({label: work.final.name}, metadata, tensors, mixtures, importance, split_max_size)
        check_requantizing(model, outputs, allowed=allow_requantize)
        reporter = reporter or Reporter()
        for note in quantization_notes(outputs, tensors, choices):
            reporter.note(note)
        return stream_files(tensors, outputs, source, work, processor_workers(threads), reporter)


def merge(
    model: Source,
    out: Path,
    *,
    adapters: Sequence[AdapterLike],
    dtype: str = "auto",
    max_shard_size: int = 2_000_000_000,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write a checkpoint merged with its adapters as a Hugging Face folder.

    Args:
        model: the checkpoint's folder, or a hub's id of it.
        out: the folder to write.
        adapters: PEFT folders or ids, or such with a weight, merged in this order.
        dtype: ``bf16``, ``f16``, ``f32``, or ``auto`` for each tensor's own.
        max_shard_size: bytes of a shard at most; a larger tensor gets a shard of its own.
        device, threads, overwrite, fsync, reporter: as in :func:`convert`.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    reporter = reporter or Reporter()
    inputs = folders_here([model, *adapters])
    with (
        workspace(out, overwrite=overwrite, inputs=inputs, fsync=fsync) as work,
        open_merged(*fetch(model, adapters, reporter)) as opened,
    ):
        for note in (*opened.notes, *hf_notes(opened, dtype)):
            reporter.note(note)
        tensors = hf_tensors(opened, dtype)
        outputs = safetensors_outputs(tensors, max_shard_size)
        run_stream(tensors, outputs, merger(opened), work, choose_workers(device, threads), reporter, wider="--dtype")
        write_beside(opened, outputs, work.path, dtype)
        return work.publish()


def merger(model: MergedCheckpoint) -> Merger:
    """The source of a model's merged rows."""
    return Merger(model.checkpoint, model.adapters)


def stream_files(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    work: Workspace,
    workers: Workers,
    reporter: Reporter,
) -> Path:
    """Stream the parts of one model, and publish them."""
    files = [output.file for output in outputs]
    work.reserve(files)
    run_stream(tensors, outputs, source, work, workers, reporter)
    return work.publish_files(files)


def run_stream(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    work: Workspace,
    workers: Workers,
    reporter: Reporter,
    *,
    wider: str = "--outtype",
    folder: Path | None = None,
) -> dict[str, dict[str, str]]:
    """Stream into a workspace: disk space checked before, progress told.

    Args:
        tensors, outputs, source, workers, wider: as in :func:`quantkit.engine.stream.stream`.
        work: whose disk is looked at, and whose output errors speak of.
        reporter: told of the progress.
        folder: to write into; default the workspace's own.

    Returns:
        By file, by tensor: sha256.
    """
    check_space(work, sum(output.nbytes for output in outputs))
    with reporter.phase("streaming", sum(count_elements(tensor.shape) for tensor in tensors)) as progress:
        return stream(
            tensors,
            outputs,
            source,
            folder or work.path,
            workers=workers,
            shown=work.place,
            wider=wider,
            progress=progress,
        )


def check_space(work: Workspace, nbytes: int) -> None:
    """Refuse before the work what the disk cannot hold.

    Raises:
        OutputError: with both sizes.
    """
    free = shutil.disk_usage(work.path).free
    if free < nbytes:
        raise OutputError(
            f"{work.final}: the outputs need {size(nbytes)}, the disk has {size(free)} free",
            hint="free some space or choose another disk with -o",
        )
