"""The single steps, each a stream of its own: checkpoint to GGUF, GGUF to GGUF, adapters into a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from quantkit.device import choose_device
from quantkit.errors import OutputError, QuantizationError
from quantkit.ggml_types import BASE_TYPES, ftype_name
from quantkit.gguf_header import read_header
from quantkit.gguf_source import GGUFSource, gguf_tensors
from quantkit.hf_folder import hf_tensors, safetensors_outputs, write_beside
from quantkit.imatrix import read_imatrix
from quantkit.merge import Merger
from quantkit.model import MergedCheckpoint, open_merged, open_model
from quantkit.plan import (
    Output,
    PlannedTensor,
    base_output,
    choose_mixtures,
    count_elements,
    fallback_notes,
    quantized_outputs,
)
from quantkit.processors import usable_processors
from quantkit.progress import Reporter
from quantkit.stream import RowSource, stream
from quantkit.units import size
from quantkit.workspace import Workspace, workspace


def convert(
    model: Path,
    out: Path,
    *,
    adapters: Sequence[Path] = (),
    outtype: str = "f16",
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write a checkpoint, merged with its adapters, as one unquantized GGUF file.

    Args:
        model: the checkpoint's folder.
        out: the file to write.
        adapters: PEFT folders, merged in this order.
        outtype: ``f16``, ``bf16`` or ``f32``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: workers; default one a core.
        overwrite: replace *out* if it exists.
        fsync: flush to disk before the rename.
        reporter: told of the progress.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    reporter = reporter or Reporter()
    inputs = (model, *adapters)
    with (
        workspace(out, overwrite=overwrite, inputs=inputs, file=True, fsync=fsync) as work,
        open_model(model, adapters) as opened,
    ):
        vocabulary = opened.vocabulary()
        for note in (*opened.notes, *vocabulary.notes):
            reporter.note(note)
        tensors = opened.tensors(BASE_TYPES[outtype])
        metadata = opened.metadata(out.stem, vocabulary, vocabulary.chat_template)
        output = base_output(work.final.name, outtype, metadata, tensors)
        run_stream(tensors, [output], merger(opened, device), work, threads, reporter)
        return work.publish_file()


def quantize(
    gguf: Path,
    out: Path,
    *,
    quant: str,
    imatrix: Path | None = None,
    pure: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Quantize an F16, BF16 or F32 GGUF file, as ``llama-quantize`` does.

    Args:
        gguf: the file to read.
        out: the file to write.
        quant: the type, by llama-quantize's name.
        imatrix: importance matrix file.
        pure: one type for all tensors.
        threads, overwrite, fsync, reporter: as in :func:`convert`.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    label = ftype_name(quant)
    header = read_header(gguf)
    if "split.count" in header.metadata:
        raise QuantizationError(f"{gguf}: is one part of a split model; split files are not supported yet")
    tensors = gguf_tensors(gguf, header)
    importance = read_imatrix(imatrix) if imatrix else {}
    inputs = (gguf, imatrix) if imatrix else (gguf,)
    with (
        workspace(out, overwrite=overwrite, inputs=inputs, file=True, fsync=fsync) as work,
        gguf.open("rb", buffering=0) as file,
    ):
        metadata = list(header.metadata.values())
        mixtures = choose_mixtures([label], metadata, tensors, importance, pure)
        outputs = quantized_outputs({label: work.final.name}, metadata, tensors, mixtures, importance)
        source = GGUFSource(gguf, header, file.fileno())
        reporter = reporter or Reporter()
        for note in fallback_notes(outputs):
            reporter.note(note)
        run_stream(tensors, outputs, source, work, threads, reporter)
        return work.publish_file()


def merge(
    model: Path,
    out: Path,
    *,
    adapters: Sequence[Path],
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
        model: the checkpoint's folder.
        out: the folder to write.
        adapters: PEFT folders, merged in this order.
        dtype: ``bf16``, ``f16``, ``f32``, or ``auto`` for each tensor's own.
        max_shard_size: bytes of a shard at most; a larger tensor gets a shard of its own.
        device, threads, overwrite, fsync, reporter: as in :func:`convert`.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    reporter = reporter or Reporter()
    inputs = (model, *adapters)
    with (
        workspace(out, overwrite=overwrite, inputs=inputs, fsync=fsync) as work,
        open_merged(model, adapters) as opened,
    ):
        for note in opened.notes:
            reporter.note(note)
        tensors = hf_tensors(opened, dtype)
        outputs = safetensors_outputs(tensors, max_shard_size)
        run_stream(tensors, outputs, merger(opened, device), work, threads, reporter, wider="--dtype")
        write_beside(opened, outputs, work.path, dtype)
        return work.publish()


def merger(model: MergedCheckpoint, device: str) -> Merger:
    """The source of a model's merged rows."""
    return Merger(model.checkpoint, model.adapters, choose_device(device))


def run_stream(
    tensors: Sequence[PlannedTensor],
    outputs: Sequence[Output],
    source: RowSource,
    work: Workspace,
    threads: int | None,
    reporter: Reporter,
    *,
    wider: str = "--outtype",
) -> dict[str, dict[str, str]]:
    """Stream into a workspace: disk space checked before, progress told.

    Returns:
        By file, by tensor: sha256.
    """
    check_space(work, sum(output.nbytes for output in outputs))
    with reporter.phase("streaming", sum(count_elements(tensor.shape) for tensor in tensors)) as progress:
        return stream(
            tensors,
            outputs,
            source,
            work.path,
            threads=threads or usable_processors(),
            shown=work.final,
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
