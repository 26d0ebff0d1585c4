"""model.py against transformers' GPT-2 with the same random weights."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from llmbook.attention import record_weights
from llmbook.cache import KVCache
from llmbook.config import GPTConfig, preset
from llmbook.hub import gpt_from_tensors
from llmbook.model import GPT, Block, check_ids
from llmbook.sampling import generate

SMALL = GPTConfig(
    vocab_size=60, context_length=16, n_layer=2, n_head=2, n_embd=16
)
# The four GPT-2s with layers, heads and widths scaled down together.
SCALED_DOWN = {
    "gpt2": (3, 3, 24),
    "gpt2-medium": (6, 4, 32),
    "gpt2-large": (9, 5, 40),
    "gpt2-xl": (12, 5, 40),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**changes):
    config = GPTConfig(**{**SMALL.to_dict(), **changes})
    return GPT(config, generator=seeded())


def ids(batch_size, T, vocab_size=60, seed=0):
    return torch.randint(vocab_size, (batch_size, T), generator=seeded(seed))


def both(config):
    """transformers' GPT-2 with random weights, and ours with the same."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        layer_norm_epsilon=config.norm_eps,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = transformers.GPT2LMHeadModel(settings).eval()
    with torch.no_grad():  # biases and gains start constant: move them too
        for parameter in theirs.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return theirs, gpt_from_tensors(theirs.state_dict(), config)


@pytest.mark.parametrize("name", SCALED_DOWN)
def test_logits_equal_transformers_at_every_shape(name):
    n_layer, n_head, n_embd = SCALED_DOWN[name]
    config = GPTConfig(
        vocab_size=97,
        context_length=24,
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
    )
    theirs, ours = both(config)
    idx = ids(3, 24, vocab_size=97)
    with torch.no_grad():
        expected = theirs(idx, labels=idx)
        logits, _ = ours(idx)
        assert_close(logits, expected.logits, atol=1e-4, rtol=1e-4)
        _, loss = ours(idx[:, :-1], idx[:, 1:])
        assert_close(loss, expected.loss, atol=1e-4, rtol=1e-4)


def test_logits_equal_transformers_at_124_million_parameters():
    config = preset("gpt2", dropout=0.0)
    theirs, ours = both(config)
    assert ours.num_parameters() == theirs.num_parameters() == 124_439_808
    idx = ids(1, 12, config.vocab_size)
    with torch.no_grad():
        expected = theirs(idx).logits
        assert_close(ours(idx)[0], expected, atol=1e-4, rtol=1e-4)
    greedy = theirs.generate(
        idx, max_new_tokens=6, do_sample=False, eos_token_id=None
    )
    found = generate(ours, idx[0].tolist(), 6, temperature=0.0)
    assert found == greedy[0].tolist()


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_generation_equals_transformers(use_cache):
    theirs, ours = both(SMALL)
    idx = ids(1, 3)
    expected = theirs.generate(
        idx, max_new_tokens=13, do_sample=False, eos_token_id=None
    )
    found = generate(
        ours, idx[0].tolist(), 13, temperature=0.0, use_cache=use_cache
    )
    assert found == expected[0].tolist()


def test_gradients_equal_transformers():
    theirs, ours = both(SMALL)
    idx = ids(2, 16)
    theirs(idx, labels=idx).loss.backward()
    ours(idx[:, :-1], idx[:, 1:])[1].backward()
    for name in ("0.attn.c_attn", "1.mlp.c_proj"):
        layer, kind = name.split(".", 1)
        module = theirs.transformer.h[int(layer)].get_submodule(kind)
        part = {
            "attn.c_attn": "attention.qkv",
            "mlp.c_proj": "feed_forward.down",
        }
        found = ours.blocks[int(layer)].get_submodule(part[kind])
        assert_close(found.weight.grad, module.weight.grad.T)
    wte = theirs.transformer.wte.weight.grad  # embedding and head together
    assert_close(ours.token_embedding.weight.grad, wte)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 1},
        {"context_length": 1},
        {"n_layer": 1, "n_embd": 2, "n_head": 1},
    ],
)
def test_edges_of_the_shape_equal_transformers(changes):
    config = GPTConfig(**{**SMALL.to_dict(), **changes})
    theirs, ours = both(config)
    idx = ids(2, config.context_length)
    with torch.no_grad():
        expected = theirs(idx).logits
        assert_close(ours(idx)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("vocab_size", [60, 1000])
def test_the_first_loss_is_close_to_ln_v(vocab_size):
    model = small(vocab_size=vocab_size, n_embd=64)
    idx = ids(8, 16, vocab_size)
    _, loss = model(idx, ids(8, 16, vocab_size, seed=1))
    assert abs(loss.item() - math.log(vocab_size)) < 0.05


@pytest.mark.parametrize(
    "name, count",
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_the_presets_have_gpt2s_parameter_counts(name, count):
    with torch.device("meta"):
        assert GPT(preset(name)).num_parameters() == count


def test_parameters_outside_the_embeddings_are_twelve_l_c_squared():
    model = small(bias=False)
    L, C = SMALL.n_layer, SMALL.n_embd
    gains = (2 * L + 1) * C
    assert model.num_parameters(True) == 12 * L * C**2 + gains
    untied = small(tie_weights=False)
    assert untied.num_parameters(True) == small().num_parameters(True)
    assert untied.num_parameters() - small().num_parameters() == 60 * 16


@pytest.mark.parametrize("T", [1, 7, 16])
@pytest.mark.parametrize("tie_weights", [True, False])
def test_flops_equal_what_torch_counts(T, tie_weights):
    model = small(tie_weights=tie_weights)
    idx = ids(2, T)
    plain = [record_weights([])] * SMALL.n_layer  # no fused kernel
    with FlopCounterMode(display=False) as forward:
        model(idx, attends=plain)
    assert forward.get_total_flops() == 2 * T * model.flops_per_token(T)
    with FlopCounterMode(display=False) as step:
        model(idx, idx, attends=plain)[1].backward()
    training = model.flops_per_token(T, training=True)
    assert step.get_total_flops() == 2 * T * training


def test_initial_weights_have_gpt2s_spread():
    model = small(n_embd=128, n_layer=8)
    block = model.blocks[3]
    assert block.attention.qkv.weight.std().item() == pytest.approx(
        0.02, rel=0.03
    )
    for writer in (block.attention.output, block.feed_forward.down):
        assert writer.weight.std().item() == pytest.approx(0.005, rel=0.03)
    assert not block.attention.qkv.bias.any()
    assert (block.norm_1.weight == 1).all()


def test_the_generator_decides_the_initial_weights():
    first, same = small(), small()
    other = GPT(SMALL, generator=seeded(1))
    name = "blocks.1.feed_forward.up.weight"
    assert torch.equal(first.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_a_tied_head_is_the_embedding_and_stays_so_in_copies():
    model = small()
    for tied in (model, copy.deepcopy(model)):
        assert tied.head_weight is tied.token_embedding.weight
    untied = small(tie_weights=False)
    assert untied.head_weight.data_ptr() != (
        untied.token_embedding.weight.data_ptr()
    )


@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_state_dict_round_trip_keeps_the_logits(tmp_path, tie_weights):
    from safetensors.torch import load_file, save_file

    model = small(tie_weights=tie_weights)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = GPT(model.config, generator=seeded(5))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(model(ids(1, 9))[0], other(ids(1, 9))[0])


def test_every_parameter_gets_a_gradient():
    model = small()
    model(ids(2, 16), ids(2, 16, seed=1))[1].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_no_token_sees_a_later_one():
    model = small().eval()
    idx = ids(1, 16)
    changed = idx.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 60
    assert_close(model(idx)[0][:, :9], model(changed)[0][:, :9])


def test_cached_logits_equal_uncached_ones_token_by_token():
    model = small().eval()
    cache = KVCache(2, 2, 2, 8, context_length=16)
    idx = ids(2, 16)
    with torch.no_grad():
        for t in range(16):
            token = idx[:, t : t + 1]
            found, _ = model(token, attends=cache.attends(), start=t)
            expected, _ = model(idx[:, : t + 1])
            assert_close(found[:, 0], expected[:, -1])


def test_positions_that_count_on_change_nothing():
    model = small().eval()
    idx = ids(2, 7)
    counted = torch.arange(3, 10)
    expected, loss = model(idx, idx, start=3)
    for positions in (counted, counted.expand(2, 7)):
        found, same = model(idx, idx, positions=positions)
        assert torch.equal(found, expected) and torch.equal(same, loss)


def test_each_row_may_have_positions_of_its_own():
    model = small().eval()
    idx = ids(2, 4)
    positions = torch.tensor([[0, 1, 2, 3], [9, 10, 11, 12]])
    found, _ = model(idx, positions=positions)
    assert_close(found[:1], model(idx[:1])[0])
    assert_close(found[1:], model(idx[1:], start=9)[0])
    theirs, ours = both(SMALL)
    with torch.no_grad():
        expected = theirs(idx, position_ids=positions).logits
        assert_close(ours(idx, positions=positions)[0], expected)


def test_attention_weights_come_from_the_same_forward_pass():
    model = small(dropout=0.5).train()
    idx = ids(3, 10)
    weights = model.attention_weights(idx)
    assert model.training
    assert weights.shape == (2, 3, 2, 10, 10)
    assert_close(weights.sum(-1), torch.ones(2, 3, 2, 10))
    assert not weights.triu(1).any()
    transformers = pytest.importorskip("transformers")
    theirs, ours = both(SMALL)
    assert transformers and theirs.set_attn_implementation("eager") is None
    expected = theirs(idx, output_attentions=True).attentions
    assert_close(ours.attention_weights(idx), torch.stack(expected))


def test_a_block_without_its_attention_changes_each_token_alone():
    block = Block(SMALL).eval()
    x = torch.randn(1, 5, 16, generator=seeded())
    changed = x.clone()
    changed[0, 1] += 1
    outputs = [
        block(y, lambda q, k, v: torch.zeros_like(q)) for y in (x, changed)
    ]
    moved = (outputs[0] - outputs[1]).abs().amax(-1)[0] > 0
    assert moved.tolist() == [False, True, False, False, False]


def test_targets_of_minus_100_are_left_out_of_the_loss():
    model = small().eval()
    idx, targets = ids(1, 8), ids(1, 8, seed=1)
    targets[0, :7] = -100
    logits, loss = model(idx, targets)
    log_probability = logits[0, 7].log_softmax(-1)[targets[0, 7]]
    assert_close(loss, -log_probability)


def test_while_experts_train_the_loss_holds_them_to_even_use():
    model = small(n_expert=3, n_expert_used=1, balance_weight=0.5).train()
    idx = ids(2, 16)
    training = model(idx, idx)[1]
    layers = [block.feed_forward for block in model.blocks]
    balance = torch.stack([layer.balance for layer in layers]).mean()
    assert_close(model.balance(), balance)
    plain = model.eval()(idx, idx)[1]
    assert_close(training, plain + 0.5 * balance)
    balance.backward()
    for layer in layers:
        assert layer.router.weight.grad.abs().sum() > 0
    assert torch.equal(small().train().balanced(plain), plain)


@pytest.mark.parametrize("n_kv_head", [None, 1])
def test_a_block_alone_computes_what_it_does_in_the_model(n_kv_head):
    model = small(n_kv_head=n_kv_head, n_layer=1).eval()
    x = model.embed(ids(2, 9))
    alone = model.final_norm(model.blocks[0](x))
    assert_close(alone, model.hidden(ids(2, 9)))


def test_dropout_moves_the_training_pass_only():
    model = small(dropout=0.2)
    idx = ids(1, 8)
    assert not torch.equal(model.train()(idx)[0], model(idx)[0])
    assert torch.equal(model.eval()(idx)[0], model(idx)[0])


@pytest.mark.parametrize("bad", [-1, 60])
def test_ids_out_of_range_are_named_with_the_vocabulary(bad):
    with pytest.raises(ValueError, match="ids 0 to 59"):
        small()(torch.tensor([[1, bad]]))


@pytest.mark.parametrize(
    "idx",
    [
        torch.tensor([1, 2]),
        torch.zeros(1, 2),
        torch.zeros(1, 0).long(),
        torch.ones(1, 2, dtype=torch.bool),
        torch.ones(1, 2, dtype=torch.uint8),
        torch.ones(1, 2, dtype=torch.complex64),
    ],
    ids=lambda idx: f"{tuple(idx.shape)} {idx.dtype}",
)
def test_what_is_no_batch_of_ids_is_refused(idx):
    with pytest.raises(ValueError, match="expected whole numbers"):
        check_ids(idx, 60)


def test_a_sequence_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="Keep only the last 16 tokens"):
        small()(ids(1, 17))


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="one target a token"):
        small()(ids(1, 8), ids(1, 7))


def test_the_wrong_number_of_attention_functions_is_refused():
    with pytest.raises(ValueError, match="3 attention functions for 2"):
        small()(ids(1, 8), attends=[record_weights([])] * 3)
