"""Chat templates that the tests' vocabularies carry."""

from __future__ import annotations

from functools import cache

from tests.support.family_templates import TEMPLATES
from tests.support.reference import reference_folder

# As of Meta-Llama-3-8B-Instruct.
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# As of Qwen1.5-7B-Chat.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As of Mistral-7B-Instruct-v0.1.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def template_file(name: str) -> str:
    """llama.cpp's template file *name*."""
    return (reference_folder() / "models" / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def real_templates() -> dict[str, str]:
    """Every chat template that the tests have, by name: llama.cpp's files and those of further families."""
    files = {
        path.stem: template_file(path.stem) for path in (reference_folder() / "models" / "templates").glob("*.jinja")
    }
    return files | TEMPLATES | {"Llama-3": LLAMA_3, "Qwen1.5": CHATML, "Mistral-Instruct-v0.1": MISTRAL}
