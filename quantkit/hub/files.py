"""Selects the files of a repository that are needed: a pure function from names to names.

A repository may have the same weights several times (safetensors, pickles, GGUF, ONNX, the ``original/`` of the
training code). Only one of them is downloaded: the one that :func:`quantkit.checkpoint.folder.open_checkpoint` opens.
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
# How pictures are prepared for the vision part of a model.
PICTURES = ("preprocessor_config.json", "processor_config.json")
# What ``quantkit merge`` says of the adapters that it merged into a folder.
MERGED_ADAPTERS = "merged_adapters.json"
_LEGAL = ("LICENSE*", "NOTICE*", "COPYING*")
# Code is never run, but it is copied into a merged folder for those who need it.
_MODEL = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    *PICTURES,
    MERGED_ADAPTERS,
    *_TOKENIZER,
    *_LEGAL,
    "*.py",
)
# The arguments of the training, which the plan compares with.
_TRAINING = ("args.json", "*.yaml", "*.yml")
_ADAPTER = ("adapter_config.json", *_TOKENIZER, *_LEGAL, *_TRAINING)
_ELSEWHERE = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)|\0")
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")


def require_inside(source: HubId, name: str) -> None:
    """Refuse a name that leads out of the folder that it is put into, on any system.

    Raises:
        HubError: it does.
    """
    if _ELSEWHERE.search(name):
        raise HubError(
            f"{source}: the hub lists a file whose name leads elsewhere: {name!r:.200}", hint="use no such hub"
        )


def patterns(kind: Kind) -> list[str]:
    """Patterns of the small files, for fnmatch."""
    found = {"model": _MODEL, "adapter": _ADAPTER, "any": (*_MODEL, "adapter_config.json")}
    return list(found[kind])


def small_files(source: HubId, names: Collection[str], kind: Kind) -> list[str]:
    """The files in *names* for config, tokenizer, chat templates and licence.

    Raises:
        HubError: the repository does not have what is expected.
    """
    _check_kind(source, names, kind)
    found = patterns(kind)
    return sorted(
        name for name in names if any(fnmatchcase(name, one) and name.count("/") == one.count("/") for one in found)
    )


def weight_files(source: HubId, names: Collection[str], kind: Kind, get: Callable[[str], Path]) -> list[str]:
    """The weight files and their index: safetensors are preferred to pickles, one file to shards.

    With a model come the files of an adapter that lies beside it, so that a build asks whether it is meant.

    Args:
        source: for messages.
        names: all files of the repository.
        kind: as in :func:`small_files`.
        get: downloads a file by name; called only for an index.

    Raises:
        HubError: there are no weights, or the index is broken.
    """
    own = [name for name in ("adapter_model.safetensors", "adapter_model.bin") if name in names][:1]
    if kind == "adapter" or (kind == "any" and "config.json" not in names):
        if own:
            return own
        raise HubError(
            f"{source}: adapter_model.safetensors is missing", hint="give the id of an adapter that PEFT saved"
        )
    beside = ["adapter_config.json", *own] if own and "adapter_config.json" in names else []
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single, index = f"{stem}.{suffix}", f"{stem}.{suffix}.index.json"
        if single in names:
            return [single, *beside]
        if index in names:
            # Opening the folder finds files that the index names but the repository does not have.
            return [index, *sorted(set(_indexed(source, get(index))) & set(names)), *beside]
        if shards := sorted(name for name in names if (m := _SHARD.fullmatch(name)) and m.groups() == (stem, suffix)):
            return [*shards, *beside]
    others = sorted(name for name in names if name.endswith((".gguf", ".pth", ".onnx", ".h5")))
    raise HubError(
        f"{source}: no weights in safetensors or .bin" + (f", only files such as {others[0]}" if others else ""),
        hint="give the id of the model in transformers' format (config.json and .safetensors files)",
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
            f"{source}: config.json is missing" + ("; the repository has only GGUF files" if gguf else ""),
            hint="give the id of the model in transformers' format (config.json and .safetensors files)",
        )
    if kind == "adapter" and not adapter:
        raise HubError(
            f"{source}: adapter_config.json is missing" + (": this is a model, not an adapter" if model else ""),
            hint=command("quantkit", "build", source) if model else "give the id of an adapter that PEFT saved",
        )
    if not model and not adapter:
        raise HubError(
            f"{source}: neither a model (config.json) nor an adapter (adapter_config.json)",
            hint="give the id of a model in transformers' format, or of an adapter that PEFT saved",
        )


def _indexed(source: HubId, index: Path) -> Iterator[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        yield from (name for name in weight_map.values() if isinstance(name, str))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HubError(
            f"{source}: {index.name} is not an index of weights", hint="try another revision, or tell the model's owner"
        ) from None
