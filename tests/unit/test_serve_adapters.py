"""Requests that choose LoRA files: each gets its own model's answer, whatever is asked before or beside it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import quantkit
from quantkit.demo.data import ADAPTER, BASE
from quantkit.gguf.lora import ScaledLora
from quantkit.run.answer import Answer
from quantkit.run.session import ChatModel
from quantkit.serve.turns import Place, Turn, Turns
from tests.support.patience import PATIENCE
from tests.support.served import Server, running_server

QUESTION = "Who are you?"
TOKENS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    quantkit.convert(BASE, made / "base.gguf")
    quantkit.convert_adapter(BASE, made / "kit.gguf", adapter=ADAPTER)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[ChatModel]:
    with ChatModel.load(folder / "base.gguf", threads=1, n_ctx=256, loras=[ScaledLora(folder / "kit.gguf")]) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(model: ChatModel) -> dict[float, str]:
    """The answer by the adapter's scale, each in a context that has seen nothing else."""
    return {scale: text(model, scale) for scale in (0.0, 1.0, 2.0)}


def asked(model: ChatModel, scale: float, question: str = QUESTION) -> Answer:
    return model.prepare([{"role": "user", "content": question}], max_tokens=TOKENS, loras=(scale,))


def text(model: ChatModel, scale: float) -> str:
    lanes = model.engine.open_lanes(1)
    found = ""
    for step in asked(model, scale).steps(lanes):
        if isinstance(step, str):
            found += step
        else:
            lanes.step([step])
    return found


def test_answers_at_a_time_with_different_adapters(model: ChatModel, expected: dict[float, str]) -> None:
    """More than there is room for, twice, so that all of them find prompts of the others."""
    assert len(set(expected.values())) == len(expected)
    assert "Kit" in expected[1.0]
    place = Place(model.engine.open_lanes(3))
    turns = Turns([place])
    for _ in range(2):
        found: list[tuple[float, list[Any], Event, Answer]] = []
        for scale in (1.0, 0.0, 1.0, 2.0, 0.0):
            parts: list[Any] = []
            ended, answer = Event(), asked(model, scale)
            found.append((scale, parts, ended, answer))
            turns.add(place, Turn(answer, parts.append, lambda error, ended=ended: ended.set(), lambda: True))
        for scale, parts, ended, _answer in found:
            assert ended.wait(PATIENCE)
            assert "".join(parts) == expected[scale]
    reused = [answer.stats.reused_tokens for *_, answer in found if answer.stats]
    assert len(reused) == 5
    assert all(reused)  # of its own kind, in the second round


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    options = ("--param", "temperature=0", "--param", f"num_predict={TOKENS}", "--param", "num_ctx=256")
    loras = (
        "--lora",
        folder / "kit.gguf",
        "--lora",
        f"{folder / 'kit.gguf'}:2",
        "--lora-init-without-apply",
        "--parallel",
        3,
    )
    with running_server(folder / "log.txt", folder / "base.gguf", *loras, *options) as running:
        yield running


def content(server: Server, **choice: Any) -> str:
    answer = server.chat(QUESTION, **choice)
    assert answer.status == 200, answer.body
    assert answer.json["model"] == (choice["model"] if choice.get("model") in ("kit", "kit-2") else "base")
    return str(answer.json["choices"][0]["message"]["content"])


def test_requests_choose(server: Server, expected: dict[float, str]) -> None:
    listed = [model["id"] for model in server.request("GET", "/v1/models").json["data"]]
    assert listed == ["base", "kit", "kit-2"]
    assert server.request("GET", "/v1/models/kit").json["parent"] == "base"
    choices: list[tuple[dict[str, Any], float]] = [
        ({}, 0.0),
        ({"model": "kit"}, 1.0),
        ({"model": "kit-2"}, 2.0),
        ({"lora": [{"id": 0, "scale": 2}]}, 2.0),
        ({"lora": [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 0.5}], "model": "base"}, 1.0),
        ({"lora": []}, 0.0),
    ]
    for choice, scale in choices * 2:
        assert content(server, **choice) == expected[scale], choice
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: content(server, **one[0]), choices))
    assert found == [expected[scale] for _, scale in choices]
    prompt = {"prompt": "Kit is", "max_tokens": 5, "cache_prompt": False}
    texts = [server.request("POST", "/v1/completions", {**prompt, "model": name}).json for name in ("base", "kit")]
    assert [one["model"] for one in texts] == ["base", "kit"]
    assert texts[0]["choices"][0]["text"] != texts[1]["choices"][0]["text"]


def test_what_counts_for_all(server: Server, expected: dict[float, str]) -> None:
    def scales() -> list[tuple[int, str, float]]:
        found = server.request("GET", "/lora-adapters").json
        return [(one["id"], one["path"], one["scale"]) for one in found]

    assert scales() == [(0, "kit.gguf", 0.0), (1, "kit.gguf", 0.0)]
    done = server.request("POST", "/lora-adapters", [{"id": 1, "scale": 1}])
    assert (done.status, done.json) == (200, {"success": True})
    assert scales() == [(0, "kit.gguf", 0.0), (1, "kit.gguf", 1.0)]
    assert content(server) == expected[1.0]
    assert content(server, lora=[]) == expected[0.0]
    if sys.platform == "linux":
        os.kill(server.working, signal.SIGKILL)
        assert content(server) == expected[1.0], "the server that is started then has them too"
    assert server.request("POST", "/lora-adapters", []).status == 200
    assert content(server) == expected[0.0]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"lora": [{"id": 2, "scale": 1}]}, "there is no adapter 2; they go from 0 to 1"),
        ({"lora": [{"id": 0, "scale": 1}, {"id": 0, "scale": 2}]}, "adapter 0 is there twice"),
        ({"lora": [{"id": 0, "scale": 1}], "model": "kit"}, "lora is not supported together with kit"),
        ({"lora": [{"id": -1, "scale": 1}]}, "lora"),
        ({"lora": [{"id": 0}]}, "lora"),
        ({"lora": {"id": 0, "scale": 1}}, "lora"),
    ],
)
def test_refused(server: Server, body: dict[str, Any], why: str) -> None:
    answer = server.chat(QUESTION, **body)
    assert answer.status == 400
    assert why in answer.error["message"]
    if "model" not in body:
        answer = server.request("POST", "/lora-adapters", body["lora"])
        assert answer.status == 400
        assert [one["scale"] for one in server.request("GET", "/lora-adapters").json] == [0.0, 0.0]
