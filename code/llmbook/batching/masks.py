"""Texts side by side or end to end: where each token looks and stands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmbook.attention import Attend, causal_mask, training_attention

Ids = Sequence[int]

PAD = 0  # any id will do, for no token looks at it
SHARED = 0  # the document number of tokens that every document may see
PADDING = -1  # and of those that none may


def left_pad(
    rows: Sequence[Ids],
    pad_id: int = PAD,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows that end together: ids (B, T), and the pads (B,) before each.

    Raises:
        ValueError: there is no row, or one is empty.

    >>> ids, pads = left_pad([[5], [6, 7, 8]])
    >>> ids.tolist(), pads.tolist()
    ([[0, 0, 5], [6, 7, 8]], [2, 0])
    """
    lengths = [len(row) for row in rows]
    if not lengths or min(lengths) == 0:
        raise ValueError(
            f"got rows of {lengths} tokens; expected at least one row, and "
            "at least one token in each. To start from nothing, give the "
            "<|endoftext|> token."
        )
    pads = [max(lengths) - length for length in lengths]
    padded = [
        [pad_id] * pad + list(row) for pad, row in zip(pads, rows, strict=True)
    ]
    return (
        torch.tensor(padded, dtype=torch.long, device=device),
        torch.tensor(pads, dtype=torch.long, device=device),
    )


def right_pad(rows: Sequence[Ids], T: int, filler: int = PAD) -> Tensor:
    """Rows that begin together, filled up to ``T`` columns: (B, T).

    >>> right_pad([[5], [6, 7, 8]], T=3).tolist()
    [[5, 0, 0], [6, 7, 8]]
    """
    return torch.tensor([[*row, *[filler] * (T - len(row))] for row in rows])


def padded_mask(pads: Tensor, T: int, S: int, prefix: int = 0) -> Tensor:
    """Where the last ``T`` of ``S`` columns may look, bool (B, 1, T, S).

    At themselves and at the columns before, but not at the ``pads`` (B,)
    that stand behind the first ``prefix`` columns. A column of padding sees
    itself, for a softmax over nothing is 0 / 0.

    >>> padded_mask(torch.tensor([1]), T=3, S=3)[0, 0].int().tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    columns = torch.arange(S, device=pads.device)
    real = (columns < prefix) | (columns >= prefix + pads[:, None])  # (B, S)
    itself = columns[S - T :, None] == columns  # (T, S)
    seen = causal_mask(T, S, pads.device) & real[:, None]  # (B, T, S)
    return (seen | itself)[:, None]


def positions_of(mask: Tensor) -> Tensor:
    """The positions (B, T) for a mask (B, 1, T, S): how many one sees.

    Without oneself, so that the first token of a text is at 0.

    >>> positions_of(padded_mask(torch.tensor([2, 0]), T=4, S=4)).tolist()
    [[0, 0, 0, 1], [0, 1, 2, 3]]
    """
    return mask[:, 0].sum(dim=-1) - 1


def document_numbers(ids: Tensor, end_of_text: int) -> Tensor:
    """Which document of its row each token of ``ids`` (B, T) belongs to.

    A document begins with its ``end_of_text`` token, as the model reads it;
    what stands before the first one is document 1.

    >>> document_numbers(torch.tensor([[9, 4, 9, 5, 6]]), 9).tolist()
    [[2, 2, 3, 3, 3]]
    """
    return 1 + (ids == end_of_text).cumsum(dim=-1)


def document_mask(documents: Tensor) -> Tensor:
    """Where the tokens of packed documents may look, bool (B, 1, T, T).

    At the tokens before that have the same number in ``documents`` (B, T),
    and at those numbered 0, which all documents share.

    >>> document_mask(torch.tensor([[0, 1, 2, 2]]))[0, 0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    """
    theirs = documents[:, None, :]  # (B, 1, S)
    allowed = (documents[:, :, None] == theirs) | (theirs == SHARED)
    causal = causal_mask(documents.shape[1], device=documents.device)
    return (allowed & causal)[:, None]


def packed_positions(documents: Tensor) -> Tensor:
    """Positions (B, T) that begin again with each document.

    >>> packed_positions(torch.tensor([[1, 1, 1, 2, 2]])).tolist()
    [[0, 1, 2, 0, 1]]
    """
    return positions_of(document_mask(documents))


def within(mask: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """``mask`` (B, 1, T, S) without what is further back than a window.

    ``positions`` (B, S) are those of all columns, the last T of which ask.
    A token sees the ``window`` newest up to itself; None is no limit.

    >>> mask = document_mask(torch.tensor([[1, 1, 1]]))
    >>> within(mask, torch.arange(3)[None], window=2)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    if window is None:
        return mask
    asking = positions[:, -mask.shape[-2] :, None]  # (B, T, 1)
    distance = asking - positions[:, None]  # (B, T, S)
    return mask & (distance < window)[:, None]


def packed_inputs(
    documents: Tensor,
    n_layer: int,
    window: int | None = None,
    dropout_p: float = 0.0,
) -> dict[str, Any]:
    """``attends`` and ``positions`` for ``GPT.forward``, from one mask.

    Each of the packed ``documents`` (B, T) then has the logits that it has
    alone; ``window`` is the model's. ``dropout_p`` is the share of the
    weights of attention set to zero: ``GPT.attention_dropout`` to train.
    """
    mask = document_mask(documents)
    positions = positions_of(mask)
    seen = within(mask, positions, window)
    attends = masked_attends(seen, n_layer, dropout_p)
    return {"attends": attends, "positions": positions}


def masked_attends(
    mask: Tensor, n_layer: int, dropout_p: float = 0.0
) -> list[Attend]:
    """One function a layer that looks where ``mask`` (B, 1, T, S) allows."""
    attend = partial(training_attention, mask=mask, dropout_p=dropout_p)
    return [attend] * n_layer
