"""One optimizer step: loss, gradients, schedule, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from llmbook import runtime
from llmbook.batching.masks import document_numbers, packed_inputs
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.optim import (
    AdamW,
    Muon,
    clip_gradients,
    cosine_schedule,
    muon_groups,
    parameter_groups,
    set_learning_rate,
)

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]


class BatchSource(Protocol):
    """Anything that gives the batch of a step: the same one each time."""

    def at(self, step: int) -> tuple[Tensor, Tensor]: ...


class DivergedError(ArithmeticError):
    """The loss or a weight is no longer a number, or the loss rose far."""


def next_token_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss over all positions: −ln p(next token), in nats."""
    return model(x, y)[1]


def packed_loss(model: GPT, x: Tensor, y: Tensor, end_of_text: int) -> Tensor:
    """The mean of −ln p over the targets (B, T) that are not -100, in nats.

    Every ``end_of_text`` in ``x`` (B, T) begins a document, which sees
    itself alone and counts its positions from 0. For ``train`` give
    ``functools.partial(packed_loss, end_of_text=...)``.
    """
    c, documents = model.config, document_numbers(x, end_of_text)
    alone = packed_inputs(
        documents, c.n_layer, c.window, model.attention_dropout
    )
    return model(x, y, **alone)[1]


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
    set_learning_rate(optimizer, cosine_schedule(step, config))
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
        f"in step {step + 1}, at learning rate "
        f"{cosine_schedule(step, config):g}, the loss was {loss} and the "
        f"gradient's norm {norm}: the run has diverged. Lower learning_rate "
        f"(now {config.learning_rate:g}), lengthen warmup_steps (now "
        f"{config.warmup_steps}), set clip=1.0 (now {config.clip:g}), or "
        'try dtype="float32".'
    )


def make_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """The optimizer that ``config`` describes, for ``model``."""
    settings = {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "eps": config.epsilon,
    }
    if config.optimizer == "muon":
        groups = muon_groups(model, config.weight_decay, config.adamw_scale)
        device = next(model.parameters()).device
        dtype = runtime.best_dtype(device, config.dtype)
        return Muon(groups, config.momentum, dtype, **settings)
    return AdamW(parameter_groups(model, config.weight_decay), **settings)
