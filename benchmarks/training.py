"""How fast training is, beside other people's GPTs on this machine.

    python -m benchmarks.training [--nanogpt DIR] [--raschka DIR]
        [--shapes M S] [--modes ...] [--steps 2] [--rounds 7] [--record]

Peers are transformers' GPT-2 where it is installed, nanoGPT and Raschka's
GPTModelFast from the folders given (the latter also from PyPI's
llms-from-scratch). All train the same shape on the same batch, each as its
own loop does. Two processes stand side by side, one with the C library's
memory as the system gives it, one that keeps freed memory as llmbook's
``train`` does, and in every round each trainer takes its steps in both, so
that a busy moment falls on all. A speed is the median over the rounds and a
ratio the median of the rounds' ratios: "equal" both in the keeping process,
"shipped" ours in that one and the peer in the other. MFU is 6 N tokens/s
over the best matrix product measured in the same run. ``--record`` writes
runs/training.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import multiprocessing
import os
import statistics
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.calm import timed
from benchmarks.records import installed, keep, surroundings
from benchmarks.trainers import MODES, TRAINERS, Mode, Shape, Step
from llmbook import compiling, products, runtime

RECORD = Path(__file__).resolve().parents[1] / "runs" / "training.json"
SHAPES = {
    "M": Shape("M", L=7, C=384, H=6, V=8192, T=256, B=8),
    "S": Shape("S", L=4, C=256, H=4, V=4096, T=256, B=16),
    "tiny": Shape("tiny", L=1, C=32, H=2, V=64, T=16, B=2),
}
ALLOCATORS = ("keep", "system")
PEAK_SIZES = ((2048, 2048, 2048), (1024, 1024, 1024), (2048, 384, 1536))
WARM_STEPS = 2
CODE_OF = {"transformers": "transformers", "Raschka": "llms_from_scratch"}
Folders = dict[str, Path | None]


def matmul_peak(dtype: str, repeats: int = 5) -> float:
    """The most operations a second of any matrix product tried.

    In 32 bits by both of PyTorch's libraries, whichever is taken.
    """
    kind, best = getattr(torch, dtype), 0.0
    ways = [torch.nn.functional.linear]
    if dtype == "float32" and torch.backends.mkldnn.is_available():
        ways.append(products.linear)
    for rows, inner, columns in PEAK_SIZES:
        a = torch.randn(rows, inner).to(kind)
        b = torch.randn(columns, inner).to(kind)
        for way in ways * repeats:
            start = time.perf_counter()
            way(a, b)
            spent = time.perf_counter() - start
            best = max(best, 2 * rows * inner * columns / spent)
    return best


def take(step: Step, count: int) -> list[float]:
    """The losses of ``count`` steps."""
    return [step() for _ in range(count)]


def work(line: Connection, allocator: str, threads: int) -> None:
    """A process: makes the trainers it is told to, and takes their steps."""
    os.environ[runtime.MALLOC_VARIABLE] = allocator
    os.environ.pop(compiling.COMPILE_VARIABLE, None)  # the mode decides
    os.environ.pop(products.ONEDNN_VARIABLE, None)  # as it is shipped
    runtime.keep_freed_memory()
    torch.set_num_threads(threads)
    steps = {}
    while (order := line.recv()) is not None:
        name, shape, mode, folder, count = order
        if name == "peak":
            line.send(matmul_peak(mode.dtype))
            continue
        if name == "forget":
            steps.clear()
            torch._dynamo.reset()
            line.send(None)
            continue
        if name not in steps:  # these warm it up, and are not timed
            steps[name] = TRAINERS[name](shape, mode, folder)
            line.send((math.nan, take(steps[name], count)[0]))
            continue
        seconds, losses = timed(partial(take, steps[name], count))
        line.send((seconds / count, losses[0]))


class Worker:
    """The parent's end of :func:`work`."""

    def __init__(self, allocator: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, other = context.Pipe()
        arguments = (other, allocator, threads)
        self.process = context.Process(target=work, args=arguments)
        self.process.start()
        other.close()

    def ask(self, *order: Any) -> Any:
        """Send an order and wait for the answer."""
        try:
            self.line.send(order)
            return self.line.recv()
        except (EOFError, BrokenPipeError) as error:
            self.process.join()
            raise RuntimeError(
                f"{order[0]} ended its process (exit code "
                f"{self.process.exitcode}); what it said stands above."
            ) from error

    def stop(self) -> None:
        """End the process, if it has not ended by itself."""
        with contextlib.suppress(OSError):
            self.line.send(None)
        self.process.join()


def check_losses(losses: dict[str, float], shape: Shape) -> None:
    """All start out knowing nothing: near ln V, or they do other work.

    Raises:
        ArithmeticError: a first loss is far from ln V.

    >>> check_losses({"one": 4.2}, SHAPES["tiny"])
    """
    expected = math.log(shape.V)
    for name, loss in losses.items():
        if not 0.8 * expected < loss < 1.6 * expected:
            raise ArithmeticError(
                f"{name} begins at a loss of {loss:.2f}, where ln V is "
                f"{expected:.2f}; it does not do the same work."
            )


def race(
    workers: dict[str, Worker],
    names: list[str],
    shape: Shape,
    mode: Mode,
    options: argparse.Namespace,
) -> dict[str, dict[str, list[float]]]:
    """Seconds a step, by allocator and trainer, one for each round."""
    folders: Folders = {"nanoGPT": options.nanogpt, "Raschka": options.raschka}
    for name in names:
        start, losses = time.perf_counter(), {}
        for kind, worker in workers.items():
            order = name, shape, mode, folders.get(name), WARM_STEPS
            losses[f"{name} ({kind})"] = worker.ask(*order)[1]
        check_losses(losses, shape)
        spent = time.perf_counter() - start
        print(f"  {name}: ready after {spent:.0f} s", flush=True)
    taken = {kind: {name: [] for name in names} for kind in workers}
    for turn in range(options.rounds):
        order = names if turn % 2 == 0 else names[::-1]
        for name in order:
            for kind, worker in workers.items():
                steps = options.steps
                seconds, _ = worker.ask(name, shape, mode, None, steps)
                taken[kind][name].append(seconds)
        print(f"  round {turn + 1} of {options.rounds}", flush=True)
    for worker in workers.values():
        worker.ask("forget", shape, mode, None, 0)
    return taken


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How often as fast ours is: the median of the rounds' ratios.

    >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(t / o for t, o in pairs)


def results_of(
    taken: dict[str, dict[str, list[float]]],
    shape: Shape,
    mode: Mode,
    peak: float,
) -> list[dict[str, Any]]:
    """One row for each trainer."""
    ours, rows = taken["keep"]["llmbook"], []
    for name in taken["keep"]:
        kept, system = taken["keep"][name], taken["system"][name]
        shipped = kept if name == "llmbook" else system
        speed = shape.tokens / statistics.median(shipped)
        rows.append(
            {
                "shape": shape.name,
                "mode": mode.name,
                "trainer": name,
                "tokens_per_second": {
                    "shipped": speed,
                    "keep": shape.tokens / statistics.median(kept),
                    "system": shape.tokens / statistics.median(system),
                },
                "mfu": 6 * shape.matmul_parameters * speed / peak,
                "llmbook_times": {
                    "shipped": ratio(shipped, ours),
                    "equal": ratio(kept, ours),
                },
                "seconds": {"keep": kept, "system": system},
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| shape | mode | trainer | tokens/s | MFU | llmbook is "
        "(equal memory) | llmbook is (as shipped) |",
        "| --- | --- | --- | --: | --: | --: | --: |",
    ]
    for row in rows:
        times = row["llmbook_times"]
        lines.append(
            f"| {row['shape']} | {row['mode']} | {row['trainer']} "
            f"| {row['tokens_per_second']['shipped']:,.0f} "
            f"| {row['mfu']:.2f} | {times['equal']:.2f}× "
            f"| {times['shipped']:.2f}× |"
        )
    return "\n".join(lines)


def present(options: argparse.Namespace) -> list[str]:
    """llmbook, and the peers that are here."""
    names = ["llmbook"]
    for name in ("transformers", "Raschka"):
        given = name == "Raschka" and options.raschka
        if given or importlib.util.find_spec(CODE_OF[name]):
            names.append(name)
    return [*names, "nanoGPT"] if options.nanogpt else names


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    modes = [mode.name.replace(" ", "-") for mode in MODES]
    cores = os.cpu_count() or 1
    parser.add_argument("--nanogpt", type=Path, metavar="DIR")
    parser.add_argument("--raschka", type=Path, metavar="DIR")
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["M", "S"]
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=modes,
        default=modes,
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    return parser.parse_args(arguments)


def measure(
    options: argparse.Namespace,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The peaks, operations a second by format, and every row."""
    chosen = [m for m in MODES if m.name.replace(" ", "-") in options.modes]
    workers = {kind: Worker(kind, options.threads) for kind in ALLOCATORS}
    names, peaks, races = present(options), {}, []
    try:
        for shape in (SHAPES[name] for name in options.shapes):
            for mode in chosen:
                print(f"{shape.name}, {mode.name}", flush=True)
                peak = workers["keep"].ask("peak", shape, mode, None, 0)
                taken = race(workers, names, shape, mode, options)
                again = workers["keep"].ask("peak", shape, mode, None, 0)
                best = max(peak, again, peaks.get(mode.dtype, 0.0))
                peaks[mode.dtype] = best
                races.append((taken, shape, mode))
    finally:
        for worker in workers.values():
            worker.stop()
    rows = [
        row
        for taken, shape, mode in races
        for row in results_of(taken, shape, mode, peaks[mode.dtype])
    ]
    return peaks, rows


def main(arguments: list[str] | None = None) -> int:
    """Time everybody, print the table, and keep it if asked to."""
    options = parse(arguments)
    about = surroundings("training", installed("torch", "transformers"))
    peaks, rows = measure(options)
    for dtype, peak in peaks.items():
        print(f"matrix product, {dtype}: {peak / 1e9:,.0f} GFLOP/s")
    print(table(rows))
    if options.record:
        about["threads"] = options.threads
        keep({**about, "peaks": peaks, "results": rows}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
