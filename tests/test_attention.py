"""Attention against PyTorch's own, by hand, and by its properties."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from llmbook.attention import (
    CausalSelfAttention,
    GroupedQueryAttention,
    attention,
    causal_mask,
    check_groups,
    check_shapes,
    grouped_attention,
    masked_attention,
    merge_heads,
    naive_attention,
    new_attention,
    record_weights,
    repeat_heads,
    split_heads,
    window_mask,
)
from llmbook.config import GPTConfig


def draw(B=2, H=3, T=5, S=None, D=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def normal(length):
        shape = (B, H, length, D)
        return torch.randn(shape, generator=generator, dtype=dtype)

    S = T if S is None else S
    return normal(T), normal(S), normal(S)


sizes = st.integers(1, 6)


# The hand-worked case: two tokens, head size 4, scores chosen to be round.


def test_two_tokens_worked_by_hand():
    q = torch.tensor([[[[0.0, 0, 0, 0], [2, 0, 0, 0]]]])
    k = torch.tensor([[[[math.log(3), 0, 0, 0], [0, 0, 0, 0]]]])
    v = torch.tensor([[[[8.0], [4.0]]]])
    # second query: scores 2 ln 3 / sqrt(4) = ln 3 and 0, weights 3/4 and 1/4
    mixed, weights = naive_attention(q, k, v, causal_mask(2))
    assert_close(weights[0, 0], torch.tensor([[1.0, 0.0], [0.75, 0.25]]))
    assert_close(mixed.flatten(), torch.tensor([8.0, 7.0]))


# Against torch.nn.functional and torch.nn


@pytest.mark.parametrize("masked", [False, True])
def test_naive_attention_equals_torch_functional(masked):
    q, k, v = draw()
    mask = causal_mask(5) if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert_close(naive_attention(q, k, v, mask)[0], expected)


@given(B=sizes, H=sizes, T=sizes, more=st.integers(0, 4), D=sizes)
@settings(max_examples=60, deadline=None)
def test_fused_attention_equals_the_naive_one(B, H, T, more, D):
    q, k, v = draw(B, H, T, T + more, D)
    expected, _ = naive_attention(q, k, v, causal_mask(T, T + more))
    assert_close(attention(q, k, v), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_head", [1, 2, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_module_equals_torch_multihead_attention(n_head, bias):
    torch.manual_seed(0)
    C, T = 12, 7
    ours = CausalSelfAttention(GPTConfig(n_head=n_head, n_embd=C, bias=bias))
    theirs = torch.nn.MultiheadAttention(
        C, n_head, bias=bias, batch_first=True
    )
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.out_proj.weight.copy_(ours.output.weight)
        if bias:
            theirs.in_proj_bias.copy_(ours.qkv.bias)
            theirs.out_proj.bias.copy_(ours.output.bias)
    x = torch.randn(3, T, C)
    store = []
    mine = ours(x, attend=record_weights(store))
    expected, weights = theirs(
        x, x, x, attn_mask=~causal_mask(T), average_attn_weights=False
    )
    assert_close(mine, expected, atol=1e-5, rtol=1e-5)
    assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
    assert_close(store[0], weights, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("S", [3, 5])
def test_gradients_agree_with_finite_differences(S):
    inputs = draw(1, 2, 3, S, 2, dtype=torch.float64)
    for each in inputs:
        each.requires_grad_()

    def naive(q, k, v):
        return naive_attention(q, k, v, causal_mask(3, S))[0]

    assert torch.autograd.gradcheck(naive, inputs)
    assert torch.autograd.gradcheck(attention, inputs)


def test_module_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=4)).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


# Properties


@given(T=sizes, more=st.integers(0, 4), D=sizes, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_weights_are_shares_and_nothing_beyond_the_mask(T, more, D, seed):
    S = T + more
    q, k, v = draw(1, 2, T, S, D, seed)
    mask = causal_mask(T, S)
    _, weights = naive_attention(q, k, v, mask)
    assert_close(weights.sum(-1), torch.ones(1, 2, T))
    assert (weights >= 0).all()
    assert (weights[..., ~mask] == 0).all()


@given(T=st.integers(2, 8), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_future_does_not_leak_into_the_past(T, data):
    j = data.draw(st.integers(1, T - 1))
    torch.manual_seed(0)
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8)).eval()
    x = torch.randn(1, T, 8)
    changed = x.clone()
    changed[:, j] += 1000.0
    before, after = layer(x), layer(changed)
    assert_close(before[:, :j], after[:, :j], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, j], after[:, j])


def test_the_future_sends_no_gradient_to_the_past():
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8))
    x = torch.randn(1, 6, 8, requires_grad=True)
    layer(x)[:, 2].sum().backward()
    assert (x.grad[:, 3:] == 0).all()
    assert (x.grad[:, :3].abs().sum(-1) > 0).all()


def test_fewer_queries_than_keys_are_the_last_ones():
    q, k, v = draw(T=6)
    full = attention(q, k, v)
    for T in (1, 2, 5):
        assert_close(attention(q[:, :, -T:], k, v), full[:, :, -T:])


def test_mask_is_a_lower_triangle_aligned_to_the_end():
    assert causal_mask(3).tolist() == [
        [i >= j for j in range(3)] for i in range(3)
    ]
    assert causal_mask(1, 4).all()
    assert causal_mask(2, 4).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_a_context_of_one_token_returns_its_own_value():
    q, k, v = draw(T=1)
    assert_close(attention(q, k, v), v)


def test_merge_heads_undoes_split_heads():
    x = torch.randn(2, 5, 12)
    for n_head in (1, 2, 3, 12):
        heads = split_heads(x, n_head)
        assert heads.shape == (2, n_head, 5, 12 // n_head)
        assert torch.equal(merge_heads(heads), x)


def test_a_head_is_a_run_of_neighbouring_columns():
    x = torch.arange(8.0).view(1, 1, 8)
    assert split_heads(x, 2)[0, 1, 0].tolist() == [4, 5, 6, 7]


def test_without_a_mask_attention_ignores_the_order_of_the_keys():
    q, k, v = draw()
    order = torch.tensor([3, 1, 4, 0, 2])
    one, _ = naive_attention(q, k, v)
    other, _ = naive_attention(q, k[:, :, order], v[:, :, order])
    assert_close(one, other)


# The module's switches


def test_recording_changes_nothing_and_keeps_every_head():
    torch.manual_seed(0)
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8))
    x, store = torch.randn(3, 5, 8), []
    assert_close(layer(x, attend=record_weights(store)), layer(x))
    assert [w.shape for w in store] == [(3, 2, 5, 5)]
    assert not store[0].requires_grad


def test_dropout_acts_in_training_and_only_there():
    torch.manual_seed(0)
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8, dropout=0.5))
    x = torch.randn(1, 16, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_another_way_of_mixing_takes_the_place_of_the_default():
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8))
    x = torch.randn(1, 4, 8)
    _, _, v = layer.project(x)
    assert_close(
        layer(x, attend=lambda q, k, v: v), layer.output(merge_heads(v))
    )


def test_module_has_four_square_matrices():
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8, bias=False))
    assert sum(p.numel() for p in layer.parameters()) == 4 * 8 * 8
    assert set(layer.state_dict()) == {"qkv.weight", "output.weight"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_number_format_of_the_input_is_kept(dtype):
    q, k, v = (each.to(dtype) for each in draw())
    assert attention(q, k, v).dtype == dtype
    assert naive_attention(q, k, v, causal_mask(5))[0].dtype == dtype


# Errors that teach


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(2, 4, 8)] * 3, "four axes"),
        ([(1, 2, 4, 8), (1, 2, 4, 6), (1, 2, 4, 6)], "same B, H and D"),
        ([(1, 2, 4, 8), (1, 4, 4, 8), (1, 4, 4, 8)], "same B, H and D"),
        ([(1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 5, 8)], "each key needs"),
    ],
)
def test_wrong_shapes_are_named_in_the_error(shapes, words):
    q, k, v = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=words) as error:
        check_shapes(q, k, v)
    assert str(shapes[0]) in str(error.value)
    for function in (attention, naive_attention):
        with pytest.raises(ValueError, match=words):
            function(q, k, v)


def test_more_queries_than_keys_is_an_error():
    with pytest.raises(ValueError, match="last T of S"):
        causal_mask(3, 2)
    q, k, v = draw(T=3, S=2)
    with pytest.raises(ValueError, match="last T of S"):
        attention(q, k, v)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of n_head"):
        split_heads(torch.zeros(1, 2, 10), 4)
    with pytest.raises(ValueError, match="expected \\(B, T, C\\)"):
        split_heads(torch.zeros(2, 10), 2)
    with pytest.raises(ValueError, match="expected \\(B, H, T, D\\)"):
        merge_heads(torch.zeros(1, 2, 10))


def test_an_input_of_another_width_is_an_error():
    layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8))
    with pytest.raises(ValueError, match="C=8"):
        layer(torch.zeros(1, 3, 6))


# Grouped heads and windows


def grouped(B=2, H=6, G=2, T=5, S=None, D=4, dtype=torch.float32):
    q, k, v = draw(B, H, T, S or T, D, dtype=dtype)
    return q, k[:, :G], v[:, :G]


def seen(T, S, window):
    """The mask by its definition, one pair of tokens at a time."""
    return torch.tensor(
        [
            [i + S - T - (window or S) < j <= i + S - T for j in range(S)]
            for i in range(T)
        ]
    )


@given(T=sizes, more=st.integers(0, 5), window=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_window_mask_is_its_definition(T, more, window):
    S = T + more
    assert torch.equal(window_mask(T, S, window), seen(T, S, window))
    assert torch.equal(window_mask(T, S, None), causal_mask(T, S))


@given(
    groups=st.sampled_from([(1, 1), (4, 4), (4, 2), (4, 1), (6, 3), (6, 2)]),
    T=sizes,
    more=st.integers(0, 5),
    window=st.none() | st.integers(1, 12),
    D=sizes,
)
@settings(max_examples=80, deadline=None)
def test_grouped_attention_is_naive_is_torchs(groups, T, more, window, D):
    H, G = groups
    S = T + more
    q, k, v = grouped(2, H, G, T, S, D)
    mask = seen(T, S, window)
    heads = [h * G // H for h in range(H)]  # whose keys each head reads
    k_each, v_each = k[:, heads], v[:, heads]
    naive, _ = naive_attention(q, k_each, v_each, mask)
    theirs = F.scaled_dot_product_attention(q, k_each, v_each, mask)
    found = grouped_attention(q, k, v, window)
    assert_close(found, naive, atol=1e-5, rtol=1e-5)
    assert_close(found, theirs, atol=1e-5, rtol=1e-5)
    store = []
    again = record_weights(store, window)(q, k, v)
    assert_close(again, naive, atol=1e-5, rtol=1e-5)
    assert (store[0][..., ~mask] == 0).all()
    rows = mask.expand(2, 1, T, S)
    assert_close(masked_attention(q, k, v, rows), naive, atol=1e-5, rtol=1e-5)
    assert torch.equal(repeat_heads(k, H), k_each)


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("window", [None, 2])
def test_gradients_of_grouped_attention_agree_with_differences(T, window):
    inputs = grouped(1, 4, 2, T, 4, 2, dtype=torch.float64)
    for each in inputs:
        each.requires_grad_()
    attend = partial(grouped_attention, window=window)
    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("n_kv_head", [1, 2, 3, 6])
def test_grouped_layer_is_a_multi_head_layer_with_its_heads_repeated(
    n_kv_head,
):
    torch.manual_seed(0)
    config = GPTConfig(n_head=6, n_kv_head=n_kv_head, n_embd=24)
    few, many = GroupedQueryAttention(config), CausalSelfAttention(config)
    D, G = config.head_dim, n_kv_head
    each = torch.arange(G * D).view(G, D).repeat_interleave(6 // G, dim=0)
    each = each.flatten()  # the row of each number of 6 heads of keys
    rows = [torch.arange(24), 24 + each, 24 + G * D + each]
    with torch.no_grad():
        many.qkv.weight.copy_(few.qkv.weight[torch.cat(rows)])
        many.qkv.bias.copy_(few.qkv.bias[torch.cat(rows)])
    many.output.load_state_dict(few.output.state_dict())
    x = torch.randn(2, 7, 24)
    assert_close(few(x), many(x), atol=1e-6, rtol=1e-5)
    assert_close(few(x, attention), many(x), atol=1e-6, rtol=1e-5)


def test_a_layer_is_grouped_only_where_the_configuration_says_so():
    for changes, kind in (
        ({}, CausalSelfAttention),
        ({"n_kv_head": 4}, CausalSelfAttention),
        ({"n_kv_head": 2}, GroupedQueryAttention),
    ):
        layer = new_attention(GPTConfig(n_head=4, n_embd=8, **changes))
        assert type(layer) is kind


def test_dropout_acts_on_grouped_heads_in_training_and_only_there():
    torch.manual_seed(0)
    config = GPTConfig(n_head=4, n_kv_head=2, n_embd=8, dropout=0.5)
    layer, x = GroupedQueryAttention(config), torch.randn(1, 16, 8)
    layer.output_dropout.p = 0.0  # leaves that of the weights alone
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_recording_16_bits_keeps_the_weights_in_32():
    q, k, v = (each.bfloat16() for each in draw(T=40, D=8))
    store = []
    mixed = record_weights(store)(q, k, v)
    assert mixed.dtype == torch.bfloat16 and store[0].dtype == torch.float32
    exact = naive_attention(q.float(), k.float(), v.float(), causal_mask(40))
    assert_close(store[0], exact[1])


def test_groups_that_do_not_come_out_are_refused():
    q, k, v = torch.zeros(1, 4, 3, 2), *torch.zeros(2, 1, 3, 3, 2)
    for function in (masked_attention, grouped_attention, check_groups):
        with pytest.raises(ValueError, match="4 heads of queries and 3"):
            function(q, k, v)
    with pytest.raises(ValueError, match="same B, H and D"):
        attention(q, k[:, :2], v[:, :2])  # the plain one knows no groups
    with pytest.raises(ValueError, match="four axes"):
        masked_attention(q[0], k[0], v[0])
    with pytest.raises(ValueError, match="window is 0"):
        grouped_attention(q, k[:, :2], v[:, :2], window=0)


# The backward pass of one head, by hand


def test_the_gradients_of_a_head_by_hand_are_autograds():
    """Forward and backward of one causal head, without autograd.

    With S the scores, P their softmax, O = P V and dO what comes back:
    dV = P^T dO, dP = dO V^T; a softmax hands back dS = P (dP - the mean of
    dP under P), row by row; dQ = dS K / sqrt(D), dK = dS^T Q / sqrt(D).
    """
    T, C, D = 7, 6, 4
    torch.manual_seed(0)
    x, wanted = torch.randn(T, C), torch.randn(T, D)
    w_q, w_k, w_v = (torch.randn(C, D, requires_grad=True) for _ in range(3))
    x.requires_grad_()
    heads = (x @ w for w in (w_q, w_k, w_v))
    mixed = attention(*(h[None, None] for h in heads))[0, 0]
    (mixed * wanted).sum().backward()

    with torch.no_grad():
        q, k, v = x @ w_q, x @ w_k, x @ w_v
        scores = q @ k.T / math.sqrt(D)
        powers = scores.exp().tril()
        p = powers / powers.sum(-1, keepdim=True)
        d_v = p.T @ wanted
        d_p = wanted @ v.T
        d_scores = p * (d_p - (p * d_p).sum(-1, keepdim=True))
        d_q = d_scores @ k / math.sqrt(D)
        d_k = d_scores.T @ q / math.sqrt(D)
        d_x = d_q @ w_q.T + d_k @ w_k.T + d_v @ w_v.T
    close = {"atol": 1e-5, "rtol": 1e-4}
    assert_close(p @ v, mixed.detach(), **close)
    assert_close(x.T @ d_q, w_q.grad, **close)
    assert_close(x.T @ d_k, w_k.grad, **close)
    assert_close(x.T @ d_v, w_v.grad, **close)
    assert_close(d_x, x.grad, **close)
