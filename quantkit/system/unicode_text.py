"""Checks that a tokenizer can read a text."""

from __future__ import annotations

from quantkit.errors import QuantkitError


def check_text(text: str, where: str) -> None:
    """Refuse halves of characters (lone surrogates), which JSON can write but no tokenizer can read.

    Raises:
        QuantkitError: the text contains one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QuantkitError(f"{where} is not valid Unicode: {error.reason}", hint="write it as UTF-8") from None
