"""The adapter matrix: for each kind of adapter, how close quantkit's merge is to PEFT's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from tests.support.adapters import Variant
from tests.support.gguf_read import read_gguf

# Float32 rounding of one product and one sum, relative to the largest value of the tensor.
TENSOR_TOLERANCE = 2e-6
# The same over the whole forward pass, relative to the largest logit.
LOGIT_TOLERANCE = 2e-5
# How far the base alone must be from the trained model at least, and PEFT's merge where it is another model.
_MATTERS = 1e-3
# Share of the F16 elements that may fall on the other side of a rounding boundary.
ULP_TOLERANCE = 2e-3


@dataclass(frozen=True)
class AdapterRow:
    """One kind of adapter.

    Attributes:
        name: of the variant.
        method: PEFT's name of the method.
        tensor_error: the largest difference to PEFT's float32 merge, relative to the tensor's largest value; None
            where PEFT's merge is not the model that was trained (it writes into a tensor that two layers share).
        one_ulp: share of the elements of the F16 GGUF file that are one unit in the last place off the file converted
            from PEFT's merge.
        more_ulps: number of elements that are further off.
        logit_error: the largest difference of teacher-forced logits to PEFT's unmerged model, relative to the largest.
        effect: how far the base alone is from them.
    """

    name: str
    method: str
    tensor_error: float | None
    one_ulp: float | None
    more_ulps: int | None
    logit_error: float
    effect: float

    @property
    def passed(self) -> bool:
        return (
            (self.tensor_error or 0) <= TENSOR_TOLERANCE
            and (self.one_ulp or 0) <= ULP_TOLERANCE
            and not self.more_ulps
            and self.logit_error <= LOGIT_TOLERANCE
            and self.effect > _MATTERS
        )


def adapter_row(name: str, variant: Variant, base: Path, adapter: Path, work: Path) -> AdapterRow:
    """Merge one adapter here and with PEFT, and compare.

    Args:
        name: of the variant.
        variant: how the adapter was made.
        base: the checkpoint, float32.
        adapter: the adapter's folder.
        work: an empty folder.
    """
    with _one_thread():
        return _adapter_row(name, variant, base, adapter, work)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As many threads for PEFT as a worker here has: a decomposition depends on it in its last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _adapter_row(name: str, variant: Variant, base: Path, adapter: Path, work: Path) -> AdapterRow:
    ours = merge(base, work / "ours", adapters=[adapter], dtype="f32", device="cpu")
    trained = with_peft(base, [(adapter, variant)], merged=False)
    expected = logits(trained)
    with variant.expected_warnings():
        merged = trained.merge_and_unload(safe_merge=True)
    error, near, far = None, None, None
    if variant.parts_tied:
        assert difference(logits(merged), expected) > _MATTERS, f"{name}: PEFT's merge is the trained model after all"
    else:
        tensors, found = checkpoint_tensors(merged), saved_tensors(ours)
        # a tied head is in transformers' state dict though no file holds it
        assert tensors.keys() - found.keys() <= {"lm_head.weight"}, f"{name}: tensors are missing"
        error = max(difference(tensor, tensors[key]) for key, tensor in found.items())
        near, far = _ulps(base, adapter, ours, {key: tensors[key] for key in found}, work)
    return AdapterRow(
        name,
        variant.method,
        error,
        near,
        far,
        difference(logits(load(ours)), expected),
        difference(_base_logits(base), expected),
    )


def as_table(rows: Sequence[AdapterRow]) -> str:
    """The rows as a table."""
    lines = [f"{'adapter':26} {'method':16} {'float32':>8} {'f16 1 ulp':>10} {'more':>5} {'logits':>8}"]
    for row in rows:
        error = "n/a" if row.tensor_error is None else f"{row.tensor_error:.1e}"
        near = "n/a" if row.one_ulp is None else f"{row.one_ulp:.1e}"
        far = "n/a" if row.more_ulps is None else str(row.more_ulps)
        verdict = "" if row.passed else "  FAILED"
        lines.append(f"{row.name:26} {row.method:16} {error:>8} {near:>10} {far:>5} {row.logit_error:8.1e}{verdict}")
    return "\n".join(lines)


@lru_cache(maxsize=8)
def _base_logits(base: Path) -> torch.Tensor:
    return logits(load(base))


def _ulps(base: Path, adapter: Path, ours: Path, expected: dict[str, torch.Tensor], work: Path) -> tuple[float, int]:
    """Share of F16 elements one unit in the last place off, and number of those further off."""
    from safetensors.torch import save_file

    peft = shutil.copytree(ours, work / "peft", ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = {key: tensor.contiguous() for key, tensor in expected.items()}
    save_file(tensors, peft / "model.safetensors", metadata={"format": "pt"})
    left = read_gguf(convert(base, work / "ours.gguf", adapters=[adapter], device="cpu")).tensors
    right = read_gguf(convert(peft, work / "peft.gguf", device="cpu")).tensors
    assert left.keys() == right.keys()
    halves = [key for key, tensor in left.items() if tensor.type == "F16"]
    assert halves
    steps = [np.abs(_ordered(left[key].data) - _ordered(right[key].data)) for key in halves]
    return (
        sum(int((step == 1).sum()) for step in steps) / sum(step.size for step in steps),
        sum(int((step > 1).sum()) for step in steps),
    )


def _ordered(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """F16 values as whole numbers in the same order, one apart where nothing lies between them."""
    bits = data.view(np.int16).astype(np.int32)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


def with_peft(base: Path, adapters: Sequence[tuple[Path, Variant]], *, merged: bool) -> Any:
    """Base and adapters through PEFT in float32: all merged, or all but the last."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for i, (folder, variant) in enumerate(adapters, start=1):
        with variant.expected_warnings():
            model = PeftModel.from_pretrained(model, folder)
            if merged or i < len(adapters):
                model = model.merge_and_unload(safe_merge=True)
    return model.eval()


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors files."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 -- no mapping
                assert name not in tensors
                tensors[name] = opened.get_tensor(name)
    return tensors


def checkpoint_tensors(model: Any) -> dict[str, torch.Tensor]:
    """A model's tensors by their names in checkpoints: as ``save_pretrained`` writes experts, one by one."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, model.state_dict()))


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((ours - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Teacher-forced logits of two rows of tokens."""
    tokens = torch.randint(0, model.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(3))
    return model(input_ids=tokens).logits


def load(folder: Path) -> Any:
    """A checkpoint through transformers, in the type it is stored in."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()
