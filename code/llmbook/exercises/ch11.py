"""Exercises of the chapter on hyper-parameters and scaling laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from llmbook.exercises import Exercise, diagnosis, register
from llmbook.scaling import TwoPowers

TOLERANCE = 1e-6
LAW = TwoPowers(floor=1.5, A=400.0, B=900.0, alpha=0.35, beta=0.3)


def _close(got: Any, wanted: Any) -> bool:
    got, wanted = np.asarray(got, float), np.asarray(wanted, float)
    return got.shape == wanted.shape and np.allclose(
        got, wanted, rtol=TOLERANCE, atol=0
    )


_diagnosis = partial(diagnosis, _close)


# 11.1 -------------------------------------------------------------------


def days(
    parameters: float, tokens: float, devices: int, peak: float, mfu: float
) -> float:
    """Days of training, by the rule of six."""
    return 6 * parameters * tokens / (devices * peak * mfu) / 86_400


def _forward_only(parameters, tokens, devices, peak, mfu):
    return days(parameters, tokens, devices, peak, mfu) / 3


def _one_device(parameters, tokens, devices, peak, mfu):
    return days(parameters, tokens, 1, peak, mfu)


def _at_peak(parameters, tokens, devices, peak, mfu):
    return days(parameters, tokens, devices, peak, 1.0)


def _share_multiplied(parameters, tokens, devices, peak, mfu):
    return days(parameters, tokens, devices, peak, 1 / mfu)


def _hours(parameters, tokens, devices, peak, mfu):
    return 24 * days(parameters, tokens, devices, peak, mfu)


_DAYS = {
    _forward_only: (
        "You counted the forward pass alone, 2ND. The backward pass takes "
        "twice that again."
    ),
    _one_device: "The devices work side by side: divide by their number.",
    _at_peak: (
        "No run reaches the peak. The operations a second are the peak "
        "times mfu."
    ),
    _share_multiplied: (
        "A smaller mfu should make the run longer. Divide by it."
    ),
    _hours: "These are hours. Return days.",
}


def _check_days(answer: Any) -> str | None:
    case = 7e9, 2e12, 256, 3.12e14, 0.4
    got, wanted = answer(*case), days(*case)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _DAYS, lambda f: f(*case)) or (
        "7 billion parameters on 2 trillion tokens with 256 devices of "
        f"312 teraflops at mfu 0.4 take {wanted:.1f} days; got {got!r}."
    )


register(
    Exercise(
        "11.1",
        "Days",
        _check_days,
        days,
        {
            "forward only": _forward_only,
            "one device": _one_device,
            "at the peak": _at_peak,
            "mfu multiplied": _share_multiplied,
            "hours": _hours,
        },
        "Every budget begins with this line.",
    )
)


# 11.2 -------------------------------------------------------------------


def random_rates(
    n: int, low: float, high: float, source: np.random.Generator
) -> np.ndarray:
    """n rates (n,), log-uniform between ``low`` and ``high``."""
    return np.exp(source.uniform(np.log(low), np.log(high), n))


def _uniform(n, low, high, source):
    return source.uniform(low, high, n)


def _logarithms(n, low, high, source):
    return source.uniform(np.log(low), np.log(high), n)


def _wrong_base(n, low, high, source):
    return 10 ** source.uniform(np.log(low), np.log(high), n)


def _a_ladder(n, low, high, source):
    return np.geomspace(low, high, n)


def _same_draw(n, low, high, source):
    return np.full(n, random_rates(1, low, high, source)[0])


def _check_rates(answer: Any) -> str | None:
    low, high, n = 1e-4, 1.0, 4_000
    got = np.asarray(
        answer(n, low, high, np.random.default_rng(5)), float
    ).reshape(-1)
    if len(got) != n:
        return f"Expected {n} rates, shape ({n},); got {len(got)}."
    if (got < 0).any():
        return "Some are negative: you drew logarithms. Take exp of them."
    if (got < low * 0.999).any() or (got > high * 1.001).any():
        return (
            f"Some lie outside {low:g} to {high:g}: the logarithm and the "
            "power need one base."
        )
    if len(np.unique(got)) == 1:
        return "All are the same: draw each for itself."
    if np.array_equal(got, np.geomspace(low, high, n)):
        return "That is a ladder, not dice. Draw the logarithms at random."
    shares = np.histogram(np.log10(got), bins=4, range=(-4, 0))[0] / n
    if np.abs(shares - 0.25).max() > 0.03:
        return (
            "The four powers of ten from 0.0001 to 1 got the shares "
            f"{shares.round(2).tolist()}; expected a quarter each. Draw the "
            "logarithm uniformly."
        )
    return None


register(
    Exercise(
        "11.2",
        "Dice with the right weight",
        _check_rates,
        random_rates,
        {
            "uniform": _uniform,
            "logarithms": _logarithms,
            "wrong base": _wrong_base,
            "a ladder": _a_ladder,
            "one draw for all": _same_draw,
        },
        "What matters by factors is drawn by factors.",
    )
)


# 11.3 -------------------------------------------------------------------

Pair = tuple[float, float]


def two_runs(first: Pair, second: Pair, floor: float) -> Pair:
    """(coefficient, exponent) of the law through two runs."""
    (x, a), (y, b) = first, second
    exponent = math.log((a - floor) / (b - floor)) / math.log(y / x)
    return (a - floor) * x**exponent, exponent


def _floor_forgotten(first, second, floor):
    return two_runs(first, second, 0.0)


def _sign_turned(first, second, floor):
    coefficient, exponent = two_runs(first, second, floor)
    return coefficient, -exponent


def _not_logarithms(first, second, floor):
    (x, a), (y, b) = first, second
    exponent = (a - b) / (y - x)
    return (a - floor) * x**exponent, exponent


def _coefficient_at_first(first, second, floor):
    return first[1] - floor, two_runs(first, second, floor)[1]


_TWO_RUNS = {
    _floor_forgotten: (
        "This is the law through the losses themselves. What falls as a "
        "power is the loss above the floor: subtract it first."
    ),
    _sign_turned: (
        "The exponent has the wrong sign: the law has size to the power of "
        "minus the exponent, so it is positive where larger is better."
    ),
    _not_logarithms: (
        "That is the slope of the plain numbers. The line is straight in "
        "logarithms of both."
    ),
    _coefficient_at_first: (
        "The coefficient is the loss above the floor at size 1, not at the "
        "first run's size."
    ),
}


def _check_two(answer: Any) -> str | None:
    case = (100.0, 2.5), (1600.0, 1.0), 0.5  # 2 and 0.5 above the floor
    got, wanted = answer(*case), two_runs(*case)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _TWO_RUNS, lambda f: f(*case)) or (
        "Through (100, 2.5) and (1600, 1.0) with floor 0.5 goes the law "
        f"with coefficient {wanted[0]:g} and exponent {wanted[1]:g}."
    )


register(
    Exercise(
        "11.3",
        "The slope by hand",
        _check_two,
        two_runs,
        {
            "floor forgotten": _floor_forgotten,
            "sign turned": _sign_turned,
            "no logarithms": _not_logarithms,
            "coefficient at the first": _coefficient_at_first,
        },
        "Sixteen times the size for a quarter of what is left: a half.",
    )
)


# 11.4 -------------------------------------------------------------------


def tokens_for(law: TwoPowers, parameters: float, loss: float) -> float:
    """The least number of tokens, or math.inf."""
    left = loss - law.floor - law.A / parameters**law.alpha
    return (law.B / left) ** (1 / law.beta) if left > 0 else math.inf


def _no_floor(law, parameters, loss):
    left = loss - law.A / parameters**law.alpha
    return (law.B / left) ** (1 / law.beta) if left > 0 else math.inf


def _size_forgotten(law, parameters, loss):
    left = loss - law.floor
    return (law.B / left) ** (1 / law.beta) if left > 0 else math.inf


def _other_exponent(law, parameters, loss):
    left = loss - law.floor - law.A / parameters**law.alpha
    return (law.B / left) ** (1 / law.alpha) if left > 0 else math.inf


def _never_infinite(law, parameters, loss):
    left = loss - law.floor - law.A / parameters**law.alpha
    return (law.B / abs(left)) ** (1 / law.beta)


def _twenty_each(law, parameters, loss):
    return 20 * parameters


_TOKENS = {
    _no_floor: "The floor is missing: no text brings the loss below it.",
    _size_forgotten: (
        "What the model's size costs is missing: A / parameters**alpha "
        "stays, however long it reads."
    ),
    _other_exponent: "You used the parameters' exponent for the tokens.",
    _never_infinite: (
        "Right where the loss can be reached. Where floor and size alone "
        "cost more than it, return math.inf."
    ),
    _twenty_each: (
        "Twenty tokens a parameter is the best split of a budget. Here the "
        "size and the loss are given: solve the law for D."
    ),
}


def _check_tokens(answer: Any) -> str | None:
    cases = (LAW, 1e9, 2.4), (LAW, 1e7, 2.4)

    def run(candidate: Callable) -> list[float]:
        return [float(candidate(*case)) for case in cases]

    got, wanted = run(answer), run(tokens_for)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _TOKENS, run) or (
        f"The check's law needs {wanted[0]:.4g} tokens for a loss of 2.4 "
        f"with 1e9 parameters, and with 1e7 {wanted[1]}; got {got[0]:.4g} "
        f"and {got[1]:.4g}."
    )


register(
    Exercise(
        "11.4",
        "Spend a budget",
        _check_tokens,
        tokens_for,
        {
            "no floor": _no_floor,
            "size forgotten": _size_forgotten,
            "the other exponent": _other_exponent,
            "never infinite": _never_infinite,
            "twenty a parameter": _twenty_each,
        },
        "A small model can make up for its size, up to a point.",
    )
)


# 11.5 -------------------------------------------------------------------


def with_luck(
    laws: np.ndarray,
    residuals: np.ndarray,
    used: int,
    source: np.random.Generator,
) -> np.ndarray:
    """(m,): each law's prediction, with the luck of one run."""
    n = len(residuals)
    widened = residuals * math.sqrt(n / (n - used))
    return laws + source.choice(widened, len(laws))


def _no_luck(laws, residuals, used, source):
    return laws


def _not_widened(laws, residuals, used, source):
    return with_luck(laws, residuals, 0, source)


def _one_luck(laws, residuals, used, source):
    return laws + with_luck(laws[:1] * 0, residuals, used, source)


def _widened_too_far(laws, residuals, used, source):
    n = len(residuals)
    return laws + source.choice(residuals * n / (n - used), len(laws))


def _mean_luck(laws, residuals, used, source):
    n = len(residuals)
    drawn = source.choice(residuals, (len(laws), n)).mean(1)
    return laws + drawn * math.sqrt(n / (n - used))


_LUCK = {
    "none": (
        "The spread is that of the laws alone. A new run has luck of its "
        "own: add a residual to each."
    ),
    "narrow": (
        "The residuals are not widened. The fit has bent towards the runs "
        "it was given, and left them too small."
    ),
    "one": "All got the same residual. Draw one for each law.",
    "wide": "You widened by n / (n − used). It is the root of that.",
    "mean": (
        "The residuals were averaged, which takes the luck out again. One "
        "run has the luck of one run."
    ),
}


def _spread_name(spread: float, residuals: np.ndarray, used: int) -> str:
    """Which mistake leaves luck of that spread; "" for none known."""
    n, own = len(residuals), residuals.std()
    factor = n / (n - used)
    for name, wanted in (
        ("right", own * math.sqrt(factor)),
        ("none", 0.0),
        ("narrow", own),
        ("wide", own * factor),
        ("mean", own * math.sqrt(factor / n)),
    ):
        if abs(spread - wanted) < 0.05 * own:
            return name
    return ""


def _check_luck(answer: Any) -> str | None:
    source = np.random.default_rng(0)
    residuals = source.normal(0, 1, 6)
    residuals -= residuals.mean()
    laws, used = source.normal(0, 0.3, 20_000), 3
    got = np.asarray(
        answer(laws.copy(), residuals.copy(), used, source), float
    )
    if got.shape != laws.shape:
        return f"Expected {len(laws)} draws, one a law; got {got.shape}."
    luck = got - laws
    if luck.std() < 1e-12 and abs(luck).max() > 0:
        return _LUCK["one"]
    name = _spread_name(float(luck.std()), residuals, used)
    if name == "right":
        return None
    return _LUCK.get(name) or (
        f"The luck added has a spread of {luck.std():.3f}; with these six "
        "residuals and a fit of three numbers it should be "
        f"{residuals.std() * math.sqrt(2):.3f}."
    )


register(
    Exercise(
        "11.5",
        "An interval for a run",
        _check_luck,
        with_luck,
        {
            "no luck": _no_luck,
            "not widened": _not_widened,
            "one luck for all": _one_luck,
            "widened too far": _widened_too_far,
            "mean luck": _mean_luck,
        },
        "Doubt about the law, and the luck of a run: an interval needs both.",
    )
)


# 11.6 -------------------------------------------------------------------


def cheapest(
    law: TwoPowers, loss: float, served: float, candidates: Sequence[float]
) -> float:
    """The number of parameters with the least training plus serving."""

    def total(parameters: float) -> float:
        read = tokens_for(law, parameters, loss)
        return 6 * parameters * read + 2 * parameters * served

    return min(candidates, key=total)


def _training_only(law, loss, served, candidates):
    return cheapest(law, loss, 0.0, candidates)


def _serving_only(law, loss, served, candidates):
    able = [n for n in candidates if tokens_for(law, n, loss) < math.inf]
    return min(able)


def _smallest(law, loss, served, candidates):
    return min(candidates)


def _serving_as_training(law, loss, served, candidates):
    return cheapest(law, loss, 3 * served, candidates)


def _best_loss(law, loss, served, candidates):
    return max(candidates)


_CHEAPEST = {
    _training_only: (
        "That one is the cheapest to train. Every token served costs 2N "
        "more: add them."
    ),
    _serving_only: (
        "That is the smallest that can reach the loss. It reads so long "
        "that its training costs more than it saves."
    ),
    _smallest: "The smallest cannot reach the loss: leave it out.",
    _serving_as_training: (
        "Serving was counted at 6N a token. A forward pass takes 2N."
    ),
    _best_loss: "The largest is the dearest to serve. Compare the totals.",
}


def _check_cheapest(answer: Any) -> str | None:
    candidates = np.geomspace(1e7, 1e12, 101).tolist()
    case = LAW, 2.2, 1e13, candidates
    got, wanted = answer(*case), cheapest(*case)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _CHEAPEST, lambda f: f(*case)) or (
        f"Expected {wanted:.3g} parameters, got {got!r}."
    )


register(
    Exercise(
        "11.6",
        "Cheap to use",
        _check_cheapest,
        cheapest,
        {
            "training only": _training_only,
            "serving only": _serving_only,
            "smallest": _smallest,
            "serving as training": _serving_as_training,
            "largest": _best_loss,
        },
        "What is used a great deal is made small and reads for long.",
    )
)
