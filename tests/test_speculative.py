"""Speculative decoding: whatever drafts, the text is the model's own."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.ngram import KneserNey, NGramModel
from llmbook.sampling import filtered, generate
from llmbook.speculative import (
    CachedReader,
    Chance,
    counting_draft,
    distribution,
    expected_speed,
    expected_tokens,
    judge,
    residual,
    speculate,
)
from tests.references import LLAMA, spread

TINY = GPTConfig(vocab_size=3, context_length=8, n_layer=1, n_head=1, n_embd=8)
SMALL = GPTConfig(
    vocab_size=40, context_length=48, n_layer=2, n_head=2, n_embd=16
)


def opinionated(config: GPTConfig, seed: int) -> GPT:
    model = spread(config, seed)
    with torch.no_grad():
        model.head_weight.mul_(20)
    return model


class OnePath(Chance):
    """Goes one way at every decision, and notes the ways not gone."""

    def __init__(self, path):
        self.path, self.gone, self.weight, self.turns = path, [], 1.0, []

    def choose(self, shares):
        place = len(self.gone)
        open_ways = [way for way, share in enumerate(shares) if share > 0]
        way = self.path[place] if place < len(self.path) else open_ways[0]
        if place >= len(self.path):
            self.turns += [[*self.gone, other] for other in open_ways[1:]]
        self.gone.append(way)
        self.weight *= shares[way]
        return way

    def yes(self, probability):
        probability = min(1.0, probability)
        return bool(self.choose([1 - probability, probability]))

    def draw(self, weights):
        return self.choose((weights / weights.sum()).tolist())


def every_path(run):
    """What ``run(chance)`` returns on every path, and how likely it is."""
    paths = [[]]
    while paths:
        chance = OnePath(paths.pop())
        yield run(chance), chance.weight
        paths += chance.turns


def outcomes(run) -> dict:
    total: dict = {}
    for outcome, weight in every_path(run):
        total[outcome] = total.get(outcome, 0.0) + weight
    assert math.isclose(sum(total.values()), 1.0, rel_tol=1e-12)
    return total


def shares(size: int):
    """Probabilities of ``size`` tokens, some of them 0."""
    numbers = st.lists(st.integers(0, 9), min_size=size, max_size=size)
    return numbers.filter(any).map(
        lambda n: torch.tensor(n, dtype=torch.double) / sum(n)
    )


@settings(max_examples=60, deadline=None)
@given(p=shares(5), q=shares(5))
def test_a_judged_draft_has_the_model_s_distribution(p, q):
    def run(chance):
        draft = chance.draw(q)
        stood, token = judge([p, p], [q], [draft], chance)
        return draft if stood else token

    found = outcomes(run)
    for token in range(5):
        assert abs(found.get(token, 0.0) - float(p[token])) < 1e-12


@settings(max_examples=25, deadline=None)
@given(p=shares(3), q=shares(3), ahead=st.integers(1, 3))
def test_tokens_for_a_pass_are_those_of_the_formula(p, q, ahead):
    def run(chance):
        drafts = [chance.draw(q) for _ in range(ahead)]
        return judge([p] * (ahead + 1), [q] * ahead, drafts, chance)[0] + 1

    mean = sum(n * weight for n, weight in outcomes(run).items())
    overlap = float(torch.minimum(p, q).sum())  # Leviathan et al., theorem 3.5
    assert math.isclose(mean, expected_tokens(overlap, ahead), rel_tol=1e-12)


def alone(model, prompt, count, stop=(), **choices) -> dict:
    """How likely each text of ``count`` tokens is, from uncached passes."""
    found = {(): 1.0}
    for _ in range(count):
        longer: dict = {}
        for text, weight in found.items():
            if text and text[-1] in stop:
                longer[text] = weight
                continue
            logits, _ = model(torch.tensor([[*prompt, *text]]))
            last = logits[0, -1].double()
            p = filtered(last, **choices).softmax(-1).tolist()
            for token, share in enumerate(p):
                if share > 0:
                    longer[(*text, token)] = weight * share
        found = longer
    return found


@pytest.mark.parametrize("ahead", [1, 2, 3])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"temperature": 0.7, "top_k": 2},
        {"temperature": 1.4, "top_p": 0.8, "min_p": 0.1},
    ],
    ids=["plain", "top-k", "top-p"],
)
@torch.no_grad()
def test_every_text_is_exactly_as_likely_as_from_the_model_alone(
    ahead, choices
):
    model = opinionated(TINY, 1).double()
    draft = opinionated(TINY, 2).double()

    def run(chance):
        done = speculate(
            model, draft, [2, 1], 3, ahead=ahead, chance=chance, **choices
        )
        return tuple(done.ids[2:])

    found, expected = outcomes(run), alone(model, [2, 1], 3, **choices)
    for text in {*found, *expected}:
        difference = found.get(text, 0.0) - expected.get(text, 0.0)
        assert abs(difference) < 1e-12, text


@torch.no_grad()
def test_texts_that_stop_are_as_likely_as_from_the_model_alone():
    model = opinionated(TINY, 3).double()
    draft = opinionated(TINY, 4).double()

    def run(chance):
        done = speculate(
            model, draft, [1], 3, ahead=2, stop_tokens=[0], chance=chance
        )
        return tuple(done.ids[1:])

    found, expected = outcomes(run), alone(model, [1], 3, stop=[0])
    assert found.keys() == expected.keys()
    for text, weight in expected.items():
        assert abs(found[text] - weight) < 1e-12, text


def test_over_many_seeds_the_draws_follow_the_model():
    config = GPTConfig(
        vocab_size=5, context_length=8, n_layer=1, n_head=1, n_embd=8
    )
    model, draft = opinionated(config, 1), opinionated(config, 2)
    count = 800
    found = Counter(
        tuple(speculate(model, draft, [2], 2, ahead=2, seed=seed).ids[1:])
        for seed in range(count)
    )
    with torch.no_grad():
        expected = alone(model, [2], 2)
    rare = {text for text, share in expected.items() if share * count < 5}
    groups = [[text] for text in expected if text not in rare] + [list(rare)]
    chi_square = 0.0
    for group in filter(None, groups):
        hoped = count * sum(expected[text] for text in group)
        chi_square += (sum(found[text] for text in group) - hoped) ** 2 / hoped
    assert len(groups) == 15
    assert chi_square < 36.12  # one in a thousand at 14 degrees of freedom


SHAPES = {
    "gpt-2": {},
    "llama": {**LLAMA, "n_kv_head": 1},
    "window": {**LLAMA, "n_kv_head": 1, "window": 5},
    "alibi": {"positions": "alibi"},
}


def shaped(shape: str) -> GPT:
    config = GPTConfig(
        vocab_size=12,
        context_length=48,
        n_layer=2,
        n_head=2,
        n_embd=16,
        tie_weights=False,
        **SHAPES[shape],
    )
    return opinionated(config, 1).double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ahead", [1, 4, 9])
def test_greedy_it_is_the_model_s_own_text(shape, ahead):
    model = shaped(shape)
    reader = CachedReader(model, 48)

    def wrong_now_and_then(ids):
        source = torch.Generator().manual_seed(len(ids))
        logits = reader.logits(ids)[0]
        noise = torch.randn(12, generator=source).to(logits)
        return logits + 0.7 * logits.std() * noise

    done = speculate(
        model, wrong_now_and_then, [1, 2], 40, ahead=ahead, temperature=0
    )
    assert done.ids == generate(model, [1, 2], 40, temperature=0)
    assert 0 < done.accepted < done.judged <= done.drafted
    assert done.new == 40


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_reader_goes_back_and_reads_on(shape):
    model = shaped(shape)
    reader = CachedReader(model, 20)
    long = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    texts = ([1, 2, 3], long, [1, 2, 9], [1, 2, 9, 9, 9], [1, 2], [7], long)
    for text in texts:
        full, _ = model(torch.tensor([text]))
        for count in (1, len(text)):
            got = reader.logits(text, count)
            torch.testing.assert_close(got, full[0, -count:])


def test_a_model_that_drafts_for_itself_is_never_refused():
    model = opinionated(SMALL, 1).double()
    done = speculate(model, model, [1], 41, ahead=4, seed=0)
    assert done.acceptance == 1.0
    assert done.passes == 9  # 8 with 4 drafts and one more, then one left
    assert done.new == 41
    assert math.isclose(done.tokens_per_pass, 41 / 9)


def test_without_drafts_every_pass_gives_one_token():
    model = opinionated(SMALL, 1)
    done = speculate(model, model, [1], 5, ahead=0, seed=0)
    assert (done.passes, done.drafted, done.new) == (5, 0, 5)
    assert math.isnan(done.acceptance)
    assert done.tokens_per_pass == 1.0


def test_the_same_seed_gives_the_same_text():
    model, draft = opinionated(SMALL, 1), opinionated(SMALL, 2)
    texts = [
        speculate(model, draft, [1], 20, seed=seed).ids for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_what_stops_inside_the_drafts_ends_there():
    model = opinionated(SMALL, 1)
    free = generate(model, [3], 20, temperature=0)
    stop = free[7]
    expected = free[: free.index(stop, 1) + 1]
    for ahead in (1, 3, 8):
        done = speculate(
            model,
            model,
            [3],
            20,
            ahead=ahead,
            stop_tokens=[stop],
            temperature=0,
        )
        assert done.ids == expected


def test_counts_draft_from_the_newest_document():
    documents = [[1, 2, 3], [1, 2, 4], [2, 4, 1]] * 3
    counts = KneserNey.train(documents, order=3, vocab_size=40)
    draft = counting_draft(counts)
    for ids in ([0, 1, 2], [5, 6, 0, 2], [0], [1, 0, 1, 2, 0], [7] * 9):
        after = len(ids) - ids[::-1].index(0) if 0 in ids else 0
        expected = torch.from_numpy(counts.distribution(ids[after:]))
        torch.testing.assert_close(draft(ids).exp(), expected)
    model = opinionated(SMALL, 1)
    done = speculate(model, draft, [0, 1], 30, temperature=0)
    assert done.ids == generate(model, [0, 1], 30, temperature=0)
    assert done.drafted > 0


def test_counts_of_single_tokens_need_no_text():
    counts = NGramModel.train([[1, 1, 2]], order=1, vocab_size=4, k=1.0)
    draft = counting_draft(counts)
    expected = torch.from_numpy(counts.distribution([]))
    torch.testing.assert_close(draft([3, 2]).exp(), expected)


def test_the_distribution_is_that_of_sampling():
    logits = 3 * torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    p = distribution(logits, temperature=0.7, top_k=5, top_p=0.9)
    expected = filtered(logits.double(), 0.7, top_k=5, top_p=0.9).softmax(-1)
    torch.testing.assert_close(p, expected)
    greedy = distribution(torch.zeros(1, 3), temperature=0)
    assert greedy.tolist() == [[1.0, 0.0, 0.0]]


def test_a_repetition_penalty_sees_what_stands_before_each_token():
    logits = torch.ones(3, 4)  # after 2, after 2 0, after 2 0 0
    p = distribution(logits, [2, 0, 0], repetition_penalty=2.0)
    low, high = 0.5, 1.0
    expected = [
        [high, high, low, high],
        [low, high, low, high],
        [low, high, low, high],
    ]
    torch.testing.assert_close(p, torch.tensor(expected).double().softmax(-1))
    model, draft = opinionated(SMALL, 1), opinionated(SMALL, 2)
    choices = {"temperature": 0, "repetition_penalty": 4.0}
    done = speculate(model, draft, [1, 2], 40, **choices)
    assert done.ids == generate(model, [1, 2], 40, **choices)
    assert len(set(done.ids)) > 10


def test_the_residual_worked_by_hand():
    p = torch.tensor([0.5, 0.3, 0.2])
    q = torch.tensor([0.7, 0.1, 0.2])
    left = residual(p, q)
    torch.testing.assert_close(left, torch.tensor([0.0, 0.2, 0.0]))
    assert torch.equal(residual(p, p), p)


def test_the_formulas_worked_by_hand():
    assert expected_tokens(0.0, 4) == 1.0
    assert expected_tokens(1.0, 4) == 5.0
    assert math.isclose(expected_tokens(0.8, 5), (1 - 0.8**6) / 0.2)
    assert math.isclose(expected_speed(0.8, 5, 0.1), (1 - 0.8**6) / 0.2 / 1.5)


def test_speculating_leaves_the_modes_as_they_were():
    model, draft = opinionated(SMALL, 1).train(), opinionated(SMALL, 2)
    speculate(model, draft, [1], 3)
    assert model.training and not draft.training


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"draft": spread(TINY)}, "the draft's vocabulary has 3 tokens"),
        ({"draft": lambda ids: torch.zeros(7)}, "has 7 tokens"),
        ({"prompt": []}, "at least one token"),
        ({"max_new_tokens": 48}, "48 of the model's context"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"ahead": 1.5}, "ahead is 1.5"),
        ({"seed": 1, "chance": Chance()}, "give one of the two"),
        ({"draft": lambda ids: torch.full((40,), -math.inf)}, "no finite"),
        ({"draft": lambda ids: torch.full((40,), math.nan)}, "NaN"),
    ],
)
def test_what_cannot_work_is_refused(changes, words):
    model = spread(SMALL)
    arguments = {
        "draft": model,
        "prompt": [1],
        "max_new_tokens": 4,
        **changes,
    }
    with pytest.raises(ValueError, match=words):
        speculate(model, **arguments)


def test_a_draft_with_a_shorter_context_is_refused():
    short = GPT(
        GPTConfig(
            vocab_size=40, context_length=8, n_layer=1, n_head=1, n_embd=8
        )
    )
    with pytest.raises(ValueError, match="8 of the draft's context"):
        speculate(spread(SMALL), short, [1], 10)


def test_numbers_without_texts_are_refused_by_the_reader_s_cache():
    reader = CachedReader(spread(SMALL), 4)
    with pytest.raises(ValueError, match="do not fit"), torch.no_grad():
        reader.logits(list(itertools.repeat(1, 5)))
