"""What a build is asked for besides its recipe, read and refused before anything is looked at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.hub.fetch import folders_here
from quantkit.jobs.argument_kinds import FLAG
from quantkit.jobs.arguments import PathInput, read_path
from quantkit.jobs.build_evaluation import require_quantized
from quantkit.jobs.build_proof import BuildProof, proof_of
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions


@dataclass(frozen=True)
class BuildRequest:
    """A build as it is asked for.

    Attributes:
        recipe: what to build; with a proof, its unquantized file is kept too.
        run: how it runs.
        verify: whether every GGUF file is loaded and checked.
        proving: the proof that was asked for, or None.
        evaluate: whether the quantized files are compared with the unquantized one.
        data: the text or conversations for that; None for the text that comes with quantkit.
        trace: file for the timeline, or None.
        ray: address of a Ray cluster, or None.
    """

    recipe: Recipe
    run: RunOptions
    verify: bool
    proving: BuildProof | None
    evaluate: bool
    data: Path | None
    trace: Path | None
    ray: str | None

    def inputs(self) -> list[Path]:
        """The files and folders here that the build reads, which the package must not replace."""
        recipe = self.recipe
        matrix = recipe.imatrix if isinstance(recipe.imatrix, Path) else None
        files = [matrix, recipe.calibrate, recipe.choice_data, Path(recipe.template), self.data]
        return [
            *folders_here([recipe.model, *recipe.adapters]),
            *(path for path in files if path is not None and os.path.isfile(path)),
            *([recipe.via_llama_cpp] if recipe.via_llama_cpp else []),
        ]


def read_build_request(
    recipe: Recipe,
    run: RunOptions,
    *,
    verify: bool,
    prove: bool,
    evaluate: bool,
    evaluate_data: PathInput | None,
    profile: PathInput | None,
    ray: str | None,
) -> BuildRequest:
    """Read the arguments of :func:`quantkit.jobs.build.build`.

    Raises:
        QuantkitError: one is something else, or two do not go together.
    """
    checked = FLAG.read("verify", verify)
    if recipe.via_llama_cpp is not None:
        from quantkit.jobs.via_llama_cpp import refuse_resume

        refuse_resume(run)
    proving = proof_of(recipe, run.reporter) if FLAG.read("prove", prove) else None
    recipe = recipe if proving is None else proving.recipe
    data = None if evaluate_data is None else read_path("evaluate_data", evaluate_data)
    if wanted := FLAG.read("evaluate", evaluate) or data is not None:
        require_quantized(recipe)
    if ray is not None:
        from quantkit.jobs.spread import require_spreadable

        require_spreadable(recipe)
        if run.resume:
            raise QuantkitError("--resume cannot go with --ray yet: nodes keep no journals", hint="leave out --resume")
    trace = None if profile is None else read_path("profile", profile)
    return BuildRequest(recipe, run, checked, proving, wanted, data, trace, ray)
