"""llama.cpp, reading the GGUF files quantkit writes, gives the token ids Hugging Face's tokenizer gives."""

from __future__ import annotations

import ctypes
import json
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import pytest
from tokenizers import Tokenizer

from quantkit.convert import convert
from tests.support.checkpoints import KINDS, token_ids
from tests.support.vocabularies import test_vectors

Maker = Callable[..., Path]

TEXTS = (
    "",
    " ",
    "你好,世界!这是一个测试。",
    "我想在apple工作1314151天~",
    "乐于助人的助手。\n\n  全角 空格\u3000与标点:“引号”——完。",
    "🦙🦙 👩‍👩‍👧‍👦 🏳️‍🌈 ✅ é \ufb01",
    "line one\r\nline two\r\n\r\n\tindented\r\n",
    "mixed \n\r\n \n\n  newlines \r\r end \t",
    "I'll we've I'M you'RE it's 'tis don''t",
    "numbers 1 12 123 1234 12345 3.14159 1,000,000 ٣٤٥ ½ ²",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi 你好<|eot_id|>",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n",
    "<|im_end|><|im_end|> <|eot_id|> <|endoftext|>x<|end_of_text|>",
    "no token: <|not_a_token|> <| im_start |> <tool <tool>",
    "call <tool> now<tool>!乐于助人 的 there theres therefore",
    "def f(x):\n    return x  # ünïcödé \x00 \x7f\n",
    "Ω≈ç√∫ дом ไทย عربى हिन्दी 日本語 한국어",
    "a" * 300 + " " * 40 + "\n" * 9,
)


class Vocabulary:
    """The vocabulary of a GGUF file in llama.cpp."""

    def __init__(self, model: llama_cpp.llama_model_p) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Token ids of a text, its special tokens parsed; with *bos* what llama.cpp adds around texts."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), room, len(room), bos, True)
        assert count >= 0
        return list(room[:count])

    def ends_answer(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))


@contextmanager
def loaded(path: Path) -> Iterator[Vocabulary]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model is not None
    try:
        yield Vocabulary(model)
    finally:
        llama_cpp.llama_model_free(model)


def assert_same_ids(gguf: Path, tokenizer_json: Path, texts: tuple[str, ...]) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    with loaded(gguf) as vocabulary:
        ours = {text: vocabulary.encode(text) for text in texts}
        around = {text: vocabulary.encode(text, bos=True) for text in texts}
    assert ours == {text: tokenizer.encode(text, add_special_tokens=False).ids for text in texts}
    assert around == {text: tokenizer.encode(text).ids for text in texts}


@pytest.fixture(scope="module")
def real(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The checkpoint with a real vocabulary, and its GGUF file, made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            model = checkpoint(kind, small=False, layers=1, padding=290 if kind == "qwen2" else 0)
            made[kind] = model, convert(model, tmp_path_factory.mktemp(kind) / "model.gguf")
        return made[kind]

    return get


@pytest.mark.parametrize("kind", ["llama3-tied", "qwen2"])
def test_all_of_llama_cpps_vectors(real: Callable[[str], tuple[Path, Path]], kind: str) -> None:
    vectors = test_vectors(KINDS[kind].vocabulary)
    with loaded(real(kind)[1]) as vocabulary:
        assert [vocabulary.encode(text) for text, _ in vectors] == [ids for _, ids in vectors]
    assert len(vectors) == 47


@pytest.mark.parametrize("kind", ["llama3-tied", "qwen2"])
def test_texts(real: Callable[[str], tuple[Path, Path]], kind: str) -> None:
    model, gguf = real(kind)
    assert_same_ids(gguf, model / "tokenizer.json", TEXTS)


def test_decomposed_text_is_normalized_by_hugging_face_alone(real: Callable[[str], tuple[Path, Path]]) -> None:
    """Qwen2's tokenizer composes characters first (NFC), llama.cpp never does: the one known drift, and its cure."""
    model, gguf = real("qwen2")
    text = "caf" + "e\u0301"
    expected = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    with loaded(gguf) as vocabulary:
        assert vocabulary.encode(text) != expected
        assert vocabulary.encode(unicodedata.normalize("NFC", text)) == expected


@pytest.mark.parametrize("kind", ["llama3-untied", "qwen2"])
@pytest.mark.parametrize("extended", [False, True])
def test_cut_and_extended_vocabularies(checkpoint: Maker, tmp_path: Path, kind: str, extended: bool) -> None:
    more = {"extra": ("<tool>", "乐于助人"), "ordinary": (("Ġth", "er"), ("Ġther", "es"))} if extended else {}
    model = checkpoint(kind, **more)
    gguf = convert(model, tmp_path / "model.gguf")
    assert_same_ids(gguf, model / "tokenizer.json", TEXTS)
    if extended:
        ids = token_ids(model)
        with loaded(gguf) as vocabulary:
            assert vocabulary.encode("<tool> theres") == [ids["<tool>"], ids["Ġtheres"]]


@pytest.mark.parametrize("kind", ["llama3-untied", "qwen2"])
def test_llama_cpp_stops_at_every_end_token_of_the_checkpoint(checkpoint: Maker, tmp_path: Path, kind: str) -> None:
    ids = token_ids(checkpoint(kind))
    unknown = "<|reserved_special_token_0|>" if kind == "llama3-untied" else "<|im_start|>"
    usual = json.loads((checkpoint(kind) / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    for number, ends in enumerate((usual, [*usual, ids[unknown]], [ids[unknown]], usual[0])):
        model = checkpoint(kind, generation={"eos_token_id": ends})
        with loaded(convert(model, tmp_path / f"{number}.gguf")) as vocabulary:
            for token in ends if isinstance(ends, list) else [ends]:
                assert vocabulary.ends_answer(token)
            assert not vocabulary.ends_answer(ids["a"])
