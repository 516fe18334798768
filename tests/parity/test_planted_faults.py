"""What a proof catches and what it cannot, on tiny models; docs/prove.md has the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantkit.jobs.convert import convert
from quantkit.prove.bounds import bounds, check_distance
from quantkit.prove.judge import write_logits
from quantkit.prove.judged import Judged
from quantkit.prove.llama_logits import write_logits as write_llama_logits
from quantkit.prove.measure import Distance, distance
from quantkit.prove.sequences import sequence
from tests.support.adapters import VARIANTS, make_adapter
from tests.support.planted_faults import FAULTS, Fault, plant

Maker = Callable[..., Path]

_RANDOM = np.random.default_rng(3)
# Token 0 is in none of them.
SEQUENCES = [sequence(str(length), _RANDOM.integers(3, 200, length).tolist()) for length in (40, 7, 70)]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "prove.md"
SOUND = sorted({fault.kind for fault in FAULTS.values()})


class Bench:
    """Models as trained, with transformers' logits of each, made once."""

    def __init__(self, folder: Path, checkpoint: Maker) -> None:
        self._folder, self._checkpoint = folder, checkpoint
        self._made: dict[str, tuple[Path, Path | None, Path]] = {}

    def trained(self, fault: Fault) -> tuple[Path, Path | None, Path]:
        """The model, its adapter (a Llama has one), and transformers' logits."""
        key = f"{fault.kind}-{len(fault.trained)}"
        if key not in self._made:
            model = self._checkpoint(fault.kind, dtype="f32", config=dict(fault.trained))
            adapter = None
            if fault.kind == "llama3-untied":
                adapter = make_adapter(self._folder / "adapter", model, VARIANTS["seven-projections"], seed=1)
            out = self._folder / f"{key}.npy"
            adapters = () if adapter is None else ((adapter, 1.0),)
            assert write_logits(Judged(model, adapters, "cpu"), SEQUENCES, out)
            self._made[key] = model, adapter, out
        return self._made[key]

    def distance(self, model: Path, adapter: Path | None, logits: Path, folder: Path) -> Distance:
        """Of the F16 file made of *model* and *adapter* from *logits*."""
        gguf = convert(model, folder / "f16.gguf", adapters=[] if adapter is None else [adapter])
        write_llama_logits(gguf, SEQUENCES, folder / "ours.npy", 2)
        return distance(np.load(folder / "ours.npy"), np.load(logits), SEQUENCES)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, checkpoint: Maker) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), checkpoint)


def passes(found: Distance, kind: str) -> bool:
    return check_distance(found, bounds("f16", experts=kind == "mixtral")).passed


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_file_passes(bench: Bench, kind: str, tmp_path: Path) -> None:
    found = bench.distance(*bench.trained(Fault(False, kind=kind)), tmp_path)
    assert passes(found, kind), found


@pytest.mark.parametrize("name", FAULTS)
def test_fault(bench: Bench, name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    model, adapter, logits = bench.trained(fault)
    planted = plant(tmp_path / "planted", model, adapter, fault)
    found = bench.distance(*planted, logits, tmp_path)
    print(f"{name}: mean {found.mean:.1e}, largest {found.largest:.1e}, agreement {found.agreement:.3f}")
    assert passes(found, fault.kind) != fault.caught, found


def test_the_page_has_every_fault() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (yes|no) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(rows) == {name: "yes" if fault.caught else "no" for name, fault in FAULTS.items()}
