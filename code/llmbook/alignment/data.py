"""Conversations, preferences and problems, cut from the world of Lull.

What stands on the side ``"seen"`` is there to learn from, ``"unseen"`` to be
judged by: it brings together what training never brings together.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from llmbook.corpus.benchmarks import FINAL, CodeProblem
from llmbook.corpus.world import Side, files
from llmbook.tokenizer import Tokenizer

from .chat import ASSISTANT, USER, Conversation
from .sequences import Preference

KINDS = ("question", "instruction", "sum", "function", "ending")
PROBLEMS = ("sum", "function")  # kinds with a right answer that is checked
JOINED = ("question", "instruction")  # short enough for several turns
# Of the conversations in those kinds: how many have one, two, three turns.
TURNS = {1: 0.6, 2: 0.25, 3: 0.15}
PATIENCE = 3_000  # draws in a row without anything new: that was all
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


def exchange(prompt: str, reply: str) -> Conversation:
    """A conversation of one turn.

    >>> [message["role"] for message in exchange("Who hums?", "Ona.")]
    ['user', 'assistant']
    """
    return [
        {"role": USER, "content": prompt},
        {"role": ASSISTANT, "content": reply},
    ]


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
    exchanges = _exchanges(kind, side, f"chats/{seed}")
    return distinct(exchanges, count, f"prompts of the kind {kind!r}")


def training_chats(
    shares: Mapping[str, int],
    seed: int | str = 0,
    turns: Mapping[int, float] = TURNS,
) -> list[Conversation]:
    """Conversations to learn from, in random order.

    Args:
        shares: how many prompts of each kind.
        turns: how often conversations have how many turns, relatively.
            Only questions and instructions are joined.

    Raises:
        ValueError: as in :func:`world_chats`.

    >>> sum(len(c) // 2 for c in training_chats({"question": 5, "sum": 2}))
    7
    """
    source = random.Random(f"training/{seed}")
    short, others = [], []
    for kind, count in shares.items():
        chats = world_chats(kind, "seen", count, f"{seed}/train")
        (short if kind in JOINED else others).extend(chats)
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
    side: Side, count: int, seed: int | str = 0
) -> list[Choice]:
    """Stories up to their last lines, with a kind ending and an unkind one.

    The kind one is preferred. Prompts differ, and so do the endings of one.

    Raises:
        ValueError: the world has fewer; says how many.
    """
    rows = files.preferences(side, f"choices/{seed}")
    choices = (
        Choice(exchange(row["prompt"], "")[:1], row["chosen"], row["rejected"])
        for row in rows
    )
    return distinct(choices, count, "stories")


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
    raise NotImplementedError


def encode_preference(
    tokenizer: Tokenizer,
    prompt: Conversation,
    chosen: str,
    rejected: str,
    context_length: int,
) -> Preference | None:
    """A preference as ids, or None if one of the replies does not fit.

    To each reply belongs the ``<|end|>`` after it.
    """
    raise NotImplementedError


def distinct(rows: Iterable[Row], count: int, what: str) -> list[Row]:
    raise NotImplementedError


def _exchanges(kind: str, side: Side, seed: str) -> Iterator[Conversation]:
    raise NotImplementedError


def _check_kind(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ValueError(
            f"kind is {kind!r}; expected one of {', '.join(known)}."
        )
