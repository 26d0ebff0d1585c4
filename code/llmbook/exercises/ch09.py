"""Exercises of the chapter on pretraining."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.config import GPTConfig
from llmbook.exercises import Exercise, diagnosis, register
from llmbook.model import GPT
from llmbook.optim import AdamW

TOLERANCE = 1e-5
SHAPE = GPTConfig(
    vocab_size=11, context_length=6, n_layer=1, n_head=2, n_embd=8
)


def _model(seed: int = 0) -> GPT:
    return GPT(SHAPE, torch.Generator().manual_seed(seed))


def _ids(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SHAPE.vocab_size, shape, generator=generator)


def _close(got: Any, wanted: Any) -> bool:
    got, wanted = torch.as_tensor(got), torch.as_tensor(wanted)
    return got.shape == wanted.shape and torch.allclose(
        got.double(), wanted.double(), atol=TOLERANCE, rtol=1e-4
    )


_diagnosis = partial(diagnosis, _close)


# 9.1 --------------------------------------------------------------------


def windows(ids: Tensor, T: int, starts: list[int]) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T), cut from ``ids`` at ``starts``."""
    x = torch.stack([ids[s : s + T] for s in starts])
    y = torch.stack([ids[s + 1 : s + T + 1] for s in starts])
    return x, y


def _not_shifted(ids, T, starts):
    x = windows(ids, T, starts)[0]
    return x, x


def _shifted_back(ids, T, starts):
    x, y = windows(ids, T, starts)
    return y, x


def _shifted_by_two(ids, T, starts):
    x = windows(ids, T, starts)[0]
    return x, torch.stack([ids[s + 2 : s + T + 2] for s in starts])


def _one_short(ids, T, starts):
    x, y = windows(ids, T, starts)
    return x[:, :-1], y[:, :-1]


_WINDOWS = {
    _not_shifted: (
        "Targets equal inputs: the model is asked for the token that it "
        "has just read. The loss would fall to 0 and nothing be learned. "
        "Shift the targets by one."
    ),
    _shifted_back: (
        "The shift goes the wrong way: each target is the token before its "
        "input. Targets begin at start + 1."
    ),
    _shifted_by_two: (
        "The targets are two places ahead; each position should guess the "
        "very next token."
    ),
    _one_short: (
        "The windows have T - 1 tokens. Cut the targets from ids themselves, "
        "at start + 1, and nothing is lost."
    ),
}


def _check_windows(answer: Any) -> str | None:
    inputs = torch.arange(40) ** 2 % 37, 5, [0, 7, 30]
    x, y = answer(*inputs)
    got = torch.cat([torch.as_tensor(x), torch.as_tensor(y)])
    if _close(got, torch.cat(windows(*inputs))):
        return None

    def run(mistake: Callable) -> Tensor:
        return torch.cat(mistake(*inputs))

    return _diagnosis(got, _WINDOWS, run) or (
        f"Expected two tensors of shape (3, 5); the first window's targets "
        f"are {windows(*inputs)[1][0].tolist()}."
    )


register(
    Exercise(
        "9.1",
        "Cut windows",
        _check_windows,
        windows,
        {
            "targets not shifted": _not_shifted,
            "shifted back": _shifted_back,
            "shifted by two": _shifted_by_two,
            "one short": _one_short,
        },
        "Input and target overlap in all but one token at each end.",
    )
)


# 9.2 --------------------------------------------------------------------


def perplexity(documents: Sequence[Sequence[float]]) -> float:
    """exp of the mean loss a token; each document lists its losses, nats."""
    losses = [loss for document in documents for loss in document]
    return math.exp(sum(losses) / len(losses))


def _summed(documents):
    return math.exp(sum(sum(d) for d in documents))


def _base_two(documents):
    return 2 ** math.log(perplexity(documents))


def _exp_first(documents):
    losses = [math.exp(x) for d in documents for x in d]
    return sum(losses) / len(losses)


def _mean_of_documents(documents):
    return math.exp(sum(sum(d) / len(d) for d in documents) / len(documents))


def _no_exp(documents):
    return math.log(perplexity(documents))


_PERPLEXITY = {
    _summed: (
        "The losses were summed, not averaged: this grows with the length "
        "of the text. Divide by the number of tokens first."
    ),
    _base_two: (
        "You raised 2 to the loss. The losses are in nats, natural "
        "logarithms, so the base is e."
    ),
    _exp_first: (
        "You took exp of each loss and averaged after. Average the losses "
        "first: perplexity is a geometric mean of 1/p."
    ),
    _mean_of_documents: (
        "Each document counts the same here, however short. Count each "
        "token the same: pool all losses, then average."
    ),
    _no_exp: "That is the mean loss in nats. Perplexity is exp of it.",
}


def _check_perplexity(answer: Any) -> str | None:
    documents = [[0.5, 1.5, 0.25], [3.0]]
    got, wanted = answer(documents), perplexity(documents)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _PERPLEXITY, lambda f: f(documents)) or (
        f"For the losses {documents} expected {wanted:.4f}, got {got!r}."
    )


register(
    Exercise(
        "9.2",
        "Perplexity",
        _check_perplexity,
        perplexity,
        {
            "summed, not averaged": _summed,
            "base 2": _base_two,
            "exp before the mean": _exp_first,
            "mean of document means": _mean_of_documents,
            "no exp": _no_exp,
        },
        "A model of perplexity p is as unsure as a fair die with p faces.",
    )
)


# 9.3 --------------------------------------------------------------------

Parts = Sequence[tuple[Tensor, Tensor]]


def accumulate(model: nn.Module, parts: Parts) -> None:
    """Leave in ``.grad`` the gradient of the mean loss over all parts."""
    model.zero_grad()
    for x, y in parts:
        (model(x, y)[1] / len(parts)).backward()


def _not_divided(model, parts):
    model.zero_grad()
    for x, y in parts:
        model(x, y)[1].backward()


def _zeroed_between(model, parts):
    for x, y in parts:
        model.zero_grad()
        (model(x, y)[1] / len(parts)).backward()


def _divided_by_rows(model, parts):
    model.zero_grad()
    for x, y in parts:
        (model(x, y)[1] / len(x)).backward()


def _old_gradients_kept(model, parts):
    for x, y in parts:
        (model(x, y)[1] / len(parts)).backward()


_ACCUMULATE = {
    _not_divided: (
        "The gradient is as many times too large as there are parts: each "
        "part's loss is a mean already. Divide it by len(parts)."
    ),
    _zeroed_between: (
        "Only the last part is left: the gradients were zeroed between "
        "parts. Zero them once, before the first."
    ),
    _divided_by_rows: (
        "You divided by the rows of a part. The loss is a mean over them "
        "already; what is missing is the number of parts."
    ),
    _old_gradients_kept: (
        "Gradients of an earlier step are still in there. Zero them before "
        "the first part."
    ),
}


def _gradient_of(answer: Callable, parts: Parts) -> Tensor:
    """What ``answer`` leaves in .grad, on a model with old gradients."""
    model = _model()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    answer(model, parts)
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in model.parameters()
        ]
    )


def _parts() -> Parts:
    pairs = [_ids(2, 2, 6, seed=seed) for seed in range(3)]
    return [(pair[0], pair[1]) for pair in pairs]


def _check_accumulate(answer: Any) -> str | None:
    got, wanted = (_gradient_of(f, _parts()) for f in (answer, accumulate))
    if _close(got, wanted):
        return None

    def run(mistake: Callable) -> Tensor:
        return _gradient_of(mistake, _parts())

    return _diagnosis(got, _ACCUMULATE, run) or (
        f"The gradient has norm {got.norm():.4f}; that of one batch with "
        f"all rows has {wanted.norm():.4f}."
    )


register(
    Exercise(
        "9.3",
        "Accumulate",
        _check_accumulate,
        accumulate,
        {
            "not divided": _not_divided,
            "zeroed between parts": _zeroed_between,
            "divided by rows": _divided_by_rows,
            "old gradients kept": _old_gradients_kept,
        },
        "Three small passes, one big batch: the optimizer cannot tell.",
    )
)


# 9.4 --------------------------------------------------------------------


def trapezoid(
    step: int, steps: int, warmup: int, decay: int, peak: float
) -> float:
    """A rise over ``warmup`` steps, a plateau, a fall over the last ones."""
    rising = (step + 1) / warmup
    falling = (steps - step) / decay
    return peak * min(1.0, rising, falling)


def _starts_at_zero(step, steps, warmup, decay, peak):
    return peak * min(1.0, step / warmup, (steps - step) / decay)


def _falls_at_once(step, steps, warmup, decay, peak):
    rising, falling = (step + 1) / warmup, (steps - step) / steps
    return peak * min(1.0, rising, falling)


def _never_falls(step, steps, warmup, decay, peak):
    return peak * min(1.0, (step + 1) / warmup)


def _jumps(step, steps, warmup, decay, peak):
    return trapezoid(step, steps, warmup, decay, peak) * (step < steps - decay)


_TRAPEZOID = {
    _starts_at_zero: (
        "Step 0 has a learning rate of 0: that step is paid for and changes "
        "nothing. Count it as the first of the rise: (step + 1) / warmup."
    ),
    _falls_at_once: (
        "The rate falls from the start. It should stay at its peak until "
        "only `decay` steps are left."
    ),
    _never_falls: (
        "The rate never comes down. In the last `decay` steps it should go "
        "in a line towards 0."
    ),
    _jumps: (
        "The rate drops to 0 at once when the fall should begin. Let it go "
        "down in a line over `decay` steps."
    ),
}


def _rates(schedule: Callable) -> list[float]:
    return [float(schedule(s, 40, 5, 10, 2.0)) for s in range(40)]


def _check_trapezoid(answer: Any) -> str | None:
    got, wanted = _rates(answer), _rates(trapezoid)
    if _close(got, wanted):
        return None
    place = next(i for i in range(40) if abs(got[i] - wanted[i]) > 1e-6)
    return _diagnosis(got, _TRAPEZOID, _rates) or (
        f"With steps=40, warmup=5, decay=10, peak=2.0, step {place} should "
        f"have {wanted[place]:.3f} and has {got[place]:.3f}."
    )


register(
    Exercise(
        "9.4",
        "Another schedule",
        _check_trapezoid,
        trapezoid,
        {
            "starts at zero": _starts_at_zero,
            "falls at once": _falls_at_once,
            "never falls": _never_falls,
            "jumps": _jumps,
        },
        "Warm-up, stable, decay: and the plateau can be any length.",
    )
)


# 9.5 --------------------------------------------------------------------


def resume(saved: dict[str, Any], model: nn.Module, optimizer: AdamW) -> int:
    """Put everything back; return the number of the step to do next."""
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["steps_done"]  # counted from 0, so it is the next one's


def _weights_only(saved, model, optimizer):
    model.load_state_dict(saved["model"])
    return saved["steps_done"]


def _data_from_the_start(saved, model, optimizer):
    resume(saved, model, optimizer)
    return 0


def _last_batch_again(saved, model, optimizer):
    return resume(saved, model, optimizer) - 1


def _one_batch_lost(saved, model, optimizer):
    return resume(saved, model, optimizer) + 1


def _optimizer_only(saved, model, optimizer):
    optimizer.load_state_dict(saved["optimizer"])
    return saved["steps_done"]


_RESUME = {
    _weights_only: (
        "The weights are back, but AdamW has forgotten its averages, and "
        "its first steps are as long as those of a new run. Load the "
        "optimizer's state too."
    ),
    _data_from_the_start: (
        "The run reads the data from the beginning again. The number of the "
        "next step is saved['steps_done']."
    ),
    _last_batch_again: (
        "One batch is read twice. Steps are counted from 0: after "
        "`steps_done` of them, the next has that very number."
    ),
    _one_batch_lost: (
        "One batch is skipped. Steps are counted from 0: after `steps_done` "
        "of them, the next has that very number."
    ),
    _optimizer_only: (
        "The averages are back, but the weights are a new model's. Load "
        "saved['model'] too."
    ),
}


def _advance(model: nn.Module, optimizer: AdamW, first: int, n: int) -> None:
    for step in range(first, first + n):
        x, y = _ids(2, 4, 6, seed=step)
        optimizer.zero_grad()
        model(x, y)[1].backward()
        optimizer.step()


def _resumed(answer: Callable) -> Tensor:
    """The weights after 3 steps, a cut, ``answer``, and 3 more steps."""
    model = _model()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    _advance(model, optimizer, 0, 3)
    saved = {
        "model": copy.deepcopy(model.state_dict()),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "steps_done": 3,
    }
    fresh = _model(seed=1)
    others = AdamW(fresh.parameters(), lr=1e-2)
    _advance(fresh, others, answer(saved, fresh, others), 3)
    weights = [p.detach().flatten() for p in fresh.parameters()]
    return torch.cat(weights)


def _check_resume(answer: Any) -> str | None:
    got = _resumed(answer)
    if torch.equal(got, _resumed(resume)):
        return None
    return _diagnosis(got, _RESUME, _resumed) or (
        "After three more steps the weights differ from those of the run "
        "that was never cut. Three things have to be put back."
    )


register(
    Exercise(
        "9.5",
        "Resume",
        _check_resume,
        resume,
        {
            "weights only": _weights_only,
            "data from the start": _data_from_the_start,
            "last batch again": _last_batch_again,
            "one batch lost": _one_batch_lost,
            "optimizer only": _optimizer_only,
        },
        "Weights, averages, place in the data: the same run to the bit.",
    )
)


# 9.6 --------------------------------------------------------------------


def accumulate_unequal(model: nn.Module, parts: Parts) -> None:
    """As 9.3, where -100 marks targets that do not count."""
    model.zero_grad()
    total = sum(int((y != -100).sum()) for _, y in parts)
    for x, y in parts:
        logits = model(x)[0].flatten(0, 1)
        loss = F.cross_entropy(logits, y.flatten(), reduction="sum")
        (loss / total).backward()


def _mean_of_means(model, parts):
    accumulate(model, parts)


def _all_positions(model, parts):
    model.zero_grad()
    total = sum(y.numel() for _, y in parts)
    for x, y in parts:
        logits = model(x)[0].flatten(0, 1)
        loss = F.cross_entropy(logits, y.flatten(), reduction="sum")
        (loss / total).backward()


def _sums(model, parts):
    model.zero_grad()
    for x, y in parts:
        logits = model(x)[0].flatten(0, 1)
        F.cross_entropy(logits, y.flatten(), reduction="sum").backward()


_UNEQUAL = {
    _mean_of_means: (
        "Each part's mean weighs the same here, so a token in a part with "
        "few targets counts for more. Sum, and divide by all targets."
    ),
    _all_positions: (
        "You divided by all positions, those marked -100 included. Count "
        "only the targets that are scored."
    ),
    _sums: (
        "The losses are summed and nothing divides them: the step would "
        "grow with the batch. Divide by the number of targets scored."
    ),
}


def _unequal_parts() -> Parts:
    parts = [(x, y.clone()) for x, y in _parts()]
    parts[0][1][:, 1:] = -100
    parts[1][1][0] = -100
    return parts


def _check_unequal(answer: Any) -> str | None:
    def run(candidate: Callable) -> Tensor:
        return _gradient_of(candidate, _unequal_parts())

    got, wanted = run(answer), run(accumulate_unequal)
    if _close(got, wanted):
        return None
    return _diagnosis(got, _UNEQUAL, run) or (
        f"The gradient has norm {got.norm():.4f}; that of the mean over all "
        f"scored targets has {wanted.norm():.4f}."
    )


register(
    Exercise(
        "9.6",
        "Parts of unequal weight",
        _check_unequal,
        accumulate_unequal,
        {
            "mean of means": _mean_of_means,
            "all positions counted": _all_positions,
            "sums": _sums,
        },
        "Every scored token counts once, in whichever part it sits.",
    )
)
