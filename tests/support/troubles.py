"""What docs/troubleshooting.md tells about: each heading's message, and a way to get it out of the program.

A workplace has the demo's ``base``, ``my-lora`` and a package ``my-model`` of one F16 file; a trouble breaks a copy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quantkit.demo.data import ADAPTER, BASE
from tests.checkpoints.case import cut, edit_json

Break = Callable[[Path], object]
WEIGHTS, LORA = "model.safetensors", "adapter_model.safetensors"


@dataclass(frozen=True)
class Trouble:
    """A message that the program gives.

    Attributes:
        heading: of the page: the message without its path; ``…`` stands for what differs.
        types: the command, after ``quantkit``; ``{port}`` is one that is in use.
        breaks: what is done to ``thing``, a copy of ``of``, before.
        of: ``base``, ``my-lora`` or ``my-model``.
        code: the exit code.
    """

    heading: str
    types: str
    breaks: Break | None = None
    of: str = "base"
    code: int = 1


def make_workplace(folder: Path) -> None:
    """The sound things."""
    from quantkit.jobs.build import build
    from quantkit.jobs.recipe import Recipe
    from quantkit.jobs.run_options import RunOptions

    shutil.copytree(BASE, folder / "base")
    shutil.copytree(ADAPTER, folder / "my-lora")
    recipe = Recipe(folder / "base", quants=("f16", "q8_0"), name="my-model", out=folder / "my-model")
    build(recipe, verify=False, run=RunOptions(device="cpu"))


def _change(path: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    save_file(dict(change(*item) for item in load_file(path).items()), path, metadata={"format": "pt"})


def _untrained(folder: Path) -> None:
    _change(folder / LORA, lambda key, value: (key, value * ("lora_A" in key)))


def _wider(folder: Path) -> None:
    _change(folder / LORA, lambda key, value: (key, torch.cat((value, value), 1) if "lora_A" in key else value))


def _deeper(folder: Path) -> None:
    _change(folder / LORA, lambda key, value: (key.replace("layers.2.", "layers.7."), value))


def _first_weight(value: float) -> Break:
    def breaks(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = value
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return breaks


def _damage(folder: Path) -> None:
    cut(folder / "my-model-f16.gguf", 100)
    cut(folder / "my-model-q8_0.gguf", 100)


def _alone(folder: Path) -> None:
    shutil.copyfile(folder / "my-model-q8_0.gguf", folder.parent / "kit.gguf")


def _without_template(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def _with_adapter_inside(folder: Path) -> None:
    for name in (LORA, "adapter_config.json"):
        shutil.copyfile(ADAPTER / name, folder / name)


def _with_conversations(folder: Path) -> None:
    (folder.parent / "train.jsonl").write_text(json.dumps({"text": "x"}) + "\n", encoding="utf-8")


def _with_short_text(folder: Path) -> None:
    (folder.parent / "short.txt").write_text("hello", encoding="utf-8")


def _pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "utf-8")


def _gptq(folder: Path) -> None:
    def change(key: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
        packed = key.endswith("proj.weight")
        return (key.replace("weight", "qweight"), value[: len(value) // 8].int()) if packed else (key, value)

    _change(folder / WEIGHTS, change)
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


BUILD = "build thing -o out --quant q8_0 --no-verify --device cpu"
BUILD_LORA = "build base --adapter thing -o out --quant q8_0 --no-verify --device cpu"

TROUBLES: Sequence[Trouble] = (
    Trouble("no such folder", "build nowhere -o out"),
    Trouble("it looks like the name of a model in Ollama, which has quantized files only", "build llama3:8b -o out"),
    Trouble("not (completely) in the download cache; HF_HUB_OFFLINE is set", "build Qwen/Qwen2.5-0.5B -o out"),
    Trouble("this is a GGUF file, not a checkpoint folder", "build my-model/my-model-f16.gguf -o out"),
    Trouble("this is an adapter, not a model", "build my-lora -o out"),
    Trouble("config.json is missing", BUILD, lambda folder: (folder / "config.json").unlink()),
    Trouble("no weights (model.safetensors, model-*.safetensors or pytorch_model.bin)", BUILD,
            lambda folder: (folder / WEIGHTS).unlink()),
    Trouble("a git-lfs pointer, not the file itself", BUILD, _pointer),
    Trouble("truncated: … ends at byte …, but the file has … bytes", BUILD,
            lambda folder: cut(folder / WEIGHTS, 100)),
    Trouble("architecture … is not supported", BUILD,
            lambda folder: edit_json(folder / "config.json", architectures=["MyForCausalLM"])),
    Trouble("the weights are already quantized (gptq)", BUILD, _gptq),
    Trouble("there is no tokenizer: tokenizer.model and tokenizer.json are missing", BUILD,
            lambda folder: (folder / "tokenizer.json").unlink()),
    Trouble("the model has no chat template", BUILD, _without_template),
    Trouble("its end of turn … is not a token of this model, so the model would never stop",
            "build base --template chatml -o out --no-verify"),
    Trouble("an adapter in the model's folder", BUILD, _with_adapter_inside),
    Trouble("has NaN or infinite values", BUILD, _first_weight(float("nan"))),
    Trouble("has a value of …, too large for f16", BUILD, _first_weight(1e30)),
    Trouble("MODEL is missing, the full-precision base that this adapter is merged into", "build --adapter my-lora"),
    Trouble("adapter_config.json is missing: this is a model, not an adapter", "build base --adapter base -o out"),
    Trouble("the adapter was trained on shape …, but this base model has", BUILD_LORA, _wider, "my-lora"),
    Trouble("belongs to …, which the base model does not have", BUILD_LORA, _deeper, "my-lora"),
    Trouble("the adapter changes nothing: all … lora_B factors are zero", BUILD_LORA, _untrained, "my-lora"),
    Trouble("the adapter is given twice", "build base --adapter my-lora --adapter my-lora -o out"),
    Trouble("tensors under a name that is not read", BUILD_LORA,
            lambda folder: (folder / "notes.bin").write_bytes(b"x"), "my-lora"),
    Trouble("unknown quantization type", "build base --quant q4km -o out"),
    Trouble("needs an importance matrix (imatrix)", "build base --quant iq2_xxs -o out"),
    Trouble("quantizing twice loses quality",
            "quantize my-model/my-model-q8_0.gguf --quant q4_0 -o out.gguf"),
    Trouble("is too small for this model: the smallest file has … bytes", "build base --size 1kB -o out --no-verify"),
    Trouble("unknown Ollama parameter", "build base --param temprature=0.2 -o out"),
    Trouble("this machine has … CUDA devices", "build base --device cuda:99 -o out --no-verify"),
    Trouble("two chunks of … are the least", "imatrix my-model --data short.txt -o x.gguf", _with_short_text),
    Trouble("has the keys", "build base --calibrate train.jsonl -o out --quant q8_0", _with_conversations),
    Trouble("already exists", "build base -o my-model"),
    Trouble("was not made by this command, so it is not replaced", "build base -o my-lora --overwrite"),
    Trouble("contains the input …, so it cannot be replaced", "build base -o base"),
    Trouble("checks failed", "verify thing", _damage, "my-model", 3),
    Trouble("tokens are too few to evaluate", "evaluate my-model --data short.txt", _with_short_text),
    Trouble("a file cannot be evaluated against itself", "evaluate kit.gguf", _alone, "my-model"),
    Trouble("this is a file, not a package", "verify my-model/my-model-f16.gguf"),
    Trouble("so this is not a folder made by quantkit build", "smoke base"),
    Trouble("contains a different chat template than", "package my-model/my-model-f16.gguf --template chatml -o out"),
    Trouble("cannot be changed", "edit my-model/my-model-f16.gguf --set llama.block_count=4"),
    Trouble("cannot listen on …: Address already in use", "serve my-model --port {port}"),
    Trouble("no token for", "push my-model hf:me/my-model-GGUF"),
    Trouble("no Ollama server responds at", "ollama create my-model"),
)  # fmt: skip
