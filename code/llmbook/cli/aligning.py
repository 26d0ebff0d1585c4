"""``llmbook align``: a model learns to answer, to prefer, to be right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import tyro

from llmbook import aligned, lora, running, runtime
from llmbook.alignment import (
    CHAT_TOKENS,
    ChatIds,
    Choice,
    Conversation,
    LoRAChoice,
    PackedChats,
    Problem,
    Tuned,
    encode,
    encode_example,
    encode_preference,
    fine_tune,
    grow_vocabulary,
    packed_loss,
    prefer,
    read_chats,
    read_preferences,
    read_problems,
    reinforce,
    save_chat_model,
    training_chats,
    with_chat_tokens,
    world_chats,
    world_preferences,
    world_problems,
)
from llmbook.alignment.grpo import RECIPES
from llmbook.alignment.measures import replies_to
from llmbook.alignment.sequences import Preference, preference_logprobs
from llmbook.alignment.verifiers import rewards
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import CHECKPOINT_NAME, evaluate

from . import runs
from .models import read_model
from .notes import note

WORLD = "world"
MOST_PROBLEMS = 2_000  # of the world; a run hardly gets through more
NAMES = ("model", "data", "validation")  # of what may move between two runs
NOT_THE_RUN = ("out", "resume", "export", *NAMES)


class Outcome(NamedTuple):
    """A number that a run should change, before it and after."""

    of: str
    before: float
    after: float


@dataclass
class Alignment:
    """What the stages have in common."""

    out: Annotated[Path, tyro.conf.Positional]
    """New folder for the model, its tokenizer and its record."""
    model: str | None = None
    """A folder that `train` or `align` filled, or that holds a GPT-2 in
    Hugging Face's format; else the book's own model."""
    data: str = WORLD
    """"world", or a file of JSON Lines."""
    validation: Path | None = None
    """A file like the data's to measure on; the world brings its own."""
    training: TrainConfig = field(default_factory=TrainConfig)
    lora_rank: int | None = None
    """Learn adapters of this rank alone, by AdamW; they are merged into the
    model, and kept beside it."""
    resume: bool = False
    """Go on with the run that was stopped in the folder."""
    export: bool = False
    """Write the model in Hugging Face's format too, with a chat template."""

    stage: ClassVar[str]
    number: ClassVar[str]  # what a run should change, of examples {}

    def run(self) -> str:
        runs.check_folder(self.out, self.resume)
        model, tokenizer = self.begun()
        learned, judged = self.examples()
        shown = self.shown(model, tokenizer, learned, judged)
        before = self.score(model, tokenizer, shown)
        settings = self.settings() | {"weights": lora.fingerprint(model)}
        runs.begin(self.out, settings, self.names())
        try:
            tuned = self.tuned(model, tokenizer, learned, judged)
        except KeyboardInterrupt:
            if (self.out / CHECKPOINT_NAME).is_file():
                note("the same command with --resume goes on from here")
            raise
        if self.lora_rank is not None:
            lora.save(self.out / runs.ADAPTERS, tuned.model)
            lora.merge(tuned.model)
        after = self.score(tuned.model, tokenizer, shown)
        whose = "learned from" if judged is None else "held out"
        outcome = Outcome(self.number.format(whose), before, after)
        self.keep(tuned, outcome)
        return self.line(tuned, outcome)

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that is gone on with."""
        chosen = {
            k: v for k, v in asdict(self).items() if k not in NOT_THE_RUN
        }
        return {"stage": self.stage, **chosen}

    def names(self) -> dict[str, Any]:
        """What the run is made from, by the names that were given."""
        return {
            "command": f"llmbook align {self.stage}",
            **{name: str(getattr(self, name)) for name in NAMES},
        }

    def begun(self) -> tuple[GPT, Tokenizer]:
        """The model to start from; but for ``sft`` one that answers."""
        if self.model is None:
            own = aligned.load_aligned("sft")
            return own.model, own.tokenizer
        model, tokenizer = read_model(self.model)
        if CHAT_TOKENS - tokenizer.special_tokens.keys():
            raise ValueError(
                f"{self.model} holds a model without chat tokens, which "
                "answers nobody. Begin with one that does: llmbook align sft "
                f"OUT --model {self.model}"
            )
        return model, tokenizer

    def examples(self) -> tuple[list[Any], list[Any] | None]:
        """What is learned from, and what is measured on, if anything."""
        if self.data == WORLD:
            learned, judged = self.of_world(self.seed)
        else:
            learned, judged = self.read(self.data), None
        if self.validation is not None:
            judged = self.read(self.validation)
        return learned, judged

    def shown(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        learned: list[Any],
        judged: list[Any] | None,
    ) -> list[Any]:
        """What the model is scored on before and after, as it takes it.

        Raises:
            ValueError: none of it fits into the model's context.
        """
        T = model.config.context_length
        if judged is None:
            fitting = self.fitting(tokenizer, learned, T)
            found = list(islice(fitting, aligned.JUDGED))
        else:
            found = list(self.fitting(tokenizer, judged, T))
        if not found:
            raise ValueError(
                "none of the examples to measure on fits into the model's "
                f"context of {T} tokens. Give shorter ones, or another model."
            )
        return found

    @property
    def seed(self) -> int:
        """What examples of the world are drawn by."""
        return self.training.seed + runtime.seed_offset()

    def loop(self) -> dict[str, Any]:
        """What every front end hands on to the training loop."""
        training, adapters = self.training, None
        if self.lora_rank is not None:
            adapters = LoRAChoice(rank=self.lora_rank)
            training = replace(training, optimizer="adamw")
        return {
            "config": training,
            "lora": adapters,
            "run_dir": self.out,
            "resume": self.resume,
        }

    def keep(self, tuned: Tuned, outcome: Outcome) -> None:
        """Write what came out."""
        if self.export:
            folder = self.out / runs.EXPORT
            save_chat_model(tuned.model, tuned.tokenizer, folder)
        found = {
            "outcome": outcome._asdict(),
            "left_out": tuned.left_out,
            "history": tuned.history.to_dict(),
            "measured": tuned.measured,
        }
        runs.finish(self.out, tuned.model, tuned.tokenizer, found)

    def line(self, tuned: Tuned, outcome: Outcome) -> str:
        """What to tell the user."""
        history = tuned.history
        left_out = tuned.left_out
        short = f"{left_out} examples did not fit; " if left_out else ""
        return (
            f"{outcome.of}: {outcome.before:.3f} before, {outcome.after:.3f} "
            f"after {history.steps} steps and {history.seconds:.0f} s; "
            f"{short}{self.out}"
        )


@dataclass
class SFT(Alignment):
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
        return evaluate(
            grow_vocabulary(model, tokenizer.vocab_size),
            rows,
            len(rows.x),
            dtype="float32",
            loss_function=partial(packed_loss, end_of_text=end),
        )


@dataclass
class DPO(Alignment):
    """Teach a model which of two replies is better.

    By direct preference optimisation, or its kin. A line of data is
    {"prompt", "chosen", "rejected"}, the prompt a text or messages.
    """

    training: TrainConfig = field(
        default_factory=lambda: aligned.recipe("dpo").train
    )
    beta: float = 0.1
    """How dear it is to leave the first model."""
    kind: Literal["sigmoid", "robust", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0
    """The share of preferences taken to be wrong."""
    sft: float = 0.2
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
class GRPO(Alignment):
    """Let a model try, and repeat what a program found right.

    By group-relative policy optimisation, or its kin. A line of data is one
    of GSM8K's, {"question", "answer"} with "#### 7" at the end, or one of
    HumanEval's, whose tests run in the sandbox.
    """

    training: TrainConfig = field(
        default_factory=lambda: aligned.run_of(
            steps=runtime.pick(smoke=3, quick=60, laptop=400),
            batch_size=8,
            optimizer="adamw",
            rate=5e-4,
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
