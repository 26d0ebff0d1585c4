"""Learning BPE merges from counted pre-tokens (Sennrich et al. 2016)."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import regex

from .base import as_texts, split_special, utf8

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
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"pattern {pattern!r} is faulty: {error}.") from None


def pre_tokens(text: str, pattern: str = GPT2_PATTERN) -> list[str]:
    """Cut ``text`` into the pieces that no token may cross.

    >>> pre_tokens("Ona lost it.")
    ['Ona', ' lost', ' it', '.']

    Raises:
        ValueError: ``pattern`` leaves characters out.
    """
    matches = compiled(pattern).finditer(text)
    pieces = [match.group() for match in matches if match.group()]
    if sum(map(len, pieces)) != len(text):
        raise ValueError(
            f"pattern {pattern!r} leaves characters of the text out, and "
            "they would be lost. End it with an alternative that takes any "
            r"character, such as |[\s\S]."
        )
    return pieces


def count_pre_tokens(
    texts: str | Iterable[str],
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (),
) -> Counter[bytes]:
    """How often each pre-token occurs, as UTF-8 bytes.

    Names of special tokens are cut out: nothing is learned across or from
    them.

    >>> count_pre_tokens("the kite, the kite").most_common(1)
    [(b' kite', 2)]
    """
    counts: Counter[str] = Counter()
    for text in as_texts(texts):
        for piece, is_special in split_special(text, special_tokens):
            if not is_special:
                counts.update(pre_tokens(piece, pattern))
    return Counter({utf8(piece): n for piece, n in counts.items()})


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


@lru_cache(maxsize=1 << 16)
def mirror(token: bytes) -> str:
    """A key that sorts the other way round: greater bytes come first.

    A heap gives its smallest entry, and ties go to the greatest pair. Each
    byte b becomes 255 - b; the closing 256 puts a prefix after what it
    begins.

    >>> sorted([b"a", b"b", b"ba"], key=mirror)
    [b'ba', b'b', b'a']
    """
    return "".join(chr(255 - value) for value in token) + chr(256)


def queue_entry(pair: Pair, count: int) -> tuple[int, str, str, Pair]:
    """What the heap compares: the count, then the pair, greatest first."""
    return -count, mirror(pair[0]), mirror(pair[1]), pair


class PairIndex:
    """Counts of pairs, where each occurs, and which is the most frequent.

    Args:
        pieces: pre-tokens with their counts.
    """

    def __init__(self, pieces: Mapping[bytes, int]) -> None:
        self.words = [as_single_bytes(piece) for piece in pieces]
        self.word_counts = list(pieces.values())
        self.counts = count_pairs(self.words, self.word_counts)
        self.places: dict[Pair, set[int]] = defaultdict(set)
        for place, word in enumerate(self.words):
            for pair in pairwise(word):
                self.places[pair].add(place)
        self.queue = [queue_entry(*item) for item in self.counts.items()]
        heapq.heapify(self.queue)

    def best(self) -> Pair | None:
        """The most frequent pair, the greatest among equals; None: no pair.

        A count that changed left its old entry in the queue; such entries
        are thrown away here.
        """
        while self.queue:
            negative_count, _, _, pair = self.queue[0]
            if self.counts.get(pair) == -negative_count:
                return pair
            heapq.heappop(self.queue)
        return None

    def apply(self, pair: Pair) -> None:
        """Merge ``pair`` where it occurs and recount those words only."""
        changes: Counter[Pair] = Counter()
        for place in self.places.pop(pair):
            before = self.words[place]
            after = merge(before, pair)
            for old in pairwise(before):
                changes[old] -= self.word_counts[place]
            for new in pairwise(after):
                changes[new] += self.word_counts[place]
                self.places[new].add(place)
            self.words[place] = after
        for changed, difference in changes.items():
            if difference:
                self._update(changed, self.counts[changed] + difference)

    def _update(self, pair: Pair, count: int) -> None:
        if count:
            self.counts[pair] = count
            heapq.heappush(self.queue, queue_entry(pair, count))
        else:
            del self.counts[pair]
            self.places.pop(pair, None)


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
        index.apply(best)
        merges.append(best)
    return merges
