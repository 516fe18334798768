"""Brings the names of a checkpoint's tensors to the names that its architecture has for them.

A checkpoint may be saved from within a wrapper (torch.compile, FSDP, DDP, PEFT, a value head, a vision-language model)
or from the decoder alone. The closed tables of :mod:`quantkit.checkpoint.name_tables` list what each of them does to a
name; a module of any other name that holds the whole model is found by what its names end with. A reading is used only
if it is the one that explains most of the file; two that explain it equally well are refused. What is left over is
passed over with a note, or refused, always by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from quantkit.checkpoint.name_tables import (
    CHAT_HINT,
    CLASSIFIERS,
    FACTORS,
    MTP,
    PARALLEL,
    PEFT_PREFIX,
    PLAIN,
    READINGS,
    VALUE_HEADS,
    VISION,
    WRAPPERS,
    Reading,
    held_as,
    vision_name,
)
from quantkit.errors import CheckpointError

# What stands beside the decoder.
_BESIDE = ("lm_head.", MTP)
# PEFT's names for a module that it wraps, inside of a whole checkpoint.
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<leaf>weight|bias)")
_BEFORE = re.compile(r"(?P<module>.+)\.original_module\.(?P<leaf>weight|bias)")
_BASE_LAYER = re.compile(r"(?P<module>.+?)(?:\.base_layer)+\.(?P<leaf>weight|bias)")
_FACTORS = re.compile(rf".+\.({'|'.join(FACTORS)})\w*(\..+)?")
MERGE_FIRST = "load it with PEFT, save the model that merge_and_unload() returns, and build from that folder"


@dataclass(frozen=True)
class TensorNames:
    """How a checkpoint names the tensors of its architecture.

    Attributes:
        own: by name in the file, the architecture's name; in the order of the file.
        left_out: by name in the file, why the tensor has no part in the result.
        notes: what was done to the names, for the user.
    """

    own: Mapping[str, str]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]


def bare(name: str) -> str:
    """*name* without the names of wrappers."""
    for wrapper in WRAPPERS:
        if wrapper in name:
            name = re.sub(rf"(^|\.){re.escape(wrapper)}", r"\1", name)
    name = name.removeprefix(PARALLEL)
    while name.startswith(PEFT_PREFIX):
        name = name.removeprefix(PEFT_PREFIX).removeprefix(PARALLEL)
    return name


def read_tensor_names(
    where: str,
    stored: Collection[str],
    known: Collection[str],
    *,
    vision: bool = False,
    seen: Collection[str] | None = None,
    unused: tuple[str, ...] = (),
    dropped: str = "",
    why_dropped: str = "",
) -> TensorNames:
    """The architecture's name for every tensor of a checkpoint.

    Names that no table explains are kept: the caller refuses them.

    Args:
        where: the checkpoint's folder, for errors.
        stored: names of the tensors in the files.
        known: every name that the architecture has for a tensor.
        vision: config.json is that of a vision-language model.
        seen: every name that its other parts have for a tensor, if they are read too; see :func:`vision_name`.
        unused: beginnings of the names of tensors of these parts that nothing is computed with.
        dropped: what the names of layers for multi-token prediction start with, if they are left out.
        why_dropped: the reason.

    Raises:
        CheckpointError: two readings explain the names, two tensors have one name, PEFT's factors are not merged, or
            the model does not write text.
    """
    known = frozenset(known)
    if known.union(seen or ()).issuperset(stored):
        return TensorNames({name: name for name in stored}, {}, ())
    trunk = _trunk(known)
    plain = {name: _without_peft(bare(name)) for name in stored}
    reading = _choose(where, plain.values(), known, trunk)
    own: dict[str, str] = {}
    left_out: dict[str, str] = {}
    trained = {name for name in plain if _SAVED.fullmatch(bare(name))}
    for name, unwrapped in plain.items():
        if unwrapped.removeprefix("model.").startswith(VISION) and (vision or reading.vision):
            if seen is None:
                left_out[name] = "vision"
            elif vision_name(unwrapped).startswith(unused):
                left_out[name] = "llama.cpp computes nothing with it"
            else:
                own[name] = vision_name(unwrapped)
        elif dropped and unwrapped.startswith(dropped):
            left_out[name] = why_dropped
        elif (head := _starting(_held(unwrapped, reading), VALUE_HEADS)) is not None:
            left_out[name] = VALUE_HEADS[head]
        elif _BEFORE.fullmatch(bare(name)) and any(plain[other] == unwrapped for other in trained):
            left_out[name] = "the values before training of a module that was trained in full"
        else:
            own[name] = reading.read(unwrapped, trunk)
    known = known.union(seen or ())
    _refuse(where, own, plain, known, reading)
    expected = reading is PLAIN or (vision and reading.vision)
    return TensorNames(own, left_out, tuple(_notes(own, left_out, "" if expected else reading.who, known)))


def _trunk(known: Collection[str]) -> str:
    """The prefix of the decoder's tensors, with its dot: that of all names but those beside it."""
    first = {name.partition(".")[0] for name in known if not name.startswith(_BESIDE)}
    return f"{first.pop()}." if len(first) == 1 else ""


def _without_peft(name: str) -> str:
    """*name* without PEFT's names for the parts of a module that it wraps."""
    for pattern in (_SAVED, _BEFORE, _BASE_LAYER):
        if match := pattern.fullmatch(name):
            return f"{match['module']}.{match['leaf']}"
    return name


def _held(name: str, reading: Reading) -> str:
    """*name* in the model itself, if a module holds the model."""
    return reading.read(name, "") if reading not in READINGS else name


def _starting(name: str, prefixes: Iterable[str]) -> str | None:
    """The prefix that *name* starts with, also below ``model.`` and the like."""
    return next(
        (prefix for prefix in prefixes if re.match(rf"((pretrained_)?model\.)?{re.escape(prefix)}", name)), None
    )


def holder(names: Iterable[str], known: Callable[[str], bool]) -> list[str]:
    """The beginnings under which *names* have most names that are known, without these beginnings: one where a module
    holds the whole model, two where it holds two models alike; none if nothing is known so."""
    found: Counter[str] = Counter()
    for name in names:
        places = (at.end() for at in re.finditer(r"\.", name))
        if (end := next((end for end in places if known(name[end:])), None)) is not None:
            found[name[:end]] += 1
    return [prefix for prefix, count in found.items() if count == max(found.values())]


def _choose(where: str, names: Collection[str], known: frozenset[str], trunk: str) -> Reading:
    """The reading that explains most names; the plain one if no other explains more."""
    read = {one.who: frozenset(own for name in names if (own := one.read(name, trunk)) in known) for one in READINGS}
    most = max(map(len, read.values()))
    held = [held_as(prefix) for prefix in holder(names, known.__contains__)]
    if held and len({held[0].read(name, trunk) for name in names} & known) > most:
        if len(held) > 1:
            models = " and ".join(repr(one.pairs[0][0]) for one in held[:2])
            raise CheckpointError(
                f"{where}: the file holds two models, {models}",
                hint="save the one that you want with its save_pretrained, and build from that folder",
            )
        return held[0]
    if len(read[PLAIN.who]) == most:
        return PLAIN
    first, *others = (one for one in READINGS if len(read[one.who]) == most)
    for other in others:
        if [first.read(name, trunk) for name in names] != [other.read(name, trunk) for name in names]:
            raise CheckpointError(
                f"{where}: the names of the tensors may be those of {first.who} or of {other.who}",
                hint="save the model with save_pretrained of the class in config.json",
            )
    return first


def _refuse(
    where: str, own: Mapping[str, str], plain: Mapping[str, str], known: frozenset[str], reading: Reading
) -> None:
    seen: dict[str, str] = {}
    for name, target in own.items():
        if (other := seen.setdefault(target, name)) != name:
            raise CheckpointError(
                f"{where}: {other!r} and {name!r} are both {target!r}",
                hint="the folder holds two copies of the model: save it again with save_pretrained",
            )
        if target in known:
            continue
        if _FACTORS.fullmatch(name):
            raise CheckpointError(
                f"{where}: tensor {name!r} belongs to an adapter that is not merged into this checkpoint",
                hint=MERGE_FIRST,
            )
        if (head := _starting(_held(plain[name], reading), CLASSIFIERS)) is not None:
            raise CheckpointError(f"{where}: tensor {name!r} is the head of {CLASSIFIERS[head]}", hint=CHAT_HINT)


def _wrappers(name: str) -> Iterator[str]:
    """Who wrapped the tensor's module."""
    yield from (who for wrapper, who in WRAPPERS.items() if wrapper in name)
    if name.startswith(PARALLEL):
        yield "DDP or DeepSpeed"
    if name.startswith(PEFT_PREFIX) or any(p.fullmatch(bare(name)) for p in (_SAVED, _BEFORE, _BASE_LAYER)):
        yield "PEFT"


def _notes(own: Mapping[str, str], left_out: Mapping[str, str], reading: str, known: Collection[str]) -> Iterator[str]:
    """The notes; *reading* names a reading of which the user should know."""
    renamed: dict[str, list[str]] = {}
    for name, target in own.items():
        if name != target and target in known and (who := [*_wrappers(name), *([reading] if reading else [])]):
            renamed.setdefault(" in ".join(who), []).append(name)
    for saved, names in renamed.items():
        count = f"{len(names)} tensors have" if len(names) > 1 else "1 tensor has"
        yield f"{count} the names that {saved} saves: {names[0]!r} is read as {own[names[0]]!r}"
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, why in left_out.items() if why == reason]
        if reason == "vision":
            yield f"only the language model is converted; the vision part ({len(names)} tensors) is left out"
        else:
            what = f"{names[0]!r} is" if len(names) == 1 else f"{names[0]!r} and {len(names) - 1} more are"
            yield f"{what} left out: {reason}"
