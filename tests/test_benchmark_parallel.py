"""The sums of the parallel benchmark, on numbers made by hand."""

import pytest
import torch

from benchmarks import parallel


def found(gap, speed):
    return {
        name: {
            optimizer: {
                "loss": [3.0, 2.0 + gap * (processes - 1)],
                "tokens_per_second": speed * processes * threads,
            }
            for optimizer in parallel.OPTIMIZERS
        }
        for name, _, processes, threads, _ in parallel.WAYS
    }


def test_the_gap_is_the_largest_over_all_steps():
    rows = parallel.gaps(found(5e-6, 1.0))
    assert {(row["way"], row["optimizer"]) for row in rows} == {
        (name, o) for name, *_ in parallel.WAYS[1:] for o in ("adamw", "muon")
    }
    two = [row["gap"] for row in rows if row["way"].startswith("two")]
    assert two == [pytest.approx(5e-6, rel=1e-3)] * 4


@pytest.mark.parametrize("gap", [1e-3, float("nan")])
def test_a_gap_that_rounding_does_not_explain_ends_the_run(gap):
    with pytest.raises(ArithmeticError, match="two processes, DDP"):
        parallel.gaps(found(gap, 1.0))


def test_two_parts_of_a_batch_are_its_rows():
    source, parts = parallel.batches(), parallel.Parts(parallel.batches(), 2)
    x = torch.cat([parts.at(step)[0] for step in (6, 7)])
    y = torch.cat([parts.at(step)[1] for step in (6, 7)])
    assert torch.equal(x, source.at(3)[0])
    assert torch.equal(y, source.at(3)[1])


def test_ratios_are_of_one_round_and_the_table_shows_both():
    rounds = [found(0.0, speed) for speed in (10.0, 30.0, 20.0)]
    rows = parallel.speeds(rounds)
    assert rows[0]["tokens_per_second"] == 20.0
    times = [row["times_one"] for row in rows[::2]]
    assert times == [1.0, 1.0, 2.0, 2.0, 2.0]
    record = {"equality": parallel.gaps(rounds[0]), "speed": rows}
    shown = parallel.table(record)
    assert "| two processes, DDP | adamw | 2 | 0.0e+00 |" in shown
    assert "| two processes, FSDP2 | muon | 40 | 2.00 |" in shown
