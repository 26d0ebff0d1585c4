"""Weights told apart by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_hash(tensors: Mapping[str, Tensor], before: str = "") -> str:
    """SHA-256 (hexadecimal) of every tensor's name, type, shape and bytes.

    The order of ``tensors`` does not count, nor the device they are on.
    ``before`` is a text that is hashed ahead of them.

    >>> a, b = torch.zeros(2), torch.ones(3)
    >>> tensors_hash({"a": a, "b": b}) == tensors_hash({"b": b, "a": a})
    True
    """
    total = hashlib.sha256(before.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(plain.view(torch.uint8).numpy())
    return total.hexdigest()
