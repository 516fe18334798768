"""A workplace for one fault: copies that may be broken, an empty folder for the output, and ways to break things."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.work_folders import WorkFolders


@dataclass(frozen=True)
class Case(WorkFolders):
    """Folders of one test.

    Attributes:
        model: a sound checkpoint, to be broken.
        adapter: a sound LoRA adapter of it, to be broken.
        gguf: a sound F16 file of it, to be broken.
    """

    named = ("root", "model", "adapter", "gguf", "out")

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def gguf(self) -> Path:
        return self.root / "model-f16.gguf"

    @property
    def marker(self) -> Path:
        """A file that code in a checkpoint would make if it ran."""
        return self.root / "the-code-ran"

    @property
    def weights(self) -> Path:
        return self.model / "model.safetensors"

    @property
    def adapter_weights(self) -> Path:
        return self.adapter / "adapter_model.safetensors"

    def arguments(self, command: Sequence[str]) -> list[str]:
        return [self.fill(argument) for argument in command]

    def config(self, **settings: Any) -> None:
        """Change config.json; None removes a setting."""
        edit_json(self.model / "config.json", **settings)

    def tokenizer(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change tokenizer.json."""
        change_json(self.model / "tokenizer.json", change)

    def tokenizer_config(self, **settings: Any) -> None:
        """Change tokenizer_config.json; None removes a setting."""
        edit_json(self.model / "tokenizer_config.json", **settings)

    def adapter_config(self, **settings: Any) -> None:
        """Change adapter_config.json; None removes a setting."""
        edit_json(self.adapter / "adapter_config.json", **settings)


def write_adapter(folder: Path, model: Path, *, rank: int = 4, scale: float = 0.05) -> Path:
    """A LoRA adapter on the q and v projections of *model*, in the form in which PEFT saves it."""
    folder.mkdir()
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rows = {"q_proj": config["num_attention_heads"] * size, "v_proj": config["num_key_value_heads"] * size}
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name in ("q_proj", "v_proj"):
            a, b = adapter_keys(layer, name)
            tensors[a] = scale * torch.randn(rank, config["hidden_size"], generator=generator)
            tensors[b] = scale * torch.randn(rows[name], rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "base_model_name_or_path": "a/base",
        "bias": "none",
        "init_lora_weights": True,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder


def adapter_keys(layer: int, name: str) -> tuple[str, str]:
    """The keys of ``lora_A`` and ``lora_B`` of an attention projection."""
    module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Read a JSON file, change it, write it."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def edit_json(path: Path, **settings: Any) -> None:
    """Set keys of a JSON object; None removes one."""

    def change(value: dict[str, Any]) -> None:
        for key, setting in settings.items():
            if setting is None:
                value.pop(key, None)
            else:
                value[key] = setting

    change_json(path, change)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Read a safetensors file, change its tensors, write it."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the header of a safetensors file; the data stay as they are."""
    header = read_header(path)
    change(header)
    replace_header(path, json.dumps(header).encode())


def read_header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header: dict[str, Any] = json.loads(raw[8 : 8 + length])
    return header


def replace_header(path: Path, text: bytes) -> None:
    """Put other bytes in the place of a safetensors file's header."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def cut(path: Path, nbytes: int) -> None:
    """Cut *nbytes* off the end of a file."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - nbytes)
