"""What a plan says against the arguments of the training, as far as a trainer left them."""

from __future__ import annotations

from pathlib import Path

from quantkit.chat_template.advice import thinking_notes
from quantkit.files.json_file import read_json
from quantkit.gguf.kv import KV
from quantkit.hub.source import source_label
from quantkit.jobs.recipe import Recipe
from quantkit.model.config_beside import config_notes
from quantkit.model.training_args import read_training, state_notes
from quantkit.model.training_notes import Built, names_of, training_notes, without_thoughts
from quantkit.vocab.vocabulary import Vocabulary


def evidence_notes(
    recipe: Recipe, model: Path, adapters: tuple[Path, ...], metadata: tuple[KV, ...], vocabulary: Vocabulary
) -> list[str]:
    """Notes on what the arguments of the training contradict, and on a template that lets the model think.

    Args:
        recipe: the request.
        model: the model's folder.
        adapters: the adapters' folders; without any, the arguments beside the model itself are read.
        metadata: of the GGUF files.
        vocabulary: the model's vocabulary.
    """
    folders = adapters or (model,)
    trainings, notes = read_training(folders)
    notes += state_notes(folders)
    values = {entry.key: entry.value for entry in metadata}
    arch, template = values["general.architecture"], values["tokenizer.chat_template"]
    bos, eos = vocabulary.bos_token, vocabulary.eos_token
    thinks = thinking_notes(template, bos_token=bos, eos_token=eos)
    config = read_json(model / "config.json")
    notes += [note for folder in adapters for note in config_notes(folder, model, config, values)]
    if trainings:
        built = Built(
            names=names_of(source_label(recipe.model), config) if adapters else (),
            template=template,
            bos_token=bos,
            eos_token=eos,
            system=recipe.system,
            context=int(values[f"{arch}.context_length"]),
            scaling=str(values.get(f"{arch}.rope.scaling.type", "")),
            thinking=recipe.thinking,
            lets_think=bool(thinks),
        )
        notes += training_notes(trainings, built)
    return [*notes, *(thinks if without_thoughts(trainings) is None else ())]
