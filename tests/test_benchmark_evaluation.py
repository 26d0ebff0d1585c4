"""The comparison of two evaluations sees every way in which they differ."""

import json
import math
from dataclasses import asdict

import pytest

from benchmarks import evaluation


def choices(number, *loglikelihoods, prompt="Who hums?", score=1.0):
    return {
        "id": number,
        "prompt": prompt,
        "loglikelihoods": list(loglikelihoods),
        "greedy": [False] * len(loglikelihoods),
        "scores": {"acc": score},
    }


def answer(number, generation=" 5", extracted="5", score=1.0):
    return {
        "id": number,
        "prompt": "2 + 3?",
        "generation": generation,
        "extracted": {"strict": extracted},
        "scores": {"strict": score},
    }


def test_equal_records_agree():
    records = [choices(0, -1.0, -2.0), choices(1, -3.0, -4.0)]
    found = evaluation.compare(records, records)
    assert (found.examples, found.loglikelihoods) == (2, 4)
    assert found.apart == found.different == 0 and not found.parts


def test_the_largest_difference_is_found_wherever_it_stands():
    ours = [choices(0, -1.0, -2.0), choices(1, -3.0, -4.0)]
    theirs = [choices(0, -1.0, -2.5), choices(1, -3.0, -3.99999)]
    for found in (
        evaluation.compare(ours, theirs),
        evaluation.compare(theirs, ours),
    ):
        assert found.apart == 0.5 and found.different == 1


@pytest.mark.parametrize(
    "part, changed",
    [
        ("generation", {"generation": " 6"}),
        ("extracted", {"extracted": "6"}),
        ("scores", {"score": 0.0}),
    ],
)
def test_each_part_of_an_answer_is_compared(part, changed):
    ours = [answer(0), answer(1)]
    found = evaluation.compare(ours, [answer(0), answer(1, **changed)])
    assert found.parts == {part: 1} and found.different == 1


def test_prompts_and_greedy_choices_are_compared():
    ours, theirs = [choices(0, -1.0)], [choices(0, -1.0, prompt="Who?")]
    assert evaluation.compare(ours, theirs).parts == {"prompt": 1}
    theirs = [{**ours[0], "greedy": [True]}]
    assert evaluation.compare(ours, theirs).parts == {"greedy": 1}


def test_only_a_long_document_may_differ_as_a_float32_sum_does():
    assert not evaluation.far(-200.0, -200.00009)
    assert evaluation.far(-200.0, -200.00011)
    assert not evaluation.far(-1000.0, -1000.0004)
    assert evaluation.far(-1000.0, -1000.0006)
    found = evaluation.compare([choices(0, -1.0)], [choices(0, -1.001)])
    assert found.parts == {"loglikelihoods": 1} and found.different == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_agreement(value):
    broken = [choices(0, value, -1.0)]
    with pytest.raises(ValueError, match="expected finite"):
        evaluation.compare(broken, broken)


def test_what_one_side_leaves_out_is_never_agreement():
    whole = [answer(0), answer(1)]
    without = [{k: v for k, v in r.items() if k != "extracted"} for r in whole]
    with pytest.raises(ValueError, match="the same parts"):
        evaluation.compare(whole, without)
    with pytest.raises(ValueError, match="the same parts"):
        evaluation.compare([], [])
    with pytest.raises(ValueError, match="shorter"):
        evaluation.compare(whole, whole[:1])
    with pytest.raises(ValueError, match="shorter"):
        evaluation.compare([choices(0, -1.0, -2.0)], [choices(0, -1.0)])


def test_the_world_gives_two_hundred_examples_of_each_task(tmp_path):
    from llmbook.corpus import benchmarks as real

    folder = evaluation.write_data(tmp_path)
    n = evaluation.EXAMPLES
    assert len(real.load_mmlu("test", folder=folder)) >= n >= 200
    assert len(real.load_gsm8k("test", folder=folder)) == n
    assert len(real.load_humaneval(folder=folder)) == n
    texts = evaluation.documents(64)
    assert len(texts) == len(set(texts)) == n and "" in texts


def test_the_table_has_a_line_for_each_score_and_task():
    same = asdict(evaluation.compare([answer(0)], [answer(0)]))
    side = {"scores": {"strict": 0.25, "flexible": 0.5}, "seconds": 2.0}
    row = {
        "task": "gsm8k",
        "agreement": same,
        "other weights": {**same, "different": 1},
        "ours": side,
        "harness": {**side, "seconds": 5.0},
    }
    bare = {"scores": {}, "seconds": 1.0}
    other = {**row, "task": "humaneval", "ours": bare, "harness": bare}
    head, rule, *lines = evaluation.table([row, other]).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [
        "gsm8k", "gsm8k", "humaneval",
    ]  # fmt: skip
    assert {line.count("|") for line in (head, rule, *lines)} == {13}
    assert (
        "| strict | 0.25 | 0.25 | 0 |  | 0 | 1 | 2.0 | 5.0 | 2.5 |"
        in (lines[0])
    )


def test_the_record_says_how_it_was_made_and_that_all_agrees():
    record = json.loads(evaluation.RECORD.read_text(encoding="utf-8"))
    assert record["command"].startswith("python -m benchmarks.evaluation")
    assert record["versions"]["lm_eval"] == "0.4.13"
    labels = [row.label for row in evaluation.PLAN]
    assert [row["task"] for row in record["results"]] == labels
    for row in record["results"]:
        assert row["agreement"]["examples"] >= 200
        assert row["agreement"]["different"] == 0
        assert row["other weights"]["different"] > 100
