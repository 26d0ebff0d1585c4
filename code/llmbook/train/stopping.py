"""When a run stops before its end: by a signal, or because it diverges."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from statistics import median
from types import FrameType
from typing import Any

from llmbook.config import TrainConfig
from llmbook.optim import cosine_schedule

from .step import BatchSource, DivergedError

BLOCK = 50  # steps whose median loss is compared with that of others
RECENT = 10  # steps before a checkpoint that must not have risen either
RISE_NATS, RISE_SHARE = 1.0, 0.5  # the rise that no batch explains
MOST_PLACES = 16  # windows that a message names


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so after a whole step.

    ``signal`` is what asked: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = signal.Signals(number)


class Listening:
    """Within its block, Ctrl-C and SIGTERM are noted and nothing more.

    ``heard`` is the signal, or None. A second Ctrl-C interrupts at once.
    ``most`` gives the largest of the numbers that a team's processes have.
    Outside the main thread, where Python delivers no signals, and where the
    caller has them ignored, nothing changes.
    """

    def __init__(
        self, wanted: bool = True, most: Callable[[int], int] = int
    ) -> None:
        self.noted, self.most = 0, most
        self.wanted = wanted
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Listening:
        main = threading.current_thread() is threading.main_thread()
        if self.wanted and main:
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @property
    def heard(self) -> signal.Signals | None:
        """The signal that any process has heard; all must ask alike."""
        number = self.most(self.noted)
        return signal.Signals(number) if number else None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; the second Ctrl-C is an exception."""
        if self.noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = number


def most_allowed(losses: Sequence[float], start: float) -> float:
    """The loss above which a run has diverged.

    It is half above ``start``, the loss before the first step, or above the
    lowest median of a block of steps; and a nat above it at least.

    >>> most_allowed([3.0] * 60, 6.0), most_allowed([30.0] * 60, 6.0)
    (4.5, 9.0)
    """
    whole = range(0, len(losses) - BLOCK + 1, BLOCK)
    medians = [median(losses[first : first + BLOCK]) for first in whole]
    lowest = min([start, *medians])
    return lowest + max(RISE_NATS, RISE_SHARE * abs(lowest))


def has_risen(losses: Sequence[float], start: float) -> bool:
    """Whether the last few losses are those of a run that diverges.

    >>> has_risen([3.0] * 90 + [7.0] * 10, start=6.0)
    True
    >>> has_risen([3.0] * 99 + [7.0], start=6.0)  # a single bad batch
    False
    """
    recent = losses[-RECENT:]
    return bool(recent) and median(recent) > most_allowed(losses, start)


def check_risen(
    losses: Sequence[float],
    start: float,
    config: TrainConfig,
    batches: BatchSource,
) -> None:
    """Stop a run whose loss has risen far above what it had reached.

    It is looked at once a block, so that a single bad batch stops nothing.
    ``start`` is the loss before the first step.

    Raises:
        DivergedError: it has; ``config.stop_diverging=False`` allows it.
    """
    steps = len(losses)
    if not config.stop_diverging or steps % BLOCK or not steps:
        return
    now, most = median(losses[-BLOCK:]), most_allowed(losses[:-BLOCK], start)
    if now > most:
        rate = cosine_schedule(steps - 1, config)
        batch = batch_of(batches, steps - 1, config)
        raise DivergedError(
            f"the loss has risen: its median over steps {steps - BLOCK + 1} "
            f"to {steps} is {now:.3f}, where the run had come low enough for "
            f"{most:.3f} to be a limit. In step {steps} the learning rate "
            f"was {rate:g} and the batch {batch}. Lower learning_rate "
            f"(now {config.learning_rate:g}), lengthen warmup_steps (now "
            f"{config.warmup_steps}) or set clip=1.0 (now {config.clip:g}); "
            "stop_diverging=False goes on all the same."
        )


def batch_of(batches: BatchSource, step: int, config: TrainConfig) -> str:
    """What a step reads, in words: how to get it, and where it stands.

    >>> from llmbook.corpus import Batches
    >>> batch_of(Batches(range(9), 4, 1), 0, TrainConfig())
    'batches.at(0), windows from tokens 3'
    """
    first = step * config.accumulate
    last = first + config.accumulate - 1
    words = f"batches.at({first})"
    if last > first:
        words += f" to batches.at({last})"
    if not all(hasattr(batches, n) for n in ("starts", "steps_per_epoch")):
        return words
    places: list[str] = []
    for part in range(first, last + 1):
        epoch, within = divmod(part, batches.steps_per_epoch)
        rows = slice(within * batches.batch_size, None)
        starts = batches.starts(epoch)[rows][: batches.batch_size]
        places += [str(int(start)) for start in starts]
    if len(places) > MOST_PLACES:
        places[MOST_PLACES:] = [f"{len(places) - MOST_PLACES} more"]
    return f"{words}, windows from tokens {', '.join(places)}"
