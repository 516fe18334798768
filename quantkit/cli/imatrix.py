"""``quantkit imatrix``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.completers import complete_path
from quantkit.cli.model_options import gpu_layers_option, ray_option
from quantkit.cli.options import (
    FOLDER,
    adapter_options,
    folder_or_id,
    json_option,
    recipe_option,
    require_model,
    run_options,
)
from quantkit.cli.output import print_json
from quantkit.system.shell import command as shown
from quantkit.system.terminal_text import one_line

if TYPE_CHECKING:
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import Source
    from quantkit.jobs.run_options import RunOptions


@click.command("imatrix")
@click.argument("model", type=folder_or_id, required=False, metavar="GGUF|DIR|MODEL", shell_complete=complete_path)
@adapter_options()
@recipe_option("out", required=True, metavar="FILE", help="File to write; an unfinished one is continued.")
@click.option(
    "--data",
    type=FOLDER,
    metavar="FILE",
    help="Text in UTF-8, or conversations (.jsonl, .json), which the model's own template renders (default: a text in "
    "English and Chinese that comes with quantkit).",
)
@click.option(
    "--chunks", type=click.IntRange(min=1), metavar="N", help="Chunks of the text to use at most (default: 256)."
)
@click.option(
    "--ctx", "context", type=click.IntRange(min=16), default=512, show_default=True, help="Tokens of a chunk."
)
@gpu_layers_option
@ray_option
@recipe_option("outtype", help="Precision of the file that is built from MODEL for this (default: f16).")
@run_options("device", "threads", "overwrite")
@json_option
def command(
    model: Source | None,
    adapters: tuple[AdapterSource, ...],
    out: Path,
    data: Path | None,
    chunks: int | None,
    context: int,
    n_gpu_layers: int,
    address: str | None,
    outtype: str,
    run: RunOptions,
    as_json: bool,
) -> None:
    """Write the importance matrix of a GGUF file, a built folder, or MODEL with its adapters, as llama-imatrix does.

    Ctrl-C leaves a file with what is done so far; the same command continues it.

    Example: quantkit imatrix Qwen/Qwen2.5-0.5B-Instruct --adapter my-lora --data train.jsonl -o imatrix.gguf
    """
    from quantkit.jobs.imatrix import imatrix

    model = require_model(model, adapters)
    made = imatrix(
        model,
        out,
        adapters=adapters,
        data=data,
        context=context,
        chunks=chunks,
        outtype=outtype,
        n_gpu_layers=n_gpu_layers,
        ray=address,
        run=run,
    )
    if as_json:
        print_json({"schema": 1, **made.to_json(), "file": str(out), "notes": run.reporter.notes})
        return
    click.echo(one_line(f"{out}  {made.tensors} tensors, {made.chunks} chunks of {made.context} tokens of {made.data}"))
    click.echo(f"next: {shown('quantkit', 'build', 'MODEL', '--imatrix', out, '--quant', 'q4_k_m')}")
