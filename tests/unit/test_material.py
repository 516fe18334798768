"""Data files: texts and conversations, and what is refused by file and line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from quantkit.errors import QuantkitError
from quantkit.material.data_file import CALIBRATION, EVALUATION, read_data
from quantkit.material.talks import TalkError, read_talk
from quantkit.material.tokens import Tokens

ASKED: dict[str, Any] = {"role": "user", "content": "Why?"}
SAID: dict[str, Any] = {"role": "assistant", "content": "Because."}
TALK = (ASKED, SAID)


@pytest.mark.parametrize(
    "entry",
    [
        {"messages": [ASKED, SAID]},
        {"messages": [ASKED, SAID], "tools": None, "images": [], "id": 7},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, SAID]},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
        {"conversations": [{"from": "user", "value": "Why?"}, {"from": "assistant", "value": "Because."}]},
        {"instruction": "Why?", "input": "", "output": "Because."},
        {"instruction": "Why?", "output": "Because.", "history": []},
    ],
)  # fmt: skip
def test_one_conversation_in_each_shape(entry: Any) -> None:
    assert read_talk(entry) == TALK


def test_what_the_shapes_carry_besides() -> None:
    system = {"role": "system", "content": "Be brief."}
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    assert read_talk({"conversations": turns, "system": "Be brief."}) == (system, *TALK)
    assert read_talk({"messages": [system, *TALK], "system": "Another."}) == (system, *TALK)
    assert read_talk({"instruction": "Add.", "input": "1 2", "output": "3", "history": [["Why?", "Because."]]}) == (
        *TALK,
        {"role": "user", "content": "Add.\n1 2"},
        {"role": "assistant", "content": "3"},
    )
    thought = {**SAID, "reasoning_content": "Hm."}
    assert read_talk({"messages": [ASKED, {**thought, "tool_calls": []}]}) == (ASKED, thought)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "not an object but 3"),
        ({}, "has the keys of nothing"),
        ({"text": "x"}, "has the keys 'text'"),
        ({"messages": []}, "'messages' is [], not a list of messages"),
        ({"messages": [ASKED, "x"]}, "messages[1] is 'x', not an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'role' is 'tool'; expected one of system, user, assistant"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "'role' is ['user']"),
        ({"messages": [{"role": "user"}]}, "messages[0]: 'content' is None, not a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part that is not a text"),
        ({"messages": [ASKED, {**SAID, "tool_calls": [{}]}]}, "messages[1] has 'tool_calls'"),
        ({"messages": [ASKED], "images": ["a.png"]}, "has 'images'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "expected one of human, gpt, system"),
        ({"instruction": "x", "output": 5}, "output is 5, not a text"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "history[0] is ['a'], not a question and its answer"),
    ],
)
def test_what_is_no_conversation_is_said(entry: Any, message: str) -> None:
    with pytest.raises(TalkError) as refused:
        read_talk(entry)
    assert message in str(refused.value)


def test_a_text_is_read_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    path.write_bytes("\ufeffA\r\n中\n\n".encode())
    data = read_data(path)
    assert (data.name, data.text, data.talks) == ("page.txt", "\ufeffA\r\n中\n", ())
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    odd = tmp_path / "lines"
    odd.write_text(json.dumps({"messages": list(TALK)}), encoding="utf-8")
    assert read_data(odd).text == odd.read_text(encoding="utf-8"), "only the suffix makes conversations of it"


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "JSONL"])
def test_conversations_as_lines_or_as_a_list(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data.{ending}"
    entry = {"messages": [{"role": "user", "content": "a\u2028b"}]}
    line = json.dumps(entry, ensure_ascii=False)
    path.write_text(f"{line}\n\n{line}\r\n", encoding="utf-8", newline="")
    assert [where for where, _ in read_data(path).talks] == ["line 1", "line 3"]
    path.write_text("\ufeff" + json.dumps([entry, entry], indent=1), encoding="utf-8")
    assert [where for where, _ in read_data(path).talks] == ["entry 1", "entry 2"]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"one\n\xff\n", "a.txt: line 2: not a text in UTF-8 (byte 4 is 0xff)"),
        ("a.txt", b" \n", "a.txt: the file is empty"),
        ("a.jsonl", b'{"messages": []}', "a.jsonl: line 1: 'messages' is []"),
        ("a.jsonl", b'{"instruction": "a", "output": "b"}\n{"x": 1', "a.jsonl: line 2: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl: line 1: not JSON"),
        ("a.json", b"[]", "a.json: line 1: the list is empty"),
        ("a.json", b'[{"instruction": "a", "output": "b"}, 7]', "a.json: entry 2: not an object but 7"),
        ("a.json", b'[1,\n2,\n', "a.json: line 3: not JSON"),
    ],
)  # fmt: skip
def test_broken_data_is_refused_by_file_and_line(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(QuantkitError) as refused:
        read_data(path)
    assert message in str(refused.value)
    assert refused.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match="cannot be read"):
        read_data(tmp_path / "none.txt")


def test_our_texts_are_two_and_share_no_paragraph() -> None:
    ours = [read_data(path) for path in (CALIBRATION, EVALUATION)]
    first, second = ({line.strip() for line in data.text.split("\n") if len(line) > 24} for data in ours)
    assert first & second == set()
    assert 30_000 < CALIBRATION.stat().st_size < 60_000
    assert 10_000 < EVALUATION.stat().st_size < 30_000
    for data in ours:  # both languages have a share
        chinese = sum("\u4e00" <= c <= "\u9fff" for c in data.text)
        assert 0.2 < 3 * chinese / len(data.text.encode()) < 0.6


def test_tokens_travel_as_json() -> None:
    tokens = Tokens("a.txt", "00", (1, 5, 70_000), 2)
    assert Tokens.from_json(json.loads(json.dumps(tokens.to_json()))) == tokens
    expected = hashlib.sha256(bytes([1, 0, 0, 0, 5, 0, 0, 0, 0x70, 0x11, 1, 0])).hexdigest()
    assert tokens.ids_sha256 == expected
