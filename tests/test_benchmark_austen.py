"""The case study is measured as it says, goes on after a kill, is recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import austen
from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus import Corpus, Document, load_corpus
from llmbook.evaluation.meter import read_stresses
from llmbook.evaluation.prose import Judge
from llmbook.evaluation.study import drawn_by_counts, study, yardsticks
from llmbook.evaluation.words import find_words

SHAPE = GPTConfig(300, 32, n_layer=1, n_head=2, n_embd=16)
PLAN = TrainConfig(steps=6, batch_size=2, eval_every=2, warmup_steps=1)
STRESSES = read_stresses(["the DH AH0", "lost L AO1 S T", "kite K AY1 T"])


@pytest.fixture(scope="module")
def corpus():
    world = load_corpus("world", documents=300)
    kept = (world.train_texts[:60], world.validation_texts[:12])
    return Corpus("austen", *(tuple(map(Document, side)) for side in kept))


@pytest.fixture(scope="module")
def judge(corpus):
    language = frozenset({"the", "of", "and"})
    return Judge.of(corpus.train_texts, language, STRESSES)


@pytest.fixture
def small(monkeypatch, corpus):
    chosen = {
        **austen.of_austen(),
        "model": SHAPE,
        "training": PLAN,
        "snapshots": (0, 2, 6),
    }
    monkeypatch.setattr(austen, "of_austen", lambda: chosen)
    monkeypatch.setattr(austen, "without_novel", lambda title: corpus)
    monkeypatch.setattr(austen, "load_word_list", lambda: frozenset({"the"}))
    monkeypatch.setattr(austen, "load_stresses", lambda: STRESSES)
    monkeypatch.setattr(austen, "surroundings", lambda *a: {"command": "x"})
    monkeypatch.setattr(austen, "SIZE", 300)
    monkeypatch.setattr(austen, "SHOWN", 80)
    monkeypatch.setattr(austen, "SCORED", 1)


def test_a_run_killed_while_judging_goes_on_and_ends_the_same(
    small, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    austen.run(tmp_path / "a", whole, PLAN.steps)
    judge_model, calls = austen.judge_model, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge_model(*arguments)

    monkeypatch.setattr(austen, "judge_model", killed)
    with pytest.raises(KeyboardInterrupt):
        austen.run(tmp_path / "b", tmp_path / "cut", PLAN.steps)
    austen.run(tmp_path / "b", tmp_path / "cut", PLAN.steps)
    assert len(calls) == 1 + 1 + 2 + 3  # the first snapshot is not done twice
    for kind in austen.KINDS:
        one, other = (
            json.loads((folder / f"{kind}.json").read_text("utf-8"))
            for folder in (whole, tmp_path / "cut")
        )
        assert one | {"seconds": 0} == other | {"seconds": 0}
        assert [s["step"] for s in one["snapshots"]] == [0, 2, 6]
        assert set(one["baselines"]) == {"noise", "1-gram", "3-gram"}
        assert one["tokens_read"] == 6 * 2 * 32


def test_a_study_has_the_form_of_a_record(corpus, judge, tmp_path, small):
    tokenizer = austen.tokenizer_of("characters", corpus.train_texts, 0)
    sides = corpus.train_texts, corpus.validation_texts
    live = study(*sides, tokenizer, judge, SHAPE, PLAN, (0, 6), 200)
    austen.run(tmp_path, tmp_path / "record", PLAN.steps)
    text = (tmp_path / "record" / "characters.json").read_text("utf-8")
    kept = json.loads(text)
    for part in ("snapshots", "baselines"):
        one, other = live[part], kept[part]
        if part == "baselines":
            one, other = one["noise"], other["noise"]
        else:
            one, other = one[0], other[0]
        assert set(one) == set(other)
    needed = {"parameters", "vocabulary", "plan", "seed", "tokens_read"}
    assert needed <= set(live) & set(kept)


def test_the_share_of_a_text_is_the_one_counted_by_hand(judge, corpus):
    found = judge.judge(corpus.train_texts[0])
    assert found["known"] == 1.0
    assert found["copied"] == 1.0 or found["characters"] < 50
    assert found["longest"] == len(corpus.train_texts[0])


def test_drawn_tokens_follow_their_counts(corpus):
    tokenizer = austen.tokenizer_of("characters", corpus.train_texts, 0)
    drawn = dict(drawn_by_counts(tokenizer, corpus.train_texts, 400))
    text = "".join(corpus.train_texts)
    for name, wanted in (
        ("1-gram", text.count("e") / len(text)),
        ("noise", 1 / tokenizer.end_of_text),
    ):
        ids = [i for _ in range(30) for i in next(drawn[name])]
        share = ids.count(tokenizer.encode("e")[0]) / len(ids)
        assert share == pytest.approx(wanted, abs=0.02)


def test_a_held_out_text_is_measured_whole_in_pieces_and_shuffled(
    judge, corpus
):
    found = yardsticks(corpus.validation_texts, judge, 500, 40)
    novel = "\n\n".join(corpus.validation_texts)
    assert len(found["pieces"]["longest"]) == len(novel) // 500
    assert max(found["pieces"]["longest"]) <= found["novel"]["longest"]
    assert found["shuffled"]["words"] == len(find_words(novel))
    assert found["shuffled"]["known"] == found["novel"]["known"]
    assert found["sonnets"]["lines"] == 56


def test_a_shorter_plan_warms_up_within_its_steps():
    usual = austen.of_austen()["training"]
    assert austen.plan_of(usual.steps) == usual
    short = austen.plan_of(60)
    assert (short.steps, short.warmup_steps) == (60, 6)
    assert replace(short, steps=5000, warmup_steps=100) == usual


@pytest.mark.skipif(
    not (austen.RECORDS / "bpe.json").is_file(), reason="not recorded yet"
)
@pytest.mark.parametrize("kind", austen.KINDS)
def test_the_record_is_of_the_configuration_of_that_name(kind):
    files = list(austen.RECORDS.glob("*.json"))
    assert sum(file.stat().st_size for file in files) < 300_000
    text = (austen.RECORDS / f"{kind}.json").read_text("utf-8")
    kept, chosen = json.loads(text), austen.of_austen()
    assert kept["plan"] == chosen["training"].to_dict()
    expected = chosen["training"].tokens(chosen["model"].context_length)
    assert kept["tokens_read"] == expected
    assert 12_000_000 < kept["parameters"] < 16_000_000
    steps = [one["step"] for one in kept["snapshots"]]
    assert steps == sorted(chosen["snapshots"])
    assert {"command", "date", "machine", "versions"} <= set(kept)
