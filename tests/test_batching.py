"""batching: whatever stands beside a text, it gets what it gets alone."""

from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook.batching import (
    PaddedCache,
    common_prefix,
    document_mask,
    document_numbers,
    generate_batch,
    left_pad,
    logprobs,
    packed_inputs,
    padded_mask,
    positions_of,
    score_pairs,
    shared_prefix,
)
from llmbook.config import GPTConfig
from llmbook.hub import gpt_from_tensors
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.train import packed_loss
from tests.peers import peer_gpt2

SHAPE = {"vocab_size": 60, "context_length": 32, "n_head": 2, "n_embd": 16}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def fresh(**changes):
    """A model whose weights are wide enough for opinions of its own."""
    config = GPTConfig(**{**SHAPE, "n_layer": 2, "init_std": 0.4, **changes})
    return GPT(config, generator=torch.Generator().manual_seed(0)).eval()


MODEL = fresh()
tokens = st.integers(0, SHAPE["vocab_size"] - 1)
texts = st.lists(tokens, min_size=1, max_size=16)
continuations = st.lists(texts, min_size=1, max_size=3)


def row(length, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(60, (length,), generator=source).tolist()


@torch.no_grad()
def alone(model, ids):
    """Log-probabilities (T, V) after each token of ``ids``."""
    return model(torch.tensor([ids]))[0][0].log_softmax(-1)


def scored_alone(model, context, continuation):
    """The definition: a pass for each pair, and nothing shared."""
    predicted = alone(model, [*context, *continuation])[len(context) - 1 : -1]
    wanted = torch.tensor(continuation)
    return (
        predicted.gather(-1, wanted[:, None])[:, 0],
        predicted.argmax(-1) == wanted,
    )


def assert_scores_alone(model, pairs, **how):
    for pair, found in zip(
        pairs, score_pairs(model, pairs, **how), strict=True
    ):
        expected, greedy = scored_alone(model, *pair)
        assert_close(found.logprobs, expected, **CLOSE)
        assert found.greedy.tolist() == greedy.tolist()


def test_rows_end_together():
    ids, pads = left_pad([[1, 2], [3, 4, 5]], pad_id=9)
    assert ids.tolist() == [[9, 1, 2], [3, 4, 5]]
    assert pads.tolist() == [1, 0]


@given(st.lists(texts, min_size=1, max_size=4), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_real_token_sees_real_tokens_up_to_itself(rows, prefix):
    ids, pads = left_pad(rows)
    S = prefix + ids.shape[1]
    for part in range(1, S + 1):  # the last columns, as a cache asks for
        mask = padded_mask(pads, part, S, prefix)
        for b, pad in enumerate(pads.tolist()):
            for query in range(S - part, S):
                seen = mask[b, 0, query - (S - part)].nonzero().flatten()
                padding = range(prefix, prefix + pad)
                expected = {*range(query + 1)} - {*padding} | {query}
                assert {*seen.tolist()} == expected


@given(st.lists(texts, min_size=1, max_size=5), st.integers(0, 59))
@settings(max_examples=40, deadline=None)
def test_padding_changes_no_logit(rows, pad_id):
    ids, pads = left_pad(rows, pad_id)
    T = ids.shape[1]
    mask = padded_mask(pads, T, T)
    cache = PaddedCache(MODEL, pads, T)
    with torch.no_grad():
        logits, _ = MODEL(
            ids,
            attends=cache.masked_attends(mask),
            positions=positions_of(mask),
        )
    assert logits.isfinite().all()  # the padding's too: NaN spreads
    for found, pad, text in zip(logits, pads, rows, strict=True):
        assert_close(found[pad:].log_softmax(-1), alone(MODEL, text), **CLOSE)


@given(st.lists(texts, min_size=1, max_size=5), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_greedy_rows_are_what_they_are_alone(rows, new):
    found = generate_batch(MODEL, rows, new, temperature=0)
    for ids, text in zip(found, rows, strict=True):
        expected = generate(MODEL, text, new, temperature=0)
        assert ids == expected[len(text) :]


@pytest.mark.parametrize(
    "choices", [{}, {"temperature": 2.0, "top_p": 0.9}, {"top_k": 3}]
)
def test_a_drawn_row_is_what_its_own_seed_draws_alone(choices):
    rows = [row(n, seed=n) for n in (1, 9, 4)]
    found = generate_batch(MODEL, rows, 12, seed=5, **choices)
    for seed, ids, text in zip(count(5), found, rows):
        expected = generate(MODEL, text, 12, seed=seed, **choices)
        assert ids == expected[len(text) :]
    later = generate_batch(MODEL, rows[1:], 12, seed=6, **choices)
    assert later == found[1:]


def test_a_generator_draws_the_seed():
    def drawn(source):
        return generate_batch(MODEL, [[1], [1]], 12, generator=source)

    first, again = (torch.Generator().manual_seed(1) for _ in range(2))
    once = drawn(first)
    assert once == drawn(again)
    assert once != drawn(first)
    assert once[0] != once[1]


def test_rows_that_stop_leave_the_batch(monkeypatch):
    rows = [row(n, seed=n) for n in (2, 7, 5)]
    free = generate_batch(MODEL, rows, 16, temperature=0)
    stops = [free[0][3], free[1][1]]
    widths = []
    keep = PaddedCache.keep

    def watched(cache, left):
        keep(cache, left)
        widths.append(cache.keys.shape[1])

    monkeypatch.setattr(PaddedCache, "keep", watched)
    found = generate_batch(MODEL, rows, 16, temperature=0, stop_tokens=stops)
    for ids, whole, text in zip(found, free, rows, strict=True):
        expected = generate(MODEL, text, 16, temperature=0, stop_tokens=stops)
        assert ids == expected[len(text) :] == whole[: len(ids)]
    assert widths and widths == sorted(widths, reverse=True)


def test_a_function_may_say_where_a_row_ends():
    rows = [row(n, seed=n) for n in (2, 7)]
    seen = []

    def stop(ids):
        seen.append(list(ids))
        return len(ids) >= 2 and sum(ids[-2:]) % 3 == 0

    found = generate_batch(MODEL, rows, 20, temperature=0, stop=stop)
    free = generate_batch(MODEL, rows, 20, temperature=0)
    for ids, whole in zip(found, free, strict=True):
        ends = [n for n in range(2, 21) if sum(whole[n - 2 : n]) % 3 == 0]
        assert ids == whole[: min(ends, default=20)]
        assert all(ids[:n] in seen for n in range(1, len(ids) + 1))


def test_no_new_tokens_are_none():
    assert generate_batch(MODEL, [[1], [2, 3]], 0) == [[], []]


@given(texts, st.lists(texts, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_shared_prefix_changes_no_generation(before, rows):
    before, rows = before[:12], [before[:12] + text[:12] for text in rows]
    found = generate_batch(
        MODEL, rows, 6, temperature=0, prefix=shared_prefix(MODEL, before)
    )
    assert found == generate_batch(MODEL, rows, 6, temperature=0)


@given(
    st.lists(st.tuples(texts, continuations), min_size=1, max_size=4),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_pairs_are_scored_as_they_are_alone(questions, batch_size):
    pairs = [(q, a) for q, answers in questions for a in answers]
    assert_scores_alone(MODEL, pairs, batch_size=batch_size)


@given(
    texts,
    st.lists(
        st.tuples(st.lists(tokens, max_size=6), continuations),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=40, deadline=None)
def test_a_shared_prefix_changes_no_score(before, questions):
    before = before[:10]
    prefix = shared_prefix(MODEL, before)
    pairs = [(before + q, a) for q, answers in questions for a in answers]
    assert_scores_alone(MODEL, pairs, prefix=prefix)


def test_a_prefix_may_be_all_that_comes_before():
    for length in (5, 32):  # 32: the whole context
        before = row(length)
        pairs = [(before, [token]) for token in (1, 2)]
        prefix = shared_prefix(MODEL, before)
        expected = alone(MODEL, before)[-1]
        for found, token in zip(
            score_pairs(MODEL, pairs, prefix=prefix), (1, 2), strict=True
        ):
            assert_close(found.logprobs, expected[[token]], **CLOSE)


def test_scores_come_in_the_order_of_the_pairs():
    contexts = [row(n, seed=n) for n in (9, 2, 9, 5)]
    pairs = [(c, row(n + 1, seed=n)) for n, c in enumerate(contexts)]
    pairs = [*pairs, (contexts[1], [3]), pairs[0]]  # shared, and twice
    assert_scores_alone(MODEL, pairs, batch_size=2)


def test_a_likeliest_continuation_is_called_greedy():
    ids = generate(MODEL, [7, 8], 5, temperature=0)
    other = [*ids[:-1], (ids[-1] + 1) % 60]
    found = score_pairs(MODEL, [(ids[:2], ids[2:]), (ids[:2], other[2:])])
    assert found[0].greedy.tolist() == [True] * 5
    assert found[1].greedy.tolist() == [True] * 4 + [False]


def test_a_pair_may_fill_the_context_and_one_more():
    pairs = [(row(30), row(3, seed=1)), (row(1), row(32, seed=2))]
    for pair, found in zip(pairs, score_pairs(MODEL, pairs), strict=True):
        context, continuation = pair
        predicted = alone(MODEL, [*context, *continuation][:-1])
        expected = predicted[len(context) - 1 :].gather(
            -1, torch.tensor(continuation)[:, None]
        )
        assert_close(found.logprobs, expected[:, 0], **CLOSE)


def test_a_row_of_many_answers_is_no_longer_than_the_context():
    model, widths = fresh(), []
    model.token_embedding.register_forward_hook(
        lambda module, inputs, output: widths.append(output.shape[1])
    )
    pairs = [(row(14), row(7, seed=n)) for n in range(8)]
    score_pairs(model, pairs, batch_size=1)
    assert widths == [32, 32, 26]  # 14 + 3 x 6, twice, and 14 + 2 x 6
    assert_scores_alone(MODEL, pairs)


def test_answers_of_one_token_cost_a_single_reading():
    model, shapes = fresh(), []
    model.token_embedding.register_forward_hook(
        lambda module, inputs, output: shapes.append(output.shape[:2])
    )
    score_pairs(model, [(row(9), [letter]) for letter in range(4)])
    assert shapes == [(1, 9)]


def test_the_heads_slices_join_up(monkeypatch):
    pairs = [(row(3), row(9, seed=n)) for n in range(3)]
    whole = score_pairs(MODEL, pairs)
    monkeypatch.setattr("llmbook.batching.scoring.HEAD_TOKENS", 4)
    for one, other in zip(whole, score_pairs(MODEL, pairs), strict=True):
        assert_close(one.logprobs, other.logprobs)


def test_log_probabilities_of_rows_are_those_alone():
    rows = [row(n, seed=n) for n in (2, 30, 11)]
    for found, ids in zip(logprobs(MODEL, rows), rows, strict=True):
        expected, _ = scored_alone(MODEL, ids[:1], ids[1:])
        assert_close(found, expected, **CLOSE)


def test_what_rows_begin_with_leaves_a_token_of_each():
    assert common_prefix([[1, 2, 3], (1, 2, 4, 5)]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 4]]) == [1]
    assert common_prefix([[1, 2], [3]]) == []


def test_documents_begin_with_their_end_of_text_token():
    ids = torch.tensor([[0, 5, 6, 0, 0, 7], [5, 0, 6, 7, 8, 9]])
    assert document_numbers(ids, 0).tolist() == [
        [2, 2, 2, 3, 4, 4],
        [1, 2, 2, 2, 2, 2],
    ]


@given(st.lists(texts, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_packed_documents_have_the_logits_they_have_alone(texts):
    ids = torch.tensor([[token for text in texts for token in text]])
    numbers = [n for n, text in enumerate(texts, 1) for _ in text]
    documents = torch.tensor([numbers])
    with torch.no_grad():
        packed, _ = MODEL(ids, **packed_inputs(documents, 2))
    packed = packed[0].log_softmax(-1).split([len(text) for text in texts])
    for found, text in zip(packed, texts, strict=True):
        assert_close(found, alone(MODEL, text), **CLOSE)


def test_the_loss_of_packed_documents_is_their_losses_mean():
    texts = [[0, *row(n, seed=n)] for n in (3, 8, 5)]  # 0 ends each text
    ids = torch.tensor([[*texts[0], *texts[1], *texts[2], 0]])
    documents = document_numbers(ids, 0)[:, :-1]
    each = packed_inputs(documents, 2)
    _, loss = MODEL(ids[:, :-1], ids[:, 1:], **each)
    scores = [scored_alone(MODEL, [0], [*text[1:], 0]) for text in texts]
    assert_close(loss, -torch.cat([found for found, _ in scores]).mean())
    loss.backward()  # packed rows can be learned from
    assert MODEL.token_embedding.weight.grad.isfinite().all()
    MODEL.zero_grad()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_reaches_the_attention_of_packed_documents(dropout):
    model = fresh(dropout=dropout).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0  # the weights' alone is left
    ids = torch.tensor([[0, *row(9), 0, *row(9, seed=1)]])

    def different():
        x, y = ids[:, :-1], ids[:, 1:]
        return len({packed_loss(model, x, y, 0).item() for _ in range(4)})

    with torch.no_grad():
        assert different() == (4 if dropout else 1)
        model.eval()
        assert different() == 1


def test_a_document_sees_itself_and_what_is_shared():
    mask = document_mask(torch.tensor([[0, 1, 1, 2, -1]]))[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_left_padding_equals_transformers_with_left_padding():
    theirs = peer_gpt2(n_positions=32, initializer_range=0.4, pad_token_id=0)
    ours = gpt_from_tensors(theirs.state_dict(), fresh().config)
    rows = [row(n, seed=n) for n in (3, 11, 6)]
    ids, pads = left_pad(rows)
    real = (torch.arange(11) >= pads[:, None]).long()
    expected = theirs.generate(
        ids,
        attention_mask=real,
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
    )
    found = generate_batch(ours, rows, 10, temperature=0)
    assert found == expected[:, 11:].tolist()
    with torch.no_grad():
        logits = theirs(
            ids,
            attention_mask=real,
            position_ids=(real.cumsum(-1) - 1).clamp(min=0),
        ).logits
    scores = logprobs(ours, rows)
    for wanted, pad, text, ours_found in zip(
        logits, pads, rows, scores, strict=True
    ):
        predicted = wanted[pad:-1].log_softmax(-1)
        target = torch.tensor(text[1:])[:, None]
        assert_close(ours_found, predicted.gather(-1, target)[:, 0], **CLOSE)


def test_dropout_is_off_and_comes_back():
    model = fresh(dropout=0.5).train()
    pairs = [(row(4), row(3, seed=1))]
    first, second = (score_pairs(model, pairs)[0].logprobs for _ in range(2))
    assert torch.equal(first, second)
    again = generate_batch(model, [[1]], 9, temperature=0)
    assert again == generate_batch(model, [[1]], 9, temperature=0)
    assert model.training


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_rows_without_tokens_are_refused(rows):
    with pytest.raises(ValueError, match="at least one"):
        left_pad(rows)


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match="Keep the prompt's last 22 tokens"):
        generate_batch(MODEL, [[1], row(23)], 10)
    assert len(generate_batch(MODEL, [row(22)], 10)[0]) == 10


@pytest.mark.parametrize("count", [-1, 2.0, True])
def test_a_count_that_is_none_is_refused(count):
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate_batch(MODEL, [[1]], count)


def test_a_seed_and_a_generator_are_refused():
    with pytest.raises(ValueError, match="one of the two"):
        generate_batch(MODEL, [[1]], 1, seed=1, generator=torch.Generator())


def test_a_text_that_begins_otherwise_is_refused():
    prefix = shared_prefix(MODEL, [1, 2, 3])
    with pytest.raises(ValueError, match="the prefix included"):
        generate_batch(MODEL, [[1, 2, 4, 5]], 1, prefix=prefix)
    with pytest.raises(ValueError, match="the prefix included"):
        score_pairs(MODEL, [([1, 2], [3])], prefix=prefix)


@pytest.mark.parametrize("pair", [([], [1]), ([1], [])])
def test_a_pair_without_tokens_is_refused(pair):
    with pytest.raises(ValueError, match="at least one each"):
        score_pairs(MODEL, [pair])


def test_a_pair_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="reads 32 and predicts one more"):
        score_pairs(MODEL, [(row(30), row(4))])


def test_an_id_out_of_range_is_refused_even_at_the_end():
    with pytest.raises(ValueError, match="ids 0 to 59"):
        score_pairs(MODEL, [([1], [60])])


def test_a_prompt_that_is_the_prefix_itself_is_refused():
    prefix = shared_prefix(MODEL, [5, 6, 7])
    with pytest.raises(ValueError, match="prefix of 3 tokens and no more"):
        generate_batch(MODEL, [[5, 6, 7], [5, 6, 7, 8]], 2, prefix=prefix)
