"""``quantkit quantize``: one GGUF file from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from quantkit.engine.device import processor_workers
from quantkit.engine.gguf_source import check_requantizing, gguf_tensors, open_source, widened
from quantkit.ggml.types import ftype_name
from quantkit.gguf.model import read_whole_model
from quantkit.gguf.vectors import narrow_vectors
from quantkit.hub.matrix import HubMatrix, local_matrix
from quantkit.jobs.argument_kinds import FLAG, LIMIT, MATRIX, TEXT
from quantkit.jobs.arguments import PathInput, SizeInput, read_path, read_size
from quantkit.jobs.fields import refuse_unknown
from quantkit.jobs.recipe_fields import RECIPE_FIELDS, TypeKeywords
from quantkit.jobs.run_options import RUN_NAMES, RunKeywords, RunOptions, run_options
from quantkit.jobs.run_stream import stream_files, streaming_workspace
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs
from quantkit.plan.imatrix import read_imatrix
from quantkit.plan.quantize_notes import quantization_notes
from quantkit.plan.type_choices import parse_choices


class QuantizeKeywords(TypeKeywords, RunKeywords, total=False):
    """The keyword arguments of :func:`quantize` that it shares with :func:`quantkit.jobs.build.build`."""


def quantize(
    gguf: PathInput,
    out: PathInput,
    *,
    quant: str,
    imatrix: PathInput | HubMatrix | None = None,
    allow_requantize: bool = False,
    split_max_size: SizeInput | None = None,
    run: RunOptions | None = None,
    **keywords: Unpack[QuantizeKeywords],
) -> Path:
    """Quantize a GGUF file, as ``llama-quantize`` does.

    Args:
        gguf: the file to read, or the first part of a split model.
        out: the file to write.
        quant: the type, by llama-quantize's name.
        imatrix: importance matrix: a file, or on a hub ``org/name:FILE``.
        allow_requantize: tensors that are quantized already may be quantized again, which costs quality.
        split_max_size, run: as in :func:`quantkit.jobs.convert.convert`.
        **keywords: the options of the run one by one, of which *device* has no effect; and ``pure``,
            ``output_tensor_type``, ``token_embedding_type``, ``leave_output_tensor`` and ``tensor_types``, which choose
            the types of single tensors as :class:`~quantkit.jobs.recipe.Recipe` does.

    Returns:
        The file, or its first part.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    refuse_unknown(keywords, (*TypeKeywords.__annotations__, *RUN_NAMES), what="argument")
    types: Any = {key: RECIPE_FIELDS[key].read(value) for key, value in keywords.items() if key in RECIPE_FIELDS}
    options: Any = {key: value for key, value in keywords.items() if key in RUN_NAMES}
    run, choices = run_options(run, **options), parse_choices(**types)
    label = ftype_name(TEXT.read("quant", quant, example="q4_0"))
    limit = read_size("split_max_size", split_max_size, LIMIT)
    model = read_whole_model(read_path("gguf", gguf))
    tensors = widened(gguf_tensors(model))
    matrix = None if imatrix is None else local_matrix(MATRIX.read("imatrix", imatrix), run.reporter)
    importance = read_imatrix(matrix) if matrix else {}
    inputs = (*model.files, matrix) if matrix else model.files
    with (
        streaming_workspace(read_path("out", out), run, inputs=inputs, file=True) as work,
        open_source(model) as source,
    ):
        metadata = list(model.header.metadata.values())
        mixtures = choose_mixtures([label], metadata, tensors, importance, choices)
        outputs = quantized_outputs({label: work.final.name}, metadata, tensors, mixtures, importance, limit)
        check_requantizing(model, outputs, allowed=FLAG.read("allow_requantize", allow_requantize))
        if narrow := narrow_vectors(model.header.tensors.values()):
            run.reporter.note(f"tensor {narrow}: written as f32, without loss, because llama.cpp needs them so")
        for note in quantization_notes(outputs, tensors, choices):
            run.reporter.note(note)
        return stream_files(tensors, outputs, source, work, processor_workers(run.threads), run.reporter)
