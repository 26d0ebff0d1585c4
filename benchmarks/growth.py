"""How the cost of training grows, and whether the formulas say it.

    python -m benchmarks.growth [--steps 3] [--rounds 3] [--record]

Tokens a second against the size of the model, at one context; against the
context, at one size and always the same number of tokens a step; the bytes
that a step keeps for its backward pass beside what
``llmbook.accounting.activation_bytes`` says; and the share of a step that
goes into reading its batch from a file. ``--record`` writes
runs/growth.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.calm import timed
from benchmarks.records import keep, surroundings
from llmbook import accounting, runtime
from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus import Batches
from llmbook.model import GPT
from llmbook.train import make_optimizer, training_step

RECORD = Path(__file__).resolve().parents[1] / "runs" / "growth.json"
STEP_TOKENS = 2048  # of every step, whatever its context
VOCABULARY, HEAD = 2048, 64
SIZES = ((2, 64), (3, 128), (4, 256), (7, 384), (8, 512))  # layers, width
CONTEXTS = (64, 128, 256, 512, 1024, 2048)
LONG = 4, 256  # the model whose context grows
FILE_TOKENS = 2_000_000


def shape(L: int, C: int, T: int) -> GPTConfig:
    """A model of ``L`` layers and width ``C`` for ``T`` tokens."""
    return GPTConfig(
        vocab_size=VOCABULARY,
        context_length=T,
        n_layer=L,
        n_head=max(1, C // HEAD),
        n_embd=C,
    )


class Stepper:
    """A model under training, step by step, that times what it does."""

    def __init__(
        self, config: GPTConfig, tokens: np.ndarray, step_tokens: int
    ) -> None:
        T = config.context_length
        B = max(1, step_tokens // T)
        self.run = TrainConfig(steps=1_000_000, batch_size=B)
        self.model = GPT(config).train()
        self.optimizer = make_optimizer(self.model, self.run)
        self.batches = Batches(tokens, T, B)
        self.reading, self.read, self.done = 0.0, 0.0, 0

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch, and how long it took to read."""
        start = time.perf_counter()
        batch = self.batches.at(step)
        self.read += time.perf_counter() - start
        return batch

    def seconds(self, steps: int) -> float:
        """Take ``steps`` steps; seconds for one."""
        spent, reading = timed(partial(self.take, steps))
        self.reading += reading
        return spent / steps

    def take(self, steps: int) -> float:
        """Take ``steps`` steps; seconds that went into reading."""
        self.read = 0.0
        for _ in range(steps):
            training_step(
                self.model, self.optimizer, self, self.done, self.run
            )
            self.done += 1
        return self.read


def kept_bytes(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = model(x, y)[1]
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def times(
    configs: list[GPTConfig], tokens: np.ndarray, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Tokens a second of each, in interleaved rounds."""
    steppers = [Stepper(c, tokens, options.tokens) for c in configs]
    for one in steppers:
        one.take(1)
    taken: list[list[float]] = [[] for _ in steppers]
    for turn in range(options.rounds):
        for one, spent in zip(steppers, taken, strict=True):
            spent.append(one.seconds(options.steps))
        print(f"  round {turn + 1} of {options.rounds}", flush=True)
    rows = []
    for config, one, spent in zip(configs, steppers, taken, strict=True):
        T = config.context_length
        per_step = one.run.batch_size * T
        work = accounting.flops_per_token(config, T, training=True)
        speed = per_step / statistics.median(spent)
        total = sum(spent) * options.steps
        rows.append(
            {
                "layers": config.n_layer,
                "width": config.n_embd,
                "context": T,
                "parameters": accounting.parameters(config),
                "tokens_per_second": speed,
                "flops_per_second": work * speed,
                "reading_share": one.reading / total,
                "seconds": spent,
            }
        )
    return rows


def memory(configs: list[GPTConfig], step_tokens: int) -> list[dict[str, Any]]:
    """What a float32 step keeps, measured and by the formula."""
    rows = []
    for config in configs:
        T = config.context_length
        B = max(1, step_tokens // T)
        ids = torch.randint(VOCABULARY, (B, T))
        kept = kept_bytes(GPT(config).train(), ids, ids.clone())
        said = accounting.activation_bytes(config, B, T)
        rows.append(
            {
                "layers": config.n_layer,
                "width": config.n_embd,
                "context": T,
                "kept": kept,
                "formula": said,
                "ratio": kept / said,
            }
        )
    return rows


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The results as Markdown."""
    lines = [
        "| grows | layers | width | context | tokens/s | GFLOP/s "
        "| reading, % |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for what in ("size", "context"):
        lines += [
            f"| {what} | {r['layers']} | {r['width']} | {r['context']} "
            f"| {r['tokens_per_second']:,.0f} "
            f"| {r['flops_per_second'] / 1e9:,.0f} "
            f"| {100 * r['reading_share']:.2f} |"
            for r in found[what]
        ]
    lines += [
        "",
        "| layers | width | context | kept, MB | formula, MB | ratio |",
        "| --: | --: | --: | --: | --: | --: |",
    ]
    lines += [
        f"| {r['layers']} | {r['width']} | {r['context']} "
        f"| {r['kept'] / 1e6:,.1f} | {r['formula'] / 1e6:,.1f} "
        f"| {r['ratio']:.3f} |"
        for r in found["memory"]
    ]
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Everything, with the tokens read from a file as in training."""
    sizes = [shape(L, C, 256) for L, C in SIZES[: options.cases]]
    longer = [shape(*LONG, T) for T in CONTEXTS[: options.cases]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.bin"
        generator = np.random.default_rng(0)
        ids = generator.integers(VOCABULARY, size=FILE_TOKENS)
        ids.astype(np.uint16).tofile(path)
        tokens = np.memmap(path, np.uint16, "r")
        print("model size", flush=True)
        found = {"size": times(sizes, tokens, options)}
        print("context", flush=True)
        found["context"] = times(longer, tokens, options)
    print("memory", flush=True)
    found["memory"] = memory([*sizes, *longer], options.tokens)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=STEP_TOKENS)
    parser.add_argument("--cases", type=int, default=len(CONTEXTS))
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args(arguments)
    runtime.keep_freed_memory()
    found = measure(options)
    print(table(found))
    if options.record:
        about = surroundings("growth", ["torch"])
        device = runtime.best_device()
        about["dtype"] = str(runtime.best_dtype(device))
        about["threads"] = torch.get_num_threads()
        keep({**about, "results": found}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
