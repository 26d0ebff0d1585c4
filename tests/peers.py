"""transformers' GPT-2, small, with random weights: what ours is held to."""

from __future__ import annotations

import pytest
import torch

SMALL = {
    "vocab_size": 60,
    "n_positions": 16,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def peer_gpt2(kind: str = "GPT2LMHeadModel", **changes):
    """One of transformers' classes with these settings, ready to be asked."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**SMALL, **changes})
    return getattr(transformers, kind)(config).eval()
