"""Words are counted as a reader would count them."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpus import gutenberg
from llmbook.evaluation.words import (
    coined,
    find_words,
    is_known,
    lexicon,
    load_word_list,
    package_file,
    share_known,
)


def test_a_sentence_of_austen_is_cut_as_by_hand():
    text = "“It _is_ Mr. Bennet’s,” said she;--'tis 1 o'clock."
    found = " ".join(find_words(text))
    assert found == "it is mr bennet's said she tis o'clock"


def test_text_without_letters_has_no_words():
    assert find_words("12 -- '' _ \0 ?!") == []
    assert math.isnan(share_known([], {"a"}))


@settings(deadline=None)
@given(st.text(alphabet="aZé'’ 7_-.\n"))
def test_cutting_words_again_changes_nothing(text):
    words = find_words(text)
    assert find_words(" ".join(words)) == words
    assert all(part.isalpha() for w in words for part in w.split("'"))
    letters = "".join(words).replace("'", "")
    assert letters == "".join(filter(str.isalpha, text.lower()))


def test_the_share_counts_occurrences_and_not_kinds():
    words = find_words("The kite, the kite, the kyte!")
    known = {"the", "kite"}
    counts = Counter(words)
    by_hand = sum(n for w, n in counts.items() if w in known) / len(words)
    assert share_known(words, known) == by_hand == 5 / 6
    assert share_known(words, known, shortest=4) == 2 / 3


def test_a_possessive_counts_as_its_noun_and_no_other_ending_does():
    assert is_known("emma's", {"emma"})
    assert is_known("don't", {"don't"})
    assert not is_known("emmas", {"emma"})
    assert not is_known("don", {"don't"})


def test_a_shortest_word_of_no_letters_is_refused():
    with pytest.raises(ValueError, match="expected 1 or more"):
        share_known(["a"], {"a"}, shortest=0)


def test_coined_words_are_new_to_the_texts_and_not_to_the_language():
    known = lexicon(["Ona lost the kite"])
    language = {"lost", "found", "kite"}
    words = find_words("lost found fuond found Ona")
    assert coined(words, known, language) == ["found"]


def test_a_word_list_is_read_from_a_file_of_counts(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("\ufeffthe 23\nOf 13\n\nkite\n", encoding="utf-8")
    assert load_word_list(file) == {"the", "of", "kite"}


def test_a_missing_package_is_named_with_the_mend():
    with pytest.raises(ModuleNotFoundError, match="llmbook\\[book\\]"):
        package_file("no-such-package-of-words", "list.txt")


def test_the_packaged_list_has_words_and_no_noise():
    pytest.importorskip("symspellpy")
    known = load_word_list()
    assert len(known) == 82_834
    assert {"the", "kite", "acknowledged"} <= known
    assert not {"th", "kyte", "qu"} & known


@pytest.mark.data
def test_nearly_all_words_of_a_novel_stand_in_both_lists():
    pytest.importorskip("symspellpy")
    novels = gutenberg.load_novels()
    held_out = find_words(novels.pop("Persuasion"))
    assert 80_000 < len(held_out) < 90_000  # usually given as 83,000
    assert 0.95 < share_known(held_out, lexicon(novels.values())) < 1
    assert 0.97 < share_known(held_out, load_word_list()) < 1


def test_an_apostrophe_is_no_letter():
    assert share_known(["it's", "kite"], {"kite"}, shortest=4) == 1.0
