"""Texts that a tokenizer can read."""

from __future__ import annotations

from quantkit.errors import QuantkitError


def check_text(text: str, where: str) -> None:
    """Refuse halves of characters, which JSON can write and no tokenizer can read.

    Raises:
        QuantkitError: there is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QuantkitError(f"{where} is not valid Unicode: {error.reason}", hint="write it as UTF-8") from None
