"""Writes the chosen tokenizer next to a merged model."""

from __future__ import annotations

import shutil
from pathlib import Path

from quantkit.files.json_file import read_json, write_json
from quantkit.hub.tokenizer_files import (
    SPECIAL_TOKENS,
    TEMPLATE_FOLDER,
    TEMPLATES,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    matches,
    matching,
)
from quantkit.model.tokenizer_choice import TokenizerChoice
from quantkit.vocab.files import read_tokenizer_config


def write_tokenizer(choice: TokenizerChoice, folder: Path) -> None:
    """Write the tokenizer's files into *folder*, with the chosen chat templates.

    Raises:
        CheckpointError: tokenizer_config.json is broken.
    """
    templates = choice.templates
    for file in matching(choice.folder, TOKENIZER_FILES):
        if templates == choice.folder or not matches(file.name, TEMPLATES):
            shutil.copyfile(file, folder / file.name)
    for file in matching(templates, TEMPLATES):
        shutil.copyfile(file, folder / file.name)
    if (templates / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(templates / TEMPLATE_FOLDER, folder / TEMPLATE_FOLDER, ignore=shutil.ignore_patterns(".*"))
    if templates == choice.folder:
        return
    config = read_tokenizer_config(choice.folder)
    config.pop("chat_template", None)
    config |= choice.special
    if (template := read_tokenizer_config(templates).get("chat_template")) is not None:
        config["chat_template"] = template
    write_json(folder / TOKENIZER_CONFIG, config)
    names = folder / SPECIAL_TOKENS
    if choice.special and names.is_file():
        write_json(names, {**read_json(names), **choice.special})
