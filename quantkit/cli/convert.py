"""``quantkit convert``."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import FOLDER, compute_options, json_option, print_json, reporter, write_options
from quantkit.units import size


@click.command("convert")
@click.argument("model", type=FOLDER)
@click.option("--adapter", "adapters", type=FOLDER, multiple=True, help="PEFT folder to merge. Repeatable, in order.")
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="GGUF file to write.")
@click.option("--outtype", type=click.Choice(["f16", "bf16", "f32"]), default="f16", show_default=True)
@compute_options
@write_options
@json_option
def command(
    model: Path,
    adapters: tuple[Path, ...],
    out: Path,
    outtype: str,
    device: str,
    threads: int | None,
    overwrite: bool,
    fsync: bool,
    as_json: bool,
) -> None:
    """Write the checkpoint MODEL, merged with its adapters, as one GGUF file."""
    from quantkit.convert import convert

    listener = reporter(as_json)
    path = convert(
        model,
        out,
        adapters=adapters,
        outtype=outtype,
        device=device,
        threads=threads,
        overwrite=overwrite,
        fsync=fsync,
        reporter=listener,
    )
    nbytes = path.stat().st_size
    if as_json:
        print_json({"schema": 1, "file": str(path), "type": outtype, "size": nbytes, "notes": listener.notes})
    else:
        click.echo(f"{out}  {outtype}  {size(nbytes)}")
