"""Continuations of texts, several answers, probabilities, biases and grammars: what a request can ask of an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types.completion_create_params import CompletionCreateParamsBase
from tiny_gguf import ANSWER, BOS, EOT, Tiny, vocabulary, write_tiny_gguf

from quantkit.errors import ContextFullError
from quantkit.run.grammar_check import LONGEST, check_grammar
from quantkit.run.logprobs import Scores, score
from quantkit.run.options import MOST_SEED, GrammarError
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.run.text_prompt import EmptyPromptError, continued_tokens
from quantkit.serve.answer_fields import IGNORED, MOST_ANSWERS
from quantkit.serve.errors import RequestError
from quantkit.serve.logprobs import chat_logprobs, text_logprobs
from quantkit.serve.text_request import DEFAULT_LIMIT, UNSUPPORTED, TextBody, TextRequest, read_text_request
from tests.support.manifests import put_manifest
from tests.support.served import Answer, Server, running_server

TOKENS = vocabulary()
GAP = {"fim_pre": "<tool>", "fim_suf": "<think>", "fim_mid": "</think>"}
WILD = {"temperature": 50.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a stop sequence, which belongs to its chats, and with tokens for filling a gap."""
    folder = tmp_path_factory.mktemp("tiny")
    ids = {f"tokenizer.ggml.{name}_token_id": token for name, token in GAP.items()}
    write_tiny_gguf(folder / "tiny.gguf", Tiny(ids=ids))
    put_manifest(folder, "tiny.gguf", parameters={"temperature": "0"}, stops=("!",))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running_server(folder / "log.txt", folder, "--param", "num_thread=1") as server:
        yield server


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[ChatModel]:
    with ChatModel.load(folder / "tiny.gguf", threads=1) as model:
        yield model


def continue_(server: Server, prompt: object, **parameters: Any) -> Answer:
    return server.request("POST", "/v1/completions", {"prompt": prompt, **parameters})


def texts(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    assert [choice["index"] for choice in answer.json["choices"]] == list(range(len(answer.json["choices"])))
    return [choice["text"] for choice in answer.json["choices"]]


# -- continuations ----------------------------------------------------------------------------------------------------


def test_a_text_is_continued_as_it_is(server: Server, model: ChatModel) -> None:
    prompt = "x\n\n"
    answer = continue_(server, prompt)
    assert texts(answer) == [ANSWER], "the package's stop sequence belongs to its chat format"
    assert answer.json["object"] == "text_completion"
    assert answer.json["choices"][0]["finish_reason"] == "stop"
    tokens = model.text_tokens(prompt)
    assert tokens[0] == TOKENS.index(BOS)
    assert answer.json["usage"]["prompt_tokens"] == len(tokens)
    assert texts(continue_(server, tokens)) == [ANSWER], "tokens are taken as they are"
    assert continue_(server, tokens[1:]).json["usage"]["prompt_tokens"] == len(tokens) - 1
    assert texts(server.request("POST", "/completions", {"prompt": prompt})) == [ANSWER]


def test_several_prompts_and_answers(server: Server, model: ChatModel) -> None:
    one, other = (texts(continue_(server, prompt, max_tokens=2))[0] for prompt in ("a\n\n", "H"))
    assert (one, other) == ("Hi", "i ")
    answer = continue_(server, ["a\n\n", "H"], n=2, max_tokens=2)
    assert texts(answer) == [one, one, other, other]
    counts = [len(model.text_tokens(prompt)) for prompt in ("a\n\n", "H")]
    assert answer.json["usage"]["prompt_tokens"] == sum(counts), "a prompt counts once"
    assert answer.json["usage"]["completion_tokens"] == 8
    lists = [model.text_tokens("a\n\n"), model.text_tokens("H")]
    assert texts(continue_(server, lists, max_tokens=2)) == [one, other]


@pytest.mark.parametrize("stream", [False, True])
def test_how_a_continuation_ends(server: Server, stream: bool) -> None:
    def ends(**parameters: Any) -> tuple[str, str]:
        answer = continue_(server, "a\n\n", stream=stream, **parameters)
        if not stream:
            (choice,) = answer.json["choices"]
            return choice["text"], choice["finish_reason"]
        assert answer.events[-1] == "[DONE]"
        assert {event["object"] for event in answer.events[:-1]} == {"text_completion"}
        choices = [event["choices"][0] for event in answer.events[:-1]]
        return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]

    assert ends() == (ANSWER, "stop")
    assert ends(stop=["🙂"]) == ("Hi ", "stop")
    assert ends(max_tokens=2) == ("Hi", "length")
    assert ends(max_tokens=0) == ("", "length")
    assert ends(max_tokens=2, echo=True) == ("a\n\nHi", "length")
    unending = {"logit_bias": {str(TOKENS.index(EOT)): -100}}
    endless = continue_(server, "a\n\n", **unending)
    assert endless.json["usage"]["completion_tokens"] == DEFAULT_LIMIT
    usage = continue_(server, "a\n\n", stream=True, stream_options={"include_usage": True}).events[-2]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], len(ANSWER.encode()))


def test_the_prompt_of_tokens_is_echoed_as_text(server: Server, model: ChatModel) -> None:
    tokens = [*model.tokenize("你\n\n"), TOKENS.index(EOT)]
    assert texts(continue_(server, tokens, echo=True, max_tokens=0)) == ["你\n\n<|eot_id|>"]


def test_a_gap_is_filled(server: Server, model: ChatModel, tmp_path: Path) -> None:
    before, behind, middle = (TOKENS.index(token) for token in GAP.values())
    tokens = continued_tokens(model, "he", f"ll{EOT}")
    plain = [TOKENS.index("ll"), *map(TOKENS.index, "<|eot_id|>")]
    assert tokens == [TOKENS.index(BOS), before, TOKENS.index("he"), behind, *plain, middle]
    assert continue_(server, "he", suffix="ll", max_tokens=1).json["usage"]["prompt_tokens"] == 6
    with pytest.raises(RequestError, match=r"^suffix is not supported: this model has no tokens") as caught:
        read(suffix="x", fills=False)
    assert caught.value.param == "suffix"
    with pytest.raises(ContextFullError):
        continued_tokens(model, "字" * 10**6, "x")
    with pytest.raises(EmptyPromptError):
        continued_tokens(model, ())


def read(*, fills: bool = True, settings: Settings | None = None, **body: Any) -> TextRequest:
    data = json.dumps({"prompt": "x", **body}).encode()
    return read_text_request(
        data, settings=settings or Settings({}), note=pytest.fail, n_vocab=len(TOKENS), fills=fills
    )


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"prompt": []}, "prompt", "^prompt is empty"),
        ({"prompt": [[]]}, "prompt", "^prompt is empty"),
        ({"prompt": None}, "prompt", "^prompt must be a text, a list of tokens, or a list of either"),
        ({"prompt": ["x", 1]}, "prompt", "^prompt must be a text"),
        ({"prompt": [-1]}, "prompt", "^prompt: tokens must be from 0 to"),
        ({"prompt": [[10**6]]}, "prompt", "^prompt: tokens must be from 0 to"),
        ({"prompt": ["x"] * 9, "n": 8}, None, "asks for 72 answers; at most 64"),
        ({"n": MOST_ANSWERS + 1}, "n", "^n must be less than or equal to 64"),
        ({"n": 0}, "n", "^n must be greater than"),
        ({"logprobs": 21}, "logprobs", "^logprobs must be less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "^logprobs must be a valid integer"),
        ({"echo": True, "logprobs": 0}, "echo", "^echo is not supported together with logprobs"),
        ({"max_tokens": -2}, "max_tokens", "^max_tokens must be at least 0"),
        ({"best_of": 2}, "best_of", "^best_of is not supported"),
        ({"messages": [{}]}, "messages", "^messages is not supported"),
        ({"grammar": "x", "response_format": {"type": "json_object"}}, "grammar", "^grammar is not supported together"),
        ({"grammar": "x", "json_schema": {}}, "grammar", "^grammar is not supported together with json_schema"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a.[key]", "^logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "^logit_bias.1 must be less than or equal to 100"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "^logit_bias has token 99999; they go from 0 to"),
    ],
)
def test_what_is_no_request_for_a_continuation(body: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(**body)
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_what_a_continuation_takes_from_the_package() -> None:
    package = Settings({"top_k": 3}, max_tokens=9, stops=("END",), told={"enable_thinking": False})
    (prompt,) = read(settings=package, stop="x").prompts
    assert prompt.settings == Settings({"top_k": 3}, max_tokens=9, stops=("x",))
    assert read(settings=package, max_tokens=-1).prompts[0].settings.max_tokens is None


def test_every_parameter_of_openais_continuation_is_known() -> None:
    known = {*TextBody.model_fields, *UNSUPPORTED, *IGNORED}
    assert set(CompletionCreateParamsBase.__annotations__) <= known


# -- several answers --------------------------------------------------------------------------------------------------


def said(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [choice["message"]["content"] for choice in answer.json["choices"]]


def test_several_answers_have_the_next_seeds(server: Server) -> None:
    together = said(server.chat("hello", n=3, seed=7, **WILD))
    assert together == [said(server.chat("hello", seed=seed, **WILD))[0] for seed in (7, 8, 9)]
    assert len(set(together)) == 3
    edge = Settings({"seed": MOST_SEED})
    assert [edge.for_answer(index).sampling["seed"] for index in (0, 1)] == [MOST_SEED, 0]
    assert Settings({"seed": None}).for_answer(1) == Settings({"seed": None})


def test_a_stream_of_several_answers(server: Server) -> None:
    whole = said(server.chat("hello", n=2, seed=7, **WILD))
    events = server.chat("hello", n=2, seed=7, stream=True, stream_options={"include_usage": True}, **WILD).events
    found = ["", ""]
    for event in events[:-2]:
        (choice,) = event["choices"]
        found[choice["index"]] += choice["delta"].get("content", "")
    assert found == whole
    assert [event["choices"][0]["finish_reason"] for event in events[:-2] if event["choices"][0]["finish_reason"]] == [
        "length"
    ] * 2
    assert events[-2]["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_at_the_end_goes_on(server: Server, stream: bool) -> None:
    """As it does in llama.cpp's server; half a character at its end is made anew."""

    def content(*messages: str, **parameters: Any) -> str:
        answer = server.chat(*messages, stream=stream, **parameters)
        if not stream:
            return said(answer)[0]
        return "".join(event["choices"][0]["delta"].get("content", "") for event in answer.events[:-1])

    whole = content("hello")
    assert [whole[: len(cut)] + content("hello", cut) for cut in ("H", "Hi ", whole)] == [whole] * 3
    assert content("hello", "Hi \ufffd") == whole[3:]
    assert content("hello", "Hi ", continue_final_message=False) == whole, "another answer"
    refused = server.chat("hello", continue_final_message=True)
    assert (refused.status, refused.error["param"]) == (400, "continue_final_message")


# -- probabilities ----------------------------------------------------------------------------------------------------


def expected(model: ChatModel, prompt: list[int], answer: list[int]) -> list[np.ndarray]:
    """The logarithms of all probabilities behind the prompt and each token, computed from llama.cpp's logits alone."""
    found, lanes = [], model.engine.lanes
    for count in range(len(answer)):
        lane = lanes.begin([*prompt, *answer[:count]], reuse=False)
        while lane.pending:
            lanes.step([lane])
        logits = lanes.logits().astype(np.float64)
        lanes.end(lane)
        found.append(logits - np.logaddexp.reduce(logits))
    return found


@pytest.mark.parametrize("how", [{}, {"temperature": 2.0, "seed": 1, "top_k": 1}, {"repeat_penalty": 1.5}])
def test_logprobs_are_those_of_the_model_itself(server: Server, model: ChatModel, how: dict[str, Any]) -> None:
    """However the tokens are chosen from them."""
    answer = server.chat("hello", logprobs=True, top_logprobs=3, max_tokens=3, **how)
    content = answer.json["choices"][0]["logprobs"]["content"]
    tokens = [one["id"] for one in content]
    assert [TOKENS[token] for token in tokens] == ["H", "i", "Ġ"]
    prompt = model.prompt_tokens([{"role": "user", "content": "hello"}])
    for one, logprobs in zip(content, expected(model, prompt, tokens), strict=True):
        assert one["logprob"] == pytest.approx(logprobs[one["id"]], abs=1e-6)
        best = sorted(range(len(logprobs)), key=lambda token: (-logprobs[token], token))[:3]
        assert [other["id"] for other in one["top_logprobs"]] == best
        assert [other["logprob"] for other in one["top_logprobs"]] == pytest.approx(logprobs[best], abs=1e-6)
        assert bytes(one["bytes"]).decode() == one["token"]


@pytest.mark.parametrize("parameters", [{}, {"stop": "🙂"}, {"stop": ["i "]}, {"max_tokens": 5}, {"max_tokens": 4}])
def test_the_tokens_with_logprobs_are_the_answer(server: Server, parameters: dict[str, Any]) -> None:
    """Not those of a stop sequence, and all of a character that is spread over tokens; in a stream too."""
    (choice,) = server.chat("hello", logprobs=True, **parameters).json["choices"]
    content = choice["logprobs"]["content"]
    data = b"".join(bytes(one["bytes"]) for one in content)
    assert data.decode(errors="replace") == choice["message"]["content"]
    events = server.chat("hello", logprobs=True, stream=True, **parameters).events[:-1]
    chunks = [event["choices"][0]["logprobs"] for event in events]
    assert [one for chunk in chunks if chunk for one in chunk["content"]] == content
    assert "top_logprobs" in content[0]
    assert content[0]["top_logprobs"] == []


def test_logprobs_of_answers_beside_each_other(server: Server) -> None:
    """Each has its own, whatever shares its steps."""

    def scored(bans: str) -> list[Any]:
        bias = {bans: -100, str(TOKENS.index(EOT)): -100}  # long enough to meet others
        parameters = {"logit_bias": bias, "logprobs": True, "max_tokens": 150}
        return [
            (one["id"], pytest.approx(one["logprob"], abs=1e-4))
            for one in server.chat("hello", **parameters).json["choices"][0]["logprobs"]["content"]
        ]

    banned = [str(TOKENS.index(token)) for token in ("H", "i", "Ġ", "x")] * 2
    alone = [scored(bans) for bans in banned[:4]]
    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(scored, banned))
    assert [[one for one, _ in answer] for answer in beside] == [[one for one, _ in answer] for answer in alone] * 2
    for one, other in zip(beside, alone * 2, strict=True):
        assert [score.expected for _, score in one] == [score for _, score in other]


def test_logprobs_of_a_continuation(server: Server, model: ChatModel) -> None:
    (choice,) = continue_(server, "a\n\n", logprobs=2, max_tokens=4).json["choices"]
    found = choice["logprobs"]
    assert found["tokens"] == ["H", "i", " ", "bytes:\\xf0"]
    assert found["text_offset"] == [0, 1, 2, 3]
    (first, *_) = expected(model, model.text_tokens("a\n\n"), [0])
    best = np.argsort(-first, kind="stable")[:2]
    assert list(found["top_logprobs"][0].values()) == pytest.approx(first[best], abs=1e-6)
    assert found["token_logprobs"][0] == pytest.approx(first.max(), abs=1e-6)
    assert continue_(server, "a\n\n", max_tokens=1).json["choices"][0]["logprobs"] is None
    none = continue_(server, "a\n\n", max_tokens=1, logprobs=0).json["choices"][0]["logprobs"]
    assert none["top_logprobs"] == [{}]
    assert continue_(server, "a\n\n", max_tokens=0, logprobs=0).json["choices"][0]["logprobs"]["tokens"] == []


def test_probabilities_of_a_broken_model_are_json() -> None:
    for logits in (np.full(4, np.nan, np.float32), np.array([0, -np.inf, 3, -1e30], np.float32)):
        one = score(1, logits, 4, lambda token: b"\xff")
        for form in (chat_logprobs([one]), text_logprobs([one])):
            assert "Infinity" not in json.dumps(form)
            assert "NaN" not in json.dumps(form)
        assert chat_logprobs([one])["content"][0]["logprob"] == -9999.0


def test_probabilities_add_up_to_one() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=50).astype(np.float32) * 10
    one = score(7, logits, 50, bytes)
    assert sum(np.exp(other.logprob) for other in one.top) == pytest.approx(1, abs=1e-12)
    assert all(first.logprob >= second.logprob for first, second in pairwise(one.top))
    assert score(7, logits, 0, bytes).top == ()


def test_scores_wait_for_their_text() -> None:
    scores = Scores(0, bytes)
    for token, decoded, shown in ((1, "a", "a"), (2, "", ""), (3, "é", ""), (4, "b", "")):
        scores.add(token, np.zeros(9, np.float32))
        scores.decode(decoded)
        scores.show(shown)
    assert [one.id for one in scores.take()] == [1]
    scores.show("é")
    assert [one.id for one in scores.take()] == [2, 3]
    assert scores.take() == ()
    scores.end()
    assert [one.id for one in scores.take()] == [4]


# -- biases and grammars ----------------------------------------------------------------------------------------------


def test_biases(server: Server) -> None:
    i = TOKENS.index("i")
    assert said(server.chat("hello", max_tokens=3, logit_bias={str(i): 100})) == ["iii"]
    without = said(server.chat("hello", max_tokens=3, logit_bias={str(TOKENS.index("H")): -100}))
    assert "H" not in without[0]
    assert said(server.chat("hello", max_tokens=2, logit_bias={str(i): 0})) == ["Hi"]
    (choice,) = server.chat("hello", max_tokens=1, logit_bias={str(i): 100}, logprobs=True).json["choices"]
    assert choice["logprobs"]["content"][0]["logprob"] < -1, "of the model, not of the bias"


def test_an_answer_is_held_to_a_grammar(server: Server) -> None:
    grammar = 'root ::= "<" [a-c]{3} ">" | "你"'
    for answer in (
        said(server.chat("hello", grammar=grammar, max_tokens=8)),
        texts(continue_(server, "a\n\n", grammar=grammar, max_tokens=8)),
    ):
        assert answer == ["你"] or (answer[0][0] + answer[0][-1] == "<>" and set(answer[0][1:-1]) <= set("abc"))


HOSTILE = {
    "root ::= nothing": "not valid GBNF: Undefined rule identifier 'nothing'",
    'root ::= root "a"': "left recursion",
    'root ::= (("a"{1,900}){1,900}){1,900}': "exceeds sane defaults",
    "root ::= <none>": "invalid token '<none>'",
    'root ::= r\nr ::= "x" r a | "x" r b | "x"\na ::= "x"\nb ::= "x"': "cannot follow the grammar",
}


def test_a_broken_grammar_is_refused_in_the_parsers_words(server: Server) -> None:
    for grammar, message in HOSTILE.items():
        refused = server.chat("hello", grammar=grammar)
        assert (refused.status, refused.error["param"]) == (400, "grammar")
        assert message in refused.error["message"]
    assert said(server.chat("hello")) == [ANSWER[:-1]], "it goes on"


@pytest.mark.parametrize(
    "grammar",
    ["root ::= " + "(" * 101 + '"a"' + ")" * 101, 'root ::= "a"' + " " * LONGEST, 'root ::= "\0"'],
)
def test_a_grammar_that_is_not_even_read(grammar: str) -> None:
    with pytest.raises(GrammarError):
        check_grammar(grammar, Path("none"))
