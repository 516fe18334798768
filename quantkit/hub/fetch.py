"""Models and adapters by hub id: ``org/name[@revision]`` and ``modelscope:org/name[@revision]``.

The hubs' own clients do the work, with their cache, resuming, token and offline switch; they are imported only when an
id is used. The result is a plain folder in the client's cache; code outside this package does not know that it was
downloaded.
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
    """The folder of a source: an id is downloaded into the hub client's cache, a path is returned unchanged.

    Args:
        source: the result of :func:`parse_source`.
        kind: what is expected; ``any`` accepts a model or an adapter.
        reporter: gets a note before the download, and its progress.

    Raises:
        HubError: it cannot be downloaded; the message says why.
    """
    if isinstance(source, Path):
        return source
    if source.hub == "modelscope":
        from quantkit.hub.modelscope import download
    else:
        from quantkit.hub.huggingface import download
    return download(source, kind, reporter)


def fetch(model: Source, adapters: Sequence[AdapterLike], reporter: Reporter) -> tuple[Path, tuple[AdapterSource, ...]]:
    """The folders of a model and its adapters. Adapters come first, because they are small and may be refused."""
    folders = tuple(
        replace(adapter, source=local_folder(adapter.source, "adapter", reporter))
        for adapter in adapter_sources(adapters)
    )
    return local_folder(model, "model", reporter), folders


def folders_here(sources: Iterable[AdapterLike]) -> list[Path]:
    """The sources that are paths: inputs that an output must not replace."""
    return [one.source for one in adapter_sources(sources) if isinstance(one.source, Path)]
