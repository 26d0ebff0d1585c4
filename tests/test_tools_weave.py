"""Weaving: what is in step passes, and every way out of step is told."""

from __future__ import annotations

import json

import pytest

from tools import weave

MODULE = '''\
"""A module."""

import functools

LIMIT = 3


@functools.cache
def double(x: int) -> int:
    """Twice ``x``."""
    return 2 * x


class Counter:
    """Counts."""

    @property
    def value(self) -> int:
        """What was counted.

        It is long enough a name to be wrapped at four columns less.
        """
        return (
            self.one_long_name_for_a_number + self.another_long_name_for_it
        )
'''
DOUBLE = '''\
@functools.cache
def double(x: int) -> int:
    """Twice ``x``."""
    return 2 * x'''


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "code" / "llmbook"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "sums.py").write_text(MODULE)
    return tmp_path / "code"


def notebook(path, *sources):
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{n}",
            "metadata": {},
            "outputs": [],
            "source": source.splitlines(keepends=True),
        }
        for n, source in enumerate(sources)
    ]
    value = {"cells": cells, "metadata": {}, "nbformat": 4}
    path.write_text(json.dumps(value | {"nbformat_minor": 5}))
    return path


def sources(path):
    return [
        "".join(c["source"]) for c in json.loads(path.read_text())["cells"]
    ]


def test_a_cell_receives_the_object_s_source_with_its_decorators(
    tmp_path, code
):
    path = notebook(tmp_path / "a.ipynb", "# from llmbook.sums: double\nx")
    assert len(weave.weave([path], code, check=False)) == 1
    assert sources(path) == [f"# from llmbook.sums: double\n{DOUBLE}"]
    assert weave.weave([path], code, check=True) == []


def test_a_constant_can_be_woven(tmp_path, code):
    path = notebook(tmp_path / "a.ipynb", "# from llmbook.sums: LIMIT")
    weave.weave([path], code, check=False)
    assert sources(path) == ["# from llmbook.sums: LIMIT\nLIMIT = 3"]


def test_a_method_loses_its_indentation_and_is_laid_out_anew(tmp_path, code):
    header = "# from llmbook.sums: Counter.value"
    path = notebook(tmp_path / "a.ipynb", header)
    weave.weave([path], code, check=False)
    lines = sources(path)[0].splitlines()
    assert lines[:3] == [header, "@property", "def value(self) -> int:"]
    assert lines[-1] == (
        "    return self.one_long_name_for_a_number"
        " + self.another_long_name_for_it"
    )


def test_a_cell_that_drifted_is_reported_and_check_changes_nothing(
    tmp_path, code
):
    drifted = DOUBLE.replace("2 *", "3 *")
    text = f"# from llmbook.sums: double\n{drifted}"
    path = notebook(tmp_path / "a.ipynb", text)
    before = path.read_bytes()
    (message,) = weave.weave([path], code, check=True)
    assert "a.ipynb, cell cell-0: differs from llmbook.sums: double" in message
    assert path.read_bytes() == before


def test_a_change_of_the_package_is_a_drift_too(tmp_path, code):
    text = f"# from llmbook.sums: double\n{DOUBLE}"
    path = notebook(tmp_path / "a.ipynb", text)
    assert weave.weave([path], code, check=True) == []
    module = code / "llmbook" / "sums.py"
    module.write_text(MODULE.replace("Twice", "Two times"))
    assert len(weave.weave([path], code, check=True)) == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("# from llmbook.sums: triple", "llmbook.sums has no triple"),
        ("# from llmbook.sums: Counter.reset", "has no Counter.reset"),
        ("# from llmbook.gone: double", "there is no module llmbook.gone"),
    ],
)
def test_a_name_that_is_gone_stops_the_weaving(
    tmp_path, code, header, message, capsys
):
    path = notebook(tmp_path / "a.ipynb", header)
    status = weave.main(["--check", "--code", str(code), str(path)])
    assert status == 1
    assert message in capsys.readouterr().err


def test_one_object_is_woven_once_in_the_whole_book(tmp_path, code):
    text = f"# from llmbook.sums: double\n{DOUBLE}"
    one = notebook(tmp_path / "a.ipynb", text)
    two = notebook(tmp_path / "b.ipynb", text)
    with pytest.raises(weave.WeaveError, match=r"already woven in a\.ipynb"):
        weave.weave([one, two], code, check=True)


def test_a_class_and_its_method_are_not_both_woven(tmp_path, code):
    headers = [f"# from llmbook.sums: Counter{end}" for end in ("", ".value")]
    path = notebook(tmp_path / "a.ipynb", *headers)
    with pytest.raises(weave.WeaveError, match="already woven"):
        weave.weave([path], code, check=False)


def test_what_is_longer_than_a_page_is_refused(tmp_path, code):
    body = "\n".join(f"    x = {n}" for n in range(40))
    module = code / "llmbook" / "sums.py"
    module.write_text(f"def long():\n{body}\n")
    path = notebook(tmp_path / "a.ipynb", "# from llmbook.sums: long")
    with pytest.raises(weave.WeaveError, match="41 lines; a page holds 40"):
        weave.weave([path], code, check=False)


def test_weaving_keeps_ids_and_other_cells(tmp_path, code):
    path = notebook(
        tmp_path / "a.ipynb", "print('ö')", "# from llmbook.sums: LIMIT"
    )
    weave.weave([path], code, check=False)
    value = json.loads(path.read_text("utf-8"))
    assert [cell["id"] for cell in value["cells"]] == ["cell-0", "cell-1"]
    assert sources(path)[0] == "print('ö')"
    assert "ö" in path.read_text("utf-8")
