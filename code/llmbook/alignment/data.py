"""Conversations, preferences and problems, cut from the world of Lull.

What stands on the side ``"seen"`` is there to learn from, ``"unseen"`` to be
judged by: it brings together what training never brings together.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from llmbook.corpus.benchmarks import FINAL, CodeProblem
from llmbook.corpus.world import Side, files, functions
from llmbook.tokenizer import Tokenizer

from .chat import (
    ASSISTANT,
    END_OF_TURN,
    USER,
    Conversation,
    Message,
    encode_prompt,
)
from .sequences import Preference

KINDS = ("question", "instruction", "sum", "function", "ending")
PROBLEMS = ("sum", "function")  # kinds with a right answer that is checked
JOINED = ("question", "instruction")  # short enough for several turns
# Of the conversations in those kinds: how many have one, two, three turns.
TURNS = {1: 0.6, 2: 0.25, 3: 0.15}
PATIENCE = 3_000  # draws in a row without anything new: that was all
BREAK = "\n\n"  # between two paragraphs of a story
TESTS = "\nassert "  # begins the lines behind a function of the corpus

Row = TypeVar("Row")


class Choice(NamedTuple):
    """A prompt, and of two replies to it the one that is preferred."""

    prompt: Conversation
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Problem:
    """A prompt whose replies can be checked.

    ``answer`` is what the check asks for: of a ``"sum"`` the number, as
    text; of a ``"function"`` its tests, a
    :class:`~llmbook.corpus.benchmarks.CodeProblem`, which the reply goes on
    from.
    """

    kind: str
    messages: Conversation
    answer: str | CodeProblem


def user(content: str) -> Message:
    """A message of the user's."""
    return {"role": USER, "content": content}


def exchange(prompt: str, reply: str) -> Conversation:
    """A conversation of one turn.

    >>> [message["role"] for message in exchange("Who hums?", "Ona.")]
    ['user', 'assistant']
    """
    return [user(prompt), {"role": ASSISTANT, "content": reply}]


def world_chats(
    kind: str, side: Side, count: int, seed: int | str = 0
) -> list[Conversation]:
    """Different prompts of one kind, each with its answer.

    An ``"ending"`` is kind or unkind, one as often as the other, and begins
    with the blank that joins it to its story.

    Raises:
        ValueError: the kind is none of :data:`KINDS`, or the world has
            fewer prompts of it; says how many.

    >>> world_chats("question", "unseen", 1)[0][1]["role"]
    'assistant'
    """
    _check_kind(kind, KINDS)
    chats = exchanges(kind, side, f"chats/{seed}")
    return distinct(chats, count, f"prompts of the kind {kind!r}")


def training_chats(
    shares: Mapping[str, int],
    seed: int | str = 0,
    turns: Mapping[int, float] = TURNS,
) -> list[Conversation]:
    """Conversations to learn from, in random order.

    The world has few different questions. One that comes again may be
    answered in other words.

    Args:
        shares: how many prompts of each kind.
        turns: how often conversations have how many turns, relatively.
            Only questions and instructions are joined.

    Raises:
        ValueError: a kind is none of :data:`KINDS`.

    >>> sum(len(c) // 2 for c in training_chats({"question": 5, "sum": 2}))
    7
    """
    source = random.Random(f"training/{seed}")
    short: list[Conversation] = []
    others: list[Conversation] = []
    for kind, count in shares.items():
        _check_kind(kind, KINDS)
        chats = exchanges(kind, "seen", f"training/{seed}")
        kept = short if kind in JOINED else others
        kept.extend(itertools.islice(chats, count))
    source.shuffle(short)
    chats = [*others, *joined(short, turns, source)]
    source.shuffle(chats)
    return chats


def joined(
    chats: Iterable[Conversation],
    turns: Mapping[int, float],
    source: random.Random,
) -> Iterator[Conversation]:
    """The same exchanges as conversations of several turns.

    >>> hums = [exchange("Who hums?", "Ona.")] * 5
    >>> [len(c) for c in joined(hums, {2: 1.0}, random.Random(0))]
    [4, 4, 2]
    """
    left = iter(chats)
    while True:
        (wanted,) = source.choices(list(turns), list(turns.values()))
        taken = list(itertools.islice(left, wanted))
        if not taken:
            return
        yield [message for chat in taken for message in chat]


def world_preferences(
    side: Side,
    count: int,
    seed: int | str = 0,
    paragraphs: int | None = None,
) -> list[Choice]:
    """Stories up to their last lines, with a kind ending and an unkind one.

    The kind one is preferred. No prompt comes twice.

    Args:
        paragraphs: keep the last so many of each story, for a model that
            cannot read it whole; what is missing may be asked for at the
            end, so such stories are no measure of a model.

    Raises:
        ValueError: the world has fewer; says how many.
    """
    choices = (
        Choice(
            [user(last_paragraphs(row["prompt"], paragraphs))],
            row["chosen"],
            row["rejected"],
        )
        for row in files.preferences(side, f"choices/{seed}")
    )
    return distinct(choices, count, "stories")


def last_paragraphs(story: str, count: int | None) -> str:
    """The end of a story; all of it for None.

    >>> last_paragraphs("Once.\\n\\nThen.\\n\\nNow.", 2)
    'Then.\\n\\nNow.'
    """
    paragraphs = story.split(BREAK)
    return BREAK.join(paragraphs[-(count or len(paragraphs)) :])


def world_problems(
    kind: str, side: Side, count: int, seed: int | str = 0
) -> list[Problem]:
    """Different sums or functions, with what a reply is checked by.

    Raises:
        ValueError: the kind is none of :data:`PROBLEMS`, or the world has
            fewer; says how many.

    >>> world_problems("sum", "unseen", 1)[0].answer.isdecimal()
    True
    """
    _check_kind(kind, PROBLEMS)
    make = sum_problems if kind == "sum" else function_problems
    problems = make(side, f"problems/{seed}")
    return distinct(problems, count, f"problems of the kind {kind!r}")


def encode_preference(
    tokenizer: Tokenizer,
    prompt: Conversation,
    chosen: str,
    rejected: str,
    context_length: int,
) -> Preference | None:
    """A preference as ids, or None if one of the replies does not fit.

    To each reply belongs the ``<|end|>`` after it. Nothing is ever cut.

    Raises:
        ValueError: the prompt is no conversation that ends with the user's
            message, or the tokenizer lacks a chat token.
    """
    ids = encode_prompt(tokenizer, prompt, room=sys.maxsize)
    end = tokenizer.special_tokens[END_OF_TURN]
    replies = [
        [*tokenizer.encode(reply, on_special="text"), end]
        for reply in (chosen, rejected)
    ]
    if len(ids) + max(map(len, replies)) - 1 > context_length:
        return None  # the last id is a target only
    return Preference(ids, *replies)


def exchanges(kind: str, side: Side, seed: str) -> Iterator[Conversation]:
    """Endless prompts of one kind with their answers."""
    if kind == "ending":
        source = random.Random(f"{seed}/{side}")
        for row in files.preferences(side, seed):
            temper = source.choice(("chosen", "rejected"))
            yield exchange(row["prompt"], row[temper])
    for written in files.draw(files.only(kind), f"{seed}/{side}", side):
        if kind == "function":
            body = written.answer.partition(TESTS)[0]
            yield exchange(written.prompt.rstrip("\n"), body.rstrip("\n"))
        else:
            yield exchange(
                files.bare(written.prompt), files.bare(written.answer)
            )


def sum_problems(side: Side, seed: str) -> Iterator[Problem]:
    """Endless sums with their results."""
    for prompt, worked in exchanges("sum", side, seed):
        result = worked["content"].rpartition(FINAL)[2].strip()
        yield Problem("sum", [prompt], result)


def function_problems(side: Side, seed: str) -> Iterator[Problem]:
    """Endless functions with their tests."""
    for number in itertools.count():
        (row,) = functions.humaneval_rows(side, 1, f"{seed}/{number}")
        code = CodeProblem(**{**row, "task_id": f"Lull/{number}"})
        yield Problem("function", [user(code.prompt.rstrip("\n"))], code)


def distinct(rows: Iterable[Row], count: int, what: str) -> list[Row]:
    """The first ``count`` rows whose prompts differ.

    Raises:
        ValueError: it looks as if there were fewer: nothing new came for
            :data:`PATIENCE` rows.

    >>> distinct([exchange(text, "") for text in "aab"], 2, "letters")[1][0]
    {'role': 'user', 'content': 'b'}
    """
    if count < 0:
        raise ValueError(f"count is {count}; expected 0 or more.")
    kept: dict[str, Row] = {}
    last_new = 0
    for number, row in enumerate(rows):
        if len(kept) == count:
            break
        if number - last_new > PATIENCE:
            raise ValueError(
                f"{count} different {what} are asked for, and the world has "
                f"{len(kept)}: {PATIENCE} more draws brought nothing new. "
                "Ask for fewer."
            )
        before = len(kept)
        kept.setdefault(prompt_text(row), row)
        last_new = number if len(kept) > before else last_new
    return list(kept.values())


def prompt_text(row: Row) -> str:
    """What the user asks first, in a conversation, choice or problem."""
    if isinstance(row, Choice):
        return row.prompt[0]["content"]
    return (row.messages if isinstance(row, Problem) else row)[0]["content"]


def _check_kind(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ValueError(
            f"kind is {kind!r}; expected one of {', '.join(known)}."
        )
