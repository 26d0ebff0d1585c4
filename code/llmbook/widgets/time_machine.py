"""A training run to travel in: loss, samples and attention at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import traitlets
from matplotlib import pyplot as plt
from torch import Tensor

from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import History, token_losses
from llmbook.widgets import time_picture
from llmbook.widgets._base import Explorer, packed
from llmbook.widgets.attention import checked_weights, open_mask
from llmbook.widgets.attention_heads import tokens_of
from llmbook.widgets.tokens import visible

MAX_TOKENS = 24  # columns that the printed table of losses still labels
MAX_MOMENTS = 24
LEVELS = 255  # weights are kept in 255ths: two places are shown
POINTS = 240  # of the loss curve: finer is not seen
HINT = (
    "Try: drag the step (arrow keys, Home and End do it too) and watch the "
    "sample become words, then sentences. Then stop at the last step, choose "
    "a head, and drag back to see when it learned to look there."
)


class Moment(Protocol):
    """The model as it was after ``step`` steps, and what it wrote then."""

    @property
    def step(self) -> int: ...

    @property
    def sample(self) -> str: ...

    def model(self) -> GPT: ...


class TimeMachine(Explorer):
    """One training run: drag the step, and what the model does follows.

    Args:
        steps: how many steps were done at each of M moments, growing.
        tokens: the T tokens of a sentence, as text or bytes.
        weights: attention in it at each moment, (M, L, H, T, T); rows are
            queries, which look back alone.
        losses: −ln p of each token but the first, in nats, (M, T - 1).
        samples: what the model wrote at each moment, M texts.
        curve: the training loss; entry s is of the model after s steps.
        held_out: pairs (steps, loss) on held-out text.
        marks: levels to compare with: nats a token, by name.
        alt: what the figure shows, in words.
        caption: Markdown with ``$math$``.
        name: the label that ``{numref}`` uses, and the figure's name in the
            page's address.
        step: the moment that is shown first, one of ``steps``; None: the
            last. Like the four below it is a trait: read it, set it, link it.
        layer, head, query, key: what is chosen in the attention maps.
        hint: one line that says what to try.

    Raises:
        ValueError: shapes do not fit, steps do not grow, a loss is negative
            or NaN, or what is chosen is not there.

    >>> weights = np.full((2, 1, 1, 2, 2), [[1.0, 0.0], [0.5, 0.5]])
    >>> losses, curve = [[0.7], [0.2]], [0.7, 0.5, 0.3, 0.2, 0.1]
    >>> machine = TimeMachine(
    ...     [0, 4], ["a", " b"], weights, losses, ["x", "a b"], curve
    ... )
    >>> machine.step, machine.sample, machine.loss
    (4, 'a b', 0.1)
    """

    kind = "time-machine"
    scripts = (
        "address.js",
        "attention-maps.js",
        "time-curve.js",
        "time-parts.js",
    )
    sheets = ("attention.css", "time-machine.css")
    shared = ("step", "layer", "head", "query", "key")
    mend = "Give fewer moments, heads or tokens."
    step = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)
    key = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        steps: Sequence[int],
        tokens: Sequence[str | bytes],
        weights: Any,
        losses: Any,
        samples: Sequence[str],
        curve: Sequence[float],
        *,
        held_out: Sequence[tuple[int, float]] = (),
        marks: Mapping[str, float] | None = None,
        alt: str = "",
        caption: str = "",
        name: str = "fig-time-machine",
        step: int | None = None,
        layer: int = 0,
        head: int = 0,
        query: int | None = None,
        key: int | None = None,
        hint: str = HINT,
    ) -> None:
        self.steps = checked_steps(steps)
        self._keep(tokens, weights, losses, samples)
        self.curve = drawn_curve(curve, self.steps)
        self.held_out = placed(held_out, self.steps)
        self.marks = {str(k): float(v) for k, v in (marks or {}).items()}
        super().__init__(
            alt or f"A training run at {len(steps)} moments, step by step.",
            caption,
            name,
            data=self._data(hint),
            step=self.steps[-1] if step is None else step,
            query=len(tokens) - 1 if query is None else query,
            **{"layer": layer, "head": head, "key": key or 0},
        )
        if key is None:
            self.key = int(self.map[self.query].argmax())

    def _keep(
        self,
        tokens: Sequence[str | bytes],
        weights: Any,
        losses: Any,
        samples: Sequence[str],
    ) -> None:
        """Check what each moment has, and keep it."""
        M, T = len(self.steps), len(tokens)
        self.tokens = [visible(token) for token in tokens]
        self.weights = kept_weights(weights, M, T)
        self.losses = checked_losses(losses, (M, T - 1), "losses")
        self.samples = checked_samples(samples, M)

    @classmethod
    def from_snapshots(
        cls,
        snapshots: Sequence[Moment],
        tokenizer: Tokenizer,
        text: str,
        history: History,
        *,
        before: str = "",
        **choices: Any,
    ) -> TimeMachine:
        """What a run recorded, read on ``text`` at each of its moments.

        Args:
            snapshots: of the run, in its order.
            tokenizer: the models'; the text is read after its start token.
            history: of the run: its losses.
            before: what is read before ``text`` and not shown; what looks
                there is shown as one column.
            choices: ``marks``, ``alt``, ``caption``, ``name``, ``step``,
                ``layer``, ``head``, ``query``, ``key`` and ``hint``.
        """
        start, ids = tokenizer.end_of_text, tokenizer.encode(before + text)
        hidden = checked_place(ids, tokenizer.encode(text), before) + 1
        first = f"…{hidden}" if before else ""  # so many before
        weights, losses = [], []
        for snapshot in snapshots:
            model = snapshot.model()
            weights.append(weights_after(model, [start, *ids], hidden))
            losses.append(token_losses(model, ids, start)[hidden - 1 :])
        shown = tokens_of(tokenizer, [start, *ids[hidden - 1 :]])
        return cls(
            [snapshot.step for snapshot in snapshots],
            [first or shown[0][1], *(token for _, token in shown[1:])],
            torch.stack(weights),
            torch.stack(losses),
            [snapshot.sample for snapshot in snapshots],
            history.loss,
            held_out=history.evaluations,
            **choices,
        )

    def _data(self, hint: str) -> dict[str, Any]:
        _, L, H, T, _ = self.weights.shape
        stored = self.weights[..., np.tri(T, dtype=bool)]
        return {
            "steps": self.steps,
            "n_layer": L,
            "n_head": H,
            "tokens": self.tokens,
            "causal": True,
            "window": None,
            "weights": packed(np.rint(stored * LEVELS), "u1"),
            "losses": self.losses.round(4).tolist(),
            "samples": [readable(sample) for sample in self.samples],
            "curve": [list(point) for point in self.curve],
            "held_out": [list(point) for point in self.held_out],
            "at": [self.loss_at(m) for m in range(len(self.steps))],
            "marks": self.marks,
            "hint": hint,
        }

    @traitlets.validate("step")
    def _is_recorded(self, proposal: Any) -> int:
        if proposal.value not in self.steps:
            raise ValueError(
                f"step is {proposal.value}; the run kept only "
                f"{', '.join(map(str, self.steps))}. Choose one of these."
            )
        return proposal.value

    @traitlets.validate("layer", "head", "query", "key")
    def _in_range(self, proposal: Any) -> int:
        axis = self.shared.index(proposal.trait.name)
        last = self.weights.shape[axis] - 1
        return self.check(proposal.trait.name, proposal.value, 0, last)

    @property
    def moment(self) -> int:
        """Which of the moments is shown, counted from 0."""
        return self.steps.index(self.step)

    @property
    def sample(self) -> str:
        """What the model wrote at the shown moment."""
        return self.samples[self.moment]

    @property
    def map(self) -> np.ndarray:
        """The chosen head's weights at the shown moment, (T, T)."""
        return self.weights[self.moment, self.layer, self.head]

    @property
    def loss(self) -> float:
        """The training loss at the shown moment, read off the curve."""
        return self.loss_at(self.moment)

    def loss_at(self, moment: int) -> float:
        """The training loss at a moment, read off the drawn curve."""
        x, y = zip(*self.curve, strict=True)
        return round(float(np.interp(moment, x, y)), 4)

    def picture(self) -> plt.Figure:
        """The curve, samples and maps of some moments, losses of all."""
        return time_picture.draw(self)


@torch.no_grad()
def weights_after(model: GPT, ids: Sequence[int], hidden: int) -> Tensor:
    """Attention among the tokens after the first ``hidden``, (L, H, T, T).

    The hidden ones count as one token, the first: its column holds what
    each of the others gives to all of them.
    """
    idx = torch.tensor([ids], device=model.head_weight.device)
    seen = model.attention_weights(idx)[:, 0].float().cpu()
    rows = seen[..., hidden - 1 :, :]
    early = rows[..., :hidden].sum(-1, keepdim=True)
    return torch.cat([early, rows[..., hidden:]], dim=-1)


def checked_place(ids: list[int], last: list[int], before: str) -> int:
    """How many of ``ids`` stand before ``last``, with which they must end.

    >>> checked_place([5, 6, 7], [6, 7], "a")
    1
    """
    if not last or ids[-len(last) :] != last:
        raise ValueError(
            f"after {before[-20:]!r} the text becomes other tokens than it "
            "does alone. Let `before` end where a token ends: without the "
            "space that belongs to the next word."
        )
    return len(ids) - len(last)


def readable(text: str) -> str:
    """``text`` with spaces and line ends as they are, all else visible.

    >>> readable("a b\\x00")
    'a b⟨U+0000⟩'
    """
    lines = text.split("\n")
    return "\n".join(
        " ".join(visible(word) if word else "" for word in line.split(" "))
        for line in lines
    )


def checked_steps(steps: Sequence[int]) -> list[int]:
    """``steps`` as whole numbers that grow, from 2 to 24 of them.

    >>> checked_steps([0, 10, 20])
    [0, 10, 20]
    """
    found = [int(step) for step in steps]
    if not 2 <= len(found) <= MAX_MOMENTS:
        raise ValueError(
            f"got {len(found)} moments; expected 2 to {MAX_MOMENTS}, so that "
            "there is something to travel between."
        )
    if found[0] < 0 or any(np.diff(found) <= 0):
        raise ValueError(
            f"the steps are {found}; expected numbers from 0 on that grow. "
            "Sort the moments, and give each once."
        )
    return found


def kept_weights(weights: Any, M: int, T: int) -> np.ndarray:
    """Attention weights as float32 (M, L, H, T, T), in 255ths."""
    if hasattr(weights, "detach"):
        weights = weights.detach().float().cpu().numpy()
    array = np.asarray(weights, dtype=np.float32)
    if not 2 <= T <= MAX_TOKENS:
        raise ValueError(
            f"got {T} tokens; expected 2 to {MAX_TOKENS}. Give a sentence."
        )
    if array.ndim != 5 or len(array) != M:
        raise ValueError(
            f"weights have shape {array.shape} and there are {M} moments; "
            f"expected ({M}, L, H, {T}, {T})."
        )
    mask = open_mask(T, causal=True, window=None)
    for moment in array:
        checked_weights(moment, mask)
    return np.rint(array * LEVELS) / LEVELS


def checked_losses(
    losses: Any, shape: tuple[int, ...], name: str
) -> np.ndarray:
    """Losses in nats as float64 of ``shape``: finite, not negative.

    >>> checked_losses([[0.5, 1.5]], (1, 2), "losses").tolist()
    [[0.5, 1.5]]
    """
    if hasattr(losses, "detach"):
        losses = losses.detach().cpu()
    array = np.asarray(losses, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(
            f"{name} have shape {array.shape}; expected {shape}: a row for "
            "each moment, and in it a loss for each token but the first."
        )
    if not (np.isfinite(array).all() and array.min() >= 0):
        raise ValueError(
            f"{name} hold NaN, infinity or a negative number; expected nats, "
            "−ln p, which are 0 or more."
        )
    return array


def checked_samples(samples: Sequence[str], M: int) -> list[str]:
    """M texts.

    >>> checked_samples(["a", "b"], 2)
    ['a', 'b']
    """
    found = [str(sample) for sample in samples]
    if len(found) != M:
        raise ValueError(
            f"got {len(found)} samples for {M} moments; expected one each."
        )
    return found


def places(at: Any, steps: Sequence[int]) -> np.ndarray:
    """Where on the time axis ``at`` lies: moment m of ``steps`` at m.

    Between two moments the axis is logarithmic, for each is often twice as
    far as the one before.

    >>> places([0, 1, 3, 7], [0, 3, 15]).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    far = np.log2(np.asarray(at, dtype=np.float64) + 1)
    return np.interp(far, np.log2(np.asarray(steps) + 1), range(len(steps)))


def placed(
    pairs: Sequence[tuple[int, float]], steps: Sequence[int]
) -> list[tuple[float, float]]:
    """Pairs (steps done, loss) as points on the time axis."""
    kept = [(s, y) for s, y in pairs if steps[0] <= s <= steps[-1]]
    if not kept:
        return []
    x = places([s for s, _ in kept], steps)
    y = checked_losses([y for _, y in kept], (len(kept),), "held_out")
    return _points(x, y)


def drawn_curve(
    curve: Sequence[float], steps: Sequence[int]
) -> list[tuple[float, float]]:
    """The loss as points on the time axis, means where steps lie close.

    >>> drawn_curve([4.0, 3.0, 2.0, 1.0], [0, 3])
    [(0.0, 4.0), (0.5, 3.0), (0.7925, 2.0), (1.0, 1.0)]
    """
    if len(curve) <= steps[0]:
        raise ValueError(
            f"the curve has {len(curve)} steps and the first moment is "
            f"step {steps[0]}. Give the history of the same run."
        )
    y = checked_losses(curve, (len(curve),), "the curve's losses")
    at = np.arange(steps[0], min(len(y), steps[-1] + 1))
    x, y = places(at, steps), y[at]
    bins = np.floor(x / (len(steps) - 1) * POINTS)
    groups = [bins == b for b in np.unique(bins)]
    return _points(
        [x[g].mean() for g in groups], [y[g].mean() for g in groups]
    )


def _points(x: Any, y: Any) -> list[tuple[float, float]]:
    both = zip(x, y, strict=True)
    return [(round(float(a), 4), round(float(b), 4)) for a, b in both]
