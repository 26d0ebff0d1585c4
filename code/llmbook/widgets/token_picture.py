"""The printed token explorer: one text, byte by byte, stage by stage."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib import font_manager
from matplotlib import pyplot as plt

from llmbook import plots
from llmbook.widgets.tokens import visible

BYTES_SHOWN = 36  # whose numbers can still be read across a page
WIDEST = 0.2  # inches: the room for one byte of a short text
BOX, LABEL, IDS, GAP = 0.2, 0.19, 0.13, 0.1  # inches, from top to bottom
POINTS = 72  # to the inch
LETTER = 0.62  # of the size: the width of a letter, about
SMALLEST = 3.5  # points
Row = tuple[str, Sequence[bytes], Sequence[int]]  # label, tokens, ids


def draw(pieces: Sequence[bytes], rows: Sequence[Row]) -> plt.Figure:
    """The pre-tokens, their bytes, then a row for each stage of merging.

    Each token stands below the bytes that it holds. The last stages' ids
    are beneath their boxes; of a long text the beginning is shown.
    """
    data = b"".join(pieces)
    shown = min(len(data), BYTES_SHOWN)
    unit = min(plots.WIDTH / max(shown, 1), WIDEST)
    height = (2 + len(rows)) * (LABEL + BOX + GAP) + len(rows) * IDS + LABEL
    fig, ax = plots.canvas(height)
    hexes = [f"{value:02X}" for value in data]
    singles = [bytes([value]) for value in data]
    y = _line(ax, height, unit, "pre-tokens", pieces, map(_label, pieces))
    y = _line(ax, y, unit, "bytes", singles, hexes, boxed=False)
    for label, tokens, ids in rows:
        title = f"{label}: {len(tokens)} token{'s' * (len(tokens) != 1)}"
        y = _line(ax, y, unit, title, tokens, map(_label, tokens), ids)
    if shown < len(data):
        note = f"the first {shown} of {len(data):,} bytes"
        ax.text(0, y, note, va="top", color=plots.MUTED)
    return fig


def _line(
    ax: Any,
    top: float,
    unit: float,
    title: str,
    tokens: Sequence[bytes],
    labels: Any,
    ids: Sequence[int] = (),
    boxed: bool = True,
) -> float:
    """Tokens over the bytes that they hold; returns where the next begins."""
    ax.text(0, top, title, va="top", color=plots.MUTED)
    bottom = top - LABEL - BOX
    ends = list(itertools.accumulate(map(len, tokens)))
    marks = itertools.zip_longest(tokens, labels, ends, ids)
    for token, label, end, token_id in marks:
        if end > BYTES_SHOWN:
            break
        width = len(token) * unit
        left = end * unit - width
        size = _size(label, width)
        if boxed:
            look = {"rounding": 0.03, "size": size}
            box = (left + 0.01, bottom, width - 0.02, BOX)
            plots.box(ax, *box, label, **look)
        else:
            place = (left + width / 2, bottom + BOX / 2)
            ax.text(*place, label, size=size, ha="center", va="center")
        if token_id is not None:
            size = min(_size(str(token_id), width), plots.TEXT_SIZE - 2)
            place = (left + width / 2, bottom - 0.03)
            look = {"size": size, "color": plots.MUTED}
            ax.text(*place, str(token_id), ha="center", va="top", **look)
    return bottom - GAP - (IDS if len(ids) else 0)


def _size(label: str, width: float) -> float:
    """Points in which ``label`` fits into ``width`` inches.

    >>> _size("kite", 1.0)
    8.0
    """
    fits = POINTS * width / (LETTER * max(len(label), 1))
    return max(min(fits, plots.TEXT_SIZE - 1), SMALLEST)


def _label(token: bytes) -> str:
    """A token as print can show it: characters without a font as bytes."""
    text = visible(token)
    if any(ord(character) not in drawable() for character in text):
        text = token.hex(" ").upper()
    return text.strip("⟨⟩").replace("$", r"\$")


@functools.cache
def drawable() -> frozenset[int]:
    """The code points that one of the figures' fonts has."""
    files = map(font_manager.findfont, plt.rcParams["font.family"])
    fonts = map(font_manager.get_font, files)
    return frozenset(code for font in fonts for code in font.get_charmap())
