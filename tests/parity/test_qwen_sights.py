"""The mmproj files of Qwen's vision models against the converter's, from checkpoints that have only that part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quantkit.arch.vision.base import mmproj_type
from quantkit.checkpoint.folder import open_checkpoint
from quantkit.engine.device import Workers
from quantkit.engine.stream import stream
from quantkit.ggml.types import UNQUANTIZED
from quantkit.model.merger import Merger
from quantkit.model.own_names import check_tensors, with_own_names
from quantkit.model.planned import planned_tensor
from quantkit.model.projector import read_projector
from quantkit.plan.gguf_outputs import unquantized_outputs
from tests.support.checkpoints import random_values, write_weights
from tests.support.gguf_compare import differences
from tests.support.qwen_sights import QWEN_SIGHTS
from tests.support.reference import ReferenceConverter
from tests.support.sights import vision_shapes


def write_sight(folder: Path, kind: str) -> Path:
    """A checkpoint without a language model."""
    config, pictures = QWEN_SIGHTS[kind]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    write_weights(folder, random_values(vision_shapes(config), torch.bfloat16, 7))
    return folder


@pytest.mark.parametrize("kind", QWEN_SIGHTS)
def test_every_byte_is_the_converters(converter: ReferenceConverter, tmp_path: Path, kind: str) -> None:
    model = write_sight(tmp_path / "model", kind)
    for outtype in UNQUANTIZED:
        with open_checkpoint(model) as opened:
            projector = read_projector(opened, opened.config["text_config"])
            checkpoint = with_own_names(opened, opened.config, [], projector.rules)
            check_tensors(checkpoint, projector.rules)
            tensors = [planned_tensor(rule, mmproj_type(rule, UNQUANTIZED[outtype])) for rule in projector.rules]
            outputs = unquantized_outputs(f"{outtype}.gguf", outtype, projector.metadata("x"), tensors)
            stream(tensors, outputs, Merger(checkpoint, ()), tmp_path, workers=Workers(2))
        theirs = converter.convert_mmproj(model, tmp_path / f"reference-{outtype}.gguf", outtype)
        assert differences(tmp_path / f"{outtype}.gguf", theirs) == []
