"""The processes that a plan asks, started before their questions are known.

Each takes 0.1 to 0.2 s to import what it needs, and this one as long to import what it needs. To be early, the module
imports only the standard library and what it starts them with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from quantkit.chat_template.process import shared_process
from quantkit.system.child_process import begun


@contextmanager
def plan_processes(*, mixtures: bool) -> Iterator[None]:
    """Start the process that runs chat templates, and the one that asks llama.cpp for its mixtures.

    The block is where the plan is made; what is not asked in it is ended with it. Blocks can be nested.

    Args:
        mixtures: whether llama.cpp will be asked, as far as is known.
    """
    shared_process().start()
    with begun("quantkit.plan.dry_run") if mixtures else nullcontext():
        yield
