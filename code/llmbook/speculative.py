"""Speculative decoding: a cheap draft proposes, the model decides.

The text has exactly the distribution that the model alone would give it;
a good draft only makes it come sooner (Leviathan, Kalman and Matias 2023;
Chen et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.batching.prefix import evaluating
from llmbook.cache import KVCache
from llmbook.decoding import Decoder, covers
from llmbook.model import GPT
from llmbook.ngram import NGramModel
from llmbook.sampling import check_logits, filtered, penalise

AHEAD = 4  # tokens drafted at a time

# Logits (V,) of the token that comes after these ids.
Draft = Callable[[list[int]], Tensor]


@dataclass(frozen=True)
class Speculated:
    """A text written with the help of a draft, and how well it helped.

    ``ids`` are the prompt and its continuation, of which ``new`` tokens
    are new. They took ``passes`` of the model over ``drafted`` tokens;
    ``judged`` of these were looked at, up to the first that was refused in
    each pass, and ``accepted`` of them stand.
    """

    ids: list[int]
    new: int
    passes: int
    drafted: int
    judged: int
    accepted: int

    @property
    def acceptance(self) -> float:
        """The share of judged drafts that were accepted, from 0 to 1."""
        return self.accepted / self.judged if self.judged else math.nan

    @property
    def tokens_per_pass(self) -> float:
        """New tokens for each pass of the model; without a draft 1."""
        return self.new / self.passes if self.passes else math.nan

    def ended(self, stop_tokens: Sequence[int]) -> bool:
        """Whether the last of the new tokens is one to stop at."""
        return self.new > 0 and self.ids[-1] in stop_tokens

    def after(self, ids: list[int], drafted: int, stood: int) -> Speculated:
        """The text with one more pass: new ``ids``, of which some stood."""
        return Speculated(
            self.ids + ids,
            self.new + len(ids),
            self.passes + 1,
            self.drafted + drafted,
            self.judged + min(stood + 1, drafted),
            self.accepted + stood,
        )


class Chance:
    """The random decisions of a run, all from one generator."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def yes(self, probability: float) -> bool:
        """True with this probability: never at 0, always at 1."""
        u = torch.rand((), dtype=torch.double, generator=self.generator)
        return u.item() < probability

    def draw(self, weights: Tensor) -> int:
        """An id, each as often as its share of the ``weights`` (V,)."""
        return int(torch.multinomial(weights, 1, generator=self.generator))


class CachedReader:
    """A model that reads a text as it changes, and no token twice.

    What the new text has in common with the last one is kept in a cache;
    the cache is cut back to it, and the rest is read.
    """

    def __init__(self, model: GPT, tokens: int) -> None:
        c, weight = model.config, model.head_weight
        self.model, self.ids = model, []
        self.cache = KVCache(
            n_layer=c.n_layer,
            batch_size=1,
            n_head=c.kv_heads,
            head_dim=c.key_width,
            context_length=tokens,
            dtype=weight.dtype,
            device=weight.device,
        )
        # A place for every token, within a window too: a store that slides
        # writes over tokens that are needed again when the text goes back.
        self.cache.window = c.window
        lean = c.window is None and covers(model)
        self.decoder = Decoder(model, self.cache) if lean else None

    def logits(self, ids: Sequence[int], count: int = 1) -> Tensor:
        """Logits (count, V) after each of the ``count`` newest ids."""
        ids = list(ids)
        kept = min(common_length(self.ids, ids), len(ids) - count)
        self.cache.cut(kept)
        device = self.model.head_weight.device
        new = torch.tensor(ids[kept:], device=device)
        self.ids = ids
        if kept and len(new) == 1 and self.decoder and self.decoder.ready():
            return self.decoder.step(new)
        x = self.model.hidden(new[None], self.cache.attends(), start=kept)
        return F.linear(x[0, -count:], self.model.head_weight)


def common_length(a: list[int], b: list[int]) -> int:
    """How many ids the two begin with in common.

    >>> common_length([5, 6, 7], [5, 6, 8, 9])
    2
    """
    n = min(len(a), len(b))
    while a[:n] != b[:n]:
        n -= 1
    return n


def distribution(
    logits: Tensor,
    ids: Sequence[int] = (),
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    **filters: float | None,
) -> Tensor:
    """What :func:`llmbook.sampling.sample` draws from, (n, V).

    ``logits`` (n, V) come after each of the n newest ``ids``, which only a
    repetition penalty looks at. In double precision; at temperature 0 the
    highest logit has it all.

    Raises:
        ValueError: there is NaN, or no token that can be chosen.

    >>> distribution(torch.tensor([[0.0, 1.0, 0.5]]), temperature=0)
    tensor([[0., 1., 0.]], dtype=torch.float64)
    """
    logits = logits.double().cpu()
    check_logits(logits)
    if repetition_penalty != 1:
        before = len(ids) - len(logits) + 1
        rows = [
            penalise(
                row, torch.tensor([ids[: before + i]]), repetition_penalty
            )
            for i, row in enumerate(logits.split(1))
        ]
        logits = torch.cat(rows)
    if temperature == 0:
        best = logits.argmax(dim=-1)
        return F.one_hot(best, logits.shape[-1]).double()
    return filtered(logits, temperature, **filters).softmax(dim=-1)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """What is left of ``p`` (V,) once all that ``q`` can give is taken.

    max(0, p - q), not yet divided by its sum: the distribution of the token
    that replaces a refused draft. Source: Leviathan et al. 2023, section
    2.3; Chen et al. 2023, algorithm 2.

    >>> residual(torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25]))
    tensor([0.0000, 0.2500])
    """
    left = (p - q).clamp(min=0)
    # Where the two are equal up to rounding, nothing may be left at all.
    return left if left.sum() > 0 else p


def judge(
    p: Sequence[Tensor],
    q: Sequence[Tensor],
    drafts: Sequence[int],
    chance: Chance,
) -> tuple[int, int]:
    """How many of the ``drafts`` stand, and the token that follows them.

    Draft i was drawn from ``q[i]`` (V,) and stands with probability
    min(1, p[i] / q[i]). The first that falls is replaced by a draw from
    what ``q[i]`` left of ``p[i]``; if all stand, the last ``p`` gives one
    token more. There is one p more than there are drafts.
    """
    for i, token in enumerate(drafts):
        if not chance.yes(float(p[i][token] / q[i][token])):
            return i, chance.draw(residual(p[i], q[i]))
    return len(drafts), chance.draw(p[-1])


def speculative_step(
    reader: CachedReader,
    draft: Draft,
    ids: Sequence[int],
    ahead: int,
    chance: Chance,
    stop_tokens: Sequence[int] = (),
    **choices: float | None,
) -> tuple[list[int], int, int]:
    """One pass of the model: new ids, how many were drafted, how many stood.

    At least one id is new, and at most ``ahead + 1``. What comes after a
    drafted stop token is not drafted.
    """
    text, q = list(ids), []
    while len(q) < ahead and not (q and text[-1] in stop_tokens):
        q += distribution(draft(text)[None], text, **choices)
        text.append(chance.draw(q[-1]))
    drafts = text[len(ids) :]
    logits = reader.logits(text, len(drafts) + 1)
    p = distribution(logits, text, **choices)
    stood, token = judge(p, q, drafts, chance)
    new = drafts[:stood]
    if not (new and new[-1] in stop_tokens):
        new.append(token)
    return new, len(drafts), stood


def speculate(
    model: GPT,
    draft: GPT | Draft,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    ahead: int = AHEAD,
    stop_tokens: Sequence[int] = (),
    seed: int | None = None,
    chance: Chance | None = None,
    **choices: float | None,
) -> Speculated:
    """Write as ``generate`` does, several tokens for one pass of the model.

    Any text comes out as often as from the model alone; at temperature 0 it
    is the same text. With a seed it is another text than ``generate``'s.
    Source: Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2.

    Args:
        draft: a model, or a function from ids to logits (V,), of the
            model's tokenizer.
        ahead: the most tokens drafted for one pass.
        stop_tokens, choices: as in ``generate``, for both alike.
        seed, chance: at most one; where the random decisions come from.

    Raises:
        ValueError: the vocabularies differ, or the text has no room.
    """
    _check_numbers(max_new_tokens, ahead)
    end = len(prompt) + max_new_tokens
    _check_room(model, "the model", len(prompt), end)
    guess = _guess(model, draft, len(prompt), end)
    reader, chance = CachedReader(model, end), _chance(seed, chance)
    one = partial(speculative_step, stop_tokens=stop_tokens, **choices)
    found = Speculated(list(prompt), 0, 0, 0, 0, 0)
    with evaluating(model), evaluating(_model_in(draft) or model):
        while len(found.ids) < end and not found.ended(stop_tokens):
            most = min(ahead, end - len(found.ids) - 1)
            found = found.after(*one(reader, guess, found.ids, most, chance))
    return found


def counting_draft(counts: NGramModel) -> Draft:
    """An n-gram model as a draft: it looks at the end of the text.

    Its boundary is the token between two documents, ``<|endoftext|>``.

    >>> from llmbook.ngram import KneserNey
    >>> counts = KneserNey.train([[1, 2, 1, 2]], order=2, vocab_size=3)
    >>> int(counting_draft(counts)([0, 2, 1]).argmax())
    2
    """

    def logits(ids: list[int]) -> Tensor:
        context = list(ids[max(0, len(ids) - counts.order + 1) :])
        while counts.boundary in context:
            context = context[context.index(counts.boundary) + 1 :]
        return torch.from_numpy(counts.distribution(context)).log()

    return logits


def expected_tokens(acceptance: float, ahead: int) -> float:
    """New tokens for a pass of the model: (1 - a^(n + 1)) / (1 - a).

    Where every draft stands with probability a, whatever stood before, and
    n are drafted. Source: Leviathan et al. 2023, equation 1.

    >>> expected_tokens(0.5, ahead=2)
    1.75
    """
    return math.fsum(acceptance**i for i in range(ahead + 1))


def expected_speed(
    acceptance: float, ahead: int, cost: float, check: float = 1.0
) -> float:
    """How many times as fast as the model alone, by the formula.

    ``cost`` is the time of one drafted token and ``check`` that of a pass
    over all of them, both over the time of the model's own next token.
    Source: Leviathan et al. 2023, theorem 3.8, where ``check`` is 1.

    >>> expected_speed(0.5, ahead=2, cost=0.25), expected_speed(0, 2, 0.25)
    (1.1666666666666667, 0.6666666666666666)
    """
    return expected_tokens(acceptance, ahead) / (ahead * cost + check)


def _model_in(draft: GPT | Draft) -> GPT | None:
    return draft if isinstance(draft, GPT) else None


def _guess(model: GPT, draft: GPT | Draft, start: int, end: int) -> Draft:
    """The draft as a function; its vocabulary must be the model's."""
    V = model.config.vocab_size
    if isinstance(draft, GPT):
        _check_vocabulary(draft.config.vocab_size, V)
        _check_room(draft, "the draft", start, end)
        reader = CachedReader(draft, end)
        return lambda ids: reader.logits(ids)[0]

    def guess(ids: list[int]) -> Tensor:
        logits = draft(ids)
        _check_vocabulary(logits.shape[-1], V)
        return logits

    return guess


def _chance(seed: int | None, chance: Chance | None) -> Chance:
    if seed is None:
        return chance or Chance()
    if chance is not None:
        raise ValueError("got a seed and a chance; give one of the two.")
    return Chance(torch.Generator().manual_seed(seed))


def _check_vocabulary(drafts: int, V: int) -> None:
    if drafts != V:
        raise ValueError(
            f"the draft's vocabulary has {drafts} tokens and the model's "
            f"{V}; expected the same, for an id must mean the same to both. "
            "Draft with a model that was trained with this tokenizer."
        )


def _check_numbers(max_new_tokens: int, ahead: int) -> None:
    for name, value, least in (
        ("max_new_tokens", max_new_tokens, 0),
        ("ahead", ahead, 0),
    ):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(
                f"{name} is {value!r}; expected a whole number from {least}."
            )


def _check_room(model: GPT, name: str, start: int, end: int) -> None:
    longest = model.config.context_length
    if start == 0 or end > longest:
        raise ValueError(
            f"the prompt has {start} tokens and {end - start} new ones are "
            f"wanted; expected at least one token, and that both fit into "
            f"the {longest} of {name}'s context. To start from nothing, give "
            "the <|endoftext|> token; otherwise keep the prompt's last "
            "tokens or ask for fewer."
        )
