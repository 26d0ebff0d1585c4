"""A chapter's number comes from its file's name, everywhere.

Sphinx would count the chapters that are there; here 05-attention is
chapter 5 although 04 is not written, in headings, figures and equations.
"""

from __future__ import annotations

from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.environment.collectors.toctree import TocTreeCollector
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

from .places import chapter_number

_stock_numbers = TocTreeCollector.assign_section_numbers


def assign_section_numbers(
    self: TocTreeCollector, env: BuildEnvironment
) -> list[str]:
    """Number the sections as Sphinx does, then put in the chapters' own."""
    old = {doc: dict(of) for doc, of in env.toc_secnumbers.items()}
    _stock_numbers(self, env)
    for docname, numbers in env.toc_secnumbers.items():
        chapter = chapter_number(docname)
        for anchor, number in numbers.items():
            numbers[anchor] = renumbered(number, chapter)
        for node in numbered_nodes(env, docname):
            node["secnumber"] = renumbered(node["secnumber"], chapter)
    new = env.toc_secnumbers
    return [doc for doc in new if new[doc] != old.get(doc)]


def renumbered(
    number: tuple[int, ...] | None, chapter: int | None
) -> tuple[int, ...] | None:
    """The number with the chapter's in front; none on other pages."""
    if number is None or chapter is None:
        return None
    return (chapter, *number[1:])


def numbered_nodes(
    env: BuildEnvironment, docname: str
) -> Iterator[nodes.Element]:
    """The title and the entries of the contents that carry a number."""
    title = env.titles[docname]
    if "secnumber" in title:
        yield title
    for node in env.tocs[docname].findall(nodes.reference):
        if "secnumber" in node:
            yield node


def setup(app: Sphinx) -> None:
    """Replace the numbering of Sphinx and of its external contents."""
    TocTreeCollector.assign_section_numbers = assign_section_numbers
    TocTreeCollectorWithStyles.assign_section_numbers = assign_section_numbers
