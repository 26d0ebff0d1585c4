"""Perplexity of whole documents, however long, by rolling windows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmbook.evaluation.models import Ids, LanguageModel, Pair


def rolling_windows(
    ids: Ids, prefix: int, max_length: int, context: int = 1
) -> Iterator[Pair]:
    """Cut a document into pairs (what is read before, what is scored).

    Every token is scored exactly once, the first of all after ``prefix``,
    the token that stands before a document. The first window scores
    ``max_length`` tokens. Each further one begins with at least ``context``
    tokens that were scored before; with 1, a token right after a cut is
    guessed from hardly anything; with more, fewer tokens are new in each
    window, so the score is better and costs more passes. The last window
    reaches back as far as it can.

    These are the windows of lm-evaluation-harness
    (``get_rolling_token_windows``), which sets ``context`` to 1.

    Raises:
        ValueError: ``context`` is not in 1 ... max_length.

    >>> list(rolling_windows([1, 2, 3, 4, 5], prefix=0, max_length=2))
    [([0], [1, 2]), ([2], [3, 4]), ([3, 4], [5])]
    """
    if not 1 <= context <= max_length:
        raise ValueError(
            f"context is {context}; expected from 1 to {max_length}, the "
            "tokens that fit a window."
        )
    ids = list(ids)
    done = min(max_length, len(ids))
    if done:
        yield [prefix], ids[:done]
    while done < len(ids):
        end = min(len(ids), done + max_length - context + 1)
        yield ids[end - max_length - 1 : done], ids[done:end]
        done = end


def count_words(text: str) -> int:
    """Words of ``text`` as lm-evaluation-harness counts them.

    Pieces between white space; a text that ends with a line break has one
    more, which is empty.

    >>> count_words("Ona lost\\nthe kite."), count_words("Ona\\n")
    (4, 2)
    """
    return len(re.split(r"\s+", text))


@dataclass(frozen=True)
class Perplexity:
    """How surprised a model was by documents; sums, and what follows.

    Args:
        nats: −ln p of all tokens of the texts.
        tokens, words, bytes: how many the texts have.
        end_nats: −ln p of the end-of-text tokens after them.
        documents: how many there are; each has one end.

    The perplexities and bits are those of lm-evaluation-harness, which
    scores the texts without their ends (``word_perplexity``,
    ``byte_perplexity``, ``bits_per_byte``).

    >>> p = Perplexity(math.log(16), tokens=2, words=1, bytes=4)
    >>> round(p.per_token, 9), round(p.per_byte, 9), p.bits_per_byte
    (4.0, 2.0, 1.0)
    """

    nats: float
    tokens: int
    words: int
    bytes: int
    end_nats: float = 0.0
    documents: int = 0

    def __add__(self, other: Perplexity) -> Perplexity:
        """Both sets of documents together: the sums add up."""
        return Perplexity(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.words + other.words,
            self.bytes + other.bytes,
            self.end_nats + other.end_nats,
            self.documents + other.documents,
        )

    @property
    def per_token(self) -> float:
        """Perplexity a token: it compares models of one tokenizer only."""
        return math.exp(self.nats / self.tokens)

    @property
    def per_word(self) -> float:
        """Perplexity a word, whatever the tokens (:func:`count_words`)."""
        return math.exp(self.nats / self.words)

    @property
    def per_byte(self) -> float:
        """Perplexity a byte of UTF-8, whatever the tokens."""
        return math.exp(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of UTF-8."""
        return self.nats / self.bytes / math.log(2)

    @property
    def loss(self) -> float:
        """Nats a token, each document's end counted as a token.

        So does :func:`llmbook.train.document_loss`; times the tokens it is
        −ln p(document), which a corpus's entropy can be held against.
        """
        return (self.nats + self.end_nats) / (self.tokens + self.documents)


def perplexity(
    model: LanguageModel, documents: Iterable[str], context: int = 1
) -> Perplexity:
    """How well ``model`` predicts ``documents``, each read by itself.

    ``context`` is that of :func:`rolling_windows`.

    Raises:
        ValueError: there is no document, or no token in them.
    """
    scores = document_perplexities(model, list(documents), context)
    total = sum(scores, Perplexity(0.0, 0, 0, 0))
    if not total.tokens:
        raise ValueError(
            f"got {total.documents} documents and no token in them; "
            "expected at least one with text."
        )
    return total


def document_perplexities(
    model: LanguageModel, documents: Sequence[str], context: int = 1
) -> list[Perplexity]:
    """The :class:`Perplexity` of each document by itself."""
    windows = [_windows(model, text, context) for text in documents]
    scored = iter(model.loglikelihoods([w for row in windows for w in row]))
    found = []
    for text, row in zip(documents, windows, strict=True):
        logprobs = [p for _ in row for p in next(scored).logprobs]
        *of_text, end = logprobs
        found.append(
            Perplexity(
                nats=-math.fsum(of_text),
                tokens=len(of_text),
                words=count_words(text),
                bytes=len(text.encode("utf-8")),
                end_nats=-end,
                documents=1,
            )
        )
    return found


def _windows(model: LanguageModel, text: str, context: int) -> list[Pair]:
    """The windows of a document, and last the token that ends it.

    Where the whole fits one window, the end is scored in the same pass.
    """
    ids, end = model.encode(text), model.end_of_text
    prefix, longest = model.prefix_token, model.context_length
    if len(ids) < longest:
        return [([prefix], [*ids, end])]
    windows = rolling_windows(ids, prefix, longest, context)
    return [*windows, (ids[-longest:], [end])]
