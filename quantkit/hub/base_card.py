"""What the card of a base model on Hugging Face says that a quantized copy's card repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

from quantkit.hub.hub_client import quiet
from quantkit.hub.outgoing import harmless_line

# A page that does not answer should not keep an upload waiting.
_SECONDS = 10.0


@dataclass(frozen=True)
class BaseCard:
    """The metadata of a base model's card; "" and () for what it does not say.

    Attributes:
        license: the hub's name of its license; of one that is ``other`` there, its own name.
        license_link: where its text is.
        languages: codes, such as ``en``.
        pipeline: what it does, such as ``text-generation``.
        trouble: why the card could not be read.
    """

    license: str = ""
    license_link: str = ""
    languages: tuple[str, ...] = ()
    pipeline: str = ""
    trouble: str = ""


def read_base_card(repo: str) -> BaseCard:
    """Ask the hub for the card of ``org/name``; if that fails, the result says why."""
    try:
        with quiet():
            data = HfApi().model_info(repo, timeout=_SECONDS).card_data
        found = data.to_dict() if data is not None else {}  # type: ignore[no-untyped-call]
    except (TypeError, KeyError, AttributeError, RecursionError):
        return BaseCard(trouble="the answer is not that of a hub")
    except RepositoryNotFoundError:
        return BaseCard(trouble="no such model, or it is private")
    except (TransportError, OfflineModeIsEnabled, OSError, ValueError) as error:
        return BaseCard(trouble=harmless_line(error))
    name = _text(found.get("license"))
    if name in ("other", ""):
        name = _text(found.get("license_name"))
    languages = found.get("language")
    link = _text(found.get("license_link"))
    if link and "://" not in link:  # a file of the repository
        link = f"https://huggingface.co/{repo}/blob/main/{link}"
    return BaseCard(
        license=name,
        license_link=link,
        languages=tuple(filter(None, map(_text, languages if isinstance(languages, list) else [languages]))),
        pipeline=_text(found.get("pipeline_tag")),
    )


def _text(value: Any) -> str:
    """A text, or the first of a list; cards are written by people."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else ""
    return value.strip() if isinstance(value, str) else ""
