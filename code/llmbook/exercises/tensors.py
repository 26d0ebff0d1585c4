"""What the checks of several chapters do with tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmbook.exercises import diagnosis

TOLERANCE = 1e-5


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers from N(0, 1), the same for the same seed.

    >>> torch.equal(draw(2, 3), draw(2, 3))
    True
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(got: Any, wanted: Tensor) -> bool:
    """Whether ``got`` is ``wanted`` up to rounding, in shape too.

    >>> same([1.0, 2.0], torch.tensor([1.0, 2.0]))
    True
    """
    got = torch.as_tensor(got)
    return got.shape == wanted.shape and torch.allclose(
        got.to(wanted.dtype), wanted, atol=TOLERANCE, equal_nan=True
    )


def named(
    got: Any, wrong: dict[Callable[..., Tensor], str], *inputs: Any
) -> str | None:
    """The message of the classic mistake that gives ``got``, if one does.

    >>> named(3.0, {torch.add: "You added."}, *torch.tensor([1.0, 2.0]))
    'You added.'
    """
    return diagnosis(same, got, wrong, lambda mistake: mistake(*inputs))
