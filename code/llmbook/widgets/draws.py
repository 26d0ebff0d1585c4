"""Random numbers that Python and the page draw alike.

The generator is mulberry32 (Tommy Ettinger 2017, public domain): 32 bits of
state, one addition and two multiplications a draw, so that the same few lines
give the same numbers in both languages. It is good enough for a histogram and
for nothing that has to be secret.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence

WORD = 2**32  # the generator computes in unsigned 32-bit integers


def uniforms(seed: int) -> Iterator[float]:
    """Numbers in [0, 1) from mulberry32, without end.

    >>> [round(u, 6) for u in itertools.islice(uniforms(1), 3)]
    [0.627074, 0.002736, 0.527447]
    """
    state = seed % WORD
    while True:
        state = (state + 0x6D2B79F5) % WORD
        t = (state ^ (state >> 15)) * (state | 1) % WORD
        t ^= (t + (t ^ (t >> 7)) * (t | 61)) % WORD
        yield (t ^ (t >> 14)) / WORD


def draw(
    probabilities: Sequence[float], order: Sequence[int], n: int, seed: int
) -> list[int]:
    """``n`` ids drawn from ``probabilities``, laid out in ``order``.

    The ids of ``order`` share out the interval from 0 to the probabilities'
    sum; a draw is the id on whose share a uniform number falls.

    >>> draw([0.5, 0.5], [0, 1], n=4, seed=1)
    [1, 0, 1, 1]
    """
    kept = [i for i in order if probabilities[i] > 0]
    ends = list(itertools.accumulate(probabilities[i] for i in kept))
    numbers = itertools.islice(uniforms(seed), n)
    found = [bisect.bisect_right(ends, u * ends[-1]) for u in numbers]
    return [kept[min(i, len(kept) - 1)] for i in found]
