"""A corpus: documents to learn from, and others to be judged by."""

from __future__ import annotations

import functools
import math
import os
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import runtime
from . import folder, gutenberg, world
from .shards import Tokenizer, encoded

RUNNING_SENTENCE = "Ona lost the kite, but Tam found it."

_SPLIT_AT = 4000  # characters in a piece when one file is the whole corpus


@dataclass(frozen=True)
class Document:
    """A text that stands for itself, and where known its log-probability.

    Args:
        text: what is read.
        logprob: natural logarithm of the probability with which the
            generator writes this text; None for texts that people wrote.
        kind: what the generator calls it, such as ``"story"``; else None.
        combination: what the generator brought together in it, such as a
            person and a wish; None where its kind has nothing of that sort.
    """

    text: str
    logprob: float | None = None
    kind: str | None = None
    combination: Hashable = None


@dataclass(frozen=True)
class Corpus:
    """Documents split for training and validation, with no text in both.

    Args:
        name: what it was loaded as.
        train, validation: the two sides.
        entropy: nats per document that no model can beat, measured as the
            mean of -logprob over ``validation``; None where unknown.
        unseen: documents with combinations that stand neither in ``train``
            nor in ``validation``, as many as those; only of the world.
    """

    name: str
    train: Sequence[Document]
    validation: Sequence[Document]
    entropy: float | None = None
    unseen: Sequence[Document] = ()

    @property
    def train_texts(self) -> list[str]:
        """The texts to learn from."""
        return [document.text for document in self.train]

    @property
    def validation_texts(self) -> list[str]:
        """The texts to be judged by."""
        return [document.text for document in self.validation]

    @property
    def entropies(self) -> dict[str, float]:
        """The same as ``entropy``, apart for each kind that is known."""
        return entropies(self.validation)


def load_corpus(
    name: str | os.PathLike[str] = "world",
    *,
    documents: int | None = None,
    seed: int = 0,
    validation_fraction: float = 0.05,
) -> Corpus:
    """Load a corpus and split it by document.

    Args:
        name: ``"world"``, the generated town of Lull, whose training side
            has none of the combinations that are held; ``"austen"``, the
            six novels, one document a chapter; or the path of a folder of
            ``.txt`` files, one document a file (a file alone is cut into
            pieces at blank lines).
        documents: how many in all; None takes what there is, and of the
            world as many as the budget asks for.
        seed: fixes what is generated and what is held out.
        validation_fraction: share of the documents held out.

    Raises:
        ValueError: fewer than two documents, or a fraction out of range.
        FileNotFoundError: no such folder.

    >>> len(load_corpus("world", documents=40).train)
    38
    """
    _check(documents, validation_fraction)
    seed += runtime.seed_offset()
    if name == "world":
        count = documents or world_size()
        return _world(count, seed, validation_fraction)
    texts = austen_chapters() if name == "austen" else folder_texts(name)
    return _split(str(name), texts, documents, seed, validation_fraction)


def _check(documents: int | None, validation_fraction: float) -> None:
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction is {validation_fraction}; expected a "
            "share between 0 and 1, such as 0.05."
        )
    if documents is not None and documents < 2:
        raise ValueError(
            f"documents is {documents}; a split needs at least 2."
        )


def austen_chapters() -> list[str]:
    """The chapters of the six novels, in the order of publication."""
    novels = gutenberg.load_novels().values()
    return [chapter for text in novels for chapter in gutenberg.chapters(text)]


def folder_texts(path: str | os.PathLike[str]) -> list[str]:
    """The files of a folder; one file alone is cut at blank lines."""
    return _pieces(folder.read_folder(path))


def world_size() -> int:
    """Documents of the world that suit the budget."""
    return runtime.pick(smoke=1_000, quick=10_000, laptop=40_000, gpu=200_000)


def entropies(documents: Iterable[Document]) -> dict[str, float]:
    """Mean -logprob in nats per document, for each kind among them.

    >>> entropies([Document("a", -1.0, "fact"), Document("b", -2.0, "fact")])
    {'fact': 1.5}
    """
    surprises: dict[str, list[float]] = {}
    for document in documents:
        if document.kind is not None and document.logprob is not None:
            surprises.setdefault(document.kind, []).append(-document.logprob)
    return {
        kind: math.fsum(nats) / len(nats) for kind, nats in surprises.items()
    }


def floor_per_token(
    documents: Iterable[Document], tokenizer: Tokenizer
) -> float:
    """Nats per token that no model can beat on these documents.

    The sum of -logprob over the number of tokens, each document's
    end-of-text token included, when each document is read whole from its
    beginning.

    Raises:
        ValueError: no documents, or one whose log-probability is unknown.
    """
    documents = list(documents)
    if not documents or any(d.logprob is None for d in documents):
        raise ValueError(
            f"got {len(documents)} documents, and the floor needs at least "
            "one and the log-probability of each. Only a generated corpus "
            'such as load_corpus("world") has them.'
        )
    texts = (document.text for document in documents)
    tokens = sum(len(ids) for ids in encoded(texts, tokenizer))
    nats = math.fsum(-document.logprob for document in documents)
    return nats / tokens


@functools.lru_cache(maxsize=2)
def _world(count: int, seed: int, fraction: float) -> Corpus:
    held = _held_out(count, fraction)
    validation, unseen = (
        tuple(
            world_document(d)
            for d in world.documents(held, f"{seed}/{name}", side)
        )
        for name, side in (("validation", "seen"), ("unseen", "unseen"))
    )
    taken = {d.text: math.exp(d.logprob) for d in validation}
    # Training draws again when a validation text comes up, so every other
    # text is that much more likely than the generator's own record says.
    charge = math.log1p(-math.fsum(taken.values()))
    train: list[Document] = []
    index = 0
    while len(train) < count - held:
        drawn = world.document(index, f"{seed}/train", "seen")
        index += 1
        if drawn.text not in taken:
            train.append(world_document(drawn, charge))
    entropy = -math.fsum(d.logprob for d in validation) / held
    return Corpus("world", tuple(train), validation, entropy, unseen)


def world_document(drawn: world.Written, charge: float = 0.0) -> Document:
    """A document of Lull; ``charge`` is the log of what was left for it."""
    return Document(
        drawn.text, drawn.logprob - charge, drawn.kind, drawn.combination
    )


def _held_out(count: int, fraction: float) -> int:
    return min(count - 1, max(1, round(count * fraction)))


def _pieces(texts: list[str]) -> list[str]:
    if len(texts) > 1:
        return texts
    pieces: list[str] = []
    for paragraph in texts[0].split("\n\n"):
        if pieces and len(pieces[-1]) < _SPLIT_AT:
            pieces[-1] += "\n\n" + paragraph
        else:
            pieces.append(paragraph)
    return [piece.strip() for piece in pieces if piece.strip()]


def _split(
    name: str,
    texts: list[str],
    count: int | None,
    seed: int,
    fraction: float,
) -> Corpus:
    texts = list(dict.fromkeys(texts))  # no text on both sides
    if len(texts) < 2:
        raise ValueError(
            f"{name} has {len(texts)} different documents; a split into "
            "training and validation needs at least 2. Add files, or blank "
            "lines where a single long file may be cut."
        )
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    order = order[:count]
    held = _held_out(len(order), fraction)
    sides = sorted(order[held:]), sorted(order[:held])
    train, validation = (
        tuple(Document(texts[index]) for index in side) for side in sides
    )
    return Corpus(Path(name).name, train, validation)
