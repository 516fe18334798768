"""``/lora``: which LoRA files a chat computes with, of those that were loaded."""

from __future__ import annotations

import math

from quantkit.errors import QuantkitError
from quantkit.gguf.lora import lora_names
from quantkit.run.session import ChatModel
from quantkit.system.did_you_mean import did_you_mean

NONE = "none"
ANEW = "(the next question evaluates the conversation anew: what the model keeps of it is of other adapters)"


def switch_loras(model: ChatModel, text: str) -> str:
    """Carry out the command; returns what to say.

    Args:
        model: its LoRA files, and their scales.
        text: ``NAME[:SCALE]...``; ``none``; or nothing, which only lists them.

    Raises:
        QuantkitError: there are none, no such one, or a scale is no number.
    """
    engine = model.engine
    names = lora_names(engine.loras)
    if not names:
        raise QuantkitError("no LoRA file was loaded", hint="leave, and restart with --lora FILE")
    said = []
    if text:
        scales = (0.0,) * len(names) if text == NONE else _scales(text, names)
        if scales != engine.scales:
            engine.scales = scales
            said.append(ANEW)
    width = max(map(len, names))
    rows = [
        f"{name:<{width}}  {f'{scale:g}' if scale else 'off':<4}  {lora.path}"
        for name, scale, lora in zip(names, engine.scales, engine.loras, strict=True)
    ]
    return "\n".join(rows + said)


def _scales(text: str, names: tuple[str, ...]) -> tuple[float, ...]:
    found = dict.fromkeys(names, 0.0)
    seen: set[str] = set()
    for word in text.split():
        name, scale = (word, 1.0) if word in names else _divided(word)
        if name not in names:
            meant = did_you_mean(name, names)
            raise QuantkitError(
                f"there is no LoRA file {name}" + (f"; {meant}" if meant else ""),
                hint=f"choose of {', '.join(names)}, with a scale as {names[0]}:0.5; or /lora {NONE}",
            )
        if name in seen:
            raise QuantkitError(f"{name} is named twice", hint=f"give one scale: /lora {name}:0.5")
        seen.add(name)
        found[name] = scale
    return tuple(found.values())


def _divided(word: str) -> tuple[str, float]:
    name, colon, scale = word.rpartition(":")
    if not colon:
        return word, 1.0
    try:
        factor = float(scale)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise QuantkitError(f"{word}: {scale!r} is not a number", hint=f"write {name}:0.5 for half of it")
    return name, factor
