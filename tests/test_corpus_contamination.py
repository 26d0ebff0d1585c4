"""Benchmark items in documents: found, named, and not imagined."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpus.contamination import (
    GRAM,
    LEAST,
    Contamination,
    benchmark_items,
    gram_words,
    grams,
)

LETTERS = [chr(ord("a") + i) * 2 for i in range(26)]


def text(first, last):
    return " ".join(LETTERS[first:last])


def test_the_lengths_are_those_of_the_paper():
    assert (GRAM, LEAST) == (13, 8)  # Brown et al. 2020, appendix C


@pytest.mark.parametrize(
    "written, words",
    [
        ("Don't stop!", ["dont", "stop"]),
        ("A  B\nC\tD", ["a", "b", "c", "d"]),
        ("x = 3.5 * y_1", ["x", "35", "y1"]),
        ("«Café» — 50 %", ["café", "50"]),
        ("...", []),
        ("", []),
    ],
)
def test_words_are_lower_case_and_without_punctuation(written, words):
    assert gram_words(written) == words


def test_thirteen_words_in_a_row_are_a_hit_and_twelve_are_none():
    found = Contamination({"q": text(0, 20)})
    assert found.hits(f"Here: {text(3, 16)}, he said.") == ["q"]
    assert found.hits(f"Here: {text(3, 15)}, he said.") == []
    assert found.hits(f"{text(3, 15)} other {text(15, 20)}") == []


def test_case_punctuation_and_line_ends_hide_nothing():
    found = Contamination({"q": text(0, 13)})
    shouted = ",\n".join(LETTERS[:13]).upper() + "!"
    assert found.hits(shouted) == ["q"]


def test_a_shorter_item_is_looked_for_whole_and_a_tiny_one_not_at_all():
    items = {"nine": text(0, 9), "eight": text(10, 18), "seven": text(18, 25)}
    found = Contamination(items)
    assert found.short == ["seven"]
    assert found.hits(f"x {text(0, 9)} y {text(10, 18)} z {text(18, 25)}") == [
        "eight",
        "nine",
    ]
    assert found.hits(text(0, 8)) == []


def test_all_items_that_are_hit_are_named_once():
    shared = text(0, 13)
    found = Contamination({"b": shared, "a": shared + " more", "c": "x " * 13})
    assert found.hits(f"{shared} {shared}") == ["a", "b"]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_hits_agree_with_searching_for_every_gram(seed):
    rng = random.Random(seed)

    def draw(n):
        return " ".join(rng.choices("ab", k=n))

    items = {f"q{i}": draw(rng.randrange(5, 20)) for i in range(4)}
    document = draw(60)
    padded = f" {document} "
    expected = [
        name
        for name, item in items.items()
        if len(item.split()) >= 8
        and any(
            f" {' '.join(item.split()[i : i + 13])} " in padded
            for i in range(max(1, len(item.split()) - 12))
        )
    ]
    assert Contamination(items).hits(document) == expected


def test_grams_are_every_window():
    assert list(grams(["a", "b", "c"], 2)) == ["a b", "b c"]
    assert list(grams(["a"], 2)) == []


def test_nothing_to_look_for_finds_nothing():
    assert Contamination({}).hits(text(0, 20)) == []


@pytest.mark.data
def test_a_published_problem_is_found_in_a_page_that_quotes_it():
    from llmbook.corpus.benchmarks import load_gsm8k

    items = benchmark_items("gsm8k/test", load_gsm8k("test"))
    found = Contamination(items)
    page = f"A forum post.\n\n> {items['gsm8k/test/0']}\n\nIs it 18?"
    assert found.hits(page) == ["gsm8k/test/0"]
