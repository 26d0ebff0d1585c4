"""A run killed at random moments, and whether it comes out the same.

``python -m benchmarks.kills`` trains a small model in a process of its own
and kills that process (SIGKILL, which nothing can catch) after a random
time, again and again; each time another goes on from what is on the disk.
The finished run is compared to the bit with one that nobody disturbed:
weights, optimizer, history, and the lines of ``metrics.jsonl``. A
checkpoint is written after each step, and half of the kills wait until one
is being written. ``--record`` keeps the counts in ``runs/kills.json``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.std import tqdm

from benchmarks.records import keep, surroundings
from llmbook import checkpoint
from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus import Batches
from llmbook.model import GPT
from llmbook.train import CHECKPOINT_NAME, METRICS_NAME, read_metrics, train

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "runs" / "kills.json"
KILLS, STEPS, SEED = 50, 100, 0
SHAPE = GPTConfig(
    vocab_size=512,
    context_length=32,
    n_layer=2,
    n_head=4,
    n_embd=64,
    dropout=0.1,
)
# What takes seconds to import; torch loads the second for its optimizers.
PRELOADED = ["llmbook.train", "torch._dynamo"]
LONGEST_WAIT = 600.0  # seconds: a process that shows no life by then hangs


def settings(steps: int) -> TrainConfig:
    """A run with all that has a state: Muon, dropout, warm-up, parts."""
    return TrainConfig(
        steps=steps,
        batch_size=4,
        accumulate=2,
        optimizer="muon",
        adamw_scale=2.0,
        warmup_steps=10,
        eval_every=20,
        eval_batches=1,
        checkpoint_every=1,
    )


def work(folder: str, steps: int) -> None:
    """What the killed process does: make the run, or go on with it."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own outlives a killed process
    warnings.simplefilter("ignore", checkpoint.CheckpointWarning)
    ids = np.random.default_rng(SEED).integers(0, SHAPE.vocab_size, 20_000)
    model = GPT(SHAPE, torch.Generator().manual_seed(SEED))
    Path(folder, "begun").touch()
    train(
        model,
        Batches(ids, SHAPE.context_length, 4, seed=1),
        settings(steps),
        validation=Batches(ids, SHAPE.context_length, 4, seed=2),
        run_dir=folder,
        resume=True,
        progress=False,
    )


def begun(folder: Path, steps: int) -> BaseProcess:
    """A new process at work, its imports done and its run not yet begun."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
    else:  # Windows: each process imports anew
        context = multiprocessing.get_context("spawn")
    process = context.Process(target=work, args=(str(folder), steps))
    (folder / "begun").unlink(missing_ok=True)
    process.start()
    end = time.monotonic() + LONGEST_WAIT
    while not (folder / "begun").exists():
        if time.monotonic() > end or not process.is_alive():
            raise RuntimeError("the training process did not begin")
        time.sleep(0.003)
    return process


def written(folder: Path, process: BaseProcess) -> bool:
    """Whether ``process`` is in the middle of writing a checkpoint."""
    return (folder / f"{CHECKPOINT_NAME}.{process.pid}.part").exists()


def killed(
    folder: Path, steps: int, after: float, in_writing: bool = False
) -> str | None:
    """Let the run go on for ``after`` seconds, then kill it.

    With ``in_writing`` the kill waits until a checkpoint is being written.
    Returns what the kill fell into, or None where the run ended before.
    """
    process = begun(folder, steps)
    process.join(after)
    while (
        in_writing
        and process.exitcode is None
        and not written(folder, process)
    ):
        pass
    if process.exitcode is None:
        process.kill()
    process.join()
    if process.exitcode == 0:
        return None
    if process.exitcode > 0:
        raise RuntimeError(f"the run failed, exit code {process.exitcode}")
    file = folder / CHECKPOINT_NAME
    if written(folder, process):
        return "while a checkpoint was written"
    if not checkpoint.is_kept(file):
        return "before the first checkpoint"
    if not file.exists():
        return "between the two renames"
    return "between two checkpoints"


def finished(folder: Path, steps: int) -> float:
    """Let the run go on to its end; the seconds it took after imports."""
    process = begun(folder, steps)
    start = time.perf_counter()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the run failed, exit code {process.exitcode}")
    return time.perf_counter() - start


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same to the bit in two finished runs."""
    a, b = (
        checkpoint.load(folder / CHECKPOINT_NAME) for folder in (one, other)
    )
    found = []
    for part in ("model", "optimizer"):
        mine, theirs = getattr(a, part), getattr(b, part)
        found += [
            f"{part}: {name}"
            for name in mine.keys() | theirs.keys()
            if name not in mine
            or name not in theirs
            or not torch.equal(mine[name], theirs[name])
        ]
    for folders in (a, b):
        folders.state["history"].pop("seconds")
    if a.state != b.state:
        found.append("history, settings or schedule")
    lines = []
    for folder in (one, other):
        rows = read_metrics(folder / METRICS_NAME)
        lines.append([{**row, "seconds": 0, "tokens": 0} for row in rows])
    if lines[0] != lines[1]:
        found.append("metrics.jsonl")
    return found


def measure(kills: int, steps: int, seed: int, place: Path) -> dict[str, Any]:
    """Kill runs until there were ``kills``; each finished one is compared."""
    source, start = random.Random(seed), time.perf_counter()
    whole = place / "whole"
    whole.mkdir()
    seconds = finished(whole, steps)
    fell: Counter[str] = Counter()
    runs, unequal = 0, []
    while fell.total() < kills:
        folder = place / f"run-{runs}"
        folder.mkdir()
        runs += 1
        while fell.total() < kills:
            # So many kills come into one run that it meets them all over.
            after = source.uniform(0.0, 4 * seconds / kills)
            moment = killed(folder, steps, after, source.random() < 0.5)
            if moment is None:
                break
            fell[moment] += 1
        finished(folder, steps)
        unequal += differences(whole, folder)
    return {
        "kills": fell.total(),
        "steps": steps,
        "seed": seed,
        "moments": dict(sorted(fell.items())),
        "runs": runs,
        "differences": unequal,
        "seconds": round(time.perf_counter() - start, 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 where something came out different."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            options.kills, options.steps, options.seed, Path(folder)
        )
    for moment, count in found["moments"].items():
        print(f"{count:4d} kills {moment}")
    different = found["differences"]
    print(
        f"{found['kills']} kills in {found['runs']} runs of {found['steps']} "
        f"steps, {found['seconds']:.0f} s: "
        + (f"DIFFERENT: {', '.join(different)}" if different else "same bits")
    )
    if options.record:
        keep({**surroundings("kills", ["torch"]), **found}, RECORD)
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
