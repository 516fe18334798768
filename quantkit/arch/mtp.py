"""Multi-token prediction: layers behind the last one that guess further tokens, for speculative decoding.

llama.cpp keeps them as layers of the file that its usual graph does not run. They are optional: transformers leaves
them out when it loads a model, so most fine-tuned checkpoints have lost them, and their config.json still counts them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantkit.checkpoint.name_tables import MTP
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
        written: llama.cpp has a place for them; where it has none, they are left out, as its converter does.
    """

    key: str
    prefix: str
    counted: bool = False
    written: bool = True


@dataclass(frozen=True)
class Settled:
    """What becomes of layers for multi-token prediction.

    Attributes:
        config: the config with the number of those that are written.
        dropped: what the names of tensors start with that are left out; empty for none.
        why: they are left out.
        notes: for the user.
    """

    config: Mapping[str, Any]
    dropped: str = ""
    why: str = ""
    notes: tuple[str, ...] = ()


# Of Qwen3-Next and its successors.
QWEN = Mtp("mtp_num_hidden_layers", MTP)
# Of GLM-4.5 and its successors: a layer behind the others.
GLM = Mtp("num_nextn_predict_layers", "model.layers.{}.", counted=True)
# Of DeepSeek V3, which had it first.
DEEPSEEK = replace(GLM, written=False)
_WHAT = "multi-token prediction"


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
        why = f"{_WHAT} (--mtp drop)" if there else ""
        return Settled({**config, mtp.key: None} if mtp else config, prefix if there else "", why, note)
    if mtp is not None and not mtp.written:
        why = f"{_WHAT}, which llama.cpp does not have for this family" if there else ""
        return Settled(config, prefix if there else "", why)
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
