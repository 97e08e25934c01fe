"""Downloads from a server on this machine: resuming, checking, and leaving nothing half-done."""

import errno
import gzip
import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minidl.files.download import download

CONTENT = bytes(range(256)) * 4000  # about 1 MB: several blocks
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stopped = threading.Event()
        self.ranges: list[str | None] = []  # the Range header of each request, in order
        self.base = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        pass  # the client hung up on purpose


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        getattr(self, "serve_" + self.path.strip("/"))(start)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def serve_good(self, start: int) -> None:
        span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        self.send(206 if start else 200, CONTENT[start:], Content_Range=span)

    def serve_no_ranges(self, start: int) -> None:
        self.send(200, CONTENT)

    def serve_wrong_range(self, start: int) -> None:
        span = f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"
        self.send(206, CONTENT, Content_Range=span)

    def serve_another_range(self, start: int) -> None:
        self.send(206, CONTENT[7:], Content_Range=f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}")

    def serve_short_range(self, start: int) -> None:
        end = start + 5000 if start else len(CONTENT)
        span = f"bytes {start}-{end - 1}/{len(CONTENT)}"
        self.send(206, CONTENT[start:end], Content_Range=span)

    def serve_unknown_length(self, start: int) -> None:
        self.send(206, CONTENT[start:], Content_Range=f"bytes {start}-{len(CONTENT) - 1}/*")

    def serve_no_rest(self, start: int) -> None:
        self.send(416 if start else 200, b"" if start else CONTENT)

    def serve_truncated(self, start: int) -> None:
        self.send(200, CONTENT[:300_000], Content_Length=str(len(CONTENT)))

    def serve_damaged(self, start: int) -> None:
        self.send(200, b"x" + CONTENT[1:])

    def serve_page(self, start: int) -> None:
        self.send(200, b"<html>Please log in</html>")

    def serve_endless(self, start: int) -> None:
        self.send_response(200)
        self.end_headers()  # no Content-Length: the connection's end is the file's end
        self.wfile.write(CONTENT + b"more")

    def serve_to_file(self, start: int) -> None:
        self.send(302, b"", Location="http://example.com/file")

    def serve_missing(self, start: int) -> None:
        self.send(404, b"")

    def forever(self, piece: bytes, pause: float = 0.02) -> None:
        while not self.server.stopped.wait(pause):
            self.wfile.write(piece)

    def serve_drip(self, start: int) -> None:
        self.send_response(200)
        self.end_headers()
        self.forever(b"x")

    def serve_headers_that_never_end(self, start: int) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.forever(b"x")

    def serve_trailers_that_never_end(self, start: int) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        self.forever(b"X: x\r\n", 0.001)

    def serve_circle(self, start: int) -> None:
        self.send(302, b"", Location="/circle")

    def serve_gzip(self, start: int) -> None:
        self.send(200, gzip.compress(CONTENT), Content_Encoding="gzip")

    def serve_long_header(self, start: int) -> None:
        self.send(200, CONTENT, X="x" * 100_000)

    def serve_broken_chunks(self, start: int) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stopped.set()
        running.shutdown()
        thread.join()


def _get(server: _Server, destination: Path, *paths: str, **options: Any) -> Path:
    urls = [f"{server.base}/{path}" for path in paths]
    known = {"size": len(CONTENT), "md5": MD5, "progress": False, **options}
    return download(urls, destination, **known)


def _part(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")


def test_download_writes_the_file_and_leaves_no_part(server, tmp_path):
    destination = tmp_path / "new" / "folder" / "file.bin"
    assert _get(server, destination, "good") == destination
    assert destination.read_bytes() == CONTENT
    assert list(destination.parent.iterdir()) == [destination]


def test_download_shows_its_progress_on_stderr(server, tmp_path, capsys):
    _get(server, tmp_path / "file.bin", "good", progress=True)
    output = capsys.readouterr()
    assert "file.bin" in output.err
    assert output.out == ""


def test_download_does_not_fetch_a_complete_file_again(server, tmp_path):
    destination = tmp_path / "file.bin"
    destination.write_bytes(CONTENT)
    _get(server, destination, "good")
    assert server.ranges == []


def test_download_replaces_a_damaged_destination(server, tmp_path):
    destination = tmp_path / "file.bin"
    destination.write_bytes(CONTENT[:-1])
    _get(server, destination, "good")
    assert destination.read_bytes() == CONTENT


def test_download_resumes_from_the_part(server, tmp_path):
    destination = tmp_path / "file.bin"
    _part(destination).write_bytes(CONTENT[:1234])
    _get(server, destination, "good")
    assert server.ranges == ["bytes=1234-"]
    assert destination.read_bytes() == CONTENT


def test_download_starts_over_when_the_server_ignores_the_range(server, tmp_path):
    destination = tmp_path / "file.bin"
    _part(destination).write_bytes(CONTENT[:1234])
    _get(server, destination, "no_ranges")
    assert server.ranges == ["bytes=1234-"]
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["wrong_range", "short_range", "no_rest"])
def test_download_starts_over_at_a_mirror_that_cannot_send_the_rest(server, tmp_path, kind):
    """Otherwise the part would stay, and every later call would fail to get the same rest."""
    destination = tmp_path / "file.bin"
    _part(destination).write_bytes(CONTENT[:1234])
    _get(server, destination, kind)
    assert server.ranges == ["bytes=1234-", None]
    assert destination.read_bytes() == CONTENT


def test_download_keeps_the_part_if_the_mirror_sends_nothing_at_all(server, tmp_path):
    destination = tmp_path / "file.bin"
    _part(destination).write_bytes(CONTENT[:1234])
    with pytest.raises(OSError, match="asked for bytes 0 to 1023999, got 'bytes 7-"):
        _get(server, destination, "another_range")
    assert _part(destination).read_bytes() == CONTENT[:1234]


def test_download_resumes_though_the_mirror_does_not_say_how_long_the_file_is(server, tmp_path):
    destination = tmp_path / "file.bin"
    _part(destination).write_bytes(CONTENT[:1234])
    _get(server, destination, "unknown_length")
    assert server.ranges == ["bytes=1234-"]
    assert destination.read_bytes() == CONTENT


def test_download_uses_a_complete_part_without_asking(server, tmp_path):
    destination = tmp_path / "file.bin"
    _part(destination).write_bytes(CONTENT)
    _get(server, destination, "good")
    assert server.ranges == []
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize("rubbish", [b"x" * 1234, b"x" * len(CONTENT), b"x" * 2 * len(CONTENT)])
def test_download_recovers_from_a_part_of_another_file(server, tmp_path, rubbish):
    destination = tmp_path / "file.bin"
    _part(destination).write_bytes(rubbish)
    _get(server, destination, "good")
    assert destination.read_bytes() == CONTENT


def test_download_continues_a_truncated_answer_at_the_next_mirror(server, tmp_path):
    destination = tmp_path / "file.bin"
    _get(server, destination, "truncated", "good")
    assert server.ranges == [None, "bytes=300000-"]
    assert destination.read_bytes() == CONTENT


def test_download_keeps_the_part_of_a_truncated_answer(server, tmp_path):
    destination = tmp_path / "file.bin"
    with pytest.raises(OSError, match="connection ended after 300000 of 1024000 bytes"):
        _get(server, destination, "truncated")
    assert _part(destination).read_bytes() == CONTENT[:300_000]
    assert not destination.exists()


def test_download_names_both_sums_and_removes_the_part_when_the_md5_is_wrong(server, tmp_path):
    destination = tmp_path / "file.bin"
    found = hashlib.md5(b"x" + CONTENT[1:]).hexdigest()
    with pytest.raises(OSError, match=f"md5 {found}, expected {MD5}"):
        _get(server, destination, "damaged")
    assert list(tmp_path.iterdir()) == []


def test_download_removes_the_part_of_a_file_that_is_too_long(server, tmp_path):
    with pytest.raises(OSError, match="got 1024004 bytes, expected 1024000"):
        _get(server, tmp_path / "file.bin", "endless")
    assert list(tmp_path.iterdir()) == []


def test_download_goes_on_to_the_second_mirror_after_a_404(server, tmp_path):
    destination = _get(server, tmp_path / "file.bin", "missing", "good")
    assert destination.read_bytes() == CONTENT


def test_download_lists_each_mirror_with_its_reason_when_all_fail(server, tmp_path):
    with pytest.raises(OSError, match="none of 3 mirrors delivered the file") as caught:
        _get(server, tmp_path / "file.bin", "missing", "page", "damaged")
    message = str(caught.value)
    assert f"{server.base}/missing: HTTP Error 404" in message
    assert f"{server.base}/page: offers 26 bytes, expected 1024000: another file" in message
    assert f"{server.base}/damaged: got a file with md5" in message
    assert "call again (it resumes)" in message


def test_download_reports_a_server_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:1/file: .*refused"):
        download(["http://127.0.0.1:1/file"], tmp_path / "f", size=1, md5="0" * 32, progress=False)


@pytest.mark.parametrize("url", ["http://example.com/f", "file:///etc/passwd", "ftp://a/b"])
def test_download_refuses_what_is_not_https(tmp_path, url):
    with pytest.raises(ValueError, match=r"got the URL .* expected https"):
        download([url], tmp_path / "f", size=1, md5="0" * 32)


def test_download_refuses_a_redirect_to_plain_http(server, tmp_path):
    with pytest.raises(OSError, match=r"got the URL 'http://example\.com/file', expected https"):
        _get(server, tmp_path / "file.bin", "to_file")


def test_download_refuses_an_empty_list_of_mirrors(tmp_path):
    with pytest.raises(ValueError, match="got no URL, expected at least one mirror"):
        download([], tmp_path / "f", size=1, md5="0" * 32)


class _FailingBar:
    """A progress bar that fails at its second update, as writing or the user may."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.updates = 0

    def __call__(self, **_: Any) -> "_FailingBar":
        return self

    def __enter__(self) -> "_FailingBar":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def update(self, _: int) -> None:
        self.updates += 1
        if self.updates == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left.*is saved.*resumes"),
        (KeyboardInterrupt("stop"), "stop"),
    ],
)
def test_download_leaves_a_part_to_resume_when_interrupted(
    server, tmp_path, monkeypatch, error, message
):
    destination = tmp_path / "file.bin"
    monkeypatch.setattr("tqdm.tqdm", _FailingBar(error))
    with pytest.raises(type(error), match=message):
        _get(server, destination, "good", "good")
    assert len(server.ranges) == 1  # no other mirror would help
    assert not destination.exists()
    assert _part(destination).stat().st_size > 0
    monkeypatch.undo()
    _get(server, destination, "good")
    assert server.ranges[1].startswith("bytes=")
    assert destination.read_bytes() == CONTENT


# Several at once, links, and mirrors that never end --------------------------------------------


def _module() -> Any:
    return sys.modules[download.__module__]  # minidl.files.download names the function too


def test_threads_that_want_the_same_file_fetch_it_once(server, tmp_path):
    destination = tmp_path / "new" / "file.bin"
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: _get(server, destination, "good"), range(8)))
    assert found == [destination] * 8
    assert server.ranges == [None]
    assert destination.read_bytes() == CONTENT
    assert list(destination.parent.iterdir()) == [destination]


def test_processes_that_want_the_same_file_fetch_it_once(server, tmp_path):
    code = (
        "import sys; from minidl.files.download import download; "
        "download([sys.argv[1]], sys.argv[2], size=int(sys.argv[3]), md5=sys.argv[4])"
    )
    destination = tmp_path / "file.bin"
    arguments = [f"{server.base}/good", str(destination), str(len(CONTENT)), MD5]
    running = [
        subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert server.ranges == [None]
    assert list(tmp_path.iterdir()) == [destination]


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_download_does_not_write_through_a_link_in_place_of_the_part(server, tmp_path, link):
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"kept")
    destination = tmp_path / "file.bin"
    getattr(_part(destination), link)(foreign)
    _get(server, destination, "good")
    assert foreign.read_bytes() == b"kept"
    assert destination.read_bytes() == CONTENT


def test_download_refuses_a_folder_in_place_of_the_part(server, tmp_path):
    destination = tmp_path / "file.bin"
    _part(destination).mkdir()
    with pytest.raises(OSError, match=r"file\.bin\.part"):
        _get(server, destination, "good")


@pytest.mark.parametrize("kind", ["drip", "headers_that_never_end", "trailers_that_never_end"])
def test_download_goes_on_to_the_second_mirror_when_one_is_too_slow(
    server, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(_module(), "_WINDOW", 0.3)
    _get(server, tmp_path / "file.bin", kind, "good")
    with pytest.raises(OSError, match=r"sent \d+ bytes in 0 s, expected 1000 bytes per second"):
        _get(server, tmp_path / "other.bin", kind)
    server.stopped.set()


def test_download_is_not_held_by_redirects_in_a_circle(server, tmp_path):
    with pytest.raises(OSError, match="redirect"):
        _get(server, tmp_path / "file.bin", "circle")


@pytest.mark.parametrize("kind", ["gzip", "long_header", "broken_chunks"])
def test_download_gives_up_a_mirror_that_says_nonsense(server, tmp_path, kind):
    _get(server, tmp_path / "file.bin", kind, "good")
    with pytest.raises(OSError, match="none of 1 mirrors"):
        _get(server, tmp_path / "other.bin", kind)
