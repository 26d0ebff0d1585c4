"""A short run's record, for the time machine's tests."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch

from llmbook.model import GPT
from llmbook.train import History
from llmbook.widgets import TimeMachine
from tests.browser import trained

STEPS = (0, 1, 5, 25, 150)
MARKS = {"knows nothing": 5.7, "entropy": 0.4}


@dataclass
class Recorded:
    """A moment of a run: the way from a new model to the trained one."""

    step: int
    sample: str
    network: GPT = field(repr=False)

    def model(self) -> GPT:
        return self.network


@torch.no_grad()
def recorded() -> list[Recorded]:
    """Five moments, from noise to the model of :mod:`trained`."""
    model, _ = trained.trained()
    newborn = GPT(model.config, torch.Generator().manual_seed(0))
    moments = []
    for n, step in enumerate(STEPS):
        between = copy.deepcopy(newborn).eval()
        for own, end in zip(
            between.parameters(), model.parameters(), strict=True
        ):
            own.lerp_(end, n / (len(STEPS) - 1))
        sample = f"sample {n}:\nOna lost the" + " kite" * n
        moments.append(Recorded(step, sample, between))
    return moments


def history() -> History:
    """A loss that falls, and is measured on held-out text three times."""
    loss = [5.7 / (1 + step / 20) for step in range(150)]
    pairs = [(0, 5.7), (75, 1.5), (150, 0.8)]
    return History(loss=loss, evaluations=pairs)


def machine(**choices) -> TimeMachine:
    """The figure of that run, on the book's sentence."""
    _, tokenizer = trained.trained()
    choices = {"marks": MARKS, "name": "fig-run"} | choices
    return TimeMachine.from_snapshots(
        recorded(), tokenizer, trained.SENTENCE, history(), **choices
    )
