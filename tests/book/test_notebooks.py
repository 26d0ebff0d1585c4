"""How notebooks are committed, and how they read without the site."""

from __future__ import annotations

import json
import re

import pytest

from tests.book.notebooks import (
    SETUP_LINES,
    all_chapters,
    cells,
    read,
    text_of,
)
from tools.chapters import number_of

MOST_LINES = 20  # of a cell that the reader sees and that is not woven
WIDEST_LINE = 79
CHAPTERS = all_chapters()
each_chapter = pytest.mark.parametrize(
    "path", CHAPTERS, ids=[path.stem for path in CHAPTERS]
)


def test_every_notebook_stands_in_the_table_of_contents(root):
    assert sorted((root / "book").glob("*.ipynb")) == sorted(CHAPTERS)


def test_chapters_stand_in_the_order_of_their_numbers():
    numbers = [number_of(path) for path in CHAPTERS]
    assert numbers == sorted(set(numbers))
    assert all(re.fullmatch(r"\d\d", number) for number in numbers)


@each_chapter
def test_no_outputs_and_no_counts_are_committed(path):
    for cell in cells(path, "code"):
        assert cell["outputs"] == [], cell["id"]
        assert cell["execution_count"] is None, cell["id"]


@each_chapter
def test_cells_have_ids_that_are_their_own(path):
    ids = [cell["id"] for cell in read(path)["cells"]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[\w-]{1,64}", one) for one in ids)


@each_chapter
def test_the_file_is_laid_out_as_jupyter_writes_it(path):
    text = json.dumps(read(path), indent=1, ensure_ascii=False) + "\n"
    assert path.read_bytes() == text.encode()


@each_chapter
def test_metadata_holds_nothing_of_a_machine(path):
    notebook = read(path)
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, cell["id"]


@each_chapter
def test_it_opens_with_a_title_and_the_set_up_that_all_share(path):
    first, second = read(path)["cells"][:2]
    assert re.match(r"# \S", text_of(first)), "the first cell is the title"
    assert not re.match(r"# \d", text_of(first)), "the number is Sphinx's"
    assert second["cell_type"] == "code"
    assert {"hide-input", "setup"} <= set(second["metadata"]["tags"])
    setup = text_of(second)
    assert setup.startswith(SETUP_LINES)
    assert "plots.use()" in setup
    assert "seed_everything(0)" in setup


@each_chapter
def test_exercises_carry_the_chapter_s_number(path):
    number = int(number_of(path))
    text = "\n".join(text_of(cell) for cell in read(path)["cells"])
    found = re.findall(r"^### Exercise (\d+)\.(\d+): \S", text, re.MULTILINE)
    assert [int(of) for of, _ in found] == [number] * len(found)
    assert [int(n) for _, n in found] == list(range(1, len(found) + 1))
    assert len(found) >= 5
    for _, n in found:
        assert f"(ex-{number:02d}-{n})=" in text
        assert re.search(rf"check\(\s*\"{number}\.{n}\"", text), n


@each_chapter
def test_labels_of_figures_and_equations_carry_the_chapter_s_number(path):
    number = number_of(path)
    text = "\n".join(text_of(cell) for cell in read(path)["cells"])
    labels = re.findall(r"\((eq-[\w-]+)\)", text)
    labels += re.findall(r"name=\"((?:fig|tab|tbl)-[\w-]+)\"", text)
    for label in labels:
        assert label.split("-")[1] == number, label
    assert len(labels) == len(set(labels))


@each_chapter
def test_it_reads_as_plain_markdown_too(path):
    """Colab and GitHub show a directive as code, and lose its figure."""
    for cell in cells(path, "markdown"):
        text = text_of(cell)
        assert not re.search(r"^\s*(```+|:::+)\s*\{", text, re.M), cell["id"]
        assert not re.search(r"<(img|iframe|script|style)\b", text)
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert (path.parent / target).is_file(), target
        for image in re.findall(r"!\[([^\]]*)\]", text):
            assert len(image) > 10, "a picture needs words in its place"


@each_chapter
def test_every_figure_says_in_words_what_it_shows(path):
    for cell in cells(path, "code"):
        text = text_of(cell)
        for _ in re.findall(r"plots\.show\(", text):
            assert "alt=" in text, cell["id"]
            assert "name=" in text, cell["id"]


@each_chapter
def test_cells_that_the_reader_sees_are_short(path):
    for cell in cells(path, "code"):
        tags = set(cell["metadata"].get("tags", []))
        text = text_of(cell)
        if tags & {"hide-input", "hide-cell", "remove-input"}:
            continue
        if text.startswith("# from llmbook"):
            continue  # woven: tools/weave.py holds it to a page
        assert len(text.splitlines()) <= MOST_LINES, cell["id"]


@each_chapter
def test_lines_of_code_fit_the_printed_measure(path):
    for cell in cells(path, "code"):
        for line in text_of(cell).splitlines():
            shell = line.lstrip().startswith("!")
            assert shell or len(line) <= WIDEST_LINE, f"{cell['id']}: {line}"


@each_chapter
def test_headings_go_down_one_step_at_a_time(path):
    level = 0
    for cell in cells(path, "markdown"):
        text = re.sub(r"```.*?```", "", text_of(cell), flags=re.S)
        for marks in re.findall(r"^(#+) ", text, re.M):
            assert len(marks) <= level + 1, marks
            level = len(marks)
    assert level, "no heading at all"
