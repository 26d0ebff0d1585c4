"""The comparison of recipes runs, and compares what its names say."""

from dataclasses import asdict, replace

import pytest
import torch

from benchmarks import recipe
from llmbook import running
from llmbook.corpus import Batches, DocumentBatches, TokenShard
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import train


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    real = running.recipe()
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "d_ff": 32}
    chosen = replace(
        real,
        documents=120,
        model=replace(real.model, vocab_size=300, context_length=32, **shape),
        train=replace(real.train, steps=20, warmup_steps=2, batch_size=4),
    )
    monkeypatch.setattr(running, "recipe", lambda: chosen)
    monkeypatch.setattr(running, "SCORED_DOCUMENTS", 4)


@pytest.fixture
def folder(tmp_path):
    recipe.prepare(tmp_path)
    return tmp_path


def test_a_run_takes_its_seconds_and_lies_above_the_entropy(folder):
    result = recipe.run(recipe.RECIPE, 1, 1.0, 0.1, folder)
    assert (result["steps"], result["seconds"]) == (10, 1.0)
    assert result["loss"] > result["entropy"] > 0
    assert result["over"] == pytest.approx(
        result["loss"] / result["entropy"] - 1
    )


def test_all_are_compiled_or_none(folder, monkeypatch):
    def large(model, config):
        return model.config.n_embd > 16

    monkeypatch.setattr(recipe.compiling, "should_compile", large)
    wide = recipe.Candidate("wide", model={"n_embd": 32})
    runs = [recipe.Run.of(c, 0, folder) for c in (recipe.RECIPE, wide)]
    assert [run.chosen.train.compile for run in runs] == ["off", "off"]


def test_all_candidates_are_timed_in_turns(folder, monkeypatch):
    taken = []

    def stepping(self):
        width = self.chosen.model.n_embd
        return lambda: taken.append(width)

    monkeypatch.setattr(recipe.Run, "stepping", stepping)
    wide = recipe.Candidate("wide", model={"n_embd": 32})
    found = recipe.step_seconds([recipe.RECIPE, wide], folder)
    assert set(found) == {"the recipe", "wide"}
    assert all(seconds >= 0 for seconds in found.values())
    warm = [16] * recipe.WARM_STEPS + [32] * recipe.WARM_STEPS
    turn = [16] * recipe.TIMED_STEPS + [32] * recipe.TIMED_STEPS
    assert taken == warm + turn * recipe.ROUNDS


def test_a_timed_step_is_the_step_that_training_takes(folder):
    one, other = (recipe.Run.of(recipe.RECIPE, 0, folder) for _ in range(2))
    plan = replace(one.chosen.train, steps=3)
    one.chosen = replace(one.chosen, train=plan)
    step = one.stepping()
    for _ in range(3):
        step()
    train(other.model, other.batches, plan, loss_function=other.loss)
    for mine, theirs in zip(
        one.model.parameters(), other.model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("candidate", recipe.CANDIDATES[1:])
def test_each_candidate_differs_from_the_recipe_in_what_it_names(candidate):
    base = recipe.RECIPE.applied(seed=3)
    other = candidate.applied(seed=3)
    assert other != base
    changed = {
        name
        for part in ("model", "train")
        for name, value in asdict(getattr(other, part)).items()
        if value != getattr(getattr(base, part), name)
    }
    assert changed <= {*candidate.model, *candidate.train}


def test_the_table_puts_the_nearest_to_the_entropy_first():
    results = [
        {"candidate": name, "seed": seed, "parameters": 5, "steps": 9,
         "tokens": 90, "seconds": 1.0, "loss": 0.5 + over, "entropy": 0.5,
         "over": over / 0.5}
        for name, over in (("far", 0.3), ("near", 0.1))
        for seed in range(2)
    ]  # fmt: skip
    rows = recipe.table(results).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["near", "far"]


def test_windows_are_cut_where_the_recipe_says(tmp_path):
    tokenizer = BPETokenizer.train("Ona lost the kite. " * 9, 270)
    texts = ["Ona lost the kite, but Tam found it."] * 40
    shard = TokenShard.write(tmp_path / "train", texts, tokenizer)
    for windows, kind in (
        ("documents", DocumentBatches),
        ("together", DocumentBatches),
        ("anywhere", Batches),
    ):
        chosen = recipe.Candidate("", {"windows": windows}).applied(0)
        found = running.windows_of(shard, chosen, tokenizer.end_of_text)
        assert type(found) is kind


def test_only_documents_see_themselves_alone():
    model = GPT(running.recipe().model).eval()
    x = torch.randint(0, 290, (2, 9))
    x[:, 4] = 299  # a document begins in the middle
    y, losses = x.roll(-1, 1), {}
    for windows in ("documents", "together", "anywhere"):
        chosen = recipe.Candidate("", {"windows": windows}).applied(0)
        losses[windows] = running.loss_of(chosen, 299)(model, x, y).item()
    assert losses["together"] == losses["anywhere"] == model(x, y)[1].item()
    halves = model(x[:, :4], y[:, :4])[1], model(x[:, 4:], y[:, 4:])[1]
    alone = (4 * halves[0] + 5 * halves[1]) / 9
    assert losses["documents"] == pytest.approx(alone.item(), abs=1e-5)
    assert losses["documents"] != pytest.approx(losses["together"], abs=1e-5)


def test_without_seconds_a_run_takes_the_recipes_own_steps(folder):
    result = recipe.run(recipe.RECIPE, 0, None, 0.1, folder)
    assert result["candidate"] == recipe.WHOLE
    assert result["steps"] == running.recipe().train.steps == 20


def test_an_unknown_candidate_is_named_with_those_there_are():
    with pytest.raises(SystemExit, match="no candidate is called 'magic'"):
        recipe.wanted(["magic"])
