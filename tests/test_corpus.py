"""Corpora: the world, folders of text, and what goes wrong with them."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from llmbook.corpus import load_corpus, world
from llmbook.corpus.documents import world_size
from llmbook.corpus.folder import read_text


def texts(corpus):
    return corpus.train_texts, corpus.validation_texts


# --- the world -------------------------------------------------------------


def test_the_world_has_as_many_documents_as_asked_for():
    corpus = load_corpus("world", documents=500, validation_fraction=0.1)
    assert (len(corpus.train), len(corpus.validation)) == (450, 50)
    assert corpus.name == "world"
    kinds = {kind.name for kind in world.LULL.kinds}
    assert {d.kind for d in corpus.train} == kinds
    assert len(corpus.unseen) == len(corpus.validation)


def test_the_budget_decides_the_size_of_the_world(monkeypatch):
    sizes = []
    for budget in ("smoke", "quick", "laptop", "gpu"):
        monkeypatch.setenv("LLMBOOK_BUDGET", budget)
        sizes.append(world_size())
    assert sizes == sorted(set(sizes))


def test_no_text_stands_on_both_sides():
    corpus = load_corpus("world", documents=4000, validation_fraction=0.3)
    train, validation = map(set, texts(corpus))
    assert not train & validation


def test_a_seed_fixes_the_split(monkeypatch):
    monkeypatch.delenv("LLMBOOK_SEED", raising=False)
    first = load_corpus("world", documents=50, seed=1)
    assert texts(first) == texts(load_corpus("world", documents=50, seed=1))
    other = load_corpus("world", documents=50, seed=2)
    assert texts(first) != texts(other)
    monkeypatch.setenv("LLMBOOK_SEED", "1")
    assert texts(load_corpus("world", documents=50)) == texts(first)


def test_more_documents_only_add_to_the_training_side():
    few = load_corpus("world", documents=100, validation_fraction=0.1)
    more = load_corpus("world", documents=200, validation_fraction=0.05)
    assert few.validation == more.validation
    assert few.train_texts == more.train_texts[:90]


def test_validation_is_drawn_from_the_generator_itself():
    corpus = load_corpus("world", documents=400, validation_fraction=0.5)
    for document in corpus.validation:
        found = world.read(world.LULL, document.text, "seen")
        assert document.logprob == found.logprob
        assert document.combination == found.combination
    mean = -sum(d.logprob for d in corpus.validation) / 200
    assert corpus.entropy == pytest.approx(mean)
    counts = Counter(d.kind for d in corpus.validation)
    parts = (corpus.entropies[k] * n for k, n in counts.items())
    assert corpus.entropy == pytest.approx(sum(parts) / 200)


def test_unseen_documents_stand_on_neither_side_of_the_split():
    corpus = load_corpus("world", documents=1000, validation_fraction=0.2)
    learned = {d.combination for d in (*corpus.train, *corpus.validation)}
    for document in corpus.unseen:
        assert document.combination not in learned
        found = world.read(world.LULL, document.text, "unseen")
        assert document.logprob == found.logprob


def test_other_corpora_have_nothing_unseen_and_no_entropies(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    corpus = load_corpus(tmp_path)
    assert corpus.unseen == () and corpus.entropies == {}


def test_training_is_charged_for_what_validation_took_away():
    corpus = load_corpus("world", documents=2000, validation_fraction=0.5)
    taken = sum(
        math.exp(world.read(world.LULL, text, "seen").logprob)
        for text in set(corpus.validation_texts)
    )
    assert taken > 0
    for document in corpus.train[:50]:
        own = math.exp(world.logprob(document.text, "seen"))
        assert math.exp(document.logprob) == pytest.approx(
            own / (1 - taken), rel=1e-9
        )


# --- folders ---------------------------------------------------------------


def test_each_file_of_a_folder_is_a_document(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("a.txt", "b.txt", "more/c.txt"):
        (tmp_path / name).write_text(f"Text {name}.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not this", encoding="utf-8")
    corpus = load_corpus(tmp_path, validation_fraction=0.3)
    train, validation = texts(corpus)
    assert sorted(train + validation) == [
        "Text a.txt.",
        "Text b.txt.",
        "Text more/c.txt.",
    ]
    assert len(validation) == 1
    assert corpus.entropy is None and corpus.train[0].logprob is None


def test_one_long_file_is_cut_at_blank_lines(tmp_path):
    file = tmp_path / "book.txt"
    paragraphs = [f"Paragraph {i}. " + "word " * 200 for i in range(40)]
    file.write_text("\n\n".join(paragraphs), encoding="utf-8")
    for path in (file, tmp_path):
        train, validation = texts(load_corpus(path))
        assert train and validation
        together = " ".join(train + validation)
        for paragraph in paragraphs:
            assert paragraph.strip() in together


def test_a_text_that_stands_twice_is_taken_once(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("same", encoding="utf-8")
    (tmp_path / "d.txt").write_text("other", encoding="utf-8")
    train, validation = texts(load_corpus(tmp_path))
    assert sorted(train + validation) == ["other", "same"]


def test_bytes_that_are_not_utf8_are_named_with_file_and_offset(tmp_path):
    (tmp_path / "good.txt").write_text("fine", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("Caf\xe9 au lait".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt.*0xe9 at offset 3"):
        load_corpus(tmp_path)


def test_a_byte_order_mark_is_counted_in_the_offset_and_taken_off(tmp_path):
    file = tmp_path / "mark.txt"
    file.write_bytes(b"\xef\xbb\xbfgood\r\nline")
    assert read_text(file) == "good\nline"
    file.write_bytes(b"\xef\xbb\xbfbad\xff")
    with pytest.raises(ValueError, match="0xff at offset 6"):
        read_text(file)


@pytest.mark.parametrize("files", [{}, {"a.txt": ""}, {"a.txt": " \n\n "}])
def test_an_empty_folder_is_an_error(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="no text in them"):
        load_corpus(tmp_path)


def test_a_single_short_document_cannot_be_split(tmp_path):
    (tmp_path / "a.txt").write_text("Only this.", encoding="utf-8")
    with pytest.raises(ValueError, match="at least 2"):
        load_corpus(tmp_path)


def test_a_missing_corpus_says_what_was_expected():
    with pytest.raises(FileNotFoundError, match="'world', 'austen'"):
        load_corpus("no-such-corpus")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        load_corpus("world", documents=10, validation_fraction=fraction)


@pytest.mark.parametrize("count", [0, 1, -5])
def test_too_few_documents_are_refused(count):
    with pytest.raises(ValueError, match="at least 2"):
        load_corpus("world", documents=count)
