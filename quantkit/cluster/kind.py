"""What a node of a cluster is: its version of quantkit, and what the last digits of its results depend on."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

from quantkit import __version__
from quantkit.errors import QuantkitError
from quantkit.ggml.library import library_sizes


def check_version(asked: str) -> None:
    """Refuse questions of another quantkit.

    Args:
        asked: the version that asks.

    Raises:
        QuantkitError: it is another one.
    """
    if __version__ != asked:
        raise QuantkitError(
            f"quantkit {__version__} is installed on {platform.node()}, and {asked} asks it",
            hint="install the same version on every node",
        )


def node_kind(computing: str, cards: str) -> str:
    """Equal for nodes on which llama.cpp computes the same bits.

    Args:
        computing: of llama.cpp there, see :func:`quantkit.ggml.llama.computing`.
        cards: the graphics cards that compute, "" for none.
    """
    return json.dumps([version("llama_cpp_python"), library_sizes(), computing, cards])
