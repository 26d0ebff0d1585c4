"""Texts one by one, in batches, and with what they share read once.

    LLMBOOK_BUDGET=quick python -m benchmarks.batching [--rounds 5] [--record]

The running model scores four answers to each of some questions, behind the
same examples, and writes on from as many prompts: one at a time, in padded
batches, and with the examples read once. transformers does the same with the
same weights, where it is installed. Rounds are interleaved, so that a busy
moment of the machine falls on all; a time is the median over the rounds, in
seconds of one thread. The last column says how far the results lie from
those found one at a time. ``--record`` writes runs/batching.json.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.records import keep, surroundings
from llmbook import hub, running
from llmbook.batching import (
    generate_batch,
    left_pad,
    score_pairs,
    shared_prefix,
)
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.tokenizer import Tokenizer

RECORD = Path(__file__).resolve().parents[1] / "runs" / "batching.json"
QUESTIONS, ANSWERS = 32, 4
BATCH_SIZE = 16
# Shares of the context: examples, question, answer or new tokens, at most.
EXAMPLES, QUESTION, ANSWER, NEW = 0.5, 0.25, 0.05, 0.2
BASE = "one at a time"  # what the other ways are held against
Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Work:
    """What is to be done: the shared examples, pairs, prompts."""

    examples: list[int]
    pairs: list[Pair]
    prompts: list[list[int]]
    new: int


def work(ids: Sequence[int], context_length: int, seed: int = 0) -> Work:
    """Questions of many lengths, cut from a text behind its beginning."""
    draw = random.Random(seed)

    def piece(share: float) -> list[int]:
        longest = max(2, int(share * context_length))
        length = draw.randint(max(1, longest // 4), longest)
        start = draw.randrange(len(ids) - length)
        return list(ids[start : start + length])

    examples = list(ids[: int(EXAMPLES * context_length)])
    prompts = [examples + piece(QUESTION) for _ in range(QUESTIONS)]
    pairs = [(p, piece(ANSWER)) for p in prompts for _ in range(ANSWERS)]
    return Work(examples, pairs, prompts, int(NEW * context_length))


def parts(rows: list) -> list[list]:
    """``rows`` in batches."""
    return [
        rows[first : first + BATCH_SIZE]
        for first in range(0, len(rows), BATCH_SIZE)
    ]


@torch.no_grad()
def score_one(logits: Callable[[Tensor], Tensor], pair: Pair) -> float:
    """The log-probability of a pair's second text, by the definition."""
    context, answer = pair
    row = torch.tensor([context + answer[:-1]])
    found = logits(row)[0, len(context) - 1 :].log_softmax(-1)
    return found.gather(-1, torch.tensor(answer)[:, None]).sum().item()


def our_ways(model: GPT, todo: Work) -> dict[str, Callable[[], list]]:
    """What this package can do, by name."""

    def scored(shared: bool) -> list[float]:
        prefix = shared_prefix(model, todo.examples) if shared else None
        found = score_pairs(
            model, todo.pairs, prefix=prefix, batch_size=BATCH_SIZE
        )
        return [row.logprobs.sum().item() for row in found]

    def written(shared: bool) -> list[list[int]]:
        prefix = shared_prefix(model, todo.examples) if shared else None
        settings = {"temperature": 0, "prefix": prefix}
        return [
            row
            for batch in parts(todo.prompts)
            for row in generate_batch(model, batch, todo.new, **settings)
        ]

    def alone(prompt: list[int]) -> list[int]:
        row = generate(model, prompt, todo.new, temperature=0)
        return row[len(prompt) :]

    return {
        f"score: {BASE}": lambda: [
            score_one(lambda row: model(row)[0], pair) for pair in todo.pairs
        ],
        "score: batches": lambda: scored(False),
        "score: batches, examples read once": lambda: scored(True),
        f"write: {BASE}": lambda: [*map(alone, todo.prompts)],
        "write: batches": lambda: written(False),
        "write: batches, examples read once": lambda: written(True),
    }


def their_ways(
    model: GPT, tokenizer: Tokenizer, todo: Work
) -> dict[str, Callable[[], list]]:
    """The same by transformers, from a saved folder."""
    if find_spec("transformers") is None:
        return {}
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        saved = hub.save_pretrained(model, tokenizer, Path(folder, "model"))
        theirs = AutoModelForCausalLM.from_pretrained(saved).eval()

    def written(prompts: list[list[int]]) -> list[list[int]]:
        ids, pads = left_pad(prompts)
        found = theirs.generate(
            ids,
            attention_mask=(
                torch.arange(ids.shape[1]) >= pads[:, None]
            ).long(),
            max_new_tokens=todo.new,
            do_sample=False,
            eos_token_id=None,
        )
        return found[:, ids.shape[1] :].tolist()

    return {
        "score: transformers, one at a time": lambda: [
            score_one(lambda row: theirs(row).logits, pair)
            for pair in todo.pairs
        ],
        "write: transformers, one at a time": lambda: [
            row for prompt in todo.prompts for row in written([prompt])
        ],
        "write: transformers, batches": lambda: [
            row for batch in parts(todo.prompts) for row in written(batch)
        ],
    }


def difference(found: list, expected: list) -> float:
    """How far two lists of results lie apart.

    The largest difference of two scores, or the share of other texts.
    """
    pairs = list(zip(found, expected, strict=True))
    if not isinstance(found[0], float):
        return sum(a != b for a, b in pairs) / len(pairs)
    apart = [abs(a - b) for a, b in pairs]
    return max(apart) if all(map(math.isfinite, apart)) else math.nan


def measure(
    ways: dict[str, Callable[[], list]], rounds: int
) -> list[dict[str, Any]]:
    """The median seconds of each way, and what it found against the first.

    Ways whose names begin alike do the same work.
    """
    found: dict[str, list] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - start)
    results = []
    for name in sorted(ways, key=lambda name: name.split(":")[0]):
        task, how = name.split(": ", 1)
        base = f"{task}: {BASE}"
        results.append(
            {
                "task": task,
                "way": how,
                "seconds": statistics.median(seconds[name]),
                "times": statistics.median(
                    one / other
                    for one, other in zip(
                        seconds[base], seconds[name], strict=True
                    )
                ),
                "apart": difference(found[name], found[base]),
            }
        )
    return results


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| task | way | seconds | times as fast | apart |",
        "| --- | --- | --: | --: | --: |",
    ]
    for r in results:
        apart = f"{r['apart']:.0e} nats"
        if r["task"] == "write":
            apart = f"{r['apart']:.0%} of texts"
        lines.append(
            f"| {r['task']} | {r['way']} | {r['seconds']:.3f} "
            f"| {r['times']:.1f} | {apart} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run every way, print the table, and keep it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = running.load_running()
    model, tokenizer = chosen.model, chosen.tokenizer
    todo = work(
        chosen.validation_shard.tokens.tolist(), model.config.context_length
    )
    ways = our_ways(model, todo) | their_ways(model, tokenizer, todo)
    results = measure(ways, options.rounds)
    print(table(results))
    if options.record:
        used = ["torch", "transformers"]
        about = surroundings("batching", [p for p in used if find_spec(p)])
        keep({**about, "results": results}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
