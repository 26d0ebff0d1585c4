"""Byte-level byte-pair encoding: train, encode, decode, save, load."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import (
    END_OF_TEXT,
    Tokenizer,
    check_special_names,
    utf8,
)
from .training import (
    GPT2_PATTERN,
    Pair,
    as_single_bytes,
    count_pre_tokens,
    learn_merges,
    merge,
    pre_tokens,
)

if TYPE_CHECKING:
    import tiktoken

N_BYTES = 256
FILE_FORMAT = "llmbook-bpe"
FILE_VERSION = 1
CACHE_SIZE = 1 << 16  # pre-tokens remembered: a few megabytes


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
        self.merges = list(merges)
        self.pattern = pattern
        self.vocabulary = [bytes([value]) for value in range(N_BYTES)]
        self.vocabulary += [left + right for left, right in self.merges]
        names = check_special_names(special_tokens)
        first = len(self.vocabulary)
        self.special_tokens = {n: first + i for i, n in enumerate(names)}
        self.vocab_size = first + len(names)
        self._ids = {token: i for i, token in enumerate(self.vocabulary)}
        self._ranks = {pair: i for i, pair in enumerate(self.merges)}
        self._names = {i: name for name, i in self.special_tokens.items()}
        self._cache: dict[str, list[int]] = {}
        self._check_merges()

    @classmethod
    def train(
        cls,
        text_or_iterable: str | Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        pattern: str = GPT2_PATTERN,
        progress: bool = False,
    ) -> BPETokenizer:
        """Learn the merges that shorten the text most, pair by pair.

        Among equally frequent pairs the greatest wins, compared as a pair
        of byte strings: the rule of subword-nmt. Others differ, so equal
        counts may give other merges: minbpe takes the pair that it met
        first, Hugging Face tokenizers the pair with the smallest ids,
        SentencePiece the shortest joined token.
        Names of special tokens in the text are cut out before counting.

        Raises:
            ValueError: no text; ``vocab_size`` below 256 and the special
                tokens; or more tokens asked for than the text can give.
        """
        names = check_special_names(special_tokens)
        n_merges = vocab_size - N_BYTES - len(names)
        if n_merges < 0:
            raise ValueError(
                f"vocab_size is {vocab_size}; the {N_BYTES} bytes and "
                f"{len(names)} special tokens need "
                f"{N_BYTES + len(names)} at least."
            )
        pieces = count_pre_tokens(text_or_iterable, pattern, names)
        if not pieces:
            raise ValueError("there is no text to train a tokenizer on.")
        merges = learn_merges(pieces, n_merges, progress)
        if len(merges) < n_merges:
            raise ValueError(
                f"the text has pairs for {len(merges)} merges only, and "
                f"vocab_size={vocab_size} needs {n_merges}. Bring more text, "
                f"or ask for vocab_size={vocab_size - n_merges + len(merges)}."
            )
        return cls(merges, names, pattern)

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``, in which nothing is special."""
        utf8(text)  # a lone surrogate is reported at its place in the text
        ids: list[int] = []
        for piece in pre_tokens(text, self.pattern):
            known = self._cache.get(piece)
            if known is None:
                known = self.encode_piece(piece)
                if len(self._cache) >= CACHE_SIZE:
                    self._cache.clear()
                self._cache[piece] = known
            ids.extend(known)
        return ids

    def encode_piece(self, piece: str) -> list[int]:
        """The ids of one pre-token."""
        tokens = apply_merges(as_single_bytes(utf8(piece)), self._ranks)
        return [self._ids[token] for token in tokens]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; a special token's are its name.

        Raises:
            ValueError: there is no such id.
        """
        index = self._check_id(token)
        if index in self._names:
            return utf8(self._names[index])
        return self.vocabulary[index]

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of all that decides the ids."""
        content = json.dumps(self._content(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as JSON, whole or not at all.

        Bytes are written as the characters U+0000 to U+00FF (Latin-1), so
        that English merges can be read in the file.
        """
        document = {
            "format": FILE_FORMAT,
            "version": FILE_VERSION,
            "sha256": self.fingerprint(),
            **self._content(),
        }
        write_atomically(Path(path), json.dumps(document, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BPETokenizer:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, edited, or something else.
        """
        document = read_document(Path(path))
        try:
            merges = [
                (left.encode("latin-1"), right.encode("latin-1"))
                for left, right in document["merges"]
            ]
            tokenizer = cls(
                merges, document["special_tokens"], document["pattern"]
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}). "
                "Restore it, or train and save the tokenizer again."
            ) from None
        if tokenizer.fingerprint() != document.get("sha256"):
            raise ValueError(
                f"{path} was changed after it was saved: its content does "
                "not match its checksum. Restore it, or train and save the "
                "tokenizer again."
            )
        return tokenizer

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

    def _check_merges(self) -> None:
        known = set(self.vocabulary[:N_BYTES])
        for rank, (left, right) in enumerate(self.merges):
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


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, of the format that ``save`` writes."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(
            f"{path} is no whole tokenizer file ({error}). Was the copy cut "
            "short? Train and save the tokenizer again."
        ) from None
    if not isinstance(document, dict) or document.get("format") != FILE_FORMAT:
        raise ValueError(
            f"{path} was not written by BPETokenizer.save: it has no "
            f'"format": "{FILE_FORMAT}".'
        )
    if document.get("version") != FILE_VERSION:
        raise ValueError(
            f"{path} has version {document.get('version')!r}; this llmbook "
            f"reads version {FILE_VERSION}. Update llmbook, or train again."
        )
    return document


def write_atomically(path: Path, text: str) -> None:
    """Write beside ``path`` and rename: no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp's own is for one user only
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
