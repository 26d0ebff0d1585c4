"""The running model, aligned: it answers, and prefers kind endings.

``python -m llmbook.aligned`` makes both stages before the chapters. Like
the running model's, their folders are named after a hash of everything that
decides what they become.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import History

STAGES = ("sft", "dpo")


@dataclass(frozen=True)
class Recipe:
    """All that is chosen about a stage."""

    stage: str
    train: TrainConfig


@dataclass
class Aligned:
    """A stage's model and what belongs to it."""

    model: GPT
    tokenizer: BPETokenizer
    history: History
    stage: str
    recipe: Recipe
    folder: Path = field(repr=False)


def recipe(stage: str) -> Recipe:
    """The stage's recipe at the current budget."""
    raise NotImplementedError


def load_aligned(stage: str, progress: bool = True) -> Aligned:
    """The running model after ``"sft"`` or ``"dpo"``; made where missing.

    ``"dpo"`` begins from ``"sft"``, which begins from the running model.
    """
    raise NotImplementedError
