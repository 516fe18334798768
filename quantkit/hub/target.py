"""Where a package is pushed to, as a value. Nothing here uses the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from quantkit.errors import HubError
from quantkit.hub.source import HubId, hub_id

Place = Literal["hf", "modelscope", "ollama"]

_FORMS = {"hf": "hf:ORG/NAME", "modelscope": "modelscope:ORG/NAME", "ollama": "ollama:NAMESPACE/NAME"}


@dataclass(frozen=True)
class PushTarget:
    """A place for a package.

    Attributes:
        place: ``hf`` for Hugging Face, ``modelscope``, or ``ollama`` for its registry.
        name: ``org/name``; in Ollama ``namespace/name`` with a tag if one was given.
    """

    place: Place
    name: str

    def __str__(self) -> str:
        """The target as it is typed."""
        return f"{self.place}:{self.name}"

    @property
    def short(self) -> str:
        """The name without its organization."""
        return self.name.rpartition("/")[2]


def parse_target(text: str) -> PushTarget:
    """Interpret ``hf:ORG/NAME``, ``modelscope:ORG/NAME`` or ``ollama:NAMESPACE/NAME[:TAG]``.

    Raises:
        HubError: *text* is none of them, or not a name that the place accepts.
    """
    head, colon, name = text.partition(":")
    place = next((one for one in get_args(Place) if one == head and colon), None)
    if place is None:
        raise HubError(
            f"{text[:80]!r} is not a place to push to", hint=f"write it as one of: {', '.join(_FORMS.values())}"
        )
    if place == "ollama":
        return PushTarget(place, name)  # what Ollama accepts, its own module knows
    found = hub_id(name, "huggingface" if place == "hf" else place)
    if found is None:
        raise HubError(
            f"{name[:100]!r} is not the name of a repository: an organization or user, a slash and a name of letters, "
            "digits, '-', '_' and '.', 96 characters at most",
            hint=f"write it as {_FORMS[place]}",
        )
    if found.revision:
        raise HubError(
            f"{text}: a revision is not part of the target",
            hint=f"name the branch with --branch: {place}:{found.repo} --branch {found.revision}",
        )
    return PushTarget(place, found.repo)


def is_repository(name: str) -> bool:
    """Whether a text is ``org/name``, without a revision."""
    found = hub_id(name, "huggingface")
    return found == HubId(name)
