"""Intervals, chance lines and comparisons, held against known values."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from llmbook.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    chance_line,
    compare,
    guessing_p_value,
    items_needed,
    mcnemar,
    standard_error,
    wilson_interval,
)


def exact_tail(correct: int, n: int, chance: Fraction) -> Fraction:
    return sum(
        math.comb(n, k) * chance**k * (1 - chance) ** (n - k)
        for k in range(correct, n + 1)
    )


@pytest.mark.parametrize(
    "correct, n, confidence, low, high",  # scipy 1.17's binomtest, "wilson"
    [
        (0, 10, 0.95, 0.0, 0.27753279986288926),
        (1, 10, 0.95, 0.017876213095072896, 0.4041500267952385),
        (10, 40, 0.95, 0.14187118639096302, 0.40193961420768026),
        (50, 200, 0.99, 0.18002137781390665, 0.3360332593992649),
        (200, 200, 0.95, 0.9811546736227335, 1.0),
        (3500, 14042, 0.95, 0.2421666272031223, 0.25647501554604374),
    ],
)
def test_wilson_s_interval_is_scipy_s(correct, n, confidence, low, high):
    found = wilson_interval(correct, n, confidence)
    assert found == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("correct, n", [(1, 7), (13, 40), (99, 100)])
def test_wilson_s_ends_lie_z_standard_errors_from_the_share(correct, n):
    share = correct / n
    for end in wilson_interval(correct, n):
        error = math.sqrt(end * (1 - end) / n)  # that of the end itself
        assert abs(share - end) / error == pytest.approx(1.959963985)


def test_wilson_s_interval_stays_within_0_and_1_and_is_symmetric():
    for n in (1, 2, 5, 50):
        for correct in range(n + 1):
            low, high = wilson_interval(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
            assert high - low > 0
            mirrored = wilson_interval(n - correct, n)
            assert mirrored == pytest.approx((1 - high, 1 - low))


def test_wilson_holds_a_rare_truth_more_often_than_the_normal_interval():
    p, n = 0.02, 50  # mostly 0 to 3 correct
    held = {"wilson": 0.0, "normal": 0.0}
    for correct in range(n + 1):
        mass = math.comb(n, correct) * p**correct * (1 - p) ** (n - correct)
        share = correct / n
        reach = 1.96 * math.sqrt(share * (1 - share) / n)
        held["wilson"] += mass * wilson_interval(correct, n).holds(p)
        held["normal"] += mass * (share - reach <= p <= share + reach)
    assert held["wilson"] > 0.92
    assert held["normal"] < 0.65  # Brown, Cai and DasGupta 2001, section 2


def test_the_standard_error_divides_by_n_minus_1_as_the_harness_does():
    values = [1, 1, 0, 1, 0]  # mean 0.6, squares 3 * 0.16 + 2 * 0.36 = 1.2
    assert standard_error(values) == pytest.approx(math.sqrt(1.2 / 4 / 5))
    p, n = 0.3, 200
    values = [True] * 60 + [False] * 140
    wanted = math.sqrt(p * (1 - p) / (n - 1))
    assert standard_error(values) == pytest.approx(wanted)


def test_one_value_has_no_standard_error():
    with pytest.raises(ValueError, match="at least two"):
        standard_error([1.0])


def test_the_bootstrap_of_three_values_has_the_quantiles_of_all_27_draws():
    values = [0.0, 1.0, 5.0]
    means = sorted(sum(draw) / 3 for draw in product(values, repeat=3))
    low, high = np.quantile(means, [0.1, 0.9])
    found = bootstrap_interval(values, draws=20_000, confidence=0.8)
    assert found == pytest.approx((low, high))


def test_the_bootstrap_of_a_mean_agrees_with_the_standard_error():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    reach = 1.96 * standard_error(values)
    found = bootstrap_interval(values, draws=4_000)
    wanted = (values.mean() - reach, values.mean() + reach)
    assert found == pytest.approx(wanted, abs=0.1 * reach)


def test_the_bootstrap_redraws_whole_rows_and_takes_any_statistic():
    rows = [(nats, nats * 2.0) for nats in (1.0, 2.0, 7.0)]

    def ratio(drawn):
        return drawn[:, 1].sum() / drawn[:, 0].sum()

    assert bootstrap_interval(rows, ratio) == (2.0, 2.0)
    spread = bootstrap_interval([1.0, 2.0, 9.0], np.median)
    assert spread == (1.0, 9.0)


def test_the_bootstrap_repeats_itself_and_a_seed_changes_it():
    values = np.random.default_rng(0).random(30)
    first = bootstrap_interval(values)
    assert first == bootstrap_interval(values)
    assert first != bootstrap_interval(values, seed=1)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, math.inf]])
def test_the_bootstrap_refuses_nothing_and_what_is_not_finite(values):
    with pytest.raises(ValueError, match=r"at least one|finite"):
        bootstrap_interval(values)


@pytest.mark.parametrize(
    "only_first, only_second, p",  # scipy 1.17's binomtest
    [
        (5, 0, 0.0625),
        (3, 9, 0.14599609375),
        (9, 3, 0.14599609375),
        (10, 10, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
        (40, 61, 0.046044066929342785),
        (400, 500, 0.0009564441369189373),
    ],
)
def test_mcnemar_s_test_is_the_two_sided_binomial(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-9)


def test_a_comparison_sees_what_two_separate_intervals_hide():
    shared = [True] * 150 + [False] * 150
    first = [*shared, *[True] * 20]
    second = [*shared, *[False] * 20]
    found = compare(first, second)
    assert found.difference == pytest.approx(20 / 320)
    assert (found.only_first, found.only_second) == (20, 0)
    assert found.p_value == pytest.approx(2 * 0.5**20)
    assert found.interval.low > 0
    alone = wilson_interval(170, 320), wilson_interval(150, 320)
    assert alone[0].low < alone[1].high  # they overlap


def test_a_comparison_knows_its_sides():
    found = compare([1, 0, 0, 1], [0, 1, 1, 1])
    assert (found.only_first, found.only_second) == (1, 2)
    assert found.difference == -0.25


@pytest.mark.parametrize(
    "first, second", [([1, 0], [1]), ([0.5, 1], [1, 1]), ([[1]], [[0]])]
)
def test_a_comparison_wants_0_or_1_for_each_shared_item(first, second):
    with pytest.raises(ValueError, match="0 or 1 an item"):
        compare(first, second)


@pytest.mark.parametrize(
    "correct, n, chance",
    [(0, 5, (1, 5)), (9, 20, (1, 4)), (60, 200, (1, 4)), (3, 164, (1, 100))],
)
def test_the_guesser_s_tail_is_the_sum_of_exact_fractions(correct, n, chance):
    wanted = float(exact_tail(correct, n, Fraction(*chance)))
    found = guessing_p_value(correct, n, chance[0] / chance[1])
    assert found == pytest.approx(wanted, rel=1e-11)


def test_the_guesser_s_tail_holds_for_the_whole_of_mmlu():
    found = guessing_p_value(3600, 14042, 0.25)
    assert found == pytest.approx(0.0417000053504, rel=1e-8)  # scipy 1.17


@pytest.mark.parametrize(
    "n, chance", [(20, (1, 4)), (100, (1, 4)), (164, (1, 100)), (5, (1, 2))]
)
def test_the_chance_line_is_the_first_score_that_luck_seldom_gives(n, chance):
    line = chance_line(n, chance[0] / chance[1])
    correct = round(line * n)
    assert line == correct / n
    p = Fraction(*chance)
    assert exact_tail(correct, n, p) <= Fraction(1, 20)
    assert exact_tail(correct - 1, n, p) > Fraction(1, 20)


def test_the_chance_line_of_mmlu_is_scipy_s():
    assert chance_line(14042, 0.25) == 3596 / 14042


def test_with_too_few_items_everything_can_be_luck():
    assert chance_line(2, 0.25) == math.inf
    assert chance_line(3, 0.25) == 1.0  # 1/64


def test_the_items_needed_are_those_of_the_paper_s_example():
    # Miller 2024, section 5: a gap of 3 points, variance 1/9, power 80 %.
    found = items_needed(0.53, 0.50, disagreement=1 / 9 + 0.03**2)
    assert found == pytest.approx(969, abs=1)


@pytest.mark.parametrize("disagreement", [None, 0.15])
def test_with_the_items_needed_four_differences_in_five_are_found(
    disagreement,
):
    first, second = 0.40, 0.30
    n = items_needed(first, second, disagreement)
    apart = disagreement or first * (1 - second) + second * (1 - first)
    up, down = (apart + first - second) / 2, (apart - first + second) / 2
    source = np.random.default_rng(0)
    drawn = source.multinomial(n, [up, down, 1 - up - down], size=4_000)
    mean = (drawn[:, 0] - drawn[:, 1]) / n
    error = np.sqrt(((drawn[:, 0] + drawn[:, 1]) / n - mean**2) / n)
    found = float((np.abs(mean / error) > 1.96).mean())
    assert found == pytest.approx(0.80, abs=0.03)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: wilson_interval(1, 2, confidence=1.0),
        lambda: guessing_p_value(1, 2, chance=25),
        lambda: chance_line(10, chance=0.0),
        lambda: chance_line(0, chance=0.25),
        lambda: items_needed(0.5, 0.5),
        lambda: items_needed(0.5, 0.3, disagreement=0.1),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_one_model_may_get_all_right_that_the_other_does():
    assert items_needed(0.8, 0.7, disagreement=0.1) == 71  # 7.849 * 0.9 / 0.1


def test_an_interval_holds_its_ends():
    interval = Interval(0.25, 0.5)
    assert interval.holds(0.25) and interval.holds(0.5)
    assert not interval.holds(0.51)
