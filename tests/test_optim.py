"""The optimizer's parts, held against torch's own."""

import math

import pytest
import torch
from torch import nn

from llmbook.config import GPTConfig, TrainConfig
from llmbook.model import GPT
from llmbook.optim import (
    ADAMW_RMS,
    NEWTON_SCHULZ,
    AdamW,
    Muon,
    clip_gradients,
    cosine_schedule,
    muon_groups,
    orthogonalise,
    orthogonalised,
    parameter_groups,
)

TINY = GPTConfig(
    vocab_size=19, context_length=8, n_layer=2, n_head=2, n_embd=8
)


def twins(seed=0):
    """Two models with the same weights."""
    first = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    torch.manual_seed(seed)
    for p in first.parameters():
        nn.init.normal_(p)
    second = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    second.load_state_dict(first.state_dict())
    return first, second


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_equals_torch_over_300_steps(decay):
    mine, theirs = twins()
    settings = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8}
    a = AdamW(parameter_groups(mine, decay), **settings)
    b = torch.optim.AdamW(parameter_groups(theirs, decay), **settings)
    generator = torch.Generator().manual_seed(1)
    for step in range(300):
        x = torch.randn(4, 5, generator=generator)
        for model, optimizer in ((mine, a), (theirs, b)):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 / (1 + step / 50)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)


def test_adamw_leaves_a_parameter_without_gradient_alone():
    weight = nn.Parameter(torch.ones(2, 2))
    AdamW([weight], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(weight, torch.ones(2, 2))


def test_every_parameter_of_the_model_is_in_one_group():
    model = GPT(TINY)
    decayed, others = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in others["params"])
    together = [id(p) for p in decayed["params"] + others["params"]]
    assert sorted(together) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("largest", [0.01, 1.0, 1e6])
def test_clipping_equals_torch(largest):
    mine, theirs = twins()
    for model in (mine, theirs):
        x = torch.linspace(-3, 3, 10).view(2, 5)
        model(x).square().sum().backward()
    norm = clip_gradients(mine.parameters(), largest)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), largest)
    assert norm == pytest.approx(expected.item(), rel=1e-6)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_clipping_by_zero_only_measures():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([30.0, 40.0])
    assert clip_gradients([weight], 0) == pytest.approx(50)
    assert weight.grad.tolist() == [30.0, 40.0]
    assert clip_gradients([nn.Parameter(torch.zeros(1))], 1.0) == 0.0


def test_warm_up_equals_torch_linear_schedule():
    config = TrainConfig(steps=50, warmup_steps=10, learning_rate=0.5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    expected = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 9)
    for step in range(10):
        rate = cosine_schedule(step, config)
        assert rate == pytest.approx(expected.get_last_lr()[0])
        optimizer.step()
        expected.step()


def test_cosine_equals_torch_schedule():
    config = TrainConfig(
        steps=41,
        warmup_steps=0,
        learning_rate=0.5,
        min_learning_rate=0.05,
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, 0.05)
    for step in range(41):
        rate = cosine_schedule(step, config)
        assert rate == pytest.approx(expected.get_last_lr()[0])
        optimizer.step()
        expected.step()


def test_schedule_ends_at_its_lowest_rate_and_stays_there():
    config = TrainConfig(steps=20, warmup_steps=30, learning_rate=1.0)
    assert all(0 < cosine_schedule(s, config) <= 1 for s in range(20))
    config = TrainConfig(steps=20, warmup_steps=5)
    assert math.isclose(cosine_schedule(19, config), 1e-4)
    assert math.isclose(cosine_schedule(500, config), 1e-4)


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
def test_orthogonalising_moves_singular_values_and_nothing_else(shape):
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(shape, generator=generator).double()
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = u @ torch.diag(values) @ vt
    torch.testing.assert_close(orthogonalise(matrix), expected)
    assert values.max() < 1.3 and values.median() > 0.6


def test_a_gradient_of_zeros_orthogonalises_to_zeros():
    assert torch.equal(orthogonalise(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_matrices_of_one_shape_go_together_and_come_back_in_order():
    generator = torch.Generator().manual_seed(4)
    shapes = [(6, 4), (4, 4), (6, 4), (4, 6), (4, 4)]
    matrices = [torch.randn(s, generator=generator) for s in shapes]
    matrices[2] *= 1e4  # each has a size of its own
    for matrix, found in zip(matrices, orthogonalised(matrices), strict=True):
        torch.testing.assert_close(found, orthogonalise(matrix))
    for full, short in zip(
        orthogonalised(matrices),
        orthogonalised(matrices, torch.bfloat16),
        strict=True,
    ):
        assert short.dtype == torch.float32
        torch.testing.assert_close(full, short, atol=5e-2, rtol=0)


@pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on"
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_takes_the_steps_of_torchs_muon_to_bfloat16(dtype):
    generator = torch.Generator().manual_seed(5)
    mine = nn.Parameter(torch.randn(8, 16, generator=generator))
    theirs = nn.Parameter(mine.detach().clone())
    settings = {"lr": 0.01, "weight_decay": 0.1}
    group = {"params": [mine], "muon": True}
    a = Muon([group], dtype=dtype, **settings)
    b = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(20):
        gradient = torch.randn(8, 16, generator=generator)
        mine.grad, theirs.grad = gradient, gradient.clone()
        a.step(), b.step()
    # torch orthogonalises in bfloat16, which keeps three digits
    torch.testing.assert_close(mine, theirs, atol=5e-3, rtol=0)


def test_muon_splits_the_blocks_matrices_from_all_else():
    model = GPT(TINY)
    inner, outer = muon_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    muon = {names[id(p)] for p in inner["params"]}
    assert muon == {
        f"blocks.{layer}.{part}.weight"
        for layer in range(2)
        for part in (
            "attention.qkv",
            "attention.output",
            "feed_forward.up",
            "feed_forward.down",
        )
    }
    assert len(muon) + len(outer["params"]) == len(names)


def test_outside_its_matrices_muon_is_adamw():
    mine, theirs = twins()
    settings = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8}
    groups = [{"params": list(mine.parameters()), "muon": False}]
    a = Muon(groups, weight_decay=0.1, **settings)
    b = AdamW(theirs.parameters(), weight_decay=0.1, **settings)
    for _ in range(5):
        for model, optimizer in ((mine, a), (theirs, b)):
            optimizer.zero_grad()
            model(torch.ones(4, 5)).square().mean().backward()
            optimizer.step()
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_muons_first_step_has_the_size_of_adamws():
    weight = nn.Parameter(torch.zeros(64, 32))
    weight.grad = torch.randn(64, 32, generator=torch.Generator())
    Muon([{"params": [weight], "muon": True}], lr=1.0).step()
    rms = weight.detach().square().mean().sqrt().item()
    assert rms == pytest.approx(ADAMW_RMS, rel=0.2)
