"""Supervised fine-tuning: learning to answer from answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmbook import lora as adapters
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import Callback, History

from .chat import Conversation


@dataclass(frozen=True)
class LoRAChoice:
    """Adapters to train in place of the model's own weights."""

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = adapters.TARGETS
    dropout: float = 0.0


@dataclass
class Tuned:
    """A model after fine-tuning, and what belongs to it.

    Args:
        model: the tuned one; with adapters on it where these were trained.
        tokenizer: the one given, with the chat's control tokens.
        history: of the run.
        left_out: examples that do not fit into the model's context, and
            were not learned from.
        measured: what :func:`~llmbook.alignment.reinforce` saw in each
            step: ``reward``, ``length``, ``kl``, ``clipped``, ``equal``.
    """

    model: GPT
    tokenizer: Tokenizer
    history: History
    left_out: int = 0
    measured: list[dict[str, float]] = field(default_factory=list)


def fine_tune(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    config: TrainConfig,
    *,
    lora: LoRAChoice | None = None,
    validation: Sequence[Conversation] | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Tuned:
    """Teach ``model`` the assistant's turns of ``conversations``.

    The model that is given stays as it is.

    Args:
        lora: train adapters alone, with AdamW; merge them afterwards with
            :func:`llmbook.lora.merge`, or save them with ``lora.save``.
        validation: conversations that the loss is also measured on.
        run_dir, resume, callbacks, progress: as in
            :func:`llmbook.train.train`.

    Raises:
        ValueError: Muon is chosen for adapters; too few conversations fit.
    """
    raise NotImplementedError
