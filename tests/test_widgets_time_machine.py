"""TimeMachine against the models themselves, run by other code."""

import base64
import io

import ipywidgets
import numpy as np
import pypdf
import pytest
import torch
import traitlets
from torch.nn import functional as F

from llmbook import plots
from llmbook.widgets import TimeMachine
from llmbook.widgets._base import LIVE_VARIABLE, WIDGET_MIME, escaped_json
from llmbook.widgets.time_machine import drawn_curve, places, readable
from llmbook.widgets.time_picture import shown_moments
from tests.browser import moments, trained

LIMIT = 400_000  # bytes of a page
MAPS = np.full((2, 1, 1, 2, 2), [[1.0, 0.0], [0.5, 0.5]])
GIVEN = {
    "steps": [0, 4],
    "tokens": ["a", " b"],
    "weights": MAPS,
    "losses": [[0.7], [0.2]],
    "samples": ["x", "a b"],
    "curve": [0.7, 0.5, 0.3, 0.2],
}


@pytest.fixture(scope="module")
def machine():
    return moments.machine()


def read_ids():
    _, tokenizer = trained.trained()
    return [tokenizer.end_of_text, *tokenizer.encode(trained.SENTENCE)]


def test_losses_are_torch_s_cross_entropies_of_each_moment(machine):
    ids = torch.tensor([read_ids()])
    for m, moment in enumerate(moments.recorded()):
        with torch.no_grad():
            logits = moment.model()(ids)[0][0, :-1]
        want = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        assert machine.losses[m] == pytest.approx(want.numpy(), abs=1e-5)


def test_weights_are_the_models_to_half_of_a_255th(machine):
    ids = torch.tensor([read_ids()])
    for m, moment in enumerate(moments.recorded()):
        with torch.no_grad():
            want = moment.model().attention_weights(ids)[:, 0].numpy()
        assert np.abs(machine.weights[m] - want).max() <= 0.5 / 255 + 1e-6


def test_what_is_read_before_is_one_column_of_all_its_weights():
    _, tokenizer = trained.trained()
    before = "Tam hid the map, but Edd found it.\n"
    machine = moments.machine(before=before)
    ids = tokenizer.encode(before + trained.SENTENCE)
    T = len(tokenizer.encode(trained.SENTENCE)) + 1
    n = len(ids) + 2 - T  # the start token is one of them
    assert machine.tokens[0] == f"…{n}"
    assert len(machine.tokens) == T
    idx = torch.tensor([[tokenizer.end_of_text, *ids]])
    model = moments.recorded()[-1].model()
    with torch.no_grad():
        full = model.attention_weights(idx)[:, 0].numpy()
        logits = model(idx)[0][0]
    got = machine.weights[-1]
    assert got[..., 1:, 0] == pytest.approx(
        full[..., n:, :n].sum(-1), abs=3e-3
    )
    assert got[..., 1:, 1:] == pytest.approx(full[..., n:, n:], abs=3e-3)
    want = F.cross_entropy(logits[n - 1 : -1], idx[0, n:], reduction="none")
    assert machine.losses[-1] == pytest.approx(want.numpy(), abs=1e-5)


def test_a_beginning_that_ends_within_a_token_is_refused():
    with pytest.raises(ValueError, match="other tokens than it does alone"):
        moments.machine(before="Tam hid the map, but ")


def test_what_the_page_holds_is_what_python_has(machine):
    L, H, T = machine.weights.shape[1:4]
    raw = np.frombuffer(base64.b64decode(machine.data["weights"]), np.uint8)
    stored = machine.weights[..., np.tri(T, dtype=bool)]
    assert raw.reshape(stored.shape) / 255 == pytest.approx(stored, abs=1e-6)
    assert (machine.data["n_layer"], machine.data["n_head"]) == (L, H)
    assert np.allclose(machine.data["losses"], machine.losses, atol=1e-4)


def test_the_chosen_moment_decides_sample_loss_and_map():
    machine = moments.machine(step=25, layer=1, head=2, query=4, key=2)
    assert (machine.moment, machine.step) == (3, 25)
    assert machine.sample == moments.recorded()[3].sample
    assert machine.loss == pytest.approx(5.7 / (1 + 25 / 20), abs=0.05)
    assert np.array_equal(machine.map, machine.weights[3, 1, 2])
    machine.step = 0
    assert machine.loss == pytest.approx(5.7)
    assert machine.sample.startswith("sample 0")


def test_the_time_axis_puts_each_moment_at_its_number():
    assert places([0, 10, 20, 40], [0, 10, 20, 40]).tolist() == [0, 1, 2, 3]
    between = places(range(41), [0, 10, 20, 40])
    assert (np.diff(between) > 0).all()


def test_the_drawn_curve_is_short_and_keeps_the_mean():
    steps, loss = [0, 10_000], np.random.default_rng(0).random(10_000)
    curve = drawn_curve(loss.tolist(), steps)
    assert len(curve) <= 242
    assert curve[0] == (0.0, round(float(loss[0]), 4))
    assert curve[-1][1] == pytest.approx(0.5, abs=0.1)  # a mean of many


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": [0, 0]}, "that grow"),
        ({"steps": [-1, 3]}, "that grow"),
        ({"steps": [5, 7], "curve": [1.0]}, "first moment is step 5"),
        ({"samples": ["x"]}, "1 samples for 2 moments"),
        ({"losses": [[0.1, 0.2]] * 2}, r"losses have shape \(2, 2\)"),
        ({"losses": [[float("nan")], [0.1]]}, "NaN"),
        ({"losses": [[-0.5], [0.1]]}, "negative"),
        ({"curve": [0.7, float("inf")]}, "the curve's losses hold NaN"),
        ({"weights": MAPS[:1]}, "there are 2 moments"),
        ({"weights": MAPS * 0.5}, "rows sum to"),
        ({"weights": MAPS[..., ::-1]}, "mask is closed"),
        ({"tokens": ["a"] * 30}, "got 30 tokens"),
        ({"step": 3}, "kept only 0, 4"),
        ({"head": 1}, "head is 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(wrong, message):
    with pytest.raises(ValueError, match=message):
        TimeMachine(**{**GIVEN, **wrong})


def test_a_step_that_was_not_kept_is_refused_and_nothing_changes(machine):
    with pytest.raises(ValueError, match="kept only 0, 1, 5, 25, 150"):
        machine.step = 26
    with pytest.raises(traitlets.TraitError):
        machine.step = "25"
    assert machine.step == 150


def test_a_sample_is_shown_with_what_is_hidden_in_it():
    assert readable("a b\n\nc\td") == "a b\n\nc⇥d"
    assert readable("\u202eabc") == "⟨U+202E⟩abc"


def test_print_shows_the_first_the_last_and_the_chosen_moment():
    for chosen in range(10):
        shown = shown_moments(10, chosen)
        assert len(shown) == 4
        assert {0, chosen, 9} <= set(shown)
    assert shown_moments(2, 1) == [0, 1]
    assert shown_moments(3, 1) == [0, 1, 2]


def test_page_and_print_hold_the_run():
    machine = moments.machine(step=5, caption="A run.")
    bundle = machine._repr_mimebundle_()
    assert machine.comm is None and WIDGET_MIME not in bundle
    assert bundle["text/plain"] == machine.alt
    assert bundle["image/png"]
    assert len(bundle["text/html"]) < LIMIT
    pdf = base64.b64decode(bundle["application/pdf"])
    (page,) = pypdf.PdfReader(io.BytesIO(pdf)).pages
    text = page.extract_text()
    for word in ("150", "sample 0:", "sample 4:", "entropy", "␣kite"):
        assert word in text
    for loss in machine.losses[2]:
        assert f"{loss:.1f}" in text
    assert page.mediabox.width <= 72 * plots.WIDTH + 1
    assert page.mediabox.height <= 72 * 7.5


def test_the_running_model_s_size_fits_a_page():
    M, L, H, T = 10, 6, 6, 16
    weights = np.broadcast_to(np.tri(T) / np.arange(1, T + 1)[:, None], (T, T))
    machine = TimeMachine(
        [0, *(2**m for m in range(M - 1))],
        [f" t{i}" for i in range(T)],
        np.broadcast_to(weights, (M, L, H, T, T)),
        np.ones((M, T - 1)),
        ["word " * 120] * M,
        np.linspace(7, 1, 2_000).tolist(),
    )
    size = len(escaped_json(machine.data)) + len(machine._script("page"))
    assert size < LIMIT


def test_a_live_machine_is_a_widget_that_links(monkeypatch):
    monkeypatch.setenv(LIVE_VARIABLE, "1")
    machine = moments.machine()
    box = ipywidgets.Dropdown(options=machine.steps)
    ipywidgets.link((machine, "step"), (box, "value"))
    box.value = 5
    assert machine.sample.startswith("sample 2")
    machine.set_state({"step": 25})  # as a message from the page does
    assert box.value == 25
    machine.close()
