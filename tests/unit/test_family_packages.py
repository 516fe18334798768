"""A build of each family with its family's own chat template ends with a package that prompts and stops as it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantkit.chat_template.end_of_turn import stop_metadata
from quantkit.chat_template.format import FORMAT_NAMES, OwnTemplate
from quantkit.errors import ChatFormatError
from quantkit.gguf.header import read_header
from quantkit.gguf.kv import KVType, array, u32
from quantkit.jobs.build import BuildResult, build
from quantkit.jobs.recipe import Recipe
from quantkit.ollama.modelfile import parse_modelfile
from quantkit.vocab.from_gguf import token_text
from quantkit.vocab.special import ENDS_BY_NAME
from quantkit.vocab.vocabulary import Vocabulary
from tests.support import family_templates as families
from tests.support.chat_templates import template_file
from tests.support.checkpoints import KINDS

Maker = Callable[..., Path]

SYSTEM = "Be brief. 请简短。"


_GLM = "<|user|> <|observation|> <|endoftext|>"


@dataclass(frozen=True)
class Family:
    """A tiny checkpoint, its chat template, and what becomes of it.

    Attributes:
        kind: of checkpoint.
        template: Jinja text, the name of one of llama.cpp's template files or of a format; None for the checkpoint's.
        chat: name of the format.
        stop: what ends an answer, with blanks between several.
        system: whether a conversation can have a system message.
        turns: whether there is a TEMPLATE.
        extra: tokens that the tests' vocabulary has not.
        verified: the build is verified.
    """

    kind: str
    template: str | None
    chat: str
    stop: str
    system: bool = True
    turns: bool = True
    extra: tuple[str, ...] = ()
    verified: bool = False


FAMILIES = {
    "Llama-2": Family("mixtral", families.LLAMA_2, "llama-2", "</s>"),
    "Mistral v0.1": Family("mistral", None, "generic", "</s>", system=False),
    "Mistral v0.3": Family("mistral", families.MISTRAL_V3, "mistral", "</s>"),
    "Mistral Nemo": Family("mistral-nemo", None, "generic", "</s>"),
    "Mixtral": Family("mixtral", families.MIXTRAL, "generic", "</s>"),
    "Qwen1": Family("qwen", "chatml", "chatml", "<|im_end|>"),
    "Qwen3": Family("qwen3", "Qwen-Qwen3-0.6B", "jinja", "<|im_end|>", turns=False),
    "Qwen3.5": Family("qwen3.5", "Qwen3.5-4B", "jinja", "<|im_end|>", turns=False),
    "Qwen3-MoE": Family("qwen3-moe", "Qwen3-Coder", "chatml", "<|im_end|>"),
    "Gemma": Family("gemma", None, "generic", "<end_of_turn>", system=False, verified=True),
    "Gemma 2": Family("gemma2", None, "generic", "<end_of_turn>", system=False),
    "Gemma 3": Family("gemma3", families.GEMMA_3, "gemma", "<end_of_turn>"),
    "Gemma 3n": Family("gemma3n", families.GEMMA_3, "gemma", "<end_of_turn>"),
    "Gemma 4": Family("gemma4", None, "jinja", "<turn|>", turns=False),
    "Phi-3": Family("phi3", families.PHI_3, "phi-3", "<|end|>"),
    "Phi-3.5": Family("phi3-long", None, "phi-3", "<|end|>"),
    "Phi-4": Family("phi4", families.PHI_4, "generic", "<|im_end|>"),
    "Phi-4-mini": Family("phi3", families.PHI_4_MINI, "generic", "<|end|>"),
    "Granite 3.0": Family("granite", families.GRANITE_3, "generic", "<|end_of_text|>"),
    "Granite 3.3": Family("granite", None, "jinja", "<|end_of_text|>", turns=False),
    "SmolLM3": Family(
        "smollm3",
        "HuggingFaceTB-SmolLM3-3B",
        "jinja",
        "<|im_end|>",
        turns=False,
        extra=("<|im_start|>", "<|im_end|>"),
    ),
    "gpt-oss": Family("gpt-oss", None, "jinja", "<|return|>", turns=False),
    "OLMo 2": Family("olmo2", families.OLMO_2, "generic", "<|endoftext|>"),
    "GLM-4.6": Family("glm4-moe", "GLM-4.6", "jinja", _GLM, turns=False, verified=True),
    "GLM-4.7-Flash": Family("glm4-moe-lite", "GLM-4.7-Flash", "jinja", _GLM, turns=False, verified=True),
    "Seed-OSS": Family(
        "seed-oss", "ByteDance-Seed-OSS", "generic", "<seed:eos>", extra=("<seed:bos>", "<seed:eos>"), verified=True
    ),
    "DeepSeek V3.1": Family(
        "deepseek-v3",
        "deepseek-ai-DeepSeek-V3.1",
        "jinja",
        "<｜end▁of▁sentence｜>",
        turns=False,
        extra=("<think>", "</think>"),
        verified=True,
    ),
    "Command R7B": Family(
        "cohere2",
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "jinja",
        "<|END_RESPONSE|>",
        turns=False,
        extra=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "Granite 4": Family(
        "granite-4",
        "ibm-granite-granite-4.0",
        "generic",
        "<|end_of_text|>",
        extra=("<|start_of_role|>", "<|end_of_role|>"),
        verified=True,
    ),
    "LFM2": Family("lfm2", "LFM2-8B-A1B", "chatml", "<|im_end|>", extra=("<|im_start|>", "<|im_end|>"), verified=True),
    "Nemotron 3": Family(
        "nemotron-h",
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "jinja",
        "<|im_end|>",
        turns=False,
        extra=("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        verified=True,
    ),
}


def vocabulary(**ids: int) -> Vocabulary:
    tokens = ["a", "b", "</s>", "<eot>", "<end>", "<|im_end|>"]
    entries = [u32(f"tokenizer.ggml.{kind}_token_id", number) for kind, number in ids.items()]
    return Vocabulary((array("tokenizer.ggml.tokens", tokens, KVType.STRING), *entries), None, (), "", "</s>", ())


def test_stops_become_end_tokens_of_the_file() -> None:
    def added(*stops: str, **ids: int) -> dict[str, int]:
        entries, notes = stop_metadata(OwnTemplate("it counts", stops, takes_system=True), vocabulary(**ids))
        assert len(notes) == len(entries)
        return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in entries}

    assert added("</s>", eos=2) == {}
    assert added("<|im_end|>", eos=2) == {}  # known to llama.cpp by its name
    assert added("<eot>", eos=2) == {"eot_token_id": 3}
    assert added("<eot>", eos=2, eot=4) == {"eom_token_id": 3}
    assert added("<eot>", "<end>", eos=2) == {"eot_token_id": 3, "eom_token_id": 4}
    with pytest.raises(ChatFormatError, match="GGUF has no key left for the end-of-turn token '<eot>'"):
        added("<eot>", eos=2, eot=4, eom=4)
    with pytest.raises(ChatFormatError, match="'<other>' is not a token of this model"):
        added("<other>", eos=2)


def build_family(name: str, checkpoint: Maker, root: Path, *, verify: bool = False) -> BuildResult:
    family = FAMILIES[name]
    layers = 6 if family.kind == "gemma3" else KINDS[family.kind].least
    model = checkpoint(family.kind, layers=layers, extra=family.extra)
    option = family.template or "auto"
    if option not in ("auto", *FORMAT_NAMES):
        text = option if "{" in option else template_file(option)
        (root / "chat_template.jinja").write_text(text, encoding="utf-8")
        option = str(root / "chat_template.jinja")
    system = SYSTEM if family.system else None
    recipe = Recipe(model, (), ("f16",), root / "out" / "tiny", "tiny", template=option, system=system)
    return build(recipe, verify=verify)


# Their vocabularies are odd: Gemma has tokens of line ends, Granite's BOS is what ends a turn, the special tokens of
# Phi-3 take in line ends behind them, and those of Phi-4 blanks on both sides, which llama.cpp cannot do.
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Gemma 3", ""),
        ("Gemma 4", ""),
        ("Granite 3.0", ""),
        ("gpt-oss", ""),
        ("Phi-3", "llama.cpp adds BOS (<s>) to 12 of them, as the tokenizer asks; the template does not write it"),
        ("Phi-4", "blanks next to special tokens differently from the tokenizer: blanks around contents, special"),
    ],
)
def test_a_verified_build(name: str, said: str, checkpoint: Maker, tmp_path: Path) -> None:
    report = build_family(name, checkpoint, tmp_path, verify=True).report
    assert report is not None
    assert report.passed
    (prompts,) = (check for check in report.checks if check.name.endswith(": prompt token ids"))
    assert said in prompts.evidence


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_a_tokenizer_as_transformers_5_saves_it(scheme: str, checkpoint: Maker, tmp_path: Path) -> None:
    """Its blank before a text is not put where one stands already; llama.cpp knows of no such rule, and it is said."""
    model = Path(shutil.copytree(checkpoint("mixtral", layers=1), tmp_path / "model"))
    (model / "tokenizer.model").unlink()
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    blank = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    changed = {**tokenizer, "normalizer": None, "pre_tokenizer": blank}
    (model / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    report = build(Recipe(model, (), ("f16",), tmp_path / "out", "tiny")).report
    assert report is not None
    said = {check.name.partition(": ")[2]: check.evidence for check in report.checks}
    assert "llama.cpp adds a blank before one that is already there" in said["token ids match tokenizer.json"]
    assert "llama.cpp treats blanks next to special tokens differently" in said["prompt token ids"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_build_of_the_family_ends_with_a_package(name: str, checkpoint: Maker, tmp_path: Path) -> None:
    family = FAMILIES[name]
    built = build_family(name, checkpoint, tmp_path, verify=family.verified)
    assert (built.report is not None and built.report.passed) is family.verified
    system = SYSTEM if family.system else None

    commands = parse_modelfile((built.folder / "Modelfile").read_text(encoding="utf-8"))
    stops = [command.value for command in commands if command.key == "stop"]
    assert stops == family.stop.split()
    assert [command.value for command in commands if command.keyword == "SYSTEM"] == ([system] if system else [])
    assert any(command.keyword == "TEMPLATE" for command in commands) is family.turns
    assert any("a TEMPLATE cannot express the chat template" in note for note in built.plan.notes) is not family.turns

    header = read_header(built.folder / "tiny-f16.gguf")
    assert {*stops} <= {*(token_text(header, kind) for kind in ("eos", "eot", "eom")), *ENDS_BY_NAME}
    assert header.value("tokenizer.chat_template")
    chat = json.loads((built.folder / "manifest.json").read_text(encoding="utf-8"))["chat"]
    assert (chat["template"], chat["stops"], chat["system"]) == (family.chat, stops, system)
    assert "--jinja" in (built.folder / "chat.sh").read_text(encoding="utf-8")
