"""Answers a file of prompts.

All prompts are checked before the first answer, their length included: an hour of answers must not end at a bad line.
Finished answers are kept next to the output, in a file named after the job (prompts, model, settings). So the same
command continues where it stopped, and another job never picks up these answers. The output gets its name when it is
complete.
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

from quantkit.chat_template.answer_reader import Text, Thought
from quantkit.chat_template.answers import THOUGHT
from quantkit.errors import ChatFormatError, ContextFullError, OutputError, QuantkitError
from quantkit.files.json_file import SCHEMA
from quantkit.run.asking import stream_answer
from quantkit.run.context_size import larger_context
from quantkit.run.file_lock import claimed, release_on_windows
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.run.transcript import Conversation, check_messages
from quantkit.system.progress import Reporter
from quantkit.system.unicode_text import check_text

_ADDED = ("line", THOUGHT, "answer", "stop_reason", "stats")


@dataclass(frozen=True)
class Prompt:
    """One conversation to be answered.

    Attributes:
        line: its line number in the file, from 1.
        given: the keys and values of that line, which are copied to the line of its answer.
        messages: the conversation the model sees.
    """

    line: int
    given: dict[str, Any]
    messages: list[dict[str, str]]


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        file: the output.
        answers: number of lines in it.
        resumed: how many of them an earlier run had answered.
        generated_tokens: tokens in this run's answers.
        seconds: duration of this run.
        stop_reasons: number of answers per :attr:`GenerationStats.stop_reason`, over all lines.
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
    """Read the prompts of a file: one per line that is not blank, or one object per line of a ``.jsonl`` file.

    An object has ``prompt``, or ``messages`` that end with the user's; its other keys are copied to the output.

    Args:
        path: the file, UTF-8.
        system: the system prompt for conversations without one.

    Raises:
        QuantkitError: the file cannot be read, contains no prompt, or a line is not a prompt.
    """
    hint = "give a UTF-8 text file with one prompt per line, or a .jsonl file"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise QuantkitError(f"{path}: cannot be read ({error.strerror or error})", hint=hint) from None
    except UnicodeDecodeError as error:
        raise QuantkitError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})", hint=hint) from None
    # Not splitlines: a prompt may contain the rarer line ends of Unicode.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise QuantkitError(f"{path}: contains no prompts", hint=hint)
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
    """Answer each prompt in a conversation of its own and write the answers, one JSON object per line.

    Args:
        model: the model that answers.
        settings: how it answers.
        prompts: the prompts.
        out: the file to write.
        overwrite: whether an existing file may be replaced.
        reporter: receives the progress.

    Raises:
        ContextFullError: prompts do not fit into the context; nothing was answered.
        ChatFormatError: the chat template rejects a prompt; nothing was answered.
        OutputError: the file already exists, cannot be written, or another run is writing it.
        QuantkitError: the model cannot answer.
    """
    reporter = reporter or Reporter()
    started = time.perf_counter()
    _check_free(out, overwrite)
    _check_fit(model, settings, prompts)
    partial = out.with_name(f".{out.name}.{_job(model, settings, prompts)}.partial")
    generated = 0
    try:
        with claimed(partial) as file:
            done, size = _answered(file, prompts)
            resumed, reasons = len(done), Counter(str(line["stop_reason"]) for line in done)
            if resumed:
                reporter.note(f"continuing an earlier run: {resumed} of {len(prompts)} answers are done")
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
        # Python reads NaN and 1e999, which JSON does not have.
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise QuantkitError(f"{where}: not valid JSON ({error})", hint=hint) from None
    if not isinstance(given, dict) or ("prompt" in given) == ("messages" in given):
        raise QuantkitError(f'{where}: must be an object with either "prompt" or "messages"', hint=hint)
    if taken := [key for key in _ADDED if key in given]:
        raise QuantkitError(f'{where}: the key "{taken[0]}" is reserved for the output', hint="rename that key")
    check_text(text, where)
    if "messages" in given:
        messages = check_messages(given["messages"], where=where, last="user")
        opened = messages[0]["role"] == "system" or not system
        return Prompt(number, given, messages if opened else [{"role": "system", "content": str(system)}, *messages])
    if not isinstance(given["prompt"], str):
        raise QuantkitError(f'{where}: "prompt" must be a string', hint=hint)
    return Prompt(number, given, Conversation(system).asking(given["prompt"]))


def _check_free(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not out.is_file() or out.is_symlink():  # a device, too, would be replaced by a file
        raise OutputError(
            f"{out}: is a folder, a symbolic link or a special file", hint="choose another --predictions-file"
        )
    if not overwrite:
        hint = "choose another --predictions-file, or pass --overwrite"
        raise OutputError(f"{out}: already exists", hint=hint)


def _check_fit(model: ChatModel, settings: Settings, prompts: Sequence[Prompt]) -> None:
    long = []
    for prompt in prompts:
        try:
            tokens = model.prompt_size(prompt.messages, settings.told)
        except ChatFormatError as error:
            raise ChatFormatError(f"line {prompt.line}: {error}", hint=error.hint) from None
        if tokens >= model.n_ctx:
            long.append((prompt.line, tokens))
    if long:
        lines = ", ".join(f"line {line} ({size} tokens)" for line, size in long[:5])
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise ContextFullError(
            f"the context holds {model.n_ctx} tokens, too few for these prompts: {lines}{more}",
            hint=f"shorten them{larger_context(model.engine, max(size for _, size in long))}",
        )


def _job(model: ChatModel, settings: Settings, prompts: Sequence[Prompt]) -> str:
    """Return a name for everything the answers depend on."""

    def stamp(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    facts = [
        [model.path.name, *stamp(model.path), model.n_ctx],
        [[str(lora), *stamp(lora.path)] for lora in model.engine.loras],
        [dict(settings.sampling), settings.max_tokens, settings.stops, dict(settings.told)],
        [[prompt.line, prompt.given, prompt.messages] for prompt in prompts],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _answered(file: BinaryIO, prompts: Sequence[Prompt]) -> tuple[list[dict[str, Any]], int]:
    """Return the complete answers of an earlier run, in order, and their size in bytes."""
    done: list[dict[str, Any]] = []
    size = 0
    file.seek(0)
    for line, prompt in zip(file, prompts, strict=False):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # half a line, left by a run that was killed
            break
        if not line.endswith(b"\n") or not isinstance(value, dict) or value.get("line") != prompt.line:
            break
        done.append(value)
        size += len(line)
    return done, size


def _answer(model: ChatModel, settings: Settings, prompt: Prompt) -> tuple[bytes, GenerationStats]:
    # The same answer whether the run was stopped or not; a random one is another each time.
    parts = list(stream_answer(model, prompt.messages, settings, reuse=settings.is_random))
    text = "".join(part.text for part in parts if isinstance(part, Text))
    thought = "".join(part.text for part in parts if isinstance(part, Thought))
    stats = model.last_stats
    assert stats is not None
    figures = {
        "prompt_tokens": stats.prompt_tokens,
        "prompt_seconds": round(stats.prompt_seconds, 3),
        "generated_tokens": stats.generated_tokens,
        "generation_seconds": round(stats.generation_seconds, 3),
        "tokens_per_second": round(stats.generation_rate, 2),
    }
    line = {
        "line": prompt.line,
        **prompt.given,
        **({THOUGHT: thought} if thought else {}),
        "answer": text,
        "stop_reason": stats.stop_reason,
        "stats": figures,
    }
    return (json.dumps(line, ensure_ascii=False) + "\n").encode(), stats


def _tell_what_is_kept(file: BinaryIO, partial: Path, done: int, wanted: int, reporter: Reporter) -> None:
    """After a run that did not finish: say where its answers are, or remove the empty file."""
    if not done:
        release_on_windows(file)
        partial.unlink(missing_ok=True)
    elif done < wanted:
        reporter.note(f"{done} of {wanted} answers are kept in {partial}; run the same command again to continue")
