"""Exercises of the chapter on speed and scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmbook.exercises import Exercise, diagnosis, register

STATE_BYTES = 16  # weight, gradient and two averages, float32 each


def _close(got: Any, wanted: Any) -> bool:
    got = torch.as_tensor(got, dtype=torch.float64)
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    return got.shape == wanted.shape and torch.allclose(
        got, wanted, atol=0.0, rtol=1e-5
    )


_diagnosis = partial(diagnosis, _close)


def _applied(inputs: tuple[Any, ...], f: Callable[..., Any]) -> Any:
    return f(*inputs)


# 10.1 -------------------------------------------------------------------


def least_seconds(
    n: int, a: int, b: int, size: int, peak: float, bandwidth: float
) -> float:
    """The roofline's bound for a product (n, a) times (a, b), in seconds."""
    operations = 2 * n * a * b
    moved = size * (n * a + a * b + n * b)
    return max(operations / peak, moved / bandwidth)


def _one_operation(n, a, b, size, peak, bandwidth):
    moved = size * (n * a + a * b + n * b)
    return max(n * a * b / peak, moved / bandwidth)


def _summed_ceilings(n, a, b, size, peak, bandwidth):
    moved = size * (n * a + a * b + n * b)
    return 2 * n * a * b / peak + moved / bandwidth


def _arithmetic_alone(n, a, b, size, peak, bandwidth):
    return 2 * n * a * b / peak


def _matrix_alone(n, a, b, size, peak, bandwidth):
    return max(2 * n * a * b / peak, size * a * b / bandwidth)


def _quicker_ceiling(n, a, b, size, peak, bandwidth):
    moved = size * (n * a + a * b + n * b)
    return min(2 * n * a * b / peak, moved / bandwidth)


def _numbers_for_bytes(n, a, b, size, peak, bandwidth):
    return least_seconds(n, a, b, 1, peak, bandwidth)


_SECONDS = {
    _one_operation: (
        "Each pair is multiplied and added: two operations, not one."
    ),
    _summed_ceilings: (
        "You add the two times. At best, moving and computing happen at "
        "once, so the longer of the two is the bound."
    ),
    _arithmetic_alone: (
        "That is the flat top alone. With one token the numbers have to be "
        "fetched for longer than they are computed with."
    ),
    _matrix_alone: (
        "The inputs are read and the answer is written too: n a + a b + n b "
        "numbers are moved."
    ),
    _quicker_ceiling: (
        "You take the shorter time. Both have to be spent; the longer one "
        "decides."
    ),
    _numbers_for_bytes: (
        "You count numbers where bytes are asked for: times size."
    ),
}
_PRODUCTS = [(1, 64, 48, 4), (500, 64, 48, 4), (30, 50, 20, 2)]


def _check_seconds(answer: Any) -> str | None:
    cases = [(*shape, 1e9, 1e8) for shape in _PRODUCTS]
    got = [answer(*case) for case in cases]
    wanted = [least_seconds(*case) for case in cases]
    if _close(got, wanted):
        return None
    for mistake, message in _SECONDS.items():
        if _close(got, [mistake(*case) for case in cases]):
            return message
    return (
        "With 1e9 operations and 1e8 bytes a second, and (n, a, b, size) = "
        f"{_PRODUCTS[0]}, expected {wanted[0]:.3g} s and got {got[0]:.3g}."
    )


register(
    Exercise(
        "10.1",
        "What does it wait for?",
        _check_seconds,
        least_seconds,
        {
            "one operation a pair": _one_operation,
            "both times added": _summed_ceilings,
            "arithmetic alone": _arithmetic_alone,
            "only the matrix is moved": _matrix_alone,
            "the shorter time": _quicker_ceiling,
            "numbers for bytes": _numbers_for_bytes,
        },
        "Operations over peak, bytes over bandwidth: which is longer?",
    )
)


# 10.2 -------------------------------------------------------------------


def utilisation(
    n: int, steps: int, batch: int, context: int, seconds: float, peak: float
) -> float:
    """The share of the peak that a run's model needed."""
    return 6 * n * steps * batch * context / seconds / peak


def _forward_alone(n, steps, batch, context, seconds, peak):
    return utilisation(n, steps, batch, context, seconds, peak) / 3


def _backward_once(n, steps, batch, context, seconds, peak):
    return utilisation(n, steps, batch, context, seconds, peak) * 2 / 3


def _no_context(n, steps, batch, context, seconds, peak):
    return utilisation(n, steps, batch, 1, seconds, peak)


def _one_step(n, steps, batch, context, seconds, peak):
    return utilisation(n, 1, batch, context, seconds, peak)


def _upside_down(n, steps, batch, context, seconds, peak):
    return 1 / utilisation(n, steps, batch, context, seconds, peak)


def _per_cent(n, steps, batch, context, seconds, peak):
    return 100 * utilisation(n, steps, batch, context, seconds, peak)


_UTILISATION = {
    _forward_alone: (
        "2 operations for each parameter and token is the forward pass. "
        "Backward costs twice that again: 6 in all."
    ),
    _backward_once: (
        "Backward multiplies twice where forward multiplied once (for the "
        "inputs' gradient and for the weights'): 6 in all, not 4."
    ),
    _no_context: "A sequence has context tokens; you count it as one.",
    _one_step: "The seconds are those of all the steps.",
    _upside_down: "That is upside down: needed over possible.",
    _per_cent: "Expected a share between 0 and 1, not per cent.",
}


def _check_utilisation(answer: Any) -> str | None:
    inputs = 1_000_000, 200, 8, 256, 50.0, 2e11
    got = answer(*inputs)
    if _close(got, utilisation(*inputs)):
        return None
    return _diagnosis(got, _UTILISATION, partial(_applied, inputs)) or (
        f"Expected {utilisation(*inputs):.4f} and got {float(got):.4f}: "
        "6 times parameters times all tokens, over seconds, over the peak."
    )


register(
    Exercise(
        "10.2",
        "Read a log",
        _check_utilisation,
        utilisation,
        {
            "forward alone": _forward_alone,
            "backward once": _backward_once,
            "tokens of a sequence forgotten": _no_context,
            "one step": _one_step,
            "upside down": _upside_down,
            "per cent": _per_cent,
        },
        "How many tokens did the run read in all?",
    )
)


# 10.3 -------------------------------------------------------------------


def rounded(x: Tensor) -> Tensor:
    """``x`` with 8 significant bits, to the nearest, ties to even."""
    fraction, power = torch.frexp(x)
    return torch.ldexp(torch.round(fraction * 2**8) / 2**8, power)


def _cut_off(x):
    fraction, power = torch.frexp(x)
    return torch.ldexp(torch.floor(fraction * 2**8) / 2**8, power)


def _seven_bits(x):
    fraction, power = torch.frexp(x)
    return torch.ldexp(torch.round(fraction * 2**7) / 2**7, power)


def _ties_up(x):
    fraction, power = torch.frexp(x)
    return torch.ldexp(torch.floor(fraction * 2**8 + 0.5) / 2**8, power)


def _fixed_step(x):
    return torch.round(x * 2**8) / 2**8


def _float16(x):
    return x.half().float()


_ROUNDED = {
    _cut_off: "You cut the lower bits off; round to the nearest instead.",
    _seven_bits: (
        "That is 7 significant bits. bfloat16 stores 7 and has one more "
        "that is always 1 and not stored: 8."
    ),
    _ties_up: (
        "Numbers halfway between two go up with you. They go to the one "
        "whose last bit is 0: torch.round does that."
    ),
    _fixed_step: (
        "Your steps are equally wide everywhere. A floating-point number's "
        "step grows with the number: take it apart with torch.frexp first."
    ),
    _float16: "That is float16: 11 significant bits and a small range.",
}


def _check_rounded(answer: Any) -> str | None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(200, generator=generator) * 50 + 1e-3
    ties = torch.tensor([257.0, 259.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8])
    x = torch.cat([ties, drawn, drawn * 1e6])
    got, wanted = answer(x.clone()), x.bfloat16().float()
    if torch.is_tensor(got) and got.dtype != torch.float32:
        return f"Expected float32 back and got {got.dtype}."
    got = torch.as_tensor(got)
    if got.shape == wanted.shape and torch.equal(got, wanted):
        return None
    for mistake, message in _ROUNDED.items():
        if got.shape == x.shape and torch.equal(got, mistake(x)):
            return message
    return "257 should become 256, 259 should become 260, and 1/3 0.333984375."


register(
    Exercise(
        "10.3",
        "Round to bfloat16",
        _check_rounded,
        rounded,
        {
            "cut off": _cut_off,
            "seven bits": _seven_bits,
            "ties up": _ties_up,
            "a fixed step": _fixed_step,
            "float16": _float16,
        },
        "Scale the fraction so that 8 bits are a whole number.",
    )
)


# 10.4 -------------------------------------------------------------------


def in_blocks(scores: Tensor, values: Tensor, block: int) -> Tensor:
    """The softmax-weighted mean of ``values``, block by block: (D,)."""
    largest = torch.tensor(-math.inf)
    total, mixed = torch.zeros(()), torch.zeros(values.shape[1])
    for s, v in zip(scores.split(block), values.split(block), strict=True):
        new = torch.maximum(largest, s.max())
        shrink, weights = (largest - new).exp(), (s - new).exp()
        total = total * shrink + weights.sum()
        mixed = mixed * shrink + weights @ v
        largest = new
    return mixed / total


def _never_shifted(scores, values, block):
    weights = scores.exp()
    return weights @ values / weights.sum()


def _means_of_blocks(scores, values, block):
    parts = zip(scores.split(block), values.split(block), strict=True)
    return torch.stack([s.softmax(0) @ v for s, v in parts]).mean(0)


def _total_not_corrected(scores, values, block):
    largest = torch.tensor(-math.inf)
    total, mixed = torch.zeros(()), torch.zeros(values.shape[1])
    for s, v in zip(scores.split(block), values.split(block), strict=True):
        new = torch.maximum(largest, s.max())
        weights = (s - new).exp()
        total = total + weights.sum()
        mixed = mixed * (largest - new).exp() + weights @ v
        largest = new
    return mixed / total


def _own_largest(scores, values, block):
    total, mixed = torch.zeros(()), torch.zeros(values.shape[1])
    for s, v in zip(scores.split(block), values.split(block), strict=True):
        weights = (s - s.max()).exp()
        total, mixed = total + weights.sum(), mixed + weights @ v
    return mixed / total


def _not_divided(scores, values, block):
    weights = (scores - scores.max()).exp()
    return weights @ values


_BLOCKS = {
    _means_of_blocks: (
        "You average the blocks' own softmaxes as if each block weighed the "
        "same. A block weighs as much as its sum of exponentials."
    ),
    _total_not_corrected: (
        "The sum of exponentials is relative to the old largest score too: "
        "shrink it by the same factor as the weighted sum."
    ),
    _own_largest: (
        "Each block is shifted by its own largest score, so its numbers "
        "cannot be added to the others'. Keep one largest score for all."
    ),
    _not_divided: "Divide by the sum of exponentials at the end.",
}


def _check_blocks(answer: Any) -> str | None:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(10, generator=generator).sort().values
    values = torch.randn(10, 4, generator=generator)
    for block in (10, 4, 1):
        got = answer(scores, values, block)
        wanted = scores.softmax(0) @ values
        if not torch.allclose(got, wanted, atol=1e-5):
            run = partial(_applied, (scores, values, block))
            return _diagnosis(got, _BLOCKS, run) or (
                f"With blocks of {block}, expected {wanted.tolist()}."
            )
    high = scores + 500.0
    got = answer(high, values, 4)
    if not torch.allclose(got, high.softmax(0) @ values, atol=1e-4):
        return (
            "With all scores 500 higher the answer should be the same, and "
            "exp(500) is infinite: subtract the largest score first."
        )
    return None


register(
    Exercise(
        "10.4",
        "Attention in blocks",
        _check_blocks,
        in_blocks,
        {
            "never shifted": _never_shifted,
            "means of blocks": _means_of_blocks,
            "total not corrected": _total_not_corrected,
            "own largest scores": _own_largest,
            "not divided": _not_divided,
        },
        "exp(s - new) = exp(s - old) exp(old - new).",
    )
)


# 10.5 -------------------------------------------------------------------


def joint_gradient(gradients: list[Tensor], counts: list[int]) -> Tensor:
    """The gradient of the mean over all tokens, from those of the parts."""
    pairs = zip(gradients, counts, strict=True)
    return sum(g * n for g, n in pairs) / sum(counts)


def _mean_of_means(gradients, counts):
    return sum(gradients) / len(gradients)


def _sum_of_means(gradients, counts):
    return sum(gradients)


def _weighed_not_divided(gradients, counts):
    return sum(g * n for g, n in zip(gradients, counts, strict=True))


def _divided_by_parts(gradients, counts):
    return _weighed_not_divided(gradients, counts) / len(gradients)


def _divided_twice(gradients, counts):
    pairs = zip(gradients, counts, strict=True)
    return sum(g / n for g, n in pairs) / len(gradients)


_JOINT = {
    _mean_of_means: (
        "The plain mean of the gradients: right for equal parts only. A "
        "token in the smaller part would count for more than another."
    ),
    _sum_of_means: (
        "The sum of the gradients is as many times too long as there are "
        "processes, and the parts' sizes are not in it."
    ),
    _weighed_not_divided: (
        "You have undone each mean, which is right; now divide by all the "
        "tokens."
    ),
    _divided_by_parts: "Divide by the tokens of all, not by the processes.",
    _divided_twice: (
        "Each gradient is divided by its tokens already, for its loss is a "
        "mean. Multiply by their number to undo that."
    ),
}


def _check_joint(answer: Any) -> str | None:
    gradients = [torch.tensor([3.0, -1.0]), torch.tensor([0.5, 2.0])]
    counts = [30, 10]
    got = answer([g.clone() for g in gradients], list(counts))
    if _close(got, joint_gradient(gradients, counts)):
        return None
    return _diagnosis(got, _JOINT, partial(_applied, (gradients, counts))) or (
        "With gradients [3, -1] of 30 tokens and [0.5, 2] of 10, expected "
        "[2.375, -0.25]."
    )


register(
    Exercise(
        "10.5",
        "A mean of unequal parts",
        _check_joint,
        joint_gradient,
        {
            "mean of means": _mean_of_means,
            "sum of means": _sum_of_means,
            "weighed, not divided": _weighed_not_divided,
            "divided by the processes": _divided_by_parts,
            "divided twice": _divided_twice,
        },
        "What is the sum over the tokens of each process?",
    )
)


# 10.6 -------------------------------------------------------------------


def least_gpus(n: int, activations: float, memory: float) -> int:
    """GPUs that hold a fully sharded model of ``n`` parameters."""
    room = memory - activations
    if room <= 0:
        raise ValueError(
            "the activations alone fill the memory, and sharding does not "
            "shrink them; cut the batch."
        )
    return math.ceil(STATE_BYTES * n / room)


def _activations_shared(n, activations, memory):
    return math.ceil((STATE_BYTES * n + activations) / memory)


def _weights_alone(n, activations, memory):
    return math.ceil(4 * n / (memory - activations))


def _no_gradients(n, activations, memory):
    return math.ceil(12 * n / (memory - activations))


def _rounded_down(n, activations, memory):
    return int(STATE_BYTES * n / (memory - activations))


def _activations_forgotten(n, activations, memory):
    return math.ceil(STATE_BYTES * n / memory)


_GPUS = {
    _activations_shared: (
        "You share out the activations as well. Every GPU has its own rows, "
        "and all of their activations."
    ),
    _weights_alone: (
        "The weights alone are 4 bytes each; gradients and two averages "
        "come on top: 16."
    ),
    _no_gradients: "The gradients need room too: 16 bytes a parameter.",
    _rounded_down: "A part of a GPU is a whole one more: round up.",
    _activations_forgotten: (
        "The activations take their room on every GPU before any slice."
    ),
}


def _check_gpus(answer: Any) -> str | None:
    inputs = 20_000_000_000, 50e9, 80e9
    got = answer(*inputs)
    if got != least_gpus(*inputs):
        return _diagnosis(got, _GPUS, partial(_applied, inputs)) or (
            "20 billion parameters, 50 GB of activations, 80 GB in each: "
            f"expected 11 and got {got}."
        )
    try:
        answer(10, 80e9, 80e9)
    except ValueError:
        return None
    except ZeroDivisionError:
        pass
    return (
        "Where the activations alone fill a GPU no number of them helps: "
        "raise ValueError and say so."
    )


def _never_refuses(n, activations, memory):
    room = max(memory - activations, 1.0)
    return math.ceil(STATE_BYTES * n / room)


register(
    Exercise(
        "10.6",
        "How many GPUs?",
        _check_gpus,
        least_gpus,
        {
            "activations shared": _activations_shared,
            "weights alone": _weights_alone,
            "gradients forgotten": _no_gradients,
            "rounded down": _rounded_down,
            "activations forgotten": _activations_forgotten,
            "never refuses": _never_refuses,
        },
        "Which part is cut, and which is on every GPU whole?",
    )
)
