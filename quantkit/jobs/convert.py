"""``quantkit convert``: a checkpoint and its adapters as GGUF, or an adapter by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from quantkit.arch.mtp import CHOICES, KEEP
from quantkit.arch.rope_override import read_override
from quantkit.engine.device import choose_workers, processor_workers
from quantkit.ggml.types import UNQUANTIZED
from quantkit.hub.fetch import fetch, folders_here
from quantkit.jobs.argument_kinds import FLAG, LIMIT
from quantkit.jobs.arguments import (
    AdapterInput,
    AdaptersInput,
    PathInput,
    SizeInput,
    SourceInput,
    TextsInput,
    read_adapter,
    read_adapters,
    read_choice,
    read_path,
    read_size,
    read_source,
)
from quantkit.jobs.recipe_fields import IGNORE, RECIPE_FIELDS
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.jobs.run_stream import merger, stream_files, streaming_workspace
from quantkit.model.adapter_checks import check_adapters, check_effects
from quantkit.model.lora_file import plan_adapter_file
from quantkit.model.opening import open_model
from quantkit.model.projector_file import plan_projector_file
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.vocab.added_eos import for_chat


def convert(
    model: SourceInput,
    out: PathInput,
    *,
    adapters: AdaptersInput = (),
    merge_again: bool = False,
    outtype: str = "f16",
    split_max_size: SizeInput | None = None,
    rope_scaling: str | None = None,
    rope_theta: float | None = None,
    mmproj: bool = False,
    mtp: str = KEEP,
    ignore: TextsInput = (),
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Path:
    """Write a checkpoint, merged with its adapters, as one unquantized GGUF file.

    Args:
        model: the checkpoint's folder, or its hub id.
        out: the file to write.
        adapters: one or several PEFT folders or hub ids, each alone or as a pair with its weight, merged in this order.
        merge_again: merge an adapter that is given twice, or that the checkpoint contains already.
        outtype: ``f16``, ``bf16`` or ``f32``.
        split_max_size: at most so many bytes of weights per file, or a size such as ``"2G"``; more files are named
            ``NAME-00001-of-00002.gguf``. None or 0 for one file.
        rope_scaling: ``linear:FACTOR`` or ``yarn:FACTOR``, instead of what config.json says.
        rope_theta: base of the rotary frequencies, instead of what config.json says.
        mmproj: also write the vision part, as ``STEM-mmproj-OUTTYPE.gguf`` beside *out*.
        mtp: ``keep`` or ``drop`` the model's layers for multi-token prediction.
        ignore: files of the model or an adapter that may be passed over, by name or pattern.
        run: how to run; see :class:`~quantkit.jobs.run_options.RunOptions`.
        **keywords: the same options one by one; they override those of *run*.

    Returns:
        The file, or its first part.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    run = run_options(run, **keywords)
    base, changes, file = read_source("model", model), read_adapters("adapters", adapters), read_path("out", out)
    kind = UNQUANTIZED[read_choice("outtype", outtype, UNQUANTIZED)]
    again, limit = FLAG.read("merge_again", merge_again), read_size("split_max_size", split_max_size, LIMIT)
    sees = FLAG.read("mmproj", mmproj)
    asked = {"rope_scaling": rope_scaling, "rope_theta": rope_theta}
    rope = read_override(*(RECIPE_FIELDS[key].read(value) for key, value in asked.items()))
    known, kept = IGNORE.read(ignore), read_choice("mtp", RECIPE_FIELDS["mtp"].read(mtp), CHOICES)
    inputs = folders_here([base, *changes])
    with (
        streaming_workspace(file, run, inputs=inputs, file=True) as work,
        open_model(*fetch(base, changes, run.reporter), known, rope=rope, mtp=kept, mmproj=sees) as opened,
    ):
        check_adapters(opened, again=again)
        vocabulary = opened.vocabulary()
        if vocabulary.chat_template is not None:
            vocabulary = for_chat(vocabulary)
        for note in (*opened.notes, *vocabulary.notes):
            run.reporter.note(note)
        tensors = opened.tensors(kind)
        metadata = opened.metadata(file.stem, vocabulary, vocabulary.chat_template)
        outputs = unquantized_outputs(work.final.name, outtype, metadata, tensors, limit)
        if (projector := plan_projector_file(opened, file.stem, outtype)) is not None:
            tensors, outputs = (*tensors, *projector.tensors), [*outputs, projector.output]
            run.reporter.note(f"the part that sees is written to {projector.output.file}")
        workers = choose_workers(run.device, run.threads)
        source = merger(opened)

        def check() -> None:
            effects = source.effects()
            for note in (*check_effects(effects, again=again), *(effect.line for effect in effects)):
                run.reporter.note(note)

        return stream_files(tensors, outputs, source, work, workers, run.reporter, check)


def convert_adapter(
    model: SourceInput,
    out: PathInput,
    *,
    adapter: AdapterInput,
    outtype: str = "f32",
    ignore: TextsInput = (),
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Path:
    """Write an adapter by itself as a LoRA file for llama.cpp, as ``convert_lora_to_gguf.py`` does.

    Args:
        model: the base's folder or hub id.
        out: the file to write.
        adapter: PEFT folder or hub id.
        outtype: ``f32``, ``f16`` or ``bf16``.
        ignore, run, **keywords: as in :func:`convert`.

    Raises:
        QuantkitError: by name, whatever is wrong, and what such a file cannot carry.
    """
    run = run_options(run, **keywords)
    base, file, change = read_source("model", model), read_path("out", out), read_adapter("adapter", adapter)
    read_choice("outtype", outtype, UNQUANTIZED)
    known = IGNORE.read(ignore)
    inputs = folders_here([base, change])
    with (
        streaming_workspace(file, run, inputs=inputs, file=True) as work,
        open_model(*fetch(base, [change], run.reporter), known) as opened,
    ):
        planned = plan_adapter_file(opened, opened.adapters[0], work.final.name, outtype)
        for note in (*opened.notes, *planned.notes):
            run.reporter.note(note)
        workers = processor_workers(run.threads)
        return stream_files(planned.tensors, [planned.output], planned.source, work, workers, run.reporter)
