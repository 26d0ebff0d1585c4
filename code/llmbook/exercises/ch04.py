"""Exercises of the chapter on embeddings and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.exercises import Exercise, register
from llmbook.exercises.tensors import draw, named, same
from llmbook.positions import (
    ALIBI_STEEPEST,
    alibi_slopes,
    rotary_speeds,
)

# 4.1 --------------------------------------------------------------------


def lookup(ids: Tensor, table: Tensor) -> Tensor:
    """Rows (T, C) of ``table`` (V, C) at ``ids`` (T,), as one product."""
    columns = torch.arange(len(table))  # (V,)
    one_hot = (ids[:, None] == columns).to(table.dtype)  # (T, V)
    return one_hot @ table


def _bag(ids, table):
    return lookup(ids, table).sum(dim=0)


def _many_hot(ids, table):
    return torch.stack([_bag(ids, table)] * len(ids))


def _ids_as_numbers(ids, table):
    return ids[:, None].to(table.dtype) * table[0]


def _counted_from_one(ids, table):
    return lookup(ids - 1, table)


def _columns(ids, table):
    return lookup(ids, table).T


_LOOKUP = {
    _bag: (
        "You have one vector for the whole text. Each id needs a row of its "
        "own, with a single 1 in it: (T, V), not (V,)."
    ),
    _many_hot: (
        "Every token has the same vector, the sum of all. A row of the "
        "one-hot matrix has a single 1, for its own id alone."
    ),
    _ids_as_numbers: (
        "The id was used as a quantity. It is a name: twice the id is not "
        "twice the vector."
    ),
    _counted_from_one: (
        "The 1 stands one place too far to the left. Id 0 is the first row."
    ),
    _columns: "The result is (C, T). Tokens come first, then their numbers.",
}


def _indexed(ids, table):
    return table[ids]


_INDEXING = {
    Tensor.__getitem__,
    Tensor.index_select,
    Tensor.gather,
    torch.index_select,
    torch.gather,
    F.embedding,
}


class _NotIndexedError(Exception):
    """Somebody asked a guarded table for rows by their numbers."""


class _Guarded(Tensor):
    """A table that may be multiplied, but not indexed.

    What is made from it, such as zeros of its type, may be indexed.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in _INDEXING and any(
            isinstance(x, cls) and x.numel() == _TABLE.numel() for x in args
        ):
            raise _NotIndexedError
        return super().__torch_function__(func, types, args, kwargs)


_TABLE = draw(5, 3)


def _check_lookup(answer) -> str | None:
    ids, table = torch.tensor([3, 1, 3, 4]), _TABLE.clone()
    got = answer(ids, table)
    if same(got, table[ids]):
        try:
            answer(ids, table.as_subclass(_Guarded))
        except _NotIndexedError:
            return (
                "The rows are right, but the table was indexed. Make a "
                "matrix (T, V) of zeros with a 1 in each row, and multiply."
            )
        return None
    return named(got, _LOOKUP, ids, table) or (
        f"Expected the rows {ids.tolist()} of the table, shape (4, 3); got "
        f"shape {tuple(torch.as_tensor(got).shape)} with other numbers."
    )


register(
    Exercise(
        "4.1",
        "A lookup as a product",
        _check_lookup,
        lookup,
        {
            "one bag": _bag,
            "the same bag for all": _many_hot,
            "ids as numbers": _ids_as_numbers,
            "counted from one": _counted_from_one,
            "transposed": _columns,
            "indexed": _indexed,
        },
        "A matrix of zeros, a few ones, and a linear layer without a bias.",
    )
)


# 4.2 --------------------------------------------------------------------


def neighbours(table: Tensor, i: int, k: int) -> list[int]:
    """The ``k`` rows of ``table`` (V, C) with the largest cosine to row i."""
    unit = F.normalize(table, dim=1)
    closeness = unit @ unit[i]  # (V,)
    closeness[i] = -math.inf  # a row is not its own neighbour
    return closeness.topk(k).indices.tolist()


def _by_product(table, i, k):
    products = table @ table[i]
    products[i] = -math.inf
    return products.topk(k).indices.tolist()


def _by_product_less_one(table, i, k):
    """Row i need not come first among the products."""
    return (table @ table[i]).argsort(descending=True)[1 : k + 1].tolist()


def _by_distance(table, i, k):
    distances = (table - table[i]).norm(dim=1)
    distances[i] = math.inf
    return distances.topk(k, largest=False).indices.tolist()


def _with_itself(table, i, k):
    unit = F.normalize(table, dim=1)
    return (unit @ unit[i]).topk(k).indices.tolist()


def _farthest(table, i, k):
    unit = F.normalize(table, dim=1)
    return (unit @ unit[i]).topk(k, largest=False).indices.tolist()


def _half_normalised(table, i, k):
    products = table @ F.normalize(table[i], dim=0)
    products[i] = -math.inf
    return products.topk(k + 1).indices.tolist()


_NEIGHBOURS = {
    _by_product: (
        "These have the largest dot products. Long rows win there, whatever "
        "they point at: divide by both lengths."
    ),
    _by_product_less_one: (
        "These have the largest dot products but for the very largest, which "
        "was not row i itself: under a product a longer row can beat it. "
        "Divide by both lengths."
    ),
    _by_distance: (
        "These are the nearest points. A row that points the same way and is "
        "twice as long counts as alike here: compare angles, not distances."
    ),
    _with_itself: "A row is not its own neighbour: leave out row i.",
    _farthest: "These are the least alike. The cosine of equal rows is 1.",
    _half_normalised: "You return k + 1 rows, and they are not normalised.",
}


def _check_neighbours(answer) -> str | None:
    angles = torch.tensor([0.0, 0.1, 0.9, -0.4, 2.0, 0.5, 3.0])
    lengths = torch.tensor([1.0, 3.0, 9.0, 0.2, 1.1, 5.0, 0.3])
    table = torch.stack([angles.cos(), angles.sin()], dim=1)
    table = table * lengths[:, None]  # (7, 2)
    got = [int(j) for j in answer(table.clone(), 0, 3)]
    if got == neighbours(table.clone(), 0, 3):
        return None
    for mistake, message in _NEIGHBOURS.items():
        if got == mistake(table.clone(), 0, 3):
            return message
    return (
        "For arrows at 0, 0.1, 0.9, -0.4, 2, 0.5 and 3 radians the three "
        f"nearest to the first are {neighbours(table.clone(), 0, 3)}, the "
        f"nearest first; got {got}."
    )


register(
    Exercise(
        "4.2",
        "Nearest neighbours",
        _check_neighbours,
        neighbours,
        {
            "dot product": _by_product,
            "dot product, the first left out": _by_product_less_one,
            "distance": _by_distance,
            "itself": _with_itself,
            "farthest": _farthest,
            "one too many": _half_normalised,
        },
        "Now ask it for the neighbours of a word of your choice in E.",
    )
)


# 4.3 --------------------------------------------------------------------

BASE = 10_000.0


def closeness(distance: int, C: int) -> float:
    """Dot product of the sinusoids of two positions ``distance`` apart."""
    speeds = (BASE ** (-2 * i / C) for i in range(C // 2))
    return sum(math.cos(distance * speed) for speed in speeds)


def _sine(distance, C):
    speeds = (BASE ** (-2 * i / C) for i in range(C // 2))
    return sum(math.sin(distance * speed) for speed in speeds)


def _every_number(distance, C):
    return sum(math.cos(distance * BASE ** (-i / C)) for i in range(C))


def _half_as_slow(distance, C):
    speeds = (BASE ** (-i / C) for i in range(C // 2))
    return sum(math.cos(distance * speed) for speed in speeds)


def _averaged(distance, C):
    return closeness(distance, C) / (C // 2)


def _twice_as_many(distance, C):
    speeds = (BASE ** (-2 * i / C) for i in range(C))
    return sum(math.cos(distance * speed) for speed in speeds)


_CLOSENESS = {
    _sine: (
        "The angle-addition formula leaves a cosine of the difference: at "
        "distance 0 each pair gives 1, not 0."
    ),
    _every_number: (
        "You have C cosines. Two numbers make one hand, so there are C / 2 "
        "speeds, and the exponents go up in steps of 2 / C."
    ),
    _half_as_slow: (
        "The number of hands is right, their speeds are not: hand i turns by "
        "10000 ** (-2 * i / C), so that the last comes close to 1 / 10000."
    ),
    _averaged: "A dot product is a sum; you took the mean over the hands.",
    _twice_as_many: (
        "Your i goes on after hand C / 2 - 1, to hands so slow that each "
        "adds nearly 1. Two numbers make one hand: there are C / 2."
    ),
}


def _check_closeness(answer) -> str | None:
    for distance, C in ((3, 8), (0, 8), (40, 32)):
        got = answer(distance, C)
        if not same(got, torch.tensor(closeness(distance, C))):
            return _named_number(got, _CLOSENESS, distance, C) or (
                f"For distance {distance} and C={C} expected "
                f"{closeness(distance, C):.4f}, got {got!r}."
            )
    return None


def _named_number(got, wrong: dict, *inputs) -> str | None:
    for mistake, message in wrong.items():
        if same(got, torch.tensor(mistake(*inputs))):
            return message
    return None


register(
    Exercise(
        "4.3",
        "Two clock faces, one number",
        _check_closeness,
        closeness,
        {
            "sine": _sine,
            "C hands": _every_number,
            "half the exponent": _half_as_slow,
            "mean": _averaged,
            "too many hands": _twice_as_many,
        },
        "Neither position is needed to compute it. That is the point.",
    )
)


# 4.4 --------------------------------------------------------------------

SHUFFLES = 20  # enough for an order that any of the readers would notice


def sees_order(read, x: Tensor) -> bool:
    """Whether ``read`` (T, C) -> (C,) notices the order of the rows."""
    wanted = read(x)
    generator = torch.Generator().manual_seed(0)
    for _ in range(SHUFFLES):
        order = torch.randperm(len(x), generator=generator)
        if not torch.allclose(read(x[order]), wanted, atol=1e-5):
            return True
    return False


def _mean(x):
    return x.mean(dim=0)


def _bent_largest(x):
    return x.clamp(min=0).amax(dim=0)


def _last(x):
    return x[-1]


def _either_way(x):
    """Neighbours multiplied: the same when read backwards."""
    return (x[1:] * x[:-1]).sum(dim=0)


def _round_about(x):
    """The same wherever one begins, if one goes on round the end."""
    return (x * x.roll(1, dims=0).abs()).sum(dim=0)


def _placed(x):
    """A position added, and only then a bend."""
    place = torch.linspace(-1, 1, len(x))[:, None]
    return (x + place).clamp(min=0).mean(dim=0)


def _added(x):
    """A position added, and no bend."""
    return (x + torch.linspace(-1, 1, len(x))[:, None]).mean(dim=0)


_READERS = {
    _mean: (False, "the mean of the vectors, which no order changes"),
    _bent_largest: (False, "the largest number in each place, after a bend"),
    _added: (False, "a mean to which positions were added without a bend"),
    _placed: (True, "positions, a bend, and then the mean"),
    _last: (True, "the last vector alone"),
    _either_way: (
        True,
        "products of neighbours, which are the same when a text is read "
        "backwards; so turning it round is not enough of a test",
    ),
    _round_about: (
        True,
        "products of neighbours in a ring, which are the same when the text "
        "is rolled on; so rolling it is not enough of a test",
    ),
}


def _backwards(read, x):
    return not torch.allclose(read(x), read(x.flip(0)), atol=1e-5)


def _rolled(read, x):
    return not torch.allclose(read(x), read(x.roll(1, 0)), atol=1e-5)


def _first_two(read, x):
    order = [1, 0, *range(2, len(x))]
    return not torch.allclose(read(x), read(x[order]), atol=1e-5)


def _to_the_bit(read, x):
    return not torch.equal(read(x), read(x[torch.randperm(len(x))]))


def _other_words(read, x):
    return not torch.allclose(read(x), read(x + 1), atol=1e-5)


def _changed_words(answer) -> bool:
    """Whether ``answer`` hands its reader anything but the rows of x."""
    x, odd = torch.arange(12.0).view(6, 2), []

    def spy(rows):
        odd.append(sorted(rows.tolist()) != x.tolist())
        return rows.sum(dim=0)

    answer(spy, x.clone())
    return any(odd)


def _check_sees_order(answer) -> str | None:
    if _changed_words(answer):
        return (
            "Your test changes the vectors themselves. Every reader notices "
            "other words; give it the same rows in another order."
        )
    for size, seed in ((7, 1), (200, 2)):
        x = draw(size, 4, seed=seed)
        for reader, (wanted, words) in _READERS.items():
            got = answer(reader, x.clone())
            if got not in (True, False):
                return f"Expected True or False, got {got!r}."
            if bool(got) != wanted:
                verb = "sees" if wanted else "does not see"
                rounding = (
                    " (Sums in another order differ in their last bits: "
                    "compare with a tolerance.)"
                )
                return (
                    f"Your test is wrong about {words}: it {verb} order."
                    + (rounding * (size > 7 and not wanted))
                )
    return None


register(
    Exercise(
        "4.4",
        "Does it see order?",
        _check_sees_order,
        sees_order,
        {
            "reads it backwards": _backwards,
            "rolls it": _rolled,
            "swaps the first two": _first_two,
            "to the bit": _to_the_bit,
            "changes the words": _other_words,
        },
        "Shuffle, shuffle again, and allow for rounding.",
    )
)


# 4.5 --------------------------------------------------------------------


def rotate_neighbours(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i + 1) of ``x`` (T, D) by ``angles`` (T, D / 2)."""
    first, second = x[:, 0::2], x[:, 1::2]  # (T, D / 2) each
    cos, sin = angles.cos(), angles.sin()
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.stack(turned, dim=-1).flatten(-2)  # side by side again


def _halves(x, angles):
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.cat(turned, dim=-1)


def _left_in_halves(x, angles):
    first, second = x[:, 0::2], x[:, 1::2]
    cos, sin = angles.cos(), angles.sin()
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.cat(turned, dim=-1)


def _backwards_turn(x, angles):
    return rotate_neighbours(x, -angles)


def _no_turn(x, angles):
    """Both signs the same: this mirrors and stretches, it does not turn."""
    first, second = x[:, 0::2], x[:, 1::2]
    cos, sin = angles.cos(), angles.sin()
    mixed = first * cos + second * sin, second * cos + first * sin
    return torch.stack(mixed, dim=-1).flatten(-2)


def _first_overwritten(x, angles):
    first, second = x[:, 0::2].clone(), x[:, 1::2].clone()
    cos, sin = angles.cos(), angles.sin()
    first = first * cos - second * sin
    second = second * cos + first * sin  # of the new first
    return torch.stack([first, second], dim=-1).flatten(-2)


_ROTATE = {
    _halves: (
        "These are the pairs of `rotate`, first half with second half. The "
        "paper pairs neighbours: 0 with 1, 2 with 3."
    ),
    _left_in_halves: (
        "Turned rightly, laid down wrongly: the first numbers of all pairs "
        "stand in front. Put each pair side by side again."
    ),
    _backwards_turn: (
        "You turn clockwise. The product still depends on the distance "
        "alone, but it is another model's: the minus belongs to the first "
        "number."
    ),
    _no_turn: (
        "That is not a turn: lengths change. One of the two sines needs a "
        "minus."
    ),
    _first_overwritten: (
        "The second number was computed from the first one's new value. "
        "Keep the old one until both are done."
    ),
}


def _check_rotate(answer) -> str | None:
    x = draw(5, 6, seed=3)
    angles = torch.arange(5)[:, None] * rotary_speeds(6, 100.0)
    got = answer(x.clone(), angles)
    if same(got, rotate_neighbours(x, angles)):
        return None
    return named(got, _ROTATE, x, angles) or (
        f"Expected shape (5, 6), row 0 left as it is; got shape "
        f"{tuple(torch.as_tensor(got).shape)} with other numbers. Check that "
        "each pair keeps its length."
    )


register(
    Exercise(
        "4.5",
        "The paper's pairs",
        _check_rotate,
        rotate_neighbours,
        {
            "halves": _halves,
            "left in halves": _left_in_halves,
            "clockwise": _backwards_turn,
            "no minus": _no_turn,
            "overwritten": _first_overwritten,
        },
        "Whoever loads weights needs to know which of the two it is.",
    )
)


# 4.6 --------------------------------------------------------------------


def stretched_theta(theta: float, head_dim: int, factor: float) -> float:
    """The base under which the slowest pair turns ``factor`` times slower."""
    return theta * factor ** (head_dim / (head_dim - 2))


def _times_factor(theta, head_dim, factor):
    return theta * factor


def _last_is_theta(theta, head_dim, factor):
    return theta * factor ** ((head_dim - 2) / head_dim)


def _wrong_way(theta, head_dim, factor):
    return theta * factor ** (-head_dim / (head_dim - 2))


def _pairs_for_numbers(theta, head_dim, factor):
    return theta * factor ** (head_dim / (head_dim - 1))


_THETA = {
    _times_factor: (
        "Close. But the slowest pair turns by theta ** (-(D - 2) / D), not "
        "by 1 / theta, so it has slowed by a little less than the factor."
    ),
    _last_is_theta: (
        "The exponent is upside down: solve new ** (-(D - 2) / D) = "
        "theta ** (-(D - 2) / D) / factor for the new base."
    ),
    _wrong_way: "The base became smaller, and the pairs faster.",
    _pairs_for_numbers: (
        "The exponent of the slowest pair is (D - 2) / D: pairs begin at "
        "every second number, the last at D - 2."
    ),
}


def _check_theta(answer) -> str | None:
    for theta, D, factor in ((10_000.0, 8, 4.0), (500_000.0, 64, 32.0)):
        got = answer(theta, D, factor)
        wanted = stretched_theta(theta, D, factor)
        if not math.isclose(got, wanted, rel_tol=1e-6):
            for mistake, message in _THETA.items():
                if math.isclose(got, mistake(theta, D, factor), rel_tol=1e-6):
                    return message
            slowest = theta ** (-(D - 2) / D)
            return (
                f"With theta={theta:g}, D={D} and factor={factor:g} the "
                f"slowest pair turns by {slowest:.3g} now and should turn by "
                f"{slowest / factor:.3g}; under {got:g} it turns by "
                f"{got ** (-(D - 2) / D):.3g}."
            )
    return None


register(
    Exercise(
        "4.6",
        "Another base",
        _check_theta,
        stretched_theta,
        {
            "times the factor": _times_factor,
            "upside down": _last_is_theta,
            "the wrong way": _wrong_way,
            "D - 1": _pairs_for_numbers,
        },
        "The fastest pair stays, the slowest gets the whole factor.",
    )
)


# 4.7 --------------------------------------------------------------------


def alibi(scores: Tensor) -> Tensor:
    """``scores`` (H, T, T) less what ALiBi takes off for distance."""
    H, T, _ = scores.shape
    place = torch.arange(T)
    distance = place[:, None] - place  # (T, T): row m, column n
    return scores - alibi_slopes(H)[:, None, None] * distance


def _rewarded(scores):
    return 2 * scores - alibi(scores)


def _one_slope(scores):
    H = len(scores)
    place = torch.arange(scores.shape[-1])
    return scores - alibi_slopes(H)[0] * (place[:, None] - place)


def _same_for_all_heads(scores):
    place = torch.arange(scores.shape[-1])
    return scores - alibi_slopes(1) * (place[:, None] - place)


def _multiplied(scores):
    H, T, _ = scores.shape
    place = torch.arange(T)
    distance = place[:, None] - place
    return scores * (1 - alibi_slopes(H)[:, None, None] * distance)


def _slopes_by_place(scores):
    H, T, _ = scores.shape
    place = torch.arange(T)
    slopes = torch.tensor([2.0 ** -(h + 1) for h in range(H)])
    return scores - slopes[:, None, None] * (place[:, None] - place)


def _from_zero_on(scores):
    H, T, _ = scores.shape
    place = torch.arange(T)
    slopes = 2.0 ** (-ALIBI_STEEPEST * torch.arange(H) / H)
    return scores - slopes[:, None, None] * (place[:, None] - place)


def _heads_reversed(scores):
    return alibi(scores.flip(0)).flip(0)


def _place_of_key(scores):
    H, T, _ = scores.shape
    return scores + alibi_slopes(H)[:, None, None] * torch.arange(T)


_ALIBI = {
    _place_of_key: (
        "You reward a key for its place. After a softmax that is the same, "
        "but the penalty is on distance: the diagonal should stay."
    ),
    _from_zero_on: (
        "Your first head has slope 1. Counted from 0, head h has "
        "2 ** (-8 * (h + 1) / H): ask alibi_slopes(H)."
    ),
    _heads_reversed: (
        "The slopes are right, but the heads are in reversed order: the "
        "first is the steepest."
    ),
    _rewarded: (
        "Far keys gain instead of losing. Row m is the query, column n the "
        "key: m - n is how far back it stands."
    ),
    _one_slope: (
        "All heads have the first one's slope, so none of them sees far. "
        "Give each its own: slopes[:, None, None]."
    ),
    _same_for_all_heads: (
        "That is the slope of a model with a single head, for all of them. "
        "Ask alibi_slopes for H."
    ),
    _multiplied: (
        "The penalty is taken off the score; you multiplied the score by "
        "it, so a negative score would grow with distance."
    ),
    _slopes_by_place: (
        "Your slopes halve from head to head whatever H is. They go down to "
        "2 ** -8 in H equal steps of the exponent: ask alibi_slopes(H)."
    ),
}


def _check_alibi(answer) -> str | None:
    scores = draw(4, 5, 5, seed=4)
    got = torch.as_tensor(answer(scores.clone()))
    seen = torch.ones(5, 5, dtype=torch.bool).tril()  # the past alone counts
    if got.shape != scores.shape:
        return f"Expected shape (4, 5, 5), got {tuple(got.shape)}."
    if same(got[:, seen], alibi(scores)[:, seen]):
        return None
    for mistake, message in _ALIBI.items():
        if same(got[:, seen], mistake(scores)[:, seen]):
            return message
    return (
        "The diagonal should stay, and one step below it each head should "
        f"lose its own slope, {alibi_slopes(4).tolist()}."
    )


register(
    Exercise(
        "4.7",
        "A straight penalty",
        _check_alibi,
        alibi,
        {
            "rewarded": _rewarded,
            "one slope": _one_slope,
            "one head's slope": _same_for_all_heads,
            "multiplied": _multiplied,
            "halves each time": _slopes_by_place,
            "counted from zero": _from_zero_on,
            "heads reversed": _heads_reversed,
            "the key's place": _place_of_key,
        },
        "Four heads, four opinions on how far to look.",
    )
)
