"""A byte-level BPE tokenizer as Hugging Face's ``tokenizer.json``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from llmbook.tokenizer import (
    GPT2_PATTERN,
    BPETokenizer,
    Pair,
    TiktokenTokenizer,
    Tokenizer,
    gpt2,
)
from llmbook.tokenizer.bpe import N_BYTES
from llmbook.tokenizer.files import FILE_FORMAT

from .bpe import HubTokenizer, check_ids
from .files import TOKENIZER, read_json
from .repositories import GPT2_SIZES, REPOSITORIES, download

# Bytes that stand for themselves in the file: what can be seen when printed.
VISIBLE = (
    *range(ord("!"), ord("~") + 1),
    *range(ord("¡"), ord("¬") + 1),
    *range(ord("®"), ord("ÿ") + 1),
)
FIRST_STAND_IN = 256  # the others are written as letters from here on
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,  # the pattern has cut the text already
}
# Every digit a token of its own, then GPT-2's pattern for what stands between
# digits (SmolLM2 and StarCoder); and the same as one pattern.
DIGITS = {"type": "Digits", "individual_digits": True}
DIGITS_PATTERN = (
    r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+"
    r"| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
)
# Last steps that add no token, unless they name one to add.
ADDS_NOTHING = ("ByteLevel", "TemplateProcessing")
PLAIN_BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


@cache
def byte_letters() -> dict[int, str]:
    """The letter that GPT-2's files write for each byte.

    Visible ones are written as themselves, the other 68 as the letters from
    U+0100 on, so that a token never holds a blank (Radford et al. 2019,
    their code's ``bytes_to_unicode``).

    >>> "".join(byte_letters()[value] for value in b" kite\\n")
    'ĠkiteĊ'
    """
    stand_ins = count(FIRST_STAND_IN)
    return {
        value: chr(value if value in VISIBLE else next(stand_ins))
        for value in range(N_BYTES)
    }


@cache
def letter_bytes() -> dict[str, int]:
    """The byte that each letter of GPT-2's files stands for.

    >>> letter_bytes()["Ġ"] == ord(" ")
    True
    """
    return {letter: value for value, letter in byte_letters().items()}


def as_letters(token: bytes) -> str:
    """``token`` as GPT-2's files write it, a letter a byte."""
    return "".join(byte_letters()[value] for value in token)


def as_bytes(letters: str) -> bytes:
    """The token that GPT-2's files write as ``letters``.

    Raises:
        ValueError: a letter stands for no byte.

    >>> as_bytes("Ġkite")
    b' kite'
    """
    try:
        return bytes(letter_bytes()[letter] for letter in letters)
    except KeyError as error:
        raise ValueError(
            f"token {letters!r} of {TOKENIZER} has the letter {error}, which "
            "stands for no byte; expected a byte-level BPE like GPT-2's."
        ) from None


def halves(token: bytes, ranks: Mapping[bytes, int]) -> Pair:
    """The two tokens whose merge made ``token``.

    Its bytes are merged by rank until two parts are left, which is what BPE
    did with them when it learned the token.

    >>> halves(b"low", {b"lo": 0, b"low": 1, b"ow": 2})
    (b'lo', b'w')
    """
    parts = [bytes([value]) for value in token]
    while len(parts) > 2:
        found = [ranks.get(a + b, math.inf) for a, b in pairwise(parts)]
        i = found.index(min(found))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    left, right = parts
    return left, right


def _parts(tokenizer: Tokenizer) -> tuple[list[Pair], str]:
    """The merges and the pattern of ``tokenizer``."""
    if isinstance(tokenizer, BPETokenizer | HubTokenizer):
        return tokenizer.merges, tokenizer.pattern
    if not isinstance(tokenizer, TiktokenTokenizer):
        raise ValueError(
            f"got a {type(tokenizer).__name__}; expected a byte-level BPE "
            "tokenizer, such as a BPETokenizer or a TiktokenTokenizer."
        )
    special = tokenizer.special_tokens.values()
    ids = [i for i in range(tokenizer.vocab_size) if i not in special]
    ranks = {tokenizer.token_bytes(i): i for i in ids}
    merges = [halves(token, ranks) for token in ranks if len(token) > 1]
    return merges, tokenizer.encoding._pat_str  # tiktoken shows it nowhere


def tokenizer_to_hub(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of ``tokenizer.json``, as the tokenizers library reads it.

    Raises:
        ValueError: it is no byte-level BPE, or a special token has the name
            of an ordinary one.
    """
    merges, pattern = _parts(tokenizer)
    special = {i: name for name, i in tokenizer.special_tokens.items()}
    vocabulary = {
        special.get(i) or as_letters(tokenizer.token_bytes(i)): i
        for i in range(tokenizer.vocab_size)
    }
    if len(vocabulary) < tokenizer.vocab_size:
        raise ValueError(
            f"one of the special tokens {list(special.values())} is written "
            "like an ordinary token, and the file can hold it once. Give it "
            "a name that no text has, such as <|name|>."
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(i, name) for i, name in sorted(special.items())
        ],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(pattern),
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            **PLAIN_BPE,
            "vocab": vocabulary,
            "merges": [" ".join(map(as_letters, pair)) for pair in merges],
        },
    }


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """Cut text at the matches of ``pattern``, then write bytes as letters."""
    return {"type": "Sequence", "pretokenizers": [_split(pattern), BYTE_LEVEL]}


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _added_token(number: int, name: str) -> dict[str, Any]:
    return {
        "id": number,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def load_tokenizer(name_or_dir: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a model: a folder's ``tokenizer.json``, or a name's.

    The file is Hugging Face's, or what :meth:`BPETokenizer.save` wrote. A
    :class:`BPETokenizer` where the first 256 ids are the bytes, as in every
    tokenizer that the book trains; with GPT-2's order of ids, a
    :class:`TiktokenTokenizer`; with any other order a
    :class:`HubTokenizer`. Names are those of :data:`REPOSITORIES`.

    A file brings its own pattern, and a pattern can be made to run for
    hours; so take files from people whom you trust with your time.

    Raises:
        ValueError: there is no such file, or its tokenizer does something
            that none of the three does.
        OSError: it has to be downloaded, and that failed.
    """
    name, path = os.fspath(name_or_dir), Path(name_or_dir)
    if not path.exists() and name in GPT2_SIZES:
        return _gpt2()
    if not path.exists() and name in REPOSITORIES:
        path = download(name, [TOKENIZER])
    if path.is_dir():
        path /= TOKENIZER
    if not path.is_file():
        raise ValueError(
            f"there is no {path}; expected a {TOKENIZER}, a folder that has "
            f"one, or a name of {', '.join(REPOSITORIES)}."
        )
    content = read_json(path)
    if content.get("format") == FILE_FORMAT:
        return BPETokenizer.load(path)
    return tokenizer_from_hub(content)


def _gpt2() -> Tokenizer:
    try:
        return gpt2()
    except RuntimeError as error:  # no file and no network
        raise OSError(str(error)) from error


def tokenizer_from_hub(content: dict[str, Any]) -> Tokenizer:
    """The tokenizer that the content of a ``tokenizer.json`` describes.

    Raises:
        ValueError: as :func:`load_tokenizer`.
    """
    try:
        pattern = _pattern(content)
        special = {t["content"]: t["id"] for t in content["added_tokens"]}
        ids = {
            as_bytes(letters): number
            for letters, number in content["model"]["vocab"].items()
            if letters not in special
        }
        merges = [_pair(merge) for merge in content["model"]["merges"]]
        return _tokenizer(ids, merges, special, pattern)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{TOKENIZER} lacks what a byte-level BPE has ({error!r}). Save "
            "the model again."
        ) from None


def _pair(merge: str | list[str]) -> Pair:
    """A merge, written as "a b", or as ["a", "b"] by newer libraries."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2 or not all(parts):
        raise ValueError(
            f"{TOKENIZER} has the merge {merge!r}; expected two tokens."
        )
    return as_bytes(parts[0]), as_bytes(parts[1])


def _pattern(content: dict[str, Any]) -> str:
    """How the file cuts text, where it does what our tokenizers do.

    Raises:
        ValueError: it does something else.
    """
    # The oldest files, such as GPT-2's own, leave the type out.
    model = {"type": "BPE"} | content["model"]
    steps = content["pre_tokenizer"]
    steps = steps.get("pretokenizers", [steps])
    cuts, last = steps[:-1], steps[-1]
    pattern = DIGITS_PATTERN if cuts == [DIGITS] else GPT2_PATTERN
    whole = cuts in ([], [DIGITS])  # ByteLevel itself goes on with GPT-2's
    if not whole:
        pattern = cuts[0]["pattern"]["Regex"]
    after = content.get("post_processor") or BYTE_LEVEL
    fits = (
        {k: model[k] for k in PLAIN_BPE if model.get(k)} == {"type": "BPE"}
        and not content.get("normalizer")
        and (whole or cuts == [_split(pattern)])
        and last["type"] == "ByteLevel"
        and after["type"] in ADDS_NOTHING
        and not after.get("special_tokens")
        and last.get("use_regex", True) == whole
        and not last["add_prefix_space"]
        and all(token["special"] for token in content["added_tokens"])
    )
    if not fits:
        raise ValueError(
            f"{TOKENIZER} does more than cut text by one pattern and merge "
            "its bytes; expected a byte-level BPE without normalizer, added "
            "blanks or tokens, as GPT-2 and SmolLM2 have it."
        )
    return pattern


def _tokenizer(
    ids: dict[bytes, int],
    merges: list[Pair],
    special: dict[str, int],
    pattern: str,
) -> Tokenizer:
    """Ours, where its ids are the file's; tiktoken's, where it can be."""
    check_ids(ids, special)
    made = [left + right for left, right in merges]
    ranks = [ids[token] for token in made]
    tokens = [*(bytes([value]) for value in range(N_BYTES)), *made]
    if ids == {token: i for i, token in enumerate(tokens)}:
        names = sorted(special, key=special.get)
        return BPETokenizer(merges, names, pattern)
    if not (
        pattern in (GPT2_PATTERN, DIGITS_PATTERN)
        and ids.keys() == set(tokens)
        and all(first < then for first, then in pairwise(ranks))
        and all(
            halves(left + right, ids) == (left, right)
            for left, right in merges
        )
    ):
        return HubTokenizer(merges, ids, special, pattern)
    import tiktoken

    return TiktokenTokenizer(
        tiktoken.Encoding(
            "hub",
            pat_str=pattern,
            mergeable_ranks=ids,
            special_tokens=special,
        )
    )
