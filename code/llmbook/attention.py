"""Causal self-attention: how each token reads from the ones before it."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.config import GPTConfig
from llmbook.positions import Attend

PLAIN_TOKENS = 512  # up to here two plain products beat the fused kernel


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse queries, keys and values that do not fit together.

    Raises:
        ValueError: ``q`` is not (B, H, T, D), or ``k`` and ``v`` are not
            (B, H, S, D); the message has the three shapes.

    >>> check_shapes(*torch.zeros(3, 1, 2, 4, 8))
    """
    if not q.ndim == k.ndim == v.ndim == 4:
        wanted = (
            "expected four axes each, (B, H, T, D). Cut the width into heads "
            "with split_heads first."
        )
    elif q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        wanted = (
            "queries and keys need the same B, H and D. Only their number of "
            "tokens may differ."
        )
    elif k.shape[:-1] != v.shape[:-1]:
        wanted = (
            "each key needs its value, so k and v need the same B, H and S."
        )
    else:
        return
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    raise ValueError(f"got {shapes}; {wanted}")


def causal_mask(
    T: int, S: int | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Where each query may look: at its own token and the ones before it.

    The ``T`` queries are the last of ``S`` tokens (all, when ``S`` is left
    out). Returns a bool tensor (T, S), True where looking is allowed, the
    convention of ``torch``'s ``scaled_dot_product_attention``.

    Raises:
        ValueError: there are more queries than tokens.

    >>> causal_mask(2, 3).int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    S = T if S is None else S
    if not 1 <= T <= S:
        raise ValueError(
            f"got T={T} queries and S={S} keys; the queries are the last T "
            "of S tokens, so expected 1 <= T <= S."
        )
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def naive_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention as the paper writes it.

    ``q`` is (B, H, T, D), ``k`` and ``v`` are (B, H, S, D), ``mask`` is
    bool and broadcasts to (B, H, T, S). Returns the mixed values
    (B, H, T, D) and the weights (B, H, T, S), whose rows sum to 1.
    Source: Vaswani et al. 2017, equation 1, with the mask of section 3.2.3.

    >>> q = k = v = torch.ones(1, 1, 2, 4)
    >>> naive_attention(q, k, v, causal_mask(2))[1].squeeze().tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    check_shapes(q, k, v)
    D = q.shape[-1]
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(dim=-1)  # over the keys
    return weights @ v, weights


def attention(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0
) -> Tensor:
    """Causal attention by PyTorch's fused kernel.

    Shapes as in :func:`naive_attention`; the queries are the last T of S
    tokens. The weights are never stored, so they are not returned.
    ``dropout_p`` is the share of weights set to zero while training.

    >>> v = torch.tensor([[[[2.0], [4.0]]]])
    >>> attention(torch.zeros_like(v), v, v).flatten().tolist()
    [2.0, 3.0]
    """
    check_shapes(q, k, v)
    T, S = q.shape[-2], k.shape[-2]
    if T == S:  # the kernel masks by itself, without a (T, S) tensor
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout_p, is_causal=True
        )
    mask = causal_mask(T, S, q.device)  # is_causal would align to the left
    return F.scaled_dot_product_attention(q, k, v, mask, dropout_p)


def repeat_heads(x: Tensor, n_head: int) -> Tensor:
    """One copy of each head of ``x`` for each query's head that shares it.

    (B, G, S, D) to (B, H, S, D), each head H / G times in a row, which is
    how queries' heads are grouped. Source: Ainslie et al. 2023, section
    2.2.

    >>> repeat_heads(torch.tensor([[[[1.0]], [[2.0]]]]), 4).flatten().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    G = x.shape[1]
    return x if n_head == G else x.repeat_interleave(n_head // G, dim=1)


def check_groups(q: Tensor, k: Tensor, v: Tensor) -> None:
    """:func:`check_shapes`, where heads of queries may share their keys.

    Raises:
        ValueError: H is no multiple of G, or as :func:`check_shapes` does.

    >>> check_groups(torch.zeros(1, 4, 3, 8), *torch.zeros(2, 1, 2, 3, 8))
    """
    if not q.ndim == k.ndim == 4 or q.shape[1] == k.shape[1]:
        return check_shapes(q, k, v)
    H, G = q.shape[1], k.shape[1]
    if H % max(1, G):
        raise ValueError(
            f"got {H} heads of queries and {G} of keys; each head of keys "
            "serves as many heads of queries, so the first number must be a "
            "multiple of the second."
        )
    check_shapes(q[:, :G], k, v)


def window_mask(
    T: int,
    S: int,
    window: int | None,
    device: torch.device | str | None = None,
) -> Tensor:
    """:func:`causal_mask`, with nothing further back than a window.

    A token sees the ``window`` newest tokens, itself included; None is no
    limit. Bool, (T, S). Source: Beltagy et al. 2020, section 3.1; Jiang et
    al. 2023, section 2.

    Raises:
        ValueError: the window is below 1, or as :func:`causal_mask` does.

    >>> window_mask(3, 4, window=2).int().tolist()
    [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    """
    mask = causal_mask(T, S, device)
    if window is None:
        return mask
    if window < 1:
        raise ValueError(
            f"window is {window}; a token sees at least itself, so expected "
            "1 or more, or None for no limit."
        )
    return mask.triu(S - T - window + 1)


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """PyTorch's fused kernel under any mask, for grouped heads too.

    ``q`` is (B, H, T, D), ``k`` and ``v`` are (B, G, S, D) with H a
    multiple of G. ``mask`` is bool and broadcasts to (B, 1, T, S); without
    one, and without ``is_causal``, every query sees every key. Keys are
    shared and not copied. A single token's queries of one group become
    rows of one product, which reads the keys once.

    Raises:
        ValueError: the shapes do not fit together.

    >>> masked_attention(torch.ones(1, 2, 1, 4), *torch.ones(2, 1, 1, 3, 4))
    tensor([[[[1., 1., 1., 1.]],
    <BLANKLINE>
             [[1., 1., 1., 1.]]]])
    """
    check_groups(q, k, v)
    B, H, T, D = q.shape
    G = k.shape[1]
    if T == 1 and G < H:
        rows = q.reshape(B, G, H // G, D)
        mixed = F.scaled_dot_product_attention(rows, k, v, mask, dropout_p)
        return mixed.reshape(B, H, T, D)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout_p, is_causal, enable_gqa=G < H
    )


def grouped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """:func:`attention`, for grouped heads and within a window.

    Shapes as in :func:`masked_attention`; the queries are the last T of S
    tokens.

    >>> v = torch.tensor([[[[2.0], [4.0], [6.0]]]])
    >>> grouped_attention(v * 0, v, v, window=2).flatten().tolist()
    [2.0, 3.0, 5.0]
    """
    T, S = q.shape[-2], k.shape[-2]
    wide = window is None or window >= S
    if wide and T in (1, S):  # the newest token alone sees everything
        return masked_attention(q, k, v, None, dropout_p, is_causal=T > 1)
    mask = window_mask(T, S, window, q.device)
    return masked_attention(q, k, v, mask, dropout_p)


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None = None,
    dropout_p: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`grouped_attention` by two products that store the weights.

    Shapes as there, with as many queries as keys; ``mask``, bool and
    broadcasting to (B, 1, T, T), takes the place of ``window``. Everything
    stays in the numbers' own format. In 16 bits on a processor this is
    quicker than the fused kernel while T is small, for products of whole
    matrices are what its units are made for; the (T, T) weights are kept
    for the backward pass.

    >>> v = torch.tensor([[[[2.0], [4.0], [6.0]]]])
    >>> plain_attention(v * 0, v, v, window=2).flatten().tolist()
    [2.0, 3.0, 5.0]
    """
    check_groups(q, k, v)
    H, T, D = q.shape[1:]
    k, v = repeat_heads(k, H), repeat_heads(v, H)
    seen = window_mask(T, T, window, q.device) if mask is None else mask
    hidden = torch.zeros(seen.shape, dtype=q.dtype, device=q.device)
    hidden = hidden.masked_fill(~seen, -math.inf)
    with torch.autocast(q.device.type, enabled=False):
        scores = (q / math.sqrt(D)) @ k.transpose(-2, -1) + hidden
        weights = F.dropout(scores.softmax(dim=-1), dropout_p)
        return weights @ v


def is_short(q: Tensor, k: Tensor) -> bool:
    """Whether :func:`plain_attention` is the quicker way to train here.

    So it was measured (``benchmarks/training.py``, chapter 10): where a
    processor computes in bfloat16, up to ``PLAIN_TOKENS`` tokens.
    """
    T, S = q.shape[-2], k.shape[-2]
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and torch.is_autocast_enabled("cpu")
        and 1 < T == S <= PLAIN_TOKENS
    )


def training_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None = None,
    dropout_p: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`grouped_attention` by the quicker of two ways.

    With a ``mask`` it is :func:`masked_attention`, and has no window.

    >>> v = torch.tensor([[[[2.0], [4.0], [6.0]]]])
    >>> training_attention(v * 0, v, v, window=2).flatten().tolist()
    [2.0, 3.0, 5.0]
    """
    if is_short(q, k):
        return plain_attention(q, k, v, window, dropout_p, mask)
    if mask is not None:
        return masked_attention(q, k, v, mask, dropout_p)
    return grouped_attention(q, k, v, window, dropout_p)


def record_weights(store: list[Tensor], window: int | None = None) -> Attend:
    """Causal attention that also appends its weights to ``store``.

    Pass the result as ``attend``: the module computes the same output, and
    each call leaves one tensor (B, H, T, S), detached, in ``store``. What
    comes in 16 bits is computed in 32, as the fused kernels do.

    >>> seen = []
    >>> _ = record_weights(seen)(*torch.zeros(3, 1, 1, 2, 4))
    >>> seen[0].squeeze().tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        H, T, S = q.shape[1], q.shape[-2], k.shape[-2]
        k, v = repeat_heads(k, H), repeat_heads(v, H)
        mask = window_mask(T, S, window, q.device)
        exact = torch.promote_types(q.dtype, torch.float32)
        q_k_v = (x.to(exact) for x in (q, k, v))
        mixed, weights = naive_attention(*q_k_v, mask)
        store.append(weights.detach())
        return mixed.to(q.dtype)

    return attend


def check_width(x: Tensor, C: int) -> None:
    """Refuse what is not a batch of sequences of vectors (B, T, C).

    >>> check_width(torch.zeros(1, 3, 8), C=8)
    """
    if x.ndim != 3 or x.shape[-1] != C:
        raise ValueError(
            f"got x {tuple(x.shape)}; expected (B, T, C) with C={C}."
        )


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Cut the width into heads: (B, T, C) to (B, H, T, D), with C = H D.

    Raises:
        ValueError: ``x`` does not have three axes, or C is no multiple of H.

    >>> split_heads(torch.zeros(1, 3, 8), n_head=2).shape
    torch.Size([1, 2, 3, 4])
    """
    if x.ndim != 3 or n_head < 1 or x.shape[-1] % n_head:
        raise ValueError(
            f"got x {tuple(x.shape)} and n_head={n_head}; expected (B, T, C) "
            "with C a multiple of n_head, for heads share the width equally."
        )
    B, T, C = x.shape
    return x.view(B, T, n_head, C // n_head).transpose(1, 2)  # (B, H, T, D)


def merge_heads(x: Tensor) -> Tensor:
    """Lay the heads side by side again: (B, H, T, D) to (B, T, C).

    >>> x = torch.arange(24.0).view(1, 3, 8)
    >>> torch.equal(merge_heads(split_heads(x, n_head=2)), x)
    True
    """
    if x.ndim != 4:
        raise ValueError(
            f"got x {tuple(x.shape)}; expected (B, H, T, D), as split_heads "
            "returns it."
        )
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)  # (B, T, C)


class CausalSelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, (B, T, C) to (B, T, C).

    ``attend`` says how tokens mix; any function of q, k, v may stand in for
    the causal default. Source: Vaswani et al. 2017, section 3.2.2.

    >>> layer = CausalSelfAttention(GPTConfig(n_head=2, n_embd=8))
    >>> layer(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, bias = config.n_embd, config.bias
        self.n_head, self.dropout = config.n_head, config.dropout
        self.qkv = nn.Linear(C, 3 * C, bias=bias)
        self.output = nn.Linear(C, C, bias=bias)
        self.output_dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every token, each (B, H, T, D)."""
        C = self.qkv.in_features
        check_width(x, C)
        q, k, v = (
            split_heads(part, self.n_head)
            for part in self.qkv(x).split(C, dim=-1)
        )
        return q, k, v

    def forward(self, x: Tensor, attend: Attend = attention) -> Tensor:
        q, k, v = self.project(x)
        if attend is attention and self.training:
            attend = partial(attention, dropout_p=self.dropout)
        mixed = merge_heads(attend(q, k, v))  # (B, T, C)
        return self.output_dropout(self.output(mixed))


class GroupedQueryAttention(CausalSelfAttention):
    """Attention in which groups of heads share their keys and values.

    (B, T, C) to (B, T, C). ``config.kv_heads`` heads G of keys and values
    serve the H heads of queries: with G = H it is multi-head attention,
    with G = 1 multi-query. Plain causal attention is done in groups too.
    Source: Ainslie et al. 2023, section 2.2; Shazeer 2019, section 3.

    >>> config = GPTConfig(n_head=4, n_kv_head=2, n_embd=8)
    >>> [part.shape[1] for part in GroupedQueryAttention(config).project(
    ...     torch.zeros(1, 3, 8))]
    [4, 2, 2]
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        C, D, G = config.n_embd, config.head_dim, config.kv_heads
        self.n_kv_head = G
        self.qkv = nn.Linear(C, C + 2 * G * D, bias=config.bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), and keys and values (B, G, T, D)."""
        C, G = self.qkv.in_features, self.n_kv_head
        check_width(x, C)
        shared = C // self.n_head * G  # G D
        q, k, v = self.qkv(x).split([C, shared, shared], dim=-1)
        q = split_heads(q, self.n_head)
        return q, split_heads(k, G), split_heads(v, G)

    def forward(self, x: Tensor, attend: Attend = grouped_attention) -> Tensor:
        if attend in (attention, grouped_attention):
            dropout_p = self.dropout if self.training else 0.0
            attend = partial(grouped_attention, dropout_p=dropout_p)
        return super().forward(x, attend)


def new_attention(config: GPTConfig) -> CausalSelfAttention:
    """The attention layer that ``config`` asks for."""
    grouped = config.kv_heads != config.n_head
    return (GroupedQueryAttention if grouped else CausalSelfAttention)(config)
