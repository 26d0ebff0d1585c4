"""Rotary positions under the reader's hand: pairs turn, one product stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import traitlets
from matplotlib import pyplot as plt
from matplotlib.patches import Circle
from torch import Tensor

from llmbook import plots
from llmbook.config import ROPE_THETA, RopeScaling
from llmbook.positions import rotary_speeds, rotate
from llmbook.widgets._base import Explorer

MAX_PAIRS = 4  # dials that fit beside each other
MAX_THETA = 1e12  # as of GPTConfig's rope_theta
MAX_POSITIONS = 512  # steps that a slider as wide as a page still tells apart
NAMES = {1: ["the pair"], 2: ["fast pair", "slow pair"]}
LETTER = 0.09  # inches from a hand's tip, ahead and aside, to its letter
HINT = (
    "Try: move both together and watch the product, then move one alone. "
    "Arrow keys turn a slider by one position."
)


class RotaryDial(Explorer):
    """A query and a key, each pair of numbers a hand on a dial.

    Both are turned as :func:`llmbook.positions.rotate` turns them, pair i
    being made of the numbers i and i + D / 2, and compared by a dot product.

    Args:
        query, key: D numbers each, as they are before they are turned.
        theta: base of the wave lengths.
        scaling: Llama 3's stretching, or None.
        positions: how many positions there are to choose from.
        query_position, key_position: where the two stand, counted from 0.
            These are traits: read them, set them, link them.
        alt: what the figure shows, in words.
        caption: Markdown with ``$math$``.
        name: the label that ``{numref}`` uses.
        hint: one line that says what to try.

    Raises:
        ValueError: the numbers do not come in pairs, query and key differ in
            size, or theta or a position is out of range.

    >>> dial = RotaryDial([1, 0], [1, 0], query_position=8, key_position=3)
    >>> round(dial.product, 6)  # cos(5)
    0.283662
    """

    kind = "rotary"
    sheets = ("rotary.css",)
    shared = ("query_position", "key_position")
    settings: ClassVar[dict[str, Any]] = {
        "figure.constrained_layout.use": False
    }  # places are fixed
    mend = "Give fewer positions."
    query_position = traitlets.Int(0).tag(sync=True)
    key_position = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        query: Any,
        key: Any,
        *,
        theta: float = ROPE_THETA,
        scaling: RopeScaling | None = None,
        positions: int = 32,
        query_position: int = 0,
        key_position: int = 0,
        alt: str = "",
        caption: str = "",
        name: str = "fig-rotary-dial",
        hint: str = HINT,
    ) -> None:
        self.query, self.key = checked_pairs(query, key)
        if positions not in range(2, MAX_POSITIONS + 1):
            raise ValueError(
                f"positions is {positions}; expected 2 to {MAX_POSITIONS}."
            )
        self.positions = int(positions)
        self.check("theta", theta, 1.0, MAX_THETA)
        D = len(self.query)
        self.speeds = rotary_speeds(D, theta, scaling).double()  # (D / 2,)
        self.names = NAMES.get(D // 2, [f"pair {i}" for i in range(D // 2)])
        super().__init__(
            alt
            or "A query and a key, turned by their positions, as hands "
            f"on {D // 2} dials, and the dot product of the two.",
            caption,
            name,
            data=self._data(hint),
            query_position=query_position,
            key_position=key_position,
        )

    def _data(self, hint: str) -> dict[str, Any]:
        return {
            "query": self.query.tolist(),
            "key": self.key.tolist(),
            "speeds": self.speeds.tolist(),
            "positions": self.positions,
            "names": self.names,
            "hint": hint,
        }

    @traitlets.validate("query_position", "key_position")
    def _in_range(self, proposal: Any) -> int:
        name, last = proposal.trait.name, self.positions - 1
        return self.check(name, proposal.value, 0, last)

    def turned(self, x: Tensor, position: int) -> Tensor:
        """``x`` (D,) turned by ``position``."""
        angles = position * self.speeds
        return rotate(x, angles.cos(), angles.sin())

    def products_at(self, query: int, key: int) -> Tensor:
        """What each pair adds to the product at two positions, (D / 2,)."""
        both = self.turned(self.query, query) * self.turned(self.key, key)
        return both.view(2, -1).sum(0)  # pair i: numbers i and i + D / 2

    @property
    def products(self) -> Tensor:
        """What each pair adds to the product, (D / 2,)."""
        return self.products_at(self.query_position, self.key_position)

    @property
    def product(self) -> float:
        """The dot product of the turned query with the turned key."""
        return self.products.sum().item()

    @property
    def distance(self) -> int:
        """How far the query stands behind the key; negative: before it."""
        return self.query_position - self.key_position

    def picture(self) -> plt.Figure:
        """The dials with their numbers, and the product by distance."""
        fig, sheet = plots.canvas(3.6)
        n = len(self.names)
        step = plots.WIDTH / max(n, 3)
        for i in range(n):
            middle = (plots.WIDTH / 2 + (i - (n - 1) / 2) * step, 2.83)
            _dial(sheet, self, i, middle, 0.5)
        where = (plots.WIDTH / 2, 1.82)
        text = (
            f"query at {self.query_position}, key at {self.key_position}: "
            f"product {written(self.product)}"
        )
        sheet.text(*where, text, ha="center", va="center", weight="bold")
        _product_curve(fig.add_axes((0.09, 0.135, 0.89, 0.29)), self)
        return fig


def _dial(
    ax: Any,
    dial: RotaryDial,
    pair: int,
    middle: tuple[float, float],
    radius: float,
) -> None:
    """One pair's circle, its two hands, and their product."""
    x, y = middle
    rim = {"fc": "none", "ec": plots.FAINT, "lw": 0.9}
    ax.add_patch(Circle(middle, radius, **rim))
    longest = longest_hand(dial.query, dial.key)
    hands = [
        ("q", dial.query, dial.query_position, plots.QUERY),
        ("k", dial.key, dial.key_position, plots.KEY),
    ]
    tips = [
        (dial.turned(start, at).view(2, -1)[:, pair] / longest).tolist()
        for _, start, at, _ in hands
    ]
    (qx, qy), (kx, ky) = tips
    side = 1 if kx * qy - ky * qx >= 0 else -1
    for (letter, start, _, color), tip in zip(hands, tips, strict=True):
        dx, dy = (radius * number for number in tip)
        fx, fy = (radius * start.view(2, -1)[:, pair] / longest).tolist()
        ax.plot([x, x + fx], [y, y + fy], color=color, lw=0.7, ls=":")
        plots.arrow(ax, middle, (x + dx, y + dy), color=color, width=1.6)
        far = LETTER / max(np.hypot(dx, dy), LETTER)
        where = (
            x + dx + far * (dx - side * dy),
            y + dy + far * (dy + side * dx),
        )
        look = {"ha": "center", "va": "center", "color": color}
        ax.text(*where, letter, weight="bold", **look)
        side = -side  # the key's letter keeps clear of the query's
    words = f"{dial.names[pair]}: {written(dial.products[pair].item())}"
    ax.text(x, y - radius - 0.17, words, ha="center", va="top")


def _product_curve(ax: Any, dial: RotaryDial) -> None:
    """The product at every distance, the present one marked."""
    last = dial.positions - 1
    distances = list(range(-last, last + 1))
    products = [
        dial.products_at(max(d, 0), max(-d, 0)).sum().item() for d in distances
    ]
    ax.plot(distances, products, color=plots.MUTED, lw=0.8)
    ax.plot(distances, products, ".", color=plots.INK, markersize=3)
    ax.plot(dial.distance, dial.product, "o", color=plots.ACCENT, ms=6)
    ax.set(xlabel="distance, query − key", title="product")


def written(number: float) -> str:
    """Three places, with a minus sign that is as wide as a digit.

    >>> written(-0.06667)
    '−0.067'
    """
    return f"{number:z.3f}".replace("-", "−")


def longest_hand(query: Tensor, key: Tensor) -> float:
    """The length of the longest pair of ``query`` and ``key``, (D,) each.

    >>> longest_hand(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]))
    5.0
    """
    pairs = torch.stack([query, key]).view(2, 2, -1)
    return pairs.norm(dim=1).max().item()


def checked_pairs(query: Any, key: Any) -> tuple[Tensor, Tensor]:
    """Both as float64 (D,), refused where they cannot be turned or compared.

    >>> checked_pairs([1, 2], [3, 4])[1].tolist()
    [3.0, 4.0]
    """
    one, other = (_numbers(x) for x in (query, key))
    if one.ndim != 1 or one.shape != other.shape or len(one) % 2:
        raise ValueError(
            f"query and key have shapes {tuple(one.shape)} and "
            f"{tuple(other.shape)}; expected the same even number of "
            "numbers, (D,), for they turn in pairs."
        )
    if not 1 <= len(one) // 2 <= MAX_PAIRS:
        raise ValueError(
            f"query and key have {len(one) // 2} pairs; expected 1 to "
            f"{MAX_PAIRS}, a dial for each."
        )
    if not torch.isfinite(torch.stack([one, other])).all():
        raise ValueError("query and key hold NaN or infinity.")
    if longest_hand(one, other) == 0:
        raise ValueError("query and key are zero; there is nothing to turn.")
    return one, other


def _numbers(x: Sequence[float] | Tensor) -> Tensor:
    return torch.as_tensor(x).detach().double().cpu()
