"""``--via-llama-cpp``: llama.cpp's own converter for architectures that are not supported here.

The user gives a checkout of llama.cpp; its ``convert_hf_to_gguf.py`` runs in a process of its own, with whatever that
checkout does: for a few models it loads Python code from the model folder, which quantkit itself never does. Adapters
are merged first, tensor by tensor, into a temporary Hugging Face folder of float32 weights, so that the converter's
rounding is the only one. What comes out is a GGUF file like any other, and the job goes on from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from quantkit.engine.device import choose_workers, processor_workers
from quantkit.engine.gguf_source import gguf_tensors, open_source
from quantkit.errors import ArchitectureError, CheckpointError
from quantkit.files.json_file import read_json
from quantkit.files.workspace import Workspace, workspace
from quantkit.ggml.types import UNQUANTIZED
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.fetch import fetch, folders_here
from quantkit.jobs.arguments import (
    AdaptersInput,
    PathInput,
    SizeInput,
    SourceInput,
    read_adapters,
    read_choice,
    read_path,
    read_size,
    read_source,
)
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.jobs.run_stream import check_space, merger, run_stream, stream_files
from quantkit.model.hf_folder import hf_tensors, write_beside
from quantkit.model.opened import MergedCheckpoint, open_merged
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.plan.safetensors_outputs import safetensors_outputs
from quantkit.system.child_process import ended_how
from quantkit.system.shell import command

_SCRIPT = "convert_hf_to_gguf.py"
_SHARD_NBYTES = 5_000_000_000
_LAST_LINES = 3


@dataclass(frozen=True)
class Converted:
    """What the converter made of a model and its adapters.

    Attributes:
        model: the GGUF file.
        tokenizer: folder of the tokenizer that counts.
        notes: of the merge.
        libraries: see :attr:`quantkit.model.opened.MergedCheckpoint.libraries`.
    """

    model: GGUFModel
    tokenizer: Path
    notes: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


def convert_via(
    checkout: PathInput,
    model: SourceInput,
    out: PathInput,
    *,
    adapters: AdaptersInput = (),
    outtype: str = "f16",
    split_max_size: SizeInput | None = None,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Path:
    """As :func:`quantkit.jobs.convert.convert`, with the converter of a llama.cpp checkout.

    Args:
        checkout: the folder that has ``convert_hf_to_gguf.py``.

    Raises:
        QuantkitError: by name, whatever is wrong.
    """
    run = run_options(run, **keywords)
    base, changes, file = read_source("model", model), read_adapters("adapters", adapters), read_path("out", out)
    read_choice("outtype", outtype, UNQUANTIZED)
    limit = read_size("split_max_size", split_max_size)
    llama_cpp = read_path("checkout", checkout)
    check_checkout(llama_cpp)
    inputs = [*folders_here([base, *changes]), llama_cpp]
    with workspace(file, overwrite=run.overwrite, inputs=inputs, file=True, fsync=run.fsync) as work:
        folder, fetched = fetch(base, changes, run.reporter)
        converted = run_converter(llama_cpp, folder, fetched, file.stem, outtype, work, run)
        for note in converted.notes:
            run.reporter.note(note)
        made = converted.model
        if limit is None:
            os.replace(made.path, work.path / work.final.name)
            return work.publish_files([work.final.name])
        tensors, metadata = gguf_tensors(made), list(made.header.metadata.values())
        outputs = unquantized_outputs(work.final.name, outtype, metadata, tensors, limit)
        with open_source(made) as source:
            return stream_files(tensors, outputs, source, work, processor_workers(run.threads), run.reporter)


def check_checkout(checkout: Path) -> Path:
    """The converter of a checkout.

    Raises:
        CheckpointError: there is none.
    """
    script = checkout / _SCRIPT
    if not script.is_file():
        raise CheckpointError(
            f"{checkout}: no {_SCRIPT} in it, so this is not a checkout of llama.cpp",
            hint="git clone https://github.com/ggml-org/llama.cpp, and give that folder to --via-llama-cpp",
        )
    return script


def run_converter(
    checkout: Path,
    model: Path,
    adapters: Sequence[AdapterSource],
    name: str,
    outtype: str,
    work: Workspace,
    run: RunOptions,
) -> Converted:
    """Merge, and run the converter into the workspace's scratch folder.

    Args:
        checkout: with the converter.
        model: the checkpoint's folder.
        adapters: in the order in which they are merged.
        name: of the model; the converter takes it from the folder's name.
        outtype: ``f16``, ``bf16`` or ``f32``.
        work: whose scratch folder takes the file, and before that the merged weights.
        run: how to run.

    Raises:
        ArchitectureError: the converter failed, with its last words.
        QuantkitError: whatever is wrong before that.
    """
    script = check_checkout(checkout)
    read_json(model / "config.json")  # what is no checkpoint at all is said in our words
    scratch = work.scratch()
    folder, tokenizer = model, model
    notes: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    if adapters:
        folder = scratch / name
        folder.mkdir()
        with open_merged(model, adapters) as opened:
            _merge(opened, folder, work, run)
            tokenizer, notes, libraries = opened.tokenizer.folder, opened.notes, opened.libraries
    made = scratch / "converted.gguf"
    nbytes = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    check_space(work, nbytes if outtype == "f32" else nbytes // 2)
    with run.reporter.phase("converting with llama.cpp", 1, "files") as progress:
        _run(script, folder, made, outtype, scratch / "log.txt", model, adapters)
        progress(1)
    if folder is not model:
        for file in folder.iterdir():
            file.unlink()  # the disk may need the room
    return Converted(read_model(made), tokenizer, notes, libraries)


def _merge(opened: MergedCheckpoint, folder: Path, work: Workspace, run: RunOptions) -> None:
    tensors = hf_tensors(opened, "f32")
    outputs = safetensors_outputs(tensors, _SHARD_NBYTES)
    workers = choose_workers(run.device, run.threads)
    run_stream(tensors, outputs, merger(opened), work, workers, run.reporter, folder=folder)
    write_beside(opened, outputs, folder, "f32")


def _run(
    script: Path,
    folder: Path,
    made: Path,
    outtype: str,
    log: Path,
    model: Path,
    adapters: Sequence[AdapterSource],
) -> None:
    words = [sys.executable, os.path.abspath(script), os.path.abspath(folder)]
    words += ["--outfile", str(made), "--outtype", outtype]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    with log.open("wb") as file:
        # Interrupted, run() ends the process before it passes the interrupt on.
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=made.parent, env=environment, check=False
        )
    if done.returncode == 0 and made.is_file():
        return
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = " | ".join(lines[-_LAST_LINES:]) or "it said nothing"
    raise ArchitectureError(
        f"{model}: {script} ended with {ended_how(done.returncode)}: {said}",
        hint=f"update the checkout, or look at it by itself: {_by_hand(script, model, adapters)}",
    )


def _by_hand(script: Path, model: Path, adapters: Sequence[AdapterSource]) -> str:
    """The same in single steps."""
    if not adapters:
        return command("python", script, model, "--outfile", "OUT.gguf")
    options = [
        word
        for adapter in adapters
        for word in (
            ("--adapter", adapter.folder)
            if adapter.weight == 1
            else ("--adapter-scaled", adapter.folder, f"{adapter.weight:g}")
        )
    ]
    merge = command("quantkit", "merge", model, *options, "-o", "MERGED", "--dtype", "f32")
    return f"{merge}, then {command('python', script, 'MERGED', '--outfile', 'OUT.gguf')}"
