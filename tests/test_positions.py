"""positions.py by hand, by its properties, and against transformers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmbook.attention import grouped_attention, naive_attention
from llmbook.config import POSITIONS, GPTConfig, RopeScaling
from llmbook.model import GPT
from llmbook.positions import (
    LearnedPositions,
    SinusoidalPositions,
    alibi_slopes,
    check_fit,
    rotary_speeds,
    rotate,
    sinusoids,
    stretched,
    with_alibi,
    with_positions,
)


def test_learned_positions_are_the_rows_of_an_embedding():
    ours = LearnedPositions(8, 4)
    reference = nn.Embedding(8, 4, _weight=ours.weight.detach())
    assert torch.equal(ours(T=3, start=2), reference(torch.arange(2, 5)))
    assert torch.equal(ours(T=8), reference(torch.arange(8)))


def test_only_the_positions_used_get_a_gradient():
    positions = LearnedPositions(4, 2)
    positions(T=2, start=1).sum().backward()
    assert positions.weight.grad[:, 0].tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("T, start", [(9, 0), (1, 8), (4, 5), (1, -1)])
def test_a_position_outside_the_context_is_refused(T, start):
    with pytest.raises(ValueError, match="positions 0 to 7"):
        LearnedPositions(8, 4)(T=T, start=start)


def test_positions_one_by_one_are_the_rows_of_an_embedding():
    ours = LearnedPositions(8, 4)
    reference = nn.Embedding(8, 4, _weight=ours.weight.detach())
    wanted = torch.tensor([[0, 0, 1], [7, 3, 3]])
    assert torch.equal(ours.at(wanted), reference(wanted))
    assert torch.equal(ours.at(torch.arange(2, 5)), ours(T=3, start=2))


@pytest.mark.parametrize("bad", [-1, 8])
def test_one_position_outside_the_context_is_refused(bad):
    with pytest.raises(ValueError, match="positions 0 to 7"):
        LearnedPositions(8, 4).at(torch.tensor([[0, bad]]))


# Sinusoids


def test_sinusoids_worked_by_hand():
    # C = 4: one hand turns by 1 a token, the other by 10000^(-2/4) = 0.01
    found = sinusoids(torch.tensor([0, 1, 3]), C=4)
    assert found[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    by_hand = [0.841471, 0.540302, 0.0099998, 0.99995]  # of 1 and of 0.01
    assert_close(found[1], torch.tensor(by_hand), atol=1e-6, rtol=0)
    by_hand = [0.141120, -0.989992, 0.0299955, 0.99955]  # of 3 and of 0.03
    assert_close(found[2], torch.tensor(by_hand), atol=1e-6, rtol=0)


def test_sinusoids_are_the_formula_of_the_paper():
    C, positions = 6, [0, 1, 17, 999]
    expected = []
    for position in positions:
        angles = [position / 10_000 ** (2 * i / C) for i in range(C // 2)]
        both = [(math.sin(angle), math.cos(angle)) for angle in angles]
        expected.append([number for pair in both for number in pair])
    found = sinusoids(torch.tensor(positions), C)
    assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


@given(start=st.integers(0, 200), step=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_a_step_turns_every_sinusoid_by_the_same_angle(start, step):
    C = 8
    here, there = sinusoids(torch.tensor([start, start + step]), C)
    turned = sinusoids(torch.tensor(step), C).view(-1, 2)  # sine, cosine
    sine, cosine = here.view(-1, 2).unbind(-1)
    by_sine, by_cosine = turned.unbind(-1)
    expected = [
        sine * by_cosine + cosine * by_sine,
        cosine * by_cosine - sine * by_sine,
    ]
    found = there.view(-1, 2)
    assert_close(found, torch.stack(expected, -1), atol=1e-4, rtol=0)


def test_sinusoidal_positions_are_called_as_the_learned_ones():
    positions = SinusoidalPositions(8, 4)
    assert list(positions.state_dict()) == []
    assert torch.equal(positions(3, 2), positions.at(torch.arange(2, 5)))
    assert positions.at(torch.tensor([[0, 1], [5, 6]])).shape == (2, 2, 4)
    for bad in (lambda: positions(9), lambda: positions.at(torch.tensor([8]))):
        with pytest.raises(ValueError, match="positions 0 to 7"):
            bad()


# Rotary


def turned(x, places, speeds):
    angles = places[:, None] * speeds
    return rotate(x, angles.cos(), angles.sin())


def test_a_turn_is_a_product_of_complex_numbers():
    speeds = rotary_speeds(8, theta=100.0)
    x, places = torch.randn(5, 8), torch.tensor([0, 1, 2, 7, 50])
    numbers = torch.complex(x[:, :4], x[:, 4:])
    expected = numbers * torch.exp(1j * places[:, None] * speeds)
    found = turned(x, places, speeds)
    together = torch.cat([expected.real, expected.imag], -1)
    assert_close(found, together, atol=1e-5, rtol=1e-5)
    assert_close(found.norm(dim=-1), x.norm(dim=-1))  # turning keeps lengths


@given(i=st.integers(0, 60), j=st.integers(0, 60), shift=st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_a_product_depends_on_the_distance_alone(i, j, shift):
    source = torch.Generator().manual_seed(i)
    q, k = torch.randn(2, 1, 8, generator=source)
    speeds = rotary_speeds(8, theta=100.0)

    def product(at, to):
        here = turned(q, torch.tensor([at]), speeds)
        return here @ turned(k, torch.tensor([to]), speeds).T

    near, far = product(i, j), product(i + shift, j + shift)
    assert_close(near, far, atol=1e-4, rtol=0)


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("head_dim", [2, 8, 64, 128])
def test_speeds_are_transformers_to_the_last_bit(head_dim, theta):
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama as llama

    config = transformers.LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    theirs = llama.LlamaRotaryEmbedding(config).inv_freq
    assert torch.equal(rotary_speeds(head_dim, theta), theirs)


@pytest.mark.parametrize("factor", [1.0, 8.0, 32.0])
def test_stretched_speeds_are_transformers(factor):
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama as llama

    config = transformers.LlamaConfig(
        hidden_size=64,
        num_attention_heads=1,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    theirs = llama.LlamaRotaryEmbedding(config).inv_freq
    ours = rotary_speeds(64, 5e5, RopeScaling(factor=factor))
    assert_close(ours, theirs, atol=0, rtol=1e-6)


def test_stretching_worked_by_hand():
    # 8192 tokens: one turn each 1024 tokens stays, one in 16384 is slowed,
    # and 2 turns lie a third of the way from 1 to 4.
    waves = torch.tensor([1024.0, 4096.0, 16384.0])
    speeds = 2 * math.pi / waves
    found = stretched(speeds, RopeScaling(factor=4.0)) / speeds
    assert_close(found, torch.tensor([1.0, 1 / 3 + 2 / 3 / 4, 1 / 4]))


# ALiBi


def test_slopes_of_eight_heads_are_the_papers():
    halves = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(8).tolist() == halves


def test_slopes_of_six_heads_are_those_of_four_and_every_second_of_eight():
    expected = [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert_close(alibi_slopes(6), torch.tensor(expected))


def explicit_alibi(q, k, v, places, allowed):
    """Scores with the penalty of each pair of places added outright."""
    H, D = q.shape[1], q.shape[-1]
    distance = (places[..., :, None] - places[..., None, :]).double()
    slopes = [2 ** (-8 * (h + 1) / H) for h in range(H)]  # H a power of 2
    slopes = torch.tensor(slopes, dtype=torch.float64)[:, None, None]
    scores = q.double() @ k.double().mT / math.sqrt(D) - slopes * distance
    return scores.masked_fill(~allowed, -math.inf).softmax(-1) @ v.double()


@pytest.mark.parametrize("H", [1, 4, 8])
@pytest.mark.parametrize("T", [1, 2, 40, 700])
def test_alibi_is_a_penalty_added_outright(H, T):
    source = torch.Generator().manual_seed(T)
    q, k, v = torch.randn(3, 2, H, T, 8, generator=source)
    places, causal = torch.arange(T), torch.ones(T, T).tril().bool()
    found = with_alibi(grouped_attention, places)(q, k, v)
    expected = explicit_alibi(q, k, v, places, causal)
    assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_alibi_takes_each_rows_own_places():
    source = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=source)
    places = torch.tensor([[0, 1, 2, 3, 4, 5], [9, 0, 300, 2, 255, 256]])
    causal = torch.ones(6, 6).tril().bool()

    def attend(q, k, v):
        return naive_attention(q, k, v, causal)[0]

    found = with_alibi(attend, places[:, None])(q, k, v)
    expected = explicit_alibi(q, k, v, places[:, None], causal)
    assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_far_places_are_told_apart_in_16_bits():
    # bfloat16 has no 1001: carried as one number, 1000 and 1001 were alike.
    T = 1100
    q, k = torch.zeros(2, 1, 1, T, 2, dtype=torch.bfloat16)
    v = torch.arange(T).view(1, 1, T, 1).expand(1, 1, T, 2).bfloat16()
    store = []

    def attend(q, k, v):
        mask = torch.ones(T, T).tril().bool()
        mixed, weights = naive_attention(q.float(), k.float(), v.float(), mask)
        store.append(weights)
        return mixed.to(v.dtype)

    with_alibi(attend, torch.arange(T))(q, k, v)
    row = store[0][0, 0, -1, -6:]
    ratios = row[1:] / row[:-1]  # e^m from key to key
    assert_close(ratios, torch.full((5,), math.exp(2**-8)), rtol=2e-3, atol=0)


# Where they meet


def test_positions_of_another_shape_are_refused():
    for kind in POSITIONS:
        config = GPTConfig(
            vocab_size=9, n_layer=1, n_head=2, n_embd=8, positions=kind
        )
        model, ids = GPT(config), torch.zeros(2, 3, dtype=torch.long)
        for bad in (torch.arange(2), torch.zeros(2, 1).long()):
            with pytest.raises(ValueError, match="the same for each row"):
                model(ids, positions=bad)
        with pytest.raises(ValueError, match="knows positions 0 to 255"):
            model(ids, start=254)
        with pytest.raises(ValueError, match="knows positions 0 to 255"):
            model(ids, positions=torch.tensor([0, 1, 256]))
    check_fit(torch.zeros(2, 3), torch.zeros(2, 3))


def test_positions_that_are_added_leave_attention_alone():
    for kind in ("learned", "sinusoidal", "none"):
        config = GPTConfig(positions=kind)
        attends = [grouped_attention]
        assert with_positions(attends, config, torch.arange(3)) == attends


def test_without_positions_a_model_knows_no_order():
    config = GPTConfig(
        vocab_size=9, n_layer=1, n_head=2, n_embd=8, positions="none"
    )
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 1, 2, 4]])
    assert_close(model(one)[0][:, -1], model(other)[0][:, -1])
