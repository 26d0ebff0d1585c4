"""The loop itself: step, sometimes measure and save, call back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from tqdm.std import tqdm

from llmbook import compiling, parallel, runtime
from llmbook.config import TrainConfig

from .run import CHECKPOINT_NAME, Callback, History, Run, is_due
from .sharing import join, place
from .step import BatchSource, LossFunction, make_optimizer, next_token_loss

PROGRESS_SECONDS = 0.5  # between two drawings of the bar


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the processor's generator, and a CUDA device's, as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def run_steps(
    run: Run, callbacks: Sequence[Callback] = (), progress: bool = True
) -> History:
    """The loop: step, sometimes measure, call back, sometimes save.

    A new run is measured and called back once before its first step too. A
    signal to stop is obeyed between two steps, after saving.
    """
    config, history = run.config, run.history
    run.model.train()
    if not history.steps:
        run.measure()
        call_back(callbacks, run)
    bar = tqdm(
        total=config.steps,
        initial=history.steps,
        unit="step",
        mininterval=PROGRESS_SECONDS,
        leave=False,
        disable=not progress,
    )
    with bar, run.listening() as signals:
        for step in range(history.steps, config.steps):
            run.advance(step)
            if is_due(step + 1, config):
                run.measure()
            call_back(callbacks, run)
            run.pause(signals.heard)
            bar.set_postfix_str(f"loss {history.loss[-1]:.3f}", False)
            bar.update()
    return history


def call_back(callbacks: Sequence[Callback], run: Run) -> None:
    """Call each, and keep the model in training mode whatever it did."""
    for callback in callbacks:
        callback(run.history.steps, run.model, run.history)
        run.model.train()


def train(
    model: nn.Module,
    batches: BatchSource,
    config: TrainConfig,
    *,
    validation: BatchSource | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    loss_function: LossFunction = next_token_loss,
) -> History:
    """Train ``model`` in place for ``config.steps`` steps.

    Args:
        batches: gives (x, y), int64 (B, T), for any step.
        validation: what the loss is also measured on.
        run_dir: where checkpoints and ``metrics.jsonl`` are kept; on
            several machines a folder that all of them see.
        resume: go on from the checkpoint, on a processor to the same bits.
        callbacks: called before the first step and after each; after a
            kill some steps come again.
        progress: draw a bar on stderr, and wipe it at the end.
        loss_function: ``(model, x, y)`` to a mean loss.

    Raises:
        DivergedError: the loss rose far, or it or a weight is no number.
        CheckpointError: the folder holds another run or cannot be written
            to (a disk that is full later gives a ``CheckpointWarning``).
        Stopped: Ctrl-C or SIGTERM came, and the run was saved.
    """
    runtime.keep_freed_memory()
    file = None if run_dir is None else Path(run_dir) / CHECKPOINT_NAME
    with parallel.together() as team:
        run = made(model, batches, config, team, file, loss_function)
        run.validation = validation
        run.begin(resume)
        called = callbacks if team.speaks or run.is_cut else ()
        with own_randomness(next(model.parameters()).device):
            return run_steps(run, called, progress and team.speaks)


def made(
    model: nn.Module,
    batches: BatchSource,
    config: TrainConfig,
    team: parallel.Team,
    file: Path | None,
    loss_function: LossFunction,
) -> Run:
    """The run of one process: its part of the model, its optimizer.

    Where torchrun started several processes and each calls :func:`train`,
    they train one model together, as ``config.parallel`` says; the first
    alone draws the bar, writes the files and calls back. A model that they
    have cut (``"fsdp"``) stays cut; then the callbacks are called in every
    process, because only all together can use it.
    """
    cut = place(model, config, team)
    model.zero_grad(set_to_none=True)  # what a run that broke off has left
    optimizer = make_optimizer(model, config)
    run = Run(model, optimizer, batches, config, None, file, loss_function)
    run.team, run.is_cut = team, cut
    if not cut:
        run.step_loss = compiling.prepare(model, config, loss_function)
    elif team.speaks and compiling.choice(config) == "on":
        warnings.warn(
            "compile='on' is passed over: a model cut into slices is "
            "trained uncompiled. Give parallel='ddp' to compile it.",
            stacklevel=3,
        )
    join(run)
    return run
