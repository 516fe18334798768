"""``quantkit verify``: is a package still what was built, and is it right?"""

from __future__ import annotations

from typing import Unpack

from quantkit.jobs.argument_kinds import FLAG
from quantkit.jobs.arguments import PathInput, read_path
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.verify.folder import FolderReport, verify_folder


def verify(
    folder: PathInput,
    *,
    source: PathInput | None = None,
    quick: bool = False,
    sha256: bool = False,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> FolderReport:
    """Check a package: its files and weights, its texts, and what llama.cpp makes of its prompts.

    Args:
        folder: a package made by :func:`quantkit.jobs.build.build` or :func:`quantkit.jobs.package.package`.
        source: the checkpoint that it was built from; default the prompts that the build kept.
        quick: leave out the checksums of the weights, so that they are not read as a whole.
        sha256: also compute the sha256 of each file.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; only *threads* and *reporter* have an effect.

    Returns:
        The checks; a failed one raises nothing: see ``report.passed``.

    Raises:
        QuantkitError: it is not a package, *source* has no tokenizer, or *quick* and *sha256* are both true.
    """
    run = run_options(run, **keywords)
    return verify_folder(
        read_path("folder", folder),
        source=None if source is None else read_path("source", source),
        quick=FLAG.read("quick", quick),
        sha256=FLAG.read("sha256", sha256),
        threads=run.threads,
        reporter=run.reporter,
    )
