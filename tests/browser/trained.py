"""A small model, trained in two seconds, for the figures' tests."""

import functools
import random

import torch

from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer

SENTENCE = "Ona lost the kite, but Tam found it."
STEPS, BATCH, LENGTH = 150, 12, 24


def _stories(count: int) -> str:
    choose = random.Random(0).choice
    names, things = ("Ona", "Tam", "Edd"), ("kite", "key", "drum", "map")
    lines = []
    for _ in range(count):
        one, other = random.sample(names, 2)
        verb = choose(("lost", "hid", "dropped"))
        lines.append(
            f"{one} {verb} the {choose(things)}, but {other} found it.\n"
        )
    return "".join(lines)


@functools.cache
@torch.enable_grad()
def trained() -> tuple[GPT, BPETokenizer]:
    """A model and its tokenizer that have read some hundred sentences."""
    random.seed(0)
    torch.manual_seed(0)
    text = _stories(300)
    tokenizer = BPETokenizer.train(text, 300)
    ids = torch.tensor(tokenizer.encode(text))
    model = GPT(
        GPTConfig(
            vocab_size=tokenizer.vocab_size,
            context_length=32,
            n_layer=2,
            n_head=4,
            n_embd=32,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        at = torch.randint(0, len(ids) - LENGTH - 1, (BATCH,)).tolist()
        x = torch.stack([ids[i : i + LENGTH] for i in at])
        y = torch.stack([ids[i + 1 : i + LENGTH + 1] for i in at])
        _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokenizer


def tokens_of(tokenizer: BPETokenizer, ids: list[int]) -> list[bytes]:
    """Each id's bytes, the special tokens' names included."""
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    return [names.get(i) or tokenizer.token_bytes(i) for i in ids]


@torch.no_grad()
def weights() -> tuple[torch.Tensor, list[bytes]]:
    """Attention weights (L, 1, H, T, T) in the book's running sentence."""
    model, tokenizer = trained()
    ids = tokenizer.encode(SENTENCE)
    found = model.attention_weights(torch.tensor([ids]))
    return torch.as_tensor(found), tokens_of(tokenizer, ids)


@torch.no_grad()
def logits(*contexts: str) -> tuple[list[torch.Tensor], list[bytes]]:
    """The next token's logits after each context, and the vocabulary."""
    model, tokenizer = trained()
    rows = [
        model(torch.tensor([tokenizer.encode(text)]))[0][0, -1]
        for text in contexts
    ]
    return rows, tokens_of(tokenizer, list(range(tokenizer.vocab_size)))
