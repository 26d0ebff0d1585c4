"""The printed time machine: the curve, some moments, the losses of all."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from llmbook import plots
from llmbook.widgets.tokens import shortened

if TYPE_CHECKING:
    from llmbook.widgets.time_machine import TimeMachine

CURVE = 1.75  # inches: heights of the three parts
MOMENT = 0.74
TABLE_ROW, TABLE_HEAD = 0.165, 0.62
SHOWN = 4  # moments that have room for their sample
SAMPLE_WIDTH, SAMPLE_LINES = 78, 4  # characters, and lines
SMALL = plots.TEXT_SIZE - 1
LEAST_SPACE = 0.36  # inches between two labels of the axis


def draw(machine: TimeMachine) -> plt.Figure:
    """The run at a glance; the shown moment is marked in each part."""
    shown = shown_moments(len(machine.steps), machine.moment)
    table = TABLE_HEAD + TABLE_ROW * len(machine.steps)
    heights = [CURVE, MOMENT * len(shown), table]
    fig = plt.figure(figsize=(plots.WIDTH, sum(heights)))
    parts = fig.subfigures(3, height_ratios=heights)
    _curve(parts[0].subplots(), machine)
    head = f"layer {machine.layer}, head {machine.head}"
    parts[1].text(0.995, 1, head, ha="right", size=SMALL, color=plots.MUTED)
    for row, moment in enumerate(shown):
        _moment(parts[1], machine, moment, 1 - row / len(shown), len(shown))
    _table(parts[2].subplots(), machine)
    return fig


def shown_moments(count: int, chosen: int) -> list[int]:
    """The first, the last, the chosen one and what lies between.

    >>> shown_moments(10, 9)
    [0, 3, 6, 9]
    """
    even = np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)
    found = sorted(set(even.tolist()))
    if chosen not in found:
        inner = min(found[1:-1], key=lambda m: abs(m - chosen))
        found[found.index(inner)] = chosen
    return found


def _curve(ax: Any, machine: TimeMachine) -> None:
    """The loss over the time axis, with a ring at every moment."""
    last = len(machine.steps) - 1
    end = machine.curve[-1][1]
    for name, level in machine.marks.items():
        ax.axhline(level, color=plots.MUTED, lw=0.7, ls=(0, (4, 3)))
        x, side = (last, "right") if level > end else (0, "left")
        look = {"color": plots.MUTED, "size": SMALL, "va": "bottom"}
        ax.text(x, level, name, ha=side, **look)
    ax.plot(*zip(*machine.curve, strict=True), color=plots.STAGES[3], lw=1.0)
    if machine.held_out:
        dots = zip(*machine.held_out, strict=True)
        ax.plot(*dots, ".", color=plots.MUTED, ms=3.5)
    rings = [machine.loss_at(m) for m in range(last + 1)]
    ring = {"ms": 4.5, "mec": plots.STAGES[3], "mfc": plots.PAPER}
    ax.plot(range(last + 1), rings, "o", **ring)
    ax.plot(machine.moment, machine.loss, "o", ms=6, color=plots.ACCENT)
    stride = int(np.ceil(LEAST_SPACE * (last + 1) / (plots.WIDTH - 0.7)))
    ticks = range(last, -1, -stride)
    ax.set_xticks(ticks, [f"{machine.steps[m]:,}" for m in ticks])
    highest = max(rings + list(machine.marks.values()))
    ax.set(xlim=(-0.15, last + 0.15), ylim=(0, 1.12 * highest))
    ax.set(xlabel="training step", ylabel="loss, nats a token")
    ax.grid(visible=False)


def _moment(
    fig: Any, machine: TimeMachine, moment: int, top: float, parts: int
) -> None:
    """One moment's step, sample, and the chosen head's map."""
    height = MOMENT * parts
    chosen = moment == machine.moment
    look = {"va": "top", "color": plots.ACCENT if chosen else plots.INK}
    y = top - 0.05 / height
    step = f"step\n{machine.steps[moment]:,}"
    fig.text(0.01, y, step, weight="bold", **look)
    fig.text(0.12, y, _sample(machine.samples[moment]), size=SMALL, va="top")
    side = MOMENT - 0.1
    left = 1 - (side + 0.03) / plots.WIDTH
    bottom = top - (side + 0.05) / height
    ax = fig.add_axes((left, bottom, side / plots.WIDTH, side / height))
    weights = machine.weights[moment, machine.layer, machine.head]
    closed = np.triu(np.ones_like(weights, dtype=bool), 1)
    ax.imshow(np.ma.array(weights, mask=closed), vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    edge = {"color": plots.ACCENT if chosen else plots.FAINT}
    ax.spines[:].set(visible=True, linewidth=0.8, **edge)


def _sample(text: str) -> str:
    """The sample's first lines, as they fit beside the map."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    look = {"max_lines": SAMPLE_LINES, "placeholder": " …"}
    lines = textwrap.wrap(shown, SAMPLE_WIDTH, **look)
    return "\n".join(lines).replace("$", r"\$")


def _table(ax: Any, machine: TimeMachine) -> None:
    """Each token's loss at each moment."""
    names = [shortened(token) for token in machine.tokens[1:]]
    data = machine.losses
    mesh = ax.pcolormesh(
        data,
        cmap=plots.SEQUENTIAL,
        vmin=0,
        vmax=data.max() or 1,
        edgecolor=plots.PAPER,
        linewidth=0.8,
    )
    mesh.set_rasterized(False)
    middle = {"ha": "center", "va": "center_baseline"}
    size = min(SMALL - 0.5, 110 / len(names))
    for (m, t), loss in np.ndenumerate(data):
        color = plots.cell_text_color(loss / (data.max() or 1))
        place = (t + 0.5, m + 0.5)
        ax.text(*place, f"{loss:.1f}", size=size, color=color, **middle)
    frame = {"fill": False, "ec": plots.ACCENT, "lw": 1.2, "clip_on": False}
    ax.add_patch(Rectangle((0, machine.moment), len(names), 1, **frame))
    ax.set(xlim=(0, len(names)), ylim=(len(data), 0))
    ax.xaxis.tick_top()
    turned = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    labels = [plots.token_text(name) for name in names]
    ax.set_xticks(np.arange(len(names)) + 0.5, labels, size=SMALL, **turned)
    steps = [f"{step:,}" for step in machine.steps]
    ax.set_yticks(np.arange(len(steps)) + 0.5, steps, size=SMALL)
    ax.set_ylabel("step")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
