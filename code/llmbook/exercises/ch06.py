"""Exercises of the chapter on the transformer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from llmbook.config import GPTConfig
from llmbook.exercises import Exercise, register
from llmbook.model import GPT

Part = Callable[[Tensor], Tensor]

TIED = GPTConfig(
    vocab_size=50, context_length=16, n_layer=3, n_head=2, n_embd=8
)
UNTIED = GPTConfig(
    vocab_size=50,
    context_length=16,
    n_layer=3,
    n_head=2,
    n_embd=8,
    tie_weights=False,
)


def _same(a, b) -> bool:
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


def _like(answer, mistake, *arguments) -> bool:
    """Whether ``answer`` returns what ``mistake`` would."""
    return _same(answer(*arguments), mistake(*arguments))


def _shape(config: GPTConfig) -> str:
    """What of ``config`` the counts depend on, in a line."""
    return (
        f"V={config.vocab_size}, context={config.context_length}, "
        f"L={config.n_layer}, C={config.n_embd}, "
        f"tie_weights={config.tie_weights}"
    )


# 6.1 --------------------------------------------------------------------


def count_parameters(config: GPTConfig) -> int:
    """The number of parameters of a ``GPT`` of this configuration."""
    C, V, L = config.n_embd, config.vocab_size, config.n_layer
    attention = 4 * C * C + 4 * C  # q, k, v together, and the output
    feed_forward = 8 * C * C + 5 * C  # up: 4 C biases; down: C
    norms = 4 * C  # two of them, with gain and bias
    embeddings = V * C + config.context_length * C
    head = 0 if config.tie_weights else V * C
    final_norm = 2 * C
    block = attention + feed_forward + norms
    return embeddings + L * block + final_norm + head


def _no_positions(config: GPTConfig) -> int:
    return count_parameters(config) - config.context_length * config.n_embd


def _no_biases(config: GPTConfig) -> int:
    return count_parameters(config) - 9 * config.n_embd * config.n_layer


def _no_norms(config: GPTConfig) -> int:
    norms = 4 * config.n_layer + 2
    return count_parameters(config) - norms * config.n_embd


def _no_final_norm(config: GPTConfig) -> int:
    return count_parameters(config) - 2 * config.n_embd


def _always_a_head(config: GPTConfig) -> int:
    extra = config.vocab_size * config.n_embd if config.tie_weights else 0
    return count_parameters(config) + extra


def _never_a_head(config: GPTConfig) -> int:
    lost = 0 if config.tie_weights else config.vocab_size * config.n_embd
    return count_parameters(config) - lost


def _check_count(answer) -> str | None:
    hints = {
        _no_positions: "The position vectors are missing: there is one of "
        "width C for each place in the context.",
        _no_biases: "The biases of the linear layers are missing: 3 C and C "
        "in attention, 4 C and C in the feed-forward layer.",
        _no_norms: "The norms are missing: each has a gain and a bias, two "
        "norms a block and one at the end.",
        _no_final_norm: "You are 2 C short: after the last block there is "
        "one more norm.",
        _always_a_head: "You counted a head that is tied. With "
        "config.tie_weights it is the token embedding itself.",
    }
    for mistake, hint in hints.items():
        if answer(TIED) == mistake(TIED):
            return hint
    if answer(UNTIED) == _never_a_head(UNTIED):
        return (
            "Right for tied weights. With config.tie_weights=False the head "
            "is a matrix of its own: V times C more."
        )
    for config in (TIED, UNTIED, GPTConfig()):
        wanted = GPT(config).num_parameters()
        if answer(config) != wanted:
            return (
                f"For {_shape(config)} expected {wanted:,}, got "
                f"{answer(config):,}."
            )
    return None


register(
    Exercise(
        "6.1",
        "How many numbers?",
        _check_count,
        count_parameters,
        {
            "no positions": _no_positions,
            "no biases": _no_biases,
            "no norms": _no_norms,
            "no final norm": _no_final_norm,
            "always a head": _always_a_head,
            "never a head": _never_a_head,
        },
    )
)


# 6.2 --------------------------------------------------------------------


def layer_norm(
    x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Layer normalisation of each token's vector, (B, T, C)."""
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


def _sample_variance(x, gain, bias, eps=1e-5):
    C = x.shape[-1]
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).sum(dim=-1, keepdim=True) / (C - 1)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


def _over_tokens(x, gain, bias, eps=1e-5):
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


def _over_everything(x, gain, bias, eps=1e-5):
    mean = x.mean()
    variance = ((x - mean) ** 2).mean()
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


def _no_root(x, gain, bias, eps=1e-5):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps) * gain + bias


def _no_gain(x, gain, bias, eps=1e-5):
    return layer_norm(x, torch.ones_like(gain), torch.zeros_like(bias), eps)


def _no_mean(x, gain, bias, eps=1e-5):
    square = (x**2).mean(dim=-1, keepdim=True)
    return x / torch.sqrt(square + eps) * gain + bias


def _not_centred(x, gain, bias, eps=1e-5):
    variance = x.var(dim=-1, keepdim=True, correction=0)
    return x / torch.sqrt(variance + eps) * gain + bias


def _late_eps(x, gain, bias, eps=1e-5):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (torch.sqrt(variance) + eps) * gain + bias


def _ready_made(x, gain, bias, eps=1e-5):
    return F.layer_norm(x, gain.shape, gain, bias, eps)


READY_MADE = {"layer_norm", "var", "var_mean", "std", "std_mean"}


class _Calls(TorchFunctionMode):
    """Keeps the names of the torch functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


def _norm_slip(answer, x, gain, bias) -> str | None:
    """The message of the classic mistake that ``answer`` makes on x."""
    hints = {
        _sample_variance: "Your variance divides by C - 1. A norm divides "
        "by C.",
        _over_tokens: "You averaged over the tokens. Each token is "
        "normalised by itself: average over the last axis.",
        _over_everything: "You took one mean over everything. Each token "
        "has its own: average over the last axis, with keepdim=True.",
        _no_root: "You divided by the variance. Divide by its square root.",
        _no_gain: "Gain and bias are missing: multiply by the one and add "
        "the other at the end.",
        _no_mean: "You did not subtract the mean. (What you have is RMSNorm, "
        "which newer models use.)",
        _not_centred: "You subtracted the mean inside the variance only. "
        "Subtract it from x, too.",
    }
    for mistake, hint in hints.items():
        if _like(answer, mistake, x, gain, bias):
            return hint
    return None


def _check_norm(answer) -> str | None:
    generator = torch.Generator().manual_seed(0)
    x = 2 + 3 * torch.randn(2, 5, 8, generator=generator)
    gain, bias = 1 + torch.rand(2, 8, generator=generator)
    slip = _norm_slip(answer, x, gain, bias)
    if slip is not None:
        return slip
    if not _same(answer(x, gain, bias), F.layer_norm(x, (8,), gain, bias)):
        return "The result differs from torch's layer_norm on random x."
    constant = torch.full((1, 1, 8), 3.0)
    if not _same(answer(constant, gain, bias), bias.view(1, 1, 8)):
        return (
            "A vector of equal numbers should give the bias. Is eps added "
            "to the variance?"
        )
    tiny = 1e-3 * x
    if not _same(
        answer(tiny, gain, bias, 1e-2),
        layer_norm(tiny, gain, bias, 1e-2),
    ):
        return (
            "On very small vectors the result differs. Is eps inside the "
            "square root, added to the variance?"
        )
    with _Calls() as calls:
        answer(x, gain, bias)
    if used := sorted(calls.names & READY_MADE):
        return (
            f"The numbers are right, but torch's {used[0]} made them. Write "
            "it with mean and sums only."
        )
    return None


register(
    Exercise(
        "6.2",
        "Layer norm from memory",
        _check_norm,
        layer_norm,
        {
            "sample variance": _sample_variance,
            "over tokens": _over_tokens,
            "over everything": _over_everything,
            "no root": _no_root,
            "no gain": _no_gain,
            "no mean": _no_mean,
            "not centred": _not_centred,
            "eps outside the root": _late_eps,
            "ready-made": _ready_made,
        },
    )
)


# 6.3 --------------------------------------------------------------------


def post_norm_block(
    x: Tensor, attend: Part, feed_forward: Part, norm_1: Part, norm_2: Part
) -> Tensor:
    """A block of 2017: each norm stands after its addition."""
    x = norm_1(x + attend(x))
    return norm_2(x + feed_forward(x))


def _pre_norm(x, attend, feed_forward, norm_1, norm_2):
    x = x + attend(norm_1(x))
    return x + feed_forward(norm_2(x))


def _no_residual(x, attend, feed_forward, norm_1, norm_2):
    return norm_2(feed_forward(norm_1(attend(x))))


def _norm_of_answers(x, attend, feed_forward, norm_1, norm_2):
    x = x + norm_1(attend(x))
    return x + norm_2(feed_forward(x))


def _parallel(x, attend, feed_forward, norm_1, norm_2):
    return norm_2(norm_1(x + attend(x)) + feed_forward(x))


def _one_norm_twice(x, attend, feed_forward, norm_1, norm_2):
    x = norm_1(x + attend(x))
    return norm_1(x + feed_forward(x))


def _norms_swapped(x, attend, feed_forward, norm_1, norm_2):
    return post_norm_block(x, attend, feed_forward, norm_2, norm_1)


def _check_post_norm(answer) -> str | None:
    generator = torch.Generator().manual_seed(0)
    x, m, n = torch.randn(3, 8, 8, generator=generator)
    x = x.view(1, 8, 8)

    def norm(gain: float) -> Part:
        return lambda y: gain * F.layer_norm(y, (8,))

    parts = (lambda y: y @ m, lambda y: F.gelu(y @ n))  # size matters
    given = (x, *parts, norm(2.0), norm(3.0))
    hints = {
        _pre_norm: "That is pre-norm, the block of this chapter. In 2017 "
        "the norm came after the addition.",
        _no_residual: "The additions are missing: each norm is taken of "
        "x plus the part's answer.",
        _norm_of_answers: "You normalised what the parts write, before the "
        "addition. Normalise the sum.",
        _parallel: "Your feed-forward part reads the old x. It should read "
        "what the first norm returned.",
        _one_norm_twice: "You used norm_1 twice; the second sum has a norm "
        "of its own, norm_2.",
        _norms_swapped: "You exchanged the norms: norm_1 belongs to "
        "attention, norm_2 to the feed-forward part.",
    }
    for mistake, hint in hints.items():
        if _like(answer, mistake, *given):
            return hint
    if not _same(answer(*given), post_norm_block(*given)):
        return (
            "The numbers differ. Each norm is taken of a sum, and the second "
            "part reads what the first norm returned."
        )
    return None


register(
    Exercise(
        "6.3",
        "Back to 2017",
        _check_post_norm,
        post_norm_block,
        {
            "pre-norm": _pre_norm,
            "no residual": _no_residual,
            "norm of answers": _norm_of_answers,
            "parallel": _parallel,
            "one norm twice": _one_norm_twice,
            "norms swapped": _norms_swapped,
        },
    )
)


# 6.4 --------------------------------------------------------------------


def std_for_excess(excess: float, n_embd: int) -> float:
    """The init_std whose first loss is ln V + excess: 2 e = std^2 C."""
    return math.sqrt(2 * excess / n_embd)


def _no_half(excess: float, n_embd: int) -> float:
    return math.sqrt(excess / n_embd)


def _a_variance(excess: float, n_embd: int) -> float:
    return 2 * excess / n_embd


def _no_width(excess: float, n_embd: int) -> float:
    return math.sqrt(2 * excess)


def _width_outside(excess: float, n_embd: int) -> float:
    return math.sqrt(2 * excess) / n_embd


def _check_std(answer) -> str | None:
    hints = {
        _no_half: "The variance of the logits enters with one half: "
        "excess = std**2 * C / 2.",
        _a_variance: "You returned a variance. Take its square root.",
        _no_width: "The width is missing: a logit is a sum over C numbers, "
        "so its variance is std**2 times C.",
        _width_outside: "C belongs under the root: variances of "
        "independent terms add up, standard deviations do not.",
    }
    for mistake, hint in hints.items():
        if math.isclose(answer(1.0, 48), mistake(1.0, 48), rel_tol=1e-6):
            return hint
    for excess, n_embd in ((1.0, 48), (0.1, 192), (3.0, 768)):
        wanted = std_for_excess(excess, n_embd)
        if not math.isclose(answer(excess, n_embd), wanted, rel_tol=1e-6):
            return (
                f"For an excess of {excess} at width {n_embd} expected "
                f"{wanted:.4f}, got {answer(excess, n_embd)}."
            )
    return None


register(
    Exercise(
        "6.4",
        "Break the start",
        _check_std,
        std_for_excess,
        {
            "no half": _no_half,
            "a variance": _a_variance,
            "no width": _no_width,
            "width outside": _width_outside,
        },
        praise="That is right. Build the model and compare its first loss.",
    )
)


# 6.5 --------------------------------------------------------------------


def forward_flops(config: GPTConfig, T: int) -> int:
    """Operations a token in a forward pass over ``T`` tokens."""
    C, V, L = config.n_embd, config.vocab_size, config.n_layer
    matrices = L * 12 * C * C + V * C  # the head multiplies, tied or not
    mixing = L * 2 * T * C  # q times k, and weights times v
    return 2 * (matrices + mixing)  # a multiplication and an addition


def _multiplications(config: GPTConfig, T: int) -> int:
    return forward_flops(config, T) // 2


def _no_mixing(config: GPTConfig, T: int) -> int:
    return forward_flops(config, T) - 4 * config.n_layer * T * config.n_embd


def _half_mixing(config: GPTConfig, T: int) -> int:
    return forward_flops(config, T) - 2 * config.n_layer * T * config.n_embd


def _no_head(config: GPTConfig, T: int) -> int:
    return forward_flops(config, T) - 2 * config.vocab_size * config.n_embd


def _lookup_too(config: GPTConfig, T: int) -> int:
    return forward_flops(config, T) + 2 * config.vocab_size * config.n_embd


def _whole_sequence(config: GPTConfig, T: int) -> int:
    return T * forward_flops(config, T)


def _backward_too(config: GPTConfig, T: int) -> int:
    return 3 * forward_flops(config, T)


def _check_flops(answer) -> str | None:
    hints = {
        _multiplications: "You counted multiplications only. Each comes "
        "with an addition, so twice as many.",
        _no_mixing: "The mixing is missing: q times k, and weights times v, "
        "both of length T. They have no weights but cost work.",
        _half_mixing: "You counted one of the two products of attention. "
        "The weights are also multiplied with the values.",
        _no_head: "The head is missing. Tied or not, it multiplies with a "
        "matrix of V times C.",
        _lookup_too: "Looking up a token's vector multiplies nothing; only "
        "the head does.",
        _whole_sequence: "That is the work for the whole sequence. The "
        "question is for one token of it.",
        _backward_too: "That is a training step, forward and backward. The "
        "question is for the way forward.",
    }
    for mistake, hint in hints.items():
        if answer(TIED, 16) == mistake(TIED, 16):
            return hint
    for config, T in ((TIED, 16), (UNTIED, 5), (GPTConfig(), 256)):
        wanted = GPT(config).flops_per_token(T)
        if answer(config, T) != wanted:
            return (
                f"For {_shape(config)} and T={T} expected {wanted:,}, got "
                f"{answer(config, T):,}."
            )
    return None


register(
    Exercise(
        "6.5",
        "How much work?",
        _check_flops,
        forward_flops,
        {
            "multiplications": _multiplications,
            "no mixing": _no_mixing,
            "half the mixing": _half_mixing,
            "no head": _no_head,
            "lookup too": _lookup_too,
            "whole sequence": _whole_sequence,
            "backward too": _backward_too,
        },
    )
)


# 6.6 --------------------------------------------------------------------


def early_logits(model: GPT, idx: Tensor) -> Tensor:
    """Logits read before the first block and after each, (L + 1, B, T, V)."""
    stream = [model.embed(idx)]
    for block in model.blocks:
        stream.append(block(stream[-1]))
    readings = [model.final_norm(x) for x in stream]
    return torch.stack([F.linear(r, model.head_weight) for r in readings])


def _no_final(model: GPT, idx: Tensor) -> Tensor:
    stream = [model.embed(idx)]
    for block in model.blocks:
        stream.append(block(stream[-1]))
    return torch.stack([F.linear(x, model.head_weight) for x in stream])


def _no_start(model: GPT, idx: Tensor) -> Tensor:
    return early_logits(model, idx)[1:]


def _no_end(model: GPT, idx: Tensor) -> Tensor:
    return early_logits(model, idx)[:-1]


def _not_stacked(model: GPT, idx: Tensor) -> list[Tensor]:
    return list(early_logits(model, idx))


def _blocks_alone(model: GPT, idx: Tensor) -> Tensor:
    x = model.embed(idx)
    stream = [x, *(block(x) for block in model.blocks)]
    readings = [model.final_norm(x) for x in stream]
    return torch.stack([F.linear(r, model.head_weight) for r in readings])


def _no_positions_read(model: GPT, idx: Tensor) -> Tensor:
    stream = [model.token_embedding(idx)]
    for block in model.blocks:
        stream.append(block(stream[-1]))
    readings = [model.final_norm(x) for x in stream]
    return torch.stack([F.linear(r, model.head_weight) for r in readings])


def _check_lens(answer) -> str | None:
    generator = torch.Generator().manual_seed(0)
    model = GPT(TIED, generator=generator).eval()
    for parameter in model.parameters():  # far enough apart to tell
        parameter.data += 0.1 * torch.randn(
            parameter.shape, generator=generator
        )
    idx = torch.randint(50, (2, 7), generator=generator)
    got = answer(model, idx)
    if isinstance(got, list | tuple):
        return "Your readings are separate. torch.stack makes one tensor."
    hints = {
        _no_final: "You read the stream without final_norm; the head was "
        "made for normalised vectors.",
        _no_start: "You begin after the first block. The first reading is "
        "of the embeddings, before any block.",
        _no_end: "The reading after the last block is missing.",
        _blocks_alone: "Each of your blocks reads the embeddings. A block "
        "reads what the one before it left.",
        _no_positions_read: "Your stream begins without the position vectors.",
    }
    for mistake, hint in hints.items():
        if _same(got.detach(), mistake(model, idx).detach()):
            return hint
    if not _same(got[-1].detach(), model(idx)[0].detach()):
        return "Your last reading is not what model(idx) returns."
    if not _same(got.detach(), early_logits(model, idx).detach()):
        return "The last reading is right; some earlier one is not."
    return None


register(
    Exercise(
        "6.6",
        "Ask every depth",
        _check_lens,
        early_logits,
        {
            "no final norm": _no_final,
            "no start": _no_start,
            "no end": _no_end,
            "not stacked": _not_stacked,
            "blocks alone": _blocks_alone,
            "no positions": _no_positions_read,
        },
        praise="That is right, and it is all that a logit lens is.",
    )
)
