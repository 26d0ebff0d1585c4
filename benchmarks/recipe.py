"""Which running model learns the world best in the time a reader waits?

    python -m benchmarks.recipe [--seconds 60] [--seeds 3] [--record]

Every candidate differs from the recipe of ``llmbook.running`` in what its
name says and gets the same processor seconds on one thread. How many steps
these are is measured first: all candidates take turns, so that a busy moment
of the machine falls on all, and a step's time is the median over the rounds.
Compiling is not in it; all are compiled where the recipe is. The recipe is
also trained for the steps of its own budget, as the book does it. Each is
scored on fresh documents of the world, read whole from their start token: the
mean of ln p - ln q a token, where p is the world's own probability and q the
model's, and that as a share of the world's entropy. The world's documents
hold combinations that training met.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import keep, surroundings
from llmbook import compiling, running, runtime
from llmbook.corpus import Batches, TokenShard, load_corpus
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import (
    LossFunction,
    make_optimizer,
    train,
    training_step,
)

RECORD = Path(__file__).resolve().parents[1] / "runs" / "recipe.json"
SECONDS = 60.0
SEEDS = 3
WARM_STEPS = 3  # not timed: compiling, the first touch of memory
TIMED_STEPS = 4  # in each round
ROUNDS = 9
SCORED_SEED = 1000  # of the fresh documents: no run's own


@dataclass(frozen=True)
class Candidate:
    """A name, and what it changes in the recipe, its model, its training."""

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)

    def applied(self, seed: int) -> running.Recipe:
        """The recipe of this candidate and seed."""
        base = running.recipe()
        return replace(
            base,
            seed=seed,
            model=replace(base.model, **self.model),
            train=replace(base.train, seed=seed, eval_every=0, **self.train),
            **self.recipe,
        )


WHOLE = "the recipe, its own steps"
ADAMW = {"optimizer": "adamw", "learning_rate": 6e-3}
CLASSIC = {
    "positions": "learned",
    "norm": "layernorm",
    "feed_forward": "gelu",
    "d_ff": None,
    "bias": True,
}
RECIPE = Candidate("the recipe")
CANDIDATES = (
    RECIPE,
    Candidate("AdamW", train=ADAMW),
    Candidate("one rate for all", train={"adamw_scale": 1.0}),
    Candidate("documents together", {"windows": "together"}),
    Candidate("windows anywhere", {"windows": "anywhere"}),
    Candidate("GPT-2's parts", model=CLASSIC),
    Candidate("head tied", model={"tie_weights": True}),
    Candidate("96 wide", model={"n_embd": 96, "d_ff": 256}),
    Candidate("batch 8", train={"batch_size": 8}),
)


def prepare(folder: Path) -> None:
    """The tokenizer and the tokens, which all candidates share."""
    chosen = running.recipe()
    corpus = load_corpus(chosen.corpus, documents=chosen.documents)
    tokenizer = BPETokenizer.train(corpus.train_texts, chosen.model.vocab_size)
    tokenizer.save(folder / "tokenizer.json")
    TokenShard.write(folder / "train", corpus.train_texts, tokenizer)


def how_compiled() -> str:
    """Compiled or not, as the recipe is: all candidates alike."""
    chosen = running.recipe()
    compiled = compiling.should_compile(GPT(chosen.model), chosen.train)
    return "on" if compiled else "off"


@dataclass
class Run:
    """A candidate ready to be trained, from one seed."""

    chosen: running.Recipe
    tokenizer: BPETokenizer
    model: GPT
    batches: Batches
    loss: LossFunction

    @classmethod
    def of(cls, candidate: Candidate, seed: int, folder: Path) -> Run:
        """From what :func:`prepare` has written, on one thread."""
        torch.set_num_threads(1)
        runtime.keep_freed_memory()
        chosen = candidate.applied(seed)
        tokenizer = BPETokenizer.load(folder / "tokenizer.json")
        shard = TokenShard.open(folder / "train")
        model = running.fresh_model(chosen, tokenizer)
        plan = replace(chosen.train, compile=how_compiled())
        return cls(
            replace(chosen, train=plan),
            tokenizer,
            model,
            running.windows_of(shard, chosen, tokenizer.end_of_text),
            running.loss_of(chosen, tokenizer.end_of_text),
        )

    def stepping(self) -> Callable[[], None]:
        """A function that takes the next step of this run."""
        plan, numbers = self.chosen.train, count()
        loss = compiling.prepare(self.model, plan, self.loss)
        optimizer = make_optimizer(self.model, plan)

        def step() -> None:
            training_step(
                self.model, optimizer, self.batches, next(numbers), plan, loss
            )

        return step


def step_seconds(
    candidates: Sequence[Candidate], folder: Path
) -> dict[str, float]:
    """Processor seconds of a step, one candidate after the other in rounds."""
    steps = {c.name: Run.of(c, 0, folder).stepping() for c in candidates}
    for step in steps.values():
        for _ in range(WARM_STEPS):
            step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(TIMED_STEPS):
                step()
            spent = time.process_time() - start
            found[name].append(spent / TIMED_STEPS)
    return {name: statistics.median(each) for name, each in found.items()}


def run(
    candidate: Candidate,
    seed: int,
    seconds: float | None,
    step: float,
    folder: Path,
) -> dict[str, Any]:
    """Train one candidate from one seed, and score it.

    A step of it takes ``step`` processor seconds. Without ``seconds`` it
    takes the recipe's own steps.
    """
    one = Run.of(candidate, seed, folder)
    plan = one.chosen.train
    if seconds is not None:
        steps = max(1, round(seconds / step))
        plan = replace(plan, steps=steps, warmup_steps=max(1, steps // 20))
    history = train(
        one.model,
        one.batches,
        plan,
        loss_function=one.loss,
        progress=False,
    )
    fresh = load_corpus(
        one.chosen.corpus,
        documents=20 * running.SCORED_DOCUMENTS,
        seed=SCORED_SEED,
    )
    scored = running.scores(one.model, one.tokenizer, fresh)
    loss, floor = scored["document_loss"], scored["entropy_per_token"]
    return {
        "candidate": WHOLE if seconds is None else candidate.name,
        "seed": seed,
        "parameters": one.model.num_parameters(),
        "steps": plan.steps,
        "tokens": history.tokens,
        "seconds": round(plan.steps * step, 1),
        "loss": loss,
        "entropy": floor,
        "over": loss / floor - 1,
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown, medians over the seeds, best first."""
    lines = [
        "| candidate | parameters | steps | tokens/s | nats a token | "
        "entropy | above, nats | above, % (range) |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    names = {r["candidate"] for r in results}
    groups = [[r for r in results if r["candidate"] == n] for n in names]
    middle = statistics.median
    for group in sorted(groups, key=lambda g: middle(r["over"] for r in g)):
        over = [100 * r["over"] for r in group]
        values = [middle(r[k] for r in group) for k in ("loss", "entropy")]
        speed = middle(r["tokens"] / r["seconds"] for r in group)
        lines.append(
            f"| {group[0]['candidate']} | {group[0]['parameters']:,} "
            f"| {middle(r['steps'] for r in group):,.0f} | {speed:,.0f} "
            f"| {values[0]:.3f} | {values[1]:.3f} "
            f"| {values[0] - values[1]:.3f} | {middle(over):.1f} "
            f"({min(over):.1f} to {max(over):.1f}) |"
        )
    return "\n".join(lines)


def wanted(names: list[str]) -> list[Candidate]:
    """The candidates of these names; all when none is named."""
    known = {candidate.name: candidate for candidate in CANDIDATES}
    for name in names:
        if name not in known:
            raise SystemExit(
                f"no candidate is called {name!r}; there are: "
                f"{', '.join(known)}."
            )
    return [known[name] for name in names] or list(CANDIDATES)


def main() -> int:
    """Run the candidates, print the table, and keep it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("candidates", nargs="*", help="names; default: all")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args()
    if not options.seconds > 0 or math.isinf(options.seconds):
        parser.error(f"--seconds is {options.seconds}; expected more than 0.")
    chosen, results = wanted(options.candidates), []
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
            steps = pool.submit(step_seconds, chosen, folder).result()
            print(json.dumps(steps), file=sys.stderr, flush=True)
            jobs = [
                (c, seed, options.seconds, steps[c.name], folder)
                for seed in range(options.seeds)
                for c in chosen
            ]
            if not options.candidates:
                own = steps[RECIPE.name]
                seeds = range(options.seeds)
                whole = [(RECIPE, n, None, own, folder) for n in seeds]
                jobs = [*whole, *jobs]
            for result in pool.map(run, *zip(*jobs, strict=True)):
                results.append(result)
                print(json.dumps(result), file=sys.stderr, flush=True)
    print(table(results))
    if options.record:
        about = surroundings("recipe", ["torch"])
        keep({**about, "results": results}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
