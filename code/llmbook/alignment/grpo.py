"""Learning from rewards: try several answers, and repeat what did better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llmbook.batching import generate_batch, left_pad
from llmbook.batching.prefix import evaluating
from llmbook.model import GPT

from .sequences import IGNORED, Ids, answer_rows, numbers_at, token_logprobs

STD_FLOOR = 1e-4  # as in TRL: equal rewards give 0 / 0.0001 and not 0 / 0
NORMALISATIONS = ("grpo", "dr_grpo", "dapo")

# The prompts' numbers, and an answer's new ids for each, to their rewards.
RewardFunction = Callable[[list[int], list[list[int]]], Sequence[float]]


class Recipe(NamedTuple):
    """What papers of this family choose differently.

    ``normalisation`` says what the loss is a mean over (:func:`token_mean`),
    ``scale`` whether advantages are divided by their group's spread, ``low``
    and ``high`` how far the ratio may fall and rise, and ``kl_weight`` what
    it costs to leave the reference.
    """

    normalisation: str = "grpo"
    scale: bool = True
    low: float = 0.2
    high: float = 0.2
    kl_weight: float = 0.0


RECIPES = {
    # Shao et al. 2024, section 4.2; the clip is PPO's (Schulman et al. 2017)
    "grpo": Recipe("grpo", kl_weight=0.04),
    # Liu et al. 2025, section 3.2
    "dr_grpo": Recipe("dr_grpo", scale=False),
    # Yu et al. 2025, sections 2.3, 3.1, 3.3 and 4.1, but neither its choice
    # of prompts (3.2) nor its reward for length (3.4)
    "dapo": Recipe("dapo", high=0.28),
}


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """How much better each answer did than its group, (P, G) to (P, G).

    Reward minus the mean over the G answers to one prompt, divided by their
    sample standard deviation (G − 1 in its denominator, as in TRL; the
    paper leaves it open). Source: Shao et al. 2024, section 4.1.2.
    ``scale=False`` does not divide, so that prompts on which the answers
    nearly agree do not count more (Liu et al. 2025, section 3.1).

    Raises:
        ValueError: groups of fewer than two, or a reward is not finite.

    >>> group_advantages(torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]))
    tensor([[-0.9999,  0.0000,  0.9999],
            [ 0.0000,  0.0000,  0.0000]])
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"got rewards of shape {tuple(rewards.shape)}; expected (P, G) "
            "with at least two answers a prompt to compare."
        )
    if not rewards.isfinite().all():
        raise ValueError(
            f"got the rewards {rewards.tolist()}; expected finite numbers. "
            "Give an answer that cannot be judged a reward of its own."
        )
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if not scale:
        return advantages
    return advantages / (rewards.std(dim=1, keepdim=True) + STD_FLOOR)


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(model ‖ reference) from each drawn token, in nats.

    With r = p_reference / p_model: r − 1 − ln r. Its mean over the model's
    tokens is the divergence, as that of −ln r is; but no term is negative,
    and it varies less. Source: Schulman 2020, "Approximating KL
    Divergence", k₃; Shao et al. 2024, eq. 4.

    >>> half, quarter = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    >>> round(kl_k3(half, quarter).item(), 4)  # 0.5 - 1 - ln 0.5
    0.1931
    """
    log_ratio = reference - logprobs
    return log_ratio.exp() - 1 - log_ratio


def clipped_objective(
    ratio: Tensor, advantages: Tensor, low: float, high: float
) -> Tensor:
    """What an answer's token is worth, up to a limit; shapes broadcast.

    ``ratio`` is p_now / p_then of a token that was drawn then. ``ratio ·
    advantage`` would reward moving ever further; beyond 1 + ``high`` where
    the answer was good, and below 1 − ``low`` where it was bad, nothing more
    is gained, and the gradient is zero. Source: Schulman et al. 2017, eq.
    7; with two limits Yu et al. 2025, section 3.1.

    >>> ratios = torch.tensor([0.5, 1.0, 1.5])
    >>> clipped_objective(ratios, torch.tensor(1.0), 0.2, 0.2)
    tensor([0.5000, 1.0000, 1.2000])
    >>> clipped_objective(ratios, torch.tensor(-1.0), 0.2, 0.2)
    tensor([-0.8000, -1.0000, -1.5000])
    """
    clipped = ratio.clamp(1 - low, 1 + high)
    return torch.minimum(ratio * advantages, clipped * advantages)


def token_mean(
    values: Tensor, mask: Tensor, normalisation: str, max_length: int
) -> Tensor:
    """One number from the values of answers' tokens, (B, T) to ().

    ``"grpo"``: the mean over each answer's tokens, then over answers, so a
    token of a long answer counts less (Shao et al. 2024, eq. 3).
    ``"dr_grpo"``: the sum over B · ``max_length``, a constant, so that
    every token counts alike in every batch (Liu et al. 2025, section 3.2
    and listing 1). ``"dapo"``: the mean over all tokens of the batch (Yu et
    al. 2025, section 3.3; its eq. 8 takes each prompt's answers by
    themselves, TRL and this function the whole batch).

    Raises:
        ValueError: another normalisation.

    >>> values = torch.tensor([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    >>> mask = torch.tensor([[True, False, False], [True, True, True]])
    >>> [token_mean(values, mask, n, 5).item() for n in NORMALISATIONS]
    [1.5, 0.699999988079071, 1.75]
    """
    total = (values * mask).sum(dim=-1)  # (B,)
    if normalisation == "grpo":
        return (total / mask.sum(dim=-1).clamp(min=1)).mean()
    if normalisation == "dr_grpo":
        return total.sum() / (len(values) * max_length)
    if normalisation == "dapo":
        return total.sum() / mask.sum().clamp(min=1)
    raise ValueError(
        f"normalisation is {normalisation!r}; expected one of "
        f"{', '.join(NORMALISATIONS)}."
    )


class Outcome(NamedTuple):
    """A loss, the mean KL to the reference, and the share of clipped tokens.

    ``kl`` is in nats a token, and 0 without a reference.
    """

    loss: Tensor
    kl: Tensor
    clipped: Tensor


def grpo_loss(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    recipe: Recipe,
    max_length: int,
    reference: Tensor | None = None,
) -> Outcome:
    """The loss of a batch of answers: the clipped objective, turned round.

    Args:
        logprobs: ln p of each token by the model in training, (B, T).
        old: the same by the model that drew them, (B, T).
        advantages: one an answer, (B,); see :func:`group_advantages`.
        mask: which tokens are the answer's, (B, T).
        recipe: clip, KL and normalisation.
        max_length: the most tokens an answer may have.
        reference: ln p by the reference, (B, T); only for a KL term.

    Source: Shao et al. 2024, eq. 3.

    >>> new = torch.tensor([[0.5, 0.3]]).log()
    >>> old, mask = torch.tensor([[0.4, 0.3]]).log(), torch.ones(1, 2)
    >>> grpo_loss(new, old, torch.tensor([1.0]), mask, Recipe(), 2).loss
    tensor(-1.1000)
    """
    ratio, worth = (logprobs - old).exp(), advantages[:, None]
    gain = clipped_objective(ratio, worth, recipe.low, recipe.high)
    values, kl = -gain, torch.zeros_like(logprobs)
    if recipe.kl_weight:
        kl = kl_k3(logprobs, _needed(reference))
        values = values + recipe.kl_weight * kl
    clipped = (gain < ratio * worth).float()
    return Outcome(
        token_mean(values, mask, recipe.normalisation, max_length),
        token_mean(kl.detach(), mask, "dapo", max_length),
        token_mean(clipped, mask, "dapo", max_length),
    )


class PromptBatches:
    """Prompts as batches for :func:`llmbook.train.train`.

    ``x`` (P, T) holds prompts, padded on the left. ``y`` (P, 3) holds for
    each the tokens of padding, its number among ``prompts``, and which of
    the updates from the same answers this is.

    Args:
        prompts: rows of ids.
        batch_size: prompts P in a batch.
        seed: fixes the order.
        updates: steps in a row that have the same prompts, and so learn
            from the same answers.

    >>> batches = PromptBatches([[1, 2], [3]], batch_size=2, updates=2)
    >>> sorted(batches.at(1)[1].tolist())
    [[0, 0, 1], [1, 1, 1]]
    """

    def __init__(
        self,
        prompts: Sequence[Ids],
        batch_size: int,
        seed: int = 0,
        updates: int = 1,
    ) -> None:
        if updates < 1:
            raise ValueError(f"updates is {updates}; expected at least 1.")
        self.prompts, self.updates = prompts, updates
        self.batch_size, self.seed = batch_size, seed
        numbers_at(0, len(prompts), batch_size)  # enough of them?

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step."""
        draw, update = divmod(step, self.updates)
        numbers = numbers_at(
            draw, len(self.prompts), self.batch_size, self.seed
        )
        x, pads = left_pad([self.prompts[number] for number in numbers])
        which = torch.tensor(numbers)
        return x, torch.stack([pads, which, torch.full_like(pads, update)], 1)


class Rollouts(NamedTuple):
    """Answers that were drawn, as rows of P · G, and their rewards (P, G).

    ``x`` and ``y`` are inputs and targets (see
    :func:`~llmbook.alignment.sequences.answer_rows`), ``reference`` the
    log-probabilities of the targets, (P · G, T), by the reference model.
    """

    x: Tensor
    y: Tensor
    rewards: Tensor
    reference: Tensor | None


class GroupLoss:
    """GRPO as a loss function for :func:`llmbook.train.train`.

    Called with a batch of :class:`PromptBatches`, it lets the model answer
    each prompt ``group_size`` times, has the answers rewarded, and returns
    :func:`grpo_loss`. What is drawn depends on the model's weights and on
    torch's generator alone, which the loop sets by the step; so a run can
    be resumed to the bit (with ``accumulate=1``). Where several updates
    share their answers, the loop saves after the last of these.

    Dropout is off throughout, adapters' too: the answers are drawn without,
    and it is the model that drew them whose gradient is asked for. A KL to
    the reference would otherwise be that of the dropout.

    The loss says little: without clipping and KL its value is 0 at every
    step, and only its gradient counts. ``measured`` holds what the last call
    saw: mean ``reward``, mean ``length`` in tokens, ``kl``, ``clipped``, and
    ``equal``, the share of prompts whose answers were all rewarded alike and
    taught nothing. A callback can collect it.

    Args:
        reward: from the prompts' numbers and the answers' ids, with the
            stop token where one came, to a number each.
        group_size: answers G to each prompt.
        max_new_tokens: the most tokens of an answer.
        stop_tokens: ids that end an answer.
        recipe: one of :data:`RECIPES`, or your own.
        reference: the model that KL is measured to; it is not changed.

    Raises:
        ValueError: the recipe asks for KL and there is no reference, or
            rewards it; there are fewer than two answers to compare, or they
            are empty; the reward function returns another number of rewards.
    """

    def __init__(
        self,
        reward: RewardFunction,
        *,
        group_size: int,
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        recipe: Recipe = RECIPES["dr_grpo"],
        reference: GPT | None = None,
    ) -> None:
        _check_practice(recipe, group_size, max_new_tokens)
        if recipe.kl_weight:
            _needed(reference)
        self.reward, self.group_size = reward, group_size
        self.max_new_tokens, self.stop_tokens = max_new_tokens, stop_tokens
        self.recipe, self.reference = recipe, reference
        self.measured: dict[str, float] = {}
        self._kept: tuple[list[int], Rollouts, Tensor] | None = None

    def __call__(self, model: GPT, x: Tensor, y: Tensor) -> Tensor:
        numbers, update = y[:, 1].tolist(), int(y[0, 2])
        if update:
            rollouts, old = self._recall(numbers)
        else:
            rollouts, old = self.draw(model, x, y), None
        logprobs = _without_dropout(model, rollouts)
        if old is None:
            old = logprobs.detach()
            self._kept = numbers, rollouts, old
        advantages = group_advantages(rollouts.rewards, self.recipe.scale)
        outcome = grpo_loss(
            logprobs,
            old,
            advantages.flatten(),
            rollouts.y != IGNORED,
            self.recipe,
            self.max_new_tokens,
            rollouts.reference,
        )
        self._measure(rollouts, outcome)
        return outcome.loss

    def draw(self, model: GPT, x: Tensor, y: Tensor) -> Rollouts:
        """Answers to the prompts of a batch, and what they are worth."""
        rows, numbers = [], []
        for row, (pad, number, _) in zip(x.tolist(), y.tolist(), strict=True):
            rows += [row[pad:]] * self.group_size
            numbers += [number] * self.group_size
        answers = generate_batch(
            model, rows, self.max_new_tokens, stop_tokens=self.stop_tokens
        )
        rewards = list(self.reward(numbers, answers))
        if len(rewards) != len(answers):
            raise ValueError(
                f"the reward function returned {len(rewards)} numbers for "
                f"{len(answers)} answers; expected one each, in their order."
            )
        inputs, targets = answer_rows(list(zip(rows, answers, strict=True)))
        inputs, targets = inputs.to(x.device), targets.to(x.device)
        reference = None
        if self.recipe.kl_weight:
            with evaluating(self.reference):
                reference = token_logprobs(self.reference, inputs, targets)
        grouped = torch.tensor(rewards, dtype=torch.float, device=x.device)
        grouped = grouped.view(len(x), self.group_size)
        return Rollouts(inputs, targets, grouped, reference)

    def _recall(self, numbers: list[int]) -> tuple[Rollouts, Tensor]:
        """The answers of the step before, and how probable they were."""
        if self._kept is None or self._kept[0] != numbers:
            raise ValueError(
                "the answers that this step should learn from again are "
                "gone: another batch came between the two. Give train() no "
                "validation batches, and accumulate=1."
            )
        return self._kept[1:]

    def _measure(self, rollouts: Rollouts, outcome: Outcome) -> None:
        rewards = rollouts.rewards
        equal = (rewards == rewards[:, :1]).all(dim=1)
        lengths = (rollouts.y != IGNORED).sum(dim=1)
        self.measured = {
            "reward": rewards.mean().item(),
            "length": lengths.float().mean().item(),
            "kl": outcome.kl.item(),
            "clipped": outcome.clipped.item(),
            "equal": equal.float().mean().item(),
        }


def _without_dropout(model: GPT, rollouts: Rollouts) -> Tensor:
    """ln p of each drawn token, (B, T), with gradients."""
    training = model.training
    model.eval()
    try:
        return token_logprobs(model, rollouts.x, rollouts.y)
    finally:
        model.train(training)


def _check_practice(recipe: Recipe, group_size: int, longest: int) -> None:
    if not 0 <= recipe.kl_weight < math.inf:
        raise ValueError(
            f"kl_weight is {recipe.kl_weight!r}; expected 0 or more. Below "
            "that, leaving the reference would be rewarded."
        )
    if group_size < 2 or longest < 1:
        raise ValueError(
            f"got group_size={group_size} and max_new_tokens={longest}; "
            "expected at least two answers a prompt to compare, of at least "
            "one token."
        )


def _needed(reference: object) -> object:
    if reference is None:
        raise ValueError(
            "the recipe has a KL term and there is no reference. Give the "
            "model that training starts from, a copy that stays as it is, "
            "or a recipe with kl_weight=0."
        )
    return reference
