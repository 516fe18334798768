"""``quantkit quantize``: one GGUF file from another."""

from __future__ import annotations

from pathlib import Path

from quantkit.engine.device import processor_workers
from quantkit.engine.gguf_source import check_requantizing, gguf_tensors, open_source
from quantkit.files.workspace import workspace
from quantkit.ggml.types import ftype_name
from quantkit.gguf.model import read_whole_model
from quantkit.jobs.run_stream import stream_files
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs
from quantkit.plan.imatrix import read_imatrix
from quantkit.plan.quantize_notes import quantization_notes
from quantkit.plan.type_choices import NO_CHOICES, TypeChoices
from quantkit.system.progress import Reporter


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
