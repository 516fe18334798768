"""``quantkit chat``: talk to a model."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from quantkit.cli.options import FOLDER


@click.command(name="chat")
@click.argument("path", metavar="GGUF|DIR", type=FOLDER)
@click.option("--system", metavar="TEXT", help="System prompt; without it, the one the folder was built with.")
@click.option(
    "--n-gpu-layers",
    type=click.IntRange(min=-1),
    default=None,
    help="Layers to put on the GPU, -1 for all (default: all that the build supports).",
)
def command(path: Path, system: str | None, n_gpu_layers: int | None) -> None:
    """Chat with a GGUF file or a built folder, offline.

    Ctrl-D, /bye or exit ends the chat; Ctrl-C stops an answer. In a pipe, each line is one turn of the conversation.

    Temperature and the like are those the folder was built with, else those in the file, else llama.cpp's defaults
    (temperature 0.8, top_k 40, top_p 0.95, min_p 0.05).
    """
    from quantkit.errors import QuantkitError
    from quantkit.run.chat import ChatLoop, chat_settings, enable_line_editing, load_options, start_conversation
    from quantkit.run.package import open_package
    from quantkit.run.session import ChatModel

    package = open_package(path)
    options = load_options(package.parameters)
    if n_gpu_layers is None:
        n_gpu_layers = -1 if options.n_gpu_layers is None else options.n_gpu_layers
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    if sys.stdin.isatty():
        click.echo(f"Loading {package.gguf.name} ...", err=True)
    with ChatModel.load(package.gguf, n_gpu_layers=n_gpu_layers, n_ctx=options.n_ctx, threads=options.threads) as model:
        if not model.chat_template:
            raise QuantkitError(
                f"{package.gguf}: the file has no chat template, so nobody knows how to talk to the model",
                hint="build it with --template llama-3 or --template chatml, as the model was trained",
            )
        loop = ChatLoop(
            model,
            chat_settings(model, package),
            start_conversation(package, system),
            out=sys.stdout,
            err=sys.stderr,
        )
        if sys.stdin.isatty():
            enable_line_editing()
            loop.run_terminal(input)
        else:
            loop.run_lines(sys.stdin)
