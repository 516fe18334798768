"""gpt-oss as it was published, with experts in MXFP4: their blocks are llama.cpp's, whatever the type of the file."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.choose.candidates import candidates
from quantkit.errors import AdapterError, CheckpointError
from quantkit.ggml import library as ggml
from quantkit.ggml.types import FTYPES, UNQUANTIZED, GGMLType
from quantkit.gguf.header import read_header
from quantkit.jobs.build import BuildResult, build
from quantkit.jobs.convert import convert, convert_adapter
from quantkit.jobs.merge import merge
from quantkit.jobs.recipe import Recipe
from quantkit.model.opening import open_model
from tests.parity.test_quantize import NEED_IMATRIX
from tests.support.gguf_compare import differences
from tests.support.llama_model import llama_logits
from tests.support.quantized import make_mxfp4
from tests.support.reference import reference_quantize

Maker = Callable[..., Path]
Logits = npt.NDArray[np.float32]
QUANTS = tuple(label for label in FTYPES if label not in UNQUANTIZED and label not in NEED_IMATRIX)
EXPERTS = "ffn_(gate|up|down)_exps[.]weight"
TOKENS = (11, 18, 25, 32, 39, 46, 53, 60, 67, 74)


@pytest.fixture(scope="module")
def mxfp4(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mxfp4(tmp_path_factory.mktemp("mxfp4") / "tiny", checkpoint("gpt-oss"))


@pytest.fixture(scope="module")
def built(mxfp4: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    recipe = Recipe(mxfp4, (), QUANTS, tmp_path_factory.mktemp("built") / "out", "tiny", keep_f16=True)
    return build(recipe, verify=False)


def types_of(path: Path) -> dict[str, GGMLType]:
    """By name the types of the experts' matrices."""
    tensors = read_header(path).tensors
    return {name: info.type for name, info in tensors.items() if name.endswith("_exps.weight")}


@pytest.mark.parametrize("outtype", UNQUANTIZED)
def test_the_file_is_the_converters(mxfp4: Path, reference_gguf: Maker, tmp_path: Path, outtype: str) -> None:
    ours = convert(mxfp4, tmp_path / "ours.gguf", outtype=outtype)
    assert {*types_of(ours).values()} == {GGMLType.MXFP4}
    assert differences(ours, reference_gguf(mxfp4, outtype, pre="gpt-4o")) == []


@pytest.mark.parametrize("quant", QUANTS)
def test_every_type_leaves_them_as_llama_quantize_is_told_to(built: BuildResult, tmp_path: Path, quant: str) -> None:
    folder = built.folder
    reference = reference_quantize(
        folder / "tiny-f16.gguf", tmp_path / "reference.gguf", quant, tensors=[(EXPERTS, "MXFP4")]
    )
    assert differences(folder / f"tiny-{quant}.gguf", reference, ignored=()) == []


def test_the_plan_says_so(built: BuildResult) -> None:
    said = "tiny: 4 tensors are stored as mxfp4; their blocks are copied into every file"
    assert any(said in note for note in built.plan.notes)
    reasons = {
        slot.reason for output in built.plan.outputs for name, slot in output.tensors.items() if "_exps.w" in name
    }
    assert reasons == {"stored so in the checkpoint"}


def test_they_are_encoded_again_if_that_is_asked(mxfp4: Path, built: BuildResult, tmp_path: Path) -> None:
    choice = ("ffn_down_exps=q8_0",)
    recipe = Recipe(mxfp4, (), ("q4_0",), tmp_path / "out", "tiny", tensor_types=choice)
    asked = build(recipe, verify=False)
    reference = reference_quantize(
        built.folder / "tiny-f16.gguf",
        tmp_path / "reference.gguf",
        "q4_0",
        tensors=[("ffn_down_exps", "Q8_0"), (EXPERTS, "MXFP4")],
        allow_requantize=True,
    )
    assert differences(asked.folder / "tiny-q4_0.gguf", reference, ignored=()) == []
    assert any("already quantized" in note for note in asked.plan.notes)


def test_a_size_is_met_without_them(mxfp4: Path) -> None:
    with open_model(mxfp4) as model:
        tensors = model.tensors(GGMLType.F16)
    choices = {tensor.name: candidates(tensor, ()) for tensor in tensors}
    assert {choices[tensor.name] for tensor in tensors if tensor.name.endswith("_exps.weight")} == {(GGMLType.MXFP4,)}
    assert len(choices["blk.0.attn_q.weight"]) > 1


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> Logits:
    with torch.no_grad():
        found: Logits = model(torch.tensor([TOKENS])).logits[0].numpy()
    return found


def tune(base: Path, folder: Path, **settings: Any) -> Logits:
    """Save an adapter with PEFT; the logits with it."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
    generator = torch.Generator().manual_seed(3)
    for _, weight in sorted(tuned.named_parameters()):
        if weight.requires_grad:
            weight.data.add_(0.02 * torch.randn(weight.shape, generator=generator))
    tuned.save_pretrained(folder)
    return logits(tuned)


def relative(ours: Logits, theirs: Logits) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_merged_as_peft_computes(mxfp4: Path, tmp_path: Path) -> None:
    """transformers decodes the experts, whose values bfloat16 can represent."""
    before, expected = logits(load(mxfp4)), tune(mxfp4, tmp_path / "adapter", target_modules="all-linear")
    assert relative(expected, before) > 0.01
    merged = merge(mxfp4, tmp_path / "merged", adapters=[tmp_path / "adapter"], dtype="f32", device="cpu")
    assert relative(logits(load(merged)), expected) < 1e-4
    plain = convert(merged, tmp_path / "plain.gguf", outtype="f32")
    assert {*types_of(plain).values()} == {GGMLType.F32}
    assert relative(llama_logits(plain, TOKENS), expected) < 1e-4
    ours = convert(mxfp4, tmp_path / "ours.gguf", adapters=[tmp_path / "adapter"], outtype="f32")
    assert {*types_of(ours).values()} == {GGMLType.MXFP4}
    # llama.cpp rounds what it multiplies with MXFP4 to 8 bits.
    assert relative(llama_logits(ours, TOKENS), expected) < 0.1


@pytest.mark.parametrize("stored", ["bf16", "mxfp4"])
def test_lora_on_experts(checkpoint: Maker, mxfp4: Path, tmp_path: Path, stored: str) -> None:
    """As with target_parameters of the training recipe; the matrix of the down projection is square, as in the models.

    Of MXFP4 only the layer that is changed is decoded.
    """
    base = mxfp4 if stored == "mxfp4" else checkpoint("gpt-oss")
    before = logits(load(base))
    targets = ["1.mlp.experts.gate_up_proj", "1.mlp.experts.down_proj"]
    expected = tune(base, tmp_path / "adapter", target_modules="all-linear", target_parameters=targets)
    assert relative(expected, before) > 0.01
    merged = merge(base, tmp_path / "merged", adapters=[tmp_path / "adapter"], dtype="f32", device="cpu")
    assert relative(logits(load(merged)), expected) < 1e-4
    plain = convert(merged, tmp_path / "plain.gguf", outtype="f32")
    assert relative(llama_logits(plain, TOKENS), expected) < 1e-4
    ours = convert(base, tmp_path / "ours.gguf", adapters=[tmp_path / "adapter"], outtype="f32")
    kept = GGMLType.MXFP4 if stored == "mxfp4" else GGMLType.F32
    layers = {(name.split(".")[1], kind) for name, kind in types_of(ours).items()}
    assert layers == {("0", kept), ("1", GGMLType.F32)}
    assert relative(llama_logits(ours, TOKENS), expected) < (0.1 if stored == "mxfp4" else 1e-4)
    with pytest.raises(AdapterError, match="is a stack of experts, each of which has its share"):
        convert_adapter(base, tmp_path / "lora.gguf", adapter=tmp_path / "adapter")


def test_a_verified_build(mxfp4: Path, tmp_path: Path) -> None:
    report = build(Recipe(mxfp4, (), ("q8_0",), tmp_path / "out", "tiny")).report
    assert report is not None
    assert report.passed


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("down_proj_scales", lambda tensor: None, "is quantized, but .*down_proj_scales' is missing"),
        ("down_proj_scales", lambda tensor: tensor[:, :-1].contiguous(), "does not fit .*down_proj_scales"),
        ("gate_up_proj_blocks", lambda tensor: tensor[..., :8].contiguous(), "blocks of MXFP4 are"),
        ("gate_up_proj_scales", lambda tensor: tensor.index_fill(2, torch.tensor([1]), 255), "is not a number"),
    ],
)
def test_damaged_blocks(
    mxfp4: Path, tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None], message: str
) -> None:
    folder = Path(shutil.copytree(mxfp4, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    for key in [key for key in tensors if key.endswith(name)]:
        changed = change(tensors.pop(key))
        tensors |= {} if changed is None else {key: changed}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "out.gguf")


def test_rows_of_several_matrices(mxfp4: Path) -> None:
    """Whatever the rows are, they are those of the whole tensor, and ggml reads the same in the blocks."""
    with open_checkpoint(mxfp4) as opened:
        name = "model.layers.0.mlp.experts.down_proj"
        whole, blocks = opened.read(name), opened.stored_blocks(name)
        assert blocks is not None
        for start, stop in ((0, 1), (31, 33), (250, 600), (256, 512), (1023, 1024)):
            np.testing.assert_array_equal(opened.read(name, start, stop), whole[start:stop])
        experts, rows, columns = blocks.shape
        decoded = ggml.dequantize_rows(blocks.type, blocks.read(0, experts * rows).tobytes(), columns)
        np.testing.assert_array_equal(
            decoded.reshape(experts, rows, columns).swapaxes(1, 2), whole.reshape(experts, columns, rows)
        )
