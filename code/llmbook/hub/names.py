"""What our GPT and transformers' GPT-2 call the same things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llmbook.config import (
    EXPANSION,
    GPT2_CONTEXT_LENGTH,
    GPT2_VOCAB_SIZE,
    GPTConfig,
)
from llmbook.model import GPT

from .files import CONFIG

# transformers' name within h.<i>. : ours within blocks.<i>.
IN_BLOCK = {
    "ln_1": "norm_1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.output",
    "ln_2": "norm_2",
    "mlp.c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.down",
}
OUTSIDE = {
    "wte.weight": "token_embedding.weight",
    "wpe.weight": "position_embedding.weight",
    "ln_f.weight": "final_norm.weight",
    "ln_f.bias": "final_norm.bias",
    "lm_head.weight": "head.weight",
}
MASKS = (".attn.bias", ".attn.masked_bias")  # stored masks, not weights
BIAS = "bias"  # our own setting; a GPT-2 without biases has zeros
GELU_NAMES = ("gelu_new", "gelu_pytorch_tanh")  # both are the tanh form


def config_from_hub(settings: dict[str, Any]) -> GPTConfig:
    """Our configuration for the contents of a GPT-2's ``config.json``.

    Raises:
        ValueError: a setting asks for what our GPT does not compute.

    >>> settings = {"model_type": "gpt2", "n_layer": 2, "n_head": 2,
    ...             "n_embd": 8, "n_positions": 16, "vocab_size": 100}
    >>> config_from_hub(settings).context_length
    16
    """
    n_embd = settings.get("n_embd", 768)  # defaults: transformers' GPT2Config
    required = {
        "model_type": ("gpt2",),
        "activation_function": GELU_NAMES,
        "n_inner": (None, EXPANSION * n_embd),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    for key, allowed in required.items():
        value = settings.get(key, allowed[0])
        if value not in allowed:
            raise ValueError(
                f"{CONFIG} says {key} = {value!r}; this GPT computes only "
                f"{' or '.join(map(repr, allowed))}."
            )
    return GPTConfig(
        vocab_size=settings.get("vocab_size", GPT2_VOCAB_SIZE),
        context_length=settings.get("n_positions", GPT2_CONTEXT_LENGTH),
        n_layer=settings.get("n_layer", 12),
        n_head=settings.get("n_head", 12),
        n_embd=n_embd,
        dropout=settings.get("resid_pdrop", 0.1),
        bias=settings.get(BIAS, True),
        tie_weights=settings.get("tie_word_embeddings", True),
        norm_eps=settings.get("layer_norm_epsilon", 1e-5),
        init_std=settings.get("initializer_range", 0.02),
    )


def config_to_hub(
    config: GPTConfig, end_of_text: int | None = None
) -> dict[str, Any]:
    """What ``config.json`` says of a model, for transformers' GPT-2.

    >>> config = GPTConfig(n_layer=3)
    >>> config_from_hub(config_to_hub(config)) == config
    True
    """
    dropout = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": GELU_NAMES[0],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        **dict.fromkeys(dropout, config.dropout),
        BIAS: config.bias,
        "tie_word_embeddings": config.tie_weights,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def our_name(name: str) -> str | None:
    """Our parameter for transformers' GPT-2 ``name``; None for masks.

    Raises:
        ValueError: a GPT-2 has no such tensor.

    >>> our_name("transformer.h.3.mlp.c_fc.weight")
    'blocks.3.feed_forward.up.weight'
    """
    short = name.removeprefix("transformer.")
    if short.endswith(MASKS):
        return None
    if short in OUTSIDE:
        return OUTSIDE[short]
    parts = short.split(".")
    layer, part = ".".join(parts[:2]), ".".join(parts[2:-1])
    if parts[0] != "h" or part not in IN_BLOCK:
        raise ValueError(
            f"the checkpoint has a tensor {name!r}, which a GPT-2 has not; "
            "expected the weights of a GPT2LMHeadModel or GPT2Model."
        )
    return f"blocks.{layer[2:]}.{IN_BLOCK[part]}.{parts[-1]}"


def their_name(name: str) -> str:
    """The name of our parameter in transformers' GPT-2.

    >>> their_name("blocks.3.feed_forward.up.weight")
    'transformer.h.3.mlp.c_fc.weight'
    """
    outside = {ours: theirs for theirs, ours in OUTSIDE.items()}
    if name in outside:
        head = outside[name].startswith("lm_head")
        return outside[name] if head else f"transformer.{outside[name]}"
    _, layer, part = name.split(".", 2)
    part, kind = part.rsplit(".", 1)
    [theirs] = [key for key, ours in IN_BLOCK.items() if ours == part]
    return f"transformer.h.{layer}.{theirs}.{kind}"


def our_state(
    tensors: Mapping[str, Tensor], config: GPTConfig
) -> dict[str, Tensor]:
    """Our state dict for ``tensors`` under transformers' names.

    transformers keeps a block's matrices as (inputs, outputs), after
    GPT-2's original code (``Conv1D``); ``nn.Linear`` has them transposed.
    """
    state = {}
    for name, tensor in tensors.items():
        ours = our_name(name)
        if ours is None or (ours == "head.weight" and config.tie_weights):
            continue
        if ours.endswith(".bias") and not (config.bias or tensor.any()):
            continue
        if ours.startswith("blocks") and tensor.ndim == 2:
            tensor = tensor.T
        state[ours] = tensor.float().contiguous()
    return state


def their_state(model: GPT) -> dict[str, Tensor]:
    """The tensors of ``model`` under transformers' names, on the CPU.

    A tied head is left out, as transformers leaves it out; a bias that our
    model does not have is written as zeros, for GPT-2 always has one.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        matrix = name.startswith("blocks") and tensor.ndim == 2
        theirs = their_name(name)
        tensor = tensor.detach().cpu()
        state[theirs] = (tensor.T if matrix else tensor).contiguous()
        if not model.config.bias and (matrix or tensor.ndim == 1):
            bias = theirs.removesuffix("weight") + "bias"
            state[bias] = tensor.new_zeros(tensor.shape[0])
    return state
