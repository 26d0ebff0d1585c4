"""What is read of an evaluation, and what is kept."""

import json
import math

import pytest

from llmbook.evaluation.results import Results
from llmbook.evaluation.statistics import standard_error, wilson_interval
from llmbook.evaluation.tasks import proportion


def results(**changes):
    loss = {
        "value": 2.5,
        "n": 3,
        "stderr": None,
        "interval": None,
        "chance": None,
    }
    accuracy = {
        "value": 0.5,
        "n": 1200,
        "stderr": 0.0144,
        "interval": [0.47, 0.53],
        "chance": 0.25,
    }
    tasks = {
        "mmlu": {"metrics": {"acc": accuracy}, "examples": [{"id": "a/0"}]},
        "perplexity": {"metrics": {"loss": {**loss, **changes}}},
    }
    return Results(tasks, {"date": "2026-01-01", "model": {"name": "tiny"}})


def test_a_table_has_names_on_the_left_and_numbers_on_the_right():
    assert results().table() == (
        "task        metric     n   value  stderr            95 %  chance\n"
        "mmlu        acc     1200  0.5000  0.0144  0.470 to 0.530  0.2500\n"
        "perplexity  loss       3  2.5000"
    )


def test_a_hopeless_perplexity_does_not_widen_the_table():
    [_, row] = results(value=2.5e10, interval=[4.0, 1.2e11]).rows()
    assert row[3:6] == ("2.5e+10", "", "4 to 1.2e+11")


def test_a_score_is_found_by_task_and_metric():
    assert results().score("mmlu", "acc") == 0.5
    assert results().examples("mmlu") == [{"id": "a/0"}]
    for wrong in (("mmlu", "loss"), ("chess", "acc")):
        with pytest.raises(ValueError, match="mmlu acc, perplexity loss"):
            results().score(*wrong)


def test_what_is_saved_is_loaded_again(tmp_path):
    path = results().save(tmp_path / "new" / "results.json")
    loaded = Results.load(path)
    assert loaded == results()
    assert json.loads(path.read_text())["format"] == "llmbook-evaluation"
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_a_number_that_is_none_is_never_written(tmp_path):
    path = results().save(tmp_path / "results.json")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        results(value=math.nan).save(path)
    assert path.read_bytes() == before


def test_another_file_is_refused(tmp_path):
    for content in ("[]", "{}", '{"format": "other"}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match="holds no results"):
            Results.load(tmp_path / "other.json")


def test_a_share_comes_with_its_uncertainty():
    flags = [True] * 3 + [False] * 9
    found = proportion(flags, chance=0.25)
    assert found["value"] == 0.25 and found["n"] == 12
    assert found["stderr"] == standard_error(flags)
    assert found["interval"] == list(wilson_interval(3, 12))
    assert proportion([True])["stderr"] is None
