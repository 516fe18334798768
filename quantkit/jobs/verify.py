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
    sha256: bool = False,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> FolderReport:
    """Check a package: its files, its texts against its models, and what llama.cpp makes of its prompts.

    Args:
        folder: a package made by :func:`quantkit.jobs.build.build` or :func:`quantkit.jobs.package.package`.
        source: the checkpoint that it was built from; default the prompts that the build kept.
        sha256: also compare the sha256 of every tensor, and compute those of the files.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; only *threads* and *reporter* have an effect.

    Returns:
        The checks; a failed one raises nothing: see ``report.passed``.

    Raises:
        QuantkitError: it is not a package, or *source* has no tokenizer.
    """
    run = run_options(run, **keywords)
    return verify_folder(
        read_path("folder", folder),
        source=None if source is None else read_path("source", source),
        sha256=FLAG.read("sha256", sha256),
        threads=run.threads,
        reporter=run.reporter,
    )
