"""The aligned running model: found by its hash, made once, in two stages."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from llmbook import aligned, running
from llmbook.alignment import CHAT_TOKENS, answer
from llmbook.alignment.data import user
from llmbook.config import GPTConfig, TrainConfig

TRAIN = TrainConfig(
    steps=8, batch_size=2, warmup_steps=2, eval_every=3, eval_batches=1
)


def tiny_running():
    return running.Recipe(
        documents=120,
        model=GPTConfig(
            vocab_size=300, context_length=160, n_layer=1, n_head=2, n_embd=16
        ),
        train=replace(TRAIN, steps=4),
    )


def tiny_recipe(stage):
    kinds = {"question": 30, "sum": 10}
    if stage == "sft":
        return aligned.Recipe(stage, kinds, TRAIN)
    return aligned.Recipe(
        stage,
        {"ending": 40},
        TRAIN,
        choices={"beta": 0.2, "sft": 0.1},
        paragraphs=1,
    )


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "aligned-models"
    monkeypatch.setenv(running.FOLDER_VARIABLE, str(folder))
    monkeypatch.setattr(running, "recipe", tiny_running)
    monkeypatch.setattr(running, "code_hash", lambda: "as it is")
    monkeypatch.setattr(aligned, "recipe", tiny_recipe)
    monkeypatch.setattr(aligned, "JUDGED", 20)
    return folder


@pytest.fixture
def dpo():
    return aligned.load_aligned("dpo", progress=False)


def load_sft():
    return aligned.load_aligned("sft")


def same_weights(one, other):
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_stage_comes_with_all_that_belongs_to_it(dpo):
    sft = aligned.load_aligned("sft")
    for stage in (sft, dpo):
        assert set(CHAT_TOKENS) <= stage.tokenizer.special_tokens.keys()
        assert stage.model.config.vocab_size == stage.tokenizer.vocab_size
        assert [s for s, _ in stage.history.evaluations] == [0, 3, 6, 8]
        assert stage.left_out >= 0
        assert stage.recipe == tiny_recipe(stage.stage)
        (reply,) = answer(
            stage.model, stage.tokenizer, [[user("Who hums?")]], 5
        )
        assert isinstance(reply, str)
    assert sft.model.config == dpo.model.config
    assert sft.folder != dpo.folder


def test_each_stage_begins_where_the_one_before_ended(monkeypatch):
    """So with steps of no length all three are one model."""
    still = replace(TRAIN, learning_rate=0.0, min_learning_rate=0.0)
    monkeypatch.setattr(
        aligned,
        "recipe",
        lambda stage: replace(tiny_recipe(stage), train=still),
    )
    begun = running.load_running(progress=False)
    idx = torch.tensor([[begun.tokenizer.end_of_text, 5, 6]])
    dpo = aligned.load_aligned("dpo", progress=False)
    same_weights(load_sft().model, dpo.model)
    torch.testing.assert_close(
        dpo.model(idx)[0][..., :300], begun.model(idx)[0]
    )


def test_the_second_call_reads_the_same_model(dpo, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("made again")

    monkeypatch.setattr(aligned, "make_stage", refuse)
    again = aligned.load_aligned("dpo")
    same_weights(dpo.model, again.model)
    assert again.history == dpo.history


@pytest.mark.parametrize("stage", aligned.STAGES)
def test_an_interrupted_stage_is_taken_up_and_ends_as_the_whole_one(
    dpo, stage, tmp_path, monkeypatch
):
    whole = aligned.load_aligned(stage)
    begun = running.load_running() if stage == "sft" else load_sft()
    shutil.copytree(begun.folder, tmp_path / begun.folder.name)
    tune = {"sft": "fine_tune", "dpo": "prefer"}[stage]
    honest = getattr(aligned, tune)

    steps = []

    def cut(*arguments, **options):
        def power_cut(step, model, history):
            steps.append(step)
            if steps == [0, 1, 2, 3, 4, 5]:
                raise KeyboardInterrupt

        return honest(*arguments, callbacks=[power_cut], **options)

    monkeypatch.setenv(running.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(aligned, tune, cut)
    with pytest.raises(KeyboardInterrupt):
        aligned.load_aligned(stage, progress=False)
    folder = tmp_path / aligned.fingerprint(stage)
    assert not (folder / aligned.RESULT_NAME).exists()
    resumed = aligned.load_aligned(stage, progress=False)
    assert steps == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8]  # from a checkpoint
    same_weights(whole.model, resumed.model)
    assert resumed.history.loss == whole.history.loss
    assert sorted(file.name for file in folder.iterdir()) == [
        "aligned.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_two_that_want_a_stage_at_once_make_it_once(
    dpo, tmp_path, monkeypatch
):
    made, honest = [], aligned.make_stage

    def counted(chosen, *arguments):
        made.append(chosen.stage)
        honest(chosen, *arguments)

    begun = running.load_running()
    shutil.copytree(begun.folder, tmp_path / begun.folder.name)
    monkeypatch.setenv(running.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(aligned, "make_stage", counted)
    # Processes may read their code at once; in Python 3.11 threads may not.
    name = aligned.fingerprint("sft")
    monkeypatch.setattr(aligned, "fingerprint", lambda stage: name)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(aligned.load_aligned, ["sft"] * 2, [False] * 2)
    assert made == ["sft"]
    same_weights(one.model, other.model)


def test_the_folder_is_named_after_all_that_leads_to_the_model(monkeypatch):
    first = {stage: aligned.fingerprint(stage) for stage in aligned.STAGES}
    assert len(set(first.values())) == 2
    changes = {
        (running, "code_hash"): lambda: "changed",
        (aligned, "code_hash"): lambda: "another way of tuning",
        (aligned, "recipe"): lambda stage: replace(
            tiny_recipe(stage), train=replace(TRAIN, steps=9)
        ),
    }
    for (module, name), other in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, other)
            for stage, before in first.items():
                assert aligned.fingerprint(stage) != before
    assert aligned.fingerprint("sft") == first["sft"]


def write_package(folder, body):
    for name in aligned.CODE:
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body if name == "alignment/sft.py" else "x = 1\n")
        else:
            path.mkdir(parents=True)
            (path / "__init__.py").write_text("")
    return aligned.code_hash(folder)


def test_comments_and_docstrings_do_not_change_the_hash(tmp_path):
    plain = write_package(
        tmp_path / "a", 'def f():\n    """One."""\n    return 1\n'
    )
    reworded = write_package(
        tmp_path / "b",
        'def f():\n    """Another."""\n    # a reason\n    return 1\n',
    )
    changed = write_package(
        tmp_path / "c", 'def f():\n    """One."""\n    return 2\n'
    )
    assert plain == reworded != changed


def test_the_hash_names_every_module_that_tuning_imports():
    """But for those that the running model's own hash names."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("llmbook", cache_dir=None)
    package = running.Path(running.__file__).parent
    reached = set()
    for name in ("sft", "preferring"):
        module = f"llmbook.alignment.{name}"
        reached |= {module, *graph.find_upstream_modules(module)}
    named = [*aligned.CODE, *running.CODE]
    assert [n for n in named if not (package / n).exists()] == []
    prefixes = {n.removesuffix(".py").replace("/", ".") for n in named}
    rest = {
        name.removeprefix("llmbook.")
        for name in reached
        if not any(
            f"{name}.".startswith(f"llmbook.{prefix}.") for prefix in prefixes
        )
    }
    # None of these decides a weight: they read, write, or stay unused.
    assert rest <= {
        "accounting",
        "alignment",
        "checkpoint",
        "compiling",
        "corpus.benchmarks",
        "corpus.folder",
        "corpus.gutenberg",
        "cutting",
        "downloads",
        "hashing",
        "lora",
        "parallel",
        "pieces",
        "train",
        "train.metrics",
        "train.sharing",
        "train.stopping",
    }


def test_an_unknown_stage_names_the_known_ones(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match="'rlhf'; expected one of sft, dpo"):
        aligned.load_aligned("rlhf")


@pytest.mark.parametrize("budget", ["smoke", "quick", "laptop", "gpu"])
def test_each_budget_has_recipes_of_its_own(budget, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(running, "code_hash", lambda: "as it is")
    monkeypatch.setenv("LLMBOOK_BUDGET", budget)
    for stage in aligned.STAGES:
        chosen = aligned.recipe(stage)
        assert chosen.stage == stage
        before = aligned.fingerprint(stage)
        assert json.loads(json.dumps(chosen.train.to_dict()))
        with monkeypatch.context() as patch:
            patch.setenv("LLMBOOK_SEED", "1")
            assert aligned.fingerprint(stage) != before


def test_the_command_says_loss_and_place(dpo, capsys):
    assert aligned.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["sft", "dpo"]
    assert str(dpo.folder) in lines[1]
    assert f"{dpo.history.evaluations[-1][1]:.3f}" in lines[1]


@pytest.mark.slow
def test_the_command_makes_both_stages_at_smoke(tmp_path):
    environment = {
        **os.environ,
        running.FOLDER_VARIABLE: str(tmp_path),
        "LLMBOOK_BUDGET": "smoke",
    }
    command = [sys.executable, "-m", "llmbook.aligned"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    folders = [line.split(": ")[-1] for line in done.stdout.splitlines()]
    assert len(folders) == 2
    for folder in folders:
        assert (running.Path(folder) / aligned.RESULT_NAME).is_file()
