"""manifest.json and report.json of a package: every command that reads them; and no edit makes other weights pass."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

from quantkit.chat_template import process
from quantkit.errors import QuantkitError, VerificationError
from quantkit.files.json_file import read_json
from quantkit.jobs import push_contents
from quantkit.jobs.advised import open_subject
from quantkit.jobs.inspect_package import inspect_package
from quantkit.jobs.package import package
from quantkit.package.built import open_all
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.page.values import read_page
from quantkit.run.options import Sampling, chat_sampling
from quantkit.run.settings import load_options
from quantkit.system.progress import Reporter
from quantkit.verify.intact import Contents, check_contents
from quantkit.verify.report_file import REPORT, add_to_report, read_kept_prompts
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder

SOUND_REPORT: Mapping[str, Any] = {
    "schema": 1,
    "verified": True,
    "passed": True,
    "checks": [{"name": "files", "passed": True, "figure": "2 of 2", "threshold": "all", "evidence": "all exist"}],
    "not_made": ["a"],
    "notes": ["b"],
    "ollama": [{"versions": "Ollama", "difference": "c"}],
    "outputs": [{"file": "m.gguf", "quant": "f16", "size": 3}],
    "seconds": {"plan": 0.1, "package": 0.2},
    "proof": {"passed": True, "checks": []},
    "prompts": [{"name": "d", "messages": [{"role": "user", "content": "e"}],
                 "text": "f", "ids": "1 2", "plain_ids": None}],
    "choice": {
        "asked": {"kind": "bits", "value": 4.6}, "quant": "q4_k_s", "bytes": 9, "bits_per_weight": 4.6,
        "predicted_kl": 0.1, "gap": 0.01, "importance": True, "text": "g", "evaluations": 12, "sampling": 0.1,
        "tensor_types": ["a=q8_0"],
        "tensors": [{"name": "h", "type": "q8_0", "bytes": 3, "error": 0.1, "kl": 0.1, "reason": "i"}],
        "compared": {"quant": "q4_0", "bytes": 8, "predicted_kl": 0.2},
    },
    "evaluation": {
        "text": {"name": "j", "sha256": "k", "tokens": 9, "context": 9, "positions": 9},
        "reference": {"file": "r.gguf", "label": "f16", "bytes": 9, "perplexity": 2.5},
        "files": [{"file": "m.gguf", "label": "f16", "bytes": 5, "kl_mean": 0.1, "tensors": [
            {"name": "blk.0.attn_q.weight", "type": "q4_k", "error": 0.08},
            {"name": "x", "type": "q4_k", "error": 0}]}],
        "answers": [{"question": "?", "by": [{"who": "m.gguf", "text": "!"}]}],
    },
}  # fmt: skip
_WORDS: Sequence[Any] = (
    *("manifest", "report", "flip", "models", "file", "quant", "size", "headers", "tensors", "sha256", "type", "chat"),
    *(
        "parameters",
        "stop",
        "stops",
        "system",
        "messages",
        "template",
        "answers",
        "files",
        "notes",
        "recipe",
        "sources",
    ),
    *(
        "inputs",
        "adapter_files",
        "mmproj",
        "imatrix",
        "effects",
        "choice",
        "parts",
        "scale",
        "alpha",
        "versions",
        "f16",
    ),
    *("evaluation", "checks", "proof", "prompts", "ids", "seconds", "Modelfile", ".gguf", "temperature", "num_ctx"),
)


@cache
def _files() -> Mapping[str, bytes]:
    from tests.unit.tiny_gguf import write_tiny_gguf

    with tempfile.TemporaryDirectory() as name:
        made = package(write_tiny_gguf(Path(name) / "m-f16.gguf"), Path(name) / "m", system="s", parameters={"seed": 1})
        return {path.name: path.read_bytes() for path in made.iterdir()}


def _seeds() -> Sequence[bytes]:
    manifest = json.loads(_files()[MANIFEST])
    seeds = ({"manifest": manifest, "report": SOUND_REPORT}, {"manifest": manifest, "flip": True})
    return [json.dumps(seed).encode() for seed in seeds]


def _read(data: bytes) -> None:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        given = {}
    given = given if isinstance(given, dict) else {}
    files, flipped = dict(_files()), bool(given.get("flip"))
    if "manifest" in given:
        files[MANIFEST] = json.dumps(given["manifest"]).encode()
    if "report" in given:
        files[REPORT] = json.dumps(given["report"]).encode()
    if flipped:
        files = {
            name: data[:-1] + bytes([data[-1] ^ 1]) if name.endswith(".gguf") else data for name, data in files.items()
        }
    made = folder(files)
    refusals: list[QuantkitError] = []
    with mock.patch.object(process, "_shared", _REMEMBERS):
        for read in _READS:
            try:
                read(made)
            except QuantkitError as error:
                refusals.append(error)
            else:
                assert not (flipped and read is _judged), "other weights pass for those of the manifest"
    if len(refusals) == len(_READS):
        raise refusals[0]


class _Remembers:
    """Asks the process of chat templates each question once: most inputs leave the template as it is."""

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(_replied(json.dumps(question)))
        return reply


@lru_cache(maxsize=256)
def _replied(question: str) -> str:
    return json.dumps(_PROCESS.ask(json.loads(question)))


_PROCESS, _REMEMBERS = process.shared_process(), _Remembers()


def _judged(made: Path) -> None:
    """As push does; and as verify, which makes the same checks, and shows them also where push stops before."""
    found: list[Contents] = []

    def once(*arguments: Any, **options: Any) -> Contents:
        found.append(check_contents(*arguments, **options))
        return found[-1]

    refused = None
    with mock.patch.object(push_contents, "check_contents", once):
        try:
            push_contents.read_package(made, threads=1, reporter=Reporter())
        except QuantkitError as error:
            refused = error
    manifest = read_manifest(made)
    contents = found[0] if found else check_contents(made, manifest, threads=1, reporter=Reporter())
    if failed := [check for check in contents.checks if not check.passed]:
        raise VerificationError(failed[0].evidence or failed[0].figure, hint="this is what verify prints")
    if refused is not None:
        raise refused


def _page(made: Path) -> None:
    with suppress(ValueError):  # which write_page tells
        read_page(read_manifest(made), read_json(made / REPORT) if (made / REPORT).is_file() else {})


def _chat(made: Path) -> None:
    for one in open_all(made):
        load_options(one.parameters)
        Sampling(**chat_sampling(lambda key: None, one.parameters))


_READS: Sequence[Callable[[Path], object]] = (
    _judged,
    _page,
    _chat,
    lambda made: json.dumps(inspect_package(made)),
    read_kept_prompts,
    lambda made: open_subject(made, Reporter()),
    lambda made: add_to_report("proof", {}, made),
)

READER = Reader(
    "packages",
    _seeds,
    _read,
    JsonMutator(_WORDS),
    largest=1 << 16,
    allows=frozenset({"subprocess.Popen", "os.posix_spawn"}),
)
