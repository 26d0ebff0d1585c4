"""Byte-level BPE with whatever ids a file gives its tokens."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, product

from llmbook.tokenizer import Pair, Tokenizer, pre_tokens, utf8
from llmbook.tokenizer.base import check_special_names
from llmbook.tokenizer.bpe import LONG, N_BYTES, PieceCache
from llmbook.tokenizer.joining import join_all, join_one_by_one
from llmbook.tokenizer.training import compiled

MOST_JOINED = 100  # pairs that a merge joins, on average: 1 where all is well


class HubTokenizer(Tokenizer):
    """A byte-level BPE tokenizer as the tokenizers library reads its file.

    Merges apply in their order, whatever the ids. A byte without a token of
    its own is left out of the text, for there is no id to write it with;
    SmolLM2 has a token for the bytes of its training text alone.

    Args:
        merges: pairs of byte strings, first learned first.
        ids: of every token that is not special.
        special_tokens: ids of control tokens, by their names.
        pattern: regular expression whose matches are the pre-tokens.

    Raises:
        ValueError: the ids do not count from 0 without a gap, the pattern
            is faulty, or the same token is made by merges without number.

    >>> ids = {b"b": 1, b"a": 2, b"ab": 3}
    >>> tokenizer = HubTokenizer([(b"a", b"b")], ids, {"<|end|>": 0}, ".+")
    >>> tokenizer.encode("abcba")
    [3, 1, 2]
    """

    def __init__(
        self,
        merges: Sequence[Pair],
        ids: Mapping[bytes, int],
        special_tokens: Mapping[str, int],
        pattern: str,
    ) -> None:
        check_ids(ids, special_tokens)
        compiled(pattern)  # a faulty one is an error at once
        self.merges, self.pattern = list(merges), pattern
        self.special_tokens = dict(special_tokens)
        names = {utf8(name): i for name, i in special_tokens.items()}
        self._bytes = {i: t for t, i in [*ids.items(), *names.items()]}
        self.vocab_size = len(self._bytes)
        alone = [bytes([value]) for value in range(N_BYTES)]
        self._missing = b"".join(byte for byte in alone if byte not in ids)
        self._parts = alone + [left + right for left, right in self.merges]
        self._ids = [ids.get(part, -1) for part in self._parts]
        self._joined = joined(self._parts, self.merges)
        self._forward = all(new > max(p) for p, new in self._joined.items())
        self._cache = PieceCache(self._encode_piece)

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``, in which nothing is special."""
        utf8(text)  # a lone surrogate is reported at its place in the text
        pieces = pre_tokens(text, self.pattern)
        return list(chain.from_iterable(map(self._cache.__getitem__, pieces)))

    def _encode_piece(self, piece: str) -> list[int]:
        word = utf8(piece).translate(None, self._missing)
        # join_all takes it that a token is made before it is joined.
        if len(word) < LONG or not self._forward:
            parts = join_one_by_one(word, self._joined)
        else:
            parts = join_all(word, self._joined, self._parts)
        return [self._ids[part] for part in parts]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; a special token's are its name.

        Raises:
            ValueError: there is no such id.
        """
        return self._bytes[self._check_id(token)]

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of all that decides the ids."""
        content = self.pattern, self.merges, sorted(self._bytes.items())
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"HubTokenizer(vocab_size={self.vocab_size})"


def check_ids(ids: Mapping[bytes, int], special: Mapping[str, int]) -> None:
    """Refuse names and numbers that no tokenizer can have.

    Raises:
        ValueError: a special token has no name, or the numbers are not
            those from 0 on, each once.

    >>> check_ids({b"a": 1}, {"<|end|>": 0})
    """
    check_special_names(special)
    numbers = [*ids.values(), *special.values()]
    whole = all(type(number) is int for number in numbers)
    if not whole or sorted(numbers) != list(range(len(numbers))):
        raise ValueError(
            f"the ids of {len(numbers)} tokens do not count from 0 to "
            f"{len(numbers) - 1}; expected each number once."
        )


def joined(
    parts: Sequence[bytes], merges: Sequence[Pair]
) -> dict[tuple[int, int], int]:
    """What two neighbours become, all numbered as in ``parts``.

    The bytes come first, then one number for each merge. Two merges may
    make the same bytes, which have two numbers then.

    Raises:
        ValueError: so many make the same that there is no room for the
            pairs.

    >>> alone = [bytes([value]) for value in range(256)]
    >>> joined([*alone, b"ab"], [(b"a", b"b")])
    {(97, 98): 256}
    """
    numbers = defaultdict(list)
    for number, part in enumerate(parts):
        numbers[part].append(number)
    found = sum(len(numbers[a]) * len(numbers[b]) for a, b in merges)
    if found > MOST_JOINED * len(merges):
        raise ValueError(
            f"{len(merges)} merges join {found} pairs, for many make the "
            "same token. Take the tokenizer from the model's home."
        )
    return {
        pair: N_BYTES + rank
        for rank, (left, right) in enumerate(merges)
        for pair in product(numbers[left], numbers[right])
    }
