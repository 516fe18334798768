"""No released chat template is named for how it opens an answer."""

from __future__ import annotations

from quantkit.chat_template.opening import find_opening, opening_fault
from quantkit.errors import ChatFormatError
from tests.support.chat_templates import real_templates


def test_no_released_template_is_named() -> None:
    faults = {}
    for name, template in real_templates().items():
        end = "<|endoftext|>" if name == "OLMo-2" else "</s>"
        try:
            opening = find_opening(template, bos_token=end if name == "OLMo-2" else "<s>", eos_token=end)
        except ChatFormatError:
            continue
        faults[name] = opening_fault(opening)
    assert len(faults) > 75
    assert {name: fault for name, fault in faults.items() if fault} == {}
