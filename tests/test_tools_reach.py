"""Which sources a chapter's outputs depend on."""

from __future__ import annotations

import sys

import grimp
import pytest

from tools import reach


@pytest.fixture
def graph(tmp_path, monkeypatch):
    """A package with two chains: model uses layers; plots stands alone."""
    folder = tmp_path / "code" / "toybook"
    (folder / "exercises").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "layers.py").write_text("")
    (folder / "model.py").write_text("from toybook import layers\n")
    (folder / "plots.py").write_text("")
    (folder / "exercises" / "__init__.py").write_text("")
    (folder / "exercises" / "ch05.py").write_text("import toybook.model\n")
    (folder / "exercises" / "ch06.py").write_text("import toybook.plots\n")
    (folder / "exercises" / "words.txt").write_text("data")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setattr(reach, "PACKAGE", "toybook")
    yield grimp.build_graph("toybook", cache_dir=None)
    for name in [name for name in sys.modules if name.startswith("toybook")]:
        del sys.modules[name]


def test_imports_are_followed_through_other_modules(graph):
    found = reach.reached(["from toybook.model import GPT"], "05", graph)
    assert found == {"toybook", "toybook.model", "toybook.layers"}


def test_a_module_imported_from_the_package_is_seen(graph):
    found = reach.reached(["from toybook import plots, x"], "05", graph)
    assert found == {"toybook", "toybook.plots"}


def test_an_import_in_a_function_counts_too(graph):
    cell = "def f():\n    import toybook.plots"
    assert "toybook.plots" in reach.reached([cell], "05", graph)


def test_only_the_chapter_s_own_exercises_are_reached(graph):
    found = reach.reached(["from toybook import exercises"], "05", graph)
    assert "toybook.exercises.ch05" in found
    assert "toybook.layers" in found  # through ch05 and the model
    assert not found & {"toybook.exercises.ch06", "toybook.plots"}


def test_lines_for_the_shell_are_no_obstacle(graph):
    cell = "try:\n    import toybook\nexcept ImportError:\n    !pip install x"
    assert reach.reached([cell], "05", graph) == {"toybook"}


def test_data_beside_a_reached_package_counts_and_no_other(graph, tmp_path):
    code = tmp_path / "code"
    with_data = reach.module_files({"toybook", "toybook.exercises"}, code)
    assert code / "toybook" / "exercises" / "words.txt" in with_data
    without = reach.module_files({"toybook", "toybook.model"}, code)
    assert {path.name for path in without} == {"__init__.py", "model.py"}


def test_variables_are_those_that_the_sources_name(monkeypatch):
    monkeypatch.setenv("LLMBOOK_SEED", "3")
    monkeypatch.delenv("LLMBOOK_DATA", raising=False)
    texts = ["os.environ['LLMBOOK_DATA']", "SEED = 'LLMBOOK_SEED'"]
    expected = {"LLMBOOK_DATA": None, "LLMBOOK_SEED": "3"}
    assert reach.variables(texts) == expected
