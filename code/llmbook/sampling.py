"""From logits to the next token, and from tokens to text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.cache import KVCache
from llmbook.decoding import Decoder, covers
from llmbook.model import GPT

PACKING_PAYS = 64  # new tokens from which copies of weights are worth it
REMOVED = float("-inf")  # the logit of a token with probability zero


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide the logits (..., V) by ``temperature`` > 0.

    Below 1 the distribution sharpens, above 1 it flattens; the order of the
    tokens never changes (Ackley, Hinton and Sejnowski 1985, section 2).

    >>> apply_temperature(torch.tensor([1.0, 2.0]), 0.5)
    tensor([2., 4.])
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature!r}; expected a number above 0. "
            "For the greedy limit call sample(..., temperature=0)."
        )
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the ``k`` highest logits (..., V), remove the rest.

    Tokens tied with the k-th stay too, so that the result does not depend
    on an order among equals (Fan, Lewis and Dauphin 2018, section 5.4).

    >>> keep_top_k(torch.tensor([1.0, 3.0, 2.0]), 2)
    tensor([-inf, 3., 2.])
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"top_k is {k!r}; expected a whole number from 1.")
    k = min(k, logits.shape[-1])
    threshold = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < threshold, REMOVED)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most likely tokens whose probability reaches ``p``.

    The token that crosses the line is kept, so at least one always is; of
    equal tokens the lower id counts first (Holtzman et al. 2020, section
    3.1, "nucleus sampling").

    >>> keep_top_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.6).exp()
    tensor([0.5000, 0.3000, 0.0000])
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p is {p!r}; expected a number in (0, 1].")
    if p == 1:
        return logits
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ranked.double().softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    drop = torch.empty_like(order, dtype=torch.bool)
    drop.scatter_(-1, order, before >= p)
    return logits.masked_fill(drop, REMOVED)


def keep_min_p(logits: Tensor, fraction: float) -> Tensor:
    """Remove tokens less likely than ``fraction`` times the likeliest.

    The bar moves with the model's confidence: high where one token towers,
    low where many are close (Nguyen et al. 2025, section 3).

    >>> keep_min_p(torch.tensor([0.6, 0.3, 0.1]).log(), 0.25).exp()
    tensor([0.6000, 0.3000, 0.0000])
    """
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"min_p is {fraction!r}; expected a number from 0 to 1."
        )
    probabilities = logits.double().softmax(dim=-1)
    bar = fraction * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < bar, REMOVED)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens ``seen`` (B, T) less likely in the logits (B, V).

    A logit above 0 is divided by ``penalty`` and one below is multiplied,
    once for each token however often it was seen. Source: Keskar et al.
    2019, section 4.1, which divides both; a negative logit would rise. As
    in Hugging Face's ``generate``.

    >>> penalise(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[0, 1]]), 2.0)
    tensor([[ 1., -4.,  2.]])
    """
    if not 0 < penalty < float("inf"):
        raise ValueError(
            f"repetition_penalty is {penalty!r}; expected a number above 0: "
            "1 changes nothing, 1.2 is usual."
        )
    if penalty == 1:
        return logits
    if logits.itemsize < 4:  # 16 bits would round scores into ties
        logits = logits.float()
    scores = logits.gather(-1, seen)  # (B, T)
    scores = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits.scatter(-1, seen, scores)


def filtered(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Temperature, then top-k, top-p and min-p, each on what is left.

    The order is a convention, the one of Hugging Face's ``generate``.

    >>> filtered(torch.tensor([1.0, 3.0, 2.0]), top_k=1)
    tensor([-inf, 3., -inf])
    """
    logits = apply_temperature(logits, temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits


def check_logits(logits: Tensor) -> None:
    """Refuse ``logits`` (..., V) that no token can be chosen from.

    Raises:
        ValueError: a row has NaN, +inf or no finite value.
    """
    if not logits.amax(dim=-1).isfinite().all():  # NaN is above all numbers
        raise ValueError(
            "a row of logits has NaN, +inf or no finite value; expected at "
            "least one token to choose from. Check the weights; counts that "
            "guess need smoothing, as KneserNey has it."
        )


def sample(
    logits: Tensor,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    **filters: float | None,
) -> Tensor:
    """Draw one id for each row of ``logits`` (B, V); returns (B,).

    ``temperature=0`` is greedy: the highest logit, of equals the lowest id.

    >>> sample(torch.tensor([[0.0, 9.0, 1.0]]), temperature=0)
    tensor([1])
    """
    check_logits(logits)
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = filtered(logits.float().cpu(), temperature, **filters)
    probabilities = logits.softmax(dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _checked_prompt(model: GPT, prompt: Sequence[int] | Tensor) -> Tensor:
    """The prompt as ids (B, T) on the model's device."""
    device = next(model.parameters()).device
    ids = torch.as_tensor(prompt, dtype=torch.long, device=device)
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"the prompt has shape {tuple(ids.shape)}; expected at least one "
            "token, as a list of ids or a (B, T) tensor. To start from "
            "nothing, give the <|endoftext|> token."
        )
    longest = model.config.context_length
    if ids.shape[1] > longest:
        raise ValueError(
            f"the prompt has {ids.shape[1]} tokens and the context holds "
            f"{longest}. Keep its last {longest} tokens: ids[-{longest}:]."
        )
    return ids


def next_logits(model: GPT, ids: Tensor) -> Tensor:
    """Logits (B, V) after ``ids`` (B, T), recomputed from the beginning.

    Past the context length the window slides: the oldest ids fall out.
    """
    logits, _ = model(ids[:, -model.config.context_length :])
    return logits[:, -1]


def cached_logits(model: GPT, ids: Tensor, cache: KVCache) -> Tensor:
    """The same logits; only the ids that ``cache`` has not seen are run."""
    new = ids[:, cache.length :]
    x = model.hidden(new, attends=cache.attends(), start=cache.length)
    return F.linear(x[:, -1], model.head_weight)


def new_cache(
    model: GPT, batch_size: int, tokens: int | None = None
) -> KVCache:
    """An empty cache for so many ``tokens``; None fills the context.

    There is never room for more than the model's context length.
    """
    c, weight = model.config, model.head_weight
    longest = c.context_length
    return KVCache(
        n_layer=c.n_layer,
        batch_size=batch_size,
        n_head=c.kv_heads,
        head_dim=c.key_width,
        context_length=longest if tokens is None else min(tokens, longest),
        dtype=weight.dtype,
        device=weight.device,
        window=c.window,
    )


class _Reader:
    """Next-token logits of a text that grows by a token a row at a time."""

    def __init__(self, model: GPT, cache: KVCache | None, count: int) -> None:
        self.model, self.cache, self.decoder = model, cache, None
        if cache is not None and count > 1 and covers(model):
            self.decoder = Decoder(model, cache, count >= PACKING_PAYS)

    @torch.no_grad()
    def logits(self, ids: Tensor) -> Tensor:
        """Logits (B, V) after ``ids`` (B, T), with dropout switched off."""
        model, cache, decoder = self.model, self.cache, self.decoder
        fits = ids.shape[1] <= model.config.context_length
        one = cache is not None and 0 < cache.length == ids.shape[1] - 1
        if fits and one and decoder is not None and decoder.ready():
            return decoder.step(ids[:, -1])
        training = model.training
        model.eval()
        try:
            if fits and cache is not None:
                return cached_logits(model, ids, cache)
            return next_logits(model, ids)
        finally:
            model.train(training)


def _steps(
    model: GPT,
    ids: Tensor,
    count: int,
    generator: torch.Generator | None,
    use_cache: bool,
    repetition_penalty: float = 1.0,
    **choices: float | None,
) -> Iterator[Tensor]:
    """Yield the next ids (B,), ``count`` times."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(
            f"max_new_tokens is {count!r}; expected a whole number from 0."
        )
    B, T = ids.shape
    cache = new_cache(model, B, T + count) if use_cache else None
    reader = _Reader(model, cache, count)
    for _ in range(count):
        logits = penalise(reader.logits(ids), ids, repetition_penalty)
        chosen = sample(logits, generator, **choices).to(ids.device)
        yield chosen
        ids = torch.cat([ids, chosen[:, None]], dim=1)


def _generator(
    seed: int | None, generator: torch.Generator | None
) -> torch.Generator | None:
    if seed is not None and generator is not None:
        raise ValueError("got a seed and a generator; give one of the two.")
    if seed is None:
        return generator
    return torch.Generator().manual_seed(seed)


def stream(
    model: GPT,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    stop_tokens: Sequence[int] = (),
    seed: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    **choices: float | None,
) -> Iterator[int]:
    """Yield new ids one by one, until a stop token or the limit.

    ``choices`` are ``temperature``, ``top_k``, ``top_p`` and ``min_p``, as in
    :func:`filtered`, and ``repetition_penalty``, as in :func:`penalise`.
    The stop token itself is yielded, then nothing more.
    """
    ids = _checked_prompt(model, prompt)
    if ids.shape[0] != 1:
        raise ValueError("stream() takes one prompt; for more use generate().")
    drawn = _generator(seed, generator)
    steps = _steps(model, ids, max_new_tokens, drawn, use_cache, **choices)
    for chosen in steps:
        yield int(chosen)
        if int(chosen) in stop_tokens:
            return


def generate(
    model: GPT,
    prompt: Sequence[int] | Tensor,
    max_new_tokens: int,
    *,
    stop_tokens: Sequence[int] = (),
    seed: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    **choices: float | None,
) -> list[int] | list[list[int]]:
    """The prompt and its continuation, as ids.

    Args:
        prompt: a list of ids, or ids (B, T) for B prompts of one length.
        max_new_tokens: the most tokens added to each.
        stop_tokens: ids after which a row ends; the stop token is kept.
        choices: ``temperature`` (0 is greedy), ``top_k``, ``top_p``,
            ``min_p``, ``repetition_penalty``.

    Returns:
        A list of ids for a list, a list of B lists for a tensor (B, T).
    """
    ids = _checked_prompt(model, prompt)
    rows = ids.tolist()
    open_rows = set(range(len(rows)))
    drawn = _generator(seed, generator)
    steps = _steps(model, ids, max_new_tokens, drawn, use_cache, **choices)
    for chosen in steps:
        new = chosen.tolist()
        for row in open_rows:
            rows[row].append(new[row])
        open_rows -= {r for r in open_rows if rows[r][-1] in stop_tokens}
        if not open_rows:
            break
    single = not (isinstance(prompt, Tensor) and prompt.ndim == 2)
    return rows[0] if single and len(rows) == 1 else rows
