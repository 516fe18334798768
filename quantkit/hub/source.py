"""The source of a model, as a value: a folder, or an id on a hub. Nothing here uses the network."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import HubError
from quantkit.hub.web_address import web_address

_MODELSCOPE = "modelscope:"
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9_](?:[A-Za-z0-9._/+-]*[A-Za-z0-9_+-])?))?")
_LONGEST = 96  # the hub's limit for an id, in characters
# Snapshots in the caches of huggingface_hub (models--ORG--NAME) and of modelscope (models/ORG--NAME).
_CACHED = re.compile(rf"models(?P<joint>--|/)(?P<org>{_PART})--(?P<name>{_PART})/snapshots/(?P<revision>[^/]+)")


@dataclass(frozen=True)
class HubId:
    """A model or an adapter on a hub.

    Attributes:
        repo: ``org/name``.
        revision: branch, tag or commit; empty for the hub's default branch.
        hub: ``huggingface`` or ``modelscope``.
    """

    repo: str
    revision: str = ""
    hub: str = "huggingface"

    @property
    def name(self) -> str:
        """The id without its organization."""
        return self.repo.rpartition("/")[2]

    def __str__(self) -> str:
        """The id as it is typed."""
        prefix = _MODELSCOPE if self.hub == "modelscope" else ""
        return f"{prefix}{self.repo}" + (f"@{self.revision}" if self.revision else "")


Source = Path | HubId


def parse_source(text: str, base: Path = Path()) -> Source:
    """Interpret *text*: a path that exists, else an id or a hub's web address, else a path that does not exist (opening
    it raises the error).

    Args:
        text: the source as typed.
        base: the folder that relative paths start from.

    Raises:
        HubError: *text* is empty, the web address of something else, or ``modelscope:`` is not followed by an id.
    """
    if not text:
        raise HubError(
            "the path or id of a model or an adapter is empty",
            hint="give a folder, or a Hugging Face id such as Qwen/Qwen2.5-0.5B",
        )
    path = base / text
    if os.path.exists(path):
        return path
    if text.startswith(_MODELSCOPE):
        found = hub_id(text.removeprefix(_MODELSCOPE), "modelscope")
        if found is None:
            raise HubError(
                f"{text!r} is not a ModelScope id", hint="write it as modelscope:org/name or modelscope:org/name@master"
            )
        return found
    if (address := web_address(text)) is not None:
        at = hub_id(address.id, address.hub)
        if at is None:
            raise HubError(
                f"{text!r} is not the address of a model on Hugging Face or ModelScope",
                hint="download it and give its folder, or give a Hugging Face id such as Qwen/Qwen2.5-0.5B",
            )
        return at
    return hub_id(text, "huggingface") or path


def hub_id(text: str, hub: str) -> HubId | None:
    """The id in *text*, ``org/name[@revision]``; None if it is none."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    repo, revision = match["repo"], match["revision"] or ""
    # "--" separates the parts of an id in the cache's folder names, so the hub forbids it within a part.
    if len(repo) > _LONGEST or "--" in repo or ".." in text or "//" in revision or repo.endswith(".git"):
        return None
    return HubId(repo, revision, hub)


def hub_origin(source: Source) -> HubId | None:
    """The id of a source, or of a snapshot in a hub client's cache; None for any other folder."""
    if isinstance(source, HubId):
        return source
    return cached_id(source.resolve().parts)


def cached_id(parts: Sequence[str]) -> HubId | None:
    """The id of a snapshot in a hub client's cache, by the parts of its path; None for any other path."""
    match = _CACHED.fullmatch("/".join(parts[-3:])) or _CACHED.fullmatch("/".join(parts[-4:]))
    if match is None:
        return None
    hub = "huggingface" if match["joint"] == "--" else "modelscope"
    return HubId(f"{match['org']}/{match['name']}", match["revision"], hub)


def source_name(source: Source) -> str:
    """A short name: that of the id, even if a path is its snapshot in the cache; else that of the folder."""
    origin = hub_origin(source)
    return origin.name if origin is not None else Path(str(source)).resolve().name


def source_label(source: Source) -> str:
    """The name for messages: ``org/name``, or that of the folder."""
    origin = hub_origin(source)
    return origin.repo if origin is not None else source_name(source)
