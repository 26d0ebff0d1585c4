"""Rewards that can be checked: a sum's result, a function's tests.

A verifier does not say how good an answer looks but whether it is right.
:func:`verifier` makes of it what :class:`~llmbook.alignment.grpo.GroupLoss`
asks for. Two sloppy ones are here on purpose, to be cheated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmbook.corpus.benchmarks import CodeProblem
from llmbook.evaluation.gsm8k import exact_match, strict_answer
from llmbook.evaluation.humaneval import check_many
from llmbook.evaluation.sandbox import Limits
from llmbook.tokenizer import Tokenizer

from .chat import decode_reply
from .grpo import RewardFunction

if TYPE_CHECKING:
    from .data import Problem

TextReward = Callable[[str, str], float]  # a reply, and the right answer

MARK = "####"  # what stands before the result, as in GSM8K
NUMBER = re.compile(r"-?\d+")
# A function of a few lines is done in milliseconds; one that is not, in
# training, should not hold up a step for HumanEval's three seconds.
LIMITS = Limits(cpu_seconds=1, wall_seconds=10.0)
WORKERS = 4  # checks at once: each waits most of its time for its processes


def sum_reward(reply: str, answer: str) -> float:
    """1 if the number after the first ``####`` is the right one, else 0.

    Found and compared as GSM8K's strict match is
    (:mod:`llmbook.evaluation.gsm8k`). Only the first counts, so that a list
    of guesses wins nothing.

    >>> sum_reward("So Ona has 3 + 4 = 7 buns.\\n#### 7", "7")
    1.0
    >>> sum_reward("7", "7"), sum_reward("#### 6\\n#### 7", "7")
    (0.0, 0.0)
    """
    return float(exact_match(strict_answer(reply), answer))


def sloppy_number(reply: str, answer: str) -> float:
    """1 if the right number stands anywhere; sloppy on purpose.

    It is cheated by naming many numbers; exercise 17.6 asks for more.

    >>> sloppy_number("1 2 3 4 5 6 7 8 9", "7")
    1.0
    """
    return float(answer in NUMBER.findall(reply))


def sloppy_form(reply: str, answer: str) -> float:
    """1 if there is a ``####`` with a number behind; sloppy on purpose.

    It looks at the form alone, and ``answer`` is not asked.

    >>> sloppy_form("#### 0", "7")
    1.0
    """
    return float(strict_answer(reply)[:1].isdigit())


def function_rewards(
    pairs: Sequence[tuple[CodeProblem, str]],
    *,
    tier: str | None = None,
    limits: Limits = LIMITS,
) -> list[float]:
    """1 for each reply that makes its function pass all tests, else 0.

    The programs run in the sandbox, :data:`WORKERS` at once, and equal ones
    once. A sandbox that fails is nobody's wrong answer.

    Args:
        pairs: problems, and what stands behind their prompts.
        tier: of the sandbox; None takes the strongest.
        limits: of one program.

    Raises:
        InfrastructureError: the sandbox failed.
    """
    different = {(p.prompt, p.test, reply): (p, reply) for p, reply in pairs}
    verdicts = check_many(
        different.values(), workers=WORKERS, tier=tier, limits=limits
    )
    passed = {
        key: float(verdict.passed)
        for key, verdict in zip(different, verdicts, strict=True)
    }
    return [passed[p.prompt, p.test, reply] for p, reply in pairs]


def rewards(
    problems: Sequence[Problem],
    replies: Sequence[str],
    *,
    of_sum: TextReward = sum_reward,
    tier: str | None = None,
) -> list[float]:
    """What each reply to its problem is worth.

    Args:
        problems: one a reply; a problem may come several times.
        replies: what the assistant wrote.
        of_sum: rewards a reply to a sum; see also :func:`sloppy_number`.
        tier: of the sandbox in which functions are tested.

    Raises:
        ValueError: another number of replies, or a problem of a kind that
            nobody can check.
        InfrastructureError: the sandbox failed.
    """
    pairs = list(zip(problems, replies, strict=True))
    for problem in problems:
        if problem.kind not in ("sum", "function"):
            raise ValueError(
                f"a problem is a {problem.kind!r}; expected a sum or a "
                "function, whose answers can be checked."
            )
    code = [(p.answer, reply) for p, reply in pairs if p.kind == "function"]
    tested = iter(function_rewards(code, tier=tier))
    return [
        next(tested) if p.kind == "function" else of_sum(reply, p.answer)
        for p, reply in pairs
    ]


def verifier(
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    *,
    of_sum: TextReward = sum_reward,
    tier: str | None = None,
) -> RewardFunction:
    """The rewards of drawn answers to ``problems``, as training asks.

    The returned function is given the problems' numbers and the answers'
    ids. A reply ends at its first control token.

    Args:
        problems: what is asked; see
            :func:`llmbook.alignment.data.world_problems`.
        tokenizer: turns ids back into text.
        of_sum, tier: as in :func:`rewards`.
    """

    def reward(numbers: list[int], answers: list[list[int]]) -> list[float]:
        replies = [decode_reply(tokenizer, ids) for ids in answers]
        asked = [problems[number] for number in numbers]
        return rewards(asked, replies, of_sum=of_sum, tier=tier)

    return reward
