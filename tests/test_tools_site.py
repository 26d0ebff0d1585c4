"""Gathering the book for Sphinx: nothing is touched that says the same."""

from __future__ import annotations

import os

import pytest

from tools import build_site


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A small book, with one executed chapter and one that is a draft."""
    book, executed = tmp_path / "book", tmp_path / "executed"
    (book / "_static").mkdir(parents=True)
    executed.mkdir()
    (tmp_path / "_config.yml").write_text("title: T\n")
    (tmp_path / "_toc.yml").write_text("root: book/index\n")
    (book / "index.md").write_text("# Index\n")
    (book / "_static" / "style.css").write_text("p {}\n")
    (book / "05-done.ipynb").write_text("committed")
    (book / "07-draft.ipynb").write_text("draft")
    (executed / "05-done.ipynb").write_text("executed")
    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    monkeypatch.setattr(build_site, "BOOK", book)
    monkeypatch.setattr(build_site, "EXECUTED", executed)
    monkeypatch.setattr(build_site, "SOURCE", tmp_path / "source")
    monkeypatch.setattr(
        build_site, "chapters", lambda: [book / "05-done.ipynb"]
    )
    return tmp_path


def gathered(place):
    source = place / "source"
    files = [path for path in source.rglob("*") if path.is_file()]
    return {path.relative_to(source).as_posix(): path for path in files}


def test_executed_chapters_take_the_place_of_committed_ones(place):
    build_site.gather()
    found = gathered(place)
    assert set(found) == {
        "_config.yml",
        "_toc.yml",
        "book/05-done.ipynb",
        "book/_static/style.css",
        "book/index.md",
    }
    assert found["book/05-done.ipynb"].read_text() == "executed"


def test_only_what_differs_is_written_again(place):
    build_site.gather()
    for path in gathered(place).values():
        os.utime(path, (1, 1))
    (place / "book" / "index.md").write_text("# Another\n")
    build_site.gather()
    newer = {n for n, p in gathered(place).items() if p.stat().st_mtime > 1}
    assert newer == {"book/index.md"}


def test_what_is_gone_from_the_book_goes_from_the_gathering(place):
    build_site.gather()
    (place / "book" / "index.md").unlink()
    build_site.gather()
    assert "book/index.md" not in gathered(place)


def test_nothing_is_built_when_nothing_changed(place, monkeypatch, capsys):
    calls = []

    def sphinx(builder, output, fresh, strict):
        calls.append((builder, fresh))
        output.mkdir(exist_ok=True)
        (output / "index.html").write_text("page")
        return 0

    monkeypatch.setattr(build_site, "BUILD", place / "build")
    monkeypatch.setattr(build_site, "sphinx", sphinx)
    output = place / "html"
    words = ("html", output, lambda: 0, output / "index.html")
    (place / "code").mkdir()
    assert build_site.build(*words) == 0
    assert build_site.build(*words) == 0
    assert calls == [("html", True)]
    (place / "book" / "index.md").write_text("# Another\n")
    assert build_site.build(*words) == 0
    assert calls[1:] == [("html", False)], "a page alone: Sphinx goes on"
    (place / "book" / "_static" / "style.css").write_text("b {}\n")
    assert build_site.build(*words) == 0
    assert calls[2:] == [("html", True)], "all pages: Sphinx begins anew"


def test_a_failed_build_is_tried_again(place, monkeypatch):
    calls = []
    monkeypatch.setattr(build_site, "BUILD", place / "build")
    monkeypatch.setattr(
        build_site, "sphinx", lambda *_: calls.append(1) or len(calls) % 2
    )
    output = place / "html"
    words = ("html", output, lambda: 0, place / "_toc.yml")
    assert build_site.build(*words) == 1
    assert build_site.build(*words) == 0
    assert len(calls) == 2


def test_a_fork_s_own_address_is_taken_in_its_ci(monkeypatch):
    monkeypatch.delenv("LLMBOOK_REPOSITORY", raising=False)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert build_site.repository() == ""
    monkeypatch.setenv("GITHUB_REPOSITORY", "reader/llmbook")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    assert build_site.repository() == "https://github.com/reader/llmbook"
    monkeypatch.setenv("LLMBOOK_REPOSITORY", "https://example.org/book/")
    assert build_site.repository() == "https://example.org/book"
