"""Solutions: one page, made from the exercises that the package checks.

``{solutions}`` writes a section for each exercise of the chapters that the
book holds. Each exercise's heading in a chapter gets a link to its solution,
and each solution one back. ``{chapter-costs}`` is the preface's table.
"""

from __future__ import annotations

import json
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from llmbook import exercises

from .places import chapter_number, root

HEADING = re.compile(r"Exercise (\d+\.\d+):")


def label(kind: str, number: str) -> str:
    """An exercise's or its solution's label.

    >>> label("ex", "5.2"), label("sol", "12.10")
    ('ex-05-2', 'sol-12-10')
    """
    chapter, place = number.split(".")
    return f"{kind}-{int(chapter):02d}-{place}"


def link(target: str, text: str, docname: str) -> addnodes.pending_xref:
    """A reference to a label, in words of its own."""
    return addnodes.pending_xref(
        "",
        nodes.inline("", text, classes=["std", "std-ref"]),
        refdomain="std",
        reftype="ref",
        refexplicit=True,
        refwarn=True,
        reftarget=target,
        refdoc=docname,
    )


class LinkExercises(SphinxTransform):
    """Below each exercise, a link to its solution."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        if chapter_number(self.env.docname) is None:
            return
        known = {e.number for e in exercises.all_exercises()}
        for section in list(self.document.findall(nodes.section)):
            found = HEADING.match(section[0].astext())
            if found is None or found[1] not in known:
                continue
            self.name(section, label("ex", found[1]))
            target = label("sol", found[1])
            text = f"Solution to exercise {found[1]}"
            section += nodes.paragraph(
                "",
                "",
                link(target, text, self.env.docname),
                classes=["llm-solution-link"],
            )

    def name(self, section: nodes.section, name: str) -> None:
        """Give the section its label where the chapter gave it none."""
        if name not in self.document.nameids:
            section["names"].append(name)
            self.document.note_explicit_target(section, section)


class Solutions(SphinxDirective):
    """``{solutions}``: a section for each chapter, one in it for each."""

    def run(self) -> list[nodes.Node]:
        chapters = {
            chapter_number(doc): doc
            for doc in self.env.found_docs
            if chapter_number(doc) is not None
        }
        sections: dict[int, nodes.section] = {}
        for exercise in exercises.all_exercises():
            chapter = int(exercise.number.split(".")[0])
            if chapter not in chapters:
                continue
            if chapter not in sections:
                sections[chapter] = self.chapter(chapter, chapters[chapter])
            sections[chapter] += self.solution(exercise)
        return list(sections.values())

    def section(self, name: str, title: nodes.title) -> nodes.section:
        """A section with a label."""
        section = nodes.section("", title, names=[name])
        self.state.document.note_explicit_target(section, section)
        return section

    def chapter(self, number: int, docname: str) -> nodes.section:
        """The section of one chapter's solutions."""
        title = nodes.title("", f"Chapter {number}")
        return self.section(f"sol-{number:02d}", title)

    def solution(self, exercise: exercises.Exercise) -> nodes.section:
        """One solution: its source, and the way back."""
        number = exercise.number
        title = f"Exercise {number}: {exercise.title}"
        source = exercises.solution_source(number).rstrip()
        code = nodes.literal_block(source, source, language="python")
        back = link(
            label("ex", number), "Back to the exercise", self.env.docname
        )
        section = self.section(label("sol", number), nodes.title("", title))
        section += code
        section += nodes.paragraph("", "", back, classes=["llm-back"])
        return section


class ChapterCosts(SphinxDirective):
    """``{chapter-costs}``: minutes and memory, as the build measured."""

    def run(self) -> list[nodes.Node]:
        runs = measured()
        docs = sorted(d for d in self.env.found_docs if chapter_number(d))
        rows = [
            (doc, runs[doc.rsplit("/", 1)[-1]])
            for doc in docs
            if doc.rsplit("/", 1)[-1] in runs
        ]
        if not rows:
            text = "The build that made this page measured no chapter."
            return [nodes.paragraph("", text)]
        group = nodes.tgroup(cols=3)
        group += [nodes.colspec(colwidth=1) for _ in range(3)]
        heads = [nodes.Text(t) for t in ("Chapter", "Minutes", "Memory (GB)")]
        group += nodes.thead("", costs_row(*heads))
        body = nodes.tbody()
        group += body
        for doc, run in rows:
            body += costs_row(
                self.title(doc),
                nodes.Text(f"{run['seconds'] / 60:.1f}"),
                nodes.Text(f"{run['memory_mb'] / 1000:.1f}"),
            )
        return [nodes.table("", group, classes=["colwidths-auto"])]

    def title(self, docname: str) -> addnodes.pending_xref:
        """A reference that shows the chapter's title."""
        return addnodes.pending_xref(
            "",
            nodes.inline("", "", classes=["std", "std-doc"]),
            refdomain="std",
            reftype="doc",
            refexplicit=False,
            refwarn=True,
            reftarget=f"/{docname}",
            refdoc=self.env.docname,
        )


def costs_row(*cells: nodes.Node) -> nodes.row:
    """A row of the costs; numbers stand to the right."""
    row = nodes.row()
    for i, cell in enumerate(cells):
        side = "text-right" if i else "text-left"
        row += nodes.entry("", nodes.paragraph("", "", cell), classes=[side])
    return row


def measured() -> dict[str, dict]:
    """What the last build measured, else the record that is committed."""
    for place in ("_build/chapters.json", "runs/chapters.json"):
        path = root() / place
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}


def setup(app: Sphinx) -> None:
    """Add the directives and the links."""
    app.add_directive("solutions", Solutions)
    app.add_directive("chapter-costs", ChapterCosts)
    app.add_transform(LinkExercises)
