"""``quantkit imatrix``: the importance matrix of a GGUF file, of a package, or of a checkpoint with its adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from quantkit.calibrate.imatrix_file import read_progress
from quantkit.calibrate.make import CONTEXT, Calibration, make_imatrix
from quantkit.errors import QuantkitError
from quantkit.files.replaceable import check_free
from quantkit.files.workspace import workspace
from quantkit.ggml.types import UNQUANTIZED
from quantkit.gguf.header import file_type_name
from quantkit.gguf.model import read_whole_model
from quantkit.hub.fetch import folders_here
from quantkit.jobs.argument_kinds import COUNT
from quantkit.jobs.arguments import (
    AdaptersInput,
    PathInput,
    SourceInput,
    read_adapters,
    read_choice,
    read_path,
    read_source,
)
from quantkit.jobs.convert import convert
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.material.ask import tokens_of
from quantkit.material.data_file import CALIBRATION
from quantkit.material.tokens import Tokens
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.system.progress import Reporter
from quantkit.system.units import size

MOST_CHUNKS = 256
"""Chunks that are used where nothing else is asked for: more text changes the importances little."""


def imatrix(
    model: SourceInput,
    out: PathInput,
    *,
    adapters: AdaptersInput = (),
    data: PathInput | None = None,
    context: int = CONTEXT,
    chunks: int | None = None,
    outtype: str = "f16",
    n_gpu_layers: int = -1,
    ray: str | None = None,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Calibration:
    """Write the importance matrix of a model, with the values of llama-imatrix for the same text.

    An unfinished file of an interrupted run is continued.

    Args:
        model: a GGUF file, a package (its unquantized file, else its largest), or a checkpoint's folder or hub id, of
            which an unquantized file is built for the time that it takes.
        out: the file to write.
        adapters: of a checkpoint: one or several, merged in this order.
        data: a text, or conversations as JSON lines; None for quantkit's own text.
        context: tokens of a chunk.
        chunks: how many chunks of the text are used at most; None for 256.
        outtype: precision of the file that is built of a checkpoint.
        n_gpu_layers: layers to put on a GPU, -1 for all; no effect in a build without GPU support.
        ray: address of a Ray cluster whose nodes share the file system, and divide the text among them.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`.

    Raises:
        QuantkitError: by name, whatever is wrong with model, data or output.
        KeyboardInterrupt: at Ctrl-C; the file then has what is done, and a note says so.
    """
    run = run_options(run, **keywords)
    source, file = read_source("model", model), read_path("out", out)
    merged, text = read_adapters("adapters", adapters), CALIBRATION if data is None else read_path("data", data)
    kind = read_choice("outtype", outtype, UNQUANTIZED)
    size_of, most = COUNT.read("context", context), None if chunks is None else COUNT.read("chunks", chunks)
    if read_progress(file) is None:
        check_free(file, overwrite=run.overwrite)
    with _gguf(source, merged, kind, file, run) as gguf:
        try:
            tokens = calibration_tokens(gguf, text, context=size_of, chunks=most, reporter=run.reporter)
            return make_imatrix(
                gguf,
                tokens,
                file,
                context=size_of,
                threads=run.threads,
                n_gpu_layers=n_gpu_layers,
                overwrite=run.overwrite,
                reporter=run.reporter,
                ray=ray,
            )
        except KeyboardInterrupt:
            done = read_progress(file)
            if done is not None:
                run.reporter.note(
                    f"{file} has {done.done} of {done.chunks} chunks and can be used as it is; run the same again to "
                    "go on with it"
                )
            raise


def calibration_tokens(gguf: Path, data: Path, *, context: int, chunks: int | None, reporter: Reporter) -> Tokens:
    """The tokens of the chunks that are used. The arguments are those of :func:`imatrix`.

    Raises:
        QuantkitError: the data or the file is broken, or the data is shorter than two chunks.
    """
    most = MOST_CHUNKS if chunks is None else chunks
    tokens = tokens_of(gguf, data, most * context + 1)
    if chunks is None and len(tokens.ids) > most * context:
        reporter.note(f"{data.name}: the first {most} chunks of {context} tokens are used; --chunks N for more")
    if len(tokens.ids) < 2 * context and most > 1:
        raise QuantkitError(
            f"{data}: {len(tokens.ids)} tokens; two chunks of {context} are the least",
            hint=f"give more text, or shorter chunks: --ctx {max(16, len(tokens.ids) // 4)}",
        )
    return replace(tokens, ids=tokens.ids[: most * context])


@contextmanager
def _gguf(source: SourceInput, adapters: AdaptersInput, kind: str, out: Path, run: RunOptions) -> Iterator[Path]:
    """The file to evaluate; one that is built is removed at the end.

    Raises:
        QuantkitError: it is not there, or there are adapters and no checkpoint.
    """
    folder = source if isinstance(source, Path) else None
    if folder is not None and (folder.is_file() or (folder / MANIFEST).is_file()):
        if adapters:
            raise QuantkitError(
                f"{folder}: adapters are merged into a checkpoint, and this is a GGUF model",
                hint="give the checkpoint: quantkit imatrix MODEL --adapter DIR -o FILE",
            )
        found = folder if folder.is_file() else _of_package(folder, run.reporter)
        label = file_type_name(read_whole_model(found).header)
        if label not in UNQUANTIZED:
            run.reporter.note(
                f"{found.name} is quantized ({label}), so these are the importances of the quantized model; an f16 "
                "file gives better ones"
            )
        yield found
        return
    place = out.with_name(f"{out.name}-{kind}")
    with workspace(place, overwrite=True, inputs=folders_here([read_source("model", source)])) as work:
        yield convert(source, work.path / "model.gguf", adapters=adapters, outtype=kind, run=replace(run))


def _of_package(folder: Path, reporter: Reporter) -> Path:
    """Its unquantized model, else the largest one."""
    manifest = read_manifest(folder)
    manifest.require_whole(folder, "imatrix")
    models = manifest.models
    unquantized = [model for model in models if model.quant in UNQUANTIZED]
    chosen = unquantized[0] if unquantized else max(models, key=lambda model: model.size)
    if not unquantized:
        reporter.note(f"{folder}: no unquantized file; {chosen.file} ({size(chosen.size)}) is used")
    return folder / chosen.file
