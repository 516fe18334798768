"""Long texts: how many tokens they have at least, and where they can be divided without changing a token.

llama.cpp's time to tokenize grows with the square of the special tokens in a text (ggml-org/llama.cpp#12724): 32,000 of
them take half a minute, and nothing can end that. A special token whose text overlaps no other special token's is found
wherever it stands, and what stands before it cannot change what comes after. So a text may be divided in front of it,
and its occurrences are as many tokens. So it is with runs of one character of which special tokens are made (line ends
and blanks): the first token of a run begins it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.ggml.llama import llama_cpp

SHORT = 8192
"""Characters; up to here a text is not worth dividing."""

_MARKER = 64  # characters of the longest special token that is looked for
_MOST_PARTS = 4_000_000  # Gemma 3 has one million
_SPECIALS = 256  # a piece has so many at most
_BYTES = frozenset([*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 256 + 68)])  # GPT-2's alphabet
_WHITE = re.compile(rb"[ \t\n\v\f\r]+")


@dataclass(frozen=True)
class LongTexts:
    """What is known of a vocabulary.

    Attributes:
        dividing: finds the special tokens in front of which a text can be divided; None if there are none.
        longest: no token stands for more bytes; 0 if bytes may stand for no token.
        strips: whether special tokens swallow the white space around them.
    """

    dividing: re.Pattern[str] | None
    longest: int
    strips: bool

    def least_tokens(self, text: str) -> int:
        """A number of tokens that *text* has at least."""
        specials = 0

        def count(found: re.Match[str]) -> str:
            nonlocal specials
            specials += 1
            return ""

        rest = text if self.dividing is None else self.dividing.sub(count, text)
        if not self.longest:
            return specials
        data = rest.encode(errors="replace")
        size = len(_WHITE.sub(b"", data) if self.strips else data)
        return specials - (-size // self.longest)

    def pieces(self, text: str) -> Iterator[str]:
        """Divide *text*: the tokens of the pieces are its tokens."""
        start = 0
        if self.dividing is not None:
            for number, found in enumerate(self.dividing.finditer(text), 1):
                if number % _SPECIALS == 0:
                    yield text[start : found.start()]
                    start = found.start()
        yield text[start:]


def long_texts(vocabulary: Any, model: str | None) -> LongTexts:
    """What is known of llama.cpp's *vocabulary*; *model* is the file's ``tokenizer.ggml.model``."""
    special = (
        llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
    )
    strip = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP | llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP
    longest, single, byte_tokens, strips = 0, set[int](), 0, False
    specials: dict[str, int] = {}
    for token in range(int(llama_cpp.llama_vocab_n_tokens(vocabulary))):
        data = llama_cpp.llama_vocab_get_text(vocabulary, token)
        attributes = int(llama_cpp.llama_vocab_get_attr(vocabulary, token))
        longest = max(longest, len(data))
        byte_tokens += bool(attributes & llama_cpp.LLAMA_TOKEN_ATTR_BYTE)
        text = data.decode(errors="replace")
        if len(text) == 1:
            single.add(ord(text))
        if attributes & special and text:
            specials[text] = specials.get(text, 0) | attributes
            strips = strips or bool(attributes & strip)
    every_byte = {"gpt2": single >= _BYTES, "llama": byte_tokens == 256}.get(model or "", False)
    left = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP
    free = [text for text in free_standing(specials) if not specials[text] & left]
    runs = {} if any(specials[text] & left for text in specials if len(set(text)) == 1) else runs_of(specials)
    return LongTexts(dividing_pattern(free, runs), longest if every_byte else 0, strips)


def free_standing(texts: Iterable[str]) -> list[str]:
    """Those that neither contain another, nor stand in one, nor begin with the end of one or the reverse.

    Longer ones than a marker has, and all of them if a file invents too many, are left out.
    """
    every = set(texts)
    if sum(len(text) * min(len(text), _MARKER) for text in every) > _MOST_PARTS:
        return []
    starts = {text[:at] for text in every for at in range(1, min(len(text), _MARKER + 1))}
    ends = {text[-at:] for text in every for at in range(1, min(len(text), _MARKER + 1))}
    inner = {part for text in every for part in _parts(text)}

    def is_free(text: str) -> bool:
        return (
            len(text) <= _MARKER
            and text not in inner
            and every.isdisjoint(_parts(text))
            and not any(text[:at] in ends or text[at:] in starts for at in range(1, len(text)))
        )

    return sorted(filter(is_free, every))


def _parts(text: str) -> Iterator[str]:
    """The shorter texts in a text, up to the length of a marker."""
    for first in range(len(text)):
        for last in range(first + 1, min(len(text), first + _MARKER) + 1):
            if last - first < len(text):
                yield text[first:last]


def runs_of(texts: Iterable[str]) -> dict[str, int]:
    """Characters of which special tokens are made and which no other one has, with the shortest such token's length."""
    found: dict[str, int] = {}
    every = list(texts)
    for text in every:
        if len(set(text)) == 1:
            found[text[0]] = min(len(text), found.get(text[0], len(text)))
    mixed = set[str]().union(*(text for text in every if len(set(text)) > 1))
    return {character: size for character, size in found.items() if character not in mixed}


def dividing_pattern(texts: Iterable[str], runs: Mapping[str, int] | None = None) -> re.Pattern[str] | None:
    """A pattern for any of *texts*, in time that does not grow with their number; None if there are none.

    None of them is the beginning of another. *runs* are characters with the shortest run that counts.
    """
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
    ways = [_branches(tree)] if tree else []
    for character, size in (runs or {}).items():
        one = re.escape(character)
        ways.append(f"(?<!{one}){one}{{{size},}}")
    return re.compile("|".join(ways)) if ways else None


def _branches(tree: dict[str, Any]) -> str:
    ways = []
    for character, below in tree.items():
        text = character
        while len(below) == 1:  # not by recursion, which has a limit
            ((character, below),) = below.items()
            text += character
        ways.append(re.escape(text) + (_branches(below) if below else ""))
    return f"(?:{'|'.join(ways)})" if len(ways) > 1 else ways[0]


def tokenize_long(
    texts: Callable[[], LongTexts], text: str, tokenize: Callable[[str], list[int]], go_on: Callable[[], bool]
) -> list[int]:
    """The tokens of a text of any length.

    Args:
        texts: what is known of the vocabulary; asked for long texts only.
        text: the text.
        tokenize: the tokens of a piece.
        go_on: called before each piece; False leaves out the rest.
    """
    if len(text) <= SHORT:
        return tokenize(text)
    tokens: list[int] = []
    for piece in texts().pieces(text):
        if not go_on():
            break
        tokens += tokenize(piece)
    return tokens
