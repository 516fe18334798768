"""GGUF files made to break the program that reads them.

llama.cpp ends its process when one of its assertions fails, so these run in processes of their own.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from quantkit.errors import GGUFError
from quantkit.gguf.header import read_header
from tests.checkpoints.case import Case
from tests.checkpoints.defect import QUANTIZE
from tests.faults.cli import assert_refused, run_process

NewCase = Callable[..., Case]


def replace_once(path: Path, old: bytes, new: bytes) -> None:
    raw = path.read_bytes()
    assert raw.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(raw.replace(old, new))


def u32(key: bytes, value: int) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, value)


def more_layers_than_llama_cpp_has_room_for(path: Path) -> None:
    key = b"llama.block_count"
    replace_once(path, u32(key, 2), u32(key, 100_000))


def a_key_that_is_empty_to_c(path: Path) -> None:
    replace_once(path, b"llama.rope.freq_base", b"\0lama.rope.freq_base")


breaks_llama_cpp = pytest.mark.parametrize(
    "breaks",
    [more_layers_than_llama_cpp_has_room_for, a_key_that_is_empty_to_c],
    ids=lambda breaks: breaks.__name__.replace("_", "-"),
)


@breaks_llama_cpp
@pytest.mark.parametrize("command", [QUANTIZE, ("smoke", "{gguf}")], ids=["quantize", "smoke"])
def test_it_is_refused(breaks: Callable[[Path], None], command: Sequence[str], new_case: NewCase) -> None:
    case = new_case()
    breaks(case.gguf)
    outcome = run_process(case.arguments(command), cwd=case.root)
    assert_refused(outcome, [case.gguf.name], "")
    assert os.listdir(case.outputs) == []


def is_refused(path: Path) -> bool:
    try:
        read_header(path)
    except GGUFError as error:
        return str(path) in str(error) and bool(error.hint)
    return False


def test_no_byte_of_a_header_makes_a_crash(new_case: NewCase) -> None:
    """Numbers, bits and lengths changed at random (one seed): the header is refused by name, or it is sound."""
    case = new_case()
    raw = case.gguf.read_bytes()
    header = read_header(case.gguf)
    tensors = raw.index(b"token_embd.weight") - 8
    numbers = random.Random(20)
    refused = 0
    for round in range(300):
        changed = bytearray(raw)
        at = numbers.randrange(0, 1500) if round % 2 else numbers.randrange(tensors, header.data_offset)
        match round % 3:
            case 0:
                changed[at] ^= 1 << numbers.randrange(8)
            case 1:
                changed[at : at + 8] = struct.pack("<Q", numbers.choice([0, 1, 7, 2**32, 2**63, 2**64 - 1]))
            case _:
                del changed[at : at + numbers.randrange(1, 9)]
        case.gguf.write_bytes(changed)
        refused += is_refused(case.gguf)
    assert 50 < refused < 300
