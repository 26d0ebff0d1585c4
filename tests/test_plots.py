"""The book's figures: one palette, both themes, no clash on a page."""

import base64
import itertools
import re
import xml.etree.ElementTree as ElementTree

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from llmbook import plots

ALT = "A square falls."


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plots.use()
        yield
    plt.close("all")


def drawn(name="fig-test", caption="Falling."):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [1, 0], color=plots.QUERY)
    ax.set_title("loss & <gain>")
    return plots.figure(fig, alt=ALT, caption=caption, name=name)


def luminance(color):
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(
        rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_text_colour_reads_on_paper_in_both_themes():
    for theme in (0, 1):
        paper = plots.PALETTE["paper"][theme]
        for name, colors in plots.PALETTE.items():
            if name not in ("paper", "faint"):
                assert contrast(colors[theme], paper) >= 4.5, (name, theme)


def simulate_deuteranopia(color):
    # Vienot, Brettel and Mollon 1999, in linear RGB.
    rgb = np.array(matplotlib.colors.to_rgb(color)) ** 2.2
    matrix = [
        [0.29275, 0.70725, 0],
        [0.29275, 0.70725, 0],
        [-0.02234, 0.02234, 1],
    ]
    return np.clip(np.array(matrix) @ rgb, 0, 1) ** (1 / 2.2)


def test_queries_keys_and_values_differ_for_a_colour_blind_reader():
    for theme in (0, 1):
        colors = [plots.PALETTE[n][theme] for n in ("query", "key", "value")]
        seen = [simulate_deuteranopia(c) for c in colors]
        for one, other in itertools.combinations(seen, 2):
            assert np.abs(one - other).max() > 0.15


@pytest.mark.parametrize("dark", [False, True])
def test_the_sequential_scale_survives_greyscale(dark):
    scale = plots.SEQUENTIAL_DARK if dark else plots.SEQUENTIAL_LIGHT
    steps = np.diff([luminance(c) for c in scale])
    assert (steps > 0).all() if dark else (steps < 0).all()
    assert len(set(scale)) == plots.LEVELS


def test_a_cell_s_number_reads_on_its_colour_in_both_themes():
    scales = (plots.SEQUENTIAL_LIGHT, plots.SEQUENTIAL_DARK)
    for theme, scale in enumerate(scales):
        for i, color in enumerate(scale):
            text = plots.cell_text_color(i / plots.LEVELS)
            name = "paper" if text == plots.PAPER else "ink"
            assert contrast(plots.PALETTE[name][theme], color) >= 3.8, (
                i,
                theme,
            )


def test_no_two_colours_share_a_value_so_each_has_one_variable():
    light = [c for c, _ in plots.PALETTE.values()] + plots.SEQUENTIAL_LIGHT
    assert len(set(light)) == len(light)


def test_the_svg_is_well_formed_and_says_what_it_shows():
    svg = drawn().html
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == ALT
    assert "<!--" not in svg and "<?xml" not in svg


def test_every_colour_of_the_svg_follows_the_theme():
    svg = drawn().html
    bare = re.sub(r"var\(--llm-[a-z0-9-]+, #[0-9a-f]{6}\)", "", svg)
    assert not re.findall(r"(?:fill|stroke|color): *#", bare)
    assert f"var(--llm-query, {plots.QUERY})" in svg


def test_a_heat_map_is_made_of_themed_vector_cells():
    fig, ax = plt.subplots()
    weights = np.tril(np.ones((4, 4))) / 4
    plots.heatmap(ax, weights, list("abcd"), list("abcd"), mask=weights > 0)
    svg = plots.figure(fig, alt=ALT, caption="", name="fig-heat").html
    assert "<image" not in svg
    assert "var(--llm-seq-" in svg
    assert "<pattern" in svg  # the hatching of the masked cells


def test_ids_never_clash_between_two_figures_of_a_page():
    page = drawn("fig-one").html + drawn("fig-two").html
    ids = re.findall(r' id="([^"]*)"', page)
    assert ids and len(set(ids)) == len(ids)
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert set(targets) == set(ids)


def test_the_same_drawing_gives_the_same_bytes():
    one, two = drawn(), drawn()
    assert one.html == two.html
    assert one.pdf == two.pdf


def test_the_bundle_holds_page_print_and_picture():
    bundle = drawn(caption="The $q$ of *it*.")._repr_mimebundle_()
    assert base64.b64decode(bundle["application/pdf"]).startswith(b"%PDF")
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == ALT
    own = bundle[plots.FIGURE_MIME]
    assert own["caption"] == "The $q$ of *it*."
    assert own["html"] in bundle["text/html"]
    assert "The $q$ of <em>it</em>." in bundle["text/html"]
    assert "—" not in bundle["text/html"]


def test_print_embeds_vectors_and_no_bitmap():
    assert b"/Subtype /Image" not in drawn().pdf


@pytest.mark.parametrize("name", ["", "Fig 1", "5-fig", "fig_a"])
def test_a_label_that_sphinx_would_mangle_is_refused(name):
    with pytest.raises(ValueError, match="label"):
        plots.Figure("<b></b>", alt=ALT, name=name)


def test_a_figure_without_words_is_refused():
    with pytest.raises(ValueError, match="alt"):
        plots.Figure("<b></b>", alt=" ", name="fig-a")


def test_a_caption_s_markup_is_escaped_and_its_mathematics_kept():
    text = plots.caption_html("`<b>` in $a_*b*<c$ & *more*")
    assert text == "<code>&lt;b&gt;</code> in $a_*b*&lt;c$ &amp; <em>more</em>"


def test_a_table_speaks_markdown_html_and_latex():
    table = plots.table([["a_b|c", 1.25, 1200]], ["name", "x", "n"])
    bundle = table._repr_mimebundle_()
    assert r"| a_b\|c | 1.25 | 1,200 |" in bundle["text/markdown"]
    assert "<td" in bundle["text/html"] and "1,200" in bundle["text/html"]
    assert r"a\_b|c & 1.25 & 1,200 \\" in bundle["text/latex"]
    ElementTree.fromstring(bundle["text/html"])


def test_a_table_with_a_short_row_says_which():
    with pytest.raises(ValueError, match="needs 2 cells"):
        plots.table([["a", 1], ["b"]], ["x", "y"])


@pytest.mark.parametrize("lit", ["attention", 3, ["text", "tokens"], ()])
def test_the_map_draws_any_part_or_stage(lit):
    fig = plots.book_map(lit)
    words = " ".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))
    for part in itertools.chain(*plots.MAP):
        assert part in words


def test_the_map_refuses_a_part_it_does_not_have():
    with pytest.raises(ValueError, match="embeddings"):
        plots.book_map("atention")
    with pytest.raises(ValueError, match="1 to 5"):
        plots.book_map(6)


def test_labels_that_do_not_match_the_matrix_are_refused():
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="2 labels"):
        plots.heatmap(ax, np.eye(3), rows=["a", "b"])


def test_direct_labels_keep_apart():
    _, ax = plt.subplots()
    for i in range(3):
        ax.plot([0, 1], [0, i / 1000], label=f"line {i}")
    ax.set_ylim(0, 1)
    plots.label_lines(ax, min_space=10)
    offsets = sorted(t.xyann[1] for t in ax.texts)
    assert min(np.diff(offsets)) >= 9


def test_both_themes_define_the_same_variables():
    names = [
        re.findall(r"--llm-[a-z0-9-]+", plots.css_variables(theme))
        for theme in ("light", "dark")
    ]
    assert names[0] == names[1]


def test_spaces_in_tokens_are_visible():
    assert plots.token_text(" a\n$") == r"␣a↵\$"
