"""What a model and a training run are made of, as validated values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

GPT2_VOCAB_SIZE = 50_257  # 256 bytes + 50,000 merges + <|endoftext|>
GPT2_CONTEXT_LENGTH = 1024  # Radford et al. 2019, section 2.3
GPT2_INIT_STD = 0.02  # Radford et al. 2018, section 4.1
OPTIMIZERS = ("adamw", "muon")


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} is {value!r}; expected a whole number of at least "
            f"{least}. Set {name}={least} or more."
        )


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN too
        raise ValueError(
            f"{name} is {value!r}; expected a number from {low} to {high}."
        )


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a decoder-only transformer.

    Args:
        vocab_size: number of tokens V the model can read and predict.
        context_length: the most tokens T it sees at once.
        n_layer: number of blocks.
        n_head: attention heads H in each block.
        n_embd: width C of the residual stream; a multiple of ``n_head``.
        dropout: probability of zeroing an activation while training.
        bias: whether linear layers and norms add a bias (GPT-2: yes).
        tie_weights: whether the output head is the token embedding
            (Press and Wolf 2017, https://arxiv.org/abs/1608.05859).
        norm_eps: added to the variance inside LayerNorm.
        init_std: standard deviation of the initial weights.

    Raises:
        ValueError: a value is out of range; the message has the mend.

    >>> GPTConfig(n_head=4, n_embd=64).head_dim
    16
    """

    vocab_size: int = 1024
    context_length: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 192
    dropout: float = 0.0
    bias: bool = True
    tie_weights: bool = True
    norm_eps: float = 1e-5
    init_std: float = GPT2_INIT_STD

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head"):
            _at_least(name, getattr(self, name), 1)
        _at_least("n_embd", self.n_embd, 1)
        if self.n_embd % self.n_head:
            mended = (self.n_embd // self.n_head + 1) * self.n_head
            raise ValueError(
                f"n_embd is {self.n_embd} and n_head is {self.n_head}; the "
                "heads share the width equally, so n_embd must be a multiple "
                f"of n_head. Try n_embd={mended}."
            )
        _between("dropout", self.dropout, 0.0, 0.999)
        _between("norm_eps", self.norm_eps, 1e-12, 1.0)
        _between("init_std", self.init_std, 0.0, 10.0)

    @property
    def head_dim(self) -> int:
        """Width D of one head: ``n_embd / n_head``."""
        return self.n_embd // self.n_head

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """One training run: how many steps, of what, and how fast.

    Args:
        steps: optimizer steps.
        batch_size: sequences B in one forward pass.
        accumulate: forward passes whose gradients make one step.
        learning_rate: the highest learning rate, reached after warm-up.
        min_learning_rate: where the cosine ends.
        warmup_steps: steps of linear warm-up from 0.
        weight_decay: decoupled decay of matrices (not of biases, norms).
        optimizer: ``"adamw"``, or ``"muon"`` for the blocks' matrices with
            AdamW for the rest (Jordan et al. 2024).
        momentum: decay of Muon's running average.
        beta1, beta2, epsilon: AdamW's moment decays and its denominator
            guard (Loshchilov and Hutter 2019, algorithm 2).
        clip: largest L2 norm of the gradient; 0 switches clipping off.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        eval_batches: batches in one evaluation.
        seed: fixes the order of the data and dropout.
        dtype: ``"float32"``, ``"bfloat16"``, or ``"auto"``, which takes
            bfloat16 where the processor computes in it.
        compile: whether ``torch.compile`` is used.

    >>> TrainConfig(steps=10, batch_size=2).tokens(context_length=8)
    160
    """

    steps: int = 1000
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-4
    warmup_steps: int = 50
    weight_decay: float = 0.1
    optimizer: str = "adamw"
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 1.0
    eval_every: int = 100
    eval_batches: int = 8
    seed: int = 0
    dtype: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, least in {
            "steps": 1,
            "batch_size": 1,
            "accumulate": 1,
            "warmup_steps": 0,
            "eval_every": 0,
            "eval_batches": 1,
            "seed": 0,
        }.items():
            _at_least(name, getattr(self, name), least)
        _between("learning_rate", self.learning_rate, 0.0, 100.0)
        _between(
            "min_learning_rate",
            self.min_learning_rate,
            0.0,
            self.learning_rate,
        )
        for name in ("weight_decay", "clip"):
            _between(name, getattr(self, name), 0.0, 1e6)
        _between("beta1", self.beta1, 0.0, 1.0 - 1e-9)
        _between("beta2", self.beta2, 0.0, 1.0 - 1e-9)
        _between("momentum", self.momentum, 0.0, 1.0 - 1e-9)
        _between("epsilon", self.epsilon, 1e-16, 1.0)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer is {self.optimizer!r}; expected one of "
                f"{', '.join(OPTIMIZERS)}."
            )
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"dtype is {self.dtype!r}; expected 'auto', 'float32' or "
                "'bfloat16'."
            )

    def tokens(self, context_length: int) -> int:
        """Tokens the whole run reads."""
        return self.steps * self.batch_size * self.accumulate * context_length

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, for JSON."""
        return asdict(self)


_GPT2 = GPTConfig(
    vocab_size=GPT2_VOCAB_SIZE,
    context_length=GPT2_CONTEXT_LENGTH,
    n_layer=12,
    n_head=12,
    n_embd=768,
    dropout=0.1,
)

PRESETS: dict[str, GPTConfig] = {
    "gpt2": _GPT2,
    "gpt2-medium": replace(_GPT2, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": replace(_GPT2, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": replace(_GPT2, n_layer=48, n_head=25, n_embd=1600),
    "running": GPTConfig(
        vocab_size=2048,
        context_length=256,
        n_layer=3,
        n_head=4,
        n_embd=128,
        init_std=0.04,  # 1 / sqrt(n_embd) is 0.09; 0.02 suits wider models
    ),
    "austen": GPTConfig(
        vocab_size=8192, context_length=256, n_layer=7, n_head=6, n_embd=384
    ),
}


def preset(name: str, **changes: Any) -> GPTConfig:
    """The named configuration, with ``changes`` applied.

    Raises:
        ValueError: no preset has that name.

    >>> preset("gpt2-xl").n_layer
    48
    """
    if name not in PRESETS:
        raise ValueError(
            f"no preset is called {name!r}; expected one of "
            f"{', '.join(PRESETS)}."
        )
    return replace(PRESETS[name], **changes)
