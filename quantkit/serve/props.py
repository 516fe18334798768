"""``GET /props``: what llama.cpp's server tells of itself, as far as its clients read it.

They look for the size of the context, tools, pictures and the chat template. The file has its name alone here, without
the folder, which is nobody's business.
"""

from __future__ import annotations

from typing import Any

import quantkit
from quantkit.run.settings import Settings
from quantkit.serve.answering import Answers
from quantkit.serve.page.defaults import shown_defaults


def props(name: str, answers: Answers, settings: Settings) -> dict[str, Any]:
    """The object.

    Args:
        name: the model's name.
        answers: has the model.
        settings: the settings for what a request leaves out.
    """
    model, calls = answers.model, answers.model.answers.calls
    defaults = shown_defaults(settings, model)["defaults"]
    return {
        "default_generation_settings": {
            "n_ctx": model.n_ctx,
            "params": {**defaults, "n_predict": defaults["max_tokens"], "stop": list(settings.stops)},
        },
        "total_slots": answers.parallel,
        "model_alias": name,
        "model_path": model.path.name,
        "modalities": {"vision": False, "video": False, "audio": False},
        "chat_template": model.chat_template,
        "chat_template_caps": {
            "supports_tools": calls is not None,
            "supports_tool_calls": calls is not None,
            "supports_parallel_tool_calls": calls is not None and calls.several,
        },
        "bos_token": model.bos_token,
        "eos_token": model.eos_token,
        "build_info": f"quantkit {quantkit.__version__}",
        "is_sleeping": False,
        "endpoint_slots": False,
        "endpoint_props": False,
        "endpoint_metrics": True,
    }
