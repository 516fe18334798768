"""Pickled weights: a .bin file in both of PyTorch's formats, of which no code may run."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Sequence
from random import Random

import torch

from quantkit.checkpoint.pickle_file import PickleFile
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file
from tests.support.fuzz.weights import read_weights


def _seeds() -> Sequence[bytes]:
    values = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = {"a.weight": values, "a.bias": values[0].to(torch.bfloat16), "turned": values.T}
    found = []
    for zipped in (True, False):
        out = io.BytesIO()
        torch.save(state, out, _use_new_zipfile_serialization=zipped)
        found.append(out.getvalue())
    return found


def _read(data: bytes) -> None:
    read_weights(PickleFile(file("pytorch_model.bin", data)))


def _mutate(data: bytes, random: Random) -> bytes:
    """Another pickle in the same zip, so that its sums are right; or other bytes in the older format."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError, KeyError):
        return _bytes(data, random)
    name = random.choice([*members, *[name for name in members if name.endswith(".pkl")] * 8] if members else [""])
    match random.randrange(12):
        case 0:
            members.pop(name, None)
        case 1:
            members[random.choice(("a/byteorder", "a/data/9", "../x", name))] = random.choice((b"big", b"", b"x" * 99))
        case _:
            members[name] = _bytes(members.get(name, b""), random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _bytes(data: bytes, random: Random) -> bytes:
    """An operation of the pickle, its argument, or a number in it changed."""
    try:
        places = [place for _, _, place in pickletools.genops(data) if place is not None]
    except (ValueError, IndexError, UnicodeDecodeError, KeyError):
        places = []
    at = random.choice(places) if places and random.random() < 0.6 else random.randrange(len(data) + 1)
    piece = random.choice((*_OPERATIONS, data[at : at + random.randrange(20)], bytes([random.randrange(256)])))
    cut = random.choice((0, 0, 1, 1, 2, len(piece)))
    return data[:at] + piece + data[at + cut :]


_OPERATIONS = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"R", b"b", b"(", b")", b"t", b"}", b"]", b"N", b"0", b"2", b"Q", b"s", b"u", b"q\x05", b"h\x05", b"K\xff",
    b"M\xff\xff", b"J\xff\xff\xff\x7f", b"J\x00\x00\x00\x80",
    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8a\x01\x00",
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"c_codecs\nencode\n", b"ctorch\nSize\n", b"ctorch\ndevice\n", b"X\x04\x00\x00\x00cuda",
    b"\x80\x05", b"r\xff\xff\xff\x7f",
)  # fmt: skip
READER = Reader("pickle-bin", _seeds, _read, _mutate, seconds=4.0, memory=1 << 30)
