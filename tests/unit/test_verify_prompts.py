"""Prompts of a GGUF file against those of the tokenizer and template it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import ADDED, BOS, EOT, LLAMA_3, Tiny, write_tiny_gguf, write_tokenizer

from quantkit.chat_template.process import TemplateLimitError
from quantkit.errors import VocabularyError
from quantkit.files.json_file import read_json
from quantkit.run.session import ChatModel
from quantkit.system.progress import Reporter
from quantkit.verify import prompts
from quantkit.verify.conversations import CONVERSATIONS
from quantkit.verify.encoders import open_encoder
from quantkit.verify.expected import Expected, read_expected
from quantkit.verify.origin import Origin, open_origin
from quantkit.verify.process import STEPS, Request, check_file, checking
from quantkit.verify.prompts import check_prompts, check_stops, expect
from quantkit.verify.report import Check
from quantkit.vocab.phi3_name import known_name

NO_BOS = LLAMA_3.removeprefix("{{ bos_token }}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + LLAMA_3
DATED = LLAMA_3.replace(
    "{% for", "{{ strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' }}{% for", 1
)


def origin(folder: Path, template: str | None = LLAMA_3, **config: Any) -> Origin:
    """What the tiny model's checkpoint would have beside its weights."""
    named = {"bos_token": BOS, "eos_token": {"content": "<|end_of_text|>"}, **config}
    if template is not None:
        named["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    write_tokenizer(folder / "tokenizer.json")
    return open_origin(folder, template=True)


class Recorder(Reporter):
    """Keeps how far each phase came."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: dict[str, tuple[int, int]] = {}

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        self.phases[name] = (0, total)

        def advance(amount: int) -> None:
            self.phases[name] = (self.phases[name][0] + amount, total)

        yield advance


def test_the_progress_comes_to_its_end(tmp_path: Path) -> None:
    recorder, source = Recorder(), origin(tmp_path)
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    result = check_file(Request(gguf, threads=1, stops=(EOT,), origin=source), recorder, checking(2, 3))
    assert result.compared
    assert all(check.passed for check in result.smoke.checks), result.smoke.checks
    assert recorder.phases == {"checking 2 of 3 files": (STEPS, STEPS)}
    assert checking(1, 1) == "checking"


def flag(tokenizer: Path, token: str, **flags: bool) -> None:
    content = read_json(tokenizer)
    (entry,) = (entry for entry in content["added_tokens"] if entry["content"] == token)
    entry.update(flags)
    tokenizer.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def loaded(folder: Path, tiny: Tiny | None = None) -> Iterator[ChatModel]:
    with ChatModel.load(write_tiny_gguf(folder / "tiny.gguf", tiny), n_gpu_layers=0, n_ctx=64, threads=1) as model:
        yield model


def checks(folder: Path, source: Origin, tiny: Tiny | None = None, system: str | None = None) -> dict[str, Check]:
    with loaded(folder, tiny) as model:
        expected = expect(source, open_encoder(source.tokenizer), model, system)
        return {check.name: check for check in check_prompts(model, expected, "tokenizer.json")}


def failed(found: Mapping[str, Check]) -> list[str]:
    return [name for name, check in found.items() if not check.passed]


def test_prompts_agree(tmp_path: Path) -> None:
    found = checks(tmp_path, origin(tmp_path), system="你是一个助手。")
    assert failed(found) == []
    assert found["prompt token ids"].evidence == f"{len(CONVERSATIONS) + 1} prompts"
    assert found["prompt BOS"].figure == "1"


def test_the_expected_ids_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    source = origin(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(source.tokenizer), bos_token=BOS, eos_token="<|end_of_text|>")
    theirs.chat_template = LLAMA_3
    with loaded(tmp_path) as model:
        expected = expect(source, open_encoder(source.tokenizer), model, "Be brief.")
    assert len(expected) == len(CONVERSATIONS) + 1
    for one in expected:
        ids = theirs.apply_chat_template(list(one.messages), add_generation_prompt=True, return_dict=False)
        assert list(one.ids) == ids, one.name


def test_a_doubled_bos(tmp_path: Path) -> None:
    doubled = "{{ bos_token }}" + LLAMA_3
    found = checks(tmp_path, origin(tmp_path, doubled), Tiny(template=doubled))
    assert failed(found) == ["prompt BOS"]
    assert found["prompt BOS"].figure == "2"
    assert found["prompt BOS"].evidence.startswith("a question: 2")


def test_a_template_that_is_not_the_models(tmp_path: Path) -> None:
    other = LLAMA_3.replace("assistant<|end_header_id|>\n\n", "assistant<|end_header_id|>\n")
    assert other != LLAMA_3
    found = checks(tmp_path, origin(tmp_path), Tiny(template=other))
    assert failed(found) == ["prompt token ids"]
    assert found["prompt token ids"].evidence.startswith("a question: '<|begin_of_text|>")


def test_a_template_that_does_not_trim(tmp_path: Path) -> None:
    """The same prompts but where contents are padded."""
    found = checks(tmp_path, origin(tmp_path), Tiny(template=LLAMA_3.replace(" | trim", "")))
    assert failed(found) == ["prompt token ids"]
    assert found["prompt token ids"].evidence.startswith("blanks around contents: ")


def test_a_special_token_that_is_plain_text_in_the_file(tmp_path: Path) -> None:
    found = checks(tmp_path, origin(tmp_path), Tiny(plain=("<|start_header_id|>",)))
    assert failed(found) == ["prompt token ids"]


def test_a_bos_that_only_llama_cpp_writes_is_said(tmp_path: Path) -> None:
    found = checks(tmp_path, origin(tmp_path, NO_BOS), Tiny(template=NO_BOS))
    assert failed(found) == []
    assert f"llama.cpp adds BOS ({BOS}) to {len(CONVERSATIONS)} of them" in found["prompt token ids"].evidence
    assert found["prompt BOS"].threshold == "exactly 1, first"


def test_a_model_without_bos(tmp_path: Path) -> None:
    found = checks(tmp_path, origin(tmp_path, NO_BOS, bos_token=None), Tiny(template=NO_BOS, add_bos=False))
    assert failed(found) == []
    assert (found["prompt BOS"].figure, found["prompt BOS"].threshold) == ("0", "at most 1, first")


def test_a_bos_that_the_tokenizer_has_not(tmp_path: Path) -> None:
    """The template writes ``bos_token``; for transformers that is nothing, for llama.cpp it is the file's token."""
    found = checks(tmp_path, origin(tmp_path, bos_token=None), Tiny(add_bos=False))
    assert failed(found) == ["prompt token ids"]


def test_special_tokens_that_no_file_speaks_of_are_those_of_the_gguf(tmp_path: Path) -> None:
    source = origin(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert failed(checks(tmp_path, source)) == []


def test_a_template_that_refuses_a_system_prompt(tmp_path: Path) -> None:
    found = checks(tmp_path, origin(tmp_path, NO_SYSTEM), Tiny(template=NO_SYSTEM))
    assert failed(found) == []
    assert "the template rejects a system prompt, an empty system prompt, Chinese" in found["prompt token ids"].evidence
    for theirs, ours in ((NO_SYSTEM, LLAMA_3), (LLAMA_3, NO_SYSTEM)):
        found = checks(tmp_path, origin(tmp_path, theirs), Tiny(template=ours))
        assert failed(found) == ["prompt token ids"]
        assert "rejects it" in found["prompt token ids"].evidence


def test_a_prompt_of_another_day(tmp_path: Path) -> None:
    with loaded(tmp_path, Tiny(template=DATED)) as model:
        source = origin(tmp_path, DATED)
        expected = expect(source, open_encoder(source.tokenizer), model, None)
        assert all("26 Jul 2024" in (one.text or "") for one in expected)
        assert all(check.passed for check in check_prompts(model, expected, "the build"))


def test_blanks_that_a_token_takes_in_beside_contents(tmp_path: Path) -> None:
    source = origin(tmp_path)
    flag(source.tokenizer, EOT, rstrip=True)
    found = checks(tmp_path, source)
    assert failed(found) == []
    assert found["prompt token ids"].evidence.endswith("special tokens in contents")


def test_line_ends_that_a_token_takes_in_in_every_prompt(tmp_path: Path) -> None:
    """As of Phi-3 under a name that llama.cpp does not know it by."""
    source = origin(tmp_path)
    flag(source.tokenizer, "<|end_header_id|>", rstrip=True)
    found = checks(tmp_path, source)
    assert failed(found) == ["prompt token ids"]
    assert found["prompt token ids"].evidence.startswith("a question: ")


def test_ends_of_turns(tmp_path: Path) -> None:
    with loaded(tmp_path) as model:
        assert check_stops(model, [EOT, "<|end_of_text|>"]).passed
        for stop in ("<|done|>", "no token", *ADDED):  # a control token that ends nothing, and texts
            check = check_stops(model, [EOT, stop])
            assert (check.passed, check.figure) == (False, "1 of 2")


def test_what_a_build_keeps(tmp_path: Path) -> None:
    source = origin(tmp_path)
    flag(source.tokenizer, EOT, rstrip=True)
    with loaded(tmp_path) as model:
        expected = expect(source, open_encoder(source.tokenizer), model, "Be brief.")
        kept = json.loads(json.dumps([one.to_json() for one in expected]))
        assert read_expected(kept) == expected
        assert any(one.plain_ids is not None for one in expected)
        assert all(check.passed for check in check_prompts(model, read_expected(kept), "the build"))
        kept[0]["ids"] += " 1"
        check, _ = check_prompts(model, read_expected(kept), "the build")
        assert (check.passed, check.threshold) == (False, "the ids of the build in every prompt")


def test_ids_that_the_file_has_not(tmp_path: Path) -> None:
    """llama.cpp would end the process when asked for their text."""
    source = origin(tmp_path)
    with loaded(tmp_path) as model:
        expected = expect(source, open_encoder(source.tokenizer), model, None)
        kept = [one.to_json() for one in expected]
        for token in ("99999999", "-1", "9" * 40):
            kept[0]["ids"] = token
            check, _ = check_prompts(model, read_expected(kept), "the build")
            assert (check.passed, check.figure) == (False, "differ")
            assert f"expected {token} (not in the file)" in check.evidence


@pytest.mark.parametrize(
    "broken",
    [
        [1],
        [{}],
        [{"name": "x", "messages": 3}],
        "text",
        [{"name": "x", "messages": [], "text": 3, "ids": "1", "plain_ids": None}],
    ],
)
def test_what_a_build_kept_and_somebody_broke(broken: Any) -> None:
    with pytest.raises(VocabularyError, match=r"report\.json are damaged") as refused:
        read_expected(broken)
    assert "--source" in refused.value.hint


def test_a_refusal_is_kept() -> None:
    refused = Expected("x", ({"role": "system", "content": "y"},), None)
    assert Expected.from_json(refused.to_json()) == refused


def test_an_origin_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="does not contain a tokenizer"):
        open_origin(tmp_path, template=True)


def test_phi_3_has_its_name(tmp_path: Path) -> None:
    source = origin(tmp_path)
    assert known_name("my model", "phi3", tmp_path) == "my model"  # its tokens take nothing in
    flag(source.tokenizer, EOT, rstrip=True)
    assert known_name("my model", "phi3", tmp_path) == "my model (phi-3)"
    assert known_name("My-Phi-3.5", "phi3", tmp_path) == "My-Phi-3.5"
    assert known_name("my model", "llama", tmp_path) == "my model"
    flag(source.tokenizer, EOT, lstrip=True)
    assert known_name("my model", "phi3", tmp_path) == "my model"  # Phi-4
    source.tokenizer.unlink()
    assert known_name("my model", "phi3", tmp_path) == "my model"
    entries = {"5": {"content": "<|end|>", "rstrip": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}), encoding="utf-8")
    assert known_name("my model", "phi3", tmp_path) == "my model (phi-3)"


def test_a_template_that_is_stopped_is_no_refusal_of_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stopped(template: str, messages: object, **options: object) -> str:
        asked.append(messages)
        raise TemplateLimitError("the chat template takes more than 3 s of processor time")

    monkeypatch.setattr(prompts, "render_undated", stopped)
    with pytest.raises(TemplateLimitError):
        prompts._render("{{ 1 }}", [{"role": "user", "content": "hi"}], "", "")
    assert len(asked) == 1
