"""``quantkit merge``: adapters merged into a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.engine.device import choose_workers
from quantkit.files.workspace import workspace
from quantkit.hub.adapter_source import AdapterLike
from quantkit.hub.fetch import fetch, folders_here
from quantkit.hub.source import Source
from quantkit.jobs.run_stream import merger, run_stream
from quantkit.model.hf_folder import hf_notes, hf_tensors, write_beside
from quantkit.model.opened import open_merged
from quantkit.plan.safetensors_outputs import safetensors_outputs
from quantkit.system.progress import Reporter


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
