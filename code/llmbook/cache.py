"""Keys and values of the tokens already read, kept for the next one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from llmbook.attention import Attend, grouped_attention, masked_attention


class KVCache:
    """Room for the keys and values of every layer, up to the context.

    Memory is taken once: two tensors (n_layer, B, G, S, D), with a place
    for each of ``context_length`` tokens, or of the ``window`` newest where
    older ones are out of sight: they are written over. ``length`` tokens
    have been read; a forward pass through :meth:`attends` adds its own. It
    is for generation: what is stored carries no gradient.

    Args:
        n_layer: blocks.
        batch_size: rows B.
        n_head: heads G of keys and values.
        head_dim: numbers D in a key.
        context_length: the most tokens that are read.
        dtype: of what is stored.
        device: where it is stored.
        window: the most tokens that a token sees; None is all.

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
        window: int | None = None,
    ) -> None:
        places = min(context_length, window or context_length)
        shape = (n_layer, batch_size, n_head, places, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.context_length = context_length
        self.window = window
        self.length = 0
        self._half_done = False

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken, full or not."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def clear(self) -> None:
        """Forget every token; the memory stays."""
        self.length = 0
        self._half_done = False

    def attends(self) -> list[Attend]:
        """One function a layer, for ``GPT.forward(attends=...)``.

        Pass ``start=cache.length`` beside it. ``length`` moves once the
        last layer has run, so a pass that fails half-way leaves it alone.
        """
        slides = self.keys.shape[-2] < self.context_length
        attend = self._attend_sliding if slides else self._attend
        return [partial(attend, layer) for layer in range(len(self.keys))]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        end = self.length + k.shape[-2]
        self._check(k, end)
        self.keys[layer, :, :, self.length : end] = k.detach()
        self.values[layer, :, :, self.length : end] = v.detach()
        if layer == len(self.keys) - 1:
            self.length = end
        keys, values = self.keys[layer], self.values[layer]
        return grouped_attention(
            q, keys[:, :, :end], values[:, :, :end], self.window
        )

    def _attend_sliding(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Token n stands at place n modulo the number of places."""
        end, places = self.length + k.shape[-2], self.keys.shape[-2]
        self._check(k, end)
        self._check_whole(layer)
        if end == self.length + 1:
            # The token takes the place of the one that falls out of sight.
            # It sees all that is left, and attention asks for no order.
            self._write_over(layer, k, v)
            keys, values = self.keys[layer], self.values[layer]
            filled = min(end, places)
            mixed = masked_attention(
                q, keys[:, :, :filled], values[:, :, :filled]
            )
        else:
            keys, values = self._in_order(layer, k, v)
            mixed = grouped_attention(q, keys, values, self.window)
            self._write_over(layer, k, v)
        if layer == len(self.keys) - 1:
            self.length, self._half_done = end, False
        return mixed

    def _in_order(
        self, layer: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the first of the new tokens may see, and the new behind."""
        places = self.keys.shape[-2]
        oldest = max(0, self.length - places + 1)
        seen = torch.arange(oldest, self.length, device=k.device) % places
        return (
            torch.cat([self.keys[layer][:, :, seen], k], dim=-2),
            torch.cat([self.values[layer][:, :, seen], v], dim=-2),
        )

    def _write_over(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store the new tokens in the places of the oldest."""
        T, places = k.shape[-2], self.keys.shape[-2]
        end, kept = self.length + T, min(T, places)
        slots = torch.arange(end - kept, end, device=k.device) % places
        # Under autocast they come in 16 bits, and are not cast by themselves.
        k, v = k.detach().to(self.keys), v.detach().to(self.values)
        self.keys[layer][:, :, slots] = k[:, :, -kept:]
        self.values[layer][:, :, slots] = v[:, :, -kept:]

    def _check_whole(self, layer: int) -> None:
        """Refuse to go on after a pass that ended half-way."""
        if layer == 0 and self._half_done:
            raise ValueError(
                "the last pass ended before the last layer, and has written "
                "over tokens that this one needs. Clear the cache and feed "
                "the text again."
            )
        self._half_done = True

    def _check(self, k: Tensor, end: int) -> None:
        _, B, H, _, D = self.keys.shape
        if end > self.context_length:
            raise ValueError(
                f"the cache holds {self.length} of {self.context_length} "
                f"tokens, and {k.shape[-2]} more do not fit. Clear it and "
                f"feed the last {self.context_length} tokens or fewer."
            )
        if k.shape[:2] != (B, H) or k.shape[-1] != D:
            raise ValueError(
                f"got keys of shape {tuple(k.shape)}; this cache was made "
                f"for ({B}, {H}, T, {D}): batch, heads, tokens, head size. "
                "Make one for this model and batch."
            )
