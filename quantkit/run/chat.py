"""The chat loop: reads a line, streams an answer, remembers both.

It works on the streams it is given, so the same loop serves a terminal (prompt, line editing, Ctrl-C) and a pipe (each
input line is one turn, and the output contains the answers and nothing else).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from quantkit.chat_template.answer_reader import Part, Text, Thought
from quantkit.chat_template.answers import THOUGHT
from quantkit.chat_template.call_reader import Call
from quantkit.errors import OutputError, QuantkitError
from quantkit.run.asking import stream_answer, template_variables
from quantkit.run.chat_state import ChatState
from quantkit.run.commands import run_command
from quantkit.run.context_window import make_room, visible_messages
from quantkit.run.continuing import HALF
from quantkit.run.generation_stats import rates
from quantkit.run.prompt_input import Entry, Read, read_entry, reader_of
from quantkit.run.session import ChatModel, Messages
from quantkit.run.speed import slow_note
from quantkit.system.unicode_text import check_text

GREETING = "/help lists the commands, Ctrl-C stops an answer, Ctrl-D or /bye ends the chat."
HOW_TO_LEAVE = "(Ctrl-D or /bye ends the chat)"
CONTEXT_FULL = "(the context is full, so the answer was cut off; your next question makes room)"
LIMIT_REACHED = "(the answer was cut off after num_predict tokens; /continue goes on with it)"
NOTHING_MORE = "(nothing more came)"
_SHOWN = 60  # characters of a system prompt
NO_ANSWER = "(no answer; the question was dropped)"
ONLY_THOUGHT = "(no answer; the question was dropped, and /continue goes on with the thought)"
NO_ANSWER_TO_RESULT = "(no answer; give the result again, or take the question back with /undo)"


def opening(model: ChatModel, system: str | None, others: Sequence[str] = ()) -> str:
    """The first line of a chat: what answers, how much it can hold, and what it was told.

    Args:
        model: that answers.
        system: its system prompt.
        others: types of further files in its folder.
    """
    told = " ".join(system.split()) if system else "none"
    told = told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."
    also = f" (also here: {', '.join(f'--quant {quant}' for quant in others)})" if others else ""
    return f"{model.path.name}{also}, context of {model.n_ctx} tokens, system prompt: {told}"


class ChatLoop(ChatState):
    """A conversation between a person (or a pipe) and a model."""

    def run_terminal(self, read: Read, remember: Callable[[str], None]) -> None:
        """Chat with a person until they leave.

        Args:
            read: shows a prompt and returns a line, as :func:`input` does.
            remember: adds what was typed to the history.
        """
        self.screen.say(GREETING)
        going = True
        while going:
            try:
                going = self._step(read, remember)
            except EOFError:
                self.screen.say("")
                return
            except KeyboardInterrupt:
                self.screen.say(f"\n{HOW_TO_LEAVE}")
            except QuantkitError as error:
                self._report(error)

    def _step(self, read: Read, remember: Callable[[str], None]) -> bool:
        entry = read_entry(read)
        try:
            remember(entry.typed)
        except OutputError as error:
            self._report(error)
        return self._handle(entry, stoppable=True)

    def run_lines(self, lines: Iterable[str]) -> None:
        """Answer each line in turn, in one conversation.

        Raises:
            QuantkitError: the model cannot answer.
            KeyboardInterrupt: Ctrl-C ends the whole run, because nobody is there to continue.
        """
        read = reader_of(lines)
        while True:
            try:
                entry = read_entry(read)
            except EOFError:
                return
            if not self._handle(entry, stoppable=False):
                return

    def _handle(self, entry: Entry, *, stoppable: bool) -> bool:
        if entry.command is not None:
            then = run_command(self, entry.command, entry.text)
            if then.again is not None:
                self._ask_again(then.again, stoppable=stoppable)
            if then.continues and self.unfinished is not None:
                self._think_on(*self.unfinished, stoppable=stoppable)
            elif then.continues:
                self._continue(stoppable=stoppable)
            if then.result is not None:
                self._take_result(then.result, stoppable=stoppable)
            return then.going
        if entry.text.strip() and self.conversation.waiting_call is not None:
            self._take_result(entry.text, stoppable=stoppable)
        elif entry.text.strip():
            self._answer(entry.text, stoppable=stoppable)
        return True

    def _ask_again(self, question: str, *, stoppable: bool) -> None:
        """Answer a question in place of the last one, whose exchange stays if there is no answer."""
        conversation = self.conversation
        before, pending, forgotten = list(conversation.turns), conversation.pending, conversation.forgotten
        conversation.drop_last()
        try:
            self._answer(question, stoppable=stoppable, again=True)
        finally:
            if len(conversation.turns) < len(before) and not conversation.pending:
                conversation.turns, conversation.forgotten = before, forgotten
            if pending and conversation.turns == before and not conversation.pending:
                conversation.pending = pending

    def _continue(self, *, stoppable: bool) -> None:
        """Go on with the last answer, which stays as it is if nothing comes."""
        conversation = self.conversation
        messages, forgotten = self._seen_again(), conversation.forgotten
        question, answer, thought = conversation.reopen()
        more, further, calls = "", "", list[Call]()
        try:
            parts = stream_answer(self.model, messages, self.settings, tools=self.tools, continues=True)
            more, further, calls = self._heard(parts, stoppable=stoppable)
        finally:
            answer, thought = (answer.rstrip(HALF) if more or calls else answer) + more, thought + further
            if calls:
                conversation.add_calls(question, answer, thought, calls)
            else:
                conversation.add(question, answer, thought)
            conversation.forgotten = forgotten
        if calls:
            self._ask_for_result()
        elif not more:
            self.screen.say(NOTHING_MORE)
        self._tell_end()

    def _think_on(self, question: str, thought: str, *, stoppable: bool) -> None:
        """Go on with a thought, behind which the answer comes."""
        conversation = self.conversation
        self._make_room(question)
        messages = [*conversation.asking(question), {"role": "assistant", "content": "", THOUGHT: thought}]
        parts = stream_answer(self.model, messages, self.settings, tools=self.tools, continues=True)
        answer, further, calls = self._heard(parts, stoppable=stoppable)
        self._keep(question, answer, thought.rstrip(HALF) + further, calls)
        self._tell_end()

    def _keep(self, question: str, answer: str, thought: str, calls: list[Call]) -> None:
        """Remember an exchange, if there is an answer."""
        self.unfinished = None
        if calls:
            self.conversation.add_calls(question, answer, thought, calls)
            self._ask_for_result()
        elif answer:
            self.conversation.add(question, answer, thought)
        elif self.conversation.pending:
            self.screen.say(NO_ANSWER_TO_RESULT)
        else:
            # A question without an answer would be followed by another question, which templates reject.
            self.unfinished = (question, thought) if thought else None
            self.screen.say(ONLY_THOUGHT if thought else NO_ANSWER)

    def _seen_again(self) -> Messages:
        """What the model sees of the conversation with its last answer, which leaves out what has no room."""
        conversation, settings = self.conversation, self.settings
        told = template_variables(settings, self.tools)
        shown = conversation.seen
        messages, dropped = visible_messages(self.model, shown, longest=settings.max_tokens, told=told)
        opening = len(messages) and messages[0]["role"] == "system"
        gone = sum(message["role"] == "user" for message in shown[opening : opening + dropped])
        conversation.forgotten += 2 * gone
        self._tell_forgotten(gone)
        return messages

    def _take_result(self, text: str, *, stoppable: bool) -> None:
        """Give the model the result of its call, and let it go on when it has all of them."""
        check_text(text, "the result")
        conversation = self.conversation
        before = list(conversation.pending)
        conversation.add_result(text)
        if self._ask_for_result():
            return
        try:
            self._answer("", stoppable=stoppable)
        finally:
            if len(conversation.pending) == len(before) + 1:  # no answer: the result can be given again
                conversation.pending = before

    def _ask_for_result(self) -> bool:
        """Show the call that waits for a result; whether there is one."""
        if (call := self.conversation.waiting_call) is None:
            return False
        function = call["function"]
        self.screen.say(f"(calls {function['name']} {function['arguments']}; type what it returns)")
        return True

    def _heard(self, parts: Iterator[Part], *, stoppable: bool) -> tuple[str, str, list[Call]]:
        """Show an answer until it ends or is stopped; its text, its thought and its calls."""
        answer = thought = ""
        calls: list[Call] = []
        self.model.last_stats = None
        try:
            for part in parts:
                if isinstance(part, Thought):
                    thought += part.text
                    self.screen.thought(part.text)
                elif isinstance(part, Text):
                    answer += part.text
                    self.screen.answer(part.text)
                else:
                    calls.append(part)
        except KeyboardInterrupt:
            if not stoppable:
                raise
        self.screen.end_answer()
        return answer, thought, calls

    def _answer(self, question: str, *, stoppable: bool, again: bool = False) -> None:
        answer, thought, calls = self._heard(self._parts(question), stoppable=stoppable)
        self._keep(question, answer, "" if again and not answer else thought, calls)
        self._tell_end()

    def _tell_end(self) -> None:
        """Say how the answer ended, and how fast it was."""
        if stats := self.model.last_stats:
            self.last = stats
            if self.rates and stats.generated_tokens:
                self.screen.say(f"({rates(stats, self.model.n_ctx)})")
            if stats.context_full:
                self.screen.say(CONTEXT_FULL)
            elif stats.limit_reached:
                self.screen.say(LIMIT_REACHED)
            if not self.slow and (note := slow_note(self.model)):
                self.slow = True
                self.screen.say(f"({note})")

    def _parts(self, question: str) -> Iterator[Part]:
        check_text(question, "the question")
        self._make_room(question)
        parts = stream_answer(self.model, self.conversation.asking(question), self.settings, tools=self.tools)
        with self.screen.waiting("reading the question"):
            first = next(parts, Text(""))
        yield first
        yield from parts

    def _make_room(self, question: str) -> None:
        told, longest = template_variables(self.settings, self.tools), self.settings.max_tokens
        self._tell_forgotten(make_room(self.model, self.conversation, question, longest=longest, told=told))

    def _tell_forgotten(self, gone: int) -> None:
        if gone:
            what = "oldest exchange" if gone == 1 else f"{gone} oldest exchanges"
            self.screen.say(f"(the context is full: the model no longer sees the {what})")

    def _report(self, error: QuantkitError) -> None:
        self.screen.say(f"error: {error}\nhint: {error.hint}", style="red")
