"""``quantkit push``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantkit.cli.options import FOLDER, json_option, run_options
from quantkit.cli.output import print_json
from quantkit.system.terminal_text import harmless, one_line
from quantkit.system.units import size

if TYPE_CHECKING:
    from quantkit.jobs.build_push import PlannedPush
    from quantkit.jobs.push_result import PushResult
    from quantkit.jobs.recipe import Recipe
    from quantkit.jobs.run_options import RunOptions

F = TypeVar("F", bound=Callable[..., Any])

LICENSE_HELP = "The license's name as the hub spells it, such as apache-2.0 (default: found out)."
_OF_BUILD = ("target", "public", "license", "accept_license")


def push_options(function: F) -> F:
    """``--push`` and what belongs to it, as one argument ``pushing`` of :class:`PushRequest` or None."""

    @click.option(
        "--push",
        "push_target",
        metavar="TARGET",
        help="Afterwards push the package, if every check passed: hf:ORG/NAME, modelscope:ORG/NAME or "
        "ollama:NAMESPACE/NAME.",
    )
    @click.option("--public", "push_public", is_flag=True, help="With --push: let everybody see it.")
    @click.option("--license", "push_license", metavar="NAME", help=f"With --push. {LICENSE_HELP}")
    @click.option(
        "--accept-license",
        "push_accept_license",
        is_flag=True,
        help="With --push: push although the license does not allow it, is unknown, or asks for more.",
    )
    @wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        target, *others = (given.pop(f"push_{name}") for name in _OF_BUILD)
        if target is None and any(others):
            raise click.UsageError("--public, --license and --accept-license belong to --push TARGET.")
        if target is not None and given["no_verify"]:
            raise click.UsageError("--push only pushes what was checked, and --no-verify leaves the checks out.")
        pushing = None if target is None else PushRequest(target, *others)
        return function(*args, pushing=pushing, **given)

    return call  # type: ignore[return-value]


@dataclass(frozen=True)
class PushRequest:
    """What ``build --push`` says; attributes as of :class:`~quantkit.jobs.push_result.PushOptions`."""

    target: str
    public: bool
    license: str | None
    accept_license: bool

    def plan(self, recipe: Recipe, run: RunOptions) -> PlannedPush:
        """Check what can be checked before the build.

        Raises:
            QuantkitError: as :func:`quantkit.jobs.build_push.plan_push`.
        """
        from quantkit.jobs.build_push import plan_push
        from quantkit.jobs.push_result import PushOptions

        options = PushOptions(public=self.public, license=self.license, accept_license=self.accept_license)
        return plan_push(self.target, options, recipe, run)


@click.command("push")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("target", metavar="TARGET")
@click.option("--public", is_flag=True, help="Let everybody see it; without this, a new repository is private.")
@click.option("--branch", "--revision", metavar="NAME", help="Branch to push to; it is made if it does not exist.")
@click.option(
    "--base-model",
    "base_models",
    metavar="ORG/NAME",
    multiple=True,
    help="Model that it was made from, for the card (default: as the manifest says). Repeatable.",
)
@click.option("--license", "license_name", metavar="NAME", help=LICENSE_HELP)
@click.option(
    "--accept-license", is_flag=True, help="Push although the license does not allow it, is unknown, or asks for more."
)
@click.option("--dry-run", is_flag=True, help="Print every file, its size and the card, and send nothing.")
@run_options("threads", "overwrite")
@json_option
def command(
    folder: Path,
    target: str,
    public: bool,
    branch: str | None,
    base_models: tuple[str, ...],
    license_name: str | None,
    accept_license: bool,
    dry_run: bool,
    run: RunOptions,
    as_json: bool,
) -> None:
    """Push a built package to hf:ORG/NAME, modelscope:ORG/NAME or ollama:NAMESPACE/NAME.

    The files are compared with the manifest before, and with what arrived after. Only what the manifest lists is sent.
    After an interruption, run the command again: what arrived is not sent again. The token is that of the hub's own
    login, or of HF_TOKEN or MODELSCOPE_API_TOKEN. In Ollama, --overwrite replaces a model of that name.

    Example: quantkit push my-model hf:me/my-model-GGUF --dry-run
    """
    from quantkit.jobs.push import push

    done = push(
        folder,
        target,
        public=public,
        branch=branch,
        license=license_name,
        accept_license=accept_license,
        base_models=base_models,
        dry_run=dry_run,
        run=run,
    )
    if as_json:
        print_json({"schema": 1, **done.to_json()})
        return
    if dry_run:
        for file in done.files:
            click.echo(one_line(f"{file.sha256}  {file.nbytes:>13}  {file.name}"))
        if done.card:
            click.echo(f"\n{harmless(done.card)}")
    print_pushed(done)


def print_pushed(done: PushResult) -> None:
    """The result of a push."""
    seen = "private" if done.private else "public"
    if done.dry_run:
        what = f"{len(done.files)} files, {done.nbytes} bytes, would be pushed to {done.target} ({seen})"
        click.echo(one_line(what + "; nothing was sent"))
        return
    click.echo(one_line(f"pushed {len(done.files)} files, {size(done.nbytes)}, to {done.target} ({seen})"))
    if done.revision:
        click.echo("compared: sizes and hashes of all files are equal")
    click.echo(one_line(done.url))
