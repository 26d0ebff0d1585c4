"""Scaling laws: fitted to small runs, asked about a larger one.

A law says which loss a run ends with, given its size: the parameters, the
tokens, or the compute, whatever was varied. All logarithms are natural, and
losses are in nats a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLOPS_EACH = 6  # a parameter and token: 2 forward, 4 back
TRIES = 20  # draws for each that is kept: others fall below the floor
HUBER_DELTA = 1e-3  # Hoffmann et al. 2022, section 3.3
TINY = 1e-300  # stands for a floor of 0, whose logarithm is infinite
TURNS = 100  # of the fit; a handful is usual
DAMPING = (1e-3, 1e12)  # where it starts, and where no step helps any more
SLOPES = (0.1, 0.3, 0.6, 1.2)  # where the search for an exponent starts
FLOORS = (0.02, 0.5, 0.9, 0.99)  # and for a floor, as shares of the least


def training_flops(parameters: float, tokens: float) -> float:
    """Operations of a whole run: 6 for each parameter and token.

    Attention's own products, which no parameter is in, are left out. Source:
    Kaplan et al. 2020, section 2.1.

    >>> f"{training_flops(70e9, 1.4e12):.2g}"
    '5.9e+23'
    """
    return FLOPS_EACH * parameters * tokens


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + coefficient · size^(−exponent).

    Sources: Kaplan et al. 2020, equation 1.1 (without a floor); Hoffmann et
    al. 2022, equation 2 (with one, in two sizes).

    >>> PowerLaw(floor=1.0, coefficient=8.0, exponent=0.5)(16)
    3.0
    """

    floor: float
    coefficient: float
    exponent: float

    def __call__(self, size: float | np.ndarray) -> float | np.ndarray:
        """The loss at a size, or at each of many."""
        return self.floor + self.coefficient * size**-self.exponent

    def size_for(self, loss: float) -> float:
        """The size at which the law reaches ``loss``.

        Raises:
            ValueError: the law never comes so low.

        >>> PowerLaw(1.0, 8.0, 0.5).size_for(3.0)
        16.0
        """
        if loss <= self.floor:
            raise ValueError(
                f"loss is {loss:g} and the law's floor {self.floor:g}; "
                "expected more than the floor, which no size reaches."
            )
        return ((loss - self.floor) / self.coefficient) ** (-1 / self.exponent)


def checked_runs(
    sizes: Sequence[float], losses: Sequence[float], floor: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and losses as arrays (n,), refused where no law can be fitted.

    Raises:
        ValueError: too few sizes, or a value that is out of range.

    >>> checked_runs([1, 4], [3, 2], floor=1.0)[1]
    array([3., 2.])
    """
    x, y = np.asarray(sizes, float), np.asarray(losses, float)
    free = 2 if floor is None else 1
    if x.ndim != 1 or x.shape != y.shape or len(set(x.tolist())) <= free:
        raise ValueError(
            f"got {x.size} sizes and {y.size} losses; expected as many of "
            f"the one as of the other, and more than {free} different sizes "
            f"to find {free + 1} numbers from."
        )
    least = 0.0 if floor is None else floor
    good = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > least)
    if not good.all() or not least >= 0:
        raise ValueError(
            f"sizes {x.tolist()} and losses {y.tolist()}, with floor "
            f"{floor}; expected sizes above 0 and losses above the floor. "
            "Is the floor that of the same text, in the same unit?"
        )
    return x, y


def fit_power_law(
    sizes: Sequence[float],
    losses: Sequence[float],
    floor: float | None = None,
    delta: float = HUBER_DELTA,
    start: PowerLaw | None = None,
) -> PowerLaw:
    """The :class:`PowerLaw` that fits measured losses best.

    Least is the sum of Huber losses of ln predicted − ln measured, over
    ``sizes`` and ``losses`` (n,), one pair a run. ``floor`` None is fitted
    too. ``delta`` is in units of ln loss. ``start`` is a law to begin from.
    Source: Hoffmann et al. 2022, section 3.3.

    Raises:
        ValueError: too few sizes, or a loss at or below the floor.

    >>> sizes = np.array([1e3, 4e3, 16e3, 64e3])
    >>> law = fit_power_law(sizes, 0.5 + 40 * sizes**-0.4)
    >>> round(law.floor, 3), round(law.coefficient, 1), round(law.exponent, 3)
    (0.5, 40.0, 0.4)
    """
    x, y = checked_runs(sizes, losses, floor)
    middle = np.log(x).mean()  # in the middle of the sizes, or A is not
    n, target = np.log(x) - middle, np.log(y)  # to be told from the slope
    starts = starting_points(n, y, floor)
    if start is not None:
        level = np.log(start.coefficient) - start.exponent * middle
        bottom = np.log(max(start.floor, TINY))
        starts = [np.array([level, start.exponent, bottom])]
    free = 3 if floor is None else 2
    found = [descend(p[:free], n, target, floor, delta) for p in starts]
    best = min(found, key=lambda pair: pair[0])[1]
    return PowerLaw(
        floor=float(np.exp(best[2])) if floor is None else float(floor),
        coefficient=float(np.exp(best[0] + best[1] * middle)),
        exponent=float(best[1]),
    )


def starting_points(n: np.ndarray, y: np.ndarray, floor: float | None) -> list:
    """Where a fit begins: (ln A, exponent, ln floor), several times.

    ``n`` (n,) is ln size from its mean, ``y`` (n,) the losses. With a known
    floor one start is enough: there the law is a line in logarithms.

    >>> n = np.log([0.25, 1.0, 4.0])
    >>> starting_points(n, np.array([3.0, 2.0, 1.5]), 1.0)[0].round(3) + 0.0
    array([0. , 0.5])
    """
    if floor is not None:  # a straight line in logarithms, if it was not for
        slope, level = np.polyfit(n, np.log(y - floor), 1)  # the Huber loss
        return [np.array([level, -slope])]
    return [
        np.array([np.log(np.median(y) - share * y.min()), slope, np.log(e)])
        for slope in SLOPES
        for share in FLOORS
        for e in [share * y.min()]
    ]


def _residuals(
    p: np.ndarray, n: np.ndarray, target: np.ndarray, floor: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """ln predicted − ln measured, (n,), and its slopes in p, (n, len(p))."""
    power = np.exp(p[0] - p[1] * n)
    least = np.exp(p[2]) if floor is None else floor
    share = power / (power + least)
    slopes = [share, -share * n]
    if floor is None:
        slopes.append(1 - share)
    return np.log(power + least) - target, np.column_stack(slopes)


def huber(residuals: np.ndarray, delta: float) -> float:
    """The sum of Huber losses: r²/2 up to ``delta``, then a straight line.

    Source: Huber 1964.

    >>> huber(np.array([1.0, -3.0]), delta=2.0)
    4.5
    """
    size = np.abs(residuals)
    far = delta * (size - delta / 2)
    return float(np.where(size <= delta, size**2 / 2, far).sum())


def descend(
    start: np.ndarray,
    n: np.ndarray,
    target: np.ndarray,
    floor: float | None,
    delta: float,
) -> tuple[float, np.ndarray]:
    """The least Huber loss near ``start``, and the point that has it.

    Levenberg and Marquardt's method, in which a run that is off by more
    than ``delta`` weighs less, as in Huber 1964. ``n`` and ``target`` (n,)
    are ln size from its mean and ln loss.

    >>> n = np.log([0.25, 1.0, 4.0])
    >>> value, point = descend(np.array([0.1, 0.3]), n, -0.5 * n, 0.0, 1e-3)
    >>> point.round(4) + 0.0
    array([0. , 0.5])
    """
    p, damping = start, DAMPING[0]
    r, J = _residuals(p, n, target, floor)
    value = huber(r, delta)
    for _ in range(TURNS):
        weights = delta / np.maximum(delta, np.abs(r))
        H, slope = J.T @ (weights[:, None] * J), J.T @ (weights * r)
        scale = np.diag(H.diagonal() + 1e-12)
        step = np.linalg.solve(H + damping * scale, slope)
        if np.abs(step).max() < 10:  # in logarithms: further is nonsense
            tried = _residuals(p - step, n, target, floor)
            now = huber(tried[0], delta)
            if now <= value:
                gained, value = value - now, now
                p, (r, J), damping = p - step, tried, damping / 5
                if gained <= 1e-9 * value:
                    break
                continue
        damping *= 10
        if damping > DAMPING[1]:
            break
    return value, p


def predictions(
    sizes: Sequence[float],
    losses: Sequence[float],
    at: float,
    floor: float | None = None,
    draws: int = 300,
    seed: int = 0,
    delta: float = HUBER_DELTA,
) -> np.ndarray:
    """What single runs of size ``at`` may end with, (draws,), by bootstrap.

    Each draw gives every measured run another one's deviation from the law,
    fits it anew, and adds one more deviation to what that law predicts:
    doubt about the law, and the luck of the new run. Source: Efron and
    Tibshirani 1993, section 9.4.

    Raises:
        ValueError: as in :func:`fit_power_law`; too few or too wild runs.

    >>> sizes, noise = [1, 1, 4, 4, 16, 16], [3, -3, -3, 3, 3, -3]
    >>> losses = np.power(sizes, -0.5) * np.exp(np.array(noise) / 100)
    >>> interval(predictions(sizes, losses, at=64, floor=0.0))
    (0.11..., 0.13...)
    """
    x, y = checked_runs(sizes, losses, floor)
    law = fit_power_law(x, y, floor, delta)
    residuals = deviations(x, y, law, numbers=3 if floor is None else 2)
    source, found = np.random.default_rng(seed), []
    for _ in range(TRIES * draws):
        *noise, luck = source.choice(residuals, len(x) + 1)
        again = law(x) * np.exp(noise)
        if floor is None or (again > floor).all():
            drawn = fit_power_law(x, again, floor, delta, start=law)
            found.append(drawn(at) * np.exp(luck))
            if len(found) == draws:
                return np.array(found)
    raise ValueError(
        f"{len(found)} of {TRIES * draws:,} draws stay above floor={floor:g}; "
        "expected more. Give floor=None, or runs that scatter less."
    )


def deviations(
    sizes: np.ndarray, losses: np.ndarray, law: PowerLaw, numbers: int
) -> np.ndarray:
    """How far ln loss lies from a law, as a new run's may, (runs,).

    The law's ``numbers`` were fitted to the same runs, which draws it
    nearer to them; for that the deviations are widened. They count from
    their median, which one broken run does not move.

    Raises:
        ValueError: there are no more runs than numbers.
    """
    n = len(sizes)
    if n <= numbers:
        raise ValueError(
            f"got {n} runs for the {numbers} numbers of the law, so nothing "
            "is left to judge its error by; expected more. Add sizes or seeds."
        )
    found = np.log(losses) - np.log(law(sizes))
    return (found - np.median(found)) * np.sqrt(n / (n - numbers))


def interval(values: Sequence[float], level: float = 0.9) -> tuple:
    """The middle share ``level`` of ``values``: its lower and upper end.

    >>> interval(range(101), level=0.5)
    (25.0, 75.0)
    """
    if not 0 < level < 1:
        raise ValueError(
            f"level is {level}; expected a share between 0 and 1, 0.9 say."
        )
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(values, float), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class TwoPowers:
    """loss = floor + A / parameters^alpha + B / tokens^beta.

    Source: Hoffmann et al. 2022, equation 2.

    >>> TwoPowers(floor=1.0, A=2.0, B=3.0, alpha=0.5, beta=1.0)(4, 3)
    3.0
    """

    floor: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, parameters: float, tokens: float) -> float:
        """The loss of a run of that size on so many tokens."""
        few = self.A / parameters**self.alpha
        short = self.B / tokens**self.beta
        return self.floor + few + short

    def optimal(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens that make the most of a compute budget.

        With C = 6 N D. Source: Hoffmann et al. 2022, equation 4.

        >>> N, D = TwoPowers(1.0, 5.0, 5.0, 0.5, 0.5).optimal(6e6)
        >>> round(N), round(D)
        (1000, 1000)
        """
        product = flops / FLOPS_EACH
        both = self.alpha + self.beta
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = G * product ** (self.beta / both)
        return parameters, product / parameters
