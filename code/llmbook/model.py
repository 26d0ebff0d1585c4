"""The decoder-only transformer, from token ids to logits and loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook import accounting
from llmbook.attention import (
    Attend,
    attention,
    grouped_attention,
    new_attention,
    record_weights,
    training_attention,
)
from llmbook.config import GPTConfig
from llmbook.layers import (
    MixtureOfExperts,
    mean_loss,
    new_feed_forward,
    new_norm,
)
from llmbook.positions import (
    check_each,
    check_fit,
    check_positions,
    new_positions,
    with_positions,
)

ID_TYPES = (torch.int64, torch.int32)  # those that an embedding looks up
# A block adds to the residual stream twice; these matrices write the sums.
RESIDUAL_WRITERS = ("attention.output.weight", "down.weight")


class Block(nn.Module):
    """One layer: tokens exchange, then each token thinks by itself.

    (B, T, C) to (B, T, C). Each half reads a normalised copy of the
    residual stream and adds its answer to the stream itself. Source:
    Radford et al. 2019, section 2.3 (norms moved to the inputs).

    >>> Block(GPTConfig(n_head=2, n_embd=8))(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = new_norm(config)
        self.attention = new_attention(config)
        self.norm_2 = new_norm(config)
        self.feed_forward = new_feed_forward(config)

    def forward(self, x: Tensor, attend: Attend = attention) -> Tensor:
        x = x + self.attention(self.norm_1(x), attend)
        return x + self.feed_forward(self.norm_2(x))


@torch.no_grad()
def initialise(
    model: nn.Module,
    config: GPTConfig,
    generator: torch.Generator | None = None,
) -> None:
    """Give ``model`` GPT-2's starting weights.

    Matrices are drawn from N(0, init_std); those that write into the
    residual stream are made smaller by 1 / sqrt(2 n_layer), the number of
    additions; biases are 0 and gains 1. Source: Radford et al. 2018,
    section 4.1, and Radford et al. 2019, section 2.3.
    """
    residual_std = config.init_std / (2 * config.n_layer) ** 0.5
    for name, parameter in model.named_parameters():
        if name.endswith(RESIDUAL_WRITERS):
            parameter.normal_(0.0, residual_std, generator=generator)
        elif parameter.ndim >= 2:
            parameter.normal_(0.0, config.init_std, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def check_ids(idx: Tensor, vocab_size: int) -> None:
    """Refuse what is not a batch of token ids.

    Raises:
        ValueError: ``idx`` is not a non-empty tensor (B, T) of int64 or
            int32, or an id is outside 0 ... vocab_size - 1.

    >>> check_ids(torch.tensor([[0, 3]]), vocab_size=4)
    """
    if idx.ndim != 2 or idx.numel() == 0 or idx.dtype not in ID_TYPES:
        raise ValueError(
            f"got ids of shape {tuple(idx.shape)} and {idx.dtype}; expected "
            "whole numbers (B, T) as torch.int64, at least one. Wrap one "
            "sequence as torch.tensor([ids])."
        )
    if torch.compiler.is_compiling():
        return  # looking at the values would break the graph
    low, high = (int(bound) for bound in idx.aminmax())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"got ids from {low} to {high}; this model's vocabulary has "
            f"{vocab_size} tokens, ids 0 to {vocab_size - 1}. Was the text "
            "encoded with the model's own tokenizer?"
        )


class GPT(nn.Module):
    """A decoder-only transformer: token ids in, next-token logits out.

    Args:
        config: its shape, and which parts it is made of.
        generator: draws the initial weights; None uses torch's own.

    Source: Radford et al. 2019, section 2.3.

    >>> model = GPT(GPTConfig(vocab_size=50, n_head=2, n_embd=8))
    >>> logits, loss = model(torch.tensor([[3, 1, 4]]))
    >>> logits.shape
    torch.Size([1, 3, 50])
    """

    def __init__(
        self, config: GPTConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        V, C = config.vocab_size, config.n_embd
        self.config = config
        self.token_embedding = nn.Embedding(V, C)
        self.position_embedding = new_positions(config)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config) for _ in range(config.n_layer)
        )
        self.final_norm = new_norm(config)
        if not config.tie_weights:
            self.head = nn.Linear(C, V, bias=False)
        initialise(self, config, generator)

    @property
    def head_weight(self) -> Tensor:
        """The matrix (V, C) that scores tokens; tied, the embedding's."""
        tied = self.config.tie_weights
        return self.token_embedding.weight if tied else self.head.weight

    def embed(
        self, idx: Tensor, start: int = 0, positions: Tensor | None = None
    ) -> Tensor:
        """Token vectors, and position vectors if the model adds any.

        (B, T) to (B, T, C). Positions count on from ``start``, unless
        ``positions``, (T,) or (B, T), gives each token its own.
        """
        x, table = self.token_embedding(idx), self.position_embedding
        if table is not None:
            one_by_one = positions is not None
            T = idx.shape[1]
            where = table.at(positions) if one_by_one else table(T, start)
            x = x + where.to(x)  # (B, T, C)
        return self.embedding_dropout(x)

    def hidden(
        self,
        idx: Tensor,
        attends: Sequence[Attend] | None = None,
        start: int = 0,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The residual stream after the final norm, (B, T) to (B, T, C).

        ``attends`` holds one attention function a block (a cache's, say).
        Positions are those of :meth:`embed`.

        Raises:
            ValueError: ids are out of range, the tokens reach past the
                context, or ``attends`` has the wrong length.
        """
        check_ids(idx, self.config.vocab_size)
        attends = self.placed(attends, idx, start, positions)
        x = self.embed(idx, start, positions)
        for block, attend in zip(self.blocks, attends, strict=True):
            x = block(x, attend)
        return self.final_norm(x)

    def placed(
        self,
        attends: Sequence[Attend] | None,
        idx: Tensor,
        start: int,
        positions: Tensor | None,
    ) -> Sequence[Attend]:
        """The attention of every block, told where the tokens stand.

        Only rotary positions and ALiBi change anything: they act on
        queries and keys, and not on what the blocks read.
        """
        if attends is None:
            attends = [self.own_attention()] * len(self.blocks)
        if len(attends) != len(self.blocks):
            raise ValueError(
                f"got {len(attends)} attention functions for "
                f"{len(self.blocks)} blocks; expected one for each."
            )
        if positions is not None:
            check_fit(positions, idx)
        if self.position_embedding is not None:
            return attends
        places, context = positions, self.config.context_length
        if places is None:
            check_positions(idx.shape[1], start, context)
            end = start + idx.shape[1]
            places = torch.arange(start, end, device=idx.device)
        else:
            check_each(places, context)
        return with_positions(attends, self.config, places)

    @property
    def attention_dropout(self) -> float:
        """The share of attention weights set to zero: 0 outside training."""
        return self.config.dropout if self.training else 0.0

    def own_attention(self) -> Attend:
        """How this model's tokens mix where nobody asks for another way."""
        c = self.config
        if self.training:
            way = training_attention
        elif c.window is None and c.kv_heads == c.n_head:
            return attention
        else:
            way = grouped_attention
        return partial(way, window=c.window, dropout_p=self.attention_dropout)

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        attends: Sequence[Attend] | None = None,
        start: int = 0,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V), and the loss when ``targets`` (B, T) are given.

        The loss is the mean negative log-probability of the targets, in
        nats a token; a target of -100 is left out. Errors as in
        :meth:`hidden`.

        Raises:
            ValueError: ``targets`` has another shape than ``idx``.
        """
        x = self.hidden(idx, attends, start, positions)
        logits = F.linear(x, self.head_weight)
        if targets is None:
            return logits, None
        if targets.shape != idx.shape:
            raise ValueError(
                f"got targets {tuple(targets.shape)} for ids "
                f"{tuple(idx.shape)}; expected one target a token."
            )
        loss = mean_loss(logits.flatten(0, 1), targets.flatten())
        return logits, self.balanced(loss)

    def balanced(self, loss: Tensor) -> Tensor:
        """``loss``, and while experts train, their load-balancing loss.

        Only a model with a mixture of experts has one.
        """
        if not (self.config.n_expert and self.training):
            return loss
        return loss + self.config.balance_weight * self.balance()

    def balance(self) -> Tensor:
        """The load-balancing loss of the last pass, mean over the layers.

        1 where every expert is used alike, up to ``n_expert``.
        """
        layers = [block.feed_forward for block in self.blocks]
        losses = [m.balance for m in layers if isinstance(m, MixtureOfExperts)]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def attention_weights(self, idx: Tensor) -> Tensor:
        """How much each token reads from each, (n_layer, B, H, T, T).

        The same forward pass as any other, without dropout, through
        attention functions that remember their weights.
        """
        was_training, weights = self.training, []
        self.eval()
        try:
            attend = record_weights(weights, self.config.window)
            self.hidden(idx, [attend] * len(self.blocks))
        finally:
            self.train(was_training)
        return torch.stack(weights)

    def num_parameters(self, non_embedding: bool = False) -> int:
        """How many numbers the model learns; shared ones count once.

        ``non_embedding`` leaves out token and position vectors and the
        head: N as scaling laws count it (Kaplan et al. 2020, section 2.1).

        >>> from llmbook.config import GPTConfig
        >>> GPT(GPTConfig(n_layer=1, n_head=1, n_embd=2)).num_parameters()
        2638
        """
        counted = self.named_parameters()
        outside = ("token_embedding", "position_embedding", "head")
        return sum(
            parameter.numel()
            for name, parameter in counted
            if not (non_embedding and name.startswith(outside))
        )

    def flops_per_token(self, T: int, training: bool = False) -> int:
        """Floating-point operations a token, in a sequence of ``T`` tokens.

        As :func:`llmbook.accounting.flops_per_token` counts them.
        """
        return accounting.flops_per_token(self.config, T, training)
