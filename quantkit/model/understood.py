"""A checkpoint as its family sees it: every setting checked, every tensor under its own name and in its place.

Headers and JSON files suffice for this.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from quantkit.arch.base import Architecture, Rule
from quantkit.arch.families import class_notes, find_architecture
from quantkit.arch.mtp import KEEP, settle
from quantkit.arch.rope_override import RopeOverride, check_written, lost_theta_note, override_rope
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.language_part import language_part
from quantkit.checkpoint.tensor_names import bare
from quantkit.errors import ArchitectureError, CheckpointError
from quantkit.model.own_names import check_tensors, with_own_names
from quantkit.model.projector import Projector, read_projector

AS_SAVED = RopeOverride()


@dataclass(frozen=True)
class Understood:
    """A checkpoint of a supported family.

    Attributes:
        architecture: its family.
        checkpoint: with the family's settings and names of tensors.
        rules: the tensors of its language model.
        notes: on its settings.
        projector: its vision part, if that is wanted.
    """

    architecture: Architecture
    checkpoint: Checkpoint
    rules: list[Rule]
    notes: list[str]
    projector: Projector | None = None


def understand(
    opened: Checkpoint, rope: RopeOverride = AS_SAVED, mtp: str = KEEP, *, mmproj: bool = False
) -> Understood:
    """Find the family of a checkpoint, and check every tensor; a size that the config leaves out is named.

    Args:
        opened: the checkpoint as it is stored.
        rope: rotary settings that replace those of config.json.
        mtp: ``keep`` or ``drop`` layers for multi-token prediction.
        mmproj: also its vision part.

    Raises:
        CheckpointError, ArchitectureError: what does not fit.
    """
    found = _family(opened, rope, mtp, mmproj)
    try:
        check_tensors(found.checkpoint, [*found.rules, *(found.projector.rules if found.projector else ())])
    except CheckpointError as error:
        if not (left_out := found.architecture.sizes_left_out(opened.config)):
            raise
        raise CheckpointError(f"{error} ({left_out})", hint="add what is left out to config.json") from None
    return found


def _family(opened: Checkpoint, rope: RopeOverride, mtp: str, mmproj: bool) -> Understood:
    """What the family makes of the checkpoint; it is asked for everything here, to find a bad config."""
    try:
        architecture = find_architecture(opened.config, "config.json")
        config = architecture.settings(opened.config)
        notes = class_notes(opened.config)
        config, overridden = override_rope(config, rope) if rope else (config, [])
        guessing = settle(architecture.mtp, config, list(map(bare, opened.tensors)), mtp)
        config = guessing.config
        notes += [*overridden, *guessing.notes]
        entries = {entry.key: entry.value for entry in architecture.metadata(config)}
        check_written(entries, architecture.name, rope)
        if rope.theta is None:
            notes += lost_theta_note(language_part(opened.config), entries.get(f"{architecture.name}.rope.freq_base"))
        architecture.generated(config)
        rules = architecture.rules(config)
        projector = read_projector(opened, config) if mmproj else None
        notes += () if projector is None else projector.tower.notes
    except ArchitectureError as error:
        raise ArchitectureError(f"{opened.path}{os.sep}{error}", hint=error.hint) from None
    seen, unused = (None, ()) if projector is None else (projector.rules, projector.tower.unused)
    turned = architecture.stacks_may_be_turned
    named = with_own_names(opened, config, rules, seen, unused, guessing.dropped, guessing.why, turned=turned)
    return Understood(architecture, named, rules, notes, projector)
