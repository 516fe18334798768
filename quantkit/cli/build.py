"""``quantkit build``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.choice import choice_plan_json, print_choice, print_choice_plan
from quantkit.cli.completers import complete_path
from quantkit.cli.evaluate import print_evaluation
from quantkit.cli.model_options import ray_option
from quantkit.cli.options import (
    ARCHITECTURES_LINE,
    FOLDER,
    adapter_options,
    folder_or_id,
    json_option,
    package_options,
    recipe_option,
    require_model,
    run_options,
    type_options,
)
from quantkit.cli.output import print_created, print_json
from quantkit.cli.plan import output_entry, print_plan
from quantkit.cli.prove import print_proof
from quantkit.cli.push import PushRequest, print_pushed, push_options
from quantkit.cli.verify import print_runs
from quantkit.engine import cuda_warmup
from quantkit.jobs.run_options import RECIPE_FILE_FIELDS
from quantkit.system.shell import command as shown
from quantkit.system.terminal_text import fitted, terminal_width
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.jobs.build import BuildResult
    from quantkit.jobs.ollama_create import CreatedModel
    from quantkit.jobs.push_result import PushResult
    from quantkit.jobs.recipe import Recipe
    from quantkit.jobs.run_options import RunOptions
    from quantkit.package.spec import PackageSpec


# Stages whose names in report.json are quantkit's own words.
_STAGES = {"stream": "write"}


@click.command("build", epilog=ARCHITECTURES_LINE)
@click.argument("model", type=folder_or_id, required=False, shell_complete=complete_path)
@adapter_options()
@recipe_option("merge_again")
@recipe_option("quants")
@recipe_option("size")
@recipe_option("bits")
@recipe_option("fit")
@recipe_option("choice_data")
@recipe_option("out")
@recipe_option("name")
@recipe_option("keep_f16")
@package_options
@recipe_option("thinking")
@recipe_option("outtype")
@recipe_option("rope_scaling")
@recipe_option("rope_theta")
@recipe_option("mtp")
@type_options
@recipe_option("calibrate")
@recipe_option("split_max_size")
@recipe_option("via_llama_cpp")
@recipe_option("adapter_gguf")
@recipe_option("mmproj")
@recipe_option("ignore")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--no-verify", is_flag=True, help="Skip every check that loads a model.")
@click.option(
    "--prove",
    is_flag=True,
    help="Compare the files' logits with those of transformers' own model, and fail if an unquantized file is off. "
    "Keeps the unquantized file.",
)
@click.option(
    "--evaluate",
    is_flag=True,
    help="Compare the quantized files with the unquantized one: KL divergence, perplexity, speed, memory.",
)
@click.option(
    "--evaluate-data",
    type=FOLDER,
    metavar="FILE",
    help="The text or conversations for --evaluate (default: a text that comes with quantkit). Implies --evaluate.",
)
@ray_option
@click.option("--profile", type=FOLDER, metavar="FILE", help="Write a timeline of the work (Chrome trace JSON).")
@click.option(
    "--recipe",
    "recipe_file",
    type=FOLDER,
    metavar="FILE",
    help="TOML file with these settings; options given here override it.",
)
@click.option(
    "--ollama",
    "ollama_name",
    metavar="NAME",
    help="Afterwards import the model into Ollama and test it with one question. With --overwrite a model of that name "
    "is replaced too.",
)
@push_options
@run_options("device", "threads", "overwrite", "fsync", "resume")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    dry_run: bool,
    no_verify: bool,
    prove: bool,
    evaluate: bool,
    evaluate_data: Path | None,
    address: str | None,
    profile: Path | None,
    recipe_file: Path | None,
    ollama_name: str | None,
    pushing: PushRequest | None,
    run: RunOptions,
    as_json: bool,
    **flags: Any,
) -> None:
    """Merge, convert, quantize, package and check MODEL in one pass over its weights."""
    if recipe_file is None:  # it may name another device
        cuda_warmup.begin(run.device)
    from quantkit.jobs.recipe import Recipe

    settings = {}
    if recipe_file:  # most builds have none
        from quantkit.jobs.recipe_file import read_recipe

        settings = read_recipe(recipe_file)
    in_file = {key: settings.pop(key) for key in RECIPE_FILE_FIELDS if key in settings}
    run = replace(run, **{key: value for key, value in in_file.items() if not _is_given(ctx, key)})
    settings |= {key: value for key, value in flags.items() if _is_given(ctx, key)}
    settings["model"] = require_model(
        settings.get("model"), settings.get("adapters", ()), otherwise=" (or --recipe with a model)"
    )
    recipe = Recipe(**settings)
    if dry_run:
        if recipe.asked is not None:
            _show_choice(recipe, run, as_json)
        else:
            _show_plan(recipe, run, as_json, prove=prove)
        return
    from quantkit.jobs.build import build

    planned: list[Callable[[PackageSpec], None]] = []
    if ollama_name is not None:  # what Ollama would refuse is said as soon as it is known: now, or with the plan
        from quantkit.jobs.ollama_create import check_ollama, check_planned

        check_ollama(ollama_name, overwrite=run.overwrite)
        planned.append(check_planned)
    if (push := None if pushing is None else pushing.plan(recipe, run)) is not None:
        planned.append(push.check)
    result = build(
        recipe,
        verify=not no_verify,
        prove=prove,
        evaluate=evaluate,
        evaluate_data=evaluate_data,
        profile=profile,
        ray=address,
        planned=_in_turn(planned),
        run=run,
    )
    made = None
    if ollama_name is not None:
        from quantkit.jobs.ollama_create import create_model, find_modelfile

        modelfile, _ = find_modelfile(result.folder)
        made = create_model(modelfile, ollama_name, overwrite=run.overwrite, reporter=run.reporter)
    pushed = None if push is None else push.push(result.folder, run)
    _print_result(recipe.folder, result, made, pushed, as_json)
    if result.evaluation is not None:
        from quantkit.jobs.evaluate import require_whole

        require_whole(result.evaluation)
    if not as_json and "quants" not in settings and recipe.asked is None and sys.stderr.isatty():
        from quantkit.jobs.advise import build_note

        run.reporter.note(build_note(recipe.name, result.plan, recipe.model))


def _show_choice(recipe: Recipe, run: RunOptions, as_json: bool) -> None:
    """Print what a choice of types would take."""
    from quantkit.jobs.choose import plan_choice, unquantized
    from quantkit.jobs.prepare import prepare

    with prepare(unquantized(recipe), run) as prepared:
        planned, threads = plan_choice(recipe, prepared), prepared.workers.threads
        if as_json:
            print_json({"schema": 1, "choice": choice_plan_json(planned, threads)})
        else:
            print_choice_plan(planned, threads)


def _show_plan(recipe: Recipe, run: RunOptions, as_json: bool, *, prove: bool) -> None:
    """Print what a build would write and need."""
    from quantkit.jobs.build_proof import proof_of
    from quantkit.jobs.memory_estimate import estimate_memory
    from quantkit.jobs.prepare import prepare

    proving = proof_of(recipe, run.reporter) if prove else None
    with prepare(recipe if proving is None else proving.recipe, run) as prepared:
        needs = None if proving is None else proving.plan(prepared)
        print_plan(prepared.plan, estimate_memory(prepared), as_json, needs)


def _in_turn(checks: Sequence[Callable[[PackageSpec], None]]) -> Callable[[PackageSpec], None]:
    def check(spec: PackageSpec) -> None:
        for one in checks:
            one(spec)

    return check


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _print_result(
    folder: Path, result: BuildResult, made: CreatedModel | None, pushed: PushResult | None, as_json: bool
) -> None:
    if as_json:
        print_json(_result_json(result, made, pushed))
        return
    mmproj = () if result.plan.mmproj is None else (result.plan.mmproj,)
    for output in (*result.plan.outputs, *mmproj, *result.plan.adapter_outputs):
        click.echo(f"{folder / output.file}  {size(output.nbytes)}")
    if result.plan.choice is not None:
        print_choice(result.plan.choice)
    for effect in result.effects:
        click.echo(fitted(effect.line, terminal_width(), "  "))
    if result.report is None:
        click.echo("not verified (--no-verify)")
    else:
        click.echo(f"verified: {len(result.report.checks)} checks passed")
        print_runs(result.report)
    if result.proof is not None:
        print_proof(result.proof)
    if result.evaluation is not None:
        print_evaluation(result.evaluation)
    stages = ", ".join(f"{_STAGES.get(stage, stage)} {value:.1f} s" for stage, value in result.seconds.items())
    click.echo(f"took {sum(result.seconds.values()):.1f} s ({stages})")
    if pushed is not None:
        print_pushed(pushed)
    if made is not None:
        print_created(made)
    else:
        click.echo(f"next: {shown('quantkit', 'chat', folder)}")


def _result_json(result: BuildResult, made: CreatedModel | None, pushed: PushResult | None) -> dict[str, Any]:
    plan, report = result.plan, result.report
    return {
        "schema": 1,
        "folder": str(result.folder),
        "outputs": [{"file": output.file, "quant": output.label, "size": output.nbytes} for output in plan.outputs],
        "adapter_outputs": [output_entry(output) for output in plan.adapter_outputs],
        **({} if plan.mmproj is None else {"mmproj": output_entry(plan.mmproj)}),
        "notes": list(plan.notes),
        "verified": report is not None,
        "checks": report.to_json()["checks"] if report else [],
        "not_made": list(report.not_made) if report else [],
        "effects": [effect.to_json() for effect in result.effects],
        "seconds": {stage: round(value, 3) for stage, value in result.seconds.items()},
        **({} if plan.choice is None else {"choice": plan.choice.to_json()}),
        **({} if result.proof is None else {"proof": result.proof.to_json()}),
        **({} if result.evaluation is None else {"evaluation": result.evaluation.to_json()}),
        **({"ollama": made.to_json()} if made is not None else {}),
        **({"push": pushed.to_json()} if pushed is not None else {}),
    }
