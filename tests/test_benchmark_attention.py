"""The timing of attention compares like with like."""

import pytest
import torch

from benchmarks import attention
from llmbook.attention import naive_attention, repeat_heads, window_mask


@pytest.mark.parametrize("window", [None, 1, 3, 7])
def test_every_way_is_the_formula(window):
    B, H, G, S, D = 2, 4, 2, 8, 16
    q, k, v = attention.drawn(B, H, G, S, D)
    expected, _ = naive_attention(
        q, repeat_heads(k, H), repeat_heads(v, H), window_mask(1, S, window)
    )
    if window is None:
        ways = attention.shared(B, H, G, S, D)
    else:
        ways = attention.windowed(B, H, G, S, D, window)
    for way in [*ways.values()] * 2:  # a second time like the first
        torch.testing.assert_close(way(), expected)


def test_ways_that_disagree_are_not_compared():
    ways = {"one": lambda: torch.zeros(1), "other": lambda: torch.ones(1)}
    with pytest.raises(ArithmeticError, match="'other' is not equal"):
        attention.measure(ways, rounds=1)


def test_the_table_has_a_row_for_every_way():
    ways = attention.shared(1, 2, 1, 4, 8)
    found = attention.measure(ways, rounds=2)
    rows = attention.table([{"shape": "s", "ways": found}]).splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == [*ways]
    assert rows[0].endswith("| 1.0 |")
