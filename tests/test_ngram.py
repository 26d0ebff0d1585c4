"""Counting models: by hand, against definitions, and against nltk."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.ngram import (
    KneserNey,
    NGramModel,
    continuations,
    count_ngrams,
    estimate_discount,
    mean_nll,
    ngrams,
)

V = 6
texts = st.lists(
    st.lists(st.integers(1, V - 1), max_size=8), min_size=1, max_size=6
)
orders = st.integers(1, 4)


def smoothed(documents, order):
    return [
        NGramModel.train(documents, order, V, k=0.5),
        KneserNey.train(documents, order, V),
        KneserNey.train(documents, order, V, discount=0.4),
    ]


# ---------------------------------------------------------------- counting


def test_every_token_and_the_end_is_counted_once_with_what_precedes_it():
    assert list(ngrams([5, 6], 3)) == [(0, 0, 5), (0, 5, 6), (5, 6, 0)]
    assert list(ngrams([], 3)) == [(0, 0, 0)]
    assert list(ngrams([5, 6], 1)) == [(5,), (6,), (0,)]


def test_no_ngram_reaches_across_two_documents():
    assert (1, 2) not in count_ngrams([[1], [2]], 2)


@given(texts, orders)
def test_there_are_as_many_ngrams_as_tokens_and_ends(documents, order):
    counts = count_ngrams(documents, order)
    assert counts.total() == sum(len(ids) + 1 for ids in documents)


@given(texts)
def test_continuations_are_numbers_of_different_left_neighbours(documents):
    counts = count_ngrams(documents, 2)
    left = {w: {a for a, b in counts if b == w} for w in range(V)}
    found = continuations(counts)
    assert found == Counter({(w,): len(a) for w, a in left.items() if a})


# ------------------------------------------------------- counts and add-k


def test_plain_counts_by_hand():
    """Three sentences: lost the kite, lost the drum, found the kite."""
    lost, found, the, kite, drum = range(1, 6)
    documents = [[lost, the, kite], [lost, the, drum], [found, the, kite]]
    model = NGramModel.train(documents, 2, V)
    assert model.prob([], lost) == 2 / 3
    assert model.prob([lost], the) == 1
    assert model.prob([lost, the], drum) == 1 / 3
    assert model.prob([the, kite], 0) == 1
    assert model.nll([lost, the, kite]) == pytest.approx(math.log(9 / 4))
    assert model.nll([found, the, drum]) == pytest.approx(math.log(9))
    assert model.nll([the]) == math.inf


def test_add_k_by_hand():
    model = NGramModel.train([[1, 2], [1, 1]], 2, vocab_size=4, k=0.5)
    assert model.prob([1], 2) == pytest.approx((1 + 0.5) / (3 + 2))
    assert model.prob([1], 3) == pytest.approx(0.5 / 5)
    assert model.prob([3], 2) == pytest.approx(1 / 4)  # an unseen context


def test_a_larger_k_comes_closer_to_an_even_guess():
    p = [
        NGramModel.train([[1, 1, 1]], 2, V, k=k).prob([1], 1)
        for k in (0, 1, 100)
    ]
    assert p[0] > p[1] > p[2] > 1 / V


def test_plain_counts_of_the_training_text_are_the_best_possible_ones():
    """Of all tables of bigrams, relative frequencies have the least loss."""
    rng = np.random.default_rng(0)
    documents = [list(rng.integers(1, V, 30)) for _ in range(4)]
    counted = mean_nll(NGramModel.train(documents, 2, V), documents)
    for k in (0.01, 0.1, 1):
        other = NGramModel.train(documents, 2, V, k=k)
        assert mean_nll(other, documents) > counted


# ------------------------------------------------------------- Kneser-Ney


def by_definition(documents, order, context, token, D):
    """Chen and Goodman 1999, section 2.7, read aloud, with slow sets."""
    grams = {
        n: [g for ids in documents for g in ngrams(ids, n)]
        for n in range(1, order + 1)
    }
    # A shorter n-gram begins where a longer one ends, so the padding of the
    # highest order decides which of them there are.
    tails = {g[i:] for g in grams[order] for i in range(order)}

    def count(gram):
        if len(gram) == order:
            return sum(1 for g in grams[order] if g == gram)
        return len({t for t in tails if t[1:] == gram})

    def p(h, w):
        counts = [count((*h, x)) for x in range(V)]
        lower = 1 / V if not h else p(h[1:], w)
        if not sum(counts):
            return lower
        kinds = sum(1 for c in counts if c)
        top = max(counts[w] - D, 0) + D * kinds * lower
        return top / sum(counts)

    padded = (0,) * (order - 1) + tuple(context)
    return p(padded[len(padded) - order + 1 :], token)


@settings(max_examples=40, deadline=None)
@given(texts, orders, st.lists(st.integers(1, V - 1), max_size=4))
def test_kneser_ney_is_its_definition(documents, order, context):
    model = KneserNey.train(documents, order, V, discount=0.6)
    for token in range(V):
        expected = by_definition(documents, order, context, token, 0.6)
        assert model.prob(context, token) == pytest.approx(expected)


def test_kneser_ney_by_hand():
    """ "the kite" twice, "a kite", "the drum", each followed by its end."""
    the, a, kite, drum = 1, 2, 3, 4
    documents = [[the, kite], [the, kite], [a, kite], [the, drum]]
    model = KneserNey.train(documents, 2, 5, discount=0.5)
    # Left neighbours: the 1, a 1, kite 2 (the, a), drum 1, end 2: 7 in all.
    lower = (1 - 0.5) / 7 + 0.5 * 5 / 7 * (1 / 5)  # of drum
    assert model.prob([], drum) == pytest.approx(0.5 * 2 / 4 * lower)
    # After "the" come kite twice and drum once: 3 in all, 2 kinds.
    expected = (1 - 0.5) / 3 + 0.5 * 2 / 3 * lower
    assert model.prob([the], drum) == pytest.approx(expected)


def test_kneser_ney_asks_in_how_many_places_a_word_stood():
    """Chen and Goodman's example: Francisco is frequent, and never alone."""
    san, francisco, glass, a, b = 1, 2, 3, 4, 5
    documents = [[san, francisco]] * 20 + [[a, glass], [b, glass]]
    model = KneserNey.train(documents, 2, V)
    assert model.prob([glass], glass) > model.prob([glass], francisco)
    counted = NGramModel.train(documents, 1, V)
    assert counted.prob([], francisco) > counted.prob([], glass)


def test_kneser_ney_agrees_with_nltk():
    """Every word has two left neighbours here, so that both programs begin
    from the same lowest order (nltk does not mix it with anything)."""
    lm = pytest.importorskip("nltk.lm", reason="nltk is not installed")
    documents = [[1, 2, 3, 1, 2, 3], [2, 1], [3, 2], [1, 3], [1, 2, 3]]
    order, size = 3, 4
    unigrams = continuations(count_ngrams(documents, 2))
    assert unigrams[1,] == unigrams[2,] == unigrams[3,] == unigrams[0,] == 3
    grams = [
        [
            tuple(map(str, g[len(g) - n :]))
            for n in range(1, order + 1)
            for g in ngrams(ids, order)
        ]
        for ids in documents
    ]
    theirs = lm.KneserNeyInterpolated(order, discount=0.3)
    theirs.fit(grams, [str(i) for i in range(size)])
    ours = KneserNey.train(documents, order, size, discount=0.3)
    for context in ([1, 2], [2, 3], [3, 1], [2, 1], [1, 3]):
        for token in range(size):
            expected = theirs.score(str(token), list(map(str, context)))
            assert ours.prob(context, token) == pytest.approx(expected)


def test_the_discount_is_estimated_from_counts_of_one_and_two():
    assert estimate_discount([1] * 6 + [2] * 3 + [9]) == 6 / 12
    assert 0 < estimate_discount([1, 1, 1]) < 1  # nothing came twice
    assert 0 < estimate_discount([5]) < 1


# ------------------------------------------------------------ both of them


@settings(deadline=None)
@given(texts, orders, st.lists(st.integers(0, V - 1), max_size=5))
def test_probabilities_sum_to_one_after_any_context(documents, order, context):
    for model in smoothed(documents, order):
        total = math.fsum(model.prob(context, w) for w in range(V))
        assert total == pytest.approx(1)


@settings(deadline=None)
@given(texts, orders, st.lists(st.integers(0, V - 1), max_size=5))
def test_a_distribution_holds_the_probabilities(documents, order, context):
    plain = NGramModel.train(documents, order, V)
    for model in [plain, *smoothed(documents, order)]:
        expected = [model.prob(context, w) for w in range(V)]
        np.testing.assert_allclose(model.distribution(context), expected)


@settings(deadline=None)
@given(texts, orders, st.lists(st.integers(1, V - 1), max_size=6))
def test_the_cost_of_a_document_is_minus_the_log_of_a_product(
    documents, order, ids
):
    for model in smoothed(documents, order):
        p = 1.0
        for i, token in enumerate([*ids, 0]):
            p *= model.prob(ids[:i], token)
        assert model.nll(ids) == pytest.approx(-math.log(p))
        assert len(model.costs(ids)) == len(ids) + 1


def test_all_documents_together_have_probability_one():
    """By counting out: a model that ends is a distribution over texts."""
    model = KneserNey.train([[1], [1, 2], [2]], 2, vocab_size=3)
    total, open_texts = 0.0, [((), 1.0)]
    for _ in range(16):
        longer = []
        for ids, p in open_texts:
            total += p * model.prob(ids, 0)
            longer += [
                ((*ids[-1:], w)[-1:], p * model.prob(ids, w)) for w in (1, 2)
            ]
        merged = Counter()  # only the last token matters to a bigram
        for ids, p in longer:
            merged[ids] += p
        open_texts = list(merged.items())
    assert total == pytest.approx(1, abs=1e-3)


def test_a_mean_is_taken_over_tokens_and_not_over_documents():
    model = NGramModel.train([[1, 1, 1, 2], [2]], 2, V, k=1)
    long, short = [1, 1, 1, 2], [2]
    expected = (model.nll(long) + model.nll(short)) / (5 + 2)
    assert mean_nll(model, [long, short]) == pytest.approx(expected)


def test_samples_follow_the_probabilities():
    model = NGramModel.train([[1, 2], [1, 2], [1, 3], [2]], 2, V)
    rng = np.random.default_rng(0)
    drawn = Counter(tuple(model.sample(rng)) for _ in range(2000))
    assert set(drawn) == {(1, 2), (1, 3), (2,)}
    for ids, count in drawn.items():
        p = math.exp(-model.nll(ids))
        spread = math.sqrt(2000 * p * (1 - p))
        assert abs(count - 2000 * p) < 5 * spread


def test_a_seed_fixes_the_sample_and_a_prompt_begins_it():
    model = KneserNey.train([[1, 2, 3], [1, 3, 2]], 3, V)
    assert model.sample(4) == model.sample(4)
    plain = NGramModel.train([[1, 2, 3]], 2, V)
    assert plain.sample(0, prompt=[1]) == [2, 3]
    assert plain.sample(0, max_tokens=2) == [1, 2]


# ----------------------------------------------------------------- refusals


@pytest.mark.parametrize("model", [NGramModel, KneserNey])
@pytest.mark.parametrize(
    ("documents", "order", "says"),
    [
        ([], 2, "no documents"),
        ([[1, V]], 2, f"id {V}"),
        ([[-1]], 2, "id -1"),
        ([[1, 0]], 2, "id 0"),
        ([[1]], 0, "order"),
    ],
)
def test_what_cannot_be_counted_is_refused(model, documents, order, says):
    with pytest.raises(ValueError, match=says):
        model.train(documents, order, V)


def test_plain_counts_say_when_they_cannot_go_on():
    model = NGramModel.train([[1, 2]], 2, V)
    with pytest.raises(ValueError, match="smooths"):
        model.sample(0, prompt=[4])


def test_a_negative_k_is_refused():
    with pytest.raises(ValueError, match="k is -1"):
        NGramModel.train([[1]], 2, V, k=-1)


def test_a_discount_above_one_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        KneserNey.train([[1]], 2, V, discount=1.5)


def test_scoring_nothing_is_refused():
    with pytest.raises(ValueError, match="no documents"):
        mean_nll(NGramModel.train([[1]], 2, V), [])
