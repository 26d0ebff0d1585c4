"""How a token is written where a reader should see it."""

from __future__ import annotations

import unicodedata

NAMED = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
CARRIER = "◌"  # a combining mark needs something to stand on


def visible(token: str | bytes) -> str:
    """``token`` with nothing hidden: spaces, line ends, half characters.

    Bytes that are no whole UTF-8 text are written in hexadecimal, characters
    without a shape of their own as their code point.

    >>> visible(" kite"), visible(b"\\xe2\\x82"), visible("")
    ('␣kite', '⟨E2 82⟩', '⟨empty⟩')
    """
    if isinstance(token, bytes):
        try:
            token = token.decode("utf-8")
        except UnicodeDecodeError:
            return f"⟨{token.hex(' ').upper()}⟩"
    if not token:
        return "⟨empty⟩"
    text = "".join(_visible_character(c) for c in token)
    return CARRIER + text if unicodedata.combining(text[0]) else text


def _visible_character(character: str) -> str:
    if character in NAMED:
        return NAMED[character]
    # Z: separators; C: controls, formats (direction, joiners), surrogates.
    if unicodedata.category(character)[0] in "ZC":
        return f"⟨U+{ord(character):04X}⟩"
    return character


def shortened(text: str, longest: int = 12) -> str:
    """``text`` cut to ``longest`` characters, for a label in print.

    >>> shortened("abcdefgh", 5)
    'abcd…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"
