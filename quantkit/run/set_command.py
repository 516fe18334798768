"""``/set`` and ``/params``: the parameters of a chat, where each value comes from, and another value."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quantkit.gguf.sampling_keys import PARAMETERS, SAMPLING_PREFIX
from quantkit.package.built import RunnablePackage
from quantkit.run.session import ChatModel
from quantkit.run.settings import ANSWERING, LOADING, Settings

DEFAULT, FOLDER, SET = "default", "the folder", "/set"


def origins(
    package: RunnablePackage, metadata: Callable[[str], str | None], given: Mapping[str, str]
) -> Mapping[str, str]:
    """Return where the parameters of a chat come from that are no defaults, by name.

    Args:
        package: the model with its parameters, without those of the command line.
        metadata: returns the text of a GGUF key, None if the file does not have the key.
        given: the options of the command line that gave a parameter, by the parameter's name.
    """
    model = {
        name: "the GGUF file" for end, name in PARAMETERS.items() if metadata(f"{SAMPLING_PREFIX}{end}") is not None
    }
    folder = dict.fromkeys(package.parameters, FOLDER)
    found = {**model, **folder, **given}
    if package.stops:  # to which options add
        found["stop"] = f"{FOLDER} and {given['stop']}" if "stop" in given else FOLDER
    return found


def named_value(text: str) -> tuple[str, str]:
    """Divide ``NAME VALUE`` or ``NAME=VALUE``."""
    first, *rest = text.split(None, 1) or [""]
    if "=" in first:
        name, _, value = text.partition("=")
        return name, value.strip()
    return first, rest[0] if rest else ""


def parameter_rows(
    model: ChatModel, settings: Settings, initial: Settings, origin: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Name, value and origin of each parameter, those of answers first.

    Args:
        model: that was loaded with some of them.
        settings: the current settings.
        initial: those from the beginning of the chat.
        origin: where these come from, as :func:`origins`.
    """
    engine, now, before = model.engine, settings.shown(), initial.shown()
    loaded = zip(LOADING, (engine.n_ctx, engine.n_threads, engine.offloaded_layers), strict=True)
    values = {**now, **{name: str(value) for name, value in loaded}}
    at_first = {name: origin.get(name, DEFAULT) for name in (*ANSWERING, *LOADING)}
    changed = {name: SET for name in now if now[name] != before[name]}
    if "stop" in changed and initial.stops:  # to which it adds
        changed["stop"] = f"{at_first['stop']} and {SET}"
    return [(name, values[name], changed.get(name, at_first[name])) for name in at_first]
