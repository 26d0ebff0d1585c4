"""layers.py against torch.nn, which shares no code with the naive forms."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmbook.config import GPTConfig
from llmbook.layers import (
    FeedForward,
    LayerNorm,
    MixtureOfExperts,
    RMSNorm,
    SwiGLU,
    balance_loss,
    gelu,
    naive_gelu,
    naive_layer_norm,
    naive_rms_norm,
    new_feed_forward,
    new_norm,
    route,
)


@pytest.fixture
def x():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


def with_random_weights(module):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    return module


@pytest.mark.parametrize("bias", [True, False])
def test_both_layer_norms_equal_torch_nn(x, bias):
    reference = with_random_weights(nn.LayerNorm(16, bias=bias))
    ours = LayerNorm(16, bias=bias)
    ours.load_state_dict(reference.state_dict())
    naive = naive_layer_norm(x, reference.weight, reference.bias)
    assert_close(ours(x), reference(x))
    assert_close(naive, reference(x))


def test_layer_norm_gives_mean_0_and_variance_1(x):
    normal = naive_layer_norm(7 * x + 3, torch.ones(16))
    assert_close(normal.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    variance = normal.var(-1, correction=0)
    assert_close(variance, torch.ones(2, 5), atol=1e-4, rtol=0)


@given(
    shift=st.floats(-10, 10),
    scale=st.floats(0.5, 10),
    seed=st.integers(0, 1000),
)
def test_layer_norm_ignores_shift_and_scale(shift, scale, seed):
    x = torch.randn(12, generator=torch.Generator().manual_seed(seed))
    gain = torch.ones(12)
    moved = naive_layer_norm(scale * x + shift, gain, eps=0.0)
    assert_close(
        moved, naive_layer_norm(x, gain, eps=0.0), atol=1e-3, rtol=1e-3
    )


def test_layer_norm_of_a_constant_vector_is_its_bias():
    bias = torch.tensor([1.0, 2.0])
    same = naive_layer_norm(torch.full((2,), 5.0), torch.ones(2), bias)
    assert torch.equal(same, bias)


def test_gelu_equals_torch_nn_and_is_near_the_exact_function():
    x = torch.linspace(-6, 6, 1001)
    assert_close(naive_gelu(x), nn.GELU(approximate="tanh")(x))
    assert_close(gelu(x), nn.GELU(approximate="tanh")(x))
    assert (naive_gelu(x) - nn.GELU()(x)).abs().max() < 1e-3


def test_layer_norm_and_gelu_have_the_gradients_of_autograds_check():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(naive_layer_norm, (x, gain))
    assert torch.autograd.gradcheck(naive_gelu, (x,))


@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_equals_a_sequential_of_torch_nn(x, bias):
    ours = FeedForward(GPTConfig(n_head=2, n_embd=16, bias=bias))
    reference = nn.Sequential(
        nn.Linear(16, 64, bias=bias),
        nn.GELU(approximate="tanh"),
        nn.Linear(64, 16, bias=bias),
    )
    reference[0].load_state_dict(ours.up.state_dict())
    reference[2].load_state_dict(ours.down.state_dict())
    assert_close(ours(x), reference(x))


def test_feed_forward_treats_each_token_alone(x):
    layer = FeedForward(GPTConfig(n_head=2, n_embd=16)).eval()
    changed = x.clone()
    changed[:, 2] += 1
    moved = (layer(changed) - layer(x)).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [False, False, True, False, False]


def test_dropout_acts_in_training_only(x):
    layer = FeedForward(GPTConfig(n_head=2, n_embd=16, dropout=0.5))
    assert (layer.train()(x) == 0).any()
    assert not (layer.eval()(x) == 0).any()


# RMSNorm and SwiGLU


def test_both_rms_norms_equal_torch_nn(x):
    reference = with_random_weights(nn.RMSNorm(16, eps=1e-5))
    ours = RMSNorm(16)
    ours.load_state_dict(reference.state_dict())
    assert_close(ours(x), reference(x))
    assert_close(naive_rms_norm(x, reference.weight), reference(x))


def test_rms_norm_is_layer_norm_of_what_has_mean_zero(x):
    centred = x - x.mean(-1, keepdim=True)
    assert_close(RMSNorm(16)(centred), LayerNorm(16)(centred))
    assert not torch.allclose(RMSNorm(16)(x + 3), LayerNorm(16)(x + 3))


def test_rms_norm_has_the_gradients_of_autograds_check():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(naive_rms_norm, (x, gain))


def test_rms_norm_in_16_bits_squares_in_32(x):
    large = (300 * x).half()  # whose squares float16 has no room for
    found = RMSNorm(16).half()(large)
    assert found.dtype == torch.float16 and found.isfinite().all()
    assert_close(found.float(), RMSNorm(16)(large.float()), atol=2e-3, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_swiglu_equals_its_formula(x, bias):
    config = GPTConfig(n_head=2, n_embd=16, bias=bias, feed_forward="swiglu")
    layer = with_random_weights(SwiGLU(config))
    gate = nn.functional.linear(x, layer.gate.weight, layer.gate.bias)
    up = nn.functional.linear(x, layer.up.weight, layer.up.bias)
    expected = layer.down(gate / (1 + (-gate).exp()) * up)
    assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
    assert (layer.gate.bias is not None) == bias


# Experts


def mixture(**changes):
    settings = {"n_head": 2, "n_embd": 16, "n_expert": 4, **changes}
    return with_random_weights(MixtureOfExperts(GPTConfig(**settings)))


def test_routing_worked_by_hand():
    scores = torch.tensor([[0.0, 1.0, 1.0 + math.log(3)], [5.0, 5.0, -9.0]])
    experts, weights = route(scores, k=2)
    assert experts.tolist()[0] == [2, 1]
    assert_close(weights, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_experts_equal_a_loop_over_tokens(x, k, kind):
    layer = mixture(n_expert_used=k, feed_forward=kind)
    expected = torch.zeros_like(x)
    for b, t in [(b, t) for b in range(2) for t in range(5)]:
        token = x[b, t]
        scores = layer.router(token)
        best = scores.argsort(descending=True)[:k].tolist()
        powers = [scores[e].exp() for e in best]
        for expert, power in zip(best, powers, strict=True):
            share = power / sum(powers)
            expected[b, t] += share * layer.experts[expert](token)
    assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
    assert layer.chosen.shape == (2, 5, k)


def test_experts_that_are_all_alike_are_one_feed_forward_layer(x):
    layer = mixture()
    for expert in layer.experts:
        expert.load_state_dict(layer.experts[0].state_dict())
    assert_close(layer(x), layer.experts[0](x), atol=1e-4, rtol=1e-4)


def test_an_expert_that_nobody_chose_gets_a_gradient_of_zero(x):
    layer = mixture(n_expert_used=1)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[2] = 100 * x[0, 0]
    token = x[:1, :1].clone().requires_grad_()
    layer(token).sum().backward()
    assert layer.chosen.flatten().tolist() == [2]
    for number, expert in enumerate(layer.experts):
        total = sum(p.grad.abs().sum() for p in expert.parameters())
        assert (total > 0) == (number == 2)
    assert token.grad.isfinite().all()


@given(
    N=st.integers(1, 30),
    E=st.integers(1, 6),
    k=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_the_balance_loss_is_its_formula_within_its_bounds(N, E, k, seed):
    k = min(k, E)
    source = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(N, E, generator=source)
    experts, _ = route(scores, k)
    shares = [experts.eq(e).sum().item() / (N * k) for e in range(E)]
    means = scores.softmax(-1).mean(0).tolist()
    expected = E * sum(f * p for f, p in zip(shares, means, strict=True))
    found = balance_loss(scores, experts).item()
    assert found == pytest.approx(expected, rel=1e-4)
    assert 0 < found <= E + 1e-4


def test_the_balance_loss_is_one_where_all_is_even_and_e_where_all_is_one():
    even = torch.zeros(8, 4)
    chosen = torch.arange(8).remainder(4)[:, None]
    assert balance_loss(even, chosen).item() == pytest.approx(1.0)
    all_to_one = torch.tensor([[50.0, 0, 0, 0]]).expand(8, 4)
    found = balance_loss(all_to_one, torch.zeros(8, 1).long())
    assert found.item() == pytest.approx(4.0)


def test_the_balance_loss_is_below_one_where_idle_experts_lose_by_a_hair():
    scores = torch.full((8, 8), -30.0)
    scores[:, 4:] = 0  # never chosen, and as probable as the chosen one
    chosen = torch.arange(8).remainder(4)
    scores[torch.arange(8), chosen] = 1e-4
    experts, _ = route(scores, 1)
    assert torch.equal(experts[:, 0], chosen)
    found = balance_loss(scores, experts).item()
    assert found == pytest.approx(0.4, abs=1e-3)  # 8 × 4 × 1/4 × 1/20


def test_following_the_balance_loss_evens_the_load():
    torch.manual_seed(0)
    x, router = torch.randn(200, 8) + 1, nn.Linear(8, 4, bias=False)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        scores = router(x)
        loss = balance_loss(scores, route(scores, 1)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1.1 < losses[0]


def test_a_copy_of_experts_leaves_the_last_pass_behind(x):
    layer = mixture()
    layer(x).sum().backward()
    other = copy.deepcopy(layer)
    assert other.balance is None and other.chosen is None
    assert torch.equal(other(x), layer(x))


def test_the_parts_are_those_that_the_configuration_names():
    for changes, norm, feed in (
        ({}, LayerNorm, FeedForward),
        ({"norm": "rmsnorm", "feed_forward": "swiglu"}, RMSNorm, SwiGLU),
        ({"n_expert": 2}, LayerNorm, MixtureOfExperts),
    ):
        config = GPTConfig(n_head=2, n_embd=16, norm_eps=0.5, **changes)
        assert type(new_norm(config)) is norm and new_norm(config).eps == 0.5
        assert type(new_feed_forward(config)) is feed
