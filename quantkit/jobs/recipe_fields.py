"""The settings of a recipe: what to build."""

from __future__ import annotations

from typing import TypedDict

from quantkit.arch.mtp import CHOICES, DROP, KEEP
from quantkit.hub.matrix import HubMatrix
from quantkit.jobs.argument_kinds import (
    ADAPTERS,
    DATA,
    FLAG,
    LIMIT,
    MATRIX,
    MESSAGES,
    NUMBER,
    PARAMETERS,
    PATH,
    SIZE,
    SOURCE,
    TEMPLATE,
    TEXT,
    TEXTS,
)
from quantkit.jobs.arguments import MessagesInput, ParametersInput, PathInput, SizeInput, TextsInput
from quantkit.jobs.fields import REQUIRED, Field, by_name

IGNORE = Field(
    "ignore",
    TEXTS,
    "File or subfolder of the model or an adapter that may be passed over, for example 'checkpoint-*'. Repeatable. "
    "Other files that the model may need are refused by name; `quantkit inspect` lists all.",
    default=(),
    flags=("--ignore",),
    metavar="FILE",
    example=["lora_adapter"],
)
# By their keys, in the order in which documentation lists them.
RECIPE_FIELDS = by_name(
    (
        Field(
            "model",
            SOURCE,
            "The base model: a folder, or a Hugging Face id such as Qwen/Qwen2.5-0.5B-Instruct.",
            default=REQUIRED,
            example="Qwen/Qwen2.5-0.5B-Instruct",
        ),
        Field(
            "adapters",
            ADAPTERS,
            "PEFT folder or hub id to merge. Repeatable; adapters are merged in the order given.",
            default=(),
            flags=("--adapter",),
            metavar="PATH",
            example=["my-lora", {"path": "org/style-lora", "weight": 0.5}],
        ),
        Field(
            "merge_again",
            FLAG,
            "Merge an adapter that is given twice, or that the base contains already.",
            default=False,
            flags=("--merge-again",),
        ),
        Field(
            "quants",
            TEXTS,
            "Quantization type: q4_0 (default), q8_0, q4_k_m, ... Repeatable; `quantkit chat DIR` uses the first.",
            default=("q4_0",),
            flags=("--quant",),
            metavar="TYPE",
            example=["q4_k_m", "q8_0"],
        ),
        Field(
            "out",
            PATH,
            "Folder to create (default: ./NAME).",
            flags=("-o", "--output"),
            metavar="DIR",
            example="my-model",
        ),
        Field(
            "name",
            TEXT,
            "Name of the model, used in file names and in Ollama (default: the names of model and adapters).",
            default="",
            flags=("--name",),
            metavar="NAME",
            example="my-model",
        ),
        Field(
            "size",
            SIZE,
            "Choose the type of every tensor so that the file has at most this size, for example 4.5GB, and the model "
            "is as close as possible to the unquantized one.",
            flags=("--size",),
            metavar="SIZE",
            example="4.5GB",
        ),
        Field(
            "bits",
            NUMBER,
            "The same, for a file with this many bits per weight.",
            flags=("--bits",),
            metavar="BITS",
            example=4.6,
        ),
        Field(
            "fit",
            SIZE,
            "The same, for a model that runs in this much memory with the context of the package (--param num_ctx).",
            flags=("--fit",),
            metavar="SIZE",
            example="8GB",
        ),
        Field(
            "choice_data",
            PATH,
            "Text, or conversations as JSON lines, like what the model is for: the choice of types is measured on its "
            "first 16,384 tokens (default: that of --calibrate, else a text that comes with quantkit).",
            flags=("--choice-data",),
            metavar="FILE",
            example="conversations.jsonl",
        ),
        Field("keep_f16", FLAG, "Also keep the unquantized GGUF file.", default=False, flags=("--keep-f16",)),
        Field(
            "template",
            TEMPLATE,
            "Chat format: auto (default: the model's own), a name such as llama-3 or chatml, or a Jinja file.",
            default="auto",
            flags=("--template",),
            metavar="NAME|FILE",
            example="llama-3",
        ),
        Field(
            "thinking",
            TEXT,
            "Write into the chat template that the model thinks before it answers, or that it does not, for a template "
            "that leaves this to the program (default: leave it; llama.cpp and Ollama then let it think).",
            flags=("--thinking",),
            choices=("on", "off"),
            example="off",
        ),
        Field(
            "system",
            TEXT,
            "Default system prompt, for example 'You are a helpful assistant.'",
            flags=("--system",),
            metavar="TEXT",
            example="You are a helpful assistant.",
        ),
        Field(
            "parameters",
            PARAMETERS,
            "Parameter for the Modelfile and the chat scripts, for example temperature=0.2. Repeatable.",
            default=(),
            flags=("--param",),
            metavar="KEY=VALUE",
            example={"temperature": 0.2, "stop": ["User:", "Q:"]},
        ),
        Field(
            "messages",
            MESSAGES,
            "Turn of an example conversation for Ollama: user=TEXT and assistant=TEXT alternate. Repeatable.",
            default=(),
            flags=("--message",),
            metavar="ROLE=TEXT",
        ),
        Field(
            "outtype",
            TEXT,
            "Precision the merged weights are rounded to before quantizing (default: f16).",
            default="f16",
            flags=("--outtype",),
            choices=("f16", "bf16", "f32"),
            example="bf16",
        ),
        Field(
            "rope_scaling",
            TEXT,
            "Rotary scaling of the training where config.json does not have it: linear:FACTOR or yarn:FACTOR. The "
            "context grows by the factor.",
            flags=("--rope-scaling",),
            metavar="TYPE:FACTOR",
            example="linear:2",
        ),
        Field(
            "rope_theta",
            NUMBER,
            "Base of the rotary frequencies, where config.json has lost it or has another one than the training.",
            flags=("--rope-theta",),
            metavar="BASE",
            example=500000.0,
        ),
        Field(
            "mtp",
            TEXT,
            "Layers for multi-token prediction, which llama.cpp can use for speculative decoding: keep those that the "
            "model has (default), or drop them.",
            default=KEEP,
            flags=("--mtp",),
            choices=CHOICES,
            example=DROP,
        ),
        Field(
            "imatrix",
            MATRIX,
            "Importance matrix (.gguf or .dat), made by quantkit or llama-imatrix; or one on the Hugging Face hub: "
            "org/name:FILE, or org/name where the file's name says what it is.",
            flags=("--imatrix",),
            metavar="FILE|ID",
            example="imatrix.gguf",
        ),
        Field(
            "calibrate",
            DATA,
            "Compute the importance matrix first, from this text or these conversations (.jsonl, .json), or with auto "
            "from a text that comes with quantkit; it is put into the package.",
            flags=("--calibrate",),
            metavar="FILE|auto",
            example="train.jsonl",
        ),
        Field(
            "pure",
            FLAG,
            "Quantize every tensor to the same type, without llama.cpp's mixture.",
            default=False,
            flags=("--pure",),
        ),
        Field(
            "output_tensor_type",
            TEXT,
            "ggml type of the output layer, for example q8_0.",
            flags=("--output-tensor-type",),
            metavar="TYPE",
            example="q8_0",
        ),
        Field(
            "token_embedding_type",
            TEXT,
            "ggml type of the token embedding, for example q8_0.",
            flags=("--token-embedding-type",),
            metavar="TYPE",
            example="q8_0",
        ),
        Field(
            "leave_output_tensor",
            FLAG,
            "Do not quantize the output layer.",
            default=False,
            flags=("--leave-output-tensor",),
        ),
        Field(
            "tensor_types",
            TEXTS,
            "ggml type of the tensors whose name matches, for example 'attn_v=q8_0'. Repeatable; the first match wins.",
            default=(),
            flags=("--tensor-type",),
            metavar="REGEX=TYPE",
            example=["attn_v=q8_0"],
        ),
        Field(
            "split_max_size",
            LIMIT,
            "Split GGUF files into parts of at most this size, for example 2G; 0 does not split. llama.cpp loads the "
            "parts; Ollama does not.",
            flags=("--split-max-size",),
            metavar="SIZE",
        ),
        Field(
            "adapter_gguf",
            FLAG,
            "Also write each adapter as a LoRA file of its own, for llama.cpp's --lora.",
            default=False,
            flags=("--adapter-gguf",),
        ),
        Field(
            "mmproj",
            FLAG,
            "Also write the part of the model that sees pictures, as a file of its own for llama.cpp's --mmproj.",
            default=False,
            flags=("--mmproj",),
        ),
        IGNORE,
        Field(
            "via_llama_cpp",
            PATH,
            "Convert with the converter of this llama.cpp checkout, for architectures that quantkit does not support. "
            "Runs the checkout's own code.",
            flags=("--via-llama-cpp",),
            metavar="PATH",
            example="llama.cpp",
        ),
    )
)


class TypeKeywords(TypedDict, total=False):
    """The keyword arguments that choose the types of single tensors."""

    pure: bool
    output_tensor_type: str | None
    token_embedding_type: str | None
    leave_output_tensor: bool
    tensor_types: TextsInput


class RecipeKeywords(TypeKeywords, total=False):
    """The keyword arguments of :class:`~quantkit.jobs.recipe.Recipe` besides its first five."""

    merge_again: bool
    size: SizeInput | None
    bits: float | None
    fit: SizeInput | None
    choice_data: PathInput | None
    keep_f16: bool
    template: PathInput
    thinking: str | None
    system: str | None
    parameters: ParametersInput
    messages: MessagesInput
    outtype: str
    rope_scaling: str | None
    rope_theta: float | None
    mtp: str
    imatrix: PathInput | HubMatrix | None
    calibrate: PathInput | None
    split_max_size: SizeInput | None
    adapter_gguf: bool
    mmproj: bool
    ignore: TextsInput
    via_llama_cpp: PathInput | None
