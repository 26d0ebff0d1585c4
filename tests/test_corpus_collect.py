"""Documents out of files: every kind, and every way they can be broken."""

from __future__ import annotations

import gzip
import json
import os
import sys

import pytest

from llmbook.corpus import collect as collect_module
from llmbook.corpus.collect import (
    Rejected,
    Source,
    collect,
    declared_encoding,
    decode,
    extract,
    guess_encoding,
    list_files,
    main_text,
)

PAGE = """<!doctype html><html><head><title>Lull</title>
<style>p {{color: red}}</style><script>alert("no")</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li>About</li></ul></nav>
<div class="cookie-banner">We use cookies.</div>
<main><article><h1>The kite</h1><p>{text}</p></article></main>
<aside class="sidebar">Related links</aside>
<footer>Copyright 2024, all rights reserved.</footer></body></html>"""
TEXT = "Ona lost the kite by the river & Tam found it on the hill. " * 8


def ids(sources):
    return [(source.id, source.kind, source.data) for source in sources]


# --- which files -----------------------------------------------------------


def test_files_of_a_folder_come_in_name_order_with_their_kinds(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/z.html", "a.txt", "b/c.jsonl.gz", "d.md", "e.txt.gz"):
        (tmp_path / name).write_bytes(b"")
    found = [(file.name, file.kind) for file in list_files(tmp_path)]
    home = tmp_path.name
    assert found == [
        (f"{home}/a.txt", "text"),
        (f"{home}/b/c.jsonl.gz", "json"),
        (f"{home}/b/z.html", "html"),
        (f"{home}/e.txt.gz", "text"),
    ]


def test_several_sources_keep_the_order_they_are_given_in(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    files = [tmp_path / "b.txt", str(tmp_path / "a.txt")]
    assert [file.name for file in list_files(files)] == ["b.txt", "a.txt"]


def test_sources_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list_files(tmp_path / "none")
    with pytest.raises(ValueError, match="hold no files"):
        list_files(tmp_path)
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(ValueError, match=r"ends in none of \.txt"):
        list_files(tmp_path / "a.pdf")
    for folder in ("x/in", "y/in"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"two files called 'in/a\.txt'"):
        list_files([tmp_path / "x/in", tmp_path / "y/in"])


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_file_name_that_is_no_utf8_can_be_written_down(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "wb") as file:
        file.write(b"text")
    (source,) = collect(tmp_path)
    assert source.id == f"{tmp_path.name}/caf\\udce9.txt"
    source.id.encode()


# --- documents of a file ---------------------------------------------------


def test_every_kind_gives_its_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}\n\n{"text": "y"}')
    with gzip.open(tmp_path / "c.jsonl.gz", "wb") as file:
        file.write(b'{"text": "z"}\n')
    with gzip.open(tmp_path / "d.txt.gz", "wb") as file:
        file.write(b"packed")
    home = tmp_path.name
    assert ids(collect(tmp_path)) == [
        (f"{home}/a.txt", "text", b"one\ntwo\n"),
        (f"{home}/b.jsonl:1", "json", b'{"text": "x"}\n'),
        (f"{home}/b.jsonl:3", "json", b'{"text": "y"}'),
        (f"{home}/c.jsonl.gz:1", "json", b'{"text": "z"}\n'),
        (f"{home}/d.txt.gz", "text", b"packed"),
    ]


def test_a_line_of_ten_megabytes_is_one_document(tmp_path):
    text = "kite " * 2_000_000
    line = json.dumps({"text": text})
    (tmp_path / "a.jsonl").write_text(f"{line}\n" + '{"text": "next"}\n')
    first, second = collect(tmp_path)
    assert extract(first) == text and extract(second) == "next"


def test_what_is_larger_than_the_limit_is_reported_and_passed_over(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(collect_module, "LARGEST", 100)
    monkeypatch.setattr(collect_module, "_BLOCK", 64)
    for size in (100, 101, 163, 164, 165, 500):
        line = b"x" * (size - 1) + b"\n"
        (tmp_path / "a.jsonl").write_bytes(line + b'{"text": "next"}\n')
        first, second = collect(tmp_path)
        assert extract(second) == "next" and second.id.endswith(":2")
        assert bool(first.problem) == (size > 100)
    (tmp_path / "b.txt").write_bytes(b"y" * 101)
    *_, last = collect(tmp_path)
    assert extract(last) == Rejected("unreadable", "larger than 100 bytes")


@pytest.mark.parametrize("cut", [5, 40, -6, -1])
def test_a_gzip_file_cut_short_is_reported_after_what_it_still_gave(
    tmp_path, cut
):
    lines = "".join(json.dumps({"text": str(i)}) + "\n" for i in range(2000))
    data = gzip.compress(lines.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[:cut])
    *good, last = collect(tmp_path)
    assert "the gzip file is damaged" in last.problem
    texts = [extract(source) for source in good]
    assert texts == [str(i) for i in range(len(good))]
    assert extract(last).rule == "unreadable"


@pytest.mark.parametrize("data", [b"no gzip", b"\x1f\x8b\x08" + b"\xff" * 30])
def test_what_is_no_gzip_is_reported(tmp_path, data):
    (tmp_path / "a.txt.gz").write_bytes(data)
    (source,) = collect(tmp_path)
    assert "damaged" in source.problem


# --- the text of a document ------------------------------------------------


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{broken", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 10_000, "not JSON"),
        ('{"a": 1}', "no text in a field called 'text'"),
        ('{"text": null}', "no text in a field"),
        ('{"text": ["x"]}', "no text in a field"),
        ('["text"]', "no text in a field"),
        ('"text"', "no text in a field"),
        ("NaN", "no text in a field"),
    ],
    ids=lambda value: value[:12],
)
def test_a_broken_line_is_rejected_and_not_fatal(line, reason):
    found = extract(Source("a:1", "json", line.encode()))
    assert found.rule == "unreadable" and reason in found.detail


def test_a_line_may_keep_its_text_under_another_name():
    source = Source("a:1", "json", b'{"text": "no", "content": "yes"}')
    assert extract(source, field="content") == "yes"


def test_broken_bytes_are_rejected_with_their_offset_and_not_guessed():
    latin = "Der Müller fährt über die Brücke zurück. ".encode("latin-1") * 9
    for kind in ("text", "html", "json"):
        found = extract(Source("a", kind, latin))
        assert found.rule == "encoding"
        assert "byte 0xfc at offset 5" in found.detail


def test_an_encoding_that_is_given_or_guessed_is_used():
    latin = "Der Müller fährt über die Brücke zurück. ".encode("latin-1") * 9
    source = Source("a", "text", latin)
    text = extract(source, encoding=guess_encoding(latin))
    assert text == extract(source, encoding="latin-1") == latin.decode("l1")
    assert guess_encoding(bytes(range(128, 256)) * 3) != "utf_8"


def test_a_byte_order_mark_is_taken_off():
    assert decode(b"\xef\xbb\xbfkite") == "kite"


@pytest.mark.parametrize(
    "head, encoding",
    [
        (b'<meta charset="utf-8">', "utf-8"),
        (b"<META CHARSET=ISO-8859-1>", "iso8859-1"),
        (b'<meta http-equiv="Content-Type" content="text/html; '
         b'charset=windows-1252">', "cp1252"),
        (b'<meta charset="no-such-thing">', "utf-8"),
        (b'<meta charset="hex">', "utf-8"),
        (b"<title>charset=latin-1</title>", "utf-8"),
        (b" " * 1024 + b'<meta charset="latin-1">', "utf-8"),
        (b"", "utf-8"),
    ],
)  # fmt: skip
def test_a_page_is_read_in_the_encoding_it_declares(head, encoding):
    assert declared_encoding(head) == encoding


def test_a_page_gives_its_text_without_what_stands_around_it():
    pytest.importorskip("resiliparse", reason="needs the extra data")
    text = main_text(PAGE.format(text=TEXT.replace("&", "&amp;")))
    assert "Tam found it on the hill" in text and "river & Tam" in text
    for other in ("Home", "cookies", "Related", "rights", "alert", "<p>"):
        assert other not in text


@pytest.mark.parametrize(
    "page",
    [
        "<p>" * 200_000,
        "<div>" * 512 + "kite",
        "<div>" * 50_000 + "kite",
        "<b>" * 50_000 + "kite",
        "<ul><li>" * 20_000,
        "<table><tr><td>" * 30_000,
        "<" * 500_000,
        "<a " * 200_000,
        "<a/" * 200_000 + ">",
        "&amp" * 200_000,
        "</div>" * 100_000,
        "<path d='M 0 0' />" * 50_000,
        "\x00<p>a",
        "<p>\ud800</p>",
    ],
    ids=lambda page: ascii(page[:8]),
)  # fmt: skip
@pytest.mark.timeout(60)
def test_a_page_gone_wrong_gives_text_or_is_rejected(page):
    pytest.importorskip("resiliparse", reason="needs the extra data")
    data = page.encode("utf-8", "surrogatepass")
    assert isinstance(extract(Source("a", "html", data)), (str, Rejected))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "resiliparse", None)
    monkeypatch.setitem(sys.modules, "resiliparse.extract.html2text", None)
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    with pytest.raises(ImportError, match=r"resiliparse.*llmbook\[data\]"):
        extract(Source("a", "html", b"<p>kite"))
    with pytest.raises(ImportError, match=r"charset-normalizer"):
        guess_encoding(b"\xff")
