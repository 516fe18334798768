"""The plots of the page, as SVG to be put into HTML: text stays text, and colours are the page's own.

matplotlib draws with placeholder colours, each of which becomes a variable of the page's style sheet, so one drawing is
right on a light and on a dark page. The same figures give the same bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantkit.errors import QuantkitError
from quantkit.page.values import FileFigures
from quantkit.system.shell import installation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colours by the variable that they become.
_INK, _FAINT, _LINE, _POINT, _CHOSEN = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES: Mapping[str, str] = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _LINE: "var(--line)",
    _POINT: "var(--accent)",
    _CHOSEN: "var(--chosen)",
}
_WIDTH, _POINTS = 7.2, 72  # inches; matplotlib's SVG has 72 units an inch
_SETTINGS: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label is what it says
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _LINE,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "font.size": 10.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
}


def require_plots() -> None:
    """See that the plotting library is there.

    Raises:
        QuantkitError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise QuantkitError("the report needs matplotlib", hint=installation("report")) from None


def quality_plot(files: Sequence[FileFigures], chosen: str = "") -> str:
    """Size against KL divergence, both small where it is good, with the standard error of each mean.

    Args:
        files: those that are compared with the reference.
        chosen: the file whose types were chosen tensor by tensor.

    Returns:
        SVG; empty if no file has a divergence above zero.
    """
    points = [(one.nbytes, one["kl_mean"], one["kl_error"] or 0.0, one) for one in files if one["kl_mean"]]
    if not points:
        return ""
    unit, name = _unit(max(nbytes for nbytes, *_ in points))

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        line = sorted((nbytes / unit, mean) for nbytes, mean, _, one in points if one.file != chosen)
        axes.plot(*zip(*line, strict=True), color=_LINE, linewidth=1.2) if line else None
        for nbytes, mean, error, one in points:
            colour = _CHOSEN if one.file == chosen else _POINT
            low = min(error, mean * 0.99)  # a logarithm has no room below zero
            axes.errorbar(
                nbytes / unit, mean, yerr=[[low], [error]], fmt="o", markersize=6.5, color=colour, ecolor=colour,
                elinewidth=1.2, capsize=3,
            )  # fmt: skip
            place = (nbytes / unit, mean)
            axes.annotate(_plain(one.label), place, xytext=(8, 6), textcoords="offset points", color=_INK)
        axes.margins(x=0.12, y=0.15)
        axes.set_xlabel(f"size in {name}")
        axes.set_ylabel("KL divergence (nats, logarithmic)")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.6f}".rstrip("0").rstrip("."))
        axes.minorticks_off()

    summary = "; ".join(f"{one.label} {nbytes / unit:.3g} {name}, {mean:.2g}" for nbytes, mean, _, one in points)
    return _svg("quality", 4.0, draw, "Size against KL divergence", f"Lower left is better. {summary}.")


def bars_plot(name: str, files: Sequence[FileFigures], key: str, unit: float, label: str) -> str:
    """A bar for each file.

    Args:
        name: of the plot, for the names in its SVG.
        files: the files.
        key: the figure.
        unit: what it is divided by.
        label: what is shown, for the axis and as the title.

    Returns:
        SVG; empty if no file has the figure.
    """
    rows = [(_plain(one.label), value / unit) for one in files if (value := one[key]) is not None]
    if not rows:
        return ""

    def draw(axes: Axes) -> None:
        places = list(range(len(rows)))[::-1]
        axes.barh(places, [value for _, value in rows], height=0.62, color=_POINT)
        axes.set_yticks(places, [text for text, _ in rows], color=_INK)
        most = max(value for _, value in rows)
        for place, (_, value) in zip(places, rows, strict=True):
            axes.text(value + most * 0.012, place, _short(value), va="center", color=_INK)
        axes.set_xlim(0, most * 1.12 or 1)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)

    summary = ", ".join(f"{text} {_short(value)}" for text, value in rows)
    return _svg(name, 0.75 + 0.34 * len(rows), draw, label, f"{summary}.")


def _svg(name: str, height: float, draw: Any, title: str, summary: str) -> str:
    require_plots()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        return _inline(figure, name, title, summary)


def _inline(figure: Figure, name: str, title: str, summary: str) -> str:
    """The figure as an element of a page: no prologue, no metadata, no style sheet, its own names."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)  # the texts of labels, once more
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="[^"]+"', text)
    opening = f'<svg {box[0] if box else ""} role="img" aria-labelledby="{name}-t {name}-d">'
    about = f'<title id="{name}-t">{html.escape(title)}</title><desc id="{name}-d">{html.escape(summary)}</desc>'
    return re.sub(r"<svg[^>]*>", lambda _: opening + about, text, count=1).strip()


def _unit(nbytes: float) -> tuple[float, str]:
    return (1e9, "GB") if nbytes >= 1e9 else (1e6, "MB")


def _plain(text: str) -> str:
    """A label from a report: one line, not too long."""
    return "".join(character if character.isprintable() else " " for character in text)[:40]


def _short(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{min(digits, 2)}f}"
