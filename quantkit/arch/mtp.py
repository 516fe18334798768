"""Multi-token prediction: layers behind the last one that guess further tokens, for speculative decoding.

llama.cpp keeps them as layers of the file that its usual graph does not run. They are optional: transformers leaves
them out when it loads a model, so most fine-tuned checkpoints have lost them, and their config.json still counts them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.checkpoint.tensor_names import MTP
from quantkit.errors import ArchitectureError

KEEP, DROP = "keep", "drop"
CHOICES = (KEEP, DROP)


@dataclass(frozen=True)
class Mtp:
    """Where a family has its layers for multi-token prediction.

    Attributes:
        key: the setting with their number. Rules and metadata of the family follow from it.
        prefix: what the names of their tensors start with; ``{}`` stands for the number of the other layers.
        counted: llama.cpp reads a file that counts them and does not have them.
    """

    key: str
    prefix: str
    counted: bool = False


@dataclass(frozen=True)
class Settled:
    """What becomes of layers for multi-token prediction.

    Attributes:
        config: the config with the number of those that are written.
        dropped: what the names of tensors start with that are left out; empty for none.
        notes: for the user.
    """

    config: Mapping[str, Any]
    dropped: str = ""
    notes: tuple[str, ...] = ()


# Of Qwen3-Next and its successors.
QWEN = Mtp("mtp_num_hidden_layers", MTP)


def untrained(mtp: Mtp | None, config: Mapping[str, Any]) -> str:
    """What the names of their tensors start with, which no model in training has; empty if the family has none."""
    return mtp.prefix.format(config.get("num_hidden_layers")) if mtp else ""


def settle(mtp: Mtp | None, config: Mapping[str, Any], stored: Collection[str], choice: str = KEEP) -> Settled:
    """Decide what becomes of the layers for multi-token prediction.

    Args:
        mtp: the family's; None if it has none.
        config: the config as its family reads it.
        stored: names of the checkpoint's tensors, without those of wrappers.
        choice: ``keep`` what is there, or ``drop`` it.

    Raises:
        ArchitectureError: there are several layers, which the converter gives only one set of norms.
    """
    prefix = untrained(mtp, config)
    there = bool(prefix) and any(name.startswith(prefix) for name in stored)
    if choice == DROP:
        note = () if there else ("--mtp drop: the model has no layers for multi-token prediction",)
        return Settled({**config, mtp.key: None} if mtp else config, prefix if there else "", note)
    if mtp is None or mtp.counted:
        return Settled(config)
    said = config.get(mtp.key)
    if not there:
        lost = f"config.json counts {said} layers for multi-token prediction ({mtp.key}), but the checkpoint has none"
        return Settled({**config, mtp.key: None}, notes=(f"{lost}: none is written",) if said else ())
    if said not in (None, 0, 1):
        raise ArchitectureError(
            f"config.json: {mtp.key} {said!r} is not supported: llama.cpp takes one layer for multi-token prediction",
            hint="leave them out: --mtp drop",
        )
    return Settled({**config, mtp.key: 1})
