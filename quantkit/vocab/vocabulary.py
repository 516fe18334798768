"""The vocabulary of a checkpoint as GGUF metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.errors import GGUFError, VocabularyError
from quantkit.gguf.kv import KV, KVType, array, string
from quantkit.gguf.llama_limits import repeated_token
from quantkit.hub.tokenizer_files import MERGES, TEKKEN, VOCAB_JSON
from quantkit.vocab.bpe import read_bpe
from quantkit.vocab.chatglm import read_chatglm
from quantkit.vocab.families import NO_RULES, VocabularyRules
from quantkit.vocab.files import Content, ParsedFiles, TokenizerFiles
from quantkit.vocab.gemma4 import read_gemma4
from quantkit.vocab.llama_hf import read_llama_hf
from quantkit.vocab.post_processor import token_text
from quantkit.vocab.special import special_metadata
from quantkit.vocab.templates import Templates, read_templates
from quantkit.vocab.tiktoken import read_tiktoken

if TYPE_CHECKING:
    from quantkit.checkpoint.folder import Checkpoint  # which imports torch; this module also runs next to llama.cpp


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF metadata.

    Attributes:
        metadata: ``tokenizer.*`` entries without the chat template.
        chat_template: the model's Jinja chat template; None if it has none.
        named_templates: other templates (``tool_use``, ``rag``) by name.
        bos_token: text of BOS; empty if there is none.
        eos_token: text of EOS; empty if there is none.
        notes: notes for the plan.
    """

    metadata: tuple[KV, ...]
    chat_template: str | None
    named_templates: tuple[tuple[str, str], ...]
    bos_token: str
    eos_token: str
    notes: tuple[str, ...]

    def template_metadata(self, template: str | None) -> list[KV]:
        """The entries for *template* as the model's own template, and for the named ones."""
        entries = []
        if self.named_templates:
            names = [name for name, _ in self.named_templates]
            entries.append(array("tokenizer.chat_templates", names, KVType.STRING))
            entries += [string(f"tokenizer.chat_template.{name}", text) for name, text in self.named_templates]
        if template is not None:
            entries.append(string("tokenizer.chat_template", template))
        return entries


def _read_sentencepiece(files: TokenizerFiles) -> Content | None:
    if not files.path("tokenizer.model").is_file():
        return None
    # SentencePiece takes a while to load, and most models do not need it.
    from quantkit.vocab.spm import read_sentencepiece

    return read_sentencepiece(files)


# By kind of tokenizer: its file and its reader.
READERS: dict[str, tuple[str, Callable[[TokenizerFiles], Content | None]]] = {
    "sentencepiece": ("tokenizer.model", _read_sentencepiece),
    "llama-hf": ("tokenizer.json", read_llama_hf),
    "gemma4": ("tokenizer.json", read_gemma4),
    "bpe": ("tokenizer.json", read_bpe),
    "tiktoken": ("*.tiktoken", read_tiktoken),
    "chatglm": ("tokenizer.model", read_chatglm),
}


def read_vocabulary(
    checkpoint: Checkpoint,
    rows: int,
    *,
    tokenizers: Sequence[str] = ("bpe",),
    rules: VocabularyRules = NO_RULES,
    folder: Path | None = None,
    templates: Path | None = None,
    special: Mapping[str, str] | None = None,
    parsed: ParsedFiles | None = None,
) -> Vocabulary:
    """Read the tokenizer of a checkpoint folder.

    Args:
        checkpoint: the folder; only its JSON, vocabulary and template files are read, and none is executed.
        rows: rows of the embedding.
        tokenizers: the kinds of tokenizer to try, in this order: ``sentencepiece``, ``llama-hf``, ``gemma4``,
            ``bpe``, ``tiktoken``, ``chatglm``.
        rules: the additions of the model's family.
        folder: the folder with the tokenizer's files, if it is not the checkpoint's (but an adapter's).
        templates: the folder with the chat templates, if it is not the tokenizer's.
        special: settings that replace those of tokenizer_config.json.
        parsed: may have read tokenizer.json already.

    Raises:
        VocabularyError: there is no tokenizer, or one that llama.cpp would not reproduce.
    """
    generation = checkpoint.json("generation_config.json")
    files = TokenizerFiles(
        folder or checkpoint.path,
        checkpoint.config,
        generation,
        rows,
        rules,
        special or {},
        parsed or ParsedFiles(),
    )
    if files.path(TEKKEN).is_file() and not files.path("tokenizer.json").is_file():
        raise VocabularyError(
            f"{files.path(TEKKEN)}: Mistral's own tokenizer format is not supported",
            hint="copy tokenizer.json and tokenizer_config.json from the model's Hugging Face version into the folder",
        )
    for kind in tokenizers:
        file, read = READERS[kind]
        try:
            content = read(files)
            if content is not None:
                beside = files if templates is None else replace(files, folder=templates)
                found = read_templates(beside.folder, beside.tokenizer_config)
                return _vocabulary(files, content, found)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise VocabularyError(f"{files.path(file)}: broken ({type(error).__name__}: {error})") from None
        except GGUFError as error:
            raise VocabularyError(f"{files.folder}: {error}") from None
    if files.path(VOCAB_JSON).is_file() and not files.path(MERGES).is_file() and "bpe" in tokenizers:
        raise VocabularyError(
            f"{files.path(MERGES)}: file is missing; {VOCAB_JSON} alone is not a tokenizer",
            hint=f"copy {MERGES}, or better the model's tokenizer.json, into the folder",
        )
    wanted = list(dict.fromkeys(READERS[kind][0] for kind in tokenizers))
    raise VocabularyError(
        f"{files.path(wanted[-1])}: file is missing"
        if len(wanted) == 1
        else f"{files.folder}: there is no tokenizer: {' and '.join(wanted)} are missing",
        hint="copy the model's tokenizer files into the folder",
    )


def _vocabulary(files: TokenizerFiles, content: Content, templates: Templates) -> Vocabulary:
    if why := repeated_token(content.texts):
        raise VocabularyError(f"{files.folder}: {why}")
    size: int | None = files.config.get("vocab_size")
    own = files.rules.entries(files.tokenizer_config, files.generation, size)
    special = special_metadata(
        files.tokenizer,
        files.tokenizer_config,
        files.config,
        files.generation,
        content.texts,
        fallback=content.fallback,
        further=files.rules.special_ids(size, content.texts),
        own=files.rules.own(content.texts, files.config),
    )
    by_key = {entry.key: entry for entry in (*content.entries, *special, *own)}

    def text(kind: str) -> str:
        entry = by_key.get(f"tokenizer.ggml.{kind}_token_id")
        named = token_text(files.tokenizer_config.get(f"{kind}_token"))
        return named or ("" if entry is None else content.texts[entry.value])

    vocabulary = Vocabulary(
        metadata=tuple(by_key.values()),
        chat_template=templates.default,
        named_templates=templates.named,
        bos_token=text("bos"),
        eos_token=text("eos"),
        notes=(*content.notes, *templates.notes),
    )
    vocabulary.template_metadata(templates.default)  # find errors now
    return vocabulary
