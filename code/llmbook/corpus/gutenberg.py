"""Jane Austen's six novels, from a folder or from Project Gutenberg."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .. import downloads
from .folder import read_text

ADDRESS = "https://www.gutenberg.org/cache/epub/{number}/pg{number}.txt"
DATA_VARIABLE = "LLMBOOK_DATA"  # a folder that may hold austen/*.txt
_SIZE_TOLERANCE = 0.15  # editions differ by notes and prefaces
_TITLE_WITHIN = 3000  # characters: title pages come first
_LEAST_CHAPTER = 500  # characters; shorter is a line of the contents

_START = re.compile(r"\*\*\* ?START OF TH[EIS]+ PROJECT GUTENBERG.*?\*\*\*",
                    re.S)  # fmt: skip
_END = re.compile(r"\*\*\* ?END OF TH[EIS]+ PROJECT GUTENBERG")
_ILLUSTRATION = re.compile(r"\[Illustration[^\]]*\]")
_CHAPTER = re.compile(
    r"^[ \t]*chapter[ \t]+(?:\d+|[ivxlc]+)\.?\]?[ \t]*$", re.I | re.M
)


@dataclass(frozen=True)
class Novel:
    """One of the six: its file, its number at Gutenberg, what to expect.

    Args:
        file: name in a data folder.
        number: Project Gutenberg's number of the ebook.
        title: stands near the top of the text.
        size: characters of the text without licence, about.
    """

    file: str
    number: int
    title: str
    size: int


NOVELS = (
    Novel("sensesensibility.txt", 161, "Sense and Sensibility", 674_000),
    Novel("prideprejudice.txt", 1342, "Pride and Prejudice", 700_000),
    Novel("mansfieldpark.txt", 141, "Mansfield Park", 883_000),
    Novel("emma.txt", 158, "Emma", 883_000),
    Novel("northangerabbey.txt", 121, "Northanger Abbey", 434_000),
    Novel("persuasion.txt", 105, "Persuasion", 467_000),
)


def load_novels() -> dict[str, str]:
    """The six novels by title, in the order of publication.

    They come from ``LLMBOOK_DATA/austen`` where that folder holds them;
    otherwise they are downloaded once (:mod:`llmbook.downloads`).

    Raises:
        ConnectionError: a novel is missing and cannot be downloaded.
        ValueError: a file is not what it should be.
    """
    data = os.environ.get(DATA_VARIABLE)
    local = Path(data) / "austen" if data else None
    texts = {}
    for novel in NOVELS:
        if local is not None and (local / novel.file).exists():
            path = local / novel.file
        else:
            path = fetch_novel(novel)
        texts[novel.title] = clean(read_text(path), novel, path)
    return texts


def fetch_novel(novel: Novel) -> Path:
    """The novel's file in the cache, downloaded where it is missing.

    A file that is no plausible edition of the novel is not accepted.
    """
    return downloads.fetch(
        ADDRESS.format(number=novel.number),
        f"austen/{novel.file}",
        check=lambda path: clean(read_text(path), novel, path),
        mend="Without a connection, put the six novels' text files into a "
        f"folder austen/ and set {DATA_VARIABLE} to the folder around it.",
    )


def clean(text: str, novel: Novel, path: Path) -> str:
    """The novel alone: no licence, no pictures, paragraphs on one line.

    Raises:
        ValueError: the title is missing or the size is not plausible.
    """
    if start := _START.search(text):
        text = text[start.end() :]
    if end := _END.search(text):
        text = text[: end.start()]
    text = _ILLUSTRATION.sub("", text)
    top = " ".join(text[:_TITLE_WITHIN].split()).casefold()
    if novel.title.casefold() not in top:
        raise ValueError(
            f"{path} does not begin with {novel.title!r}. It is another "
            f"text: replace it with ebook {novel.number} of Project "
            "Gutenberg."
        )
    if abs(len(text) - novel.size) > _SIZE_TOLERANCE * novel.size:
        raise ValueError(
            f"{path} has {len(text):,} characters without the licence; "
            f"{novel.title} has about {novel.size:,}. It was cut short or "
            "is another edition: delete it and load again."
        )
    paragraphs = re.split(r"\n[ \t]*\n", text)
    lines = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return "\n\n".join(line for line in lines if line)


def chapters(text: str) -> list[str]:
    """A novel's chapters, headings left out.

    Chapters are the documents of the corpus: long enough to hold one voice
    together, and many enough (269) that those held out come from all six
    novels and are judged as the same kind of text.
    """
    pieces = _CHAPTER.split(text)[1:] or [text]
    texts = (piece.strip() for piece in pieces)
    return [text for text in texts if len(text) >= _LEAST_CHAPTER]
