"""What tells a token where it stands."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        if start < 0 or start + T > self.num_embeddings:
            raise ValueError(
                f"got {T} tokens from position {start}; the model knows "
                f"positions 0 to {self.num_embeddings - 1}. Keep only the "
                f"last {self.num_embeddings} tokens, or train a model with "
                "a larger context_length."
            )
        return self.weight[start : start + T]  # (T, C)

    def at(self, positions: Tensor) -> Tensor:
        """The vectors of ``positions`` (...), in any order: (..., C).

        >>> LearnedPositions(8, 4).at(torch.tensor([[0, 1], [5, 6]])).shape
        torch.Size([2, 2, 4])
        """
        if not torch.compiler.is_compiling():  # values break its graph
            low, high = (int(bound) for bound in positions.aminmax())
            if low < 0 or high >= self.num_embeddings:
                raise ValueError(
                    f"got positions from {low} to {high}; the model knows "
                    f"positions 0 to {self.num_embeddings - 1}."
                )
        return super().forward(positions)  # (..., C)
