"""``quantkit prove``: compares a package's logits with transformers' own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.completers import complete_path
from quantkit.cli.options import FOLDER, adapter_options, folder_or_id, json_option, run_options
from quantkit.cli.output import print_check, print_json
from quantkit.system.terminal_text import one_line
from quantkit.system.units import rough_size, size

if TYPE_CHECKING:
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import Source
    from quantkit.jobs.run_options import RunOptions
    from quantkit.prove.plan import ProofPlan
    from quantkit.prove.proof import Proof


@click.command("prove")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--model",
    type=folder_or_id,
    metavar="MODEL",
    shell_complete=complete_path,
    help="The base it was built from: a folder or a Hugging Face id (default: the one that its manifest names).",
)
@adapter_options()
@click.option("--text", type=FOLDER, metavar="FILE", help="A text whose first 512 tokens are compared too.")
@run_options("device", "threads")
@json_option
def command(
    folder: Path,
    model: Source | None,
    adapters: tuple[AdapterSource, ...],
    text: Path | None,
    run: RunOptions,
    as_json: bool,
) -> None:
    """Compare a built package's logits with those of transformers' own model of base and adapters, in float32.

    The exit code is 3 if an unquantized file is off; quantized files are reported.

    Example: quantkit prove my-model --model Qwen/Qwen2.5-0.5B-Instruct --adapter my-lora
    """
    from quantkit.errors import VerificationError
    from quantkit.jobs.prove import prove

    proof = prove(folder, model=model, adapters=adapters, text=text, run=run)
    if as_json:
        print_json({"schema": 1, "folder": str(folder), **proof.to_json()})
    else:
        print_proof(proof)
    wrong = [check.name for check in proof.checks if not check.passed]
    if wrong:
        raise VerificationError(
            f"{folder}: not what transformers computes: {', '.join(wrong)}",
            hint="see the figures above; check that --model and --adapter are those it was built from",
        )


def print_proof(proof: Proof) -> None:
    """The proof for people: a line for each file, then what it took."""
    tokens = sum(used for _, used, _ in proof.sequences)
    held = "one layer at a time" if proof.by_layer else "whole"
    memory = "" if proof.memory is None else f", {size(proof.memory)} of memory"
    click.echo(
        f"proof: {tokens} tokens of {len(proof.sequences)} texts against transformers ({proof.device}, {held}{memory}; "
        f"{proof.seconds['transformers']:.1f} s), llama.cpp {proof.seconds['llama.cpp']:.1f} s"
    )
    for check in proof.checks:
        print_check(check)
        if check.passed:
            judged = f"within {check.threshold}; " if check.threshold else "quantized, so it is not judged; "
            click.echo("        " + one_line(judged + check.evidence))


def proof_line(plan: ProofPlan, threads: int) -> str:
    """The plan of a proof in one line."""
    held = "one layer at a time" if plan.by_layer else "all weights in float32, because PEFT needs them"
    return (
        f"about {rough_size(plan.memory)} of memory ({held}), {rough_size(plan.disk)} of temporary files, "
        f"{max(plan.seconds(threads), 10):.0f} s on this processor"
    )
