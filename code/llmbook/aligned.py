"""The running model, aligned: it answers, and then prefers kind endings.

``python -m llmbook.aligned`` makes both stages before the chapters. As with
the running model, a stage's folder is named after a hash of everything that
decides what it becomes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from llmbook import checkpoint, running, runtime
from llmbook.alignment import (
    Tuned,
    fine_tune,
    prefer,
    training_chats,
    world_chats,
    world_preferences,
)
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import CHECKPOINT_NAME, History

STAGES = ("sft", "dpo")
RESULT_NAME = "aligned.json"  # written last: a folder with it is whole
JUDGED = 60  # examples of each kind that the loss is also measured on
# What decides the weights, beside the running model's own code.
CODE = (
    "batching",
    "alignment/chat.py",
    "alignment/vocabulary.py",
    "alignment/packing.py",
    "alignment/sequences.py",
    "alignment/dpo.py",
    "alignment/data.py",
    "alignment/sft.py",
    "alignment/preferring.py",
    "aligned.py",
)


@dataclass(frozen=True)
class Recipe:
    """All that is chosen about a stage.

    Args:
        stage: ``"sft"`` or ``"dpo"``.
        examples: how many to learn from: prompts of each kind for
            :func:`~llmbook.alignment.training_chats`, or ``"ending"`` alone
            for :func:`~llmbook.alignment.world_preferences`.
        train: the training run.
        replay: documents of the corpus that are learned again beside.
        choices: what else :func:`~llmbook.alignment.prefer` is told.
        paragraphs: of a story, where the context is too short for all.
    """

    stage: str
    examples: Mapping[str, int]
    train: TrainConfig
    replay: int = 0
    choices: Mapping[str, float] = field(default_factory=dict)
    paragraphs: int | None = None


def recipe(stage: str) -> Recipe:
    """The stage's recipe at the current budget.

    Raises:
        ValueError: the stage is none of :data:`STAGES`.
    """
    if stage not in STAGES:
        raise ValueError(
            f"stage is {stage!r}; expected one of {', '.join(STAGES)}."
        )
    return sft_recipe() if stage == "sft" else dpo_recipe()


def sft_recipe() -> Recipe:
    """Answering: all kinds of prompts.

    Stories are long, so endings take half of the time; with a third of them
    the model tells garbled ones, and preferences cannot mend that. Without
    documents beside, the model forgets how to write them: 0.5 nats a token
    became 5. At smoke no whole story fits into the context.
    """
    return Recipe(
        stage="sft",
        examples=runtime.pick(
            smoke={"question": 120, "instruction": 60, "sum": 60},
            quick={
                "question": 2_300,
                "instruction": 2_000,
                "sum": 4_000,
                "function": 2_000,
                "ending": 1_200,
            },
        ),
        train=run_of(
            steps=runtime.pick(smoke=30, quick=600, laptop=2_500),
            batch_size=8,
            optimizer="muon",
            rate=runtime.pick(smoke=1e-2, quick=5e-3),
        ),
        replay=runtime.pick(smoke=40, quick=1_200),
    )


def dpo_recipe() -> Recipe:
    """Kind endings, with a hold on the chosen ones' words.

    At three times this rate unkind endings all but vanish, and so do whole
    ones: what is left is neither.
    """
    return Recipe(
        stage="dpo",
        examples={"ending": runtime.pick(smoke=64, quick=960, laptop=4_000)},
        train=run_of(
            steps=runtime.pick(smoke=10, quick=60, laptop=500),
            batch_size=8,
            optimizer="adamw",
            rate=1e-4,
        ),
        choices={"beta": 0.1, "sft": 1.0},
        paragraphs=runtime.pick(smoke=1, quick=None),
    )


def run_of(
    steps: int, batch_size: int, optimizer: str, rate: float
) -> TrainConfig:
    """A run with a short warm-up, measured ten times on the way."""
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=rate,
        min_learning_rate=rate / 30,
        warmup_steps=max(2, steps // 20),
        eval_every=-(-steps // 10),
        eval_batches=runtime.pick(smoke=1, quick=4),
    )


def code_hash(package: Path | None = None) -> str:
    """A SHA-256 of the code that tunes, without comments and docstrings.

    >>> code_hash() == code_hash()
    True
    """
    package = package or Path(__file__).parent
    total = hashlib.sha256()
    for name in CODE:
        path = package / name
        files = [path] if path.suffix else sorted(path.rglob("*.py"))
        for file in files:
            tree = running._without_docstrings(ast.parse(file.read_bytes()))
            total.update(file.relative_to(package).as_posix().encode())
            total.update(ast.dump(tree).encode())
    return total.hexdigest()


def fingerprint(stage: str) -> str:
    """The name of a stage's folder: a hash of all that leads to it."""
    before = (
        running.fingerprint(running.recipe())
        if stage == "sft"
        else fingerprint("sft")
    )
    chosen = json.dumps(asdict(recipe(stage)), sort_keys=True)
    text = before + chosen + code_hash()
    return hashlib.sha256(text.encode()).hexdigest()[: running.HASH_LENGTH]


@dataclass
class Aligned:
    """A stage's model and what belongs to it.

    ``left_out`` counts the examples that did not fit into the context.
    """

    model: GPT
    tokenizer: BPETokenizer
    history: History
    stage: str
    left_out: int
    recipe: Recipe
    folder: Path = field(repr=False)


def load_aligned(stage: str, progress: bool = True) -> Aligned:
    """The running model after ``"sft"``, or after ``"dpo"`` on top of it.

    Made first where it is missing, and the running model before it. Two
    processes that want it at once make it once: the second waits.

    Raises:
        ValueError: the stage is none of :data:`STAGES`.
    """
    chosen = recipe(stage)
    folder = running.models_folder() / fingerprint(stage)
    if not (folder / RESULT_NAME).is_file():
        running.make_folder(folder)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / RESULT_NAME).is_file():
                make_stage(chosen, folder, progress)
    return open_aligned(chosen, folder)


def open_aligned(chosen: Recipe, folder: Path) -> Aligned:
    """Read a finished stage's folder."""
    result = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))
    return Aligned(
        model=checkpoint.load_model(folder / "model.safetensors"),
        tokenizer=BPETokenizer.load(folder / "tokenizer.json"),
        history=History.from_dict(result["history"]),
        stage=chosen.stage,
        left_out=result["left_out"],
        recipe=chosen,
        folder=folder,
    )


def make_stage(chosen: Recipe, folder: Path, progress: bool = True) -> None:
    """Tune the stage before, and write model, tokenizer and record.

    An interrupted run is taken up at its last checkpoint.
    """
    runtime.keep_freed_memory()
    tune = tuned_to_answer if chosen.stage == "sft" else tuned_to_prefer
    tuned = tune(chosen, run_dir=folder, resume=True, progress=progress)
    tuned.tokenizer.save(folder / "tokenizer.json")
    checkpoint.save(folder / "model.safetensors", tuned.model)
    result = {
        "recipe": asdict(chosen),
        "torch": torch.__version__,
        "left_out": tuned.left_out,
        "history": tuned.history.to_dict(),
    }
    beside = folder / f"{RESULT_NAME}.{os.getpid()}.part"
    beside.write_text(json.dumps(result), encoding="utf-8")
    os.replace(beside, folder / RESULT_NAME)
    checkpoint.remove(folder / CHECKPOINT_NAME)


def tuned_to_answer(chosen: Recipe, progress: bool, **run: Any) -> Tuned:
    """The running model after learning to answer."""
    begun = running.load_running(progress)
    seed = runtime.seed_offset()
    judged = [
        chat
        for kind in chosen.examples
        for chat in world_chats(kind, "unseen", JUDGED, seed)
    ]
    return fine_tune(
        begun.model.to(runtime.best_device()),
        begun.tokenizer,
        training_chats(chosen.examples, seed),
        chosen.train,
        replay=begun.corpus.train_texts[: chosen.replay],
        validation=judged,
        progress=progress,
        **run,
    )


def tuned_to_prefer(chosen: Recipe, progress: bool, **run: Any) -> Tuned:
    """The model that answers, after learning what is preferred."""
    begun = load_aligned("sft", progress)
    learned, judged = (
        world_preferences(
            side, count, runtime.seed_offset(), chosen.paragraphs
        )
        for side, count in (
            ("seen", chosen.examples["ending"]),
            ("unseen", JUDGED),
        )
    )
    return prefer(
        begun.model.to(runtime.best_device()),
        begun.tokenizer,
        learned,
        chosen.train,
        **chosen.choices,
        validation=judged,
        progress=progress,
        **run,
    )


def main() -> int:
    """Make the stages that are missing, and say where they are."""
    for stage in STAGES:
        found = load_aligned(stage)
        print(
            f"{stage}: loss {found.history.evaluations[-1][1]:.3f} on what "
            f"was not learned from, after {found.history.steps} steps and "
            f"{found.history.seconds:.0f} s: {found.folder}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
