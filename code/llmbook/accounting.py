"""What a model costs, worked out from its configuration alone.

Parameters, floating-point operations and memory, for every configuration,
before a model is built. Letters as everywhere: B sequences of T tokens; L
layers of width C; H heads of queries and G of keys, D wide; a feed-forward
width F, E experts of which a token passes k; a vocabulary V.
"""

from __future__ import annotations

from llmbook.config import GPTConfig

FLOAT_BYTES = 4  # float32, in which some things are computed whatever comes
ID_BYTES = 8  # a token id, or the number of an expert, as int64
TRAINING = 3  # the backward pass multiplies twice: Kaplan et al. 2020, 2.1


def parameters(config: GPTConfig, non_embedding: bool = False) -> int:
    """How many numbers the model learns; shared ones count once.

    ``non_embedding`` leaves out token and position vectors and the head: N
    as scaling laws count it (Kaplan et al. 2020, section 2.1).

    >>> parameters(GPTConfig(n_layer=1, n_head=1, n_embd=2))
    2638
    """
    return _parameters(config, config.n_expert, non_embedding)


def active_parameters(config: GPTConfig, non_embedding: bool = False) -> int:
    """Those of :func:`parameters` that one token passes.

    All of them, but for the experts that the router did not choose.
    Source: Jiang et al. 2024, section 2.1.

    >>> few = GPTConfig(n_expert=8, n_expert_used=2)
    >>> round(parameters(few) / active_parameters(few), 1)
    3.2
    """
    used = min(config.n_expert, config.n_expert_used)
    return _parameters(config, used, non_embedding)


def _parameters(c: GPTConfig, n_expert: int, non_embedding: bool) -> int:
    norms = (2 * c.n_layer + 1) * _norm(c)
    inside = norms + c.n_layer * (_matrices(c, n_expert) + _biases(c))
    if c.n_expert and c.bias:  # one feed-forward's biases are counted
        inside += c.n_layer * (n_expert - 1) * _feed_forward_biases(c)
    if non_embedding:
        return inside
    tables = 1 if c.tie_weights else 2
    learned = c.context_length if c.positions == "learned" else 0
    return inside + (tables * c.vocab_size + learned) * c.n_embd


def _norm(c: GPTConfig) -> int:
    """Gains of one norm, and shifts where it has them."""
    shifts = c.norm == "layernorm" and c.bias
    return c.n_embd * (2 if shifts else 1)


def _qkv(c: GPTConfig) -> int:
    """Numbers that a token's query, key and value are made of."""
    return c.n_embd + 2 * c.kv_heads * c.head_dim


def _gates(c: GPTConfig) -> int:
    """Matrices into the feed-forward width: SwiGLU has a second one."""
    return 2 if c.feed_forward == "swiglu" else 1


def _matrices(c: GPTConfig, n_expert: int) -> int:
    """Weights in the matrices of a block, with so many experts."""
    C = c.n_embd
    attention = C * _qkv(c) + C * C
    one = (_gates(c) + 1) * C * c.ff_width
    if not c.n_expert:
        return attention + one
    return attention + C * c.n_expert + n_expert * one


def _biases(c: GPTConfig) -> int:
    """Biases of a block's attention and of one feed-forward layer."""
    if not c.bias:
        return 0
    return _qkv(c) + c.n_embd + _feed_forward_biases(c)


def _feed_forward_biases(c: GPTConfig) -> int:
    return _gates(c) * c.ff_width + c.n_embd


def flops_per_token(config: GPTConfig, T: int, training: bool = False) -> int:
    """Floating-point operations a token, in a sequence of ``T`` tokens.

    Counts the matrix products, two operations for each multiplied pair,
    with every query against all ``T`` keys: what the causal mask and a
    window hide, a kernel may skip. A training step takes three times a
    forward pass. Source: Kaplan et al. 2020, section 2.1.

    >>> flops_per_token(GPTConfig(vocab_size=10, n_layer=1, n_embd=4), T=1)
    480
    """
    c = config
    used = min(c.n_expert, c.n_expert_used)
    scores_and_mixing = 2 * T * c.n_head * c.key_width
    block = _matrices(c, used) + scores_and_mixing
    forward = 2 * (c.n_layer * block + c.vocab_size * c.n_embd)
    return TRAINING * forward if training else forward


def cache_bytes(
    config: GPTConfig,
    batch_size: int,
    bytes_each: int = 4,
    tokens: int | None = None,
) -> int:
    """Memory of a :class:`~llmbook.cache.KVCache`, in bytes.

    ``bytes_each`` is the size of a number, ``tokens`` how many the cache
    is to hold; None fills the context. There are never more places than
    the context or the window has.

    >>> cache_bytes(GPTConfig(n_layer=1, n_embd=8, n_head=2), 1, tokens=1)
    64
    """
    c = config
    places = min(
        c.context_length,
        c.context_length if tokens is None else tokens,
        c.context_length if c.window is None else c.window,
    )
    keys = c.n_layer * batch_size * c.kv_heads * places * c.key_width
    return 2 * keys * bytes_each  # and as many values


def activation_bytes(
    config: GPTConfig, B: int, T: int, bytes_each: int = 4
) -> int:
    """What a training step keeps of its forward pass for the backward one.

    In bytes, for ``B`` sequences of ``T`` tokens, with attention by the
    fused kernel, which stores no weights, and without dropout. The ids and
    the log-probabilities of the loss (in 16 bits, their gradient) are
    counted too; weights, gradients and the optimizer's averages are not.
    ``bytes_each`` is the size of a number in the model: 2 for one in
    bfloat16, of which some steps are in float32 all the same.

    >>> one, two = (activation_bytes(GPTConfig(), 1, T) for T in (64, 128))
    >>> two / one  # nothing grows with the square of T
    2.0
    """
    c, N = config, B * T
    block = 2 * _norm_keeps(c) + _attention_keeps(c) + _feed_keeps(c)
    numbers = N * (c.n_layer * block + _norm_keeps(c) + c.vocab_size)
    if c.positions == "rotary":
        numbers += T * c.head_dim  # cosines and sines, for all layers
    if c.window is not None and c.window < T:
        numbers += c.n_layer * T * T  # a mask: then the square comes back
    chosen = 3 * c.n_expert_used if c.n_expert else 0  # expert, token, choice
    whole = N * (2 + c.n_layer * chosen)  # 2: the ids, and the targets
    return (
        bytes_each * numbers
        + ID_BYTES * whole
        + FLOAT_BYTES * N * _floats_kept(c)
    )


def _floats_kept(c: GPTConfig) -> int:
    """Numbers a token in float32, whatever the model is in.

    A sum of exponentials for each head, what RMSNorm squared and the root
    of it, and the probabilities of a router.
    """
    sums = c.n_layer * c.n_head
    norms = 2 * c.n_layer + 1 if c.norm == "rmsnorm" else 0
    routing = c.n_expert + c.n_expert_used if c.n_expert else 0
    squared = norms * (c.n_embd + 1)
    return sums + squared + c.n_layer * routing


def _norm_keeps(c: GPTConfig) -> int:
    """Numbers a token: the vector that a norm read, and the one it gave.

    LayerNorm adds the mean and the deviation that it found. RMSNorm reads
    in float32, and keeps the vector from before the gains too.
    """
    found = 2 if c.norm == "layernorm" else 0
    return 2 * c.n_embd + found


def _attention_keeps(c: GPTConfig) -> int:
    """Numbers a token: queries, keys, values, and the mix.

    Rotary positions keep queries and keys a second time, turned. What
    changes the layout of the queries has the mix copied once more.
    """
    H, G = c.n_head, c.kv_heads
    mixed = H * c.key_width
    if c.positions == "alibi":
        return (H + 2 * G) * c.key_width + mixed + c.n_embd
    if c.positions == "rotary":
        turned = (H + G) * c.head_dim
        return _qkv(c) + turned + mixed + c.n_embd
    return _qkv(c) + mixed


def _feed_keeps(c: GPTConfig) -> int:
    """Numbers a token: around the bend, and what the experts add.

    GELU keeps what it read and gave; SwiGLU the gate before and after its
    bend, the other half, and their product. Each chosen expert keeps the
    vectors it read and gave, the latter once more when it is weighed.
    """
    bend = (4 if c.feed_forward == "swiglu" else 2) * c.ff_width
    if not c.n_expert:
        return bend
    share = 1
    return c.n_expert_used * (bend + 3 * c.n_embd + share)
