"""Checkpoints: what is saved comes back, and nothing else is read."""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from llmbook import checkpoint
from llmbook.checkpoint import CheckpointError, DamagedError
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


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[checkpoint.FORMAT])


def write_again(path, header, checksum=None):
    """What another program could write: a header and the right checksum."""
    tensors = load_file(path)
    header.pop(checkpoint.DIGEST, None)
    right = checkpoint.checksum(header, tensors)
    header[checkpoint.DIGEST] = checksum or right
    metadata = {checkpoint.FORMAT: json.dumps(header)}
    save_file(tensors, path, metadata=metadata)


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


def test_a_header_of_any_length_is_read(tmp_path):
    """A length may be written with the bytes that a pickle starts with."""
    path, model = tmp_path / "a.safetensors", trained()[0]
    checkpoint.save(path, model, state={"note": ""})
    short = int.from_bytes(path.read_bytes()[:8], "little")
    note = "x" * (0x1_0280 - short)
    checkpoint.save(path, model, state={"note": note})
    assert path.read_bytes().startswith(checkpoint.PICKLE_STARTS)
    assert checkpoint.load(path).state["note"] == note


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
    header = header_of(path)
    header["config"] |= values
    write_again(path, header)
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


def test_a_single_changed_bit_is_noticed_wherever_it_is(tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", *trained())
    whole = path.read_bytes()
    places = np.random.default_rng(3).integers(0, len(whole), 60)
    for place in [*places.tolist(), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_changed_weights_and_changed_values_have_a_wrong_checksum(tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", *trained())
    whole, header = path.read_bytes(), header_of(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedError, match="wrong checksum"):
        checkpoint.load(path)
    path.write_bytes(whole)
    write_again(path, header | {"state": {"step": 7}}, checksum="0" * 64)
    with pytest.raises(DamagedError, match="wrong checksum"):
        checkpoint.load(path)


def test_the_checksum_is_sha256_of_what_the_file_holds(tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", trained()[0])
    header = header_of(path)
    digest = header.pop("sha256")
    total = hashlib.sha256(json.dumps(header).encode())
    for name, tensor in sorted(load_file(path).items()):
        words = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        total.update(words.encode() + tensor.numpy().tobytes())
    assert digest == total.hexdigest()


def test_the_same_run_writes_the_same_bytes(tmp_path):
    one, two = (
        checkpoint.save(tmp_path / name, *trained(), state={"step": 3})
        for name in ("a.safetensors", "b.safetensors")
    )
    assert one.read_bytes() == two.read_bytes()


def test_a_file_of_the_first_version_has_no_checksum_and_is_read(tmp_path):
    model, _ = trained()
    path = checkpoint.save(tmp_path / "a.safetensors", model)
    header = header_of(path) | {"version": 1}
    metadata = {checkpoint.FORMAT: json.dumps(header)}
    save_file(load_file(path), path, metadata=metadata)
    assert same(checkpoint.load_model(path), model)


def two_saved(folder):
    """The file of a run that was saved twice."""
    path = folder / "run.safetensors"
    for step in (1, 2):
        checkpoint.save(
            path, *trained(step), state={"step": step}, keep_previous=True
        )
    return path


def test_the_checkpoint_before_the_last_is_kept(tmp_path):
    path = two_saved(tmp_path)
    before = checkpoint.previous_of(path)
    assert checkpoint.load(path).state["step"] == 2
    assert checkpoint.load(before).state["step"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {path.name, before.name}


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_where_the_newest_is_damaged_the_one_before_is_used(damage, tmp_path):
    path = two_saved(tmp_path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.warns(checkpoint.CheckpointWarning, match="goes on from"):
        assert checkpoint.load_newest(path).state["step"] == 1
    assert checkpoint.load_newest(path).state["step"] == 1  # and in silence
    checkpoint.save(path, *trained(3), state={"step": 3}, keep_previous=True)
    assert checkpoint.load(checkpoint.previous_of(path)).state["step"] == 1
    assert checkpoint.damaged_of(path).exists() == (damage != "missing")


def test_a_newer_version_is_never_passed_over_for_an_older_file(tmp_path):
    path = two_saved(tmp_path)
    write_again(path, header_of(path) | {"version": 99})
    with pytest.raises(CheckpointError, match="version 99"):
        checkpoint.load_newest(path)
    assert checkpoint.load(checkpoint.previous_of(path)).state["step"] == 1


def test_two_damaged_files_are_an_error(tmp_path):
    path = two_saved(tmp_path)
    for file in (path, checkpoint.previous_of(path)):
        file.write_bytes(b"?")
    with pytest.raises(DamagedError, match="cannot be read either"):
        checkpoint.load_newest(path)
    path.unlink()
    checkpoint.previous_of(path).unlink()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load_newest(path)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("call", range(6))
def test_a_kill_at_any_moment_of_saving_loses_one_checkpoint_at_most(
    call, tmp_path, monkeypatch
):
    path, calls = two_saved(tmp_path), iter(range(99))

    def deadly(function):
        def called(*arguments, **options):
            if next(calls) == call:
                raise Killed
            return function(*arguments, **options)

        return called

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", deadly(save_file))
        for name in ("fsync", "replace"):
            patch.setattr(checkpoint.os, name, deadly(getattr(os, name)))
        with contextlib.suppress(Killed):
            checkpoint.save(
                path, *trained(3), state={"step": 3}, keep_previous=True
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checkpoint.CheckpointWarning)
        step = checkpoint.load_newest(path).state["step"]
    assert step == (2 if call < 4 else 3)
    checkpoint.sweep(path)
    assert not list(tmp_path.glob("*.part"))


def test_a_disk_that_is_really_too_small_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    path = two_saved(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot write"):
            checkpoint.save(path, *trained(3), keep_previous=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path).state["step"] == 2
    assert not list(tmp_path.glob("*.part"))


def test_removing_a_run_s_checkpoints_leaves_nothing(tmp_path):
    path = two_saved(tmp_path)
    path.with_name(f"{path.name}.77.part").write_bytes(b"half")
    checkpoint.damaged_of(path).write_bytes(b"?")
    (tmp_path / "mine.txt").touch()
    checkpoint.remove(path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
