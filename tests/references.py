"""transformers' models with the weights of ours, copied one by one.

None of it goes through llmbook.hub: what is equal here is the arithmetic.
"""

from __future__ import annotations

import pytest
import torch

from llmbook.config import GPTConfig
from llmbook.model import GPT

LLAMA = {
    "bias": False,
    "positions": "rotary",
    "norm": "rmsnorm",
    "feed_forward": "swiglu",
}


def spread(config: GPTConfig, seed: int = 0) -> GPT:
    """A model with opinions: at the usual start all logits are alike."""
    model = GPT(config, torch.Generator().manual_seed(seed)).eval()
    source = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:  # gains and biases start constant
                noise = torch.randn(parameter.shape, generator=source)
                parameter.add_(0.1 * noise)
    return model


def _settings(config: GPTConfig) -> dict:
    """What Llama, Mistral and Mixtral call the numbers of a configuration."""
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": (
                scaling.original_context_length
            ),
        }
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_weights,
        "rope_parameters": rope,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _attention(model: GPT, number: int) -> dict[str, torch.Tensor]:
    config, block = model.config, model.blocks[number]
    shared = config.kv_heads * config.head_dim
    sizes = [config.n_embd, shared, shared]
    weight = block.attention.qkv.weight
    parts = dict(zip("qkv", weight.split(sizes), strict=True))
    parts["o"] = block.attention.output.weight
    return {f"self_attn.{p}_proj.weight": w for p, w in parts.items()}


def _gated(layer, where: str) -> dict[str, torch.Tensor]:
    return {
        f"{where}.{part}_proj.weight": getattr(layer, part).weight
        for part in ("gate", "up", "down")
    }


def _experts(layer) -> dict[str, torch.Tensor]:
    both = [torch.cat([e.gate.weight, e.up.weight]) for e in layer.experts]
    down = [e.down.weight for e in layer.experts]
    return {
        "mlp.gate.weight": layer.router.weight,
        "mlp.experts.gate_up_proj": torch.stack(both),
        "mlp.experts.down_proj": torch.stack(down),
    }


def llama_of(model: GPT):
    """Llama; with a window Mistral, with experts Mixtral."""
    transformers = pytest.importorskip("transformers")
    config, settings = model.config, _settings(model.config)
    kind = "Llama"
    if config.window is not None:
        kind, settings["sliding_window"] = "Mistral", config.window
    if config.n_expert:
        kind, settings["sliding_window"] = "Mixtral", config.window
        settings["num_local_experts"] = config.n_expert
        settings["num_experts_per_tok"] = config.n_expert_used
    shape = getattr(transformers, f"{kind}Config")(**settings)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(shape).eval()
    tensors = {
        "model.embed_tokens.weight": model.token_embedding.weight,
        "model.norm.weight": model.final_norm.weight,
        "lm_head.weight": model.head_weight,
    }
    for number, block in enumerate(model.blocks):
        layer = {
            "input_layernorm.weight": block.norm_1.weight,
            "post_attention_layernorm.weight": block.norm_2.weight,
            **_attention(model, number),
        }
        feed = block.feed_forward
        layer |= _experts(feed) if config.n_expert else _gated(feed, "mlp")
        tensors |= {f"model.layers.{number}.{n}": w for n, w in layer.items()}
    theirs.load_state_dict(tensors)
    return theirs


def mpt_of(model: GPT):
    """MPT: ALiBi, norms and matrices without biases; here GPT-2's GELU."""
    transformers = pytest.importorskip("transformers")
    config = model.config
    shape = transformers.MptConfig(
        d_model=config.n_embd,
        n_heads=config.n_head,
        n_layers=config.n_layer,
        max_seq_len=config.context_length,
        vocab_size=config.vocab_size,
        layer_norm_epsilon=config.norm_eps,
    )
    theirs = transformers.MptForCausalLM(shape).eval()
    tensors = {
        "transformer.wte.weight": model.token_embedding.weight,
        "transformer.norm_f.weight": model.final_norm.weight,
        "lm_head.weight": model.head_weight,
    }
    for number, block in enumerate(model.blocks):
        theirs.transformer.blocks[number].ffn.act = torch.nn.GELU("tanh")
        layer = {
            "norm_1.weight": block.norm_1.weight,
            "norm_2.weight": block.norm_2.weight,
            "attn.Wqkv.weight": block.attention.qkv.weight,
            "attn.out_proj.weight": block.attention.output.weight,
            "ffn.up_proj.weight": block.feed_forward.up.weight,
            "ffn.down_proj.weight": block.feed_forward.down.weight,
        }
        where = f"transformer.blocks.{number}"
        tensors |= {f"{where}.{n}": w for n, w in layer.items()}
    theirs.load_state_dict(tensors)
    return theirs
