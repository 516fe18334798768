"""Importance matrices, GGUF and the older .dat, and the progress in an unfinished one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import numpy as np

from quantkit.calibrate.imatrix_file import Progress, read_progress, read_sums, write_imatrix
from quantkit.calibrate.sums import Sums
from quantkit.gguf.header import MAGIC
from quantkit.plan.imatrix import read_imatrix
from tests.support.fuzz.mutate_gguf import GgufMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file, folder

_NUMBERS = (0, 1, 2, 3, -1, -2, 255, 65535, 2**31 - 1, -(2**31), 2**24)


def _seeds() -> Sequence[bytes]:
    sums = {
        "blk.0.attn_q.weight": Sums(np.ones((1, 4), np.float32), np.array([8], np.int64)),
        "blk.0.ffn_up_exps.weight": Sums(np.ones((2, 3), np.float32), np.array([8, 0], np.int64)),
    }
    path = folder({}) / "imatrix.gguf"
    write_imatrix(path, sums, "text.txt", 8, Progress(1, 2, 8, "0" * 64, "1" * 64))
    name = b"blk.0.attn_q.weight"
    old = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii4f", 2, 4, 1.0, 2.0, 3.0, 4.0)
    return [path.read_bytes(), old + struct.pack("<ii", 2, 4) + b"text"]


def _read(data: bytes) -> None:
    path = file("imatrix.gguf", data)
    read_progress(path)
    read_imatrix(path)
    if data.startswith(MAGIC):
        read_sums(path)


def _mutate(data: bytes, random: Random) -> bytes:
    if data.startswith(MAGIC):
        return _gguf(data, random)
    changed = bytearray(data)
    at = random.randrange(max(1, len(changed) // 4)) * 4
    changed[at : at + 4] = struct.pack("<i", random.choice(_NUMBERS))
    return bytes(changed) + data * random.choice((0, 0, 0, 1))


_gguf = GgufMutator(
    keys=(b"imatrix.chunk_count", b"quantkit.imatrix.progress"),
    texts=(b"{}", b"[]", b"null", b'{"done": 1}', b'{"done": [], "chunks": 0, "context": 0, "tokens": 0, "model": 0}'),
    names=(b"a.in_sum2", b"a.counts", b".in_sum2", b".counts"),
)
READER = Reader("imatrix", _seeds, _read, _mutate)
