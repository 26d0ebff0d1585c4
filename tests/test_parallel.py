"""Several processes against one: the same batches, losses and checkpoints."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import team as jobs
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn

from llmbook import checkpoint, cutting, parallel, pieces, runtime
from llmbook.checkpoint import (
    CheckpointError,
    CheckpointWarning,
    DamagedError,
)
from llmbook.cli import main
from llmbook.cli.training import Train
from llmbook.compiling import CompiledLoss
from llmbook.config import TrainConfig
from llmbook.optim import orthogonalise
from llmbook.parallel import SharedBatches, Team
from llmbook.train import CHECKPOINT_NAME, make_optimizer
from llmbook.train.loop import made
from llmbook.train.sharing import should_cut

SCRIPT = Path(jobs.__file__)
ENGINES, OPTIMIZERS = ("ddp", "fsdp"), ("adamw", "muon")
COMBINATIONS = [(e, o) for e in ENGINES for o in OPTIMIZERS]
CLOSE = 1e-5  # nats


def torchrun(*arguments, size=2, restarts=0):
    """Start processes on this machine, and wait for their end."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", size, "--max-restarts", restarts),
        *arguments,
    ]
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def losses_of(folder):
    return json.loads((folder / "history.json").read_text())["loss"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process's histories, and its runs cut after a checkpoint."""
    base, histories = tmp_path_factory.mktemp("alone"), {}
    for optimizer in OPTIMIZERS:
        histories[optimizer] = jobs.run("auto", optimizer, "all", None)
        jobs.run("auto", optimizer, "cut", base / optimizer)
    return base, histories


@pytest.fixture(scope="module")
def two(tmp_path_factory, alone):
    """Two processes' folder: whole runs, cut ones, and those of one."""
    base = tmp_path_factory.mktemp("two")
    for name in (f"from-one-{engine}" for engine in ENGINES):
        shutil.copytree(alone[0] / "muon", base / name)
    done = torchrun(
        SCRIPT,
        base,
        "averaged",
        *(f"{e}/{o}/all" for e, o in COMBINATIONS),
        *(f"{engine}/muon/cut" for engine in ENGINES),
        *(f"{engine}/muon/resume@from-one-{engine}" for engine in ENGINES),
    )
    assert done.returncode == 0, done.stderr
    return base, done


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "optimizer"), COMBINATIONS)
def test_two_processes_learn_what_one_learns(two, alone, engine, optimizer):
    folder, one = two[0] / f"{engine}-{optimizer}-all", alone[1][optimizer]
    found = json.loads((folder / "history.json").read_text())
    assert len(found["loss"]) == jobs.STEPS
    np.testing.assert_allclose(found["loss"], one.loss, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(
        found["gradient_norm"], one.gradient_norm, atol=CLOSE, rtol=0
    )
    np.testing.assert_allclose(
        found["evaluations"], one.evaluations, atol=CLOSE, rtol=0
    )
    assert found["tokens"] == one.tokens


@pytest.mark.slow
def test_ddps_gradients_are_the_averaged_ones(two):
    assert json.loads((two[0] / "averaged" / "history.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_one_process_goes_on_where_two_stopped(two, alone, engine, tmp_path):
    folder = shutil.copytree(two[0] / f"{engine}-muon-cut", tmp_path / "run")
    assert checkpoint.is_in_pieces(folder / CHECKPOINT_NAME) == (
        engine == "fsdp"
    )
    history = jobs.run("auto", "muon", "resume", folder)
    np.testing.assert_allclose(
        history.loss, alone[1]["muon"].loss, atol=CLOSE, rtol=0
    )
    assert (folder / CHECKPOINT_NAME).is_file()
    assert not (folder / "checkpoint.pieces").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_go_on_where_one_stopped(two, alone, engine):
    folder = two[0] / f"from-one-{engine}"
    one = alone[1]["muon"].loss
    found = losses_of(folder)
    assert found[: jobs.SAVED] == one[: jobs.SAVED]
    np.testing.assert_allclose(found, one, atol=CLOSE, rtol=0)
    names = {path.name for path in folder.iterdir()}
    kept = "checkpoint.pieces" if engine == "fsdp" else CHECKPOINT_NAME
    other = CHECKPOINT_NAME if engine == "fsdp" else "checkpoint.pieces"
    assert kept in names and other not in names
    assert not any(name.endswith(".part") for name in names)


@pytest.mark.slow
def test_only_the_first_process_draws_a_bar(two):
    begun = two[1].stderr.count("[00:00<?")  # of each bar the first drawing
    assert two[1].stdout == ""
    assert begun == len(COMBINATIONS) + 2 * len(ENGINES)


@pytest.mark.slow
def test_a_restart_goes_on_after_a_process_has_died(two, tmp_path):
    done = torchrun(SCRIPT, tmp_path, "fsdp/adamw/die@run", restarts=1)
    assert done.returncode == 0, done.stderr
    assert "Signal 9" in done.stderr or "exitcode: -9" in done.stderr
    undisturbed = losses_of(two[0] / "fsdp-adamw-all")
    assert losses_of(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_and_is_named(tmp_path):
    done = torchrun(SCRIPT, tmp_path, "ddp/adamw/die@run")
    assert done.returncode != 0
    report = done.stderr[done.stderr.index("Root Cause") :]
    assert "rank      : 1" in report and "Signal 9 (SIGKILL)" in report
    said = [x for x in done.stderr.splitlines() if x.startswith("llmbook:")]
    assert len(said) == 1
    assert "--resume" in said[0] and "--max-restarts" in said[0]
    saved = checkpoint.load(tmp_path / "run" / CHECKPOINT_NAME)
    assert len(saved.state["history"]["loss"]) == jobs.SAVED


COMMAND = """train {out} --documents 120 --training.steps 6
--training.batch-size 4 --training.warmup-steps 2 --training.eval-every 3
--training.eval-batches 1 --training.dtype float32 --model.vocab-size 300
--model.context-length 32 --model.n-layer 2 --model.n-head 2
--model.n-embd 16"""


@pytest.mark.slow
def test_the_command_trains_the_same_model_in_two_processes(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(COMMAND.format(out=one).split()) == 0
    cut = ("--training.parallel", "fsdp")
    command = [*COMMAND.format(out=two).split(), *cut]
    done = torchrun("-m", "llmbook", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 6 steps") == 1
    assert len(done.stdout.splitlines()) == 1
    names = [sorted(p.name for p in f.iterdir()) for f in (one, two)]
    assert names[0] == names[1]
    found, expected = (
        load_file(folder / "model.safetensors") for folder in (two, one)
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_parts_of_all_processes_are_the_batch(size):
    batches = jobs.make_batches()
    x, y = batches.at(3)
    parts = [SharedBatches(batches, Team(r, size)).at(3) for r in range(size)]
    assert torch.equal(torch.cat([part[0] for part in parts]), x)
    assert torch.equal(torch.cat([part[1] for part in parts]), y)


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"6 sequences and 4 .* such as 8"):
        Team(size=4).part(torch.zeros(6, 2))
    command = Train(tmp_path, training=TrainConfig(batch_size=3))
    with pytest.raises(ValueError, match="3 sequences and 2 processes"):
        command.check(Team(size=2), resume=False)


def test_snapshots_of_a_cut_model_are_refused(tmp_path):
    training = TrainConfig(parallel="fsdp")
    command = Train(tmp_path, training=training, snapshots=(1,))
    with pytest.raises(ValueError, match=r"snapshots .* ddp"):
        command.check(Team(size=2), resume=False)


def test_a_cut_model_is_not_compiled_and_says_so():
    model = nn.Linear(2, 2)
    model.reshard = None  # what a model that is cut has
    config = TrainConfig(compile="on")
    with pytest.warns(UserWarning, match="passed over"):
        run = made(model, None, config, Team.alone(), None, max)
    assert run.is_cut and run.step_loss is None
    del model.reshard
    run = made(model, None, config, Team.alone(), None, max)
    assert isinstance(run.step_loss, CompiledLoss)


def tell(monkeypatch, rank, local, size):
    """Set the variables by which torchrun tells a process who it is."""
    values = (rank, local, size, "host", 29500)
    for name, value in zip(parallel.TOLD, values, strict=True):
        monkeypatch.setenv(name, str(value))


def test_torchruns_variables_name_the_team(monkeypatch):
    assert parallel.team().size == 1
    tell(monkeypatch, rank=3, local=1, size=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parallel.team() == Team(3, 4, torch.device("cpu"))
    assert not parallel.team().speaks
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parallel.team().device == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--nproc-per-node 1"):
        parallel.team()


def test_too_few_gpus_are_said_and_no_traceback(monkeypatch, capsys):
    tell(monkeypatch, rank=0, local=0, size=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv(runtime.DTYPE_VARIABLE, "float32")  # do not ask CUDA
    assert main(["generate", "out"]) == 1
    assert "--nproc-per-node" in capsys.readouterr().err


def test_only_train_runs_under_torchrun(monkeypatch, capsys, tmp_path):
    tell(monkeypatch, rank=0, local=0, size=2)
    assert main(["generate", str(tmp_path)]) == 1
    assert "only train shares its work" in capsys.readouterr().err


def test_auto_cuts_what_fills_more_than_half_of_a_gpu(monkeypatch):
    memory = types.SimpleNamespace(total_memory=32_000)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: memory
    )
    pair, auto = Team(0, 2, torch.device("cuda", 0)), TrainConfig()
    assert not should_cut(1_000, auto, pair)  # 16 bytes each: just half
    assert should_cut(1_001, auto, pair)
    assert not should_cut(1_001, TrainConfig(parallel="ddp"), pair)
    assert not should_cut(1_001, auto, Team(0, 1, pair.device))
    assert not should_cut(1_001, auto, Team(0, 2, torch.device("cpu")))


def test_a_model_is_cut_where_that_is_asked_for():
    pair, fsdp = Team(size=2), TrainConfig(parallel="fsdp")
    assert should_cut(6, fsdp, pair)
    assert not should_cut(6, fsdp, Team.alone())
    assert not should_cut(6, TrainConfig(parallel="ddp"), pair)
    assert not should_cut(6, TrainConfig(), pair)
    with pytest.raises(ValueError, match="parallel is 'zero'"):
        TrainConfig(parallel="zero")


def test_muon_sees_whole_matrices_when_nothing_is_cut():
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cutting.whole_direction(matrix), orthogonalise(matrix))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in pieces, and the one before it, of one process."""
    path = tmp_path / "checkpoint.pieces"
    for state in ({"k": 0}, {"k": 1}):
        write_pieces(path, state)
    return path


def write_pieces(path, state, model=None):
    """What :func:`pieces.save` writes, of a model that is whole."""
    model = model or jobs.make_model()
    model.reshard = lambda: None
    optimizer = make_optimizer(model, jobs.settings("adamw"))
    x, y = jobs.make_batches().at(0)
    model(x, y)[1].backward()
    optimizer.step()
    pieces.save(path, model, optimizer, state, Team.alone())
    return model, optimizer


def test_pieces_hold_what_torchs_own_files_hold(tmp_path):
    path = tmp_path / "checkpoint.pieces"
    model, optimizer = write_pieces(path, {"k": 3})
    dcp.save(model.state_dict(), checkpoint_id=tmp_path / "torch")
    theirs = jobs.make_model(seed=9).state_dict()
    dcp.load(theirs, checkpoint_id=tmp_path / "torch")
    found = pieces.load(path, jobs.make_model(seed=9))
    assert found.state["k"] == 3
    assert found.model.keys() == theirs.keys()
    assert all(torch.equal(found.model[k], theirs[k]) for k in theirs)
    moments, _ = checkpoint.optimizer_to_parts(optimizer, model)
    assert found.optimizer.keys() == moments.keys()
    assert all(torch.equal(found.optimizer[k], moments[k]) for k in moments)
    whole = pieces.load_model(path)
    assert all(torch.equal(p, theirs[n]) for n, p in whole.named_parameters())


def test_pieces_are_no_pickles(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["header.json", "rank-00000.safetensors"]


@pytest.mark.parametrize("where", ["../elsewhere", "unlisted"])
def test_a_header_names_no_file_that_it_does_not_answer_for(folder, where):
    file = folder / pieces.HEADER
    header = json.loads(file.read_text().partition("\n")[2])
    if where == "unlisted":
        first = next(iter(header["tensors"].values()))
        first["slices"][0]["file"] = where
    else:
        header["files"][f"{where}.safetensors"] = "0" * 64
    text = json.dumps(header)
    digest = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(f"{digest}\n{text}\n")
    with pytest.raises(CheckpointError, match="another program"):
        pieces.load_model(folder)


@pytest.mark.parametrize("name", ["header.json", "rank-00000.safetensors"])
@pytest.mark.parametrize("harm", ["cut", "changed", "missing"])
def test_damaged_pieces_are_passed_over_for_those_before(folder, name, harm):
    file = folder / name
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[:-9])
    elif harm == "changed":
        file.write_bytes(content[:-9] + b"x" + content[-8:])
    else:
        file.unlink()
    with pytest.raises(DamagedError, match=name):
        pieces.load_model(folder)
    with pytest.warns(CheckpointWarning, match="before it"):
        pieces.settle(folder, Team.alone())
    assert pieces.load(folder, jobs.make_model()).state["k"] == 0
    assert checkpoint.damaged_of(folder).is_dir()


def test_a_folder_that_a_kill_left_unnamed_is_found(folder):
    shutil.rmtree(folder)  # the kill came between the two renames
    assert checkpoint.is_kept(folder.with_name(CHECKPOINT_NAME))
    with pytest.warns(CheckpointWarning, match="missing"):
        pieces.settle(folder, Team.alone())
    assert pieces.load(folder, jobs.make_model()).state["k"] == 0
    shutil.rmtree(folder)
    with pytest.raises(DamagedError, match="Start anew"):
        pieces.settle(folder, Team.alone())


def test_pieces_of_another_model_or_a_newer_version_are_refused(folder):
    other = jobs.GPT(replace(jobs.SHAPE, n_layer=1))
    with pytest.raises(CheckpointError, match=r"blocks\.1.*only in the file"):
        checkpoint.restore(pieces.load(folder, other), other)
    write_pieces(folder, {}, model := jobs.make_model())
    pieces.VERSION += 1
    try:
        write_pieces(folder, {}, model)
    finally:
        pieces.VERSION -= 1
    with pytest.raises(CheckpointError, match="Install a newer llmbook"):
        pieces.settle(folder, Team.alone())
    assert folder.is_dir()


def test_a_disk_that_is_full_leaves_the_pieces_as_they_were(
    folder, monkeypatch
):
    def full(tensors, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pieces, "save_file", full)
    with pytest.raises(CheckpointError, match="no space left"):
        write_pieces(folder, {"k": 2})
    assert pieces.load(folder, jobs.make_model()).state["k"] == 1
    assert not list(folder.parent.glob("*.part"))
