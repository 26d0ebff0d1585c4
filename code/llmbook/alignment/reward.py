"""A model of preferences: one number for an answer, learned from pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.batching import right_pad
from llmbook.model import GPT

from .sequences import Ids, Preference, numbers_at


class Classifier(nn.Module):
    """A :class:`GPT` that puts a text into one of a few classes.

    A linear head on the hidden state of the text's last token, the only one
    that has seen all of it (Radford et al. 2018, section 3.2). The head
    begins at zero, so that at first no class is preferred, and the loss is
    ln(n_class).

    Args:
        gpt: the model that reads; it is trained along.
        n_class: numbers that come out.

    >>> from llmbook.config import GPTConfig
    >>> model = Classifier(GPT(GPTConfig(n_head=1, n_embd=8)), n_class=3)
    >>> model(torch.tensor([[4, 7, 0]]), torch.tensor([1]))
    tensor([[0., 0., 0.]], grad_fn=...)
    """

    def __init__(self, gpt: GPT, n_class: int) -> None:
        super().__init__()
        self.gpt = gpt
        weight = gpt.head_weight
        self.score = nn.Linear(weight.shape[1], n_class, bias=False)
        self.score.to(weight).weight.detach().zero_()

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        """Logits (B, n_class) of texts ``x`` (B, T) that end at ``last``.

        ``last`` (B,) is the place of each text's last token; what stands
        behind it is padding.
        """
        rows = torch.arange(len(x), device=x.device)
        hidden = self.gpt.hidden(x)[rows, last]  # (B, C)
        return self.score(hidden).float()


class RewardModel(Classifier):
    """A :class:`GPT` that gives a text one number: the more, the better.

    Source: Ouyang et al. 2022, section 3.5; Stiennon et al. 2020, section
    3.4.
    """

    def __init__(self, gpt: GPT) -> None:
        super().__init__(gpt, n_class=1)

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        """The reward (B,) of each text; see :class:`Classifier`."""
        return super().forward(x, last)[:, 0]


def padded_texts(texts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Texts from the left, (B, T), and where each ends, (B,).

    Raises:
        ValueError: there is no text, or one is empty.

    >>> x, last = padded_texts([[5, 6, 7], [8]])
    >>> x.tolist(), last.tolist()
    ([[5, 6, 7], [8, 0, 0]], [2, 0])
    """
    if not texts or not all(texts):
        raise ValueError(
            f"got texts of {[len(text) for text in texts]} tokens; expected "
            "at least one text, and at least one token in each."
        )
    last = [len(text) - 1 for text in texts]
    return right_pad(texts, 1 + max(last)), torch.tensor(last)


def bradley_terry_loss(
    rewards: Tensor, margin: Tensor | float = 0.0, centring: float = 0.0
) -> Tensor:
    """How badly ``rewards`` (B, 2) explain that the first was chosen, nats.

    The mean of −ln σ(r_chosen − r_rejected − margin): the cross-entropy of
    a model in which the log-odds of a choice are the difference of two
    rewards (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1; the margin
    (B,): Touvron et al. 2023, eq. 2).

    Only differences count there, and the rewards' level drifts. ``centring``
    times the mean of (r_chosen + r_rejected)² holds it at zero (Eisenstein
    et al. 2023, eq. 2; TRL's ``center_rewards_coefficient``, where 0.01 is
    advised).

    >>> round(bradley_terry_loss(torch.tensor([[2.0, 1.0]])).item(), 4)
    0.3133
    """
    chosen, rejected = rewards.unbind(dim=-1)
    loss = -F.logsigmoid(chosen - rejected - margin).mean()
    return loss + centring * (chosen + rejected).square().mean()


class RewardBatches:
    """Preferences as batches for :func:`llmbook.train.train`.

    ``x`` (B, 2, T) holds prompt and answer whole, the chosen answer first.
    ``y`` (B, 3) holds where the two texts end, and the margin, as float32.

    >>> rows = [Preference([1, 2], [3, 4], [5])]
    >>> x, y = RewardBatches(rows, batch_size=1).at(0)
    >>> x.tolist(), y.tolist()
    ([[[1, 2, 3, 4], [1, 2, 5, 0]]], [[3.0, 2.0, 0.0]])
    """

    def __init__(
        self,
        preferences: Sequence[Preference],
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self.preferences = preferences
        self.batch_size, self.seed = batch_size, seed
        numbers_at(0, len(preferences), batch_size)  # enough of them?

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step."""
        numbers = numbers_at(
            step, len(self.preferences), self.batch_size, self.seed
        )
        drawn = [self.preferences[number] for number in numbers]
        texts = [[*p.prompt, *answer] for p in drawn for answer in p.answers]
        x, last = padded_texts(texts)
        margins = torch.tensor([p.margin for p in drawn])
        y = torch.cat([last.view(-1, 2).float(), margins[:, None]], dim=1)
        return x.view(len(drawn), 2, -1), y


def pair_rewards(model: RewardModel, x: Tensor, y: Tensor) -> Tensor:
    """The rewards (B, 2) of a batch of :class:`RewardBatches`."""
    last = y[:, :2].long()
    return model(x.flatten(0, 1), last.flatten()).view(-1, 2)


def reward_loss(
    model: RewardModel, x: Tensor, y: Tensor, centring: float = 0.0
) -> Tensor:
    """:func:`bradley_terry_loss` of a batch, as the training loop asks.

    Another ``centring`` is set by ``functools.partial``.
    """
    rewards = pair_rewards(model, x, y)
    return bradley_terry_loss(rewards, y[:, 2], centring)


def reward_accuracy(model: RewardModel, x: Tensor, y: Tensor) -> Tensor:
    """The share of pairs whose chosen answer has the higher reward.

    Fit for :func:`llmbook.train.evaluate`, in the loss function's place.
    """
    chosen, rejected = pair_rewards(model, x, y).unbind(dim=-1)
    return (chosen > rejected).float().mean()


class LabelledBatches:
    """Texts and their classes as batches for the training loop.

    ``x`` is (B, T); ``y`` (B, 2) holds each text's last place and class.

    >>> x, y = LabelledBatches([[1, 2], [3]], [0, 1], batch_size=2).at(0)
    >>> sorted(y.tolist())
    [[0, 1], [1, 0]]
    """

    def __init__(
        self,
        texts: Sequence[Ids],
        labels: Sequence[int],
        batch_size: int,
        seed: int = 0,
    ) -> None:
        if len(texts) != len(labels):
            raise ValueError(
                f"got {len(texts)} texts and {len(labels)} labels; expected "
                "one label a text."
            )
        self.texts, self.labels = texts, labels
        self.batch_size, self.seed = batch_size, seed
        numbers_at(0, len(texts), batch_size)  # enough of them?

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step."""
        numbers = numbers_at(step, len(self.texts), self.batch_size, self.seed)
        x, last = padded_texts([self.texts[number] for number in numbers])
        labels = torch.tensor([self.labels[number] for number in numbers])
        return x, torch.stack([last, labels], dim=1)


def classifier_loss(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of a batch of :class:`LabelledBatches`, in nats."""
    return F.cross_entropy(model(x, y[:, 0]), y[:, 1])
