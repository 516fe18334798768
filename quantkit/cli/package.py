"""``quantkit package``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.model_options import lora_option
from quantkit.cli.options import FOLDER, json_option, package_options, recipe_option, run_options
from quantkit.cli.output import print_json

if TYPE_CHECKING:
    from quantkit.gguf.lora import ScaledLora
    from quantkit.jobs.run_options import RunOptions


@click.command("package")
@click.argument("ggufs", type=FOLDER, nargs=-1, metavar="[GGUF]...")
@recipe_option("out", required=True, help="Folder to create.")
@recipe_option("name", help="Name of the model (default: the folder's name).")
@package_options
@click.option(
    "--modelfile",
    type=FOLDER,
    metavar="FILE",
    help="Start from this Modelfile; without GGUF, package the file that its FROM names.",
)
@lora_option(
    "Run the models with this LoRA file of llama.cpp, unmerged; SCALE 0.5 for half of it. Ollama takes one, without a "
    "scale."
)
@run_options("overwrite")
@json_option
def command(
    ggufs: tuple[Path, ...],
    out: Path,
    name: str,
    modelfile: Path | None,
    loras: tuple[ScaledLora, ...],
    run: RunOptions,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write Modelfile, chat scripts, card and manifest beside GGUF files of one model."""
    if not ggufs and modelfile is None:
        raise click.UsageError("Missing argument 'GGUF...' (or --modelfile FILE).")
    from quantkit.jobs.package import package

    folder = package(ggufs, out, name=name, modelfile=modelfile, loras=loras, run=run, **settings)
    files = sorted(path.name for path in folder.iterdir())
    if as_json:
        print_json({"schema": 1, "folder": str(folder), "files": files})
    else:
        for file in files:
            click.echo(str(out / file))
