"""``quantkit merge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from quantkit.cli.completers import complete_path, complete_quant
from quantkit.cli.model_options import lora_option
from quantkit.cli.options import (
    adapter_options,
    folder_or_id,
    json_option,
    recipe_option,
    require_model,
    run_options,
    size_value,
)
from quantkit.cli.output import print_file, print_json
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.gguf.lora import ScaledLora
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import Source
    from quantkit.jobs.run_options import RunOptions


@click.command("merge")
@click.argument("model", type=folder_or_id, required=False, metavar="MODEL", shell_complete=complete_path)
@adapter_options()
@lora_option("LoRA file of llama.cpp to merge into MODEL, a GGUF file; SCALE 0.5 for half of it.")
@recipe_option("merge_again")
@recipe_option("out", required=True, help="Folder to write; with --lora, the GGUF file.")
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
@click.option(
    "--quant",
    metavar="TYPE",
    shell_complete=complete_quant,
    help="With --lora: the type of the file (default: each tensor keeps its own).",
)
@recipe_option("imatrix", help="With --lora: importance matrix for the types that use one.")
@click.option("--allow-requantize", is_flag=True, help="With --lora and --quant: as in quantkit quantize.")
@recipe_option("ignore")
@run_options("device", "threads", "overwrite", "fsync", "resume")
@json_option
def command(
    model: Source | None,
    adapters: tuple[AdapterSource, ...],
    loras: tuple[ScaledLora, ...],
    merge_again: bool,
    out: Path,
    max_shard_size: int,
    dtype: str,
    quant: str | None,
    imatrix: Any,
    allow_requantize: bool,
    ignore: tuple[str, ...],
    run: RunOptions,
    as_json: bool,
) -> None:
    """Merge adapters into MODEL and write a Hugging Face folder, for transformers, vLLM or further training.

    With --lora, MODEL and the result are GGUF files, and each tensor that changes is encoded again in its own type.

    Example: quantkit merge base-f16.gguf --lora my-lora.gguf:0.5 -o merged.gguf
    """
    _check_together(bool(adapters), bool(loras))
    if loras:
        if not isinstance(model, Path):
            raise click.UsageError("--lora is merged into a GGUF file: give its path as MODEL.")
        from quantkit.gguf.header import file_type_name, read_header
        from quantkit.jobs.merge_lora import merge_lora

        path = merge_lora(
            *(model, out),
            loras=loras,
            quant=quant,
            imatrix=imatrix,
            allow_requantize=allow_requantize,
            merge_again=merge_again,
            run=run,
        )
        print_file(out, path, file_type_name(read_header(path)) or "gguf", run.reporter.notes, as_json)
        return
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


def _check_together(adapters: bool, loras: bool) -> None:
    """Refuse options of the other kind of merge: what is not used would be passed over in silence."""
    ctx = click.get_current_context()
    if adapters == loras:
        raise click.UsageError(
            "--adapter is merged into a checkpoint, --lora into a GGUF file: give one of them."
            if adapters
            else "Missing option '--adapter' (or, for a GGUF file, '--lora')."
        )
    others = ("max_shard_size", "dtype", "ignore") if loras else ("quant", "imatrix", "allow_requantize")
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in others and given is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{parameter.opts[0]} does not go with {'--lora' if loras else '--adapter'}.")
