"""The attention map that a reader walks through: one cell, one weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import traitlets
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from llmbook import plots
from llmbook.widgets._base import Explorer, packed
from llmbook.widgets.tokens import shortened, visible

MAX_TOKENS = 64  # more cells than 64 x 64 are no longer told apart
MAX_PRINTED_NUMBERS = 16  # tokens up to which print shows every number
MARGIN = 0.24  # inches around the small maps, for their names
MAX_THUMBNAILS = 24  # heads that print shows small beside the chosen one
HINT = (
    "Try: rest on a token to see where it looks, then change the head. In "
    "the map, the arrow keys walk from cell to cell."
)


class AttentionExplorer(Explorer):
    """Attention weights by layer and head, each cell with its exact value.

    Args:
        weights: (L, H, T, T) as ``GPT.attention_weights`` gives them, also
            (H, T, T), (T, T) or (L, 1, H, T, T); rows are queries.
        tokens: the T tokens, as text or bytes.
        alt: what the figure shows, in words.
        caption: Markdown with ``$math$``.
        name: the label that ``{numref}`` uses.
        layer, head, query, key: what is chosen first, counted from 0; left
            out, the last token asks and its strongest key is marked. These
            are traits: read them, set them, link them.
        causal: whether keys after the query are masked.
        hint: one line that says what to try.

    Raises:
        ValueError: shapes do not fit, rows do not sum to 1, a causal map
            looks ahead, or the figure is too large for a page.

    >>> map = AttentionExplorer([[1.0, 0.0], [0.25, 0.75]], ["a", " b"])
    >>> map.query, map.key, map.weight
    (1, 1, 0.75)
    """

    kind = "attention"
    shared = ("layer", "head", "query", "key")
    settings: ClassVar[dict[str, Any]] = {
        "hatch.color": plots.FAINT
    }  # masked: present, not loud
    mend = "Give fewer layers, heads or tokens: weights[:2, :4]."
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)
    key = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        weights: Any,
        tokens: Sequence[str | bytes],
        *,
        alt: str = "",
        caption: str = "",
        name: str = "fig-attention-explorer",
        layer: int = 0,
        head: int = 0,
        query: int | None = None,
        key: int | None = None,
        causal: bool = True,
        hint: str = HINT,
    ) -> None:
        self.weights = checked_weights(weights, len(tokens), causal)
        self.tokens = [visible(token) for token in tokens]
        self.causal = causal
        query = len(tokens) - 1 if query is None else query
        if key is None:
            key = int(self.weights[layer, head, query].argmax())
        super().__init__(
            alt or f"Attention weights among {len(tokens)} tokens, as a map.",
            caption,
            name,
            data=self._data(hint),
            layer=layer,
            head=head,
            query=query,
            key=key,
        )

    def _data(self, hint: str) -> dict[str, Any]:
        L, H, T, _ = self.weights.shape
        seen = np.tri(T, dtype=bool) if self.causal else np.ones((T, T), bool)
        return {
            "n_layer": L,
            "n_head": H,
            "tokens": self.tokens,
            "causal": self.causal,
            "weights": packed(self.weights[:, :, seen]),
            "hint": hint,
        }

    @traitlets.validate("layer", "head", "query", "key")
    def _in_range(self, proposal: Any) -> int:
        axis = self.shared.index(proposal.trait.name)
        last = self.weights.shape[axis] - 1
        return self.check(proposal.trait.name, proposal.value, 0, last)

    @property
    def weight(self) -> float | None:
        """The chosen cell's weight; None where it is masked."""
        if self.causal and self.key > self.query:
            return None
        cell = (self.layer, self.head, self.query, self.key)
        return float(self.weights[cell])

    def picture(self) -> plt.Figure:
        """The chosen head's map with its numbers, the others beside it."""
        L, H = self.weights.shape[:2]
        others = 1 < L * H <= MAX_THUMBNAILS
        fig = plt.figure(figsize=(plots.WIDTH, 3.7 if others else 4.2))
        left = fig
        if others:
            left, right = fig.subfigures(1, 2, width_ratios=(2.5, 1))
            _thumbnails(right, self)
        _map(left.subplots(), self)
        where = f"layer {self.layer}, head {self.head}"
        left.supxlabel(where, size=plots.TEXT_SIZE, color=plots.MUTED)
        return fig


def _map(ax: Any, explorer: AttentionExplorer) -> None:
    """The chosen head, each cell with its number, the chosen one framed."""
    T = len(explorer.tokens)
    names = [shortened(token) for token in explorer.tokens]
    plots.heatmap(
        ax,
        explorer.weights[explorer.layer, explorer.head],
        names,
        names,
        mask=np.tri(T, dtype=bool) if explorer.causal else None,
        vmax=1,
        values=T <= MAX_PRINTED_NUMBERS,
        size=min(plots.TEXT_SIZE - 1, 78 / T),  # what a cell's width holds
    )
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
    for layer, head in np.ndindex(L, H):
        x, y = MARGIN + head * step, top - layer * step - side
        place = (x / width, y / height, side / width, side / height)
        ax = fig.add_axes(place)
        _thumbnail(ax, explorer, layer, head)
        label = {"ha": "center", "va": "center", "color": plots.MUTED}
        if layer == 0:
            ax.set_title(str(head), loc="center", pad=6, **label)
        if head == 0:
            ax.set_ylabel(str(layer), rotation=0, labelpad=5, **label)
    fig.text(
        MARGIN / width,
        (top - L * step) / height,
        "a row for each layer,\na column for each head",
        va="top",
        size=plots.TEXT_SIZE - 1,
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


def checked_weights(weights: Any, T: int, causal: bool) -> np.ndarray:
    """``weights`` as float32 (L, H, T, T), refused where they cannot be.

    >>> checked_weights([[1.0, 0.0], [0.5, 0.5]], 2, causal=True).shape
    (1, 1, 2, 2)
    """
    if hasattr(weights, "detach"):
        weights = weights.detach().float().cpu().numpy()
    array = np.asarray(weights, dtype=np.float32)
    if array.ndim == 5 and array.shape[1] == 1:
        array = array[:, 0]  # a batch of one
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    if array.ndim != 4 or array.shape[2:] != (T, T) or not array.size:
        raise ValueError(
            f"weights have shape {array.shape} and there are {T} tokens; "
            f"expected (L, H, {T}, {T}): a row and a column for each token."
        )
    if T > MAX_TOKENS:
        raise ValueError(
            f"got {T} tokens; at most {MAX_TOKENS} can be told apart in the "
            f"map. Cut the text: weights[..., :{MAX_TOKENS}, :{MAX_TOKENS}]."
        )
    if causal and np.triu(array, 1).any():
        raise ValueError(
            "a query looks at a key after it. Apply causal_mask, or say "
            "causal=False when every token may look at every other."
        )
    sums = array.sum(-1)
    if not np.allclose(sums, 1, atol=1e-2):  # bfloat16 rows miss 1 by 4e-3
        raise ValueError(
            f"rows sum to {sums.min():.3f} and up to {sums.max():.3f}; "
            "expected 1. Give the weights after the softmax, not the scores."
        )
    return array
