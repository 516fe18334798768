"""The arguments that trainers leave beside a model are compared with the build, and contradicted aloud."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantkit.chat_template.format import FORMAT_NAMES, named_template
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from quantkit.model.training_args import Training, read_training, state_notes
from quantkit.model.training_notes import _FORMATS, Built, training_notes, without_thoughts

Maker = Callable[..., Path]
BUILT = Built(
    names=("org/Qwen3-8B",),
    template=named_template("chatml"),
    bos_token="",
    eos_token="<|im_end|>",
    system=None,
    context=2048,
    scaling="",
    thinking=None,
    lets_think=False,
)
SWIFT = {"model": "Qwen/Qwen3-8B", "template": "qwen3", "system": None, "max_length": 2048, "lora_rank": 8}
FACTORY = "model_name_or_path: /data/models/Qwen3-8B\ntemplate: qwen3_nothink\ncutoff_len: 4096\nrope_scaling: linear\n"
AXOLOTL = "base_model: Qwen/Qwen3-8B\nchat_template: chatml\nsequence_len: 1024\ndatasets:\n  - path: x\n"
BOARD = "top.model_name: Qwen3-8B\ntop.template: qwen3\ntrain.cutoff_len: 2048\n"


def read(folder: Path, **files: Any) -> tuple[list[Training], list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        suffix = "json" if name in ("args", "trainer_state") else "yaml"
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return read_training([folder])


def test_what_the_trainers_write(tmp_path: Path) -> None:
    found, notes = read(tmp_path / "a", args=SWIFT, b_train=FACTORY, c_config=AXOLOTL, d_board=BOARD)
    assert notes == []
    assert found == [
        Training("a/args.json", "Qwen/Qwen3-8B", "qwen3", length=2048),
        Training(
            *("a/b_train.yaml", "/data/models/Qwen3-8B", "qwen3_nothink"), length=4096, scaling="linear", thinks=False
        ),
        Training("a/c_config.yaml", "Qwen/Qwen3-8B", "chatml", length=1024),
        Training("a/d_board.yaml", "Qwen3-8B", "qwen3", length=2048),
    ]


def test_axolotls_rope_is_deeper(tmp_path: Path) -> None:
    text = AXOLOTL + "overrides_of_model_config:\n  rope_scaling:\n    type: yarn\n    factor: 4.0\n"
    (found,), _ = read(tmp_path / "a", it=text)
    assert (found.scaling, found.factor) == ("yarn", 4.0)


def test_the_folder_above_a_checkpoint(tmp_path: Path) -> None:
    read(tmp_path / "out", args=SWIFT)
    (tmp_path / "out" / "checkpoint-10").mkdir()
    (tmp_path / "out" / "other").mkdir()
    assert len(read_training([tmp_path / "out" / "checkpoint-10"])[0]) == 1
    assert read_training([tmp_path / "out" / "other"])[0] == []


@pytest.mark.parametrize("text", ["services:\n  web: 1\n", "- 1\n", "", "model: x\n", "base_model: [1]\ntemplate: 3\n"])
def test_other_files_say_nothing(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "a", it=text) == ([], [])


@pytest.mark.parametrize(
    "text", ["a: [", "!!python/object/apply:os.system ['touch ran']", "a: &a [*a, ", "x" * (1 << 21)]
)
def test_files_that_cannot_be_read_are_noted(tmp_path: Path, text: str) -> None:
    found, (note,) = read(tmp_path / "a", it=text)
    assert found == []
    assert note.startswith("a/it.yaml: the training's arguments cannot be read and are not compared")
    assert not Path("ran").exists()


def test_what_agrees_is_silent() -> None:
    agreeing = Training("args.json", "Qwen/Qwen3-8B", "qwen3", length=2048, thinks=False)
    assert training_notes([agreeing, replace(agreeing, base="models/Qwen3-8B-bnb-4bit/", thinks=None)], BUILT) == []
    other_hub = replace(agreeing, base="Qwen/Qwen2___5-7B")
    assert training_notes([other_hub], replace(BUILT, names=("x/base", "Qwen/Qwen2.5-7B"))) == []
    assert training_notes([replace(agreeing, template="a_template_of_tomorrow")], BUILT) == []


@pytest.mark.parametrize(
    ("said", "built", "note"),
    [
        ({"base": "meta/Llama-3-8B"}, {}, "the training was of meta/Llama-3-8B, the base here is org/Qwen3-8B"),
        ({"template": "llama3"}, {}, "but the chat template writes no '<|start_header_id|>user<|end_header_id|>': pass "
         "--template llama-3"),
        ({"template": "qwen3_nothink", "thinks": False}, {"lets_think": True},
         "trained without thoughts (template qwen3_nothink), but the chat template lets the model think in llama.cpp "
         "and Ollama: pass --thinking off"),
        ({"thinks": True}, {"thinking": "off"}, "trained with thoughts (enable_thinking), but --thinking off is given"),
        ({"system": "Be Kit."}, {}, "trained with the system prompt 'Be Kit.', none is given: pass --system 'Be Kit.'"),
        ({"system": "Be Kit."}, {"system": "Be."}, "another one is given: pass --system 'Be Kit.'"),
        ({"scaling": "linear", "length": 4000}, {}, "trained with rope scaling linear, the files have none: pass "
         "--rope-scaling linear:2"),
        ({"scaling": "yarn", "factor": 4.0}, {"scaling": "linear"}, "files have linear: pass --rope-scaling yarn:4"),
        ({"scaling": "dynamic", "factor": 2.0}, {}, "llama.cpp has no such scaling beyond 2048 tokens"),
        ({"length": 5000}, {}, "up to 5000 tokens, but the context is 2048: if it was stretched, pass --rope-scaling "
         "linear:3 or yarn:3"),
    ],
)  # fmt: skip
def test_contradictions(said: dict[str, Any], built: dict[str, Any], note: str) -> None:
    training = replace(Training("a/args.json", "Qwen/Qwen3-8B"), **said)
    (found,) = training_notes([training], replace(BUILT, **built))
    assert found.startswith("a/args.json: ")
    assert note in found


def test_what_mends_a_contradiction_silences_it() -> None:
    training = Training("args.json", "Qwen3-8B", "qwen3", system="Be Kit.", length=4096, scaling="linear")
    assert len(training_notes([training], BUILT)) == 2
    assert training_notes([training], replace(BUILT, system="Be Kit.", context=4096, scaling="linear")) == []


def test_thoughts() -> None:
    with_thoughts, without = (Training("a", "b", thinks=thinks) for thinks in (True, False))
    assert without_thoughts([]) is without_thoughts([Training("a", "b")]) is None
    assert without_thoughts([without]) is True
    assert without_thoughts([with_thoughts, without]) is False


def test_the_formats_exist() -> None:
    assert set(_FORMATS.values()) <= set(FORMAT_NAMES)


def test_the_state_of_a_training(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-9"
    read(folder, trainer_state={"global_step": 9, "best_model_checkpoint": "C:\\out\\checkpoint-5"})
    assert state_notes([folder]) == [
        "checkpoint-9/trainer_state.json: the best checkpoint of the training was checkpoint-5, this is checkpoint-9"
    ]
    read(folder, trainer_state={"global_step": 9, "best_model_checkpoint": "out/checkpoint-9"})
    assert state_notes([folder, tmp_path]) == []
    read(folder, trainer_state={"global_step": 0})
    assert state_notes([folder]) == ["checkpoint-9/trainer_state.json: the training made no step, so it taught nothing"]
    read(folder, trainer_state="{")
    assert state_notes([folder])[0].startswith("checkpoint-9/trainer_state.json: cannot be read")


def test_a_build_says_so(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    tuned = Path(shutil.copytree(adapter("q-and-v"), tmp_path / "tuned"))
    base = checkpoint("llama3-untied", dtype="f32")
    (tuned / "args.json").write_text(json.dumps({**SWIFT, "system": "Be Kit."}), encoding="utf-8")
    with prepare(Recipe(base, (tuned,))) as prepared:
        said = [note for note in prepared.plan.notes if note.startswith("tuned/args.json: ")]
    assert [note.split(": ", 1)[1].split(" ")[0] for note in said] == ["the", "trained", "trained"]
    (tuned / "args.json").rename(tmp_path / "args.json")
    with prepare(Recipe(base, (tuned,))) as prepared:
        assert not [note for note in prepared.plan.notes if "args.json" in note]
