"""The six novels: from a folder, and from a server that misbehaves."""

from __future__ import annotations

import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmbook.corpus import gutenberg, load_corpus

START = "*** START OF THE PROJECT GUTENBERG EBOOK {} ***\n"
END = "\n*** END OF THE PROJECT GUTENBERG EBOOK {} ***\nLICENCE TEXT"
SIZE = 40_000


def ebook(novel, size=SIZE, title=None) -> bytes:
    title = title or novel.title
    chapter = "It was a {} day,\nand nobody said so.\n\n"
    own = f"This is {title}.\n\n"  # or all novels' chapters were the same
    body = [f"{title.upper()}\n\nby Jane Austen\n\n"]
    number = 0
    while sum(map(len, body)) < size - 5000:
        number += 1
        lines = "".join(chapter.format(f"{number}.{i}") for i in range(100))
        body.append(f"CHAPTER {number}\n\n{own}{lines}")
    text = START.format(title) + "[Illustration: a hat]\n" + "".join(body)
    return ("A licence comes first.\n" + text + END.format(title)).encode()


class Server:
    """A Project Gutenberg of our own, on this machine's loopback."""

    def __init__(self):
        self.files, self.cut, self.asked = {}, {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(
            target=self.http.serve_forever, args=(0.01,)
        )
        self.thread.start()

    def answer(self, request):
        number = int(re.search(r"(\d+)\.txt", request.path).group(1))
        wanted = request.headers.get("Range")
        self.asked.append((number, wanted))
        if number not in self.files:
            request.send_error(404)
            return
        data, start = self.files[number], 0
        tag = f'"{hash(data)}"'
        if wanted and request.headers["If-Range"] == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1))
        request.send_response(206 if start else 200)
        if start:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            request.send_header("Content-Range", span)
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        stop = self.cut.pop(number, len(data))
        request.wfile.write(data[start:stop])

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture()
def server(monkeypatch, tmp_path):
    server = Server()
    port = server.http.server_address[1]
    address = f"http://127.0.0.1:{port}/pg{{number}}.txt"
    small = tuple(
        gutenberg.Novel(n.file, n.number, n.title, SIZE)
        for n in gutenberg.NOVELS
    )
    server.files = {novel.number: ebook(novel) for novel in small}
    monkeypatch.setattr(gutenberg, "ADDRESS", address)
    monkeypatch.setattr(gutenberg, "NOVELS", small)
    monkeypatch.delenv("LLMBOOK_DATA", raising=False)
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


def test_the_novels_are_downloaded_once_and_cleaned(server, tmp_path):
    novels = gutenberg.load_novels()
    assert list(novels) == [novel.title for novel in gutenberg.NOVELS]
    for title, text in novels.items():
        assert title.upper() in text
        assert "LICENCE" not in text and "GUTENBERG" not in text
        assert "Illustration" not in text
        assert "It was a 1.0 day, and nobody said so." in text
    assert gutenberg.load_novels() == novels
    assert len(server.asked) == 6
    assert not list(tmp_path.glob("austen/*.part"))


def test_load_corpus_makes_chapters_documents(server):
    corpus = load_corpus("austen", validation_fraction=0.2)
    assert len(corpus.train) + len(corpus.validation) > 2 * 6
    assert not set(corpus.train_texts) & set(corpus.validation_texts)
    assert all("CHAPTER" not in text for text in corpus.train_texts)


def test_a_download_that_breaks_off_is_resumed(server, tmp_path):
    novel = gutenberg.NOVELS[3]
    server.cut[novel.number] = 10_000
    with pytest.raises(ConnectionError, match="what has come is kept"):
        gutenberg.fetch_novel(novel)
    assert (tmp_path / "austen" / "emma.txt.part").stat().st_size == 10_000
    path = gutenberg.fetch_novel(novel)
    assert path.read_bytes() == server.files[novel.number]
    assert server.asked == [(158, None), (158, "bytes=10000-")]


def test_another_text_under_that_number_is_refused(server, tmp_path):
    novel = gutenberg.NOVELS[3]
    server.files[novel.number] = ebook(novel, title="Moby Dick")
    with pytest.raises(ValueError, match="does not begin with 'Emma'"):
        gutenberg.fetch_novel(novel)
    left = {path.suffix for path in tmp_path.glob("austen/*")}
    assert left <= {".lock"}


@pytest.mark.parametrize("size", [20_000, 80_000])
def test_an_implausible_size_is_refused(server, size):
    novel = gutenberg.NOVELS[3]
    server.files[novel.number] = ebook(novel, size)
    with pytest.raises(ValueError, match="characters without the licence"):
        gutenberg.fetch_novel(novel)


def test_a_missing_ebook_and_no_connection_say_what_to_do(server, monkeypatch):
    novel = gutenberg.NOVELS[3]
    del server.files[novel.number]
    with pytest.raises(ConnectionError, match="404"):
        gutenberg.fetch_novel(novel)
    monkeypatch.setattr(gutenberg, "ADDRESS", "http://127.0.0.1:9/{number}")
    with pytest.raises(ConnectionError, match="LLMBOOK_DATA"):
        gutenberg.fetch_novel(novel)


def test_a_data_folder_is_used_before_any_download(
    server, tmp_path, monkeypatch
):
    folder = tmp_path / "austen"
    folder.mkdir()
    for novel in gutenberg.NOVELS:
        (folder / novel.file).write_bytes(server.files[novel.number])
    monkeypatch.setenv("LLMBOOK_DATA", str(tmp_path))
    assert len(gutenberg.load_novels()) == 6
    assert server.asked == []


def test_lines_of_a_table_of_contents_are_no_chapters():
    text = "EMMA\n\n" + "\n".join(f"CHAPTER {i}." for i in range(1, 4))
    text += "".join(f"\n\nCHAPTER {i}\n\n" + "word " * 200 for i in (1, 2))
    assert gutenberg.chapters(text) == [("word " * 200).strip()] * 2


@pytest.mark.data
def test_the_real_novels_give_two_hundred_and_sixty_nine_chapters():
    novels = gutenberg.load_novels()
    counts = {t: len(gutenberg.chapters(n)) for t, n in novels.items()}
    assert counts == {  # the numbers of the last headings
        "Sense and Sensibility": 50,
        "Pride and Prejudice": 61,
        "Mansfield Park": 48,
        "Emma": 55,  # 18 + 18 + 19
        "Northanger Abbey": 31,
        "Persuasion": 24,
    }
    opening = gutenberg.chapters(novels["Pride and Prejudice"])[0]
    assert opening.startswith("It is a truth universally acknowledged, that a")
    assert Path(os.environ["LLMBOOK_DATA"]).is_dir()
