"""What a new token costs where keys are shared, or forgotten.

    python -m benchmarks.attention [--rounds 60] [--record]

First, grouped heads: one new token looks at S earlier ones, with keys copied
for every head that shares them, with PyTorch's ``enable_gqa``, and as
``llmbook.attention`` does it. Then a window: with all keys kept and most of
them masked, with the kept ones moved along by one place, and by the cache
that slides. Rounds are interleaved, so that a busy moment of the machine
falls on all; a time is the median over the rounds, in microseconds of one
thread, and "times as fast" the median of the rounds' ratios. Results that
differ from the first way's by more than rounding end the run. ``--record``
writes runs/attention.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import keep, surroundings
from llmbook.attention import (
    grouped_attention,
    masked_attention,
    repeat_heads,
    window_mask,
)
from llmbook.cache import KVCache

RECORD = Path(__file__).resolve().parents[1] / "runs" / "attention.json"
ROUNDS, WARM = 60, 5
# Name, batch B, heads of queries H and of keys G, tokens S, head size D.
SHAPES = (
    ("SmolLM2-135M", 1, 9, 3, 1024, 64),
    ("Llama 3.2 1B", 1, 32, 8, 2048, 64),
    ("multi-query", 1, 8, 1, 1024, 64),
    ("multi-query, batch 8", 8, 8, 1, 256, 32),
)
WINDOW_SHAPES = (
    ("window 64 of 1,024", 1, 4, 4, 1024, 32, 64),
    ("window 256 of 4,096, groups", 1, 8, 2, 4096, 64, 256),
    ("the same, batch 8", 8, 8, 2, 4096, 64, 256),
)
Ways = dict[str, Callable[[], Tensor]]


def drawn(B: int, H: int, G: int, S: int, D: int) -> list[Tensor]:
    """The newest token's queries (B, H, 1, D), all keys, all values."""
    generator = torch.Generator().manual_seed(0)
    shapes = (B, H, 1, D), (B, G, S, D), (B, G, S, D)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def shared(B: int, H: int, G: int, S: int, D: int) -> Ways:
    """One token's attention, heads sharing keys."""
    q, k, v = drawn(B, H, G, S, D)
    fused = F.scaled_dot_product_attention
    return {
        "keys copied": lambda: fused(
            q, repeat_heads(k, H), repeat_heads(v, H)
        ),
        "enable_gqa": lambda: fused(q, k, v, enable_gqa=True),
        "llmbook": lambda: grouped_attention(q, k, v),
    }


def windowed(B: int, H: int, G: int, S: int, D: int, window: int) -> Ways:
    """One token's attention behind S - 1 others, with a window."""
    q, k, v = drawn(B, H, G, S, D)
    near = [x[:, :, -window - 1 : -1].clone() for x in (k, v)]
    cache = KVCache(1, B, G, D, 2 * S, window=window)
    [attend] = cache.attends()
    before = torch.zeros(B, H, S - 1, D)
    attend(before, k[:, :, :-1], v[:, :, :-1])

    def masked() -> Tensor:
        return masked_attention(q, k, v, window_mask(1, S, window))

    def moved() -> Tensor:
        new = (x[:, :, -1:] for x in (k, v))
        pairs = zip(near, new, strict=True)
        row = [torch.cat([old[:, :, 1:], x], dim=-2) for old, x in pairs]
        return masked_attention(q, *row)

    def slid() -> Tensor:
        cache.length = S - 1  # the same token every time
        return attend(q, k[:, :, -1:], v[:, :, -1:])

    return {"all kept, masked": masked, "moved along": moved, "llmbook": slid}


@torch.no_grad()
def measure(ways: Ways, rounds: int) -> dict[str, dict[str, float]]:
    """For each way its median microseconds, and how often as fast it is.

    Raises:
        ArithmeticError: a way finds something else than the first.
    """
    first, expected = next(iter(ways)), next(iter(ways.values()))()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(WARM + rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            found = way()
            spent = time.perf_counter() - start
            if turn >= WARM:
                taken[name].append(spent)
            if not torch.allclose(found, expected, atol=1e-5):
                raise ArithmeticError(f"{name!r} is not equal to {first!r}.")
    return {
        name: {
            "microseconds": 1e6 * statistics.median(spent),
            "times": statistics.median(
                base / own
                for base, own in zip(taken[first], spent, strict=True)
            ),
        }
        for name, spent in taken.items()
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| shape | way | µs a token and layer | times as fast |",
        "| --- | --- | --: | --: |",
    ]
    lines += [
        f"| {one['shape']} | {way} | {found['microseconds']:,.0f} "
        f"| {found['times']:.1f} |"
        for one in results
        for way, found in one["ways"].items()
    ]
    return "\n".join(lines)


def main() -> int:
    """Time every way, print the table, and keep it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(name, shared(*shape)) for name, *shape in SHAPES]
    cases += [(name, windowed(*shape)) for name, *shape in WINDOW_SHAPES]
    results = [
        {"shape": name, "ways": measure(ways, options.rounds)}
        for name, ways in cases
    ]
    print(table(results))
    if options.record:
        about = surroundings("attention", ["torch"])
        keep({**about, "results": results}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
