"""A recipe for a process in another folder, or on another machine that has the same paths."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.hub.source import Source
from quantkit.jobs.recipe import Recipe
from quantkit.material.data_file import CALIBRATION


def absolute(recipe: Recipe) -> Recipe:
    """The same recipe from any folder, which a node may be in."""

    def whole(path: Any) -> Any:
        return Path(os.path.abspath(path)) if isinstance(path, Path) else path

    def source(one: Source) -> Source:
        made: Source = whole(one)
        return made

    template = os.path.abspath(recipe.template) if os.path.isfile(recipe.template) else recipe.template
    return replace(
        recipe,
        model=source(recipe.model),
        adapters=tuple(replace(adapter, source=source(adapter.source)) for adapter in recipe.adapters),
        out=whole(recipe.folder),
        imatrix=whole(recipe.imatrix),
        calibrate=recipe.calibrate if recipe.calibrate == CALIBRATION else whole(recipe.calibrate),
        choice_data=recipe.choice_data if recipe.choice_data == CALIBRATION else whole(recipe.choice_data),
        via_llama_cpp=whole(recipe.via_llama_cpp),
        template=template,
    )
