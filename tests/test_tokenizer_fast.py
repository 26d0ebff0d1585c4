"""The fast ways against the plain ones: long words, blocks, files, workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook.corpus import load_corpus
from llmbook.tokenizer import (
    GPT2_PATTERN,
    BPETokenizer,
    apply_merges,
    count_pairs,
    count_pre_tokens,
    counting,
    learn_merges,
    pre_tokens,
    split_special,
)
from llmbook.tokenizer.joining import join_all, join_one_by_one
from llmbook.tokenizer.training import as_single_bytes

LLAMA3_PATTERN = (  # like that of tiktoken's cl100k_base: other lookaheads
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = st.text("ab'lrve<|> \n\t1é\u3000", max_size=60)


def plainly(tokenizer: BPETokenizer, word: bytes) -> list[bytes]:
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    return apply_merges(as_single_bytes(word), ranks)


# --- joining -------------------------------------------------------------


@given(
    st.lists(st.text("abc", min_size=1, max_size=20), min_size=1, max_size=5),
    st.text("abcd", min_size=1, max_size=300).map(str.encode),
    st.integers(0, 40),
)
@example(["aaaaaaa"], b"a" * 299, 3)
@settings(max_examples=200, deadline=None)
def test_both_ways_to_encode_a_word_follow_the_definition(texts, word, n):
    merges = learn_merges(count_pre_tokens(texts), n)
    tokenizer = BPETokenizer(merges)
    expected = [tokenizer._ids[t] for t in plainly(tokenizer, word)]
    joined, vocabulary = tokenizer._joined, tokenizer.vocabulary
    assert join_one_by_one(word, joined) == expected
    assert join_all(word, joined, vocabulary) == expected


# No training would choose these, since (a, b) leaves no "bc" beside an "a".
HAND_MADE = [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc"), (b"c", b"a")]


@given(st.text("abc", min_size=1, max_size=50).map(str.encode))
def test_merges_that_no_training_chose_are_applied_in_their_order(word):
    tokenizer = BPETokenizer(HAND_MADE)
    expected = [tokenizer._ids[t] for t in plainly(tokenizer, word)]
    joined, vocabulary = tokenizer._joined, tokenizer.vocabulary
    assert join_one_by_one(word, joined) == expected
    assert join_all(word, joined, vocabulary) == expected


# --- counting in blocks --------------------------------------------------


def counted_whole(text: str, pattern: str, names: list[str]) -> dict:
    counts: dict[bytes, int] = {}
    for part, is_special in split_special(text, names):
        for piece in [] if is_special else pre_tokens(part, pattern):
            counts[piece.encode()] = counts.get(piece.encode(), 0) + 1
    return counts


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, LLAMA3_PATTERN])
@given(TEXT, st.integers(1, 9))
@example("it'll " * 5, 3)
@example("a<|ab<||>", 2)
@settings(max_examples=200, deadline=None)
def test_text_in_blocks_is_counted_as_if_it_came_whole(pattern, text, size):
    names = ["<|", "<|a", "b<||>"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "BLOCK", size)
        found = count_pre_tokens(text, pattern, names)
    assert found == counted_whole(text, pattern, names)


@given(TEXT, st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_a_file_is_counted_as_its_text(tmp_path_factory, text, size):
    path = tmp_path_factory.getbasetemp() / "text.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "BLOCK", size)
        found = count_pre_tokens(path, special_tokens=["<|ab"])
    assert found == count_pre_tokens(text, special_tokens=["<|ab"])


# --- learning ------------------------------------------------------------


def check_steps(texts: list[str], n_merges: int, steps: list[int]) -> None:
    """Encode with the merges before a step, count anew, choose, compare."""
    pieces = count_pre_tokens(texts)
    merges = learn_merges(pieces, n_merges)
    for step in steps:
        before = BPETokenizer(merges[:step])
        tokens = before.vocabulary
        words = [
            [tokens[i] for i in join_one_by_one(piece, before._joined)]
            for piece in pieces
        ]
        pairs = count_pairs(words, list(pieces.values()))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        assert merges[step] == best


def test_each_merge_of_the_world_is_the_best_at_its_step():
    world = load_corpus("world", documents=300, seed=0).train_texts
    check_steps(list(world), 500, [0, 1, 2, 5, 20, *range(50, 500, 50), 499])


@pytest.mark.data
def test_each_merge_of_austen_is_the_best_at_its_step():
    folder = os.environ.get("LLMBOOK_DATA")
    if not folder or not Path(folder, "austen").is_dir():
        pytest.skip("LLMBOOK_DATA has no folder austen")
    novels = [p.read_text("utf-8") for p in Path(folder, "austen").iterdir()]
    check_steps(novels, 8000, [0, 1, 10, 100, 1000, 3000, 6000, 7999])


def test_a_learned_token_is_the_encoding_of_its_own_bytes():
    # Why tokens may be numbered while they are learned: no two merges can
    # make the same bytes.
    world = load_corpus("world", documents=300, seed=1).train_texts
    learned = BPETokenizer.train(world, 900)
    for token, content in enumerate(learned.vocabulary):
        assert join_one_by_one(content, learned._joined) == [token]
