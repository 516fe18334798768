"""What ``build --size`` prints of a choice of types."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from quantkit.choose.groups import role_of
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.jobs.choose import ChoicePlan
    from quantkit.plan.choice import Choice, ChosenTensor


def print_choice(choice: Choice) -> None:
    """The types by role, what they cost, and the options that give the same file."""
    click.echo(
        f"chosen: {choice.nbytes:,} bytes, {choice.bits_per_weight:.3f} bits per weight, predicted KL divergence "
        f"{choice.predicted_kl:.5f} on {one_line(choice.text)} ({choice.evaluations} evaluations, importance matrix: "
        f"{'yes' if choice.importance else 'no'})"
    )
    if (other := choice.compared) is not None:
        click.echo(f"  {other.quant} would have {other.nbytes:,} bytes and a predicted {other.predicted_kl:.5f}")
    roles: dict[str, list[ChosenTensor]] = {}
    for tensor in choice.tensors:
        roles.setdefault(role_of(tensor.name)[0].removesuffix(".weight"), []).append(tensor)
    width = max(map(len, roles))
    for role, tensors in roles.items():
        counts = Counter(tensor.type for tensor in tensors)
        types = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        nbytes, kl = sum(tensor.nbytes for tensor in tensors), sum(tensor.kl for tensor in tensors)
        share = kl / choice.predicted_kl if choice.predicted_kl else 0.0
        click.echo(f"  {role:{width}}  {size(nbytes):>9}  {share:4.0%} of the divergence  {types}")
    again = " and the same importance matrix" if choice.importance else ""
    click.echo(f"  the same file, with these options{again}:\n    --quant {choice.quant} \\")
    lines = [f"    --tensor-type '{one}'" for one in choice.tensor_types]
    click.echo(" \\\n".join(lines))


def print_choice_plan(needs: ChoicePlan, workers: int) -> None:
    """What a choice takes."""
    click.echo(
        f"choice        at most {needs.nbytes:,} bytes ({needs.least:,} to {needs.most:,} are possible), types for "
        f"{len(needs.candidates)} tensors"
    )
    seconds = needs.seconds(workers)
    time = f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    click.echo(
        f"              {needs.evaluations} evaluations of {needs.tokens} tokens, in all about {time} on processors; "
        f"{size(needs.disk)} of intermediate files"
    )


def choice_plan_json(needs: ChoicePlan, workers: int) -> dict[str, object]:
    """The same as JSON values."""
    return {
        "bytes": needs.nbytes,
        "least": needs.least,
        "most": needs.most,
        "tensors": {tensor.name: [kind.label for kind in kinds] for tensor, kinds in needs.candidates.items()},
        "evaluations": needs.evaluations,
        "tokens": needs.tokens,
        "seconds": round(needs.seconds(workers), 1),
        "disk": needs.disk,
    }
