"""What every model of the alignment benchmark is asked, and how it does."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmbook import running
from llmbook.alignment import (
    decode_reply,
    measures,
    world_chats,
    world_preferences,
    world_problems,
)
from llmbook.alignment.data import prompt_text
from llmbook.batching import generate_batch
from llmbook.corpus import load_corpus
from llmbook.evaluation.models import cut_at
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer

if TYPE_CHECKING:
    from benchmarks.alignment import Plan

JUDGED_SEED = "judged"  # of what is asked: no training's own
SAMPLES = 4  # answers to a sum when the reward is sampled
DRAW_SEED = 1
FRESH_SEED = 1000  # of documents: no base's own
GREEDY = ("kind", "malformed")  # of endings that are not drawn, too
LABELS = 16  # tokens that the corpus has around a prompt, at most


@dataclass(frozen=True)
class Exam:
    """What every model is asked, the same at each seed and stage.

    Args:
        plan: how much.
        tokenizer: with the chat's tokens.
        context_length: what does not fit is not asked.
    """

    plan: Plan
    tokenizer: Tokenizer
    context_length: int

    @cached_property
    def chats(self) -> dict[str, list]:
        """By name: conversations with their answers, and problems."""
        asked, seed = self.plan.asked, JUDGED_SEED
        many = {
            "question": world_chats("question", "unseen", asked, seed),
            "question_seen": world_chats("question", "seen", asked, seed),
            "instruction": world_chats("instruction", "unseen", asked, seed),
            "sum": world_chats("sum", "seen", asked, seed),
            "sum_unseen": world_chats("sum", "unseen", asked, seed),
            "function": world_problems(
                "function", "unseen", self.plan.functions, seed
            ),
        }
        T = self.context_length - LABELS
        return {
            name: measures.fitting(self.tokenizer, rows, T)
            for name, rows in many.items()
        }

    @cached_property
    def stories(self) -> list:
        """Stories to be ended."""
        choices = world_preferences(
            "unseen",
            self.plan.asked,
            JUDGED_SEED,
            self.plan.paragraphs,
        )
        stories = [choice.prompt for choice in choices]
        return measures.fitting(self.tokenizer, stories, self.context_length)

    @cached_property
    def documents(self) -> list:
        """Fresh documents of the world: no base has learned them."""
        count = self.plan.documents
        corpus = load_corpus(
            running.CORPUS, documents=20 * count, seed=FRESH_SEED
        )
        return corpus.validation[:count]

    @cached_property
    def prompts(self) -> set[str]:
        """What training is not to see; the other sides it cannot."""
        return {prompt_text(chat) for chat in self.chats["sum"]}

    def unasked(self, rows: Iterable) -> list:
        """Rows of training, without those that are asked here."""
        return [row for row in rows if prompt_text(row) not in self.prompts]


# --- what is answered ------------------------------------------------------

# Writes the answers to conversations of one kind.
Writer = Callable[..., list[str]]
PLAIN = {  # a prompt as the corpus has it
    "question": "Question: {}\nAnswer:",
    "sum": "Question: {}\nAnswer:",
    "instruction": "Instruction: {}\nResponse:",
    "function": "{}",  # the line break goes with the blanks behind it
    "ending": "{}",
}


def in_chat(model: GPT, tokenizer: Tokenizer) -> Writer:
    """Answers of a model that knows the chat's tokens."""

    def write(kind: str, chats: Sequence, **choices: Any) -> list[str]:
        return measures.replies_to(model, tokenizer, chats, **choices)

    return write


def in_plain_text(model: GPT, tokenizer: Tokenizer) -> Writer:
    """What a model writes behind prompts that stand as in the corpus."""
    end = tokenizer.end_of_text

    def write(kind: str, chats: Sequence, seed: int = 0, temperature=0.0):
        prompts = [measures.asked(row)[-1]["content"] for row in chats]
        ids = [tokenizer.encode(PLAIN[kind].format(p)) for p in prompts]
        written = []
        for first in range(0, len(ids), measures.ROWS):
            written += generate_batch(
                model,
                [[end, *row] for row in ids[first : first + measures.ROWS]],
                measures.NEW_TOKENS,
                stop_tokens=[end],
                seed=seed + first,
                temperature=temperature,
            )
        texts = [decode_reply(tokenizer, row) for row in written]
        if kind in ("function", "ending"):
            return [cut_at(text, ["\nassert "]) for text in texts]
        return [text.strip() for text in texts]

    return write


def measured(
    model: GPT, tokenizer: Tokenizer, exam: Exam, write: Writer
) -> dict[str, float]:
    """Everything that a column of the table holds, as shares and nats."""
    found: dict[str, float] = {}
    steps: dict[bool, list[bool]] = {False: [], True: []}
    for name, chats in exam.chats.items():
        kind = name.partition("_")[0]
        right = measures.judged(kind, chats, write(kind, chats))
        found[name] = mean(right)
        if kind == "sum":
            for row, good in zip(chats, right, strict=True):
                steps[row[-1]["content"].count(" = ") > 1].append(good)
    for two, name in ((False, "sum_one"), (True, "sum_two")):
        found[name] = mean(steps[two])
    rows = [row for row in exam.chats["sum"] for _ in range(SAMPLES)]
    drawn = write("sum", rows, temperature=1.0, seed=DRAW_SEED)
    found["sum_sampled"] = mean(measures.judged("sum", rows, drawn))
    found |= ended(exam.stories, write)
    greedy = ended(exam.stories, write, temperature=0.0)
    found |= {f"{name}_greedy": greedy[name] for name in GREEDY}
    found["facts"] = measures.facts_cloze(model, tokenizer).share
    found["loss"] = measures.forgetting(model, tokenizer, exam.documents)
    return found


def mean(values: Sequence[float]) -> float:
    """The mean; of nothing, 0."""
    return statistics.fmean(values) if values else 0.0


def ended(
    stories: Sequence, write: Writer, temperature: float = 1.0
) -> dict[str, float]:
    """The shares of tempers among endings, and of malformed stories."""
    choices = {"temperature": temperature, "seed": DRAW_SEED}
    replies = write("ending", stories, **choices)
    texts = [story[-1]["content"] for story in stories]
    found = measures.judged_endings(texts, replies)
    names = ("kind", "unkind", "neither", "malformed")
    return {name: getattr(found, name) / len(stories) for name in names}
