"""Whether an adapter names the model that it is merged into.

People rename folders, so a name is no proof, and another one is a note. But an adapter for the instruct model also
fits the base model, and one that was trained on a merged model also fits what that was merged from: then a name is all
there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from quantkit.hub.base_name import full_precision_name
from quantkit.hub.source import HubId, cached_id, hub_origin, source_name
from quantkit.model.merge_record import read_merge_record

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_LONGEST = 80  # characters of a name in a note
_SEPARATORS = re.compile(r"[\s._-]+")


def base_notes(adapter: Path, settings: Mapping[str, Any], base: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Notes on a base whose name or revision is not that of the adapter's config.

    Args:
        adapter: the adapter's folder.
        settings: its ``adapter_config.json``.
        base: the base's folder.
        config: the base's ``config.json``.
    """
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        return
    names = [source_name(base), str(config.get("_name_or_path") or ""), _merged_from(base)]
    known = {_plain(name) for name in names if name}
    if _plain(named) not in known:
        yield (
            f"{source_name(adapter)} was trained on {_shown(named)} (base_model_name_or_path), and is merged into "
            f"{source_name(base)}: see that both have the same weights"
        )
        return
    origin, revision = hub_origin(base), settings.get("revision")
    if isinstance(revision, str) and origin and _other_commit(origin, revision):
        yield (
            f"{source_name(adapter)} was trained on revision {revision[:12]} of {_shown(named)}, and is merged into "
            f"revision {origin.revision[:12]}"
        )


def _merged_from(base: Path) -> str:
    """The name of the model that a merged folder was made from: adapters of one model may be merged one by one."""
    return read_merge_record(base).base


def _other_commit(origin: HubId, revision: str) -> bool:
    return all(map(_COMMIT.fullmatch, (origin.revision, revision))) and origin.revision != revision


def _shown(name: str) -> str:
    """An id as it is; of a path its last part: the folders of a training machine mean nothing here."""
    return (name if _ID.fullmatch(name) else _last(name))[-_LONGEST:]


def _last(name: str) -> str:
    """The last part of a path or an id."""
    path = PurePosixPath(name.replace("\\", "/"))  # of another machine: nothing is looked up on this one
    origin = cached_id(path.parts)
    return path.name or name if origin is None else origin.name


def _plain(name: str) -> str:
    """The last part of a name in lower case, without the suffix of a quantized copy."""
    last = _last(name)
    return _SEPARATORS.sub("-", (full_precision_name(last) or last).lower())
