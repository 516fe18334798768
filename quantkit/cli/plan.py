"""Prints a plan: what ``build --dry-run`` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.output import print_json
from quantkit.cli.prove import proof_line
from quantkit.plan.name_ranges import joined_names
from quantkit.system.terminal_text import one_line
from quantkit.system.units import count, rough_size, size

if TYPE_CHECKING:
    from quantkit.jobs.memory_estimate import MemoryEstimate
    from quantkit.plan.values import Output, Plan
    from quantkit.prove.plan import ProofPlan


def print_plan(plan: Plan, needs: MemoryEstimate, as_json: bool, proof: ProofPlan | None) -> None:
    """The plan, with the memory it needs and, if asked for, the plan of a proof."""
    if as_json:
        print_json(
            {
                "schema": 1,
                "architecture": plan.architecture,
                "parameters": plan.parameters,
                "outputs": [
                    {
                        "file": output.file,
                        "quant": output.label,
                        "size": output.nbytes,
                        "tensors": {
                            name: {"type": slot.type.label, "offset": slot.offset, "size": slot.nbytes}
                            | ({"reason": slot.reason} if slot.reason else {})
                            for name, slot in output.tensors.items()
                        },
                    }
                    for output in plan.outputs
                ],
                "adapter_outputs": [output_entry(output) for output in plan.adapter_outputs],
                **({} if plan.mmproj is None else {"mmproj": output_entry(plan.mmproj)}),
                "memory": {"workers": needs.workers, "host": needs.host, "device": needs.device},
                "notes": list(plan.notes),
                **({} if proof is None else {"proof": {**asdict(proof), "seconds": proof.seconds(needs.workers)}}),
            }
        )
        return
    click.echo(f"architecture  {plan.architecture}, {count(plan.parameters)} weights, {len(plan.tensors)} tensors")
    for output in plan.outputs:
        click.echo(f"output        {output.file}  {size(output.nbytes)}")
        _print_types(output)
    for output in plan.adapter_outputs:
        click.echo(f"adapter       {output.file}  {size(output.nbytes)}")
    if plan.mmproj is not None:
        click.echo(f"mmproj        {plan.mmproj.file}  {size(plan.mmproj.nbytes)}")
    device = f", {rough_size(needs.device)} on each CUDA device" if needs.device else ""
    click.echo(f"memory        about {rough_size(needs.host)}{device} with {needs.workers} workers")
    if proof is not None:
        click.echo(f"proof         {proof_line(proof, needs.workers)}")
    for note in plan.notes:
        click.echo(f"note: {one_line(note)}")


def _print_types(output: Output) -> None:
    """How many tensors have each type, and which of them have it for a reason of their own."""
    by_type: dict[str, int] = {}
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, slot in output.tensors.items():
        by_type[slot.type.label] = by_type.get(slot.type.label, 0) + 1
        if slot.reason:
            by_reason.setdefault((slot.type.label, slot.reason), []).append(name)
    for kind, number in by_type.items():
        click.echo(f"  {kind:8} {number} tensor{'s' * (number != 1)}")
    for (kind, reason), names in by_reason.items():
        click.echo(one_line(f"  {kind:8} {reason}: {', '.join(joined_names(names))}"))


def output_entry(output: Output) -> dict[str, Any]:
    """A file that is no model: an adapter by itself, or the part that sees."""
    return {"file": output.file, "type": output.label, "size": output.nbytes}
