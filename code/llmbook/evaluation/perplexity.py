"""Perplexity of whole documents, however long, by rolling windows."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmbook.corpus import Document, load_corpus
from llmbook.corpus.folder import read_folder, read_text
from llmbook.evaluation.models import Ids, LanguageModel, Pair
from llmbook.evaluation.statistics import bootstrap_interval
from llmbook.evaluation.tasks import (
    Options,
    Record,
    check_finite,
    hashed,
    metric,
)

WORLD_FILE = "validation.jsonl"  # in a folder of `llmbook corpus world`


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


def scored_documents(options: Options) -> Sequence[Document]:
    """The documents that ``options`` names, all of them.

    Raises:
        ValueError: texts are given and none is there, or all of a generated
            corpus is asked for.
        FileNotFoundError: no such file or folder.
    """
    corpus = options.corpus
    if not isinstance(corpus, str | os.PathLike):
        return [Document(text) for text in corpus]
    world = Path(options.folder or "") / WORLD_FILE
    if corpus == "world" and options.folder and world.is_file():
        rows = map(json.loads, read_text(world).splitlines())
        return [Document(row["text"], row["logprob"]) for row in rows]
    if not options.held_out and corpus not in ("world", "austen"):
        return [Document(text) for text in read_folder(corpus)]
    loaded = load_corpus(corpus, documents=options.documents)
    return (
        loaded.validation
        if options.held_out
        else [*loaded.train, *loaded.validation]
    )


@dataclass(frozen=True)
class PerplexityTask:
    """Whole documents, and how surprised a model is by them."""

    items: Sequence[Document]
    context: int = 1

    name = "perplexity"
    variant = "loglikelihood_rolling"

    @classmethod
    def load(cls, options: Options) -> PerplexityTask:
        """The first ``limit`` documents."""
        items = scored_documents(options)[: options.limit]
        if not items:
            raise ValueError(
                f"{options.corpus!r} has no documents; expected at least "
                "one. Name another corpus, or give texts."
            )
        return cls(items, options.window_context)

    def __len__(self) -> int:
        return len(self.items)

    def id(self, number: int) -> str:
        """The number within the corpus."""
        return str(number)

    def digest(self) -> str:
        """A hash of the texts and of what is known about them."""
        return hashed([(d.text, d.logprob) for d in self.items])

    def score(
        self, model: LanguageModel, numbers: Sequence[int]
    ) -> list[Record]:
        """Records with the sums that perplexities are computed from."""
        texts = [self.items[number].text for number in numbers]
        scores = document_perplexities(model, texts, self.context)
        return [
            self.record(number, found)
            for number, found in zip(numbers, scores, strict=True)
        ]

    def record(self, number: int, found: Perplexity) -> Record:
        """What is kept of a document."""
        sums = (-found.nats, -found.end_nats)
        check_finite(self.name, self.id(number), sums)
        return {
            "task": self.name,
            "id": self.id(number),
            "prompt": "",
            "target": self.items[number].text,
            "loglikelihoods": [sums[0]],
            "end_loglikelihood": sums[1],
            "tokens": found.tokens,
            "words": found.words,
            "bytes": found.bytes,
            "known": self.items[number].logprob,
        }

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """Perplexities and bits; ``floor`` is the least loss possible.

        It is known of texts whose generator says how likely they were.
        Intervals are the bootstrap's, over documents.
        """
        rows = np.array([_sums(row) for row in records])
        metrics = {
            name: _measured(rows, lambda p, name=name: getattr(p, name))
            for name in (
                "per_token",
                "per_word",
                "per_byte",
                "bits_per_byte",
                "loss",
            )
        }
        known = [row["known"] for row in records]
        if None not in known:
            tokens = sum(row["tokens"] + 1 for row in records)
            floor = -math.fsum(known) / tokens
            metrics["floor"] = metric(floor, len(records))
        return {"metrics": metrics}


def _sums(record: Record) -> list[float]:
    """The numbers of a :class:`Perplexity`, in its order."""
    nats, end = -record["loglikelihoods"][0], -record["end_loglikelihood"]
    counts = [record[name] for name in ("tokens", "words", "bytes")]
    return [nats, *counts, end, 1]


def _measured(
    rows: np.ndarray, measure: Callable[[Perplexity], float]
) -> dict[str, Any]:
    """A measure of all documents and how far it moves when redrawn."""

    def of(drawn: np.ndarray) -> float:
        return measure(Perplexity(*drawn.sum(axis=0)))

    n = len(rows)
    interval = bootstrap_interval(rows, of) if n > 1 else None
    return metric(float(of(rows)), n, interval=interval)
