"""decoding.py: the lean step computes what the model itself computes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from llmbook import inside, lora
from llmbook.batching import generate_batch
from llmbook.config import GPTConfig, RopeScaling
from llmbook.decoding import Decoder, covers
from llmbook.model import GPT
from llmbook.sampling import cached_logits, generate, new_cache, stream
from tests.feeding import fed
from tests.references import LLAMA, llama_of, spread

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
BASE = GPTConfig(
    vocab_size=61,
    context_length=16,
    n_layer=2,
    n_head=4,
    n_embd=32,
    init_std=0.2,
)
EXPERTS = {"n_expert": 4, "n_expert_used": 2}
SCALING = RopeScaling(factor=4.0, original_context_length=8)
CHANGES = [
    {},
    {"bias": False},
    {"positions": "sinusoidal", "tie_weights": False},
    {"positions": "none", "n_layer": 1, "n_head": 1},
    {"positions": "alibi", "n_head": 2},
    {"positions": "alibi", "n_kv_head": 2, "window": 5},
    {"window": 1},
    {"dropout": 0.5},
    EXPERTS,
    LLAMA,
    {**LLAMA, "n_kv_head": 1, "window": 5, "rope_scaling": SCALING},
    {**LLAMA, **EXPERTS, "n_kv_head": 2, "tie_weights": False},
]
GPT2, LLAMA_2 = {}, {**LLAMA, "n_kv_head": 2}


def named(changes):
    return ",".join(f"{k}={v}" for k, v in changes.items() if k in vars(BASE))


every_configuration = pytest.mark.parametrize("changes", CHANGES, ids=named)


def build(changes, seed=0):
    return spread(replace(BASE, **changes), seed)


def ids(B, T, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(BASE.vocab_size, (B, T), generator=source)


def stepped(model, x, read, packed=False):
    """Logits of ``x`` whose first ``read`` tokens the model reads itself."""
    cache = new_cache(model, len(x))
    first = fed(model, x, [read], cache) if read else None
    decoder = Decoder(model, cache, packed)
    rest = [decoder.step(column) for column in x[:, read:].T]
    found = torch.stack(rest, dim=1)
    return found if first is None else torch.cat([first, found], dim=1)


@pytest.fixture
def steps(monkeypatch):
    """How many lean steps were taken, one entry each."""
    taken, plain = [], Decoder.step

    def noted(self, row):
        taken.append(len(row))
        return plain(self, row)

    monkeypatch.setattr(Decoder, "step", noted)
    return taken


@every_configuration
@pytest.mark.parametrize("seed", range(3))
def test_a_step_has_the_logits_of_the_plain_pass(changes, seed):
    model = build(changes, seed)
    for B, read in (1, 0), (1, 7), (3, 0), (3, 7), (2, 15):
        x = ids(B, 16, seed)
        with torch.no_grad():
            expected, _ = model(x)
        for packed in (False, True):
            found = stepped(model, x, read, packed)
            assert_close(found, expected, **CLOSE)


@every_configuration
def test_greedy_tokens_are_those_of_the_plain_pass(changes, steps):
    model = build(changes)
    for prompts in ids(1, 3), ids(3, 5, seed=1):
        T = prompts.shape[1]
        for count in (1, 9, 16 - T, 30):  # 30 is past the context
            steps.clear()
            found = generate(model, prompts, count, temperature=0)
            assert len(steps) == min(count - 1, 16 - T)
            plain = generate(
                model, prompts, count, temperature=0, use_cache=False
            )
            assert found == plain


@pytest.mark.parametrize("changes", [GPT2, LLAMA_2], ids=["gpt2", "llama"])
def test_draws_are_those_of_the_plain_pass(changes):
    model = build(changes)
    for seed in range(3):
        choices = {"seed": seed, "temperature": 0.8, "top_p": 0.9}
        choices["repetition_penalty"] = 1.3
        found = generate(model, [1, 2], 14, **choices)
        assert found == generate(model, [1, 2], 14, use_cache=False, **choices)
        assert found[2:] == list(stream(model, [1, 2], 14, **choices))


def test_greedy_tokens_are_transformers_llamas(steps):
    ours = build({**LLAMA, "n_kv_head": 2})
    theirs = llama_of(ours)
    for B in (1, 3):
        prompts = ids(B, 4)
        expected = theirs.generate(
            prompts, max_new_tokens=12, do_sample=False, use_cache=True
        )
        found = generate(ours, prompts, 12, temperature=0)
        assert found == expected.tolist()
    assert len(steps) == 2 * 11


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("changes", [GPT2, LLAMA_2], ids=["gpt2", "llama"])
def test_in_16_bits_a_step_is_as_near_as_the_plain_pass(changes, dtype):
    model, x = build(changes), ids(2, 16)
    small = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        exact, plain = model(x)[0], small(x)[0].float()
    for rows in x, x[:1]:
        found = stepped(small, rows, 3).float()
        error = (found - exact[: len(rows)]).norm()
        assert error < 2 * (plain - exact)[: len(rows)].norm()


def test_steps_fill_the_cache_as_the_plain_pass_does():
    for changes in GPT2, {"positions": "alibi", "window": 5}, LLAMA_2:
        model, x = build(changes), ids(2, 9)
        cache, other = new_cache(model, 2, 9), new_cache(model, 2, 9)
        decoder = Decoder(model, cache)
        for column in x.T:
            decoder.step(column)
        fed(model, x, [9], other)
        assert_close(cache.keys, other.keys, **CLOSE)
        assert_close(cache.values, other.values, **CLOSE)


def test_the_model_and_a_step_take_turns_on_one_cache():
    model, x = build(LLAMA_2), ids(2, 8)
    cache = new_cache(model, 2)
    decoder = Decoder(model, cache)
    with torch.no_grad():
        cached_logits(model, x[:, :3], cache)
        decoder.step(x[:, 3])
        cached_logits(model, x[:, :6], cache)
        decoder.step(x[:, 6])
        found = decoder.step(x[:, 7])
        assert_close(found, model(x)[0][:, -1], **CLOSE)


def test_a_full_cache_refuses_a_step_and_is_left_alone():
    model = build({})
    cache = new_cache(model, 1, tokens=2)
    decoder = Decoder(model, cache)
    for token in (1, 2):
        decoder.step(torch.tensor([token]))
    with pytest.raises(ValueError, match="holds 2 of 2 tokens"):
        decoder.step(torch.tensor([3]))
    assert cache.length == 2
    cache = new_cache(model, 1)
    cache.length = 16
    with pytest.raises(ValueError, match="positions 0 to 15"):
        Decoder(model, cache).step(torch.tensor([3]))


def test_weights_that_change_between_calls_and_steps_are_seen():
    model = build({})
    before = generate(model, [1], 12, temperature=0)
    tokens = stream(model, [1], 12, temperature=0)
    assert next(tokens) == before[1]
    with torch.no_grad():  # now token 60 always wins
        model.final_norm.weight.zero_()
        model.final_norm.bias.copy_(model.token_embedding.weight[60])
        model.token_embedding.weight[60] *= 10
        model.final_norm.bias *= 10
    assert set(tokens) == {60}
    assert generate(model, [1], 3, temperature=0) == [1, 60, 60, 60]


def test_copies_of_weights_that_have_changed_are_not_used(steps, monkeypatch):
    monkeypatch.setattr("llmbook.sampling.PACKING_PAYS", 1)
    model = build({})
    before = generate(model, [1], 12, temperature=0)
    tokens = stream(model, [1], 12, temperature=0)
    assert [next(tokens) for _ in range(3)] == before[1:4]
    steps.clear()
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight.mul_(-3.0)
    after = generate(model, before[:4], 9, temperature=0, use_cache=False)
    assert len([*tokens]) == 9 and not steps  # the model itself goes on
    assert generate(model, before[:4], 9, temperature=0) == after
    assert len(steps) == 8


def test_copies_take_no_more_memory_than_they_may(monkeypatch):
    model = build({})
    expected = generate(model, [1], 12, temperature=0)
    qkv = model.blocks[0].attention.qkv.weight
    for most, count in ((qkv.nbytes - 1, 2), (2**29, 7)):
        monkeypatch.setattr("llmbook.decoding.COPIES", most)
        decoder = Decoder(model, new_cache(model, 1), packed=True)
        assert len(decoder._copied) == count
        step = [decoder.step(torch.tensor([t])).argmax() for t in expected]
        assert step[:12] == expected[1:]


def test_adapters_are_heard_on_and_merged(steps):
    model = build({})
    lora.apply(model, rank=2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in lora.adapters(model).values():
            layer.B.normal_(0, 0.2, generator=torch.Generator())
    assert not covers(model)
    found = generate(model, [1, 2], 10, temperature=0)
    assert not steps
    lora.merge(model)
    assert generate(model, [1, 2], 10, temperature=0) == found
    assert len(steps) == 9


def test_heads_that_are_off_stay_off(steps):
    model = build({})
    usual = generate(model, [5, 6], 12, temperature=0)
    steps.clear()
    with inside.heads_off(model, [(0, 0), (0, 1), (1, 2)]):
        found = generate(model, [5, 6], 12, temperature=0)
        plain = generate(model, [5, 6], 12, temperature=0, use_cache=False)
    assert found == plain != usual
    assert not steps


def test_a_hook_that_comes_between_two_tokens_is_called(steps):
    model, called = build({}), []
    tokens = stream(model, [1], 8, temperature=0)
    next(tokens), next(tokens)
    layer = model.blocks[1].feed_forward
    hook = layer.register_forward_hook(lambda *_: called.append(1))
    next(tokens), next(tokens)
    hook.remove()
    assert len(list(tokens)) == 4
    assert (len(called), len(steps)) == (2, 5)


def test_what_is_not_known_is_left_to_the_model(steps):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    own, other = build({}), build({})
    other.blocks[0].feed_forward.up.__class__ = Doubled
    for layer in own.blocks[0].feed_forward, other.blocks[0].feed_forward:
        assert layer is not None
    feed = own.blocks[0].feed_forward
    feed.forward = lambda x: torch.zeros_like(x)
    for model in own, other:
        assert not covers(model)
        found = generate(model, [1], 8, temperature=0)
        assert found == generate(model, [1], 8, temperature=0, use_cache=False)
        with pytest.raises(ValueError, match="does not know"):
            Decoder(model, new_cache(model, 1))
    assert not steps


def test_under_autocast_the_model_itself_runs(steps):
    model = build({})
    with torch.autocast("cpu", torch.bfloat16):
        generate(model, [1], 4, temperature=0)
    assert not steps
    generate(model, [1], 4, temperature=0)
    assert len(steps) == 3


def test_a_model_in_training_generates_without_dropout_and_trains_on():
    model = build({"dropout": 0.5, **EXPERTS})
    found = generate(model.eval(), [1, 2], 9, temperature=0)
    assert generate(model.train(), [1, 2], 9, temperature=0) == found
    assert model.training and model.blocks[0].feed_forward.training
    model(ids(2, 16), ids(2, 16))[1].backward()  # nothing of it was kept


def test_a_batch_of_the_batching_package_gets_the_same_tokens():
    model = build(LLAMA_2)
    prompts = [ids(1, T, seed=T)[0].tolist() for T in (2, 5, 3)]
    choices = {"temperature": 0, "repetition_penalty": 1.5}
    new = generate_batch(model, prompts, 9, **choices)
    alone = [generate(model, prompt, 9, **choices) for prompt in prompts]
    assert [p + n for p, n in zip(prompts, new, strict=True)] == alone


def test_only_a_model_of_ours_is_covered():
    assert covers(GPT(BASE)) and covers(GPT(replace(BASE, **EXPERTS)))
    assert not covers(nn.Linear(2, 2))
    assert not covers(torch.compile(GPT(BASE)))
