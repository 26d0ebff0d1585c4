"""More tokens for a tokenizer and a model that are trained already."""

from __future__ import annotations

from dataclasses import replace

import torch

from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer, TiktokenTokenizer, Tokenizer

from .chat import CHAT_TOKENS

BY_TOKEN = ("token_embedding.weight", "head.weight")  # a row for each token


def with_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with the chat's control tokens behind all others.

    Every text keeps its ids. Tokens that are there already keep theirs.

    Raises:
        ValueError: it is neither a BPETokenizer nor a TiktokenTokenizer.

    >>> before = BPETokenizer([])
    >>> with_chat_tokens(before).special_tokens["<|end|>"]
    260
    """
    special = dict(tokenizer.special_tokens)
    new = [name for name in CHAT_TOKENS if name not in special]
    if isinstance(tokenizer, BPETokenizer):
        names = [*special, *new]
        return BPETokenizer(tokenizer.merges, names, tokenizer.pattern)
    if not isinstance(tokenizer, TiktokenTokenizer):
        raise ValueError(
            f"got a {type(tokenizer).__name__}; expected a byte-level BPE "
            "tokenizer, a BPETokenizer or a TiktokenTokenizer."
        )
    import tiktoken

    first = tokenizer.vocab_size
    encoding = tiktoken.Encoding(
        f"{tokenizer.encoding.name}-chat",
        pat_str=tokenizer.encoding._pat_str,
        mergeable_ranks=tokenizer.encoding._mergeable_ranks,
        special_tokens=special | {t: first + i for i, t in enumerate(new)},
    )
    return TiktokenTokenizer(encoding)


@torch.no_grad()
def grow_vocabulary(model: GPT, vocab_size: int) -> GPT:
    """A copy of ``model`` that knows ``vocab_size`` tokens.

    The rows of new tokens are the mean of the others'. So a new token's
    logit is the mean of the other logits, and since exp(mean) is at most
    the mean of exp, n new tokens make a text that has none of them by
    ln((V + n) / V) nats a token less likely at most. Drawn at random they
    might take nearly all the probability. Source: Hewitt 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html.

    Raises:
        ValueError: the model knows more tokens than that already.

    >>> from llmbook.config import GPTConfig
    >>> small = GPT(GPTConfig(vocab_size=9, n_layer=1, n_head=1, n_embd=2))
    >>> grow_vocabulary(small, 11).config.vocab_size
    11
    """
    V = model.config.vocab_size
    if vocab_size < V:
        raise ValueError(
            f"the model knows {V} tokens and {vocab_size} are asked for; "
            f"expected {V} or more. Is this the model's own tokenizer?"
        )
    state = {}
    for name, tensor in model.state_dict().items():
        if name in BY_TOKEN:
            mean = tensor.mean(dim=0, keepdim=True)  # (1, C)
            new = mean.expand(vocab_size - V, -1)
            state[name] = torch.cat([tensor, new])  # (V + n, C)
        else:
            state[name] = tensor.clone()
    config = replace(model.config, vocab_size=vocab_size)
    grown = GPT(config, torch.Generator())  # what it draws is overwritten
    grown.load_state_dict(state, assign=True)
    return grown.requires_grad_(True).train(model.training)
