"""``quantkit package``."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import FOLDER, json_option, package_options, print_json, reporter


@click.command("package")
@click.argument("ggufs", type=FOLDER, nargs=-1, metavar="[GGUF]...")
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="Folder to make.")
@click.option("--name", help="Name of the model; default the folder's name.")
@package_options
@click.option(
    "--modelfile",
    type=FOLDER,
    metavar="FILE",
    help="Start from this Modelfile; without GGUF, package the file of its FROM.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@json_option
def command(
    ggufs: tuple[Path, ...],
    out: Path,
    name: str | None,
    template: str,
    system: str | None,
    parameters: tuple[tuple[str, str], ...],
    messages: tuple[tuple[str, str], ...],
    modelfile: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write Modelfile, chat scripts, card and manifest beside GGUF files of one model."""
    if not ggufs and modelfile is None:
        raise click.UsageError("Missing argument 'GGUF...' (or --modelfile FILE).")
    from quantkit.jobs.package import package

    folder = package(
        ggufs,
        out,
        name=name,
        template=template,
        system=system,
        parameters=parameters,
        messages=messages,
        modelfile=modelfile,
        overwrite=overwrite,
        reporter=reporter(as_json),
    )
    files = sorted(path.name for path in folder.iterdir())
    if as_json:
        print_json({"schema": 1, "folder": str(folder), "files": files})
    else:
        for file in files:
            click.echo(str(out / file))
