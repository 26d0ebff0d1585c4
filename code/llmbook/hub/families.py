"""The families of transformers that our GPT can be, and their config.json."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from llmbook.config import ROPE_THETA, GPTConfig, RopeScaling

from .files import CONFIG

Settings = Mapping[str, Any]

# What a configuration of ours has to say for each family; None of them has
# ALiBi or sinusoidal positions, or experts.
_LLAMA = {
    "positions": "rotary",
    "norm": "rmsnorm",
    "feed_forward": "swiglu",
    "n_expert": 0,
}
PARTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "positions": "learned",
        "norm": "layernorm",
        "feed_forward": "gelu",
        "n_expert": 0,
        "window": None,
    },
    "llama": {**_LLAMA, "window": None},
    "mistral": {**_LLAMA, "bias": False},  # a Llama with a window
}

# What transformers takes for a setting that a file leaves out.
_LLAMA_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
    "attention_dropout": 0.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "sliding_window": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "resid_pdrop": 0.1,
        "bias": True,
        "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
    },
    "llama": _LLAMA_DEFAULTS,
    "mistral": {
        **_LLAMA_DEFAULTS,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
}

# What a file may say; where only one value can be, its default comes first.
GELU_NAMES = ("gelu_new", "gelu_pytorch_tanh")  # both are the tanh form
FLAG = (False, True)
_LLAMA_FIXED = {
    "hidden_act": ("silu", "swish"),  # two names of one function
    "rope_interleaved": (None, False),
    "partial_rotary_factor": (None, 1.0),
    "layer_types": (None,),
    "quantization_config": (None,),
    "tie_word_embeddings": FLAG,
}
FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": GELU_NAMES,
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
        "tie_word_embeddings": FLAG,
        "bias": FLAG,
    },
    "llama": {
        **_LLAMA_FIXED,
        "sliding_window": (None,),
        "attention_bias": FLAG,
        "mlp_bias": FLAG,
    },
    "mistral": {
        **_LLAMA_FIXED,
        "use_sliding_window": (None, True),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
    },
}
# Which matrices of a Llama have a bias; ours have it all, or none.
LLAMA_BIASES = {"attention_bias": ".self_attn.", "mlp_bias": ".mlp."}


def family(config: GPTConfig) -> str:
    """The family of transformers that computes what ``config`` says.

    Raises:
        ValueError: none does; the message says what each would need.

    >>> family(GPTConfig())
    'gpt2'
    >>> family(GPTConfig(positions="rotary", norm="rmsnorm", bias=False,
    ...                  feed_forward="swiglu", window=8))
    'mistral'
    """
    needs = {name: _needs(config, name) for name in PARTS}
    for name, changes in needs.items():
        if not changes:
            return name
    each = "; ".join(
        f"{name} needs {' and '.join(changes)}"
        for name, changes in needs.items()
    )
    raise ValueError(
        f"no family of transformers that llmbook knows has these parts: "
        f"{each}. Keep such a model as a checkpoint: checkpoint.save."
    )


def _needs(config: GPTConfig, name: str) -> list[str]:
    """The changes that would make ``config`` one of the family's."""
    changes = [
        f"{field}={wanted!r}"
        for field, wanted in PARTS[name].items()
        if getattr(config, field) != wanted
    ]
    if name == "gpt2" and config.kv_heads != config.n_head:
        changes.append("n_kv_head=None")
    return changes


def config_from_hub(settings: Settings) -> GPTConfig:
    """Our configuration for the contents of a model's ``config.json``.

    Raises:
        ValueError: a setting asks for what our GPT does not compute.

    >>> settings = {"model_type": "gpt2", "n_layer": 2, "n_head": 2,
    ...             "n_embd": 8, "n_positions": 16, "vocab_size": 100}
    >>> config_from_hub(settings).context_length
    16
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in PARTS:
        raise ValueError(
            f"{CONFIG} says model_type = {kind!r}; this GPT can be one of "
            f"{', '.join(PARTS)}. Load others with transformers."
        )
    for key, allowed in FIXED[kind].items():
        value = settings.get(key, allowed[0])
        if value not in allowed:
            raise ValueError(
                f"{CONFIG} says {key} = {value!r}; of a {kind} this GPT "
                f"computes only {' or '.join(map(repr, allowed))}."
            )
    settings = DEFAULTS[kind] | dict(settings)
    return (_from_gpt2 if kind == "gpt2" else _from_llama)(settings)


def _from_gpt2(settings: Settings) -> GPTConfig:
    return GPTConfig(
        vocab_size=settings["vocab_size"],
        context_length=settings["n_positions"],
        n_layer=settings["n_layer"],
        n_head=settings["n_head"],
        n_embd=settings["n_embd"],
        d_ff=settings["n_inner"],
        dropout=settings["resid_pdrop"],
        bias=settings["bias"],
        tie_weights=settings["tie_word_embeddings"],
        norm_eps=settings["layer_norm_epsilon"],
        init_std=settings["initializer_range"],
    )


def _from_llama(settings: Settings) -> GPTConfig:
    context_length = settings["max_position_embeddings"]
    theta, scaling = _rotary(settings, context_length)
    config = GPTConfig(
        vocab_size=settings["vocab_size"],
        context_length=context_length,
        n_layer=settings["num_hidden_layers"],
        n_head=settings["num_attention_heads"],
        n_kv_head=settings["num_key_value_heads"],
        n_embd=settings["hidden_size"],
        d_ff=settings["intermediate_size"],
        dropout=settings["attention_dropout"],
        bias=any(settings[key] for key in LLAMA_BIASES),
        tie_weights=settings["tie_word_embeddings"],
        norm_eps=settings["rms_norm_eps"],
        init_std=settings["initializer_range"],
        positions="rotary",
        rope_theta=theta,
        rope_scaling=scaling,
        norm="rmsnorm",
        feed_forward="swiglu",
        window=settings["sliding_window"],
    )
    head_dim = settings.get("head_dim")
    if head_dim not in (None, config.head_dim):
        raise ValueError(
            f"{CONFIG} says head_dim = {head_dim}; here the heads share the "
            f"width, and hidden_size / num_attention_heads is "
            f"{config.head_dim}. Load this model with transformers."
        )
    return config


def _rotary(
    settings: Settings, context_length: int
) -> tuple[float, RopeScaling | None]:
    """The base of the rotary wave lengths, and how they are stretched.

    Files keep them in ``rope_theta`` and ``rope_scaling`` up to version 4
    of transformers, and in ``rope_parameters`` from version 5 on.
    """
    rope = settings.get("rope_scaling") or settings.get("rope_parameters")
    rope = rope or {}
    if not _computed(rope):
        raise ValueError(
            f"{CONFIG} asks for rotary positions of another kind, {rope}; "
            "expected rope_type 'default' or 'llama3', for whole heads and "
            "all layers alike. Load this model with transformers."
        )
    theta = rope.get("rope_theta", settings.get("rope_theta", ROPE_THETA))
    if _rope_type(rope) == "default":
        return theta, None
    needed = ("factor", "high_freq_factor", "low_freq_factor")
    missing = [name for name in needed if not isinstance(rope.get(name), Real)]
    if missing:
        raise ValueError(
            f"{CONFIG} asks for rope_type 'llama3' without "
            f"{', '.join(missing)}. Take it from the model's home."
        )
    return theta, RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_context_length=rope.get(
            "original_max_position_embeddings", context_length
        ),
    )


def _computed(rope: Any) -> bool:
    """Whether these are rotary settings, and such as our GPT computes.

    Some models turn a part of each head, or have settings of their own for
    kinds of layers.
    """
    return (
        isinstance(rope, Mapping)
        and _rope_type(rope) in ("default", "llama3")
        and rope.get("partial_rotary_factor") in (None, 1.0)
        and not any(isinstance(value, Mapping) for value in rope.values())
    )


def _rope_type(rope: Settings) -> Any:
    return rope.get("rope_type", rope.get("type", "default"))


def biases_left_out(settings: Settings) -> list[str]:
    """Parts of a Llama that have no bias although others have one.

    >>> biases_left_out({"model_type": "llama", "attention_bias": True})
    ['.mlp.']
    """
    if settings.get("model_type") != "llama":
        return []
    return [
        part for key, part in LLAMA_BIASES.items() if not settings.get(key)
    ]


def config_to_hub(
    config: GPTConfig, end_of_text: int | None = None
) -> dict[str, Any]:
    """What ``config.json`` says of a model, for transformers.

    Raises:
        ValueError: no family of theirs is made of these parts.

    >>> config = GPTConfig(n_layer=3)
    >>> config_from_hub(config_to_hub(config)) == config
    True
    """
    kind = family(config)
    return {
        "model_type": kind,
        **(_to_gpt2 if kind == "gpt2" else _to_llama)(config),
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_weights,
        "initializer_range": config.init_std,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def _to_gpt2(config: GPTConfig) -> dict[str, Any]:
    dropout = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": GELU_NAMES[0],
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.d_ff,
        **dict.fromkeys(dropout, config.dropout),
        "bias": config.bias,  # our own word: a GPT-2 without has zeros
        "layer_norm_epsilon": config.norm_eps,
    }


def _to_llama(config: GPTConfig) -> dict[str, Any]:
    kind = family(config)
    settings = {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_size": config.n_embd,
        "intermediate_size": config.ff_width,
        "attention_dropout": config.dropout,
        "rms_norm_eps": config.norm_eps,
        **_rotary_to_hub(config),
    }
    if kind == "mistral":
        return {**settings, "sliding_window": config.window}
    return {**settings, **dict.fromkeys(LLAMA_BIASES, config.bias)}


def _rotary_to_hub(config: GPTConfig) -> dict[str, Any]:
    """Rotary positions in the spelling of both versions, 4 and 5."""
    theta, scaling = float(config.rope_theta), config.rope_scaling
    stretched = scaling and {
        "rope_type": "llama3",
        "factor": float(scaling.factor),
        "low_freq_factor": float(scaling.low_freq_factor),
        "high_freq_factor": float(scaling.high_freq_factor),
        "original_max_position_embeddings": scaling.original_context_length,
    }
    both = {"rope_theta": theta, **(stretched or {"rope_type": "default"})}
    return {
        "rope_theta": theta,
        "rope_scaling": stretched,
        "rope_parameters": both,
    }
