"""Causal self-attention: how each token reads from the ones before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.config import GPTConfig

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse queries, keys and values that do not fit together.

    Raises:
        ValueError: ``q`` is not (B, H, T, D), or ``k`` and ``v`` are not
            (B, H, S, D); the message has the three shapes.

    >>> check_shapes(*torch.zeros(3, 1, 2, 4, 8))
    """
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(
            f"got {shapes}; expected four axes each, (B, H, T, D). Cut the "
            "width into heads with split_heads first."
        )
    if q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"got {shapes}; queries and keys need the same B, H and D. "
            "Only their number of tokens may differ."
        )
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            f"got {shapes}; each key needs its value, so k and v need the "
            "same B, H and S."
        )


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


def record_weights(store: list[Tensor]) -> Attend:
    """Causal attention that also appends its weights to ``store``.

    Pass the result as ``attend``: the module computes the same output, and
    each call leaves one tensor (B, H, T, S), detached, in ``store``.

    >>> seen = []
    >>> _ = record_weights(seen)(*torch.zeros(3, 1, 1, 2, 4))
    >>> seen[0].squeeze().tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = causal_mask(q.shape[-2], k.shape[-2], q.device)
        mixed, weights = naive_attention(q, k, v, mask)
        store.append(weights.detach())
        return mixed

    return attend


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
        if x.ndim != 3 or x.shape[-1] != C:
            raise ValueError(
                f"got x {tuple(x.shape)}; expected (B, T, C) with C={C}."
            )
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
