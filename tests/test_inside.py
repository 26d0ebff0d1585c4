"""inside.py against transformers, by hand, and by sums that must come out."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from llmbook import lora
from llmbook.attention import causal_mask, naive_attention
from llmbook.batching import generate_batch, logprobs
from llmbook.config import POSITIONS, GPTConfig, RopeScaling
from llmbook.hub import from_pretrained_gpt2
from llmbook.inside import (
    frozen_norm,
    heads_off,
    logit_lens,
    logit_parts,
    look,
    looks_back,
    mean_mixed,
)
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.train import document_loss
from tests.peers import peer_gpt2
from tests.references import LLAMA, llama_of, spread

SHAPES = [
    *({"positions": positions} for positions in POSITIONS),
    {"positions": "rotary", "n_kv_head": 2, "window": 3, "bias": False},
    {"positions": "alibi", "n_kv_head": 1, "window": 2},
    {"n_kv_head": 2, "norm": "rmsnorm", "feed_forward": "swiglu"},
    {"n_expert": 4, "feed_forward": "swiglu", "tie_weights": False},
    {"window": 1, "dropout": 0.5},
]


def small(**changes):
    config = GPTConfig(
        **{
            "vocab_size": 40,
            "context_length": 16,
            "n_layer": 3,
            "n_head": 4,
            "n_embd": 16,
            "init_std": 0.3,
            **changes,
        }
    )
    generator = torch.Generator().manual_seed(0)
    model = GPT(config, generator)
    with torch.no_grad():  # biases and gains start constant: move them too
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=generator
            )
    return model.eval()


def ids(B=2, T=7, V=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(V, (B, T), generator=generator)


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    ]


# Against transformers


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    theirs = peer_gpt2(attn_implementation="eager")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    idx = ids(V=60)
    with torch.no_grad():
        expected = theirs(
            idx, output_attentions=True, output_hidden_states=True
        )
    ours = from_pretrained_gpt2(folder)
    return theirs, expected, ours, look(ours, idx)


def test_weights_are_those_of_transformers(gpt2):
    _, expected, _, seen = gpt2
    assert_close(seen.weights, torch.stack(expected.attentions))


def test_the_stream_is_that_of_transformers(gpt2):
    _, expected, ours, seen = gpt2
    *before, last = expected.hidden_states  # the last is taken after ln_f
    assert_close(
        seen.residual[:-1:2], torch.stack(before), atol=1e-5, rtol=1e-4
    )
    after = ours.final_norm(seen.residual[-1])
    assert_close(after, last, atol=1e-5, rtol=1e-4)


def test_the_lens_reads_the_hidden_states_of_transformers(gpt2):
    theirs, expected, ours, seen = gpt2
    with torch.no_grad():
        early = [
            theirs.lm_head(theirs.transformer.ln_f(x))
            for x in expected.hidden_states[:-1]
        ]
    readings = logit_lens(ours, seen)
    wanted = torch.stack([*early, expected.logits])
    assert_close(readings[::2], wanted, atol=1e-4, rtol=1e-4)


def test_a_cut_head_is_the_one_that_transformers_masks(gpt2):
    """Silence by a hook of ours, and by one on their c_proj."""
    theirs, _, ours, seen = gpt2

    def hush(_, read):
        x = read[0].clone()
        x[..., 8:16] = 0.0  # head 1 of 2, 8 numbers wide
        return (x,)

    hook = theirs.transformer.h[0].attn.c_proj.register_forward_pre_hook(hush)
    with torch.no_grad(), heads_off(ours, [(0, 1)]):
        assert_close(
            ours(seen.ids)[0], theirs(seen.ids).logits, atol=1e-4, rtol=1e-4
        )
    hook.remove()


@pytest.fixture(
    scope="module",
    params=[
        {"n_kv_head": 2, "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 16)},
        {"n_kv_head": 1, "tie_weights": False, "n_expert": 4},
        {"window": 3},
    ],
    ids=str,
)
def llama(request):
    """Llama, Mixtral and Mistral: what they saw, and what we see."""
    shape = dict(vocab_size=60, n_layer=3, n_head=4, n_embd=32, init_std=0.3)
    ours = spread(GPTConfig(**{**shape, **LLAMA, **request.param}))
    theirs, idx, read = llama_of(ours), ids(T=9, V=60), []
    theirs.set_attn_implementation("eager")
    for layer in theirs.model.layers:
        for part in (layer.post_attention_layernorm, layer.self_attn.o_proj):
            part.register_forward_pre_hook(lambda _, x: read.append(x[0]))
    kept = {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        told = theirs(idx, use_cache=True, **kept)
    mixed, between = torch.stack(read[::2]), torch.stack(read[1::2])
    return theirs, told, mixed, between, ours, look(ours, idx)


def test_weights_and_streams_are_those_of_transformers_llama(llama):
    _, told, _, between, ours, seen = llama
    assert_close(seen.weights, torch.stack(told.attentions))
    *before, last = told.hidden_states
    near = {"atol": 1e-4, "rtol": 1e-4}
    assert_close(seen.residual[:-1:2], torch.stack(before), **near)
    assert_close(seen.residual[1::2], between, **near)
    assert_close(ours.final_norm(seen.residual[-1]), last, **near)
    assert_close(seen.logits, told.logits, **near)


def test_keys_and_values_are_those_in_transformers_cache(llama):
    """Its cache holds the newest of a window alone."""
    _, told, _, _, ours, seen = llama
    shared = ours.config.n_head // ours.config.kv_heads
    for layer, kept in enumerate(told.past_key_values.layers):
        T = kept.keys.shape[-2]
        for seen_here, theirs in (
            (seen.keys[layer], kept.keys),
            (seen.values[layer], kept.values),
        ):
            theirs = torch.stack([theirs] * shared, dim=2).flatten(1, 2)
            assert_close(seen_here[..., -T:, :], theirs, atol=1e-5, rtol=1e-4)


def test_heads_write_what_transformers_projects(llama):
    theirs, _, mixed, _, ours, seen = llama
    D = ours.config.head_dim
    for layer, block in enumerate(theirs.model.layers):
        for head in range(ours.config.n_head):
            alone = torch.zeros_like(mixed[layer])
            own = slice(head * D, (head + 1) * D)
            alone[..., own] = mixed[layer][..., own]
            with torch.no_grad():
                wanted = block.self_attn.o_proj.forward(alone)
            assert_close(
                seen.heads[layer, :, head], wanted, atol=1e-5, rtol=1e-4
            )


# By hand


def test_two_tokens_worked_by_hand():
    config = GPTConfig(
        vocab_size=2,
        context_length=2,
        n_layer=1,
        n_head=1,
        n_embd=2,
        d_ff=1,
        bias=False,
        positions="none",
        norm="rmsnorm",
        norm_eps=1e-12,
    )
    model = GPT(config)
    block, half = model.blocks[0], math.sqrt(2) * math.log(3) / 2
    with torch.no_grad():
        model.token_embedding.weight[:] = torch.tensor([[1.0, 1], [1, -1]])
        queries = torch.tensor([[0.0, 0], [0, half]])
        block.attention.qkv.weight[:] = torch.cat(
            [queries, torch.eye(2), torch.eye(2)]
        )
        block.attention.output.weight[:] = 2 * torch.eye(2)
        block.feed_forward.down.weight.zero_()
    seen = look(model, torch.tensor([[0, 1]]))
    # scores of the second: -ln 3 / 2 and ln 3 / 2, so shares 1/4 and 3/4
    second = seen.weights[0, 0, 0, 1]
    assert_close(second, torch.tensor([0.25, 0.75]))
    # it fetches (1, 1) / 4 + 3 (1, -1) / 4 = (1, -1/2) and writes the double
    assert_close(seen.heads[0, 0, 0, 1], torch.tensor([2.0, -1.0]))
    assert_close(seen.residual[1, 0, 1], torch.tensor([3.0, -2.0]))
    assert_close(seen.residual[2], seen.residual[1])
    # root mean square of (3, -2) is sqrt(13 / 2); the head adds, subtracts
    wanted = torch.tensor([1.0, 5.0]) / math.sqrt(6.5)
    assert_close(seen.logits[0, 1], wanted)
    assert_close(logit_lens(model, seen)[0, 0, 1], torch.tensor([0.0, 2.0]))


# By sums, for every kind of model


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_logits_are_the_models_own(shape):
    model, idx = small(**shape), ids()
    with torch.no_grad():
        assert torch.equal(look(model, idx).logits, model(idx)[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_written_adds_up_to_the_stream(shape):
    model, idx = small(**shape), ids()
    seen = look(model, idx)
    with torch.no_grad():
        x = model.embed(idx)
        for layer, block in enumerate(model.blocks):
            assert_close(seen.residual[2 * layer], x)
            x = x + seen.heads[layer].sum(1)
            bias = block.attention.output.bias
            x = x if bias is None else x + bias
            assert_close(seen.residual[2 * layer + 1], x, atol=1e-5, rtol=1e-5)
            x = x + block.feed_forward(block.norm_2(x))
        logits = F.linear(model.final_norm(x), model.head_weight)
    assert_close(seen.logits, logits, atol=1e-4, rtol=1e-4)
    assert_close(logit_lens(model, seen)[-1], seen.logits)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_follow_from_queries_and_keys(shape):
    model, idx = small(**shape), ids()
    seen = look(model, idx)
    assert_close(seen.weights, model.attention_weights(idx))
    scores = seen.queries @ seen.keys.mT / math.sqrt(seen.keys.shape[-1])
    closed = seen.weights == 0
    shares = scores.masked_fill(closed, -math.inf).softmax(-1)
    assert_close(seen.weights, shares)
    assert closed[..., 0, 1:].all()  # the first token sees only itself
    assert not closed.diagonal(dim1=-2, dim2=-1).any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_head_writes_its_mix_through_its_columns(shape):
    model, idx = small(**shape), ids()
    seen, D = look(model, idx), model.config.head_dim
    assert seen.values.shape[-1] == D
    for layer, block in enumerate(model.blocks):
        columns = block.attention.output.weight.split(D, dim=1)
        for head, through in enumerate(columns):
            mixed = seen.weights[layer, :, head] @ seen.values[layer, :, head]
            assert_close(
                seen.heads[layer, :, head], mixed @ through.T.detach()
            )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_parts_of_a_logit_add_up_to_it(shape):
    model, idx, tokens = small(**shape), ids(), ids(seed=3)
    seen = look(model, idx)
    parts = logit_parts(model, seen, tokens)
    total = sum(
        part.sum(dim=tuple(range(part.ndim - 2)))
        if name == "feed_forward"
        else part.sum(dim=(0, 2))
        if name == "heads"
        else part
        for name, part in parts.items()
    )
    wanted = seen.logits.gather(-1, tokens[..., None])[..., 0]
    wanted = wanted - seen.logits.mean(-1)
    assert_close(total, wanted, atol=1e-4, rtol=1e-4)


def test_each_part_of_a_logit_is_what_a_frozen_norm_lets_through():
    """The length of the stream measured once, and each part alone."""
    model, idx, tokens = small(), ids(), ids(seed=3)
    seen = look(model, idx)
    parts = logit_parts(model, seen, tokens)
    norm, table = model.final_norm, model.head_weight
    for b, t in ((0, 0), (1, 6)):
        end = seen.residual[-1, b, t]
        deviation = (end.var(correction=0) + norm.eps).sqrt()

        def logit(x, b=b, t=t, deviation=deviation):
            z = table @ ((x - x.mean()) / deviation * norm.weight)
            return z[tokens[b, t]] - z.mean()

        near = {"atol": 1e-4, "rtol": 1e-4}
        embedding = model.embed(idx)[b, t]
        assert_close(parts["embedding"][b, t], logit(embedding), **near)
        for layer, block in enumerate(model.blocks):
            for head in range(4):
                got = parts["heads"][layer, b, head, t]
                assert_close(got, logit(seen.heads[layer, b, head, t]), **near)
            x = seen.residual[2 * layer + 1, b, t]
            written = block.feed_forward(block.norm_2(x))
            got = parts["feed_forward"][layer, b, t]
            assert_close(got, logit(written), **near)


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (ids()[0], r"\(7,\)"),
        (ids(B=1), r"\(1, 7\)"),
        (ids()[:, 1:], r"\(2, 6\)"),
        (ids() - 100, "ids from"),
    ],
)
def test_tokens_that_are_not_one_for_each_id_are_refused(tokens, named):
    model = small()
    with pytest.raises(ValueError, match=named):
        logit_parts(model, look(model, ids()), tokens)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_a_frozen_norm_is_the_norm_where_it_froze(norm):
    model, x = small(norm=norm), torch.randn(2, 3, 16)
    bias = getattr(model.final_norm, "bias", None)
    frozen = frozen_norm(model.final_norm, x, x)
    frozen = frozen if bias is None else frozen + bias
    assert_close(frozen, model.final_norm(x))


def test_looking_back_counts_the_queries_that_have_such_a_token():
    weights = torch.rand(2, 6, 6)
    for distance in range(6):
        for start in range(6):
            shares = [
                weights[:, query, query - distance]
                for query in range(max(start, distance), 6)
            ]
            assert_close(
                looks_back(weights, distance, start),
                torch.stack(shares).mean(0),
            )


@pytest.mark.parametrize(("distance", "start"), [(6, 0), (-1, 0), (1, 6)])
def test_a_distance_that_no_query_has_is_refused(distance, start):
    with pytest.raises(ValueError, match="both are from 0 to 5"):
        looks_back(torch.rand(6, 6), distance, start)


@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_weights_of_sixteen_bits_are_computed_in_thirty_two(shape):
    """ALiBi's keys carry their place: in 16 bits, scores lose a unit."""
    model = small(context_length=256, **shape).bfloat16()
    seen = look(model, ids(B=1, T=200))
    for q, k, weights in zip(
        seen.queries, seen.keys, seen.weights, strict=True
    ):
        wanted = naive_attention(
            q.double(), k.double(), k.double(), causal_mask(200)
        )[1]
        assert_close(weights, wanted.float(), atol=1e-4, rtol=1e-3)


def test_rotary_queries_and_keys_are_seen_turned():
    model = small(positions="rotary", n_kv_head=2)
    seen = look(model, torch.full((1, 9), 5))  # one token, nine times
    first = seen.queries[0], seen.keys[0]  # below, all positions are alike
    for x in first:
        assert not torch.allclose(x[..., 0, :], x[..., 1, :])
        assert_close(
            x.norm(dim=-1), x[..., :1, :].norm(dim=-1).expand(1, 4, 9)
        )
    assert torch.equal(seen.keys[:, :, 0], seen.keys[:, :, 1])  # one group
    assert not torch.allclose(seen.keys[:, :, 1], seen.keys[:, :, 2])


def test_alibis_keys_carry_two_more_numbers():
    seen = look(small(positions="alibi"), ids())
    assert seen.keys.shape[-1] == seen.queries.shape[-1] == 4 + 2
    assert seen.values.shape[-1] == 4


def test_adapters_are_seen_too():
    model, idx = small(), ids()
    generator = torch.Generator().manual_seed(0)
    lora.apply(model, rank=2, dropout=0.5, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".B"):
                parameter += 1.0
    seen = look(model.train(), idx)
    assert model.training
    bias = model.blocks[0].attention.output.base.bias
    written = seen.heads[0].sum(1) + bias
    assert_close(seen.residual[1] - seen.residual[0], written.detach())


def test_dropout_is_off_while_looking_and_on_again_after():
    model, idx = small(dropout=0.5).train(), ids()
    first, second = look(model, idx), look(model, idx)
    assert torch.equal(first.logits, second.logits)
    assert model.training
    assert not first.logits.requires_grad


# Heads off


def without_columns(model, layer, head):
    """The same model, the head's columns of the projection put to 0."""
    D = model.config.head_dim
    copy = GPT(model.config).eval()
    copy.load_state_dict(model.state_dict())
    weight = copy.blocks[layer].attention.output.weight
    with torch.no_grad():
        weight[:, head * D : (head + 1) * D] = 0.0
    return copy


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_head_that_is_off_is_as_good_as_cut_out(shape):
    model, idx = small(**shape), ids()
    cut = without_columns(model, 1, 2)
    with torch.no_grad(), heads_off(model, [(1, 2)]):
        assert_close(model(idx)[0], cut(idx)[0])
        assert not torch.allclose(cut(idx)[0], small(**shape)(idx)[0])
        assert look(model, idx).heads[1, :, 2].abs().max() == 0


@pytest.mark.parametrize("shape", SHAPES[:8], ids=str)
def test_it_is_off_whatever_runs_the_model(shape):
    model = small(**shape)
    cut = without_columns(model, 0, 1)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    for use_cache in (True, False):
        wanted = [
            generate(cut, p, 6, temperature=0, use_cache=use_cache)
            for p in prompts
        ]
        with heads_off(model, [(0, 1)]):
            got = [
                generate(model, p, 6, temperature=0, use_cache=use_cache)
                for p in prompts
            ]
        assert got == wanted
    with heads_off(model, [(0, 1)]):
        new = generate_batch(model, prompts, 6, temperature=0)
        scored = logprobs(model, prompts[:2])
        loss = document_loss(model, prompts, 0)
    assert new == [w[len(p) :] for p, w in zip(prompts, wanted, strict=True)]
    assert_close(scored, logprobs(cut, prompts[:2]))
    assert loss == pytest.approx(document_loss(cut, prompts, 0), rel=1e-5)


def test_several_heads_and_nested_contexts_add_up():
    model, idx = small(), ids()
    with heads_off(model, [(0, 0), (2, 3)]):
        together = look(model, idx)
    with heads_off(model, [(0, 0)]), heads_off(model, iter([(2, 3)])):
        nested = look(model, idx)
    assert torch.equal(together.logits, nested.logits)
    silent = together.heads.abs().sum(dim=(1, 3, 4)) == 0
    assert silent.nonzero().tolist() == [[0, 0], [2, 3]]


def test_no_heads_off_changes_nothing():
    model, idx = small(), ids()
    with heads_off(model, []):
        assert torch.equal(look(model, idx).logits, model(idx)[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_head_held_at_its_mean_writes_the_same_everywhere(shape):
    model, idx, others = small(**shape), ids(), ids(B=5, seed=2)
    mean = look(model, others).heads[1, :, 3].mean(dim=(0, 1))  # (C,)
    with heads_off(model, [(1, 3)], mean_over=others):
        written = look(model, idx).heads[1, :, 3]
    assert_close(written, mean.expand_as(written))


def compiled(model):
    torch.compiler.reset()
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    torch.compiler.reset()
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("way", [compiled, compiled_in_place])
@torch.no_grad()
def test_a_graph_compiled_before_obeys_and_is_seen(way):
    model, idx = small(), ids()
    cut, plain = without_columns(model, 1, 2), look(model, idx)
    fast = way(model)
    expected = fast(idx)[0]  # the graph is made here, without hooks
    with heads_off(fast, [(1, 2)]):
        assert_close(fast(idx)[0], cut(idx)[0])
    with heads_off(model, [(1, 2)], mean_over=idx):
        held = fast(idx)[0]
    assert not torch.allclose(held, expected)
    assert_close(look(fast, idx).residual, plain.residual)
    assert_close(logit_lens(fast, idx)[-1], plain.logits)
    assert torch.equal(fast(idx)[0], expected)
    assert not hooks_of(model)


def test_the_mean_is_taken_of_the_model_before_heads_are_off():
    model, others = small(), ids(B=5, seed=2)
    before = mean_mixed(model, others)
    with heads_off(model, [(0, 0), (2, 1)], mean_over=others):
        after = mean_mixed(model, others)
    assert_close(after[2, 4:8], before[2, 4:8])


def test_a_silent_head_learns_nothing():
    model, idx = small(), ids()
    with heads_off(model, [(1, 2)]):
        model(idx, idx)[1].backward()
    attention = model.blocks[1].attention
    columns = attention.output.weight.grad.split(4, dim=1)
    assert [c.abs().sum().item() > 0 for c in columns] == [1, 1, 0, 1]
    rows = attention.qkv.weight.grad.view(3, 4, 4, 16).abs().sum(dim=(0, 2, 3))
    assert [r.item() > 0 for r in rows] == [1, 1, 0, 1]


# What is left behind: nothing


def test_hooks_are_gone_after_a_look_and_after_an_error():
    model = small().train()
    look(model, ids())
    assert not hooks_of(model)
    for bad in (torch.tensor([[99]]), torch.zeros(1, 17, dtype=torch.long)):
        with pytest.raises(ValueError, match="got"):
            look(model, bad)
        assert not hooks_of(model)
        assert model.training


def test_heads_are_on_again_after_an_error():
    model, idx = small(), ids()
    expected = model(idx)[0]
    with pytest.raises(KeyboardInterrupt), heads_off(model, [(0, 0)]):
        raise KeyboardInterrupt
    assert not hooks_of(model)
    assert torch.equal(model(idx)[0], expected)


@pytest.mark.parametrize(
    "heads", [[(3, 0)], [(0, 4)], [(-1, 0)], [(0, 0, 0)], (0, 1), ["01"]]
)
def test_heads_that_are_not_there_are_refused(heads):
    model = small()
    expected = r"\(layer, head\), with layers 0 to 2 and heads 0 to 3"
    with (
        pytest.raises(ValueError, match=expected),
        heads_off(model, heads),
    ):
        pass
    assert not hooks_of(model)


def test_looks_of_one_token_and_of_the_full_context_work():
    model = small()
    for T in (1, 16):
        seen = look(model, ids(B=1, T=T))
        assert seen.weights.shape == (3, 1, 4, T, T)
        assert_close(seen.weights.sum(-1), torch.ones(3, 1, 4, T))
