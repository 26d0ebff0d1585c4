"""Exercises of the chapter on rewards that can be verified."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence

from llmbook.exercises import Exercise, register

FLOOR = 1e-4  # what the chapter adds to a group's standard deviation
LOW, HIGH = 0.2, 0.28  # DAPO's two limits


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    one, other = [float(x) for x in one], [float(x) for x in other]
    return len(one) == len(other) and all(map(_near, one, other))


# 17.1 -------------------------------------------------------------------


def gradient(p: Sequence[float], rewards: Sequence[float]) -> list[float]:
    """How the expected reward changes with each logit."""
    expected = sum(x * r for x, r in zip(p, rewards, strict=True))
    return [x * (r - expected) for x, r in zip(p, rewards, strict=True)]


def _no_expectation(p, rewards):
    return [x * r for x, r in zip(p, rewards, strict=True)]


def _plain_mean(p, rewards):
    mean = sum(rewards) / len(rewards)
    return [x * (r - mean) for x, r in zip(p, rewards, strict=True)]


def _not_weighted(p, rewards):
    expected = sum(x * r for x, r in zip(p, rewards, strict=True))
    return [r - expected for r in rewards]


def _downhill(p, rewards):
    return [-x for x in gradient(p, rewards)]


def _of_probability(p, rewards):
    return list(rewards)


GRADIENT_HINTS = {
    _no_expectation: (
        "p R alone: raising one logit lowers all the other probabilities, "
        "and what those would have earned is lost. Subtract the expected "
        "reward first."
    ),
    _plain_mean: (
        "You subtracted the plain mean of the rewards. The expected reward "
        "weighs each by its probability."
    ),
    _not_weighted: (
        "R minus the expected reward is right for a choice that was drawn; "
        "over all choices each counts with its probability."
    ),
    _downhill: (
        "Your sign is turned: that is the gradient of a loss. Asked is how "
        "the expected reward grows."
    ),
    _of_probability: (
        "That is the derivative by the probabilities. The logits move all "
        "of these at once, through the softmax."
    ),
}
GRADIENT_CASES = (
    ((0.5, 0.3, 0.2), (0.0, 1.0, 4.0)),
    ((0.25, 0.25, 0.25, 0.25), (1.0, 0.0, 0.0, 0.0)),
    ((0.9, 0.1), (2.0, -3.0)),
)


def _check_gradient(answer) -> str | None:
    case = GRADIENT_CASES[0]
    got = answer(*case)
    for mistake, message in GRADIENT_HINTS.items():
        if _same(got, mistake(*case)):
            return message
    for p, rewards in GRADIENT_CASES:
        wanted = gradient(p, rewards)
        if not _same(answer(p, rewards), wanted):
            return (
                f"For probabilities {p} and rewards {rewards} expected "
                f"{[round(x, 4) for x in wanted]}."
            )
    return None


register(
    Exercise(
        "17.1",
        "The gradient, all choices counted",
        _check_gradient,
        gradient,
        {
            "nothing subtracted": _no_expectation,
            "the plain mean": _plain_mean,
            "not weighted": _not_weighted,
            "downhill": _downhill,
            "by the probabilities": _of_probability,
        },
    )
)


# 17.2 -------------------------------------------------------------------


def advantages(rewards: Sequence[float]) -> list[float]:
    """Rewards of one group, less their mean, over their spread."""
    mean = statistics.mean(rewards)
    spread = statistics.stdev(rewards) + FLOOR  # stdev divides by G - 1
    return [(reward - mean) / spread for reward in rewards]


def _population(rewards):
    mean = statistics.mean(rewards)
    spread = statistics.pstdev(rewards) + FLOOR
    return [(r - mean) / spread for r in rewards]


def _variance(rewards):
    mean = statistics.mean(rewards)
    spread = statistics.variance(rewards) + FLOOR
    return [(r - mean) / spread for r in rewards]


def _only_the_mean(rewards):
    mean = statistics.mean(rewards)
    return [r - mean for r in rewards]


def _not_centred(rewards):
    spread = statistics.stdev(rewards) + FLOOR
    return [r / spread for r in rewards]


def _no_floor(rewards):
    mean, spread = statistics.mean(rewards), statistics.stdev(rewards)
    return [(r - mean) / (spread or math.nan) for r in rewards]


def _best_only(rewards):
    return [float(r == max(rewards)) for r in rewards]


ADVANTAGE_HINTS = {
    _population: (
        "You divided by G inside the square root. The sample standard "
        "deviation has G − 1 there, as in TRL and in the chapter."
    ),
    _variance: "You divided by the variance: take its square root first.",
    _only_the_mean: (
        "That is Dr. GRPO's advantage. Here it is divided by the group's "
        "standard deviation plus 0.0001 as well."
    ),
    _not_centred: (
        "You did not subtract the mean, so a poor answer is pushed up too "
        "as long as its reward is above zero."
    ),
    _best_only: (
        "That rewards the best alone. Subtract the mean: those below it "
        "have to be pushed down."
    ),
}


def _check_advantages(answer) -> str | None:
    case = (1.0, 0.0, 0.0, 3.0)
    got = answer(case)
    for mistake, message in ADVANTAGE_HINTS.items():
        if _same(got, mistake(case)):
            return message
    try:
        equal = list(answer((1.0, 1.0, 1.0)))
    except ZeroDivisionError:
        equal = [math.nan]
    if any(x != x for x in equal):
        return (
            "Equal rewards give 0 / 0. Add 0.0001 to the standard deviation; "
            "then such a group teaches nothing, as it should."
        )
    for rewards in (case, (1.0, 1.0, 1.0), (0.0, 1.0), (2.5, -1.0, 0.5)):
        wanted = advantages(rewards)
        if not _same(answer(rewards), wanted):
            return (
                f"For the rewards {rewards} expected "
                f"{[round(x, 4) for x in wanted]}."
            )
    return None


register(
    Exercise(
        "17.2",
        "A group compares itself",
        _check_advantages,
        advantages,
        {
            "G in the denominator": _population,
            "the variance": _variance,
            "not divided": _only_the_mean,
            "not centred": _not_centred,
            "no floor": _no_floor,
            "the best alone": _best_only,
        },
    )
)


# 17.3 -------------------------------------------------------------------


def silent(p: float, answers: int) -> float:
    """How often all answers to a prompt are rewarded alike."""
    return p**answers + (1 - p) ** answers


def _all_wrong(p, answers):
    return (1 - p) ** answers


def _all_right(p, answers):
    return p**answers


def _speaks(p, answers):
    return 1 - silent(p, answers)


def _multiplied(p, answers):
    return p**answers * (1 - p) ** answers


def _neighbours(p, answers):
    return silent(p, answers - 1)


SILENT_HINTS = {
    _all_wrong: "All wrong is one case. All right teaches as little: add it.",
    _all_right: "All right is one case. All wrong teaches as little: add it.",
    _speaks: "That is how often a group does teach something. Take 1 minus.",
    _multiplied: (
        "You multiplied the two cases. They exclude each other, so their "
        "probabilities add."
    ),
    _neighbours: "There are G answers, each right with probability p.",
}


def _check_silent(answer) -> str | None:
    case = (0.3, 4)
    got = float(answer(*case))
    for mistake, message in SILENT_HINTS.items():
        if _near(got, mistake(*case)):
            return message
    for p, answers in (case, (0.0, 8), (1.0, 2), (0.5, 16), (0.01, 64)):
        wanted = silent(p, answers)
        if not _near(float(answer(p, answers)), wanted):
            return f"For p = {p} and G = {answers} expected {wanted:.4f}."
    return None


register(
    Exercise(
        "17.3",
        "Prompts that teach nothing",
        _check_silent,
        silent,
        {
            "all wrong": _all_wrong,
            "all right": _all_right,
            "those that teach": _speaks,
            "multiplied": _multiplied,
            "one too few": _neighbours,
        },
    )
)


# 17.4 -------------------------------------------------------------------


def pull(ratio: float, advantage: float) -> float:
    """The derivative of the clipped objective by ln p."""
    gone_far = ratio > 1 + HIGH if advantage > 0 else ratio < 1 - LOW
    return 0.0 if gone_far else ratio * advantage


def _both_sides(ratio, advantage):
    inside = 1 - LOW <= ratio <= 1 + HIGH
    return ratio * advantage if inside else 0.0


def _never(ratio, advantage):
    return ratio * advantage


def _by_ratio(ratio, advantage):
    return 0.0 if pull(ratio, advantage) == 0 else advantage


def _wrong_ends(ratio, advantage):
    gone = ratio < 1 - LOW if advantage > 0 else ratio > 1 + HIGH
    return 0.0 if gone else ratio * advantage


def _value(ratio, advantage):
    clipped = min(max(ratio, 1 - LOW), 1 + HIGH)
    return min(ratio * advantage, clipped * advantage)


def _one_limit(ratio, advantage):
    gone = ratio > 1 + LOW if advantage > 0 else ratio < 1 - LOW
    return 0.0 if gone else ratio * advantage


PULL_CASES = tuple(
    (ratio, advantage)
    for ratio in (0.5, 0.9, 1.0, 1.25, 1.4)
    for advantage in (2.0, -1.0)
)
PULL_HINTS = {
    _both_sides: (
        "You stop the gradient outside the band whatever the advantage is. "
        "The minimum stops it on one side alone: a good answer that has "
        "become rarer must be able to come back."
    ),
    _never: (
        "You never stop. Where the minimum takes the clipped term, nothing "
        "depends on p any more and the derivative is 0."
    ),
    _by_ratio: (
        "That is the derivative by the ratio. By ln p it is the ratio times "
        "as large, for the ratio is its own derivative by ln p."
    ),
    _wrong_ends: (
        "You stop at the wrong ends: held back is what has already gone far "
        "in the direction that its advantage asks for."
    ),
    _value: "That is the objective's value. Asked is its derivative by ln p.",
    _one_limit: (
        "You used 0.2 on both sides. The upper limit is 1.28 here, as in DAPO."
    ),
}


def _check_pull(answer) -> str | None:
    got = [float(answer(*case)) for case in PULL_CASES]
    for mistake, message in PULL_HINTS.items():
        if _same(got, [mistake(*case) for case in PULL_CASES]):
            return message
    for case, found in zip(PULL_CASES, got, strict=True):
        if not _near(found, pull(*case)):
            return (
                f"For a ratio of {case[0]} and an advantage of {case[1]} "
                f"expected {pull(*case)}, got {found}."
            )
    return None


register(
    Exercise(
        "17.4",
        "How hard is the pull?",
        _check_pull,
        pull,
        {
            "stopped on both sides": _both_sides,
            "never stopped": _never,
            "by the ratio": _by_ratio,
            "the wrong ends": _wrong_ends,
            "the value": _value,
            "one limit for both": _one_limit,
        },
    )
)


# 17.5 -------------------------------------------------------------------


def divergence(now: float, reference: float) -> float:
    """k3 of one token, from its two probabilities."""
    ratio = reference / now
    return ratio - 1 - math.log(ratio)


def _first(now, reference):
    return math.log(now / reference)


def _second(now, reference):
    return 0.5 * math.log(now / reference) ** 2


def _turned(now, reference):
    return divergence(reference, now)


def _no_one(now, reference):
    return reference / now - math.log(reference / now)


def _sign(now, reference):
    return -divergence(now, reference)


def _plus_log(now, reference):
    ratio = reference / now
    return ratio - 1 + math.log(ratio)


DIVERGENCE_HINTS = {
    _first: (
        "That is k1: right on average, and negative for every token that "
        "the reference likes better."
    ),
    _second: (
        "That is k2: never negative, but its mean is not the divergence."
    ),
    _turned: (
        "Your ratio is turned. The token was drawn by the model of now, so "
        "its probability stands below: r = reference / now."
    ),
    _no_one: ("The −1 is missing: where both agree the divergence must be 0."),
    _sign: "Your sign is turned: k3 is never negative.",
    _plus_log: "It is r − 1 − ln r: the logarithm is subtracted.",
}


def _check_divergence(answer) -> str | None:
    case = (0.5, 0.2)
    got = float(answer(*case))
    for mistake, message in DIVERGENCE_HINTS.items():
        if _near(got, mistake(*case)):
            return message
    for now, reference in (case, (0.3, 0.3), (0.01, 0.4), (0.9, 0.001)):
        wanted = divergence(now, reference)
        if not _near(float(answer(now, reference)), wanted):
            return (
                f"For {now} now and {reference} by the reference expected "
                f"{wanted:.4f}."
            )
    return None


register(
    Exercise(
        "17.5",
        "One token's divergence",
        _check_divergence,
        divergence,
        {
            "k1": _first,
            "k2": _second,
            "turned round": _turned,
            "without the 1": _no_one,
            "sign turned": _sign,
            "the logarithm added": _plus_log,
        },
    )
)


# 17.6 -------------------------------------------------------------------

Reward = Callable[[str, str], float]
LINE = re.compile(r"^#### (-?\d+)$")


def strict_reward(reply: str, answer: str) -> float:
    """1 if the reply's only final line, its last, is the right number."""
    lines = reply.rstrip().split("\n")
    marked = [line for line in lines if "####" in line]
    found = LINE.match(lines[-1])
    right = found is not None and found[1] == answer
    return float(right and len(marked) == 1)


def _anywhere(reply, answer):
    return float(answer in re.findall(r"-?\d+", reply))


def _inside(reply, answer):
    return float(answer in reply)


def _last_number(reply, answer):
    found = re.findall(r"-?\d+", reply)
    return float(bool(found) and found[-1] == answer)


def _any_mark(reply, answer):
    return float(answer in re.findall(r"#### (-?\d+)", reply))


def _form_alone(reply, answer):
    return float(re.search(r"#### -?\d+", reply) is not None)


def _begins_alike(reply, answer):
    return float(f"#### {answer}" in reply and reply.count("####") == 1)


REPLIES = {  # to a problem whose answer is 7
    "Ona has 3 + 4 = 7 buns.\n#### 7": 1.0,
    "Ona has 3 + 4 = 8 buns.\n#### 8": 0.0,
    "Ona has 3 + 4 = 7 buns.\n#### 17": 0.0,
    "Ona has 7 buns.": 0.0,
    "Ona has 3 + 4 = 7 buns.\n#### 8": 0.0,
    "#### 6\n#### 7\n#### 8": 0.0,
    "#### 6\n#### 7": 0.0,
    "1 2 3 4 5 6 7 8 9\n#### 5": 0.0,
    "#### 8 7": 0.0,
    "#### 75": 0.0,
    "So many buns!\n#### none": 0.0,
    "": 0.0,
}
STRICT_HINTS = {
    _anywhere: (
        "You look for the number anywhere, so whoever counts from 1 to 20 "
        "has answered every question. Read one place only."
    ),
    _inside: (
        "`in` compares characters: the 7 of 17 passes. Compare whole numbers "
        "in one place only."
    ),
    _last_number: (
        "The last number of the text is a fair guess for people, but here it "
        "rewards replies without the #### that was asked for."
    ),
    _any_mark: (
        "One right line among several is enough for you, so a list of "
        "guesses wins. Allow a single ####."
    ),
    _form_alone: "You looked at the form and never at the number.",
    _begins_alike: ("'#### 7' also begins '#### 75'. Compare the whole line."),
}


def _check_strict(answer) -> str | None:
    got = {reply: float(answer(reply, "7")) for reply in REPLIES}
    for mistake, message in STRICT_HINTS.items():
        if all(got[r] == mistake(r, "7") for r in REPLIES):
            return message
    for reply, wanted in REPLIES.items():
        if got[reply] != wanted:
            return (
                f"To a problem whose answer is 7, the reply {reply!r} is "
                f"worth {wanted:g}, and you gave it {got[reply]:g}."
            )
    if answer("#### -4", "-4") != 1 or answer("#### 7\n", "7") != 1:
        return "A minus sign, or a line break at the end, is no mistake."
    return None


register(
    Exercise(
        "17.6",
        "Close the holes",
        _check_strict,
        strict_reward,
        {
            "anywhere": _anywhere,
            "characters": _inside,
            "the last number": _last_number,
            "any of several": _any_mark,
            "the form alone": _form_alone,
            "begins alike": _begins_alike,
        },
        praise=(
            "That holds against these replies. A model that is trained on it "
            "will look for others."
        ),
    )
)
