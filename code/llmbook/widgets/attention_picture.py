"""The printed attention explorer: the map, all heads, the sum, the switch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from llmbook import plots
from llmbook.widgets.attention_sums import written
from llmbook.widgets.tokens import shortened

if TYPE_CHECKING:
    from llmbook.widgets.attention import AttentionExplorer

MAX_PRINTED_NUMBERS = 16  # tokens up to which print shows every number
MAP_SIDE = 190  # points, about: the large map's, from edge to edge
MARGIN = 0.24  # inches around the small maps, for their names
MAX_THUMBNAILS = 144  # heads that print shows small beside the chosen one
BESIDE, ALONE = 3.7, 4.2  # inches: the height with and without small maps
MAX_NAMED = 2  # heads that a line has room to name
TERMS = 8  # products that are listed, the largest ones
LINE = 0.17  # inches from line to line of text
SMALL = plots.TEXT_SIZE - 1


def draw(explorer: AttentionExplorer) -> plt.Figure:
    """The figure in its present state, one part below the other."""
    L, H = explorer.weights.shape[:2]
    others = 1 < L * H <= MAX_THUMBNAILS
    parts = [(BESIDE if others else ALONE, _maps)]
    if explorer.opened:
        parts.append(((TERMS + 4.5) * LINE, _sums))
    if explorer.off:
        lines = len(explorer.prediction)
        parts.append(((lines + 5.1) * LINE, _prediction))
    heights = [height for height, _ in parts]
    fig = plt.figure(figsize=(plots.WIDTH, sum(heights)))
    rows = fig.subfigures(len(parts), height_ratios=heights, squeeze=False)
    for part, (_, drawn) in zip(rows[:, 0], parts, strict=True):
        drawn(part, explorer)
    return fig


def _maps(fig: Any, explorer: AttentionExplorer) -> None:
    """The chosen head large, and every head small beside it."""
    L, H = explorer.weights.shape[:2]
    left = fig
    if 1 < L * H <= MAX_THUMBNAILS:
        left, right = fig.subfigures(1, 2, width_ratios=(2.5, 1))
        _thumbnails(right, explorer)
    _map(left.subplots(), explorer)
    where = f"layer {explorer.layer}, head {explorer.head}"
    left.supxlabel(where, size=plots.TEXT_SIZE, color=plots.MUTED)


def _map(ax: Any, explorer: AttentionExplorer) -> None:
    """The chosen head, each cell with its number, the chosen one framed."""
    T = len(explorer.tokens)
    names = [shortened(token) for token in explorer.tokens]
    plots.heatmap(
        ax,
        explorer.weights[explorer.layer, explorer.head],
        names,
        names,
        mask=None if explorer.mask.all() else explorer.mask,
        vmax=1,
        values=T <= MAX_PRINTED_NUMBERS,
        size=min(SMALL, 78 / T),  # what a cell's width holds
    )
    ax.tick_params(labelsize=min(plots.TEXT_SIZE, MAP_SIDE / T))
    ax.set_ylabel("query", color=plots.QUERY)
    ax.set_xlabel("key", color=plots.KEY)
    corner = (explorer.key, explorer.query)
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=1.2))


def _thumbnails(fig: Any, explorer: AttentionExplorer) -> None:
    """Every head's map, small: rows are layers, columns heads."""
    L, H = explorer.weights.shape[:2]
    width, height = fig.bbox.width / fig.dpi, fig.bbox.height / fig.dpi
    step = min((width - MARGIN) / H, (height - 3 * MARGIN) / L)  # inches
    side, top = 0.86 * step, height - 1.6 * MARGIN
    size = min(plots.TEXT_SIZE, 50 * step)  # points
    label = {"ha": "center", "va": "center", "color": plots.MUTED}
    for layer, head in np.ndindex(L, H):
        x, y = MARGIN + head * step, top - layer * step - side
        place = (x / width, y / height, side / width, side / height)
        ax = fig.add_axes(place)
        _thumbnail(ax, explorer, layer, head)
        if layer == 0:
            ax.set_title(str(head), loc="center", pad=6, size=size, **label)
        if head == 0:
            look = {"rotation": 0, "labelpad": 5, "size": size}
            ax.set_ylabel(str(layer), **look, **label)
    off = "\ncrossed out: switched off" * bool(explorer.off)
    fig.text(
        MARGIN / width,
        (top - L * step) / height,
        f"a row for each layer,\na column for each head{off}",
        va="top",
        size=SMALL,
        color=plots.MUTED,
    )


def _thumbnail(
    ax: Any, explorer: AttentionExplorer, layer: int, head: int
) -> None:
    """One head's map without its numbers; the chosen head is framed."""
    chosen = (layer, head) == (explorer.layer, explorer.head)
    ax.imshow(explorer.weights[layer, head], vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(
        visible=True,
        linewidth=1.4 if chosen else 0.4,
        color=plots.INK if chosen else plots.FAINT,
    )
    if [layer, head] in explorer.off:
        cross = {"transform": ax.transAxes, "color": plots.ACCENT}
        for ends in ((0, 1), (1, 0)):
            ax.plot((0, 1), ends, linewidth=1.2, **cross)


def _sheet(fig: Any) -> Any:
    """Axes over all of ``fig``, measured in inches from the top left."""
    width, height = fig.bbox.width / fig.dpi, fig.bbox.height / fig.dpi
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return ax


def _plain(token: str) -> str:
    """A token in a line of text, not taken for mathematics."""
    return plots.token_text(shortened(token))


def _sums(fig: Any, explorer: AttentionExplorer) -> None:
    """The chosen cell's largest products, and the way to its weight."""
    ax, row = _sheet(fig), explorer.sums
    names = [
        _plain(explorer.tokens[i]) for i in (explorer.query, explorer.key)
    ]
    title = f"The sum behind the framed cell: {names[0]} asks {names[1]}"
    ax.text(0.05, LINE, title, va="center")
    where = explorer.layer, explorer.head
    vectors = (
        all[where][i]
        for all, i in zip(
            explorer.vectors, (explorer.query, explorer.key), strict=True
        )
    )
    terms = list(zip(*vectors, row.products, strict=True))
    order = sorted(range(len(terms)), key=lambda i: -abs(terms[i][2]))
    shown = sorted(order[:TERMS])
    lines = [("number", "query", "key", "product")]
    lines += [(str(i), *map(written, map(int, terms[i]))) for i in shown]
    if others := len(terms) - len(shown):
        rest = sum(terms[i][2] for i in order[TERMS:])
        lines.append((f"{others} more", "", "", written(int(rest))))
    colors = (plots.MUTED, plots.QUERY, plots.KEY, plots.INK)
    for i, line in enumerate(lines):
        for x, text, color in zip(
            (0.6, 1.2, 1.8, 2.4), line, colors, strict=True
        ):
            look = {"ha": "right", "va": "center", "size": SMALL}
            ax.text(x, (i + 2.2) * LINE, text, color=color, **look)
    for i, text in enumerate(_steps(explorer)):
        ax.text(2.65, (i + 2.2) * LINE, text, va="center", size=SMALL)


def _steps(explorer: AttentionExplorer) -> list[str]:
    """The lines from the sum to the weight, as they are printed."""
    row, key = explorer.sums, explorer.key
    total, score = written(row.totals[key]), written(row.scores[key])
    D = len(row.products)
    steps = [
        f"q · k, the sum of all {D}: {total}",
        f"divided by the root of {D}, {written(row.root)}: {score}",
    ]
    if not row.open[key]:
        return [*steps, "closed by the mask: the weight is 0"]
    highest = max(
        s for s, is_open in zip(row.scores, row.open, strict=True) if is_open
    )
    return [
        *steps,
        "the mask is open",
        f"less {written(highest)}, the row’s largest: "
        f"{written(row.scores[key] - highest)}",
        f"e to that: {written(row.powers[key])}",
        f"divided by the row’s sum, {written(sum(row.powers))}: "
        f"{written(row.weights[key])}",
        f"the model, which rounds nothing: {explorer.weight:.6f}",
    ]


def _prediction(fig: Any, explorer: AttentionExplorer) -> None:
    """What may come next, with all heads on and with some off."""
    rows = explorer.prediction
    height = fig.bbox.height / fig.dpi
    off = " and ".join(f"layer {i}, head {h}" for i, h in explorer.off)
    if len(explorer.off) > MAX_NAMED:
        off = f"{len(explorer.off)} heads"
    name = _plain(explorer.tokens[explorer.query])
    top, bottom = 1.9 * LINE / height, 3.1 * LINE / height
    ax = fig.add_axes((0.17, bottom, 0.45, 1 - top - bottom))
    for y, (_, before, after) in enumerate(rows):
        look = {"facecolor": "none", "edgecolor": plots.MUTED}
        ax.barh(y, before, 0.72, linewidth=0.7, **look)
        ax.barh(y, after, 0.4, color=plots.ACCENT, edgecolor="none")
        change = math.log(after / before) if after and before else math.nan
        text = f"{before:.4f} → {after:.4f}, {change:+.3f} nats"
        place = {"transform": ax.get_yaxis_transform(), "va": "center"}
        ax.text(1.02, y, text.replace("-", "−"), size=SMALL, **place)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, None))
    ax.set_yticks(range(len(rows)), [_plain(text) for text, _, _ in rows])
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("probability")
    title = (
        f"What comes after {name}. Outline: all heads on; filled: {off} off"
    )
    fig.text(0.01, 1 - 0.8 * LINE / height, title, va="center")
