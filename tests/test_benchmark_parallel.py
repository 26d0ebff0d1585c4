"""The sums of the parallel benchmark, on numbers made by hand."""

import pytest

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
        for name, _, processes, threads in parallel.WAYS
    }


def test_the_gap_is_the_largest_over_all_steps():
    rows = parallel.gaps(found(5e-6, 1.0))
    pairs = {(row["engine"], row["optimizer"]) for row in rows}
    assert pairs == {
        (e, o) for e in ("ddp", "fsdp") for o in parallel.OPTIMIZERS
    }
    assert all(row["gap"] == pytest.approx(5e-6, rel=1e-3) for row in rows)


@pytest.mark.parametrize("gap", [1e-3, float("nan")])
def test_a_gap_that_rounding_does_not_explain_ends_the_run(gap):
    with pytest.raises(ArithmeticError, match="two processes, DDP"):
        parallel.gaps(found(gap, 1.0))


def test_ratios_are_of_one_round_and_the_table_shows_both():
    rounds = [found(0.0, speed) for speed in (10.0, 30.0, 20.0)]
    rows = parallel.speeds(rounds)
    assert rows[0]["tokens_per_second"] == 20.0
    assert [row["times_one"] for row in rows[::2]] == [1.0, 2.0, 2.0, 2.0]
    record = {"equality": parallel.gaps(rounds[0]), "speed": rows}
    shown = parallel.table(record)
    assert "| ddp | adamw | 2 | 0.0e+00 |" in shown
    assert "| two processes, FSDP2 | muon | 40 | 2.00 |" in shown
