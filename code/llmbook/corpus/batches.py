"""Windows of text as inputs and targets, in an order that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch


class Batches:
    """Batches ``(x, y)`` cut from one long row of token ids.

    ``x`` and ``y`` are int64 of shape (B, T), and ``y`` is ``x`` shifted by
    one: ``y[:, t]`` is the token after ``x[:, t]``. One epoch cuts the row
    into windows that do not overlap, beginning at a random offset of its
    own, and visits each once in random order; the windows left over at the
    end of an epoch, fewer than a batch, are not visited. Every batch is a
    function of ``(seed, step)`` alone, so a run can be resumed anywhere.

    Args:
        tokens: ids, shape (N,): an array, a memory map, a tensor or a list.
        context_length: tokens T in a window.
        batch_size: windows B in a batch.
        seed: fixes offsets and orders.

    Raises:
        ValueError: fewer tokens than one batch needs.

    >>> x, y = Batches(list(range(100)), 4, 2, seed=1).at(0)
    >>> x.shape, bool((y == x + 1).all())
    (torch.Size([2, 4]), True)
    """

    def __init__(
        self,
        tokens: Sequence[int] | np.ndarray | torch.Tensor,
        context_length: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("context_length", context_length),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1.")
        if not isinstance(tokens, np.ndarray):
            tokens = np.asarray(tokens)
        if tokens.ndim != 1:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}; expected one row "
                "of ids, shape (N,)."
            )
        if len(tokens) <= context_length:
            raise ValueError(
                f"the text has {len(tokens)} tokens and a window needs "
                f"{context_length + 1} (context_length {context_length} and "
                "one to predict). Take a longer text or a shorter context."
            )
        self.tokens = tokens
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        self.offsets = min(context_length, len(tokens) - context_length)
        windows = (len(tokens) - self.offsets) // context_length
        if windows < batch_size:
            raise ValueError(
                f"the text has {windows} windows of {context_length} tokens; "
                f"one batch needs {batch_size}. Take a longer text, a "
                "shorter context or a smaller batch."
            )
        self.windows = windows
        self._epoch: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every window is seen at most once."""
        return self.windows // self.batch_size

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step: x and y, both (B, T)."""
        if step < 0:
            raise ValueError(f"step is {step}; expected 0 or more.")
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self.batch_size
        starts = self.starts(epoch)[first : first + self.batch_size]
        reach = np.arange(self.context_length + 1)
        ids = self.tokens[starts[:, None] + reach]  # (B, T + 1)
        rows = torch.from_numpy(ids.astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def starts(self, epoch: int) -> np.ndarray:
        """Where the windows of an epoch begin, in the order of visits."""
        if self._epoch is None or self._epoch[0] != epoch:
            source = np.random.default_rng((self.seed, epoch))
            offset = int(source.integers(self.offsets))
            order = source.permutation(self.windows)
            self._epoch = (epoch, offset + order * self.context_length)
        return self._epoch[1]

    def start(
        self, step: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches from ``step`` on, without end."""
        while True:
            yield self.at(step)
            step += 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.start(0)


class DocumentBatches(Batches):
    """Batches whose windows each begin where a document begins.

    The first token of every window is the end-of-text token that stands
    before a document, so a model is never asked to guess from the middle of
    a story whose beginning it was not shown. A window goes on into the
    documents that follow and ends where it is full. One epoch begins once
    at each document; windows may overlap, for most documents are shorter
    than a window. The rest is as in :class:`Batches`.

    Args:
        end_of_text: the id that ends each document in ``tokens``.

    Raises:
        ValueError: fewer documents to begin at than a batch has windows.

    >>> row = [9, 1, 2, 9, 3, 4, 5, 9, 6, 7, 9]
    >>> DocumentBatches(row, 4, 2, end_of_text=9).at(0)[0][:, 0].tolist()
    [9, 9]
    """

    def __init__(
        self,
        tokens: Sequence[int] | np.ndarray | torch.Tensor,
        context_length: int,
        batch_size: int,
        seed: int = 0,
        *,
        end_of_text: int,
    ) -> None:
        super().__init__(tokens, context_length, 1, seed)
        last = len(self.tokens) - context_length - 1
        places = np.flatnonzero(self.tokens[: last + 1] == end_of_text)
        if len(places) < batch_size:
            raise ValueError(
                f"{len(places)} documents follow an end-of-text token (id "
                f"{end_of_text}) with {context_length} tokens after it; one "
                f"batch needs {batch_size}. Take more documents, a shorter "
                "context or a smaller batch."
            )
        self.places = places
        self.batch_size, self.windows = batch_size, len(places)

    def starts(self, epoch: int) -> np.ndarray:
        """The places of one epoch's windows, in the order of visits."""
        if self._epoch is None or self._epoch[0] != epoch:
            source = np.random.default_rng((self.seed, epoch))
            self._epoch = (epoch, source.permutation(self.places))
        return self._epoch[1]
