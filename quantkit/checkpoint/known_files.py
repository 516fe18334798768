"""Which names of files quantkit knows in the folders of models and adapters: one table.

A build looks at every name in these folders and one level down, and knows what it is
(:mod:`quantkit.checkpoint.account`). The first row that matches a name counts. ``docs/files.md`` is
generated from this table.

A pattern that ends with ``/`` is for folders; the others are for files. Patterns are for fnmatch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import cache, lru_cache
from typing import Literal

from quantkit.hub.files import PICTURES
from quantkit.hub.tokenizer_files import (
    CHAT_TEMPLATE,
    CHAT_TEMPLATE_JSON,
    TEMPLATE_FOLDER,
    TEMPLATES,
    TOKENIZER_FILES,
)

Place = Literal["model", "adapter"]
Role = Literal["read", "harmless", "alone", "refused", "unknown", "ignored"]

MODEL: tuple[Place, ...] = ("model",)
ADAPTER: tuple[Place, ...] = ("adapter",)
BOTH: tuple[Place, ...] = ("model", "adapter")

_GET_HF = "get the same model in Hugging Face's format (config.json and model*.safetensors)"
_GATHER = "turn it into weights"
_HEX = "[0-9A-Fa-f]"
_FINISH = "finish the download or delete what is left of it"
LICENSE = "a license"
TRAINED_HINT = "merge it in training or with PEFT's merge_and_unload, and build from the merged folder"


@dataclass(frozen=True)
class Known:
    """A row of the table.

    Attributes:
        patterns: of names.
        role: ``read``; ``harmless``: passed over; ``alone``: passed over beside weights, and named in the refusal of a
            folder without; ``refused``: it would be passed over, and the user may want it.
        what: what such a file is, after a name and a colon.
        hint: the next thing to do about a file that is refused; ``{folder}`` stands for the folder, ``{state}`` for the
            one that the file is in, ``{quantize}`` for the command that quantizes the file.
        places: in the folders of which it means this.
        cut_off: it may be why other files are missing.
    """

    patterns: tuple[str, ...]
    role: Role
    what: str
    hint: str = ""
    places: tuple[Place, ...] = BOTH
    cut_off: bool = False


# What downloaders add to the name of a file that is not complete, or put beside it under its name with this ending.
UNFINISHED_ENDINGS = (
    *(".aria2", ".aria2__temp", ".incomplete", ".part", ".partial", ".filepart", ".crdownload", ".download"),
    *(".opdownload", ".downloading", ".xltd", ".td", ".tmp", ".temp", ".gstmp", ".!qb", ".!ut", ".!bt", ".bc!"),
    *(".baiduyun.p.downloading", ".rclone_chunk", ".st", ".rpmtmp"),
)

TABLE: tuple[Known, ...] = (
    # Downloads
    Known(
        ("._____temp/",),
        "refused",
        "an unfinished download of ModelScope",
        "run modelscope download again",
        cut_off=True,
    ),
    Known(
        (*(f"*{ending}" for ending in UNFINISHED_ENDINGS), f"*.safetensors.{_HEX * 8}", f"*.bin.{_HEX * 8}"),
        "refused",
        "an unfinished download, or what is left of one",
        _FINISH,
        cut_off=True,
    ),
    Known(
        ("*.safetensors.part*", "*.bin.part*", "*.safetensors.[0-9]*", "*.bin.[0-9]*"),
        "refused",
        "a second copy or a part of a file",
        "put the parts together, or keep the copy that is complete under the usual name; then delete this one",
    ),
    Known(("*.bak", "*.old", "*.orig", "*~"), "harmless", "a copy that was put aside"),
    Known(("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z", "*.rar"), "alone", "an archive", "unpack it into this folder"),
    # Training state, which stands for weights where there are none
    Known(
        ("global_step*/", "zero_to_fp32.py", "zero_pp_rank_*", "*mp_rank_*_model_states.pt", "*_optim_states.pt"),
        "alone",
        "DeepSpeed's training state",
        f"{_GATHER}: python {{folder}}/zero_to_fp32.py {{folder}} OUT --safe_serialization (the script is DeepSpeed's)",
    ),
    Known(
        ("*.distcp", ".metadata", "pytorch_model_fsdp_*/", "model_*_fsdp*/"),
        "alone",
        "a sharded checkpoint of torch.distributed (FSDP, DCP)",
        f"{_GATHER}: accelerate merge-weights {{state}} OUT, or python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch {state} OUT.pt",
    ),
    Known(
        ("pytorch_model_fsdp*.bin", "optimizer_[0-9]*/", "optimizer_fsdp*"),
        "alone",
        "FSDP's training state",
        "load it into the model in a script of your trainer and save it with save_pretrained; or save the model again "
        "with FULL_STATE_DICT",
    ),
    Known(
        ("model_world_size_*_rank_*.pt", "optim_world_size_*_rank_*.pt", "extra_state_world_size_*_rank_*.pt"),
        "alone",
        "verl's sharded training state",
        f"{_GATHER}: python -m verl.model_merger merge --backend fsdp --local_dir {{folder}} --target_dir OUT",
    ),
    Known(
        ("iter_[0-9]*/", "mp_rank_*/", "tp_rank_*/", "latest_checkpointed_iteration.txt", "model_optim_rng.pt"),
        "alone",
        "Megatron's checkpoint",
        f"{_GATHER}: use your trainer's tool (Megatron Bridge's export_ckpt, swift export --to_hf true)",
    ),
    Known(("*.nemo",), "alone", "a NeMo checkpoint", f"{_GATHER}: NeMo's llm.export_ckpt(target='hf')", MODEL),
    Known(
        (
            *("training_args.bin", "training_args.*", "trainer_state.json", "optimizer*", "scheduler*"),
            "lr_scheduler*",
            *("scaler*.pt", "rng_state*", "rng_*.pt", "random_states_*", "sampler*.bin", "dl_state_dict*"),
            *("custom_checkpoint_*.pkl", "recipe_state.pt", "training_state*.pt", "latest", "latest_*", "profile*.pkl"),
        ),
        "harmless",
        "the trainer's state",
    ),
    Known(
        ("value_head.*", "v_head.*", "pytorch_model_value_head*"),
        "harmless",
        "a value head, which is only used in training",
    ),
    # A model's own files
    Known(("config.json", "generation_config.json", "hf_quant_config.json"), "read", "the model's settings", "", MODEL),
    Known(PICTURES, "read", "how pictures are prepared, for --mmproj", "", MODEL),
    Known(("merged_adapters.json",), "read", "the adapters that quantkit merged into the weights", "", MODEL),
    Known(("extraction.json",), "harmless", "what quantkit extract left of each tensor", "", ADAPTER),
    Known(("adapter_config.json",), "read", "the adapter's settings", "", ADAPTER),
    Known(("adapter_model.safetensors", "adapter_model.bin"), "read", "the adapter's tensors", "", ADAPTER),
    Known(
        ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
        "refused",
        "an adapter in the model's folder",
        "pass --adapter {folder} to merge it; if it is merged already or not meant, pass --ignore 'adapter_*'",
        MODEL,
    ),
    Known((f"{TEMPLATE_FOLDER}/",), "read", "chat templates"),
    Known((CHAT_TEMPLATE, CHAT_TEMPLATE_JSON), "read", "the chat template"),
    Known(tuple(name for name in TOKENIZER_FILES if name not in TEMPLATES), "read", "the tokenizer"),
    Known(("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "license*"), "read", LICENSE),
    Known(
        ("tokenizer.model.v*", "spiece.model", "sentencepiece*", "*.vocab", "special_tokens*.json"),
        "harmless",
        "the tokenizer in another format",
    ),
    Known(
        ("*.jinja", "*.jinja2", "*.j2", "chat_template*"),
        "refused",
        "a chat template under a name that is not read",
        f"if the model was trained with it, pass --template FILE or name it {CHAT_TEMPLATE}",
    ),
    Known(
        ("tokenizer*.model", "tokenizer-*.json"),
        "refused",
        "a tokenizer under a name that is not read",
        "if it is the model's, name it tokenizer.model or tokenizer.json",
    ),
    # Other formats
    Known(
        ("adapter_[0-9]*.pt", "adapter_model.pt", "adapters.safetensors", "[0-9]*_adapters.safetensors"),
        "harmless",
        "the adapter in another library's layout",
        "",
        ADAPTER,
    ),
    Known(
        ("lit_model.pth.lora*", "ggml-adapter-model*.bin", "*.gguf"),
        "harmless",
        "the adapter in another format",
        "",
        ADAPTER,
    ),
    Known(("*.gguf", "ggml-*.bin"), "alone", "GGUF files", "quantize the GGUF file: {quantize}", MODEL),
    Known(("*.imatrix", "imatrix*.dat", "*.modelfile", "Modelfile*"), "harmless", "a file for llama.cpp or Ollama"),
    Known(
        ("consolidated*.safetensors", "tekken.json"),
        "alone",
        "Mistral's own format",
        f"{_GET_HF}, or convert it with transformers' convert_mistral_weights_to_hf.py",
        MODEL,
    ),
    Known(
        ("consolidated.*.pth", "original/"),
        "alone",
        "Meta's own format",
        f"{_GET_HF}, or convert it with transformers' convert_llama_weights_to_hf.py",
        MODEL,
    ),
    Known(
        (
            *("*.h5", "*.msgpack", "*.onnx", "*.onnx_data*", "*.tflite", "*.ot", "*.mlmodel"),
            *("onnx/", "openvino/", "coreml/"),
        ),
        "alone",
        "weights for other frameworks",
        _GET_HF,
        MODEL,
    ),
    Known(("openvino_*", "gguf/", "metal/", "flax_model*", "*.mlpackage/"), "harmless", "other formats", "", MODEL),
    # Trained tensors that no reader would look for
    Known(
        ("non_lora_trainables.bin", "mm_projector.bin"),
        "refused",
        "tensors that LLaVA's trainer trained beside the adapter",
        TRAINED_HINT,
        ADAPTER,
    ),
    Known(("trainable_params.bin",), "refused", "tensors that LongLoRA trained beside the adapter", TRAINED_HINT),
    Known(
        tuple(f"*{part}*.{end}" for part in ("embed", "lm_head") for end in ("safetensors", "bin", "pt", "pth")),
        "refused",
        "trained embeddings or an output head in a file of their own",
        TRAINED_HINT,
    ),
    Known(
        ("model*.safetensors", "pytorch_model*.bin", "model*.safetensors.index.json", "pytorch_model*.index.json"),
        "refused",
        "a whole model's weights beside the adapter",
        "if it is the merged model, build from {folder} without --adapter; if it is a copy of the base, delete it",
        ADAPTER,
    ),
    Known(
        ("*.pth", "*.pt", "*.ckpt"),
        "refused",
        "PyTorch checkpoints",
        f"{_GET_HF}: save it with transformers' save_pretrained",
        MODEL,
    ),
    Known(
        ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npz"),
        "refused",
        "tensors under a name that is not read",
        "if they are the adapter's, name the file adapter_model.safetensors (or .bin); of several files, save the "
        "adapter again with save_pretrained",
        ADAPTER,
    ),
    Known(
        ("*.safetensors", "*.bin", "*.npz"),
        "refused",
        "tensors under a name that is not read",
        "if they are the whole model, name the file model.safetensors (or pytorch_model.bin); if they belong to it, "
        "save it again with save_pretrained, which gives them a name that is read",
        MODEL,
    ),
    # Everything that people put beside a model
    Known(
        (
            *("README*", "*.md", "*.txt", "*.rst", "*.pdf", "*.html", "*.json", "*.jsonl", "*.yaml", "*.yml", "*.toml"),
            *("*.ini", "*.cfg", "*.csv", "*.tsv", "*.parquet", "*.arrow", "*.log", "*.out", "*.err", "*.lock"),
            *("*.py", "*.pyc", "*.ipynb", "*.sh", "*.bat", "*.ps1", "*.cmake", "*.patch", "*.sha256", "*.md5", "*.sig"),
            *("events.out.tfevents*", "*.tfevents*", "SHA256SUMS*", "md5sum*", "checksum*", "USE_POLICY*", "*.bib"),
            *("*.xml", "*.template", "Dockerfile*", "Makefile*", "requirements*", "*.pkl"),
        ),
        "harmless",
        "texts, settings, logs and code, which is never run",
    ),
    Known(
        ("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.ico", "*.mp4", "*.mp3", "*.wav", "*.bmp"),
        "harmless",
        "images and sounds",
    ),
    Known(
        (
            *("runs/", "logs/", "log/", "wandb/", "tensorboard/", "eval*/", "images/", "assets/", "figures/", "imgs/"),
            *(
                "__pycache__/",
                "__MACOSX/",
                "docs/",
                "examples/",
                "scripts/",
                "data/",
                "dataset*/",
                "swanlab/",
                "mlruns/",
            ),
        ),
        "harmless",
        "logs, images and code, which is never run",
    ),
    Known((".*", ".*/", "Thumbs.db", "desktop.ini"), "harmless", "hidden files, which are never read"),
)


@lru_cache(maxsize=4096)  # a command asks for each name several times
def known(name: str, place: Place) -> Known | None:
    """The first row that matches a name.

    Args:
        name: of a file; of a folder, with a ``/`` at its end.
        place: whose folder it is in.
    """
    return next((row for row in rows(place) if any(matches(name, pattern) for pattern in row.patterns)), None)


def rows(place: Place) -> Iterator[Known]:
    """The rows for one kind of folder."""
    return (row for row in TABLE if place in row.places)


def matches(name: str, pattern: str) -> bool:
    """Whether a name matches a pattern; ``*`` does not stand for the dot that begins a hidden name."""
    if name.endswith("/") != pattern.endswith("/") or (name.startswith(".") and not pattern.startswith(".")):
        return False
    form = _compiled(pattern)
    return form(name) is not None or form(name.lower()) is not None


@cache  # fnmatch keeps fewer than the table has
def _compiled(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match


def unfinished(name: str) -> str | None:
    """The name of the file that *name* is an unfinished download of; None if it is not one."""
    for ending in UNFINISHED_ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return None
