"""``quantkit merge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.options import (
    FOLDER,
    adapter_options,
    compute_options,
    folder_or_id,
    json_option,
    print_json,
    reporter,
    require_model,
    size_value,
    write_options,
)
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import Source


@click.command("merge")
@click.argument("model", type=folder_or_id, required=False, metavar="MODEL")
@adapter_options(required=True)
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="Folder to write.")
@click.option("--max-shard-size", default="2GB", show_default=True, callback=size_value)
@click.option("--dtype", type=click.Choice(["auto", "bf16", "f16", "f32"]), default="auto", show_default=True)
@compute_options
@write_options
@json_option
def command(
    model: Source | None,
    adapters: tuple[AdapterSource, ...],
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
    from quantkit.jobs.merge import merge

    model = require_model(model, adapters)
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
