"""``quantkit convert``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.options import (
    ARCHITECTURES_LINE,
    FOLDER,
    adapter_options,
    compute_options,
    folder_or_id,
    json_option,
    print_file,
    reporter,
    require_model,
    split_option,
    via_option,
    write_options,
)

if TYPE_CHECKING:
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import Source


@click.command("convert", epilog=ARCHITECTURES_LINE)
@click.argument("model", type=folder_or_id, required=False, metavar="MODEL")
@adapter_options()
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="GGUF file to write.")
@click.option("--outtype", type=click.Choice(["f16", "bf16", "f32"]), help="Default f16; f32 with --adapter-gguf.")
@click.option("--adapter-gguf", is_flag=True, help="Write the adapter by itself, for llama.cpp's --lora.")
@split_option
@via_option
@compute_options
@write_options
@json_option
def command(
    model: Source | None,
    adapters: tuple[AdapterSource, ...],
    out: Path,
    outtype: str | None,
    adapter_gguf: bool,
    split_max_size: int | None,
    via_llama_cpp: Path | None,
    device: str,
    threads: int | None,
    overwrite: bool,
    fsync: bool,
    as_json: bool,
) -> None:
    """Write the checkpoint MODEL, merged with its adapters, as one GGUF file."""
    from quantkit.jobs.convert import convert, convert_adapter
    from quantkit.jobs.via_llama_cpp import convert_via

    model = require_model(model, adapters)
    listener = reporter(as_json)
    if adapter_gguf:
        if len(adapters) != 1 or via_llama_cpp is not None or split_max_size is not None:
            raise click.UsageError("--adapter-gguf takes one --adapter, and no --via-llama-cpp or --split-max-size.")
        kind = outtype or "f32"
        path = convert_adapter(
            model,
            out,
            adapter=adapters[0],
            outtype=kind,
            threads=threads,
            overwrite=overwrite,
            fsync=fsync,
            reporter=listener,
        )
        print_file(out, path, kind, listener.notes, as_json)
        return
    outtype = outtype or "f16"
    run = convert if via_llama_cpp is None else partial(convert_via, via_llama_cpp)
    path = run(
        model,
        out,
        adapters=adapters,
        outtype=outtype,
        split_max_size=split_max_size,
        device=device,
        threads=threads,
        overwrite=overwrite,
        fsync=fsync,
        reporter=listener,
    )
    print_file(out, path, outtype, listener.notes, as_json)
