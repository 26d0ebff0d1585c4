"""Multiple choice: prompts letter by letter, choices against single passes."""

import csv
import math

import pytest
import torch

from llmbook.corpus.benchmarks import MultipleChoice
from llmbook.evaluation import multiple_choice
from llmbook.evaluation.harness import evaluate
from llmbook.evaluation.models import encode_pair
from llmbook.evaluation.multiple_choice import CLOZE, LETTERED, ChoiceTask
from llmbook.evaluation.tasks import Options
from tests.evaluated import naive_logprobs, tiny

ITEM = MultipleChoice(
    "local_geography", " Where is the well? ", ("Here", "By it", "a", "b"), "B"
)
SHOT = MultipleChoice(
    "local_geography", "Who hums?", ("Bo", "Tam", "Ona", "Joss"), "C"
)

# What lm-evaluation-harness 0.4.13 builds from its templates mmlu/default
# and mmlu/continuation for these two, written out by hand.
LETTERS_PROMPT = """\
The following are multiple choice questions (with answers) about local \
geography.

Who hums?
A. Bo
B. Tam
C. Ona
D. Joss
Answer: C

Where is the well?
A. Here
B. By it
C. a
D. b
Answer:"""
CLOZE_PROMPT = """\
The following are questions (with answers) about local geography.

Question: Who hums?
Answer: Ona

Question: Where is the well?
Answer:"""


@pytest.mark.parametrize(
    ("layout", "expected"), [(LETTERED, LETTERS_PROMPT), (CLOZE, CLOZE_PROMPT)]
)
def test_prompts_are_the_harnesss_to_the_letter(layout, expected):
    assert multiple_choice.prompt(layout, ITEM, [SHOT]) == expected
    heading, *_, question = expected.split("\n\n")
    alone = multiple_choice.prompt(layout, ITEM)
    assert alone == f"{heading}\n\n{question}"


def test_letters_compare_letters_and_cloze_the_choices():
    assert tuple(LETTERED.answers(ITEM)) == ("A", "B", "C", "D")
    assert tuple(CLOZE.answers(ITEM)) == ITEM.choices


def test_of_equals_the_first_is_chosen():
    assert multiple_choice.likeliest([-2.0, -1.0, -1.0]) == 1


def test_a_character_is_what_length_is_measured_in():
    # -6 / 3 characters beats -7 / 2, but not -7 / 4 bytes.
    choose = multiple_choice.likeliest_per_character
    assert choose([-6.0, -7.0], ["abc", "éé"]) == 0
    assert choose([-6.0, -3.9], ["abc", "éé"]) == 1
    assert choose([-0.1, -6.0], ["", "abc"]) == 1  # nothing is no answer


def test_the_pooled_error_is_the_spread_around_each_subjects_mean():
    groups = [[1, 0, 0, 1, 1], [0, 0, 1]]
    spread = sum(
        sum((x - sum(g) / len(g)) ** 2 for x in g) for g in groups
    ) / (8 - 2)
    errors = [
        math.sqrt(
            sum((x - sum(g) / len(g)) ** 2 for x in g) / (len(g) - 1) / len(g)
        )
        for g in groups
    ]
    found = multiple_choice.pooled_error(errors, [5, 3])
    assert found == pytest.approx(math.sqrt(spread / 8))


# --- as a task -------------------------------------------------------------

SUBJECTS = {
    "habits": [
        (f"What does {name} do?", "hum", "sing well", "dig", "nap", letter)
        for name, letter in (
            ("Ona", "A"),
            ("Tam", "B"),
            ("Bo", "C"),
            ("Nell", "D"),
            ("Joss", "A"),
        )
    ],
    "places": [
        (f"Where is the {name}?", "here", "in the wood", "up", "a", letter)
        for name, letter in (("kite", "B"), ("well", "B"), ("mill", "C"))
    ],
}


@pytest.fixture
def folder(tmp_path):
    for split in ("dev", "test"):
        for subject, rows in SUBJECTS.items():
            path = tmp_path / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w", newline="") as file:
                csv.writer(file).writerows(rows)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.* prompts are longer")
@pytest.mark.parametrize("task", ["mmlu", "mmlu_cloze"])
@pytest.mark.parametrize("shots", [0, 2])
def test_each_choice_scores_as_it_does_alone(folder, task, shots):
    model = tiny(context_length=128)
    results = evaluate(
        model, task, folder=folder, num_fewshot=shots, progress=False
    )
    for row in results.examples(task):
        for answer, found in zip(
            row["answers"], row["loglikelihoods"], strict=True
        ):
            before, after = encode_pair(model, row["prompt"], " " + answer)
            read = [*before, *after][-129:]
            alone = sum(naive_logprobs(model, read, len(after)))
            assert found == pytest.approx(alone, abs=1e-3)
        best = max(row["loglikelihoods"])
        assert row["loglikelihoods"][row["prediction"]["acc"]] == best
        right = row["prediction"]["acc"] == row["target"]
        assert row["correct"]["acc"] == right


def test_examples_are_the_first_of_the_subjects_dev_file(folder):
    options = Options(folder=folder, num_fewshot=2, limit=1)
    task = ChoiceTask.load(LETTERED, options)
    assert [task.id(n) for n in range(len(task))] == ["habits/0", "places/0"]
    places = [
        MultipleChoice("places", question, tuple(choices), letter)
        for question, *choices, letter in SUBJECTS["places"]
    ]
    expected = multiple_choice.prompt(LETTERED, places[0], places[:2])
    assert task.prompt(1) == expected


def test_more_examples_than_there_are_is_an_error(folder):
    with pytest.raises(ValueError, match="dev file of places has 3"):
        ChoiceTask.load(LETTERED, Options(folder=folder, num_fewshot=4))


def test_subjects_can_be_chosen(folder):
    options = Options(folder=folder, subjects=["places"])
    assert len(ChoiceTask.load(CLOZE, options)) == 3


def test_averages_weigh_subjects_by_size_or_all_alike(folder):
    model = tiny(context_length=128)
    results = evaluate(model, "mmlu", folder=folder, progress=False)
    found = results.tasks["mmlu"]
    by_subject = {
        subject: [
            row["correct"]["acc"]
            for row in found["examples"]
            if row["subject"] == subject
        ]
        for subject in SUBJECTS
    }
    shares = {s: sum(flags) / len(flags) for s, flags in by_subject.items()}
    assert found["subjects"]["places"]["acc"]["value"] == shares["places"]
    micro = (5 * shares["habits"] + 3 * shares["places"]) / 8
    assert results.score("mmlu", "acc") == pytest.approx(micro)
    macro = (shares["habits"] + shares["places"]) / 2
    assert found["macro"]["acc"] == pytest.approx(macro)
    assert found["metrics"]["acc"]["chance"] == 0.25


def test_what_a_small_context_cuts_is_counted_and_told(folder):
    model = tiny(context_length=32)
    with pytest.warns(UserWarning, match="8 of 8 prompts are longer"):
        results = evaluate(
            model, "mmlu", folder=folder, num_fewshot=2, progress=False
        )
    for row in results.examples("mmlu"):
        pairs = [encode_pair(model, row["prompt"], f" {a}") for a in "ABCD"]
        longest = max(len(before) + len(after) for before, after in pairs)
        assert row["cut"] == longest - 33  # the last is only predicted


def test_a_model_that_gives_nan_is_named_with_the_question(folder):
    model = tiny()
    with torch.no_grad():
        model.model.head_weight[300] = math.nan
    with pytest.raises(ArithmeticError, match="mmlu, item habits/0"):
        evaluate(model, "mmlu", folder=folder, progress=False)
