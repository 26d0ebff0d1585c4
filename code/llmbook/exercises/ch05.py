"""Exercises of the chapter on attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.attention import (
    Attend,
    attention,
    causal_mask,
    naive_attention,
)
from llmbook.exercises import Exercise, register
from llmbook.exercises.tensors import draw, named, same

# 5.1 --------------------------------------------------------------------


def one_query(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What one query (D,) brings back from keys, values (S, D)."""
    scores = keys @ query / math.sqrt(len(query))  # (S,)
    return scores.softmax(dim=0) @ values


def _unscaled(query, keys, values):
    return (keys @ query).softmax(dim=0) @ values


def _divided_by_size(query, keys, values):
    return (keys @ query / len(query)).softmax(dim=0) @ values


def _divided_by_root_of_keys(query, keys, values):
    return (keys @ query / math.sqrt(len(keys))).softmax(dim=0) @ values


def _no_softmax(query, keys, values):
    return (keys @ query / math.sqrt(len(query))) @ values


def _keys_mixed(query, keys, values):
    return one_query(query, keys, keys)


_ONE_QUERY = {
    _unscaled: (
        "The scores were not divided by the square root of the head size, "
        "so the weights are sharper than they should be."
    ),
    _divided_by_size: (
        "You divided by D. The spread of the scores grows with the square "
        "root of D, so divide by math.sqrt(D)."
    ),
    _divided_by_root_of_keys: (
        "You divided by the square root of S, the number of keys. A score "
        "is a sum of D products: divide by the root of len(query)."
    ),
    _no_softmax: (
        "You mixed with the raw scores. They may be negative and do not sum "
        "to 1: take the softmax first."
    ),
    _keys_mixed: (
        "You mixed the keys. Keys only decide the weights; what is brought "
        "back are the values."
    ),
}


def _check_one_query(answer) -> str | None:
    inputs = draw(16), draw(5, 16, seed=1), draw(5, 16, seed=2)
    got = answer(*inputs)
    wanted = one_query(*inputs)
    if same(got, wanted):
        return None
    return named(got, _ONE_QUERY, *inputs) or (
        f"Expected a vector of shape {tuple(wanted.shape)} that starts with "
        f"{wanted[0]:.3f}, got {torch.as_tensor(got).flatten()[:1].tolist()} "
        f"of shape {tuple(torch.as_tensor(got).shape)}."
    )


register(
    Exercise(
        "5.1",
        "One query",
        _check_one_query,
        one_query,
        {
            "no scale": _unscaled,
            "divided by D": _divided_by_size,
            "divided by the root of S": _divided_by_root_of_keys,
            "no softmax": _no_softmax,
            "keys mixed": _keys_mixed,
        },
        "Scores, scale, softmax, mixture: that is one row of attention.",
    )
)


# 5.2 --------------------------------------------------------------------


def window_weights(scores: Tensor, window: int) -> Tensor:
    """Weights (T, T) when a query sees itself and ``window - 1`` before."""
    ones = torch.ones_like(scores, dtype=torch.bool)
    seen = ones.tril() & ones.triu(1 - window)
    return scores.masked_fill(~seen, -math.inf).softmax(dim=-1)


def _mask_after_softmax(scores, window):
    seen = window_weights(torch.zeros_like(scores), window) > 0
    return scores.softmax(dim=-1) * seen


def _wrong_axis(scores, window):
    seen = window_weights(torch.zeros_like(scores), window) > 0
    return scores.masked_fill(~seen, -math.inf).softmax(dim=0)


def _masked_with_zero(scores, window):
    seen = window_weights(torch.zeros_like(scores), window) > 0
    return scores.masked_fill(~seen, 0.0).softmax(dim=-1)


def _one_too_many(scores, window):
    return window_weights(scores, window + 1)


def _no_window(scores, window):
    return window_weights(scores, len(scores))


def _both_sides(scores, window):
    ones = torch.ones_like(scores, dtype=torch.bool)
    seen = ones.tril(window - 1) & ones.triu(1 - window)
    return scores.masked_fill(~seen, -math.inf).softmax(dim=-1)


_WINDOW = {
    _mask_after_softmax: (
        "The rows do not sum to 1: the mask came after the softmax, so the "
        "hidden tokens still took their share. Mask the scores first."
    ),
    _wrong_axis: (
        "The columns sum to 1 instead of the rows. Each query shares out "
        "its weight among the keys: take the softmax over the last axis."
    ),
    _masked_with_zero: (
        "A hidden score of 0 is still a score, and exp(0) is 1. Hide it "
        "with minus infinity."
    ),
    _one_too_many: (
        "Each query sees one token too many. The window counts the query's "
        "own token."
    ),
    _no_window: (
        "That is the causal mask; nothing hides the tokens that are more "
        "than a window back."
    ),
    _both_sides: (
        "Your window opens to both sides, so a query sees the future. Keep "
        "the causal mask as well."
    ),
}


def _check_window(answer) -> str | None:
    scores = draw(6, 6, seed=3)
    for window in (3, 1, 6):
        got = answer(scores, window)
        if not same(got, window_weights(scores, window)):
            return named(got, _WINDOW, scores, window) or (
                f"With window={window} the weights differ. Print them for "
                "scores of zero: each row should share 1 equally among the "
                "tokens it may see."
            )
    return None


register(
    Exercise(
        "5.2",
        "A shorter memory",
        _check_window,
        window_weights,
        {
            "mask after softmax": _mask_after_softmax,
            "softmax over the queries": _wrong_axis,
            "masked with zero": _masked_with_zero,
            "off by one": _one_too_many,
            "only causal": _no_window,
            "window to both sides": _both_sides,
        },
        "You have built the mask of sliding-window attention.",
    )
)


# 5.3 --------------------------------------------------------------------

FLOAT32_BYTES = 4


def weight_bytes(B: int, H: int, T: int) -> int:
    """Memory of the float32 weights that naive attention stores."""
    return B * H * T * T * FLOAT32_BYTES


def _linear(B, H, T):
    return B * H * T * FLOAT32_BYTES


def _one_head(B, H, T):
    return B * T * T * FLOAT32_BYTES


def _counted_numbers(B, H, T):
    return B * H * T * T


def _only_half(B, H, T):
    return B * H * T * (T + 1) // 2 * FLOAT32_BYTES


_BYTES = {
    _linear: "Every query has a weight for every key: T appears twice.",
    _one_head: "Every head stores a matrix of its own: H is missing.",
    _counted_numbers: (
        "You counted numbers. A float32 number takes four bytes."
    ),
    _only_half: (
        "Only half of the weights can differ from zero, but naive_attention "
        "stores the whole square, zeros included."
    ),
}


def _check_bytes(answer) -> str | None:
    for B, H, T in ((2, 3, 5), (1, 12, 1024)):
        got = answer(B, H, T)
        if got != weight_bytes(B, H, T):
            for mistake, message in _BYTES.items():
                if got == mistake(B, H, T):
                    return message
            return (
                f"For B={B}, H={H}, T={T} expected "
                f"{weight_bytes(B, H, T):,} bytes, got {got!r}."
            )
    return None


register(
    Exercise(
        "5.3",
        "The price of a longer context",
        _check_bytes,
        weight_bytes,
        {
            "T once": _linear,
            "heads forgotten": _one_head,
            "numbers, not bytes": _counted_numbers,
            "half the square": _only_half,
        },
        "Now double T in your head before you double it in a configuration.",
    )
)


# 5.4 --------------------------------------------------------------------


def heads_to_width(x: Tensor) -> Tensor:
    """Lay heads side by side: (B, H, T, D) to (B, T, H * D)."""
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)


def _no_transpose(x):
    B, H, T, D = x.shape
    return x.reshape(B, T, H * D)


def _viewed(x):
    B, H, T, D = x.shape
    return x.transpose(1, 2).view(B, T, H * D)


def _interleaved(x):
    B, H, T, D = x.shape
    return x.permute(0, 2, 3, 1).reshape(B, T, H * D)


def _averaged(x):
    return x.mean(dim=1)


def _summed(x):
    return x.sum(dim=1)


_MERGE = {
    _no_transpose: (
        "The shape is right and the content is not: without the transpose "
        "a row holds several tokens of one head. Move T in front of H first."
    ),
    _interleaved: (
        "You interleaved the heads number by number. A token's row should "
        "hold head 0 whole, then head 1."
    ),
    _averaged: (
        "You averaged the heads. They are laid side by side; the output "
        "matrix decides later how to combine them."
    ),
    _summed: (
        "You added the heads up, so D numbers are left of H * D. Lay them "
        "side by side."
    ),
}


def _check_merge(answer) -> str | None:
    x = draw(2, 3, 4, 5, seed=4)
    try:
        got = answer(x)
    except RuntimeError as error:
        if "view size" not in str(error):
            raise
        return (
            "view cannot join the axes: after the transpose their numbers "
            "no longer lie side by side in memory. Use reshape, which "
            "copies them where it must."
        )
    if same(got, heads_to_width(x)):
        return None
    return named(got, _MERGE, x) or (
        f"Expected shape {tuple(heads_to_width(x).shape)} with head 0 of a "
        f"token in its first numbers; got shape {tuple(got.shape)}."
    )


register(
    Exercise(
        "5.4",
        "Heads back together",
        _check_merge,
        heads_to_width,
        {
            "no transpose": _no_transpose,
            "view for reshape": _viewed,
            "interleaved": _interleaved,
            "averaged": _averaged,
            "summed": _summed,
        },
        "Right shape and right content: only the second is hard to see.",
    )
)


# 5.5 --------------------------------------------------------------------


def leaks(attend, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether ``attend`` lets the last token change an earlier output."""
    changed_k, changed_v = k.clone(), v.clone()
    changed_k[:, :, -1] += 1.0
    changed_v[:, :, -1] += 1.0
    before = attend(q, k, v)[:, :, :-1]
    after = attend(q, changed_k, changed_v)[:, :, :-1]
    return not torch.allclose(before, after, atol=1e-5)


def _looks_at_itself(attend, q, k, v):
    changed = v.clone()
    changed[:, :, -1] += 1.0
    return not torch.allclose(
        attend(q, k, v), attend(q, k, changed), atol=1e-5
    )


def _changes_the_query(attend, q, k, v):
    changed = q.clone()
    changed[:, :, -1] += 1.0
    return not torch.allclose(
        attend(q, k, v)[:, :, :-1],
        attend(changed, k, v)[:, :, :-1],
        atol=1e-5,
    )


def _changes_the_past(attend, q, k, v):
    changed = v.clone()
    changed[:, :, 0] += 1.0
    return not torch.allclose(
        attend(q, k, v)[:, :, 1:], attend(q, k, changed)[:, :, 1:], atol=1e-5
    )


def _no_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _late_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (scores.softmax(dim=-1) * causal_mask(q.shape[-2])) @ v


def _own_token(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v


def _check_leak(answer) -> str | None:
    def inputs():  # fresh ones each time: an answer may write into them
        return tuple(draw(1, 2, 5, 4, seed=seed) for seed in (5, 6, 7))

    if answer(_own_token, *inputs()):
        return (
            "You reported a leak where each token returns its own value. "
            "The changed token's own output may change: compare only the "
            "outputs before it."
        )
    if answer(attention, *inputs()):
        return (
            "You reported a leak in causal attention. Change a late token "
            "and look at earlier outputs, not the other way round."
        )
    if not answer(_no_mask, *inputs()):
        return (
            "Attention without a mask passed your test. A query is read "
            "only by its own row; change the key and the value that others "
            "read."
        )
    if not answer(_late_mask, *inputs()):
        return (
            "Attention masked after the softmax passed your test. There "
            "the future's value is hidden but its key still takes a share: "
            "change the key too."
        )
    given = inputs()
    answer(attention, *given)
    if not all(map(torch.equal, given, inputs())):
        return (
            "Your test finds both leaks, and changes its caller's tensors "
            "as it does so. Change a clone()."
        )
    return None


def _changes_only_the_value(attend, q, k, v):
    changed = v.clone()
    changed[:, :, -1] += 1.0
    return not torch.allclose(
        attend(q, k, v)[:, :, :-1],
        attend(q, k, changed)[:, :, :-1],
        atol=1e-5,
    )


def _changes_in_place(attend, q, k, v):
    before = attend(q, k, v)[:, :, :-1]
    k[:, :, -1] += 1.0
    v[:, :, -1] += 1.0
    return not torch.allclose(before, attend(q, k, v)[:, :, :-1], atol=1e-5)


register(
    Exercise(
        "5.5",
        "Break the mask",
        _check_leak,
        leaks,
        {
            "looks at the changed token": _looks_at_itself,
            "changes the past": _changes_the_past,
            "changes the query": _changes_the_query,
            "changes only the value": _changes_only_the_value,
            "changes its input": _changes_in_place,
        },
        "Your test finds both leaks, the open one and the hidden one.",
    )
)


# 5.6 --------------------------------------------------------------------


def grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention where neighbouring query heads share keys, values.

    ``q`` is (B, H, T, D); ``k`` and ``v`` are (B, H_kv, T, D).
    """
    group = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(group, dim=1)  # (B, H, T, D)
    v = v.repeat_interleave(group, dim=1)
    return attention(q, k, v)


def _tiled(q, k, v):
    group = q.shape[1] // k.shape[1]
    return attention(q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1))


def _heads_dropped(q, k, v):
    return attention(q[:, : k.shape[1]], k, v)


def _queries_averaged(q, k, v):
    T, D = q.shape[-2:]
    grouped = q.reshape(len(q), k.shape[1], -1, T, D).mean(dim=2)
    return attention(grouped, k, v)


def _groups_unmasked(q, k, v):
    group = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(
        q,
        k.repeat_interleave(group, dim=1),
        v.repeat_interleave(group, dim=1),
    )


_GROUPED = {
    _tiled: (
        "Your query heads take the keys in turn: 0, 1, 0, 1. Neighbours "
        "share: 0, 0, 1, 1. Use repeat_interleave instead of repeat."
    ),
    _heads_dropped: (
        "Query heads were thrown away. All H of them ask; only the keys and "
        "values are fewer."
    ),
    _queries_averaged: (
        "You averaged the queries of a group. Each query head keeps its own "
        "question; the group shares the keys and values."
    ),
    _groups_unmasked: "The heads are grouped rightly, but the future leaks.",
}


def _check_grouped(answer) -> str | None:
    q = draw(1, 4, 5, 3, seed=8)
    k, v = draw(1, 2, 5, 3, seed=9), draw(1, 2, 5, 3, seed=10)
    got = answer(q, k, v)
    if same(got, grouped_attention(q, k, v)):
        return None
    return named(got, _GROUPED, q, k, v) or (
        f"Expected shape {tuple(q.shape)} with heads 0 and 1 reading key "
        f"head 0; got shape {tuple(got.shape)} with other numbers."
    )


register(
    Exercise(
        "5.6",
        "Shared keys",
        _check_grouped,
        grouped_attention,
        {
            "tiled": _tiled,
            "heads dropped": _heads_dropped,
            "queries averaged": _queries_averaged,
            "no mask": _groups_unmasked,
        },
        "That is grouped-query attention, as Llama-style models use it.",
    )
)


# 5.7 --------------------------------------------------------------------


def without_head(attend: Attend, head: int) -> Attend:
    """``attend``, but ``head`` brings nothing back."""

    def attend_without(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = attend(q, k, v).clone()  # (B, H, T, D)
        mixed[:, head] = 0.0
        return mixed

    return attend_without


def _without_question(attend: Attend, head: int) -> Attend:
    def silent(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q.clone()
        q[:, head] = 0.0
        return attend(q, k, v)

    return silent


def _without_token(attend: Attend, head: int) -> Attend:
    def forgetful(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = attend(q, k, v).clone()
        mixed[:, :, head] = 0.0
        return mixed

    return forgetful


def _cut_out(attend: Attend, head: int) -> Attend:
    def narrow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = attend(q, k, v)
        return torch.cat([mixed[:, :head], mixed[:, head + 1 :]], dim=1)

    return narrow


def _only_head(attend: Attend, head: int) -> Attend:
    def alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = torch.zeros_like(q)
        mixed[:, head] = attend(q, k, v)[:, head]
        return mixed

    return alone


def _silenced_in_place(attend: Attend, head: int) -> Attend:
    def spoiling(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v[:, head] = 0.0
        return attend(q, k, v)

    return spoiling


_SILENCED = {
    _without_question: (
        "You took the head's queries away. Equal scores are still scores: "
        "the head now brings back the average of what it may see. Take away "
        "what it brings back."
    ),
    _without_token: (
        "You silenced a token in all heads. The axes are (B, H, T, D): the "
        "head's is the second."
    ),
    _cut_out: (
        "You cut the head out, and one is missing when they are merged. "
        "Leave its place, with zeros in it."
    ),
    _only_head: (
        "You silenced the others. The given head is the one to switch off."
    ),
}


def _check_without_head(answer) -> str | None:
    given = tuple(draw(1, 4, 5, 3, seed=seed) for seed in (11, 12, 13))

    def mixed(build, head):
        return build(naive, head)(*(x.clone() for x in given))

    def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return naive_attention(q, k, v, causal_mask(q.shape[-2]))[0]

    for head in (2, 0):
        got = mixed(answer, head)
        if same(got, mixed(without_head, head)):
            continue
        for mistake, message in _SILENCED.items():
            if same(got, mixed(mistake, head)):
                return message
        return (
            f"With head {head} off, that head's slice should be zero and the "
            "others as attend returns them. Mix by the attend you were given."
        )
    copies = tuple(x.clone() for x in given)
    answer(naive, 0)(*copies)
    if not all(map(torch.equal, copies, given)):
        return (
            "The head is silent, but you wrote into the caller's q, k or v, "
            "and whoever uses them next finds them changed. Write into a "
            "clone()."
        )
    return None


register(
    Exercise(
        "5.7",
        "Switch a head off",
        _check_without_head,
        without_head,
        {
            "queries taken away": _without_question,
            "a token silenced": _without_token,
            "head cut out": _cut_out,
            "the others silenced": _only_head,
            "the caller's tensors spoiled": _silenced_in_place,
        },
        "Now hand it to the reader, head by head, and put the exam again.",
    )
)
