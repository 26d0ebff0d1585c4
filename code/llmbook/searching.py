"""Beam search: several unfinished texts at once, the likeliest kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmbook.batching.prefix import evaluating
from llmbook.model import GPT
from llmbook.sampling import cached_logits, check_logits, new_cache

ALPHA = 0.6  # of the length penalty: Vaswani et al. 2017, section 6.1

Penalty = Callable[[int], float]


@dataclass(frozen=True)
class Found:
    """A continuation that a search has found.

    ``ids`` are the new ones, a stop token included; ``logprob`` is their
    log-probability given the prompt, in nats, and ``score`` is that over
    the length penalty.
    """

    ids: list[int]
    logprob: float
    score: float


def wu_penalty(length: int, alpha: float = ALPHA) -> float:
    """What a log-probability of so many tokens is divided by.

    Every token makes a text less likely, so sums of log-probabilities
    prefer what ends soon. 0 for ``alpha`` leaves them as they are, 1 comes
    close to the mean a token. Source: Wu et al. 2016, equation 14.

    >>> wu_penalty(1), wu_penalty(7, alpha=1.0)
    (1.0, 2.0)
    """
    return ((5 + length) / 6) ** alpha


def extend(
    totals: Tensor, logprobs: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` likeliest texts that are one token longer, best first.

    ``totals`` (n,) are the log-probabilities of the texts so far, and
    ``logprobs`` (n, V) those of what may come next. Returns for each the
    row that it continues, the token, and its total; fewer than ``count``
    where there are no more.

    >>> rows, tokens, _ = extend(
    ...     torch.tensor([-1.0, -2.0]),
    ...     torch.tensor([[-3.0, -0.5], [-0.1, -4.0]]),
    ...     count=2,
    ... )
    >>> rows.tolist(), tokens.tolist()
    ([0, 1], [1, 0])
    """
    sums = totals[:, None] + logprobs  # (n, V)
    best = sums.flatten().topk(min(count, sums.numel()))
    V = logprobs.shape[-1]
    return best.indices // V, best.indices % V, best.values


def beam_search(
    model: GPT,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    beams: int = 4,
    stop_tokens: Sequence[int] = (),
    penalty: Penalty = wu_penalty,
) -> list[Found]:
    """The best continuations that ``beams`` texts side by side lead to.

    At most ``beams`` of them, the best score first. ``penalty`` must not
    fall with the length: the search ends once no text under way can beat
    those that have ended, with a stop token or at the limit.

    Raises:
        ValueError: no prompt, a number out of range, too little context.
    """
    ids = checked_prompt(model, prompt, max_new_tokens, beams)  # (1, T)
    start, stops = ids.shape[1], torch.tensor(list(stop_tokens))
    cache = new_cache(model, 1, start + max_new_tokens)
    count = beams * (1 + len(stops))  # so that enough of them do not end
    totals, found = torch.zeros(1, dtype=torch.double), []
    with evaluating(model):
        for length in range(1, max_new_tokens + 1):
            logits = cached_logits(model, ids, cache).double().cpu()
            check_logits(logits)
            logprobs = logits.log_softmax(dim=-1)
            rows, tokens, sums = extend(totals, logprobs, count)
            longer = torch.cat([ids[rows], tokens.to(ids)[:, None]], dim=1)
            ended = torch.isin(tokens, stops) | (length == max_new_tokens)
            ends = ended[:beams].nonzero()[:, 0]
            found += scored(longer[ends, start:], sums[ends], penalty)
            found = sorted(found, key=lambda one: -one.score)[:beams]
            go = (~ended).nonzero()[:beams, 0]
            ids, totals = longer[go], sums[go]
            if is_over(found, beams, totals, penalty(max_new_tokens)):
                return found
            cache.select(rows[go])
    return found


def scored(ids: Tensor, sums: Tensor, penalty: Penalty) -> list[Found]:
    """Texts (n, T) that have ended, with their scores.

    >>> [one] = scored(torch.tensor([[5]]), torch.tensor([-2.0]), wu_penalty)
    >>> one.ids, one.score
    ([5], -2.0)
    """
    return [
        Found(text, total, total / penalty(len(text)))
        for text, total in zip(ids.tolist(), sums.tolist(), strict=True)
    ]


def is_over(
    found: list[Found], beams: int, totals: Tensor, largest_penalty: float
) -> bool:
    """Whether no text under way can still come among the best.

    ``totals`` are theirs, the highest first. A log-probability can only
    fall, and its penalty grow to the largest.

    >>> is_over([Found([1], -1.0, -1.0)], 1, torch.tensor([-3.0]), 2.0)
    True
    """
    if len(totals) == 0:
        return True
    if len(found) < beams:
        return False
    return float(totals[0]) / largest_penalty <= found[-1].score


def checked_prompt(
    model: GPT, prompt: Sequence[int], max_new_tokens: int, beams: int
) -> Tensor:
    """The prompt as ids (1, T), once everything fits together."""
    for name, value in (("max_new_tokens", max_new_tokens), ("beams", beams)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name} is {value!r}; expected a whole number from 1."
            )
    longest = model.config.context_length
    if not 0 < len(prompt) <= longest - max_new_tokens:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens and {max_new_tokens} new "
            f"ones are wanted; expected at least one token, and both within "
            f"the context of {longest}. Keep the prompt's last tokens or ask "
            "for fewer."
        )
    device = model.head_weight.device
    return torch.tensor([list(prompt)], dtype=torch.long, device=device)
