"""A model that trains in a blink, for tests of the training loop."""

import numpy as np
import torch

from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus.batches import Batches
from llmbook.model import GPT

SHAPE = GPTConfig(
    vocab_size=23, context_length=8, n_layer=2, n_head=2, n_embd=16
)
SETTINGS = TrainConfig(
    steps=12,
    batch_size=4,
    warmup_steps=3,
    eval_every=4,
    eval_batches=2,
    dtype="float32",
)


def make_model(seed=0, **changes):
    shape = GPTConfig(**{**SHAPE.to_dict(), **changes})
    return GPT(shape, torch.Generator().manual_seed(seed))


def make_batches(batch_size=4, seed=0):
    ids = np.random.default_rng(5).integers(0, 23, 2000)
    return Batches(ids, 8, batch_size, seed=seed)


def changed(**values):
    return TrainConfig(**{**SETTINGS.to_dict(), **values})


def same_weights(one, two):
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)
