"""Exercises of the chapter on the novels of Jane Austen."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from llmbook.exercises import Exercise, register

TOLERANCE = 1e-9


def _same(got: Any, wanted: Any) -> bool:
    """Whether two results agree: numbers nearly, all else exactly."""
    if isinstance(wanted, list):
        return (
            isinstance(got, (list, tuple))
            and len(got) == len(wanted)
            and all(map(_same, got, wanted))
        )
    if isinstance(wanted, float) and isinstance(got, (int, float)):
        return math.isclose(got, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return got is wanted if wanted is None else bool(got == wanted)


def _check(
    solution: Callable, wrong: dict[Callable, str], cases: list[tuple]
) -> Callable[[Any], str | None]:
    """A check that runs all cases and names the mistake that gives them."""

    def check(answer: Any) -> str | None:
        got = [answer(*case) for case in cases]
        wanted = [solution(*case) for case in cases]
        if _same(got, wanted):
            return None
        for mistake, message in wrong.items():
            if _same(got, [mistake(*case) for case in cases]):
                return message
        place = next(
            i for i in range(len(cases)) if not _same(got[i], wanted[i])
        )
        return (
            f"For {cases[place]!r} the answer is {wanted[place]!r}, and "
            f"yours {got[place]!r}."
        )

    return check


# 19.1 -------------------------------------------------------------------


def times_through(
    steps: int, batch_size: int, context_length: int, corpus_tokens: int
) -> float:
    """How many times a run reads each token of its corpus, on average."""
    return steps * batch_size * context_length / corpus_tokens


def _without_batch(steps, batch_size, context_length, corpus_tokens):
    return steps * context_length / corpus_tokens


def _without_context(steps, batch_size, context_length, corpus_tokens):
    return steps * batch_size / corpus_tokens


def _turned_over(steps, batch_size, context_length, corpus_tokens):
    return corpus_tokens / (steps * batch_size * context_length)


def _whole_times(steps, batch_size, context_length, corpus_tokens):
    return steps * batch_size * context_length // corpus_tokens


_TIMES = {
    _without_batch: (
        "Each step reads batch_size windows at once, and you counted one."
    ),
    _without_context: (
        "You counted windows. Each holds context_length tokens."
    ),
    _turned_over: (
        "That is the share of the run that one pass takes: turn it over."
    ),
    _whole_times: (
        "The run may end in the middle of a pass; divide with / and keep "
        "the fraction."
    ),
}
register(
    Exercise(
        "19.1",
        "Times through",
        _check(
            times_through,
            _TIMES,
            [(5000, 16, 256, 800_000), (10, 2, 8, 320), (1, 1, 1, 4)],
        ),
        times_through,
        {
            "batch forgotten": _without_batch,
            "context forgotten": _without_context,
            "turned over": _turned_over,
            "whole passes only": _whole_times,
        },
        "Ask it of every small run: above ten it is learning by heart.",
    )
)


# 19.2 -------------------------------------------------------------------


def share_of_words(text: str, known: set[str]) -> float | None:
    """The share of the words of ``text`` that are in the set ``known``."""
    words = re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())
    if not words:
        return None
    return sum(word in known for word in words) / len(words)


def _capitals_kept(text, known):
    words = re.findall(r"[A-Za-z]+(?:'[A-Za-z]+)*", text)
    return sum(w in known for w in words) / len(words) if words else None


def _split_at_spaces(text, known):
    words = text.lower().split()
    return sum(w in known for w in words) / len(words) if words else None


def _kinds_counted(text, known):
    words = set(re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower()))
    return sum(w in known for w in words) / len(words) if words else None


def _apostrophes_cut(text, known):
    words = re.findall(r"[a-z]+", text.lower())
    return sum(w in known for w in words) / len(words) if words else None


def _nothing_is_zero(text, known):
    return share_of_words(text, known) or 0.0


_SHARE = {
    _capitals_kept: (
        "A word at the beginning of a sentence is not found: make the text "
        "small first."
    ),
    _split_at_spaces: (
        "Commas and full stops stick to your words. Take rows of letters, "
        "not pieces between spaces."
    ),
    _kinds_counted: (
        "You counted different words. A word that comes ten times counts "
        "ten times."
    ),
    _apostrophes_cut: (
        "You cut words at their apostrophes: don't is one word, and not "
        "don and t."
    ),
    _nothing_is_zero: (
        "A text without words has no share. Return None for it: a zero "
        "would say that it was all gibberish."
    ),
}
register(
    Exercise(
        "19.2",
        "A share of words",
        _check(
            share_of_words,
            _SHARE,
            [
                ("The kite, the mill.", {"the", "kite", "mill"}),
                ("the kyte the kyte don't", {"the", "don't", "don"}),
                ("12 -- ?!", {"the"}),
                ("qxz", {"the"}),
            ],
        ),
        share_of_words,
        {
            "capitals kept": _capitals_kept,
            "split at spaces": _split_at_spaces,
            "different words counted": _kinds_counted,
            "apostrophes cut": _apostrophes_cut,
            "nothing is zero": _nothing_is_zero,
        },
        "Now the same for noise: no share means anything alone.",
    )
)


# 19.3 -------------------------------------------------------------------


def longest_common(a: str, b: str) -> int:
    """The length of the longest span that ``a`` and ``b`` share."""
    best, above = 0, [0] * (len(b) + 1)  # spans that end before this row
    for letter in a:
        row = [0] * (len(b) + 1)
        for j, other in enumerate(b, start=1):
            if letter == other:
                row[j] = above[j - 1] + 1
        best, above = max(best, *row), row
    return best


def _subsequence(a, b):
    above = [0] * (len(b) + 1)
    for letter in a:
        row = [0]
        for j, other in enumerate(b, start=1):
            longer = max(row[-1], above[j])
            row.append(above[j - 1] + 1 if letter == other else longer)
        above = row
    return above[-1]


def _from_the_start(a, b):
    pairs = zip(a, b, strict=False)
    return next(
        (i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b))
    )


def _letters_in_common(a, b):
    return (Counter(a) & Counter(b)).total()


def _capitals_alike(a, b):
    return longest_common(a.lower(), b.lower())


_LONGEST = {
    _subsequence: (
        "You let letters be skipped: that is the longest common "
        "subsequence. Where two letters differ, a span begins again at 0."
    ),
    _from_the_start: (
        "You compared place with equal place. A span may begin anywhere in "
        "either text."
    ),
    _letters_in_common: (
        "You counted the letters that both have. They have to stand in a "
        "row, in the same order."
    ),
    _capitals_alike: (
        "You took capitals and small letters for the same. A copied span is "
        "copied exactly."
    ),
}
register(
    Exercise(
        "19.3",
        "The longest common span",
        _check(
            longest_common,
            _LONGEST,
            [
                ("Ona lost the kite", "Tam lost the hat"),
                ("abcxyz", "abc"),
                ("aXbXc", "abc"),
                ("etik", "kite"),
                ("Kite", "kITE"),
                ("", "kite"),
            ],
        ),
        longest_common,
        {
            "a subsequence": _subsequence,
            "from the start only": _from_the_start,
            "letters in common": _letters_in_common,
            "capitals taken as equal": _capitals_alike,
        },
        "Right, and quadratic: for a novel, take the hashes.",
    )
)


# 19.4 -------------------------------------------------------------------

_BASE, _MODULUS = 1_000_003, 2**64


def window_hashes(
    codes: Sequence[int],
    length: int,
    base: int = _BASE,
    modulus: int = _MODULUS,
) -> list[int]:
    """The polynomial hash of every window, from running sums."""
    sums, power = [0], 1
    for code in codes:
        sums.append((sums[-1] + code * power) % modulus)
        power = power * base % modulus
    undo, back, hashes = pow(base, -1, modulus), 1, []
    for i in range(len(codes) - length + 1):
        hashes.append((sums[i + length] - sums[i]) * back % modulus)
        back = back * undo % modulus
    return hashes


def _place_kept(codes, length, base=_BASE, modulus=_MODULUS):
    sums, power = [0], 1
    for code in codes:
        sums.append((sums[-1] + code * power) % modulus)
        power = power * base % modulus
    count = len(codes) - length + 1
    return [(sums[i + length] - sums[i]) % modulus for i in range(count)]


def _plain_sums(codes, length, base=_BASE, modulus=_MODULUS):
    count = len(codes) - length + 1
    return [sum(codes[i : i + length]) % modulus for i in range(count)]


def _last_lost(codes, length, base=_BASE, modulus=_MODULUS):
    return window_hashes(codes, length, base, modulus)[:-1]


def _not_reduced(codes, length, base=_BASE, modulus=_MODULUS):
    count = len(codes) - length + 1
    return [
        sum(codes[i + j] * base**j for j in range(length))
        for i in range(count)
    ]


_HASHES = {
    _place_kept: (
        "Equal windows at two places get two hashes: the difference of the "
        "sums still holds base to the power of the place. Multiply by its "
        "inverse, pow(base, -i, modulus)."
    ),
    _plain_sums: (
        "Your hash adds the codes, so that ona and nao are the same. Each "
        "place needs a power of the base of its own."
    ),
    _last_lost: (
        "The last window is missing: there are len(codes) - length + 1."
    ),
    _not_reduced: (
        "The numbers are right and not reduced: take them modulo `modulus`, "
        "or they grow with the length of the window."
    ),
}
register(
    Exercise(
        "19.4",
        "Hashes of all windows",
        _check(
            window_hashes,
            _HASHES,
            [
                ([1, 2, 3, 1, 2, 3], 3),
                (list(b"Ona lost the kite"), 5),
                ([7, 7, 7], 3),
            ],
        ),
        window_hashes,
        {
            "place kept": _place_kept,
            "plain sums": _plain_sums,
            "last window lost": _last_lost,
            "not reduced": _not_reduced,
        },
        "One subtraction and one product a window, however long it is.",
    )
)


# 19.5 -------------------------------------------------------------------

_LINE = 10


def scans_turned(patterns: Sequence[str]) -> bool:
    """Whether a line scans, its first foot turned or not."""
    place = 0
    for pattern in patterns:
        for i, mark in enumerate(pattern):
            weak = (place + i) % 2 == 0 and place + i > 0
            if mark == "1" and weak and len(pattern) > 1:
                return False
        place += len(pattern)
    return place == _LINE


def _not_turned(patterns):
    places = [(i, len(p), m) for p in patterns for i, m in enumerate(p)]
    fits = all(
        place % 2 == 1
        for place, (_, size, mark) in enumerate(places)
        if mark == "1" and size > 1
    )
    return fits and len(places) == _LINE


def _short_words_too(patterns):
    marks = "".join(patterns)
    return len(marks) == _LINE and all(
        i == 0 or i % 2 == 1 for i, mark in enumerate(marks) if mark == "1"
    )


def _any_length(patterns):
    padded = [*patterns]
    size = sum(map(len, patterns))
    if size > _LINE:
        return any(
            scans_turned(patterns[:n]) for n in range(len(patterns) + 1)
        )
    return scans_turned([*padded, *["0"] * (_LINE - size)])


def _lesser_stress_too(patterns):
    return scans_turned([p.replace("2", "1") for p in patterns])


def _every_foot_turned(patterns):
    return sum(map(len, patterns)) == _LINE


_TURNED = {
    _not_turned: (
        "A line that begins strong is refused. The very first syllable may "
        "carry the stress of a longer word."
    ),
    _short_words_too: (
        "You held words of one syllable to their mark. They fit on any place."
    ),
    _any_length: "A pentameter has ten syllables, no more and no fewer.",
    _lesser_stress_too: (
        "You treat 2 like 1. Only the main stress has to fall on a strong "
        "place."
    ),
    _every_foot_turned: (
        "You let any foot turn, so that everything of ten syllables scans. "
        "Only the first may."
    ),
}
register(
    Exercise(
        "19.5",
        "Turn the first foot",
        _check(
            scans_turned,
            _TURNED,
            [
                (["10", "0", "1", "1", "1", "0", "1", "1", "1"],),
                (["1", "1", "01", "1", "0", "1", "10", "1"],),
                (["0", "10", "01", "0", "1", "0", "1"],),
                (["0", "10", "10", "10", "10"],),
                (["0", "10", "10", "10", "10", "1", "1"],),
                (["0", "21", "0", "1", "0", "1", "12", "1"],),
                (["0", "1", "21", "0", "1", "0", "1", "0", "1"],),
                (["10", "10", "0", "1", "0", "1", "0", "1"],),
            ],
        ),
        scans_turned,
        {
            "nothing turned": _not_turned,
            "short words held to their mark": _short_words_too,
            "any length": _any_length,
            "the lesser stress counts": _lesser_stress_too,
            "every foot may turn": _every_foot_turned,
        },
        "Each licence lets more verse through, and more prose.",
    )
)


# 19.6 -------------------------------------------------------------------


def beyond_words(
    words: list[str],
    score: Callable[[list[str]], float],
    draws: int = 20,
    seed: int = 0,
) -> float:
    """How far ``score(words)`` lies above the same words in random order."""
    rng, total = random.Random(seed), 0.0
    for _ in range(draws):
        total += score(rng.sample(words, len(words)))
    return score(words) - total / draws


def _callers_list(words, score, draws=20, seed=0):
    own, rng, total = score(words), random.Random(seed), 0.0
    for _ in range(draws):
        rng.shuffle(words)
        total += score(words)
    return own - total / draws


def _score_alone(words, score, draws=20, seed=0):
    return score(words)


def _turned_round(words, score, draws=20, seed=0):
    return -beyond_words(words, score, draws, seed)


def _with_replacement(words, score, draws=20, seed=0):
    rng, total = random.Random(seed), 0.0
    for _ in range(draws):
        total += score(rng.choices(words, k=len(words)))
    return score(words) - total / draws


def _sorted_words(words, score, draws=20, seed=0):
    return score(words) - score(sorted(words))


def _steps_up(words: list[str]) -> float:
    """Words that come after their neighbour in the alphabet, as a share."""
    return sum(a < b for a, b in pairwise(words)) / (len(words) - 1)


def _kinds(words: list[str]) -> float:
    return float(len(set(words)))


_ORDERS = (
    [f"w{i:02}" for i in range(40)],
    [f"w{i:02}" for i in range(40, 0, -1)],
    ["kite", "mill"] * 20,
)


def _check_beyond(answer: Any) -> str | None:
    def run(function: Callable) -> list[float]:
        return [
            round(function([*words], score, 200, 3), 6)
            for words in _ORDERS
            for score in (_steps_up, _kinds)
        ]

    given = [*_ORDERS[0]]
    answer(given, _steps_up, 5, 0)
    if given != _ORDERS[0]:
        return (
            "Your function left the caller's list in another order. Shuffle "
            "a copy: rng.sample(words, len(words))."
        )
    got, wanted = run(answer), run(beyond_words)
    pairs = list(zip(got, wanted, strict=True))
    if all(abs(a - b) < 0.05 for a, b in pairs):  # another way to shuffle
        return None
    for mistake, message in _BEYOND.items():
        near = zip(got, run(mistake), strict=True)
        if all(abs(a - b) < 0.05 for a, b in near):
            return message
    return (
        f"For words in alphabetical order, of which each is above the last, "
        f"the answer is near {wanted[0]:.2f}, and yours {got[0]:.2f}."
    )


_BEYOND = {
    _score_alone: (
        "That is the score itself. Take off what the same words score in "
        "random order."
    ),
    _turned_round: (
        "The sign is turned: the text's own score comes first, so that more "
        "order gives more."
    ),
    _with_replacement: (
        "Your draws take words with replacement, so they are other words. A "
        "shuffle has each word as often as the text."
    ),
    _sorted_words: (
        "You compared with the words in alphabetical order, which is an "
        "order like any other. Take the mean over random ones."
    ),
}
register(
    Exercise(
        "19.6",
        "Beyond its words",
        _check_beyond,
        beyond_words,
        {
            "the caller's list shuffled": _callers_list,
            "the score alone": _score_alone,
            "sign turned": _turned_round,
            "drawn with replacement": _with_replacement,
            "sorted instead": _sorted_words,
        },
        "Whatever is left is due to the order, and to nothing else.",
    )
)
