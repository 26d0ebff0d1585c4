"""accounting.py against what torch counts, allocates and keeps."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from llmbook.accounting import (
    activation_bytes,
    active_parameters,
    cache_bytes,
    flops_per_token,
    parameters,
)
from llmbook.attention import record_weights
from llmbook.config import POSITIONS, PRESETS, GPTConfig, preset
from llmbook.layers import MixtureOfExperts
from llmbook.model import GPT
from llmbook.sampling import new_cache

SHAPE = {
    "vocab_size": 61,
    "context_length": 24,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 32,
}
EXPERTS = {"n_expert": 5, "n_expert_used": 2}
LLAMA = {"positions": "rotary", "norm": "rmsnorm", "feed_forward": "swiglu"}
CHANGES = [
    *({"positions": name} for name in POSITIONS),
    {"bias": False},
    {"tie_weights": False},
    {"norm": "rmsnorm"},
    {"norm": "rmsnorm", "bias": False},
    {"feed_forward": "swiglu"},
    {"feed_forward": "swiglu", "d_ff": 40, "bias": False},
    {"d_ff": 50},
    {"n_kv_head": 2},
    {"n_kv_head": 1, "bias": False},
    {"window": 5},
    {"window": 100},
    EXPERTS,
    {**EXPERTS, "bias": False, "n_expert_used": 1},
    {**EXPERTS, "feed_forward": "swiglu", "n_expert_used": 5},
    {**LLAMA, "bias": False, "n_kv_head": 2, "tie_weights": False},
    {**LLAMA, **EXPERTS, "window": 4, "n_kv_head": 1, "bias": False},
    {"positions": "alibi", "n_kv_head": 2, "window": 3, "bias": False},
    {"n_layer": 1, "n_head": 1, "context_length": 2},
]
every_configuration = pytest.mark.parametrize(
    "changes",
    CHANGES,
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)


def build(changes):
    config = GPTConfig(**{**SHAPE, **changes})
    return config, GPT(config, torch.Generator().manual_seed(0))


def ids(config, B, T, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (B, T), generator=source)


@every_configuration
def test_parameters_are_those_that_torch_holds(changes):
    config, model = build(changes)
    held = {n: p.numel() for n, p in model.named_parameters()}
    assert parameters(config) == sum(held.values())
    tables = ("token_embedding", "position_embedding", "head")
    inside = sum(n for name, n in held.items() if not name.startswith(tables))
    assert parameters(config, non_embedding=True) == inside


@every_configuration
def test_active_parameters_are_those_that_a_token_gives_a_gradient(changes):
    config, model = build({**changes, "n_layer": 1})
    logits, _ = model.eval()(ids(config, 1, 1))
    logits.sum().backward()
    touched = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if ".experts." not in name or parameter.grad.abs().sum() > 0
    )
    assert active_parameters(config) == touched


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_are_counted_as_they_are_built(name):
    config = preset(name)
    with torch.device("meta"):
        model = GPT(config)
    count = model.num_parameters()
    assert parameters(config) == active_parameters(config) == count
    assert parameters(config, True) == model.num_parameters(True)


def test_mixtral_has_47_billion_parameters_and_uses_13():
    # Jiang et al. 2024, section 1 and table 1
    config = GPTConfig(
        vocab_size=32_000,
        n_layer=32,
        n_head=32,
        n_kv_head=8,
        n_embd=4096,
        d_ff=14_336,
        n_expert=8,
        n_expert_used=2,
        bias=False,
        tie_weights=False,
        **LLAMA,
    )
    assert round(parameters(config) / 1e9) == 47
    assert round(active_parameters(config) / 1e9) == 13


@every_configuration
@pytest.mark.parametrize("T", [1, 2, 9])
def test_flops_are_those_that_torch_counts(changes, T):
    config, model = build(changes)
    T = min(T, config.context_length)
    x = ids(config, 2, T)
    plain = [record_weights([], config.window)] * config.n_layer
    with FlopCounterMode(display=False) as forward:
        model.eval()(x, attends=plain)
    expected = 2 * T * flops_per_token(config, T)
    assert forward.get_total_flops() == expected
    with FlopCounterMode(display=False) as step:
        model.train()(x, x, attends=plain)[1].backward()
    assert step.get_total_flops() == 3 * expected
    assert model.flops_per_token(T, True) == 3 * model.flops_per_token(T)
    assert 2 * T * model.flops_per_token(T) == expected


@every_configuration
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_takes_the_bytes_that_the_formula_says(changes, dtype):
    config, model = build(changes)
    model.to(dtype)
    for tokens in (None, 1, 4, 5, 6, 1000):
        cache = new_cache(model, 3, tokens)
        held = cache.keys.untyped_storage(), cache.values.untyped_storage()
        assert cache.nbytes == sum(storage.nbytes() for storage in held)
        said = cache_bytes(config, 3, dtype.itemsize, tokens)
        assert cache.nbytes == said


def kept_for_backward(model, x, y):
    """Bytes that autograd holds on to, weights left out, each once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        _, loss = model.train()(x, y)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@every_configuration
@pytest.mark.parametrize("B, T", [(2, 11), (3, 24)])
def test_activations_are_what_autograd_keeps(changes, B, T):
    config, model = build(changes)
    T = min(T, config.context_length)
    x, y = ids(config, B, T), ids(config, B, T, seed=1)
    kept = kept_for_backward(model, x, y)
    assert_close(activation_bytes(config, B, T), kept, rtol=2e-3, atol=0)
    kept = kept_for_backward(model.bfloat16(), x, y)
    assert_close(activation_bytes(config, B, T, 2), kept, rtol=2e-2, atol=0)


def test_the_shares_of_the_balance_loss_are_all_that_is_left_out():
    config, model = build(EXPERTS)
    x = ids(config, 2, 11)
    shares = sum(isinstance(m, MixtureOfExperts) for m in model.modules())
    counted = activation_bytes(config, 2, 11)
    left_out = 4 * (1 + shares * config.n_expert)  # 1: the loss's divisor
    assert kept_for_backward(model, x, x.clone()) == counted + left_out
