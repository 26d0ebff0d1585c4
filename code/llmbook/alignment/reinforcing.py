"""Reinforcement: learning from what a check says about own answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from llmbook import checkpoint
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.tokenizer.files import write_atomically
from llmbook.train import CHECKPOINT_NAME, Callback, History, train

from .chat import encode
from .data import Problem
from .grpo import RECIPES, GroupLoss, PromptBatches, Recipe, RewardFunction
from .preferring import options_of_run
from .sft import LoRAChoice, Tuned, check_some, data_seed, prepared
from .verifiers import verifier
from .vocabulary import with_chat_tokens

MEASURED_NAME = "measured.jsonl"  # beside the checkpoint, a line a step

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Practice:
    """How a model practises.

    Args:
        reward: from the problems' numbers and the answers' ids to a number
            each; :func:`~llmbook.alignment.verifiers.verifier` for None.
        recipe: one of :data:`~llmbook.alignment.grpo.RECIPES` by its name,
            or your own.
        group_size: answers to each problem.
        max_new_tokens: the most tokens of an answer.
        updates: steps that learn from the same answers.
        reference: what KL is measured to; for None the model that practice
            begins with.
    """

    reward: RewardFunction | None = None
    recipe: str | Recipe = "dr_grpo"
    group_size: int = 8
    max_new_tokens: int = 64
    updates: int = 1
    reference: GPT | None = None

    def __post_init__(self) -> None:
        if isinstance(self.recipe, str) and self.recipe not in RECIPES:
            raise ValueError(
                f"recipe is {self.recipe!r}; expected one of "
                f"{', '.join(RECIPES)}, or a grpo.Recipe."
            )


def reinforce(
    model: GPT,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    config: TrainConfig,
    *,
    lora: LoRAChoice | None = None,
    on_step: OnStep | None = None,
    **options: Any,
) -> Tuned:
    """Let ``model`` answer, and repeat what was rewarded, with GRPO.

    The model that is given stays as it is.

    Args:
        problems: what is asked, ``config.batch_size`` of them in a step.
        lora: train adapters alone, with AdamW.
        on_step: called after each step with its number and what was
            measured in it.
        options: of :class:`Practice`; and of the run, as in
            :func:`~llmbook.alignment.sft.fine_tune`.

    Raises:
        ValueError: as in ``fine_tune``; the recipe is unknown.
    """
    run = options_of_run(options)
    how = Practice(**options)
    check_one_batch(config)
    tokenizer = with_chat_tokens(tokenizer)
    tuned = prepared(model, tokenizer, config, lora)
    fits = fitting(tuned, tokenizer, problems, how.max_new_tokens)
    loss = group_loss(tuned, tokenizer, problems, list(fits), how)
    kept = MeasuredLoss(loss, run.get("run_dir"), run.get("resume", False))
    run["callbacks"] = [*telling(on_step, kept), *run.get("callbacks", ())]
    size, seed = config.batch_size, data_seed(config)
    batches = PromptBatches(list(fits.values()), size, seed, how.updates)
    history = train(tuned, batches, config, loss_function=kept, **run)
    left_out = len(problems) - len(fits)
    return Tuned(tuned.eval(), tokenizer, history, left_out, kept.measured)


def group_loss(
    model: GPT,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    numbers: Sequence[int],
    how: Practice,
) -> GroupLoss:
    """GRPO's loss for prompts that are the problems of these ``numbers``."""
    reward = how.reward or verifier(problems, tokenizer)
    named = isinstance(how.recipe, str)
    recipe = RECIPES[how.recipe] if named else how.recipe
    reference = how.reference
    if recipe.kl_weight and reference is None:
        reference = copy.deepcopy(model)
    return GroupLoss(
        lambda rows, ids: reward([numbers[row] for row in rows], ids),
        group_size=how.group_size,
        max_new_tokens=how.max_new_tokens,
        stop_tokens=list(tokenizer.special_tokens.values()),
        recipe=recipe,
        reference=reference,
    )


def fitting(
    model: GPT,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    max_new_tokens: int,
) -> dict[int, list[int]]:
    """Prompts that leave room for an answer, by their problems' numbers."""
    room = model.config.context_length - max_new_tokens
    encoded = [encode(tokenizer, p.messages, prompt=True) for p in problems]
    fits = {n: e.ids for n, e in enumerate(encoded) if len(e.ids) <= room}
    check_some(list(fits), problems, model.config.context_length)
    return fits


class MeasuredLoss:
    """A :class:`GroupLoss` that keeps what each step measured.

    Beside a checkpoint it keeps it in a file too, so that a resumed run
    knows of the steps before.

    Args:
        loss: measures at each call, which is one step.
        run_dir: the checkpoint's folder, or None.
        resume: whether the run goes on from the checkpoint; what it
            measured after that is forgotten.
    """

    def __init__(
        self, loss: GroupLoss, run_dir: str | Path | None, resume: bool
    ) -> None:
        self.loss = loss
        self.measured: list[dict[str, float]] = []
        self.file = None if run_dir is None else Path(run_dir) / MEASURED_NAME
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            done = steps_done(self.file.parent) if resume else 0
            lines = first_lines(self.file, done)
            write_atomically(self.file, "".join(f"{n}\n" for n in lines))
            self.measured = [json.loads(line) for line in lines]

    def __call__(self, model: GPT, x: Tensor, y: Tensor) -> Tensor:
        value = self.loss(model, x, y)
        self.measured.append(self.loss.measured)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(self.loss.measured) + "\n")
        return value


def first_lines(file: Path, count: int) -> list[str]:
    """The first ``count`` whole lines of a file.

    Raises:
        ValueError: it is missing, or has fewer.
    """
    there = count and file.is_file()
    text = file.read_text(encoding="utf-8") if there else ""
    lines = text.split("\n")[:-1]  # behind the last break stands no line
    if len(lines) < count:
        raise ValueError(
            f"{file} tells of {len(lines)} steps, and the checkpoint beside "
            f"it was written after {count}. Copy it again, or start anew in "
            "another folder."
        )
    return lines[:count]


def steps_done(run_dir: Path) -> int:
    """The steps behind a folder's checkpoint; 0 where there is none."""
    file = run_dir / CHECKPOINT_NAME
    if not checkpoint.is_kept(file):
        return 0
    return len(checkpoint.load_newest(file).state["history"]["loss"])


def telling(on_step: OnStep | None, kept: MeasuredLoss) -> list[Callback]:
    """``on_step`` as a callback of the training loop, if there is one."""

    def tell(step: int, model: GPT, history: History) -> None:
        if step:  # the loop also calls before the first
            on_step(step, kept.measured[-1])

    return [] if on_step is None else [tell]


def check_one_batch(config: TrainConfig) -> None:
    """Refuse to add up gradients over several batches.

    >>> check_one_batch(TrainConfig(accumulate=1))
    """
    if config.accumulate != 1:
        raise ValueError(
            f"accumulate is {config.accumulate}; expected 1: a step learns "
            "from the answers that were drawn in it. For more of them raise "
            "batch_size or group_size."
        )
