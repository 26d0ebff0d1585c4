"""One more token, as fast as the weights can be read.

A step of generation takes one token a row through the model: hardly any
arithmetic, and every weight is read once. What then costs time, beside the
reading, is everything around it: calling modules, checking shapes, cutting
tensors. :class:`Decoder` computes what the model's own pass with a cache
computes, with the model's own weights, without what is around it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.attention import CausalSelfAttention, GroupedQueryAttention
from llmbook.cache import KVCache
from llmbook.config import GPTConfig
from llmbook.layers import (
    FeedForward,
    LayerNorm,
    MixtureOfExperts,
    RMSNorm,
    SwiGLU,
    gelu,
    route,
)
from llmbook.model import GPT, Block
from llmbook.positions import (
    LearnedPositions,
    SinusoidalPositions,
    check_positions,
    rotary_speeds,
    with_alibi,
)

# What this file knows how to compute. A module of any other kind, an adapter
# for one, or a layer that somebody has changed, is left to the model itself.
KNOWN = (
    GPT,
    Block,
    CausalSelfAttention,
    GroupedQueryAttention,
    FeedForward,
    SwiGLU,
    MixtureOfExperts,
    LayerNorm,
    RMSNorm,
    LearnedPositions,
    SinusoidalPositions,
    nn.Linear,
    nn.Embedding,
    nn.Dropout,
    nn.ModuleList,
)
COPIES = 2**29  # bytes: enough for GPT-2's 124 million numbers
Part = Callable[[Tensor], Tensor]
Make = Callable[[Tensor, Tensor | None], Part]
Pair = tuple[Tensor, Tensor]  # of keys and values


def covers(model: nn.Module) -> bool:
    """Whether a :class:`Decoder` computes what ``model`` does.

    Not where a module is of a kind that it does not know, or has a
    ``forward`` of its own put on it.

    >>> covers(GPT(GPTConfig(n_layer=1, n_head=1, n_embd=2)))
    True
    >>> covers(nn.LSTM(2, 2))
    False
    """
    return type(model) is GPT and all(
        type(module) in KNOWN and "forward" not in vars(module)
        for module in model.modules()
    )


class Decoder:
    """A model's step for one more token a row, made for one generation.

    The weights are the model's own tensors: what is done to them is seen by
    the next step. Modules that are exchanged are not, so that a new
    generation takes a new decoder, which costs less than a token.

    Args:
        model: the model; one that :func:`covers` accepts.
        cache: what it has read, which :meth:`step` goes on from.
        packed: for one row in float32 on the processor, keep a copy of
            each matrix with as many rows as columns or more, laid out by
            columns. Such a copy is read faster, and takes as long to make
            as some 25 tokens. All together take ``COPIES`` bytes at most.
            A step after the matrix has changed is refused by :meth:`ready`.

    Raises:
        ValueError: the model has parts that are not known here.

    >>> model = GPT(GPTConfig(vocab_size=9, n_layer=1, n_head=1, n_embd=4))
    >>> cache = KVCache(1, 1, n_head=1, head_dim=4, context_length=8)
    >>> Decoder(model, cache).step(torch.tensor([3])).shape, cache.length
    (torch.Size([1, 9]), 1)
    """

    def __init__(
        self, model: GPT, cache: KVCache, packed: bool = False
    ) -> None:
        if not covers(model):
            raise ValueError(
                "this model has parts that the fast step does not know, "
                "adapters perhaps. Run the model itself, or merge them."
            )
        c = self.config = model.config
        self.cache = cache
        self.heads = c.n_head, c.kv_heads, c.head_dim
        self.alone = cache.keys.shape[1] == 1  # one row: vectors, no matrices
        like = cache.keys.dtype, cache.keys.device.type
        self.packs = packed and self.alone and like == (torch.float32, "cpu")
        self._copied: list[tuple[Tensor, int]] = []  # and their versions
        self.table = model.token_embedding.weight
        self.positions = model.position_embedding
        self.blocks = [self._parts(block) for block in model.blocks]
        self.final_norm = norm_of(model.final_norm)
        self.head = self._product(model.head_weight, None)
        self.turns = turns_of(model.config, cache)
        self._hooks = [
            hooks
            for module in model.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]

    def _parts(self, block: Block) -> tuple[Part, ...]:
        """A block's norms and products: the steps of one token, in order."""
        attention = block.attention
        return (
            norm_of(block.norm_1),
            linear_of(attention.qkv, self._product),
            linear_of(attention.output, self._product),
            norm_of(block.norm_2),
            feed_of(block.feed_forward, self._product),
        )

    def _product(self, weight: Tensor, bias: Tensor | None) -> Part:
        """:func:`product`, by a copy of ``weight`` where that is faster."""
        rows, columns = weight.shape
        fits = sum(w.nbytes for w, _ in self._copied) + weight.nbytes <= COPIES
        slow = rows >= columns and not weight.is_inference()
        if self.packs and slow and fits:
            self._copied.append((weight, weight._version))
            weight = weight.detach().t().contiguous().t()
        return product(weight, bias, self.alone)

    def ready(self) -> bool:
        """Whether a step is the model's own.

        It is not while somebody listens in, under autocast, and once a
        weight that was copied has changed.
        """
        kind = self.table.device.type
        if any(self._hooks) or torch.is_autocast_enabled(kind):
            return False
        return all(weight._version == was for weight, was in self._copied)

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Logits (B, V) behind one more token of each row, ``ids`` (B,).

        Raises:
            ValueError: the cache or the context is full.
        """
        at = self.cache.length
        check_positions(1, at, self.config.context_length)
        x, where = self._embed(ids, at), self._where(at)
        places = self.cache.next_token()
        for parts, place in zip(self.blocks, places, strict=True):
            norm_1, qkv, output, norm_2, feed_forward = parts
            x = x + output(self._mixed(qkv(norm_1(x)), where, *place))
            x = x + feed_forward(norm_2(x))
        return self.head(self.final_norm(x)).view(len(ids), -1)

    def _embed(self, ids: Tensor, at: int) -> Tensor:
        """What the first block reads: (B, C), or (C,) of one row alone."""
        x = F.embedding(ids, self.table)
        if isinstance(self.positions, LearnedPositions):
            x = x + self.positions.weight[at]
        elif self.positions is not None:
            x = x + self.positions(1, at).to(x)
        return x[0] if self.alone else x

    def _where(self, at: int) -> tuple[Tensor, ...]:
        """What queries and keys have to know of their position."""
        if self.config.positions == "alibi":
            return (torch.tensor([at], device=self.table.device),)
        return tuple(table[at] for table in self.turns)

    def _mixed(
        self, qkv: Tensor, where: tuple[Tensor, ...], new: Pair, seen: Pair
    ) -> Tensor:
        """What the heads of a block fetch, as wide as the stream.

        ``new`` are the places of the token's keys and values
        (B, G, 1, W), ``seen`` all that it looks at (B, G, S, W).
        """
        H, G, D = self.heads
        heads = qkv.view(-1, H + 2 * G, 1, D)
        q, k, v = heads.split((H, G, G), dim=1)
        attend = partial(attend_newest, new, seen)
        if self.turns:
            q, k = turned(heads[:, : H + G], *where).split((H, G), dim=1)
        elif where:
            attend = with_alibi(attend, *where)
        mixed = attend(q, k, v)
        return mixed.reshape(-1) if self.alone else mixed.reshape(-1, H * D)


def attend_newest(
    new: Pair, seen: Pair, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Store the newest token's key and value, then look at all there are.

    ``q`` is (B, H, 1, W), ``k`` and ``v`` are (B, G, 1, W). Queries that
    share their keys become rows of one product, which reads them once.
    """
    new[0].copy_(k)
    new[1].copy_(v)
    if q.shape[1] == k.shape[1]:
        return F.scaled_dot_product_attention(q, *seen)
    rows = q.reshape(*k.shape[:2], -1, q.shape[-1])
    return F.scaled_dot_product_attention(rows, *seen).reshape(q.shape)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """:func:`llmbook.positions.rotate` with tables as wide as ``x``.

    ``cos`` and ``sin`` are (D,), as :func:`turns_of` makes them.

    >>> cos, sin = torch.zeros(2), torch.tensor([-1.0, 1.0])  # a quarter
    >>> turned(torch.tensor([3.0, 0.0]), cos, sin).tolist()
    [0.0, 3.0]
    """
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cos, swapped, sin)


def turns_of(config: GPTConfig, cache: KVCache) -> tuple[Tensor, ...]:
    """Cosines and sines (T, D) of every position that ``cache`` has room for.

    The second half of a head repeats the angles of the first; the sines of
    the first half carry the minus sign. Without rotary positions, nothing.
    """
    if config.positions != "rotary":
        return ()
    keys, c = cache.keys, config
    speeds = rotary_speeds(c.head_dim, c.rope_theta, c.rope_scaling)
    angles = torch.arange(cache.context_length)[:, None] * speeds
    cos, sin = angles.cos(), angles.sin()  # (T, D / 2)
    tables = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return tuple(table.to(keys.device, keys.dtype) for table in tables)


def product(
    weight: Tensor, bias: Tensor | None = None, alone: bool = False
) -> Part:
    """x to W x + b: of rows (B, in), or of one vector (in,) ``alone``.

    PyTorch has a routine for a matrix times a vector. It takes a fraction
    of the time around the work, and in bfloat16 it is up to three times as
    fast as the one for two matrices, which first packs the weights for rows
    that do not come.

    >>> product(torch.eye(2), torch.ones(2), alone=True)(torch.ones(2))
    tensor([2., 2.])
    """
    if not alone:
        return partial(F.linear, weight=weight, bias=bias)
    if bias is None:
        return partial(torch.mv, weight)
    return partial(torch.addmv, bias, weight)


def linear_of(layer: nn.Linear, make: Make = product) -> Part:
    """What ``layer`` computes, by a product that ``make`` makes."""
    return make(layer.weight, layer.bias)


def norm_of(norm: nn.Module) -> Part:
    """What ``norm`` computes."""
    if isinstance(norm, RMSNorm):
        return norm.forward
    return partial(
        F.layer_norm,
        normalized_shape=norm.weight.shape,
        weight=norm.weight,
        bias=norm.bias,
        eps=norm.eps,
    )


def feed_of(layer: nn.Module, make: Make = product) -> Part:
    """What a feed-forward layer of any kind computes, without dropout."""
    if isinstance(layer, MixtureOfExperts):
        feeds = [feed_of(expert) for expert in layer.experts]
        return partial(experts, linear_of(layer.router), feeds, layer.k)
    up, down = linear_of(layer.up, make), linear_of(layer.down, make)
    if isinstance(layer, SwiGLU):
        gate = linear_of(layer.gate, make)
        return lambda x: down(F.silu(gate(x)) * up(x))
    return lambda x: down(gelu(up(x)))


def experts(router: Part, feeds: list[Part], k: int, x: Tensor) -> Tensor:
    """A mixture of experts of which only the chosen ones are asked.

    ``x`` is (B, C) or (C,), and so is the answer.
    """
    rows = x.view(-1, x.shape[-1])
    chosen, weights = route(router(rows).float(), k)  # (B, k) each
    answer = torch.zeros_like(rows)
    for number in chosen.unique().tolist():
        row, choice = torch.where(chosen == number)
        share = weights[row, choice, None].to(rows.dtype)  # (n, 1)
        answer.index_add_(0, row, share * feeds[number](rows[row]))
    return answer.view_as(x)
