"""The end of a turn: the chat format of a build, and what its GGUF files need so that llama.cpp stops there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quantkit.chat_template.format import ChatFormat, OwnTemplate, choose_format
from quantkit.errors import ChatFormatError
from quantkit.gguf.kv import KV, u32
from quantkit.vocab.files import CONTROL
from quantkit.vocab.special import ENDS_BY_NAME, SPARE_ENDS
from quantkit.vocab.vocabulary import Vocabulary


def chat_format(vocabulary: Vocabulary, *, option: str, model: object) -> tuple[ChatFormat | OwnTemplate, str]:
    """The chat format asked for, proven against the vocabulary, and the Jinja template that the files carry.

    Args:
        vocabulary: of the model.
        option: the name of a format, a Jinja file, or ``auto`` for the model's own template.
        model: what errors call the model.

    Raises:
        ChatFormatError: as :func:`quantkit.chat_template.format.choose_format`, with the model's name.
    """
    try:
        return choose_format(
            vocabulary.chat_template,
            option=option,
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
            tokens=next(e.value for e in vocabulary.metadata if e.key == "tokenizer.ggml.tokens"),
        )
    except ChatFormatError as error:
        raise ChatFormatError(f"{model}: {error}", hint=error.hint) from None


def stop_metadata(chat: ChatFormat | OwnTemplate, vocabulary: Vocabulary) -> tuple[list[KV], list[str]]:
    """What the GGUF file needs so that llama.cpp ends a turn where the chat format does.

    Returns:
        Entries to add, and notes.

    Raises:
        ChatFormatError: the format's end of turn is not a token of this model, or a GGUF file has no room for it.
    """
    metadata = {entry.key: entry.value for entry in vocabulary.metadata}
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    ends = {
        metadata[f"tokenizer.ggml.{kind}_token_id"]
        for kind in ("eos", *SPARE_ENDS)
        if f"tokenizer.ggml.{kind}_token_id" in metadata
    }
    spare = [kind for kind in SPARE_ENDS if f"tokenizer.ggml.{kind}_token_id" not in metadata]
    entries: list[KV] = []
    notes: list[str] = []
    for stop in chat.stops:
        if stop not in tokens:
            raise ChatFormatError(
                f"chat format {chat.name}: its end of turn {stop!r} is not a token of this model: it would never stop",
                hint="pass --template with the format the model was trained on",
            )
        number = tokens.index(stop)
        if number in ends or stop in ENDS_BY_NAME:
            continue
        if not spare:
            raise ChatFormatError(
                f"chat format {chat.name}: a GGUF file has no room for a further end-of-turn token {stop!r}",
                hint="leave the tokens that really end an answer in generation_config.json's eos_token_id",
            )
        kind = spare.pop(0)
        entries.append(u32(f"tokenizer.ggml.{kind}_token_id", number))
        notes.append(f"{stop} ends a turn but is not the model's EOS: written as {kind}_token_id")
    return entries, notes


def stop_notes(parameters: Sequence[tuple[str, str]], metadata: Iterable[KV]) -> list[str]:
    """A note for each stop of the user's that can never be seen.

    Stops are looked for in the text of an answer, and a control token has none there: it ends an answer where the GGUF
    file says so, and nowhere else.

    Args:
        parameters: name and value text.
        metadata: of the GGUF file.
    """
    asked = {value for name, value in parameters if name == "stop"} - ENDS_BY_NAME
    if not asked:
        return []
    values = {entry.key: entry.value for entry in metadata}
    tokens, types = values.get("tokenizer.ggml.tokens", ()), values.get("tokenizer.ggml.token_type", ())
    ends = {values.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", *SPARE_ENDS)}
    return [
        f"stop {token!r} is a control token, which answers never show: a stop at it does nothing"
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if token in asked and kind == CONTROL and number not in ends
    ]
