"""The end of a turn: the chat format of a build, and the metadata with which llama.cpp stops at its end of turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quantkit.chat_template.advice import bake
from quantkit.chat_template.format import ChatFormat, OwnTemplate, choose_format, derive
from quantkit.errors import ChatFormatError
from quantkit.gguf.kv import KV, u32
from quantkit.vocab.files import CONTROL
from quantkit.vocab.special import ENDS_BY_NAME, SPARE_ENDS
from quantkit.vocab.vocabulary import Vocabulary


def chat_format(
    vocabulary: Vocabulary, *, option: str, model: object, thinking: str | None = None
) -> tuple[ChatFormat | OwnTemplate, str]:
    """The requested chat format, proven against the vocabulary, and the Jinja template to write into the files.

    Args:
        vocabulary: the model's vocabulary.
        option: the name of a format, a Jinja file, or ``auto`` for the model's own template.
        model: the model's name in errors.
        thinking: ``on`` or ``off`` to write the choice into the template; None to leave it to the program.

    Raises:
        ChatFormatError: as :func:`quantkit.chat_template.format.choose_format`, with the model's name.
    """
    special = {"bos_token": vocabulary.bos_token, "eos_token": vocabulary.eos_token}
    tokens = next(e.value for e in vocabulary.metadata if e.key == "tokenizer.ggml.tokens")
    try:
        chat, jinja = choose_format(vocabulary.chat_template, option=option, **special, tokens=tokens)
        if thinking is None:
            return chat, jinja
        jinja = bake(jinja, thinking, **special)
        return derive(jinja, **special, tokens=tokens), jinja
    except ChatFormatError as error:
        raise ChatFormatError(f"{model}: {error}", hint=error.hint) from None


def stop_metadata(chat: ChatFormat | OwnTemplate, vocabulary: Vocabulary) -> tuple[list[KV], list[str]]:
    """The metadata with which llama.cpp ends a turn where the chat format does.

    Returns:
        Entries to add, and notes.

    Raises:
        ChatFormatError: the format's end of turn is not a token of this model, or GGUF has no key left for it.
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
                f"chat format {chat.name}: its end of turn {stop!r} is not a token of this model, so the model would "
                "never stop",
                hint="pass --template with the chat format that the model was trained on",
            )
        number = tokens.index(stop)
        if number in ends or stop in ENDS_BY_NAME:
            continue
        if not spare:
            raise ChatFormatError(
                f"chat format {chat.name}: GGUF has no key left for the end-of-turn token {stop!r}",
                hint="keep only the tokens in eos_token_id of generation_config.json that really end an answer",
            )
        kind = spare.pop(0)
        entries.append(u32(f"tokenizer.ggml.{kind}_token_id", number))
        notes.append(f"{stop} ends a turn but is not the model's EOS token: it is written as {kind}_token_id")
    return entries, notes


def stop_notes(parameters: Sequence[tuple[str, str]], metadata: Iterable[KV]) -> list[str]:
    """A note for each of the user's stop sequences that can never match.

    Stop sequences are searched in the text of an answer, where a control token never appears: it ends an answer only if
    the GGUF file says so.

    Args:
        parameters: pairs of name and value as text.
        metadata: metadata of the GGUF file.
    """
    asked = {value for name, value in parameters if name == "stop"} - ENDS_BY_NAME
    if not asked:
        return []
    values = {entry.key: entry.value for entry in metadata}
    tokens, types = values.get("tokenizer.ggml.tokens", ()), values.get("tokenizer.ggml.token_type", ())
    ends = {values.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", *SPARE_ENDS)}
    return [
        f"stop {token!r} has no effect: it is a control token, which never appears in the text of an answer"
        for number, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if token in asked and kind == CONTROL and number not in ends
    ]
