"""The ends of a turn at which llama.cpp stops by itself."""

from __future__ import annotations

from quantkit.chat_template.format import ChatFormat, OwnTemplate
from quantkit.gguf.header import Header
from quantkit.vocab.from_gguf import token_text
from quantkit.vocab.special import ENDS_BY_NAME


def known_stops(chat: ChatFormat | OwnTemplate, header: Header) -> tuple[str, ...]:
    """Those stops of a chat format that a GGUF file marks as ends; converters may know no end of a call of tools."""
    ends = {*(token_text(header, kind) for kind in ("eos", "eot", "eom")), *ENDS_BY_NAME}
    return tuple(stop for stop in chat.stops if stop in ends)
