"""The prompt matrix: the prompts of transformers, of llama.cpp and of Ollama's TEMPLATE, and their token ids.

A row is a chat format, rendered with a vocabulary: the model's own where the tests have it, so that token ids can be
compared too. transformers' prompt counts. What the other two write otherwise is predicted for each conversation. A
difference that was not predicted is a defect, and so is a predicted one that is not there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from string import ascii_letters

from gguf import TokenType
from tokenizers import Tokenizer

from quantkit.arch.families import find_architecture
from quantkit.chat_template.format import FORMAT_NAMES, ChatFormat, OwnTemplate, Shape, derive, named_template
from quantkit.package.differences import Cause
from quantkit.package.go_template import go_template
from quantkit.vocab.phi3_name import known_name
from quantkit.vocab.special import ENDS_BY_NAME, adds_bos
from tests.support.chat_templates import real_templates
from tests.support.gguf_read import read_gguf
from tests.support.go_prompts import Job, Talk, ollama_prompts
from tests.support.llama_tools import apply_template
from tests.support.prompt_causes import (
    AnswerCause,
    Causes,
    Format,
    IdCause,
    LlamaCause,
    Vocabulary,
    id_causes,
    llama_causes,
    ollama_causes,
)
from tests.support.prompt_talks import TALKS, Message
from tests.support.vocabularies import write_vocabulary
from tests.support.vocabulary_gguf import add_config, read_folder, write_gguf

COLUMNS = ("llama.cpp", "Go TEMPLATE", "token ids")
"""What is compared with transformers' prompts."""
_BY_VOCABULARY = {
    "llama-bpe": (
        *("llama-3", "llama-3.1", "Llama-3", "meta-llama-Llama-3.1-8B-Instruct"),
        *("meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"),
    ),
    "qwen2": ("chatml", "Qwen1.5", "Qwen-Qwen2.5-7B-Instruct", "Qwen3-Coder", "Qwen-Qwen3-0.6B", "MiMo-VL"),
    "llama-spm": ("llama-2", "Llama-2-chat", "alpaca"),
    "phi-3": ("phi-3", "Phi-3", "Phi-3 (first)", "microsoft-Phi-3.5-mini-instruct"),
    "gemma-spm": ("gemma", "gemma-3", "google-gemma-2-2b-it"),
    "granite": ("granite-3.0", "ibm-granite-granite-4.0", "ibm-granite-granite-4.1"),
    "tekken": ("mistralai-Mistral-Nemo-Instruct-2407",),
    "olmo2": ("OLMo-2",),
    "phi-4": ("phi-4",),
    "smollm": ("SmolLM2",),
}
VOCABULARIES = {name: vocabulary for vocabulary, names in _BY_VOCABULARY.items() for name in names}
"""The vocabularies of the formats whose token ids are compared; some are trained with the model's own steps."""
_ANY_VOCABULARY = "llama-spm"
_TABLE: Mapping[str, Mapping[str, object]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "chat_formats.json").read_text("utf-8")
)
_LETTERS = dict(zip((*Cause, *Shape, *LlamaCause, *IdCause, *AnswerCause), ascii_letters, strict=False))


@dataclass(frozen=True)
class Prompts:
    """A format's prompts by conversation, as text with BOS; None where it is refused.

    Attributes:
        format: the format.
        theirs: transformers' prompts.
        told: the same, where the template is told what llama.cpp tells it.
        fixed: the same, where the template is told no date.
        llama: llama.cpp's.
        ollama: those of the TEMPLATE; none where turns cannot describe the format.
        ids: those of ``told`` and llama.cpp's, of conversations that both give the same prompt for; None where the
            format's vocabulary is not at hand.
    """

    format: Format
    theirs: Mapping[str, str | None]
    told: Mapping[str, str | None]
    fixed: Mapping[str, str | None]
    llama: Mapping[str, str | None]
    ollama: Mapping[str, str]
    ids: Mapping[str, tuple[Sequence[int], Sequence[int]]] | None


@dataclass(frozen=True)
class Cell:
    """What was compared.

    Attributes:
        total: number of conversations.
        named: those that differ as predicted: conversation to causes.
        unnamed: those that differ and were not predicted to.
        absent: those that were predicted to differ and do not.
    """

    total: int
    named: Mapping[str, Sequence[StrEnum]]
    unnamed: Sequence[str]
    absent: Sequence[str]

    @property
    def sound(self) -> bool:
        """Whether every difference has a name, and every name a difference."""
        return not self.unnamed and not self.absent

    @property
    def causes(self) -> Counter[StrEnum]:
        """How many conversations each cause changes."""
        return Counter(cause for causes in self.named.values() for cause in causes)

    def __str__(self) -> str:
        """How many are the same, and by the letters of the causes how many are not."""
        same = self.total - len({*self.named, *self.unnamed})
        named = [
            f"{_LETTERS[cause]}{count}" for cause, count in sorted(self.causes.items(), key=lambda i: _LETTERS[i[0]])
        ]
        wrong = [f"RED: {', '.join((*self.unnamed, *self.absent))}"] if not self.sound else []
        return " ".join([f"{same}/{self.total}", *named, *wrong])


def legend(cells: Iterable[Cell]) -> list[str]:
    """What the letters in these cells mean."""
    used = {cause for cell in cells for cause in cell.causes}
    return [f"{letter}  {cause}" for cause, letter in _LETTERS.items() if cause in used]


def format_templates() -> dict[str, str]:
    """The Jinja of every format, by name: the named ones, and the real templates that can write a conversation."""
    real = {name: real_templates()[name] for name, known in _TABLE.items() if "refused" not in known}
    return {name: named_template(name) for name in FORMAT_NAMES} | real


def described_formats() -> list[str]:
    """The formats that have a TEMPLATE."""
    return [*FORMAT_NAMES, *(name for name, known in _TABLE.items() if known.get("described"))]


class PromptMatrix:
    """The rows, rendered when they are asked for; vocabularies go into *folder*, cut ones where *small*."""

    def __init__(self, folder: Path, *, small: bool) -> None:
        self._folder, self._small = folder, small
        self._vocabulary = cache(self._write_vocabulary)
        self._tokenizer = cache(lambda folder: Tokenizer.from_file(str(folder / "tokenizer.json")))
        self.prompts = cache(self._render)

    def cells(self, name: str) -> dict[str, Cell]:
        """A row by column, without those where there is nothing to compare."""
        prompts = self.prompts(name)
        row, theirs = prompts.format, prompts.theirs
        # Some templates leave the last answer open, so that going on with it changes nothing.
        vague = {LlamaCause.ANSWER_LAST} if isinstance(row.chat, OwnTemplate) else set()
        pairs = {talk: (text, prompts.llama[talk]) for talk, text in prompts.told.items()}
        what = LlamaCause.DATE if "date_string" in row.template else LlamaCause.THINKING
        told = {talk: what for talk, text in prompts.told.items() if text != theirs[talk]}
        cells = {"llama.cpp": compare(row, pairs, llama_causes, told, vague)}
        if isinstance(row.chat, ChatFormat):  # a TEMPLATE can refuse nothing
            pairs = {talk: (text, prompts.ollama[talk]) for talk, text in prompts.fixed.items() if text is not None}
            dated = {talk: Cause.DATE for talk, text in prompts.fixed.items() if text != theirs[talk]}
            cells["Go TEMPLATE"] = compare(row, pairs, ollama_causes, dated)
        if prompts.ids:
            cells["token ids"] = compare(row, prompts.ids, id_causes)
        return cells

    def vocabulary(self, name: str) -> Vocabulary:
        """The vocabulary that a format is rendered with."""
        return self._vocabulary(VOCABULARIES.get(name, _ANY_VOCABULARY), small=self._small or name not in VOCABULARIES)

    def encode(self, name: str, prompt: str) -> tuple[int, ...]:
        """The token ids of a format's prompt, by its tokenizer."""
        return tuple(self._tokenizer(self.vocabulary(name).folder).encode(prompt, add_special_tokens=False).ids)

    def _render(self, name: str) -> Prompts:
        vocabulary = self.vocabulary(name)
        template = format_templates()[name]
        row = Format(derive(template, **vocabulary.tokens), template, vocabulary)
        added = row.bos if vocabulary.adds_bos else ""
        theirs, told, fixed = (
            {talk: write(messages) for talk, messages in TALKS.items()} for write in (row.theirs, row.told, row.fixed)
        )
        renderings = dict(zip(TALKS, apply_template(vocabulary.gguf, list(TALKS.values()), template), strict=True))
        llama = {talk: None if found.prompt is None else added + found.prompt for talk, found in renderings.items()}
        ollama = {}
        if isinstance(row.chat, ChatFormat):
            go = go_template(row.chat, adds_bos=vocabulary.adds_bos)
            (prompts,) = ollama_prompts([Job(go, [Talk(messages) for messages in TALKS.values()])])
            ollama = {talk: added + prompt for talk, prompt in zip(TALKS, prompts, strict=True)}
        ids = None
        if name in VOCABULARIES:
            ids = {
                talk: (self.encode(name, prompt), renderings[talk].tokens)
                for talk, prompt in told.items()
                if prompt is not None and prompt == llama[talk]
            }
        return Prompts(row, theirs, told, fixed, llama, ollama, ids)

    def _write_vocabulary(self, name: str, *, small: bool) -> Vocabulary:
        folder = write_vocabulary(self._folder / f"{name}-{'small' if small else 'whole'}", name, small=small)
        checkpoint = add_config(folder, name)
        known = known_name("chat", find_architecture(checkpoint.config, name).name, folder)
        gguf = write_gguf(read_folder(checkpoint), folder / "vocabulary.gguf", name=known)
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        bos, eos = (_text(config.get(f"{which}_token")) for which in ("bos", "eos"))
        written = {key: entry.value for key, entry in read_gguf(gguf).metadata.items()}
        types = dict(zip(written["tokenizer.ggml.tokens"], written["tokenizer.ggml.token_type"], strict=True))
        mistaken = tuple(text for text in (*ENDS_BY_NAME, "</s>") if types.get(text) == int(TokenType.NORMAL))
        return Vocabulary(name, folder, gguf, bos, eos, adds_bos(written), mistaken)


def _text(token: str | Mapping[str, str] | None) -> str:
    return token["content"] if isinstance(token, Mapping) else token or ""


def compare(
    row: Format,
    pairs: Mapping[str, tuple[object, object]],
    causes: Callable[[Format, Sequence[Message]], Causes],
    told: Mapping[str, StrEnum] | None = None,
    vague: Container[StrEnum] = (),
) -> Cell:
    """Compare pairs by conversation.

    Args:
        row: the format.
        pairs: what has to be equal, but for the causes.
        causes: why it may not be.
        told: the cause for which the first of a pair is not transformers' own prompt already.
        vague: causes that need not show.
    """
    told = told or {}
    found = {talk: (one != other, tuple(causes(row, TALKS[talk]))) for talk, (one, other) in pairs.items()}
    every = {
        talk: (*([told[talk]] if talk in told else ()), *(why if differs else ()))
        for talk, (differs, why) in found.items()
    }
    return Cell(
        total=len(found),
        named={talk: why for talk, why in every.items() if why},
        unnamed=[talk for talk, (differs, why) in found.items() if differs and not why],
        absent=[
            talk for talk, (differs, why) in found.items() if not differs and any(cause not in vague for cause in why)
        ],
    )
