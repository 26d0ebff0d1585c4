"""layers.py against torch.nn, which shares no code with the naive forms."""

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
    gelu,
    naive_gelu,
    naive_layer_norm,
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
