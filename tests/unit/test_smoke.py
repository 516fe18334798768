"""The smoke test passes what chats and fails, by name, what does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_gguf import ADDED, ANSWER, EOT, LLAMA_3, SPECIAL, Tiny, write_tiny_gguf, write_tokenizer

from quantkit.cli.smoke import command
from quantkit.errors import QuantkitError, VerificationError, VocabularyError
from quantkit.run.session import ChatModel
from quantkit.system.child_process import ChildError
from quantkit.verify import process
from quantkit.verify.encoders import open_encoder
from quantkit.verify.report import Check, Report
from quantkit.verify.server_prompt import server_tokens
from quantkit.verify.smoke import smoke_test
from quantkit.verify.smoke_result import SmokeResult
from quantkit.verify.tokens import PROBES, compare_tokens
from tests.support.llama_tools import apply_template
from tests.support.manifests import put_manifest

DONE = LLAMA_3.replace(EOT, "<|done|>")


def smoke(tmp_path: Path, tiny: Tiny | None = None, **options) -> SmokeResult:
    return smoke_test(write_tiny_gguf(tmp_path / "tiny.gguf", tiny), threads=1, **options)


def failed(result: SmokeResult) -> list[str]:
    return [check.name for check in result.checks if not check.passed]


def check(result: SmokeResult, name: str) -> Check:
    return next(check for check in result.checks if check.name == name)


def test_a_model_that_chats(tmp_path: Path) -> None:
    result = smoke(tmp_path)
    assert failed(result) == []
    assert result.passed
    names = ["loads", "tokenizes", "chat template renders", "BOS", "prompt in llama-server", "special tokens"]
    names += ["end of turn", "logits finite", "generates", "stops by itself"]
    assert [check.name for check in result.checks] == names
    assert check(result, "special tokens").figure == "4 of 4"
    assert check(result, "end of turn").figure == EOT
    assert [answer.text for answer in result.answers] == [ANSWER]
    assert result.answers[0].ended == f"at {EOT} after {len(ANSWER.encode())} tokens"
    assert min(result.load_seconds, result.prompt_rate, result.generation_rate) > 0
    assert result.offloaded.startswith("0/2") or not result.offloaded.endswith("(CPU build)")


def test_questions_of_ones_own(tmp_path: Path) -> None:
    result = smoke(tmp_path, prompts=["one?", "二？"], system="Be brief.")
    assert result.passed
    assert [answer.prompt for answer in result.answers] == ["one?", "二？"]
    assert check(result, "stops by itself").figure == "2 of 2"
    assert "Be brief." in check(result, "chat template renders").evidence


def test_rambling_is_reported_and_no_failure(tmp_path: Path) -> None:
    result = smoke(tmp_path, Tiny(stop=""), max_tokens=20)
    assert result.passed
    assert check(result, "stops by itself").figure == "0 of 1"
    assert result.answers[0].ended == "at the limit of 20 tokens"


def test_a_file_that_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF and nothing more")
    result = smoke_test(path)
    assert failed(result) == ["loads"]
    assert str(path) in result.checks[0].evidence


@pytest.mark.parametrize("template", [None, "{{ messages[0]", "{{ raise_exception('no') }}"])
def test_a_template_that_does_not_render(tmp_path: Path, template: str | None) -> None:
    assert failed(smoke(tmp_path, Tiny(template=template))) == ["chat template renders"]


def test_a_doubled_bos(tmp_path: Path) -> None:
    result = smoke(tmp_path, Tiny(template="{{ bos_token }}" + LLAMA_3))
    assert failed(result) == ["BOS"]
    assert check(result, "BOS").figure == "2"


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_bos_after_every_message_is_the_templates_own(tmp_path: Path, add_bos: bool) -> None:
    template = LLAMA_3.replace("{% endfor %}", "{{ bos_token }}{% endfor %}")
    assert template != LLAMA_3
    bos = check(smoke(tmp_path, Tiny(template=template, add_bos=add_bos)), "BOS")
    assert (bos.passed, bos.figure) == (True, "1")


def test_a_bos_that_the_file_does_not_ask_for(tmp_path: Path) -> None:
    assert smoke(tmp_path, Tiny(add_bos=False)).passed
    without = Tiny(add_bos=False, template=LLAMA_3.removeprefix("{{ bos_token }}"))
    assert check(smoke(tmp_path, without), "BOS").figure == "0"


def test_an_eos_that_llama_cpp_appends_to_the_prompt(tmp_path: Path) -> None:
    """quantkit's own chat never sees it: what a trainer saved makes other programs end every prompt with EOS."""
    result = smoke(tmp_path, Tiny(add_eos=True))
    assert failed(result) == ["prompt in llama-server"]
    assert result.answers[0].text == ANSWER
    evidence = check(result, "prompt in llama-server").evidence
    assert "append '<|end_of_text|>' to the prompt" in evidence
    assert "tokenizer.ggml.add_eos_token is true" in evidence


@pytest.mark.parametrize("add_eos", [True, False])
@pytest.mark.parametrize("ending", ["", "{{ eos_token }}"])
def test_the_prompt_is_llama_servers(tmp_path: Path, add_eos: bool, ending: str) -> None:
    gguf = write_tiny_gguf(tmp_path / "it.gguf", Tiny(add_eos=add_eos, template=LLAMA_3 + ending))
    talk = [{"role": "user", "content": "Hi 你好"}]
    (rendered,) = apply_template(gguf, [talk])
    with ChatModel.load(gguf, threads=1) as model:
        assert tuple(server_tokens(model, model.render(talk))) == rendered.tokens


def test_a_template_that_ends_with_eos_itself(tmp_path: Path) -> None:
    """llama-server removes the EOS that the tokenizer appends again, so there is one."""
    result = smoke(tmp_path, Tiny(add_eos=True, template=LLAMA_3 + "{{ eos_token }}"))
    assert check(result, "prompt in llama-server").passed


def test_an_end_of_turn_that_ends_nothing(tmp_path: Path) -> None:
    result = smoke(tmp_path, Tiny(template=DONE, stop="<|done|>"))
    assert failed(result) == ["end of turn"]
    assert check(result, "end of turn").figure == "<|done|>"


def test_what_opens_the_next_question_may_end_an_answer(tmp_path: Path) -> None:
    """As GLM's templates have it: they write nothing after an answer."""
    bare = LLAMA_3.replace(EOT, "")
    opened = bare.replace(
        "<|start_header_id|>{{", f"{{{{ '{EOT}' if message['role'] == 'user' }}}}<|start_header_id|>{{{{"
    )
    assert len({LLAMA_3, bare, opened}) == 3
    found = check(smoke(tmp_path, Tiny(template=opened)), "end of turn")
    assert (found.passed, found.figure) == (True, EOT)
    assert found.evidence.startswith("the question after an answer opens behind ''; ")
    assert failed(smoke(tmp_path, Tiny(template=bare))) == ["end of turn"]


def test_a_special_token_that_falls_apart(tmp_path: Path) -> None:
    result = smoke(tmp_path, Tiny(template=DONE, plain=("<|done|>",)))
    assert failed(result) == ["special tokens", "end of turn"]
    assert "<|done|>" in check(result, "special tokens").evidence


def test_nothing_behind_an_answer(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:\n\n"
    result = smoke(tmp_path, Tiny(template=template))
    assert failed(result) == ["end of turn"]


def test_a_stop_written_as_text(tmp_path: Path) -> None:
    # Said letter by letter, the end of a turn is text that a user sees.
    result = smoke(tmp_path, Tiny(answer="Hi <eos>", eos="<eos>", spelled=("<eos>",)))
    assert failed(result) == ["stops by itself"]
    assert check(result, "stops by itself").evidence.startswith("written as text instead of ending the answer: <eos>")


def test_nan(tmp_path: Path) -> None:
    result = smoke(tmp_path, Tiny(broken=True))
    assert "logits finite" in failed(result)


def test_a_prompt_longer_than_the_context(tmp_path: Path) -> None:
    result = smoke(tmp_path, prompts=["long " * 300])
    assert failed(result) == ["generates"]
    assert "the context holds 512" in check(result, "generates").evidence


def test_json(tmp_path: Path) -> None:
    content = json.loads(json.dumps(smoke(tmp_path).to_json()))
    assert content["schema"] == 1
    assert content["passed"] is True
    assert content["answers"][0]["text"] == ANSWER
    assert content["checks"][0]["name"] == "loads"
    assert content["generation_tokens_per_second"] > 0


def test_a_report() -> None:
    good, bad = Check("a", True, "1", "1", "seen"), Check("b", False, "2", "1", "seen")
    assert Report((good,)).passed
    assert not Report((good, bad)).passed
    assert Report((bad,)).to_json() == {
        "schema": 1,
        "passed": False,
        "checks": [{"name": "b", "passed": False, "figure": "2", "threshold": "1", "evidence": "seen"}],
        "runs": {},
        "not_made": [],
    }


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_token_ids_agree(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf")) as model:
        result = compare_tokens(model, open_encoder(tokenizer), tokenizer.name)
    assert result.passed, result.evidence
    assert f"{len(PROBES) + len(SPECIAL + ADDED)} texts" in result.evidence
    assert "decomposed" not in result.evidence


def test_what_llama_cpp_cannot_compose_is_said(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json", normalizer="NFC")
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf")) as model:
        result = compare_tokens(model, open_encoder(tokenizer), tokenizer.name)
    assert result.passed
    assert "decomposed" in result.evidence


def test_a_missing_merge_is_found(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    content["model"]["merges"].remove(["ä", "½"])
    content["model"]["ignore_merges"] = False
    tokenizer.write_text(json.dumps(content), encoding="utf-8")
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf")) as model:
        result = compare_tokens(model, open_encoder(tokenizer), tokenizer.name)
    assert not result.passed
    assert "你好" in result.evidence


def test_an_added_token_that_is_plain_text_in_the_file_is_found(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(plain=("<|done|>",)))) as model:
        result = compare_tokens(model, open_encoder(tokenizer), tokenizer.name)
    assert not result.passed
    assert "<|done|>" in result.evidence


@pytest.mark.parametrize("content", ["{", "[]", '{"version": "1.0"}', '{"model": {"type": "BPE"}}', "[" * 100_000])
def test_what_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    for file in (path, tmp_path / "none.json"):
        with pytest.raises(VocabularyError, match=re.escape(str(file))):
            open_encoder(file)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    result = CliRunner().invoke(command, [str(path), "--prompt", "你好"])
    assert result.exit_code == 0
    assert f">>> 你好\n  {ANSWER}\n" in result.output
    assert "tokens/s" in result.output
    assert "runs on the CPU" in result.output
    assert "FAIL" not in result.output


def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    content = json.loads(CliRunner().invoke(command, [str(path), "--json"]).output)
    assert (content["schema"], content["passed"], len(content["models"])) == (1, True, 1)


def test_what_a_model_says_is_no_command_for_a_terminal(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(answer="Hi\x1b]0;t\x07\u202e"))
    shown = CliRunner().invoke(command, [str(path), "--prompt", "a\x1b[2J"]).output
    assert ">>> a␛[2J\n  Hi␛]0;t␇�\n" in shown


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_fails_after_printing(tmp_path: Path, options: list[str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=None))
    result = CliRunner().invoke(command, [str(path), *options])
    assert isinstance(result.exception, VerificationError)
    assert str(path) in str(result.exception)
    assert "chat template" in result.output


def test_what_is_refused_in_the_process_is_an_error_and_no_crash(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(write_tiny_gguf(tmp_path / "tiny.gguf")), "--prompt", "a\udcff"])
    assert isinstance(result.exception, QuantkitError)
    assert not isinstance(result.exception, VerificationError)
    assert "not valid Unicode" in str(result.exception)
    assert result.exception.hint == "pass it as UTF-8"


def test_a_crash_of_llama_cpp_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*question: object, **options: object) -> object:
        raise ChildError("signal SIGABRT", "GGML_ASSERT(n > 0) failed")

    monkeypatch.setattr(process, "follow_module", crash)
    result = CliRunner().invoke(command, [str(write_tiny_gguf(tmp_path / "tiny.gguf"))])
    assert isinstance(result.exception, VerificationError)
    assert "llama.cpp runs" in str(result.exception)
    assert "signal SIGABRT" in result.output
    assert "GGML_ASSERT(n > 0) failed" in result.output


def test_the_command_takes_every_model_of_a_folder(tmp_path: Path) -> None:
    names = ("m-q4_0.gguf", "m-q8_0.gguf")
    for name in names:
        write_tiny_gguf(tmp_path / name)
    put_manifest(tmp_path, *names, system="你好")
    content = json.loads(CliRunner().invoke(command, [str(tmp_path), "--json"]).output)
    assert [Path(model["gguf"]).name for model in content["models"]] == list(names)
    assert "你好" in content["models"][1]["checks"][2]["evidence"]
