"""Models and adapters by hub id: ``org/name[@revision]`` and ``modelscope:org/name[@revision]``.

The hubs' own clients do the work, with their cache, resume, token and offline switch; they are imported when an id is
met and never before. What comes back is a plain folder in the client's cache, and nothing behind this package knows
that it was ever anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.hub.adapter_source import AdapterLike, AdapterSource, adapter_sources
from quantkit.hub.files import Kind
from quantkit.hub.source import Source
from quantkit.system.progress import Reporter


def local_folder(source: Source, kind: Kind, reporter: Reporter) -> Path:
    """The folder of a source, downloaded into the hub client's cache if it is an id; a path is given back as it is.

    Args:
        source: of :func:`parse_source`.
        kind: what is expected there; ``any`` takes a model or an adapter.
        reporter: told what is downloaded before it is, and of the progress.

    Raises:
        HubError: it cannot be had, by reason.
    """
    if isinstance(source, Path):
        return source
    if source.hub == "modelscope":
        from quantkit.hub.modelscope import download
    else:
        from quantkit.hub.huggingface import download
    return download(source, kind, reporter)


def fetch(model: Source, adapters: Sequence[AdapterLike], reporter: Reporter) -> tuple[Path, tuple[AdapterSource, ...]]:
    """The folders of a model and its adapters. Adapters come first: they are small, and may be refused."""
    folders = tuple(
        replace(adapter, source=local_folder(adapter.source, "adapter", reporter))
        for adapter in adapter_sources(adapters)
    )
    return local_folder(model, "model", reporter), folders


def folders_here(sources: Iterable[AdapterLike]) -> list[Path]:
    """Those of the sources that are paths: inputs that an output must not replace."""
    return [one.source for one in adapter_sources(sources) if isinstance(one.source, Path)]
