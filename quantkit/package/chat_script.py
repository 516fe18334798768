"""``chat.sh`` and ``chat.ps1``: a chat by double click or one short command, for people who have no Ollama.

Both start llama-cli, which renders the model's own chat template, and otherwise ``quantkit chat``. Where there is only
llama-completion or its old name ``main``, the turns of the chat format are passed to it, as far as there are turns.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.chat_template.format import ChatFormat
from quantkit.errors import ChatFormatError
from quantkit.package.spec import PackageSpec
from quantkit.package.text import fill

# Ollama's name -> the option of llama.cpp's programs that means the same. num_ctx, num_gpu and stop have rules of their
# own; draft_num_predict needs a second model, and no option for use_mmap is known to all versions.
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

# llama.cpp's programs read escapes in these options, and older versions of PowerShell lose the double quotes of
# arguments.
_ESCAPES = str.maketrans({"\\": "\\x5c", '"': "\\x22", "\n": "\\n", "\r": "\\r", "\t": "\\t"})

# Stands for the user's text; no text of a package has it.
_CONTENT = "\0"


@dataclass(frozen=True)
class TurnOptions:
    """A chat format as llama-completion and ``main`` take it, in their interactive mode. Escapes are written.

    Attributes:
        prompt: what comes before anything that the user types.
        options: the other options.
    """

    prompt: str
    options: tuple[str, ...]


def chat_sh(spec: PackageSpec) -> str:
    """The chat script for sh, dash and bash.

    Raises:
        ChatFormatError: a text that no command line can carry.
    """
    _check_lengths(spec)
    return fill("chat.sh", _values(spec))


def chat_ps1(spec: PackageSpec) -> str:
    """The chat script for PowerShell.

    It begins with a byte order mark: Windows PowerShell reads a file without one in the code page of the machine.

    Raises:
        ChatFormatError: a text that no command line can carry.
    """
    return _BYTE_ORDER_MARK + fill("chat.ps1", _values(spec))


def llama_cli_options(spec: PackageSpec) -> tuple[str, ...]:
    """The package's settings as options of llama-cli; of a parameter given twice the last value, as Ollama takes it.

    What ends an answer of the chat format is an end-of-generation token in the GGUF, so only the user's stops are
    passed.
    """
    options = _settings(spec)
    for stop in _own_stops(spec):
        options += ["-r", _escaped(stop)]
    return tuple(options)


def turn_options(spec: PackageSpec, chat: ChatFormat) -> TurnOptions:
    """The package's settings and the turns of its chat format as options of llama-completion and ``main``.

    These programs keep the tokens of an answer, with the one that ended it, and write a text before the next question:
    that of ``--in-prefix`` before every one, or, if there is any, that of the first ``-r`` when such a token came. The
    second is for formats whose first question begins otherwise than those after an answer.
    """
    system = [{"role": "system", "content": spec.system_text}] if spec.system_text else []
    rendered = chat.render([*system, {"role": "user", "content": _CONTENT}])
    # The tokenizer writes BOS, if the model has one.
    opening, _, closing = rendered.removeprefix(chat.bos if spec.adds_bos else "").partition(_CONTENT)
    between = _after_end(chat) + chat.user.prefix
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
                f"{what} is too long for chat.sh: an argument of a command has at most {_LONGEST_ARGUMENT} bytes",
                hint=f"shorten {what}",
            )


def _values(spec: PackageSpec) -> dict[str, object]:
    return {
        "spec": spec,
        "model": spec.models[0],
        "system": spec.system_text,
        "options": llama_cli_options(spec),
        "turns": None if spec.turns is None else turn_options(spec, spec.turns),
    }


def _settings(spec: PackageSpec) -> list[str]:
    given = dict(spec.other_parameters)
    options = ["-ngl", given.get("num_gpu", _ALL_LAYERS), "-c", str(spec.num_ctx)]
    for name, value in given.items():
        if name in _OPTIONS:
            options += [_OPTIONS[name], value]
    return options


def _own_stops(spec: PackageSpec) -> list[str]:
    return [stop for stop in spec.stops if stop not in spec.chat.stops]


def _after_end(chat: ChatFormat) -> str:
    """What the format writes after the token that ends an answer."""
    suffix = chat.assistant.suffix
    ends = [suffix.index(stop) + len(stop) for stop in chat.stops if stop in suffix]
    return suffix[min(ends, default=0) :]


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
