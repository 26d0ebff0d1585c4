"""Look into a model while it reads, and switch parts of it off.

There is no second forward pass here. :func:`look` lets the model run as it
is, through attention functions that remember what passes and hooks on its
norms and projections; :func:`heads_off` changes what one projection reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from llmbook.attention import record_weights, repeat_heads
from llmbook.config import GPTConfig
from llmbook.layers import LayerNorm
from llmbook.model import GPT, check_ids


@dataclass(frozen=True)
class Look:
    """What was inside a model during one forward pass.

    The residual stream is a sum: ``residual[0]`` is the embedding, and each
    later entry adds what half a block wrote. ``heads`` are the parts of the
    attention halves' writes; their sum, plus the bias of
    ``attention.output``, is ``residual[2l + 1] - residual[2l]``.

    Args:
        ids: what was read, (B, T).
        weights: of attention, (L, B, H, T, T); rows are queries. Of a model
            in 16 bits they are computed in 32.
        queries, keys: as the scores saw them, (L, B, H, T, K): turned by
            rotary positions, and a key that queries' heads share once for
            each. A score is their product over the root of K. K is D, and
            with ALiBi D + 2: the distance penalty rides along.
        values: (L, B, H, T, D).
        heads: what each head wrote into the stream, (L, B, H, T, C).
        residual: after the embedding and each half-block,
            (2 L + 1, B, T, C).
        logits: what the model returned, (B, T, V).
    """

    ids: Tensor
    weights: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    heads: Tensor
    residual: Tensor
    logits: Tensor


@contextlib.contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Have ``hooks`` in place for a while; they go, whatever happens.

    What ``torch.compile`` made runs uncompiled meanwhile: a graph that was
    traced without a hook does not call it.

    >>> with hooked([nn.Identity().register_forward_hook(print)]):
    ...     pass
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for hook in hooks:
            stack.callback(hook.remove)
        yield


@contextlib.contextmanager
def listening(
    model: GPT, stream: list[Tensor], mixed: list[Tensor]
) -> Iterator[None]:
    """While ``model`` runs, keep its residual stream and its heads' mixes.

    ``stream`` gets 2 L + 1 tensors (B, T, C), for each norm reads the
    stream as it stands; ``mixed`` gets L of them (B, T, C): what the heads
    of a block have fetched, side by side, before the projection. There is
    no dropout meanwhile.
    """
    was_training = model.training
    norms = [n for b in model.blocks for n in (b.norm_1, b.norm_2)]
    outputs = [block.attention.output for block in model.blocks]
    hooks = [
        n.register_forward_pre_hook(lambda _, read: stream.append(read[0]))
        for n in (*norms, model.final_norm)
    ]
    hooks += [  # this kind of hook runs last: heads switched off are off
        o.register_forward_hook(lambda _, read, __: mixed.append(read[0]))
        for o in outputs
    ]
    with hooked(hooks):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


def head_writes(output: nn.Module, mixed: Tensor, n_head: int) -> Tensor:
    """What each head adds to the stream, (B, T, C) to (B, H, T, C).

    ``output`` is the projection after the heads, and ``mixed`` what it
    read. A head's part is what the projection returns when the others have
    fetched nothing, without the bias.

    >>> mixed = torch.tensor([[[1.0, 2.0]]])  # two heads of one number each
    >>> head_writes(nn.Identity(), mixed, n_head=2).tolist()
    [[[[1.0, 0.0]], [[0.0, 2.0]]]]
    """
    head = torch.arange(n_head, device=mixed.device)
    owner = head.repeat_interleave(mixed.shape[-1] // n_head)  # (C,)
    own = owner == head[:, None, None]  # (H, 1, C)
    alone = mixed[:, None] * own  # (B, H, T, C)
    bias = output.forward(torch.zeros_like(mixed[:1, :1]))
    return output.forward(alone) - bias  # forward: past any hook


@torch.no_grad()
def look(model: GPT, idx: Tensor) -> Look:
    """Run ``model`` over ``idx`` (B, T) once and keep what passes inside.

    The logits are the model's own, without dropout. Heads that
    :func:`heads_off` has switched off are seen as they then are.

    Raises:
        ValueError: as ``model(idx)`` does.

    >>> model = GPT(GPTConfig(vocab_size=9, n_layer=2, n_head=2, n_embd=8))
    >>> seen = look(model, torch.tensor([[3, 1, 4]]))
    >>> seen.weights.shape, seen.residual.shape
    (torch.Size([2, 1, 2, 3, 3]), torch.Size([5, 1, 3, 8]))
    """
    H, stream, mixed = model.config.n_head, [], []
    weights, compared = [], []
    record = record_weights(weights, model.config.window)
    with listening(model, stream, mixed):
        own = model.own_attention()

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            record(q, k, v)  # beside own, which keeps no weights
            compared.append((q, repeat_heads(k, H), repeat_heads(v, H)))
            return own(q, k, v)

        logits, _ = model(idx, attends=[attend] * len(model.blocks))
        each = zip(model.blocks, mixed, strict=True)
        writes = [head_writes(b.attention.output, x, H) for b, x in each]
    queries, keys, values = map(torch.stack, zip(*compared, strict=True))
    return Look(
        ids=idx,
        weights=torch.stack(weights),
        queries=queries,
        keys=keys,
        values=values[..., : model.config.head_dim],  # ALiBi pads them
        heads=torch.stack(writes),
        residual=torch.stack(stream),
        logits=logits,
    )


Heads = Iterable[tuple[int, int]]  # (layer, head), both counted from 0


def check_heads(config: GPTConfig, heads: Heads) -> Tensor:
    """Which numbers of which block's heads are meant: bool, (L, C).

    Raises:
        ValueError: a head is not one of the model's.

    >>> config = GPTConfig(n_layer=2, n_head=2, n_embd=4)
    >>> check_heads(config, [(1, 0)]).int().tolist()
    [[0, 0, 0, 0], [1, 1, 0, 0]]
    """
    L, H = config.n_layer, config.n_head
    known = [(layer, head) for layer in range(L) for head in range(H)]
    meant = torch.zeros(L * H, dtype=torch.bool)
    for pair in heads:
        if pair not in known:
            raise ValueError(
                f"got head {pair!r}; expected a tuple (layer, head), with "
                f"layers 0 to {L - 1} and heads 0 to {H - 1}."
            )
        meant[known.index(pair)] = True
    return meant.view(L, H).repeat_interleave(config.head_dim, dim=1)


@torch.no_grad()
def mean_mixed(model: GPT, idx: Tensor) -> Tensor:
    """What the heads of each block fetch on average over ``idx``, (L, C).

    The mean is over all tokens of the batch (B, T).
    """
    mixed: list[Tensor] = []
    with listening(model, [], mixed):
        model(idx)
    return torch.stack([x.mean(dim=(0, 1)) for x in mixed])


@contextlib.contextmanager
def heads_off(
    model: GPT, heads: Heads, mean_over: Tensor | None = None
) -> Iterator[None]:
    """Within this context, ``heads`` write nothing into the stream.

    It holds for whatever runs ``model``: a forward pass, a cache,
    generation, evaluation. Afterwards, and after an error, they are back.

    Args:
        model: the model, which is left as it was.
        heads: (layer, head) of each, counted from 0.
        mean_over: ids (B, T); each head then writes the same at every
            token, what it writes on average over them.

    Raises:
        ValueError: a head is not one of the model's.

    >>> model = GPT(GPTConfig(vocab_size=9, n_layer=2, n_head=2, n_embd=8))
    >>> with heads_off(model, [(0, 1)]):
    ...     look(model, torch.tensor([[3, 1, 4]])).heads[0, 0, 1].abs().sum()
    tensor(0.)
    """
    off = check_heads(model.config, heads)  # (L, C)
    instead = torch.zeros(off.shape)
    if mean_over is not None:
        instead = mean_mixed(model, mean_over)

    def hush(layer: int, _: nn.Module, read: tuple[Tensor]) -> Tensor:
        [x] = read  # (B, T, C)
        return torch.where(off[layer].to(x.device), instead[layer].to(x), x)

    outputs = [block.attention.output for block in model.blocks]
    with hooked(
        output.register_forward_pre_hook(partial(hush, layer))
        for layer, output in enumerate(outputs)
    ):
        yield


@torch.no_grad()
def logit_lens(model: GPT, seen: Look | Tensor) -> Tensor:
    """What the model would predict if it ended early, (2 L + 1, B, T, V).

    Logits of the residual stream after the embedding and after each
    half-block, through the model's own final norm and head; the last are
    the model's. ``seen`` is a :class:`Look`, or ids (B, T). Source:
    nostalgebraist 2020.

    >>> model = GPT(GPTConfig(vocab_size=9, n_layer=2, n_head=2, n_embd=8))
    >>> logit_lens(model, torch.tensor([[3, 1, 4]])).shape
    torch.Size([5, 1, 3, 9])
    """
    if isinstance(seen, Tensor):
        seen = look(model, seen)
    return F.linear(model.final_norm(seen.residual), model.head_weight)


def looks_back(weights: Tensor, distance: int, start: int = 0) -> Tensor:
    """The share that a query gives to the token ``distance`` before it.

    ``weights`` is (..., T, T), and the result (...): the mean over the
    queries from ``start`` on that have such a token.

    Raises:
        ValueError: no query has.

    >>> even = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3])
    >>> looks_back(even, 1), looks_back(even, 1, start=2)
    (tensor(0.4167), tensor(0.3333))
    """
    T = weights.shape[-1]
    if not (0 <= distance < T and 0 <= start < T):
        raise ValueError(
            f"got distance {distance} and start {start}; in a map of {T} "
            f"tokens both are from 0 to {T - 1}. Read a longer text."
        )
    shares = weights.diagonal(-distance, dim1=-2, dim2=-1)
    return shares[..., max(0, start - distance) :].mean(dim=-1)


def frozen_norm(norm: nn.Module, at: Tensor, x: Tensor) -> Tensor:
    """What ``norm`` makes of a part ``x`` of the stream ``at``, (..., C).

    The norm divides by a length of the whole stream. With that length kept
    as it is, the parts' results add up to the norm's, but for its bias.

    >>> from llmbook.layers import RMSNorm
    >>> a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    >>> norm = RMSNorm(2)
    >>> parts = frozen_norm(norm, a + b, a) + frozen_norm(norm, a + b, b)
    >>> torch.allclose(parts, norm(a + b))
    True
    """
    if isinstance(norm, LayerNorm):
        x = x - x.mean(dim=-1, keepdim=True)
        at = at - at.mean(dim=-1, keepdim=True)
    mean_square = at.square().mean(dim=-1, keepdim=True)
    return x / torch.sqrt(mean_square + norm.eps) * norm.weight


def check_tokens(tokens: Tensor, ids: Tensor, vocab_size: int) -> None:
    """Refuse ``tokens`` that are not one for each of ``ids`` (B, T).

    Raises:
        ValueError: they are of another shape, or not in the vocabulary.

    >>> check_tokens(torch.tensor([[0, 3]]), torch.tensor([[1, 1]]), 4)
    """
    check_ids(tokens, vocab_size)
    if tokens.shape != ids.shape:
        raise ValueError(
            f"got tokens {tuple(tokens.shape)} for ids {tuple(ids.shape)}; "
            "expected one token for each id."
        )


@torch.no_grad()
def logit_parts(model: GPT, seen: Look, tokens: Tensor) -> dict[str, Tensor]:
    """What each part of the model adds to the logits of ``tokens`` (B, T).

    A logit counts as far as it is above the mean logit, since a softmax
    sees only differences. Returns ``embedding`` (B, T), ``heads``
    (L, B, H, T), ``feed_forward`` (L, B, T) and ``biases`` (B, T); all
    together add up to the logits. Source: Elhage et al. 2021.

    Raises:
        ValueError: ``tokens`` are not one for each id in ``seen``.

    >>> model = GPT(GPTConfig(vocab_size=9, n_layer=2, n_head=2, n_embd=8))
    >>> seen = look(model, torch.tensor([[3, 1, 4]]))
    >>> parts = logit_parts(model, seen, torch.tensor([[1, 4, 1]]))
    >>> {name: tuple(part.shape) for name, part in parts.items()}
    {'embedding': (1, 3), 'heads': (2, 1, 2, 3),
     'feed_forward': (2, 1, 3), 'biases': (1, 3)}
    """
    check_tokens(tokens, seen.ids, model.config.vocab_size)
    stream, table = seen.residual, model.head_weight
    towards = table[tokens] - table.mean(dim=0)  # (B, T, C)

    def part(x: Tensor) -> Tensor:  # (..., B, T, C) to (..., B, T)
        x = frozen_norm(model.final_norm, stream[-1], x)
        return (x * towards).sum(dim=-1)

    written = stream[1:] - stream[:-1]  # attention, feed-forward, ...
    biases = part(written[0::2] - seen.heads.sum(dim=2)).sum(dim=0)
    shift = getattr(model.final_norm, "bias", None)
    if shift is not None:
        biases = biases + (shift * towards).sum(dim=-1)
    return {
        "embedding": part(stream[0]),
        "heads": part(seen.heads.movedim(2, 0)).movedim(0, 2),
        "feed_forward": part(written[1::2]),
        "biases": biases,
    }
