"""The process that asks llama.cpp, from inside: it loads libllama, and never torch.

The second entry point of checks that load libllama, next to :mod:`quantkit.verify.worker`: a proof wants the logits
after every token, and no conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantkit.ggml.llama import begin
from quantkit.prove.llama_logits import write_logits
from quantkit.prove.sequences import TokenSequence, prompts, sequence
from quantkit.run.session import ChatModel
from quantkit.system.child_process import answer_module
from quantkit.verify.conversations import conversations
from quantkit.verify.encoders import open_encoder
from quantkit.verify.origin import Origin
from quantkit.verify.prompts import expect


def answer(question: dict[str, Any]) -> Any:
    """Answer with the sequences to compare, or write the logits of ``sequences`` to the file ``out``."""
    gguf, threads = Path(question["gguf"]), question["threads"]
    if question["out"] is None:
        return [one.to_json() for one in _sequences(gguf, question)]
    write_logits(gguf, [TokenSequence.from_json(one) for one in question["sequences"]], Path(question["out"]), threads)
    return None


def _sequences(gguf: Path, question: dict[str, Any]) -> list[TokenSequence]:
    """The sequences that are known, those that the model's own tokenizer has to make, and the user's text.

    Without a tokenizer or a chat template, the contents of the conversations are taken as plain text.
    """
    found = [TokenSequence.from_json(one) for one in question["sequences"]]
    with ChatModel.load(gguf, n_gpu_layers=0, only_vocabulary=True) as model:
        encode: Callable[[str], list[int]] = model.tokenize
        if question["origin"]:
            origin = Origin.from_json(question["origin"])
            encoder = open_encoder(origin.tokenizer)
            encode = encoder.encode
            if not found and (origin.template or model.chat_template):
                found = prompts(expect(origin, encoder, model, question["system"]))
        if not found:
            texts = {one.name: "\n".join(text for _, text in one.talk) for one in conversations(question["system"])}
            found = [sequence(name, encode(text)) for name, text in texts.items()]
        bos = [model.engine.bos] if model.engine.adds_bos and model.engine.bos is not None else []
        found += [sequence(name, [*bos, *encode(text)]) for name, text in question["texts"].items()]
    return [one for one in found if one.ids]


if __name__ == "__main__":
    begin()
    answer_module(answer)
