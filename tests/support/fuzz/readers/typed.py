"""What is typed as a value: sources and addresses, files of a hub, LoRA files, sizes, metadata, parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quantkit.errors import QuantkitError
from quantkit.gguf.kv import KVType
from quantkit.gguf.kv_text import read_kv
from quantkit.gguf.lora import parse_lora
from quantkit.hub.files import small_files, weight_files
from quantkit.hub.matrix import HubMatrix, choose_matrix, parse_matrix
from quantkit.hub.source import HubId, parse_source, source_label
from quantkit.hub.target import parse_target
from quantkit.ollama.parameters import PARAMETERS, check_parameters
from quantkit.package.spec import ollama_name
from quantkit.run.options import sampling_value
from quantkit.system.units import parse_size
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file
from tests.support.fuzz.worded import bytes_of, text_of

_WORDS = (
    *(
        "org/name",
        "@main",
        "modelscope:",
        "https://huggingface.co/",
        "hf.co/",
        "/tree/",
        "/blob/main/",
        "%2e%2e",
        "%00",
    ),
    *("imatrix.gguf", ":0.5", "4.5GB", "1e400", "nan", "inf", "-", "../", "/", "\\", ".git", "--", "é", "🦙", "\u2028"),
    *("config.json", "model.safetensors", "model-00001-of-00002.safetensors", "\n", "temperature", "[1, 2]", "true"),
    *(
        "hf:",
        "ollama:",
        "0x10",
        "1_000",
        "٣",
        "\ud7ff",
        "9" * 5000,
        "[" * 3000,
        "K",
        "MiB",
        "model.safetensors.index.json",
    ),
)
_SEEDS = (
    "org/name@main", "modelscope:org/name", "https://huggingface.co/org/name/tree/main?x=1", "org/name:imatrix.gguf",
    "lora.gguf:0.5", "4.5GB", "hf:org/name", "ollama:me/name", "config.json\nmodel.safetensors", "[1, 2]", "0.2",
    '{"weight_map": {"a": "b"}}',
)  # fmt: skip
_ID = HubId("org/name")


def _names(text: str) -> Sequence[str]:
    names = text.split("\n")
    index = file("index.json", text.encode())
    found = [*small_files(_ID, names, "model"), *weight_files(_ID, names, "model", lambda name: index)]
    assert {*found} <= {*names}, "a file that the repository does not list"
    return found


_READS: Sequence[Callable[[str], object]] = (
    lambda text: source_label(parse_source(text)),
    parse_matrix,
    lambda text: choose_matrix(HubMatrix(_ID, text), text.split("\n")),
    parse_lora,
    parse_target,
    parse_size,
    ollama_name,
    _names,
    *(lambda text, kind=kind: read_kv("a", text, kind) for kind in KVType if kind is not KVType.ARRAY),
    *(lambda text, kind=kind: read_kv("a", text, KVType.ARRAY, kind) for kind in KVType if kind is not KVType.ARRAY),
    *(lambda text, name=name: check_parameters([(name, text)]) for name in (*PARAMETERS, "x")),
    *(lambda text, name=name: sampling_value(name, text) for name in ("seed", "top_p")),
)


def _read(data: bytes) -> None:
    text = text_of(data, _WORDS).replace("\0", "")  # no command line can have it
    refusals: list[QuantkitError] = []
    for read in _READS:
        try:
            read(text)
        except QuantkitError as error:
            refusals.append(error)
    assert all(len(str(error)) < 2 * len(text) + 1000 for error in refusals)
    if len(refusals) == len(_READS):
        raise refusals[0]


READER = Reader("typed", lambda: [bytes_of(seed, _WORDS) for seed in _SEEDS], _read)
