"""The log-probabilities of many texts, each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.model import GPT, check_ids

from .masks import (
    PADDING,
    SHARED,
    Ids,
    document_mask,
    masked_attends,
    positions_of,
    right_pad,
    within,
)
from .prefix import Prefix, attends_after, evaluating, without

BATCH_SIZE = 16  # rows in a pass
# Tokens whose logits are in memory at once: 512 of GPT-2's take 100 MB.
HEAD_TOKENS = 512


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
    trees = [_tree(pairs, bundle, prefix) for bundle in bundles]
    trees.sort(key=lambda tree: len(tree.ids), reverse=True)
    found: dict[int, TokenScores] = {}
    with evaluating(model):
        for first in range(0, len(trees), batch_size):
            chosen = trees[first : first + batch_size]
            found.update(_score(model, chosen, prefix))
    return [found[number] for number in range(len(pairs))]


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
    -1 is the prefix's last token. ``sizes`` are the continuations' lengths
    and ``numbers`` their pairs.
    """

    ids: list[int]
    documents: list[int]
    spots: list[int]
    targets: list[int]
    sizes: list[int]
    numbers: list[int]


def _tree(
    pairs: Sequence[tuple[Ids, Ids]],
    numbers: list[int],
    prefix: Prefix | None,
) -> _Tree:
    context = without(prefix, pairs[numbers[0]][0])
    continuations = [pairs[number][1] for number in numbers]
    ids, documents, spots = list(context), [SHARED] * len(context), []
    for branch, continuation in enumerate(continuations, SHARED + 1):
        fed = continuation[:-1]  # nothing follows the last
        spots += [len(context) - 1, *range(len(ids), len(ids) + len(fed))]
        ids += fed
        documents += [branch] * len(fed)
    targets = [token for tokens in continuations for token in tokens]
    sizes = [len(tokens) for tokens in continuations]
    return _Tree(ids, documents, spots, targets, sizes, numbers)


def _score(
    model: GPT, trees: Sequence[_Tree], prefix: Prefix | None
) -> Iterator[tuple[int, TokenScores]]:
    """The number of every pair in ``trees``, and its scores."""
    x = _hidden(model, trees, prefix)  # (B, T, C)
    rows = [row for row, tree in enumerate(trees) for _ in tree.spots]
    spots = [spot for tree in trees for spot in tree.spots]
    targets = torch.tensor(
        [token for tree in trees for token in tree.targets], device=x.device
    )
    check_ids(targets[None], model.config.vocab_size)
    found, greedy = _token_scores(model, x[rows, spots], targets)
    sizes = [size for tree in trees for size in tree.sizes]
    numbers = [number for tree in trees for number in tree.numbers]
    parts = zip(found.split(sizes), greedy.split(sizes), strict=True)
    return zip(numbers, (TokenScores(*part) for part in parts), strict=True)


def _hidden(
    model: GPT, trees: Sequence[_Tree], prefix: Prefix | None
) -> Tensor:
    """The residual stream of every row, and at -1 the prefix's end."""
    T = max(1, *(len(tree.ids) for tree in trees))
    ids = right_pad([tree.ids for tree in trees], T)
    documents = right_pad([tree.documents for tree in trees], T, PADDING)
    ids, documents = (t.to(model.head_weight.device) for t in (ids, documents))
    start = 0 if prefix is None else len(prefix)
    mask = document_mask(documents)
    places = start + positions_of(mask)
    # Padding may stand anywhere, and nothing is left behind a full context.
    places = places.masked_fill(documents == PADDING, 0)
    n_layer, window = model.config.n_layer, model.config.window
    if prefix is None:
        attends = masked_attends(within(mask, places, window), n_layer)
    else:
        attends = attends_after(prefix, mask, places, window)
    x = model.hidden(ids, attends, positions=places)
    if prefix is None:
        return x
    last = prefix.last.expand(len(x), 1, -1)
    return torch.cat([x, last], dim=1)  # (B, T + 1, C)


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
