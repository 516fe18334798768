"""What trainers wrote down beside a model: the arguments of the training, as evidence of how the model was trained.

ms-swift saves ``args.json``; LLaMA-Factory's and Axolotl's settings are YAML files that people keep in the output
folder; LlamaBoard saves ``training_args.yaml``. No build needs them, so a file that cannot be read is a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import CheckpointError
from quantkit.files.json_file import read_json
from quantkit.hub.source import source_name

_SWIFT, _STATE = "args.json", "trainer_state.json"
_MOST_BYTES = 1 << 17  # YAML is read a few hundred kilobytes a second
# A folder of intermediate results; the arguments may lie above it.
_CHECKPOINT = re.compile(r"checkpoint-\d+")
# Endings of the names of templates for training without thoughts (LLaMA-Factory, ms-swift).
_WITHOUT_THOUGHTS = re.compile(r"_no_?think(ing)?\Z|_non_?thinking\Z")


@dataclass(frozen=True)
class Training:
    """The arguments of a training.

    Attributes:
        file: where they are written, for messages.
        base: the model that was trained; "" if unknown, as everywhere below.
        template: the trainer's name of the chat template.
        system: the system prompt of the conversations.
        length: the longest text in tokens; 0 if unknown.
        scaling: the kind of rotary scaling.
        factor: its factor; 0 if unknown.
        thinks: whether conversations had thoughts; None if unknown.
    """

    file: str
    base: str = ""
    template: str = ""
    system: str = ""
    length: int = 0
    scaling: str = ""
    factor: float = 0
    thinks: bool | None = None


def read_training(folders: Sequence[Path]) -> tuple[list[Training], list[str]]:
    """The training arguments in some folders, and notes on files that cannot be read.

    Args:
        folders: of adapters, or of the model itself.
    """
    found: list[Training] = []
    notes: list[str] = []
    for folder in folders:
        places = [folder, folder.parent] if _CHECKPOINT.fullmatch(folder.name) else [folder]
        for path in (path for place in places for path in _files(place)):
            name = f"{source_name(path.parent)}/{path.name}"
            try:
                values = _read(path)
            except (CheckpointError, ValueError, OSError) as error:
                reason = str(error).partition("\n")[0]
                notes.append(f"{name}: the training's arguments cannot be read and are not compared ({reason})")
                continue
            training = _training(name, values)
            if training is not None and training not in found:
                found.append(training)
    return found, notes


def state_notes(folders: Sequence[Path]) -> list[str]:
    """Notes on the state of a training in the folder of a checkpoint: no step was made, or another one was the best.

    The folder above it may hold the best one, whatever the last step was, so only ``checkpoint-N`` is compared.
    """
    notes = []
    for path in (folder / _STATE for folder in folders if (folder / _STATE).is_file()):
        name = f"{source_name(path.parent)}/{path.name}"
        try:
            values = read_json(path)
        except CheckpointError as error:
            notes.append(f"{name}: cannot be read ({error})")
            continue
        best = Path(str(values.get("best_model_checkpoint") or "").replace("\\", "/")).name
        if values.get("global_step") == 0:
            notes.append(f"{name}: the training made no step, so it taught nothing")
        elif _CHECKPOINT.fullmatch(best) and _CHECKPOINT.fullmatch(path.parent.name) and best != path.parent.name:
            notes.append(f"{name}: the best checkpoint of the training was {best}, this is {path.parent.name}")
    return notes


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        named = path.name == _SWIFT or path.suffix in (".yaml", ".yml")
        if named and not path.name.startswith(".") and path.is_file():
            yield path


def _read(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    if path.suffix == ".json":
        return read_json(path)
    import yaml  # type: ignore[import-untyped]  # most folders have no such file

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not valid YAML: {type(error).__name__}") from None
    return values if isinstance(values, dict) else {}


def _training(file: str, values: Mapping[str, Any]) -> Training | None:
    """The arguments in a file; None if it has others than those of a training."""
    # LlamaBoard's own file has its page's names: top.template, train.cutoff_len.
    plain = {str(key).rpartition(".")[2]: value for key, value in values.items()}
    inner = plain.get("overrides_of_model_config")
    rope = plain.get("rope_scaling") or (inner.get("rope_scaling") if isinstance(inner, Mapping) else None)
    settings = rope if isinstance(rope, Mapping) else {"rope_type": rope}
    template = _text(plain, "template", "template_type", "chat_template")
    thinks = plain.get("enable_thinking")
    found = Training(
        file,
        base=_text(plain, "model_name_or_path", "base_model", "model_id_or_path", "model", "model_name"),
        template=template,
        system=_text(plain, "system", "default_system", "default_system_message"),
        length=int(_number(plain, "cutoff_len", "max_length", "sequence_len")),
        scaling=_text(settings, "rope_type", "type"),
        factor=_number(settings, "factor"),
        thinks=False if _WITHOUT_THOUGHTS.search(template) else thinks if isinstance(thinks, bool) else None,
    )
    return found if found.base and found != Training(file, found.base) else None


def _text(values: Mapping[str, Any], *keys: str) -> str:
    """The first text among the keys."""
    return next((value for key in keys if isinstance(value := values.get(key), str) and value.strip()), "")


def _number(values: Mapping[str, Any], *keys: str) -> float:
    """The first positive number among the keys, else 0."""
    for key in keys:
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
    return 0
