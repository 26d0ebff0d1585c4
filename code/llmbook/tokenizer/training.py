"""Learning BPE merges from counted pre-tokens (Sennrich et al. 2016)."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import regex

from .joining import Ids, find_pairs, in_a_row, join

# Radford et al. 2019; github.com/openai/gpt-2, src/encoder.py. \p{L} and
# \p{N} (any letter, any number) need the regex package.
GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+"
    r"| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)

Pair = tuple[bytes, bytes]


@lru_cache(maxsize=64)
def compiled(pattern: str) -> regex.Pattern:
    """``pattern`` ready to run; a faulty one is a ValueError."""
    try:
        ready = regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ValueError(f"pattern {pattern!r} is faulty: {error}.") from None
    if ready.groups:
        raise ValueError(
            f"pattern {pattern!r} has groups that capture. Write (?:…) in "
            "place of (…)."
        )
    return ready


def pre_tokens(text: str, pattern: str = GPT2_PATTERN) -> list[str]:
    """Cut ``text`` into the pieces that no token may cross.

    >>> pre_tokens("Ona lost it.")
    ['Ona', ' lost', ' it', '.']

    Raises:
        ValueError: ``pattern`` leaves characters out.
    """
    pieces = [piece for piece in compiled(pattern).findall(text) if piece]
    if "".join(pieces) != text:
        raise ValueError(
            f"pattern {pattern!r} leaves characters of the text out, and "
            "they would be lost. End it with an alternative that takes any "
            r"character, such as |[\s\S]."
        )
    return pieces


def as_single_bytes(piece: bytes) -> list[bytes]:
    """``b"kite"`` as ``[b"k", b"i", b"t", b"e"]``: where merging starts."""
    return [bytes([value]) for value in piece]


def merge(tokens: list[bytes], pair: Pair) -> list[bytes]:
    """Join every occurrence of ``pair``, from left to right.

    >>> merge([b"a", b"a", b"a", b"b"], (b"a", b"a"))
    [b'aa', b'a', b'b']
    """
    merged, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def count_pairs(
    words: Sequence[list[bytes]], counts: Sequence[int]
) -> Counter[Pair]:
    """How often each pair of neighbours occurs; ``counts``: of each word.

    >>> count_pairs([[b"t", b"o"], [b"t", b"o", b"t"]], [3, 1])[b"t", b"o"]
    4
    """
    pairs: Counter[Pair] = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def learn_merges_naively(
    pieces: Mapping[bytes, int], n_merges: int
) -> list[Pair]:
    """Learn merges by recounting every pair after every merge.

    The definition that :func:`learn_merges` is tested against.

    >>> learn_merges_naively({b"low": 5, b"lot": 2}, 2)
    [(b'l', b'o'), (b'lo', b'w')]
    """
    words = [as_single_bytes(piece) for piece in pieces]
    counts = list(pieces.values())
    merges: list[Pair] = []
    while len(merges) < n_merges:
        pairs = count_pairs(words, counts)
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        words = [merge(word, best) for word in words]
        merges.append(best)
    return merges


def mirror(token: bytes) -> str:
    """A key that sorts the other way round: greater bytes come first.

    A heap gives its smallest entry, and ties go to the greatest pair. Each
    byte b becomes 255 - b; the closing 256 puts a prefix after what it
    begins.

    >>> sorted([b"a", b"b", b"ba"], key=mirror)
    [b'ba', b'b', b'a']
    """
    return "".join(chr(255 - value) for value in token) + chr(256)


class PairIndex:
    """Counts of pairs, where each occurs, and which is the most frequent.

    All words stand in one row (see :mod:`llmbook.tokenizer.joining`).
    Tokens are numbered here: the bytes, then one for each merge.

    Args:
        pieces: pre-tokens with their counts.
    """

    def __init__(self, pieces: Mapping[bytes, int]) -> None:
        self.vocabulary = [bytes([value]) for value in range(256)]
        self.sort_keys = [mirror(token) for token in self.vocabulary]
        self.row = in_a_row(pieces)
        self.weights = [0]  # for each place, how often its word occurs
        for piece, count in pieces.items():
            self.weights += [count] * len(piece) + [0]
        self.places = find_pairs(self.row)
        self.counts: Counter[Ids] = Counter()
        for pair, places in self.places.items():
            self.counts[pair] = self._weigh(places)
        self.queue = [self._queue_entry(pair) for pair in self.counts]
        heapq.heapify(self.queue)

    def best(self) -> Ids | None:
        """The most frequent pair, the greatest among equals; None: no pair.

        A count can only fall once its pair is in the queue. An entry whose
        count is out of date gets its place by the new one here.
        """
        while self.queue:
            negative_count, _, _, pair = self.queue[0]
            count = self.counts.get(pair, 0)
            if count == 0:
                heapq.heappop(self.queue)
                self.places.pop(pair, None)
                self.counts.pop(pair, None)
            elif count == -negative_count:
                return pair
            else:
                heapq.heapreplace(self.queue, self._queue_entry(pair))
        return None

    def apply(self, pair: Ids) -> Pair:
        """Join ``pair`` where it occurs, and count its neighbours anew."""
        left, right = pair
        parts = self.vocabulary[left], self.vocabulary[right]
        new = len(self.vocabulary)
        self.vocabulary.append(parts[0] + parts[1])
        self.sort_keys.append(mirror(parts[0] + parts[1]))
        sizes = len(parts[0]), len(parts[1])
        before, behind = join(
            self.row, self.places.pop(pair), pair, sizes, new
        )
        for token, places in before.items():
            self._replace((token, left), (token, new), places)
        for token, places in behind.items():
            self._replace((right, token), (new, token), places)
        del self.counts[pair]
        return parts

    def _replace(self, old: Ids, new: Ids, places: list[int]) -> None:
        """At ``places``, the pair ``old`` has become ``new``."""
        count = self._weigh(places)
        self.counts[old] -= count
        self.counts[new] += count
        self.places[new] = places
        heapq.heappush(self.queue, self._queue_entry(new))

    def _weigh(self, places: list[int]) -> int:
        return sum(map(self.weights.__getitem__, places))

    def _queue_entry(self, pair: Ids) -> tuple[int, str, str, Ids]:
        """What the heap compares: the count, then the pair, greatest first."""
        left, right = pair
        keys = self.sort_keys
        return -self.counts[pair], keys[left], keys[right], pair


def learn_merges(
    pieces: Mapping[bytes, int], n_merges: int, progress: bool = False
) -> list[Pair]:
    """Learn merges, the most frequent pair first, recounting what changed.

    Sennrich et al. 2016 (https://aclanthology.org/P16-1162), algorithm 1.
    Among equally frequent pairs the greatest wins, compared as a pair of
    byte strings.

    Args:
        pieces: pre-tokens with their counts.
        n_merges: how many merges to learn; fewer come back when every
            pre-token has become one token.

    >>> learn_merges({b"low": 5, b"lot": 2}, 2)
    [(b'l', b'o'), (b'lo', b'w')]
    """
    index = PairIndex(pieces)
    merges: list[Pair] = []
    steps: Iterable[int] = range(n_merges)
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, desc="BPE merges", unit="merge", leave=False)
    for _ in steps:
        best = index.best()
        if best is None:
            break
        merges.append(index.apply(best))
    return merges
