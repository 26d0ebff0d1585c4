"""Many texts of different lengths in one pass, each as if it were alone.

A batch is a rectangle and texts are not, so they are filled up with padding
or laid end to end. Both ask for the same two things. A mask says which
tokens each token may see: never padding, never another text. And a token's
position is the number of tokens that it sees before itself
(:func:`positions_of`), wherever in the row it stands.

Prompts are padded on the left, so that every row's next token falls into
the same column (:func:`generate_batch`). Texts that are only scored stand
on the left with the padding behind them, and share what they have in
common: a question is read once for all its answers (:func:`score_pairs`),
the examples before many questions once for all of them
(:func:`shared_prefix`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.attention import Attend, causal_mask
from llmbook.cache import KVCache
from llmbook.model import GPT, check_ids
from llmbook.sampling import sample

Ids = Sequence[int]

PAD = 0  # any id will do, for no token looks at it
SHARED = 0  # the document number of tokens that every document may see
PADDING = -1  # and of those that none may
BATCH_SIZE = 16  # rows in a pass
# Tokens whose logits are in memory at once: 512 of GPT-2's take 100 MB.
HEAD_TOKENS = 512
SEEDS = 2**62  # where nobody gives a seed, one below this is drawn


def left_pad(
    rows: Sequence[Ids],
    pad_id: int = PAD,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows that end together: ids (B, T), and the pads (B,) before each.

    Raises:
        ValueError: there is no row, or one is empty.

    >>> ids, pads = left_pad([[5], [6, 7, 8]])
    >>> ids.tolist(), pads.tolist()
    ([[0, 0, 5], [6, 7, 8]], [2, 0])
    """
    lengths = [len(row) for row in rows]
    if not lengths or min(lengths) == 0:
        raise ValueError(
            f"got rows of {lengths} tokens; expected at least one row, and "
            "at least one token in each. To start from nothing, give the "
            "<|endoftext|> token."
        )
    pads = [max(lengths) - length for length in lengths]
    padded = [
        [pad_id] * pad + list(row) for pad, row in zip(pads, rows, strict=True)
    ]
    return (
        torch.tensor(padded, dtype=torch.long, device=device),
        torch.tensor(pads, dtype=torch.long, device=device),
    )


def padded_mask(pads: Tensor, T: int, S: int, prefix: int = 0) -> Tensor:
    """Where the last ``T`` of ``S`` columns may look, bool (B, 1, T, S).

    At themselves and at the columns before, but not at the ``pads`` (B,)
    that stand behind the first ``prefix`` columns. A column of padding sees
    itself, for a softmax over nothing is 0 / 0.

    >>> padded_mask(torch.tensor([1]), T=3, S=3)[0, 0].int().tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    columns = torch.arange(S, device=pads.device)
    real = (columns < prefix) | (columns >= prefix + pads[:, None])  # (B, S)
    itself = columns[S - T :, None] == columns  # (T, S)
    seen = causal_mask(T, S, pads.device) & real[:, None]  # (B, T, S)
    return (seen | itself)[:, None]


def positions_of(mask: Tensor) -> Tensor:
    """The positions (B, T) for a mask (B, 1, T, S): how many one sees.

    Without oneself, so that the first token of a text is at 0.

    >>> positions_of(padded_mask(torch.tensor([2, 0]), T=4, S=4)).tolist()
    [[0, 0, 0, 1], [0, 1, 2, 3]]
    """
    return mask[:, 0].sum(dim=-1) - 1


def document_numbers(ids: Tensor, end_of_text: int) -> Tensor:
    """Which document of its row each token of ``ids`` (B, T) belongs to.

    A document begins with its ``end_of_text`` token, as the model reads it,
    and numbers begin at 1.

    >>> document_numbers(torch.tensor([[9, 4, 9, 5, 6]]), 9).tolist()
    [[2, 2, 3, 3, 3]]
    """
    return 1 + (ids == end_of_text).cumsum(dim=-1)


def document_mask(documents: Tensor) -> Tensor:
    """Where the tokens of packed documents may look, bool (B, 1, T, T).

    At the tokens before that have the same number in ``documents`` (B, T),
    and at those numbered 0, which all documents share.

    >>> document_mask(torch.tensor([[0, 1, 2, 2]]))[0, 0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    """
    theirs = documents[:, None, :]  # (B, 1, S)
    allowed = (documents[:, :, None] == theirs) | (theirs == SHARED)
    causal = causal_mask(documents.shape[1], device=documents.device)
    return (allowed & causal)[:, None]


def packed_positions(documents: Tensor) -> Tensor:
    """Positions (B, T) that begin again with each document.

    >>> packed_positions(torch.tensor([[1, 1, 1, 2, 2]])).tolist()
    [[0, 1, 2, 0, 1]]
    """
    return positions_of(document_mask(documents))


def packed_attends(documents: Tensor, n_layer: int) -> list[Attend]:
    """One function a layer, for ``GPT.forward(attends=...)``.

    Pass ``positions=packed_positions(documents)`` beside it; each document
    then has the logits that it has alone.
    """
    return _masked_attends(document_mask(documents), n_layer)


def _masked_attends(mask: Tensor, n_layer: int) -> list[Attend]:
    attend = partial(F.scaled_dot_product_attention, attn_mask=mask)
    return [attend] * n_layer


@dataclass(frozen=True)
class Prefix:
    """The beginning of many texts, read once.

    ``keys`` and ``values`` are (n_layer, 1, H, P, D), ``last`` (C,) is the
    residual stream of the last token, which predicts the next.
    """

    ids: tuple[int, ...]
    keys: Tensor
    values: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Without dropout and without gradients, for a while."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def shared_prefix(model: GPT, ids: Ids) -> Prefix:
    """Read ``ids`` once, for all the texts that begin with them.

    Raises:
        ValueError: there are no ids, or more than the context holds.
    """
    row, pads = left_pad([ids], device=model.head_weight.device)
    cache = PaddedCache(model, pads, columns=len(ids))
    with evaluating(model):
        x = model.hidden(row, cache.attends())
    return Prefix(tuple(ids), cache.keys, cache.values, x[0, -1])


def common_prefix(rows: Sequence[Ids]) -> list[int]:
    """The ids that all ``rows`` begin with, one token of each left over.

    >>> common_prefix([[1, 2, 3], [1, 2, 4, 5]])
    [1, 2]
    >>> common_prefix([[1, 2], [1, 2, 4]])
    [1]
    """
    shared = []
    for column in zip(*(row[:-1] for row in rows), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared


def _without(prefix: Prefix | None, ids: Ids) -> list[int]:
    """What is left of ``ids`` after the prefix, which they begin with."""
    if prefix is None:
        return list(ids)
    if tuple(ids[: len(prefix)]) != prefix.ids:
        raise ValueError(
            f"a text begins with {list(ids[: len(prefix)])[:8]}..., not with "
            f"the shared prefix {list(prefix.ids)[:8]}...; give each text "
            "whole, the prefix included."
        )
    return list(ids[len(prefix) :])


@dataclass(frozen=True)
class TokenScores:
    """The log-probability of each token of a continuation, in nats.

    ``greedy`` says for each whether it was the likeliest. Both are (n,).
    """

    logprobs: Tensor
    greedy: Tensor


def score_pairs(
    model: GPT,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    prefix: Prefix | None = None,
    batch_size: int = BATCH_SIZE,
) -> list[TokenScores]:
    """Score the second text of each pair, given the first.

    Pairs with the same first text are laid into one row that has it once.
    ``prefix`` saves reading what all first texts begin with; a pass reads
    ``batch_size`` rows of like lengths. None of it changes a score by more
    than rounding.

    Raises:
        ValueError: a text is empty, or a pair does not fit the context.
    """
    for context, continuation in pairs:
        _check_pair(model, context, continuation)
    bundles = _bundles(pairs, most=model.config.context_length)
    trees = [
        _tree(_without(prefix, pairs[n][0]), [pairs[m][1] for m in [n, *more]])
        for n, *more in bundles
    ]
    order = sorted(range(len(trees)), key=lambda t: -len(trees[t].ids))
    found: list[TokenScores | None] = [None] * len(pairs)
    with evaluating(model):
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            scores = _score(model, [trees[t] for t in chosen], prefix)
            for pair in (n for t in chosen for n in bundles[t]):
                found[pair] = next(scores)
    return found


def logprobs(
    model: GPT, rows: Sequence[Ids], *, batch_size: int = BATCH_SIZE
) -> list[Tensor]:
    """The log-probability of each token of each row but its first, in nats.

    >>> from llmbook.config import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=9, n_head=1, n_embd=8))
    >>> [len(row) for row in logprobs(model, [[1, 2, 3], [4, 5]])]
    [2, 1]
    """
    pairs = [(row[:1], row[1:]) for row in rows]
    scores = score_pairs(model, pairs, batch_size=batch_size)
    return [row.logprobs for row in scores]


def _check_pair(model: GPT, context: Ids, continuation: Ids) -> None:
    sizes = f"{len(context)} and {len(continuation)} tokens"
    if not context or not continuation:
        raise ValueError(
            f"got a pair of {sizes}; expected at least one each. Where "
            "nothing comes before, give the <|endoftext|> token."
        )
    longest = model.config.context_length + 1  # the last is only predicted
    if len(context) + len(continuation) > longest:
        raise ValueError(
            f"got a pair of {sizes}; the model reads {longest - 1} and "
            f"predicts one more. Drop the context's first tokens."
        )


def _bundles(pairs: Sequence[tuple[Ids, Ids]], most: int) -> list[list[int]]:
    """Pairs of one context, by number, that go into one row together.

    A row reads at most ``most`` tokens. Answers laid side by side multiply
    each other's keys in vain, and at some length that costs more than
    reading the context again.
    """
    bundles: list[list[int]] = []
    newest: dict[tuple[int, ...], tuple[list[int], int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        bundle, room = newest.get(tuple(context), ([], -1))
        read = len(continuation) - 1  # its last token is only predicted
        room -= read
        if room < 0:
            bundle, room = [], most - len(context) - read
            bundles.append(bundle)
        bundle.append(number)
        newest[tuple(context)] = bundle, room
    return bundles


@dataclass(frozen=True)
class _Tree:
    """A context and its continuations, end to end, as one row.

    ``spots`` are the columns that predict the tokens of ``targets``; column
    -1 is the prefix's last token.
    """

    ids: list[int]
    documents: list[int]
    spots: list[int]
    targets: list[int]
    sizes: list[int]


def _tree(context: Ids, continuations: Sequence[Ids]) -> _Tree:
    ids, documents, spots = list(context), [SHARED] * len(context), []
    for number, continuation in enumerate(continuations, SHARED + 1):
        fed = continuation[:-1]  # nothing follows the last
        spots += [len(context) - 1, *range(len(ids), len(ids) + len(fed))]
        ids += fed
        documents += [number] * len(fed)
    targets = [token for tokens in continuations for token in tokens]
    return _Tree(ids, documents, spots, targets, [*map(len, continuations)])


def _score(
    model: GPT, trees: Sequence[_Tree], prefix: Prefix | None
) -> Iterator[TokenScores]:
    """The scores of all continuations of ``trees``, in order."""
    x = _hidden(model, trees, prefix)  # (B, 1 + T, C)
    rows = [row for row, tree in enumerate(trees) for _ in tree.spots]
    spots = [spot for tree in trees for spot in tree.spots]
    targets = torch.tensor(
        [token for tree in trees for token in tree.targets], device=x.device
    )
    check_ids(targets[None], model.config.vocab_size)
    found, greedy = _token_scores(model, x[rows, spots], targets)
    sizes = [size for tree in trees for size in tree.sizes]
    parts = zip(found.split(sizes), greedy.split(sizes), strict=True)
    return (TokenScores(*part) for part in parts)


def _hidden(
    model: GPT, trees: Sequence[_Tree], prefix: Prefix | None
) -> Tensor:
    """The residual stream of every row, and at -1 the prefix's end."""
    T = max(1, *(len(tree.ids) for tree in trees))
    ids = _right_pad([tree.ids for tree in trees], T, PAD)
    documents = _right_pad([tree.documents for tree in trees], T, PADDING)
    ids, documents = (t.to(model.head_weight.device) for t in (ids, documents))
    start = 0 if prefix is None else len(prefix)
    mask = document_mask(documents)
    attends = _masked_attends(mask, model.config.n_layer)
    if prefix is not None:
        attends = _attends_after(prefix, mask)
    places = start + positions_of(mask)
    places = places.masked_fill(documents == PADDING, 0)  # anywhere will do
    x = model.hidden(ids, attends, positions=places)
    if prefix is None:
        return x
    last = prefix.last.expand(len(x), 1, -1)
    return torch.cat([x, last], dim=1)  # (B, T + 1, C)


def _right_pad(rows: Sequence[Ids], T: int, filler: int) -> Tensor:
    return torch.tensor([[*row, *[filler] * (T - len(row))] for row in rows])


def _attends_after(prefix: Prefix, mask: Tensor) -> list[Attend]:
    """Attention that sees the whole prefix, then what ``mask`` allows."""
    B, _, T, _ = mask.shape
    before = mask.new_ones(B, 1, T, len(prefix))
    mask = torch.cat([before, mask], dim=-1)  # (B, 1, T, P + T)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = prefix.keys[layer].expand(B, -1, -1, -1)
        values = prefix.values[layer].expand(B, -1, -1, -1)
        k, v = torch.cat([keys, k], dim=-2), torch.cat([values, v], dim=-2)
        return F.scaled_dot_product_attention(q, k, v, mask)

    return [partial(attend, layer) for layer in range(len(prefix.keys))]


def _token_scores(
    model: GPT, x: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,) of ``targets`` after ``x`` (N, C), and greedy."""
    found, greedy = [], []
    for part in torch.arange(len(x), device=x.device).split(HEAD_TOKENS):
        logits = F.linear(x[part], model.head_weight).float()  # (n, V)
        wanted = targets[part, None]
        found.append(logits.log_softmax(-1).gather(-1, wanted)[:, 0])
        greedy.append(logits.argmax(-1) == wanted[:, 0])
    return torch.cat(found).cpu(), torch.cat(greedy).cpu()


class PaddedCache(KVCache):
    """A :class:`KVCache` whose rows begin with padding, and may leave.

    ``pads`` (B,) counts the padding of each row, behind ``prefix`` where
    there is one; ``columns`` of both and of tokens fit.
    """

    def __init__(
        self,
        model: GPT,
        pads: Tensor,
        columns: int,
        prefix: Prefix | None = None,
    ) -> None:
        c, weight = model.config, model.head_weight
        super().__init__(
            n_layer=c.n_layer,
            batch_size=len(pads),
            n_head=c.n_head,
            head_dim=c.head_dim,
            context_length=columns,
            dtype=weight.dtype,
            device=weight.device,
        )
        self.pads = pads
        self.length = self.prefix_length = 0 if prefix is None else len(prefix)
        if prefix is not None:
            self.keys[..., : len(prefix), :] = prefix.keys
            self.values[..., : len(prefix), :] = prefix.values

    def mask(self, T: int) -> Tensor:
        """Where the next ``T`` columns may look, (B, 1, T, S)."""
        S = self.length + T
        return padded_mask(self.pads, T, S, self.prefix_length)

    def masked_attends(self, mask: Tensor) -> list[Attend]:
        """One function a layer that stores, then looks where it may."""
        return [
            partial(self._attend_masked, mask, layer)
            for layer in range(len(self.keys))
        ]

    def _attend_masked(
        self, mask: Tensor, layer: int, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        end = mask.shape[-1]
        self._check(k, end)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        if layer == len(self.keys) - 1:
            self.length = end
        keys, values = self.keys[layer], self.values[layer]
        return F.scaled_dot_product_attention(
            q, keys[:, :, :end], values[:, :, :end], mask
        )

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but those numbered in ``rows``."""
        self.pads = self.pads[rows]
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def generate_batch(
    model: GPT,
    prompts: Sequence[Ids],
    max_new_tokens: int,
    *,
    prefix: Prefix | None = None,
    stop_tokens: Sequence[int] = (),
    stop: Callable[[list[int]], bool] | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **choices: float | None,
) -> list[list[int]]:
    """The continuation of each prompt, as the ids that are new.

    Row i gets what :func:`llmbook.sampling.generate` gives it alone with
    ``seed + i``, so no draw depends on the neighbours. A row that is done
    leaves the batch.

    Args:
        prompts: rows of ids, of any lengths.
        max_new_tokens: the most tokens added to each.
        prefix: what all prompts begin with, read before.
        stop_tokens: ids after which a row ends; the stop token is kept.
        stop: says of a row's new ids whether it ends there.
        seed, generator: at most one; a generator draws the seed.
        choices: ``temperature`` (0 is greedy), ``top_k``, ``top_p``,
            ``min_p``.

    Raises:
        ValueError: a prompt is empty, or leaves no room in the context for
            ``max_new_tokens``.
    """
    _check_room(model, prompts, max_new_tokens)
    rows = _Rows(model, prompts, max_new_tokens, prefix)
    sources = _sources(len(prompts), seed, generator)
    for _ in range(max_new_tokens):
        rows.step(sources, **choices)
        rows.leave(stop_tokens, stop)
        if not rows.going:
            break
    return rows.new


class _Rows:
    """Rows under way: the new ids of all, the cache of those still going."""

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        prefix: Prefix | None,
    ) -> None:
        rest = [_without(prefix, prompt) for prompt in prompts]
        self.ids, pads = left_pad(rest, device=model.head_weight.device)
        columns = len(prefix or ()) + self.ids.shape[1] + max_new_tokens
        self.cache = PaddedCache(model, pads, columns, prefix)
        self.model = model
        self.new: list[list[int]] = [[] for _ in prompts]
        self.going = list(range(len(prompts)))

    def step(
        self, sources: Sequence[torch.Generator], **choices: float | None
    ) -> None:
        """One more id for every row still going."""
        mask = self.cache.mask(self.ids.shape[1])
        with evaluating(self.model):
            logits, _ = self.model(
                self.ids,
                attends=self.cache.masked_attends(mask),
                positions=positions_of(mask),
            )
        going = [sources[row] for row in self.going]
        drawn = _draw(logits[:, -1].cpu(), going, **choices)
        for row, token in zip(self.going, drawn, strict=True):
            self.new[row].append(token)
        self.ids = torch.tensor(drawn, device=self.ids.device)[:, None]

    def leave(self, stop_tokens: Sequence[int], stop: Callable | None) -> None:
        """Rows that have come to their end drop out."""
        new = [self.new[row] for row in self.going]
        left = [
            n
            for n, ids in enumerate(new)
            if ids[-1] not in stop_tokens and not (stop and stop(ids))
        ]
        if len(left) == len(self.going):
            return
        self.going = [self.going[n] for n in left]
        self.ids = self.ids[left]
        self.cache.keep(left)


def _draw(
    logits: Tensor,
    sources: Sequence[torch.Generator],
    **choices: float | None,
) -> list[int]:
    """An id for each row of ``logits`` (B, V), each from its own source."""
    if choices.get("temperature") == 0:
        return sample(logits, **choices).tolist()
    lines = zip(logits.split(1), sources, strict=True)
    return [int(sample(line, source, **choices)) for line, source in lines]


def _sources(
    count: int, seed: int | None, generator: torch.Generator | None
) -> list[torch.Generator]:
    """A generator for each row, seeded one after another."""
    if seed is not None and generator is not None:
        raise ValueError("got a seed and a generator; give one of the two.")
    if seed is None:
        seed = int(torch.randint(SEEDS, (), generator=generator))
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


def _check_room(
    model: GPT, prompts: Sequence[Ids], max_new_tokens: int
) -> None:
    count = max_new_tokens
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(
            f"max_new_tokens is {count!r}; expected a whole number from 0."
        )
    room = model.config.context_length - max_new_tokens
    longest = max(map(len, prompts), default=0)
    if longest > room:
        raise ValueError(
            f"a prompt has {longest} tokens and {max_new_tokens} new ones "
            f"are wanted; the context holds {model.config.context_length}. "
            f"Keep the prompt's last {max(room, 0)} tokens or ask for fewer."
        )
