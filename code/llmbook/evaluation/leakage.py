"""Whether a model has met a benchmark before: asked of the model alone.

``llmbook.corpus.contamination`` looks into the text to learn from. Here
nobody has that text, only the model, and fresh items to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmbook.evaluation.models import LanguageModel, encode_pair
from llmbook.train import BatchSource

K = 0.2  # Shi et al. 2024, section 4.3: the best of 10 % to 60 %
DRAWS = 10_000
ROUNDING = 1e-9  # nats: sums in another order differ by less


def token_logprobs(
    model: LanguageModel, texts: Sequence[str]
) -> list[tuple[float, ...]]:
    """ln p of each token of each text, read as a document of its own."""
    pairs = [encode_pair(model, "", text) for text in texts]
    return [scored.logprobs for scored in model.loglikelihoods(pairs)]


def min_k_prob(logprobs: Sequence[float], k: float = K) -> float:
    """The mean of the share ``k`` of log-probabilities that are lowest.

    A text that was learned holds few surprises, so its least likely tokens
    tell most; ``k=1`` is the mean over all of them. Source: Shi et al.
    2024, section 3; the number of tokens is rounded down, and at least one.

    >>> min_k_prob([-0.1, -4.0, -0.2, -2.0, -0.1], k=0.4)
    -3.0
    """
    if len(logprobs) == 0 or not 0 < k <= 1:
        raise ValueError(
            f"got {len(logprobs)} tokens and k={k!r}; expected at least one "
            "token, and a share above 0 and up to 1."
        )
    lowest = sorted(logprobs)[: max(1, int(k * len(logprobs)))]
    return sum(lowest) / len(lowest)


def permutation_test(
    suspect: Sequence[float],
    fresh: Sequence[float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """How often chance alone would set suspect items so far above fresh.

    Were both new to the model, any division of all the items would be as
    good as this one: so they are shuffled, and a shuffle counts that gives
    the suspects as high a mean. Needs fresh items of the same distribution,
    as Zhang et al. 2024 wrote them for GSM8K. The real division counts as
    one of the draws, so that the result is never 0 (Phipson and Smyth
    2010).

    Args:
        suspect: a number for each item, such as :func:`min_k_prob`.
        fresh: the same of items that the model cannot have seen.

    >>> permutation_test([3.0, 4.0, 5.0], [0.0, 1.0, 2.0]) < 0.06  # 1 in 20
    True
    """
    pooled = pool_items(suspect, fresh)
    rows = np.tile(pooled, (draws, 1))
    shuffled = np.random.default_rng(seed).permuted(rows, axis=1)
    n = len(suspect)
    above = shuffled[:, :n].sum(axis=1) >= pooled[:n].sum() - ROUNDING
    return float((1 + above.sum()) / (1 + draws))


def auc(suspect: Sequence[float], fresh: Sequence[float]) -> float:
    """How often a suspect item scores above a fresh one; a tie counts half.

    The area under the ROC curve: 0.5 tells nothing, 1 tells them apart
    without a mistake.

    >>> auc([3.0, 1.0], [0.0, 2.0])
    0.75
    """
    pooled = pool_items(suspect, fresh)
    first, second = pooled[: len(suspect)], pooled[len(suspect) :]
    signs = np.sign(first[:, None] - second[None, :])
    return float((0.5 + 0.5 * signs).mean())


def pool_items(suspect: Sequence[float], fresh: Sequence[float]) -> np.ndarray:
    """Both in a row, each with at least one number and no NaN."""
    pooled = np.array([*suspect, *fresh], dtype=float)
    if not len(suspect) or not len(fresh) or not np.isfinite(pooled).all():
        raise ValueError(
            f"got {len(suspect)} suspect and {len(fresh)} fresh items; "
            "expected a finite number for each, and at least one of both."
        )
    return pooled


class LeakedBatches:
    """Batches in which some rows hold documents of a benchmark.

    The last ``rows`` rows of every batch (B, T) are filled with leaked
    documents, back to back in a new order, each row from the beginning of
    one. Made to be found out: see how a score rises that means nothing.

    Args:
        batches: what is learned from otherwise.
        documents: the ids of each leaked item.
        rows: how many of a batch's rows are replaced; 0 leaks nothing.
        end_of_text: the id before and after each document.
        seed: of the order.
    """

    def __init__(
        self,
        batches: BatchSource,
        documents: Sequence[Sequence[int]],
        rows: int,
        end_of_text: int,
        seed: int = 0,
    ) -> None:
        if not documents or rows < 0:
            raise ValueError(
                f"got {len(documents)} documents for {rows} rows; expected "
                "at least one document, and rows from 0."
            )
        self.batches, self.rows, self.seed = batches, rows, seed
        self.documents = [[end_of_text, *ids] for ids in documents]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step: x and y, both (B, T)."""
        x, y = self.batches.at(step)
        B, T = x.shape
        if self.rows > B:
            raise ValueError(
                f"{self.rows} rows should leak into a batch of {B}; expected "
                "no more than it has. Lower rows, or take larger batches."
            )
        source = np.random.default_rng((self.seed, step))
        leaked = [self._row(source, T + 1) for _ in range(self.rows)]
        rows = torch.tensor(leaked, dtype=x.dtype).reshape(-1, T + 1)
        kept = B - self.rows
        return (
            torch.cat([x[:kept], rows[:, :-1]]),
            torch.cat([y[:kept], rows[:, 1:]]),
        )

    def _row(self, source: np.random.Generator, length: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < length:
            for index in source.permutation(len(self.documents)):
                ids += self.documents[index]
        return ids[:length]
