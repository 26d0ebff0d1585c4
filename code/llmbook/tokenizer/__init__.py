"""Text to token ids and back: byte-level BPE, characters, words, GPT-2.

Every tokenizer here has the interface of :class:`Tokenizer`. The one that
the book trains is :class:`BPETokenizer`.
"""

from __future__ import annotations

from .base import END_OF_TEXT, UNKNOWN, Tokenizer, split_special, utf8
from .bpe import BPETokenizer, apply_merges
from .counting import count_pre_tokens
from .openai import TiktokenTokenizer, gpt2
from .simple import CharTokenizer, WordTokenizer
from .training import (
    GPT2_PATTERN,
    Pair,
    count_pairs,
    learn_merges,
    learn_merges_naively,
    merge,
    pre_tokens,
)

__all__ = [
    "END_OF_TEXT",
    "GPT2_PATTERN",
    "UNKNOWN",
    "BPETokenizer",
    "CharTokenizer",
    "Pair",
    "TiktokenTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "apply_merges",
    "count_pairs",
    "count_pre_tokens",
    "gpt2",
    "learn_merges",
    "learn_merges_naively",
    "merge",
    "pre_tokens",
    "split_special",
    "utf8",
]
