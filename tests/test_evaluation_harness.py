"""evaluate(): every way to call it, and what a kill leaves behind."""

import csv
import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch

import llmbook
from llmbook.evaluation import humaneval, humaneval_task
from llmbook.evaluation.harness import evaluate, task_names
from llmbook.evaluation.humaneval import pass_at_k
from llmbook.evaluation.humaneval_task import CodeTask, pass_at
from llmbook.evaluation.results import Results
from llmbook.evaluation.sandbox import InfrastructureError, Verdict
from llmbook.evaluation.tasks import Options, proportion
from tests.evaluated import tiny, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.* prompts are longer")

TEXTS = ["Ona lost the kite.", "Tam found it."]
QUIET = {"progress": False, "corpus": TEXTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks")
    (path / "mmlu" / "test").mkdir(parents=True)
    with open(path / "mmlu/test/habits_test.csv", "w", newline="") as file:
        rows = [(f"Who is {n}?", "a", "b", "c", "d", "A") for n in range(5)]
        csv.writer(file).writerows(rows)
    (path / "gsm8k").mkdir()
    for split, count in (("train", 7), ("test", 5)):
        rows = [
            {"question": f"{n} and {split}?", "answer": f"#### {n}"}
            for n in range(count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (path / "gsm8k" / f"{split}.jsonl").write_text(lines)
    return path


def records(results):
    return {name: found["examples"] for name, found in results.tasks.items()}


# --- how it is called ------------------------------------------------------


def test_a_gpt_with_its_tokenizer_or_a_language_model():
    model = tiny()
    first = evaluate(model.model, tokenizer(), ["perplexity"], **QUIET)
    others = [
        evaluate(model.model, "perplexity", tokenizer=tokenizer(), **QUIET),
        evaluate(model, ["perplexity"], **QUIET),
    ]
    assert all(records(other) == records(first) for other in others)
    with pytest.raises(ValueError, match="GPT without its tokenizer"):
        evaluate(model.model, "perplexity", **QUIET)


def test_tasks_are_known_by_our_names_and_the_harnesss():
    assert task_names("gsm8k, mmlu_continuation,gsm8k") == [
        "gsm8k",
        "mmlu_cloze",
    ]
    for wrong in ("chess", "", [], "mmlu;gsm8k"):
        with pytest.raises(ValueError, match="expected some of mmlu, "):
            task_names(wrong)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"num_fewshot": -1}, "num_fewshot is -1"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": 2}, "Set a temperature"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        Options(**options)


def test_a_missing_benchmark_is_named_before_anything_is_scored(tmp_path):
    with pytest.raises(FileNotFoundError, match="mmlu"):
        evaluate(tiny(), "perplexity,mmlu", folder=tmp_path, **QUIET)


def test_a_folder_for_results_is_refused_before_anything_is_scored(tmp_path):
    with pytest.raises(ValueError, match="expected a file for the results"):
        evaluate(tiny(), "perplexity", out=tmp_path, **QUIET)


def test_results_say_what_was_measured_by_what(folder):
    results = evaluate(tiny(), "mmlu", folder=folder, seed=3, limit=2, **QUIET)
    about = results.about
    assert about["model"]["fingerprint"] == tiny().fingerprint()
    assert about["options"]["limit"] == 2
    assert about["options"]["corpus"] == "2 given texts"
    assert about["versions"]["llmbook"] == llmbook.__version__
    assert about["versions"]["torch"] == torch.__version__
    assert about["seeds"] == {"seed": 3, "fewshot_seed": 1234}
    assert results.tasks["mmlu"]["variant"].startswith("mmlu ")


def test_scores_do_not_depend_on_the_batch(folder):
    found = [
        evaluate(tiny(), "mmlu,gsm8k", folder=folder, batch_size=size, **QUIET)
        for size in (1, 3)
    ]
    for rows in zip(
        found[0].examples("mmlu"), found[1].examples("mmlu"), strict=True
    ):
        a, b = (row["loglikelihoods"] for row in rows)
        assert a == pytest.approx(b, abs=1e-4)
    assert records(found[0])["gsm8k"] == records(found[1])["gsm8k"]


# --- after a kill ----------------------------------------------------------


def start(root, folder, out, count, wait_after):
    command = [sys.executable, "-m", "tests.evaluated_until_killed"]
    arguments = [str(a) for a in (folder, out, count, wait_after)]
    return subprocess.Popen([*command, *arguments], cwd=root)


def test_after_a_kill_the_rest_is_scored_and_nothing_twice(
    root, folder, tmp_path
):
    out, count = tmp_path / "results.json", tmp_path / "count"
    waiting = count.with_suffix(".waiting")
    run = start(root, folder, out, count, wait_after=4)
    while not waiting.exists():
        assert run.poll() is None, "the run ended before it was killed"
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not out.exists()
    before = count.read_text().splitlines()
    assert len(before) == 5 * 4 + 2  # all choices, and two of five problems
    # A line that the kill cut short, as a full disk would.
    with open(tmp_path / "results.json.journal", "a") as journal:
        journal.write('{"task": "gsm8k", "id": "2", "gener')

    assert start(root, folder, out, count, wait_after=-1).wait() == 0
    scored = count.read_text().splitlines()
    assert scored[: len(before)] == before
    assert len(scored) == len(set(scored)) == 5 * 4 + 5 + 3
    # By a process of its own too: other threads would round otherwise.
    whole, count = tmp_path / "whole.json", tmp_path / "another"
    assert start(root, folder, whole, count, wait_after=-1).wait() == 0
    assert records(Results.load(out)) == records(Results.load(whole))
    assert not list(tmp_path.glob("*.journal*"))


class Failing(type(tiny())):
    """Fails at its second call, and leaves a journal of the first."""

    calls = 0

    def loglikelihoods(self, pairs):
        self.calls += 1
        if self.calls == 2:
            raise OSError("the machine is out of order")
        return super().loglikelihoods(pairs)


def failed(tmp_path, **options):
    model = Failing(tiny().model, tokenizer())
    options = {**QUIET, "out": tmp_path / "out.json", **options}
    with pytest.raises(OSError, match="out of order"):
        evaluate(model, "perplexity", batch_size=1, **options)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"window_context": 2}, "options.window_context was 1 and is 2"),
        ({"seed": 1}, "options.seed was 0 and is 1"),
        ({"corpus": ["Ona lost.", "Tam."]}, "data.perplexity was"),
        ({"tasks": "gsm8k"}, "data.gsm8k was None"),
        ({"model": tiny(seed=1)}, "model was '"),
    ],
)
def test_a_journal_of_something_else_is_refused(
    changes, word, folder, tmp_path
):
    failed(tmp_path)
    journal = (tmp_path / "out.json.journal").read_bytes()
    call = {"model": tiny(), "tasks": "perplexity", **QUIET, **changes}
    call |= {"out": tmp_path / "out.json", "folder": folder}
    with pytest.raises(ValueError, match="journal of another") as caught:
        evaluate(**call)
    assert word in str(caught.value)
    assert (tmp_path / "out.json.journal").read_bytes() == journal
    results = evaluate(**call, restart=True)
    assert Results.load(tmp_path / "out.json").to_json() == results.to_json()


def test_a_journal_goes_on_where_names_and_places_have_changed(tmp_path):
    failed(tmp_path)
    model = tiny(name="moved")
    asked = []
    score = model.loglikelihoods
    model.loglikelihoods = lambda pairs: asked.append(1) or score(pairs)
    evaluate(model, "perplexity", out=tmp_path / "out.json", **QUIET)
    assert len(asked) == 1  # of two documents


def test_a_damaged_journal_is_an_error_and_not_a_result(tmp_path):
    failed(tmp_path)
    path = tmp_path / "out.json.journal"
    head, line = path.read_text().splitlines()
    path.write_text(f"{head}\n{line[:-5]}\n")
    with pytest.raises(ValueError, match=r"line 2, is damaged"):
        evaluate(tiny(), "perplexity", out=tmp_path / "out.json", **QUIET)


def test_two_runs_do_not_write_to_one_file(tmp_path):
    out = tmp_path / "out.json"

    class Nested(type(tiny())):
        def loglikelihoods(self, pairs):
            evaluate(tiny(), "perplexity", out=out, **QUIET)

    with pytest.raises(ValueError, match="another process writes"):
        evaluate(
            Nested(tiny().model, tokenizer()), "perplexity", out=out, **QUIET
        )


def test_an_older_result_stays_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "out.json"
    out.write_text("older")
    failed(tmp_path)
    assert out.read_text() == "older"


# --- code ------------------------------------------------------------------

PROBLEM = {
    "prompt": 'def one():\n    """The number one."""\n',
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}


class Writing(type(tiny())):
    """Writes given programs, and remembers what it was asked."""

    def __init__(self, programs):
        super().__init__(tiny().model, tokenizer())
        self.programs, self.asked = list(programs), []

    def generate(self, prompts, max_new_tokens, stop=(), **choices):
        self.asked.append(choices)
        return [self.programs.pop(0) for _ in prompts]


def code_task(count, **options):
    from llmbook.corpus.benchmarks import CodeProblem

    problems = [
        CodeProblem(task_id=f"Test/{n}", **PROBLEM) for n in range(count)
    ]
    return CodeTask(problems, Options(**options), "none")


def test_programs_are_run_and_not_believed():
    right, wrong = "    return 1\n", "    return 2\n"
    model = Writing([right, wrong])
    task = code_task(2)
    rows = task.score(model, [0, 1])
    assert [row["correct"]["pass"] for row in rows] == [[True], [False]]
    assert [row["verdicts"][0]["status"] for row in rows] == [
        "passed",
        "wrong",
    ]
    summary = task.summary(rows)
    assert summary["metrics"]["pass@1"] == proportion([True, False])
    assert model.asked == [{}]  # both at once, greedily


def test_samples_of_a_problem_are_drawn_with_its_own_seeds(monkeypatch):
    verdicts = {"y": Verdict("passed"), "n": Verdict("wrong")}
    monkeypatch.setattr(
        humaneval_task,
        "check_many",
        lambda solutions, tier: (verdicts[text] for _, text in solutions),
    )
    model = Writing("ynnnyynn")
    task = code_task(2, samples=4, temperature=0.8, top_p=0.95, seed=5)
    rows = task.score(model, [0, 1])
    assert [row["generations"] for row in rows] == [
        list("ynnn"),
        list("yynn"),
    ]
    seeds = [call.pop("seed") for call in model.asked]
    assert seeds[0] == 5 and abs(seeds[1] - seeds[0]) > 1000
    assert model.asked == [{"temperature": 0.8, "top_p": 0.95}] * 2
    metrics = task.summary(rows)["metrics"]
    assert metrics["pass@1"]["value"] == pytest.approx(3 / 8)
    every = (pass_at_k(4, 1, 4) + pass_at_k(4, 2, 4)) / 2
    assert metrics["pass@4"]["value"] == pytest.approx(every)


def test_a_sandbox_that_fails_is_no_wrong_answer(monkeypatch):
    def fail(*_, **__):
        raise InfrastructureError("no processes left")

    monkeypatch.setattr(humaneval, "check_solution", fail)
    with pytest.raises(InfrastructureError, match="no processes left"):
        code_task(1).score(Writing(["    return 1"]), [0])


def test_pass_at_k_is_averaged_over_problems():
    passed = [[True, True, False], [False, False, False]]
    assert pass_at(1, passed)["value"] == pytest.approx(1 / 3)
    assert pass_at(2, passed)["value"] == pytest.approx(1 / 2)
    assert pass_at(1, passed[:1])["stderr"] is None
