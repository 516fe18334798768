"""``quantkit merge``."""

from __future__ import annotations

import re
from pathlib import Path

import click

from quantkit.cli.options import FOLDER, compute_options, json_option, print_json, reporter, write_options
from quantkit.units import size

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(ctx: click.Context, parameter: click.Parameter, value: str) -> int:
    """``2GB``, ``500MiB`` or a number of bytes, as transformers reads them."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
    nbytes = float(match[1]) * _UNITS.get(match[2].upper(), 0) if match else 0.0
    if not 1 <= nbytes < 2**63:
        raise click.BadParameter(f"{value[:40]!r} is not a size such as 2GB", ctx=ctx, param=parameter)
    return int(nbytes)


@click.command("merge")
@click.argument("model", type=FOLDER)
@click.option(
    "--adapter", "adapters", type=FOLDER, multiple=True, required=True, help="PEFT folder to merge. Repeatable."
)
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="Folder to write.")
@click.option("--max-shard-size", default="2GB", show_default=True, callback=parse_size)
@click.option("--dtype", type=click.Choice(["auto", "bf16", "f16", "f32"]), default="auto", show_default=True)
@compute_options
@write_options
@json_option
def command(
    model: Path,
    adapters: tuple[Path, ...],
    out: Path,
    max_shard_size: int,
    dtype: str,
    device: str,
    threads: int | None,
    overwrite: bool,
    fsync: bool,
    as_json: bool,
) -> None:
    """Merge adapters into MODEL and write a Hugging Face folder, for transformers, vLLM and training on."""
    from quantkit.convert import merge

    listener = reporter(as_json)
    path = merge(
        model,
        out,
        adapters=adapters,
        dtype=dtype,
        max_shard_size=max_shard_size,
        device=device,
        threads=threads,
        overwrite=overwrite,
        fsync=fsync,
        reporter=listener,
    )
    shards = sorted(path.glob("*.safetensors"))
    nbytes = sum(shard.stat().st_size for shard in shards)
    if as_json:
        print_json(
            {
                "schema": 1,
                "folder": str(path),
                "shards": [shard.name for shard in shards],
                "size": nbytes,
                "notes": listener.notes,
            }
        )
    else:
        click.echo(f"{out}  {len(shards)} shard{'s' if len(shards) != 1 else ''}  {size(nbytes)}")
