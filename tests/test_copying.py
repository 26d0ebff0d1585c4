"""Copied spans are found exactly: held against Python's own search."""

from __future__ import annotations

import difflib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpus import RUNNING_SENTENCE
from llmbook.evaluation.copying import BETWEEN, Source, Windows, powers

SMALL = st.text(alphabet="abn ", max_size=40)


def plain_longest(text: str, source: str) -> int:
    """By trying every window of every length."""
    return max(
        n
        for n in range(len(text) + 1)
        if any(text[i : i + n] in source for i in range(len(text) - n + 1))
    )


@settings(deadline=None)
@given(SMALL, SMALL)
def test_the_longest_span_is_the_one_that_plain_search_finds(text, source):
    span = Source(source).longest(text)
    assert len(span) == plain_longest(text, source)
    assert span.text in source
    assert text[span.start :].startswith(span.text)


def test_the_longest_span_is_difflib_s():
    text = "Tam lost the kite on a hill, and Ona found it again."
    matcher = difflib.SequenceMatcher(None, text, RUNNING_SENTENCE, False)
    wanted = matcher.find_longest_match()
    span = Source(RUNNING_SENTENCE).longest(text)
    assert (span.start, len(span)) == (wanted.a, wanted.size)


@settings(deadline=None)
@given(SMALL, SMALL, st.integers(1, 6))
def test_held_windows_are_those_that_plain_search_finds(text, source, n):
    wanted = [text[i : i + n] in source for i in range(len(text) - n + 1)]
    assert Source(source).holds(text, n).tolist() == wanted


@settings(deadline=None)
@given(SMALL, SMALL, st.integers(1, 6))
def test_copied_characters_are_those_inside_a_held_window(text, source, n):
    wanted = np.zeros(len(text), dtype=bool)
    for i in range(len(text) - n + 1):
        if text[i : i + n] in source:
            wanted[i : i + n] = True
    assert Source(source).copied(text, n).tolist() == wanted.tolist()


@settings(deadline=None)
@given(st.text(max_size=30), st.integers(1, 5))
def test_equal_windows_and_only_they_have_equal_hashes(text, n):
    hashes = Windows(text).hashes(n)
    windows = [text[i : i + n] for i in range(len(text) - n + 1)]
    assert len(hashes) == len(windows)
    assert len(set(hashes.tolist())) == len(set(windows))


def test_a_hash_is_the_polynomial_computed_with_whole_numbers():
    text, n = "kite 🪁 é", 3
    base = int(powers(0x9E3779B97F4A7C15, 2)[1])
    wanted = [
        sum(ord(c) * base**j for j, c in enumerate(text[i : i + n])) % 2**64
        for i in range(len(text) - n + 1)
    ]
    assert Windows(text).hashes(n).tolist() == wanted


def test_lying_hashes_change_no_answer(monkeypatch):
    def lie(self, length):
        count = max(0, len(self.text) - length + 1)
        return np.zeros(count, dtype=np.uint64)

    monkeypatch.setattr(Windows, "hashes", lie)
    source = Source(RUNNING_SENTENCE)
    assert source.longest("Ona found the kite").text == " the kite"
    assert source.holds("xyz", 2).tolist() == [False, False]


def test_no_span_reaches_across_two_texts():
    source = Source(["Ona lost", " the kite"])
    assert source.longest("Ona lost the kite").text == " the kite"
    assert BETWEEN not in source.longest(f"lost{BETWEEN} the").text.strip()


def test_shares_count_characters_and_an_empty_text_copies_nothing():
    source = Source("Ona lost the kite.")
    assert source.share_copied("", 3) == 0.0
    assert source.share_copied("kite", 5) == 0.0
    assert source.share_copied("kite hats", 4) == pytest.approx(4 / 9)
    with pytest.raises(ValueError, match="at least 1"):
        source.holds("kite", 0)


def test_a_span_of_a_long_text_is_found_where_it_was_put():
    rng = np.random.default_rng(0)
    noise = "".join(rng.choice(list("abcdefgh "), 100_000))
    text = "zzzz" + noise[54_321 : 54_321 + 777] + "zzzz"
    span = Source(noise).longest(text)
    assert (span.start, len(span)) == (4, 777)
