"""The benchmark of alignment runs whole, goes on, and tells what came out."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import alignment, alignment_exam, alignment_report
from llmbook import aligned, checkpoint
from llmbook.alignment import measures, recall, world_chats
from llmbook.alignment.data import prompt_text
from llmbook.config import GPTConfig
from llmbook.corpus import load_corpus
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer


@pytest.fixture(scope="module")
def base():
    texts = load_corpus("world", documents=60).train_texts
    tokenizer = BPETokenizer.train(texts, 400)
    config = GPTConfig(
        vocab_size=400, context_length=128, n_layer=1, n_head=2, n_embd=16
    )
    return GPT(config, torch.Generator().manual_seed(0)), tokenizer


@pytest.fixture
def bench(base, tmp_path, monkeypatch):
    """A bench of two steps a part, and the command on it."""
    monkeypatch.setenv("LLMBOOK_BUDGET", "smoke")
    few = recall.fact_items()[::60]
    monkeypatch.setattr(measures, "fact_items", lambda: few)
    run = aligned.run_of(2, 2, "adamw", 1e-3)
    small = replace(
        alignment.plan(),
        sft=aligned.Recipe("sft", {"sum": 16, "question": 16}, run, replay=4),
        dpo=replace(
            alignment.plan().dpo,
            examples={"ending": 24},
            train=run,
            choices={"beta": 0.1},
        ),
        lora=run,
        reward=run,
        grpo=run,
        choices=24,
        problems=16,
        paragraphs=1,
        asked=6,
        functions=1,
        watched=2,
        documents=2,
    )
    made = alignment.Bench("tiny", *base, small, tmp_path / "parts")
    monkeypatch.setattr(alignment, "bench_of", lambda folder: made)
    monkeypatch.setattr(alignment, "RECORD", tmp_path / "alignment.json")
    return made


COMMAND = [
    *("--seeds", "0", "1"),
    *("--variants", "beta 0.02", "5 times"),
    *("--workers", "1"),
]


@pytest.mark.slow
def test_it_runs_whole_and_is_recorded_and_made_once(
    bench, monkeypatch, capsys
):
    assert alignment.main([*COMMAND, "--record"]) == 0
    printed = capsys.readouterr().out
    record = json.loads(alignment.RECORD.read_text())["tiny"]
    made = {(r["part"], r["seed"], r["variant"]) for r in record["results"]}
    assert made == {
        *((part, 0, "") for part in alignment.ONCE),
        *((part, seed, "") for part in alignment.CHAIN for seed in (0, 1)),
        ("tradeoff", 0, "beta 0.02"),
        ("rates", 0, "5 times"),
    }
    assert record["command"].startswith("python -m benchmarks.alignment")
    assert record["versions"]["torch"] == torch.__version__
    assert record["plan"]["problems"] == 16
    for words in (*alignment_report.COLUMNS, *alignment_report.ROWS.values()):
        assert f"| {words} |" in printed
    assert "reward models, on unseen pairs: " in printed
    assert "DPO, beta 0.02, seed 0, step 2: kind" in printed

    def again(*_):
        raise AssertionError("this part was made already")

    monkeypatch.setattr(
        alignment, "MAKE", dict.fromkeys(alignment.PARTS, again)
    )
    assert alignment.main(COMMAND) == 0
    assert capsys.readouterr().out == printed


def test_seeds_differ_and_a_seed_is_the_same_again(bench, tmp_path):
    weights = [bench.tuned("sft", seed).head_weight for seed in (0, 1)]
    assert not torch.equal(*weights)
    elsewhere = replace(bench, folder=tmp_path / "elsewhere")
    assert torch.equal(elsewhere.tuned("sft", 1).head_weight, weights[1])


def test_a_part_that_was_cut_off_goes_on(bench, monkeypatch, tmp_path):
    whole = bench.tuned("dpo", 0).head_weight
    other = replace(bench, folder=tmp_path / "cut")
    other.tuned("sft", 0)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(alignment.Bench, "kept", cut)
        with pytest.raises(KeyboardInterrupt):
            other.result("dpo", 0)
    state = checkpoint.load(
        other.path(other.named("dpo", 0), "run") / "checkpoint.safetensors"
    ).state
    assert len(state["history"]["loss"]) == 2
    assert torch.equal(other.tuned("dpo", 0).head_weight, whole)
    assert not other.path(other.named("dpo", 0), "run").exists()


def test_nothing_that_is_asked_is_learned(bench):
    asked = bench.exam.chats["sum"]
    fresh = world_chats("sum", "seen", 5, "another")
    kept = bench.exam.unasked([*asked, *fresh])
    assert [prompt_text(c) for c in kept] == [prompt_text(c) for c in fresh]


def test_each_curve_differs_in_what_it_names(bench, monkeypatch):
    seen = []

    def prefer(model, tokenizer, choices, config, **told):
        seen.append({"rate": config.learning_rate, **told})
        raise KeyboardInterrupt

    monkeypatch.setattr(alignment, "prefer", prefer)
    monkeypatch.setattr(
        alignment.Bench, "tuned", lambda self, part, seed: bench.model
    )
    for name in alignment.TRADEOFFS:
        with pytest.raises(KeyboardInterrupt):
            bench.result("tradeoff", 0, name)
    recipe, *others = [
        {k: told.get(k) for k in ("rate", "beta", "sft")} for told in seen
    ]
    changes = list(alignment.TRADEOFFS.values())[1:]
    for told, change in zip(others, changes, strict=True):
        assert {k for k in told if told[k] != recipe[k]} == set(change)


def stage(part, seed, **measured):
    every = dict.fromkeys(alignment_report.ROWS, 0.5)
    return {
        "part": part,
        "seed": seed,
        "variant": "",
        "processor_seconds": 1.0,
        "steps": 2,
        "measured": {**every, **measured},
    }


def test_goals_are_met_or_missed_by_the_mean_over_seeds():
    results = [
        stage("sft", 0, facts=0.9, question=0.7, sum=0.75),
        stage("sft", 1, facts=0.98, question=0.4, sum=0.75),
        stage("dpo", 0, kind=0.6, unkind=0.2, malformed=0.05, sum_sampled=0.4),
        stage("dpo", 1, kind=0.6, unkind=0.2, malformed=0.06, sum_sampled=0.4),
        stage("grpo", 0, sum_sampled=0.6, sum=0.55),
        stage("grpo", 1, sum_sampled=0.5, sum=0.4),
    ]
    lines = alignment_report.goals(results)
    assert [line.partition(":")[0] for line in lines] == [
        "MISSED",  # facts, 0.94
        "MISSED",  # questions, 0.55
        "met",  # sums, exactly
        "MISSED",  # functions, 0.5
        "MISSED",  # kind endings, 0.6 of all
        "met",  # and of those that are kind or unkind, 0.75
        "MISSED",  # malformed, 0.055
        "met",  # 0.15 ± 0.07 more reward
        "MISSED",  # greedy: 0.05 and -0.1
    ]
    assert "0.940 ± 0.057" in lines[0]


def test_a_gain_within_its_spread_is_no_gain():
    results = [
        *(stage("dpo", seed, sum_sampled=0.4) for seed in range(3)),
        stage("grpo", 0, sum_sampled=0.7),
        stage("grpo", 1, sum_sampled=0.4),
        stage("grpo", 2, sum_sampled=0.4),
    ]
    assert alignment_report.goals(results)[-2].startswith("MISSED")


def test_the_base_writes_behind_the_prompts_of_its_corpus(bench, monkeypatch):
    seen = []

    def generate(model, prompts, count, **choices):
        seen.extend(bench.tokenizer.decode(row[1:]) for row in prompts)
        return [bench.tokenizer.encode(" Ona.\nassert f() == 1")] * len(
            prompts
        )

    monkeypatch.setattr(alignment_exam, "generate_batch", generate)
    write = alignment_exam.in_plain_text(bench.model, bench.tokenizer)
    (chat,) = world_chats("question", "seen", 1)
    assert write("question", [chat]) == ["Ona.\nassert f() == 1"]
    assert write("function", [chat]) == [" Ona."]
    question = chat[0]["content"]
    assert seen == [f"Question: {question}\nAnswer:", question]


@pytest.mark.parametrize("wrong", [["poem"], ["--variants", "poem"]])
def test_an_unknown_name_is_refused_with_those_there_are(wrong, capsys):
    with pytest.raises(SystemExit):
        alignment.main(wrong)
    assert "'poem' is none; expected of" in capsys.readouterr().err


def test_a_clock_counts_the_steps_it_saw_and_no_waiting(monkeypatch):
    clock = alignment.Clock()
    assert clock.seconds(10) == 0
    times = iter([7.0, 9.0, 10.0])
    monkeypatch.setattr(alignment.time, "process_time", lambda: next(times))
    for step in (4, 5, 6):  # taken up at step 3
        clock(step, None, None)
    assert clock.seconds(10) == 15.0


def test_a_parts_name_changes_with_what_it_is_made_from_alone(bench):
    def names(**change):
        other = replace(bench, chosen=replace(bench.chosen, **change))
        return {part: other.named(part, 0) for part in alignment.PARTS}

    def renamed(**change):
        now, then = names(**change), names()
        return {part for part in now if now[part] != then[part]}

    run = bench.chosen.grpo
    assert renamed(grpo=replace(run, steps=3)) == {"grpo", "rates"}
    dpo = replace(bench.chosen.dpo, train=replace(run, steps=3))
    assert renamed(dpo=dpo) == {"dpo", "tradeoff", "grpo", "rates"}
    sft = replace(bench.chosen.sft, train=replace(run, steps=3))
    assert renamed(sft=sft) == {*alignment.PARTS} - {"base"}
    assert renamed(asked=5) == {*alignment.PARTS}
