"""Renders the page with Jinja. Everything in a report may come from a stranger's model, so everything is escaped.

But for what is ours: the plots, whose texts :mod:`quantkit.page.plots` has escaped, the style sheet and the script.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING

from quantkit.page.plots import bars_plot, quality_plot
from quantkit.page.values import SHADES, Page
from quantkit.plan.choice import BITS, FIT
from quantkit.system.template_folder import template_folder
from quantkit.system.units import size

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = "page"


def render_page(page: Page) -> str:
    """The page: one HTML file that needs nothing else, neither the network nor scripts. The same values, the same text.

    Raises:
        QuantkitError: matplotlib is missing, which an evaluation's plots need.
    """
    evaluation = page.evaluation
    plots = {"quality": "", "speed": "", "memory": ""}
    if evaluation is not None:
        chosen = _chosen(page)
        plots = {
            "quality": quality_plot(evaluation.compared, chosen),
            "speed": bars_plot(
                "speed", evaluation.files, "answer_tokens_per_second", 1, "Tokens of an answer a second"
            ),
            "memory": bars_plot("memory", evaluation.files, "memory_bytes", 1e6, "Memory in MB"),
        }
    script = (template_folder() / _FOLDER / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _environment().get_template("report.html").render(
        page=page,
        manifest=page.manifest,
        evaluation=evaluation,
        asked=_asked(page),
        chosen=_chosen(page),
        opened=_opened(page),
        plots=plots,
        style=_environment().get_template("report.css").render(shades=SHADES),
        script=script,
        script_hash=digest,
        shades=SHADES,
    )  # fmt: skip


def _chosen(page: Page) -> str:
    """The file whose types were chosen tensor by tensor."""
    if page.choice is None or page.evaluation is None:
        return ""
    return next((one.file for one in page.evaluation.files if one.label == page.choice.label), "")


def _asked(page: Page) -> str:
    """What the types were chosen for, in words."""
    if page.choice is None:
        return ""
    kind, value = page.choice.asked.kind, page.choice.asked.value
    if kind == BITS:
        return f"{value:g} bits a weight"
    return f"{size(value)} of memory" if kind == FIT else size(value)


def _opened(page: Page) -> str:
    """The file whose heat map is seen first: the chosen one, else the first of those with the most types."""
    maps = () if page.evaluation is None else page.evaluation.maps
    most = max(maps, key=lambda one: len({kind for _, kind, _ in one.file.tensors}), default=None)
    return _chosen(page) or ("" if most is None else most.file.file)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template_folder() / _FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
    )
    environment.filters |= {"size": size, "figure": figure, "percent": _percent, "sign": _sign}
    return environment


def figure(value: float | None, digits: int = 2) -> str:
    """A number with a fixed number of digits, a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _sign(value: float | None, digits: int) -> str:
    return "" if value is None else f"± {value:,.{digits}f}"
