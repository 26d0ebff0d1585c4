"""Byte-level byte-pair encoding: train, encode, decode, save, load."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import (
    END_OF_TEXT,
    Tokenizer,
    check_special_names,
    utf8,
)
from .counting import Source, count_pre_tokens
from .files import checksum, read_document, write_document
from .joining import join_all, join_one_by_one
from .training import (
    GPT2_PATTERN,
    Pair,
    compiled,
    learn_merges,
    merge,
    pre_tokens,
)

if TYPE_CHECKING:
    import tiktoken

N_BYTES = 256
CACHE_SIZE = 1 << 16  # pre-tokens remembered: about 10 MB
CACHED_LENGTH = 64  # longer ones hardly ever come again
LONG = 200  # bytes in a word, from where on join_all is faster: measured


def apply_merges(
    tokens: list[bytes], ranks: Mapping[Pair, int]
) -> list[bytes]:
    """Merge the pair that was learned first, until no known pair is left.

    >>> ranks = {(b"l", b"o"): 0, (b"lo", b"w"): 1}
    >>> apply_merges([b"l", b"o", b"w", b"s"], ranks)
    [b'low', b's']
    """
    while len(tokens) > 1:
        pair = min(pairwise(tokens), key=lambda p: ranks.get(p, len(ranks)))
        if pair not in ranks:
            break
        tokens = merge(tokens, pair)
    return tokens


class PieceCache(dict[str, tuple[int, ...]]):
    """Pre-tokens and their ids, found by ``encode`` when first asked for."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self.encode = encode

    def __missing__(self, piece: str) -> tuple[int, ...]:
        ids = tuple(self.encode(piece))
        if len(piece) <= CACHED_LENGTH:
            if len(self) >= CACHE_SIZE:
                self.clear()
            self[piece] = ids
        return ids


class BPETokenizer(Tokenizer):
    """A byte-level BPE tokenizer.

    Ids 0 to 255 are the bytes, then come the merges in the order in which
    they were learned, then the special tokens. ``vocab_size`` counts all.

    Args:
        merges: pairs of byte strings, first learned first.
        special_tokens: names of control tokens.
        pattern: regular expression whose matches are the pre-tokens.

    >>> tokenizer = BPETokenizer([(b"a", b"b")])
    >>> tokenizer.encode("abc"), tokenizer.decode([256, 99])
    ([256, 99], 'abc')
    """

    def __init__(
        self,
        merges: Sequence[Pair],
        special_tokens: Iterable[str] = (END_OF_TEXT,),
        pattern: str = GPT2_PATTERN,
    ) -> None:
        compiled(pattern)  # a faulty one is an error at once
        self.pattern = pattern
        self.merges = list(merges)
        check_merges(self.merges)
        self.vocabulary = [bytes([value]) for value in range(N_BYTES)]
        self.vocabulary += [left + right for left, right in self.merges]
        names = check_special_names(special_tokens)
        first = len(self.vocabulary)
        self.special_tokens = {n: first + i for i, n in enumerate(names)}
        self.vocab_size = first + len(names)
        self._bytes = dict(enumerate(self.vocabulary + list(map(utf8, names))))
        self._ids = {token: i for i, token in enumerate(self.vocabulary)}
        self._joined = {
            (self._ids[left], self._ids[right]): N_BYTES + rank
            for rank, (left, right) in enumerate(self.merges)
        }
        self._cache = PieceCache(self.encode_piece)

    @classmethod
    def train(
        cls,
        text_or_iterable: Source | Iterable[Source],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        pattern: str = GPT2_PATTERN,
        progress: bool = False,
        workers: int = 1,
    ) -> BPETokenizer:
        """Learn the merges that shorten the text most, pair by pair.

        A string is a text, a ``pathlib.Path`` a file, read in blocks.
        Among equally frequent pairs the greatest wins, compared as a pair
        of byte strings: the rule of subword-nmt. Others differ, so equal
        counts may give other merges: minbpe takes the pair that it met
        first, Hugging Face tokenizers the pair with the smallest ids,
        SentencePiece the shortest joined token.
        Names of special tokens in the text are cut out before counting.

        Args:
            workers: processes that count pre-tokens, each texts of its own;
                they pay from some tens of megabytes on.

        Raises:
            ValueError: no text; a file that is no UTF-8; ``vocab_size``
                too small, or larger than the text can give.
        """
        names = check_special_names(special_tokens)
        n_merges = check_vocab_size(vocab_size, len(names))
        pieces = count_pre_tokens(text_or_iterable, pattern, names, workers)
        if not pieces:
            raise ValueError("there is no text to train a tokenizer on.")
        merges = learn_merges(pieces, n_merges, progress)
        if len(merges) < n_merges:
            raise ValueError(
                f"the text has pairs for {len(merges)} merges only; "
                f"vocab_size={vocab_size} needs {n_merges}. Bring more text, "
                f"or ask for vocab_size={vocab_size - n_merges + len(merges)}."
            )
        return cls(merges, names, pattern)

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``, in which nothing is special."""
        utf8(text)  # a lone surrogate is reported at its place in the text
        pieces = pre_tokens(text, self.pattern)
        return list(chain.from_iterable(map(self._cache.__getitem__, pieces)))

    def encode_piece(self, piece: str) -> list[int]:
        """The ids of one pre-token, as :func:`apply_merges` finds them."""
        word = utf8(piece)
        if len(word) < LONG:
            return join_one_by_one(word, self._joined)
        return join_all(word, self._joined, self.vocabulary)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; a special token's are its name.

        Raises:
            ValueError: there is no such id.
        """
        return self._bytes[self._check_id(token)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ``ids`` stand for, one after the other.

        Raises:
            ValueError: there is no such id.
        """
        ids = list(ids)
        try:
            whole = map(operator.index, ids)
            return b"".join(map(self._bytes.__getitem__, whole))
        except (KeyError, TypeError):
            return super().decode_bytes(ids)  # says which id is wrong

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of all that decides the ids."""
        return checksum(self._content())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as JSON, whole or not at all.

        Bytes are written as the characters U+0000 to U+00FF (Latin-1), so
        that English merges can be read in the file.
        """
        write_document(Path(path), self._content())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BPETokenizer:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, edited, or something else.
        """
        content = read_document(Path(path))
        try:
            merges = [
                (left.encode("latin-1"), right.encode("latin-1"))
                for left, right in content["merges"]
            ]
            return cls(merges, content["special_tokens"], content["pattern"])
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}). "
                "Restore it, or train and save the tokenizer again."
            ) from None

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The same tokenizer as an encoding of tiktoken's fast engine.

        tiktoken joins any two neighbours whose joined bytes are a token.
        For merges that were learned from text that gives the same ids.
        """
        import tiktoken

        return tiktoken.Encoding(
            f"llmbook-{self.fingerprint()[:8]}",
            pat_str=self.pattern,
            mergeable_ranks=dict(self._ids),
            special_tokens=dict(self.special_tokens),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BPETokenizer):
            return NotImplemented
        return self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"BPETokenizer(vocab_size={self.vocab_size})"

    def _content(self) -> dict[str, Any]:
        return {
            "pattern": self.pattern,
            "special_tokens": list(self.special_tokens),
            "merges": [
                [left.decode("latin-1"), right.decode("latin-1")]
                for left, right in self.merges
            ],
        }


def check_vocab_size(vocab_size: int, n_special: int) -> int:
    """How many merges a vocabulary of that size has room for.

    Raises:
        ValueError: none, or it is no number.
    """
    if not isinstance(vocab_size, int) or isinstance(vocab_size, bool):
        raise ValueError(
            f"vocab_size is {vocab_size!r}; expected a whole number."
        )
    if vocab_size < N_BYTES + n_special:
        raise ValueError(
            f"vocab_size is {vocab_size}; the {N_BYTES} bytes and "
            f"{n_special} special tokens need {N_BYTES + n_special} at least."
        )
    return vocab_size - N_BYTES - n_special


def check_merges(merges: Sequence[Pair]) -> None:
    """Each merge joins two tokens that are there to one that is not yet.

    Raises:
        ValueError: one does not; says which.
    """
    known = {bytes([value]) for value in range(N_BYTES)}
    for rank, (left, right) in enumerate(merges):
        if left not in known or right not in known:
            raise ValueError(
                f"merge {rank}, {(left, right)}, joins a token that no "
                "earlier merge made."
            )
        if left + right in known:
            raise ValueError(
                f"merge {rank}, {(left, right)}, makes a token that is "
                "there already."
            )
        known.add(left + right)
