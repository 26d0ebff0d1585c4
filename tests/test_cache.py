"""cache.py: what a model computes with a cache equals it without one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook.cache import KVCache
from llmbook.config import GPTConfig
from llmbook.model import GPT
from tests.feeding import fed

CONFIG = GPTConfig(
    vocab_size=50, context_length=12, n_layer=3, n_head=2, n_embd=16
)


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(0)
    return GPT(CONFIG, generator=generator).eval()


def new_cache(batch_size=1):
    return KVCache(3, batch_size, 2, 8, context_length=12)


def ids(batch_size, T, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(50, (batch_size, T), generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1).filter(
        lambda lengths: sum(lengths) <= 12
    ),
    batch_size=st.integers(1, 3),
)
def test_any_way_of_cutting_the_input_gives_the_uncached_logits(
    lengths, batch_size
):
    model = GPT(CONFIG, generator=torch.Generator().manual_seed(1)).eval()
    idx = ids(batch_size, sum(lengths))
    cached = fed(model, idx, lengths, new_cache(batch_size))
    assert_close(cached, model(idx)[0], atol=1e-5, rtol=1e-5)


def test_the_cache_takes_its_memory_once(model):
    cache = new_cache()
    before = cache.keys.data_ptr(), cache.nbytes
    fed(model, ids(1, 12), [5] + [1] * 7, cache)
    assert cache.length == cache.context_length == 12
    assert (cache.keys.data_ptr(), cache.nbytes) == before
    assert cache.nbytes == 2 * 3 * 2 * 12 * 8 * 4


def test_a_full_cache_says_so_and_stays_usable(model):
    cache = new_cache()
    idx = ids(1, 12)
    fed(model, idx, [12], cache)
    with pytest.raises(ValueError, match="holds 12 of 12 tokens"):
        cache.attends()[0](*torch.zeros(3, 1, 2, 1, 8))
    cache.clear()
    again = fed(model, idx, [12], cache)
    assert_close(again, model(idx)[0], atol=1e-5, rtol=1e-5)


def test_the_positions_refuse_too_once_the_context_is_full(model):
    cache = new_cache()
    fed(model, ids(1, 12), [12], cache)
    with pytest.raises(ValueError, match="positions 0 to 11"):
        model(ids(1, 1), attends=cache.attends(), start=cache.length)


@pytest.mark.parametrize("shape", [(2, 2, 1, 8), (1, 3, 1, 8), (1, 2, 1, 4)])
def test_keys_of_another_batch_or_model_are_refused(shape):
    with pytest.raises(ValueError, match="this cache was made for"):
        new_cache().attends()[0](*torch.zeros(3, *shape))


def test_a_pass_that_fails_half_way_leaves_the_length(model):
    cache = new_cache()
    attends = cache.attends()
    attends[0](*torch.zeros(3, 1, 2, 4, 8))
    assert cache.length == 0
    attends[2](*torch.zeros(3, 1, 2, 4, 8))
    assert cache.length == 4


def test_what_is_stored_carries_no_gradient(model):
    cache = new_cache()
    model(ids(1, 4), attends=cache.attends())
    assert not cache.keys.requires_grad


@pytest.mark.parametrize("kept", [0, 1, 5, 9])
def test_a_cache_that_was_cut_goes_on_as_if_it_had_read_no_more(model, kept):
    cache, idx, other = new_cache(), ids(1, 12), ids(1, 12, seed=1)
    fed(model, idx, [9], cache)
    cache.cut(kept)
    text = torch.cat([idx[:, :kept], other[:, kept:]], dim=1)
    rest = fed(model, text, [1, 11 - kept], cache)
    expected = model(text)[0][:, kept:]
    assert_close(rest, expected, atol=1e-5, rtol=1e-5)


def test_a_cache_is_cut_to_what_it_has_read(model):
    cache = new_cache()
    fed(model, ids(1, 12), [4], cache)
    for length in (-1, 5):
        with pytest.raises(ValueError, match="has read 4"):
            cache.cut(length)
    assert cache.length == 4


@pytest.mark.parametrize(("read", "kept"), [(3, 1), (4, 2), (9, 8), (9, 0)])
def test_a_sliding_cache_goes_back_as_far_as_it_remembers(read, kept):
    config = GPTConfig(**{**vars(CONFIG), "window": 4, "positions": "rotary"})
    model = GPT(config, generator=torch.Generator().manual_seed(0)).eval()
    cache = KVCache(3, 1, 2, 8, context_length=12, window=4)
    idx, other = ids(1, 12), ids(1, 12, seed=1)
    fed(model, idx, [read], cache)
    cache.cut(kept)
    text = torch.cat([idx[:, :kept], other[:, kept:]], dim=1)
    rest = fed(model, text, [1, 2, 9 - kept], cache)
    expected = model(text)[0][:, kept:]
    assert_close(rest, expected, atol=1e-5, rtol=1e-5)


def test_a_sliding_cache_says_what_it_has_forgotten():
    cache = KVCache(1, 1, 2, 8, context_length=12, window=4)
    [attend] = cache.attends()
    attend(*torch.zeros(3, 1, 2, 9, 8))
    with pytest.raises(ValueError, match="stores the newest 4"):
        cache.cut(6)
    assert cache.length == 9


def test_rows_can_be_chosen_in_any_order(model):
    cache, idx = new_cache(2), ids(2, 12)
    fed(model, idx, [5], cache)
    cache.select(torch.tensor([1, 1, 0]))
    rows = torch.stack([idx[1], idx[1], idx[0]])
    rest = fed(model, rows, [7], cache)
    assert_close(rest, model(rows)[0][:, 5:], atol=1e-5, rtol=1e-5)
