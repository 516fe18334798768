"""What is called the expected ids of a prompt are the ids of transformers' ``apply_chat_template``.

Of its tokenizer class that takes tokenizer.json as it is: ``AutoTokenizer`` of transformers 5 makes those of Llama
anew, with other blanks behind special tokens than the file, and than the transformers that models were trained with.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from quantkit.chat_template.format import named_template
from quantkit.verify.encoders import open_encoder
from quantkit.verify.expected import Expected
from quantkit.verify.origin import Origin, open_origin
from quantkit.verify.prompts import expect
from tests.support import family_templates as families

Maker = Callable[..., Path]

# vocabulary: a template that has its special tokens
TEMPLATES = {
    "llama-bpe": named_template("llama-3"),
    "qwen2": named_template("chatml"),
    "llama-spm": families.LLAMA_2,
    "llama-hf": families.MISTRAL_V3,
    "phi-3": families.PHI_3,
    "gemma-hf": families.GEMMA_3,
    "phi-4": families.PHI_4,
    "smollm": families.SMOLLM_2,
}
# A GGUF file is asked for what the tokenizer's files do not speak of: not here.
NO_FILE: Any = SimpleNamespace(bos_token="", eos_token="", chat_template=None)


def expected(source: Origin) -> tuple[Expected, ...]:
    return expect(source, open_encoder(source.tokenizer), NO_FILE, "Be brief. 请简短。")


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers(name: str, vocabulary: Maker) -> None:
    folder, template = vocabulary(name), TEMPLATES[name]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for one in expected(Origin(open_origin(folder, template=False).tokenizer, template)):
        ids = tokenizer.apply_chat_template(
            list(one.messages), chat_template=template, add_generation_prompt=True, return_dict=False
        )
        assert list(one.ids) == ids, one.name


def test_ids_of_a_sentencepiece_model_alone(vocabulary: Maker, tmp_path: Path) -> None:
    folder = vocabulary("llama-spm")
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    alone, whole = (open_origin(path, template=False).tokenizer for path in (tmp_path / "model", folder))
    assert (alone.name, whole.name) == ("tokenizer.model", "tokenizer.json")
    assert expected(Origin(alone, families.LLAMA_2)) == expected(Origin(whole, families.LLAMA_2))
