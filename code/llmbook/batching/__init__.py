"""Many texts of different lengths in one pass, each as if it were alone.

A batch is a rectangle and texts are not, so they are filled up with padding
or laid end to end. Both ask for the same two things. A mask says which
tokens each token may see: never padding, never another text. And a token's
position is the number of tokens that it sees before itself
(:func:`positions_of`), wherever in the row it stands.

Prompts are padded on the left, so that every row's next token falls into
the same column (:func:`generate_batch`). Texts that are only scored stand
on the left with the padding behind them, and share what they have in
common: a question is read once for all its answers (:func:`score_pairs`),
the examples before many questions once for all of them
(:func:`shared_prefix`).
"""

from __future__ import annotations

from .generation import generate_batch
from .masks import (
    document_mask,
    document_numbers,
    left_pad,
    packed_inputs,
    packed_positions,
    padded_mask,
    positions_of,
    right_pad,
)
from .prefix import PaddedCache, Prefix, common_prefix, shared_prefix
from .scoring import BATCH_SIZE, TokenScores, logprobs, score_pairs

__all__ = [
    "BATCH_SIZE",
    "PaddedCache",
    "Prefix",
    "TokenScores",
    "common_prefix",
    "document_mask",
    "document_numbers",
    "generate_batch",
    "left_pad",
    "logprobs",
    "packed_inputs",
    "packed_positions",
    "padded_mask",
    "positions_of",
    "right_pad",
    "score_pairs",
    "shared_prefix",
]
