"""A folder's tokenizer.json as the files of a slow tokenizer."""

from __future__ import annotations

import json
from pathlib import Path


def make_slow(folder: Path, tokenizer_class: str | None) -> None:
    """Replace tokenizer.json by vocab.json, merges.txt and added_tokens.json, as transformers before 4.34 did.

    Args:
        folder: changed.
        tokenizer_class: for tokenizer_config.json; None for none.
    """
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    model = tokenizer["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    for key in ("tokenizer_class", "added_tokens_decoder"):
        settings.pop(key, None)
    settings |= {} if tokenizer_class is None else {"tokenizer_class": tokenizer_class}
    config.write_text(json.dumps(settings), encoding="utf-8")
    path.unlink()
