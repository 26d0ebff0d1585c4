"""What a model guesses next when some of its heads are switched off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmbook.inside import heads_off
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.widgets.tokens import visible

LIKELY = 5  # tokens listed of each distribution
DIGITS = 7  # of a probability: what float32 tells apart
Head = tuple[int, int]  # layer and head, both counted from 0


class Switchboard:
    """One text, one model, and the distributions with heads on and off.

    Args:
        model: it is run again for each set of heads, so it has to stay as
            it is while the figure is used.
        tokenizer: gives the listed tokens their text.
        ids: the text, T token ids.

    Raises:
        ValueError: the ids do not fit the model, or it gives NaN.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, ids: Sequence[int]
    ) -> None:
        self.model, self.tokenizer, self.ids = model, tokenizer, list(ids)
        self.before = self.probabilities(())

    @torch.no_grad()
    def probabilities(self, off: Iterable[Head]) -> Tensor:
        """The next token's distribution after each token, (T, V)."""
        device = self.model.head_weight.device
        idx = torch.tensor([self.ids], device=device)
        was_training = self.model.training
        self.model.eval()
        try:
            with heads_off(self.model, off):
                logits = self.model(idx)[0][0]
        finally:
            self.model.train(was_training)
        if logits.isnan().any():
            raise ValueError(
                "the model gives NaN as logits, so nothing can be said about "
                "the next token. Did its training break down?"
            )
        return logits.cpu().double().softmax(-1)

    def rows(self, off: Iterable[Head]) -> list[list[list[float]]]:
        """For each of the T tokens the tokens that may come next.

        Each is [id, probability with all heads on, and with ``off`` off]:
        the likeliest of both distributions and the one that the text goes
        on with, from the likeliest down.
        """
        after = self.probabilities(off)
        following = [*([token] for token in self.ids[1:]), []]
        return [
            self._listed(before, now, then)
            for before, now, then in zip(
                self.before, after, following, strict=True
            )
        ]

    def _listed(
        self, before: Tensor, after: Tensor, following: list[int]
    ) -> list[list[float]]:
        top = [p.topk(min(LIKELY, len(p))).indices for p in (before, after)]
        ids = {*torch.cat(top).tolist(), *following}
        ranked = sorted(ids, key=lambda i: (-before[i].item(), i))
        return [[i, _short(before[i]), _short(after[i])] for i in ranked]

    def words(self, *rows: list[list[list[float]]]) -> dict[int, str]:
        """The texts of the tokens that ``rows`` list, by id."""
        ids = {int(line[0]) for all in rows for row in all for line in row}
        return {i: visible(t) for i, t in tokens_of(self.tokenizer, ids)}

    def singly(self) -> dict[str, Any]:
        """The rows with all heads on and with each one off, and the words."""
        c = self.model.config
        heads = [(i, h) for i in range(c.n_layer) for h in range(c.n_head)]
        sets = [(), *((head,) for head in heads)]
        rows = {label(off): self.rows(off) for off in sets}
        return {"rows": rows, "words": self.words(*rows.values())}


def _short(p: Tensor) -> float:
    return float(f"{p.item():.{DIGITS}g}")


def label(off: Iterable[Head]) -> str:
    """The name of a set of heads, the same in whatever order they come.

    >>> label([(1, 2), (0, 3)])
    '0-3.1-2'
    """
    return ".".join(f"{layer}-{head}" for layer, head in sorted(off))


def tokens_of(
    tokenizer: Tokenizer, ids: Iterable[int]
) -> list[tuple[int, str | bytes]]:
    """Each id with its bytes, or with its name where it is special."""
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    return [(i, names.get(i) or tokenizer.token_bytes(i)) for i in ids]
