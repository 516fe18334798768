"""What an adapter changes, measured while it is merged: against the same figures over whole matrices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import quantkit
from quantkit.adapter.changes import Add, Change, LowRank, Replace, Tokens
from quantkit.adapter.folder import Adapter
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.engine import file_source
from quantkit.errors import AdapterError
from quantkit.files.fileio import blocks
from quantkit.ggml.types import GGMLType
from quantkit.model.adapter_checks import check_effects, is_contained
from quantkit.model.adapter_effect import AdapterEffect, percent
from quantkit.model.merge_record import read_merge_record
from quantkit.model.merger import Merger
from quantkit.plan.values import PlannedTensor
from tests.checkpoints.case import edit_json, write_adapter

Maker = Callable[..., Path]

# Of the large matrix every 31st row is looked at, of the small one every row.
LARGE, SMALL = (1000, 520), (40, 24)
PLAIN = LowRank("b", "a", False, 2.0)
MEASURED = AdapterEffect(
    **dict.fromkeys(("vectors", "changed_vectors", "large", "contained"), 0),  # type: ignore[arg-type]
    **dict.fromkeys(("correlation", "overlap"), 0.0),  # type: ignore[arg-type]
    adapter="lora",
    weight=1.0,
    matrices=10,
    changed=10,
    norm=0.013,
    overlap_error=0.01,
    plain=True,
)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """A base with two matrices and a bias, and what adapters may do to them."""
    generator = torch.Generator().manual_seed(3)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "large": make(*LARGE),
        "small": make(*SMALL),
        "bias": make(40),
        "b": 0.1 * make(1000, 4),
        "a": 0.1 * make(4, 520),
        "zeros": torch.zeros(1000, 4),
        "scale": make(1000).abs(),
        "full": make(*SMALL),
        "tokens": make(2, 520),
        "more": make(40),
    }


def effects(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *adapters: Mapping[str, Sequence[Change]],
    weights: Sequence[float] = (),
    rows: int = 128,
) -> tuple[AdapterEffect, ...]:
    """What adapters change, handed out in ranges of so many rows."""
    folder.mkdir(exist_ok=True)
    base = {name: tensors[name] for name in ("large", "small", "bias")}
    save_file(base, folder / "model.safetensors")
    save_file(dict(tensors), folder / "adapter.safetensors")
    opened, file = (open_tensor_file(folder / f"{name}.safetensors") for name in ("model", "adapter"))
    checkpoint = Checkpoint(folder, {}, opened.specs, {folder / "model.safetensors": opened})
    factors = weights or [1.0] * len(adapters)
    merger = Merger(
        checkpoint,
        [
            Adapter(folder, {}, {name: tuple(ops) for name, ops in changes.items()}, file, weight)
            for changes, weight in zip(adapters, factors, strict=True)
        ],
    )
    for name, tensor in base.items():
        planned = PlannedTensor(name, name, tuple(tensor.shape), GGMLType.F32)
        for start in range(0, len(tensor), rows):
            merger.rows(planned, start, min(start + rows, len(tensor)))
    opened.close()
    file.close()
    return merger.effects()


def test_low_rank(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    (found,) = effects(tmp_path, tensors, {"large": [PLAIN]})
    w, d = (one.double().numpy()[15::31] for one in (tensors["large"], 2 * tensors["b"] @ tensors["a"]))
    assert found.norm == pytest.approx(np.linalg.norm(d) / np.linalg.norm(w), rel=1e-3)
    assert found.correlation == pytest.approx((d * w).sum() / np.linalg.norm(d) / np.linalg.norm(w), rel=1e-3)
    assert found.overlap == pytest.approx((d * w).sum() / (d * d).sum(), rel=1e-3)
    assert (found.matrices, found.changed, found.vectors, found.plain) == (1, 1, 0, True)
    whole = torch.linalg.norm(2 * tensors["b"] @ tensors["a"]) / torch.linalg.norm(tensors["large"])
    assert found.norm == pytest.approx(float(whole), rel=0.1)


@pytest.mark.parametrize("rows", [1, 64, 7, 1000])
def test_the_division_into_ranges_does_not_matter(tmp_path: Path, tensors: dict[str, torch.Tensor], rows: int) -> None:
    adapter = {
        "large": [replace(PLAIN, magnitude="scale")],
        "small": [Replace("full")],
        "bias": [Add("more", 0.5)],
    }
    assert effects(tmp_path, tensors, adapter, {"large": [PLAIN]}, rows=rows) == effects(
        tmp_path, tensors, adapter, {"large": [PLAIN]}, rows=1000
    )


def test_an_adapter_is_measured_on_what_earlier_ones_made(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    first, second = effects(tmp_path, tensors, {"large": [PLAIN]}, {"large": [PLAIN]}, weights=(1.0, 1.0))
    assert (first.norm, second.adapter) == (pytest.approx(second.norm, rel=0.1), first.adapter)
    assert second.overlap == pytest.approx(first.overlap + 1, abs=0.01)


def test_weights(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A weight scales the change; the overlap is that of the adapter's own change."""
    (whole,), (half,) = (effects(tmp_path, tensors, {"large": [PLAIN]}, weights=[weight]) for weight in (1.0, 0.5))
    assert half.norm == pytest.approx(whole.norm / 2, rel=1e-3)
    assert half.overlap == pytest.approx(whole.overlap, rel=1e-3)
    assert half.line == f"{tmp_path.name} × 0.5 adds {percent(half.norm)} to 1 of 1 matrix"
    (none,) = effects(tmp_path, tensors, {"large": [PLAIN]}, weights=[0.0])
    assert (none.changed, none.norm) == (0, 0)
    assert check_effects([none], again=False) == (f"{tmp_path.name} was merged with weight 0, which changes nothing",)


def test_what_is_trained_in_full(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    (found,) = effects(tmp_path, tensors, {"small": [Replace("full")], "bias": [Add("more", 0.5)]})
    change = torch.linalg.norm(tensors["full"] - tensors["small"]) / torch.linalg.norm(tensors["small"])
    assert found.norm == pytest.approx(float(change), rel=1e-3)
    assert (found.changed, found.changed_vectors, found.large, found.plain) == (1, 1, 1, False)
    assert found.line.endswith(" to 1 of 1 matrix and 1 of 1 vector")
    (bias,) = effects(tmp_path, tensors, {"bias": [Add("more", 0.5)]})
    assert bias.norm == pytest.approx(0.5 * float(tensors["more"].norm() / tensors["bias"].norm()), rel=1e-3)


def test_one_value_that_is_not_in_the_sample_is_a_change(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    copy = tensors["large"].clone()
    (same,) = effects(tmp_path, {**tensors, "copy": copy}, {"large": [Replace("copy")]})
    assert (same.changed, same.unchanged) == (0, "large")
    copy[16, 3] += 1
    (found,) = effects(tmp_path, {**tensors, "copy": copy}, {"large": [Replace("copy")]})
    assert (found.changed, found.norm) == (1, 0)
    assert found.line.endswith("adds 0 % to 1 of 1 matrix")


def test_trained_tokens_count_wherever_they_are(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    (found,) = effects(tmp_path, tensors, {"large": [Tokens("tokens", (999, 2))]})
    change = tensors["tokens"] - tensors["large"][[999, 2]]
    sampled = tensors["large"][15::31]
    scale = (len(tensors["large"]) / len(sampled)) ** 0.5
    assert found.norm == pytest.approx(float(change.norm() / (scale * sampled.norm())), rel=1e-3)
    assert found.changed == 1
    same = {**tensors, "tokens": tensors["large"][[999, 2]].contiguous()}
    assert effects(tmp_path, same, {"large": [Tokens("tokens", (999, 2))]})[0].changed == 0


def test_zero_factors_are_no_change_but_magnitudes_are(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    zero = LowRank("zeros", "a", False, 2.0)
    (found,) = effects(tmp_path, tensors, {"large": [zero], "small": [Replace("full")]})
    assert (found.changed, found.matrices, found.unchanged) == (1, 2, "large")
    (note,) = check_effects([found], again=False)
    assert "changes nothing in 1 of the 2 tensors that it trains, such as large" in note
    (found,) = effects(tmp_path, tensors, {"large": [replace(zero, magnitude="scale")]})
    assert (found.changed, found.plain) == (1, False)


def test_a_later_adapter_replaces_everything(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    first, second = effects(tmp_path, tensors, {"small": [Replace("full")]}, {"small": [Replace("full")]})
    assert (first.matrices, second.changed) == (0, 1)
    assert "later adapter replaces everything" in check_effects([first], again=False)[0]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"overlap": 0.995, "contained": 10}, True),
        ({"overlap": 1.09, "contained": 9}, True),
        ({"overlap": 0.995, "contained": 8}, False),
        ({"overlap": 0.7, "contained": 10}, False),
        ({"overlap": 1.0, "contained": 10, "overlap_error": 0.3}, False),
        ({"overlap": 1.0, "contained": 10, "plain": False}, False),
        ({"overlap": 1.0, "contained": 10, "weight": -1.0}, False),
    ],
)
def test_when_the_base_contains_the_change(changes: dict[str, float], refused: bool) -> None:
    found = replace(MEASURED, **changes)  # type: ignore[arg-type]
    assert is_contained(found) is refused
    assert check_effects([found], again=True) == ()
    if refused:
        with pytest.raises(AdapterError, match="in the base model's weights already") as caught:
            check_effects([found], again=False)
        assert "--merge-again" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({"overlap": 0.46, "overlap_error": 0.01}, True),
        ({"overlap": 0.22, "overlap_error": 0.01}, False),
        ({"overlap": 0.46, "overlap_error": 0.06}, False),
        ({"overlap": 0.46, "overlap_error": 0.01, "plain": False}, False),
        ({"overlap": -0.5, "overlap_error": 0.01}, False),
    ],
)
def test_a_base_that_contains_a_part_is_noted(changes: dict[str, float], noted: bool) -> None:
    found = replace(MEASURED, contained=0, **changes)  # type: ignore[arg-type]
    notes = check_effects([found], again=False)
    assert bool(notes) is noted
    assert all("about 46 % of what lora adds is in the base model's weights already" in note for note in notes)
    assert check_effects([found], again=True) == ()


def test_a_change_that_is_much_of_the_weights_is_noted() -> None:
    (note,) = check_effects([replace(MEASURED, norm=0.87, large=9)], again=False)
    assert note.startswith("lora adds 87 % of the norm of the weights, more than 25 % in 9 of 10 matrices")
    assert check_effects([replace(MEASURED, large=5)], again=False) == ()


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1e-7, "less than 0.001 %"), (0.0131, "1.3 %"), (0.2, "20 %"), (1.234, "123 %")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.fixture
def model(checkpoint: Maker) -> Path:
    return checkpoint("llama3-untied", layers=2, hidden=64, intermediate=64)


def test_a_merged_folder_says_what_is_in_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def noted(path: Path) -> Iterator[bytes]:
        hashed.append(path)
        return blocks(path)

    monkeypatch.setattr(file_source, "blocks", noted)
    one, two = write_adapter(tmp_path / "one", model), write_adapter(tmp_path / "two", model, scale=0.04)
    reporter = quantkit.Reporter()
    first = quantkit.merge(model, tmp_path / "first", adapters=one, device="cpu", threads=1)
    both = quantkit.merge(first, tmp_path / "both", adapters=[(two, 0.5)], device="cpu", threads=3, reporter=reporter)
    assert [hashed.count(folder / "adapter_model.safetensors") for folder in (one, two)] == [1, 1]
    record = read_merge_record(both)
    assert record.base == model.name
    assert [merged.effect.adapter for merged in record.adapters] == ["one", "two"]
    assert [merged.effect.weight for merged in record.adapters] == [1, 0.5]
    assert [merged.effect.changed for merged in record.adapters] == [4, 4]
    with pytest.raises(AdapterError, match=r"part of .*both already"):
        quantkit.convert(both, tmp_path / "again.gguf", adapters=one)
    assert not (tmp_path / "again.gguf").exists()
    # To take it away again is sound, and so is what the user insists on.
    quantkit.merge(both, tmp_path / "less", adapters=[(one, -1)], device="cpu")
    quantkit.merge(both, tmp_path / "more", adapters=one, merge_again=True, device="cpu")
    assert len(read_merge_record(tmp_path / "more").adapters) == 3


def test_transformers_reads_a_folder_with_a_record(model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    merged = quantkit.merge(model, tmp_path / "out", adapters=write_adapter(tmp_path / "a", model), device="cpu")
    assert (merged / "merged_adapters.json").is_file()
    assert AutoConfig.from_pretrained(merged).hidden_size == 64
    assert len(AutoTokenizer.from_pretrained(merged)) > 0


def test_manifest_report_and_result_have_the_figures(model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", model)
    built = [
        quantkit.build(model, adapters=adapter, quants="q8_0", out=tmp_path / str(n), verify=False, threads=n)
        for n in (1, 3)
    ]
    (effect,) = built[0].effects
    assert (effect.matrices, effect.changed, effect.adapter) == (4, 4, "lora")
    assert built[1].effects == built[0].effects
    for name in ("manifest.json", "report.json"):
        written = json.loads((built[0].folder / name).read_text(encoding="utf-8"))
        assert written["effects"] == [effect.to_json()]


def test_the_name_of_the_base(model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", model)
    base = tmp_path / "Tiny-Instruct"
    shutil.copytree(model, base)

    def notes(named: object, **config: object) -> list[str]:
        edit_json(adapter / "adapter_config.json", base_model_name_or_path=named)
        edit_json(base / "config.json", **config)
        plan = quantkit.plan(base, adapters=adapter, quants="q8_0")
        return [note for note in plan.notes if "trained on" in note]

    assert notes("org/tiny_instruct") == notes("/data/train/Tiny-Instruct/") == notes("") == notes(None) == []
    assert notes("D:\\models\\tiny instruct") == []
    assert notes("org/Tiny") == [
        "lora was trained on org/Tiny (base_model_name_or_path), and is merged into Tiny-Instruct: see that both have "
        "the same weights"
    ]
    (note,) = notes("/home/me/sft/merged")
    assert "trained on merged (base" in note
    assert "/home" not in note
    assert notes("/home/me/sft/merged", _name_or_path="elsewhere/merged") == []


def test_the_revision_of_the_base(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    shutil.copytree(model, base)
    adapter = write_adapter(tmp_path / "lora", model)

    def notes(revision: str | None) -> list[str]:
        edit_json(adapter / "adapter_config.json", base_model_name_or_path="org/tiny", revision=revision)
        return [note for note in quantkit.plan(base, adapters=adapter, quants="q8_0").notes if "revision" in note]

    assert notes(None) == notes("main") == notes("a" * 40) == []
    assert "trained on revision bbbbbbbbbbbb of org/tiny" in notes("b" * 40)[0]


def test_new_rows_of_a_vocabulary_are_a_change_without_a_measure(model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", model)
    weights = adapter / "adapter_model.safetensors"
    base, tensors = load_file(model / "model.safetensors"), load_file(weights)
    for name in ("model.embed_tokens", "lm_head"):
        own = base[f"{name}.weight"].float()
        tensors[f"base_model.model.{name}.weight"] = torch.cat([own, torch.ones(8, 64)])
    save_file(tensors, weights, metadata={"format": "pt"})
    edit_json(adapter / "adapter_config.json", modules_to_save=["embed_tokens", "lm_head"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, adapter / name)
    merged = quantkit.merge(model, tmp_path / "out", adapters=adapter, device="cpu")
    (found,) = read_merge_record(merged).adapters
    assert (found.effect.matrices, found.effect.changed) == (6, 6)
