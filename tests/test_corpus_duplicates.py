"""Duplicates: what the theory says is found, and what is really found."""

from __future__ import annotations

import random
import sqlite3
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpus_pipeline import prose, words

from llmbook.corpus.duplicates import (
    Banding,
    DuplicateIndex,
    band_keys,
    chance_to_meet,
    jaccard,
    shingles,
    signature,
    similarity,
)

rensa = pytest.importorskip("rensa", reason="needs the extra data")
BANDING = Banding()


@pytest.fixture()
def index():
    connection = sqlite3.connect(":memory:")
    yield DuplicateIndex(connection, BANDING)
    connection.close()


def edited(text, count, rng):
    """The text with so many of its words replaced."""
    pieces = text.split(" ")
    for place in rng.sample(range(len(pieces)), count):
        pieces[place] = rng.choice(words()) + "x"
    return " ".join(pieces)


# --- shingles and similarity -----------------------------------------------


def test_shingles_forget_case_punctuation_and_line_ends():
    first = "The kite, red and BLUE, flew."
    second = "the kite red\nand blue -- flew"
    expected = {"the kite red and blue", "kite red and blue flew"}
    assert shingles(first) == shingles(second) == expected


@pytest.mark.parametrize("text", ["", "one", "one two", "...", "日本語"])
def test_a_short_text_is_one_shingle(text):
    assert len(shingles(text)) == 1


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_jaccard_agrees_with_counting_one_by_one(first, second):
    first, second = (set(map(str, each)) for each in (first, second))
    either = [x for x in map(str, range(31)) if x in first or x in second]
    both = [x for x in either if x in first and x in second]
    expected = len(both) / len(either) if either else 0
    assert jaccard(first, second) == expected


def test_signatures_agree_as_often_as_the_shingles_do():
    rng = random.Random(0)
    wide = Banding(bands=40, rows=50)  # 2,000 numbers: a close estimate
    for count in (1, 5, 15, 40):
        text = prose(count, sentences=40)
        other = edited(text, count, rng)
        true = jaccard(shingles(text), shingles(other))
        found = similarity(signature(text, wide), signature(other, wide))
        assert abs(found - true) < 5 * (true * (1 - true) / 2000) ** 0.5


def test_a_signature_is_the_same_in_every_process_and_version():
    # Or a run that is resumed would compare what cannot be compared.
    numbers = signature("Ona lost the kite, but Tam found it.", BANDING)
    assert numbers.dtype == np.uint32 and numbers.shape == (120,)
    assert numbers[:4].tolist() == [
        3637936761,
        3252344999,
        3427695855,
        3592188347,
    ]


# --- bands -----------------------------------------------------------------


def test_keys_agree_exactly_where_all_rows_of_a_band_do():
    numbers = np.arange(120, dtype=np.uint32)
    changed = numbers.copy()
    changed[[0, 1, 30]] += 1  # of bands 0 and 5
    first, second = (band_keys(each, BANDING) for each in (numbers, changed))
    differ = [i for i in range(20) if first[i] != second[i]]
    assert differ == [0, 5]
    same = np.zeros(120, dtype=np.uint32)
    assert len(set(band_keys(same, BANDING))) == 20  # bands do not mix
    assert all(-(2**63) <= key < 2**63 for key in first)


def test_candidates_are_those_of_the_library(index):
    # rensa's own index in memory, from its own objects, is the oracle.
    rng = random.Random(3)
    texts = [prose(i, sentences=8) for i in range(40)]
    texts += [edited(rng.choice(texts), rng.randrange(1, 12), rng)
              for _ in range(80)]  # fmt: skip
    oracle = rensa.RMinHashLSH(threshold=0.8, num_perm=120, num_bands=20)
    for number, text in enumerate(texts):
        hashed = rensa.RMinHash(num_perm=120, seed=1)
        hashed.update(sorted(shingles(text)))
        numbers = signature(text, BANDING)
        assert index._meets(numbers) == sorted(
            each + 1 for each in set(oracle.query(hashed))
        )
        oracle.insert(number, hashed)
        index.add_signature(numbers, str(number))


def test_documents_meet_as_often_as_the_curve_says():
    rng = random.Random(7)
    met = {}
    for count in (2, 4, 7, 10, 14):
        for trial in range(150):
            text = prose(f"{count}/{trial}", sentences=16)
            other = edited(text, count, rng)
            true = jaccard(shingles(text), shingles(other))
            keys = [
                set(band_keys(signature(each, BANDING), BANDING))
                for each in (text, other)
            ]
            met.setdefault(count, []).append(
                (bool(keys[0] & keys[1]), chance_to_meet(true, BANDING))
            )
    for pairs in met.values():
        found, theory = np.mean(pairs, axis=0)
        spread = (theory * (1 - theory) / len(pairs)) ** 0.5
        assert abs(found - theory) < 4 * spread + 0.01


# --- the index -------------------------------------------------------------


def test_the_first_document_is_found_with_its_similarity(index):
    text = prose(1, sentences=30)
    assert index.near(signature(text, BANDING)) is None
    index.add_signature(signature(text, BANDING), "first")
    index.add_signature(signature(prose(2, 30), BANDING), "other")
    near = text.replace("them.", "those.", 1)
    name, alike = index.near(signature(near, BANDING))
    assert name == "first" and alike > 0.9
    assert index.near(signature(prose(3, 30), BANDING)) is None


def test_planted_duplicates_are_found_and_others_kept(index):
    rng = random.Random(11)
    found, expected = [], []
    for number in range(150):
        text = prose(f"planted {number}", sentences=16)
        index.add_signature(signature(text, BANDING), f"{number}")
        other = edited(text, rng.choice([1, 2, 20, 30]), rng)
        true = jaccard(shingles(text), shingles(other))
        assert not 0.7 < true < 0.85  # clear cases only
        hit = index.near(signature(other, BANDING))
        found.append(hit is not None and hit[0] == f"{number}")
        expected.append(true > 0.8)
    right = sum(f and e for f, e in zip(found, expected, strict=True))
    assert right / sum(found) == 1  # precision
    assert right / sum(expected) >= 0.98  # recall


def test_a_crowd_around_one_band_costs_no_more_than_its_bound(index):
    numbers = np.arange(120, dtype=np.uint32)
    rng = np.random.default_rng(0)
    for number in range(200):
        other = rng.integers(0, 2**32, 120, dtype=np.uint32)
        other[:6] = numbers[:6]  # all share the first band only
        index.add_signature(other, str(number))
    assert index._meets(numbers) == list(range(1, index.CROWD + 1))
    assert index.near(numbers) is None


def test_exact_duplicates_are_found_by_their_hash(index):
    assert index.exact(b"hash") is None
    index.add_hash(b"hash", "first")
    index.add_hash(b"hash", "second")
    assert index.exact(b"hash") == "first"


def test_what_was_added_is_there_after_the_database_is_opened_again(tmp_path):
    path = tmp_path / "index.sqlite3"
    connection = sqlite3.connect(path)
    first = DuplicateIndex(connection, BANDING)
    first.add_hash(b"hash", "first")
    first.add_signature(signature(prose(1), BANDING), "first")
    connection.commit()
    connection.close()
    connection = sqlite3.connect(path)
    again = DuplicateIndex(connection, BANDING)
    assert again.exact(b"hash") == "first"
    assert again.near(signature(prose(1), BANDING)) == ("first", 1.0)
    connection.close()


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"bands": 0}, "bands is 0"),
        ({"rows": -1}, "rows is -1"),
        ({"words": 0}, "words is 0"),
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        Banding(**settings)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ImportError, match=r"rensa.*llmbook\[data\]"):
        signature("text", BANDING)
