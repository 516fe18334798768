"""vocab.json and merges.txt: the tokenizer that transformers makes of them, and the vocabulary of its fast files."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from quantkit.errors import VocabularyError
from quantkit.gguf.header import read_header
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.model.tokenizer_choice import choose_tokenizer
from quantkit.verify.encoders import open_encoder, tokenizer_file
from quantkit.verify.folder import verify_folder
from quantkit.vocab.bpe import read_bpe
from quantkit.vocab.families import VocabularyRules
from quantkit.vocab.files import TokenizerFiles
from quantkit.vocab.slow_bpe import SLOW_CLASSES, slow_tokenizer
from quantkit.vocab.special import special_metadata
from tests.support.reference import ReferenceConverter
from tests.support.slow_tokenizer import make_slow
from tests.support.texts import TEXTS

Maker = Callable[..., Path]
Bare = tuple[dict[str, int], list[str]]
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ROWS = 2400


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture(scope="module")
def bare(vocabulary: Maker) -> Bare:
    """A real vocabulary without its added tokens: ids by text, and lines of merges."""
    model = json.loads((vocabulary("qwen2") / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    vocab = {text: number for number, text in enumerate(sorted(model["vocab"], key=model["vocab"].get))}
    return vocab, merges


def token(content: str, **flags: Any) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, **flags}


def write(folder: Path, bare: Bare, files: Mapping[str, Any], *, extra: bool = False) -> Path:
    """A folder with the two files and others, in which ``+0``, ``+1``, ... are the ids behind the vocabulary."""
    folder.mkdir(exist_ok=True)
    vocab, merges = bare
    if extra:
        vocab = {**vocab, END: len(vocab)}
    text = "#version: 0.2\n" + "\n".join(merges) + "\n"
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    for name, values in files.items():
        written = json.dumps(values)
        for number in range(5):
            written = written.replace(
                f'"+{number}"', str(len(vocab) + number) if name == "added_tokens.json" else f'"{len(vocab) + number}"'
            )
        (folder / name).write_text(written, encoding="utf-8")
    return folder


CHATML = {END: "+0", START: "+1", STOP: "+2"}
DECODER = {f"+{i}": token(text, special=text != START) for i, text in enumerate(CHATML)}
LISTED = {"added_tokens_decoder": DECODER, "eos_token": STOP}
BLANKS = {"+0": token("<x>", lstrip=True, special=False), "+1": token(END, special=True)}
MAP = {"eos_token": token(STOP), "pad_token": END, "additional_special_tokens": [START, STOP]}
NAMES = {"eos_token": STOP, "bos_token": START, "additional_special_tokens": [STOP]}
BOTH = {"add_bos_token": True, "add_eos_token": True, "bos_token": END}
CONFIG, ADDED, SPECIAL = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
# By case: the model's type, files, and whether <|endoftext|> is part of vocab.json.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "class-alone": ("llama", {CONFIG: {}}, True),
    "end-is-added-by-the-class": ("llama", {CONFIG: {}}, False),
    "added-tokens": ("llama", {CONFIG: {}, ADDED: CHATML}, False),
    "special-map": ("llama", {CONFIG: {}, ADDED: CHATML, SPECIAL: MAP}, False),
    "special-map-alone": ("llama", {CONFIG: {}, SPECIAL: MAP}, True),
    "config-names": ("llama", {CONFIG: NAMES, ADDED: CHATML}, False),
    "config-and-map": ("llama", {CONFIG: NAMES, ADDED: CHATML, SPECIAL: MAP}, False),
    "decoder": (
        "llama",
        {CONFIG: {"added_tokens_decoder": DECODER, "eos_token": STOP}, SPECIAL: {"eos_token": END}},
        False,
    ),
    "adds-bos": ("llama", {CONFIG: {"add_bos_token": True, "bos_token": END}}, True),
    "adds-both": ("llama", {CONFIG: BOTH}, True),
    "flags": ("llama", {CONFIG: {"added_tokens_decoder": BLANKS}}, False),
    "class-by-model": ("qwen3", {ADDED: CHATML}, False),
    "always-the-models-own": ("qwen2", {CONFIG: {"tokenizer_class": "GPT2Tokenizer"}, ADDED: CHATML}, False),
}


def cases() -> Iterator[Any]:
    for name in SLOW_CLASSES:
        for case in CASES:
            if CASES[case][0] == "llama" or name == "Qwen2Tokenizer":
                yield pytest.param(name, case, id=f"{name}-{case}")


def made(name: str, case: str, folder: Path, bare: Bare) -> Path:
    model, files, extra = CASES[case]
    files = {"config.json": {"model_type": model}, **files}
    if CONFIG in files:
        files[CONFIG] = {"tokenizer_class": name, **files[CONFIG]}
    return write(folder, bare, files, extra=extra)


def metadata(folder: Path) -> Any:
    """Everything about the vocabulary that goes into a GGUF file."""
    rules = VocabularyRules(writes_add_space_prefix=True)
    files = TokenizerFiles(folder, {"vocab_size": ROWS}, {}, ROWS, rules)
    content = read_bpe(files)
    assert content is not None
    special = special_metadata(files.tokenizer, files.tokenizer_config, {}, {}, content.texts)
    own = rules.entries(files.tokenizer_config, {}, ROWS)
    return {entry.key: entry.encoded for entry in (*content.entries, *special, *own)}


@pytest.mark.parametrize(("name", "case"), list(cases()))
def test_as_transformers_makes_it(name: str, case: str, tmp_path: Path, bare: Bare) -> None:
    from transformers import AutoTokenizer

    folder = made(name, case, tmp_path / "slow", bare)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ == name
    expected = json.loads(theirs.backend_tokenizer.to_str())
    ours = slow_tokenizer(folder)
    for part in expected.keys() - {"post_processor", "model"}:
        assert (part, ours[part]) == (part, expected[part])
    assert ours["model"]["vocab"] == expected["model"]["vocab"]
    assert ours["model"]["merges"] == expected["model"]["merges"]
    encoder = open_encoder(tokenizer_file(folder) or folder)
    for text in (*TEXTS, f"a {START}user\nb{STOP}\n{END} <x>y"):
        assert encoder.encode(text) == theirs.encode(text, add_special_tokens=False)
    # The vocabulary of the fast files that transformers saves of it.
    theirs.save_pretrained(tmp_path / "fast")
    assert metadata(folder) == metadata(tmp_path / "fast")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-class": (lambda f: (f / CONFIG).unlink(), "whose class is not named (tokenizer_class in"),
    "other-class": (
        lambda f: (f / CONFIG).write_text('{"tokenizer_class": "RobertaTokenizerFast"}'),
        "a tokenizer of class RobertaTokenizer: how it splits text is not in vocab.json and merges.txt",
    ),
    "merge-of-three": (lambda f: append(f / "merges.txt", "a b c\n"), "is not two tokens with a space between"),
    "blank-line": (lambda f: append(f / "merges.txt", "\n"), "is not two tokens with a space between"),
    "unknown-token": (lambda f: append(f / "merges.txt", "zq qz\n"), "the token 'zq', which vocab.json does not"),
    "no-text": (lambda f: (f / "merges.txt").write_bytes(b"\xff\xfe"), "merges.txt: cannot be read"),
    "id-is-a-text": (lambda f: (f / "vocab.json").write_text('{"a": "0"}'), "token 'a' has id '0'; expected"),
    "empty": (lambda f: (f / "vocab.json").write_text("{}"), "vocab.json: the vocabulary is empty"),
    "gap": (
        lambda f: (f / ADDED).write_text('{"<|im_end|>": 2222}'),
        "added token '<|im_end|>' has id 2222, but transformers gives it 2000",
    ),
}  # fmt: skip


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize("defect", BROKEN)
def test_refusals(defect: str, tmp_path: Path, bare: Bare) -> None:
    folder = made("GPT2Tokenizer", "end-is-added-by-the-class", tmp_path / "slow", bare)
    spoil, why = BROKEN[defect]
    spoil(folder)
    with pytest.raises(VocabularyError) as refused:
        slow_tokenizer(folder)
    assert why in str(refused.value)
    assert str(folder) in str(refused.value)
    assert refused.value.hint


@pytest.fixture(scope="module")
def slow(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a slow tokenizer; not to be changed."""
    folder = Path(shutil.copytree(checkpoint("qwen2"), tmp_path_factory.mktemp("slow") / "model"))
    make_slow(folder, "Qwen2Tokenizer")
    return folder


def test_a_build_is_verified_against_the_slow_files(slow: Path, checkpoint: Maker, tmp_path: Path) -> None:
    """The same vocabulary as from tokenizer.json; and verify's comparisons with the folder itself."""
    folder = build(slow, out=tmp_path / "out", name="it", quants=["q8_0"], device="cpu").folder
    fast = build(checkpoint("qwen2"), out=tmp_path / "fast", name="it", quants=["q8_0"], device="cpu", verify=False)
    ours, theirs = (read_header(one / "it-q8_0.gguf").metadata for one in (folder, fast.folder))
    keys = ("model", "pre", "tokens", "token_type", "merges")
    for key in (f"tokenizer.ggml.{key}" for key in keys):
        assert ours[key].encoded == theirs[key].encoded, key
    found = verify_folder(folder, source=slow, threads=1)
    assert [check.name for check in found.report.checks if not check.passed] == []
    assert any(check.name.endswith("token ids match vocab.json") for check in found.report.checks)


def test_as_llama_cpps_converter_makes_it(slow: Path, converter: ReferenceConverter, tmp_path: Path) -> None:
    """But for special tokens that config.json does not name, see docs/differences.md."""
    convert(slow, tmp_path / "ours.gguf", device="cpu")
    converter.convert(slow, tmp_path / "theirs.gguf", "f16", pre="qwen2")
    ours, theirs = (read_header(tmp_path / f"{name}.gguf").metadata for name in ("ours", "theirs"))
    keys = {key for key in (*ours, *theirs) if key.startswith("tokenizer.ggml.")}
    differ = {key for key in keys if key not in ours or key not in theirs or ours[key].encoded != theirs[key].encoded}
    assert {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"} <= keys
    assert differ == {"tokenizer.ggml.padding_token_id"}


def test_an_adapter_with_slow_files(slow: Path, checkpoint: Maker, tmp_path: Path) -> None:
    """Its tokens are compared with the base's: the base's files stay for the same tokens, its own count for others."""
    base, beside = checkpoint("qwen2"), tmp_path / "adapter"
    beside.mkdir()
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"):
        shutil.copyfile(slow / name, beside / name)
    assert choose_tokenizer(base, [beside], None).folder == base
    ids = json.loads((beside / "added_tokens.json").read_text(encoding="utf-8"))
    (beside / "added_tokens.json").write_text(json.dumps({**ids, "<new>": max(ids.values()) + 1}), encoding="utf-8")
    assert choose_tokenizer(base, [beside], None).folder == beside
    (beside / "merges.txt").unlink()  # no vocabulary any more
    assert choose_tokenizer(base, [beside], None).folder == base


def test_another_vocabulary_counts_first(tmp_path: Path, bare: Bare) -> None:
    folder = made("GPT2Tokenizer", "class-alone", tmp_path / "slow", bare)
    assert tokenizer_file(folder) == folder / "vocab.json"
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert slow_tokenizer(folder) == {}
    assert tokenizer_file(folder) == folder / "tokenizer.json"
