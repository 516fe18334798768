"""Where a model runs."""

from __future__ import annotations

_CPU_BUILD = "(CPU build)"


def offload_figure(offloaded: int, layers: int, *, supported: bool) -> str:
    """The layers on a GPU, such as "33/33" or "0/33 (CPU build)"."""
    figure = f"{offloaded}/{layers}"
    return figure if supported else f"{figure} {_CPU_BUILD}"


def placement(figure: str) -> str:
    """Say where a model runs, given its :func:`offload_figure`."""
    if figure.endswith(_CPU_BUILD):
        return "runs on the CPU (this llama-cpp-python has no GPU support)"
    return f"{figure} layers on the GPU"
