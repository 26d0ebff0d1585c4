"""A run under way: its history, its checkpoint, and how it is taken up."""

from __future__ import annotations

import json
import math
import signal
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmbook import checkpoint, parallel, products, runtime
from llmbook.config import GPTConfig, TrainConfig
from llmbook.optim import cosine_schedule
from llmbook.parallel import Team, shared

from .measuring import evaluate
from .metrics import METRICS_NAME, Metrics
from .sharing import read, write
from .step import (
    BatchSource,
    DivergedError,
    LossFunction,
    next_token_loss,
    training_step,
)
from .stopping import Listening, Stopped, batch_of, check_risen, has_risen

CHECKPOINT_NAME = "checkpoint.safetensors"
# Settings that may change when a run is resumed: they decide when something
# is written and how fast a step is, and at most how a sum is rounded.
FREE = {
    "checkpoint_every",
    "checkpoint_seconds",
    "compile",
    "parallel",
    "stop_diverging",
}
SEED_STRIDE = 1_000_003  # a prime: seeds of two runs' steps do not meet


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
    def start(self) -> float:
        """The loss before the first step: on held-out text if measured."""
        if self.evaluations and self.evaluations[0][0] == 0:
            return self.evaluations[0][1]
        return self.loss[0] if self.loss else math.inf

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

        Raises:
            CheckpointError: a newer package wrote ``values``.

        >>> History.from_dict(History(loss=[1.0]).to_dict()).steps
        1
        """
        known = {each.name for each in fields(cls)}
        if newer := sorted(values.keys() - known):
            raise checkpoint.CheckpointError(
                f"the history has {', '.join(newer)}, which this package "
                "does not know. Install a newer llmbook."
            )
        pairs = [(int(s), float(x)) for s, x in values["evaluations"]]
        return cls(**{**values, "evaluations": pairs})


# Called with: steps done, the model, the history so far.
Callback = Callable[[int, nn.Module, History], None]


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
    step_loss: LossFunction | None = None  # the same, compiled perhaps
    history: History = field(default_factory=History)
    metrics: Metrics | None = None
    saved_step: int = 0  # what the newest checkpoint holds; 0 for none
    saved_at: float = field(default_factory=time.monotonic)
    owes_save: bool = False  # one was due where the run could not be left
    team: Team = field(default_factory=Team.alone)
    is_cut: bool = False  # each process keeps a slice of the model

    def begin(self, resume: bool) -> None:
        """Make the run's folder ready, and go on from what is in it.

        Without being asked only where torchrun has started a job again,
        with a checkpoint of that job.

        Raises:
            CheckpointError: it cannot be written to, or is of another run,
                or of one that nobody asked to go on with.
        """
        if self.file is None:
            return
        again = parallel.restarts() > 0
        if checkpoint.is_kept(self.file) and not (resume or again):
            raise self.not_asked()
        if self.team.speaks:
            checkpoint.sweep(self.file)
        if resume or again:
            self.take_up(asked=resume)
        if self.team.speaks:
            path = self.file.with_name(METRICS_NAME)
            self.metrics = Metrics(path, self.history)

    def not_asked(self) -> checkpoint.CheckpointError:
        """What is raised where a new run would write over another."""
        return checkpoint.CheckpointError(
            f"{self.file.parent} holds a run already, which a new one "
            "would write over. Go on with it by resume=True, or give "
            "another run_dir, or empty that one."
        )

    def advance(self, step: int) -> None:
        """Take one step and record it."""
        seed_step(self.config, step * self.team.size + self.team.rank)
        start = time.perf_counter()
        try:
            loss, norm, tokens = training_step(
                self.model,
                self.optimizer,
                shared(self.batches, self.team),
                step,
                self.config,
                self.step_loss or self.loss_function,
            )
        except DivergedError as error:
            batch = batch_of(self.batches, step, self.config)
            words = f"{error} The batch was {batch}. {self.way_on()}"
            raise DivergedError(words) from error
        self.history.seconds += time.perf_counter() - start
        rate = cosine_schedule(step, self.config)
        self.history.add(loss, rate, norm, tokens * self.team.size)
        self.note(
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=self.history.tokens,
            seconds=round(self.history.seconds, 3),
        )
        losses, before = self.history.loss, self.history.start
        try:
            check_risen(losses, before, self.config, self.batches)
        except DivergedError as error:
            raise DivergedError(f"{error} {self.way_on()}") from error

    def measure(self) -> None:
        """Add the validation loss to the history."""
        if self.validation is None:
            return
        loss = evaluate(
            self.model,
            shared(self.validation, self.team),
            self.config.eval_batches,
            dtype=self.config.dtype,
            loss_function=self.loss_function,
        )
        self.history.evaluations.append((self.history.steps, loss))
        self.note(validation_loss=loss)

    def note(self, **values: float) -> None:
        """Write a line of ``metrics.jsonl``, where the run has a folder."""
        if self.metrics is not None:
            self.metrics.add({"step": self.history.steps, **values})

    def save_due(self) -> bool:
        """Whether a checkpoint is to be written after the step just done."""
        waits, steps = self.config.checkpoint_seconds, self.history.steps
        late = bool(waits) and time.monotonic() - self.saved_at >= waits
        if waits and self.team.most(int(late)):  # clocks differ
            return True
        every = self.config.checkpoint_every
        if every and steps < self.config.steps:
            return steps % every == 0
        return is_due(steps, self.config)

    def save(self) -> None:
        """Write the checkpoint, where the run keeps one.

        A disk that is full stops nothing: the checkpoint before it stays,
        a warning says so, and the next time it is tried again. A run that
        is about to diverge writes nothing over its last good checkpoint.

        Raises:
            DivergedError: a weight is NaN or infinite.
        """
        self.owes_save = False
        self.check_weights()
        if self.file is None:
            return
        self.saved_at = time.monotonic()
        history = self.history
        if self.config.stop_diverging and has_risen(
            history.loss, history.start
        ):
            self.warn("the loss is rising, so no checkpoint was written.")
            return
        state = {
            "train_config": self.config.to_dict(),
            "history": self.history.to_dict(),
            "data": data_mark(self.batches),
            "computed": self.computed(),
            "job": parallel.job(),
        }
        try:
            write(self, state)
        except checkpoint.CheckpointError as error:
            self.warn(str(error))
            return
        self.saved_step = self.history.steps
        if self.metrics is not None:
            self.metrics.mend(self.history)

    def check_weights(self) -> None:
        """Raise where a weight is no finite number, in whichever process."""
        if self.is_cut:
            self.model.reshard()  # what a callback has gathered
        own = (p.detach() for p in self.model.parameters())
        parts = (p.to_local() if self.is_cut else p for p in own)
        lost = not all(bool(part.isfinite().all()) for part in parts)
        if not self.team.most(int(lost)):
            return
        step = self.history.steps - 1
        batch = batch_of(self.batches, step, self.config)
        raise DivergedError(
            f"after step {step + 1}, at learning rate "
            f"{cosine_schedule(step, self.config):g}, a weight is NaN or "
            f"infinite. The batch was {batch}. {self.way_on()}"
        )

    def warn(self, why: str) -> None:
        """Say that a checkpoint is missing, and which one there is."""
        if not self.team.speaks:
            return
        warnings.warn(
            f"after step {self.history.steps} {why} {self.last_good()}",
            checkpoint.CheckpointWarning,
            stacklevel=3,
        )

    def last_good(self) -> str:
        """A sentence: what a run that stops here leaves behind."""
        if self.file is None:
            return "No checkpoint is kept: train() was given no run_dir."
        if not self.saved_step:
            return f"There is no checkpoint yet at {self.file}."
        return (
            f"The last good checkpoint, of step {self.saved_step}, is kept: "
            f"{self.file}."
        )

    def way_on(self) -> str:
        """What is left of a run that diverged, and how to use it."""
        words = self.last_good()
        if not self.saved_step or self.is_cut:
            return words
        return (
            f"{words} Resumed, it would do the same again. To go on with "
            "other settings, put its weights into a new run: "
            "checkpoint.restore(checkpoint.load(that file), model)."
        )

    def computed(self) -> dict[str, Any]:
        """What the environment decides: seed, number format, library."""
        device = next(self.model.parameters()).device
        return {
            "seed": self.config.seed + runtime.seed_offset(),
            "dtype": str(runtime.best_dtype(device, self.config.dtype)),
            "onednn": products.repays(self.model, self.config),
        }

    def pause(self, heard: int | None) -> None:
        """Between two steps: save if it is due, end if a signal was heard.

        Both wait for a step from which the run can go on.

        Raises:
            DivergedError: a weight of what is to be saved is NaN or infinite.
            Stopped: a signal was heard, and the run was saved.
        """
        self.owes_save |= self.save_due()
        if not self.settled():
            return
        if heard or self.owes_save:
            self.save()
        if heard:
            raise self.stopped(heard)

    def settled(self) -> bool:
        """Whether a run can go on from here.

        Not between two updates that share their answers, which are kept
        nowhere (:class:`llmbook.alignment.grpo.PromptBatches`).
        """
        steps = self.history.steps
        updates = getattr(self.batches, "updates", 1)
        return steps % updates == 0 or steps == self.config.steps

    def listening(self) -> Listening:
        """Signals, of which all processes hear when one has heard it."""
        return Listening(self.file is not None, self.team.most)

    def stopped(self, number: int) -> Stopped:
        """The exception of a run that a signal has ended."""
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        words = (
            f"stopped by {name} after step {self.history.steps} of "
            f"{self.config.steps}. {self.last_good()}"
        )
        if self.saved_step:
            words += " resume=True (on the command line --resume) goes on "
            words += "from it."
        return Stopped(words, number)

    def take_up(self, asked: bool = True) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            CheckpointError: it is of another run, or damaged like the one
                before it, or not seen by all processes; or nobody asked,
                and it is not of this job of torchrun's.
        """
        if self.file is None or not self.all_see(self.file):
            return
        saved = read(self)
        state = saved.state
        if not asked and state.get("job") != parallel.job():
            raise self.not_asked()
        check_same_run(state, self.config, data_mark(self.batches))
        check_same_numbers(state, self.computed())
        check_same_model(state, self.model)
        checkpoint.restore(saved, self.model, self.optimizer)
        self.history = History.from_dict(state["history"])
        self.saved_step = self.history.steps

    def all_see(self, file: Path) -> bool:
        """Whether there is a checkpoint; every process must say the same."""
        kept = int(checkpoint.is_kept(file))
        some, none = self.team.most(kept), self.team.most(1 - kept)
        if some and none:
            raise checkpoint.CheckpointError(
                f"some of the processes see a checkpoint at {file} and "
                "others do not. Give a folder that all machines share."
            )
        return bool(some)


def is_due(steps: int, config: TrainConfig) -> bool:
    """Whether the loss is measured after ``steps`` steps.

    >>> config = TrainConfig(steps=5, eval_every=2)
    >>> [s for s in range(1, 6) if is_due(s, config)]
    [2, 4, 5]
    """
    every = config.eval_every
    return steps == config.steps or bool(every and steps % every == 0)


def data_mark(batches: BatchSource) -> int:
    """A checksum of the first batch: whether the data is still the same."""
    mark = 0
    for part in batches.at(0):
        if isinstance(part, Tensor):
            whole = part.detach().cpu().contiguous().view(torch.uint8)
            mark = zlib.crc32(whole.numpy().tobytes(), mark)
    return mark


def check_same_run(
    state: dict[str, Any], config: TrainConfig, mark: int
) -> None:
    """Refuse to resume a run with other settings or other data."""
    saved = state.get("train_config", {})
    # Fields of later days have their defaults.
    before = {**TrainConfig().to_dict(), **saved}
    kept = {name: value for name, value in before.items() if name not in FREE}
    check_same("run", kept, config.to_dict())
    if state.get("data") != mark:
        raise checkpoint.CheckpointError(
            "the checkpoint's run read other data (another corpus, "
            "tokenizer, seed or batch shape). Give the same batches, or "
            "start anew in another folder."
        )


def check_same_numbers(
    state: dict[str, Any], computed: dict[str, Any]
) -> None:
    """Refuse another seed; say where something else changes bits."""
    before = state.get("computed", computed)
    if before["seed"] != computed["seed"]:
        raise checkpoint.CheckpointError(
            f"the checkpoint's run had seed {before['seed']}, "
            f"{runtime.SEED_VARIABLE} included, and this one has "
            f"{computed['seed']}; a resumed run must be the same run. Set "
            "the variable as it was, or start anew in another folder."
        )
    if before["dtype"] != computed["dtype"]:
        warnings.warn(
            f"the run was begun in {before['dtype']} and goes on in "
            f"{computed['dtype']}: it will not be the same to the bit. "
            f"{runtime.DTYPE_VARIABLE} chooses the format.",
            stacklevel=2,
        )
    if before.get("onednn", computed["onednn"]) != computed["onednn"]:
        now = "with" if computed["onednn"] else "without"
        warnings.warn(
            f"the run goes on {now} oneDNN's products, another library than "
            "it was begun by: it will not be the same to the bit. "
            f"{products.ONEDNN_VARIABLE} chooses (on or off).",
            stacklevel=2,
        )


def check_same_model(state: dict[str, Any], model: nn.Module) -> None:
    """Refuse to resume with a model that computes otherwise.

    Shapes do not tell: heads, windows and kinds of positions have none.
    """
    saved, now = state.get("config"), checkpoint.config_of(model)
    if saved and now:
        before = {**GPTConfig().to_dict(), **saved}
        check_same("model", before, json.loads(json.dumps(now)))


def check_same(what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on where a setting of the run, or model, is another."""
    for name, old in before.items():
        if name not in now:
            raise checkpoint.CheckpointError(
                f"the checkpoint's {what} had {name}={old!r}, which this "
                "package does not know. Install a newer llmbook."
            )
        if old != now[name]:
            raise checkpoint.CheckpointError(
                f"the checkpoint's {what} had {name}={old!r} and this one has "
                f"{now[name]!r}; a resumed run must be the same run. Keep "
                "the old value, or start anew in another folder."
            )


def seed_step(config: TrainConfig, step: int) -> None:
    """Make dropout's draws a function of (seed, step).

    So a checkpoint needs no generator state, and what a callback draws
    changes nothing.
    """
    seed = config.seed + runtime.seed_offset()
    torch.manual_seed(seed * SEED_STRIDE + step)
