"""Bad and enormous input: a clear error or the right answer, and no hang."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from llmbook.tokenizer import (
    END_OF_TEXT,
    BPETokenizer,
    count_pre_tokens,
    counting,
    learn_merges,
    learn_merges_naively,
)
from llmbook.tokenizer.files import checksum

TEXT = "Ona lost the kite, but Tam found it.\n\tThe kite, the mill: 12. "
MILLION = 1_000_000


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXT * 3, 290)


# --- files to train on ---------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"\xff", 0),
        (b"the kite \xe9t\xe9", 9),  # Latin-1
        ("東京".encode()[:-1], 3),  # cut inside the last character
        (b"kite \xed\xa0\xbd", 5),  # half a character, as some write it
        (b"\xff\xfek\x00i\x00", 0),  # UTF-16
    ],
)
def test_a_file_that_is_no_utf_8_is_named_with_the_place(
    tmp_path, monkeypatch, data, place, block
):
    monkeypatch.setattr(counting, "BLOCK", block)
    path = tmp_path / "kites.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"kites.txt .* byte {place}\."):
        BPETokenizer.train([path], 300)
    with pytest.raises(UnicodeDecodeError) as python_s:
        data.decode()
    assert python_s.value.start == place


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        BPETokenizer.train(tmp_path / "none.txt", 300)


def test_a_string_is_never_taken_for_a_path(tmp_path):
    path = tmp_path / "kites.txt"
    path.write_text(TEXT)
    learned = BPETokenizer.train(str(path) * 2, 257)
    assert learned != BPETokenizer.train(path, 258)


def test_files_and_texts_may_be_mixed_and_end_where_they_end(tmp_path):
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    paths[0].write_text("the kite\r\n", newline="")
    paths[1].write_bytes(b"")
    found = count_pre_tokens([*paths, "kite", paths[0]])
    assert found == count_pre_tokens(["the kite\r\n", "kite", "the kite\r\n"])
    assert found[b"\r\n"] == 2


def test_a_large_file_is_never_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "BLOCK", 1 << 13)
    path = tmp_path / "large.txt"
    path.write_text(TEXT * 20_000)
    expected = count_pre_tokens(TEXT * 20_000)
    tracemalloc.start()
    assert count_pre_tokens(path) == expected
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_processes_count_what_one_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "BATCH", 300)
    texts = [TEXT * n + END_OF_TEXT + "end" for n in range(8)]
    path = tmp_path / "more.txt"
    path.write_text(texts[3])
    several = count_pre_tokens(
        [*texts, path], special_tokens=[END_OF_TEXT], workers=2
    )
    assert several == count_pre_tokens(
        [*texts, texts[3]], special_tokens=[END_OF_TEXT]
    )


def test_an_error_in_another_process_comes_back(tmp_path):
    path = tmp_path / "kites.txt"
    path.write_bytes(b"kite \xff")
    with pytest.raises(ValueError, match="byte 5"):
        count_pre_tokens([TEXT, path], workers=2)


@pytest.mark.parametrize("workers", [0, -1, 1.5, None])
def test_an_impossible_number_of_processes_is_an_error(workers):
    with pytest.raises(ValueError, match="workers"):
        count_pre_tokens(TEXT, workers=workers)


# --- texts ---------------------------------------------------------------


@pytest.mark.parametrize("text", ["\ud83e", "kite \udc80", ["ok", "a\udfff"]])
def test_a_lone_surrogate_to_train_on_is_refused(text):
    with pytest.raises(ValueError, match="lone surrogate"):
        BPETokenizer.train(text, 300)


@pytest.mark.parametrize("text", [3, None, [None], [b"kite"], ["a", 7]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(TypeError):
        BPETokenizer.train(text, 300)


def test_nul_bytes_are_learned_and_come_back():
    text = "a\0\0b\0\0" * 9
    learned = BPETokenizer.train(text, 258)
    assert (b"\0", b"\0") in learned.merges
    assert learned.decode(learned.encode(text)) == text


@pytest.mark.parametrize("text", ["kite", ["kite"] * 1000, "kite " * 1000])
def test_a_corpus_of_one_word_says_how_much_there_is_to_learn(text):
    with pytest.raises(ValueError, match=r"pairs for [34] merges only"):
        BPETokenizer.train(text, 1000)


def test_duplicates_change_no_merge_only_counts():
    once, often = count_pre_tokens(TEXT), count_pre_tokens([TEXT] * 50)
    assert often == {piece: 50 * n for piece, n in once.items()}
    assert learn_merges(once, 30) == learn_merges(often, 30)
    assert learn_merges(often, 30) == learn_merges_naively(often, 30)


@pytest.mark.parametrize("size", [300.0, "300", None, True, [300]])
def test_a_vocabulary_size_that_is_no_number_is_an_error(size):
    with pytest.raises(ValueError, match="whole number"):
        BPETokenizer.train(TEXT, size)


def test_an_enormous_vocabulary_size_is_an_error_at_once():
    with pytest.raises(ValueError, match="merges only"):
        BPETokenizer.train(TEXT, 10**15)


@pytest.mark.parametrize("pattern", ["(a|b)+|.", "(", "[", None, 3, ["a"]])
def test_a_pattern_that_cannot_cut_is_refused(pattern):
    with pytest.raises((ValueError, TypeError)):
        BPETokenizer([], pattern=pattern)


def test_one_bad_text_of_a_batch_is_an_error(tokenizer):
    assert tokenizer.encode_batch([TEXT, ""]) == [tokenizer.encode(TEXT), []]
    with pytest.raises(ValueError, match="special token"):
        tokenizer.encode_batch([TEXT, END_OF_TEXT])
    with pytest.raises(TypeError, match="decode"):
        tokenizer.encode_batch([TEXT, b"kite"])


# --- enormous texts ------------------------------------------------------


def test_a_million_equal_letters_are_joined_as_a_few_are():
    merges = [(b"a" * n, b"a" * n) for n in (1, 2, 4, 8)]
    tokenizer = BPETokenizer(merges)
    ids = tokenizer.encode("a" * (MILLION + 7))
    assert ids == [259] * (MILLION // 16) + [258 - 1, 256, 97]


def test_a_million_equal_letters_can_be_learned_from():
    learned = BPETokenizer.train("a" * MILLION, 260)
    assert learned.merges == [(b"a" * n, b"a" * n) for n in (1, 2, 4)]


def test_a_word_of_a_million_letters_has_tiktoken_s_ids(tokenizer):
    word = "".join(filter(str.isalpha, TEXT)) * (MILLION // 40)
    ids = tokenizer.encode(word)
    assert tokenizer.decode(ids) == word
    part = word[:5000]
    assert tokenizer.encode(part) == tokenizer.to_tiktoken().encode(part)


@pytest.mark.slow
def test_a_line_of_ten_megabytes_is_read_as_any_other(tokenizer, tmp_path):
    line = TEXT.replace("\n\t", " ") * (10 * MILLION // len(TEXT))
    path = tmp_path / "line.txt"
    path.write_text(line)
    assert count_pre_tokens(path)[b" kite"] == 2 * line.count("Ona")
    assert tokenizer.encode(line) == tokenizer.to_tiktoken().encode(line)


@pytest.mark.parametrize("sign", [" ", "\n", "!", "1", "'"])
def test_a_million_equal_signs_are_one_piece_or_a_million(tokenizer, sign):
    text = sign * MILLION + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert sum(count_pre_tokens(text).values()) <= MILLION + 1


def test_a_million_special_tokens_are_found_or_refused(tokenizer):
    text = END_OF_TEXT * (MILLION // 10)
    ids = tokenizer.encode(text, allowed_special="all")
    assert ids == [tokenizer.end_of_text] * (MILLION // 10)
    with pytest.raises(ValueError, match="at character 0"):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match="no text"):
        BPETokenizer.train(text, 300)


# --- files of tokenizers -------------------------------------------------


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    BPETokenizer.train("kite kite mill mill", 260).save(path)
    data = path.read_bytes().rstrip()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="no whole tokenizer file"):
            BPETokenizer.load(path)


def first(document: dict[str, Any]) -> list[str]:
    return document["merges"][0]


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "merges out of order": lambda d: d["merges"].reverse(),
    "a merge twice": lambda d: d["merges"].append(first(d)),
    "a merge left out": lambda d: d["merges"].pop(0),
    "a merge of nothing": lambda d: d["merges"].insert(0, ["", "a"]),
    "a merge of one": lambda d: d["merges"].append(["a"]),
    "a merge of three": lambda d: d["merges"].append(["a", "b", "c"]),
    "a merge of numbers": lambda d: d["merges"].append([97, 98]),
    "no byte": lambda d: d["merges"].append(["€", "a"]),
    "merges by number": lambda d: d.update(merges=5),
    "merges in words": lambda d: d.update(merges="ab"),
    "no merges": lambda d: d.pop("merges"),
    "an unknown part": lambda d: d["merges"].append(["zz", "z"]),
    "a name twice": lambda d: d.update(special_tokens=["<|x|>", "<|x|>"]),
    "an empty name": lambda d: d.update(special_tokens=[""]),
    "half a character": lambda d: d.update(special_tokens=["\ud83e"]),
    "a name of ids": lambda d: d.update(special_tokens=[256]),
    "names in one": lambda d: d.update(special_tokens="<|x|>"),
    "no names": lambda d: d.pop("special_tokens"),
    "a faulty pattern": lambda d: d.update(pattern="("),
    "a pattern of numbers": lambda d: d.update(pattern=[1]),
    "no pattern": lambda d: d.update(pattern=None),
}


@pytest.mark.parametrize("mended", [False, True], ids=["edited", "resigned"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_field_is_refused_even_with_a_new_checksum(
    tokenizer, tmp_path, edit, mended
):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    EDITS[edit](document)
    if mended:
        fields = ("pattern", "special_tokens", "merges")
        content = {name: document.get(name) for name in fields}
        document["sha256"] = checksum(content)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match="damaged" if mended else "checksum"):
        BPETokenizer.load(path)


def test_a_file_of_nested_lists_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("[" * MILLION)
    with pytest.raises(ValueError, match="no whole tokenizer file"):
        BPETokenizer.load(path)


def test_a_tokenizer_can_be_handed_to_another_process(tokenizer):
    tokenizer.encode(TEXT)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.encode(TEXT + "more") == tokenizer.encode(TEXT + "more")
