"""Characters and words as tokens: closed vocabularies, for comparison."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from .base import (
    END_OF_TEXT,
    UNKNOWN,
    Tokenizer,
    as_texts,
    check_special_names,
    split_special,
    utf8,
)
from .training import pre_tokens

CHARACTER_PATTERN = r"[\s\S]"
WORD_PATTERN = r" ?\w+| ?[^\w\s]|\s"  # a word or a mark, with its space


class ClosedTokenizer(Tokenizer):
    """One id for each symbol of a list; the rest is ``<|unknown|>``.

    Args:
        symbols: the symbols that have ids of their own, in order of ids.
        special_tokens: names of control tokens; ``<|unknown|>`` is added.
    """

    pattern = CHARACTER_PATTERN

    def __init__(
        self,
        symbols: Sequence[str],
        special_tokens: Iterable[str] = (END_OF_TEXT,),
    ) -> None:
        names = check_special_names([*special_tokens, UNKNOWN])
        self.symbols = list(symbols)
        first = len(self.symbols)
        self.special_tokens = {n: first + i for i, n in enumerate(names)}
        self.vocab_size = first + len(names)
        self.unknown = self.special_tokens[UNKNOWN]
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    @classmethod
    def count(
        cls, texts: str | Iterable[str], special_tokens: Sequence[str]
    ) -> Counter[str]:
        """How often each symbol occurs; special tokens' names are cut out.

        Raises:
            ValueError: there is no text.
        """
        counts: Counter[str] = Counter()
        for text in as_texts(texts):
            utf8(text)
            for piece, is_special in split_special(text, special_tokens):
                if not is_special:
                    counts.update(pre_tokens(piece, cls.pattern))
        if not counts:
            raise ValueError("there is no text to train a tokenizer on.")
        return counts

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``; symbols never seen become ``unknown``."""
        utf8(text)
        pieces = pre_tokens(text, self.pattern)
        return [self._ids.get(piece, self.unknown) for piece in pieces]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; a special token's are its name.

        Raises:
            ValueError: there is no such id.
        """
        index = self._check_id(token)
        if index < len(self.symbols):
            return utf8(self.symbols[index])
        return utf8(list(self.special_tokens)[index - len(self.symbols)])

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of all that decides the ids."""
        content = [self.pattern, self.symbols, list(self.special_tokens)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


class CharTokenizer(ClosedTokenizer):
    """One token for each character (Unicode code point) of the text.

    >>> tokenizer = CharTokenizer.train("kite")
    >>> tokenizer.encode("tie"), tokenizer.decode([2, 0, 3])
    ([3, 1, 0], 'ket')
    """

    @classmethod
    def train(
        cls,
        text_or_iterable: str | Iterable[str],
        special_tokens: Sequence[str] = (END_OF_TEXT,),
    ) -> CharTokenizer:
        """Give every character of the text an id, in Unicode's order."""
        return cls(
            sorted(cls.count(text_or_iterable, special_tokens)),
            special_tokens,
        )


class WordTokenizer(ClosedTokenizer):
    """One token for each frequent word, which carries its leading space.

    >>> tokenizer = WordTokenizer.train("a kite, a mill")
    >>> tokenizer.decode(tokenizer.encode("a kite lost"))
    'a kite<|unknown|>'
    """

    pattern = WORD_PATTERN

    @classmethod
    def train(
        cls,
        text_or_iterable: str | Iterable[str],
        vocab_size: int | None = None,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
    ) -> WordTokenizer:
        """Give the most frequent words ids; ties in alphabetical order.

        Args:
            vocab_size: ids in all, special tokens and ``<|unknown|>``
                included; None keeps every word.

        Raises:
            ValueError: no text, or a ``vocab_size`` without room for one
                word, or for more words than the text has.
        """
        counts = cls.count(text_or_iterable, special_tokens)
        words = sorted(counts, key=lambda word: (-counts[word], word))
        reserved = len(special_tokens) + 1
        if vocab_size is None:
            vocab_size = len(words) + reserved
        if not reserved < vocab_size <= len(words) + reserved:
            raise ValueError(
                f"vocab_size is {vocab_size}; this text allows "
                f"{reserved + 1} to {len(words) + reserved}."
            )
        return cls(words[: vocab_size - reserved], special_tokens)
