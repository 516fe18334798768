"""``chat.sh`` and ``chat.ps1``: a chat with a double click or one short command, for people without Ollama.

Both start llama-cli, which renders the model's own chat template, else ``quantkit chat``. If only llama-completion or
its old name ``main`` is installed, they pass the turns of the chat format to it, if turns describe the format.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.chat_template.format import ChatFormat
from quantkit.errors import ChatFormatError
from quantkit.package.spec import PackageSpec
from quantkit.package.text import fill

# Ollama's name -> the equivalent option of llama.cpp's programs. num_ctx, num_gpu and stop have their own rules;
# draft_num_predict needs a second model, and no option for use_mmap exists in all versions.
_OPTIONS = {
    "frequency_penalty": "--frequency-penalty",
    "main_gpu": "-mg",
    "min_p": "--min-p",
    "num_batch": "-b",
    "num_keep": "--keep",
    "num_predict": "-n",
    "num_thread": "-t",
    "presence_penalty": "--presence-penalty",
    "repeat_last_n": "--repeat-last-n",
    "repeat_penalty": "--repeat-penalty",
    "seed": "-s",
    "temperature": "--temp",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "typical_p": "--typical",
}

_ALL_LAYERS = "999"

_BYTE_ORDER_MARK = "\ufeff"

_LONGEST_ARGUMENT = 128 * 1024 - 1  # bytes, of one argument of a command on Linux

# llama.cpp's programs read escapes in these options, and older versions of PowerShell drop double quotes in arguments.
_ESCAPES = str.maketrans({"\\": "\\x5c", '"': "\\x22", "\n": "\\n", "\r": "\\r", "\t": "\\t"})

# A placeholder for the user's text; no text of a package contains it.
_CONTENT = "\0"


@dataclass(frozen=True)
class TurnOptions:
    """A chat format as options of llama-completion and ``main`` in interactive mode, with escapes written.

    Attributes:
        prompt: the text before anything that the user types.
        options: the other options.
    """

    prompt: str
    options: tuple[str, ...]


def chat_sh(spec: PackageSpec) -> str:
    """Return the chat script for sh, dash and bash.

    Raises:
        ChatFormatError: a text that a command line cannot contain.
    """
    _check_lengths(spec)
    return fill("chat.sh", _values(spec))


def chat_ps1(spec: PackageSpec) -> str:
    """Return the chat script for PowerShell.

    It begins with a byte order mark: Windows PowerShell reads a file without one in the machine's code page.

    Raises:
        ChatFormatError: a text that a command line cannot contain.
    """
    return _BYTE_ORDER_MARK + fill("chat.ps1", _values(spec))


def llama_cli_options(spec: PackageSpec) -> tuple[str, ...]:
    """Return the package's settings as options of llama-cli; the last value of a repeated parameter, as in Ollama.

    The chat format's stops are end-of-generation tokens in the GGUF, so only the user's stops are passed.
    """
    options = _settings(spec)
    for stop in _own_stops(spec):
        options += ["-r", _escaped(stop)]
    return tuple(options)


def turn_options(spec: PackageSpec, chat: ChatFormat) -> TurnOptions:
    """Return the package's settings and the turns of its chat format as options of llama-completion and ``main``.

    These programs keep the tokens of an answer, including the one that ended it, and write a text before the next
    question: that of ``--in-prefix`` before every question, or, if given, that of the first ``-r`` after such a token.
    The second is for formats whose first question begins differently from those after an answer.
    """
    system = [{"role": "system", "content": spec.system_text}] if spec.system_text else []
    rendered = chat.render([*system, {"role": "user", "content": _CONTENT}])
    # The tokenizer adds BOS, if the model has one.
    opening, _, closing = rendered.removeprefix(chat.bos if spec.adds_bos else "").partition(_CONTENT)
    between = _after_end(chat)
    prompt = opening.removesuffix(between)
    own_stops = _own_stops(spec)
    if opening.endswith(between) and (prompt or spec.adds_bos) and not own_stops:
        turns = [("--in-prefix", between)]
    else:
        prompt = opening
        turns = [("-r", text) for text in (between, *own_stops)]
    turns.append(("--in-suffix", closing))
    written = [part for option, text in turns if text for part in (option, _escaped(text))]
    return TurnOptions(_escaped(prompt), (*_settings(spec), "-if", "-e", *written))


def _check_lengths(spec: PackageSpec) -> None:
    carried = [("the system prompt", spec.system_text or ""), *(("a stop", text) for text in llama_cli_options(spec))]
    if spec.turns is not None:
        turns = turn_options(spec, spec.turns)
        carried += [("the system prompt", turns.prompt), *(("a stop", text) for text in turns.options)]
    for what, text in carried:
        if len(text.encode()) > _LONGEST_ARGUMENT:
            raise ChatFormatError(
                f"{what} is too long for chat.sh: a command-line argument is limited to {_LONGEST_ARGUMENT} bytes",
                hint=f"shorten {what}",
            )


def _values(spec: PackageSpec) -> dict[str, object]:
    return {
        "spec": spec,
        "model": spec.models[0],
        "system": spec.system_text,
        "options": llama_cli_options(spec),
        "seeing": _settings(spec),
        "turns": None if spec.turns is None else turn_options(spec, spec.turns),
    }


def _settings(spec: PackageSpec) -> list[str]:
    given = dict(spec.other_parameters)
    options = ["-ngl", given.get("num_gpu", _ALL_LAYERS), "-c", str(spec.num_ctx)]
    for name, value in given.items():
        if name in _OPTIONS:
            options += [_OPTIONS[name], value]
    # By its bare name, in the package's folder: llama.cpp divides a path at a comma, and with a scale at a colon.
    for lora in spec.loras:
        options += ["--lora", lora.file] if lora.scale == 1 else ["--lora-scaled", f"{lora.file}:{lora.scale!r}"]
    return options


def _own_stops(spec: PackageSpec) -> list[str]:
    return [stop for stop in spec.stops if stop not in spec.chat.stops]


def _after_end(chat: ChatFormat) -> str:
    """Return what the format writes between the token that ends an answer and the next question.

    The token that opens the question can be what ends the answer.
    """
    between = chat.assistant.suffix + chat.user.prefix
    closed = chat.assistant.suffix or between
    ends = [closed.index(stop) + len(stop) for stop in chat.stops if stop in closed]
    return between[min(ends, default=0) :]


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
