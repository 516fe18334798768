"""vocab.json and merges.txt that transformers would not read, or whose class says more than quantkit knows."""

from __future__ import annotations

import json
from pathlib import Path

from tests.checkpoints.case import Case, edit_json
from tests.checkpoints.defect import CONVERT, QWEN2, defect
from tests.support.slow_tokenizer import make_slow


@defect("vocab.json", "class RobertaTokenizer", hint="tokenizer.json", command=CONVERT)
def slow_class_unknown(case: Case) -> None:
    make_slow(case.model, "RobertaTokenizerFast")


@defect("vocab.json", "tokenizer_class", hint="GPT2Tokenizer", command=CONVERT)
def slow_class_not_named(case: Case) -> None:
    make_slow(case.model, None)


@defect("merges.txt", "missing", "vocab.json", hint="tokenizer.json", base=QWEN2, command=CONVERT)
def slow_without_merges(case: Case) -> None:
    make_slow(case.model, "Qwen2Tokenizer")
    (case.model / "merges.txt").unlink()


@defect("merges.txt", "line 3", "two tokens", hint="download", base=QWEN2, command=CONVERT)
def slow_merge_of_three(case: Case) -> None:
    _edit_line(case, 2, "a b c")


@defect("merges.txt", "line 3", "'zq'", hint="download", base=QWEN2, command=CONVERT)
def slow_merge_of_no_token(case: Case) -> None:
    _edit_line(case, 2, "zq b")


@defect("merges.txt", "cannot be read", hint="download", base=QWEN2, command=CONVERT)
def slow_merges_are_no_text(case: Case) -> None:
    make_slow(case.model, "Qwen2Tokenizer")
    (case.model / "merges.txt").write_bytes(b"\xff\xfe\x00")


@defect("vocab.json", "'0'", "whole number", base=QWEN2, command=CONVERT)
def slow_id_is_a_text(case: Case) -> None:
    make_slow(case.model, "Qwen2Tokenizer")
    edit_json(case.model / "vocab.json", **{"!": "0"})


@defect("vocab.json", "empty", hint="download", base=QWEN2, command=CONVERT)
def slow_vocabulary_is_empty(case: Case) -> None:
    make_slow(case.model, "Qwen2Tokenizer")
    (case.model / "vocab.json").write_text("{}", encoding="utf-8")


@defect("added_tokens.json", "has id", "transformers gives it", hint="saved together", base=QWEN2, command=CONVERT)
def slow_added_ids_of_another(case: Case) -> None:
    make_slow(case.model, "Qwen2Tokenizer")
    path: Path = case.model / "added_tokens.json"
    ids = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({text: number + 1 for text, number in ids.items()}), encoding="utf-8")


@defect("tokenizer_config.json", "has id", "transformers gives it", hint="saved together", base=QWEN2, command=CONVERT)
def slow_listed_ids_of_another(case: Case) -> None:
    make_slow(case.model, "Qwen2Tokenizer")
    case.tokenizer_config(added_tokens_decoder={"77": {"content": "<|im_end|>", "special": True}})


def _edit_line(case: Case, number: int, line: str) -> None:
    make_slow(case.model, "Qwen2Tokenizer")
    path = case.model / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[number] = line
    path.write_text("\n".join(lines), encoding="utf-8")
