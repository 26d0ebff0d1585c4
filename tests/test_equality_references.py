"""The model against transformers' own: the same weights, the same logits.

GPT-2's shapes are in test_model.py. Here are the models that came after,
and each of their parts at its edges.
"""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from llmbook.batching import generate_batch
from llmbook.config import GPTConfig, RopeScaling
from llmbook.layers import MixtureOfExperts, balance_loss
from llmbook.positions import alibi_slopes
from llmbook.sampling import generate
from tests.references import LLAMA, llama_of, mpt_of, spread

transformers = pytest.importorskip("transformers")

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
BASE = GPTConfig(
    vocab_size=61,
    context_length=32,
    n_layer=2,
    n_head=4,
    n_embd=32,
    init_std=0.2,
    **LLAMA,
)
# Made so that some pairs stay, some are slowed and some lie between.
SCALING = RopeScaling(factor=8.0, original_context_length=16)
MPT = {
    "positions": "alibi",
    "norm": "layernorm",
    "feed_forward": "gelu",
}


def ids(B, T, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(BASE.vocab_size, (B, T), generator=source)


def assert_same_model(ours, theirs):
    """Logits, and greedy tokens with and without a cache."""
    context = ours.config.context_length
    x = ids(3, context)
    with torch.no_grad():
        expected = theirs(x).logits
        logits, _ = ours(x)
    assert expected.std() > 0.2  # equal, and about something
    assert_close(logits, expected, **CLOSE)
    prompt = ids(1, max(1, context // 4), seed=1)
    count = context - prompt.shape[1]
    greedy = theirs.generate(
        prompt,
        max_new_tokens=count,
        do_sample=False,
        use_cache=ours.config.window != 1,  # theirs then forgets nothing
    )
    for use_cache in (True, False):
        found = generate(
            ours, prompt, count, temperature=0, use_cache=use_cache
        )
        assert found == greedy.tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_head": 2},
        {"n_kv_head": 1},
        {"rope_scaling": SCALING},
        {"rope_theta": 500.0},
        {"tie_weights": False},
        {"n_kv_head": 2, "rope_scaling": SCALING, "tie_weights": False},
        {"d_ff": 40, "norm_eps": 1e-3},
        {"n_head": 1},
        {"n_head": 16, "n_kv_head": 4},  # heads of two numbers
        {"n_layer": 1, "n_head": 1, "n_embd": 2},
        {"context_length": 2},
    ],
    ids=str,
)
def test_llama_is_equal(changes):
    ours = spread(replace(BASE, **changes))
    assert_same_model(ours, llama_of(ours))


def test_llama_is_equal_with_a_context_of_one():
    ours = spread(replace(BASE, context_length=1))
    with torch.no_grad():
        expected = llama_of(ours)(ids(5, 1)).logits
        assert_close(ours(ids(5, 1))[0], expected, **CLOSE)


@pytest.mark.parametrize("start", [8_000, 131_000])
def test_far_into_a_long_context_llama_is_still_equal(start):
    # Angles are large there: the speeds have to agree to the last bit.
    config = replace(
        BASE,
        context_length=131_072,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=32.0),
    )
    ours = spread(config)
    x = ids(2, 40)
    where = torch.arange(start, start + 40)[None].expand(2, -1)
    with torch.no_grad():
        expected = llama_of(ours)(x, position_ids=where).logits
        assert_close(ours(x, start=start)[0], expected, **CLOSE)
        assert_close(ours(x, positions=where)[0], expected, **CLOSE)


def test_llamas_gradients_are_equal():
    ours = spread(replace(BASE, n_kv_head=2, tie_weights=False)).train()
    theirs = llama_of(ours).train()
    x = ids(2, 20)
    theirs(x, labels=x).loss.backward()
    ours(x[:, :-1], x[:, 1:])[1].backward()
    layer, block = theirs.model.layers[1], ours.blocks[1]
    parts = [getattr(layer.self_attn, f"{p}_proj") for p in "qkv"]
    expected = {
        block.attention.qkv: torch.cat([p.weight.grad for p in parts]),
        block.feed_forward.gate: layer.mlp.gate_proj.weight.grad,
        block.feed_forward.down: layer.mlp.down_proj.weight.grad,
        block.norm_2: layer.post_attention_layernorm.weight.grad,
        ours.token_embedding: theirs.model.embed_tokens.weight.grad,
        ours.head: theirs.lm_head.weight.grad,
    }
    for module, gradient in expected.items():
        assert_close(module.weight.grad, gradient, atol=1e-5, rtol=1e-4)


def test_left_padded_prompts_go_on_as_in_transformers():
    ours = spread(replace(BASE, n_kv_head=2, rope_scaling=SCALING))
    prompts = [ids(1, n, seed=n)[0].tolist() for n in (3, 11, 1, 6)]
    padded = [[0] * (11 - len(row)) + row for row in prompts]
    real = [[0] * (11 - len(row)) + [1] * len(row) for row in prompts]
    expected = llama_of(ours).generate(
        torch.tensor(padded),
        attention_mask=torch.tensor(real),
        max_new_tokens=20,
        do_sample=False,
    )
    found = generate_batch(ours, prompts, 20, temperature=0)
    assert found == expected[:, 11:].tolist()


@pytest.mark.parametrize("window", [1, 2, 7, 31, 32, 100])
@pytest.mark.parametrize("n_kv_head", [None, 2])
def test_mistrals_window_is_equal(window, n_kv_head):
    ours = spread(replace(BASE, window=window, n_kv_head=n_kv_head))
    assert_same_model(ours, llama_of(ours))


@pytest.mark.parametrize(
    "changes",
    [
        {"n_expert": 4},
        {"n_expert": 4, "n_expert_used": 1},
        {"n_expert": 3, "n_expert_used": 3},
        {"n_expert": 8, "n_kv_head": 2, "window": 9, "tie_weights": False},
    ],
    ids=str,
)
def test_mixtral_is_equal(changes):
    ours = spread(replace(BASE, **changes))
    assert_same_model(ours, llama_of(ours))


def test_a_layer_of_mixtrals_experts_is_equal_and_so_is_its_gradient():
    ours = spread(replace(BASE, n_expert=5))
    layer = ours.blocks[1].feed_forward
    theirs = llama_of(ours).model.layers[1].mlp
    assert isinstance(layer, MixtureOfExperts)
    x, same = (torch.randn(2, 9, 32).requires_grad_() for _ in range(2))
    same.data.copy_(x.data)
    found, expected = layer(x), theirs(same)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(x.grad, same.grad, atol=1e-5, rtol=1e-5)
    router = layer.router.weight.grad
    assert_close(router, theirs.gate.weight.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_balance_loss_is_mixtrals_over_the_number_of_choices(k):
    """Theirs sums the shares to k, ours to 1: even routing costs 1."""
    from transformers.models.mixtral import modeling_mixtral as mixtral

    scores = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    theirs = mixtral.load_balancing_loss_func((scores,), 6, k)
    ours = balance_loss(scores, scores.topk(k, dim=-1).indices)
    assert_close(k * ours, theirs)


def test_over_layers_ours_is_a_mean_and_mixtrals_one_pooled_loss():
    """Theirs pools all layers' tokens first, so uneven layers can cancel."""
    from transformers.models.mixtral import modeling_mixtral as mixtral

    left = torch.tensor([[9.0, 0.0]]).expand(10, 2)  # all to expert 0
    right = left.flip(-1)  # all to expert 1
    pooled = mixtral.load_balancing_loss_func((left, right), 2, 1)
    layers = [balance_loss(s, s.argmax(-1)[:, None]) for s in (left, right)]
    assert_close(pooled, torch.tensor(1.0))
    assert torch.stack(layers).mean() > 1.99


@pytest.mark.parametrize("n_head", [1, 2, 4, 8])
def test_mpts_alibi_is_equal(n_head):
    ours = spread(replace(BASE, n_head=n_head, **MPT))
    assert_same_model(ours, mpt_of(ours))


@pytest.mark.parametrize("n_head, n_embd", [(3, 24), (6, 48), (12, 48)])
def test_mpts_alibi_is_equal_where_heads_are_no_power_of_two(n_head, n_embd):
    ours = spread(replace(BASE, n_head=n_head, n_embd=n_embd, **MPT))
    assert_same_model(ours, mpt_of(ours))


@pytest.mark.parametrize("n_head", [1, 2, 3, 6, 8, 12, 16, 20, 71, 112])
def test_slopes_are_those_of_bloom(n_head):
    from transformers.models.bloom import modeling_bloom as bloom

    mask = torch.ones(1, 9)
    theirs = bloom.build_alibi_tensor(mask, n_head, torch.float32)
    ours = alibi_slopes(n_head)[:, None] * torch.arange(9)
    assert_close(ours[:, None], theirs)
