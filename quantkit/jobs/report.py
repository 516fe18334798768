"""``quantkit report``: the page of a package."""

from __future__ import annotations

from pathlib import Path

from quantkit.jobs.arguments import PathInput, read_path
from quantkit.package.file_names import PAGE
from quantkit.package.manifest import read_manifest
from quantkit.page.write import is_fresh, write_page


def report(folder: PathInput) -> Path:
    """Make a package's report.html, if it is not there or older than the figures.

    Args:
        folder: a package made by :func:`quantkit.jobs.build.build`.

    Returns:
        The page: one file that needs neither the network nor scripts.

    Raises:
        QuantkitError: it is no package, its report is damaged, or matplotlib is not installed.
    """
    package = read_path("folder", folder)
    read_manifest(package)
    return package / PAGE if is_fresh(package) else write_page(package)
