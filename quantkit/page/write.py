"""report.html: written next to the two files that it is made from."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.files.json_file import read_json
from quantkit.files.output_file import write_error
from quantkit.files.replace_file import replace_file
from quantkit.package.file_names import PAGE, REPORT
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.page.plots import require_plots
from quantkit.page.render import render_page
from quantkit.page.values import read_page
from quantkit.system.progress import Reporter


def write_page(folder: Path) -> Path:
    """Make report.html of a package, in the place of an earlier one.

    Raises:
        QuantkitError: it is no package, its report is damaged, matplotlib is missing, or the page cannot be written.
    """
    manifest = read_manifest(folder)
    source = folder / REPORT
    report = read_json(source) if source.is_file() else {}
    try:
        page = read_page(manifest, report)
    except ValueError as error:
        raise QuantkitError(
            f"{source}: {error}", hint=f"evaluate it again: quantkit evaluate {folder}; or take the original file"
        ) from None
    path = folder / PAGE
    # A label from a model may have half of a pair of surrogates.
    content = render_page(page).encode("utf-8", errors="replace")
    try:
        replace_file(path, content)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def add_page(folder: Path, reporter: Reporter) -> None:
    """Make the page of a package that was evaluated; without matplotlib say how to make it later.

    Raises:
        QuantkitError: as :func:`write_page`.
    """
    source = folder / REPORT
    if not source.is_file() or read_json(source).get("evaluation") is None:
        return
    try:
        require_plots()
    except QuantkitError as error:
        reporter.note(f"{PAGE} is not made: {error}; {error.hint}, then: quantkit report DIR")
        return
    write_page(folder)


def is_fresh(folder: Path) -> bool:
    """Whether the package has a page that is not older than what it is made from."""
    page = folder / PAGE
    sources = [path for name in (MANIFEST, REPORT) if (path := folder / name).is_file()]
    return page.is_file() and all(page.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in sources)
