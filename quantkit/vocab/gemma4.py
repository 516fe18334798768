"""The GGUF vocabulary of Gemma 4: a tokenizer.json with byte fallback, whose merges llama.cpp takes as they are.

Earlier Gemmas have a tokenizer.model, whose scores llama.cpp merges by. For Gemma 4 it has a vocabulary of its own:
merges by rank as in byte-level BPE, over characters and not bytes, on texts that are split at newlines only.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.errors import VocabularyError
from quantkit.gguf.kv import KVType, array, boolean, string
from quantkit.vocab.bpe import merge_lines
from quantkit.vocab.files import CONTROL, UNUSED, USER_DEFINED, Content, TokenizerFiles, flag_notes, padding_notes
from quantkit.vocab.llama_hf import ADDED_SCORE, check_options, has_byte_fallback, puts_space_first, texts_and_types

# Control tokens that llama.cpp's converter makes visible, because llama.cpp's parser of answers reads them.
_VISIBLE = frozenset(
    ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>']
)
_HINT = "use the tokenizer.json that was saved with the model"


def read_gemma4(files: TokenizerFiles) -> Content | None:
    """The vocabulary in a tokenizer.json with byte fallback; None if there is no such file.

    Raises:
        VocabularyError: llama.cpp would not reproduce the tokenizer.
    """
    where = str(files.path("tokenizer.json"))
    if not has_byte_fallback(files, where):
        return None
    check_options(files.tokenizer["model"], where)
    if puts_space_first(files.tokenizer, where):
        raise VocabularyError(
            f"{where}: the tokenizer puts a space before the text; llama.cpp does not, for this kind", hint=_HINT
        )
    texts, types = texts_and_types(files, where)
    types = [
        USER_DEFINED if kind == CONTROL and text in _VISIBLE else kind for text, kind in zip(texts, types, strict=True)
    ]
    merges = merge_lines(files.tokenizer["model"].get("merges") or [], where)
    _check_newlines(merges, where)
    added = {token["content"]: token for token in files.tokenizer.get("added_tokens") or ()}
    return Content(
        (
            string("tokenizer.ggml.model", "gemma4"),
            array("tokenizer.ggml.tokens", texts, KVType.STRING),
            array("tokenizer.ggml.scores", [ADDED_SCORE] * len(texts), KVType.FLOAT32),
            array("tokenizer.ggml.token_type", types, KVType.INT32),
            array("tokenizer.ggml.merges", merges, KVType.STRING),
            boolean("tokenizer.ggml.add_space_prefix", False),
        ),
        tuple(texts),
        (*flag_notes(added), *padding_notes(files.rows, types.count(UNUSED))),
    )


def _check_newlines(merges: Sequence[str], where: str) -> None:
    """Check that no merge joins a newline with anything else: llama.cpp splits texts there before it merges.

    Raises:
        VocabularyError: there are no merges, or one does.
    """
    if not merges:
        raise VocabularyError(f"{where}: the merges are missing", hint=_HINT)
    for merge in merges:
        if "\n" in merge and merge.replace("\n", "") != " ":
            raise VocabularyError(
                f"{where}: the merge {merge!r} joins a newline with other text; llama.cpp never does, for this kind",
                hint=_HINT,
            )
