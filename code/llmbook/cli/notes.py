"""What a command says beside its result, and how text is shown."""

from __future__ import annotations

import sys
import unicodedata

# What a terminal would obey instead of showing: controls (Cc), such as the
# escape that begins a command; formats (Cf), such as those that turn the
# direction of writing; surrogates, and Unicode's own ends of lines.
OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
HARMLESS = "\n\t\u200c\u200d"  # the last two join and part letters


def visible(text: str) -> str:
    """``text`` with escapes for all that a terminal would obey.

    >>> print(visible("a\\x1b[2J\\u202eb"))
    a\\x1b[2J\\u202eb
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in OBEYED
        and character not in HARMLESS
        else character
        for character in text
    )


def note(text: object) -> None:
    """Say something on stderr, on a line that names the program.

    It may name a file or quote one, whoever wrote that.
    """
    print(f"llmbook: {visible(str(text))}", file=sys.stderr, flush=True)
