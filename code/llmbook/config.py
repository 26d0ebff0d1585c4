"""What a model and a training run are made of, as validated values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any

GPT2_VOCAB_SIZE = 50_257  # 256 bytes + 50,000 merges + <|endoftext|>
GPT2_CONTEXT_LENGTH = 1024  # Radford et al. 2019, section 2.3
GPT2_INIT_STD = 0.02  # Radford et al. 2018, section 4.1
OPTIMIZERS = ("adamw", "muon")
COMPILE = ("auto", "on", "off")
PARALLEL = ("auto", "ddp", "fsdp")
POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "none")
NORMS = ("layernorm", "rmsnorm")
FEED_FORWARDS = ("gelu", "swiglu")
EXPANSION = 4  # d_ff / n_embd: Vaswani et al. 2017, section 3.3
WIDTH_STEP = 8  # processors like widths that are multiples of this
ROPE_THETA = 10_000.0  # Su et al. 2021, section 3.2.2
BALANCE_WEIGHT = 0.01  # Fedus et al. 2022, section 2.2
MOST_SEED = 10**12  # every step's own seed still fits into 64 bits
ALIBI_EXTRA = 2  # numbers that a key carries more: positions.with_alibi


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} is {value!r}; expected a whole number of at least "
            f"{least}. Set {name}={least} or more."
        )


def _between(name: str, value: float, low: float, high: float) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # NaN: false
        raise ValueError(
            f"{name} is {value!r}; expected a number from {low} to {high}."
        )


def _switch(name: str, value: bool) -> None:
    if not isinstance(value, bool):  # the text "false" would count as true
        raise ValueError(
            f"{name} is {value!r}; expected True or False (in JSON true or "
            "false, without quotation marks)."
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            f"{name} is {value!r}; expected one of {', '.join(allowed)}."
        )


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3 stretches rotary positions to a longer context.

    Waves shorter than ``original_context_length / high_freq_factor``
    tokens stay, those longer than ``original_context_length /
    low_freq_factor`` are slowed down by ``factor``, and between the two
    the one passes into the other. Source: the code of Llama 3.1 that its
    report describes (Grattafiori et al. 2024, section 3.4.2).

    Raises:
        ValueError: a value is out of range.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192

    def __post_init__(self) -> None:
        _between("rope_scaling.factor", self.factor, 1.0, 1e6)
        low, high = self.low_freq_factor, self.high_freq_factor
        _between("rope_scaling.low_freq_factor", low, 0.0, 1e6)
        _between("rope_scaling.high_freq_factor", high, 0.0, 1e6)
        if not 0 < low < high:
            raise ValueError(
                f"rope_scaling has low_freq_factor {low!r} and "
                f"high_freq_factor {high!r}; expected 0 < low < high, as "
                "Llama 3.1 has 1 and 4."
            )
        _at_least(
            "rope_scaling.original_context_length",
            self.original_context_length,
            1,
        )


def _scaling(value: Any) -> RopeScaling | None:
    """``rope_scaling`` as it is, or as JSON gives it back."""
    if value is None or isinstance(value, RopeScaling):
        return value
    known = [field.name for field in fields(RopeScaling)]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise ValueError(
            f"rope_scaling is {value!r}; expected a RopeScaling, a mapping "
            f"with keys of {', '.join(known)}, or None."
        )
    return RopeScaling(**value)


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
        norm_eps: added to the variance (or mean square) inside a norm.
        init_std: standard deviation of the initial weights.
        positions: ``"learned"`` or ``"sinusoidal"`` vectors added to the
            tokens', ``"rotary"`` queries and keys, ``"alibi"`` or
            ``"none"``.
        rope_theta: base of the rotary wave lengths.
        rope_scaling: Llama 3's stretching of rotary positions, or None.
        norm: ``"layernorm"`` or ``"rmsnorm"``.
        feed_forward: ``"gelu"`` or ``"swiglu"``.
        d_ff: inner width of the feed-forward layer; None takes 4 times
            ``n_embd``, and with SwiGLU's third matrix two thirds of that.
        n_kv_head: heads of keys and values, shared by groups of queries'
            heads; None takes ``n_head``, a group of one.
        window: the most tokens that a token sees, itself included; None
            is all before it.
        n_expert: feed-forward layers to choose from for each token; 0
            has the one that every token passes.
        n_expert_used: how many of them a token passes.
        balance_weight: weight of the load-balancing loss while training.

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
    positions: str = "learned"
    rope_theta: float = ROPE_THETA
    rope_scaling: RopeScaling | None = None
    norm: str = "layernorm"
    feed_forward: str = "gelu"
    d_ff: int | None = None
    n_kv_head: int | None = None
    window: int | None = None
    n_expert: int = 0
    n_expert_used: int = 2
    balance_weight: float = BALANCE_WEIGHT

    def __post_init__(self) -> None:
        object.__setattr__(self, "rope_scaling", _scaling(self.rope_scaling))
        self._check_shape()
        self._check_parts()
        self._check_positions()

    def _check_shape(self) -> None:
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
        if self.n_kv_head is not None:
            _at_least("n_kv_head", self.n_kv_head, 1)
            if self.n_head % self.n_kv_head:
                raise ValueError(
                    f"n_kv_head is {self.n_kv_head} and n_head is "
                    f"{self.n_head}; each head of keys serves as many heads "
                    "of queries, so n_head must be a multiple of n_kv_head. "
                    "Try n_kv_head=1."
                )

    def _check_parts(self) -> None:
        _switch("bias", self.bias)
        _switch("tie_weights", self.tie_weights)
        _one_of("norm", self.norm, NORMS)
        _one_of("feed_forward", self.feed_forward, FEED_FORWARDS)
        if self.d_ff is not None:
            _at_least("d_ff", self.d_ff, 1)
        if self.window is not None:
            _at_least("window", self.window, 1)
        _at_least("n_expert", self.n_expert, 0)
        _at_least("n_expert_used", self.n_expert_used, 1)
        if self.n_expert and self.n_expert_used > self.n_expert:
            raise ValueError(
                f"n_expert is {self.n_expert} and n_expert_used is "
                f"{self.n_expert_used}; a token cannot pass more experts "
                f"than there are. Try n_expert_used=1."
            )
        _between("balance_weight", self.balance_weight, 0.0, 1e6)

    def _check_positions(self) -> None:
        _one_of("positions", self.positions, POSITIONS)
        _between("rope_theta", self.rope_theta, 1.0, 1e12)
        paired = {"rotary": self.head_dim, "sinusoidal": self.n_embd}
        if paired.get(self.positions, 0) % 2:
            name = "head_dim" if self.positions == "rotary" else "n_embd"
            raise ValueError(
                f"positions are {self.positions!r} and {name} is "
                f"{paired[self.positions]}; sine and cosine come in pairs, "
                "so it must be even."
            )
        if self.rope_scaling is not None and self.positions != "rotary":
            raise ValueError(
                f"rope_scaling is given and positions are "
                f"{self.positions!r}; only rotary ones are stretched. Set "
                "positions='rotary', or rope_scaling=None."
            )

    @property
    def head_dim(self) -> int:
        """Width D of one head: ``n_embd / n_head``."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: ``n_kv_head``, or all where it is None.

        >>> GPTConfig(n_head=4).kv_heads, GPTConfig(n_kv_head=2).kv_heads
        (4, 2)
        """
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def key_width(self) -> int:
        """Numbers in a key as a cache stores it: D, and ALiBi's two.

        >>> GPTConfig(n_embd=8, n_head=2, positions="alibi").key_width
        6
        """
        alibi = self.positions == "alibi"
        return self.head_dim + (ALIBI_EXTRA if alibi else 0)

    @property
    def ff_width(self) -> int:
        """Inner width of a feed-forward layer: ``d_ff`` or its default.

        SwiGLU has three matrices for two, so it takes two thirds of the
        usual width (Shazeer 2020, section 3), here to the next multiple of
        8.

        >>> GPTConfig(n_embd=192).ff_width
        768
        >>> GPTConfig(n_embd=192, feed_forward="swiglu").ff_width
        512
        """
        if self.d_ff is not None:
            return self.d_ff
        if self.feed_forward == "gelu":
            return EXPANSION * self.n_embd
        thirds = 2 * EXPANSION * self.n_embd
        return -(-thirds // (3 * WIDTH_STEP)) * WIDTH_STEP

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
        adamw_scale: learning rate of what Muon leaves to AdamW
            (embeddings, head, norms, biases), as a multiple of
            ``learning_rate``; with ``"adamw"`` it is not used.
        beta1, beta2, epsilon: AdamW's moment decays and its denominator
            guard (Loshchilov and Hutter 2019, algorithm 2).
        clip: largest L2 norm of the gradient; 0 switches clipping off.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        eval_batches: batches in one evaluation.
        checkpoint_every: steps between checkpoints; 0 writes one after
            each evaluation.
        checkpoint_seconds: the most seconds between two checkpoints, on
            top of that; 0 sets no such limit.
        stop_diverging: whether a run stops whose loss rises far above what
            it had reached.
        seed: fixes the order of the data and dropout.
        dtype: ``"float32"``, ``"bfloat16"``, or ``"auto"``, which takes
            bfloat16 where the processor computes in it.
        compile: ``"on"`` for ``torch.compile``, ``"off"``, or ``"auto"``,
            which compiles a run that is long enough for it to pay, but
            none in 32 bits on a processor. A model that is cut (see
            ``parallel``) is not compiled.
        parallel: how processes that torchrun started share the work:
            ``"ddp"``, each with the whole model; ``"fsdp"``, each with a
            slice of it; ``"auto"`` cuts it where the whole would fill a
            GPU. One process alone has nothing to share.

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
    adamw_scale: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 1.0
    eval_every: int = 100
    eval_batches: int = 8
    checkpoint_every: int = 0
    checkpoint_seconds: float = 0.0
    stop_diverging: bool = True
    seed: int = 0
    dtype: str = "auto"
    compile: str = "off"
    parallel: str = "auto"

    def __post_init__(self) -> None:
        for name, least in {
            "steps": 1,
            "batch_size": 1,
            "accumulate": 1,
            "warmup_steps": 0,
            "eval_every": 0,
            "eval_batches": 1,
            "checkpoint_every": 0,
            "seed": 0,
        }.items():
            _at_least(name, getattr(self, name), least)
        _between("seed", self.seed, 0, MOST_SEED)
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
        _between("adamw_scale", self.adamw_scale, 0.0, 1000.0)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("compile", self.compile, COMPILE)
        _one_of("parallel", self.parallel, PARALLEL)
        _between("checkpoint_seconds", self.checkpoint_seconds, 0.0, 1e9)
        _switch("stop_diverging", self.stop_diverging)
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

_LLAMA = GPTConfig(  # what Llama-style models have in common
    bias=False, positions="rotary", norm="rmsnorm", feed_forward="swiglu"
)

PRESETS: dict[str, GPTConfig] = {
    "gpt2": _GPT2,
    "gpt2-medium": replace(_GPT2, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": replace(_GPT2, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": replace(_GPT2, n_layer=48, n_head=25, n_embd=1600),
    "running": replace(  # benchmarks/recipe.py tried the others
        _LLAMA,
        vocab_size=2048,
        context_length=256,
        n_layer=2,
        n_head=2,
        n_embd=128,
        d_ff=344,
        tie_weights=False,
        init_std=0.04,  # 1 / sqrt(n_embd) is 0.09; 0.02 suits wider models
    ),
    "smollm2-135m": replace(  # Ben Allal et al. 2025, its config.json
        _LLAMA,
        vocab_size=49_152,
        context_length=8192,
        n_layer=30,
        n_head=9,
        n_kv_head=3,
        n_embd=576,
        d_ff=1536,
        rope_theta=100_000.0,
    ),
    "llama-3.2-1b": replace(  # its config.json
        _LLAMA,
        vocab_size=128_256,
        context_length=131_072,
        n_layer=16,
        n_head=32,
        n_kv_head=8,
        n_embd=2048,
        d_ff=8192,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=32.0),
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
