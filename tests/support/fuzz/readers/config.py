"""config.json through a plan: the settings of every family against the tensors that belong to them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from quantkit.errors import QuantkitError
from tests.support.fuzz import tiny
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.parts import listed, of_parts, write_sparse
from tests.support.fuzz.planned import plan_and_inspect
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder

_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def _seeds() -> Sequence[bytes]:
    tensors = listed(tiny.SHAPES)
    yarn = {**tiny.CONFIG, "rope_scaling": _YARN, "torch_dtype": "float16", "tie_word_embeddings": False}
    head = {**tensors, "lm_head.weight": ["BF16", [tiny.ROWS, 64]]}
    return [
        tiny.text({"config": tiny.CONFIG, "tensors": tensors}),
        tiny.text({"config": yarn, "tensors": head}),
    ]


def _families() -> Iterator[bytes]:
    """A checkpoint of every kind that the tests have, with one layer of each sort."""
    from tests.support.checkpoints import KINDS, SIGHTS, make_checkpoint
    from tests.support.vocabularies import write_vocabulary

    with TemporaryDirectory() as place:
        for name, kind in {**KINDS, **SIGHTS}.items():
            words = Path(place, "vocabulary", kind.vocabulary)
            if not words.is_dir():
                write_vocabulary(words, kind.vocabulary, small=True)
            made = make_checkpoint(Path(place, name), name, vocabulary=words, layers=kind.least)
            parts = {"config": json.loads((made / "config.json").read_bytes()), "tensors": _listed(made)}
            if (pictures := made / "preprocessor_config.json").is_file():
                parts["pictures"] = json.loads(pictures.read_bytes())
            yield tiny.text(parts)


def _listed(made: Path) -> dict[str, list[object]]:
    with (made / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header.pop("__metadata__", None)
    return {name: [entry["dtype"], entry["shape"]] for name, entry in header.items()}


def _read(parts: dict[str, Any]) -> None:
    files = tiny.model(config_json=tiny.text(parts.get("config")), model_safetensors=None)
    if "pictures" in parts:
        files["preprocessor_config.json"] = tiny.text(parts["pictures"])
    place = folder(files)
    write_sparse(place / "model.safetensors", parts.get("tensors"))
    try:
        plan_and_inspect(place)
    except QuantkitError:
        if "pictures" not in parts:
            raise
    if "pictures" in parts:
        plan_and_inspect(place, mmproj=True)


READER = Reader(
    "config",
    _seeds,
    of_parts(_read),
    JsonMutator(
        words=(
            *(
                "rope_scaling",
                "rope_parameters",
                "rope_type",
                "type",
                "yarn",
                "llama3",
                "longrope",
                "linear",
                "dynamic",
            ),
            *("layer_types", "full_attention", "sliding_attention", "sliding_window", "quantization_config"),
            *("text_config", "vision_config", "num_hidden_layers", "head_dim", "vocab_size", "quant_method", "fp8"),
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            {"quant_method": "mxfp4"},
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            *("BF16", "F16", "U8", "F8_E4M3", "I64", "lm_head.weight"),
        )
    ),
    largest=1 << 16,
    more=lambda: list(_families()),
)
