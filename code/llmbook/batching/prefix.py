"""Keys and values of what comes before: read once, used by many rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from llmbook.attention import Attend, masked_attention
from llmbook.cache import KVCache
from llmbook.model import GPT

from .masks import Ids, left_pad, padded_mask, within


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Without dropout and without gradients, for a while."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class Prefix:
    """The beginning of many texts, read once.

    ``keys`` and ``values`` are (n_layer, 1, G, P, D), ``last`` (C,) is the
    residual stream of the last token, which predicts the next.
    """

    ids: tuple[int, ...]
    keys: Tensor
    values: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.ids)


class PaddedCache(KVCache):
    """A :class:`KVCache` whose rows begin with padding, and may leave.

    ``pads`` (B,) counts the padding of each row, behind ``prefix`` where
    there is one; ``columns`` of both and of tokens fit. Rows of different
    lengths leave a window at different columns, so none is written over.
    """

    def __init__(
        self,
        model: GPT,
        pads: Tensor,
        columns: int,
        prefix: Prefix | None = None,
    ) -> None:
        c, weight = model.config, model.head_weight
        super().__init__(
            n_layer=c.n_layer,
            batch_size=len(pads),
            n_head=c.kv_heads,
            head_dim=c.key_width,
            context_length=columns,
            dtype=weight.dtype,
            device=weight.device,
        )
        self.pads, self.window = pads, c.window
        self.length = self.prefix_length = 0 if prefix is None else len(prefix)
        if prefix is not None:
            self.keys[..., : len(prefix), :] = prefix.keys
            self.values[..., : len(prefix), :] = prefix.values

    def mask(self, T: int) -> Tensor:
        """Where the next ``T`` columns may look, (B, 1, T, S)."""
        S = self.length + T
        return padded_mask(self.pads, T, S, self.prefix_length)

    def masked_attends(self, mask: Tensor) -> list[Attend]:
        """One function a layer that stores, then looks where it may.

        Within the model's window, where it has one: ``mask`` is as
        :meth:`mask` gives it, for positions are counted from it too.
        """
        if self.window is not None:
            columns = torch.arange(mask.shape[-1], device=mask.device)
            before = self.pads[:, None] * (columns >= self.prefix_length)
            mask = within(mask, columns - before, self.window)
        return [
            partial(self._attend_masked, mask, layer)
            for layer in range(len(self.keys))
        ]

    def _attend_masked(
        self, mask: Tensor, layer: int, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        end = mask.shape[-1]
        self._check(k, end)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        if layer == len(self.keys) - 1:
            self.length = end
        keys, values = self.keys[layer], self.values[layer]
        return masked_attention(q, keys[:, :, :end], values[:, :, :end], mask)

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but those numbered in ``rows``."""
        self.pads = self.pads[rows]
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def shared_prefix(model: GPT, ids: Ids) -> Prefix:
    """Read ``ids`` once, for all the texts that begin with them.

    Raises:
        ValueError: there are no ids, or more than the context holds.
    """
    row, pads = left_pad([ids], device=model.head_weight.device)
    cache = PaddedCache(model, pads, columns=len(ids))
    with evaluating(model):
        x = model.hidden(row, cache.attends())
    return Prefix(tuple(ids), cache.keys, cache.values, x[0, -1])


def common_prefix(rows: Sequence[Ids]) -> list[int]:
    """The ids that all ``rows`` begin with, one token of each left over.

    >>> common_prefix([[1, 2, 3], [1, 2, 4, 5]])
    [1, 2]
    >>> common_prefix([[1, 2], [1, 2, 4]])
    [1]
    """
    shared = []
    for column in zip(*(row[:-1] for row in rows), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared


def without(prefix: Prefix | None, ids: Ids) -> list[int]:
    """What is left of ``ids`` after the prefix, which they begin with."""
    if prefix is None:
        return list(ids)
    if tuple(ids[: len(prefix)]) != prefix.ids:
        raise ValueError(
            f"a text begins with {list(ids[: len(prefix)])[:8]}..., not with "
            f"the shared prefix {list(prefix.ids)[:8]}...; give each text "
            "whole, the prefix included."
        )
    return list(ids[len(prefix) :])


def attends_after(
    prefix: Prefix,
    mask: Tensor,
    positions: Tensor,
    window: int | None = None,
) -> list[Attend]:
    """Attention that sees the prefix, then what ``mask`` allows.

    ``positions`` (B, T) are those of the columns of ``mask``, the prefix
    counted; nothing further back than ``window`` is seen.
    """
    B, _, T, _ = mask.shape
    before = mask.new_ones(B, 1, T, len(prefix))
    mask = torch.cat([before, mask], dim=-1)  # (B, 1, T, P + T)
    earlier = torch.arange(len(prefix), device=mask.device).expand(B, -1)
    mask = within(mask, torch.cat([earlier, positions], dim=-1), window)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = prefix.keys[layer].expand(B, -1, -1, -1)
        values = prefix.values[layer].expand(B, -1, -1, -1)
        k, v = torch.cat([keys, k], dim=-2), torch.cat([values, v], dim=-2)
        return masked_attention(q, k, v, mask)

    return [partial(attend, layer) for layer in range(len(prefix.keys))]
