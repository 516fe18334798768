"""The mmproj file of every family that also sees, against the file that llama.cpp's converter writes."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from quantkit.arch.vision.families import TOWERS
from quantkit.cli.main import cli
from quantkit.engine.device import Workers
from quantkit.engine.stream import stream
from quantkit.errors import ArchitectureError
from quantkit.gguf.model import GGUFModel
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.jobs.package import package
from quantkit.jobs.run_stream import merger
from quantkit.model.opening import open_model
from quantkit.model.projector_file import plan_projector_file
from quantkit.ollama.modelfile import parse_modelfile
from quantkit.package.manifest import read_manifest
from quantkit.verify.folder import verify_folder
from quantkit.verify.manifest_fields import check_fields
from quantkit.verify.sight import check_sight
from quantkit.verify.structure import check_modelfiles, check_models
from tests.support.checkpoints import KINDS, SIGHTS, make_checkpoint
from tests.support.gguf_compare import differences
from tests.support.gguf_read import read_gguf
from tests.support.parity_matrix import pre_tokenizer
from tests.support.reference import ReferenceConverter
from tests.support.sights import PICTURE_TOKENS
from tests.support.vocabularies import write_vocabulary

SEEING = {kind: family for kind, family in {**KINDS, **SIGHTS}.items() if family.pictures}
# Every family as F16, where convolutions are too, and as BF16, where they are float32; one as F32. From half floats
# those whose values are computed, by the converter in their own type.
CELLS = [
    *((kind, "bf16", outtype) for kind in SEEING for outtype in ("f16", "bf16")),
    ("gemma3-sees", "bf16", "f32"),
    ("gemma3-sees", "f16", "f16"),
    ("gemma4-hears", "f16", "f16"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sights")


@cache
def checkpoint(folder: Path, kind: str, dtype: str) -> Path:
    vocabulary = SEEING[kind].vocabulary
    tokenizer = folder / vocabulary
    if not tokenizer.exists():
        write_vocabulary(tokenizer, vocabulary, small=True, extra=PICTURE_TOKENS[vocabulary])
    return make_checkpoint(folder / f"{kind}-{dtype}", kind, vocabulary=tokenizer, dtype=dtype)


def write_mmproj(model: Path, folder: Path, outtype: str) -> Path:
    """Our file, without the language model."""
    with open_model(model, mmproj=True) as opened:
        planned = plan_projector_file(opened, "model", outtype)
        assert planned is not None
        stream(planned.tensors, [planned.output], merger(opened), folder, workers=Workers(2))
    return folder / planned.output.file


@pytest.mark.parametrize(("kind", "dtype", "outtype"), CELLS)
def test_every_byte_is_the_converters(
    folder: Path, converter: ReferenceConverter, tmp_path: Path, kind: str, dtype: str, outtype: str
) -> None:
    model = checkpoint(folder, kind, dtype)
    source = as_the_converter_reads(model, kind, tmp_path)
    theirs = converter.convert_mmproj(source, tmp_path / "reference.gguf", outtype)
    assert differences(write_mmproj(model, tmp_path, outtype), theirs) == []


def as_the_converter_reads(model: Path, kind: str, folder: Path) -> Path:
    """The checkpoint with the names by which the converter finds its tensors; libmtmd refuses what it writes otherwise.

    It takes the end of a picture's row from the embedding, which it finds only under a name without
    ``language_model.``. Of InternVL in transformers' layout it finds only what is within
    ``model.``, as Intern-S1 has it.
    """
    if SEEING[kind].vocabulary != "tekken" and kind != "internvl-hf":
        return model
    renamed = folder / "renamed"
    if not renamed.exists():
        shutil.copytree(model, renamed)
        tensors = load_file(renamed / "model.safetensors")
        if kind == "internvl-hf":
            tensors = {
                f"model.{name}" if name.startswith(("vision", "multi")) else name: tensors[name] for name in tensors
            }
        else:
            tensors["model.embed_tokens.weight"] = tensors.pop("language_model.model.embed_tokens.weight")
        save_file(tensors, renamed / "model.safetensors", metadata={"format": "pt"})
    return renamed


def test_every_family_has_a_row() -> None:
    assert {family.config["architectures"][0] for family in SEEING.values()} == TOWERS.keys()


@pytest.mark.parametrize("kind", SIGHTS)
def test_the_language_model_is_the_converters(
    folder: Path, converter: ReferenceConverter, tmp_path: Path, kind: str
) -> None:
    """Of the others it has a row in the parity matrix."""
    model = checkpoint(folder, kind, "bf16")
    pre = pre_tokenizer(SEEING[kind].vocabulary)
    theirs = converter.convert(model, tmp_path / "reference.gguf", "f16", pre=pre)
    assert differences(convert(model, tmp_path / "ours.gguf"), theirs) == []


@pytest.mark.parametrize("kind", ["qwen2-vl", "qwen2.5-vl"])
def test_settings_at_the_root_as_first_saved(
    folder: Path, converter: ReferenceConverter, tmp_path: Path, kind: str
) -> None:
    """Both parts, with and without an adapter; a merge keeps both."""
    model = as_first_saved(checkpoint(folder, kind, "bf16"), tmp_path / "model")
    ours = convert(model, tmp_path / "ours.gguf", mmproj=True)
    pre = pre_tokenizer(SEEING[kind].vocabulary)
    assert differences(ours, converter.convert(model, tmp_path / "reference.gguf", "f16", pre=pre)) == []
    theirs = converter.convert_mmproj(model, tmp_path / "reference-mmproj.gguf", "f16")
    assert differences(tmp_path / "ours-mmproj-f16.gguf", theirs) == []
    with open_model(model) as opened:
        assert [note for note in opened.notes if note.startswith("only the language model is converted")]
    tensors = load_file(model / "model.safetensors")
    query = "layers.0.self_attn.q_proj"
    for number, module in enumerate((f"model.{query}", f"model.language_model.{query}")):  # before and since 4.52
        adapter = write_lora(tmp_path / f"adapter-{number}", module, tensors[f"model.{query}.weight"].shape)
        merged = merge(model, tmp_path / f"merged-{number}", adapters=[adapter], device="cpu")
        made = load_file(merged / "model.safetensors")
        assert {name for name in made if not torch.equal(made[name], tensors[name])} == {f"model.{query}.weight"}
        assert made.keys() == tensors.keys()


def as_first_saved(model: Path, folder: Path) -> Path:
    """The checkpoint with the settings and names of the hub's, which are from before transformers 4.52."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = {key: value for key, value in config.pop("text_config").items() if key != "model_type"}
    (folder / "config.json").write_text(json.dumps({**text, **config, "rms_norm_eps": 1e-6}), encoding="utf-8")
    tensors = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_lora(folder: Path, module: str, shape: torch.Size) -> Path:
    """An adapter of rank 2 on one module."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [module]}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    generator = torch.Generator().manual_seed(4)
    factors = {"lora_A": (2, shape[1]), "lora_B": (shape[0], 2)}
    tensors = {
        f"base_model.model.{module}.{name}.weight": torch.randn(size, generator=generator)
        for name, size in factors.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_convert_writes_both_files(folder: Path, tmp_path: Path) -> None:
    model = checkpoint(folder, "gemma3-sees", "bf16")
    made = convert(model, tmp_path / "model.gguf", mmproj=True)
    alone = convert(model, tmp_path / "alone.gguf")
    assert differences(made, alone) == []
    assert differences(tmp_path / "model-mmproj-f16.gguf", write_mmproj(model, folder, "f16")) == []


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("gemma3-sees", r".*(encoder|language_model).*\.(q_proj|fc1)"),
        ("mistral3", r".*(vision_tower|projector|language_model).*(q_proj|k_proj|linear_1|merging_layer)"),
        ("idefics3", r".*(vision_model|connector|text_model).*\.(v_proj|fc2|proj)"),
        ("gemma4-sees", r".*vision_tower.*(q_proj\.linear|input_proj)|.*embedding_projection|.*language_model.*q_proj"),
        ("qwen3.5-moe-sees", r".*(visual|language_model).*\.(qkv|linear_fc1|q_proj|in_proj_qkv)"),
        ("qwen3-vl-moe", r".*(visual|language_model).*\.(qkv|linear_fc1|q_proj|gate_proj|up_proj|down_proj)"),
    ],
)
def test_adapters_on_both_parts_are_merged_as_by_peft(folder: Path, tmp_path: Path, kind: str, targets: str) -> None:
    """The files of a base with an adapter are those of the model that PEFT merges and saves."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = checkpoint(folder, kind, "f32")
    torch.manual_seed(5)
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    trained = get_peft_model(loaded, LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    trained.save_pretrained(tmp_path / "adapter")
    changed = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    seeing = {name for name in changed if "vision" in name or "visual" in name}
    assert seeing
    assert any("layers" in name for name in changed - seeing)
    merged = trained.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for file in model.iterdir():
        if not (tmp_path / "merged" / file.name).exists() and file.suffix == ".json":
            shutil.copy(file, tmp_path / "merged")
    ours = convert(model, tmp_path / "ours.gguf", adapters=tmp_path / "adapter", outtype="f32", mmproj=True)
    theirs = convert(tmp_path / "merged", tmp_path / "theirs.gguf", outtype="f32", mmproj=True)
    for one, other in ((ours, theirs), *[(path.with_name(f"{path.stem}-mmproj-f32.gguf") for path in (ours, theirs))]):
        tensors, expected = read_gguf(one).tensors, read_gguf(other).tensors
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            found, wanted = (t.data.view(np.float32) for t in (tensor, expected[name]))
            np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max(), err_msg=name)


def test_effects_of_adapters_on_both_parts_with_calibrate(folder: Path, tmp_path: Path) -> None:
    """The build goes on from the file that was evaluated, and still tells what is changed of the vision part."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = checkpoint(folder, "gemma3-sees", "f32")
    torch.manual_seed(5)
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    targets = r".*(encoder|language_model).*\.(q_proj|fc1)"
    trained = get_peft_model(loaded, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    trained.save_pretrained(tmp_path / "adapter")
    data = tmp_path / "data.txt"
    data.write_text("".join(f"{number} times {number} is {number**2}.\n" for number in range(150)), encoding="utf-8")
    effects = [
        build(
            model=model,
            adapters=tmp_path / "adapter",
            out=tmp_path / str(number),
            name="kit",
            quants="q8_0",
            keep_f16=True,
            mmproj=True,
            verify=False,
            **how,
        ).effects
        for number, how in enumerate(({}, {"calibrate": data}))
    ]
    assert effects[0] == effects[1]
    assert effects[0][0].matrices == effects[0][0].changed > 8


def test_a_package_that_sees(folder: Path, tmp_path: Path) -> None:
    """It is built, checked with a picture, and held to what it lists."""
    model = checkpoint(folder, "gemma3-sees", "bf16")
    built = build(model=model, out=tmp_path / "kit", name="kit", quants="q8_0", mmproj=True, outtype="bf16")
    assert built.report is not None
    assert "kit-mmproj-bf16.gguf: sees" in [check.name for check in built.report.checks]
    assert built.plan.mmproj is not None
    commands = parse_modelfile((tmp_path / "kit" / "Modelfile").read_text())
    assert [c.value for c in commands if c.keyword == "FROM"] == ["./kit-q8_0.gguf", "./kit-mmproj-bf16.gguf"]
    assert "--mmproj" in (tmp_path / "kit" / "chat.sh").read_text()
    assert [check.name for check in verify_folder(tmp_path / "kit").report.checks if not check.passed] == []

    again = package([], tmp_path / "again", name="kit", modelfile=tmp_path / "kit" / "Modelfile")
    assert read_manifest(again).mmproj == read_manifest(tmp_path / "kit").mmproj
    assert parse_modelfile((again / "Modelfile").read_text()) == commands
    assert "kit-mmproj-bf16.gguf" in (again / "chat.sh").read_text()
    assert faults(again) == set()

    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "picture.png").write_bytes(png(40, 20))
    asked = ["smoke", str(again / "kit-q8_0.gguf"), "--mmproj"]
    for options, code, said in (
        (["kit-mmproj-bf16.gguf", "--image", str(tmp_path / "picture.png")], 0, "another picture moves the logits"),
        (["kit-mmproj-bf16.gguf", "--image", str(tmp_path / "text.png")], 3, "not a picture that libmtmd can read"),
        (["kit-mmproj-bf16.gguf", "--image", str(tmp_path / "none.png")], 1, "none.png: no such file"),
        (["kit-q8_0.gguf"], 1, "not an mmproj file"),
    ):
        done = CliRunner().invoke(cli, [*asked, str(again / options[0]), *options[1:]])
        text = done.output + str(done.exception or "")
        assert said in text, text
        assert (done.exit_code == 0) is (code == 0)


def png(width: int, height: int) -> bytes:
    """A picture that is red and grows brighter."""
    rows = b"".join(b"\0" + bytes(v for x in range(width) for v in (255, 5 * x, 0)) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    written = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def faults(folder: Path) -> set[str]:
    """The checks of a package that fail, of those that load nothing."""
    manifest = read_manifest(folder)
    readable: dict[str, GGUFModel] = {}
    checks = [*check_modelfiles(folder, manifest)]
    for listed, model, found in check_models(folder, manifest, sha256=True, advance=lambda count: None):
        checks += found
        readable |= {} if model is None else {listed.file: model}
    return {check.name for check in (*checks, *check_fields(folder, manifest, readable)) if not check.passed}


def test_what_does_not_fit_the_model_is_found(folder: Path, tmp_path: Path) -> None:
    """The eye of another model, one that is damaged, and one that the Modelfile does not name."""
    model = checkpoint(folder, "gemma3-sees", "bf16")
    build(model=model, out=tmp_path / "kit", name="kit", quants="q8_0", mmproj=True, verify=False)
    eye = tmp_path / "kit" / "kit-mmproj-f16.gguf"
    sound = eye.read_bytes()
    other = write_mmproj(checkpoint(folder, "mistral3", "bf16"), tmp_path, "f16")
    [check] = check_sight(tmp_path / "kit" / "kit-q8_0.gguf", tmp_path / "missing.gguf")
    assert not check.passed
    eye.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    failed = faults(tmp_path / "kit")
    assert failed == {"kit-mmproj-f16.gguf: tensors"}
    shutil.copy(other, eye)
    failed = faults(tmp_path / "kit")
    assert {"kit-mmproj-f16.gguf: header", "manifest: mmproj.projector"} <= failed
    eye.write_bytes(sound)
    modelfile = tmp_path / "kit" / "Modelfile"
    modelfile.write_text(modelfile.read_text().replace("FROM ./kit-mmproj-f16.gguf\n", ""))
    failed = faults(tmp_path / "kit")
    assert "Modelfile" in failed


def test_a_picture_needs_the_files_that_say_how(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(checkpoint(folder, "gemma3-sees", "bf16"), tmp_path / "model")
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(ArchitectureError, match="image_mean is None") as caught:
        convert(model, tmp_path / "model.gguf", mmproj=True)
    assert "copy preprocessor_config.json" in caught.value.hint
    convert(model, tmp_path / "model.gguf")  # the language model does not
