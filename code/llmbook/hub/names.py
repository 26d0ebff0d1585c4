"""What our GPT and transformers' models call the same tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from llmbook.config import GPTConfig
from llmbook.model import GPT

from .families import family

HEAD = "lm_head.weight"  # stands outside of their model, without its prefix
# Stored by older versions: masks and wave lengths, which are no weights.
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True)
class Names:
    """The names of a family's tensors.

    Args:
        prefix: stands before all names but the head's, or is left out.
        layers: what their blocks are called.
        in_block: their name within a block, to ours.
        outside: their name elsewhere, to ours.
        turned: whether matrices are kept as (inputs, outputs).
    """

    prefix: str
    layers: str
    in_block: Mapping[str, str]
    outside: Mapping[str, str]
    turned: bool = False


GPT2 = Names(
    prefix="transformer.",
    layers="h",
    in_block={
        "ln_1": "norm_1",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.output",
        "ln_2": "norm_2",
        "mlp.c_fc": "feed_forward.up",
        "mlp.c_proj": "feed_forward.down",
    },
    outside={
        "wte.weight": "token_embedding.weight",
        "wpe.weight": "position_embedding.weight",
        "ln_f.weight": "final_norm.weight",
        "ln_f.bias": "final_norm.bias",
        HEAD: "head.weight",
    },
    turned=True,  # after GPT-2's original code (Conv1D)
)
LLAMA = Names(
    prefix="model.",
    layers="layers",
    in_block={
        "input_layernorm": "norm_1",
        "self_attn.q_proj": "attention.qkv",  # the first rows of it,
        "self_attn.k_proj": "attention.qkv",  # the next,
        "self_attn.v_proj": "attention.qkv",  # and the last: see _rows
        "self_attn.o_proj": "attention.output",
        "post_attention_layernorm": "norm_2",
        "mlp.gate_proj": "feed_forward.gate",
        "mlp.up_proj": "feed_forward.up",
        "mlp.down_proj": "feed_forward.down",
    },
    outside={
        "embed_tokens.weight": "token_embedding.weight",
        "norm.weight": "final_norm.weight",
        HEAD: "head.weight",
    },
)
NAMES = {"gpt2": GPT2, "llama": LLAMA, "mistral": LLAMA}


@dataclass(frozen=True)
class Place:
    """Where one of their tensors lies in the state of a GPT of ours.

    Args:
        name: of our tensor.
        rows: the first of its rows that are meant, and the one behind the
            last; None are all.
        turned: whether theirs is the transpose.
    """

    name: str
    rows: tuple[int, int] | None = None
    turned: bool = False

    def of(self, state: Mapping[str, Tensor]) -> Tensor:
        """The place itself, in their shape: writing to it fills ours.

        >>> import torch
        >>> state = {"up.weight": torch.zeros(2, 3)}
        >>> Place("up.weight", turned=True).of(state).fill_(1).shape
        torch.Size([3, 2])
        >>> state["up.weight"].sum().item()
        6.0
        """
        tensor = state[self.name]
        if self.rows is not None:
            tensor = tensor[slice(*self.rows)]
        return tensor.T if self.turned else tensor


def layout(config: GPTConfig, ours: Mapping[str, Tensor]) -> dict[str, Place]:
    """Where each tensor of transformers' model lies in our state, ``ours``.

    Keyed by their names without the prefix.

    >>> model = GPT(GPTConfig(n_layer=1))
    >>> places = layout(model.config, model.state_dict())
    >>> places["h.0.mlp.c_fc.weight"].name
    'blocks.0.feed_forward.up.weight'
    """
    names, rows = NAMES[family(config)], _rows(config)
    places = {theirs: Place(name) for theirs, name in names.outside.items()}
    for layer in range(config.n_layer):
        for theirs, part in names.in_block.items():
            for kind in ("weight", "bias"):
                name = f"blocks.{layer}.{part}.{kind}"
                places[f"{names.layers}.{layer}.{theirs}.{kind}"] = Place(
                    name,
                    rows.get(theirs),
                    names.turned and name in ours and ours[name].ndim == 2,
                )
    return {key: p for key, p in places.items() if p.name in ours}


def _rows(config: GPTConfig) -> dict[str, tuple[int, int]]:
    """Which rows of our one matrix make queries, keys and values."""
    C, shared = config.n_embd, config.kv_heads * config.head_dim
    return {
        "self_attn.q_proj": (0, C),
        "self_attn.k_proj": (C, C + shared),
        "self_attn.v_proj": (C + shared, C + 2 * shared),
    }


def short_name(name: str, names: Names) -> str | None:
    """Their ``name`` without its prefix; None for what is no weight.

    >>> short_name("transformer.h.3.mlp.c_fc.weight", GPT2)
    'h.3.mlp.c_fc.weight'
    """
    if name.endswith(NOT_WEIGHTS):
        return None
    return name.removeprefix(names.prefix)


def their_tensors(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``model`` by transformers' names, without copies.

    A tied head is left out, as transformers leaves it out; a bias that our
    model does not have is written as zeros where a GPT-2 has one.
    """
    config, state = model.config, model.state_dict()
    names = NAMES[family(config)]
    for short, place in layout(config, state).items():
        tensor = place.of(state).detach()
        name = short if short == HEAD else names.prefix + short
        yield name, tensor
        within = short.startswith((f"{names.layers}.", "ln_f"))
        if names is GPT2 and not config.bias and within:
            bias = name.removesuffix("weight") + "bias"
            yield bias, tensor.new_zeros(tensor.shape[-1])
