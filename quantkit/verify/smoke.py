"""Does the file really chat? Holds a short conversation with the finished GGUF, and checks it closely.

It looks for the usual problems of converted models: a file that does not load, a doubled BOS, special tokens that are
split into letters, an end of turn that does not end the answer, NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.gguf.lora import ScaledLora
from quantkit.package.spec import DEFAULT_CONTEXT
from quantkit.run.placement import placement
from quantkit.run.session import ChatModel
from quantkit.verify.report import Check
from quantkit.verify.server_prompt import check_server_prompts
from quantkit.verify.smoke_result import Answer, SmokeResult

DEFAULT_PROMPTS = ("Hello! Who are you? 你好，你是谁？",)
MAX_TOKENS = 64

# Room for what a template adds: turns and a default system prompt.
_OVERHEAD = 1024

# A placeholder for an answer's text, to find what the template writes after it.
_ANSWER = "quantkit-answer"
_ROUND_TRIP = "Hello, wörld! 你好，世界。 🙂 x = 1.5e-3\n\tif (a && b) { return; }"
# Looks like the text of a special token: <|eot_id|>, </s>, <start_of_turn>, [INST]
_MARK = re.compile(r"<[^<>\s]{1,64}>|\[/?[A-Z_]{1,32}\]")


def smoke_test(
    gguf: Path,
    *,
    n_gpu_layers: int = -1,
    prompts: Sequence[str] = (),
    system: str | None = None,
    threads: int | None = None,
    loras: Sequence[ScaledLora] = (),
    max_tokens: int = MAX_TOKENS,
    step: Callable[[], None] = lambda: None,
    further: Callable[[ChatModel], Sequence[Check]] | None = None,
) -> SmokeResult:
    """Load *gguf*, hold a conversation for each prompt, and check the result. Answers are greedy.

    Args:
        gguf: the file.
        n_gpu_layers: layers to put on the GPU, -1 for all; no effect in a build without GPU support.
        prompts: questions, each asked in a new conversation; a greeting if there are none.
        system: the system prompt of every conversation, None for none.
        threads: CPU threads, None for the processors that are free.
        loras: LoRA files that belong to the model.
        max_tokens: the longest answer.
        step: called after each part of the checks.
        further: makes more checks with the loaded model, if these have passed.

    Returns:
        The result; a file that does not load or render is a failed check, not an exception.
    """
    prompts = prompts or DEFAULT_PROMPTS
    # A token is at least a byte. A context of the model's own size would need gigabytes that are not used here.
    room = _OVERHEAD + max_tokens + max(len(f"{prompt}{system or ''}".encode(errors="replace")) for prompt in prompts)
    most = min(room, DEFAULT_CONTEXT)
    try:
        model = ChatModel.load(gguf, n_gpu_layers=n_gpu_layers, threads=threads, max_ctx=most, loras=loras)
    except QuantkitError as error:
        return SmokeResult(gguf, (Check("loads", False, "no", "loads", str(error)),))
    with model:
        evidence = f"{model.n_layers} layers and the output layer; {placement(model.offload_figure)}"
        step()
        checks = [Check("loads", True, f"{model.load_seconds:.2f} s", "loads", evidence), _round_trip(model)]
        answers: tuple[Answer, ...] = ()
        conversations = [_conversation(prompt, system) for prompt in prompts]
        try:
            prompt_text = model.render(conversations[0])
        except QuantkitError as error:
            checks.append(Check("chat template renders", False, "no", "renders", str(error)))
        else:
            checks.append(Check("chat template renders", True, "yes", "renders", repr(prompt_text)))
            checks += [_one_bos(model, conversations), check_server_prompts(model, conversations)]
            step()
            checks += [_special_tokens(model, system), _end_of_turn(model, system)]
            step()
            try:
                answers = tuple(_ask(model, messages, max_tokens) for messages in conversations)
            except QuantkitError as error:
                checks.append(Check("generates", False, "no", "at least 1 token", str(error)))
            else:
                step()
                checks += [_finite(model, conversations), _generates(answers), _stops(model, answers)]
                step()
        if further is not None and all(check.passed for check in checks):
            checks += further(model)
        return SmokeResult(gguf, tuple(checks), model.load_seconds, model.offload_figure, answers)


def _conversation(prompt: str, system: str | None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}]


def _round_trip(model: ChatModel) -> Check:
    tokens = model.tokenize(_ROUND_TRIP, special=False)
    back = b"".join(model.engine.piece(token) for token in tokens).decode(errors="replace")
    # SentencePiece vocabularies begin a text with a space.
    same = back.removeprefix(" ") == _ROUND_TRIP
    return Check("tokenizes", same, f"{len(tokens)} tokens", "text comes back", f"{_ROUND_TRIP!r} -> {back!r}")


def _one_bos(model: ChatModel, conversations: Sequence[list[dict[str, str]]]) -> Check:
    bos = model.engine.bos
    if bos is None:
        return Check("BOS", True, "none", "", "the vocabulary does not have a BOS token")
    prompts = [model.prompt_tokens(messages) for messages in conversations]
    counts = [model.leading_bos(tokens) for tokens in prompts]
    worst = max(counts, key=lambda count: abs(count - 1))
    first_tokens = f"the prompt begins with tokens {prompts[0][:4]}, BOS is {bos} ({model.bos_token})"
    if model.engine.adds_bos:
        return Check("BOS", worst == 1, str(worst), "exactly 1, first", first_tokens)
    return Check("BOS", max(counts) <= 1, str(max(counts)), "at most 1", f"add_bos_token is false; {first_tokens}")


def _special_tokens(model: ChatModel, system: str | None) -> Check:
    """Check that each special token text in the template becomes that token, as often as it is written."""
    threshold = "each text is one special token"
    # Plain contents, so that every mark found is the template's own.
    messages = [*_conversation("question", "system" if system else None), {"role": "assistant", "content": _ANSWER}]
    messages.append({"role": "user", "content": "question"})
    text = model.render(messages)
    tokens = model.tokenize(text)
    marks = {mark for mark in _MARK.findall(text) if mark in model.token_ids}
    special = {mark for mark, token in model.token_ids.items() if mark in text and model.engine.is_special(token)}
    marks |= {mark for mark in special if mark.strip()}  # Gemma has tokens for runs of line ends
    broken = [mark for mark in sorted(marks) if not _is_one_special(model, mark, text, tokens)]
    figure = f"{len(marks) - len(broken)} of {len(marks)}"
    if broken:
        split = {mark: model.tokenize(mark) for mark in broken}
        return Check("special tokens", False, figure, threshold, f"not one special token: {split}")
    found = ", ".join(sorted(marks)) or "the template does not write any from the vocabulary"
    return Check("special tokens", True, figure, threshold, found)


def _is_one_special(model: ChatModel, mark: str, text: str, tokens: Sequence[int]) -> bool:
    token = model.token_ids[mark]
    return model.tokenize(mark) == [token] and tokens.count(token) >= text.count(mark)


def _end_of_turn(model: ChatModel, system: str | None) -> Check:
    name, threshold = "end of turn", "end-of-generation in llama.cpp"
    messages = [*_conversation("question", system), {"role": "assistant", "content": _ANSWER}]
    text = model.render(messages, add_generation_prompt=False)
    _, found, tail = text.rpartition(_ANSWER)
    if not found:
        return Check(name, False, "not found", threshold, f"the template drops the answer: {text!r}")
    token, where = _first_special(model, tail), "an answer is followed by"
    if token is None:  # as in GLM's templates, what opens the next question may end the answer
        text = model.render([*messages, {"role": "user", "content": "question"}], add_generation_prompt=False)
        token, where = _first_special(model, text.rpartition(_ANSWER)[2]), "the question after an answer opens behind"
        if token is None or not model.is_eog(token):
            return Check(name, False, "none", threshold, f"no special token follows an answer, only {tail!r}")
    mark = model.engine.text(token)
    return Check(name, model.is_eog(token), mark, threshold, f"{where} {tail!r}; {mark} is token {token}")


def _first_special(model: ChatModel, text: str) -> int | None:
    return next((token for token in model.tokenize(text) if model.engine.is_special(token)), None)


def _ask(model: ChatModel, messages: list[dict[str, str]], max_tokens: int) -> Answer:
    text = model.answer(messages, max_tokens=max_tokens)
    stats = model.last_stats
    assert stats is not None  # set by every answer
    if stats.stop_token is not None:
        ended = f"at {model.engine.text(stats.stop_token)} after {stats.generated_tokens} tokens"
    elif stats.context_full:
        ended = f"at the end of the context, after {stats.generated_tokens} tokens"
    else:
        ended = f"at the limit of {max_tokens} tokens"
    return Answer(messages[-1]["content"], text, ended, stats)


def _finite(model: ChatModel, conversations: Sequence[list[dict[str, str]]]) -> Check:
    import numpy as np

    # After the last answer, and after each prompt (still cached in llama.cpp, so this costs one token).
    rows = [model.engine.logits(), *(model.prompt_logits(messages) for messages in conversations)]
    bad = sum(int((~np.isfinite(row)).sum()) for row in rows)
    low, high = min(float(row.min()) for row in rows), max(float(row.max()) for row in rows)
    return Check("logits finite", bad == 0, f"{bad} NaN or infinite", "0", f"{len(rows)} rows, {low:.3g} to {high:.3g}")


def _generates(answers: Sequence[Answer]) -> Check:
    counts = [answer.stats.generated_tokens for answer in answers]
    evidence = "; ".join(f"{answer.prompt!r} -> {answer.text!r}" for answer in answers)
    return Check("generates", min(counts) >= 1, f"{sum(counts)} tokens", "at least 1 per answer", evidence)


def _stops(model: ChatModel, answers: Sequence[Answer]) -> Check:
    """Check that no answer runs past an end of turn. Reaching the limit is fine: an untrained model may ramble."""
    texts = [text for text, token in model.token_ids.items() if model.is_eog(token) and text.startswith("<")]
    missed = sorted({text for text in texts for answer in answers if text in answer.text})
    stopped = sum(answer.stats.stopped for answer in answers)
    evidence = "; ".join(answer.ended for answer in answers)
    if missed:
        evidence = f"written as text instead of ending the answer: {', '.join(missed)}; {evidence}"
    return Check(
        "stops by itself", not missed, f"{stopped} of {len(answers)}", "no end of turn inside an answer", evidence
    )
