"""Makes the inputs of a campaign, in a process of its own: the campaign's own must not load torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.checkpoints.case import write_adapter
from tests.support.checkpoints import make_checkpoint
from tests.support.vocabularies import write_vocabulary

# Rows of 256, the block of the K-quants.
_SHAPE = {"hidden": 256, "intermediate": 256, "heads": 4, "kv_heads": 2, "layers": 1}
_CHOICE = 150  # just enough to choose types by
_WORDS = ("the", "rain", "in", "a", "town", "by", "sea", "falls", "on", "old", "roofs", "and", "new", "ones", "alike")


def make_inputs(folder: Path, seed: int) -> None:
    """A checkpoint whose weights follow from the seed, an adapter of it, one that sees, and texts."""
    with TemporaryDirectory() as temporary:
        vocabulary = write_vocabulary(Path(temporary) / "vocabulary", "llama-bpe", small=True)
        make_checkpoint(folder / "model", "llama3-untied", vocabulary=vocabulary, seed=seed, **_SHAPE)
        make_checkpoint(folder / "sees", "smolvlm", vocabulary=vocabulary, seed=seed)
    write_adapter(folder / "adapter", folder / "model")
    words = [_WORDS[(seed + i * i + i // 7) % len(_WORDS)] for i in range(600)]
    prompts = ({"messages": [{"role": "user", "content": text}]} for text in _WORDS[:4])
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
    # Saved under the name that the campaign gives every output.
    (folder / "talk.txt").write_text("the rain\n/save outputs/out\n/bye\n", encoding="utf-8")
    (folder / "talk.json").write_text('{"schema": 1, "model": "older", "messages": []}', encoding="utf-8")
    (folder / "text.txt").write_text(" ".join(words), encoding="utf-8")
    (folder / "choice.txt").write_text(" ".join(words[:_CHOICE]), encoding="utf-8")


if __name__ == "__main__":
    make_inputs(Path(sys.argv[1]), int(sys.argv[2]))
