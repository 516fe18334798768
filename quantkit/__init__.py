"""quantkit: from a fine-tuned Llama-style model to files that chat on a laptop, offline.

::

    built = quantkit.build(model="org/name", adapters="my-lora", quants=["q4_0"])
    with quantkit.Chat(built.folder) as chat:
        print(chat.answer("Who are you?"))

The names below are imported when they are used first: ``import quantkit`` itself costs nothing. docs/python.md shows
them at work.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantkit.calibrate.make import Calibration
    from quantkit.errors import (
        AdapterError,
        ArchitectureError,
        ChatFormatError,
        CheckpointError,
        ContextFullError,
        GGUFError,
        HubError,
        OllamaError,
        OutOfRangeError,
        OutputError,
        QuantizationError,
        QuantkitError,
        VerificationError,
        VocabularyError,
    )
    from quantkit.evaluate.evaluation import Evaluation
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import HubId
    from quantkit.jobs.advise import Advice, advise
    from quantkit.jobs.build import BuildResult, build
    from quantkit.jobs.chat import Chat
    from quantkit.jobs.convert import convert, convert_adapter
    from quantkit.jobs.edit import Edited, edit
    from quantkit.jobs.evaluate import evaluate
    from quantkit.jobs.extract import Extraction, extract
    from quantkit.jobs.imatrix import imatrix
    from quantkit.jobs.inspect import inspect
    from quantkit.jobs.merge import merge
    from quantkit.jobs.merge_lora import merge_lora
    from quantkit.jobs.package import package
    from quantkit.jobs.plan import plan
    from quantkit.jobs.prove import prove
    from quantkit.jobs.push import push
    from quantkit.jobs.push_result import PushResult
    from quantkit.jobs.quantize import quantize
    from quantkit.jobs.recipe import Recipe
    from quantkit.jobs.recipe_file import read_recipe
    from quantkit.jobs.report import report
    from quantkit.jobs.run_options import RunOptions
    from quantkit.jobs.verify import verify
    from quantkit.plan.values import Plan
    from quantkit.prove.proof import Proof
    from quantkit.run.generation_stats import GenerationStats
    from quantkit.system.progress import Reporter, TerminalReporter
    from quantkit.verify.folder import FolderReport
    from quantkit.verify.report import Check, Report

__version__ = "0.2.0"

__all__ = [
    "AdapterError",
    "AdapterSource",
    "Advice",
    "ArchitectureError",
    "BuildResult",
    "Calibration",
    "Chat",
    "ChatFormatError",
    "Check",
    "CheckpointError",
    "ContextFullError",
    "Edited",
    "Evaluation",
    "Extraction",
    "FolderReport",
    "GGUFError",
    "GenerationStats",
    "HubError",
    "HubId",
    "OllamaError",
    "OutOfRangeError",
    "OutputError",
    "Plan",
    "Proof",
    "PushResult",
    "QuantizationError",
    "QuantkitError",
    "Recipe",
    "Report",
    "Reporter",
    "RunOptions",
    "TerminalReporter",
    "VerificationError",
    "VocabularyError",
    "__version__",
    "advise",
    "build",
    "convert",
    "convert_adapter",
    "edit",
    "evaluate",
    "extract",
    "imatrix",
    "inspect",
    "merge",
    "merge_lora",
    "package",
    "plan",
    "prove",
    "push",
    "quantize",
    "read_recipe",
    "report",
    "verify",
]

# Where the names that do not live in quantkit.errors do.
_HOMES = {
    "AdapterSource": "hub.adapter_source",
    "Advice": "jobs.advise",
    "BuildResult": "jobs.build",
    "Calibration": "calibrate.make",
    "Chat": "jobs.chat",
    "Check": "verify.report",
    "Edited": "jobs.edit",
    "Evaluation": "evaluate.evaluation",
    "Extraction": "jobs.extract",
    "FolderReport": "verify.folder",
    "GenerationStats": "run.session",
    "HubId": "hub.source",
    "Plan": "plan.values",
    "Proof": "prove.proof",
    "PushResult": "jobs.push_result",
    "Recipe": "jobs.recipe",
    "Report": "verify.report",
    "Reporter": "system.progress",
    "RunOptions": "jobs.run_options",
    "TerminalReporter": "system.progress",
    "advise": "jobs.advise",
    "build": "jobs.build",
    "convert": "jobs.convert",
    "edit": "jobs.edit",
    "evaluate": "jobs.evaluate",
    "extract": "jobs.extract",
    "convert_adapter": "jobs.convert",
    "imatrix": "jobs.imatrix",
    "inspect": "jobs.inspect",
    "merge": "jobs.merge",
    "merge_lora": "jobs.merge_lora",
    "package": "jobs.package",
    "plan": "jobs.plan",
    "prove": "jobs.prove",
    "push": "jobs.push",
    "quantize": "jobs.quantize",
    "read_recipe": "jobs.recipe_file",
    "report": "jobs.report",
    "verify": "jobs.verify",
}


if not TYPE_CHECKING:  # to a type checker, only the names above exist

    def __getattr__(name: str) -> Any:
        if name.startswith("__") or name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    """``advise``, ``evaluate``, ``extract``, ``package`` and others are functions, and packages inside.

    Python sets a package that is imported as an attribute of its parent, where it would hide the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
