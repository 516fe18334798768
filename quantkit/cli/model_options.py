"""Options of the commands that load a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from quantkit.cli.completers import complete_path, complete_quant
from quantkit.system.processors import MOST_THREADS

F = TypeVar("F", bound=Callable[..., Any])


def gpu_layers_option(function: F) -> F:
    """``--n-gpu-layers`` of the commands that follow no package's own number."""
    return click.option(
        "--n-gpu-layers",
        type=click.IntRange(min=-1),
        default=-1,
        show_default=True,
        help="Layers to put on the GPU, -1 for all. No effect without GPU support.",
    )(function)


def ray_option(function: F) -> F:
    """``--ray`` of the commands whose work nodes divide."""
    return click.option(
        "--ray",
        "address",
        metavar="ADDRESS",
        help="Divide the work over the nodes of a Ray cluster that share the file system: auto, or HOST:PORT of its "
        "head.",
    )(function)


def quant_option(function: F) -> F:
    """``--quant`` of the commands that take one file of a folder."""
    return click.option(
        "--quant", metavar="TYPE", shell_complete=complete_quant, help="Which file of the folder (default: its first)."
    )(function)


def model_threads_option(function: F) -> F:
    """``--threads`` of the commands that let a model answer."""
    return click.option(
        "--threads",
        type=click.IntRange(1, MOST_THREADS),
        metavar="N",
        help="CPU threads of the model (default: one per processor that is free).",
    )(function)


def lora_option(help_text: str) -> Callable[[F], F]:
    """``--lora FILE[:SCALE]``, repeatable, as :class:`~quantkit.gguf.lora.ScaledLora`."""

    def read(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
        if not values:
            return ()
        from quantkit.gguf.lora import parse_lora

        if "" in values:
            raise click.BadParameter("the path is empty", ctx=ctx, param=parameter)
        return tuple(map(parse_lora, values))

    return click.option(
        "--lora",
        "loras",
        metavar="FILE[:SCALE]",
        multiple=True,
        callback=read,
        shell_complete=complete_path,
        help=f"{help_text} Repeatable.",
    )
