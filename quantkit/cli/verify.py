"""``quantkit verify``: checks that a package is unchanged and works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantkit.cli.options import FOLDER, json_option
from quantkit.cli.output import print_check, print_json, reporter
from quantkit.system.terminal_text import fitted, one_line, terminal_width

if TYPE_CHECKING:
    from quantkit.verify.folder import FolderReport
    from quantkit.verify.report import Report


@click.command("verify")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--source",
    type=FOLDER,
    metavar="MODEL",
    help="Folder of the checkpoint it was built from (default: compare with the prompts saved by the build).",
)
@click.option("--quick", is_flag=True, help="Do not read all weights: leave out their checksums.")
@click.option("--sha256", is_flag=True, help="Also print the sha256 of each file.")
@click.option("--threads", type=click.IntRange(min=1), help="Number of CPU threads (default: one per core).")
@json_option
def command(folder: Path, source: Path | None, quick: bool, sha256: bool, threads: int | None, as_json: bool) -> None:
    """Check a built package: files, checksums of the weights, manifest, Modelfile, chat template, prompts token by
    token, and a short answer.

    The exit code is 3 if a check failed.

    Example: quantkit verify my-model
    """
    from quantkit.errors import VerificationError
    from quantkit.system.shell import command as shown
    from quantkit.verify.folder import verify_folder

    found = verify_folder(
        folder, source=source, quick=quick, sha256=sha256, threads=threads, reporter=reporter(as_json)
    )
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    failed = [check.name for check in found.report.checks if not check.passed]
    if failed:
        raise VerificationError(
            f"{folder}: {len(failed)} of {len(found.report.checks)} checks failed: {', '.join(failed)}",
            hint=f"see the evidence above; rebuild it into a new folder: {shown('quantkit', 'build')} MODEL -o NEW_DIR",
        )


def print_runs(report: Report) -> None:
    """How each file ran, and what was not checked."""
    lines = [f"  {file}: {figures}" for file, figures in report.runs.items()]
    lines += [f"  not checked: {missing}" for missing in report.not_made]
    for line in lines:
        click.echo(fitted(line, terminal_width(), "    "))


def _print(found: FolderReport) -> None:
    report = found.report
    click.echo(click.style(one_line(str(found.folder)), bold=True))
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        print_check(check, f"{check.name:<{width}}")
    print_runs(report)
    for file, digest in found.sums.items():
        click.echo(one_line(f"{digest}  {file}"))
    if report.passed:
        click.echo(f"verified: {len(report.checks)} checks passed")
