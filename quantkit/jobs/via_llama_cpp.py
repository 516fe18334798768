"""``--via-llama-cpp``: llama.cpp's own converter, for architectures that quantkit does not support.

The user gives a llama.cpp checkout; its ``convert_hf_to_gguf.py`` runs in a separate process. For a few models it loads
Python code from the model folder, which quantkit itself never does. Adapters are first merged, tensor by tensor, into a
temporary Hugging Face folder: what they change is written as float32, so that only the converter rounds, and files that
they do not change are linked. The result is a GGUF file like any other, and the job continues from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from quantkit.arch.families import refuse_half_converted, refuse_miscomputed
from quantkit.checkpoint.ignored import Ignored
from quantkit.engine.device import choose_workers, processor_workers
from quantkit.engine.gguf_source import gguf_tensors, open_source
from quantkit.errors import ArchitectureError, CheckpointError, QuantkitError
from quantkit.files.json_file import read_json
from quantkit.files.workspace import Workspace, workspace
from quantkit.ggml.types import UNQUANTIZED
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.fetch import fetch, folders_here
from quantkit.jobs.argument_kinds import FLAG, LIMIT
from quantkit.jobs.arguments import (
    AdaptersInput,
    PathInput,
    SizeInput,
    SourceInput,
    TextsInput,
    read_adapters,
    read_choice,
    read_path,
    read_size,
    read_source,
)
from quantkit.jobs.recipe_fields import IGNORE
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.jobs.run_stream import check_space, merger, run_stream, stream_files
from quantkit.model.adapter_checks import check_adapters, check_effects
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.model.every_file import check_every_file
from quantkit.model.opened import MergedCheckpoint
from quantkit.model.opening import open_merged
from quantkit.model.partly_merged import partly_merged, write_files_beside
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.system.child_process import ended_how
from quantkit.system.shell import command

_SCRIPT = "convert_hf_to_gguf.py"
# Where the sources of llama-cpp-python, a clone or pip's archive of them, have llama.cpp's.
_VENDORED = Path("vendor", "llama.cpp")
_LAST_LINES = 3


@dataclass(frozen=True)
class Converted:
    """The converter's result for a model and its adapters.

    Attributes:
        model: the GGUF file.
        tokenizer: folder of the chosen tokenizer.
        templates: folder of its chat templates.
        notes: notes of the merge.
        libraries: see :attr:`quantkit.model.opened.MergedCheckpoint.libraries`.
        effects: what each adapter changed.
    """

    model: GGUFModel
    tokenizer: Path
    templates: Path
    notes: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    effects: tuple[AdapterEffect, ...] = ()


def convert_via(
    checkout: PathInput,
    model: SourceInput,
    out: PathInput,
    *,
    adapters: AdaptersInput = (),
    merge_again: bool = False,
    outtype: str = "f16",
    split_max_size: SizeInput | None = None,
    ignore: TextsInput = (),
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Path:
    """As :func:`quantkit.jobs.convert.convert`, with the converter of a llama.cpp checkout.

    Args:
        checkout: the folder that contains ``convert_hf_to_gguf.py``.

    Raises:
        QuantkitError: naming what is wrong.
    """
    run = run_options(run, **keywords)
    base, changes, file = read_source("model", model), read_adapters("adapters", adapters), read_path("out", out)
    read_choice("outtype", outtype, UNQUANTIZED)
    again, limit = FLAG.read("merge_again", merge_again), read_size("split_max_size", split_max_size, LIMIT)
    known = IGNORE.read(ignore)
    llama_cpp = read_path("checkout", checkout)
    check_checkout(llama_cpp)
    refuse_resume(run)
    inputs = [*folders_here([base, *changes]), llama_cpp]
    with workspace(file, overwrite=run.overwrite, inputs=inputs, file=True, fsync=run.fsync) as work:
        folder, fetched = fetch(base, changes, run.reporter)
        converted = run_converter(
            *(llama_cpp, folder, fetched, file.stem, outtype, work, run), again=again, ignore=known
        )
        measured = check_effects(converted.effects, again=again)
        for note in (*converted.notes, *measured, *(effect.line for effect in converted.effects)):
            run.reporter.note(note)
        made = converted.model
        if limit is None:
            os.replace(made.path, work.path / work.final.name)
            return work.publish_files([work.final.name])
        tensors, metadata = gguf_tensors(made), list(made.header.metadata.values())
        outputs = unquantized_outputs(work.final.name, outtype, metadata, tensors, limit)
        with open_source(made) as source:
            return stream_files(
                tensors, outputs, source, work, processor_workers(run.threads), run.reporter, keep=False
            )


def refuse_resume(run: RunOptions) -> None:
    """Refuse to continue: the converter begins anew in any case.

    Raises:
        QuantkitError: it is asked for.
    """
    if run.resume:
        raise QuantkitError(
            "--resume cannot go with --via-llama-cpp: llama.cpp's converter cannot continue", hint="leave out --resume"
        )


def check_checkout(checkout: Path) -> Path:
    """The path of a checkout's converter: of llama.cpp, or of llama-cpp-python with llama.cpp in it.

    Raises:
        CheckpointError: the checkout has no converter.
    """
    scripts = [checkout / _SCRIPT, checkout / _VENDORED / _SCRIPT]
    for script in scripts:
        if script.is_file():
            return script
    raise CheckpointError(
        f"{checkout}: {_SCRIPT} is missing, so these are not the sources of llama.cpp or llama-cpp-python",
        hint="run git clone https://github.com/ggml-org/llama.cpp, then pass --via-llama-cpp llama.cpp; or run "
        "pip download --no-deps --no-binary :all: llama-cpp-python, unpack the archive, and pass its folder",
    )


def run_converter(
    checkout: Path,
    model: Path,
    adapters: Sequence[AdapterSource],
    name: str,
    outtype: str,
    work: Workspace,
    run: RunOptions,
    *,
    again: bool,
    ignore: Sequence[str] = (),
) -> Converted:
    """Merge the adapters, and run the converter with an output in the workspace's scratch folder.

    Args:
        checkout: the folder with the converter.
        model: the checkpoint's folder.
        adapters: in the order in which they are merged.
        name: name of the model; the converter takes it from the folder's name.
        outtype: ``f16``, ``bf16`` or ``f32``.
        work: the workspace; its scratch folder gets the merged weights and the file.
        run: how it runs.
        again: as in :func:`quantkit.model.adapter_checks.check_adapters`.
        ignore: as for :func:`quantkit.model.opening.open_merged`.

    Raises:
        ArchitectureError: the converter failed; with the end of its output.
        QuantkitError: something is wrong before that.
    """
    script = check_checkout(checkout)
    config, where = read_json(model / "config.json"), str(model / "config.json")
    refuse_miscomputed(config, where)
    refuse_half_converted(config, where)
    scratch = work.scratch()
    folder, tokenizer, templates = model, model, model
    notes: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    effects: tuple[AdapterEffect, ...] = ()
    if not adapters:
        notes = check_every_file(model, (), Ignored(tuple(ignore)))
        # At least: it does not say here how many bytes a weight has.
        nbytes = sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) // 2
    else:
        folder = scratch / name
        folder.mkdir()
        with open_merged(model, adapters, ignore) as opened:
            check_adapters(opened, again=again)
            effects = _merge(opened, folder, work, run)
            check_effects(effects, again=again)
            tokenizer, templates = opened.tokenizer.folder, opened.tokenizer.templates
            notes, libraries = opened.notes, opened.libraries
            nbytes = sum(UNQUANTIZED[outtype].nbytes(spec.shape) for spec in opened.checkpoint.tensors.values())
    made = scratch / "converted.gguf"
    check_space(work, nbytes)
    with run.reporter.phase("converting with llama.cpp", 1, "files") as progress:
        _run(script, folder, made, outtype, scratch / "log.txt", model, adapters)
        progress(1)
    if folder is not model:
        for file in folder.iterdir():
            file.unlink()  # free the disk space for the output
    return Converted(read_model(made), tokenizer, templates, notes, libraries, effects)


def _merge(opened: MergedCheckpoint, folder: Path, work: Workspace, run: RunOptions) -> tuple[AdapterEffect, ...]:
    plan = partly_merged(opened)
    workers = choose_workers(run.device, run.threads)
    source = merger(opened)
    run_stream(plan.tensors, plan.outputs, source, work, workers, run.reporter, folder=folder, keep=False)
    write_files_beside(opened, plan, folder)
    return source.effects()


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
        # If interrupted, run() ends the process before it raises the interrupt.
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=made.parent, env=environment, check=False
        )
    if done.returncode == 0 and made.is_file():
        return
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = " | ".join(lines[-_LAST_LINES:]) or "no output"
    raise ArchitectureError(
        f"{model}: {script} ended with {ended_how(done.returncode)}: {said}",
        hint=f"update the checkout, or run the converter separately: {_by_hand(script, model, adapters)}",
    )


def _by_hand(script: Path, model: Path, adapters: Sequence[AdapterSource]) -> str:
    """The commands for the same work in single steps."""
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
