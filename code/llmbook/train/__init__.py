"""The training loop: one for pretraining and for every loss after it.

:mod:`.step` is one step, :mod:`.measuring` what a model's loss is,
:mod:`.run` a run with its history and checkpoint, :mod:`.metrics` the
history as a file, :mod:`.stopping` the ends before the end, :mod:`.sharing`
what changes where several processes train together, :mod:`.loop` the loop.
"""

from .loop import call_back, own_randomness, run_steps, train
from .measuring import document_loss, evaluate, token_losses
from .metrics import METRICS_NAME, read_metrics, tensorboard_callback
from .run import (
    CHECKPOINT_NAME,
    Callback,
    History,
    Run,
    check_same_run,
    data_mark,
    is_due,
    seed_step,
)
from .sharing import should_cut, whole
from .step import (
    BatchSource,
    DivergedError,
    LossFunction,
    check_finite,
    make_optimizer,
    next_token_loss,
    packed_loss,
    training_step,
)
from .stopping import Stopped

__all__ = [
    "CHECKPOINT_NAME",
    "METRICS_NAME",
    "BatchSource",
    "Callback",
    "DivergedError",
    "History",
    "LossFunction",
    "Run",
    "Stopped",
    "call_back",
    "check_finite",
    "check_same_run",
    "data_mark",
    "document_loss",
    "evaluate",
    "is_due",
    "make_optimizer",
    "next_token_loss",
    "own_randomness",
    "packed_loss",
    "read_metrics",
    "run_steps",
    "seed_step",
    "should_cut",
    "tensorboard_callback",
    "token_losses",
    "train",
    "training_step",
    "whole",
]
