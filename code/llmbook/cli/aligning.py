"""``llmbook align``: a model learns to answer, to prefer, to be right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from torch import Tensor

from llmbook import aligned, running, runtime
from llmbook.alignment import (
    ChatIds,
    Choice,
    Conversation,
    PackedChats,
    Problem,
    Tuned,
    encode,
    encode_example,
    encode_preference,
    fine_tune,
    grow_vocabulary,
    prefer,
    read_chats,
    read_preferences,
    read_problems,
    reinforce,
    training_chats,
    with_chat_tokens,
    world_chats,
    world_preferences,
    world_problems,
)
from llmbook.alignment.grpo import RECIPES
from llmbook.alignment.measures import replies_to
from llmbook.alignment.sequences import (
    IGNORED,
    Preference,
    preference_logprobs,
)
from llmbook.alignment.verifiers import rewards
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import evaluate, packed_loss

from .models import check_teachable, read_model
from .stage import Stage

MOST_PROBLEMS = 2_000  # of the world; a run hardly gets through more


@dataclass
class SFT(Stage):
    """Teach a model to answer, by answers (supervised fine-tuning).

    A line of data is {"messages": [{"role", "content"}, ...]} or
    {"prompt", "response"}.
    """

    training: TrainConfig = field(
        default_factory=lambda: aligned.recipe("sft").train
    )

    stage = "sft"
    number = "nats a token of answers {}"
    read = staticmethod(read_chats)

    def begun(self) -> tuple[GPT, Tokenizer]:
        if self.model is None:
            own = running.load_running()
            return own.model, with_chat_tokens(own.tokenizer)
        model, tokenizer = read_model(self.model)
        check_teachable(self.model, tokenizer)
        return model, with_chat_tokens(tokenizer)

    def of_world(
        self, seed: int
    ) -> tuple[list[Conversation], list[Conversation]]:
        shares = aligned.recipe("sft").examples
        unseen = [
            chat
            for kind in shares
            for chat in world_chats(kind, "unseen", aligned.JUDGED, seed)
        ]
        return training_chats(shares, seed), unseen

    def tuned(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        learned: list[Conversation],
        judged: list[Conversation] | None,
    ) -> Tuned:
        return fine_tune(
            model, tokenizer, learned, validation=judged, **self.loop()
        )

    def fitting(
        self, tokenizer: Tokenizer, chats: list[Conversation], T: int
    ) -> Iterator[ChatIds]:
        encoded = (encode_example(tokenizer, chat, T) for chat in chats)
        return (chat for chat in encoded if chat is not None)

    def score(
        self, model: GPT, tokenizer: Tokenizer, shown: list[ChatIds]
    ) -> float:
        T, end = model.config.context_length, tokenizer.end_of_text
        rows = PackedChats(shown, T, 1, end)

        def summed(model: GPT, x: Tensor, y: Tensor) -> Tensor:
            return packed_loss(model, x, y, end) * (y != IGNORED).sum()

        a_row = evaluate(
            grow_vocabulary(model, tokenizer.vocab_size),
            rows,
            len(rows.x),
            dtype="float32",
            loss_function=summed,
        )
        return a_row * len(rows.x) / int((rows.y != IGNORED).sum())


def chosen(name: str) -> float:
    """What the book's own recipe for preferences chooses.

    >>> 0 < chosen("beta") < 1
    True
    """
    return aligned.recipe("dpo").choices[name]


@dataclass
class DPO(Stage):
    """Teach a model which of two replies is better.

    By direct preference optimisation, or its kin. A line of data is
    {"prompt", "chosen", "rejected"}, the prompt a text or messages.
    """

    training: TrainConfig = field(
        default_factory=lambda: aligned.recipe("dpo").train
    )
    beta: float = field(default_factory=lambda: chosen("beta"))
    """How dear it is to leave the first model."""
    kind: Literal["sigmoid", "robust", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0
    """The share of preferences taken to be wrong."""
    sft: float = field(default_factory=lambda: chosen("sft"))
    """How much the chosen replies are learned as answers too."""

    stage = "dpo"
    number = "share of pairs {} whose chosen reply is likelier"
    read = staticmethod(read_preferences)

    def of_world(self, seed: int) -> tuple[list[Choice], list[Choice]]:
        recipe = aligned.recipe("dpo")
        learned, unseen = (
            world_preferences(side, count, seed, recipe.paragraphs)
            for side, count in (
                ("seen", recipe.examples["ending"]),
                ("unseen", aligned.JUDGED),
            )
        )
        return learned, unseen

    def tuned(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        learned: list[Choice],
        judged: list[Choice] | None,
    ) -> Tuned:
        return prefer(
            model,
            tokenizer,
            learned,
            validation=judged,
            beta=self.beta,
            kind=self.kind,
            label_smoothing=self.label_smoothing,
            sft=self.sft,
            **self.loop(),
        )

    def fitting(
        self, tokenizer: Tokenizer, choices: list[Choice], T: int
    ) -> Iterator[Preference]:
        encoded = (encode_preference(tokenizer, *c, T) for c in choices)
        return (pair for pair in encoded if pair is not None)

    def score(
        self, model: GPT, tokenizer: Tokenizer, shown: list[Preference]
    ) -> float:
        chosen, rejected = preference_logprobs(model, shown).T
        return (chosen > rejected).float().mean().item()


@dataclass
class GRPO(Stage):
    """Let a model try, and repeat what a program found right.

    By group-relative policy optimisation, or its kin. A line of data is one
    of GSM8K's, {"question", "answer"} with "#### 7" at the end, or one of
    HumanEval's, whose tests run in the sandbox.
    """

    training: TrainConfig = field(
        default_factory=lambda: aligned.run_of(
            steps=runtime.pick(smoke=3, quick=240),
            batch_size=8,
            optimizer="adamw",
            rate=1e-4,
        )
    )
    problems: Literal["sum", "function"] = "sum"
    """Of the world."""
    recipe: Literal["grpo", "dr_grpo", "dapo"] = "dr_grpo"
    group_size: int = 8
    """Answers to each problem."""
    max_new_tokens: int = 64
    """The longest answer."""
    kl: float | None = None
    """What it costs to leave the first model; else the recipe's own."""

    stage = "grpo"
    number = "share of problems {} answered right"
    read = staticmethod(read_problems)

    def of_world(self, seed: int) -> tuple[list[Problem], list[Problem]]:
        needed = self.training.steps * self.training.batch_size
        count = min(needed, MOST_PROBLEMS)
        return (
            world_problems(self.problems, "seen", count, seed),
            world_problems(self.problems, "unseen", aligned.JUDGED, seed),
        )

    def tuned(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        learned: list[Problem],
        judged: list[Problem] | None,
    ) -> Tuned:
        recipe = RECIPES[self.recipe]
        if self.kl is not None:
            recipe = recipe._replace(kl_weight=self.kl)
        return reinforce(
            model,
            tokenizer,
            learned,
            recipe=recipe,
            group_size=self.group_size,
            max_new_tokens=self.max_new_tokens,
            **self.loop(),
        )

    def fitting(
        self, tokenizer: Tokenizer, problems: list[Problem], T: int
    ) -> Iterator[Problem]:
        room = T - self.max_new_tokens
        for problem in problems:
            if len(encode(tokenizer, problem.messages, True).ids) <= room:
                yield problem

    def score(
        self, model: GPT, tokenizer: Tokenizer, shown: list[Problem]
    ) -> float:
        replies = replies_to(
            model, tokenizer, shown, max_new_tokens=self.max_new_tokens
        )
        return sum(rewards(shown, replies)) / len(shown)


@dataclass
class AlignCommand:
    """Teach a model to answer, to prefer, or to be right."""

    how: Annotated[
        Annotated[SFT, tyro.conf.subcommand("sft")]
        | Annotated[DPO, tyro.conf.subcommand("dpo")]
        | Annotated[GRPO, tyro.conf.subcommand("grpo")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> str:
        return self.how.run()
