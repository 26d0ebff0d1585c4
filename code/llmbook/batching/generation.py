"""Many continuations at once, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.model import GPT
from llmbook.sampling import penalise, sample

from .masks import Ids, left_pad, positions_of
from .prefix import PaddedCache, Prefix, evaluating, without

SEEDS = 2**62  # where nobody gives a seed, one below this is drawn


def generate_batch(
    model: GPT,
    prompts: Sequence[Ids],
    max_new_tokens: int,
    *,
    prefix: Prefix | None = None,
    stop_tokens: Sequence[int] = (),
    stop: Callable[[list[int]], bool] | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **choices: float | None,
) -> list[list[int]]:
    """The continuation of each prompt, as the ids that are new.

    Row i gets what :func:`llmbook.sampling.generate` gives it alone with
    ``seed + i``, whatever its neighbours. A row that is done leaves.

    Args:
        prompts: rows of ids, of any lengths.
        max_new_tokens: the most tokens added to each.
        prefix: what all prompts begin with, read before.
        stop_tokens: ids after which a row ends; the stop token is kept.
        stop: says of a row's new ids whether it ends there.
        seed, generator: at most one; a generator draws the seed.
        choices: ``temperature`` (0 is greedy), ``top_k``, ``top_p``,
            ``min_p``, ``repetition_penalty``.

    Raises:
        ValueError: a prompt is empty or leaves no room for the new tokens.
    """
    _check_room(model, prompts, max_new_tokens)
    rows = _Rows(model, prompts, max_new_tokens, prefix)
    sources = _sources(len(prompts), seed, generator)
    with evaluating(model):
        for _ in range(max_new_tokens):
            rows.step(sources, **choices)
            rows.leave(stop_tokens, stop)
            if not rows.going:
                break
    return rows.new


class _Rows:
    """Rows under way: the new ids of all, the cache of those still going."""

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        prefix: Prefix | None,
    ) -> None:
        rest = [without(prefix, prompt) for prompt in prompts]
        if prefix is not None and not all(map(len, rest)):
            raise ValueError(
                f"a prompt is the prefix of {len(prefix)} tokens and no more, "
                "so none is left to write on from. Make the prefix a token "
                "shorter, as common_prefix() does."
            )
        self.ids, pads = left_pad(rest, device=model.head_weight.device)
        columns = len(prefix or ()) + self.ids.shape[1] + max_new_tokens
        self.cache = PaddedCache(model, pads, columns, prefix)
        self.model, self.prompts = model, prompts
        self.new: list[list[int]] = [[] for _ in prompts]
        self.going = list(range(len(prompts)))

    def step(
        self,
        sources: Sequence[torch.Generator],
        repetition_penalty: float = 1.0,
        **choices: float | None,
    ) -> None:
        """One more id for every row still going."""
        mask = self.cache.mask(self.ids.shape[1])
        x = self.model.hidden(
            self.ids,
            attends=self.cache.masked_attends(mask),
            positions=positions_of(mask),
        )
        logits = F.linear(x[:, -1], self.model.head_weight)  # (B, V)
        going = [sources[row] for row in self.going]
        logits = self._penalised(logits.cpu(), repetition_penalty)
        drawn = _draw(logits, going, **choices)
        for row, token in zip(self.going, drawn, strict=True):
            self.new[row].append(token)
        self.ids = torch.tensor(drawn, device=self.ids.device)[:, None]

    def _penalised(self, logits: Tensor, penalty: float) -> Tensor:
        """Each row's ``logits`` (B, V), by the tokens of its own text."""
        if penalty == 1:
            return logits
        seen = [[*self.prompts[row], *self.new[row]] for row in self.going]
        rows = zip(logits.split(1), seen, strict=True)
        return torch.cat(
            [penalise(row, torch.tensor([ids]), penalty) for row, ids in rows]
        )

    def leave(self, stop_tokens: Sequence[int], stop: Callable | None) -> None:
        """Rows that have come to their end drop out."""
        new = [self.new[row] for row in self.going]
        left = [
            n
            for n, ids in enumerate(new)
            if ids[-1] not in stop_tokens and not (stop and stop(ids))
        ]
        if len(left) == len(self.going):
            return
        self.going = [self.going[n] for n in left]
        self.ids = self.ids[left]
        self.cache.keep(left)


def _draw(
    logits: Tensor,
    sources: Sequence[torch.Generator],
    **choices: float | None,
) -> list[int]:
    """An id for each row of ``logits`` (B, V), each from its own source."""
    if choices.get("temperature") == 0:
        return sample(logits, **choices).tolist()
    lines = zip(logits.split(1), sources, strict=True)
    return [int(sample(line, source, **choices)) for line, source in lines]


def _sources(
    count: int, seed: int | None, generator: torch.Generator | None
) -> list[torch.Generator]:
    """A generator for each row, seeded one after another."""
    if seed is not None and generator is not None:
        raise ValueError("got a seed and a generator; give one of the two.")
    if seed is None:
        seed = int(torch.randint(SEEDS, (), generator=generator))
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


def _check_room(
    model: GPT, prompts: Sequence[Ids], max_new_tokens: int
) -> None:
    count = max_new_tokens
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(
            f"max_new_tokens is {count!r}; expected a whole number from 0."
        )
    room = model.config.context_length - max_new_tokens
    longest = max(map(len, prompts), default=0)
    if longest > room:
        raise ValueError(
            f"a prompt has {longest} tokens and {max_new_tokens} new ones "
            f"are wanted; the context holds {model.config.context_length}. "
            f"Keep the prompt's last {max(room, 0)} tokens or ask for fewer."
        )
