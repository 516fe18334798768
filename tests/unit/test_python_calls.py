"""Calls as Python writes them, which a model may spell in more ways than its template."""

from __future__ import annotations

from typing import Any

import pytest

from quantkit.chat_template.python_calls import read_python_calls


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[look()]", [("look", {})]),
        ("[ look( at = 'x' , n=-3 ) ]", [("look", {"at": "x", "n": -3})]),
        ("[look(at=\"it's\"), find(at='a \\'b\\' \\n \\d \\u4f60')]",
         [("look", {"at": "it's"}), ("find", {"at": "a 'b' \n \\d 你"})]),
        ("[look(a=True, b=false, c=None, d=null, e=1e3)]",
         [("look", {"a": True, "b": False, "c": None, "d": None, "e": 1e3})]),
        ("[look(a={'x': [1, {\"y\": null}], 'z': []}, b=['], look()'])]",
         [("look", {"a": {"x": [1, {"y": None}], "z": []}, "b": ["], look()"]})]),
    ],
)  # fmt: skip
def test_what_is_read(text: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    found = read_python_calls(f"<{text}>", 1, {"look", "find"})
    assert found == (calls, len(text) + 1)
    for end in range(1, len(text)):
        assert read_python_calls(text[:end], 0, {"look", "find"}) is None  # it may go on


@pytest.mark.parametrize(
    "text",
    ["look()", "[]", "[rm()]", "[look(1)]", "[look(a=)]", "[look(a=b())]", "[look(a=__import__)]", "[look() find()]",
     "[look(a=1 b=2)]", "[look(a={1: 2})]", "[look(a=" + "[" * 5000 + "]" * 5000 + ")]"],
)  # fmt: skip
def test_what_is_no_call(text: str) -> None:
    assert read_python_calls(text, 0, {"look", "find"}) is None
