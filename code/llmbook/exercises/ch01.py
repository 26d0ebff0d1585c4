"""Exercises of the chapter on guessing the next token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from llmbook.exercises import Exercise, register

TOLERANCE = 1e-9


def _number(got) -> float | None:
    """``got`` as a float, or None where it is no number."""
    if isinstance(got, bool):
        return None
    if isinstance(got, (int, float, np.integer, np.floating, Fraction)):
        return float(got)
    return None


def _close(got, wanted: float) -> bool:
    value = _number(got)
    if value is None:
        return False
    return value == wanted or math.isclose(value, wanted, rel_tol=TOLERANCE)


def _named(got, wrong: dict, *inputs) -> str | None:
    """The message of the classic mistake that gives ``got``, if one does."""
    for mistake, message in wrong.items():
        if _close(got, mistake(*inputs)):
            return message
    return None


# 1.1 --------------------------------------------------------------------


def perplexity_of(probabilities: Sequence[float]) -> float:
    """e to the mean of -ln p; infinite when something was impossible."""
    if min(probabilities) == 0:
        return math.inf
    prices = [-math.log(p) for p in probabilities]
    return math.exp(sum(prices) / len(prices))


def _possible(probabilities) -> list[float]:
    return [p for p in probabilities if p > 0]


def _not_averaged(probabilities):
    return 1 / math.prod(probabilities) if all(probabilities) else math.inf


def _minus_forgotten(probabilities):
    return 1 / perplexity_of(probabilities)


def _two_bases(probabilities):
    if not all(probabilities):
        return math.inf
    bits = [-math.log2(p) for p in probabilities]
    return math.exp(sum(bits) / len(bits))


def _only_the_loss(probabilities):
    return math.log(perplexity_of(probabilities))


def _mean_of_inverses(probabilities):
    if not all(probabilities):
        return math.inf
    return sum(1 / p for p in probabilities) / len(probabilities)


def _inverse_of_mean(probabilities):
    return len(probabilities) / sum(probabilities)


def _zeros_left_out(probabilities):
    return perplexity_of(_possible(probabilities))


def _nearly_zero(probabilities):
    return perplexity_of([max(p, 1e-10) for p in probabilities])


_PERPLEXITY = {
    _not_averaged: (
        "You added the prices up and did not divide by their number, so the "
        "result grows with the length of the text. Take the mean."
    ),
    _minus_forgotten: (
        "Your result lies below 1, so a minus is missing: the price of a "
        "word is -ln p."
    ),
    _two_bases: (
        "The logarithm is to base 2, and you raised e. Any base will do, "
        "but it must be the same one both times."
    ),
    _only_the_loss: (
        "That is the loss in nats. The perplexity is e raised to it."
    ),
    _mean_of_inverses: (
        "You took the mean of 1/p. The mean is taken of the logarithms, and "
        "the power comes last; a mean of perplexities lets one bad guess "
        "count for too much."
    ),
    _inverse_of_mean: (
        "You took the mean of the probabilities. It forgives bad guesses: a "
        "word at p = 0 would hardly be noticed. Take the mean of -ln p."
    ),
}

_IMPOSSIBLE = {
    _zeros_left_out: (
        "A word with probability 0 was left out of the mean. It came all "
        "the same: the model called it impossible, so the perplexity is "
        "infinite (math.inf)."
    ),
    _inverse_of_mean: _PERPLEXITY[_inverse_of_mean],
}


def _check_perplexity(answer) -> str | None:
    for given in ([0.5, 0.1, 0.25, 0.8], [1.0, 1.0], [0.2] * 7):
        got = answer(list(given))
        if not _close(got, perplexity_of(given)):
            return _named(got, _PERPLEXITY, given) or (
                f"For {given} expected {perplexity_of(given):.4f}, got "
                f"{got!r}."
            )
    given = [0.5, 0.0, 0.25]
    try:
        got = answer(list(given))
    except (ValueError, ZeroDivisionError):
        return (
            "Right as long as every probability is above 0; at p = 0 Python "
            "refuses the logarithm. The price of the impossible is "
            "math.inf, and so is the perplexity."
        )
    if got != math.inf:
        return _named(got, _IMPOSSIBLE, given) or (
            f"For {given} you return {got!r}. Something impossible came, "
            "and no constant can make up for that: expected math.inf."
        )
    return None


def _zero_raises(probabilities):
    prices = [-math.log(p) for p in probabilities]
    return math.exp(sum(prices) / len(prices))


register(
    Exercise(
        "1.1",
        "Perplexity",
        _check_perplexity,
        perplexity_of,
        {
            "no mean": _not_averaged,
            "no minus": _minus_forgotten,
            "base 2, then e": _two_bases,
            "the loss": _only_the_loss,
            "mean of 1/p": _mean_of_inverses,
            "mean of p": _inverse_of_mean,
            "zeros left out": _zeros_left_out,
            "zeros made small": _nearly_zero,
            "an error at 0": _zero_raises,
        },
        "And infinite where it has to be.",
    )
)


# 1.2 --------------------------------------------------------------------


def bits_per_word(documents: Sequence[Sequence[float]]) -> float:
    """The mean of -log2 p over all words of all documents, ends included."""
    probabilities = [p for document in documents for p in document]
    return -sum(math.log2(p) for p in probabilities) / len(probabilities)


def _documents_alike(documents):
    means = [bits_per_word([document]) for document in documents]
    return sum(means) / len(means)


def _per_document(documents):
    bits = -sum(math.log2(p) for d in documents for p in d)
    return bits / len(documents)


def _ends_left_out(documents):
    return bits_per_word([document[:-1] for document in documents])


def _ends_not_counted(documents):
    bits = -sum(math.log2(p) for d in documents for p in d)
    return bits / sum(len(document) - 1 for document in documents)


def _in_nats(documents):
    return bits_per_word(documents) * math.log(2)


def _wrong_way(documents):
    return _in_nats(documents) * math.log(2)


def _mean_of_perplexities(documents):
    each = [2 ** bits_per_word([document]) for document in documents]
    return math.log2(sum(each) / len(each))


_BITS = {
    _documents_alike: (
        "You took the mean of each document first, so that a word in a "
        "short document counts for more than one in a long one. Add up all "
        "prices and divide once, by all words."
    ),
    _per_document: (
        "You divided by the number of documents. The loss is per word."
    ),
    _ends_left_out: (
        "The last probability of each document was left out. The end has to "
        "be guessed like any word."
    ),
    _ends_not_counted: (
        "The price of each end is in the sum, but the ends were not counted "
        "among the words that you divide by."
    ),
    _in_nats: "That is right in nats. A bit is ln 2 nats: take log2.",
    _wrong_way: (
        "You multiplied by ln 2. A nat is more than a bit, so there are "
        "more bits than nats: divide by ln 2."
    ),
    _mean_of_perplexities: (
        "You took the mean of the documents' perplexities. Means are taken "
        "of logarithms, over words; the power comes last, if at all."
    ),
}


def _check_bits(answer) -> str | None:
    for given in (
        [[0.5, 0.1, 0.3, 0.9, 0.7, 0.2], [0.05, 0.6]],
        [[0.25, 0.5]],
    ):
        got = answer([list(document) for document in given])
        if not _close(got, bits_per_word(given)):
            return _named(got, _BITS, given) or (
                f"For {given} expected {bits_per_word(given):.4f}, got "
                f"{got!r}."
            )
    return None


register(
    Exercise(
        "1.2",
        "Long and short documents",
        _check_bits,
        bits_per_word,
        {
            "mean of means": _documents_alike,
            "per document": _per_document,
            "ends left out": _ends_left_out,
            "ends not counted": _ends_not_counted,
            "nats": _in_nats,
            "times ln 2": _wrong_way,
            "mean of perplexities": _mean_of_perplexities,
        },
        "One sum, one division, one unit.",
    )
)


# 1.3 --------------------------------------------------------------------

END = "<end>"


def count_word_ngrams(
    documents: Sequence[Sequence[str]], n: int
) -> Counter[tuple[str, ...]]:
    """Counts of n-grams, padded in front, with the end behind."""
    counts: Counter[tuple[str, ...]] = Counter()
    for document in documents:
        padded = [END] * (n - 1) + [*document, END]
        for i in range(len(padded) - n + 1):
            counts[tuple(padded[i : i + n])] += 1
    return counts


def _slide(padded: list[str], n: int) -> Counter:
    return Counter(
        tuple(padded[i : i + n]) for i in range(len(padded) - n + 1)
    )


def _padded(documents, n: int, before: int, behind: int) -> Counter:
    counts: Counter = Counter()
    for document in documents:
        row = [END] * before + list(document) + [END] * behind
        counts += _slide(row, n)
    return counts


def _no_end(documents, n):
    return _padded(documents, n, n - 1, 0)


def _no_beginning(documents, n):
    return _padded(documents, n, 0, 1)


def _bare(documents, n):
    return _padded(documents, n, 0, 0)


def _one_beginning(documents, n):
    return _padded(documents, n, 1, 1)


def _many_ends(documents, n):
    return _padded(documents, n, n - 1, n - 1)


def _run_together(documents, n):
    row = [END] * (n - 1)
    for document in documents:
        row += [*document, END]
    return _slide(row, n)


def _as_set(documents, n):
    return Counter(set(count_word_ngrams(documents, n)))


_COUNTING = {
    _no_end: (
        "No n-gram leads to the end, so a model with these counts never "
        'stops. Put one "<end>" behind each document, and slide up to it.'
    ),
    _no_beginning: (
        "The first words have no context. Put n - 1 ends in front of each "
        "document, so that its beginning is guessed too."
    ),
    _bare: (
        "Neither beginning nor end is counted: pad with n - 1 in front and "
        "one behind."
    ),
    _one_beginning: (
        'One "<end>" in front is enough for pairs only: for n words you '
        "need n - 1 of them."
    ),
    _many_ends: (
        "One end behind is enough. What comes after the end is not guessed "
        "by anybody."
    ),
    _run_together: (
        "Some n-grams reach from one document into the next. Pad and slide "
        "in each document by itself."
    ),
    _as_set: "Each n-gram is counted once, however often it came.",
}


def _check_counting(answer) -> str | None:
    documents = [["it", "is", "it"], ["it"], ["so", "it", "is", "it"]]
    for n in (3, 2, 1):
        got = answer([list(document) for document in documents], n)
        wanted = count_word_ngrams(documents, n)
        if got == wanted:
            continue
        for mistake, message in _COUNTING.items():
            if got == mistake(documents, n):
                return message
        if not isinstance(got, dict):
            return f"Expected a Counter of tuples, got {type(got).__name__}."
        strange = [gram for gram in got if gram not in wanted][:1]
        missing = [gram for gram in wanted if gram not in got][:1]
        return (
            f"With n={n} the counts differ. In yours and not expected: "
            f"{strange}; expected and not in yours: {missing}; sums "
            f"{sum(got.values())} and {wanted.total()}."
        )
    return None


register(
    Exercise(
        "1.3",
        "Count from end to end",
        _check_counting,
        count_word_ngrams,
        {
            "no end": _no_end,
            "no beginning": _no_beginning,
            "no padding": _bare,
            "one beginning": _one_beginning,
            "many ends": _many_ends,
            "documents run together": _run_together,
            "a set": _as_set,
        },
        "As many n-grams as there are words and ends, whatever n is.",
    )
)


# 1.4 --------------------------------------------------------------------

Prob = Callable[[tuple[int, ...], int], float]


def is_honest(
    prob: Prob, contexts: Sequence[tuple[int, ...]], vocab_size: int
) -> bool:
    """Whether every context has a distribution: nothing negative, sum 1."""
    for context in contexts:
        p = [prob(context, token) for token in range(vocab_size)]
        if min(p) < 0 or not math.isclose(math.fsum(p), 1, rel_tol=1e-6):
            return False
    return True


def _first_context_only(prob, contexts, vocab_size):
    return is_honest(prob, contexts[:1], vocab_size)


def _at_most_one(prob, contexts, vocab_size):
    return all(
        0 <= prob(context, token) <= 1
        for context in contexts
        for token in range(vocab_size)
    )


def _exactly_one(prob, contexts, vocab_size):
    return all(
        sum(prob(context, token) for token in range(vocab_size)) == 1
        and min(prob(context, t) for t in range(vocab_size)) >= 0
        for context in contexts
    )


def _sign_unseen(prob, contexts, vocab_size):
    return all(
        math.isclose(sum(prob(c, t) for t in range(vocab_size)), 1)
        for c in contexts
    )


def _not_above_one(prob, contexts, vocab_size):
    return all(
        min(prob(c, t) for t in range(vocab_size)) >= 0
        and sum(prob(c, t) for t in range(vocab_size)) <= 1 + 1e-6
        for c in contexts
    )


def _summed_over_all(prob, contexts, vocab_size):
    p = [prob(c, t) for c in contexts for t in range(vocab_size)]
    return min(p) >= 0 and math.isclose(sum(p), len(contexts))


_SEEN = {(1,): {2: 3, 3: 7}, (2,): {1: 1}, (3,): {1: 5, 3: 1}}
_CONTEXTS = [(1,), (2,), (3,), (0,)]
_SIZE = 10


def _add_k(room: Callable[[int], float], k: float = 0.1) -> Prob:
    """Add-k over ``_SEEN``; ``room`` makes the denominator of a total."""

    def prob(context, token):
        counts = _SEEN.get(context, {})
        total = sum(counts.values())
        return (counts.get(token, 0) + k) / room(total)

    return prob


def _even(context, token):
    return 1 / _SIZE


def _thirds(context, token):
    return 1 / _SIZE if context != (2,) else (1 / 30 if token else 0.7)


def _borrowed(context, token):
    return {0: -0.5, 1: 1.5}.get(token, 0.0)


def _only_strangers(context, token):
    return 1.0 if context == (0,) else 1 / _SIZE


def _one_for_the_other(context, token):
    return {(1,): 0.15, (2,): 0.05}.get(context, 0.1)


_TRIALS = (
    (
        _add_k(lambda total: total + 0.1 * _SIZE),
        True,
        "an honest add-k model was called a cheat. Its sums differ from 1 in "
        "the last digits only; allow for that with math.isclose.",
    ),
    (_even, True, "an even guess over ten tokens was called a cheat."),
    (_thirds, True, "a model with one favourite was called a cheat."),
    (
        _add_k(lambda total: total + 0.1),
        False,
        "one that adds k once to the denominator, and to the count of each "
        "of the ten tokens, got through: its sums are above 1.",
    ),
    (
        _only_strangers,
        False,
        "one that is honest until the context is a stranger got through. "
        "After the last of the contexts it gives 1.0 to everything; look at "
        "all of them.",
    ),
    (
        _add_k(lambda total: total + 0.5 * _SIZE),
        False,
        "one that gives too little got through: its sums are below 1, so it "
        "only harms itself, but a distribution it is not.",
    ),
    (
        _one_for_the_other,
        False,
        "one that takes from one context what it gives to another got "
        "through. Each context must sum to 1 by itself.",
    ),
    (
        _borrowed,
        False,
        "one with a probability of -0.5 got through. Its sum is 1, because "
        "another token has 1.5.",
    ),
)


def _check_honest(answer) -> str | None:
    wrong = []
    for prob, honest, message in _TRIALS:
        got = answer(prob, list(_CONTEXTS), _SIZE)
        if not isinstance(got, (bool, np.bool_)):
            return f"Expected True or False, got {got!r}."
        if bool(got) != honest:
            wrong.append(message)
    if len(wrong) > 1:
        more = f" (And {len(wrong) - 1} more are judged wrongly.)"
        return f"Of the models, {wrong[0]}{more}"
    return f"Of the models, {wrong[0]}" if wrong else None


register(
    Exercise(
        "1.4",
        "A model that cheats",
        _check_honest,
        is_honest,
        {
            "first context only": _first_context_only,
            "no sum": _at_most_one,
            "exactly 1": _exactly_one,
            "no sign": _sign_unseen,
            "not above 1": _not_above_one,
            "one sum for all": _summed_over_all,
        },
        "No model of yours will beat a benchmark by bad arithmetic.",
    )
)


# 1.5 --------------------------------------------------------------------


def continuation_shares(
    pairs: Counter[tuple[str, str]],
) -> dict[str, float]:
    """Share of the different pairs in which each word stands second."""
    places = Counter(second for _, second in pairs)
    return {word: n / len(pairs) for word, n in places.items()}


def _occurrences(pairs):
    seen: Counter = Counter()
    for (_, second), count in pairs.items():
        seen[second] += count
    return {word: n / sum(pairs.values()) for word, n in seen.items()}


def _followers(pairs):
    places = Counter(first for first, _ in pairs)
    return {word: n / len(pairs) for word, n in places.items()}


def _of_all_occurrences(pairs):
    places = Counter(second for _, second in pairs)
    return {word: n / sum(pairs.values()) for word, n in places.items()}


def _of_all_words(pairs):
    places = Counter(second for _, second in pairs)
    return {word: n / len(places) for word, n in places.items()}


def _not_shared(pairs):
    return dict(Counter(second for _, second in pairs))


_CONTINUATION = {
    _occurrences: (
        "You counted how often each word came, so Francisco is at the top. "
        "Count in how many different pairs it stands second."
    ),
    _followers: (
        "You counted the pairs in which a word stands first: by how many "
        "words it is followed. Asked is after how many it comes."
    ),
    _of_all_occurrences: (
        "The shares do not sum to 1: above the line are different pairs, "
        "so below it must be different pairs too, len(pairs)."
    ),
    _of_all_words: (
        "The shares do not sum to 1: you divided by the number of words. "
        "Divide by the number of different pairs."
    ),
    _not_shared: "Those are the numbers of pairs. Divide by their sum.",
}


def _same_shares(got, wanted: dict) -> bool:
    return (
        isinstance(got, dict)
        and set(got) == set(wanted)
        and all(_close(got[word], p) for word, p in wanted.items())
    )


def _check_continuation(answer) -> str | None:
    pairs = Counter(
        {
            ("San", "Francisco"): 40,
            ("in", "San"): 30,
            ("to", "San"): 10,
            ("a", "glass"): 2,
            ("the", "glass"): 3,
            ("his", "glass"): 1,
            ("glass", "in"): 2,
            ("glass", "a"): 1,
        }
    )
    got = answer(Counter(pairs))
    wanted = continuation_shares(pairs)
    if _same_shares(got, wanted):
        return None
    for mistake, message in _CONTINUATION.items():
        if _same_shares(got, mistake(pairs)):
            return message
    return (
        f"Expected a dictionary in which glass has {wanted['glass']} and "
        f"Francisco {wanted['Francisco']}, got {got!r}."
    )


register(
    Exercise(
        "1.5",
        "Who gets around",
        _check_continuation,
        continuation_shares,
        {
            "occurrences": _occurrences,
            "standing first": _followers,
            "over occurrences": _of_all_occurrences,
            "over words": _of_all_words,
            "not shared": _not_shared,
        },
        "Francisco is rare again, and glass gets around.",
    )
)


# 1.6 --------------------------------------------------------------------


def guesses_needed(
    distribution: Callable[[Sequence[int]], np.ndarray], ids: Sequence[int]
) -> list[int]:
    """At which guess, counted from 1, each token is named."""
    needed = []
    for t, token in enumerate(ids):
        order = np.argsort(-distribution(ids[:t]), kind="stable")
        needed.append(int(np.flatnonzero(order == token)[0]) + 1)
    return needed


def _from_zero(distribution, ids):
    return [n - 1 for n in guesses_needed(distribution, ids)]


def _least_likely_first(distribution, ids):
    return guesses_needed(lambda context: -distribution(context), ids)


def _knows_the_word(distribution, ids):
    needed = []
    for t, token in enumerate(ids):
        order = np.argsort(-distribution(ids[: t + 1]), kind="stable")
        needed.append(int(np.flatnonzero(order == token)[0]) + 1)
    return needed


def _index_not_place(distribution, ids):
    """argsort, asked for the token at a place, not the place of a token."""
    return [
        int(np.argsort(-distribution(ids[:t]), kind="stable")[token]) + 1
        for t, token in enumerate(ids)
    ]


def _ties_ahead(distribution, ids):
    needed = []
    for t, token in enumerate(ids):
        p = distribution(ids[:t])
        needed.append(int((p > p[token]).sum()) + 1)
    return needed


def _no_context(distribution, ids):
    order = np.argsort(-distribution([]), kind="stable")
    return [int(np.flatnonzero(order == token)[0]) + 1 for token in ids]


_GUESSES = {
    _from_zero: (
        "Your numbers begin at 0. A first guess that is right is one guess."
    ),
    _least_likely_first: (
        "Your player names the least likely word first. np.argsort sorts "
        "upwards: hand it the negative of the probabilities."
    ),
    _knows_the_word: (
        "The context holds the word that is to be guessed. For the word at "
        "place t it is ids[:t]."
    ),
    _index_not_place: (
        "You looked up which token stands at a place of the order. Asked is "
        "at which place the token stands: np.flatnonzero(order == token)."
    ),
    _ties_ahead: (
        "You counted the words that are more likely. Of several with the "
        "same probability, those with smaller ids are named first: "
        'kind="stable" keeps them in order.'
    ),
    _no_context: (
        "Every word is guessed as if it were the first. Give the words "
        "before it to distribution."
    ),
}


def _player(context: Sequence[int]) -> np.ndarray:
    """A small model whose guesses depend on the last word."""
    p = np.array([4.0, 1.0, 1.0, 2.0, 1.0, 3.0])
    if context:
        p = np.roll(p, context[-1] + 1)
    return p / p.sum()


def _check_guesses(answer) -> str | None:
    ids = [4, 2, 5, 0, 3, 3, 1]
    wanted = guesses_needed(_player, ids)
    got = answer(_player, list(ids))
    try:
        same = [int(n) for n in got] == wanted
    except TypeError:
        return f"Expected a list of numbers, got {type(got).__name__}."
    if same:
        return None
    for mistake, message in _GUESSES.items():
        if list(got) == mistake(_player, ids):
            return message
    return f"Expected {wanted}, got {list(got)}."


register(
    Exercise(
        "1.6",
        "Shannon's game",
        _check_guesses,
        guesses_needed,
        {
            "counted from 0": _from_zero,
            "least likely first": _least_likely_first,
            "word in its context": _knows_the_word,
            "place and token swapped": _index_not_place,
            "ties": _ties_ahead,
            "no context": _no_context,
        },
        "Shannon needed patient friends for this.",
    )
)
