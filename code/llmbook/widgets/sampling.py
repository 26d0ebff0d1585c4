"""The next token's distribution under the reader's hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import traitlets
from matplotlib import pyplot as plt
from matplotlib.transforms import blended_transform_factory

from llmbook import plots
from llmbook.sampling import filtered
from llmbook.widgets._base import Explorer, packed
from llmbook.widgets.draws import WORD, draw
from llmbook.widgets.tokens import shortened, visible

MAX_DRAWS = 10_000  # enough for a histogram; drawn within a frame
MANY_TOKENS = 4_096  # beyond, only likely tokens bring their text along
LABELLED = 500  # of a large vocabulary, in each context
SHOWN = 12  # candidates listed at first
HINT = (
    "Try: raise the temperature until the rest overtakes the favourite, then "
    "cut the tail with top-p and draw a hundred."
)


class SamplingExplorer(Explorer):
    """One next-token distribution, reshaped by hand and drawn from.

    The steps are those of :func:`llmbook.sampling.filtered`: temperature,
    then top-k, top-p and min-p, each on what the one before left. The
    softmax runs in float64 over the whole vocabulary.

    Args:
        logits: (V,) real numbers of one context, or a list of them.
        tokens: the V tokens, as text or bytes.
        contexts: the text before each distribution, as the reader picks it.
        alt: what the figure shows, in words.
        caption: Markdown with ``$math$``.
        name: the label that ``{numref}`` uses.
        temperature, top_k, top_p, min_p: as in ``generate``; None or 0, 1
            and 0 switch the three filters off, temperature 0 is greedy.
        seed: of the draws, which mulberry32 makes alike in Python and page.
        choice: which context, counted from 0.
        draws: how many draws the histogram holds.
        hint: one line that says what to try.

    Raises:
        ValueError: shapes do not fit, a logit is not finite, a value is out
            of range, or the figure is too large for a page.

    >>> figure = SamplingExplorer([2.0, 1.0, 0.0], ["a", "b", "c"], top_k=2)
    >>> figure.probabilities.round(3).tolist()
    [0.731, 0.269, 0.0]
    """

    kind = "sampling"
    shared = (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "seed",
        "choice",
        "draws",
    )
    settings: ClassVar[dict[str, Any]] = {
        "figure.constrained_layout.use": False
    }  # places are fixed
    mend = "Give fewer contexts, or a smaller vocabulary."
    temperature = traitlets.Float(1.0).tag(sync=True)
    top_k = traitlets.Int(0, allow_none=True).tag(sync=True)
    top_p = traitlets.Float(1.0, allow_none=True).tag(sync=True)
    min_p = traitlets.Float(0.0, allow_none=True).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    choice = traitlets.Int(0).tag(sync=True)
    draws = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        logits: Any,
        tokens: Sequence[str | bytes],
        *,
        contexts: Sequence[str] | None = None,
        alt: str = "",
        caption: str = "",
        name: str = "fig-sampling-explorer",
        hint: str = HINT,
        **values: float | None,
    ) -> None:
        self.logits = checked_logits(logits, len(tokens))
        n = len(self.logits)
        self.contexts = list(contexts or map("Context {}".format, range(n)))
        if len(self.contexts) != n:
            raise ValueError(
                f"got {len(self.contexts)} contexts and {n} rows of logits; "
                "expected one context a row."
            )
        self.tokens = tokens
        unknown = set(values) - set(self.shared)
        if unknown:
            raise TypeError(f"unexpected arguments: {sorted(unknown)}")
        super().__init__(
            alt or f"The next token's distribution over {len(tokens)} tokens.",
            caption,
            name,
            data=self._data(hint),
            **values,
        )
        first = {k: getattr(self, k) for k in self.shared}
        self.data = {**self.data, "start": first}

    def _data(self, hint: str) -> dict[str, Any]:
        return {
            "tokens": self._labels(),
            "tokens_total": len(self.tokens),
            "contexts": [visible_text(text) for text in self.contexts],
            "logits": [packed(row) for row in self.logits],
            "max_draws": MAX_DRAWS,
            "shown": SHOWN,
            "hint": hint,
        }

    def _labels(self) -> dict[int, str]:
        """Tokens by id; of a large vocabulary the likely ones only."""
        ids = range(len(self.tokens))
        if len(self.tokens) > MANY_TOKENS:
            likely = np.argsort(-self.logits, axis=-1)[:, :LABELLED]
            ids = np.unique(likely).tolist()
        return {i: visible(self.tokens[i]) for i in ids}

    @traitlets.validate("top_k", "top_p", "min_p")
    def _filter(self, proposal: Any) -> float:
        trait, value = proposal.trait, proposal.value
        highest = len(self.tokens) if trait.name == "top_k" else 1
        if value is None:
            return trait.default_value
        if trait.name == "top_p" and value == 0:
            raise ValueError("top_p is 0; expected a number in (0, 1].")
        return self.check(trait.name, value, 0, highest)

    @traitlets.validate("temperature", "seed", "choice", "draws")
    def _in_range(self, proposal: Any) -> float:
        highest = {
            "temperature": 100.0,
            "seed": WORD - 1,
            "choice": len(self.logits) - 1,
            "draws": MAX_DRAWS,
        }[proposal.trait.name]
        return self.check(proposal.trait.name, proposal.value, 0, highest)

    @property
    def probabilities(self) -> np.ndarray:
        """The distribution (V,) that is drawn from, in float64."""
        logits = torch.from_numpy(self.logits[self.choice])
        if self.temperature == 0:
            return np.eye(1, len(logits), int(logits.argmax()))[0]
        left = filtered(
            logits,
            self.temperature,
            self.top_k or None,
            self.top_p,
            self.min_p,
        )
        return left.double().softmax(-1).numpy()

    @property
    def ranking(self) -> list[int]:
        """Ids from the most likely down; of equals the lower id first."""
        logits = torch.from_numpy(self.logits[self.choice])
        scaled = logits / (self.temperature or 1)
        return scaled.sort(descending=True, stable=True).indices.tolist()

    def drawn(self) -> list[int]:
        """The ``draws`` ids drawn with ``seed``, the page's own sequence.

        >>> SamplingExplorer([0.0, 0.0], ["a", "b"], draws=3, seed=1).drawn()
        [1, 0, 1]
        """
        p = self.probabilities.tolist()
        return draw(p, self.ranking, self.draws, self.seed)

    def counts(self) -> dict[int, int]:
        """How often each id was drawn; ids never drawn are left out."""
        return dict(Counter(self.drawn()))

    def picture(self) -> plt.Figure:
        """The candidates as bars with their numbers, in this state."""
        order = self.ranking[:SHOWN]
        fig, ax = _sheet(len(order))
        logits = torch.from_numpy(self.logits[self.choice]).double()
        before, after = logits.softmax(-1).numpy(), self.probabilities
        counts = self.counts()
        for row, i in enumerate(order):
            share = counts.get(i, 0) / self.draws if self.draws else None
            _bar(ax, row, before[i], after[i], share)
        ax.set(ylim=(len(order) - 0.4, -1.2), xlim=(0, None))
        names = [shortened(visible(self.tokens[i])) for i in order]
        names = [name.replace("$", r"\$") for name in names]
        ax.set_yticks(range(len(order)), names)
        ax.grid(False)
        ax.tick_params(axis="y", length=0)
        _columns(
            ax,
            [
                ("logit", [f"{logits[i]:.3f}" for i in order]),
                (
                    "probability",
                    [f"{after[i]:.4f}" if after[i] else "cut" for i in order],
                ),
            ],
        )
        ax.set_xlabel("probability")
        fig.text(
            0.005, 0.01, self._explained(after, len(order)), color=plots.MUTED
        )
        return fig

    def _explained(self, after: np.ndarray, listed: int) -> str:
        """What the marks of the printed figure mean."""
        drawn = f"tick: share of {self.draws:,} draws; " * bool(self.draws)
        return (
            f"outline: as the model gives it; filled: at {self.setting()};\n"
            f"{drawn}{(after > 0).sum():,} of {len(after):,} tokens kept, "
            f"the {listed} likeliest shown"
        )

    def setting(self) -> str:
        """The choices in words.

        >>> SamplingExplorer([0.0, 1.0], ["a", "b"], top_p=0.9).setting()
        'temperature 1, top-p 0.9'
        """
        words = [f"temperature {self.temperature:g}"]
        words += [f"top-k {self.top_k}"] * bool(self.top_k)
        words += [f"top-p {self.top_p:g}"] * (self.top_p < 1)
        words += [f"min-p {self.min_p:g}"] * (self.min_p > 0)
        return ", ".join(words)


def _bar(
    ax: Any, row: int, before: float, after: float, drawn: float | None
) -> None:
    """The model's probability outlined, the new one filled, draws a tick."""
    cut = after == 0
    ax.barh(
        row,
        before,
        0.72,
        facecolor="none",
        edgecolor=plots.MUTED,
        linewidth=0.7,
        hatch="////" if cut else None,
    )
    ax.barh(row, after, 0.4, color=plots.ACCENT, edgecolor="none")
    if drawn:
        ax.plot(
            [drawn, drawn],
            [row - 0.45, row + 0.45],
            color=plots.INK,
            linewidth=1.6,
            solid_capstyle="butt",
        )


def _sheet(rows: int) -> tuple[plt.Figure, Any]:
    """Axes for ``rows`` bars, with room for names, columns and a caption."""
    bars, below, above = 0.21 * rows + 0.3, 0.9, 0.08  # inches
    height = bars + below + above
    fig = plt.figure(figsize=(plots.WIDTH, height))
    return fig, fig.add_axes((0.17, below / height, 0.53, bars / height))


def _columns(ax: Any, columns: list[tuple[str, list[str]]]) -> None:
    """Numbers to the right of the bars, a heading over each column."""
    place = blended_transform_factory(ax.figure.transFigure, ax.transData)
    for x, (heading, texts) in zip((0.83, 0.995), columns, strict=True):
        for row, text in [(-0.9, heading), *enumerate(texts)]:
            ax.text(
                x,
                row,
                text,
                ha="right",
                va="center",
                transform=place,
                color=plots.MUTED if row < 0 else plots.INK,
            )


def visible_text(text: str) -> str:
    """A context for a menu: line ends shown, spaces left as they are.

    >>> visible_text("Ona lost\\n")
    'Ona lost↵'
    """
    return " ".join(visible(word) if word else "" for word in text.split(" "))


def checked_logits(logits: Any, V: int) -> np.ndarray:
    """``logits`` as float32 (contexts, V), refused where they cannot be.

    >>> checked_logits([0.0, 1.0], 2).shape
    (1, 2)
    """
    rows = logits if isinstance(logits, (list, tuple)) else [logits]
    if np.ndim(rows[0]) == 0:
        rows = [rows]
    array = np.stack(
        [
            np.asarray(torch.as_tensor(row).detach().float().cpu())
            for row in rows
        ]
    )
    array = array.reshape(-1, array.shape[-1])
    if array.shape[-1] != V or not array.size:
        raise ValueError(
            f"logits have shape {array.shape} and there are {V} tokens; "
            f"expected {V} logits for each context, one a token."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            "a logit is NaN or infinite; expected the model's own logits, "
            "before any filter."
        )
    return array
