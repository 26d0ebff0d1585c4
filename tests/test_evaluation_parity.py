"""Our evaluation against lm-evaluation-harness, example by example.

The running model is saved in Hugging Face's format, and both sides read it
from there. The harness runs once, in a process of its own.
"""

import os
from importlib import metadata
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason="the harness is not installed")
pytest.importorskip("transformers")

from benchmarks import evaluation, harness
from llmbook import hub, running
from llmbook.corpus.benchmarks import load_gsm8k
from llmbook.evaluation import gsm8k
from llmbook.evaluation.humaneval import STOP_STRINGS
from llmbook.evaluation.loading import load_model
from llmbook.evaluation.models import cut_at
from llmbook.evaluation.transformers_model import TransformersModel

pytestmark = pytest.mark.slow

PLAN = {row.label: row for row in evaluation.PLAN}
WRITTEN = [row for row in evaluation.PLAN if not row.scored]
MANY = 200  # examples a task
ANSWERS = (  # ways to write an answer, right or not, found or not
    "{n}",
    " So there are {n}.\n#### {n}",
    "#### {n}.",
    "#### ${n}",
    "####{n}",
    "#### -{n}",
    "#### {n},000 and #### {n}",
    "They pay ${n}.00, or {n} dollars.",
    "1,2,{n}",
    "{n}, I think ...",
    "No number at all",
    "",
    "#### \n{n}",
    "a {n}\n\n#### 7 8 9",
    "\u0663\u0664 {n} \u00bd",
)


def scripted(problems):
    """For each problem one of the ways to write its result."""
    return [
        ANSWERS[i % len(ANSWERS)].format(n=problem.result)
        for i, problem in enumerate(problems)
    ]


def saved(folder):
    """The running model and another, each in a folder of its own."""
    chosen = running.load_running(progress=False)
    tokenizer = chosen.tokenizer
    other = evaluation.other_weights(chosen.model, tokenizer)
    return chosen.config, {
        "running": hub.save_pretrained(
            chosen.model, tokenizer, folder / "running"
        ),
        "other": hub.save_pretrained(other, tokenizer, folder / "other"),
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The case, the models, and what the harness says of them."""
    folder = tmp_path_factory.mktemp("parity")
    config, models = saved(folder)
    case = evaluation.world_case(folder, config.context_length)
    answers = scripted(load_gsm8k("test", folder=case.data))
    asked = [("running", row) for row in evaluation.PLAN]
    asked += [("other", row) for row in WRITTEN]
    jobs = [evaluation.job(row, case, models[name]) for name, row in asked]
    jobs.append(
        {
            "folder": str(case.tasks),
            "tasks": {"gsm8k": None},
            "answers": answers,
        }
    )
    *found, read = harness.run_jobs(jobs, folder, torch.get_num_threads())
    said = {
        (name, row.label): evaluation.joined(tasks)
        for (name, row), tasks in zip(asked, found, strict=True)
    }
    loaded = {name: load_model(path) for name, path in models.items()}
    return case, loaded, said, (answers, read["gsm8k"]["records"]), models


def assert_agree(ours, theirs, least=MANY):
    found = evaluation.compare(ours["records"], theirs["records"])
    assert found.examples >= least
    assert found.different == 0, found
    assert ours["scores"] == pytest.approx(theirs["scores"], rel=1e-6)
    return found


def test_the_harness_is_the_version_whose_conventions_are_ours():
    assert metadata.version("lm_eval") == "0.4.13"


@pytest.mark.parametrize("label", PLAN)
def test_each_example_is_scored_as_by_the_harness(both, label):
    case, models, said, *_ = both
    row = PLAN[label]
    ours = evaluation.ours(row, case, models["running"])
    found = assert_agree(ours, said["running", label])
    assert (found.loglikelihoods >= MANY) == row.scored
    if row.task != "perplexity":  # whose documents may be long
        assert found.apart <= evaluation.TOLERANCE == 1e-4


def test_some_documents_take_several_windows_and_one_has_no_text(both):
    case, models, *_ = both
    model = models["running"]
    lengths = [len(model.encode(text)) for text in case.texts]
    assert max(lengths) > model.context_length and 0 in lengths


@pytest.mark.parametrize("label", [row.label for row in WRITTEN])
def test_what_a_wild_model_writes_is_cut_as_by_the_harness(both, label):
    case, models, said, *_ = both
    ours = evaluation.ours(PLAN[label], case, models["other"])
    assert_agree(ours, said["other", label])
    texts = [record["generation"] for record in ours["records"]]
    assert len(set(texts)) > MANY / 2
    assert any("\ufffd" in text for text in texts)
    lengths = [len(models["other"].encode(text)) for text in texts]
    assert min(lengths) < case.max_new_tokens / 2 < max(lengths)


@pytest.mark.parametrize("label", PLAN)
def test_with_other_weights_the_two_differ(both, label):
    case, models, said, *_ = both
    ours = evaluation.ours(PLAN[label], case, models["other"])
    found = evaluation.compare(
        ours["records"], said["running", label]["records"]
    )
    assert found.different > 0.9 * MANY
    assert "prompt" not in found.parts
    assert found.apart > 1 or not PLAN[label].scored


@pytest.mark.parametrize("label", PLAN)
def test_transformers_behind_our_harness_gives_the_same(both, label):
    case, _, said, _, folders = both
    adapter = TransformersModel.load(str(folders["running"]))
    ours = evaluation.ours(PLAN[label], case, adapter)
    assert_agree(ours, said["running", label])


def test_answers_are_found_and_judged_as_by_the_harness(both):
    case, _, _, (answers, theirs), _ = both
    problems = load_gsm8k("test", folder=case.data)
    found = {way: 0 for way in ("strict-match", "flexible-extract")}
    for problem, text, record in zip(problems, answers, theirs, strict=True):
        assert record["generation"] == text
        for way, extract in (
            ("strict-match", gsm8k.strict_answer),
            ("flexible-extract", gsm8k.flexible_answer),
        ):
            assert extract(text) == record["extracted"][way]
            right = gsm8k.exact_match(extract(text), problem.answer)
            assert right == record["scores"][way]
            found[way] += right
    assert 0 < found["strict-match"] < found["flexible-extract"] < MANY


@pytest.mark.parametrize(
    "pattern, stop",
    [(harness.GSM8K, gsm8k.STOP), (harness.HUMANEVAL, STOP_STRINGS)],
)
def test_stop_strings_are_the_harness_s_and_end_a_text_alike(pattern, stop):
    from lm_eval.models.utils import postprocess_generated_text

    until = harness.read_stock(pattern)["generation_kwargs"]["until"]
    assert list(stop) == until
    for first in until:
        assert cut_at(f" 5{first} 6", stop) == " 5"
        for second in until:
            text = f" 5\n {second[:-1]}{first} 6{second} 7"
            theirs = postprocess_generated_text(text, until, None)
            assert cut_at(text, stop) == theirs


# --- the real benchmarks ---------------------------------------------------

SUBJECTS = ("abstract_algebra", "global_facts")  # a hundred each


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The published files, and what the harness says of the model on them."""
    folder = tmp_path_factory.mktemp("real")
    config, models = saved(folder)
    data = Path(os.environ["LLMBOOK_DATA"])
    most = config.context_length // 8
    texts = [problem.question for problem in load_gsm8k("test")[:MANY]]
    tasks = harness.write_tasks(
        data,
        folder / "tasks",
        subjects=SUBJECTS,
        texts=texts,
        max_gen_toks=most,
    )
    case = evaluation.Case(
        data, tasks, texts, most, limit=MANY, subjects=SUBJECTS
    )
    said = evaluation.theirs(evaluation.PLAN, case, models["running"], folder)
    labels = [row.label for row in evaluation.PLAN]
    return (
        case,
        load_model(models["running"]),
        dict(zip(labels, said, strict=True)),
    )


@pytest.mark.data
@pytest.mark.parametrize("label", PLAN)
def test_the_published_examples_are_scored_as_by_the_harness(real, label):
    case, model, said = real
    ours = evaluation.ours(PLAN[label], case, model)
    least = 164 if label == "humaneval" else MANY  # all that there are
    assert_agree(ours, said[label], least)
