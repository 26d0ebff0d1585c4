"""What stands behind one attention weight, in numbers that add up.

A figure that shows ``q · k`` term by term shows rounded numbers, and rounded
numbers add up to their rounded sum only by luck. So each step here starts
from what the step before has shown: queries and keys are rounded to four
places, their products are those of the rounded numbers, the sum is the sum
of the products as shown, and so on to the weight. Whoever checks a line with
a calculator finds it right. At the end stands how far the model, which
rounds nothing in between, is from it: as a rule a few units of the last place.

All amounts are whole numbers of ten-thousandths; the page computes the same
in ``attention-sums.js``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PLACES = 4  # decimals that are shown
UNIT = 10**PLACES
LARGEST = 9_000  # of a query or key: its products are whole in float64


def rounded(x: float) -> int:
    """The nearest whole number; halves go away from zero.

    >>> rounded(2.5), rounded(-2.5)
    (3, -3)
    """
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def units(values: np.ndarray) -> np.ndarray:
    """``values`` as whole numbers of the last place that is shown.

    >>> units(np.array([1.23456, -0.00001])).tolist()
    [12346, 0]
    """
    return np.rint(np.asarray(values, dtype=np.float64) * UNIT).astype("<i4")


def written(amount: int) -> str:
    """An amount as it is shown.

    >>> written(-12346)
    '−1.2346'
    """
    text = f"{abs(amount) // UNIT}.{abs(amount) % UNIT:0{PLACES}d}"
    return f"−{text}" if amount < 0 else text


@dataclass(frozen=True)
class Row:
    """One query against every key: all steps, in ten-thousandths.

    Args:
        root: the square root of the number of products.
        products: those of the query and the chosen key.
        totals: the sum of the products, for each key.
        scores: the totals divided by the root.
        open: whether the mask lets the query look at the key.
        powers: e to the score, taken from the largest open score; 0 where
            the mask is closed.
        weights: the powers, as shares of their sum.
    """

    root: int
    products: tuple[int, ...]
    totals: tuple[int, ...]
    scores: tuple[int, ...]
    open: tuple[bool, ...]
    powers: tuple[int, ...]
    weights: tuple[int, ...]


def products(query: Sequence[int], key: Sequence[int]) -> list[int]:
    """The products of two vectors, number by number.

    >>> products([10_000, -20_000], [5_000, 5_001])
    [5000, -10002]
    """
    pairs = zip(query, key, strict=True)
    return [rounded(a * b / UNIT) for a, b in pairs]


def softmax_row(
    query: Sequence[int],
    keys: Sequence[Sequence[int]],
    open: Sequence[bool],
    chosen: int,
) -> Row:
    """The way from a query and the keys to the query's weights.

    >>> row = softmax_row([10_000], [[20_000], [20_000]], [True, True], 0)
    >>> [written(weight) for weight in row.weights]
    ['0.5000', '0.5000']
    """
    root = rounded(math.sqrt(len(query)) * UNIT)
    totals = [sum(products(query, key)) for key in keys]
    scores = [rounded(total * UNIT / root) for total in totals]
    highest = max(
        s for s, is_open in zip(scores, open, strict=True) if is_open
    )
    powers = [
        rounded(UNIT * math.exp((score - highest) / UNIT)) if is_open else 0
        for score, is_open in zip(scores, open, strict=True)
    ]
    weights = [rounded(power * UNIT / sum(powers)) for power in powers]
    return Row(
        root,
        tuple(products(query, keys[chosen])),
        tuple(totals),
        tuple(scores),
        tuple(open),
        tuple(powers),
        tuple(weights),
    )
