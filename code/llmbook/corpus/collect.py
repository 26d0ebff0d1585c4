"""Documents out of files and folders, one at a time and never guessed at."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

KINDS = {".txt": "text", ".html": "html", ".htm": "html", ".jsonl": "json"}
LARGEST = 64 << 20  # bytes of one document; nothing larger is held
DEEPEST = 512  # nested tags; Chromium draws the line there, and the time
# that a page takes to read grows with the square of its depth
_BLOCK = 1 << 20  # bytes read at a time
_PRESCAN = 1024  # bytes in which HTML (4.2.5.4) wants its charset declared
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w:.-]+)", re.I
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^<>]*?(/?)>")
# Elements without an end, or with one that may be left out.
_NEVER_NESTED = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link",
     "meta", "source", "track", "wbr", "p", "li", "dt", "dd", "td", "th",
     "tr", "tbody", "thead", "tfoot", "option")
)  # fmt: skip

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Rejected:
    """A document that is left out: the rule that did it, and why."""

    rule: str
    detail: str


@dataclass(frozen=True)
class Source:
    """A document as it lies on disk, before anything is understood of it.

    Args:
        id: the file it comes from, and its line where the file has many:
            ``"web/pages.jsonl.gz:17"``.
        kind: ``"text"``, ``"html"`` or ``"json"`` (one line of JSONL).
        data: its bytes, unpacked.
        problem: what kept it from being read; empty where nothing did.
    """

    id: str
    kind: str
    data: bytes
    problem: str = ""


@dataclass(frozen=True)
class SourceFile:
    """A file to be read: where it is, and the name that goes on record."""

    path: Path
    name: str

    @property
    def kind(self) -> str | None:
        """What the ending says; None for a file that is not read."""
        return KINDS.get(Path(self.path.name.removesuffix(".gz")).suffix)


def list_files(sources: Paths) -> list[SourceFile]:
    """The files that the sources name, folders searched, in name order.

    Of a folder, files whose ending is not known are passed over; a file
    that is named itself has to be of a known kind.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: an unknown kind of file, no files, or two of one name.
    """
    files: list[SourceFile] = []
    for source in as_paths(sources):
        if not source.exists():
            raise FileNotFoundError(f"there is no file or folder {source}.")
        if source.is_dir():
            files += _search(source)
        else:
            files.append(_known(SourceFile(source, _printable(source.name))))
    names = Counter(file.name for file in files)
    twice = [name for name, count in names.items() if count > 1]
    if twice or not files:
        found = f"two files called {twice[0]!r}" if twice else "no files"
        raise ValueError(
            f"the sources hold {found}; expected files that end in "
            f"{', '.join(KINDS)} (or these with .gz), each with a name of "
            "its own."
        )
    return files


def as_paths(sources: Paths) -> list[Path]:
    """One source or several as a list of paths."""
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    return [Path(source) for source in sources]


def _search(folder: Path) -> list[SourceFile]:
    name = folder.resolve().name
    found = (
        SourceFile(p, _printable(f"{name}/{p.relative_to(folder).as_posix()}"))
        for p in folder.rglob("*")
        if p.is_file()
    )
    return sorted((f for f in found if f.kind), key=lambda f: f.name)


def _printable(name: str) -> str:
    """A file's name without the bytes that are no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _known(file: SourceFile) -> SourceFile:
    if file.kind is None:
        raise ValueError(
            f"{file.path} ends in none of {', '.join(KINDS)} (or these with "
            ".gz); rename it, so that it is clear how to read it."
        )
    return file


def collect(sources: Paths) -> Iterator[Source]:
    """Every document of the sources, one at a time, as bytes.

    A text or HTML file is one document; a JSONL file has one a line.
    """
    return collect_files(list_files(sources))


def collect_files(files: Iterable[SourceFile]) -> Iterator[Source]:
    """Every document of these files, in their order."""
    for file in files:
        yield from read_file(file)


def read_file(file: SourceFile) -> Iterator[Source]:
    """The documents of one file, what cannot be unpacked as a problem."""
    opener = gzip.open if file.path.suffix == ".gz" else open
    count = 0
    try:
        with opener(file.path, "rb") as stream:
            pieces = _lines(stream) if file.kind == "json" else _whole(stream)
            for count, (data, problem) in enumerate(pieces, start=1):
                name = (
                    f"{file.name}:{count}"
                    if file.kind == "json"
                    else file.name
                )
                if data.strip() or problem:
                    yield Source(name, file.kind, data, problem)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"the gzip file is damaged ({error})"
        yield Source(f"{file.name}:{count + 1}", file.kind, b"", problem)


def _whole(stream: BinaryIO) -> Iterator[tuple[bytes, str]]:
    data = stream.read(LARGEST + 1)
    yield (data, "") if len(data) <= LARGEST else (b"", _too_large())


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, str]]:
    while line := stream.readline(LARGEST + 1):
        if len(line) <= LARGEST:
            yield line, ""
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_BLOCK)
        yield b"", _too_large()


def _too_large() -> str:
    return f"larger than {LARGEST:,} bytes"


def extract(
    source: Source, field: str = "text", encoding: str | None = None
) -> str | Rejected:
    """The text of a source: decoded, unpacked from JSON or from HTML.

    Bytes are UTF-8, or what an HTML page declares itself to be, or in the
    ``encoding`` given; or else the document is rejected, with the byte at
    fault.
    """
    if source.problem:
        return Rejected("unreadable", source.problem)
    if encoding is None and source.kind == "html":
        encoding = declared_encoding(source.data)
    text = decode(source.data, encoding or "utf-8")
    if isinstance(text, Rejected) or source.kind == "text":
        return text
    return main_text(text) if source.kind == "html" else json_text(text, field)


def decode(data: bytes, encoding: str = "utf-8") -> str | Rejected:
    """Bytes as text, strictly; a byte-order mark is taken off.

    >>> decode("Café".encode("latin-1")).detail
    'not utf-8: byte 0xe9 at offset 3 (unexpected end of data)'
    """
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        return Rejected(
            "encoding",
            f"not {encoding}: byte 0x{data[error.start]:02x} at offset "
            f"{error.start} ({error.reason})",
        )


def guess_encoding(data: bytes) -> str | None:
    """What a library takes the bytes for; None where nothing fits."""
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise missing_package("charset-normalizer", "guess") from error
    best = from_bytes(data).best()
    return best.encoding if best else None


def declared_encoding(data: bytes) -> str:
    """The encoding that an HTML page declares; UTF-8 where it is silent.

    >>> declared_encoding(b'<meta charset="windows-1252">')
    'cp1252'
    """
    found = _CHARSET.search(data[:_PRESCAN])
    try:
        name = found[1].decode("ascii") if found else "utf-8"
        b"a".decode(name)  # "hex" is a codec too, and none of text
        return codecs.lookup(name).name
    except (LookupError, UnicodeDecodeError):
        return "utf-8"


def depth(html: str) -> int:
    """How deep the tags of a page are nested, about.

    >>> depth("<div><p>One<br><p>Two<b>three</b></div>")
    2
    """
    now = deepest = 0
    for closing, name, closed in _TAG.findall(html):
        if not closed and name.lower() not in _NEVER_NESTED:
            now = max(0, now + (-1 if closing else 1))
            deepest = max(deepest, now)
    return deepest


def main_text(html: str) -> str | Rejected:
    """What a page says, without menus, footers, scripts and markup.

    Source: the rules of Resiliparse (Bevendorff et al. 2018), which
    DataComp-LM (Li et al. 2024) chose for its speed.
    """
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError as error:
        raise missing_package("resiliparse", "read HTML") from error
    if (deep := depth(html)) > DEEPEST:
        return Rejected("unreadable", f"tags nested {deep} deep")
    return extract_plain_text(html, main_content=True, alt_texts=False)


def json_text(line: str, field: str) -> str | Rejected:
    """The text in one line of JSONL.

    >>> json_text('{"text": "One kite."}', "text")
    'One kite.'
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Rejected("unreadable", f"not JSON: {error}")
    text = record.get(field) if isinstance(record, dict) else None
    if isinstance(text, str):
        return text
    return Rejected("unreadable", f"no text in a field called {field!r}")


def missing_package(
    package: str, purpose: str, extra: str = "data"
) -> ImportError:
    """The error to raise where an optional library is not installed."""
    return ImportError(
        f"to {purpose} the package {package} is needed: "
        f'pip install "llmbook[{extra}]".'
    )
