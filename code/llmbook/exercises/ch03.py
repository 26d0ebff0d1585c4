"""Exercises of the chapter on data."""

from __future__ import annotations

import builtins
import hashlib
import random
import re
from collections.abc import Callable
from unittest import mock

import numpy as np

from llmbook.exercises import Exercise, register

# 3.1 --------------------------------------------------------------------


def likeness(a: str, b: str, n: int) -> float:
    """Jaccard similarity of the runs of n words of two texts."""

    def runs(text):
        words = text.lower().split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


def _runs(text: str, n: int, less: int = 0) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1 - less)]


def _containment(a, b, n):
    first, second = set(_runs(a, n)), set(_runs(b, n))
    return len(first & second) / len(first)


def _dice(a, b, n):
    first, second = set(_runs(a, n)), set(_runs(b, n))
    return 2 * len(first & second) / (len(first) + len(second))


def _repeats_counted(a, b, n):
    first, second = _runs(a, n), _runs(b, n)
    both = sum(run in second for run in first)
    return both / (len(first) + len(second) - both)


def _last_run_lost(a, b, n):
    first, second = set(_runs(a, n, 1)), set(_runs(b, n, 1))
    return len(first & second) / len(first | second)


def _single_words(a, b, n):
    return likeness(a, b, 1)


def _capitals_kept(a, b, n):
    words = a.split(), b.split()
    first, second = (
        {tuple(w[i : i + n]) for i in range(len(w) - n + 1)} for w in words
    )
    return len(first & second) / len(first | second)


_LIKENESS: dict[Callable, str] = {
    _containment: (
        "You divided by the runs of the first text. That is containment, "
        "which calls a sentence equal to the whole book that quotes it. "
        "Divide by the runs that stand in either text."
    ),
    _dice: (
        "You divided by both sizes together, so what is shared was counted "
        "twice below (and, it seems, above). The union counts it once."
    ),
    _repeats_counted: (
        "A run that occurs three times was counted three times. Make sets "
        "first."
    ),
    _last_run_lost: (
        "The last run of each text is missing: w words have w - n + 1 runs "
        "of n."
    ),
    _single_words: (
        "You compared single words. Two texts with the same words in another "
        "order are then equal: use runs of n."
    ),
    _capitals_kept: (
        "Words that differ in a capital counted as different. Put both texts "
        "in lower case first."
    ),
}


def _check_likeness(answer) -> str | None:
    a = "The old kite flew and the old kite fell, and the old drum"
    b = "One day the  old kite flew and the old Kite"
    got = [float(answer(a, b, n)) for n in (2, 3)]
    wanted = [likeness(a, b, n) for n in (2, 3)]
    if np.allclose(got, wanted):
        return None
    for mistake, message in _LIKENESS.items():
        if np.allclose(got, [mistake(a, b, n) for n in (2, 3)]):
            return message
    return f"Expected {wanted[0]:.3f} for n=2, got {got[0]:.3f}."


register(
    Exercise(
        "3.1",
        "How alike?",
        _check_likeness,
        likeness,
        {
            "containment": _containment,
            "both sizes below": _dice,
            "no sets": _repeats_counted,
            "last run lost": _last_run_lost,
            "single words": _single_words,
            "capitals kept": _capitals_kept,
        },
        "In both over in either: the one number that min-hashes estimate.",
    )
)


# 3.2 --------------------------------------------------------------------


def bands_for(k: int, s: float) -> tuple[int, int]:
    """Bands and rows, b * r = k, that meet at s as nearly half the time."""
    pairs = [(b, k // b) for b in range(1, k + 1) if k % b == 0]
    return min(pairs, key=lambda p: abs((1 - (1 - s ** p[1]) ** p[0]) - 0.5))


def _swapped(k, s):
    return bands_for(k, s)[::-1]


def _one_band_decides(k, s):
    pairs = [(b, k // b) for b in range(1, k + 1) if k % b == 0]
    return min(pairs, key=lambda p: abs(s ** p[1] - 0.5))


def _all_bands(k, s):
    pairs = [(b, k // b) for b in range(1, k + 1) if k % b == 0]
    return min(pairs, key=lambda p: abs((1 - (1 - s) ** p[1]) ** p[0] - 0.5))


_BANDS: dict[Callable, str] = {
    _swapped: "Bands and rows are swapped: return (b, r).",
    _one_band_decides: (
        "You looked at one band, s^r. Two documents meet when at least one "
        "of the b bands agrees."
    ),
    _all_bands: (
        "That is the chance of another rule: in every band at least one row "
        "agrees. Here one band suffices, and all of its rows have to agree."
    ),
}


def _check_bands(answer) -> str | None:
    cases = ((120, 0.8), (112, 0.75), (120, 0.5), (64, 0.9))
    got = [tuple(answer(k, s)) for k, s in cases]
    wanted = [bands_for(k, s) for k, s in cases]
    for (b, r), (k, _) in zip(got, cases, strict=True):
        if b * r != k:
            return (
                f"{b} bands of {r} are {b * r} numbers; the signature has {k}."
            )
    for mistake, message in _BANDS.items():
        if got == [mistake(k, s) for k, s in cases]:
            return message
    if got != wanted:
        return f"For k=120, s=0.8 expected {wanted[0]}, got {got[0]}."
    return None


register(
    Exercise(
        "3.2",
        "Where the curve is steep",
        _check_bands,
        bands_for,
        {
            "bands and rows swapped": _swapped,
            "a single band": _one_band_decides,
            "a row in every band": _all_bands,
            "numbers left over": lambda k, s: (9, 13),
        },
        "For 112 numbers and 0.75 that is what FineWeb chose.",
    )
)


# 3.3 --------------------------------------------------------------------


def all_windows(tokens: list[int], T: int) -> list[tuple[list, list]]:
    """Every whole window (x, y) of a row; no target stands in two."""
    count = (len(tokens) - 1) // T
    starts = range(0, count * T, T)
    return [(tokens[i : i + T], tokens[i + 1 : i + T + 1]) for i in starts]


def _not_shifted(tokens, T):
    return [(x, x) for x, _ in all_windows(tokens, T)]


def _target_skipped(tokens, T):
    starts = range(0, len(tokens) - T, T + 1)
    return [(tokens[i : i + T], tokens[i + 1 : i + T + 1]) for i in starts]


def _last_lost(tokens, T):
    return all_windows(tokens, T)[:-1]


def _last_cut(tokens, T):
    starts = range(0, len(tokens), T)
    return [(tokens[i : i + T], tokens[i + 1 : i + T + 1]) for i in starts]


def _sliding(tokens, T):
    starts = range(len(tokens) - T)
    return [(tokens[i : i + T], tokens[i + 1 : i + T + 1]) for i in starts]


_WINDOWS: dict[Callable, str] = {
    _not_shifted: (
        "x and y are equal: the model would be asked for the token that it "
        "has just read. y begins one later."
    ),
    _target_skipped: (
        "Your windows are T + 1 apart, so the first token of each is never a "
        "target. They may share that one token: step by T."
    ),
    _last_lost: (
        "The last window that still fits is missing. N tokens have N - 1 "
        "targets, and so (N - 1) // T windows."
    ),
    _last_cut: (
        "The last y is shorter than its x, for it would need a token after "
        "the end. Leave that window out."
    ),
    _sliding: (
        "Your windows overlap: nearly every token is a target T times in an "
        "epoch. Step by T."
    ),
}


def _check_windows(answer) -> str | None:
    for size, T in ((13, 4), (14, 4), (9, 8)):
        tokens = list(range(100, 100 + size))
        got = [(list(x), list(y)) for x, y in answer(tokens, T)]
        wanted = all_windows(tokens, T)
        if got != wanted:
            for mistake, message in _WINDOWS.items():
                if got == mistake(tokens, T):
                    return message
            return (
                f"For the tokens 100 to {99 + size} and T={T} expected "
                f"{len(wanted)} windows, the first {wanted[0]}; got "
                f"{len(got)}, the first {got[:1]}."
            )
    return None


register(
    Exercise(
        "3.3",
        "Windows",
        _check_windows,
        all_windows,
        {
            "y is x": _not_shifted,
            "a target skipped": _target_skipped,
            "last window lost": _last_lost,
            "last window cut": _last_cut,
            "overlapping": _sliding,
        },
        "Each token but the first is guessed once.",
    )
)


# 3.4 --------------------------------------------------------------------


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is held out: decided by its normalised words alone."""
    words = " ".join(text.lower().split())
    digest = hashlib.sha256(words.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _by_luck(text, share):
    return random.random() < share


def _by_python_hash(text, share):
    return hash(" ".join(text.lower().split())) % 1000 < 1000 * share


def _by_bytes(text, share):
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _by_trimmed(text, share):
    return _by_bytes(text.strip().lower(), share)


def _always_a_tenth(text, share):
    return is_held_out(text, 0.1)


def _by_first_letter(text, share):
    return text.strip().lower()[0] in "aeiou"


def _other_side(text, share):
    return not is_held_out(text, share)


def _check_split(answer) -> str | None:
    texts = [f"Story {i}: Ona lost the kite {i} times." for i in range(2000)]
    with mock.patch.object(builtins, "hash", wraps=hash) as called:
        first = [bool(answer(text, 0.1)) for text in texts]
    if called.called:
        return (
            "hash() of a text is another number in every Python process, so "
            "the next run would train on what this one held out. Use "
            "hashlib."
        )
    again = [bool(answer(text, 0.1)) for text in reversed(texts)][::-1]
    if first != again:
        return (
            "Asked again, in another order, some texts changed sides. Decide "
            "by the text itself, not by luck or by what came before."
        )
    copies = [f"  {text.upper()}\n" for text in texts]
    if first != [bool(answer(text, 0.1)) for text in copies]:
        return (
            "A copy in capitals, or with a blank more, went to the other "
            "side: a duplicate in both. Normalise before you hash."
        )
    wide = [text.replace(" ", "  ") for text in texts]
    if first != [bool(answer(text, 0.1)) for text in wide]:
        return (
            "A copy with two blanks between its words went to the other "
            "side. Split into words and join them by one."
        )
    held = sum(first) / len(first)
    if abs((1 - held) - 0.1) < 0.03:
        return f"{held:.0%} are held out: you named the texts to train on."
    if abs(held - 0.1) > 0.03:
        return (
            f"10% should be held out, and {held:.1%} are: what you compare "
            "with the share is not spread evenly over the texts."
        )
    half = sum(bool(answer(text, 0.5)) for text in texts) / len(texts)
    if abs(half - 0.5) > 0.06:
        return f"Asked for a share of one half, you held out {half:.0%}."
    return None


register(
    Exercise(
        "3.4",
        "Which side?",
        _check_split,
        is_held_out,
        {
            "by luck": _by_luck,
            "by Python's hash": _by_python_hash,
            "by the bytes": _by_bytes,
            "blanks between words kept": _by_trimmed,
            "the share unused": _always_a_tenth,
            "by the first letter": _by_first_letter,
            "sides swapped": _other_side,
        },
        "Copies that differ in case or blanks keep together, in every run. "
        "Near-duplicates do not: those have to go before.",
    )
)


# 3.5 --------------------------------------------------------------------


def epoch_order(n: int, epoch: int, seed: int) -> list[int]:
    """The order in which an epoch visits n windows."""
    source = np.random.default_rng((seed, epoch))
    return source.permutation(n).tolist()


def _global_state(n, epoch, seed):
    return np.random.permutation(n).tolist()


def _one_order(n, epoch, seed):
    return np.random.default_rng(seed).permutation(n).tolist()


def _sum_of_both(n, epoch, seed):
    return np.random.default_rng(seed + epoch).permutation(n).tolist()


def _with_replacement(n, epoch, seed):
    return np.random.default_rng((seed, epoch)).integers(n, size=n).tolist()


def _seed_unused(n, epoch, seed):
    return np.random.default_rng(epoch).permutation(n).tolist()


def _check_order(answer) -> str | None:
    def order(epoch, seed, n=50):
        return [int(i) for i in answer(n, epoch, seed)]

    if sorted(order(0, 1)) != list(range(50)):
        return (
            "Some windows are visited twice in an epoch and others never. "
            "Take a permutation."
        )
    first, order_of_other = order(3, 1), order(4, 1)
    if order(3, 1) != first:
        return (
            "Asked twice for the same epoch, you gave two orders. Make a "
            "generator of its own from seed and epoch: a global one remembers "
            "what was drawn before, and a resumed run drew something else."
        )
    if first == order_of_other:
        return "Every epoch has the same order. The epoch has to count too."
    if first == order(3, 2):
        return "Every seed has the same order. The seed has to count too."
    if order(2, 1) == order(1, 2):
        return (
            "Epoch 2 of seed 1 is epoch 1 of seed 2: you added the numbers. "
            "Two runs that should differ see the same orders. Seed with the "
            "pair."
        )
    return None


register(
    Exercise(
        "3.5",
        "An order to come back to",
        _check_order,
        epoch_order,
        {
            "global state": _global_state,
            "one order for all epochs": _one_order,
            "seed plus epoch": _sum_of_both,
            "drawn with replacement": _with_replacement,
            "seed unused": _seed_unused,
        },
        "A function of seed and epoch alone: nothing has to be saved.",
    )
)


# 3.6 --------------------------------------------------------------------

_PHONE = re.compile(r"(?<!\w)(?:\+\d{1,3}|\(\d{2,5}\))(?:[ -]?\d{2,4}){2,4}\b")


def hide_numbers(text: str) -> str:
    """Telephone numbers, from +44 or (020) on, behind <phone>."""
    return _PHONE.sub("<phone>", text)


def _all_digits(text):
    return re.sub(r"\d+", "<phone>", text)


def _long_runs(text):
    return re.sub(r"[+(]?\d[\d ()-]{2,}\d", "<phone>", text)


def _no_separators(text):
    return re.sub(r"[+(]?\d{7,}", "<phone>", text)


def _rest_left(text):
    return re.sub(r"(?:\+\d{1,3}|\(\d{2,5}\))[ -]?\d+", "<phone>", text)


_HIDDEN = [
    "call +44 20 7946 0958 today",
    "call (020) 7946 0123, or write",
    "call +442079460958.",
    "+1-212-555-0187 is Tam",
]
_LEFT = [
    "in 1984 and 1990-1995",
    "a kite for 1250.00, or 12 for 9000",
    "ISBN 978-3-16-148410-0",
    "from 10:45 to 12:30 on 2024-05-17",
    "2 + 3 = 5 (of 12)",
]


def _check_hidden(answer) -> str | None:
    for text in _HIDDEN:
        got = answer(text)
        if got == text:
            return f"Nothing was hidden in {text!r}."
    for text in _LEFT:
        if answer(text) != text:
            return (
                f"{text!r} became {answer(text)!r}. Years, prices, dates and "
                "book numbers are no telephone numbers: ask for a plus or an "
                "area code in parentheses at the beginning."
                if answer("7") == "7"
                else f"{text!r} became {answer(text)!r}: not every number is "
                "a telephone number, and a model has to learn the others."
            )
    for text in _HIDDEN:
        got, wanted = answer(text), hide_numbers(text)
        if got != wanted:
            return (
                f"{text!r} became {got!r}, expected {wanted!r}: all of the "
                "number goes, and nothing around it."
            )
    return None


register(
    Exercise(
        "3.6",
        "What is a telephone number?",
        _check_hidden,
        hide_numbers,
        {
            "every number": _all_digits,
            "every long run of digits": _long_runs,
            "no separators": _no_separators,
            "the rest left standing": _rest_left,
        },
        "The numbers go and the years stay. The library that the chapter "
        "uses knows the plans of two hundred countries besides.",
    )
)
