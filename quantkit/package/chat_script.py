"""``chat.sh`` and ``chat.ps1``: a chat by double click or one short command, for people who have no Ollama."""

from __future__ import annotations

from quantkit.package.spec import PackageSpec
from quantkit.package.text import fill

# Ollama's name -> the option of llama-cli that means the same. num_ctx, num_gpu and stop have their own rules below.
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


def chat_sh(spec: PackageSpec) -> str:
    """The chat script for sh, dash and bash.

    Raises:
        ChatFormatError: a text that no command line can carry.
    """
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
    given = dict(spec.other_parameters)
    options = ["-ngl", given.get("num_gpu", _ALL_LAYERS), "-c", str(spec.num_ctx)]
    for name, value in given.items():
        if name in _OPTIONS:
            options += [_OPTIONS[name], value]
    for stop in spec.stops:
        if stop not in spec.chat.stops:
            options += ["-r", _escaped(stop)]
    return tuple(options)


def _values(spec: PackageSpec) -> dict[str, object]:
    return {
        "spec": spec,
        "model": spec.models[0],
        "system": spec.system_text,
        "options": llama_cli_options(spec),
    }


def _escaped(text: str) -> str:
    # llama-cli reads escapes in stops, and PowerShell loses double quotes.
    return text.replace("\\", "\\x5c").replace('"', "\\x22")
