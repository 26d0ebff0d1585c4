"""Counting the pre-tokens of texts and files of any size."""

from __future__ import annotations

import codecs
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from .base import split_special, utf8
from .training import GPT2_PATTERN, pre_tokens

Source = str | os.PathLike[str]  # a text, or the path of a file with one
SOURCE_TYPES = (str, os.PathLike)

BLOCK = 1 << 18  # characters cut at a time; their pieces take about 5 MB
# What follows a block may lengthen its last piece, or take from the last but
# one: GPT-2's pattern makes three pieces of "it'l", and two of "it'll".
HELD_BACK = 2
BATCH = 1 << 22  # bytes that a process is given at a time


def count_pre_tokens(
    texts: Source | Iterable[Source],
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (),
    workers: int = 1,
) -> Counter[bytes]:
    """How often each pre-token occurs, as UTF-8 bytes.

    Names of special tokens are cut out: nothing is learned across or from
    them. No text is held whole that does not come so.

    Args:
        texts: strings are texts; paths (``pathlib.Path``) name files.
        workers: processes that count, each a text or a file at a time.

    Raises:
        ValueError: a file that is no UTF-8, or a lone surrogate.

    >>> count_pre_tokens("the kite, the kite").most_common(1)
    [(b' kite', 2)]
    """
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers is {workers!r}; expected 1 or more.")
    if workers == 1:
        counts = count_sources(as_sources(texts), pattern, special_tokens)
    else:
        counts = count_in_processes(texts, pattern, special_tokens, workers)
    return Counter({utf8(piece): n for piece, n in counts.items()})


def as_sources(texts: Source | Iterable[Source]) -> Iterator[Source]:
    """One text or path, or many, one after the other."""
    for text in [texts] if isinstance(texts, SOURCE_TYPES) else texts:
        if not isinstance(text, SOURCE_TYPES):
            raise TypeError(
                f"got a {type(text).__name__} to tokenize; expected a str, "
                "or a Path for a file. Decode bytes first: "
                "data.decode('utf-8')."
            )
        yield text


def count_sources(
    sources: Iterable[Source], pattern: str, special_tokens: Sequence[str]
) -> Counter[str]:
    """How often each pre-token occurs, special tokens' names left out."""
    counts: Counter[str] = Counter()
    for source in sources:
        for pieces in cut_source(source, pattern, special_tokens):
            counts.update(pieces)
    for name in special_tokens:
        counts.pop(name, None)
    return counts


def cut_source(
    source: Source, pattern: str, special_tokens: Sequence[str]
) -> Iterator[list[str]]:
    """The pieces of a text or of a file, a block at a time."""
    if not isinstance(source, str):
        blocks = read_blocks(Path(source))
    else:
        utf8(source)  # a lone surrogate is reported at its place in the text
        starts = range(0, len(source), BLOCK)
        blocks = (source[start : start + BLOCK] for start in starts)
    yield from cut_in_blocks(blocks, pattern, special_tokens)


def read_blocks(path: Path) -> Iterator[str]:
    """The text in a file as it stands there, a block at a time.

    Raises:
        ValueError: the file is no UTF-8; says where.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        offset, data = 0, b"start"
        while data:
            data = file.read(BLOCK)
            waiting = len(decoder.getstate()[0])  # half a character
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path} is not UTF-8: {error.reason} at byte "
                    f"{offset - waiting + error.start}. Convert the file "
                    "from the encoding it has, or repair it."
                ) from None
            offset += len(data)


def cut_in_blocks(
    blocks: Iterable[str], pattern: str, special_tokens: Sequence[str]
) -> Iterator[list[str]]:
    """The pieces of one text that comes in blocks, as if it came whole.

    The last pieces of a block are cut once more, together with the next.
    Names of special tokens are among the pieces. A pattern must not look
    behind its match: what is there may be gone.
    """
    margin = max(map(len, special_tokens), default=0)
    text, held = "", 0
    for block in blocks:
        if len(text) >= max(BLOCK, 2 * held):  # a giant piece is let grow
            pieces = cut(text, pattern, special_tokens)
            n_held = held = 0
            while n_held < len(pieces) and (
                n_held < HELD_BACK or held < margin
            ):
                n_held += 1
                held += len(pieces[-n_held])
            text = text[len(text) - held :]
            yield pieces[: len(pieces) - n_held]
        text += block
    yield cut(text, pattern, special_tokens)


def cut(text: str, pattern: str, special_tokens: Sequence[str]) -> list[str]:
    """Pre-tokens, and between them the names of special tokens."""
    pieces: list[str] = []
    for part, is_special in split_special(text, special_tokens):
        pieces += [part] if is_special else pre_tokens(part, pattern)
    return pieces


def count_in_processes(
    texts: Source | Iterable[Source],
    pattern: str,
    special_tokens: Sequence[str],
    workers: int,
) -> Counter[str]:
    """As :func:`count_sources`, in several processes at once."""
    counts: Counter[str] = Counter()
    running: deque[Future[Counter[str]]] = deque()
    context = multiprocessing.get_context("spawn")  # as on every system
    with ProcessPoolExecutor(workers, context) as pool:
        for batch in batches(as_sources(texts)):
            running.append(
                pool.submit(count_sources, batch, pattern, special_tokens)
            )
            if len(running) > workers:  # more would only wait in memory
                counts.update(running.popleft().result())
        for future in running:
            counts.update(future.result())
    return counts


def batches(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Texts and paths in lists of about ``BATCH`` bytes."""
    batch: list[Source] = []
    size = 0
    for source in sources:
        batch.append(source)
        size += (
            len(source) if isinstance(source, str) else os.stat(source).st_size
        )
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
