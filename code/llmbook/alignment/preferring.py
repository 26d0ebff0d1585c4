"""Preference tuning: learning which of two replies is better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import Callback

from .data import Choice
from .dpo import BETA
from .sft import LoRAChoice, Tuned


def prefer(
    model: GPT,
    tokenizer: Tokenizer,
    preferences: Sequence[Choice],
    config: TrainConfig,
    *,
    beta: float = BETA,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
    per: str = "answer",
    sft: float = 0.0,
    lora: LoRAChoice | None = None,
    validation: Sequence[Choice] | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Tuned:
    """Teach ``model`` to prefer the chosen replies, with DPO's losses.

    The model that is given stays as it is, and is the reference.
    """
    raise NotImplementedError
