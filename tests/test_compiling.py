"""The quick path of training, held against the plain one."""

import math
import shutil
import warnings
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from llmbook import compiling, products, runtime
from llmbook.attention import (
    PLAIN_TOKENS,
    grouped_attention,
    is_short,
    masked_attention,
    naive_attention,
    plain_attention,
    repeat_heads,
    training_attention,
    window_mask,
)
from llmbook.batching import document_mask
from llmbook.config import GPTConfig, TrainConfig
from llmbook.layers import mean_loss
from llmbook.model import GPT
from llmbook.optim import adamw_update, fused_adamw_update
from llmbook.train import next_token_loss

TINY = GPTConfig(
    vocab_size=19, context_length=8, n_layer=1, n_head=2, n_embd=8
)


class Ids:
    """One batch, whatever the step."""

    def __init__(self, rows=2, tokens=8, vocabulary=19):
        generator = torch.Generator().manual_seed(3)
        shape = rows, tokens + 1
        self.ids = torch.randint(vocabulary, shape, generator=generator)

    def at(self, step):
        return self.ids[:, :-1], self.ids[:, 1:]


def leaves(H, G, T, dtype, D=16):
    """Queries, keys and values that want gradients."""
    torch.manual_seed(0)
    shapes = (2, H, T, D), (2, G, T, D), (2, G, T, D)
    return [torch.randn(s).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize("G", [4, 2, 1])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-2)]
)
def test_plain_attention_equals_the_fused_kernel_forward_and_backward(
    window, G, dtype, atol
):
    answers = []
    for way in (plain_attention, grouped_attention):
        q, k, v = leaves(4, G, 11, dtype)
        mixed = way(q, k, v, window)
        (mixed.float() * torch.arange(16)).sum().backward()
        scale = 16  # the gradients carry the weights 0 ... 15
        grads = [x.grad / scale for x in (q, k, v)]
        answers.append([mixed, *grads])
    for ours, fused in zip(*answers, strict=True):
        torch.testing.assert_close(ours, fused, atol=atol, rtol=atol)


def test_plain_attention_equals_the_loop_of_the_paper():
    q, k, v = (x.double() for x in leaves(2, 1, 7, torch.float32))
    k2, v2 = repeat_heads(k, 2), repeat_heads(v, 2)
    expected, _ = naive_attention(q, k2, v2, window_mask(7, 7, 4))
    found = plain_attention(q, k, v, window=4)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_documents_in_a_row_are_apart_by_either_way(dtype):
    mask = document_mask(torch.tensor([[1, 1, 2, 2, 2], [1, 2, 2, 2, 3]]))
    answers = []
    for way in (plain_attention, masked_attention):
        q, k, v = leaves(4, 2, 5, dtype)
        mixed = way(q, k, v, mask=mask)
        mixed.float().square().sum().backward()
        answers.append([mixed, q.grad, k.grad, v.grad])
    atol = 2e-5 if dtype == torch.float32 else 5e-2
    for ours, fused in zip(*answers, strict=True):
        torch.testing.assert_close(ours, fused, atol=atol, rtol=atol)
    assert torch.equal(training_attention(q, k, v, mask=mask), answers[1][0])
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype=dtype):
            chosen = training_attention(q, k, v, mask=mask)
        assert torch.equal(chosen, answers[0][0])


def test_plain_attention_drops_weights_and_keeps_their_mean():
    v = torch.ones(1, 1, 64, 512)
    torch.manual_seed(0)
    mixed = plain_attention(torch.zeros(1, 1, 64, 512), v, v, dropout_p=0.5)
    assert mixed.std() > 0.1
    assert abs(mixed[:, :, 32:].mean() - 1) < 0.05


def test_short_contexts_in_16_bits_under_autocast_are_plain():
    q, k, _ = leaves(2, 2, 8, torch.bfloat16)
    assert not is_short(q, k)  # no autocast: a model kept in 16 bits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_short(q, k)
        assert not is_short(q.float(), k.float())
        assert not is_short(q[:, :, -1:], k)
        long = torch.zeros(1, 1, PLAIN_TOKENS + 1, 2, dtype=torch.bfloat16)
        assert not is_short(long, long)


def test_training_attention_is_plain_in_16_bits_and_fused_in_32():
    q, k, v = leaves(2, 2, 8, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = training_attention(q, k, v)
    assert torch.equal(found, plain_attention(q, k, v))
    q, k, v = leaves(2, 2, 8, torch.float32)
    assert torch.equal(training_attention(q, k, v), grouped_attention(q, k, v))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_16_bit_scores_is_that_of_their_float32_copy(dtype):
    torch.manual_seed(1)
    logits = (5 * torch.randn(600, 37)).to(dtype).requires_grad_()
    wide = logits.detach().float().requires_grad_()
    targets = torch.randint(37, (600,))
    targets[::7] = -100
    ours = mean_loss(logits, targets)
    expected = F.cross_entropy(wide, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected)
    (3 * ours).backward()
    (3 * expected).backward()
    torch.testing.assert_close(
        logits.grad.float(), wide.grad, atol=1e-5, rtol=1e-2
    )


def test_the_loss_of_float32_scores_is_torchs_to_the_bit():
    logits, targets = torch.randn(9, 5), torch.arange(9) % 5
    expected = F.cross_entropy(logits, targets)
    assert torch.equal(mean_loss(logits, targets), expected)


def test_a_loss_without_any_target_is_nan_as_torchs_is():
    targets = torch.full((3,), -100)
    logits = torch.zeros(3, 4, dtype=torch.bfloat16)
    assert math.isnan(mean_loss(logits, targets))
    assert math.isnan(F.cross_entropy(logits.float(), targets))


def test_the_fused_adamw_step_equals_the_readable_one():
    torch.manual_seed(0)
    settings = {
        "learning_rate": 1e-2,
        "beta1": 0.9,
        "beta2": 0.95,
        "epsilon": 1e-8,
        "weight_decay": 0.1,
    }
    start = torch.randn(50, 7)
    rows = [[start.clone(), *torch.zeros(2, 50, 7)] for _ in range(2)]
    for step in range(1, 40):
        gradient = torch.randn(50, 7)
        for update, (weight, mean, square) in zip(
            (adamw_update, fused_adamw_update), rows, strict=True
        ):
            update(weight, gradient, mean, square, step, **settings)
    for ours, fused in zip(*rows, strict=True):
        torch.testing.assert_close(ours, fused, atol=1e-6, rtol=1e-5)


def test_a_short_run_is_not_compiled_and_a_long_one_is(monkeypatch):
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)
    big = GPTConfig(
        vocab_size=8192, context_length=256, n_layer=7, n_head=6, n_embd=384
    )
    short = TrainConfig(steps=50, compile="auto")
    assert not compiling.compiling_repays(big, short)
    assert compiling.compiling_repays(big, TrainConfig(steps=5000))
    model = GPT(TINY)
    assert compiling.prepare(model, short, next_token_loss) is next_token_loss


def test_auto_leaves_experts_and_machines_without_compiler(monkeypatch):
    monkeypatch.setattr(compiling, "compiling_repays", lambda *_: True)
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)
    auto = TrainConfig(compile="auto", dtype="bfloat16")
    assert compiling.should_compile(GPT(TINY), auto)
    wide = TrainConfig(compile="auto", dtype="float32")
    assert not compiling.should_compile(GPT(TINY), wide)
    experts = GPTConfig(n_head=2, n_embd=8, n_layer=1, n_expert=2)
    assert not compiling.should_compile(GPT(experts), auto)
    monkeypatch.setattr(compiling, "has_compiler", lambda: False)
    assert not compiling.should_compile(GPT(TINY), auto)
    assert compiling.should_compile(GPT(TINY), TrainConfig(compile="on"))


def test_the_environment_overrides_the_run(monkeypatch):
    monkeypatch.setenv(compiling.COMPILE_VARIABLE, "off")
    assert not compiling.should_compile(GPT(TINY), TrainConfig(compile="on"))
    monkeypatch.setenv(compiling.COMPILE_VARIABLE, "sometimes")
    with pytest.raises(ValueError, match=r"sometimes.*auto, on, off"):
        compiling.choice(TrainConfig())


def test_a_failed_compilation_warns_once_and_trains_on(monkeypatch):
    def fails(function, **_):
        def quick(*_):
            raise RuntimeError("no compiler today\nand a long story")

        return quick

    monkeypatch.setattr(torch, "compile", fails)
    model, (x, y) = GPT(TINY), Ids().at(0)
    quick = compiling.CompiledLoss(next_token_loss)
    with pytest.warns(UserWarning, match=r"no compiler today\); training"):
        loss = quick(model, x, y)
    assert torch.equal(loss, next_token_loss(model, x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(model, x, y)


def test_both_passes_are_compiled_in_the_first_call_alone(monkeypatch):
    switch, seen = "force_non_lazy_backward_lowering", []
    config = compiling.functorch_config  # its values are no plain attributes:
    assert getattr(config, switch) is False  # monkeypatch would delete it

    def quick(model, x, y):
        seen.append(getattr(config, switch))
        return torch.zeros(())

    monkeypatch.setattr(torch, "compile", lambda function, **_: quick)
    loss = compiling.CompiledLoss(next_token_loss)
    for _ in range(2):
        loss(None, None, None)
    assert seen == [True, False]


def test_an_error_after_a_good_step_is_not_swallowed(monkeypatch):
    calls = []

    def quick(model, x, y):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return torch.zeros(())

    monkeypatch.setattr(torch, "compile", lambda function, **_: quick)
    loss = compiling.CompiledLoss(next_token_loss)
    loss(None, None, None)
    with pytest.raises(RuntimeError, match="out of memory"):
        loss(None, None, None)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a compiler"
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_loss_has_the_plain_ones_gradients(dtype):
    x, y = Ids().at(0)
    found = []
    for compiled in (False, True):
        model = GPT(TINY, torch.Generator().manual_seed(0))
        config = TrainConfig(compile="on" if compiled else "off")
        loss_function = compiling.prepare(model, config, next_token_loss)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with runtime.autocast("cpu", dtype):
                loss = loss_function(model, x, y)
        loss.backward()
        assert list(model.state_dict()) == list(GPT(TINY).state_dict())
        found.append([loss, *(p.grad for p in model.parameters())])
    near = 1e-5 if dtype == torch.float32 else 4e-3
    for plain, quick in zip(*found, strict=True):
        torch.testing.assert_close(plain, quick, atol=near, rtol=10 * near)


def test_the_compilers_words_mean_what_torchs_do():
    x, weight, bias = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        .mul(4)
        .requires_grad_()
        for seed, shape in enumerate([(50, 8), (6, 8), (6,)])
    )
    pairs = [
        (F.linear, compiling.linear_in_parts, (x, weight, bias)),
        (F.linear, compiling.linear_in_parts, (x, weight, None)),
        (F.gelu, compiling.gelu_by_sigmoid, (x,)),
        (
            partial(F.gelu, approximate="tanh"),
            partial(compiling.gelu_by_sigmoid, approximate="tanh"),
            (x,),
        ),
    ]
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    for torchs, ours, given in pairs:
        leaves = [part for part in given if part is not None]
        found, expected = ours(*given), torchs(*given)
        close(found, expected)
        way = torch.linspace(-1, 1, found.numel())
        sides = [
            torch.autograd.grad((out.flatten() * way).sum(), leaves)
            for out in (found, expected)
        ]
        close(*sides)


def test_in_16_bits_the_compilers_words_lose_no_more():
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=draw).bfloat16()
        for shape in ((200, 64), (32, 64), (32,))
    )
    exact = F.linear(x.double(), weight.double(), bias.double())
    found = compiling.linear_in_parts(x, weight, bias.float())
    assert found.dtype == torch.bfloat16
    theirs = (F.linear(x, weight, bias) - exact).abs().max()
    assert (found - exact).abs().max() <= 2 * theirs
    gelu = compiling.gelu_by_sigmoid(x, "tanh")
    expected = F.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(gelu, expected.bfloat16(), atol=1e-6, rtol=8e-3)


@pytest.fixture
def compiled_words(monkeypatch):
    """What each node that torch's compiler is given calls, graph by graph."""
    given = []

    def backend(graph, inputs):
        given.append([node.target for node in graph.graph.nodes])
        return graph

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda _: backend)
    torch._dynamo.reset()
    yield given
    torch._dynamo.reset()


@pytest.mark.parametrize("library", ["off", "on"])
def test_the_compiler_is_given_other_words(
    monkeypatch, compiled_words, library
):
    if library == "on" and not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setenv(products.ONEDNN_VARIABLE, library)
    model = GPT(TINY, torch.Generator().manual_seed(0))
    x, y = Ids().at(0)
    quick = compiling.CompiledLoss(next_token_loss)
    plain = next_token_loss(model, x, y)
    torch.testing.assert_close(quick(model, x, y), plain)
    (targets,) = compiled_words
    assert F.gelu not in targets
    assert targets.count(torch.sigmoid) == TINY.n_layer
    ours = library == "on"
    product = torch.ops.llmbook.product if ours else F.linear
    assert targets.count(product) == 4 * TINY.n_layer + 1
    assert targets.count(compiling.type_as) == (1 if ours else 5)


def test_numbers_in_64_bits_are_compiled_as_they_are(compiled_words):
    model = GPT(TINY, torch.Generator().manual_seed(0)).double()
    compiling.CompiledLoss(next_token_loss)(model, *Ids().at(0))
    (targets,) = compiled_words
    assert F.gelu in targets and compiling.type_as not in targets


def test_freed_memory_is_kept_unless_the_reader_says_no(monkeypatch):
    monkeypatch.setenv(runtime.MALLOC_VARIABLE, "system")
    assert runtime.keep_freed_memory() is False
    monkeypatch.setenv(runtime.MALLOC_VARIABLE, "jemalloc")
    with pytest.raises(ValueError, match=r"jemalloc.*system"):
        runtime.keep_freed_memory()
