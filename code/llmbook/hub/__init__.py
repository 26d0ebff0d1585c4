"""Models from and for Hugging Face: weights, configuration, tokenizer.

A GPT of ours is a ``GPT2LMHeadModel`` of transformers under other names:

=========================  ==============================================
ours                       transformers', after ``transformer.``
=========================  ==============================================
token_embedding.weight     wte.weight
position_embedding.weight  wpe.weight
blocks.3.norm_1            h.3.ln_1
blocks.3.attention.qkv     h.3.attn.c_attn, matrix transposed
blocks.3.attention.output  h.3.attn.c_proj, matrix transposed
blocks.3.norm_2            h.3.ln_2
blocks.3.feed_forward.up   h.3.mlp.c_fc, matrix transposed
blocks.3.feed_forward.down h.3.mlp.c_proj, matrix transposed
final_norm                 ln_f
head.weight, if not tied   lm_head.weight, without ``transformer.``
=========================  ==============================================

In ``config.json``, ``context_length`` is ``n_positions``, ``norm_eps`` is
``layer_norm_epsilon``, ``tie_weights`` is ``tie_word_embeddings`` and
``init_std`` is ``initializer_range``; ``dropout`` is written three times
and ``bias`` stays, for what GPT-2 has no word for.
"""

from __future__ import annotations

from .files import CONFIG, INDEX, TOKENIZER, WEIGHTS
from .load import (
    REPOSITORIES,
    download,
    from_pretrained_gpt2,
    gpt_from_tensors,
)
from .names import (
    config_from_hub,
    config_to_hub,
    our_name,
    our_state,
    their_name,
    their_state,
)
from .save import save_pretrained
from .tokens import load_tokenizer, tokenizer_to_hub

__all__ = [
    "CONFIG",
    "INDEX",
    "REPOSITORIES",
    "TOKENIZER",
    "WEIGHTS",
    "config_from_hub",
    "config_to_hub",
    "download",
    "from_pretrained_gpt2",
    "gpt_from_tensors",
    "load_tokenizer",
    "our_name",
    "our_state",
    "save_pretrained",
    "their_name",
    "their_state",
    "tokenizer_to_hub",
]
