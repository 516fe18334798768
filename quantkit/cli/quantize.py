"""``quantkit quantize``."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import FOLDER, json_option, print_json, reporter, write_options
from quantkit.units import size


@click.command("quantize")
@click.argument("gguf", type=FOLDER)
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="GGUF file to write.")
@click.option("--quant", required=True, metavar="TYPE", help="q4_0, q8_0, q4_k_m, ... as llama-quantize names them.")
@click.option("--imatrix", type=FOLDER, help="Importance matrix of llama-imatrix (.gguf or .dat).")
@click.option("--pure", is_flag=True, help="One type for all tensors, no mixture.")
@click.option("--threads", type=click.IntRange(min=1), help="Workers; default one a core. The result is the same.")
@write_options
@json_option
def command(
    gguf: Path,
    out: Path,
    quant: str,
    imatrix: Path | None,
    pure: bool,
    threads: int | None,
    overwrite: bool,
    fsync: bool,
    as_json: bool,
) -> None:
    """Quantize GGUF (f16, bf16 or f32) to one type, byte for byte as llama-quantize does."""
    from quantkit.convert import quantize
    from quantkit.ggml_types import ftype_name

    listener = reporter(as_json)
    path = quantize(
        gguf,
        out,
        quant=quant,
        imatrix=imatrix,
        pure=pure,
        threads=threads,
        overwrite=overwrite,
        fsync=fsync,
        reporter=listener,
    )
    nbytes, name = path.stat().st_size, ftype_name(quant)
    if as_json:
        print_json({"schema": 1, "file": str(path), "type": name, "size": nbytes, "notes": listener.notes})
    else:
        click.echo(f"{out}  {name}  {size(nbytes)}")
