"""Where text comes from, and how it becomes batches of token ids."""

from .batches import Batches, DocumentBatches
from .documents import (
    RUNNING_SENTENCE,
    Corpus,
    Document,
    floor_per_token,
    load_corpus,
)
from .shards import TokenShard

__all__ = [
    "RUNNING_SENTENCE",
    "Batches",
    "Corpus",
    "Document",
    "DocumentBatches",
    "TokenShard",
    "floor_per_token",
    "load_corpus",
]
