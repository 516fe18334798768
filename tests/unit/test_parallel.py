"""How many answers at a time there are where nobody says it, and at most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantkit.errors import QuantkitError
from quantkit.gguf.model import read_model
from quantkit.run.parallel import most_parallel, open_parallel, usual_parallel
from quantkit.run.prompt_cache import MOST_PARALLEL
from tests.unit.tiny_gguf import write_tiny_gguf

KEYS = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.attention.head_count": 4,
}
ONE = 1024 * 2 * 2 * 256 * 2  # bytes: tokens, keys and values, layers, numbers, float16


@pytest.mark.parametrize(
    ("memory", "most", "expected"),
    [
        (4 * 5 * ONE, 64, 4),
        (4 * 5 * ONE - 1, 64, 2),
        (4 * 3 * ONE - 1, 64, 1),
        (1 << 40, 64, 4),
        (1 << 40, 3, 2),
        (1 << 40, 1, 1),
        (None, 64, 1),
    ],
)
def test_a_quarter_of_the_memory(memory: int | None, most: int, expected: int) -> None:
    assert usual_parallel(KEYS, 1024, memory, most) == expected


def test_a_file_that_does_not_say_how_large_it_is() -> None:
    assert usual_parallel({"general.architecture": "llama"}, 1024, 1 << 40, 64) == 1


class File:
    """Headers of a model with LongRoPE."""

    def __init__(self, **values: Any) -> None:
        self.values, self.header = {"general.architecture": "phi3", **values}, self
        self.tensors = {"rope_factors_long.weight": None}

    def value(self, key: str, default: Any = None) -> Any:
        return self.values.get(key.removeprefix("phi3."), default)


@pytest.mark.parametrize(
    ("n_ctx", "most"), [(4096, 1), (4095, 1), (2048, 2), (1000, 4), (4097, MOST_PARALLEL), (1, MOST_PARALLEL)]
)
def test_longrope(n_ctx: int, most: int) -> None:
    """Its factors are chosen by the size of the whole context, and must be those of one answer."""
    file: Any = File(**{"rope.scaling.original_context_length": 4096, "context_length": 131072})
    assert most_parallel(file, n_ctx) == most


class FullCard:
    """An engine on a graphics card with room for a context of so many answers."""

    def __init__(self, room: int) -> None:
        self.room, self.n_ctx, self.lanes = room, 512, "its own"

    def open_lanes(self, parallel: int) -> int:
        if parallel > self.room:
            raise QuantkitError("not enough memory")
        return parallel


def test_what_fits_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert most_parallel(read_model(path), 512) == MOST_PARALLEL
    opened = [open_parallel(FullCard(room), path, None) for room in (9, 3, 1)]  # type: ignore[arg-type]
    assert opened == [4, 2, "its own"]
    assert open_parallel(FullCard(9), path, 8) == 8  # type: ignore[arg-type, comparison-overlap]
    assert open_parallel(FullCard(9), path, 1) == "its own"  # type: ignore[arg-type, comparison-overlap]
    with pytest.raises(QuantkitError, match="not enough memory"):
        open_parallel(FullCard(3), path, 8)  # type: ignore[arg-type]
    monkeypatch.setattr("quantkit.run.parallel.most_parallel", lambda file, n_ctx: 2)
    with pytest.raises(QuantkitError, match=r"--parallel 3: .*LongRoPE") as refused:
        open_parallel(FullCard(9), path, 3)  # type: ignore[arg-type]
    assert refused.value.hint == "use --parallel 2"
