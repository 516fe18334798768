"""Loading a GGUF file and answering with it, on a model whose answers are known beforehand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
from tiny_gguf import ANSWER, BOS, EOT, LLAMA_3, Tiny, vocabulary, write_tiny_gguf

from quantkit.errors import ChatFormatError, GGUFError, QuantkitError
from quantkit.gguf.model import read_whole_model
from quantkit.run import engine
from quantkit.run.interrupts import interrupts_deferred
from quantkit.run.load_log import count_offloaded, failure_reason
from quantkit.run.options import CHAT_TEMPERATURE, Sampling, chat_sampling
from quantkit.run.session import ChatModel
from quantkit.run.stop_strings import StopTexts
from tests.support.patience import PATIENCE

HELLO = [{"role": "user", "content": "hello"}]
TOKENS = vocabulary()


@pytest.fixture
def model(tmp_path: Path):
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        yield model


def load(tmp_path: Path, tiny: Tiny, **options) -> ChatModel:
    return ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf", tiny), threads=1, **options)


def test_an_adapter_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "a lora.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match=r"a lora\.gguf: this is an adapter's LoRA file") as caught:
        ChatModel.load(path)
    assert f"--lora '{path}'" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "said", "hint"), [("imatrix", "an importance matrix", "--imatrix"), ("mmproj", "an encoder", "language")]
)
def test_a_file_of_another_kind_is_no_model(tmp_path: Path, kind: str, said: str, hint: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.add_type(kind)
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match=rf"other\.gguf: this is {said}.*, not a model") as caught:
        read_whole_model(tmp_path / "other.gguf")
    assert hint in caught.value.hint


def test_facts_of_a_file(model: ChatModel) -> None:
    assert (model.n_layers, model.n_ctx) == (1, 512)
    assert model.chat_template == LLAMA_3
    assert (model.bos_token, model.eos_token) == (BOS, "<|end_of_text|>")
    assert model.load_seconds > 0
    assert model.is_eog(TOKENS.index(EOT))
    assert not model.is_eog(TOKENS.index("<|start_header_id|>"))


def test_answers_and_stops_at_the_end_of_turn(model: ChatModel) -> None:
    assert model.answer(HELLO, max_tokens=50) == ANSWER
    stats = model.last_stats
    assert stats is not None
    assert stats.stopped
    assert stats.stop_token == TOKENS.index(EOT)
    assert stats.generated_tokens == len(ANSWER.encode())
    assert stats.prompt_tokens == len(model.prompt_tokens(HELLO))
    assert stats.prompt_rate > 0
    assert stats.generation_rate > 0


def test_characters_spread_over_tokens_come_out_whole(model: ChatModel) -> None:
    # Every byte of the answer is a token of its own.
    assert list(model.stream(HELLO, max_tokens=50)) == list(ANSWER)


def test_a_character_cut_by_the_limit_is_marked(model: ChatModel) -> None:
    assert model.answer(HELLO, max_tokens=5) == "Hi \N{REPLACEMENT CHARACTER}"
    assert model.last_stats is not None
    assert (model.last_stats.generated_tokens, model.last_stats.stopped) == (5, False)


def test_control_tokens_are_not_printed(tmp_path: Path) -> None:
    # <|done|> is a control token that ends nothing: the model says it, and starts again.
    with load(tmp_path, Tiny(stop="<|done|>")) as model:
        assert model.answer(HELLO, max_tokens=len(ANSWER.encode()) + 3) == ANSWER + "Hi"


def test_stop_texts_end_the_answer(model: ChatModel) -> None:
    assert model.answer(HELLO, max_tokens=50, stops=["🙂你"]) == "Hi "
    assert model.last_stats is not None
    assert model.last_stats.stopped
    assert model.last_stats.stop_token is None
    assert model.answer(HELLO, max_tokens=50, stops=["!?"]) == ANSWER


def test_the_conversation_so_far_is_not_evaluated_again(model: ChatModel) -> None:
    answer = model.answer(HELLO, max_tokens=50)
    longer = [*HELLO, {"role": "assistant", "content": answer}, {"role": "user", "content": "again"}]
    first = len(model.prompt_tokens(HELLO))
    assert model.answer(longer, max_tokens=50) == ANSWER
    assert model.last_stats is not None
    assert model.last_stats.reused_tokens > first
    # The same again needs its last token, for the logits; another conversation keeps what is common to all.
    assert model.answer(longer, max_tokens=50) == ANSWER
    assert model.last_stats.reused_tokens == model.last_stats.prompt_tokens - 1
    other = [{"role": "user", "content": "something else"}]
    assert model.answer(other, max_tokens=50) == ANSWER
    assert 0 < model.last_stats.reused_tokens < len(model.prompt_tokens(other))
    assert model.engine.evaluated[: model.last_stats.prompt_tokens] == model.prompt_tokens(other)
    # llama.cpp holds as many tokens as we think it does.
    memory = llama_cpp.llama_get_memory(model.engine.context)
    assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == len(model.engine.evaluated) - 1


@pytest.mark.parametrize(("add_bos", "literal", "count"), [(True, True, 1), (True, False, 1), (False, False, 0)])
def test_one_bos(tmp_path: Path, add_bos: bool, literal: bool, count: int) -> None:
    template = LLAMA_3 if literal else LLAMA_3.removeprefix("{{ bos_token }}")
    with load(tmp_path, Tiny(add_bos=add_bos, template=template)) as model:
        tokens = model.prompt_tokens(HELLO)
        assert tokens.count(TOKENS.index(BOS)) == count
        assert (tokens[0] == TOKENS.index(BOS)) == bool(count)


def test_special_tokens_are_parsed_on_request(model: ChatModel) -> None:
    assert model.tokenize(EOT) == [TOKENS.index(EOT)]
    assert len(model.tokenize(EOT, special=False)) > 1
    assert model.tokenize("") == []
    assert b"".join(model.engine.piece(token) for token in model.tokenize("a\0b你")) == "a\0b你".encode()


def test_text_that_is_not_unicode_is_refused(model: ChatModel) -> None:
    with pytest.raises(QuantkitError, match="not valid Unicode"):
        model.tokenize("\udcff")


def test_long_token_texts_come_back_whole(model: ChatModel) -> None:
    assert model.engine.piece(TOKENS.index("<|start_header_id|>"), special=True) == b"<|start_header_id|>"
    assert model.engine.piece(TOKENS.index("<|start_header_id|>")) == b""


def test_metadata_of_any_length(tmp_path: Path) -> None:
    # 1024 bytes is where fixed buffers of others end.
    for size in (1023, 1024, 1025, 5000):
        template = LLAMA_3 + "{#" + "x" * (size - len(LLAMA_3) - 4) + "#}"
        with load(tmp_path, Tiny(template=template)) as model:
            assert model.chat_template == template
            assert model.engine.metadata("tokenizer.chat_template") == template
            assert model.engine.metadata("no.such.key") is None


def test_a_file_without_a_chat_template(tmp_path: Path) -> None:
    with load(tmp_path, Tiny(template=None)) as model, pytest.raises(ChatFormatError, match="no chat template") as info:
        model.render(HELLO)
    assert "--template" in info.value.hint


def test_a_conversation_too_long_for_the_context(tmp_path: Path) -> None:
    with load(tmp_path, Tiny(), n_ctx=32) as model:
        assert model.n_ctx == 32
        with pytest.raises(QuantkitError, match="the context holds 32") as info:
            model.answer([{"role": "user", "content": "much too long a question for this"}], max_tokens=5)
        assert info.value.hint


def test_an_answer_that_fills_the_context(tmp_path: Path) -> None:
    with load(tmp_path, Tiny(stop=""), n_ctx=64) as model:
        answer = model.answer(HELLO, max_tokens=1000)
        stats = model.last_stats
        assert stats is not None
        assert (stats.context_full, stats.stopped) == (True, False)
        # The last token needs no place of its own: nothing follows it.
        assert stats.prompt_tokens + stats.generated_tokens == 64 + 1
        assert answer.startswith(ANSWER)
        assert model.answer(HELLO, max_tokens=3) == "Hi "


def test_default_context_is_the_models_own_up_to_a_bound(tmp_path: Path) -> None:
    with load(tmp_path, Tiny(context=131072)) as model:
        assert model.n_ctx == 8192
    with load(tmp_path, Tiny(context=131072), max_ctx=100) as model:
        assert model.n_ctx == 100
    with load(tmp_path, Tiny(context=64), max_ctx=100) as model:
        assert model.n_ctx == 64


@pytest.mark.parametrize(("option", "name"), [("n_ctx", "num_ctx"), ("max_ctx", "max_ctx")])
def test_sizes_that_make_no_sense(tmp_path: Path, option: str, name: str) -> None:
    for value in (-1, 2**31, 10**17):
        with pytest.raises(QuantkitError, match=f"{name} is {value}; "):
            load(tmp_path, Tiny(), **{option: value})


def test_seed_and_temperature(tmp_path: Path) -> None:
    with load(tmp_path, Tiny(sharpness=0.05)) as model:

        def answer(**sampling) -> str:
            return model.answer(HELLO, max_tokens=12, top_k=0, top_p=1.0, min_p=0.0, **sampling)

        first = answer(temperature=1.0, seed=1)
        assert first == answer(temperature=1.0, seed=1)
        assert first != answer(temperature=1.0, seed=2)
        assert answer(temperature=0.0) == ANSWER
        assert model.answer(HELLO, max_tokens=12, temperature=1.0, top_k=1, seed=3) == ANSWER


def test_repeat_penalty_counts_the_prompt(tmp_path: Path) -> None:
    # "H" was said in the question, so with a penalty strong enough something else comes.
    asked = [{"role": "user", "content": "H"}]
    with load(tmp_path, Tiny(sharpness=0.05)) as model:
        assert model.answer(asked, max_tokens=1) == "H"
        assert model.answer(asked, max_tokens=1, presence_penalty=2.0) != "H"
        assert model.answer(asked, max_tokens=1, presence_penalty=2.0, repeat_last_n=1) == "H"
        assert model.answer(asked, max_tokens=1, presence_penalty=2.0, repeat_last_n=-1) != "H"


def test_an_answer_left_early_has_statistics(model: ChatModel) -> None:
    stream = model.stream(HELLO, max_tokens=50)
    assert next(stream) == "H"
    stream.close()
    assert model.last_stats is not None
    assert (model.last_stats.generated_tokens, model.last_stats.stopped) == (1, False)
    assert model.answer(HELLO, max_tokens=50) == ANSWER


def test_logits(model: ChatModel) -> None:
    with pytest.raises(QuantkitError, match="no token has been evaluated"):
        model.engine.logits()
    logits = model.prompt_logits(HELLO)
    assert logits.shape == (len(TOKENS),)
    assert logits.dtype == np.float32
    assert int(logits.argmax()) == TOKENS.index("H")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file"),
        (b"not a model at all", "not a GGUF file"),
        (b"GGUF", "not a GGUF file"),
        (b"GGUF" + b"\xff" * 200, "GGUF version 4294967295"),
    ],
)
def test_what_is_no_gguf_is_refused_quietly(
    tmp_path: Path, content: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(GGUFError, match=message) as info:
        ChatModel.load(path)
    assert str(path) in str(info.value)
    assert info.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_is_refused_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(GGUFError, match=r"truncated: tensor 'output\.weight'"):
        ChatModel.load(path)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_architecture_is_refused_with_llama_cpps_reason(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "no-such-architecture")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(GGUFError, match="unknown model architecture: 'no-such-architecture'"):
        ChatModel.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="no such file"):
        ChatModel.load(tmp_path / "none.gguf")


def test_loading_and_answering_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with load(tmp_path, Tiny()) as model:
        model.answer(HELLO, max_tokens=50)
    assert capfd.readouterr() == ("", "")


def test_the_log_names_a_device_for_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # count_offloaded reads these lines; if llama.cpp words them otherwise, this fails before a count is wrong.
    logs: list[str] = []

    def count(log: str) -> int:
        logs.append(log)
        return count_offloaded(log)

    monkeypatch.setattr(engine, "count_offloaded", count)
    with load(tmp_path, Tiny(), n_gpu_layers=0) as model:
        assert model.offloaded_layers == 0
        assert model.offload_figure.startswith("0/2")
    devices = re.findall(r"^load_tensors: layer +(\d+) assigned to device CPU,", logs[0], re.MULTILINE)
    assert devices == ["0", "1"]


def test_offloaded_layers_are_those_that_were_assigned_to_a_gpu() -> None:
    log = (
        "load_tensors: layer   0 assigned to device CPU, is_swa = 0\n"
        "load_tensors: layer   1 assigned to device CUDA0, is_swa = 0\n"
        "load_tensors: layer   2 assigned to device CUDA1, is_swa = 0\n"
        "load_tensors: offloaded 3/3 layers to GPU\n"
    )
    assert count_offloaded(log) == 2
    # What a GPU build says on a machine without a GPU.
    assert count_offloaded(log.replace("CUDA0", "CPU").replace("CUDA1", "CPU")) == 0
    assert count_offloaded("") == 0


def test_failure_reasons() -> None:
    log = "load: some warning\nllama_model_load: error loading model: tensor 'x' is bad\nfailed to load model\n"
    assert failure_reason(log) == "tensor 'x' is bad"
    assert failure_reason("one\n  two  \n\n") == "two"
    assert failure_reason("") == "no reason given"


def test_sampling_comes_from_the_package_then_the_model_then_llama_cpp() -> None:
    none: dict[str, str] = {}
    assert chat_sampling(none.get, {}) == {"temperature": CHAT_TEMPERATURE}
    model = {"general.sampling.temp": "0.600000", "general.sampling.top_k": "20"}
    assert chat_sampling(model.get, {}) == {"temperature": 0.6, "top_k": 20}
    asked = {"temperature": "0.2", "repeat_penalty": "1.1", "seed": "7", "num_ctx": "4096"}
    expected = {"temperature": 0.2, "top_k": 20, "repeat_penalty": 1.1, "seed": 7}
    assert chat_sampling(model.get, asked) == expected
    assert chat_sampling(none.get, {"seed": "-1"})["seed"] is None
    with pytest.raises(QuantkitError, match="top_k must be a whole number, not 'many'"):
        chat_sampling(none.get, {"top_k": "many"})


def test_sampling_metadata_of_a_file_is_read(tmp_path: Path) -> None:
    with load(tmp_path, Tiny(extra={"general.sampling.temp": 0.25})) as model:
        assert chat_sampling(model.engine.metadata, {})["temperature"] == 0.25


@pytest.mark.parametrize(
    "bad", [{"repeat_penalty": 0.0}, {"repeat_penalty": float("nan")}, {"temperature": float("inf")}]
)
def test_settings_that_would_abort_llama_cpp_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(QuantkitError):
        Sampling(**bad)


def test_stop_texts_cut_anywhere() -> None:
    text = "abc<stop>def"
    for size in range(1, len(text) + 1):
        stops = StopTexts(["<stop>", "zzz"])
        out = "".join(stops.push(text[at : at + size]) for at in range(0, len(text), size)) + stops.flush()
        assert out == "abc"
        assert stops.found
    stops = StopTexts(["<stop>", ""])
    assert stops.push("a<st") == "a"
    assert stops.push("ill") == "<still"
    assert stops.push("<sto") == ""
    assert stops.flush() == "<sto"
    assert not stops.found


def test_the_first_stop_in_the_text_wins() -> None:
    stops = StopTexts(["late", "early"])
    assert stops.push("an early and a late one") == "an "


def test_ctrl_c_is_raised_after_the_call() -> None:
    seen = []

    def work() -> None:
        with interrupts_deferred() as pressed:
            seen.append(pressed())
            signal.raise_signal(signal.SIGINT)
            seen.append(pressed())

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [False, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_request_to_end_is_left_alone_unless_it_interrupts() -> None:
    def deferred() -> list[object]:
        with interrupts_deferred():
            return [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]

    before = signal.getsignal(signal.SIGTERM)
    assert deferred()[1] is before
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        assert signal.default_int_handler not in deferred()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_is_left_alone_in_other_threads() -> None:
    handlers = []

    def work() -> None:
        with interrupts_deferred():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_ctrl_c_while_loading_is_not_lost(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    # Loads for ever: a signal that were swallowed by one of llama.cpp's callbacks would leave it running.
    code = (
        "import sys, pathlib\n"
        "from quantkit.run.session import ChatModel\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "ChatModel.load(path).close()\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    ChatModel.load(path).close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert "Exception ignored" not in errors
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_an_answer_can_be_broken_off(model: ChatModel) -> None:
    """Between the steps, also those of a long prompt: its caller may have lost interest."""
    asked = iter([True, True, False])
    long = [{"role": "user", "content": "字" * 100}]
    assert list(model.stream(long, max_tokens=50, go_on=lambda: next(asked, False))) == []
    assert model.last_stats is not None
    assert model.last_stats.stop_reason == "interrupted"
    assert 0 < len(model.engine.evaluated) < len(model.prompt_tokens(long))
    asked = iter([True] * 4)
    assert "".join(model.stream(HELLO, max_tokens=50, go_on=lambda: next(asked, False))) == ANSWER[:3]
    assert model.last_stats.stop_reason == "interrupted"
    assert model.answer(HELLO, max_tokens=50) == ANSWER, "what was left out is evaluated when it is needed"
