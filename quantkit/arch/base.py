"""Building blocks of the architecture files: rules from checkpoint tensors to GGUF tensors, and config readers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch.class_defaults import filled_in_notes, sizes_left_out, with_defaults
from quantkit.arch.mtp import Mtp
from quantkit.checkpoint.language_part import language_key, language_part
from quantkit.errors import ArchitectureError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.kv import KV
from quantkit.gguf.llama_limits import MAX_EXPERTS, MAX_LAYERS
from quantkit.plan.order import Runs
from quantkit.vocab.families import NO_RULES, VocabularyRules

# The limit of float32.
_FLOAT32 = 2.0**128

Config = Mapping[str, Any]
Arrange = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
Compute = Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]


@dataclass(frozen=True)
class Rule:
    """One tensor of the GGUF file and the checkpoint tensors that it is made from.

    Attributes:
        source: name in the checkpoint, or the names of several tensors whose rows follow each other in the target, all
            with the same shape (the matrices of experts, which GGUF stacks).
        target: name in the GGUF file.
        shape: shape of the target, according to the config.
        arrange: pure function that turns consecutive rows into GGUF's layout; None keeps them.
        unit: ``arrange`` gets a multiple of this many rows (a whole attention head), and maps each unit onto itself.
        optional: the checkpoint may not have it.
        source_shape: shape of each source, if it is not the target's shape nor (with several sources) one row of it.
            One vector may fill the rows of a matrix; a matrix with fewer rows is followed by rows of zeros.
        row_order: the target's rows, as runs of rows of its one source, or some of them; empty for all in their order.
        column_order: the same for the columns of a matrix.
        transposed: each matrix of the target is the transpose of one run of ``row_order``, of which it has the columns
            ``column_order``.
        compute: pure function from merged values, float32 or as stored in float16, and the number of their first row to
            the values in the file. Of a matrix it multiplies rows by numbers, so that it applies to LoRA's rows too.
        source_unit: rows of the source from which ``arrange`` makes ``unit`` rows of the target; None for as many.
        outtype: the type of the target whatever the file's is; None to choose it by name and shape.
        bends: ``compute`` is not linear, so that LoRA's rows cannot stand for themselves in a LoRA file.
        idle: nothing reads the tensor, neither llama.cpp nor transformers, which has no module for it: an adapter may
            be without factors for it.
    """

    source: str | tuple[str, ...]
    target: str
    shape: tuple[int, ...]
    arrange: Arrange | None = None
    unit: int = 1
    optional: bool = False
    source_shape: tuple[int, ...] | None = None
    row_order: Runs = ()
    column_order: Runs = ()
    transposed: bool = False
    compute: Compute | None = None
    source_unit: int | None = None
    outtype: GGMLType | None = None
    bends: bool = False
    idle: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of the target, in order."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def folds(self) -> bool:
        """Whether one vector fills the rows of a matrix."""
        return len(self.shape) == 2 and len(self.shape_of_sources) == 1 and isinstance(self.source, str)

    @property
    def zero_rows(self) -> int:
        """Rows of a matrix behind those of its source."""
        if self.row_order or len(self.shape) != 2 or len(self.shape_of_sources) != 2:
            return 0
        return max(0, self.shape[0] - self.shape_of_sources[0])

    @property
    def shape_of_sources(self) -> tuple[int, ...]:
        """The shape that each source must have."""
        if self.source_shape is not None:
            return self.source_shape
        return self.shape if isinstance(self.source, str) else self.shape[1:]


@dataclass(frozen=True)
class Generated:
    """A GGUF tensor that is computed from the config, float32; it counts if the checkpoint has none for the target."""

    target: str
    values: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Architecture:
    """A model family.

    Attributes:
        name: the GGUF architecture (``general.architecture``).
        metadata: function from the config to metadata entries, without ``general.*`` and the vocabulary.
        rules: function from the config to the tensors, in the order of the file.
        generated: function from the config to tensors that are in no checkpoint.
        tokenizers: the kinds of tokenizer that a checkpoint may have, in the order in which they are tried:
            ``sentencepiece`` (tokenizer.model), ``llama-hf`` (tokenizer.json with byte fallback), ``bpe``,
            ``tiktoken``, ``chatglm`` (tokenizer.model of ChatGLM 3 or GLM-4-9B).
        vocabulary: the family's additions to what the tokenizer files say.
        defaults: the family's part of :data:`quantkit.arch.class_defaults.CLASS_DEFAULTS`.
        notes: function from the config to notes for the user about the converted model.
        variant: function from the config, as :meth:`settings` completes it, to the architecture for it, if that is
            another one; None for this one.
        takes_lora: llama.cpp's graph adds a LoRA file to the matrices of attention; where it passes over some, none is
            written.
        without_lora: ends of the GGUF names of other matrices to which it does not add one.
        mtp: its layers for multi-token prediction; None if it has none.
        older_names: of settings; where both names are given, the older one counts, as in transformers.
        stacks_may_be_turned: checkpoints may have the experts of a layer as a stack of transposed matrices.
        converter_lacks: function from the config as it was saved to what llama.cpp's converter does not do with such
            models, so that --via-llama-cpp would write another model; empty if it does all.
        causal_masks: values of ``use_bidirectional_attention`` with which tokens of a text attend to earlier ones only.
    """

    name: str
    metadata: Callable[[Config], list[KV]]
    rules: Callable[[Config], list[Rule]]
    generated: Callable[[Config], list[Generated]] = lambda config: []
    tokenizers: tuple[str, ...] = ("bpe",)
    vocabulary: VocabularyRules = NO_RULES
    defaults: Config = field(default_factory=dict)
    notes: Callable[[Config], list[str]] = lambda config: []
    takes_lora: bool = True
    without_lora: tuple[str, ...] = ()
    older_names: Mapping[str, str] = field(default_factory=dict)
    variant: Callable[[Config], Architecture | None] = lambda config: None
    stacks_may_be_turned: bool = False
    converter_lacks: Callable[[Config], str] = lambda config: ""
    causal_masks: tuple[bool | str, ...] = (False,)
    mtp: Mtp | None = None

    def settings(self, config: Config) -> Config:
        """The config as transformers reads it: the language model's part, with defaults for settings that it omits.

        The other functions take this.

        Raises:
            ArchitectureError: tokens attend to later tokens, as in embedding models.
        """
        if (key := language_key(config)) is not None:
            text = config[key]
            outside = {name: config[name] for name in config if name == "architectures" or name.endswith("_token_id")}
            config = {**config, **text, **outside}
        found = with_defaults(self._renamed(config), self.defaults)
        hint = "llama.cpp runs this family only for text generation; use a model that was trained to generate text"
        require(found, "is_causal", True, hint=hint)
        require(found, "use_bidirectional_attention", *self.causal_masks, hint=hint)
        return found

    def filled_in(self, config: Config) -> list[str]:
        """A note about defaults that :meth:`settings` fills in and no weight proves.

        Args:
            config: as it was saved.
        """
        return list(filled_in_notes(self._renamed(language_part(config)), self.defaults))

    def sizes_left_out(self, config: Config) -> str:
        """Which sizes :meth:`settings` fills in, in words; empty for none.

        Args:
            config: as it was saved.
        """
        return sizes_left_out(self._renamed(language_part(config)), self.defaults)

    def _renamed(self, config: Config) -> Config:
        """The config with the newer names."""
        older = {new: config[old] for old, new in self.older_names.items() if config.get(old) is not None}
        return {**config, **older}


def require(config: Config, key: str, *values: Any, where: str = "config.json", hint: str = "") -> None:
    """Refuse a setting unless it is absent or one of the *values* that llama.cpp's graph for the family supports.

    Raises:
        ArchitectureError: the setting has another value.
    """
    value = config.get(key)
    if value is not None and value not in values:
        supported = f"supports {' or '.join(map(str, values))}" if values else "does not support this setting"
        raise ArchitectureError(
            f"{where}: {key} {repr(value)[:120]} is not supported for this model: llama.cpp {supported}", hint=hint
        )


def window_note(config: Config) -> list[str]:
    """A note about a sliding window that llama.cpp's graph does not have; empty without a window."""
    window, context = config.get("sliding_window"), positive(config, "max_position_embeddings")
    if not isinstance(window, int) or window >= context:
        return []
    return [
        f"the model attends to the last {window} tokens, llama.cpp to all: beyond {window} of the {context} tokens of "
        "context, the results differ from the original model"
    ]


# By part of a key: more than any model has, and few enough to list or to multiply.
_LARGEST = (
    ("layers", MAX_LAYERS),
    ("depth", MAX_LAYERS),
    ("experts", MAX_EXPERTS),
    ("heads", 2**12),
    ("state", 2**12),
    ("head_dim", 2**16),
    ("_size", 2**24),
)


def positive(config: Config, key: str) -> int:
    """A positive whole number in the config, no larger than any model has.

    Raises:
        ArchitectureError: it is missing or something else.
    """
    value, most = config.get(key), next((most for part, most in _LARGEST if part in key), 2**31 - 1)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ArchitectureError(
            f"config.json: {key} is {repr(value)[:120]}; expected a positive whole number up to {most}"
        )
    return value


def layers(config: Config) -> int:
    """The number of layers, which llama.cpp limits to a few hundred."""
    return positive(config, "num_hidden_layers")


def number(config: Config, key: str, where: str = "config.json", above: float = -math.inf) -> float:
    """A number in the config, greater than *above*, that float32 can represent.

    Raises:
        ArchitectureError: it is missing or something else.
    """
    value: Any = config.get(key)
    sound = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not sound or not above < value or not abs(value) < _FLOAT32:
        wanted = "a number" if above == -math.inf else f"a number above {above:g}"
        raise ArchitectureError(f"{where}: {key} is {value!r}; expected {wanted}")
    return float(value)


def kv_heads(config: Config) -> int:
    """``num_key_value_heads``, which old configs omit if it equals the number of attention heads."""
    key = "num_key_value_heads"
    return positive(config, key) if config.get(key) is not None else positive(config, "num_attention_heads")


def head_dim(config: Config) -> int:
    """The size of an attention head: ``head_dim``, or the hidden size divided by the number of heads.

    Raises:
        ArchitectureError: the heads do not divide the hidden size, or the size is odd.
    """
    heads, hidden = positive(config, "num_attention_heads"), positive(config, "hidden_size")
    if config.get("head_dim") is not None:
        size = positive(config, "head_dim")
    elif hidden % heads:
        raise ArchitectureError(f"config.json: hidden_size {hidden} is not a multiple of {heads} attention heads")
    else:
        size = hidden // heads
    if size % 2:
        raise ArchitectureError(f"config.json: attention heads have size {size}; rotary embeddings need an even size")
    return size
