"""The one running model: found by its hash, trained once, never another."""

import ast
import json
import math

import pytest
import torch

from llmbook import checkpoint, running
from llmbook.config import GPTConfig, TrainConfig


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "models"
    monkeypatch.setenv(running.FOLDER_VARIABLE, str(folder))
    monkeypatch.setenv("LLMBOOK_BUDGET", "smoke")
    monkeypatch.setattr(running, "recipe", tiny_recipe)
    return folder


def tiny_recipe(steps=20):
    return running.Recipe(
        documents=120,
        model=GPTConfig(
            vocab_size=300, context_length=32, n_layer=1, n_head=2, n_embd=16
        ),
        train=TrainConfig(
            steps=steps, batch_size=4, eval_every=5, eval_batches=2
        ),
    )


@pytest.fixture
def model():
    return running.load_running(progress=False)


def test_the_model_comes_with_all_that_belongs_to_it(model):
    assert model.config.vocab_size == model.tokenizer.vocab_size
    assert model.history.steps == 20
    assert [s for s, _ in model.history.evaluations] == [0, 5, 10, 15, 20]
    assert model.corpus.entropy > 0
    assert int(model.shard.tokens.max()) == model.tokenizer.end_of_text
    assert model.validation_shard.manifest is not None
    assert 0 < model.entropy_per_token < model.document_loss
    assert model.document_loss < math.log(model.config.vocab_size) + 0.5


def test_the_floor_is_the_corpus_entropy_over_its_tokens(model):
    documents = model.corpus.validation
    assert len(documents) < running.SCORED_DOCUMENTS
    tokens = sum(len(model.tokenizer.encode(d.text)) + 1 for d in documents)
    expected = model.corpus.entropy * len(documents) / tokens
    assert model.entropy_per_token == pytest.approx(expected)


def test_the_second_call_reads_the_same_model(model, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(running, "train_running", refuse)
    again = running.load_running()
    for p, q in zip(
        model.model.parameters(), again.model.parameters(), strict=True
    ):
        assert torch.equal(p, q)
    assert again.history == model.history


def test_a_snapshot_that_does_not_fit_on_the_disk_stops_nothing(
    model, tmp_path, monkeypatch
):
    def full(tensors, file, metadata=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    take = running.snapshot_taker(tmp_path, model.tokenizer, {0})
    with pytest.warns(checkpoint.CheckpointWarning, match="no space left"):
        take(0, model.model, None)
    assert not list(tmp_path.iterdir())


def test_snapshots_run_from_gibberish_to_the_final_model(model):
    steps = [s.step for s in model.snapshots]
    assert steps == running.snapshot_steps(20)
    assert steps[0] == 0 and steps[-1] == 20
    assert all(s.sample for s in model.snapshots)
    idx = torch.tensor([[model.tokenizer.end_of_text, 5, 6]])
    last = model.snapshots[-1].model()
    torch.testing.assert_close(
        last(idx)[0], model.model(idx)[0], atol=0.02, rtol=0.02
    )
    assert not torch.allclose(
        model.snapshots[0].model()(idx)[0], model.model(idx)[0], atol=0.02
    )


def test_an_interrupted_run_is_taken_up_and_ends_as_the_whole_one(
    model, tmp_path, monkeypatch
):
    monkeypatch.setenv(running.FOLDER_VARIABLE, str(tmp_path))
    honest = running.train

    def cut(*arguments, callbacks, **options):
        def power_cut(step, model, history):
            if step == 13:
                raise KeyboardInterrupt

        return honest(*arguments, callbacks=[*callbacks, power_cut], **options)

    with monkeypatch.context() as patch:
        patch.setattr(running, "train", cut)
        with pytest.raises(KeyboardInterrupt):
            running.load_running(progress=False)
    resumed = running.load_running(progress=False)
    assert resumed.history.loss == model.history.loss
    assert [s.sample for s in resumed.snapshots] == [
        s.sample for s in model.snapshots
    ]
    for p, q in zip(
        model.model.parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(p, q)


def test_the_folder_is_named_after_settings_and_code(monkeypatch):
    first = running.fingerprint(tiny_recipe())
    assert first == running.fingerprint(tiny_recipe())
    assert first != running.fingerprint(tiny_recipe(steps=21))
    monkeypatch.setattr(running, "code_hash", lambda: "other code")
    assert first != running.fingerprint(tiny_recipe())


def write_package(folder, body):
    for name in running.CODE:
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body if name == "optim.py" else "x = 1\n")
        else:
            path.mkdir(parents=True)
            (path / "__init__.py").write_text("")
    return running.code_hash(folder)


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


def test_every_file_that_the_hash_names_exists():
    assert [n for n in running.CODE if not (PACKAGE / n).exists()] == []


PACKAGE = running.Path(running.__file__).parent
# Imported by files that decide the weights, and deciding none themselves.
BESIDES = {
    "checkpoint.py": "stores what was computed",
    "corpus/folder.py": "another corpus",
    "corpus/gutenberg.py": "another corpus",
    "downloads.py": "checksums of what is stored",
    "parallel.py": "several processes; the running model has one",
    "train/__init__.py": "names alone",
    "train/metrics.py": "stores what was measured",
    "train/sharing.py": "several processes; the running model has one",
    "train/stopping.py": "ends a run, or leaves it as it is",
}


def hashed():
    for name in running.CODE:
        path = PACKAGE / name
        yield from [path] if path.suffix else path.rglob("*.py")


def imported(path):
    """The files of the package that a file of it imports from."""
    inside = ("llmbook", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        above = inside[: len(inside) - node.level + 1] if node.level else ()
        whole = (*above, *(node.module or "").split("."))
        if whole[0] != "llmbook":
            continue
        for name in node.names:
            for parts in ((*whole[1:], name.name), whole[1:]):
                place = PACKAGE.joinpath(*filter(None, parts))
                files = place.with_suffix(".py"), place / "__init__.py"
                if found := [file for file in files if file.is_file()]:
                    yield found[0]
                    break


def test_what_the_hashed_files_import_is_hashed_or_decides_no_weight():
    known = set(hashed())
    others = {
        file.relative_to(PACKAGE).as_posix()
        for path in known
        for file in imported(path)
        if file not in known
    }
    assert others == set(BESIDES)


@pytest.mark.parametrize("budget", ["smoke", "quick", "laptop", "gpu"])
def test_each_budget_has_a_model_of_its_own(budget, monkeypatch):
    monkeypatch.undo()
    names = set()
    for name in ("smoke", "quick", "laptop", "gpu"):
        monkeypatch.setenv("LLMBOOK_BUDGET", name)
        names.add(running.fingerprint(running.recipe()))
    assert len(names) == 4
    monkeypatch.setenv("LLMBOOK_BUDGET", budget)
    before = running.fingerprint(running.recipe())
    monkeypatch.setenv("LLMBOOK_SEED", "1")
    assert running.fingerprint(running.recipe()) != before


def test_the_number_format_is_part_of_the_name(monkeypatch):
    monkeypatch.undo()
    names = set()
    for dtype in ("float32", "bfloat16"):
        monkeypatch.setenv("LLMBOOK_DTYPE", dtype)
        names.add(running.fingerprint(running.recipe()))
    assert len(names) == 2


def test_a_folder_that_cannot_be_made_names_the_variable(
    tmp_path, monkeypatch
):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv(running.FOLDER_VARIABLE, str(blocked / "models"))
    with pytest.raises(ValueError, match="LLMBOOK_MODELS"):
        running.load_running()


def test_without_the_variable_models_live_in_the_build_folder(monkeypatch):
    monkeypatch.delenv(running.FOLDER_VARIABLE)
    folder = running.models_folder()
    assert folder.parts[-2:] == ("_build", "models")


def test_the_command_says_loss_floor_and_place(model, capsys):
    assert running.main() == 0
    line = capsys.readouterr().out.strip()
    assert f"{model.document_loss:.3f} nats a token" in line
    assert str(model.folder) in line
    assert json.loads((model.folder / running.RESULT_NAME).read_text())
