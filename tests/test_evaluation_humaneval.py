"""HumanEval: completions cut, run and counted as in the field."""

import inspect
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbook.corpus.benchmarks import CodeProblem, load_humaneval
from llmbook.corpus.world.functions import humaneval_rows
from llmbook.evaluation import humaneval, sandbox
from llmbook.evaluation.humaneval import (
    LIMITS,
    STOP_STRINGS,
    check_many,
    check_solution,
    pass_at_k,
    program_of,
)
from llmbook.evaluation.models import cut_at
from llmbook.evaluation.sandbox import InfrastructureError, Limits, Verdict

SHIFT = CodeProblem(
    task_id="Shift/0",
    prompt=(
        "import string\n\n\n"
        "def encode(word):\n"
        "    return ''.join(chr(ord(c) + 1) for c in word)\n\n\n"
        "def decode(word):\n"
        '    """Take back what encode did."""\n'
    ),
    entry_point="decode",
    canonical_solution="    return ''.join(chr(ord(c) - 1) for c in word)\n",
    test=(
        "def check(candidate):\n"
        "    for word in ('', 'abc', 'moon'):\n"
        "        assert candidate(encode(word)) == word\n"
        "        assert decode(encode(word)) == word\n"
    ),
)


def world(count):
    return [CodeProblem(**row) for row in humaneval_rows("unseen", count)]


# --- pass@k ------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_mean_over_all_choices_of_k(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * c + [False] * (n - c)
        chosen = [any(some) for some in itertools.combinations(samples, k)]
        expected = sum(chosen) / len(chosen)
        assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("n", [200, 10_000])
def test_pass_at_k_stays_exact_where_the_binomials_are_huge(n):
    for c, k in itertools.product((0, 1, n // 3, n - 1, n), (1, 10, n)):
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


def test_one_minus_the_chance_that_k_fail_is_biased_but_this_is_not():
    """Chen et al. 2021, appendix A: the plain estimate is too low."""
    n, k, right = 5, 3, Fraction(1, 4)
    chance = [comb(n, c) * right**c * (1 - right) ** (n - c) for c in range(6)]
    ours = sum(float(p) * pass_at_k(n, c, k) for c, p in enumerate(chance))
    plain = sum(
        p * (1 - (1 - Fraction(c, n)) ** k) for c, p in enumerate(chance)
    )
    truth = 1 - (1 - right) ** k
    assert ours == pytest.approx(float(truth))
    assert float(plain) < float(truth) - 0.01


@pytest.mark.parametrize(
    ("n", "c", "k"), [(4, 2, 5), (4, 5, 1), (4, -1, 1), (4, 2, 0), (0, 0, 1)]
)
def test_pass_at_k_refuses_what_cannot_be(n, c, k):
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}; expected"):
        pass_at_k(n, c, k)


# --- where a completion ends -------------------------------------------------


@given(st.lists(st.sampled_from([*STOP_STRINGS, "\n", "x", "#", "def"])))
def test_a_completion_is_cut_as_the_harness_cuts_it(parts):
    text = "".join(parts)
    cut = text
    for term in STOP_STRINGS:  # one after the other, as it does
        cut = cut.split(term)[0]
    assert cut_at(text, STOP_STRINGS) == cut


def test_what_follows_a_function_is_not_run():
    problem = world(1)[0]
    completion = problem.canonical_solution + "\nprint(1 / 0)\n"
    assert check_solution(problem, completion).passed
    assert "1 / 0" not in program_of(problem, completion)


# --- verdicts ----------------------------------------------------------------


def test_a_function_of_the_world_passes_and_wrong_bodies_do_not():
    for problem in world(6):
        right = check_solution(problem, problem.canonical_solution)
        assert right == Verdict("passed")
        for body in ("    pass\n", "    return -17\n", "    return '?'\n"):
            assert check_solution(problem, body).status == "wrong"


def test_the_tests_have_the_names_of_the_prompt_and_of_the_function():
    assert check_solution(SHIFT, SHIFT.canonical_solution).passed
    assert check_solution(SHIFT, "    return word\n").status == "wrong"


def test_a_helper_that_the_program_replaces_stays_the_prompts_own():
    body = "    return ''\n\nencode = lambda word: ''\n"
    assert check_solution(SHIFT, body).status == "wrong"


def test_a_completion_that_is_no_python_is_an_error():
    verdict = check_solution(SHIFT, "    return (\n")
    assert verdict.status == "error" and "SyntaxError" in verdict.detail


def test_annotations_mean_what_they_mean_in_a_program_of_its_own():
    """A dataclass looks at them, and looks itself up in its module."""
    body = """\
    from dataclasses import dataclass, fields

    @dataclass
    class Pair:
        left: "str"
        right: int = 0

    assert [field.type for field in fields(Pair)] == ["str", int]
    return ''.join(chr(ord(Pair(c).left) - 1) for c in word)
"""
    assert check_solution(SHIFT, body).passed


@pytest.mark.parametrize("what", ["prompt", "test"])
def test_a_problem_that_is_no_python_is_refused(what):
    fields = {**vars(SHIFT), what: "def f(:"}
    with pytest.raises(ValueError, match=f"{what} of Shift/0 is no Python"):
        check_solution(CodeProblem(**fields), "    pass\n")


def test_many_are_checked_in_order_and_two_at_a_time(monkeypatch):
    most, now, lock = [0], [0], threading.Lock()
    together = threading.Barrier(2, timeout=20)
    real = humaneval.check

    def counting(*arguments, **keywords):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait()
        try:
            return real(*arguments, **keywords)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(humaneval, "check", counting)
    bodies = [SHIFT.canonical_solution, "    pass\n", "    1 / 0\n", "    (\n"]
    verdicts = check_many([(SHIFT, body) for body in bodies])
    assert [v.status for v in verdicts] == [
        "passed",
        "wrong",
        "error",
        "error",
    ]
    assert most[0] == 2


def test_a_sandbox_that_fails_counts_for_nobody(monkeypatch):
    def fails(*arguments, **keywords):
        raise InfrastructureError("no processes left")

    monkeypatch.setattr(humaneval, "check", fails)
    with pytest.raises(InfrastructureError):
        list(check_many([(SHIFT, "    pass\n")]))


def test_a_sleeper_is_ended_by_the_clock():
    body = "    import time\n    time.sleep(60)\n"
    limits = Limits(wall_seconds=0.5)
    assert check_solution(SHIFT, body, limits=limits).status == "timeout"


# --- all of HumanEval --------------------------------------------------------

SPOIL = """

def spoiled(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (list, tuple)):
        return value + type(value)([0])
    return {**value, "x": 0} if isinstance(value, dict) else 0

right, NAME = NAME, lambda *arguments: spoiled(right(*arguments))
"""


def first_argument(problem):
    names = {}
    exec(problem.prompt, names)
    parameters = inspect.signature(names[problem.entry_point]).parameters
    return f"    return {next(iter(parameters))}\n"


def spoiled(problem):
    """The right answer, of the right type, changed a little."""
    tail = SPOIL.replace("NAME", problem.entry_point)
    return problem.canonical_solution + tail


BODIES = {
    "right": lambda problem: problem.canonical_solution,
    "nothing": lambda problem: "    pass\n",
    "first argument": first_argument,
    "almost right": spoiled,
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("kind", BODIES)
def test_all_of_humaneval_passes_with_the_right_body_alone(kind):
    problems = load_humaneval()
    assert len(problems) == 164

    def verdict(problem):
        return sandbox.check(
            problem.prompt + BODIES[kind](problem),
            problem.entry_point,
            problem.test,
            helpers=problem.prompt,
            limits=LIMITS,
        )

    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(verdict, problems))
    expected = "passed" if kind == "right" else "wrong"
    others = [
        (problem.task_id, found)
        for problem, found in zip(problems, verdicts, strict=True)
        if found.status != expected
    ]
    assert others == []


@pytest.mark.data
def test_a_constant_passes_where_a_problem_has_a_single_test():
    """No fault of the sandbox: HumanEval/34 asks one question only."""
    unique = load_humaneval()[34]
    body = "    return [0, 2, 3, 5, 9, 123]\n"
    assert unique.test.count("assert") == 1
    assert check_solution(unique, body).passed
