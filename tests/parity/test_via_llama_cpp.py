"""``--via-llama-cpp``: a model of a family not supported here, through the converter of a llama.cpp checkout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantkit.errors import ArchitectureError, CheckpointError
from quantkit.gguf.model import read_model
from quantkit.hub.adapter_source import AdapterSource
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.via_llama_cpp import convert_via
from tests.support.gguf_compare import FREE_TEXT, differences, tensor_differences
from tests.support.reference import ReferenceConverter, reference_folder, reference_quantize
from tests.support.sums import low_rank_sum

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def starcoder(vocabulary: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny StarCoder with the whole vocabulary of DeepSeek Coder, the smallest that the converter knows."""
    from transformers import AutoModelForCausalLM, GPTBigCodeConfig

    folder = tmp_path_factory.mktemp("starcoder")
    files = vocabulary("deepseek-coder", small=False)
    tokens = json.loads((files / "tokenizer.json").read_text(encoding="utf-8"))
    size = 1 + max(*tokens["model"]["vocab"].values(), *(token["id"] for token in tokens["added_tokens"]))
    torch.manual_seed(0)
    config = GPTBigCodeConfig(
        vocab_size=size,
        n_embd=32,
        n_inner=128,
        n_layer=2,
        n_head=4,
        n_positions=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / "model")
    for file in files.iterdir():
        shutil.copy(file, folder / "model" / file.name)
    return folder / "model"


@pytest.fixture(scope="module")
def lora(starcoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("lora") / "adapter"
    model = AutoModelForCausalLM.from_pretrained(starcoder, dtype=torch.float32)
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn", "c_fc"], r=4)
    tuned = get_peft_model(model, settings)
    for name, weight in tuned.named_parameters():
        if ".lora_" in name:
            weight.data = torch.randn(weight.shape) * 0.05
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference(starcoder: Path, tmp_path_factory: pytest.TempPathFactory, converter: ReferenceConverter) -> Path:
    return converter.convert(starcoder, tmp_path_factory.mktemp("reference") / "f16.gguf", "f16")


@pytest.fixture(scope="module")
def merged(starcoder: Path, lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "ours.gguf"
    return convert_via(reference_folder(), starcoder, out, adapters=[lora])


def test_without_the_option_the_refusal_names_it(starcoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="'GPTBigCodeForCausalLM' is not supported") as caught:
        convert(starcoder, tmp_path / "out.gguf")
    assert "--via-llama-cpp PATH" in caught.value.hint
    assert "LlamaForCausalLM" in caught.value.hint


def test_convert(starcoder: Path, reference: Path, tmp_path: Path) -> None:
    whole = convert_via(reference_folder(), starcoder, tmp_path / "whole.gguf")
    assert differences(whole, reference, ignored=()) == []
    parts = convert_via(reference_folder(), starcoder, tmp_path / "parts.gguf", split_max_size=1_000_000)
    model = read_model(parts)
    assert len(model.files) > 1
    assert model.header.tensors.keys() == read_model(whole).header.tensors.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts" + p.name[5:] for p in model.files] + [
        "whole.gguf"
    ]


def test_convert_with_an_adapter(
    starcoder: Path, lora: Path, merged: Path, converter: ReferenceConverter, tmp_path: Path
) -> None:
    """Merged in float32 and rounded once: PEFT's merge in float32, in the order of our sum, given to the converter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(starcoder, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    theirs = PeftModel.from_pretrained(model, lora).merge_and_unload()
    factors = load_file(lora / "adapter_model.safetensors")
    scale = json.loads((lora / "adapter_config.json").read_text(encoding="utf-8"))["lora_alpha"] / 4
    for key in (key for key in factors if ".lora_A." in key):
        name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
        summed = low_rank_sum(before[name], factors[key.replace("lora_A", "lora_B")], factors[key], scale)
        weight = theirs.get_parameter(name)
        torch.testing.assert_close(weight.detach(), summed, rtol=1e-6, atol=1e-7)
        assert not torch.equal(weight, before[name])
        weight.data = summed
    theirs.save_pretrained(tmp_path / "merged")
    for file in starcoder.iterdir():
        if file.name.startswith(("token", "special", "chat")):
            shutil.copy(file, tmp_path / "merged" / file.name)
    assert tensor_differences(merged, converter.convert(tmp_path / "merged", tmp_path / "theirs.gguf", "f16")) == []


def test_what_no_adapter_changes_is_linked_or_keeps_its_type(
    starcoder: Path, lora: Path, merged: Path, tmp_path: Path
) -> None:
    """The converter is given no float32 of it, and makes the same file, whatever the shards."""
    from transformers import AutoModelForCausalLM

    single = {file.name: file for file in starcoder.iterdir()}
    parts = tmp_path / "parts"
    AutoModelForCausalLM.from_pretrained(starcoder, dtype="auto").save_pretrained(parts, max_shard_size="8KB")
    for name, file in single.items():
        if name not in os.listdir(parts) and name != "model.safetensors":
            shutil.copy(file, parts / name)
    index = json.loads((parts / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    factors = load_file(lora / "adapter_model.safetensors")
    touched = {key.removeprefix("base_model.model.").replace(".lora_A.", ".") for key in factors if ".lora_A." in key}

    checkout = tmp_path / "checkout" / "vendor" / "llama.cpp"
    shutil.copytree(reference_folder(), checkout, ignore=shutil.ignore_patterns("models"))
    script = checkout / "convert_hf_to_gguf.py"
    first = "from __future__ import annotations\n"
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace(first, first + _LISTING), encoding="utf-8")
    ours = convert_via(tmp_path / "checkout", parts, tmp_path / "ours.gguf", adapters=[lora])
    listing = json.loads((tmp_path / "listing.json").read_text(encoding="utf-8"))

    untouched = set(index.values()) - {index[name] for name in touched}
    assert len(untouched) > 2
    assert {os.path.basename(to) for to, _ in listing.values() if to} == untouched
    types = {name: dtype for _, tensors in listing.values() for name, dtype in tensors.items()}
    assert types.keys() == index.keys()
    assert {name for name, dtype in types.items() if dtype == "F32"} == touched
    assert differences(ours, merged) == []
    assert all((parts / file).is_file() for file in index.values())


# Before the converter runs: where its model's shards lead, and the types in them.
_LISTING = """
import json as _json, os as _os, pathlib as _pathlib, sys as _sys
def _header(path):
    with open(path, "rb") as file:
        return _json.loads(file.read(int.from_bytes(file.read(8), "little")))
_found = {}
for _path in sorted(_pathlib.Path(_sys.argv[1]).glob("*.safetensors")):
    _types = {name: entry["dtype"] for name, entry in _header(_path).items() if name != "__metadata__"}
    _found[_path.name] = [_os.readlink(_path) if _path.is_symlink() else "", _types]
_pathlib.Path(__file__).parents[3].joinpath("listing.json").write_text(_json.dumps(_found))
"""


@pytest.fixture
def lora_with_a_tokenizer(starcoder: Path, lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainer added a token and did not resize: it has no row, and the base's tokenizer counts."""
    folder = tmp_path_factory.mktemp("with-a-tokenizer") / "adapter"
    shutil.copytree(lora, folder)
    tokenizer = json.loads((starcoder / "tokenizer.json").read_text(encoding="utf-8"))
    number = 1 + max(*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"]))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": number, "content": "<filler>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


def test_build(starcoder: Path, lora_with_a_tokenizer: Path, merged: Path, tmp_path: Path) -> None:
    """The package is made from the file in the same way, and holds what the quantizer makes of it."""
    lora = lora_with_a_tokenizer
    recipe = Recipe(
        model=starcoder,
        adapters=(lora,),
        quants=("q8_0", "q4_k_m"),
        out=tmp_path / "out",
        name="it",
        keep_f16=True,
        via_llama_cpp=reference_folder(),
        template="alpaca",
    )
    result = build(recipe)
    assert result.report is not None
    assert result.report.passed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # What the merge decided counts for the checks, and is told.
    for file in ("manifest.json", "report.json"):
        notes = json.loads((tmp_path / "out" / file).read_text(encoding="utf-8"))["notes"]
        assert [note for note in notes if "'<filler>'" in note and "the base's tokenizer is used" in note]
    base = tmp_path / "out" / "it-f16.gguf"
    assert differences(base, merged, ignored=(*FREE_TEXT, "tokenizer.chat_template")) == []  # which the recipe names
    assert read_model(base).value("general.name") == "it"
    for quant in recipe.quants:
        expected = reference_quantize(base, tmp_path / f"{quant}.gguf", quant)
        assert differences(tmp_path / "out" / f"it-{quant}.gguf", expected, ignored=()) == []
    assert "### Instruction:" in (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")


def test_a_converter_that_fails(starcoder: Path, lora: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    script = checkout / "convert_hf_to_gguf.py"
    script.write_text("import sys\nprint('one')\nsys.exit('no such model')\n")
    with pytest.raises(ArchitectureError, match=r"ended with exit code 1: one \| no such model") as caught:
        convert_via(checkout, starcoder, tmp_path / "out.gguf")
    assert f"python '{script}' {starcoder} --outfile" in caught.value.hint
    # The merged folder is gone by then: the hint makes it anew.
    with pytest.raises(ArchitectureError) as caught:
        convert_via(checkout, starcoder, tmp_path / "out.gguf", adapters=[AdapterSource(lora, 0.5)])
    assert f"quantkit merge {starcoder} --adapter-scaled {lora} 0.5 -o MERGED --dtype f32" in caught.value.hint
    assert f"python '{script}' MERGED --outfile" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["a checkout"]
    with pytest.raises(CheckpointError, match=r"convert_hf_to_gguf\.py is missing"):
        convert_via(tmp_path, starcoder, tmp_path / "out.gguf")
