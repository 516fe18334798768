"""Every quantized tensor has the bytes ``llama_model_quantize`` gives it: from a file, or built in one pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantkit.errors import QuantizationError
from quantkit.ggml.types import FTYPES, ftype_name
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.quantize import quantize
from quantkit.jobs.recipe import Recipe
from tests.support.gguf_compare import differences
from tests.support.imatrix import write_imatrix
from tests.support.reference import ReferenceError, reference_quantize
from tests.support.sweeps import in_turn

Maker = Callable[..., Path]

QUANTS = (
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k_s",
    "q3_k_m",
    "q3_k_l",
    "q4_k_s",
    "q4_k_m",
    "q5_k_s",
    "q5_k_m",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    "iq3_s",
    "f16",
    "bf16",
)
# Rarer types, tested on fewer bases.
RARE = ("iq3_m", "tq1_0", "tq2_0", "mxfp4_moe", "q1_0", "q2_0", "f32")
NEED_IMATRIX = ("iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "iq1_s", "iq1_m", "q2_k_s")
# Name of the base, the checkpoint it is made from.
BASES: dict[str, tuple[str, dict[str, object]]] = {
    "untied": ("llama3-untied", {"layers": 4}),
    "tied": ("llama3-tied", {"layers": 4}),
    "rope": ("llama3-rope", {}),
    "qwen2": ("qwen2", {}),
    # Rows of 96 and 160: no multiples of 256, so that the K-quants fall back; 4 heads to one pair of keys and values.
    "odd-rows": ("llama3-untied", {"hidden": 96, "intermediate": 160, "heads": 6, "kv_heads": 2}),
    # Grouped attention as in the large models, which changes llama.cpp's mixture.
    "many-groups": ("llama3-untied", {"layers": 8, "heads": 8, "kv_heads": 1, "intermediate": 256}),
}


@pytest.fixture(scope="module")
def f16(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The F16 file of a base, made once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            kind, options = BASES[name]
            made[name] = convert(checkpoint(kind, **options), tmp_path_factory.mktemp(name) / "f16.gguf")
        return made[name]

    return get


def test_every_file_type_is_tested() -> None:
    assert {*QUANTS, *RARE, *NEED_IMATRIX} == FTYPES.keys()
    # llama.cpp has a number for one more, which its quantizer refuses.
    with pytest.raises(QuantizationError, match=r"nvfp4: llama\.cpp's quantizer cannot write this type"):
        ftype_name("NVFP4")


WITHOUT_FALLBACK = ("odd-rows", "q1_0")
# Of the other bases some types have their turn here: they are much like these.
EVERY_TYPE = {"tied": (*QUANTS, *RARE), "odd-rows": (*QUANTS, *RARE), "many-groups": QUANTS}


@pytest.mark.parametrize(
    ("base", "quant"),
    [
        (base, quant)
        for number, base in enumerate(BASES)
        for quant in EVERY_TYPE.get(base, in_turn(QUANTS, number, 4))
        if (base, quant) != WITHOUT_FALLBACK
    ],
)
def test_quantize(f16: Callable[[str], Path], tmp_path: Path, base: str, quant: str) -> None:
    reference = reference_quantize(f16(base), tmp_path / "reference.gguf", quant)
    ours = quantize(f16(base), tmp_path / "ours.gguf", quant=quant)
    # Copied metadata included: not even free text differs.
    assert differences(ours, reference, ignored=()) == []


def test_rows_that_llama_cpp_has_no_fallback_for(f16: Callable[[str], Path], tmp_path: Path) -> None:
    base, quant = WITHOUT_FALLBACK
    with pytest.raises(ReferenceError):
        reference_quantize(f16(base), tmp_path / "reference.gguf", quant)
    with pytest.raises(QuantizationError, match="no tensor type fallback is defined for type q1_0"):
        quantize(f16(base), tmp_path / "ours.gguf", quant=quant)


@pytest.mark.parametrize("outtype", ["bf16", "f32"])
@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "q8_0", "f16", "bf16"])
def test_quantize_from_other_base_types(checkpoint: Maker, tmp_path: Path, outtype: str, quant: str) -> None:
    source = convert(checkpoint("llama3-untied"), tmp_path / "base.gguf", outtype=outtype)
    reference = reference_quantize(source, tmp_path / "reference.gguf", quant)
    assert differences(quantize(source, tmp_path / "ours.gguf", quant=quant), reference, ignored=()) == []


@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "q6_k"])
def test_pure(f16: Callable[[str], Path], tmp_path: Path, quant: str) -> None:
    reference = reference_quantize(f16("untied"), tmp_path / "reference.gguf", quant, pure=True)
    ours = quantize(f16("untied"), tmp_path / "ours.gguf", quant=quant, pure=True)
    assert differences(ours, reference, ignored=()) == []


@pytest.mark.parametrize("quant", NEED_IMATRIX)
def test_types_that_need_an_imatrix_are_refused_without_one(
    f16: Callable[[str], Path], tmp_path: Path, quant: str
) -> None:
    with pytest.raises(QuantizationError, match="importance matrix"):
        quantize(f16("untied"), tmp_path / "ours.gguf", quant=quant)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def imatrix(f16: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    return write_imatrix(tmp_path_factory.mktemp("imatrix") / "imatrix.gguf", f16("untied"))


@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "q2_k", "iq4_xs", "iq3_s", "q2_k_s"])
def test_with_an_imatrix(
    f16: Callable[[str], Path], tmp_path: Path, imatrix: tuple[Path, dict[str, np.ndarray]], quant: str
) -> None:
    file, means = imatrix
    reference = reference_quantize(f16("untied"), tmp_path / "reference.gguf", quant, imatrix=means)
    ours = quantize(f16("untied"), tmp_path / "ours.gguf", quant=quant, imatrix=file)
    assert differences(ours, reference, ignored=()) == []
    if quant not in NEED_IMATRIX:
        without = reference_quantize(f16("untied"), tmp_path / "without.gguf", quant)
        assert differences(ours, without, ignored=()) != []


@pytest.mark.parametrize("base", in_turn(["untied", "tied", "odd-rows", "qwen2"], 0, 2))
def test_build_quantizes_as_llama_cpp_does_from_the_f16_it_writes(checkpoint: Maker, tmp_path: Path, base: str) -> None:
    kind, options = BASES[base]
    quants = tuple(quant for quant in QUANTS if quant != "f16")
    recipe = Recipe(model=checkpoint(kind, **options), quants=quants, out=tmp_path / "out", name="it", keep_f16=True)
    out = build(recipe, verify=False).folder
    plain = convert(checkpoint(kind, **options), tmp_path / "f16.gguf")
    assert differences(out / "it-f16.gguf", plain) == []
    for quant in quants:
        reference = reference_quantize(out / "it-f16.gguf", tmp_path / f"{quant}.gguf", quant)
        assert differences(out / f"it-{quant}.gguf", reference, ignored=()) == []


def test_build_with_adapters(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base, changes = checkpoint("llama3-untied", dtype="f32"), [adapter("seven-projections"), adapter("modules-to-save")]
    quants = ("q4_0", "q4_k_m")
    recipe = Recipe(base, tuple(changes), quants, tmp_path / "out", "it", keep_f16=True)
    out = build(recipe, verify=False).folder
    assert differences(out / "it-f16.gguf", convert(base, tmp_path / "f16.gguf", adapters=changes)) == []
    for quant in quants:
        reference = reference_quantize(out / "it-f16.gguf", tmp_path / f"{quant}.gguf", quant)
        assert differences(out / f"it-{quant}.gguf", reference, ignored=()) == []


def test_build_from_bf16(checkpoint: Maker, tmp_path: Path) -> None:
    recipe = Recipe(
        checkpoint("llama3-untied"), (), ("q4_0", "q6_k"), tmp_path / "out", "it", keep_f16=True, outtype="bf16"
    )
    out = build(recipe, verify=False).folder
    for quant in recipe.quants:
        reference = reference_quantize(out / "it-bf16.gguf", tmp_path / f"{quant}.gguf", quant)
        assert differences(out / f"it-{quant}.gguf", reference, ignored=()) == []


@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m"])
def test_bytes_do_not_depend_on_the_threads(f16: Callable[[str], Path], tmp_path: Path, quant: str) -> None:
    files = [quantize(f16("untied"), tmp_path / f"{n}.gguf", quant=quant, threads=n).read_bytes() for n in (1, 2, 7)]
    assert files[0] == files[1] == files[2]
