"""What a model's prose is worth, in numbers that need no taste.

A text is drawn from a model, from counts or from noise, and judged by the
measures of :mod:`~llmbook.evaluation.words`,
:mod:`~llmbook.evaluation.copying` and :mod:`~llmbook.evaluation.meter`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmbook.evaluation.copying import Source
from llmbook.evaluation.meter import Stresses, iambic_share
from llmbook.evaluation.words import (
    LONG_WORD,
    coined,
    find_words,
    lexicon,
    share_known,
)
from llmbook.model import GPT
from llmbook.ngram import NGramModel
from llmbook.sampling import generate
from llmbook.tokenizer.base import Tokenizer
from llmbook.train import token_losses

COPIED = 50  # characters: about ten words, beyond what phrases share
COINED_SHOWN = 12  # words that a result keeps as examples
ROWS = 16  # passages drawn together


@dataclass(frozen=True)
class Judge:
    """What texts are held against.

    Args:
        known: the words of the texts learned from.
        language: the words of a list.
        source: the texts learned from, for spans copied out of them.
        stresses: how words are stressed.
    """

    known: frozenset[str]
    language: frozenset[str]
    source: Source
    stresses: Stresses

    @classmethod
    def of(
        cls, texts: Sequence[str], language: frozenset[str], stresses: Stresses
    ) -> Judge:
        """The judge of a model that learned from ``texts``."""
        return cls(lexicon(texts), language, Source(texts), stresses)

    def judge(self, text: str, length: int = COPIED) -> dict[str, Any]:
        """Every measure of ``text``, as plain values.

        Shares are from 0 to 1, None where there is nothing to count;
        ``longest`` is in characters, and ``copied`` the share of characters
        in copied spans of ``length`` or more.

        >>> judge = Judge.of(["the kite"], frozenset({"kites"}), {})
        >>> judge.judge("a kite")["known"]
        0.5
        """
        words, span = find_words(text), self.source.longest(text)
        iambic, stretches = iambic_share(words, self.stresses)
        shares = {
            "known": share_known(words, self.known),
            "listed": share_known(words, self.language),
            "long_known": share_known(words, self.known, LONG_WORD),
            "long_listed": share_known(words, self.language, LONG_WORD),
            "copied": self.source.share_copied(text, length),
            "iambic": iambic,
        }
        new = coined(words, self.known, self.language)
        return {
            "characters": len(text),
            "words": len(words),
            **{key: rounded(value) for key, value in shares.items()},
            "coined": len(new),
            "coined_examples": new[:COINED_SHOWN],
            "longest": len(span),
            "longest_text": span.text,
            "stretches": stretches,
        }


def rounded(share: float) -> float | None:
    """A share for JSON, which knows no NaN: None in its place.

    >>> rounded(1 / 3), rounded(math.nan)
    (0.33333, None)
    """
    return None if math.isnan(share) else round(share, 5)


def noise_passages(
    ids: Sequence[int], tokens: int, seed: int = 0
) -> Iterator[list[int]]:
    """Passages of ids drawn evenly from ``ids``, without end.

    >>> next(noise_passages([5], tokens=3))
    [5, 5, 5]
    """
    rng = np.random.default_rng(seed)
    while True:
        yield rng.choice(np.asarray(ids), tokens).tolist()


def counted_passages(
    model: NGramModel, tokens: int, seed: int = 0
) -> Iterator[list[int]]:
    """Passages that an n-gram model draws, each from its own start."""
    while True:
        yield model.sample(seed, max_tokens=tokens)
        seed += 1


def model_passages(
    model: GPT, end_of_text: int, tokens: int, seed: int = 0
) -> Iterator[list[int]]:
    """Passages that a transformer draws, each from the start of a text.

    No filter and temperature 1: the model's own distribution. Shorter than
    ``tokens`` where the model ends a text.
    """
    prompt = torch.full((ROWS, 1), end_of_text)
    training = model.training
    model.eval()
    try:
        while True:
            yield from (
                row[1:]
                for row in generate(
                    model,
                    prompt,
                    tokens,
                    stop_tokens=[end_of_text],
                    seed=seed,
                )
            )
            seed += 1
    finally:
        model.train(training)


def collect_text(
    passages: Iterable[Sequence[int]], tokenizer: Tokenizer, size: int
) -> str:
    """Passages as text with empty lines between, ``size`` characters of it.

    The last piece of each passage goes, since it may be half a word, and
    so do special tokens, whose ids come after all others.
    """
    pieces, total = [], 0
    for ids in passages:
        text = tokenizer.decode(i for i in ids if i < tokenizer.end_of_text)
        pieces.append(" ".join(text.split(" ")[:-1]) or text)
        total += len(pieces[-1]) + 2
        if total >= size + 2:  # the last two lie behind the text
            break
    return "\n\n".join(pieces)[:size]


def bits_per_byte(
    model: GPT, tokenizer: Tokenizer, texts: Iterable[str]
) -> float:
    """What a model pays for ``texts``, whatever its tokens are.

    −log2 p of all tokens, the end of each text among them, divided by the
    bytes in UTF-8. Each text is read from <|endoftext|>.
    """
    nats, size, end = 0.0, 0, tokenizer.end_of_text
    for text in texts:
        ids = [*tokenizer.encode(text, on_special="text"), end]
        nats += token_losses(model, ids, end).double().sum().item()
        size += len(text.encode())
    if not size:
        raise ValueError("the texts hold no bytes; give at least one.")
    return nats / math.log(2) / size
