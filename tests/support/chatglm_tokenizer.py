"""A stand-in for ``tokenization_chatglm.ChatGLMTokenizer``, the class that ChatGLM 3 brings as code.

It has what llama.cpp's converter asks of it, and is used in the converter's process only.
"""

from __future__ import annotations

import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor

NAME = "ChatGLMTokenizer"
SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


def is_chatglm3(folder: str | Path) -> bool:
    """Whether a folder's tokenizer is of this class."""
    config = Path(folder) / "tokenizer_config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") == NAME


class Pieces:
    """What the original class has around SentencePiece's own.

    Attributes:
        sp_model: SentencePiece's processor.
    """

    def __init__(self, path: Path) -> None:
        self.sp_model = SentencePieceProcessor(model_file=str(path))


class ChatGLMTokenizer:
    """The tokenizer in a folder with ``tokenizer.model``.

    Attributes:
        tokenizer: its pieces.
    """

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer = Pieces(Path(folder) / "tokenizer.model")
        self._special = {self.tokenizer.sp_model.vocab_size() + i: text for i, text in enumerate(SPECIAL)}

    def get_vocab(self) -> dict[str, int]:
        count = self.tokenizer.sp_model.vocab_size() + len(SPECIAL)
        return {self._convert_id_to_token(number): number for number in range(count)}

    def _convert_id_to_token(self, number: int) -> str:
        if number in self._special:
            return self._special[number]
        processor = self.tokenizer.sp_model
        unnamed = (processor.eos_id(), processor.bos_id(), processor.unk_id())
        if number in unnamed or number >= processor.vocab_size():
            return ""
        return str(processor.id_to_piece(number))
