"""Exercises of the chapter on sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmbook.config import GPTConfig
from llmbook.exercises import Exercise, register

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])
REMOVED = float("-inf")


def _close(a: Tensor, b: Tensor) -> bool:
    a = torch.as_tensor(a).double()
    return a.shape == b.shape and torch.allclose(a, b.double(), atol=1e-5)


# 12.1 -------------------------------------------------------------------


def probabilities_at(logits: Tensor, temperature: float) -> Tensor:
    """The distribution (V,) that these logits (V,) give at a temperature."""
    return (logits / temperature).softmax(dim=-1)


def _multiplied(logits: Tensor, temperature: float) -> Tensor:
    return (logits * temperature).softmax(dim=-1)


def _afterwards(logits: Tensor, temperature: float) -> Tensor:
    return logits.softmax(dim=-1) / temperature


def _on_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.softmax(dim=-1) / temperature).softmax(dim=-1)


def _check_temperature(answer) -> str | None:
    got = torch.as_tensor(answer(LOGITS, 0.5))
    if _close(got, LOGITS.softmax(-1) / 0.5):
        return (
            "The result does not sum to one: you divided the probabilities. "
            "Divide the logits, then take the softmax."
        )
    if _close(got, _on_probabilities(LOGITS, 0.5)):
        return (
            "You took the softmax twice. Temperature acts on the logits, "
            "before the only softmax."
        )
    if _close(got, _multiplied(LOGITS, 0.5)):
        return (
            "At temperature 0.5 your distribution is flatter than before. "
            "Divide by the temperature; do not multiply."
        )
    for temperature in (0.5, 1.0, 3.0):
        wanted = probabilities_at(LOGITS, temperature)
        if not _close(answer(LOGITS, temperature), wanted):
            return (
                f"At temperature {temperature} expected {wanted.tolist()}, "
                f"got {torch.as_tensor(answer(LOGITS, temperature)).tolist()}."
            )
    return None


register(
    Exercise(
        "12.1",
        "Temperature by hand",
        _check_temperature,
        probabilities_at,
        {
            "multiplied": _multiplied,
            "probabilities divided": _afterwards,
            "softmax twice": _on_probabilities,
        },
    )
)


# 12.2 -------------------------------------------------------------------


def draw(probabilities: Tensor, u: float) -> int:
    """The token that ``u`` in [0, 1) selects, going through ids in order."""
    total = 0.0
    for token, probability in enumerate(probabilities.tolist()):
        total += probability
        if u < total:
            return token
    return len(probabilities) - 1  # rounding left u at the very end


def _next_token(probabilities: Tensor, u: float) -> int:
    return min(draw(probabilities, u) + 1, len(probabilities) - 1)


def _nearest(probabilities: Tensor, u: float) -> int:
    return int((probabilities - u).abs().argmin())


def _first_above(probabilities: Tensor, u: float) -> int:
    above = (probabilities > u).nonzero()
    return int(above[0]) if len(above) else len(probabilities) - 1


def _check_draw(answer) -> str | None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    points = [(i + 0.5) / 1000 for i in range(1000)]
    got = [answer(p, u) for u in points]
    if got == [_next_token(p, u) for u in points]:
        return (
            "You are one token too far: return the first token whose running "
            "total passes u, and not the one after it."
        )
    if got == [_nearest(p, u) for u in points]:
        return (
            "You chose the token whose own probability is nearest to u. "
            "Compare u with the running total of the probabilities."
        )
    if got == [_first_above(p, u) for u in points]:
        return (
            "You compared u with each probability by itself. Add them up as "
            "you go, and compare u with the running total."
        )
    shares = [got.count(token) / 1000 for token in range(4)]
    if not _close(torch.tensor(shares), p):
        return (
            f"Over evenly spread u your tokens come up with shares {shares}; "
            f"expected {p.tolist()}."
        )
    if answer(torch.tensor([0.5, 0.5]), 0.5) != 1:
        return "u = 0.5 belongs to the second half: token i has [low, high)."
    if answer(torch.tensor([0.3, 0.3, 0.3999]), 0.99999) != 2:
        return (
            "Probabilities in floating point may sum to a little under one; "
            "a u above the sum should give the last token."
        )
    return None


register(
    Exercise(
        "12.2",
        "Draw a token with one random number",
        _check_draw,
        draw,
        {
            "one too far": _next_token,
            "nearest probability": _nearest,
            "no running total": _first_above,
        },
    )
)


# 12.3 -------------------------------------------------------------------


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k highest of the logits (V,); the others become -inf."""
    threshold = logits.topk(k).values[-1]
    return logits.masked_fill(logits < threshold, REMOVED)


def _zeroed(logits: Tensor, k: int) -> Tensor:
    return logits.masked_fill(logits < logits.topk(k).values[-1], 0.0)


def _lowest_kept(logits: Tensor, k: int) -> Tensor:
    threshold = logits.topk(k, largest=False).values[-1]
    return logits.masked_fill(logits > threshold, REMOVED)


def _sorted_out(logits: Tensor, k: int) -> Tensor:
    return logits.topk(k).values


def _one_short(logits: Tensor, k: int) -> Tensor:
    return logits.masked_fill(logits <= logits.topk(k).values[-1], REMOVED)


def _check_top_k(answer) -> str | None:
    logits = torch.tensor([-3.0, 2.0, -1.0, 0.5])
    got = torch.as_tensor(answer(logits, 2))
    if got.shape != logits.shape:
        return (
            f"You returned {got.numel()} logits for 4 tokens, so their "
            "places no longer say which token they belong to. Keep all "
            "places and put -inf where a token is removed."
        )
    if _close(got, _zeroed(logits, 2)):
        return (
            "You set the removed logits to 0, and the softmax of 0 is not 0: "
            "token 0 is now likelier than before. Use -inf."
        )
    if _close(got, _lowest_kept(logits, 2)):
        return "You kept the least likely tokens. Keep the highest logits."
    if _close(got, _one_short(logits, 2)):
        return (
            "The k-th token itself is gone. Remove what lies below the "
            "threshold, not what equals it."
        )
    for k in (1, 2, 3, 4):
        if not _close(answer(logits, k), keep_top_k(logits, k)):
            return f"For k = {k} expected {keep_top_k(logits, k).tolist()}."
    return None


register(
    Exercise(
        "12.3",
        "Keep the top k",
        _check_top_k,
        keep_top_k,
        {
            "zero instead of minus infinity": _zeroed,
            "lowest kept": _lowest_kept,
            "places lost": _sorted_out,
            "k-th removed": _one_short,
        },
    )
)


# 12.4 -------------------------------------------------------------------


def nucleus(probabilities: Tensor, p: float) -> set[int]:
    """The smallest set of likeliest tokens whose probability reaches p."""
    ranked, order = probabilities.sort(descending=True, stable=True)
    before = ranked.cumsum(0) - ranked
    return set(order[before < p].tolist())


def _without_crossing(probabilities: Tensor, p: float) -> set[int]:
    ranked, order = probabilities.sort(descending=True, stable=True)
    return set(order[ranked.cumsum(0) <= p].tolist())


def _from_the_bottom(probabilities: Tensor, p: float) -> set[int]:
    ranked, order = probabilities.sort(stable=True)
    return set(order[ranked.cumsum(0) - ranked < p].tolist())


def _ranks(probabilities: Tensor, p: float) -> set[int]:
    return set(range(len(nucleus(probabilities, p))))


def _bar(probabilities: Tensor, p: float) -> set[int]:
    return set((probabilities >= p).nonzero().flatten().tolist())


def _check_nucleus(answer) -> str | None:
    example = torch.tensor([0.1, 0.45, 0.15, 0.3])
    got = set(answer(example, 0.6))
    if got == _without_crossing(example, 0.6):
        return (
            "The token that crosses the line is missing: the set must reach "
            "p, so it includes the token that carries the sum past it."
        )
    if got == _from_the_bottom(example, 0.6):
        return "You added from the least likely token. Start at the top."
    if got == _ranks(example, 0.6):
        return (
            "You returned ranks and not ids: after sorting, map the places "
            "back with the order that sort() gives."
        )
    if got == _bar(example, 0.6):
        return (
            "You compared each probability with p. It is their running "
            "total, from the likeliest down, that has to reach p."
        )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        values = torch.rand(30, generator=generator)
        values = values / values.sum()
        for p in (0.05, 0.5, 0.93):
            if set(answer(values, p)) != nucleus(values, p):
                return f"A set at p = {p} differs: {values.tolist()}."
    return None


register(
    Exercise(
        "12.4",
        "The nucleus",
        _check_nucleus,
        nucleus,
        {
            "crossing token dropped": _without_crossing,
            "from the bottom": _from_the_bottom,
            "ranks for ids": _ranks,
            "a fixed bar": _bar,
        },
    )
)


# 12.5 -------------------------------------------------------------------


def cache_bytes(config: GPTConfig, batch_size: int, bytes_each: int) -> int:
    """Bytes of a full key-value cache."""
    numbers = config.n_layer * batch_size * config.context_length
    return 2 * numbers * config.n_embd * bytes_each  # keys and values


def _keys_only(config: GPTConfig, batch_size: int, bytes_each: int) -> int:
    return cache_bytes(config, batch_size, bytes_each) // 2


def _one_layer(config: GPTConfig, batch_size: int, bytes_each: int) -> int:
    return cache_bytes(config, batch_size, bytes_each) // config.n_layer


def _one_head(config: GPTConfig, batch_size: int, bytes_each: int) -> int:
    return cache_bytes(config, batch_size, bytes_each) // config.n_head


def _square(config: GPTConfig, batch_size: int, bytes_each: int) -> int:
    whole = cache_bytes(config, batch_size, bytes_each)
    return whole // config.n_embd * config.context_length


def _check_cache(answer) -> str | None:
    config = GPTConfig(
        vocab_size=300, context_length=50, n_layer=3, n_head=5, n_embd=35
    )
    known = {
        _keys_only: "That is half of it: keys and values are both kept.",
        _one_layer: (
            "That is one layer's share: every layer has its own keys and "
            "values."
        ),
        _one_head: (
            "That is one head's share: all heads together hold n_embd "
            "numbers a token."
        ),
        _square: (
            "You counted a T by T table. The weights are not kept, only one "
            "key and one value for each token."
        ),
    }
    got = answer(config, 7, 4)
    for mistake, message in known.items():
        if got == mistake(config, 7, 4):
            return message
    for each in (2, 4):
        if answer(config, 7, each) != cache_bytes(config, 7, each):
            return (
                f"For {config} with 7 sequences and {each} bytes a number "
                f"expected {cache_bytes(config, 7, each)}."
            )
    return None


register(
    Exercise(
        "12.5",
        "The size of the cache",
        _check_cache,
        cache_bytes,
        {
            "keys only": _keys_only,
            "one layer": _one_layer,
            "one head": _one_head,
            "a square": _square,
        },
    )
)


# 12.6 -------------------------------------------------------------------


def penalise(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    """Make tokens in ``seen`` less likely by a factor on their logits."""
    result = logits.clone()
    for token in set(seen):
        value = float(logits[token])
        result[token] = value / penalty if value > 0 else value * penalty
    return result


def _always_divided(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    result = logits.clone()
    for token in set(seen):
        result[token] = logits[token] / penalty
    return result


def _once_each_time(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    result = logits.clone()
    for token in seen:
        value = float(result[token])
        result[token] = value / penalty if value > 0 else value * penalty
    return result


def _in_place(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    for token in set(seen):
        value = float(logits[token])
        logits[token] = value / penalty if value > 0 else value * penalty
    return logits


def _check_penalty(answer) -> str | None:
    logits = torch.tensor([2.0, -2.0, 1.0, 0.5])
    before = logits.clone()
    got = torch.as_tensor(answer(logits, [0, 1, 1], 2.0)).clone()
    if not torch.equal(logits, before):
        return (
            "You changed the caller's logits. Work on a copy: logits.clone()."
        )
    if _close(got, _always_divided(before, [0, 1, 1], 2.0)):
        return (
            "Dividing a negative logit by 2 moves it up: token 1 became "
            "likelier. Multiply where the logit is negative."
        )
    if _close(got, _once_each_time(before, [0, 1, 1], 2.0)):
        return (
            "Token 1 was seen twice and penalised twice. The rule asks "
            "whether a token was seen, not how often."
        )
    wanted = penalise(before, [0, 1, 1], 2.0)
    if not _close(got, wanted):
        return f"Expected {wanted.tolist()}, got {got.tolist()}."
    if not math.isclose(float(answer(before, [], 2.0)[0]), 2.0):
        return "With nothing seen, nothing may change."
    return None


register(
    Exercise(
        "12.6",
        "A penalty for repetition",
        _check_penalty,
        penalise,
        {
            "negative logits divided": _always_divided,
            "counted twice": _once_each_time,
            "changed in place": _in_place,
        },
    )
)
