"""Models from and for Hugging Face: weights, configuration, tokenizer.

A GPT of ours is, under other names, one of three models of transformers.
Its parts decide which: learned positions, LayerNorm and GELU make a GPT-2;
rotary positions, RMSNorm and SwiGLU a Llama; these within a window a
Mistral.

=======================  =====================  =========================
ours                     GPT-2's                Llama's and Mistral's
=======================  =====================  =========================
token_embedding          transformer.wte        model.embed_tokens
position_embedding       transformer.wpe
blocks.3                 transformer.h.3        model.layers.3
- norm_1                 - ln_1                 - input_layernorm
- attention.qkv          - attn.c_attn          - self_attn.q_proj,
                                                  k_proj and v_proj
- attention.output       - attn.c_proj          - self_attn.o_proj
- norm_2                 - ln_2                 - post_attention_layernorm
- feed_forward.gate                             - mlp.gate_proj
- feed_forward.up        - mlp.c_fc             - mlp.up_proj
- feed_forward.down      - mlp.c_proj           - mlp.down_proj
final_norm               transformer.ln_f       model.norm
head, if not tied        lm_head                lm_head
=======================  =====================  =========================

GPT-2 keeps the matrices of its blocks transposed. What ``config.json`` calls
our settings stands in :mod:`llmbook.hub.families`.
"""

from __future__ import annotations

from .bpe import HubTokenizer
from .families import config_from_hub, config_to_hub, family
from .files import CONFIG, INDEX, TOKENIZER, WEIGHTS
from .load import from_pretrained, from_pretrained_gpt2, gpt_from_tensors
from .repositories import REPOSITORIES, download
from .save import save_pretrained
from .tokens import load_tokenizer, tokenizer_to_hub

__all__ = [
    "CONFIG",
    "INDEX",
    "REPOSITORIES",
    "TOKENIZER",
    "WEIGHTS",
    "HubTokenizer",
    "config_from_hub",
    "config_to_hub",
    "download",
    "family",
    "from_pretrained",
    "from_pretrained_gpt2",
    "gpt_from_tensors",
    "load_tokenizer",
    "save_pretrained",
    "tokenizer_to_hub",
]
