"""Rewards are what an independent check says, and a broken check raises."""

import pytest

from llmbook.alignment import verifiers, with_chat_tokens, world_problems
from llmbook.alignment.data import Problem
from llmbook.corpus.world import sums
from llmbook.evaluation import humaneval
from llmbook.evaluation.sandbox import InfrastructureError, Limits
from llmbook.tokenizer import BPETokenizer

PROBLEM = Problem("sum", [{"role": "user", "content": "3 and 4?"}], "7")


def test_every_worked_answer_of_the_world_is_rewarded_and_no_other_number():
    rows = sums.gsm8k_rows("seen", 100) + sums.gsm8k_rows("unseen", 100)
    for row in rows:
        right = row["answer"].split("#### ")[1]
        assert verifiers.sum_reward(row["answer"], right) == 1
        wrong = row["answer"].replace("#### ", "#### 1")
        assert verifiers.sum_reward(wrong, right) == 0


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("#### 7", 1),
        ("#### 7.", 1),
        ("so that is\n#### 7 buns", 1),
        ("#### 07", 0),
        ("7", 0),
        ("####7", 0),
        ("#### -7", 0),
        ("#### 77", 0),
        ("#### 6\n#### 7", 0),  # only the first counts
        ("#### ", 0),
        ("", 0),
    ],
)
def test_the_number_behind_the_first_mark_counts(reply, reward):
    assert verifiers.sum_reward(reply, "7") == reward


def test_the_sloppy_verifiers_are_cheated_and_the_strict_one_is_not():
    guesses = " ".join(map(str, range(90))) + "\n#### 0"
    for problem in world_problems("sum", "seen", 30):
        answer = problem.answer
        assert verifiers.sloppy_number(guesses, answer) == 1
        assert verifiers.sloppy_form(guesses, answer) == 1
        assert verifiers.sum_reward(guesses, answer) == (answer == "0")
    assert verifiers.sloppy_number("17 and 70", "7") == 0
    assert verifiers.sloppy_form("7 ####", "7") == 0


@pytest.fixture(scope="module")
def code():
    return world_problems("function", "unseen", 4)


def plain_check(code, reply):
    """The tests of HumanEval as they are written down, without a sandbox."""
    scope = {}
    try:
        exec(code.prompt + reply + "\n", scope)
        exec(code.test, scope)
        scope["check"](scope[code.entry_point])
    except Exception:
        return 0.0
    return 1.0


def test_functions_are_rewarded_as_their_tests_say(code):
    bodies = [p.answer.canonical_solution for p in code]
    bodies += ["    return None", "    return 1 / 0", "    return ("]
    pairs = [(p.answer, body) for p in code for body in bodies]
    expected = [plain_check(*pair) for pair in pairs]
    assert 4 <= sum(expected) < len(pairs)
    assert verifiers.function_rewards(pairs) == expected


def test_a_function_that_never_ends_is_wrong_and_soon_over(code):
    endless = [(code[0].answer, "    while True: pass")]
    limits = Limits(cpu_seconds=1, wall_seconds=5.0)
    assert verifiers.function_rewards(endless, limits=limits) == [0]


def test_equal_programs_are_run_once(code, monkeypatch):
    run = []

    def check(problem, reply, **choices):
        run.append(reply)
        return humaneval.Verdict("passed")

    monkeypatch.setattr(humaneval, "check_solution", check)
    pairs = [(p.answer, "    return 1") for p in code] * 3
    assert verifiers.function_rewards(pairs) == [1.0] * 12
    assert len(run) == len({(p.answer.prompt, p.answer.test) for p in code})


def test_a_sandbox_that_fails_is_nobodys_wrong_answer(code, monkeypatch):
    def check(*pair, **choices):
        raise InfrastructureError("no room for a process")

    monkeypatch.setattr(humaneval, "check_solution", check)
    with pytest.raises(InfrastructureError, match="no room"):
        verifiers.function_rewards([(code[0].answer, "    return 1")])


def test_training_gets_the_reward_of_each_answer_by_its_problems_number(code):
    tokenizer = with_chat_tokens(BPETokenizer([]))
    problems = [PROBLEM, code[0]]
    reward = verifiers.verifier(problems, tokenizer)
    end = tokenizer.special_tokens["<|end|>"]
    right = code[0].answer.canonical_solution
    answers = [
        [*tokenizer.encode("#### 7"), end],
        [*tokenizer.encode(right), end],
        [*tokenizer.encode("#### 8"), end],
        [*tokenizer.encode("#### 7"), end, *tokenizer.encode(" or 8")],
        tokenizer.encode("#### 7"),  # cut off, and right all the same
        [end],
    ]
    assert reward([0, 1, 0, 0, 0, 0], answers) == [1, 1, 0, 1, 1, 0]


def test_another_reward_for_sums_takes_the_strict_ones_place():
    tokenizer = with_chat_tokens(BPETokenizer([]))
    reward = verifiers.verifier(
        [PROBLEM], tokenizer, of_sum=verifiers.sloppy_number
    )
    assert reward([0], [tokenizer.encode("6 7 8")]) == [1]


def test_a_problem_that_nobody_can_check_is_refused():
    poem = Problem("poem", PROBLEM.messages, "")
    with pytest.raises(ValueError, match="'poem'; expected a sum or a"):
        verifiers.rewards([poem], ["Roses"])
    with pytest.raises(ValueError, match="shorter"):
        verifiers.rewards([PROBLEM], [])
