"""Checkpoints: what is saved comes back, and nothing else is read."""

import errno
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from llmbook import checkpoint
from llmbook.checkpoint import CheckpointError
from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.optim import AdamW, parameter_groups

SHAPE = GPTConfig(
    vocab_size=17, context_length=6, n_layer=2, n_head=2, n_embd=8
)


def trained(steps=3, seed=0, **changes):
    shape = GPTConfig(**{**SHAPE.to_dict(), **changes})
    model = GPT(shape, torch.Generator().manual_seed(seed))
    optimizer = AdamW(parameter_groups(model, 0.1))
    for step in range(steps):
        step_once(model, optimizer, step)
    return model, optimizer


def step_once(model, optimizer, step):
    x = torch.arange(6)[None].add(step).remainder(17)
    optimizer.zero_grad()
    model(x, x)[1].backward()
    optimizer.step()


def same(one, two):
    return all(
        torch.equal(p, q)
        for p, q in zip(one.parameters(), two.parameters(), strict=True)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_model_and_optimizer_come_back_to_the_bit(tied, tmp_path):
    model, optimizer = trained(tie_weights=tied)
    path = checkpoint.save(tmp_path / "a.safetensors", model, optimizer)
    other, others = trained(steps=1, seed=7, tie_weights=tied)
    checkpoint.restore(checkpoint.load(path), other, others)
    assert same(model, other)
    step_once(model, optimizer, 3)
    step_once(other, others, 3)
    assert same(model, other)


def test_torchs_own_optimizer_is_saved_as_well(tmp_path):
    model, other = trained(0)[0], trained(0)[0]
    optimizer, others = (
        torch.optim.AdamW(parameter_groups(m, 0.1)) for m in (model, other)
    )
    step_once(model, optimizer, 0)
    path = checkpoint.save(tmp_path / "a.safetensors", model, optimizer)
    checkpoint.restore(checkpoint.load(path), other, others)
    step_once(model, optimizer, 1)
    step_once(other, others, 1)
    assert same(model, other)


def test_state_and_extra_tensors_come_back(tmp_path):
    state = {"step": 3, "loss": 0.1, "name": "naïve"}
    extra = {"rng": torch.arange(5, dtype=torch.uint8)}
    path = tmp_path / "deep" / "a.safetensors"
    checkpoint.save(path, trained()[0], state=state, extra=extra)
    found = checkpoint.load(path)
    assert {k: found.state[k] for k in state} == state
    assert torch.equal(found.extra["rng"], extra["rng"])


def test_the_file_is_plain_safetensors(tmp_path):
    model, _ = trained()
    path = checkpoint.save(tmp_path / "a.safetensors", model)
    tensors = load_file(path)
    weight = tensors["model.token_embedding.weight"]
    assert torch.equal(weight, model.token_embedding.weight)
    assert len(tensors) == len(list(model.parameters()))


def test_a_model_can_be_built_from_its_file_alone(tmp_path):
    model, _ = trained()
    path = checkpoint.save(tmp_path / "a.safetensors", model)
    again = checkpoint.load_model(path)
    assert again.config == model.config
    assert same(model, again)
    assert not again.training


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(kept, tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", *trained())
    whole = path.read_bytes()
    length = int(kept * len(whole)) if isinstance(kept, float) else kept
    path.write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match="cut short"):
        checkpoint.load(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "a.safetensors")


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(CheckpointError, match="pickle"):
        checkpoint.load(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="pickle"):
        checkpoint.load(path)


def test_another_programs_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="another program"):
        checkpoint.load(path)


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    header = {"format": checkpoint.FORMAT, "version": 99}
    path = tmp_path / "a.safetensors"
    metadata = {checkpoint.FORMAT: json.dumps(header)}
    save_file({"model.x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="version 99"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "changes", [{"n_embd": 16}, {"n_layer": 3}, {"tie_weights": False}]
)
def test_a_model_of_another_shape_is_refused(changes, tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", trained()[0])
    with pytest.raises(CheckpointError, match="another model"):
        checkpoint.restore(checkpoint.load(path), trained(0, **changes)[0])


def test_weights_alone_cannot_resume_an_optimizer(tmp_path):
    model, optimizer = trained()
    path = checkpoint.save(tmp_path / "a.safetensors", model)
    with pytest.raises(CheckpointError, match="without an optimizer"):
        checkpoint.restore(checkpoint.load(path), model, optimizer)


def test_a_model_without_configuration_cannot_be_built(tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="no configuration"):
        checkpoint.load_model(path)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"positions": "spiral"}, "positions is 'spiral'"),
        ({"bias": "false"}, "bias is 'false'"),
        ({"mystery": 3}, "mystery"),
    ],
)
def test_a_model_of_parts_not_known_here_is_refused(values, words, tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", trained(0)[0])
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[checkpoint.FORMAT])
    header["config"] |= values
    metadata = {checkpoint.FORMAT: json.dumps(header)}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(CheckpointError, match=f"cannot build: .*{words}"):
        checkpoint.load_model(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_the_old_file_whole(number, tmp_path, monkeypatch):
    old, _ = trained(steps=1)
    path = checkpoint.save(tmp_path / "a.safetensors", old)

    def fail(tensors, file, metadata=None):
        file.write_bytes(b"half")
        raise OSError(number, "the disk's own words")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    word = "no space left" if number == errno.ENOSPC else "cannot write"
    with pytest.raises(CheckpointError, match=word):
        checkpoint.save(path, trained(steps=3)[0])
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert same(checkpoint.load_model(path), old)


def test_a_folder_that_is_a_file_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.save(tmp_path / "file" / "a.safetensors", trained()[0])
