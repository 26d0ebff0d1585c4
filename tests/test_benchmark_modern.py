"""The comparison of modern parts runs, and is fair in what it says it is."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import modern
from llmbook.accounting import active_parameters, flops_per_token, parameters
from llmbook.corpus import RUNNING_SENTENCE

END = 511
CHAPTER = Path(__file__).resolve().parents[1] / "book/07-modern.ipynb"


@pytest.fixture
def tiny(monkeypatch):
    document = [END, *RUNNING_SENTENCE.encode()]
    material = document * 40, document * 12, END
    monkeypatch.setattr(modern, "material", lambda: material)
    monkeypatch.setattr(modern, "BATCH", 2)


def test_a_run_learns_and_says_what_it_cost(tiny):
    short, long = (
        modern.run("8 experts", seed=0, steps=steps, rate=1e-2)
        for steps in (1, 15)
    )
    assert long["loss"] < short["loss"] - 0.5
    assert long["steps"] == pytest.approx(15, abs=1)
    assert long["parameters"] > parameters(modern.BASE)
    for shares in long["loads"]:
        assert len(shares) == 8
        assert sum(shares) == pytest.approx(1)
    assert len(long["loads"]) == modern.BASE.n_layer


@pytest.mark.parametrize("name", modern.VARIANTS)
def test_each_variant_costs_what_the_base_costs(name):
    config = replace(modern.BASE, **modern.VARIANTS[name])
    spent = modern.steps_of(config, 1000) * flops_per_token(
        config, modern.CONTEXT
    )
    base = 1000 * flops_per_token(modern.BASE, modern.CONTEXT)
    assert spent == pytest.approx(base, rel=1e-3)


@pytest.mark.parametrize("name", modern.VARIANTS)
def test_each_variant_differs_in_what_it_names_alone(name):
    base = asdict(modern.BASE)
    other = asdict(replace(modern.BASE, **modern.VARIANTS[name]))
    changed = {key for key in base if base[key] != other[key]}
    assert changed <= set(modern.VARIANTS[name])


def test_gates_and_experts_are_as_large_as_what_they_replace():
    base = parameters(modern.BASE)
    for name in ("SwiGLU", "8 experts"):
        config = replace(modern.BASE, **modern.VARIANTS[name])
        assert active_parameters(config) == pytest.approx(base, rel=0.02)


def test_the_table_begins_with_the_lowest_loss():
    results = [
        {"variant": name, "seed": seed, "parameters": 5, "steps": 9,
         "rate": 0.01, "loss": loss + seed / 10, "seconds": 1.0, "loads": []}
        for name, loss in (("GPT-2 style", 2.0), ("rotary", 1.5))
        for seed in range(3)
    ]  # fmt: skip
    rows = modern.table(results).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "rotary",
        "GPT-2 style",
    ]
    assert "-0.500" in rows[0] and "1.500 to 1.700" in rows[0]


def test_the_chapter_trains_the_variants_of_the_record():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    (cell,) = (c for c in cells if c["id"] == "experiment-variants")
    exec("".join(cell["source"]), chapter := {})
    for name, parts in chapter["VARIANTS"].items():
        assert replace(modern.BASE, **parts) == replace(
            modern.BASE, **modern.VARIANTS[name]
        )


def test_the_record_is_of_these_variants_three_seeds_and_two_rates_each():
    kept = json.loads(modern.RECORD.read_text(encoding="utf-8"))["results"]
    runs = {(r["variant"], r["seed"], r["rate"]) for r in kept}
    assert len(runs) == len(kept)
    assert runs == {
        (name, seed, rate)
        for name in modern.VARIANTS
        for seed in range(modern.SEEDS)
        for rate in modern.RATES
    }
    for one in kept:
        config = replace(modern.BASE, **modern.VARIANTS[one["variant"]])
        assert one["parameters"] == parameters(config)
        assert one["steps"] == modern.steps_of(config, modern.STEPS)
