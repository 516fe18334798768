"""JSON files of a folder that may be hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantkit.errors import CheckpointError
from quantkit.files import json_file


def test_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "你"}', encoding="utf-8")
    (tmp_path / "link.json").symlink_to("a.json")
    assert json_file.read_json(tmp_path / "a.json") == json_file.read_json(tmp_path / "link.json") == {"a": "你"}


def test_what_would_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    with pytest.raises(CheckpointError, match=r"fifo\.json: expected a regular file"):
        json_file.read_json(tmp_path / "fifo.json")
    with pytest.raises(CheckpointError, match="expected a regular file"):
        json_file.read_json(Path("/dev/zero"))


def test_more_than_any_tokenizer_has_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(json_file._LARGEST + 1)
    with pytest.raises(CheckpointError, match="at most 512 MiB"):
        json_file.read_json(tmp_path / "large.json")


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, "\ud800"])
def test_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"a\.json: (not valid JSON|expected a JSON object)"):
        json_file.read_json(tmp_path / "a.json")


def test_a_name_too_long_for_any_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        json_file.read_json(tmp_path / ("a" * 5000))
