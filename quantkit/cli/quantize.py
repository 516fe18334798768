"""``quantkit quantize``."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import (
    FOLDER,
    json_option,
    print_file,
    reporter,
    split_option,
    type_options,
    write_options,
)


@click.command("quantize")
@click.argument("gguf", type=FOLDER)
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="GGUF file to write.")
@click.option("--quant", required=True, metavar="TYPE", help="q4_0, q8_0, q4_k_m, ... as llama-quantize names them.")
@type_options
@click.option(
    "--allow-requantize", is_flag=True, help="Quantize tensors that are quantized already; this costs quality."
)
@split_option
@click.option("--threads", type=click.IntRange(min=1), help="Workers; default one a core. The result is the same.")
@write_options
@json_option
def command(
    gguf: Path,
    out: Path,
    quant: str,
    imatrix: Path | None,
    pure: bool,
    leave_output_tensor: bool,
    output_tensor_type: str | None,
    token_embedding_type: str | None,
    tensor_types: tuple[str, ...],
    allow_requantize: bool,
    split_max_size: int | None,
    threads: int | None,
    overwrite: bool,
    fsync: bool,
    as_json: bool,
) -> None:
    """Quantize GGUF (f16, bf16 or f32; the first part of a split model) to one type, byte for byte as llama-quantize
    does."""
    from quantkit.ggml.types import ftype_name
    from quantkit.jobs.quantize import quantize
    from quantkit.plan.type_choices import parse_choices

    listener = reporter(as_json)
    path = quantize(
        gguf,
        out,
        quant=quant,
        imatrix=imatrix,
        choices=parse_choices(
            pure=pure,
            leave_output_tensor=leave_output_tensor,
            output_tensor_type=output_tensor_type,
            token_embedding_type=token_embedding_type,
            tensor_types=tensor_types,
        ),
        allow_requantize=allow_requantize,
        split_max_size=split_max_size,
        threads=threads,
        overwrite=overwrite,
        fsync=fsync,
        reporter=listener,
    )
    print_file(out, path, ftype_name(quant), listener.notes, as_json)
