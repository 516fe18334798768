"""``quantkit merge``: adapters merged into a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from quantkit.engine.device import choose_workers
from quantkit.ggml.types import UNQUANTIZED
from quantkit.hub.fetch import fetch, folders_here
from quantkit.jobs.argument_kinds import FLAG, SIZE
from quantkit.jobs.arguments import (
    AdaptersInput,
    PathInput,
    SizeInput,
    SourceInput,
    TextsInput,
    read_adapters,
    read_choice,
    read_path,
    read_source,
)
from quantkit.jobs.recipe_fields import IGNORE
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.jobs.run_stream import merger, run_stream, streaming_workspace
from quantkit.model.adapter_checks import check_adapters, check_effects
from quantkit.model.hf_folder import hf_notes, hf_tensors, write_beside
from quantkit.model.merge_record import MERGED_MARK, write_merge_record
from quantkit.model.opening import open_merged
from quantkit.plan.safetensors_outputs import safetensors_outputs


def merge(
    model: SourceInput,
    out: PathInput,
    *,
    adapters: AdaptersInput,
    merge_again: bool = False,
    dtype: str = "auto",
    max_shard_size: SizeInput = 2_000_000_000,
    ignore: TextsInput = (),
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Path:
    """Write a checkpoint merged with its adapters as a Hugging Face folder.

    Args:
        model: the checkpoint's folder, or its hub id.
        out: the folder to write.
        adapters: one or several, as in :func:`quantkit.jobs.convert.convert`.
        merge_again: merge an adapter that is given twice, or that the checkpoint contains already.
        dtype: ``bf16``, ``f16``, ``f32``, or ``auto`` for each tensor's own.
        max_shard_size: at most so many bytes per shard, or a size such as ``"2GB"``; a larger tensor gets a shard of
            its own.
        ignore, run, **keywords: as in :func:`quantkit.jobs.convert.convert`.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    run = run_options(run, **keywords)
    base, changes, folder = read_source("model", model), read_adapters("adapters", adapters), read_path("out", out)
    read_choice("dtype", dtype, ("auto", *UNQUANTIZED))
    again, limit = FLAG.read("merge_again", merge_again), SIZE.read("max_shard_size", max_shard_size)
    known = IGNORE.read(ignore)
    inputs = folders_here([base, *changes])
    with (
        streaming_workspace(folder, run, inputs=inputs, mark=MERGED_MARK) as work,
        open_merged(*fetch(base, changes, run.reporter), known) as opened,
    ):
        check_adapters(opened, again=again)
        for note in (*opened.notes, *hf_notes(opened, dtype)):
            run.reporter.note(note)
        tensors = hf_tensors(opened, dtype)
        outputs = safetensors_outputs(tensors, limit)
        workers = choose_workers(run.device, run.threads)
        source = merger(opened)
        run_stream(tensors, outputs, source, work, workers, run.reporter, wider="--dtype")
        effects = source.effects()
        for note in check_effects(effects, again=again):
            run.reporter.note(note)
        write_beside(opened, outputs, work.path, dtype)
        write_merge_record(work.path, opened.checkpoint.path, opened.adapters, effects)
        return work.publish(names=[output.file for output in outputs])
