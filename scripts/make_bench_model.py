"""A Llama-shaped checkpoint with random weights, and a LoRA adapter and an importance matrix for it, for measurements.

Sizes by name; weights are made tensor by tensor, so memory stays small. The adapter is a PEFT folder (r=16 on the seven
projections, random on both sides).
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int


SIZES = {
    "tiny": Size(256, 2, 512, 4, 2),
    "1.5b": Size(2048, 16, 8192, 32, 8),
    "8b": Size(4096, 32, 14336, 32, 8),
}
SHARD_BYTES = 2_000_000_000
RANK = 16


def tensors(size: Size, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the checkpoint."""
    d, ff, kv = size.hidden, size.intermediate, size.hidden // size.heads * size.kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, d)}
    for i in range(size.layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (d,),
            f"{layer}.self_attn.q_proj.weight": (d, d),
            f"{layer}.self_attn.k_proj.weight": (kv, d),
            f"{layer}.self_attn.v_proj.weight": (kv, d),
            f"{layer}.self_attn.o_proj.weight": (d, d),
            f"{layer}.post_attention_layernorm.weight": (d,),
            f"{layer}.mlp.gate_proj.weight": (ff, d),
            f"{layer}.mlp.up_proj.weight": (ff, d),
            f"{layer}.mlp.down_proj.weight": (d, ff),
        }
    return shapes | {"model.norm.weight": (d,), "lm_head.weight": (vocabulary, d)}


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, scale: float) -> None:
    """Write one shard, generating the values as it goes."""
    names = {torch.bfloat16: "BF16", torch.float32: "F32"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name, shape in shapes.items():
            if name.endswith("norm.weight"):
                values = torch.ones(shape, device=device)
            else:
                values = torch.empty(shape, device=device, dtype=dtype).normal_(0, scale)
            file.write(values.to(dtype).cpu().view(torch.uint8).numpy().data)


def make(folder: Path, size: Size, tokenizer: Path) -> None:
    """Write FOLDER/base and FOLDER/adapter.

    Args:
        folder: where.
        size: the shape.
        tokenizer: folder with tokenizer.json and tokenizer_config.json, copied along.
    """
    torch.manual_seed(0)
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, base / name)
    tokens = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = len(tokens["model"]["vocab"]) + len(tokens["added_tokens"])
    shapes = tensors(size, vocabulary)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        nbytes = torch.Size(shape).numel() * 2
        if shards[-1] and filled + nbytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(base / file, shard, torch.bfloat16, 0.02)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    ids = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "intermediate_size": size.intermediate,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": ids.get("<|begin_of_text|>"),
        "eos_token_id": ids.get("<|eot_id|>"),
    }
    (base / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_adapter(adapter, shapes)


def write_adapter(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A LoRA adapter on the seven projections."""
    factors: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if "_proj.weight" in name:
            module = "base_model.model." + name.removesuffix(".weight")
            factors[f"{module}.lora_A.weight"] = (RANK, shape[1])
            factors[f"{module}.lora_B.weight"] = (shape[0], RANK)
    write_safetensors(folder / "adapter_model.safetensors", factors, torch.float32, 0.01)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def make_imatrix(path: Path, size: Size) -> None:
    """Write an importance matrix of the layers' projections, as llama-imatrix does, with random sums."""
    import gguf
    import numpy as np

    random = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["random"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    columns = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"), size.hidden)
    for layer in range(size.layers):
        for name, width in (*columns.items(), ("ffn_down", size.intermediate)):
            sums = (random.random((1, width)) ** 3 * 100).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{name}.weight.in_sum2", sums)
            writer.add_tensor(f"blk.{layer}.{name}.weight.counts", np.full((1, 1), 48, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="1.5b")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with the tokenizer to use")
    arguments = parser.parse_args()
    make(arguments.folder, SIZES[arguments.size], arguments.tokenizer)
