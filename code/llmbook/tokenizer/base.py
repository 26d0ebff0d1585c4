"""What every tokenizer shares: special tokens, checks, bytes back to text."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Literal

END_OF_TEXT = "<|endoftext|>"  # GPT-2's name for the end of a document
UNKNOWN = "<|unknown|>"  # what a closed vocabulary writes for the unseen


def utf8(text: str) -> bytes:
    """The bytes of ``text`` in UTF-8 (RFC 3629).

    Raises:
        ValueError: the text holds a lone surrogate, which is half of a
            character and has no bytes of its own.

    >>> list(utf8("né"))
    [110, 195, 169]
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"character {error.start} of the text is U+{code:04X}, a lone "
            "surrogate: half of a character, which no UTF-8 file can hold. "
            "Repair the text first, for example with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', "
            "'replace')."
        ) from None


def as_texts(texts: str | Iterable[str]) -> Iterator[str]:
    """One text or many, as an iterator of strings."""
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise TypeError(
                f"got a {type(text).__name__} to tokenize; expected str. "
                "Decode bytes first: data.decode('utf-8')."
            )
        yield text


def split_special(
    text: str, special_tokens: Collection[str]
) -> list[tuple[str, bool]]:
    """Cut ``text`` at special tokens: pieces, each with "is it special?".

    The longest name wins where two start at the same place.

    >>> split_special("a<|end|>b", ["<|end|>"])
    [('a', False), ('<|end|>', True), ('b', False)]
    """
    if not special_tokens:
        return [(text, False)] if text else []
    names = sorted(special_tokens, key=len, reverse=True)
    alternatives = "|".join(re.escape(name) for name in names)
    pieces = re.split(f"({alternatives})", text)  # odd places: the names
    return [(p, i % 2 == 1) for i, p in enumerate(pieces) if p]


def check_special_names(names: Iterable[str]) -> list[str]:
    """``names`` as a list: strings, not empty, no two alike."""
    if isinstance(names, str):
        raise ValueError(
            f"special_tokens is the string {names!r}; expected a list of "
            f"names. Write special_tokens=[{names!r}]."
        )
    names = list(names)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"special token {name!r} is no name; expected a string of at "
                "least one character."
            )
        utf8(name)
    if len(set(names)) < len(names):
        raise ValueError(f"special_tokens names one token twice: {names}.")
    return names


class Tokenizer:
    """Text to ids and back; subclasses say how ordinary text is cut.

    A subclass sets ``special_tokens`` (name to id) and ``vocab_size``, and
    defines ``encode_ordinary`` and ``token_bytes``.
    """

    special_tokens: dict[str, int]
    vocab_size: int

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``, in which nothing is special."""
        raise NotImplementedError

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for."""
        raise NotImplementedError

    @property
    def end_of_text(self) -> int:
        """The id of ``<|endoftext|>``, which stands after each document."""
        if END_OF_TEXT not in self.special_tokens:
            raise ValueError(
                f"this tokenizer was trained without {END_OF_TEXT!r}. Train "
                "it with special_tokens=[END_OF_TEXT]."
            )
        return self.special_tokens[END_OF_TEXT]

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | Literal["all"] = (),
        on_special: Literal["error", "text"] = "error",
    ) -> list[int]:
        """The token ids of ``text``.

        A special token's name becomes its id only where the caller allows
        it. Elsewhere it is an error, or (``on_special="text"``) characters
        like any others; text from a user never turns into a control token.

        Args:
            allowed_special: names that become control tokens, or ``"all"``.
            on_special: what to do with the other names, where the text
                holds them: ``"error"`` or ``"text"``.

        Raises:
            ValueError: a special token that is not allowed, an unknown name
                in ``allowed_special``, or a lone surrogate.
        """
        next(as_texts([text]))
        allowed = self._allowed(allowed_special)
        if on_special == "error":
            self._refuse(text, set(self.special_tokens) - allowed)
        elif on_special != "text":
            raise ValueError(
                f"on_special is {on_special!r}; expected 'error' or 'text'."
            )
        ids: list[int] = []
        for piece, is_special in split_special(text, allowed):
            if is_special:
                ids.append(self.special_tokens[piece])
            else:
                ids.extend(self.encode_ordinary(piece))
        return ids

    def encode_batch(
        self,
        texts: Iterable[str],
        allowed_special: Collection[str] | Literal["all"] = (),
        on_special: Literal["error", "text"] = "error",
    ) -> list[list[int]]:
        """The token ids of each text; see :meth:`encode`."""
        return [
            self.encode(text, allowed_special, on_special)
            for text in as_texts(texts)
        ]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ``ids`` stand for, one after the other."""
        return b"".join(self.token_bytes(token) for token in ids)

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text that ``ids`` stand for.

        A cut through the middle of a character leaves bytes that are no
        UTF-8; they show as U+FFFD, or raise with ``errors="strict"``.
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def _allowed(self, names: Collection[str] | Literal["all"]) -> set[str]:
        if isinstance(names, str):
            names = self.special_tokens if names == "all" else [names]
        unknown = set(names) - set(self.special_tokens)
        if unknown:
            raise ValueError(
                f"allowed_special names {sorted(unknown)}, but this "
                f"tokenizer's special tokens are {list(self.special_tokens)}."
            )
        return set(names)

    def _refuse(self, text: str, names: set[str]) -> None:
        start = 0
        for piece, is_special in split_special(text, names):
            if is_special:
                raise ValueError(
                    f"the text holds the special token {piece!r} at "
                    f"character {start}. If it is yours, pass "
                    f"allowed_special=[{piece!r}]; if it comes from a user, "
                    "pass on_special='text' to read it as characters."
                )
            start += len(piece)

    def _check_id(self, token: int) -> int:
        try:
            index = operator.index(token)
        except TypeError:
            index = -1
        if not 0 <= index < self.vocab_size:
            raise ValueError(
                f"token id {token!r} is out of range: this tokenizer has "
                f"ids from 0 to {self.vocab_size - 1}. Was the text encoded "
                "with another one?"
            )
        return index
