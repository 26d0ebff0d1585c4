"""The timing of training compares like with like."""

import os

import pytest
import torch

from benchmarks import growth, trainers, training
from llmbook.accounting import activation_bytes

TINY = training.SHAPES["tiny"]
EAGER = trainers.Mode("float32", False)


def test_llmbook_and_transformers_begin_at_the_loss_of_knowing_nothing():
    losses = {}
    for name in ("llmbook", "transformers"):
        torch.manual_seed(0)
        losses[name] = trainers.TRAINERS[name](TINY, EAGER, None)()
    training.check_losses(losses, TINY)


def test_a_trainer_learns_its_batch_by_heart():
    torch.manual_seed(0)
    step = trainers.ours(TINY, EAGER)
    losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0]


class Line:
    """A worker's end of a pipe: orders in, answers kept."""

    def __init__(self, *orders):
        self.orders, self.answers = [*orders, None], []

    def recv(self):
        return self.orders.pop(0)

    def send(self, answer):
        self.answers.append(answer)


def test_a_disturbed_worker_tells_its_first_loss_all_the_same(monkeypatch):
    def disturbed(work):
        return 1.0, [work() for _ in range(20)][-1]

    for name in ("MALLOC", "COMPILE", "ONEDNN"):  # work() sets them
        variable = f"LLMBOOK_{name}"
        monkeypatch.setenv(variable, os.environ.get(variable, "auto"))
    monkeypatch.setattr(training, "timed", disturbed)
    monkeypatch.setattr(training.runtime, "keep_freed_memory", bool)
    monkeypatch.setattr(training.torch, "set_num_threads", int)
    order = "llmbook", TINY, EAGER, None, 2
    line = Line(order, order)
    training.work(line, "system", 1)
    (warm, first), (spent, last) = line.answers
    assert warm != warm and spent == 0.5
    assert last < first
    training.check_losses({"llmbook": first}, TINY)


def test_a_trainer_that_does_other_work_is_not_compared():
    with pytest.raises(ArithmeticError, match=r"other begins at a loss"):
        training.check_losses({"other": 0.1}, TINY)


def test_a_peers_folder_without_its_code_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.py is missing"):
        trainers.nanogpt(TINY, EAGER, tmp_path)
    with pytest.raises(FileNotFoundError, match="llms_from_scratch"):
        trainers.raschka(TINY, EAGER, tmp_path)


def test_ratios_are_equal_memory_or_as_shipped():
    taken = {
        "keep": {"llmbook": [1.0, 2.0], "peer": [2.0, 4.0]},
        "system": {"llmbook": [1.5, 3.0], "peer": [3.0, 6.0]},
    }
    ours, peer = training.results_of(taken, TINY, EAGER, peak=1e9)
    assert ours["llmbook_times"] == {"shipped": 1.0, "equal": 1.0}
    assert peer["llmbook_times"] == {"shipped": 3.0, "equal": 2.0}
    per_token = 6 * (12 * 32**2 + 64 * 32)
    speed = peer["tokens_per_second"]["shipped"]
    assert peer["mfu"] == pytest.approx(per_token * speed / 1e9)
    assert training.table([ours, peer]).count("\n") == 3


def test_growth_measures_memory_as_the_formula_counts_it(capsys):
    arguments = ["--steps", "1", "--rounds", "1", "--tokens", "256"]
    assert growth.main([*arguments, "--cases", "1"]) == 0
    assert "| size | 2 | 64 | 256 |" in capsys.readouterr().out
    [row] = growth.memory([growth.shape(2, 64, 32)], 64)
    assert row["formula"] == activation_bytes(growth.shape(2, 64, 32), 2, 32)
    assert row["ratio"] == pytest.approx(1, abs=5e-3)
