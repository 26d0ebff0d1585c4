"""RotaryDial against complex numbers and transformers' rotary embedding."""

import base64
import io
import math

import ipywidgets
import numpy as np
import pypdf
import pytest
import torch
import traitlets
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llmbook import plots
from llmbook.config import RopeScaling
from llmbook.positions import rotary_speeds
from llmbook.widgets import RotaryDial
from llmbook.widgets._base import LIVE_VARIABLE, MAX_BYTES, WIDGET_MIME

QUERY, KEY = [1.0, 0.2, 0.3, 0.9], [0.8, -0.5, 0.6, 0.7]


def dial(**values):
    return RotaryDial(QUERY, KEY, theta=100.0, **values)


def by_complex_numbers(query, key, theta, m, n):
    """What each pair adds: Re(q e^(im s) * conj(k e^(in s)))."""
    half = len(query) // 2
    q, k = (np.array(x[:half]) + 1j * np.array(x[half:]) for x in (query, key))
    speeds = theta ** (-np.arange(half) / half)
    turned = q * np.exp(1j * m * speeds), k * np.exp(1j * n * speeds)
    return (turned[0] * turned[1].conj()).real


@pytest.mark.parametrize(("m", "n"), [(0, 0), (8, 3), (3, 8), (31, 1)])
def test_each_pair_adds_what_complex_numbers_say(m, n):
    figure = dial(query_position=m, key_position=n)
    want = by_complex_numbers(QUERY, KEY, 100.0, m, n)
    assert figure.products.tolist() == pytest.approx(want, abs=1e-6)
    assert figure.product == pytest.approx(want.sum(), abs=1e-6)
    assert figure.distance == m - n


def test_the_product_is_that_of_transformers():
    m, n = 11, 4
    angles = torch.tensor([[m], [n]]) * rotary_speeds(4, 100.0)
    angles = torch.cat([angles, angles], dim=-1)[None]  # (1, 2, D)
    rows = torch.tensor([QUERY, KEY])[None, None]  # (1, 1, 2, D)
    turned, _ = apply_rotary_pos_emb(rows, rows, angles.cos(), angles.sin())
    want = (turned[0, 0, 0] @ turned[0, 0, 1]).item()
    figure = dial(query_position=m, key_position=n)
    assert figure.product == pytest.approx(want, abs=1e-5)


def test_the_product_stays_while_both_move_and_moves_with_the_distance():
    figure = dial(positions=200, query_position=5, key_position=0)
    before = figure.product
    for start in (1, 17, 194):
        figure.query_position, figure.key_position = start + 5, start
        assert figure.product == pytest.approx(before, abs=1e-9)
    figure.key_position += 1
    assert abs(figure.product - before) > 0.01


def test_a_quarter_turn_by_hand():
    figure = RotaryDial([3, 0], [0, 2], query_position=1, key_position=0)
    assert figure.turned(figure.query, 1).tolist() == pytest.approx(
        [3 * math.cos(1), 3 * math.sin(1)]
    )
    assert figure.product == pytest.approx(6 * math.sin(1))


def test_llama_3_s_scaling_slows_the_slow_pair_alone():
    scaling = RopeScaling(8.0, 1.0, 4.0, original_context_length=32)
    figure = dial(scaling=scaling)
    assert figure.speeds.tolist() == pytest.approx([1.0, 0.1 / 8])


@pytest.mark.parametrize(
    ("query", "key", "message"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "even number"),
        ([1.0, 2.0], [1.0, 2.0, 3.0, 4.0], "even number"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "even number"),
        ([], [], "1 to 4"),
        ([1.0] * 10, [1.0] * 10, "1 to 4"),
        ([math.nan, 1.0], [1.0, 1.0], "NaN"),
        ([0.0, 0.0], [0.0, 0.0], "zero"),
    ],
)
def test_what_cannot_be_turned_is_refused(query, key, message):
    with pytest.raises(ValueError, match=message):
        RotaryDial(query, key)


def test_positions_out_of_range_are_refused():
    with pytest.raises(ValueError, match="positions is 1"):
        dial(positions=1)
    with pytest.raises(ValueError, match=r"positions is 8\.5"):
        dial(positions=8.5)
    for theta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="theta is"):
            RotaryDial(QUERY, KEY, theta=theta)
    with pytest.raises(ValueError, match=r"key_position is 32; .* 0 to 31"):
        dial(key_position=32)
    figure = dial()
    with pytest.raises(ValueError, match="query_position is -1"):
        figure.query_position = -1
    with pytest.raises(traitlets.TraitError):
        figure.query_position = 1.5
    assert figure.query_position == 0


@pytest.mark.parametrize("pairs", [1, 2, 3, 4])
def test_page_and_print_hold_the_numbers(pairs):
    values = torch.arange(1.0, 2 * pairs + 1)
    figure = RotaryDial(values, values.flip(0), query_position=9)
    bundle = figure._repr_mimebundle_()
    assert figure.comm is None and WIDGET_MIME not in bundle
    assert bundle["text/plain"] == figure.alt
    assert len(bundle["text/html"]) < MAX_BYTES
    pdf = base64.b64decode(bundle["application/pdf"])
    (page,) = pypdf.PdfReader(io.BytesIO(pdf)).pages
    text = page.extract_text().replace("−", "-")
    assert f"product {figure.product:.3f}" in text
    for name, product in zip(figure.names, figure.products, strict=True):
        assert f"{name}: {product:.3f}" in text
    assert page.mediabox.width <= 72 * plots.WIDTH + 1


def test_a_live_dial_is_a_widget_that_links(monkeypatch):
    monkeypatch.setenv(LIVE_VARIABLE, "1")
    figure = dial()
    box = ipywidgets.IntSlider(max=31)
    ipywidgets.link((figure, "key_position"), (box, "value"))
    box.value = 7
    assert figure.key_position == 7
    figure.set_state({"query_position": 9})  # as a message from the page does
    assert figure.distance == 2
    figure.close()
