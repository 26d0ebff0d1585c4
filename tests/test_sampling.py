"""Sampling, against Hugging Face's warpers and against itself."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.sampling import (
    apply_temperature,
    filtered,
    generate,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    sample,
    stream,
)

CONFIG = GPTConfig(
    vocab_size=61, context_length=16, n_layer=2, n_head=2, n_embd=16
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    model = GPT(CONFIG).eval()
    with torch.no_grad():  # spread the logits: at 0.02 all are near equal
        for weight in model.parameters():
            weight.mul_(8.0)
    return model


def random_logits(seed, rows=3, size=50):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, size, generator=generator)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda x: apply_temperature(x, 0.7),
            hf.TemperatureLogitsWarper(0.7),
        ),
        (lambda x: keep_top_k(x, 7), hf.TopKLogitsWarper(7)),
        (lambda x: keep_top_k(x, 500), hf.TopKLogitsWarper(500)),
        (lambda x: keep_top_p(x, 0.9), hf.TopPLogitsWarper(0.9)),
        (lambda x: keep_top_p(x, 0.01), hf.TopPLogitsWarper(0.01)),
        (lambda x: keep_min_p(x, 0.1), hf.MinPLogitsWarper(0.1)),
    ],
)
def test_each_filter_equals_transformers(ours, theirs, seed):
    logits = random_logits(seed)
    torch.testing.assert_close(ours(logits), theirs(None, logits))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_equals_transformers(penalty, seed):
    logits = random_logits(seed)
    source = torch.Generator().manual_seed(seed)
    seen = torch.randint(50, (3, 20), generator=source)  # some twice
    theirs = hf.RepetitionPenaltyLogitsProcessor(penalty)
    before = logits.clone()
    expected = theirs(seen, logits.clone())
    torch.testing.assert_close(penalise(logits, seen, penalty), expected)
    assert torch.equal(logits, before)  # what the model gave is left alone


@pytest.mark.parametrize("seed", range(5))
def test_the_filters_together_equal_transformers_in_its_order(seed):
    logits = random_logits(seed)
    warpers = hf.LogitsProcessorList(
        [
            hf.TemperatureLogitsWarper(1.3),
            hf.TopKLogitsWarper(20),
            hf.TopPLogitsWarper(0.8),
            hf.MinPLogitsWarper(0.05),
        ]
    )
    ours = filtered(logits, 1.3, top_k=20, top_p=0.8, min_p=0.05)
    torch.testing.assert_close(ours, warpers(None, logits))


def test_top_p_worked_by_hand():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    kept = {
        p: keep_top_p(logits, p).isfinite().sum().item()
        for p in (0.1, 0.39, 0.5, 0.69, 0.85, 1.0)
    }
    assert kept == {0.1: 1, 0.39: 1, 0.5: 2, 0.69: 2, 0.85: 3, 1.0: 4}


def test_ties_stay_in_top_k_and_go_by_id_in_top_p():
    logits = torch.tensor([1.0, 2.0, 2.0, 0.0])
    assert keep_top_k(logits, 1).isfinite().tolist() == [
        False,
        True,
        True,
        False,
    ]
    equal = torch.zeros(4)
    assert keep_top_p(equal, 0.5).isfinite().tolist() == [
        True,
        True,
        False,
        False,
    ]


@given(
    st.integers(0, 10_000),
    st.floats(0.05, 5.0),
    st.integers(1, 60),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_some_token_always_stays_and_the_likeliest_with_it(
    seed, temperature, k, p, fraction
):
    logits = random_logits(seed)
    kept = filtered(logits, temperature, top_k=k, top_p=p, min_p=fraction)
    best = logits.argmax(dim=-1, keepdim=True)
    assert kept.gather(-1, best).isfinite().all()
    changed = kept.isfinite() & (kept != logits / temperature)
    assert not changed.any()


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    generator = torch.Generator().manual_seed(0)
    rows = logits.expand(20_000, -1)
    counts = sample(rows, generator).bincount(minlength=4).double()
    expected = 20_000 * logits[0].double().exp()
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 16.27  # 3 degrees of freedom, one in a thousand


def test_greedy_takes_the_lowest_id_among_equals():
    assert sample(torch.zeros(1, 5), temperature=0).tolist() == [0]


@pytest.mark.parametrize("seed", range(4))
def test_the_cache_changes_no_token(model, seed):
    prompt = [1, 2, 3, 4, 5]
    choices = dict(seed=seed, temperature=0.9, top_k=20)
    cached = generate(model, prompt, 11, use_cache=True, **choices)
    plain = generate(model, prompt, 11, use_cache=False, **choices)
    assert cached == plain
    assert len(cached) == 16


def test_past_the_context_the_window_slides(model):
    ids = generate(model, [7], 40, temperature=0)
    assert len(ids) == 41
    for end in range(17, 41):
        window = torch.tensor([ids[end - 16 : end]])
        logits, _ = model(window)
        assert ids[end] == logits[0, -1].argmax().item()


def test_the_penalty_counts_the_prompt_and_what_was_written(model):
    row = [3, 1]
    for _ in range(12):
        logits, _ = model(torch.tensor([row]))
        scores = logits[0, -1]
        for token in set(row):  # by the definition, one by one
            up = scores[token] > 0
            scores[token] = scores[token] / 3 if up else scores[token] * 3
        row.append(int(scores.argmax()))
    choices = {"temperature": 0, "repetition_penalty": 3.0}
    assert generate(model, [3, 1], 12, **choices) == row
    assert list(stream(model, [3, 1], 12, **choices)) == row[2:]
    assert generate(model, [3, 1], 12, temperature=0) != row
    high = generate(model, [3], 15, temperature=0, repetition_penalty=1e9)
    assert len(set(high)) == len(high)


def test_greedy_equals_an_argmax_loop(model):
    ids = torch.tensor([[3, 1]])
    for _ in range(8):
        logits, _ = model(ids)
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert generate(model, [3, 1], 8, temperature=0) == ids[0].tolist()


def test_a_batch_gives_each_prompt_what_it_gets_alone(model):
    prompts = torch.tensor([[1, 2, 3], [9, 8, 7], [5, 5, 5]])
    together = generate(model, prompts, 10, temperature=0)
    alone = [
        generate(model, row.tolist(), 10, temperature=0) for row in prompts
    ]
    assert together == alone


def test_a_stop_token_ends_its_row_and_is_kept(model):
    free = generate(model, [2], 12, temperature=0)
    stop = free[4]
    first = free.index(stop, 1)
    stopped = generate(model, [2], 12, temperature=0, stop_tokens=[stop])
    assert stopped == free[: first + 1]


def test_stream_yields_what_generate_returns(model):
    ids = generate(model, [4, 4], 9, seed=5)
    assert list(stream(model, [4, 4], 9, seed=5)) == ids[2:]
    few = itertools.islice(stream(model, [4, 4], 9, seed=5), 3)
    assert list(few) == ids[2:5]


def test_generating_leaves_the_mode_of_the_model_as_it_was(model):
    model.train()
    generate(model, [1], 2)
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: apply_temperature(x, 0), "temperature"),
        (lambda x: apply_temperature(x, float("nan")), "temperature"),
        (lambda x: keep_top_k(x, 0), "top_k"),
        (lambda x: keep_top_k(x, True), "top_k"),
        (lambda x: keep_top_p(x, 0), "top_p"),
        (lambda x: keep_top_p(x, 1.5), "top_p"),
        (lambda x: keep_min_p(x, -0.1), "min_p"),
        (lambda x: penalise(x, torch.tensor([[0]]), 0), "penalty"),
        (lambda x: penalise(x, torch.tensor([[0]]), -1), "penalty"),
        (lambda x: penalise(x, torch.tensor([[0]]), math.inf), "penalty"),
        (lambda x: sample(x * float("nan")), "NaN"),
        (lambda x: sample(torch.tensor([[0.0, math.nan]])), "NaN"),
        (lambda x: sample(torch.full((1, 4), float("-inf"))), "finite"),
    ],
)
def test_values_out_of_range_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(1, 4))


def test_prompts_that_cannot_be_are_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [], 3)
    with pytest.raises(ValueError, match="context holds 16"):
        generate(model, [1] * 17, 3)
    with pytest.raises(ValueError, match="one prompt"):
        next(stream(model, [[1], [2]], 3))
    with pytest.raises(ValueError, match="give one of the two"):
        generate(model, [1], 3, seed=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(model, [1], -1)
    with pytest.raises(ValueError):
        generate(model, [CONFIG.vocab_size], 1)


def test_a_penalty_is_no_coarser_in_16_bits():
    logits = torch.tensor([[5.0, 4.96875, -1.0]])
    seen = torch.tensor([[0, 1]])
    exact = penalise(logits, seen, 1.2)
    assert torch.equal(penalise(logits.bfloat16(), seen, 1.2), exact)
    double = penalise(logits.double(), seen, 1.2)
    assert double.dtype == torch.float64
