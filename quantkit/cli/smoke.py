"""``quantkit smoke``: checks that a file chats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.model_options import gpu_layers_option, lora_option, model_threads_option
from quantkit.cli.options import FOLDER, json_option
from quantkit.cli.output import print_check, print_json, reporter
from quantkit.system.terminal_text import harmless, one_line

if TYPE_CHECKING:
    from quantkit.gguf.lora import ScaledLora
    from quantkit.verify.smoke_result import SmokeResult


@click.command(name="smoke")
@click.argument("path", metavar="GGUF|DIR", type=FOLDER)
@gpu_layers_option
@lora_option("Check the model with this LoRA file of llama.cpp beside it; SCALE 0.5 for half of it.")
@model_threads_option
@click.option(
    "--prompt",
    "prompts",
    metavar="TEXT",
    multiple=True,
    help="Question to ask instead of a greeting, e.g. --prompt 'Who are you?'. Repeatable.",
)
@click.option("--mmproj", type=FOLDER, metavar="FILE", help="Also show the model a picture, through this mmproj file.")
@click.option("--image", type=FOLDER, metavar="FILE", help="The picture, a JPEG or PNG file (default: stripes).")
@json_option
def command(
    path: Path,
    n_gpu_layers: int,
    loras: tuple[ScaledLora, ...],
    threads: int | None,
    prompts: tuple[str, ...],
    mmproj: Path | None,
    image: Path | None,
    as_json: bool,
) -> None:
    """Load a GGUF file, or each file of a built folder, hold a short conversation and check the answers.

    The exit code is 3 if a check failed.

    Example: quantkit smoke my-model
    """
    from dataclasses import replace

    from quantkit.errors import VerificationError
    from quantkit.files.json_file import SCHEMA
    from quantkit.gguf.lora import check_loras
    from quantkit.gguf.model import read_whole_model
    from quantkit.package.built import open_all
    from quantkit.verify.process import Request, check_file, checking
    from quantkit.verify.sight import check_sight, require_files

    if image is not None and mmproj is None:
        raise click.UsageError("--image needs --mmproj FILE: the part of the model that sees.")
    require_files(mmproj, image)
    results = []
    packages = open_all(path)
    for package in packages:
        check_loras(
            read_whole_model(package.gguf), (*package.loras, *loras)
        )  # a broken file is an error, not a model that fails a check
    progress = reporter(as_json)
    for number, package in enumerate(packages, 1):
        request = Request(package.gguf, package.system, n_gpu_layers, threads, prompts, loras=(*package.loras, *loras))
        result = check_file(request, progress, checking(number, len(packages))).smoke
        if mmproj is not None and result.passed:
            result = replace(result, checks=(*result.checks, *check_sight(package.gguf, mmproj, threads, image)))
        results.append(result)
        if not as_json:
            _print(result)
    passed = all(result.passed for result in results)
    if as_json:
        models = [result.to_json() for result in results]
        print_json({"schema": SCHEMA, "passed": passed, "models": models})
    if not passed:
        failed = [f"{result.gguf}: {check.name}" for result in results for check in result.checks if not check.passed]
        raise VerificationError(f"a check failed: {', '.join(failed)}", hint="see the evidence printed above")


def _print(result: SmokeResult) -> None:
    from quantkit.run.placement import placement
    from quantkit.run.speed import too_slow
    from quantkit.verify.sight import SEES

    click.echo(click.style(one_line(str(result.gguf)), bold=True))
    for check in result.checks:
        print_check(check)
        if check.name == SEES and check.passed:
            click.echo(f"  {harmless(check.evidence)}")
    for answer in result.answers:
        click.echo(f"  >>> {harmless(answer.prompt)}")
        click.echo(f"  {harmless(answer.text)}")
        click.echo(f"  (ended {one_line(answer.ended)})")
    if result.answers:
        click.echo(
            f"  load {result.load_seconds:.2f} s, prompt {result.prompt_rate:.1f} tokens/s, "
            f"generation {result.generation_rate:.1f} tokens/s, {placement(result.offloaded)}"
        )
        size = result.gguf.stat().st_size
        if result.offloaded.startswith("0/") and (note := too_slow(result.generation_rate, size)):
            click.echo(f"  note: {note}")
