"""Downloads from a server of our own that misbehaves in every known way."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmbook import downloads

CONTENT = bytes(range(256)) * 40
OTHER = bytes(reversed(range(256))) * 41
CUT = 3_000


class Server:
    """One file on this machine's loopback, with a choice of manners."""

    def __init__(self):
        self.content, self.type = CONTENT, "application/octet-stream"
        self.edition, self.modified = "etag", "Sat, 01 Nov 2025 10:00:00 GMT"
        self.cut = self.shift = None
        self.ranges, self.status, self.announces = True, 200, True
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.bin"
        self.thread = threading.Thread(
            target=self.http.serve_forever, args=(0.01,)
        )
        self.thread.start()

    def editions(self):
        tag = f'"{hashlib.md5(self.content).hexdigest()}"'
        return {
            "etag": {"ETag": tag, "Last-Modified": self.modified},
            "weak": {"ETag": "W/" + tag, "Last-Modified": self.modified},
            "date": {"Last-Modified": self.modified},
            "none": {},
        }[self.edition]

    def answer(self, request):
        wanted, edition = request.headers["Range"], request.headers["If-Range"]
        self.asked.append((wanted, edition))
        if self.status != 200:
            return request.send_error(self.status)
        start, known = 0, self.editions().values()
        if wanted and self.ranges and (edition is None or edition in known):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(self.content):
                return request.send_error(416)
        data = self.content[start:]
        request.send_response(206 if start else 200)
        if start:
            first = start + (self.shift or 0)
            last = len(self.content) - 1
            request.send_header(
                "Content-Range", f"bytes {first}-{last}/{last + 1}"
            )
        request.send_header("Content-Type", self.type)
        for name, value in self.editions().items():
            request.send_header(name, value)
        if self.announces:
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        cut, self.cut = self.cut, None
        request.wfile.write(data[:cut])

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


def fetch(server, sha256=None, **how):
    return downloads.fetch(
        server.url, "set/file.bin", sha256, progress=False, **how
    )


def break_off(server):
    """A first try of which only CUT bytes come."""
    server.cut = CUT
    with pytest.raises(ConnectionError, match="what has come is kept"):
        fetch(server)


def test_a_file_is_downloaded_once_and_needs_no_connection_after(
    server, tmp_path
):
    path = fetch(server)
    assert path == tmp_path / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    server.status = 500
    assert fetch(server) == path
    assert server.asked == [(None, None)]


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum")
def test_the_record_is_one_that_sha256sum_can_check(server):
    path = fetch(server)
    done = subprocess.run(
        ["sha256sum", "-c", "file.bin.sha256"],
        cwd=path.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("edition", ["etag", "date"])
def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, edition):
    server.edition = edition
    break_off(server)
    assert fetch(server).read_bytes() == CONTENT
    (_, _), (wanted, condition) = server.asked
    assert wanted == f"bytes={CUT}-"
    assert condition == next(iter(server.editions().values()))


@pytest.mark.parametrize("edition", ["weak", "none"])
def test_what_cannot_be_told_from_another_edition_is_not_resumed(
    server, edition
):
    server.edition = edition
    break_off(server)
    assert fetch(server).read_bytes() == CONTENT
    assert server.asked == [(None, None), (None, None)]


def test_a_part_of_a_file_that_has_changed_starts_anew(server):
    break_off(server)
    server.content = OTHER
    assert fetch(server).read_bytes() == OTHER


def test_a_changed_file_that_breaks_off_too_is_resumed_as_itself(server):
    break_off(server)
    server.content = OTHER
    break_off(server)
    assert fetch(server).read_bytes() == OTHER
    assert [wanted for wanted, _ in server.asked] == [
        None,
        f"bytes={CUT}-",
        f"bytes={CUT}-",
    ]


def test_a_server_that_ignores_ranges_sends_everything_again(server):
    server.ranges = False
    break_off(server)
    assert fetch(server).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_taken_from_the_start(
    server, tmp_path
):
    break_off(server)
    (tmp_path / "set" / "file.bin.part").write_bytes(CONTENT)
    assert fetch(server).read_bytes() == CONTENT
    assert [wanted for wanted, _ in server.asked] == [
        None,
        f"bytes={len(CONTENT)}-",
        None,
    ]


def test_another_range_than_the_one_asked_for_is_refused(server):
    break_off(server)
    server.shift = 7
    with pytest.raises(ConnectionError, match=f"from {CUT} on and sent"):
        fetch(server)
    server.shift = 0
    assert fetch(server).read_bytes() == CONTENT


def test_a_file_of_unannounced_length_is_accepted(server):
    server.announces = False
    assert fetch(server).read_bytes() == CONTENT


def test_a_known_checksum_is_held(server):
    right = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(server, right.upper()).read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_thrown_away(server, tmp_path):
    wrong = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(ValueError, match="did not come as it was published"):
        fetch(server, wrong)
    assert not list(tmp_path.glob("set/file.bin"))
    assert not list(tmp_path.glob("set/*.part"))
    server.content = OTHER
    assert fetch(server, wrong).read_bytes() == OTHER


@pytest.mark.parametrize("known", [True, False])
def test_a_file_changed_on_disk_is_noticed(server, known):
    sha256 = hashlib.sha256(CONTENT).hexdigest() if known else None
    path = fetch(server, sha256)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ValueError, match="has changed since its download"):
        fetch(server, sha256)
    path.unlink()  # the mend that the message names
    assert fetch(server, sha256).read_bytes() == CONTENT


def test_a_new_edition_is_accepted_only_by_choice(server):
    path = fetch(server)
    path.unlink()
    server.content = OTHER
    with pytest.raises(ValueError, match=r"Delete file\.bin\.sha256"):
        fetch(server)
    path.with_name("file.bin.sha256").unlink()
    assert fetch(server).read_bytes() == OTHER


@pytest.mark.parametrize(
    "page", [b"\n<!DOCTYPE html><p>Sign in", b"<HTML><body>Not found"]
)
def test_a_web_page_in_place_of_the_file_is_refused(server, tmp_path, page):
    server.content = page
    with pytest.raises(ValueError, match="web page and not with a file"):
        fetch(server)
    assert not [p for p in tmp_path.glob("set/*") if p.suffix != ".lock"]
    server.content = CONTENT
    assert fetch(server).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_of_the_server_says_what_to_do(server, status):
    server.status = status
    with pytest.raises(ConnectionError, match=f"{status}.*Or take a boat"):
        fetch(server, mend="Or take a boat.")


def test_no_server_at_all_says_what_to_do(server):
    with pytest.raises(ConnectionError, match="Or take a boat"):
        downloads.fetch("http://127.0.0.1:9/x", "x", mend="Or take a boat.")


def test_a_refused_file_is_not_kept(server, tmp_path):
    def refuse(path):
        raise ValueError(f"{path.read_bytes()[:3]!r} is no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        fetch(server, check=refuse)
    assert not [p for p in tmp_path.glob("set/*") if p.suffix != ".lock"]


def test_a_full_disk_is_not_called_a_broken_connection(server, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "_copy", full)
    with pytest.raises(OSError, match="Make room, or set LLMBOOK_CACHE") as e:
        fetch(server)
    assert not isinstance(e.value, ConnectionError)


def test_a_cache_that_is_no_folder_is_named(server, tmp_path):
    (tmp_path / "set").write_text("a file")
    with pytest.raises(OSError, match="set LLMBOOK_CACHE to a folder"):
        fetch(server)


def fetch_in_a_process(url, queue):
    queue.put(downloads.fetch(url, "both.bin", progress=False).stat().st_size)


def test_two_processes_take_turns(server):
    server.content = CONTENT * 200
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    both = [
        spawn.Process(target=fetch_in_a_process, args=(server.url, queue))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    sizes = [queue.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert sizes == [len(server.content)] * 2
    assert server.asked == [(None, None)]


def test_without_a_variable_the_users_own_cache_is_used(monkeypatch):
    import platformdirs

    monkeypatch.delenv(downloads.CACHE_VARIABLE, raising=False)
    expected = platformdirs.user_cache_path("llmbook")
    assert downloads.cache_folder() == expected
