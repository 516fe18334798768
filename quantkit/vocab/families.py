"""A model family's additions to what its tokenizer files say, as in llama.cpp's converter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.gguf.kv import KV, KVType, array, boolean
from quantkit.vocab.special import ENDS_BY_NAME


@dataclass(frozen=True)
class VocabularyRules:
    """A family's additions. ``vocab_size`` selects those for models of a certain size.

    Attributes:
        writes_add_space_prefix: write ``add_prefix_space`` of tokenizer_config.json, whatever the tokenizer does.
        no_bos_vocab_size: ``vocab_size`` of models that are not trained with BOS, whatever the files say.
        special: by ``vocab_size``, ids of special tokens by kind, for files that name none.
        eot: the id of the token that ends a turn, for files that name none; only if it has the text of one.
        trust_special_flag: with tokenizer.model, an added token is a control token only if it is marked so, never
            because its text looks like one.
        unused: with tokenizer.model, pieces that begin with this are unused.
        null: with tokenizer.model, the text in place of the piece that is one null character, which ends a text in C++.
        tells_prefix: with tokenizer.model, always write whether a blank is added before the text.
        adds_bos: whether BOS is added, whatever the files say; None leaves it to them.
        named: by kind, the special token that the family has, whatever the files say.
        named_if_present: the same, of tokens that only some of its models have.
        ids: by kind, the id of the special token that the family has, whatever the files say.
        eos_setting: the setting of config.json with the id of EOS, which the files have wrong.
        writes_suppress_tokens: write ``suppress_tokens`` of generation_config.json, which are never sampled.
    """

    writes_add_space_prefix: bool = False
    no_bos_vocab_size: int | None = None
    special: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    eot: int | None = None
    trust_special_flag: bool = False
    unused: str | None = None
    null: str = "\0"
    tells_prefix: bool = False
    adds_bos: bool | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    writes_suppress_tokens: bool = False
    named_if_present: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    eos_setting: str = ""

    def own(self, texts: Sequence[str], config: Mapping[str, Any]) -> dict[str, int]:
        """By kind, the ids of the family's own tokens.

        Args:
            texts: the texts of all tokens, by id.
            config: config.json.

        Raises:
            VocabularyError: the tokenizer lacks one.
        """
        found = {kind: text for kind, text in self.named_if_present.items() if text in texts} | dict(self.named)
        for kind, text in found.items():
            if text not in texts:
                raise VocabularyError(
                    f"tokenizer.json: the token {text!r}, which is {kind.upper()} for this family, is missing",
                    hint="use the tokenizer that was published with the model",
                )
        ids = {kind: texts.index(text) for kind, text in found.items()} | dict(self.ids)
        eos = config.get(self.eos_setting)
        return {**ids, "eos": eos} if isinstance(eos, int) and 0 <= eos < len(texts) else ids

    def special_ids(self, vocab_size: int | None, texts: Sequence[str]) -> Mapping[str, int]:
        """Ids of special tokens by kind, for files that name none.

        Args:
            vocab_size: of config.json.
            texts: the texts of all tokens, by id.
        """
        ids = dict(self.special.get(vocab_size, {})) if vocab_size is not None else {}
        if self.eot is not None and self.eot < len(texts) and texts[self.eot] in ENDS_BY_NAME:
            ids["eot"] = self.eot
        return ids

    def entries(
        self, tokenizer_config: Mapping[str, Any], generation: Mapping[str, Any], vocab_size: int | None
    ) -> list[KV]:
        """Metadata that overrides what the tokenizer's files say."""
        entries = []
        if self.writes_suppress_tokens and (suppressed := generation.get("suppress_tokens")):
            entries.append(array("tokenizer.ggml.suppress_tokens", _token_ids(suppressed), KVType.INT32))
        prefix = tokenizer_config.get("add_prefix_space")
        if self.writes_add_space_prefix and isinstance(prefix, bool):
            entries.append(boolean("tokenizer.ggml.add_space_prefix", prefix))
        without_bos = vocab_size is not None and vocab_size == self.no_bos_vocab_size
        adds_bos = False if without_bos else self.adds_bos
        if adds_bos is not None:
            entries.append(boolean("tokenizer.ggml.add_bos_token", adds_bos))
        return entries


def _token_ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(number) is int and 0 <= number < 2**31 for number in value):
        raise VocabularyError(f"generation_config.json: suppress_tokens is {str(value)[:120]}; expected ids of tokens")
    return value


NO_RULES = VocabularyRules()
"""The rules of a family that adds nothing."""
