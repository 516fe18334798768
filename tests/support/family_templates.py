"""Chat templates of supported families that llama.cpp has no file of, by their documented formats.

They are short, and have the habits of the real ones: what they refuse, where the system message goes, and what they
write when no answer is asked for.
"""

from __future__ import annotations

_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}"
)
_ALTERNATES = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
_PHI = "{{ '<|' + message['role'] + '|>' + %s + message['content'] + '<|end|>' + %s }}"


def _per_message(body: str, *, before: str = "", after: str = "") -> str:
    return f"{before}{{% for message in messages %}}{body}{{% endfor %}}{after}"


# Llama-2-7b-chat-hf; each round is a sequence of its own, and the system message stands in the first question.
LLAMA_2 = _per_message(
    _ALTERNATES + "{% if loop.index0 == 0 and system is defined %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}",
    before=_SYSTEM_FIRST,
)
# Mistral-7B-Instruct-v0.2 and the first Mixtral-8x7B-Instruct; no system message.
MISTRAL_V2 = _per_message(
    _ALTERNATES + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}",
    before="{{ bos_token }}",
)
# Mistral-7B-Instruct-v0.3: the system message stands in the last question.
MISTRAL_V3 = _per_message(
    _ALTERNATES + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system + '\\n\\n' if loop.last and system is defined else '') + message['content'] + '[/INST]' }}"
    "{% elif message.tool_calls is defined %}{{ '[TOOL_CALLS] ' + message.tool_calls | tojson + eos_token }}"
    "{% else %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}",
    before=_SYSTEM_FIRST + "{{ bos_token }}",
)
# Mixtral-8x7B-Instruct-v0.1 as it is now.
MIXTRAL = _per_message(
    _ALTERNATES + "{% if message['role'] == 'user' %}"
    "{{ ' [INST] ' + (system + '\\n\\n' if loop.first and system is defined else '') + message['content'] }}"
    "{{ ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}",
    before=_SYSTEM_FIRST + "{{ bos_token }}",
)
# gemma-3-1b-it: the system message stands in the first question, and is not trimmed.
GEMMA_3 = _per_message(
    _ALTERNATES + "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{{ system + '\\n\\n' if loop.first and system is defined else '' }}"
    "{{ message['content'] | trim }}{{ '<end_of_turn>\\n' }}",
    before="{{ bos_token }}" + _SYSTEM_FIRST,
    after="{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
)
# Phi-3-mini-4k-instruct as it was first: the question already asks for the answer.
PHI_3_FIRST = _per_message(
    "{% if message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '<|end|>\\n<|assistant|>\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + '<|end|>\\n' }}{% endif %}",
    before="{{ bos_token }}",
)
# Phi-3-mini-4k-instruct as it is now.
PHI_3 = _per_message(
    _PHI % ("'\\n'", "'\\n'"),
    after="{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
)
# phi-4: the question already asks for the answer.
PHI_4 = _per_message(
    "{% if message['role'] == 'assistant' %}{{ message['content'] + '<|im_end|>' }}{% else %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{{ '<|im_start|>assistant<|im_sep|>' if message['role'] == 'user' else '' }}{% endif %}"
)
# Phi-4-mini-instruct: no line ends; tools stand in the system message.
PHI_4_MINI = _per_message(
    "{% if message['role'] == 'system' and 'tools' in message %}{{ '<|tool|>' + message['tools'] }}{% endif %}"
    + _PHI % ("''", "''"),
    after="{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
)
# glm-4-9b-chat without its tools: nothing ends an answer but the next turn's token.
GLM_4 = _per_message(
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}",
    before="[gMASK]<sop>",
    after="{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
)
# granite-3.0-2b-instruct.
GRANITE_3 = _per_message(
    "{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
    before="{% if tools %}{{ '<|start_of_role|>available_tools<|end_of_role|>' + tools | tojson }}{% endif %}",
)
# OLMo-2-1124-7B-Instruct: the line end behind an answer belongs to what follows, and BOS is EOS.
OLMO_2 = _per_message(
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' + message['content'] + eos_token + ('' if loop.last else '\\n') }}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    before="{{ bos_token }}",
)
# SmolLM2-1.7B-Instruct: ChatML with a system message of its own.
SMOLLM_2 = _per_message(
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful AI assistant "
    "named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}",
    after="{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
)

TEMPLATES = {
    "Llama-2-chat": LLAMA_2,
    "Mistral-Instruct-v0.2": MISTRAL_V2,
    "Mistral-Instruct-v0.3": MISTRAL_V3,
    "Mixtral-Instruct": MIXTRAL,
    "gemma-3": GEMMA_3,
    "Phi-3 (first)": PHI_3_FIRST,
    "Phi-3": PHI_3,
    "phi-4": PHI_4,
    "Phi-4-mini": PHI_4_MINI,
    "granite-3.0": GRANITE_3,
    "OLMo-2": OLMO_2,
    "SmolLM2": SMOLLM_2,
}
