"""Exercises of the chapter that looks inside a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llmbook.exercises import Exercise, register
from llmbook.exercises.tensors import draw


def _weights(*shape: int, seed: int = 0) -> Tensor:
    """Random causal attention weights (..., T, T)."""
    scores = 2 * draw(*shape, seed=seed)
    T = shape[-1]
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    return scores.masked_fill(~mask, -math.inf).softmax(-1)


def _tensor(given) -> Tensor:
    """``given`` as a tensor, also where it is a list of tensors."""
    if isinstance(given, list | tuple):
        given = [torch.as_tensor(part) for part in given]
        given = torch.stack(given) if given else torch.empty(0)
    return torch.as_tensor(given)


def _same(a, b) -> bool:
    a, b = _tensor(a), _tensor(b)
    return a.shape == b.shape and torch.allclose(
        a.double(), b.double(), atol=1e-5
    )


def _first_hint(
    answer: Callable, hints: dict[Callable, str], *arguments
) -> str | None:
    """The hint of the first mistake that ``answer`` agrees with."""
    got = answer(*(_copy(a) for a in arguments))
    for mistake, hint in hints.items():
        if _same(got, mistake(*(_copy(a) for a in arguments))):
            return hint
    return None


def _copy(argument):
    return argument.clone() if isinstance(argument, Tensor) else argument


# 13.1 -------------------------------------------------------------------


def what_followed(ids: list[int]) -> list[int | None]:
    """For each token, what came after its last earlier occurrence."""
    followed: dict[int, int] = {}
    answer = []
    for i, token in enumerate(ids):
        answer.append(followed.get(token))
        if i + 1 < len(ids):
            followed[token] = ids[i + 1]
    return answer


def _first_time(ids):
    return [
        ids[ids.index(token) + 1] if ids.index(token) < i else None
        for i, token in enumerate(ids)
    ]


def _what_came_before(ids):
    answer = []
    for i, token in enumerate(ids):
        earlier = [j for j in range(1, i) if ids[j] == token]
        answer.append(ids[earlier[-1] - 1] if earlier else None)
    return answer


def _itself(ids):
    return [t if t in ids[:i] else None for i, t in enumerate(ids)]


def _own_follower(ids):
    return [
        ids[i + 1] if t in ids[:i] and i + 1 < len(ids) else None
        for i, t in enumerate(ids)
    ]


def _counts_itself(ids):
    return [
        ids[i + 1] if i + 1 < len(ids) else what_followed(ids)[i]
        for i in range(len(ids))
    ]


def _check_followed(answer) -> str | None:
    ids = [4, 5, 3, 5, 9, 3, 5, 7, 3, 3]
    hints = {
        _first_time: "You take the first occurrence. Asked is what followed "
        "the last one before the present token.",
        _what_came_before: "You return what stood before the earlier "
        "occurrence. An induction head copies what came after it.",
        _itself: "You return the token itself; that is what a head does "
        "that looks at the same token. Go one place further.",
        _own_follower: "You look at what follows the present token: that is "
        "the future, which is to be guessed.",
        _counts_itself: "You count the present token as its own last "
        "occurrence, and so return what comes next, the future. Look only "
        "at places before it.",
    }
    got = list(answer(list(ids)))
    for mistake, hint in hints.items():
        if got == mistake(ids):
            return hint
    others = [4], [1, 1, 1], [2, 8, 2, 8, 2], list(range(6)) * 2
    for row in (ids, *others):
        got, wanted = list(answer(list(row))), what_followed(row)
        if got != wanted:
            return f"For {row} expected {wanted}, got {got}."
    return None


register(
    Exercise(
        "13.1",
        "An induction head without a model",
        _check_followed,
        what_followed,
        {
            "first time": _first_time,
            "what came before": _what_came_before,
            "the token itself": _itself,
            "own follower": _own_follower,
            "counts itself": _counts_itself,
        },
        praise="That is right. A model does the same with two heads, for "
        "tokens that it has never seen side by side in training.",
    )
)


# 13.2 -------------------------------------------------------------------


def induction_score(weights: Tensor, period: int) -> Tensor:
    """Each head's share at the token to copy, (H, T, T) to (H,).

    The T = 2 period + 1 tokens are a start, a row, and that row again.
    """
    shares = weights.diagonal(-(period - 1), dim1=-2, dim2=-1)
    return shares[..., -period:].mean(-1)


def _back(weights, distance, count):
    shares = weights.diagonal(-distance, dim1=-2, dim2=-1)
    return shares[..., -count:].mean(-1)


def _same_token(weights, period):
    return _back(weights, period, period)


def _one_too_far(weights, period):
    return _back(weights, period + 1, period)


def _all_rows(weights, period):
    return weights.diagonal(-(period - 1), dim1=-2, dim2=-1).mean(-1)


def _one_early(weights, period):
    return _back(weights, period - 1, period + 1)


def _previous(weights, period):
    return _back(weights, 1, period)


def _future(weights, period):
    shares = weights.diagonal(period - 1, dim1=-2, dim2=-1)
    return shares[..., -period:].mean(-1)


def _summed(weights, period):
    return induction_score(weights, period) * period


def _check_score(answer) -> str | None:
    hints = {
        _same_token: "You look one period back: there stands the same "
        "token. The one to copy stands after it, so period - 1 back.",
        _one_too_far: "You look at the token before the earlier occurrence. "
        "The one to copy stands after it: period - 1 back.",
        _all_rows: "You average over all queries that have such a token. "
        "Only those in the second half have seen the row before.",
        _one_early: "You begin one query early: the last token of the first "
        "row has no copy to look for yet. Average over the last period.",
        _previous: "You look at the token just before. That finds "
        "previous-token heads; the token to copy is period - 1 back.",
        _future: "That is the diagonal above the main one, where the mask "
        "is closed. Rows are queries, columns keys: look below it.",
        _summed: "You summed the shares. The score is their mean.",
    }
    given = _weights(4, 15, 15), 7
    hint = _first_hint(answer, hints, *given)
    if hint:
        return hint
    for case in (given, (_weights(2, 7, 7, seed=1), 3)):
        wanted = induction_score(*case)
        if not _same(answer(*case), wanted):
            return (
                f"For a period of {case[1]} the scores differ; expected "
                f"{wanted.tolist()}."
            )
    return None


register(
    Exercise(
        "13.2",
        "Score a head",
        _check_score,
        induction_score,
        {
            "the same token": _same_token,
            "one too far": _one_too_far,
            "all rows": _all_rows,
            "one early": _one_early,
            "the previous": _previous,
            "the future": _future,
            "summed": _summed,
        },
    )
)


# 13.3 -------------------------------------------------------------------


def writes_of_heads(mixed: Tensor, weight: Tensor, n_head: int) -> Tensor:
    """What each head writes, (T, C) to (H, T, C).

    ``mixed`` holds the heads' results side by side; ``weight`` (C, C) is
    that of the ``nn.Linear`` which reads them.
    """
    through = weight.chunk(n_head, dim=1)  # (C, D) each
    results = mixed.chunk(n_head, dim=1)  # (T, D) each
    pairs = zip(results, through, strict=True)
    return torch.stack([result @ W.T for result, W in pairs])


def _by_rows(mixed, weight, n_head):
    T, C = mixed.shape
    alone = mixed @ weight.T
    D = C // n_head
    writes = torch.zeros(n_head, T, C)
    for h in range(n_head):
        writes[h, :, h * D : (h + 1) * D] = alone[:, h * D : (h + 1) * D]
    return writes


def _no_transpose(mixed, weight, n_head):
    return writes_of_heads(mixed, weight.T, n_head)


def _interleaved(mixed, weight, n_head):
    return torch.stack(
        [mixed[:, h::n_head] @ weight[:, h::n_head].T for h in range(n_head)]
    )


def _everyone(mixed, weight, n_head):
    return (mixed @ weight.T).expand(n_head, -1, -1)


def _check_writes(answer) -> str | None:
    given = draw(5, 12), draw(12, 12, seed=1), 3
    hints = {
        _by_rows: "You cut the output into heads. A head reaches all C "
        "numbers of the stream; cut what goes in, and the columns it meets.",
        _no_transpose: "nn.Linear keeps its weight as (out, in) and "
        "computes x @ weight.T; the transpose is missing.",
        _interleaved: "You took every H-th number. A head's numbers lie "
        "side by side: the first D are the first head's.",
        _everyone: "You gave every head what all write together. Their sum "
        "would be H times too large.",
    }
    hint = _first_hint(answer, hints, *given)
    if hint:
        return hint
    got, wanted = _tensor(answer(*given)), writes_of_heads(*given)
    if got.shape == wanted.shape and not _same(got.sum(0), wanted.sum(0)):
        return "The heads' writes do not add up to mixed @ weight.T."
    if not _same(got, wanted):
        return "They should be of shape (H, T, C), one slice for each head."
    return None


register(
    Exercise(
        "13.3",
        "Who wrote what",
        _check_writes,
        writes_of_heads,
        {
            "cut by rows": _by_rows,
            "no transpose": _no_transpose,
            "interleaved": _interleaved,
            "all together": _everyone,
        },
    )
)


# 13.4 -------------------------------------------------------------------


def hold_at_mean(mixed: Tensor, head: int, n_head: int) -> Tensor:
    """``mixed`` (B, T, C) with one head's numbers put to their mean.

    The mean is over all tokens of the batch, number by number.
    """
    D = mixed.shape[-1] // n_head
    own = slice(head * D, (head + 1) * D)
    held = mixed.clone()
    held[..., own] = mixed[..., own].mean(dim=(0, 1))
    return held


def _silenced(mixed, head, n_head):
    D = mixed.shape[-1] // n_head
    held = mixed.clone()
    held[..., head * D : (head + 1) * D] = 0.0
    return held


def _mean_of_each_text(mixed, head, n_head):
    D = mixed.shape[-1] // n_head
    own, held = slice(head * D, (head + 1) * D), mixed.clone()
    held[..., own] = mixed[..., own].mean(dim=1, keepdim=True)
    return held


def _mean_of_each_place(mixed, head, n_head):
    D = mixed.shape[-1] // n_head
    own, held = slice(head * D, (head + 1) * D), mixed.clone()
    held[..., own] = mixed[..., own].mean(dim=0, keepdim=True)
    return held


def _one_number(mixed, head, n_head):
    D = mixed.shape[-1] // n_head
    own, held = slice(head * D, (head + 1) * D), mixed.clone()
    held[..., own] = mixed[..., own].mean()
    return held


def _every_head(mixed, head, n_head):
    return mixed.mean(dim=(0, 1)).expand_as(mixed)


def _changed_in_place(mixed, head, n_head):
    D = mixed.shape[-1] // n_head
    own = slice(head * D, (head + 1) * D)
    mixed[..., own] = mixed[..., own].mean(dim=(0, 1))
    return mixed


def _check_mean(answer) -> str | None:
    given = 1 + draw(3, 5, 12), 1, 3
    hints = {
        _silenced: "You put zeros there. Asked is the mean, a vector that "
        "the later layers have met before.",
        _mean_of_each_text: "You average over each text by itself, so the "
        "head still tells one text from another. Average over B and T.",
        _mean_of_each_place: "You average over the texts, and the head "
        "still tells one place from another. Average over B and T.",
        _one_number: "You averaged over the head's D numbers as well. Each "
        "of them keeps a mean of its own.",
        _every_head: "You held all heads. Only the given one loses what it "
        "knows.",
    }
    hint = _first_hint(answer, hints, *given)
    if hint:
        return hint
    mixed = given[0].clone()
    answer(mixed, 1, 3)
    if not torch.equal(mixed, given[0]):
        return (
            "Your function changes its input. The model may still need it: "
            "clone before you write."
        )
    for case in (given, (draw(2, 4, 8, seed=2), 3, 4)):
        if not _same(answer(*case), hold_at_mean(*case)):
            return f"Head {case[1]} of {case[2]} is not held at its mean."
    return None


register(
    Exercise(
        "13.4",
        "Hold a head at its mean",
        _check_mean,
        hold_at_mean,
        {
            "zeros": _silenced,
            "mean of each text": _mean_of_each_text,
            "mean of each place": _mean_of_each_place,
            "one number": _one_number,
            "every head": _every_head,
            "in place": _changed_in_place,
        },
    )
)


# 13.5 -------------------------------------------------------------------


def logit_of_parts(
    parts: Tensor, gain: Tensor, row: Tensor, eps: float = 1e-5
) -> Tensor:
    """What each of N parts adds to one token's logit, (N, C) to (N,).

    The stream is the sum of the parts; then comes a LayerNorm with this
    gain and no bias, and the logit is the product with the token's row.
    """
    stream = parts.sum(0)
    scale = torch.sqrt(stream.var(correction=0) + eps)
    centred = parts - parts.mean(-1, keepdim=True)
    return (centred / scale * gain) @ row


def _norm_each(parts, gain, row, eps=1e-5):
    variance = parts.var(-1, correction=0, keepdim=True)
    centred = parts - parts.mean(-1, keepdim=True)
    return (centred / torch.sqrt(variance + eps) * gain) @ row


def _no_norm(parts, gain, row, eps=1e-5):
    return parts @ row


def _gain_alone(parts, gain, row, eps=1e-5):
    return (parts * gain) @ row


def _bessel(parts, gain, row, eps=1e-5):
    scale = torch.sqrt(parts.sum(0).var() + eps)
    centred = parts - parts.mean(-1, keepdim=True)
    return (centred / scale * gain) @ row


def _not_centred(parts, gain, row, eps=1e-5):
    scale = torch.sqrt(parts.sum(0).var(correction=0) + eps)
    return (parts / scale * gain) @ row


def _no_gain(parts, gain, row, eps=1e-5):
    return logit_of_parts(parts, torch.ones_like(gain), row, eps)


def _left_out(parts, gain, row, eps=1e-5):
    def logit(stream):
        variance = stream.var(correction=0)
        normal = (stream - stream.mean()) / torch.sqrt(variance + eps)
        return (normal * gain) @ row

    whole = parts.sum(0)
    return torch.stack([logit(whole) - logit(whole - part) for part in parts])


def _check_parts(answer) -> str | None:
    given = draw(4, 10), 1 + draw(10, seed=1).abs(), draw(10, seed=2)
    hints = {
        _norm_each: "You normalise every part by its own length. The norm "
        "divides by that of the whole stream, the same for all parts.",
        _no_norm: "The norm is missing: parts are centred, divided by the "
        "stream's standard deviation, and multiplied by the gain.",
        _gain_alone: "The gain is there and the norm is not: centre the "
        "parts and divide them by the stream's standard deviation.",
        _bessel: "You divide by C - 1 in the variance, as torch.var does "
        "unless told. LayerNorm divides by C: correction=0.",
        _not_centred: "LayerNorm subtracts the mean first; the mean of a "
        "sum is the sum of the means, so each part loses its own.",
        _no_gain: "The gain is missing; it stands between norm and head.",
        _left_out: "You recompute the logit without the part. That is "
        "another question, and its answers do not add up to the logit.",
    }
    hint = _first_hint(answer, hints, *given)
    if hint:
        return hint
    got, wanted = _tensor(answer(*given)), logit_of_parts(*given)
    if got.shape == wanted.shape and not _same(got.sum(), wanted.sum()):
        return "The parts do not add up to the logit of the whole stream."
    if not _same(got, wanted):
        return "Expected one number for each part, (N,)."
    return None


register(
    Exercise(
        "13.5",
        "Whose logit?",
        _check_parts,
        logit_of_parts,
        {
            "each by its own norm": _norm_each,
            "no norm": _no_norm,
            "gain alone": _gain_alone,
            "C - 1": _bessel,
            "not centred": _not_centred,
            "no gain": _no_gain,
            "left out": _left_out,
        },
    )
)


# 13.6 -------------------------------------------------------------------


def carried(weights: Tensor, values: Tensor, through: Tensor) -> Tensor:
    """How much each key brings to each query, in length: (T, T).

    ``weights`` (T, T) and ``values`` (T, D) are one head's, ``through``
    (C, D) its columns of the projection.
    """
    written = values @ through.T  # (T, C): what a weight of 1 would bring
    return weights * written.norm(dim=-1)


def _weights_alone(weights, values, through):
    return weights


def _before_projection(weights, values, through):
    return weights * values.norm(dim=-1)


def _length_of_query(weights, values, through):
    return weights * (values @ through.T).norm(dim=-1)[:, None]


def _length_of_mixture(weights, values, through):
    written = weights @ values @ through.T
    return weights * written.norm(dim=-1)[:, None]


def _length_alone(weights, values, through):
    return (values @ through.T).norm(dim=-1).expand_as(weights)


def _squared(weights, values, through):
    return weights * (values @ through.T).square().sum(-1)


def _check_carried(answer) -> str | None:
    given = _weights(6, 6), draw(6, 3, seed=1), draw(8, 3, seed=2)
    hints = {
        _weights_alone: "That is the map itself. A weight multiplies a "
        "value, and a value can be short.",
        _before_projection: "You measure the value before the projection. "
        "What reaches the stream is values @ through.T.",
        _length_of_query: "You scale the rows. The value belongs to the "
        "key, so its length scales the columns.",
        _length_of_mixture: "You measure the mixture of all keys. Asked is "
        "what each key brings to it.",
        _length_alone: "The weights are missing: a long value that nobody "
        "looks at brings nothing.",
        _squared: "You took the square of the length.",
    }
    hint = _first_hint(answer, hints, *given)
    if hint:
        return hint
    if not _same(answer(*given), carried(*given)):
        return "The result is not weight times length of what is written."
    return None


register(
    Exercise(
        "13.6",
        "A map of what is carried",
        _check_carried,
        carried,
        {
            "weights alone": _weights_alone,
            "before the projection": _before_projection,
            "length at the query": _length_of_query,
            "length of the mixture": _length_of_mixture,
            "length alone": _length_alone,
            "squared": _squared,
        },
    )
)
