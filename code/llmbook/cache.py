"""Keys and values of the tokens already read, kept for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from llmbook.attention import Attend, grouped_attention, masked_attention

Pair = tuple[Tensor, Tensor]  # keys and values


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

    def cut(self, length: int) -> None:
        """Forget all tokens but the first ``length``; the memory stays.

        Raises:
            ValueError: fewer tokens have been read, or a token that the
                next one would see has been written over by a newer.

        >>> cache = KVCache(1, 1, n_head=1, head_dim=2, context_length=8)
        >>> _ = cache.attends()[0](*torch.zeros(3, 1, 1, 5, 2))
        >>> cache.cut(3)
        >>> cache.length
        3
        """
        if not 0 <= length <= self.length:
            raise ValueError(
                f"cannot keep {length} tokens: the cache has read "
                f"{self.length}. Give a number from 0 to {self.length}."
            )
        places = self.keys.shape[-2]
        oldest = max(0, self.length - places)  # that is still stored
        if length and max(0, length - places + 1) < oldest:
            raise ValueError(
                f"cannot keep {length} of {self.length} tokens: the window "
                f"stores the newest {places}, and the next token would see "
                "older ones. Make a KVCache without window=... for this."
            )
        self.length = length

    def select(self, rows: Tensor) -> None:
        """Go on with the rows of these numbers (B,), in this order.

        A row may be named twice or not at all: B becomes how many are named.
        """
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def attends(self) -> list[Attend]:
        """One function a layer, for ``GPT.forward(attends=...)``.

        Pass ``start=cache.length`` beside it. ``length`` moves once the
        last layer has run, so a pass that fails half-way leaves it alone.
        """
        slides = self.keys.shape[-2] < self.context_length
        attend = self._attend_sliding if slides else self._attend
        return [partial(attend, layer) for layer in range(len(self.keys))]

    def next_token(self) -> Iterator[tuple[Pair, Pair]]:
        """Where the next token of each row goes, layer by layer.

        First the places of its key and value, (B, G, 1, D) each, to write
        to; then the keys and values that it sees, (B, G, S, D) each, its
        own included. Once all layers have been taken, it counts as read.

        Raises:
            ValueError: the cache is full.

        >>> cache = KVCache(1, 1, n_head=2, head_dim=4, context_length=8)
        >>> [[new, seen]] = cache.next_token()
        >>> new[0].shape, cache.length
        (torch.Size([1, 2, 1, 4]), 1)
        """
        places = self.keys.shape[-2]
        if self.length >= self.context_length:
            self._check(self.keys[0, :, :, :1], self.length + 1)
        if places < self.context_length:
            self._check_whole(0)
        at, filled = self.length % places, min(self.length + 1, places)
        both = self.keys, self.values
        new = [x.narrow(-2, at, 1).unbind() for x in both]
        seen = [x.narrow(-2, 0, filled).unbind() for x in both]
        yield from zip(zip(*new), zip(*seen))  # noqa: B905
        self.length, self._half_done = self.length + 1, False

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
