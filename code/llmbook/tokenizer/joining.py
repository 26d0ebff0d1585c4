"""Joining neighbours in a row of tokens: what training and encoding share.

A row has one place for each byte. A token's id stands at its first and at
its last place, where its neighbours can read it; what lies between is never
looked at. So to join two tokens is to write three numbers, and a pair can be
found again at a place that never moves: where its right token begins.
"""

from __future__ import annotations

import heapq
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

Ids = tuple[int, int]  # a pair of neighbours
EDGE, GONE = -1, -2  # what stands between words; where two tokens were joined
NEVER = sys.maxsize  # later than any id


def in_a_row(words: Iterable[bytes]) -> list[int]:
    """Words as one row of bytes, with an edge before and behind each.

    >>> in_a_row([b"ab", b"c"])
    [-1, 97, 98, -1, 99, -1]
    """
    row = [EDGE]
    for word in words:
        row += word
        row.append(EDGE)
    return row


def find_pairs(row: Sequence[int]) -> dict[Ids, list[int]]:
    """The places of each pair of neighbours, in ascending order.

    >>> find_pairs([-1, 97, 98, 97, 98, -1])
    {(97, 98): [2, 4], (98, 97): [3]}
    """
    places: dict[Ids, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairwise(row), start=1):
        places[pair].append(place)
    return {pair: at for pair, at in places.items() if EDGE not in pair}


def join(
    row: list[int], places: Iterable[int], pair: Ids, sizes: Ids, new: int
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Join ``pair`` to ``new``; return the new pairs that this makes.

    Args:
        row: changed in place.
        places: where ``pair`` is, or was before other pairs were joined.
        sizes: how many bytes its left and its right token have.

    Returns:
        places by the neighbour there, first for neighbours to the left of
        ``new``, then for those to its right.

    >>> row = [-1, 99, 97, 98, 97, 98, -1]
    >>> before, behind = join(row, [3, 5], (97, 98), (1, 1), 256)
    >>> row, dict(before), dict(behind)
    ([-1, 99, 256, 256, 256, 256, -1], {99: [2], 256: [4]}, {97: [4]})
    """
    (left, right), (n_left, n_right) = pair, sizes
    before: dict[int, list[int]] = defaultdict(list)
    behind: dict[int, list[int]] = defaultdict(list)
    for place in places:
        if row[place - 1] == left and row[place] == right:
            first, end = place - n_left, place + n_right
            row[place] = GONE
            row[first] = row[end - 1] = new
            before[row[first - 1]].append(first)
            behind[row[end]].append(end)
    before.pop(EDGE, None)
    behind.pop(EDGE, None)
    return before, behind


def join_one_by_one(word: bytes, joined: Mapping[Ids, int]) -> list[int]:
    """The ids of a short word: the merge learned first comes first.

    Args:
        joined: the id that a pair becomes, the greater the later learned.

    >>> join_one_by_one(b"lows", {(108, 111): 256, (256, 119): 257})
    [257, 115]
    """
    ids = list(word)
    found = [joined.get(pair, NEVER) for pair in pairwise(ids)]
    while found and (first := min(found)) != NEVER:
        place = found.index(first)
        ids[place : place + 2] = [first]
        del found[place]
        if place > 0:
            pair = ids[place - 1], first
            found[place - 1] = joined.get(pair, NEVER)
        if place < len(found):
            pair = first, ids[place + 1]
            found[place] = joined.get(pair, NEVER)
    return ids


def join_all(
    word: bytes, joined: Mapping[Ids, int], vocabulary: Sequence[bytes]
) -> list[int]:
    """The ids of a word of any length, in nearly linear time.

    A merge can only be followed by later ones, for its token is part of
    them; so each is applied once, to all its places together.

    Args:
        joined: the id that a pair becomes, the greater the later learned.
        vocabulary: by id, the bytes of a token.

    >>> tokens = [bytes([value]) for value in range(256)] + [b"lo", b"low"]
    >>> join_all(b"lows", {(108, 111): 256, (256, 119): 257}, tokens)
    [257, 115]
    """
    row = in_a_row([word])
    places = find_pairs(row)
    queue = [(joined[pair], pair) for pair in places if pair in joined]
    heapq.heapify(queue)
    while queue:
        new, pair = heapq.heappop(queue)
        sizes = len(vocabulary[pair[0]]), len(vocabulary[pair[1]])
        before, behind = join(row, places.pop(pair), pair, sizes, new)
        found = {(token, new): at for token, at in before.items()}
        found |= {(new, token): at for token, at in behind.items()}
        for pair, at in found.items():
            if pair in joined:
                places[pair] = at
                heapq.heappush(queue, (joined[pair], pair))
    return read_row(row, vocabulary)


def read_row(row: Sequence[int], vocabulary: Sequence[bytes]) -> list[int]:
    """The tokens of a row that holds one word, from edge to edge."""
    ids, place = [], 1
    while row[place] != EDGE:
        ids.append(row[place])
        place += len(vocabulary[row[place]])
    return ids
