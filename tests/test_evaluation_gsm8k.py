"""Word problems: what is asked, and what counts as an answer."""

import json
import random

import pytest

from llmbook.corpus.benchmarks import WordProblem
from llmbook.evaluation import gsm8k
from llmbook.evaluation.harness import evaluate
from llmbook.evaluation.tasks import Options
from tests.evaluated import tiny

POOL = [
    WordProblem(f"{n} and {n}?", f"{n} + {n} = {2 * n}\n#### {2 * n}")
    for n in range(9)
]


def test_a_prompt_is_the_harnesss_to_the_letter():
    assert gsm8k.prompt(POOL[5], POOL[1:3]) == (
        "Question: 1 and 1?\nAnswer: 1 + 1 = 2\n#### 2\n\n"
        "Question: 2 and 2?\nAnswer: 2 + 2 = 4\n#### 4\n\n"
        "Question: 5 and 5?\nAnswer:"
    )


def test_examples_are_drawn_anew_for_each_problem_from_one_generator():
    drawn = gsm8k.drawn_shots(POOL, 5)
    source = random.Random(1234)  # the harness's default
    for _ in range(4):
        assert next(drawn) == source.sample(POOL, 5)
    assert next(gsm8k.drawn_shots(POOL, 5, seed=1)) != next(
        gsm8k.drawn_shots(POOL, 5)
    )


def test_more_examples_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="there are 9 to draw from"):
        next(gsm8k.drawn_shots(POOL, 10))


# What the filters of the harness's task gsm8k find, worked by hand.
@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" 2 * 3 = 6\n#### 6", "6", "6"),
        (" #### 6\n\n#### 7", "6", "7"),  # the first; the last
        (" ####6", "[invalid]", "6"),  # the blank is part of the pattern
        (" #### -1,200.50 dollars", "-1,200.50", "-1,200.50"),
        (" #### $18", "[invalid]", "$18"),
        (" It is 18.", "[invalid]", "18."),
        (" It is 8 .", "[invalid]", "8"),
        (" Eight...", "[invalid]", "..."),  # dots alone look like a number
        (" Eight.", "[invalid]", "[invalid]"),
        ("", "[invalid]", "[invalid]"),
    ],
)
def test_answers_are_found_as_the_harness_finds_them(text, strict, flexible):
    assert gsm8k.strict_answer(text) == strict
    assert gsm8k.flexible_answer(text) == flexible


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("1200", True),
        ("$1,200.", True),
        ("1,200.", True),
        ("1200.0", False),  # compared as text
        ("12.00", False),
        ("[invalid]", False),
        ("#### 1200", True),
    ],
)
def test_an_answer_is_compared_without_commas_dollars_and_the_stop(
    answer, right
):
    solution = "They have 2 * 600 = 1,200 buns.\n#### 1,200"
    assert gsm8k.exact_match(answer, solution) == right


def test_case_does_not_matter():
    assert gsm8k.exact_match("NONE", "So it is\n#### None")


# --- as a task -------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for split, problems in (("train", POOL), ("test", POOL[:4])):
        path = tmp_path / "gsm8k" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{"question": p.question, "answer": p.answer} for p in problems]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


class Parrot(type(tiny())):
    """A model that writes what it is told to."""

    def __init__(self, written, **choices):
        super().__init__(tiny(**choices).model, tiny().tokenizer)
        self.written, self.asked = list(written), []

    def generate(self, prompts, max_new_tokens, stop=(), **choices):
        self.asked.append((prompts, max_new_tokens, tuple(stop)))
        return [self.written.pop(0) for _ in prompts]


def test_what_is_written_is_judged_either_way(folder):
    model = Parrot([" 0 + 0\n#### 0", " it is 2", " 4 #### 5", " no"])
    with pytest.warns(UserWarning, match="4 of 4 prompts"):
        results = evaluate(model, "gsm8k", folder=folder, progress=False)
    assert results.score("gsm8k", "strict") == 1 / 4
    assert results.score("gsm8k", "flexible") == 2 / 4
    rows = results.examples("gsm8k")
    assert rows[2]["extracted"] == {"strict": "5", "flexible": "5"}
    assert rows[3]["correct"] == {"strict": False, "flexible": False}
    [(prompts, most, stop)] = model.asked
    assert stop == ("Question:", "</s>", "<|im_end|>")
    assert most == 32  # half the context, as 256 do not fit
    assert rows[1]["cut"] == len(prompts[1]) + 32 - 64


def test_a_large_context_takes_the_harnesss_256_tokens(folder):
    model = Parrot(["", "", "", ""], context_length=600)
    evaluate(model, "gsm8k", folder=folder, progress=False)
    assert model.asked[0][1] == 256


def test_prompts_have_five_examples_and_limits_take_the_first(folder):
    source, task = (
        random.Random(1234),
        gsm8k.WordProblemTask.load(Options(folder=folder, limit=3)),
    )
    assert len(task) == 3
    assert [list(row) for row in task.shots] == [
        source.sample(POOL, 5) for _ in range(3)
    ]


def test_a_model_without_room_for_a_prompt_is_refused(folder):
    with pytest.raises(ValueError, match=r"gsm8k, items 0 to 3: .*Set"):
        evaluate(
            tiny(), "gsm8k", folder=folder, max_new_tokens=64, progress=False
        )
