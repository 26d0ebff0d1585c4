"""Whether what a model writes is words: of its own books, of the language.

Every function takes its set of known words as an argument;
:func:`load_word_list` reads one that comes with a package.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

WORD_LIST = ("symspellpy", "frequency_dictionary_en_82_765.txt")
LONG_WORD = 4  # letters; shorter strings are often words by accident
# Letters, and apostrophes between letters: "don't", "Elizabeth's".
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def find_words(text: str) -> list[str]:
    """The words of ``text`` in order, in small letters.

    A word is a row of letters, with apostrophes inside it; digits, marks
    and underscores separate.

    >>> find_words("It's _Ona's_ kite, no. 7")
    ["it's", "ona's", 'kite', 'no']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


def lexicon(texts: Iterable[str]) -> frozenset[str]:
    """The different words of all ``texts``.

    >>> sorted(lexicon(["The kite", "the mill"]))
    ['kite', 'mill', 'the']
    """
    return frozenset(word for text in texts for word in find_words(text))


def is_known(word: str, known: Collection[str]) -> bool:
    """Whether ``word`` is in ``known``, as it stands or without its 's.

    >>> is_known("kite's", {"kite"}), is_known("kites", {"kite"})
    (True, False)
    """
    return word in known or word.removesuffix("'s") in known


def share_known(
    words: Sequence[str], known: Collection[str], shortest: int = 1
) -> float:
    """Which share of ``words`` is known, each occurrence counted.

    Args:
        words: as :func:`find_words` gives them.
        known: words in small letters; a set, or each look takes long.
        shortest: words of fewer letters are left out of the count.

    Returns:
        A share from 0 to 1; NaN where no word is left to count.

    >>> share_known(["the", "kyte", "the"], {"the", "kite"})
    0.6666666666666666
    """
    if shortest < 1:
        raise ValueError(
            f"shortest is {shortest}; words have at least one letter, so "
            "expected 1 or more."
        )
    counted = [w for w in words if len(w.replace("'", "")) >= shortest]
    if not counted:
        return float("nan")
    return sum(is_known(word, known) for word in counted) / len(counted)


def coined(
    words: Sequence[str], known: Collection[str], language: Collection[str]
) -> list[str]:
    """Words of the language that were not among the known ones.

    What a model can only have spelled by itself; each once, in order.

    >>> coined(["kite", "mill", "kyte"], {"kite"}, {"kite", "mill"})
    ['mill']
    """
    return [
        word
        for word in dict.fromkeys(words)
        if is_known(word, language) and not is_known(word, known)
    ]


@cache
def load_word_list(path: Path | None = None) -> frozenset[str]:
    """English words from a file with one at the start of each line.

    Without ``path`` it is the list of the package symspellpy (MIT): 82,834
    words that stand both in SCOWL, a spell checker's list, and in Google's
    books. Only that file is read; no code of the package runs.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    path = path or package_file(*WORD_LIST)
    lines = path.read_text(encoding="utf-8-sig").lower().splitlines()
    return frozenset(line.split()[0] for line in lines if line.strip())


def package_file(package: str, name: str) -> Path:
    """A file of data in an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        found = metadata.distribution(package).locate_file(f"{package}/{name}")
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"{package} is missing, whose {name} is read here: "
            'pip install "llmbook[book]" brings it.'
        ) from error
    return Path(str(found))
