"""The parts of a block that work on one token at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.config import GPTConfig

GELU_CUBIC = 0.044715  # Hendrycks and Gimpel 2016, section 2
EXPANSION = 4  # d_ff / d_model: Vaswani et al. 2017, section 3.3


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

    (B, T, C) to (B, T, C) through a width of 4 C. Source: Vaswani et al.
    2017, equation 2, with GELU for ReLU as in GPT (Radford et al. 2018,
    section 4.1).

    >>> FeedForward(GPTConfig(n_head=2, n_embd=8))(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, bias = config.n_embd, config.bias
        self.up = nn.Linear(C, EXPANSION * C, bias=bias)
        self.down = nn.Linear(EXPANSION * C, C, bias=bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = gelu(self.up(x))  # (B, T, 4 C)
        return self.dropout(self.down(hidden))  # (B, T, C)
