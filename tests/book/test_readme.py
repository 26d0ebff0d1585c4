"""The README: its table comes from a recorded run, its links lead on."""

from __future__ import annotations

import re

from tests.book.notebooks import all_chapters
from tools.common import ROOT, read_json
from tools.readme_table import RUNS, main

README = (ROOT / "README.md").read_text("utf-8")
RECORDED = {"seconds", "memory_mb", "budget", "date", "machine", "versions"}
MOST_MEMORY = 2000  # MB a chapter may take at the budget of the build


def test_every_chapter_has_a_recorded_run():
    runs = read_json(RUNS)
    assert set(runs) == {path.stem for path in all_chapters()}
    for name, run in runs.items():
        assert set(run) == RECORDED, name
        assert run["budget"] == "quick", name
        assert run["memory_mb"] <= MOST_MEMORY, name


def test_the_table_is_the_one_that_the_records_give():
    assert main(["--check"]) == 0


def test_its_links_inside_the_repository_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README)
    for target in filter(None, (one or two for one, two in targets)):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_its_picture_is_small_enough_to_load_at_once():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", README)
    assert pictures, "the README shows the page"
    for name in pictures:
        assert (ROOT / name).stat().st_size < 300_000, name


def test_commands_it_names_are_targets():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"^TARGETS := (.+)$", makefile, re.M)[1].split()
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name in re.findall(r"`make (\w+)", README + contributing):
        assert name in targets, name
