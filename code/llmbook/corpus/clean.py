"""Text in one spelling: composed, without control characters."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from .collect import Rejected

_SURROGATE = re.compile("[\ud800-\udfff]")
# C0 and C1 without tab and newline, delete, and marks that are no text:
# byte-order marks, noncharacters at the end of the first plane.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(text: str) -> str | Rejected:
    """One spelling for what looks the same, and nothing that is no text.

    Lines end in ``\\n``; at most one blank line follows another; control
    characters go; letters and their accents are composed (Unicode's
    normalisation form C). Half of a surrogate pair stands for no character,
    so a text that holds one is rejected.

    >>> clean("Cafe\\u0301\\r\\n\\x00ole  ")
    'Café\\nole'
    """
    if broken := _SURROGATE.search(text):
        code, at = ord(broken[0]), broken.start()
        detail = f"half a surrogate pair, U+{code:04X}, at character {at}"
        return Rejected("encoding", detail)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text)
    text = unicodedata.normalize("NFC", text)
    lines = (line.rstrip(" \t") for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def normalized(text: str) -> str:
    """What two texts share that differ in case and white space only.

    >>> normalized("  The Kite\\nFlew. ")
    'the kite flew.'
    """
    return " ".join(text.casefold().split())


def content_hash(text: str) -> bytes:
    """The SHA-256 of the normalised text: equal for equal content."""
    return hashlib.sha256(normalized(text).encode()).digest()
