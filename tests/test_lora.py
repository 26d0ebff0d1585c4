"""lora.py against peft, and against what the paper says of it."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from llmbook import checkpoint, hub, lora
from llmbook.config import GPTConfig, TrainConfig, preset
from llmbook.hub.names import their_tensors
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.tokenizer import BPETokenizer
from llmbook.train import train

SHAPE = {"vocab_size": 260, "context_length": 16, "n_head": 2, "n_embd": 16}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
IDS = torch.randint(260, (3, 16), generator=torch.Generator().manual_seed(1))


def fresh(seed=0, **changes):
    config = GPTConfig(**{**SHAPE, "n_layer": 2, "init_std": 0.3, **changes})
    return GPT(config, torch.Generator().manual_seed(seed)).eval()


def adapted(model=None, move=True, **settings):
    """A model with adapters, moved to where training might bring them."""
    source = torch.Generator().manual_seed(2)
    model = lora.apply(model or fresh(), generator=source, **settings)
    with torch.no_grad():
        for parameter in learned(model).values():
            noise = torch.randn(parameter.shape, generator=source)
            parameter.add_(0.1 * move * noise)
    return model


def learned(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def logits(model):
    return model(IDS)[0]


class Batches:
    """The same rows in every step, moved on by the step."""

    def at(self, step):
        ids = IDS.roll(step, 1)
        return ids[:, :-1], ids[:, 1:]


STEPS = TrainConfig(
    steps=4, batch_size=3, learning_rate=0.01, warmup_steps=1, dtype="float32"
)


def test_at_first_nothing_changes():
    expected = logits(fresh())
    model = adapted(move=False, rank=4, rows=[1, 2])
    assert torch.equal(logits(model), expected)
    for layer in lora.adapters(model).values():
        if isinstance(layer, lora.LoRALinear):
            assert not layer.B.any() and layer.A.any()


def test_an_adapted_layer_is_the_paper_s_equation():
    base = nn.Linear(6, 4)
    layer = lora.LoRALinear(base, rank=2, alpha=3)
    layer.B.data.normal_()
    x = torch.randn(5, 6)
    weight = base.weight + 3 / 2 * layer.B @ layer.A
    assert_close(layer(x), x @ weight.T + base.bias)


def test_a_starts_as_wide_as_its_inputs_ask():
    layer = lora.LoRALinear(nn.Linear(400, 4), rank=100, alpha=1)
    x = torch.randn(50, 400)
    spread = (x @ layer.A.T).std().item()
    assert spread == pytest.approx(1, abs=0.1)


def test_training_moves_the_adapters_and_nothing_else():
    model = adapted(move=False, rank=2, rows=[258, 259])
    before = copy.deepcopy(model.state_dict())
    train(model, Batches(), STEPS, progress=False)
    moved = {
        name
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == set(learned(model))
    assert len(moved) == 2 * 4 * 2 + 1  # A and B, four a block, and the rows


def test_only_the_named_layers_get_adapters():
    model = adapted(targets=["qkv", "blocks.1.feed_forward.up"])
    assert list(lora.adapters(model)) == [
        "blocks.0.attention.qkv",
        "blocks.1.attention.qkv",
        "blocks.1.feed_forward.up",
    ]


SWIGLU = {"feed_forward": "swiglu", "norm": "rmsnorm", "bias": False}


@pytest.mark.parametrize(
    "changes, a_block",
    [
        ({}, 4),
        (SWIGLU, 5),
        ({"n_expert": 3}, 2 + 3 * 2),
        ({"n_expert": 3, **SWIGLU}, 2 + 3 * 3),
        ({"n_kv_head": 1, "window": 4, "positions": "rotary"}, 4),
    ],
)
def test_all_matrices_of_a_block_are_adapted_whatever_it_is_made_of(
    changes, a_block, tmp_path
):
    base = fresh(**changes)
    matrices = [
        name
        for name, parameter in base.blocks.named_parameters()
        if parameter.ndim == 2 and not name.endswith("router.weight")
    ]
    assert len(matrices) == 2 * a_block
    expected = logits(base)
    model = adapted(base, rank=2)
    found = [f"{name}.weight" for name in lora.adapters(model.blocks)]
    assert found == matrices
    assert not torch.allclose(logits(model), expected)
    path = lora.save(tmp_path / "adapter", model)
    assert torch.equal(
        logits(lora.load(path, fresh(**changes))), logits(model)
    )
    with_adapters = logits(model)
    assert_close(logits(lora.merge(model)), with_adapters, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_equals_unmerged(tie_weights, bias):
    model = adapted(
        fresh(tie_weights=tie_weights, bias=bias), rank=3, rows=[4, 9]
    )
    expected, text = logits(model), generate(model, [1], 9, temperature=0)
    assert not torch.allclose(expected, logits(fresh(tie_weights=tie_weights)))
    names = set(fresh(tie_weights=tie_weights, bias=bias).state_dict())
    merged = lora.merge(model)
    assert_close(logits(merged), expected, atol=1e-5, rtol=0)
    assert generate(merged, [1], 9, temperature=0) == text
    assert set(merged.state_dict()) == names
    assert all(p.requires_grad for p in merged.parameters())
    assert lora.adapters(merged) == {}


def test_the_update_has_the_rank_it_was_given():
    base = fresh()
    before = base.blocks[0].feed_forward.up.weight.clone()
    lora.merge(adapted(base, rank=3))
    change = base.blocks[0].feed_forward.up.weight - before
    values = torch.linalg.svdvals(change)
    assert values[2] > 1e-3 and values[3] < 1e-5


def test_switched_off_the_base_is_there_and_then_the_adapters_again():
    model = adapted(rank=4, rows=[3])
    expected = logits(model)
    with pytest.raises(RuntimeError), lora.switched_off(model):
        assert torch.equal(logits(model), logits(fresh()))
        raise RuntimeError
    assert torch.equal(logits(model), expected)


def test_dropout_hides_inputs_of_the_adapters_alone():
    layer = lora.LoRALinear(nn.Linear(400, 8), 2, 2, dropout=0.5).train()
    layer.B.data.normal_()
    x = torch.ones(2000, 400)
    assert layer(x).std(0).min() > 0
    assert_close(layer(x).mean(0), layer.eval()(x)[0], atol=0.3, rtol=0)
    layer.train().B.data.zero_()
    assert torch.equal(layer(x), layer.base(x))


def test_new_tokens_learn_with_all_others_held():
    model = adapted(targets=["output"], rank=1, rows=[7, 5], move=False)
    x = torch.tensor([[7, 5, 7, 8]])
    model(x, x)[1].backward()
    found = model.token_embedding.new.grad
    whole = fresh()
    whole(x, x)[1].backward()
    assert_close(found, whole.token_embedding.weight.grad[[7, 5]])
    assert model.token_embedding.base.weight.grad is None


# peft's names for what transformers calls our four matrices.
THEIRS = {
    "attention.qkv": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}


@pytest.fixture
def both(tmp_path):
    """The same weights and adapters: ours, and peft's over transformers'."""
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    hub.save_pretrained(fresh(), BPETokenizer([], []), tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=list(THEIRS.values()),
        fan_in_fan_out=True,
        trainable_token_indices=[4, 259],
    )
    theirs = peft.get_peft_model(base, settings).eval()
    ours = adapted(rank=3, alpha=5, rows=[4, 259])
    pairs = []
    for name, module in lora.adapters(ours).items():
        if isinstance(module, lora.TrainedRows):
            continue
        _, layer, part = name.split(".", 2)
        other = theirs.base_model.model.transformer.h[int(layer)]
        other = other.get_submodule(THEIRS[part])
        pairs.append((module.A, other.lora_A["default"].weight))
        pairs.append((module.B, other.lora_B["default"].weight))
    table = theirs.base_model.model.transformer.wte.token_adapter
    rows = table.trainable_tokens_delta["default"]
    pairs.append((ours.token_embedding.new, rows))
    assert {id(one) for one, _ in pairs} == {
        id(p) for p in learned(ours).values()
    }
    assert {id(one) for _, one in pairs} == {
        id(p) for p in learned(theirs).values()
    }
    with torch.no_grad():
        for one, other in pairs:
            other.copy_(one)
    return ours, theirs, pairs


def test_peft_computes_the_same_outputs_and_gradients(both):
    ours, theirs, pairs = both
    found, expected = ours(IDS)[0], theirs(IDS).logits
    assert_close(found, expected, **CLOSE)
    for out in (found, expected):
        loss = F.cross_entropy(out[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
    for one, other in pairs:
        assert one.grad.abs().max() > 1e-4
        assert_close(one.grad, other.grad, **CLOSE)


def test_peft_merges_to_the_same_weights(both):
    ours, theirs, _ = both
    merged = theirs.merge_and_unload().state_dict()
    for name, tensor in their_tensors(lora.merge(ours)):
        assert_close(tensor, merged[name], **CLOSE)


def test_saved_adapters_come_back_on_the_base(tmp_path):
    model = adapted(rank=2, alpha=7, dropout=0.1, rows=[3])
    path = lora.save(tmp_path / "deep" / "adapter.safetensors", model)
    back = lora.load(path, fresh())
    assert torch.equal(logits(back), logits(model))
    assert set(learned(back)) == set(learned(model))
    again = tmp_path / "again.safetensors"
    assert lora.save(again, back).read_bytes() == path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rows_that_learned_alone_are_saved_and_come_back(tmp_path):
    model = lora.apply(fresh(), targets=(), rows=[1, 3])
    with torch.no_grad():
        for parameter in learned(model).values():
            parameter.add_(1)
    back = lora.load(lora.save(tmp_path / "rows", model), fresh())
    assert torch.equal(logits(back), logits(model))


def test_an_adapter_of_the_running_model_takes_a_few_kilobytes(tmp_path):
    model = GPT(preset("running"))
    lora.apply(model, rank=1, targets=["attention.qkv"])
    size = lora.save(tmp_path / "adapter", model).stat().st_size
    assert size < 10_000 < model.num_parameters() / 50


def test_an_adapter_of_another_base_is_refused(tmp_path):
    path = lora.save(tmp_path / "adapter", adapted())
    for other in (fresh(seed=1), fresh(n_layer=1), lora.merge(adapted())):
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match="trained beside other weights"):
            lora.load(path, other)
        assert other.state_dict().keys() == before.keys()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = lora.save(tmp_path / "adapter", adapted())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        lora.load(path, fresh())
    with pytest.raises(ValueError, match="no whole safetensors file"):
        lora.load(tmp_path / "none", fresh())
    save_file({"A": torch.ones(1)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match="holds tensors, but no adapters"):
        lora.load(tmp_path / "tensors", fresh())
    path.write_bytes(whole.replace(b'"version\\": 1', b'"version\\": 9'))
    with pytest.raises(ValueError, match="version 9"):
        lora.load(path, fresh())


def test_a_file_with_adapters_missing_is_refused(tmp_path):
    path = lora.save(tmp_path / "adapter", adapted(rank=1))
    tensors = load_file(path)
    metadata = lora._read(path)[0]
    tensors.popitem()
    text = {lora.FORMAT: json.dumps(metadata)}
    save_file(tensors, path, metadata=text)
    with pytest.raises(ValueError, match="lacks some of the adapters"):
        lora.load(path, fresh())


def test_a_failed_save_leaves_the_older_file(tmp_path, monkeypatch):
    path = lora.save(tmp_path / "adapter", adapted())
    before = path.read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(lora, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        lora.save(path, adapted(rank=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path):
    whole = adapted(move=False, rank=2, dropout=0.2)
    train(whole, Batches(), STEPS, progress=False)
    half = adapted(move=False, rank=2, dropout=0.2)

    class Stop(Exception):
        pass

    def stop(step, model, history):
        if step == 2:
            raise Stop

    every = TrainConfig(**{**STEPS.to_dict(), "eval_every": 1})
    run = {"run_dir": tmp_path, "progress": False, "resume": True}
    with pytest.raises(Stop):
        train(half, Batches(), every, callbacks=[stop], **run)
    again = adapted(move=False, rank=2, dropout=0.2)
    train(again, Batches(), every, **run)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_merged_model_is_saved_like_any_other(tmp_path):
    model = lora.merge(adapted(rows=[1]))
    path = checkpoint.save(tmp_path / "model", model)
    assert torch.equal(logits(checkpoint.load_model(path)), logits(model))
    none = BPETokenizer([], [])
    folder = hub.save_pretrained(model, none, tmp_path / "hub")
    back = hub.from_pretrained_gpt2(folder)
    assert torch.equal(logits(back), logits(model))
    with pytest.raises(ValueError, match="Merge them first"):
        hub.save_pretrained(adapted(), none, tmp_path / "other")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": True}, "rank is True"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"targets": ["kv"]}, "'kv' or ends with it"),
        ({"targets": ["head"]}, "'head' or ends with it"),
        ({"rows": [260]}, "from 0 to 259"),
        ({"rows": [1, 1]}, "different tokens"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    model = fresh(tie_weights=False)
    with pytest.raises(ValueError, match=message):
        lora.apply(model, **settings)
    assert lora.adapters(model) == {}
    assert all(p.requires_grad for p in model.parameters())


def test_adapters_are_not_put_on_twice_nor_saved_without():
    with pytest.raises(ValueError, match="has adapters already"):
        lora.apply(adapted())
    with pytest.raises(ValueError, match="no adapters to save"):
        lora.save("nowhere", fresh())
    with pytest.raises(ValueError, match="no rows to train"):
        lora.apply(nn.Sequential(nn.Linear(2, 2)), targets=["0"], rows=[0])
