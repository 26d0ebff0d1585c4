"""Keys and values of the tokens already read, kept for the next one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def _attend_last(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention where the T queries are the last of S tokens."""
    T, S = q.shape[-2], k.shape[-2]
    if T == 1:  # the newest token may look at everything
        return F.scaled_dot_product_attention(q, k, v)
    if T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(q, k, v, mask)


class KVCache:
    """Room for the keys and values of every layer, up to the context.

    Memory is taken once: two tensors (n_layer, B, H, context_length, D).
    ``length`` tokens are filled; a forward pass through :meth:`attends`
    adds its own. It is for generation: what is stored carries no gradient.

    >>> cache = KVCache(1, 1, n_head=2, head_dim=4, context_length=8)
    >>> [attend] = cache.attends()
    >>> attend(*torch.zeros(3, 1, 2, 5, 4)).shape, cache.length
    (torch.Size([1, 2, 5, 4]), 5)
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        n_head: int,
        head_dim: int,
        context_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (n_layer, batch_size, n_head, context_length, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    @property
    def context_length(self) -> int:
        """The most tokens that fit."""
        return self.keys.shape[-2]

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken, full or not."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def clear(self) -> None:
        """Forget every token; the memory stays."""
        self.length = 0

    def attends(self) -> list[Attend]:
        """One function a layer, for ``GPT.forward(attends=...)``.

        Pass ``start=cache.length`` beside it. ``length`` moves once the
        last layer has run, so a pass that fails half-way leaves it alone.
        """
        return [
            partial(self._attend, layer) for layer in range(len(self.keys))
        ]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        end = self.length + k.shape[-2]
        self._check(k, end)
        self.keys[layer, :, :, self.length : end] = k.detach()
        self.values[layer, :, :, self.length : end] = v.detach()
        if layer == len(self.keys) - 1:
            self.length = end
        return _attend_last(
            q, self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        )

    def _check(self, k: Tensor, end: int) -> None:
        _, B, H, context_length, D = self.keys.shape
        if end > context_length:
            raise ValueError(
                f"the cache holds {self.length} of {context_length} tokens, "
                f"and {k.shape[-2]} more do not fit. Clear it and feed the "
                f"last {context_length} tokens or fewer."
            )
        if k.shape[:2] != (B, H) or k.shape[-1] != D:
            raise ValueError(
                f"got keys of shape {tuple(k.shape)}; this cache was made "
                f"for ({B}, {H}, T, {D}): batch, heads, tokens, head size. "
                "Make one for this model and batch."
            )
