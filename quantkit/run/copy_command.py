"""``/copy``: the last answer, or the last block of code in it, to the clipboard."""

from __future__ import annotations

from quantkit.errors import QuantkitError
from quantkit.run.screen import Screen
from quantkit.run.transcript import Conversation
from quantkit.system.clipboard import LONGEST_SEQUENCE, copy_with_program, osc52

CODE = "code"


def copy_answer(conversation: Conversation, what: str, screen: Screen) -> str:
    """Carry out the command; returns what to say.

    Args:
        conversation: its last answer is copied.
        what: "" for the answer, "code" for its last block of code.
        screen: a terminal that can copy as well.

    Raises:
        QuantkitError: there is no answer, it has no code, or there is no clipboard.
    """
    if what not in ("", CODE):
        raise QuantkitError(f"/copy copies the answer, or its {CODE}, not {what!r}", hint=f"/copy, or /copy {CODE}")
    if not conversation.turns:
        raise QuantkitError("there is no answer yet", hint="ask a question first")
    text, name = conversation.turns[-1]["content"], "the answer"
    if what == CODE:
        text, name = last_code(text), "the last block of code"
        if not text:
            raise QuantkitError("the last answer has no block of code", hint="/copy copies the whole answer")
    copied = f"{name} ({len(text.splitlines())} lines)" if "\n" in text.strip() else name
    sequence = osc52(text)
    sent = bool(sequence) and screen.command(sequence)
    program = copy_with_program(text)
    if program:
        return f"(copied {copied} with {program}{', and through the terminal (OSC 52)' if sent else ''})"
    if sent:
        return f"(sent {copied} to the terminal's clipboard (OSC 52), which some terminals have to be set to allow)"
    why = "" if sequence else f", and a terminal takes at most {LONGEST_SEQUENCE} bytes"
    raise QuantkitError(
        f"not copied: there is no clipboard program{why}", hint="install wl-copy or xclip, or /save FILE"
    )


def last_code(text: str) -> str:
    """The content of the last block of code of a text in Markdown, "" if there is none."""
    from markdown_it import MarkdownIt

    blocks = MarkdownIt("commonmark").disable("inline").parse(text)
    return next((block.content for block in reversed(blocks) if block.type in ("fence", "code_block")), "")
