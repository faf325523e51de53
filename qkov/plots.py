"""Pictures: layer-by-head maps of a value per slice, and the scatter that shows the marginal identity.

Figures are made without pyplot, so that nothing has to be closed and no global state changes, in matplotlib's default
style whatever the user's settings, on white. ``_repr_svg_`` shows them in a notebook. On one machine, the same values
give the same bytes of SVG.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from . import errors, escaping
from .geometry import BLOCKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.image import AxesImage
    from matplotlib.legend import Legend

    Options = ParamSpec("Options")
    Drawn = TypeVar("Drawn")

    from .heatmap import Heatmap
    from .option_types import PathLike
    from .pair_summary import PairSummary


SEQUENTIAL = "viridis"
DIVERGING = "RdBu"  # red is conflict, usually the low end; readable with every common colour blindness
ABSENT_COLOUR = "0.85"
STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "qkov",
}
BLOCK_TITLES = {"Q": "Q, query", "K": "K, key", "V": "V, value", "O": "O, output"}
POOL_WORDS: dict[str | None, str] = {
    "A": "Fisher of task A",
    "B": "Fisher of task B",
    "pooled": "Fisher pooled over both tasks",
}
VARIANT_POOL_WORDS = {"natural": "each task by its own Fisher", "dot": "no Fisher"}
MOST_TICKS = 12
MOST_LINES = 16  # white lines between more cells than this would hide the cells


def _in_style(draw: Callable[Options, Drawn]) -> Callable[Options, Drawn]:
    """Run in matplotlib's default style, so that a figure does not depend on the user's settings."""

    @functools.wraps(draw)
    def styled(*args: Options.args, **kwargs: Options.kwargs) -> Drawn:
        with matplotlib.style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return styled


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook without pyplot and is saved reproducibly."""

    @_in_style
    def to_svg(self) -> str:
        """Return the picture as SVG text; equal figures give equal text."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue().decode()

    _repr_svg_ = to_svg

    @_in_style
    def to_png(self, *, dpi: int = 150) -> bytes:
        """Return the picture as the bytes of a PNG file; equal figures give equal bytes."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()


@_in_style
def save_picture(figure: Figure, path: PathLike, *, dpi: int = 150) -> Path:
    """Write a figure as SVG, PNG or PDF, by the ending of ``path``, without dates. Returns the path."""
    path = Path(path)
    stamps = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}, ".pdf": {"CreationDate": None}}
    if path.suffix not in stamps:
        raise errors.OptionError(f"A picture is saved as {', '.join(stamps)}; found {path.name!r}.")
    figure.savefig(path, dpi=dpi, metadata=stamps[path.suffix])
    return path


def plot_heatmap(heatmap: Heatmap | PairSummary) -> Picture:
    """Draw the averages of a result, one layer-by-head panel per block, with its caveat if it has one.

    Args:
        heatmap: A :class:`qkov.Heatmap` or :class:`qkov.PairSummary`.

    Returns:
        The figure. K and V panels show each kv head as one cell as wide as the query heads that it serves.
    """
    facts = heatmap.attributes
    variant = facts.get("variant", "")
    pool = VARIANT_POOL_WORDS.get(variant) or POOL_WORDS.get(facts.get("fisher_pool"), "")
    pairs = f"average over {len(heatmap.sample_a)} x {len(heatmap.sample_b)} pairs of samples"
    kind = ", ".join(part for part in (f"{variant} score".strip(), pool, pairs) if part)
    empty = [f"task {label} ({name})" for label, name, ids in _tasks(heatmap) if not ids]
    return plot_maps(
        {block: heatmap.on_query_heads(block, heatmap.mean_map(block)) for block in BLOCKS},
        layers=heatmap.layers,
        heads=heatmap.heads,
        kv_index=heatmap.kv_index,
        kv_heads=heatmap.kv_heads,
        title=f"{heatmap.task_a} (A) against {heatmap.task_b} (B)\n{kind}",
        unit=facts.get("unit", ""),
        kind="diverging" if facts.get("range", "").startswith("(-inf") else "sequential",
        note=facts.get("average_caveat") or "",
        empty=f"no samples of {' and '.join(empty)}:\nnothing was measured" if empty else "",
        sign=facts.get("sign", "") if facts.get("range", "").startswith("(-inf") else "",
        conflict="high" if facts.get("conflict_order") == "descending" else "low",
    )


def _tasks(
    heatmap: Heatmap | PairSummary,
) -> tuple[tuple[str, str, tuple[int | str, ...]], tuple[str, str, tuple[int | str, ...]]]:
    return ("A", heatmap.task_a, heatmap.sample_a), ("B", heatmap.task_b, heatmap.sample_b)


@_in_style
def plot_maps(
    maps: Mapping[str, np.ndarray],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    kv_index: np.ndarray | None = None,
    kv_heads: Sequence[int] | None = None,
    title: str = "",
    unit: str = "",
    kind: str = "sequential",
    scale: str = "panel",
    note: str = "",
    sign: str = "",
    conflict: str = "low",
    empty: str = "",
    marks: Mapping[str, np.ndarray] | None = None,
    absent: str = "Grey: the model has no such slice.",
) -> Picture:
    """Draw one layer-by-head panel for each map.

    Args:
        maps: Panel name to values ``[layers, heads]``, or ``[layers, kv_heads]``; NaN (no such slice) is grey. Panels
            named "Q", "K", "V", "O" get the blocks' titles.
        layers: True layer numbers; counted from 0 if not given.
        heads: True query-head numbers; counted from 0 if not given.
        kv_index: Position of each query head's kv head, ``[layers, heads]``, -1 for none; consecutive groups of equal
            size if not given.
        kv_heads: True kv-head numbers; counted from 0 if not given.
        title: Above all panels; the first line is larger.
        unit: Label of the colour bars.
        kind: "sequential" (from 0 or the smallest value up) or "diverging" (white is 0).
        scale: "panel" (each has its own colours) or "shared" (one range for all).
        note: Below all panels, framed: what a reader must know not to misread the picture.
        sign: What the sign means, below all panels.
        conflict: Which end of a diverging range is red, "low" or "high".
        empty: If not empty, shown in each panel instead of values.
        marks: Panel name to bool of the shape of its map: where to put a dot; a kv head of K or V has one.
        absent: What grey stands for, where there is any.

    Returns:
        The figure.

    Raises:
        OptionError: If kind, scale or conflict is none of these, or there is no map.
        ShapeError: If a map fits neither the heads nor the kv heads.
    """
    known = kind in ("sequential", "diverging"), scale in ("panel", "shared"), conflict in ("low", "high")
    if not all(known) or not maps:
        raise errors.OptionError(
            f"plot_maps got kind={kind!r}, scale={scale!r}, conflict={conflict!r} and {len(maps)} maps; expected kind"
            " 'sequential' or 'diverging', scale 'panel' or 'shared', conflict 'low' or 'high', and at least one map."
        )
    turned = f"{DIVERGING}_r" if conflict == "high" else DIVERGING
    colours = turned if kind == "diverging" else SEQUENTIAL
    maps = {name: np.asarray(values, np.float64) for name, values in maps.items()}
    grid = _label_grid(maps, layers, heads, kv_index, kv_heads)
    shown = {name: grid.on_query_heads(name, values) for name, values in maps.items()}
    everything = np.concatenate([values.ravel() for values in shown.values()])
    figure, panels = _panels(len(shown), len(grid.layers), len(grid.heads))
    for panel, (name, values) in zip(panels, shown.items(), strict=True):
        panel.set_title(escaping.for_picture(BLOCK_TITLES.get(name, name)), loc="left", parse_math=False)
        if empty:
            said = escaping.for_picture(empty)
            panel.text(0.5, 0.5, said, ha="center", va="center", transform=panel.transAxes, parse_math=False)
            values = np.full_like(values, np.nan)
        norm = _norm(everything if scale == "shared" else values, kind)
        image = _draw_cells(panel, values, norm, colours)
        grid.label(panel, spans=name in ("K", "V") or maps[name].shape != values.shape)
        if marks is not None:
            marked = grid.on_query_heads(name, np.asarray(marks[name], np.float64)) == 1
            shared = name in ("K", "V") or maps[name].shape != values.shape
            places = np.array(list(grid.middles(marked, shared=shared))).reshape(-1, 2)
            panel.scatter(*places.T, s=26, marker="o", facecolors="white", edgecolors="black", linewidths=0.8)
        if not empty:
            _colour_bar(figure, image, panel, unit)
    absent = absent if np.isnan(everything).any() and not empty else ""
    _surround(figure, title, [text for text in (f"Sign: {sign}." if sign else "", absent, note) if text], framed=note)
    return figure


@dataclass(frozen=True)
class _LabelGrid:
    """True numbers along both axes of every panel, and which query heads share a kv head."""

    layers: tuple
    heads: tuple
    kv_heads: tuple
    kv_index: np.ndarray

    def on_query_heads(self, name: str, values: np.ndarray) -> np.ndarray:
        shape = len(self.layers), len(self.heads)
        if values.shape == shape:
            return values
        if values.shape != (len(self.layers), len(self.kv_heads)):
            raise errors.ShapeError(
                f"Map {name!r} has shape {values.shape}; expected [layers, heads] = {shape} or"
                f" [layers, kv_heads] = {(len(self.layers), len(self.kv_heads))}."
            )
        return np.where(self.kv_index >= 0, np.take_along_axis(values, np.maximum(self.kv_index, 0), 1), np.nan)

    def middles(self, marked: np.ndarray, *, shared: bool) -> Iterator[tuple[float, int]]:
        """Where marked cells ``[layers, heads]`` have their middles, as (column, row); a kv head, if shared, is one cell."""
        for row, heads in enumerate(marked):
            cells = self.kv_index[row] if shared else np.arange(len(heads))
            for cell in np.unique(cells[heads]):
                yield float(np.flatnonzero(cells == cell).mean()), row

    def _common_row(self) -> np.ndarray | None:
        """The row of ``kv_index`` that all layers with K and V of their own share, or None."""
        rows = np.unique(self.kv_index[(self.kv_index >= 0).any(1)], axis=0)
        return rows[0] if len(rows) == 1 and (rows[0] >= 0).all() else None

    def label(self, panel: Axes, *, spans: bool) -> None:
        """Put true numbers on the ticks and lines between cells; a kv head is one cell over its query heads."""
        row: Any = self._common_row() if spans else None
        shared = row is not None
        row = row if shared else np.arange(len(self.heads))
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        middles = (starts + np.append(starts[1:], len(row)) - 1) / 2
        numbers = [self.kv_heads[at] for at in row[starts]] if shared else self.heads
        wide = len(starts) < len(row)
        panel.set_xlabel("kv head (spans its query heads)" if wide else "kv head" if shared else "query head")
        panel.set_ylabel("layer")
        _number_ticks(panel.xaxis, middles, numbers)
        _number_ticks(panel.yaxis, np.arange(len(self.layers)), self.layers)
        if max(len(self.layers), len(self.heads)) <= MOST_LINES:
            panel.vlines(starts[1:] - 0.5, -0.5, len(self.layers) - 0.5, colors="white", linewidths=0.8)
            panel.hlines(
                np.arange(1, len(self.layers)) - 0.5, -0.5, len(self.heads) - 0.5, colors="white", linewidths=0.8
            )


def _label_grid(
    maps: Mapping[str, np.ndarray],
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    kv_index: np.ndarray | None,
    kv_heads: Sequence[int] | Any,
) -> _LabelGrid:
    for name, values in maps.items():
        if values.ndim != 2 or not values.size:
            raise errors.ShapeError(
                f"Map {name!r} has shape {values.shape}; expected [layers, heads], neither of them 0."
            )
    rows, widths = {values.shape[0] for values in maps.values()}, {values.shape[1] for values in maps.values()}
    heads = tuple(range(max(widths)) if heads is None else heads)
    layers = tuple(range(max(rows)) if layers is None else layers)
    if kv_index is None:
        if len(heads) % min(widths):
            raise errors.ShapeError(f"{len(heads)} heads cannot share {min(widths)} kv heads evenly; give kv_index.")
        row = np.arange(len(heads)) // (len(heads) // min(widths))
        kv_index = np.tile(row, (len(layers), 1))
    kv_index = np.asarray(kv_index)
    kv_heads = tuple(range(kv_index.max() + 1) if kv_heads is None else kv_heads)
    return _LabelGrid(layers, heads, kv_heads, kv_index)


def _panels(count: int, num_layers: int, num_heads: int) -> tuple[Picture, np.ndarray]:
    columns = min(2, count)
    rows = math.ceil(count / columns)
    width, height = np.clip(0.26 * num_heads, 2.6, 5.2), np.clip(0.26 * num_layers, 1.2, 5.2)
    figure = Picture(figsize=(columns * (width + 1.4), rows * (height + 0.9) + 1.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[call-arg, union-attr]  # of matplotlib, set when the figure is made
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def _norm(values: np.ndarray, kind: str) -> Normalize:
    known = values[np.isfinite(values)]
    if kind == "diverging":
        limit = np.abs(known).max(initial=0.0) or 1.0
        return Normalize(-limit, limit)
    low, high = known.min(initial=0.0), known.max(initial=0.0)
    return Normalize(low, high if high > low else low + 1.0)


def _draw_cells(panel: Axes, values: np.ndarray, norm: Normalize, colours: str) -> AxesImage:
    colours = matplotlib.colormaps[colours].with_extremes(bad=ABSENT_COLOUR)
    panel.tick_params(length=2)
    return panel.imshow(values, cmap=colours, norm=norm, aspect="auto", interpolation="none")


def _number_ticks(axis: Axis, places: np.ndarray, numbers: Sequence[int]) -> None:
    step = math.ceil(len(numbers) / MOST_TICKS)
    axis.set_ticks(places[::step], [str(number) for number in numbers[::step]])


def _colour_bar(figure: Picture, image: AxesImage, panel: Axes, unit: str) -> None:
    bar = figure.colorbar(image, ax=panel, pad=0.02)
    bar.formatter.set_powerlimits((-3, 4))  # type: ignore[attr-defined]  # of matplotlib, set when the figure is made
    bar.outline.set_visible(False)
    height = 0.85 * panel.get_position().height * figure.get_figheight()
    bar.set_label(_wrapped(unit, height, 7), size=7, parse_math=False)


def _wrapped(text: str, inches: float, size: int) -> str:
    # Letters of the default font are about 0.55 of their size wide.
    columns = max(12, int(inches * 72 / (0.55 * size)))
    return "\n".join(textwrap.fill(line, columns) for line in escaping.for_picture(text).split("\n"))


def _surround(figure: Picture, title: str, texts: Sequence[str], *, framed: str) -> None:
    width = figure.get_figwidth()
    if title:
        figure.suptitle(_wrapped(title, width, 11), size=11, parse_math=False)
    if texts:
        frame = {"boxstyle": "round,pad=0.4", "facecolor": "#fff6d5", "edgecolor": "0.4"} if framed else None
        figure.supxlabel(_wrapped("\n".join(texts), width - 0.6, 8), size=8, parse_math=False, bbox=frame)
    # Laid out once, here: a layout redone at each saving starts from the last one and differs in the last bits.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


@_in_style
def plot_identity(
    measured: Any, expected: Any, *, title: str = "", measured_label: str = "", expected_label: str = "", note: str = ""
) -> Picture:
    """Draw measured against expected values with the line of equality, and say how far off they are.

    For the marginal identity: the average over A's samples of the unsigned score against the L1 norm of B's gradient.

    Args:
        measured: Values, one per slice: an array of any shape, or group name (a block) to array, drawn in colours.
        expected: Values of the same shapes.
        title: Above the picture.
        measured_label: Label of the vertical axis.
        expected_label: Label of the horizontal axis.
        note: Below the picture, framed.

    Returns:
        The figure. Its axes are logarithmic if every value is positive.

    Raises:
        ShapeError: If the two differ in groups or shapes, or hold nothing.
        NonFiniteError: If a value is NaN or infinite.
    """
    groups = _paired_groups(measured, expected)
    figure = Picture(figsize=(5.0, 4.6), layout="constrained")
    panel, drawn = figure.subplots(), []
    for (name, (found, wanted)), marker in zip(groups.items(), itertools.cycle("os^Dv<>P")):
        points = panel.scatter(wanted, found, s=22, marker=marker, alpha=0.75, linewidths=0)
        drawn.append((points, str(name)))
    found, wanted = (np.concatenate([pair[side] for pair in groups.values()]) for side in (0, 1))
    ends = np.array([min(found.min(), wanted.min()), max(found.max(), wanted.max())])
    (line,) = panel.plot(ends, ends, color="0.3", linewidth=1, zorder=0)
    if ends[0] > 0:
        panel.set(xscale="log", yscale="log")
        for axis in (panel.xaxis, panel.yaxis):
            _decade_ticks(axis)
    panel.set_xlabel(escaping.for_picture(expected_label), parse_math=False)
    panel.set_ylabel(escaping.for_picture(measured_label), parse_math=False)
    literal_legend(panel, [*drawn, (line, "equal")], frameon=False, fontsize=8)
    size = np.abs(wanted).max()
    error = np.abs(found - wanted).max() / size if size else np.abs(found - wanted).max()
    summary = f"{found.size} values; largest difference {error:.1e} of the largest value."
    _surround(figure, title, [summary, *([note] if note else [])], framed=note)
    return figure


def literal_legend(owner: Axes | Picture, entries: Sequence[tuple[Any, str]], **options: Any) -> Legend:
    """Put a legend of ``(artist, text)`` on a figure or panel, the texts as they are.

    matplotlib would read mathematics between dollars, and drop a label that begins with an underscore.
    """
    artists, texts = zip(*entries, strict=True)
    legend = owner.legend(artists, [" "] * len(texts), **options)
    for label, text in zip(legend.get_texts(), texts, strict=True):
        label.set_parse_math(False)
        label.set_text(escaping.for_picture(text))
    return legend


def _decade_ticks(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade: few enough not to overlap, and two at least within one decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def _paired_groups(measured: Any, expected: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not isinstance(measured, Mapping):
        measured, expected = {"slices": measured}, {"slices": expected}
    if not isinstance(expected, Mapping) or set(measured) != set(expected):
        raise errors.ShapeError(f"Measured values come in groups {list(measured)}; expected values do not.")
    groups = {}
    for name in measured:
        found, wanted = (np.asarray(values, np.float64) for values in (measured[name], expected[name]))
        if found.shape != wanted.shape or not found.size:
            raise errors.ShapeError(
                f"Group {name!r} compares shape {found.shape} with {wanted.shape}; expected equal, not 0."
            )
        if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
            raise errors.NonFiniteError(f"Group {name!r} holds NaN or infinity; leave absent slices out.")
        groups[name] = found.ravel(), wanted.ravel()
    return groups
