"""The parts of a block that work on one token at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.config import GPTConfig

LOSS_ROWS = 256  # tokens whose scores are in float32 at once
IGNORED = -100  # a target that is left out, as in torch's cross_entropy
GELU_CUBIC = 0.044715  # Hendrycks and Gimpel 2016, section 2


def naive_layer_norm(
    x: Tensor,
    gain: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each vector of ``x`` shifted to mean 0 and scaled to variance 1.

    ``x`` is (..., C); ``gain`` and ``bias`` are (C,) and are applied last.
    The variance divides by C, not by C - 1. Source: Ba et al. 2016,
    section 3, equation 3; ``eps`` keeps a constant vector from dividing
    by zero.

    >>> naive_layer_norm(torch.tensor([1.0, 3.0]), torch.ones(2), eps=0.0)
    tensor([-1.,  1.])
    """
    mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
    variance = x.var(dim=-1, keepdim=True, correction=0)
    normal = (x - mean) / torch.sqrt(variance + eps)  # (..., C)
    return normal * gain if bias is None else normal * gain + bias


class LayerNorm(nn.Module):
    """Layer normalisation with a trained gain and bias, by a fused kernel.

    The same numbers as :func:`naive_layer_norm`, in one pass over memory.
    (..., C) to (..., C). Source: Ba et al. 2016, section 3.

    >>> LayerNorm(2)(torch.tensor([1.0, 3.0])).round(decimals=3).tolist()
    [-1.0, 1.0]
    """

    def __init__(
        self, n_embd: int, bias: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.bias = nn.Parameter(torch.zeros(n_embd)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, self.weight.shape, self.weight, self.bias, self.eps
        )


def naive_gelu(x: Tensor) -> Tensor:
    """GPT-2's activation: x times an estimate of P(Z <= x), Z ~ N(0, 1).

    The tanh form of Hendrycks and Gimpel 2016, section 2, which GPT-2's
    weights were trained with; it stays within 0.001 of the exact function.

    >>> naive_gelu(torch.tensor([-10.0, 0.0, 10.0])).abs().tolist()
    [0.0, 0.0, 10.0]
    """
    inner = math.sqrt(2 / math.pi) * (x + GELU_CUBIC * x**3)
    return 0.5 * x * (1 + torch.tanh(inner))


def gelu(x: Tensor) -> Tensor:
    """:func:`naive_gelu` by a fused kernel.

    >>> gelu(torch.tensor([-10.0, 0.0, 10.0])).abs().tolist()
    [0.0, 0.0, 10.0]
    """
    return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers and a bend between, for each token alone.

    (B, T, C) to (B, T, C) through a width F, which is 4 C as a rule.
    Source: Vaswani et al. 2017, equation 2, with GELU for ReLU as in GPT
    (Radford et al. 2018, section 4.1).

    >>> FeedForward(GPTConfig(n_head=2, n_embd=8))(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, width, bias = config.n_embd, config.ff_width, config.bias
        self.up = nn.Linear(C, width, bias=bias)
        self.down = nn.Linear(width, C, bias=bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = gelu(self.up(x))  # (B, T, F)
        return self.dropout(self.down(hidden))  # (B, T, C)


def naive_rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    """Each vector of ``x`` divided by the root of its mean square.

    ``x`` is (..., C) and ``gain`` (C,). What LayerNorm does without moving
    the mean to 0 and without a bias. Source: Zhang and Sennrich 2019,
    equation 4.

    >>> naive_rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2)) ** 2
    tensor([0.7200, 1.2800])
    """
    mean_square = (x * x).mean(dim=-1, keepdim=True)  # (..., 1)
    return x / torch.sqrt(mean_square + eps) * gain


class RMSNorm(nn.Module):
    """:func:`naive_rms_norm` with a trained gain, (..., C) to (..., C).

    The mean square is taken in float32 whatever the stream is in, for in
    16 bits squares lose what a norm is about. Source: Zhang and Sennrich
    2019, equation 4.

    >>> RMSNorm(2)(torch.tensor([1.0, -1.0])).round(decimals=3).tolist()
    [1.0, -1.0]
    """

    def __init__(self, n_embd: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normal = F.rms_norm(x.float(), self.weight.shape, eps=self.eps)
        return normal.to(x.dtype) * self.weight


class SwiGLU(nn.Module):
    """A feed-forward layer whose neurons are opened by gates.

    (B, T, C) to (B, T, C): ``up`` computes F numbers, ``gate`` decides how
    much of each passes, ``down`` brings them back. The gate's bend is
    SiLU, x times sigmoid(x). Source: Shazeer 2020, equation 6.

    >>> config = GPTConfig(n_head=2, n_embd=8, feed_forward="swiglu")
    >>> SwiGLU(config)(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, width, bias = config.n_embd, config.ff_width, config.bias
        self.gate = nn.Linear(C, width, bias=bias)
        self.up = nn.Linear(C, width, bias=bias)
        self.down = nn.Linear(width, C, bias=bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.gate(x)) * self.up(x)  # (B, T, F)
        return self.dropout(self.down(hidden))  # (B, T, C)


def route(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` experts of each token, and how much each of them counts.

    ``scores`` is (N, E). Returns the experts' numbers and their weights,
    both (N, k); the weights are a softmax over the chosen scores, so they
    sum to 1. Source: Shazeer et al. 2017, section 2.1, equations 3 to 5,
    without noise; Jiang et al. 2024, section 2.1.

    >>> experts, weights = route(torch.tensor([[1.0, 3.0, 3.0]]), k=2)
    >>> sorted(experts[0].tolist()), weights[0].tolist()
    ([1, 2], [0.5, 0.5])
    """
    best, experts = scores.topk(k, dim=-1)
    return experts, best.softmax(dim=-1)


def balance_loss(scores: Tensor, experts: Tensor) -> Tensor:
    """How unevenly tokens use the experts: 1 if evenly, E at most.

    ``scores`` (N, E) are the router's and ``experts`` (N, k) its choices.
    The share of choices that fell on an expert, times the mean probability
    that the router gave it, summed over the E experts, times E. The share
    has no gradient, the probability has. Source: Fedus et al. 2022,
    equation 4, with k choices for a token in the place of one.

    >>> scores = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    >>> round(balance_loss(scores, scores.argmax(-1)[:, None]).item(), 3)
    1.0
    """
    E = scores.shape[-1]
    share = F.one_hot(experts, E).float().mean(dim=(0, 1))  # (E,)
    probability = scores.softmax(dim=-1).mean(dim=0)  # (E,)
    return E * (share * probability).sum()


class MixtureOfExperts(nn.Module):
    """Several feed-forward layers, of which each token passes a few.

    (B, T, C) to (B, T, C). ``balance`` holds the load-balancing loss of
    the last pass, and ``chosen`` the experts (B, T, k) that it took.
    Source: Jiang et al. 2024, section 2.1; Fedus et al. 2022, section 2.2.

    >>> config = GPTConfig(n_head=2, n_embd=8, n_expert=4)
    >>> MixtureOfExperts(config)(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.k = config.n_expert_used
        self.router = nn.Linear(config.n_embd, config.n_expert, bias=False)
        self.experts = nn.ModuleList(
            new_expert(config) for _ in range(config.n_expert)
        )
        self.balance: Tensor | None = None
        self.chosen: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: all but what the last pass left."""
        return {**super().__getstate__(), "balance": None, "chosen": None}

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # (N, C), N = B T
        scores = self.router(rows).float()  # (N, E)
        chosen, weights = route(scores, self.k)  # (N, k) each
        self.balance = balance_loss(scores, chosen)
        self.chosen = chosen.detach().view(*x.shape[:-1], self.k)
        answer = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, choice = torch.where(chosen == number)
            share = weights[row, choice, None].to(rows.dtype)  # (n, 1)
            answer = answer.index_add(0, row, share * expert(rows[row]))
        return answer.view_as(x)


def new_norm(config: GPTConfig) -> nn.Module:
    """The norm that ``config`` asks for."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, config.norm_eps)
    return LayerNorm(config.n_embd, config.bias, config.norm_eps)


def new_expert(config: GPTConfig) -> nn.Module:
    """One feed-forward layer of the kind that ``config`` asks for."""
    gated = config.feed_forward == "swiglu"
    return SwiGLU(config) if gated else FeedForward(config)


def new_feed_forward(config: GPTConfig) -> nn.Module:
    """One feed-forward layer, or experts where ``config`` has them."""
    return MixtureOfExperts(config) if config.n_expert else new_expert(config)


class SixteenBitLoss(torch.autograd.Function):
    """Cross-entropy of bfloat16 scores, without a float32 copy of them all.

    A few rows at a time are widened. While they are, their gradient is
    worked out too, softmax minus one-hot, and it is all that is kept for
    the backward pass, in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        counts = targets != IGNORED  # (N,)
        picked = targets.where(counts, 0)[:, None]
        share = counts / counts.sum()  # of each token in the mean
        kept = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        losses = []
        for start in range(0, len(logits), LOSS_ROWS):
            rows = slice(start, start + LOSS_ROWS)
            wide = logits[rows].log_softmax(-1, dtype=torch.float32)
            losses.append(-wide.gather(1, picked[rows])[:, 0])
            if kept is not None:
                ones = wide.new_full((len(wide), 1), -1.0)
                wide.exp_().scatter_add_(1, picked[rows], ones)
                kept[rows] = wide.mul_(share[rows, None])
        ctx.save_for_backward(kept)
        return torch.cat(losses).where(counts, 0.0).sum() / counts.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return kept * grad, None


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean −ln p of ``targets`` (N,) under ``logits`` (N, V), in nats.

    Computed in float32 whatever the scores are in; a target of -100 is
    left out. Scores in bfloat16 are never all widened at once.

    >>> round(mean_loss(torch.zeros(2, 8), torch.tensor([3, -100])).item(), 3)
    2.079
    """
    narrow = logits.dtype == torch.bfloat16
    if narrow and not torch.compiler.is_compiling():  # it fuses by itself
        return SixteenBitLoss.apply(logits, targets)
    return F.cross_entropy(logits.float(), targets)
