"""The look of all figures: settings, one look per method, panels with a legend and notes below.

Matplotlib is used through its objects, never through pyplot, and whatever the user's matplotlibrc says.
"""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
Style = dict[str, Any]  # keywords of matplotlib's artists

# Okabe and Ito's palette without its yellow, which is lost on white paper. No two of the three lengths have a
# common divisor, so 315 methods get 315 looks; 45 of them differ in black and white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p")
_DASHES = (None, (4, 1.5), (1, 1), (5, 1.5, 1, 1.5), (8, 2))
GREY: Style = {"color": "0.72", "linewidth": 0.6, "marker": ".", "markersize": 2, "zorder": 1.5}

_SETTINGS: Style = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a dollar
    "savefig.dpi": 200,
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "harness",
    "pdf.fonttype": 42,  # TrueType: what publishers accept
}
_METADATA: dict[str, Style] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_MARGIN = 0.2  # inches for the name of an axis


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Our settings over matplotlib's own, for drawing and for saving."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type, unused-ignore]
        yield


def image(figure: Figure, form: str) -> bytes:
    """A figure in one of FORMATS: the same figure gives the same bytes."""
    if form not in FORMATS:
        raise UsageError(unknown("figure format", form, FORMATS))
    out = io.BytesIO()
    with settings():
        figure.savefig(out, format=form, metadata=_METADATA[form])
    return out.getvalue()


# -- methods -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """How a method is drawn in every figure."""

    colour: str
    marker: str
    dashes: tuple[float, ...] | None

    def line(self) -> Style:
        return {"color": self.colour, "linestyle": (0, self.dashes), "linewidth": 1.1}

    def marked(self) -> Style:
        return {**self.line(), **self.point(), "linestyle": (0, self.dashes)}

    def point(self) -> Style:
        edge: Style = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.4}
        return {"color": self.colour, "marker": self.marker, "linestyle": "none", **edge}


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look for every method, by its place in the alphabet: the same in all figures of these methods."""
    return {
        name: Look(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, name in enumerate(sorted(set(methods)))
    }


def shown(text: str, most: int = 44) -> str:
    """A name that can be drawn: what the font lacks is spelled out, a very long name is cut."""
    known = _letters()
    whole = "".join(c if ord(c) in known and c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return whole if len(whole) <= most else f"{whole[: most - 1]}…"


@lru_cache
def _letters() -> frozenset[int]:
    """Code points that the font has."""
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


# -- panels ---------------------------------------------------------------------------------------


class Panels:
    """A figure of panels in rows; below them the name of the x axis, one legend, and the notes. All in inches."""

    def __init__(
        self,
        panels: int,
        height: float,
        notes: Sequence[str],
        entries: Sequence[tuple[str, Style]],
        across: int | None = None,
    ) -> None:
        """`height` is that of one panel; `entries` are names and styles of the legend; `across` panels in a row."""
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        across = across or (panels if panels <= 4 else min(4, math.ceil(panels / 2)))
        rows = math.ceil(panels / across)
        width = 5.4 if across == 1 else max(1.85 * across, 5.4)
        lines = [line for text in notes for line in textwrap.wrap(shown(text, 3000), int(width * 21), tabsize=1)]
        longest = max([len(shown(name)) for name, _ in entries], default=0)
        columns = max(1, min(len(entries), int(width / (0.058 * longest + 0.5))))
        legend_foot = 0.14 + 0.108 * len(lines)
        foot = legend_foot + 0.22 * bool(entries) + 0.128 * math.ceil(len(entries) / columns)
        total = foot + height * rows
        self.figure = Figure(figsize=(width, total))
        left = _MARGIN / width
        self._box = (left, foot / total, 1 - left, 1 - foot / total)
        self._layout = ConstrainedLayoutEngine(rect=self._box, w_pad=0.05, h_pad=0.05)
        self.figure.set_layout_engine(self._layout)
        grid = list(self.figure.subplots(rows, across, squeeze=False).flat)
        self.axes: list[Axes] = grid[:panels]
        for empty in grid[panels:]:
            empty.remove()
        at = (legend_foot - 0.04) / total
        self.figure.text(0.08 / width, at, "\n".join(lines), fontsize=5.8, va="top", color="0.25", linespacing=1.25)
        if entries:
            self._legend(entries, columns, legend_foot / total)

    def _legend(self, entries: Sequence[tuple[str, Style]], columns: int, foot: float) -> None:
        """Texts are set afterwards: a legend leaves out labels that begin with an underscore."""
        from matplotlib.lines import Line2D

        legend = self.figure.legend(
            [Line2D([], [], **style) for _, style in entries],
            [str(place) for place in range(len(entries))],
            loc="lower center",
            bbox_to_anchor=(0.5, foot),
            ncols=columns,
            handlelength=2.6,
            columnspacing=1.2,
            labelspacing=0.25,
            borderaxespad=0,
            borderpad=0,
        )
        for text, (name, _) in zip(legend.get_texts(), entries, strict=True):
            text.set_text(shown(name))

    def finished(self, x: str, y: str) -> Figure:
        """Name the axes once for all panels, lay out once and for all."""
        left, low, width, height = self._box
        self.figure.text(left + width / 2, low, x, ha="center", va="top")
        self.figure.text(left * 0.3, low + height / 2, y, rotation=90, ha="left", va="center")
        self._layout.execute(self.figure)
        self.figure.set_layout_engine("none")
        for axes in self.axes:  # the solver's last digits differ from run to run
            left, low, width, height = (round(float(side), 6) for side in axes.get_position().bounds)
            axes.set_position((left, low, width, height))
        return self.figure


# -- axes --------------------------------------------------------------------------------------------


def shots_axis(axes: Axes, shots: Sequence[int]) -> None:
    """Powers of two at equal distances, and a tick for each number of shots."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(list(shots), [str(value) for value in shots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(shots[0] / 2**0.45, shots[-1] * 2**0.45)


def cost_axis(axes: Axes, values: Sequence[float], unit: str) -> None:
    """Logarithmic; with a linear piece from 0 to the decade of the smallest positive value where 0 occurs."""
    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

    positive = [value for value in values if value > 0]
    if not positive:
        return
    least = 10.0 ** math.floor(math.log10(min(positive)))
    decades = math.ceil(math.log10(max(positive) / least))
    ticks = [least * 10.0**i for i in range(0, decades + 1, math.ceil((decades + 1) / 4))]
    low, high = min(positive) / 2, max(positive) * 2
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=least, linscale=0.6)
        axes.set_xlim(-0.3 * least, high)
        ticks = [0.0, *ticks]
    else:
        axes.set_xscale("log")
        seen = any(low <= tick <= high for tick in ticks)
        axes.set_xlim((low, high) if seen else (least / 1.2, least * 12))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(EngFormatter(unit, sep=""))
    axes.xaxis.set_minor_locator(NullLocator())


_DIAGONAL: Style = {"color": "0.35", "linewidth": 0.9}
EQUAL_DROP: Style = {"color": "0.6", "linewidth": 0.7, "linestyle": (0, (3, 2))}


def equal_drops(axes: Axes) -> None:
    """Lines on which accuracy falls by the same number of points from x to y; 0 is the diagonal."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (right - left + high - low) / step <= 7)
    for drop in range(-100, 101, step):
        start, end = max(left, low + drop), min(right, high + drop)
        if end - start < 0.08 * (right - left):
            continue
        axes.plot([start, end], [start - drop, end - drop], zorder=0.5, **(EQUAL_DROP if drop else _DIAGONAL))
        axes.annotate(
            f"{-drop:+d}".replace("-", "−") if drop else "no drop",
            (end, end - drop),
            (-1, -1),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=6,
            color="0.35",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def dot(axes: Axes, x: float, y: float, widths: tuple[float | None, float | None], look: Look) -> None:
    """A point with the half widths of its intervals in x and y, cut at 0 and 100 %."""
    bars: Style = {"color": look.colour, "linewidth": 0.6, "alpha": 0.6, "zorder": 1.5}
    if widths[0]:
        axes.hlines([y], max(x - widths[0], 0), min(x + widths[0], 100), **bars)
    if widths[1]:
        axes.vlines([x], max(y - widths[1], 0), min(y + widths[1], 100), **bars)
    axes.plot([x], [y], zorder=3, **look.point())


def rank_axis(
    axes: Axes, ranks: Sequence[tuple[str, float, Look]], bars: Sequence[tuple[float, float]], height: float
) -> None:
    """Mean ranks on a scale whose names stand left and right, best at the left, and bars below the scale.

    As in Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006. `ranks` are names,
    values and looks, best first; `height` of the panel is in inches, and so is y.
    """
    low, high = 1, len(ranks)
    beside = (high - low) * 0.04
    axes.set_axis_off()
    axes.set_ylim(-height, 0.24)
    axes.plot([low, high], [0, 0], color="black", linewidth=0.8)
    for tick in range(low, high + 1, math.ceil((high - low) / 12)):
        axes.plot([tick, tick], [0, 0.05], color="black", linewidth=0.8)
        axes.text(tick, 0.08, str(tick), ha="center", va="bottom")
    levels = _levels(bars)
    for (start, end), level in zip(bars, levels, strict=True):
        y = -0.09 - _BAR_STEP * level
        axes.plot([start, end], [y, y], color="0.2", linewidth=2.6, solid_capstyle="butt", zorder=2)
    first, half = _first_name(levels), math.ceil(high / 2)
    for place, (name, rank, look) in enumerate(ranks):
        at_left = place < half
        y = -first - _NAME_STEP * (place if at_left else high - 1 - place)
        edge = low - beside if at_left else high + beside
        axes.plot([rank, rank, edge], [0, y, y], color=look.colour, linewidth=0.8, zorder=1)
        text = f"{shown(name)}  {rank:.2f}" if at_left else f"{rank:.2f}  {shown(name)}"
        axes.annotate(text, (edge, y), (-3 if at_left else 3, 0), textcoords="offset points",
                      ha="right" if at_left else "left", va="center", fontsize=7)  # fmt: skip


def rank_height(methods: int, bars: Sequence[tuple[float, float]]) -> float:
    """Inches that `rank_axis` needs below its scale."""
    return _first_name(_levels(bars)) + _NAME_STEP * math.ceil(methods / 2)


_BAR_STEP, _NAME_STEP = 0.08, 0.15  # inches


def _first_name(levels: Sequence[int]) -> float:
    return 0.2 + _BAR_STEP * (max(levels, default=-1) + 1)


def _levels(bars: Sequence[tuple[float, float]]) -> list[int]:
    """The highest level for each bar on which it touches none before it; bars come by their start."""
    ends: list[float] = []
    levels = []
    for start, end in bars:
        level = next((i for i, before in enumerate(ends) if before + 0.2 < start), len(ends))
        ends[level : level + 1] = [end]
        levels.append(level)
    return levels
