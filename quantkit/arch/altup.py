"""Alternating updates (AltUp, arXiv:2301.13310) and the learned low-rank residual (Laurel) of Gemma 3n."""

from __future__ import annotations

from quantkit.arch.base import Rule
from quantkit.arch.decoder import linear, vector

# Copies of the residual stream.
COPIES = 4
# llama.cpp multiplies by the matrices themselves.
WITHOUT_LORA = ("altup_router.weight", "altup_proj.weight", "altup_unembd_proj.weight")


def altup_rules(hidden: int) -> list[Rule]:
    """The tensors of one layer that predict and correct the copies."""
    return [
        *linear("altup.correction_coefs", "altup_correct_coef", COPIES, COPIES),
        Rule("altup.correct_output_scale", "altup_correct_scale.weight", (hidden,)),
        *linear("altup.prediction_coefs", "altup_predict_coef", COPIES**2, COPIES),
        *linear("altup.modality_router", "altup_router", COPIES, hidden),
        vector("altup.router_norm", "altup_router_norm", hidden),
    ]


def laurel_rules(hidden: int, rank: int) -> list[Rule]:
    """The low-rank residual of one layer."""
    return [
        *linear("laurel.linear_left", "laurel_l", rank, hidden),
        *linear("laurel.linear_right", "laurel_r", hidden, rank),
        vector("laurel.post_laurel_norm", "laurel_post_norm", hidden),
    ]


def stream_rules(hidden: int) -> list[Rule]:
    """What makes the copies of an embedding, and one stream of the copies."""
    return [
        Rule(
            tuple(f"model.{module}.{i}.weight" for i in range(COPIES - 1)),
            f"{target}.weight",
            (COPIES - 1, hidden, hidden),
        )
        for module, target in (
            ("altup_projections", "altup_proj"),
            ("altup_unembed_projections", "altup_unembd_proj"),
        )
    ]
