"""Answers as rows of tokens, and how probable a model finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.batching import (
    packed_inputs,
    right_pad,
    score_pairs,
)
from llmbook.model import GPT

Ids = Sequence[int]

IGNORED = -100  # a target that is not learned, as in GPT.forward
UNITS = ("answer", "token")  # what a log-probability is counted per


class Preference(NamedTuple):
    """A prompt and two answers as ids, the first preferred to the second.

    To an answer belongs the token that ends it, which is learned too.
    ``margin`` is by how much it is preferred, where somebody said so.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids
    margin: float = 0.0

    @property
    def answers(self) -> tuple[Ids, Ids]:
        """Both, the chosen one first."""
        return self.chosen, self.rejected


def answer_rows(pairs: Sequence[tuple[Ids, Ids]]) -> tuple[Tensor, Tensor]:
    """Prompts and their answers as inputs and targets, int64 (B, T).

    Rows begin together and are filled up behind, so that each token has the
    position and the past that it has alone. Where the next token is none of
    the answer's, the target is :data:`IGNORED`.

    Raises:
        ValueError: there is no pair, or a text of one is empty.

    >>> x, y = answer_rows([([5, 6], [7, 8]), ([5], [9])])
    >>> x.tolist(), y.tolist()
    ([[5, 6, 7], [5, 0, 0]], [[-100, 7, 8], [9, -100, -100]])
    """
    for prompt, answer in pairs or [((), ())]:
        if not prompt or not answer:
            raise ValueError(
                f"got a prompt of {len(prompt)} tokens and an answer of "
                f"{len(answer)}; expected at least one pair, with at least "
                "one token each. Where nothing is asked, give the "
                "<|endoftext|> token."
            )
    T = max(len(prompt) + len(answer) for prompt, answer in pairs) - 1
    inputs = [[*prompt, *answer[:-1]] for prompt, answer in pairs]
    targets = [[*[IGNORED] * (len(p) - 1), *answer] for p, answer in pairs]
    return right_pad(inputs, T), right_pad(targets, T, IGNORED)


def token_logprobs(
    model: GPT, x: Tensor, y: Tensor, documents: Tensor | None = None
) -> Tensor:
    """ln p of each target after the tokens up to it, in nats, (B, T).

    ``x`` and ``y`` are (B, T); where a target is :data:`IGNORED` the result
    is 0, and the vocabulary is not scored. ``documents`` (B, T) numbers
    the texts of rows that hold several (see
    :func:`llmbook.batching.document_mask`); none then sees another.

    Raises:
        ValueError: ``y`` has another shape than ``x``.

    >>> from llmbook.config import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=9, n_head=1, n_embd=8))
    >>> x, y = answer_rows([([5, 6], [7, 8])])
    >>> (token_logprobs(model, x, y) < 0).tolist()
    [[False, True, True]]
    """
    if x.shape != y.shape:
        raise ValueError(
            f"got targets {tuple(y.shape)} for ids {tuple(x.shape)}; "
            f"expected one a token, {IGNORED} where none is learned."
        )
    packed = {}
    if documents is not None:
        c = model.config
        packed = packed_inputs(
            documents, c.n_layer, c.window, model.attention_dropout
        )
    answers = y != IGNORED
    hidden = model.hidden(x, **packed)[answers]  # (N, C)
    logits = F.linear(hidden, model.head_weight).float()  # (N, V)
    found = -F.cross_entropy(logits, y[answers], reduction="none")
    return found.new_zeros(y.shape).masked_scatter(answers, found)


def sequence_logprobs(
    logprobs: Tensor, mask: Tensor, per: str = "answer"
) -> Tensor:
    """ln p of each row's answer, (..., T) to (...), in nats.

    The sum where ``mask`` (..., T) is true; with ``per="token"`` the mean.

    Raises:
        ValueError: another ``per``.

    >>> logprobs = torch.tensor([[-9.0, -1.0, -2.0]])
    >>> mask = torch.tensor([[False, True, True]])
    >>> sequence_logprobs(logprobs, mask).item()
    -3.0
    >>> sequence_logprobs(logprobs, mask, per="token").item()
    -1.5
    """
    _check_unit(per)
    total = (logprobs * mask).sum(dim=-1)
    return total if per == "answer" else total / lengths(mask)


def document_logprobs(
    logprobs: Tensor, mask: Tensor, documents: Tensor, per: str = "answer"
) -> Tensor:
    """ln p of each answer in packed rows, (B, T) to (B, D), in nats.

    Column d is of the tokens that ``documents`` (B, T) numbers d + 1, and 0
    where a row has no such answer. Otherwise as
    :func:`sequence_logprobs`.

    >>> logprobs = torch.tensor([[-1.0, -2.0, -4.0]])
    >>> documents = torch.tensor([[1, 1, 2]])
    >>> document_logprobs(logprobs, logprobs < 0, documents).tolist()
    [[-3.0, -4.0]]
    """
    _check_unit(per)
    numbers = 1 + torch.arange(int(documents.max()), device=documents.device)
    theirs = documents[:, None] == numbers[:, None]  # (B, D, T)
    return sequence_logprobs(logprobs[:, None], mask[:, None] & theirs, per)


def lengths(mask: Tensor) -> Tensor:
    """Tokens that count in each row of ``mask`` (..., T); at least 1.

    >>> lengths(torch.tensor([[True, True], [False, False]])).tolist()
    [2, 1]
    """
    return mask.sum(dim=-1).clamp(min=1)


def preference_logprobs(
    model: GPT, preferences: Sequence[Preference]
) -> Tensor:
    """ln p of both answers to each prompt, (N, 2): chosen, then rejected.

    Without gradients, and with the prompt read once for the two: for the
    reference model, whose opinion is asked once before training.

    >>> from llmbook.config import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=9, n_head=1, n_embd=8))
    >>> preference_logprobs(model, [Preference([1], [2, 3], [4])]).shape
    torch.Size([1, 2])
    """
    pairs = [(p.prompt, answer) for p in preferences for answer in p.answers]
    scores = score_pairs(model, pairs)
    return torch.stack([s.logprobs.sum() for s in scores]).view(-1, 2)


def numbers_at(
    step: int, count: int, batch_size: int, seed: int = 0
) -> list[int]:
    """Which of ``count`` examples the batch of a step holds.

    Each once an epoch, in random order; those left over at an epoch's end,
    fewer than a batch, are not visited. A function of (seed, step) alone.

    Raises:
        ValueError: there are fewer examples than a batch needs.

    >>> sorted(numbers_at(0, 4, 2) + numbers_at(1, 4, 2))
    [0, 1, 2, 3]
    """
    if not 1 <= batch_size <= count or step < 0:
        raise ValueError(
            f"got step {step} and batches of {batch_size} from {count} "
            "examples; expected a step from 0, and batches of at least one "
            "and at most all. Take smaller batches or more examples."
        )
    epoch, within = divmod(step, count // batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[within * batch_size :][:batch_size].tolist()


def _check_unit(per: str) -> None:
    if per not in UNITS:
        raise ValueError(f"per is {per!r}; expected one of {UNITS}.")
