"""What tells a token where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.config import ALIBI_EXTRA, GPTConfig, RopeScaling

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

SINUSOID_BASE = 10_000.0  # Vaswani et al. 2017, section 3.5
ALIBI_STEEPEST = 8  # 2^(-8/H) is the first head's: Press et al. 2022, sec. 3
EXACT_IN_BF16 = 256  # whole numbers below are exact with bfloat16's 8 bits


def check_positions(T: int, start: int, context_length: int) -> None:
    """Refuse ``T`` tokens from ``start`` that reach past the context.

    Raises:
        ValueError: they do; the message has the mend.

    >>> check_positions(T=3, start=5, context_length=8)
    """
    if start < 0 or start + T > context_length:
        raise ValueError(
            f"got {T} tokens from position {start}; the model knows "
            f"positions 0 to {context_length - 1}. Keep only the "
            f"last {context_length} tokens, or train a model with "
            "a larger context_length."
        )


def check_each(positions: Tensor, context_length: int) -> None:
    """Refuse ``positions`` (...) of which one is outside the context.

    Raises:
        ValueError: one is.

    >>> check_each(torch.tensor([[0, 1], [5, 6]]), context_length=8)
    """
    if torch.compiler.is_compiling():  # values would break its graph
        return
    low, high = (int(bound) for bound in positions.aminmax())
    if low < 0 or high >= context_length:
        raise ValueError(
            f"got positions from {low} to {high}; the model knows "
            f"positions 0 to {context_length - 1}."
        )


def check_fit(positions: Tensor, idx: Tensor) -> None:
    """Refuse ``positions`` that are not one for each of the ids (B, T).

    Raises:
        ValueError: they are neither (T,) nor (B, T).

    >>> check_fit(torch.arange(3), torch.zeros(2, 3))
    """
    shape = tuple(idx.shape)
    if tuple(positions.shape) not in (shape, shape[1:]):
        raise ValueError(
            f"got positions {tuple(positions.shape)} for ids {shape}; "
            f"expected {shape[1:]}, the same for each row, or {shape}."
        )


class LearnedPositions(nn.Embedding):
    """One trained vector for each position, as GPT-2 has it.

    Called with a number of tokens ``T`` and the position ``start`` of the
    first, it returns their vectors, (T, C). :meth:`at` takes positions one
    by one. Source: Gehring et al. 2017, section 3.1; Radford et al. 2018,
    section 4.1.

    Raises:
        ValueError: the tokens reach past the last position.

    >>> LearnedPositions(8, 4)(T=3, start=2).shape
    torch.Size([3, 4])
    """

    def forward(self, T: int, start: int = 0) -> Tensor:
        check_positions(T, start, self.num_embeddings)
        return self.weight[start : start + T]  # (T, C)

    def at(self, positions: Tensor) -> Tensor:
        """The vectors of ``positions`` (...), in any order: (..., C).

        >>> LearnedPositions(8, 4).at(torch.tensor([[0, 1], [5, 6]])).shape
        torch.Size([2, 2, 4])
        """
        check_each(positions, self.num_embeddings)
        return super().forward(positions)  # (..., C)


def sinusoids(positions: Tensor, C: int) -> Tensor:
    """A vector of sines and cosines for each position, (...) to (..., C).

    Pair i, at places 2i and 2i + 1, is a clock hand that takes
    2 pi 10000^(2i/C) tokens to go round. Source: Vaswani et al. 2017,
    section 3.5.

    >>> sinusoids(torch.tensor([0]), C=4)
    tensor([[0., 1., 0., 1.]])
    """
    pairs = torch.arange(0, C, 2, device=positions.device)  # (C / 2,)
    speed = SINUSOID_BASE ** (-pairs / C)  # radians a token
    angles = positions[..., None] * speed  # (..., C / 2)
    both = torch.stack([angles.sin(), angles.cos()], dim=-1)
    return both.flatten(-2)  # sine, cosine, sine, cosine, ...


class SinusoidalPositions(nn.Module):
    """The fixed waves of the first transformer; called as the learned ones.

    Nothing is trained and nothing stored. Source: Vaswani et al. 2017,
    section 3.5.

    >>> SinusoidalPositions(8, 4)(T=3, start=2).shape
    torch.Size([3, 4])
    """

    def __init__(self, context_length: int, n_embd: int) -> None:
        super().__init__()
        self.context_length, self.n_embd = context_length, n_embd

    def forward(self, T: int, start: int = 0) -> Tensor:
        check_positions(T, start, self.context_length)
        return sinusoids(torch.arange(start, start + T), self.n_embd)

    def at(self, positions: Tensor) -> Tensor:
        """The vectors of ``positions`` (...), in any order: (..., C)."""
        check_each(positions, self.context_length)
        return sinusoids(positions, self.n_embd)


def rotary_speeds(
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """How far each pair of a head turns from token to token, (D / 2,).

    In radians; the first pair turns by 1, the last by nearly 1 / theta.
    Source: Su et al. 2021, section 3.2.2.

    >>> rotary_speeds(4, theta=100.0)
    tensor([1.0000, 0.1000])
    """
    pairs = torch.arange(0, head_dim, 2, device=device)
    speeds = 1 / theta ** (pairs / head_dim)
    return speeds if scaling is None else stretched(speeds, scaling)


def stretched(speeds: Tensor, scaling: RopeScaling) -> Tensor:
    """``speeds`` (D / 2,) with the slow pairs made slower still.

    A pair that goes round several times within the original context tells
    near tokens apart and stays; one that never goes round is slowed by
    ``scaling.factor``, so that in the longer context it turns no further
    than it did in training. Source: Llama 3.1's code; Grattafiori et al.
    2024, section 3.4.2.

    >>> stretched(torch.tensor([1.0, 1e-5]), RopeScaling(factor=8.0))
    tensor([1.0000e+00, 1.2500e-06])
    """
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_context_length * speeds / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1: stays
    return kept * speeds + (1 - kept) * speeds / scaling.factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of numbers of ``x`` (..., D) by its angle.

    ``cos`` and ``sin`` of the angles are (..., D / 2). Pair i is made of
    the numbers i and i + D / 2, as in transformers' Llama; the paper pairs
    neighbours, 2i and 2i + 1, which is the same after a reordering of the
    weights. Source: Su et al. 2021, equation 34.

    >>> cos, sin = torch.tensor([0.0]), torch.tensor([1.0])  # a quarter turn
    >>> rotate(torch.tensor([3.0, 0.0]), cos, sin).tolist()
    [0.0, 3.0]
    """
    first, second = x.chunk(2, dim=-1)  # (..., D / 2) each
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat(turned, dim=-1)


def with_rotary(attend: Attend, cos: Tensor, sin: Tensor) -> Attend:
    """``attend`` on queries and keys that are turned by their positions.

    ``cos`` and ``sin`` are (T, D / 2), or (B, 1, T, D / 2) where rows
    differ. Since keys are turned before ``attend`` sees them, a cache
    stores them turned.
    """

    def attend_turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turn = cos.to(q.dtype), sin.to(q.dtype)
        return attend(rotate(q, *turn), rotate(k, *turn), v)

    return attend_turned


def alibi_slopes(n_head: int, device: torch.device | None = None) -> Tensor:
    """How much each head minds distance, (H,): a geometric sequence.

    Head h, counted from 1, takes 2^(-8h / H) off a score for each token of
    distance. Where H is no power of 2, the sequence is the next smaller
    power's, and every second value of the next larger one's fills up.
    Source: Press et al. 2022, section 3, and its code.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    lower = 2 ** math.floor(math.log2(n_head))
    slopes = _geometric(lower) + _geometric(2 * lower)[::2]
    return torch.tensor(slopes[:n_head], device=device)


def _geometric(n_head: int) -> list[float]:
    ratio = 2.0 ** (-ALIBI_STEEPEST / n_head)
    return [ratio ** (h + 1) for h in range(n_head)]


def with_alibi(attend: Attend, places: Tensor) -> Attend:
    """``attend`` with a penalty on distance, straight in its length.

    ``places`` are the tokens' positions, (T,), or (B, 1, T) where rows
    differ. The penalty -m (i - j) of a query at i and a key at j differs
    from +m j by what all keys of the query share, and a softmax does not
    see that. So each key carries its position, and each query its head's
    slope m; any ``attend`` then computes the penalty without knowing of
    it. The position travels as two numbers, its multiple of 256 and the
    rest, which 16 bits hold exactly up to 65,504, float16's largest number.
    Source: Press et al. 2022, section 3.
    """
    rest = places % EXACT_IN_BF16
    carried = torch.stack([places - rest, rest], dim=-1)  # (..., T, 2)

    def attend_nearer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        H, D = q.shape[1], q.shape[-1]
        width = D + ALIBI_EXTRA  # attend divides scores by its root
        slopes = alibi_slopes(H, q.device) * math.sqrt(width)
        shape = *q.shape[:-1], ALIBI_EXTRA
        slopes = slopes.to(q.dtype)[:, None, None].expand(shape)
        place = carried.to(k.dtype).expand(*k.shape[:-1], ALIBI_EXTRA)
        q = torch.cat([q * math.sqrt(width / D), slopes], dim=-1)
        k = torch.cat([k, place], dim=-1)  # (B, H, T, D + 2)
        return attend(q, k, F.pad(v, (0, ALIBI_EXTRA)))[..., :D]

    return attend_nearer


def new_positions(config: GPTConfig) -> nn.Module | None:
    """What is added to token vectors; None where nothing is."""
    shape = config.context_length, config.n_embd
    if config.positions == "learned":
        return LearnedPositions(*shape)
    if config.positions == "sinusoidal":
        return SinusoidalPositions(*shape)
    return None


def with_positions(
    attends: Sequence[Attend], config: GPTConfig, places: Tensor
) -> list[Attend]:
    """``attends`` as ``config.positions`` changes them at ``places``.

    ``places`` is (T,) or (B, T). Learned and sinusoidal positions are
    added to the tokens before, and change nothing here.
    """
    if places.ndim == 2:
        places = places[:, None]  # (B, 1, T): the same for all heads
    if config.positions == "rotary":
        speeds = rotary_speeds(
            config.head_dim,
            config.rope_theta,
            config.rope_scaling,
            places.device,
        )
        angles = places[..., None] * speeds  # (..., T, D / 2), in radians
        cos, sin = angles.cos(), angles.sin()
        return [with_rotary(attend, cos, sin) for attend in attends]
    if config.positions == "alibi":
        return [with_alibi(attend, places) for attend in attends]
    return list(attends)
