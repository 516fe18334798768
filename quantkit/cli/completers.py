"""What the shell may complete, by the field of an option. Nothing here may load a library that takes long to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_path(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """For what click does not know to be a path: the shell completes the files it sees."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_quant(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The types of llama-quantize."""
    from quantkit.ggml.types import FTYPES

    return [name for name in FTYPES if name.startswith(incomplete.lower())]


def complete_tensor_type(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The types of single tensors."""
    from quantkit.ggml.types import ENCODABLE

    names = [kind.name.lower() for kind in ENCODABLE]  # the labels' letters, without loading libggml
    return [name for name in names if name.startswith(incomplete.lower())]


def complete_template(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of chat formats, and Jinja files."""
    from click.shell_completion import CompletionItem

    from quantkit.chat_template.format import FORMAT_NAMES

    # The path comes first: bash forgets what came before it.
    names = [CompletionItem(name) for name in ("auto", *FORMAT_NAMES) if name.startswith(incomplete)]
    return [*complete_path(ctx, parameter, incomplete), *names]


def complete_device(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The kinds of devices."""
    return [name for name in ("auto", "cpu", "cuda") if name.startswith(incomplete)]


COMPLETERS: Mapping[str, Callable[[click.Context, click.Parameter, str], Any]] = {
    "adapters": complete_path,
    "ignore": complete_path,
    "imatrix": complete_path,
    "quants": complete_quant,
    "output_tensor_type": complete_tensor_type,
    "token_embedding_type": complete_tensor_type,
    "template": complete_template,
    "device": complete_device,
}
"""By the name of a field of a recipe or a run."""
