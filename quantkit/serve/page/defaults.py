"""What the page shows of a served model besides its name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from quantkit.run.options import Sampling
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings


def shown_defaults(settings: Settings, model: ChatModel) -> dict[str, Any]:
    """Return what applies where a request says nothing, under the names and with the values that requests have.

    ``defaults`` has each parameter of sampling and ``max_tokens`` (-1: a random seed, no limit). ``thinking`` has the
    variables of the chat template that let the model think, with their values, null for the template's own.
    """
    sampling = Sampling(**settings.sampling)
    limit = -1 if settings.max_tokens is None else settings.max_tokens
    seed = -1 if sampling.seed is None else sampling.seed
    return {
        "defaults": {**asdict(sampling), "seed": seed, "max_tokens": limit},
        "thinking": {name: settings.told.get(name) for name in model.answers.switches},
    }
