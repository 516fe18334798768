"""The result of a verification: checks with figures, not only yes or no.

A check includes its evidence, so that a reader of ``report.json`` can disagree with the threshold.
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
    """One check.

    Attributes:
        name: what was checked, in a few words.
        passed: whether it passed.
        figure: what was found, such as "1" or "0.21 s".
        threshold: what is required, "" if the figure is only for information.
        evidence: where the figure comes from, for a reader who wants to see it.
    """

    name: str
    passed: bool
    figure: str
    threshold: str
    evidence: str


_AFTER_A_CRASH = (
    "try: quantkit smoke FILE --n-gpu-layers 0, which keeps the GPU out of it; then llama-cpp-python anew: "
    "pip install --force-reinstall --no-cache-dir llama-cpp-python"
)


def crashed(error: ChildError) -> Check:
    """Return the failed check for a process that crashed."""
    where = f" in {error.call}" if error.call else ""
    evidence = "\n".join(filter(None, (error.output, error.hint(_AFTER_A_CRASH))))
    return Check("llama.cpp runs", False, error.how + where, "the process ends normally", evidence)


@dataclass(frozen=True)
class Report:
    """The result of one run.

    Attributes:
        checks: the checks, in order.
        runs: by file, one line on how it ran: times, speeds, how its answer ended.
        not_made: checks that could not be made, and why.
        prompts: many kinds of conversation, rendered and encoded by the model's own template and tokenizer, with which
            the prompts were compared.
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
