"""``quantkit advise``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quantkit.cli.completers import complete_path
from quantkit.cli.options import folder_or_id, json_option, size_or_zero, size_value
from quantkit.cli.output import print_json, reporter
from quantkit.system.shell import command as shown
from quantkit.system.terminal_text import columns, one_line
from quantkit.system.units import count, size

if TYPE_CHECKING:
    from quantkit.hub.source import Source
    from quantkit.jobs.advise import Advice


@click.command("advise")
@click.argument("source", metavar="MODEL|GGUF|DIR", type=folder_or_id, shell_complete=complete_path)
@click.option(
    "--memory",
    callback=size_value,
    metavar="SIZE",
    help="Main memory that the model may have, such as 8GB (default: nine tenths of this machine's).",
)
@click.option(
    "--vram",
    callback=size_or_zero,
    metavar="SIZE",
    help="Memory of a graphics card, 0 for none (default: that of the largest NVIDIA device here).",
)
@click.option("--ctx", type=click.IntRange(min=1), metavar="N", help="Tokens of context to recommend for.")
@json_option
def command(source: Source, memory: int | None, vram: int | None, ctx: int | None, as_json: bool) -> None:
    """Show which types of a model this machine can run, with size, memory and speed, and which one to take.

    Example: quantkit advise Qwen/Qwen2.5-0.5B-Instruct --memory 8GB --vram 6GB
    """
    from quantkit.jobs.advise import advise

    found = advise(source, memory=memory, vram=vram, ctx=ctx, reporter=reporter(as_json))
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, source)


def _print(found: Advice, source: Source) -> None:
    subject, machine = found.subject, found.machine
    click.echo(
        one_line(
            f"{subject.name}: {subject.architecture}, {count(subject.parameters)} weights in {subject.layers} layers, "
            f"trained for {subject.trained_context} tokens of context"
        )
    )
    card = f", a card with {size(machine.card)}" if machine.card else ""
    click.echo(
        f"memory for it: {size(machine.memory)}{card}; {machine.threads} processors read {size(machine.bandwidth)}/s"
    )
    fits = found.rows[0].fits
    contexts = sorted({fit.need.context for fit in fits})
    titles = ["", "file", "bits", *(f"{one // 1024}k" if one % 1024 == 0 else str(one) for one in contexts), "tokens/s"]
    lines = [titles]
    for row in found.rows:
        candidate = row.candidate
        cells = [candidate.name, size(candidate.nbytes), f"{candidate.weights.total * 8 / candidate.elements:.2f}"]
        for context in contexts:
            fit = row.at(context, "f16")
            cells.append("-" if fit is None else size(fit.memory.total) + ("" if fit.fits else " !"))
        chosen = row.at(found.context, "f16")
        speed = row.tokens_per_second if chosen is None else row.speed(chosen)
        lines.append([*cells, "card" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"])
        if machine.card:
            lines[-1].append("" if chosen is None else f"{chosen.placement.layers}/{chosen.placement.of}")
    if machine.card:
        titles.append("on the card")
    click.echo()
    click.echo("\n".join(columns(lines)))
    click.echo()
    caches = [["keys and values", *titles[3 : 3 + len(contexts)]]]
    for name in dict.fromkeys(fit.need.cache for fit in fits):
        sizes = (found.rows[0].at(context, name) for context in contexts)
        caches.append([name, *(("-" if fit is None else size(sum(fit.need.by_layer))) for fit in sizes)])
    click.echo("\n".join(columns(caches)))
    click.echo()
    taken = found.recommendation.row
    click.echo(one_line(f"take {taken.candidate.name}" if taken else "nothing fits") + ":")
    for reason in found.recommendation.why:
        click.echo(one_line(f"- {reason}"))
    for note in found.notes:
        click.echo(one_line(f"note: {note}"))
    if taken and taken.candidate.file is None:
        click.echo(f"next: {shown('quantkit', 'build', source, '--quant', taken.candidate.label)}")
