"""Learning from preferences without a reward model in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.model import GPT

from .sequences import (
    IGNORED,
    Preference,
    answer_rows,
    lengths,
    numbers_at,
    sequence_logprobs,
    token_logprobs,
)

BETA = 0.1  # Rafailov et al. 2023, appendix B
KINDS = ("sigmoid", "robust", "ipo")
LARGEST_ID = 2**24  # float32 holds the whole numbers up to here


def sigmoid_loss(margins: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """DPO's loss of each pair, −ln σ(margin), for ``margins`` (B,), in nats.

    ``margins`` are the chosen answers' implicit rewards minus the rejected
    ones' (:func:`implicit_rewards`). Source: Rafailov et al. 2023, eq. 7.

    ``label_smoothing`` ε takes the label to be wrong with that probability
    and is the cross-entropy with (1 − ε, ε), which no longer asks for
    margins without end: conservative DPO (Mitchell 2023, "A note on DPO
    with noisy preferences & relationship to IPO"). The ``"sigmoid"`` of TRL
    1.16 ignores its ``label_smoothing``.

    >>> sigmoid_loss(torch.tensor([0.0, 2.0]))
    tensor([0.6931, 0.1269])
    """
    _check_smoothing(label_smoothing)
    right, wrong = -F.logsigmoid(margins), -F.logsigmoid(-margins)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def robust_loss(margins: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """DPO's loss without what wrong labels add to it on average, (B,).

    If a share ε of the labels is wrong, the mean of this over wrong and
    right labels is DPO's loss on the right ones. It may be negative.
    Source: Chowdhury, Kini and Natarajan 2024, "robust DPO"; TRL's
    ``"robust"``. It pushes further apart where :func:`sigmoid_loss` with
    the same ε holds back.

    >>> robust_loss(torch.tensor([0.0, 2.0]), label_smoothing=0.1)
    tensor([ 0.6931, -0.1231])
    """
    _check_smoothing(label_smoothing)
    right, wrong = -F.logsigmoid(margins), -F.logsigmoid(-margins)
    total = (1 - label_smoothing) * right - label_smoothing * wrong
    return total / (1 - 2 * label_smoothing)


def ipo_loss(margins: Tensor, beta: float) -> Tensor:
    """IPO's loss of each pair, (margin / beta − 1 / (2 beta))², (B,).

    margin / beta is the difference of the two log-ratios. It is drawn to
    1 / (2 beta) and not beyond, even where all labels agree. Source: Azar
    et al. 2023, eq. 17, whose τ is ``beta``.

    The paper's log-ratios are of whole answers; TRL's ``"ipo"`` divides
    each by its answer's tokens (here: ``per="token"`` in
    :func:`preference_loss`).

    >>> ipo_loss(torch.tensor([0.0, 0.5]), beta=0.1)
    tensor([25., 0.])
    """
    return (margins / beta - 1 / (2 * beta)).square()


class Outcome(NamedTuple):
    """A loss, and the implicit ``rewards`` (B, 2) that it comes from."""

    loss: Tensor
    rewards: Tensor

    @property
    def margins(self) -> Tensor:
        """By how much each chosen answer is rewarded above the other, (B,)."""
        return self.rewards[:, 0] - self.rewards[:, 1]

    @property
    def accuracy(self) -> Tensor:
        """The share of pairs whose chosen answer has the higher reward."""
        return (self.margins > 0).float().mean()


def implicit_rewards(
    policy: Tensor, reference: Tensor, beta: float = BETA
) -> Tensor:
    """beta · ln(π / π_ref) of each answer, for log-probabilities (B, 2).

    The reward for which the policy is already the best one, but for a term
    that answers to the same prompt share. Source: Rafailov et al. 2023,
    eq. 5 and section 4.
    """
    if policy.shape != reference.shape or policy.shape[-1:] != (2,):
        raise ValueError(
            f"got log-probabilities {tuple(policy.shape)} of the policy and "
            f"{tuple(reference.shape)} of the reference; expected (B, 2) of "
            "both: the chosen answer's, then the rejected one's."
        )
    if not beta > 0:
        raise ValueError(f"beta is {beta!r}; expected a number above 0.")
    return beta * (policy - reference)


def dpo_loss(
    policy: Tensor,
    reference: Tensor,
    beta: float = BETA,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> Outcome:
    """The mean loss over pairs, and the implicit rewards.

    Args:
        policy: ln p of the answers by the model in training, (B, 2), the
            chosen answer's first.
        reference: the same by the model that it started from.
        beta: how dear it is to leave the reference.
        kind: ``"sigmoid"`` (:func:`sigmoid_loss`), ``"robust"``
            (:func:`robust_loss`) or ``"ipo"`` (:func:`ipo_loss`).
        label_smoothing: the share of labels taken to be wrong.

    Raises:
        ValueError: a choice is none, or the shapes differ.

    >>> policy = torch.tensor([[-10.0, -12.0]])
    >>> reference = torch.tensor([[-11.0, -11.0]])
    >>> found = dpo_loss(policy, reference, beta=0.5)
    >>> round(found.loss.item(), 4), found.margins.tolist()
    (0.3133, [1.0])
    """
    _check_kind(kind, label_smoothing)
    rewards = implicit_rewards(policy, reference, beta)
    margins = rewards[:, 0] - rewards[:, 1]
    if kind == "ipo":
        losses = ipo_loss(margins, beta)
    elif kind == "robust":
        losses = robust_loss(margins, label_smoothing)
    else:
        losses = sigmoid_loss(margins, label_smoothing)
    return Outcome(losses.mean(), rewards.detach())


class PreferenceBatches:
    """Preferences as batches for :func:`llmbook.train.train`.

    ``x`` (B, 2, T) holds the inputs, the chosen answer's row first. ``y``
    (B, 2, 1 + T) holds beside each row's targets, in front, the reference's
    log-probability of the answer. It is float32, which holds token ids
    exactly.

    Args:
        preferences: prompts with two answers.
        reference: log-probabilities (N, 2) of
            :func:`~llmbook.alignment.sequences.preference_logprobs`.
        batch_size: pairs B in a batch.
        seed: fixes the order.

    Raises:
        ValueError: another number of log-probabilities than preferences, or
            fewer preferences than a batch needs.

    >>> rows = [Preference([1, 2], [3, 4], [5])]
    >>> reference = torch.tensor([[-6.0, -2.5]])
    >>> x, y = PreferenceBatches(rows, reference, batch_size=1).at(0)
    >>> x.tolist()
    [[[1, 2, 3], [1, 2, 0]]]
    >>> y.tolist()
    [[[-6.0, -100.0, 3.0, 4.0], [-2.5, -100.0, 5.0, -100.0]]]
    """

    def __init__(
        self,
        preferences: Sequence[Preference],
        reference: Tensor,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        if reference.shape != (len(preferences), 2):
            raise ValueError(
                f"got {len(preferences)} preferences and a reference of "
                f"shape {tuple(reference.shape)}; expected two "
                "log-probabilities each. Compute them with "
                "preference_logprobs(model, preferences)."
            )
        self.preferences, self.reference = preferences, reference
        self.batch_size, self.seed = batch_size, seed
        numbers_at(0, len(preferences), batch_size)  # enough of them?

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step."""
        numbers = numbers_at(
            step, len(self.preferences), self.batch_size, self.seed
        )
        drawn = [self.preferences[number] for number in numbers]
        x, targets = answer_rows(
            [(p.prompt, answer) for p in drawn for answer in p.answers]
        )
        _check_exact(targets)
        reference = self.reference[numbers].view(-1, 1).float()
        y = torch.cat([reference, targets.float()], dim=1)  # (2B, 1 + T)
        pairs = len(drawn), 2, -1
        return x.view(pairs), y.view(pairs)


def preference_outcome(
    model: GPT,
    x: Tensor,
    y: Tensor,
    *,
    beta: float = BETA,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
    per: str = "answer",
    sft: float = 0.0,
) -> Outcome:
    """:func:`dpo_loss` of a batch of :class:`PreferenceBatches`.

    Args:
        beta, kind, label_smoothing: as in :func:`dpo_loss`.
        per: ``"token"`` divides log-probabilities by their answers' tokens.
        sft: how often the chosen answers' mean loss a token counts beside.
            It holds up their probability, which DPO alone may lower as long
            as the other answer's falls faster (Pang et al. 2024, section 2,
            who divide each answer by its own length; TRL's ``"sft"``, the
            mean over all tokens of the batch, is the one here).
    """
    targets = y[..., 1:].long()
    logprobs = token_logprobs(model, x.flatten(0, 1), targets.flatten(0, 1))
    logprobs = logprobs.view(targets.shape)  # (B, 2, T)
    mask = targets != IGNORED
    policy = sequence_logprobs(logprobs, mask, per)  # (B, 2)
    reference = y[..., 0] / (lengths(mask) if per == "token" else 1)
    outcome = dpo_loss(policy, reference, beta, kind, label_smoothing)
    if not sft:
        return outcome
    chosen = -logprobs[:, 0].sum() / mask[:, 0].sum()
    return outcome._replace(loss=outcome.loss + sft * chosen)


def preference_loss(
    model: GPT, x: Tensor, y: Tensor, **choices: float | str
) -> Tensor:
    """The loss of :func:`preference_outcome`, as the training loop asks.

    ``choices`` are set by ``functools.partial``.
    """
    return preference_outcome(model, x, y, **choices).loss


def preference_accuracy(
    model: GPT, x: Tensor, y: Tensor, per: str = "answer"
) -> Tensor:
    """The share of pairs whose chosen answer has gained more.

    Fit for :func:`llmbook.train.evaluate`, in the loss function's place.
    """
    return preference_outcome(model, x, y, per=per).accuracy


def _check_kind(kind: str, label_smoothing: float) -> None:
    if kind not in KINDS or (kind == "ipo" and label_smoothing):
        raise ValueError(
            f"got kind={kind!r} and label_smoothing={label_smoothing}; "
            f"expected one of {', '.join(KINDS)}, and no smoothing for ipo."
        )


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing is {label_smoothing!r}; expected the share of "
            "wrong labels, from 0 to below 0.5, where they say nothing."
        )


def _check_exact(targets: Tensor) -> None:
    if int(targets.max()) > LARGEST_ID:
        raise ValueError(
            f"got the token id {int(targets.max())}; targets travel as "
            f"float32, which holds ids up to {LARGEST_ID}."
        )
