"""HumanEval: programs that a model wrote, run and tested; pass@k.

Chen et al. 2021, "Evaluating Large Language Models Trained on Code". Prompts,
stop strings and what counts as passed are those of lm-evaluation-harness's
task ``humaneval`` (0.4), whose list of stop strings is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from llmbook.corpus.benchmarks import CodeProblem
from llmbook.evaluation.models import cut_at
from llmbook.evaluation.sandbox import Limits, Verdict, best_tier, check

# Where a completion ends: the paper's section 3.2, and the harness's.
STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
# The harness allows three seconds on the clock. Here they are processor
# time, so that a busy machine makes no right program wrong, and the clock
# only ends those that sleep.
LIMITS = Limits(cpu_seconds=3, wall_seconds=10.0)


def program_of(problem: CodeProblem, completion: str) -> str:
    """The source of a whole program: the prompt and what continues it.

    The completion is cut at the first stop string.
    """
    return problem.prompt + cut_at(completion, STOP_STRINGS) + "\n"


def check_solution(
    problem: CodeProblem,
    completion: str,
    *,
    tier: str | None = None,
    limits: Limits = LIMITS,
) -> Verdict:
    """Whether a completion makes the problem's function right.

    Three things differ from the harness, which runs program and tests in
    one process: functions of the prompt that the tests use are the prompt's
    own; the program finds Python's standard library alone, and may start no
    thread and no process; and an answer is plain data, so that a
    ``Decimal`` or a ``range`` is not taken for the number or list it equals.

    Args:
        completion: what the model wrote after the prompt; whatever follows
            a stop string is cut off.
        tier: of the sandbox; None takes the strongest.

    Raises:
        ValueError: the problem itself is no Python.
        InfrastructureError: the sandbox failed; the completion is neither
            right nor wrong.
    """
    _check_problem(problem)
    return check(
        program_of(problem, completion),
        problem.entry_point,
        problem.test,
        helpers=problem.prompt,
        tier=tier,
        limits=limits,
    )


def _check_problem(problem: CodeProblem) -> None:
    for what in ("prompt", "test"):
        try:
            compile(getattr(problem, what), what, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise ValueError(
                f"the {what} of {problem.task_id} is no Python: {error}. "
                "Expected a function that ends with its docstring, and "
                "tests that define check(candidate)."
            ) from None


def check_many(
    solutions: Iterable[tuple[CodeProblem, str]],
    *,
    workers: int = 2,
    tier: str | None = None,
    limits: Limits = LIMITS,
) -> Iterator[Verdict]:
    """The verdicts on (problem, completion) pairs, in their order.

    ``workers`` of them are checked at once; each in processes of its own.
    Errors are those of :func:`check_solution`.
    """
    tier = tier or best_tier()
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(
            lambda pair: check_solution(*pair, tier=tier, limits=limits),
            solutions,
        )


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of ``k`` samples at least one passes.

    Of ``n`` samples drawn, ``c`` passed. The mean over all choices of k
    among the n is an unbiased estimate, 1 - C(n - c, k) / C(n, k), written
    as a product so that no number grows large (Chen et al. 2021, section
    2.1, equation 1).

    >>> pass_at_k(n=4, c=1, k=2)
    0.5

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(
            f"n={n}, c={c}, k={k}; expected 0 <= c <= n and 1 <= k <= n: "
            "for pass@k draw at least k samples of each problem."
        )
    if n - c < k:
        return 1.0  # no k of them can all be wrong
    return 1.0 - math.prod(1 - k / i for i in range(n - c + 1, n + 1))
