"""Whether llama.cpp appends EOS to a prompt, which must never happen to a chat model.

Trainers switch ``add_eos_token`` on so that training texts end with EOS, and save the tokenizer so. In a GGUF file the
same setting makes llama-server, llama-cli and Ollama append EOS to the prompt, after the text that opens the answer. A
chat template writes every token of a prompt itself, EOS included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.gguf.kv import KV, boolean
from quantkit.vocab.vocabulary import Vocabulary

ADD_EOS = "tokenizer.ggml.add_eos_token"


def for_chat(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary of a model with a chat template: llama.cpp appends no EOS to its prompts.

    Returns:
        The same value, or one with ``add_eos_token`` false and a note about it.
    """
    if not appends_eos(vocabulary.metadata):
        return vocabulary
    note = (
        "the tokenizer appends EOS to texts (add_eos_token), as in training; the files say false, because a "
        "prompt must not end with EOS"
    )
    metadata = tuple(boolean(ADD_EOS, False) if entry.key == ADD_EOS else entry for entry in vocabulary.metadata)
    return replace(vocabulary, metadata=metadata, notes=(*vocabulary.notes, note))


def package_eos_notes(metadata: Iterable[KV]) -> list[str]:
    """A note on a finished GGUF file whose prompts end with EOS."""
    if not appends_eos(metadata):
        return []
    return [
        f"{ADD_EOS} is true: llama-server, llama-cli and Ollama append EOS to every prompt, so the model does not "
        "answer; build the file again from its checkpoint with quantkit build, which writes false"
    ]


def appends_eos(metadata: Iterable[KV]) -> bool:
    """Whether the metadata tells llama.cpp to append EOS to texts."""
    return any(entry.key == ADD_EOS and entry.value is True for entry in metadata)
