"""Reinforcement: learning from what a check says about own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import Callback

from .data import Problem
from .grpo import Recipe, RewardFunction
from .sft import LoRAChoice, Tuned

OnStep = Callable[[int, dict[str, float]], None]


def reinforce(
    model: GPT,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    config: TrainConfig,
    *,
    reward: RewardFunction | None = None,
    recipe: str | Recipe = "dr_grpo",
    group_size: int = 8,
    max_new_tokens: int = 64,
    updates: int = 1,
    reference: GPT | None = None,
    lora: LoRAChoice | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    on_step: OnStep | None = None,
    progress: bool = True,
) -> Tuned:
    """Let ``model`` answer, and repeat what was rewarded, with GRPO.

    The model that is given stays as it is.

    Args:
        problems: what is asked; ``config.batch_size`` of them in a step.
        reward: from problems' numbers and answers' ids to a number each;
            :func:`~llmbook.alignment.verifiers.verifier` by default.
        recipe: a name in :data:`~llmbook.alignment.grpo.RECIPES`, or your
            own.
        group_size: answers to each problem.
        max_new_tokens: the most tokens of an answer.
        updates: steps that learn from the same answers.
        reference: what KL is measured to; the model given by default.
        on_step: called after each step with its number and what it
            measured.
        run_dir, resume, callbacks, progress: as in
            :func:`llmbook.train.train`.
    """
    raise NotImplementedError
