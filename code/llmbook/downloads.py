"""Downloads: fetched once, resumed where they broke off, and verified."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from tqdm.auto import tqdm

CACHE_VARIABLE = "LLMBOOK_CACHE"
BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 30  # seconds without an answer before a try is given up
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416  # HTTP: RFC 9110
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PAGE = (b"<!doctype html", b"<html")  # how a page begins, in any case


def cache_folder() -> Path:
    """Where downloads are kept: ``LLMBOOK_CACHE``, or the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    import platformdirs  # only where nothing is named

    return platformdirs.user_cache_path("llmbook")


def fetch(
    url: str,
    name: str | os.PathLike[str],
    sha256: str | None = None,
    *,
    check: Callable[[Path], Any] | None = None,
    mend: str = "",
    progress: bool = True,
) -> Path:
    """The file at ``url``, downloaded where it is missing.

    A download that breaks off is resumed by the next call; one that is
    whole is renamed into place. Its SHA-256 must be ``sha256``, or where
    that is None the one recorded beside it at the first download; it is
    verified at every call. Two processes take turns.

    Args:
        url: where the file is published.
        name: its path within :func:`cache_folder`.
        sha256: its checksum in hexadecimal, where one is known.
        check: called with a file that has arrived, before it is accepted;
            raises ValueError to refuse it.
        mend: a sentence on what to do where there is no connection.
        progress: whether to draw a bar.

    Raises:
        ConnectionError: it could not be downloaded, or not all of it.
        ValueError: it is not the file that it should be.
        OSError: the cache cannot be written to.
    """
    path = cache_folder() / name
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(path, ".lock")):
            if path.exists():
                _hold_to_checksum(path, path, sha256)
            else:
                _receive(url, path, sha256, check, mend, progress)
    return path


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say what to do where the disk is full or closed to us."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}). Make "
            f"room, or set {CACHE_VARIABLE} to a folder that has some: what "
            "has come so far is kept.",
        ) from error


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _receive(
    url: str,
    path: Path,
    sha256: str | None,
    check: Callable[[Path], Any] | None,
    mend: str,
    progress: bool,
) -> None:
    part = _beside(path, ".part")
    try:
        _download(url, part, progress)
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in _FULL:
            raise
        raise ConnectionError(
            f"{path.name} could not be downloaded from {url} ({error}). Try "
            f"again: what has come is kept. {mend}".rstrip()
        ) from error
    try:
        _refuse_page(part, url)
        if check is not None:
            check(part)
        _hold_to_checksum(part, path, sha256)
    except ValueError:
        part.unlink()  # resuming it would not help
        raise
    os.replace(part, path)


def _download(url: str, part: Path, progress: bool) -> None:
    """Bring ``url`` to ``part``, going on where an earlier try stopped."""
    mark = _beside(part, ".edition")  # which edition the part belongs to
    have = part.stat().st_size if part.exists() and mark.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark.read_text(encoding="ascii"))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if not _continues(answer, have):
                have = 0
                part.unlink(missing_ok=True)  # first: it is no part of this
                _remember_edition(mark, answer.headers)
            with open(part, "ab" if have else "wb") as out:
                _copy(answer, out, have, progress)
    except urllib.error.HTTPError as error:
        if not (have and error.code == RANGE_NOT_SATISFIABLE):
            raise
        part.unlink()  # nothing comes after it: it is no beginning
        return _download(url, part, progress)
    mark.unlink(missing_ok=True)


def _continues(answer: Any, have: int) -> bool:
    """Whether the answer is the rest of a file of which we have a part."""
    if not have or answer.status != PARTIAL_CONTENT:
        return False
    first = re.match(r"bytes (\d+)-", answer.headers["Content-Range"] or "")
    if first is None or int(first[1]) != have:
        raise ConnectionError(
            f"the server was asked for bytes from {have} on and sent "
            f"{answer.headers['Content-Range']!r}"
        )
    return True


def _remember_edition(mark: Path, headers: Any) -> None:
    """Keep what If-Range needs; without it a part is never resumed."""
    tag = headers["ETag"] or headers["Last-Modified"]
    if tag and not tag.startswith("W/"):  # a weak tag may cover two editions
        mark.write_text(tag, encoding="ascii")
    else:
        mark.unlink(missing_ok=True)


def _copy(answer: Any, out: IO[bytes], have: int, progress: bool) -> None:
    length = answer.headers["Content-Length"]
    total = have + int(length) if length else None
    bar = tqdm(
        total=total,
        initial=have,
        unit="B",
        unit_scale=True,
        desc=Path(out.name).name.removesuffix(".part"),
        leave=False,
        disable=not progress,
    )
    with bar:
        while block := answer.read(BLOCK):
            have += out.write(block)
            bar.update(len(block))
    if total is not None and have < total:
        raise ConnectionError(f"only {have:,} of {total:,} bytes came")


def _refuse_page(part: Path, url: str) -> None:
    """Tell a file from the page that some servers send in its place."""
    with open(part, "rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_PAGE):
        raise ValueError(
            f"{url} answered with a web page and not with a file: a sign-in "
            "or error page, perhaps of the network in between. Open the "
            "address in a browser, and try again when it gives the file."
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hold_to_checksum(file: Path, path: Path, sha256: str | None) -> None:
    """Compare ``file`` with the SHA-256 that ``path`` should have."""
    found = sha256_of(file)
    record = _beside(path, ".sha256")
    recorded = record.read_text("utf-8").split() if record.exists() else []
    if sha256 is None and not recorded:
        fresh = _beside(record, ".part")
        fresh.write_text(f"{found}  {path.name}\n", encoding="utf-8")
        os.replace(fresh, record)
        return
    expected = sha256 or recorded[0]
    if found == expected.lower():
        return
    if file == path:
        what = "has changed since its download"
        mend = "Delete it to download it again."
    elif sha256:
        what = "did not come as it was published"
        mend = "It was thrown away: try again, perhaps from another network."
    else:
        what = "is another file than at the first download"
        mend = f"Delete {record.name} to accept the new edition."
    raise ValueError(
        f"{path} {what}: its SHA-256 is {found}, expected {expected}. {mend}"
    )
