"""The parity matrix: every kind of checkpoint against llama.cpp and transformers, cell by cell.

A cell is the list of differences found, so a sound one is empty. Cells are computed when they are asked for and share
what they can: the converted files of a kind, the quantized files of all types, the real vocabularies.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import nn

from quantkit.arch.families import find_architecture
from quantkit.checkpoint.folder import read_json
from quantkit.engine.device import Workers
from quantkit.engine.gguf_source import gguf_tensors, open_source
from quantkit.engine.stream import stream
from quantkit.ggml.types import FTYPES, UNQUANTIZED
from quantkit.gguf.model import read_model
from quantkit.jobs.convert import convert
from quantkit.jobs.run_stream import merger
from quantkit.model.opening import open_model
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs, unquantized_outputs
from quantkit.plan.values import PlannedTensor
from tests.support.checkpoints import KINDS, make_checkpoint
from tests.support.gemma3n_graph import gemma3n_as_llama_cpp
from tests.support.gguf_compare import FREE_TEXT, differences, metadata_differences, tensor_differences
from tests.support.gguf_read import Value, read_gguf
from tests.support.llama_model import llama_logits, llama_vocabulary
from tests.support.pre_tokenizers import STRUCTURES
from tests.support.qwen_tokenizer import QwenTokenizer
from tests.support.reference import ReferenceConverter, reference_quantize
from tests.support.texts import TEXTS
from tests.support.vocabularies import write_vocabulary
from tests.support.vocabulary_kinds import KINDS as VOCABULARIES

OUTTYPES, QUANTS = tuple(UNQUANTIZED), tuple(FTYPES)
COLUMNS = ("metadata", "vocabulary", *(f"tensors {outtype}" for outtype in OUTTYPES), *QUANTS, "token ids", "greedy")
# What has no reference, and why.
NOT_APPLICABLE: Mapping[tuple[str, str], str] = {
    ("llama4-sees", "greedy"): "transformers' class looks for an output that its language model does not have",
    ("gemma3n-sees", "greedy"): "transformers' class needs timm for its encoder of pictures",
    ("qwen", "greedy"): "transformers has no such model; test_first_qwen.py compares a Qwen2 with its weights",
    ("chatglm", "greedy"): "transformers has no such model; test_remote_classes.py compares a Glm with its weights",
    ("baichuan", "greedy"): "transformers has no such model; test_remote_classes.py compares a Llama with its weights",
    ("hunyuan-moe", "token ids"): "its tests have the ranks of qwen-tiktoken, with which llama.cpp is compared",
    ("minicpm", "greedy"): "transformers has no such model; test_remote_classes.py compares a Granite with its weights",
    ("internlm2", "greedy"): "transformers has no such model; test_remote_classes.py compares a Llama with its weights",
}
# Where llama.cpp computes otherwise: makes a model of transformers do the same; see docs/differences.md.
AS_LLAMA_CPP: Mapping[str, Callable[[nn.Module], None]] = {"gemma3n": gemma3n_as_llama_cpp}
# Metadata that the reference leaves out, see docs/differences.md.
ADDED: Mapping[str, Mapping[str, Value]] = {
    "qwen": {"qwen.attention.layer_norm_rms_epsilon": Value("FLOAT32", float(np.float32(1e-06)))},
    "glm4-moe-lite": {"deepseek2.expert_gating_func": Value("UINT32", 2)},
}
# Of the cut vocabulary: ids that the converter writes as they are in the released model.
CONSTANT: Mapping[str, tuple[str, ...]] = {"hunyuan-moe": ("tokenizer.ggml.bos_token_id",)}
# For which the converter takes minutes: the real one is held against other oracles in test_tokens.py.
SLOW_VOCABULARIES = ("qwen-tiktoken", "hy-tiktoken", "gemma-4")
# Whose real one takes ten seconds to write and to read: test_gemma4_vocabulary.py has it.
CUT = ("gemma-4",)
# Whose converter takes no embedding with more rows than the tokenizer has tokens.
UNPADDED = ("internlm2",)
# llama.cpp's file has the tokens of qwen2, so the converter's hash is that of qwen2.
_AMBIGUOUS = ("qwen35",)
# Rows of the embedding where no vocabulary goes with it.
_FEW_ROWS = {"vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_PROMPT, _GENERATED = (11, 18, 25, 32, 39, 46, 53, 60), 16
# Of a logit, relative to the largest: both sides compute in float32, in another order.
_LOGIT_TOLERANCE = 1e-4
_LOGIT_TOLERANCE_GELU = 2e-3  # ggml takes it from a table of half floats


def applicable() -> list[tuple[str, str]]:
    """Every cell that has a reference: kind of checkpoint, column."""
    return [(kind, column) for kind in KINDS for column in COLUMNS if (kind, column) not in NOT_APPLICABLE]


@dataclass(frozen=True)
class Quantized:
    """One model in all types.

    Attributes:
        base: the F16 file.
        folder: with ``TYPE.gguf`` for each type, as quantkit quantizes the base.
        weighted: the types that were given the imatrix, because llama.cpp refuses them without.
        importance: the imatrix.
    """

    base: Path
    folder: Path
    weighted: frozenset[str]
    importance: Mapping[str, npt.NDArray[np.float32]]


# From a kind to some of the types of OUTTYPES, and of QUANTS.
Types = Callable[[str], tuple[Sequence[str], Sequence[str]]]


def _all_types(kind: str) -> tuple[Sequence[str], Sequence[str]]:
    return OUTTYPES, QUANTS


class ParityMatrix:
    """The cells; files go into *folder*, llama.cpp's converter answers from its own process.

    Of a kind only *types* are compared: a function from its name to some of ``OUTTYPES`` and ``QUANTS``.
    """

    def __init__(self, folder: Path, converter: ReferenceConverter, types: Types = _all_types) -> None:
        self._folder, self._converter, self._types = folder, converter, types
        folder.mkdir(exist_ok=True)
        self._tokenizer = cache(self._write_tokenizer)
        self._ours = cache(self._convert_ours)
        self._pair = cache(self._convert_both)
        self._real = cache(self._convert_real)
        self._real_reference = cache(self._convert_real_reference)
        self._real_vocabulary = cache(self._compare_real)
        self._quantized = cache(self._quantize_all)
        self._split_texts = cache(self._compare_ids)

    def differences(self, kind: str, column: str) -> list[str]:
        """What differs in one cell: of ``KINDS``, of ``COLUMNS``."""
        if column in QUANTS:
            return self._quant(kind, column)
        if column.startswith("tensors "):
            return tensor_differences(*self._pair(kind, column.removeprefix("tensors ")))
        columns: dict[str, Callable[[str], list[str]]] = {
            "metadata": self._metadata,
            "vocabulary": self._vocabulary,
            "token ids": self._token_ids,
            "greedy": self._greedy,
        }
        return columns[column](kind)

    def _metadata(self, kind: str) -> list[str]:
        """All but the vocabulary, in the files of the unquantized types."""
        lines = []
        for outtype in self._types(kind)[0]:
            found = (read_gguf(path).metadata for path in self._pair(kind, outtype))
            lines += metadata_differences(*found, ignored=(*FREE_TEXT, "tokenizer.*"), added=ADDED.get(kind))
        return lines

    def _vocabulary(self, kind: str) -> list[str]:
        """The cut vocabulary, and the real one where there is one."""
        pair = self._pair(kind, self._types(kind)[0][0])
        lines = metadata_differences(*map(_tokenizer_metadata, pair), ignored=CONSTANT.get(kind, ()))
        if KINDS[kind].vocabulary not in SLOW_VOCABULARIES and kind not in UNPADDED:
            lines += self._real_vocabulary(*_tokenizer_of(kind))
        return lines

    def _compare_real(self, tokenizers: tuple[str, ...], vocabulary: str) -> list[str]:
        pair = self._real(tokenizers, vocabulary), self._real_reference(tokenizers, vocabulary)
        return metadata_differences(*map(_tokenizer_metadata, pair))

    def _token_ids(self, kind: str) -> list[str]:
        """llama.cpp's ids of texts against those of Hugging Face's tokenizer, for the real vocabulary."""
        return self._split_texts(*_tokenizer_of(kind))

    def _compare_ids(self, tokenizers: tuple[str, ...], vocabulary: str) -> list[str]:
        gguf, folder = self._real(tokenizers, vocabulary), self._tokenizer(vocabulary, vocabulary in CUT)
        encode = (_qwen_encoder if (folder / "qwen.tiktoken").exists() else _encoder)(folder)
        lines = []
        with llama_vocabulary(gguf) as found:
            for text in _texts(folder):
                ours, theirs = found.encode(text), encode(text)
                if ours != theirs:
                    lines.append(f"{text!r}: llama.cpp {ours[:12]}, Hugging Face {theirs[:12]}")
        return lines

    def _greedy(self, kind: str) -> list[str]:
        """llama.cpp on the F32 file against transformers on the checkpoint in float32."""
        gguf = self._ours(kind, "f32")
        tokens, theirs = _transformers_greedy(gguf.with_name("model"), _PROMPT, AS_LLAMA_CPP.get(kind))
        ours = llama_logits(gguf, tokens[:-1])
        lines = []
        for i in range(len(_PROMPT), len(tokens)):
            if (made := int(ours[i - 1].argmax())) != tokens[i]:
                lines.append(f"token {i - len(_PROMPT)}: llama.cpp {made}, transformers {tokens[i]}")
        tolerance = _LOGIT_TOLERANCE_GELU if _has_gelu(KINDS[kind].config) else _LOGIT_TOLERANCE
        if (error := float(np.abs(ours - theirs).max() / np.abs(theirs).max())) > tolerance:
            lines.append(f"the logits differ by {error:.2g} of the largest")
        return lines

    def _quant(self, kind: str, quant: str) -> list[str]:
        """Ours against ``llama_model_quantize``, from the same F16 file; with an imatrix where the type needs one."""
        made = self._quantized(kind)
        reference = made.base.with_name(f"reference-{quant}.gguf")
        reference_quantize(made.base, reference, quant, imatrix=made.importance if quant in made.weighted else None)
        lines = differences(made.folder / f"{quant}.gguf", reference, ignored=())
        reference.unlink()
        return lines

    def _write_tokenizer(self, name: str, small: bool) -> Path:
        folder = self._folder / f"{name}-{'small' if small else 'real'}"
        return write_vocabulary(folder, name, small=small)

    def _make(self, kind: str, folder: Path, *, small: bool, **options: object) -> Path:
        folder.parent.mkdir(exist_ok=True)
        tokenizer = self._tokenizer(KINDS[kind].vocabulary, small)
        return make_checkpoint(folder, kind, vocabulary=tokenizer, **options)

    def _convert_both(self, kind: str, outtype: str) -> tuple[Path, Path]:
        """Ours and the reference's file, with the cut vocabulary."""
        ours = self._ours(kind, outtype)
        reference = ours.with_name(f"reference-{outtype}.gguf")
        pre = pre_tokenizer(KINDS[kind].vocabulary)
        self._converter.convert(ours.with_name("model"), reference, outtype, pre=pre, no_mtp=KINDS[kind].mtp is False)
        return ours, reference

    def _convert_ours(self, kind: str, outtype: str) -> Path:
        folder = self._folder / kind
        model = folder / "model"
        if not model.exists():
            self._make(kind, model, small=True)
        return convert(model, folder / f"{outtype}.gguf", outtype=outtype)

    def _convert_real(self, tokenizers: tuple[str, ...], vocabulary: str) -> Path:
        """Our file of a tiny model with the whole vocabulary, shared by all who read it alike."""
        kind = next(kind for kind in KINDS if _tokenizer_of(kind) == (tokenizers, vocabulary))
        folder = self._folder / f"real-{kind}"
        layers = KINDS[kind].least
        shape = {"layers": layers, "hidden": 64, "intermediate": 64, "heads": 2, "kv_heads": 1, "padding": 290}
        made = self._make(kind, folder / "model", small=vocabulary in CUT, **shape)
        return convert(made, folder / "f16.gguf")

    def _convert_real_reference(self, tokenizers: tuple[str, ...], vocabulary: str) -> Path:
        ours, name = self._real(tokenizers, vocabulary), pre_tokenizer(vocabulary)
        # The converter knows real vocabularies by itself, where llama.cpp has no second name for their steps.
        known = vocabulary in VOCABULARIES and VOCABULARIES[vocabulary].source == name and vocabulary not in _AMBIGUOUS
        pinned = None if known else name
        return self._converter.convert(
            ours.with_name("model"), ours.with_name("reference.gguf"), "f16", pre=pinned, no_mtp=True
        )

    def _quantize_all(self, kind: str) -> Quantized:
        """The types from one F16 file without vocabulary, of a layer of each kind: the other columns have the rest."""
        _, types = self._types(kind)
        folder = self._folder / f"quants-{kind}"
        shutil.rmtree(folder, ignore_errors=True)  # of a column before this one, which failed
        layers = KINDS[kind].least
        model = self._make(kind, folder / "model", small=True, layers=layers, intermediate=256, config=_FEW_ROWS)
        base = folder / "f16.gguf"
        with open_model(model) as opened:
            tensors = opened.tensors(UNQUANTIZED["f16"])
            outputs = unquantized_outputs(base.name, "f16", opened.bare_metadata(kind), tensors)
            stream(tensors, outputs, merger(opened), folder, workers=Workers(2))
        found = read_model(base)
        tensors, metadata = gguf_tensors(found), list(found.header.metadata.values())
        importance = _random_importance(tensors)
        mixtures = choose_mixtures(types, metadata, tensors)
        weighted = [quant for quant in types if mixtures[quant].needs_importance]
        mixtures |= choose_mixtures(weighted, metadata, tensors, importance)
        quantized = folder / "quantized"
        quantized.mkdir()
        for quant in types:  # one by one: encoders for any set of types would be compiled for each set
            given = importance if quant in weighted else None
            outputs = quantized_outputs({quant: f"{quant}.gguf"}, metadata, tensors, mixtures, given)
            with open_source(found) as source:
                stream(tensors, outputs, source, quantized, workers=Workers(2))
        return Quantized(base, quantized, frozenset(weighted), importance)


def _has_gelu(config: Mapping[str, Any]) -> bool:
    return "hidden_activation" in config or str(config.get("hidden_act")).startswith("gelu")


def _random_importance(tensors: Sequence[PlannedTensor]) -> dict[str, npt.NDArray[np.float32]]:
    """An imatrix as llama-imatrix would make it: a number a column, of stacked experts for each of them."""
    random = np.random.default_rng(7)
    return {
        tensor.name: (random.random(tensor.shape[-1] * math.prod(tensor.shape[:-2])) ** 3 + 0.01).astype(np.float32)
        for tensor in tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    }


def pre_tokenizer(vocabulary: str) -> str | None:
    """llama.cpp's name of the steps before BPE, for vocabularies that have some."""
    if vocabulary == "qwen-tiktoken":
        return STRUCTURES["qwen2"].name
    if vocabulary == "hy-tiktoken":
        return "hunyuan"
    return STRUCTURES[vocabulary].name if vocabulary in STRUCTURES else None


def _texts(tokenizer: Path) -> list[str]:
    """Texts without the blanks that added tokens take in, which llama.cpp does not do; quantkit notes it."""
    added = read_json(tokenizer / "tokenizer_config.json").get("added_tokens_decoder", {}).values()
    texts = list(TEXTS)
    for token in added:
        name = re.escape(token["content"])
        if token.get("lstrip"):
            texts = [re.sub(rf"\s+(?={name})", "", text) for text in texts]
        if token.get("rstrip"):
            texts = [re.sub(rf"(?<={name})\s+", "", text) for text in texts]
    return texts


def _qwen_encoder(folder: Path) -> Callable[[str], list[int]]:
    tokenizer = QwenTokenizer(folder)
    special = re.compile("(" + "|".join(map(re.escape, tokenizer.special_tokens)) + ")")

    def encode(text: str) -> list[int]:
        pieces = [piece for piece in special.split(text) if piece]
        ids = ([tokenizer.special_tokens[p]] if p in tokenizer.special_tokens else tokenizer.encode(p) for p in pieces)
        return [number for found in ids for number in found]

    return encode


def _encoder(folder: Path) -> Callable[[str], list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _tokenizer_of(kind: str) -> tuple[tuple[str, ...], str]:
    """How an architecture looks for its tokenizer, and the vocabulary it finds."""
    return find_architecture(KINDS[kind].config, kind).tokenizers, KINDS[kind].vocabulary


def _tokenizer_metadata(path: Path) -> dict[str, Value]:
    return {key: value for key, value in read_gguf(path).metadata.items() if key.startswith("tokenizer.")}


def _transformers_greedy(
    model: Path, prompt: Sequence[int], change: Callable[[nn.Module], None] | None
) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Prompt and greedy tokens, and the logits after each but the last: shape [tokens - 1, vocabulary]."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = "text_config" in read_json(model / "config.json")
    loaded = (
        (AutoModelForImageTextToText if sees else AutoModelForCausalLM)
        .from_pretrained(model, dtype=torch.float32)
        .eval()
    )
    if change is not None:
        change(loaded)
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(_GENERATED):
            logits = loaded(torch.tensor([tokens])).logits[0]
            tokens.append(int(logits[-1].argmax()))
    return tokens, logits.numpy()
