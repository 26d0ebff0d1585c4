"""A tiny model, a small world of benchmarks, and the slow way to score."""

from __future__ import annotations

import functools

import torch

from llmbook.config import GPTConfig
from llmbook.corpus import load_corpus
from llmbook.evaluation.models import GPTModel
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer


@functools.cache
def tokenizer() -> BPETokenizer:
    texts = load_corpus("world", documents=60).train_texts
    return BPETokenizer.train(texts, 400)


def tiny(seed: int = 0, context_length: int = 64, **choices) -> GPTModel:
    """A model with weights so large that its opinions are strong."""
    shape = GPTConfig(
        vocab_size=tokenizer().vocab_size,
        context_length=context_length,
        n_layer=2,
        n_head=2,
        n_embd=16,
        init_std=0.4,
    )
    generator = torch.Generator().manual_seed(seed)
    return GPTModel(GPT(shape, generator).eval(), tokenizer(), **choices)


@torch.no_grad()
def naive_logprobs(model: GPTModel, read: list[int], scored: int) -> list:
    """ln p of the last ``scored`` of ``read``, in one pass, one row."""
    logits, _ = model.model(torch.tensor([read[:-1]]))
    table = logits[0].log_softmax(-1)
    every = [table[i, token].item() for i, token in enumerate(read[1:])]
    return every[-scored:]
