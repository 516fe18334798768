"""What a verification found: checks with figures, not a bare yes or no.

A check carries the evidence it was decided on, so that a reader of ``report.json`` can disagree with the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from quantkit.files.json_file import SCHEMA
from quantkit.system.child_process import ChildError
from quantkit.verify.expected import Expected


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was checked, in a few words.
        passed: whether it is as it must be.
        figure: what was found, such as "1" or "0.21 s".
        threshold: what was asked for, "" if the figure is for information.
        evidence: what the figure was taken from, for a reader who wants to see for themselves.
    """

    name: str
    passed: bool
    figure: str
    threshold: str
    evidence: str


def crashed(error: ChildError) -> Check:
    """The failed check for a process that did not come to its end."""
    return Check("llama.cpp runs", False, error.how, "the process ends well", error.output)


@dataclass(frozen=True)
class Report:
    """What one run found.

    Attributes:
        checks: in the order in which they were made.
        runs: by file, how it ran, in one line: times, speeds, how its answer ended.
        not_made: checks that could not be made, and why.
        prompts: conversations of many shapes as the model's own template and tokenizer write them: what the prompts
            were compared with.
    """

    checks: tuple[Check, ...]
    runs: Mapping[str, str] = field(default_factory=dict)
    not_made: tuple[str, ...] = ()
    prompts: tuple[Expected, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, with ``schema``."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "runs": dict(self.runs),
            "not_made": list(self.not_made),
        }
