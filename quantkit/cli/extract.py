"""``quantkit extract``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.completers import complete_path
from quantkit.cli.options import folder_or_id, json_option, recipe_option, run_options
from quantkit.cli.output import print_json
from quantkit.system.shell import command as shown
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.hub.source import Source
    from quantkit.jobs.run_options import RunOptions


@click.command("extract")
@click.argument("tuned", type=folder_or_id, metavar="TUNED", shell_complete=complete_path)
@click.option(
    "--base", type=folder_or_id, required=True, metavar="MODEL", shell_complete=complete_path,
    help="The checkpoint that the training began with.",
)  # fmt: skip
@recipe_option("out", required=True, help="Folder to write, for PEFT and build --adapter.")
@click.option("--rank", type=click.IntRange(min=1), metavar="N", help="Largest rank of a matrix (default: 64).")
@click.option(
    "--error", type=float, metavar="E",
    help="Instead of --rank: what may be left of each matrix's difference, such as 0.1 for a tenth of its norm.",
)  # fmt: skip
@run_options("threads", "overwrite", "fsync")
@json_option
def command(
    tuned: Source,
    base: Source,
    out: Path,
    rank: int | None,
    error: float | None,
    run: RunOptions,
    as_json: bool,
) -> None:
    """Make a LoRA adapter (PEFT) from the difference between TUNED and its base.

    The difference of each linear layer is cut off after its first singular values. Norms, embeddings and biases that
    changed are in the adapter in full. extraction.json says what is left of each tensor.

    Example: quantkit extract my-finetune --base org/base --rank 32 -o my-lora
    """
    if rank is not None and error is not None:
        raise click.UsageError("--rank and --error: give one of them, the other follows from it.")
    from quantkit.jobs.extract import extract

    made = extract(tuned, out, base=base, rank=rank, error=error, run=run)
    if as_json:
        print_json({**made.to_json(), "notes": run.reporter.notes})
        return
    ranks = [tensor.rank for tensor in made.tensors if tensor.rank]
    worst = made.worst
    click.echo(f"{out}  {size(made.size)}, {len(ranks)} matrices of rank {min(ranks)} to {max(ranks)}")
    click.echo(one_line(f"of each difference at most {100 * worst.error:.3g} % is left ({worst.name})"))
    click.echo(f"next: {shown('quantkit', 'build', str(base), '--adapter', out)}")
