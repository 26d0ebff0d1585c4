"""How sure a score is: intervals, chance lines and two models compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, stdev
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95  # the field's habit, and no law
SIGNIFICANCE = 1 - CONFIDENCE
POWER = 0.8  # a usual choice: four real differences in five are found
DRAWS = 2_000  # an interval takes 1,000 or more: Efron and Tibshirani 1993


class Interval(NamedTuple):
    """From ``low`` to ``high``, both included.

    >>> Interval(0.25, 0.5).holds(0.3)
    True
    """

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies within."""
        return self.low <= value <= self.high


class Comparison(NamedTuple):
    """Two models on the same items; see :func:`compare`."""

    difference: float
    interval: Interval
    only_first: int
    only_second: int
    p_value: float


def wilson_interval(
    correct: int, n: int, confidence: float = CONFIDENCE
) -> Interval:
    """Which true accuracies fit ``correct`` right answers of ``n``.

    All p for which the observed share lies within z standard errors of p,
    the standard error being that of p. It never leaves 0 ... 1 and has a
    width at 0 and at n correct too, where the observed share ± z standard
    errors has none. Source: Wilson 1927; Brown, Cai and
    DasGupta 2001, section 3.1.1, for how often each holds the truth.

    >>> low, high = wilson_interval(10, 40)
    >>> f"{low:.3f} to {high:.3f}"
    '0.142 to 0.402'
    """
    check_count(correct, n)
    z = z_score(confidence)
    share, pull = correct / n, z * z / n
    centre = (share + pull / 2) / (1 + pull)
    spread = math.sqrt(share * (1 - share) / n + pull / (4 * n))
    half = z * spread / (1 + pull)
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return Interval(low, high)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of a mean, as lm-evaluation-harness reports it.

    The sample standard deviation, which divides by n − 1, over √n; for 0/1
    values √(p (1 − p) / (n − 1)).

    Raises:
        ValueError: fewer than two values, which say nothing of spread.

    >>> round(standard_error([1, 0, 0, 0]), 3)
    0.25
    """
    if len(values) < 2:
        raise ValueError(
            f"got {len(values)} values; the spread needs at least two. "
            "Evaluate more items, or leave the standard error out."
        )
    return stdev(map(float, values)) / math.sqrt(len(values))


def bootstrap_interval(
    values: Sequence[object],
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Between which bounds a statistic falls when the items are redrawn.

    Each draw takes as many items as there are, with replacement; the middle
    ``confidence`` of the results is returned. Source: Efron and Tibshirani
    1993, section 13.3, the percentile interval.

    Args:
        values: one entry an item, a number or a row of numbers.
        statistic: from an array of redrawn entries to a number.

    >>> bootstrap_interval([0.5] * 10)
    Interval(low=0.5, high=0.5)
    """
    items = np.asarray(values)
    if len(items) == 0:
        raise ValueError("got no values; expected at least one item.")
    source = np.random.default_rng(seed)
    results = [
        float(statistic(items[source.integers(len(items), size=len(items))]))
        for _ in range(draws)
    ]
    if not np.isfinite(results).all():
        raise ValueError(
            "the statistic is NaN or infinite in some draws. Give values "
            "that are finite, and a statistic that every draw has."
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(results, [tail, 1 - tail])
    return Interval(float(low), float(high))


def compare(
    first: Sequence[bool], second: Sequence[bool], *, seed: int = 0
) -> Comparison:
    """Compare two models by what each gets right of the same items.

    ``difference`` is the first's accuracy minus the second's, with the
    bootstrap's interval over items; ``p_value`` is McNemar's exact test.
    Both look only at items that exactly one of them gets right, so a
    difference shows that two separate intervals would hide.

    >>> compare([1, 1, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0]).p_value
    0.125
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not np.isin([a, b], (0, 1)).all():
        raise ValueError(
            f"got results of shapes {a.shape} and {b.shape}; expected one 0 "
            "or 1 an item from each model, for the same items in one order."
        )
    only_first = int((a > b).sum())
    only_second = int((b > a).sum())
    return Comparison(
        float((a - b).mean()),
        bootstrap_interval(a - b, seed=seed),
        only_first,
        only_second,
        mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """How probable so uneven a split is, were the two models equally good.

    Of the items that exactly one of two models gets right, each would then
    be either's with probability one half; two-sided and exact. Source:
    McNemar 1947, with the binomial in place of his approximation.

    >>> mcnemar(5, 0)
    0.0625
    """
    more, n = max(only_first, only_second), only_first + only_second
    return 1.0 if n == 0 else min(1.0, 2 * guessing_p_value(more, n, 0.5))


def guessing_p_value(correct: int, n: int, chance: float) -> float:
    """How probable it is to get ``correct`` or more of ``n`` by guessing.

    The upper tail of the binomial distribution, summed term by term;
    ``chance`` is the probability of one right guess.

    >>> guessing_p_value(2, 2, chance=0.25)
    0.0625
    """
    check_count(correct, n)
    return min(1.0, math.fsum(binomial_masses(n, chance)[correct:]))


def chance_line(
    n: int, chance: float, significance: float = SIGNIFICANCE
) -> float:
    """The lowest score that a guesser reaches with ``significance`` at most.

    A score below this line is no sign of knowledge. Infinite where even n
    of n could be luck.

    >>> chance_line(40, chance=0.25)  # 16 of 40; 15 is still luck
    0.4
    >>> chance_line(2, chance=0.25)
    inf
    """
    tail, correct = 0.0, n
    masses = binomial_masses(n, chance)
    while correct >= 0 and tail + masses[correct] <= significance:
        tail += masses[correct]
        correct -= 1
    return (correct + 1) / n if correct < n else math.inf


def items_needed(
    first: float,
    second: float,
    disagreement: float | None = None,
    *,
    confidence: float = CONFIDENCE,
    power: float = POWER,
) -> int:
    """How many shared items show that two accuracies differ.

    So many that a two-sided test at ``confidence`` finds the difference
    with probability ``power``. Source: Miller 2024, section 5, with one
    answer an item.

    Args:
        first: the accuracy of one model.
        second: that of the other.
        disagreement: the share of items that exactly one of them gets
            right; None takes them as independent. Models that get the same
            items right need fewer.

    >>> items_needed(0.30, 0.25)
    1248
    >>> items_needed(0.30, 0.25, disagreement=0.10)
    307
    """
    gap = round(abs(first - second), 12)  # 0.8 - 0.7 is a little over 0.1
    if disagreement is None:
        disagreement = first * (1 - second) + second * (1 - first)
    if gap == 0 or not gap <= disagreement <= 1:
        raise ValueError(
            f"got accuracies {first} and {second} and a disagreement of "
            f"{disagreement}; expected two that differ, and a disagreement "
            "from their difference to 1."
        )
    reach = z_score(confidence) + NormalDist().inv_cdf(power)
    return math.ceil(reach**2 * (disagreement - gap**2) / gap**2)


def binomial_masses(n: int, chance: float) -> list[float]:
    """The probabilities of 0 ... n right guesses.

    >>> binomial_masses(1, chance=0.25)
    [0.75, 0.25]
    """
    if n < 1 or not 0 < chance < 1:
        raise ValueError(
            f"got {n} items and a chance of {chance!r}; expected at least "
            "one item, and a chance between 0 and 1, such as 1 / 4."
        )
    logs = (math.log(chance), math.log1p(-chance))
    return [
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * logs[0]
            + (n - k) * logs[1]
        )
        for k in range(n + 1)
    ]


def z_score(confidence: float) -> float:
    """How many standard errors to either side hold this much.

    >>> round(z_score(0.95), 2)
    1.96
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence is {confidence!r}; expected a number between 0 and "
            "1, such as 0.95."
        )
    return NormalDist().inv_cdf((1 + confidence) / 2)


def check_count(correct: int, n: int) -> None:
    """Refuse a score that nobody can have reached.

    Raises:
        ValueError: no items, or not 0 <= correct <= n.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(
            f"got {correct} correct of {n}; expected at least one item, and "
            "from 0 to all of them correct."
        )
