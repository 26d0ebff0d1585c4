"""Do two processes learn what one learns, and how much sooner?

    python -m benchmarks.parallel [--steps 50] [--rounds 3] [--record]

torchrun starts one process, and two, with one thread each, and each trains
the same model on the same batches: with DDP and FSDP2, with AdamW and Muon,
in float32, over gloo. The first table has the largest gap between the losses
of a way and of one process over all steps. What rounding alone does is seen in
one process that takes the batch in two parts, as two processes do, and adds
their gradients. A gap of two processes above 1e-5 nats ends the run with an
error. The second table has tokens a second, medians over rounds in which the
ways take turns, and how often as fast as one process a way is; one process
with two threads is what two processes compete with on one machine.
``--record`` writes runs/parallel.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.records import keep, surroundings
from llmbook import parallel
from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus import Batches, load_corpus
from llmbook.model import GPT
from llmbook.train import train

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "runs" / "parallel.json"
SHAPE = GPTConfig(
    vocab_size=256, context_length=128, n_layer=3, n_head=4, n_embd=128
)
BATCH, DOCUMENTS, WARM = 16, 400, 5
OPTIMIZERS = ("adamw", "muon")
# Name, engine, processes, threads in each, parts that each makes of a batch.
WAYS = (
    ("one process", "auto", 1, 1, 1),
    ("one process, two parts", "auto", 1, 1, 2),
    ("one process, two threads", "auto", 1, 2, 1),
    ("two processes, DDP", "ddp", 2, 1, 1),
    ("two processes, FSDP2", "fsdp", 2, 1, 1),
)
ALLOWED = 1e-5  # nats: the gap that rounding explains
# With 1e-3 AdamW leaps at one step: the gradient's norm is 167 there, and
# rounding alone grows to 1.0e-5 nats with FSDP2.
RATE = 5e-4


def batches() -> Batches:
    """The world's stories, a byte a token: no tokenizer to wait for."""
    texts = load_corpus("world", documents=DOCUMENTS).train_texts
    ids = np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)
    return Batches(ids, SHAPE.context_length, BATCH)


class Parts:
    """Each batch of a source as several, one after the other."""

    def __init__(self, source: Batches, parts: int) -> None:
        self.source, self.parts = source, parts

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        whole, part = divmod(step, self.parts)
        x, y = self.source.at(whole)
        return x.chunk(self.parts)[part], y.chunk(self.parts)[part]


def work(engine: str, steps: int, parts: int, out: Path) -> None:
    """What each process does: one run with each optimizer."""
    found = {}
    with parallel.together() as team:
        for optimizer in OPTIMIZERS:
            config = TrainConfig(
                steps=steps,
                batch_size=BATCH // parts,
                accumulate=parts,
                warmup_steps=WARM,
                learning_rate=RATE,
                optimizer=optimizer,
                dtype="float32",
                parallel=engine,
            )
            model = GPT(SHAPE, torch.Generator().manual_seed(0))
            taken = Parts(batches(), parts)
            history = train(model, taken, config, progress=False)
            found[optimizer] = {
                "loss": history.loss,
                "tokens_per_second": history.tokens_per_second,
            }
        if team.speaks:
            out.write_text(json.dumps(found), encoding="utf-8")


def started(
    engine: str, processes: int, threads: int, parts: int, steps: int
) -> dict[str, Any]:
    """What :func:`work` measured, in so many processes.

    Raises:
        RuntimeError: torchrun failed; the message holds its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "benchmarks.parallel"),
            *("--work", engine, "--steps", str(steps), "--out", str(out)),
            *("--parts", str(parts)),
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"torchrun failed:\n{done.stderr[-3000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def gaps(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest distance of each way's losses from one process's.

    Raises:
        ArithmeticError: it is more than rounding.
    """
    rows = []
    for name, _, processes, _, _ in WAYS[1:]:
        for optimizer in OPTIMIZERS:
            one = found[WAYS[0][0]][optimizer]["loss"]
            two = found[name][optimizer]["loss"]
            gap = float(np.abs(np.subtract(one, two)).max())  # NaN stays NaN
            if processes > 1 and not gap <= ALLOWED:
                raise ArithmeticError(f"{name}, {optimizer}: {gap} nats.")
            rows.append(
                {
                    "way": name,
                    "optimizer": optimizer,
                    "steps": len(one),
                    "gap": gap,
                    "first_loss": one[0],
                    "last_loss": one[-1],
                }
            )
    return rows


def speeds(rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Median tokens a second, and the median of the rounds' ratios."""
    first, rows = WAYS[0][0], []
    for name, _, processes, threads, _ in WAYS:
        for optimizer in OPTIMIZERS:
            speed = [r[name][optimizer]["tokens_per_second"] for r in rounds]
            one = [r[first][optimizer]["tokens_per_second"] for r in rounds]
            ratios = [a / b for a, b in zip(speed, one, strict=True)]
            rows.append(
                {
                    "way": name,
                    "processes": processes,
                    "threads": threads,
                    "optimizer": optimizer,
                    "tokens_per_second": statistics.median(speed),
                    "times_one": statistics.median(ratios),
                }
            )
    return rows


def table(record: dict[str, Any]) -> str:
    """Both results as Markdown."""
    lines = [
        "| way | optimizer | steps | largest gap, nats |",
        "| --- | --- | --: | --: |",
    ]
    for row in record["equality"]:
        lines.append(
            f"| {row['way']} | {row['optimizer']} | {row['steps']} | "
            f"{row['gap']:.1e} |"
        )
    lines += [
        "",
        "| way | optimizer | tokens/s | times one process |",
        "| --- | --- | --: | --: |",
    ]
    for row in record["speed"]:
        lines.append(
            f"| {row['way']} | {row['optimizer']} | "
            f"{row['tokens_per_second']:,.0f} | {row['times_one']:.2f} |"
        )
    return "\n".join(lines)


def measured(steps: int, count: int) -> dict[str, Any]:
    """Every way in every round, one after the other."""
    rounds = [
        {name: started(*way, steps) for name, *way in WAYS}
        for _ in range(count)
    ]
    return {
        **surroundings("parallel", ["torch"]),
        "model": SHAPE.to_dict(),
        "batch_size": BATCH,
        "rounds": count,
        "equality": gaps(rounds[0]),
        "speed": speeds(rounds),
    }


def main() -> int:
    """Measure, print the tables, and record them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--work", help="an engine: this is one of a team")
    parser.add_argument("--parts", type=int, default=1, help="of its batch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.steps, options.parts, options.out)
        return 0
    record = measured(options.steps, options.rounds)
    print(table(record))
    if options.record:
        keep(record, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
