"""LongRoPE without a longer context, as in MiniCPM: factors of the frequencies, and nothing else."""

from __future__ import annotations

from quantkit.arch.base import Config, positive
from quantkit.arch.rope import check_scaling, rope
from quantkit.errors import ArchitectureError


def stretched(config: Config) -> bool:
    """Whether frequencies have factors (LongRoPE).

    Raises:
        ArchitectureError: attention would be scaled too, of which the file says nothing.
    """
    settings = rope(config)
    if check_scaling(settings, ("longrope",)) != "longrope":
        return False
    trained, context = (
        positive(settings, "original_max_position_embeddings"),
        positive(config, "max_position_embeddings"),
    )
    if trained != context:
        raise ArchitectureError(
            f"config.json: rope_scaling with original_max_position_embeddings {trained} and max_position_embeddings "
            f"{context} is not supported: llama.cpp takes both for the latter"
        )
    return True
