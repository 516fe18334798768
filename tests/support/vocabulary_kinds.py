"""The byte-level BPE vocabularies the tests have: special tokens and tokenizer_config.json of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.chat_templates import CHATML, LLAMA_3, template_file
from tests.support.tokenizer_parts import decoder_entries

_FIM = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>")


@dataclass(frozen=True)
class Kind:
    """A vocabulary.

    Attributes:
        source: llama.cpp's vocabulary file it comes from, None for one trained by the tests.
        bos, eos, unk, pad: special tokens by use, empty for none.
        post: the post-processor: ``bos``, ``byte-level`` or none.
        kept: special tokens a cut vocabulary keeps; by default all.
        first, last: special tokens of a trained vocabulary, before and behind the others.
        template: the chat template, or the name of one of llama.cpp's template files.
        strip: special tokens swallow blanks on the left (``l``), on the right (``r``).
        config: the rest of tokenizer_config.json.
    """

    source: str | None = None
    bos: str = ""
    eos: str = ""
    unk: str = ""
    pad: str = ""
    post: str = ""
    kept: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    template: str | None = None
    strip: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def tokenizer_config(self, added: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """tokenizer_config.json for these added tokens."""
        config: dict[str, Any] = {"added_tokens_decoder": decoder_entries(added)}
        if self.template is not None:
            config["chat_template"] = template_file(self.template) if "{" not in self.template else self.template
        named = {"bos": self.bos, "eos": self.eos, "unk": self.unk, "pad": self.pad}
        config |= {f"{kind}_token": text for kind, text in named.items() if text}
        common = {"clean_up_tokenization_spaces": True, "tokenizer_class": "PreTrainedTokenizerFast"}
        return {**config, **common, **self.config}


_LLAMA_KEPT = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
)
_QWEN2_CONFIG = {
    "add_prefix_space": False,
    "bos_token": None,
    "unk_token": None,
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "clean_up_tokenization_spaces": False,
    "errors": "replace",
    "model_max_length": 32768,
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
}
_STARCODER = (
    *("<|endoftext|>", *_FIM, "<filename>", "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>"),
    *("<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>", "<commit_before>"),
    *("<commit_msg>", "<commit_after>", "<reponame>"),
)
_SMOLLM = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>"),
    *("<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>"),
    *("<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>"),
)
_TEKKEN = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "<pad>", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
    *(f"<SPECIAL_{i}>" for i in range(14, 20)),
)
_GRANITE_ROLES = ("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>")
_CL100K = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_GLM = Kind(
    last=(
        *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>"),
        *("<|assistant|>", "<|observation|>"),
    ),
    eos="<|endoftext|>",
    pad="<|endoftext|>",
    config={"clean_up_tokenization_spaces": False},
)
_DEEPSEEK = {
    "bos": "<｜begin▁of▁sentence｜>",
    "eos": "<｜end▁of▁sentence｜>",
    "pad": "<｜end▁of▁sentence｜>",
    "post": "bos",
}

KINDS = {
    "llama-bpe": Kind(
        "llama-bpe",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        post="bos",
        kept=_LLAMA_KEPT,
        template=LLAMA_3,
        config={
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 1000000000000000019884624838656,
        },
    ),
    "qwen2": Kind(
        "qwen2", eos="<|im_end|>", pad="<|endoftext|>", post="byte-level", template=CHATML, config=_QWEN2_CONFIG
    ),
    "qwen35": Kind(
        "qwen35",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        post="byte-level",
        template=CHATML,
        config={**_QWEN2_CONFIG, "tokenizer_class": "Qwen3_5Tokenizer"},
    ),
    "gpt-2": Kind("gpt-2", bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>", post="byte-level"),
    "mpt": Kind("mpt", bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"),
    "starcoder": Kind("starcoder", bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"),
    "refact": Kind("refact", bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"),
    "granite": Kind(
        first=("<|end_of_text|>", *_STARCODER[1:]),
        last=_GRANITE_ROLES,
        bos="<|end_of_text|>",
        eos="<|end_of_text|>",
        unk="<|end_of_text|>",
        pad="<|end_of_text|>",
        template="ibm-granite-granite-3.3-2B-Instruct",
        config={"add_bos_token": False, "add_prefix_space": False},
    ),
    "smollm": Kind(
        first=_SMOLLM,
        bos="<|im_start|>",
        eos="<|im_end|>",
        unk="<|endoftext|>",
        pad="<|im_end|>",
        template=CHATML,
        config={"add_prefix_space": False, "clean_up_tokenization_spaces": False},
    ),
    "command-r": Kind(
        "command-r",
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        pad="<PAD>",
        post="bos",
        config={"clean_up_tokenization_spaces": False},
    ),
    "falcon": Kind("falcon", eos="<|endoftext|>"),
    "deepseek-llm": Kind("deepseek-llm", **_DEEPSEEK),
    "deepseek-coder": Kind("deepseek-coder", **{**_DEEPSEEK, "eos": "<|EOT|>", "pad": "<｜end▁of▁sentence｜>"}),
    "deepseek-v3": Kind(
        **_DEEPSEEK, last=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
    ),
    "tekken": Kind(
        first=_TEKKEN,
        bos="<s>",
        eos="</s>",
        unk="<unk>",
        post="bos",
        template="mistralai-Mistral-Nemo-Instruct-2407",
        config={"add_bos_token": True, "add_eos_token": False, "add_prefix_space": False},
    ),
    "seed-coder": Kind(
        last=("<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"),
        bos="<[begin▁of▁sentence]>",
        eos="<[end▁of▁sentence]>",
    ),
    "minicpm5": Kind(last=("<s>", "</s>", "<|im_start|>", "<|im_end|>"), bos="<s>", eos="</s>", post="bos"),
    "gpt-4o": Kind(
        last=("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"),
        bos="<|endoftext|>",
        eos="<|endoftext|>",
        config={"clean_up_tokenization_spaces": False},
    ),
    "harmony": Kind(
        last=(
            *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>"),
            *("<|start|>", "<|end|>", "<|message|>", "<|call|>"),
        ),
        bos="<|startoftext|>",
        eos="<|return|>",
        pad="<|endoftext|>",
        template="openai-gpt-oss-120b",
        config={"clean_up_tokenization_spaces": False},
    ),
    "llama4": Kind(
        last=("<|begin_of_text|>", "<|end_of_text|>", "<|eom|>", "<|eot|>", "<|finetune_right_pad|>"),
        bos="<|begin_of_text|>",
        eos="<|eot|>",
        pad="<|finetune_right_pad|>",
        post="bos",
        config={"clean_up_tokenization_spaces": False},
    ),
    "olmo2": Kind(
        last=(*_CL100K, "<|im_start|>", "<|im_end|>", "<|endofprompt|>", "<|pad|>"),
        bos="<|endoftext|>",
        eos="<|endoftext|>",
        unk="<|endoftext|>",
        pad="<|pad|>",
        config={"clean_up_tokenization_spaces": False},
    ),
    "phi-4": Kind(
        last=(*_CL100K, "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endofprompt|>"),
        bos="<|endoftext|>",
        eos="<|im_end|>",
        unk="<|endoftext|>",
        pad="<|endoftext|>",
        strip="lr",
        template=CHATML,
        config={"add_prefix_space": False, "clean_up_tokenization_spaces": False, "tokenizer_class": "GPT2Tokenizer"},
    ),
    "glm4": _GLM,
    "chatglm": _GLM,
}
