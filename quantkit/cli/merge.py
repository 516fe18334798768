"""``quantkit merge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.completers import complete_path
from quantkit.cli.options import (
    adapter_options,
    folder_or_id,
    json_option,
    print_json,
    recipe_option,
    require_model,
    run_options,
    size_value,
)
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import Source
    from quantkit.jobs.run_options import RunOptions


@click.command("merge")
@click.argument("model", type=folder_or_id, required=False, metavar="MODEL", shell_complete=complete_path)
@adapter_options(required=True)
@recipe_option("merge_again")
@recipe_option("out", required=True, help="Folder to write.")
@click.option(
    "--max-shard-size",
    default="2GB",
    callback=size_value,
    metavar="SIZE",
    help="Largest size of a .safetensors file (default: 2GB); a larger tensor gets a file of its own.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bf16", "f16", "f32"]),
    default="auto",
    help="Precision of the weights (default: auto, the one that each tensor of MODEL has).",
)
@recipe_option("ignore")
@run_options("device", "threads", "overwrite", "fsync")
@json_option
def command(
    model: Source | None,
    adapters: tuple[AdapterSource, ...],
    merge_again: bool,
    out: Path,
    max_shard_size: int,
    dtype: str,
    ignore: tuple[str, ...],
    run: RunOptions,
    as_json: bool,
) -> None:
    """Merge adapters into MODEL and write a Hugging Face folder, for transformers, vLLM or further training."""
    from quantkit.jobs.merge import merge
    from quantkit.model.merge_record import read_merge_record

    model = require_model(model, adapters)
    path = merge(
        *(model, out),
        adapters=adapters,
        merge_again=merge_again,
        dtype=dtype,
        max_shard_size=max_shard_size,
        ignore=ignore,
        run=run,
    )
    effects = [merged.effect for merged in read_merge_record(path).adapters[-len(adapters) :]]
    shards = sorted(path.glob("*.safetensors"))
    nbytes = sum(shard.stat().st_size for shard in shards)
    if as_json:
        print_json(
            {
                "schema": 1,
                "folder": str(path),
                "shards": [shard.name for shard in shards],
                "size": nbytes,
                "effects": [effect.to_json() for effect in effects],
                "notes": run.reporter.notes,
            }
        )
    else:
        click.echo(f"{out}  {len(shards)} shard{'s' if len(shards) != 1 else ''}  {size(nbytes)}")
        for effect in effects:
            click.echo(one_line(effect.line))
