"""An entry of a folder's account, and what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantkit.checkpoint.known_files import Place, Role

READ_WEIGHTS = ("weights", "the adapter's tensors")
"""What the weights are called that are read."""
SHOWN: Mapping[Role, str] = {
    "read": "read",
    "harmless": "passed over",
    "alone": "passed over",
    "unknown": "unknown",
    "refused": "refused",
    "ignored": "ignored",
}
"""The roles in words."""


@dataclass(frozen=True)
class FileEntry:
    """A name of a folder.

    Attributes:
        name: relative to the folder, with ``/``, which also ends the name of a folder.
        role: ``read``; ``harmless`` and ``alone``: passed over; ``unknown``: passed over, and a build says so;
            ``refused``; ``ignored``: it would be refused, but the user said that it may be passed over.
        what: what it is, after the name and a colon.
        hint: what to do about a refused one.
        note: a sentence for the user, if there is something to know about what is passed over.
        cut_off: it may be why other files are missing, or are not what they seem.
    """

    name: str
    role: Role
    what: str
    hint: str = ""
    note: str = ""
    cut_off: bool = False


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        path: the folder.
        place: what it is.
        given: the folders of the adapters that are merged, resolved.
    """

    path: Path
    place: Place
    given: frozenset[Path]

    @property
    def merges_own(self) -> bool:
        """Whether an adapter in this folder, or one level down, is merged."""
        own = self.path.resolve()
        return any(one == own or one.parent == own for one in self.given)
