"""What the page needs to encode as Python does: classes and vocabularies."""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Iterable
from typing import Any

import regex

from llmbook.tokenizer import gpt2

# GPT-2's pattern speaks of three classes. Which characters each one holds
# depends on the version of Unicode, so a browser is told and not asked.
CLASSES = {"letters": r"\p{L}+", "numbers": r"\p{N}+", "spaces": r"\s+"}
LAST = 0x10FFFF  # the last code point of Unicode
SURROGATES = range(0xD800, 0xE000)  # halves of characters: in no text
N_BYTES = 256


@functools.cache
def every_character() -> str:
    """All 1,112,064 characters that a text can hold."""
    codes = range(LAST + 1)
    return "".join(chr(c) for c in codes if c not in SURROGATES)


def runs(characters: Iterable[str]) -> list[int]:
    """Sorted characters as runs: gap, length less one, gap, and so on.

    A gap is the distance from the end of the run before (from 0 at first).

    >>> runs("abcz")
    [97, 2, 23, 0]
    """
    numbers: list[int] = []
    last = 0
    for code in map(ord, characters):
        if numbers and code == last + 1:
            numbers[-1] += 1
        else:
            numbers += [code - last, 0]
        last = code
    return numbers


@functools.cache
def python_classes() -> dict[str, list[int]]:
    """The three classes as the regex package has them."""
    text = every_character()
    return {
        name: runs("".join(regex.findall(pattern, text)))
        for name, pattern in CLASSES.items()
    }


@functools.cache
def tiktoken_classes() -> dict[str, list[int]]:
    """The three classes as tiktoken has them, which brings its own tables.

    An encoding leaves out what its pattern does not match: of all
    characters, the class remains.
    """
    import tiktoken

    ranks = {bytes([value]): value for value in range(N_BYTES)}
    found = {}
    for name, pattern in CLASSES.items():
        encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )
        ids = encoding.encode_ordinary(every_character())
        found[name] = runs(bytes(ids).decode())
    return found


@functools.cache
def gpt2_data() -> dict[str, Any]:
    """GPT-2's whole vocabulary for the page, in some 270 kB.

    The tokens stand in the order of their ids, their lengths before them,
    deflated (zlib) and in base64. No pairs are needed: two neighbours merge
    when their joined bytes are a token, the lowest id first.

    Raises:
        RuntimeError: the vocabulary is not to be had; see ``gpt2``.
    """
    tokenizer = gpt2()
    names = set(tokenizer.special_tokens.values())
    ids = [i for i in range(tokenizer.vocab_size) if i not in names]
    tokens = [tokenizer.token_bytes(i) for i in ids]
    content = bytes(map(len, tokens)) + b"".join(tokens)
    return {
        "tokens": base64.b64encode(zlib.compress(content, 9)).decode(),
        "count": len(tokens),
        "classes": tiktoken_classes(),
        "vocab_size": tokenizer.vocab_size,
    }
