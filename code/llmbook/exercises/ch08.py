"""Exercises of the chapter on learning."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmbook.exercises import Exercise, diagnosis, register
from llmbook.exercises.tensors import draw

TOLERANCE = 1e-6


def _close(got: Any, wanted: Any) -> bool:
    got, wanted = torch.as_tensor(got), torch.as_tensor(wanted)
    return got.shape == wanted.shape and torch.allclose(
        got.double(), wanted.double(), atol=TOLERANCE, rtol=1e-5
    )


_diagnosis = partial(diagnosis, _close)


# 8.1 --------------------------------------------------------------------


def logit_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Slopes (N, V) of the mean of −ln p(target)."""
    slopes = logits.softmax(-1)
    slopes[range(len(targets)), targets] -= 1
    return slopes / len(targets)


def _summed(logits, targets):
    return logit_gradient(logits, targets) * len(targets)


def _uphill(logits, targets):
    return -logit_gradient(logits, targets)


def _all_entries(logits, targets):
    return logit_gradient(logits, targets) / logits.shape[1]


def _logits_kept(logits, targets):
    slopes = logits.clone()
    slopes[range(len(targets)), targets] -= 1
    return slopes / len(targets)


def _down_the_columns(logits, targets):
    slopes = logits.softmax(0)
    slopes[range(len(targets)), targets] -= 1
    return slopes / len(targets)


_LOGITS = {
    _summed: (
        "These are the slopes of the sum. The loss is a mean over N "
        "guesses: divide by N."
    ),
    _uphill: (
        "The signs are turned: this is the way to go, and not the slope. "
        "The slope is p − y."
    ),
    _all_entries: (
        "You divided by N times V. The mean is over guesses; the V slopes "
        "of a guess are not averaged."
    ),
    _logits_kept: "You took the logits for p. The softmax comes first.",
    _down_the_columns: (
        "The softmax ran over the guesses. It runs over the V words of "
        "each one: the last axis."
    ),
}


def _check_logits(answer: Any) -> str | None:
    given = draw(3, 5), torch.tensor([4, 0, 2])
    got, wanted = answer(given[0].clone(), given[1]), logit_gradient(*given)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _LOGITS, lambda f: f(*given)) or (
        "Expected (3, 5) slopes, those of the first guess being "
        f"{[round(v, 3) for v in wanted[0].tolist()]}."
    )


register(
    Exercise(
        "8.1",
        "The slope of the logits",
        _check_logits,
        logit_gradient,
        {
            "summed": _summed,
            "uphill": _uphill,
            "divided by all entries": _all_entries,
            "no softmax": _logits_kept,
            "softmax down the columns": _down_the_columns,
        },
        "What was expected, minus what came.",
    )
)


# 8.2 --------------------------------------------------------------------


def softmax_backward(weights: Tensor, slopes: Tensor) -> Tensor:
    """Slopes with respect to the scores, of the shape of ``weights``."""
    mean = (weights * slopes).sum(-1, keepdim=True)
    return weights * (slopes - mean)


def _diagonal_only(weights, slopes):
    return weights * (1 - weights) * slopes


def _mean_left_out(weights, slopes):
    return weights * slopes


def _plain_mean(weights, slopes):
    return weights * (slopes - slopes.mean(-1, keepdim=True))


def _wrong_axis(weights, slopes):
    return weights * (slopes - (weights * slopes).sum(-2, keepdim=True))


def _not_weighted(weights, slopes):
    return slopes - (weights * slopes).sum(-1, keepdim=True)


_SOFTMAX = {
    _diagonal_only: (
        "You used a(1 − a), the diagonal of the Jacobian. A score also "
        "takes from the other weights: the entries beside it are −a·a."
    ),
    _mean_left_out: (
        "Something is missing in the bracket: what all weights of the row "
        "lose when one score rises, the sum of a·da."
    ),
    _plain_mean: (
        "You subtracted the plain mean of the slopes. It is weighted, by "
        "the softmax's own weights."
    ),
    _wrong_axis: (
        "The sum runs over the wrong axis. A softmax belongs to one row: "
        "sum over the last axis."
    ),
    _not_weighted: (
        "Each slope has still to be multiplied by its own weight: a key "
        "with weight 0 gets nothing."
    ),
}


def _check_softmax(answer: Any) -> str | None:
    given = draw(2, 3, 3).softmax(-1), draw(2, 3, 3, seed=1)
    got, wanted = answer(*given), softmax_backward(*given)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _SOFTMAX, lambda f: f(*given)) or (
        "Expected slopes of shape (2, 3, 3), the first row being "
        f"{[round(v, 3) for v in wanted[0, 0].tolist()]}."
    )


register(
    Exercise(
        "8.2",
        "Back through a softmax",
        _check_softmax,
        softmax_backward,
        {
            "diagonal only": _diagonal_only,
            "mean left out": _mean_left_out,
            "plain mean": _plain_mean,
            "wrong axis": _wrong_axis,
            "not weighted": _not_weighted,
        },
        "Each row of the result sums to zero: a softmax only redistributes.",
    )
)


# 8.3 --------------------------------------------------------------------


def adamw_step(w, g, m, v, s, rate, beta1, beta2, epsilon, decay):
    """The new (w, m, v); nothing is changed in place."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**s), v / (1 - beta2**s)
    w = w * (1 - rate * decay) - rate * m_hat / (v_hat.sqrt() + epsilon)
    return w, m, v


def _decay_inside(w, g, m, v, s, rate, beta1, beta2, epsilon, decay):
    settings = s, rate, beta1, beta2, epsilon, 0.0
    return adamw_step(w, g + decay * w, m, v, *settings)


def _no_correction(w, g, m, v, s, rate, beta1, beta2, epsilon, decay):
    settings = 10**6, rate, beta1, beta2, epsilon, decay
    return adamw_step(w, g, m, v, *settings)


def _not_squared(w, g, m, v, s, rate, beta1, beta2, epsilon, decay):
    _, m, _ = adamw_step(w, g, m, v, s, rate, beta1, beta2, epsilon, 0.0)
    v = beta2 * v + (1 - beta2) * g.abs()
    update = m / (1 - beta1**s) / ((v / (1 - beta2**s)).sqrt() + epsilon)
    return w * (1 - rate * decay) - rate * update, m, v


def _no_root(w, g, m, v, s, rate, beta1, beta2, epsilon, decay):
    _, m, v = adamw_step(w, g, m, v, s, rate, beta1, beta2, epsilon, 0.0)
    update = m / (1 - beta1**s) / (v / (1 - beta2**s) + epsilon)
    return w * (1 - rate * decay) - rate * update, m, v


def _decay_without_rate(w, g, m, v, s, rate, beta1, beta2, epsilon, decay):
    new, m, v = adamw_step(w, g, m, v, s, rate, beta1, beta2, epsilon, 0.0)
    return new - decay * w, m, v


_ADAMW = {
    _decay_inside: (
        "The decay went into the gradient: that is Adam with L2, and the "
        "division by √v changes its strength. Shrink w beside it."
    ),
    _no_correction: (
        "The averages start at 0 and are not corrected for it. Divide m by "
        "1 − beta1**s and v by 1 − beta2**s."
    ),
    _not_squared: "v is the running average of the gradient's square.",
    _no_root: "You divided by v. It is the root of v that has g's size.",
    _decay_without_rate: (
        "The decay is not scaled by the learning rate: w shrinks by "
        "rate · decay of itself a step, here as in PyTorch."
    ),
}


def _adamw_case() -> tuple:
    w, g, m = draw(4), draw(4, seed=1), draw(4, seed=2) / 10
    return w, g, m, draw(4, seed=3) ** 2, 3, 0.1, 0.9, 0.95, 1e-8, 0.3


def _flat(result: Any) -> Tensor:
    return torch.cat([torch.as_tensor(part) for part in result])


def _check_adamw(answer: Any) -> str | None:
    got, wanted = _flat(answer(*_adamw_case())), adamw_step(*_adamw_case())
    if _close(got, _flat(wanted)):
        return None

    def run(mistake: Callable) -> Tensor:
        return _flat(mistake(*_adamw_case()))

    return _diagnosis(got, _ADAMW, run) or (
        "Expected a tuple (w, m, v); in the check's step w becomes "
        f"{[round(x, 3) for x in wanted[0].tolist()]}."
    )


register(
    Exercise(
        "8.3",
        "AdamW, once more",
        _check_adamw,
        adamw_step,
        {
            "decay inside the gradient": _decay_inside,
            "no correction": _no_correction,
            "not squared": _not_squared,
            "no root": _no_root,
            "decay without the rate": _decay_without_rate,
        },
        "Two averages, a quotient, and a pull towards zero.",
    )
)


# 8.4 --------------------------------------------------------------------


def inverse_root(step: int, warmup: int, peak: float) -> float:
    """A rise over ``warmup`` steps, then 1 over the root of the step."""
    s = step + 1
    return peak * min(s / warmup, math.sqrt(warmup / s))


def _begins_at_zero(step, warmup, peak):
    return inverse_root(step - 1, warmup, peak) if step else 0.0


def _drops(step, warmup, peak):
    s = step + 1
    return peak * s / warmup if s <= warmup else peak / math.sqrt(s)


def _hyperbola(step, warmup, peak):
    s = step + 1
    return peak * min(s / warmup, warmup / s)


def _no_warmup(step, warmup, peak):
    return peak / math.sqrt(step + 1)


_ROOT = {
    _begins_at_zero: (
        "Step 0 has the rate 0: it is paid for and changes nothing. Count "
        "it as the first of the rise."
    ),
    _drops: (
        "The two parts do not meet: after the peak the rate drops at once. "
        "Scale the root so that both give `peak` in step warmup − 1."
    ),
    _hyperbola: "This falls with one over the step. Take one over its root.",
    _no_warmup: "There is no rise. The first `warmup` steps go up in a line.",
}


def _rates(schedule: Callable) -> list[float]:
    return [float(schedule(step, 8, 2.0)) for step in range(40)]


def _check_root(answer: Any) -> str | None:
    got, wanted = _rates(answer), _rates(inverse_root)
    if _close(got, wanted):
        return None
    place = next(i for i in range(40) if abs(got[i] - wanted[i]) > TOLERANCE)
    return _diagnosis(got, _ROOT, _rates) or (
        f"With warmup=8 and peak=2.0, step {place} should have "
        f"{wanted[place]:.3f} and has {got[place]:.3f}."
    )


register(
    Exercise(
        "8.4",
        "The first transformer's schedule",
        _check_root,
        inverse_root,
        {
            "begins at zero": _begins_at_zero,
            "drops": _drops,
            "hyperbola": _hyperbola,
            "no warm-up": _no_warmup,
        },
        "It needs no end: the run may stop, or go on, whenever it likes.",
    )
)


# 8.5 --------------------------------------------------------------------


def largest_rate(curvatures: Sequence[float], beta: float = 0.0) -> float:
    """The rate beyond which the walk diverges: 2 (1 + beta) / steepest."""
    return 2 * (1 + beta) / max(curvatures)


def _first_overshoot(curvatures, beta=0.0):
    return largest_rate(curvatures, beta) / 2


def _flattest(curvatures, beta=0.0):
    return 2 * (1 + beta) / min(curvatures)


def _mean_curvature(curvatures, beta=0.0):
    return 2 * (1 + beta) * len(curvatures) / sum(curvatures)


def _without_momentum(curvatures, beta=0.0):
    return 2 / max(curvatures)


def _smaller_with_momentum(curvatures, beta=0.0):
    return 2 * (1 - beta) / max(curvatures)


_RATE = {
    _first_overshoot: (
        "From this rate on a step goes past the bottom, which is no harm "
        "yet. It diverges when it lands further out than it began."
    ),
    _flattest: (
        "This is the limit of the flattest direction. The steepest is "
        "thrown out first."
    ),
    _mean_curvature: (
        "Directions do not average: each is a walk of its own, and the "
        "steepest is thrown out first."
    ),
    _without_momentum: (
        "Right without momentum. With it the limit moves: put "
        "w, −w, w into the step of the exercise and solve for the rate."
    ),
    _smaller_with_momentum: (
        "Momentum moves the limit outwards: a swing that changes its sign "
        "at each step cancels in the running sum."
    ),
}


def _check_rate(answer: Any) -> str | None:
    def run(candidate: Callable) -> list[float]:
        cases = ([1.0, 40.0, 3.0],), ([0.5, 8.0], 0.6)
        return [float(candidate(*case)) for case in cases]

    got, wanted = run(answer), run(largest_rate)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _RATE, run) or (
        f"For curvatures 1, 40 and 3 expected {wanted[0]:g}, got {got[0]:g}; "
        f"for 0.5 and 8 with beta 0.6 {wanted[1]:g}, got {got[1]:g}."
    )


register(
    Exercise(
        "8.5",
        "How far can you go?",
        _check_rate,
        largest_rate,
        {
            "first overshoot": _first_overshoot,
            "flattest": _flattest,
            "mean curvature": _mean_curvature,
            "momentum forgotten": _without_momentum,
            "momentum the wrong way": _smaller_with_momentum,
        },
        "Momentum allows almost twice the rate, and goes further with it.",
    )
)


# 8.6 --------------------------------------------------------------------

Rows = Sequence[Sequence[int]]


def least_loss(x: Rows, y: Rows, window: int) -> float:
    """The least mean −ln p, when a guess sees ``window`` tokens."""
    answers = defaultdict(Counter)
    for given, came in zip(x, y, strict=True):
        for t, token in enumerate(came):
            seen = tuple(given[max(0, t + 1 - window) : t + 1])
            answers[seen][token] += 1
    total = sum(sum(counts.values()) for counts in answers.values())
    return sum(
        -n * math.log(n / sum(counts.values())) / total
        for counts in answers.values()
        for n in counts.values()
    )


def _one_too_many(x, y, window):
    return least_loss(x, y, window + 1)


def _itself_unseen(x, y, window):
    shifted = [[-1, *row[:-1]] for row in x]
    return least_loss(shifted, y, window)


def _sees_all(x, y, window):
    return least_loss(x, y, len(x[0]))


def _with_positions(x, y, window):
    marked = [[(t, token) for t, token in enumerate(row)] for row in x]
    return least_loss(marked, y, window)


def _summed_up(x, y, window):
    return least_loss(x, y, window) * sum(map(len, y))


def _each_alike(x, y, window):
    """Every answer once, however often it came."""
    pairs = {}
    for given, came in zip(x, y, strict=True):
        for t, token in enumerate(came):
            seen = tuple(given[max(0, t + 1 - window) : t + 1])
            pairs.setdefault(seen, []).append(token)
    losses = [math.log(len(set(c))) for c in pairs.values() for _ in c]
    return sum(losses) / len(losses)


_LEAST = {
    _one_too_many: (
        "The window is one token too long: it holds `window` tokens, and "
        "the newest of them is the one at t itself."
    ),
    _itself_unseen: (
        "The token at t is left out. A guess sees it: the newest `window` "
        "tokens end with it."
    ),
    _sees_all: "The window is not used: here a guess sees the whole row.",
    _with_positions: (
        "You tell apart equal tokens by where they stand. This model has "
        "no positions: pool them over all places."
    ),
    _summed_up: "That is the sum over all guesses. Return the mean.",
    _each_alike: (
        "Each different answer counts once here. The best guess gives an "
        "answer its share of the cases: count how often it came."
    ),
}


def _check_least(answer: Any) -> str | None:
    x = [[7, 1, 2, 1, 2, 1], [7, 1, 3, 1, 2, 4], [7, 2, 1, 2, 1, 2]]
    y = [[1, 2, 1, 2, 1, 3], [1, 3, 1, 2, 4, 4], [2, 1, 2, 1, 2, 5]]

    def run(candidate: Callable) -> list[float]:
        return [float(candidate(x, y, window)) for window in (1, 2)]

    got, wanted = run(answer), run(least_loss)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _LEAST, run) or (
        f"On the check's three rows a window of 1 allows {wanted[0]:.4f} and "
        f"one of 2 {wanted[1]:.4f}; got {got[0]:.4f} and {got[1]:.4f}."
    )


register(
    Exercise(
        "8.6",
        "The least loss on a batch",
        _check_least,
        least_loss,
        {
            "one token too many": _one_too_many,
            "the token itself unseen": _itself_unseen,
            "sees everything": _sees_all,
            "with positions": _with_positions,
            "summed": _summed_up,
            "every answer alike": _each_alike,
        },
        "With this number in hand, a loss that is too good shows itself.",
    )
)
