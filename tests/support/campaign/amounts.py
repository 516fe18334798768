"""How long a campaign is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Amounts:
    """How many trials.

    Attributes:
        kills: of each subject.
        signals: of each subject and signal.
        sweep: every how-manieth call fails; 1 for each.
        others: of each other kind.
        farms: of the kills of ``farm``, and as many of nodes.
    """

    kills: int
    signals: int
    sweep: int
    others: int
    farms: int
