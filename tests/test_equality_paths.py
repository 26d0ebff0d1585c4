"""Every way through a model gives the same: cached, batched, compiled.

For every kind of positions, norm and feed-forward, for grouped heads,
windows and experts. The plain pass over one text is the definition.
"""

import copy
import json
import os
import shutil
from dataclasses import fields, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from llmbook import checkpoint
from llmbook.accounting import cache_bytes
from llmbook.attention import record_weights
from llmbook.batching import (
    document_numbers,
    generate_batch,
    logprobs,
    packed_inputs,
    score_pairs,
    shared_prefix,
)
from llmbook.cache import KVCache
from llmbook.config import POSITIONS, GPTConfig, RopeScaling
from llmbook.model import GPT
from llmbook.sampling import generate, new_cache
from tests.feeding import fed
from tests.references import LLAMA, spread

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LOOSE = {"atol": 1e-4, "rtol": 1e-4}  # through several layers, for scores
BASE = GPTConfig(
    vocab_size=61,
    context_length=16,
    n_layer=2,
    n_head=4,
    n_embd=32,
    init_std=0.2,
)
SCALING = RopeScaling(factor=4.0, original_context_length=8)
EXPERTS = {"n_expert": 4, "n_expert_used": 2}
MIXED = ("learned", "rotary", "alibi")  # the others are added as learned ones
CHANGES = [
    *({"positions": name} for name in POSITIONS),
    *({"positions": name, "n_kv_head": 2, "window": 5} for name in MIXED),
    {"window": 1},
    {"window": 15},
    {"window": 16},
    EXPERTS,
    {**LLAMA, "rope_scaling": SCALING, "n_kv_head": 2, "tie_weights": False},
    {**LLAMA, **EXPERTS, "window": 4, "n_kv_head": 1},
    {"positions": "rotary", "n_head": 16},  # heads of two numbers
    {"n_head": 1, "n_layer": 1},
]
# With experts the graph depends on values: on which rows each of them gets.
ONE_GRAPH = [
    {},
    {**LLAMA, "rope_scaling": SCALING, "n_kv_head": 2, "tie_weights": False},
    {"positions": "alibi", "n_kv_head": 2, "window": 5},
]


def named(changes):
    return ",".join(f"{k}={v}" for k, v in changes.items() if k != "factor")


every_configuration = pytest.mark.parametrize("changes", CHANGES, ids=named)


def build(changes):
    return spread(replace(BASE, **changes))


def ids(B, T, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(BASE.vocab_size, (B, T), generator=source)


def rows(*lengths):
    return [ids(1, n, seed=n)[0].tolist() for n in lengths]


@every_configuration
def test_cached_is_uncached_however_the_text_is_cut(changes):
    model = build(changes)
    x, cache = ids(2, 16), new_cache(model, 2)
    with torch.no_grad():
        expected, _ = model(x)
    for pieces in [16], [1] * 16, [7, 1, 1, 6, 1], [1, 14, 1]:
        cache.clear()  # what the text before has left is not seen
        assert_close(fed(model, x, pieces, cache), expected, **CLOSE)
        x, expected = x.flip(0), expected.flip(0)


@every_configuration
def test_greedy_tokens_are_the_same_cached_uncached_and_batched(changes):
    model = build(changes)
    prompts = rows(3, 11, 1, 6)
    alone = [generate(model, p, 5, temperature=0) for p in prompts]
    plain = [
        generate(model, p, 5, temperature=0, use_cache=False) for p in prompts
    ]
    new = generate_batch(model, prompts, 5, temperature=0)
    assert alone == plain
    assert [p + n for p, n in zip(prompts, new, strict=True)] == alone
    assert len({tuple(n) for n in new}) > 1  # the prompts have their say


@every_configuration
def test_a_shared_prefix_changes_nothing_in_a_batch(changes):
    model = build(changes)
    before, rest = rows(7)[0], rows(3, 1, 5)
    whole = [before + row for row in rest]
    prefix = shared_prefix(model, before)
    found = generate_batch(model, whole, 4, prefix=prefix, temperature=0)
    assert found == generate_batch(model, whole, 4, temperature=0)
    pairs = [(w[:-1], [w[-1], 5, 9]) for w in whole]
    with_prefix = score_pairs(model, pairs, prefix=prefix)
    without = score_pairs(model, pairs)
    for one, other in zip(with_prefix, without, strict=True):
        assert_close(one.logprobs, other.logprobs, **LOOSE)


@torch.no_grad()
def scored_alone(model, context, continuation):
    logits, _ = model(torch.tensor([context + continuation]))
    predicted = logits[0, len(context) - 1 : -1].log_softmax(-1)
    return predicted.gather(-1, torch.tensor(continuation)[:, None])[:, 0]


@every_configuration
def test_answers_that_share_their_question_score_as_they_do_alone(changes):
    model = build(changes)
    questions, answers = rows(7, 2, 11), rows(1, 4, 3)
    pairs = [(q, a) for q in questions for a in answers]
    for pair, found in zip(pairs, score_pairs(model, pairs), strict=True):
        assert_close(found.logprobs, scored_alone(model, *pair), **LOOSE)
    texts = rows(16, 2, 7)
    for text, found in zip(texts, logprobs(model, texts), strict=True):
        expected = scored_alone(model, text[:1], text[1:])
        assert_close(found, expected, **LOOSE)


@every_configuration
def test_packed_documents_have_the_logits_they_have_alone(changes):
    model = build(changes)
    texts = [[60, *text] for text in rows(3, 6, 4)]  # 60 begins a document
    packed = torch.tensor([[token for text in texts for token in text]])
    packed[packed == 60] = 59
    starts = [0, 4, 11]
    packed[0, starts] = 60
    documents = document_numbers(packed, end_of_text=60)
    config = model.config
    with torch.no_grad():
        each = packed_inputs(documents, config.n_layer, config.window)
        logits, _ = model(packed, **each)
        for start, end in zip(starts, [4, 11, 16], strict=True):
            expected, _ = model(packed[:, start:end])
            assert_close(logits[:, start:end], expected, **CLOSE)


@every_configuration
def test_recorded_weights_are_those_of_the_pass_itself(changes):
    model = build(changes)
    x, store = ids(2, 16), []
    recorder = record_weights(store, model.config.window)
    with torch.no_grad():
        found, _ = model(x, attends=[recorder] * model.config.n_layer)
        assert_close(found, model(x)[0], **CLOSE)
    weights = model.attention_weights(x)
    assert_close(weights, torch.stack(store))
    assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    window = model.config.window or 16
    assert not weights.triu(1).any()
    assert not weights.tril(-window).any()


@every_configuration
def test_no_token_sees_a_later_one_nor_one_beyond_the_windows(changes):
    model = build(changes)
    x, changed = ids(1, 16), ids(1, 16)
    changed[0, 9] = (changed[0, 9] + 1) % 61
    with torch.no_grad():
        before, after = model(x)[0], model(changed)[0]
    moved = (before - after).abs().amax(-1)[0] > 1e-6
    assert not moved[:9].any() and moved[9]
    reach = model.config.n_layer * ((model.config.window or 16) - 1)
    assert not moved[9 + reach + 1 :].any()
    assert moved[9 : min(16, 9 + reach + 1)].any()


@every_configuration
def test_past_the_context_the_text_slides_with_a_cache_and_without(changes):
    model = build({**changes, "context_length": 8})
    [prompt] = rows(5)
    cached = generate(model, prompt, 9, temperature=0)
    plain = generate(model, prompt, 9, temperature=0, use_cache=False)
    assert cached == plain and len(cached) == 14


@every_configuration
def test_a_context_of_one_token_is_a_context(changes):
    model = build({**changes, "context_length": 1})
    cached = generate(model, [7], 5, temperature=0)
    assert cached == generate(model, [7], 5, temperature=0, use_cache=False)
    assert len(cached) == 6
    with torch.no_grad():
        logits, _ = model(torch.tensor([[7], [8]]))
        assert_close(
            fed(model, ids(2, 1), [1], new_cache(model, 2)),
            model(ids(2, 1))[0],
            **CLOSE,
        )
    [row] = logprobs(model, [[7, 3]])
    assert_close(row, logits[0, 0].log_softmax(-1)[3:4], **LOOSE)


@every_configuration
def test_each_parameter_learns(changes):
    model = build(changes).train()
    model(ids(4, 16), ids(4, 16, seed=1))[1].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if ".experts." not in name:
            assert parameter.grad.abs().sum() > 0, name


@every_configuration
def test_a_copy_after_training_computes_the_same(changes):
    model = build(changes).train()
    model(ids(2, 9), ids(2, 9))[1].backward()
    other = copy.deepcopy(model)
    assert torch.equal(model.eval()(ids(1, 9))[0], other.eval()(ids(1, 9))[0])


# The memory of a cache


@pytest.mark.parametrize("window, places", [(5, 5), (16, 16), (99, 16)])
def test_a_window_bounds_the_memory_of_the_cache(window, places):
    model = build({"window": window, "n_kv_head": 2})
    cache = new_cache(model, 3)
    assert cache.keys.shape == (2, 3, 2, places, 8)
    assert cache.nbytes == cache_bytes(model.config, 3)
    before = cache.keys.data_ptr(), cache.values.data_ptr()
    fed(model, ids(3, 16), [9] + [1] * 7, cache)
    assert cache.length == 16
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == before


def test_a_cache_takes_room_for_the_text_and_no_more(monkeypatch):
    model, sizes = build({}), []
    plain = KVCache.__init__

    def noted(self, *args, **settings):
        plain(self, *args, **settings)
        sizes.append(self.keys.shape[-2])

    monkeypatch.setattr(KVCache, "__init__", noted)
    generate(model, [1, 2, 3], 4, temperature=0)
    generate(model, [1, 2, 3], 400, temperature=0)
    assert sizes == [7, 16]


def test_a_pass_that_ends_half_way_spoils_a_sliding_cache_and_says_so():
    model = build({"window": 4})
    cache = new_cache(model, 1)
    fed(model, ids(1, 6), [6], cache)
    cache.attends()[0](*torch.zeros(3, 1, 4, 1, 8))
    with pytest.raises(ValueError, match="ended before the last layer"):
        fed(model, ids(1, 9), [1], cache)
    cache.clear()
    expected = model(ids(1, 6))[0]
    assert_close(fed(model, ids(1, 6), [6], cache), expected, **CLOSE)


def test_a_sliding_cache_serves_under_autocast_too():
    model, x = build({"window": 5, "n_kv_head": 2}), ids(2, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, _ = model(x)
        found = fed(model, x, [7, 1, 1, 7], new_cache(model, 2))
    assert_near(found.float(), expected.float(), 2.0**-6)


# Kept in a file, moved to another device


@every_configuration
def test_a_checkpoint_keeps_every_part(changes, tmp_path):
    model = build(changes)
    path = checkpoint.save(tmp_path / "model", model)
    again = checkpoint.load_model(path)
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(ids(2, 16))[0], model(ids(2, 16))[0])


def test_a_checkpoint_from_before_the_later_parts_is_still_read(tmp_path):
    model = build({})
    path = checkpoint.save(tmp_path / "model", model)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[checkpoint.FORMAT])
    older = [field.name for field in fields(GPTConfig)][:10]
    assert older[-1] == "init_std"  # what there was before
    header["config"] = {name: header["config"][name] for name in older}
    header["version"] = 1  # which had no checksum either
    del header[checkpoint.DIGEST]
    metadata = {checkpoint.FORMAT: json.dumps(header)}
    save_file(load_file(path), path, metadata=metadata)
    again = checkpoint.load_model(path)
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(ids(2, 16))[0], model(ids(2, 16))[0])


@pytest.mark.parametrize(
    "changes", [{"positions": "sinusoidal"}, *ONE_GRAPH[1:]], ids=named
)
def test_nothing_stays_behind_on_another_device(changes, monkeypatch):
    """On a device without numbers: what mixes two devices is refused."""
    for place in (
        "model.check_ids",
        "model.check_each",
        "positions.check_each",
    ):
        monkeypatch.setattr(f"llmbook.{place}", lambda *_: None)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("meta"):
            model = GPT(replace(BASE, n_layer=1, **changes)).eval()
            x = torch.zeros(2, 16, dtype=torch.long)
            places = torch.arange(16).expand(2, -1)
        logits, loss = model(x, x)
        assert logits.device.type == loss.device.type == "meta"
        fed(model, x, [5, 1, 4], new_cache(model, 2))
        model(x, positions=places)
        model.attention_weights(x)
        packed = packed_inputs(places, 1, model.config.window)
        model(x, attends=packed["attends"], positions=places)
        with pytest.raises(RuntimeError, match="device"):
            model(x, attends=[lambda q, k, v: q.cpu()])


# In 16 bits

STEPS_IN_A_BLOCK = 15  # norm, q k v, turn, mix, output, add; norm, gate, ...
STEPS_AROUND = 3  # the embedding, the final norm and the head


@every_configuration
def test_16_bits_stay_within_their_rounding(changes):
    """Each step rounds its result by half a unit in the last place or less.

    That is 2^-9 of a number in bfloat16 and 2^-12 in float16. At worst
    these errors add up over the steps that follow one another; where signs
    differ, as they do, much less comes out. An expert chosen otherwise is
    no rounding error, so texts in which a choice has flipped are left out.
    """
    model = build(changes)
    steps = STEPS_IN_A_BLOCK * model.config.n_layer + STEPS_AROUND
    x = ids(24, 8)
    with torch.no_grad():
        expected, choices = model(x)[0], choices_of(model)
        for dtype, bits in ((torch.bfloat16, 8), (torch.float16, 11)):
            small = copy.deepcopy(model).to(dtype)
            found = small(x)[0].float()
            same = (choices_of(small) == choices).flatten(1).all(dim=1)
            assert same.any()
            bound = steps * 2.0 ** -(bits + 1)
            assert_near(found[same], expected[same], bound)
            pieces = fed(small, x, [5, 1, 1, 1], new_cache(small, 24))
            assert_near(pieces.float()[same], expected[same], bound)
            recorder = record_weights([], model.config.window)
            seen, _ = small(x, attends=[recorder] * model.config.n_layer)
            assert_near(seen.float()[same], expected[same], bound)


def assert_near(found, expected, bound):
    """The error's length is within ``bound`` of the logits' length."""
    assert found.isfinite().all()
    assert (found - expected).norm() <= bound * expected.norm()


def choices_of(model):
    """The experts of the last pass, in order: (B, L, T, k), or nothing."""
    if not model.config.n_expert:
        return torch.zeros(24, 1)
    chosen = [block.feed_forward.chosen for block in model.blocks]
    return torch.stack(chosen, dim=1).sort(dim=-1).values


# Compiled


def assert_compiled_is_the_same(changes, backend):
    """Logits, loss and every gradient, of one layer."""
    model, x = build({**changes, "n_layer": 1}).train(), ids(2, 16)
    torch.compiler.reset()
    whole = "n_expert" not in changes
    compiled = torch.compile(model, backend=backend, fullgraph=whole)
    results = []
    for one in (model, compiled):
        model.zero_grad()
        logits, loss = one(x, x.roll(-1, 1))
        loss.backward()
        found = [parameter.grad.clone() for parameter in model.parameters()]
        results.append([logits.detach(), loss.detach(), *found])
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    "changes",
    [*ONE_GRAPH, pytest.param(EXPERTS, marks=pytest.mark.slow)],
    ids=named,
)
def test_a_graph_and_the_graph_of_its_gradients_compute_the_same(changes):
    """All that compiling does, but for the kernels: torch runs its own."""
    assert_compiled_is_the_same(changes, "aot_eager_decomp_partition")


@pytest.mark.slow  # each of some twenty kernels is a run of the C++ compiler
def test_compiled_kernels_compute_the_same(tmp_path, monkeypatch):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert_compiled_is_the_same({**ONE_GRAPH[1], "window": 5}, "inductor")
