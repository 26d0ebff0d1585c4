"""Token shards on disk, and batches cut from them."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpus import (
    Batches,
    Document,
    DocumentBatches,
    TokenShard,
    floor_per_token,
)
from llmbook.corpus import shards as shards_module


class Bytes:
    """The smallest tokenizer: bytes, and one id for the end of a text."""

    end_of_text = 256

    def __init__(self, vocab_size=257):
        self.vocab_size = vocab_size

    def encode(self, text):
        return list(text.encode())

    def fingerprint(self):
        return "bytes"


TEXTS = ["One kite.", "", "Zwei Drachen: ü."]


@pytest.fixture()
def shard(tmp_path):
    return TokenShard.write(tmp_path / "kite", TEXTS, Bytes())


# --- shards ----------------------------------------------------------------


def test_a_shard_holds_each_document_and_its_end(shard):
    expected = [i for text in TEXTS for i in [*text.encode(), 256]]
    assert shard.tokens.tolist() == expected
    assert shard.tokens.dtype == np.uint16
    assert isinstance(shard.tokens, np.memmap)
    assert shard.manifest["documents"] == 3
    assert shard.manifest["tokens"] == len(expected)
    assert shard.manifest["tokenizer"] == "bytes"


def test_a_shard_opens_as_it_was_written(shard, tmp_path):
    again = TokenShard.open(tmp_path / "kite")
    assert again.manifest == shard.manifest
    assert np.array_equal(again.tokens, shard.tokens)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "kite.json",
        "kite.tokens",
    ]


def test_a_name_may_hold_a_dot_or_the_ending(tmp_path):
    TokenShard.write(tmp_path / "v1.5", TEXTS, Bytes())
    TokenShard.write(tmp_path / "v1.6.tokens", TEXTS, Bytes())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "v1.5.json",
        "v1.5.tokens",
        "v1.6.json",
        "v1.6.tokens",
    ]
    assert TokenShard.open(tmp_path / "v1.6").manifest["documents"] == 3


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    shard = TokenShard.write(tmp_path / "big", TEXTS, Bytes(70_000))
    assert shard.tokens.dtype == np.uint32


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.text(), min_size=1, max_size=5))
def test_any_documents_come_back(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "any"
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    tokens = TokenShard.write(path, texts, Bytes()).tokens
    ends = np.flatnonzero(tokens == 256)
    starts = [0, *(ends[:-1] + 1)]
    found = [
        bytes(tokens[a:b].tolist()).decode()
        for a, b in zip(starts, ends, strict=True)
    ]
    assert found == texts


def test_a_truncated_shard_is_refused(shard, tmp_path):
    file = tmp_path / "kite.tokens"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        TokenShard.open(tmp_path / "kite")


def test_a_changed_shard_is_refused(shard, tmp_path):
    file = tmp_path / "kite.tokens"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    with pytest.raises(ValueError, match="SHA-256"):
        TokenShard.open(tmp_path / "kite")


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"format": "something"}', "\0"]
)
def test_a_foreign_manifest_is_refused(shard, tmp_path, text):
    (tmp_path / "kite.json").write_text(text)
    with pytest.raises(ValueError, match="manifest"):
        TokenShard.open(tmp_path / "kite")


def test_a_later_version_is_refused(shard, tmp_path):
    manifest = {**shard.manifest, "version": 99}
    (tmp_path / "kite.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="version"):
        TokenShard.open(tmp_path / "kite")


def test_a_missing_shard_or_half_of_one_is_named(shard, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lost\.json is missing"):
        TokenShard.open(tmp_path / "lost")
    (tmp_path / "kite.tokens").unlink()
    with pytest.raises(FileNotFoundError, match=r"kite\.tokens is missing"):
        TokenShard.open(tmp_path / "kite")


def test_no_documents_are_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no documents"):
        TokenShard.write(tmp_path / "none", [], Bytes())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path, monkeypatch, call
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards_module.os, call, full)
    with pytest.raises(OSError, match="Make room") as caught:
        TokenShard.write(tmp_path / "kite", TEXTS, Bytes())
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_run_cut_short_keeps_the_shard_that_was_there(shard, tmp_path):
    def broken():
        yield "One"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TokenShard.write(tmp_path / "kite", broken(), Bytes())
    again = TokenShard.open(tmp_path / "kite")
    assert np.array_equal(again.tokens, shard.tokens)
    assert len(list(tmp_path.iterdir())) == 2


# --- batches ---------------------------------------------------------------


def test_targets_are_the_inputs_shifted_by_one():
    x, y = Batches(np.arange(1000), 10, 4).at(0)
    assert x.shape == y.shape == (4, 10)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(20, 400),
    context=st.integers(1, 15),
    size=st.integers(1, 3),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_an_epoch_visits_no_token_twice_and_nearly_all(
    length, context, size, seed, epoch
):
    try:
        batches = Batches(np.arange(length), context, size, seed)
    except ValueError:
        assert length < (size + 1) * context + 1
        return
    n = batches.steps_per_epoch
    rows = [batches.at(epoch * n + i)[0] for i in range(n)]
    seen = torch.cat(rows).flatten().tolist()
    assert len(seen) == len(set(seen))
    assert max(seen) + 1 < length  # the last input still has a target
    assert len(seen) > length - (size + 2) * context


def test_the_same_seed_and_step_give_the_same_batch():
    tokens = np.arange(5000)
    first, second = Batches(tokens, 8, 4, 3), Batches(tokens, 8, 4, 3)
    later = first.at(700)
    assert torch.equal(second.at(0)[0], first.at(0)[0])
    assert torch.equal(second.at(700)[0], later[0])
    other = Batches(tokens, 8, 4, 4).at(0)
    assert not torch.equal(other[0], first.at(0)[0])


def test_iterating_from_a_step_is_resuming_there():
    batches = Batches(np.arange(300), 5, 4, 1)
    steps = iter(batches)
    walked = [next(steps) for _ in range(40)]
    resumed = batches.start(25)
    for x, y in walked[25:]:
        again_x, again_y = next(resumed)
        assert torch.equal(x, again_x) and torch.equal(y, again_y)


def test_epochs_differ_in_offset_and_order():
    batches = Batches(np.arange(10_000), 64, 2)
    offsets = {int(batches.starts(e).min()) for e in range(20)}
    assert len(offsets) > 10
    assert batches.starts(0).tolist() != sorted(batches.starts(0).tolist())


def test_a_shard_a_tensor_and_a_list_give_the_same_batches(shard):
    ids = shard.tokens.tolist()
    expected = Batches(shard.tokens, 4, 2).at(1)
    for tokens in (ids, torch.tensor(ids)):
        found = Batches(tokens, 4, 2).at(1)
        assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize(
    "tokens, context, size, reason",
    [
        ([], 4, 1, "0 tokens"),
        ([1, 2, 3, 4], 4, 1, "window needs 5"),
        (list(range(20)), 4, 9, "one batch needs 9"),
        (list(range(20)), 0, 1, "context_length is 0"),
        (list(range(20)), 4, 0, "batch_size is 0"),
        ([[1, 2], [3, 4]], 1, 1, "one row"),
    ],
)
def test_tokens_that_cannot_fill_a_batch_are_refused(
    tokens, context, size, reason
):
    with pytest.raises(ValueError, match=reason):
        Batches(tokens, context, size)


def test_exactly_one_window_is_enough():
    x, y = Batches([1, 2, 3, 4, 5], 4, 1).at(0)
    assert x.tolist() == [[1, 2, 3, 4]] and y.tolist() == [[2, 3, 4, 5]]


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step is -1"):
        Batches(list(range(20)), 4, 1).at(-1)


# --- the floor -------------------------------------------------------------


END = 99
ROW = [END if i % 7 == 6 else i % 7 for i in range(700)]  # 100 documents


def test_every_window_of_documents_begins_with_the_token_before_one():
    batches = DocumentBatches(ROW, 10, 4, seed=3, end_of_text=END)
    for step in range(batches.steps_per_epoch):
        x, y = batches.at(step)
        assert (x[:, 0] == END).all()
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert y[:, 0].tolist() == [0] * 4


def test_an_epoch_of_documents_begins_once_at_each():
    batches = DocumentBatches(ROW, 10, 1, seed=3, end_of_text=END)
    starts = batches.starts(0)
    whole = [i for i in range(700 - 10) if ROW[i] == END]
    assert sorted(starts.tolist()) == whole
    assert starts.tolist() != batches.starts(1).tolist()
    again = DocumentBatches(ROW, 10, 1, seed=3, end_of_text=END)
    assert torch.equal(again.at(7)[0], batches.at(7)[0])


def test_too_few_documents_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="2 documents follow"):
        DocumentBatches([1, END, 2, 3, END, 4, 5], 2, 3, end_of_text=END)


def test_the_floor_counts_every_token_and_the_end():
    documents = [Document("abc", -2.0), Document("d", -4.0)]
    assert floor_per_token(documents, Bytes()) == 6 / (4 + 2)


@pytest.mark.parametrize("documents", [[], [Document("a")]])
def test_a_floor_without_probabilities_is_refused(documents):
    with pytest.raises(ValueError, match="log-probability"):
        floor_per_token(documents, Bytes())
