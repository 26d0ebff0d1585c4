"""Linear layers by oneDNN, held against PyTorch's own."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from llmbook import compiling, processor, products
from llmbook.config import GPTConfig, TrainConfig
from llmbook.model import GPT
from llmbook.train import next_token_loss

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="this build of torch has no oneDNN",
)
SHAPE = GPTConfig(
    vocab_size=300, context_length=32, n_layer=2, n_head=2, n_embd=64
)
WIDE = TrainConfig(batch_size=128, dtype="float32", compile="off")


def leaves(shape, out, bias=True):
    """x, weight and bias that want gradients."""
    torch.manual_seed(0)
    made = [torch.randn(*shape), torch.randn(out, shape[-1])]
    made += [torch.randn(out)] if bias else []
    return [one.requires_grad_() for one in made]


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(300, (16, 33), generator=generator)
    return ids[:, :-1], ids[:, 1:]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "out"),
    [((2, 5, 7), 3), ((6, 3), 8), ((1, 4), 4), ((2, 3, 4, 5), 5), ((0, 3), 4)],
)
@pytest.mark.parametrize(
    "way_back", [torch.sum, lambda y: (y**2).sum(), lambda y: y[..., 0].sum()]
)
def test_values_and_gradients_are_torchs(shape, out, bias, way_back):
    ours, theirs = leaves(shape, out, bias), leaves(shape, out, bias)
    y, expected = products.linear(*ours), F.linear(*theirs)
    assert_close(y, expected)
    way_back(y).backward()
    way_back(expected).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.grad, other.grad)


@needs_onednn
@pytest.mark.parametrize("turned", ["x", "weight", "cut"])
def test_the_order_in_memory_does_not_matter(turned):
    x, weight = (t.detach() for t in leaves((6, 4), 9, bias=False))
    expected = F.linear(x, weight)
    if turned == "x":
        x = x.t().contiguous().t()
    elif turned == "weight":
        weight = weight.t().contiguous().t()
    else:
        x = torch.cat([x, x], -1)[:, :4]
    assert_close(products.product(x, weight), expected)


@needs_onednn
@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_it_keeps_the_rules_of_torchs_own_operations(frozen):
    operands = leaves((6, 4), 9, bias=False)
    if frozen is not None:
        operands[frozen].requires_grad_(False)
    torch.library.opcheck(torch.ops.llmbook.product.default, operands)


@needs_onednn
def test_what_it_gives_may_be_changed_in_place():
    x, weight = leaves((2, 3, 4), 5, bias=False)
    scores = products.linear(x, weight)
    scores[..., 0] = 7.0
    scores.sum().backward()
    assert not weight.grad[0].any() and weight.grad[1:].all()


@needs_onednn
def test_the_same_product_is_the_same_to_the_bit():
    x, weight = (t.detach() for t in leaves((512, 384), 1152, bias=False))
    first = products.product(x, weight)
    assert all(
        torch.equal(products.product(x, weight), first) for _ in range(5)
    )


def test_the_context_takes_plain_tensors_of_32_bits_and_no_others(
    monkeypatch,
):
    taken = []

    def spy(x, weight, bias=None):
        taken.append(x.dtype)
        return x @ weight.t() + bias

    monkeypatch.setattr(products, "linear", spy)

    class Wrapped(torch.Tensor):
        pass

    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    named = {"weight": layer.weight, "bias": layer.bias}
    with products.LinearByOneDNN():
        assert_close(layer(x), x @ layer.weight.t() + layer.bias)
        assert taken == [torch.float32]
        layer(x[0])
        F.linear(x, **named)
        F.linear(input=x, **named)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(x)
        layer(x.as_subclass(Wrapped))
        layer.double()(x.double())
        layer.bfloat16()(x.bfloat16())
    layer.float()(x)
    assert taken == [torch.float32]


@needs_onednn
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_model_learns_the_same_by_either_library(monkeypatch, compiled):
    if compiled == "on" and not compiling.has_compiler():
        pytest.skip("there is no C++ compiler")
    losses, gradients = [], []
    config = TrainConfig(batch_size=128, dtype="float32", compile=compiled)
    torch._dynamo.reset()
    for library, plan in (("off", WIDE), ("on", config)):
        monkeypatch.setenv(products.ONEDNN_VARIABLE, library)
        model = GPT(SHAPE, torch.Generator().manual_seed(0))
        loss = compiling.prepare(model, plan, next_token_loss)
        losses.append(loss(model, *batch()))
        losses[-1].backward()
        gradients.append([p.grad for p in model.parameters()])
    assert isinstance(loss, compiling.ByOneDNN) or loss.proven
    assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


@needs_onednn
def test_a_compiled_step_calls_it_where_it_is_asked_to(monkeypatch):
    found = {}
    for library in ("off", "on"):
        monkeypatch.setenv(products.ONEDNN_VARIABLE, library)
        node = torch.fx.Graph().placeholder("x")
        node.target = F.linear
        node.meta["example_value"] = torch.zeros(1, 1)
        found[library] = compiling.words_for(node)
        for other in (torch.zeros(1, 1).bfloat16(), torch.zeros(1)):
            node.meta["example_value"] = other
            assert compiling.words_for(node) is compiling.linear_in_parts
    assert found == {"off": compiling.linear_in_parts, "on": products.linear}


def test_a_failed_compilation_goes_on_by_it(monkeypatch):
    monkeypatch.setattr(products, "repays", lambda *_: True)
    plan = TrainConfig(dtype="float32", compile="on")
    loss = compiling.prepare(nn.Linear(2, 2), plan, next_token_loss)
    assert isinstance(loss, compiling.CompiledLoss)
    assert isinstance(loss.plain, compiling.ByOneDNN)


@needs_onednn
@pytest.mark.parametrize(
    ("changes", "model", "expected"),
    [
        ({}, GPT(SHAPE), True),
        ({"dtype": "bfloat16"}, GPT(SHAPE), False),
        ({"batch_size": 1}, GPT(SHAPE), False),  # too little to win
        ({}, GPT(replace(SHAPE, n_expert=4)), False),
        ({}, nn.Linear(2, 2), False),
    ],
)
def test_it_is_for_32_bits_and_for_more_than_a_toy(
    monkeypatch, changes, model, expected
):
    monkeypatch.setenv(products.ONEDNN_VARIABLE, "on")
    plan = TrainConfig(**{**WIDE.to_dict(), **changes})
    assert products.repays(model, plan) == expected
    loss = compiling.prepare(model, plan, next_token_loss)
    assert isinstance(loss, compiling.ByOneDNN) == expected


@pytest.mark.parametrize(
    ("maker", "units", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AMD64 Family 25 Model 97, AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_auto_takes_it_where_it_was_measured(
    monkeypatch, maker, units, expected
):
    monkeypatch.delenv(products.ONEDNN_VARIABLE, raising=False)
    monkeypatch.setattr(processor, "maker", lambda: maker)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.backends.cpu, "get_cpu_capability", lambda: units
    )
    assert products.by_onednn() == expected
    monkeypatch.setenv(products.ONEDNN_VARIABLE, "off")
    assert not products.by_onednn()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setenv(products.ONEDNN_VARIABLE, "on")
    assert not products.by_onednn()


def test_another_word_in_the_variable_is_an_error(monkeypatch):
    monkeypatch.setenv(products.ONEDNN_VARIABLE, "always")
    with pytest.raises(ValueError, match=r"'always'; expected .*auto, on"):
        products.by_onednn()
