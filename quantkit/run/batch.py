"""Answers to a file of prompts.

Everything that can be wrong with the prompts is found before the first answer, their length included: an hour of
answers must not end at a bad line. What was answered is kept beside the output under a name that stands for the job
(prompts, model, settings), so the same command goes on where it was stopped, and another job never takes it for its
own. The output gets its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from quantkit.errors import ChatFormatError, ContextFullError, OutputError, QuantkitError
from quantkit.files.json_file import SCHEMA
from quantkit.run.file_lock import claimed, release_on_windows
from quantkit.run.session import ChatModel, GenerationStats
from quantkit.run.settings import Settings, stream_answer
from quantkit.run.transcript import Conversation, check_messages
from quantkit.system.progress import Reporter
from quantkit.system.unicode_text import check_text

_ADDED = ("line", "answer", "stop_reason", "stats")


@dataclass(frozen=True)
class Prompt:
    """One conversation to be answered.

    Attributes:
        line: where it stands in the file, from 1.
        given: what stands there, as the keys of its answer's line.
        messages: what the model is given.
    """

    line: int
    given: dict[str, Any]
    messages: list[dict[str, str]]


@dataclass(frozen=True)
class Summary:
    """What was done.

    Attributes:
        file: the output.
        answers: lines in it.
        resumed: how many of them an earlier run had answered.
        generated_tokens: tokens of this run's answers.
        seconds: time of this run.
        stop_reasons: how often answers ended how, by :attr:`GenerationStats.stop_reason`, of all lines.
    """

    file: Path
    answers: int
    resumed: int
    generated_tokens: int
    seconds: float
    stop_reasons: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        return {"schema": SCHEMA, **self.__dict__, "file": str(self.file)}


def read_prompts(path: Path, system: str | None) -> list[Prompt]:
    """The prompts of a file: a line each that is not blank, or in a ``.jsonl`` file an object each.

    An object has ``prompt``, or ``messages`` that end with the user's; what else it has is passed on to the output.

    Args:
        path: the file, UTF-8.
        system: the system prompt of conversations that have none of their own.

    Raises:
        QuantkitError: it cannot be read, has no prompt, or a line is not a prompt.
    """
    hint = "give a UTF-8 text file with a prompt a line, or a .jsonl file"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise QuantkitError(f"{path}: cannot be read ({error.strerror or error})", hint=hint) from None
    except UnicodeDecodeError as error:
        raise QuantkitError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})", hint=hint) from None
    # Not splitlines: a prompt may hold the rarer line ends of Unicode.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise QuantkitError(f"{path}: there is no prompt in it", hint=hint)
    if path.suffix.lower() != ".jsonl":
        return [
            Prompt(number, {"prompt": line}, Conversation(system).asking(line))
            for number, line in ((number, line.strip()) for number, line in lines)
        ]
    return [_prompt(line, number, f"{path} line {number}", system) for number, line in lines]


def answer_prompts(
    model: ChatModel,
    settings: Settings,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Summary:
    """Answer each prompt by itself and write the answers, a JSON object a line.

    Args:
        model: the model that answers.
        settings: how it answers.
        prompts: what to answer.
        out: the file to write.
        overwrite: it may be replaced.
        reporter: told of the progress.

    Raises:
        ContextFullError: prompts do not fit into the context; nothing was answered.
        ChatFormatError: the chat template refuses one; nothing was answered.
        OutputError: the file exists, or cannot be written, or another run writes it now.
        QuantkitError: an answer cannot be had.
    """
    reporter = reporter or Reporter()
    started = time.perf_counter()
    _check_free(out, overwrite)
    _check_fit(model, prompts)
    partial = out.with_name(f".{out.name}.{_job(model, settings, prompts)}.partial")
    generated = 0
    try:
        with claimed(partial) as file:
            done, size = _answered(file, prompts)
            resumed, reasons = len(done), Counter(str(line["stop_reason"]) for line in done)
            if resumed:
                reporter.note(f"{resumed} of {len(prompts)} answers are there from an earlier run")
            file.truncate(size)
            try:
                with reporter.phase("answering", len(prompts), "answers") as advance:
                    advance(resumed)
                    for prompt in prompts[resumed:]:
                        line, stats = _answer(model, settings, prompt)
                        file.write(line)
                        file.flush()
                        reasons[stats.stop_reason] += 1
                        generated += stats.generated_tokens
                        advance(1)
            finally:
                _tell_what_is_kept(file, partial, reasons.total(), len(prompts), reporter)
            os.fsync(file.fileno())
            _check_free(out, overwrite)
            release_on_windows(file)
            os.replace(partial, out)
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error})", hint="choose another --predictions-file"
        ) from None
    return Summary(out, len(prompts), resumed, generated, time.perf_counter() - started, dict(sorted(reasons.items())))


def _prompt(line: str, number: int, where: str, system: str | None) -> Prompt:
    hint = 'write it as {"prompt": "..."} or {"messages": [...]}'
    try:
        given = json.loads(line)
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)  # Python reads NaN and 1e999, which JSON has not
    except (ValueError, RecursionError) as error:
        raise QuantkitError(f"{where}: not valid JSON ({error})", hint=hint) from None
    if not isinstance(given, dict) or ("prompt" in given) == ("messages" in given):
        raise QuantkitError(f'{where}: must be an object with either "prompt" or "messages"', hint=hint)
    if taken := [key for key in _ADDED if key in given]:
        raise QuantkitError(f'{where}: "{taken[0]}" is a key of the output', hint="call it something else")
    check_text(text, where)
    if "messages" in given:
        messages = check_messages(given["messages"], where=where, last="user")
        opened = messages[0]["role"] == "system" or not system
        return Prompt(number, given, messages if opened else [{"role": "system", "content": str(system)}, *messages])
    if not isinstance(given["prompt"], str):
        raise QuantkitError(f'{where}: "prompt" must be a text', hint=hint)
    return Prompt(number, given, Conversation(system).asking(given["prompt"]))


def _check_free(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not out.is_file() or out.is_symlink():  # a device, too, would be replaced by a file
        raise OutputError(f"{out}: is a folder, a link or no plain file", hint="choose another --predictions-file")
    if not overwrite:
        hint = "choose another --predictions-file, or pass --overwrite"
        raise OutputError(f"{out}: exists already", hint=hint)


def _check_fit(model: ChatModel, prompts: Sequence[Prompt]) -> None:
    long = []
    for prompt in prompts:
        try:
            tokens = len(model.prompt_tokens(prompt.messages))
        except ChatFormatError as error:
            raise ChatFormatError(f"line {prompt.line}: {error}", hint=error.hint) from None
        if tokens >= model.n_ctx:
            long.append((prompt.line, tokens))
    if long:
        lines = ", ".join(f"{line} ({size} tokens)" for line, size in long[:5])
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise ContextFullError(
            f"the context holds {model.n_ctx} tokens, too few for the prompt of line {lines}{more}",
            hint=f"shorten them, or pass a larger context: --param num_ctx={2 * max(size for _, size in long)}",
        )


def _job(model: ChatModel, settings: Settings, prompts: Sequence[Prompt]) -> str:
    """A name for all that the answers depend on."""
    file = model.path.stat()
    facts = [
        [model.path.name, file.st_size, file.st_mtime_ns, model.n_ctx],
        [dict(settings.sampling), settings.max_tokens, settings.stops],
        [[prompt.line, prompt.given, prompt.messages] for prompt in prompts],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _answered(file: BinaryIO, prompts: Sequence[Prompt]) -> tuple[list[dict[str, Any]], int]:
    """The answers that are there, in order and whole, and how many bytes they are."""
    done: list[dict[str, Any]] = []
    size = 0
    file.seek(0)
    for line, prompt in zip(file, prompts, strict=False):
        try:
            value = json.loads(line)
        except ValueError:  # half a line, of a run that was killed
            break
        if not line.endswith(b"\n") or value.get("line") != prompt.line:
            break
        done.append(value)
        size += len(line)
    return done, size


def _answer(model: ChatModel, settings: Settings, prompt: Prompt) -> tuple[bytes, GenerationStats]:
    text = "".join(stream_answer(model, prompt.messages, settings))
    stats = model.last_stats
    assert stats is not None
    figures = {
        "prompt_tokens": stats.prompt_tokens,
        "prompt_seconds": round(stats.prompt_seconds, 3),
        "generated_tokens": stats.generated_tokens,
        "generation_seconds": round(stats.generation_seconds, 3),
        "tokens_per_second": round(stats.generation_rate, 2),
    }
    line = {"line": prompt.line, **prompt.given, "answer": text, "stop_reason": stats.stop_reason, "stats": figures}
    return (json.dumps(line, ensure_ascii=False) + "\n").encode(), stats


def _tell_what_is_kept(file: BinaryIO, partial: Path, done: int, wanted: int, reporter: Reporter) -> None:
    """After a run that did not come to its end."""
    if not done:
        release_on_windows(file)
        partial.unlink(missing_ok=True)
    elif done < wanted:
        reporter.note(f"{done} of {wanted} answers are in {partial}; the same command goes on with them")
