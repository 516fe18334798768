"""Choices of types, experts, requantizing and split files: what llama.cpp makes of the same request, to the byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from quantkit.errors import QuantizationError
from quantkit.ggml.types import FTYPES
from quantkit.gguf.model import read_model
from quantkit.jobs.quantize import quantize
from quantkit.system.progress import Reporter
from tests.parity.test_quantize import NEED_IMATRIX
from tests.support.gguf_compare import differences
from tests.support.imatrix import Importance, write_imatrix, write_legacy_imatrix
from tests.support.reference import ReferenceConverter, reference_quantize

Maker = Callable[..., Path]
Imatrix = tuple[Path, Importance]


@pytest.fixture(scope="module")
def dense(checkpoint: Maker, reference_gguf: Maker) -> Path:
    """The F16 file of a small Llama with a head of its own, by llama.cpp's converter."""
    return reference_gguf(checkpoint("llama3-untied"), "f16", pre="llama-bpe")


@pytest.fixture(scope="module")
def tied(checkpoint: Maker, reference_gguf: Maker) -> Path:
    return reference_gguf(checkpoint("llama3-tied"), "f16", pre="llama-bpe")


@pytest.fixture(scope="module")
def experts(
    checkpoint: Maker, vocabulary: Maker, converter: ReferenceConverter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The F16 file of a small Mixtral, whose experts are stacked into tensors of three dimensions."""
    from transformers import AutoModelForCausalLM, MixtralConfig

    folder = tmp_path_factory.mktemp("mixtral")
    config = json.loads((checkpoint("llama3-untied") / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        MixtralConfig(
            vocab_size=config["vocab_size"],
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=8,
            num_key_value_heads=1,
            num_local_experts=2,
            num_experts_per_tok=2,
            max_position_embeddings=512,
        )
    ).save_pretrained(folder / "model")
    for file in vocabulary("llama-bpe").iterdir():
        shutil.copy(file, folder / "model" / file.name)
    return converter.convert(folder / "model", folder / "f16.gguf", "f16", pre="llama-bpe")


@pytest.fixture(scope="module")
def imatrix(experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Imatrix:
    return write_imatrix(tmp_path_factory.mktemp("imatrix") / "imatrix.gguf", experts)


@pytest.mark.parametrize("quant", FTYPES)
def test_experts(experts: Path, imatrix: Imatrix, tmp_path: Path, quant: str) -> None:
    """Every file type, each expert encoded with its own importance."""
    file, means = imatrix
    reference = reference_quantize(experts, tmp_path / "reference.gguf", quant, imatrix=means)
    ours = quantize(experts, tmp_path / "ours.gguf", quant=quant, imatrix=file)
    assert differences(ours, reference, ignored=()) == []


@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "iq4_nl", "mxfp4_moe"])
def test_experts_without_an_imatrix(experts: Path, tmp_path: Path, quant: str) -> None:
    assert quant not in NEED_IMATRIX
    reference = reference_quantize(experts, tmp_path / "reference.gguf", quant)
    assert differences(quantize(experts, tmp_path / "ours.gguf", quant=quant), reference, ignored=()) == []


def test_the_older_imatrix_file_gives_the_same(experts: Path, imatrix: Imatrix, tmp_path: Path) -> None:
    file, means = imatrix
    legacy = write_legacy_imatrix(tmp_path / "imatrix.dat", means)
    ours = [quantize(experts, tmp_path / f"{f.suffix}.gguf", quant="q4_0", imatrix=f) for f in (file, legacy)]
    assert ours[0].read_bytes() == ours[1].read_bytes()


def test_a_partial_imatrix_is_said(dense: Path, tmp_path: Path) -> None:
    file, means = write_imatrix(tmp_path / "imatrix.gguf", dense, covers=lambda name: "ffn_up" not in name)
    reporter = Reporter()
    ours = quantize(dense, tmp_path / "ours.gguf", quant="q4_k_m", imatrix=file, reporter=reporter)
    reference = reference_quantize(dense, tmp_path / "reference.gguf", "q4_k_m", imatrix=means)
    assert differences(ours, reference, ignored=()) == []
    assert reporter.notes == [
        "q4_k_m: the importance matrix does not cover 2 of 16 quantized tensors, such as blk.0.ffn_up.weight: these "
        "are encoded without it"
    ]


# quantkit's options, and the same for llama.cpp
CHOICES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "output": ("q4_k_m", {"output_tensor_type": "q8_0"}, {"output": "Q8_0"}),
    "embedding": ("q4_0", {"token_embedding_type": "Q5_K"}, {"embedding": "Q5_K"}),
    "leave-output": ("q4_0", {"leave_output_tensor": True}, {"leave_output": True}),
    "tensors": (
        "q4_k_m",
        {"tensor_types": (r"attn_v=bf16", r"blk\.(0)\.ffn_(up|down)=iq4_nl", "ffn=q8_0")},
        {"tensors": [("attn_v", "BF16"), (r"blk\.(0)\.ffn_(up|down)", "IQ4_NL"), ("ffn", "Q8_0")]},
    ),
    "pure-and-tensors": (
        "q6_k",
        {"pure": True, "tensor_types": ("token_embd|output=q8_0", "(?=blk)blk.*attn_q=f32")},
        {"pure": True, "tensors": [("token_embd|output", "Q8_0"), ("(?=blk)blk.*attn_q", "F32")]},
    ),
    "not-for-unquantized": ("bf16", {"tensor_types": ("attn_v=q8_0",)}, {"tensors": [("attn_v", "Q8_0")]}),
}


@pytest.mark.parametrize("base", ["dense", "tied", "experts"])
@pytest.mark.parametrize("name", CHOICES)
def test_choices(request: pytest.FixtureRequest, tmp_path: Path, base: str, name: str) -> None:
    source: Path = request.getfixturevalue(base)
    quant, ours_options, reference_options = CHOICES[name]
    reference = reference_quantize(source, tmp_path / "reference.gguf", quant, **reference_options)
    ours = quantize(source, tmp_path / "ours.gguf", quant=quant, **ours_options)
    assert differences(ours, reference, ignored=()) == []
    if quant != "bf16" and (base, name) != ("tied", "leave-output"):  # a tied model has no output layer to leave
        plain = reference_quantize(source, tmp_path / "plain.gguf", quant)
        assert differences(ours, plain, ignored=()) != []


@pytest.mark.parametrize("base", ["dense", "experts"])
@pytest.mark.parametrize(
    ("first", "then"), [("q8_0", "q4_k_m"), ("q4_k_m", "q8_0"), ("iq4_nl", "f16"), ("q5_1", "q4_0")]
)
def test_requantizing(request: pytest.FixtureRequest, tmp_path: Path, base: str, first: str, then: str) -> None:
    source = reference_quantize(request.getfixturevalue(base), tmp_path / "source.gguf", first)
    reference = reference_quantize(source, tmp_path / "reference.gguf", then, allow_requantize=True)
    reporter = Reporter()
    ours = quantize(source, tmp_path / "ours.gguf", quant=then, allow_requantize=True, reporter=reporter)
    assert differences(ours, reference, ignored=()) == []
    assert any("tensors are already quantized" in note for note in reporter.notes)
    with pytest.raises(QuantizationError, match="already: quantizing twice loses quality") as caught:
        quantize(source, tmp_path / "refused.gguf", quant=then)
    assert "--allow-requantize" in caught.value.hint
    assert not (tmp_path / "refused.gguf").exists()


@pytest.mark.parametrize("first", ["q1_0", "tq2_0", "mxfp4_moe", "q3_k_s"])
def test_requantizing_from_every_kind_of_block(experts: Path, tmp_path: Path, first: str) -> None:
    source = reference_quantize(experts, tmp_path / "source.gguf", first)
    reference = reference_quantize(source, tmp_path / "reference.gguf", "q5_0", allow_requantize=True)
    ours = quantize(source, tmp_path / "ours.gguf", quant="q5_0", allow_requantize=True)
    assert differences(ours, reference, ignored=()) == []


def test_what_keeps_its_type_is_no_requantizing(dense: Path, tmp_path: Path) -> None:
    source = reference_quantize(dense, tmp_path / "source.gguf", "q8_0")
    assert differences(quantize(source, tmp_path / "ours.gguf", quant="q8_0"), source, ignored=()) == []


def test_split_on_the_way_in_and_out(dense: Path, tmp_path: Path) -> None:
    """From parts that gguf-py's writer made, as from the whole; and parts of ours that llama.cpp reads as the whole."""
    first = split_with_gguf_py(dense, tmp_path / "split.gguf", 1_500_000)
    assert first.name.startswith("split-00001-of-")
    whole = quantize(dense, tmp_path / "whole.gguf", quant="q4_k_m")
    assert differences(quantize(first, tmp_path / "joined.gguf", quant="q4_k_m"), whole, ignored=()) == []
    assert differences(reference_quantize(first, tmp_path / "theirs.gguf", "q4_k_m"), whole, ignored=()) == []
    parts = quantize(dense, tmp_path / "parts.gguf", quant="q4_k_m", split_max_size=500_000)
    assert parts.name == f"parts-00001-of-{len(read_model(parts).files):05d}.gguf"
    assert len(read_model(parts).files) > 2
    # Nothing is left to encode: llama.cpp joins the parts.
    assert differences(reference_quantize(parts, tmp_path / "again.gguf", "q4_k_m"), whole, ignored=()) == []


def split_with_gguf_py(source: Path, out: Path, limit: int) -> Path:
    """The file split by gguf-py's writer, as ``convert_hf_to_gguf.py --split-max-size`` does; the first part."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama", split_max_size=limit)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        item = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=item)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(out.parent.glob(f"{out.stem}-00001-of-*.gguf"))


def test_the_parts_are_those_of_gguf_py(dense: Path, tmp_path: Path) -> None:
    """Names, keys and tensors of each part."""
    limit = 1_500_000
    theirs = read_model(split_with_gguf_py(dense, tmp_path / "theirs.gguf", limit)).files
    ours = read_model(quantize(dense, tmp_path / "ours.gguf", quant="f16", split_max_size=limit)).files
    assert [path.name.replace("ours", "theirs") for path in ours] == [path.name for path in theirs]
    for part, expected in zip(ours, theirs, strict=True):
        assert differences(part, expected, ignored=("general.quantization_version",)) == []
