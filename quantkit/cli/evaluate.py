"""``quantkit evaluate``: how good quantized files are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.model_options import gpu_layers_option, ray_option
from quantkit.cli.options import FOLDER, json_option, run_options
from quantkit.cli.output import print_json
from quantkit.system.terminal_text import columns, harmless, one_line, terminal_width
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.evaluate.evaluation import Evaluation
    from quantkit.jobs.run_options import RunOptions


@click.command("evaluate")
@click.argument("paths", metavar="GGUF|DIR...", type=FOLDER, nargs=-1, required=True)
@click.option(
    "--reference",
    type=FOLDER,
    metavar="GGUF",
    help="What the files are compared with (default: the unquantized file among or beside them, else the largest).",
)
@click.option(
    "--data",
    type=FOLDER,
    metavar="FILE",
    help="A text in UTF-8, or conversations as JSON lines (default: a text that comes with quantkit).",
)
@click.option(
    "--ctx",
    type=click.IntRange(min=8),
    metavar="N",
    help="Tokens of a chunk (default: 512, or what the model was trained with if that is less).",
)
@click.option("--chunks", type=click.IntRange(min=1), metavar="N", help="Evaluate at most this many chunks.")
@click.option(
    "--questions",
    type=FOLDER,
    metavar="FILE",
    help="Questions, one on each line, or conversations as JSON lines, that every file answers.",
)
@gpu_layers_option
@ray_option
@run_options("threads")
@json_option
def command(
    paths: tuple[Path, ...],
    reference: Path | None,
    data: Path | None,
    ctx: int | None,
    chunks: int | None,
    questions: Path | None,
    n_gpu_layers: int,
    address: str | None,
    run: RunOptions,
    as_json: bool,
) -> None:
    """Measure how good GGUF files are, compared with an unquantized one: KL divergence, perplexity, speed, memory.

    The figures are those of llama-perplexity --kl-divergence. All files of a built folder are evaluated, and the
    result is put into its report.json and on its card.

    Example: quantkit evaluate my-model --questions questions.txt
    """
    from quantkit.jobs.evaluate import evaluate, require_whole

    found = evaluate(
        paths,
        reference=reference,
        data=data,
        ctx=ctx,
        chunks=chunks,
        questions=questions,
        n_gpu_layers=n_gpu_layers,
        ray=address,
        run=run,
    )
    if as_json:
        print_json({"schema": 1, **found.to_json()})
    else:
        print_evaluation(found)
    require_whole(found)


def print_evaluation(found: Evaluation) -> None:
    """The evaluation for people: a line for each file, then the answers side by side."""
    text = found.text
    kind = "conversations" if text.tokens.conversations else "text"
    click.echo(
        one_line(
            f"evaluated on {text.positions} positions of the {kind} {text.tokens.name} "
            f"({text.chunks} chunks of {text.context} tokens), compared with {found.reference.name}"
        )
    )
    for lines in _tables(found):
        click.echo("\n" + "\n".join(lines))
    for number, question in enumerate(found.questions):
        click.echo(f"\n>>> {harmless(question)}")
        for who, answers in found.answers:
            click.echo(click.style(one_line(f"{who}:"), bold=True))
            click.echo("  " + harmless(answers[number].strip()).replace("\n", "\n  "))


_QUALITY = ("file", "size", "perplexity", "KL divergence", "same top")
_MORE = ("file", "bits", "99 % of KL", "prompt", "answer", "memory")


def _tables(found: Evaluation) -> Iterator[list[str]]:
    """The figures in columns, the reference first: two tables, which a terminal of 80 columns has room for."""
    perplexity, width = found.reference_perplexity, terminal_width()
    reference = (found.reference.name, size(found.reference_nbytes), measured(perplexity.value, perplexity.error))
    rows = [
        (
            one.file.name,
            size(one.nbytes),
            measured(one.figures.perplexity.value, one.figures.perplexity.error),
            f"{one.figures.kl.value:.5f} ± {one.figures.kl.error:.5f}",
            f"{100 * one.figures.same_top.value:.2f} %",
        )
        for one in found.files
    ]
    yield columns([_QUALITY, reference, *rows], width)
    more = [
        (one.file.name, f"{one.bits:.2f}", f"{one.figures.kl_percentiles['99.0']:.4f}", *_speed(one.speed))
        for one in found.files
    ]
    yield columns([_MORE, (found.reference.name, "", "", *_speed(found.reference_speed)), *more], width)


def measured(value: float, error: float) -> str:
    """A figure with its standard error, both with as many decimals as give the error two digits."""
    decimals = max(0, 1 - math.floor(math.log10(error))) if 0 < error < math.inf else 2
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _speed(speed: Any) -> tuple[str, str, str]:
    if speed is None:
        return "", "", ""
    memory = "" if speed.memory is None else size(speed.memory)
    return f"{speed.prompt_rate:.0f} t/s", f"{speed.answer_rate:.1f} t/s", memory
