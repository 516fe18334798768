"""``build --push``: what speaks against it is said before anything is built; only a package that passed is pushed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.hub.source import hub_origin
from quantkit.hub.target import PushTarget, parse_target
from quantkit.jobs.ollama_create import check_planned
from quantkit.jobs.push import check_options, check_place, push
from quantkit.jobs.push_license import HUBS, push_license, require_accepted
from quantkit.jobs.push_result import PushOptions, PushResult
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions
from quantkit.package.spec import PackageSpec
from quantkit.system.shell import command


@dataclass(frozen=True)
class PlannedPush:
    """A push that follows a build.

    Attributes:
        target: where to.
        options: how.
        recipe: what is built.
    """

    target: PushTarget
    options: PushOptions
    recipe: Recipe

    def check(self, spec: PackageSpec) -> None:
        """Refuse a license that does not allow it, and what Ollama cannot load, as soon as the plan knows.

        Raises:
            HubError: with what speaks against it.
            OllamaError: as :func:`quantkit.jobs.ollama_create.check_planned`.
        """
        if self.target.place == "ollama":
            check_planned(spec)
        if self.options.accept_license:
            return
        origins = [hub_origin(one) for one in (self.recipe.model, *(one.source for one in self.recipe.adapters))]
        hub = HUBS.get(self.target.place, "")
        bases = [one.repo for one in origins if one is not None and one.hub == hub]
        require_accepted(self.target, push_license(spec.licenses, bases, self.target, stated=self.options.license))

    def push(self, folder: Path, run: RunOptions) -> PushResult:
        """Push the package that was built.

        Raises:
            QuantkitError: as :func:`quantkit.jobs.push.push`; the package stays, and the hint pushes it later.
        """
        options = self.options
        try:
            return push(
                folder,
                self.target,
                public=options.public,
                license=options.license,
                accept_license=options.accept_license,
                run=run,
            )
        except QuantkitError as error:
            later = command("quantkit", "push", self.recipe.folder, self.target)
            raise type(error)(
                f"{self.recipe.folder}: built, but not pushed: {error}", hint=f"{error.hint}; then: {later}"
            ) from None


def plan_push(target: str, options: PushOptions, recipe: Recipe, run: RunOptions) -> PlannedPush:
    """Check target and account before anything is built.

    Raises:
        HubError: an invalid target, or no account that may push.
        OllamaError: no server, or no name for it.
    """
    place = parse_target(target)
    check_options(place, options)
    check_place(place, overwrite=run.overwrite)
    return PlannedPush(place, options, recipe)
