"""One spelling for each text, and nothing in it that is no text."""

from __future__ import annotations

import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbook.corpus.clean import clean, content_hash, normalized
from llmbook.corpus.collect import Rejected

ANY = st.text(st.characters(codec="utf-8"))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Cafe\u0301", "Café"),
        ("\u1100\u1161", "\uac00"),  # Hangul, from its letters
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("one  \n\t\ntwo", "one\n\ntwo"),
        ("one\n\n\n\n\ntwo", "one\n\ntwo"),
        ("  one\n", "one"),
        ("on\x00e\x07 \x1b[0mtwo\x7f\x85", "one [0mtwo"),
        ("\ufeffone\ufeff", "one"),
        ("a\tb", "a\tb"),
        ("ﬁne ½ x²", "ﬁne ½ x²"),  # NFC keeps what NFKC would change
        ("👩\u200d🚀", "👩\u200d🚀"),  # a joiner that holds a picture
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("", ""),
        ("\x00\r\n \t", ""),
    ],
)
def test_a_text_is_cleaned_as_written_here(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "a\udce9b"])
def test_half_a_surrogate_pair_is_rejected_with_its_place(text):
    found = clean(text)
    assert isinstance(found, Rejected) and found.rule == "encoding"
    place = next(i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff")
    assert f"U+{ord(text[place]):04X}, at character {place}" in found.detail


@given(ANY)
def test_cleaning_twice_changes_nothing_more(text):
    once = clean(text)
    assert clean(once) == once


@given(ANY)
def test_what_is_left_is_composed_and_has_no_control_characters(text):
    found = clean(text)
    assert unicodedata.is_normalized("NFC", found)
    controls = {c for c in found if unicodedata.category(c) == "Cc"}
    assert controls <= {"\n", "\t"}
    assert found == found.strip() and "\n\n\n" not in found
    found.encode()


@given(ANY)
def test_visible_characters_are_kept_in_their_order(text):
    def visible(text):
        letters = unicodedata.normalize("NFD", text)
        return [c for c in letters if unicodedata.category(c)[0] in "LN"]

    assert visible(clean(text)) == visible(text)


def test_equal_content_has_one_hash():
    same = ["The kite\nflew.", "the  KITE flew. ", "THE KITE\tFLEW."]
    assert len({content_hash(text) for text in same}) == 1
    assert content_hash("The kite flew!") != content_hash(same[0])
    by_hand = hashlib.sha256(b"the kite flew.").digest()
    assert content_hash(same[0]) == by_hand


@given(ANY)
def test_normalising_twice_changes_nothing_more(text):
    assert normalized(normalized(text)) == normalized(text)
