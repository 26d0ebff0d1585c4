"""Reinforcement: learning from what a check says about own answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from llmbook import checkpoint
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import CHECKPOINT_NAME, Callback, History, train

from .chat import encode
from .data import Problem
from .grpo import RECIPES, GroupLoss, PromptBatches, Recipe, RewardFunction
from .sft import LoRAChoice, Tuned, check_some, data_seed, prepared
from .verifiers import verifier
from .vocabulary import with_chat_tokens

MEASURED_NAME = "measured.jsonl"  # beside the checkpoint, a line a step

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
        lora: train adapters alone, with AdamW.
        run_dir, resume, callbacks, progress: as in
            :func:`llmbook.train.train`.

    Raises:
        ValueError: as in :func:`~llmbook.alignment.sft.fine_tune`; the
            recipe is unknown; gradients are to be accumulated.
    """
    check_choices(recipe, config)
    tokenizer = with_chat_tokens(tokenizer)
    tuned = prepared(model, tokenizer, config, lora)
    numbers, prompts = fitting(tuned, tokenizer, problems, max_new_tokens)
    rewarded = reward or verifier(problems, tokenizer)
    chosen = RECIPES[recipe] if isinstance(recipe, str) else recipe
    if chosen.kl_weight and reference is None:
        reference = prepared(model, tokenizer, config)
    loss = GroupLoss(
        lambda rows, ids: rewarded([numbers[row] for row in rows], ids),
        group_size=group_size,
        max_new_tokens=max_new_tokens,
        stop_tokens=list(tokenizer.special_tokens.values()),
        recipe=chosen,
        reference=reference,
    )
    kept = MeasuredLoss(loss, run_dir, steps_done(run_dir) if resume else 0)
    history = train(
        tuned,
        PromptBatches(prompts, config.batch_size, data_seed(config), updates),
        config,
        run_dir=run_dir,
        resume=resume,
        callbacks=[*telling(on_step, kept), *callbacks],
        progress=progress,
        loss_function=kept,
    )
    left_out = len(problems) - len(prompts)
    return Tuned(tuned.eval(), tokenizer, history, left_out, kept.measured)


def fitting(
    model: GPT,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    max_new_tokens: int,
) -> tuple[list[int], list[list[int]]]:
    """The problems that leave room for an answer: numbers and prompts."""
    room = model.config.context_length - max_new_tokens
    encoded = [encode(tokenizer, p.messages, prompt=True) for p in problems]
    fits = {n: e.ids for n, e in enumerate(encoded) if len(e.ids) <= room}
    check_some(list(fits), problems, model.config.context_length)
    return list(fits), list(fits.values())


class MeasuredLoss:
    """A :class:`GroupLoss` that keeps what each step measured.

    Beside a checkpoint it keeps it in a file too, so that a resumed run
    knows of the steps before.

    Args:
        loss: measures at each call, which is one step.
        run_dir: the checkpoint's folder, or None.
        done: steps that the checkpoint has behind it; what a run that was
            cut off measured after them is forgotten.
    """

    def __init__(
        self, loss: GroupLoss, run_dir: str | Path | None, done: int
    ) -> None:
        self.loss = loss
        self.measured: list[dict[str, float]] = []
        self.file = None if run_dir is None else Path(run_dir) / MEASURED_NAME
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lines = self.file.read_text().split("\n")[:done] if done else []
            self.file.write_text("".join(f"{line}\n" for line in lines))
            self.measured = [json.loads(line) for line in lines]

    def __call__(self, model: GPT, x: Tensor, y: Tensor) -> Tensor:
        value = self.loss(model, x, y)
        self.measured.append(self.loss.measured)
        if self.file is not None:
            with self.file.open("a") as lines:
                lines.write(json.dumps(self.loss.measured) + "\n")
        return value


def steps_done(run_dir: str | Path | None) -> int:
    """The steps behind a folder's checkpoint; 0 where there is none."""
    if run_dir is None or not (Path(run_dir) / CHECKPOINT_NAME).exists():
        return 0
    state = checkpoint.load(Path(run_dir) / CHECKPOINT_NAME).state
    return History.from_dict(state["history"]).steps


def telling(on_step: OnStep | None, kept: MeasuredLoss) -> list[Callback]:
    """``on_step`` as a callback of the training loop, if there is one."""

    def tell(step: int, model: GPT, history: History) -> None:
        if step:  # the loop also calls before the first
            on_step(step, kept.measured[-1])

    return [] if on_step is None else [tell]


def check_choices(recipe: str | Recipe, config: TrainConfig) -> None:
    """Refuse a recipe without a name here, and accumulated gradients.

    >>> check_choices("dapo", TrainConfig())
    """
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise ValueError(
            f"recipe is {recipe!r}; expected one of {', '.join(RECIPES)}, or "
            "a grpo.Recipe."
        )
    if config.accumulate != 1:
        raise ValueError(
            f"accumulate is {config.accumulate}; expected 1: a step learns "
            "from the answers that were drawn in it. For more of them raise "
            "batch_size or group_size."
        )
