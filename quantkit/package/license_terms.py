"""What licenses of models say about passing on a quantized copy. A record of their terms, no legal advice.

Names are those of the Hugging Face hub (https://huggingface.co/docs/hub/repositories-licenses); a license that is not
on its list is ``other`` there, with a name and a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from quantkit.package.license_table import CONDITIONS, FREE, PHRASES

# Characters at the beginning of a text in which the license says its name.
_HEAD = 4000


@dataclass(frozen=True)
class LicenseTerms:
    """A license, as far as an upload needs it.

    Attributes:
        name: the hub's name, or that of a license which is ``other`` there; "" if it is unknown.
        listed: whether the name is on the hub's own list.
        link: where its text is, "" for one that everybody knows.
        shareable: whether it allows to pass on a changed copy; None if that is not known.
        conditions: what whoever passes it on must do.
        notices: sentences that a card must have.
        prefix: how the name of the copy must begin.
    """

    name: str = ""
    listed: bool = True
    link: str = ""
    shareable: bool | None = None
    conditions: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    prefix: str = ""

    def objections(self, name: str) -> tuple[str, ...]:
        """Why a copy under a name should not be uploaded without thinking; empty if the terms allow it.

        Args:
            name: of the repository, without its organization.
        """
        found = []
        if not self.name:
            found.append("the license is not known, and without one nobody but the owner may share a model")
        elif self.shareable is None:
            found.append(f"what the license {self.name} says about sharing is not known to quantkit")
        elif not self.shareable:
            found.append(f"the license {self.name} does not allow to share changed copies")
        if self.prefix and not _plain(name).startswith(_plain(self.prefix)):
            found.append(f"the license {self.name} requires a name that begins with {self.prefix!r}, not {name!r}")
        return tuple(found)


def license_terms(name: str, link: str = "") -> LicenseTerms:
    """The terms of a license by the hub's name for it, or the name of one that is ``other`` there.

    Args:
        name: such as ``apache-2.0``; in any case, with spaces or hyphens.
        link: where its text is, if that is known.
    """
    key = "-".join(name.strip().lower().split())
    if not key:
        return LicenseTerms()
    if key in FREE:
        return LicenseTerms(name=key, link=link, shareable=True)
    if (found := CONDITIONS.get(key)) is not None:
        return LicenseTerms(
            name=key,
            listed=found.listed,
            link=link or found.link,
            shareable=found.shareable,
            conditions=found.conditions,
            notices=found.notices,
            prefix=found.prefix,
        )
    return LicenseTerms(name=key, listed=False, link=link)


def license_of_texts(texts: Iterable[str]) -> str:
    """The name of the license whose text, or whose name, is among the texts; "" if none is recognized.

    Of several, one with conditions: code and weights of a model often have different ones.
    """
    found = [name for text in texts if (name := _license_of(" ".join(text.split())))]
    return next((name for name in found if name in CONDITIONS), found[0] if found else "")


def _license_of(text: str) -> str:
    key = text.lower().replace(" ", "-")
    if key in FREE or key in CONDITIONS:
        return key
    return next((name for pattern, name in PHRASES if pattern.search(text[:_HEAD])), "")


def _plain(name: str) -> str:
    """A name for comparison: in lower case, with spaces between its words."""
    return re.sub(r"[-_. ]+", " ", name.lower())
