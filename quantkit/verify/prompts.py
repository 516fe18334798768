"""Compares prompts with those the model was trained on, token by token: the checkpoint's template and tokenizer render
and encode many kinds of conversation, and llama.cpp must get the same ids from the GGUF file.

transformers' ``apply_chat_template`` renders a prompt and encodes it with nothing added. Each result is an
:class:`~quantkit.verify.expected.Expected`; a build saves them in report.json, so that a package can be checked later
without its source. They are taken from tokenizer.json unchanged, because models were trained with it; transformers 5
rebuilds the tokenizers of Llama, and these treat blanks after special tokens differently.

llama.cpp renders with the file's own template and special tokens, and adds BOS first if the file asks for it.

Two differences come from llama.cpp itself and no file can change them: BOS before a prompt whose template writes none,
and blanks next to added tokens, which some tokenizers absorb. The result mentions them. The second is allowed if
contents begin or end with blanks or contain special tokens, and with tokenizers that have their own rules for the blank
before a text (Metaspace, as transformers 5 saves those of Llama); anything else is a failed check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.chat_template.process import TemplateLimitError
from quantkit.chat_template.render import render_undated
from quantkit.errors import ChatFormatError
from quantkit.files.json_file import read_json
from quantkit.hub.tokenizer_files import SPECIAL_TOKENS, TOKENIZER_CONFIG
from quantkit.run.session import ChatModel
from quantkit.verify.conversations import Conversation, conversations
from quantkit.verify.encoders import Encoder
from quantkit.verify.expected import Expected
from quantkit.verify.origin import Origin
from quantkit.verify.report import Check
from quantkit.vocab.post_processor import token_text

NAME = "prompt token ids"
_SHOWN = 8  # tokens around a difference


def expect(origin: Origin, encoder: Encoder, model: ChatModel, system: str | None) -> tuple[Expected, ...]:
    """Return the expected prompt of every kind of conversation.

    Args:
        origin: the checkpoint's tokenizer and template.
        encoder: its tokenizer.
        model: the GGUF file, for values that the origin does not contain.
        system: the package's system prompt.
    """
    files = (origin.tokenizer.with_name(name) for name in (SPECIAL_TOKENS, TOKENIZER_CONFIG))
    settings: dict[str, Any] = {}
    for file in files:
        settings |= read_json(file) if file.is_file() else {}
    settings |= origin.special
    own = {"bos_token": model.bos_token, "eos_token": model.eos_token}
    tokens = [token_text(settings.get(kind, text)) or "" for kind, text in own.items()]
    template = model.chat_template if origin.template is None else origin.template
    return tuple(_expected(one, encoder, template, *tokens) for one in conversations(system))


def _expected(one: Conversation, encoder: Encoder, template: str, bos_token: str, eos_token: str) -> Expected:
    # llama.cpp does not compose characters, so they are composed here.
    messages = tuple({"role": role, "content": encoder.prepare(text)} for role, text in one.talk)
    text = _render(template, messages, bos_token, eos_token)
    if text is None:
        return Expected(one.name, messages, None)
    ids, plain = tuple(encoder.encode(text)), None
    if encoder.plainly is not None and (one.padded or encoder.own_blanks):
        plain = tuple(encoder.plainly(text))
    return Expected(one.name, messages, text, ids, None if plain == ids else plain)


def _render(template: str, messages: Sequence[Mapping[str, str]], bos_token: str, eos_token: str) -> str | None:
    """The prompt, None if the template rejects the conversation.

    Raises:
        TemplateLimitError: the template exceeded a limit, which says nothing about the conversation.
    """
    try:
        return render_undated(template, messages, bos_token=bos_token, eos_token=eos_token)
    except TemplateLimitError:
        raise
    except ChatFormatError:
        return None


def check_prompts(model: ChatModel, expected: Sequence[Expected], source: str) -> list[Check]:
    """Compare llama.cpp's prompts with the expected ones, and check the BOS of each.

    Args:
        model: the GGUF file.
        expected: the result of :func:`expect`, or saved by a build.
        source: where the expected ids are from, for people.

    Returns:
        The checks, "prompt token ids" and "prompt BOS".
    """
    if not model.chat_template:
        return []  # the check of the template has failed
    found = {one.name: _prompt(model, one) for one in expected}
    counts = {name: model.leading_bos(ids) for name, ids in found.items() if ids is not None}
    return [_same_ids(model, expected, found, source), _one_bos(model, counts)]


def _prompt(model: ChatModel, expected: Expected) -> tuple[int, ...] | None:
    text = _render(model.chat_template, expected.messages, model.bos_token, model.eos_token)
    return None if text is None else tuple(model.text_tokens(text))


def _same_ids(
    model: ChatModel, expected: Sequence[Expected], found: Mapping[str, tuple[int, ...] | None], source: str
) -> Check:
    threshold = f"the ids of {source} in every prompt"
    before, blanks, refused = [], [], []
    for one in expected:
        ids = found[one.name]
        if ids is None or one.text is None:
            if (ids is None) != (one.text is None):
                who = "the file" if ids is None else source
                return Check(NAME, False, "differ", threshold, f"{one.name}: the chat template of {who} rejects it")
            refused.append(one.name)
            continue
        bare = ids[1:] if _bos_is_llama_cpps(model, ids, one.ids) else ids
        if bare not in (one.ids, one.plain_ids):
            return Check(NAME, False, "differ", threshold, f"{one.name}: {_difference(model, bare, one)}")
        if bare is not ids:
            before.append(one.name)
        if bare != one.ids:
            blanks.append(one.name)
    compared = [found[one.name] or () for one in expected if one.text is not None]
    said = [f"{len(compared)} prompts"]
    if refused:
        said.append(f"the template rejects {', '.join(refused)}")
    if before:
        said.append(
            f"llama.cpp adds BOS ({model.bos_token}) to {len(before)} of them, as the tokenizer asks; the template "
            "does not write it"
        )
    if blanks:
        said.append(
            f"llama.cpp treats blanks next to special tokens differently from the tokenizer: {', '.join(blanks)}"
        )
    total = sum(map(len, compared))
    return Check(NAME, True, f"{total} of {total} match", threshold, "; ".join(said))


def _bos_is_llama_cpps(model: ChatModel, ids: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    bos = (model.engine.bos,)
    return model.engine.adds_bos and ids[:1] == bos and wanted[:1] != bos


def _difference(model: ChatModel, got: tuple[int, ...], expected: Expected) -> str:
    wanted = expected.ids
    pairs = enumerate(zip(got, wanted, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(got), len(wanted)))

    def around(ids: tuple[int, ...]) -> str:
        return " ".join(f"{token} {_token(model, token)}" for token in ids[at : at + _SHOWN]) or "nothing"

    return f"{expected.text!r}, token {at}: llama.cpp {around(got)}; expected {around(wanted)}"


def _token(model: ChatModel, token: int) -> str:
    # llama.cpp aborts the process when asked for a token that does not exist.
    return repr(model.engine.text(token)) if 0 <= token < model.engine.n_vocab else "(not in the file)"


def _one_bos(model: ChatModel, counts: Mapping[str, int]) -> Check:
    name = "prompt BOS"
    if model.engine.bos is None:
        return Check(name, True, "none", "", "the vocabulary does not have a BOS token")
    least = 1 if model.engine.adds_bos else 0
    wrong = [f"{shape}: {count}" for shape, count in counts.items() if not least <= count <= 1]
    threshold = "exactly 1, first" if least else "at most 1, first"
    figure = ", ".join(sorted({str(count) for count in counts.values()})) or "none"
    evidence = "; ".join(wrong) or f"{len(counts)} prompts, BOS is {model.engine.bos} ({model.bos_token})"
    return Check(name, not wrong, figure, threshold, evidence)


def check_stops(model: ChatModel, stops: Sequence[str]) -> Check:
    """Check that llama.cpp ends an answer at each text that ends a turn."""
    missed = [stop for stop in stops if not _ends(model, stop)]
    evidence = "; ".join(f"{stop} is {model.tokenize(stop)}" for stop in stops)
    figure = f"{len(stops) - len(missed)} of {len(stops)}"
    return Check("stops at end of turn", not missed, figure, "each is one end-of-generation token", evidence)


def _ends(model: ChatModel, stop: str) -> bool:
    tokens = model.tokenize(stop)
    return len(tokens) == 1 and model.is_eog(tokens[0])
