"""Language models that count: n-grams, add-k, interpolated Kneser-Ney.

A document is a sequence of token ids. It stands between boundaries: one id
of the vocabulary, which no document contains, fills the context before its
first token and is the token after its last. So where a document ends is
guessed like everything else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

Gram = tuple[int, ...]

USUAL_DISCOUNT = 0.75  # where the counts are too few to estimate one


def ngrams(ids: Sequence[int], n: int, boundary: int = 0) -> Iterator[Gram]:
    """Every token of a document, and its end, with the n - 1 before it.

    >>> list(ngrams([7, 8], n=2))
    [(0, 7), (7, 8), (8, 0)]
    """
    padded = [boundary] * (n - 1) + [*ids, boundary]
    return zip(*(padded[i:] for i in range(n)), strict=False)


def count_ngrams(
    documents: Iterable[Sequence[int]], n: int, boundary: int = 0
) -> Counter[Gram]:
    """How often each n-gram occurs; none reaches across two documents.

    >>> count_ngrams([[7, 8], [7]], n=2)[0, 7]
    2
    """
    counts: Counter[Gram] = Counter()
    for ids in documents:
        counts.update(ngrams(ids, n, boundary))
    return counts


def continuations(counts: Iterable[Gram]) -> Counter[Gram]:
    """How many different tokens stand before each (n - 1)-gram.

    How often they stand there does not matter.

    >>> continuations({(1, 9): 50, (2, 8): 1, (3, 8): 1})
    Counter({(8,): 2, (9,): 1})
    """
    return Counter(gram[1:] for gram in counts)


def estimate_discount(counts: Iterable[int]) -> float:
    """What Kneser-Ney takes off each count: n1 / (n1 + 2 n2).

    ``n1`` and ``n2`` are how many of the counts are one and two. Source:
    Ney, Essen and Kneser 1994; Chen and Goodman 1999, section 2.7.

    >>> estimate_discount([1, 1, 2, 5])
    0.5
    """
    sizes = Counter(counts)
    if not sizes[1] or not sizes[2]:
        return USUAL_DISCOUNT
    return sizes[1] / (sizes[1] + 2 * sizes[2])


class Table:
    """Counts of n-grams, sorted by context.

    ``followers[context]`` maps each token that came next to its count, and
    ``totals[context]`` is the sum of these counts.

    >>> table = Table({(0, 7): 2, (0, 8): 1})
    >>> table.followers[0,], table.totals[0,]
    ({7: 2, 8: 1}, 3)
    """

    def __init__(self, counts: Mapping[Gram, int]) -> None:
        self.followers: dict[Gram, dict[int, int]] = {}
        self.totals: dict[Gram, int] = {}
        for gram, count in counts.items():
            context, token = gram[:-1], gram[-1]
            self.followers.setdefault(context, {})[token] = count
            self.totals[context] = self.totals.get(context, 0) + count


def interpolated(
    tables: Sequence[tuple[Table, float]],
    window: Gram,
    token: int,
    vocab_size: int,
) -> float:
    """Kneser-Ney's probability: from uniform to the longest context.

    ``tables`` holds a table and its discount for contexts of no token, of
    one, and so on to the whole ``window``. Source: Chen and Goodman 1999,
    section 2.7.

    >>> table = Table({(7,): 3, (8,): 1})
    >>> interpolated([(table, 0.5)], (), 8, vocab_size=4)
    0.1875
    """
    p = 1 / vocab_size
    for length, (table, D) in enumerate(tables):
        context = window[len(window) - length :]
        if context not in table.totals:
            break  # nor can a longer one be there
        followers = table.followers[context]
        kept = max(followers.get(token, 0) - D, 0)
        freed = D * len(followers)  # for what the shorter context says
        p = (kept + freed * p) / table.totals[context]
    return p


class NGramModel:
    """Counts of n-grams made into probabilities, with ``k`` added to each.

    Args:
        tables: the counts that the model knows, the last of them with
            contexts of ``order - 1`` tokens.
        order: n, the tokens of an n-gram.
        vocab_size: V, the boundary included.
        boundary: the id that stands before and after a document.
        k: added to every count, seen or not; 0 leaves plain counts.

    >>> model = NGramModel.train([[1, 2], [1, 1]], order=2, vocab_size=3)
    >>> model.prob([1], 2)
    0.3333333333333333
    """

    def __init__(
        self,
        tables: Sequence[Table],
        order: int,
        vocab_size: int,
        boundary: int = 0,
        k: float = 0.0,
    ) -> None:
        if k < 0:
            raise ValueError(f"k is {k}; expected 0 or more.")
        self.tables, self.order, self.k = tuple(tables), order, k
        self.vocab_size, self.boundary = vocab_size, boundary

    @classmethod
    def train(
        cls,
        documents: Iterable[Sequence[int]],
        order: int,
        vocab_size: int,
        *,
        boundary: int = 0,
        k: float = 0.0,
    ) -> NGramModel:
        """Count the n-grams of ``documents``.

        Raises:
            ValueError: no documents, or an id that is the boundary's or
                outside the vocabulary.
        """
        documents = checked(documents, order, vocab_size, boundary)
        table = Table(count_ngrams(documents, order, boundary))
        return cls([table], order, vocab_size, boundary, k)

    def window(self, context: Sequence[int]) -> Gram:
        """The last n - 1 tokens, boundaries where there are fewer.

        ``context`` is all that stands before a token in its document.
        """
        n = self.order - 1
        missing = (self.boundary,) * (n - len(context))
        return missing + tuple(context[max(0, len(context) - n) :])

    def prob(self, context: Sequence[int], token: int) -> float:
        """Probability that ``token`` comes after ``context``.

        Nothing has any where plain counts (k = 0) never saw the context.
        """
        context = self.window(context)
        count = self.tables[-1].followers.get(context, {}).get(token, 0)
        total = self.tables[-1].totals.get(context, 0)
        room = total + self.k * self.vocab_size
        return (count + self.k) / room if room else 0.0

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Probability of every token of the vocabulary, an array (V,)."""
        context = self.window(context)
        counts = np.full(self.vocab_size, float(self.k))
        for token, count in self.tables[-1].followers.get(context, {}).items():
            counts[token] += count
        return counts / (counts.sum() or 1.0)

    def costs(self, ids: Sequence[int]) -> list[float]:
        """Nats paid for each token of a document, and last for its end."""
        paid = []
        for gram in ngrams(ids, self.order, self.boundary):
            p = self.prob(gram[:-1], gram[-1])
            paid.append(-math.log(p) + 0.0 if p > 0 else math.inf)  # no -0.0
        return paid

    def nll(self, ids: Sequence[int]) -> float:
        """Nats paid for a whole document: minus its log-probability."""
        return math.fsum(self.costs(ids))

    def sample(
        self,
        seed: int | np.random.Generator = 0,
        *,
        prompt: Sequence[int] = (),
        max_tokens: int = 1000,
    ) -> list[int]:
        """Write a document, token by token, until its end is drawn.

        Returns the ids after ``prompt``, at most ``max_tokens`` of them.

        Raises:
            ValueError: nothing can follow, because plain counts never saw
                the context.
        """
        rng = np.random.default_rng(seed)
        ids = list(prompt)
        while len(ids) < len(prompt) + max_tokens:
            sums = self.distribution(ids).cumsum()  # (V,)
            if not sums[-1]:
                raise ValueError(
                    f"nothing was ever seen after {self.window(ids)}; give "
                    "another prompt, or a model that smooths its counts."
                )
            place = rng.random() * sums[-1]  # sums[-1] is 1, but for rounding
            token = int(np.searchsorted(sums, place, side="right"))
            if token == self.boundary:
                break
            ids.append(token)
        return ids[len(prompt) :]


class KneserNey(NGramModel):
    """Interpolated Kneser-Ney: discounted counts of every order, mixed.

    Source: Kneser and Ney 1995, in the interpolated form of Chen and
    Goodman 1999, section 2.7, with one discount for each order. The lowest
    order is mixed with the uniform distribution, so nothing is impossible.

    >>> model = KneserNey.train([[1, 2], [1, 1]], order=2, vocab_size=4)
    >>> model.prob([1], 3) > 0
    True
    """

    def __init__(
        self,
        levels: Sequence[tuple[Table, float]],
        vocab_size: int,
        boundary: int = 0,
    ) -> None:
        discounts = [discount for _, discount in levels]
        if not all(0 <= discount <= 1 for discount in discounts):
            raise ValueError(
                f"got discounts {discounts}; expected one from 0 to 1 for "
                "each order, since most counts are 1."
            )
        tables = [table for table, _ in levels]
        super().__init__(tables, len(levels), vocab_size, boundary)
        self.levels = tuple(levels)  # tables with their discounts

    @classmethod
    def train(
        cls,
        documents: Iterable[Sequence[int]],
        order: int,
        vocab_size: int,
        *,
        boundary: int = 0,
        discount: float | None = None,
    ) -> KneserNey:
        """Count, and give every order a table of its own.

        The highest order counts occurrences, the others count continuations.
        ``discount`` replaces the estimates of all orders.
        """
        documents = checked(documents, order, vocab_size, boundary)
        counts = [count_ngrams(documents, order, boundary)]
        while len(counts) < order:
            counts.insert(0, continuations(counts[0]))
        levels = [
            (
                Table(each),
                estimate_discount(each.values())
                if discount is None
                else discount,
            )
            for each in counts
        ]
        return cls(levels, vocab_size, boundary)

    def prob(self, context: Sequence[int], token: int) -> float:
        """Probability that ``token`` comes after ``context``."""
        window = self.window(context)
        return interpolated(self.levels, window, token, self.vocab_size)

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Probability of every token of the vocabulary, an array (V,)."""
        window = self.window(context)
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for length, (table, D) in enumerate(self.levels):
            context = window[len(window) - length :]
            if context not in table.totals:
                break
            followers = table.followers[context]
            p *= D * len(followers)
            counts = np.fromiter(followers.values(), float)
            p[list(followers)] += counts - D
            p /= table.totals[context]
        return p


def mean_nll(model: NGramModel, documents: Iterable[Sequence[int]]) -> float:
    """Nats per token over all documents, the end of each among the tokens.

    >>> certain = NGramModel.train([[1]], order=2, vocab_size=2)
    >>> mean_nll(certain, [[1]])
    0.0
    """
    documents = list(documents)
    if not documents:
        raise ValueError("there are no documents to score; give at least one.")
    tokens = sum(len(ids) + 1 for ids in documents)
    return math.fsum(model.nll(ids) for ids in documents) / tokens


def checked(
    documents: Iterable[Sequence[int]],
    order: int,
    vocab_size: int,
    boundary: int,
) -> list[Sequence[int]]:
    """The documents as a list, once everything fits together."""
    documents = list(documents)
    if not documents:
        raise ValueError("there are no documents to count; give at least one.")
    if order < 1 or not 0 <= boundary < vocab_size:
        raise ValueError(
            f"got order={order}, vocab_size={vocab_size}, boundary="
            f"{boundary}; expected an order of at least 1, and for the "
            "boundary an id of the vocabulary."
        )
    found = set().union(*documents)
    wrong = [i for i in found if i == boundary or not 0 <= i < vocab_size]
    if wrong:
        raise ValueError(
            f"the documents hold the id {wrong[0]}; expected ids from 0 to "
            f"{vocab_size - 1}, without the boundary {boundary}, which "
            "stands between documents."
        )
    return documents
