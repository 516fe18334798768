"""llama.cpp, reading the vocabularies quantkit writes, gives the token ids Hugging Face's tokenizers give."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from quantkit.jobs.convert import convert
from quantkit.vocab.files import USER_DEFINED
from tests.support.checkpoints import token_ids
from tests.support.gguf_read import read_gguf
from tests.support.llama_model import llama_vocabulary
from tests.support.pre_tokenizers import STRUCTURES
from tests.support.qwen_tokenizer import QwenTokenizer
from tests.support.reference import ReferenceConverter
from tests.support.sentencepiece_vocabularies import JSON_ALONE
from tests.support.sentencepiece_vocabularies import NAMES as SENTENCEPIECE
from tests.support.texts import TEXTS
from tests.support.vocabularies import test_vectors
from tests.support.vocabulary_gguf import add_config, read_folder, write_gguf

Maker = Callable[..., Path]

REAL = (
    *("llama-bpe", "qwen2", "qwen35", "gpt-2", "refact", "falcon", "deepseek-llm", "deepseek-coder"),
    *("llama-spm", "phi-3", "llama-hf", "phi-3-hf"),
)
# Special tokens of these take blanks beside them in, which llama.cpp does not do for them.
STRIPPING = ("phi-4",)


def probes(name: str) -> list[str]:
    """The tests' texts and llama.cpp's own, in the form in which a tokenizer that composes characters leaves them."""
    texts = [*TEXTS, *(text for text, _ in test_vectors("llama-bpe"))]
    if name in STRIPPING:
        texts = [text for text in texts if "<|" not in text]
    normalizer = STRUCTURES[name].normalizer if name in STRUCTURES else None
    return [unicodedata.normalize("NFC", text) if normalizer == {"type": "NFC"} else text for text in texts]


def assert_same_ids(gguf: Path, tokenizer_json: Path, texts: Iterable[str]) -> None:
    """With special tokens parsed, without and with what is added around texts."""
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    with llama_vocabulary(gguf) as vocabulary:
        for text in texts:
            assert (text, vocabulary.encode(text)) == (text, tokenizer.encode(text, add_special_tokens=False).ids)
            assert (text, vocabulary.encode(text, bos=True)) == (text, tokenizer.encode(text).ids)


@pytest.fixture(scope="module")
def written(vocabulary: Maker, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """``written(name, **vocabulary's)``: a folder with that vocabulary, and the GGUF file made from it; made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(name: str, **options: object) -> tuple[Path, Path]:
        key = repr((name, sorted(options.items())))
        if key not in made:
            root = tmp_path_factory.mktemp(name)
            folder = Path(shutil.copytree(vocabulary(name, **options), root / "model"))
            made[key] = folder, write_gguf(read_folder(add_config(folder, name)), root / "vocabulary.gguf")
        return made[key]

    return make


@pytest.mark.parametrize("name", REAL)
def test_all_of_llama_cpps_vectors(written: Callable[..., tuple[Path, Path]], name: str) -> None:
    vectors = test_vectors(JSON_ALONE.get(name, name))
    with llama_vocabulary(written(name, small=False)[1]) as vocabulary:
        assert [vocabulary.encode(text) for text, _ in vectors] == [ids for _, ids in vectors]
    assert len(vectors) == (51 if name == "qwen35" else 47)


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "llama-spm"])
def test_texts_with_real_vocabularies(written: Callable[..., tuple[Path, Path]], name: str) -> None:
    folder, gguf = written(name, small=False)
    assert_same_ids(gguf, folder / "tokenizer.json", probes(name))


@pytest.mark.parametrize("name", [*STRUCTURES, *SENTENCEPIECE])
def test_texts_with_cut_and_trained_vocabularies(written: Callable[..., tuple[Path, Path]], name: str) -> None:
    folder, gguf = written(name)
    assert_same_ids(gguf, folder / "tokenizer.json", probes(name))


@pytest.mark.parametrize("name", ["llama-spm", "gemma-spm"])
def test_texts_as_sentencepiece_itself_splits_them(written: Callable[..., tuple[Path, Path]], name: str) -> None:
    """With tokenizer.model alone; it knows no text as a special token."""
    folder, gguf = written(name)
    processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    with llama_vocabulary(gguf) as vocabulary:
        for text in probes(name):
            if "<" not in text:
                assert (text, vocabulary.encode(text)) == (text, processor.Encode(text))


def test_texts_as_qwens_own_tokenizer_splits_them(written: Callable[..., tuple[Path, Path]]) -> None:
    folder, gguf = written("qwen-tiktoken")
    tokenizer = QwenTokenizer(folder)
    with llama_vocabulary(gguf) as vocabulary:
        for text in probes("qwen2"):
            if "<|" not in text:
                assert (text, vocabulary.encode(text)) == (text, tokenizer.encode(text))
        for text, number in tokenizer.special_tokens.items():
            assert vocabulary.encode(f"a{text}") == [*tokenizer.encode("a"), number]


def test_one_score_for_all_tokens_splits_otherwise(
    written: Callable[..., tuple[Path, Path]], converter: ReferenceConverter, tmp_path: Path
) -> None:
    """Why the scores of a tokenizer.json with byte fallback are not the converter's."""
    folder, gguf = written("llama-hf")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "numbers and words are merged by their place in the list"
    other = write_gguf(read_folder(add_config(folder, "llama-hf")), tmp_path / "other.gguf")
    scores = read_gguf(other).metadata["tokenizer.ggml.scores"].value
    with llama_vocabulary(gguf) as ours:
        assert ours.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
    flat = read_gguf(converter.convert(folder, tmp_path / "reference.gguf", "f16", vocab_only=True))
    assert set(flat.metadata["tokenizer.ggml.scores"].value) != set(scores)
    with llama_vocabulary(tmp_path / "reference.gguf") as theirs:
        assert theirs.encode(text) != tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("by_id", [False, True])
def test_runs_of_blanks_as_gemma_has_them(vocabulary: Maker, tmp_path: Path, by_id: bool) -> None:
    """With the merges in the order of scores and of ids, both of which transformers has written."""
    folder = Path(shutil.copytree(vocabulary("gemma-hf"), tmp_path / "model"))
    if by_id:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        ids = tokenizer["model"]["vocab"]
        tokenizer["model"]["merges"].sort(key=lambda pair: ids["".join(pair)])
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    gguf = write_gguf(read_folder(add_config(folder, "gemma-hf")), tmp_path / "vocabulary.gguf")
    runs = [blank * size for blank in (" ", "\n", "\t", " \n", "\t ") for size in range(1, 20)]
    texts = [f"{before}{run}{after}" for run in runs for before in ("", "a", "1") for after in ("", "the", "<table>")]
    assert_same_ids(gguf, folder / "tokenizer.json", texts)


def test_a_tab_that_stands_as_itself(vocabulary: Maker, tmp_path: Path) -> None:
    """Gemma's tokenizer.json may have it in the place of its byte."""
    folder = Path(shutil.copytree(vocabulary("llama-hf"), tmp_path / "model"))
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert text.count('"<0x09>"') == 1
    (folder / "tokenizer.json").write_text(text.replace('"<0x09>"', '"\\t"'), encoding="utf-8")
    gguf = write_gguf(read_folder(add_config(folder, "llama-hf")), tmp_path / "vocabulary.gguf")
    assert_same_ids(gguf, folder / "tokenizer.json", [*probes("llama-hf"), "\t", "a\t\tb", "\t the"])


def test_decomposed_text_is_normalized_by_hugging_face_alone(written: Callable[..., tuple[Path, Path]]) -> None:
    """Qwen2's tokenizer composes characters first (NFC), llama.cpp never does: the one known drift, and its cure."""
    folder, gguf = written("qwen2")
    text = "caf" + "e\u0301"
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    with llama_vocabulary(gguf) as vocabulary:
        assert vocabulary.encode(text) != expected
        assert vocabulary.encode(unicodedata.normalize("NFC", text)) == expected


EXTENDED = {
    "llama-bpe": (("Ġth", "er"), ("Ġther", "es")),
    "qwen2": (("Ġth", "er"), ("Ġther", "es")),
    "smollm": (("Ġth", "er"), ("Ġther", "es")),
    "llama-spm": (("▁th", "eres"), ("er", "es")),
    "gemma-spm": (),
    **dict.fromkeys(JSON_ALONE, ()),
}


@pytest.mark.parametrize("name", EXTENDED)
def test_extended_vocabularies(written: Callable[..., tuple[Path, Path]], name: str) -> None:
    folder, gguf = written(name, extra=("<tool>", "乐于助人"), ordinary=EXTENDED[name])
    types = read_gguf(gguf).metadata["tokenizer.ggml.token_type"].value
    ids = {token.content: number for number, token in _added(folder).items()}
    assert (types[ids["<tool>"]], types[ids["乐于助人"]]) == (USER_DEFINED, USER_DEFINED)
    with llama_vocabulary(gguf) as vocabulary:
        assert vocabulary.encode("<tool>乐于助人") == [ids["<tool>"], ids["乐于助人"]]
    if name != "llama-spm":  # whose new pieces are in no merge of tokenizer.json
        assert_same_ids(gguf, folder / "tokenizer.json", probes(name))


def _added(folder: Path) -> dict[int, object]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()


@pytest.mark.parametrize("kind", ["llama3-untied", "qwen2"])
def test_llama_cpp_stops_at_every_end_token_of_the_checkpoint(checkpoint: Maker, tmp_path: Path, kind: str) -> None:
    ids = token_ids(checkpoint(kind))
    unknown = "<|reserved_special_token_0|>" if kind == "llama3-untied" else "<|im_start|>"
    usual = json.loads((checkpoint(kind) / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    for number, ends in enumerate((usual, [*usual, ids[unknown]], [ids[unknown]], usual[0])):
        model = checkpoint(kind, generation={"eos_token_id": ends})
        gguf = convert(model, tmp_path / f"{number}.gguf")
        with llama_vocabulary(gguf) as vocabulary:
            for token in ends if isinstance(ends, list) else [ends]:
                assert vocabulary.ends_answer(token)
            assert not vocabulary.ends_answer(ids["a"])
    assert_same_ids(gguf, model / "tokenizer.json", TEXTS)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("phi-3", ("<|endoftext|>", "<|assistant|>", "<|end|>")),
        ("gemma-spm", ("<eos>", "<end_of_turn>", "<start_of_turn>")),
        ("llama-spm", ("</s>", "<unk>")),
        ("qwen-tiktoken", ("<|im_end|>", "<|endoftext|>", "<|extra_0|>")),
    ],
)
def test_every_end_token_of_other_vocabularies(
    vocabulary: Maker, tmp_path: Path, name: str, ends: tuple[str, ...]
) -> None:
    folder = Path(shutil.copytree(vocabulary(name), tmp_path / "model"))
    ids = QwenTokenizer(folder).special_tokens if name == "qwen-tiktoken" else token_ids(folder)
    named = {"eos_token_id": [ids[text] for text in ends]}
    # In config.json alone, and in generation_config.json.
    for number, place in enumerate((named, {"generation": named})):
        gguf = write_gguf(read_folder(add_config(folder, name, **place)), tmp_path / f"{number}.gguf")
        with llama_vocabulary(gguf) as loaded:
            assert [loaded.ends_answer(token) for token in named["eos_token_id"]] == [True] * len(ends)
            assert not loaded.ends_answer(300)
