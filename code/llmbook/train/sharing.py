"""One run on several processes: what changes in it, and only there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from llmbook import checkpoint
from llmbook.config import TrainConfig
from llmbook.parallel import Team, TeamLoss

if TYPE_CHECKING:
    from .run import Run

# In training a number of the model takes its weight, gradient and two
# moments, each in float32 (Rajbhandari et al. 2020, section 3.1).
STATE_BYTES = 16
STATE_SHARE = 0.5  # of a GPU's memory; the rest is for activations

# fully_shard and what comes with it take seconds to import, so the modules
# that use them are imported where a model is cut, and not above.


def should_cut(parameters: int, config: TrainConfig, team: Team) -> bool:
    """Whether each process is to keep only a slice of a model so large.

    >>> cut = TrainConfig(parallel="fsdp")
    >>> [should_cut(1_000, cut, Team(size=n)) for n in (1, 2)]
    [False, True]
    """
    if team.size == 1 or config.parallel != "auto":
        return team.size > 1 and config.parallel == "fsdp"
    if team.device.type != "cuda":
        return False
    state = STATE_BYTES * parameters
    whole = torch.cuda.get_device_properties(team.device).total_memory
    return state > STATE_SHARE * whole


def is_cut(model: nn.Module) -> bool:
    """Whether ``fully_shard`` has been at the model."""
    return hasattr(model, "reshard")


def place(model: nn.Module, config: TrainConfig, team: Team) -> bool:
    """Bring ``model`` to this process's device; returns whether it is cut.

    A process that is alone leaves it where it is.
    """
    if is_cut(model):  # by the run before this one
        return True
    if should_cut(sum(p.numel() for p in model.parameters()), config, team):
        from llmbook import cutting

        cutting.cut(model, team)
        return True
    if team.size > 1:
        model.to(team.device)
    return False


def join(run: Run) -> None:
    """Let a run's loss, and its optimizer, exchange with the others'."""
    accumulate, team, plain = (
        run.config.accumulate,
        run.team,
        run.loss_function,
    )
    if team.size == 1:
        return
    if run.is_cut:
        from llmbook import cutting

        cutting.fit_optimizer(run.optimizer)
        loss = cutting.SlicedLoss(run.model, plain, accumulate, team)
    else:
        quick = run.step_loss or plain
        loss = TeamLoss(run.model, quick, accumulate, team, plain)
    run.loss_function = run.step_loss = loss


def write(run: Run, state: dict[str, object]) -> None:
    """Write a run's checkpoint: by the first process, or all in pieces.

    What the other kind has left is removed after that.

    Raises:
        CheckpointError: it cannot be written.
    """
    if run.is_cut:
        from llmbook import pieces

        folder = checkpoint.pieces_of(run.file)
        pieces.save(folder, run.model, run.optimizer, state, run.team)
        if run.team.speaks:
            checkpoint.remove_whole(run.file)
    elif run.team.speaks:
        checkpoint.save(
            run.file, run.model, run.optimizer, state, keep_previous=True
        )
        checkpoint.remove_pieces(run.file)


def read(run: Run) -> checkpoint.Checkpoint:
    """The newest checkpoint of a run, cut as its model is cut.

    Whoever wrote it: one process or many, whole or in pieces.

    Raises:
        CheckpointError: it cannot be read, nor the one before it.
    """
    run.team.wait()  # the first process may still be sweeping
    if checkpoint.is_in_pieces(run.file):
        from llmbook import pieces

        folder = checkpoint.pieces_of(run.file)
        pieces.settle(folder, run.team)
        return pieces.load(folder, run.model)
    if run.team.speaks:  # it may have to put the one before it in place
        saved = checkpoint.load_newest(run.file)
    run.team.wait()
    if not run.team.speaks:
        saved = checkpoint.load(run.file)
    if run.is_cut:
        from llmbook import cutting

        saved = cutting.slices_of(saved, run.model)
    return saved


def whole(model: nn.Module, team: Team) -> nn.Module | None:
    """The trained model in one piece; None in all but the first process.

    Every process has to call it. A model that is not cut is given back.
    """
    if not is_cut(model):
        return model if team.speaks else None
    from llmbook import cutting

    return cutting.whole(model, team)
