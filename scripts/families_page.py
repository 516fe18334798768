"""The text of docs/families.md: what is supported, and what is not, by rank of use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from quantkit.arch.families import FAMILIES, INSIDE, MISCOMPUTED
from quantkit.arch.vision.families import TOWERS

_HEAD = """# Model families

Generated from the code by `scripts/render_reference`; a test fails if it is stale.

A family is supported when its files equal those of llama.cpp's converter in every byte (but for
[differences.md](differences.md)) and llama.cpp's logits equal transformers'; `scripts/watch_converter` lists each class
that the converter of a llama.cpp tree has and quantkit has not, and what has changed there.

## Supported

By the class in `architectures` of config.json. Settings that llama.cpp's graph does not compute are refused by name.
"""
_LATER = "not written yet"
_OLDER = "older than what people fine-tune today"
_LARGE = "not written yet: hundreds of billions of weights, which few people fine-tune"


@dataclass(frozen=True)
class Lacking:
    """Models that are not supported: what they are called, their classes, and why."""

    models: str
    classes: tuple[str, ...]
    why: str


# By rank of use, roughly. Classes that are supported are left out, and rows without others.
LACKING = (
    Lacking("Qwen3-VL with experts", ("Qwen3VLMoeForConditionalGeneration",), _LATER),
    Lacking("ChatGLM 3, GLM-4-9B with its own class", ("ChatGLMModel", "ChatGLMForConditionalGeneration"), _LATER),
    Lacking(
        "Baichuan and Baichuan 2",
        ("BaichuanForCausalLM", "BaiChuanForCausalLM"),
        "not written yet; the head of Baichuan 2 normalizes its weights as it computes, which the converter ignores",
    ),
    Lacking("Hunyuan 3 (HY3)", ("HYV3ForCausalLM",), _LATER),
    Lacking(
        "GLM-5",
        ("GlmMoeDsaForCausalLM",),
        _LATER,
    ),
    Lacking(
        "Apertus, Exaone MoE",
        ("ApertusForCausalLM", "ExaoneMoeForCausalLM"),
        _LATER,
    ),
    Lacking(
        "DeepSeek V3.2 and V4, Kimi, MiniMax, Step 3.5",
        (
            "DeepseekV32ForCausalLM",
            "DeepseekV4ForCausalLM",
            "KimiLinearForCausalLM",
            "MiniMaxM2ForCausalLM",
            "Step3p5ForCausalLM",
        ),
        _LARGE,
    ),
    Lacking(
        "GPT-2, GPT-NeoX, Falcon, MPT, Bloom",
        (
            "GPT2LMHeadModel",
            "GPTNeoXForCausalLM",
            "FalconForCausalLM",
            "MPTForCausalLM",
            "BloomForCausalLM",
        ),
        _OLDER,
    ),
    Lacking(
        "Mamba, Jamba, RWKV", ("MambaForCausalLM", "Mamba2ForCausalLM", "JambaForCausalLM", "Rwkv7ForCausalLM"), _LATER
    ),
    Lacking(
        "models that do not write text from left to right",
        ("BertModel", "T5ForConditionalGeneration", "LLaDAModelLM", "DreamModel"),
        "no chat",
    ),
)


def lines() -> Iterator[str]:
    yield from (*_HEAD.splitlines(), "")
    yield "| family | classes |"
    yield "| --- | --- |"
    for module in dict.fromkeys(FAMILIES.values()):
        found = importlib.import_module(f"quantkit.arch.{module}").__doc__ or ""
        what = found.strip().partition("\n")[0].removesuffix(".").replace("|", "\\|").replace(":mod:", "")
        yield f"| {what} | {', '.join(f'`{name}`' for name, file in FAMILIES.items() if file == module)} |"
    yield ""
    yield (
        "Only the language model, within other classes: "
        + ", ".join(f"`{wrapper}` with `{kind}`" for wrapper, kind in INSIDE)
        + "."
    )
    yield ""
    yield "With `--mmproj` also the part that sees: " + ", ".join(f"`{name}`" for name in TOWERS) + "."
    yield from ("", "## Refused, because llama.cpp computes another model", "")
    yield "The converter takes these without a word, so `--via-llama-cpp` refuses them too."
    yield ""
    for name, what in MISCOMPUTED.items():
        yield f"- `{name}`: {what}."
    yield ""
    yield "Measured for a tiny Phi-MoE (`tests/parity/test_miscomputed.py`): llama.cpp's logits differ from those of"
    yield "transformers by two thirds of the largest, and by 3e-6 of it once both are computed as llama.cpp does."
    yield from ("", "## Not supported, by rank of use", "")
    yield "`--via-llama-cpp` takes them, with the adapters merged, as far as the converter knows them; the result is"
    yield "llama.cpp's, and is not held to transformers."
    yield from ("", "| models | classes | why |", "| --- | --- | --- |")
    for row in LACKING:
        if classes := [name for name in row.classes if name not in FAMILIES]:
            yield f"| {row.models} | {', '.join(f'`{name}`' for name in classes)} | {row.why} |"
