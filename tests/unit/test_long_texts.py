"""Long prompts: divided where no token changes, and refused by a number of tokens that they certainly have."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_gguf import EOT, Tiny, write_tiny_gguf

from quantkit.errors import ContextFullError
from quantkit.ggml.long_texts import SHORT, dividing_pattern, free_standing, runs_of
from quantkit.run.engine import Engine
from quantkit.run.session import ChatModel
from tests.support.reference import reference_folder


@pytest.mark.parametrize(
    ("texts", "free"),
    [
        (["<a>", "<b>"], ["<a>", "<b>"]),
        (["<a>", "<a><b>"], []),  # one stands in the other
        (["<a>", "a"], []),
        (["<a>", ">x"], []),  # the end of one is the beginning of the other
        (["<a>", "\n", "\n\n"], ["<a>"]),
        (["<a>", "y" * 100], ["<a>"]),
        (["aXa", "<b>"], ["<b>"]),  # it may overlap itself
        ([str(number) * 7 for number in range(10**5, 10**5 + 40_000)], []),  # too many to look at
    ],
)
def test_which_special_tokens_divide(texts: list[str], free: list[str]) -> None:
    assert free_standing(texts) == free


def test_runs_of_one_character() -> None:
    """As Gemma has them."""
    texts = [*("\n" * size for size in range(2, 32)), *(" " * size for size in range(2, 32)), "\t", "<a>", "a b", "bb"]
    assert runs_of(texts) == {"\n": 2, "\t": 1}, "blanks and b stand in another one"
    pattern = dividing_pattern(["<a>"], runs_of(texts))
    assert pattern is not None
    assert pattern.findall("\nx\n\n\n<a>\t\t\ny\n") == ["\n\n\n", "<a>", "\t\t"]


def test_the_pattern_finds_each_of_many() -> None:
    texts = [f"<|reserved_{number:04}|>" for number in range(3000)] + ["<s>", "[INST]", "(*)"]
    pattern = dividing_pattern(texts)
    assert pattern is not None
    assert pattern.findall("x".join(texts)) == texts
    assert dividing_pattern([]) is None


@pytest.fixture(scope="module")
def vocabularies() -> Iterator[dict[str, Engine]]:
    """Real ones: byte-level BPE, and SentencePiece with white space that special tokens swallow."""
    folder = reference_folder() / "models"
    found = {
        name: Engine(
            folder / f"ggml-vocab-{name}.gguf", n_gpu_layers=0, n_ctx=8, max_ctx=8, threads=1, only_vocabulary=True
        )
        for name in ("llama-bpe", "qwen2", "phi-3", "llama-spm", "gpt-neox")
    }
    yield found
    for engine in found.values():
        engine.close()


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "phi-3", "llama-spm", "gpt-neox"])
def test_a_divided_text_has_the_same_tokens(vocabularies: dict[str, Engine], name: str) -> None:
    engine = vocabularies[name]
    specials = [text for token in range(engine.n_vocab) if engine.is_special(token) and (text := engine.text(token))]
    seeded = random.Random(name)
    words = [
        *seeded.sample(specials, min(len(specials), 40)),
        " ",
        "\n",
        "  \n ",
        "字",
        "🙂",
        "hello",
        "▁",
        "a" * 50,
        "<|",
    ]
    for _ in range(8):
        text = "".join(seeded.choices(words, k=4000))
        assert len(text) > SHORT
        tokens = engine.tokenize(text, special=True)
        assert engine.tokenize_prompt(text) == tokens
        assert 0 < engine.least_tokens(text) <= len(tokens)
        assert len(list(engine._long_texts.pieces(text))) > 1
        plain = "".join(seeded.choices([word for word in words if word not in specials], k=4000))
        assert 0 < engine.least_tokens(plain) <= len(engine.tokenize(plain, special=True))


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that llama.cpp is given."""
    texts: list[str] = []
    tokenize = Engine.tokenize

    def told(self: Engine, text: str, **options: bool) -> list[int]:
        texts.append(text)
        return tokenize(self, text, **options)

    monkeypatch.setattr(Engine, "tokenize", told)
    return texts


def test_a_flood_of_special_tokens_is_refused_at_once(tmp_path: Path, tokenized: list[str]) -> None:
    """llama.cpp needs ten minutes for it."""
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        for content in (EOT * 400_000, "y" * 2**22):
            messages = [{"role": "user", "content": content}]
            with pytest.raises(ContextFullError, match=r"at least \d+ tokens long, and the context holds 512"):
                list(model.stream(messages, max_tokens=1))
            assert model.prompt_size(messages) > 512
    assert max(map(len, tokenized), default=0) <= SHORT


def test_tokenizing_is_linear_and_can_be_ended(tmp_path: Path, tokenized: list[str]) -> None:
    """llama.cpp's time grows with the square of the special tokens that it is given at once."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(context=2**17))
    with ChatModel.load(path, threads=1, n_ctx=64) as model:
        assert len(model.engine.tokenize_prompt(EOT * 100_000)) == 100_000
        assert max(text.count(EOT) for text in tokenized) <= 256
        asked = iter([True, True])
        assert len(model.engine.tokenize_prompt(EOT * 100_000, lambda: next(asked, False))) < 600
