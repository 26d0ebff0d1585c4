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


def block_repeats(logits: Tensor, ids: list[int], n: int) -> Tensor:
    """Remove every token (V,) that would end an n-gram that ``ids`` holds."""
    result = logits.clone()
    newest = ids[len(ids) - n + 1 :]  # the last n - 1
    for start in range(len(ids) - n + 1):
        if ids[start : start + n - 1] == newest:
            result[ids[start + n - 1]] = REMOVED
    return result


def _one_more(logits: Tensor, ids: list[int], n: int) -> Tensor:
    return block_repeats(logits, ids, n + 1)


def _all_seen(logits: Tensor, ids: list[int], n: int) -> Tensor:
    result = logits.clone()
    result[ids] = REMOVED
    return result


def _latest_only(logits: Tensor, ids: list[int], n: int) -> Tensor:
    result, newest = logits.clone(), ids[len(ids) - n + 1 :]
    for start in reversed(range(len(ids) - n + 1)):
        if ids[start : start + n - 1] == newest:
            result[ids[start + n - 1]] = REMOVED
            break
    return result


def _in_place(logits: Tensor, ids: list[int], n: int) -> Tensor:
    logits[:] = block_repeats(logits, ids, n)
    return logits


def _blocked_to_zero(logits: Tensor, ids: list[int], n: int) -> Tensor:
    blocked = block_repeats(logits, ids, n)
    return blocked.masked_fill(blocked == REMOVED, 0.0)


def _check_blocked(answer) -> str | None:
    logits = torch.tensor([-1.0, 2.0, 1.0, 0.5, 3.0, -2.0])
    ids, n = [1, 2, 3, 1, 2, 4, 0, 1, 2], 3  # 1 2 was followed by 3 and 4
    before = logits.clone()
    got = torch.as_tensor(answer(logits, list(ids), n)).clone()
    if not torch.equal(logits, before):
        return (
            "You changed the caller's logits. Work on a copy: logits.clone()."
        )
    known = {
        _one_more: (
            "You looked back n tokens. An n-gram is n - 1 tokens and the one "
            "that ends it."
        ),
        _all_seen: (
            "You removed every token that has occurred. Only those go that "
            "followed the same n - 1 tokens before."
        ),
        _latest_only: (
            "The last two tokens stood in the text twice before, with two "
            "different tokens behind them; remove both."
        ),
        _blocked_to_zero: (
            "You set the removed logits to 0, and the softmax of 0 is not 0. "
            "Use -inf."
        ),
    }
    for mistake, message in known.items():
        if _close(got, mistake(before, ids, n)):
            return message
    for length, size in ((9, 3), (9, 2), (5, 2), (3, 4), (9, 1)):
        wanted = block_repeats(before, ids[:length], size)
        if not _close(answer(before.clone(), ids[:length], size), wanted):
            return (
                f"After {ids[:length]} with n = {size} expected "
                f"{wanted.tolist()}."
            )
    return None


register(
    Exercise(
        "12.6",
        "No phrase twice",
        _check_blocked,
        block_repeats,
        {
            "one token too many": _one_more,
            "everything seen": _all_seen,
            "only the latest": _latest_only,
            "changed in place": _in_place,
            "zero instead of minus infinity": _blocked_to_zero,
        },
    )
)


# 12.7 -------------------------------------------------------------------

Beam = tuple[list[int], float]


def beam_step(beams: list[Beam], logprobs: Tensor, k: int) -> list[Beam]:
    """The k likeliest texts, with one token more, of all that are possible."""
    longer = [
        ([*ids, token], total + float(logprob))
        for (ids, total), row in zip(beams, logprobs, strict=True)
        for token, logprob in enumerate(row)
    ]
    return sorted(longer, key=lambda beam: -beam[1])[:k]


def _one_each(beams: list[Beam], logprobs: Tensor, k: int) -> list[Beam]:
    longer = [
        ([*ids, int(row.argmax())], total + float(row.max()))
        for (ids, total), row in zip(beams, logprobs, strict=True)
    ]
    return sorted(longer, key=lambda beam: -beam[1])[:k]


def _last_only(beams: list[Beam], logprobs: Tensor, k: int) -> list[Beam]:
    fresh = [(ids, 0.0) for ids, _ in beams]
    return beam_step(fresh, logprobs, k)


def _k_each(beams: list[Beam], logprobs: Tensor, k: int) -> list[Beam]:
    pairs = zip(beams, logprobs, strict=True)
    return [
        longer
        for beam, row in pairs
        for longer in beam_step([beam], row[None], k)
    ]


def _multiplied_logs(
    beams: list[Beam], logprobs: Tensor, k: int
) -> list[Beam]:
    longer = [
        ([*ids, token], total * float(logprob))
        for (ids, total), row in zip(beams, logprobs, strict=True)
        for token, logprob in enumerate(row)
    ]
    return sorted(longer, key=lambda beam: -beam[1])[:k]


def _same_beams(got, wanted: list[Beam]) -> bool:
    return len(got) == len(wanted) and all(
        list(ids) == expected and math.isclose(total, sum_, abs_tol=1e-4)
        for (ids, total), (expected, sum_) in zip(got, wanted, strict=True)
    )


def _check_beam(answer) -> str | None:
    beams = [([7, 1], -1.0), ([7, 2], -1.2), ([5, 5], -4.0)]
    rows = torch.tensor([[0.4, 0.3, 0.3], [0.5, 0.49, 0.01], [0.9, 0.1, 0.0]])
    logprobs = (rows + 1e-6).log()
    got = answer(list(beams), logprobs, 3)
    known = {
        _one_each: (
            "You kept the best token of each text. Two of the best three "
            "continuations may belong to the same text."
        ),
        _last_only: (
            "You ranked by the newest token alone. Add its log-probability "
            "to the total of the text that it continues."
        ),
        _k_each: (
            "You returned k texts for each that came in. The k best of all "
            "go on, or their number grows without end."
        ),
        _multiplied_logs: (
            "You multiplied log-probabilities. Probabilities multiply, so "
            "their logarithms add up."
        ),
    }
    for mistake, message in known.items():
        if _same_beams(got, mistake(beams, logprobs, 3)):
            return message
    for k in (1, 3, 9):
        wanted = beam_step(beams, logprobs, k)
        if not _same_beams(answer(list(beams), logprobs, k), wanted):
            return f"For k = {k} expected {wanted}, the best first."
    return None


register(
    Exercise(
        "12.7",
        "One step of beam search",
        _check_beam,
        beam_step,
        {
            "one token for each text": _one_each,
            "the newest token alone": _last_only,
            "k for each text": _k_each,
            "logarithms multiplied": _multiplied_logs,
        },
    )
)


# 12.8 -------------------------------------------------------------------


def keep_or_replace(
    p: Tensor, q: Tensor, token: int, u: float, v: float
) -> int:
    """The draft ``token``, or a draw from what q (V,) left of p (V,)."""
    if u < float(p[token] / q[token]):
        return token
    left = (p - q).clamp(min=0)
    return draw(left / left.sum(), v)


def _replaced_from_p(
    p: Tensor, q: Tensor, token: int, u: float, v: float
) -> int:
    return token if u < float(p[token] / q[token]) else draw(p, v)


def _other_way_round(
    p: Tensor, q: Tensor, token: int, u: float, v: float
) -> int:
    if u < float(q[token] / p[token]):
        return token
    left = (p - q).clamp(min=0)
    return draw(left / left.sum(), v)


def _p_alone(p: Tensor, q: Tensor, token: int, u: float, v: float) -> int:
    if u < float(p[token]):
        return token
    left = (p - q).clamp(min=0)
    return draw(left / left.sum(), v)


def _distance(p: Tensor, q: Tensor, token: int, u: float, v: float) -> int:
    if u < float(p[token] / q[token]):
        return token
    left = (p - q).abs()
    return draw(left / left.sum(), v)


def _not_divided(p: Tensor, q: Tensor, token: int, u: float, v: float) -> int:
    if u < float(p[token] / q[token]):
        return token
    return draw((p - q).clamp(min=0), v)


def _shares(answer, p: Tensor, q: Tensor) -> Tensor:
    """How often each token comes out, over evenly spread u and v."""
    total = torch.zeros(len(p), dtype=torch.double)
    for token in range(len(p)):
        for i in range(12):
            for j in range(20):
                out = int(answer(p, q, token, (i + 0.5) / 12, (j + 0.5) / 20))
                total[out] += float(q[token]) / 240
    return total


def _check_shares(answer, got, p, q) -> str | None:
    if not _close(got, p):
        return (
            f"Over evenly spread u and v the tokens come out with shares "
            f"{got.tolist()}; expected p, which is {p.tolist()}."
        )
    if answer(p, q, 2, 0.6, 0.0) != 2 or answer(p, q, 2, 0.7, 0.0) != 0:
        return (
            "Token 2 has p / q = 2 / 3: with u = 0.6 it is kept, with u = "
            "0.7 and v = 0 it is replaced by token 0."
        )
    return None


def _check_draft(answer) -> str | None:
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    q = torch.tensor([0.1, 0.2, 0.3, 0.4])
    got = _shares(answer, p, q)
    known = {
        _replaced_from_p: (
            "You drew the replacement from p. Tokens that the draft "
            "proposes too often then come twice: as kept drafts and as "
            "replacements. Draw from what is left of p."
        ),
        _other_way_round: (
            "You kept the draft with probability q / p. It is p / q: a token "
            "that the draft says too often must be refused now and then."
        ),
        _p_alone: (
            "You kept the draft with probability p. The draft has already "
            "chosen it with probability q, so divide by that."
        ),
        _distance: (
            "Your replacement may be a token with q above p. Only where p is "
            "above q is something missing: max(0, p - q)."
        ),
        _not_divided: (
            "What is left of p does not sum to one. Divide it by its sum "
            "before you draw."
        ),
    }
    for mistake, message in known.items():
        if _close(got, _shares(mistake, p, q)):
            return message
    return _check_shares(answer, got, p, q)


register(
    Exercise(
        "12.8",
        "Keep the draft or replace it",
        _check_draft,
        keep_or_replace,
        {
            "replaced from p": _replaced_from_p,
            "q over p": _other_way_round,
            "p alone": _p_alone,
            "distance": _distance,
            "not divided": _not_divided,
        },
    )
)
