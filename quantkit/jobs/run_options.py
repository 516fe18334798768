"""How a job runs, as opposed to what it makes. Of these options only the device can change bytes, by an ulp."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack

from quantkit.errors import QuantkitError
from quantkit.jobs.argument_kinds import COUNT, FLAG, TEXT
from quantkit.jobs.fields import Field, by_name, refuse_unknown
from quantkit.system.progress import Reporter

DEVICE = Field(
    "device",
    TEXT,
    "Where to compute: auto (default: CUDA if there is a device, else the processor), cpu, cuda or cuda:N.",
    default="auto",
    flags=("--device",),
    metavar="DEVICE",
    example="cuda:0",
)
THREADS = Field(
    "threads",
    COUNT,
    "Number of worker threads (default: one per core). Does not change the result.",
    flags=("--threads",),
    metavar="N",
    example=8,
)
OVERWRITE = Field(
    "overwrite",
    FLAG,
    "Replace an older output, and what a killed run left of it. A folder that quantkit did not make is never replaced.",
    default=False,
    flags=("--overwrite",),
)
FSYNC = Field(
    "fsync",
    FLAG,
    "fsync the output before renaming it into place, and what is finished every two seconds (safer, slower).",
    default=False,
    flags=("--fsync",),
)
RESUME = Field(
    "resume",
    FLAG,
    "Continue what a killed run left of this output, and leave what can be continued if this one fails or is "
    "interrupted. The same bytes as without an interruption.",
    default=False,
    flags=("--resume",),
)
RUN_FIELDS = by_name((DEVICE, THREADS, OVERWRITE, FSYNC, RESUME))
RUN_NAMES = (*RUN_FIELDS, "reporter")
# Those that a recipe file may have.
RECIPE_FILE_FIELDS = by_name((DEVICE, THREADS))


class RunKeywords(TypedDict, total=False):
    """The keyword arguments of :class:`RunOptions`, which the job functions take too."""

    device: str
    threads: int | None
    overwrite: bool
    fsync: bool
    resume: bool
    reporter: Reporter | None


@dataclass(frozen=True)
class RunOptions:
    """How a job runs.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` (all devices) or ``cuda:N``.
        threads: worker threads, None for one per core. Does not change the result.
        overwrite: replace an older output, and what a killed run left of it; a folder that quantkit did not make is
            never replaced.
        fsync: flush the output to the disk before and after the rename, and what is finished every two seconds, so that
            a power cut costs no more.
        resume: continue what a killed run left of this output, and leave what can be continued if this one fails or is
            interrupted; of jobs that stream a model's weights.
        reporter: hears of progress and notes; by default it says nothing and keeps the notes.

    Raises:
        QuantkitError: a value of another kind, by name.
    """

    device: str = "auto"
    threads: int | None = None
    overwrite: bool = False
    fsync: bool = False
    reporter: Reporter = field(default_factory=Reporter)
    resume: bool = False

    def __post_init__(self) -> None:
        for name, row in RUN_FIELDS.items():
            object.__setattr__(self, name, row.read(getattr(self, name)))
        if not isinstance(self.reporter, Reporter):
            raise QuantkitError(
                f"reporter is {repr(self.reporter)[:120]}; expected a quantkit.Reporter",
                hint="pass an object of a subclass of quantkit.Reporter, not the class",
            )


def run_options(run: RunOptions | None, **keywords: Unpack[RunKeywords]) -> RunOptions:
    """The options of a call: *run*, else the defaults, with the keywords in their place.

    Raises:
        QuantkitError: an unknown keyword, or a value of another kind.
    """
    refuse_unknown(keywords, RUN_NAMES, what="argument")
    if run is not None and not isinstance(run, RunOptions):
        raise QuantkitError(
            f"run is {repr(run)[:120]}; expected a quantkit.RunOptions",
            hint="write it as run=quantkit.RunOptions(threads=4)",
        )
    given: dict[str, Any] = dict(keywords)
    if given.get("reporter") is None:
        given.pop("reporter", None)
    return replace(run or RunOptions(), **given)
