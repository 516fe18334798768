"""Which two tensors are tied, by the names of many architectures, and what is refused where they are not known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.errors import AdapterError
from quantkit.jobs.merge import merge
from quantkit.model.tied_embeddings import Tie, find_tie

PREFIX = "base_model.model."
ROWS, HIDDEN = 6, 4


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """A folder of the tensors named, each [6, 4], with a config."""

    def make(*names: str, **config: Any) -> Path:
        folder = tmp_path / "base"
        folder.mkdir()
        settings = {"architectures": ["OtherForCausalLM"], "vocab_size": ROWS, **config}
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        tensors = {name: torch.full((ROWS, HIDDEN), float(number)) for number, name in enumerate(names, 1)}
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [], **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file({PREFIX + name: tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("names", "config", "expected"),
    [
        (["transformer.wte.weight"], {}, Tie("transformer.wte.weight", "lm_head.weight", False)),
        (["gpt_neox.embed_in.weight"], {}, Tie("gpt_neox.embed_in.weight", "embed_out.weight", False)),
        (["gpt_neox.embed_in.weight", "embed_out.weight"], {}, None),
        (["gpt_neox.embed_in.weight"], {"tie_word_embeddings": False}, None),
        (
            ["model.language_model.embed_tokens.weight", "lm_head.weight"],
            {"text_config": {"tie_word_embeddings": True}},
            Tie("model.language_model.embed_tokens.weight", "lm_head.weight", True),
        ),
        (
            ["language_model.model.embed_tokens.weight"],
            {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}},
            Tie("language_model.model.embed_tokens.weight", "language_model.lm_head.weight", False),
        ),
        (["somewhere.else.weight"], {"tie_word_embeddings": True}, None),
    ],
)
def test_the_tied_pair(model: Callable[..., Path], names: list[str], config: dict[str, Any], expected: Any) -> None:
    with open_checkpoint(model(*names, **config)) as checkpoint:
        assert find_tie(checkpoint) == expected


@pytest.mark.parametrize("trained", ["model.embed_tokens", "model.language_model.embed_tokens"])
def test_the_language_model_of_one_that_sees(model: Callable[..., Path], tmp_path: Path, trained: str) -> None:
    """Saved before transformers 4.52, with the tie in text_config, which is where it is undone."""
    embedding = "language_model.model.embed_tokens.weight"
    base = model(embedding, "vision_tower.x.weight", text_config={"vocab_size": ROWS, "tie_word_embeddings": True})
    new = {f"{trained}.weight": torch.full((ROWS, HIDDEN), 7.0)}
    folder = adapter(tmp_path / "a", new, modules_to_save=["embed_tokens"])
    merged = merge(base, tmp_path / "merged", adapters=[folder])
    tensors = load_file(merged / "model.safetensors")
    assert torch.equal(tensors[embedding], new[f"{trained}.weight"])
    assert torch.equal(tensors["language_model.lm_head.weight"], torch.full((ROWS, HIDDEN), 1.0))
    config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False


def test_a_vocabulary_resized_in_the_text_config(model: Callable[..., Path], tmp_path: Path) -> None:
    embedding = "model.language_model.embed_tokens.weight"
    base = model(embedding, text_config={"vocab_size": ROWS, "tie_word_embeddings": True}, vocab_size=None)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    del config["vocab_size"]
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = {"model": {"vocab": {str(number): number for number in range(8)}}}
    (base / "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
    folder = adapter(tmp_path / "a", {embedding: torch.ones(8, HIDDEN)})
    merged = merge(base, tmp_path / "merged", adapters=[folder])
    config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    assert config["text_config"]["vocab_size"] == 8
    assert "vocab_size" not in config


@pytest.mark.parametrize("tied", [True, None, False])
def test_an_embedding_that_may_be_tied_to_nobody_knows_what(
    model: Callable[..., Path], tmp_path: Path, tied: bool | None
) -> None:
    base = model("backbone.embeddings.weight", **({} if tied is None else {"tie_word_embeddings": tied}))
    new = {"backbone.embeddings.weight": torch.full((ROWS, HIDDEN), 2.0)}
    folder = adapter(tmp_path / "a", new, modules_to_save=["embeddings"])
    if tied is False:
        merged = merge(base, tmp_path / "merged", adapters=[folder])
        assert torch.equal(load_file(merged / "model.safetensors")["backbone.embeddings.weight"], *new.values())
        return
    with pytest.raises(AdapterError, match=r"'backbone\.embeddings\.weight', which the base model may tie") as caught:
        merge(base, tmp_path / "merged", adapters=[folder])
    assert "merge_and_unload" in caught.value.hint
