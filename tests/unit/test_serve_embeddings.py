"""Embeddings: those of the checkpoint in transformers, whatever the length of the text and the form of the request."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_gguf import Tiny, vocabulary, write_tiny_gguf
from transformers import AutoModel

import quantkit
from quantkit.cli.serve import command as serve_command
from quantkit.demo.data import BASE
from quantkit.errors import ContextFullError, QuantkitError
from quantkit.run.embeddings import POOLINGS, Embedder, pooling_of
from quantkit.run.session import ChatModel
from tests.support.served import Answer, Server, running_server

TEXTS = ["Who are you?", "你好", "Tell me a story. " * 20]
FIRST = {"mean": lambda states: states.mean(0), "cls": lambda states: states[0], "last": lambda states: states[-1]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """A trained model."""
    path = quantkit.convert(BASE, tmp_path_factory.mktemp("embeddings") / "base.gguf", outtype="f32")
    with ChatModel.load(path, threads=1) as model:
        yield model


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_are_transformers_hidden_states(model: ChatModel, pooling: str) -> None:
    theirs = AutoModel.from_pretrained(BASE, dtype=torch.float32)
    embedder = Embedder(model, pooling)
    assert embedder.size == theirs.config.hidden_size
    for text in TEXTS:
        tokens = embedder.tokens(text)
        assert text != TEXTS[-1] or len(tokens) > 2 * embedder._room, "longer than a step"
        with torch.no_grad():
            states = theirs(torch.tensor([tokens])).last_hidden_state[0].double().numpy()
        expected = FIRST[pooling](states)
        found = embedder.embed(tokens)
        assert found is not None
        assert found.dtype == np.float32
        # llama.cpp keeps keys and values as float16.
        assert found == pytest.approx(expected / np.linalg.norm(expected), abs=2e-4)
    embedder.stop()
    assert embedder.embed(tokens) is None
    assert embedder.is_idle(1)


def test_what_the_file_adds_to_a_text(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(add_eos=True)), threads=1) as tiny:
        embedder = Embedder(tiny, "last")
        tokens = embedder.tokens("x")
        assert (tokens[0], tokens[-1], len(tokens)) == (tiny.engine.bos, tiny.engine.eos, 3)
        with pytest.raises(ContextFullError):
            embedder.embed([5] * (tiny.n_ctx + 1))
        with pytest.raises(ContextFullError):
            embedder.tokens("字" * 10**6)
        assert embedder.embed([5] * tiny.n_ctx) is not None


def test_numbers_of_a_broken_model(tmp_path: Path) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as tiny:
        embedder = Embedder(tiny, "last")
        embedder._pooled = lambda tokens: np.array([math.nan])  # type: ignore[method-assign]
        with pytest.raises(QuantkitError, match="not numbers"):
            embedder.embed([1])


@pytest.mark.parametrize(
    ("keys", "asked", "result"),
    [
        ({}, "mean", "mean"),
        ({"pooling_type": "0"}, "last", "last"),
        ({"pooling_type": "1"}, None, "mean"),
        ({"pooling_type": "2"}, None, "cls"),
        ({"pooling_type": "3"}, "last", "last"),
        ({}, None, "does not say how vectors are pooled"),
        ({"pooling_type": "3"}, "mean", "was made for last"),
        ({"pooling_type": "4"}, None, "pooling rank gives no embeddings"),
        ({"pooling_type": "9"}, None, "pooling 9 gives no embeddings"),
        ({"pooling_type": "1", "attention.causal": "false"}, None, "its tokens see those behind them"),
    ],
)
def test_how_vectors_are_pooled(keys: dict[str, str], asked: str | None, result: str) -> None:
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in keys.items()}}
    model: Any = SimpleNamespace(path=Path("m.gguf"), engine=SimpleNamespace(metadata=metadata.get))
    if result in POOLINGS:
        assert pooling_of(model, asked) == result
        return
    with pytest.raises(QuantkitError, match=result) as caught:
        pooling_of(model, asked)
    assert caught.value.hint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tiny")
    path = write_tiny_gguf(folder / "tiny.gguf", Tiny(ids={"llama.pooling_type": vocabulary()[3]}))
    with running_server(folder / "log.txt", path, "--embeddings") as server:
        yield server


def embed(server: Server, given: object, **parameters: Any) -> Answer:
    return server.request("POST", "/v1/embeddings", {"input": given, **parameters})


def test_the_forms_of_a_request(server: Server) -> None:
    answer = embed(server, ["x", "y", "x"])
    assert answer.status == 200, answer.body
    assert [one["index"] for one in answer.json["data"]] == [0, 1, 2]
    vectors = [one["embedding"] for one in answer.json["data"]]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1])
    assert vectors[0] == vectors[2] != vectors[1]
    assert answer.json["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    tokens = server.request("POST", "/tokenize", {"content": "x", "add_special": True}).json["tokens"]
    for given in ("x", tokens, [tokens]):
        assert embed(server, given).json["data"][0]["embedding"] == vectors[0]
    coded = embed(server, "x", encoding_format="base64", model="any", user="me", dimensions=len(vectors[0]))
    data = base64.b64decode(coded.json["data"][0]["embedding"])
    assert np.frombuffer(data, "<f4").tolist() == vectors[0]
    assert server.request("POST", "/embeddings", {"input": "x"}).status == 200
    assert server.chat("hello", temperature=0).status == 200


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "input is missing"),
        ({"input": []}, "input", "input is empty"),
        ({"input": [[]]}, "input", "input is empty"),
        ({"input": [1.5]}, "input", "input must be a text, a list of tokens, or a list of either"),
        ({"input": [10**6]}, "input", "input: tokens must be from 0 to"),
        ({"input": ["x"] * 2049}, "input", "input has 2049 texts; at most 2048"),
        ({"input": "x", "dimensions": 3}, "dimensions", "dimensions is not supported but for"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format", "encoding_format must be 'float' or 'base64'"),
        ({"input": "x", "truncate": True}, "truncate", "truncate is not supported"),
        ({"input": "字" * 600}, "input", "the context holds 512"),
    ],
)
def test_what_is_no_request_for_embeddings(server: Server, body: dict[str, Any], param: str, message: str) -> None:
    refused = server.request("POST", "/v1/embeddings", body)
    assert (refused.status, refused.error["param"]) == (400, param)
    assert message in refused.error["message"]


def test_pooling_has_no_effect_without_embeddings(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    result = CliRunner().invoke(serve_command, [str(tmp_path / "x.gguf"), "--pooling", "mean"])
    assert result.exit_code == 2
    assert "--pooling has no effect without --embeddings" in result.output
