"""``quantkit merge BASE.gguf --lora FILE``: LoRA files merged into a GGUF model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from quantkit.adapter.changes import LowRank
from quantkit.checkpoint.dtypes import BY_TYPE
from quantkit.engine.device import choose_workers
from quantkit.engine.gguf_source import check_requantizing, gguf_tensors, open_source, widened
from quantkit.engine.lora_source import LoraSource, changes_nothing
from quantkit.errors import GGUFError, QuantizationError
from quantkit.ggml import library as ggml
from quantkit.ggml.types import ENCODABLE, GGMLType, ftype_name
from quantkit.gguf.header import file_type_name
from quantkit.gguf.kv import KV
from quantkit.gguf.lora import Lora, ScaledLora, check_fits, read_lora
from quantkit.gguf.model import GGUFModel, read_whole_model
from quantkit.hub.matrix import HubMatrix, local_matrix
from quantkit.jobs.argument_kinds import FLAG, LORAS, MATRIX, TEXT
from quantkit.jobs.arguments import LorasInput, PathInput, read_path
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.jobs.run_stream import stream_files, streaming_workspace
from quantkit.model.adapter_checks import check_effects
from quantkit.model.effect_meter import EffectMeter
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs, typed_output
from quantkit.plan.imatrix import read_imatrix
from quantkit.plan.mixture import Importance
from quantkit.plan.quantize_notes import quantization_notes
from quantkit.plan.type_choices import NO_CHOICES
from quantkit.plan.values import Output, PlannedTensor


def merge_lora(
    gguf: PathInput,
    out: PathInput,
    *,
    loras: LorasInput,
    quant: str | None = None,
    imatrix: PathInput | HubMatrix | None = None,
    allow_requantize: bool = False,
    merge_again: bool = False,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Path:
    """Merge LoRA files of llama.cpp into a GGUF model.

    The sums are float32. A matrix of an F32, F16 or BF16 file is rounded to its type once; a quantized one is decoded,
    and encoded again in its type. All other tensors keep their bytes.

    Args:
        gguf: the model, or the first part of a split one.
        out: the file to write.
        loras: one or several files, which are added in their order; with a scale as (path, scale).
        quant: a type for the whole file, by llama-quantize's name; None for each tensor's own.
        imatrix: importance matrix, as in :func:`quantkit.jobs.quantize.quantize`.
        allow_requantize: with *quant*, tensors that are quantized already may get another type.
        merge_again: merge a file that is given twice.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    run = run_options(run, **keywords)
    wanted: tuple[ScaledLora, ...] = LORAS.read("loras", loras)
    label = None if quant is None else ftype_name(TEXT.read("quant", quant, example="q4_0"))
    final, again = read_path("out", out), FLAG.read("merge_again", merge_again)
    allowed = FLAG.read("allow_requantize", allow_requantize)
    model = read_whole_model(read_path("gguf", gguf))
    opened = [read_lora(one) for one in wanted]
    for lora in opened:
        check_fits(lora, model)
    _check_twice(opened, again=again)
    matrix = None if imatrix is None else local_matrix(MATRIX.read("imatrix", imatrix), run.reporter)
    importance = read_imatrix(matrix) if matrix else {}
    tensors = _tensors(model, opened)
    inputs = [*model.files, *(file for lora in opened for file in lora.model.files), *([matrix] if matrix else [])]
    with (
        streaming_workspace(final, run, inputs=inputs, file=True) as work,
        ExitStack() as stack,
    ):
        sources = [(lora, stack.enter_context(open_source(lora.model))) for lora in opened]
        for lora, source in sources:
            if changes_nothing(lora, source):
                raise GGUFError(
                    f"{lora.model.path}: changes nothing: all its products are zero",
                    hint="give the file of a trained adapter",
                )
        shapes = {name: info.shape for name, info in model.header.tensors.items()}
        meter = EffectMeter(shapes, list(map(_Measured, opened)))
        merged = LoraSource(stack.enter_context(open_source(model)), sources, meter.take)
        metadata = list(model.header.metadata.values())
        if label is None:
            outputs = [_own_types(work.final.name, model, metadata, tensors, importance)]
        else:
            tensors, outputs = _one_type(work.final.name, label, metadata, tensors, merged, importance)
            check_requantizing(model, outputs, allowed=allowed)
            for note in quantization_notes(outputs, tensors, NO_CHOICES):
                run.reporter.note(note)
        for note in _notes(model, opened):
            run.reporter.note(note)
        workers = choose_workers(run.device, run.threads)

        def check() -> None:
            effects = meter.effects()
            for note in (*check_effects(effects, again=again), *(effect.line for effect in effects)):
                run.reporter.note(note)

        return stream_files(tensors, outputs, merged, work, workers, run.reporter, check)


class _Measured:
    """A LoRA file as the meter knows adapters."""

    def __init__(self, lora: Lora) -> None:
        self.path, self.weight = lora.model.path, lora.scale
        self.changes = {
            name: (LowRank(b.name, a.name, transposed=False, scale=lora.factor(name)),)
            for name, (a, b) in lora.factors.items()
        }


def _check_twice(loras: Sequence[Lora], *, again: bool) -> None:
    paths = [lora.model.path.resolve() for lora in loras]
    if not again and (twice := [path for path in paths if paths.count(path) > 1]):
        raise GGUFError(f"{twice[0]}: is given twice", hint="give one scale: FILE:2; or pass --merge-again")


def _changed(loras: Sequence[Lora]) -> frozenset[str]:
    return frozenset(name for lora in loras for name in lora.factors)


def _tensors(model: GGUFModel, loras: Sequence[Lora]) -> tuple[PlannedTensor, ...]:
    """The tensors, with F32 for the sums of quantized matrices: they are encoded from what is not rounded."""
    changed = _changed(loras)
    found = []
    for tensor in widened(gguf_tensors(model)):
        if tensor.name in changed and tensor.outtype not in BY_TYPE:
            _check_encodable(model, tensor.name, tensor.outtype)
            tensor = replace(tensor, outtype=GGMLType.F32)
        found.append(tensor)
    return tuple(found)


def _check_encodable(model: GGUFModel, name: str, kind: GGMLType) -> None:
    if kind not in ENCODABLE or not ggml.can_dequantize(kind):
        raise QuantizationError(
            f"{model.path}: tensor {name!r} is {kind.label}, which cannot be decoded and encoded again",
            hint="merge into the f16, bf16 or f32 GGUF file",
        )


def _own_types(
    file: str, model: GGUFModel, metadata: Sequence[KV], tensors: Sequence[PlannedTensor], importance: Importance
) -> Output:
    stored = model.header.tensors
    types = {
        tensor.name: tensor.outtype if stored[tensor.name].type in BY_TYPE else stored[tensor.name].type
        for tensor in tensors
    }
    return typed_output(file, file_type_name(model.header) or "gguf", metadata, tensors, types, importance)


def _one_type(
    file: str,
    label: str,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    source: LoraSource,
    importance: Importance,
) -> tuple[tuple[PlannedTensor, ...], list[Output]]:
    """The types of a file of one type; a sum that is not quantized is rounded to its new type at once."""
    mixtures = choose_mixtures([label], metadata, tensors, importance)
    types: Mapping[str, GGMLType] = mixtures[label].types
    changed = _changed([lora for lora, _ in source.loras])
    planned = tuple(
        replace(tensor, outtype=types[tensor.name])
        if tensor.name in changed and types[tensor.name] in BY_TYPE
        else tensor
        for tensor in tensors
    )
    return planned, quantized_outputs({label: file}, metadata, planned, mixtures, importance)


def _notes(model: GGUFModel, loras: Sequence[Lora]) -> list[str]:
    """What a user should know of a merge into quantized tensors."""
    stored = model.header.tensors
    again = [name for name in _changed(loras) if stored[name].type not in BY_TYPE]
    if not again:
        return []
    kinds = ", ".join(sorted({stored[name].type.label for name in again}))
    return [
        f"{len(again)} of {len(stored)} tensors are decoded ({kinds}), merged and encoded again, which rounds twice: "
        "merge into the f16 file where you have it"
    ]
