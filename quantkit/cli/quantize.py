"""``quantkit quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.completers import complete_quant
from quantkit.cli.options import FOLDER, json_option, recipe_option, run_options, type_options
from quantkit.cli.output import print_file

if TYPE_CHECKING:
    from quantkit.jobs.run_options import RunOptions


@click.command("quantize")
@click.argument("gguf", type=FOLDER)
@recipe_option("out", required=True, metavar="FILE", help="GGUF file to write.")
@click.option(
    "--quant",
    required=True,
    metavar="TYPE",
    shell_complete=complete_quant,
    help="Type, as llama-quantize names it: q4_0, q8_0, q4_k_m, ...",
)
@type_options
@click.option(
    "--allow-requantize", is_flag=True, help="Quantize tensors that are already quantized, at a cost in quality."
)
@recipe_option("split_max_size")
@run_options("threads", "overwrite", "fsync", "resume")
@json_option
def command(
    gguf: Path,
    out: Path,
    quant: str,
    imatrix: Path | None,
    allow_requantize: bool,
    split_max_size: int | None,
    run: RunOptions,
    as_json: bool,
    **types: Any,
) -> None:
    """Quantize GGUF (f16, bf16 or f32; the first part of a split model) to one type, byte for byte as llama-quantize
    does."""
    from quantkit.ggml.types import ftype_name
    from quantkit.jobs.quantize import quantize

    path = quantize(
        gguf,
        out,
        quant=quant,
        imatrix=imatrix,
        allow_requantize=allow_requantize,
        split_max_size=split_max_size,
        run=run,
        **types,
    )
    print_file(out, path, ftype_name(quant), run.reporter.notes, as_json)
