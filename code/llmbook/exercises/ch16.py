"""Exercises of the chapter on preferences."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.exercises import Exercise, register


def _near(a: float, b: float, tolerance: float = 1e-4) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def _same(a: Tensor, b: Tensor) -> bool:
    a = torch.as_tensor(a).double()
    return a.shape == b.shape and torch.allclose(a, b.double(), atol=1e-4)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# 16.1 -------------------------------------------------------------------


def compared(
    scores: list[float], taken: int, left: int, rate: float
) -> list[float]:
    """The scores after one comparison: two of them move."""
    surprise = 1 - _sigmoid(scores[taken] - scores[left])
    moved = list(scores)
    moved[taken] += rate * surprise
    moved[left] -= rate * surprise
    return moved


def _moved(scores, taken, left, rate, up=1.0, down=1.0) -> list[float]:
    moved = list(scores)
    moved[taken] += rate * up
    moved[left] -= rate * down
    return moved


def _by_probability(scores, taken, left, rate) -> list[float]:
    expected = _sigmoid(scores[taken] - scores[left])
    return _moved(scores, taken, left, rate, expected, expected)


def _winner_alone(scores, taken, left, rate) -> list[float]:
    surprise = 1 - _sigmoid(scores[taken] - scores[left])
    return _moved(scores, taken, left, rate, surprise, 0.0)


def _always_the_same(scores, taken, left, rate) -> list[float]:
    return _moved(scores, taken, left, rate)


def _in_place(scores, taken, left, rate) -> list[float]:
    scores[:] = compared(scores, taken, left, rate)
    return scores


def _check_compared(answer) -> str | None:
    case = [1.0, -0.5, 0.25]
    given = list(case)
    got = list(answer(given, 1, 0, 0.4))
    if given != case:
        return "You changed the caller's list. Work on a copy: list(scores)."
    known = {
        _by_probability: (
            "You moved by the probability that the scores gave to what "
            "happened. The surprise is the rest, 1 minus it: what was "
            "expected teaches little."
        ),
        _winner_alone: (
            "Only the taken answer moved. The other one goes down by as "
            "much, so that the sum of the scores stays where it was."
        ),
        _always_the_same: (
            "Both moved by the whole rate, whatever the scores said before. "
            "Multiply by the surprise."
        ),
    }
    for mistake, message in known.items():
        wrong = torch.tensor(mistake(case, 1, 0, 0.4))
        if _same(torch.tensor(got), wrong):
            return message
    for places in ((1, 0), (0, 1), (2, 1)):
        wanted = compared(case, *places, 0.4)
        found = torch.tensor(list(answer(list(case), *places, 0.4)))
        if not _same(found, torch.tensor(wanted)):
            return (
                f"For {case}, taken {places[0]}, left {places[1]} and rate "
                f"0.4 expected {wanted}, got {found.tolist()}."
            )
    return None


register(
    Exercise(
        "16.1",
        "One comparison",
        _check_compared,
        compared,
        {
            "probability for surprise": _by_probability,
            "winner alone": _winner_alone,
            "no surprise": _always_the_same,
            "changed in place": _in_place,
        },
    )
)


# 16.2 -------------------------------------------------------------------


def preference_cost(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The mean of −ln σ(chosen − rejected), without overflow."""
    return F.softplus(rejected - chosen).mean()


def _log_of_sigmoid(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -torch.sigmoid(chosen - rejected).log().mean()


def _clamped(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -torch.sigmoid(chosen - rejected).clamp(min=1e-7).log().mean()


def _the_wrong_way(chosen: Tensor, rejected: Tensor) -> Tensor:
    return F.softplus(chosen - rejected).mean()


def _summed(chosen: Tensor, rejected: Tensor) -> Tensor:
    return F.softplus(rejected - chosen).sum()


def _check_cost(answer) -> str | None:
    chosen = torch.tensor([2.0, -1.0, 0.5])
    rejected = torch.tensor([1.0, 1.0, 0.5])
    got = float(answer(chosen, rejected))
    if _near(got, float(_the_wrong_way(chosen, rejected))):
        return (
            "Your loss is low where the rejected answer has the higher "
            "reward. Turn the difference round."
        )
    if _near(got, float(_summed(chosen, rejected))):
        return "That is the sum over the pairs. Take their mean."
    wanted = preference_cost(chosen, rejected)
    if not _near(got, float(wanted)):
        return f"For three pairs expected {wanted:.4f}, got {got:.4f}."
    for gap in (-1000.0, -120.0, 1000.0):
        high = torch.tensor([gap], requires_grad=True)
        loss = answer(high, torch.zeros(1))
        if not math.isfinite(loss.item()):
            return (
                f"At a difference of {gap:g} the loss is {loss.item()}: the "
                "sigmoid was rounded to 0 before its logarithm was taken. "
                "F.logsigmoid and F.softplus never leave the logarithm."
            )
        (slope,) = torch.autograd.grad(loss, high)
        right = float(torch.sigmoid(torch.tensor(-gap)))
        if not _near(loss.item(), max(0.0, -gap), 1e-3) or not _near(
            slope.item(), -right
        ):
            return (
                f"At a difference of {gap:g} the loss is {loss.item():.1f} "
                f"with slope {slope.item():.1f}; expected {max(0, -gap):g} "
                f"and {-right:.1f}. A clamp hides the infinity, and the "
                "gradient with it: the worst pairs teach nothing."
            )
    return None


register(
    Exercise(
        "16.2",
        "A loss that survives",
        _check_cost,
        preference_cost,
        {
            "logarithm of a rounded sigmoid": _log_of_sigmoid,
            "clamped": _clamped,
            "the wrong way round": _the_wrong_way,
            "summed": _summed,
        },
    )
)


# 16.3 -------------------------------------------------------------------


def without_length(rewards: Tensor, lengths: Tensor) -> Tensor:
    """Rewards (N,) without what a straight line in the length explains."""
    offset = lengths.float() - lengths.float().mean()
    slope = (offset * rewards).sum() / offset.square().sum()
    return rewards - slope * offset


def _mean_lost(rewards: Tensor, lengths: Tensor) -> Tensor:
    kept = without_length(rewards, lengths)
    return kept - kept.mean()


def _through_zero(rewards: Tensor, lengths: Tensor) -> Tensor:
    slope = (lengths * rewards).sum() / lengths.float().square().sum()
    return rewards - slope * lengths


def _divided(rewards: Tensor, lengths: Tensor) -> Tensor:
    return rewards / lengths


def _level_moved(rewards: Tensor, lengths: Tensor) -> Tensor:
    offset = lengths.float() - lengths.float().mean()
    slope = (offset * rewards).sum() / offset.square().sum()
    return rewards - slope * lengths


def _check_without(answer) -> str | None:
    rewards = torch.tensor([1.0, 2.5, 2.0, 4.0, 3.0])
    lengths = torch.tensor([5.0, 9.0, 12.0, 20.0, 14.0])
    got = torch.as_tensor(answer(rewards, lengths)).double()
    known = {
        _mean_lost: (
            "The rewards are centred at zero now. Take out what the length "
            "explains, and leave the mean as it was."
        ),
        _through_zero: (
            "Your line goes through the origin: a text of no words would "
            "have no reward. Fit the slope on lengths minus their mean."
        ),
        _divided: (
            "Dividing turns the preference round: now short answers win, "
            "and negative rewards become better by being long. Subtract."
        ),
        _level_moved: (
            "The slope is right, but you took it times the whole length off, "
            "so the mean moved. Take it times length minus mean length."
        ),
    }
    for mistake, message in known.items():
        if _same(got, mistake(rewards, lengths)):
            return message
    wanted = without_length(rewards, lengths)
    if not _same(got, wanted):
        return f"Expected {wanted.tolist()}, got {got.tolist()}."
    return None


register(
    Exercise(
        "16.3",
        "Take the length out",
        _check_without,
        without_length,
        {
            "mean lost": _mean_lost,
            "through the origin": _through_zero,
            "divided": _divided,
            "level moved": _level_moved,
        },
    )
)


# 16.4 -------------------------------------------------------------------


def best_policy(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """The policy (n,) of the highest reward on a leash of beta."""
    return (reference.log() + reward / beta).softmax(dim=-1)


def _beta_multiplied(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return (reference.log() + reward * beta).softmax(dim=-1)


def _no_reference(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return (reward / beta).softmax(dim=-1)


def _not_normalised(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return reference * (reward / beta).exp()


def _probability_added(
    reference: Tensor, reward: Tensor, beta: float
) -> Tensor:
    return (reference + reward / beta).softmax(dim=-1)


def _overflows(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    weight = reference * (reward / beta).exp()
    return weight / weight.sum()


def _check_best(answer) -> str | None:
    reference = torch.tensor([0.2, 0.3, 0.5])
    reward = torch.tensor([1.5, 0.5, -0.25])
    got = torch.as_tensor(answer(reference, reward, 0.5)).double()
    known = {
        _beta_multiplied: (
            "You multiplied the reward by beta. A large beta is a short "
            "leash: divide."
        ),
        _no_reference: (
            "The reference is missing: an answer that it never gives would "
            "be given too."
        ),
        _not_normalised: "These do not sum to one: divide by their sum Z.",
        _probability_added: (
            "You added a probability to an exponent. Either multiply by the "
            "reference outside, or add its logarithm inside."
        ),
    }
    for mistake, message in known.items():
        if _same(got, mistake(reference, reward, 0.5)):
            return message
    wanted = best_policy(reference, reward, 0.5)
    if not _same(got, wanted):
        return f"Expected {wanted.tolist()}, got {got.tolist()}."
    far = torch.as_tensor(answer(reference, 400 * reward, 0.5))
    if not _same(far, best_policy(reference, 400 * reward, 0.5)):
        return (
            f"With rewards of some hundreds you return {far.tolist()}: "
            "exp(1200) is too large for a float. Add ln of the reference and "
            "leave the exponential to softmax."
        )
    return None


register(
    Exercise(
        "16.4",
        "The best policy on a leash",
        _check_best,
        best_policy,
        {
            "beta multiplied": _beta_multiplied,
            "no reference": _no_reference,
            "not normalised": _not_normalised,
            "a probability in the exponent": _probability_added,
            "overflow": _overflows,
        },
    )
)


# 16.5 -------------------------------------------------------------------


def dpo_of(
    chosen: float,
    rejected: float,
    ref_chosen: float,
    ref_rejected: float,
    beta: float,
) -> tuple[float, float]:
    """DPO's loss of a pair, and how hard its gradient pulls."""
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    surprise = 1 - _sigmoid(margin)
    return math.log1p(math.exp(-margin)), beta * surprise


def _without_reference(c, r, ref_c, ref_r, beta) -> tuple[float, float]:
    return dpo_of(c, r, 0.0, 0.0, beta)


def _turned_round(c, r, ref_c, ref_r, beta) -> tuple[float, float]:
    return dpo_of(r, c, ref_r, ref_c, beta)


def _beta_outside(c, r, ref_c, ref_r, beta) -> tuple[float, float]:
    loss, pull = dpo_of(c, r, ref_c, ref_r, 1.0)
    return beta * loss, beta * pull


def _no_beta_in_the_pull(c, r, ref_c, ref_r, beta) -> tuple[float, float]:
    loss, pull = dpo_of(c, r, ref_c, ref_r, beta)
    return loss, pull / beta


def _pulls_where_it_is_right(c, r, ref_c, ref_r, beta) -> tuple[float, float]:
    loss, pull = dpo_of(c, r, ref_c, ref_r, beta)
    return loss, beta - pull


def _check_dpo(answer) -> str | None:
    case = (-10.0, -12.0, -11.5, -11.0, 0.2)
    known = {
        _without_reference: (
            "The reference is missing: subtract its log-probability from the "
            "policy's, for each answer."
        ),
        _turned_round: (
            "The loss grows as the chosen answer gains. Chosen minus "
            "rejected, not the other way."
        ),
        _beta_outside: (
            "Beta stands in front of the loss. It belongs inside the "
            "sigmoid, on the margin."
        ),
        _no_beta_in_the_pull: (
            "The loss is right. In the gradient beta comes out once, as a "
            "factor of the surprise."
        ),
        _pulls_where_it_is_right: (
            "The loss is right, but you pull hardest at pairs that are in "
            "order already. The surprise is the sigmoid of minus the margin."
        ),
    }
    got = torch.tensor([float(x) for x in answer(*case)])
    for mistake, message in known.items():
        if _same(got, torch.tensor(mistake(*case))):
            return message
    for pair in (case, (-30.0, -20.0, -25.0, -25.0, 0.1)):
        wanted = dpo_of(*pair)
        found = torch.tensor([float(x) for x in answer(*pair)])
        if not _same(found, torch.tensor(wanted)):
            return f"For {pair} expected {wanted}, got {found.tolist()}."
    return None


register(
    Exercise(
        "16.5",
        "DPO on one pair",
        _check_dpo,
        dpo_of,
        {
            "no reference": _without_reference,
            "turned round": _turned_round,
            "beta outside": _beta_outside,
            "no beta in the pull": _no_beta_in_the_pull,
            "pulls where it is right": _pulls_where_it_is_right,
        },
    )
)


# 16.6 -------------------------------------------------------------------


def resting_margin(agree: float, epsilon: float) -> float:
    """The margin at which label-smoothed DPO has its lowest mean loss."""
    smoothed = (1 - epsilon) * agree + epsilon * (1 - agree)
    return math.log(smoothed / (1 - smoothed))


def _without_smoothing(agree: float, epsilon: float) -> float:
    return resting_margin(agree, 0.0)


def _of_epsilon_alone(agree: float, epsilon: float) -> float:
    return resting_margin(1.0, epsilon)


def _the_share_itself(agree: float, epsilon: float) -> float:
    return (1 - epsilon) * agree + epsilon * (1 - agree)


def _corrected(agree: float, epsilon: float) -> float:
    clean = (agree - epsilon) / (1 - 2 * epsilon)
    return math.log(clean / (1 - clean))


def _check_resting(answer) -> str | None:
    case = (0.7, 0.15)
    known = {
        _without_smoothing: (
            "That is where plain DPO rests: your answer does not depend on "
            "epsilon."
        ),
        _of_epsilon_alone: (
            "That is the resting place if all labels agree. A share of "
            "1 - agree has the other answer first, and is smoothed too."
        ),
        _the_share_itself: (
            "That is the share of smoothed labels for the first answer, and "
            "at rest the sigmoid of the margin equals it. Return the margin."
        ),
        _corrected: (
            "That is where *robust* DPO rests, which undoes the flips. The "
            "conservative loss adds its own to them."
        ),
    }
    got = float(answer(*case))
    for mistake, message in known.items():
        if _near(got, mistake(*case)):
            return message
    for pair in (case, (0.5, 0.3), (1.0, 0.2), (0.8, 0.0), (0.25, 0.1)):
        if not _near(float(answer(*pair)), resting_margin(*pair)):
            return (
                f"For agree = {pair[0]} and epsilon = {pair[1]} expected "
                f"{resting_margin(*pair):.4f}, got {float(answer(*pair)):.4f}."
            )
    return None


register(
    Exercise(
        "16.6",
        "Where conservative DPO rests",
        _check_resting,
        resting_margin,
        {
            "no smoothing": _without_smoothing,
            "epsilon alone": _of_epsilon_alone,
            "the share itself": _the_share_itself,
            "robust for conservative": _corrected,
        },
    )
)
