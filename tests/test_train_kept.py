"""Nothing of a run is lost: kills, signals, full disks, damaged files."""

import gc
import math
import signal
import statistics
import sys
import types

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from benchmarks import kills
from llmbook import checkpoint, parallel, products
from llmbook.checkpoint import CheckpointError, CheckpointWarning
from llmbook.compiling import has_compiler
from llmbook.train import (
    CHECKPOINT_NAME,
    METRICS_NAME,
    DivergedError,
    History,
    Run,
    Stopped,
    data_mark,
    make_optimizer,
    next_token_loss,
    read_metrics,
    stopping,
    tensorboard_callback,
    train,
)
from llmbook.train.metrics import Metrics
from tests.tiny_run import (
    SETTINGS,
    changed,
    make_batches,
    make_model,
    same_weights,
)


def run(folder, model=None, settings=SETTINGS, **options):
    """One run in ``folder``; gives its model and its history."""
    model = make_model(dropout=0.2) if model is None else model
    history = train(
        model,
        make_batches(),
        settings,
        validation=make_batches(seed=1),
        run_dir=folder,
        progress=False,
        **options,
    )
    return model, history


def at_step(wanted, act):
    """A callback that acts after one step."""

    def call(step, model, history):
        if step == wanted:
            act()

    return call


def spoil(model, value):
    """Make one weight ``value``, as bad memory would."""
    with torch.no_grad():
        next(model.parameters())[0, 0] = value


def full(tensors, file, metadata=None):
    """Write as onto a disk that fills up half-way."""
    file.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def power_cut():
    raise SystemExit("the power is gone")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed: model, history, folder."""
    folder = tmp_path_factory.mktemp("whole")
    return *run(folder), folder


def test_a_new_run_does_not_write_over_another(whole):
    folder = whole[2]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(CheckpointError, match=r"holds a run already.*resume"):
        run(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def assert_same(whole, model, history, folder):
    assert same_weights(whole[0], model)
    assert history.loss == whole[1].loss
    assert history.evaluations == whole[1].evaluations
    saved = [
        checkpoint.load(place / CHECKPOINT_NAME).optimizer
        for place in (whole[2], folder)
    ]
    assert all(torch.equal(saved[0][name], t) for name, t in saved[1].items())
    lines = [read_metrics(p / METRICS_NAME) for p in (whole[2], folder)]
    for row in (row for side in lines for row in side):
        row.pop("seconds", None)
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_killed_processes_go_on_to_the_same_bits(tmp_path):
    found = kills.measure(kills=3, steps=12, seed=1, place=tmp_path)
    assert found["kills"] == 3
    assert found["differences"] == []


def test_the_comparison_of_two_runs_sees_a_single_step_less(whole, tmp_path):
    run(tmp_path, settings=changed(steps=11))
    found = kills.differences(whole[2], tmp_path)
    assert {"metrics.jsonl", "history, settings or schedule"} <= set(found)
    assert any(name.startswith("model: ") for name in found)
    assert kills.differences(whole[2], whole[2]) == []


def test_metrics_hold_the_history_and_can_be_read_at_every_step(tmp_path):
    read = []

    def look(step, model, history):
        read.append(read_metrics(tmp_path / METRICS_NAME))

    _, history = run(tmp_path, callbacks=[look])
    losses = [[r["loss"] for r in rows if "loss" in r] for rows in read]
    assert losses == [history.loss[:step] for step in range(13)]
    rows = read[-1]
    key = "validation_loss"
    found = [(row["step"], row[key]) for row in rows if key in row]
    assert found == history.evaluations
    of_step = "step loss learning_rate gradient_norm tokens seconds"
    assert list(rows[1]) == of_step.split()
    assert rows[-2]["tokens"] == history.tokens == SETTINGS.tokens(8)


def test_lines_after_the_checkpoint_are_cut_off_and_torn_ones_dropped(
    whole, tmp_path
):
    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=[at_step(6, power_cut)])
    path = tmp_path / METRICS_NAME
    assert read_metrics(path)[-1]["step"] == 6
    with path.open("a") as file:
        file.write('{"step": 7, "loss"')
    assert_same(whole, *run(tmp_path, resume=True), tmp_path)


def test_lines_that_are_lost_come_back_from_the_checkpoint(whole, tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=[at_step(6, power_cut)])
    (tmp_path / METRICS_NAME).unlink()
    _, history = run(tmp_path, resume=True)
    rows = read_metrics(tmp_path / METRICS_NAME)
    assert [row["loss"] for row in rows if "loss" in row] == history.loss


@pytest.mark.parametrize("damage", ["cut short", "wrong checksum"])
def test_a_damaged_checkpoint_costs_some_steps_and_no_bits(
    damage, whole, tmp_path
):
    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=[at_step(10, power_cut)])
    file = tmp_path / CHECKPOINT_NAME
    content = file.read_bytes()
    if damage == "cut short":
        file.write_bytes(content[:-9])
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    steps = []

    def note(step, model, history):
        steps.append(step)

    with pytest.warns(CheckpointWarning, match=damage):
        found = run(tmp_path, resume=True, callbacks=[note])
    assert steps[0] == 5  # the checkpoint before was of step 4
    assert_same(whole, *found, tmp_path)


def test_a_checkpoint_of_other_settings_is_no_damage(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match="learning_rate=0"):
        run(tmp_path, settings=changed(learning_rate=5e-4), resume=True)
    with pytest.raises(CheckpointError, match="adamw_scale=1"):
        run(tmp_path, settings=changed(adamw_scale=3.0), resume=True)
    assert not checkpoint.damaged_of(tmp_path / CHECKPOINT_NAME).exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"n_head": 4}, "model had n_head=2 and this one has 4"),
        ({"window": 3}, "model had window=None"),
        ({"dropout": 0.0}, "model had dropout=0.2"),
    ],
)
def test_a_model_of_the_same_shapes_and_other_parts_is_refused(
    other, words, tmp_path
):
    run(tmp_path)
    model = make_model(**{"dropout": 0.2, **other})
    with pytest.raises(CheckpointError, match=words):
        run(tmp_path, model=model, resume=True)


def test_other_targets_are_other_data():
    class Masked:
        def at(self, step):
            x, y = make_batches().at(step)
            return x, y.masked_fill(x > 20, -100)

    assert data_mark(make_batches()) == data_mark(make_batches())
    assert data_mark(make_batches()) != data_mark(Masked())


def test_gradients_that_a_broken_run_left_do_not_reach_the_next(whole):
    model = make_model(dropout=0.2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    history = train(model, make_batches(), SETTINGS, progress=False)
    assert history.loss == whole[1].loss


def test_a_run_is_saved_and_left_where_it_can_be_gone_on_with(tmp_path):
    class InPairs:
        updates = 2  # as those of GRPO that learn from the same answers

        def at(self, step):
            return make_batches().at(step)

    def stop():
        signal.raise_signal(signal.SIGTERM)

    model = make_model()
    settings = changed(checkpoint_every=1, eval_every=0)
    with pytest.raises(Stopped, match="after step 6"):
        train(
            model,
            InPairs(),
            settings,
            run_dir=tmp_path,
            callbacks=[at_step(5, stop)],
            progress=False,
        )
    file = tmp_path / CHECKPOINT_NAME
    steps = [
        len(checkpoint.load(path).state["history"]["loss"])
        for path in (file, checkpoint.previous_of(file))
    ]
    assert steps == [6, 4]


def test_when_something_is_written_may_change_at_resume(whole, tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=[at_step(6, power_cut)])
    settings = changed(checkpoint_every=1, checkpoint_seconds=60.0)
    assert_same(
        whole, *run(tmp_path, settings=settings, resume=True), tmp_path
    )


def test_a_callback_sees_every_step_at_least_once_whenever_a_kill_comes(
    tmp_path, monkeypatch
):
    seen = []

    def note(step, model, history):
        seen.append(step)

    save = checkpoint.save

    def cut(*arguments, **options):
        save(*arguments, **options)
        power_cut()

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", cut)
        with pytest.raises(SystemExit):
            run(tmp_path, callbacks=[note])
    run(tmp_path, resume=True, callbacks=[note])
    assert seen == list(range(13))


def test_checkpoints_come_by_steps_or_by_time(tmp_path, monkeypatch):
    written = []
    save = checkpoint.save

    def counted(path, model, optimizer, state, **options):
        written.append(len(state["history"]["loss"]))
        return save(path, model, optimizer, state, **options)

    monkeypatch.setattr(checkpoint, "save", counted)
    run(tmp_path / "a", settings=changed(checkpoint_every=5))
    assert written == [5, 10, 12]
    written.clear()
    often = changed(eval_every=0, checkpoint_seconds=1e-6)
    run(tmp_path / "b", settings=often)
    assert written == list(range(1, 13))


def test_a_full_disk_is_a_warning_and_a_later_save_is_tried(
    whole, tmp_path, monkeypatch
):
    save_file = checkpoint.save_file

    def free():
        monkeypatch.setattr(checkpoint, "save_file", save_file)

    def fill():
        monkeypatch.setattr(checkpoint, "save_file", full)

    kept = []

    def look():
        file = tmp_path / CHECKPOINT_NAME
        kept.append(len(checkpoint.load(file).state["history"]["loss"]))

    steps = [at_step(5, fill), at_step(9, look), at_step(10, free)]
    with pytest.warns(CheckpointWarning) as warned:
        found = run(tmp_path, callbacks=steps)
    [words] = [str(w.message) for w in warned]
    assert "after step 8 no space left" in words
    assert "The last good checkpoint, of step 4, is kept" in words
    assert kept == [4]
    assert_same(whole, *found, tmp_path)


def test_metrics_that_do_not_fit_on_the_disk_are_written_later(
    whole, tmp_path, monkeypatch
):
    path_type = type(tmp_path)
    open_file, full = path_type.open, [False]

    def opened(self, mode="r", *arguments, **options):
        if full[0] and self.name == METRICS_NAME and mode == "a":
            raise OSError(28, "No space left on device")
        return open_file(self, mode, *arguments, **options)

    monkeypatch.setattr(path_type, "open", opened)
    steps = [
        at_step(2, lambda: full.append(full.pop() or True)),
        at_step(3, lambda: full.append(full.pop() and False)),
    ]
    with pytest.warns(CheckpointWarning, match="step 3 is missing"):
        _, history = run(tmp_path, callbacks=steps)
    rows = read_metrics(tmp_path / METRICS_NAME)
    assert [row["loss"] for row in rows if "loss" in row] == history.loss


def test_a_full_disk_takes_no_tokens_and_seconds_from_other_lines(
    tmp_path, monkeypatch
):
    add, rows = Metrics.add, []

    def noted(self, row):
        rows.append(row)
        add(self, row)

    monkeypatch.setattr(Metrics, "add", noted)
    run(tmp_path, settings=changed(steps=5, eval_every=0))
    path, kept = tmp_path / METRICS_NAME, [r for r in rows if "loss" in r]
    lines = [r for r in path.read_text().splitlines() if '"step": 3,' not in r]
    path.write_text("\n".join(lines) + "\n")
    saved = checkpoint.load(tmp_path / CHECKPOINT_NAME).state
    history = History.from_dict(saved["history"])
    Metrics(path, history)
    found = [row for row in read_metrics(path) if "loss" in row]
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5]
    assert [r for r in found if r["step"] != 3] == [
        r for r in kept if r["step"] != 3
    ]
    assert found[2]["tokens"] == kept[2]["tokens"]
    assert 0 <= found[2]["seconds"] <= history.seconds
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_cannot_be_written_to_is_said_before_the_first_step(
    tmp_path,
):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        run(tmp_path / "file" / "folder")


def poisoned(from_call, change):
    """A loss that ``change`` alters from one call on."""

    def loss(model, x, y):
        loss.calls += 1
        value = next_token_loss(model, x, y)
        return change(value) if loss.calls >= from_call else value

    loss.calls = 0
    return loss


def test_a_loss_that_is_nan_names_step_rate_and_batch_and_keeps_the_last(
    tmp_path,
):
    settings = changed(eval_every=2)
    bad = poisoned(5, lambda loss: loss * math.nan)
    with pytest.raises(DivergedError) as caught:
        train(
            make_model(),
            make_batches(),
            settings,
            run_dir=tmp_path,
            progress=False,
            loss_function=bad,
        )
    words = str(caught.value)
    starts = make_batches().starts(0)[16:20]
    assert "in step 5, at learning rate " in words
    assert "batches.at(4), windows from tokens " in words
    assert ", ".join(str(start) for start in starts) in words
    assert "The last good checkpoint, of step 4, is kept" in words
    state = checkpoint.load(tmp_path / CHECKPOINT_NAME).state
    assert len(state["history"]["loss"]) == 4


@pytest.mark.parametrize("step, left", [(8, 4), (12, 8)])
def test_weights_that_are_nan_are_never_saved(tmp_path, step, left):
    model = make_model()
    with pytest.raises(DivergedError) as caught:
        run(
            tmp_path,
            model,
            changed(eval_every=4),
            callbacks=[at_step(step, lambda: spoil(model, math.nan))],
        )
    words = str(caught.value)
    assert f"after step {step}, at learning rate " in words
    assert f"The batch was batches.at({step - 1})" in words
    assert f"of step {left}, is kept" in words
    saved = checkpoint.load(tmp_path / CHECKPOINT_NAME)
    assert len(saved.state["history"]["loss"]) == left
    assert all(tensor.isfinite().all() for tensor in saved.model.values())


def test_weights_that_are_nan_are_no_result_without_a_folder_either():
    model = make_model()
    last = at_step(SETTINGS.steps, lambda: spoil(model, math.inf))
    with pytest.raises(DivergedError, match="No checkpoint is kept"):
        run(None, model, callbacks=[last])


def test_a_loss_that_rises_stops_and_no_checkpoint_is_written_of_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(stopping, "BLOCK", 6)
    monkeypatch.setattr(stopping, "RECENT", 1)
    settings = changed(steps=24, eval_every=1)

    def start(folder, **values):
        return train(
            make_model(),
            make_batches(),
            changed(**{**settings.to_dict(), **values}),
            run_dir=folder,
            progress=False,
            loss_function=poisoned(8, lambda loss: 9 * loss),
        )

    with (
        pytest.warns(CheckpointWarning, match="rising"),
        pytest.raises(
            DivergedError, match=r"steps 7 to 12 .* batches\.at\(11"
        ),
    ):
        start(tmp_path)
    state = checkpoint.load(tmp_path / CHECKPOINT_NAME).state
    assert len(state["history"]["loss"]) == 7
    history = start(tmp_path / "on", stop_diverging=False)
    assert history.steps == 24


@pytest.mark.parametrize("validated", [True, False])
def test_a_run_that_diverges_from_the_start_is_stopped_too(
    tmp_path, validated
):
    settings = changed(
        steps=60, learning_rate=10.0, warmup_steps=2, checkpoint_every=1
    )
    model = make_model()
    options = {"validation": make_batches(seed=1)} if validated else {}
    with (
        pytest.warns(CheckpointWarning, match="rising"),
        pytest.raises(
            DivergedError, match=r"steps 1 to 50 .*restore\("
        ) as caught,
    ):
        train(
            model,
            make_batches(),
            settings,
            run_dir=tmp_path,
            progress=False,
            **options,
        )
    saved = checkpoint.load(tmp_path / CHECKPOINT_NAME)
    losses = saved.state["history"]["loss"]
    assert f"of step {len(losses)}, is kept" in str(caught.value)
    assert "checkpoint.restore(checkpoint.load(" in str(caught.value)
    checkpoint.restore(saved, make_model(seed=5))
    before = stopping.most_allowed(losses, losses[0])
    assert statistics.median(losses[-stopping.RECENT :]) <= before


def test_another_seed_by_the_variable_is_another_run(tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=[at_step(6, power_cut)])
    monkeypatch.setenv("LLMBOOK_SEED", "5")
    with pytest.raises(CheckpointError, match="had seed 0, LLMBOOK_SEED"):
        run(tmp_path, resume=True)


def test_another_number_format_is_said(tmp_path, monkeypatch):
    settings = changed(dtype="auto")
    monkeypatch.setenv("LLMBOOK_DTYPE", "float32")
    with pytest.raises(SystemExit):
        run(tmp_path, settings=settings, callbacks=[at_step(6, power_cut)])
    monkeypatch.setenv("LLMBOOK_DTYPE", "bfloat16")
    with pytest.warns(UserWarning, match="begun in torch.float32"):
        run(tmp_path, settings=settings, resume=True)


def test_another_library_of_products_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "repays", lambda *_: False)
    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=[at_step(6, power_cut)])
    monkeypatch.setattr(products, "repays", lambda *_: True)
    with pytest.warns(UserWarning, match="goes on with oneDNN's products"):
        run(tmp_path, resume=True)


def test_torchruns_restart_goes_on_with_its_own_job_alone(
    whole, tmp_path, monkeypatch
):
    monkeypatch.setenv(parallel.JOB, "ours")
    with pytest.raises(SystemExit):
        run(tmp_path, callbacks=[at_step(6, power_cut)])
    monkeypatch.setenv(parallel.RESTARTS, "1")
    monkeypatch.setenv(parallel.JOB, "another")
    with pytest.raises(CheckpointError, match="holds a run already"):
        run(tmp_path)
    monkeypatch.setenv(parallel.JOB, "ours")
    assert_same(whole, *run(tmp_path), tmp_path)


def test_a_checkpoint_that_only_some_processes_see_is_an_error(tmp_path):
    team = types.SimpleNamespace(most=lambda number: 1)
    lost = Run(make_model(), None, make_batches(), SETTINGS, team=team)
    with pytest.raises(CheckpointError, match="that all machines share"):
        lost.all_see(tmp_path / CHECKPOINT_NAME)


def test_an_optimizer_that_trains_less_is_refused_by_name(tmp_path):
    run(tmp_path, settings=changed(steps=4))
    saved = checkpoint.load(tmp_path / CHECKPOINT_NAME)
    model = make_model()
    model.token_embedding.weight.requires_grad_(False)
    fewer = make_optimizer(model, SETTINGS)
    with pytest.raises(
        CheckpointError, match=r"trains token_embedding\.weight"
    ):
        checkpoint.restore(saved, model, fewer)


def test_an_optimizer_that_trains_more_is_refused(tmp_path):
    model = make_model()
    model.token_embedding.weight.requires_grad_(False)
    run(tmp_path, model, changed(steps=4))
    saved = checkpoint.load(tmp_path / CHECKPOINT_NAME)
    more = make_model()
    with pytest.raises(CheckpointError, match="a number for each group"):
        checkpoint.restore(saved, more, make_optimizer(more, SETTINGS))


def test_a_history_of_a_newer_package_is_refused():
    values = {**History().to_dict(), "moods": []}
    with pytest.raises(CheckpointError, match=r"moods.*newer llmbook"):
        History.from_dict(values)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
def test_a_compiled_run_goes_on_to_the_same_bits(tmp_path):
    settings = changed(compile="on")
    through = run(tmp_path / "through", settings=settings)
    with pytest.raises(SystemExit):
        run(
            tmp_path / "cut",
            settings=settings,
            callbacks=[at_step(6, power_cut)],
        )
    model, history = run(tmp_path / "cut", settings=settings, resume=True)
    assert same_weights(through[0], model)
    assert history.loss == through[1].loss


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_and_the_run_goes_on_to_the_same_bits(
    number, whole, tmp_path
):
    before = signal.getsignal(number)
    ask = at_step(5, lambda: signal.raise_signal(number))
    with pytest.raises(Stopped, match=r"after step 5 of 12.*resume") as caught:
        run(tmp_path, callbacks=[ask])
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    state = checkpoint.load(tmp_path / CHECKPOINT_NAME).state
    assert len(state["history"]["loss"]) == 5
    assert_same(whole, *run(tmp_path, resume=True), tmp_path)


def test_a_signal_on_a_full_disk_promises_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_file", full)
    ask = at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with (
        pytest.warns(CheckpointWarning, match="no space left"),
        pytest.raises(Stopped, match="There is no checkpoint") as caught,
    ):
        run(tmp_path, callbacks=[ask])
    assert "resume" not in str(caught.value)


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, callbacks=[at_step(5, twice)])
    assert not isinstance(caught.value, Stopped)
    state = checkpoint.load(tmp_path / CHECKPOINT_NAME).state
    assert len(state["history"]["loss"]) == 4


def test_without_a_folder_ctrl_c_is_python_s_own():
    ask = at_step(5, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        run(None, callbacks=[ask])
    assert not isinstance(caught.value, Stopped)


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path):
    part = tmp_path / f"{CHECKPOINT_NAME}.4711.part"
    part.write_bytes(b"half")
    (tmp_path / f"{METRICS_NAME}.4711.part").write_bytes(b"half")
    run(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    before = checkpoint.previous_of(tmp_path / CHECKPOINT_NAME).name
    assert names == {CHECKPOINT_NAME, before, METRICS_NAME}


def test_tensorboard_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        tensorboard_callback(tmp_path)


def test_tensorboard_gets_every_number_and_drops_those_after_a_kill(tmp_path):
    with pytest.raises(SystemExit):
        run(
            tmp_path,
            callbacks=[tensorboard_callback(tmp_path), at_step(6, power_cut)],
        )
    _, history = run(
        tmp_path, resume=True, callbacks=[tensorboard_callback(tmp_path)]
    )
    gc.collect()  # what a notebook's or a script's end would close
    curves = EventAccumulator(str(tmp_path)).Reload()
    steps = list(range(1, 13))
    for name, numbers in (
        ("loss", history.loss),
        ("learning rate", history.learning_rate),
        ("gradient norm", history.gradient_norm),
    ):
        read = curves.Scalars(name)
        assert [point.step for point in read] == steps
        assert [point.value for point in read] == pytest.approx(numbers)
    read = curves.Scalars("validation loss")
    assert [p.step for p in read] == [s for s, _ in history.evaluations]
    assert [p.value for p in read] == pytest.approx(
        [loss for _, loss in history.evaluations]
    )
