"""How much of a text stands word for word in another: exact, by hashes.

A span is a row of characters. Windows of one length are compared by a
polynomial hash modulo 2 ** 64, computed for all places of a text at once;
equal hashes are then held against the texts themselves, so no answer rests
on a hash alone. Source: Karp and Rabin 1987, with one hash for every place
from running sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2 ** 64
SIEVE_BITS = 22  # a table of 4 MB, which a processor's cache holds
FIRST_TRY = 32  # characters; much shorter spans stand in any long text
_MASK = 2**64 - 1
BETWEEN = "\0"  # stands between texts; a span never reaches across


@dataclass(frozen=True)
class Span:
    """A copied span: where it begins in the text asked about, and it."""

    start: int
    text: str

    def __len__(self) -> int:
        return len(self.text)


def powers(base: int, count: int) -> np.ndarray:
    """1, base, base², ..., modulo 2 ** 64: uint64, (count,).

    >>> powers(3, 4).tolist()
    [1, 3, 9, 27]
    """
    factors = np.full(count, base & _MASK, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


class Windows:
    """A text whose windows of any length can be hashed in one pass.

    >>> windows = Windows("onaona")
    >>> hashes = windows.hashes(3)
    >>> len(hashes), bool(hashes[0] == hashes[3])
    (4, True)
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def sums(self) -> np.ndarray:
        """Running sums of code point times power, uint64, (N + 1,)."""
        codes = np.frombuffer(
            self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32
        )
        terms = codes.astype(np.uint64) * powers(BASE, len(codes))
        return np.insert(terms, 0, 0).cumsum(dtype=np.uint64)

    @cached_property
    def undo(self) -> np.ndarray:
        """What takes a window's place out of its hash, uint64, (N + 1,)."""
        return powers(pow(BASE, -1, 2**64), len(self.text) + 1)

    def hashes(self, length: int) -> np.ndarray:
        """The hash of every window of ``length`` characters, uint64.

        Shape (N − length + 1,); empty where the text is shorter.
        """
        if length < 1:
            raise ValueError(
                f"length is {length}; a window holds at least 1 character."
            )
        count = max(0, len(self.text) - length + 1)
        total = self.sums[length : length + count] - self.sums[:count]
        return total * self.undo[:count]


def found_among(hashes: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The places of those ``hashes`` that are in ``own``; both uint64.

    A table of the highest bits lets through few others, so that only these
    are looked up one by one.

    >>> found_among(np.array([5, 6, 7], "u8"), np.array([7, 5], "u8"))
    array([0, 2])
    """
    sieve = np.zeros(2**SIEVE_BITS, dtype=bool)
    factor, shift = np.uint64(BASE), np.uint64(64 - SIEVE_BITS)
    sieve[own * factor >> shift] = True
    maybe = np.flatnonzero(sieve[hashes * factor >> shift])
    return maybe[np.isin(hashes[maybe], own)]


class Source:
    """The texts that spans may have been copied from.

    Args:
        texts: one or several; spans across two of them do not count.

    >>> source = Source(["Ona lost the kite.", "Tam found it."])
    >>> source.longest("Tam lost the hat").text
    ' lost the '
    """

    def __init__(self, texts: str | Iterable[str]) -> None:
        texts = [texts] if isinstance(texts, str) else list(texts)
        self.windows = Windows(BETWEEN.join(texts))

    def holds(self, text: str, length: int) -> np.ndarray:
        """For each window of ``text``, whether the source has it: bool.

        Shape (len(text) − length + 1,), empty where it is shorter.
        """
        own = np.unique(Windows(text).hashes(length))
        if not len(own):
            return np.zeros(0, dtype=bool)
        theirs = self.windows.hashes(length)
        alike = found_among(theirs, own).tolist()
        whole = self.windows.text
        spans = {whole[i : i + length] for i in alike}  # a hash could lie
        spans = {span for span in spans if BETWEEN not in span}
        count = len(text) - length + 1
        return np.array([text[i : i + length] in spans for i in range(count)])

    def longest(self, text: str) -> Span:
        """The longest span of ``text`` in the source, the first if several.

        A span of n characters has shorter ones within, so the length is
        found by doubling and then halving the step.
        """
        low, high = 0, FIRST_TRY  # the source has a span of low
        while high <= len(text) and self.holds(text, high).any():
            low, high = high, 2 * high
        high = min(high, len(text) + 1)
        while high - low > 1:
            middle = (low + high) // 2
            if self.holds(text, middle).any():
                low = middle
            else:
                high = middle
        if not low:
            return Span(0, "")
        start = int(self.holds(text, low).argmax())
        return Span(start, text[start : start + low])

    def copied(self, text: str, length: int) -> np.ndarray:
        """Which characters of ``text`` lie in a copied span that long.

        Bool, (len(text),): those inside any span of ``length`` characters
        or more that stands in the source.
        """
        starts = np.flatnonzero(self.holds(text, length))
        steps = np.zeros(len(text) + 1, dtype=np.int64)
        np.add.at(steps, starts, 1)
        np.add.at(steps, starts + length, -1)
        return steps[:-1].cumsum() > 0

    def share_copied(self, text: str, length: int) -> float:
        """The share of the characters for which :meth:`copied` is true.

        >>> Source("Ona lost the kite.").share_copied("lost!lost!", 4)
        0.8
        """
        return float(self.copied(text, length).mean()) if text else 0.0
