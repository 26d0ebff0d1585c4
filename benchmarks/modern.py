"""What each modern part is worth: one exchanged at a time, at equal cost.

    python -m benchmarks.modern [--steps 400] [--seeds 3] [--record]

The variants of the chapter on modern parts, trained longer. Every one gets
the operations of ``--steps`` steps of the base, by formula, and the same
batches, at two learning rates; the table has the rate whose mean is lower,
so that no part pays for a rate that suits another. Scored is the loss on
held-out documents, in nats a token; the processor's seconds stand beside
it. ``--record`` writes runs/modern.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import keep, surroundings
from llmbook.accounting import flops_per_token, parameters
from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus import DocumentBatches, load_corpus
from llmbook.model import GPT
from llmbook.runtime import keep_freed_memory
from llmbook.tokenizer import BPETokenizer
from llmbook.train import evaluate, train

RECORD = Path(__file__).resolve().parents[1] / "runs" / "modern.json"
STEPS, SEEDS = 400, 3
BATCH, CONTEXT, VOCABULARY = 8, 64, 512
DOCUMENTS, TOKENIZED = 13_000, 1_000  # generated; read by the tokenizer
HELD_OUT = 256  # windows that are scored, each from a document's start
RATES = (5e-3, 1e-2)  # at twice as much the base comes apart
BASE = GPTConfig(
    VOCABULARY, CONTEXT, n_layer=2, n_head=4, n_embd=64, init_std=0.04
)
SWIGLU = {"feed_forward": "swiglu", "d_ff": 170}
EXPERTS = {"n_expert": 8, "n_expert_used": 2, "d_ff": 128}
LLAMA = SWIGLU | {
    "positions": "rotary",
    "norm": "rmsnorm",
    "bias": False,
    "n_kv_head": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "GPT-2 style": {},
    "rotary": {"positions": "rotary"},
    "RMSNorm": {"norm": "rmsnorm"},
    "SwiGLU": SWIGLU,
    "rotary, SwiGLU": SWIGLU | {"positions": "rotary"},
    "2 of 4 kv heads": {"n_kv_head": 2},
    "window of 16": {"window": 16},
    "8 experts": EXPERTS,
    "8 experts, unbalanced": EXPERTS | {"balance_weight": 0.0},
    "Llama style": LLAMA,
    "Llama style, window of 16": LLAMA | {"window": 16},
}


@cache
def material() -> tuple[list[int], list[int], int]:
    """Ids to train on, ids held out, and the token between documents."""
    corpus = load_corpus("world", documents=DOCUMENTS)
    tokenizer = BPETokenizer.train(corpus.train_texts[:TOKENIZED], VOCABULARY)
    end = tokenizer.end_of_text
    train_ids, held_out = (
        [i for text in texts for i in (end, *tokenizer.encode(text))]
        for texts in (corpus.train_texts, corpus.validation_texts[:HELD_OUT])
    )
    return train_ids, held_out, end


def steps_of(config: GPTConfig, steps: int) -> int:
    """As many steps as cost what ``steps`` of the base cost.

    >>> steps_of(BASE, 100)
    100
    """
    price = flops_per_token(config, CONTEXT) / flops_per_token(BASE, CONTEXT)
    return max(1, round(steps / price))


def loads(model: GPT) -> list[list[float]]:
    """For each layer, the share of its last choices on each expert."""
    shares = []
    for block in model.blocks:
        chosen = getattr(block.feed_forward, "chosen", None)
        if chosen is not None:
            counts = chosen.flatten().bincount(minlength=EXPERTS["n_expert"])
            shares.append((counts / counts.sum()).tolist())
    return shares


def run(name: str, seed: int, steps: int, rate: float) -> dict[str, Any]:
    """Train one variant from one seed, and score it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    train_ids, held_out, end = material()
    config = replace(BASE, **VARIANTS[name])
    model = GPT(config, torch.Generator().manual_seed(seed))
    plan = TrainConfig(
        steps=steps_of(config, steps),
        batch_size=BATCH,
        learning_rate=rate,
        min_learning_rate=rate / 10,
        warmup_steps=max(1, steps // 10),
        seed=seed,
        dtype="float32",
        eval_every=0,
    )
    windows = DocumentBatches(train_ids, CONTEXT, BATCH, seed, end_of_text=end)
    start = time.process_time()
    train(model, windows, plan, progress=False)
    spent = time.process_time() - start
    scored = DocumentBatches(held_out, CONTEXT, 1, end_of_text=end)
    scored.batch_size = scored.windows  # all of them at once
    return {
        "variant": name,
        "seed": seed,
        "parameters": parameters(config),
        "steps": plan.steps,
        "rate": rate,
        "loss": evaluate(model, scored, 1),
        "seconds": round(spent, 1),
        "loads": loads(model),
    }


def at_its_best(results: list[dict[str, Any]]) -> dict[str, list[dict]]:
    """The runs of each variant at the rate whose mean loss is lowest.

    >>> runs = [{"variant": "a", "rate": 1.0, "loss": 3.0},
    ...         {"variant": "a", "rate": 2.0, "loss": 2.0}]
    >>> [run["rate"] for run in at_its_best(runs)["a"]]
    [2.0]
    """
    groups: dict[str, dict[float, list[dict]]] = {}
    for result in results:
        rates = groups.setdefault(result["variant"], {})
        rates.setdefault(result["rate"], []).append(result)
    return {name: min(r.values(), key=mean_loss) for name, r in groups.items()}


def mean_loss(group: list[dict[str, Any]]) -> float:
    """The mean loss of some runs."""
    return statistics.fmean(result["loss"] for result in group)


def table(results: list[dict[str, Any]]) -> str:
    """Each variant at its best rate, as Markdown, lowest loss first."""
    lines = [
        "| variant | parameters | steps | rate | nats a token | range "
        "| above base | seconds |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    best = at_its_best(results)
    base = mean_loss(best["GPT-2 style"])
    for name in sorted(best, key=lambda name: mean_loss(best[name])):
        group = best[name]
        found = [result["loss"] for result in group]
        lines.append(
            f"| {name} | {group[0]['parameters']:,} | {group[0]['steps']:,} "
            f"| {group[0]['rate']:g} | {mean_loss(group):.3f} "
            f"| {min(found):.3f} to {max(found):.3f} "
            f"| {mean_loss(group) - base:+.3f} "
            f"| {statistics.median(r['seconds'] for r in group):.0f} |"
        )
    return "\n".join(lines)


def in_parallel(jobs: list[tuple], workers: int) -> list[dict[str, Any]]:
    """:func:`run` of every job; each result is printed as it comes."""
    results = []
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        for result in pool.map(run, *zip(*jobs, strict=True)):
            results.append(result)
            print(json.dumps(result), file=sys.stderr, flush=True)
    return results


def main() -> int:
    """Run the variants, print the table, and keep it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args()
    if min(options.steps, options.seeds, options.workers) < 1:
        parser.error("--steps, --seeds and --workers begin at 1.")
    results = in_parallel(
        [
            (name, seed, options.steps, rate)
            for seed in range(options.seeds)
            for name in VARIANTS
            for rate in RATES
        ],
        options.workers,
    )
    print(table(results))
    if options.record:
        about = surroundings("modern", ["torch"])
        keep({**about, "results": results}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
