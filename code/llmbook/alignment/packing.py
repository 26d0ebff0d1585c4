"""Conversations end to end in rows, so that little is computed for nothing.

Each conversation sees itself alone (:mod:`llmbook.batching`), and only what
the assistant wrote is learned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from llmbook.batching import right_pad

from .chat import ChatIds
from .sequences import IGNORED, numbers_at


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which texts share a row of ``room`` tokens, by their numbers.

    The longest first, each into the fullest row that still takes it: never
    more than about 11/9 of the rows needed (Johnson 1973), and no text is
    cut. Source: Ding et al. 2024, https://arxiv.org/abs/2404.10830, the
    section "Best-fit Packing".

    Raises:
        ValueError: a text is longer than a row.

    >>> best_fit([2, 5, 3, 4], room=7)
    [[1, 0], [3, 2]]
    """
    if max(lengths, default=0) > room:
        raise ValueError(
            f"a text has {max(lengths)} tokens and a row {room}. Cut the "
            "texts first, with encode_example()."
        )
    rows: list[list[int]] = []
    left = defaultdict(list)  # rows by the room that is left in them
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        spaces = (s for s in range(lengths[n], room) if left[s])
        space = next(spaces, room)
        if space == room:  # no row that is begun takes it
            left[room].append(len(rows))
            rows.append([])
        row = left[space].pop(0)
        rows[row].append(n)
        left[space - lengths[n]].append(row)
    return rows


def inputs_and_targets(chat: ChatIds) -> tuple[list[int], list[int]]:
    """What the model reads, and after each token what it should say.

    Both are one shorter than the conversation. Where the next token is not
    the assistant's, the target is -100 and counts for nothing.

    >>> inputs_and_targets(ChatIds([7, 8, 9], [False, False, True]))
    ([7, 8], [-100, 9])
    """
    ids, written = chat
    targets = [
        i if mine else IGNORED for i, mine in zip(ids, written, strict=True)
    ]
    return ids[:-1], targets[1:]


def pack(
    chats: Sequence[ChatIds], context_length: int, end_of_text: int
) -> tuple[Tensor, Tensor]:
    """Rows of conversations: inputs and targets, both int64 (N, T).

    What is left of a row is filled with ``end_of_text``. Each of those is a
    document of its own that nobody else sees and that learns nothing.

    Raises:
        ValueError: a conversation is too long, or none of its tokens is
            the assistant's.
    """
    pairs = [inputs_and_targets(chat) for chat in chats]
    for n, (_, targets) in enumerate(pairs):
        if set(targets) <= {IGNORED}:
            raise ValueError(
                f"conversation {n} has no token that the assistant wrote, so "
                "there is nothing to learn from it. Leave it out."
            )
    rows = best_fit([len(x) for x, _ in pairs], context_length)
    inputs = [[i for n in row for i in pairs[n][0]] for row in rows]
    targets = [[i for n in row for i in pairs[n][1]] for row in rows]
    return (
        right_pad(inputs, context_length, end_of_text),
        right_pad(targets, context_length, IGNORED),
    )


class PackedChats:
    """Batches ``(x, y)`` of packed conversations, both int64 (B, T).

    One epoch visits every row once, in random order; rows that fill no
    batch wait for another epoch. A batch is a function of ``(seed, step)``
    alone, so that a run can be resumed anywhere.

    Args:
        chats: as :func:`~llmbook.alignment.chat.encode_example` gives them.
        context_length: tokens T in a row.
        batch_size: rows B in a batch.
        end_of_text: the id that begins each conversation.
        seed: fixes the order of the rows.

    Raises:
        ValueError: as in :func:`pack`, or fewer rows than one batch needs.
    """

    def __init__(
        self,
        chats: Sequence[ChatIds],
        context_length: int,
        batch_size: int,
        end_of_text: int,
        seed: int = 0,
    ) -> None:
        self.x, self.y = pack(chats, context_length, end_of_text)
        self.batch_size, self.seed = batch_size, seed
        if not 1 <= batch_size <= len(self.x):
            raise ValueError(
                f"batch_size is {batch_size}; the conversations fill "
                f"{len(self.x)} rows of {context_length} tokens. Take a "
                "smaller batch, at least 1, or more conversations."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every row is seen at most once."""
        return len(self.x) // self.batch_size

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step."""
        rows = numbers_at(step, len(self.x), self.batch_size, self.seed)
        return self.x[rows], self.y[rows]
