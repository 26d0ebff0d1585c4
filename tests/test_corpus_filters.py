"""The rules: their thresholds as published, their measures by hand."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpus_pipeline import GERMAN, prose

from llmbook.corpus import filters
from llmbook.corpus.filters import (
    GOPHER,
    Pieces,
    Rule,
    first_broken,
    language,
    repeated_ngram_characters,
    top_ngram_characters,
    wrong_language,
)

WORDS = st.lists(st.sampled_from(["a", "be", "sea", "deed"]), max_size=40)


def broken(text):
    """The names of all rules that a text breaks."""
    pieces = Pieces(text)
    return {rule.name for rule in GOPHER if rule.check(pieces)}


# --- as published ----------------------------------------------------------


def test_the_thresholds_are_those_of_the_paper():
    # Rae et al. 2021: section A.1.1 in words, and table A1.
    inf = float("inf")
    assert {rule.name: (rule.least, rule.most) for rule in GOPHER} == {
        "words": (50, 100_000),
        "mean word length": (3, 10),
        "symbols": (-inf, 0.1),
        "bullet points": (-inf, 0.9),
        "ellipses": (-inf, 0.3),
        "words with letters": (0.8, inf),
        "stop words": (2, inf),
        "repeated lines": (-inf, 0.30),
        "repeated paragraphs": (-inf, 0.30),
        "characters in repeated lines": (-inf, 0.20),
        "characters in repeated paragraphs": (-inf, 0.20),
        "commonest 2-gram": (-inf, 0.20),
        "commonest 3-gram": (-inf, 0.18),
        "commonest 4-gram": (-inf, 0.16),
        "repeated 5-grams": (-inf, 0.15),
        "repeated 6-grams": (-inf, 0.14),
        "repeated 7-grams": (-inf, 0.13),
        "repeated 8-grams": (-inf, 0.12),
        "repeated 9-grams": (-inf, 0.11),
        "repeated 10-grams": (-inf, 0.10),
    }
    stop_words = {"the", "be", "to", "of", "and", "that", "have", "with"}
    assert stop_words == filters.STOP_WORDS
    assert all("Rae et al. 2021" in rule.source for rule in GOPHER)


def test_two_rules_of_c4_look_for_a_phrase():
    # Raffel et al. 2020, section 2.2
    for text, rule in (("Lorem IPSUM.", "lorem ipsum"), ("{", "curly bra")):
        assert first_broken(text, filters.C4).rule.startswith(rule)
    assert first_broken(prose(1), filters.C4) is None


def test_bounds_are_allowed_and_what_lies_beyond_is_named():
    rule = Rule("words", "here", "words", len, 2, 3)
    checks = [rule.check(Pieces("w " * n)) for n in range(1, 5)]
    assert checks[1] is checks[2] is None
    assert checks[0].detail == "1 is below 2"
    assert checks[3].detail == "4 is above 3"


# --- good and bad texts ----------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_ordinary_prose_keeps_every_rule(seed):
    assert first_broken(prose(seed), GOPHER) is None


@pytest.mark.parametrize(
    "rule, text",
    [
        ("words", "The end of that."),
        ("words", "the kite and " * 40_000),
        ("mean word length", prose(1, 5) + " a" * 200),
        ("mean word length", prose(1, 5) + " incomprehensibilities" * 60),
        ("symbols", prose(1, 5).replace(" ", " #", 20)),
        ("symbols", prose(1, 5).replace(" ", "... ", 12)),
        ("bullet points", prose(1).replace("\n\n", "\n• ").join(["• ", ""])),
        ("ellipses", prose(1).replace(".", "…", 5)),
        ("words with letters", prose(1, 5) + " 3.14" * 30),
        ("stop words", GERMAN.replace("The End of the Road", "Lull")),
        ("repeated lines", prose(1, 8) + "\n\nBuy a kite." * 5),
        ("repeated paragraphs", prose(1, 8) + "\n\nBuy a kite." * 5),
        ("characters in repeated lines", prose(1, 4) + "\n\n" + prose(1, 4)),
        ("commonest 2-gram", prose(1, 5) + " wind turbines" * 20),
        ("commonest 4-gram", prose(1, 5) + " buy one of our kites" * 7),
        ("repeated 5-grams", prose(1, 5) + " " + prose(1, 2)),
        ("repeated 10-grams", prose(1, 5) + " " + prose(1, 5)),
    ],
)
def test_a_text_made_to_break_a_rule_breaks_it(rule, text):
    assert rule in broken(text)


def test_the_first_broken_rule_is_the_one_reported():
    assert first_broken("# # #", GOPHER).rule == "words"
    assert first_broken("# # #", GOPHER[1:]).rule == "mean word length"
    assert first_broken("# # #", ()) is None


@pytest.mark.parametrize("text", ["", " ", "\n\n", "x", "...", "#", "•"])
def test_texts_of_nothing_are_measured_without_an_error(text):
    assert "words" in broken(text)


# --- measures against another way of computing them ------------------------


@given(words=WORDS, n=st.integers(2, 5))
def test_the_commonest_ngram_is_found_by_counting(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(grams)
    most = max(counts.values(), default=0)
    lengths = [len("".join(g)) for g, c in counts.items() if c == most]
    expected = max(lengths, default=0) * most / max(1, len("".join(words)))
    if most < 2:
        expected = 0
    found = top_ngram_characters(words, n)
    assert found == pytest.approx(min(1, expected))


@given(words=WORDS, n=st.integers(1, 5))
def test_repeated_ngrams_cover_the_characters_marked_one_by_one(words, n):
    marked = [False] * len(words)
    for start in range(len(words) - n + 1):
        gram = words[start : start + n]
        if any(words[i : i + n] == gram for i in range(start)):
            marked[start : start + n] = [True] * n
    pairs = zip(words, marked, strict=True)
    expected = sum(len(word) for word, mark in pairs if mark)
    total = max(1, len("".join(words)))
    found = repeated_ngram_characters(words, n)
    assert found == pytest.approx(expected / total)


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_shares_lie_between_nothing_and_everything(text):
    pieces = Pieces(text)
    for rule in GOPHER[2:]:
        value = rule.measure(getattr(pieces, rule.of))
        assert value >= 0
        if rule.name not in ("symbols", "stop words"):
            assert value <= 1


# --- language --------------------------------------------------------------

SENTENCES = {
    "en": "Ona lost the kite, but Tam found it on the hill by the river.",
    "de": "Ona verlor den Drachen, aber Tam fand ihn auf dem Hügel am Fluss.",
    "fr": "Ona a perdu le cerf-volant, mais Tam l'a trouvé sur la colline.",
    "es": "Ona perdió la cometa, pero Tam la encontró en la colina.",
    "it": "Ona ha perso l'aquilone, ma Tam lo ha trovato sulla collina.",
    "nl": "Ona verloor de vlieger, maar Tam vond hem op de heuvel.",
    "pl": "Ona zgubiła latawiec, ale Tam znalazł go na wzgórzu nad rzeką.",
    "ru": "Она потеряла воздушного змея, но Там нашёл его на холме.",
    "ja": "オナは凧をなくしましたが、タムが丘の上で見つけました。",
    "zh": "奥娜丢了风筝，但是塔姆在河边的山上找到了它。",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_told_by_its_language(code):
    pytest.importorskip("py3langid", reason="needs the extra data")
    found, probability = language(SENTENCES[code])
    assert found == code and 0.5 < probability <= 1


def test_only_the_languages_asked_for_are_kept():
    pytest.importorskip("py3langid", reason="needs the extra data")
    assert wrong_language(SENTENCES["en"], ("en",), 0.5) is None
    assert wrong_language(SENTENCES["de"], ("en", "de"), 0.5) is None
    found = wrong_language(SENTENCES["de"], ("en",), 0.5)
    assert found.rule == "language" and found.detail.startswith("de, prob")
    assert wrong_language(SENTENCES["en"], ("en",), 1.01).rule == "language"


@pytest.mark.parametrize("text", ["", "123", "\n", "x" * 100_000])
def test_texts_of_no_language_are_judged_without_an_error(text):
    pytest.importorskip("py3langid", reason="needs the extra data")
    assert 0 <= language(text)[1] <= 1


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    filters._identifier.cache_clear()
    with pytest.raises(ImportError, match=r"py3langid.*llmbook\[data\]"):
        language("text")
