"""Several processes train one model: who they are, and what they exchange.

``torchrun`` starts the processes and tells each its number through the
environment. Every one of them holds the whole model, reads its share of
each batch, and averages the gradients with the others before the step
(Li et al. 2020, https://arxiv.org/abs/2006.15704). A process that torchrun
did not start is alone, and nothing here costs it anything.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from llmbook import runtime

# What torchrun tells each process of a job: its number among all and among
# those of its machine, how many there are, and where they meet.
TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
JOB = "TORCHELASTIC_RUN_ID"  # the same after a restart
HERE = "LOCAL_WORLD_SIZE"  # processes on this machine
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
PATIENCE = timedelta(minutes=30)  # for the slowest: it may be encoding a text
# torchrun looks ten times a second which processes still live. One that has
# lost another waits, so that the other's end is reported and not its own.
SECONDS_TO_BE_ENDED = 5.0
LOST_WORDS = ("connection", "gloo", "nccl", "timed out", "broken pipe")

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class LostProcessError(ConnectionError):
    """Another process of the job has ended, or does not answer."""


@dataclass(frozen=True)
class Team:
    """The processes of one job, seen by one of them.

    Args:
        rank: its number, from 0.
        size: how many there are.
        device: where it computes.

    >>> Team(rank=1, size=4).part(torch.arange(8))
    tensor([2, 3])
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    @classmethod
    def alone(cls, device: torch.device | str = "cpu") -> Team:
        """One process that shares nothing.

        >>> Team.alone().speaks
        True
        """
        return cls(device=torch.device(device))

    @property
    def speaks(self) -> bool:
        """Whether this process prints and writes files: the first does."""
        return self.rank == 0

    def share(self, rows: int) -> int:
        """How many of a batch's rows each process takes.

        Raises:
            ValueError: they cannot be shared out equally.

        >>> Team(size=2).share(6)
        3
        """
        if rows % self.size:
            up = (rows // self.size + 1) * self.size
            raise ValueError(
                f"a batch has {rows} sequences and {self.size} processes "
                "share it; expected as many for each. Set batch_size to a "
                f"multiple of {self.size}, such as {up}, or start another "
                "number of processes (torchrun --nproc-per-node)."
            )
        return rows // self.size

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of ``batch`` (B, ...), as a view of it."""
        each = self.share(len(batch))
        return batch[self.rank * each : (self.rank + 1) * each]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes of ``value``, which has any shape.

        Summed in float64, so it is the same number in every process.
        """
        if self.size == 1:
            return value
        total = value.detach().double()
        dist.all_reduce(total)
        return (total / self.size).to(value.dtype)

    def most(self, number: int) -> int:
        """The largest of the processes' numbers: all hear the same.

        >>> Team.alone().most(2)
        2
        """
        if self.size == 1:
            return number
        found = torch.tensor(number, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            dist.barrier()


def team() -> Team:
    """The team that torchrun made this process part of, or one alone.

    Raises:
        ValueError: there are fewer GPUs than processes on this machine.
    """
    told = {name: os.environ.get(name, "") for name in TOLD}
    if not all(told.values()) or told["WORLD_SIZE"] == "1":
        return Team.alone(runtime.best_device())
    rank, size = int(told["RANK"]), int(told["WORLD_SIZE"])
    if not torch.cuda.is_available():
        return Team(rank, size)  # Apple's GPU cannot exchange gradients
    local, gpus = int(told["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= gpus:
        raise ValueError(
            f"process {local + 1} of this machine has no GPU: there are "
            f"{gpus}. Start torchrun with --nproc-per-node {gpus}, or with "
            "CUDA_VISIBLE_DEVICES= to compute on the processor."
        )
    return Team(rank, size, torch.device("cuda", local))


def start() -> Team:
    """Let this process meet the others of its job; returns its team.

    They talk through NCCL where they have GPUs, and through gloo where not.
    Where they have met before, nothing happens.
    """
    found = team()
    if found.size == 1 or dist.is_initialized():
        return found
    if found.device.type == "cuda":
        torch.cuda.set_device(found.device)
    backend = "nccl" if found.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=_meeting_place(found),
        rank=found.rank,
        world_size=found.size,
        timeout=PATIENCE,
    )
    return found


def _meeting_place(found: Team) -> dist.Store:
    """Where the processes leave their addresses for each other.

    After a restart torchrun offers the same place, and the addresses of the
    dead still lie there (https://github.com/pytorch/pytorch/issues/135712):
    so each attempt has its own corner. Over several machines, which may
    count restarts differently, torchrun's own care has to do.
    """
    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    if os.environ.get(HERE) != str(found.size):
        return store
    return dist.PrefixStore(f"attempt-{restarts()}", store)


def stop() -> None:
    """Part from the others; a process that is alone does nothing."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def together() -> Iterator[Team]:
    """A team for the time of a block; met before, it is left as it was.

    Raises:
        LostProcessError: another process ended meanwhile.
    """
    met_before = dist.is_initialized()
    found = start()
    try:
        yield found
    except (RuntimeError, ConnectionError) as error:
        if found.size == 1 or not _is_loss(error):
            raise
        if not isinstance(error, LostProcessError):
            error = _lost(found, error)
        raise error from error.__cause__
    if not met_before:  # after an error: the process ends, and so parts
        stop()


def _is_loss(error: BaseException) -> bool:
    """Whether an error of the exchange, and not of the model, was raised."""
    if isinstance(error, (LostProcessError, dist.DistError)):
        return True
    message = str(error).lower()
    return type(error) is RuntimeError and any(
        word in message for word in LOST_WORDS
    )


def _lost(found: Team, error: BaseException) -> LostProcessError:
    """Say it once, and leave torchrun the time to end this process."""
    heard = str(error).strip().partition("\n")[0]
    lost = LostProcessError(
        f"process {found.rank} lost another of the {found.size}: it ended, "
        "or did not answer. torchrun's report below names the first that "
        "failed. Go on from the last checkpoint with --resume; torchrun "
        "--max-restarts does it by itself. The exchange broke with: "
        f"{heard}"
    )
    if found.speaks:
        print(f"llmbook: {lost}", file=sys.stderr, flush=True)
    time.sleep(SECONDS_TO_BE_ENDED)
    lost.__cause__ = error
    return lost


def restarts() -> int:
    """How often torchrun has started this job again after a failure."""
    return int(os.environ.get(RESTARTS, "0"))


def job() -> str:
    """The name of torchrun's job, the same after a restart; "" without."""
    return os.environ.get(JOB, "")


def report(error: BaseException) -> None:
    """Tell torchrun why this process fails, for its own last report."""
    if os.environ.get(ERROR_FILE) and not isinstance(error, LostProcessError):
        ErrorHandler().record_exception(error)


def shared(batches: Any, team: Team) -> Any:
    """Batches as this process reads them: its rows, or all if it is alone.

    >>> shared("batches", Team.alone())
    'batches'
    """
    return batches if team.size == 1 else SharedBatches(batches, team)


class SharedBatches:
    """Batches of which each process reads its own rows.

    Process r (its rank, from 0) of W takes rows r B / W to (r + 1) B / W of
    each batch (B, T), so that W together see exactly the batches of one.

    >>> class One:
    ...     def at(self, step):
    ...         return torch.zeros(4, 8), torch.zeros(4, 8)
    >>> SharedBatches(One(), Team(rank=1, size=2)).at(0)[0].shape
    torch.Size([2, 8])
    """

    def __init__(self, batches: Any, team: Team) -> None:
        self.batches, self.team = batches, team

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of the batch of a step: x and y."""
        x, y = self.batches.at(step)
        return self.team.part(x), self.team.part(y)


@torch.no_grad()
def average_gradients(model: nn.Module, team: Team) -> None:
    """Replace each gradient by its mean over the processes.

    All that data parallel training needs, once after the backward pass. The
    mean of equal parts' gradients is the gradient of the whole batch. DDP,
    which training uses, sends the first gradients while the last are still
    being computed, and many small ones together (Li et al. 2020, section 3).
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= team.size


class _LossOf(nn.Module):
    """``loss_function`` as a module: DDP looks at a forward pass."""

    def __init__(self, model: nn.Module, loss_function: Loss) -> None:
        super().__init__()
        self.model, self.loss_function = model, loss_function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss_function(self.model, x, y)


class TeamLoss:
    """A loss function whose backward pass exchanges gradients.

    It is called like the one it is made from, ``(model, x, y)``, with this
    process's rows. What it returns has the value of the mean over all
    processes, and the gradient that all of them share afterwards is that
    mean's. Of the ``accumulate`` passes of one step only the last
    exchanges.

    The mean of the processes' means is the whole batch's where each has as
    many tokens to guess. The load-balancing loss of experts is no mean over
    tokens: each process balances its own.

    Args:
        model: what is trained; every process has the same weights.
        loss_function: ``(model, x, y)`` to a mean loss, for training.
        accumulate: passes that make one step.
        team: the processes.
        plain: the same loss where nothing is learned, uncompiled.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_function: Loss,
        accumulate: int,
        team: Team,
        plain: Loss | None = None,
    ) -> None:
        self.loss_function, self.team = loss_function, team
        self.plain = plain or loss_function
        self.accumulate, self.passes = accumulate, 0
        self.spread(model)

    def spread(self, model: nn.Module) -> None:
        """Let torch's engine watch the model's gradients."""
        config = getattr(model, "config", None)
        self.engine = DistributedDataParallel(
            _LossOf(model, self.loss_function),
            gradient_as_bucket_view=True,  # no second copy of the gradients
            # An expert that no token of this process chose has no gradient.
            find_unused_parameters=bool(getattr(config, "n_expert", 0)),
        )

    def compute(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of this process's rows, as the engine computes it."""
        return self.engine(x, y)

    def exchange(self, model: nn.Module, now: bool) -> None:
        """Whether the coming backward pass exchanges gradients."""
        self.engine.require_backward_grad_sync = now

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.team.mean(self.plain(model, x, y))
        self.passes += 1
        self.exchange(model, self.passes % self.accumulate == 0)
        loss = self.compute(model, x, y)
        # The value of the mean, the gradient of this process's own loss.
        return loss - loss.detach() + self.team.mean(loss)
