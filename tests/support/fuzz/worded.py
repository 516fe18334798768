"""Texts out of words: bytes below 128 are ASCII, each above is a word, so a fuzzer writes whole markers at once."""

from __future__ import annotations

from collections.abc import Sequence

_FIRST = 0x80


def text_of(data: bytes, words: Sequence[str]) -> str:
    """The text that *data* stands for."""
    return "".join(chr(byte) if byte < _FIRST else words[(byte - _FIRST) % len(words)] for byte in data)


def bytes_of(text: str, words: Sequence[str]) -> bytes:
    """Bytes that stand for a text: longer words first; what is no word and not in ASCII is left out."""
    found, at = bytearray(), 0
    known = sorted(enumerate(words[: 256 - _FIRST]), key=lambda one: -len(one[1]))
    while at < len(text):
        number = next((number for number, word in known if word and text.startswith(word, at)), None)
        if number is not None:
            found.append(_FIRST + number)
            at += len(words[number])
        else:
            found += text[at].encode("ascii", "ignore")
            at += 1
    return bytes(found)
