"""What all figures share: sizes, looks that differ without colour, names of variants, and saving."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, ParamSpec, Protocol
from xml.sax.saxutils import escape

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from ser_memory.common.files import write_whole
from ser_memory.train.report.variants import OfVariant, variant_of
from ser_memory.train.results import Result
from ser_memory.train.runs import NO_SAMPLER, Variant

Floats = npt.NDArray[np.float64]

WIDE = 170.0  # mm: the text of a printed page

_MM_PER_INCH = 25.4
_HANDLE, _LETTER, _LEGEND_LINE = (
    15.0,
    1.55,
    4.3,
)  # mm of a legend: a line's sample, a letter, the height of a line
_SMALL = 8.0  # pt, the smallest text
_FONT = "DejaVu Sans"  # comes with matplotlib
_STYLE: dict[Any, Any] = {
    "font.family": _FONT,
    "font.size": _SMALL,
    "axes.titlesize": _SMALL,
    "axes.labelsize": _SMALL,
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
    "legend.fontsize": _SMALL,
    "figure.titlesize": _SMALL + 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "patch.linewidth": 0.6,
    "grid.color": "0.85",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # shows a whole period of every line style
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "ser-memory",  # else the ids of an SVG are random
    "pdf.fonttype": 42,  # TrueType, which can be searched
}

P = ParamSpec("P")


@dataclass(frozen=True)
class Drawn:
    """A figure with its words."""

    figure: Figure
    title: str
    alt: str  # one or two sentences that say what the figure shows, for readers who do not see it
    caption: str  # how to read the figure


@dataclass(frozen=True)
class Saved:
    """A figure in its files. `svg` is the content of the SVG file."""

    name: str
    svg: str
    alt: str
    caption: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Look:
    """How a variant is drawn: colour, marker and line all differ, so that each alone is enough."""

    colour: str
    marker: str
    line: Any  # as matplotlib's linestyle
    filled: bool

    @property
    def face(self) -> str:
        """The colour inside a marker."""
        return self.colour if self.filled else "white"


class OfCorpus(Protocol):
    """A row that belongs to a corpus."""

    @property
    def corpus(self) -> str: ...


# Colours: Okabe and Ito (2008), which colour-blind readers can tell apart; without yellow, too pale on white.
_LOOKS = (
    ("#000000", "-"),
    ("#E69F00", "--"),
    ("#0072B2", "-."),
    ("#CC79A7", ":"),
    ("#009E73", (0, (6, 1, 1, 1, 1, 1))),
    ("#D55E00", (0, (8, 2))),
    ("#56B4E9", (0, (3, 1))),
)
# Then the same colours and lines with other markers, so that 21 variants can be told apart.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X"), ("<", ">", "p", "*", "h", "d", "8")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, by its position. The first seven have markers that are filled; after 21, looks repeat."""
    kinds = [(_MARKERS[0], True), (_MARKERS[0], False), (_MARKERS[1], False)]
    every = [
        Look(colour, marker, line, filled)
        for markers, filled in kinds
        for (colour, line), marker in zip(_LOOKS, markers, strict=True)
    ]
    return dict(zip(dict.fromkeys(names), cycle(every)))


def rows_of(results: Iterable[Result], dimension: str, metric: str, split: str) -> list[Result]:
    """The results that a figure shows. Raises ValueError if there is none."""
    shown = [row for row in results if (row.dimension, row.metric, row.split) == (dimension, metric, split)]
    if not shown:
        raise ValueError(f"no result has {metric} of {dimension} on the split {split}")
    return shown


def names_of(rows: Iterable[OfVariant]) -> dict[Variant, str]:
    """A short name for each variant, in the order of the rows.

    The sampler is named if there are several, and the size of the memory if there are several.
    """
    variants = list(dict.fromkeys(variant_of(row) for row in rows))
    with_memory = [variant for variant in variants if variant.sampler != NO_SAMPLER]
    samplers = len({variant.sampler for variant in with_memory}) > 1
    sizes = len({variant.memory_size for variant in with_memory}) > 1
    named = {}
    for variant in variants:
        parts = [variant.sampler] * samplers + [f"{variant.memory_size:,}"] * sizes
        shown = f" ({', '.join(parts)})" if parts and variant in with_memory else ""
        named[variant] = f"{variant.strategy}{shown}"
    return named


def trained_in(results: Iterable[OfCorpus]) -> dict[str, int]:
    """The stage, from 1, that trains on each corpus: results.csv lists the corpora in the order of the stages."""
    return {corpus: stage for stage, corpus in enumerate(dict.fromkeys(row.corpus for row in results), 1)}


def measure(metric: str, dimension: str) -> str:
    """CCC of activation."""
    return f"{metric.upper()} of {dimension}"


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the spread of one value is 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def extremes(values: Mapping[str, float]) -> str:
    """`gem is highest with 0.41 and finetune lowest with 0.08`, for an alternative text."""
    if not values:
        return "no variant has a figure"
    ordered = sorted(values, key=lambda name: values[name])
    if len(ordered) < 2:  # noqa: PLR2004  # nothing to compare
        return " and ".join(f"{name} has {values[name]:.2f}" for name in ordered)
    low, high = ordered[0], ordered[-1]
    return f"{high} is highest with {values[high]:.2f} and {low} lowest with {values[low]:.2f}"


def counted(n: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def in_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Draw in the style of the report; matplotlib's own settings stay as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with mpl.rc_context(_STYLE):
            drawn = draw(*args, **kwargs)
            # Settled once: the layout would move a little at every output, and so would the bytes.
            drawn.figure.draw_without_rendering()
            drawn.figure.set_layout_engine("none")
            return drawn

    return styled


def sheet(width: float, height: float) -> Figure:
    """An empty figure; width and height in mm."""
    return Figure(figsize=(width / _MM_PER_INCH, height / _MM_PER_INCH), layout="constrained")


def panels(figure: Figure, n: int, columns: int, **options: Any) -> list[Axes]:
    """`n` axes in rows of `columns`; what is left of the last row stays empty. Options are those of subplots."""
    rows = -(-n // columns)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    flat = [axes for row in grid for axes in row]
    for index, axes in enumerate(flat):
        if index >= n:
            axes.set_axis_off()
        elif index + columns >= n:
            axes.tick_params(
                labelbottom=True
            )  # shared axes have labels in the last row only, which may end earlier
    return flat[:n]


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """One legend for all panels; the figure grows by its height."""
    width, height = figure.get_size_inches()
    longest = max(map(len, names), default=0)
    columns = max(1, min(len(names), int(width * _MM_PER_INCH // (_HANDLE + _LETTER * longest))))
    rows = -(-len(names) // columns)
    figure.set_size_inches(width, height + rows * _LEGEND_LINE / _MM_PER_INCH)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, columnspacing=1.2)


def label_below(axes: Sequence[Axes], columns: int, label: str) -> None:
    """The same label under each panel that has none below it."""
    for index, panel in enumerate(axes):
        if index + columns >= len(axes):
            panel.set_xlabel(label)


def ink_on(colours: Colormap, position: float) -> str:
    """Black or white, whichever can be read on a colour map's colour at a position in [0, 1]."""
    red, green, blue, _ = colours(float(position))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"  # noqa: PLR2004  # luma, ITU-R BT.601


def to_svg(drawn: Drawn) -> str:
    """The figure as an SVG with a title and a description. The same figure gives the same bytes."""
    buffer = io.StringIO()
    facts = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context(_STYLE):
        drawn.figure.savefig(buffer, format="svg", metadata=facts)
    # Where a viewer lacks the font, another one without serifs.
    drawing = buffer.getvalue().replace(f"'{_FONT}'", f"'{_FONT}', Verdana, Arial, sans-serif")
    words = f"<title>{escape(drawn.title)}</title><desc>{escape(drawn.alt)}</desc>"
    return re.sub(r"(<svg\b[^>]*)>", rf'\1 role="img">\n {_literal(words)}', drawing, count=1)


def to_pdf(drawn: Drawn) -> bytes:
    """The figure as a PDF. The same figure gives the same bytes."""
    buffer = io.BytesIO()
    facts = {"Title": drawn.title, "Creator": None, "Producer": None, "CreationDate": None}
    with mpl.rc_context(_STYLE):
        drawn.figure.savefig(buffer, format="pdf", metadata=facts)
    return buffer.getvalue()


def to_png(drawn: Drawn) -> bytes:
    """The figure as a PNG of 200 dots per inch."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        drawn.figure.savefig(buffer, format="png", dpi=200, metadata={"Title": drawn.title, "Software": None})
    return buffer.getvalue()


def save(drawn: Drawn, folder: Path, name: str) -> Saved:
    """Write NAME.svg and NAME.pdf into a folder, which is made if it does not exist. Raises OSError."""
    svg, files = to_svg(drawn), (folder / f"{name}.svg", folder / f"{name}.pdf")
    write_whole(files[0], svg)
    write_whole(files[1], to_pdf(drawn))
    return Saved(name, svg, drawn.alt, drawn.caption, files)


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")  # in the replacement of a regular expression
