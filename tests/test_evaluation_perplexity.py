"""Perplexity: windows worked by hand, sums against one pass a window."""

import json
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmbook.corpus import load_corpus
from llmbook.evaluation.harness import evaluate
from llmbook.evaluation.perplexity import (
    Perplexity,
    count_words,
    perplexity,
    rolling_windows,
    scored_documents,
)
from llmbook.evaluation.tasks import Options
from llmbook.train import document_loss
from tests.evaluated import naive_logprobs, tiny, tokenizer


def test_windows_are_those_of_the_harnesss_own_example():
    # The docstring of lm_eval.api.model.LM.loglikelihood_rolling has ten
    # tokens, windows of four, and reads and predicts what stands here.
    read_and_predicted = [
        (["BOS", 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]
    found = list(rolling_windows(list(range(10)), "BOS", max_length=4))
    assert [
        ([*before, *after][:-1], after) for before, after in found
    ] == read_and_predicted


def test_overlapping_windows_by_hand():
    assert list(rolling_windows(range(1, 8), 0, 4, context=3)) == [
        ([0], [1, 2, 3, 4]),
        ([2, 3, 4], [5, 6]),
        ([3, 4, 5, 6], [7]),
    ]


@given(st.integers(0, 60), st.integers(1, 12), st.data())
def test_every_token_is_scored_once_after_those_before_it(n, longest, data):
    context = data.draw(st.integers(1, longest))
    ids = list(range(1, n + 1))
    windows = list(rolling_windows(ids, 0, longest, context))
    assert [i for _, after in windows for i in after] == ids
    for number, (before, after) in enumerate(windows):
        assert len(before) + len(after) <= longest + 1
        end = after[0]
        assert before == list(range(end - len(before), end))
        assert len(before) >= context or number == 0


@pytest.mark.parametrize("context", [0, 5])
def test_a_window_needs_a_context_that_fits(context):
    with pytest.raises(ValueError, match="expected from 1 to 4"):
        list(rolling_windows([1, 2], 0, 4, context))


def texts_of_all_lengths():
    source = random.Random(3)
    words = ["Ona", " lost", " the kite", ".\n", " é", " Tam"]
    return ["".join(source.choices(words, k=k)) for k in (1, 9, 40, 120)]


@pytest.mark.parametrize("context", [1, 20])
def test_sums_are_those_of_each_window_alone(context):
    model, texts = tiny(batch_size=3), texts_of_all_lengths()
    nats = tokens = 0
    for text in texts:
        ids = model.encode(text)
        for before, after in rolling_windows(
            ids, model.end_of_text, 64, context
        ):
            alone = naive_logprobs(model, [*before, *after], len(after))
            nats -= sum(alone)
            tokens += len(after)
    assert tokens > 3 * 64  # some take several windows
    found = perplexity(model, texts, context)
    assert found.nats == pytest.approx(nats, abs=1e-3)
    assert found.tokens == tokens
    assert found.documents == 4


def test_the_end_of_a_long_document_is_scored_after_all_that_fits():
    model, text = tiny(), texts_of_all_lengths()[-1]
    read = [*model.encode(text), model.end_of_text][-65:]
    [end] = naive_logprobs(model, read, 1)
    assert perplexity(model, [text]).end_nats == pytest.approx(-end, abs=1e-4)


def test_where_documents_fit_the_loss_is_that_of_training():
    model = tiny(context_length=128)
    texts = [t for t in load_corpus("world", documents=60).train_texts]
    ids = [model.encode(text) for text in texts]
    short = [n for n, row in enumerate(ids) if len(row) < 128]
    assert len(short) > 5
    loss = document_loss(
        model.model, [ids[n] for n in short], model.end_of_text
    )
    found = perplexity(model, [texts[n] for n in short])
    assert found.loss == pytest.approx(loss, rel=1e-5)


def test_a_model_that_knows_nothing_is_as_perplexed_as_it_has_tokens():
    model = tiny()
    with torch.no_grad():
        model.model.token_embedding.weight.zero_()  # and so every logit
    text = "Ona lost the kite, but Tam found it.\n"
    found = perplexity(model, [text])
    V, n = 400, len(model.encode(text))
    assert found.per_token == pytest.approx(V)
    assert found.per_word == pytest.approx(V ** (n / 9))
    assert found.per_byte == pytest.approx(V ** (n / 37))
    assert found.bits_per_byte == pytest.approx(n * math.log2(V) / 37)
    assert found.loss == pytest.approx(math.log(V))


def test_words_and_bytes_are_counted_as_the_harness_counts_them():
    assert count_words("Ona lost\n\n the kite.") == 4
    assert count_words(" Ona ") == 3  # an empty piece on either side
    assert perplexity(tiny(), ["né"]).bytes == 3


def test_documents_add_up_and_are_not_averaged():
    model, texts = tiny(), texts_of_all_lengths()
    total = perplexity(model, texts)
    parts = [perplexity(model, [text]) for text in texts]
    nats = sum(part.nats for part in parts)
    assert total.bits_per_byte == pytest.approx(
        nats / sum(len(t.encode()) for t in texts) / math.log(2)
    )


def test_no_text_is_an_error():
    with pytest.raises(ValueError, match="no token in them"):
        perplexity(tiny(), [""])
    with pytest.raises(ValueError, match="has no documents"):
        evaluate(tiny(), "perplexity", corpus=[], progress=False)


# --- as a task -------------------------------------------------------------


def test_the_floor_is_the_worlds_own_and_needs_the_ends():
    model = tiny(context_length=128)
    results = evaluate(
        model, "perplexity", documents=120, limit=4, progress=False
    )
    documents = load_corpus("world", documents=120).validation[:4]
    tokens = sum(len(model.encode(d.text)) + 1 for d in documents)
    floor = -sum(d.logprob for d in documents) / tokens
    assert results.score("perplexity", "floor") == pytest.approx(floor)
    assert results.score("perplexity", "loss") > floor


def test_a_records_numbers_are_the_documents_own():
    texts = texts_of_all_lengths()
    results = evaluate(tiny(), "perplexity", corpus=texts, progress=False)
    rows = results.examples("perplexity")
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        alone = perplexity(tiny(), [text])
        assert row["id"] == str(number)
        assert row["loglikelihoods"] == pytest.approx([-alone.nats], abs=1e-3)
        assert row["tokens"] == len(tokenizer().encode(text))
    metrics = results.tasks["perplexity"]["metrics"]
    assert "floor" not in metrics
    low, high = metrics["bits_per_byte"]["interval"]
    assert low <= metrics["bits_per_byte"]["value"] <= high


def test_documents_come_from_where_the_options_say(tmp_path):
    (tmp_path / "b.txt").write_text("Second.")
    (tmp_path / "a.txt").write_text("First.")
    read = {
        held_out: [
            d.text
            for d in scored_documents(
                Options(corpus=tmp_path, held_out=held_out)
            )
        ]
        for held_out in (True, False)
    }
    assert read[False] == ["First.", "Second."]
    assert len(read[True]) == 1 and read[True][0] in read[False]
    row = {"text": "Told.", "logprob": -2.5}
    (tmp_path / "validation.jsonl").write_text(json.dumps(row) + "\n")
    [document] = scored_documents(Options(folder=tmp_path))
    assert (document.text, document.logprob) == ("Told.", -2.5)
    whole = scored_documents(Options(documents=40, held_out=False))
    assert len(whole) == 40


@pytest.mark.data
def test_the_novels_are_scored_by_chapter():
    documents = scored_documents(Options(corpus="austen"))
    assert documents == load_corpus("austen").validation
    assert len(documents) > 5


def test_a_log_likelihood_that_is_no_number_names_the_document():
    model = tiny()
    with torch.no_grad():
        model.model.position_embedding.weight[40] = math.nan
    short, *_, long = texts_of_all_lengths()
    with pytest.raises(ArithmeticError, match=r"perplexity, item 1: .*nan"):
        evaluate(model, "perplexity", corpus=[short, long], progress=False)


def test_sums_of_perplexities_keep_their_parts_apart():
    a = Perplexity(1.0, 2, 3, 4, 5.0, 6)
    assert a + a == Perplexity(2.0, 4, 6, 8, 10.0, 12)
