"""The attention map that a reader walks through, down to the sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import traitlets
from matplotlib import pyplot as plt

from llmbook import plots
from llmbook.inside import look
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.widgets import attention_picture
from llmbook.widgets._base import Explorer, packed
from llmbook.widgets.attention_heads import Switchboard, label, tokens_of
from llmbook.widgets.attention_sums import (
    LARGEST,
    Row,
    softmax_row,
    units,
)
from llmbook.widgets.tokens import visible

MAX_TOKENS = 64  # more cells than 64 x 64 are no longer told apart
SAME_WEIGHT = 1e-2  # how far weights may be from the queries' and keys'
REST = "Try: rest on a token to see where it looks, "
HINT = (
    f"{REST}then change the head. In the map, the arrow keys walk from cell "
    "to cell."
)
OPEN_HINT = (
    f"{REST}choose another head, and open a cell (click, or Enter) to see "
    "the sum behind its weight."
)
FULL_HINT = (
    f"{REST}choose another head from the small maps, and open a cell (click, "
    "or Enter) to see the sum behind its weight. Then switch the head off."
)
NOTES = {
    "rotary": "Queries and keys are shown as the scores see them, already "
    "turned by their positions.",
    "alibi": "The last two numbers carry ALiBi’s penalty on distance, which "
    "is why they are two more than a head’s.",
}


class AttentionExplorer(Explorer):
    """Attention weights by layer and head, each cell with its exact value.

    Made :meth:`from_model`, a cell opens and shows its q · k term by term,
    the scale, the mask and the softmax, and heads can be switched off.

    Args:
        weights: (L, H, T, T) as ``GPT.attention_weights`` gives them, also
            (H, T, T), (T, T) or (L, 1, H, T, T); rows are queries.
        tokens: the T tokens, as text or bytes.
        queries, keys: (L, H, T, D), and as with the weights fewer axes; with
            them a cell opens. As the scores saw them: turned, repeated.
        alt: what the figure shows, in words.
        caption: Markdown with ``$math$``.
        name: the label that ``{numref}`` uses, and the figure's name in the
            page's address.
        layer, head, query, key: what is chosen first, counted from 0; left
            out, the last token asks and its strongest key is marked.
        opened: whether the chosen cell is open.
        off: (layer, head) of each head that is switched off; a page without
            a kernel knows one at a time. Like the five before it is a
            trait: read it, set it, link it.
        causal: whether keys after the query are masked.
        window: how many of the newest tokens a query sees; None: all.
        note: a sentence about the queries and keys.
        switchboard: runs the model with heads off; see :meth:`from_model`.
        hint: one line that says what to try.

    Raises:
        ValueError: shapes do not fit, rows do not sum to 1, a map looks
            where the mask is closed, queries and keys give other weights,
            or the figure is too large for a page.

    >>> map = AttentionExplorer([[1.0, 0.0], [0.25, 0.75]], ["a", " b"])
    >>> map.query, map.key, map.weight
    (1, 1, 0.75)
    """

    kind = "attention"
    scripts = (
        "address.js",
        "attention-sums.js",
        "attention-maps.js",
        "attention-panels.js",
    )
    sheets = ("attention.css",)
    shared = ("layer", "head", "query", "key", "opened", "off", "outcome")
    settings: ClassVar[dict[str, Any]] = {
        "hatch.color": plots.FAINT
    }  # masked: present, not loud
    mend = (
        "Give fewer layers, heads or tokens: weights[:2, :4]; or, "
        "from_model, numbers=False."
    )
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)
    key = traitlets.Int(0).tag(sync=True)
    opened = traitlets.Bool(False).tag(sync=True)
    off = traitlets.List().tag(sync=True)
    outcome = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        weights: Any,
        tokens: Sequence[str | bytes],
        *,
        queries: Any = None,
        keys: Any = None,
        alt: str = "",
        caption: str = "",
        name: str = "fig-attention-explorer",
        layer: int = 0,
        head: int = 0,
        query: int | None = None,
        key: int | None = None,
        opened: bool = False,
        off: Sequence[tuple[int, int]] = (),
        causal: bool = True,
        window: int | None = None,
        note: str = "",
        switchboard: Switchboard | None = None,
        hint: str | None = None,
    ) -> None:
        mask = open_mask(len(tokens), causal, window)
        self.weights = checked_weights(weights, mask)
        self.tokens = [visible(token) for token in tokens]
        self.mask, self.causal, self.window = mask, causal, window
        self.vectors = checked_vectors(queries, keys, self.weights, mask)
        self.switchboard, self.note = switchboard, note
        query = len(tokens) - 1 if query is None else query
        super().__init__(
            alt or f"Attention weights among {len(tokens)} tokens, as a map.",
            caption,
            name,
            data=self._data(hint or self._hint()),
            opened=opened,
            off=list(off),
            **{"layer": layer, "head": head, "query": query, "key": key or 0},
        )
        if key is None:
            self.key = int(self.weights[layer, head, query].argmax())

    @classmethod
    def from_model(
        cls,
        model: GPT,
        tokenizer: Tokenizer,
        text: str | Sequence[int],
        *,
        numbers: bool = True,
        **choices: Any,
    ) -> AttentionExplorer:
        """The figure in full: what ``model`` does when it reads ``text``.

        Args:
            model: has to stay as it is while a live figure is used.
            tokenizer: the model's.
            text: what is read; or its token ids, special ones included.
            numbers: False leaves out the sums and the switches, which take
                much room where heads are many.
            choices: ``alt``, ``caption``, ``name``, ``layer``, ``head``,
                ``query``, ``key``, ``opened``, ``off`` and ``hint``.

        Raises:
            ValueError: as for the class, or the text does not fit.
        """
        ids = tokenizer.encode(text) if isinstance(text, str) else list(text)
        device = model.head_weight.device
        idx = torch.tensor([ids], dtype=torch.long, device=device)
        seen = look(model, idx)
        tokens = [token for _, token in tokens_of(tokenizer, ids)]
        if numbers:
            choices |= {
                "queries": seen.queries,
                "keys": seen.keys,
                "switchboard": Switchboard(model, tokenizer, ids),
                "note": NOTES.get(model.config.positions, ""),
            }
        window = model.config.window
        return cls(seen.weights, tokens, window=window, **choices)

    def _hint(self) -> str:
        if self.switchboard is not None:
            return FULL_HINT
        return HINT if self.vectors is None else OPEN_HINT

    def _data(self, hint: str) -> dict[str, Any]:
        L, H, T, _ = self.weights.shape
        stored = open_mask(T, self.causal, window=None)
        data = {
            "n_layer": L,
            "n_head": H,
            "tokens": self.tokens,
            "causal": self.causal,
            "window": self.window,
            "weights": packed(self.weights[:, :, stored]),
            "note": self.note,
            "hint": hint,
        }
        if self.vectors is not None:
            data["queries"], data["keys"] = (
                packed(vectors, "<i4") for vectors in self.vectors
            )
        if self.switchboard is not None:
            data["singly"] = self.switchboard.singly()
            data["following"] = [*self.switchboard.ids[1:], None]
        return data

    @traitlets.validate("layer", "head", "query", "key")
    def _in_range(self, proposal: Any) -> int:
        axis = self.shared.index(proposal.trait.name)
        last = self.weights.shape[axis] - 1
        return self.check(proposal.trait.name, proposal.value, 0, last)

    @traitlets.validate("opened")
    def _can_open(self, proposal: Any) -> bool:
        if proposal.value and self.vectors is None:
            raise ValueError(
                "a cell opens on the sum of its queries and keys, and there "
                "are none. Give queries= and keys=, or make the figure with "
                "from_model."
            )
        return proposal.value

    @traitlets.validate("off")
    def _can_switch(self, proposal: Any) -> list[list[int]]:
        L, H = self.weights.shape[:2]
        if proposal.value and self.switchboard is None:
            raise ValueError(
                "a head is switched off in a model, and there is none. Make "
                "the figure with from_model."
            )
        known = {(layer, head) for layer in range(L) for head in range(H)}
        for pair in proposal.value:
            if not isinstance(pair, list | tuple) or tuple(pair) not in known:
                raise ValueError(
                    f"off holds {pair!r}; expected (layer, head), with "
                    f"layers 0 to {L - 1} and heads 0 to {H - 1}."
                )
        heads = {(int(layer), int(head)) for layer, head in proposal.value}
        return [list(head) for head in sorted(heads)]

    @traitlets.observe("off")
    def _run_without(self, change: Any) -> None:
        """Several heads at once are not stored: the model runs again."""
        if len(self.off) > 1:
            rows = self.switchboard.rows(map(tuple, self.off))
            words = self.switchboard.words(rows)
            name = label(self.off)
            self.outcome = {"name": name, "rows": rows, "words": words}

    @property
    def weight(self) -> float | None:
        """The chosen cell's weight; None where it is masked."""
        if not self.mask[self.query, self.key]:
            return None
        cell = (self.layer, self.head, self.query, self.key)
        return float(self.weights[cell])

    @property
    def sums(self) -> Row | None:
        """The steps to the chosen row's weights, as an open cell shows them.

        None where the figure has no queries and keys.
        """
        if self.vectors is None:
            return None
        queries, keys = (
            vectors[self.layer, self.head].tolist() for vectors in self.vectors
        )
        is_open = self.mask[self.query].tolist()
        return softmax_row(queries[self.query], keys, is_open, self.key)

    @property
    def prediction(self) -> list[tuple[str, float, float]]:
        """What may come after the chosen query: token, before, after.

        The probabilities are those with all heads on and with ``off`` off,
        as the page shows them. Empty where the figure has no model.
        """
        if self.switchboard is None:
            return []
        singly = self.data["singly"]
        if len(self.off) > 1:
            rows, words = self.outcome["rows"], self.outcome["words"]
        else:
            rows, words = singly["rows"][label(self.off)], singly["words"]
        return [(words[i], p, after) for i, p, after in rows[self.query]]

    def picture(self) -> plt.Figure:
        """The chosen head's map with its numbers, the others beside it."""
        return attention_picture.draw(self)


def open_mask(T: int, causal: bool, window: int | None) -> np.ndarray:
    """Where each of T queries may look: bool (T, T), True where it may.

    >>> open_mask(3, causal=True, window=2).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    mask = np.tri(T, dtype=bool) if causal else np.ones((T, T), dtype=bool)
    return mask if window is None else np.triu(mask, 1 - window)


def as_array(values: Any, axes: int) -> np.ndarray:
    """``values`` as float32 with ``axes`` axes; a batch of one goes."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    array = np.asarray(values, dtype=np.float32)
    if array.ndim == axes + 1 and array.shape[1] == 1:
        array = array[:, 0]
    return array.reshape((1,) * (axes - array.ndim) + array.shape)


def checked_weights(weights: Any, mask: np.ndarray) -> np.ndarray:
    """``weights`` as float32 (L, H, T, T), refused where they cannot be.

    >>> mask = np.tri(2, dtype=bool)
    >>> checked_weights([[1.0, 0.0], [0.5, 0.5]], mask).shape
    (1, 1, 2, 2)
    """
    array, T = as_array(weights, 4), len(mask)
    if array.ndim != 4 or array.shape[2:] != (T, T) or not array.size:
        raise ValueError(
            f"weights have shape {array.shape} and there are {T} tokens; "
            f"expected (L, H, {T}, {T}): a row and a column for each token."
        )
    if T > MAX_TOKENS:
        raise ValueError(
            f"got {T} tokens; at most {MAX_TOKENS} can be told apart in the "
            f"map. Cut the text to its first {MAX_TOKENS}."
        )
    if not array.min() >= 0:
        raise ValueError(
            "weights hold NaN or are negative; expected shares of 1. Give "
            "the weights after the softmax, of a model without NaN."
        )
    if array[:, :, ~mask].any():
        raise ValueError(
            "a query looks where the mask is closed. Apply causal_mask, or "
            "say causal=False when every token may look at every other, and "
            "window=None when it may look back without end."
        )
    sums = array.sum(-1)
    if not np.allclose(sums, 1, atol=1e-2):  # bfloat16 rows miss 1 by 4e-3
        raise ValueError(
            f"rows sum to {sums.min():.3f} and up to {sums.max():.3f}; "
            "expected 1. Give the weights after the softmax, not the scores."
        )
    return array


def checked_vectors(
    queries: Any, keys: Any, weights: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Queries and keys in ten-thousandths, (L, H, T, D) each.

    None where there are none. Refused where their softmax gives other
    weights than ``weights``.
    """
    if queries is None and keys is None:
        return None
    if queries is None or keys is None:
        raise ValueError("queries and keys go together; give both.")
    q, k = as_array(queries, 4), as_array(keys, 4)
    if q.shape != k.shape or q.shape[:3] != weights.shape[:3]:
        raise ValueError(
            f"queries have shape {q.shape} and keys {k.shape}; expected "
            f"{weights.shape[:3]} and the head size for both. Repeat keys "
            "that several heads share, one for each."
        )
    scores = q @ k.swapaxes(-2, -1) / np.sqrt(q.shape[-1])
    scores = np.where(mask, scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    gap = np.abs(powers / powers.sum(-1, keepdims=True) - weights).max()
    if not gap < SAME_WEIGHT:
        raise ValueError(
            f"these queries and keys give other weights, {gap:.3f} away. "
            "Give them as the scores saw them, after rotary positions."
        )
    largest = max(np.abs(q).max(), np.abs(k).max())
    if largest > LARGEST:
        raise ValueError(
            f"queries or keys hold {largest:g}; at most {LARGEST:,} can be "
            "shown to the last place. Leave queries= and keys= out, or give "
            "from_model numbers=False."
        )
    return units(q), units(k)
