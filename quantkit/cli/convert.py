"""``quantkit convert``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.completers import complete_path
from quantkit.cli.options import (
    ARCHITECTURES_LINE,
    adapter_options,
    folder_or_id,
    json_option,
    recipe_option,
    require_model,
    run_options,
)
from quantkit.cli.output import print_file

if TYPE_CHECKING:
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import Source
    from quantkit.jobs.run_options import RunOptions


@click.command("convert", epilog=ARCHITECTURES_LINE)
@click.argument("model", type=folder_or_id, required=False, metavar="MODEL", shell_complete=complete_path)
@adapter_options()
@recipe_option("merge_again")
@recipe_option("out", required=True, metavar="FILE", help="GGUF file to write.")
@recipe_option(
    "outtype", default=None, help="Precision of the weights in the file (default: f16; with --adapter-gguf f32)."
)
@recipe_option("adapter_gguf", help="Write the adapter as a LoRA file of its own, for llama.cpp's --lora.")
@recipe_option("split_max_size")
@recipe_option("rope_scaling")
@recipe_option("rope_theta")
@recipe_option("mmproj")
@recipe_option("mtp", default=None)
@recipe_option("via_llama_cpp")
@recipe_option("ignore")
@run_options("device", "threads", "overwrite", "fsync", "resume")
@json_option
def command(
    model: Source | None,
    adapters: tuple[AdapterSource, ...],
    merge_again: bool,
    out: Path,
    outtype: str | None,
    adapter_gguf: bool,
    split_max_size: int | None,
    rope_scaling: str | None,
    rope_theta: float | None,
    mmproj: bool,
    mtp: str | None,
    via_llama_cpp: Path | None,
    ignore: tuple[str, ...],
    run: RunOptions,
    as_json: bool,
) -> None:
    """Write the checkpoint MODEL, merged with its adapters, as one GGUF file."""
    from quantkit.jobs.convert import convert, convert_adapter
    from quantkit.jobs.via_llama_cpp import convert_via

    given: dict[str, Any] = {"rope_scaling": rope_scaling, "rope_theta": rope_theta, "mtp": mtp}
    asked = {key: value for key, value in given.items() if value is not None}
    if (adapter_gguf or via_llama_cpp is not None) and asked:
        raise click.UsageError(
            "--rope-scaling, --rope-theta and --mtp cannot go with --adapter-gguf or --via-llama-cpp."
        )
    if mmproj and (adapter_gguf or via_llama_cpp is not None):
        raise click.UsageError("--mmproj cannot go with --adapter-gguf or --via-llama-cpp.")
    model = require_model(model, adapters)
    if adapter_gguf:
        if len(adapters) != 1 or via_llama_cpp is not None or split_max_size:
            raise click.UsageError("--adapter-gguf takes one --adapter, and no --via-llama-cpp or --split-max-size.")
        kind = outtype or "f32"
        path = convert_adapter(model, out, adapter=adapters[0], outtype=kind, ignore=ignore, run=run)
    else:
        kind = outtype or "f16"
        convert_with = (
            partial(convert, **asked, mmproj=mmproj) if via_llama_cpp is None else partial(convert_via, via_llama_cpp)
        )
        path = convert_with(
            *(model, out),
            adapters=adapters,
            merge_again=merge_again,
            outtype=kind,
            split_max_size=split_max_size,
            ignore=ignore,
            run=run,
        )
    print_file(out, path, kind, run.reporter.notes, as_json)
