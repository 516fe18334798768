"""Which files of a repository are needed. Pure: names in, names out.

A repository may have the same weights several times (safetensors, pickles, GGUF, ONNX, the ``original/`` of the
training code). One form of them is taken, the one that :func:`quantkit.checkpoint.folder.open_checkpoint` would open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from quantkit.errors import HubError
from quantkit.hub.source import HubId
from quantkit.hub.tokenizer_files import TEMPLATE_FOLDER, TOKENIZER_FILES
from quantkit.system.shell import command

Kind = Literal["model", "adapter", "any"]

_TOKENIZER = (*TOKENIZER_FILES, f"{TEMPLATE_FOLDER}/*.jinja")
_LEGAL = ("LICENSE*", "NOTICE*", "COPYING*")
# Code is never run; a merged folder carries it along, for those who will.
_MODEL = ("config.json", "generation_config.json", "hf_quant_config.json", *_TOKENIZER, *_LEGAL, "*.py")
_ADAPTER = ("adapter_config.json", *_TOKENIZER, *_LEGAL)
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")


def patterns(kind: Kind) -> list[str]:
    """Patterns of the small files, in fnmatch's language."""
    found = {"model": _MODEL, "adapter": _ADAPTER, "any": (*_MODEL, "adapter_config.json")}
    return list(found[kind])


def small_files(source: HubId, names: Collection[str], kind: Kind) -> list[str]:
    """Config, tokenizer, chat templates and licence among *names*.

    Raises:
        HubError: the repository does not hold what is expected.
    """
    _check_kind(source, names, kind)
    found = patterns(kind)
    return sorted(
        name for name in names if any(fnmatchcase(name, one) and name.count("/") == one.count("/") for one in found)
    )


def weight_files(source: HubId, names: Collection[str], kind: Kind, get: Callable[[str], Path]) -> list[str]:
    """The files with the weights, and their index: safetensors before pickles, one file before shards.

    Args:
        source: for messages.
        names: all files of the repository.
        kind: as in :func:`small_files`.
        get: fetches a file by name; called for an index only.

    Raises:
        HubError: there are no weights, or the index is broken.
    """
    if kind == "adapter" or (kind == "any" and "config.json" not in names):
        for name in ("adapter_model.safetensors", "adapter_model.bin"):
            if name in names:
                return [name]
        raise HubError(f"{source}: has no adapter_model.safetensors", hint="give the id of an adapter saved by PEFT")
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single, index = f"{stem}.{suffix}", f"{stem}.{suffix}.index.json"
        if single in names:
            return [single]
        if index in names:
            # What an index names and the repository lacks is found by whoever opens the folder.
            return [index, *sorted(set(_indexed(source, get(index))) & set(names))]
        if shards := sorted(name for name in names if (m := _SHARD.fullmatch(name)) and m.groups() == (stem, suffix)):
            return shards
    others = sorted(name for name in names if name.endswith((".gguf", ".pth", ".onnx", ".h5")))
    raise HubError(
        f"{source}: has no weights in safetensors or .bin" + (f", only {others[0]} and the like" if others else ""),
        hint="give the id of the model in transformers' format",
    )


def _check_kind(source: HubId, names: Collection[str], kind: Kind) -> None:
    model, adapter = "config.json" in names, "adapter_config.json" in names
    if kind == "model" and not model:
        if adapter:
            raise HubError(
                f"{source}: this is an adapter, not a model",
                hint=command("quantkit", "build", "BASE_MODEL", "--adapter", source),
            )
        gguf = any(name.endswith(".gguf") for name in names)
        raise HubError(
            f"{source}: has no config.json" + (", only GGUF files" if gguf else ""),
            hint="give the id of the model in transformers' format",
        )
    if kind == "adapter" and not adapter:
        raise HubError(
            f"{source}: has no adapter_config.json" + (": this is a model" if model else ""),
            hint=command("quantkit", "build", source) if model else "give the id of an adapter saved by PEFT",
        )
    if not model and not adapter:
        raise HubError(
            f"{source}: neither a model (config.json) nor an adapter (adapter_config.json)",
            hint="give the id of a model in transformers' format, or of an adapter saved by PEFT",
        )


def _indexed(source: HubId, index: Path) -> Iterator[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        yield from (name for name in weight_map.values() if isinstance(name, str))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HubError(
            f"{source}: {index.name} is not an index of weights", hint="tell the model's owner, or try another revision"
        ) from None
