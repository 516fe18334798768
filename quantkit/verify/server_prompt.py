"""Compares the prompt that llama.cpp's own programs evaluate with the prompt of the chat template.

quantkit encodes a rendered prompt with nothing added but BOS. llama-server, llama-cli and Ollama let the tokenizer add
its special tokens, as the file's metadata says: BOS before the prompt, and EOS or a separator after it. llama-server
first removes a BOS or EOS that the template wrote and the tokenizer adds again. The token ids must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantkit.run.session import ChatModel
from quantkit.verify.report import Check

NAME = "prompt in llama-server"
_SHOWN = 4  # tokens around a difference


def check_server_prompts(model: ChatModel, conversations: Sequence[Sequence[Mapping[str, str]]]) -> Check:
    """Check that llama.cpp's tokenizer adds to each prompt no other token than BOS.

    Args:
        model: the GGUF file; its chat template renders the conversations.
        conversations: each ends with a question.

    Raises:
        ChatFormatError: the template rejects a conversation.
    """
    threshold = "the tokens that the template writes, and nothing after them"
    for messages in conversations:
        wanted, got = model.prompt_tokens(messages), server_tokens(model, model.render(messages))
        if got != wanted:
            return Check(NAME, False, "differs", threshold, _difference(model, got, wanted))
    return Check(NAME, True, "equal", threshold, f"{len(conversations)} prompts, special tokens added by llama.cpp")


def server_tokens(model: ChatModel, prompt: str) -> list[int]:
    """The tokens of a rendered prompt in llama-server, llama-cli and Ollama."""
    if model.engine.adds_bos and model.bos_token:
        prompt = prompt.removeprefix(model.bos_token)
    if model.engine.adds_eos and model.eos_token:
        prompt = prompt.removesuffix(model.eos_token)
    return model.engine.tokenize(prompt, special=True, add=True)


def _difference(model: ChatModel, got: Sequence[int], wanted: Sequence[int]) -> str:
    if list(got[: len(wanted)]) == list(wanted):
        added = " ".join(repr(model.engine.text(token)) for token in got[len(wanted) :])
        cause = "tokenizer.ggml.add_eos_token is true" if model.engine.adds_eos else "the metadata adds it"
        return (
            f"llama-server, llama-cli and Ollama append {added} to the prompt, so the model does not answer: {cause}; "
            "build the file again from its checkpoint with quantkit build, which writes false"
        )
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))

    def around(ids: Sequence[int]) -> str:
        return " ".join(f"{token} {model.engine.text(token)!r}" for token in ids[at : at + _SHOWN]) or "nothing"

    return f"token {at}: llama-server has {around(got)}; the template writes {around(wanted)}"
