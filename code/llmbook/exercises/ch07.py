"""Exercises of the chapter on modern parts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.accounting import cache_bytes, parameters
from llmbook.attention import causal_mask
from llmbook.config import EXPANSION, GPTConfig
from llmbook.exercises import Exercise, register
from llmbook.exercises.tensors import draw, named, same
from llmbook.layers import balance_loss, route

NEARLY_EVEN = 1.01  # a balancing loss that looks like 1


# 7.1 --------------------------------------------------------------------


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    """Each token's vector of ``x`` (B, T, C) by its root mean square."""
    mean_square = (x * x).mean(dim=-1, keepdim=True)
    return x / torch.sqrt(mean_square + eps) * gain


def _centred(x, gain, eps=1e-5):
    return F.layer_norm(x, gain.shape, gain, None, eps)


def _sum_of_squares(x, gain, eps=1e-5):
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True) + eps) * gain


def _no_root(x, gain, eps=1e-5):
    return x / ((x * x).mean(dim=-1, keepdim=True) + eps) * gain


def _over_tokens(x, gain, eps=1e-5):
    return x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + eps) * gain


def _over_everything(x, gain, eps=1e-5):
    return x / torch.sqrt((x * x).mean() + eps) * gain


def _no_gain(x, gain, eps=1e-5):
    return rms_norm(x, torch.ones_like(gain), eps)


def _by_deviation(x, gain, eps=1e-5):
    return x / torch.sqrt(x.var(-1, keepdim=True, correction=0) + eps) * gain


def _eps_of_its_own(x, gain, eps=1e-5):
    return rms_norm(x, gain)


def _late_eps(x, gain, eps=1e-5):
    return x / ((x * x).mean(dim=-1, keepdim=True).sqrt() + eps) * gain


_NORM = {
    _centred: (
        "You subtracted the mean; that is layer norm without its bias. "
        "RMSNorm leaves the mean where it is."
    ),
    _sum_of_squares: (
        "You divided by the root of the sum of squares, so the result "
        "shrinks with the width. Take the mean of the squares."
    ),
    _no_root: "You divided by the mean square. Divide by its root.",
    _over_tokens: (
        "You averaged over the tokens. Each token is normalised by itself: "
        "average over the last axis."
    ),
    _over_everything: (
        "You took one mean over everything. Each token has its own: average "
        "over the last axis, with keepdim=True."
    ),
    _no_gain: "The gain is missing: multiply by it at the end.",
    _by_deviation: (
        "You divided by the standard deviation, which takes the mean off "
        "before it squares. Take the mean of x * x itself."
    ),
}


def _check_norm(answer) -> str | None:
    x = 2 + 3 * draw(2, 5, 8)
    gain = 1 + torch.rand(8, generator=torch.Generator().manual_seed(1))
    got = answer(x, gain)
    if not same(got, rms_norm(x, gain)):
        return named(got, _NORM, x, gain) or (
            "The result differs from torch's rms_norm on random x."
        )
    tiny = 1e-3 * x
    got = answer(tiny, gain, 1e-2)
    if same(got, rms_norm(tiny, gain)):
        return "Right with eps=1e-5, but eps=1e-2 changes nothing. Use it."
    if not same(got, rms_norm(tiny, gain, 1e-2)):
        return (
            "On very small vectors the result differs. Is eps inside the "
            "square root, added to the mean square?"
        )
    return None


register(
    Exercise(
        "7.1",
        "RMSNorm from memory",
        _check_norm,
        rms_norm,
        {
            "centred": _centred,
            "sum of squares": _sum_of_squares,
            "no root": _no_root,
            "over tokens": _over_tokens,
            "over everything": _over_everything,
            "no gain": _no_gain,
            "standard deviation": _by_deviation,
            "an eps of its own": _eps_of_its_own,
            "eps outside the root": _late_eps,
        },
    )
)


# 7.2 --------------------------------------------------------------------


def gated_width(n_embd: int, multiple: int) -> int:
    """Two thirds of 4 C, rounded up to a multiple."""
    thirds = 2 * EXPANSION * n_embd  # of the width: 8 C / 3
    return -(-thirds // (3 * multiple)) * multiple


def _as_wide_as_before(n_embd: int, multiple: int) -> int:
    return -(-EXPANSION * n_embd // multiple) * multiple


def _rounded_down(n_embd: int, multiple: int) -> int:
    return 2 * EXPANSION * n_embd // 3 // multiple * multiple


def _not_rounded(n_embd: int, multiple: int) -> int:
    return 2 * EXPANSION * n_embd // 3


def _half(n_embd: int, multiple: int) -> int:
    return -(-EXPANSION * n_embd // (2 * multiple)) * multiple


def _rounded_too_soon(n_embd: int, multiple: int) -> int:
    return 2 * -(-EXPANSION * n_embd // (3 * multiple)) * multiple


def _check_width(answer) -> str | None:
    messages = {
        _as_wide_as_before: (
            "With 4 C the layer has half as many parameters again as before, "
            "for there are three matrices now. Take two thirds of it."
        ),
        _rounded_down: "You rounded down; the next multiple above is wanted.",
        _not_rounded: "Round up to a multiple of `multiple`.",
        _half: (
            "You halved the width. There were two matrices and are three: "
            "two thirds."
        ),
        _rounded_too_soon: (
            "You rounded a third and doubled it. Take two thirds first, "
            "then round once."
        ),
    }
    got = answer(4096, 256)
    for mistake, message in messages.items():
        if got == mistake(4096, 256):
            return message
    for n_embd, multiple in ((4096, 256), (576, 8), (192, 64), (5120, 256)):
        wanted = gated_width(n_embd, multiple)
        if answer(n_embd, multiple) != wanted:
            return (
                f"For C = {n_embd} and multiples of {multiple} expected "
                f"{wanted:,}, got {answer(n_embd, multiple)!r}."
            )
    return None


register(
    Exercise(
        "7.2",
        "Three matrices for two",
        _check_width,
        gated_width,
        {
            "4 C": _as_wide_as_before,
            "rounded down": _rounded_down,
            "not rounded": _not_rounded,
            "half": _half,
            "rounded too soon": _rounded_too_soon,
        },
        "That is right: 4,096 gives the first Llama's 11,008.",
    )
)


# 7.3 --------------------------------------------------------------------


def longest_text(config: GPTConfig, memory: int, batch_size: int) -> int:
    """How long each text may be, in tokens, with all numbers in two bytes."""
    room = memory - 2 * parameters(config)
    each = cache_bytes(config, batch_size, bytes_each=2, tokens=1)
    fit = max(0, room) // each
    if config.window is not None and fit >= config.window:
        return config.context_length  # older ones are written over
    return min(fit, config.context_length)


def _weightless(config, memory, batch_size):
    return longest_text(config, memory + 2 * parameters(config), batch_size)


def _every_head(config, memory, batch_size):
    shared = config.n_head // config.kv_heads
    room = (memory - 2 * parameters(config)) // shared
    return longest_text(config, room + 2 * parameters(config), batch_size)


def _keys_only(config, memory, batch_size):
    room = 2 * (memory - 2 * parameters(config))
    return longest_text(config, room + 2 * parameters(config), batch_size)


def _one_text(config, memory, batch_size):
    return longest_text(config, memory, 1)


def _four_bytes(config, memory, batch_size):
    room = (memory - 2 * parameters(config)) // 2
    return longest_text(config, room + 2 * parameters(config), batch_size)


def _no_limit(config, memory, batch_size):
    room = memory - 2 * parameters(config)
    return max(0, room) // cache_bytes(config, batch_size, 2, tokens=1)


def _no_window(config, memory, batch_size):
    return min(_no_limit(config, memory, batch_size), config.context_length)


def _window_as_end(config, memory, batch_size):
    end = config.context_length if config.window is None else config.window
    return max(0, min(_no_limit(config, memory, batch_size), end))


def _below_zero(config, memory, batch_size):
    room = memory - 2 * parameters(config)
    if room > 0:
        return longest_text(config, memory, batch_size)
    return room // cache_bytes(config, batch_size, 2, tokens=1)


_READ = {
    _weightless: "The weights need their place too: two bytes each.",
    _every_head: (
        "You counted a key and a value for each head of queries. Only "
        "config.kv_heads of them are kept."
    ),
    _keys_only: "You left room for the keys alone; the values are as large.",
    _one_text: "That is for one text; there are batch_size of them.",
    _four_bytes: "A number takes two bytes here, not four.",
}
_WIDE = GPTConfig(50, 900, n_layer=3, n_head=6, n_kv_head=2, n_embd=30)
_NARROW = replace(_WIDE, window=16)


def _check_longest(answer) -> str | None:
    each = cache_bytes(_WIDE, 3, bytes_each=2, tokens=1)
    memory = 2 * parameters(_WIDE) + 200 * each + 1  # room for 200 tokens
    for mistake, message in _READ.items():
        if answer(_WIDE, memory, 3) == mistake(_WIDE, memory, 3):
            return message
    if answer(_WIDE, 10 * memory, 3) == _no_limit(_WIDE, 10 * memory, 3):
        return "Never more than config.context_length, however much fits."
    if answer(_NARROW, memory, 3) == _NARROW.window:
        return (
            "A window limits what is kept, not how much is read: older "
            "tokens are written over, and the text goes on."
        )
    if answer(_NARROW, memory, 3) == _no_window(_NARROW, memory, 3):
        return (
            "Right without a window. With one, older tokens are written "
            "over: if a window fits, so does the whole context."
        )
    if answer(_WIDE, 100, 3) < 0:
        return "Where not even the weights fit, say 0."
    few = memory - 190 * each
    for config, room in (
        (_WIDE, memory),
        (_NARROW, memory),
        (_NARROW, few),
        (_WIDE, 10 * memory),
        (_WIDE, 100),
    ):
        got, wanted = answer(config, room, 3), longest_text(config, room, 3)
        if got != wanted:
            return (
                f"For a window of {config.window} and {room:,} bytes "
                f"expected {wanted}, got {got!r}."
            )
    return None


register(
    Exercise(
        "7.3",
        "How far can it read?",
        _check_longest,
        longest_text,
        {
            "no weights": _weightless,
            "every head": _every_head,
            "keys only": _keys_only,
            "one text": _one_text,
            "four bytes": _four_bytes,
            "beyond the context": _no_limit,
            "no window": _no_window,
            "the window is the end": _window_as_end,
            "below zero": _below_zero,
        },
    )
)


# 7.4 --------------------------------------------------------------------


def sink_mask(T: int, window: int, sinks: int) -> Tensor:
    """Causal, (T, T): the newest ``window`` and the first ``sinks``."""
    query = torch.arange(T)[:, None]
    key = torch.arange(T)
    near = query - key < window
    return (key <= query) & (near | (key < sinks))


def _window_only(T, window, sinks):
    return sink_mask(T, window, 0)


def _sinks_in_the_future(T, window, sinks):
    return sink_mask(T, window, 0) | (torch.arange(T) < sinks)


def _sinks_only(T, window, sinks):
    return sink_mask(T, 1, sinks)


def _both_needed(T, window, sinks):
    query, key = torch.arange(T)[:, None], torch.arange(T)
    return (key <= query) & (query - key < window) & (key < sinks)


def _one_too_wide(T, window, sinks):
    return sink_mask(T, window + 1, sinks)


def _sink_queries(T, window, sinks):
    query, key = torch.arange(T)[:, None], torch.arange(T)
    return (key <= query) & ((query - key < window) | (query < sinks))


def _inverted(T, window, sinks):
    return ~sink_mask(T, window, sinks)


def _rows_are_keys(T, window, sinks):
    return sink_mask(T, window, sinks).T


_SINKS = {
    _inverted: "True stands where a key is seen, not where it is hidden.",
    _rows_are_keys: (
        "Rows and columns are exchanged. A row is a query, a column a key."
    ),
    _window_only: "The first tokens are hidden once the window has passed.",
    _sinks_in_the_future: (
        "Query 0 sees a sink that comes after it. The mask stays causal."
    ),
    _sinks_only: (
        "The window is missing: of the newest tokens only the query itself "
        "is seen."
    ),
    _both_needed: (
        "You ask for both at once. A key is seen if it is near or if it is "
        "one of the first."
    ),
    _one_too_wide: (
        "Each query sees one token too many. The window counts the query's "
        "own token."
    ),
    _sink_queries: (
        "You opened the rows of the first tokens. It is their columns that "
        "every later query may see."
    ),
}


def _check_sinks(answer) -> str | None:
    for T, window, sinks in ((7, 2, 3), (7, 3, 1), (5, 5, 2), (4, 1, 0)):
        got = answer(T, window, sinks)
        if isinstance(got, Tensor) and got.dtype != torch.bool:
            return f"Expected a bool tensor; got {got.dtype}."
        if not same(got, sink_mask(T, window, sinks)):
            return named(got, _SINKS, T, window, sinks) or (
                f"For T={T}, window={window}, sinks={sinks} expected\n"
                f"{sink_mask(T, window, sinks).int().tolist()}."
            )
    if not same(answer(5, 5, 0), causal_mask(5)):
        return "A window as long as the text should be the causal mask."
    return None


register(
    Exercise(
        "7.4",
        "A window with an anchor",
        _check_sinks,
        sink_mask,
        {
            "window only": _window_only,
            "sinks in the future": _sinks_in_the_future,
            "sinks only": _sinks_only,
            "near and first": _both_needed,
            "window too wide": _one_too_wide,
            "rows for columns": _sink_queries,
            "inverted": _inverted,
            "transposed": _rows_are_keys,
        },
    )
)


# 7.5 --------------------------------------------------------------------


def route_of_all(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` experts (N, k), weighted by a softmax over all."""
    weights, experts = scores.softmax(dim=-1).topk(k, dim=-1)
    return experts, weights


def _over_the_chosen(scores, k):
    return route(scores, k)


def _bare_scores(scores, k):
    best, experts = scores.topk(k, dim=-1)
    return experts, best


def _sigmoids(scores, k):
    best, experts = scores.topk(k, dim=-1)
    return experts, best.sigmoid()


def _over_the_tokens(scores, k):
    experts = scores.topk(k, dim=-1).indices
    return experts, scores.softmax(dim=0).gather(-1, experts)


def _exchanged(scores, k):
    return route_of_all(scores, k)[::-1]


def _lowest(scores, k):
    weights, experts = scores.softmax(dim=-1).topk(k, largest=False)
    return experts, weights


_ROUTED = {
    _over_the_chosen: (
        "Your weights of a token sum to 1: the softmax was taken over the "
        "chosen scores. Take it over all of them, then choose."
    ),
    _bare_scores: "The weights are bare scores; the softmax is missing.",
    _sigmoids: (
        "You took a sigmoid of each score. The experts share one softmax."
    ),
    _over_the_tokens: (
        "The softmax ran over the tokens. Each token shares out its own: "
        "the last axis."
    ),
    _lowest: "You chose the lowest scores.",
    _exchanged: "Experts come first, then their weights; yours are exchanged.",
}


def _check_route(answer) -> str | None:
    scores = draw(6, 5, seed=2)
    for k in (2, 1):
        got = answer(scores, k)
        if not isinstance(got, tuple) or len(got) != 2:
            return "Return two tensors: the experts and their weights."
        experts, weights = map(torch.as_tensor, got)
        wanted = route_of_all(scores, k)
        if same(experts, wanted[0]) and same(weights, wanted[1]):
            continue
        for mistake, message in _ROUTED.items():
            if same(weights, mistake(scores, k)[1]):
                return message
        return (
            f"For k={k} expected experts {wanted[0][0].tolist()} for the "
            f"first token, with weights {wanted[1][0].tolist()}."
        )
    return None


register(
    Exercise(
        "7.5",
        "A router with one choice",
        _check_route,
        route_of_all,
        {
            "softmax over the chosen": _over_the_chosen,
            "bare scores": _bare_scores,
            "sigmoid": _sigmoids,
            "softmax over the tokens": _over_the_tokens,
            "lowest": _lowest,
            "exchanged": _exchanged,
        },
        "That is right, and with k = 1 the router can learn.",
    )
)


# 7.6 --------------------------------------------------------------------


def unfair_scores(N: int, E: int) -> Tensor:
    """Everybody goes to expert 0, by a hair: scores (N, E)."""
    scores = torch.zeros(N, E)
    scores[:, 0] = 1e-3
    return scores


def _decided(N: int, E: int) -> Tensor:
    return 10_000 * unfair_scores(N, E)


def _in_turn(N: int, E: int) -> Tensor:
    return 10.0 * F.one_hot(torch.arange(N) % E, E)


def _undecided(N: int, E: int) -> Tensor:
    return torch.zeros(N, E)


def _half_of_them(N: int, E: int) -> Tensor:
    scores = unfair_scores(N, E)
    scores[: N // 2] = scores[: N // 2].roll(1, dims=1)
    return scores


def _check_unfair(answer) -> str | None:
    N, E = 24, 4
    scores = torch.as_tensor(answer(N, E))
    if scores.shape != (N, E) or not scores.is_floating_point():
        return f"Expected floats of shape ({N}, {E}), a row for each token."
    best = scores.topk(2, dim=-1).values
    if bool((best[:, 0] == best[:, 1]).any()):
        return (
            "A row has two highest scores. A tie is no decision; let one "
            "expert win, by however little."
        )
    experts = route(scores, 1)[0]
    busiest = experts.flatten().bincount(minlength=E).max().item()
    if busiest == N // E:
        return (
            "The loss is low because the load is even. Send every token to "
            "one and the same expert."
        )
    if busiest < N:
        return (
            f"Only {busiest} of {N} tokens go to the busiest expert; send "
            "all of them there."
        )
    loss = balance_loss(scores, experts).item()
    if loss > NEARLY_EVEN:
        return (
            f"All tokens go to one expert, and the loss sees it: {loss:.2f}. "
            "It multiplies loads with probabilities; what if those are "
            "nearly even?"
        )
    return None


register(
    Exercise(
        "7.6",
        "Fool the balance",
        _check_unfair,
        unfair_scores,
        {
            "decided": _decided,
            "in turn": _in_turn,
            "undecided": _undecided,
            "half of them": _half_of_them,
        },
        "That is right: the loss weighs loads by probabilities, and an "
        "undecided router shows it none. To get below 1, let idle experts "
        "lose by a hair.",
    )
)


# 7.7 --------------------------------------------------------------------


def grouped_weight(weight: Tensor, n_head: int, n_kv_head: int) -> Tensor:
    """The matrix (C + 2 G D, C) of grouped heads from (3 C, C).

    A group's keys are the mean of its heads' keys, and so its values.
    """
    C = weight.shape[1]
    D, shared = C // n_head, n_head // n_kv_head
    q, k, v = weight.split(C)
    k, v = (
        part.view(n_kv_head, shared, D, C).mean(dim=1).flatten(0, 1)
        for part in (k, v)
    )
    return torch.cat([q, k, v])


def _first_of_group(weight, n_head, n_kv_head):
    C = weight.shape[1]
    D, shared = C // n_head, n_head // n_kv_head
    q, k, v = weight.split(C)
    k, v = (
        part.view(n_kv_head, shared, D, C)[:, 0].flatten(0, 1)
        for part in (k, v)
    )
    return torch.cat([q, k, v])


def _far_heads(weight, n_head, n_kv_head):
    C = weight.shape[1]
    D, shared = C // n_head, n_head // n_kv_head
    q, k, v = weight.split(C)
    k, v = (
        part.view(shared, n_kv_head, D, C).mean(dim=0).flatten(0, 1)
        for part in (k, v)
    )
    return torch.cat([q, k, v])


def _summed(weight, n_head, n_kv_head):
    shared = n_head // n_kv_head
    grouped = grouped_weight(weight, n_head, n_kv_head)
    C = weight.shape[1]
    return torch.cat([grouped[:C], shared * grouped[C:]])


def _queries_too(weight, n_head, n_kv_head):
    C = weight.shape[1]
    D, shared = C // n_head, n_head // n_kv_head
    parts = weight.view(3, n_kv_head, shared, D, C).mean(dim=2)
    return parts.reshape(-1, C)


def _within_heads(weight, n_head, n_kv_head):
    C = weight.shape[1]
    D, shared = C // n_head, n_head // n_kv_head
    q, k, v = weight.split(C)
    k, v = (
        part.view(n_kv_head, D, shared, C).mean(dim=2).flatten(0, 1)
        for part in (k, v)
    )
    return torch.cat([q, k, v])


_WEIGHTS = {
    _first_of_group: (
        "You kept the first head of each group and threw the others away. "
        "Average them."
    ),
    _far_heads: (
        "You averaged heads that do not share: neighbours form a group, 0 "
        "and 1, then 2 and 3."
    ),
    _summed: "You added the heads up, so scores grow. Take their mean.",
    _queries_too: "The queries stay as many as they were.",
    _within_heads: (
        "You averaged neighbouring rows within a head. Average row 0 of one "
        "head with row 0 of the next."
    ),
}


def _check_grouped(answer) -> str | None:
    weight = draw(24, 8, seed=4)
    for n_head, n_kv_head in ((4, 2), (4, 1), (2, 2)):
        got = answer(weight, n_head, n_kv_head)
        wanted = grouped_weight(weight, n_head, n_kv_head)
        if not same(got, wanted):
            return named(got, _WEIGHTS, weight, n_head, n_kv_head) or (
                f"For {n_head} heads in {n_kv_head} groups expected shape "
                f"{tuple(wanted.shape)}: the queries as they were, then "
                "keys, then values, each the mean of its group's; got shape "
                f"{tuple(torch.as_tensor(got).shape)} with other numbers."
            )
    return None


register(
    Exercise(
        "7.7",
        "From many heads to few",
        _check_grouped,
        grouped_weight,
        {
            "first of the group": _first_of_group,
            "far heads": _far_heads,
            "summed": _summed,
            "queries too": _queries_too,
            "within heads": _within_heads,
        },
    )
)
