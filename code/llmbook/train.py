"""The training loop: one for pretraining and for every loss after it."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm.std import tqdm

from llmbook import checkpoint, runtime
from llmbook.config import TrainConfig
from llmbook.optim import (
    AdamW,
    Muon,
    clip_gradients,
    cosine_schedule,
    muon_groups,
    parameter_groups,
)

CHECKPOINT_NAME = "checkpoint.safetensors"
PROGRESS_SECONDS = 0.5  # between two drawings of the bar
SEED_STRIDE = 1_000_003  # a prime: seeds of two runs' steps do not meet

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]


class BatchSource(Protocol):
    """Anything that gives the batch of a step: the same one each time."""

    def at(self, step: int) -> tuple[Tensor, Tensor]: ...


class DivergedError(ArithmeticError):
    """The loss is no longer a number."""


@dataclass
class History:
    """What a run measured, step by step; plain values, fit for JSON.

    ``loss``, ``learning_rate`` and ``gradient_norm`` have one entry a step;
    ``evaluations`` are pairs (steps done, validation loss). Losses are in
    nats a token. ``seconds`` is the time in the loop without evaluations,
    callbacks and checkpoints.
    """

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def add(self, loss: float, rate: float, norm: float, tokens: int) -> None:
        """Record one step."""
        self.loss.append(loss)
        self.learning_rate.append(rate)
        self.gradient_norm.append(norm)
        self.tokens += tokens

    @property
    def steps(self) -> int:
        """Steps done so far."""
        return len(self.loss)

    @property
    def tokens_per_second(self) -> float:
        """Speed of the training steps alone."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The history as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> History:
        """The inverse of :meth:`to_dict`.

        >>> History.from_dict(History(loss=[1.0]).to_dict()).steps
        1
        """
        pairs = [(int(s), float(x)) for s, x in values["evaluations"]]
        return cls(**{**values, "evaluations": pairs})


# Called with: steps done, the model, the history so far.
Callback = Callable[[int, nn.Module, History], None]


def next_token_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss over all positions: −ln p(next token), in nats."""
    return model(x, y)[1]


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: BatchSource,
    step: int,
    config: TrainConfig,
    loss_function: LossFunction = next_token_loss,
) -> tuple[float, float, int]:
    """One optimizer step; returns its loss, gradient norm and tokens.

    The gradients of ``config.accumulate`` batches add up, each divided by
    their number: the same mean as one batch that many times as large.

    Raises:
        DivergedError: the loss or the gradient is NaN or infinite.
    """
    device = next(model.parameters()).device
    dtype = runtime.best_dtype(device, config.dtype)
    total, tokens = 0.0, 0
    for part in range(config.accumulate):
        x, y = batches.at(step * config.accumulate + part)
        with runtime.autocast(device, dtype):
            loss = loss_function(model, x.to(device), y.to(device))
        (loss / config.accumulate).backward()
        total += loss.item() / config.accumulate
        tokens += x.numel()
    norm = clip_gradients(model.parameters(), config.clip)
    check_finite(total, norm, step, config)
    for group in optimizer.param_groups:
        group["lr"] = cosine_schedule(step, config)
    optimizer.step()
    optimizer.zero_grad()
    return total, norm, tokens


def check_finite(
    loss: float, norm: float, step: int, config: TrainConfig
) -> None:
    """Stop a run whose loss or gradient is no longer a number.

    >>> check_finite(2.5, 0.9, 7, TrainConfig())
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise DivergedError(
        f"in step {step + 1} the loss was {loss} and the gradient's norm "
        f"{norm}: the run has diverged. Lower learning_rate (now "
        f"{config.learning_rate:g}), lengthen warmup_steps (now "
        f"{config.warmup_steps}), set clip=1.0 (now {config.clip:g}), or "
        'try dtype="float32". The last checkpoint is untouched.'
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: BatchSource,
    steps: int,
    *,
    dtype: str = "auto",
    loss_function: LossFunction = next_token_loss,
) -> float:
    """The mean loss over the first ``steps`` batches, in nats a token.

    Dropout is off meanwhile, and the batches are the same at every call, so
    two results differ because the models do.
    """
    device = next(model.parameters()).device
    was_training, total = model.training, 0.0
    model.eval()
    for step in range(steps):
        x, y = batches.at(step)
        with runtime.autocast(device, runtime.best_dtype(device, dtype)):
            loss = loss_function(model, x.to(device), y.to(device))
        total += loss.item() / steps
    model.train(was_training)
    return total


@torch.no_grad()
def token_losses(model: nn.Module, ids: Sequence[int], start: int) -> Tensor:
    """−ln p of each of ``ids``, read as one document after ``start``.

    A document longer than the context is read in windows that overlap by
    half, so that no token is guessed from less than half a context (but
    those of the beginning, which have no more). Returns float32 (len(ids),)

    Args:
        start: the token before the first: ``tokenizer.end_of_text``.
    """
    model_ids = torch.tensor([start, *ids])
    T, device = model.config.context_length, next(model.parameters()).device
    was_training, losses, done = model.training, [], 0
    model.eval()
    while done < len(ids):
        first = 0 if len(ids) <= T else max(0, done - T // 2)
        x = model_ids[first : min(first + T, len(ids))].to(device)
        y = model_ids[first + 1 : first + 1 + len(x)].to(device)
        log_p = model(x[None])[0][0].float().log_softmax(-1)  # (T, V)
        window = -log_p.gather(1, y[:, None])[:, 0]
        losses.append(window[done - first :].cpu())
        done = first + len(x)
    model.train(was_training)
    return torch.cat(losses) if losses else torch.zeros(0)


def document_loss(
    model: nn.Module, documents: Sequence[Sequence[int]], end_of_text: int
) -> float:
    """The mean loss a token when every document is scored whole.

    Each is read from its start token <|endoftext|> to its end, and the end
    is a token to be guessed like the others. Its sum over a document is
    −ln p(document), so it can be held against the corpus's entropy.
    """
    total, tokens = 0.0, 0
    for ids in documents:
        losses = token_losses(model, [*ids, end_of_text], end_of_text)
        total += losses.double().sum().item()
        tokens += len(losses)
    return total / tokens


def make_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """The optimizer that ``config`` describes, for ``model``."""
    settings = {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "eps": config.epsilon,
    }
    if config.optimizer == "muon":
        groups = muon_groups(model, config.weight_decay)
        return Muon(groups, momentum=config.momentum, **settings)
    return AdamW(parameter_groups(model, config.weight_decay), **settings)


@dataclass
class Run:
    """A run under way: all that the loop changes or reads."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: BatchSource
    config: TrainConfig
    validation: BatchSource | None = None
    file: Path | None = None
    loss_function: LossFunction = next_token_loss
    history: History = field(default_factory=History)

    def advance(self, step: int) -> None:
        """Take one step and record it."""
        seed_step(self.config, step)
        start = time.perf_counter()
        loss, norm, tokens = training_step(
            self.model,
            self.optimizer,
            self.batches,
            step,
            self.config,
            self.loss_function,
        )
        self.history.seconds += time.perf_counter() - start
        rate = cosine_schedule(step, self.config)
        self.history.add(loss, rate, norm, tokens)

    def measure(self) -> None:
        """Add the validation loss to the history."""
        if self.validation is None:
            return
        loss = evaluate(
            self.model,
            self.validation,
            self.config.eval_batches,
            dtype=self.config.dtype,
            loss_function=self.loss_function,
        )
        self.history.evaluations.append((self.history.steps, loss))

    def save(self) -> None:
        """Write the checkpoint, where the run keeps one."""
        if self.file is not None:
            state = {
                "train_config": self.config.to_dict(),
                "history": self.history.to_dict(),
                "data": data_mark(self.batches),
            }
            checkpoint.save(self.file, self.model, self.optimizer, state)

    def take_up(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            CheckpointError: it is of another run.
        """
        if self.file is None or not self.file.exists():
            return
        saved = checkpoint.load(self.file)
        state = saved.state
        check_same_run(state, self.config, data_mark(self.batches))
        checkpoint.restore(saved, self.model, self.optimizer)
        self.history = History.from_dict(state["history"])


def data_mark(batches: BatchSource) -> int:
    """A checksum of the first batch: whether the data is still the same."""
    return zlib.crc32(batches.at(0)[0].numpy().tobytes())


def check_same_run(
    state: dict[str, Any], config: TrainConfig, mark: int
) -> None:
    """Refuse to resume a run with other settings or other data."""
    now = config.to_dict()
    for name, old in state.get("train_config", {}).items():
        if old != now[name]:
            raise checkpoint.CheckpointError(
                f"the checkpoint's run had {name}={old!r} and this one has "
                f"{now[name]!r}; a resumed run must be the same run. Keep "
                "the old value, or start anew in another folder."
            )
    if state.get("data") != mark:
        raise checkpoint.CheckpointError(
            "the checkpoint's run read other data (another corpus, "
            "tokenizer, seed or batch shape). Give the same batches, or "
            "start anew in another folder."
        )


def seed_step(config: TrainConfig, step: int) -> None:
    """Make dropout's draws a function of (seed, step).

    So a checkpoint needs no generator state, and what a callback draws
    changes nothing.
    """
    seed = config.seed + runtime.seed_offset()
    torch.manual_seed(seed * SEED_STRIDE + step)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave torch's generators afterwards as they were before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def is_due(steps: int, config: TrainConfig) -> bool:
    """Whether the loss is measured after ``steps`` steps.

    >>> config = TrainConfig(steps=5, eval_every=2)
    >>> [s for s in range(1, 6) if is_due(s, config)]
    [2, 4, 5]
    """
    every = config.eval_every
    return steps == config.steps or bool(every and steps % every == 0)


def run_steps(
    run: Run, callbacks: Sequence[Callback] = (), progress: bool = True
) -> History:
    """The loop: step, sometimes measure and save, call back.

    A new run is measured and called back once before its first step too.
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
    with bar:
        for step in range(history.steps, config.steps):
            run.advance(step)
            if is_due(step + 1, config):
                run.measure()
                run.save()
            call_back(callbacks, run)
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
        run_dir: where a checkpoint is kept, written at each evaluation.
        resume: go on from that checkpoint, to the bit, if there is one.
        callbacks: called before the first step and after each.
        progress: draw a bar on stderr, and wipe it at the end.
        loss_function: ``(model, x, y)`` to a mean loss.

    Raises:
        DivergedError: the loss became NaN or infinite.
        CheckpointError: the file does not fit, or cannot be written.
    """
    file = None if run_dir is None else Path(run_dir) / CHECKPOINT_NAME
    optimizer = make_optimizer(model, config)
    run = Run(
        model, optimizer, batches, config, validation, file, loss_function
    )
    if resume:
        run.take_up()
    with own_randomness(next(model.parameters()).device):
        return run_steps(run, callbacks, progress)
