"""What one process compiled, the next one loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

from quantkit.kernels import lane_cache
from quantkit.system.host import host_token

# Encodes through each of the ways there are, and tells which compiled functions were not on the disk.
_ENCODE = """
import json, sys
import numpy as np
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_cache, lanes, one_call, round_rows
from quantkit.kernels.kept import Kept

made, keep = [], lane_cache.keep_on_disk
import quantkit.kernels.lane_common as common
common.keep_on_disk = lambda dispatcher: (made.append(dispatcher), keep(dispatcher))
one_call.WORTH_NUMBA = round_rows.WORTH_NUMBA = 0
rows = np.random.default_rng(1).standard_normal((4, 256), dtype=np.float32)
lanes.encode(GGMLType.Q4_K, rows)
lanes.encode(GGMLType.IQ4_NL, rows)
lanes.encode(GGMLType.Q6_K, rows, np.ones(256, dtype=np.float32))
out = np.empty((4, GGMLType.TQ2_0.row_nbytes(256)), dtype=np.uint8)
one_call.encode_in_one_call(rows, [], GGMLType.F16, [GGMLType.TQ2_0], [out], Kept())
round_rows.round_rows(rows, [], GGMLType.BF16)
print(json.dumps([one.py_func.__qualname__ for one in made if one.stats.cache_misses]))
"""


ROOT = Path(__file__).parents[2]


def run(script: str, home: Path, *arguments: str, root: Path = ROOT) -> list[Any]:
    """What a script prints in a process of its own, with its cache in *home* and quantkit in *root*."""
    environment = {"XDG_CACHE_HOME": str(home), "PATH": "", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    found: list[Any] = json.loads(done.stdout)
    return found


def compiled(home: Path, root: Path = ROOT) -> list[str]:
    """What a process compiles, without the digests in the names."""
    return [name.rpartition("_")[0] for name in run(_ENCODE, home, root=root)]


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    """Nor does one with the same sources in another place, of another time."""
    home, other = tmp_path / "home", tmp_path / "other"
    assert "carry.<locals>.run" in compiled(home)
    shutil.copytree(ROOT / "quantkit", other / "quantkit", copy_function=shutil.copyfile)
    assert compiled(home, other) == []


def test_threads_that_save_at_once_keep_their_own_code(tmp_path: Path) -> None:
    def save(number: int) -> None:
        for turn in range(20):
            lane_cache._Files(str(tmp_path), "carry", 1).save(("bf16", number, turn), f"code {number} {turn}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(8)))
    files = lane_cache._Files(str(tmp_path), "carry", 1)
    assert all(files.load(("bf16", n, turn)) == f"code {n} {turn}" for n in range(8) for turn in range(20))
    assert files.load(("f16", 0, 0)) is None


def test_code_that_lost_its_end_is_compiled_again(tmp_path: Path) -> None:
    """A power cut may leave a file without its last blocks, or without any."""
    files = lane_cache._Files(str(tmp_path), "carry", 1)
    files.save("bf16", "code")
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    for damaged in (b"", content[:-1], bytes(len(content)), content[:-1] + bytes([content[-1] ^ 1])):
        kept.write_bytes(damaged)
        assert files.load("bf16") is None
    files.save("bf16", "code")
    assert files.load("bf16") == "code"


def test_what_killed_processes_left_in_the_cache_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    over, mine, theirs = (f".a.nbc.quantkit-{pid}.{host_token()}-1" for pid in (ended.pid, os.getpid(), os.getppid()))
    for name in (over, mine, theirs):
        (tmp_path / name).write_bytes(b"half")
    lane_cache._Files(str(tmp_path), "carry", 1).save("bf16", "code")
    assert {path.name for path in tmp_path.glob(".*")} == {mine, theirs}


def test_threads_keep_their_functions_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def path(_: int) -> str:
        function = numba.njit(_closing_over(1))
        lane_cache.keep_on_disk(function)
        return str(function._cache.cache_path)

    with ThreadPoolExecutor(8) as pool:
        (found,) = set(pool.map(path, range(200)))
    assert found.startswith(str(tmp_path))


def _closing_over(value: object) -> object:
    def run() -> object:
        return value

    return run


def test_functions_differ_by_what_their_closures_hold() -> None:
    held = [1, 1.0, "1", True, None, np.float32(1), (1, 2), (2, 1), np.zeros(2000), np.zeros(2001), np.ones(2000)]
    held += [_closing_over(1), _closing_over(2)]
    found = [lane_cache.describe(_closing_over(value)) for value in held]
    assert len({json.dumps(one) for one in found}) == len(held)
    assert found == [lane_cache.describe(_closing_over(value)) for value in held]
    with pytest.raises(TypeError, match="holds"):
        lane_cache.describe(_closing_over(object()))


_ROUND = """
import json, sys
import numpy as np
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_range
from quantkit.kernels.rounding import round_to

rows = np.random.default_rng(1).integers(0x3C00, 0x3F80, (4, 256), dtype=np.uint16)  # bfloat16
floats = (rows.astype(np.uint32) << 16).view(np.float32)
left, right = np.empty((4, 0), dtype=np.float32), np.empty((0, 256), dtype=np.float32)
equal = []
for kind in map(GGMLType.__getitem__, sys.argv[1:]):
    bits = np.empty(1024, dtype=np.uint16)
    lane_range.carry(GGMLType.BF16, kind, (), True)(rows, left, right, np.empty(1024, dtype=np.float32), bits, ())
    equal.append(np.array_equal(bits, round_to(floats, kind).view(np.uint16).reshape(-1)))
print(json.dumps(equal))
"""


def test_functions_of_two_processes_do_not_stand_for_each_other(tmp_path: Path) -> None:
    """Each process compiles one variant, as its first function; the third loads both."""
    for kinds in (["F16"], ["BF16"], ["F16", "BF16"]):
        assert run(_ROUND, tmp_path, *kinds) == [True] * len(kinds)
