"""Executing chapters: what runs again, and how a failure is told."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import execute, reach


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for the chapter and one for its executed copy."""
    monkeypatch.setattr(execute, "EXECUTED", tmp_path / "executed")
    return tmp_path


def chapter(place, *sources):
    cells = [new_markdown_cell("# Title", id="title")]
    cells += [new_code_cell(s, id=f"c{n}") for n, s in enumerate(sources)]
    path = place / "05-title.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def key(path):
    return execute.key_of(path, nbformat.read(path, as_version=4))


@pytest.fixture
def two_modules(place, monkeypatch):
    """Stand-ins for sources: one that the cells reach, one that not."""
    reached_file = place / "near.py"
    other_file = place / "far.py"
    for file in (reached_file, other_file):
        file.write_text("x = 1\n")
    monkeypatch.setattr(execute, "ROOT", place)
    monkeypatch.setattr(reach, "reached", lambda cells, number: {"near"})
    files = {"near": reached_file, "far": other_file}
    monkeypatch.setattr(
        reach, "module_files", lambda names: [files[n] for n in names]
    )
    return reached_file, other_file


def test_the_key_follows_a_reached_module_and_no_other(place, two_modules):
    near, far = two_modules
    path = chapter(place, "import near")
    before = key(path)
    far.write_text("x = 2\n")
    assert key(path) == before
    near.write_text("x = 2\n")
    assert key(path) != before


def test_the_key_follows_cells_and_tags(place, two_modules):
    path = chapter(place, "1 + 1")
    before = key(path)
    assert key(chapter(place, "1 + 2")) != before
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "1 + 1"
    assert execute.key_of(path, notebook) == before
    notebook.cells[1].metadata["tags"] = ["hide-input"]
    assert execute.key_of(path, notebook) != before


def test_the_key_follows_a_variable_that_a_reached_source_names(
    place, two_modules, monkeypatch
):
    near, _ = two_modules
    path = chapter(place, "1")
    monkeypatch.setenv("LLMBOOK_BUDGET", "smoke")
    before = key(path)
    monkeypatch.setenv("LLMBOOK_BUDGET", "quick")
    assert key(path) == before
    near.write_text("'LLMBOOK_BUDGET'\n")
    quick = key(path)
    monkeypatch.setenv("LLMBOOK_BUDGET", "smoke")
    assert key(path) != quick


def test_the_key_follows_the_data_behind_a_variable(
    place, two_modules, monkeypatch
):
    near, _ = two_modules
    near.write_text("'LLMBOOK_DATA'\n")
    path = chapter(place, "1")
    data = place / "data"
    data.mkdir()
    monkeypatch.setenv("LLMBOOK_DATA", str(data))
    before = key(path)
    (data / "emma.txt").write_text("Emma Woodhouse")
    assert key(path) != before


def test_a_chapter_runs_once_and_its_measures_are_kept(place, capsys):
    path = chapter(place, "print(6 * 7)", "import os; os.getcwd()")
    record = {}
    assert execute.process(path, again=False, record=record)
    copy = nbformat.read(place / "executed" / path.name, as_version=4)
    assert copy.cells[1].outputs[0].text == "42\n"
    folder = copy.cells[2].outputs[0].data["text/plain"]
    assert folder == repr(str(place))
    measures = record["05-title"]
    assert measures["seconds"] > 0
    assert 10 < measures["memory_mb"] < 2000
    assert not execute.process(path, again=False, record=record)
    assert "unchanged" in capsys.readouterr().out
    committed = nbformat.read(path, as_version=4)
    assert all(not c.get("outputs") for c in committed.cells)


def test_a_failing_cell_is_told_by_its_source_and_traceback(place):
    path = chapter(place, "x = 1", "y = 0\nprint(x / y)", "print('later')")
    with pytest.raises(execute.CellFailed) as caught:
        execute.process(path, again=False, record={})
    message = str(caught.value)
    assert message.startswith("05-title.ipynb, cell c1 failed:")
    assert "    y = 0\n    print(x / y)" in message
    assert message.rstrip().endswith("ZeroDivisionError: division by zero")
    assert not (place / "executed" / path.name).exists()


def test_a_dead_kernel_is_told_by_the_cell_that_ended_it(place):
    path = chapter(place, "x = 1", "import os\nos._exit(1)")
    with pytest.raises(execute.CellFailed, match="ended its kernel"):
        execute.process(path, again=False, record={})


def test_the_command_ends_with_the_failure_and_a_status(
    place, monkeypatch, capsys
):
    path = chapter(place, "raise ValueError('the mend')")
    monkeypatch.setattr(execute, "chapters", lambda numbers=(): [path])
    monkeypatch.setattr(execute, "RECORD", place / "chapters.json")
    assert execute.main([]) == 1
    assert capsys.readouterr().err.rstrip().endswith("ValueError: the mend")
