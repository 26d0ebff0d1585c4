"""The book's own Sphinx extension, piece by piece."""

from __future__ import annotations

import doctest
import importlib
import sys

import pytest
import yaml

from tools.common import BOOK, NODE_MODULES, ROOT

MODULES = ("contents", "figures", "numbers", "pages", "places", "printed")


@pytest.fixture(scope="module", autouse=True)
def extension():
    sys.path.insert(0, str(BOOK / "_ext"))
    yield
    sys.path.remove(str(BOOK / "_ext"))


def module(name):
    return importlib.import_module(f"llmbook_site.{name}")


@pytest.mark.parametrize("name", [*MODULES, "solutions"])
def test_the_examples_in_its_docstrings_hold(name):
    assert doctest.testmod(module(name)).failed == 0


def test_a_section_takes_its_chapter_s_number_from_the_file():
    renumbered = module("numbers").renumbered
    assert renumbered((1, 3), 5) == (5, 3)
    assert renumbered((2,), None) is None


def test_every_part_of_the_contents_is_known_to_the_map_of_stages():
    captioned = [p for p in module("contents").parts(ROOT) if p.number]
    assert captioned
    assert all(part.stages for part in captioned)


def test_the_parts_list_every_page_of_the_contents():
    tree = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [c["file"] for p in tree["parts"] for c in p["chapters"]]
    parts = module("contents").parts(ROOT)
    assert [page for part in parts for page in part.pages] == files


def test_a_page_keeps_no_script_that_asks_the_network():
    wanted = module("pages").wanted
    assert not wanted("https://cdn.example/require.js", widgets=True)
    assert not wanted("_static/sphinx-thebe.js", widgets=False)
    assert wanted("_static/doctools.js", widgets=False)
    heavy = "_static/vendor/widgets/embed-amd.js"
    assert wanted(heavy, widgets=True) and not wanted(heavy, widgets=False)


def test_an_empty_head_is_a_cell_and_a_formula_s_has_letters():
    accessible = module("pages").accessible
    assert accessible('<th class="head"></th>') == '<td class="head"></td>'
    formula = r'<p><span class="math notranslate">\(V\)</span></p>'
    mended = accessible(f'<th class="head text-right">{formula}</th>')
    assert '<span class="visually-hidden">V</span>' in mended


def test_what_tex_cannot_print_is_found():
    pattern = module("printed").UNPRINTABLE
    assert pattern.findall("a\x0b\n\tb\ufffdü🙂") == ["\x0b", "\ufffd"]


def test_the_vendored_parts_are_what_npm_installs():
    if not NODE_MODULES.is_dir():
        pytest.skip("npm's parts are not installed")
    for source in module("pages").SCRIPTS.values():
        assert (NODE_MODULES / source).is_file(), source
