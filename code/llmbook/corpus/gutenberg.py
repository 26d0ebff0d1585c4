"""Jane Austen's six novels, from a folder or from Project Gutenberg."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .folder import read_text

ADDRESS = "https://www.gutenberg.org/cache/epub/{number}/pg{number}.txt"
DATA_VARIABLE = "LLMBOOK_DATA"  # a folder that may hold austen/*.txt
TIMEOUT = 30  # seconds without an answer before a download is given up
_BLOCK = 1 << 16  # bytes read at a time
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


def load_novels(cache: Path | None = None) -> dict[str, str]:
    """The six novels by title, in the order of publication.

    They come from ``LLMBOOK_DATA/austen`` where that folder holds them,
    otherwise from ``cache`` (the user's own cache folder), into which they
    are downloaded once.

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
            path = fetch_novel(novel, cache or cache_folder())
        texts[novel.title] = clean(read_text(path), novel, path)
    return texts


def cache_folder() -> Path:
    """Where downloads are kept for this user."""
    import platformdirs  # only a download needs it

    return Path(platformdirs.user_cache_dir("llmbook")) / "austen"


def fetch_novel(novel: Novel, cache: Path) -> Path:
    """The novel's file in ``cache``, downloaded where it is missing.

    Its SHA-256 is recorded at the download and compared ever after.
    """
    path = cache / novel.file
    record = cache / f"{novel.file}.sha256"
    if not path.exists():
        url = ADDRESS.format(number=novel.number)
        part = cache / f"{novel.file}.part"
        download(url, part, novel.title)
        try:
            clean(read_text(part), novel, part)
        except ValueError:
            part.unlink()  # resuming it would not help
            raise
        record.write_text(_sha256(part) + "\n")
        os.replace(part, path)
    if not record.exists():
        record.write_text(_sha256(path) + "\n")
    if _sha256(path) != record.read_text().strip():
        raise ValueError(
            f"{path} has changed since it was downloaded: its SHA-256 is "
            f"not the one in {record.name}. Delete both files to download "
            "the novel again."
        )
    return path


def download(url: str, part: Path, title: str) -> None:
    """Download ``url`` to ``part``, going on where an earlier try stopped.

    Raises:
        ConnectionError: no connection, an error from the server, or fewer
            bytes than announced; what has come stays in ``part``.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    mark = part.with_suffix(".etag")  # the edition that the part belongs to
    request = urllib.request.Request(url)
    if have and mark.exists():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark.read_text())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if answer.status != 206:
                have = 0
                _remember(mark, answer.headers.get("ETag"))
            _receive(answer, part, have, title)
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(
            f"{title} could not be downloaded from {url} ({error}). Try "
            "again: what has come is kept. Without a connection, put the "
            f"six novels' text files into a folder austen/ and set "
            f"{DATA_VARIABLE} to the folder that holds it."
        ) from error
    mark.unlink(missing_ok=True)


def _remember(mark: Path, etag: str | None) -> None:
    if etag and not etag.startswith("W/"):  # If-Range wants a strong one
        mark.write_text(etag)
    else:
        mark.unlink(missing_ok=True)


def _receive(answer, part: Path, have: int, title: str) -> None:
    from tqdm.auto import tqdm

    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    with (
        open(part, "ab" if have else "wb") as file,
        tqdm(total=total, initial=have, unit="B", unit_scale=True,
             desc=title, leave=False) as bar,
    ):  # fmt: skip
        while block := answer.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
        size = file.tell()
    if total is not None and size < total:
        raise ConnectionError(f"only {size} of {total} bytes came")


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


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
