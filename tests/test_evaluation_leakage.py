"""Leaks made on purpose, and found again from the model alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from llmbook.config import GPTConfig, TrainConfig
from llmbook.evaluation.leakage import (
    LeakedBatches,
    auc,
    min_k_prob,
    permutation_test,
    token_logprobs,
)
from llmbook.evaluation.models import GPTModel
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import token_losses, train

WORDS = ("red", "blue", "kite", "goat", "hill", "pond", "bell", "door")
END = 99


def sentences(count, seed):
    """Different sentences of one distribution."""
    source = np.random.default_rng(seed)
    drawn = source.choice(WORDS, size=(2 * count, 7))
    return list(dict.fromkeys(" ".join(row) + "." for row in drawn))[:count]


class Plain:
    """Batches of 3 rows with 5 tokens, a number for each step."""

    def at(self, step):
        rows = torch.full((3, 6), step)
        return rows[:, :-1], rows[:, 1:]


@pytest.mark.parametrize(
    "k, wanted",
    [
        (0.2, -4.0),  # 1 token of 5
        (0.4, -3.0),  # 2
        (0.59, -3.0),  # 2.95: rounded down
        (0.01, -4.0),  # at least one
        (1.0, -1.28),
    ],
)
def test_min_k_is_the_mean_of_the_lowest_share(k, wanted):
    logprobs = [-0.1, -4.0, -0.2, -2.0, -0.1]
    assert min_k_prob(logprobs, k) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "logprobs, k", [([], 0.2), ([-1.0], 0.0), ([-1.0], 20)]
)
def test_min_k_wants_tokens_and_a_share(logprobs, k):
    with pytest.raises(ValueError, match="expected"):
        min_k_prob(logprobs, k)


def test_the_permutation_test_agrees_with_every_division_there_is():
    suspect, fresh = [3.0, 1.5, 2.5], [2.0, 0.0, 1.0, 2.2]
    pooled = suspect + fresh
    divisions = list(combinations(pooled, 3))
    wanted = np.mean([sum(d) >= sum(suspect) - 1e-9 for d in divisions])
    found = permutation_test(suspect, fresh, draws=40_000)
    assert found == pytest.approx(wanted, abs=0.01)


def test_the_permutation_test_looks_one_way_and_repeats_itself():
    high, low = [5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0]
    assert permutation_test(high, low) < 0.03  # 1 of 70
    assert permutation_test(low, high) == 1.0
    assert permutation_test(high, low) == permutation_test(high, low)
    assert permutation_test([2.0] * 4, [2.0] * 4) == 1.0


def test_a_test_of_few_draws_is_never_certain():
    assert permutation_test([9.0] * 9, [0.0] * 9, draws=99) >= 0.01


def test_without_a_leak_its_result_is_spread_evenly():
    source = np.random.default_rng(0)
    found = [
        permutation_test(*source.normal(size=(2, 10)), draws=200)
        for _ in range(400)
    ]
    for level in (0.05, 0.25, 0.5, 0.75):
        share = np.mean(np.array(found) <= level)
        assert share == pytest.approx(level, abs=0.06)


def test_the_auc_counts_pairs_and_a_tie_as_half():
    assert auc([1.0], [1.0]) == 0.5
    assert auc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert auc([0.0, 1.0], [2.0, 3.0]) == 0.0
    suspect, fresh = [1.0, 2.0, 2.0], [0.0, 2.0]
    wins = sum((a > b) + 0.5 * (a == b) for a in suspect for b in fresh)
    assert auc(suspect, fresh) == wins / 6


@pytest.mark.parametrize("test", [auc, permutation_test])
@pytest.mark.parametrize(
    "suspect, fresh", [([], [1.0]), ([1.0], []), ([float("nan")], [1.0])]
)
def test_both_sides_are_there_and_finite(test, suspect, fresh):
    with pytest.raises(ValueError, match="finite number for each"):
        test(suspect, fresh)


def test_leaked_rows_hold_whole_documents_from_their_beginning():
    documents = [[1, 2], [3, 4, 5]]
    x, y = LeakedBatches(Plain(), documents, rows=2, end_of_text=END).at(7)
    assert x.shape == y.shape == (3, 5)
    assert x[0].tolist() == [7] * 5  # the first row is as it was
    for row in torch.cat([x, y[:, -1:]], dim=1)[1:].tolist():
        assert row in ([END, 1, 2, END, 3, 4], [END, 3, 4, 5, END, 1])
    assert torch.equal(x[1:, 1:], y[1:, :-1])


def test_each_document_leaks_as_often_as_the_others():
    documents = [[n] * 4 for n in range(10)]

    class Wide:
        def at(self, step):
            return torch.zeros(2, 100).long(), torch.zeros(2, 100).long()

    batches = LeakedBatches(Wide(), documents, rows=1, end_of_text=END)
    x, _ = batches.at(0)  # 100 tokens are each of ten documents twice
    counts = torch.bincount(x[1], minlength=10)[:10]
    assert counts.tolist() == [8] * 10


def test_the_order_is_the_step_s_and_the_seed_s_own():
    documents = [[n, n] for n in range(20)]

    def rows(step, seed=0):
        leaked = LeakedBatches(Plain(), documents, 3, END, seed)
        return leaked.at(step)[0].tolist()

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)
    assert rows(0) != rows(0, seed=1)


def test_no_rows_leak_nothing_and_too_many_are_refused():
    x, y = LeakedBatches(Plain(), [[1]], 0, END).at(4)
    plain = Plain().at(4)
    assert torch.equal(x, plain[0]) and torch.equal(y, plain[1])
    with pytest.raises(ValueError, match="4 rows should leak"):
        LeakedBatches(Plain(), [[1]], 4, END).at(0)
    for documents, count in (([], 1), ([[1]], -1)):
        with pytest.raises(ValueError, match="at least one document"):
            LeakedBatches(Plain(), documents, count, END)


@pytest.fixture(scope="module")
def small():
    """A model that has learned sentences of the kind, but none of these."""
    learned = sentences(400, seed=1)
    tokenizer = BPETokenizer.train(learned, 280)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=32,
        n_layer=1,
        n_head=2,
        n_embd=32,
    )
    model = GPT(config, torch.Generator().manual_seed(0))
    run(model, tokenizer, learned, steps=60)
    return model, tokenizer


def run(model, tokenizer, texts, steps):
    documents = [tokenizer.encode(text) for text in texts]

    class Nothing:
        def at(self, step):
            return torch.zeros(2, 8, 32).long()

    batches = LeakedBatches(Nothing(), documents, 8, tokenizer.end_of_text)
    settings = TrainConfig(steps=steps, learning_rate=1e-2, warmup_steps=5)
    train(model, batches, settings, progress=False)
    return model.eval()


def test_a_text_s_log_probabilities_are_those_of_the_training_loop(small):
    model, tokenizer = small
    text = sentences(1, seed=5)[0]
    wanted = token_losses(model, tokenizer.encode(text), tokenizer.end_of_text)
    found = token_logprobs(GPTModel(model, tokenizer), [text])
    assert found[0] == pytest.approx((-wanted).tolist(), abs=1e-5)


def test_a_leak_is_found_from_the_model_alone_and_none_is_imagined(small):
    model, tokenizer = small
    texts = sentences(32, seed=2)
    leaked, fresh = texts[:16], texts[16:]

    def look():
        judge = GPTModel(model.eval(), tokenizer)
        return [
            [min_k_prob(p) for p in token_logprobs(judge, half)]
            for half in (leaked, fresh)
        ]

    before = look()
    run(model, tokenizer, leaked, steps=100)
    after = look()
    assert permutation_test(*before) > 0.05
    assert 0.25 < auc(*before) < 0.75
    assert permutation_test(*after) < 0.001
    assert auc(*after) > 0.85
